"""Passes over a matrix on the host: dense arrays or scipy csr arrays, one block of rows per core.

SciPy's loops and BLAS release the interpreter lock. Measured on two cores: BLAS with threads of its own takes up to
ten times longer for a product with one vector than two Python threads with half of the rows each.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from expreg.types import Array, cores

MANY = 400_000  # entries below which a second thread costs more than it gives
FAR = 1e6  # norms of columns below it and above its inverse: float32 has room for the squares of their entries
BLOCK = 2**18  # entries of a dense block that stays in the second-level cache


class Rows(NamedTuple):
    """A matrix cut into one part per core: `parts[i]` has the rows `edges[i]` to `edges[i + 1]`."""

    whole: Any
    parts: tuple[Any, ...]
    edges: tuple[int, ...]
    shape: tuple[int, int]


def rows(A: Any) -> Rows:
    """Return A, a dense array or a scipy csr array, cut by rows."""
    count = cores() if (A.nnz if _is_csr(A) else A.size) > MANY else 1
    if count == 1:
        return Rows(A, (A,), (0, A.shape[0]), A.shape)
    edges = tuple(int(edge) for edge in np.linspace(0, A.shape[0], count + 1))
    return Rows(A, tuple(A[a:b] for a, b in pairwise(edges)), edges, A.shape)


def _is_csr(A: Any) -> bool:
    return not isinstance(A, np.ndarray)


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="expreg-rows")


def _map(function: Callable[[Any, slice], Array], A: Rows) -> list[Array]:
    if len(A.parts) == 1:
        return [function(A.whole, slice(None))]
    return list(_pool().map(function, A.parts, (slice(a, b) for a, b in pairwise(A.edges))))


def _sum(function: Callable[[Any, slice], Array], A: Rows) -> Array:
    found = _map(function, A)
    return found[0] if len(found) == 1 else np.sum(found, axis=0)


def matvec(A: Rows, x: Array) -> Array:
    """Return A x."""
    return A.whole @ x if len(A.parts) == 1 else np.concatenate(_map(lambda part, _: part @ x, A))


def rmatvec(A: Rows, Y: Array) -> Array:
    """Return A^T Y, Y of shape (n,) or (n, k)."""
    return _sum(lambda part, at: _transposed(part, Y[at]), A)


def _transposed(part: Any, Y: Array) -> Array:
    if Y.ndim == 1:
        return part.T @ Y
    columns = [np.ascontiguousarray(column) for column in Y.T]
    found = np.zeros((len(columns), part.shape[1]), dtype=Y.dtype)
    if _is_csr(part):
        for k, column in enumerate(columns):
            found[k] = part.T @ column
        return found.T
    for piece in _blocks(part):  # measured: faster than one product with a thin matrix
        for k, column in enumerate(columns):
            found[k] += column[piece] @ part[piece]
    return found.T


def _blocks(part: Array) -> list[slice]:
    size = max(1024, BLOCK // part.shape[1])
    return [slice(a, a + size) for a in range(0, part.shape[0], size)]


def product(A: Rows, D: Array, p: Array) -> tuple[Array, Array]:
    """Return (A^T (D o A p), A p); a dense A is read from memory once."""
    t = np.empty(A.shape[0], dtype=p.dtype)
    return _sum(lambda part, at: _product(part, D[at], p, t[at]), A), t


def _product(part: Any, D: Array, p: Array, t: Array) -> Array:
    if _is_csr(part):
        t[:] = part @ p
        return part.T @ (D * t)
    found = np.zeros_like(p)
    for piece in _blocks(part):
        np.matmul(part[piece], p, out=t[piece])
        found += (D[piece] * t[piece]) @ part[piece]
    return found


def gram(A: Rows, weights: Array) -> Array:
    """Return A^T diag(weights) A; half the flops where no weight is negative."""
    return _sum(lambda part, at: _gram(part, weights[at]), A)


def gram_in_single(A: Rows, weights: Array, norms: Array) -> Array:
    """Return A^T diag(weights) A by products of blocks in float32, in half the time: right to 1e-6 or so.

    `norms` (d,), of the size of those of the columns, bring these into the range of float32 where they may leave it.
    """
    far = None if norms.min() > 1 / FAR and norms.max() < FAR else norms  # dividing takes as long as the product
    return _sum(lambda part, at: _gram(part, weights[at], far, single=True), A).astype(weights.dtype)


def _gram(part: Any, weights: Array, norms: Array | None = None, *, single: bool = False) -> Array:
    """Return A^T diag(weights) A of some rows, by way of columns over their norms if these are given."""
    if _is_csr(part):
        scaled = _with(part, part.data * np.repeat(weights, np.diff(part.indptr)))
        return (part.T @ scaled).toarray()
    found = np.zeros((part.shape[1], part.shape[1]), dtype=part.dtype)
    least, most = float(weights.min(initial=0)), float(weights.max(initial=0))
    positive, top = least >= 0, max(most, -least) or 1.0  # divided by it no weight leaves the range of float32
    for piece in _blocks(part):
        factor, plain = weights[piece] / top, part[piece] if norms is None else part[piece] / norms
        plain = plain.astype(np.float32) if single else plain
        scaled = (np.sqrt(factor) if positive else factor)[:, None].astype(plain.dtype) * plain
        found += scaled.T @ (scaled if positive else plain)  # the same array twice: NumPy calls syrk
    return found * (top if norms is None else np.outer(top * norms, norms))


def _with(A: Any, data: Array) -> Any:
    """Return a csr array with the places of A, which are not copied, and these entries."""
    return type(A)((data, A.indices, A.indptr), shape=A.shape)


def row_squares(A: Any) -> Array:
    """Return the squared 2-norms of the rows, (n,)."""
    if _is_csr(A):
        return _with(A, A.data**2) @ np.ones(A.shape[1], A.dtype)
    return np.concatenate(_map(lambda part, _: np.einsum("ij,ij->i", part, part), rows(A)))


def column_norms(A: Any) -> Array:
    """Return the 2-norms of the columns, (d,)."""
    if _is_csr(A):
        return np.sqrt(_with(A, A.data**2).T @ np.ones(A.shape[0], A.dtype))
    return np.sqrt(_sum(lambda part, _: np.einsum("ij,ij->j", part, part), rows(A)))
