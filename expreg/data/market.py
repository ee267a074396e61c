"""Read Matrix Market files (.mtx): real, integer or pattern; general, symmetric, skew-symmetric or hermitian.

SciPy's reader is not used: on a damaged file it can end the process.
"""

import math
from array import array
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from expreg.data.arrays import MAX_BYTES, Arrays, Options, refusal
from expreg.data.text import each, lines, number, quoted
from expreg.errors import InputError, Problem

MAX_COLUMNS = 2**24  # of a sparse matrix: x is dense
MAX_ROWS = MAX_BYTES // 8  # of a sparse matrix: b is dense
_LAYOUTS = {"coordinate": 3, "array": 2}  # numbers in the line of sizes
_VALUES = {"real": 1, "integer": 1, "unsigned-integer": 1, "double": 1, "pattern": 0}
_SIGNS = {"general": 0, "symmetric": 1, "skew-symmetric": -1, "hermitian": 1}

Numbered = Iterator[tuple[int, list[str]]]
"""The words of lines, with their numbers."""


def read_market(source: IO[bytes], _: Options) -> Arrays:
    """Return the matrix of a Matrix Market file, float64: a scipy.sparse.coo_array, or a dense array.

    Raises InputError naming what is wrong with the header, a line or an index.
    """
    text = lines(source)
    layout, field, symmetry = _header(next(text, (1, ""))[1])
    rest: Numbered = ((line, words.split()) for line, words in text if words.strip() and not words.startswith("%"))
    n, d, *stored = _sizes(rest, _LAYOUTS[layout])
    bounded((n, d), dense=layout == "array")
    sign = _SIGNS[symmetry]
    if sign and n != d:
        raise refusal("E-SHAPE", f"got shape {(n, d)}, expected a square matrix: it is {symmetry}")
    if layout == "array":
        return _dense(rest, n, d, sign), None
    table, places = _table(rest, 2 + _VALUES[field], stored[0])
    values = table[:, 2] if _VALUES[field] else np.ones(len(table))
    rows, columns = _indices(table[:, :2], (n, d), places)
    return _sparse(values, rows, columns, (n, d), sign, places), None


def bounded(shape: tuple[int, ...], *, dense: bool = False) -> None:
    """Raise InputError for a shape that is not that of a matrix, or too large to be one."""
    if len(shape) != 2 or min(shape) < 1:
        raise refusal("E-SHAPE", f"got shape {shape}, expected (n, d), both at least 1")
    if dense and math.prod(shape) * 8 > MAX_BYTES:
        raise refusal("E-SIZE", f"the header declares shape {shape}, expected at most {MAX_BYTES >> 20} MiB")
    if shape[0] > MAX_ROWS or shape[1] > MAX_COLUMNS:
        raise refusal("E-SIZE", f"got shape {shape}, expected n <= 2^27 and d <= 2^24")


def _header(line: str) -> list[str]:
    """Return layout, field and symmetry."""
    words = line[:200].lower().split()
    if len(words) != 5 or words[:2] != ["%%matrixmarket", "matrix"]:
        raise _at(1, "E-DATA", "not a Matrix Market file; expected %%MatrixMarket matrix ... in the first line")
    if words[3] == "complex":
        raise _at(1, "E-DTYPE", "got complex, expected real")
    for word, known in zip(words[2:], (_LAYOUTS, _VALUES, _SIGNS), strict=True):
        if word not in known:
            raise _at(1, "E-ENUM", f"got {quoted(word)} in the first line, expected one of {' '.join(known)}")
    if words[2:4] == ["array", "pattern"]:
        raise _at(1, "E-DATA", "an array has values; got a pattern")
    return words[2:]


def _at(line: int, code: str, message: str) -> InputError:
    return InputError(Problem(code, message, line=line))


def _sizes(rest: Numbered, count: int) -> list[int]:
    """Return the numbers of the size line, the first that is no comment."""
    line, words = next(rest, (1, []))
    if len(words) != count or not all(word.isascii() and word.isdigit() and len(word) < 19 for word in words):
        raise _at(line, "E-DATA", f"got {quoted(' '.join(words))} as sizes, expected {count} whole numbers")
    return [int(word) for word in words]


