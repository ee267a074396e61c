"""The user's own files: read exactly or refused with the place; nothing is executed, expanded or fetched."""

import io
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from decimal import Decimal

import jax
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.lib import format as npy
from pyarrow import parquet as pq

from expreg.api import plan
from expreg.data import make, tables
from expreg.data.files import FORMATS, data_shape, read_file, sha256
from expreg.errors import InputError

X = np.array([[1.0, 0.5, -2.0], [0.1, 1e-300, 3.25], [0.0, -0.0, 7.0], [1 / 3, 2e10, -5.5]])
Y = np.array([1.0, -1.0, 0.25, 1 / 7])


def write(path, X, y):
    """Write points, and labels where the format has them, in the format of the suffix."""
    frame = pd.DataFrame(X, columns=[f"x{j}" for j in range(X.shape[1])]).assign(y=y)
    writers = {
        ".npy": lambda: np.save(path, X),
        ".npz": lambda: np.savez_compressed(path, X=X, y=y),
        ".csv": lambda: path.write_text(frame.to_csv(index=False)),
        ".parquet": lambda: frame.to_parquet(path),
    }
    writers[path.suffix]()
    return path


def refusal(path, **options):
    """Return the error lines of reading a file, without the folder."""
    with pytest.raises(InputError) as caught:
        read_file({"path": path, **options})
    return [line.replace(f"{path.parent}{os.sep}", "") for line in caught.value.lines()]


def csv_file(tmp_path, text):
    path = tmp_path / "x.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def header_only(shape, descr="<f8"):
    stream = io.BytesIO()
    npy.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


# --- every format


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_gives_back_what_was_written(tmp_path, suffix):
    path = write(tmp_path / f"mine{suffix}", X, Y)
    found, labels = read_file({"path": path})
    np.testing.assert_array_equal(found, X)
    assert found.dtype == np.float64
    assert found.flags.c_contiguous
    assert data_shape(path) == (4, 3)
    if suffix == ".npy":
        assert labels is None
    else:
        np.testing.assert_array_equal(labels, Y)


