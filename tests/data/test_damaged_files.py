"""Damaged data files: whatever the bytes are, a reader gives arrays or one InputError, in time, in memory, silently.

150 files per reader, 5,000 in `make soak`.
"""

import io
import re
import struct
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.lib import format as npy
from pyarrow import parquet as pq
from scipy import io as scipy_io
from scipy import sparse
from sklearn.datasets import dump_svmlight_file

from expreg.data import read_problem, without_empty
from expreg.data.files import read_file
from expreg.errors import MAX_WIDTH, InputError

SECONDS, BYTES = 2.0, 500e6
RNG = np.random.default_rng(0)
A = np.round(RNG.normal(size=(12, 4)), 3) * (RNG.random((12, 4)) < 0.6)
B = np.round(RNG.random(12), 3)
WORDS = [
    *(b"nan", b"-1", b"inf", b"1e999", b"0x1", b"1_0", b"2147483648", b"9" * 20, b"9007199254740993", b"\xd9\xa1"),
    *(b",", b";", b"\t", b"\n", b"\r", b"\0", b'"', b"%", b"#", b":", b"1:1", b"0:2", b"\xef\xbb\xbf", b"\xff\xfe"),
    *(b"(" * 200, b"{", b"}", b"1 1 1\n", b"Unnamed: 0", b"__index_level_0__", b"<f8", b"|O", b"True", b"PAR1"),
]
NUMBERS = [b"0", b"-1", b"1", b"7", b"100000000", b"2147483647", b"99999999999", b"1" * 18, b"9" * 40, b"1.5", b"nan"]


def _npz(**parts) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **parts)
    return stream.getvalue()


def _written(write) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def _scipy(kind: str) -> bytes:
    return _written(lambda stream: sparse.save_npz(stream, sparse.csr_array(A).asformat(kind)))


FRAME = pd.DataFrame(A, columns=list("abcd")).assign(y=B, k=np.arange(12), t=[True, False] * 6)
DECIMALS = pa.table({"a": pa.array([1, 2, 3]).cast(pa.decimal128(30, 3)), "y": [1.0, 2.0, 3.0]})
WHOLE = {
    "A.npy": _written(lambda stream: np.save(stream, A)),
    "A.npz": _npz(A=A, b=B[:, None]),
    "X.npz": _npz(X=A / 2, y=B),
    "csr.npz": _scipy("csr"),
    "coo.npz": _scipy("coo"),
    "bsr.npz": _scipy("bsr"),
    "dia.npz": _scipy("dia"),
    "A.csv": FRAME.drop(columns="t").to_csv(index=False).encode(),
    "A.parquet": _written(lambda stream: FRAME.to_parquet(stream)),
    "decimals.parquet": _written(lambda stream: pq.write_table(DECIMALS, stream)),
    "A.mtx": _written(lambda stream: scipy_io.mmwrite(stream, sparse.coo_array(A), comment="made")),
    "symmetric.mtx": _written(lambda stream: scipy_io.mmwrite(stream, A.T @ A, symmetry="symmetric")),
    "A.svm": _written(lambda stream: dump_svmlight_file(A, B, stream, zero_based=False, comment="made")),
}


# --- damage


def _flipped(rng, content: bytes) -> bytes:
    damaged = bytearray(content)
    for place in rng.integers(len(content), size=rng.integers(1, 9)):
        damaged[place] = rng.integers(256)
    return bytes(damaged)


def _cut(rng, content: bytes) -> bytes:
    first, last = np.sort(rng.integers(len(content), size=2))
    return (content[:last], content[:first] + content[last:], content[:last] + content[first:])[rng.integers(3)]


def _with_words(rng, content: bytes) -> bytes:
    for _ in range(rng.integers(1, 4)):
        place = rng.integers(len(content))
        content = content[:place] + WORDS[rng.integers(len(WORDS))] + content[place:]
    return content


def _with_numbers(rng, content: bytes) -> bytes:
    """Replace numbers, mostly near the beginning or the end, where the sizes stand."""
    for _ in range(rng.integers(1, 3)):
        found = list(re.finditer(rb"\d+", content))
        if found:
            first, last = found[min(int(rng.exponential(8)), len(found) - 1)].span()
            content = content[:first] + NUMBERS[rng.integers(len(NUMBERS))] + content[last:]
    return content


