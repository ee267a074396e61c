"""What the mathematics claims about training, on rows as a sweep makes them: below, at and above each threshold."""

from functools import cache
from itertools import pairwise, product

import numpy as np
import pytest
from oracles import infinite_ntk
from scipy.stats import binomtest

from expreg import ntk
from expreg.core.engine.lanes import Engine
from expreg.kinds import EXPERIMENTS

EXPERIMENT = EXPERIMENTS["convergence"]
EVENTS = ["E0", "E1", "E1s", "E1m", "E2", "E3", "E4", "E5", "Ecert"]


def cell(
    n, m, replicate, *, kind="sphere", rule="spectral_cts", factor=0.5, scale=1.0, tolerance=1e-2, max_steps=400,
    events=EVENTS,
):  # fmt: skip
    """Return the settings of one float64 cell; all cells of one n and one power of 2 in m share a program."""
    return {
        "experiment": "convergence", "seed": 0, "replicate": replicate, "precision": "f64",
        "data": {"kind": kind, "n": n, "d": n, "labels": {"kind": "sign"}, "allow_duplicates": False},
        "network": {"m": m, "activation": "exp", "init": "coupled", "scale": scale},
        "training": {
            "optimizer": {"name": "sgd"},
            "step_size": {"rule": rule, "factor": factor, "value": None, "schedule": None},
            "max_steps": max_steps, "tolerance": tolerance, "relative": False, "measure_every": 16,
            "divergence": 1e4, "curve": {"points": 48, "spacing": "logarithmic"},
        },
        "measure": events,
    }  # fmt: skip


def measure(cells):
    """Return {key: row} of cells {key: settings}, as the engine of a sweep makes them."""
    return {row["cell"]: row for rows in Engine(EXPERIMENT).run(cells.items()) for row in rows}


def interval(successes, trials):
    """Return the exact 99 % interval of a share."""
    found = binomtest(successes, trials).proportion_ci(0.99)
    return found.low, found.high


# --- wide networks are linear: n = 4 on the sphere

WIDTHS = [64, 128, 256, 512, 1024, 2048, 4096, 8192]
REPLICATES, FEW = 100, 40
FACTORS = {"half": 1.0, "edge": 2.0, "three": 6.0}
"""Multiples of 1 / lambda_max: 0.5, 1 and 3 times the largest stable step 2 / lambda_max (B.28)."""


@cache
def wide():
    """Settings and rows by (width, replicate) with sixty steps; 'ntk' at scale m^-1/2; 'steps' to the tolerance."""
    cells, at_start, sixty = {}, [event for event in EVENTS if event != "E3"], {"max_steps": 60, "tolerance": 1e-6}
    for m, replicate in product(WIDTHS, range(REPLICATES)):
        cells[m, replicate] = cell(4, m, replicate, events=at_start, **sixty)
    for m, replicate in product(WIDTHS, range(FEW)):
        cells["ntk", m, replicate] = cell(4, m, replicate, events=at_start, scale=m**-0.5, **sixty)
    for m, replicate in product((256, 1024, 8192), range(FEW)):
        cells["steps", m, replicate] = cell(4, m, replicate, events=at_start, max_steps=10_000)
    for (name, factor), replicate in product(FACTORS.items(), range(FEW)):
        cells[name, replicate] = cell(4, 8192, replicate, rule="spectral", factor=factor, events=at_start)
    return cells, measure(cells)


def slope(errors):
    """Return the log-log slope over the widths of the median over replicates of `errors` (widths, replicates)."""
    return np.polyfit(np.log(WIDTHS), np.log(np.median(errors, axis=1)), 1)[0]


def error(row, predicted):
    """Return the largest error of a predicted curve, relative to the first residual."""
    return np.abs(row["curve_residual"] - predicted).max() / row["residual_initial"]


def at_initialisation(settings, row):
    """Return the curve that H(0) predicts (B.22)."""
    arrays = EXPERIMENT.inputs(settings)
    return ntk.predict(ntk.empirical(arrays["W"], arrays["X"]), -arrays["y"], row["eta_scaled"], row["curve_step"])


