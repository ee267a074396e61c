"""Answer and chain: every number of the summary, nothing claimed that is not."""

import copy
import re

import pytest
from report import synthetic
from report.synthetic import HOSTILE

from expreg.core.page import page
from expreg.core.page.words import verdict_text
from expreg.kinds.network.events import EVENTS, Event
from expreg.kinds.network.figures import answer, chain


@pytest.fixture(scope="module")
def summary():
    return synthetic.small()[2]


def html_of(summary):
    return str(chain.block(summary, page.environment(), {"thresholds"}))


def test_every_row_is_shown_with_its_numbers(summary):
    text = re.sub(r"<[^>]*>", " ", html_of(summary))
    assert text.split()[:5] == ["The", "chain", "of", "the", "proof:"]
    for row in summary["chain"]:
        for number in (chain.exponent(row, "raw"), chain.exponent(row, "corrected"), chain.bound(row), chain.gap(row)):
            assert number in text
        assert f"{row['factor_log10']:.0f}" in text
        assert row["group"] in text
    assert "every criterion has one of its own" in text


def test_the_first_lines_say_from_which_width_on_networks_converge(summary):
    answers = answer.sentences(summary)
    assert len(answers) == len(summary["groups"]) == 2
    for sentence, group in zip(answers, summary["groups"], strict=True):
        [converges] = [c for c in group["criteria"] if c["criterion"] == "E5"]
        widths = ", ".join(f"{at['interpolated']:.0f}" for at in converges["thresholds"])
        raw = converges["exponent"]["raw"]
        assert f"{group['label']}: 90 % of the networks converge" in sentence
        interval = f"[{raw['low']:.2f}, {raw['high']:.2f}]"
        words = f"n^{raw['value']:.2f} {interval}; by the theorem m of order lambda^-2 n^(2+o(1)) log(n/delta) is"
        flat = raw["low"] <= 0
        grows = f": nearly flat, {words}" if flat else f", growing like {words}"
        assert f"from m = {widths} at n = 8, 16, 32{grows}" in sentence
    assert verdict_text(synthetic.EXPERIMENT, summary).startswith(answers[0][:60])
    changed = copy.deepcopy(summary)
    for row in changed["chain"]:
        row["verdict"] = "does not apply"
    assert not any("by the theorem" in sentence for sentence in answer.sentences(changed))
    for criterion in changed["groups"][0]["criteria"]:
        criterion["thresholds"][0] |= {"interpolated": None, "beyond": "above", "widest": 4096}
    assert "from m = more than 4096, " in answer.sentences(changed)[0]
    assert "more than 4096" in answer.table(changed)["rows"][1]


@pytest.mark.parametrize(("scaled", "factor"), [(0.75, "lambda^-2 log(n/delta)"), (2.0, "log(n/delta)")])
def test_the_steepest_growth_stands_beside_what_its_verdict_measures(summary, scaled, factor):
    changed = copy.deepcopy(summary)
    *_, name = answer._conditions(changed["groups"][0])
    for criterion in changed["groups"][0]["criteria"]:
        steep = criterion["criterion"] == name["criterion"]
        criterion["exponent"] |= {"usable": True, "raw": {"value": 1.0 + steep, "low": 0.5, "high": 3.0}}
    [judged] = [
        v for v in changed["verdicts"]
        if (v["claim"], v["group"], v["criterion"]) == ("width", changed["groups"][0]["label"], name["criterion"])
    ]  # fmt: skip
    judged |= {"measured": 0.75, "low": 0.5, "high": 1.0, "scaled": {"value": scaled}}
    steepest = f"{name['criterion']} makes m grow fastest, like n^2.00 [0.50, 3.00]"
    assert answer.sentences(changed)[0].endswith(
        f"{steepest}; its verdict divides by {factor}, which leaves n^0.75 [0.50, 1.00]."
    )
    judged["verdict"] = "does not apply"
    assert answer.sentences(changed)[0].endswith(f"{steepest}.")


