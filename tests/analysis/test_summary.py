"""The whole summary on rows whose thresholds are known, and on rows that say little or nothing."""

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from expreg.core.stats.summary import summarise
from expreg.kinds import EXPERIMENTS

EXPONENTS = {"E1": 1.5, "E3": 0.5, "E4": 0.5, "E5": 0.0}
NS = (4, 8, 16, 32)
AXES = ["n", "d", "m", "replicate", "rho"]


def cells(replicates: int = 48, rho: float = 0.5, seed: int = 0) -> pd.DataFrame:
    """Return rows whose events follow m* = 4 n^alpha (log n + Exp(1)) (D.8)."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in NS:
        widths = np.unique(2 * np.round(np.geomspace(3, 5 * n**1.5 * 15, 20)).astype(int))
        for replicate in range(replicates):
            star = {event: 4 * n**a * (math.log(n) + rng.exponential()) for event, a in EXPONENTS.items()}
            for m in widths:
                events = {event: bool(m >= value) for event, value in star.items()}
                rows.append({"n": n, "d": n, "m": int(m), "replicate": replicate, "rho": rho} | events)
    table = pd.DataFrame(rows)
    table["cell"] = [f"{rho}-{k:06d}" for k in range(len(table))]
    table["status"] = np.where(table["E5"], "converged", "max_steps")
    constants: dict[str, Any] = {"data": "equiangular", "lambda_cts": 4.0, "lambda_max_cts": 15.0}
    return table.assign(eta=1 / (16.0 * table["m"]), scale=1.0, steps=60, tolerance=0.05, **constants)


def curves(table: pd.DataFrame, factor: float = 0.9) -> pd.DataFrame:
    step = np.arange(0, 60, 4)
    decay = {"step": step, "residual": factor**step, "linearised": factor**step}
    return pd.concat([pd.DataFrame({"cell": name} | decay) for name in table["cell"]])


def summary(table: pd.DataFrame, traces: pd.DataFrame | None = None, **settings: Any) -> dict[str, Any]:
    traces = pd.DataFrame() if traces is None else traces
    fixed: dict[str, Any] = {"name": "test", "axes": AXES, "resamples": 100}
    found = summarise(EXPERIMENTS["threshold"], table, traces, **(fixed | settings))
    json.dumps(found, allow_nan=False)  # every summary must be storable
    return found


def criteria(found: dict[str, Any], group: int = 0) -> dict[str, Any]:
    return {record["criterion"]: record for record in found["groups"][group]["criteria"]}


def test_the_known_exponents_come_back_and_decide_the_width_verdicts() -> None:
    found = summary(cells())
    measured = criteria(found)
    assert list(measured) == ["E1", "E3", "E4", "E5"]
    for event, alpha in EXPONENTS.items():
        corrected = measured[event]["exponent"]["corrected"]
        assert corrected["low"] - 0.1 <= alpha <= corrected["high"] + 0.1
        likely = measured[event]["models"]["censored"]
        assert likely["theory"]["corrected"]["low"] - 0.05 <= alpha <= likely["theory"]["corrected"]["high"] + 0.05
        assert likely["best"]["law"] == "theory"
    widths = [v for v in found["verdicts"] if v["claim"] == "width"]
    assert [(v["criterion"], v["verdict"]) for v in widths] == [(event, "consistent") for event in EXPONENTS]
    assert {v["group"] for v in found["verdicts"]} == {"rho = 0.5"}


def test_the_smallest_eigenvalues_have_their_quartiles() -> None:
    table = cells(replicates=12)
    table["lambda_cts"] = 4 + 0.1 * table["replicate"] + 0.01 * table["n"]
    for record in summary(table, resamples=5)["groups"][0]["spectrum"]:
        values = table[table["n"] == record["n"]].groupby("replicate")["lambda_cts"].first()
        found = [record[name] for name in ("lambda_low", "lambda_cts", "lambda_high")]
        assert found == pytest.approx(np.quantile(values, [0.25, 0.5, 0.75]))


def test_without_a_theory_nothing_is_said_of_width_rate_or_kernel() -> None:
    table = cells(replicates=40).assign(lambda_cts=None, lambda_max_cts=None, E1=None, E3=None, E4=None)
    found = summary(table, curves(table).assign(linearised=None))
    assert [v["claim"] for v in found["verdicts"]] == ["probability"]
    assert found["chain"] == []
    assert found["groups"][0]["criteria"][0]["exponent"]["usable"]


def test_every_claim_with_its_measurements_has_a_verdict() -> None:
    table = cells(replicates=40)
    found = summary(table, curves(table))
    claims = [v["claim"] for v in found["verdicts"] if v["claim"] != "width"]
    assert claims == ["probability", "linear rate", "kernel", "rate of convergence", "steps to tolerance"]
    speed = next(v for v in found["verdicts"] if v["claim"] == "rate of convergence")
    assert speed["measured"] == pytest.approx(math.log(0.9) / math.log(math.sqrt(1 - 4 / 16 / 2)))


def test_an_exponent_above_2_contradicts_and_says_whether_the_bound_allows_it() -> None:
    steep = cells()
    for alpha, words in ((6.0, "above that, too"), (3.0, "its o(1) allows")):
        scaled = steep.assign(m=(steep["m"] * steep["n"] ** alpha).astype(int), d=4)[["n", "m", "E5", *FIXED]]
        [width] = [v for v in summary(scaled)["verdicts"] if v["claim"] == "width"]
        assert width["verdict"] == "contradicts"
        assert words in width["reason"]


FIXED = ["cell", "status", "replicate", "data", "lambda_cts"]


def test_where_lambda_falls_the_verdict_is_about_m_lambda_squared() -> None:
    table = cells()
    found = summary(table.assign(lambda_cts=8.0 / table["n"]))
    for verdict in (v for v in found["verdicts"] if v["claim"] == "width"):
        assert verdict["lambda_exponent"] == pytest.approx(-1.0)
        assert verdict["scaled"]["high"] == pytest.approx(verdict["high"] - 2.0)
        assert "like n^-1.00" in verdict["reason"]


@pytest.mark.parametrize(("change", "words"), [({"optimizer": "adam"}, "adam"), ({"activation": "relu"}, "relu")])
def test_other_networks_and_optimizers_get_no_verdict_of_the_theorem(change: dict[str, str], words: str) -> None:
    table = cells(replicates=40).assign(**change)
    found = summary(table, curves(table))
    for verdict in found["verdicts"]:
        assert (verdict["verdict"] == "does not apply") == (verdict["claim"] != "steps to tolerance")
        assert words in verdict["reason"] or verdict["claim"] == "steps to tolerance"


@pytest.mark.parametrize(("optimizer", "expected"), [("sgd", "consistent"), ("adam", "does not apply")])
def test_the_exponent_of_lambda_is_that_of_the_theorem_only_within_its_assumptions(
    optimizer: str, expected: str
) -> None:
    table = cells(replicates=40)
    parts = [
        table.assign(**{"lambda_cts": lam, "data.coherence": lam, "cell": f"{lam}-" + table["cell"]})
        for lam in (4.0, 1.0)
    ]
    found = summary(pd.concat(parts).assign(optimizer=optimizer), axes=[*AXES, "data.coherence"])
    judged = [verdict["verdict"] for verdict in found["verdicts"] if verdict["claim"] == "lambda"]
    assert len(judged) == 4
    assert set(judged) == {expected}


@pytest.mark.parametrize("without", [[], ["replicate"]])
def test_the_summary_does_not_depend_on_the_order_of_rows(without: list[str]) -> None:
    table = cells(replicates=8).drop(columns=without)
    traces = curves(table)
    settings: dict[str, Any] = {"resamples": 20}
    shuffled = summary(table.sample(frac=1.0, random_state=1), traces.sample(frac=1.0, random_state=2), **settings)
    assert shuffled == summary(table, traces, **settings)


def test_the_seed_moves_the_bootstrap_and_nothing_else() -> None:
    table = cells(replicates=8)
    one, other = (criteria(summary(table, seed=seed, resamples=20))["E3"] for seed in (0, 1))
    assert one["exponent"]["corrected"]["low"] != other["exponent"]["corrected"]["low"]
    assert one["exponent"]["corrected"]["value"] == other["exponent"]["corrected"]["value"]
    assert one["success"] == other["success"]


def test_adding_a_group_leaves_the_others_as_they_were() -> None:
    alone = summary(cells(replicates=6), resamples=10)
    both = summary(pd.concat([cells(replicates=6), cells(replicates=9, rho=0.9, seed=4)]), resamples=10)
    assert [group["group"]["rho"] for group in both["groups"]] == [0.5, 0.9]
    assert both["groups"][0] == alone["groups"][0]
    assert both["counts"]["cells"] > alone["counts"]["cells"]


def test_missing_and_failed_cells_are_counted_and_never_taken_for_failures() -> None:
    table = cells(replicates=40)
    widest = table.groupby("n")["m"].transform("max")
    failed = table.assign(status=np.where(table["m"] == widest, "oom", table["status"]))
    unfinished = failed[(failed["replicate"] != 3) | (failed["m"] < 20)]
    found = summary(unfinished)
    threshold = criteria(found)["E3"]["thresholds"][2]
    assert (threshold["replicates"], threshold["incomplete"], threshold["unmeasured_widths"]) == (39, 1, 1)
    assert found["counts"]["by_status"]["oom"] == int((unfinished["status"] == "oom").sum())
    last = criteria(found)["E3"]["success"][-1]
    assert (last["trials"], last["rate"], last["isotonic"]) == (0, None, None)
    probability = next(v for v in found["verdicts"] if v["claim"] == "probability")
    assert probability["verdict"] == "consistent"


def test_the_linear_rate_is_judged_among_converged_cells() -> None:
    table = cells(replicates=40)
    table["E4"] = table["E5"]  # every cell that kept to the rate converged
    table.loc[(table["replicate"] < 8), ["E4", "E5"]] = False
    table["status"] = np.where(table["E5"], "converged", "max_steps")
    found = {v["claim"]: v for v in summary(table)["verdicts"] if v["claim"] != "width"}
    assert (found["linear rate"]["measured"], found["linear rate"]["replicates"]) == (1.0, 32)
    assert (found["probability"]["measured"], found["probability"]["replicates"]) == (0.8, 40)


@pytest.mark.parametrize(
    "reduce",
    [
        lambda table: table[table["n"] == 4],
        lambda table: table[table["m"] == table["m"].min()],
        lambda table: table.drop(columns="replicate"),
        lambda table: table[["cell", "n", "m", "status", "E5"]],
        lambda table: table.assign(status="error"),
        lambda table: table.assign(**dict.fromkeys(EXPONENTS)),
        lambda table: table.assign(**dict.fromkeys(EXPONENTS, True)),
        lambda table: table.assign(**dict.fromkeys(EXPONENTS, False)),
        lambda table: table.assign(lambda_cts=None),
        lambda table: table.assign(lambda_cts=0.0),
        lambda table: table.drop(columns=["n", "m"]),
        lambda table: table.iloc[:0],
        lambda table: table.iloc[:1],
        lambda table: table.iloc[:0, :0],
    ],
)
def test_rows_that_say_little_give_a_summary_that_claims_nothing(reduce: Any) -> None:
    table = reduce(cells(replicates=3))
    found = summary(table, resamples=20)
    assert found["counts"]["cells"] == len(table)
    assert all(v["verdict"] == "cannot decide" for v in found["verdicts"] if v["claim"] == "width")


def test_groups_of_different_size_and_grid_are_described_side_by_side() -> None:
    small = cells(replicates=2, rho=0.1).query("n <= 8 and m > 20")
    found = summary(pd.concat([cells(replicates=5), small]), resamples=20)
    assert [len(group["spectrum"]) for group in found["groups"]] == [2, 4]


@pytest.mark.parametrize("settings", [{"delta": 0.0}, {"delta": 1.0}, {"confidence": 1.0}, {"resamples": 0}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="delta"):
        summary(cells(replicates=1), **settings)
