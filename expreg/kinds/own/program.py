"""The program of your own training function: steps up to the next point of the curve, and what is kept there."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial, wraps
from itertools import islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expreg.core.engine.curves import ended
from expreg.core.engine.lanes import run_again
from expreg.errors import InputError, Problem
from expreg.kinds.own import Description, Training, trace
from expreg.types import Array, Cost, Experiment, Program, Row, Settings, Status, Trained, Tree

CHUNK = 256
"""Steps at the most until the engine looks at a lane again."""
GROUP, SMALL = 8, 4e5
"""Lanes that a core vmaps, and the flops of a step below which it does: measured on one core, 8 lanes of 8e3, 4e4,
3e5, 1e6 and 4e6 flops are 4.3, 2.6, 2.0, 1.0 and 0.8 times as fast as one after the other, and 16 are no faster."""
_APART = {"cond", "while", "pure_callback", "io_callback", "debug_callback", "ffi_call"}
"""What makes vmapped lanes slower, or has no rule for them: branches are all taken, and loops go on to the longest."""
_MOST_TRACED = 256  # programs that are traced before a run; a mistake in a further one is the error of its cells
_MOST_WRONG = 3


class Signature(NamedTuple):
    """What is static: the values of some parameters, the types of the others."""

    program: str
    static: tuple[tuple[str, Any], ...]
    traced: tuple[tuple[str, str], ...]
    precision: str
    points: int


class State(NamedTuple):
    """A lane; `left` steps are to come at most, 0 where it is idle or has ended."""

    own: Tree
    values: dict[str, Array]
    step: Array
    left: Array
    status: Array
    metrics: dict[str, Array]
    at: Array  # (points,) steps that are kept
    curve: dict[str, Array]  # (points,) by metric
    length: Array


def signature(training: Training, settings: Settings) -> Signature:
    """Return what is static in a cell."""
    values, precision = settings["parameters"], settings["precision"]
    static = trace.static(training, values, precision)
    types = ((name, str(trace.type_of(v, precision))) for name, v in values.items() if name not in static)
    fixed = tuple((name, value) for name, value in values.items() if name in static)
    return Signature(training.name, fixed, tuple(types), precision, settings["training"]["curve"]["points"])


def prepare(training: Training, settings: Settings) -> dict[str, Any]:
    """Return the inputs of a lane."""
    length, traced = settings["training"], signature(training, settings).traced
    return {
        "seed": np.uint32(settings["seed"]),
        "replicate": np.uint32(settings["replicate"]),
        "values": {name: np.dtype(kind).type(settings["parameters"][name]) for name, kind in traced},
        "steps": np.int32(length["steps"]),
        "at": kept(length["steps"], **length["curve"]),
    }


def kept(steps: int, points: int, spacing: str) -> np.ndarray:
    """Return the steps that are kept, from 1 to `steps`, increasing up to there; int32 (points,)."""
    place = np.arange(1, points + 1)
    found = np.ceil(place * (steps / points)) if spacing == "regular" else np.round(np.geomspace(1, steps, points))
    return np.minimum(np.maximum(found, place), steps).astype(np.int32)  # both are convex: no step comes twice


def build(training: Training, signature: Signature) -> Program:
    """Return the program of one lane, in which JAX has the default types that it has outside of expreg."""

    def given(values: Mapping[str, Array]) -> dict[str, Any]:
        return {**dict(signature.static), **values}

    def init(inputs: dict[str, Any]) -> State:
        values, zero = inputs["values"], jnp.int32(0)
        own = trace.start(training, inputs["seed"], inputs["replicate"], given(values))
        look = lambda own: {**trace.step(training, own, given(values))[1], **trace.record(training, own, given(values))}  # noqa: E731
        metrics = jax.tree.map(lambda of: jnp.zeros((), of.dtype), jax.eval_shape(look, own))
        curve = {n: jnp.zeros(signature.points, of.dtype) for n, of in metrics.items() if n != trace.DONE}
        return State(own, values, zero, inputs["steps"], zero, metrics, inputs["at"], curve, zero)

    def advance(state: State) -> State:
        values, last = given(state.values), state.step + state.left
        point = state.at[jnp.minimum(state.length, signature.points - 1)]
        until = jnp.minimum(jnp.minimum(point, last), state.step + CHUNK)

        def once(carry: tuple[Array, Tree, dict[str, Array], Array]) -> tuple[Array, Tree, dict[str, Array], Array]:
            step, own, metrics, _ = carry
            own, found = trace.step(training, own, values)
            return step + 1, own, {**metrics, **found}, _ends(found) != Status.running

        begin = (state.step, state.own, state.metrics, jnp.bool_(False))
        step, own, metrics, over = jax.lax.while_loop(lambda carry: (carry[0] < until) & ~carry[3], once, begin)
        due = over | (step == last) | (step == point)
        look = lambda own, metrics: {**metrics, **trace.record(training, own, values)}  # noqa: E731
        metrics = jax.lax.cond(due, look, lambda _, metrics: metrics, own, metrics)
        status = jnp.where(due, _ends(metrics), Status.running)
        status = jnp.where((status == Status.running) & (step == last), Status.max_steps, status).astype(jnp.int32)
        keeps = (jnp.arange(signature.points) == state.length) & (step == point)
        return state._replace(
            own=own,
            step=step,
            left=jnp.where(status == Status.running, last - step, 0),
            status=status,
            metrics=metrics,
            curve={name: jnp.where(keeps, metrics[name], column) for name, column in state.curve.items()},
            length=state.length + keeps.any(),
        )

    def record(state: State) -> dict[str, Array]:
        curve = {f"curve_{name}": values for name, values in state.curve.items()}
        length = {"steps": state.step, "curve_step": state.at, "curve_length": state.length}
        return {"status": state.status, **state.metrics, **length, **curve}

    running = lambda state: state.left > 0  # noqa: E731
    return Program(
        _ordinary(signature, init), _ordinary(signature, advance), running, record, _of_a_step(training, signature)[2]
    )


def _ordinary(signature: Signature, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function in which JAX has its own default types, of 64 bits where the precision asks for them."""

    @wraps(function)
    def call(given: Any) -> Any:
        with jax.enable_x64(signature.precision == "f64"):
            return function(given)

    return call


