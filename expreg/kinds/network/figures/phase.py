"""Success over the grid: the phase diagram over (n, m) with its threshold, and success curves over m."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, withStroke

from expreg.core.page import style as plot
from expreg.kinds.network.figures import searched
from expreg.kinds.network.figures.look import criteria_of
from expreg.kinds.network.figures.thresholds import draw_points, level_of, points_of, share_words

Panel = tuple[str, dict[str, Any]]
Draw = Callable[[Axes, np.ndarray, pd.DataFrame, dict[str, Any]], None]
_LEVELS = np.linspace(0, 1, 11)
_HALO = [withStroke(linewidth=3.2, foreground="white"), Normal()]
_POINTS = {"color": "black", "marker": "o", "markersize": 3.6, "arrow": 8, "path_effects": _HALO}


def phase(_cells: pd.DataFrame, _curves: pd.DataFrame, summary: Mapping[str, Any]) -> list[plot.Figure]:
    """Draw the success share over (n, m) for each group and criterion, with m*(n, delta) on top."""
    groups = _panels(summary, "n", "m")
    panels = [panel for group in groups for panel in group[: plot.MAX_PANELS]]
    level = level_of(summary)
    caption = (
        "Share of replicates in which the criterion holds, for each number of data n and width m."
        f" Line: m*(n, δ), the width from which on {share_words(level)} of replicates succeed (an order"
        " statistic, with its distribution-free interval); open markers: the grid does not bracket it;"
        " arrows: it, or its interval, reaches beyond the grid or beyond what this many replicates can tell."
        + searched.caption(summary)
    )
    draw, hidden = partial(_phase_figure, level=level), sum(map(len, groups)) - len(panels)
    options: dict[str, Any] = {"owner": lambda panel: panel[0], "beside": _titles, "hidden": hidden}
    return plot.paged("phase", "Phase diagram of success", caption, panels, draw, **options)


def _panels(summary: Mapping[str, Any], *over: str) -> list[list[Panel]]:
    """Return (label, criterion) of each criterion whose success is known over several n or m, most telling first."""

    def varied(rows: list[dict[str, Any]]) -> bool:
        return bool(rows) and all(len({row[name] for row in rows}) > 1 for name in over)

    groups = (
        [(str(group.get("label", "")), c) for c in criteria_of(group) if varied(plot.records(c, "success"))]
        for group in plot.records(summary, "groups")
    )
    return [group for group in groups if group]


def _titles(panels: list[Panel]) -> str:
    titles = {str(c.get("criterion")): str(c.get("title", "")) for _, c in panels}
    return " " + "; ".join(f"{name}: {title}" for name, title in titles.items() if title) + "."


def _phase_figure(panels: list[Panel], level: float | None) -> Canvas:
    figure, axes = plot.canvas(len(panels), 2.25 if len(panels) > 1 else 3.4)
    colours = mpl.colormaps["viridis"].resampled(len(_LEVELS) - 1)
    mesh, gaps = None, False
    for axis, (label, criterion) in zip(axes, panels, strict=True):
        n, m, rates = success_matrix(criterion["success"])
        gaps |= bool(np.isnan(rates).any())
        axis.grid(visible=False)
        axis.set_facecolor("#e4e4e4")
        look: dict[str, Any] = {"cmap": colours, "norm": BoundaryNorm(_LEVELS, colours.N), "edgecolors": "white"}
        mesh = axis.pcolormesh(edges(n), edges(m), rates, **look, linewidth=0.3)
        plot.log_ticks(axis, "x", n, most=6)
        plot.log_ticks(axis, "y", m)
        points = points_of(criterion, level, "quantile")
        if seen := [(point.n, point.m) for point in points if point.state in ("fitted", "open")]:
            axis.plot(*zip(*seen, strict=True), color="black", linewidth=1.3, zorder=3, path_effects=_HALO)
        draw_points(axis, points, _POINTS)
        axis.set(xlim=edges(n)[[0, -1]], ylim=edges(m)[[0, -1]])
        # The pad leaves room for arrows that point beyond the grid.
        plot.entitle(axis, len(panels), f"{criterion.get('criterion', '')} · {label}", pad=9)
    plot.outer_labels(axes, "number of data $n$", "width $m$")
    if mesh is not None:
        bar = figure.colorbar(mesh, ax=axes, location="bottom", shrink=0.62, aspect=38, ticks=_LEVELS[::2])
        bar.set_label("share of replicates in which the criterion holds")
        bar.ax.set_xticklabels([f"{level:.0%}".replace("%", " %") for level in _LEVELS[::2]])
    if gaps:
        figure.legend(handles=[Patch(color="#e4e4e4", label="not run")], loc="outside lower right")
    return figure


def success_matrix(rows: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return n (k,), m (l,) and the success share (l, k), nan where the pair was not run."""
    frame = pd.DataFrame(rows).dropna(subset=["n", "m"])
    table = frame.pivot_table(index="m", columns="n", values="rate", aggfunc="mean", dropna=False).astype(float)
    return table.columns.to_numpy(dtype=float), table.index.to_numpy(dtype=float), table.to_numpy()


