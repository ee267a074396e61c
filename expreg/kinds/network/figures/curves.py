"""Convergence curves and rates: the residual beside the linearised model and the theory."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from expreg.core.page import style as plot
from expreg.kinds.network.figures import searched

MAX_WIDTHS = 3
_NEEDED = ["cell", "n", "m", "eta_scaled", "lambda_cts", "tolerance", "residual_initial", "optimizer", "schedule"]
_CAPTION = (
    "Residual relative to its start, on a logarithmic scale. Solid: median over replicates, with the band"
    " of the middle 80 %. Dashed: prediction of the infinite-width linear model at the same steps. Dotted:"
    f" the rate that theory guarantees. A panel shows at most {MAX_WIDTHS} widths, a group at most"
    f" {plot.MAX_PANELS} values of n. A run that stopped keeps its last value, and a line ends where fewer than half"
    " of its runs are still going; a panel ends at three times the length of its widest network's line."
)
Curve = dict[str, np.ndarray]  # of one cell: step, residual, linearised
Panel = tuple[str, int, pd.DataFrame]  # label, n, cells
Extent = tuple[float, float, float]  # of the lines of one width: last step, lowest median, top of the band
_TINY = np.finfo(float).tiny
_DASHED: dict[str, Any] = {"linestyle": (0, (4, 2)), "linewidth": 1.0}
_DOTS: Any = (0, (1, 1.6))


def convergence(cells: pd.DataFrame, curves: pd.DataFrame, summary: Mapping[str, Any]) -> list[plot.Figure]:
    """Draw ||r_t|| / ||r_0|| over the step for each n and a few widths, with (B.21) and (C.26) as lines."""
    if curves.empty or cells.empty or not {"cell", "n", "m"} <= set(cells.columns):
        return []
    cells = searched.whole(cells, summary)
    known = np.isfinite(curves["residual"].astype(float))
    # A cell has dozens of points: looking up every point takes far longer than looking up every cell.
    seen = cells["cell"].isin(curves.loc[known, "cell"].unique())
    usable = cells[seen].reindex(columns=[*cells.columns.union(_NEEDED, sort=False)])
    groups = plot.records(summary, "groups") or [{"group": {}, "label": ""}]
    panels = [panel for group in groups for panel in _panels(usable, group)]

    def draw(chunk: list[Panel]) -> Canvas:
        wanted = pd.concat([drawn["cell"] for _, _, drawn in chunk])
        return _convergence_figure(chunk, _by_cell(curves[known & curves["cell"].isin(wanted)]))

    title = "Convergence: residual over steps"
    owner = (lambda panel: panel[0]) if any(n != panels[0][1] for _, n, _ in panels) else None
    return plot.paged("convergence", title, _CAPTION, panels, draw, owner=owner)


def _by_cell(points: pd.DataFrame) -> dict[Any, Curve]:
    """Return step, residual and, if there is one, the linearised residual of each cell, by step."""
    owner, names = pd.factorize(points["cell"])
    order = np.lexsort((points["step"], owner))
    ends = np.flatnonzero(np.diff(owner[order])) + 1
    kinds = [kind for kind in ("step", "residual", "linearised") if kind in points]
    columns = [np.split(points[kind].to_numpy(dtype=float, na_value=np.nan)[order], ends) for kind in kinds]
    return {name: dict(zip(kinds, curve, strict=True)) for name, *curve in zip(names, *columns, strict=True)}


def _panels(cells: pd.DataFrame, group: Mapping[str, Any]) -> list[Panel]:
    """Return (label, n, cells) for at most six n of the group, with the cells of a few widths only."""
    members = cells
    for column, value in (group.get("group") or {}).items():
        if column in members.columns:
            same = members[column].isna() if value is None else members[column].astype(object) == value
            members = members[same]
    members = members[members["m"].isin(plot.spread(members["m"].dropna(), MAX_WIDTHS))]
    chosen = plot.spread(members["n"].dropna(), plot.MAX_PANELS)
    return [(str(group.get("label", "")), int(n), members[members["n"] == n]) for n in chosen]


def _convergence_figure(panels: list[Panel], curves: dict[Any, Curve]) -> Canvas:
    figure, axes = plot.canvas(len(panels), 1.9, legend=0.6)
    widths = sorted({int(m) for _, _, cells in panels for m in cells["m"]})
    for axis, (label, n, cells) in zip(axes, panels, strict=True):
        ends = [
            _draw_width(axis, cells[cells["m"] == m], curves, widths.index(m), len(widths))
            for m in sorted(cells["m"].unique())
        ]
        _limit(axis, ends, plot.finite((cells["tolerance"] / cells["residual_initial"]).median()))
        several = len({n for _, n, _ in panels}) > 1 or not label
        plot.entitle(axis, len(panels), " · ".join([f"n = {n}"] * several + [label] * bool(label)))
    plot.outer_labels(axes, "step $t$", r"$\Vert r_t\Vert\,/\,\Vert r_0\Vert$")
    looks = ({**plot.ordered_look(i, len(widths)), "linestyle": "-"} for i in range(len(widths)))
    handles: list[Any] = [
        *(Line2D([], [], **look, label=f"m = {m}: median") for look, m in zip(looks, widths, strict=True)),
        Line2D([], [], color=plot.GREY, **_DASHED, label="linearised prediction"),
        Line2D([], [], color=plot.GREY, linestyle=_DOTS, label=r"theory rate $(1-m\eta\lambda/2)^{t/2}$"),
        Line2D([], [], color=plot.GREY, linewidth=0.7, label="tolerance"),
        Patch(color=plot.GREY, alpha=0.25, label="10–90 % of replicates"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _limit(axis: Axes, ends: list[Extent], tolerance: float | None) -> None:
    """Draw the tolerance and set limits; what runs to its budget or explodes may not squeeze the others."""
    if tolerance:
        axis.axhline(tolerance, color=plot.GREY, linewidth=0.7, zorder=1)
    last, low, high = zip(*ends, strict=True)
    lowest = min(*low, tolerance or math.inf)
    axis.set_yscale("log")
    axis.set_ylim(max(lowest, 1e-16) / 2, max(2.0, min(20.0, 1.3 * max(high))))
    axis.set_xlim(0, max(1.0, min(max(last), 3 * last[-1])))


def _draw_width(axis: Axes, cells: pd.DataFrame, curves: dict[Any, Curve], rank: int, count: int) -> Extent:
    """Draw median, band, linearised prediction and theory rate of the width number `rank` of `count`."""
    style = plot.ordered_look(rank, count)
    runs = [curves[cell] for cell in cells["cell"]]
    scale = cells["residual_initial"].to_numpy(dtype=float, na_value=np.nan)
    start = np.array([run["residual"][0] for run in runs])
    scale = np.where(scale > 0, scale, np.maximum(start, _TINY))
    steps = common_steps(runs)
    measured = aligned(runs, "residual", steps) / scale[:, None]
    low, median, high = np.quantile(measured, [0.1, 0.5, 0.9], axis=0)
    axis.fill_between(steps, low, high, color=style["color"], alpha=0.18, linewidth=0, zorder=2)
    marks = {"marker": style["marker"], "markevery": (0.05 + 0.06 * rank, 0.24), "markersize": 3.5}
    axis.plot(steps, median, color=style["color"], **marks, zorder=4)
    if all("linearised" in run and not np.isnan(run["linearised"]).all() for run in runs):
        predicted = np.median(aligned(runs, "linearised", steps) / scale[:, None], axis=0)
        axis.plot(steps, predicted, color=style["color"], **_DASHED, zorder=5)
    contraction = (cells["eta_scaled"] * cells["lambda_cts"]).median()
    constant = not cells["schedule"].notna().any() and cells["optimizer"].fillna("sgd").eq("sgd").all()
    if constant and plot.finite(contraction) and 0 < contraction < 2:
        theory = (1 - contraction / 2) ** (steps / 2)
        axis.plot(steps, theory, color=style["color"], linestyle=_DOTS, linewidth=1.1, zorder=3)
    return float(steps[-1]), float(median.min()), float(high.max())


def common_steps(runs: list[Curve]) -> np.ndarray:
    """Return steps from 0 to the last one that at least half of the runs reached; shape (k,)."""
    last = np.sort([run["step"][-1] for run in runs])
    stop = float(last[len(last) // 2])
    recorded = np.unique(np.concatenate([run["step"] for run in runs]))
    recorded = recorded[recorded <= stop]
    return np.unique(np.concatenate([recorded[:: -(-len(recorded) // 80)], np.linspace(0.0, stop, 81)]))


def aligned(runs: list[Curve], column: str, steps: np.ndarray) -> np.ndarray:
    """Return `column` at `steps`, log-linear between records, the last one kept; shape (runs, k)."""
    rows = []
    for run in runs:
        good = np.isfinite(run[column])
        rows.append(np.interp(steps, run["step"][good], np.log(np.maximum(run[column][good], _TINY))))
    return np.exp(rows)


def rates(_cells: pd.DataFrame, _curves: pd.DataFrame, summary: Mapping[str, Any]) -> list[plot.Figure]:
    """Draw the measured decay per step against the theory rate and against the linearised rate."""
    groups = [(str(group.get("label", "")), plot.records(group, "rates")) for group in plot.records(summary, "groups")]
    kinds = [k for k in ("theory", "linearised") if any(_decays(row, k) for _, rows in groups for row in rows)]
    if not kinds:
        return []
    figure, axes = plot.canvas(len(kinds), 3.1)
    for axis, kind in zip(axes, kinds, strict=True):
        _draw_rates(axis, groups, kind)
    axes[0].set_ylabel(r"measured decay of $\log\,\Vert r_t\Vert$ per step")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    lost = sum(plot.finite(row.get("measured")) is not None and not _decays(row) for _, rows in groups for row in rows)
    caption = (
        "Each marker is one (n, m): how much the logarithm of the residual falls per step, fitted to the"
        " second half of its fall; median over replicates and quartiles. Left, or alone, against the rate"
        " that theory guarantees; right against the same fit to the linearised model. On the grey line both"
        " are equal; above it the run is faster."
    )
    rising = f" {lost} (n, m) without decay are not shown." if lost else ""
    return [plot.Figure("rates", "Rates of convergence", caption + rising, figure)]


def _decays(row: Mapping[str, Any], *kinds: str) -> bool:
    """Return whether the measured factor per step, and those of `kinds`, lie in (0, 1)."""
    return all(0 < (plot.finite(row.get(kind)) or 0.0) < 1 for kind in ("measured", *kinds))


def _draw_rates(axis: Axes, groups: list[tuple[str, list[dict[str, Any]]]], kind: str) -> None:
    """Draw -log of the factors per step, one colour and marker per group."""
    ends: list[float] = []
    for index, (label, rows) in enumerate(groups):
        kept = [row for row in rows if _decays(row, kind)]
        if not kept:
            continue
        x, y = (-np.log([row[key] for row in kept]) for key in (kind, "measured"))
        fastest, slowest = (
            np.array([plot.finite(row.get(k)) or row["measured"] for row in kept]) for k in ("low", "high")
        )
        bars = [np.maximum(y + np.log(slowest), 0), np.maximum(-np.log(fastest) - y, 0)]
        style = {**plot.look(index), "linestyle": "none", "markersize": 3.4, "markeredgewidth": 0.8}
        style |= {"label": plot.plain(label, 44), "markerfacecolor": "white" if index % 2 else style["color"]}
        axis.errorbar(x, y, yerr=bars, **style, elinewidth=0.6, capsize=0)
        ends += [*x, *y]
    if ends:
        limits = (min(ends) / 1.4, max(ends) * 1.4)
        axis.plot(limits, limits, color=plot.GREY, linewidth=0.8, zorder=1)
        plot.decimal_ticks(axis, "x", *limits)
        plot.decimal_ticks(axis, "y", *limits)
    axis.set_aspect("equal", adjustable="box")
    axis.set_xlabel({"theory": "decay guaranteed by theory", "linearised": "decay of the linearised model"}[kind])
