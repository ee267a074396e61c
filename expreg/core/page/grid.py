"""The figure of a grid: share, steps and what is left, over whatever was swept."""

from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure as Canvas

from expreg.core.page import style as plot
from expreg.core.stats.describe import shown
from expreg.core.stats.settings import outcomes, short

MOST_LINES = 8
HEAT = 4
"""Two numeric axes with at least so many values each are drawn as a heat map."""
LABELLED = 64
"""Up to so many cells of a heat map have their numbers written into them."""
WHAT = {"share": "share that converges", "steps": "steps, median", "final": "{}, median"}


def figure(cells: pd.DataFrame, names: Sequence[str], compared: Sequence[str], final: str) -> list[plot.Figure]:
    """Draw share, steps and `final` over what was swept: lines, or heat maps of two numbers, in small multiples.

    `names`: what was swept; `compared`: those of them that are settings to be compared. Others make lines and rows,
    and alone no figure.
    """
    columns: dict[str, pd.Series] = {axis: cells[axis] for axis in names if axis in compared}
    outer = sorted(columns, key=lambda axis: _rank(columns[axis]))
    if not outer:
        return []
    x, *others = [*outer, *(axis for axis in names if axis not in compared)]
    line, rest = (others[0] if others else None), others[1:]
    found, called = outcomes(cells, list(names), final), short(list(names))
    shows = [name for name in WHAT if name == "final" or found["share"].any()]
    grouped = found.groupby(rest, sort=True, dropna=False) if rest else None
    most = plot.MAX_PANELS * plot.MAX_PAGES  # of a hundred thousand panels no more are made than are drawn
    panels = [((), found)] if grouped is None else list(islice(grouped, most))
    hidden = 0 if grouped is None else grouped.ngroups - len(panels)
    heat = line is not None and min(_numbers(found[axis]) for axis in (x, line)) >= HEAT
    over = f"{called[x]} and {called[line]}" if line is not None else called[x]
    caption = f"The median of {final} over {over}."
    if len(shows) > 1:
        caption = (
            f"Share of the runs that converge, the median of their steps, and the median of {final}, over {over}."
            " Settings in which no run converges have no steps."
        )
    draw = partial(_figure, shows=shows, axes=(x, line), rest=rest, called=called, final=final, heat=heat)
    return plot.paged("settings", f"Outcome over {over}", caption, panels, draw, hidden=hidden)


def _rank(values: pd.Series) -> tuple[bool, int]:
    """Return what sorts numbers before words, and many values before few."""
    return (_numbers(values) == 0, -values.nunique())


def _numbers(values: pd.Series) -> int:
    """Return how many numbers a column has, 0 if it has something else."""
    known = values.dropna()
    return int(known.nunique()) if pd.api.types.is_numeric_dtype(known) and known.dtype != bool else 0


def _figure(
    panels: list[tuple[Any, pd.DataFrame]],
    shows: list[str],
    axes: tuple[str, str | None],
    rest: list[str],
    called: dict[str, str],
    final: str,
    *,
    heat: bool,
) -> Canvas:
    width = plot.WIDTH if len(shows) > 1 else plot.NARROW
    canvas = Canvas(figsize=(width, (2.6 if heat else 2.1) * len(panels) + 0.5), layout="constrained")
    grid = canvas.subplots(len(panels), len(shows), squeeze=False)
    for row, (key, rows) in zip(grid, panels, strict=True):
        for axis, name in zip(row, shows, strict=True):
            (_heat_map if heat else _lines)(axis, rows, axes, called, name)
        words = ", ".join(f"{called[axis]} = {shown(value)}" for axis, value in zip(rest, key, strict=True))
        for axis, name in zip(row, shows, strict=True):
            what = WHAT[name].format(final)
            axis.set_title(f"{plot.plain(words)}\n{what}" if rest else what, fontsize=7.5)
    if not heat and axes[1] is not None:
        handles, labels = grid[0][0].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside lower center", ncols=4, title=plot.plain(called[axes[1]]))
    return canvas


def _lines(axis: Axes, rows: pd.DataFrame, axes: tuple[str, str | None], called: dict[str, str], name: str) -> None:
    """Draw one quantity over the first axis, a line for each value of the second."""
    x, line = axes
    places = _places(axis, rows[x])
    families = [(None, rows)] if line is None else list(rows.groupby(line, sort=True, dropna=False))
    chosen = plot.spread(range(len(families)), MOST_LINES)
    ordered = line is not None and _numbers(rows[line]) > 0
    for rank, (value, family) in enumerate(families[i] for i in chosen):
        look = plot.ordered_look(rank, len(chosen)) if ordered else plot.look(rank)
        at = family[x].map(places).to_numpy(dtype=float)
        axis.plot(at, family[name], **look, label=plot.plain(shown(value)))
    axis.set_xlabel(plot.plain(called[x]))
    axis.grid(visible=True)
    known = rows[name].dropna()
    if name == "share":
        axis.set_ylim(-0.04, 1.04)
    elif len(known) and known.min() > 0 and known.max() > 10 * known.min():
        axis.set_yscale("log")


def _places(axis: Axes, values: pd.Series) -> dict[Any, float]:
    """Return where the values of an axis stand, and give it its scale and ticks."""
    distinct = sorted(values.dropna().unique(), key=lambda value: (isinstance(value, str), value))
    if _numbers(values):
        if distinct[0] > 0 and distinct[-1] >= 10 * distinct[0]:
            axis.set_xscale("log")
        return {value: float(value) for value in distinct}
    axis.set_xticks(range(len(distinct)), [plot.plain(shown(value)) for value in distinct], rotation=30, ha="right")
    return {value: float(i) for i, value in enumerate(distinct)}


def _heat_map(axis: Axes, rows: pd.DataFrame, axes: tuple[str, str | None], called: dict[str, str], name: str) -> None:
    """Draw one quantity as colour over two axes, whose values stand side by side at equal distances."""
    x, y = axes
    assert y is not None
    table = rows.pivot_table(index=y, columns=x, values=name, dropna=False).astype(float)
    known = table.to_numpy()[np.isfinite(table.to_numpy())]
    wide = name != "share" and len(known) and known.min() > 0 and known.max() > 10 * known.min()
    norm = LogNorm(known.min(), known.max()) if wide else Normalize(0, 1) if name == "share" else Normalize()
    mesh = axis.imshow(table, origin="lower", aspect="auto", cmap="viridis", norm=norm)
    for values, ticks in ((table.columns, axis.set_xticks), (table.index, axis.set_yticks)):
        at = plot.spread(range(len(values)), 8)
        ticks(at, [_brief(values[i]) for i in at])
    axis.tick_params(axis="x", rotation=45)
    if table.size <= LABELLED:
        shade = np.ma.filled(mesh.norm(table.to_numpy()), 1.0)
        for (i, j), value in np.ndenumerate(table.to_numpy()):
            dark = shade[i, j] < 0.6
            axis.text(j, i, _brief(value, 2), ha="center", va="center", fontsize=6, color="white" if dark else "black")
    else:
        axis.figure.colorbar(mesh, ax=axis, location="bottom", shrink=0.9, aspect=30)
    axis.set(xlabel=plot.plain(called[x]), ylabel=plot.plain(called[y]))


def _brief(value: float, digits: int = 3) -> str:
    """Return a number in few characters, such as 0.004 or 5e22, a dash where there is none."""
    text = f"{value:.{digits}g}"
    return "–" if value != value else text if len(text) <= 5 else f"{value:.0e}".replace("e+", "e").replace("e-0", "e-")
