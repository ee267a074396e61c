"""Exponents: recovered from the theory-matched law, with intervals that cover, and refused where unfit."""

import math
from functools import partial

import numpy as np
import pytest

from expreg.core.stats import exponents, success

DELTA = 0.1
LOCATE = partial(success.threshold, level=1.0 - DELTA)


def synthetic(
    rng: np.random.Generator, alpha: float, replicates: int, ratio: float, resamples: int = 200
) -> list[exponents.Point]:
    """Return points of m* = C n^alpha (log n + Exp(1)) (D.8) on a grid that lies anywhere."""
    points = []
    for n in (4, 8, 16, 32):
        scale = 6.0 * n**alpha
        m_star = scale * (math.log(n) + rng.exponential(size=replicates))
        octaves = np.arange(math.ceil(math.log(40.0) / math.log(ratio)) + 1) + rng.random()
        widths = 0.2 * scale * math.log(n / DELTA) * np.exp(octaves * math.log(ratio))
        table = (widths >= m_star[:, None]).astype(float)
        samples = exponents.resample(replicates, resamples, rng)
        found = exponents.point(n, widths, table, samples, LOCATE)
        assert found is not None
        points.append(found)
    return points


@pytest.mark.parametrize(("alpha", "replicates", "ratio"), [(0.0, 128, 2**0.5), (2.0, 64, 2**0.5), (1.5, 36, 1.3)])
def test_the_interval_covers_the_exponent_of_the_theory_law(alpha: float, replicates: int, ratio: float) -> None:
    repetitions, covered, values = 100, 0, []
    for k in range(repetitions):
        fit = exponents.fit(synthetic(np.random.default_rng([11, k]), alpha, replicates, ratio), DELTA, 0.95, 36)
        corrected = fit["corrected"]
        covered += corrected["low"] <= alpha <= corrected["high"]
        values.append(corrected["value"])
    error = 2.5 * math.sqrt(0.05 * 0.95 / repetitions)
    assert 0.95 - error - 0.02 <= covered / repetitions <= 0.99 + error
    assert np.mean(values) == pytest.approx(alpha, abs=0.02)


def test_without_the_log_factor_the_exponent_shifts_by_the_slope_of_log_log() -> None:
    fit = exponents.fit(synthetic(np.random.default_rng(0), 1.0, 64, 1.3), DELTA, 0.95, 36)
    n = np.array([4.0, 8.0, 16.0, 32.0])
    shift = np.polyfit(np.log(n), np.log(np.log(n / DELTA)), 1)[0]
    assert fit["raw"]["value"] - fit["corrected"]["value"] == pytest.approx(shift)  # (D.12), exactly


def test_the_slope_is_that_of_least_squares() -> None:
    points = synthetic(np.random.default_rng(1), 1.0, 64, 1.3)
    slope, intercept = np.polyfit(np.log([p.n for p in points]), [p.log_m for p in points], 1)
    raw = exponents.fit(points, DELTA, 0.95, 36)["raw"]
    assert raw["value"] == pytest.approx(slope)
    assert raw["intercept"] == pytest.approx(intercept)


def test_twice_the_spread_in_n_halves_the_interval() -> None:
    def at(ns: tuple[int, ...]) -> list[exponents.Point]:
        rng = np.random.default_rng(5)
        return [exponents.Point(n, 64, 3.0, 3.0 + rng.normal(size=4000), (-9.0, 9.0)) for n in ns]

    near, far = (exponents.fit(at(ns), DELTA, 0.95, 36)["raw"] for ns in ((2, 4, 8), (2, 8, 32)))
    assert (near["high"] - near["low"]) / (far["high"] - far["low"]) == pytest.approx(2.0, rel=0.01)


def test_resamples_draw_every_replicate_once_on_average_and_whole() -> None:
    counts, offset = exponents.resample(16, 2000, np.random.default_rng(0))
    assert (counts.sum(axis=1) == 16).all()
    assert np.abs(counts.mean(axis=0) - 1.0).max() < 5 * math.sqrt(15 / 16 / 2000)
    assert np.abs(offset).max() <= 0.5
    again = exponents.resample(16, 2000, np.random.default_rng(0))
    assert (again.counts == counts).all()


