"""What a run of networks found, in a sentence and a small table: widths, or else the best settings."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from expreg.core.page import grid, settings
from expreg.core.page.style import Figure, finite, records
from expreg.core.page.words import number, threshold
from expreg.core.stats.describe import OUTSIDE, with_interval
from expreg.kinds.network.columns import INNER
from expreg.kinds.network.events import BUILT_IN, EVENTS
from expreg.kinds.network.figures.look import criteria_of
from expreg.kinds.network.figures.thresholds import exponent_words, level_of, share_words
from expreg.kinds.network.summary.groups import criteria
from expreg.output import counted

Record = Mapping[str, Any]
MOST = 4
"""Groups that have a sentence and a block of the table; the figures and the tables below have more."""
GROWTH = "exponent of n"
"""Names the row of exponents."""
SUBJECTS = {"fit": "fits succeed", "E5": "networks converge"}
"""What succeeds, by the criterion that leads a run; of another criterion its title says so."""


def sentences(summary: Record) -> list[str]:
    """Return from which width on networks succeed at each n, and how that width grows, for each of the first groups."""
    groups = records(summary, "groups")
    if not widths_vary(groups):
        return settings.sentences(summary)
    found = [f"{_sentence(summary, group)}{_steepest(summary, group)}" for group in groups[:MOST] if criteria_of(group)]
    return found + ([f"{len(groups) - MOST} more groups are in the tables."] if len(groups) > MOST else [])


def settings_figure(cells: pd.DataFrame, _curves: pd.DataFrame, summary: Record) -> list[Figure]:
    """Draw the outcome over every setting that was swept beside n and m."""
    found = summary.get("best") or {}
    compared = [axis for axis in found.get("axes", ()) if axis not in INNER]
    return grid.figure(cells, found.get("swept", ()), compared, str(found.get("final", "")))


def widths_vary(groups: list[dict[str, Any]]) -> bool:
    """Return whether several widths were run: else there is no threshold to be found."""
    return any(len({row["m"] for row in records(c, "success")}) > 1 for g in groups for c in records(g, "criteria"))


def _sentence(summary: Record, group: Record) -> str:
    lead = _conditions(group)[0]
    name, rows = str(lead.get("criterion")), records(lead, "thresholds")
    within = str(lead.get("title", "")).partition(" converges")[2] if name == "E5" else ""
    what = f"{SUBJECTS[name]}{within}" if name in SUBJECTS else f"networks meet {name} ({lead.get('title')})"
    n, m = ", ".join(number(row["n"]) for row in rows), ", ".join(map(_whole, rows))
    level, few = share_words(level_of(summary)), [row for row in rows if _few(row)]
    who = f"{level} of the {what}"
    if few:
        count = counted(min(row["replicates"] for row in few), "replicate")
        who = f"with {count} ({level} needs {few[0]['replicates_needed']}), {what}"
    beyond = {row.get("beyond") for row in rows}
    if beyond == {"above"}:
        text = f"even at m = {number(rows[0]['widest'])}, the widest, fewer than {level} of the {what} at n = {n}."
    elif beyond == {"below"}:
        text = f"{who} already at m = {number(rows[0]['narrowest'])}, the narrowest, at n = {n}."
    else:
        text = f"{who} from m = {m} at n = {n}{_growth(summary, group, lead)}."
    return f"{group['label']}: {text}" if group.get("label") else text[:1].upper() + text[1:]


def _few(row: Record) -> bool:
    """Return whether there are too few replicates for an interval of the quantile (D.4)."""
    count, needed = finite(row.get("replicates")), finite(row.get("replicates_needed"))
    return count is not None and needed is not None and count < needed


def _width(row: Record) -> Any:
    """Return a threshold as a cell of the table, without an interval where there are too few replicates for one."""
    found = threshold(row)
    return (found[0], None, None) if _few(row) and not isinstance(found, str) else found


def _whole(row: Record) -> str:
    found = threshold(row)
    return found if isinstance(found, str) else str(found[0])


def _conditions(group: Record) -> list[dict[str, Any]]:
    """Return the criteria that the theorem or its proof asks for, most telling first; all where it asks for none."""
    found = criteria_of(group)
    return [c for c in found if c.get("claim_exponent") is not None] or found


def _shown(group: Record) -> list[dict[str, Any]]:
    """Return the criteria of the table: those conditions, and events that were registered."""
    asked = [c.get("criterion") for c in _conditions(group)] + [name for name in EVENTS if name not in BUILT_IN]
    return [c for c in criteria_of(group) if c.get("criterion") in asked]


def _steepest(summary: Record, group: Record) -> str:
    """Return the criterion whose width grows the most among the others, in a sentence; empty where none is known.

    Its verdict is about m without the factors of the theorem, so that its exponent is another one, named here too.
    """
    others = [
        (value, str(c.get("criterion")), exponent_words(c["exponent"]))
        for c in _conditions(group)[1:]
        if (c.get("exponent") or {}).get("usable")
        and (value := finite((c["exponent"].get("raw") or {}).get("value"))) is not None
    ]
    if not others:
        return ""
    _, name, words = max(others)
    text = f" Of the proof's conditions, {name} makes m grow fastest, like n^{words}"
    about = ("width", group.get("label"), name)
    for found in records(summary, "verdicts"):
        measured = finite(found.get("measured"))
        same = tuple(found.get(key) for key in ("claim", "group", "criterion")) == about
        if same and measured is not None and found.get("verdict") != OUTSIDE:
            factor = "lambda^-2 " * (measured == (found.get("scaled") or {}).get("value"))
            left = with_interval(measured, finite(found.get("low")), finite(found.get("high")), ".2f")
            text += f"; its verdict divides by {factor}log(n/delta), which leaves n^{left}"
    return f"{text}."


def _growth(summary: Record, group: Record, criterion: Record) -> str:
    """Return how the width grows with n, and which width the theorem calls enough; empty where neither is known.

    Nearly flat: the interval of the exponent has 0 in it and linear growth above it.
    """
    exponent = criterion.get("exponent") or {}
    low, high = (finite((exponent.get("raw") or {}).get(end)) for end in ("low", "high"))
    words, grows, by = exponent_words(exponent, none=""), "", "; by"
    if words and low is not None and high is not None:
        grows = f": nearly flat, n^{words}" if low <= 0 <= high < 1 else f", growing like n^{words}"
    elif len(rows := records(criterion, "thresholds")) > 1 and not any(map(_few, rows)) and exponent.get("why_not"):
        grows, by = f"; how they grow cannot be read off: {exponent['why_not']}", ". By"
    applies = any(
        (row.get("group"), row.get("criterion")) == (group.get("label"), "E5") and row.get("verdict") != OUTSIDE
        for row in records(summary, "chain")
    )
    if not (applies and criterion.get("criterion") == "E5"):
        return grows
    return f"{grows}{by} the theorem m of order lambda^-2 n^(2+o(1)) log(n/delta) is enough"


def table(summary: Record) -> dict[str, Any]:
    """Return m*(n) with its interval, a row per n and a column per criterion, and the exponents of n below."""
    groups = [group for group in records(summary, "groups")[:MOST] if criteria_of(group)]
    if not widths_vary(groups):
        return settings.table(summary)
    titles = {str(c.get("criterion")): str(c.get("title")) for group in groups for c in _shown(group)}
    level, confidence = share_words(level_of(summary)), finite((summary.get("settings") or {}).get("confidence"))
    intervals = "intervals" if confidence is None else f"{100 * confidence:.4g} % intervals"
    link = {criterion.name: criterion.link for criterion in criteria()}
    rows = [row for group in groups for row in _rows(group, list(titles), len(groups) > 1)]
    exponents = ", and exponents of n in m" * any(row[0] == GROWTH for row in rows)
    return {
        "title": "",
        "note": f"Least widths m at which {level} of the networks succeed{exponents}, with {intervals}. "
        + "; ".join(f"{name}: {title}" for name, title in titles.items())
        + ".",
        "columns": ["", *(f"{name}, {link[name]}" if len(name) < 5 and link.get(name) else name for name in titles)],
        "rows": rows,
    }


def _rows(group: Record, names: list[str], labelled: bool) -> Iterator[list[Any]]:
    found = {str(c.get("criterion")): c for c in criteria_of(group)}
    at = {name: {row["n"]: row for row in records(criterion, "thresholds")} for name, criterion in found.items()}
    counts = sorted({n for rows in at.values() for n in rows})
    if labelled:
        yield [str(group.get("label")), *[""] * len(names)]
    for n in counts:
        yield [f"n = {n}", *(_width(at[name][n]) if n in at.get(name, {}) else None for name in names)]
    if len(counts) > 1:
        words = [exponent_words((found.get(name) or {}).get("exponent") or {}, none="–") for name in names]
        yield [GROWTH, *words]
