"""Cells that have finished in other runs: their rows are copied, with where they came from, and do not run again."""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expreg.core.engine import manifest
from expreg.core.engine.backend import with_axes
from expreg.core.engine.search import Cells
from expreg.core.store import table
from expreg.core.store.columns import CURVE, check_row, types_of
from expreg.core.store.part import PARTS
from expreg.core.store.store import PLAN, Store
from expreg.errors import InputError, Problem, StorageError
from expreg.types import FAILED, Experiment, Row

if TYPE_CHECKING:
    import pyarrow as pa

_LISTS = ("earlier", "reused", "compilations")
_BATCH = 4096
"""Rows that are in memory, and in one part, at a time."""


def runs(given: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], directory: Path) -> list[Path]:
    """Return the run directories that paths and patterns name, in this order, without `directory` itself.

    Raises InputError for a pattern that matches none.
    """
    found: dict[Path, None] = {}
    for pattern in map(str, [given] if isinstance(given, str | os.PathLike) else given):
        place = os.path.expanduser(pattern)
        paths = map(Path, [place] if os.path.exists(place) else sorted(glob(place)))
        matched = [path for path in paths if os.path.exists(path / PLAN) or any((path / PARTS).glob("*.parquet"))]
        if not matched:
            raise InputError(Problem("E-RUN", f"{pattern!r} matches no run directory", key="--reuse"))
        found |= dict.fromkeys(matched)
    return [path for path in found if path.resolve() != directory.resolve()]


def take(
    store: Store, experiment: Experiment, plan: Mapping[str, Any], cells: Cells, sources: Sequence[Path]
) -> str | None:
    """Copy the rows of `cells` that have finished in other runs; return a line about it, None if none was missing.

    Rows keep the device, the versions and the time that they have. Left out are rows that do not fit the columns of
    the experiment, damaged parts, and runs that other functions or modules of the user's own have made.
    """
    waiting = sum(cell not in store.finished for cell in cells)
    taken: list[dict[str, Any]] = []
    for source in sources:
        before = len(store.finished)
        for batch in _read(source, experiment, plan, [cell for cell in cells if cell not in store.finished]):
            store.commit(_fitting(batch.to_pylist(), experiment, cells))
        if count := len(store.finished) - before:
            store.event("reused", run=str(source), cells=count)
            made = {name: value for name, value in manifest.read(source).items() if name not in _LISTS}
            taken.append({**made, "run": str(source), "cells": count})
    if taken:
        record = manifest.begun(store.directory, 0, experiment.remembered.get("source"))
        store.write(manifest.NAME, manifest.text(manifest.ended(record, "finished", reused=taken)))
    places = ", ".join(one["run"] for one in taken) or "other runs"
    return f"{sum(one['cells'] for one in taken):,} of {waiting:,} cells taken from {places}" if waiting else None


def _read(source: Path, experiment: Experiment, plan: Mapping[str, Any], cells: list[str]) -> "list[pa.RecordBatch]":
    """Return the rows of cells in another run; warn of what cannot be taken."""
    try:
        planned = table.plan_of(source) or {"identity": {"experiment": experiment.name}}
        if not cells or planned["identity"].get("experiment") != experiment.name:
            return []
        found, damaged = table.gather(source, cells)
    except StorageError as error:
        warnings.warn(f"{source}: no row is taken: {error}", stacklevel=6)
        return []
    for line in damaged:
        warnings.warn(f"{source}: {line}; its rows are not taken", stacklevel=6)
    if found.num_rows and not _same_code(source, experiment, plan, planned):
        other = "comes from other versions of your functions, or from unknown ones"
        warnings.warn(f"{source}: {other}; none of its rows is taken", stacklevel=6)
        return []
    return found.to_batches(max_chunksize=_BATCH)


def _same_code(source: Path, experiment: Experiment, *plans: Mapping[str, Any]) -> bool:
    """Return whether all executions of a run had the user's functions, or its plan the modules, of this one."""
    if functions := experiment.remembered.get("source"):
        record = manifest.read(source)
        return {one.get("functions") for one in (record, *record.get("earlier", []))} == {functions}
    ours, theirs = ({(one["name"], one["sha256"]) for one in plan.get("modules", ())} for plan in plans)
    return ours <= theirs and all(checksum for _, checksum in ours)


def _fitting(rows: Iterable[Row], experiment: Experiment, cells: Cells) -> Iterator[Row]:
    """Yield the finished rows whose columns are those of the experiment, with the axes of this run."""
    types = types_of(experiment.columns())
    for row in rows:
        known = {name: value for name, value in row.items() if name in types or name.startswith(CURVE)}
        with suppress(ValueError):
            check_row(known, types)
            if known["status"] not in FAILED:
                yield with_axes(known, *cells[row["cell"]])
