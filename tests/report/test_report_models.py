"""Tables of likelihoods and margins, and the figures of concentration, from summaries as they are made."""

import numpy as np
import pandas as pd
import pytest
from report import synthetic

from expreg.core.page import page
from expreg.core.page.drawing import figures
from expreg.core.stats.summary import summarise
from expreg.kinds import EXPERIMENTS
from expreg.kinds.network.figures import concentration, tables

CONCENTRATION = EXPERIMENTS["concentration"]


@pytest.fixture(scope="module")
def summary():
    return synthetic.small()[2]


def tables_of(group):
    return {table["title"]: table for table in tables.tables({"groups": [group]})}


def test_the_likelihoods_have_intervals_and_the_choice_by_aic(summary):
    for group in summary["groups"]:
        rows = {row[0]: row for row in tables_of(group)["Exponents by likelihood"]["rows"]}
        assert set(rows) == {criterion["criterion"] for criterion in group["criteria"]}
        for criterion in group["criteria"]:
            row, found = rows[criterion["criterion"]], criterion["models"]["censored"]
            if "theory" in found:
                law = found["theory"]["corrected"]
                assert row[1] == (law["value"], law["low"], law["high"])
                assert row[3].startswith(found["best"]["law"])
            assert row[4] == ("yes" if found["usable"] else f"no: {found['why_not']}")


def test_margins_are_shown_where_something_was_measured():
    spread = {"n": 4, "m": 8, "at": "widest", "margin": 1.5, "low": 1.1, "high": 2.0, "violated": 0, "trials": 9}
    empty = {**spread, "margin": None, "low": None, "high": None}
    group = {"criteria": [{"criterion": "E2", "margins": [spread, empty, {**empty, "violated": 3, "first_step": 7.0}]}]}
    assert tables_of(group)["Margins and first violations"]["rows"] == [
        ["E2", 4, 8, "widest", 1.5, "[1.1, 2]", 0, 9, None],
        ["E2", 4, 8, "widest", None, "", 3, 9, 7.0],
    ]


def test_the_page_shows_every_table(summary):
    text = page.html(synthetic.EXPERIMENT, [], pd.DataFrame(), summary, {}, "")
    for title in ("Thresholds", "Exponents by likelihood", "Rates", "Eigenvalues"):
        assert f"<summary>{title}</summary>" in text
    assert "first success, median" in text


# --- concentration


@pytest.fixture(scope="module")
def measured():
    """Cells and summary of a concentration run whose error is lognormal around its expectation, E1 linear in n."""
    rng, rows = np.random.default_rng(1), []
    for n in (4, 8, 16):
        for replicate in range(40):
            spread = 0.8 * np.exp(0.15 * rng.normal())
            for m in np.unique(np.geomspace(64, 16384, 33).round()):
                expected = np.sqrt(1000 * n / m)
                error = expected * spread
                row = {"n": n, "d": n, "m": int(m), "replicate": replicate}
                row |= {"status": "converged", "data": "orthonormal"}
                row |= {"lambda_cts": 7.4, "lambda_max_cts": 7.4, "E1": error <= 7.4 / 4, "cell": f"{len(rows):x}"}
                rows.append(row | {"frobenius_error": error, "frobenius_expected": expected})
    cells = pd.DataFrame(rows)
    settings = {"name": "c", "axes": ["n", "m"], "delta": 0.5, "resamples": 100}
    return cells, summarise(CONCENTRATION, cells, pd.DataFrame(), **settings)


def test_the_growth_of_the_frobenius_width_has_a_verdict_with_an_interval(measured):
    _, found = measured
    [verdict] = [v for v in found["verdicts"] if v["claim"] == "concentration"]
    assert (verdict["verdict"], verdict["claimed"]) == ("consistent", 2.0)
    assert verdict["low"] < 1.0 < verdict["high"]
    assert "not above 2" in verdict["reason"]
    assert "The expected error alone gives 1.00" in verdict["reason"]
    assert found["groups"][0]["lambda_exponent"] == pytest.approx(0.0)


def test_concentration_has_figures_of_its_own(measured):
    cells, found = measured
    drawn = {figure.name: figure for figure in figures(CONCENTRATION, cells, pd.DataFrame(), found)}
    assert not [figure.problem for figure in drawn.values() if figure.problem]
    assert {"concentration", "concentration-threshold", "thresholds"} <= set(drawn)
    [axis] = drawn["concentration"].figure.axes
    n8 = [r for r in found["groups"][0]["concentration"]["ratios"] if r["n"] == 8]
    line = next(line for line in axis.lines if len(line.get_ydata()) == len(n8) and line.get_linestyle() != "None")
    assert np.max(line.get_ydata()) < 1.3
    labels = [text.get_text() for text in drawn["concentration-threshold"].figure.legends[0].get_texts()]
    assert labels[0].startswith("orthonormal  1.")
    assert labels[1:] == ["slope 1", "slope 2"]
    assert concentration.errors(cells, pd.DataFrame(), {}) == concentration.widths(cells, pd.DataFrame(), {}) == []


def test_nothing_is_said_to_have_been_trained(measured):
    text = page.html(CONCENTRATION, [], measured[0], measured[1], {}, "")
    assert "nothing is trained" in text
    assert "reached the tolerance" not in text
