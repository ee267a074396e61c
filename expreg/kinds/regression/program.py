"""Solve one regression problem per cell: the computation behind `regression` (E.2-E.44, F.1-F.16)."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expreg import residual, solver, sparse
from expreg.activation import Activation, lookup, padded
from expreg.core.engine.curves import ended
from expreg.data import problems
from expreg.errors import InputError, Problem
from expreg.kinds.regression import bounded
from expreg.kinds.regression.columns import BASIN, CURVES, MEASURED, PROBLEM
from expreg.solver import host, verdict, words
from expreg.solver.state import Objective
from expreg.solver.validate import check as check_arrays
from expreg.sparse import passes
from expreg.types import PRECISIONS, Array, Cost, Program, Row, Settings, Status

TOLERANCE = {"f32": 1e-5, "f64": 1e-10}
"""What `tolerance: auto` means."""
NO_LIMIT = 2**30
"""The budget of the solver itself: that of a cell is kept by its lane, so that it can be swept."""
EXPONENTIAL_FLOPS = 200
"""What the elementwise work on the n logits costs in a step, its line search included."""


class Signature(NamedTuple):
    """Everything static: one compiled program each."""

    n: int
    d: int
    loss: str
    activation: str
    solver: str
    sketch: str | None
    sketch_size: int | None
    dtype: str
    points: int  # of the curve
    sparse: str | None = None  # the content of the files, by which a sparse A has its shape
    parts: int = 0  # of the rows, where devices share them


class Inputs(NamedTuple):
    """What one run starts from; arrays of the shapes that the signature fixes."""

    A: Any  # (n, d), zeros included: lanes share one shape; a sparse.Sparse for a sparse file, or sparse.Shared
    b: Any  # (n,)
    x0: Any  # (d,)
    weights: Any  # (n,)
    key: Any  # (2,) uint32, of the sketches
    tolerance: Any
    accuracy: Any  # the distance to the goal at which the run ends, negative where it does not count
    max_steps: Any
    curve_step: Any  # (points,) int32, the steps that are stored
    goal: Any  # (d,) the planted x, nan where there is none
    metric: Any  # the z-Hessian at A goal, whose norm measures the distance to it (F.10)


ROWS = ("A", "b", "weights", "diagonal", "Q", "z", "u", "v", "w", "r", "c")
"""The fields of inputs and states whose arrays have a number, or a row, for each row of A."""


class State(NamedTuple):
    """A run in a lane: the solver's own state, its limit, and the curve so far."""

    active: jax.Array  # False in an idle lane, whose state is all zeros
    inputs: Inputs
    inner: Any  # solver.State
    curve: dict[str, jax.Array]  # (points,) each
    curve_length: jax.Array


def problem(settings: Settings) -> problems.Problem:
    """Return the problem of a cell; cells that differ in the solver only share it."""
    if "accuracy" in settings["problem"]:
        return bounded.problem(settings)
    return _problem(json.dumps(settings["problem"], sort_keys=True), settings["seed"], settings["replicate"])


@lru_cache(maxsize=64)
def _problem(text: str, seed: int, replicate: int) -> problems.Problem:
    return problems.make(json.loads(text), seed, replicate)


def inputs(settings: Settings) -> dict[str, Array]:
    """Return the arrays that the cell starts from: A (n, d), b (n,), x0 (d,)."""
    found, real = problem(settings), PRECISIONS[settings["precision"]]
    return {name: getattr(found, name).astype(real) for name in ("A", "b", "x0")}


def check(cells: Sequence[Settings]) -> list[Problem]:
    """Return what is wrong with the user's own A and b, read once per problem and solver."""
    own = {
        json.dumps((settings["problem"], settings["solver"]), sort_keys=True): settings
        for settings in cells
        if settings["problem"]["kind"] == "file"
    }
    found = []
    for settings in own.values():
        given, static = settings["problem"], signature(settings)
        named = {name: getattr(static, name) for name in ("loss", "activation", "solver", "sketch")}
        try:
            A, b = problems.given(given)
            check_arrays(A, b, **named, weights=given["weight"], x0=None, tol=1e-10)
        except InputError as error:
            found += [replace(problem, file=problem.file or given["path"]) for problem in error.problems]
    return found


