"""Convergence within shorter budgets, read off one run, is that of runs with these budgets."""

import numpy as np
import pandas as pd
import pytest

import expreg
from expreg.kinds.network.summary import budgets, groups

CONFIG = {
    "experiment": "threshold",
    "name": "budgets",
    "data": {"kind": "equiangular", "coherence": 0.5},
    "measure": ["E5"],
    "sweep": {"product": {"n": [4, 8], "m": [4, 16, 64], "replicate": {"count": 12}}},
    "analysis": {"delta": 0.5, "resamples": 50},
}


def run(tmp_path, time):
    config = CONFIG | {"training": {"max_steps": {"flow_time": time}}}
    return expreg.run(config, out=tmp_path / f"time-{time:g}", draw=False)


def test_a_shorter_budget_has_the_outcomes_of_runs_with_that_budget(tmp_path):
    long = run(tmp_path, 10.0)
    rows = groups.prepare(long.cells)
    assert budgets.longest(rows) == pytest.approx(10.0, rel=0.02)
    assert budgets.words(rows) == "within flow time 10"
    keys = ["n", "m", "replicate"]
    for time in (0.5, 1.0, 4.0):
        short = run(tmp_path, time).cells.set_index(keys)["E5"].astype(float).sort_index()
        read = rows.assign(success=budgets.within(rows, time)).set_index(keys)["success"].sort_index()
        assert 0.0 < short.mean() < 1.0
        np.testing.assert_array_equal(read, short)
    [group] = long.summary["groups"]
    assert [record["flow_time"] for record in group["budgets"]] == [0.5, 1.0, 2.0, 4.0, 10.0]
    own, last = (next(c for c in group["criteria"] if c["criterion"] == "E5"), group["budgets"][-1])
    assert own["title"] == "gradient descent converges within flow time 10"
    assert [t["interpolated"] for t in own["thresholds"]] == [t["interpolated"] for t in last["thresholds"]]


ROWS = {
    "n": 4, "m": 8, "scale": 1.0, "eta": 1 / 80, "lambda_cts": 4.0, "residual_initial": np.e, "tolerance": 1.0,
    "status": "converged", "steps": 10, "max_steps": 20, "E5": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "time", "expected"),
    [
        ({}, 2.0, 1.0),  # one unit of time is 2 / (0.1 * 4) = 5 steps
        ({}, 1.9, 1.0),  # the budget is rounded up, to 10
        ({}, 1.8, 0.0),
        ({"status": "max_steps", "steps": 20}, 4.0, 0.0),
        ({"status": "max_steps", "steps": 20}, 4.1, np.nan),  # it might have converged later
        ({"status": "diverged"}, 4.0, 0.0),
        ({"status": "oom"}, 1.0, np.nan),
        ({"lambda_cts": 0.0}, 1.0, np.nan),
        ({"tolerance": 0.0}, 1.0, np.nan),
    ],
)
def test_what_a_row_says_about_a_flow_time(change, time, expected):
    rows = pd.DataFrame([ROWS | change])
    np.testing.assert_array_equal(budgets.within(rows, time), [expected])


def test_a_budget_in_steps_is_named_in_steps():
    rows = pd.DataFrame([ROWS, ROWS | {"eta": 1 / 100}])
    assert budgets.words(rows) == "within 20 steps"
    assert budgets.words(rows.assign(max_steps=np.nan)) == ""
    assert [time for time, _ in budgets.outcomes(rows.assign(E5=np.nan))] == []


@pytest.mark.parametrize(
    ("change", "times"), [({}, [0.5, 1.0, 2.0]), ({"optimizer": "adam"}, []), ({"schedule": "cosine"}, [])]
)
def test_only_steps_of_gradient_descent_are_measured_in_flow_time(change, times):
    rows = pd.DataFrame([ROWS | {"optimizer": "sgd", "schedule": None, "max_steps": 10}] * 2)
    rows.loc[1, list(change)] = list(change.values())
    assert [time for time, _ in budgets.outcomes(rows)] == times
