"""The NumPy backend: no compilation, BLAS and SciPy's sparse loops, one block of rows per core.

Measured on two cores: BLAS with threads of its own takes up to ten times longer for a product with one vector
than two Python threads that hold half of the rows each, so BLAS is limited to one thread while a solver runs.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from scipy import linalg, sparse

from expreg.solver.state import Backend
from expreg.types import Array, Tree, cores

MANY = 400_000
"""Entries below which a second thread costs more than it gives."""
BLOCK = 2**18
"""Entries of a dense block that stays in the second-level cache."""


class Rows(NamedTuple):
    """A matrix cut into one part per core: dense arrays or scipy csr arrays, rows `edges[i]` to `edges[i + 1]`."""

    whole: Any
    parts: tuple[Any, ...]
    edges: tuple[int, ...]
    shape: tuple[int, int]


def rows(A: Any) -> Rows:
    """Return A, a dense array or a scipy csr array, cut by rows."""
    entries = A.nnz if _is_csr(A) else A.size
    count = cores() if entries > MANY else 1
    edges = tuple(int(edge) for edge in np.linspace(0, A.shape[0], count + 1))
    parts = (A,) if count == 1 else tuple(A[a:b] for a, b in pairwise(edges))
    return Rows(A, parts, edges, A.shape)


def _is_csr(A: Any) -> bool:
    return bool(sparse.issparse(A))


@contextmanager
def calm() -> Iterator[None]:
    """Keep BLAS to one thread, and NumPy silent about the infinities that the line search steps over."""
    with _libraries().limit(limits=1, user_api="blas"), np.errstate(all="ignore"):
        yield


@lru_cache(maxsize=1)
def _libraries() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()  # looking for the loaded libraries takes milliseconds: once


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="expreg-solver")


def _map(function: Callable[[Any, slice], Any], A: Rows) -> list[Any]:
    pieces = [slice(a, b) for a, b in pairwise(A.edges)]
    if len(pieces) == 1:
        return [function(A.parts[0], pieces[0])]
    return list(_pool().map(function, A.parts, pieces))


def matvec(A: Rows, x: Array) -> Array:
    """Return A x."""
    found = _map(lambda part, _: part @ x, A)
    return found[0] if len(found) == 1 else np.concatenate(found)


def rmatvec(A: Rows, Y: Array) -> Array:
    """Return A^T Y, Y of shape (n,) or (n, k)."""
    return _total(_map(lambda part, at: _transposed(part, Y[at]), A))


def _transposed(part: Any, Y: Array) -> Array:
    if Y.ndim == 1:
        return part.T @ Y
    columns = [np.ascontiguousarray(column) for column in Y.T]
    found = np.zeros((len(columns), part.shape[1]), dtype=Y.dtype)
    if _is_csr(part):
        for k, column in enumerate(columns):
            found[k] = part.T @ column
        return found.T
    size = _block(part)
    for a in range(0, part.shape[0], size):  # measured: faster than one product with a thin matrix
        for k, column in enumerate(columns):
            found[k] += column[a : a + size] @ part[a : a + size]
    return found.T


def _block(part: Array) -> int:
    return max(1024, BLOCK // part.shape[1])


def _total(found: list[Array]) -> Array:
    return found[0] if len(found) == 1 else np.sum(found, axis=0)


def product(A: Rows, D: Array, p: Array) -> tuple[Array, Array]:
    """Return (A^T (D o A p), A p); a dense A is read from memory once."""
    t = np.empty(A.shape[0], dtype=p.dtype)
    return _total(_map(lambda part, at: _product(part, D[at], p, t[at]), A)), t


def _product(part: Any, D: Array, p: Array, t: Array) -> Array:
    if _is_csr(part):
        t[:] = part @ p
        return part.T @ (D * t)
    found, size = np.zeros_like(p), _block(part)
    for a in range(0, part.shape[0], size):
        block, at = part[a : a + size], slice(a, a + size)
        np.matmul(block, p, out=t[at])
        found += (D[at] * t[at]) @ block
    return found


def gram(A: Rows, weights: Array) -> Array:
    """Return A^T diag(weights) A; half the flops where no weight is negative."""
    return _total(_map(lambda part, at: _gram(part, weights[at]), A))


def _gram(part: Any, weights: Array) -> Array:
    if _is_csr(part):
        scaled = part.copy()
        scaled.data = part.data * np.repeat(weights, np.diff(part.indptr))
        return (part.T @ scaled).toarray()
    d = part.shape[1]
    found, size = np.zeros((d, d), dtype=part.dtype), _block(part)
    positive = bool(np.all(weights >= 0))
    factor = (np.sqrt(weights) if positive else weights)[:, None]
    for a in range(0, part.shape[0], size):
        block = part[a : a + size]
        scaled = factor[a : a + size] * block
        found += scaled.T @ (scaled if positive else block)  # the same array twice: NumPy calls syrk
    return found


def sampled_gram(chosen: Rows, v: Array, L: Array, C: Array) -> Array:
    """Return B^T B, (d, d), for B = diag(v) A - L C^T of some chosen rows of A (F.11); L (rows, r), C (d, r)."""
    both = gram(chosen, v * v)
    if L.shape[1] == 0:
        return both
    cross = rmatvec(chosen, v[:, None] * L) @ C.T
    return both - cross - cross.T + C @ (L.T @ L) @ C.T


def row_squares(A: Any) -> Array:
    """Return the squared 2-norms of the rows, (n,), of a dense or csr array."""
    if _is_csr(A):
        return _squared(A) @ np.ones(A.shape[1], A.dtype)
    return np.concatenate(_map(lambda part, _: np.einsum("ij,ij->i", part, part), rows(A)))


def column_norms(A: Any) -> Array:
    """Return the 2-norms of the columns, (d,), of a dense or csr array."""
    if _is_csr(A):
        return np.sqrt(_squared(A).T @ np.ones(A.shape[0], A.dtype))
    return np.sqrt(_total(_map(lambda part, _: np.einsum("ij,ij->j", part, part), rows(A))))


def _squared(A: Any) -> Any:
    return sparse.csr_array((A.data * A.data, A.indices, A.indptr), shape=A.shape)


def factor(H: Array) -> tuple[Array, Array]:
    """Return (lower Cholesky factor, whether there is one)."""
    cholesky = linalg.lapack.spotrf if H.dtype == np.float32 else linalg.lapack.dpotrf
    found, info = cholesky(H, lower=True, clean=True)
    return found, np.asarray(info == 0)


def backsolve(L: Array, r: Array) -> Array:
    """Return (L L^T)^{-1} r."""
    return linalg.cho_solve((L, True), r, check_finite=False)


def while_loop(condition: Callable[[Tree], Any], body: Callable[[Tree], Tree], state: Tree) -> Tree:
    """Return what `body` makes of the state while `condition` holds, as jax.lax.while_loop."""
    while condition(state):
        state = body(state)
    return state


HOST = Backend(np, matvec, rmatvec, gram, product, factor, backsolve, while_loop)
