"""Read Matrix Market files (.mtx): real, integer or pattern; general, symmetric or skew-symmetric.

SciPy's reader is not used: on a damaged file it can end the process.
"""

import math
from typing import IO, Any

import numpy as np

from expreg.data.arrays import MAX_BYTES, Arrays, Options, refusal

MAX_COLUMNS = 2**24  # of a sparse matrix: x is dense
_LAYOUTS = {"coordinate": 3, "array": 2}  # numbers in the line of sizes
_VALUES = {"real": 1, "integer": 1, "double": 1, "pattern": 0}
_SIGNS = {"general": 0, "symmetric": 1, "skew-symmetric": -1}


def read_market(source: IO[bytes], _: Options) -> Arrays:
    """Return the matrix of a Matrix Market file, float64: a scipy.sparse.coo_array, or a dense array.

    Raises InputError naming what is wrong with the header, a line or an index.
    """
    layout, field, symmetry = _header(source)
    n, d, *stored = _sizes(source, _LAYOUTS[layout])
    bounded((n, d), dense=layout == "array")
    sign = _SIGNS[symmetry]
    if sign and n != d:
        raise refusal("E-SHAPE", f"got shape {(n, d)}, expected a square matrix: it is {symmetry}")
    if layout == "array" and not sign:
        return np.ascontiguousarray(_table(source, 1, n * d)[:, 0].reshape(d, n).T), None
    if layout == "array":
        columns, rows = np.triu_indices(n, k=0 if sign > 0 else 1)  # column by column, below the diagonal
        values = _table(source, 1, len(rows))[:, 0]
    else:
        table = _table(source, 2 + _VALUES[field], stored[0])
        rows, columns = _indices(table[:, :2], (n, d))
        values = table[:, 2] if _VALUES[field] else np.ones(len(table))
    if sign:
        off = rows != columns
        rows, columns = np.concatenate([rows, columns[off]]), np.concatenate([columns, rows[off]])
        values = np.concatenate([values, sign * values[off]])
    if layout == "array":
        dense = np.zeros((n, d))
        dense[rows, columns] = values
        return dense, None
    from scipy import sparse  # slow to import: only when a sparse matrix is read

    return sparse.coo_array((values, (rows, columns)), shape=(n, d)), None


def bounded(shape: tuple[int, ...], *, dense: bool = False) -> None:
    """Raise InputError for a shape that is not that of a matrix, or too large to be one."""
    if len(shape) != 2 or min(shape) < 1:
        raise refusal("E-SHAPE", f"got shape {shape}, expected (n, d), both at least 1")
    if dense and math.prod(shape) * 8 > MAX_BYTES:
        raise refusal("E-SIZE", f"the header declares shape {shape}, expected at most {MAX_BYTES >> 20} MiB")
    if shape[0] >= 2**31 or shape[1] > MAX_COLUMNS:
        raise refusal("E-SIZE", f"got shape {shape}, expected n < 2^31 and d <= 2^24")


def _header(source: IO[bytes]) -> list[str]:
    """Return layout, field and symmetry."""
    words = source.readline(200).decode("ascii", errors="replace").lower().split()
    if len(words) != 5 or words[:2] != ["%%matrixmarket", "matrix"]:
        raise refusal("E-DATA", "not a Matrix Market file; expected %%MatrixMarket matrix ... in the first line")
    if words[3] == "complex":
        raise refusal("E-DTYPE", "got complex, expected real")
    for word, known in zip(words[2:], (_LAYOUTS, _VALUES, _SIGNS), strict=True):
        if word not in known:
            raise refusal("E-ENUM", f"got {word!r} in the first line, expected one of {' '.join(known)}")
    if words[2:4] == ["array", "pattern"]:
        raise refusal("E-DATA", "an array has values; got a pattern")
    return words[2:]


def _sizes(source: IO[bytes], count: int) -> list[int]:
    """Return the numbers of the size line, the first that is no comment."""
    line = source.readline()
    while line.startswith(b"%") or line.isspace():
        line = source.readline()
    words = line.split()
    if len(words) != count or not all(word.isdigit() and len(word) < 19 for word in words):
        raise refusal("E-DATA", f"got {line[:60]!r} as sizes, expected {count} whole numbers")
    return [int(word) for word in words]


def _table(source: IO[bytes], columns: int, rows: int) -> np.ndarray:
    """Return the numbers (rows, columns) of all lines that follow."""
    import pandas as pd  # slow to import: only when a Matrix Market file is read

    names = range(columns + 1)  # one more than there should be, to see lines that are too long
    try:
        frame = pd.read_csv(
            source, sep=r"\s+", header=None, names=names, index_col=False, dtype=np.float64, comment="%"
        )
    except (ValueError, OverflowError) as error:  # pandas' own parser errors are ValueErrors
        raise refusal("E-DATA", f"not readable as {columns} numbers per line: {str(error).strip()}") from error
    if len(frame) != rows:
        raise refusal("E-DATA", f"got {len(frame)} lines after the sizes, expected {rows}")
    found = frame.to_numpy()
    wrong = np.isnan(found[:, :columns]).any(axis=1) | ~np.isnan(found[:, columns])
    if wrong.any():
        raise refusal("E-DATA", f"line {np.argmax(wrong) + 1} after the sizes is not {columns} numbers")
    return found[:, :columns]


def _indices(indices: np.ndarray, shape: tuple[int, int]) -> Any:
    """Return the rows and columns of the entries, counted from 0."""
    bad = ((indices < 1) | (indices > shape) | (indices % 1 != 0)).any(axis=1)
    if bad.any():
        at = int(np.argmax(bad))
        got = f"({indices[at, 0]:g}, {indices[at, 1]:g}) at entry {at}"
        raise refusal("E-SPARSE", f"got index {got}, expected whole numbers from 1 to {shape}")
    return (indices - 1).astype(np.int64).T
