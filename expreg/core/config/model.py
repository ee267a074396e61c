"""What every config has, whatever its experiment, and pydantic's errors in our words.

A kind of experiment derives from `Config` with blocks and sizes of its own; its record is handed to `load`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Field, PrivateAttr, ValidationError

from expreg.core.config.fields import (
    Block,
    Choice,
    Either,
    Fault,
    Number,
    OneOf,
    Options,
    Rule,
    Target,
    Text,
    did_you_mean,
    fault,
    got,
    key,
    show,
)
from expreg.core.config.reader import Path, show_path
from expreg.core.config.source import Source

_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(1, 10))}
_PATTERN = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_RULE = "allowed A-Z a-z 0-9 . _ - (1..64), first a letter or digit"

REPLICATE = Number(integer=True, least=0, most=2**31 - 1, expression=False)
FREE = Number(expression=False)

Share = Annotated[float, Number(above=0, below=1, expression=False)]
CountOrAuto = Annotated[int | str, Number(integer=True, least=1, most=2**16, expression=False, words=("auto",))]


@dataclass(frozen=True)
class _Name(Text):
    """The name of a run, which can safely name a directory."""

    def _check(self, value: Any, context: Any) -> str:
        if not isinstance(value, str):
            return super()._check(value, context)
        if not re.fullmatch(_PATTERN, value):
            strange = re.search(r"[^A-Za-z0-9._-]", value)
            raise fault("E-NAME", f"{show(value)}{f' has {strange.group()!a}' if strange else ''}; {_RULE}")
        if value.split(".")[0].lower() in _RESERVED:
            raise fault("E-NAME", f"{show(value)} is reserved on some systems; choose another name")
        return value

    def _describe(self, _handler: Any) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{_PATTERN}$"}


def _none(value: list[Any]) -> list[str]:
    if value:
        raise fault("E-ENUM", f"got {show(value[0])}, but this experiment has no events; remove this key", 0)
    return value


class Analysis(Block):
    """How rows become thresholds and intervals."""

    delta: Share = key(0.1, "allowed share of failures at the threshold width")
    confidence: Share = key(0.95, "level of the intervals")
    resamples: Annotated[int, Number(integer=True, least=1, most=10**6, expression=False)] = key(
        1000, "bootstrap resamples"
    )
    half_width: Annotated[float, Number(above=0, most=10, expression=False)] = key(
        0.1, "wanted half-width of the interval of an exponent; plan says how many replicates it needs"
    )
    until: Annotated[float | None, Number(above=0, most=10, expression=False, null=True)] = key(
        None, "half-width of the interval of the exponent at which no more replicates are added; null: run all of them"
    )


class Execution(Block):
    """Where and in what portions cells run; on CPUs only `shard` changes numbers, by rounding."""

    engine: Annotated[str, Choice(options=("local", "ray", "slurm"))] = key("local", "who runs cells")
    workers: CountOrAuto = key("auto", "processes of ray or slurm that run cells at the same time")
    options: Annotated[dict[str, Any], Options()] = key(
        {}, "of ray (address, num_cpus, num_gpus, runtime_env) or of sbatch (partition, time, gres, ...), by its names"
    )
    lanes: CountOrAuto = key("auto", "cells that run at the same time in one program")
    shard: Annotated[str, Choice(options=("cells", "neurons", "rows"))] = key(
        "cells",
        "what devices share: cells; or, one cell at a time, its neurons or its rows of A, over all processes",
    )
    max_cells: Annotated[int, Number(integer=True, least=1, most=10**7, expression=False)] = key(
        1_000_000, "larger grids are refused"
    )
    device: Annotated[str, Choice(options=("auto", "cpu", "gpu", "tpu"))] = key(
        "auto", "kind of device that runs cells; auto: what JAX picks"
    )
    devices: CountOrAuto = key("auto", "local devices to use; more than there are is refused")
    slice_seconds: Annotated[float, Number(above=0, most=3600, expression=False)] = key(
        0.25, "aimed time between two looks at the lanes"
    )
    cell_timeout: Annotated[float | None, Number(above=0, expression=False, null=True)] = key(
        None, "seconds after which a cell is given up with status timeout; null never does"
    )
    checkpoint_seconds: Annotated[float | None, Number(above=0, expression=False, null=True)] = key(
        300.0, "seconds after which a running cell is saved, and again; null never saves"
    )


class Curve(Block):
    """At which steps the residual is stored."""

    points: Annotated[int, Number(integer=True, least=2, most=10_000)] = key(48, "number of stored steps")
    spacing: Annotated[str, Choice(options=("logarithmic", "regular"))] = key("logarithmic", "how they lie")


class Config(Block):
    """A config of expreg: which quantity is measured, over which grid."""

    blocks: ClassVar[tuple[str, ...]] = ()
    """The blocks of the experiment; a cell's settings have exactly these."""
    sizes: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """The short names of expressions and axes, and the fields that they mean."""

    experiment: str = key(..., "what a cell computes")
    name: Annotated[str, _Name()] = key(..., f"name of the run; {_RULE}")
    description: Annotated[str, Text()] = key("", "a sentence for the report")
    seed: Annotated[int, Number(integer=True, least=0, most=2**32 - 1, expression=False)] = key(
        0, "all randomness follows from it and the replicate"
    )
    precision: Annotated[str, Choice(options=("f32", "f64"))] = key("f32", "floating point numbers of a cell")
    sweep: Any = key(None, "the grid of cells")
    measure: Annotated[list[Any], AfterValidator(_none)] = Field(
        default_factory=list, description="events to record; this experiment has none"
    )
    analysis: Analysis = key({}, "statistics over the rows")
    execution: Execution = key({}, "where and how cells run")
    extends: Annotated[str | None, Text(least=1, most=1024, null=True)] = key(
        None, "a config to start from, relative to this file"
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


# --- what stands where ----------------------------------------------------------------------------


def rules_of(model: type[Block], name: str) -> list[Rule]:
    """Return the rules of a field."""
    return [part for part in model.model_fields[name].metadata if isinstance(part, Rule)]


def inner(model: type[Block], name: str, given: Any) -> type[Block] | None:
    """Return the model of the mapping at a field, for a union that of its kind; None for a plain value."""
    for rule in rules_of(model, name):
        if isinstance(rule, OneOf):
            return rule.choose({} if given is None else given)
        if isinstance(rule, Either):
            return rule.model if isinstance(given, Mapping) else None
    annotation = model.model_fields[name].annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, Block) else None