# --- one lane -------------------------------------------------------------------------------------


def signature(settings: Settings) -> Signature:
    """Return what is static in a cell."""
    found, chosen = settings["problem"], settings["solver"]
    size = chosen["sketch_size"]
    return Signature(
        **{name: found[name] for name in ("n", "d", "loss", "activation")},
        solver=chosen["name"],
        sketch=None if chosen["sketch"] == "none" else chosen["sketch"],
        sketch_size=None if size == "auto" else size,
        dtype=np.dtype(PRECISIONS[settings["precision"]]).name,
        points=chosen["curve"]["points"],
        sparse=None if problems.entries(found) is None else found["sha256"],
    )


def _curve_steps(settings: Settings) -> np.ndarray:
    """Return the steps at which the curve is stored, from 0 to the budget or beyond, strictly increasing."""
    curve, budget = settings["solver"]["curve"], settings["solver"]["max_steps"]
    place = np.arange(curve["points"], dtype=np.int32)
    if curve["spacing"] == "regular":
        return place * np.int32(max(1, -(-budget // (curve["points"] - 1))))
    growth = np.log(max(budget, 2)) / max(curve["points"] - 2, 1)
    wanted = np.round(np.exp(growth * (place - 1.0))).astype(np.int32)
    wanted[0] = 0
    return np.maximum(wanted, place)


def _tolerance(settings: Settings) -> float:
    """Return the bound of the gradient; 0, which nothing reaches, where the distance to the minimiser counts."""
    if "accuracy" in settings["problem"]:
        return 0.0
    wanted = settings["solver"]["tolerance"]
    return TOLERANCE[settings["precision"]] if wanted == "auto" else wanted


def prepare(settings: Settings) -> Inputs:
    """Return the inputs of one cell's lane, NumPy arrays in the cell's precision."""
    found, static, real = problem(settings), signature(settings), PRECISIONS[settings["precision"]]
    given, accuracy = settings["problem"], settings["problem"].get("accuracy", -1.0)
    planted = np.zeros(static.d) if found.planted is None else found.planted
    at = residual.terms(found.A @ planted, found.b, static.loss, static.activation)
    arrays = inputs(settings)
    return Inputs(
        **arrays | {"A": sparse.from_any(arrays["A"])},
        weights=np.full(static.n, given["weight"] if found.weights is None else found.weights, real),
        key=problems.key(settings["seed"], settings["replicate"]) + np.uint32(given.get("draw", 0)),
        tolerance=real(_tolerance(settings)),
        accuracy=real(accuracy),
        max_steps=np.int32(settings["solver"]["max_steps"]),
        curve_step=_curve_steps(settings),
        goal=np.full(static.d, np.nan, real) if found.planted is None else found.planted.astype(real),
        metric=jax.tree.map(lambda leaf: leaf.astype(real), residual.scaled_curvature(at, static.loss)),
    )


def program(static: Signature) -> Program:
    """Return the program of one signature: the solver's own steps, and the curve."""
    chosen = {name: getattr(static, name) for name in ("loss", "solver", "sketch", "sketch_size")}
    phi = lookup(static.activation)
    phi = padded(phi, static.n) if static.parts else phi
    method, signs = solver.make(**chosen, activation=phi, max_steps=NO_LIMIT), _signs(phi)

    def running(state: State) -> Array:
        going = state.active & method.running(state.inner) & (state.inner.step < state.inputs.max_steps)
        return going & ~_reached(signs, state)

    def init(given: Inputs) -> State:
        key = jax.random.wrap_key_data(given.key)
        inner = method.init(given.A, given.b, given.x0, given.weights, key, given.tolerance)
        empty = {name: jnp.full(static.points, jnp.nan, given.b.dtype) for name in CURVES}
        kept = given._replace(A=None, b=None, x0=None, weights=None)  # the solver's own state has them
        return _noted(signs, State(jnp.asarray(True), kept, inner, empty, jnp.int32(0)))

    def advance(state: State) -> State:
        return _noted(signs, state._replace(inner=method.step(state.inner)))

    return Program(init, advance, running, partial(_record, phi), split=dict.fromkeys(ROWS, 0))


def _distance(signs: tuple[int, ...], state: State) -> Array:
    away = jnp.stack([state.inner.x - sign * state.inputs.goal for sign in signs])
    return jnp.sqrt(jnp.min(jnp.sum(away * away, axis=1)))


def _reached(signs: tuple[int, ...], state: State) -> Array:
    return _distance(signs, state) <= state.inputs.accuracy


def _signs(activation: str | Activation) -> tuple[int, ...]:
    """Return the signs s for which s x is planted when x is: both for an even phi (E.39)."""
    return (1, -1) if lookup(activation).parity == "even" else (1,)


def _noted(signs: tuple[int, ...], state: State) -> State:
    """Store the point of the curve if the step is one that is stored."""
    wanted, length = state.inputs.curve_step, state.curve_length
    due = (state.inner.step == wanted[jnp.minimum(length, len(wanted) - 1)]) & (length < len(wanted))
    now = _point(signs, state)
    curve = {
        name: jnp.where(due, values.at[length].set(now[name], mode="drop"), values)
        for name, values in state.curve.items()
    }
    return state._replace(curve=curve, curve_length=length + due)


def _point(signs: tuple[int, ...], state: State) -> dict[str, Array]:
    """Return what the curve holds of a step: relative gradient, loss, passes, and the distance to the planted x."""
    inner, metric = state.inner, state.inputs.metric
    goal = sparse.matvec(inner.problem.A, state.inputs.goal)

    def squared(t: Array) -> Array:
        low = t @ metric.Q
        return t @ (metric.diagonal * t) + low @ metric.S @ low

    square = jnp.min(jnp.stack([squared(inner.point.z - sign * goal) for sign in signs]))
    found = {name: getattr(inner, name) for name in ("loss", "passes", "damping")}
    found |= {"residual": inner.relative, "error": jnp.sqrt(jnp.maximum(square, 0))}
    found |= {"distance": _distance(signs, state)}
    return {name: jnp.asarray(value, inner.x.dtype) for name, value in found.items()}


def _record(activation: Activation, state: State) -> dict[str, Array]:
    inner, signs = state.inner, _signs(activation)
    return {
        "steps": inner.step,
        "status": jnp.where(_reached(signs, state), int(Status.converged), inner.status),
        **{name: getattr(inner, name) for name in ("x", "gradient_norm", "passes")},
        **verdict.ends(inner),
        **residual.summary(sparse.matvec(inner.problem.A, inner.x), inner.problem.b, activation),
        "curve_length": state.curve_length,
        "curve_step": state.inputs.curve_step,
        **{f"curve_{name}": values for name, values in state.curve.items()},
        **{f"last_{name}": value for name, value in _point(signs, state).items()},
    }


# --- rows -----------------------------------------------------------------------------------------


def row(settings: Settings, record: dict[str, Array]) -> Row:
    """Return the columns of a finished cell with its curve as lists."""
    found, chosen, given, static = problem(settings), settings["solver"], settings["problem"], signature(settings)
    sketch = None if static.sketch is None else solver.SKETCHES[static.sketch]
    status = _status(settings, record)
    detail = words.sentence(
        status.name,
        float(record["damping"]),
        words.IN_A_CONFIG,
        solver=static.solver,
        sketch=static.sketch,
        loss=static.loss,
        dtype=static.dtype,
        weighted=given["weight"] != 0,
    )
    return {
        "status": status.name,
        "status_detail": detail,
        "solver": chosen["name"],
        "sketch": chosen["sketch"],
        "sketch_size": None if sketch is None else sketch.rows(static.n, static.d, static.sketch_size),
        "data": given["kind"],
        "rows": given["n"],
        "columns": given["d"],
        "nnz": int((found.A != 0).sum()),
        "steps": int(record["steps"]),
        "max_steps": chosen["max_steps"],
        "passes": int(record["passes"]),
        "tolerance": _tolerance(settings),
        **{name: given.get(name) for name in ("loss", "activation", *PROBLEM)},
        **(bounded.minimum(settings).columns if "accuracy" in given else dict.fromkeys(BASIN)),
        "loss_value": float(record["last_loss"]),
        "residual_final": float(record["last_residual"]),
        **{name: float(record[name]) for name in MEASURED},
        **_errors(found.planted, _signs(given["activation"]), record),
        **ended(record, {name: record[f"last_{name}"] for name in CURVES}),
        **_weight(given["weight"]),
    }


def _status(settings: Settings, record: dict[str, Array]) -> Status:
    """Return how a cell ended: where its gradient vanished without steps that converge, what that point is."""
    status = Status(int(record["status"])) or Status.max_steps  # running: its lane ended at the budget
    x, ends = np.asarray(record["x"]), {name: record[name] for name in verdict.ENDS}
    if status != Status.converged or "accuracy" in settings["problem"] or not verdict.doubtful(x, **ends):
        return status
    static, given, A = signature(settings), prepare(settings), inputs(settings)["A"]
    kind = Objective(static.loss, static.activation, True, host.HOST)
    weights = given.weights if given.weights.any() else None
    with host.calm():
        at = solver.Problem(passes.rows(A), given.b, weights, given.tolerance, passes.column_norms(A), None)
        return verdict.examined(kind, at, x, status).status


def _weight(given: float | str) -> Row:
    """Return the weight of the config: a number, or the rule that it follows."""
    ruled = isinstance(given, str)
    return {"weight": None if ruled else given, "weight_rule": given if ruled else None}


def _errors(planted: np.ndarray | None, signs: tuple[int, ...], record: dict[str, Array]) -> Row:
    """Return the distance to the planted x in the norm of its Hessian, and relative to its size."""
    if planted is None:
        return {"error_final": None, "x_error": None}
    distance, size = min(np.linalg.norm(record["x"] - sign * planted) for sign in signs), np.linalg.norm(planted)
    return {"error_final": float(record["last_error"]), "x_error": float(distance / size) if size else None}


def cost(settings: Settings) -> Cost:
    """Return expected steps, flops per step and bytes per lane; draws no problem."""
    given, chosen = settings["problem"], settings["solver"]
    n, d, entries = float(given["n"]), float(given["d"]), problems.entries(given)
    record = solver.chosen(chosen["name"], given["n"], given["d"], dense=entries is None)
    steps = min(chosen["max_steps"], record.expected_steps or chosen["max_steps"])
    size = chosen["sketch_size"] if isinstance(chosen["sketch_size"], int) else None
    rows = n if entries is None else entries / d  # as many full rows as its entries fill
    second = record.flops(rows, d, min(rows, size or rows))
    flops = second + 8 * rows * d + EXPONENTIAL_FLOPS * n + d**3 / 3
    width = np.dtype(PRECISIONS[settings["precision"]]).itemsize
    held = width * (40 * n + 5 * chosen["curve"]["points"])
    if entries is None:
        return Cost(float(steps), flops, held + width * (n * d + 4 * d * d))
    # each entry thrice: in the order of the matrix, of its products and of those of its transpose; the latter padded
    held += (6 * width + 16) * entries
    sketch = record.default_sketch(given["d"]) if chosen["sketch"] == "none" else chosen["sketch"]
    squares = 4 * d * d if sketch or (record.takes_sketch and not record.sketch) else 0.0
    sketched = d * solver.SKETCHES[sketch].rows(given["n"], given["d"], size) if sketch else 0.0
    return Cost(float(steps), flops if squares else flops - d**3 / 3, held + width * (squares + sketched))
