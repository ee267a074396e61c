"""The network as functions and as a module: nested widths, independent draws, gradients, parametrisations."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import gradient_descent, sphere

from expreg import network, ntk
from expreg.activation import ACTIVATIONS
from expreg.network.functions import neurons

N, D, M = 4, 6, 10
SCALES = [1.0, 0.3, M**-0.5]


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
@pytest.mark.parametrize("d", [1, 3, 16])
def test_a_longer_draw_extends_a_shorter_one(d, jitted, x64):
    draw = jax.jit(neurons, static_argnums=(1, 2)) if jitted else neurons
    with jax.enable_x64(x64):
        widest, signs = neurons(jax.random.key(7), 100, d)
        for count in (1, 2, 33):
            weights, own = draw(jax.random.key(7), count, d)
            np.testing.assert_array_equal(weights, widest[:, :count])
            np.testing.assert_array_equal(own, signs[:count])
        assert weights.dtype == own.dtype == jnp.float32


@settings(max_examples=20, deadline=None)  # few sizes: each is compiled
@given(narrow=st.sampled_from([1, 8]), more=st.sampled_from([1, 11]), seed=st.integers(0, 2**32 - 1))
def test_the_narrower_network_is_a_prefix_of_the_wider(narrow, more, seed):
    """(D.1) for both initialisations: iid in neurons, coupled in pairs."""
    key, d = jax.random.key(seed), 4
    W, a = network.initialise(key, narrow, d, init="iid")
    V, b = network.initialise(key, narrow + more, d, init="iid")
    np.testing.assert_array_equal(V[:, :narrow], W)
    np.testing.assert_array_equal(b[:narrow], a)
    W, a = network.initialise(key, 2 * narrow, d)
    V, b = network.initialise(key, 2 * (narrow + more), d)
    p, q = narrow, narrow + more
    np.testing.assert_array_equal(W, np.concatenate([V[:, :p], V[:, q : q + p]], axis=1))
    np.testing.assert_array_equal(a, np.concatenate([b[:p], b[q : q + p]]))


def test_other_keys_and_other_dimensions_are_other_networks():
    W, _ = network.initialise(jax.random.key(0), 8, 5)
    assert not np.array_equal(W, network.initialise(jax.random.key(1), 8, 5)[0])
    with jax.enable_x64(False):
        np.testing.assert_array_equal(W, network.initialise(jax.random.key(0), 8, 5)[0])


def test_the_setting_of_the_generator_outside_is_of_no_consequence():
    key = jax.random.key(4)
    expected = neurons(key, 33, 3)
    for partitionable in (True, False):
        with jax.threefry_partitionable(partitionable):
            np.testing.assert_array_equal(neurons(key, 33, 3)[0], expected[0])


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
@pytest.mark.parametrize("scale", SCALES)
def test_the_gradient_is_that_of_automatic_differentiation(activation, scale):
    X, y, W, a = problem()

    def loss(W):
        return jnp.sum((network.forward(W, a, X, activation=activation, scale=scale) - y) ** 2) / 2

    expected = jax.grad(loss)(W)
    for gradient in (network.gradient, jax.jit(network.gradient, static_argnames=("activation",))):
        found = gradient(W, a, X, y, activation=activation, scale=scale)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("scale", SCALES)
def test_the_jacobian_gives_the_gram_matrix(activation, scale):
    """(B.2): J J^T = kappa^2 m H."""
    X, _, W, a = problem()
    J = jax.jacobian(lambda W: network.forward(W, a, X, activation=activation, scale=scale))(W).reshape(N, -1)
    expected = scale**2 * M * ntk.empirical(W, X, activation=activation)
    np.testing.assert_allclose(J @ J.T, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


def test_pairs_separate_antisymmetrically_at_the_first_step():
    """(A.9): G[:, k + p] = -G[:, k] at a coupled start."""
    X, y, *_ = problem()
    W, a = (jnp.asarray(v, float) for v in network.initialise(jax.random.key(3), M, D))
    G = np.asarray(network.gradient(W, a, X, y))
    np.testing.assert_allclose(G[:, M // 2 :], -G[:, : M // 2], rtol=1e-12)
    assert np.abs(G).min() > 0


def test_the_order_of_the_neurons_does_not_matter():
    X, y, W, a = problem()
    order = np.random.default_rng(0).permutation(M)
    np.testing.assert_allclose(network.forward(W[:, order], a[order], X), network.forward(W, a, X), rtol=1e-12)
    moved = network.gradient(W[:, order], a[order], X, y)
    np.testing.assert_allclose(moved, network.gradient(W, a, X, y)[:, order], rtol=1e-11)


@pytest.mark.parametrize("kappa", [0.05, M**-0.5, 3.0])
def test_the_parametrisation_map(kappa):
    """(A.6): same W for (kappa, y, eta) and (1, y / kappa, kappa^2 eta), outputs differ by kappa."""
    X, y, W, a = (np.asarray(v) for v in problem())
    eta = 0.02 / (kappa**2 * M)

    def train(scale, y, eta):
        V = W
        for _ in range(30):
            V = V - eta * np.asarray(network.gradient(V, a, X, y, scale=scale))
        return V, np.asarray(network.forward(V, a, X, scale=scale))

    V, f = train(kappa, y, eta)
    U, g = train(1.0, y / kappa, kappa**2 * eta)
    assert np.abs(V - W).max() > 1e-3
    np.testing.assert_allclose(U, V, rtol=1e-10)
    np.testing.assert_allclose(kappa * g, f, rtol=1e-9)
    assert np.abs(train(1.0, y / kappa, 0.9 * kappa**2 * eta)[0] - V).max() > 1e-4  # for no other step


def test_plain_descent_with_the_gradient_is_the_slow_loop():
    X, y, W, a = problem()
    norms, path = gradient_descent(np.asarray(W), np.asarray(a), np.asarray(X), np.asarray(y), eta=1e-3, steps=20)
    for t in range(20):
        assert abs(float(jnp.linalg.norm(network.forward(W, a, X) - y)) - norms[t]) < 1e-12
        W = W - 1e-3 * network.gradient(W, a, X, y)
    np.testing.assert_allclose(W, path[20], rtol=1e-12)


# --- the module


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("init", ["coupled", "iid"])
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


def test_functions_compose_under_vmap_and_grad():
    X, _, W, a = problem()
    several = jnp.stack([W, 2 * W])
    outputs = jax.vmap(network.forward, in_axes=(0, None, None))(several, a, X)
    np.testing.assert_allclose(outputs[1], network.forward(2 * W, a, X), rtol=1e-12)
    assert jax.grad(lambda k: network.forward(W, a, X, scale=k).sum())(1.0) == pytest.approx(
        float(network.forward(W, a, X).sum()), rel=1e-12
    )
