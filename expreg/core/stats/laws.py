"""Laws of the threshold width m*, fitted by maximum likelihood to what is known of m*: an interval of widths.

Both likelihoods are concave in the parameters that the fits use, so each has one maximum. All fits run over a
batch of weights at once: row 0 may be the data and the others its bootstrap samples.
"""

from typing import NamedTuple

import numpy as np
from scipy import special

from expreg.core.stats import concave
from expreg.core.stats.describe import Floats

_ROOT_2_PI = np.sqrt(2.0 * np.pi)

# Distance of (log C, alpha) from a rough start within which the maximum is looked for.
_RADIUS = 12.0


class Sample(NamedTuple):
    """Outcomes at one n: success (S, G) of 1, 0 and nan (missing) at ascending widths (G,).

    `counts` (R, S): how often each bootstrap sample draws each replicate, with all its widths (a cluster).
    """

    n: int
    widths: Floats
    success: Floats
    counts: Floats


class Law(NamedTuple):
    """A fitted law: parameters (B, p) and the maximum of the log-likelihood (B,)."""

    parameters: Floats
    log_likelihood: Floats


def percentiles(draws: Floats, confidence: float) -> tuple[float | None, float | None]:
    """Return the percentile interval of bootstrap draws, null if there are none."""
    if not len(draws):
        return None, None
    low, high = np.quantile(draws, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0])
    return float(low), float(high)


def theory(log_n: Floats, log_union: Floats, low: Floats, high: Floats, weights: Floats) -> Law:
    """Fit P(m* > m) = min(1, N exp(-m / (C n^alpha))) to intervals (low, high] (D.8, D.9).

    `log_n`, `log_union` = log N, `low` (0 if open) and `high` (inf if open) are (K,), `weights` (B, K).
    N = n is the law of (D.8). Returns the parameters (log C, alpha). The support ends at a width
    that moves with the parameters, so the maximum may lie at a kink, where Newton steps do not settle.
    """
    design = np.column_stack([np.ones_like(log_n), log_n - log_n.mean()])
    closed = np.isfinite(high)
    middle = np.log(np.where(closed, (low + high) / 2.0, 2.0 * low)) - np.log(log_union + 1.0)
    start = _least_squares(design, middle, weights.sum(axis=0))
    with np.errstate(divide="ignore"):
        bound = np.where(closed, np.log(log_union) - np.log(high), -np.inf)

    drawn = weights > 0

    def oracle(theta: Floats) -> tuple[Floats, Floats, Floats]:
        speed = -theta @ design.T
        log_p, slope = theory_terms(speed, log_union, low, high)
        value = (weights * np.where(drawn, log_p, 0.0)).sum(axis=1)
        gradient = -(weights * slope) @ design
        short = np.where(drawn, bound - speed, -np.inf)
        worst = short.argmax(axis=1)
        deficit = short[np.arange(len(short)), worst]
        outside = deficit >= 0.0
        value[outside], gradient[outside] = -np.inf, -design[worst[outside]]
        return value, gradient, deficit

    found, value = concave.ellipsoid(oracle, np.tile(start, (len(weights), 1)), _RADIUS)
    found[:, 0] -= found[:, 1] * log_n.mean()
    return Law(found, value)