def _array(rng, array: bytes) -> bytes:
    """Give an .npy array another header, or other values under the same one."""
    stream = io.BytesIO(array)
    npy.read_magic(stream)
    shape, fortran, dtype = npy.read_array_header_1_0(stream)
    body = bytearray(stream.read())
    choice = rng.integers(4)
    if choice == 0:
        shape = tuple(int(rng.choice([0, 1, 3, 12, 2**20, 2**31, 2**62])) for _ in range(rng.integers(0, 5)))
    elif choice == 1:
        dtype = np.dtype(str(rng.choice(["<f4", ">f8", "<i8", "<u8", "<f2", "|b1", "<c16", "<U3", "<M8[s]", "<f16"])))
    elif len(body) >= 8:
        place = 8 * rng.integers(len(body) // 8)
        special = (
            struct.pack("<d", rng.choice([np.nan, np.inf, -1, 0.5, 1e300])),
            struct.pack("<q", rng.choice([-1, 2**40])),
        )
        body[place : place + 8] = special[rng.integers(2)]
    out = io.BytesIO()
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": bool(fortran or choice == 3), "shape": shape}
    npy.write_array_header_1_0(out, header)
    return out.getvalue() + bytes(body)


def _members(rng, content: bytes) -> bytes:
    """Damage one array of an archive whose checksums are right again."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as copy:
        names = archive.namelist()
        chosen = names[rng.integers(len(names))]
        for name in names:
            member = archive.read(name)
            if name == chosen:
                member = (_array, _flipped, _cut, _with_words)[rng.integers(4)](rng, member)
            copy.writestr(name, member)
    return stream.getvalue()


def _footer(rng, content: bytes) -> bytes:
    """Damage the end of a file, where Parquet has its metadata."""
    size = min(len(content), int(rng.integers(10, 2500)))
    return content[:-size] + _flipped(rng, content[-size:])


def damaged(rng, name: str) -> bytes:
    """Return the content of a file after one kind of damage, of a text also after two."""
    own = {".npz": _members, ".npy": _array, ".parquet": _footer}.get(Path(name).suffix, _with_numbers)
    content = WHOLE[name]
    for _ in range(rng.integers(1, 3) if own is _with_numbers else 1):
        content = (own, own, _flipped, _cut, _with_words)[rng.integers(5)](rng, content) or b"\n"
    return content


# --- what must hold


def _refusal(read) -> str:
    """Return the first line of what is wrong with a file, empty if it was read."""
    try:
        read()
    except InputError as error:
        return error.lines()[0]
    return ""


def _read(path: Path, target: Path) -> str:
    """Return how reading a file as a matrix, with and without labels of its own, and as points ends."""
    lines = [
        _refusal(lambda: without_empty(read_problem(path)[0], path)),
        _refusal(lambda: without_empty(read_problem(path, target)[0], path)),
        _refusal(lambda: read_file({"path": path, "normalise": True})),
    ]
    for line in filter(None, lines):
        assert line.startswith("error[E-")
        assert path.name in line or target.name in line
        assert len(line) <= MAX_WIDTH
    return "refused" if all(lines) else "read"


@pytest.mark.parametrize("name", WHOLE)
def test_a_damaged_file_is_read_or_refused(name, tmp_path, soak):
    count = soak.times(150, 5000)
    target = tmp_path / "b.npy"
    np.save(target, B[: 3 if name.startswith("dec") else 4 if name.startswith("sym") else 12])
    path = tmp_path / name
    path.write_bytes(WHOLE[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # where svmlight counts from, empty columns
        assert _read(path, target) == "read"
        ends, seconds, grown = {"read": 0, "refused": 0}, [], []
        for seed in range(count):
            path.write_bytes(damaged(np.random.default_rng([7, seed]), name))
            before, began = soak.peak(reset=True), time.process_time()
            try:
                ends[_read(path, target)] += 1
            except Exception as error:
                raise AssertionError(f"{name}, seed {seed}: {error!r}") from error
            seconds.append(time.process_time() - began)
            grown.append(soak.peak() - before)
    slow, large = int(np.argmax(seconds)), int(np.argmax(grown))
    assert seconds[slow] < SECONDS, f"{name}, seed {slow}"
    assert grown[large] < BYTES, f"{name}, seed {large}"
    assert ends["refused"] > count / 4
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([name, "b.npy"])
    slowest, largest = round(seconds[slow], 3), round(grown[large] / 1e6)
    soak.figure(f"R12-{name}", f"{name}, damaged", **ends, unhandled=0, slowest_s=slowest, largest_MB=largest)
