"""Read a matrix A and a vector b for regression from the user's own files; dense or scipy.sparse, never a pickle."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from expreg.data import arrays, tables
from expreg.data.files import open_local
from expreg.data.market import bounded, read_market
from expreg.errors import InputError, Problem

_MATRIX_NAMES, _VECTOR_NAMES = ("A", "X"), ("b", "y")


class Held(NamedTuple):
    """What a file holds: a matrix (n, d), dense or scipy.sparse, and the vector (n,) that came with it, if any."""

    matrix: Any
    vector: np.ndarray | None = None


Reader = Callable[[IO[bytes], str, bool], Held]
"""Takes the open file, its name for messages, and whether a column or array of labels is to be split off."""


def read_problem(matrix: str | Path, vector: str | Path | None = None) -> tuple[Any, np.ndarray]:
    """Return A (n, d), dense or scipy.sparse, and b (n,), float64.

    Formats: .npy .npz .csv .parquet .mtx .svm. Without `vector` the labels that stand beside the matrix are b: of a
    .svm file, the array `b` or `y` of an .npz file, the column `y` of a table. Raises InputError; object arrays and
    pickles are refused, as are numbers that float64 cannot hold.
    """
    A, beside = _read(str(matrix), split=vector is None)
    if A.ndim != 2 or 0 in A.shape:
        raise _bad("E-SHAPE", f"got shape {A.shape}, expected (n, d), both at least 1", str(matrix), "A")
    if vector is None:
        if beside is None:
            raise _bad("E-MISSING", "no labels beside the matrix; give B, a file with b (n,)", str(matrix), "B")
        return A, beside
    b = read_vector(vector)
    if len(b) != A.shape[0]:
        raise _bad("E-SHAPE", f"got shape {b.shape}, expected ({A.shape[0]},) to match A {A.shape}", str(vector), "B")
    return A, b


def read_vector(path: str | Path) -> np.ndarray:
    """Return the vector (n,) of a file: one dimension, or one column; float64. Raises InputError."""
    file = str(path)
    found = _read(file, split=False, vector=True).matrix
    dense = found.toarray() if hasattr(found, "toarray") else found
    if dense.ndim == 2 and 1 in dense.shape:
        dense = dense.ravel()
    if dense.ndim != 1:
        raise _bad("E-SHAPE", f"got shape {dense.shape}, expected (n,) or one column", file, "B")
    return np.ascontiguousarray(dense)


def _read(file: str, *, split: bool, vector: bool = False) -> Held:
    suffix = Path(file).suffix.lower()
    if suffix not in READERS:
        known = " ".join(READERS)
        raise _bad("E-ENUM", f"got a {suffix or 'nameless'} file, expected one of {known}", file)
    if suffix == ".svm" and vector:
        raise _bad("E-USAGE", "a .svm file is a matrix with its labels; leave B out to use them", file, "B")
    with open_local(file) as source:
        if suffix == ".npz" and vector:
            return _npz(source, file, split, names=_VECTOR_NAMES)
        return READERS[suffix](source, file, split)


def _npy(source: IO[bytes], file: str, split: bool) -> Held:
    del split
    return Held(arrays.read_npy(source, {}, file)[0])


def _npz(source: IO[bytes], file: str, split: bool, names: tuple[str, ...] = _MATRIX_NAMES) -> Held:
    """Return `A` or `X` with `b` or `y`, a matrix saved by scipy.sparse, or the only array there is."""
    held = arrays.names_npz(source, file)
    if {"data", "indices", "indptr", "shape", "format"} <= set(held):
        return Held(_scipy_npz(source, file))
    found = next((name for name in names if name in held), held[0] if len(held) == 1 else None)
    if found is None:
        message = f"the file holds {', '.join(held[:8]) or 'nothing'}; expected an array {' or '.join(names)}"
        raise _bad("E-DATA", message, file)
    beside = next((name for name in _VECTOR_NAMES if name in held), None) if split else None
    wanted = (found,) if beside is None else (found, beside)
    read = arrays.read_named(source, wanted, file)
    return Held(read[found], None if beside is None else read[beside])


def _scipy_npz(source: IO[bytes], file: str) -> Any:
    from scipy import sparse  # slow to import: only when a sparse matrix is read

    kind = arrays.read_text(source, "format", file)
    if kind not in ("csr", "csc"):
        raise _bad("E-DATA", f"got a sparse matrix of format {kind!r}, expected csr or csc", file)
    parts = arrays.read_named(source, ("data", "indices", "indptr", "shape"), file)
    shape: Any = tuple(int(size) for size in parts["shape"])
    bounded(shape, file)
    found: Any = (sparse.csr_array if kind == "csr" else sparse.csc_array)(shape)
    # set, not given to the constructor: what is wrong with them is what `sparse.from_scipy` reports
    found.data = parts["data"]
    found.indices, found.indptr = (parts[name].astype(np.int64) for name in ("indices", "indptr"))
    return found


def _table(read: Callable[[IO[bytes], Mapping[str, Any], str], tuple[np.ndarray, np.ndarray | None]]) -> Reader:
    def reader(source: IO[bytes], file: str, split: bool) -> Held:
        return Held(*read(source, {} if split else {"target": False}, file))

    return reader


def _csv(source: IO[bytes], file: str, split: bool) -> Held:
    first = source.readline().decode("utf-8-sig", errors="replace").strip()
    source.seek(0)
    if first and all(_is_number(field) for field in first.split(",")):
        message = "the first row is all numbers; expected a header row with column names"
        raise InputError(Problem("E-DATA", message, file=file, line=1))
    return _table(tables.read_csv)(source, file, split)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _matrix_market(source: IO[bytes], file: str, split: bool) -> Held:
    del split
    return Held(read_market(source, file))


def _svmlight(source: IO[bytes], file: str, split: bool) -> Held:
    from sklearn.datasets import load_svmlight_file  # slow to import: only when a .svm file is read

    del split
    try:
        matrix, labels = load_svmlight_file(source, dtype=np.float64, zero_based="auto")
    except (ValueError, OverflowError) as error:
        raise _bad("E-DATA", f"not a readable svmlight file: {error}", file) from error
    bounded(matrix.shape, file)
    return Held(matrix, np.asarray(labels, dtype=np.float64))


READERS: dict[str, Reader] = {
    ".npy": _npy,
    ".npz": _npz,
    ".csv": _csv,
    ".parquet": _table(tables.read_parquet),
    ".mtx": _matrix_market,
    ".svm": _svmlight,
}


def _bad(code: str, message: str, file: str, key: str | None = None) -> InputError:
    return InputError(Problem(code, message, file=file, key=key))
