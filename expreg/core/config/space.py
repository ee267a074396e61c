"""The `search` of a sweep that samples: trials from a space of settings, in batches, each chosen from earlier ones."""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Self

from pydantic import create_model
from pydantic_core import PydanticCustomError

from expreg.core.config.fields import (
    Block,
    Choice,
    Fault,
    Number,
    Rule,
    Text,
    carried,
    did_you_mean,
    fault,
    faults,
    got,
    is_number,
    key,
)
from expreg.core.config.grid import DISTRIBUTIONS, SPACE, Axis
from expreg.core.config.grid import Block as Grid
from expreg.types import TRIAL, Experiment

KEYS = ("optuna", "space", "prune")
SAMPLERS = ("tpe", "random", "qmc")
_Trials = Annotated[int, Number(integer=True, least=1, most=10**6, expression=False)]
_Length = Annotated[int, Number(integer=True, least=1, most=10**9, expression=False)]


class Optuna(Block):
    """The sampler of optuna: how many trials, and what is best."""

    trials: _Trials = key(..., "number of settings that are tried")
    batch: _Trials = key(64, "trials that run at the same time, before the sampler learns their results")
    sampler: Annotated[str, Choice(options=SAMPLERS)] = key("tpe", "how the next settings are chosen")
    metric: Annotated[str | None, Text(least=1, most=64, null=True)] = key(
        None, "the column to optimise; null: the result by which the experiment compares settings"
    )
    direction: Annotated[str | None, Choice(options=("minimize", "maximize"), null=True)] = key(
        None, "which values are better; null: minimize, unless the metric is one of which more is better"
    )


_prune: dict[str, Any] = {  # `from` is no name that a class may use
    "axis": (Annotated[str, Text(least=1, most=64)], key(..., "the length of a run, such as training.steps")),
    "from": (_Length, key(..., "the least length at which trials are compared")),
    "to": (_Length, key(..., "the whole length; those below are this over powers of `factor`")),
    "factor": (
        Annotated[int, Number(integer=True, least=2, most=1000, expression=False)],
        key(3, "the best 1/factor of the trials continue, at `factor` times the length"),
    ),
}
_Prune: Any = create_model(
    "Prune", __base__=Block, __doc__="Successive halving: only the best trials of a batch run on.", **_prune
)


@dataclass(frozen=True)
class Distribution:
    """Where the values of a setting come from: numbers from `low` to `high`, or `choices`."""

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: int = 0  # of whole numbers, 0 for real ones
    choices: tuple[Any, ...] = ()

    def draws(self, count: int) -> list[Any]:
        """Return values at random, the ends or the choices before all others."""
        rng = random.Random(0)
        if self.choices:
            return [*self.choices, *(rng.choice(self.choices) for _ in range(count))][:count]
        first, last = (math.log(end) if self.log else end for end in (self.low, self.high))
        found = (first + (last - first) * rng.random() for _ in range(count))
        values = (math.exp(value) if self.log else value for value in found)
        return [self.low, self.high, *map(self.inside, values)][:count]

    def inside(self, value: Any) -> Any:
        """Return the nearest value that the distribution has."""
        if self.choices:
            return value
        near = self.step * round(value / self.step) if self.step else value
        return min(max(near, self.low), self.high)

    def __str__(self) -> str:
        """Return it in a few words."""
        if self.choices:
            return ", ".join(map(str, self.choices))
        kind = "whole numbers " if self.step else ""
        return f"{kind}from {self.low:g} to {self.high:g}{', logarithmic' if self.log else ''}"


@dataclass(frozen=True)
class _Space(Rule):
    """A mapping of names to distributions: `{uniform: [a, b]}` and its like, or a list of values."""

    def _check(self, value: Any, _context: Any) -> dict[str, Distribution]:
        if not isinstance(value, Mapping) or not value:
            raise fault("E-TYPE", f"{got(value)}, expected a mapping of at least 1 name to a distribution")
        found, wrong = {}, []
        for name, given in value.items():
            try:
                found[name] = _distribution(given)
            except PydanticCustomError as error:
                wrong.append(carried(error).below((name,)))
        if wrong:
            raise faults(wrong)
        return found

    def _describe(self, _handler: Any) -> dict[str, Any]:
        ends = {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "number"}}
        one = {"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": False}
        values = {"type": "array", "minItems": 1, "items": {"type": ["number", "string", "boolean", "null"]}}
        forms = [{**one, "properties": dict.fromkeys(DISTRIBUTIONS, ends)}, values]
        return {"type": "object", "minProperties": 1, "additionalProperties": {"anyOf": forms}}


