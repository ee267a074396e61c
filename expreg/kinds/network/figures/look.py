"""The criteria of a group in the order in which figures and tables show them, each with a look of its own."""

from collections.abc import Mapping
from typing import Any

from expreg.core.page.style import look, records
from expreg.kinds.network.summary.groups import criteria


def _place(name: str) -> int:
    """Return the place of a criterion among all, most telling first; the last one where it is not known."""
    ranked = [criterion.name for criterion in sorted(criteria(), key=lambda criterion: criterion.rank)]
    return ranked.index(name) if name in ranked else len(ranked) - 1


def criteria_of(group: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the criteria of a group, most telling first."""
    return sorted(records(group, "criteria"), key=lambda found: _place(found.get("criterion", "")))


def criterion_look(name: str) -> dict[str, Any]:
    """Return colour, marker and line style of one criterion: the same in every figure."""
    return look(_place(name))
