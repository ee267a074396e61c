"""A grid of settings on the page: what is swept is on an axis, and the best settings are those of the rows."""

import itertools

import numpy as np
import pandas as pd
import pytest

from expreg.core.page import drawing, grid, settings
from expreg.core.stats.settings import best, outcomes, short
from expreg.core.stats.summary import summarise
from expreg.kinds import EXPERIMENTS

THRESHOLD = EXPERIMENTS["threshold"]
STEP, OPTIMIZER = "training.step_size.value", "training.optimizer.name"


def rows(steps=(0.001, 0.01, 0.1), optimizers=("adam", "sgd"), n=(8,), replicates=4):
    """Return cells in which sgd converges below 0.05 in 1/step steps, and adam always in 200."""
    found = []
    for value, name, size, replicate in itertools.product(steps, optimizers, n, range(replicates)):
        converged = name == "adam" or value < 0.05
        found.append(
            {
                "cell": f"{len(found):016x}", "experiment": "threshold", "data": "sphere", "n": size, "m": 64,
                "d": size, "replicate": replicate, "optimizer": name, STEP: value, OPTIMIZER: name,
                "status": "converged" if converged else "diverged", "E5": converged,
                "steps": 200 if name == "adam" else round(1 / value), "residual_final": 0.04 if converged else 1e6,
                "activation": "exp", "eta": value, "scale": 1.0, "lambda_max_0": 1.0, "label_norm": 1.0,
            }
        )  # fmt: skip
    return pd.DataFrame(found)


def summary(cells, axes=("n", "m", "replicate", STEP, OPTIMIZER)):
    return summarise(THRESHOLD, cells, pd.DataFrame(), name="x", axes=list(axes), resamples=5)


def test_names_of_axes_are_what_sets_them_apart():
    assert short([STEP, OPTIMIZER, "data.labels.kind", "n"]) == {
        STEP: "step_size.value", OPTIMIZER: "optimizer", "data.labels.kind": "labels", "n": "n"
    }  # fmt: skip
    assert short(["network.scale", "data.scale"]) == {"network.scale": "network.scale", "data.scale": "data.scale"}


def test_the_best_setting_is_that_of_most_successes_then_fewest_steps():
    cells = rows()
    found = best(cells, [STEP, OPTIMIZER, "replicate"], THRESHOLD)
    assert (found["count"], found["all"], found["none"]) == (6, 5, 1)
    assert [(row[STEP], row[OPTIMIZER]) for row in found["rows"]][:2] == [(0.01, "sgd"), (0.001, "adam")]
    assert found["rows"][-1]["share"] == 0.0
    assert np.isnan(found["rows"][-1]["steps"])
    [sentence] = settings.sentences(summary(cells))
    assert sentence == (
        "In 5 of 6 settings every run converges, in 1 none does. The best is step_size.value = 0.01, optimizer = sgd:"
        " 4 of 4 converge, in 100 steps (median)."
    )
    cells.loc[cells["cell"] == cells["cell"][0], "status"] = "oom"  # which says nothing about its setting
    assert outcomes(cells, [STEP, OPTIMIZER], "residual_final")["runs"].tolist()[0] == 3


@pytest.mark.parametrize(
    ("factor", "words"), [(0.5, ""), (0.97, ", not shown to be better than the next"), (1.0, ", not shown to be")]
)
def test_a_best_setting_that_could_be_chance_is_called_so(factor, words):
    cells = rows(steps=(0.001, 0.01), optimizers=("sgd",), replicates=8).assign(status="max_steps")
    cells["residual_final"] = (1.0 + 0.1 * cells["replicate"] * (factor < 1)) * np.where(cells[STEP] > 0.005, factor, 1)
    [sentence] = settings.sentences({"best": best(cells, [STEP, "replicate"], THRESHOLD)})
    assert f"(median of 8 runs){words}" in sentence
    assert sentence.endswith("runs).") == (not words)
    [alone] = settings.sentences({"best": best(cells[cells["replicate"] == 0], [STEP, "replicate"], THRESHOLD)})
    assert alone.endswith("(median of 1 run), not shown to be better than the next.")


def test_a_sweep_of_n_and_m_alone_is_no_grid_of_settings():
    cells = rows(steps=(0.01,), optimizers=("sgd",), n=(4, 8))
    drawn = drawing.figures(THRESHOLD, cells, pd.DataFrame(), summary(cells))
    assert "settings" not in {figure.name for figure in drawn}
    assert settings.table({})["rows"] == []


@pytest.mark.parametrize("n", [(8,), (4, 8)])
def test_lines_are_the_medians_of_the_rows_over_the_numeric_axis(n):
    cells = rows(n=n)
    [figure] = grid.figure(cells, [STEP, OPTIMIZER, *["n"] * (len(n) > 1)], [STEP, OPTIMIZER], "residual_final")
    axes = figure.figure.axes
    assert len(axes) == 3 * len(n)
    share, steps, _ = axes[:3]
    lines = {line.get_label(): line for line in share.lines}
    assert lines["sgd"].get_ydata().tolist() == [1, 1, 0]
    assert lines["adam"].get_ydata().tolist() == [1, 1, 1]
    assert lines["sgd"].get_xdata().tolist() == [0.001, 0.01, 0.1]
    drawn = {line.get_label(): line.get_ydata() for line in steps.lines}
    assert drawn["sgd"].tolist()[:2] == [1000, 100]
    assert np.isnan(drawn["sgd"][2])
    assert share.get_xscale() == "log"


def test_two_axes_of_numbers_are_a_heat_map():
    cells = rows(steps=tuple(np.geomspace(1e-3, 1e-2, 5)), optimizers=("sgd",), replicates=4)
    cells = pd.concat([cells.assign(**{"training.optimizer.momentum": b}) for b in (0.0, 0.3, 0.6, 0.9)])
    axes = [STEP, "training.optimizer.momentum"]
    [figure] = grid.figure(cells, axes, axes, "residual_final")
    [image] = figure.figure.axes[1].images
    assert image.get_array().shape == (4, 5)
    assert np.allclose(image.get_array(), np.round(1 / np.geomspace(1e-3, 1e-2, 5))[None, :])
    assert not figure.problem


def test_many_settings_are_drawn_in_a_few_figures_and_counted():
    cells = rows(n=tuple(range(2, 42)), replicates=1)
    found = grid.figure(cells, [STEP, OPTIMIZER, "n"], [STEP, OPTIMIZER], "residual_final")
    assert len(found) == 4
    assert "16 more panels are not drawn" in found[0].caption
