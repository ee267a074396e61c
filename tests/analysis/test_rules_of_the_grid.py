"""Small rules behind thresholds and rates: what brackets, half a success, tails and tolerances of each curve."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import special

from expreg.core.stats import success, thresholds
from expreg.kinds.network.summary import groups, rates

WIDTHS = np.array([8.0, 16.0])


@pytest.mark.parametrize(("narrow", "wide", "brackets"), [(0, 20, True), (1, 20, True), (2, 20, False), (0, 18, False)])
def test_a_grid_brackets_from_less_than_a_tenth_to_more_than_one_minus_delta(narrow, wide, brackets):
    table = np.stack([np.arange(20) < narrow, np.arange(20) < wide], axis=1).astype(float)
    assert thresholds.describe(4, WIDTHS, table, 0.1, 0.95)["bracketed"] == brackets


def test_shares_are_moved_off_their_ends_by_half_a_success():
    """Of 9 of 9 it leaves 9.5 of 10, and of none 0.5 of 10: symmetric, so one half lies in the middle."""
    curve, trials = np.array([0.0, 1.0]), np.full(2, 9.0)
    middle = success.crossing(curve, trials, WIDTHS, 0.5).log_m
    assert middle == pytest.approx(np.log(WIDTHS).mean(), rel=1e-12)
    share = (special.logit(0.8) + special.logit(0.95)) / (2 * special.logit(0.95))  # 7.5 of 9 becomes 8 of 10
    found = success.crossing(curve, trials, WIDTHS, 7.5 / 9).log_m
    assert found == pytest.approx(math.log(8) + share * math.log(2), rel=1e-12)


def fitted(curves, tolerance):
    """Return the rates of cells whose curves are given as {name: (residual, linearised) over the steps 0, 1, ...}."""
    cells = pd.DataFrame(
        {"cell": list(curves), "status": "converged", "n": 4, "m": 64, "replicate": range(len(curves)),
         "lambda_cts": 4.0, "eta": 1e-3, "tolerance": tolerance, "steps": 100}
    )  # fmt: skip
    table = pd.concat(
        pd.DataFrame({"cell": name, "step": np.arange(len(r)), "residual": r, "linearised": linearised})
        for name, (r, linearised) in curves.items()
    )
    return rates.per_cell(groups.prepare(cells), table)


def test_predicted_steps_are_those_to_the_tolerance_of_each_cell():
    line = 0.9 ** np.arange(60.0)
    found = fitted(dict.fromkeys("ab", (line, line)), [0.5, 0.01])["predicted_steps"]
    assert found.to_list() == [math.ceil(math.log(t) / math.log(0.9)) for t in (0.5, 0.01)]


def test_the_tail_starts_half_way_down_on_the_logarithmic_scale():
    """From 1 to 2^-32 by 1/2 until 2^-12 and again from there at another rate: 2^-16 lies beyond the bend."""
    t = np.arange(65.0)
    bent = np.where(t < 12, 2.0**-t, 2.0 ** -(12 + (t - 12) * 20 / 52))
    assert fitted({"a": (bent, bent)}, [0.01])["measured"][0] == pytest.approx(2 ** -(20 / 52), rel=1e-9)
