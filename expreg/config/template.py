"""Put axes into the config: which value an axis sets, and what an expression is worth in a cell."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from expreg.config.expression import Expression, ExpressionError, parse
from expreg.config.fields import Number
from expreg.config.grid import Axis, Block, axes
from expreg.config.model import KNOWN_EXPERIMENTS, Fault, Path, expressions, sweepable, validate

BLOCKS = ("data", "network", "training")
FIELD_OF: dict[str, Path] = {"n": ("data", "n"), "d": ("data", "d"), "m": ("network", "m")}
DEFAULT_EXPRESSIONS: dict[Path, str] = {("data", "n"): "n", ("data", "d"): "n", ("network", "m"): "m"}
ALWAYS_NAMED = ("replicate",)

Row = Mapping[str, Any]


class Template(NamedTuple):
    """A checked block: plain values, and the expressions among them with their paths and rules."""

    values: dict[str, Any]
    leaves: tuple[tuple[Path, Expression, Number], ...]
    faults: tuple[Fault, ...]


def target(axis: str) -> Path | None:
    """Return the path that an axis sets: a field for n, d, m and dotted names, None for free names."""
    if axis in FIELD_OF:
        return FIELD_OF[axis]
    return tuple(axis.split(".")) if axis in sweepable() else None


def numeric_axes(grid: Block | None) -> frozenset[str]:
    """Return the names of the axes whose values are all numbers."""
    text = {
        axis.name for axis in _axes(grid) if axis.form in ("list", "scalar") and not all(map(_is_number, axis.values))
    }
    return frozenset(axis.name for axis in _axes(grid)) - text


def with_axes(given: Mapping[str, Any], row: Row, numeric: frozenset[str]) -> dict[str, Any]:
    """Return the blocks with the axes of a row put in: numbers by name, as expressions, other values as such."""
    result = {block: given[block] for block in BLOCKS if block in given}
    for name, value in row.items():
        path = target(name)
        if path is not None and path[0] in BLOCKS:
            result = _with(result, path, name if name in numeric else value)
    return result


def template(block: str, given: Mapping[str, Any]) -> Template:
    """Check one block by itself and find its expressions."""
    least = {"experiment": KNOWN_EXPERIMENTS[0], "name": "x"}
    given = {block: given[block]} if block in given else {}
    config, faults = validate(least | given, KNOWN_EXPERIMENTS)
    if config is None:
        return Template({}, (), tuple(faults))
    checked = getattr(config, block)
    leaves = tuple(((block, *path), parse(text), rule) for path, text, rule in expressions(checked))
    return Template(checked.model_dump(), leaves, ())


def names_used(blocks: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Yield every name in the expressions of the blocks, defaults included, and where the expression is."""
    kind = _lookup(blocks, ("data", "kind"))
    found: dict[Path, str] = {
        path: text for path, text in DEFAULT_EXPRESSIONS.items() if path[0] != "data" or kind != "file"
    }
    if kind == "digits":
        del found[("data", "d")]
    found |= dict(_texts(blocks, ()))
    for path, text in found.items():
        try:
            yield from ((path, name) for name in parse(text).names)
        except ExpressionError:  # reported by the rule of the field
            continue


def fill(found: Template, numbers: Mapping[Path, Any]) -> dict[str, Any]:
    """Return the values of a template with numbers in place of its expressions."""
    result = found.values
    for path, number in numbers.items():
        result = _with(result, path[1:], number)
    return result


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _texts(child, (*path, key))
    elif ".".join(map(str, path)) in sweepable():
        rules = sweepable()[".".join(map(str, path))]
        if isinstance(value, str):
            if any(isinstance(rule, Number) and value not in rule.words for rule in rules):
                yield path, value
        elif path in DEFAULT_EXPRESSIONS:
            yield path, repr(value)  # hides the default


def _axes(grid: Block | None) -> Iterator[Axis]:
    return axes(grid) if grid else iter(())


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _lookup(value: Any, path: Path) -> Any:
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _with(value: Any, path: Path, new: Any) -> dict[str, Any]:
    """Return a copy with `new` at `path`; only the mappings on the way are copied."""
    copy = dict(value) if isinstance(value, dict) else {}
    first, *rest = path
    copy[str(first)] = _with(copy.get(str(first)), tuple(rest), new) if rest else new
    return copy
