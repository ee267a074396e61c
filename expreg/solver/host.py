"""The NumPy backend: no compilation; and what Newton and conjugate gradients keep there from step to step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import numpy as np
from scipy import linalg, sparse

from expreg import residual, sketch
from expreg.solver.newton import (
    MOST,
    Direction,
    Directions,
    Factor,
    along,
    conjugate,
    factored,
    hessian,
    roughly,
    unit_columns,
)
from expreg.solver.records import MANY_COLUMNS, PER_COLUMN
from expreg.solver.secant import Candidate, corrected
from expreg.solver.state import Backend, Objective, State, ridge
from expreg.sparse import passes
from expreg.types import Array, Tree

FAR = 0.02  # above this relative gradient a preconditioner is made anew at every step
SMALL = 100_000  # entries of A up to which a matrix costs less than the additional steps without it
AGAIN = 10.0  # how much less a step with an old matrix gains than the last step did, as a factor of safety


@contextmanager
def calm() -> Iterator[None]:
    """Keep BLAS to one thread, and NumPy silent about the infinities that the line search steps over.

    `limit` of threadpoolctl asks every library for its version first, which takes as long as a step of a small problem.
    """
    before = [(library, library.get_num_threads()) for library in _libraries()]
    try:
        for library, _ in before:
            library.set_num_threads(1)
        with np.errstate(all="ignore"):
            yield
    finally:
        for library, count in before:
            library.set_num_threads(count)


@lru_cache(maxsize=1)
def _libraries() -> Any:
    from threadpoolctl import ThreadpoolController

    # looking for the loaded libraries takes milliseconds: once
    return ThreadpoolController().select(user_api="blas").lib_controllers


def _factor(H: Array) -> tuple[Array, Array]:
    cholesky = linalg.lapack.spotrf if H.dtype == np.float32 else linalg.lapack.dpotrf
    found, info = cholesky(H, lower=True, clean=True)
    return found, np.asarray(info == 0)


def _backsolve(L: Array, r: Array) -> Array:
    solve = linalg.lapack.spotrs if L.dtype == np.float32 else linalg.lapack.dpotrs  # cho_solve takes longer to ask
    return solve(L, r, lower=True)[0]


def _while_loop(condition: Callable[[Tree], Any], body: Callable[[Tree], Tree], state: Tree) -> Tree:
    while condition(state):
        state = body(state)
    return state


HOST = Backend(
    xp=np,
    matvec=passes.matvec,
    rmatvec=passes.rmatvec,
    gram=passes.gram,
    product=passes.product,
    factor=_factor,
    backsolve=_backsolve,
    while_loop=_while_loop,
    each=map,
)


def newton(A: Any, rng: np.random.Generator) -> Directions:
    """Return Newton directions; once two more steps with the last matrix reach the tolerance, it is used again."""
    del A, rng
    last: Factor | None = None

    def direction(kind: Objective, state: State) -> Direction:
        nonlocal last
        if last is None or not state.damping == last.damping == 0 or not _nearly_done(state):
            last = factored(hessian, kind, state)
        return along(kind, state, last)

    return direction


def _nearly_done(state: State) -> bool:
    """Return whether two steps with the last matrix are enough.

    A step with a matrix from a point whose own step shrank the gradient by q shrinks it by a small multiple of q.
    """
    shrink = AGAIN * state.relative / state.memory
    return bool(shrink < 0.1 and shrink * shrink * state.relative <= state.problem.tol)


def newton_once(A: Any, rng: np.random.Generator) -> Directions:
    """Return directions by one Hessian, corrected in every step; those of Newton for a small A, or where they fail."""
    exact = partial(newton, A, rng)
    return corrected([Candidate(_in_single)], exact) if A.size > SMALL else exact()


def pcg_once(A: Any, rng: np.random.Generator) -> Directions:
    """Return directions by the matrix of sampled rows, then by one Hessian of a dense A, corrected in every step.

    Conjugate gradients where that is not enough, and where no d x d matrix is factored.
    """
    exact = partial(pcg, A, rng)
    if A.shape[1] > MANY_COLUMNS:
        return exact()
    far = Candidate(partial(_of_sample, passes.row_squares(A), rng))
    near = [] if sparse.issparse(A) else [Candidate(_in_single, A.shape[1] / 80 + 2)]  # measured, in steps
    return corrected([far, *near], exact)


def _in_single(kind: Objective, state: State) -> Array:
    gram = partial(passes.gram_in_single, norms=state.problem.norms)
    return hessian(kind._replace(ops=kind.ops._replace(gram=gram)), state)


def pcg(A: Any, rng: np.random.Generator) -> Directions:
    """Return directions by conjugate gradients on the exact Hessian, preconditioned with sampled rows (F.12), (F.15).

    A dense A that needs many iterations in one step goes on with Newton directions.
    """
    d = A.shape[1]
    if d > MANY_COLUMNS:
        return partial(conjugate, unit_columns, 4 * MOST)
    if sparse.issparse(A):
        return partial(conjugate, _preconditioner(A, rng), MOST)
    most = max(12, d // 16)
    now: Directions = partial(conjugate, _preconditioner(A, rng), most)

    def direction(kind: Objective, state: State) -> Direction:
        nonlocal now
        found = now(kind, state)
        if found.passes >= 2 * most:
            now = newton(A, rng)
        return found

    return direction


def _preconditioner(A: Any, rng: np.random.Generator) -> Callable[[Objective, State], Factor]:
    """Return the preconditioner of sampled rows, made again while the point is far: later it hardly changes."""
    squares = passes.row_squares(A)
    kept: Factor | None = None

    def preconditioner(kind: Objective, state: State) -> Factor:
        nonlocal kept
        if kept is None or state.relative > FAR or state.damping != kept.damping:
            kept = roughly(factored(partial(_of_sample, squares, rng), kind, state))
        return kept

    return preconditioner


def _of_sample(squares: Array, rng: np.random.Generator, kind: Objective, state: State) -> Array:
    """Return the Gauss-Newton matrix of sampled rows with the regulariser, (d, d) (F.5), (F.11), (F.12).

    They are drawn by v_i^2 ||a_i||^2, mixed half and half with uniform.
    """
    problem, point = state.problem, state.point
    n, d = problem.A.shape
    size = int(np.clip(n // 8, min(n, 16 * d), PER_COLUMN * d))
    v, L, M = residual.jacobian(point.at, kind.loss)
    extra = ridge(kind, problem, point.at)
    mass = (v * v + extra) * squares
    index, scale = sketch.draw(np.sort(rng.random(size)), 0.5 / n + 0.5 * mass / mass.sum())
    chosen, v, L = passes.rows(problem.A.whole[index]), v[index] * scale, L[index] * scale[:, None]
    H = passes.gram_in_single(chosen, v * v, problem.norms)
    if L.shape[1]:
        C = passes.rmatvec(problem.A, residual.scaled_curvature(point.at, kind.loss, exact=False).Q @ M)
        cross = passes.rmatvec(chosen, v[:, None] * L) @ C.T
        H = H - cross - cross.T + C @ (L.T @ L) @ C.T
    return H if problem.weights is None else H + passes.gram(chosen, extra[index] * scale**2)
