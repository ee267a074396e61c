"""The sweep language: axes combined by product, zip and concat, filtered by when.

A grid is a tree of axes and blocks. Its size follows from the declared lengths alone, so it is known before any
value is made; values are made on demand and rows come one at a time.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from typing import Any

from expreg.core.config.expression import ExpressionError, parse
from expreg.core.config.fields import Fault, did_you_mean, got, is_number, show
from expreg.core.config.reader import Path, show_path

Scalar = None | bool | int | float | str
Row = dict[str, Scalar]

COMBINATIONS = ("product", "zip", "concat")
SEARCH, SPACE = "search", "space"
KEYWORDS = (*COMBINATIONS, "when", SEARCH)
GENERATORS = {"geometric": "[a, b, k]", "linear": "[a, b, k]", "range": "[a, b, step]", "count": "k"}
DISTRIBUTIONS = ("uniform", "log_uniform", "integers", "log_integers")
EVEN = ("network", "m")  # coupled initialisation needs an even width


@dataclass(frozen=True)
class Axis:
    """One swept name; `size` is its declared length, an upper bound where rounding makes values equal.

    `form` is how it was given: list, scalar, generator, search, space, or broken where a problem was reported.
    """

    name: str
    path: Path
    size: int
    make: Callable[[], Iterable[Scalar]]
    form: str

    @cached_property
    def numeric(self) -> bool:
        """Whether all values are numbers."""
        return self.form not in ("list", "scalar", SPACE) or all(map(is_number, self.values))

    @cached_property
    def values(self) -> tuple[Scalar, ...]:
        """The values in order, made at the first use."""
        return tuple(self.make())


@dataclass(frozen=True)
class Block:
    """Members combined by `product`, `zip` or `concat`; `when` keeps the rows for which it holds."""

    combine: str
    members: tuple["Axis | Block", ...]
    path: Path
    when: Callable[[Row], Any] | None = None


Node = Axis | Block


def size(node: Node) -> int:
    """Return an upper bound on the number of rows, from declared lengths only (exact without `when` and rounding)."""
    if isinstance(node, Axis):
        return node.size
    sizes = [size(member) for member in node.members]
    if node.combine == "concat":
        return sum(sizes)
    return math.prod(sizes) if node.combine == "product" else max(sizes, default=1)


def axes(node: Node | None) -> Iterator[Axis]:
    """Walk over all axes, in the order of the file; concatenated blocks may name one axis several times."""
    if isinstance(node, Axis):
        yield node
    elif node is not None:
        for member in node.members:
            yield from axes(member)


def names(node: Node | None) -> tuple[str, ...]:
    """Return the distinct axis names in the order of the file."""
    return tuple(dict.fromkeys(axis.name for axis in axes(node)))


def rows(node: Node) -> Iterator[Row]:
    """Yield the rows, the last axis running fastest; raise `ValueError` where zipped members differ in length."""
    if isinstance(node, Axis):
        yield from ({node.name: value} for value in node.values)
        return
    found = _combined(node)
    yield from found if node.when is None else filter(node.when, found)


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


def uneven_zips(node: Node) -> Iterator[Fault]:
    """Yield every zip whose members differ in length (E-GRID); ask once `size` is known to be small."""
    if isinstance(node, Axis):
        return
    for member in node.members:
        yield from uneven_zips(member)
    if node.combine == "zip" and all(axis.form != "broken" for axis in axes(node)):
        labels = [member.name if isinstance(member, Axis) else str(member.path[-1]) for member in node.members]
        try:
            lengths = [sum(1 for _ in rows(member)) for member in node.members]
        except ValueError:  # a member has an uneven zip, or a `when` without a value: reported where it stands
            return
        if len(set(lengths)) > 1:
            listed = ", ".join(f"{label} {length}" for label, length in zip(labels, lengths, strict=True))
            yield Fault(node.path, "E-GRID", f"zipped members differ in length: {listed}")


# --- reading --------------------------------------------------------------------------------------


def read(
    sweep: Any,
    integer: Callable[[str], int | None],
    constants: Mapping[str, Any],
    searched: Callable[[Path], Node] | None = None,
) -> tuple[Block, list[Fault]]:
    """Return the tree that the value of `sweep` describes, without what is wrong, and what is wrong.

    `integer(name)` says whether an axis takes whole numbers (True), even ones (2), real ones (False) or both (None);
    the `constants` may stand in conditions beside the axes; `searched(path)` is what stands for the search at its path.
    Codes: E-TYPE, E-EMPTY, E-DUP, E-UNKNOWN, E-RANGE, E-EXPR, E-GRID.
    """
    reader = _Reader(integer, constants, searched)
    if isinstance(sweep, dict):
        for key in [key for key in sweep if key not in KEYWORDS]:
            reader.fault(
                ("sweep", key),
                "E-UNKNOWN",
                f"unknown key{did_you_mean(key, KEYWORDS)}; expected product, zip, concat, search or when",
            )
        sweep = {key: value for key, value in sweep.items() if key in KEYWORDS}
    return reader.block("product", sweep, ("sweep",)), reader.faults


@dataclass
class _Reader:
    integer: Callable[[str], int | None]
    constants: Mapping[str, Any]
    searched: Callable[[Path], Node] | None = None
    faults: list[Fault] = field(default_factory=list)

    def fault(self, path: Path, code: str, message: str) -> None:
        self.faults.append(Fault(path, code, message))

    def block(self, combine: str, value: Any, path: Path) -> Block:
        members: list[Node] = []
        seen: dict[str, Path] = {}
        if not isinstance(value, dict):
            self.fault(path, "E-TYPE", f"got {show(value)}, expected a mapping of axes")
            return Block(combine, (), path)
        if not value.keys() - {"when"}:
            self.fault(path, "E-EMPTY", "no axes; expected at least 1")
            return Block(combine, (), path)
        for key in [key for key in value if key != "when"]:
            member = self.member(key, value[key], (*path, key))
            inside = {axis.name: axis.path for axis in axes(member)}
            for name in inside.keys() & seen.keys():
                self.fault(inside[name], "E-DUP", f"axis {name} is already swept at {show_path(seen[name])}")
            seen |= inside
            members += [] if member is None else [member]
        when = self.when(value["when"], seen, (*path, "when")) if "when" in value else None
        return Block(combine, tuple(members), path, when)

    def when(self, text: Any, known: Iterable[str], path: Path) -> Callable[[Row], Any] | None:
        if not isinstance(text, str):
            self.fault(path, "E-TYPE", f"got {show(text)}, expected a condition like m >= n")
            return None
        try:
            condition = parse(text, condition=True)
        except ExpressionError as error:
            self.fault(path, "E-EXPR", f"{got(text)}: {error}")
            return None
        constants, known = self.constants, {*known, *self.constants}
        for name in sorted(condition.names - known):
            hint = did_you_mean(name, known) or f"; known here: {', '.join(sorted(known))}"
            self.fault(path, "E-EXPR", f"'{name}' is not swept in this block{hint}")
        return (lambda row: condition({**constants, **row})) if constants else condition

    def member(self, key: str, value: Any, path: Path) -> Node | None:
        if key == SEARCH:
            return self.candidates(path)
        if key not in COMBINATIONS:
            broken = Axis(key, path, 1, lambda: (1,), "broken")  # so that its name is known to other checks
            return (self.generated if isinstance(value, dict) else self.listed)(key, value, path) or broken
        if key != "concat":
            return self.block(key, value, path)
        if not isinstance(value, list) or not value:
            self.fault(path, "E-TYPE", f"got {show(value)}, expected a list of blocks")
            return None
        parts = [self.block("product", part, (*path, index)) for index, part in enumerate(value)]
        return Block("concat", tuple(parts), path)

    def listed(self, name: str, value: Any, path: Path) -> Axis | None:
        values = value if isinstance(value, list) else [value]
        before = len(self.faults)
        first: dict[tuple[bool, Scalar], int] = {}
        if not values:
            self.fault(path, "E-EMPTY", "list is empty; expected at least 1 value")
        if name == "replicate" and is_number(value):
            meant = f"{{count: {value}}} for that many, or [{value}] for the one of this number"
            self.fault(path, "E-TYPE", f"got {show(value)}, expected {meant}")
        for index, item in enumerate(values):
            if isinstance(item, (list, dict)):
                self.fault((*path, index), "E-TYPE", f"got {show(item)}, expected a single value")
            elif (earlier := first.setdefault((isinstance(item, bool), item), index)) != index:
                self.fault((*path, index), "E-DUP", f"{show(item)} already at index {earlier}")
        form = "list" if isinstance(value, list) else "scalar"
        return Axis(name, path, len(values), lambda: values, form) if len(self.faults) == before else None

    def candidates(self, path: Path) -> Node | None:
        if path != ("sweep", SEARCH):
            self.fault(path, "E-GRID", "a search stands at the top of sweep, beside product")
            return None
        return None if self.searched is None else self.searched(path)

    def generated(self, name: str, value: dict[str, Any], path: Path) -> Axis | None:
        kind = next(iter(value), "")
        if len(value) != 1 or kind not in GENERATORS:
            forms = ", ".join(f"{{{generator}: {form}}}" for generator, form in GENERATORS.items())
            self.fault(path, "E-UNKNOWN", f"got keys {show(', '.join(value))}, expected one of {forms}")
            return None
        given = value[kind]
        numbers = given if isinstance(given, list) and kind != "count" else [given]
        shown = f"[{', '.join(map(show, numbers[:4]))}]"
        if len(numbers) != (1 if kind == "count" else 3) or not all(map(is_number, numbers)):
            self.fault((*path, kind), "E-TYPE", f"got {shown}, expected {GENERATORS[kind]} with numbers")
            return None
        if expected := _expected(kind, numbers):
            self.fault((*path, kind), "E-RANGE", f"got {shown}, expected {expected}")
            return None
        whole = self.integer(name)
        return Axis(name, path, _length(kind, numbers), lambda: generate(kind, numbers, whole), "generator")


# --- generators -----------------------------------------------------------------------------------


def _expected(kind: str, numbers: list[Any]) -> str:
    """Return what the numbers of a generator should be where they are not, else nothing."""
    *ends, last = numbers
    if not all(map(math.isfinite, numbers)):
        return "finite numbers"
    if kind == "range":
        leads = last != 0 and (ends[1] - ends[0]) * last >= 0
        return "" if leads else "a step that leads from a to b"
    if not isinstance(last, int) or last < 1:
        return "an integer k >= 1"
    if kind == "geometric" and min(ends) <= 0:
        return "a > 0 and b > 0"
    if ends and (last == 1) != (ends[0] == ends[1]):
        return "different ends for 2 values or more, equal ends for 1"
    return ""


def _length(kind: str, numbers: list[Any]) -> int:
    a, b, step = map(_exact, numbers) if kind == "range" else (0, numbers[-1] - 1, 1)
    return int((b - a) // step) + 1


def generate(kind: str, numbers: list[Any], whole: int | None) -> Iterable[Scalar]:
    """Return the values of a generator; rounding keeps the order and drops repeats."""
    if kind == "count":
        return range(numbers[0])
    a, b, k = numbers
    if kind == "range":
        return [_plain(_exact(a) + i * _exact(k)) for i in range(_length(kind, numbers))]
    if kind == "linear":
        values = [_plain(_exact(a) + (_exact(b) - _exact(a)) * i / max(k - 1, 1)) for i in range(k)]
    else:
        values = [_geometric(a, b, i, k) for i in range(k)]
        whole = isinstance(a, int) and isinstance(b, int) if whole is None else whole
    if whole == 2:
        # the even numbers between the ends, where there is one
        least, most = max(2, 2 * math.ceil(min(a, b) / 2)), 2 * math.floor(max(a, b) / 2)
        values = [max(least, min(2 * round(value / 2), max(least, most))) for value in values]
    elif whole:
        values = [round(value) for value in values]
    return dict.fromkeys(values)


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
