"""Verdicts below, at and above what decides them."""

from typing import Any

import pytest

from expreg.kinds.network.summary import verdicts

NS = [4, 8, 16]
BOUND = [{"n": n, "alpha_eff": alpha, "width": 1e6} for n, alpha in zip(NS, (4.8, 4.6, 4.4), strict=True)]
FLAT = [{"n": n, "lambda_cts": 4.0} for n in NS]


def criterion(low: float, high: float, why_not: str | None = None) -> dict[str, Any]:
    exponent = {"corrected": {"value": (low + high) / 2, "low": low, "high": high}, "used": NS}
    table = [{"n": n, "replicates": 64, "censored_below": 16, "censored_above": 0} for n in NS]
    return {
        "criterion": "E3",
        "claim_exponent": 2.0,
        "exponent": exponent | {"usable": why_not is None, "why_not": why_not},
        "thresholds": table,
        "success": [{"missing": 0}],
        "bound_exponent": BOUND,
    }


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.9, 1.2, "consistent"),
        (1.7, 2.0, "consistent"),
        (1.7, 2.01, "not resolvable at these n"),
        (2.1, 2.5, "not resolvable at these n"),  # above 2, but not above the bound's own exponent at these n
        (4.79, 5.2, "not resolvable at these n"),
        (4.81, 5.2, "contradicts"),
    ],
)
def test_the_width_verdict_is_decided_by_the_ends_of_the_interval(low: float, high: float, expected: str) -> None:
    found = verdicts.width(criterion(low, high), FLAT)
    assert found["verdict"] == expected
    assert f"{low:.2f}" in found["reason"] or f"{high:.2f}" in found["reason"]
    assert (found["claimed"], found["low"], found["high"], found["replicates"]) == (2.0, low, high, 64)
    assert found["censored_share"] == pytest.approx(0.25)


@pytest.mark.parametrize("last", [1.34, 1.32, None, 0.0, -1e-17])
def test_a_collapsing_or_unknown_lambda_decides_nothing(last: float | None) -> None:
    found = verdicts.width(criterion(0.9, 1.2), [*FLAT[:2], {"n": 16, "lambda_cts": last}])
    assert found["verdict"] == ("consistent" if last == 1.34 else "not resolvable at these n")
    assert ("lambda varies by a factor 3.03" in found["reason"]) == (last == 1.32)


def test_only_the_n_of_the_fit_count_for_lambda() -> None:
    assert verdicts.lambda_factor([*FLAT, {"n": 32, "lambda_cts": 1e-9}], NS) == 1.0


def test_an_unusable_exponent_and_missing_cells_are_named() -> None:
    unfit = criterion(0.9, 1.2, why_not="n spans a factor 2; 4 is required")
    unfit["success"] = [{"missing": 3}, {"missing": 4}]
    found = verdicts.width(unfit, FLAT)
    assert found["verdict"] == "not resolvable at these n"
    assert "factor 2" in found["reason"]
    assert "7 cells without a result" in found["reason"]


def widest(n: int, successes: int, low: float, high: float, m: int = 512) -> dict[str, Any]:
    numbers = {"successes": successes, "trials": 64, "rate": successes / 64, "low": low, "high": high}
    return {"n": n, "m": m} | numbers


@pytest.mark.parametrize(
    ("low", "high", "m", "expected"),
    [
        (0.90, 1.0, 512, "consistent"),
        (0.89, 0.99, 512, "not resolvable at these n"),
        (0.5, 0.8, 512, "not resolvable at these n"),  # a miss at a width the theorem says nothing about
        (0.5, 0.8, 10**6, "contradicts"),
        (0.89, 0.99, 10**6, "not resolvable at these n"),
    ],
)
def test_a_probability_is_judged_by_the_lowest_interval(low: float, high: float, m: int, expected: str) -> None:
    records = [widest(4, 64, 0.944, 1.0), widest(8, 60, low, high, m)]
    found = verdicts.share("probability", "E5", records, 0.9, BOUND)
    assert found["verdict"] == expected
    assert (found["low"], found["high"], found["claim"]) == (low, high, "probability")
    assert "60 of 64 at n = 8" in found["reason"]


def test_an_n_without_any_result_leaves_the_probability_open() -> None:
    empty = {"n": 8, "m": 64, "successes": 0, "trials": 0, "rate": None, "low": None, "high": None}
    for records in ([widest(4, 64, 0.95, 1.0), empty], [empty], []):
        found = verdicts.share("kernel", "E3", records, 0.9, BOUND)
        assert found["verdict"] == "not resolvable at these n"
        assert found["measured"] is None


def quantity(value: float, low: float | None, high: float | None, cells: int = 40) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "cells": cells}


@pytest.mark.parametrize(
    ("found", "m", "expected"),
    [
        (quantity(1.3, 1.0, 1.5), 512, "consistent"),
        (quantity(1.3, 0.99, 1.5), 512, "not resolvable at these n"),
        (quantity(0.5, 0.4, 0.6), 512, "not resolvable at these n"),
        (quantity(0.5, 0.4, 0.6), 10**6, "contradicts"),
        (quantity(0.0, -0.1, 0.0), 10**6, "contradicts"),
        (quantity(1.3, None, None, cells=3), 512, "not resolvable at these n"),
    ],
)
def test_the_rate_is_judged_at_the_slowest_n(found: dict[str, Any], m: int, expected: str) -> None:
    records = [{"n": 4, "m": 512, "speed": quantity(4.0, 3.9, 4.1)}, {"n": 8, "m": m, "speed": found}]
    verdict = verdicts.rate(records, BOUND)
    assert verdict is not None
    assert (verdict["verdict"], verdict["measured"]) == (expected, found["value"])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.92, 1.09, "consistent"),
        (0.92, 1.11, "not resolvable at these n"),
        (None, None, "not resolvable at these n"),
    ],
)
def test_predicted_steps_agree_or_are_left_open(low: float | None, high: float | None, expected: str) -> None:
    records = [
        {"n": 4, "m": 64, "steps": quantity(1.0, 1.0, 1.0)},
        {"n": 8, "m": 64, "steps": quantity(1.05, low, high)},
    ]
    verdict = verdicts.steps(records)
    assert verdict is not None
    assert (verdict["verdict"], verdict["measured"]) == (expected, 1.05)


def test_without_curves_there_is_no_verdict_on_rates_or_steps() -> None:
    nothing = [{"n": 4, "m": 64, "speed": quantity(None, None, None), "steps": quantity(None, None, None)}]  # type: ignore[arg-type]
    assert verdicts.rate(nothing, BOUND) is None
    assert verdicts.steps(nothing) is None
