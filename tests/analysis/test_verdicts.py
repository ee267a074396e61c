"""Verdicts below, at and above what decides them."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from expreg.core.stats.power import standard_errors
from expreg.kinds.network.summary import growth, summary, verdicts

NS = [4, 8, 16]
BOUND = [{"n": n, "alpha_eff": alpha, "width": 1e6} for n, alpha in zip(NS, (4.8, 4.6, 4.4), strict=True)]
FLAT = [{"n": n, "lambda_cts": 4.0} for n in NS]


def criterion(low: float, high: float, why_not: str | None = None, largest: float = 9.0) -> dict[str, Any]:
    exponent = {"corrected": {"value": (low + high) / 2, "low": low, "high": high, "largest": largest}, "used": NS}
    table = [{"n": n, "replicates": 64, "censored_below": 16, "censored_above": 0} for n in NS]
    return {
        "criterion": "E3",
        "claim_exponent": 2.0,
        "exponent": exponent | {"usable": why_not is None, "why_not": why_not},
        "thresholds": table,
        "success": [{"missing": 0}],
        "bound_exponent": BOUND,
    }


def width(found: dict[str, Any], spectrum: list[dict[str, Any]] = FLAT) -> dict[str, Any]:
    return verdicts.width(found, spectrum, 0.95)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.9, 1.2, "consistent"),
        (1.7, 2.0, "consistent"),
        (1.7, 2.01, "cannot decide"),
        (2.1, 2.5, "cannot decide"),  # an interval twice as wide reaches down to 1.9
        (2.21, 2.6, "contradicts"),
        (4.81, 5.2, "contradicts"),
    ],
)
def test_the_width_verdict_is_decided_by_the_ends_of_the_interval(low: float, high: float, expected: str) -> None:
    found = width(criterion(low, high))
    assert found["verdict"] == expected
    assert f"{low:.2f}" in found["reason"] or f"{high:.2f}" in found["reason"]
    assert (found["claimed"], found["low"], found["high"], found["replicates"]) == (2.0, low, high, 64)
    assert found["censored_share"] == pytest.approx(0.25)


def test_a_contradiction_says_whether_the_o1_of_the_theorem_allows_it() -> None:
    assert "its o(1) allows" in width(criterion(2.3, 2.5))["reason"]  # the bound's own exponent is 4.8 at n = 4
    assert "above that, too" in width(criterion(4.9, 5.1))["reason"]


def test_a_grid_that_can_show_no_larger_exponent_decides_nothing() -> None:
    # half-width 0.1: twice that, and 0.84 standard errors of 0.1 / 1.96 for a power of 80 %
    needed = 2.0 + 0.2 + 0.8416 * 0.1 / 1.95996
    for largest, expected in ((needed + 0.01, "consistent"), (needed - 0.01, "cannot decide")):
        found = width(criterion(1.0, 1.2, largest=largest))
        assert found["verdict"] == expected
        assert found["largest"] == pytest.approx(largest)
        assert found["detectable"] == pytest.approx(needed, abs=1e-3)
        assert ("add wider networks" in found["reason"]) == (expected == "cannot decide")


@pytest.mark.parametrize("power", [-1.2, -0.1, 0.1])
def test_where_lambda_moves_the_exponent_of_m_lambda_squared_is_judged(power: float) -> None:
    spectrum = [{"n": n, "lambda_cts": 4.0 * n**power} for n in NS]
    assert growth.lambda_slope(spectrum, NS) == pytest.approx((power, 0.0))
    # the width of the theorem itself: m = n^2 / lambda^2, measured with a half-width of 0.05, is never above the claim
    at = 2.0 - 2.0 * power
    found = width(criterion(at - 0.05, at + 0.05), spectrum)
    assert found["verdict"] == "cannot decide"
    assert found["scaled"]["value"] == pytest.approx(2.0)
    assert found["measured"] == pytest.approx(2.0)  # the number that is shown is the one that is compared
    assert f"n^{power:.2f}" in found["reason"]
    assert width(criterion(at - 0.5, at - 0.3), spectrum)["verdict"] == "consistent"
    assert width(criterion(at + 0.3, at + 0.4), spectrum)["verdict"] == "contradicts"


def test_an_exponent_that_lambda_makes_contradicts_nothing() -> None:
    # points on the sphere in 8 dimensions, n = 4, 8, 16: E1 grows like n^2.79, and lambda falls like n^-0.6
    spectrum = [{"n": n, "lambda_cts": 4.0 * n**-0.6} for n in NS]
    found = width(criterion(2.6, 2.98), spectrum)
    assert found["verdict"] == "consistent"
    assert found["high"] == found["scaled"]["high"] == pytest.approx(2.98 - 1.2)


def test_m_alone_below_the_claim_is_enough_where_lambda_falls() -> None:
    # m lambda^2 shows at most 9 - 8 = 1, too little to contradict; m itself can, and lambda is bounded above
    spectrum = [{"n": n, "lambda_cts": 4.0 * n**-4.0} for n in NS]
    found = width(criterion(0.9, 1.1), spectrum)
    assert found["verdict"] == "consistent"
    assert "log factor of m is at most 1.10" in found["reason"]
    assert (found["low"], found["high"]) == (0.9, 1.1)
    assert width(criterion(0.9, 1.1, largest=2.0), spectrum)["verdict"] == "cannot decide"


@pytest.mark.parametrize("last", [None, 0.0, -1e-17])
def test_an_unknown_lambda_decides_nothing(last: float | None) -> None:
    found = width(criterion(0.9, 1.2), [*FLAT[:2], {"n": 16, "lambda_cts": last}])
    assert found["verdict"] == "cannot decide"
    assert "lambda" in found["reason"]


def test_only_the_n_of_the_fit_count_for_lambda() -> None:
    assert growth.lambda_slope([*FLAT, {"n": 32, "lambda_cts": 1e-9}], NS) == pytest.approx((0.0, 0.0))


def test_the_error_of_a_random_lambda_is_that_of_repeated_draws() -> None:
    rng = np.random.default_rng(5)
    draws = np.exp(rng.normal(-0.3 * np.log(NS), 0.4, size=(600, 40, len(NS))))
    low, middle, high = np.quantile(draws, [0.25, 0.5, 0.75], axis=1)
    found = []
    for values, errors in zip(middle, summary.MEDIAN_ERROR * np.log(high / low) / 40**0.5, strict=True):
        spectrum = [
            {"n": n, "lambda_cts": value, "lambda_error": error}
            for n, value, error in zip(NS, values, errors, strict=True)
        ]
        found.append(growth.lambda_slope(spectrum, NS))
    slopes, errors = np.transpose(found)
    assert slopes.mean() == pytest.approx(-0.3, abs=4 * slopes.std() / 600**0.5)
    # the error of a standard deviation from 600 draws is 3 %; quartiles of 40 draws and discreteness add some
    assert errors.mean() == pytest.approx(slopes.std(), rel=0.1)


def test_the_error_of_lambda_widens_the_interval_of_m_lambda_squared() -> None:
    random = [{"n": n, "lambda_cts": 4.0 * n**-1.0, "lambda_error": 0.1} for n in NS]
    known = [record | {"lambda_error": 0.0} for record in random]
    sure, unsure = (width(criterion(3.7, 3.9), spectrum)["scaled"] for spectrum in (known, random))
    half = standard_errors(0.95) * growth.lambda_slope(random, NS)[1]
    assert (sure["low"], sure["high"]) == pytest.approx((1.7, 1.9))
    assert (unsure["low"], unsure["high"]) == pytest.approx(
        (1.8 - np.hypot(0.1, 2 * half), 1.8 + np.hypot(0.1, 2 * half))
    )
    # a slope of lambda that may be 0 is no constant
    nearly = [record | {"lambda_cts": 4.0} for record in random]
    assert "m lambda^2" in width(criterion(1.0, 1.2), nearly)["reason"]


INSIDE = {"eta": 1 / 64, "m": 8, "scale": 1.0, "lambda_max_0": 8.0, "optimizer": "sgd", "label_norm": 2.0, "n": 4}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"eta": 1 / 63}, "steps above"),
        ({"optimizer": "adam"}, "optimizer adam"),
        ({"activation": "relu"}, "activation relu"),
        ({"schedule": "cosine_decay"}, "cosine_decay"),
        ({"scale": 0.5, "eta": 1 / 16}, "output scale"),
        ({"label_norm": 2.1}, "labels"),
        ({"eta": None, "optimizer": "adam"}, None),  # nothing is trained
        ({"eta": None, "activation": "cosh"}, "activation cosh"),
    ],
)
def test_outside_its_assumptions_the_theorem_says_nothing(change: dict[str, Any], words: str | None) -> None:
    rows = pd.DataFrame([INSIDE, {**INSIDE, **change}]).astype({"eta": float})
    rows = rows if change.get("eta", 1) else rows.assign(eta=float("nan"))
    found = verdicts.outside(rows)
    assert [words in text for text in found] == ([True] if words else [])  # type: ignore[operator]
    judged = verdicts.within(width(criterion(0.9, 1.2)), found)
    assert judged["verdict"] == ("does not apply" if words else "consistent")
    other = {"claim": "steps to tolerance", "verdict": "consistent"}
    assert verdicts.within(other, found) == other


def test_an_unusable_exponent_and_missing_cells_are_named() -> None:
    unfit = criterion(0.9, 1.2, why_not="n spans a factor 2; 4 is required")
    unfit["success"] = [{"missing": 3}, {"missing": 4}]
    found = width(unfit)
    assert found["verdict"] == "cannot decide"
    assert "factor 2" in found["reason"]
    assert "7 cells without a result" in found["reason"]


COVERED = {
    "n": 4,
    "_replicate": 0,
    "optimizer": "sgd",
    "schedule": None,
    "Ecert": 1.0,
    "eta": 0.5,
    "eta_certified": 0.5,
    "refined_movement": 0.9,
    "E3cert": 1.0,
    "E4cert": 1.0,
    "E3": 1.0,
}


@pytest.mark.parametrize(
    ("change", "runs", "expected", "words"),
    [
        ({}, 2, "consistent", "movement 0, eigenvalue 0, rate 0"),
        ({"E3": 0.0}, 2, "consistent", "1 break E3"),
        ({"refined_movement": 1.1}, 2, "contradicts", "movement 1"),
        ({"E3cert": 0.0}, 2, "contradicts", "eigenvalue 1"),
        ({"E4cert": 0.0}, 2, "contradicts", "rate 1"),
        ({"E4cert": 0.0, "eta": 0.6}, 1, "consistent", "rate 0"),  # a larger step than the certified one
        ({"E4cert": 0.0, "Ecert": 0.0}, 1, "consistent", "rate 0"),
        ({"refined_movement": 1.1, "optimizer": "adam"}, 1, "consistent", "movement 0"),  # another algorithm
        ({"E3cert": 0.0, "schedule": "cosine"}, 1, "consistent", "eigenvalue 0"),
    ],
)
def test_one_broken_promise_contradicts_a_certificate(
    change: dict[str, Any], runs: int, expected: str, words: str
) -> None:
    found = verdicts.certificate(pd.DataFrame([COVERED, COVERED | {"_replicate": 1} | change]), 0.95)
    assert found is not None
    assert (found["verdict"], found["replicates"]) == (expected, runs)
    assert words in found["reason"]
    assert verdicts.certificate(pd.DataFrame([COVERED | {"eta": 1.0}]), 0.95) is None


def test_runs_that_break_different_promises_all_count() -> None:
    broken = {"E3cert": 0.0, "_replicate": 1}, {"E4cert": 0.0, "_replicate": 2}
    found = verdicts.certificate(pd.DataFrame([COVERED, *(COVERED | change for change in broken)]), 0.95)
    assert found is not None
    assert found["measured"] == pytest.approx(1 / 3)


def test_nested_widths_of_a_replicate_are_no_runs_of_their_own() -> None:
    """The interval is that of 3 of 4 replicates however many widths each has; replicates of another n are others."""
    rows = [
        COVERED | {"n": n, "_replicate": replicate, "E4cert": float((n, replicate, width) != (8, 1, 6))}
        for n, replicate in ((4, 0), (4, 1), (8, 0), (8, 1))
        for width in range(7)
    ]
    found = verdicts.certificate(pd.DataFrame(rows), 0.95)
    assert found is not None
    assert (found["verdict"], found["measured"], found["replicates"]) == ("contradicts", 0.75, 4)
    assert (found["low"], found["high"]) == pytest.approx(tuple(binomtest(3, 4).proportion_ci(0.95)))
    assert found["reason"].startswith("of 28 certified runs (4 replicates) these break a promise: ")


def widest(n: int, successes: int, low: float, high: float, m: int = 512) -> dict[str, Any]:
    numbers = {"successes": successes, "trials": 64, "rate": successes / 64, "low": low, "high": high}
    return {"n": n, "m": m} | numbers


@pytest.mark.parametrize(
    ("low", "high", "m", "expected"),
    [
        (0.90, 1.0, 512, "consistent"),
        (0.89, 0.99, 512, "cannot decide"),
        (0.5, 0.8, 512, "contradicts"),  # a miss at a width of which the theorem says nothing
        (0.5, 0.8, 10**6, "contradicts"),
        (0.89, 0.99, 10**6, "cannot decide"),
    ],
)
def test_a_probability_is_judged_by_the_lowest_interval(low: float, high: float, m: int, expected: str) -> None:
    records = [widest(4, 64, 0.944, 1.0), widest(8, 60, low, high, m)]
    found = verdicts.share("probability", "E5", records, 0.9, BOUND)
    assert found["verdict"] == expected
    assert (found["low"], found["high"], found["claim"]) == (low, high, "probability")
    assert "60 of 64 at n = 8" in found["reason"]
    if expected == "contradicts":
        theorem = "calls that m sufficient" if m >= 1e6 else "applies from m = 10^6 on"
        assert theorem in found["reason"]


def test_the_reason_of_a_contradiction_names_the_n_of_its_numbers() -> None:
    records = [widest(4, 50, 0.67, 0.87), widest(8, 30, 0.34, 0.6)]
    found = verdicts.share("probability", "E5", records, 0.9, BOUND)
    assert (found["verdict"], found["measured"]) == ("contradicts", 30 / 64)
    assert "30 of 64 at n = 8" in found["reason"]


def test_an_n_without_any_result_leaves_the_probability_open() -> None:
    empty = {"n": 8, "m": 64, "successes": 0, "trials": 0, "rate": None, "low": None, "high": None}
    for records in ([widest(4, 64, 0.95, 1.0), empty], [empty], []):
        found = verdicts.share("kernel", "E3", records, 0.9, BOUND)
        assert found["verdict"] == "cannot decide"
        assert found["measured"] is None


def quantity(value: float, low: float | None, high: float | None, cells: int = 40) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "cells": cells}


@pytest.mark.parametrize(
    ("found", "m", "expected"),
    [
        (quantity(1.3, 1.0, 1.5), 512, "consistent"),
        (quantity(1.3, 0.99, 1.5), 512, "cannot decide"),
        (quantity(0.5, 0.4, 0.6), 512, "contradicts"),
        (quantity(0.5, 0.4, 0.6), 10**6, "contradicts"),
        (quantity(0.0, -0.1, 0.0), 10**6, "contradicts"),
        (quantity(1.3, None, None, cells=3), 512, "cannot decide"),
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
        (0.92, 1.11, "cannot decide"),
        (None, None, "cannot decide"),
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
