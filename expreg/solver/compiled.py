"""A whole solve as one pure function of JAX arrays, and several problems solved by it in one program."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from expreg import residual
from expreg.activation import lookup
from expreg.errors import InputError
from expreg.errors import Problem as Wrong
from expreg.residual import LOSSES
from expreg.solver import start, validate
from expreg.solver.method import TRACED, column_norms, make
from expreg.solver.records import chosen
from expreg.solver.solution import Solution
from expreg.solver.state import Objective, Problem, State, evaluate, scaled_value
from expreg.solver.verdict import ENDS, doubtful, ends
from expreg.sparse import from_any, matvec
from expreg.sparse.convert import finite
from expreg.types import Array, Status

Solved = Callable[[Any, Array, Array | None, Array | None, Any, Array], State]
NUMBERS = ("loss", "gradient_norm", "decrement")
REPORTED = ("alpha", "softmax_residual", "projective_loss", "max_logit")


@lru_cache(maxsize=64)
def program(**options: Any) -> Solved:
    """Return a jitted (A, b, weights, x0, key, tol) -> the last State, for the options of `make`.

    Without x0 it starts where `solve` does for few rows. Map it with vmap.
    """
    loss, odd = LOSSES[options["loss"]], lookup(options["activation"]).parity == "odd"
    first = {"loss": loss.stand_in, "max_steps": start.ROUGH_STEPS}  # of a loss that vanishes without a fit
    method, warm = make(**options), [make(**options | first)] if loss.stand_in and odd else []
    kind = Objective(options["loss"], options["activation"], True, TRACED)

    def solved(A: Any, b: Array, weights: Array | None, x0: Array | None, key: Any, tol: Array) -> State:
        x, pivot = (
            start.Start(x0) if x0 is not None else _guess(kind, Problem(A, b, weights, tol, column_norms(A), None))
        )
        for each in (*(warm if x0 is None else []), method):
            end = jax.lax.while_loop(each.running, each.step, each.init(A, b, x, weights, key, tol))
            x = end.x
        return end._replace(pivot=jnp.where(end.step > 0, end.pivot, pivot))

    return jax.jit(solved)


def of_make(options: dict[str, Any], A: Any) -> dict[str, Any]:
    """Return the options of `make` out of those of `solve`."""
    names = ("loss", "activation", "solver", "sketch", "sketch_size")
    most = options["max_steps"] or chosen(options["solver"], *A.shape).max_steps
    return {name: options[name] for name in names} | {"max_steps": most}


def _guess(kind: Objective, problem: Problem) -> start.Start:
    """Return the candidate with the smallest loss; for one that vanishes without a fit, of its stand-in."""
    judge = kind._replace(loss=LOSSES[kind.loss].stand_in or kind.loss)
    found = list(start.candidates(kind, problem))
    x, pivots = jnp.stack([one.x for one in found]), jnp.stack([jnp.asarray(one.pivot) for one in found])

    def value(x: Array) -> Array:
        return scaled_value(judge, problem, matvec(problem.A, x), jnp.zeros((), x.dtype))[1]

    values = jax.vmap(value)(x)
    good = jnp.isfinite(values) & jnp.all(jnp.isfinite(x), axis=1)
    best = jnp.argmin(jnp.where(good, values, jnp.inf))
    return start.Start(jnp.nan_to_num(x)[best], pivots[best])


# --- several problems -----------------------------------------------------------------------------


def solve(
    alone: Callable[..., Solution], A: Any, b: Any, weights: Any, x0: Any, *, starts: int, **options: Any
) -> Solution:
    """Return the solutions of several problems, stacked: of b (n, k) with one A, or of A (k, n, d) with b (k, n).

    One compiled program; where it ends at a minimum beyond doubt, that is the solution. `alone`, the solver of one
    problem, is asked for the others, one by one, and for all if there are several starts.
    """
    problems = _each(A, b)
    with _each_warning_once():
        checked = [validate.check(*each, weights=weights, x0=x0, starts=starts, **options) for each in problems]
        ends = [None] * len(checked) if starts > 1 else _ends(checked, options, shared=np.ndim(A) == 2)
        found = [
            (end and _certain(each, end)) or alone(*problem, weights=weights, x0=x0, starts=starts, **options)
            for problem, each, end in zip(problems, checked, ends, strict=True)
        ]
    stacked: Any = [np.stack(values) for values in zip(*(each[:-1] for each in found), strict=True)]
    return Solution._make([*stacked, []])


def _each(A: Any, b: Any) -> list[tuple[Any, Array]]:
    """Return (A, b) of every problem."""
    b = np.asarray(b)
    if b.dtype.kind == "f":
        finite(b, "b")  # with the place in all of it
    targets = b.T if np.ndim(A) == 2 else b
    if np.ndim(A) == 2 and targets.ndim == 2 and len(targets):
        return [(A, target) for target in targets]
    if np.ndim(A) == 3 and targets.ndim == 2 and len(targets) == len(A) > 0:
        return list(zip(np.asarray(A), targets, strict=True))
    message = f"got shape {np.shape(b)} for an A of shape {np.shape(A)}, expected (n,) or (n, k) for (n, d), k >= 1"
    raise InputError(Wrong("E-SHAPE", f"{message}, or (k, n) for (k, n, d)", key="b"))


@contextmanager
def _each_warning_once() -> Iterator[None]:
    """Warn at the end, once where several problems give the same warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for kind, message in dict.fromkeys((each.category, str(each.message)) for each in caught):
        warnings.warn(message, kind, stacklevel=5)


