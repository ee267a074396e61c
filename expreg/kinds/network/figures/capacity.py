"""Capacity: the smallest width of a fit over n, beside the widths at which parameters and points are equally many."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from expreg.core.page import style as plot
from expreg.core.page.words import Parts
from expreg.kinds.network.figures import answer
from expreg.kinds.network.figures.chain import grid, warnings
from expreg.kinds.network.figures.look import criteria_of, limits
from expreg.kinds.network.figures.tables import exponents, thresholds
from expreg.kinds.network.figures.thresholds import draw_criteria, heights, level_of, log_axes, share_words

COUNTS = {
    "m = n / (d + 2)": (lambda n, d: n / (d + 2), (0, (1, 1.5))),
    "m = n / d": (lambda n, d: n / d, "solid"),
    "m = 2 n / d": (lambda n, d: 2 * n / d, (0, (6, 2))),
}
"""Below the first no network reaches all labels; m d weights are trained; from the third on a fit exists."""


def page(summary: Mapping[str, Any]) -> Parts:
    """Return tables, verdicts and warnings of a run; of the proof's quantities it shows none."""
    groups = plot.records(summary, "groups")
    found = [
        table | {"group": group.get("label") or "group"}
        for group in groups
        for table in (_counts(group), exponents(group), thresholds(group))
        if table["rows"]
    ]
    spectra = {str(group.get("label", "")) for group in groups}
    return Parts(
        tables=found,
        verdicts=plot.records(summary, "verdicts"),
        answer=answer.sentences(summary),
        first=answer.table(summary),
        grid=grid(summary),
        warnings=[line for line in warnings(summary) if line.partition(": lambda")[0] not in spectra],
    )


def _counts(group: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "title": "",
        "note": "m*: the width at which the required share of fits succeeds, off the success curve, with its interval;"
        " the same in trained weights and in parameters per point. Last: the fits among networks with fewer than n"
        " parameters, m (d + 2) < n.",
        "columns": ["n", "d", "m*", "m* d / n", "m* (d + 2) / n", "fits below n parameters"],
        "rows": [
            [
                *(row["n"], row["d"], *(limits(row, unit, f"{unit}_") for unit in ("m", "trained", "parameters"))),
                f"{row['below_fits']} of {row['below_trials']}" if row["below_trials"] else "none tried",
            ]
            for row in plot.records(group, "capacity")
        ],
    }


def widths(_cells: pd.DataFrame, _curves: pd.DataFrame, summary: Mapping[str, Any]) -> list[plot.Figure]:
    """Draw m* over n, a panel per group, with the counts of parameters as lines."""
    level = level_of(summary)
    groups = [group for group in plot.records(summary, "groups") if plot.records(group, "capacity")]
    caption = (
        f"The width at which {share_words(level)} of the fits succeed, read off the monotone success curve, with"
        " intervals; black: the fitted power law, its exponent in the legend. Grey: widths by the count of parameters."
        " Below m = n / (d + 2) no network reaches all labels; at m = n / d trained weights and points are equally"
        " many; from m = 2 n / d on a fit exists. Arrows: the grid shows only that the width lies there or beyond."
    )
    return plot.paged("capacity", "Smallest width of a fit", caption, groups, partial(_figure, level=level))


def _figure(groups: list[dict[str, Any]], level: float | None) -> Canvas:
    figure, axes = plot.canvas(len(groups), 2.9)
    for axis, group in zip(axes, groups, strict=True):
        lines = _panel(axis, group, level)
        plot.entitle(axis, len(groups), str(group.get("label", "")))
    plot.outer_labels(axes, "number of data $n$", r"smallest width of a fit $m^*$")
    figure.legend(handles=lines, loc="outside lower center", ncols=len(COUNTS))
    return figure


def _panel(axis: Axes, group: Mapping[str, Any], level: float | None) -> list[Line2D]:
    """Draw the widths of one group, and return the lines of the counts."""
    rows = plot.records(group, "capacity")
    [criterion] = [found for found in criteria_of(group) if found.get("criterion") == "fit"]
    look = plot.look(0) | {"color": "black"}
    handles, points = draw_criteria(axis, [("fit", criterion, look)], level)
    n, d = (np.array([row[name] for row in rows], dtype=float) for name in ("n", "d"))
    lines = [
        axis.plot(n, width(n, d), color="#9a9a9a", linewidth=1.0, linestyle=dashes, zorder=1, label=name)[0]
        for name, (width, dashes) in COUNTS.items()
    ]
    low, high = heights(points, 1.3)
    log_axes(axis, points, (min(low, float((n / (d + 2)).min()) / 1.2), max(high, float((2 * n / d).max()) * 1.2)))
    plot.legend_below(axis, title="exponent of $n$ [interval]", handles=handles)
    return lines
