"""What tracing shows of a training: its metrics, its static parameters, and whether its functions fit together."""

import hashlib
import inspect
import os
import re
import traceback
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expreg.core.config.fields import is_number
from expreg.core.engine import devices
from expreg.core.engine.failures import detail
from expreg.kinds.own import Description, Training
from expreg.kinds.own.schema import RESERVED, arguments, parameters, refused, rule_of
from expreg.types import Tree

DONE = "done"
"""The metric that ends a run."""
_GUESSES: Mapping[str, Any] = {"float": 0.5, "bool": False, "str": ""}
_ARROW = {jnp.bool_: "bool", jnp.integer: "int64", jnp.floating: "float64"}
_MOST_LEAVES = 3


def start(training: Training, seed: Any, replicate: Any, values: Mapping[str, Any]) -> Tree:
    """Return the state at step 0, all of its leaves arrays."""
    key = jax.random.fold_in(jax.random.key(seed), replicate)
    return _arrays(training.init(key, **arguments(training.init, values)))


def step(training: Training, state: Tree, values: Mapping[str, Any]) -> tuple[Tree, dict[str, Any]]:
    """Return the state after a step, and the metrics of `step` where it has some."""
    found = training.step(state, **arguments(training.step, values))
    pair = isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], Mapping)
    if isinstance(found, tuple) and len(found) == 2 and not pair and _leaves(_arrays(found[0])) == _leaves(state):
        raise TypeError(
            f"step returned (state, {_type(found[1])}), expected (state, {{'loss': ...}}), a dict of scalars"
        )
    after, metrics = found if pair and _leaves(found) != _leaves(state) else (found, {})
    after = _arrays(after)
    if _leaves(after).keys() == _leaves(state).keys():  # what is static in a state, as a GraphDef of flax, stays
        after = jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(after))
    return after, _arrays(dict(metrics))


