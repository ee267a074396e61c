"""Read points and labels from the named columns of .csv and .parquet files.

Options: `features`, the list of columns that make up a point (default: all but the target); `target`, the
column of the labels (default: `y` when there is one; False: no column is). Columns that are neither are not looked at.
`header`: whether the first row of a .csv has the names (default: True); else they are 1, 2, ... in order.
"""

import csv
import io
import re
from array import array
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from difflib import get_close_matches
from itertools import chain
from typing import IO, Any

import numpy as np

from expreg.data.arrays import EXACT, INEXACT, MAX_BYTES, Arrays, Options, exact, refusal
from expreg.data.text import each, number, quoted
from expreg.errors import InputError, Problem, refuse

DEFAULT_TARGET = "y"
_INDEX = re.compile(r"|Unnamed: \d+|__index_level_\d+__")  # names of columns that pandas makes of an index
_COMPARED = 10_000  # names among which the nearest is looked for


def read_csv(source: IO[bytes], options: Options) -> Arrays:
    """Return X (n, d) and the target (n,) of a comma-separated file with a header row, float64.

    Blank lines are skipped. Raises InputError with one problem per bad row.
    """
    rows = _csv_rows(source)
    line, first = next(rows, (1, []))
    if not first:
        raise refusal("E-EMPTY", "the file is empty; expected a header row with column names")
    if options.get("header", True):
        header = [name.strip() for name in first]
        if why := _no_header(header, options):
            raise InputError(Problem("E-DATA", why, line=line))
    else:
        header, rows = [str(k) for k in range(1, len(first) + 1)], chain([(line, first)], rows)
    features, target = _choose(header, options)
    place = {name: index for index, name in enumerate(header)}
    used = [(place[name], f"column {name}") for name in (*features, *target)]
    values = array("d")

    def take(_: int, row: list[str]) -> None:
        if len(row) != len(header):
            raise refusal("E-DATA", f"got {len(row)} columns, expected {len(header)}")
        values.extend([number(row[index], key) for index, key in used])

    each(rows, take)
    return _split(np.frombuffer(values).reshape(-1, len(used)), len(features))


def _no_header(header: list[str], options: Options) -> str | None:
    """Return why the first row is no header of names between commas, None if it is one."""
    for mark, words in ((";", "';'"), ("\t", "tabs"), ("|", "'|'")):
        if len(header) == 1 and mark in header[0]:
            return f"got one column, {quoted(header[0])}; expected columns separated by commas, not by {words}"
    if any(map(options.get, ("features", "target"))) or not all(map(_is_number, header)):
        return None
    without = "header: false in a config, --no-header for solve"
    return f"the first row is all numbers; expected a header row with column names (or {without})"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_parquet(source: IO[bytes], options: Options) -> Arrays:
    """Return X (n, d) and the target (n,) of a Parquet file, float64.

    Integers must convert exactly; decimals are rounded as those of a text are. Only a part of the rows is in memory
    in another form.
    """
    from pyarrow import ArrowException, parquet  # slow to import: only when a Parquet file is read

    try:
        file = parquet.ParquetFile(source)
        schema, rows = file.schema_arrow, file.metadata.num_rows
        features, target = _choose(schema.names, options, _index_columns(schema))
        names = [*features, *target]
        _check_types(schema, names)
        if not 0 <= rows * len(names) * 8 <= MAX_BYTES:
            raise refusal("E-SIZE", f"{rows} rows of {len(names)} columns, expected at most {MAX_BYTES >> 20} MiB")
        X, y, filled = np.empty((rows, len(features))), np.empty(rows), 0
        for batch in file.iter_batches(columns=names):
            for place, name in zip([*X.T, y], names, strict=False):
                place[filled : filled + len(batch)] = _real(batch.column(name), name, filled)
            filled += len(batch)
    except (ArrowException, OSError, ValueError) as error:
        raise refusal("E-DATA", f"not a readable Parquet file: {error}") from error
    if filled != rows:
        raise refusal("E-DATA", f"got {filled} rows, the file declares {rows}")
    return X, y if target else None


