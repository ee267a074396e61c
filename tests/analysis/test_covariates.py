"""Regression on properties of the data: known coefficients, least squares in the limit, and rank in words."""

import math
from typing import Any

import numpy as np
import pytest

from expreg.core.stats import covariates

TRUTH = {"log n": 0.4, "log lambda": -1.5, "log ||X||^2": 1.0, "log ||y||": 1.0}


def columns(rng: np.random.Generator, size: int = 400) -> dict[str, np.ndarray]:
    log_n = np.log(rng.choice([4.0, 8.0, 16.0, 32.0], size=size))
    return {
        "log n": log_n,
        "log lambda": rng.normal(size=size) * 0.4,
        "log ||X||^2": 0.3 * log_n + rng.normal(size=size) * 0.3,
        "log ||y||": 0.5 * log_n + rng.normal(size=size) * 0.3,
    }


def thresholds(rng: np.random.Generator, given: dict[str, np.ndarray], noise: float = 0.5) -> np.ndarray:
    size = len(given["log n"])
    return np.asarray(3.0 + sum(TRUTH[name] * given[name] for name in given) + noise * rng.normal(size=size))


def cells(log_m: np.ndarray, narrowest: float = 2.0, widest: float = 5.5) -> tuple[np.ndarray, np.ndarray]:
    edges = np.concatenate([[0.0], np.exp(np.arange(narrowest, widest, 0.35)), [np.inf]])
    place = np.searchsorted(edges[1:-1], np.exp(log_m))
    return edges[place], edges[place + 1]


def fitted(given: dict[str, np.ndarray], low: np.ndarray, high: np.ndarray, **settings: Any) -> dict[str, Any]:
    size = len(low)
    fixed: dict[str, Any] = {"offset": np.zeros(size), "cluster": np.arange(size), "confidence": 0.95}
    return covariates.fit(given, low, high, **(fixed | settings))


def test_known_coefficients_come_back_though_many_replicates_are_censored() -> None:
    rng = np.random.default_rng(0)
    given = columns(rng)
    low, high = cells(thresholds(rng, given))
    found = fitted(given, low, high)
    assert found["usable"]
    assert found["censored_above"] > 60
    assert [record["name"] for record in found["coefficients"]] == list(TRUTH)
    for record in found["coefficients"]:
        assert abs(record["value"] - TRUTH[record["name"]]) < 3.5 * record["se"]
        assert record["se"] < 0.15
        assert record["high"] - record["low"] == pytest.approx(2 * 1.96 * record["se"], rel=1e-3)
    assert found["spread"] == pytest.approx(0.5, rel=0.15)


def test_errors_are_the_spread_over_repetitions() -> None:
    values, errors = [], []
    for seed in range(60):
        rng = np.random.default_rng([1, seed])
        given = columns(rng, size=150)
        found = fitted(given, *cells(thresholds(rng, given)))
        values.append([record["value"] for record in found["coefficients"]])
        errors.append([record["se"] for record in found["coefficients"]])
    np.testing.assert_allclose(np.mean(errors, axis=0), np.std(values, axis=0), rtol=0.3)


def test_narrow_cells_leave_least_squares_with_sandwich_errors_over_clusters() -> None:
    rng = np.random.default_rng(2)
    given = columns(rng, size=80)
    log_m = thresholds(rng, given, noise=0.4)
    log_m += rng.normal(size=80) * 0.3 * given["log lambda"]  # the spread is not constant
    cluster = np.arange(80) // 4
    found = fitted(given, np.exp(log_m - 1e-4), np.exp(log_m + 1e-4), cluster=cluster)
    design = np.column_stack([np.ones(80), *given.values()])
    bread = np.linalg.inv(design.T @ design)
    beta = bread @ design.T @ log_m
    score = design * (log_m - design @ beta)[:, None]
    summed = np.array([score[cluster == k].sum(axis=0) for k in range(20)])
    expected = np.sqrt(np.diag(bread @ summed.T @ summed @ bread))
    np.testing.assert_allclose([record["value"] for record in found["coefficients"]], beta[1:], atol=1e-5)
    np.testing.assert_allclose([record["se"] for record in found["coefficients"]], expected[1:], rtol=1e-3)


