"""Concentration of H(0): the Frobenius error over its expectation, and the width at which it is small enough."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from expreg.core.page import style as plot
from expreg.kinds.network.figures.look import criteria_of
from expreg.kinds.network.figures.phase import over_width
from expreg.kinds.network.figures.thresholds import draw_criteria, heights, level_of, log_axes, points_of, share_words

_MOST_N = 5
_LIGHT = "#9a9a9a"
_GUIDES = {1.0: (0, (6, 2)), 2.0: (0, (1, 1.5))}


def errors(_cells: pd.DataFrame, _curves: pd.DataFrame, summary: Mapping[str, Any]) -> list[plot.Figure]:
    """Draw the Frobenius error over the expected one against m, a panel per group."""
    groups = [group for group in plot.records(summary, "groups") if _ratios(group)]
    caption = (
        "Distance of H(0) from its limit in Frobenius norm over the root mean square that (B.11), (B.12) expect:"
        " median over replicates (line) and 5 % to 95 % quantiles (bars), narrow networks to wide ones. Medians lie"
        " below 1 because the error is heavy-tailed (B.14): rare replicates make up the mean square."
    )
    return plot.paged("concentration", "Frobenius error over its expectation", caption, groups, _ratio_figure)


def _ratios(group: Mapping[str, Any]) -> list[dict[str, Any]]:
    return plot.records(group.get("concentration") or {}, "ratios")


def _ratio_figure(groups: list[dict[str, Any]]) -> Canvas:
    families = [(str(group.get("label", "")), _ratios(group)) for group in groups]
    figure, axes = over_width(families, "measured / expected error", _draw_ratio, _MOST_N)
    everything = [row for _, rows in families for row in rows]
    low, high = min(row["low"] for row in everything), max(row["high"] for row in everything)
    ticks = 2.0 ** np.arange(math.floor(math.log2(max(low, 1e-6))), math.ceil(math.log2(high)) + 1)
    for axis in axes:
        axis.axhline(1.0, color=plot.GREY, linewidth=0.8, zorder=1)
        plot.log_ticks(axis, "y", ticks)
        axis.set_ylim(ticks[0] / 1.1, ticks[-1] * 1.1)
    return figure


def _draw_ratio(axis: Axes, m: np.ndarray, rows: pd.DataFrame, look: dict[str, Any]) -> None:
    bars = [rows["ratio"] - rows["low"], rows["high"] - rows["ratio"]]
    axis.errorbar(m, rows["ratio"], yerr=bars, fmt="none", ecolor=look["color"], elinewidth=0.7, capsize=1.3, alpha=0.6)
    axis.plot(m, rows["ratio"], linewidth=1.1, markersize=3.8, **look)


def widths(_cells: pd.DataFrame, _curves: pd.DataFrame, summary: Mapping[str, Any]) -> list[plot.Figure]:
    """Draw the thresholds of E1 against n, all groups together."""
    level, groups = level_of(summary), plot.records(summary, "groups")
    found = [(group, c) for group in groups for c in criteria_of(group) if c.get("criterion") == "E1"]
    drawn = [(group, c) for group, c in found if any(p.state == "fitted" for p in points_of(c, level, "interpolated"))]
    if not drawn:
        return []
    caption = (
        f"The width at which {share_words(level)} of replicates have H(0) within lambda/4 of its limit in Frobenius"
        " norm (E1), with the exponents of the fitted lines, no log factor taken out. Grey: slopes 1, which (B.13)"
        " expects on orthonormal points and on the sphere with d >= n, and 2; their heights mean nothing."
    )
    return [plot.Figure("concentration-threshold", "Width for E1 over n", caption, _threshold_figure(drawn, level))]


def _threshold_figure(drawn: list[tuple[dict[str, Any], dict[str, Any]]], level: float | None) -> Canvas:
    figure, (axis,) = plot.canvas(1, 3.2)
    named = [(plot.plain(group.get("label", ""), 40), c, plot.look(rank)) for rank, (group, c) in enumerate(drawn)]
    handles, points = draw_criteria(axis, named, level)
    limits = heights(points, 2)
    n = log_axes(axis, points, limits)
    for slope, dashes in _GUIDES.items():  # from the lower left corner
        guide: dict[str, Any] = {"color": _LIGHT, "linewidth": 1.0, "linestyle": dashes}
        axis.plot(n, limits[0] * (np.array(n) / n[0]) ** slope, **guide, zorder=1)
        handles.append(Line2D([], [], **guide, label=f"slope {slope:g}"))
    plot.outer_labels([axis], "number of data $n$", "width threshold of E1")
    figure.legend(handles=handles, loc="outside lower center", ncols=1)
    return figure
