"""What a search leaves: outcomes at the widths that were not run, and how often the assumption behind them fails."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from expreg.core.bisection import bisect
from expreg.core.stats.describe import Floats
from expreg.core.stats.success import exact_interval
from expreg.core.stats.thresholds import first_and_last


def fill(success: Floats) -> Floats:
    """Return a table (S, G) with the widths that a replicate did not run: none below its bracket, success above.

    That is what success which begins once and stays would be. Widths inside a bracket that is still open stay nan,
    and what was measured stays as it is.
    """
    filled = success.copy()
    places = np.arange(success.shape[1])
    for line in filled:
        low, high = _bracket(line)
        unknown = np.isnan(line)
        line[unknown & (places < low)] = 0.0
        line[unknown & (places > high)] = 1.0
    return filled


def _bracket(line: Floats) -> tuple[int, int]:
    """Return the bracket of a line, nan where it was not run: that of the search if it is over, else the open one."""
    low, high, asked = bisect([None if np.isnan(outcome) else outcome for outcome in line.tolist()])
    if asked is None:
        return low, high
    run = np.flatnonzero(~np.isnan(line))
    low, high, _ = bisect(line[run].tolist())
    return int(run[low]) if low >= 0 else -1, int(run[high]) if high < len(run) else len(line)


def verification(tables: Iterable[tuple[Floats, Floats]], confidence: float) -> dict[str, Any]:
    """Return what replicates that ran every width say about those that did not: (widths, success) at each n.

    - `replicates`; `non_monotone`, the share of them whose success is not monotone (D.2), with its exact interval;
    - `wrong`, the share of their outcomes that bisection, with `fill`, would have got wrong;
    - `curve`, the factor by which bisection moves success curves to wider m: the geometric mean over replicates of the
      width where the filled line begins over that where a monotone line with as many successes would, and its
      standard error as a factor, `curve_error`;
    - `last`, the same against m*_last, at or below 1: the order statistic waits until all wider networks succeed.
    """
    pairs: list[tuple[float, float]] = []  # log factors against the curve and against m*_last
    broken = wrong = outcomes = 0
    for widths, table in tables:
        whole = table[~np.isnan(table).any(axis=1)]
        first, last = first_and_last(whole)
        steps = np.log(widths)
        steps = np.append(steps, 2 * steps[-1] - steps[-2:][0])  # beyond the grid: one more step of it, if it has any
        begins = np.array([bisect(line).high for line in whole.tolist()], dtype=int)
        failures = np.sum(whole < 0.5, axis=1)
        broken, outcomes = broken + int(np.sum(first < last)), outcomes + whole.size
        wrong += int(np.sum((np.arange(len(widths)) >= begins[:, None]) != (whole > 0.5)))
        pairs += zip(steps[begins] - steps[failures], steps[begins] - steps[last], strict=True)
    count = len(pairs)
    low, high = exact_interval(broken, count, confidence)
    curve, final = np.array(pairs).reshape(-1, 2).T
    return {
        "replicates": count,
        "non_monotone": broken / count if count else None,
        "low": low,
        "high": high,
        "wrong": wrong / outcomes if outcomes else None,
        "curve": float(np.exp(curve.mean())) if count else None,
        "curve_error": float(np.exp(curve.std(ddof=1) / np.sqrt(count))) if count > 1 else None,
        "last": float(np.exp(final.mean())) if count else None,
    }
