"""What page and terminal say of a search: that it chose the widths, and what whole lines show of its assumption."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from expreg.core.bisection import verified
from expreg.core.page.style import finite, records
from expreg.core.page.words import number, share
from expreg.kinds.network.figures.look import criteria_of, limits

Record = Mapping[str, Any]


def search_of(summary: Record) -> Record | None:
    """Return what was searched, None where all of the grid was run."""
    found: Record | None = (summary.get("settings") or {}).get("search")
    return found


def whole(cells: pd.DataFrame, summary: Record) -> pd.DataFrame:
    """Return the cells of replicates that ran every width; which of the others ran one depends on their outcomes."""
    search = search_of(summary)
    return cells if search is None else cells[verified(cells["replicate"], search["verify"])]


def caption(summary: Record) -> str:
    """Return what to add to the caption of a figure of success curves."""
    filled = " Widths that a replicate did not run count as none below its bracket and as success above."
    return filled if search_of(summary) else ""


def sentences(summary: Record) -> Iterator[str]:
    """Yield per criterion and group how often success is not monotone, and what that does to the thresholds."""
    if search_of(summary) is None:
        return
    for group in records(summary, "groups"):
        for criterion in criteria_of(group):
            found, where = criterion.get("verification") or {}, f"{criterion.get('criterion')}, {group.get('label')}"
            if not found.get("replicates"):
                yield f"{where}: no replicate ran every width, so nothing tests that success is monotone in m."
            elif found.get("non_monotone"):
                yield (
                    f"{where}: of the {found['replicates']} replicates that ran every width"
                    f" {share(found['non_monotone'])} are not monotone; there the search puts the success curve at"
                    f" {number(found['curve'])} and the order statistic at {number(found['last'])} times the width of"
                    " the whole grid."
                )


def table(group: Record) -> dict[str, Any]:
    """Return the table of what the replicates that ran every width say about the search."""
    rows = [(c.get("criterion"), c["verification"]) for c in criteria_of(group) if c.get("verification")]
    return {
        "title": "What the search assumes",
        "folded": "open",
        "note": "That success begins once and stays. Of the replicates that ran every width, all n together: the share"
        " whose success is not monotone, with its exact interval; the share of their outcomes that the search would"
        " have got wrong; its width over that of the whole grid, for the success curve (with one standard error) and"
        " for the order statistic, which waits until all wider networks succeed.",
        "columns": ["criterion", "replicates", "not monotone", "wrong outcomes", "curve, factor", "m*_last, factor"],
        "rows": [
            [
                *(name, found.get("replicates"), limits(found, "non_monotone"), found.get("wrong")),
                *(_around(found), found.get("last")),
            ]
            for name, found in rows
        ],
    }


def _around(found: Record) -> tuple[float, float, float] | None:
    value, error = finite(found.get("curve")), finite(found.get("curve_error"))
    return None if value is None or error is None else (value, value / error, value * error)
