"""Likelihoods of interval-censored thresholds: closed cases, other optimizers, and what scaling must do."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from expreg.core.stats import laws

NS = np.array([8.0, 16.0, 32.0, 64.0])
GRID = 2.0 ** np.arange(1, 16, 0.5)


def intervals(star: np.ndarray, n: np.ndarray, grid: np.ndarray = GRID) -> tuple[np.ndarray, ...]:
    """Return log n, low and high of the grid cells that thresholds fall into."""
    edges = np.concatenate([[0.0], grid, [np.inf]])
    place = np.searchsorted(grid, star)
    return np.log(n), edges[place], edges[place + 1]


def theory_draw(rng: np.random.Generator, alpha: float = 1.3, size: int = 40) -> tuple[np.ndarray, ...]:
    n = np.repeat(NS, size)
    return intervals(2.0 * n**alpha * (np.log(n) + rng.exponential(size=n.size)), n)


def logs(*limits: np.ndarray) -> tuple[np.ndarray, ...]:
    with np.errstate(divide="ignore"):
        return tuple(np.log(limit) for limit in limits)


def test_the_probabilities_of_all_cells_sum_to_1_and_are_those_of_a_shifted_exponential() -> None:
    edges = np.concatenate([[0.0], GRID, [np.inf]])
    for n, speed in ((1.0, -3.0), (8.0, -2.0), (64.0, -5.0)):
        log_p, _ = laws.theory_terms(np.full(len(edges) - 1, speed), np.log(n), edges[:-1], edges[1:])
        assert np.exp(log_p).sum() == pytest.approx(1.0)
        law = stats.expon(loc=math.exp(-speed) * math.log(n), scale=math.exp(-speed))
        np.testing.assert_allclose(np.exp(log_p), np.diff(law.cdf(edges)), atol=1e-12)


def test_the_log_likelihood_is_concave_across_its_kinks_and_its_slope_is_its_derivative() -> None:
    speed = np.linspace(-8.0, 1.0, 2001)
    kink = math.log(math.log(20.0) / 40.0)  # where the width 40 enters the support
    for low, high in ((40.0, 57.0), (40.0, np.inf), (0.0, 40.0)):
        log_p, slope = laws.theory_terms(speed, np.log(20.0), np.array(low), np.array(high))
        inside = np.isfinite(log_p)
        assert (np.diff(log_p[inside], 2) < 1e-9).all()
        smooth = inside & (np.abs(speed - kink) > 0.02) & (np.roll(inside, 20) & inside)
        step = 1e-6
        ahead, behind = (
            laws.theory_terms(speed[smooth] + h, np.log(20.0), np.array(low), np.array(high))[0] for h in (step, -step)
        )
        np.testing.assert_allclose(slope[smooth], (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-6)


def test_the_theory_law_agrees_with_a_simplex_search_on_its_distribution_function() -> None:
    log_n, low, high = theory_draw(np.random.default_rng(0))

    def loss(theta: np.ndarray) -> float:
        scale = np.exp(theta[0] + theta[1] * log_n)
        tail = stats.expon.sf(low / scale - log_n) - stats.expon.sf(high / scale - log_n)
        return -float(np.log(np.maximum(tail, 1e-300)).sum())

    options = {"xatol": 1e-9, "fatol": 1e-11, "maxiter": 4000}
    searches = [optimize.minimize(loss, [c, a], method="Nelder-Mead", options=options) for c in (0, 1) for a in (1, 2)]
    best = min(searches, key=lambda found: found.fun)
    found = laws.theory(log_n, log_n, low, high, np.ones((1, len(low))))
    assert found.log_likelihood[0] == pytest.approx(-best.fun, abs=2e-6)
    np.testing.assert_allclose(found.parameters[0], best.x, atol=2e-3)


def test_without_a_union_factor_the_scale_at_each_n_is_the_mean_of_an_exponential() -> None:
    rng = np.random.default_rng(1)
    n = np.repeat([4.0, 64.0], 30)
    star = 3.0 * n * rng.exponential(size=n.size)
    cut = np.where(rng.random(n.size) < 0.3, star * 0.5, np.inf)  # right-censored at their half
    low = np.where(np.isfinite(cut), cut, star * (1 - 1e-7))
    high = np.where(np.isfinite(cut), np.inf, star * (1 + 1e-7))
    found = laws.theory(np.log(n), np.zeros_like(n), low, high, np.ones((1, len(n)))).parameters[0]
    total, events = ([x[n == k].sum() for k in (4.0, 64.0)] for x in (low, np.isfinite(high)))
    first, second = np.log(np.array(total) / np.array(events))
    assert found[1] == pytest.approx((second - first) / math.log(16.0), abs=1e-3)
    assert found @ [1.0, math.log(4.0)] == pytest.approx(first, abs=2e-3)


def test_the_lognormal_law_agrees_with_another_optimizer() -> None:
    rng = np.random.default_rng(2)
    n = np.repeat(NS, 30)
    log_n, low, high = intervals(n**1.4 * np.exp(0.6 * rng.normal(size=n.size)), n, GRID[8:17])
    assert 0.2 < np.mean((low == 0) | np.isinf(high)) < 0.7  # heavily censored
    design = np.column_stack([np.ones_like(log_n), log_n])
    low, high = logs(low, high)

    def loss(theta: np.ndarray) -> float:
        law = stats.norm(loc=design @ theta[:2], scale=np.exp(theta[2]))
        return -float(np.log(np.maximum(law.cdf(high) - law.cdf(low), 1e-300)).sum())

    best = optimize.minimize(loss, [0.0, 1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-11})
    found = laws.lognormal(design, low, high, np.ones((1, len(n))))
    np.testing.assert_allclose(found.parameters[0], [*best.x[:2], math.exp(best.x[2])], atol=1e-5)
    assert found.log_likelihood[0] == pytest.approx(-best.fun, abs=1e-8)


def test_narrow_intervals_leave_least_squares() -> None:
    rng = np.random.default_rng(3)
    design = np.column_stack([np.ones(50), rng.normal(size=(50, 2))])
    log_m = design @ [1.0, 2.0, -0.5] + 0.3 * rng.normal(size=50)
    found = laws.lognormal(design, log_m - 1e-4, log_m + 1e-4, np.ones((1, 50))).parameters[0]
    beta = np.linalg.lstsq(design, log_m, rcond=None)[0]
    np.testing.assert_allclose(found[:-1], beta, atol=1e-5)
    assert found[-1] == pytest.approx(np.sqrt(np.mean((log_m - design @ beta) ** 2)), abs=1e-5)


@pytest.mark.parametrize("law", ["theory", "lognormal"])
def test_scaling_the_widths_shifts_the_parameters(law: str) -> None:
    log_n, low, high = theory_draw(np.random.default_rng(4))
    weights = np.ones((1, len(low)))

    def fitted(factor: np.ndarray) -> np.ndarray:
        if law == "theory":
            return laws.theory(log_n, log_n, factor * low, factor * high, weights).parameters[0]
        design = np.column_stack([np.ones_like(log_n), log_n])
        return laws.lognormal(design, *logs(factor * low, factor * high), weights).parameters[0]

    plain, wider, steeper = (fitted(f) for f in (np.ones_like(low), np.full_like(low, 5.0), np.exp(0.7 * log_n)))
    np.testing.assert_allclose(wider[:2] - plain[:2], [math.log(5.0), 0.0], atol=2e-3)
    np.testing.assert_allclose(steeper[:2] - plain[:2], [0.0, 0.7], atol=2e-3)


def test_an_interval_that_occurs_twice_counts_twice_and_one_that_does_not_occur_says_nothing() -> None:
    log_n, low, high = theory_draw(np.random.default_rng(5), size=10)
    times = np.arange(len(low)) % 3
    again = np.repeat(np.arange(len(low)), times)
    log_low, log_high = logs(low, high)
    for law, data in (
        (laws.theory, (log_n, log_n, low, high)),
        (laws.lognormal, (np.column_stack([np.ones_like(log_n), log_n]), log_low, log_high)),
    ):
        weighted = law(*data, times[None].astype(float))
        spelt = law(*(part[again] for part in data), np.ones((1, len(again))))
        np.testing.assert_allclose(weighted.parameters, spelt.parameters, atol=2e-3)
        np.testing.assert_allclose(weighted.log_likelihood, spelt.log_likelihood, atol=2e-6)


def test_percentiles_are_of_the_draws_and_null_without_any() -> None:
    low, high = laws.percentiles(np.arange(101.0), 0.9)
    assert (low, high) == (pytest.approx(5.0), pytest.approx(95.0))
    assert laws.percentiles(np.array([]), 0.9) == (None, None)
