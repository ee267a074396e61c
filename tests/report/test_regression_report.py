"""The figures of `regression` and the tables of any experiment that has its own."""

import numpy as np
import pandas as pd
import pytest

from expreg.core.page.drawing import figures
from expreg.core.page.page import html
from expreg.core.page.words import verdict_text
from expreg.kinds import EXPERIMENTS

REGRESSION = EXPERIMENTS["regression"]


def method(label, rate, steps=12):
    at = np.arange(steps + 1)
    median = rate ** at.astype(float)
    lines = {"median": median, "low": median / 2, "high": median * 2}
    lines |= {"step": at, "passes": 2 + 3 * at, "seconds": 0.1 * at}
    return {"label": label, "curve": {name: values.tolist() for name, values in lines.items()}}


def summary(groups, tables=(), verdicts=()):
    found = {"name": "x", "experiment": "regression", "counts": {"cells": 2, "by_status": {"converged": 2}}}
    return {**found, "settings": {}, "note": "", "groups": groups, "tables": list(tables), "verdicts": list(verdicts)}


def group(label, *methods):
    return {"label": label, "group": {}, "methods": list(methods)}


def drawn(found):
    made = figures(REGRESSION, pd.DataFrame({"cell": []}), pd.DataFrame({"cell": []}), found)
    assert all(figure.problem == "" for figure in made), [figure.problem for figure in made]
    return {figure.name: figure for figure in made}


def test_both_figures_have_a_line_per_method_at_its_values():
    found = drawn(summary([group("softmax", method("newton", 1e-3), method("gd", 0.5))]))
    assert {*found, "iterations"} == set(REGRESSION.figures)
    for name, key in (("suboptimality", "step"), ("passes", "passes"), ("seconds", "seconds")):
        [axes] = found[name].figure.axes
        fast, slow = axes.get_lines()
        np.testing.assert_allclose(slow.get_ydata(), 0.5 ** np.arange(13))
        np.testing.assert_array_equal(slow.get_xdata(), method("gd", 0.5)["curve"][key])
        assert len(fast.get_ydata()) == 7  # from 1 to 1e-18; what is below is rounding


def test_groups_with_one_method_give_way_to_those_with_several():
    many = [group(f"alone {i}", method("newton", 0.1)) for i in range(30)]
    found = drawn(summary([*many, group("compared", method("newton", 0.1), method("gd", 0.5))]))
    [axes] = found["passes"].figure.axes
    assert axes.get_title() == "compared"
    assert "18 more panels" in drawn(summary([*many, *many[:12]]))["passes-4"].caption


def test_gaps_and_missing_curves_are_left_out():
    broken = method("broken", 0.5)
    broken["curve"]["median"][3] = None
    found = drawn(summary([group("softmax", broken, {"label": "none", "curve": None})]))
    [axes] = found["suboptimality"].figure.axes
    assert len(axes.get_lines()[0].get_ydata()) == 12
    assert drawn(summary([group("softmax", {"label": "none", "curve": None})])) == {}


@pytest.mark.parametrize("value", ["<b>bold</b>", None, 0.125, 3])
def test_tables_are_shown_as_they_are_and_escaped(value):
    table = {"title": "Outcomes & more", "note": "n^2", "columns": ["method", "value"], "rows": [["newton", value]]}
    page = html(REGRESSION, [], pd.DataFrame(), summary([], [table]), {}, "")
    assert "<h3>Outcomes &amp; more</h3>" in page
    assert "n<sup>2</sup>" in page
    assert {"<b>bold</b>": "&lt;b&gt;bold", None: ">–<", 0.125: ">0.125<", 3: ">3<"}[value] in page
    assert "No tables" not in page


def test_verdicts_have_words():
    verdict = {"claim": "contraction", "criterion": "leverage", "group": "softmax", "claimed": 0.9, "measured": 1.0}
    limits = {"low": 0.95, "high": 1.0, "verdict": "consistent", "reason": "as promised."}
    text = verdict_text(REGRESSION, summary([], (), [{**verdict, **limits}]))
    assert "with probability at least 0.9" in text
    assert "consistent" in text


def test_steps_to_an_accuracy_are_drawn_with_their_line_and_the_theorem():
    points = [{"distance": 1.0, "log": log, "low": log - 1, "median": log, "high": log + 2} for log in (5.0, 10.0)]
    fitted = {"fit": {"intercept": [1.0, 0, 2], "slope": [0.5, 0.4, 0.6]}, "points": points}
    found = drawn(summary([{"label": "swept"} | fitted, {"label": "not swept", "fit": None, "points": points}]))
    [axes] = found["iterations"].figure.axes
    lines = [line.get_ydata() for line in axes.get_lines()]
    for expected in ([5, 10], [3.5, 6], [5, 10]):  # medians, the fitted line, that of the theorem
        assert any(np.allclose(line, expected) for line in lines)
    assert found["iterations"].figure.legends[0].get_texts()[0].get_text() == "from 1"
