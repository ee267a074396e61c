"""Certificates in words, for a terminal: one in full, many as a table of shares."""

from collections.abc import Mapping, Sequence
from statistics import median_low, mode
from typing import Any

from expreg.core.page import terminal
from expreg.core.page.words import number

MOST_ROWS = 40
CONDITIONS = {
    "movement": "movement ({}) of neurons",
    "kernel": "kernel (C.23), lambda_min(H) stays above 2/3 of its start",
}
NOTES = """Margin: allowed over needed of the condition that is closest to failing; certified from 1 on.
Decrease: the share of ||r||^2 that a step takes away at least. Steps: until ||r|| <= {eps:g} is sure.
Medians over replicates; from the step size on, over those that are certified."""


def certificate_text(one: Mapping[str, Any]) -> str:
    """Return what one certificate says: whether it holds, why, and its numbers."""
    kind = "refined certificate, (C.22)-(C.25)" if one["refined"] else "basic certificate, (C.20)-(C.21)"
    lines = [f"{kind}: {'holds' if one['holds'] else 'does not hold'}", *(f"  {line}" for line in one["reasons"])]
    facts = {
        "rate": f"{one['rate']:.8g} of ||r||^2 is left per step" if one["holds"] else None,
        "radius": f"{number(one['radius'])}, the largest of all neurons" if one["radius"] is not None else None,
        "steps": f"{one['steps']} until ||r|| <= {one['eps']:g} is sure" if one["steps"] is not None else None,
        "margins": ", ".join(f"{name} {number(value)}" for name, value in one["margins"].items()),
        "at the start": f"||r|| = {number(one['residual'])}, eigenvalues of H from {number(one['lambda_0'])} to "
        f"{number(one['lambda_max_0'])}",
    }
    lines += terminal.pairs({name: value for name, value in facts.items() if value is not None}, indent=2)
    return "\n".join(lines) + ("" if one["holds"] else "\n  That proves nothing about the training itself.")


def certificates_text(found: Sequence[Mapping[str, Any]]) -> str:
    """Return one line per setting: how many replicates are certified, and the medians of their numbers."""
    if len(found) == 1:
        return certificate_text(found[0])
    groups: dict[tuple[tuple[str, Any], ...], list[Mapping[str, Any]]] = {}
    for one in found:
        axes = tuple((name, value) for name, value in one["axes"].items() if name != "replicate")
        groups.setdefault(axes, []).append(one)
    rows = [[" ".join(f"{name}={value}" for name, value in axes), *_medians(of)] for axes, of in groups.items()]
    head = ["", "certified", "margin", "condition", "step size", "decrease", "steps", "radius"]
    hidden = len(rows) - MOST_ROWS
    lines = terminal.lines(head, rows[:MOST_ROWS], indent=0)
    lines += [f"... and {hidden} more; --json has them all"] if hidden > 0 else []
    named = "; ".join(CONDITIONS[name] for name in found[0]["margins"])
    movement = "C.22" if found[0]["refined"] else "C.20"
    return "\n".join([*lines, f"Condition: {named.format(movement)}.", NOTES.format(eps=found[0]["eps"])])


def _medians(group: Sequence[Mapping[str, Any]]) -> list[str]:
    holds = [one for one in group if one["holds"]]
    closest = [
        min((value, name) for name, value in one["margins"].items() if value is not None)
        for one in group
        if any(one["margins"].values())
    ]
    columns = [[one[name] for one in holds if one[name] is not None] for name in ("eta", "decrease", "steps", "radius")]
    margin, *medians = (
        number(median_low(values) if values else None) for values in ([margin for margin, _ in closest], *columns)
    )
    condition = mode(name for _, name in closest) if closest else number(None)
    return [f"{len(holds)} of {len(group)}", margin, condition, *medians]