def _table(rest: Numbered, columns: int, rows: int) -> tuple[np.ndarray, array]:
    """Return the numbers (rows, columns) of all lines that follow, and the number of each line."""
    values, places = array("d"), array("q")

    def take(line: int, words: list[str]) -> None:
        if len(words) != columns:
            raise refusal("E-DATA", f"got {quoted(' '.join(words))}, expected {columns} numbers")
        values.extend(map(number, words))
        places.append(line)

    each(rest, take)
    if len(places) != rows:
        message = f"got {len(places)} lines after the sizes, expected {rows}"
        raise _at(places[-1] if places else 1, "E-DATA", message)
    return np.frombuffer(values).reshape(rows, columns), places


def _dense(rest: Numbered, n: int, d: int, sign: int) -> np.ndarray:
    """Return a matrix that is stored column by column, of a symmetric one what is not above the diagonal."""
    if not sign:
        return np.ascontiguousarray(_table(rest, 1, n * d)[0].reshape(d, n).T)
    values = _table(rest, 1, n * (n + sign) // 2)[0][:, 0]
    columns, rows = np.triu_indices(n, k=0 if sign > 0 else 1)
    dense = np.zeros((n, d))
    dense[columns, rows] = sign * values
    dense[rows, columns] = values
    return dense


def _indices(indices: np.ndarray, shape: tuple[int, int], places: array) -> Any:
    """Return the rows and columns of the entries, counted from 0."""
    bad = np.flatnonzero(((indices < 1) | (indices > shape) | (np.floor(indices) != indices)).any(axis=1))

    def refuse(_: int, entry: int) -> None:
        got = f"({indices[entry, 0]:g}, {indices[entry, 1]:g})"
        raise refusal("E-SPARSE", f"got index {got}, expected whole numbers from 1 to {shape}")

    each(((places[entry], int(entry)) for entry in bad), refuse)
    return (indices - 1).astype(np.int64).T


def _sparse(
    values: np.ndarray, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int], sign: int, places: array
) -> Any:
    """Return the matrix of these entries and their mirror images; refuse a position that stands there twice."""
    from scipy import sparse  # slow to import: only when a sparse matrix is read

    entries, position = np.arange(len(values)), np.stack([rows, columns], axis=1) + 1
    if sign:
        off = rows != columns
        wrong = np.flatnonzero(~off & (values != 0) & (sign < 0))
        each(((places[entry], int(rows[entry])) for entry in wrong), _on_diagonal)
        entries = np.concatenate([entries, entries[off]])
        rows, columns = np.concatenate([rows, columns[off]]), np.concatenate([columns, rows[off]])
        values = np.concatenate([values, sign * values[off]])
    order = np.argsort(rows * shape[1] + columns, kind="stable")
    rows, columns, entries = rows[order], columns[order], entries[order]
    twice = np.flatnonzero((rows[1:] == rows[:-1]) & (columns[1:] == columns[:-1]))
    # of a pair that stands in both triangles its mirror image says the same
    pairs = np.unique(np.sort(np.stack([entries[twice], entries[twice + 1]], axis=1), axis=1), axis=0)

    def refuse(_: int, pair: np.ndarray) -> None:
        there = tuple(map(int, position[pair[1]]))
        twin = "" if (position[pair[0]] == there).all() else " mirrored: one triangle is enough"
        raise refusal("E-SPARSE", f"entry {there} is that of line {places[pair[0]]}{twin or ' again'}")

    each(((places[pair[1]], pair) for pair in pairs), refuse)
    return sparse.coo_array((values[order], (rows, columns)), shape=shape)


def _on_diagonal(_: int, row: int) -> None:
    message = f"got a value at ({row + 1}, {row + 1}), the diagonal of a skew-symmetric matrix; expected 0"
    raise refusal("E-SPARSE", message)
