"""Thresholds over n with intervals, fits, and the slopes of the theory."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from expreg.core.page import style as plot
from expreg.core.stats.describe import with_interval
from expreg.kinds.network.figures.look import criteria_of, criterion_look

CLAIMED = 2.0  # exponent of n in the abstracts, where the summary names none


def thresholds(_cells: pd.DataFrame, _curves: pd.DataFrame, summary: Mapping[str, Any]) -> list[plot.Figure]:
    """Draw m*(n, delta) over n per group and criterion, with fits, and slopes of claim and bound (C.15)."""
    level = level_of(summary)
    groups = _drawable_groups(summary)
    confidence = plot.finite((summary.get("settings") or {}).get("confidence"))
    intervals = "intervals" if confidence is None else f"{confidence:.0%} intervals"
    caption = (
        f"The width at which {share_words(level)} of replicates meet each criterion, read off the monotone"
        f" success curve, with {intervals}; criteria are set slightly apart. Lines: power laws fitted to the"
        " filled markers, with their exponents, not corrected for the log factor, in the legend. Open"
        " markers take no part in the fit; arrows: the grid shows only that the threshold, or the end of its"
        " interval, lies there or beyond; criteria of which it shows no threshold at all are not drawn. Grey: the"
        " claimed slope and the local slope of the bound itself at these n; their heights mean nothing. An upper"
        " bound is not contradicted by a smaller slope."
    )
    title = "Width thresholds over the number of data"
    return plot.paged("thresholds", title, caption, groups, partial(_figure, level=level, named=_criteria, guided=True))


def budgets(_cells: pd.DataFrame, _curves: pd.DataFrame, summary: Mapping[str, Any]) -> list[plot.Figure]:
    """Draw the width for convergence over n within each flow time, for groups with budgets above `LONG`."""
    level = level_of(summary)
    groups = [
        group
        for group in plot.records(summary, "groups")
        if any(b["flow_time"] > LONG for b in plot.records(group, "budgets"))
    ]
    caption = (
        f"The width at which {share_words(level)} of networks converge within a flow time, all read off the same runs."
        " At flow time 2 the budget is the time that the linear rate of the proof needs (E4): there the budget limits"
        " training, and with more time less width is needed. Arrows: at or beyond the end of the grid."
    )
    title = "Width for convergence by budget"
    return plot.paged("budget", title, caption, groups, partial(_figure, level=level, named=_budgets, guided=False))


LONG = 2.0
"""Up to this flow time, that of the linear rate, there is no figure of shorter ones."""


Named = list[tuple[str, dict[str, Any], dict[str, Any]]]
"""What a panel shows: (name, criterion, look)."""


def _criteria(group: Mapping[str, Any], level: float | None) -> Named:
    found = [(str(criterion.get("criterion", "")), criterion) for criterion in _drawn(group, level)]
    return [(plot.plain(name, 30), criterion, criterion_look(name)) for name, criterion in found]


def _budgets(group: Mapping[str, Any], level: float | None) -> Named:
    found = [b for b in plot.records(group, "budgets") if points_of(b, level, "interpolated")]
    looks = (plot.ordered_look(rank, len(found)) for rank in range(len(found)))
    return [(f"flow time {b['flow_time']:g}", b, look) for b, look in zip(found, looks, strict=True)]


def _figure(
    groups: list[dict[str, Any]],
    level: float | None,
    named: Callable[[Mapping[str, Any], float | None], Named],
    *,
    guided: bool,
) -> Canvas:
    """Draw what is `named` of each group in a panel, if `guided` beside the slopes of the theory."""
    shown = [named(group, level) for group in groups]
    columns = 2 if len(groups) == 1 else 1  # two do not fit below a panel of several
    height = 3.1 + 0.17 * max(map(len, shown)) / columns if guided else 3.3
    figure, axes = plot.canvas(len(groups), height)
    everything = [p for one in shown for _, c, _ in one for p in points_of(c, level, "interpolated")]
    limits = heights(everything, 3 if guided else 1.6)
    for axis, group, one in zip(axes, groups, shown, strict=True):
        handles, points = draw_criteria(axis, one, level)
        n = log_axes(axis, points, limits)
        if guided and len(n) > 1:
            _draw_guides(axis, [criterion for _, criterion, _ in one], points, limits)
        plot.legend_below(axis, columns, title="exponent of $n$ [interval]", handles=handles)
        plot.entitle(axis, len(groups), str(group.get("label", "")))
    plot.outer_labels(axes, "number of data $n$", r"width threshold $m^*(n,\delta)$")
    return figure


def figure_of(summary: Mapping[str, Any]) -> dict[str, str]:
    """Return for each group, by label, the name of the figure that shows its thresholds."""
    drawn = plot.pages("thresholds", _drawable_groups(summary))
    return {str(group.get("label", "")): name for name, chunk in drawn for group in chunk}


def _drawable_groups(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    level = level_of(summary)
    return [group for group in plot.records(summary, "groups") if _drawn(group, level)]


def level_of(summary: Mapping[str, Any]) -> float | None:
    """Return the required share of successes, 1 - delta."""
    delta = plot.finite((summary.get("settings") or {}).get("delta"))
    return None if delta is None else 1 - delta


def share_words(level: float | None) -> str:
    """Return the required share in words."""
    return "the required share" if level is None else f"{100 * level:.4g} %"


class Point(NamedTuple):
    """A threshold at one n; `state` is `fitted`, `open`, `above` or `below`.

    In the last two the threshold was not seen on the grid and m stands at the grid's end. An interval without
    end reaches to 0 or infinity.
    """

    n: float
    m: float
    low: float
    high: float
    state: str


def points_of(criterion: Mapping[str, Any], level: float | None, estimator: str) -> list[Point]:
    """Return the thresholds of a criterion, `estimator` `interpolated` (D.15) or `quantile` (D.3), by n."""
    used = (criterion.get("exponent") or {}).get("used")
    found = []
    for row in sorted(plot.records(criterion, "thresholds"), key=lambda row: row["n"]):
        n, value = float(row["n"]), plot.finite(row.get(estimator))
        if value is None:
            found += _censored(row, criterion, level)
            continue
        prefix = "interpolated_" if estimator == "interpolated" else ""
        low, high = plot.finite(row.get(f"{prefix}low")), plot.finite(row.get(f"{prefix}high"))
        inside = row["n"] in used if prefix and used is not None else row.get("bracketed") is not False
        ends = (0.0 if low is None else low, math.inf if high is None else high)
        found.append(Point(n, value, *ends, "fitted" if inside else "open"))
    return found


def _censored(row: Mapping[str, Any], criterion: Mapping[str, Any], level: float | None) -> list[Point]:
    """Return the point at the grid's end beyond which the threshold lies; none where that is unknown."""
    few = (row.get("flags") or {}).get("quantile") == "too few replicates"
    grid = sorted(
        (r["m"], plot.finite(r.get("isotonic"))) for r in plot.records(criterion, "success") if r["n"] == row["n"]
    )
    known = [(float(m), share) for m, share in grid if share is not None]
    if few or level is None or not known:
        return []
    # Shares are ratios of integers: without the slack, 0.9 < 1 - 0.1 would decide.
    if known[0][1] >= level - 1e-9:
        return [Point(float(row["n"]), known[0][0], 0.0, known[0][0], "below")]
    if known[-1][1] < level - 1e-9 or (row.get("flags") or {}).get("quantile") == "above":
        return [Point(float(row["n"]), known[-1][0], known[-1][0], math.inf, "above")]
    return []


