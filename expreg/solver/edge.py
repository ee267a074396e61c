"""`expreg.solve`: checks, a start, steps on the host or compiled, and a sentence about how they ended."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from expreg import residual
from expreg.solver import host, newton, start, validate
from expreg.solver.records import AUTO, chosen
from expreg.solver.state import IN_A_CALL, Objective, State, first_state, run, sentence
from expreg.solver.validate import DEFAULT_TOL, Checked
from expreg.types import Array, Status


class Solution(NamedTuple):
    """What `solve` found, whatever it minimised.

    - `x` (d,): the last point. `status`: converged, max_steps, diverged, nonfinite, collapsed or trivial;
      `message`: what that means here and what to try.
    - `steps`; `loss`: the minimised loss with its regulariser; `gradient_norm`: the 2-norm of its gradient;
      `decrement`: the gain that the quadratic model expected of the last step (F.14).
    - `alpha`, `softmax_residual`, `projective_loss`, `max_logit`: as `residual.summary` defines them.
    - `history`: one dict per step: step, loss, gradient_norm, relative (what tol bounds), passes, seconds.
    """

    x: Array
    status: str
    message: str
    steps: int
    loss: float
    gradient_norm: float
    decrement: float
    alpha: float
    softmax_residual: float
    projective_loss: float
    max_logit: float
    history: list[dict[str, float]]


def solve(
    A: Any,
    b: Any,
    loss: str = "rescaled",
    activation: str = "exp",
    solver: str = AUTO,
    sketch: str | None = None,
    weights: Any = None,
    x0: Any = None,
    tol: float = DEFAULT_TOL,
    key: Any = None,
    *,
    max_steps: int | None = None,
    sketch_size: int | None = None,
) -> Solution:
    """Minimise a regression loss of u = phi(A x) over x (E.2), (E.44), with 1/2 ||diag(weights) A x||^2 (E.3).

    Args:
        A: (n, d), a NumPy or JAX array, any scipy.sparse matrix, a BCOO or an expreg.sparse.Sparse. float32 stays
            float32, all else is float64.
        b: (n,). For a zero residual <b, 1> = 1, except for the exponential loss (E.17).
        loss: exponential, softmax, rescaled or projective.
        activation: exp, cosh or sinh.
        solver: auto, newton, gauss_newton, pcg, lbfgs or gd. auto takes newton for a dense A with d <= 96 and for
            n <= 48 d, else pcg: conjugate gradients on the exact Hessian, preconditioned with sampled rows. On a
            large A it first takes steps with one matrix, of float32 or of sampled rows, while they converge well.
        sketch: None, leverage, countsketch, gaussian or uniform: newton and gauss_newton then use the Gauss-Newton
            matrix of sketched rows (F.12); pcg is preconditioned with it.
        weights: w, a number or (n,).
        x0: (d,) the start; by default the linear problem A x = phi^-1(c b), for many rows the solution on a subset.
        tol: stop when max_j |g_j| / (||a_j|| n^-1/2 sum_i |v_i| (|u_i| + |t_i|)) <= tol, g the gradient and t the
            target (b, alpha b): the gradient relative to the terms that cancel in it. It does not change with the
            units of A's columns, of b or of the loss. Rounding is about 1e-15 max(1, max |z|), in float32 1e-7 times
            that; float32 takes 4e-6 for the default.
        key: an integer or a JAX key for everything random; 0 by default.
        max_steps: 200 by default, 20000 for gd and lbfgs.
        sketch_size: rows of the sketch; by default 16 d for gaussian, 40 d else.

    Raises:
        InputError: names, shapes, types, non-finite entries, zero columns, x0 = 0 for cosh and sinh, a tolerance
            out of reach. Warns (UserWarning) if <b, 1> is not 1 (E.17), or of an intercept (E.36).

    """
    checked = validate.check(
        A, b, loss=loss, activation=activation, solver=solver, sketch=sketch, weights=weights, x0=x0, tol=tol
    )
    record = chosen(solver, *checked.A.shape, dense=not sparse.issparse(checked.A))
    kind, budget = Objective(loss, activation, record.exact, host.HOST), max_steps or record.max_steps
    history: list[dict[str, float]] = []
    begin, seed = time.perf_counter(), _seed(key)
    rng = np.random.default_rng(seed)

    def seen(state: State) -> None:
        row = {name: float(getattr(state, name)) for name in ("step", "loss", "gradient_norm", "relative", "passes")}
        history.append({**row, "seconds": time.perf_counter() - begin})

    with host.calm():
        problem = start.problem_of(checked)
        x = start.first_guess(kind, problem, rng) if checked.x0 is None else checked.x0
        if sketch is None and record.host is not None:
            step = partial(newton.step, kind, record.host(checked.A, rng), budget)
            end = run(step, first_state(kind, problem, x, np.zeros_like(x[0])), seen)
            return _solution(activation, end, checked, history)
    options = {"loss": loss, "activation": activation, "solver": record.name, "sketch": sketch}
    end = _compiled({**options, "sketch_size": sketch_size, "max_steps": budget}, checked, x, seed, seen)
    with host.calm():
        return _solution(activation, end, checked, history)


def _seed(key: Any) -> int:
    if key is None or isinstance(key, int | np.integer):
        return int(key or 0)
    import jax

    plain = isinstance(getattr(key, "dtype", None), np.dtype)  # else a typed key
    return int(np.asarray(key if plain else jax.random.key_data(key)).ravel()[-1])


def _compiled(options: dict[str, Any], checked: Checked, x0: Array, seed: int, seen: Callable[[State], None]) -> State:
    """Take the steps of a `Method` under jit: gradient descent, L-BFGS and everything sketched."""
    import jax
    import jax.numpy as jnp

    from expreg.solver.method import make
    from expreg.sparse import from_any

    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        method = make(**options)
        A = jax.tree.map(jnp.asarray, from_any(checked.A))
        first = jax.jit(method.init)(A, checked.b, x0, checked.weights, jax.random.key(seed), checked.tol)
        end = run(jax.jit(method.step), first, seen)
        return jax.tree.map(np.asarray, end._replace(problem=end.problem._replace(A=None, key=None), memory=None))


def _solution(activation: str, state: State, checked: Checked, history: list[dict[str, float]]) -> Solution:
    reported = residual.summary(np.asarray(state.point.z), checked.b, activation)
    status, steps = Status(int(state.status)).name, int(state.step)
    reached = f"the gradient is {float(state.relative):.1e} of the terms that cancel in it after {steps} steps"
    ended = sentence(status, float(state.damping), IN_A_CALL)
    names = ("alpha", "softmax_residual", "projective_loss", "max_logit")
    return Solution(
        x=np.asarray(state.x),
        status=status,
        message=f"{ended} ({reached}, tol {checked.tol:.1e})" if ended else f"{reached}, within tol {checked.tol:.1e}",
        steps=steps,
        loss=float(state.loss),
        gradient_norm=float(state.gradient_norm),
        decrement=float(state.decrement),
        history=history,
        **{name: float(reported[name]) for name in names},
    )


def continuation(
    A: Any, b: Any, weights: Any, *, safe: Any, factor: float = 4.0, **options: Any
) -> list[tuple[float, Solution]]:
    """Solve with safe weights first, then with weights / 4 from there, down to the wanted ones (E.43).

    `safe` are weights with a convex loss, as `residual.safe_weights` gives them; `weights` the wanted ones, no
    larger, a number or (n,). The weights of stage k are max(weights, safe / factor^k). Returns (largest weight,
    solution) of each stage; the last has the wanted weights. Keyword arguments go to `solve`. Raises ValueError
    for a factor that does not shrink the weights.
    """
    if factor <= 1:
        raise ValueError(f"factor: got {factor}, expected more than 1")
    goal, now = np.asarray(weights, float), np.asarray(safe, float)
    negligible = 1e-6 * now.max()
    found, x = [], options.pop("x0", None)
    while True:
        last = bool((now <= np.maximum(goal, negligible)).all())
        stage = np.broadcast_to(goal if last else np.maximum(goal, now), now.shape)
        solution = solve(A, b, weights=stage, x0=x, **options)
        found.append((float(stage.max()), solution))
        if last:
            return found
        x, now = solution.x, now / factor


MARGIN = 1e-9  # below it the margin of a linear programme is 0


class Collapse(NamedTuple):
    """`possible`: whether some p has A p > 0, along which L_resc(-t p) -> 0; such a `direction` (d,), and min A p."""

    possible: bool
    direction: Array
    margin: float


def collapse(A: Any) -> Collapse:
    """Maximise t subject to A p >= t, |p_j| <= 1 (E.37), for a dense or scipy sparse A (n, d).

    Collapse is possible where the maximum is positive: centre the rows of A, or use another loss. It is certain for
    n <= d, and for generic symmetric random rows has probability 1/2 at n = 2 d (E.40).
    """
    from scipy import optimize

    n, d = A.shape
    margins, dense = np.ones((n, 1)), not sparse.issparse(A)
    rows: Any = np.hstack([A, -margins]) if dense else sparse.hstack([A, -sparse.csr_array(margins)])
    bounds = [(-1.0, 1.0)] * d + [(None, None)]
    found = optimize.linprog(np.append(np.zeros(d), -1.0), A_ub=-rows, b_ub=np.zeros(n), bounds=bounds, method="highs")
    if found.x is None:  # p = 0, t = 0 is feasible and t is bounded, so this is the solver's own failure
        raise ArithmeticError(f"the linear programme was not solved: {found.message}")
    margin = float(found.x[-1])
    return Collapse(margin > MARGIN, found.x[:-1], margin)
