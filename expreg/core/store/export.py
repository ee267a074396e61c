"""What leaves a run: answers to SQL over its tables, and its rows as files of other formats."""

import io
import zipfile
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from expreg.core.store.columns import CURVE
from expreg.core.store.disk import check_output, replace
from expreg.core.store.part import PARTS
from expreg.core.store.store import QUARANTINE
from expreg.core.store.table import cells_of, curves_of, frame_of, gathered
from expreg.errors import InputError, Problem

if TYPE_CHECKING:
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
_PLAIN = ("boolean", "float", "double", "decimal", "varchar", "integer", "NULL", "null")
"""Types of DuckDB, beside those that end in int, whose values Python has as numbers or text."""


def query(
    directory: Path | str, sql: str, say: Callable[[str], None] = lambda _: None
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return (names, rows), the answer of DuckDB to `sql` over the tables `cells` and `curves`; `say` of how many.

    Values are None, truth values, numbers and text, lists and dicts of these; what is none of them (dates, intervals,
    BLOB) is the text that DuckDB writes. Of equal names the later ones get a number: n, n_1.
    The SQL reaches no file and no network. Raises InputError with DuckDB's message if it fails.
    """
    import duckdb

    notes: list[str] = []
    table = gathered(Path(directory), notes.append)
    with duckdb.connect(":memory:") as connection:
        for name, content in (("cells", cells_of(table)), ("curves", curves_of(table))):
            connection.register("given", content)
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM given")
            connection.unregister("given")
        for setting in _SEALED:
            connection.execute(setting)
        try:
            answer = connection.sql(sql)
            if answer is None:
                raise InputError(Problem("E-SQL", "the query returns no table; write SELECT ... FROM cells"))
            texts = [_as_text(kind) for kind in answer.types]
            chosen = [f"#{k}::{text}" if text else f"#{k}" for k, text in enumerate(texts, 1)]
            rows = (answer.project(", ".join(chosen)) if any(texts) else answer).fetchall()
            names = _distinct(answer.columns)
        except (duckdb.Error, UnicodeError) as error:
            message = str(error).split("\n\nLINE ", 1)[0]  # with the nearest names
            raise InputError(Problem("E-SQL", " ".join(message.split()))) from error
    for note in notes:
        say(note)
    return names, rows


def _as_text(kind: Any) -> str:
    """Return the type to which DuckDB casts values that are neither numbers nor text, empty where there are none."""
    if kind.id in ("list", "array", "struct", "tuple", "map"):
        inner = kind.children if kind.id != "array" else kind.children[:1]
        if not any(_as_text(child) for _, child in inner):
            return ""
        if not all(name for name, _ in inner):
            return "VARCHAR"
        parts = [(name, _as_text(child) or str(child)) for name, child in inner]
        if kind.id == "struct":
            return f"STRUCT({', '.join(_quoted(name) + ' ' + part for name, part in parts)})"
        return f"MAP({', '.join(part for _, part in parts)})" if kind.id == "map" else f"{parts[0][1]}[]"
    return "" if kind.id in _PLAIN or kind.id.endswith("int") or str(kind) == "JSON" else "VARCHAR"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _distinct(names: Sequence[str]) -> list[str]:
    """Return the names with a number behind those that came before."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name}_{k}" for k in count(1))
        taken = {*found, *(names if name in found else ())}
        found.append(name if name not in found else next(new for new in numbered if new not in taken))
    return found


def export(directory: Path | str, file: Path | str, say: Callable[[str], None] = lambda _: None) -> Path:
    """Write the rows of a run to `file`, by its suffix, whole or not at all; `say` of how many cells.

    .csv      the cells; text that a spreadsheet would take for a formula gets a leading '
    .parquet  the cells, with the curves as list columns
    .npz      one array per column of the cells (numbers with gaps are float64 with nan), and the curves as
              `curve_row` (index into the cells) and `curve_<column>`; loads without pickle
    """
    writers = {".csv": _csv, ".parquet": _parquet, ".npz": _npz}
    directory, file = Path(directory), Path(file)
    if file.suffix.lower() not in writers:
        message = f"got {file.suffix!r}, expected one of {', '.join(writers)}"
        raise InputError(Problem("E-SUFFIX", message, file=str(file)))
    check_output(file)
    parent = file.resolve().parent
    for kept in (PARTS, QUARANTINE):
        if parent.is_relative_to((directory / kept).resolve()):
            raise InputError(Problem("E-PATH", f"{kept}/ belongs to the run; write elsewhere", file=str(file)))
    table = gathered(directory, say)
    replace(file, writers[file.suffix.lower()](table))
    return file


def _csv(table: "pa.Table") -> bytes:
    import pyarrow as pa

    def inert(text: str) -> str:
        return f"'{text}" if text.startswith(_FORMULA) else text

    cells = cells_of(table)
    frame = frame_of(cells)
    for name in (field.name for field in cells.schema if pa.types.is_string(field.type)):
        frame[name] = frame[name].map(inert, na_action="ignore")
    # With this line end pandas also quotes a bare carriage return, behind which a formula could start a line.
    return frame.rename(columns=inert).to_csv(index=False, lineterminator="\r\n").encode()


def _parquet(table: "pa.Table") -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _npz(table: "pa.Table") -> bytes:
    cells = cells_of(table)
    curves = curves_of(table.append_column("row", [np.arange(table.num_rows)]), "row")
    arrays = {name: _array(cells[name]) for name in cells.column_names}
    arrays |= {f"{CURVE}{name}": _array(curves[name]) for name in curves.column_names}
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
