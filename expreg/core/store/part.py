"""One part: rows and curves of some cells as an immutable, typed Parquet file named by its content."""

import hashlib
import json
import os
import stat
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from expreg.core.store.columns import CURVE, check_curves, in_order
from expreg.core.store.disk import failure, fault, holds, read_bytes, storage, sync, temporary
from expreg.types import BASE, FAILED, Column

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

PARTS = "parts"
FORMAT = 1
# What may differ between two executions of one cell: how it was run, not what came out.
_CIRCUMSTANCES = frozenset({"seconds", "attempt", "device", "expreg_version", "jax_version", "status_detail"})

Rank = tuple[bool, int, int, str]
"""The order of the rows of one cell (`Part.rank`), which ends with the name of the part."""


class Part(NamedTuple):
    """One file of parts/: rows as (cell, status, attempt) and the plan's identity, or why it is of no use.

    `published`: nanoseconds since 1970 by the clock of its writer, 0 where it does not say. `axes` are its columns
    that the experiment does not declare.
    """

    name: str
    rows: list[tuple[str, str, int]]
    published: int = 0
    owner: str = ""
    reason: str = ""
    axes: Sequence[str] = ()
    file: "pq.ParquetFile | None" = None

    def rank(self, status: str, attempt: int) -> Rank:
        """Return the place of a row among those of its cell, the first of which counts.

        Of finished rows that is the first publication, else the latest attempt. It depends on the content of the
        parts only: every reader finds the same row, in a copy of the directory too.
        """
        failed = status in FAILED
        return failed, -attempt if failed else 0, self.published, self.name


class Parts(NamedTuple):
    """A writer of parts into a run directory; any number of processes may write, on any host.

    `identity` is that of the plan (`identity_hash`), `columns` those of the experiment.
    """

    directory: Path
    identity: str
    columns: Sequence[Column] = ()

    def commit(self, rows: Iterable[Mapping[str, Any]]) -> Part | None:
        """Publish rows of different cells as one immutable part, and return it; None without rows.

        When this returns the rows outlive the process. A row without `attempt` is the first of its cell. Raises
        StorageError if the disk fails.
        """
        kept = [{**row, "attempt": row.get("attempt") or 1} for row in rows]
        if not kept:
            return None
        curves = [name for name in set().union(*kept) if name.startswith(CURVE)]
        for row in kept:
            check_curves(row, curves)
        published = time.time_ns()
        name = publish(self.directory / PARTS, encode(kept, self.identity, self.columns, published))
        return Part(name, [(row["cell"], row["status"], row["attempt"]) for row in kept], published, self.identity)


def scan(directory: Path, identity: str | None, known: Collection[str] = ()) -> Iterator[Part]:
    """Yield every part in order of name, each checked against its name, its format and the plan's identity.

    `identity` None accepts the parts of any plan; those with `known` names are left out. One part is in memory at a
    time and nothing is changed, so a reader may do this while the run goes on. Raises StorageError for a part that a
    newer expreg wrote.
    """
    folder = directory / PARTS
    with storage(folder):
        if not folder.exists():
            return
        names = sorted(name for name in os.listdir(folder) if name.endswith(".parquet") and not name.startswith("."))
        for name in (name for name in names if name not in known):
            with suppress(FileNotFoundError):  # moved to quarantine by the owner since the listing
                yield _inspect(folder / name, identity)


def _inspect(path: Path, identity: str | None) -> Part:
    if not stat.S_ISREG(os.lstat(path).st_mode):
        return Part(path.name, [], reason="is not a regular file")
    data = read_bytes(path)
    if part_name(data) != path.name:
        return Part(path.name, [], reason="its content does not match its name")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        label = json.loads(file.metadata.metadata[b"expreg"])
        if label["format"] > FORMAT:
            rule = f"this expreg reads up to {FORMAT}; use a newer expreg"
            raise failure("E-VERSION", path, f"has format {label['format']}, {rule}")
        owner, rows, axes = str(label["identity"]), [tuple(row) for row in label["rows"]], label.get("axes", ())
        published = label.get("published", 0)
        _expect_ours(file, rows, axes, published)
    except (ValueError, TypeError, KeyError, RecursionError, pa.ArrowException, OSError):
        return Part(path.name, [], reason="is not a part that expreg wrote")
    if identity not in (None, owner):
        return Part(path.name, [], 0, owner, f"belongs to another plan ({owner}, not {identity})")
    return Part(path.name, rows, published, owner, axes=axes, file=file)


def _expect_ours(file: "pq.ParquetFile", rows: list[tuple[Any, ...]], axes: Any, published: Any) -> None:
    """Raise ValueError where the table of a part is not what its label says, or its label is not what we write."""
    import pyarrow as pa

    labelled = all(tuple(map(type, row)) == (str, str, int) for row in rows) and {*map(type, axes)} <= {str}
    labelled = labelled and type(published) is int
    schema = file.schema_arrow
    known = {column.name: pa.type_for_alias(column.type) for column in BASE}
    typed = all(known.get(field.name, field.type) == field.type for field in schema)
    if not (labelled and typed and file.metadata.num_rows == len(rows) and "cell" in schema.names):
        raise ValueError("not ours")


