"""The eigenvalues of the infinite-width kernel over n, on which every threshold rests."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from expreg.activation import ACTIVATIONS
from expreg.core.page import style as plot

# Data whose rows have unit length whatever the settings: only there do the limits of (B.19) apply.
_UNIT_NORM = {"sphere", "orthonormal", "equiangular", "near_duplicate", "digits"}
_MOST = 15
_HOLLOW: dict[str, Any] = {"markerfacecolor": "white", "linestyle": (0, (4, 2))}


def spectrum(cells: pd.DataFrame, _curves: pd.DataFrame, summary: Mapping[str, Any]) -> list[plot.Figure]:
    """Draw the smallest and largest eigenvalue of H^cts over n for each group, with the limits of (B.19)."""
    labels: dict[str, list[str]] = {}  # settings that do not touch the data share one spectrum
    spectra: dict[str, list[dict[str, Any]]] = {}
    for group in plot.records(summary, "groups"):
        if found := [row for row in plot.records(group, "spectrum") if _known(row, "lambda_cts")]:
            labels.setdefault(str(found), []).append(str(group.get("label", "")))
            spectra[str(found)] = found
    groups = [(plot.some(labels[key]), found) for key, found in spectra.items()][:_MOST]
    if all(len(rows) < 2 for _, rows in groups):
        return []
    caption = (
        "Smallest (filled) and largest (open) eigenvalue of the infinite-width kernel over the number of"
        " data: medians over replicates, band: quartiles. A fitted exponent is that of the width alone only"
        " where the smallest eigenvalue hardly changes with n."
    )
    limits = _limits_apply(cells)
    if limits:
        caption += " Thin lines: e(e−1), the limit for random unit vectors, and e², that of orthonormal data."
    title = "Eigenvalues of the infinite-width kernel"
    return [plot.Figure("lambda", title, caption, _spectrum_figure(groups, limits))]


def _known(row: Mapping[str, Any], key: str) -> bool:
    return (plot.finite(row.get(key)) or 0.0) > 0


def _limits_apply(cells: pd.DataFrame) -> bool:
    if cells.empty or not {"activation", "data"} <= set(cells.columns):
        return False
    activations = set(cells["activation"].dropna())
    known = {name for name, phi in ACTIVATIONS.items() if phi.powers == (1, 1)}
    return bool(activations) and activations <= known and set(cells["data"].dropna()) <= _UNIT_NORM


def _spectrum_figure(groups: list[tuple[str, list[dict[str, Any]]]], limits: bool) -> Canvas:
    figure, (axis,) = plot.canvas(1, 3.6)
    axis.set_yscale("log")
    for index, (_, rows) in enumerate(groups):
        _draw_spectrum(axis, sorted(rows, key=lambda row: row["n"]), plot.look(index))
    if limits:
        for height, name in ((math.e * (math.e - 1), r"$e(e-1)$"), (math.e**2, "$e^2$")):
            axis.axhline(height, color=plot.GREY, linewidth=0.7, zorder=1)
            axis.annotate(name, (1.01, height), xycoords=("axes fraction", "data"), va="center", fontsize=7.5)
    low, high = axis.get_ylim()
    plot.decimal_ticks(axis, "y", low / 1.2, high * 1.2)
    plot.log_ticks(axis, "x", (row["n"] for _, rows in groups for row in rows))
    axis.set(xlabel="number of data $n$", ylabel=r"eigenvalues of $H^{\mathrm{cts}}$")
    handles = [
        *(
            Line2D([], [], **{**plot.look(i), "linestyle": "-"}, label=plot.plain(label, 48))
            for i, (label, _) in enumerate(groups)
        ),
        Line2D([], [], color=plot.GREY, marker="o", label=r"$\lambda_{\min}$, band: quartiles"),
        Line2D([], [], color=plot.GREY, marker="o", **_HOLLOW, label=r"$\lambda_{\max}$"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _draw_spectrum(axis: Axes, rows: list[dict[str, Any]], style: dict[str, Any]) -> None:
    n = [row["n"] for row in rows]
    middle = [row["lambda_cts"] for row in rows]
    low, high = (
        [row[end] if _known(row, end) else row["lambda_cts"] for row in rows] for end in ("lambda_low", "lambda_high")
    )
    colour, marker = style["color"], style["marker"]
    axis.fill_between(n, low, high, color=colour, alpha=0.18, linewidth=0)
    axis.plot(n, middle, color=colour, marker=marker)
    top = [(row["n"], row["lambda_max_cts"]) for row in rows if _known(row, "lambda_max_cts")]
    if top:
        axis.plot(*zip(*top, strict=True), color=colour, marker=marker, **_HOLLOW, linewidth=1.1)
