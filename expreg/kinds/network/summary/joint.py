"""Exponents of n and lambda together, over all groups of a run that differ in their data only.

Within one group lambda is a function of n, and the two exponents cannot be separated. Groups with other data at the
same n, such as near duplicates at several angles, separate them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from expreg import theory
from expreg.core.stats import exponents
from expreg.core.stats.describe import UNRESOLVED, Record, verdict
from expreg.core.stats.thresholds import replicates_needed
from expreg.kinds.network.summary import growth

LEAST_FACTOR = {"n": exponents.LEAST_SPAN, "1/lambda": 3.0}
"""Over a smaller factor, that the other column does not explain, no exponent is read."""


class Located(NamedTuple):
    """The threshold of one criterion at one n of a group, and the median lambda there."""

    point: exponents.Point
    lam: float | None


Thresholds = Mapping[str, Sequence[Located]]  # by criterion


def describe(
    keys: Sequence[Mapping[str, Any]], thresholds: Sequence[Thresholds], delta: float, confidence: float
) -> list[Record]:
    """Return one record per pool of groups and criterion: `n` and `1/lambda` with intervals, or why there is none.

    `keys`, `thresholds`: those of the groups. Groups are pooled if they differ in settings of their data only, not in
    its kind.
    """
    pools: dict[str, list[Thresholds]] = {}
    for key, found in zip(keys, thresholds, strict=True):
        pools.setdefault(pool(key), []).append(found)
    return [
        {"pool": label, "groups": len(members), "criterion": name} | _fit([*_usable(members, name)], delta, confidence)
        for label, members in pools.items()
        if len(members) > 1
        for name in dict.fromkeys(name for found in members for name in found)
    ]


def pool(key: Mapping[str, Any]) -> str:
    """Return the pool of a group: what its key says beside the settings of its data."""
    others = (f"{name} = {value}" for name, value in key.items() if name.split(".")[0] != "data")
    return ", ".join([str(key["data"]), *others])


def _usable(members: Sequence[Thresholds], name: str) -> Iterator[Located]:
    for found in members:
        for at in found.get(name, ()):
            if at.point.excluded is None and at.lam is not None and at.lam > 0.0:
                yield at


def _fit(used: list[Located], delta: float, confidence: float) -> Record:
    nothing: Record = {"points": len(used), "usable": False, "n": None, "1/lambda": None, "bound": None}
    if len(used) < exponents.LEAST_POINTS:
        return nothing | {
            "why_not": f"{len(used)} thresholds lie inside the grid; {exponents.LEAST_POINTS} are required"
        }
    fewest, needed = min(at.point.replicates for at in used), replicates_needed(delta, confidence)
    if why := exponents.too_few(fewest, needed, confidence, delta):
        return nothing | {"why_not": why}
    n = np.array([at.point.n for at in used], dtype=np.float64)
    logs = {"n": np.log(n), "1/lambda": -np.log([at.lam for at in used])}  # type: ignore[arg-type]
    columns = {name: values for name, values in logs.items() if np.ptp(values) > math.log(1.01)}
    for name, values in columns.items():
        factor = math.exp(exponents.spread(values, [other for key, other in columns.items() if key != name]))
        if factor < LEAST_FACTOR[name]:
            alone = "" if len(columns) < 2 else " on its own"
            why = f"{name} varies by a factor {factor:.3g}{alone}; {LEAST_FACTOR[name]:g} is required"
            return nothing | {"why_not": why}
    if len(used) < len(columns) + 2:
        return nothing | {"why_not": f"{len(used)} thresholds are too few for {len(columns)} exponents"}
    offset = np.log(np.log(n / delta))
    found = exponents.regress([at.point for at in used], columns, offset, confidence)
    bound = max(float(theory.lambda_exponent(at.point.n, delta, at.lam)) for at in used)
    return nothing | found | {"bound": bound, "usable": True, "why_not": None}


def verdicts(joint: Sequence[Record], claims: Mapping[str, float | None], confidence: float) -> Iterator[Record]:
    """Yield the verdict on "the width grows at most like lambda^-2" of every criterion to which the theorem applies."""
    for record in joint:
        if claims.get(record["criterion"]) is None:
            continue
        found = record["1/lambda"] or dict.fromkeys(("value", "low", "high"))
        if found["value"] is None:
            outcome = UNRESOLVED, f"no exponent of lambda: {record['why_not'] or 'lambda does not vary'}."
        else:
            where = f"over {record['points']} thresholds the exponent of 1/lambda"
            outcome = growth.outcome(found, growth.CLAIMED, growth.detectable(found, growth.CLAIMED, confidence), where)
            outcome = growth.beside_bound(outcome, found, record["bound"])
        yield verdict("lambda", record["criterion"], growth.CLAIMED, found, outcome, group=record["pool"])
