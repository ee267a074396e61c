"""Random points on the unit sphere with a prescribed geometry: pure functions of a key, unbatched, jit-able.

Each returns X, (n, d) with unit rows, in the default floating type (float64 when x64 is on). n and d are
static; angles and coherences may be traced, so that sweeping them compiles nothing.
"""

import jax
import jax.numpy as jnp
from jax import Array


def sphere(key: Array, n: int, d: int) -> Array:
    """Draw n independent uniform points on the unit sphere of R^d."""
    return _unit_rows(jax.random.normal(key, (n, d)))


def orthonormal(key: Array, n: int, d: int) -> Array:
    """Draw n <= d orthonormal rows, uniform (Haar): H^cts = e^2 I for exp (B.13)."""
    return _haar(key, d, n).T


def equiangular(key: Array, n: int, coherence: Array | float) -> Array:
    """Draw n unit points of R^n whose inner products all equal `coherence`, in a random orientation.

    The rows of K^{1/2} Q with K = (1 - c) I + c 1 1^T and Q orthogonal; -1 / (n - 1) <= c < 1. For exp,
    lambda_min(H^cts) = e^2 - c e^{1+c} for c >= 0 and does not depend on n.
    """
    own = jnp.sqrt(1 - coherence)
    shared = (jnp.sqrt(jnp.maximum(1 + (n - 1) * coherence, 0)) - own) / n  # the rest of the symmetric root
    return (own * jnp.eye(n) + shared) @ _haar(key, n, n)


def near_duplicate(key: Array, n: int, d: int, angle: Array | float) -> Array:
    """Draw n / 2 pairs of points, rows 2k and 2k + 1, each pair `angle` radians apart; n even, d >= 2.

    The middles of the pairs are independent and uniform. A small angle makes lambda_min(H^cts) small: it is
    of the order of angle^2.
    """
    key_middle, key_offset = jax.random.split(key)
    middle = sphere(key_middle, n // 2, d)
    offset = jax.random.normal(key_offset, (n // 2, d))
    offset = _unit_rows(offset - jnp.sum(offset * middle, axis=1, keepdims=True) * middle)
    centre, half = jnp.cos(angle / 2) * middle, jnp.sin(angle / 2) * offset
    return jnp.stack([centre + half, centre - half], axis=1).reshape(n, d)


def _unit_rows(X: Array) -> Array:
    return X / jnp.linalg.norm(X, axis=1, keepdims=True)


def _haar(key: Array, d: int, k: int) -> Array:
    """Draw k orthonormal columns of R^d; the signs of diag(R) make the QR factor of a Gaussian uniform."""
    Q, R = jnp.linalg.qr(jax.random.normal(key, (d, k)))
    return Q * jnp.where(jnp.diagonal(R) < 0, -1.0, 1.0)
