"""Second-order steps: where to go, by a factored matrix or by conjugate gradients, then how far (F.1), (F.13)-(F.15).

All matrices here are scaled to unit columns of A, so that damping and tolerances do not depend on units.
"""

from collections.abc import Callable
from typing import NamedTuple

from expreg import residual
from expreg.residual import Terms
from expreg.solver.state import Objective, State, evaluate, judged, ridge, scaled_value
from expreg.types import Array

SMALLEST_DAMPING, LARGEST_DAMPING = 1e-8, 1e8
SUFFICIENT = 1e-4  # the share of the slope by which the loss must fall (F.13)
LARGEST = 10.0  # the largest change of a logit in one step: exp changes by e^10
HALVINGS = 40
SINGULAR = 300  # units of rounding below which a pivot of a matrix, of unit columns, is taken for 0
LOOSEST = 0.1  # the largest relative residual at which conjugate gradients stop
MOST = 60  # iterations of conjugate gradients in one step


class Direction(NamedTuple):
    """A step s (d,) with A s (n,), the slope g^T s, damping and pivot as `State` has them, and how often A was read."""

    step: Array
    dz: Array
    slope: Array
    damping: Array
    passes: Array
    pivot: Array


class Factor(NamedTuple):
    """A matrix H ready for use: `solve(r)` = (H + damping)^{-1} r, the damping it took, its pivot as `State` has it."""

    solve: Callable[[Array], Array]
    damping: Array
    pivot: Array


Directions = Callable[[Objective, State], Direction]
Matrix = Callable[[Objective, State], Array]  # H (d, d)
Preconditioner = Callable[[Objective, State], Factor]


def step(kind: Objective, direction: Directions, max_steps: int, state: State) -> State:
    """Return the state one step later: a direction, a line search along it, and a look at the new point."""
    xp, problem, point = kind.ops.xp, state.problem, state.point
    found = direction(kind, state)
    end = _armijo(kind, state, found.dz, found.slope)
    t, accepted = end.length, end.length > 0
    there = evaluate(kind, problem, point.x + t * found.step, end.z, end.at)
    easier = xp.where(found.damping > 10 * SMALLEST_DAMPING, found.damping / 10, 0)
    harder = xp.maximum(10 * found.damping, SMALLEST_DAMPING)
    moved = state._replace(
        point=there,
        decrement=-xp.exp(point.at.log_scale) * found.slope / 2,
        pivot=found.pivot,
        moved=end.far,
        damping=xp.where(accepted, xp.where(t >= 1, easier, found.damping), harder),
        step=state.step + 1,
        passes=state.passes + found.passes + 1,
        memory=state.relative,
    )
    end = xp.where(harder > LARGEST_DAMPING, state.step + 1, max_steps)
    return judged(kind, moved, xp.where(accepted, max_steps, end))


class _Trial(NamedTuple):
    length: Array
    far: Array  # by how much a logit moves at the most
    z: Array
    at: Terms
    accepted: Array
    count: Array


def _armijo(kind: Objective, state: State, dz: Array, slope: Array) -> _Trial:
    """Return the first t of 1, 1/2, 1/4, ... with objective(t) <= objective(0) + 1e-4 t slope, or t = 0.

    A backtracking line search on z + t dz, which never reads A (F.13). It starts below 1 where a logit would move by
    more than `LARGEST`. Near the minimum the change drowns in rounding: a rise of a few units in the last place of the
    terms that cancel is allowed.
    """
    xp, point = kind.ops.xp, state.point
    room = 8 * xp.finfo(dz.dtype).eps * point.size

    furthest = xp.maximum(xp.max(dz), -xp.min(dz))

    def trial(t: Array, count: Array) -> _Trial:
        z = point.z + t * dz
        at, value = scaled_value(kind, state.problem, z, point.at.log_scale)
        return _Trial(t, t * furthest, z, at, value <= point.objective + SUFFICIENT * t * slope + room, count)

    first = xp.where(furthest > LARGEST, LARGEST / furthest, xp.ones_like(furthest))
    return kind.ops.while_loop(
        lambda last: ~last.accepted & (last.count < HALVINGS),
        lambda last: trial(xp.where(last.count + 1 < HALVINGS, last.length / 2, 0), last.count + 1),
        trial(xp.where(slope < 0, first, 0), xp.asarray(0)),
    )


# --- a factored matrix ------------------------------------------------------------------------------


def by_matrix(matrix: Matrix, kind: Objective, state: State) -> Direction:
    """Return the damped direction -(H + damping)^{-1} g: Newton's for `hessian`, else that of its approximation."""
    return along(kind, state, factored(matrix, kind, state))


def along(kind: Objective, state: State, found: Factor) -> Direction:
    """Return the direction of a factored matrix."""
    gradient = state.point.gradient
    s = -found.solve(gradient)
    dz, passes = kind.ops.matvec(state.problem.A, s), kind.ops.xp.asarray(3)
    return Direction(s, dz, gradient @ s, found.damping, passes, found.pivot)


def hessian(kind: Objective, state: State) -> Array:
    """Return the exact or Gauss-Newton matrix with the regulariser, diagonal plus low rank in z (E.4)."""
    ops, problem, point = kind.ops, state.problem, state.point
    curve = residual.scaled_curvature(point.at, kind.loss, exact=kind.exact)
    weights = curve.diagonal + ridge(kind, problem, point.at)
    low = ops.rmatvec(problem.A, curve.Q)
    return ops.gram(problem.A, weights) + low @ curve.S @ low.T


