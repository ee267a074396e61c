"""Maximum likelihood for thresholds known up to an interval of widths: no replicate is dropped (D.9, D.11).

The threshold of a replicate is m*_last, the narrowest width from which on all succeed (D.2). The grid tells it
up to an interval, open below or above where the replicate always or never succeeds. Two laws, each with and
without the factor log(n / delta), compete by AIC.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from expreg.core.stats import laws
from expreg.core.stats.describe import Floats

# A spread below this share of the grid's step is not seen by the grid: nearly all thresholds at an n then fall
# into one cell or two, and neither the likelihood nor the bootstrap knows where in them they lie.
_LEAST_SPREAD = 1.0 / 6.0


class Intervals(NamedTuple):
    """Distinct intervals (low, high] of thresholds at each n, shapes (K,), and how often each occurs (B, K).

    `low` is 0 and `high` infinite where open. Row 0 of the weights is the data; the others are bootstrap
    samples over replicates.
    """

    n: Floats
    low: Floats
    high: Floats
    weights: Floats


def bracket(widths: Floats, success: Floats) -> tuple[Floats, Floats]:
    """Return for each replicate of a table (S, G) the interval (low, high] that holds its m*_last (D.9).

    `low` is the widest width that failed, 0 if none did; `high` the narrowest success beyond, infinite if
    there is none. A missing cell (nan) widens the interval and costs no replicate.
    """
    failed, passed = success < 0.5, success > 0.5
    index = np.arange(len(widths))
    last_failure = np.where(failed, index, -1).max(axis=1, initial=-1)
    beyond = passed & (index > last_failure[:, None])
    first_success = np.where(beyond, index, len(widths)).min(axis=1, initial=len(widths))
    return np.append(widths, 0.0)[last_failure], np.append(widths, np.inf)[first_success]


def tabulate(samples: Sequence[laws.Sample]) -> Intervals:
    """Count the distinct intervals of all n in the data (row 0) and in each bootstrap sample."""
    parts = []
    for sample in samples:
        pairs = np.column_stack(bracket(sample.widths, sample.success))
        distinct, which = np.unique(pairs, axis=0, return_inverse=True)
        drawn = np.vstack([np.ones(len(pairs)), sample.counts])
        weights = drawn @ np.eye(len(distinct))[which.ravel()]
        known = (distinct[:, 0] > 0.0) | np.isfinite(distinct[:, 1])
        parts.append((np.full(known.sum(), float(sample.n)), *distinct[known].T, weights[:, known]))
    return Intervals(*(np.concatenate(part, axis=-1) for part in zip(*parts, strict=True)))


def theory(intervals: Intervals, *, log_factor: bool) -> laws.Law:
    """Fit m* = C n^alpha (log N + Exp(1)), N = n with the log factor, else its geometric mean (D.8, D.9).

    Parameters (log C, alpha). With the factor the (1 - delta)-quantile is C n^alpha log(n / delta).
    """
    log_n = np.log(intervals.n)
    union = log_n if log_factor else np.full_like(log_n, np.log(np.unique(intervals.n)).mean())
    return laws.theory(log_n, union, intervals.low, intervals.high, intervals.weights)


def lognormal(intervals: Intervals, delta: float, *, log_factor: bool) -> laws.Law:
    """Fit log m* ~ N(mu + alpha log n + gamma log log(n / delta), s^2), gamma 1 with the log factor, else 0 (D.11).

    Parameters (mu, alpha, s). gamma is fixed, since on a short range of n it cannot be separated from alpha. Raises
    ValueError if the widths follow a power of n, so that s is not identified either.
    """
    log_n = np.log(intervals.n)
    offset = np.log(np.log(intervals.n / delta)) if log_factor else 0.0
    with np.errstate(divide="ignore"):
        low, high = np.log(intervals.low) - offset, np.log(intervals.high) - offset
    design = np.column_stack([np.ones_like(log_n), log_n])
    ends = [np.column_stack([design, limit])[np.isfinite(limit)] for limit in (low, high)]
    if np.linalg.matrix_rank(np.vstack(ends)) <= design.shape[1]:
        raise ValueError("the widths follow a power of n: vary n and m independently")
    return laws.lognormal(design, low, high, intervals.weights)


def describe(samples: Sequence[laws.Sample], delta: float, confidence: float) -> dict[str, Any]:
    """Return exponents under both laws, raw (without the log factor) and corrected (with it), and the best by AIC.

    `low` and `high` are percentiles of the exponent over bootstrap samples of replicates; the profile
    likelihood covers too rarely under the theory's law, whose support has an end (D.10). `censored_below` and
    `censored_above` count replicates.
    """
    intervals = tabulate(samples)
    fits: dict[str, dict[str, laws.Law]] = {"theory": {}, "lognormal": {}}
    for form, factor in (("raw", False), ("corrected", True)):
        fits["theory"][form] = theory(intervals, log_factor=factor)
        fits["lognormal"][form] = lognormal(intervals, delta, log_factor=factor)
    records = {law: {form: _record(fit, confidence) for form, fit in forms.items()} for law, forms in fits.items()}
    ranked = sorted((record["aic"], law, form) for law, forms in records.items() for form, record in forms.items())
    at, below, above = intervals.weights[0], intervals.low == 0.0, np.isinf(intervals.high)
    steps = np.concatenate([np.diff(np.log(sample.widths)) for sample in samples])
    spread = fits["lognormal"]["raw"].parameters[0, 2]
    return {
        **records,
        "best": {"law": ranked[0][1], "exponent": ranked[0][2], "aic_gap": ranked[1][0] - ranked[0][0]},
        "replicates": int(at.sum()),
        "censored_below": int(at[below].sum()),
        "censored_above": int(at[above].sum()),
        "unresolved_spread": bool(len(steps) and spread < _LEAST_SPREAD * np.median(steps)),
    }


def _record(found: laws.Law, confidence: float) -> dict[str, Any]:
    low, high = laws.percentiles(found.parameters[1:, 1], confidence)
    return {
        "value": found.parameters[0, 1],
        "low": low,
        "high": high,
        "log_likelihood": found.log_likelihood[0],
        "aic": 2.0 * found.parameters.shape[1] - 2.0 * found.log_likelihood[0],
    }
