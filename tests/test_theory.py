"""Widths and radii of the theorem: against their defining equations, limits and independent routes."""

import math

import numpy as np
import pytest
from oracles import sphere
from scipy.optimize import brentq

from expreg import ntk, theory

# --- sizes at initialisation


@pytest.mark.parametrize(("init", "draws"), [("coupled", 2), ("iid", 1)])
def test_weight_bound_is_a_union_bound_over_the_distinct_draws(init, draws):
    """With n m / draws Gaussians in all, 2 exp(-B^2 / 2) each: delta / 2 in total (C.1)."""
    n, m, delta = 12, 64, 0.1
    B = theory.weight_bound(n, m, delta, init=init)
    np.testing.assert_allclose(n * m / draws * 2 * math.exp(-(B**2) / 2), delta, rtol=1e-12)


def test_weight_bound_holds_as_often_as_it_says():
    n, m, delta, repeats = 4, 32, 0.5, 4000
    draws = np.random.default_rng(0).normal(size=(repeats, n * m // 2))  # orthonormal points, m / 2 pairs
    misses = np.mean(np.abs(draws).max(axis=1) > theory.weight_bound(n, m, delta))
    assert misses <= delta / 2
    assert misses > delta / 20  # and is not vacuous: the union bound gives away little


def test_radius_keeps_half_of_the_smallest_eigenvalue():
    """(C.9) from its own premise: moving every weight by R, also in the worst directions, keeps lam / 2."""
    n, d, m = 5, 6, 400
    rng = np.random.default_rng(1)
    X, W = sphere(np.random.default_rng(0), n, d), rng.normal(size=(d, m))
    D = np.exp(X @ W)
    start = ntk.spectrum(ntk.empirical(W, X))[0]
    lam, s_x, h_bar = 4 / 3 * start, np.linalg.norm(X, 2), np.mean(D**2, axis=1).max()
    R = theory.radius(lam, s_x, h_bar)
    assert R > 0.01
    for direction in (*rng.normal(size=(5, d, m)), *[np.repeat(-x[:, None], m, axis=1) for x in X]):
        moved = W + R * direction / np.linalg.norm(direction, axis=0)
        assert ntk.spectrum(ntk.empirical(moved, X))[0] >= lam / 2


def test_radius_solves_its_defining_equation():
    """(e^R - 1) s_x sqrt(h_bar) is the allowed drop sqrt(3/4 lam) - sqrt(lam / 2)."""
    lam, s_x, h_bar = 2.3, 1.7, 40.0
    drop = math.sqrt(0.75 * lam) - math.sqrt(lam / 2)
    np.testing.assert_allclose(math.expm1(theory.radius(lam, s_x, h_bar)) * s_x * math.sqrt(h_bar), drop)


def test_frobenius_radius_solves_its_defining_equation_and_is_the_smaller_one():
    """Equation (C.10): n e^{2B} (e^{2R} - 1) = lam / 4."""
    lam, n, B = 4.0, 16, 2.5
    R = theory.radius_frobenius(lam, n, B)
    np.testing.assert_allclose(n * math.exp(2 * B) * math.expm1(2 * R), lam / 4, rtol=1e-12)
    assert theory.radius(lam, math.sqrt(n), math.exp(2 * B)) > R


# --- widths


@pytest.mark.parametrize("c_b", [0.0, 1.0, 4.0])
@pytest.mark.parametrize(("n", "delta", "lam", "constant"), [(8, 0.1, 1.0, 1.0), (512, 0.01, 4.67, 30.0)])
def test_width_solves_its_defining_equation(n, delta, lam, constant, c_b):
    m = theory.width(n, delta, lam, constant, c_b)
    B = theory.weight_bound(n, m, delta)
    right = constant / lam**2 * n**2 * math.exp(c_b * B) * math.log(n / delta)
    np.testing.assert_allclose(m, right, rtol=1e-11)


def test_width_agrees_with_the_specification():
    """The values that math.md gives for (C.15) and (C.16)."""
    n = np.array([8.0, 64.0, 512.0, 1e6])
    np.testing.assert_allclose(theory.local_exponent(n, 0.1, 1.0), [4.38, 3.95, 3.70, 3.23], atol=0.005)
    log10 = theory.log_width(n, 0.1, 1.0) / math.log(10)
    np.testing.assert_allclose(log10[[0, 3]], [19.8, 38.3], atol=0.05)
    for points, expected in ((8, (9.2, 9.6, 21)), (64, (9.7, 11.4, 24.7)), (512, (10.2, 13.0, 28.1))):
        found = [theory.width_spectral(points, 0.1, 4.67, s_x) for s_x in (2.0, math.sqrt(points))]
        found.append(theory.width_frobenius(points, 0.1, 4.67))
        np.testing.assert_allclose(np.log10(found), expected, atol=0.06)


@pytest.mark.parametrize("n", [8.0, 1e3, 1e30])
def test_local_exponent_is_the_slope_of_the_width(n):
    step = 1e-5
    above, below = (theory.log_width(n * math.exp(sign * step), 0.1, 2.0) for sign in (1, -1))
    np.testing.assert_allclose(theory.local_exponent(n, 0.1, 2.0), (above - below) / (2 * step), rtol=1e-6)


def test_where_lambda_is_far_beyond_n_no_width_solves_the_equation():
    """The square root of a negative number is missing, without a warning of NumPy."""
    assert np.isnan([theory.width(4, 0.1, 1e308), theory.local_exponent(4, 0.1, 1e308)]).all()
    assert np.isnan(theory.log_width(np.array([4.0, 4.0]), 0.1, np.array([1.0, 1e9]))).tolist() == [False, True]


def test_local_exponent_falls_to_two_and_only_at_astronomical_sizes():
    exponents = theory.local_exponent(10.0 ** np.array([1, 3, 10, 50, 150]), 0.1, 1.0)
    assert np.all(np.diff(exponents) < 0)
    assert exponents[1] > 3.5
    assert 2 < exponents[-1] < 2.3
    near_limit = theory.local_exponent(1e150, 0.1, 1.0, c_b=0.01)
    np.testing.assert_allclose(near_limit, 2, atol=0.01)
    np.testing.assert_allclose(theory.local_exponent(100.0, 0.1, 1.0, c_b=0.0), 2 + 1 / math.log(1000))


def test_width_beyond_the_floats_is_infinite_while_its_logarithm_is_not():
    assert theory.width(1e150, 0.1, 1.0) == math.inf
    assert math.isfinite(theory.log_width(1e150, 0.1, 1.0))


def of_frobenius(n, lam, delta, B, s_x, y_norm):
    """(C.12): concentration, truncation, movement."""
    R = math.log1p(lam / (4 * n * math.exp(2 * B))) / 2
    return (
        64 * n**2 * math.exp(4 * B) * math.log(4 * n * (n + 1) / delta) / lam**2,
        16 * n * delta * math.exp(2 * B) / lam,
        4 * n * math.exp(B + R) / (lam * R),
    )


def of_spectral(n, lam, delta, B, s_x, y_norm):
    """(C.13): matrix Chernoff, truncation, movement."""
    R = math.log1p((math.sqrt(3) / 2 - math.sqrt(0.5)) * math.sqrt(lam) / (s_x * math.exp(B)))
    return (
        224 * math.exp(2 * B) * s_x**2 * math.log(2 * n / delta) / lam,
        8 * n * delta * math.exp(2 * B) / lam,
        8 / 3 * s_x * math.exp(B + R) * (y_norm or math.sqrt(n)) / (lam * R),
    )


@pytest.mark.parametrize("n", [4, 32, 256])
@pytest.mark.parametrize("lam", [0.05, 4.67])
@pytest.mark.parametrize(
    ("width", "needed", "more"),
    [
        (theory.width_frobenius, of_frobenius, ()),
        (theory.width_spectral, of_spectral, (2.0, None)),
        (theory.width_spectral, of_spectral, (2.0, 1e3)),  # the movement condition binds
        (theory.width_spectral, of_spectral, (0.01, 1e-9)),  # the truncation binds
    ],
)
def test_a_width_is_the_least_that_meets_all_three_conditions(n, lam, width, needed, more):
    delta = 0.1

    def excess(log_m):
        B = theory.weight_bound(n, math.exp(log_m), delta)
        return log_m - math.log(max(needed(n, lam, delta, B, *(more or (None, None)))))

    log_m = math.log(width(n, delta, lam, *more))
    np.testing.assert_allclose(log_m, brentq(excess, math.log(2), 200.0), rtol=1e-9)
    assert excess(log_m + 1e-6) > 0 > excess(log_m - 1e-6)


def test_widths_fall_with_lambda_and_rise_with_n_and_confidence():
    def spectral(n, delta, lam):
        return theory.width_spectral(n, delta, lam, math.sqrt(n))

    for width in (theory.width, theory.width_frobenius, spectral):
        assert width(16, 0.1, 1.0) < width(32, 0.1, 1.0)
        assert width(16, 0.1, 2.0) < width(16, 0.1, 1.0)
        assert width(16, 0.1, 1.0) < width(16, 0.01, 1.0)
    assert theory.width_spectral(64, 0.1, 1.0, 8.0) < theory.width_frobenius(64, 0.1, 1.0)


def test_below_the_rank_bound_a_coupled_gram_matrix_is_singular():
    n, d = 12, 3
    X = sphere(np.random.default_rng(0), n, d)
    assert theory.width_rank(n, d) == 8
    for pairs, singular in ((3, True), (4, False)):
        half = np.random.default_rng(2).normal(size=(d, pairs))
        smallest = ntk.spectrum(ntk.empirical(np.concatenate([half, half], axis=1), X))[0]
        assert (abs(smallest) < 1e-12) == singular


# --- training


def test_iterations_are_enough_at_the_guaranteed_rate_and_not_twice_too_many():
    m, lam, y_norm, eps, scale = 256, 3.0, 4.0, 0.05, 0.1
    eta = 0.2 / (m * scale**2)
    steps = theory.iterations(m, eta, lam, y_norm, eps, scale=scale)
    rate = theory.rate(m, eta, lam, scale)
    assert rate**steps * y_norm**2 <= eps**2
    assert rate ** (steps / 2) * y_norm**2 > eps**2
    assert theory.iterations(m, eta, lam, eps / 2, eps, scale=scale) == 0


def test_rate_is_that_of_the_linearised_residual_or_slower():
    """(1 - z)^2 <= 1 - z / 2 up to z = 3/2, z = m eta scale^2 lam: the guarantee never promises more."""
    z = np.linspace(0, 1.5, 50)
    assert np.all((1 - z) ** 2 <= theory.rate(1, z, 1.0) + 1e-15)


def test_step_size_depends_on_width_and_scale_only_through_the_scaled_step():
    """(A.6): eta m scale^2 is the invariant; the logarithm of m in B is the one exception."""
    n, delta, lam = 16, 0.1, 4.0
    plain = theory.step_size(n, 256, delta, lam)
    np.testing.assert_allclose(theory.step_size(n, 256, delta, lam, scale=1 / 16) / plain, 256)
    np.testing.assert_allclose(theory.step_size(n, 256, delta, lam, constant=1.0) / plain, 100)
    B = theory.weight_bound(n, 256, delta)
    np.testing.assert_allclose(plain, 0.01 * lam / (256 * n**2 * math.exp(4 * B)))
    assert plain * 256 < 1e-3 * 2 / (np.e**2)  # far below the stability limit of orthonormal data


def test_movement_bounds_meet_the_radius_exactly_at_the_width_of_the_movement_condition():
    """(C.13): the second term of the spectral width is where (C.19) equals R."""
    n, lam, s_x, y_norm, B = 16, 2.0, 2.0, 4.0, 3.0
    R = theory.radius(lam, s_x, math.exp(2 * B))
    m = 8 / 3 * s_x * math.exp(B + R) * y_norm / (lam * R)
    np.testing.assert_allclose(theory.movement_bound(m, lam, y_norm, s_x=s_x, bound=B, radius=R), R)
    recalled = theory.movement_bound_recalled(m, lam, y_norm, n=n, bound=B, radius=R)
    np.testing.assert_allclose(recalled / R, 4 * math.sqrt(n) / (8 / 3 * s_x))
