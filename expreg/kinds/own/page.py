"""The page of your own training function: its best settings, the outcome over what was swept, and curves."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure as Canvas

from expreg.core.page import grid, words
from expreg.core.page import settings as tables
from expreg.core.page import style as plot
from expreg.core.stats.describe import shown
from expreg.core.stats.settings import short
from expreg.kinds.own import Description
from expreg.types import TRIAL

MAX_LINES = 6
"""Settings whose curves are drawn, the best ones."""
MOST_LOST = 0.5  # share of the runs that a line needs: those that are left say nothing about the others
LONG = 36  # characters of a label of which two have no room side by side


def page(summary: Mapping[str, Any]) -> words.Parts:
    """Return what comes first: the best settings."""
    names = [axis for axis in tables.best(summary)["axes"] if axis != TRIAL]
    over = f" over {', '.join(names)}" if names else ""
    return words.Parts(plot.records(summary, "tables"), (), tables.sentences(summary), tables.table(summary), grid=over)


def settings(
    description: Description, cells: pd.DataFrame, _curves: pd.DataFrame, summary: Mapping[str, Any]
) -> list[plot.Figure]:
    """Draw the outcome over what was swept."""
    names = tables.best(summary).get("swept", ())
    return grid.figure(cells, names, names, description.final)


def curves(
    description: Description, cells: pd.DataFrame, curves: pd.DataFrame, summary: Mapping[str, Any]
) -> list[plot.Figure]:
    """Draw every metric over the steps for the best settings: median over the runs that reach a step, and band."""
    if curves.empty or description.final not in curves:
        return []
    found = tables.best(summary)
    called = short(found["axes"])
    lines = {}
    for values in found["rows"][:MAX_LINES] or [{}]:
        same = (cells[list(called)] == pd.Series({axis: values[axis] for axis in called})).all(axis=1)
        named = [TRIAL] if found.get("trials") else list(called)
        label = ", ".join(f"{called[axis]} = {shown(values[axis])}" for axis in named)
        lines[label] = curves[curves["cell"].isin(cells.loc[same, "cell"])].groupby("step")

    def draw(panels: list[str]) -> Canvas:
        columns = 1 if max(map(len, lines)) > LONG else 2
        figure, axes = plot.canvas(len(panels), 2.6, legend=0.4 / columns * len(lines))
        for axis, metric in zip(axes, panels, strict=True):
            for rank, (label, steps) in enumerate(lines.items()):
                alive = steps[metric].count() >= MOST_LOST * steps[metric].count().max()
                low, middle, high = (steps[metric].quantile(at).astype(float).where(alive) for at in (0.1, 0.5, 0.9))
                look = {**plot.look(rank), "marker": None}
                axis.fill_between(middle.index, low, high, color=look["color"], alpha=0.15, linewidth=0)
                axis.plot(middle.index, middle, **look, label=plot.plain(label))
            known = curves.groupby("step")[metric].median().dropna()
            falls = known.iloc[0] > known.iloc[-1]  # a loss, not an accuracy
            axis.set_yscale("log" if falls and known.min() > 0 and known.max() > 10 * known.min() else "linear")
            axis.set_xscale("log" if description.curve["spacing"] == "logarithmic" else "linear")
            axis.set(xlabel="step", ylabel=plot.plain(metric))
        if called:
            figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=columns)
        return figure

    which = f"the best {len(lines)} of {found['count']} settings" if found["count"] > len(lines) else "every setting"
    caption = (
        f"Metrics along the run for {which}: median over the runs that reach a step, while at least half do, and band"
        " of the middle 80 %."
    )
    metrics = [description.final, *(name for name in description.metrics if name != description.final)]
    return plot.paged("curves", "Metrics over steps", caption, metrics, draw)
