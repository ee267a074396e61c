"""How far H(0) is from H^cts: the measured Frobenius error over the expected one, and how both grow with n."""

from typing import Any

import numpy as np
import pandas as pd

from expreg.core.stats.describe import Record, quantiles


def describe(n: int, rows: pd.DataFrame) -> list[Record]:
    """Return per width the quantiles over replicates of ||H(0) - H^cts||_F over its root mean square (B.11, B.12).

    `rows`: the cells of one group at one n. The error is heavy-tailed (B.14): its median lies well below the root
    mean square, which rare replicates make up, so medians and the 5 % and 95 % quantiles are given, no means.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = (rows["frobenius_error"] / rows["frobenius_expected"]).to_numpy()
    known = np.isfinite(ratio)
    widths = rows["m"].to_numpy()
    records = []
    for m in np.unique(widths[known]):
        values = ratio[known & (widths == m)]
        low, median, high = quantiles(values, [0.05, 0.5, 0.95])
        records.append({"n": n, "m": int(m), "ratio": median, "low": low, "high": high, "cells": len(values)})
    return records


def expected_exponent(rows: pd.DataFrame) -> float | None:
    """Return the exponent of n in the width that E1 needs by the expected error alone, sum V / lambda^2 (C.2).

    1 for orthonormal points and on the sphere with d >= n (B.13). From the median over replicates at each n; None
    with fewer than two n.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        needed = np.log((rows["m"] * rows["frobenius_expected"] ** 2 / rows["lambda_cts"] ** 2).to_numpy())
    known = np.isfinite(needed)
    by_n = pd.Series(needed[known]).groupby(rows["n"].to_numpy()[known]).median()
    return slope(by_n.index.to_numpy(dtype=float), by_n.to_numpy(dtype=float))


def slope(n: Any, log_values: Any) -> float | None:
    """Return the least-squares slope of `log_values` on log n; None with fewer than two values."""
    return float(np.polyfit(np.log(n), log_values, 1)[0]) if len(n) > 1 else None
