"""The look of all figures: style, colours, markers, scales, and labels that come from data."""

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, FormatStrFormatter, LogLocator, NullFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from expreg.core.stats.describe import spread as spread
from expreg.errors import printable

WIDTH = 6.75  # inches: the text width of a two-column page
NARROW = 5.0  # of a figure with one panel
MAX_PANELS = 6
MAX_PAGES = 4
GREY = "#6b6b6b"
_LABELS_HEIGHT = 34.0  # points taken by tick labels and axis label
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # bundled with matplotlib, hence the same bytes on every machine
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.title_fontsize": 7.5,
    "legend.frameon": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": "#444444",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "errorbar.capsize": 1.8,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "hatch.linewidth": 0.5,
    "svg.hashsalt": "expreg",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}

# Okabe and Ito's colours without yellow, ordered so that neighbours also differ in lightness.
_COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9", "#7f5539", "#6b6b6b"),
    *("#882255", "#44aa99", "#999933", "#332288", "#117733", "#aa4499"),  # of Tol's palette, for what is drawn rarely
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*", "d", "8", "H")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (7, 2, 1.5, 2)), (0, (2, 1)))


@dataclass(frozen=True)
class Figure:
    """One figure of a run: `figure` is None where it could not be drawn, and `problem` says why."""

    name: str
    title: str
    caption: str
    figure: Canvas | None
    problem: str = ""


def style() -> AbstractContextManager[None]:
    """Return the context in which figures are drawn and saved: ours, whatever the user has configured."""
    return mpl.rc_context(cast(Any, {**mpl.rcParamsDefault, **STYLE}))


def look(index: int) -> dict[str, Any]:
    """Return colour, marker and line style number `index`: fifteen that differ without colour too."""
    i = index % len(_COLOURS)
    return {"color": _COLOURS[i], "marker": _MARKERS[i], "linestyle": _DASHES[i % len(_DASHES)]}


def ordered_look(rank: int, count: int) -> dict[str, Any]:
    """Return the look of an ordered family: dark to light, with its own markers and line styles."""
    share = rank / max(count - 1, 1)
    return {**look(rank), "color": mpl.colormaps["viridis"](0.02 + 0.78 * share)}


def plain(text: object, width: int | None = None) -> str:
    r"""Return `text` safe for a label: no mathtext (`$` becomes `\$`), no control characters, 90 at most."""
    safe = printable(" ".join(str(text).split()))
    short = safe if len(safe) <= 90 else safe[:89] + "…"
    return (textwrap.fill(short, width) if width else short).replace("$", r"\$")


