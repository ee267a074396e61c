"""Success curves: exact intervals, the monotone fit, and where it reaches a level."""

import numpy as np
import pytest
from scipy import optimize, special, stats

from expreg.core.stats import success


def test_the_exact_interval_is_the_one_that_both_binomial_tails_define() -> None:
    low, high = success.clopper_pearson(np.array([7.0]), np.array([20.0]), 0.9)
    assert stats.binom.sf(6, 20, low[0]) == pytest.approx(0.05)
    assert stats.binom.cdf(7, 20, high[0]) == pytest.approx(0.05)


def test_the_exact_interval_ends_at_0_and_1_and_is_unknown_without_trials() -> None:
    low, high = success.clopper_pearson(np.array([0.0, 20.0, 0.0]), np.array([20.0, 20.0, 0.0]), 0.95)
    assert low[0] == 0.0
    assert high[1] == 1.0
    assert low[1] == pytest.approx(0.025 ** (1 / 20))
    assert np.isnan([low[2], high[2]]).all()


def test_the_exact_interval_covers_at_least_as_often_as_it_says() -> None:
    hits = np.arange(31.0)
    low, high = success.clopper_pearson(hits, np.full(31, 30.0), 0.9)
    for share in (0.03, 0.5, 0.9):
        covered = (low <= share) & (share <= high)
        assert stats.binom.pmf(hits, 30, share)[covered].sum() >= 0.9


def test_the_monotone_fit_is_the_weighted_isotonic_regression() -> None:
    rng = np.random.default_rng(0)
    trials = rng.integers(1, 30, size=(40, 12)).astype(float)
    hits = rng.binomial(trials.astype(int), np.linspace(0.2, 0.8, 12)).astype(float)
    fitted = success.isotonic(hits, trials)
    expected = [optimize.isotonic_regression(h / t, weights=t).x for h, t in zip(hits, trials, strict=True)]
    np.testing.assert_allclose(fitted, expected, rtol=1e-12)


def test_widths_without_trials_do_not_change_the_fit_elsewhere() -> None:
    hits, trials = np.array([1.0, 0.0, 0.0, 5.0]), np.array([5.0, 0.0, 5.0, 5.0])
    fitted = success.isotonic(hits, trials)
    np.testing.assert_allclose(fitted[[0, 2, 3]], success.isotonic(hits[[0, 2, 3]], trials[[0, 2, 3]]))


def test_the_crossing_recovers_a_logistic_curve_between_the_widths() -> None:
    widths = np.exp2(np.arange(4.0, 12.0))
    trials = np.full(8, 1e9)
    curve = special.expit(2.0 * (np.log(widths) - np.log(200.0)))
    for level in (0.5, 0.9):
        exact = np.log(200.0) + special.logit(level) / 2.0
        assert success.crossing(curve, trials, widths, level).log_m == pytest.approx(exact, abs=1e-6)


def test_a_level_reached_at_the_first_width_or_nowhere_lies_beyond_the_grid() -> None:
    widths, trials = np.array([8.0, 16.0, 32.0]), np.full((3, 3), 10.0)
    curves = np.array([[0.9, 1.0, 1.0], [0.0, 0.5, 0.8], [0.0, 0.9, 1.0]])
    log_m, blur = success.crossing(curves, trials, widths, 0.9)
    assert log_m[0] == -np.inf
    assert log_m[1] == np.inf
    assert log_m[2] == pytest.approx(np.log(16.0))
    assert blur[0] == blur[1] == 0.0


@pytest.mark.parametrize(("share", "expected"), [(0.95, -np.inf), (0.2, np.inf)])
def test_one_width_alone_brackets_nothing(share: float, expected: float) -> None:
    found = success.crossing(np.array([share]), np.array([20.0]), np.array([64.0]), 0.9)
    assert found.log_m == expected


def test_a_jump_leaves_the_whole_cell_open_and_a_flat_curve_little() -> None:
    widths, trials = np.array([8.0, 16.0]), np.full(2, 100.0)
    jump = success.crossing(np.array([0.0, 1.0]), trials, widths, 0.9)
    flat = success.crossing(np.array([0.88, 0.92]), trials, widths, 0.9)
    assert jump.blur == pytest.approx(np.log(2.0))
    assert flat.blur == pytest.approx(0.04 * np.log(2.0))


def test_missing_cells_are_counted_and_are_no_failures() -> None:
    table = np.array([[0.0, 1.0], [np.nan, 1.0], [1.0, np.nan]])
    narrow, wide = success.describe(4, np.array([8.0, 16.0]), table, 0.95)
    assert (narrow["successes"], narrow["trials"], narrow["missing"]) == (1, 2, 1)
    assert (wide["successes"], wide["trials"], wide["missing"], wide["rate"]) == (2, 2, 1, 1.0)


def test_the_distance_to_the_monotone_fit_is_that_of_the_worst_width() -> None:
    table = np.array([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    records = success.describe(4, np.array([8.0, 16.0, 32.0]), table, 0.95)
    assert success.non_isotonic(records) == pytest.approx(0.25)
