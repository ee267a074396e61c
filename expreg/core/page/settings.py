"""The best settings of a grid in a sentence and a table."""

from collections.abc import Mapping
from typing import Any

from expreg.core.page.style import finite
from expreg.core.page.words import number
from expreg.core.stats.describe import shown
from expreg.core.stats.settings import short
from expreg.output import counted
from expreg.types import TRIAL

ALIKE = 0.05
"""From this p-value on, the best setting is not shown to be better than the next."""


def best(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the best settings as `core.stats.settings.best` found them."""
    return summary.get("best") or {"axes": [], "rows": []}


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """Return how many settings converge and which is the best, in one sentence; none where nothing is swept."""
    found = best(summary)
    if not found["rows"]:
        return []
    first, names = found["rows"][0], short(found["axes"])
    setting = ", ".join(f"{names[axis]} = {shown(first[axis])}" for axis in found["axes"] if axis != TRIAL)
    converged = round(first["share"] * first["runs"])
    if finite(first["final"]) is None and found["none"] == found["count"]:
        return [f"In none of {found['count']} settings does the median run end with a finite {found['final']}."]
    if found.get("trials") or found["none"] == found["count"]:
        of = f"{found['final']} {number(first['final'])} (median of {counted(first['runs'], 'run')})"
        if not found.get("trials"):
            alike = ", not shown to be better than the next" if (found.get("p_value") or 0.0) >= ALIKE else ""
            return [f"The best of {found['count']} settings is {setting}: {of}{alike}."]
        whole = f", {found['count']} of which ran in full," if found["count"] < found["trials"] else ""
        return [f"The best of {found['trials']} trials{whole} is number {first[TRIAL]} ({setting}): {of}."]
    steps = f", in {number(first['steps'])} steps (median)" if finite(first["steps"]) is not None else ""
    return [
        f"In {found['all']} of {found['count']} settings every run converges, in {found['none']} none does. The best is"
        f" {setting}: {converged} of {first['runs']} converge{steps}."
    ]


def table(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the best settings, as `words.Parts` describes a table."""
    found = best(summary)
    names = short(found["axes"])
    more = f" The first {len(found['rows'])} of {found['count']}." if found.get("count", 0) > len(found["rows"]) else ""
    final, converge = found.get("final", ""), not found.get("trials") and found.get("none") != found.get("count")
    by = "the share of runs that converge, then by the medians of their steps and of" if converge else "the median of"
    return {
        "title": "Best settings",
        "note": f"By {by} {final}, which has its 5 % and 95 % quantiles in brackets.{more}",
        "columns": [
            *(names[axis] for axis in found["axes"]),
            *(["converged", "steps"] if converge else ["runs"]),
            final,
        ],
        "rows": [
            [
                *(shown(row[axis]) for axis in found["axes"]),
                *(
                    [f"{round(row['share'] * row['runs'])} of {row['runs']}", row["steps"]]
                    if converge
                    else [row["runs"]]
                ),
                (row["final"], row["low"], row["high"]),
            ]
            for row in found["rows"]
        ],
    }
