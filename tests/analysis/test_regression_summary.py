"""The summary of `regression` on made-up rows: orders, contractions, least losses, verdicts, and what is left out."""

import json

import numpy as np
import pandas as pd
import pytest

from expreg.core.stats.summary import summarise
from expreg.kinds import EXPERIMENTS
from expreg.solver import records


def cell(name, errors, losses=None, **change):
    """Return a row and a curve of one cell with these distances to the planted x."""
    row = {
        "cell": name, "status": "converged", "loss": "softmax", "activation": "exp", "rows": 64, "columns": 4,
        "solver": "newton", "sketch": "none", "sketch_size": None, "data": "gaussian", "precision": "f64", "seed": 0,
        "replicate": 0, "steps": len(errors) - 1, "passes": 3 * len(errors), "seconds": 1.0, "softmax_residual": 0.0,
        "x_error": 0.0, "error_final": errors[-1], "loss_value": 0.0,
    }  # fmt: skip
    losses = np.square(errors) if losses is None else losses
    curve = {"cell": name, "step": np.arange(len(errors)), "error": errors, "loss": losses, "damping": 0.0}
    frame = pd.DataFrame(curve)
    return {**row, **change}, frame.assign(passes=3.0 * (frame["step"] + 1), residual=0.0, linearised=np.nan)


def summary(*made, delta=0.1):
    cells, curves = pd.DataFrame([row for row, _ in made]), pd.concat([curve for _, curve in made], ignore_index=True)
    found = summarise(EXPERIMENTS["regression"], cells, curves, name="x", axes=["n", "d"], delta=delta)
    json.dumps(found, allow_nan=False)
    return found


def quadratic(start=1.0, factor=0.5, steps=6):
    errors = [start]
    for _ in range(steps):
        errors.append(factor * errors[-1] ** 2)
    return np.array(errors)


def linear(rate, steps=20):
    return rate ** np.arange(steps + 1.0)


def method_of(found, label="newton"):
    return next(m for group in found["groups"] for m in group["methods"] if m["label"] == label)


def test_quadratic_runs_are_not_linear_ones():
    found = summary(cell("a", quadratic()), cell("b", linear(0.2), replicate=1, columns=8))
    first, second = (group["methods"][0] for group in found["groups"])
    assert first["orders"] == [pytest.approx(2)]
    assert second["orders"] == [pytest.approx(1)]
    np.testing.assert_allclose(second["contractions"], 0.2)
    assert [v["verdict"] for v in summary(cell("a", quadratic()))["verdicts"]] == ["consistent"]
    assert [v["verdict"] for v in summary(cell("b", linear(0.2)))["verdicts"]] == ["contradicts"]
    assert summary(cell("c", linear(0.2), solver="gd"))["verdicts"] == []


@pytest.mark.parametrize(("columns", "claims"), [(4, ["quadratic"]), (records.MANY_COLUMNS + 1, [])])
def test_auto_is_exact_where_it_stands_for_newton(columns, claims):
    found = summary(cell("a", quadratic(), solver="auto", columns=columns))
    assert [verdict["claim"] for verdict in found["verdicts"]] == claims


def test_the_seconds_of_a_run_are_shared_out_over_its_steps():
    made = [cell(str(i), linear(0.2), replicate=i, seconds=seconds) for i, seconds in enumerate((2, 3, 7))]
    found = method_of(summary(*made))["curve"]
    np.testing.assert_allclose(found["seconds"], 3 * np.array(found["step"]) / 20)


def test_damped_steps_and_rounding_say_nothing():
    row, curve = cell("a", linear(0.2))
    assert summary((row, curve.assign(damping=1.0)))["verdicts"] == []
    floor = np.maximum(quadratic(), 1e-14)  # stalls at rounding
    assert method_of(summary(cell("b", floor)))["orders"] == [pytest.approx(2)]


@pytest.mark.parametrize(("rate", "verdict"), [(0.2, "consistent"), (0.9, "contradicts")])
def test_sketched_steps_are_judged_by_their_promise(rate, verdict):
    made = [cell(str(i), linear(rate, 80), sketch="leverage", sketch_size=2048, replicate=i) for i in range(4)]
    found = summary(*made)
    method = method_of(found, "newton, leverage 2048")
    eps = np.sqrt(3 * 4 * np.log(2 * 4 / 0.1) / (records.BETA * 2048))  # (F.6)
    assert method["promised"] == pytest.approx(eps / (1 - eps))
    [judged] = found["verdicts"]
    assert (judged["claim"], judged["verdict"]) == ("contraction", verdict)


