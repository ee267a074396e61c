"""The chain of the proof: order, factor over the bound, and what differs between regimes."""

import math
from typing import Any

import pytest

from expreg import theory
from expreg.kinds.network.summary import chain

NS = (8, 16, 32)


def criterion(name: str = "E3", alpha: float = 0.5, constant: float = 40.0, spread: float = 0.1) -> dict[str, Any]:
    """Return the record of a criterion whose threshold is constant n^alpha log(n / delta)."""
    width = {n: constant * n**alpha * math.log(n / 0.1) for n in NS}
    slope = {"value": alpha, "low": alpha - spread, "high": alpha + spread}
    return {
        "criterion": name,
        "title": name,
        "claim_exponent": 2.0,
        "exponent": {"usable": True, "raw": slope, "corrected": slope},
        "bound_exponent": [
            {"n": n, "alpha_eff": theory.local_exponent(n, 0.1, 4.0), "width": theory.width(n, 0.1, 4.0)} for n in NS
        ],
        "thresholds": [
            {
                "n": n,
                "beyond": None,
                "interpolated": width[n],
                "interpolated_low": width[n] * 0.9,
                "interpolated_high": width[n] * 1.1,
                "narrowest": 2,
                "widest": 10**6,
            }
            for n in NS
        ],
    }


def rows(*groups: tuple[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    numbers = {"replicates": 40, "censored_share": 0.0, "verdict": "consistent", "reason": "because"}
    verdicts = [
        {"claim": "width", "criterion": c["criterion"], "group": label} | numbers
        for label, found in groups
        for c in found
    ]
    return chain.table([{"label": label, "criteria": found} for label, found in groups], verdicts)


def test_rows_follow_the_proof_and_only_links_that_were_measured_are_there() -> None:
    names = ("E5", "movement_refined", "E3", "E1", "movement", "Ecert")
    found = rows(("a", [criterion(name) for name in names]), ("b", [criterion("E5")]))
    assert [(row["criterion"], row["group"]) for row in found] == [
        ("E1", "a"), ("Ecert", "a"), ("movement", "a"), ("E3", "a"), ("E5", "a"), ("E5", "b"),
    ]  # fmt: skip
    assert rows() == chain.sentences([]) == []


def test_the_factor_is_that_of_the_largest_n_inside_the_grid() -> None:
    one = criterion()
    [row] = rows(("a", [one]))
    asked, measured = theory.log_width(32, 0.1, 4.0) / math.log(10), math.log10(one["thresholds"][-1]["interpolated"])
    assert (row["at_n"], row["factor_is"], row["exponent_gap"]) == (32, "equal", 1.5)
    assert row["factor_log10"] == pytest.approx(asked - measured)
    one["thresholds"][-1] |= {"beyond": "above", "interpolated": math.nan}
    assert rows(("a", [one]))[0]["at_n"] == 16


@pytest.mark.parametrize(("side", "width", "relation"), [("above", 10**6, "at most"), ("below", 2, "at least")])
def test_beyond_the_grid_the_factor_is_limited_on_one_side(side: str, width: int, relation: str) -> None:
    one = criterion()
    for threshold in one["thresholds"]:
        threshold |= {"beyond": side, "interpolated": math.nan}
    one["exponent"]["usable"] = False
    [row] = rows(("a", [one]))
    assert (row["at_n"], row["width"], row["factor_is"], row["exponent_gap"]) == (32, width, relation, None)
    assert chain.sentences([row]) == []


def test_an_unknown_lambda_leaves_the_factor_open() -> None:
    one = criterion()
    one["bound_exponent"] = [{"n": n, "alpha_eff": None, "width": None} for n in NS]
    [row] = rows(("a", [one]))
    assert row["factor_log10"] is row["bound_low"] is None


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({}, "no difference shown"),
        ({"alpha": 0.69}, "widths differ"),  # the intervals of the exponents still touch
        ({"alpha": 0.71}, "exponents and widths differ"),
        ({"constant": 60.0}, "widths differ"),
        ({"alpha": 0.71, "constant": 40.0 * 32**-0.21}, "exponents differ"),
    ],
)
def test_regimes_differ_if_intervals_are_disjoint(other: dict[str, float], said: str) -> None:
    found = rows(("a", [criterion()]), ("b", [criterion(**other)]))
    assert [row["regimes"] for row in found] == [said, said]
    assert rows(("a", [criterion()]))[0]["regimes"] is None


def test_the_sentences_name_the_extremes() -> None:
    found = rows(("a", [criterion("E5", 0.1), criterion("movement", 1.4, 300.0)]))
    by_exponent, by_width = chain.sentences(found)
    assert "from 0.10 (E5, a) to 1.40 (movement, a), where 2 is claimed" in by_exponent
    factors = {row["criterion"]: row["factor_log10"] for row in found}
    assert f"10^{factors['E5']:.0f} times the measured width at the loosest (E5, a, n = 32)" in by_width
    assert f"10^{factors['movement']:.0f} times at the tightest (movement, a, n = 32)" in by_width


def test_the_linearised_movement_is_compared_where_both_thresholds_are_inside() -> None:
    one, other = criterion("movement", 1.4), criterion("movement_linearised", 1.4)
    for threshold, factor in zip(other["thresholds"], (1.01, 0.95, 3.0), strict=True):
        threshold["interpolated"] *= factor
    other["thresholds"][-1]["beyond"] = "above"
    groups = [{"label": "a", "criteria": [one, other]}, {"label": "b", "criteria": [one]}]
    [said] = chain.sentences([], groups)
    assert "within 5.3 % (2 thresholds" in said
    assert chain.sentences([], groups[1:]) == []
