"""The summary of a run: what all experiments have in common, around what the experiment itself makes of its rows."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from threadpoolctl import threadpool_limits

from expreg.core.stats import describe, settings
from expreg.output import plain
from expreg.types import Column, Experiment

Record = dict[str, Any]


class Asked(NamedTuple):
    """What a summary is asked for: the names of the swept columns, the settings of the analysis, and the search.

    `delta`: allowed failure probability; `confidence`: level of all intervals; `resamples`, `seed`: bootstrap samples;
    `search`: `axis`, `criterion` and `verify` where a bisection chose the cells, None where all of the grid was run;
    `trials`: `metric` and `space` of a sampler, where one chose the cells.
    """

    axes: Sequence[str] = ()
    delta: float = 0.1
    confidence: float = 0.95
    resamples: int = 1000
    seed: int = 0
    search: Mapping[str, Any] | None = None
    trials: Mapping[str, Any] | None = None


def summarise(experiment: Experiment, cells: pd.DataFrame, curves: pd.DataFrame, *, name: str, **asked: Any) -> Record:
    """Return the summary of a run as a JSON-able dict; what is unknown is null, never nan or infinite.

    `cells`: one row per cell, `curves`: a row per recorded step, as the store gives them; `asked`: the fields of
    `Asked`. The same rows give the same summary. An experiment that makes nothing of its rows gets a table of its
    columns. Raises ValueError if delta or confidence is outside (0, 1) or there are no resamples.
    """
    options = Asked(**asked)
    if not (0.0 < options.delta < 1.0 and 0.0 < options.confidence < 1.0 and options.resamples >= 1):
        raise ValueError(f"got {options}, expected delta and confidence in (0, 1), and resamples >= 1")
    statuses = cells["status"] if "status" in cells else pd.Series(dtype=str)
    found = {
        "name": name,
        "experiment": experiment.name,
        "counts": {"cells": len(cells), "by_status": statuses.value_counts().sort_index().to_dict()},
        "settings": {"delta": options.delta, "confidence": options.confidence},
        "best": settings.best(cells, options.axes, experiment, options.trials),
    }
    with threadpool_limits(1, user_api="blas"):  # many small products: threads wait for each other far longer
        own = experiment.summarise(cells, curves, options) or {"tables": _columns(experiment.columns(), cells)}
    return dict(plain(found | own))


def _columns(columns: Sequence[Column], cells: pd.DataFrame) -> list[Record]:
    """Return the table of what each declared column holds, as a list; empty where none is declared."""
    note = "Of the cells that have a value: median, 5 % and 95 % quantiles, or how many are true."
    head = ["column", "meaning", "cells", "median", "5 %", "95 %"]
    rows = []
    for column in (column for column in columns if column.name in cells):
        values = cells[column.name].dropna()
        numbers: list[Any] = ["–", "–", "–"]
        if column.type == "bool":
            numbers[0] = f"{int(values.sum())} true"
        elif column.type != "string":
            numbers = describe.quantiles(values.to_numpy(dtype=float), [0.5, 0.05, 0.95])
        rows.append([column.name, column.meaning, len(values), *numbers])
    return [{"title": "Columns", "note": note, "columns": head, "rows": rows}] if rows else []
