"""The default rule on the host: which direction, from which start, by the shape of A.

A weighted Gram matrix of a dense A costs d / 20 + 4 products with one vector (measured), of a sparse one hundreds.
So a dense A with few columns is solved by exact Newton steps, all else by conjugate gradients on the exact Hessian,
preconditioned with the Gauss-Newton matrix of sampled rows (F.12), (F.15). Large problems start from the solution
of a subset of their rows.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from expreg import residual
from expreg.solver import host, newton, pcg, start, validate
from expreg.solver.newton import Direction, Directions
from expreg.solver.state import Objective, Problem, State, first_state
from expreg.types import Array, Status

FEW_COLUMNS = 96
"""Up to here a dense Gram matrix costs no more than the products of conjugate gradients."""
MANY_COLUMNS = 4000
"""From here on no d x d matrix is factored."""
LEAST_ROWS = 4096
PER_COLUMN = 48
"""Rows of the smallest subset and of the preconditioner, in units of d."""
GROWTH = 16
"""Each subset has this many times the rows of the one before."""
SAMPLE = 2048
"""Rows that are looked at to see whether a column hangs on few rows."""
FAR = 0.02
"""Above this relative gradient a preconditioner is made anew at every step."""
AGAIN = 10.0
"""How much less a step with an old matrix gains than the last step did, as a factor of safety."""
ROUGH = 1e-3
"""The tolerance on a subset: its minimiser is off by more."""


class Plan(NamedTuple):
    """The directions to take; once a step needs more than `limit` passes, `fallback` takes over."""

    name: str
    directions: Directions
    fallback: Directions | None
    limit: int


def choose(name: str, A: Any, rng: np.random.Generator) -> Plan:
    """Return how to solve with A, a dense or csr array, by `auto`, `newton`, `gauss_newton` or `pcg`."""
    n, d = A.shape
    dense = not sparse.issparse(A)
    if name in ("newton", "gauss_newton"):
        return Plan(name, _Newton(), None, 0)
    if name == "auto" and d <= MANY_COLUMNS and ((dense and d <= FEW_COLUMNS) or n <= PER_COLUMN * d):
        return Plan("newton", _Newton(), None, 0)
    if d > MANY_COLUMNS:
        return Plan("pcg", partial(pcg.direction, pcg.diagonal, 4 * pcg.MOST), None, 0)
    most = max(12, d // 16) if dense and name == "auto" else pcg.MOST
    return Plan("pcg", partial(pcg.direction, _Sampled(A, rng), most), _Newton() if dense else None, 2 * most)


class _Newton:
    """Newton directions; once two more steps with the last matrix reach the tolerance, it is used again.

    A step with a matrix from a point whose own step shrank the gradient by q shrinks it by a small multiple of q.
    """

    def __init__(self) -> None:
        self.factor: newton.Factor | None = None

    def __call__(self, kind: Objective, state: State) -> Direction:
        if self.factor is not None and state.damping == self.factor.damping == 0:
            shrink = AGAIN * state.relative / state.memory
            if shrink < 0.1 and shrink * shrink * state.relative <= state.problem.tol:
                return newton.along(kind, state, self.factor)
        self.factor = newton.factor(kind, state)
        return newton.along(kind, state, self.factor)


class _Sampled:
    """The preconditioner of rows sampled by v_i^2 ||a_i||^2, mixed half and half with uniform (F.5), (F.11).

    Made again while the point is far from the end; near it the matrix hardly changes.
    """

    def __init__(self, A: Any, rng: np.random.Generator) -> None:
        self.squares, self.rng = host.row_squares(A), rng
        self.kept: tuple[Callable[[Array], Array], Array] | None = None

    def __call__(self, kind: Objective, state: State) -> tuple[Callable[[Array], Array], Array]:
        if self.kept is None or state.relative > FAR or state.damping != self.kept[1]:
            self.kept = pcg.by_matrix(kind, self._matrix(kind, state), state)
        return self.kept

    def _matrix(self, kind: Objective, state: State) -> Array:
        problem, point = state.problem, state.point
        n, d = problem.A.shape
        size = int(np.clip(n // 8, min(n, 16 * d), PER_COLUMN * d))
        v, L, M = residual.jacobian(point.at, kind.loss)
        ridge = np.exp(-point.at.log_scale) * problem.weights**2
        mass = (v * v + ridge) * self.squares
        density = 0.5 / n + 0.5 * mass / mass.sum()
        upper = np.cumsum(density)
        index = np.minimum(np.searchsorted(upper, np.sort(self.rng.random(size)) * upper[-1]), n - 1)
        scale = 1 / np.sqrt(size * density[index])
        chosen = host.rows(problem.A.whole[index])
        low = host.rmatvec(problem.A, residual.scaled_curvature(point.at, kind.loss, exact=False).Q @ M)
        H = host.sampled_gram(chosen, v[index] * scale, L[index] * scale[:, None], low)
        return H + host.gram(chosen, ridge[index] * scale**2) if ridge.any() else H


def run(kind: Objective, plan: Plan, max_steps: int, state: State, seen: Callable[[State], None]) -> State:
    """Return the state at which the steps end; `seen` is told every state."""
    directions = plan.directions
    while state.status == Status.running:
        passes = state.passes
        state = newton.step(kind, directions, max_steps, state)
        seen(state)
        if plan.fallback is not None and state.passes - passes > plan.limit:
            directions = plan.fallback
    return state


def first_guess(kind: Objective, problem: Problem, rng: np.random.Generator) -> Array:
    """Return a start: for many rows the solution on a subset, itself found so, else the best linear guess."""
    if kind.loss == "rescaled" and kind.activation == "sinh":
        return _fitted(kind, problem, rng)
    n, d = problem.A.shape
    size = max(PER_COLUMN * d, n // GROWTH, LEAST_ROWS)
    if d > MANY_COLUMNS:
        return _small(d, problem, rng)
    if 2 * size > n:
        return start.best(kind, problem)
    index = np.sort(rng.integers(0, n, size))
    part = _subset(kind, problem, index)
    x = first_guess(kind, part, rng)
    plan = choose("auto", part.A.whole, rng)
    end = run(kind, plan, 30, first_state(kind, part, x, np.zeros_like(x[0])), lambda _: None)
    return end.x if np.isfinite(end.x).all() else _small(d, problem, rng)


def _fitted(kind: Objective, problem: Problem, rng: np.random.Generator) -> Array:
    """Return the minimiser of the projective loss: from a start without a fit, the rescaled loss of sinh falls to 0."""
    fit = kind._replace(loss="projective")
    x = first_guess(fit, problem, rng)
    begin = first_state(fit, problem._replace(tol=problem.tol + ROUGH), x, np.zeros_like(x[0]))
    end = run(fit, choose("auto", problem.A.whole, rng), 30, begin, lambda _: None)
    return end.x if np.isfinite(end.x).all() else x


def _small(d: int, problem: Problem, rng: np.random.Generator) -> Array:
    return (rng.normal(size=d) / problem.norms * np.sqrt(problem.A.shape[0] / d) * 0.1).astype(problem.b.dtype)


def _subset(kind: Objective, problem: Problem, index: Array) -> Problem:
    """Return the problem of these rows, its loss and regulariser in the proportion of the whole."""
    share = len(index) / problem.A.shape[0]
    A = problem.A.whole[index]
    b, weights = problem.b[index], problem.weights[index]
    if kind.loss != "exponential":
        total = b.sum()
        b = b * (problem.b.sum() / total if total != 0 else 1 / share)
    if kind.loss in ("softmax", "projective"):
        weights = weights / share if kind.loss == "softmax" else weights / np.sqrt(share)
    norms = host.column_norms(A)
    tol = np.asarray(max(ROUGH, float(problem.tol)), dtype=b.dtype)
    return Problem(host.rows(A), b, weights, tol, np.where(norms > 0, norms, 1).astype(b.dtype), None)


def problem_of(A: Any, b: Array, weights: Array, tol: float, norms: Array) -> Problem:
    """Return the problem on the host.

    Where a column hangs on few rows, ||a_j|| n^-1/2 may be far above the size of its entries in the rows that count,
    and the tolerance is a hundred times smaller.
    """
    least = validate.REACHABLE * float(np.finfo(b.dtype).eps)
    sharp = max(tol / 100, least) if _concentrated(A, norms) else tol
    return Problem(host.rows(A), b, weights, np.asarray(sharp, b.dtype), norms, None)


def _concentrated(A: Any, norms: Array) -> bool:
    """Return whether some column's norm on every k-th row is less than a quarter of what it should be."""
    every = A.shape[0] // SAMPLE
    if every < 2:
        return False
    return bool((host.column_norms(A[::every]) * np.sqrt(every) < norms / 4).any())
