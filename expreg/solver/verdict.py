"""Whether a run ended at a minimum, where the gradient vanishes."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from expreg.activation import lookup
from expreg.residual import LOSSES, scaled_curvature
from expreg.solver.newton import SINGULAR, hessian
from expreg.solver.records import FEW_COLUMNS, MANY_COLUMNS
from expreg.solver.state import Objective, Point, Problem, State, first_state, ridge, scaled_value
from expreg.solver.validate import REACHABLE
from expreg.sparse.passes import rows
from expreg.types import Array, Status

FAR = 0.05  # a last step that moves a logit further is not one of a converging sequence
FLAT = 1e-8  # curvature below this share of the terms it is made of, or below 100 tol
LOWER = 1e-3  # by which share the loss must fall for a point to be no minimum
SURE = 0.1  # the share of that which a quadratic model may expect without a look
NEAR = 2.0  # points of a ray that move logits by this at most show that the loss falls from here on
MOST = 8  # directions of each kind that are looked along
HALVINGS = 14  # of the part of a ray in which the loss begins to rise: a dip before that is as wide as one logit


class Verdict(NamedTuple):
    """What a point is: its status, in how many directions x may be changed without A x, and a lower point if any."""

    status: Status
    free: int = 0
    lower: Array | None = None


ENDS = ("damping", "pivot", "moved", "exact", "fall")


def ends(state: State) -> dict[str, Array]:
    """Return what `doubtful` asks of the last state, `ENDS`.

    `moved` is a share of the logits if they are small; `exact` is whether tol bounds the residual too; `fall` is the
    share of the loss that Newton's step gains at most, for a gradient and a curvature of `relative` and `pivot`. The
    latter in units of the loss: near 0 most of the curvature of sinh is in directions that keep the size of x (E.38).
    """
    point, (z, u, v) = state.point, (abs(a).max() for a in (state.point.z, state.point.at.u, state.point.at.v))
    pivot = state.pivot * point.z.__array_namespace__().minimum(1, (u / v) ** 2)
    moved = state.moved / (z + (z == 0) + (z > 1) * (1 - z))
    gain = len(state.x) * point.relative**2 * point.size
    fall = gain / (pivot * point.objective + (gain == 0))
    exact = _exact(state.problem, point)
    return dict(zip(ENDS, (state.damping, pivot, moved, exact, fall), strict=True))


def _exact(problem: Problem, point: Point) -> Array:
    least = REACHABLE * float(np.finfo(point.z.dtype).eps)
    return (point.objective <= problem.tol**2 * point.size) | (point.objective <= least**2 * point.size)


def doubtful(x: Array, *, damping: Array, pivot: Array, moved: Array, exact: Array, fall: Array) -> bool:
    """Return whether a point with a small gradient has to be looked at: steps that converge to a minimum end otherwise.

    An exact fit is a minimum, with an x that is unique if any matrix of A has a pivot.
    """
    eps = float(np.finfo(x.dtype).eps)
    known = pivot < np.inf or len(x) > FEW_COLUMNS  # of first-order steps; a Hessian of many columns costs too much
    curved = known and pivot >= max(FLAT, SINGULAR * eps, 4 * len(x) * eps)
    return not curved or not (exact or (moved <= FAR and damping <= 0 and fall <= SURE * LOWER))


def in_double(problem: Problem) -> Problem:
    """Return the same problem in float64; its tolerance stays."""
    A, others = rows(problem.A.whole.astype(np.float64)), ("b", "weights", "tol", "norms")
    double = {name: None if (a := getattr(problem, name)) is None else a.astype(np.float64) for name in others}
    return problem._replace(A=A, least=None, **double)


def examined(kind: Objective, problem: Problem, x: Array, ended: Status, given: Any = np.float64) -> Verdict:
    """Return whether a point with a small gradient is a minimum, by looking along all directions without curvature.

    `flat` if the loss is smaller elsewhere along one of them, `unbounded` if it stays so however far one goes. Else
    `ended`, with a lower point where the loss has curvature everywhere and Newton's step lowers it. Needs a Hessian,
    in float64, and its eigenvectors if it is not positive definite, so only what is `doubtful` comes here.
    """
    if x.dtype != np.float64:
        return examined(kind, in_double(problem), x.astype(np.float64), ended, x.dtype)
    (n, d), state, loss = problem.A.shape, first_state(kind, problem, x, np.zeros_like(x[0])), LOSSES[kind.loss]
    point, scale = state.point, 1 / problem.norms
    curvature = scale[:, None] * hessian(kind, state) * scale if d <= MANY_COLUMNS else np.full((1, 1), np.nan)
    if not np.isfinite(curvature).all() or not np.isfinite(point.z).all():
        return Verdict(ended)
    slope, exact = scale * point.gradient, bool(_exact(problem, point))
    rounding = 4 * d * float(np.finfo(np.float64).eps) * (point.at.v @ point.at.v)  # which is huge near 0 (E.38)
    least = max(max(100 * float(problem.tol), FLAT) * 2 * point.size / n, rounding)
    factor, curved = kind.ops.factor(curvature - least * np.eye(d))
    scaleless = loss.relative and lookup(kind.activation).parity == "odd"  # flat towards 0 (E.38)
    if (scaleless or not curved) and not loss.stand_in:
        nearer = _lowest(kind, problem, state, -x[:, None], _NEARER)[0]
        if nearer is not None:
            return Verdict(ended if ended == Status.max_steps else Status.flat, 0, nearer)
    if not curved:
        free = _free(kind, problem, float(np.finfo(given).eps))
        return Verdict(ended, free) if exact else _plateau(kind, problem, state, curvature, least, ended, free)
    step = -kind.ops.backsolve(factor, slope)
    if exact or -(slope @ step) / 2 <= SURE * LOWER * point.objective:
        return Verdict(ended)
    return Verdict(ended, 0, _lowest(kind, problem, state, (scale * step)[:, None], careful=True)[0])


def _free(kind: Objective, problem: Problem, rounding: float) -> int:
    """Return in how many directions A x does not change, to the rounding of float64 and to that of the given numbers.

    From products with A itself: of singular values near 0 its Gram matrix has no digit, but it knows the large ones.
    """
    (n, d), scale = problem.A.shape, 1 / problem.norms
    values, vectors = np.linalg.eigh(scale[:, None] * kind.ops.gram(problem.A, np.ones(n)) * scale)
    small = vectors[:, values <= values[-1] / 100]
    sizes = np.linalg.svd(problem.A.whole @ (scale[:, None] * small), compute_uv=False)
    least = np.finfo(np.float64).eps * max(n, d) * values[-1] ** 0.5 + 2 * rounding  # the first as `matrix_rank`
    return small.shape[1] - int((sizes > least).sum())


def _plateau(
    kind: Objective, problem: Problem, state: State, curvature: Array, least: float, ended: Status, free: int
) -> Verdict:
    """Return what a point is where some curvature, of unit columns, is below `least`."""
    point, scale, tiny = state.point, 1 / problem.norms, np.finfo(np.float64).tiny
    values, vectors = np.linalg.eigh(curvature)
    flat = values <= least
    P = scale[:, None] * vectors[:, flat]
    logits, sizes, right = np.linalg.svd(problem.A.whole @ P, full_matrices=False)
    seen = int(max(flat.sum() - free, 0))
    # by logits of norm 1, however small the columns make them: A^T D A leaves nothing of small curvature
    P, logits = P @ right[:seen].T / sizes[:seen], logits[:, :seen]
    curve, heavy = scaled_curvature(point.at, kind.loss), ridge(kind, problem, point.at)
    low = logits.T @ curve.Q
    small, turned = np.linalg.eigh(logits.T @ ((curve.diagonal + heavy)[:, None] * logits) + low @ curve.S @ low.T)
    P, logits = P @ turned, logits @ turned
    slopes = logits.T @ (point.at.v * point.at.c + heavy * point.z)
    newton = vectors[:, ~flat] @ ((vectors[:, ~flat].T @ (scale * point.gradient)) / values[~flat])
    # Newton's direction, more and more like that of steepest descent, which trusts no small curvature
    floors = np.maximum(np.abs(small)[:, None], least * np.array([tiny, 1e-4, 1.0]))
    sloping = P @ (slopes[:, None] / floors)
    steepest = -np.column_stack([sloping, scale * newton + sloping[:, 0], *_down(problem)])
    for along in (steepest, *_flat(point, P, logits)):
        best, status = _lowest(kind, problem, state, along)
        if best is not None:
            return Verdict(ended if ended == Status.max_steps and status == Status.flat else status, free, best)
    saturated = flat.all() and point.objective > FLAT * point.size and seen > 0
    return Verdict(Status.flat if saturated and ended == Status.converged else ended, free)


def _down(problem: Problem) -> Iterator[Array]:
    """Yield the direction in which logits grow where the target is 0, and stay where it is not, as far as A allows."""
    zero, A = problem.b == 0, problem.A.whole
    if zero.any() and isinstance(A, np.ndarray):
        yield np.linalg.lstsq(A / problem.norms, zero.astype(A.dtype))[0] / problem.norms


def _flat(point: Point, P: Array, logits: Array) -> Iterator[Array]:
    """Yield directions without curvature: those that move one residual most, eigenvectors, random ones.

    On a plateau the loss falls where a logit that is far from its target is the first to arrive there.
    """
    if P.shape[1]:
        reach = np.linalg.norm(logits, axis=1)
        worst = np.argsort(np.where(reach > 0, -np.abs(point.at.r), 0))[:MOST]
        yield P @ logits[worst].T
        yield P[:, :MOST]
        yield P @ np.random.default_rng(0).normal(size=(P.shape[1], 2 * MOST))


_NEARER = np.array([*(2.0 ** -np.arange(8, 1, -1)), *(1 - 2.0 ** -np.arange(1, 16)), 1.0])  # of the way to 0


def _lowest(
    kind: Objective, problem: Problem, state: State, along: Array, at: Array | None = None, *, careful: bool = False
) -> tuple[Array | None, Status]:
    """Return the point with the smallest loss along columns, None where none is lower, and what that says.

    Both ways so that logits move by 1/4096 of their size to 4096, or at the given lengths. A `careful` one crosses no
    barrier, as the rescaled loss, which tends to 0 for large x without a fit.
    """
    point, logits, eps = state.point, problem.A.whole @ along, float(np.finfo(np.float64).eps)
    if at is None:
        size = np.abs(logits).max(axis=0)
        good = np.isfinite(size) & (size > 0)
        along, logits = (np.hstack([a, -a]) for a in (along[:, good] / size[good], logits[:, good] / size[good]))
        at = 2.0 ** np.arange(np.floor(np.log2(np.clip(np.abs(point.z).max(), 1e-9, 1))) - 12, 13)
    rounding = 4 * eps * (np.abs(point.at.r) @ (np.abs(point.at.u) + np.abs(point.at.u - point.at.r)))
    least = (1 - LOWER) * point.objective - rounding - (4 * eps) ** 2 * point.size
    barrier = point.objective + float(problem.tol) / 100 * point.size
    careful = careful or LOSSES[kind.loss].stand_in is not None
    found, status = None, Status.converged
    for p, ray in zip(along.T, logits.T, strict=True):

        def value(t: float, ray: Array = ray) -> float:
            there = float(scaled_value(kind, problem, point.z + t * ray, point.at.log_scale)[1])
            return there if np.isfinite(there) else np.inf

        values = np.array([value(t) for t in at])
        behind = np.maximum.accumulate(values) > barrier
        i = int(np.argmin(np.where(behind, np.inf, values) if careful else values))
        best, length = values[i], at[i]
        if best >= least and behind.any() and not behind[0]:
            k = int(np.argmax(behind))
            best, length = _dip(value, at[k - 1], at[k], barrier)
        if best < least:
            far = np.abs(point.z + at[-1] * ray).max() > 2 * np.abs(point.z).max() + 1
            stays = values[-1] <= best + LOWER * (point.objective - best)
            stays &= values[at <= NEAR].min() < (1 - LOWER) * point.objective  # else on a plateau a ray leads on
            found, least = state.x + length * p, best
            status = Status.unbounded if far and stays else Status.flat
    return found, status


def _dip(value: Callable[[float], float], low: float, high: float, barrier: float) -> tuple[float, float]:
    """Return the smallest value that is met by halving to where it crosses the barrier, and where that is."""
    best, length = np.inf, low
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        there = value(middle)
        if there < best:
            best, length = there, middle
        low, high = (middle, high) if there <= barrier else (low, middle)
    return best, length
