"""Fitted rates on curves whose rate is known, and steps to tolerance against the prediction."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest

from expreg.kinds.network.summary import groups, rates

STEPS = np.unique(np.geomspace(1, 400, 48).astype(int))


def cell(name: str, **columns: Any) -> dict[str, Any]:
    fixed = {"cell": name, "status": "converged", "n": 4, "m": 64, "replicate": 0, "lambda_cts": 4.0}
    return fixed | {"eta": 1 / (64 * 16.0), "tolerance": 0.05, "steps": 100} | columns


def curve(name: str, residual: Callable[[np.ndarray], np.ndarray], linearised: float | None = None) -> pd.DataFrame:
    step = np.concatenate([[0], STEPS])
    predicted = np.full(len(step), np.nan) if linearised is None else 2.0 * linearised**step
    return pd.DataFrame({"cell": name, "step": step, "residual": residual(step), "linearised": predicted})


def power(t: np.ndarray, factor: float) -> np.ndarray:
    return np.asarray(factor**t)


def fitted(cells: list[dict[str, Any]], curves: list[pd.DataFrame]) -> pd.DataFrame:
    return rates.per_cell(groups.prepare(pd.DataFrame(cells)), pd.concat(curves))


@pytest.mark.parametrize("factor", [0.5, 0.9, 0.999, 1.0, 1.01])
def test_a_geometric_curve_has_its_own_rate(factor: float) -> None:
    table = fitted([cell("a")], [curve("a", lambda t: 2.0 * factor**t, linearised=factor**0.5)])
    assert table["measured"][0] == pytest.approx(factor, rel=1e-12)
    assert table["linearised"][0] == pytest.approx(factor**0.5, rel=1e-12)


def test_the_theory_rate_is_per_step_of_the_norm() -> None:
    table = fitted([cell("a")], [curve("a", lambda t: 0.9**t)])
    assert table["theory"][0] == pytest.approx(math.sqrt(1 - 64 / (64 * 16.0) * 4.0 / 2))


def test_the_theory_rate_is_unknown_where_the_theorem_does_not_apply() -> None:
    cells = [cell("a", optimizer="adam"), cell("b", eta=1.0), cell("c", lambda_cts=None), cell("d", eta=None)]
    assert fitted(cells, [curve("a", lambda t: 0.9**t)])["theory"].isna().all()


def test_the_tail_is_that_of_the_slowest_mode() -> None:
    table = fitted([cell("a")], [curve("a", lambda t: 5.0 * 0.5**t + 1.0 * 0.95**t)])
    assert table["measured"][0] == pytest.approx(0.95, rel=1e-6)


def test_the_tail_starts_half_way_down_on_the_logarithmic_scale() -> None:
    """From 1 to 2^-32 by 1/2 until 2^-12 and again from there at another rate: 2^-16 lies beyond the bend."""
    t = np.arange(65.0)
    bent = np.where(t < 12, 2.0**-t, 2.0 ** -(12 + (t - 12) * 20 / 52))
    table = fitted([cell("a")], [pd.DataFrame({"cell": "a", "step": t, "residual": bent})])
    assert table["measured"][0] == pytest.approx(2 ** -(20 / 52), rel=1e-9)


def test_an_early_rise_does_not_reach_into_the_tail() -> None:
    def catapult(t: np.ndarray) -> np.ndarray:
        return np.where(t < 20, 2.0 * 1.2**t, 60.0 * 0.97**t)

    table = fitted([cell("a")], [curve("a", catapult)])
    assert table["measured"][0] == pytest.approx(0.97, rel=1e-9)


def test_curves_do_not_mix_whatever_their_order_and_length() -> None:
    factors = {f"{k}": 0.5 + 0.04 * k for k in range(10)}
    parts = [curve(name, partial(power, factor=factor))[: 8 + int(name)] for name, factor in factors.items()]
    shuffled = pd.concat(parts).sample(frac=1.0, random_state=0)
    table = rates.per_cell(groups.prepare(pd.DataFrame([cell(name) for name in factors])), shuffled)
    np.testing.assert_allclose(table["measured"], list(factors.values()), rtol=1e-9)


def test_too_few_points_and_residuals_out_of_range_give_no_rate() -> None:
    short = curve("a", lambda t: 0.9**t)[:3]
    broken = curve("b", lambda t: np.where(t > 3, np.inf, 2.0))[:8]
    table = fitted([cell("a"), cell("b", status="nonfinite"), cell("c")], [short, broken])
    assert table["measured"].isna()[[0, 2]].all()
    assert table["linearised"].isna().all()
    assert table["predicted_steps"].isna().all()


def test_no_curves_at_all() -> None:
    table = rates.per_cell(groups.prepare(pd.DataFrame([cell("a")])), pd.DataFrame())
    assert table["measured"].isna().all()


@pytest.mark.parametrize("kept", [len(STEPS), 12])
def test_predicted_steps_are_those_of_the_geometric_decay_within_or_beyond_the_curve(kept: int) -> None:
    # 2 * 0.97^t <= 0.05 at t = 121.1; twelve points end near step 12, so the prediction is continued.
    table = fitted([cell("a")], [curve("a", lambda t: 0.9**t, linearised=0.97)[:kept]])
    assert table["predicted_steps"][0] == math.ceil(math.log(0.05 / 2.0) / math.log(0.97))


def test_predicted_steps_are_those_to_the_tolerance_of_each_cell() -> None:
    cells = [cell("a", tolerance=0.5), cell("b", tolerance=0.01)]
    found = fitted(cells, [curve(name, lambda t: 2 * 0.9**t, linearised=0.9) for name in "ab"])["predicted_steps"]
    assert found.to_list() == [math.ceil(math.log(t / 2) / math.log(0.9)) for t in (0.5, 0.01)]


def described(cells: list[dict[str, Any]], curves: list[pd.DataFrame]) -> list[dict[str, Any]]:
    rows = groups.prepare(pd.DataFrame(cells))
    return rates.describe(rows, rates.per_cell(rows, pd.concat(curves)), lambda x: (x[0], x[-1]))


def test_each_width_has_medians_and_quartiles_over_replicates() -> None:
    factors = [0.8, 0.85, 0.9, 0.93, 0.95]
    cells = [cell(f"{k}", replicate=k) for k in range(5)] + [cell("wide", m=128)]
    curves = [curve(f"{k}", partial(power, factor=f)) for k, f in enumerate(factors)]
    narrow, wide = described(cells, curves)
    assert (narrow["m"], wide["m"], wide["measured"], wide["cells"]) == (64, 128, None, 0)
    assert [narrow[key] for key in ("low", "measured", "high")] == pytest.approx([0.85, 0.9, 0.93])
    theory = math.sqrt(1 - 4.0 / 16.0 / 2)
    assert narrow["theory"] == pytest.approx(theory)
    assert narrow["speed"]["value"] == pytest.approx(math.log(0.9) / math.log(theory))
    assert narrow["speed"]["low"] == pytest.approx(math.log(0.95) / math.log(theory))


def test_steps_are_compared_for_converged_cells_only() -> None:
    predicted = math.ceil(math.log(0.05 / 2.0) / math.log(0.97))
    cells = [cell("a", steps=predicted), cell("b", replicate=1, steps=9999, status="max_steps")]
    [record] = described(cells, [curve(c, lambda t: 2.0 * 0.97**t, linearised=0.97) for c in "ab"])
    assert record["steps"] == {"value": 1.0, "low": 1.0, "high": 1.0, "cells": 1}
