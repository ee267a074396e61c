"""`expreg.solve`: checks, a start, steps on the host or compiled, and a sentence about how they ended."""

import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from expreg import residual
from expreg.solver import host, newton, start, validate
from expreg.solver.records import AUTO, MANY_COLUMNS, NEWTON, chosen
from expreg.solver.solution import Solution, traced
from expreg.solver.state import Objective, Problem, State, first_state, run
from expreg.solver.units import shifted
from expreg.solver.validate import DEFAULT_TOL, REACHABLE, Checked
from expreg.solver.verdict import Verdict, doubtful, ends, examined, in_double
from expreg.solver.words import IN_A_CALL, sentence
from expreg.sparse import passes
from expreg.types import Array, Status

REREAD = 3  # runs after which logits are taken as they are
RUNS = 16  # how often a run may go on from a point that turned out to be no minimum


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
    starts: int = 1,
) -> Solution:
    """Minimise a regression loss of u = phi(A x) over x (E.2), (E.44), with 1/2 ||diag(weights) A x||^2 (E.3).

    Args:
        A: (n, d), a NumPy or JAX array, any scipy.sparse matrix, a BCOO or an expreg.sparse.Sparse. float32 stays
            float32, all else is float64. (k, n, d), dense, for k problems.
        b: (n,). For a zero residual <b, 1> = 1, except for the exponential loss (E.17). (n, k) for k targets with one
            A, (k, n) for k problems with an A each.
        loss: exponential, softmax, rescaled or projective.
        activation: exp, cosh or sinh.
        solver: auto, newton, gauss_newton, pcg, lbfgs or gd. auto takes newton for a dense A with d <= 96 and for
            n <= 48 d, else pcg: conjugate gradients on the exact Hessian, preconditioned with sampled rows. On a
            large A it first takes steps with one matrix, of float32 or of sampled rows, while they converge well.
        sketch: None, leverage, countsketch, gaussian or uniform: newton and gauss_newton then use the Gauss-Newton
            matrix of sketched rows (F.12); pcg is preconditioned with it.
        weights: w >= 0, a number or (n,).
        x0: (d,) the start; by default the linear problem A x = phi^-1(c b), for many rows the solution on a subset.
        tol: stop when max_j |g_j| / (||a_j|| n^-1/2 sum_i |v_i| (|u_i| + |t_i|)) <= tol, g the gradient and t the
            target (b, alpha b): the gradient relative to the terms that cancel in it. It does not change with the
            units of A's columns, of b or of the loss. Rounding is about 1e-15 max(1, max |z|), in float32 1e-7 times
            that; float32 takes 4e-6 for the default.
        key: an integer or a JAX key for everything random; 0 by default.
        max_steps: 200 by default, 20000 for gd and lbfgs.
        sketch_size: rows of the sketch; by default 16 d for gaussian, 40 d else.
        starts: how many starts are tried: that of `x0`, then random ones with logits of standard deviation 4. The
            solution is the converged one with the smallest loss; its message counts minima of different loss.

    Several problems are solved in one compiled program. Under `jax.grad`, `jacfwd`, `jacrev`, `vmap` and `jit`, x,
    loss and what is reported of x are differentiable in A, b and weights: dx = -H^{-1} d(grad L), with the exact
    Hessian H (E.4). The derivative is nan, with a warning outside of jit and vmap, where x is no isolated minimum.

    Raises:
        InputError: names, shapes, types, non-finite entries, zero columns, negative weights, x0 = 0 for cosh and
            sinh, a tolerance out of reach. Warns (UserWarning) if <b, 1> is not 1 (E.17), of an intercept (E.36), or
            if x is not unique.

    """
    options = {
        "loss": loss,
        "activation": activation,
        "solver": solver,
        "sketch": sketch,
        "tol": tol,
        "key": key,
        "max_steps": max_steps,
        "sketch_size": sketch_size,
        "starts": starts,
    }
    if traced(A, b, weights, x0):
        from expreg.solver import implicit

        return implicit.solve(solve, A, b, weights, x0, **options)
    if validate.dimensions(b) == 2 or validate.dimensions(A) == 3:
        from expreg.solver import compiled

        return compiled.solve(solve, A, b, weights, x0, **options)
    return _alone(A, b, weights, x0, options)


