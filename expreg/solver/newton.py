"""Second-order steps: where to go (a Newton direction, exact or sketched, or by conjugate gradients), then how far.

All matrices here are scaled to unit columns of A, so that damping and tolerances do not depend on units.
"""

from collections.abc import Callable
from typing import NamedTuple

from expreg import residual
from expreg.solver.search import armijo
from expreg.solver.state import Objective, State, evaluate, judged
from expreg.types import Array

SMALLEST_DAMPING = 1e-8
LARGEST_DAMPING = 1e8


class Direction(NamedTuple):
    """A step s (d,) with A s (n,), the slope g^T s, the damping it took, and how often A was read."""

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
    return along(kind, state, factor(kind, state))


def factor(kind: Objective, state: State) -> "Factor":
    """Return the factor of the exact or Gauss-Newton matrix with the regulariser."""
    ops, problem, point = kind.ops, state.problem, state.point
    curve = residual.scaled_curvature(point.at, kind.loss, exact=kind.exact)
    weights = curve.diagonal + ops.xp.exp(-point.at.log_scale) * problem.weights**2
    low = ops.rmatvec(problem.A, curve.Q)
    H = ops.gram(problem.A, weights) + low @ curve.S @ low.T
    return damped_factor(kind, H, problem.norms, state.damping)


def along(kind: Objective, state: State, found: "Factor") -> Direction:
    """Return the direction -(H + damping)^{-1} g of a factored matrix."""
    problem, point = state.problem, state.point
    s = -found.solve(kind, point.gradient)
    return Direction(s, kind.ops.matvec(problem.A, s), point.gradient @ s, found.damping, kind.ops.xp.asarray(3))


class Factor(NamedTuple):
    """The Cholesky factor L of N^-1 H N^-1 + damping, N = diag(1 / inverse), and the damping it took (F.13)."""

    L: Array
    damping: Array
    inverse: Array

    def solve(self, kind: Objective, r: Array) -> Array:
        """Return (H + damping)^{-1} r."""
        return self.inverse * kind.ops.backsolve(self.L, self.inverse * r)


class _Damped(NamedTuple):
    factor: Array
    good: Array
    damping: Array


def damped_factor(kind: Objective, H: Array, norms: Array, damping: Array) -> Factor:
    """Return the factor of H + damping tau N^2, N = diag(norms), tau the mean diagonal of N^-1 H N^-1.

    Damping grows tenfold from 1e-8 until the matrix is positive definite (F.13).
    """
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
    return Factor(end.factor, end.damping, inverse)
