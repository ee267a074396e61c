"""The interactive page: every cell of a run in one HTML file that opens offline, its data compressed inside it."""

import base64
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from expreg.core.page import words
from expreg.core.page.page import EXPLORED, environment
from expreg.core.store.disk import replace
from expreg.errors import printable
from expreg.output import document
from expreg.types import BASE, TRIAL, Experiment

COLUMNS_LIMIT, DATA_LIMIT = 3_900_000, 4_400_000
"""Compressed bytes of the columns, and of columns and curves together: the page stays under 8 MB whatever the run."""
POINTS = 48
"""Recorded steps of one curve that the page keeps, evenly spaced on a logarithmic axis."""
_BATCH = 50  # curves that are compressed together
_LARGE = 20_000  # cells: from here on, numbers that are not settings have 4 digits in place of 6


def write(
    directory: str | os.PathLike[str],
    experiment: Experiment,
    cells: pd.DataFrame,
    curves: pd.DataFrame,
    summary: Mapping[str, Any],
    axes: Sequence[str],
) -> Path:
    """Write explore.html into a run directory, at once; return its path. `axes` are the swept columns.

    What would make the page larger than 8 MB is left out, and the page says so: curves, and columns after the first.
    Raises StorageError if the file cannot be written.
    """
    from plotly.offline import get_plotlyjs  # only those who ask for the page wait for the import

    page = files("expreg.core.page")
    template = environment().from_string(page.joinpath("explore.html.jinja").read_text("utf-8"))
    text = template.render(
        summary=summary,
        asked=words.asked(summary, words.parts(experiment, summary).grid),
        scripts=[Markup(page.joinpath(name).read_text("utf-8")) for name in ("charts.js", "explore.js")],
        library=_base64(zlib.compress(get_plotlyjs().encode(), 9)),
        data=_base64(packed(experiment, cells, curves, axes)),
    )
    path = Path(directory) / EXPLORED
    replace(path, text.encode())
    return path


def packed(experiment: Experiment, cells: pd.DataFrame, curves: pd.DataFrame, axes: Sequence[str]) -> bytes:
    """Return what the page shows as compressed lines of JSON: columns, then curves, then what is known of both.

    A column is `{name, meaning, axis, type, values}`, where `values` of a text are indices into its `levels`; a curve
    is `[row, steps, values of each kind of curve]`. Columns with a single value are listed in the last line.
    """
    axes = [axis for axis in axes if axis in cells]
    meanings: Mapping[str, str] = {column.name: column.meaning for column in (*experiment.columns(), *BASE)}
    meanings = {**meanings, TRIAL: "number of the trial"}
    for axis in axes:
        cells, meanings = _without_twin(cells, axis, meanings)
    cells = cells.sort_values(axes, kind="stable").reset_index(drop=True) if axes else cells
    stream = _Stream()
    varied, same = _chosen(cells, axes, list(meanings))
    digits = 4 if len(cells) > _LARGE else 6
    left_out = []
    for name in varied:
        head = {"name": printable(name), "meaning": meanings.get(name, ""), "axis": name in axes}
        if not stream.add(_column(head, cells[name], None if name in axes else digits), COLUMNS_LIMIT):
            left_out.append(name)
    declared = [column.name for column in experiment.curves() if column.name != "step"]
    kinds = [name for name in declared if name in curves and curves[name].notna().any()]
    lines, drawn = _curves(cells, curves, kinds) if kinds else iter(()), 0
    while (batch := list(islice(lines, _BATCH))) and stream.add("\n".join(batch), DATA_LIMIT):
        drawn += len(batch)
    known = {"cells": len(cells), "columns": len(varied) - len(left_out), "same": same, "left_out": left_out}
    known |= {"kinds": kinds, "curves": drawn, "all_curves": curves["cell"].nunique() if kinds else 0}
    return stream.end(document(known, None))


