"""Words of the report: number formats, the table of verdicts, warnings."""

import copy
import re

import pandas as pd
import pytest
from report import synthetic
from report.synthetic import HOSTILE

from expreg.core.page import words
from expreg.kinds.network.figures import answer
from expreg.kinds.network.figures.chain import grid
from expreg.kinds.network.figures.chain import warnings as limits


@pytest.fixture(scope="module")
def run():
    return synthetic.small()


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (float("nan"), "–"), (4096, "4096"), (2.0, "2"), (0.0175, "0.0175"), (0.00272, "0.00272"),
     (1.0639, "1.06"), (2420.3, "2420"), (1.2e-7, "1.2e-07"), (-0.25, "-0.250"), (True, "–"), ("x", "–")],
)  # fmt: skip
def test_numbers_are_short_and_never_nan(value, shown):
    assert words.number(value) == shown


def test_intervals_show_open_sides_and_vanish_without_any():
    assert words.interval(1, None) == "[1, –]"
    assert words.interval(None, float("inf")) == ""


def test_the_table_of_verdicts_fits_a_terminal_and_tells_every_verdict(run):
    _, _, summary = run
    table = words.verdict_text(synthetic.EXPERIMENT, summary)
    lines = table.splitlines()
    assert max(map(len, lines)) <= 100
    for verdict in summary["verdicts"]:
        [row] = [
            line
            for line in lines
            if verdict["criterion"] in line.split()
            and verdict["group"] in line
            and words.interval(verdict["low"], verdict["high"]) in line
            and words.number(verdict["measured"]) in line.split()
            and line.endswith(verdict["verdict"])
        ][:1]
        assert row.endswith(verdict["verdict"])
        if verdict["verdict"] != "consistent":
            assert verdict["reason"].split()[-1] in table


def test_long_and_hostile_reasons_are_wrapped_and_inert():
    verdict = {"claim": HOSTILE[3], "group": HOSTILE[4] * 30, "criterion": HOSTILE[0], "measured": None, "low": None,
               "high": None, "verdict": "contradicts", "reason": "because " * 60 + "x" * 200}  # fmt: skip
    table = words.verdict_text(synthetic.EXPERIMENT, {"verdicts": [verdict]})
    assert max(map(len, table.splitlines())) <= 100
    assert all(c.isprintable() or c == "\n" for c in table)
    assert table.count("because") == 60


def test_no_verdicts_are_said_to_be_none():
    assert words.verdict_text(synthetic.EXPERIMENT, {}).startswith("No verdicts")


def test_the_tally_counts_every_verdict(run):
    _, _, summary = run
    found = words.tally(summary["verdicts"])
    total, *parts = map(int, re.findall(r"(\d+) ", found))
    assert total == len(summary["verdicts"]) == (sum(parts) or total)
    mixed = [{"verdict": verdict} for verdict in ("consistent", "consistent", "contradicts", "cannot decide")]
    assert words.tally(mixed) == "Of 4 verdicts 2 are consistent, 1 contradicts its claim, 1 cannot decide."
    assert words.tally(mixed[:2]) == "All 2 verdicts are consistent."
    assert words.tally(mixed[:1]) == "The only verdict is consistent."
    assert words.tally(mixed[3:] * 3) == "None of the 3 verdicts can be decided."
    assert words.tally([]).startswith("No verdicts")
    assert words.tally([{"verdict": "does not apply"}]) == ""  # another sentence says so


def test_verdicts_that_do_not_apply_are_one_sentence_and_many_groups_are_cut_short():
    base = {"claim": "x", "criterion": "E5", "measured": 1.0, "low": 0.9, "high": 1.0, "reason": "r."}
    left = [base | {"verdict": "does not apply", "group": str(k), "outside": [f"optimizer {k % 6}"]} for k in range(12)]
    assert words.outside(left) == (
        "12 verdicts do not apply, outside the theorem's assumptions: optimizer 0; optimizer 1; optimizer 2;"
        " optimizer 3; 2 more."
    )
    many = [base | {"verdict": "consistent", "group": f"g{k}"} for k in range(20)]
    many[17] |= {"verdict": "contradicts", "reason": "it fell."}
    text = words.verdict_text(synthetic.EXPERIMENT, {"verdicts": [*many, *left]})
    assert text.splitlines()[2].split() == ["E5", "g17", "1", "[0.900,", "1]", "contradicts"]
    assert "it fell." in text
    assert "and 14 more; the report has them all" in text
    assert "12 verdicts do not apply" in text


def test_what_was_asked_names_grid_and_replicates(run):
    cells, _, summary = run
    asked = words.asked(summary, grid(summary))
    assert asked.startswith(f"{len(cells)} cells of the experiment threshold on ")
    assert "n = 8 to 32 and m = 8 to 4096, 40 replicates each." in asked
    assert words.asked({"experiment": "x"}) == "0 cells of the experiment x."
    counts = {"cells": 3, "planned": 5, "by_status": {"converged": 2, "oom": 1}, "search": False, "damaged": 1}
    assert words.asked({"experiment": "x", "counts": counts}) == (
        "3 of 5 planned cells of the experiment x; 1 failed, 1 damaged part."
    )


