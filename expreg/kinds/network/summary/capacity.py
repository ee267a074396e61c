"""The smallest width of a fit beside the counts of parameters: m* in units of n / d, and what that decides.

Only W is trained, so m d numbers are free; with output weights and biases a network has m (d + 2) parameters. A smooth
activation cannot reach all labels while m (d + 2) < n, and it can once m d >= 2 n, m even (Madden and Thrampoulidis,
arXiv:2308.02001; the first is the dimension of the image, Sard).
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from expreg.core.stats.describe import CONSISTENT, CONTRADICTS, UNRESOLVED, Record, verdict
from expreg.kinds.network.summary import spreads
from expreg.types import Settings

CRITERION = "fit"
ENOUGH = 2.0
# An exponent of m* is that of n / d if it lies within this of it.
NEAR = 0.2


def describe(group: Record, points: Sequence[tuple[int, pd.DataFrame]]) -> Record:
    """Return `capacity`, a record for each n; nothing where no fit was tried.

    The threshold of `fit` is given as a width `m`, in weights per point, `trained` = m d / n, and in `parameters` per
    point, m (d + 2) / n, each with `_low` and `_high`; None where it lies `beyond` the grid, except for the end that is
    known. `below_fits` of `below_trials` networks with m (d + 2) < n fit.
    """
    criterion = _criterion(group)
    if criterion is None:
        return {}
    found = []
    for (n, rows), threshold in zip(points, criterion["thresholds"], strict=True):
        d = int(rows["d"].iloc[0])
        width = _limits(threshold)
        units = {"m": 1.0, "trained": d / n, "parameters": (d + 2) / n}
        numbers = {
            f"{name}{end}": None if value is None else value * factor
            for name, factor in units.items()
            for end, value in zip(("", "_low", "_high"), width, strict=True)
        }
        below = [point for point in criterion["success"] if point["n"] == n and point["m"] * (d + 2) < n]
        tried = {"below_trials": sum(p["trials"] for p in below), "below_fits": sum(p["successes"] for p in below)}
        found.append({"n": n, "d": d, **numbers, "beyond": threshold["beyond"], **tried})
    return {"capacity": found}


def _criterion(group: Record) -> Record | None:
    return next((criterion for criterion in group["criteria"] if criterion["criterion"] == CRITERION), None)


def _limits(threshold: Record) -> tuple[float | None, float | None, float | None]:
    """Return m* and the ends of its interval; beyond the grid, the end of the grid is the one that is known."""
    value, low, high = (threshold[f"interpolated{end}"] for end in ("", "_low", "_high"))
    narrowest, widest = threshold["narrowest"], threshold["widest"]
    known = {"below": (None, None, narrowest), "above": (None, widest, None)}
    return known.get(threshold["beyond"], (value, low, high))


def verdicts(group: Record) -> list[Record]:
    """Return what the widths of a group say of the counts of parameters; nothing where no fit was tried."""
    rows, criterion = group.get("capacity"), _criterion(group)
    if not rows or criterion is None:
        return []
    replicates = min(threshold["replicates"] for threshold in criterion["thresholds"])
    judged = (needed(rows), enough(rows), growth(rows, criterion["exponent"]))
    return [
        verdict(claim, CRITERION, claimed, numbers, outcome, replicates=replicates)
        for claim, claimed, numbers, outcome in judged
    ]


Judged = tuple[str, float, Record, tuple[str, str]]


def needed(rows: Sequence[Record]) -> Judged:
    """Judge "no network with m (d + 2) < n fits" by the thresholds and by the fits among such networks.

    `consistent` if such networks were tried, none fits, and the interval of every m* lies at or above n / (d + 2);
    `contradicts` if the interval of some m* ends below it: half of such fits succeed, at delta = 0.5.
    """
    worst = min(rows, key=lambda row: _or(row["parameters"], _or(row["parameters_low"], 0.0)))
    tried, fits = (sum(row[f"below_{what}"] for row in rows) for what in ("trials", "fits"))
    where = f"{_at(worst, 'parameters')} at n = {worst['n']}, d = {worst['d']}"
    seen = f"{fits} of {tried} networks with fewer than n parameters fit" if tried else "no smaller network was tried"
    if any(_or(row["parameters_high"], math.inf) < 1 for row in rows):
        words = CONTRADICTS
    elif tried and not fits and all(_or(row["parameters_low"], -math.inf) >= 1 for row in rows):
        words = CONSISTENT
    else:
        words = UNRESOLVED
    return "parameters needed", 1.0, _numbers(worst, "parameters"), (words, f"{where}; {seen}.")


def enough(rows: Sequence[Record]) -> Judged:
    """Judge "from m d = 2 n on fits are found": `consistent` if the interval of every m* d / n ends at 2 or below.

    `contradicts` if one begins above 2: then they exist, and one start per replicate does not find them.
    """
    worst = max(rows, key=lambda row: _or(row["trained"], _or(row["trained_high"], math.inf)))
    where = f"{_at(worst, 'trained')} at n = {worst['n']}, d = {worst['d']}"
    if any(_or(row["trained_low"], -math.inf) > ENOUGH for row in rows):
        words, reason = CONTRADICTS, f"{where}: fits exist there, but one start per replicate does not find them."
    elif all(_or(row["trained_high"], math.inf) <= ENOUGH for row in rows):
        words, reason = CONSISTENT, f"{where}, the largest of all n."
    else:
        words, reason = UNRESOLVED, f"{where}: its interval is not known to end at {ENOUGH:g} or below."
    return "parameters enough", ENOUGH, _numbers(worst, "trained"), (words, reason)


def growth(rows: Sequence[Record], exponent: Record) -> Judged:
    """Judge "m* grows like n / d": its raw exponent lies within NEAR of that of n / d (1 at fixed d, 0 at d = n)."""
    slope = spreads.slope([row["n"] for row in rows], [math.log(row["n"] / row["d"]) for row in rows])
    claimed = 0.0 if slope is None else round(slope, 6) + 0.0
    numbers, used = exponent["raw"], exponent["used"]
    if all(row["beyond"] == "below" for row in rows):
        reason = f"m = {max(row['m_high'] for row in rows):g}, the narrowest width of the grid, is enough at every n."
        return "growth", claimed, numbers, (UNRESOLVED, reason)
    if not exponent["usable"]:
        return "growth", claimed, numbers, (UNRESOLVED, f"no usable exponent: {exponent['why_not']}.")
    low, high = numbers["low"], numbers["high"]
    found = f"over n = {used[0]}..{used[-1]} the raw exponent lies in [{low:.2f}, {high:.2f}]; that of n / d is"
    if claimed - NEAR <= low and high <= claimed + NEAR:
        if numbers["largest"] <= claimed + NEAR:  # another verdict was not possible
            reason = f"{found} {claimed:.2f}, but this grid shows at most {numbers['largest']:.2f}: add wider networks."
            return "growth", claimed, numbers, (UNRESOLVED, reason)
        return "growth", claimed, numbers, (CONSISTENT, f"{found} {claimed:.2f}, within {NEAR:g}.")
    if high < claimed - NEAR or low > claimed + NEAR:
        return "growth", claimed, numbers, (CONTRADICTS, f"{found} {claimed:.2f}, further away than {NEAR:g}.")
    return "growth", claimed, numbers, (UNRESOLVED, f"{found} {claimed:.2f}, not shown to lie within {NEAR:g}.")


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _numbers(row: Record, unit: str) -> Record:
    return {"value": row[unit], "low": row[f"{unit}_low"], "high": row[f"{unit}_high"]}


def _at(row: Record, unit: str) -> str:
    """Return a threshold in words."""
    if row["beyond"] == "below":
        return f"at most {row[f'{unit}_high']:.2f}"
    return f"{row[unit]:.2f}" if row["beyond"] is None else f"more than {row[f'{unit}_low']:.2f}"


# --- what a plan says


def outlook(cells: Sequence[Settings], _analysis: Mapping[str, Any]) -> dict[str, Any]:
    """Return the widths that counting parameters suggests beside those of the sweep: `counts`, and `lines`."""
    widths: dict[tuple[int, int], set[int]] = defaultdict(set)
    for settings in cells:
        widths[settings["data"]["n"], settings["data"]["d"]].add(settings["network"]["m"])
    counts = [
        {"n": n, "d": d, "needed": n / (d + 2), "enough": ENOUGH * n / d, "narrowest": min(m), "widest": max(m)}
        for (n, d), m in sorted(widths.items(), key=lambda item: item[0][::-1])
    ]
    lines = ["counting parameters: m >= n / (d + 2) is needed, m = 2 n / d is enough; the sweep"]
    for row in counts:
        lines.append(
            f"  n = {row['n']}, d = {row['d']}: {row['needed']:.3g} .. {row['enough']:.3g};"
            f" {row['narrowest']} .. {row['widest']}"
        )
    return {"counts": counts, "lines": lines}
