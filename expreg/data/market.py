"""Read Matrix Market files (.mtx): real, integer or pattern; general, symmetric or skew-symmetric.

SciPy's reader is not used: on a damaged file it can end the process.
"""

import math
from typing import IO, Any

import numpy as np

from expreg.errors import InputError, Problem

MAX_BYTES = 2**30  # of an array, once in memory
MAX_COLUMNS = 2**24  # of a sparse matrix: x is dense
_VALUES = {"real": 1, "integer": 1, "double": 1, "pattern": 0}
_SIGNS = {"general": 0, "symmetric": 1, "skew-symmetric": -1}


def read_market(source: IO[bytes], file: str) -> Any:
    """Return the matrix of a Matrix Market file, float64: a scipy.sparse.coo_array, or a dense array.

    Raises InputError naming what is wrong with the header, a line or an index.
    """
    layout, field, symmetry = _header(source, file)
    sizes = _sizes(source, 3 if layout == "coordinate" else 2, file)
    bounded(tuple(sizes[:2]), file, dense=layout == "array")
    if layout == "array":
        return _dense(_table(source, 1, _count(sizes, symmetry), file)[:, 0], sizes, symmetry, file)
    entries = _table(source, 2 + _VALUES[field], sizes[2], file)
    return _coordinates(entries, sizes, symmetry, file)


def bounded(shape: tuple[int, ...], file: str, *, dense: bool = False) -> None:
    """Raise InputError for a shape that is not that of a matrix, or too large to be one."""
    if len(shape) != 2 or min(shape) < 1:
        raise _bad("E-SHAPE", f"got shape {shape}, expected (n, d), both at least 1", file)
    if dense and math.prod(shape) * 8 > MAX_BYTES:
        raise _bad("E-SIZE", f"the header declares shape {shape}, expected at most {MAX_BYTES >> 20} MiB", file)
    if shape[0] >= 2**31 or shape[1] > MAX_COLUMNS:
        raise _bad("E-SIZE", f"got shape {shape}, expected n < 2^31 and d <= 2^24", file)


def _header(source: IO[bytes], file: str) -> tuple[str, str, str]:
    words = source.readline(200).decode("ascii", errors="replace").lower().split()
    if len(words) != 5 or words[:2] != ["%%matrixmarket", "matrix"]:
        raise _bad("E-DATA", "not a Matrix Market file; expected %%MatrixMarket matrix ... in the first line", file)
    layout, field, symmetry = words[2:]
    if field == "complex":
        raise _bad("E-DTYPE", "got complex, expected real", file)
    for word, known in ((layout, ("coordinate", "array")), (field, tuple(_VALUES)), (symmetry, tuple(_SIGNS))):
        if word not in known:
            raise _bad("E-ENUM", f"got {word!r} in the first line, expected one of {' '.join(known)}", file)
    if (layout, field) == ("array", "pattern"):
        raise _bad("E-DATA", "an array has values; got a pattern", file)
    return layout, field, symmetry


def _sizes(source: IO[bytes], count: int, file: str) -> list[int]:
    """Return the numbers of the size line, the first that is no comment."""
    line = source.readline()
    while line.startswith(b"%") or line.isspace():
        line = source.readline()
    words = line.split()
    if len(words) != count or not all(word.isdigit() and len(word) < 19 for word in words):
        raise _bad("E-DATA", f"got {line[:60]!r} as sizes, expected {count} whole numbers", file)
    return [int(word) for word in words]


def _table(source: IO[bytes], columns: int, rows: int, file: str) -> np.ndarray:
    """Return the numbers (rows, columns) of all lines that follow."""
    import pandas as pd  # slow to import: only when a Matrix Market file is read

    names = range(columns + 1)  # one more than there should be, to see lines that are too long
    try:
        frame = pd.read_csv(
            source, sep=r"\s+", header=None, names=names, index_col=False, dtype=np.float64, comment="%"
        )
    except (ValueError, OverflowError) as error:  # pandas' own parser errors are ValueErrors
        raise _bad("E-DATA", f"not readable as {columns} numbers per line: {str(error).strip()}", file) from error
    if len(frame) != rows:
        raise _bad("E-DATA", f"got {len(frame)} lines after the sizes, expected {rows}", file)
    found = frame.to_numpy()
    wrong = np.isnan(found[:, :columns]).any(axis=1) | ~np.isnan(found[:, columns])
    if wrong.any():
        at = int(np.argmax(wrong)) + 1
        raise _bad("E-DATA", f"line {at} after the sizes is not {columns} numbers", file)
    return found[:, :columns]


def _coordinates(entries: np.ndarray, sizes: list[int], symmetry: str, file: str) -> Any:
    from scipy import sparse  # slow to import: only when a sparse matrix is read

    indices = entries[:, :2]
    bad = ((indices < 1) | (indices > sizes[:2]) | (indices % 1 != 0)).any(axis=1)
    if bad.any():
        at = int(np.argmax(bad))
        got = f"({indices[at, 0]:g}, {indices[at, 1]:g}) at entry {at}"
        raise _bad("E-SPARSE", f"got index {got}, expected whole numbers from 1 to {tuple(sizes[:2])}", file)
    rows, columns = (indices - 1).astype(np.int64).T
    values = entries[:, 2] if entries.shape[1] == 3 else np.ones(len(entries))
    sign, off = _SIGNS[symmetry], rows != columns
    if sign:
        _square(sizes, symmetry, file)
        rows, columns, values = (
            np.concatenate([rows, columns[off]]),
            np.concatenate([columns, rows[off]]),
            np.concatenate([values, sign * values[off]]),
        )
    return sparse.coo_array((values, (rows, columns)), shape=(sizes[0], sizes[1]))


def _count(sizes: list[int], symmetry: str) -> int:
    n, d = sizes
    return {"general": n * d, "symmetric": n * (n + 1) // 2, "skew-symmetric": n * (n - 1) // 2}[symmetry]


def _dense(values: np.ndarray, sizes: list[int], symmetry: str, file: str) -> np.ndarray:
    sign = _SIGNS[symmetry]
    if not sign:
        return np.ascontiguousarray(values.reshape(sizes[::-1]).T)
    _square(sizes, symmetry, file)
    found = np.zeros(sizes)
    columns, rows = np.triu_indices(sizes[0], k=0 if sign > 0 else 1)  # column by column, below the diagonal
    found[columns, rows] = sign * values
    found[rows, columns] = values
    return found


def _square(sizes: list[int], symmetry: str, file: str) -> None:
    if sizes[0] != sizes[1]:
        raise _bad("E-SHAPE", f"got shape {tuple(sizes[:2])}, expected a square matrix: it is {symmetry}", file)


def _bad(code: str, message: str, file: str) -> InputError:
    return InputError(Problem(code, message, file=file))
