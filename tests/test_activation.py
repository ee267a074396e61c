"""Activations: increments against extended precision, moments against quadrature, slopes against autodiff."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expreg.activation import ACTIVATIONS, padded

ALL = list(ACTIVATIONS.values())
SMOOTH = [activation for activation in ALL if activation.name != "relu"]


def relu_change(z, dl):
    """Return relu(z + dl) - relu(z) in exact rational arithmetic, rounded once."""
    pairs = [(Fraction(float(a)), Fraction(float(b))) for a, b in zip(z, dl, strict=True)]
    return np.array([float(max(a + b, Fraction(0)) - max(a, Fraction(0))) for a, b in pairs])


# the change of each activation in a form without cancellation, for extended precision
CHANGE = {
    "exp": lambda z, dl: np.exp(z) * np.expm1(dl),
    "cosh": lambda z, dl: 2 * np.sinh(z + dl / 2) * np.sinh(dl / 2),
    "sinh": lambda z, dl: 2 * np.cosh(z + dl / 2) * np.sinh(dl / 2),
    "relu": relu_change,
}


def named(activations):
    return pytest.mark.parametrize("activation", activations, ids=lambda activation: activation.name)


# inner product and squared norms (K, q_i, q_j) of two directions
PAIRS = [(0.3, 1.0, 1.0), (-0.4, 0.5, 0.9), (0.0, 1.0, 0.2), (0.49, 0.7, 0.7), (1.0, 1.0, 1.0)]


def moments(activation, K, q_i, q_j, nodes=80):
    """Return mean and variance of phi'(z_i) phi'(z_j) by a tensor Gauss-Hermite rule."""
    t, w = np.polynomial.hermite_e.hermegauss(nodes)
    w = w / w.sum()
    first, second = np.meshgrid(t, t, indexing="ij")
    z_i = np.sqrt(q_i) * first
    z_j = K / np.sqrt(q_i) * first + np.sqrt(max(q_j - K**2 / q_i, 0)) * second
    product = activation.derivative(z_i) * activation.derivative(z_j)
    weights = w[:, None] * w[None, :]
    mean = np.sum(weights * product)
    return mean, np.sum(weights * product**2) - mean**2


@named(ALL)
@pytest.mark.parametrize("size", [1e-12, 1e-6, 1e-3, 0.1, 1.0, 5.0, 30.0])
def test_increment_agrees_with_extended_precision_at_every_step_size(activation, size):
    rng = np.random.default_rng(0)
    z0, dl = rng.normal(size=200) * 2, rng.normal(size=200) * size
    change, slope = activation.increment(activation.base(z0), dl)
    wide0, step = np.longdouble(z0), np.longdouble(dl)
    scale = np.cosh(wide0) * np.expm1(np.abs(step))  # rounding of the factors of each term
    assert np.all(np.abs(change - CHANGE[activation.name](wide0, step)) <= 2e-15 * scale)
    derivative = activation.derivative(wide0 + step)
    assert np.all(np.abs(slope - derivative) <= 2e-15 * (scale + np.cosh(wide0)))


@named(ALL)
def test_plain_difference_is_not_good_enough_where_the_increment_is(activation):
    z0, dl = np.linspace(0.5, 2, 50, dtype="float32"), np.full(50, 1.1e-5, dtype="float32")
    exact = CHANGE[activation.name](np.longdouble(z0), np.longdouble(dl))
    change, _ = activation.increment(activation.base(z0), dl)
    assert change.dtype == np.float32
    assert np.max(np.abs(change / exact - 1)) < 1e-6
    assert np.max(np.abs((activation.value(z0 + dl) - activation.value(z0)) / exact - 1)) > 1e-3


@named(ALL)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_and_jax_give_the_same_numbers_jitted_or_not(activation, dtype):
    rng = np.random.default_rng(1)
    z0, dl = rng.normal(size=(2, 5, 7)).astype(dtype)
    host = activation.increment(activation.base(z0), dl)
    tolerance = 20 * np.finfo(dtype).eps

    def moved(z, step):
        return activation.increment(activation.base(z), step)

    for function in (moved, jax.jit(moved)):
        device = function(jnp.asarray(z0), jnp.asarray(dl))
        for ours, theirs in zip(host, device, strict=True):
            assert ours.dtype == theirs.dtype == dtype
            np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)
    for function in (activation.value, activation.derivative):
        np.testing.assert_allclose(function(z0), function(jnp.asarray(z0)), rtol=tolerance)


@named(ALL)
def test_derivatives_are_those_of_autodiff_also_at_zero_step(activation):
    z = jnp.linspace(-2.0, 2.0, 9)[np.array([0, 1, 2, 3, 5, 6, 7, 8])]  # without the kink of relu
    grad = jax.jit(jax.vmap(jax.grad(activation.value)))
    np.testing.assert_allclose(grad(z), activation.derivative(z), rtol=1e-12)

    def change(step, start):
        return activation.increment(activation.base(start), step)[0]

    slopes = jax.jit(jax.vmap(jax.grad(change)))
    for dl in (0.0, -0.3, 0.3):
        slope = slopes(jnp.full_like(z, dl), z)
        np.testing.assert_allclose(slope, activation.derivative(z + dl), rtol=1e-12, atol=1e-12)


@named(ALL)
def test_increment_of_zero_is_exactly_zero(activation):
    z0 = np.linspace(-3, 3, 12)
    change, slope = activation.increment(activation.base(z0), np.zeros(12))
    assert np.all(change == 0)
    np.testing.assert_array_equal(slope, activation.derivative(z0))


@named(SMOOTH)
@pytest.mark.parametrize("pair", PAIRS)
def test_moments_agree_with_quadrature(activation, pair):
    mean, variance = moments(activation, *pair)
    inputs = [np.float64(value)[None] for value in pair]
    np.testing.assert_allclose(activation.expectation(*inputs), mean, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(activation.variance(*inputs), pair[0] ** 2 * variance, rtol=1e-9, atol=1e-13)


def test_relu_moments_agree_with_the_angle_fraction():
    relu = ACTIVATIONS["relu"]
    angles = np.linspace(0, 2 * np.pi, 400_001)[:-1]
    for theta in (0.0, 0.3, 1.5, 3.0, np.pi):
        both = np.mean((np.cos(angles - 0.1) > 0) & (np.cos(angles - 0.1 - theta) > 0))
        K = np.array([0.6 * np.cos(theta)])
        q_i, q_j = np.array([0.36]), np.array([1.0])
        np.testing.assert_allclose(relu.expectation(K, q_i, q_j), both, atol=1e-5)
        np.testing.assert_allclose(relu.variance(K, q_i, q_j), K**2 * both * (1 - both), atol=1e-5)


def test_relu_diagonal_is_exactly_one_half_and_its_gradient_is_finite():
    relu = ACTIVATIONS["relu"]
    q = np.random.default_rng(2).uniform(0.1, 3, size=1000)
    assert np.all(relu.expectation(q, q, q) == 0.5)

    def diagonal(x):
        K = x @ x.T
        return jnp.sum(K * relu.expectation(K, jnp.diag(K)[:, None], jnp.diag(K)[None, :]))

    gradient = jax.jit(jax.grad(diagonal))(jnp.eye(3) + 0.1)
    assert bool(jnp.all(jnp.isfinite(gradient)))


@named(SMOOTH)
def test_variance_keeps_its_digits_at_small_norms(activation):
    """(B.8) and (B.9) as written cancel completely here; the leading order of a Taylor expansion does not."""
    K, q = np.array([3e-7]), np.array([1e-6])
    leading = {
        "exp": 2 * (q + K),  # phi' ~ 1 + z: Var(z_i + z_j)
        "cosh": q**2 + K**2,  # phi' ~ z: Var(z_i z_j)
        "sinh": (2 * q**2 + 2 * K**2) / 2,  # phi' ~ 1 + z^2 / 2: Var(z_i^2 + z_j^2) / 4
    }[activation.name]
    np.testing.assert_allclose(activation.variance(K, q, q), K**2 * leading, rtol=1e-5)


@named([activation for activation in SMOOTH if activation.stable is not None])
def test_padding_changes_no_number_of_the_logits_before_it(activation):
    """Not their scale either: a logit of 0 would be the largest."""
    z = np.array([-500.0, -501.0, -500.5])
    found = padded(activation, 3).stable(np.append(z, [0.0, 0.0]))
    for ours, theirs in zip(found[:2], activation.stable(z)[:2], strict=True):
        np.testing.assert_array_equal(ours, np.append(theirs, [0.0, 0.0]))
    assert found[2] == activation.stable(z)[2]
    assert (found[0] is found[1]) == (activation.name == "exp")
