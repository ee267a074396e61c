"""The solvers on the device: each a pure (init, step, running) for one problem, under jit and vmap."""

from functools import partial
from typing import Any

import jax.numpy as jnp

from expreg.solver import newton, pcg, sketched
from expreg.solver.records import AUTO, MAX_STEPS, SKETCHES, chosen, names
from expreg.solver.state import Method, Objective, Problem, State, Steps, first_state, running
from expreg.solver.traced import TRACED, column_norms
from expreg.sparse import Sparse
from expreg.types import Array


def make(
    *,
    loss: str = "rescaled",
    activation: str = "exp",
    solver: str = AUTO,
    sketch: str | None = None,
    sketch_size: int | None = None,
    max_steps: int = MAX_STEPS,
    step_size: float | None = None,
) -> Method:
    """Return one solver as a `Method` of pure, unbatched functions.

    Exact and approximate Newton differ by `sketch`: with one of leverage, countsketch, gaussian, uniform the matrix
    of `newton` and `gauss_newton` is the Gauss-Newton matrix of sketched rows (F.12), of `sketch_size` rows. `pcg`
    is preconditioned by such a matrix, countsketch by default (F.15). `auto` chooses by the shape of A, as
    `expreg.solve` does. `step_size` belongs to gd, which otherwise searches. Raises ValueError for an unknown name.
    """
    if solver not in names() or sketch not in (None, *SKETCHES):
        raise ValueError(f"solver {solver!r} with sketch {sketch!r}: expected one of {names()}, {list(SKETCHES)}")

    def steps(A: Any) -> tuple[Objective, Steps]:
        record = chosen(solver, *A.shape, dense=not isinstance(A, Sparse))
        name = sketch or record.sketch
        matrix = sketched.hessian(name, sketch_size) if name else None
        kind = Objective(loss, activation, record.exact, TRACED)
        return kind, record.traced(kind, matrix, max_steps, step_size)

    def init(
        A: Any, b: Array, x0: Array, weights: Array | None = None, key: Any = None, tol: Array | float = 1e-10
    ) -> State:
        b, x0 = jnp.asarray(b), jnp.asarray(x0)
        w = jnp.zeros_like(b) if weights is None else jnp.asarray(weights)
        problem = Problem(A, b, w, jnp.asarray(tol, b.dtype), column_norms(A), key)
        kind, found = steps(A)
        return found.ready(first_state(kind, problem, x0, jnp.zeros_like(b[0])))

    return Method(init, lambda state: steps(state.problem.A)[1].step(state), running)


def newton_steps(kind: Objective, matrix: sketched.Hessian | None, max_steps: int, step_size: Any) -> Steps:
    """Return steps with the exact matrix, or with a sketched one (F.1)."""
    del step_size
    direction = newton.exact if matrix is None else partial(sketched.direction, matrix)
    return Steps(partial(newton.step, kind, direction, max_steps))


def pcg_steps(kind: Objective, matrix: sketched.Hessian, max_steps: int, step_size: Any) -> Steps:
    """Return steps by conjugate gradients on the exact matrix, preconditioned with a sketched one (F.15)."""
    del step_size
    direction = partial(pcg.direction, lambda kind, state: pcg.by_matrix(kind, matrix(kind, state), state), pcg.MOST)
    return Steps(partial(newton.step, kind, direction, max_steps))
