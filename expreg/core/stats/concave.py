"""Maximise many concave functions at once: Newton steps for smooth ones, cutting planes for those with kinks."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from expreg.core.stats.describe import Floats

Lanes = NDArray[np.int64]
Local = Callable[[Floats, Lanes], tuple[Floats, Floats, Floats]]
Oracle = Callable[[Floats], tuple[Floats, Floats, Floats]]

# Cutting planes stop where the maximum is known to within this: for a log-likelihood, a thousandth of a
# standard error.
_GAP = 1e-6
_CUTS = 400
# Newton stops where the quadratic model promises less than this.
_PROMISE = 1e-12
_STEPS = 100


def newton(local: Local, start: Floats) -> tuple[Floats, Floats]:
    """Maximise a batch of smooth functions from `start` (B, p) by Newton steps, halved until they climb.

    `local(point, lanes)` returns values, gradients and positive definite information matrices of the given
    lanes of the batch. Returns the points (B, p) and their values (B,). A lane without a maximum stops where
    another step promises nothing, or after a fixed number of steps.
    """
    point, active = start.astype(np.float64), np.arange(len(start))
    value, score, information = local(point, active)
    step, promise = _step(score, information)
    for _ in range(_STEPS):
        active = active[promise[active] > _PROMISE]
        if not active.size:
            break
        trial = point[active] + step[active]
        tried, score, information = local(trial, active)
        # NaN compares false: a step out of the domain is halved as well
        climbs = tried >= value[active] - 1e-12 * np.abs(value[active])
        step[active[~climbs]] /= 2.0
        point[active[climbs]], value[active[climbs]] = trial[climbs], tried[climbs]
        step[active[climbs]], promise[active[climbs]] = _step(score[climbs], information[climbs])
    return point, value


def _step(score: Floats, information: Floats) -> tuple[Floats, Floats]:
    # The ridge only matters where rounding made the information singular.
    size = score.shape[1]
    ridge = 1e-13 * np.trace(information, axis1=1, axis2=2) + np.finfo(float).tiny
    step = np.linalg.solve(information + ridge[:, None, None] * np.eye(size), score[..., None])[..., 0]
    return step, np.einsum("bp,bp->b", step, score)


def ellipsoid(oracle: Oracle, start: Floats, radius: float) -> tuple[Floats, Floats]:
    """Maximise a batch of concave functions within `radius` of `start` (B, p) by cutting planes, p >= 2.

    `oracle` maps (B, p) to values (B,), supergradients (B, p) and deficits (B,): where the value is -inf, all
    points x with a finite value satisfy gradient (x - point) >= deficit. Deep cuts; each step removes a known
    share of the volume, kinks or not (the ellipsoid method, Bland, Goldfarb and Todd 1981).
    """
    batch, size = start.shape
    centre, shape = start.astype(np.float64), np.tile(radius**2 * np.eye(size), (batch, 1, 1))
    best, top, ceiling = centre.copy(), np.full(batch, -np.inf), np.full(batch, np.inf)
    for _ in range(_CUTS):
        value, gradient, deficit = oracle(centre)
        feasible = np.isfinite(value)
        better = feasible & (value > top)
        best[better], top[better] = centre[better], value[better]
        along = np.einsum("bpq,bq->bp", shape, gradient)
        width = np.sqrt(np.maximum(np.einsum("bp,bp->b", along, gradient), 0.0))
        ceiling = np.where(feasible, np.minimum(ceiling, value + width), ceiling)
        if (ceiling - top < _GAP).all():
            break
        with np.errstate(invalid="ignore"):
            needed = np.where(feasible, top - value, deficit)
        moving = width > 0.0
        depth = np.clip(needed / np.where(moving, width, 1.0), 0.0, 0.99)
        direction = along / np.where(moving, width, np.inf)[:, None]
        centre += ((1.0 + size * depth) / (size + 1.0))[:, None] * direction
        share = 2.0 * (1.0 + size * depth) / ((size + 1.0) * (1.0 + depth))
        grown = np.where(moving, size**2 * (1.0 - depth**2) / (size**2 - 1.0), 1.0)
        outer = direction[:, :, None] * direction[:, None, :]
        shape = grown[:, None, None] * (shape - share[:, None, None] * outer)
    return best, top
