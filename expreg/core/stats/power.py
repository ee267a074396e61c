"""How many replicates an interval needs, and which interval a number of replicates can give (D.4, D.13, D.14).

Thresholds follow the theory's law m* = C n^alpha (log n + Exp(1)) (D.8). They are read off
the grid along the pooled success curve, as the exponents are.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from expreg.core.stats import thresholds
from expreg.core.stats.describe import Floats

Widths = Sequence[float] | Mapping[int, Sequence[float]]

BY_CRITERION = 0.7, 2.5
"""The least and the largest half-width of a criterion in the shipped configs, over that which the law gives."""
# The replicates of a half-width may exceed an integer by rounding alone.
_ROUNDING = 1e-9


class Variance(NamedTuple):
    """Variance of the estimated exponent: `sampling` / replicates + `grid` (D.14)."""

    sampling: float
    grid: float


def quantile_error(n: Floats, delta: float, replicates: float) -> Floats:
    """Return the standard deviation of the log of the sample (1 - delta)-quantile of m* at each n (D.13).

    sqrt((1 - delta) / (delta S)) / log(n / delta): the binomial error of a share over the density of log m* there.
    """
    return np.asarray(math.sqrt(delta * (1.0 - delta) / replicates) / _density(n, delta))


def grid_error(n: Floats, delta: float, step: Floats) -> Floats:
    """Return the error that a grid of log step `step` adds at each n (both (K,)), whatever the replicates (D.13).

    Rounding to a width would be uniform over a cell, step / sqrt(12). Interpolation leaves open only the share of the
    cell that the success curve jumps across in it.
    """
    return np.asarray(step * np.minimum(_density(n, delta) * step, 1.0) / math.sqrt(12.0))


def _density(n: Floats, delta: float) -> Floats:
    """Return the density of log m* at its (1 - delta)-quantile under the theory's law."""
    return np.asarray(delta * np.log(n / delta))


def variance(n_values: Sequence[int], delta: float, widths: Widths) -> Variance:
    """Return the variance of the slope of log m*(n, delta) on log n by least squares (D.14).

    `widths`: those of the sweep, or a mapping from n to its own. Raises ValueError if the exponent is not
    defined: fewer than two values of n, delta outside (0, 1), or an n with fewer than two widths.
    """
    n = np.unique(np.asarray(n_values, dtype=np.float64))
    if len(n) < 2 or not n.min() >= 1 or not 0.0 < delta < 1.0:
        raise ValueError(f"n {list(n_values)}, delta {delta}: two n from 1, and delta in (0, 1), are required")
    own = [np.unique(np.asarray(widths[int(k)] if isinstance(widths, Mapping) else widths, dtype=float)) for k in n]
    if min(len(grid) for grid in own) < 2 or min(grid[0] for grid in own) <= 0:
        raise ValueError("a threshold lies between two widths: at least two positive widths per n are required")
    steps = np.array([np.median(np.diff(np.log(grid))) for grid in own])
    lever = np.log(n) - np.log(n).mean()
    lever /= np.sum(lever**2)
    errors = quantile_error(n, delta, 1.0), grid_error(n, delta, steps)
    return Variance(*(float(np.sum((lever * error) ** 2)) for error in errors))


def largest_exponent(delta: float, grids: Mapping[int, Sequence[float]]) -> float:
    """Return the largest exponent, after the log factor, that thresholds inside a grid of widths can have.

    `grids`: widths by n. By least squares, as exponents are fitted: the narrowest at small n, the widest at large n.
    """
    n = np.array(sorted(grids), dtype=np.float64)
    lever = np.log(n) - np.log(n).mean()
    lever /= np.sum(lever**2)
    edges = [max(grids[int(k)]) if slope > 0 else min(grids[int(k)]) for k, slope in zip(n, lever, strict=True)]
    return float(lever @ (np.log(edges) - np.log(np.log(n / delta))))


def expected_half_width(of: Variance, replicates: float, confidence: float) -> float:
    """Return half the width of the interval of the exponent that a number of replicates can be expected to give."""
    return standard_errors(confidence) * math.sqrt(of.sampling / replicates + of.grid)


def replicates_for(of: Variance, wanted: float, confidence: float) -> int | None:
    """Return how many replicates give an interval of half-width `wanted` (D.14); None if the grid is too coarse."""
    room = (wanted / standard_errors(confidence)) ** 2 - of.grid
    return math.ceil(of.sampling / room - _ROUNDING) if room > 0.0 else None


def standard_errors(confidence: float) -> float:
    """Return how many standard errors a two-sided interval of the normal law reaches."""
    return float(special.ndtri((1.0 + confidence) / 2.0))


def needed(
    n_values: Sequence[int],
    delta: float,
    confidence: float,
    half_width: float,
    widths: Widths,
    *,
    replicates: int | None = None,
) -> dict[str, Any]:
    """Return how many replicates a half-width of the interval of the exponent needs, as numbers and as sentences.

    `replicates` planned: adds the half-width to expect from them. The numbers: `replicates` (the larger of the two
    needs, null if the grid is too coarse), `for_half_width`, `for_quantile` (D.4), `expected` and `planned`. Raises
    ValueError as `variance` does, or if confidence is outside (0, 1), or `half_width` or `replicates` is not positive.
    """
    if not 0.0 < confidence < 1.0 or not half_width > 0.0 or (replicates is not None and replicates < 1):
        raise ValueError(f"confidence {confidence} in (0, 1), half-width {half_width} and replicates > 0 are required")
    of = variance(n_values, delta, widths)
    enough, least = replicates_for(of, half_width, confidence), thresholds.replicates_needed(delta, confidence)
    found = {
        "n": sorted({int(n) for n in n_values}),
        "delta": delta,
        "confidence": confidence,
        "half_width": half_width,
        "law": "theory",
        "replicates": None if enough is None else max(enough, least),
        "for_half_width": enough,
        "for_quantile": least,
        "planned": replicates,
        "expected": None if replicates is None else expected_half_width(of, replicates, confidence),
        "grid_alone": expected_half_width(of, math.inf, confidence),
    }
    return found | {"sentences": _sentences(found)}


def _sentences(found: Mapping[str, Any]) -> list[str]:
    over = f"the exponent over n = {found['n'][0]}..{found['n'][-1]}"
    level, quantile = f"{100 * found['confidence']:.4g} %", f"{1.0 - found['delta']:.4g} quantile"
    goal = f"A {level} interval of +-{found['half_width']:.2g} for {over}"
    reach = f"needs {found['for_half_width']} replicates, if thresholds follow the {found['law']} law (D.14)."
    if found["for_half_width"] is None:
        alone = f"the grid of widths alone leaves +-{found['grid_alone']:.2g}"
        reach = f"is out of reach at any number of replicates: {alone}. Use a finer one."
    limit = f"A {level} interval of the {quantile} has an upper limit from {found['for_quantile']} replicates on (D.4)."
    if found["planned"] is None:
        return [f"{goal} {reach}", limit]
    short = f", but no upper limit of the {quantile}" if found["planned"] < found["for_quantile"] else ""
    low, high = (factor * found["expected"] for factor in BY_CRITERION)
    expected = (
        f"{found['planned']} replicates are expected to give +-{found['expected']:.2g} for {over} under the"
        f" {found['law']} law, from +-{low:.2g} to +-{high:.2g} depending on the criterion{short}."
    )
    return [f"{goal} {reach}", limit, expected]
