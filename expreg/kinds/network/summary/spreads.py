"""What replicates spread over at each (n, m): the error of H(0) over its expectation, and the margins of events."""

import math
from typing import Any

import numpy as np
import pandas as pd

from expreg.core.stats.describe import Record, quantiles, split
from expreg.types import FAILED


def ratios(rows: pd.DataFrame) -> list[Record]:
    """Return per (n, m) the quantiles over replicates of ||H(0) - H^cts||_F over its root mean square (B.11, B.12).

    `rows`: the cells of one group. The error is heavy-tailed (B.14): its median lies well below the root mean square,
    which rare replicates make up, so medians and the 5 % and 95 % quantiles are given, no means.
    """
    ratio = rows["frobenius_error"] / rows["frobenius_expected"]
    records = []
    for at, part in split(rows[["n", "m"]].assign(_ratio=ratio)[np.isfinite(ratio)], ["n", "m"]):
        low, median, high = quantiles(part["_ratio"], [0.05, 0.5, 0.95])
        place = {name: int(value) for name, value in at.items()}
        records.append(place | {"ratio": median, "low": low, "high": high, "cells": len(part)})
    return records


def expected_exponent(rows: pd.DataFrame) -> float | None:
    """Return the exponent of n in the width that E1 needs by the expected error alone, sum V / lambda^2 (C.2).

    1 for orthonormal points and on the sphere with d >= n (B.13). From the median over replicates at each n; None
    with fewer than two n.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        needed: Any = np.log(rows["m"] * rows["frobenius_expected"] ** 2 / rows["lambda_cts"] ** 2)
    by_n = needed[np.isfinite(needed)].groupby(rows["n"]).median()
    return slope(by_n.index, by_n)


def slope(n: Any, log_values: Any) -> float | None:
    """Return the least-squares slope of `log_values` on log n; None with fewer than two values."""
    return float(np.polyfit(np.log(n), log_values, 1)[0]) if len(n) > 1 else None


def margins(n: int, rows: pd.DataFrame, event: str, threshold: float | None) -> list[Record]:
    """Return how far an event holds or fails at one n: medians over replicates, never means (B.14).

    `rows`: the cells of one group at this n; `threshold`: m* or None. A record each for the narrowest width, the first
    at or above the threshold, and the widest. `margin` is allowed over measured, 1 or more where the event holds, with
    its 5 % and 95 % quantiles `low` and `high`; `first_step` the median step of the first violation among the
    `violated`. Empty where the event was not measured.
    """
    m, held, margin, step = (rows[name].to_numpy() for name in ("m", event, f"{event}_margin", f"{event}_step"))
    known = ~np.isnan(held) & ~rows["status"].isin(FAILED).to_numpy()
    widths = np.unique(m[known])
    if not len(widths):
        return []
    places = {widths[-1]: "widest"}
    above = widths[widths >= (math.inf if threshold is None else threshold)]
    places |= dict.fromkeys(above[:1], "threshold")
    places.setdefault(widths[0], "narrowest")
    records = []
    for width, at in sorted(places.items()):
        here = known & (m == width)
        violated = here & (held == 0.0)
        low, median, high = quantiles(margin[here], [0.05, 0.5, 0.95])
        [first] = quantiles(step[violated], [0.5])
        record = {"n": n, "m": int(width), "at": at, "margin": median, "low": low, "high": high}
        records.append(record | {"violated": int(violated.sum()), "trials": int(here.sum()), "first_step": first})
    return records