def leaves(model: type[Config], keys: Iterable[str] | None = None) -> dict[str, tuple[Rule, ...]]:
    """Return the rules of every value by dotted path, several where kinds differ: of those that an axis may set.

    Or of all below some `keys` of the config.
    """
    found: dict[str, tuple[Rule, ...]] = {}

    def walk(block: type[Block], names: Iterable[str], prefix: str) -> None:
        for name in names:
            path, below = f"{prefix}{name}", [inner(block, name, None)]
            for rule in rules_of(block, name):
                if isinstance(rule, OneOf):
                    below = list(rule.choices().values())
                    path, rule = f"{prefix}{name}.{rule.key}", Choice(options=tuple(rule.choices()))
                elif isinstance(rule, Either):
                    below, rule = [rule.model], rule.number
                if rule not in found.setdefault(path, ()):
                    found[path] += (rule,)
            for child in below:
                if child is not None:
                    walk(child, child.model_fields, f"{prefix}{name}.")

    walk(model, ("seed", "precision", *model.blocks) if keys is None else keys, "")
    return found


def target(model: type[Config], known: Mapping[str, tuple[Rule, ...]], axis: str) -> Target:
    """Return what an axis sets: a field for sizes and the dotted names of `leaves`, else a name of expressions."""
    path = model.sizes.get(axis) or (tuple(axis.split(".")) if axis in known else None)
    if path is None:
        return Target(None, (REPLICATE,), True) if axis == "replicate" else Target(None, (FREE,), None)
    rules = known[show_path(path)]
    return Target(path, rules, any(isinstance(rule, Number) and rule.integer for rule in rules))


# --- checking -------------------------------------------------------------------------------------


def check(model: type[Block], given: Any, context: Any, prefix: Path = ()) -> tuple[Any, list[Fault]]:
    """Check a mapping; return it, or None and everything that is wrong with it."""
    try:
        return model.model_validate(given, context=context), []
    except ValidationError as error:
        return None, [
            found for details in error.errors(include_url=False) for found in _translate(details, model, given, prefix)
        ]


def _translate(details: Any, model: type[Block], given: Any, prefix: Path) -> list[Fault]:
    kind, path, value = details["type"], details["loc"], details["input"]
    if kind == "expreg":
        ctx = details["ctx"]
        return ctx["faults"] if ctx["absolute"] else [found.below((*prefix, *path)) for found in ctx["faults"]]
    where = (*prefix, *path)
    if kind == "extra_forbidden":
        for part in path[:-1]:
            given = given.get(part)
            model = inner(model, str(part), given) or model
        fields = model.model_fields
        names = [fields[key].default for key in ("kind", "name") if key in fields]
        named = f"for {names[0]}" if names and isinstance(names[0], str) else "here"
        hint = did_you_mean(path[-1], fields) or f"; known {named}: {', '.join(fields)}"
        return [Fault(where, "E-UNKNOWN", f"unknown key{hint}")]
    if kind == "missing":
        return [Fault(where, "E-MISSING", "required key missing")]
    return [Fault(where, "E-TYPE", f"{got(value)}, expected {'a list' if kind == 'list_type' else 'a mapping'}")]
