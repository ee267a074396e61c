"""What a run directory holds, as tables: read, query, export, compare, status. Nothing here changes a run.

A reader needs no lock: parts are complete or absent, so it sees the cells that were finished when it looked.
"""

import io
import json
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from expreg.core.store.columns import CURVE, merged
from expreg.core.store.disk import is_locked, read_bytes, replace, storage
from expreg.core.store.part import PARTS, decode, scan, table_of
from expreg.core.store.store import EVENTS, QUARANTINE, identity_hash, leaves, read_plan
from expreg.errors import InputError, Problem
from expreg.types import FAILED

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
# Set after our tables are loaded, before the user's SQL: no file, no network, no extension, no way back.
_SEALED = (
    "SET python_enable_replacements = false",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET allow_community_extensions = false",
    "SET temp_directory = ''",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)
_BATCH = 256
"""Parts that are joined at a time: a table in ten thousand pieces takes ten times the memory of its content."""


def read(
    directory: Path | str, cells: Collection[str] | None = None, *, curves: bool = True
) -> tuple["pd.DataFrame", "pd.DataFrame", list[str]]:
    """Return (cells, curves, damaged) of a run: a row per cell, a row per cell and step, a line per file.

    A cell that was executed more than once appears with its finished row, else with its latest attempt.
    Events are `boolean` and their first steps `Int64`: they can be missing; floats are float64.
    The tables hold the cells of the run's plan, of which `cells` chooses some; the second table is empty
    without `curves`. InputError: there is no run. StorageError: the disk fails.
    """
    table, damaged = _gather(Path(directory), cells, curves=curves)
    return _frame(_without_curves(table)), _frame(_curves(table)), damaged


def query(directory: Path | str, sql: str) -> "pd.DataFrame":
    """Return the answer of DuckDB to `sql` over exactly two tables, `cells` and `curves`.

    The SQL reaches no file and no network. Raises InputError with DuckDB's first line if it fails.
    """
    import duckdb

    table, _ = _gather(Path(directory))
    with duckdb.connect(":memory:") as connection:
        for name, content in (("cells", _without_curves(table)), ("curves", _curves(table))):
            connection.register("given", content)
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM given")
            connection.unregister("given")
        for setting in _SEALED:
            connection.execute(setting)
        try:
            answer = connection.sql(sql)
            if answer is None:
                raise InputError(Problem("E-SQL", "the query returns no table; write SELECT ... FROM cells"))
            return _frame(_without_decimals(answer.to_arrow_table()))
        except duckdb.Error as error:
            raise InputError(Problem("E-SQL", str(error).split("\n", 1)[0])) from error


def export(directory: Path | str, file: Path | str) -> Path:
    """Write the rows of a run to `file`, by its suffix, whole or not at all.

    .csv      the cells; text that a spreadsheet would take for a formula gets a leading '
    .parquet  the cells, with the curves as list columns
    .npz      one array per column of the cells (numbers with gaps are float64 with nan), and the curves as
              `curve_row` (index into the cells) and `curve_<column>`; loads without pickle
    """
    writers = {".csv": _csv, ".parquet": _parquet, ".npz": _npz}
    directory, file = Path(directory), Path(file)
    if file.suffix.lower() not in writers:
        allowed = ", ".join(writers)
        raise InputError(Problem("E-SUFFIX", f"got {file.suffix!r}, expected one of {allowed}", file=str(file)))
    parent = file.resolve().parent
    if not parent.is_dir() or file.is_dir():
        raise InputError(Problem("E-PATH", "is a directory or lies in one that does not exist", file=str(file)))
    for kept in (PARTS, QUARANTINE):
        if parent.is_relative_to((directory / kept).resolve()):
            raise InputError(Problem("E-PATH", f"{kept}/ belongs to the run; write elsewhere", file=str(file)))
    table, _ = _gather(directory)
    replace(file, writers[file.suffix.lower()](table))
    return file


def compare(directories: Sequence[Path | str]) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """Return what differs between runs, one column per run: (settings by path, statistics by name).

    Settings come from the plan (identity and axes), counts of statuses from the rows, thresholds (medians)
    and exponents from summary.json where there is one.
    """
    folders = [Path(directory) for directory in directories]
    names = [folder.name for folder in folders]
    labels = names if len(set(names)) == len(names) else [str(folder) for folder in folders]
    settings, statistics = (
        [_settings(folder) for folder in folders],
        [_statistics(folder) for folder in folders],
    )
    paths = [path for path in _order(settings) if len({repr(column.get(path)) for column in settings}) > 1]
    return _side_by_side(labels, settings, paths), _side_by_side(labels, statistics, _order(statistics))


