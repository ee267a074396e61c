"""The network as functions and as a module: nested widths, independent draws, gradients, parametrisations."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from oracles import sphere

from expreg import network, ntk
from expreg.activation import ACTIVATIONS
from expreg.network import neurons

N, D, M = 4, 6, 10


def problem(activation="exp", init="coupled", n=N, d=D, m=M):
    """Return X, y, W, a in float64, the weights away from their start so that nothing is symmetric."""
    rng = np.random.default_rng(5)
    X, y = sphere(rng, n, d), rng.choice([-1.0, 1.0], n)
    W, a = network.initialise(jax.random.key(3), m, d, init=init)
    moved = np.asarray(W, float) + 0.1 * rng.standard_normal(W.shape)
    return jnp.asarray(X), jnp.asarray(y), jnp.asarray(moved), jnp.asarray(a, float)


# --- drawing


@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize("jitted", [True, False])
@pytest.mark.parametrize("d", [1, 16])
def test_a_longer_draw_extends_a_shorter_one(d, jitted, x64):
    draw = jax.jit(neurons, static_argnums=(1, 2)) if jitted else neurons
    with jax.enable_x64(x64):
        widest, signs = neurons(jax.random.key(7), 100, d)
        for count in (1, 2, 33):
            weights, own = draw(jax.random.key(7), count, d)
            np.testing.assert_array_equal(weights, widest[:, :count])
            np.testing.assert_array_equal(own, signs[:count])
        assert weights.dtype == own.dtype == jnp.float32


@pytest.mark.parametrize(("narrow", "more", "seed"), [(1, 1, 0), (8, 11, 1), (1, 11, 2**32 - 1)])
def test_the_narrower_network_is_a_prefix_of_the_wider(narrow, more, seed):
    """(D.1) for both initialisations: iid in neurons, coupled in pairs."""
    key, d, p, q = jax.random.key(seed), 4, narrow, narrow + more
    (W, a), (V, b) = (network.initialise(key, count, d, init="iid") for count in (p, q))
    np.testing.assert_array_equal(V[:, :p], W)
    np.testing.assert_array_equal(b[:p], a)
    (W, a), (V, b) = (network.initialise(key, 2 * count, d) for count in (p, q))
    np.testing.assert_array_equal(W, np.concatenate([V[:, :p], V[:, q : q + p]], axis=1))
    np.testing.assert_array_equal(a, np.concatenate([b[:p], b[q : q + p]]))


@pytest.mark.parametrize("option", [jax.enable_x64, jax.threefry_partitionable])
def test_a_draw_depends_on_its_key_and_not_on_the_options_of_jax(option):
    W, _ = network.initialise(jax.random.key(0), 8, 5)
    assert not np.array_equal(W, network.initialise(jax.random.key(1), 8, 5)[0])
    for value in (True, False):
        with option(value):
            np.testing.assert_array_equal(W, network.initialise(jax.random.key(0), 8, 5)[0])


def test_weights_are_standard_normal_and_signs_fair_coins():
    weights, signs = (np.asarray(v, float) for v in neurons(jax.random.key(0), 40_000, 3))
    error = 1 / np.sqrt(weights.size)
    assert abs(weights.mean()) < 4 * error
    assert abs(weights.var() - 1) < 4 * np.sqrt(2) * error
    assert abs((weights**4).mean() - 3) < 4 * np.sqrt(96) * error
    assert set(signs) == {-1.0, 1.0}
    assert abs(signs.mean()) < 4 / np.sqrt(signs.size)
    columns = [*weights, signs]
    for one, other in combinations(columns, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 4.5 / np.sqrt(signs.size)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_coupled_networks_start_at_zero(activation):
    W, a = network.initialise(jax.random.key(1), 64, D)
    X = jnp.asarray(sphere(np.random.default_rng(0), N, D))
    paired = network.forward(W.astype(float), a.astype(float), X, activation=activation)
    np.testing.assert_allclose(paired, 0, atol=1e-12)
    W, a = network.initialise(jax.random.key(1), 64, D, init="iid")
    assert np.abs(network.forward(W, a, X, activation=activation)).min() > 1e-3
    np.testing.assert_array_equal(*np.split(np.asarray(network.initialise(jax.random.key(1), 64, D)[0]), 2, axis=1))


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="even number"):
        network.initialise(jax.random.key(0), 5, 2)
    with pytest.raises(ValueError, match="'coupled' or 'iid'"):
        network.initialise(jax.random.key(0), 4, 2, init="paired")
    assert network.initialise(jax.random.key(0), 5, 2, init="iid")[0].shape == (2, 5)


# --- functions


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("scale", [1.0, M**-0.5])
def test_the_jacobian_gives_gradient_and_gram_matrix(activation, scale):
    """(A.4) is J^T r, and J J^T = kappa^2 m H (B.2), jitted or not."""
    X, y, W, a = problem()
    J = jax.jacobian(lambda W: network.forward(W, a, X, activation=activation, scale=scale))(W)
    slope = jnp.tensordot(network.forward(W, a, X, activation=activation, scale=scale) - y, J, 1)
    for gradient in (network.gradient, jax.jit(network.gradient, static_argnames=("activation",))):
        found = gradient(W, a, X, y, activation=activation, scale=scale)
        np.testing.assert_allclose(found, slope, rtol=1e-12, atol=1e-12 * np.abs(slope).max())
    J, expected = J.reshape(N, -1), scale**2 * M * ntk.empirical(W, X, activation=activation)
    np.testing.assert_allclose(J @ J.T, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


def test_pairs_separate_antisymmetrically_at_the_first_step():
    """(A.9): G[:, k + p] = -G[:, k] at a coupled start."""
    X, y, *_ = problem()
    W, a = (jnp.asarray(v, float) for v in network.initialise(jax.random.key(3), M, D))
    G = np.asarray(network.gradient(W, a, X, y))
    np.testing.assert_allclose(G[:, M // 2 :], -G[:, : M // 2], rtol=1e-12)
    assert np.abs(G).min() > 0


# --- the module


@pytest.mark.parametrize(("activation", "init"), [("exp", "coupled"), ("cosh", "iid"), ("relu", "iid")])
def test_the_module_is_the_functions(activation, init):
    X, y, *_ = problem()
    net = network.ExponentialNetwork(D, M, activation=activation, init=init, scale=0.3, rngs=nnx.Rngs(0))
    W, a = net.W[...], net.a[...]
    assert W.shape == (D, M)
    np.testing.assert_array_equal(net(X), network.forward(W, a, X, activation=activation, scale=0.3))
    grads = nnx.grad(lambda net: jnp.sum((net(X) - y) ** 2) / 2)(net)
    assert set(nnx.state(net, nnx.Param)) == {"W"}
    assert list(nnx.to_pure_dict(grads)) == ["W"]
    expected = network.gradient(W, a, X, y, activation=activation, scale=0.3)
    np.testing.assert_allclose(grads["W"][...], expected, rtol=1e-5, atol=1e-5)
    drawn, _ = network.initialise(nnx.Rngs(0).params(), M, D, init=init)
    np.testing.assert_array_equal(W, drawn)


def test_the_module_trains_with_optax_and_its_signs_stay():
    X, y, *_ = problem(m=64)
    net = network.ExponentialNetwork(D, 64, rngs=nnx.Rngs(params=0))
    optimizer = nnx.Optimizer(net, optax.adam(3e-3), wrt=nnx.Param)
    signs = np.asarray(net.a[...])

    @nnx.jit
    def step(net, optimizer):
        loss, grads = nnx.value_and_grad(lambda net: jnp.sum((net(X) - y) ** 2) / 2)(net)
        optimizer.update(net, grads)
        return loss

    losses = [float(step(net, optimizer)) for _ in range(200)]
    assert losses[0] == pytest.approx(N / 2, rel=1e-4)  # a coupled network starts at 0, labels are signs
    assert losses[-1] < 1e-2 * losses[0]
    np.testing.assert_array_equal(net.a[...], signs)


# --- points of any shape


def drawn(batch=()):
    W, a = network.initialise(jax.random.key(0), M, D, init="iid")
    return W.astype(float), a.astype(float), jax.random.normal(jax.random.key(1), (*batch, D), float)


@pytest.mark.parametrize("batch", [(), (1,), (3, 4), (2, 1, 4), (0,)])
def test_leading_axes_are_those_of_the_points(batch):
    W, a, X = drawn(batch)
    for forward in (network.forward, jax.jit(network.forward)):
        found = forward(W, a, X, scale=0.3)
        assert found.shape == batch
        points = network.forward(W, a, X.reshape(-1, D), scale=0.3)
        np.testing.assert_allclose(found, points.reshape(batch), rtol=1e-14)


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
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    slope = jax.vmap(jax.grad(net))(X[0])  # of the output in the point
    assert slope.shape == (4, D)


@pytest.mark.parametrize("shape", [(), (D + 1,), (3, D - 1)])
def test_points_of_another_dimension_are_refused(shape):
    W, a, _ = drawn()
    with pytest.raises(AssertionError):
        network.forward(W, a, jnp.zeros(shape))