def _alone(A: Any, b: Any, weights: Any, x0: Any, options: dict[str, Any]) -> Solution:
    """Return the solution of one problem of numbers; the options are those of `solve`."""
    checked = validate.check(A, b, weights=weights, x0=x0, **options)
    loss, solver, sketch, most = (options[name] for name in ("loss", "solver", "sketch", "max_steps"))
    record = chosen(solver, *checked.A.shape, dense=not sparse.issparse(checked.A))
    kind, budget = Objective(loss, checked.activation, record.exact, host.HOST), int(most or record.max_steps)
    seed = validate.seed_of(options["key"])
    begin, rng, history = time.perf_counter(), np.random.default_rng(seed), list[dict[str, float]]()

    def seen(state: State) -> None:
        row = {name: float(getattr(state, name)) for name in ("step", "relative", "passes")}
        history.append({**row, **_sizes(checked, state), "seconds": time.perf_counter() - begin})

    def onward(problem: Problem, x: Array, tol: float, before: State | None) -> State:
        again = before is not None and len(x) <= MANY_COLUMNS  # from a point that turned out to be no minimum
        directions: Any = (NEWTON if again else record).host
        if directions is not None and (again or sketch is None):
            first = first_state(kind, problem._replace(tol=np.asarray(tol, x.dtype)), x, np.zeros_like(x[0]))
            exact = kind._replace(exact=kind.exact or again)
            step = partial(newton.step, exact, directions(problem.A.whole, rng), budget)
            return run(step, _after(before, first), seen)
        given: dict[str, Any] = {"loss": loss, "activation": checked.activation, "solver": record.name}
        given |= {"sketch": sketch, "sketch_size": options["sketch_size"], "max_steps": budget}
        return _compiled(given, problem, x, tol, seed, seen, before)

    def ended(x: Array, pivot: Array | None) -> tuple[State, Verdict, list[dict[str, float]]]:
        history.clear()
        return *_settled(onward, kind._replace(exact=True), problem, x, pivot, history), history.copy()

    with host.calm():
        problem = start.problem_of(checked, loss)
        x: Array
        pivot: Array | None
        x, pivot = (checked.x0, None) if x0 is not None else start.first_guess(kind, problem, rng)
        found = [ended(x, pivot)]
        for noise in rng.normal(size=(options["starts"] - 1, len(x))):
            more = start.WIDE * start.spread(noise, problem.norms, problem.A.shape[0])
            found.append(ended(more.astype(problem.b.dtype), None))
        best = min(found, key=lambda end: (end[1].status != Status.converged, np.isnan(end[0].loss), end[0].loss))
        given = {"solver": record.name, "sketch": sketch, "loss": loss, "activation": options["activation"]}
        minima = [state for state, verdict, _ in found if verdict.status == Status.converged]
        return _solution(*best[:2], checked, best[2], _among(minima, len(found)), **given)


def _among(minima: list[State], starts: int) -> str:
    """Return of how many minima the best was found; those of one loss, to a millionth and what tol leaves, are one."""
    if starts == 1 or not minima:
        return ""
    least = max(float(state.problem.tol * np.exp(state.point.at.log_scale) * state.point.size) for state in minima)
    losses = np.sort([float(state.loss) for state in minima])
    count = 1 + int((np.diff(losses) > 1e-6 * losses[1:] + least).sum())
    return f"{'the only minimum' if count == 1 else f'the best of {count} minima'} that {starts} starts found"


def _after(before: State | None, first: State) -> State:
    """Return a first state that counts on from an earlier run."""
    return (
        first if before is None else first._replace(step=first.step + before.step, passes=first.passes + before.passes)
    )


def _settled(
    onward: Callable[[Problem, Array, float, State | None], State],
    kind: Objective,
    problem: Problem,
    x: Array,
    pivot: Array | None,
    history: list[Any],
) -> tuple[State, Verdict]:
    """Return where a run ends that begins at x, with the pivot of the matrix that x was found by, and what is there.

    It goes on from a lower point where there is one, with a smaller tolerance and in float64, and from the same point
    where logits that came down from a far start, or to 0, may carry its rounding: they are A x anew.
    """
    given_type, tol, end, highest = x.dtype, float(problem.tol), None, np.inf
    start_size = float(np.abs(passes.matvec(problem.A, x)).max()) if pivot is None else 0.0
    drifts, before = problem.weights is not None, -1
    for turn in range(RUNS):
        del history[len(history) - (end is not None) :]  # the last point of a run is the first of the next
        end = onward(problem, x, tol, end)
        if int(end.step) == 0 and pivot is not None:
            end = end._replace(pivot=pivot)
        ended = Status(int(end.status))
        spent = ended == Status.max_steps
        verdict = Verdict(Status.converged if spent and end.relative <= problem.tol else ended)
        if verdict.status not in (Status.converged, Status.max_steps):
            break
        eps = float(np.finfo(x.dtype).eps)
        smaller = min(1.0, float(np.abs(end.point.z).max()))  # than at a start of our own, of order one
        drifts |= max(1.0, start_size * REACHABLE) * eps > tol * smaller
        drifts |= (int(end.step) - max(before, 0)) * eps > tol  # logits are rounded once in every step
        if verdict.status == Status.converged and drifts and turn < REREAD:
            x, drifts, start_size = np.asarray(end.x), int(end.step) > before, 0.0
            before = int(end.step)
            continue
        if not doubtful(end.x, **ends(end)):
            break
        verdict = examined(kind, problem, np.asarray(end.x), verdict.status, given_type)
        if verdict.status == Status.unbounded or verdict.lower is None or spent:
            break
        problem = problem if x.dtype == np.float64 else in_double(problem)
        x, tol, drifts = verdict.lower, max(tol / 1000, REACHABLE * float(np.finfo(np.float64).eps)), True
        highest = min(highest, float(np.abs(end.point.z).max()))
    assert end is not None
    if verdict.lower is not None and highest < float(np.abs(end.point.z).max()) - 1:
        verdict = verdict._replace(status=Status.unbounded)
    if end.x.dtype != given_type:
        end = _rounded(kind, problem, end, given_type)
    if verdict.status == Status.converged and (verdict.lower is not None or end.relative > problem.tol):
        return end._replace(damping=np.inf), verdict._replace(status=Status.max_steps)  # stalled
    return end, verdict


