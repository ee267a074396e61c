"""A user's script of each documented kind, for mypy --strict and pyright; nothing runs it."""

from typing import assert_type

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import xarray as xr

import expreg
from expreg.certificate import Certificate
from expreg.outputs import Plan, Status, Summary, Verdict
from expreg.results import Run
from expreg.solver import Solution


def runs() -> None:
    run = expreg.run("configs/quickstart.yaml", {"training.tolerance": 0.1}, out="runs/one", draw=False)
    assert_type(run, Run)
    assert_type(run.cells, pd.DataFrame)
    assert_type(run.failed, int)
    assert_type(run.verdicts, str)
    again = expreg.load(run.directory)
    assert_type(again.curves, pd.DataFrame)
    arrays = again.inputs(str(again.cells["cell"].iloc[0]))
    print(sorted(arrays), run.trained("0123456789abcdef"))


def documents() -> None:
    planned = expreg.plan("configs/quickstart.yaml", cells=True)
    assert_type(planned, Plan)
    assert_type(planned["seconds"], float | None)
    state = expreg.status("runs/one")
    assert_type(state, Status)
    assert_type(state["by_status"], dict[str, int])
    summary = expreg.load("runs/one").summary
    assert_type(summary, Summary)
    assert_type(summary["counts"]["planned"], int | None)
    assert_type(summary.get("verdicts", []), list[Verdict])


def frames() -> None:
    run = expreg.load("runs/one")
    assert_type(run.polars(), pl.DataFrame)
    assert_type(run.polars(curves=True), pl.DataFrame)
    assert_type(run.xarray(), xr.Dataset)


def solutions() -> None:
    A, b = np.eye(3), np.ones(3)
    found = expreg.solve(A, b, loss="softmax", tol=1e-9, starts=4)
    assert_type(found, Solution)
    print(found.status, found.x, found.loss)


def certificates() -> None:
    X, W = np.eye(2), np.ones((2, 4))
    found = expreg.certify(X, np.ones(2), W, np.array([1.0, 1.0, -1.0, -1.0]))
    assert_type(found, Certificate)
    assert_type(found.holds, bool)


def init(key: jax.Array, *, width: int = 8) -> jax.Array:
    return jax.random.normal(key, (width,))


def step(state: jax.Array, *, lr: float) -> tuple[jax.Array, dict[str, jax.Array]]:
    return state - lr * state, {"loss": jnp.sum(state**2)}


def sweeps() -> None:
    training = expreg.Training("descent", init, step, steps=10)
    run = expreg.sweep(training, {"lr": [0.1, 0.2], "seed": 3}, "runs/two")
    searched = expreg.sweep(training, {"lr": {"uniform": [0.1, 0.2]}}, search={"trials": 5})
    assert_type(run, Run)
    print(searched.cells["trial"].max())
    expreg.register(training)


def arrays() -> None:
    X = np.eye(4, 8)
    H = expreg.ntk.infinite(X, activation="exp")
    print(expreg.network.forward(np.ones((8, 2)), np.ones(2), X), H)