def test_curves_approach_the_infinite_width_prediction_like_the_root_of_the_width():
    """(B.21): error slope -0.5 +- 0.1 in m."""
    _, rows = wide()
    errors = [[error(row := rows[m, r], row["curve_linearised"]) for r in range(REPLICATES)] for m in WIDTHS]
    assert -0.6 < slope(errors) < -0.4
    assert np.median(errors[-1]) < 0.03 < 0.1 < np.median(errors[0])


@pytest.mark.parametrize(("name", "expected"), [(None, -2.0), ("ntk", -1.0)])
def test_curves_approach_the_prediction_of_the_initial_kernel_faster(name, expected):
    """(B.22): O(m^-2) for scale 1 and O(m^-1) for scale m^-1/2 (measured: -1.84 and -0.84)."""
    cells, rows = wide()
    keys = [[(name, m, r) if name else (m, r) for r in range(FEW // 2)] for m in WIDTHS]
    errors = [[error(rows[key], at_initialisation(cells[key], rows[key])) for key in line] for line in keys]
    assert abs(slope(errors) - expected) < 0.35


def test_the_predicted_steps_are_those_that_training_takes():
    """(B.26): their ratio tends to 1, by the median and by its spread over replicates."""
    _, rows = wide()
    ratios = {}
    for m in (256, 1024, 8192):
        found = [rows["steps", m, r] for r in range(FEW)]
        assert all(row["status"] == "converged" for row in found)
        ratios[m] = np.array([row["steps"] / row["steps_linearised"] for row in found])
    assert abs(np.median(ratios[8192]) - 1) < 0.05
    assert np.median(abs(ratios[8192] - 1)) < 0.1
    assert np.median(abs(ratios[8192] - 1)) < 0.5 * np.median(abs(ratios[256] - 1))


def test_the_predicted_step_is_the_first_at_which_the_predicted_residual_is_small_enough():
    cells, rows = wide()
    for replicate in range(10):
        row, arrays = rows["steps", 1024, replicate], EXPERIMENT.inputs(cells["steps", 1024, replicate])
        around = np.array([row["steps_linearised"] - 1, row["steps_linearised"]])
        before, after = ntk.predict(infinite_ntk(arrays["X"]), -arrays["y"], row["eta_scaled"], around)
        assert after <= row["tolerance"] < before


def test_weights_move_as_lazy_training_predicts():
    """(B.24), and by (A.6) the movement falls like 1/m at scale 1, like m^-1/2 at scale m^-1/2."""
    cells, rows = wide()
    for name, exponent in ((None, -1.0), ("ntk", -0.5)):
        moved = np.array([[rows[(name, m, r) if name else (m, r)]["max_movement"] for r in range(FEW)] for m in WIDTHS])
        assert abs(slope(moved) - exponent) < 0.3  # the largest of m log-normal gradients adds its own factor
    for replicate in range(20):
        arrays, row = EXPERIMENT.inputs(cells[8192, replicate]), rows[8192, replicate]
        H = ntk.empirical(arrays["W"], arrays["X"])
        last = ntk.predict_residual(H, -arrays["y"], row["eta_scaled"], row["steps"])
        move = ntk.lazy_movement(arrays["W"], arrays["a"], arrays["X"], -arrays["y"] - last)
        assert row["max_movement"] == pytest.approx(np.linalg.norm(move, axis=0).max(), rel=0.02)


def test_a_step_is_stable_below_two_over_the_largest_eigenvalue_and_not_above():
    """(B.28): at 0.5x the residual falls tenfold, at 1x it does not rise, at 3x it blows up."""
    _, rows = wide()
    sharp = {
        name: [row for r in range(FEW) if (row := rows[name, r])["lambda_max_0"] >= row["lambda_max_cts"]]
        for name in FACTORS
    }
    assert min(map(len, sharp.values())) > 20
    assert all(row["E0"] for row in sharp["half"])
    assert not any(row["E0"] for row in sharp["edge"] + sharp["three"])

    def change(row, reduce):
        return reduce(np.nan_to_num(row["curve_residual"], nan=np.inf)) / row["residual_initial"]

    assert all(change(row, np.max) <= 1 for row in sharp["half"])
    assert all(row["residual_final"] < 0.1 * row["residual_initial"] for row in sharp["half"])
    assert all(change(row, np.max) < 1.05 for row in sharp["edge"])
    assert not any(row["E5"] for row in sharp["edge"])
    assert all(change(row, np.max) > 10 for row in sharp["three"])
    blown = [row for row in sharp["three"] if row["status"] in ("diverged", "nonfinite")]
    assert len(blown) > 0.8 * len(sharp["three"])
    assert all(row["steps"] < 30 for row in blown)


# --- narrow networks: n = 8 orthonormal points

SUCCESS_WIDTHS = [8, 16, 32, 64, 128]


@cache
def narrow():
    cells = {}
    flow, tight = {"flow_time": 2.0, "at_most": 10_000}, {"kind": "orthonormal", "rule": "spectral"}
    for replicate in range(REPLICATES):
        for m in SUCCESS_WIDTHS:
            cells["success", m, replicate] = cell(8, m, replicate, factor=1.0, max_steps=flow, tolerance=0.05, **tight)
        for factor in (0.3, 1.0, 3.0):
            cells["cts", factor, replicate] = cell(8, 64, replicate, kind="orthonormal", factor=factor)
    return measure(cells)


def test_a_spike_in_the_initial_kernel_makes_a_catapult_and_not_a_failure():
    """(B.30): where only H^cts sets the step, many starts are unstable; they lose the rate and converge still."""
    rows = narrow()
    found = {factor: [rows["cts", factor, r] for r in range(REPLICATES)] for factor in (0.3, 1.0, 3.0)}
    unstable = {factor: [row for row in kept if not row["E0"]] for factor, kept in found.items()}
    assert len(unstable[0.3]) < 0.1 * REPLICATES < 0.25 * REPLICATES < len(unstable[1.0]) < len(unstable[3.0])
    assert len(unstable[1.0]) < 0.8 * REPLICATES
    assert not any(row["E4"] for row in unstable[1.0])
    assert np.median([row["curve_residual"].max() / row["residual_initial"] for row in unstable[1.0]]) > 1.5
    assert np.mean([row["E5"] for row in unstable[1.0]]) > 0.9
    assert np.mean([row["E5"] for row in unstable[3.0]]) < np.mean([row["E5"] for row in unstable[1.0]])
    stable = [row for row in found[1.0] if row["E0"]]
    assert np.mean([row["E4"] for row in stable]) > 0.5


@pytest.mark.parametrize("event", ["E3", "E4", "E5"])
def test_wider_networks_succeed_more_often(event):
    """Below the threshold hardly any, above it nearly all; the exact intervals of far apart widths do not overlap."""
    rows = narrow()
    counts = [sum(rows["success", m, r][event] for r in range(REPLICATES)) for m in SUCCESS_WIDTHS]
    bounds = [interval(count, REPLICATES) for count in counts]
    assert bounds[0][1] < bounds[-1][0]
    for (low, _), (_, high) in pairwise(bounds):
        assert low <= high  # no significant fall from one width to the next
    if event == "E5":
        assert bounds[0][1] < bounds[2][0] <= bounds[2][1] < bounds[4][0]
        assert counts[-1] == REPLICATES


def test_what_the_events_say_is_what_the_curves_show():
    """E4 and E5 read off the stored curve, at every stored step."""
    for row in narrow().values():
        steps, residual = np.array(row["curve_step"], float), np.array(row["curve_residual"])
        rate = 1 - row["eta_scaled"] * row["lambda_cts"] / 2
        assert row["E5"] == (row["status"] == "converged") == (row["residual_final"] <= row["tolerance"])
        assert row["E5_step"] == (None if row["E5"] else row["steps"])
        assert (residual[:-1] > row["tolerance"]).all()
        assert steps[-1] == row["steps"]
        before = steps < (np.inf if row["E4"] else row["E4_step"])
        assert (residual[before] ** 2 <= max(rate, 0) ** steps[before] * residual[0] ** 2 * (1 + 1e-8)).all()
        assert not (row["E3"] and row["lambda_min_path"] < row["lambda_cts"] / 2 * (1 - 1e-8))
