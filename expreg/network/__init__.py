"""The network F(W, x) = kappa sum_r a_r phi(<w_r, x>) as pure functions of arrays (A.1)-(A.9), and as a flax module."""

from typing import TYPE_CHECKING, Any

import chex
import jax
import jax.numpy as jnp

from expreg.activation import ACTIVATIONS
from expreg.types import Array

if TYPE_CHECKING:
    from expreg.network.module import ExponentialNetwork

__all__ = ["ExponentialNetwork", "forward", "gradient", "initialise", "neurons"]


def __getattr__(name: str) -> Any:
    """Import flax only when the module is asked for: it takes longer than everything else together."""
    if name == "ExponentialNetwork":
        from expreg.network.module import ExponentialNetwork

        return ExponentialNetwork
    raise AttributeError(f"module 'expreg.network' has no attribute {name!r}")


def neurons(key: jax.Array, count: int, d: int) -> tuple[jax.Array, jax.Array]:
    """Draw the first `count` neurons of the infinite stream of `key` (D.1): w_r ~ N(0, I_d), s_r = +-1.

    One block of d + 1 normals per neuron, drawn row after row by JAX's partitionable generator, which makes a
    longer draw extend a shorter one; the sign of the last number is s_r. The numbers are float32 in every
    precision: a run in float64 starts from the same network.

    Returns:
        weights (d, count) and signs (count,), both float32.

    """
    with jax.threefry_partitionable(True):
        block = jax.random.normal(key, (count, d + 1), jnp.float32)
    return block[:, :d].T, jnp.where(block[:, d] < 0, -1.0, 1.0).astype(jnp.float32)


def initialise(key: jax.Array, m: int, d: int, *, init: str = "coupled") -> tuple[jax.Array, jax.Array]:
    """Draw the weights W(0) and the fixed signs a of a network of width m.

    `coupled` draws m/2 pairs w_{k+p}(0) = w_k(0), a_{k+p} = -a_k, so that F(W(0), .) = 0 (A.8); `iid` draws
    m independent neurons (A.3). A narrower network of the same key is a prefix of the wider one (D.1).

    Returns:
        W (d, m) and a (m,), float32.

    Raises:
        ValueError: an unknown `init`, or an odd m with `coupled`.

    """
    if init == "iid":
        return neurons(key, m, d)
    if init != "coupled":
        raise ValueError(f"init: got {init!r}, expected 'coupled' or 'iid'")
    if m % 2:
        raise ValueError(f"m: got {m}, coupled initialisation needs an even number of neurons")
    weights, signs = neurons(key, m // 2, d)
    return jnp.concatenate([weights, weights], axis=1), jnp.concatenate([signs, -signs])


def forward(W: Array, a: Array, X: Array, *, activation: str = "exp", scale: float = 1.0) -> Array:
    """Return the outputs F(W, x) = kappa sum_r a_r phi(<w_r, x>) (A.1) of points X (..., d), shape (...).

    Args:
        W: weights (d, m).
        a: signs (m,).
        X: one point (d,), points (n, d), or batches of them (..., d).
        activation: a name in `expreg.activation.ACTIVATIONS`.
        scale: kappa.

    """
    chex.assert_rank([W, a], [2, 1])
    chex.assert_axis_dimension(X, -1, W.shape[0])
    return scale * (ACTIVATIONS[activation].value(X @ W) @ a)


def gradient(W: Array, a: Array, X: Array, y: Array, *, activation: str = "exp", scale: float = 1.0) -> Array:
    """Return the gradient of 1/2 ||F(W, X) - y||^2 in W, kappa X^T (D o (r a^T)) (A.4), shape (d, m)."""
    residual = forward(W, a, X, activation=activation, scale=scale) - y
    derivative = ACTIVATIONS[activation].derivative(X @ W)
    return scale * (X.T @ (derivative * jnp.outer(residual, a)))
