"""Models in the summary: what they add, when they are refused and why, and which groups are regressed together."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from expreg.core.stats import exponents
from expreg.kinds.network.summary import groups, models

NS = (4, 8, 16, 32)


def tables(replicates: int, step: float = 2**0.5, ns: tuple[int, ...] = NS) -> dict[int, groups.Outcomes]:
    """Return outcomes under the theory's law with exponent 1, widths around the threshold."""
    result = {}
    for n in ns:
        star = 6 * n * (math.log(n) + np.random.default_rng(n).exponential(size=replicates))
        widths = 6 * n * math.log(n) * np.exp(np.arange(-1.5, 3.0, math.log(step)))
        result[n] = groups.Outcomes(widths, (widths >= star[:, None]).astype(float))
    return result


def described(found: dict[int, groups.Outcomes]) -> dict[str, Any]:
    draws = {n: exponents.resample(len(table.success), 60, np.random.default_rng(n)) for n, table in found.items()}
    return models.describe(found, draws, 0.1, 0.95, 36)


def test_both_models_are_usable_and_agree_with_the_law() -> None:
    found = described(tables(80))
    assert found["psychometric"]["usable"]
    assert found["censored"]["usable"]
    assert found["censored"]["best"]["law"] == found["psychometric"]["best"]["link"] == "theory"
    assert found["censored"]["theory"]["corrected"]["value"] == pytest.approx(1.0, abs=0.1)


def test_fewer_replicates_than_the_quantile_needs_are_refused_with_the_number() -> None:
    for record in described(tables(35)).values():
        assert not record["usable"]
        assert "needs 36 (D.4)" in record["why_not"]
        assert "best" in record  # the numbers are there to look at


@pytest.mark.parametrize(
    ("ns", "words"), [((8,), "1 values of n"), ((8, 16), "2 values of n"), ((4, 5, 6), "factor 1.5")]
)
def test_too_short_a_range_of_n_is_refused(ns: tuple[int, ...], words: str) -> None:
    for record in described(tables(40, ns=ns)).values():
        assert words in record["why_not"]


def test_an_n_that_is_always_or_never_successful_still_counts_as_censored() -> None:
    found = tables(40)
    found[64] = groups.Outcomes(np.array([8.0, 16.0]), np.zeros((40, 2)))
    found[2] = groups.Outcomes(np.array([800.0, 1600.0]), np.ones((40, 2)))
    record = described(found)["censored"]
    assert (record["replicates"], record["censored_above"], record["censored_below"]) == (240, 40, 40)
    assert record["usable"]
    assert record["theory"]["corrected"]["value"] == pytest.approx(1.0, abs=0.15)


def test_separation_and_an_unresolved_spread_are_said() -> None:
    step = np.tile([0.0, 1.0, 1.0], (40, 1))
    found = described({n: groups.Outcomes(n * np.array([4.0, 8.0, 16.0]), step) for n in NS})
    assert found["psychometric"]["separated"]
    assert found["psychometric"]["penalised"]
    assert "Firth" in found["psychometric"]["why_not"]
    assert "finer" in found["censored"]["why_not"]
    # The penalty leaves the exponent that the grid suggests: cells that scale like n.
    assert found["psychometric"]["logit"]["raw"]["value"] == pytest.approx(1.0, abs=1e-3)


def test_success_that_does_not_rise_with_the_width_has_no_exponent() -> None:
    widths, chance = 2.0 ** np.arange(3, 9), np.linspace(0.9, 0.2, 6)
    falling = {n: groups.Outcomes(n * widths, (np.random.default_rng(n).random((40, 6)) < chance) * 1.0) for n in NS}
    assert described(falling)["psychometric"]["why_not"] == "success does not become more likely with m"


def test_widths_that_follow_a_power_of_n_are_refused_in_words() -> None:
    column = np.tile([[0.0], [1.0]], (20, 1))
    found = described({n: groups.Outcomes(np.array([2.0 * n**2]), column) for n in NS})
    assert all("independently" in record["why_not"] for record in found.values())


def rows(activation: str = "exp", **columns: Any) -> pd.DataFrame:
    """Return cells with m* = 20 n^0.5 log(n / delta) lambda^-1.5 e^noise; lambda differs from angle to angle."""
    rng = np.random.default_rng(0)
    cells = []
    for n in NS:
        for angle, smallest in ((0.1, 0.3), (0.3, 1.0), (1.0, 3.0)):
            for replicate in range(30):
                star = 20 * n**0.5 * math.log(n / 0.1) * smallest**-1.5 * math.exp(0.4 * rng.normal())
                fixed = {"n": n, "angle": angle, "replicate": replicate, "lambda_cts": smallest}
                cells += [fixed | {"m": m, "E5": m >= star} for m in 2 ** np.arange(3, 16)]
    table = pd.DataFrame(cells).assign(data="near_duplicate", status="converged", activation=activation, **columns)
    return table.assign(label_norm=np.sqrt(table["n"]), cell=[f"{activation}{k:05d}" for k in range(len(table))])


def regressions(table: pd.DataFrame, axes: list[str]) -> list[dict[str, Any]]:
    split = groups.split(groups.prepare(table), ["n", "m", "replicate", *axes])
    return models.regressions(split, 0.1, 0.95)


def test_groups_that_differ_in_their_data_are_pooled_and_show_what_lambda_does() -> None:
    [found] = regressions(rows(), ["angle"])
    assert (found["criterion"], len(found["groups"]), found["replicates"]) == ("E5", 3, 360)
    values = {record["name"]: (record["low"], record["high"]) for record in found["coefficients"]}
    assert list(values) == ["log n", "log lambda"]
    assert values["log n"][0] < 0.5 < values["log n"][1]
    assert values["log lambda"][0] < -1.5 < values["log lambda"][1]
    words = {record["name"]: record["why"] for record in found["left_out"]}
    assert words["log ||X||^2"] == "log ||X||^2 is not recorded."
    assert "0.5 log n" in words["log ||y||"]


def test_the_norm_of_the_points_enters_where_it_is_recorded() -> None:
    table = rows()
    codes = table.groupby(["n", "angle", "replicate"]).ngroup()
    table["gram_norm"] = np.exp(np.random.default_rng(1).normal(size=codes.max() + 1))[codes]
    [found] = regressions(table, ["angle"])
    last = found["coefficients"][-1]
    assert last["name"] == "log ||X||^2"
    assert abs(last["value"]) < 4 * last["se"] < 0.5  # it had no part in these thresholds


@pytest.mark.parametrize("axis", ["phi", "training.step_size.factor"])  # "phi": a name for network.activation
def test_groups_that_train_differently_are_not_pooled(axis: str) -> None:
    activation = {"phi": "cosh"}.get(axis, "exp")
    both = pd.concat([rows(**{axis: 1}), rows(activation, **{axis: 2})])
    found = regressions(both.assign(cell=[f"{k:06d}" for k in range(len(both))]), ["angle", axis])
    assert [len(record["groups"]) for record in found] == [3, 3]


def test_no_outcomes_make_no_regression() -> None:
    assert regressions(rows().assign(E5=None), ["angle"]) == []