@pytest.mark.parametrize("suffix", FORMATS)
def test_rows_are_normalised_on_request_and_zero_rows_left(tmp_path, suffix):
    path = write(tmp_path / f"mine{suffix}", np.vstack([X, np.zeros(3)]), np.append(Y, 0))
    found, _ = read_file({"path": path, "normalise": True})
    np.testing.assert_allclose(found[:4], X / np.linalg.norm(X, axis=1, keepdims=True), rtol=1e-15)
    assert not found[4].any()


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_that_changed_after_the_plan_is_refused(tmp_path, suffix):
    path = write(tmp_path / f"mine{suffix}", X, Y)
    planned = sha256(path)
    read_file({"path": path, "sha256": planned})
    write(path, 2 * X, Y)
    assert sha256(path) != planned
    np.testing.assert_array_equal(read_file({"path": path})[0], 2 * X)
    other = write(tmp_path / f"other{suffix}", 3 * X, Y)
    assert "data.sha256: the file has changed" in refusal(other, sha256=planned)[0]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    "content", [b"", b"\0", b"garbage\xff\n", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x03\x00", b"PK\x03\x04", b"PAR1PAR1"]
)
def test_rubbish_is_refused_by_every_reader(tmp_path, suffix, content):
    path = tmp_path / f"mine{suffix}"
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_damage_and_truncation_are_read_or_refused_but_never_a_crash(tmp_path, suffix):
    path, rng = write(tmp_path / f"mine{suffix}", X, Y), np.random.default_rng(0)
    whole, refused = path.read_bytes(), 0
    for step in range(200):
        damaged = bytearray(whole)
        if step < 60:
            del damaged[step * (len(whole) - 1) // 60 :]
        for place in rng.integers(len(whole), size=0 if step < 60 else rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            found, _ = read_file({"path": path})
        except InputError:
            refused += 1
        else:  # a shorter table is a table
            assert step >= 60 or (suffix == ".csv" and len(found) <= 4)
    assert refused > 10


# --- places


@pytest.mark.parametrize(
    "path", ["file:///etc/passwd", "http://example.org/x.npz", "s3://bucket/x.npy", "file:x.npy", "a\0.npy"]
)
def test_addresses_are_refused(path):
    with pytest.raises(InputError, match=r"data.path: .* must be a local file"):
        data_shape(path)


def test_only_regular_files_of_a_known_kind_and_size_are_opened(tmp_path):
    (tmp_path / "folder.npy").mkdir()
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "x.pkl").write_bytes(b"")
    with (tmp_path / "large.npy").open("wb") as file:
        file.truncate(2**31)  # sparse: no disk is used
    for name, message in {
        "folder.npy": "data.path: 'folder.npy' is not a regular file",
        "pipe.npy": "data.path: 'pipe.npy' is not a regular file",
        "absent.npy": "No such file",
        "x.pkl": "got a .pkl file, expected one of .npy .npz .csv .parquet",
        "large.npy": "[E-SIZE] large.npy: data.path: 2048 MiB, expected at most 1024 MiB",
    }.items():
        assert message in refusal(tmp_path / name)[0]


def test_reading_shapes_does_not_import_jax():
    code = "import sys; from expreg.data import data_shape, validate, sha256; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- arrays


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_objects_are_not_read_and_not_run(tmp_path):
    canary, objects = tmp_path / "canary", np.array([[Canary(tmp_path / "canary")]], dtype=object)
    np.save(tmp_path / "x.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "x.npz", X=objects)
    (tmp_path / "y.npy").write_bytes(pickle.dumps(objects))
    for name in ("x.npy", "x.npz", "y.npy"):
        assert refusal(tmp_path / name)[0].startswith(f"error[E-DATA] {name}: X")
    assert not canary.exists()


@pytest.mark.parametrize("dtype", [">f8", "<f4", ">f2", "i1", "u2", ">i8", "u8", "?", "longdouble"])
def test_other_real_types_are_converted_when_exact(tmp_path, dtype):
    values = np.array([[0, 1], [0, 0]]).astype(dtype)  # no symmetric one: its order shows
    for layout in ("C", "F"):
        np.savez(tmp_path / f"{layout}.npz", X=np.asarray(values, order=layout), y=np.array([True, False]))
        found, labels = read_file({"path": tmp_path / f"{layout}.npz"})
        assert found.dtype == labels.dtype == np.float64
        np.testing.assert_array_equal(found, [[0, 1], [0, 0]])
        np.testing.assert_array_equal(labels, [1, 0])


@pytest.mark.parametrize(
    ("array", "place"),
    [
        (np.array([[1j]]), "X"),
        (np.array([["a"]]), "X"),
        (np.zeros((2, 2), dtype=[("a", "f8")]), "X"),
        (np.zeros((1, 1), dtype="M8[s]"), "X"),
        (np.array([[1, 2], [3, 2**53 + 1]]), "X[1,1]"),
        (np.array([[-(2**62)]]), "X[0,0]"),
    ],
)
def test_other_types_are_refused(tmp_path, array, place):
    np.save(tmp_path / "x.npy", array)
    assert refusal(tmp_path / "x.npy")[0].startswith(f"error[E-DTYPE] x.npy: {place}: got ")


@pytest.mark.parametrize(
    ("shape", "code"),
    [((10**6, 10**6), "E-SIZE"), ((2**62, 2**62), "E-SIZE"), ((-1, 3), "E-SIZE"), ((5, 5), "E-DATA")],
)
def test_a_header_that_lies_takes_no_memory(tmp_path, shape, code):
    (tmp_path / "x.npy").write_bytes(header_only(shape) + b"\0" * 16)
    assert f"[{code}]" in refusal(tmp_path / "x.npy")[0]
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("X.npy", header_only(shape) + b"\0" * 16)
    assert f"[{code}]" in refusal(tmp_path / "x.npz")[0]


@pytest.mark.parametrize("shape", [(10**39, 0), (0, 10**39), (1,) * 70, (2**40, 0, 3)])
def test_shapes_that_numpy_cannot_hold_are_refused(tmp_path, shape):
    (tmp_path / "x.npy").write_bytes(header_only(shape))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("X.npy", header_only(shape))
    for name in ("x.npy", "x.npz"):
        assert refusal(tmp_path / name)[0].startswith(("error[E-SIZE]", "error[E-SHAPE]"))


def test_an_archive_of_constant_columns_is_read_however_far_it_expands(tmp_path):
    hot = np.zeros((6000, 400))
    hot[np.arange(6000), np.arange(6000) % 7] = 1
    np.savez_compressed(tmp_path / "x.npz", X=hot)
    assert hot.nbytes > 400 * (tmp_path / "x.npz").stat().st_size
    np.testing.assert_array_equal(read_file({"path": tmp_path / "x.npz"})[0], hot)


def test_an_archive_whose_directory_lies_about_a_size_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", X=X)
    content = bytearray((tmp_path / "x.npz").read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    for size in (0, 100, 200, 250, 2**20):  # in truth 224
        content[entry + 24 : entry + 28] = struct.pack("<I", size)  # uncompressed, in the central directory
        (tmp_path / "x.npz").write_bytes(content)
        assert "error[E-DATA] x.npz" in refusal(tmp_path / "x.npz")[0]


def test_names_in_an_archive(tmp_path):
    np.savez(tmp_path / "x.npz", x=X, labels=Y)
    assert refusal(tmp_path / "x.npz") == ["error[E-DATA] x.npz: no array X; the file holds labels.npy, x.npy"]
    np.savez(tmp_path / "only.npz", X=X)
    assert read_file({"path": tmp_path / "only.npz"})[1] is None


def test_points_have_two_dimensions(tmp_path):
    np.save(tmp_path / "x.npy", Y)
    assert "E-SHAPE] x.npy: X: got shape (4,), expected (points, dimensions)" in refusal(tmp_path / "x.npy")[0]


# --- tables


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_columns_are_chosen_by_name_in_the_order_asked_for(tmp_path, suffix):
    path = write(tmp_path / f"mine{suffix}", X, Y)
    options = {"features": ["x2", "y", "x0"], "target": "x1"}
    found, labels = read_file({"path": path, **options})
    np.testing.assert_array_equal(found, np.c_[X[:, 2], Y, X[:, 0]])
    np.testing.assert_array_equal(labels, X[:, 1])
    assert data_shape(path, options) == (4, 3)
    assert data_shape(path, {"features": ["x0"]}) == (4, 1)
    np.testing.assert_array_equal(read_file({"path": path, "features": ["x0"]})[1], Y)  # y is the default target


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"target": "why"}, "E-UNKNOWN] mine{}: data.target: no column 'why'"),
        ({"features": ["x0", "x11"]}, "E-UNKNOWN] mine{}: data.features: no column 'x11'; did you mean x1?"),
        ({"features": ["x0", "y"]}, "E-DUP] mine{}: data.features: 'y'"),
    ],
)
def test_columns_that_cannot_be_chosen(tmp_path, suffix, options, place):
    (line,) = refusal(write(tmp_path / f"mine{suffix}", X, Y), **options)
    assert line.startswith(f"error[{place.format(suffix)}")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_columns_not_asked_for_may_hold_anything(tmp_path, suffix):
    path = tmp_path / f"mine{suffix}"
    frame = pd.DataFrame({"name": ["a", "b"], "x0": [1, 2], "x1": [3.0, 4.0]})
    path.write_text(frame.to_csv(index=False)) if suffix == ".csv" else frame.to_parquet(path)
    found, labels = read_file({"path": path, "features": ["x0", "x1"]})
    np.testing.assert_array_equal(found, [[1, 3], [2, 4]])
    assert labels is None
    assert len(refusal(path)) >= 1


