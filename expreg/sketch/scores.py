"""Leverage scores, exactly or from a sketch: how much each row matters to the Gram matrix, and how many are enough."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from expreg.sketch import jacobian
from expreg.sketch.jacobian import Jacobian, of_weights, sketch
from expreg.sketch.oblivious import osnap
from expreg.sparse import Matrix, Sparse, fold_blocks, matvec
from expreg.types import Array

_BLOCK = 2**18  # numbers in a block of rows
SIZE = 8  # rows of the sketch behind `sketched_leverage`, in units of d: singular values within 1 +- 1/2 are enough


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
    n, d = J.A.shape
    if isinstance(J.A, Sparse):
        shifts = jnp.zeros(B.shape[1], B.dtype) if J.c is None else J.c @ B

        def add(total: Array, inputs: tuple[Array, Array]) -> tuple[Array, None]:
            column, shift = inputs
            product = matvec(J.A, column)
            along = J.v * product if J.b is None else J.v * product - J.b * shift
            total = total + along**2
            return (total if J.w is None else total + (J.w * product) ** 2), None

        return jax.lax.scan(add, jnp.zeros(n, B.dtype), (B.T, shifts))[0]
    size = min(n, max(256, _BLOCK // d))

    def fill(norms: Array, first: Array, _: Array) -> Array:
        squares = jnp.sum((jacobian.rows(J, first + jnp.arange(size)) @ B) ** 2, axis=1)
        return jax.lax.dynamic_update_slice(norms, jnp.sum(squares.reshape(-1, size), axis=0), (first,))

    return fold_blocks(n, size, fill, jnp.zeros(n, B.dtype))


def _triangle(J: Jacobian) -> Array:
    """Return R (d, d) of the QR factorisation of all rows, block by block: stable, and no second array like A."""
    n, d = J.A.shape
    size = min(n, max(4 * d, _BLOCK // d))

    def add(R: Array, first: Array, fresh: Array) -> Array:
        rows = jacobian.rows(J, first + jnp.arange(size))
        fresh = jnp.tile(fresh, len(rows) // size)
        return jnp.linalg.qr(jnp.concatenate([R, jnp.where(fresh[:, None], rows, 0)]), mode="r")

    return fold_blocks(n, size, add, jnp.zeros((d, d), J.v.dtype))


def _whitening(R: Array) -> Array:
    """Return B with R B orthonormal on the range of R, zero on its kernel."""
    _, s, Vt = jnp.linalg.svd(R, full_matrices=False)
    small = s <= s[0] * max(R.shape) * jnp.finfo(s.dtype).eps
    return Vt.T * jnp.where(small, 0, 1 / jnp.where(small, 1, s))


def sample_size(d: int, eps: float, delta: float, *, beta: float = 1.0) -> int:
    """Return the number of rows to draw by their leverage scores (F.6).

    s = 3 d / (beta eps^2) log(2 d / delta) gives (1 - eps) H <= H~ <= (1 + eps) H with probability at least
    1 - delta, for probabilities p_i >= beta tau_i / d (matrix Chernoff). Needs 0 < eps < 1 and 0 < delta < 1.
    """
    if not (0 < eps < 1 and 0 < delta < 1 and 0 < beta <= 1):
        message = f"got eps {eps}, delta {delta}, beta {beta}; expected 0 < eps < 1, 0 < delta < 1, 0 < beta <= 1"
        raise ValueError(message)
    return math.ceil(3 * d / (beta * eps**2) * math.log(2 * d / delta))


def oversampling(probabilities: Array, scores: Array) -> Array:
    """Return beta = min_i p_i d / tau_i (F.3): how well probabilities cover the exact scores; 1 if proportional."""
    covered = jnp.where(scores > 0, probabilities / jnp.where(scores > 0, scores, 1), jnp.inf)
    return jnp.min(covered) * jnp.sum(scores)


def distortion(H: Array, approximation: Array) -> Array:
    """Return ||H^(-1/2) H~ H^(-1/2) - I||, the smallest eps with (1 - eps) H <= H~ <= (1 + eps) H.

    For positive definite H (d, d); nan if it is not, or if it is too close to singular to say. 8 d^3 flops.
    """
    L = jnp.linalg.cholesky(H)
    half = solve_triangular(L, approximation, lower=True)
    whitened = solve_triangular(L, half.T, lower=True)
    return jnp.max(jnp.abs(jnp.linalg.eigvalsh((whitened + whitened.T) / 2) - 1))
