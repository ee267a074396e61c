"""Sketches of the Gauss-Newton matrix of a state, as directions and as preconditioners (F.5), (F.11), (F.12)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from expreg import residual, sketch
from expreg.sketch.oblivious import Apply
from expreg.solver.newton import Direction, along, damped_factor
from expreg.solver.records import SKETCHES
from expreg.solver.state import Objective, State
from expreg.solver.traced import rmatvec
from expreg.types import Array

FLOOR = 0.1
"""What is added to sketched leverage scores, in units of their mean: no row is out of reach."""

Hessian = Callable[[Objective, State], Array]


def hessian(name: str, size: int | None) -> Hessian:
    """Return (kind, state) -> B^T B (d, d), B = S (dr/dz) A with the regulariser (F.12); `size` rows, default by d.

    A fresh S at every step, from the key of the problem and the number of the step.
    """
    record = SKETCHES[name]

    def make(kind: Objective, state: State) -> Array:
        n, d = state.problem.A.shape
        rows = record.rows(n, d, size)
        key = jax.random.fold_in(state.problem.key, state.step)
        apply = by_leverage(key, state, rows) if record.make is None else record.make(key, n, rows)
        return _of_sketch(apply, kind.loss, state)

    return make


def by_leverage(key: Array, state: State, rows: int) -> Apply:
    """Return the sample of rows by sketched leverage scores of diag(v) A with the regulariser (F.3), (F.5)."""
    first, second = jax.random.split(key)
    v = state.point.at.v
    ridge = jnp.exp(-state.point.at.log_scale) * state.problem.weights**2
    J = sketch.of_weights(state.problem.A, v * v + ridge)
    scores = sketch.sketched_leverage(first, J, floor=FLOOR)
    return sketch.sampled(second, scores / jnp.sum(scores), rows)


def _of_sketch(apply: Apply, loss: str, state: State) -> Array:
    problem, point = state.problem, state.point
    v, L, M = residual.jacobian(point.at, loss)
    B = apply(problem.A, v)
    if L.shape[1]:
        Q = residual.scaled_curvature(point.at, loss, exact=False).Q
        B = B - apply(L) @ rmatvec(problem.A, Q @ M).T
    outer = apply(problem.A, jnp.exp(-point.at.log_scale / 2) * problem.weights)
    return (B.T @ B + outer.T @ outer).astype(v.dtype)


def direction(approximate: Hessian, kind: Objective, state: State) -> Direction:
    """Return the step of approximate Newton, x - H~^{-1} g (F.1): the exact gradient and a sketched matrix."""
    return along(kind, state, damped_factor(kind, approximate(kind, state), state.problem.norms, state.damping))
