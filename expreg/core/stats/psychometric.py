"""Success as a generalised linear model of log m and log n: exponent and threshold with their variances (D.5-D.8).

P(success) = F(b0 + b1 log m + b2 log n + ...), F logistic or normal. With the log factor, log m is replaced by
log m - log log(n / delta). Cells count as independent, although the widths of a replicate are nested: the
coefficients do not suffer, but variances and likelihood differences do. Intervals therefore come from a
bootstrap of whole replicates, and AIC only ranks.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from expreg.core.stats import concave, laws

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Relative size below which a number is rounding.
_ROUNDING = 1e-9
# The linear program of `separated` keeps its constraints to 1e-7 each; a true separation reaches far more.
_MARGIN = 1e-4
_LOG_ROOT_2_PI = np.log(2.0 * np.pi) / 2.0


class Link(NamedTuple):
    """A symmetric distribution function F(z) = 1 - F(-z).

    `log_mean` is log F, `log_density` log F', `bend` the derivative of log F', `inverse` that of F.
    """

    log_mean: Callable[[Floats], Floats]
    log_density: Callable[[Floats], Floats]
    bend: Callable[[Floats], Floats]
    inverse: Callable[[float], float]


LOGIT = Link(
    special.log_expit,
    lambda z: special.log_expit(z) + special.log_expit(-z),
    lambda z: -np.tanh(z / 2.0),
    special.logit,
)
PROBIT = Link(special.log_ndtr, lambda z: -(z**2) / 2.0 - _LOG_ROOT_2_PI, np.negative, special.ndtri)


class Cells(NamedTuple):
    """Counts of success at each (n, m): `n`, `m` (K,), successes and trials (B, K).

    Row 0 of the counts is the data; the others are bootstrap samples over replicates.
    """

    n: Floats
    m: Floats
    successes: Floats
    trials: Floats


class Fit(NamedTuple):
    """Coefficients (B, p), their model covariance (B, p, p) and log-likelihood (B,), for B sets of counts.

    `separated` (B,): a hyperplane divides successes from failures, so the likelihood has no maximum and
    Firth's penalty was used. `penalised` (B,): it was used, for that or for another reason.
    """

    coefficients: Floats
    covariance: Floats
    log_likelihood: Floats
    separated: Flags
    penalised: Flags


def tally(samples: Sequence[laws.Sample]) -> Cells:
    """Count the successes of all n in the data (row 0) and in each bootstrap sample; cells never tried are left out."""
    parts = []
    for sample in samples:
        seen = ~np.isnan(sample.success)
        drawn = np.vstack([np.ones(len(seen)), sample.counts])
        hits, trials = drawn @ np.nan_to_num(sample.success), drawn @ seen.astype(np.float64)
        kept = seen.any(axis=0)
        parts.append((np.full(kept.sum(), float(sample.n)), sample.widths[kept], hits[:, kept], trials[:, kept]))
    return Cells(*(np.concatenate(part, axis=-1) for part in zip(*parts, strict=True)))


def design(n: Floats, m: Floats, delta: float | None = None, covariates: Sequence[Floats] = ()) -> Floats:
    """Return the columns 1, log m (less log log(n / delta) if delta is given), log n and the covariates (D.5)."""
    offset = 0.0 if delta is None else np.log(np.log(n / delta))
    return np.column_stack([np.ones_like(n), np.log(m) - offset, np.log(n), *covariates])


def fit(columns: Floats, successes: Floats, trials: Floats, link: Link = LOGIT) -> Fit:
    """Fit P(success) = F(columns b) by maximum likelihood, with Firth's penalty where that has no maximum.

    `columns` (K, p); counts (B, K), row 0 the data. Iteratively reweighted least squares; the penalty is
    log det(information) / 2 (Firth 1993, in the general form of Kosmidis and Firth 2009). If the data are
    separated, all rows are penalised, so that the bootstrap repeats the estimator. Raises ValueError if the
    columns are linearly dependent.
    """
    basis, back = np.linalg.qr(columns)
    size = np.abs(np.diag(back))
    if (size < _ROUNDING * size.max()).any():
        raise ValueError("the columns are linearly dependent: vary n and m independently, and drop constant covariates")
    apart = separated(basis * np.sqrt(len(basis)), successes, trials - successes)
    penalised = np.full(len(successes), True) if apart[0] else apart.copy()
    local = _local(basis, successes, trials - successes, penalised, link)
    found, value = concave.newton(local, np.zeros((len(successes), columns.shape[1])))
    every = np.arange(len(successes))
    undo = np.linalg.inv(back)
    information = local(found, every)[2]
    value[penalised] -= np.linalg.slogdet(information[penalised])[1] / 2.0
    covariance = undo @ np.linalg.pinv(information, hermitian=True) @ undo.T
    return Fit(found @ undo.T, covariance, value, apart, penalised)


def _local(basis: Floats, hits: Floats, misses: Floats, penalised: Flags, link: Link) -> concave.Local:
    """Return value, score and expected information of the (penalised) likelihood for concave.newton."""
    size = basis.shape[1]
    squares = (basis[:, :, None] * basis[:, None, :]).reshape(len(basis), -1)

    def local(point: Floats, lanes: concave.Lanes) -> tuple[Floats, Floats, Floats]:
        z, won, lost, firth = point @ basis.T, hits[lanes], misses[lanes], penalised[lanes]
        log_up, log_down, log_density = link.log_mean(z), link.log_mean(-z), link.log_density(z)
        up, down = np.exp(log_density - log_up), np.exp(log_density - log_down)
        weight = (won + lost) * up * down
        information = (weight @ squares).reshape(-1, size, size)
        residual, value = won * up - lost * down, (won * log_up + lost * log_down).sum(axis=1)
        if firth.any():
            inverse = np.linalg.pinv(information[firth], hermitian=True).reshape(-1, size * size)
            leverage = weight[firth] * (inverse @ squares.T)
            residual[firth] += leverage * (link.bend(z[firth]) - (up[firth] - down[firth]) / 2.0)
            value[firth] += np.linalg.slogdet(information[firth])[1] / 2.0
        return value, residual @ basis, information

    return local


def separated(columns: Floats, hits: Floats, misses: Floats) -> Flags:
    """Tell for each row of counts (B, K) whether a hyperplane separates, or quasi-separates, hits and misses.

    That is a b != 0 with columns b >= 0 at all hits and <= 0 at all misses; then the likelihood has no maximum,
    or no single one (Albert and Anderson 1984). Cells with both pin columns b to 0; where these alone leave no b,
    the answer is no. Otherwise a linear program decides (Konis 2007). `columns` (K, p) of full rank, near 1.
    """
    mixed = ((hits > 0) & (misses > 0)).astype(np.float64)
    squares = (columns[:, :, None] * columns[:, None, :]).reshape(len(columns), -1)
    size = columns.shape[1]
    least = np.linalg.eigvalsh((mixed @ squares).reshape(-1, size, size))[:, 0]
    result = least <= _ROUNDING
    signs = np.where(hits > 0, 1, 0) - np.where(misses > 0, 1, 0) + 2 * mixed.astype(int)
    open_ = np.flatnonzero(result)
    patterns, which = np.unique(signs[open_], axis=0, return_inverse=True)
    answers = np.array([_divided(columns, pattern) for pattern in patterns], dtype=bool)
    result[open_] = answers[which.ravel()] if len(open_) else False
    return result


def _divided(columns: Floats, signs: NDArray[np.int64]) -> bool:
    """Decide for one pattern: sign 1 hits, -1 misses, 2 both, 0 nothing."""
    one_sided = columns[np.abs(signs) == 1] * signs[np.abs(signs) == 1, None]
    both = columns[signs == 2]
    if np.linalg.matrix_rank(columns[signs != 0]) < columns.shape[1]:
        return True  # a direction that no cell with results sees
    solved = optimize.linprog(
        -one_sided.sum(axis=0),
        A_ub=-one_sided,
        b_ub=np.zeros(len(one_sided)),
        A_eq=both if len(both) else None,
        b_eq=np.zeros(len(both)) if len(both) else None,
        bounds=(-1.0, 1.0),
        method="highs",
    )
    return bool((one_sided @ solved.x).sum() > _MARGIN)


def exponent(coefficients: Floats, covariance: Floats) -> tuple[Floats, Floats]:
    """Return alpha = -b2 / b1 and its variance by the delta method (D.6), for coefficients (..., p)."""
    slope, scaling = coefficients[..., 1], coefficients[..., 2]
    gradient = np.zeros_like(coefficients)
    gradient[..., 1], gradient[..., 2] = scaling / slope**2, -1.0 / slope
    return -scaling / slope, _quadratic(gradient, covariance)


def threshold(
    coefficients: Floats, covariance: Floats, others: Floats, level: float, link: Link = LOGIT
) -> tuple[Floats, Floats]:
    """Return where success reaches `level`, on the scale of column 1, and its variance (D.7).

    `others`: log n and the covariates there, (p - 2,). log m = (F^-1(level) - b0 - b2 log n - ...) / b1, to
    which the caller adds log log(n / delta) if column 1 was reduced by it.
    """
    slope = coefficients[..., 1]
    log_m = (link.inverse(level) - coefficients[..., 0] - coefficients[..., 2:] @ others) / slope
    gradient = -np.concatenate(
        [np.ones_like(slope)[..., None], log_m[..., None], np.broadcast_to(others, (*slope.shape, len(others)))],
        axis=-1,
    )
    return log_m, _quadratic(gradient / slope[..., None], covariance)


def _quadratic(gradient: Floats, covariance: Floats) -> Floats:
    return np.asarray(np.einsum("...p,...pq,...q->...", gradient, covariance, gradient))


def describe(samples: Sequence[laws.Sample], delta: float, confidence: float) -> dict[str, Any]:
    """Return exponents by logit, probit and the theory's link, raw and corrected, their AIC, and thresholds.

    "corrected" is with the log factor, "raw" without. `low` and `high` are percentiles of the exponent over
    bootstrap samples of replicates, `se` the delta-method error that takes cells for independent. The theory's
    link is P(failure) = min(1, N exp(-m / (C n^alpha))), N = n if corrected, else the geometric mean of the n
    (D.8); it has no intervals here, since the same law makes more of the same data in `censored`. `thresholds`
    are those of the corrected logit. Raises ValueError if n and m do not vary independently.
    """
    cells = tally(samples)
    fits = {name: _both(cells, link, delta) for name, link in (("logit", LOGIT), ("probit", PROBIT))}
    records = {name: {form: _exponent(found, confidence) for form, found in fits[name].items()} for name in fits}
    records["theory"] = _theory(cells)
    ranked = sorted((records[link][form]["aic"], link, form) for link in records for form in records[link])
    logit = fits["logit"]["corrected"]
    return {
        **records,
        "best": {"link": ranked[0][1], "exponent": ranked[0][2], "aic_gap": ranked[1][0] - ranked[0][0]},
        "separated": bool(logit.separated[0]),
        "separated_resamples": float(logit.separated[1:].mean()) if len(logit.separated) > 1 else None,
        "penalised": bool(logit.penalised[0]),
        "cells": len(cells.n),
        "thresholds": _thresholds(cells, logit, delta, confidence),
    }


def _both(cells: Cells, link: Link, delta: float) -> dict[str, Fit]:
    forms = {"raw": None, "corrected": delta}
    return {
        form: fit(design(cells.n, cells.m, factor), cells.successes, cells.trials, link)
        for form, factor in forms.items()
    }


def _theory(cells: Cells) -> dict[str, dict[str, Any]]:
    """Fit the theory's link to the data: a success says m* <= m, a failure m* > m."""
    log_n = np.tile(np.log(cells.n), 2)
    low = np.concatenate([np.zeros_like(cells.m), cells.m])
    high = np.concatenate([cells.m, np.full_like(cells.m, np.inf)])
    weights = np.append(cells.successes[0], cells.trials[0] - cells.successes[0])[None]
    unions = {"raw": np.full_like(log_n, np.log(np.unique(cells.n)).mean()), "corrected": log_n}
    return {form: _law(laws.theory(log_n, union, low, high, weights)) for form, union in unions.items()}


