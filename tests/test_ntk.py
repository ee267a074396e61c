"""Gram matrices against networks, autodiff and bounds; linearised training against explicit loops."""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import sphere

from expreg import ntk
from expreg.activation import ACTIVATIONS, lookup

# compiled once for all tests: same shapes throughout
predict = jax.jit(ntk.predict)
steps_to_tolerance = jax.jit(ntk.steps_to_tolerance)

NAMES = list(ACTIVATIONS)
EXPONENTIAL = ["exp", "cosh", "sinh"]


def equiangular(n, c):
    """Return the symmetric square root of (1 - c) I + c 1 1^T."""
    return np.linalg.cholesky((1 - c) * np.eye(n) + c)


def weights(d, m, seed=1):
    return np.random.default_rng(seed).normal(size=(d, m))


def random_positive(n, seed=0, low=0.5, high=4.0):
    """Return a symmetric matrix with eigenvalues spread over [low, high], and a residual."""
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    return (Q * np.linspace(low, high, n)) @ Q.T, rng.normal(size=n)


# --- matrices


@pytest.mark.parametrize("activation", NAMES)
def test_infinite_is_the_mean_over_neurons_within_its_own_error_bar(activation):
    """Small norms: at unit norm the tails are too heavy for any feasible sample (B.14)."""
    X = 0.4 * sphere(np.random.default_rng(0), 5, 3) * np.linspace(0.5, 1.5, 5)[:, None]
    m = 400_000
    error = ntk.empirical(weights(3, m), X, activation=activation) - ntk.infinite(X, activation=activation)
    K, q = X @ X.T, np.sum(X**2, axis=1)
    deviation = np.sqrt(lookup(activation).variance(K, q[:, None], q[None, :]) / m)
    assert np.all(np.abs(error) < 4.5 * deviation)
    assert 0.5 < np.sqrt(np.mean((error / deviation) ** 2)) < 1.7  # the bar itself has the right size


@pytest.mark.parametrize("activation", ["exp", "relu"])
@pytest.mark.parametrize("library", [np.asarray, jnp.asarray])
def test_of_a_stack_of_points_each_has_its_own_matrix_and_error(activation, library):
    stack = library(np.random.default_rng(1).standard_normal((3, 5, 4)) / 2)
    for function in (ntk.infinite, partial(ntk.expected_squared_error, m=8)):
        each = [function(points, activation=activation) for points in stack]
        np.testing.assert_allclose(function(stack, activation=activation), each, rtol=1e-12)


