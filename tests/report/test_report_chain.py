"""The table of the chain, on a terminal and on the page: every number of the summary, nothing claimed that is not."""

import copy

import pytest
from report import synthetic
from report.synthetic import HOSTILE

from expreg.core.page.words import verdict_text
from expreg.kinds.network.figures import chain


@pytest.fixture(scope="module")
def summary():
    return synthetic.small()[2]


def test_every_row_is_shown_with_its_numbers(summary):
    lines = chain.text(summary)
    heading = lines.index("The chain of the proof: which step is loose, and where") + 1
    assert lines[heading].split("  ")[-1] == "verdict"
    for row in summary["chain"]:
        [line] = [
            line
            for line in lines
            if line.startswith(f"  {row['group'].replace(' = ', '=')}  ")
            and chain.exponent(row, "raw").replace(", ", ",") in line
            and chain.factor(row) in line
        ]
        assert chain.exponent(row, "corrected").replace(", ", ",") in line
        assert f"10^{row['factor_log10']:.0f}" in line
        assert f"{row['replicates']}" in line.split()
    text = " ".join(" ".join(lines).split())
    assert chain.CAUTION in text
    assert all(sentence in text for sentence in summary["chain_summary"])


def test_the_first_lines_say_from_which_width_on_networks_converge(summary):
    answers = chain.answers(summary)
    assert len(answers) == len(summary["groups"]) == 2
    for answer, group in zip(answers, summary["groups"], strict=True):
        [converges] = [c for c in group["criteria"] if c["criterion"] == "E5"]
        widths = ", ".join(f"{at['interpolated']:.0f}" for at in converges["thresholds"])
        assert f"{group['label']}: 90 % of the networks converge" in answer
        assert f"from m = {widths} at n = 8, 16, 32; the theorem allows n^2." in answer
    assert " ".join(chain.text(summary)).startswith(answers[0][:60])
    changed = copy.deepcopy(summary)
    for row in changed["chain"]:
        row["verdict"] = "does not apply"
    assert not any("the theorem allows" in answer for answer in chain.answers(changed))
    for criterion in changed["groups"][0]["criteria"]:
        criterion["thresholds"][0] |= {"interpolated": None, "beyond": "above", "widest": 4096}
    assert "from m = more than 4096, " in chain.answers(changed)[0]


def test_an_exponent_that_is_not_usable_is_a_dash_with_its_reason(summary):
    changed = copy.deepcopy(summary)
    row = changed["chain"][0]
    row |= {"usable": False, "exponent_gap": None}
    row |= {"verdict": "cannot decide", "reason": "n spans too little."}
    assert (chain.exponent(row, "raw"), chain.gap(row)) == ("–", "–")
    assert "      n spans too little." in chain.text(changed)


@pytest.mark.parametrize(("relation", "shown"), [("equal", "10^19"), ("at least", "≥10^19"), ("at most", "≤10^19")])
def test_a_factor_that_the_grid_only_limits_says_so(relation, shown):
    assert chain.factor({"factor_log10": 19.2, "factor_is": relation}) == shown
    assert chain.factor({"factor_log10": None}) == "–"


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (0.0, "0 %"), (0.004, "<1 %"), (0.126, "13 %"), (1.0, "100 %")]
)
def test_censored_shares_are_whole_percents(value, shown):
    assert chain.percent(value) == shown


def test_no_chain_leaves_the_claims_alone_and_long_regimes_are_cut(summary):
    claims = [verdict for verdict in summary["verdicts"] if verdict["claim"] == "width"]
    assert chain.text({"verdicts": claims}) == []
    assert "the width needed grows" in verdict_text(synthetic.EXPERIMENT, {"verdicts": claims})
    long = copy.deepcopy(summary)
    for row in long["chain"]:
        row |= {"group": HOSTILE[4] * 40, "verdict": HOSTILE[3], "reason": HOSTILE[1] * 20}
    lines = verdict_text(synthetic.EXPERIMENT, long).splitlines()
    assert max(map(len, lines)) <= 100
    assert all(c.isprintable() for line in lines for c in line)
