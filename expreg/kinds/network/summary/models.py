"""The exponent by the likelihood of the replicates' own thresholds, beside the order statistics."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from expreg.core.stats import censored, exponents, laws
from expreg.kinds.network.summary import groups

Record = dict[str, Any]

RESAMPLES = 200
"""Two maximisations per law and sample: fewer bootstrap samples than for the order statistics."""


def describe(
    tables: Mapping[int, groups.Outcomes],
    resamples: Mapping[int, exponents.Resamples],
    delta: float,
    confidence: float,
    needed: int,
) -> Record:
    """Return the interval-censored likelihoods of one criterion under two laws (D.9-D.11).

    `tables`: outcomes at each n. The record says `usable` and `why_not`; where an exponent is not defined at all, it
    says nothing else.
    """
    inside = [n for n, table in tables.items() if _bracketed(table)]
    fewest = min((int((~np.isnan(tables[n].success)).any(axis=1).sum()) for n in inside), default=0)
    obstacle = exponents.obstacle(inside, fewest, needed, confidence, delta)
    if len(inside) < 2:
        return {"usable": False, "why_not": obstacle}
    samples = [laws.Sample(n, *table, resamples[n].counts[:RESAMPLES]) for n, table in tables.items()]
    try:
        found = censored.describe(samples, delta, confidence)
    except ValueError as problem:
        return {"usable": False, "why_not": str(problem)}
    if obstacle is None and found["unresolved_spread"]:
        obstacle = "thresholds spread over less than a cell of the grid: use a finer one"
    return found | {"usable": obstacle is None, "why_not": obstacle}


def _bracketed(table: groups.Outcomes) -> bool:
    low, high = censored.bracket(*table)
    return bool((low > 0.0).any() and np.isfinite(high).any())
