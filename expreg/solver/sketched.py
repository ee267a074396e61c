"""Sketches of the Gauss-Newton matrix of a state, as directions and as preconditioners (F.5), (F.11), (F.12)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from expreg import residual, sketch, sparse
from expreg.sketch.oblivious import Apply
from expreg.solver.newton import Direction, along, damped_factor
from expreg.solver.state import Objective, State
from expreg.solver.traced import rmatvec
from expreg.types import Array

SKETCHES = ("leverage", "countsketch", "gaussian", "uniform")
PER_COLUMN = {"leverage": 40, "uniform": 40, "countsketch": 40, "gaussian": 16}
"""Rows of a sketch in units of d where no size is given: a distortion of about 1/3 (F.4), (F.6)."""
FLOOR = 0.1
"""What is added to sketched leverage scores, in units of their mean: no row is out of reach."""

Hessian = Callable[[Objective, State], Array]


def rows_of(name: str, n: int, d: int, size: int | None) -> int:
    """Return the rows of a sketch: as given, else by d, and no more than 4 n."""
    return size or min(PER_COLUMN[name] * d, 4 * n)


def hessian(name: str, size: int | None) -> Hessian:
    """Return (kind, state) -> B^T B (d, d), B = S (dr/dz) A with the regulariser (F.12); `size` rows, default by d.

    A fresh S at every step, from the key of the problem and the number of the step.
    """

    def make(kind: Objective, state: State) -> Array:
        n, d = state.problem.A.shape
        rows = rows_of(name, n, d, size)
        key = jax.random.fold_in(state.problem.key, state.step)
        return _of_sketch(_apply(name, key, state, n, rows), kind.loss, state)

    return make


def _apply(name: str, key: Array, state: State, n: int, rows: int) -> Apply:
    if name == "gaussian":
        return sketch.gaussian(key, n, rows)
    if name == "countsketch":
        return sketch.countsketch(key, n, rows)
    if name == "uniform":
        return sketch.uniform(key, n, rows)
    first, second = jax.random.split(key)
    return _sampled(second, _probabilities(first, state), rows)


def _probabilities(key: Array, state: State) -> Array:
    """Return p_i proportional to sketched leverage scores of diag(v) A (F.3)."""
    v = state.point.at.v
    ridge = jnp.exp(-state.point.at.log_scale) * state.problem.weights**2
    J = sketch.of_weights(state.problem.A, v * v + ridge)
    scores = sketch.sketched_leverage(key, J, floor=FLOOR)
    return scores / jnp.sum(scores)


def _sampled(key: Array, probabilities: Array, size: int) -> Apply:
    """Return the sketch that draws rows with the given probabilities, with replacement (F.5)."""
    upper = jnp.cumsum(probabilities)
    drawn = jax.random.uniform(key, (size,), probabilities.dtype) * upper[-1]
    index = jnp.minimum(jnp.searchsorted(upper, drawn, side="right"), probabilities.shape[0] - 1)
    scale = 1 / jnp.sqrt(size * probabilities[index])

    def apply(A: Array, weights: Array | None = None) -> Array:
        found = sparse.take_rows(A, index) * scale[:, None]
        return found if weights is None else found * weights[index][:, None]

    return apply


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