def _exponent(found: Fit, confidence: float) -> dict[str, Any]:
    value, variance = exponent(found.coefficients, found.covariance)
    low, high = laws.percentiles(value[1:], confidence)
    return {
        "value": value[0],
        "low": low,
        "high": high,
        "se": np.sqrt(variance[0]),
        "steepness": found.coefficients[0, 1],
        "log_likelihood": found.log_likelihood[0],
        "aic": 2.0 * found.coefficients.shape[1] - 2.0 * found.log_likelihood[0],
    }


def _law(found: laws.Law) -> dict[str, Any]:
    [(log_constant, alpha)], [value] = found.parameters, found.log_likelihood
    numbers = {"value": alpha, "constant": np.exp(log_constant), "log_likelihood": value, "aic": 4.0 - 2.0 * value}
    return numbers | {"low": None, "high": None, "se": None}


def _thresholds(cells: Cells, found: Fit, delta: float, confidence: float) -> list[dict[str, Any]]:
    records = []
    for n in np.unique(cells.n):
        log_m, variance = threshold(found.coefficients, found.covariance, np.log([n]), 1.0 - delta)
        log_m = log_m + np.log(np.log(n / delta))
        low, high = laws.percentiles(log_m[1:], confidence)
        value, low, high = (None if limit is None else np.exp(limit) for limit in (log_m[0], low, high))
        records.append({"n": int(n), "value": value, "low": low, "high": high, "se_log": np.sqrt(variance[0])})
    return records
