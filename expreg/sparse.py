"""Sparse matrices as a pytree: rows sorted, products as sorted segment sums, checked once on the host.

A `Sparse` is a compressed-row matrix whose leaves are plain arrays, so it goes through `jit`, `vmap` (over
`data` or over the vector) and `grad` like any other argument. Every function of this file takes a dense array
(n, d) as well, and so solvers do not ask which of the two they were given. Built from NumPy arrays and not yet
on a device, products run on the host: SciPy's loops, one block of rows per core.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from expreg.errors import InputError, Problem
from expreg.types import Array

_LARGE = 2**31  # what an index of 32 bits cannot hold
_MANY = 200_000  # entries below which a second thread costs more than it gives


@partial(jax.tree_util.register_dataclass, data_fields=("data", "columns", "rows", "starts"), meta_fields=("shape",))
@dataclass(frozen=True)
class Sparse:
    """A sparse matrix (n, d) with its entries in the order of their rows, then of their columns.

    `data` (nnz,) values; `columns` and `rows` (nnz,) 32-bit indices; `starts` (n + 1,): row i holds the entries
    `starts[i]` to `starts[i + 1]`. Make one with `from_scipy`, `from_bcoo`, `from_dense` or `from_entries`, which
    check; the constructor does not.
    """

    data: Array
    columns: Array
    rows: Array
    starts: Array
    shape: tuple[int, int]

    @property
    def nnz(self) -> int:
        """Return the number of stored entries."""
        return self.data.shape[-1]

    @property
    def dtype(self) -> Any:
        """Return the type of the entries."""
        return self.data.dtype

    @property
    def ndim(self) -> int:
        """Return 2, as for a dense matrix."""
        return 2


Matrix = Any  # a Sparse, or a dense Array (n, d)


# --- products ---------------------------------------------------------------------------------------


def matvec(A: Matrix, x: Array) -> Array:
    """Return A x, (n,), for a vector x (d,); 2 nnz flops."""
    if not isinstance(A, Sparse):
        return A @ x
    if _on_host(A, x):
        return _host_matvec(A, x)
    return jax.ops.segment_sum(A.data * x[A.columns], A.rows, A.shape[0], indices_are_sorted=True)


def rmatvec(A: Matrix, y: Array) -> Array:
    """Return A^T y, (d,), for a vector y (n,); 2 nnz flops."""
    if not isinstance(A, Sparse):
        return y @ A
    if _on_host(A, y):
        return _host_rmatvec(A, y)
    return jax.ops.segment_sum(A.data * y[A.rows], A.columns, A.shape[1])


def gram(A: Matrix, weights: Array) -> Array:
    """Return A^T diag(weights) A, (d, d), for weights (n,) of any sign; dense n d^2, sparse n d^2 in dense blocks."""
    if not isinstance(A, Sparse):
        return (A * weights[:, None]).T @ A
    return to_dense(A).T @ to_dense(scale_rows(A, weights))


def row_norms(A: Matrix) -> Array:
    """Return the 2-norms of the rows, (n,)."""
    if not isinstance(A, Sparse):
        return jnp.sqrt(jnp.sum(A * A, axis=1))
    return jnp.sqrt(jax.ops.segment_sum(A.data**2, A.rows, A.shape[0], indices_are_sorted=True))


def scale_rows(A: Matrix, weights: Array) -> Matrix:
    """Return diag(weights) A, sparse where A is."""
    if not isinstance(A, Sparse):
        return A * weights[:, None]
    return replace(A, data=A.data * weights[A.rows])


def to_dense(A: Matrix) -> Array:
    """Return the dense matrix (n, d)."""
    if not isinstance(A, Sparse):
        return A
    return jnp.zeros(A.shape, A.dtype).at[A.rows, A.columns].add(A.data)


def nnz(A: Matrix) -> int:
    """Return the number of stored entries; n d for a dense matrix."""
    return A.nnz if isinstance(A, Sparse) else A.shape[0] * A.shape[1]


# --- the host's own products ------------------------------------------------------------------------


def _on_host(A: Sparse, vector: Array) -> bool:
    """Return True where nothing is traced and nothing is on a device."""
    return isinstance(A.data, np.ndarray) and isinstance(vector, np.ndarray) and vector.ndim == 1


def to_scipy(A: Sparse) -> Any:
    """Return the same matrix as a scipy.sparse.csr_array; shares memory with one that is on the host."""
    from scipy import sparse  # slow to import: only at the edge

    parts = (np.asarray(A.data), np.asarray(A.columns), np.asarray(A.starts))
    found = sparse.csr_array(parts, shape=A.shape)
    found.has_canonical_format = True  # as checked when A was made
    return found


def _host_matvec(A: Sparse, x: np.ndarray) -> np.ndarray:
    matrix = to_scipy(A)
    return np.concatenate(list(_map(lambda block: matrix[block] @ x, _blocks(A)))) if A.nnz > _MANY else matrix @ x


def _host_rmatvec(A: Sparse, y: np.ndarray) -> np.ndarray:
    matrix = to_scipy(A)
    if A.nnz <= _MANY:
        return matrix.T @ y
    return sum(_map(lambda block: matrix[block].T @ y[block], _blocks(A)), np.zeros(A.shape[1]))


def _blocks(A: Sparse) -> list[slice]:
    """Return one slice of rows per core with about as many entries each."""
    count = _cores()
    edges = np.searchsorted(A.starts, np.linspace(0, A.nnz, count + 1)[1:-1])
    return [slice(int(a), int(b)) for a, b in zip([0, *edges], [*edges, A.shape[0]], strict=True)]


def _map(function: Any, blocks: list[slice]) -> Any:
    return _pool().map(function, blocks)  # SciPy's loops release the interpreter lock


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_cores(), thread_name_prefix="expreg-sparse")


# --- making one -------------------------------------------------------------------------------------


def from_entries(data: Any, rows: Any, columns: Any, shape: tuple[int, int], *, name: str = "A") -> Sparse:
    """Return the matrix with the entries `data[k]` at (`rows[k]`, `columns[k]`), on the host.

    The entries must be sorted by row, then by column, each position at most once. Raises InputError naming the
    first entry that is out of range, out of order, repeated or not finite.
    """
    values = _real(np.asarray(data), name)
    i, j = (_indices(index, what, name) for index, what in ((rows, "row"), (columns, "column")))
    if not values.shape == i.shape == j.shape or values.ndim != 1:
        shapes = f"data {values.shape}, rows {i.shape}, columns {j.shape}"
        raise _refused(name, f"got {shapes}, expected three arrays of one length")
    for index, limit, what in ((i, shape[0], "row"), (j, shape[1], "column")):
        _within(index, limit, what, name)
    flat = i.astype(np.int64) * shape[1] + j
    step = np.diff(flat)
    if (step <= 0).any():
        at = int(np.argmax(step <= 0)) + 1
        what = "repeats the one before" if step[at - 1] == 0 else "comes after a later one"
        rule = "expected entries sorted by row, then by column, each position once"
        raise _refused(name, f"entry {at} at ({i[at]}, {j[at]}) {what}; {rule}")
    starts = np.searchsorted(i, np.arange(shape[0] + 1)).astype(np.int32)
    found = Sparse(values, j.astype(np.int32), i.astype(np.int32), starts, (int(shape[0]), int(shape[1])))
    return _finite(found, name)


def from_scipy(matrix: Any, *, name: str = "A") -> Sparse:
    """Return any scipy.sparse matrix or array as a Sparse on the host.

    Rows with unsorted columns are sorted; a position that stands there twice is refused, not summed. Raises
    InputError, also for indices that are out of range or pointers that decrease.
    """
    if matrix.format not in ("csr", "csc", "bsr"):
        entries = matrix.tocoo()
        return _sorted(entries.data, entries.coords[0], entries.coords[1], matrix.shape, name)
    compressed = matrix if matrix.format != "bsr" else matrix.tocsr()
    major, pointers = compressed.shape[compressed.format == "csc"], compressed.indptr
    counts = np.diff(pointers)
    if pointers.shape != (major + 1,) or pointers[0] != 0 or (counts < 0).any():
        at = int(np.argmax(counts < 0)) if (counts < 0).any() else 0
        raise _refused(name, f"index pointer {at} is {pointers[at]}, expected {major + 1} that start at 0 and grow")
    if pointers[-1] != len(compressed.data) or len(compressed.data) != len(compressed.indices):
        held = f"{len(compressed.data)} values and {len(compressed.indices)} indices"
        raise _refused(name, f"got {held}, the last index pointer is {pointers[-1]}; expected the same number")
    owners = np.repeat(np.arange(major), counts)
    rows, columns = (owners, compressed.indices) if compressed.format == "csr" else (compressed.indices, owners)
    return _sorted(compressed.data, rows, columns, matrix.shape, name)


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
    i, j = _indices(rows, "row", name), _indices(columns, "column", name)
    for index, limit, what in ((i, shape[0], "row"), (j, shape[1], "column")):
        _within(index, limit, what, name)
    flat = i.astype(np.int64) * shape[1] + j
    if (np.diff(flat) > 0).all():
        return from_entries(data, i, j, shape, name=name)
    order = np.argsort(flat, kind="stable")
    return from_entries(np.asarray(data)[order], i[order], j[order], shape, name=name)


def _indices(index: Any, what: str, name: str) -> np.ndarray:
    found = np.asarray(index)
    if found.dtype.kind not in "iu":
        raise _refused(name, f"{what} indices are {found.dtype}, expected integers")
    return found


def _within(index: np.ndarray, limit: int, what: str, name: str) -> None:
    if limit >= _LARGE or len(index) >= _LARGE:
        raise _refused(name, f"got {len(index)} entries over {limit} {what}s, expected fewer than 2^31 of each")
    bad = (index < 0) | (index >= limit)
    if bad.any():
        at = int(np.argmax(bad))
        raise _refused(name, f"{what} index {index[at]} at entry {at}, expected 0..{limit - 1}")


def _real(values: np.ndarray, name: str) -> np.ndarray:
    if values.dtype.kind not in "biuf":
        raise InputError(Problem("E-DTYPE", f"got {values.dtype}, expected real", key=name))
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float64)


def _finite(A: Sparse, name: str) -> Sparse:
    bad = ~np.isfinite(A.data)
    if bad.any():
        at, count = int(np.argmax(bad)), int(bad.sum())
        message = f"got {A.data[at]}, expected finite ({count} such value{'s' * (count > 1)})"
        raise InputError(Problem("E-DATA", message, key=f"{name}[{A.rows[at]},{A.columns[at]}]"))
    return A


def _refused(name: str, message: str) -> InputError:
    return InputError(Problem("E-SPARSE", message, key=name))