def test_failures_censoring_and_mixed_set_ups_are_warned_of(run):
    cells, _, summary = run
    mixed = cells.assign(
        jax_version=["0.10.2", "0.12.0"] * (len(cells) // 2),
        precision=["f32", "f64"] * (len(cells) // 2),
        device=["cpu", "NVIDIA H100"] * (len(cells) // 2),
    )
    swept = {**summary["groups"][0], "group": {"data": "sphere", "precision": "f32"}}
    counts = {"by_status": {"converged": 5, "oom": 2, "error": 1}}
    found = "\n".join(words.warnings(mixed, {"groups": [swept], "counts": counts}))
    assert "3 cells failed (oom 2, error 1)" in found
    assert "jax_version: 0.10.2, 0.12.0" in found
    assert "device: NVIDIA H100, cpu" in found
    assert "precision" not in found, "precision is swept"
    assert words.warnings(pd.DataFrame(), {}) == []
    counts |= {"cells": 3, "planned": 5, "search": True, "damaged": 2}
    first = words.warnings(pd.DataFrame(), {"counts": counts})[0]
    assert first.startswith("3 of at most 5 planned cells, 3 failed, 2 damaged parts: what was in damaged parts")
    flags = {"xla_flags": "--a", "compiled_steps": "auto", "earlier": [{"xla_flags": "", "compiled_steps": "auto"}, {}]}
    assert words.warnings(pd.DataFrame(), {}, manifest=flags) == [
        "The rows come from different set-ups, xla_flags: none, --a."
    ]


def spectrum(label, values, largest=10.0, exponent=None):
    rows = [{"n": n, "lambda_cts": value, "lambda_max_cts": largest} for n, value in values.items()]
    success = [{"n": 4, "m": m} for m in (8, 16)]
    criteria = [{"criterion": "E5", "success": success}]
    return {"label": label, "spectrum": rows, "lambda_exponent": exponent, "criteria": criteria}


def test_a_lambda_that_collapses_or_vanishes_is_warned_of():
    groups = [
        spectrum("steady", {4: 4.0, 8: 3.8, 16: 3.5}, exponent=-0.1),
        spectrum("fixed d", {4: 4.0, 8: 1.7, 16: 0.7}, exponent=-1.25),
        spectrum("pairs", {4: 4.0, 8: 1e-15}),
        spectrum("unknown", {4: None}),
    ]
    collapses, vanishes, unknown = limits({"groups": groups})
    assert collapses.startswith("fixed d: lambda changes from 4 at n = 4 to 0.700 at n = 16, like n^-1.25; exponents")
    assert collapses.endswith("of n in m include that, verdicts are about m lambda^2 where it matters.")
    assert unknown.startswith("unknown: lambda is not known")
    assert vanishes.startswith("pairs: lambda is 0 up to rounding at n = 8: the data hold equal points")
    groups[0]["criteria"][0]["title"] = groups[1]["criteria"][0]["title"] = "converges within flow time 2"
    [budget] = [line for line in limits({"groups": groups}) if "flow time" in line]
    assert budget.startswith("fixed d: A budget in flow time is a number of steps proportional to 1/lambda (C.17)")
    assert "0.700 to 4 here" in budget


def test_thresholds_that_the_grid_does_not_show_are_warned_of(run):
    _, _, summary = run
    rows = [row for group in summary["groups"] for c in group["criteria"] for row in c["thresholds"]]
    censored = sum(row["quantile"] is None for row in rows)
    assert censored > 0
    assert f"{censored} of {len(rows)} thresholds lie beyond" in "\n".join(limits(summary))
    changed = copy.deepcopy(summary)
    for criterion in (c for group in changed["groups"] for c in group["criteria"]):
        for row in criterion["thresholds"]:
            row["bracketed"] = (criterion["criterion"], row["n"]) not in (("E5", 8), ("E3", 16))
    assert any(line.endswith("thresholds: E5 at n = 8, E3 at n = 16.") for line in limits(changed))


def _answer(**rows):
    """Return the first sentence on a criterion with these values in all of its thresholds."""
    known = {"n": 4, "replicates": 40, "replicates_needed": 36, "narrowest": 2, "widest": 64, "interpolated": None}
    thresholds = [known | {"n": n} | rows for n in (4, 8)]
    criterion = {"criterion": "E5", "title": "convergence", "thresholds": thresholds, "success": [{"m": 2}, {"m": 64}]}
    group = {"label": "sphere", "criteria": [criterion | {"exponent": {"usable": False, "why_not": "two of three"}}]}
    return answer.sentences({"settings": {"delta": 0.1, "confidence": 0.95}, "groups": [group]})[0]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            {"interpolated": 16.0},
            "sphere: 90 % of the networks converge from m = 16, 16 at n = 4, 8; how they grow cannot be read off:"
            " two of three.",
        ),
        (
            {"interpolated": 16.0, "replicates": 5},
            "sphere: with 5 replicates (90 % needs 36), networks converge from m = 16, 16 at n = 4, 8.",
        ),
        (
            {"beyond": "above"},
            "sphere: even at m = 64, the widest, fewer than 90 % of the networks converge at n = 4, 8.",
        ),
        ({"beyond": "below"}, "sphere: 90 % of the networks converge already at m = 2, the narrowest, at n = 4, 8."),
    ],
)
def test_the_answer_says_what_the_grid_and_the_replicates_allow(rows, sentence):
    assert _answer(**rows) == sentence
