"""The config of your own training function: a block of the parameters of its functions, and one of its length."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import create_model

from expreg.core.config.fields import Block, Choice, Flag, Number, Rule, Text, fault, got, is_number, key
from expreg.core.config.model import FREE, Config, Curve, rules_of
from expreg.errors import InputError, Problem
from expreg.kinds.own import Description, Training
from expreg.types import BASE

RESERVED = frozenset([*(column.name for column in BASE), *Config.model_fields, "parameters", "training", "step"])
"""Names of keys and columns, which no parameter and no metric can have."""


@dataclass(frozen=True)
class _Plain(Rule):
    """A number, a string, a boolean or null, as it is given."""

    def _check(self, value: Any, _context: Any) -> Any:
        if is_number(value):
            FREE.number(value)  # refuses what is not finite
        elif not isinstance(value, bool | str | None):
            raise fault("E-TYPE", f"{got(value)}, expected a number, a text, true, false or null")
        return value

    def _describe(self, _handler: Any) -> dict[str, Any]:
        return {"type": ["number", "string", "boolean", "null"]}


_RULES: Mapping[str, Rule] = {"int": Number(integer=True), "float": Number(), "bool": Flag(), "str": Text()}
_STEPS = Number(integer=True, least=1, most=10**9)


class _Own(Config):
    """The config of your own training function."""

    blocks: ClassVar[tuple[str, ...]] = ("parameters", "training")


def config(description: Description) -> type[Config]:
    """Return the model of the config."""
    curve = {name: (rules_of(Curve, name)[0], [value]) for name, value in description.curve.items()}
    kept = _block("Kept", curve)
    length = _block(
        "Length", {"steps": (_STEPS, [description.steps])}, curve=(kept, key({}, "at which steps metrics are kept"))
    )
    own = {name: (rule_of(kind), default) for name, (kind, default) in description.parameters.items()}
    blocks: dict[str, Any] = {
        "parameters": (_block("Parameters", own), key({}, "parameters of the functions")),
        "training": (length, key({}, "how long a run is")),
    }
    model = create_model(description.name, __base__=_Own, __doc__=_Own.__doc__, **blocks)
    model.sizes = {name: ("parameters", name) for name in own}
    return model


def _block(title: str, values: Mapping[str, tuple[Rule, Sequence[Any]]], **more: Any) -> type[Block]:
    fields: dict[str, Any] = {
        n: (Annotated[Any, rule], key(default[0] if default else ..., n)) for n, (rule, default) in values.items()
    }
    return create_model(title, __base__=Block, __doc__=f"{title} of a training.", **fields, **more)


def rule_of(kind: str) -> Rule:
    """Return the rule of the values of a kind of parameter."""
    return Choice(options=tuple(kind.split("|"))) if "|" in kind else _RULES.get(kind, _Plain())


def parameters(training: Training) -> dict[str, tuple[str, list[Any]]]:
    """Return kind and default of the parameters; raise InputError where they contradict each other or other names."""
    found: dict[str, tuple[str, list[Any]]] = {}
    for parameter in (parameter for function in training.functions for parameter in _behind_first(function)):
        name, default = parameter.name, [] if parameter.default is parameter.empty else [parameter.default]
        kind, (known, before) = _kind(parameter.annotation, default), found.get(name, ("any", []))
        if before and default and before != default:
            raise refused(training, f"{name} has the defaults {before[0]!r} and {default[0]!r}")
        found[name] = (kind if known == "any" else known, before or default)
    if taken := sorted(found.keys() & RESERVED):
        raise refused(training, f"parameter {taken[0]!r} needs another name: a key or a column of expreg has it")
    if strange := [name for name in training.static if name not in found]:
        raise refused(training, f"static names {strange[0]!r}, which is no parameter; there are {', '.join(found)}")
    return found


def arguments(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the values that a function takes."""
    return {parameter.name: values[parameter.name] for parameter in _behind_first(function)}


def _behind_first(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters behind the first, without those whose default is no plain value: they are not swept."""
    try:
        signature = inspect.signature(function, eval_str=True)
    except NameError:  # annotations that only type checkers can resolve
        signature = inspect.signature(function)
    plain = (int, float, bool, str, type(None), type(inspect.Parameter.empty))
    behind = list(signature.parameters.values())[1:]
    return [
        one
        for one in behind
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD) and isinstance(one.default, plain)
    ]


def _kind(annotation: Any, default: list[Any]) -> str:
    if get_origin(annotation) is Literal and len(options := get_args(annotation)) > 1:
        return "|".join(map(str, options))
    names = {int: "int", float: "float", bool: "bool", str: "str"}
    return next((names[kind] for kind in (annotation, *map(type, default)) if kind in names), "any")


def refused(training: Training, *lines: str) -> InputError:
    """Return the refusal of a training."""
    return InputError([Problem("E-TRAINING", line, file=training.name) for line in lines])
