"""Interval-censored thresholds: brackets by hand, nobody dropped, the right law found, separation said."""

import math

import numpy as np
import pytest

from expreg.core.stats import censored, laws, thresholds

NS = (4, 8, 16, 32, 64)
WIDTHS = np.array([8.0, 16.0, 32.0, 64.0])
NAN = np.nan


@pytest.mark.parametrize(
    ("row", "interval"),
    [
        ([0, 0, 1, 1], (16, 32)),
        ([1, 1, 1, 1], (0, 8)),
        ([0, 0, 0, 0], (64, np.inf)),
        ([0, 1, 0, 1], (32, 64)),  # m*_last, not m*_first
        ([1, 1, 1, 0], (64, np.inf)),
        ([0, NAN, NAN, 1], (8, 64)),
        ([NAN, 1, 1, 1], (0, 16)),
        ([0, 0, NAN, NAN], (16, np.inf)),
        ([NAN, NAN, NAN, NAN], (0, np.inf)),
    ],
)
def test_brackets_by_hand(row: list[float], interval: tuple[float, float]) -> None:
    low, high = censored.bracket(WIDTHS, np.array([row]))
    assert (low[0], high[0]) == interval


def test_full_tables_are_bracketed_by_m_last_and_its_neighbour() -> None:
    table = (np.random.default_rng(0).random((200, 4)) < [0.2, 0.5, 0.8, 0.9]).astype(float)
    low, high = censored.bracket(WIDTHS, table)
    _, last = thresholds.first_and_last(table)
    np.testing.assert_array_equal(high, np.append(WIDTHS, np.inf)[last])
    np.testing.assert_array_equal(low, np.append(0.0, WIDTHS)[last])


def test_holes_only_widen_the_bracket_of_a_monotone_replicate() -> None:
    rng = np.random.default_rng(1)
    table = (rng.uniform(4, 80, size=(300, 1)) <= WIDTHS).astype(float)
    low, high = censored.bracket(WIDTHS, table)
    wide_low, wide_high = censored.bracket(WIDTHS, np.where(rng.random(table.shape) < 0.3, NAN, table))
    assert (wide_low <= low).all()
    assert (wide_high >= high).all()
    assert (wide_high > high).any()


def draw(
    law: str, replicates: int, *, seed: int = 0, resamples: int = 100, span: tuple[int, int] = (-6, 12)
) -> list[laws.Sample]:
    """Return outcomes with exponent 1.3 after the log factor, on half octaves around 6 n^1.3."""
    samples = []
    for n in NS:
        rng = np.random.default_rng([seed, n])
        noise = {
            "theory": math.log(n) + rng.exponential(size=replicates),
            "lognormal": math.log(n / 0.1) * np.exp(0.5 * rng.normal(size=replicates)),
        }
        star = 6 * n**1.3 * noise[law]
        widths = 6 * n**1.3 * 2.0 ** (np.arange(*span) / 2)
        counts = rng.multinomial(replicates, np.full(replicates, 1 / replicates), size=resamples).astype(float)
        samples.append(laws.Sample(n, widths, (widths >= star[:, None]).astype(float), counts))
    return samples


def test_every_replicate_counts_in_the_data_and_in_each_bootstrap_sample() -> None:
    samples = draw("lognormal", 20, span=(1, 5))
    intervals = censored.tabulate(samples)
    open_ = (intervals.low == 0) | np.isinf(intervals.high)
    assert intervals.weights[:, open_].sum() > 0
    for n in NS:
        assert (intervals.weights[:, intervals.n == n].sum(axis=1) == 20).all()
    first = samples[0]
    redrawn = np.repeat(first.success, first.counts[6].astype(int), axis=0)
    at = intervals.n == first.n
    pairs = list(zip(intervals.low[at], intervals.high[at], strict=True))
    found = list(zip(*censored.bracket(first.widths, redrawn), strict=True))
    assert [found.count(pair) for pair in pairs] == list(intervals.weights[7, at])


@pytest.mark.parametrize("law", ["theory", "lognormal"])
def test_the_right_law_is_found_and_its_interval_holds_the_exponent(law: str) -> None:
    found = censored.describe(draw(law, 200), 0.1, 0.95)
    assert found["best"]["law"] == law
    estimate = found[law]["corrected"]
    assert estimate["low"] < 1.3 < estimate["high"]
    assert estimate["high"] - estimate["low"] < 0.15
    # The log factor takes about the slope of log log(n / delta) on log n off the exponent (D.12).
    slope = np.polyfit(np.log(NS), np.log(np.log(np.array(NS) / 0.1)), 1)[0]
    shift = found["lognormal"]["raw"]["value"] - found["lognormal"]["corrected"]["value"]
    assert shift == pytest.approx(slope, abs=0.02)
    assert found["best"]["aic_gap"] > 0
    assert (found["replicates"], found["censored_above"]) == (1000, 0)


def test_dropping_the_censored_replicates_is_what_goes_wrong() -> None:
    samples = []
    for sample in draw("lognormal", 400, resamples=0):
        ceiling = sample.widths <= 4000.0  # the widest network that fits: half of the replicates at n = 64 need more
        samples.append(sample._replace(widths=sample.widths[ceiling], success=sample.success[:, ceiling]))
    kept = [
        s._replace(success=s.success[s.success[:, -1] > 0], counts=np.zeros((0, int(s.success[:, -1].sum()))))
        for s in samples
    ]
    whole, dropped = (censored.describe(part, 0.1, 0.95)["lognormal"]["corrected"]["value"] for part in (samples, kept))
    assert censored.describe(samples, 0.1, 0.95)["censored_above"] > 100
    assert whole == pytest.approx(1.3, abs=0.06)
    assert dropped < 1.15


def test_the_laws_without_the_log_factor_are_those_with_it_at_the_mean_n() -> None:
    # At a single n the factor is a constant; there the two forms of each law differ in their constant only.
    [sample] = [s for s in draw("theory", 60, resamples=0) if s.n == 16]
    copies = [sample, sample._replace(n=16, widths=sample.widths * 1.5)]
    intervals = censored.tabulate(copies)
    raw, corrected = (censored.theory(intervals, log_factor=factor).log_likelihood[0] for factor in (False, True))
    assert raw == pytest.approx(corrected, abs=1e-5)


def test_thresholds_that_all_lie_in_one_cell_are_said_to_be_unresolved() -> None:
    wide = [s._replace(widths=s.widths[::3], success=s.success[:, ::3]) for s in draw("theory", 40)]
    counts = np.zeros((0, 40))
    table = np.tile([0.0, 1.0, 1.0], (40, 1))
    same = [laws.Sample(s.n, s.widths[[0, 8, 16]], table, counts) for s in draw("theory", 40)]
    assert censored.describe(same, 0.1, 0.95)["unresolved_spread"]
    assert censored.describe(same, 0.1, 0.95)["theory"]["corrected"]["low"] is None  # no bootstrap was drawn
    assert not censored.describe(wide, 0.1, 0.95)["unresolved_spread"]


def test_widths_that_follow_a_power_of_n_are_refused() -> None:
    table = np.array([[0.0], [1.0], [1.0]])
    samples = [laws.Sample(n, np.array([2.0 * n**2]), table, np.ones((1, 3))) for n in NS]
    with pytest.raises(ValueError, match="power of n"):
        censored.describe(samples, 0.1, 0.95)
