"""Resolve the blocks of a config for one cell, each once per distinct setting of the axes that it depends on."""

import errno
import json
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path as FilePath
from typing import Any, NamedTuple

from pydantic_core import PydanticCustomError

from expreg.core.config import grid
from expreg.core.config.expression import Expression, ExpressionError
from expreg.core.config.fields import Number, did_you_mean, show
from expreg.core.config.model import Config, Fault, Path
from expreg.core.config.problems import ATTENTION_FEATURES, ATTENTION_TOKENS
from expreg.core.config.schema import DIGITS_FEATURES
from expreg.core.config.template import Template, fill, names_used, numeric_axes, target, template, with_axes

MAX_CASES = 3  # shown per problem
CHUNK = 2**20
FILES = ("path", "target_path")
# Kinds whose size is not a setting: what follows from the packaged data.
SHAPES = {
    "digits": {"d": DIGITS_FEATURES},
    "attention": {"n": ATTENTION_TOKENS, "d": ATTENTION_FEATURES},
}

Row = Mapping[str, Any]
DataShape = Callable[[str, Mapping[str, Any]], tuple[int, int]]


class Resolved(NamedTuple):
    """A block in one cell: its values, their canonical JSON, and whether they keep every rule."""

    values: dict[str, Any]
    text: str
    sound: bool


@dataclass
class Cases:
    """One problem: what is said about the first case, where the first few are, and how many there are."""

    message: str
    places: list[str] = field(default_factory=list)
    count: int = 0


@dataclass
class Resolver:
    """What is known so far: templates, resolved blocks, files, and what was wrong in how many cases."""

    config: Config
    data_shape: DataShape | None
    numeric: frozenset[str]
    own: dict[str, tuple[str, ...]]  # per block the axes that set one of its values
    depends: dict[str, tuple[str, ...]]  # and those on which its values depend
    templates: dict[Any, Template] = field(default_factory=dict)
    blocks: dict[Any, Resolved] = field(default_factory=dict)
    files: dict[Any, tuple[str, int, int]] = field(default_factory=dict)
    cases: dict[tuple[Path, str], Cases] = field(default_factory=dict)


class _Elsewhere(Exception):
    """The value depends on one that is wrong and already reported."""


def make_resolver(config: Config, data_shape: DataShape | None) -> Resolver:
    """Return a resolver that knows nothing yet but which axes each block depends on."""
    tree = config.source.grid
    model = type(config)
    swept = {axis.name: axis.values[0] for axis in grid.axes(tree)} if tree else {}
    numeric = numeric_axes(tree)
    blocks = with_axes(model, config.source.given, swept, numeric)
    own = {block: tuple(name for name in swept if (target(model, name) or ("",))[0] == block) for block in model.blocks}
    direct = {block: {*own[block], "precision"} for block in model.blocks}
    for path, name in names_used(model, blocks):
        direct[str(path[0])].add(name)
    # A size that no axis sets comes from its field, and so from whatever that field depends on.
    shared = {name for block, _ in model.sizes.values() for name in direct[block]}
    from_fields = model.sizes.keys() - (grid.everywhere(tree) if tree else frozenset())
    depends = {
        block: tuple(name for name in swept if name in (names | shared if names & from_fields else names))
        for block, names in direct.items()
    }
    return Resolver(config, data_shape, numeric, own, depends)


def resolve_block(resolver: Resolver, block: str, row: Row) -> Resolved:
    """Return a block as it is in the cell of a row; problems go to `resolver.cases`."""
    key = (block, *map(row.get, resolver.depends[block]))
    found = resolver.blocks.get(key)
    if found is None:
        found = resolver.blocks[key] = _resolve(resolver, block, row)
    return found


def canonical(value: Any) -> str:
    """Return JSON that is equal for equal values: sorted keys, no blanks, shortest floats."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def without_paths(block: Mapping[str, Any]) -> dict[str, Any]:
    """Return a block without the places of its files where their content is named."""
    return {key: value for key, value in block.items() if key not in FILES or "sha256" not in block}


def checksums(block: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the file of a block, joined by that of its second one; raise `OSError` without a file."""
    return "+".join(_checksum(block[key]) for key in FILES if block.get(key) is not None)


def _checksum(path: str) -> str:
    if not stat.S_ISREG(FilePath(path).stat().st_mode):
        raise FileNotFoundError(errno.ENOENT, "not a file", path)
    digest = sha256()
    with open(path, "rb") as stream:
        while part := stream.read(CHUNK):
            digest.update(part)
    return digest.hexdigest()


