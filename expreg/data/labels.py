"""Labels for given points: pure functions of a key, unbatched, jit-able; |y_i| <= 1 throughout."""

import jax
import jax.numpy as jnp
from jax import Array


def sign(key: Array, n: int) -> Array:
    """Draw n independent labels, -1 or +1 with equal probability, (n,)."""
    return jax.random.rademacher(key, (n,), dtype=float)


def teacher(key: Array, X: Array, m: int, scale: Array | float) -> Array:
    """Return the outputs of a random exponential network at the points X, scaled to max_i |y_i| = 1, (n,).

    y_i = F(x_i) / max_j |F(x_j)|, F(x) = sum_r (-1)^r exp(scale <u_r, x>), u_r uniform on the unit sphere,
    r = 1..m. The signs alternate so that for even m the constant part cancels and the labels do depend on
    x.
    """
    U = jax.random.normal(key, (X.shape[1], m), dtype=X.dtype)
    signs = jnp.where(jnp.arange(m) % 2 == 0, 1.0, -1.0)
    outputs = jnp.exp(scale * (X @ (U / jnp.linalg.norm(U, axis=0)))) @ signs.astype(X.dtype)
    return outputs / jnp.max(jnp.abs(outputs))
