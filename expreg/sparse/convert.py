"""Make a `Sparse` from what people have; every index and every value is checked once, on the host."""

from typing import Any

import numpy as np

from expreg.errors import InputError, Problem
from expreg.sparse.matrix import Sparse, cut, to_scipy
from expreg.types import Array

_LARGE = 2**31  # what an index of 32 bits cannot hold
_COMPRESSED = ("csr", "csc", "bsr")


def from_any(matrix: Any, *, name: str = "A") -> Sparse | Array:
    """Return a Sparse for anything sparse (scipy.sparse, BCOO, Sparse), and any other array unchanged."""
    if isinstance(matrix, Sparse):
        return matrix
    if hasattr(matrix, "tocoo") and hasattr(matrix, "format"):
        return from_scipy(matrix, name=name)
    if type(matrix).__name__ == "BCOO":
        return from_bcoo(matrix, name=name)
    return matrix


def from_entries(data: Any, rows: Any, columns: Any, shape: tuple[int, int], *, name: str = "A") -> Sparse:
    """Return the matrix with the entries `data[k]` at (`rows[k]`, `columns[k]`), on the host.

    The entries must be sorted by row, then by column, each position at most once. Raises InputError naming the
    first entry that is out of range, out of order, repeated or not finite.
    """
    values, i, j = real(np.asarray(data), name), np.asarray(rows), np.asarray(columns)
    if not values.shape == i.shape == j.shape or values.ndim != 1:
        shapes = f"data {values.shape}, rows {i.shape}, columns {j.shape}"
        raise _refused(name, f"got {shapes}, expected three arrays of one length")
    _within(i, j, shape, name)
    step = np.diff(i.astype(np.int64) * shape[1] + j)
    if (step <= 0).any():
        at = int(np.argmax(step <= 0)) + 1
        what = "repeats the one before" if step[at - 1] == 0 else "comes after a later one"
        rule = "expected entries sorted by row, then by column, each position once"
        raise _refused(name, f"entry {at} at ({i[at]}, {j[at]}) {what}; {rule}")
    finite(values, name, i, j)
    return _assemble(values, i.astype(np.int32), j.astype(np.int32), (int(shape[0]), int(shape[1])))


def from_scipy(matrix: Any, *, name: str = "A") -> Sparse:
    """Return any scipy.sparse matrix or array as a Sparse on the host.

    Rows with unsorted columns are sorted; a position that stands there twice is refused, not summed. Raises
    InputError, also for indices that are out of range or pointers that decrease.
    """
    if matrix.format not in _COMPRESSED:
        entries = matrix.tocoo()
        return _sorted(entries.data, entries.coords[0], entries.coords[1], matrix.shape, name)
    compressed = matrix if matrix.format != "bsr" else _blocks(matrix, name)
    major, pointers = compressed.shape[compressed.format == "csc"], compressed.indptr
    counts = np.diff(pointers)
    if pointers.shape != (major + 1,) or pointers[0] != 0 or (counts < 0).any():
        at = int(np.argmax(counts < 0)) if (counts < 0).any() else 0
        raise _refused(name, f"index pointer {at} is {pointers[at]}, expected {major + 1} that start at 0 and grow")
    if pointers[-1] != len(compressed.data) or len(compressed.data) != len(compressed.indices):
        counted = f"{len(compressed.data)} values and {len(compressed.indices)} indices"
        raise _refused(name, f"got {counted}, the last index pointer is {pointers[-1]}; expected the same number")
    owners = np.repeat(np.arange(major), counts)
    rows, columns = (owners, compressed.indices) if compressed.format == "csr" else (compressed.indices, owners)
    return _sorted(compressed.data, rows, columns, matrix.shape, name)


def to_csr(matrix: Any, *, name: str = "A") -> Any:
    """Return any scipy.sparse matrix as a csr array with sorted columns; raises InputError as `from_scipy` does."""
    from scipy import sparse  # slow to import: only at the edge

    if matrix.ndim != 2:
        raise InputError(Problem("E-SHAPE", f"got shape {matrix.shape}, expected (n, d)", key=name))
    try:
        # before SciPy converts: of unsound indices it reads and writes beyond the end of its arrays
        if matrix.format in _COMPRESSED:
            matrix.check_format(full_check=True)
        elif matrix.format == "coo":
            sparse.coo_array((matrix.data, matrix.coords), shape=matrix.shape)
        found = sparse.csr_array(matrix)
        found = found if found.has_sorted_indices else found.sorted_indices()
        # the sum of what stands at one position is nobody's number
        if found.has_canonical_format and (matrix.format != "coo" or found.nnz == matrix.nnz):
            return found
    except ValueError:
        pass
    return to_scipy(from_scipy(matrix, name=name))


