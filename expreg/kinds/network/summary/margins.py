"""How far an event holds or fails, and when it first fails: at the narrowest width, at the threshold, at the widest."""

import math

import numpy as np
import pandas as pd

from expreg.core.stats.describe import Floats, Record, quantiles
from expreg.types import FAILED


def describe(n: int, rows: pd.DataFrame, event: str, threshold: float | None) -> list[Record]:
    """Return a record for each of up to three widths at one n: medians over replicates, never means (B.14).

    `rows`: the cells of one group at this n; `threshold`: m* or None. `margin` is allowed over measured, 1 or more
    where the event holds, with its 5 % and 95 % quantiles `low` and `high`; `first_step` the median step of the first
    violation among the `violated`. Empty where the event was not measured.
    """
    known = rows[rows[event].notna() & ~rows["status"].isin(FAILED)]
    widths = np.unique(known["m"].to_numpy())
    return [
        {"n": n, "m": int(m), "at": at} | _at(known[known["m"] == m], event) for m, at in _places(widths, threshold)
    ]


def _places(widths: Floats, threshold: float | None) -> list[tuple[float, str]]:
    """Return the narrowest width, the first at or above the threshold, and the widest, each once."""
    if not len(widths):
        return []
    places = {widths[-1]: "widest"}
    if threshold is not None and math.isfinite(threshold):
        above = widths[widths >= threshold]
        places |= {above[0]: "threshold"} if len(above) else {}
    places |= {widths[0]: places.get(widths[0], "narrowest")}
    return sorted(places.items())


def _at(rows: pd.DataFrame, event: str) -> Record:
    violated = (rows[event] == 0.0).to_numpy()
    low, median, high = quantiles(rows[f"{event}_margin"], [0.05, 0.5, 0.95])
    return {
        "margin": median,
        "low": low,
        "high": high,
        "violated": int(violated.sum()),
        "trials": len(rows),
        "first_step": quantiles(rows[f"{event}_step"][violated], [0.5])[0],
    }