def status(directory: Path | str) -> dict[str, Any]:
    """Return how far a run is, as JSON-able numbers and lines, without reading the numbers of any row.

    Keys: planned (None if plan.json is damaged), done (need no further execution), failed, by_status,
    damaged, last_event, running (a process owns the directory).
    """
    directory = Path(directory)
    plan = plan_of(directory)
    best, damaged = _latest(directory, plan)
    counts = Counter(rank[2] for rank in best.values())
    failed = sum(counts[name] for name in FAILED)
    events = read_events(directory)
    return {
        "planned": plan.get("cells") if plan else None,
        "done": counts.total() - failed,
        "failed": failed,
        "by_status": dict(sorted(counts.items())),
        "damaged": damaged,
        "last_event": events[-1] if events else None,
        "running": is_locked(directory),
    }


def read_events(directory: Path | str) -> list[dict[str, Any]]:
    """Return the events of a run in order; lines that a kill or a full disk cut short are left out."""
    path = Path(directory) / EVENTS
    with storage(path):
        try:
            lines = read_bytes(path).split(b"\n")
        except FileNotFoundError:
            return []
    return [event for line in lines if (event := _event(line)) is not None]


def _event(line: bytes) -> dict[str, Any] | None:
    body, mark, check = line.rpartition(b',"crc":"')
    if not mark or check != b'%08x"}' % zlib.crc32(body):
        return None
    return {key: value for key, value in json.loads(line).items() if key != "crc"}