def draw_points(axis: Axes, points: list[Point], style: Mapping[str, Any], shift: float = 1.0) -> None:
    """Draw thresholds with their intervals, moved along n by the factor `shift`; endless ones are arrows."""
    effects = {"path_effects": style["path_effects"]} if "path_effects" in style else {}
    marker = {"marker": style["marker"], "markersize": style.get("markersize", 4.5), "linestyle": "none"}
    shape = {"arrowstyle": "<-", "shrinkA": 0, "shrinkB": 1, "mutation_scale": 7}
    arrow = {"color": style["color"], "linewidth": 0.9, **shape, **effects}
    for point in points:
        n = point.n * shift
        fill = style["color"] if point.state == "fitted" else "white"
        seen = point.state in ("fitted", "open")
        low, high = (max(point.low, 1e-9) if seen else point.m), (point.high if seen else point.m)
        ends = [low if point.low > 0 else point.m, high if high < math.inf else point.m]
        axis.plot([n, n], ends, color=style["color"], linewidth=0.9, marker="_", markersize=4, zorder=4, **effects)
        axis.plot([n], [point.m], color=style["color"], markerfacecolor=fill, zorder=5, **marker)
        for open_end, direction in ((point.low <= 0, -1), (point.high == math.inf, 1)):
            if open_end:
                tip = (0, style.get("arrow", 13) * direction)  # in points, whatever the scale of the axis
                axis.annotate("", (n, point.m), tip, textcoords="offset points", arrowprops=arrow, zorder=4)


def _drawn(group: Mapping[str, Any], level: float | None) -> list[dict[str, Any]]:
    """Return the criteria of which the grid shows a threshold at some n: arrows alone would only take room."""
    points = ((criterion, points_of(criterion, level, "interpolated")) for criterion in criteria_of(group))
    return [criterion for criterion, found in points if any(point.state in ("fitted", "open") for point in found)]


def heights(points: list[Point], room: float) -> tuple[float, float]:
    """Return the range of m that shows all points and the ends of their intervals, with a factor of room."""
    shown = [m for point in points for m in (point.m, point.low, point.high) if 0 < m < math.inf]
    return min(shown) / room, max(shown) * room


def log_axes(axis: Axes, points: list[Point], limits: tuple[float, float]) -> list[float]:
    """Give an axis of thresholds its log scales over the points and `limits` of m; return the n there are."""
    n = sorted({point.n for point in points})
    plot.log_ticks(axis, "y", 2.0 ** np.arange(math.floor(math.log2(limits[0])), math.ceil(math.log2(limits[1])) + 1))
    plot.log_ticks(axis, "x", n)
    axis.set(xlim=(n[0] / 1.35, n[-1] * 1.35), ylim=limits)
    return n