def test_equal_thresholds_at_every_n_have_exponent_0_and_an_interval_as_wide_as_the_grid_leaves_open() -> None:
    widths = np.array([8.0, 16.0, 32.0])
    table = np.tile([0.0, 0.0, 1.0], (64, 1))
    rng = np.random.default_rng(0)
    points = [exponents.point(n, widths, table, exponents.resample(64, 500, rng), LOCATE) for n in (4, 8, 16, 32)]
    raw = exponents.fit([p for p in points if p is not None], DELTA, 0.95, 36)["raw"]
    assert raw["value"] == pytest.approx(0.0, abs=1e-12)
    assert 0.05 < raw["high"] < 0.5
    assert -0.5 < raw["low"] < -0.05


def known(n: int, log_m: float, draws: list[float], replicates: int = 64) -> exponents.Point:
    return exponents.Point(n, replicates, log_m, np.array(draws), (2.0, 6.0))


def test_a_point_beyond_the_grid_in_many_resamples_is_excluded_and_named() -> None:
    inside = [known(n, 3.0, [3.0] * 100) for n in (4, 8, 16)]
    often = known(32, 5.9, [5.9] * 90 + [np.inf] * 10)
    never = known(64, np.inf, [np.inf] * 100)
    fit = exponents.fit([*inside, often, never], DELTA, 0.95, 36)
    assert fit["used"] == [4, 8, 16]
    assert fit["excluded"] == [
        {"n": 32, "why": "beyond the grid in 10% of the resamples"},
        {"n": 64, "why": "above the widest width"},
    ]
    assert fit["usable"]


def test_a_rare_resample_beyond_the_grid_takes_its_edge_and_is_reported() -> None:
    points = [known(n, 3.0, [3.0] * 100) for n in (4, 8)] + [known(16, 5.9, [5.9] * 96 + [np.inf] * 4)]
    fit = exponents.fit(points, DELTA, 0.99, 36)
    assert fit["usable"]
    assert fit["censored_draws"] == pytest.approx(0.04)
    edge = np.polyfit(np.log([4, 8, 16]), [3.0, 3.0, 6.0], 1)[0]
    assert fit["raw"]["high"] == pytest.approx(edge)


@pytest.mark.parametrize(
    ("ns", "replicates", "words"),
    [((4, 8), 64, "2 values of n"), ((4, 5, 6), 64, "factor 1.5"), ((4, 8, 16), 20, "needs 36")],
)
def test_a_slope_that_should_not_be_read_says_why(ns: tuple[int, ...], replicates: int, words: str) -> None:
    fit = exponents.fit([known(n, 3.0, [3.0] * 10, replicates) for n in ns], DELTA, 0.95, 36)
    assert not fit["usable"]
    assert words in fit["why_not"]


def test_no_points_at_all() -> None:
    fit = exponents.fit([], DELTA, 0.95, 36)
    assert (fit["points"], fit["usable"], fit["raw"]["value"]) == (0, False, None)


def test_missing_cells_leave_the_threshold_of_the_others() -> None:
    rng = np.random.default_rng(2)
    widths = np.array([8.0, 16.0, 32.0, 64.0])
    table = (widths >= rng.uniform(10, 33, size=200)[:, None]).astype(float)
    holes = table.copy()
    holes[rng.random(table.shape) < 0.2] = np.nan
    holes[:, 3] = np.nan
    samples = exponents.resample(200, 200, rng)
    full, part = (exponents.point(8, widths, t, samples, LOCATE) for t in (table, holes))
    assert full is not None
    assert part is not None
    assert part.log_m == pytest.approx(full.log_m, abs=0.2)
    assert part.edges[1] == pytest.approx(math.log(32.0))
    assert exponents.point(8, widths, np.full((3, 4), np.nan), samples, LOCATE) is None
