"""The criteria of a group in the order in which figures and tables show them, each with its look; numbers as cells."""

from collections.abc import Mapping
from typing import Any

from expreg.core.page.style import finite, look, records
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


def limits(record: Mapping[str, Any], value: str, prefix: str = "") -> tuple[Any, Any, Any] | None:
    """Return a number with its interval as a cell, None where there is neither."""
    found = (record.get(value), record.get(f"{prefix}low"), record.get(f"{prefix}high"))
    return None if all(finite(one) is None for one in found) else found