def edges(centres: np.ndarray) -> np.ndarray:
    """Return cell edges at geometric midpoints, the outer ones mirrored; a single cell spans a factor 2."""
    if len(centres) == 1:
        return centres[0] * np.array([2**-0.5, 2**0.5])
    inner = np.sqrt(centres[:-1] * centres[1:])
    return np.concatenate([[centres[0] ** 2 / inner[0]], inner, [centres[-1] ** 2 / inner[-1]]])


def success(_cells: pd.DataFrame, _curves: pd.DataFrame, summary: Mapping[str, Any]) -> list[plot.Figure]:
    """Draw the success share of the leading criterion over m with exact intervals, for each n."""
    panels = [of[0] for of in _panels(summary, "m")]
    level = level_of(summary)
    confidence = plot.finite((summary.get("settings") or {}).get("confidence"))
    with_confidence = "" if confidence is None else f" at {confidence:.0%} confidence"
    caption = (
        f"Markers: share of replicates that succeed, with exact binomial intervals{with_confidence}; markers"
        " of different n are set slightly apart. Lines: the same made monotone in m. Horizontal line: the"
        f" required share, {share_words(level)}.{searched.caption(summary)}"
    )
    draw = partial(_success_figure, level=level)
    return plot.paged("success", "Success over width", caption, panels, draw, beside=_titles)


def _success_figure(panels: list[Panel], level: float | None) -> Canvas:
    families = [(f"{criterion.get('criterion', '')} · {label}", criterion["success"]) for label, criterion in panels]
    figure, axes = over_width(families, "share of replicates", _draw_success)
    for axis in axes:
        axis.set_ylim(-0.03, 1.05)
        axis.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        if level is not None:
            axis.axhline(level, color=plot.GREY, linewidth=0.8, zorder=1)
            place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "top"}
            axis.annotate(rf"$1-\delta$ = {level:.4g}", (0.01, level), (0, -2), **place, fontsize=7, color=plot.GREY)
    return figure


def _draw_success(axis: Axes, m: np.ndarray, rows: pd.DataFrame, look: dict[str, Any]) -> None:
    known = rows["rate"].notna().to_numpy()
    m, rows = m[known], rows[known]
    rate = rows["rate"]
    isotonic, low, high = (rows[name].fillna(rate) for name in ("isotonic", "low", "high"))
    bars = [np.maximum(rate - low, 0), np.maximum(high - rate, 0)]
    axis.errorbar(m, rate, yerr=bars, fmt="none", ecolor=look["color"], elinewidth=0.7, capsize=1.3, alpha=0.7)
    axis.plot(m, isotonic, color=look["color"], linestyle=look["linestyle"], linewidth=1.1)
    axis.plot(m, rate, color=look["color"], marker=look["marker"], linestyle="none", markersize=3.8)


def over_width(
    panels: Sequence[tuple[str, list[dict[str, Any]]]], quantity: str, draw: Draw, most: int = plot.MAX_PANELS
) -> tuple[Canvas, list[Axes]]:
    """Return a figure of a quantity over m, a panel per (title, rows), a line for at most `most` values of n."""
    figure, axes = plot.canvas(len(panels), 2.5)
    shown = plot.spread((row["n"] for _, rows in panels for row in rows), most)
    for axis, (title, rows) in zip(axes, panels, strict=True):
        table = pd.DataFrame(rows, dtype=float).sort_values("m")
        for rank, n in enumerate(shown):
            family = table[table["n"] == n]
            # Neighbouring n overlap exactly where all replicates succeed: set them apart by 3 % in m.
            shift = 1.03 ** (rank - (len(shown) - 1) / 2)
            draw(axis, family["m"].to_numpy() * shift, family, plot.ordered_look(rank, len(shown)))
        plot.log_ticks(axis, "x", table["m"])
        plot.entitle(axis, len(panels), title)
    plot.outer_labels(axes, "width $m$", quantity)
    plot.count_legend(figure, shown, len(panels))
    return figure, axes