def theory_terms(speed: Floats, log_union: Floats, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Return log P(low < m* <= high) and its derivative in `speed` = -log(C n^alpha); -inf outside the support.

    With u = e^speed the survival is exp(-max(m u - log N, 0)). Concave in `speed`, with kinks where a width
    enters the support.
    """
    u = np.exp(np.minimum(speed, 600.0))  # where all thresholds lie below the grid it grows without end
    closed = np.isfinite(high)
    reach = low * u
    inside = reach > log_union
    tail = np.where(inside, reach - log_union, 0.0)
    tail_slope = np.where(inside, reach, 0.0)
    top = np.where(closed, high, 0.0) * u
    gap = np.where(closed, top - log_union - tail, np.inf)
    possible = gap > 0.0
    gap = np.where(possible, gap, 1.0)
    with np.errstate(over="ignore"):
        log_p = np.where(possible, np.log(-np.expm1(-gap)) - tail, -np.inf)
        slope = np.where(closed, (top - tail_slope) / np.expm1(gap), 0.0) - tail_slope
    return log_p, np.where(possible, slope, 0.0)


def lognormal(design: Floats, log_low: Floats, log_high: Floats, weights: Floats) -> Law:
    """Fit log m* ~ N(design beta, s^2) to intervals (log_low, log_high] of log m* (D.11).

    `design` (K, p), limits (K,) of which -inf and inf are open, `weights` (B, K). Returns the parameters
    (beta, s). Newton steps in (beta / s, 1 / s), in which the likelihood is concave (Burridge 1981). Where a
    line passes through all intervals there is no maximum; the steps end at a spread far below theirs.
    """
    low_design, high_design = _with_limit(design, log_low), _with_limit(design, log_high)
    pairs = [_products(high_design, high_design), _products(low_design, low_design), _products(low_design, high_design)]
    size = high_design.shape[1]

    def local(point: Floats, lanes: concave.Lanes) -> tuple[Floats, Floats, Floats]:
        drawn = weights[lanes]
        # (limit - design beta) / s, shape (B, K), for point = (beta / s, 1 / s)
        standardised = (point[:, -1:] * limit - point[:, :-1] @ design.T for limit in (log_low, log_high))
        log_p, slopes, bends = _normal_terms(*standardised)
        score = (drawn * slopes[0]) @ low_design + (drawn * slopes[1]) @ high_design
        bent = np.sum([(drawn * bend) @ pair for bend, pair in zip(bends, pairs, strict=True)], axis=0)
        value = (drawn * np.where(drawn > 0, log_p, 0.0)).sum(axis=1)
        return np.where(point[:, -1] > 0.0, value, -np.inf), score, bent.reshape(-1, size, size)

    # least squares on the middles of the intervals, open ones at their end
    middle = np.where(np.isinf(log_low), log_high, np.where(np.isinf(log_high), log_low, (log_low + log_high) / 2.0))
    share = weights.sum(axis=0)
    beta = _least_squares(design, middle, share)
    spread = np.sqrt(np.average((middle - design @ beta) ** 2, weights=share)) + 0.1
    found, value = concave.newton(local, np.tile(np.append(beta, 1.0) / spread, (len(weights), 1)))
    return Law(np.column_stack([found[:, :-1], np.ones(len(found))]) / found[:, -1:], value)


def _with_limit(design: Floats, limit: Floats) -> Floats:
    """Return the derivative of the standardised limit in (beta / s, 1 / s), zero where it is open, (K, p + 1)."""
    closed = np.isfinite(limit)
    return np.column_stack([-design, np.where(closed, limit, 0.0)]) * closed[:, None]


def _products(left: Floats, right: Floats) -> Floats:
    """Return the symmetric part of left right^T row by row, flattened to (K, q^2)."""
    outer = left[:, :, None] * right[:, None, :]
    return np.asarray((outer + outer.swapaxes(1, 2)).reshape(len(left), -1) / 2.0)


def _normal_terms(low: Floats, high: Floats) -> tuple[Floats, tuple[Floats, Floats], tuple[Floats, Floats, Floats]]:
    """Return log(Phi(high) - Phi(low)), its slopes in low and high, and minus its second derivatives.

    Second derivatives: high high, low low, and twice low high.
    """
    right = low > 0.0  # the two upper tails lose no digits when they are mirrored
    upper, lower = special.log_ndtr(np.where(right, -low, high)), special.log_ndtr(np.where(right, -high, low))
    with np.errstate(all="ignore"):  # a trial step may lead anywhere
        log_p = upper + np.log(-np.expm1(lower - upper))
        dense = [np.where(np.isfinite(z), np.exp(-(z**2) / 2.0 - log_p) / _ROOT_2_PI, 0.0) for z in (low, high)]
        bend = [np.where(np.isfinite(z), z * ratio, 0.0) for z, ratio in zip((low, high), dense, strict=True)]
    at_low, at_high = dense
    return log_p, (-at_low, at_high), (bend[1] + at_high**2, at_low**2 - bend[0], -2.0 * at_low * at_high)


def _least_squares(design: Floats, target: Floats, share: Floats) -> Floats:
    root = np.sqrt(share)
    return np.asarray(np.linalg.lstsq(design * root[:, None], target * root, rcond=None)[0])