def _without_twin(
    cells: pd.DataFrame, axis: str, meanings: Mapping[str, str]
) -> tuple[pd.DataFrame, Mapping[str, str]]:
    """Return cells and meanings with the column `loss` in place of the axis `problem.loss`, under the axis's name.

    The column has a value also in those blocks of a grid that do not sweep the axis.
    """
    twin = axis.rpartition(".")[2]
    if twin == axis or twin not in cells:
        return cells, meanings
    swept, full = cells[axis].astype(object), cells[twin].astype(object)
    if not (swept.where(swept.notna(), full) == full).all():
        return cells, meanings
    return cells.assign(**{axis: cells[twin]}).drop(columns=twin), {**meanings, axis: meanings.get(twin, "")}


def _chosen(cells: pd.DataFrame, axes: Sequence[str], declared: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the columns of the table in their order, and the values of those that are the same in all cells.

    A column without values is neither, nor are texts that repeat those of an axis, as `loss` does of `problem.loss`.
    """
    first = [*axes, "status", "steps", "cell"]
    varied, same = [], {}
    for name in dict.fromkeys([*first, *declared, *cells]):
        if name not in cells or cells[name].isna().all():
            continue
        if name in axes or name in ("status", "cell"):
            varied.append(name)
        elif cells[name].nunique(dropna=False) == 1:
            same[printable(name)] = _text(cells[name].iloc[0])
        elif pd.api.types.is_numeric_dtype(cells[name]) or not any(cells[name].equals(cells[axis]) for axis in axes):
            varied.append(name)
    return varied, same


class _Stream:
    """Lines that are compressed as they come, so that their size is known before the next."""

    def __init__(self) -> None:
        self._codec = zlib.compressobj()
        self._data = bytearray()

    def add(self, lines: str, limit: int) -> bool:
        """Return whether the lines were added: not if that takes more than `limit` bytes."""
        trial = self._codec.copy()
        more = trial.compress(f"{lines}\n".encode()) + trial.flush(zlib.Z_SYNC_FLUSH)
        if len(self._data) + len(more) > limit:
            return False
        self._codec = trial
        self._data += more
        return True

    def end(self, line: str) -> bytes:
        """Return all bytes, with the last line."""
        return bytes(self._data) + self._codec.compress(line.encode()) + self._codec.flush()


def _column(head: Mapping[str, Any], values: pd.Series, digits: int | None) -> str:
    """Return one column as JSON; `digits` None keeps all of a number."""
    kind = pd.api.types
    if kind.is_numeric_dtype(values) and not kind.is_bool_dtype(values):
        form = "{:d}" if kind.is_integer_dtype(values) else "{!r}" if digits is None else f"{{:.{digits}g}}"
        known = np.isfinite(values.to_numpy(float, na_value=np.nan))
        texts = [form.format(v) if k else "null" for v, k in zip(values.tolist(), known, strict=True)]
        return f'{document({**head, "type": "number"}, None)[:-1]},"values":[{",".join(texts)}]}}'
    codes, levels = pd.factorize(values)
    listed = {} if len(levels) == len(values) else {"values": codes.tolist()}  # all differ: the indices are 0, 1, ...
    return document({**head, "type": "text", "levels": [_text(level) for level in levels], **listed}, None)


def _curves(cells: pd.DataFrame, curves: pd.DataFrame, kinds: Sequence[str]) -> Iterator[str]:
    """Yield the curve of every cell as JSON, in a random order that is the same every time."""
    owner = curves["cell"]
    ends = np.flatnonzero(owner.ne(owner.shift(-1))) + 1  # the steps of a cell follow each other
    starts = np.append(0, ends[:-1])
    rows = pd.Index(cells["cell"]).get_indexer(owner.iloc[starts])
    steps, values = curves["step"].to_numpy(), [curves[kind].to_numpy(float, na_value=np.nan) for kind in kinds]
    for i in np.random.default_rng(0).permutation(len(rows)):
        count = ends[i] - starts[i]
        even = starts[i] - 1 + np.unique(np.geomspace(1, count, min(POINTS, count)).round().astype(int))
        yield document([int(rows[i]), steps[even], *([float(f"{v:.4g}") for v in kind[even]] for kind in values)], None)


def _text(value: Any) -> str:
    """Return a value as the page shows it: true and false as in a query, nothing invisible."""
    return str(value).lower() if isinstance(value, bool | np.bool_) else printable(str(value))


def _base64(data: bytes) -> Markup:
    return Markup(base64.b64encode(data).decode("ascii"))