def factored(matrix: Matrix, kind: Objective, state: State) -> Factor:
    """Return a matrix of the state, factored with at least the damping of the state."""
    problem = state.problem
    return damped(kind, matrix(kind, state), problem.norms, state.damping, 2 * state.point.size / problem.A.shape[0])


def roughly(found: Factor) -> Factor:
    """Return the factor of a matrix made in float32: a pivot within its rounding may be one of 0."""
    return found._replace(pivot=(found.pivot > SINGULAR * 2.0**-23) * found.pivot)


class _Damped(NamedTuple):
    factor: Array
    good: Array
    damping: Array


def damped(kind: Objective, H: Array, norms: Array, damping: Array, unit: Array | float = 1.0) -> Factor:
    """Return the Cholesky factor of H + damping tau N^2, N = diag(norms), tau the mean diagonal of N^-1 H N^-1.

    Damping grows tenfold from 1e-8 until the matrix is positive definite (F.13). Where nothing but rounding is left
    of H, it is in units of the terms that cancelled, `unit`.
    """
    ops, xp = kind.ops, kind.ops.xp
    inverse = 1 / norms
    scaled = inverse[:, None] * H * inverse
    identity = xp.eye(H.shape[0], dtype=H.dtype)
    tau, eps = abs(scaled.diagonal()).sum() / H.shape[0], xp.finfo(H.dtype).eps
    tau = tau + (tau <= eps * eps * unit) * xp.asarray(unit, dtype=H.dtype)
    least = eps * tau

    def attempt(damping: Array) -> _Damped:
        return _Damped(*ops.factor(scaled + (damping * tau + least) * identity), damping)

    end = ops.while_loop(
        lambda trial: ~trial.good & (trial.damping < LARGEST_DAMPING) & xp.isfinite(tau),
        lambda trial: attempt(xp.maximum(10 * trial.damping, SMALLEST_DAMPING)),
        attempt(damping),
    )
    pivot = (end.damping <= 0) * end.factor.diagonal().min() ** 2 / tau
    return Factor(lambda r: inverse * ops.backsolve(end.factor, inverse * r), end.damping, pivot)


# --- conjugate gradients ----------------------------------------------------------------------------


class _Iterate(NamedTuple):
    s: Array
    As: Array
    r: Array
    p: Array
    rho: Array
    count: Array
    going: Array


def conjugate(preconditioner: Preconditioner, most: int, kind: Objective, state: State) -> Direction:
    """Return the direction of a preconditioned, truncated conjugate-gradient solve with the exact curvature (F.15).

    A direction of negative curvature ends it; as the very first one it is followed. The residual asked for falls
    with the square of the gradient, so that the whole run converges faster than linearly.
    """
    xp, point = kind.ops.xp, state.point
    apply, damping, pivot = preconditioner(kind, state)
    multiply = _product(kind, state, damping)
    fall, least = state.relative / state.memory, 0.1 * state.problem.tol / state.relative
    y = apply(-point.gradient)
    rho = -(point.gradient @ y)
    goal = xp.clip(xp.maximum(fall * fall, least), 0.0, LOOSEST) ** 2 * rho

    def body(at: _Iterate) -> _Iterate:
        Hp, Ap = multiply(at.p)
        bend = at.p @ Hp
        good = bend > 0
        t = xp.where(good | (at.count == 0), xp.where(good, at.rho, 1) / xp.where(good, bend, 1), 0)
        s, As, r = at.s + t * at.p, at.As + t * Ap, at.r - t * Hp
        y = apply(r)
        rho = r @ y
        going = good & (rho > goal) & (at.count + 1 < most)
        return _Iterate(s, As, r, y + (rho / at.rho) * at.p, rho, at.count + 1, going)

    begin = _Iterate(xp.zeros_like(y), xp.zeros_like(point.z), -point.gradient, y, rho, xp.asarray(0), rho > 0)
    end = kind.ops.while_loop(lambda at: at.going, body, begin)
    return Direction(end.s, end.As, point.gradient @ end.s, damping, 2 * end.count + 1, pivot)


def _product(kind: Objective, state: State, damping: Array) -> Callable[[Array], tuple[Array, Array]]:
    """Return p -> (H p, A p) for the exact or Gauss-Newton curvature with regulariser and damping (E.4)."""
    xp, problem, point = kind.ops.xp, state.problem, state.point
    curve = residual.scaled_curvature(point.at, kind.loss, exact=kind.exact)
    low = kind.ops.rmatvec(problem.A, curve.Q)
    D = curve.diagonal + ridge(kind, problem, point.at)
    extra = damping * problem.norms**2 * (xp.sum(xp.abs(D)) / problem.A.shape[0])

    def multiply(p: Array) -> tuple[Array, Array]:
        product, Ap = kind.ops.product(problem.A, D, p)
        return product + low @ (curve.S @ (low.T @ p)) + extra * p, Ap

    return multiply


def unit_columns(_: Objective, state: State) -> Factor:
    """Return the preconditioner of nothing but the column norms, for d too large to factor."""
    scale = 1 / state.problem.norms**2
    return Factor(lambda r: scale * r, state.damping, state.pivot)
