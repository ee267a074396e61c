"""The solvers on the device: each a pure (init, step, running) for one problem, under jit and vmap."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from expreg import residual, sketch, sparse
from expreg.activation import Activation
from expreg.sketch.oblivious import Apply
from expreg.solver import newton
from expreg.solver.records import AUTO, MAX_STEPS, SKETCHES, chosen, names
from expreg.solver.state import Backend, Method, Objective, Problem, State, Steps, first_state, ridge, running
from expreg.sparse import Matrix, Shared, Sparse
from expreg.types import Array, Tree

FLOOR = 0.1  # added to sketched leverage scores, in units of their mean: no row is out of reach


def make(
    *,
    loss: str = "rescaled",
    activation: str | Activation = "exp",
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
        record = chosen(solver, *A.shape, dense=not isinstance(A.rows if isinstance(A, Shared) else A, Sparse))
        name = sketch or record.default_sketch(A.shape[1])
        matrix = partial(sketched, name, sketch_size) if name else None
        kind = Objective(loss, activation, record.exact, TRACED)
        return kind, record.traced(kind, matrix, max_steps, step_size)

    def init(
        A: Any, b: Array, x0: Array, weights: Array | None = None, key: Any = None, tol: Array | float = 1e-10
    ) -> State:
        b, x0 = jnp.asarray(b), jnp.asarray(x0)
        w = None if weights is None else jnp.asarray(weights)
        problem = Problem(A, b, w, jnp.asarray(tol, b.dtype), column_norms(A), key)
        kind, found = steps(A)
        return found.ready(first_state(kind, problem, x0, jnp.zeros_like(b[0])))

    return Method(init, lambda state: steps(state.problem.A)[1].step(state), running)


def newton_steps(kind: Objective, matrix: newton.Matrix | None, max_steps: int, step_size: Any) -> Steps:
    """Return steps with the exact matrix, or with a sketched one: the exact gradient and its matrix (F.1)."""
    del step_size
    return Steps(partial(newton.step, kind, partial(newton.by_matrix, matrix or newton.hessian), max_steps))


def pcg_steps(kind: Objective, matrix: newton.Matrix | None, max_steps: int, step_size: Any) -> Steps:
    """Return steps by conjugate gradients on the exact matrix, preconditioned with a sketched one (F.15) if any."""
    del step_size
    direction = partial(newton.conjugate, newton.unit_columns, 4 * newton.MOST)
    if matrix is not None:
        direction = partial(newton.conjugate, partial(newton.factored, matrix), newton.MOST)
    return Steps(partial(newton.step, kind, direction, max_steps))


# --- sketches of the Gauss-Newton matrix ------------------------------------------------------------


def sketched(name: str, size: int | None, kind: Objective, state: State) -> Array:
    """Return B^T B (d, d), B = S (dr/dz) A with the regulariser (F.11), (F.12), for `size` rows, default by d.

    A fresh S at every step, from the key of the problem and the number of the step. Where devices share the rows, each
    sketches its own with its part of the size: the traffic is that of the sum of d x d matrices.
    """
    problem, point, record = state.problem, state.point, SKETCHES[name]
    n, d = problem.A.shape
    rows, make = record.rows(n, d, size), record.make
    key = jax.random.fold_in(problem.key, state.step)
    v, L, M = residual.jacobian(point.at, kind.loss)
    Q = residual.scaled_curvature(point.at, kind.loss, exact=False).Q
    low = sparse.rmatvec(problem.A, Q @ M).T if L.shape[1] else None
    weights = None if problem.weights is None else jnp.exp(-point.at.log_scale / 2) * problem.weights

    if isinstance(problem.A, Shared) and make is not None:

        def of_share(A: Matrix, number: Array, v: Array, L: Array, weights: Any, low: Any, key: Array) -> Array:
            size = -(-rows * len(number) // len(point.z))
            apply = make(jax.random.fold_in(key, number[0]), len(number), size)
            return _sketched_gram(apply, A, v, L, weights, low)

        vectors = jnp.arange(len(v)), v, L, weights
        return sparse.by_share(of_share, problem.A, vectors, (low, key))
    apply = _by_leverage(key, kind, state, rows) if make is None else make(key, n, rows)
    return _sketched_gram(apply, problem.A, v, L, weights, low)


def _sketched_gram(apply: Apply, A: Matrix, v: Array, L: Array, weights: Array | None, low: Array | None) -> Array:
    """Return B^T B for B = S (diag(v) A - L low), with the regulariser."""
    B = apply(A, v) if low is None else apply(A, v) - apply(L) @ low
    H = B.T @ B
    if weights is not None:
        outer = apply(A, weights)
        H = H + outer.T @ outer
    return H.astype(v.dtype)


def _by_leverage(key: Array, kind: Objective, state: State, rows: int) -> Apply:
    """Return the sample of rows by sketched leverage scores of diag(v) A with the regulariser (F.3), (F.5)."""
    first, second = jax.random.split(key)
    v = state.point.at.v
    J = sketch.of_weights(state.problem.A, v * v + ridge(kind, state.problem, state.point.at))
    scores = sketch.sketched_leverage(first, J, floor=FLOOR)
    return sketch.sampled(second, scores / jnp.sum(scores), rows)


# --- the backend: everything traces -----------------------------------------------------------------


def _product(A: Matrix, D: Array, p: Array) -> tuple[Array, Array]:
    t = sparse.matvec(A, p)
    return sparse.rmatvec(A, D * t), t


def _factor(H: Array) -> tuple[Array, Array]:
    found = jnp.linalg.cholesky(H)
    return found, jnp.all(jnp.isfinite(found))


def _each(function: Callable[[Array], Tree], values: Sequence[float]) -> list[Tree]:
    found = jax.lax.map(function, jnp.asarray(values))
    return [jax.tree.map(lambda leaf: leaf[i], found) for i in range(len(values))]  # noqa: B023


def column_norms(A: Matrix) -> Array:
    """Return the 2-norms of the columns, (d,); 1 for a column of zeros, which is then never divided by."""
    sums = partial(sparse.by_share, A=A) if isinstance(A, Shared) else lambda function, others: function(A, *others)
    ones = jnp.ones(A.shape[1], (A.rows if isinstance(A, Shared) else A).dtype)
    squares, most = sums(_column_squares, others=(ones,)), jnp.finfo(ones.dtype).max ** 0.5
    plain = (squares > 1 / most) & (squares < most)

    def scaled() -> Array:
        """Divide columns by their sum where a square may have overflowed, or lost its digits."""
        unit = jnp.where(plain, ones, sums(_column_sums, others=()))
        unit = jnp.where(unit > 0, unit, ones)
        squares = sums(_column_squares, others=(unit,))
        return unit * jnp.sqrt(jnp.where(squares > 0, squares, 1))

    return jax.lax.cond(plain.all(), lambda: jnp.sqrt(squares), scaled)


def _column_sums(A: Matrix) -> Array:
    a = abs(A.data if isinstance(A, Sparse) else A)
    return jax.ops.segment_sum(a, A.columns, A.shape[1]) if isinstance(A, Sparse) else jnp.sum(a, axis=0)


def _column_squares(A: Matrix, unit: Array) -> Array:
    if isinstance(A, Sparse):
        return jax.ops.segment_sum((A.data / unit[A.columns]) ** 2, A.columns, A.shape[1])
    A = A / unit
    return jnp.sum(A * A, axis=0)


TRACED = Backend(
    xp=jnp,
    matvec=sparse.matvec,
    rmatvec=sparse.rmatvec,
    gram=sparse.gram,
    product=_product,
    factor=_factor,
    backsolve=lambda L, r: cho_solve((L, True), r),
    while_loop=jax.lax.while_loop,
    each=_each,
)
