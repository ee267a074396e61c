"""Matrices and vectors come back exactly from every format; what cannot be read is named and never executed."""

import numpy as np
import pandas as pd
import pytest
from scipy import io, sparse
from sklearn.datasets import dump_svmlight_file

from expreg.data.matrices import READERS, read_problem, read_vector
from expreg.errors import InputError
from expreg.sparse import from_scipy

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


def refusal(call, *arguments) -> str:
    with pytest.raises(InputError) as error:
        call(*arguments)
    return str(error.value)


@pytest.mark.parametrize("suffix", READERS)
def test_a_matrix_comes_back(suffix, tmp_path):
    WRITE[suffix](tmp_path / f"A{suffix}")
    np.save(tmp_path / "b.npy", B)
    matrix, b = read_problem(tmp_path / f"A{suffix}", tmp_path / "b.npy")
    assert sparse.issparse(matrix) == (suffix in (".mtx", ".svm"))
    assert matrix.dtype == b.dtype == np.float64
    np.testing.assert_allclose(dense(matrix), A, rtol=1e-15)
    np.testing.assert_array_equal(b, B)


@pytest.mark.parametrize("suffix", WRITE_VECTOR)
def test_a_vector_comes_back(suffix, tmp_path):
    WRITE_VECTOR[suffix](tmp_path / f"b{suffix}")
    np.testing.assert_allclose(read_vector(tmp_path / f"b{suffix}"), B, rtol=1e-15)


@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.csc_matrix])
def test_a_matrix_saved_by_scipy_comes_back_sparse(kind, tmp_path):
    sparse.save_npz(tmp_path / "A.npz", kind(A))
    np.savez(tmp_path / "b.npz", y=B)
    matrix, b = read_problem(tmp_path / "A.npz", tmp_path / "b.npz")
    np.testing.assert_array_equal(matrix.toarray(), A)
    np.testing.assert_array_equal(b, B)


def test_labels_beside_the_matrix_are_b_when_no_other_file_is_given(tmp_path):
    dump_svmlight_file(A, B, str(tmp_path / "t.svm"), zero_based=False)
    np.savez(tmp_path / "t.npz", A=A, b=B)
    FRAME.assign(y=B).to_csv(tmp_path / "t.csv", index=False)
    for suffix in ("svm", "npz", "csv"):
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
BAD = {
    "A.pkl": (b"", "got a .pkl file"),
    "rows.csv": (b"1,2\n3,4\n", "rows.csv:1: "),
    "words.mtx": (b"hello\n", "not a Matrix Market file"),
    "empty.mtx": (b"", "not a Matrix Market file"),
    "complex.mtx": (b"%%MatrixMarket matrix array complex general\n1 1\n1 1\n", "got complex"),
    "far.mtx": (COORDINATE + b"2 2 1\n3 1 1.0\n", "got index (3, 1) at entry 0"),
    "huge.mtx": (b"%%MatrixMarket matrix array real general\n9999999 9999999\n1\n", "expected at most 1024 MiB"),
    "short.mtx": (COORDINATE + b"2 2 2\n1 1 1.0\n", "got 1 lines"),
    "lacks.mtx": (COORDINATE + b"2 2 2\n1 1 1.0\n1 2\n", "line 2 "),
    "words_inside.mtx": (COORDINATE + b"2 2 1\n1 1 x\n", "not readable"),
    "longer.mtx": (COORDINATE + b"2 2 1\n1 1 1.0 7\n", "line 1 "),
    "half.mtx": (COORDINATE + b"2 2 1\n1 1.5 1.0\n", "got index (1, 1.5) at entry 0"),
    "words.svm": (b"1 a:b\n", "not a readable svmlight file"),
    "wide.svm": (b"1 99999999:1\n", "d <= 2^24"),
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


def test_bad_indices_of_a_saved_matrix_are_named_when_it_becomes_ours(tmp_path):
    parts = {"data": B, "indices": np.array([0, 9, 2, 0, 1, 2]), "indptr": np.arange(7)}
    np.savez(tmp_path / "A.npz", shape=np.array([6, 3]), format=b"csr", **parts)
    np.save(tmp_path / "b.npy", B)
    matrix, _ = read_problem(tmp_path / "A.npz", tmp_path / "b.npy")
    assert "column index 9 at entry 1, expected 0..2" in refusal(from_scipy, matrix)


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
