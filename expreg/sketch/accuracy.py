"""How many rows a sample needs, and how far a sampled Hessian is from the exact one."""

import math

import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from expreg.types import Array


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
