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
from expreg.solver import host, newton, pcg, start
from expreg.solver.newton import Directions
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
ROUGH = 1e-4
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
        return Plan(name, newton.exact, None, 0)
    if name == "auto" and d <= MANY_COLUMNS and ((dense and d <= FEW_COLUMNS) or n <= PER_COLUMN * d):
        return Plan("newton", newton.exact, None, 0)
    if d > MANY_COLUMNS:
        return Plan("pcg", partial(pcg.direction, pcg.diagonal, 4 * pcg.MOST), None, 0)
    most = max(12, d // 16) if dense and name == "auto" else pcg.MOST
    precondition = partial(_sampled, host.row_squares(A), rng)
    return Plan("pcg", partial(pcg.direction, precondition, most), newton.exact if dense else None, 2 * most)


def _sampled(
    squares: Array, rng: np.random.Generator, kind: Objective, state: State
) -> tuple[Callable[[Array], Array], Array]:
    """Return the preconditioner of rows sampled by v_i^2 ||a_i||^2, mixed half and half with uniform (F.5), (F.11)."""
    problem, point = state.problem, state.point
    n, d = problem.A.shape
    size = int(np.clip(n // 8, min(n, 16 * d), PER_COLUMN * d))
    v, L, M = residual.jacobian(point.at, kind.loss)
    ridge = np.exp(-point.at.log_scale) * problem.weights**2
    mass = (v * v + ridge) * squares
    upper = np.cumsum(0.5 / n + 0.5 * mass / mass.sum())
    index = np.sort(np.searchsorted(upper, rng.random(size) * upper[-1]))
    index = np.minimum(index, n - 1)
    scale = 1 / np.sqrt(size * (0.5 / n + 0.5 * mass[index] / mass.sum()))
    chosen = host.rows(problem.A.whole[index])
    H = host.sampled_gram(chosen, v[index] * scale, L[index] * scale[:, None], point.low @ M)
    if ridge.any():
        H = H + host.gram(chosen, ridge[index] * scale**2)
    return pcg.by_matrix(kind, H, state)


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
        return start.best(kind, problem, start.candidates(kind, problem))
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
    """Return the problem on the host."""
    return Problem(host.rows(A), b, weights, np.asarray(tol, b.dtype), norms, None)