def test_an_exponent_whose_interval_has_linear_growth_in_it_is_not_called_flat(summary):
    changed = copy.deepcopy(summary)
    for criterion in changed["groups"][0]["criteria"]:
        criterion["exponent"]["raw"] |= {"value": 0.5, "low": -1.0, "high": 2.0}
    assert "growing like n^0.50 [-1.00, 2.00]" in answer.sentences(changed)[0]


def test_the_first_table_has_every_threshold_with_its_interval(summary):
    table = answer.table(summary)
    lines = {(row[0], k): row for k, row in enumerate(table["rows"])}
    assert len(lines) == sum(2 + 3 for _ in summary["groups"])  # a heading, three n and the exponents
    for k, group in enumerate(summary["groups"]):
        assert table["rows"][5 * k][0] == group["label"]
        for criterion in group["criteria"]:
            if criterion["criterion"] not in table["columns"]:
                continue
            column = table["columns"].index(criterion["criterion"])
            for i, at in enumerate(criterion["thresholds"]):
                row = table["rows"][5 * k + 1 + i]
                assert row[0] == f"n = {at['n']}"
                known = at["interpolated"]
                assert row[column][0] == round(known) if known else "more" in row[column] or "less" in row[column]


def test_the_first_table_has_the_events_that_a_user_registered(summary, monkeypatch):
    changed = copy.deepcopy(summary)
    for group in changed["groups"]:
        [converges] = [c for c in group["criteria"] if c["criterion"] == "E5"]
        own = {"criterion": "bounded", "title": "the residual is bounded", "claim_exponent": None}
        group["criteria"].append(converges | own)
    assert "bounded" not in answer.table(changed)["columns"]
    monkeypatch.setitem(EVENTS, "bounded", Event(name="bounded", title="", claim=None, margin=lambda facts: 1.0))
    table = answer.table(changed)
    assert table["columns"][-1] == "bounded"
    assert "bounded: the residual is bounded." in table["note"]
    assert [row[-1] for row in table["rows"]] == [row[1] for row in table["rows"]]  # those of E5
    assert answer.sentences(changed) == answer.sentences(summary)


def test_one_n_has_no_word_on_growth():
    summary = synthetic.run(n=(16,), replicates=20, resamples=5)[2]
    assert summary["chain"] == []
    assert not [verdict for verdict in summary["verdicts"] if verdict["claim"] == "width"]
    assert all("grow" not in sentence and "theorem" not in sentence for sentence in answer.sentences(summary))
    assert "exponent" not in verdict_text(synthetic.EXPERIMENT, summary)


def test_an_exponent_that_is_not_usable_is_a_dash_with_its_reason(summary):
    changed = copy.deepcopy(summary)
    row = changed["chain"][0]
    row |= {"usable": False, "exponent_gap": None}
    row |= {"verdict": "cannot decide", "reason": "n spans too little."}
    assert (chain.exponent(row, "raw"), chain.gap(row)) == ("–", "–")
    assert "n spans too little." in html_of(changed)


@pytest.mark.parametrize(("relation", "shown"), [("equal", "10^19"), ("at least", "≥10^19"), ("at most", "≤10^19")])
def test_a_factor_that_the_grid_only_limits_says_so(relation, shown):
    assert chain.factor({"factor_log10": 19.2, "factor_is": relation}) == shown
    assert chain.factor({"factor_log10": None}) == "–"


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (0.0, "0 %"), (0.004, "<1 %"), (0.126, "13 %"), (1.0, "100 %")]
)
def test_censored_shares_are_whole_percents(value, shown):
    assert chain.percent(value) == shown


def test_long_groups_are_cut_and_reasons_wrapped(summary):
    assert html_of({"verdicts": summary["verdicts"]}) == ""
    long = copy.deepcopy(summary)
    for verdict in long["verdicts"]:
        verdict |= {"group": HOSTILE[4] * 40, "verdict": HOSTILE[3], "reason": HOSTILE[1] * 20}
    lines = verdict_text(synthetic.EXPERIMENT, long).splitlines()
    assert max(map(len, lines)) <= 100
    assert all(c.isprintable() for line in lines for c in line)