def _distribution(given: Any) -> Distribution:
    if isinstance(given, list):
        plain = not any(isinstance(value, list | dict) for value in given)
        if not plain or not given or len({(type(value), value) for value in given}) < len(given):
            raise fault("E-TYPE", f"{got(given)}, expected different values, each of them single")
        return Distribution(choices=tuple(given))
    kind = next(iter(given), "") if isinstance(given, Mapping) else ""
    if kind not in DISTRIBUTIONS or len(given) != 1:
        forms = ", ".join(f"{{{known}: [a, b]}}" for known in DISTRIBUTIONS)
        hint = did_you_mean(kind, DISTRIBUTIONS)
        raise fault("E-TYPE", f"{got(given)}, expected a list of values or one of {forms}{hint}")
    ends, log, whole = given[kind], kind.startswith("log_"), kind.endswith("integers")
    if not isinstance(ends, list) or len(ends) != 2 or not all(map(is_number, ends)):
        raise fault("E-TYPE", f"{got(ends)}, expected two numbers [a, b]", kind)
    rule = Number(integer=whole, above=0 if log else None, expression=False)
    try:
        low, high = map(rule.check, ends)
    except PydanticCustomError as error:
        raise faults([carried(error).below((kind,))]) from None
    if low >= high:
        raise fault("E-RANGE", f"got [{low:g}, {high:g}], expected a < b", kind)
    return Distribution(low, high, log, int(whole))


class Space(Block):
    """Trials from a space of settings, in batches; the sampler chooses each batch from the results of earlier ones."""

    optuna: Optuna = key(..., "the sampler")
    space: Annotated[Any, _Space()] = key(..., "settings by name, each with a distribution or a list of values")
    prune: _Prune | None = key(None, "successive halving within each batch; null: all trials run their whole length")

    @property
    def lengths(self) -> list[int]:
        """The lengths at which trials are compared, in order; none without `prune`."""
        if self.prune is None:
            return []
        first, last = getattr(self.prune, "from"), self.prune.to
        rungs = range(math.floor(math.log(last / first, self.prune.factor) + 1e-9), 0, -1)
        return [round(last / self.prune.factor**rung) for rung in rungs] + [last]

    @property
    def runs(self) -> int:
        """The largest number of pairs of a trial and a length."""
        whole, last = divmod(self.optuna.trials, self.optuna.batch)
        factor = self.prune.factor if self.prune else 1
        rungs = range(max(len(self.lengths), 1))
        sizes = ((whole, self.optuna.batch), (1, last))
        return sum(count * -(-size // factor**rung) for count, size in sizes for rung in rungs)

    def even(self, whole: Callable[[str], int | None]) -> Self:
        """Return the search in which settings that take even numbers only, for which `whole(name)` is 2, have these."""
        space = {
            name: replace(of, low=2 * math.ceil(of.low / 2), high=2 * math.floor(of.high / 2), step=2)
            if of.step and whole(name) == 2
            else of
            for name, of in self.space.items()
        }
        return self.model_copy(update={"space": space})

    def examples(self) -> Iterator[dict[str, Any]]:
        """Yield settings such as trials may have, about as many of each length as will run."""
        count = self.optuna.trials
        drawn = {name: of.draws(count) for name, of in self.space.items()}
        for number in range(count):
            values = {name: of[number] for name, of in drawn.items()}
            if self.prune is None:
                yield values
                continue
            for rung, length in enumerate(self.lengths):
                if number % self.prune.factor**rung == 0:
                    yield {**values, self.prune.axis: length}

    def node(self, path: tuple[Any, ...], values: Mapping[str, Any] | None = None) -> Grid:
        """Return the block of a grid that stands for the trials: one with these values, else all values to check."""
        listed = {name: [value] for name, value in (values or {}).items()}
        if values is None:
            count = max(3, *(len(of.choices) for of in self.space.values()))
            listed = {name: of.draws(count) for name, of in self.space.items()}
            listed |= {self.prune.axis: (self.lengths * count)[:count]} if self.prune else {}
        places = {name: (*path, "space", name) if name in self.space else (*path, "prune", "axis") for name in listed}
        axes = (Axis(name, places[name], len(of), partial(list, of), SPACE) for name, of in listed.items())
        return Grid("zip", tuple(axes), path)


def faults_of(search: Space, experiment: Experiment, axes: Iterable[str]) -> Iterator[Fault]:
    """Yield what is wrong between the keys of a search, the experiment, and the axes of the sweep."""
    numbers = [column.name for column in experiment.columns() if column.type in ("float64", "int64")]
    metric, path = search.optuna.metric, ("sweep", "search")
    if metric is None and experiment.final not in numbers:
        yield Fault((*path, "optuna", "metric"), "E-MISSING", f"{experiment.name} has no default; expected a column")
    elif metric is not None and metric not in (*numbers, "steps", "seconds"):
        expected = f"expected a column of numbers{did_you_mean(metric, [*numbers, 'steps'])}"
        yield Fault((*path, "optuna", "metric"), "E-ENUM", f"got '{metric}', {expected}")
    if TRIAL in axes:
        place = (*path, "space", TRIAL) if TRIAL in search.space else path
        yield Fault(place, "E-AXIS", f"'{TRIAL}' is the column with the number of the trial; choose another name")
    if search.prune is None:
        return
    if search.prune.axis in search.space:
        yield Fault((*path, "prune", "axis"), "E-DUP", f"{search.prune.axis} is in the space already")
    first, least = getattr(search.prune, "from"), getattr(search.prune, "from") * search.prune.factor
    if search.prune.to < least:
        message = f"got {search.prune.to}, expected at least factor * from = {search.prune.factor} * {first} = {least}"
        yield Fault((*path, "prune", "to"), "E-RANGE", message)
