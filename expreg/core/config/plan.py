"""Turn a config into cells: resolve every setting, name each cell by its content, and describe the whole."""

from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
from typing import Any

from expreg.core.config import grid
from expreg.core.config.expression import ExpressionError
from expreg.core.config.fields import Number
from expreg.core.config.load import problem
from expreg.core.config.model import Config, Path
from expreg.core.config.resolve import (
    Cases,
    DataShape,
    canonical,
    checksums,
    grouped,
    make_resolver,
    resolve_block,
    without_paths,
)
from expreg.core.config.source import find
from expreg.core.config.template import numeric_axes, target
from expreg.core.config.walk import sweepable
from expreg.errors import InputError, Problem

Settings = dict[str, Any]
Axes = dict[str, Any]

ID_BYTES = 8
HASH_BYTES = 16
NOT_IDENTITY = {"sweep", "analysis", "execution", "description", "extends"}


def cells(config: Config, *, data_shape: DataShape | None = None) -> Iterator[tuple[Settings, Axes]]:
    """Yield (settings, axes) of every distinct cell, the last axis running fastest.

    Cells share the parts that are equal: treat the settings as read-only. `data_shape(path, options) -> (n, d)` tells
    the shape of a data file and is needed for `data: {kind: file}`. Cells that break a rule are left out, and
    `InputError` is raised at the end; `plan` finds them all beforehand.
    """
    resolver = make_resolver(config, data_shape)
    convert = _converters(config)
    fixed = {"experiment": config.experiment, "measure": list(config.measure)}
    told = {name: canonical(value) for name, value in fixed.items()}
    seen: set[str] = set()
    for row in _rows(config):
        blocks = {block: resolve_block(resolver, block, row) for block in config.blocks}
        if not all(block.sound for block in blocks.values()):
            continue
        precision = row.get("precision", config.precision)
        seed, replicate = _integer(row.get("seed", config.seed)), _integer(row.get("replicate", 0))
        texts = {**told, "precision": f'"{precision}"', "replicate": f"{replicate}", "seed": f"{seed}"}
        name = _digest(_joined(texts | {block: found.text for block, found in blocks.items()}), ID_BYTES)
        if name in seen:
            continue
        seen.add(name)
        settings: Settings = {**fixed, "seed": seed, "replicate": replicate, "precision": precision}
        settings |= {block: found.values for block, found in blocks.items()}
        yield settings, {axis: convert[axis](value) for axis, value in row.items()}
    if not seen and not resolver.cases:
        resolver.cases[("sweep",), "E-GRID"] = Cases("no cell is left: `when` holds nowhere")
    if resolver.cases:
        raise InputError([problem(config.source, fault) for fault in grouped(resolver.cases)])


def cell_id(settings: Mapping[str, Any]) -> str:
    """Return 16 hex digits that depend on the content of the settings only, not on where a data file lies."""
    named = {key: without_paths(value) if isinstance(value, Mapping) else value for key, value in settings.items()}
    return _digest(canonical(named), ID_BYTES)


def _joined(texts: Mapping[str, str]) -> str:
    """Return the canonical JSON of settings from that of its parts: what most of the time would go into."""
    return "{" + ",".join(f'"{key}":{texts[key]}' for key in sorted(texts)) + "}"


def plan(config: Config, *, data_shape: DataShape | None = None) -> dict[str, Any]:
    """Check every cell and return what plan.json holds: hash, identity, axes and the number of cells.

    Plans with the same hash differ in their grids at most, so their cells may share a directory.
    Raises `InputError` with everything that is wrong in any cell.
    """
    count = sum(1 for _ in cells(config, data_shape=data_shape))
    identity = config.model_dump(exclude=NOT_IDENTITY)
    for block in config.blocks:
        if "path" in identity[block]:
            identity[block] = without_paths({**identity[block], "sha256": _content(identity[block])})
    tree = config.source.grid
    return {
        "hash": _digest(canonical(identity), HASH_BYTES),
        "identity": identity,
        "axes": list(grid.names(tree)) if tree else [],
        "cells": count,
    }


def _content(block: Mapping[str, Any]) -> str | None:
    """Return the checksum of a block's files, None if one is not there: then an axis gives the paths that are read."""
    try:
        return checksums(block)
    except OSError:
        return None


def first_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Return the first setting in which two identities differ, as `training.tolerance 0.05 -> 0.01`."""
    for key in sorted({*one, *other}):
        before, after = one.get(key, "absent"), other.get(key, "absent")
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            inner = first_difference(before, after)
            if inner:
                return f"{key}.{inner}"
        elif canonical(before) != canonical(after):
            return f"{key} {_brief(before)} -> {_brief(after)}"
    return None


def _brief(value: Any) -> str:
    return value if isinstance(value, str) else canonical(value)[:100]


def _digest(text: str, size: int) -> str:
    return blake2b(text.encode(), digest_size=size).hexdigest()


def _integer(value: Any) -> int:
    return int(value)


def _rows(config: Config) -> Iterator[grid.Row]:
    tree = config.source.grid
    if tree is None:
        yield {}
        return
    try:
        yield from grid.rows(tree)
    except ExpressionError as error:
        path: Path = ("sweep", "when")
        mark = find(config.source.values, path)
        raise InputError(Problem("E-EXPR", f"a `when` has no value: {error}", *mark, key="sweep")) from None


def _converters(config: Config) -> dict[str, Callable[[Any], Any]]:
    """Return per axis how its values are written into rows: one type per axis, so that columns have one."""
    tree, model = config.source.grid, type(config)
    numeric = numeric_axes(tree)
    found: dict[str, Callable[[Any], Any]] = {}
    for axis in grid.axes(tree) if tree else ():
        if axis.name not in numeric:
            found[axis.name] = lambda value: value
            continue
        path = target(model, axis.name)
        rules = sweepable(model)[".".join(map(str, path))] if path else ()
        whole = any(isinstance(rule, Number) and rule.integer for rule in rules) or axis.name == "replicate"
        free_whole = not path and all(isinstance(value, int) for value in axis.values)
        kind = int if (whole or free_whole) and found.get(axis.name, int) is int else float
        found[axis.name] = kind
    return found
