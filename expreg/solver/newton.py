"""Second-order steps: where to go (a Newton direction, exact or sketched, or by conjugate gradients), then how far.

All matrices here are scaled to unit columns of A, so that damping and tolerances do not depend on units.
"""

from collections.abc import Callable
from typing import NamedTuple

from expreg import residual
from expreg.solver.search import armijo
from expreg.solver.state import Objective, Point, Problem, State, evaluate, judged
from expreg.types import Array

SMALLEST_DAMPING = 1e-8
LARGEST_DAMPING = 1e8


class Direction(NamedTuple):
    """A step s (d,) with A s (n,), the slope g^T s, the damping it took, how often A was read, and memory."""

    step: Array
    dz: Array
    slope: Array
    damping: Array
    passes: Array


Directions = Callable[[Objective, State], Direction]


def step(kind: Objective, direction: Directions, max_steps: int, state: State) -> State:
    """Return the state one step later: a direction, a line search along it, and a look at the new point."""
    xp, problem, point = kind.ops.xp, state.problem, state.point
    found = direction(kind, state)
    length, accepted = armijo(kind, problem, point, found.dz, found.slope)
    t = xp.where(accepted, length, xp.zeros_like(length))
    there = evaluate(kind, problem, point.x + t * found.step, point.z + t * found.dz)
    easier = xp.where(found.damping > 10 * SMALLEST_DAMPING, found.damping / 10, xp.zeros_like(found.damping))
    harder = xp.maximum(10 * found.damping, xp.zeros_like(found.damping) + SMALLEST_DAMPING)
    kept = xp.where(t >= 1, easier, found.damping)
    moved = state._replace(
        point=there,
        decrement=-xp.exp(point.at.log_scale) * found.slope / 2,
        damping=xp.where(accepted, kept, harder),
        step=state.step + 1,
        passes=state.passes + found.passes + 1,
        memory=state.relative,
    )
    end = xp.where(harder > LARGEST_DAMPING, state.step + 1, max_steps)
    return judged(kind, moved, xp.where(accepted, max_steps, end))


def exact(kind: Objective, state: State) -> Direction:
    """Return the damped Newton direction of diag + low rank (E.4): one weighted Gram matrix and one factor."""
    xp, ops, problem, point = kind.ops.xp, kind.ops, state.problem, state.point
    curve = residual.scaled_curvature(point.at, kind.loss, exact=kind.exact)
    weights = curve.diagonal + _outer_weights(kind, problem, point)
    H = ops.gram(problem.A, weights) + point.low @ curve.S @ point.low.T
    s, slope, damping = solve_damped(kind, H, point.gradient, problem.norms, state.damping)
    return Direction(s, ops.matvec(problem.A, s), slope, damping, xp.asarray(2))


def _outer_weights(kind: Objective, problem: Problem, point: Point) -> Array:
    return kind.ops.xp.exp(-point.at.log_scale) * problem.weights**2


def solve_damped(
    kind: Objective, H: Array, gradient: Array, norms: Array, damping: Array
) -> tuple[Array, Array, Array]:
    """Return (s, g^T s, damping) with s = -(H + damping tau N^2)^{-1} g, N = diag(norms), tau the mean of N^-1 H N^-1.

    Damping grows tenfold from 1e-8 until the matrix is positive definite and s points downhill (F.13).
    """
    factor, used, inverse = damped_factor(kind, H, norms, damping)
    s = -inverse * kind.ops.backsolve(factor, inverse * gradient)
    return s, gradient @ s, used


class _Damped(NamedTuple):
    factor: Array
    good: Array
    damping: Array


def damped_factor(kind: Objective, H: Array, norms: Array, damping: Array) -> tuple[Array, Array, Array]:
    """Return (L, damping, 1 / norms): the Cholesky factor of the scaled, damped matrix, and the damping it took."""
    xp, ops = kind.ops.xp, kind.ops
    inverse = 1 / norms
    scaled = inverse[:, None] * H * inverse
    identity = xp.eye(H.shape[0], dtype=H.dtype)
    tau = xp.sum(xp.abs(xp.diagonal(scaled))) / H.shape[0]
    least = xp.finfo(H.dtype).eps * tau

    def attempt(damping: Array) -> _Damped:
        return _Damped(*ops.factor(scaled + (damping * tau + least) * identity), damping)

    def harder(trial: _Damped) -> _Damped:
        return attempt(xp.maximum(10 * trial.damping, xp.zeros_like(trial.damping) + SMALLEST_DAMPING))

    end = ops.while_loop(
        lambda trial: ~trial.good & (trial.damping < LARGEST_DAMPING) & xp.isfinite(tau), harder, attempt(damping)
    )
    return end.factor, end.damping, inverse
