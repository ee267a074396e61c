"""Gradient descent and L-BFGS of optax, as steps on the same state."""

from typing import Any

import jax.numpy as jnp
import optax

from expreg import residual
from expreg.solver.state import Objective, State, Steps, evaluate, judged, ridge, scaled_value
from expreg.types import Array

LINESEARCH_STEPS = 30


def lbfgs(kind: Objective, matrix: None, max_steps: int, step_size: float | None) -> Steps:
    """Return L-BFGS with a zoom line search."""
    del matrix, step_size
    search = optax.scale_by_zoom_linesearch(max_linesearch_steps=LINESEARCH_STEPS, initial_guess_strategy="one")
    return _steps(kind, optax.lbfgs(linesearch=search), max_steps)


def gd(kind: Objective, matrix: None, max_steps: int, step_size: float | None) -> Steps:
    """Return gradient descent with a backtracking line search, or with a fixed step size, which may diverge."""
    del matrix
    if step_size is not None:
        return _steps(kind, optax.with_extra_args_support(optax.sgd(step_size)), max_steps, fixed=True)
    search = optax.scale_by_backtracking_linesearch(LINESEARCH_STEPS, increase_factor=2.0, max_learning_rate=1e30)
    return _steps(kind, optax.chain(optax.sgd(1.0), search), max_steps)


def _steps(kind: Objective, optimizer: Any, max_steps: int, *, fixed: bool = False) -> Steps:
    """Return updates of an optimizer, to which all is divided by e^{log_scale} of x0.

    Unless the step size is fixed, the objective is divided by its curvature along the gradient, so that the first
    length a line search tries, 1, is the minimiser of the quadratic model.
    """

    def ready(state: State) -> State:
        scale = 0 * state.point.at.log_scale if fixed else state.point.at.log_scale + jnp.log(_bend(kind, state))
        return state._replace(memory=(optimizer.init(state.x), scale))

    def step(state: State) -> State:
        problem, point = state.problem, state.point
        inner, log_scale = state.memory
        factor = jnp.exp(point.at.log_scale - log_scale)
        value, gradient = factor * point.objective, factor * point.gradient

        def objective(x: Array) -> Array:
            return scaled_value(kind, problem, kind.ops.matvec(problem.A, x), log_scale)[1]

        updates, inner = optimizer.update(gradient, inner, point.x, value=value, grad=gradient, value_fn=objective)
        x = optax.apply_updates(point.x, updates)
        there = evaluate(kind, problem, x, kind.ops.matvec(problem.A, x))
        tried = optax.tree.get(inner, "num_linesearch_steps", default=0)
        passes = state.passes + 2 + 2 * tried  # two for each point that the line search looked at
        far = jnp.max(jnp.abs(there.z - point.z))
        moved = state._replace(point=there, moved=far, memory=(inner, log_scale), step=state.step + 1, passes=passes)
        return judged(kind, moved, max_steps)

    return Steps(step, ready)


def _bend(kind: Objective, state: State) -> Array:
    """Return g^T H g / g^T g with the Gauss-Newton H and the regulariser, divided by e^{log_scale}; 1 at g = 0."""
    problem, point, g = state.problem, state.point, state.point.gradient
    curve = residual.scaled_curvature(point.at, kind.loss, exact=False)
    t = kind.ops.matvec(problem.A, g)
    low = t @ curve.Q
    bend = t @ ((curve.diagonal + ridge(kind, problem, point.at)) * t) + low @ curve.S @ low
    good = bend > 0
    return jnp.where(good, bend, 1) / jnp.where(good, g @ g, 1)