def _csv_rows(source: IO[bytes]) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, with their lines in the file."""
    try:
        text = source.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"byte {error.object[error.start]:#04x} at offset {error.start} is not UTF-8"
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(Problem("E-UTF8", message, line=line)) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise InputError(Problem("E-DATA", f"not a readable row: {error}", line=reader.line_num)) from error


def _check_types(schema: Any, names: Iterable[str]) -> None:
    """Refuse columns that are not real numbers, before any of them is expanded."""
    from pyarrow import types

    real = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    kinds = ((name, schema.field(name).type) for name in names)
    problems = [
        Problem("E-DTYPE", f"got {kind}, expected real", key=f"column {name}")
        for name, kind in kinds
        if not any(holds(kind) for holds in real)
    ]
    refuse(problems)


def _real(column: Any, name: str, before: int) -> np.ndarray:
    """Return a part of a Parquet column as float64, `before` the number of rows before it."""
    from pyarrow import types

    def key(place: tuple[int, ...]) -> str:
        return f"column {name}: row {before + place[0] + 1}"

    if column.null_count:
        (first,) = np.flatnonzero(column.is_null())[:1]
        raise refusal("E-DATA", "got no value, expected a number", key=key((int(first),)))
    if not types.is_decimal(column.type):
        return exact(column.to_numpy(zero_copy_only=False), key)
    whole, values = column.type.scale <= 0, column.to_pylist()
    for row, value in enumerate(values):
        if whole and abs(value) > EXACT:
            raise refusal("E-DTYPE", f"got {value} of {column.type}, {INEXACT}", key=key((row,)))
    return np.array(values, dtype=np.float64)


def _index_columns(schema: Any) -> set[str]:
    """Return the columns that pandas wrote for its index."""
    try:
        return {name for name in schema.pandas_metadata["index_columns"] if isinstance(name, str)}
    except (ValueError, TypeError, KeyError, RecursionError):  # there is none, or it is damaged
        return set()


def _choose(header: list[str], options: Options, index: Container[str] = ()) -> tuple[list[str], list[str]]:
    """Return the names of the features and of the target; the latter is empty if the file has none.

    `index`: columns that hold numbers of rows, beside those that go by the names of such.
    """
    counts, asked = Counter(header), options.get("target")
    problems = [
        Problem("E-DUP", f"column {name!r} stands {count} times in the header")
        for name, count in sorted(counts.items())
        if count > 1 and name
    ]
    default = [DEFAULT_TARGET] if DEFAULT_TARGET in counts and asked is not False else []
    target = [asked] if asked else default
    features = options.get("features")
    if not features:
        features = [name for name in header if name not in target]
        remedy = ", or list the columns in data.features" if "features" in options else ""
        problems += [
            Problem("E-DATA", f"column {place} {_words(name)}; leave it out (pandas: index=False){remedy}")
            for place, name in enumerate(header, 1)
            if name not in target and (name in index or _INDEX.fullmatch(name))
        ]
    for key, names in (("data.target", target), ("data.features", features)):
        for name in (name for name in names if name not in counts):
            nearest = get_close_matches(name, header[:_COMPARED], n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"the columns are {', '.join(header[:8])}"
            problems.append(Problem("E-UNKNOWN", f"no column {name!r}; {hint}", key=key))
    if not features:
        problems.append(Problem("E-EMPTY", "no columns left for the points", key="data.features"))
    if set(features) & set(target):
        problems.append(Problem("E-DUP", f"{target[0]!r} is also the target", key="data.features"))
    refuse(problems)
    return list(features), target


def _words(name: str) -> str:
    return f"is {name!r}, numbers of rows" if name else "has no name, as numbers of rows have none"


def _split(values: np.ndarray, count: int) -> Arrays:
    """Return the first `count` columns, and the one after them where there is one."""
    if values.shape[1] == count:
        return values, None
    X, y = np.split(values, [count], axis=1)
    return np.ascontiguousarray(X), np.ascontiguousarray(y[:, 0])
