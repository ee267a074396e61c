"""How a run ended: whether where the gradient vanishes is a minimum, and what to say of it."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from expreg.activation import lookup
from expreg.residual import LOSSES
from expreg.solver.newton import hessian
from expreg.solver.records import MANY_COLUMNS
from expreg.solver.state import Objective, Problem, State, first_state, scaled_value
from expreg.sparse.passes import rows
from expreg.types import Array, Status

FAR = 0.05  # a last step that moves a logit further is not one of a converging sequence
FLAT = 1e-8  # curvature below this share of the terms it is made of, or below 100 tol
LOWER = 1e-3  # by which share the loss must fall for a point to be no minimum
NEAR = 8  # points of a ray that move logits by 2 at most
MOST = 8  # flat directions that are looked along one by one
STALLED = 1.0  # a run that stops with more damping than this found no step that lowers the loss


class Verdict(NamedTuple):
    """What a point is: its status, in how many directions x may be changed without A x, and a lower point if any."""

    status: Status
    free: int = 0
    lower: Array | None = None


def ends(state: State) -> dict[str, Array]:
    """Return what `doubtful` asks of the last state; `misfit` is the loss as a share of the terms that cancel in it."""
    size = state.point.size
    misfit = state.point.objective / (size + (size == 0))
    return {name: getattr(state, name) for name in ("damping", "pivot", "moved")} | {"misfit": misfit}


def doubtful(x: Array, *, damping: Array, pivot: Array, moved: Array, misfit: Array) -> bool:
    """Return whether a point with a small gradient has to be looked at: steps that converge to a minimum end otherwise.

    Also a loss that is small, but more than rounding: a small gradient says little of by how much it may fall.
    """
    eps = float(np.finfo(x.dtype).eps)
    small = (100 * eps) ** 2 < misfit < np.sqrt(eps)
    return bool(moved > FAR or damping > 0 or small or pivot < max(300, 4 * len(x)) * eps)


def examined(kind: Objective, problem: Problem, x: Array, ended: Status, eps: float = 2.0**-52) -> Verdict:
    """Return whether a point with a small gradient is a minimum, by looking along all directions without curvature.

    `flat` if the loss is smaller elsewhere along one of them, `unbounded` if it stays so however far one goes. Else
    `ended`. Needs a Hessian and its eigenvectors, in float64, so only what is `doubtful` comes here.
    """
    if x.dtype != np.float64:
        found = examined(kind, _in_double(problem), x.astype(np.float64), ended, float(np.finfo(x.dtype).eps))
        return found if found.lower is None else found._replace(lower=found.lower.astype(x.dtype))
    (n, d), state = problem.A.shape, first_state(kind, problem, x, np.zeros_like(x[0]))
    point, scale = state.point, 1 / problem.norms
    curvature = scale[:, None] * hessian(kind, state) * scale if d <= MANY_COLUMNS else np.full((1, 1), np.nan)
    if not np.isfinite(curvature).all() or not np.isfinite(point.z).all():
        return Verdict(ended)
    values, vectors = np.linalg.eigh(curvature)
    unit = 2 * point.size / n
    least = max(100 * float(problem.tol), FLAT) * unit
    flat = values <= least
    scaleless = LOSSES[kind.loss].relative and lookup(kind.activation).parity == "odd"  # flat towards 0 (E.38)
    nearer = (
        _lowest(kind, problem, state, _nearer(x))[0]
        if (flat.any() or scaleless) and not LOSSES[kind.loss].stand_in
        else None
    )
    if nearer is not None:
        return Verdict(Status.flat, 0, nearer)
    if not flat.any():
        return Verdict(ended)
    P = scale[:, None] * vectors[:, flat]
    logits, unseen = problem.A.whole @ P, 10 * np.sqrt(np.finfo(x.dtype).eps)
    free = int(flat.sum() - (np.linalg.svd(logits, compute_uv=False) > unseen).sum())
    seen = np.linalg.norm(logits, axis=0) > unseen
    if point.objective <= (100 * eps) ** 2 * point.size:  # rounding
        return Verdict(ended, free)
    slopes = vectors[:, flat].T @ (scale * point.gradient)
    sloping = [-(P @ (slopes / np.maximum(np.abs(values[flat]), np.finfo(x.dtype).tiny))), -(P @ slopes)]
    along = [*sloping, *_down(problem), *P.T[seen][:MOST]]
    best, status = _lowest(kind, problem, state, list(_further(problem, state, along)))
    if best is not None:
        return Verdict(ended if ended == Status.max_steps and status == Status.flat else status, free, best)
    saturated = flat.all() and point.objective > FLAT * point.size and seen.any()
    return Verdict(Status.flat if saturated and ended == Status.converged else ended, free)


def _in_double(problem: Problem) -> Problem:
    A, others = rows(problem.A.whole.astype(np.float64)), ("b", "weights", "tol", "norms")
    double = {name: None if (a := getattr(problem, name)) is None else a.astype(np.float64) for name in others}
    return problem._replace(A=A, least=None, **double)


def _down(problem: Problem) -> Iterator[Array]:
    """Yield the direction in which logits fall where the target is 0, and stay where it is not, as far as A allows."""
    zero, A = problem.b == 0, problem.A.whole
    if zero.any() and isinstance(A, np.ndarray):
        yield np.linalg.lstsq(A / problem.norms, -zero.astype(A.dtype))[0] / problem.norms


def _further(problem: Problem, state: State, along: list[Array]) -> Iterator[list[Array]]:
    """Yield points further and further along each direction, so that logits move by 1/64 to 4096."""
    for p in along:
        size = np.abs(problem.A.whole @ p).max()
        if np.isfinite(size) and size > 0:
            for sign in (1, -1):
                yield [(state.x + sign * t / size * p).astype(p.dtype) for t in 2.0 ** np.arange(-6, 13)]


def _nearer(x: Array) -> list[list[Array]]:
    """Return points between x and 0, near 0 last, out of which no saturation reaches."""
    factors = [*(1 - 2.0 ** -np.arange(8, 1, -1)), *(2.0 ** -np.arange(1, 16)), 0.0]
    return [[(x * factor).astype(x.dtype) for factor in factors]]


def _lowest(kind: Objective, problem: Problem, state: State, rays: list[list[Array]]) -> tuple[Array | None, Status]:
    """Return the point on the rays with the smallest loss, None where none is lower, and what that says."""
    point, eps = state.point, float(np.finfo(np.float64).eps)
    rounding = 4 * eps * (np.abs(point.at.r) @ (np.abs(point.at.u) + np.abs(point.at.u - point.at.r)))
    bound = (1 - LOWER) * point.objective - rounding - (4 * eps) ** 2 * point.size
    found, least, status = None, bound, Status.converged
    for ray in rays:
        logits = [problem.A.whole @ x for x in ray]
        values = np.array([scaled_value(kind, problem, z, point.at.log_scale)[1] for z in logits])
        values = np.where(np.isfinite(values), values, np.inf)
        if LOSSES[kind.loss].stand_in:  # its loss tends to 0 for large x without a fit: do not cross a barrier
            behind = np.maximum.accumulate(values) > point.objective + float(problem.tol) / 100 * point.size
            values = np.where(behind, np.inf, values)
        i = int(np.argmin(values))
        if values[i] < least:
            grows = np.abs(logits[-1]).max() > 2 * np.abs(point.z).max() + 1
            ends = values[-1] <= values[i] + LOWER * (point.objective - values[i])
            ends &= values[:NEAR].min() < (1 - LOWER) * point.objective  # not on a plateau, from where a ray leads on
            found, least, status = ray[i], values[i], Status.unbounded if grows and ends else Status.flat
    return found, status


# --- in words ---------------------------------------------------------------------------------------

_SENTENCES: dict[str, tuple[str, tuple[str, ...]]] = {
    "max_steps": ("the gradient is above the tolerance after the whole budget", ("steps", "faster", "nearer")),
    "stalled": (
        "no step lowers the loss any further, by rounding or because the curvature is singular",
        ("f64", "tolerance", "weight"),
    ),
    "diverged": ("the loss grew without bound", ("newton", "smaller")),
    "nonfinite": ("a number left the range of the precision", ("f64", "smaller", "softmax")),
    "collapsed": ("alpha went to 0: the rescaled loss vanishes without a fit (E.37)", ("fits", "centred", "weight")),
    "trivial": ("x went to 0, where sinh vanishes (E.38)", ("losses", "start")),
    "flat": (
        "the gradient vanishes where the loss is flat, not at a minimum: activations are saturated",
        ("smaller", "weight"),
    ),
    "unbounded": (
        "the loss has no minimum here: it falls as long as logits grow, so that x depends on the tolerance only",
        ("weight", "positive"),
    ),
}
IN_A_CALL = {
    "steps": "more steps",
    "f64": "float64",
    "tolerance": "a larger tol",
    "weight": "weights > 0",
    "newton": "solver newton",
    "faster": "solver newton",
    "nearer": "a start nearer by",
}
IN_A_CONFIG = {
    "steps": "solver.max_steps",
    "f64": "precision f64",
    "tolerance": "a larger solver.tolerance",
    "weight": "problem.weight > 0",
    "newton": "solver.name newton",
}
_ADVICE = {
    "smaller": "a start with smaller logits",
    "start": "another start",
    "softmax": "the softmax loss, which never overflows (E.35)",
    "fits": "the softmax or the projective loss",
    "centred": "centred rows of A",
    "positive": "targets without zeros",
}


def sentence(
    status: str, damping: float, words: Mapping[str, str], *, solver: str, loss: str, dtype: Any, weighted: bool
) -> str:
    """Return what a status means and what to try, none of it done already; empty where all is well."""
    what, advice = _SENTENCES.get("stalled" if status == "max_steps" and damping > STALLED else status, ("", ()))
    others = [name for name in LOSSES if name not in (loss, "rescaled")]
    texts = {**_ADVICE, **words, "losses": f"the {' or the '.join(others)} loss"}
    done = {
        "f64": np.dtype(dtype) == np.float64,
        "newton": solver == "newton",
        "faster": solver == "newton",
        "softmax": LOSSES[loss].bounded,
        "weight": weighted,
    }
    left = [texts[name] for name in advice if name in texts and not done.get(name)]
    if not left:
        return what
    return f"{what}; try {', '.join(left[:-1])}{' or ' if left[1:] else ''}{left[-1]}"