def record(training: Training, state: Tree, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of `record`, none without it."""
    return _arrays(dict(training.record(state, **arguments(training.record, values)))) if training.record else {}


def _arrays(tree: Tree) -> Any:
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf), tree)


class Shapes(NamedTuple):
    """Shapes and types of the state before and after a step, and of the metrics of `step` and `record`."""

    before: Tree
    after: Tree
    stepped: dict[str, Any]
    recorded: dict[str, Any]


def shapes(training: Training, values: Mapping[str, Any], traced: Collection[str], precision: str) -> Shapes:
    """Return the shapes of a training with these parameters, some of them traced; raise what the functions raise."""

    def whole(numbers: Mapping[str, Any]) -> Shapes:
        given = {**values, **numbers}
        state = start(training, 0, 0, given)
        return Shapes(state, *step(training, state, given), record(training, state, given))

    with jax.enable_x64(precision == "f64"):
        found: Shapes = jax.eval_shape(
            whole, {n: jax.ShapeDtypeStruct((), type_of(values[n], precision)) for n in traced}
        )
    return found


def type_of(value: float, precision: str) -> np.dtype:
    """Return the type of a number as an input of a program."""
    return np.dtype(f"{type(value).__name__}{precision[1:]}")


_static: dict[Any, dict[str, str]] = {}


def static(training: Training, values: Mapping[str, Any], precision: str) -> dict[str, str]:
    """Return the static parameters: all but the numbers that the functions accept when they are traced.

    They are found once for each combination of strings, booleans and parameters that are declared as static. Each has
    the place where a traced number could be used instead: that of a Python `if`, or of any use of a float; else "".
    """
    fixed = {n: v for n, v in values.items() if n in training.static or not is_number(v)}
    key = (training, precision, *fixed.items())
    if key not in _static:
        free = [name for name in values if name not in fixed]
        bad = free if _refused(training, values, free, precision) is not None else []
        places = {name: _refused(training, values, [name], precision) for name in bad}
        _static[key] = {name: place for name, place in places.items() if place is not None}
    return dict.fromkeys(fixed, "") | _static[key]


def _refused(training: Training, values: Mapping[str, Any], traced: list[str], precision: str) -> str | None:
    """Return None where the functions accept traced numbers, else the place where they could, "" without one."""
    try:
        shapes(training, values, traced, precision)
    except Exception as error:  # whatever they cannot do with a traced number, they may do with a plain one
        floats = any(isinstance(values[name], float) for name in traced)
        branch = isinstance(error, jax.errors.TracerBoolConversionError)
        return (_place(training, error) or training.name) if branch or floats else ""
    return None


def _place(training: Training, error: Exception) -> str:
    """Return the last line of the user's own functions that an error has passed through."""
    own = {function.__code__.co_filename for function in training.functions if hasattr(function, "__code__")}
    passed = [at for at in traceback.extract_tb(error.__traceback__) if at.filename in own]
    return "".join(f"{os.path.basename(at.filename)}:{at.lineno}, in {at.name}" for at in passed[-1:])


def wrong(training: Training, values: Mapping[str, Any], precision: str) -> list[str]:
    """Return why a training cannot run with these parameters, in lines."""
    where = f" (at {', '.join(f'{name} = {value}' for name, value in values.items())})" if values else ""
    try:
        found = shapes(training, values, values.keys() - static(training, values, precision), precision)
    except Exception as error:
        place = _place(training, error)
        return [f"its functions cannot be traced{where}: {f'{place}: ' if place else ''}{detail(error)}"]
    return [f"{line}{where}" for line in _misfits(found, values)]


def _misfits(found: Shapes, values: Mapping[str, Any]) -> Iterator[str]:
    before, after = _leaves(found.before), _leaves(found.after)
    if changed := [name for name in {**before, **after} if before.get(name) != after.get(name)]:
        shown = [f"{n} from {before.get(n, 'absent')} to {after.get(n, 'absent')}" for n in changed[:_MOST_LEAVES]]
        more = f" and {len(changed) - _MOST_LEAVES} more" if len(changed) > _MOST_LEAVES else ""
        yield f"step changes shapes or types: {', '.join(shown) + more}"
    metrics = {**found.stepped, **found.recorded}
    if not metrics.keys() - {DONE}:
        yield "there are no metrics: expected step to return (state, {name: scalar}), or record {name: scalar}"
    for name, value in metrics.items():
        if value.shape or not _arrow(value):
            yield f"metric {name} is {_type(value)}, expected a scalar number or boolean"
        elif name == DONE and value.dtype != bool:
            yield f"metric {name} is {_type(value)}, expected a boolean: it ends a run"
        elif not str(name).isidentifier() or name in RESERVED | values.keys() or name.startswith("curve_"):
            yield f"metric {name!r} needs another name: a parameter or a column has it, or it is no identifier"


def _leaves(tree: Tree) -> dict[str, str]:
    return {jax.tree_util.keystr(at) or "state": _type(leaf) for at, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _type(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "dtype") else type(leaf).__name__


def _arrow(value: Any) -> str:
    return next((name for kind, name in _ARROW.items() if jnp.issubdtype(value.dtype, kind)), "")


def describe(training: Training, examples: Mapping[str, Any]) -> Description:
    """Return the description of a training; `examples` are values of parameters.

    Raises InputError where it cannot be traced or where its functions do not fit together.
    """
    if not re.fullmatch(r"[A-Za-z]\w{0,63}", training.name, re.ASCII):
        raise refused(training, "expected a name of letters, digits and _, first a letter")
    devices.configure()  # tracing may start JAX
    known = parameters(training)
    values = {name: _example(*of, examples.get(name)) for name, of in known.items()}
    if lines := wrong(training, values, "f32"):
        raise refused(training, *lines)
    found = shapes(training, values, (), "f32")
    kinds = {name: _arrow(value) for name, value in {**found.stepped, **found.recorded}.items() if name != DONE}
    final = training.maximize or training.minimize or ("loss" if "loss" in kinds else next(iter(kinds)))
    if final not in kinds or (training.maximize and training.minimize):
        raise refused(training, f"got {final!r} to compare settings by, expected one of {', '.join(kinds)}")
    curve = {"points": training.points, "spacing": training.spacing}
    return Description(
        training.name, known, kinds, final, bool(training.maximize), training.steps, curve, _checksum(training, known)
    )


def _example(kind: str, default: list[Any], given: Any) -> Any:
    """Return a value of a parameter: the given one if it is of the kind, else the default, else a guess."""
    if given is not None and rule_of(kind).axis(given) is None:
        return rule_of(kind).check(given)
    return default[0] if default else _GUESSES.get(kind, kind.split("|")[0] if "|" in kind else 8)


def _checksum(training: Training, known: Mapping[str, tuple[str, list[Any]]]) -> str:
    """Return JAX's version and a checksum of what the functions compute: their program, with all of its constants.

    It is that at their defaults. What they call, and the data that they close over, are part of it. Where the program
    needs values that nobody knows here, it is a checksum of the source of the functions.
    """
    values = {name: _example(*of, None) for name, of in known.items()}

    def whole(numbers: Mapping[str, Any]) -> tuple[Tree, ...]:
        given = {**values, **numbers}
        state = start(training, 0, 0, given)
        return state, step(training, state, given), record(training, state, given)

    found = hashlib.sha256()
    try:
        with jax.enable_x64(False):
            traced = values.keys() - static(training, values, "f32")
            numbers = {name: jax.ShapeDtypeStruct((), type_of(values[name], "f32")) for name in sorted(traced)}
            program = jax.make_jaxpr(whole)(numbers)
        found.update(re.sub(r"0x[0-9a-f]+", "", str(program)).encode())  # functions in it have addresses
        for constant in program.consts:
            found.update(np.ascontiguousarray(constant).tobytes())
    except Exception:
        for function in training.functions:
            with suppress(OSError, TypeError):  # typed at a prompt, or no function of Python
                found.update(inspect.getsource(function).encode())
    return f"{jax.__version__}:{found.hexdigest()[:16]}"
