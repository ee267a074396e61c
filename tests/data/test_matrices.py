"""Matrices and vectors come back exactly from every format; what cannot be read is named and never executed."""

from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
from scipy import io, sparse
from sklearn.datasets import dump_svmlight_file

from expreg.data.matrices import READERS, read_problem, read_vector, without_empty
from expreg.errors import InputError

RNG = np.random.default_rng(0)
A = np.round(RNG.normal(size=(6, 3)), 3) * (RNG.random((6, 3)) < 0.7)
B = np.round(RNG.random(6), 3)
FRAME = pd.DataFrame(A, columns=["a", "b", "c"])

WRITE = {
    ".npy": lambda path: np.save(path, A),
    ".npz": lambda path: np.savez(path, A=A),
    ".csv": lambda path: FRAME.to_csv(path, index=False),
    ".parquet": lambda path: FRAME.to_parquet(path),
    ".mtx": lambda path: io.mmwrite(path, sparse.coo_array(A)),
    ".svm": lambda path: dump_svmlight_file(A, np.zeros(6), str(path), zero_based=False),
}
WRITE_VECTOR = {
    ".npy": lambda path: np.save(path, B),
    ".npz": lambda path: np.savez(path, b=B),
    ".csv": lambda path: pd.DataFrame({"y": B}).to_csv(path, index=False),
    ".parquet": lambda path: pd.DataFrame({"target": B}).to_parquet(path),
    ".mtx": lambda path: io.mmwrite(path, B[:, None]),
}


def dense(matrix) -> np.ndarray:
    return matrix.toarray() if sparse.issparse(matrix) else matrix


def _base(suffix):
    """Expect the warning that says from where svmlight counts."""
    return pytest.warns(UserWarning, match="count from 1") if suffix == ".svm" else nullcontext()


def refusal(call, *arguments) -> str:
    with pytest.raises(InputError) as error:
        call(*arguments)
    return str(error.value)


@pytest.mark.parametrize("suffix", READERS)
def test_a_matrix_comes_back(suffix, tmp_path):
    WRITE[suffix](tmp_path / f"A{suffix}")
    np.save(tmp_path / "b.npy", B)
    with _base(suffix):
        matrix, b = read_problem(tmp_path / f"A{suffix}", tmp_path / "b.npy")
    assert sparse.issparse(matrix) == (suffix in (".mtx", ".svm"))
    assert matrix.dtype == b.dtype == np.float64
    np.testing.assert_allclose(dense(matrix), A, rtol=1e-15)
    np.testing.assert_array_equal(b, B)


@pytest.mark.parametrize("suffix", WRITE_VECTOR)
def test_a_vector_comes_back(suffix, tmp_path):
    WRITE_VECTOR[suffix](tmp_path / f"b{suffix}")
    np.testing.assert_allclose(read_vector(tmp_path / f"b{suffix}"), B, rtol=1e-15)


@pytest.mark.parametrize(
    "kind", [sparse.csr_array, sparse.csc_matrix, sparse.coo_array, sparse.bsr_array, sparse.dia_array]
)
def test_a_matrix_saved_by_scipy_comes_back_sparse(kind, tmp_path):
    sparse.save_npz(tmp_path / "A.npz", kind(A))
    np.savez(tmp_path / "b.npz", y=B)
    matrix, b = read_problem(tmp_path / "A.npz", tmp_path / "b.npz")
    assert matrix.format == "csr"
    assert matrix.nnz < A.size
    np.testing.assert_array_equal(matrix.toarray(), A)
    np.testing.assert_array_equal(b, B)


def test_labels_beside_the_matrix_are_b_when_no_other_file_is_given(tmp_path):
    dump_svmlight_file(A, B, str(tmp_path / "t.svm"), zero_based=False)
    np.savez(tmp_path / "t.npz", A=A, b=B)
    FRAME.assign(y=B).to_csv(tmp_path / "t.csv", index=False)
    for suffix in ("svm", "npz", "csv"):
        with _base(f".{suffix}"):
            matrix, b = read_problem(tmp_path / f"t.{suffix}")
        np.testing.assert_allclose(dense(matrix), A, rtol=1e-15)
        np.testing.assert_allclose(b, B, rtol=1e-15)
    np.save(tmp_path / "b.npy", B)
    assert read_problem(tmp_path / "t.csv", tmp_path / "b.npy")[0].shape == (6, 4)  # then y is a column like others
    np.save(tmp_path / "t.npy", A)
    assert "no labels beside the matrix; give B" in refusal(read_problem, tmp_path / "t.npy")


