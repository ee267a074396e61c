"""The whole config, one model per experiment: the keys that all share, and the blocks of its own.

To add an experiment: a model here with its blocks, sizes and events, one line in EXPERIMENTS, and one in
`expreg.experiment`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple, Self

from pydantic import AfterValidator, Field, PrivateAttr, WithJsonSchema, field_validator

from expreg.core.config.fields import Block, Choice, Number, Rule, Text, fault, got, show
from expreg.core.config.grid import COMBINATIONS, GENERATORS
from expreg.core.config.grid import Block as Grid
from expreg.core.config.problems import DrawnContext, Gaussian, InContextProblem, RegressionProblem, Solver
from expreg.core.config.reader import Mark
from expreg.core.config.rules import (
    check_data,
    check_in_context,
    check_network,
    check_problem,
    check_solver,
    check_training,
)
from expreg.core.config.schema import Analysis, Data, Execution, Network, Sphere, Training

EVENTS = ("E0", "E1", "E1s", "E1m", "E2", "E3", "E4", "E5", "Ecert")
EVENTS_AT_START = ("E1", "E1s", "E1m", "Ecert")
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(1, 10))}
_RULE = "allowed A-Z a-z 0-9 . _ - (1..64), first a letter or digit"

Path = tuple[str | int, ...]
Check = Callable[[Mapping[str, Any], str], Iterator[tuple[Path, str, str]]]


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


def _none(value: list[Any]) -> list[str]:
    if value:
        raise fault("E-ENUM", f"got {show(value[0])}, but this experiment has no events; remove this key", 0)
    return value


Events = Annotated[list[Annotated[str, Choice(EVENTS)]], AfterValidator(_in_order)]
EventsAtStart = Annotated[list[Annotated[str, Choice(EVENTS_AT_START)]], AfterValidator(_in_order)]
NoEvents = Annotated[list[Any], AfterValidator(_none)]


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

    blocks: ClassVar[Mapping[str, Check]] = {}
    """The blocks of the experiment, each with the rules between its values; a cell's settings have exactly these."""
    sizes: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """The short names of expressions and axes, and the fields that they mean."""

    experiment: str = Field(description="what a cell computes")
    name: Annotated[str, _Name()] = Field(description=f"name of the run; {_RULE}")
    description: Annotated[str, Text()] = Field(default="", description="a sentence for the report")
    seed: Annotated[int, Number(integer=True, least=0, most=2**32 - 1, expression=False)] = Field(
        default=0, description="all randomness follows from it and the replicate"
    )
    precision: Annotated[str, Choice(("f32", "f64"))] = Field(
        default="f32", description="floating point numbers of a cell"
    )
    sweep: Annotated[Any, WithJsonSchema(_sweep_schema())] = Field(default=None, description="the grid of cells")
    measure: NoEvents = Field(default_factory=list, description="events to record; this experiment has none")
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
    def _check_experiment(cls, value: Any) -> str:
        return Choice(tuple(EXPERIMENTS)).check(value)


class TrainingConfig(Config):
    """An experiment that trains networks."""

    blocks: ClassVar = {"data": check_data, "network": check_network, "training": check_training}
    sizes: ClassVar = {"n": ("data", "n"), "d": ("data", "d"), "m": ("network", "m")}

    data: Data = Field(default_factory=Sphere, description="samples and labels")
    network: Network = Field(default_factory=Network, description="the network")
    training: Training = Field(default_factory=Training, description="optimizer, step size and stopping rules")
    measure: Events = Field(default_factory=lambda: list(EVENTS), description="events to record (C.27)")


class ConcentrationConfig(Config):
    """The experiment that measures networks at their start, without training them."""

    blocks: ClassVar = {"data": check_data, "network": check_network}
    sizes: ClassVar = {"n": ("data", "n"), "d": ("data", "d"), "m": ("network", "m")}

    data: Data = Field(default_factory=Sphere, description="samples and labels")
    network: Network = Field(default_factory=Network, description="the network")
    measure: EventsAtStart = Field(default_factory=lambda: list(EVENTS_AT_START), description="events to record (C.27)")


class RegressionConfig(Config):
    """The experiment that solves regression problems."""

    blocks: ClassVar = {"problem": check_problem, "solver": check_solver}
    sizes: ClassVar = {"n": ("problem", "n"), "d": ("problem", "d")}

    problem: RegressionProblem = Field(default_factory=Gaussian, description="A, b and the loss")
    solver: Solver = Field(default_factory=Solver, description="how it is solved, and when the solver stops")


class InContextConfig(Config):
    """The experiment that compares a step of the weights with a shift of the labels."""

    blocks: ClassVar = {"problem": check_in_context}
    sizes: ClassVar = {"n": ("problem", "n"), "d": ("problem", "d")}

    problem: InContextProblem = Field(default_factory=DrawnContext, description="A, b, x and what moves")


EXPERIMENTS: Mapping[str, type[Config]] = {
    "threshold": TrainingConfig,
    "convergence": TrainingConfig,
    "concentration": ConcentrationConfig,
    "regression": RegressionConfig,
    "in_context": InContextConfig,
}
