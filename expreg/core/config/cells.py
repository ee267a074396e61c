"""Turn a config into cells: put a row of the grid into it, validate what that gives, name each cell by its content.

A block is validated once per distinct setting of the axes on which it depends: those that set one of its values, and
those whose names its expressions have asked for so far.
"""

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b, file_digest
from typing import Any, NamedTuple

from pydantic_core import PydanticCustomError

from expreg.core.config import grid
from expreg.core.config.expression import ExpressionError
from expreg.core.config.fields import Block, Fault, Number, carried, did_you_mean, fault, faults, show
from expreg.core.config.model import Config, check, inner, rules_of
from expreg.core.config.reader import Path, place, show_path
from expreg.core.config.source import Source, problem
from expreg.errors import InputError, Problem

Settings = dict[str, Any]
Axes = dict[str, Any]
Row = Mapping[str, Any]

ID_BYTES = 8
HASH_BYTES = 16
MAX_CASES = 3  # shown per problem
MAX_WRONG = 1000  # cells that break a rule; then the others are not looked at
NOT_IDENTITY = {"sweep", "analysis", "execution", "description", "extends"}


class Resolved(NamedTuple):
    """A block in one cell: its values and their canonical JSON, or nothing where it breaks a rule."""

    values: dict[str, Any]
    text: str


class Names:
    """What the names of expressions are worth in the cell of a row; remembers which were asked for."""

    def __init__(self, resolver: "Resolver", row: Row) -> None:
        self.resolver, self.row = resolver, row
        self.asked: set[str] = set()
        self.trail: list[str] = []

    def __getitem__(self, name: str) -> Any:
        self.asked.add(name)
        sizes = self.resolver.model.sizes
        if name in self.row:
            return self.row[name]
        if name == "replicate":
            return 0
        if name not in sizes:
            raise ExpressionError(f"'{name}' has no value in this part of the sweep{did_you_mean(name, self.row)}")
        if name in self.trail:
            message = f"{name} is neither swept nor given; sweep {name} or set {show_path(sizes[name])}"
            raise fault("E-MISSING", message, *sizes[name], absolute=True)
        self.trail.append(name)
        try:
            return self._size(*sizes[name])
        except PydanticCustomError as error:
            if (error.context or {})["absolute"]:
                raise
            raise faults([]) from None  # reported where it stands
        except (KeyError, OSError):  # not known yet
            raise faults([]) from None
        finally:
            self.trail.pop()

    def _size(self, block: str, field: str) -> Any:
        """Return the size that a field gives, which may be an expression of other sizes or follow from a file."""
        self.asked.update(self.resolver.own[block])
        given = self.resolver.placed(block, self.row)
        model = inner(self.resolver.model, block, given) or Block
        if field not in model.model_fields or given.get(field, model.model_fields[field].default) is None:
            return self.resolver.implied(model, given)[field]
        rules = [rule for rule in rules_of(model, field) if isinstance(rule, Number)]
        if not rules:
            raise ExpressionError(f"'{field}' is no number")
        return rules[0].check(given.get(field, model.model_fields[field].default), {"names": self})


