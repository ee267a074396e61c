"""Figures of `regression`: how far the loss is above its least, by step, passes and seconds; steps to an accuracy."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter

from expreg.core.page import style as plot

LOWEST = 1e-18
"""Below this share of its start a suboptimality is rounding."""
_CAPTION = (
    "Loss minus least loss, relative to its start, on logarithmic scales: median over replicates, with the band of"
    " the middle half. A run that ended keeps its last value; a line ends where fewer than half of its runs are going"
    f" on, or below {LOWEST:g}."
)


THEOREM: dict[str, Any] = {"color": plot.GREY, "linestyle": (0, (1, 1.5))}
DRAWN = {
    "suboptimality": ("Suboptimality by step", "step", "step"),
    "passes": ("Suboptimality by passes over the matrix", "passes", "passes over A"),
    "seconds": ("Suboptimality by seconds in a lane", "seconds", "seconds in a lane"),
}
"""By name of a figure: title, horizontal values and their label. Seconds of a cell are shared out over its steps."""


def draw(name: str, _cells: pd.DataFrame, _curves: pd.DataFrame, summary: Mapping[str, Any]) -> list[plot.Figure]:
    """Draw the suboptimality for each group, one line per method; `name`: over what, see `DRAWN`."""
    title, key, label = DRAWN[name]
    groups = plot.records(summary, "groups")
    panels = [group for group in groups if any(m.get("curve") for m in plot.records(group, "methods"))]
    panels = [group for group in panels if len(plot.records(group, "methods")) > 1] or panels
    labels = list(dict.fromkeys(m["label"] for group in panels for m in plot.records(group, "methods")))
    return plot.paged(name, title, _CAPTION, panels, partial(_figure, key=key, label=label, labels=labels))


def _figure(panels: list[Mapping[str, Any]], key: str, label: str, labels: list[str]) -> Canvas:
    figure, axes = plot.canvas(len(panels), 2.3, 0.25 + 0.17 * -(-len(labels) // 3))
    for axis, group in zip(axes, panels, strict=True):
        _panel(axis, group, key, labels)
        plot.entitle(axis, len(panels), str(group.get("label", "")))
    plot.outer_labels(axes, label, "suboptimality")
    shown = [Line2D([], [], label=plot.plain(text, 40), **_look(i)) for i, text in enumerate(labels)]
    figure.legend(handles=shown, loc="outside lower center", ncols=min(3, len(shown)))
    return figure


def _look(index: int) -> dict[str, Any]:
    return {**plot.look(index), "markersize": 3}


def _panel(axes: Axes, group: Mapping[str, Any], key: str, labels: list[str]) -> None:
    axes.set_yscale("log")
    if key == "step":
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    else:
        curves = [curve[key] for m in plot.records(group, "methods") if (curve := m.get("curve"))]
        positive = [value for curve in curves for value in curve if value] or [1.0]
        plot.decimal_ticks(axes, "x", 0.9 * min(positive), 1.1 * max(positive))
    for method in plot.records(group, "methods"):
        curve = pd.DataFrame(method.get("curve") or {"median": []}, dtype=float)
        curve = curve[np.isfinite(curve["median"]) & (curve["median"] >= LOWEST)]
        if len(curve):
            at, style = curve[key], _look(labels.index(method["label"]))
            axes.plot(at, curve["median"], **style, markevery=max(1, len(at) // 12))
            low, high = (curve[name].clip(LOWEST, 1e12) for name in ("low", "high"))
            axes.fill_between(at, low, high, color=style["color"], alpha=0.15, linewidth=0)


# --- steps to an accuracy ---------------------------------------------------------------------------

_STEPS = (
    "Steps until ||x - x*|| <= eps from a start at a known distance: medians and quartiles over problems and draws, by "
    "distance, with the fitted line, and the log(||x0 - x*|| / eps) steps of the theorem."
)


def iterations(_cells: pd.DataFrame, _curves: pd.DataFrame, summary: Mapping[str, Any]) -> list[plot.Figure]:
    """Draw the steps against log(||x0 - x*|| / eps) for each problem whose distance and eps were swept."""
    panels = [group for group in plot.records(summary, "groups") if group.get("fit")]
    return plot.paged("iterations", "Steps to an accuracy", _STEPS, panels, _iterations)


def _iterations(panels: list[Mapping[str, Any]]) -> Canvas:
    figure, axes = plot.canvas(len(panels), 2.3, 0.4)
    distances = sorted({point["distance"] for group in panels for point in group["points"]})
    for axis, group in zip(axes, panels, strict=True):
        points = pd.DataFrame(group["points"])
        for i, at in enumerate(distances):
            part = points[points["distance"] == at]
            spread = [part["median"] - part["low"], part["high"] - part["median"]]
            axis.errorbar(part["log"], part["median"], spread, **_look(i) | {"linestyle": "none"})
        ends = np.array([points["log"].min(), points["log"].max()])
        axis.plot(ends, group["fit"]["intercept"][0] + group["fit"]["slope"][0] * ends, color="black", linewidth=0.8)
        axis.plot(ends, ends, **THEOREM)
        plot.entitle(axis, len(panels), str(group["label"]))
    plot.outer_labels(axes, "log(||x0 - x*|| / eps)", "steps")
    shown = [Line2D([], [], label=f"from {at:g}", **_look(i) | {"linestyle": "none"}) for i, at in enumerate(distances)]
    shown += [Line2D([], [], label="log(||x0 - x*|| / eps)", **THEOREM)]
    figure.legend(handles=shown, loc="outside lower center", ncols=min(5, len(shown)))
    return figure