def finite(value: object) -> float | None:
    """Return `value` as a float, or None where it is missing, not a number, or infinite."""
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def records(holder: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the list of records under `key`, empty where it is absent."""
    return list(holder.get(key) or [])


def some(labels: Sequence[str]) -> str:
    """Return one label, or the first of several and how many more there are."""
    more = len(labels) - 1
    return f"{labels[0]} and {more} more group{'s' if more > 1 else ''}" if more else labels[0]


def pages(name: str, panels: Sequence[Any], owner: Any = None) -> list[tuple[str, list[Any]]]:
    """Return (figure name, panels): one figure if all fit, else one per owner, at most four figures."""
    if len(panels) <= MAX_PANELS:
        return [(name, list(panels))] if panels else []
    chunks: list[list[Any]] = []
    for panel in panels:
        if not chunks or len(chunks[-1]) == MAX_PANELS or (owner and owner(chunks[-1][0]) != owner(panel)):
            chunks.append([])
        chunks[-1].append(panel)
    return [(name if i == 0 else f"{name}-{i + 1}", chunk) for i, chunk in enumerate(chunks[:MAX_PAGES])]


def paged(
    name: str,
    title: str,
    caption: str,
    panels: Sequence[Any],
    draw: Callable[[list[Any]], Canvas],
    *,
    owner: Any = None,
    beside: Callable[[list[Any]], str] = lambda _: "",
    hidden: int = 0,
) -> list[Figure]:
    """Return the figures of all panels, by `pages`; `beside(panels)` ends the caption of each.

    `hidden` more panels, which found no place before, are counted among those that are not drawn.
    """
    drawn = pages(name, panels, owner)
    missing = hidden + len(panels) - sum(len(chunk) for _, chunk in drawn)
    caption += f" {missing} more panels are not drawn." if missing else ""
    return [Figure(page, title, caption + beside(chunk), draw(chunk)) for page, chunk in drawn]


def canvas(count: int, height: float, legend: float = 0.0) -> tuple[Canvas, list[Axes]]:
    """Return a figure with `count` panels in rows of `height` inches, and `legend` inches for what stands below."""
    columns = {1: 1, 2: 2, 4: 2}.get(count, 3)
    rows = -(-count // columns)
    figure = Canvas(figsize=(WIDTH if count > 1 else NARROW, height * rows + legend), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for unused in axes.flat[count:]:
        unused.remove()
    for axis in axes.flat[:count]:
        axis.grid(visible=True)
    return figure, list(axes.flat[:count])


def log_ticks(axes: Axes, which: str, values: Iterable[float], most: int = 7) -> None:
    """Give axis `which` ("x" or "y") a base-2 log scale over `values`, labelled 8, 16, ..., long powers as 2^17."""
    ticks = sorted({v for v in values if v > 0})
    if len(ticks) > most:  # powers of two inside their range in place of the values, thinned
        powers = [2.0**k for k in range(math.ceil(math.log2(ticks[0])), math.floor(math.log2(ticks[-1])) + 1)]
        ticks = powers if len(powers) >= 3 else ticks
        ticks = ticks[:: -(-len(ticks) // most)]
    getattr(axes, f"set_{which}scale")("log", base=2)
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator(ticks))
    long = bool(ticks) and ticks[-1] >= 1e5 and all(math.log2(tick).is_integer() for tick in ticks)
    labels = [f"$2^{{{math.log2(tick):.0f}}}$" if long else f"{tick:.6g}" for tick in ticks]
    axis.set_major_formatter(FixedFormatter(labels))
    axis.set_minor_locator(NullLocator())


def decimal_ticks(axes: Axes, which: str, low: float, high: float) -> None:
    """Give axis `which` a base-10 log scale from `low` to `high` with plain labels 0.1, 0.2, 0.5, 1, ..."""
    getattr(axes, f"set_{which}scale")("log")
    getattr(axes, f"set_{which}lim")(low, high)
    axis = axes.xaxis if which == "x" else axes.yaxis
    steps = (1.0, 2.0, 5.0) if high / low < 60 else (1.0,)
    axis.set_major_locator(LogLocator(10, subs=steps))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_formatter(NullFormatter())


def outer_labels(axes: Sequence[Axes], x: str, y: str) -> None:
    """Write the axis labels once per row and column, at the outer panels."""
    places = [axis.get_subplotspec() for axis in axes]
    lowest: dict[int, int] = {}
    for i, place in enumerate(places):
        if place is not None:
            lowest[place.colspan.start] = i
            if place.colspan.start == 0:
                axes[i].set_ylabel(y)
    for i in lowest.values():
        axes[i].set_xlabel(x)


def entitle(axes: Axes, count: int, text: str, **options: Any) -> None:
    """Write the title of one of `count` panels, on as many lines as its width asks for."""
    width, size = {1: (56, 8.5), 2: (42, 8.5), 4: (42, 8.5)}.get(count, (33, 7.5))
    axes.set_title(plain(text, width), fontsize=size, **options)


def count_legend(figure: Canvas, counts: Sequence[Any], panels: int) -> None:
    """Put the legend of an ordered family of n under a figure of some panels."""
    handles = [
        Line2D([], [], **ordered_look(rank, len(counts)), markersize=3.8, linewidth=1.1, label=f"n = {n:g}")
        for rank, n in enumerate(counts)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=6 if panels > 1 else 3)


def legend_below(axes: Axes, columns: int = 1, **options: Any) -> None:
    """Put the legend of one panel under its axis, outside the data, below tick and axis labels."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    below = axes.transAxes + ScaledTranslation(0, -_LABELS_HEIGHT / 72, figure.dpi_scale_trans)
    anchor = {"bbox_to_anchor": (0.5, 0), "bbox_transform": below, "borderaxespad": 0.0}
    axes.legend(loc="upper center", ncols=columns, **anchor, **options)