def exponent_words(exponent: Mapping[str, Any], kind: str = "raw", none: str = "no exponent") -> str:
    """Return a measured exponent with its interval, `none` where it should not be read as one."""
    value, low, high = (plot.finite((exponent.get(kind) or {}).get(key)) for key in ("value", "low", "high"))
    return with_interval(value, low, high, ".2f") if exponent.get("usable", True) and value is not None else none


def draw_criteria(
    axis: Axes, named: Sequence[tuple[str, dict[str, Any], dict[str, Any]]], level: float | None
) -> tuple[list[Line2D], list[Point]]:
    """Draw thresholds and fits of (name, criterion, look), set slightly apart; return their legend and the points."""
    handles, everything = [], []
    for rank, (name, criterion, look) in enumerate(named):
        points, exponent = points_of(criterion, level, "interpolated"), criterion.get("exponent") or {}
        draw_points(axis, points, look, 1.025 ** (rank - (len(named) - 1) / 2))
        dashes = look["linestyle"] if _draw_fit(axis, points, exponent, look) else "none"
        label = f"{name}  {exponent_words(exponent)}"
        handles.append(Line2D([], [], **{**look, "linestyle": dashes}, label=label))
        everything += points
    return handles, everything


def _draw_fit(axis: Axes, points: list[Point], exponent: Mapping[str, Any], style: dict[str, Any]) -> bool:
    """Draw the fitted power law over the n it rests on; return whether there is one."""
    value = plot.finite((exponent.get("raw") or {}).get("value"))
    fitted = [point for point in points if point.state == "fitted"]
    if value is None or not exponent.get("usable", True) or len(fitted) < 2:
        return False
    n = np.array([point.n for point in fitted])
    level = np.mean(np.log([point.m for point in fitted]) - value * np.log(n))
    ends = np.array([n.min() / 1.15, n.max() * 1.15])
    line = {"color": style["color"], "linestyle": style["linestyle"], "linewidth": 1.1, "zorder": 3}
    axis.plot(ends, np.exp(level) * ends**value, **line)
    return True


def _draw_guides(axis: Axes, criteria: list[dict[str, Any]], points: list[Point], limits: tuple[float, float]) -> None:
    """Draw the claimed slope and the bound's local slope from the lower left corner, with their names."""
    slope = next((c["claim_exponent"] for c in criteria if plot.finite(c.get("claim_exponent")) is not None), CLAIMED)
    grid = np.geomspace(*axis.get_xlim(), 60)
    drawn = np.array([(point.n, point.m) for point in points if point.m > 0])
    start = limits[0] * 1.15
    _guide(axis, grid, start * (grid / grid[0]) ** slope, f"slope {slope:g}", (0, (6, 2)), drawn)
    bound = next((plot.records(c, "bound_exponent") for c in criteria if plot.records(c, "bound_exponent")), [])
    known = sorted((float(b["n"]), float(b["alpha_eff"])) for b in bound if plot.finite(b.get("alpha_eff")) is not None)
    if known:
        local = np.interp(np.log(grid), np.log([k for k, _ in known]), [alpha for _, alpha in known])
        steps = np.diff(np.log(grid)) * (local[:-1] + local[1:]) / 2
        height = start * np.exp(np.concatenate([[0.0], np.cumsum(steps)]))
        name = f"bound, slope {known[0][1]:.1f} to {known[-1][1]:.1f}" if len(known) > 1 else "bound"
        _guide(axis, grid, height, name, (0, (1, 1.5)), drawn)


def _guide(axis: Axes, n: np.ndarray, m: np.ndarray, name: str, dashes: Any, drawn: np.ndarray) -> None:
    """Draw a line, with its name where no marker is near."""
    axis.plot(n, m, color="#9a9a9a", linewidth=1.0, linestyle=dashes, zorder=1)
    inside = np.flatnonzero(m <= axis.get_ylim()[1])
    inside = inside[len(inside) // 3 : max(len(inside) * 5 // 6, 1)]  # the name is up to half as long as the line
    sides = np.log([axis.get_xlim(), axis.get_ylim()]) @ [-1, 1]
    away = (np.log(np.stack([n, m], axis=1))[inside, None] - np.log(drawn)) / sides
    at = inside[np.argmax(np.min(np.hypot(*away.transpose(2, 0, 1)), axis=1))]
    before, after = max(at - 1, 0), min(at + 1, len(n) - 1)
    # The angle in data coordinates of a curve that is straight only on logarithmic axes.
    angle = math.degrees(math.atan2(m[after] - m[before], n[after] - n[before]))
    place: dict[str, Any] = {"rotation": angle, "rotation_mode": "anchor", "transform_rotates_text": True}
    look: dict[str, Any] = {"fontsize": 6.8, "color": plot.GREY, "linespacing": 0.9, "zorder": 1.5}
    look |= {"ha": "center", "va": "center", "path_effects": [withStroke(linewidth=2, foreground="white")]}
    axis.text(n[at], m[at], f"{name}\n", **place, **look)
