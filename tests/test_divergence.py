"""Ends and starts that depend on the output scale: what divergence is measured against, how far neurons will move."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from expreg import ntk
from expreg.core.engine.lanes import Engine
from expreg.kinds import EXPERIMENTS
from expreg.network import forward
from expreg.types import Status

TRAIN = EXPERIMENTS["threshold"]


def settings(*, m=64, init="iid", activation="exp", scale=1.0, factor=0.5, divergence=2.0, max_steps=400, measure=()):
    return {
        "experiment": "threshold", "seed": 3, "replicate": 0, "precision": "f64",
        "data": {"kind": "sphere", "n": 3, "d": 4, "labels": {"kind": "sign"}, "allow_duplicates": False},
        "network": {"m": m, "activation": activation, "init": init, "scale": scale},
        "training": {
            "optimizer": {"name": "sgd"},
            "step_size": {"rule": "spectral", "factor": factor, "value": None, "schedule": None},
            "max_steps": max_steps, "tolerance": 1e-4, "relative": False, "measure_every": 16,
            "divergence": divergence, "curve": {"points": max_steps + 1, "spacing": "regular"},
        },
        "measure": ["E5", *measure],
    }  # fmt: skip


def row_of(cell, **inputs):
    """Return the row of one cell; `inputs` replaces what it is prepared with."""
    experiment = replace(TRAIN, prepare=lambda settings: TRAIN.prepare(settings)._replace(**inputs))
    ((row,),) = [rows for rows in Engine(experiment, lanes=1, devices=1).run([("c", cell)]) if rows]
    return row


def start_of(cell):
    """Return (X, y, W, a, f(0)) in float64."""
    arrays = TRAIN.inputs(cell)
    X, y, W, a = (np.asarray(arrays[name], float) for name in ("X", "y", "W", "a"))
    network = cell["network"]
    with jax.enable_x64(True):
        output = forward(W, a, X, activation=network["activation"], scale=network["scale"])
    return X, y, W, a, np.asarray(output)


def test_a_start_far_above_the_labels_has_not_diverged():
    cell = settings(scale=5.0)
    _, y, *_, output = start_of(cell)
    assert np.linalg.norm(output - y) > 3 * 2.0 * np.linalg.norm(y)
    assert row_of(cell)["status"] == "converged"


def test_a_residual_that_grows_from_almost_nothing_has_diverged_only_beyond_the_labels():
    cell = settings(factor=6.0)
    *_, output = start_of(cell)
    y = output + 1e-3  # more than the tolerance
    row = row_of(cell, y=y)
    allowed = 2.0 * np.linalg.norm(y)
    assert row["residual_initial"] < 1e-3 * allowed
    assert (row["status"], row["steps"] > 1) == (Status.diverged.name, True)
    residuals = np.asarray(row["curve_residual"])
    assert residuals[-2] <= allowed < residuals[-1]


@pytest.mark.parametrize(("activation", "scale", "init"), [("exp", 0.25, "coupled"), ("sinh", 3.0, "iid")])
def test_the_lazy_movement_of_a_row_is_that_of_its_network(activation, scale, init):
    """(B.24): max_r ||w_r - w_r(0)|| for H(0) h = r_0 in float64, at an output scale that is not 1."""
    cell = settings(scale=scale, init=init, activation=activation, max_steps=2, measure=["E2"])
    X, y, W, a, output = start_of(cell)
    moved = ntk.lazy_movement(W, a, X, output - y, activation=activation, scale=scale)
    expected = np.linalg.norm(moved, axis=0).max()
    assert row_of(cell)["movement_linearised"] == pytest.approx(expected, rel=1e-7)
    H = ntk.empirical(W, X, activation=activation)
    norm = np.sqrt((output - y) @ np.linalg.solve(H, output - y) / (scale**2 * W.shape[1]))  # (B.25)
    assert np.linalg.norm(moved) == pytest.approx(norm, rel=1e-9)