def test_rows_with_a_wrong_number_of_columns_are_all_named_with_their_lines(tmp_path):
    found = refusal(csv_file(tmp_path, "a,b,y\n1,2,3\n1,2\n\n1,2,3,4\n5,6,7\n"))
    assert [line[: line.rindex(": ")] for line in found] == ["error[E-DATA] x.csv:3", "error[E-DATA] x.csv:5"]


@pytest.mark.parametrize("text", ["", " ", "abc", "1_000", "0x10", "1,5", "--1", "١", "1e", "None", "1 2"])
def test_text_that_is_not_plainly_a_number_is_refused(tmp_path, text):
    (line,) = refusal(csv_file(tmp_path, f'a,y\n1,2\n"{text}",2\n'))
    assert line.startswith("error[E-DATA] x.csv:3: column a: got '")


def test_numbers_in_any_plain_form_are_read(tmp_path):
    path = csv_file(tmp_path, '\ufeff a , y\r\n1e-3, +2 \r\n"-.5",nan\r\n\r\n7.,inf')
    found, labels = read_file({"path": path})
    np.testing.assert_array_equal(found[:, 0], [1e-3, -0.5, 7])
    np.testing.assert_array_equal(labels, [2, np.nan, np.inf])


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"a,y\n1,\xff\n", "E-UTF8] x.csv:2: byte 0xff at offset 6"),
        (b"", "E-EMPTY] x.csv: "),
        (b"a,a,y\n1,2,3\n", "E-DUP] x.csv: column 'a'"),
        (b'a,y\n1,"2\n', "E-DATA] x.csv:2: "),
        (b"y\n1\n", "E-EMPTY] x.csv: data.features: "),
        (b"a,b,y\n", "E-SHAPE] x.csv: X: got shape (0, 2)"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, content, place):
    (line,) = refusal(csv_file(tmp_path, content))
    assert line.startswith(f"error[{place}")


