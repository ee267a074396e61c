"""Exponent of n in the threshold: least squares on log-log axes, bootstrap over replicates, censoring."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from expreg.core.stats.describe import Floats
from expreg.output import counted

Locate = Callable[[Floats, Floats, Floats], tuple[Floats, Floats]]

# A point whose threshold lies beyond the grid in more than this share of the resamples is not used.
CENSORED_SHARE = 0.05
# Two points always lie on a line, and over less than two octaves a slope is mostly noise.
LEAST_POINTS = 3
LEAST_SPAN = 4.0


class Point(NamedTuple):
    """The threshold at one n: `log_m` and its resamples `draws` (R,), -inf below the grid and +inf above it.

    `edges` are the logs of the narrowest and the widest width.
    """

    n: int
    replicates: int
    log_m: float
    draws: Floats
    edges: tuple[float, float]

    @property
    def censored(self) -> float:
        """The share of resamples whose threshold lies beyond the grid."""
        return float(np.mean(~np.isfinite(self.draws)))

    @property
    def excluded(self) -> str | None:
        """Why no exponent is fitted to the point; None if one is."""
        if not math.isfinite(self.log_m):
            return "below the narrowest width" if self.log_m < 0 else "above the widest width"
        share = self.censored
        return f"beyond the grid in {share:.0%} of the resamples" if share > CENSORED_SHARE else None


class Resamples(NamedTuple):
    """Bootstrap samples: how often each replicate is drawn (R, S), and a number in (-1/2, 1/2) each (R,)."""

    counts: Floats
    offset: Floats


def resample(replicates: int, resamples: int, rng: np.random.Generator) -> Resamples:
    """Draw bootstrap samples; a replicate is drawn with all its nested widths (a cluster)."""
    drawn = rng.integers(replicates, size=(resamples, replicates))
    flat = (drawn + replicates * np.arange(resamples)[:, None]).ravel()
    counts = np.bincount(flat, minlength=resamples * replicates).reshape(resamples, replicates)
    return Resamples(counts.astype(np.float64), rng.uniform(-0.5, 0.5, size=resamples))


def point(n: int, widths: Floats, success: Floats, samples: Resamples, locate: Locate) -> Point | None:
    """Locate the threshold of a table (S, G) with nan for missing, and the thresholds of its resamples.

    `locate(successes, trials, widths)` maps (..., G), (..., G), (G,) to log m and to how much of its grid
    cell the grid leaves open; each resample moves by a uniform share of that, since no number of replicates
    can resolve it (D.13). Widths without any result are left out; None if none is left.
    """
    seen = ~np.isnan(success)
    measured = seen.any(axis=0)
    if not measured.any():
        return None
    hits, trials, widths = np.nan_to_num(success[:, measured]), seen[:, measured].astype(float), widths[measured]
    log_m, blur = locate(samples.counts @ hits, samples.counts @ trials, widths)
    return Point(
        n=n,
        replicates=int(seen.any(axis=1).sum()),
        log_m=float(locate(hits.sum(axis=0), trials.sum(axis=0), widths)[0]),
        draws=log_m + samples.offset * blur,
        edges=(float(np.log(widths[0])), float(np.log(widths[-1]))),
    )


def interpolated(found: Point | None, confidence: float) -> dict[str, Any]:
    """Return the threshold behind the exponent with its percentile interval; null `beyond` the grid."""
    names = ("interpolated", "interpolated_low", "interpolated_high", "draws_censored", "beyond")
    if found is None:
        return dict.fromkeys(names)
    # Infinite draws sort to the ends; "higher" and "lower" never average one with a finite neighbour.
    low = np.quantile(found.draws, (1.0 - confidence) / 2.0, method="lower")
    high = np.quantile(found.draws, (1.0 + confidence) / 2.0, method="higher")
    log_m = np.array([found.log_m, low, high])
    values = np.where(np.isfinite(log_m), np.exp(np.clip(log_m, *found.edges)), np.nan)
    beyond = None if math.isfinite(found.log_m) else "below" if found.log_m < 0 else "above"
    return dict(zip(names, (*values, found.censored, beyond), strict=True))


def fit(points: Sequence[Point], delta: float, confidence: float, needed: int) -> dict[str, Any]:
    """Fit log m* = c + alpha log n, as it is ("raw") and after taking log log(n/delta) off ("corrected").

    Ordinary least squares: by (D.13) the spread of log m* varies by less than a factor 2.5 over two decades
    of n, so weights would gain little, and weights estimated from the resamples would move with the noise
    of the points themselves. The interval is the percentile interval of the slope over resamples that are
    independent from n to n. Points with more than CENSORED_SHARE of their resamples beyond the grid are
    excluded and named; in the others such a resample takes the edge of the grid. `largest` is the slope of the
    steepest thresholds that the grid can show, from the narrowest width at small n to the widest at large n.
    """
    used = [p for p in points if p.excluded is None]
    fewest = min((p.replicates for p in used), default=0)
    why_not = obstacle([p.n for p in used], fewest, needed, confidence, delta)
    return _slopes(used, delta, confidence) | {
        "points": len(used),
        "used": [p.n for p in used],
        "excluded": [{"n": p.n, "why": p.excluded} for p in points if p.excluded],
        "censored_draws": max((p.censored for p in used), default=None),
        "usable": why_not is None,
        "why_not": why_not,
    }


def _slopes(used: Sequence[Point], delta: float, confidence: float) -> dict[str, Any]:
    if len(used) < 2:
        return dict.fromkeys(("raw", "corrected"), dict.fromkeys(("value", "low", "high", "intercept", "largest")))
    n = np.array([p.n for p in used], dtype=np.float64)
    log_n = {"n": np.log(n)}
    offsets = {"raw": np.zeros(len(n)), "corrected": np.log(np.log(n / delta))}
    return {name: regress(used, log_n, offset, confidence)["n"] for name, offset in offsets.items()}


def regress(
    used: Sequence[Point], columns: Mapping[str, Floats], offset: Floats, confidence: float
) -> dict[str, dict[str, float]]:
    """Return the exponent of each column in m*: least squares of log m* - offset on the logs in `columns`, (K,) each.

    With percentile intervals over resamples that are independent from point to point, and `largest`, the exponent of
    the steepest thresholds that the grid can show. `intercept` is where all columns are 0.
    """
    design = np.column_stack([np.ones(len(used)), *columns.values()])
    rows = np.linalg.pinv(design)
    log_m = np.array([p.log_m for p in used]) - offset
    draws = np.stack([np.clip(p.draws, *p.edges) for p in used], axis=-1) - offset
    edges = np.array([p.edges for p in used]) - offset[:, None]
    tails = [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0]
    found = {}
    for name, row in zip(columns, rows[1:], strict=True):
        low, high = np.quantile(draws @ row, tails)
        found[name] = {
            "value": float(row @ log_m),
            "low": float(low),
            "high": float(high),
            "intercept": float(rows[0] @ log_m),
            "largest": float(np.where(row > 0, edges[:, 1], edges[:, 0]) @ row),
        }
    return found


def spread(column: Floats, others: Sequence[Floats]) -> float:
    """Return the range of a column (K,) that no combination of the others explains."""
    design = np.column_stack([np.ones(len(column)), *others])
    return float(np.ptp(column - design @ np.linalg.lstsq(design, column, rcond=None)[0]))


def obstacle(ns: Sequence[int], replicates: int, needed: int, confidence: float, delta: float) -> str | None:
    """Return the first reason why a slope over `ns` should not be read as an exponent, None if there is none.

    `ns` have their threshold inside the grid, each with at least `replicates`; `needed` is by (D.4).
    """
    if len(ns) < LEAST_POINTS:
        return f"the threshold is inside the grid at {counted(len(ns), 'value')} of n; {LEAST_POINTS} are required"
    span = max(ns) / min(ns)
    if span < LEAST_SPAN:
        return f"n spans a factor {span:.3g}; {LEAST_SPAN:g} is required"
    return too_few(replicates, needed, confidence, delta)


def too_few(replicates: int, needed: int, confidence: float, delta: float) -> str | None:
    """Return that so many replicates give the quantile no interval (D.4), None if they are enough."""
    wanted = f"a {confidence:.0%} interval of the {1 - delta:.4g} quantile needs {needed} (D.4)"
    return f"{replicates} replicates at the least; {wanted}" if replicates < needed else None
