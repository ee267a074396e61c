"""The `search` of a sweep: along its axis only those cells run that bracket where criteria begin to hold.

Or, with the key `optuna`, one that samples (`space.py`).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

from pydantic import create_model

from expreg.core.config.fields import (
    Block,
    Fault,
    Number,
    Rule,
    Text,
    alternatives,
    did_you_mean,
    fault,
    got,
    key,
    show,
)
from expreg.core.config.grid import SEARCH, Axis, Node, generate
from expreg.core.config.model import Config, check
from expreg.core.config.reader import Path
from expreg.core.config.space import KEYS, Space, faults_of
from expreg.types import Experiment

PATH = ("sweep", "search")
PER_OCTAVE = 2


@dataclass(frozen=True)
class _Names(Rule):
    """A name, or a list of distinct names; always a list when checked."""

    def _check(self, value: Any, _context: Any) -> list[str]:
        names = value if isinstance(value, list) else [value]
        if not names:
            raise fault("E-EMPTY", "list is empty; expected at least 1 criterion")
        for index, name in enumerate(names):
            place = (index,) if isinstance(value, list) else ()
            if not isinstance(name, str):
                raise fault("E-TYPE", f"{got(name)}, expected the name of a criterion", *place)
            if name in names[:index]:
                raise fault("E-DUP", f"{show(name)} already at index {names.index(name)}", *place)
        return list(names)

    def _describe(self, _handler: Any) -> dict[str, Any]:
        name = {"type": "string"}
        return {"anyOf": [name, {"type": "array", "minItems": 1, "uniqueItems": True, "items": name}]}


_End = Annotated[float, Number(above=0, expression=False)]
_fields: dict[str, Any] = {  # `from` is no name that a class may use
    "axis": (Annotated[str, Text(least=1, most=64)], key(..., "the axis along which success begins: m")),
    "criterion": (Annotated[Any, _Names()], key(..., "what success means: a criterion, or a list of them")),
    "from": (_End, key(..., "the first candidate")),
    "to": (_End, key(..., "the last candidate")),
    "points": (
        Annotated[int | None, Number(integer=True, least=2, most=10_000, expression=False, null=True)],
        key(None, "candidates, as in {geometric: [from, to, points]}; null: two per octave"),
    ),
    "verify": (
        Annotated[float, Number(least=0, most=1, expression=False)],
        key(0.1, "share of the replicates that run every candidate: they measure how often success is not monotone"),
    ),
}
Search: Any = create_model(
    "Search",
    __base__=Block,
    __doc__="Along one axis only the cells that bracket where each criterion begins to hold, replicate by replicate.",
    __module__=__name__,
    **_fields,
)


def read(given: Any) -> tuple[Any, list[Fault]]:
    """Return the search that the value of `sweep` asks for, None without one, and what is wrong with it."""
    if not isinstance(given, dict) or "search" not in given:
        return None, []
    samples = isinstance(given["search"], dict) and not given["search"].keys().isdisjoint(KEYS)
    found, wrong = check(Space if samples else Search, given["search"], None, PATH)
    if found is None or samples or numbers(found)[0] < numbers(found)[1]:
        return found, wrong
    first, last, _ = numbers(found)
    return None, [Fault((*PATH, "to"), "E-RANGE", f"got {last:g}, expected more than from = {first:g}")]


def node(search: Any, path: Path, whole: Callable[[str], int | None]) -> Node:
    """Return what stands for a search in a grid: the axis of its candidates, or its trials."""
    if isinstance(search, Space):
        return search.node(path)
    ends = numbers(search)
    make = partial(generate, "geometric", list(ends), whole(search.axis))
    return Axis(search.axis, (*path, "axis"), ends[-1], make, SEARCH)


def trial(config: Config, values: Mapping[str, Any]) -> Config:
    """Return the config in which the search is one trial with these values."""
    tree = config.source.grid
    assert tree is not None
    members = (config.source.search.node(PATH, values) if one.path == PATH else one for one in tree.members)
    return config.with_source(replace(config.source, grid=replace(tree, members=tuple(members))))


def numbers(search: Any) -> tuple[float, float, int]:
    """Return (from, to, points) of a search."""
    first, last = getattr(search, "from"), search.to
    return first, last, search.points or max(2, round(PER_OCTAVE * abs(math.log2(last / first))) + 1)


def faults(search: Any, experiment: Experiment, config: Config, axes: Iterable[str]) -> Iterator[Fault]:
    """Yield what the experiment does not define: success along the axis, or the criteria; or the metric of trials."""
    if isinstance(search, Space):
        yield from faults_of(search, experiment, axes)
        return
    known = dict(experiment.searches(config))
    if not known:
        yield Fault(PATH, "E-AXIS", f"experiment {experiment.name} defines no success to search for; remove this key")
        return
    if search.axis not in known:
        expected = f"expected {alternatives(known)}: success is defined along no other axis of {experiment.name}"
        yield Fault((*PATH, "axis"), "E-AXIS", f"got {show(search.axis)}, {expected}")
        return
    names = known[search.axis]
    for name in search.criterion:
        if name not in names:
            hint = did_you_mean(name, names)
            message = f"got {show(name)}, expected one of {', '.join(names)}{hint}; an event must be listed in measure"
            yield Fault((*PATH, "criterion"), "E-ENUM", message)