@pytest.mark.parametrize(
    ("column", "code"),
    [
        (pd.array([1.0, None], dtype="Float64"), "E-DATA"),
        (["1", "2"], "E-DTYPE"),
        ([2**53 + 1, 0], "E-DTYPE"),
        ([[1.0], [2.0]], "E-DTYPE"),
    ],
)
def test_parquet_columns_that_are_not_exactly_real(tmp_path, column, code):
    pd.DataFrame({"a": column, "y": [0.0, 1.0]}).to_parquet(tmp_path / "x.parquet")
    assert refusal(tmp_path / "x.parquet")[0].startswith(f"error[{code}] x.parquet: column a: ")


def test_parquet_types_are_converted_when_exact(tmp_path):
    columns = {"a": np.array([1, 2], "i1"), "b": np.array([0.5, 2], "f2"), "c": [True, False], "y": [2**53, 0]}
    pd.DataFrame(columns).to_parquet(tmp_path / "x.parquet")
    found, labels = read_file({"path": tmp_path / "x.parquet"})
    np.testing.assert_array_equal(found, [[1, 0.5, 1], [2, 2, 0]])
    np.testing.assert_array_equal(labels, [2.0**53, 0])


def test_decimals_are_read_as_those_of_a_text(tmp_path):
    written = ["0.1", "-123456789012345.678901", "9007199254740993.000000", "1.000001"]
    values = [Decimal(text) for text in written]
    pq.write_table(pa.table({"a": pa.array(values, pa.decimal128(30, 6)), "y": [1.0] * 4}), tmp_path / "x.parquet")
    np.testing.assert_array_equal(read_file({"path": tmp_path / "x.parquet"})[0][:, 0], [float(v) for v in written])
    whole = pa.array([Decimal(1), Decimal(2**53 + 1)], pa.decimal128(38, 0))
    pq.write_table(pa.table({"a": whole}), tmp_path / "x.parquet")
    assert f"column a: row 2: got {2**53 + 1} of decimal128" in refusal(tmp_path / "x.parquet")[0]


def test_a_value_that_parquet_lacks_or_rounds_is_named_with_its_row(tmp_path):
    column = pa.chunked_array([pa.array(range(70_000)), pa.array([1, None])])
    pq.write_table(pa.table({"a": column}), tmp_path / "x.parquet")
    assert "x.parquet: column a: row 70002: got no value, expected a number" in refusal(tmp_path / "x.parquet")[0]
    pq.write_table(pa.table({"a": pa.chunked_array([column.chunk(0), pa.array([-(2**60)])])}), tmp_path / "x.parquet")
    assert f"column a: row 70001: got {-(2**60)} of int64" in refusal(tmp_path / "x.parquet")[0]


def test_nothing_of_a_table_is_expanded_before_it_is_refused(tmp_path, monkeypatch):
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10**5, "i4")), ["x" * 10**4])
    table = pa.table({"a": text, "b": text, "y": np.zeros(10**5)})
    pq.write_table(table, tmp_path / "x.parquet", store_schema=False)
    assert (tmp_path / "x.parquet").stat().st_size < 10**5  # and 2 GB in memory
    before = pa.default_memory_pool().bytes_allocated()
    pa.default_memory_pool().release_unused()
    found = refusal(tmp_path / "x.parquet")
    assert [line.split("parquet: ")[1] for line in found] == [
        f"column {name}: got string, expected real" for name in "ab"
    ]
    assert pa.default_memory_pool().bytes_allocated() <= before + 10**7
    monkeypatch.setattr(tables, "MAX_BYTES", 10**5)
    assert (
        "E-SIZE] x.parquet: 100000 rows of 1 columns"
        in refusal(tmp_path / "x.parquet", features=["y"], target=False)[0]
    )