def _ends(metrics: Mapping[str, Array]) -> Array:
    """Return the status with which these metrics end a run, that of a running one where they do not."""
    finite = [jnp.isfinite(value) for value in metrics.values() if jnp.issubdtype(value.dtype, jnp.floating)]
    done = jnp.where(metrics.get(trace.DONE, False), Status.converged, Status.running)
    return jnp.where(jnp.array([True, *finite]).all(), done, Status.nonfinite)


def row(description: Description, _settings: Settings, record: dict[str, Array]) -> Row:
    """Return the columns of a finished cell: each metric at its last step, and along the run."""
    status, last = Status(int(record["status"])), {name: record[name] for name in description.metrics}
    return {
        "status": status.name,
        "status_detail": f"not finite at step {record['steps']}" if status is Status.nonfinite else "",
        "steps": int(record["steps"]),
        **{name: value.item() if value.dtype.kind in "biu" else float(value) for name, value in last.items()},
        **ended(record, last),
    }


def trained(training: Training, final: str, settings: Settings) -> Trained:
    """Return the state of a cell at its end and its metric `final`, trained once more; raise RuntimeError if it fails.

    It is the program of a sweep, which also keeps the state.
    """

    def build_again(signature: Signature) -> Program:
        program = build(training, signature)

        def record(state: State) -> dict[str, Array]:
            leaves = {f"leaf_{k}": leaf for k, leaf in enumerate(jax.tree.leaves(state.own))}
            return {final: state.metrics[final], **leaves}

        return program._replace(record=record)

    def kept(_: Settings, record: dict[str, Array]) -> Row:
        return {"status": "converged", **{name: leaf.copy() for name, leaf in record.items()}}

    again = Experiment(
        name=training.name,
        signature=partial(signature, training),
        build=build_again,
        prepare=partial(prepare, training),
        row=kept,
        cost=partial(cost, training),
    )
    row = run_again(again, settings)
    with jax.enable_x64(settings["precision"] == "f64"):
        begin = jax.eval_shape(lambda: trace.start(training, 0, 0, settings["parameters"]))
    leaves = [row[f"leaf_{k}"] for k in range(len(jax.tree.leaves(begin)))]
    return Trained(jax.tree.unflatten(jax.tree.structure(begin), leaves), float(row[final]))


