"""Leverage scores: how much each row matters to the Gram matrix, exactly or from a sketch."""

import jax
import jax.numpy as jnp
import numpy as np

from expreg.sketch import jacobian
from expreg.sketch.jacobian import Jacobian, of_weights, sketch
from expreg.sketch.oblivious import osnap
from expreg.sparse import Matrix, Sparse, matvec
from expreg.types import Array

_BLOCK = 2**18  # numbers in a block of rows
SIZE = 8
"""Rows of the sketch behind `sketched_leverage`, in units of d: leverage scores tolerate a distortion of 1/2."""


def leverage(A: Matrix, weights: Array) -> Array:
    """Return the leverage scores of diag(weights)^(1/2) A exactly (F.2), (n,), for weights (n,) >= 0.

    tau_i = D_i a_i^T (A^T D A)^+ a_i; they lie in [0, 1] and sum to the rank. By QR in blocks of rows, n d^2 flops:
    relative errors grow with the condition number, not with its square. Dependent columns are allowed.
    """
    return leverage_of(of_weights(A, weights))


def leverage_of(J: Jacobian) -> Array:
    """Return the leverage scores of the rows of a Jacobian exactly (F.2), (n,); with a regulariser of row pairs."""
    return _norms(J, _whitening(_triangle(J)))


def sketched_leverage(
    key: Array, J: Jacobian, *, size: int | None = None, probes: int | None = None, floor: float = 0.0
) -> Array:
    """Return approximate leverage scores (F.3), (n,), in nnz(A) probes + size d^2 flops.

    R comes from the QR of an OSNAP sketch of J with `size` rows (default: 8 d); the scores are ||m_i R^-1 G||^2,
    G (d, probes) with entries N(0, 1/probes), or ||m_i R^-1||^2 without `probes`. Within the extreme eigenvalues of
    R^-T H R^-1 of the exact scores, and the factor 1 +- O(sqrt(log(n) / probes)). `floor` is added to each, in units
    of the mean score d/n: what is drawn from the scores then never misses a row that the sketch did not see.
    """
    first, second = jax.random.split(key)
    n, d = J.A.shape
    R = jnp.linalg.qr(sketch(osnap(first, n, min(size or SIZE * d, 4 * n)), J), mode="r")
    whitening = _whitening(R)
    if probes is not None:
        whitening = whitening @ (jax.random.normal(second, (whitening.shape[1], probes)) / np.sqrt(probes))
    return _norms(J, whitening) + floor * d / n


def _norms(J: Jacobian, B: Array) -> Array:
    """Return the squared norms of the rows of J B plus those of diag(w) A B, (n,); nnz(A) per column of B."""
    return _norms_by_column(J, B) if isinstance(J.A, Sparse) else _norms_by_block(J, B)


def _norms_by_column(J: Jacobian, B: Array) -> Array:
    def add(total: Array, inputs: tuple[Array, Array]) -> tuple[Array, None]:
        column, shift = inputs
        product = matvec(J.A, column)
        along = J.v * product if J.b is None else J.v * product - J.b * shift
        total = total + along**2
        return (total if J.w is None else total + (J.w * product) ** 2), None

    shifts = jnp.zeros(B.shape[1], B.dtype) if J.c is None else J.c @ B
    return jax.lax.scan(add, jnp.zeros(J.A.shape[0], B.dtype), (B.T, shifts))[0]


def _norms_by_block(J: Jacobian, B: Array) -> Array:
    n, d = J.A.shape
    size = min(n, max(256, _BLOCK // d))

    def fill(i: Array, norms: Array) -> Array:
        first = jnp.minimum(i * size, n - size)  # the last block writes some rows of the one before again
        squares = jnp.sum((jacobian.rows(J, first + jnp.arange(size)) @ B) ** 2, axis=1)
        return jax.lax.dynamic_update_slice(norms, jnp.sum(squares.reshape(-1, size), axis=0), (first,))

    return jax.lax.fori_loop(0, -(-n // size), fill, jnp.zeros(n, B.dtype))


def _triangle(J: Jacobian) -> Array:
    """Return R (d, d) of the QR factorisation of all rows, block by block: stable, and no second array like A."""
    n, d = J.A.shape
    size = min(n, max(4 * d, _BLOCK // d))

    def fold(i: Array, R: Array) -> Array:
        index = jnp.minimum(i * size, n - size) + jnp.arange(size)
        block = jacobian.rows(J, index)
        fresh = jnp.tile(index >= i * size, 1 if J.w is None else 2)  # the last block overlaps the one before
        return jnp.linalg.qr(jnp.concatenate([R, jnp.where(fresh[:, None], block, 0)]), mode="r")

    return jax.lax.fori_loop(0, -(-n // size), fold, jnp.zeros((d, d), J.v.dtype))


def _whitening(R: Array) -> Array:
    """Return B with R B orthonormal on the range of R, zero on its kernel."""
    _, s, Vt = jnp.linalg.svd(R, full_matrices=False)
    small = s <= s[0] * max(R.shape) * jnp.finfo(s.dtype).eps
    return Vt.T * jnp.where(small, 0, 1 / jnp.where(small, 1, s))
