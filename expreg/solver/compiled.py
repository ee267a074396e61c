"""A whole solve as one pure function of JAX arrays, and several problems solved by it in one program."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
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
from expreg.solver.records import MAX_STEPS
from expreg.solver.solution import Solution
from expreg.solver.state import Objective, Problem, State, evaluate, scaled_value
from expreg.solver.verdict import ENDS, doubtful, ends
from expreg.sparse import from_any, matvec
from expreg.types import Array, Status

Solved = Callable[[Any, Array, Array | None, Array | None, Any, Array], State]
NUMBERS = ("loss", "gradient_norm", "decrement")
REPORTED = ("alpha", "softmax_residual", "projective_loss", "max_logit")


@lru_cache(maxsize=64)
def program(starts: int, **options: Any) -> Solved:
    """Return a jitted (A, b, weights, x0, key, tol) -> the last State of the best of several starts.

    The options are those of `make`. Without x0 it starts where `solve` does for few rows. Map it with vmap.
    """
    loss, odd = LOSSES[options["loss"]], lookup(options["activation"]).parity == "odd"
    first = {"loss": loss.stand_in, "max_steps": start.ROUGH_STEPS}  # of a loss that vanishes without a fit
    methods = [make(**options | first)] if loss.stand_in and odd else []
    method, kind = make(**options), Objective(options["loss"], options["activation"], True, TRACED)

    def solved(A: Any, b: Array, weights: Array | None, x0: Array | None, key: Any, tol: Array) -> State:
        def minimum(x: Array) -> State:
            for each in (*(methods if x0 is None else []), method):
                end = jax.lax.while_loop(each.running, each.step, each.init(A, b, x, weights, key, tol))
                x = end.x
            return end

        norms = column_norms(A)
        x, pivot = (x0, jnp.inf) if x0 is not None else _guess(kind, Problem(A, b, weights, tol, norms, None))
        end = minimum(x)
        end = end._replace(pivot=jnp.where(end.step > 0, end.pivot, pivot))
        if starts == 1:
            return end
        noise = jax.random.normal(key, (starts - 1, A.shape[1]), b.dtype)
        more = jax.vmap(lambda x: _lean(minimum(x)))(start.spread(noise, norms, b.shape[0]))
        found = jax.tree.map(lambda one, others: jnp.concatenate([one[None], others]), _lean(end), more)
        best = jnp.lexsort((found.loss, found.status != int(Status.converged)))[0]
        return jax.tree.map(lambda leaf: leaf[best], found)._replace(problem=end.problem)

    return jax.jit(solved)


def _lean(state: State) -> State:
    return state._replace(problem=None, memory=None)  # type: ignore[arg-type]


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


@lru_cache(maxsize=64)
def _mapped(shared: bool, starts: int, options: tuple[tuple[str, Any], ...]) -> Any:
    """Return a jitted (A, b, weights, x0, keys, tol) -> where each problem ends; on a CPU one problem at a time.

    There it is as fast as vmap, and independent batched factorisations of one program may block each other.
    """
    given, alone = dict(options), jax.default_backend() == "cpu"
    solved = program(starts, **given)
    kind = Objective(given["loss"], given["activation"], True, TRACED)

    def one(*problem: Any) -> dict[str, Array]:
        end = solved(*problem)
        z = matvec(problem[0], end.x)
        again = evaluate(kind, end.problem, end.x, z)  # steps add up logits, and their rounding
        return {
            **{name: getattr(end, name) for name in ("x", "status", "step", *NUMBERS)},
            **ends(end),
            **residual.summary(z, problem[1], given["activation"]),
            "relative": again.relative,
        }

    def mapped(A: Any, b: Array, weights: Any, x0: Any, keys: Any, tol: Array) -> dict[str, Array]:
        def lane(own: Any) -> dict[str, Array]:
            return one(A if shared else own[2], own[0], weights, x0, own[1], tol)

        return jax.lax.map(lane, (b, keys) if shared else (b, keys, A), batch_size=None if alone else len(b))

    return jax.jit(mapped)


def solve(
    alone: Callable[..., Solution], A: Any, b: Any, weights: Any, x0: Any, *, starts: int, **options: Any
) -> Solution:
    """Return the solutions of several problems, stacked: of b (n, k) with one A, or of A (k, n, d) with b (k, n).

    One compiled program; where it ends at a minimum beyond doubt, that is the solution. `alone`, the solver of one
    problem, is asked for the others, one by one.
    """
    problems = _each(A, b)
    given = {"weights": weights, "x0": x0, "starts": starts, **options}
    with _each_warning_once():
        checked = _checked(problems, given)
        ends = _ends(checked, starts, options, shared=np.ndim(A) == 2)
        found = [
            _certain(each, end) or alone(*problem, **given)
            for problem, each, end in zip(problems, checked, ends, strict=True)
        ]
    return Solution(*map(np.stack, zip(*(each[:-1] for each in found), strict=True)), history=[])


def _each(A: Any, b: Any) -> list[tuple[Any, Array]]:
    """Return (A, b) of every problem."""
    targets = np.asarray(b).T if np.ndim(A) == 2 else np.asarray(b)
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


def _checked(problems: list[tuple[Any, Array]], given: dict[str, Any]) -> list[validate.Checked]:
    """Return every problem checked; raise InputError with all that is wrong, of every problem with its number."""
    found, wrong = [], []
    for i, (A, b) in enumerate(problems):
        try:
            found.append(validate.check(A, b, **given))
        except InputError as error:
            wrong += [replace(each, message=f"{each.message} (problem {i})") for each in error.problems]
    if wrong:
        raise InputError(wrong)
    return found


def _ends(checked: list[validate.Checked], starts: int, options: dict[str, Any], *, shared: bool) -> list[Any]:
    """Return where the program ends of every problem, by name."""
    first, b = checked[0], np.stack([each.b for each in checked])
    A = from_any(first.A) if shared else np.stack([each.A for each in checked])
    names = ("loss", "activation", "solver", "sketch", "sketch_size")
    given = {name: options[name] for name in names} | {"max_steps": options["max_steps"] or MAX_STEPS}
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        keys = jax.random.split(jax.random.key(validate.seed_of(options["key"])), len(b))
        run = _mapped(shared, starts, tuple(sorted(given.items())))
        found = run(A, b, first.weights, first.x0, keys, np.asarray(first.tol, b.dtype))
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