def inputs(training: Training, settings: Settings) -> dict[str, Array]:
    """Return the state at step 0 of a cell, its leaves by their paths."""
    with jax.enable_x64(settings["precision"] == "f64"):
        state = trace.start(training, settings["seed"], settings["replicate"], settings["parameters"])
        leaves = jax.tree_util.tree_leaves_with_path(state)
    return {
        jax.tree_util.keystr(at): leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf)
        for at, leaf in leaves
    }


def check(training: Training, cells: Sequence[Settings]) -> list[Problem]:
    """Return why the programs of some cells cannot run; warn of numbers that need not be static."""
    examples = {signature(training, settings): settings for settings in reversed(cells)}
    _warn_of_programs(training, list(examples.values()))

    def problems() -> Iterator[Problem]:
        for settings in islice(examples.values(), _MOST_TRACED):
            for line in trace.wrong(training, settings["parameters"], settings["precision"]):
                yield Problem("E-TRAINING", line, file=training.name)

    return list(islice(problems(), _MOST_WRONG))


def _warn_of_programs(training: Training, cells: Sequence[Settings]) -> None:
    places: dict[str, str] = {}
    for settings in cells:
        places |= {
            n: at for n, at in trace.static(training, settings["parameters"], settings["precision"]).items() if at
        }
    for name, place in places.items():
        if (count := len({settings["parameters"][name] for settings in cells})) > 1:
            line = f"{training.name}: each value of {name} ({count} here) compiles a program of its own: see {place}"
            remedy = f"jnp.where in place of `if`, or functions of jnp, avoid that; static=[{name!r}] says it is meant"
            warnings.warn(f"{line}; {remedy}", stacklevel=2)


def cost(training: Training, settings: Settings) -> Cost:
    """Return the steps of a cell, the flops of a step as XLA counts them, and the bytes of the state."""
    return Cost(float(settings["training"]["steps"]), *_of_a_step(training, signature(training, settings))[:2])


@lru_cache(maxsize=_MOST_TRACED)
def _of_a_step(training: Training, signature: Signature) -> tuple[float, float, int]:
    """Return flops and bytes of a step, each loop in it counted once, and how many lanes take it together."""
    numbers = {name: jax.ShapeDtypeStruct((), np.dtype(kind)) for name, kind in signature.traced}
    step = lambda state, numbers: trace.step(training, state, dict(signature.static) | numbers)  # noqa: E731
    with jax.enable_x64(signature.precision == "f64"):
        begin = lambda numbers: trace.start(training, 0, 0, dict(signature.static) | numbers)  # noqa: E731
        state = jax.eval_shape(begin, numbers)
        traced = jax.jit(step).trace(state, numbers)
        counted = traced.lower().cost_analysis() or {}
        look = lambda state, numbers: trace.record(training, state, dict(signature.static) | numbers)  # noqa: E731
        used = {*_primitives(traced.jaxpr.jaxpr), *_primitives(jax.make_jaxpr(look)(state, numbers).jaxpr)}
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    flops = max(float(counted.get("flops", 1.0)), 1.0)
    return flops, float(size), GROUP if flops < SMALL and not used & _APART else 1


def _primitives(program: Any) -> Iterator[str]:
    """Yield the names of the primitives of a traced program, and of those in it."""
    for equation in program.eqns:
        yield equation.primitive.name
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _primitives(inner)


def unknown(description: Description, *_: Any) -> Any:
    """Raise InputError: only the description of a training is known."""
    message = "the functions of this training are not known here; import the module that registers them"
    raise InputError(Problem("E-TRAINING", message, file=description.name))
