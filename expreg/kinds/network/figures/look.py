"""The criteria of a group in the order in which figures and tables show them, each with a look of its own."""

from collections.abc import Mapping
from typing import Any

from expreg.core.page.style import look, records
from expreg.kinds.network.summary.groups import criteria


def _ranked() -> list[str]:
    return [criterion.name for criterion in sorted(criteria(), key=lambda criterion: criterion.rank)]


def criteria_of(group: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the criteria of a group, most telling first."""
    rank = {name: i for i, name in enumerate(_ranked())}
    return sorted(records(group, "criteria"), key=lambda found: rank.get(found.get("criterion", ""), len(rank)))


def criterion_look(name: str) -> dict[str, Any]:
    """Return colour, marker and line style of one criterion: the same in every figure."""
    ranked = _ranked()
    return look(ranked.index(name) if name in ranked else len(ranked) - 1)