def grouped(cases: Mapping[tuple[Path, str], Cases]) -> list[Fault]:
    """Return one fault per path and code, with the axis values of the first cases in which it occurs."""
    faults = []
    for (path, code), found in cases.items():
        more = f"; and {found.count - len(found.places)} more" if found.count > len(found.places) else ""
        where = f" (where {'; or '.join(found.places)}{more})" if found.places else ""
        faults.append(Fault(path, code, f"{found.message}{where}"))
    return faults


# --- one block ------------------------------------------------------------------------------------


def _resolve(resolver: Resolver, block: str, row: Row) -> Resolved:
    found = _template(resolver, block, row)
    faults, numbers, sound = list(found.faults), {}, True
    for path, expression, rule in found.leaves:
        try:
            numbers[path] = _evaluate(resolver, expression, rule, row, ())
        except PydanticCustomError as error:
            faults.append(Fault(path, error.type, error.message()))
        except ExpressionError as error:
            faults.append(Fault(path, "E-EXPR", f"'{expression.text}': {error}"))
        except _Elsewhere:
            sound = False
    values = fill(found, numbers)
    if sound and not faults:
        precision = row.get("precision", resolver.config.precision)
        faults = [Fault(*parts) for parts in type(resolver.config).blocks[block](values, precision)]
    _note(resolver, faults, block, row)
    if faults or not sound:
        return Resolved({}, "", sound=False)
    return Resolved(values, canonical(without_paths(values)), sound=True)


def _note(resolver: Resolver, faults: list[Fault], block: str, row: Row) -> None:
    where = ", ".join(f"{name} = {show(row[name])}" for name in resolver.depends[block] if name in row)
    for path, code, message in faults:
        case = resolver.cases.setdefault((path, code), Cases(message))
        case.count += 1
        if where and len(case.places) < MAX_CASES:
            case.places.append(where)


def _evaluate(
    resolver: Resolver, expression: Expression, rule: Number, row: Row, trail: tuple[str, ...]
) -> int | float:
    return rule.number(expression({name: _size(resolver, name, row, trail) for name in expression.names}))


def _size(resolver: Resolver, name: str, row: Row, trail: tuple[str, ...]) -> Any:
    """Return what a name is worth in the cell of a row: the axis, or else the field n, d or m."""
    if name in row:
        return row[name]
    if name == "replicate":
        return 0
    sizes = type(resolver.config).sizes
    if name not in sizes:
        raise ExpressionError(f"'{name}' has no value in this part of the sweep{did_you_mean(name, row)}")
    if name in trail:
        raise ExpressionError(f"'{name}' is neither swept nor given")
    path = sizes[name]
    found = _template(resolver, path[0], row)
    if found.faults or path[1] not in found.values:
        raise _Elsewhere
    for leaf, expression, rule in found.leaves:
        if leaf == path:
            try:
                return _evaluate(resolver, expression, rule, row, (*trail, name))
            except PydanticCustomError:
                raise _Elsewhere from None
    return found.values[path[1]]


def _template(resolver: Resolver, block: str, row: Row) -> Template:
    numeric = resolver.numeric
    own = {name: row[name] for name in resolver.own[block] if name in row}
    key = (block, *((name, None if name in numeric else value) for name, value in own.items()))
    if key not in resolver.templates:
        model = type(resolver.config)
        found = template(model, block, with_axes(model, resolver.config.source.given, own, numeric))
        if found.values:
            found = _complete(resolver, block, found)
        resolver.templates[key] = found
    return resolver.templates[key]


# --- data whose size is not a setting -------------------------------------------------------------


def _complete(resolver: Resolver, block: str, found: Template) -> Template:
    """Put in the dimensions that follow from the data, and for files the checksum of their content."""
    values = found.values
    if values.get("kind") in SHAPES:
        return found._replace(values={**SHAPES[values["kind"]], **values})
    if values.get("kind") != "file":
        return found
    options = {key: value for key, value in values.items() if key != "path"}
    key = (values["path"], canonical(options))
    try:
        if key not in resolver.files:
            resolver.files[key] = _examine(resolver, values["path"], options)
    except OSError as error:
        name = error.filename or values["path"]
        field = next((field for field in FILES if values.get(field) == name), "path")
        fault = Fault((block, field), "E-FILE", f"'{name}' cannot be read: {error.strerror or 'not a file'}")
        return Template({}, (), (fault,))
    content, n, d = resolver.files[key]
    return found._replace(values={**values, "sha256": content, "n": n, "d": d})


def _examine(resolver: Resolver, path: str, options: Mapping[str, Any]) -> tuple[str, int, int]:
    content = checksums({**options, "path": path})
    if resolver.data_shape is None:
        raise TypeError("data of kind file need a function data_shape(path, options) -> (n, d)")
    n, d = resolver.data_shape(path, options)
    return content, n, d
