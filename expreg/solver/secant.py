"""A matrix that is kept over many steps on the host, and corrected by what the gradient did in each of them (BFGS).

The gradient stays exact, so that only the rate depends on the matrix: one of sampled rows or of float32 will do.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from expreg.solver.newton import Direction, Directions, Factor, Matrix, factored, roughly
from expreg.solver.state import Objective, State
from expreg.types import Array

LONG = 24  # steps: a matrix whose last one foretells more of them is given up


class Candidate(NamedTuple):
    """A matrix to take steps with, and what making it costs in units of such a step."""

    matrix: Matrix
    cost: float = 0.0


def corrected(candidates: Sequence[Candidate], otherwise: Callable[[], Directions]) -> Directions:
    """Return directions by the first candidate, by the next as soon as that saves more steps than it costs.

    Where a matrix is damped or would need too many steps, `otherwise()` gives the directions from there on.
    """
    left, final = list(candidates), False
    now = kept(left.pop(0).matrix)

    def direction(kind: Objective, state: State) -> Direction:
        nonlocal now, final
        if final:
            return now(kind, state)
        steps = _steps_left(state) if state.step else 0.0
        if left and steps > 2 + left[0].cost and not state.damping > 0:
            now, steps = kept(left.pop(0).matrix), 0.0
        found = now(kind, state)
        if steps > LONG or max(found.damping, state.damping) > 0:
            now, final = otherwise(), True
            return now(kind, state)
        return found

    return direction


def _steps_left(state: State) -> float:
    """Return how many more steps reach the tolerance if each shrinks the gradient as the last one did."""
    shrink = state.relative / state.memory
    return float(np.log(state.relative / state.problem.tol) / -np.log(shrink)) if shrink < 1 else np.inf


def kept(matrix: Matrix) -> Directions:
    """Return directions by the matrix of the first state that is seen, corrected by all steps since then."""
    factor: Factor | None = None
    unit, last, pairs = np.zeros(()), (np.zeros(()), np.zeros(())), list[tuple[Array, Array]]()

    def direction(kind: Objective, state: State) -> Direction:
        nonlocal factor, unit, last
        point, first = state.point, factor is None
        if factor is None:
            factor, unit = roughly(factored(matrix, kind, state)), point.at.log_scale
        gradient = np.exp(point.at.log_scale - unit) * point.gradient  # all in the units of the first state
        if not first:
            pairs.append((point.x - last[0], gradient - last[1]))
        last = point.x, gradient
        s = -two_loops(factor.solve, pairs, gradient)
        dz = kind.ops.matvec(state.problem.A, s)
        return Direction(s, dz, point.gradient @ s, factor.damping, np.asarray(3 if first else 1), factor.pivot)

    return direction


def two_loops(solve: Callable[[Array], Array], pairs: Sequence[tuple[Array, Array]], r: Array) -> Array:
    """Return H^{-1} r, where H is the matrix that `solve` inverts after a BFGS update by every (s, y) with s y > 0."""
    good = [(s, y, s @ y) for s, y in pairs if s @ y > 0]
    shares = []
    for s, y, bend in reversed(good):
        shares.append((s @ r) / bend)
        r = r - shares[-1] * y
    found = solve(r)
    for (s, y, bend), share in zip(good, reversed(shares), strict=True):
        found = found + (share - (y @ found) / bend) * s
    return found
