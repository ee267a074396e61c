"""Figures of `in_context`: shift against move, looseness of the bounds, steps of the query against new tokens."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from expreg.core.page import style as plot

BOUNDS = {"tight": "tight (G.6)", "rows": "rows (G.7, G.8)", "softmax": "softmax (G.9)", "radius": "R form (G.10)"}
_DASHES: dict[str, Any] = {"tight": "-", "rows": (0, (4, 2)), "radius": (0, (1, 1.5))}
MOVED = {"gd": "gradient descent on x", "newton": "Newton on x", "data": "normal dA"}
MOST_PATHS = 5


def shift(cells: pd.DataFrame, curves: pd.DataFrame, _summary: Mapping[str, Any]) -> list[plot.Figure]:
    """Draw the shift of the target over the move at one size of problem, a line per cell, with the bounds."""
    if not {"shift", "bound_tight"} <= set(curves.columns) or curves["shift"].isna().all():
        return []
    known = curves.loc[curves["shift"].notna(), "cell"].unique()
    usable = cells[(cells["status"] == "converged") & cells["cell"].isin(known)]
    n, d = (_central(usable[name]) for name in ("n", "d"))
    shown = usable[(usable["n"] == n) & (usable["d"] == d)]
    moved = [kind for kind in MOVED if kind in set(shown["moved"])]
    radii = plot.spread(shown["norm"].round(9), 4)
    figure, axes = plot.canvas(len(moved), 2.9, 0.75)
    for axis, kind in zip(axes, moved, strict=True):
        part = shown[(shown["moved"] == kind) & shown["norm"].round(9).isin(radii)]
        _shift_panel(axis, part, curves, radii)
        plot.entitle(axis, len(moved), MOVED[kind])
    plot.outer_labels(axes, "size of the move", "shift of the target")
    lines = [Line2D([], [], **_radius_look(i, radii), label=f"R = {radius:.3g}") for i, radius in enumerate(radii)]
    for name, style in _DASHES.items():
        label = f"{BOUNDS[name]} at R = {_central(radii):.3g}"
        lines.append(Line2D([], [], color=plot.GREY, linestyle=style, label=label))
    lines.append(Line2D([], [], color="black", linewidth=0.8, label="slope 1"))
    figure.legend(handles=lines, loc="outside lower center", ncols=4)
    caption = (
        f"Norm of the shift (G.3) over the norm of the move for n = {n}, d = {d}, one line per cell, on logarithmic"
        " scales. Grey: medians of the bounds."
    )
    return [plot.Figure("shift", "Shift of the target against the move", caption, figure)]


def _radius_look(index: int, radii: Sequence[float]) -> dict[str, Any]:
    return {**plot.ordered_look(index, len(radii)), "marker": None, "linestyle": "-"}


def _shift_panel(axis: Axes, cells: pd.DataFrame, curves: pd.DataFrame, radii: list[float]) -> None:
    points = curves[curves["cell"].isin(cells["cell"])].merge(cells[["cell", "norm"]], on="cell")
    points["norm"] = points["norm"].round(9)
    axis.set(xscale="log", yscale="log")
    for index, radius in enumerate(radii):
        for _, line in points[points["norm"] == radius].groupby("cell", sort=False):
            axis.plot(line["move"], line["shift"], **_radius_look(index, radii) | {"linewidth": 0.5, "alpha": 0.6})
    middle = points[points["norm"] == _central(radii)].groupby("step")
    at = middle["move"].median()
    for name, style in _DASHES.items():
        axis.plot(at, middle[f"bound_{name}"].median(), color=plot.GREY, linestyle=style, linewidth=1.2)
    low, high = points["move"].min(), points["move"].max()
    least = points["shift"].min()
    axis.plot([low, high], [least / 3, least / 3 * high / low], color="black", linewidth=0.8)
    top = max(points["shift"].max(), middle["bound_rows"].median().max()) * 1e3
    axis.set_ylim(least / 6, min(top, middle["bound_radius"].median().max() * 3))


def _central(values: Any) -> Any:
    ranked = sorted(set(values))
    return ranked[len(ranked) // 2]


def ratios(_cells: pd.DataFrame, _curves: pd.DataFrame, summary: Mapping[str, Any]) -> list[plot.Figure]:
    """Draw measured / bound over n and over R for each group: median with the band of 5 to 95 %."""
    panels = [
        (group, over)
        for over in ("n", "R")
        for group in plot.records(summary, "groups")
        if any(r["over"] == over for r in plot.records(group, "ratios"))
    ]
    caption = (
        "Norm of the shift over each of its bounds: medians, band: 5 % to 95 % of the instances. 1 is the bound"
        " itself; above it the bound would be wrong."
    )
    return plot.paged("ratios", "How loose the bounds are", caption, panels, _ratio_figure)


def _ratio_figure(panels: list[tuple[Mapping[str, Any], str]]) -> Canvas:
    figure, axes = plot.canvas(len(panels), 2.2, 0.5)
    looks = {name: {**plot.look(index), "markersize": 3.5} for index, name in enumerate(BOUNDS)}
    for axis, (group, over) in zip(axes, panels, strict=True):
        _ratio_panel(axis, [r for r in group["ratios"] if r["over"] == over], over, looks)
        plot.entitle(axis, len(panels), MOVED.get(str(group["group"]["moved"]), group["label"]))
    for axis in axes[:: 3 if len(panels) > 4 else 2]:
        axis.set_ylabel("measured / bound")
    lines = [Line2D([], [], **looks[name], label=label) for name, label in BOUNDS.items()]
    figure.legend(handles=lines, loc="outside lower center", ncols=4)
    return figure


def _ratio_panel(axis: Axes, found: Sequence[Mapping[str, Any]], over: str, looks: Mapping[str, Any]) -> None:
    axis.set_yscale("log")
    axis.axhline(1, color="black", linewidth=0.8)
    for name, style in looks.items():
        rows = sorted((r for r in found if r["bound"] == name), key=lambda r: r["value"])
        if rows:
            x, low, middle, high = ([r[key] for r in rows] for key in ("value", "low", "median", "high"))
            axis.fill_between(x, np.maximum(low, 1e-12), high, color=style["color"], alpha=0.13, linewidth=0)
            axis.plot(x, np.maximum(middle, 1e-12), **style)
    axis.set_ylim(max(axis.get_ylim()[0], 1e-9), 3)
    if over == "n":
        plot.log_ticks(axis, "x", (r["value"] for r in found), most=5)
    axis.set_xlabel("length of the context $n$" if over == "n" else "norm $R$ of $A$ and $x$")


def heads(_cells: pd.DataFrame, _curves: pd.DataFrame, summary: Mapping[str, Any]) -> list[plot.Figure]:
    """Draw by layer and head how close a step of the query comes to the move of a new token."""
    found = [
        (group, rows)
        for group in plot.records(summary, "groups")
        if (rows := [r for r in plot.records(group, "closeness") if r["over"] == "head"])
    ]
    figures = []
    for index, (group, rows) in enumerate(found[:4]):
        figure, axes = plot.canvas(2, 2.6)
        for axis, (name, title) in zip(axes, _HEATED, strict=True):
            image = _heat_panel(axis, rows, name)
            plot.entitle(axis, 2, title)
        figure.colorbar(image, ax=axes, label="cosine, median", shrink=0.9)
        caption = (
            "Cosine between the move of the attention distribution by one more token and the move that one step of"
            " the query makes: medians over queries and tokens, 1 is the same direction; empty: heads that were"
            f" not measured. {group['label']}."
        )
        name = f"heads-{index + 1}" if index else "heads"
        figures.append(plot.Figure(name, "Steps and tokens by head", caption, figure))
    return figures


_HEATED = (("cosine_gd", "one step of gradient descent"), ("cosine_newton", "one step of Newton"))


def _heat_panel(axis: Axes, rows: Sequence[Mapping[str, Any]], name: str) -> Any:
    cosines = pd.DataFrame({key: int(r[key]) for key in ("layer", "head")} | {"cosine": r[name][1]} for r in rows)
    grid = cosines.pivot(index="layer", columns="head", values="cosine")
    axis.grid(visible=False)
    image = axis.imshow(grid, vmin=min(0.0, float(np.nanmin(grid))), vmax=1, cmap="viridis", aspect="auto")
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            ink = "white" if value < 0.6 else "black"
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=ink)
    axis.set_xticks(range(grid.shape[1]), grid.columns.astype(str))
    axis.set_yticks(range(grid.shape[0]), grid.index.astype(str))
    axis.set(xlabel="head", ylabel="layer")
    return image


def paths(cells: pd.DataFrame, curves: pd.DataFrame, _summary: Mapping[str, Any]) -> list[plot.Figure]:
    """Draw the cosine between the moves of k tokens and of k steps over k, by each swept setting."""
    if "path_cosine_gd" not in curves or curves["path_cosine_gd"].isna().all():
        return []
    usable = cells[(cells["status"] == "converged") & cells["cosine_gd"].notna()]
    joined = curves.dropna(subset=["path_cosine_gd"]).merge(_named(usable), on="cell")
    settings = [name for name in ("n", "d", "R", "size", "head") if name in joined and joined[name].nunique() > 1]
    panels = [(name, method) for method in ("gd", "newton") for name in settings or ["all"]]
    joined["all"] = ""
    caption = (
        "Cosine between the shift of the target by k more tokens and that by k steps of the query: medians over"
        " cells, band: middle half. Each panel pools everything but the setting it is about."
    )
    draw = partial(_path_figure, joined=joined)
    return plot.paged("paths", "k steps against k tokens", caption, panels, draw, owner=lambda panel: panel[1])


def _path_figure(panels: list[tuple[str, str]], joined: pd.DataFrame) -> Canvas:
    figure, axes = plot.canvas(len(panels), 2.5)
    for axis, (name, method) in zip(axes, panels, strict=True):
        _path_panel(axis, joined, name, f"path_cosine_{method}")
        plot.entitle(axis, len(panels), f"{'gradient descent' if method == 'gd' else 'Newton'}, by {_OVER[name]}")
    plot.outer_labels(axes, "tokens and steps $k$", "cosine of the two shifts")
    return figure


_OVER = {
    "n": "context length n",
    "d": "dimension d",
    "R": "norm R",
    "size": "step size",
    "head": "head",
    "all": "cells",
}


def _named(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the settings of each cell by their short names."""
    found = cells.rename(columns={"problem.radius": "R", "problem.largest": "size"})
    found = found[[name for name in ("cell", "n", "d", "R", "size") if name in found]].copy()
    if "head" in cells and cells["head"].notna().any():
        found["head"] = [f"{int(layer)}/{int(head)}" for layer, head in zip(cells["layer"], cells["head"], strict=True)]
    return found


def _path_panel(axis: Axes, joined: pd.DataFrame, name: str, column: str) -> None:
    values = plot.spread(joined[name], MOST_PATHS)
    for rank, value in enumerate(values):
        along = joined[joined[name] == value].groupby("step")[column]
        low, middle, high = (along.quantile(q) for q in (0.25, 0.5, 0.75))
        style = {**plot.ordered_look(rank, len(values)), "marker": None}
        axis.fill_between(middle.index, low, high, color=style["color"], alpha=0.12, linewidth=0)
        label = plot.plain(f"{value:g}" if isinstance(value, (int, float, np.number)) else value)
        axis.plot(middle.index, middle, **style, label=label)
    axis.set_xscale("log", base=2)
    axis.set_ylim(min(0.0, axis.get_ylim()[0]), 1.03)
    if name != "all":
        axis.legend(fontsize=6.5, loc="best")