def plan_of(directory: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the plan of a run, None if plan.json is damaged; InputError where there is no run."""
    directory = Path(directory)
    with storage(directory):
        try:
            plan = read_plan(directory)
        except ValueError:
            return None
    if plan is None:
        raise InputError(Problem("E-RUN", "is not a run: it has no plan.json", file=str(directory)))
    return plan


def _planned(plan: Mapping[str, Any] | None) -> Callable[[str], bool]:
    """Return whether a cell belongs to the plan; a directory may hold more, of a sweep that was larger once."""
    ids = frozenset((plan or {}).get("ids", ()))
    return (lambda cell: cell in ids) if ids else (lambda _: True)


def _latest(directory: Path, plan: Mapping[str, Any] | None) -> tuple[dict[str, tuple[bool, int, str]], list[str]]:
    """Return (finished, attempt, status) of the row that counts by cell, and a line per damaged file."""
    best: dict[str, tuple[bool, int, str]] = {}
    damaged, planned = [], _planned(plan)
    for part in scan(directory, identity_hash(plan) if plan else None):
        if part.reason:
            damaged.append(f"{part.name}: {part.reason}")
        for cell, state, attempt in part.rows:
            rank = (state not in FAILED, attempt)
            if planned(cell) and (cell not in best or rank > best[cell][:2]):
                best[cell] = (*rank, state)
    return best, damaged


def _gather(
    directory: Path, only: Collection[str] | None = None, *, curves: bool = True
) -> tuple["pa.Table", list[str]]:
    """Return the rows that count, sorted by cell, curves as list columns, and a line per damaged file."""
    import pyarrow as pa

    plan = plan_of(directory)
    planned = _planned(plan)
    tables, damaged, offset = [table_of([])], [], 0
    best: dict[str, tuple[tuple[bool, int], int]] = {}
    layouts: dict[tuple[str, ...], None] = {}
    axes: set[str] = set()
    wanted = None if only is None else frozenset(only)
    for part in scan(directory, identity_hash(plan) if plan else None):
        if part.file is None:
            damaged.append(f"{part.name}: {part.reason}")
            continue
        tables.append(decode(part.file, curves=curves))
        layouts[tuple(tables[-1].column_names)] = None
        axes.update(part.axes)
        if len(tables) == _BATCH:
            tables = [_join(tables).combine_chunks()]
        for index, (cell, state, attempt) in enumerate(part.rows, start=offset):
            rank = (state not in FAILED, attempt)
            chosen = planned(cell) if wanted is None else cell in wanted
            if chosen and (cell not in best or rank > best[cell][0]):
                best[cell] = (rank, index)
        offset += len(part.rows)
    order = pa.array([best[cell][1] for cell in sorted(best)], pa.int64())
    table = _join(tables)
    return table.select(merged(layouts, axes)).take(order).combine_chunks(), damaged


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


def _without_curves(table: "pa.Table") -> "pa.Table":
    return table.select([name for name in table.column_names if not name.startswith(CURVE)])


def _curves(table: "pa.Table") -> "pa.Table":
    """Return the long form: cell, step, residual, linearised, any further curve; null where not recorded."""
    import pyarrow as pa
    import pyarrow.compute as pc

    owner = _owners(table)
    columns = {"cell": table["cell"].take(owner), "step": _flat(table, "curve_step", pa.int64())}
    empty = pa.nulls(len(owner), pa.float64())
    columns |= {"residual": empty, "linearised": empty}
    for name in table.column_names:
        if name.startswith(CURVE) and name != "curve_step":
            # A list is null or as long as the steps: the k-th value belongs to the k-th row that has a list.
            there = pc.is_valid(table[name]).combine_chunks().take(owner)
            place = pc.if_else(there, pc.subtract(pc.cumulative_sum(pc.cast(there, "int64")), 1), None)
            columns[name.removeprefix(CURVE)] = _flat(table, name, pa.float64()).take(place)
    return pa.table(columns)


def _owners(table: "pa.Table") -> "pa.Array":
    """Return for each row of the curves the index of its cell in `table`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if "curve_step" not in table.column_names:
        return pa.array([], pa.int64())
    lengths = pc.fill_null(pc.list_value_length(table["curve_step"]), 0).to_numpy()
    return pa.array(np.repeat(np.arange(table.num_rows), lengths))


def _flat(table: "pa.Table", name: str, kind: "pa.DataType") -> "pa.Array":
    import pyarrow as pa
    import pyarrow.compute as pc

    if name not in table.column_names or pa.types.is_null(table[name].type):
        return pa.array([], kind)
    return pc.list_flatten(table[name]).combine_chunks()


def _frame(table: "pa.Table") -> "pd.DataFrame":
    import pandas as pd
    import pyarrow as pa

    def series(field: "pa.Field", column: "pa.ChunkedArray") -> "pd.Series":
        gaps = column.null_count > 0 or field.name.endswith("_step")
        kinds = {pa.bool_(): pd.BooleanDtype()} | ({pa.int64(): pd.Int64Dtype()} if gaps else {})
        return column.to_pandas(types_mapper=kinds.get)

    # By position: the answer to a query may have two columns of one name.
    frame = pd.DataFrame(dict(enumerate(map(series, table.schema, table.columns))))
    return frame.set_axis(table.column_names, axis=1)


def _without_decimals(table: "pa.Table") -> "pa.Table":
    """Return `table` with decimals (DuckDB's sums of integers) as float64, for pandas to calculate with."""
    import pyarrow as pa

    plain = [f.with_type(pa.float64()) if pa.types.is_decimal(f.type) else f for f in table.schema]
    return table.cast(pa.schema(plain))


def _csv(table: "pa.Table") -> bytes:
    import pyarrow as pa

    cells = _without_curves(table)
    frame = _frame(cells)
    for name in (field.name for field in cells.schema if pa.types.is_string(field.type)):
        frame[name] = frame[name].map(_inert, na_action="ignore")
    # With this line end pandas also quotes a bare carriage return, behind which a formula could start a line.
    return frame.rename(columns=_inert).to_csv(index=False, lineterminator="\r\n").encode()


def _inert(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _parquet(table: "pa.Table") -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _npz(table: "pa.Table") -> bytes:
    cells, curves = _without_curves(table), _curves(table).drop_columns("cell")
    arrays = {name: _array(cells[name]) for name in cells.column_names}
    arrays["curve_row"] = _owners(table).to_numpy()
    arrays |= {f"curve_{name}": _array(curves[name]) for name in curves.column_names}
    buffer = io.BytesIO()
    # Not np.savez: there a column named `file` would be taken for its argument.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return buffer.getvalue()


def _array(column: "pa.ChunkedArray") -> np.ndarray:
    import pyarrow as pa

    if pa.types.is_string(column.type):
        return np.array([text or "" for text in column.to_pylist()], dtype=np.str_)
    if pa.types.is_null(column.type) or (column.null_count and not pa.types.is_floating(column.type)):
        # Arrow has no direct way from truth values to floats.
        column = column.cast("int8" if pa.types.is_boolean(column.type) else column.type).cast("float64")
    return column.to_numpy()


def _settings(folder: Path) -> dict[str, Any]:
    plan = plan_of(folder) or {}
    return leaves({**plan.get("identity", {}), "sweep": plan.get("axes", [])})


def _statistics(folder: Path) -> dict[str, Any]:
    best, damaged = _latest(folder, plan_of(folder))
    counts = Counter(rank[2] for rank in best.values())
    found = {"cells": counts.total(), "damaged parts": len(damaged)}
    found |= {f"status {name}": count for name, count in sorted(counts.items())}
    return found | _thresholds(folder)


def _thresholds(folder: Path) -> dict[str, Any]:
    """Return medians of thresholds and raw exponents of summary.json by name; nothing without that file."""
    with storage(folder):
        try:
            summary = json.loads(read_bytes(folder / "summary.json"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise InputError(Problem("E-JSON", str(error), file=str(folder / "summary.json"))) from error
    found = {}
    for group in summary.get("groups", []):
        for criterion in group.get("criteria", []):
            name = f"{group['label']}: {criterion['criterion']}"
            for threshold in criterion.get("thresholds", []):
                found[f"{name}: threshold at n = {threshold['n']}"] = threshold["median"]
            found[f"{name}: exponent"] = ((criterion.get("exponent") or {}).get("raw") or {}).get("value")
    return found


def _order(columns: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for column in columns for name in column))


def _side_by_side(labels: list[str], columns: list[dict[str, Any]], names: list[str]) -> "pd.DataFrame":
    import pandas as pd

    # by position: one run may be given twice
    listed = {place: [column.get(name) for name in names] for place, column in enumerate(columns)}
    return pd.DataFrame(listed, index=names, dtype=object).set_axis(labels, axis=1)
