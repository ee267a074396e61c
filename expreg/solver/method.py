"""The solvers by name: each a pure (init, step, running) for one problem, under jit and vmap."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp

from expreg.solver import first_order, newton, pcg, sketched
from expreg.solver.state import Method, Objective, Problem, State, first_state
from expreg.solver.traced import TRACED, column_norms
from expreg.types import Array, Status

SOLVERS = ("newton", "gauss_newton", "gd", "lbfgs", "pcg")
MAX_STEPS = 200


def make(
    *,
    loss: str = "rescaled",
    activation: str = "exp",
    solver: str = "auto",
    sketch: str | None = None,
    sketch_size: int | None = None,
    max_steps: int = MAX_STEPS,
    step_size: float | None = None,
) -> Method:
    """Return one solver as a `Method` of pure, unbatched functions.

    Exact and approximate Newton differ by `sketch`: with one of leverage, countsketch, gaussian, uniform the matrix
    of `newton` and `gauss_newton` is the Gauss-Newton matrix of sketched rows (F.12), of `sketch_size` rows. `pcg`
    is preconditioned by such a matrix, countsketch by default (F.15). `auto` is newton. `step_size` belongs to gd,
    which otherwise searches. Raises ValueError for an unknown name.
    """
    name = "newton" if solver == "auto" else solver
    if name not in SOLVERS or sketch not in (None, *sketched.SKETCHES):
        raise ValueError(f"solver {solver!r} with sketch {sketch!r}: expected one of {SOLVERS}, {sketched.SKETCHES}")
    kind = Objective(loss, activation, name != "gauss_newton", TRACED)
    if name in ("gd", "lbfgs"):
        chosen = first_order.optimizer(name, step_size)
        return _method(
            kind,
            partial(first_order.step, kind, chosen, max_steps),
            partial(first_order.ready, chosen, step_size is not None, kind),
        )
    direction = _direction(name, sketch, sketch_size)
    return _method(kind, partial(newton.step, kind, direction, max_steps), lambda state: state)


def _direction(name: str, sketch: str | None, size: int | None) -> newton.Directions:
    if name == "pcg":
        approximate = sketched.hessian(sketch or "countsketch", size)
        return partial(
            pcg.direction, lambda kind, state: pcg.by_matrix(kind, approximate(kind, state), state), pcg.MOST
        )
    if sketch is None:
        return newton.exact
    return partial(sketched.direction, sketched.hessian(sketch, size))


def _method(kind: Objective, step: Callable[[State], State], ready: Callable[[State], State]) -> Method:
    def init(
        A: Any, b: Array, x0: Array, weights: Array | None = None, key: Any = None, tol: Array | float = 1e-10
    ) -> State:
        b, x0 = jnp.asarray(b), jnp.asarray(x0)
        w = jnp.zeros_like(b) if weights is None else jnp.asarray(weights)
        problem = Problem(A, b, w, jnp.asarray(tol, b.dtype), column_norms(A), key)
        return ready(first_state(kind, problem, x0, jnp.zeros_like(b[0])))

    return Method(init, step, running)


def running(state: State) -> Array:
    """Return whether the state goes on; False for a state of zeros, which is what an idle lane holds."""
    return (state.status == int(Status.running)) & (state.passes > 0)
