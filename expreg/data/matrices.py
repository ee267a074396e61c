"""Read a matrix A and a vector b for regression from the user's own files; dense or scipy.sparse, never a pickle."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from expreg.data import arrays, tables
from expreg.data.arrays import Arrays, Options, refusal
from expreg.data.files import by_suffix, naming, open_local
from expreg.data.market import bounded, read_market
from expreg.data.svmlight import read_svmlight
from expreg.data.text import quoted

_MATRIX_NAMES, _VECTOR_NAMES = ("A", "X"), ("b", "y")
_SCIPY = {
    "csr": ("indices", "indptr"),
    "csc": ("indices", "indptr"),
    "bsr": ("indices", "indptr"),
    "coo": ("row", "col"),
    "dia": ("offsets",),
}
"""By format, what scipy.sparse.save_npz writes beside data and shape."""


def read_problem(
    matrix: str | Path, vector: str | Path | None = None, *, header: bool = True
) -> tuple[Any, np.ndarray]:
    """Return A (n, d), dense or a scipy.sparse.csr_array with each position once, and b (n,), float64.

    Formats: .npy .npz .csv .parquet .mtx .svm. Without `vector` the labels that stand beside the matrix are b: of a
    .svm file, the array `b` or `y` of an .npz file, the column `y` of a table. Without `header` a .csv begins with
    numbers. Raises InputError; object arrays and pickles are refused, as are numbers that float64 cannot hold. Warns
    (UserWarning) of what a file leaves open.
    """
    A, beside = _read(matrix, {"header": header} | ({} if vector is None else {"target": False}))
    if A.ndim != 2 or 0 in A.shape:
        raise refusal("E-SHAPE", f"got shape {A.shape}, expected (n, d), both at least 1", file=str(matrix), key="A")
    b = beside if vector is None else read_vector(vector, header=header)
    if b is None:
        raise refusal("E-MISSING", "no labels beside the matrix; give B, a file with b (n,)", file=str(matrix), key="B")
    if b.shape != A.shape[:1]:
        message = f"got shape {b.shape}, expected ({A.shape[0]},) to match A {A.shape}"
        raise refusal("E-SHAPE", message, file=str(vector or matrix), key="B")
    # only now: a header may declare more rows than memory holds, b has as many
    with naming(str(matrix)):
        return (A if isinstance(A, np.ndarray) else _canonical(A)), b


def without_empty(A: Any, file: str | Path) -> tuple[Any, np.ndarray]:
    """Return a sparse matrix without its columns of zeros, and the columns that are left; warn of the others.

    `file` is where it was read. A dense matrix keeps all of its columns.
    """
    every = np.arange(A.shape[1])
    kept = every if isinstance(A, np.ndarray) else np.unique(A.indices)
    if not len(kept):
        raise refusal("E-DATA", "all entries are 0", file=str(file), key="A")
    if len(kept) == len(every):
        return A, kept
    first = int(np.flatnonzero(np.append(kept, -1)[: len(every)] != every[: len(kept) + 1])[0])
    empty = len(every) - len(kept)
    are = "is" if empty == 1 else "are"
    warnings.warn(f"A: {empty} of {len(every)} columns {are} empty and left out: x[{first}] is 0", stacklevel=2)
    return A[:, kept], kept


def read_vector(path: str | Path, *, header: bool = True) -> np.ndarray:
    """Return the vector (n,) of a file: one dimension, or one column; float64. Raises InputError."""
    if Path(path).suffix.lower() == ".svm":
        message = "a .svm file is a matrix with its labels; leave B out to use them"
        raise refusal("E-USAGE", message, file=str(path), key="B")
    found, _ = _read(path, {"target": False, "names": _VECTOR_NAMES, "header": header})
    if found.ndim != 1 and not (found.ndim == 2 and 1 in found.shape):
        raise refusal("E-SHAPE", f"got shape {found.shape}, expected (n,) or one column", file=str(path), key="B")
    with naming(str(path)):
        return np.ascontiguousarray(found if isinstance(found, np.ndarray) else _canonical(found).toarray()).ravel()


def _read(path: str | Path, options: Options) -> Arrays:
    reader = by_suffix(path, READERS)
    with open_local(str(path)) as source:
        return reader(source, options)


def _npz(source: IO[bytes], options: Options) -> Arrays:
    """Return `A` or `X` with `b` or `y`, a matrix saved by scipy.sparse, or the only array there is."""
    present, names = arrays.names_npz(source), options.get("names", _MATRIX_NAMES)
    if {"data", "shape", "format"} <= set(present):
        return _scipy_npz(source), None
    found = next((name for name in names if name in present), present[0] if len(present) == 1 else None)
    if found is None:
        message = f"the file holds {', '.join(present[:8]) or 'nothing'}; expected an array {' or '.join(names)}"
        raise refusal("E-DATA", message)
    beside = [name for name in _VECTOR_NAMES if name in present and options.get("target") is not False][:1]
    read = arrays.read_named(source, (found, *beside))
    return read[found], arrays.vector(read[beside[0]]) if beside else None


def _scipy_npz(source: IO[bytes]) -> Any:
    """Return a matrix of any format as SciPy has it; what is wrong with its entries `_canonical` reports."""
    from scipy import sparse  # slow to import: only when a sparse matrix is read

    kind = arrays.read_text(source, "format")
    if kind not in _SCIPY:
        raise refusal("E-DATA", f"got a sparse matrix of format {quoted(kind)}, expected one of {' '.join(_SCIPY)}")
    parts = arrays.read_named(source, ("data", "shape", *_SCIPY[kind]))
    shape = tuple(_whole(parts["shape"], "shape").ravel().tolist())
    bounded(shape)
    index = [_whole(parts[name], name) for name in _SCIPY[kind]]
    content = (parts["data"], tuple(index)) if kind == "coo" else (parts["data"], *index)
    try:
        return getattr(sparse, f"{kind}_array")(content, shape=shape)
    except (ValueError, IndexError) as error:
        raise refusal("E-SPARSE", f"not a sound {kind} matrix of shape {shape}: {error}") from error


def _whole(array: np.ndarray, name: str) -> np.ndarray:
    wrong = np.flatnonzero(~(np.abs(array) < 2**31) | (np.floor(array) != array))
    if len(wrong):
        message = f"got {array.flat[wrong[0]]:g}, expected a whole number below 2^31"
        raise refusal("E-SPARSE", message, key=f"{name}[{wrong[0]}]")
    return array.astype(np.int64)


def _canonical(A: Any) -> Any:
    """Return a sparse matrix of any format as a csr array with each position once; raise InputError."""
    from expreg.sparse import to_csr  # slow to import: only when a sparse matrix is read

    found = to_csr(A)
    if not found.data.all():
        found = found.copy()
        found.eliminate_zeros()
    return found


READERS: dict[str, Callable[[IO[bytes], Options], Arrays]] = {
    ".npy": arrays.read_npy,
    ".npz": _npz,
    ".csv": tables.read_csv,
    ".parquet": tables.read_parquet,
    ".mtx": read_market,
    ".svm": read_svmlight,
}