# --- columns that are no features


FRAME = pd.DataFrame({"a": [3.0, 1.0], "y": [1.0, 2.0]}, index=[7, 5])


@pytest.mark.parametrize(
    ("frame", "name", "expected"),
    [
        (
            FRAME,
            "x.csv",
            "x.csv: column 1 has no name, as numbers of rows have none; leave it out (pandas: index=False)",
        ),
        (FRAME, "x.parquet", "x.parquet: column 3 is '__index_level_0__', numbers of rows; leave it out"),
        (FRAME.rename_axis("row"), "x.parquet", "x.parquet: column 3 is 'row', numbers of rows; leave it out"),
        (FRAME.reset_index(names="Unnamed: 0"), "x.csv", "column 2 is 'Unnamed: 0', numbers of rows"),
    ],
)
def test_an_index_is_no_feature_unless_asked_for(tmp_path, frame, name, expected):
    path = tmp_path / name
    path.write_text(frame.to_csv()) if name == "x.csv" else frame.to_parquet(path)
    lines = refusal(path)
    assert any(expected in line for line in lines)
    assert all("or list the columns in data.features" in line for line in lines)
    np.testing.assert_array_equal(read_file({"path": path, "features": ["a"]})[0], [[3], [1]])
    if name == "x.parquet":
        own = read_file({"path": path, "features": [expected.split("'")[1]]})
        np.testing.assert_array_equal(own[0], [[7], [5]])


def test_a_row_of_numbers_is_no_header_unless_columns_are_asked_for_by_it(tmp_path):
    path = csv_file(tmp_path, "1,2\n3,4\n")
    assert "x.csv:1: the first row is all numbers" in refusal(path)[0]
    found, labels = read_file({"path": path, "features": ["2"], "target": "1"})
    assert (found.item(), labels.item()) == (4, 3)


def test_many_bad_lines_and_columns_are_counted_in_time(tmp_path):
    began = time.process_time()
    path = csv_file(tmp_path, "a,y\n" + "x,1\n" * 30_000)
    with pytest.raises(InputError) as caught:
        read_file({"path": path})
    assert caught.value.lines()[0].endswith("x.csv:2: column a: got 'x', expected a number")
    assert caught.value.lines()[-1] == "29980 more"
    path = csv_file(tmp_path, ",".join(f"c{k}" for k in range(20_000)) + "\n" + ",".join("1" * 20_000) + "\n")
    assert data_shape(path) == (1, 20_000)
    assert time.process_time() - began < 3


def test_drawn_rows_are_rows_of_the_file_with_their_labels_each_once(tmp_path):
    X, y = np.eye(30) + 0.01, np.arange(30.0) / 30
    np.savez(tmp_path / "x.npz", X=X, y=y)
    block = {"kind": "file", "path": str(tmp_path / "x.npz"), "n": 12}
    seen = set()
    for seed in range(20):
        keys = jax.random.key(seed), jax.random.key(1)
        points, labels = make(block, *keys)
        rows = np.argmax(points, axis=1)
        assert len(set(rows)) == 12
        assert np.array_equal(points, X[rows])
        assert np.array_equal(labels, y[rows])
        seen |= set(rows)
    assert seen == set(range(30))  # each is left out of 20 draws with probability 4e-5


def test_a_csv_without_a_header_has_columns_by_number(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("1,2,3\n4,5,6\n")
    X, y = read_file({"path": path, "header": False, "target": "2"})
    assert (X.tolist(), y.tolist()) == ([[1.0, 3.0], [4.0, 6.0]], [2.0, 5.0])
    with pytest.raises(InputError, match=r"header: false"):
        read_file({"path": path})


def test_a_file_without_labels_is_refused_unless_labels_are_drawn(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,0\n0,1\n")
    block = {"kind": "file", "path": str(tmp_path / "x.csv")}
    config = {"experiment": "threshold", "name": "x", "network": {"m": 8}}
    with pytest.raises(InputError, match=r"x\.csv: data\.labels: the file has no labels"):
        plan({**config, "data": block})
    assert plan({**config, "data": {**block, "labels": {"kind": "sign"}}})["cells"] == 1