class Resolver:
    """Blocks of a config by the axes on which they depend, and what is wrong in which cells.

    Without `files` the user's files are left alone: then what follows from them is not known.
    """

    def __init__(self, config: Config, *, files: bool = True) -> None:
        self.config, self.model, self.files = config, type(config), files
        # by block the paths that axes set in it
        self.own: dict[str, dict[str, Path]] = {block: {} for block in self.model.blocks}
        for name, (path, *_) in config.source.targets.items():
            if path and path[0] in self.own:
                self.own[str(path[0])][name] = path[1:]
        self.depends = {block: (*own, "precision") for block, own in self.own.items()}
        self.blocks: dict[str, dict[Any, Resolved | None]] = {block: {} for block in self.model.blocks}
        self.sizes: dict[Any, dict[str, Any]] = {}
        self.cases: dict[tuple[Path, str], dict[str, str]] = {}
        self.seen = ""  # words on the part of the cells that was looked at, where that was not all

    def block(self, block: str, row: Row) -> Resolved | None:
        """Return a block as it is in the cell of a row, None if it breaks a rule; problems go to `cases`."""
        key = tuple(map(row.get, self.depends[block]))
        known = self.blocks[block]
        if key not in known:
            names = Names(self, row)
            found = self._resolve(block, row, names)
            if more := names.asked.difference(self.depends[block]):
                self.depends[block] += tuple(sorted(more))
                known.clear()
                key = tuple(map(row.get, self.depends[block]))
            known[key] = found if isinstance(found, Resolved) else None
            where = ", ".join(f"{name} = {show(value)}" for name, value in row.items() if name in self.depends[block])
            for path, code, message in [] if isinstance(found, Resolved) else found:
                self.cases.setdefault((path, code), {}).setdefault(where, message)
        return known[key]

    def placed(self, block: str, row: Row) -> dict[str, Any]:
        """Return what is given for a block, with the axes of a row put in."""
        given = self.config.source.given.get(block) or {}
        for name, path in self.own[block].items():
            if name in row:
                given = put(given, path, row[name])
        return dict(given)

    def implied(self, model: type[Block], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the sizes that are no keys, read from a file once; raise `OSError` where it cannot be read."""
        if model.files and not self.files:
            return {}
        key = (model, canonical(given) if model.files else "")
        if key not in self.sizes:
            content = {"sha256": checksums(model.files, given)} if model.files else {}
            self.sizes[key] = {**content, **model.implied(given)}
        return self.sizes[key]

    def problems(self) -> list[Problem]:
        """Return one problem per place and code, with the axes of the first cells in which it occurs."""
        found = []
        for (path, code), cases in self.cases.items():
            shown = [where for where in list(cases)[:MAX_CASES] if where]
            more = f"; and {len(cases) - len(shown)} more{self.seen}" if len(cases) > len(shown) and shown else ""
            text = f" (where {'; or '.join(shown)}{more})" if shown else ""
            found.append(problem(self.config.source, Fault(path, code, next(iter(cases.values())) + text)))
        return found

    def _resolve(self, block: str, row: Row, names: Names) -> Resolved | list[Fault]:
        given = self.placed(block, row)
        context = {"names": names, "precision": row.get("precision", self.config.precision)}
        try:
            model = inner(self.model, block, given) or Block
            checked, problems = check(model, given, context, (block,))
            if checked is None:
                return problems
            values = {**self.implied(model, given), **checked.model_dump()}
        except PydanticCustomError as error:
            return [carried(error).below((block,))]
        except OSError as error:
            key = next((key for key in model.files if given.get(key) == error.filename), model.files[0])
            message = f"'{error.filename or given[key]}' cannot be read: {error.strerror or 'not a file'}"
            return [Fault((block, key), "E-FILE", message)]
        return Resolved(values, canonical(without_paths(values)))


def put(value: Any, path: Path, new: Any) -> dict[str, Any]:
    """Return a copy with `new` at `path`; only the mappings on the way are copied."""
    copy = dict(value) if isinstance(value, dict) else {}
    first, *rest = path
    copy[str(first)] = put(copy.get(str(first)), tuple(rest), new) if rest else new
    return copy


# --- cells and their names ------------------------------------------------------------------------


def cells(config: Config) -> Iterator[tuple[Settings, Axes]]:
    """Yield (settings, axes) of every distinct cell, as `named` does."""
    return ((settings, axes) for _, settings, axes in named(config))


def named(config: Config) -> Iterator[tuple[str, Settings, Axes]]:
    """Yield (id, settings, axes) of every distinct cell, the last axis running fastest.

    Cells share the parts that are equal: treat the settings as read-only. Cells that break a rule are left out, and
    `InputError` is raised at the end; `plan` finds them all beforehand.
    """
    resolver = Resolver(config)
    convert = _converters(config.source)
    fixed = {"experiment": config.experiment, "measure": list(config.measure)}
    constant = {name: canonical(value) for name, value in fixed.items()}
    order = sorted([*constant, "precision", "replicate", "seed", *config.blocks])
    seen: set[str] = set()
    wrong = 0
    for number, row in enumerate(_rows(config), 1):
        found = {block: resolver.block(block, row) for block in config.blocks}
        blocks = {block: resolved for block, resolved in found.items() if resolved is not None}
        if len(blocks) < len(found):
            wrong += 1
            if wrong == MAX_WRONG:
                resolver.seen = f" in the first {number} cells; the rest was not checked"
                break
            continue
        precision = row.get("precision", config.precision)
        seed, replicate = int(row.get("seed", config.seed)), int(row.get("replicate", 0))
        texts = {**constant, "precision": f'"{precision}"', "replicate": f"{replicate}", "seed": f"{seed}"}
        for block, resolved in blocks.items():
            texts[block] = resolved.text
        # the canonical JSON of the settings, from that of its parts: what most of the time would go into
        name = _digest("{" + ",".join([f'"{key}":{texts[key]}' for key in order]) + "}", ID_BYTES)
        if name in seen:
            continue
        seen.add(name)
        settings: Settings = {**fixed, "seed": seed, "replicate": replicate, "precision": precision}
        settings |= {block: resolved.values for block, resolved in blocks.items()}
        yield name, settings, {axis: convert[axis](value) for axis, value in row.items()}
    if not seen and not resolver.cases:
        resolver.cases[("sweep",), "E-GRID"] = {"": "no cell is left: `when` holds nowhere"}
    if resolver.cases:
        raise InputError(resolver.problems())


def cell_id(settings: Mapping[str, Any]) -> str:
    """Return 16 hex digits that depend on the content of the settings only, not on where a data file lies."""
    named = {key: without_paths(value) if isinstance(value, Mapping) else value for key, value in settings.items()}
    return _digest(canonical(named), ID_BYTES)


def plan(config: Config, count: int | None = None) -> dict[str, Any]:
    """Return what plan.json holds: hash, identity, axes and the number of cells.

    Plans with the same hash differ in their grids at most, so their cells may share a directory. `count`: the number
    of cells, where they have been checked; else they are, and `InputError` has everything that is wrong in any.
    """
    count = sum(1 for _ in named(config)) if count is None else count
    identity = config.model_dump(exclude=NOT_IDENTITY)
    for path in config.source.swept_only:
        identity = put(identity, path, None)
    for block in config.blocks:
        if files := type(getattr(config, block)).files:
            try:
                content = checksums(files, identity[block])
            except OSError:  # then an axis gives the paths that are read
                content = None
            identity[block] = without_paths({**identity[block], "sha256": content})
    return {
        "hash": _digest(canonical(identity), HASH_BYTES),
        "identity": identity,
        "axes": list(grid.names(config.source.grid)),
        "cells": count,
    }


def first_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Return the first setting in which two identities differ, as `training.tolerance 0.05 -> 0.01`."""
    for key in sorted({*one, *other}):
        before, after = one.get(key, "absent"), other.get(key, "absent")
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            if inside := first_difference(before, after):
                return f"{key}.{inside}"
        elif canonical(before) != canonical(after):
            texts = [value if isinstance(value, str) else canonical(value)[:100] for value in (before, after)]
            return f"{key} {texts[0]} -> {texts[1]}"
    return None


def canonical(value: Any) -> str:
    """Return JSON that is equal for equal values: sorted keys, no blanks, shortest floats."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def without_paths(block: Mapping[str, Any]) -> dict[str, Any]:
    """Return a block without the places of its files where their content is named."""
    return {key: value for key, value in block.items() if key not in ("path", "target_path") or "sha256" not in block}


def checksums(files: tuple[str, ...], block: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the files of a block, joined by +; raise `OSError` without a file."""
    found = []
    for path in [block[key] for key in files if block.get(key) is not None]:
        if os.path.exists(path) and not os.path.isfile(path):
            raise FileNotFoundError(errno.ENOENT, "not a file", path)
        with open(path, "rb") as stream:
            found.append(file_digest(stream, "sha256").hexdigest())
    return "+".join(found)


def _digest(text: str, size: int) -> str:
    return blake2b(text.encode(), digest_size=size).hexdigest()


def _rows(config: Config) -> Iterator[Row]:
    if config.source.grid is None:
        yield {}
        return
    try:
        yield from grid.rows(config.source.grid)
    except ExpressionError as error:
        mark = place(config.source.marks, ("sweep", "when"))
        raise InputError(Problem("E-EXPR", f"a `when` has no value: {error}", *mark, key="sweep")) from None


def _converters(source: Source) -> dict[str, Callable[[Any], Any]]:
    """Return per axis how its values are written into rows: one type per axis, so that columns have one."""
    text = {axis.name for axis in grid.axes(source.grid) if not axis.numeric}
    found: dict[str, Callable[[Any], Any]] = {name: lambda value: value for name in text}
    for axis in grid.axes(source.grid):
        if axis.name not in text:
            whole = source.targets[axis.name].whole
            if whole is None:
                whole = all(isinstance(value, int) for value in axis.values)
            found[axis.name] = int if whole and found.get(axis.name, int) is int else float
    return found
