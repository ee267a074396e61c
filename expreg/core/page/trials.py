"""The figures of a search that samples: its results in order, and over each setting of its space."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from expreg.core.page import style as plot
from expreg.core.stats.settings import outcomes, short
from expreg.types import TRIAL

MOST_WORDS = 12
"""Values of a setting that is no number which have a place of their own on an axis."""


def figures(cells: pd.DataFrame, _curves: pd.DataFrame, summary: Mapping[str, Any]) -> list[plot.Figure]:
    """Draw the results of trials in their order and over each setting; `cells` are those of whole lengths."""
    best = summary["best"]
    if not best["rows"]:
        return []
    settings = [axis for axis in best["axes"] if axis != TRIAL]
    results = outcomes(cells, best["axes"], best["final"], largest=best["largest"]).set_index(TRIAL).sort_index()
    shown = results[results["final"].notna()]
    final = best["final"]
    more = f" {len(results) - len(shown)} trials have no number." if len(shown) < len(results) else ""
    order = f"Median of {final} over the cells of each trial, in order, and the best so far.{more}"
    over = "The same over each setting: the later a trial, the lighter its point."
    names = [axis for axis in settings if _numeric(results[axis]) or results[axis].nunique() <= MOST_WORDS]

    def draw(panels: list[str]) -> Canvas:
        figure, axes = plot.canvas(len(panels), 2.4)
        for axis, name in zip(axes, panels, strict=True):
            _slice(axis, shown, name, short(settings)[name])
            place = axis.get_subplotspec()
            axis.set_ylabel(plot.plain(final) if place is not None and place.is_first_col() else "")
        return figure

    drawn = _history(shown["final"], final, largest=best["largest"])
    first = plot.Figure("trials", "Results in the order of the trials", order, drawn)
    return [first, *plot.paged("space", "Results over each setting", over, names, draw)]


def _history(shown: pd.Series, final: str, *, largest: bool) -> Canvas:
    figure, [axis] = plot.canvas(1, 2.6)
    dots, line = plot.look(0)["color"], plot.look(1)["color"]
    axis.scatter(shown.index, shown, s=9, color=dots, alpha=0.6, linewidths=0, label="trial")
    axis.step(shown.index, shown.cummax() if largest else shown.cummin(), where="post", color=line, label="best so far")
    _scaled(axis, shown)
    axis.set(xlabel="trial", ylabel=plot.plain(final))
    axis.legend(loc="lower right" if largest else "upper right")
    return figure


def _slice(axis: Axes, shown: pd.DataFrame, name: str, called: str) -> None:
    values = shown[name]
    if _numeric(values):
        places = values.astype(float)
        if places.min() > 0 and places.max() >= 5 * places.min():
            axis.set_xscale("log")
    else:
        words = sorted(map(str, values.unique()))
        places = values.astype(str).map({word: place for place, word in enumerate(words)})
        axis.set_xticks(range(len(words)), [plot.plain(word) for word in words])
    axis.scatter(places, shown["final"], s=9, c=shown.index, cmap="viridis", linewidths=0)
    _scaled(axis, shown["final"])
    axis.set_xlabel(plot.plain(called))


def _numeric(values: Sequence[Any] | pd.Series) -> bool:
    known = pd.Series(values).dropna()
    return bool(pd.api.types.is_numeric_dtype(known)) and known.dtype != bool


def _scaled(axis: Axes, values: pd.Series) -> None:
    if values.min() > 0 and values.max() > 10 * values.min():
        axis.set_yscale("log")
