"""What runs from a known distance say of the theorem, on made-up runs that keep it and on runs that break it."""

import json
import math
from itertools import product

import numpy as np
import pandas as pd
import pytest

from expreg.core.stats.success import exact_interval
from expreg.core.stats.summary import summarise
from expreg.kinds import EXPERIMENTS
from expreg.kinds.regression import theorem

DISTANCES, ACCURACIES = (1e-3, 1e-2, 1e-1, 1.0), (1e-5, 1e-7, 1e-9)
KEPT = {
    "hessian_smallest": 1.0, "hessian_least": 1.0, "hessian_lipschitz": 2.0, "hessian_change": 1.9, "shrinkage": 1.0,
    "start_radius": 0.05, "start_radius_norms": 1e-7, "weight_largest": 0.1,
}  # fmt: skip


def runs(rates, *, distances=DISTANCES, accuracies=ACCURACIES, count=64, **change):
    """Return the summary of runs whose distance falls by `rates(replicate, distance)(t)` in step t."""
    rows, curves = [], []
    for replicate, distance, accuracy in product(range(count), distances, accuracies):
        path = [distance]
        while path[-1] > accuracy and len(path) < 200:
            path.append(path[-1] * rates(replicate, distance)(len(path)))
        name = f"{replicate} {distance} {accuracy}"
        row = {
            "cell": name, "status": "converged" if path[-1] <= accuracy else "max_steps", "loss": "rescaled",
            "activation": "exp", "rows": 64, "columns": 4, "noise": 0.0, "radius": 2.0, "weight": 0.1,
            "weight_rule": None, "solver": "newton", "sketch": "leverage", "sketch_size": 160, "precision": "f64",
            "data": "bounded", "seed": 0, "replicate": replicate, "draw": 0, "distance": distance,
            "accuracy": accuracy, "steps": len(path) - 1, **KEPT,
        }  # fmt: skip
        rows.append(row | change)
        curves.append(pd.DataFrame({"cell": name, "step": np.arange(len(path)), "distance": path}))
    found = summarise(
        EXPERIMENTS["regression"], pd.DataFrame(rows), pd.concat(curves, ignore_index=True), name="x", axes=[]
    )
    json.dumps(found, allow_nan=False)
    return found


def constant(rate):
    return lambda *_: lambda _: rate


def outcomes(found):
    return {verdict["claim"]: verdict["verdict"] for verdict in found["verdicts"]}


def test_a_constant_factor_is_a_line_of_known_slope():
    """ceil(log(r / eps) / log(1 / rate)) steps: the slope is that of the logarithm, up to rounding to whole steps."""
    found = runs(constant(0.2), count=8)
    [group] = found["groups"]
    assert group["fit"]["slope"][0] == pytest.approx(1 / math.log(5), rel=0.05)
    assert abs(group["fit"]["bend"][0]) < 0.5
    assert group["worst"]["high"] == pytest.approx(0.2)
    assert group["reached"] == 1.0
    assert outcomes(runs(constant(0.2))) == dict.fromkeys(("growth", "steps", "start", "lipschitz"), "consistent")


def test_slow_steps_grow_in_a_line_and_are_too_many():
    found = outcomes(runs(constant(0.8)))
    assert (found["growth"], found["steps"], found["start"]) == ("consistent", "contradicts", "contradicts")


def test_steps_that_become_slower_bend_the_line():
    def slower(*_):
        return lambda t: min(0.1 + 0.05 * t, 0.9)

    assert outcomes(runs(slower, count=8))["growth"] == "contradicts"


def test_few_failures_are_allowed_and_many_are_not():
    def some(share):
        return lambda replicate, _: lambda _: 0.95 if replicate < share * 100 else 0.2

    assert outcomes(runs(some(0.01), count=100))["steps"] == "consistent"
    assert outcomes(runs(some(0.1), count=100))["steps"] == "cannot decide"
    assert outcomes(runs(some(0.3), count=100))["steps"] == "contradicts"


