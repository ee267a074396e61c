"""Newton steps by conjugate gradients, preconditioned with a sketch of the Gauss-Newton matrix (F.15)."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from expreg import residual
from expreg.solver.newton import Direction, damped_factor
from expreg.solver.state import Objective, State
from expreg.types import Array

LOOSEST = 0.1
"""The largest relative residual at which a system counts as solved."""
MOST = 60
"""Iterations in one step."""

Preconditioner = Callable[[Objective, State], tuple[Callable[[Array], Array], Array]]
"""(kind, state) -> (r -> M^{-1} r, damping used)."""


class _Iterate(NamedTuple):
    s: Array
    As: Array
    r: Array
    p: Array
    rho: Array
    count: Array
    going: Array


def direction(preconditioner: Preconditioner, most: int, kind: Objective, state: State) -> Direction:
    """Return the direction of a preconditioned, truncated conjugate-gradient solve with the exact curvature.

    A direction of negative curvature ends it; as the very first one it is followed. The residual asked for falls
    with the square of the gradient, so that the whole run converges faster than linearly.
    """
    xp, point = kind.ops.xp, state.point
    apply, damping = preconditioner(kind, state)
    multiply = _hessian(kind, state, damping)
    y = apply(-point.gradient)
    rho = -(point.gradient @ y)
    goal = _goal(kind, state) ** 2 * rho
    zero = xp.zeros_like(y)
    begin = _Iterate(zero, xp.zeros_like(point.z), -point.gradient, y, rho, xp.asarray(0), rho > 0)

    def body(at: _Iterate) -> _Iterate:
        Hp, Ap = multiply(at.p)
        bend = at.p @ Hp
        good = bend > 0
        first = at.count == 0
        t = xp.where(
            good,
            at.rho / xp.where(good, bend, xp.ones_like(bend)),
            xp.where(first, xp.ones_like(bend), xp.zeros_like(bend)),
        )
        s, As, r = at.s + t * at.p, at.As + t * Ap, at.r - t * Hp
        y = apply(r)
        rho = r @ y
        going = good & (rho > goal) & (at.count + 1 < most)
        return _Iterate(s, As, r, y + (rho / at.rho) * at.p, rho, at.count + 1, going)

    end = kind.ops.while_loop(lambda at: at.going, body, begin)
    return Direction(end.s, end.As, point.gradient @ end.s, damping, 2 * end.count + 1)


def _goal(kind: Objective, state: State) -> Array:
    xp = kind.ops.xp
    fall = state.relative / state.memory
    least = 0.1 * state.problem.tol / state.relative
    return xp.clip(xp.maximum(fall * fall, least), 0.0, LOOSEST)


def _hessian(kind: Objective, state: State, damping: Array) -> Callable[[Array], tuple[Array, Array]]:
    """Return p -> (H p, A p) for the exact or Gauss-Newton curvature with regulariser and damping (E.4)."""
    xp, problem, point = kind.ops.xp, state.problem, state.point
    curve = residual.scaled_curvature(point.at, kind.loss, exact=kind.exact)
    low = kind.ops.rmatvec(problem.A, curve.Q)
    D = curve.diagonal + xp.exp(-point.at.log_scale) * problem.weights**2
    ridge = damping * problem.norms**2 * (xp.sum(xp.abs(D)) / D.shape[0])

    def multiply(p: Array) -> tuple[Array, Array]:
        product, Ap = kind.ops.product(problem.A, D, p)
        return product + low @ (curve.S @ (low.T @ p)) + ridge * p, Ap

    return multiply


def by_matrix(kind: Objective, H: Array, state: State) -> tuple[Callable[[Array], Array], Array]:
    """Return (r -> (H + damping)^{-1} r, damping) by a Cholesky factor."""
    factor = damped_factor(kind, H, state.problem.norms, state.damping)
    return partial(factor.solve, kind), factor.damping


def diagonal(_: Objective, state: State) -> tuple[Callable[[Array], Array], Array]:
    """Return the preconditioner of unit columns: nothing but the column norms, for d too large to factor."""
    scale = 1 / state.problem.norms**2
    return lambda r: scale * r, state.damping
