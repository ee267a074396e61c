"""Put axes into the config: which value an axis sets, and what an expression is worth in a cell."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from expreg.core.config.expression import Expression, ExpressionError, parse
from expreg.core.config.fields import Number
from expreg.core.config.grid import Axis, Block, axes
from expreg.core.config.model import EXPERIMENTS, Config, Fault, Path
from expreg.core.config.walk import expressions, size_defaults, sweepable, validate

ALWAYS_NAMED = ("replicate",)

Model = type[Config]
Row = Mapping[str, Any]


class Template(NamedTuple):
    """A checked block: plain values, and the expressions among them with their paths and rules."""

    values: dict[str, Any]
    leaves: tuple[tuple[Path, Expression, Number], ...]
    faults: tuple[Fault, ...]


def target(model: Model, axis: str) -> Path | None:
    """Return the path that an axis sets: a field for n, d, m and dotted names, None for free names."""
    if axis in model.sizes:
        return model.sizes[axis]
    return tuple(axis.split(".")) if axis in sweepable(model) else None


def numeric_axes(grid: Block | None) -> frozenset[str]:
    """Return the names of the axes whose values are all numbers."""
    text = {
        axis.name for axis in _axes(grid) if axis.form in ("list", "scalar") and not all(map(_is_number, axis.values))
    }
    return frozenset(axis.name for axis in _axes(grid)) - text


def with_axes(model: Model, given: Mapping[str, Any], row: Row, numeric: frozenset[str]) -> dict[str, Any]:
    """Return the blocks with the axes of a row put in: numbers by name, as expressions, other values as such."""
    result = {block: given[block] for block in model.blocks if block in given}
    for name, value in row.items():
        path = target(model, name)
        if path is not None and path[0] in model.blocks:
            result = _with(result, path, name if name in numeric else value)
    return result


def template(model: Model, block: str, given: Mapping[str, Any]) -> Template:
    """Check one block by itself and find its expressions."""
    least = {"experiment": next(name for name in EXPERIMENTS if EXPERIMENTS[name] is model), "name": "x"}
    config, faults = validate(least | ({block: given[block]} if block in given else {}))
    if config is None:
        return Template({}, (), tuple(faults))
    checked = getattr(config, block)
    leaves = tuple(((block, *path), parse(text), rule) for path, text, rule in expressions(checked))
    return Template(checked.model_dump(), leaves, ())


def names_used(model: Model, blocks: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Yield every name in the expressions of the blocks, defaults included, and where the expression is."""
    found = size_defaults(model, blocks) | dict(_texts(model, blocks, ()))
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


def _texts(model: Model, value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _texts(model, child, (*path, key))
    elif rules := sweepable(model).get(".".join(map(str, path))):
        if isinstance(value, str):
            if any(isinstance(rule, Number) and value not in rule.words for rule in rules):
                yield path, value
        elif path in model.sizes.values():
            yield path, repr(value)  # hides the default


def _axes(grid: Block | None) -> Iterator[Axis]:
    return axes(grid) if grid else iter(())


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _with(value: Any, path: Path, new: Any) -> dict[str, Any]:
    """Return a copy with `new` at `path`; only the mappings on the way are copied."""
    copy = dict(value) if isinstance(value, dict) else {}
    first, *rest = path
    copy[str(first)] = _with(copy.get(str(first)), tuple(rest), new) if rest else new
    return copy