def test_of_several_cases_the_interval_decides_and_not_the_mean():
    def share(good, count):
        return pd.Series([True] * good + [False] * (count - good))

    few, many, below = share(3, 3), share(97, 100), share(60, 100)
    assert theorem._decisive([many, few], 0.9, 0.95) is few  # all do, and it shows the least
    assert (
        theorem._decisive([few, below, many], 0.9, 0.95) is below
    )  # begins higher than that of the few, ends below 0.9
    (few_low, _), (low, high) = (exact_interval(int(part.sum()), len(part), 0.95) for part in (few, below))
    assert few_low < low < high < 0.9


def test_starts_that_are_not_good_do_not_count_but_bound_where_convergence_begins():
    def beyond(_, distance):
        return lambda _: 0.2 if distance < 0.1 else 0.9

    found = runs(beyond)
    assert outcomes(found)["steps"] == outcomes(found)["start"] == "consistent"
    assert found["groups"][0]["reached"] == 1e-2
    assert "steps" not in outcomes(runs(constant(0.2), start_radius=None, hessian_lipschitz=None))


@pytest.mark.parametrize(
    ("claim", "kept", "broken"),
    [
        ("lipschitz", {}, {"hessian_change": 2.1}),
        ("convex", {"weight_rule": "convex"}, {"weight_rule": "convex", "hessian_least": 0.9}),
        ("trivial", {"weight_rule": "closeness", "shrinkage": 1e-3}, {"weight_rule": "closeness", "shrinkage": 0.1}),
    ],
)
def test_each_statement_about_problems_can_fail(claim, kept, broken):
    one = {"distances": (1e-3,), "accuracies": (1e-9,)}
    assert outcomes(runs(constant(0.2), **one, **kept))[claim] == "consistent"
    assert outcomes(runs(constant(0.2), **one, **broken))[claim] == "contradicts"
    assert "growth" not in outcomes(runs(constant(0.2), **one))


def test_a_gap_in_a_curve_is_not_a_step():
    rows = {"cell": list("aaabb"), "step": [0, 1, 5, 0, 1], "distance": [1.0, 0.5, 0.001, 0.1, 0.09]}
    assert theorem._worst(pd.DataFrame(rows)).to_dict() == pytest.approx({"a": 0.5, "b": 0.9})


def test_the_answer_comes_first():
    """Steps by distance and accuracy, the slope, and how far from the minimiser every step still shrinks."""
    found = runs(lambda _, distance: lambda _: 0.2 if distance < 1 else 0.5, count=8)
    [sentence] = found["answer"]["sentences"]
    slope = found["groups"][0]["fit"]["slope"]
    assert sentence == (
        f"96 of 96 runs converge, in {slope[0]:.3g} [{slope[1]:.3g}, {slope[2]:.3g}] steps per unit of"
        " log(||x0 - x*|| / eps), of which the theorem allows 1. From starts up to ||x0 - x*|| = 0.1 every step shrinks"
        " the distance to 0.4 of it or less in 90 % of the runs; the proof covers starts up to 0.05."
    )
    table = found["answer"]["table"]
    assert table["columns"][1:4] == ["eps = 1e-05", "eps = 1e-07", "eps = 1e-09"]
    for row in table["rows"]:
        rate = 5 if float(row[0]) < 1 else 2
        expected = [math.ceil(math.log(float(row[0]) / accuracy, rate) - 1e-9) for accuracy in ACCURACIES]
        assert row[1:] == [*expected, "100 %"]


def test_few_replicates_have_a_slope_without_an_interval():
    found = runs(constant(0.2), count=3)
    assert "[" not in found["answer"]["sentences"][0]
    [growth] = [verdict for verdict in found["verdicts"] if verdict["claim"] == "growth"]
    assert "[" not in growth["reason"]
