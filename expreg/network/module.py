"""The network as a flax module over the same functions, for use in other people's training loops."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from expreg.network import forward, initialise


class ExponentialNetwork(nnx.Module):
    """Hold W (d, m), trained, and the signs a (m,), fixed; calling it gives F(W, X) (A.1) of any points (..., d).

    Args:
        d: input dimension. m: number of neurons.
        activation: exp, cosh, sinh or relu. init: coupled or iid. scale: kappa.
        param_dtype: type of W and a; what is drawn is float32 in any case.
        rngs: the weights are drawn from its `params` stream.

    """

    def __init__(
        self,
        d: int,
        m: int,
        *,
        activation: str = "exp",
        init: str = "coupled",
        scale: float = 1.0,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        W, a = initialise(rngs.params(), m, d, init=init)
        self.W = nnx.Param(W.astype(param_dtype))
        self.a = nnx.Variable(a.astype(param_dtype))  # not a Param: the signs never train
        self.activation = activation
        self.scale = scale

    @classmethod
    def from_arrays(cls, W: Any, a: Any, *, activation: str = "exp", scale: float = 1.0) -> "ExponentialNetwork":
        """Return the network of weights W (d, m) and signs a (m,), in their own type."""
        network = cls(*jnp.shape(W), activation=activation, init="iid", scale=scale, rngs=nnx.Rngs(0))
        network.W, network.a = nnx.Param(jnp.asarray(W)), nnx.Variable(jnp.asarray(a))
        return network

    def __call__(self, X: jax.Array) -> jax.Array:
        """Return F(W, X), shape (...), for points X (..., d)."""
        return forward(self.W[...], self.a[...], X, activation=self.activation, scale=self.scale)
