"""What a run directory holds, as tables: read, status. Nothing here changes a run.

A reader needs no lock: parts are complete or absent, so it sees the cells that were finished when it looked.
"""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from expreg.core.store import live
from expreg.core.store.columns import CURVE, merged
from expreg.core.store.disk import is_locked, storage
from expreg.core.store.events import read_events as read_events  # for readers of runs
from expreg.core.store.part import PARTS, Part, Rank, decode, scan, table_of
from expreg.core.store.store import identity_hash, read_plan
from expreg.errors import InputError, Problem
from expreg.types import FAILED, TRIAL

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_BATCH = 256
"""Parts that are joined at a time: a table in ten thousand pieces takes ten times the memory of its content."""


def read(
    directory: Path | str, cells: Collection[str] | None = None, *, curves: bool = True
) -> tuple["pd.DataFrame", "pd.DataFrame", list[str]]:
    """Return (cells, curves, damaged) of a run: a row per cell, a row per cell and step, a line per file.

    A cell that was executed more than once appears with the finished row that was published first, else with its
    latest attempt.
    Events are `boolean` and their first steps `Int64`: they can be missing; floats are float64.
    The tables hold the cells of the run's plan, of which `cells` chooses some; the second table is empty
    without `curves`. InputError: there is no run. StorageError: the disk fails.
    """
    import pyarrow as pa

    table, damaged = gather(Path(directory), cells, curves=curves)
    frames = frame_of(cells_of(table)), frame_of(curves_of(table))
    del table
    pa.default_memory_pool().release_unused()  # the pool keeps several times what the frames take
    return *frames, damaged


def coverage(directory: Path | str, statuses: Iterable[str], damaged: Collection[str]) -> dict[str, Any]:
    """Return of how many planned cells there are rows, with these statuses, and how many parts are damaged."""
    plan, counts = plan_of(directory) or {}, Counter(statuses)
    known = {"cells": counts.total(), "by_status": dict(sorted(counts.items())), "planned": plan.get("cells")}
    return {**known, "search": bool(plan.keys() & {"search", "trials"}), "damaged": len(damaged)}


def coverage_text(counts: Mapping[str, Any], more: str = ",") -> str:
    """Return `177 of 320 planned cells, 2 failed, 1 damaged part` from a `coverage`, with `more` behind the cells."""
    failed = sum(counts["by_status"].get(status, 0) for status in FAILED)
    most, planned = "at most " if counts["search"] else "", counts["planned"]
    of = f"{counts['cells']} of {most}{'?' if planned is None else planned} planned cells"
    parts = f"{counts['damaged']} damaged part{'' if counts['damaged'] == 1 else 's'}"
    return f"{of}{more} {f'{failed} failed, ' if failed else ''}{parts}"


def left_out(directory: Path, line: str) -> str:
    """Return what a reader is warned of, given one of the lines on damaged files."""
    return f"{directory / PARTS}: {line}; its cells are left out, and the same command runs them again"


def status(directory: Path | str) -> dict[str, Any]:
    """Return how far a run is, an `outputs.Status`, without reading the numbers of any row."""
    directory = Path(directory)
    plan = plan_of(directory)
    best, damaged = survey(directory, plan)
    counts = Counter(row.status for row in best.values())
    failed = sum(counts[name] for name in FAILED)
    events, running = read_events(directory), is_locked(directory)
    progress = live.read(directory) if running else None
    return {
        "planned": plan.get("cells") if plan else None,
        "search": next(filter(None, map(plan.get, ("search", "trials", "until"))), None) if plan else None,
        "done": counts.total() - failed,
        "failed": failed,
        "by_status": dict(sorted(counts.items())),
        "damaged": damaged,
        "last_event": events[-1] if events else None,
        "running": running,
        "progress": progress and progress._asdict(),
    }


