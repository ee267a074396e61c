"""What a solver or a sketch must do at a tiny problem, tried once when it is registered."""

from collections.abc import Iterator
from functools import partial

import jax
import numpy as np

from expreg.solver import host, method
from expreg.solver.records import Sketch, Solver
from expreg.solver.state import Objective, Problem, first_state
from expreg.sparse import passes


def check(record: Solver | Sketch) -> Iterator[str]:
    """Yield what is wrong with a solver or a sketch at a tiny probe."""
    probe = _sketch_probe(record) if isinstance(record, Sketch) else _solver_probe(record)
    with jax.enable_x64(True):
        for expected in probe:
            yield f"{type(record).__name__.lower()} {record.name!r}: expected {expected}"


def _sketch_probe(sketch: Sketch) -> Iterator[str]:
    if sketch.make is None:
        return
    A, w, size = np.random.default_rng(0).normal(size=(6, 2)), np.linspace(0.5, 2, 6), 512
    apply = sketch.make(jax.random.key(0), 6, size)
    SA = np.asarray(apply(A))
    if SA.shape != (size, 2):
        yield f"S A of shape (size, d) = ({size}, 2), got {SA.shape}"
    elif not np.allclose(apply(A, w), apply(w[:, None] * A)):
        yield "apply(A, w) to be apply(diag(w) A)"
    elif np.linalg.norm(SA.T @ SA - A.T @ A) > np.linalg.norm(A) ** 2 / 2:
        yield f"(S A)^T S A near A^T A for {size} rows, E[S^T S] = I"


def _solver_probe(solver: Solver) -> Iterator[str]:
    rng = np.random.default_rng(0)
    A, x0 = rng.normal(size=(12, 2)), np.array([0.7, -0.1])
    b = np.exp(A @ [0.5, -0.3])
    given = Problem(A, b / b.sum(), 0 * b, np.asarray(1e-12), passes.column_norms(A), jax.random.key(0))
    kind = Objective("softmax", "exp", solver.exact, host.HOST)
    if solver.host is not None:
        with host.calm():
            at = first_state(kind, given._replace(A=passes.rows(A)), x0, np.zeros(()))
            found = solver.host(A, rng)(kind, at)
        if not (np.allclose(found.dz, A @ found.step) and found.slope < 0):
            yield "directions on the host with dz = A step and slope = g^T step < 0"
            return
    kind = kind._replace(ops=method.TRACED)
    matrix = partial(method.sketched, solver.sketch, None) if solver.sketch else None
    steps = solver.traced(kind, matrix, 99, None)
    state = first = steps.ready(first_state(kind, jax.tree.map(jax.numpy.asarray, given), x0, np.zeros(())))
    for _ in range(3):
        state = jax.jit(steps.step)(state)
    if jax.tree.map(np.shape, state) != jax.tree.map(np.shape, first) or int(state.step) != 3:
        yield "every step to return a State of the same shapes, one step later"
    elif not state.loss < first.loss:
        yield f"a smaller loss after 3 steps, got {float(state.loss):g} from {float(first.loss):g}"
