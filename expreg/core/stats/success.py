"""Success curves over the width: exact intervals, monotone fit, and where the curve reaches a level."""

from typing import Any, NamedTuple

import numpy as np
from scipy import special

from expreg.core.stats.describe import Floats

# Shares are ratios of integers: this only absorbs the rounding of levels such as 1 - 0.1.
_ROUNDING = 1e-12


def clopper_pearson(successes: Floats, trials: Floats, confidence: float) -> tuple[Floats, Floats]:
    """Return the exact (Clopper-Pearson) interval of a share, elementwise; nan where there are no trials."""
    tail = (1.0 - confidence) / 2.0
    with np.errstate(invalid="ignore"):
        low = special.betaincinv(successes, trials - successes + 1.0, tail)
        high = special.betaincinv(successes + 1.0, trials - successes, 1.0 - tail)
    low = np.where(successes == 0, 0.0, low)
    high = np.where(successes == trials, 1.0, high)
    return np.where(trials > 0, low, np.nan), np.where(trials > 0, high, np.nan)


def exact_interval(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    """Return the exact interval of one share."""
    low, high = clopper_pearson(np.array(successes), np.array(trials), confidence)
    return float(low), float(high)


def isotonic(successes: Floats, trials: Floats) -> Floats:
    """Fit the non-decreasing success curve along the last axis, weighted by the trials (D.15).

    The pooled-adjacent-violators solution in its closed form, max over j <= i of min over k >= i of the
    mean of the cells j..k, because that form runs over a whole bootstrap at once: shapes (..., G) to (...,
    G). Widths without trials take the value of their neighbours.
    """
    width = successes.shape[-1]
    pad = [(0, 0)] * (successes.ndim - 1) + [(1, 0)]
    hits, weight = np.cumsum(np.pad(successes, pad), axis=-1), np.cumsum(np.pad(trials, pad), axis=-1)
    fitted = np.full(successes.shape, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        for j in range(width):
            means = (hits[..., j + 1 :] - hits[..., j : j + 1]) / (weight[..., j + 1 :] - weight[..., j : j + 1])
            least = np.fmin.accumulate(means[..., ::-1], axis=-1)[..., ::-1]
            fitted[..., j:] = np.fmax(fitted[..., j:], least)
    return fitted


class Crossing(NamedTuple):
    """Where a monotone curve reaches a level, shape (...): -inf and +inf below and above the grid.

    `blur` is the log width of the grid cell times the jump of the curve across it, 0 beyond the grid: how
    much of the cell the grid leaves open. A jump from 0 to 1 says nothing about the place within the cell.
    """

    log_m: Floats
    blur: Floats


def crossing(curve: Floats, trials: Floats, widths: Floats, level: float) -> Crossing:
    """Locate where monotone curves (..., G) reach `level`: log m by log-logit-linear interpolation.

    Between two widths the logit of the share is linear in log m. Linear shares instead put the threshold
    too far right, by up to a third of a cell where the curve is steep. Shares are moved off 0 and 1 by half
    a success.
    """
    last = len(widths) - 1
    reached = curve >= level - _ROUNDING
    first = np.where(reached.any(axis=-1), reached.argmax(axis=-1), last + 1)
    right = np.clip(first, min(1, last), last)
    left = np.maximum(right - 1, 0)
    low, high = (np.take_along_axis(curve, at[..., None], axis=-1)[..., 0] for at in (left, right))
    most = trials.max(axis=-1)
    from_low, to_high, target = (special.logit((p * most + 0.5) / (most + 1.0)) for p in (low, high, level))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.clip((target - from_low) / (to_high - from_low), 0.0, 1.0)
    log_m = np.log(widths)
    step = log_m[right] - log_m[left]
    beyond = [first == 0, first > last]
    inside = np.select(beyond, [-np.inf, np.inf], log_m[left] + share * step)
    return Crossing(inside, np.where(beyond[0] | beyond[1], 0.0, step * (high - low)))


def threshold(successes: Floats, trials: Floats, widths: Floats, level: float) -> Crossing:
    """Locate where the monotone success curve reaches `level`: the estimator behind the exponents (D.15)."""
    return crossing(isotonic(successes, trials), trials, widths, level)


def tally(success: Floats) -> tuple[Floats, Floats]:
    """Count successes and trials per width of a table (S, G) with nan for missing."""
    return np.nansum(success, axis=0), np.sum(~np.isnan(success), axis=0).astype(np.float64)


def describe(n: int, widths: Floats, success: Floats, confidence: float) -> list[dict[str, Any]]:
    """Return one record per width: counts, share, exact interval, monotone fit, missing cells."""
    successes, trials = tally(success)
    low, high = clopper_pearson(successes, trials, confidence)
    with np.errstate(invalid="ignore"):
        rate = successes / trials
    columns = {
        "m": widths.astype(int),
        "successes": successes.astype(int),
        "trials": trials.astype(int),
        "missing": len(success) - trials.astype(int),
        "rate": rate,
        "low": low,
        "high": high,
        "isotonic": np.where(trials > 0, isotonic(successes, trials), np.nan),
    }
    return [{"n": n} | dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def non_isotonic(records: list[dict[str, Any]]) -> float:
    """Return max |share - monotone fit| over the records (D.15)."""
    return float(max((abs(record["rate"] - record["isotonic"]) for record in records if record["trials"]), default=0.0))
