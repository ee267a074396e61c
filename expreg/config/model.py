"""The whole config: its top-level keys, what stands at which path, and pydantic's errors in our words."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, NamedTuple, Self, get_args, get_origin

from pydantic import (
    AfterValidator,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError

from expreg.config.fields import (
    TAG,
    Block,
    Choice,
    Either,
    Number,
    OneOf,
    Rule,
    Text,
    did_you_mean,
    fault,
    got,
    show,
)
from expreg.config.grid import COMBINATIONS, GENERATORS
from expreg.config.grid import Block as Grid
from expreg.config.reader import Mark
from expreg.config.schema import Analysis, Data, Execution, Network, Sphere, Training

KNOWN_EXPERIMENTS = ("threshold", "convergence")
EVENTS = ("E0", "E1", "E1s", "E1m", "E3", "E4", "E5")
LATER_EVENTS = ("E2", "Ecert")
SWEEPABLE = ("seed", "precision", "data", "network", "training")

_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(1, 10))}
_RULE = "allowed A-Z a-z 0-9 . _ - (1..64), first a letter or digit"

Path = tuple[str | int, ...]


class Fault(NamedTuple):
    """A problem at a path of the config."""

    path: Path
    code: str
    message: str


@dataclass(frozen=True)
class Source:
    """What a config was made from: the merged mapping, the marks of keys and values, and the grid."""

    given: Mapping[str, Any]
    keys: Mapping[Path, Mark]
    values: Mapping[Path, Mark]
    grid: Grid | None


@dataclass(frozen=True)
class _Name(Rule):
    """The name of a run."""

    def check(self, value: Any) -> str:
        """Return the name if it can safely name a directory; raise E-NAME otherwise."""
        if not isinstance(value, str):
            raise fault("E-TYPE", f"{got(value)}, expected text")
        strange = re.search(r"[^A-Za-z0-9._-]", value)
        if strange:
            raise fault("E-NAME", f"{show(value)} has {strange.group()!a}; {_RULE}")
        if not re.fullmatch(r"[A-Za-z0-9].{0,63}", value):
            reason = f"has {len(value)} characters" if len(value) > 64 or not value else f"begins with '{value[0]}'"
            raise fault("E-NAME", f"{show(value)} {reason}; {_RULE}")
        if value.split(".")[0].lower() in _RESERVED:
            raise fault("E-NAME", f"{show(value)} is reserved on some systems; choose another name")
        return value

    def describe(self) -> dict[str, Any]:
        """Return the JSON Schema of the rule."""
        return {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"}


def _in_order(value: list[str]) -> list[str]:
    for index, event in enumerate(value):
        if event in value[:index]:
            raise fault("E-DUP", f"{event} already at index {value.index(event)}", index)
    return [event for event in EVENTS if event in value]


def _sweep_schema() -> dict[str, Any]:
    pair = {"type": "array", "minItems": 3, "maxItems": 3, "items": {"type": "number"}}
    scalar = {"type": ["number", "string", "boolean", "null"]}
    generators = [
        {"type": "object", "required": [name], "additionalProperties": False, "properties": {name: schema}}
        for name in GENERATORS
        for schema in ({"type": "integer", "minimum": 1} if name == "count" else pair,)
    ]
    axis = {"anyOf": [{"type": "array", "minItems": 1, "items": scalar}, scalar, *generators]}
    axes = {"type": "object", "additionalProperties": axis}
    properties: dict[str, Any] = {name: axes for name in COMBINATIONS if name != "concat"}
    properties["concat"] = {"type": "array", "minItems": 1, "items": {"type": "object"}}
    properties["when"] = {"type": "string", "description": "keep the cells for which this holds, like m >= n"}
    return {"type": "object", "additionalProperties": False, "properties": properties}


class Config(Block):
    """A config of expreg: which quantity is measured, over which grid."""

    experiment: str = Field(description="what a cell computes")
    name: Annotated[str, _Name()] = Field(description=f"name of the run; {_RULE}")
    description: Annotated[str, Text()] = Field(default="", description="a sentence for the report")
    seed: Annotated[int, Number(integer=True, least=0, most=2**32 - 1, expression=False)] = Field(
        default=0, description="all randomness follows from it and the replicate"
    )
    precision: Annotated[str, Choice(("f32", "f64"))] = Field(
        default="f32", description="floating point numbers of a cell"
    )
    data: Data = Field(default_factory=Sphere, description="samples and labels")
    network: Network = Field(default_factory=Network, description="the trained network")
    training: Training = Field(default_factory=Training, description="optimizer, step size and stopping rules")
    problem: Any = Field(default=None, description="for the experiments regression and in_context")
    solver: Any = Field(default=None, description="for the experiment regression")
    sweep: Annotated[Any, WithJsonSchema(_sweep_schema())] = Field(default=None, description="the grid of cells")
    measure: Annotated[list[Annotated[str, Choice(EVENTS, later=LATER_EVENTS)]], AfterValidator(_in_order)] = Field(
        default_factory=lambda: list(EVENTS), description="events to record (C.27)"
    )
    analysis: Analysis = Field(default_factory=Analysis, description="statistics over the rows")
    execution: Execution = Field(default_factory=Execution, description="where and how cells run")
    extends: Annotated[str, Text(least=1, most=1024)] | None = Field(
        default=None, description="a config to start from, relative to this file"
    )
    _source: Source = PrivateAttr()

    @property
    def source(self) -> Source:
        """What this config was made from; only configs that came from `load` have it."""
        return self._source

    def with_source(self, source: Source) -> Self:
        """Return this config, remembering what it was made from."""
        copy = self.model_copy()
        copy._source = source
        return copy

    @field_validator("experiment", mode="plain")
    @classmethod
    def _check_experiment(cls, value: Any, info: ValidationInfo) -> str:
        return Choice(tuple((info.context or {}).get("experiments", KNOWN_EXPERIMENTS))).check(value)

    @field_validator("problem", "solver", mode="plain")
    @classmethod
    def _refuse(cls, value: Any, info: ValidationInfo) -> None:
        if value is not None:
            name = info.data.get("experiment", "this experiment")
            raise fault("E-UNKNOWN", f"{name} has no {info.field_name}; remove this key")


def validate(given: Mapping[str, Any], experiments: Sequence[str]) -> tuple[Config | None, list[Fault]]:
    """Check a config; return it, or None and everything that is wrong with its single values."""
    try:
        return Config.model_validate(given, context={"experiments": tuple(experiments)}), []
    except ValidationError as error:
        return None, [_translate(details) for details in error.errors(include_url=False)]


def _translate(details: Any) -> Fault:
    kind, location, value = details["type"], details["loc"], details["input"]
    path, model = _follow(location)
    context = details.get("ctx") or {}
    if kind.startswith("E-"):
        index = context["index"]
        return Fault(path if index is None else (*path, index), kind, context["message"])
    if kind == "extra_forbidden":
        hint = did_you_mean(path[-1], model.model_fields)
        known = "" if hint else f"; known {_branch_name(model)}: {', '.join(model.model_fields)}"
        return Fault(path, "E-UNKNOWN", f"unknown key{hint}{known}")
    if kind == "missing":
        return Fault(path, "E-MISSING", "required key missing")
    if kind == "union_tag_invalid":
        union = next(part for part in _parts(model, str(path[-1])) if isinstance(part, OneOf))
        return _wrong_branch(path, union, value)
    expected = "a list" if kind == "list_type" else "a mapping"
    return Fault(path, "E-TYPE", f"{got(value)}, expected {expected}")


def _branch_name(model: type[Block]) -> str:
    names = [model.model_fields[key].default for key in ("kind", "name") if key in model.model_fields]
    return f"for {names[0]}" if names and isinstance(names[0], str) else "here"


def _wrong_branch(path: Path, union: OneOf, value: Mapping[str, Any]) -> Fault:
    try:
        Choice(tuple(union.choices())).check(value[union.key])
    except PydanticCustomError as error:
        return Fault((*path, union.key), error.type, error.message())
    raise AssertionError("a known name has a branch")


def _follow(location: tuple[str | int, ...]) -> tuple[Path, type[Block]]:
    """Return the path of an error without the marks of branches, and the model of the mapping in which it stands."""
    path: list[str | int] = []
    model: type[Block] = Config
    branches: dict[str, type[Block] | None] = {}
    for part in location:
        if part in branches:
            model, branches = branches[str(part)] or model, {}
            continue
        path.append(part)
        branches = _branches(model, part) if part in model.model_fields else {}
        model = branches.pop("", None) or model
    return tuple(path), model


@cache
def _parts(model: type[Block], key: str) -> tuple[Any, ...]:
    """Return the rules, unions and models that say what may stand under `key`; nothing for lists."""
    field = model.model_fields[key]
    found: list[Any] = list(field.metadata)
    pending: list[Any] = [field.annotation]
    while pending:
        part = pending.pop()
        if get_origin(part) is list:
            continue
        if get_origin(part) is Annotated:
            first, *metadata = get_args(part)
            pending.append(first)
            found += metadata
        else:
            found.append(part)
            pending += get_args(part)
    return tuple(part for part in found if isinstance(part, (Rule, OneOf, Either)) or _is_model(part))


def _is_model(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, Block) and part is not Block


def _branches(model: type[Block], key: str) -> dict[str, type[Block] | None]:
    """Return the models under `key` by the mark that pydantic puts into locations; "" where it puts none."""
    found: dict[str, type[Block] | None] = {}
    for part in _parts(model, key):
        if isinstance(part, OneOf):
            found |= {f"{TAG}{name}": choice for name, choice in part.choices().items()}
        elif isinstance(part, Either):
            found |= {f"{TAG}mapping": part.model, f"{TAG}number": None}
        elif not isinstance(part, Rule):
            found[""] = part
    return found


@cache
def sweepable() -> dict[str, tuple[Rule, ...]]:
    """Return the rules of every value that an axis may set, by dotted path; several where kinds differ."""
    found: dict[str, tuple[Rule, ...]] = {}
    for key in SWEEPABLE:
        for path, rule in _leaves(Config, key, key):
            if rule not in found.setdefault(path, ()):
                found[path] += (rule,)
    return found


def _leaves(model: type[Block], key: str, path: str) -> Iterator[tuple[str, Rule]]:
    for part in _parts(model, key):
        if isinstance(part, Rule):
            yield path, part
        elif isinstance(part, Either):
            yield path, part.number
        elif isinstance(part, OneOf):
            yield f"{path}.{part.key}", Choice(tuple(part.choices()))
    for child in _branches(model, key).values():
        for name in child.model_fields if child else ():
            yield from _leaves(child, name, f"{path}.{name}") if child else ()


def expressions(block: Block, path: Path = ()) -> Iterator[tuple[Path, str, Number]]:
    """Walk over the values of a checked block that are still expressions, each with its path and rule."""
    for name in type(block).model_fields:
        value = getattr(block, name)
        if isinstance(value, Block):
            yield from expressions(value, (*path, name))
        elif isinstance(value, str):
            parts = [part.number if isinstance(part, Either) else part for part in _parts(type(block), name)]
            for rule in parts:
                if isinstance(rule, Number) and value not in rule.words:
                    yield (*path, name), value, rule
