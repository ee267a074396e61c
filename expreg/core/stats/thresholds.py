"""Thresholds of replicates under nested widths, and their quantile with a distribution-free interval."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from expreg.core.stats.describe import Floats

Ints = NDArray[np.int64]

# (1 - delta)(S + 1) may exceed an integer by rounding alone.
_ROUNDING = 1e-9
# The protocol calls a grid bracketing if the narrowest width succeeds in less than this share.
_LOW_END = 0.1


class Ranks(NamedTuple):
    """Ranks, from 1, of an order statistic and of its limits; 0 or more than S: beyond the sample."""

    quantile: int
    low: int
    high: int


def first_and_last(success: Floats) -> tuple[Ints, Ints]:
    """Return m*_first and m*_last of each replicate as indices into the widths (D.2), G where there is none.

    `success` (S, G) of 0 and 1, nothing missing. m*_first is the narrowest width that succeeds, m*_last the
    narrowest from which on all succeed.
    """
    hits, width = success > 0.5, success.shape[1]
    index = np.arange(width)
    first = np.where(hits, index, width).min(axis=1, initial=width)
    return first, np.where(hits, -1, index).max(axis=1, initial=-1) + 1


def quantile_ranks(replicates: int, level: float, confidence: float) -> Ranks:
    """Return the ranks of the `level` quantile and of its distribution-free interval (D.3)."""
    tail = (1.0 - confidence) / 2.0
    quantile = math.ceil(level * (replicates + 1) - _ROUNDING)
    # quantiles of the binomial distribution; scipy.stats has them too, but is slow to import
    low, high = np.searchsorted(special.bdtr(np.arange(replicates + 1), replicates, level), [tail, 1.0 - tail])
    return Ranks(quantile, int(low), int(high) + 1)


def median_interval(values: Floats, confidence: float) -> tuple[float | None, float | None]:
    """Return the order statistics that enclose the median of sorted values (D.3); None where there are too few."""
    ranks = quantile_ranks(len(values), 0.5, confidence)
    low = float(values[ranks.low - 1]) if ranks.low >= 1 else None
    return low, float(values[ranks.high - 1]) if ranks.high <= len(values) else None


def replicates_needed(delta: float, confidence: float, sides: int = 2) -> int:
    """Return how many replicates give the (1 - delta)-quantile a finite upper limit (D.4).

    S >= log(g / sides) / log(1 - delta), g = 1 - confidence: 36 at delta = 0.1 and 95 % for an interval, 29 for a
    limit on one side only.
    """
    return math.ceil(math.log((1.0 - confidence) / sides) / math.log(1.0 - delta) - _ROUNDING)


def describe(n: int, widths: Floats, success: Floats, delta: float, confidence: float) -> dict[str, Any]:
    """Return the order-statistic threshold m*(n, delta) at one n with everything that limits it.

    A value that is unknown is null and `flags` says why: "below" the narrowest width (m* is at most
    it), "above" the widest, or "too few replicates". `median` is that of m*_last, `median_first` of m*_first. Widths
    that no replicate has a result at are left out of the grid, replicates that lack one of the others out of the
    thresholds ("incomplete").
    """
    measured = ~np.isnan(success).all(axis=0)
    widths, success = widths[measured], success[:, measured]
    complete = success[~np.isnan(success).any(axis=1)] if len(widths) else success[:0]
    first, last = first_and_last(complete)
    count, top = len(last), len(widths)
    ranks = quantile_ranks(count, 1.0 - delta, confidence)._asdict()
    ranks["median"] = quantile_ranks(count, 0.5, confidence).quantile
    values = {name: _statistic(np.sort(last), widths, rank) for name, rank in ranks.items()}
    values["median_first"] = _statistic(np.sort(first), widths, ranks["median"])
    return {
        "n": n,
        "replicates": count,
        "incomplete": len(success) - count,
        "unmeasured_widths": int((~measured).sum()),
        "replicates_needed": replicates_needed(delta, confidence),
        **{name: value for name, (value, _) in values.items()},
        "flags": {name: flag for name, (_, flag) in values.items() if flag},
        "narrowest": int(widths[0]) if top else None,
        "widest": int(widths[-1]) if top else None,
        "censored_below": int((last == 0).sum()),
        "censored_above": int((last == top).sum()),
        "non_monotone": float(np.mean(first < last)) if count else None,
        "bracketed": bool(top and np.nanmean(success[:, 0]) < _LOW_END and np.nanmean(success[:, -1]) > 1.0 - delta),
    }


def _statistic(last: Ints, widths: Floats, rank: int) -> tuple[int | None, str | None]:
    """Return the order statistic of a rank as a width, or null and the reason."""
    if not 0 < rank <= len(last):
        return None, "too few replicates"
    index = last[rank - 1]
    if index in (0, len(widths)):
        return None, "below" if index == 0 else "above"
    return int(widths[index]), None
