"""Sources of cells: what `execute` runs next, from the rows there are; all of a grid at once, or a search by rounds."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from expreg.core.bisection import bisect, verified
from expreg.types import Settings

if TYPE_CHECKING:
    import pandas as pd

Source = Callable[[Callable[[], "pd.DataFrame"]], Collection[str]]
"""The ids of the cells that are wanted, given a function that reads the rows there are.

It is asked again when these have ended, and may name finished cells: they do not run again. When it names no other
cell, the run is over. What it returns must depend on the rows alone: then a resumed run asks for the same cells.
"""
Success = Callable[["pd.DataFrame", str], Mapping[str, float]]
"""(rows, criterion) to 1, 0 or nan by the id of the cell."""


Cells = dict[str, tuple[Settings, Mapping[str, Any]]]
"""Settings and axis values of each cell, by id."""


class Work(NamedTuple):
    """The cells of a run, and their source; of a search also what is known of its rounds.

    `expected`: cells such as one round may run, for which lanes are chosen; `most`: how many cells there are at the
    most; `plan()`: what the plan keeps about the cells, where the source finds them as it goes. It then reads all rows
    of the directory, old failures too, while those of other sources run again first.
    """

    cells: Cells
    source: Source
    expected: Cells | None = None
    most: int = 0
    plan: Callable[[], Mapping[str, Any]] | None = None


class Line(NamedTuple):
    """Cells that differ in the searched axis only, in its order."""

    cells: tuple[str, ...]
    replicate: int


def lines(axes: Mapping[str, Mapping[str, Any]], axis: str) -> list[Line]:
    """Return the lines along `axis` of cells whose values of all axes are given by id."""
    found: dict[tuple[Any, ...], list[tuple[Any, str]]] = {}
    replicates = {}
    for cell, values in axes.items():
        key = tuple(item for item in values.items() if item[0] != axis)
        found.setdefault(key, []).append((values[axis], cell))
        replicates[key] = int(values.get("replicate", 0))
    return [Line(tuple(cell for _, cell in sorted(of)), replicates[key]) for key, of in found.items()]


def grid(cells: Collection[str]) -> Source:
    """Return the source of all cells of a grid."""
    return lambda _: cells


def search(along: Iterable[Line], criteria: Sequence[str], verify: float, success: Success) -> Source:
    """Return the source that brackets where each criterion begins to hold, on every line for itself."""
    known = list(along)

    def source(read: "Callable[[], pd.DataFrame]") -> Collection[str]:
        rows = read()
        seen = dict.fromkeys(rows["cell"], math.nan)
        return wanted(known, [seen | dict(success(rows, name)) for name in criteria], verify)

    return source


def until(
    replicates: Mapping[str, int], first: int, goal: float, half_width: Callable[["pd.DataFrame"], float]
) -> Source:
    """Return the source that adds replicates until `half_width(rows)` is at most `goal`, or there are no more.

    `replicates`: the number of the replicate of each cell; the first round runs `first` of them. A further one runs as
    many as its half-width asks for, which falls like the root of their number, at most twice as many as before.
    """
    most = max(replicates.values()) + 1

    def source(read: "Callable[[], pd.DataFrame]") -> Collection[str]:
        rows, count = read(), min(first, most)
        while True:
            asked = [cell for cell, replicate in replicates.items() if replicate < count]
            here = rows[rows["cell"].isin(asked)]
            if len(here) < len(asked) or count == most:
                return asked
            ratio = half_width(here) / goal
            if ratio <= 1:
                return ()
            count = min(math.ceil(count * min(max(ratio**2, 1.1), 2.0)), most)

    return source


def wanted(along: Iterable[Line], outcomes: Sequence[Mapping[str, float]], verify: float) -> list[str]:
    """Return the cells to run next, given the outcomes of each criterion by id: one per line and open bracket.

    Of the share `verify` of the replicates all cells are wanted, whatever their outcomes.
    """
    found: dict[str, None] = {}
    for cells, replicate in along:
        if verified(replicate, verify):
            found |= dict.fromkeys(cell for cell in cells if cell not in outcomes[0])
            continue
        for known in outcomes:
            asked = bisect([known.get(cell) for cell in cells]).asked
            if asked is not None:
                found[cells[asked]] = None
    return list(found)


def expected(along: Sequence[Line], criteria: int, verify: float) -> list[str]:
    """Return the cells that a search would run if success began anywhere on its lines with equal probability.

    For each criterion at a place of its own. Where they begin near to each other a search runs fewer cells: a cell
    serves them all, and as many as of one criterion are needed at the least.
    """
    rng = np.random.default_rng(0)
    begins = [[rng.integers(len(line.cells) + 1) for _ in range(criteria)] for line in along]
    truth = [
        {
            cell: float(place >= begin[which])
            for line, begin in zip(along, begins, strict=True)
            for place, cell in enumerate(line.cells)
        }
        for which in range(criteria)
    ]
    found: dict[str, None] = {}
    while asked := wanted(along, [{cell: known[cell] for cell in found} for known in truth], verify):
        found |= dict.fromkeys(asked)
    return list(found)