def _blocks(matrix: Any, name: str) -> Any:
    """Return a sound bsr matrix as csr."""
    try:
        matrix.check_format(full_check=True)
    except ValueError as error:
        raise _refused(name, f"got a bsr matrix whose blocks are not sound: {error}") from error
    return matrix.tocsr()


def from_bcoo(matrix: Any, *, name: str = "A") -> Sparse:
    """Return a jax.experimental.sparse.BCOO of two sparse dimensions as a Sparse on the host; raises InputError."""
    if matrix.n_batch or matrix.n_dense or matrix.ndim != 2:
        raise _refused(name, f"got a BCOO of shape {matrix.shape} with batch or dense dimensions, expected (n, d)")
    rows, columns = np.asarray(matrix.indices).T
    return _sorted(np.asarray(matrix.data), rows, columns, matrix.shape, name)


def from_dense(array: Any, *, name: str = "A") -> Sparse:
    """Return the non-zero entries of a dense array (n, d) as a Sparse on the host; raises InputError."""
    dense = np.asarray(array)
    if dense.ndim != 2:
        raise InputError(Problem("E-SHAPE", f"got shape {dense.shape}, expected (n, d)", key=name))
    rows, columns = np.nonzero(dense)
    return from_entries(dense[rows, columns], rows, columns, dense.shape, name=name)


def _sorted(data: Any, rows: Any, columns: Any, shape: tuple[int, int], name: str) -> Sparse:
    """Make a matrix of entries in any order: formats without an order of their own come through here."""
    _within(rows, columns, shape, name)
    flat = rows.astype(np.int64) * shape[1] + columns
    order = slice(None) if (np.diff(flat) > 0).all() else np.argsort(flat, kind="stable")
    return from_entries(data[order], rows[order], columns[order], shape, name=name)


def _within(i: np.ndarray, j: np.ndarray, shape: tuple[int, int], name: str) -> None:
    for index, limit, what in ((i, shape[0], "row"), (j, shape[1], "column")):
        if index.dtype.kind not in "iu":
            raise _refused(name, f"{what} indices are {index.dtype}, expected integers")
        if limit >= _LARGE or len(index) >= _LARGE:
            raise _refused(name, f"got {len(index)} entries over {limit} {what}s, expected fewer than 2^31 of each")
        bad = (index < 0) | (index >= limit)
        if bad.any():
            at = int(np.argmax(bad))
            raise _refused(name, f"{what} index {index[at]} at entry {at}, expected 0..{limit - 1}")


def _assemble(values: np.ndarray, i: np.ndarray, j: np.ndarray, shape: tuple[int, int]) -> Sparse:
    from scipy import sparse  # slow to import: only at the edge

    starts = np.searchsorted(i, np.arange(shape[0] + 1)).astype(np.int32)
    transposed = sparse.csr_array((values, j, starts), shape=shape).tocsc()
    return Sparse(
        data=values,
        columns=j,
        rows=i,
        starts=starts,
        by_row=cut(values, j, starts),
        by_column=cut(transposed.data, transposed.indices, transposed.indptr),
        shape=shape,
        longest=int(np.diff(starts).max(initial=1)),
    )


def real(values: np.ndarray, name: str) -> np.ndarray:
    """Return an array as float32 or float64; raise InputError where it is not real."""
    if values.dtype.kind not in "biuf":
        raise InputError(Problem("E-DTYPE", f"got an array of {values.dtype}, expected real numbers", key=name))
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float64)


def finite(values: np.ndarray, name: str, *index: np.ndarray) -> None:
    """Raise InputError naming the first entry that is not finite; entry k has the places `index[...][k]`."""
    bad = ~np.isfinite(values)
    if bad.any():
        at, count = int(np.argmax(bad)), int(bad.sum())
        place = [part[at] for part in index] or np.unravel_index(at, values.shape)
        message = f"got {values.flat[at]}, expected finite ({count} such value{'s' * (count > 1)})"
        raise InputError(Problem("E-DATA", message, key=f"{name}[{','.join(map(str, place))}]"))


def _refused(name: str, message: str) -> InputError:
    return InputError(Problem("E-SPARSE", message, key=name))
