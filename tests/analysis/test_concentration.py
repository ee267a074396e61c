"""The Frobenius error over its expectation, the growth that the expectation alone gives, and margins of events."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from expreg.kinds.network.summary import groups, spreads, verdicts


def orthonormal(replicates: int = 60, scale: float = 1.0, seed: int = 0) -> pd.DataFrame:
    """Return rows with the error of orthonormal points: a diagonal of lognormal means (B.13, B.14)."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in (4, 8, 16):
        for m in (64, 256):
            for replicate in range(replicates):
                diagonal = np.exp(2 * rng.normal(size=(n, m)) * scale).mean(axis=1)
                mean = math.exp(2 * scale**2)
                expected = math.sqrt((math.exp(8 * scale**2) - math.exp(4 * scale**2)) * n / m)
                rows.append((n, m, replicate, mean, np.linalg.norm(diagonal - mean), expected))
    names = ["n", "m", "replicate", "lambda_cts", "frobenius_error", "frobenius_expected"]
    return pd.DataFrame(rows, columns=names)


def test_the_ratio_is_told_by_quantiles_and_heavy_tails_pull_its_median_below_one() -> None:
    rows = orthonormal()
    light, heavy = orthonormal(scale=0.2), rows
    for table, low, high in ((light, 0.7, 1.1), (heavy, 0.1, 0.7)):
        at = table[table["n"] == 8]
        found = spreads.ratios(at)
        assert [record["m"] for record in found] == [64, 256]
        for record in found:
            ratio = (at["frobenius_error"] / at["frobenius_expected"])[at["m"] == record["m"]]
            assert record["ratio"] == pytest.approx(np.median(ratio))
            assert record["low"] == pytest.approx(np.quantile(ratio, 0.05))
            assert low < record["ratio"] < high
    assert spreads.ratios(rows.assign(frobenius_expected=np.nan)) == []


@pytest.mark.parametrize("power", [0.0, -1.2])
def test_the_expected_exponent_is_that_of_the_variance_over_lambda_squared(power: float) -> None:
    rows = orthonormal(2)
    changed = rows.assign(lambda_cts=rows["lambda_cts"] * rows["n"] ** power)
    assert spreads.expected_exponent(changed) == pytest.approx(1.0 - 2 * power)
    assert spreads.expected_exponent(rows[rows["n"] == 4]) is None
    assert spreads.expected_exponent(rows.assign(lambda_cts=np.nan)) is None


FLAT = [{"n": n, "lambda_cts": 4.0} for n in (4, 8, 16)]


def criterion(low: float, high: float, why_not: str | None = None) -> dict[str, Any]:
    exponent = {"raw": {"value": (low + high) / 2, "low": low, "high": high, "largest": 9.0}, "used": [4, 8, 16]}
    exponent |= {"usable": why_not is None, "why_not": why_not}
    return {"criterion": "E1", "exponent": exponent, "thresholds": [{"replicates": 60}], "claim_exponent": 2.0}


@pytest.mark.parametrize(
    ("low", "high", "expected", "verdict"),
    [
        (0.9, 1.2, 1.0, "consistent"),
        (1.0, 1.9, 1.0, "consistent"),
        (1.26, 1.6, 1.0, "consistent"),
        (1.0, 2.1, 1.0, "cannot decide"),
        (2.4, 2.8, 2.6, "contradicts"),
    ],
)
def test_growth_is_judged_against_the_claimed_and_compared_to_the_expected(
    low: float, high: float, expected: float, verdict: str
) -> None:
    found = verdicts.concentration(criterion(low, high), expected, FLAT, 0.95)
    assert found is not None
    assert (found["verdict"], found["claimed"], found["low"]) == (verdict, 2.0, low)
    assert ("inside the interval" in found["reason"]) == (low <= expected <= high)
    assert ("heavy-tailed" in found["reason"]) == (not low <= expected <= high)


def test_without_an_expectation_or_an_exponent_nothing_is_claimed() -> None:
    assert verdicts.concentration(criterion(0.9, 1.1), None, FLAT, 0.95) is None
    found = verdicts.concentration(criterion(0.9, 1.1, "too few n"), 1.0, FLAT, 0.95)
    assert found is not None
    assert found["verdict"] == "cannot decide"
    assert "too few n" in found["reason"]


# --- margins


def events(**columns: Any) -> pd.DataFrame:
    fixed = {"n": 4, "m": [8, 8, 16, 16, 32, 32], "status": "converged", "E3": [0, 0, 0, 1, 1, 1]}
    numbers = {"E3_margin": [0.1, 0.3, 0.9, 1.1, 2.0, np.inf], "E3_step": [4, 8, 16, None, None, None]}
    return groups.prepare(pd.DataFrame(fixed | numbers | columns))


def test_margins_are_told_at_both_ends_and_at_the_threshold() -> None:
    found = spreads.margins(4, events(), "E3", 9.5)
    assert [(record["m"], record["at"]) for record in found] == [(8, "narrowest"), (16, "threshold"), (32, "widest")]
    assert [record["margin"] for record in found] == pytest.approx([0.2, 1.0, 2.0])
    assert [(record["violated"], record["trials"], record["first_step"]) for record in found] == [
        (2, 2, 6.0), (1, 2, 16.0), (0, 2, None),
    ]  # fmt: skip


def test_margins_have_their_5_and_95_percent_quantiles() -> None:
    values = np.random.default_rng(0).lognormal(size=200)
    fixed = {"n": 4, "m": 8, "status": "converged", "E3": (values >= 1) * 1.0, "E3_margin": values}
    [record] = spreads.margins(4, groups.prepare(pd.DataFrame(fixed)), "E3", None)
    found = [record[name] for name in ("low", "margin", "high")]
    assert found == pytest.approx(np.quantile(values, [0.05, 0.5, 0.95]))


@pytest.mark.parametrize(
    ("threshold", "places"),
    [
        (None, ["narrowest", "widest"]),
        (math.nan, ["narrowest", "widest"]),
        (40.0, ["narrowest", "widest"]),
        (8.0, ["threshold", "widest"]),
        (30.0, ["narrowest", "threshold"]),
    ],
)
def test_a_width_is_told_once(threshold: float | None, places: list[str]) -> None:
    assert [record["at"] for record in spreads.margins(4, events(), "E3", threshold)] == places


def test_failed_and_unmeasured_cells_have_no_margin() -> None:
    assert spreads.margins(4, events(E3=[None] * 6), "E3", None) == []
    failed = events(status=["oom", "oom", *["converged"] * 4])
    assert [record["m"] for record in spreads.margins(4, failed, "E3", None)] == [16, 32]
    [one] = spreads.margins(4, events(E3_margin=None, m=8), "E3", None)
    assert (one["margin"], one["violated"]) == (None, 3)
