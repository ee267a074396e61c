"""The sweep language: axes combined by product, zip and concat, filtered by when.

A grid is a tree of axes and blocks. Its size follows from the declared lengths alone, so it is known before any
value is made; values are made on demand and rows come one at a time.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from typing import Any

from expreg.core.config.fields import show
from expreg.core.config.reader import Path

Scalar = None | bool | int | float | str
Row = dict[str, Scalar]
Condition = Callable[[Mapping[str, Any]], Any]
Report = Callable[[Path, str, str], None]

COMBINATIONS = ("product", "zip", "concat")
KEYWORDS = (*COMBINATIONS, "when")
GENERATORS = {"geometric": 3, "linear": 3, "range": 3, "count": 1}
EVEN_AXES = ("m", "network.m")  # coupled initialisation needs an even width


@dataclass(frozen=True)
class Axis:
    """One swept name; `size` is its declared length, an upper bound where rounding makes values equal.

    `form` is how it was given: list, scalar, generator, or broken where a problem was reported.
    """

    name: str
    path: Path
    size: int
    make: Callable[[], tuple[Scalar, ...]]
    form: str

    @cached_property
    def numeric(self) -> bool:
        """Whether all values are numbers."""
        return self.form not in ("list", "scalar") or all(map(_is_number, self.values))

    @cached_property
    def values(self) -> tuple[Scalar, ...]:
        """The values in order, made at the first use."""
        return self.make()


@dataclass(frozen=True)
class Block:
    """Members combined by `product`, `zip` or `concat`; `when` keeps the rows for which it holds."""

    combine: str
    members: tuple["Axis | Block", ...]
    path: Path
    when: Condition | None = None


Node = Axis | Block


@dataclass(frozen=True)
class Language:
    """What the caller hands over.

    `condition(text, names, path)` compiles a `when` over those axis names, or reports and returns None;
    `integer(name)` says whether an axis holds whole numbers (True), real ones (False) or is free (None);
    `report(path, code, message)` takes a problem.
    """

    condition: Callable[[str, tuple[str, ...], Path], Condition | None]
    integer: Callable[[str], bool | None]
    report: Report


def parse(sweep: Any, language: Language, path: Path = ("sweep",)) -> Block:
    """Read the value of `sweep` into a tree; problems go to `language.report`, and what they touch is left out.

    Codes: E-TYPE, E-EMPTY, E-DUP, E-UNKNOWN, E-RANGE, and what `language.condition` reports.
    """
    if isinstance(sweep, dict):
        for key in [key for key in sweep if key not in KEYWORDS]:
            language.report((*path, key), "E-UNKNOWN", "unknown key; expected product, zip, concat or when")
        sweep = {key: value for key, value in sweep.items() if key in KEYWORDS}
    return _block("product", sweep, path, language)


def size(node: Node) -> int:
    """Return an upper bound on the number of rows, from declared lengths only (exact without `when` and rounding)."""
    if isinstance(node, Axis):
        return node.size
    sizes = [size(member) for member in node.members]
    if node.combine == "concat":
        return sum(sizes)
    return math.prod(sizes) if node.combine == "product" else max(sizes, default=1)


def axes(node: Node) -> Iterator[Axis]:
    """Walk over all axes, in the order of the file; concatenated blocks may name one axis several times."""
    if isinstance(node, Axis):
        yield node
    else:
        for member in node.members:
            yield from axes(member)


def names(node: Node) -> tuple[str, ...]:
    """Return the distinct axis names in the order of the file."""
    return tuple(dict.fromkeys(axis.name for axis in axes(node)))


def rows(node: Node) -> Iterator[Row]:
    """Yield the rows, the last axis running fastest; raise `ValueError` where zipped members differ in length."""
    if isinstance(node, Axis):
        yield from ({node.name: value} for value in node.values)
        return
    found = _combined(node)
    yield from found if node.when is None else filter(node.when, found)


def check_zips(node: Node, report: Report) -> None:
    """Report every zip whose members differ in length (E-GRID); call it once `size` is known to be small."""
    if isinstance(node, Axis):
        return
    for member in node.members:
        check_zips(member, report)
    if node.combine == "zip" and all(axis.form != "broken" for axis in axes(node)):
        lengths = {_label(member): _length(member) for member in node.members}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
            report(node.path, "E-GRID", f"zipped members differ in length: {listed}")


def _label(node: Node) -> str:
    return node.name if isinstance(node, Axis) else f"{node.path[-1]}"


def _length(node: Node) -> int:
    return len(node.values) if isinstance(node, Axis) else sum(1 for _ in rows(node))


def _combined(block: Block) -> Iterator[Row]:
    if block.combine == "concat":
        return itertools.chain.from_iterable(map(rows, block.members))
    together = zip(*map(rows, block.members), strict=True) if block.combine == "zip" else _product(block.members)
    return ({name: value for part in parts for name, value in part.items()} for parts in together)


def _product(members: tuple[Node, ...]) -> Iterator[tuple[Row, ...]]:
    """Yield as `itertools.product` would, which makes all rows of its members at once."""
    if not members:
        yield ()
        return
    for row in rows(members[0]):
        for rest in _product(members[1:]):
            yield (row, *rest)


# --- reading --------------------------------------------------------------------------------------


def _block(combine: str, value: Any, path: Path, language: Language) -> Block:
    members: list[Node] = []
    condition = None
    if not isinstance(value, dict):
        language.report(path, "E-TYPE", f"got {show(value)}, expected a mapping of axes")
    elif not any(key != "when" for key in value):
        language.report(path, "E-EMPTY", "no axes; expected at least 1")
    else:
        members = [node for key in value if key != "when" for node in _member(key, value[key], (*path, key), language)]
    if combine != "concat":
        _refuse_repeats(members, language.report)
    block = Block(combine, tuple(members), path)
    if isinstance(value, dict) and "when" in value:
        condition = _when(value["when"], block, language)
    return Block(combine, block.members, path, condition)


def _when(text: Any, block: Block, language: Language) -> Condition | None:
    path = (*block.path, "when")
    if isinstance(text, str):
        return language.condition(text, names(block), path)
    language.report(path, "E-TYPE", f"got {show(text)}, expected a condition like m >= n")
    return None


def _member(key: str, value: Any, path: Path, language: Language) -> list[Node]:
    if key not in COMBINATIONS:
        broken = Axis(key, path, 1, lambda: (1,), "broken")  # so that its name is known to other checks
        return [_axis(key, value, path, language) or broken]
    if key != "concat":
        return [_block(key, value, path, language)]
    if not isinstance(value, list) or not value:
        language.report(path, "E-TYPE", f"got {show(value)}, expected a list of blocks")
        return []
    parts = tuple(_block("product", part, (*path, index), language) for index, part in enumerate(value))
    return [Block("concat", parts, path)]


def _refuse_repeats(members: list[Node], report: Report) -> None:
    seen: dict[str, Path] = {}
    for member in members:
        inside = {axis.name: axis.path for axis in axes(member)}
        for name in inside.keys() & seen.keys():
            where = ".".join(str(part) for part in seen[name])
            report(inside[name], "E-DUP", f"axis {name} is already swept at {where}")
        seen |= inside


def _axis(name: str, value: Any, path: Path, language: Language) -> Axis | None:
    if isinstance(value, dict):
        return _generated(name, value, path, language)
    values = value if isinstance(value, list) else [value]
    if not values:
        language.report(path, "E-EMPTY", "list is empty; expected at least 1 value")
        return None
    if not _check_list(values, path, language.report):
        return None
    return Axis(name, path, len(values), lambda: tuple(values), "list" if isinstance(value, list) else "scalar")


def _check_list(values: list[Any], path: Path, report: Report) -> bool:
    first: dict[Any, int] = {}
    good = True
    for index, item in enumerate(values):
        if isinstance(item, (list, dict)):
            report((*path, index), "E-TYPE", f"got {show(item)}, expected a single value")
            good = False
        elif (key := (isinstance(item, bool), item)) in first:
            report((*path, index), "E-DUP", f"{show(item)} already at index {first[key]}")
            good = False
        else:
            first[key] = index
    return good


def _generated(name: str, value: dict[str, Any], path: Path, language: Language) -> Axis | None:
    if len(value) != 1 or next(iter(value)) not in GENERATORS:
        given = show(", ".join(value))
        message = f"got keys {given}, expected {{geometric: [a, b, k]}}, {{linear: [a, b, k]}}, "
        message += "{range: [a, b, step]} or {count: k}"
        language.report(path, "E-UNKNOWN", message)
        return None
    kind, arguments = next(iter(value.items()))
    numbers = arguments if isinstance(arguments, list) and kind != "count" else [arguments]
    problem = _check_arguments(kind, numbers)
    if problem:
        language.report((*path, kind), *problem)
        return None
    length = _range_size(*numbers) if kind == "range" else numbers[-1]
    whole = language.integer(name)
    return Axis(name, path, length, lambda: tuple(_make(kind, numbers, name, whole)), "generator")


def _check_arguments(kind: str, numbers: list[Any]) -> tuple[str, str] | None:
    given = f"[{', '.join(map(show, numbers[:4]))}]"
    form = "a positive integer" if kind == "count" else f"[a, b, {'step' if kind == 'range' else 'k'}]"
    if len(numbers) != GENERATORS[kind] or any(not _is_number(x) for x in numbers):
        return "E-TYPE", f"got {given}, expected {form} with numbers"
    if not all(math.isfinite(x) for x in numbers):
        return "E-RANGE", f"got {given}, expected finite numbers"
    first, second, last = numbers[0], numbers[-2] if len(numbers) > 1 else None, numbers[-1]
    if kind == "range":
        return _check_range(first, second, last)
    if not isinstance(last, int) or last < 1:
        return "E-RANGE", f"got {show(last)} values, expected an integer >= 1"
    if kind == "geometric" and min(first, numbers[1]) <= 0:
        return "E-RANGE", f"got ends {show(first)} and {show(numbers[1])}, expected both > 0"
    if kind != "count" and (last == 1) != (first == numbers[1]):
        return (
            "E-RANGE",
            f"got {given}, expected different ends for 2 values or more, equal ends for 1",
        )
    return None


def _check_range(first: Any, second: Any, step: Any) -> tuple[str, str] | None:
    if step == 0 or (second - first) * step < 0:
        return "E-RANGE", f"step {show(step)} does not lead from {show(first)} to {show(second)}"
    return None


def _range_size(a: float, b: float, step: float) -> int:
    return int((_exact(b) - _exact(a)) // _exact(step)) + 1


def _make(kind: str, numbers: list[Any], name: str, whole: bool | None) -> Iterator[Scalar]:
    """Make the values of a generator; rounding keeps the order and drops repeats."""
    if kind == "count":
        return iter(range(numbers[0]))
    a, b, k = numbers
    if kind == "range":
        values = [_plain(_exact(a) + i * _exact(k)) for i in range(_range_size(a, b, k))]
        return iter(values)
    both_whole = isinstance(a, int) and isinstance(b, int)
    if kind == "linear":
        values = [_plain(_exact(a) + (_exact(b) - _exact(a)) * i / max(k - 1, 1)) for i in range(k)]
        rounded = bool(whole)
    else:
        values = [_geometric(a, b, i, k) for i in range(k)]
        rounded = whole if whole is not None else both_whole
    if name in EVEN_AXES:
        values = [max(2, 2 * round(value / 2)) for value in values]
    elif rounded:
        values = [round(value) for value in values]
    return iter(dict.fromkeys(values))


def _geometric(a: float, b: float, i: int, k: int) -> int | float:
    """Return a (b/a)^(i/(k-1)) with exact ends and 14 digits between, so that 0.01 is not 0.010000000000000002."""
    if i in (0, k - 1):
        return a if i == 0 else b
    return float(f"{math.exp(math.log(a) + (math.log(b) - math.log(a)) * i / (k - 1)):.14g}")


def _exact(value: float) -> Fraction:
    """Return the number as it was written: 0.1 is one tenth, so that three steps of it make 0.3."""
    return Fraction(Decimal(repr(value)))


def _plain(value: Fraction) -> int | float:
    return value.numerator if value.denominator == 1 else float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
