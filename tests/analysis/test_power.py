"""Replicates for a wanted interval: against simulation, against the estimator itself, and in words."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expreg import api
from expreg.core.config import cells
from expreg.core.stats import exponents, power, success
from expreg.kinds.network import outlook

ROOT = Path(__file__).resolve().parents[2]
NS = (8, 16, 32, 64, 128)
FINE = np.exp(np.arange(0, 20, 0.01))
HALF_OCTAVES = list(2.0 ** np.arange(2, 12, 0.5))


@pytest.mark.parametrize(("delta", "n"), [(0.1, 8.0), (0.1, 64.0), (0.3, 16.0)])
def test_the_error_of_a_quantile_is_its_spread_over_samples(delta: float, n: float) -> None:
    log_m = np.log(math.log(n) + np.random.default_rng(0).exponential(size=(4000, 400)))
    measured = np.quantile(log_m, 1 - delta, axis=1, method="inverted_cdf").std()
    assert measured == pytest.approx(power.quantile_error(np.array([n]), delta, 400)[0], rel=0.05)


def test_interpolation_leaves_less_open_than_rounding_and_on_coarse_grids_as_much() -> None:
    rng, n, step = np.random.default_rng(1), np.array([4.0, 64.0]), math.log(2.0) / 2
    place = rng.uniform(0, 100, size=10**5)
    for wide, share in ((step, 0.5), (10 * step, 1.01)):
        rounded = (np.ceil(place / wide) * wide - place).std()
        assert (power.grid_error(n, 0.1, np.full(2, wide)) < share * rounded).all()
    assert power.grid_error(n, 0.1, np.full(2, wide)) == pytest.approx(rounded, rel=0.01)


def test_the_expected_error_is_that_of_the_exponents_of_the_summary() -> None:
    rng, replicates, repetitions = np.random.default_rng(2), 100, 400
    log_n = np.log(NS)
    log_m = np.empty((repetitions, len(NS)))
    step = math.log(2.0) / 2
    for k, n in enumerate(NS):
        size = (repetitions, replicates, 1)
        star = np.log(math.log(n) + rng.exponential(size=size))
        grid, place = np.arange(-5, 6, step), step * rng.random((repetitions, 1, 1))
        hits = (grid + place >= star).sum(axis=1).astype(float)
        found = success.threshold(hits, np.full_like(hits, replicates), np.exp(grid), 0.9).log_m
        log_m[:, k] = found + place[:, 0, 0]
    slopes = log_m @ (log_n - log_n.mean()) / np.sum((log_n - log_n.mean()) ** 2)
    of = power.variance(NS, 0.1, list(np.exp(np.arange(-5, 6, step))))
    assert slopes.std() == pytest.approx(math.sqrt(of.sampling / replicates + of.grid), rel=0.15)


def test_the_example_of_the_specification() -> None:
    of = power.variance(NS, 0.1, list(FINE))
    assert math.sqrt(of.sampling / 100) == pytest.approx(0.026, abs=5e-4)  # (D.14)


@pytest.mark.parametrize("wanted", [0.02, 0.05, 0.2])
def test_as_many_replicates_as_needed_give_the_wanted_interval_and_one_less_does_not(wanted: float) -> None:
    of = power.variance(NS, 0.1, list(FINE))
    enough = power.replicates_for(of, wanted, 0.95)
    assert enough is not None
    assert power.expected_half_width(of, enough, 0.95) <= wanted * (1 + 1e-9)
    assert power.expected_half_width(of, enough - 1, 0.95) > wanted


def test_longer_ranges_of_n_and_looser_wishes_need_fewer_replicates() -> None:
    def needed(ns: tuple[int, ...] = NS, wanted: float = 0.05, delta: float = 0.1) -> int:
        found = power.replicates_for(power.variance(ns, delta, list(FINE)), wanted, 0.95)
        assert found is not None
        return found

    assert needed() < needed(ns=NS[:3])
    assert needed() == pytest.approx(4 * needed(wanted=0.1), abs=4)
    assert needed(delta=0.01) > needed()


def record(**settings: Any) -> dict[str, Any]:
    fixed: dict[str, Any] = {"n_values": NS, "delta": 0.1, "confidence": 0.95, "half_width": 0.06}
    return power.needed(**(fixed | {"widths": HALF_OCTAVES} | settings))


def test_the_record_names_both_needs_and_asks_for_the_larger() -> None:
    found = record()
    assert found["replicates"] == found["for_half_width"] > found["for_quantile"] == 36
    assert f"needs {found['replicates']} replicates" in found["sentences"][0]
    assert "from 36 replicates on" in found["sentences"][1]
    easy = record(half_width=0.5)
    assert easy["replicates"] == easy["for_quantile"] == 36 > easy["for_half_width"]


def test_planned_replicates_get_the_interval_to_expect_from_them() -> None:
    enough = record()["replicates"]
    assert record(replicates=enough)["expected"] == pytest.approx(0.06, abs=0.001)
    few = record(replicates=20)
    assert few["expected"] > 0.06
    assert few["sentences"][-1].endswith("but no upper limit of the 0.9 quantile.")


@pytest.mark.parametrize("name", ["quickstart", "threshold", "budget", "initial", "iid", "lazy"])
def test_what_criteria_get_lies_within_the_range_that_a_plan_names(name: str) -> None:
    config = api.load_config(ROOT / f"configs/{name}.yaml")
    results = json.loads((ROOT / f"docs/results/{name}.json").read_text())
    found = outlook.resolution([settings for settings, _ in cells(config)], config.analysis.model_dump())
    fits = [criterion["raw"] for group in results["groups"] for criterion in group["criteria"]]
    assert found is not None
    low, high = (factor * found["expected"] for factor in power.BY_CRITERION)
    assert f"from +-{low:.2g} to +-{high:.2g} depending on the criterion" in found["sentences"][-1]
    assert all(low <= (fit["high"] - fit["low"]) / 2 <= high for fit in fits if fit["low"] is not None)


def test_a_grid_that_is_too_coarse_is_said_to_be() -> None:
    found = record(widths=[4.0, 64.0, 1024.0])
    assert found["replicates"] is found["for_half_width"] is None
    assert "grid of widths alone leaves +-" in found["sentences"][0]


def test_each_n_may_have_its_own_widths() -> None:
    assert record(widths={n: [n * m for m in HALF_OCTAVES] for n in NS}) == record()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("n_values", (8, 8)), ("n_values", (0, 8)), ("delta", 0.0), ("delta", 1.0), ("confidence", 1.0)),
        *(("half_width", 0.0), ("replicates", 0), ("widths", [8.0]), ("widths", [0.0, 8.0])),
    ],
)
def test_what_defines_no_exponent_is_refused(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match="required"):
        record(**{setting: value})


def test_the_largest_exponent_of_a_grid_is_that_of_the_steepest_thresholds_inside_it() -> None:
    grids = {4: [8.0, 64.0], 8: [8.0, 128.0], 16: [4.0, 256.0], 32: [8.0, 1024.0]}
    steepest = {4: 8.0, 8: 8.0, 16: 256.0, 32: 1024.0}
    n = np.array(sorted(grids), dtype=float)
    target = np.log([steepest[int(k)] for k in n]) - np.log(np.log(n / 0.1))
    assert power.largest_exponent(0.1, grids) == pytest.approx(np.polyfit(np.log(n), target, 1)[0])
    points = [exponents.Point(int(k), 40, math.log(20.0), np.zeros(3), (*np.log(grids[int(k)]),)) for k in n]
    found = exponents.fit(points, 0.1, 0.95, 36)["corrected"]["largest"]
    assert power.largest_exponent(0.1, grids) == pytest.approx(found)


@pytest.mark.parametrize(("widest", "decides"), [(256, False), (16384, True)])
def test_a_grid_that_can_contradict_nothing_is_warned_of(widest: int, decides: bool) -> None:
    config = {
        "experiment": "threshold",
        "name": "small",
        "sweep": {"product": {"n": [8, 16, 32], "m": {"geometric": [16, widest, 6]}, "replicate": {"count": 40}}},
    }
    plan = api.plan(config)
    assert plan["power"]["decides"] == decides
    assert any("no verdict on it is possible" in line for line in plan["lines"]) == (not decides)
    settings = [settings for settings, _ in cells(api.load_config(config))]
    lines = outlook.warnings(settings, {"delta": 0.1, "confidence": 0.95, "half_width": 0.1})
    assert [f"at most {plan['power']['largest']:.2f}" in line for line in lines] == [True] * (not decides)
