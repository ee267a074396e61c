"""Small rules behind thresholds: what brackets, and half a success."""

import math

import numpy as np
import pytest
from scipy import special

from expreg.core.stats import success, thresholds

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
