"""Read a matrix A and a vector b for regression from the user's own files; dense or scipy.sparse, never a pickle."""

from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from expreg.data import arrays, tables
from expreg.data.arrays import Arrays, Options, refusal
from expreg.data.files import by_suffix, open_local
from expreg.data.market import bounded, read_market
from expreg.errors import InputError, Problem

_MATRIX_NAMES, _VECTOR_NAMES = ("A", "X"), ("b", "y")


def read_problem(matrix: str | Path, vector: str | Path | None = None) -> tuple[Any, np.ndarray]:
    """Return A (n, d), dense or scipy.sparse, and b (n,), float64.

    Formats: .npy .npz .csv .parquet .mtx .svm. Without `vector` the labels that stand beside the matrix are b: of a
    .svm file, the array `b` or `y` of an .npz file, the column `y` of a table. Raises InputError; object arrays and
    pickles are refused, as are numbers that float64 cannot hold.
    """
    A, beside = _read(matrix, {} if vector is None else {"target": False})
    if A.ndim != 2 or 0 in A.shape:
        raise refusal("E-SHAPE", f"got shape {A.shape}, expected (n, d), both at least 1", file=str(matrix), key="A")
    if vector is not None:
        b = read_vector(vector)
        if len(b) != A.shape[0]:
            message = f"got shape {b.shape}, expected ({A.shape[0]},) to match A {A.shape}"
            raise refusal("E-SHAPE", message, file=str(vector), key="B")
        return A, b
    if beside is None:
        raise refusal("E-MISSING", "no labels beside the matrix; give B, a file with b (n,)", file=str(matrix), key="B")
    return A, beside


def read_vector(path: str | Path) -> np.ndarray:
    """Return the vector (n,) of a file: one dimension, or one column; float64. Raises InputError."""
    if Path(path).suffix.lower() == ".svm":
        message = "a .svm file is a matrix with its labels; leave B out to use them"
        raise refusal("E-USAGE", message, file=str(path), key="B")
    found, _ = _read(path, {"target": False, "names": _VECTOR_NAMES})
    dense = found.toarray() if hasattr(found, "toarray") else found
    if dense.ndim == 2 and 1 in dense.shape:
        dense = dense.ravel()
    if dense.ndim != 1:
        raise refusal("E-SHAPE", f"got shape {dense.shape}, expected (n,) or one column", file=str(path), key="B")
    return np.ascontiguousarray(dense)


def _read(path: str | Path, options: Options) -> Arrays:
    reader = by_suffix(path, READERS)
    with open_local(str(path)) as source:
        return reader(source, options)


def _npz(source: IO[bytes], options: Options) -> Arrays:
    """Return `A` or `X` with `b` or `y`, a matrix saved by scipy.sparse, or the only array there is."""
    present, names = arrays.names_npz(source), options.get("names", _MATRIX_NAMES)
    if {"data", "indices", "indptr", "shape", "format"} <= set(present):
        return _scipy_npz(source), None
    found = next((name for name in names if name in present), present[0] if len(present) == 1 else None)
    if found is None:
        message = f"the file holds {', '.join(present[:8]) or 'nothing'}; expected an array {' or '.join(names)}"
        raise refusal("E-DATA", message)
    beside = [name for name in _VECTOR_NAMES if name in present and options.get("target") is not False][:1]
    read = arrays.read_named(source, (found, *beside))
    return read[found], read[beside[0]] if beside else None


def _scipy_npz(source: IO[bytes]) -> Any:
    from scipy import sparse  # slow to import: only when a sparse matrix is read

    kind = arrays.read_text(source, "format")
    if kind not in ("csr", "csc"):
        raise refusal("E-DATA", f"got a sparse matrix of format {kind!r}, expected csr or csc")
    parts = arrays.read_named(source, ("data", "indices", "indptr", "shape"))
    shape: Any = tuple(int(size) for size in parts["shape"])
    bounded(shape)
    found: Any = (sparse.csr_array if kind == "csr" else sparse.csc_array)(shape)
    # set, not given to the constructor: what is wrong with them is what `sparse.from_scipy` reports
    found.data = parts["data"]
    found.indices, found.indptr = (parts[name].astype(np.int64) for name in ("indices", "indptr"))
    return found


def _csv(source: IO[bytes], options: Options) -> Arrays:
    first = source.readline().decode("utf-8-sig", errors="replace").strip()
    source.seek(0)
    if first and all(map(_is_number, first.split(","))):
        message = "the first row is all numbers; expected a header row with column names"
        raise InputError(Problem("E-DATA", message, line=1))
    return tables.read_csv(source, options)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _svmlight(source: IO[bytes], _: Options) -> Arrays:
    from sklearn.datasets import load_svmlight_file  # slow to import: only when a .svm file is read

    try:
        matrix, labels = load_svmlight_file(source, dtype=np.float64, zero_based="auto")
    except (ValueError, OverflowError) as error:
        raise refusal("E-DATA", f"not a readable svmlight file: {error}") from error
    bounded(matrix.shape)
    return matrix, np.asarray(labels, dtype=np.float64)


READERS: dict[str, Callable[[IO[bytes], Options], Arrays]] = {
    ".npy": arrays.read_npy,
    ".npz": _npz,
    ".csv": _csv,
    ".parquet": tables.read_parquet,
    ".mtx": read_market,
    ".svm": _svmlight,
}