def test_objects_in_a_saved_matrix_are_not_read(tmp_path):
    np.savez(tmp_path / "S.npz", data=B, indices=B, indptr=B, shape=B, format=np.array([None], dtype=object))
    assert "error[E-DATA]" in refusal(read_problem, tmp_path / "S.npz", tmp_path / "S.npz")


COORDINATE = b"%%MatrixMarket matrix coordinate real general\n"
SYMMETRIC, SKEW = (COORDINATE.replace(b"general", word) for word in (b"symmetric", b"skew-symmetric"))
BIG = 2**53 + 1
BAD = {
    "A.pkl": (b"", "got a .pkl file"),
    "rows.csv": (b"1,2\n3,4\n", "rows.csv:1: the first row is all numbers"),
    "half.csv": (
        b"a;b\n1,5;2\n",
        "half.csv:1: got one column, 'a;b'; expected columns separated by commas, not by ';'",
    ),
    "tabs.csv": (
        b"a\tb\n1\t2\n",
        "tabs.csv:1: got one column, 'a\\tb'; expected columns separated by commas, not by t",
    ),
    "words.csv": (b"a,b\n1,2\n\n1,x\n", "words.csv:4: column b: got 'x', expected a number"),
    "index.csv": (b",a\n0,1\n1,2\n", "column 1 has no name, as numbers of rows have none; leave it out (pandas: index"),
    "again.csv": (b"Unnamed: 0,a\n0,1\n1,2\n", "column 1 is 'Unnamed: 0', numbers of rows; leave it out"),
    "words.mtx": (b"hello\n", "words.mtx:1: not a Matrix Market file"),
    "empty.mtx": (b"", "not a Matrix Market file"),
    "complex.mtx": (b"%%MatrixMarket matrix array complex general\n1 1\n1 1\n", "got complex"),
    "far.mtx": (COORDINATE + b"2 2 1\n3 1 1.0\n", "far.mtx:3: got index (3, 1), expected"),
    "rows.mtx": (COORDINATE + b"999999999999 2 1\n3 1 1.0\n", "expected n <= 2^27"),
    "sizes.mtx": (COORDINATE + b"%\n\n2 x 1\n3 1 1.0\n", "sizes.mtx:4: got '2 x 1' as sizes"),
    "huge.mtx": (b"%%MatrixMarket matrix array real general\n9999999 9999999\n1\n", "expected at most 1024 MiB"),
    "short.mtx": (COORDINATE + b"2 2 2\n1 1 1.0\n", "short.mtx:3: got 1 lines"),
    "lacks.mtx": (COORDINATE + b"% \xe9\n2 2 2\n1 1 1.0\n\n1 2\n", "lacks.mtx:6: got '1 2', expected 3 numbers"),
    "words_inside.mtx": (COORDINATE + b"2 2 1\n1 1 x\n", "words_inside.mtx:3: got 'x', expected a number"),
    "longer.mtx": (COORDINATE + b"2 2 1\n1 1 1.0 7\n", "longer.mtx:3: got '1 1 1.0 7', expected 3 numbers"),
    "half.mtx": (COORDINATE + b"2 2 1\n1 1.5 1.0\n", "half.mtx:3: got index (1, 1.5)"),
    "twice.mtx": (COORDINATE + b"2 2 3\n2 1 1\n1 1 1\n2 1 5\n", "twice.mtx:5: entry (2, 1) is that of line 3 again"),
    "both.mtx": (SYMMETRIC + b"2 2 2\n2 1 1\n1 2 1\n", "both.mtx:4: entry (1, 2) is that of line 3 mirrored"),
    "diagonal.mtx": (SKEW + b"2 2 2\n2 1 1\n2 2 5\n", "diagonal.mtx:4: got a value at (2, 2), the diagonal of a skew"),
    "big.mtx": (COORDINATE + b"2 2 1\n1 1 %d\n" % BIG, f"big.mtx:3: got {BIG}, expected a value that float64 holds"),
    "big.csv": (b"a,b\n%d,1\n" % BIG, f"big.csv:2: column a: got {BIG}, expected a value that float64 holds exactly"),
    "big.svm": (b"1 1:1\n2 1:%d\n" % BIG, f"big.svm:2: got {BIG}, expected a value that float64 holds exactly"),
    "words.svm": (b"# a\n1 a:b\n", "words.svm:2: got 'a:b', expected index:value"),
    "bare.svm": (b"1 7\n", "bare.svm:1: got '7', expected index:value"),
    "twice.svm": (b"1 1:1\n1 2:1 1:3 2:5\n", "twice.svm:2: index 2 stands there twice"),
    "wide.svm": (b"1 99999999:1\n", "wide.svm:1: got index 99999999, expected d <= 2^24"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_named(name, tmp_path):
    text, expected = BAD[name]
    (tmp_path / name).write_bytes(text)
    np.save(tmp_path / "b.npy", B)
    assert expected in refusal(read_problem, tmp_path / name, tmp_path / "b.npy")


def test_shapes_that_do_not_match_are_named(tmp_path):
    np.save(tmp_path / "A.npy", A)
    np.save(tmp_path / "b.npy", B[:5])
    np.save(tmp_path / "cube.npy", np.ones((2, 2, 2)))
    for matrix, vector, expected in (
        ("A.npy", "b.npy", "got shape (5,), expected (6,)"),
        ("cube.npy", "b.npy", "expected (n, d)"),
        ("A.npy", "A.npy", "expected (n,) or one column"),
        ("A.npy", "A.svm", "leave B out"),
    ):
        assert expected in refusal(read_problem, tmp_path / matrix, tmp_path / vector)


ENTRIES = {"data": np.ones(6), "shape": np.array([6, 3])}
CSR = {**ENTRIES, "indices": np.array([0, 1, 2, 0, 1, 2]), "indptr": np.arange(7), "format": b"csr"}
COO = {**ENTRIES, "row": np.arange(6), "col": np.array([0, 1, 2, 0, 1, 2]), "format": b"coo"}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({**CSR, "indices": np.array([0, 9, 2, 0, 1, 2])}, "A.npz: A: column index 9 at entry 1, expected 0..2"),
        ({**CSR, "indptr": np.array([0, 2, 2, 3, 4, 5, 6]), "indices": np.zeros(6, int)}, "repeats the one before"),
        ({**CSR, "indptr": np.arange(9)}, "not a sound csr matrix of shape (6, 3)"),
        ({**COO, "row": np.array([0, 1, 2, 3, 4, 6])}, "not a sound coo matrix of shape (6, 3)"),
        ({**COO, "row": np.array([0, 1, 2, 3, 4, 1]), "col": np.array([0, 1, 2, 0, 1, 1])}, "(1, 1) repeats the one"),
        ({**COO, "row": np.array([0, 1, 2, 3, 4, 0.5])}, "row[5]: got 0.5, expected a whole number"),
        ({**COO, "shape": np.array([np.nan, 3])}, "shape[0]: got nan, expected a whole number"),
        ({**COO, "shape": np.array([2**30, 2**30])}, "expected n <= 2^27"),
        ({**COO, "format": b"lil"}, "format 'lil', expected one of csr csc bsr coo dia"),
    ],
)
def test_what_is_wrong_with_a_saved_matrix_is_named(parts, expected, tmp_path):
    np.savez(tmp_path / "A.npz", **parts)
    np.save(tmp_path / "b.npy", B)
    assert expected in refusal(read_problem, tmp_path / "A.npz", tmp_path / "b.npy")


