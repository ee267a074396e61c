"""The JAX backend: everything traces, so a whole step goes through jit and vmap, on any device."""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from expreg import sparse
from expreg.solver.state import Backend
from expreg.sparse import Matrix, Sparse
from expreg.types import Array


def rmatvec(A: Matrix, Y: Array) -> Array:
    """Return A^T Y, Y of shape (n,) or (n, k)."""
    if Y.ndim == 1:
        return sparse.rmatvec(A, Y)
    if not isinstance(A, Sparse):
        return A.T @ Y
    if Y.shape[1] == 0:
        return jnp.zeros((A.shape[1], 0), Y.dtype)
    return jax.vmap(lambda y: sparse.rmatvec(A, y), in_axes=1, out_axes=1)(Y)


def product(A: Matrix, D: Array, p: Array) -> tuple[Array, Array]:
    """Return (A^T (D o A p), A p)."""
    t = sparse.matvec(A, p)
    return sparse.rmatvec(A, D * t), t


def factor(H: Array) -> tuple[Array, Array]:
    """Return (lower Cholesky factor, whether there is one)."""
    found = jnp.linalg.cholesky(H)
    return found, jnp.all(jnp.isfinite(found))


def backsolve(L: Array, r: Array) -> Array:
    """Return (L L^T)^{-1} r."""
    return cho_solve((L, True), r)


def column_norms(A: Matrix) -> Array:
    """Return the 2-norms of the columns, (d,); 1 for a column of zeros, which is then never divided by."""
    if isinstance(A, Sparse):
        squares = jax.ops.segment_sum(A.data**2, A.columns, A.shape[1])
    else:
        squares = jnp.sum(A * A, axis=0)
    return jnp.sqrt(jnp.where(squares > 0, squares, 1))


TRACED = Backend(jnp, sparse.matvec, rmatvec, sparse.gram, product, factor, backsolve, jax.lax.while_loop)