@pytest.mark.parametrize(("init", "draws"), [("iid", 1), ("coupled", 2)])
@pytest.mark.parametrize("activation", NAMES)
def test_expected_squared_error_of_the_gram_matrix(activation, init, draws):
    X = 0.4 * sphere(np.random.default_rng(0), 4, 3)
    m, repeats = 32, 3000
    distinct = weights(3, m // draws * repeats).reshape(3, repeats, m // draws).transpose(1, 0, 2)
    target = ntk.infinite(X, activation=activation)
    gram = jax.vmap(lambda W: ntk.empirical(jnp.concatenate([W] * draws, axis=1), X, activation=activation))
    squared = np.sum((np.asarray(jax.jit(gram)(jnp.asarray(distinct))) - target) ** 2, axis=(1, 2))
    expected = ntk.expected_squared_error(X, m, init=init, activation=activation)
    assert abs(squared.mean() - expected) < 5 * squared.std() / np.sqrt(repeats)
    assert squared.std() / np.sqrt(repeats) < 0.1 * expected


def test_closed_forms_at_orthonormal_and_equiangular_points():
    np.testing.assert_allclose(ntk.spectrum(ntk.infinite(np.eye(5))), np.exp(2), rtol=1e-14)
    variance = 5 * (np.exp(8) - np.exp(4)) / 100  # of the diagonal alone
    np.testing.assert_allclose(ntk.expected_squared_error(np.eye(5), 100, init="iid"), variance, rtol=1e-12)
    for n, c in ((4, 0.5), (9, 0.2), (6, 0.9)):
        shared = c * np.exp(1 + c)
        values = ntk.spectrum(ntk.infinite(equiangular(n, c)))
        np.testing.assert_allclose(values[:-1], np.exp(2) - shared, rtol=1e-12)
        np.testing.assert_allclose(values[-1], np.exp(2) + (n - 1) * shared, rtol=1e-12)


@pytest.mark.parametrize("activation", NAMES)
def test_singular_exactly_for_the_pairs_of_the_catalogue(activation):
    """(B.20): equal points always; opposite ones for cosh and sinh only; near the boundary, smoothly."""
    X = sphere(np.random.default_rng(0), 5, 4)
    assert ntk.spectrum(ntk.infinite(X, activation=activation))[0] > 1e-2
    equal, opposite = X.copy(), X.copy()
    equal[3], opposite[3] = X[1], -X[1]
    assert abs(ntk.spectrum(ntk.infinite(equal, activation=activation))[0]) < 1e-13
    smallest = ntk.spectrum(ntk.infinite(opposite, activation=activation))[0]
    assert (abs(smallest) < 1e-13) if activation in ("cosh", "sinh") else (smallest > 1e-3)


@pytest.mark.parametrize("activation", NAMES)
def test_numpy_and_jax_agree_and_jit_and_vmap_compose(activation):
    X, W = sphere(np.random.default_rng(0), 4, 3), np.stack([weights(3, 8, seed) for seed in range(3)])
    both = jax.jit(jax.vmap(lambda W: ntk.empirical(W, X, activation=activation)))(jnp.asarray(W))
    np.testing.assert_allclose(both, [ntk.empirical(one, X, activation=activation) for one in W], rtol=1e-12)
    host, device = (ntk.infinite(points, activation=activation) for points in (X, jnp.asarray(X)))
    assert isinstance(host, np.ndarray)
    assert isinstance(device, jax.Array)
    np.testing.assert_allclose(host, device, rtol=1e-13)


@pytest.mark.parametrize("activation", NAMES)
def test_gradient_of_the_smallest_eigenvalue_is_that_of_a_difference(activation):
    X, direction = (jnp.asarray(sphere(np.random.default_rng(seed), 4, 3)) for seed in (0, 5))

    def smallest(step):
        return ntk.spectrum(ntk.infinite(X + step * direction, activation=activation))[0]

    value, slope = jax.jit(smallest), jax.jit(jax.grad(smallest))
    difference = (value(1e-5) - value(-1e-5)) / 2e-5
    np.testing.assert_allclose(slope(0.0), difference, rtol=1e-6, atol=1e-8)


def test_unknown_activation_is_named():
    with pytest.raises(ValueError, match="got 'tanh', expected one of exp, cosh, sinh, relu"):
        ntk.infinite(np.eye(2), activation="tanh")


def test_importing_the_module_does_not_import_jax():
    code = "import sys, expreg.ntk, expreg.theory; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- spectra and bounds


def test_extreme_eigenvalues_of_a_stack_of_any_shape():
    stack = np.stack([random_positive(4, seed)[0] for seed in range(6)]).reshape(2, 3, 4, 4)
    every, one = np.linalg.eigvalsh(stack)[..., [0, -1]], ntk.extreme_eigenvalues
    for values in (one(stack), jax.jit(one)(jnp.asarray(stack)), jax.jit(jax.vmap(one))(jnp.asarray(stack))):
        np.testing.assert_allclose(np.stack(values, axis=-1), every, rtol=1e-12)


@pytest.mark.parametrize("activation", EXPONENTIAL)
def test_lower_bounds_hold_and_are_attained_where_they_should_be(activation):
    for n, d, seed in ((4, 4, 0), (4, 16, 1), (8, 64, 2), (12, 12, 3), (6, 500, 4)):
        X = sphere(np.random.default_rng(seed), n, d)
        K = X @ X.T
        H = ntk.infinite(X, activation=activation)
        smallest = ntk.spectrum(H)[0]
        coherence = np.max(np.abs(K - np.eye(n)))
        bounds = ntk.coherence_bound(n, coherence, activation=activation), ntk.power_bound(X, activation=activation)
        assert max(ntk.gershgorin(H), *bounds) <= smallest * (1 + 1e-12)
        assert smallest <= H.diagonal().min()
    exact = H.diagonal()[0]  # orthonormal points: all bounds meet the diagonal
    np.testing.assert_allclose(ntk.coherence_bound(5, 0.0, activation=activation), exact, rtol=1e-12)
    np.testing.assert_allclose(ntk.power_bound(np.eye(5), activation=activation), exact, rtol=1e-12)


@pytest.mark.parametrize("coherence", [0.1, 0.7])
def test_coherence_bound_and_gershgorin_are_attained_by_two_points(coherence):
    H = ntk.infinite(equiangular(2, coherence))
    np.testing.assert_allclose(ntk.coherence_bound(2, coherence), ntk.spectrum(H)[0], rtol=1e-12)
    np.testing.assert_allclose(ntk.gershgorin(H), ntk.spectrum(H)[0], rtol=1e-12)
    many = ntk.infinite(equiangular(40, 0.3))  # where discs say nothing
    assert ntk.gershgorin(many) < 0 < ntk.coherence_bound(40, 0.3) < ntk.spectrum(many)[0]


@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_random_points_approach_the_limits_of_the_sphere(gamma):
    d = 400
    values = ntk.spectrum(ntk.infinite(sphere(np.random.default_rng(0), int(gamma * d), d)))
    np.testing.assert_allclose((values[0], values[-1]), ntk.sphere_limits(gamma), rtol=0.1)


# --- linearised training


def residuals(H, r, eta, steps):
    """Return r_0 .. r_T by the loop itself."""
    path = [r]
    for _ in range(steps):
        path.append(path[-1] - eta * H @ path[-1])
    return np.array(path)


@pytest.mark.parametrize("factor", [0.1, 0.5, 0.99, 1.1])
def test_prediction_is_the_explicit_loop(factor):
    H, r = random_positive(5)
    eta = factor * ntk.largest_step(H)
    path = residuals(H, r, eta, 40)
    steps = np.array([0, 1, 2, 7, 39, 40])
    jitted = predict(jnp.asarray(H), jnp.asarray(r), eta, jnp.asarray(steps))
    for norms in (ntk.predict(H, r, eta, steps), ntk.predict(ntk.modes(H), r, eta, steps), jitted):
        np.testing.assert_allclose(norms, np.linalg.norm(path[steps], axis=1), rtol=1e-10)
    for step in (0, 1, 39, 40):
        np.testing.assert_allclose(ntk.predict_residual(H, r, eta, step), path[step], rtol=1e-9, atol=1e-12)


def test_prediction_at_zero_and_at_infinity_and_with_a_mode_solved_in_one_step():
    H, r = random_positive(4)
    eta = 1 / ntk.spectrum(H)[-1]
    np.testing.assert_allclose(ntk.predict(H, r, eta, np.array([0]))[0], np.linalg.norm(r), rtol=1e-12)
    assert ntk.predict(H, r, eta, np.array([10**6]))[0] == 0
    assert ntk.predict(np.eye(2), np.ones(2), 1.0, np.array([1]))[0] == 0


@pytest.mark.parametrize("eps", [2.0, 0.3, 1e-3, 1e-9])
@pytest.mark.parametrize("factor", [0.01, 0.5, 0.95])
def test_steps_to_tolerance_is_the_first_step_of_the_loop(factor, eps):
    H, r = random_positive(5, seed=3)
    eta = factor * ntk.largest_step(H)
    norms = np.linalg.norm(residuals(H, r, eta, 20_000 if factor < 0.1 else 1000), axis=1)
    first = int(np.argmax(norms <= eps))
    assert norms[first] <= eps
    found = [float(ntk.steps_to_tolerance(of, r, eta, eps)) for of in (H, ntk.modes(H))]
    assert {*found, float(steps_to_tolerance(jnp.asarray(H), jnp.asarray(r), eta, eps))} == {first}
    assert first <= ntk.steps_bound(H, r, eta, eps) < np.inf
    around = np.array([max(first - 1, 0), first])
    assert ntk.converges(H, r, eta, eps, around).tolist() == [not first, True]


def test_steps_to_tolerance_in_closed_form_far_beyond_any_loop():
    eta, eps = 1e-9, 1e-3
    found = ntk.steps_to_tolerance(np.eye(1), np.ones(1), eta, eps)
    np.testing.assert_allclose(found, np.log(eps) / np.log1p(-eta), rtol=1e-6)
    assert (1 - eta) ** found <= eps < (1 - eta) ** (found - 2)


def test_steps_to_tolerance_is_zero_at_the_goal_and_infinite_out_of_reach():
    H, r = random_positive(4)
    assert ntk.steps_to_tolerance(H, 0 * r, 0.1, 1e-3) == 0
    assert ntk.steps_bound(H, 0 * r + 1e-6, 0.1, 1e-3) == 0
    singular = np.diag([0.0, 1.0])
    assert ntk.steps_to_tolerance(singular, np.ones(2), 0.5, 0.9) == np.inf
    assert ntk.steps_bound(singular, np.ones(2), 0.5, 0.9) == np.inf
    assert ntk.steps_to_tolerance(singular, np.array([0.0, 1.0]), 0.5, 0.3) == 2
    growing, outside = np.diag([1e-3, 3.0]), np.array([1.0, 0.0])  # no part in the mode that grows
    assert ntk.steps_to_tolerance(growing, outside, 1.0, 0.3) == np.ceil(np.log(0.3) / np.log(0.999))
    np.testing.assert_allclose(ntk.predict(growing, outside, 1.0, np.array([2000])), 0.999**2000)
    unstable = 1.01 * ntk.largest_step(H)
    assert ntk.steps_to_tolerance(H, r, unstable, 1e-3) == np.inf
    assert ntk.steps_to_tolerance(H, np.full(4, np.nan), 0.1, 1e-3) == np.inf
    for endless, eps in ((1.27e-14, 3e-20), (1e-18, 0.5)):  # more than 2^50 steps
        assert ntk.steps_to_tolerance(np.diag([endless]), np.ones(1), 1.0, eps) == np.inf


def test_largest_step_separates_decay_from_growth():
    """The threshold as a test: tenfold at half of it, nothing lost at it, blow-up beyond (B.28)."""
    H, r = random_positive(6, seed=7)
    start, steps = np.linalg.norm(r), np.array([400])
    below, at, above = (ntk.predict(H, r, factor * ntk.largest_step(H), steps)[0] for factor in (0.5, 1, 1.05))
    assert below < start / 10
    assert at <= start * (1 + 1e-9)
    assert above > 10 * start


def test_fastest_step_has_the_smallest_worst_factor():
    H, _ = random_positive(6, seed=8, low=0.3)
    values = np.linspace(0.3, 4.0, 6)
    best, factor = ntk.fastest_step(H)
    np.testing.assert_allclose(np.max(np.abs(1 - best * values)), factor, rtol=1e-12)
    grid = np.linspace(0.01, 2 / 4.0, 500)
    assert factor <= np.max(np.abs(1 - grid[:, None] * values), axis=1).min() + 1e-12


@pytest.mark.parametrize("activation", ["exp", "cosh", "sinh"])
def test_lazy_movement_is_what_wide_training_does(activation):
    """(B.24), (B.25) against gradient descent on a wide coupled network, whose movement is small."""
    n, d, p, steps = 3, 4, 4000, 30
    X, half, y = sphere(np.random.default_rng(0), n, d), weights(d, p), np.array([1.0, -1.0, 0.5])
    W0, a, m = np.concatenate([half, half], axis=1), np.repeat([1.0, -1.0], p), 2 * p
    phi = lookup(activation)
    eta = 0.5 / m / ntk.spectrum(ntk.empirical(W0, X, activation=activation))[-1]
    W = W0
    for _ in range(steps):
        r = phi.value(X @ W) @ a - y
        W = W - eta * X.T @ (phi.derivative(X @ W) * (r[:, None] * a))
    change = -y - (phi.value(X @ W) @ a - y)
    predicted = ntk.lazy_movement(W0, a, X, change, activation=activation)
    moved = W - W0
    assert np.linalg.norm(moved) > 0
    assert np.linalg.norm(moved - predicted) < 0.01 * np.linalg.norm(moved)
    norm = ntk.lazy_movement_norm(ntk.empirical(W0, X, activation=activation), change, m)
    np.testing.assert_allclose(norm, np.linalg.norm(predicted), rtol=1e-10)
    linear = ntk.predict_residual(ntk.empirical(W0, X, activation=activation), -y, eta * m, steps)
    np.testing.assert_allclose(-y - linear, change, atol=1e-3)