def test_labels_may_be_a_column(tmp_path):
    np.savez(tmp_path / "A.npz", A=A, b=B[:, None])
    np.testing.assert_array_equal(read_problem(tmp_path / "A.npz")[1], B)
    np.savez(tmp_path / "A.npz", A=A, b=np.ones((6, 2)))
    assert "B: got shape (6, 2), expected (6,) to match A" in refusal(read_problem, tmp_path / "A.npz")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_mark_of_byte_order_is_no_part_of_a_text(mark, tmp_path):
    for name, text in {
        "A.csv": b"a,y\n1,5\n2,6\n",
        "A.mtx": COORDINATE + b"2 1 2\n1 1 1\n2 1 2\n",
        "A.svm": b"5 1:1\n6 1:2\n",
    }.items():
        (tmp_path / name).write_bytes(mark + text.replace(b"\n", b"\r\n"))
        np.save(tmp_path / "b.npy", [5, 6])
        with _base(name[1:]):
            matrix, b = read_problem(tmp_path / name, *([] if name != "A.mtx" else [tmp_path / "b.npy"]))
        np.testing.assert_array_equal(dense(matrix), [[1], [2]])
        np.testing.assert_array_equal(b, [5, 6])


def test_svmlight_in_any_order_from_0_or_from_1_with_empty_columns(tmp_path):
    (tmp_path / "A.svm").write_text("1 qid:7 4:3 0:0.5 # a comment\n\n2 2:1\n-1\n")
    with pytest.warns(UserWarning, match=r"an index is 0, so they count from 0: x\[0\] is feature 0"):
        matrix, b = read_problem(tmp_path / "A.svm")
    np.testing.assert_array_equal(matrix.toarray(), [[0.5, 0, 0, 0, 3], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(b, [1, 2, -1])
    with pytest.warns(UserWarning, match=r"2 of 5 columns are empty and left out: x\[1\] is 0"):
        filled, kept = without_empty(matrix, "A.svm")
    np.testing.assert_array_equal(kept, [0, 2, 4])
    np.testing.assert_array_equal(filled.toarray(), matrix.toarray()[:, kept])
    assert without_empty(filled, "A.svm")[0] is filled


def test_numbers_of_a_text_are_those_that_python_reads(tmp_path):
    values = np.append(RNG.normal(size=2000) * 10.0 ** RNG.integers(-300, 300, 2000), [2.0**53, -(2.0**53)])
    text = "".join(f"{row} 1 {value!r}\n" for row, value in enumerate(values.tolist(), 1))
    (tmp_path / "b.mtx").write_bytes(COORDINATE + f"{len(values)} 1 {len(values)}\n{text}".encode())
    np.testing.assert_array_equal(read_vector(tmp_path / "b.mtx"), values)


def test_a_real_hermitian_matrix_is_a_symmetric_one(tmp_path):
    for word in ("hermitian", "symmetric"):
        for layout, body in {"coordinate": "2 2 2\n1 1 3\n2 1 5\n", "array": "2 2\n3\n5\n0\n"}.items():
            (tmp_path / "A.mtx").write_text(f"%%MatrixMarket matrix {layout} real {word}\n{body}")
            np.save(tmp_path / "b.npy", B[:2])
            np.testing.assert_array_equal(
                dense(read_problem(tmp_path / "A.mtx", tmp_path / "b.npy")[0]), [[3, 5], [5, 0]]
            )


@pytest.mark.parametrize("layout", ["coordinate", "array"])
@pytest.mark.parametrize("symmetry", ["general", "symmetric", "skew-symmetric"])
def test_matrix_market_agrees_with_scipy(layout, symmetry, tmp_path):
    square = np.round(RNG.normal(size=(4, 4)), 3)
    M = {"general": square, "symmetric": square + square.T, "skew-symmetric": square - square.T}[symmetry]
    stored = sparse.coo_array(M) if layout == "coordinate" else M
    io.mmwrite(tmp_path / "A.mtx", stored, comment="a comment", symmetry=symmetry)
    np.save(tmp_path / "b.npy", B[:4])
    found, _ = read_problem(tmp_path / "A.mtx", tmp_path / "b.npy")
    np.testing.assert_allclose(dense(found), io.mmread(tmp_path / "A.mtx", spmatrix=False) if layout == "array" else M)
