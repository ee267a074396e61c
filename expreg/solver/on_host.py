"""The directions of Newton and of conjugate gradients on the host, with what they keep from step to step."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy import sparse

from expreg import residual, sketch
from expreg.solver import host
from expreg.solver import pcg as conjugate
from expreg.solver.newton import Direction, Directions, Factor, along, factor
from expreg.solver.records import MANY_COLUMNS, PER_COLUMN
from expreg.solver.state import Objective, State
from expreg.types import Array

FAR = 0.02
"""Above this relative gradient a preconditioner is made anew at every step."""
AGAIN = 10.0
"""How much less a step with an old matrix gains than the last step did, as a factor of safety."""


def newton(A: Any, rng: np.random.Generator) -> Directions:
    """Return Newton directions."""
    del A, rng
    return _Newton()


def pcg(A: Any, rng: np.random.Generator) -> Directions:
    """Return directions by conjugate gradients on the exact Hessian, preconditioned with sampled rows (F.12), (F.15).

    A dense A that needs many iterations in one step goes on with Newton directions.
    """
    d = A.shape[1]
    if d > MANY_COLUMNS:
        return partial(conjugate.direction, conjugate.diagonal, 4 * conjugate.MOST)
    if sparse.issparse(A):
        return partial(conjugate.direction, _Sampled(A, rng), conjugate.MOST)
    most = max(12, d // 16)
    return _Until(2 * most, partial(conjugate.direction, _Sampled(A, rng), most), _Newton())


class _Until:
    """The first directions, until one of them reads A `limit` times or more; from then on the second."""

    def __init__(self, limit: int, first: Directions, second: Directions) -> None:
        self.limit, self.now, self.second = limit, first, second

    def __call__(self, kind: Objective, state: State) -> Direction:
        found = self.now(kind, state)
        if found.passes >= self.limit:
            self.now = self.second
        return found


class _Newton:
    """Newton directions; once two more steps with the last matrix reach the tolerance, it is used again.

    A step with a matrix from a point whose own step shrank the gradient by q shrinks it by a small multiple of q.
    """

    def __init__(self) -> None:
        self.factor: Factor | None = None

    def __call__(self, kind: Objective, state: State) -> Direction:
        if self.factor is not None and state.damping == self.factor.damping == 0:
            shrink = AGAIN * state.relative / state.memory
            if shrink < 0.1 and shrink * shrink * state.relative <= state.problem.tol:
                return along(kind, state, self.factor)
        self.factor = factor(kind, state)
        return along(kind, state, self.factor)


class _Sampled:
    """The preconditioner of rows sampled by v_i^2 ||a_i||^2, mixed half and half with uniform (F.5), (F.11).

    Made again while the point is far from the end; near it the matrix hardly changes.
    """

    def __init__(self, A: Any, rng: np.random.Generator) -> None:
        self.squares, self.rng = host.row_squares(A), rng
        self.kept: tuple[Callable[[Array], Array], Array] | None = None

    def __call__(self, kind: Objective, state: State) -> tuple[Callable[[Array], Array], Array]:
        if self.kept is None or state.relative > FAR or state.damping != self.kept[1]:
            self.kept = conjugate.by_matrix(kind, self.matrix(kind, state), state)
        return self.kept

    def matrix(self, kind: Objective, state: State) -> Array:
        """Return the Gauss-Newton matrix of a sample of the rows, (d, d), with the regulariser (F.12)."""
        problem, point = state.problem, state.point
        n, d = problem.A.shape
        size = int(np.clip(n // 8, min(n, 16 * d), PER_COLUMN * d))
        v, L, M = residual.jacobian(point.at, kind.loss)
        ridge = np.exp(-point.at.log_scale) * problem.weights**2
        mass = (v * v + ridge) * self.squares
        index, scale = sketch.draw(np.sort(self.rng.random(size)), 0.5 / n + 0.5 * mass / mass.sum())
        chosen = host.rows(problem.A.whole[index])
        low = host.rmatvec(problem.A, residual.scaled_curvature(point.at, kind.loss, exact=False).Q @ M)
        H = host.sampled_gram(chosen, v[index] * scale, L[index] * scale[:, None], low)
        return H + host.gram(chosen, ridge[index] * scale**2) if ridge.any() else H