def _rounded(kind: Objective, problem: Problem, end: State, dtype: Any) -> State:
    """Return a state in float64 at its x in another type."""
    x = np.asarray(end.x).astype(dtype)
    at = first_state(kind, problem, x.astype(np.float64), np.zeros(()))
    kept = {name: getattr(at, name) for name in ("point", "loss", "gradient_norm", "relative")}
    return end._replace(**kept, x=x)


def _sizes(checked: Checked, state: State) -> dict[str, float]:
    """Return loss and norm of the gradient in the units of what was given."""
    if checked.units.plain and 0 < state.loss < np.inf:
        return {"loss": float(state.loss), "gradient_norm": float(state.gradient_norm)}
    log_scale, objective = float(state.point.at.log_scale), float(state.point.objective)
    with np.errstate(all="ignore"):
        norm = checked.units.gradient_norm(np.asarray(state.point.gradient), log_scale)
        return {"loss": checked.units.loss(np.exp(log_scale) * objective), "gradient_norm": norm}


def _compiled(
    options: dict[str, Any],
    problem: Problem,
    x: Array,
    tol: float,
    seed: int,
    seen: Callable[[State], None],
    before: State | None,
) -> State:
    """Take the steps of a `Method` under jit: gradient descent, L-BFGS and everything sketched."""
    import jax
    import jax.numpy as jnp

    from expreg.solver.method import make
    from expreg.sparse import from_any

    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        method = make(**options)
        A = jax.tree.map(jnp.asarray, from_any(problem.A.whole))
        first = jax.jit(method.init)(A, problem.b, x, problem.weights, jax.random.key(seed), tol)
        end = run(jax.jit(method.step), _after(before, first), seen)
        return jax.tree.map(np.asarray, end._replace(problem=end.problem._replace(A=None, key=None), memory=None))


def _solution(
    state: State, verdict: Verdict, checked: Checked, history: list[dict[str, float]], among: str, **given: Any
) -> Solution:
    units, x, steps = checked.units, checked.units.outer(np.asarray(state.x)), int(state.step)
    # of numbers whose squares leave the range of float64
    z, b = (np.asarray(a, None if units.plain else np.longdouble) for a in (state.point.z, checked.b))
    z, b = shifted(z, units.logits), shifted(b, units.value // 2)
    reported = residual.summary(z, b, given["activation"])
    status = verdict.status.name
    if not (units.plain or units.heavy or verdict.status == Status.trivial) and np.isfinite(state.x).all():
        lost = np.abs(units.inner(x) - state.x) * checked.norms  # of an x beyond the range of its type
        status = status if lost.max() <= 1e-3 * (np.abs(state.x) * checked.norms).max() else "nonfinite"
    words = {name: given[name] for name in ("solver", "sketch", "loss")}
    unsolved = sentence(
        status, float(state.damping), IN_A_CALL, dtype=x.dtype, weighted=checked.weights is not None, **words
    )
    reached = f"relative gradient norm {float(state.relative):.1e} after {steps} step{'' if steps == 1 else 's'}"
    reached = (
        f"{unsolved} ({reached}, tol {checked.tol:.1e})" if unsolved else f"{reached}, within tol {checked.tol:.1e}"
    )
    free = max(verdict.free, checked.A.shape[1] - checked.A.shape[0])
    unique = f"x is not unique: A x stays the same in {free} of {len(x)} directions" if free > 0 else ""
    if unique:
        warnings.warn(f"{unique}; one of them was found", UserWarning, stacklevel=4)
    names = ("alpha", "softmax_residual", "projective_loss", "max_logit")
    return Solution(
        x=x,
        status=status,
        message="; ".join(filter(None, (reached, among, unique))),
        steps=steps,
        **_sizes(checked, state),
        decrement=float(np.ldexp(float(state.decrement), units.slope + units.logits)),
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
