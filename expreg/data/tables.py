"""Read points and labels from the named columns of .csv and .parquet files.

Options: `features`, the list of columns that make up a point (default: all but the target); `target`, the
column of the labels (default: `y` when there is one; False: no column is). Columns that are neither are not looked at.
"""

import csv
import io
from array import array
from collections.abc import Iterator
from difflib import get_close_matches
from typing import IO, Any

import numpy as np

from expreg.data.arrays import MAX_BYTES, Arrays, Options, refusal
from expreg.errors import InputError, Problem

DEFAULT_TARGET = "y"


def read_csv(source: IO[bytes], options: Options) -> Arrays:
    """Return X (n, d) and the target (n,) of a comma-separated file with a header row, float64.

    Blank lines are skipped. Raises InputError with one problem per bad row or value.
    """
    rows = _csv_rows(source)
    header = [name.strip() for name in next(rows, (0, []))[1]]
    if not header:
        raise refusal("E-EMPTY", "the file is empty; expected a header row with column names")
    features, target = _choose(header, options)
    used = [header.index(name) for name in [*features, *target]]
    values, problems = array("d"), []
    for line, row in rows:
        try:
            if len(row) != len(header):
                raise ValueError(f"got {len(row)} columns, expected {len(header)}")
            values.extend([_number(row[index], header[index]) for index in used])
        except ValueError as error:
            problems.append(Problem("E-DATA", str(error), line=line))
    if problems:
        raise InputError(problems)
    return _split(np.array(values).reshape(-1, len(used)), len(features))


def read_parquet(source: IO[bytes], options: Options) -> Arrays:
    """Return X (n, d) and the target (n,) of a Parquet file, float64; every value must convert exactly."""
    from pyarrow import ArrowException, parquet  # slow to import: only when a Parquet file is read

    try:
        table = parquet.ParquetFile(source)
        features, target = _choose(table.schema_arrow.names, options)
        names = [*features, *target]
        if table.metadata.num_rows * len(names) * 8 > MAX_BYTES:
            size = f"{table.metadata.num_rows} rows of {len(names)} columns"
            raise refusal("E-SIZE", f"{size}, expected at most {MAX_BYTES >> 20} MiB")
        data = table.read(columns=names)
    except (ArrowException, OSError) as error:
        raise refusal("E-DATA", f"not a readable Parquet file: {error}") from error
    return _split(np.column_stack([_real(data.column(name), name) for name in names]), len(features))


def _csv_rows(source: IO[bytes]) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, with their lines in the file."""
    try:
        text = source.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"byte {error.object[error.start]:#04x} at offset {error.start} is not UTF-8"
        raise refusal("E-UTF8", message) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise InputError(Problem("E-DATA", f"not a readable row: {error}", line=reader.line_num)) from error


def _number(text: str, column: str) -> float:
    """Return the number in `text`; float() alone would also take `1_0` and the digits of any script."""
    try:
        if text.isascii() and "_" not in text:
            return float(text)
    except ValueError:
        pass
    raise ValueError(f"column {column}: got {text!r}, expected a number")


def _real(column: Any, name: str) -> np.ndarray:
    """Return a Parquet column as float64; null, text, complex types and integers beyond 2^53 are refused."""
    import pyarrow as pa

    key, kind = f"column {name}", column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise refusal("E-DTYPE", f"got {kind}, expected real", key=key)
    if column.null_count:
        raise refusal("E-DATA", f"got {column.null_count} missing values, expected none", key=key)
    try:
        return column.cast(pa.float64(), safe=True).to_numpy()
    except pa.ArrowInvalid as error:
        raise refusal("E-DTYPE", f"{kind} is not exact in float64: {error}", key=key) from error


def _choose(header: list[str], options: Options) -> tuple[list[str], list[str]]:
    """Return the names of the features and of the target; the latter is empty if the file has none."""
    problems = [
        Problem("E-DUP", f"column {name!r} stands {header.count(name)} times in the header")
        for name in sorted(set(header))
        if header.count(name) > 1
    ]
    asked = options.get("target")
    default = [DEFAULT_TARGET] if DEFAULT_TARGET in header and asked is not False else []
    target = [asked] if asked else default
    features = options.get("features") or [name for name in header if name not in target]
    for key, names in (("data.target", target), ("data.features", features)):
        for name in (name for name in names if name not in header):
            nearest = get_close_matches(name, header, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"the columns are {', '.join(header[:8])}"
            problems.append(Problem("E-UNKNOWN", f"no column {name!r}; {hint}", key=key))
    if not features:
        problems.append(Problem("E-EMPTY", "no columns left for the points", key="data.features"))
    if set(features) & set(target):
        problems.append(Problem("E-DUP", f"{target[0]!r} is also the target", key="data.features"))
    if problems:
        raise InputError(problems)
    return list(features), target


def _split(values: np.ndarray, count: int) -> Arrays:
    """Return the first `count` columns, and the one after them where there is one."""
    X, y = np.split(values, [count], axis=1)
    return np.ascontiguousarray(X), np.ascontiguousarray(y[:, 0]) if y.shape[1] else None