def encode(rows: list[dict[str, Any]], identity: str, columns: Sequence[Column] = (), published: int = 0) -> bytes:
    """Return the bytes of one part: one row group, typed columns, and in the footer the cells inside."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = table_of(rows, columns)
    declared = {column.name for column in (*BASE, *columns)}
    axes = [name for name in table.column_names if name not in declared and not name.startswith(CURVE)]
    who = [[row["cell"], row["status"], row["attempt"]] for row in rows]
    known = {"format": FORMAT, "identity": identity, "published": published}
    label = json.dumps({**known, "axes": axes, "rows": who})
    # A zstd context for each of 80 short columns doubles the time of a commit for nothing: only for curves.
    curves = [f"{name}.list.element" for name in table.column_names if name.startswith(CURVE)]
    codecs = dict.fromkeys(table.column_names, "snappy") | dict.fromkeys(curves, "zstd")
    plain = {"use_dictionary": False, "write_statistics": False, "store_schema": False}
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression=codecs, **plain) as writer:
        writer.write_table(table, row_group_size=max(len(rows), 1))
        writer.add_key_value_metadata({"expreg": label})
    return bytes(sink.getvalue())


def decode(part: "bytes | pq.ParquetFile", *, curves: bool = True) -> "pa.Table":
    """Return the table of one part, curves as list columns unless they are not wanted."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(pa.BufferReader(part)) if isinstance(part, bytes) else part
    names = None if curves else [name for name in file.schema_arrow.names if not name.startswith(CURVE)]
    return file.read(names, use_threads=False)


def table_of(rows: list[dict[str, Any]], columns: Sequence[Column] = ()) -> "pa.Table":
    """Return rows as a typed Arrow table; NaN and infinities stay what they are, None is null.

    Columns: those of every experiment, then its own `columns`, then the rest by name, curves last. The rest (swept
    axes) takes the type of its values.
    """
    import pyarrow as pa

    types = {column.name: column.type for column in (*BASE, *columns)}
    names = in_order(set().union(*rows), columns)
    return pa.table({name: _column(name, types.get(name), [row.get(name) for row in rows]) for name in names})


def _column(name: str, declared: str | None, values: list[Any]) -> "pa.Array":
    import pyarrow as pa

    if declared is not None:
        kind = pa.type_for_alias(declared)
    elif name.startswith(CURVE):
        kind = pa.list_(pa.int64() if name == f"{CURVE}step" else pa.float64())
    else:
        values = [value.item() if hasattr(value, "item") else value for value in values]
        kinds = {type(value) for value in values if value is not None}
        if kinds <= {int, float}:
            kind = pa.float64() if float in kinds else pa.int64() if kinds else pa.null()
        else:
            kind = pa.bool_() if kinds == {bool} else pa.string()
        if kind == pa.string():
            values = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return pa.array(values, type=kind, from_pandas=False)


def difference(
    first: Mapping[str, Any], other: Mapping[str, Any], columns: Sequence[Column] = ()
) -> tuple[str, Any, Any] | None:
    """Return (column, value, value) where two finished rows of one cell first differ, with the place in a curve.

    Columns that only one of them has do not count unless they are declared: two sweeps of a cell can have other axes.
    """
    names = (first.keys() & other.keys()) | {column.name for column in columns}
    for name in sorted(names - _CIRCUMSTANCES):
        old, new = first.get(name), other.get(name)
        values = [(name, old, new)]
        if name.startswith(CURVE) and old and new and len(old) == len(new):
            values = [(f"{name}[{i}]", *pair) for i, pair in enumerate(zip(old, new, strict=True))]
        for place, a, b in values:
            if a != b and not (a != a and b != b):  # NaN equals NaN here
                return place, a, b
    return None


def part_name(data: bytes) -> str:
    """Return the name under which these bytes are published."""
    return f"{digest(data, 32)}.parquet"


def digest(content: str | bytes, digits: int = 16) -> str:
    """Return the first hex digits of the sha256 of a content."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:digits]


def publish(folder: Path, data: bytes) -> str:
    """Make `data` a file named by its content: present and complete, or absent."""
    target = folder / part_name(data)
    with storage(target, len(data)):
        with temporary(target, data, "commit") as written:
            fault("commit.before_link")
            if os.path.lexists(target) and not holds(target, data):
                raise failure("E-OUT", target, "exists with other content than its name says")
            os.rename(written, target)  # a name, once published, keeps its bytes: they are its checksum
            fault("commit.after_link")
        sync(folder)
    return target.name