def plan_of(directory: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the plan of a run, None if plan.json is damaged or gone; InputError where there is no run."""
    directory = Path(directory)
    with storage(directory):
        try:
            plan = read_plan(directory)
        except ValueError:
            return None
    if plan is None and not any((directory / PARTS).glob("*.parquet")):
        raise InputError(Problem("E-RUN", "is not a run: it has no plan.json", file=str(directory)))
    return plan


class _Best(NamedTuple):
    """The row of a cell that counts, which has the least `rank`; `place` is its index among all rows."""

    rank: Rank
    status: str
    place: int


def survey(
    directory: Path,
    plan: Mapping[str, Any] | None,
    only: Collection[str] | None = None,
    visit: Callable[[Part], None] = lambda _: None,
) -> tuple[dict[str, _Best], list[str]]:
    """Return the row that counts by cell and a line per damaged file; `visit` sees each sound part.

    The cells are `only` these, else those of the plan: a directory may hold more, of a sweep that was larger once.
    """
    wanted = frozenset((plan or {}).get("ids", ()) if only is None else only)
    everything = only is None and not wanted
    best: dict[str, _Best] = {}
    damaged, offset = [], 0
    for part in scan(directory, identity_hash(plan) if plan else None):
        if part.file is None:
            damaged.append(f"{part.name}: {part.reason}")
            continue
        visit(part)
        for place, (cell, state, attempt) in enumerate(part.rows, start=offset):
            row = _Best(part.rank(state, attempt), state, place)
            if (everything or cell in wanted) and (cell not in best or row.rank < best[cell].rank):
                best[cell] = row
        offset += len(part.rows)
    return best, damaged


def gather(
    directory: Path, only: Collection[str] | None = None, *, curves: bool = True
) -> tuple["pa.Table", list[str]]:
    """Return the rows that count, sorted by cell, curves as list columns, and a line per damaged file."""
    import pyarrow as pa

    tables, axes, layouts = [table_of([])], set[str](), set[tuple[str, ...]]()

    def add(part: Part) -> None:
        assert part.file is not None
        tables.append(decode(part.file, curves=curves))
        layouts.add(tuple(tables[-1].column_names))
        axes.update(part.axes)
        if len(tables) == _BATCH:
            tables[:] = [_join(tables).combine_chunks()]

    plan = plan_of(directory) or {}
    best, damaged = survey(directory, plan or None, only, add)
    order = pa.array([best[cell].place for cell in sorted(best)], pa.int64())
    table = _join(tables).select(merged(sorted(layouts, reverse=True), axes)).take(order).combine_chunks()
    if TRIAL in plan:  # in the plan, for a row may be that of an earlier search, or of a grid
        number = dict(zip(plan["ids"], plan[TRIAL], strict=True))
        table = table.drop_columns([name for name in table.column_names if name == TRIAL])
        table = table.add_column(0, TRIAL, pa.array([number.get(cell) for cell in sorted(best)], pa.int64()))
    return table, damaged


def gathered(directory: Path, say: Callable[[str], None]) -> "pa.Table":
    """Return the rows that count, curves as list columns; `say` what is left out and how many cells there are."""
    table, damaged = gather(directory)
    for line in damaged:
        say(left_out(directory, line))
    say(coverage_text(coverage(directory, table["status"].to_pylist(), damaged)))
    return table


def _join(tables: list["pa.Table"]) -> "pa.Table":
    """Concatenate parts; a swept axis that was a number in one and text in another becomes text."""
    import pyarrow as pa

    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        number = {pa.int64(), pa.float64()}
        kinds: dict[str, set[pa.DataType]] = {}
        for field in (field for table in tables for field in table.schema if field.type != pa.null()):
            kinds.setdefault(field.name, set()).add(field.type)
        clash = {name for name, found in kinds.items() if len(found) > 1 and not found <= number}
        for index, table in enumerate(tables):
            fields = [f.with_type(pa.string()) if f.name in clash else f for f in table.schema]
            tables[index] = table.cast(pa.schema(fields))
        return pa.concat_tables(tables, promote_options="permissive")


def cells_of(table: "pa.Table") -> "pa.Table":
    """Return the columns of the cells, without curves."""
    return table.select([name for name in table.column_names if not name.startswith(CURVE)])


def curves_of(table: "pa.Table", owner: str = "cell") -> "pa.Table":
    """Return the curves, a row per step: a column of `table`, step, residual, any further; null where unknown."""
    import pyarrow as pa
    import pyarrow.compute as pc

    none = {"step": pa.int64(), "residual": pa.float64(), "linearised": pa.float64()}
    lists = {name: pa.nulls(table.num_rows, pa.list_(kind)) for name, kind in none.items()}
    lists |= {n.removeprefix(CURVE): table[n].combine_chunks() for n in table.column_names if n.startswith(CURVE)}
    lengths = pc.fill_null(lists["step"].value_lengths(), 0).to_numpy()
    rows = pa.array(np.repeat(np.arange(table.num_rows), lengths))
    columns = {owner: table[owner].take(rows)}
    for name, column in lists.items():
        columns[name] = column.flatten()
        if column.null_count:  # a list is null or as long as the steps: its k-th value is that of the k-th such row
            known = column.is_valid().take(rows)
            place = pc.if_else(known, pc.subtract(pc.cumulative_sum(known.cast("int64")), 1), None)
            columns[name] = columns[name].take(place)
    return pa.table(columns)


def frame_of(table: "pa.Table") -> "pd.DataFrame":
    """Return the table for pandas: columns with gaps, and those of steps, keep their type."""
    import pandas as pd
    import pyarrow as pa

    def series(field: "pa.Field", column: "pa.ChunkedArray") -> "pd.Series":
        gaps = column.null_count > 0 or field.name.endswith("_step")
        kinds = {pa.bool_(): pd.BooleanDtype()} | ({pa.int64(): pd.Int64Dtype()} if gaps else {})
        return column.to_pandas(types_mapper=kinds.get)

    return pd.DataFrame(dict(zip(table.column_names, map(series, table.schema, table.columns), strict=True)))
