"""Exponents of n and lambda fitted together: recovered where the data separate them, refused where they do not."""

import math

import numpy as np
import pytest

from expreg import theory
from expreg.core.stats import exponents
from expreg.kinds.network.summary import joint

DELTA = 0.1


def located(n, lam, alpha, beta, rng, noise=0.02):
    """Return a threshold m* = 5 n^alpha lambda^-beta log(n / delta) with resamples about it."""
    at = math.log(5) + alpha * math.log(n) - beta * math.log(lam) + math.log(math.log(n / DELTA))
    at += noise * rng.normal()
    return joint.Located(exponents.Point(n, 64, at, at + noise * rng.normal(size=400), (-20.0, 40.0)), lam)


def groups(pairs_of, alpha, beta, seed=0):
    rng = np.random.default_rng(seed)
    keys = [{"data": "near_duplicate", "data.angle": k} for k in range(len(pairs_of))]
    return keys, [{"E3": [located(n, lam, alpha, beta, rng) for n, lam in pairs]} for pairs in pairs_of]


GRID = [[(n, lam) for n in (4, 8, 16, 32)] for lam in (6.0, 2.0, 0.6)]


@pytest.mark.parametrize(("alpha", "beta"), [(1.5, 2.0), (0.1, -0.2), (2.0, 0.0)])
def test_both_exponents_are_recovered_together(alpha, beta):
    [record] = joint.describe(*groups(GRID, alpha, beta), DELTA, 0.95)
    assert (record["pool"], record["groups"], record["points"]) == ("near_duplicate", 3, 12)
    for name, planted in (("n", alpha), ("1/lambda", beta)):
        assert record[name]["low"] - 0.02 <= planted <= record[name]["high"] + 0.02
        assert record[name]["high"] - record[name]["low"] < 0.1


def test_the_fit_is_that_of_least_squares():
    keys, found = groups(GRID, 1.0, 1.0)
    [record] = joint.describe(keys, found, DELTA, 0.95)
    points = [at for part in found for at in part["E3"]]
    n, lam = np.array([at.point.n for at in points], float), np.array([at.lam for at in points])
    target = np.array([at.point.log_m for at in points]) - np.log(np.log(n / DELTA))
    design = np.column_stack([np.ones(len(n)), np.log(n), -np.log(lam)])
    expected = np.linalg.solve(design.T @ design, design.T @ target)
    assert [record["n"]["intercept"], record["n"]["value"], record["1/lambda"]["value"]] == pytest.approx(expected)


def test_at_one_n_the_exponent_of_lambda_alone_is_fitted():
    [record] = joint.describe(*groups([[(16, lam)] for lam in (6.0, 3.0, 1.0, 0.6)], 0.0, 1.8), DELTA, 0.95)
    assert record["n"] is None
    assert record["1/lambda"]["value"] == pytest.approx(1.8, abs=0.1)


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([[(n, 8 / n) for n in (4, 8, 16)], [(n, 8.1 / n) for n in (4, 8, 16)]], "on its own"),
        ([[(16, 4.0)], [(16, 3.0)], [(16, 2.0)]], "1/lambda varies by a factor 2; 3 is required"),
        ([[(16, 4.0)], [(16, 1.0)]], "2 thresholds lie inside the grid"),
        ([[(16, 4.0)], [(16, 1.0), (16, None)]], "2 thresholds lie inside the grid"),
    ],
)
def test_what_the_data_do_not_separate_has_no_exponent(pairs, words):
    keys, found = groups([[(n, lam or 1.0) for n, lam in part] for part in pairs], 1.0, 1.0)
    for part, given in zip(found, pairs, strict=True):
        part["E3"] = [at if lam else at._replace(lam=None) for at, (_, lam) in zip(part["E3"], given, strict=True)]
    [record] = joint.describe(keys, found, DELTA, 0.95)
    assert not record["usable"]
    assert words in record["why_not"]
    [verdict] = joint.verdicts([record], {"E3": 2.0}, 0.95)
    assert verdict["verdict"] == "cannot decide"


def test_too_few_replicates_for_an_interval_give_no_exponent():
    keys, found = groups(GRID, 1.0, 1.0)
    found[0]["E3"][0] = found[0]["E3"][0]._replace(point=found[0]["E3"][0].point._replace(replicates=35))
    [record] = joint.describe(keys, found, DELTA, 0.95)
    assert (record["usable"], record["1/lambda"]) == (False, None)
    assert record["why_not"] == "35 replicates at the least; a 95% interval of the 0.9 quantile needs 36 (D.4)"


def test_groups_of_other_data_or_networks_are_not_pooled():
    keys, found = groups(GRID, 1.0, 1.0)
    assert joint.describe([{**key, "data": f"kind {k}"} for k, key in enumerate(keys)], found, DELTA, 0.95) == []
    scaled = [{**key, "network.scale": k} for k, key in enumerate(keys)]
    assert joint.describe(scaled, found, DELTA, 0.95) == []


@pytest.mark.parametrize(
    ("beta", "expected", "words"),
    [(1.8, "consistent", ""), (2.3, "contradicts", "its o(1) allows"), (4.5, "contradicts", "lies above that, too")],
)
def test_the_verdict_is_about_two_powers_of_lambda(beta, expected, words):
    together = joint.describe(*groups(GRID, 0.5, beta), DELTA, 0.95)
    [verdict] = joint.verdicts(together, {"E3": 2.0}, 0.95)
    assert (verdict["claim"], verdict["group"], verdict["verdict"]) == ("lambda", "near_duplicate", expected)
    assert words in verdict["reason"]
    assert list(joint.verdicts(together, {"E3": None}, 0.95)) == []


@pytest.mark.parametrize(("n", "lam"), [(8, 1.0), (16, 0.6), (512, 5.0)])
def test_the_bounds_own_exponent_is_the_slope_of_its_width(n, lam):
    step = 1e-4
    low, high = (theory.log_width(n, DELTA, lam * math.exp(-s * step)) for s in (-1, 1))
    assert theory.lambda_exponent(n, DELTA, lam) == pytest.approx((high - low) / (2 * step), rel=1e-6)
