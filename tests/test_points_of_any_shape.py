"""`forward` and the module take one point, many, or batches of them, with and without jit and vmap."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from flax import nnx

from expreg import network
from expreg.activation import ACTIVATIONS

D, M = 5, 12
SHAPES = [(), (1,), (4,), (3, 4), (2, 1, 4), (0,)]


def drawn(batch=()):
    W, a = network.initialise(jax.random.key(0), M, D, init="iid")
    return W.astype(float), a.astype(float), jax.random.normal(jax.random.key(1), (*batch, D), float)


class Forward(chex.TestCase):
    """One output per point, the same whatever the shape."""

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.product(batch=SHAPES, activation=["exp", "relu"])
    def test_leading_axes_are_those_of_the_points(self, batch, activation):
        W, a, X = drawn(batch)
        forward = self.variant(network.forward, static_argnames=("activation", "scale"))
        found = forward(W, a, X, activation=activation, scale=0.3)
        points = network.forward(W, a, X.reshape(-1, D), activation=activation, scale=0.3)
        assert found.shape == batch
        chex.assert_trees_all_close(found, points.reshape(batch), rtol=1e-14)


def test_a_list_of_points_is_computed_as_before():
    """In every bit: (n, d) is what all runs of the past were made with."""
    W, a, X = drawn((7,))
    for name, activation in ACTIVATIONS.items():
        found = network.forward(W, a, X, activation=name, scale=0.3)
        np.testing.assert_array_equal(found, 0.3 * (activation.value(X @ W) @ a))


def test_the_module_maps_over_points():
    net = network.ExponentialNetwork(D, M, init="iid", rngs=nnx.Rngs(0))
    *_, X = drawn((3, 4))
    X = X.astype(jnp.float32)
    expected = jnp.stack([net(part) for part in X])
    assert net(X[0, 0]).shape == ()
    for found in (net(X), jax.vmap(net)(X), jax.vmap(jax.vmap(net))(X), jax.jit(jax.vmap(net))(X)):
        chex.assert_trees_all_close(found, expected, rtol=1e-5)
    slope = jax.vmap(jax.grad(net))(X[0])  # of the output in the point
    assert slope.shape == (4, D)


@pytest.mark.parametrize("shape", [(), (D + 1,), (3, D - 1)])
def test_points_of_another_dimension_are_refused(shape):
    W, a, _ = drawn()
    with pytest.raises(AssertionError):
        network.forward(W, a, jnp.zeros(shape))