@lru_cache(maxsize=64)
def _mapped(shared: bool, options: tuple[tuple[str, Any], ...]) -> Any:
    """Return a jitted (A, b, weights, x0, key, tol) -> where each problem ends; on a CPU one problem at a time.

    There it is as fast as vmap, and independent batched factorisations of one program may block each other.
    """
    given, alone = dict(options), jax.default_backend() == "cpu"
    solved, kind = program(**given), Objective(given["loss"], given["activation"], True, TRACED)

    def mapped(A: Any, b: Array, weights: Any, x0: Any, key: Any, tol: Array) -> dict[str, Array]:
        def lane(own: Any) -> dict[str, Array]:
            own_A = own[1] if len(own) > 1 else A
            end = solved(own_A, own[0], weights, x0, key, tol)
            z = matvec(own_A, end.x)
            again = evaluate(kind, end.problem, end.x, z)  # steps add up logits, and their rounding
            numbers = {name: getattr(end, name) for name in ("x", "status", "step", *NUMBERS)}
            reported = residual.summary(z, own[0], given["activation"])
            return {**numbers, **ends(end), **reported, "relative": again.relative}

        return jax.lax.map(lane, (b,) if shared else (b, A), batch_size=None if alone else len(b))

    return jax.jit(mapped)


def _ends(checked: list[validate.Checked], options: dict[str, Any], *, shared: bool) -> list[dict[str, Array]]:
    """Return where the program ends of every problem, by name."""
    first, b = checked[0], np.stack([each.b for each in checked])
    A = from_any(first.A) if shared else np.stack([each.A for each in checked])
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        run, key = _mapped(shared, tuple(sorted(of_make(options, first.A).items()))), validate.seed_of(options["key"])
        found = run(A, b, first.weights, first.x0, jax.random.key(key), np.asarray(first.tol, b.dtype))
        found = jax.tree.map(np.array, found)
    return [{name: value[i] for name, value in found.items()} for i in range(len(b))]


def _certain(checked: validate.Checked, end: dict[str, Array]) -> Solution | None:
    """Return the solution, None where it has to be looked at."""
    sure = end["status"] == int(Status.converged) and end["relative"] <= checked.tol and checked.units.plain
    if not sure or doubtful(end["x"], **{name: end[name] for name in ENDS}):
        return None
    message = f"relative gradient norm {end['relative']:.1e} after {end['step']} steps, within tol {checked.tol:.1e}"
    numbers = {name: float(end[name]) for name in (*NUMBERS, *REPORTED)}
    return Solution(end["x"], "converged", message, int(end["step"]), history=[], **numbers)
