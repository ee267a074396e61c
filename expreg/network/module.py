"""The network as a flax module over the same functions, for use in other people's training loops."""

import jax
from flax import nnx

from expreg.network import forward, initialise


class ExponentialNetwork(nnx.Module):
    """Hold W (d, m), trained, and the signs a (m,), fixed; calling it gives F(W, X) (A.1) of any points (..., d).

    Args:
        d: input dimension. m: number of neurons.
        activation: exp, cosh, sinh or relu. init: coupled or iid. scale: kappa.
        rngs: the weights are drawn from its `params` stream.

    """

    def __init__(
        self, d: int, m: int, *, activation: str = "exp", init: str = "coupled", scale: float = 1.0, rngs: nnx.Rngs
    ) -> None:
        W, a = initialise(rngs.params(), m, d, init=init)
        self.W = nnx.Param(W)
        self.a = nnx.Variable(a)  # not a Param: the signs never train
        self.activation = activation
        self.scale = scale

    def __call__(self, X: jax.Array) -> jax.Array:
        """Return F(W, X), shape (...), for points X (..., d)."""
        return forward(self.W[...], self.a[...], X, activation=self.activation, scale=self.scale)