def test_replicates_that_share_their_draws_count_once() -> None:
    rng = np.random.default_rng(3)
    given = columns(rng, size=150)
    low, high = cells(thresholds(rng, given), widest=9.0)
    twice = {name: np.tile(values, 2) for name, values in given.items()}
    once, shared, taken_apart = (
        np.array([record["se"] for record in found["coefficients"]])
        for found in (
            fitted(given, low, high),
            fitted(twice, np.tile(low, 2), np.tile(high, 2), cluster=np.tile(np.arange(150), 2)),
            fitted(twice, np.tile(low, 2), np.tile(high, 2)),
        )
    )
    np.testing.assert_allclose(shared, once, rtol=1e-4)
    np.testing.assert_allclose(taken_apart, once / math.sqrt(2), rtol=1e-4)


def test_the_offset_takes_its_own_exponent_off() -> None:
    rng = np.random.default_rng(4)
    given = columns(rng)
    low, high = cells(thresholds(rng, given))
    plain, reduced = (fitted(given, low, high, offset=share * given["log n"]) for share in (0.0, 0.25))
    shift = [a["value"] - b["value"] for a, b in zip(plain["coefficients"], reduced["coefficients"], strict=True)]
    np.testing.assert_allclose(shift, [0.25, 0, 0, 0], atol=1e-6)


def test_columns_that_cannot_be_told_apart_are_left_out_and_said_in_words() -> None:
    rng = np.random.default_rng(5)
    given = columns(rng)
    given["log lambda"] = np.full(400, 2.0)
    given["log ||y||"] = 0.5 * given["log n"]  # labels of size 1
    given["log ||X||^2"] = np.where(np.arange(400) < 9, np.nan, 1.0)
    kept, left = covariates.independent(given)
    assert kept == ["log n"]
    words = {record["name"]: record["why"] for record in left}
    assert words["log lambda"] == "log lambda is the same in all replicates."
    assert words["log ||y||"].startswith("log ||y|| = 0.5 log n + constant in all replicates")
    assert words["log ||X||^2"] == "log ||X||^2 is not recorded for 9 replicates."
    found = fitted(given, *cells(thresholds(rng, {"log n": given["log n"]})))
    assert [record["name"] for record in found["coefficients"]] == ["log n"]
    assert found["left_out"] == left


def test_a_sum_of_two_columns_is_seen_as_such() -> None:
    given = columns(np.random.default_rng(6))
    given["log ||y||"] = 0.5 * given["log n"] - given["log lambda"] + 3.0
    _, left = covariates.independent(given)
    assert [record["name"] for record in left] == ["log ||y||"]
    assert "0.5 log n + -1 log lambda + constant" in left[0]["why"]


def test_too_few_thresholds_inside_the_grid_are_refused_with_the_number_needed() -> None:
    rng = np.random.default_rng(7)
    given = columns(rng, size=60)
    found = fitted(given, *cells(thresholds(rng, given), narrowest=3.0, widest=3.5))
    assert not found["usable"]
    assert "4 coefficients ask for 50" in found["why_not"]
    assert all(math.isnan(record["value"]) for record in found["coefficients"])
    constant = fitted({"log n": np.ones(60)}, *cells(thresholds(rng, {"log n": np.ones(60)})))
    assert constant["why_not"] == "no quantity varies over the replicates"


def test_predictions_are_those_of_the_two_routes() -> None:
    found = fitted(given := columns(np.random.default_rng(8)), *cells(thresholds(np.random.default_rng(8), given)))
    predicted = {record["name"]: tuple(record["predicted"].values()) for record in found["coefficients"]}
    assert predicted == {"log n": (0, 2), "log lambda": (-1.5, -2), "log ||X||^2": (1, 0), "log ||y||": (1, 0)}