def test_too_small_a_sketch_promises_nothing():
    assert summary(cell("a", linear(0.3), sketch="leverage", sketch_size=64))["verdicts"] == []
    assert summary(cell("a", linear(0.3), sketch="uniform", sketch_size=10**6))["verdicts"] == []


def test_the_least_loss_is_zero_where_planted_else_the_best_of_the_same_problem():
    losses = np.array([3.0, 2.0, 1.5])
    planted = summary(cell("a", linear(0.5, 2), losses))
    np.testing.assert_allclose(method_of(planted)["curve"]["median"], losses / 3)
    unknown = {"error_final": None, "x_error": None}
    found = summary(
        cell("a", linear(0.5, 2), losses, loss_value=1.5, **unknown),
        cell("b", linear(0.5, 2), np.array([3.0, 2.0, 1.0]), loss_value=1.0, solver="lbfgs", **unknown),
        cell("c", linear(0.5, 2), np.array([4.0, 1.0, 0.5]), loss_value=0.5, replicate=1, **unknown),
    )
    np.testing.assert_allclose(method_of(found, "lbfgs")["curve"]["median"], [1, 0.5, 0])
    np.testing.assert_allclose(method_of(found)["curve"]["high"][0], 1)


def test_the_table_of_outcomes_counts_every_status():
    found = summary(
        cell("a", quadratic()),
        cell("b", quadratic(), replicate=1, status="trivial"),
        cell("c", quadratic(), replicate=2, status="collapsed"),
        cell("d", quadratic(), replicate=3, status="oom"),
    )
    [table, *_] = found["tables"]
    [row] = table["rows"]
    shown = dict(zip(table["columns"], row, strict=True))
    assert (shown["cells"], shown["converged"], shown["other outcomes"]) == (3, "33.3 %", "1 collapsed, 1 trivial")
    assert found["counts"]["by_status"]["oom"] == 1


def test_what_varies_is_named_and_tokens_are_repeats():
    made = [cell(f"{t}{h}", quadratic(), token=t, head=h, layer=0, data="attention") for t in (1, 2) for h in (3, 4)]
    found = summary(*made)
    labels = [f"softmax, exp, n = 64, d = 4, head = {head}" for head in (3, 4)]
    assert [group["label"] for group in found["groups"]] == labels
    assert [group["methods"][0]["cells"] for group in found["groups"]] == [2, 2]


def test_no_rows_and_broken_runs_are_no_error():
    row, curve = cell("a", quadratic(), status="nonfinite", loss_value=np.nan, error_final=np.nan)
    found = summary((row, curve.assign(loss=np.nan, error=np.nan)))
    assert found["verdicts"] == []
    assert method_of(found)["curve"] is None
    empty = summarise(
        EXPERIMENTS["regression"], pd.DataFrame([row]).iloc[:0], curve.iloc[:0], name="x", axes=[], delta=0.1
    )
    assert empty["groups"] == []


def test_methods_are_compared_on_the_problems_that_all_of_them_ran():
    made = [cell(f"n{k}", quadratic(), replicate=k, steps=4, passes=20) for k in range(4)]
    made += [cell(f"g{k}", linear(0.2), replicate=k, solver="gd", steps=50, passes=150) for k in range(2)]
    made[1][0]["status"] = "max_steps"  # one of the two problems that both ran
    answer = summary(*made)["answer"]
    assert answer["sentences"] == [
        "Of 2 methods gd solves most with the fewest passes: it converges on 2 of 2 problems, in 50 steps and 150"
        " passes over A (medians)."
    ]
    assert [row[:3] for row in answer["table"]["rows"]] == [["gd", 2, 2], ["newton", 2, 1]]
    apart = summary(cell("a", quadratic()), cell("b", linear(0.2), solver="gd", replicate=1))["answer"]
    assert (apart["sentences"], apart["table"]["rows"]) == ([], [])
    alone = summary(cell("a", quadratic(), steps=4, passes=20))["answer"]["sentences"]
    assert alone == ["newton converges on 1 of 1 problems, in 4 steps and 20 passes over A (medians)."]
