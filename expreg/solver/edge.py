"""`expreg.solve`: checks, the default rule, the loop over steps on the host, and a sentence about how it ended."""

import time
from typing import Any, NamedTuple

import numpy as np

from expreg import residual
from expreg.solver import auto, host, validate
from expreg.solver.state import Objective, State, first_state
from expreg.solver.validate import DEFAULT_TOL, Checked
from expreg.types import Array, Status

MAX_STEPS = 200
FIRST_ORDER_STEPS = 20_000


class Solution(NamedTuple):
    """What `solve` found, whatever it minimised.

    - `x` (d,): the last point. `status`: converged, max_steps, diverged, nonfinite, collapsed or trivial;
      `message`: what that means here and what to try.
    - `steps`; `loss`: the minimised loss with its regulariser; `gradient_norm`: the 2-norm of its gradient;
      `decrement`: the gain that the quadratic model expected of the last step (F.14).
    - `alpha`, `softmax_residual`, `projective_loss`, `max_logit`: as `residual.summary` tells them.
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
    solver: str = "auto",
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
            n <= 48 d, else pcg: conjugate gradients on the exact Hessian, preconditioned with sampled rows.
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
    kind = Objective(loss, activation, solver != "gauss_newton", host.HOST)
    history = _History()
    if sketch is None and solver not in ("gd", "lbfgs"):
        state = _on_host(kind, checked, solver, key, max_steps or MAX_STEPS, history)
    else:
        state = _compiled(kind, checked, solver, sketch, sketch_size, key, max_steps, history)
    return _solution(kind, state, checked, history.rows)


class _History:
    """The steps as they come."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.begin = time.perf_counter()

    def add(self, state: State) -> None:
        names = ("step", "loss", "gradient_norm", "relative", "passes")
        row = {name: float(getattr(state, name)) for name in names}
        self.rows.append({**row, "seconds": time.perf_counter() - self.begin})


def _seed(key: Any) -> int:
    if key is None:
        return 0
    if isinstance(key, int | np.integer):
        return int(key)
    import jax

    plain = isinstance(getattr(key, "dtype", None), np.dtype)  # else a typed key
    return int(np.asarray(key if plain else jax.random.key_data(key)).ravel()[-1])


def _on_host(kind: Objective, checked: Checked, solver: str, key: Any, max_steps: int, history: _History) -> State:
    rng = np.random.default_rng(_seed(key))
    with host.calm():
        problem = auto.problem_of(checked.A, checked.b, checked.weights, checked.tol, checked.norms)
        x = auto.first_guess(kind, problem, rng) if checked.x0 is None else checked.x0
        state = first_state(kind, problem, x, np.zeros_like(x[0]))
        history.add(state)
        return auto.run(kind, auto.choose(solver, checked.A, rng), max_steps, state, history.add)


def _compiled(
    kind: Objective,
    checked: Checked,
    solver: str,
    sketch: str | None,
    size: int | None,
    key: Any,
    max_steps: int | None,
    history: _History,
) -> State:
    """Take the steps of a `Method` under jit: gradient descent, L-BFGS and everything sketched."""
    import jax
    import jax.numpy as jnp

    from expreg.solver.method import make
    from expreg.sparse import from_any

    budget = max_steps or (FIRST_ORDER_STEPS if solver in ("gd", "lbfgs") else MAX_STEPS)
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        method = make(
            loss=kind.loss,
            activation=kind.activation,
            solver=solver,
            sketch=sketch,
            sketch_size=size,
            max_steps=budget,
        )
        x0 = checked.x0
        if x0 is None:
            with host.calm():
                problem = auto.problem_of(checked.A, checked.b, checked.weights, checked.tol, checked.norms)
                x0 = auto.first_guess(kind, problem, np.random.default_rng(_seed(key)))
        A = jax.tree.map(jnp.asarray, from_any(checked.A))
        random = jax.random.key(_seed(key))
        state = jax.jit(method.init)(A, checked.b, x0, checked.weights, random, checked.tol)
        step = jax.jit(method.step)
        history.add(state)
        while bool(method.running(state)):
            state = step(state)
            history.add(state)
        return jax.tree.map(np.asarray, state._replace(problem=None, memory=None))


def _solution(kind: Objective, state: State, checked: Checked, history: list[dict[str, float]]) -> Solution:
    with host.calm():
        told = residual.summary(np.asarray(state.point.z), checked.b, kind.activation)
    status = Status(int(state.status)).name
    names = ("alpha", "softmax_residual", "projective_loss", "max_logit")
    return Solution(
        x=np.asarray(state.x),
        status=status,
        message=_message(status, state, checked, float(told["alpha"])),
        steps=int(state.step),
        loss=float(state.loss),
        gradient_norm=float(state.gradient_norm),
        decrement=float(state.decrement),
        history=history,
        **{name: float(told[name]) for name in names},
    )


def _message(status: str, state: State, checked: Checked, alpha: float) -> str:
    relative, steps = float(state.relative), int(state.step)
    reached = f"the gradient is {relative:.1e} of the terms that cancel in it after {steps} steps"
    if status == "converged":
        return f"{reached}, within tol {checked.tol:.1e}"
    if status == "max_steps" and float(state.damping) > 1:
        return (
            f"no step lowers the loss any further: {reached}, tol is {checked.tol:.1e}. Rounding, or a curvature that "
            "is singular: try float64, a larger tol, or weights > 0"
        )
    return {
        "max_steps": f"{reached}, tol is {checked.tol:.1e}: try more steps, solver newton, or a start nearer by",
        "diverged": "the loss grew without bound: try solver newton, a smaller step size, or a start nearer to 0",
        "nonfinite": f"a value is not finite after {steps} steps: try a start with smaller logits, or the softmax "
        "loss, which never overflows (E.35)",
        "collapsed": f"alpha fell to {alpha:.1e}: the loss tends to 0 while the fit does not improve (E.37). Centre "
        "the rows of A, or use the softmax or the projective loss, or weights > 0",
        "trivial": "A x = 0, which minimises the loss of sinh whatever b is (E.38): try the softmax, projective or "
        "exponential loss, or another start",
    }[status]


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
