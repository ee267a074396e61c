"""Thresholds under nested widths and the order statistic m*(n, delta)."""

import math

import numpy as np
import pytest
from scipy import stats

from expreg.core.stats import thresholds

WIDTHS = np.array([8.0, 16.0, 32.0, 64.0])


def steps(last: list[int]) -> np.ndarray:
    """Return outcomes that succeed from the given width index on."""
    return (np.arange(len(WIDTHS)) >= np.array(last)[:, None]).astype(float)


def test_first_and_last_agree_only_where_success_is_monotone() -> None:
    table = np.array([[0, 0, 1, 1], [1, 0, 1, 1], [0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]], dtype=float)
    first, last = thresholds.first_and_last(table)
    assert first.tolist() == [2, 0, 1, 0, 4]
    assert last.tolist() == [2, 2, 4, 0, 4]


def test_the_ranks_cover_the_quantile_as_often_as_they_promise() -> None:
    # The exact coverage of (D.3), no sampling: the count below the quantile is binomial.
    for count in (36, 60, 64, 256):
        ranks = thresholds.quantile_ranks(count, 0.9, 0.95)
        coverage = stats.binom.cdf(ranks.high - 1, count, 0.9) - stats.binom.cdf(ranks.low - 1, count, 0.9)
        assert 0.95 <= coverage <= 0.995
        assert ranks.low == stats.binom.ppf(0.025, count, 0.9)
        assert ranks.high == stats.binom.ppf(0.975, count, 0.9) + 1
    assert thresholds.quantile_ranks(9, 0.9, 0.95).quantile == 9  # 0.9 * 10 is 9, also after rounding


def test_the_interval_covers_the_known_quantile_of_the_theory_law() -> None:
    rng = np.random.default_rng(3)
    widths = 2.0 ** np.arange(2, 12, 0.25)
    exact = 6.0 * math.log(16 / 0.1)  # (D.8) with C = 6, alpha = 0
    # What the grid can show: the narrowest width at or above the exact quantile.
    rounded = widths[np.searchsorted(widths, exact)]
    covered = 0
    for _ in range(300):
        sample = 6.0 * (np.log(16) + rng.exponential(size=64))
        found = thresholds.describe(16, widths, (widths >= sample[:, None]).astype(float), 0.1, 0.95)
        covered += (found["low"] or 0) <= rounded and (found["high"] is None or int(rounded) <= found["high"])
    assert covered / 300 >= 0.95 - 2 * math.sqrt(0.05 * 0.95 / 300)


@pytest.mark.parametrize(("delta", "confidence"), [(0.1, 0.95), (0.25, 0.9), (0.01, 0.95), (0.3, 0.5)])
def test_the_number_needed_is_the_first_with_a_finite_upper_limit(delta: float, confidence: float) -> None:
    needed = thresholds.replicates_needed(delta, confidence)
    assert thresholds.quantile_ranks(needed, 1 - delta, confidence).high <= needed
    assert thresholds.quantile_ranks(needed - 1, 1 - delta, confidence).high > needed - 1


def test_a_hand_made_table() -> None:
    found = thresholds.describe(4, WIDTHS, steps([1, 2, 2, 3]), delta=0.5, confidence=0.5)
    # Ranks: ceil(0.5 * 5) = 3, Binom(4, 1/2) quartiles 1 and 3, so limits 1 and 4.
    assert (found["quantile"], found["low"], found["high"], found["median"]) == (32, 16, 64, 32)
    assert (found["replicates"], found["non_monotone"], found["flags"]) == (4, 0.0, {})
    assert found["bracketed"]


def test_censored_order_statistics_are_null_and_say_on_which_side() -> None:
    above = thresholds.describe(4, WIDTHS, steps([2] * 30 + [4] * 30), 0.1, 0.95)
    assert above["quantile"] is above["high"] is None
    assert above["flags"]["quantile"] == "above"
    assert (above["censored_above"], above["bracketed"]) == (30, False)
    below = thresholds.describe(4, WIDTHS, steps([0] * 60), 0.1, 0.95)
    assert set(below["flags"].values()) == {"below"}
    assert (below["quantile"], below["censored_below"]) == (None, 60)


def test_too_few_replicates_leave_the_upper_limit_open_and_say_how_many_are_needed() -> None:
    found = thresholds.describe(4, WIDTHS, steps([1] * 10), 0.1, 0.95)
    assert (found["quantile"], found["high"], found["flags"]) == (16, None, {"high": "too few replicates"})
    assert found["replicates_needed"] == 36


def test_replicates_with_missing_widths_are_left_out_and_counted() -> None:
    table = steps([1, 2, 3])
    table[0, 3] = np.nan
    found = thresholds.describe(4, WIDTHS, table, 0.5, 0.5)
    assert (found["replicates"], found["incomplete"]) == (2, 1)


def test_a_width_that_failed_for_all_replicates_is_left_out_of_the_grid() -> None:
    table = steps([1, 2, 2])
    table[:, 3] = np.nan
    found = thresholds.describe(4, WIDTHS, table, 0.5, 0.5)
    assert (found["replicates"], found["incomplete"], found["unmeasured_widths"]) == (3, 0, 1)
    assert found["widest"] == 32


def test_nothing_measured_is_described_without_a_number() -> None:
    found = thresholds.describe(4, WIDTHS, np.full((3, 4), np.nan), 0.1, 0.95)
    assert found["replicates"] == 0
    assert {found[name] for name in ("quantile", "widest", "non_monotone")} == {None}
