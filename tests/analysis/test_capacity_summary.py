"""Widths of fits in units of parameters, and the verdicts on the counts of parameters."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from expreg.core.stats.describe import UNRESOLVED
from expreg.core.stats.summary import Asked
from expreg.kinds.network.figures.capacity import page
from expreg.kinds.network.summary import capacity
from expreg.kinds.network.summary.summary import summarise

WIDTHS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]


def cells(power: float, factor: float, d: Any = 4, replicates: int = 60) -> pd.DataFrame:
    """Return rows of fits that succeed from about `factor` n^power neurons on."""
    rng = np.random.default_rng(0)
    rows = []
    for n in (8, 16, 32, 64):
        for replicate in range(replicates):
            needed = factor * n**power * np.exp(0.1 * rng.normal())
            rows += [(n, d(n) if callable(d) else d, m, replicate, m >= needed) for m in WIDTHS]
    frame = pd.DataFrame(rows, columns=["n", "d", "m", "replicate", "fit"])
    cell = [f"{number:06}" for number in range(len(frame))]
    return frame.assign(cell=cell, data="sphere", status=np.where(frame["fit"], "converged", "stalled"), lambda_cts=1.0)


def group(rows: pd.DataFrame) -> dict[str, Any]:
    [found] = summarise(rows, pd.DataFrame(), Asked(delta=0.5, resamples=200))["groups"]
    return dict(found)


def judged(rows: pd.DataFrame) -> dict[str, str]:
    return {found["claim"]: found["verdict"] for found in capacity.verdicts(group(rows))}


def test_widths_are_given_in_weights_and_parameters_per_point() -> None:
    found = group(cells(1.0, 0.3))["capacity"]
    assert [row["n"] for row in found] == [8, 16, 32, 64]
    for row in found:
        assert row["m"] == pytest.approx(0.3 * row["n"], rel=0.35)
        for end in ("", "_low", "_high"):
            assert row[f"trained{end}"] == pytest.approx(4 * row[f"m{end}"] / row["n"])
            assert row[f"parameters{end}"] == pytest.approx(6 * row[f"m{end}"] / row["n"])
        narrow = [m for m in WIDTHS if 6 * m < row["n"]]
        assert (row["below_fits"], row["below_trials"]) == (0, 60 * len(narrow))


@pytest.mark.parametrize(
    ("power", "factor", "d", "needed", "enough", "growth"),
    [
        (1.0, 0.32, 4, "consistent", "consistent", "consistent"),
        (1.0, 0.13, 4, "contradicts", "consistent", "consistent"),  # fits with fewer parameters than points
        (1.0, 0.9, 4, "consistent", "contradicts", "consistent"),  # none where m d = 2 n
        (0.5, 0.9, 4, "contradicts", "consistent", "contradicts"),
        (0.0, 2.6, lambda n: n, UNRESOLVED, "contradicts", "consistent"),  # d = n: the exponent of n / d is 0
        (1.0, 0.25, lambda n: n, UNRESOLVED, "contradicts", "contradicts"),  # one neuron has n parameters already
        (0.0, 0.5, lambda n: n, UNRESOLVED, "consistent", UNRESOLVED),  # below the grid
        (0.0, 99.0, 4, "consistent", "contradicts", UNRESOLVED),  # above the grid
    ],
)
def test_every_verdict_can_go_either_way(power, factor, d, needed, enough, growth) -> None:
    found = judged(cells(power, factor, d))
    assert found == {"parameters needed": needed, "parameters enough": enough, "growth": growth}


@pytest.mark.parametrize(
    ("tried", "fits", "expected"), [(60, 0, "consistent"), (60, 1, UNRESOLVED), (0, 0, UNRESOLVED)]
)
def test_that_no_smaller_network_fits_takes_smaller_networks_that_do_not(tried, fits, expected) -> None:
    row = {"n": 8, "d": 4, "beyond": None, "below_trials": tried, "below_fits": fits}
    row |= {"parameters": 1.5, "parameters_low": 1.3, "parameters_high": 1.7}
    assert capacity.needed([row])[3][0] == expected


def test_an_interval_on_both_sides_of_a_count_decides_nothing() -> None:
    row = {"n": 8, "d": 4, "beyond": None, "below_trials": 60, "below_fits": 20}
    row |= {"parameters": 1.1, "parameters_low": 0.9, "parameters_high": 1.3}
    row |= {"trained": 1.9, "trained_low": 1.7, "trained_high": 2.1}
    for claim, numbers in ((capacity.needed([row]), 1.1), (capacity.enough([row]), 1.9)):
        assert claim[3][0] == UNRESOLVED
        assert claim[2]["value"] == numbers
    assert "20 of 60 networks" in capacity.needed([row])[3][1]


def test_other_experiments_have_no_capacity_and_failed_cells_do_not_count() -> None:
    rows = cells(1.0, 0.3)
    plain = group(rows.drop(columns="fit").assign(E5=rows["fit"]))
    assert "capacity" not in plain
    assert capacity.verdicts(plain) == []
    failed = rows.assign(fit=rows["fit"].astype(object).where(rows["replicate"] < 40, None))
    failed = failed.assign(status=failed["status"].where(rows["replicate"] < 40, "oom"))
    [fit] = [c for c in group(failed)["criteria"] if c["criterion"] == "fit"]
    assert {point["trials"] for point in fit["success"]} == {40}


def test_the_page_has_the_counts_and_no_lambda() -> None:
    falling = cells(1.0, 0.3)
    summary = summarise(falling.assign(lambda_cts=1 / falling["n"] ** 2), pd.DataFrame(), Asked(delta=0.5))
    parts = page(summary)
    assert parts.tables[0]["columns"][2:5] == ["m*", "m* d / n", "m* (d + 2) / n"]
    assert len(parts.tables[0]["rows"]) == 4
    assert {table["title"] for table in parts.tables} == {"", "Thresholds"}
    assert len(parts.verdicts) == 3
    assert not any("lambda" in line for line in parts.warnings)
