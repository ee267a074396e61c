"""Read points and labels from the named columns of .csv and .parquet files.

Options: `features`, the list of columns that make up a point (default: all but the target); `target`, the
column of the labels (default: `y` when there is one; False: no column is). Columns that are neither are not looked at.
"""

import csv
import io
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import IO, Any

import numpy as np

from expreg.errors import InputError, Problem

MAX_BYTES = 2**30  # of the table, once in memory
DEFAULT_TARGET = "y"

Row = tuple[int, list[str]]  # line number in the file, fields


def read_csv(source: IO[bytes], options: Mapping[str, Any], file: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return X (n, d) and the target (n,) of a comma-separated file with a header row, float64.

    Blank lines are skipped. Raises InputError with one problem per bad row or value.
    """
    header, rows = _csv(source, file)
    features, target = _choose(header, options, file)
    used = [header.index(name) for name in [*features, *target]]
    values, problems = array("d"), []
    for line, row in rows:
        if len(row) != len(header):
            message = f"got {len(row)} columns, expected {len(header)}"
            problems.append(Problem("E-DATA", message, file=file, line=line))
            continue
        try:
            values.extend([_number(row[index], header[index]) for index in used])
        except ValueError as error:
            problems.append(Problem("E-DATA", str(error), file=file, line=line))
    if problems:
        raise InputError(problems)
    return _split(np.array(values).reshape(-1, len(used)), bool(target))


def shape_csv(source: IO[bytes], options: Mapping[str, Any], file: str) -> tuple[int, int]:
    """Return (rows, features) of a .csv file without converting its numbers."""
    header, rows = _csv(source, file)
    features, _ = _choose(header, options, file)
    return sum(1 for _ in rows), len(features)


def read_parquet(source: IO[bytes], options: Mapping[str, Any], file: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return X (n, d) and the target (n,) of a Parquet file, float64; every value must convert exactly."""
    with _parquet(source, file) as table:
        features, target = _choose(table.schema_arrow.names, options, file)
        names = [*features, *target]
        if table.metadata.num_rows * len(names) * 8 > MAX_BYTES:
            size = f"{table.metadata.num_rows} rows of {len(names)} columns"
            raise InputError(Problem("E-SIZE", f"{size}, expected at most {MAX_BYTES >> 20} MiB", file=file))
        data = table.read(columns=names)
    return _split(np.column_stack([_real(data.column(name), name, file) for name in names]), bool(target))


def shape_parquet(source: IO[bytes], options: Mapping[str, Any], file: str) -> tuple[int, int]:
    """Return (rows, features) from the footer of a Parquet file."""
    with _parquet(source, file) as table:
        features, _ = _choose(table.schema_arrow.names, options, file)
        return table.metadata.num_rows, len(features)


def _csv(source: IO[bytes], file: str) -> tuple[list[str], Iterator[Row]]:
    """Return the header and an iterator over the rows that are not blank."""
    try:
        text = source.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"byte {error.object[error.start]:#04x} at offset {error.start} is not UTF-8"
        raise InputError(Problem("E-UTF8", message, file=file)) from error
    rows = _csv_rows(text, file)
    header = next(rows, None)
    if header is None:
        raise InputError(Problem("E-EMPTY", "the file is empty; expected a header row with column names", file=file))
    return [name.strip() for name in header[1]], rows


def _csv_rows(text: str, file: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise InputError(Problem("E-DATA", f"not a readable row: {error}", file=file, line=reader.line_num)) from error


def _number(text: str, column: str) -> float:
    """Return the number in `text`; float() alone would also take `1_0` and the digits of any script."""
    try:
        if text.isascii() and "_" not in text:
            return float(text)
    except ValueError:
        pass
    raise ValueError(f"column {column}: got {text!r}, expected a number")


@contextmanager
def _parquet(source: IO[bytes], file: str) -> Iterator[Any]:
    from pyarrow import ArrowException, parquet  # slow to import: only when a Parquet file is read

    try:
        yield parquet.ParquetFile(source)
    except (ArrowException, OSError) as error:
        raise InputError(Problem("E-DATA", f"not a readable Parquet file: {error}", file=file)) from error


def _real(column: Any, name: str, file: str) -> np.ndarray:
    """Return a Parquet column as float64; null, text, complex types and integers beyond 2^53 are refused."""
    import pyarrow as pa

    key, kind = f"column {name}", column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise InputError(Problem("E-DTYPE", f"got {kind}, expected real", file=file, key=key))
    if column.null_count:
        message = f"got {column.null_count} missing values, expected none"
        raise InputError(Problem("E-DATA", message, file=file, key=key))
    try:
        return column.cast(pa.float64(), safe=True).to_numpy()
    except pa.ArrowInvalid as error:
        raise InputError(Problem("E-DTYPE", f"{kind} is not exact in float64: {error}", file=file, key=key)) from error


def _choose(header: list[str], options: Mapping[str, Any], file: str) -> tuple[list[str], list[str]]:
    """Return the names of the features and of the target; the latter is empty if the file has none."""
    problems = [
        Problem("E-DUP", f"column {name!r} stands {header.count(name)} times in the header", file=file)
        for name in sorted(set(header))
        if header.count(name) > 1
    ]
    asked = options.get("target")
    default = [DEFAULT_TARGET] if DEFAULT_TARGET in header and asked is not False else []
    target = [asked] if asked else default
    features = options.get("features") or [name for name in header if name not in target]
    for key, names in (("data.target", target), ("data.features", features)):
        problems += [_unknown(name, header, key, file) for name in names if name not in header]
    if not features:
        problems.append(Problem("E-EMPTY", "no columns left for the points", file=file, key="data.features"))
    if set(features) & set(target):
        problems.append(Problem("E-DUP", f"{target[0]!r} is also the target", file=file, key="data.features"))
    if problems:
        raise InputError(problems)
    return list(features), target


def _unknown(name: str, header: list[str], key: str, file: str) -> Problem:
    nearest = get_close_matches(name, header, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"the columns are {', '.join(header[:8])}"
    return Problem("E-UNKNOWN", f"no column {name!r}; {hint}", file=file, key=key)


def _split(values: np.ndarray, has_target: bool) -> tuple[np.ndarray, np.ndarray | None]:
    if not has_target:
        return values, None
    return np.ascontiguousarray(values[:, :-1]), np.ascontiguousarray(values[:, -1])
