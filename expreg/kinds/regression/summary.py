"""What the rows of `regression` say: outcomes per method, suboptimality curves, order and contraction near the optimum.

A *problem* is a matrix with its target, loss and start; cells that differ in the solver only solve the same one.
A *group* collects the problems that differ in the replicate only, a *method* the cells with one solver setting.
Runs from a known distance to the minimiser are grouped by `theorem`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from expreg.core.stats.describe import Floats, Record, above, quartiles, shown, split, varying, verdict, with_interval
from expreg.core.stats.success import exact_interval
from expreg.core.stats.summary import Asked
from expreg.kinds.regression import answer, theorem
from expreg.kinds.regression.columns import PROBLEM as KEYS
from expreg.solver.records import SKETCHES, chosen, names
from expreg.types import FAILED

SHAPE = ("loss", "activation", "rows", "columns")
METHOD = ("solver", "sketch", "sketch_size")
# Named in a group or a method where the run has several.
REPEATS = ("token", "draw", "seed", "replicate")
PROBLEM = ("data", *(name for name in KEYS if name not in REPEATS), "precision")
LIMITS = ("tolerance", "max_steps")
ORDER = 1.8
"""The least order of convergence that counts as quadratic: an estimate from three steps is a little below 2."""
LATE = 0.1
"""Steps count as near the optimum where the distance has fallen to this share of its start."""
FLOOR = {"f32": 1e-4, "f64": 1e-10}
"""Distances below this share of the start are rounding."""
NOTE = (
    "Suboptimality is loss minus least loss, relative to its start; the least loss is 0 where b is planted without "
    "noise, else the smallest that any solver reached on that problem. Order and contraction are those of the "
    "distance to the planted x in the norm of its Hessian, at undamped steps and above rounding."
)


def summarise(cells: pd.DataFrame, curves: pd.DataFrame, asked: Asked) -> Record:
    """Return groups, tables, verdicts and note of a run of `regression`.

    `cells`, `curves`: as the store gives them. `asked.delta`: the failure probability at which sample sizes promise
    their distortion.
    """
    kept = cells[~cells["status"].isin(FAILED)] if "status" in cells else cells
    known = kept["accuracy"].notna() if "accuracy" in kept else np.zeros(len(kept), bool)
    starts, kept = theorem.summarise(kept[known], curves, asked), kept[~known]
    outer, settings = varying(kept, PROBLEM), varying(kept, LIMITS)
    traces = _traces(kept, curves, [*SHAPE, *outer])
    groups: list[Record] = []
    for values, rows in split(kept, [*SHAPE, *outer]):
        label = f"{values['loss']}, {values['activation']}, n = {values['rows']}, d = {values['columns']}"
        label += "".join(f", {name} = {shown(values[name])}" for name in outer)
        methods = [_method(one, part, settings, traces, asked.delta) for one, part in split(rows, [*METHOD, *settings])]
        groups.append({"group": values, "label": label, "methods": methods})
    pairs = [(group["group"], method) for group in groups for method in group["methods"]]
    own = [_outcomes(pairs, [*SHAPE, *outer]), *_speeds(pairs, [*SHAPE, *outer])] if kept.size else []
    return {
        "answer": starts["answer"] or answer.describe(kept, [*METHOD, *settings], [*SHAPE, *PROBLEM, *REPEATS]),
        "groups": [*starts["groups"], *groups],
        "tables": [*starts["tables"], *own],
        "verdicts": [*starts["verdicts"], *_verdicts(pairs, asked.delta, asked.confidence)],
        "note": NOTE,
    }


# --- traces ---------------------------------------------------------------------------------------


def _traces(cells: pd.DataFrame, curves: pd.DataFrame, problem: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return the curve of each cell with its `gap`, the relative suboptimality, and `seconds`.

    Lanes are looked at between slices, not between steps: the seconds of a cell are shared out evenly over its steps.
    """
    if not {"step", "loss"} <= set(curves.columns):
        return {}
    least, took, found = _least(cells, problem), cells.set_index("cell")["seconds"], {}
    for cell, trace in curves[curves["cell"].isin(least)].groupby("cell", sort=False):
        ordered = trace.sort_values("step")
        gap = ordered["loss"].to_numpy(float) - least[str(cell)]
        with np.errstate(invalid="ignore", divide="ignore"):
            found[str(cell)] = ordered.assign(
                gap=np.maximum(gap, 0.0) / gap[0],
                seconds=took[cell] * ordered["step"] / max(ordered["step"].iloc[-1], 1),
            )
    return found


def _least(cells: pd.DataFrame, problem: Sequence[str]) -> dict[str, float]:
    """Return by cell the least loss of its problem: 0 where it is planted exactly, else the smallest found."""
    found: dict[str, float] = {}
    for _, rows in split(cells, [*problem, *REPEATS]):
        planted, losses = rows["error_final"].notna().any(), rows["loss_value"].to_numpy(float)
        found |= dict.fromkeys(rows["cell"], 0.0 if planted else float(np.nanmin(losses, initial=math.inf)))
    return found


# --- methods --------------------------------------------------------------------------------------


def _method(
    values: Record, rows: pd.DataFrame, settings: Sequence[str], traces: Mapping[str, pd.DataFrame], delta: float
) -> Record:
    solver, sketch = values["solver"], values["sketch"]
    size: int | None = None if pd.isna(values["sketch_size"]) else int(values["sketch_size"])
    first, done = rows.iloc[0], rows[rows["status"] == "converged"]
    near = [_near(traces[cell], FLOOR[first["precision"]]) for cell in done["cell"] if cell in traces]
    # only steps that solve with the whole Hessian have an order; `auto` stands for the solver of this size
    exact = sketch == "none" and solver in names() and chosen(solver, first["rows"], first["columns"]).quadratic
    return {
        "label": answer.label(values, settings),
        "solver": solver,
        "exact": exact,
        "sketch": sketch,
        "sketch_size": size,
        "cells": len(rows),
        "statuses": rows["status"].value_counts().sort_index().to_dict(),
        **{name: quartiles(done[name]) for name in ("steps", "passes", "seconds")},
        **{name: quartiles(rows[name]) for name in ("softmax_residual", "x_error")},
        "orders": [order for errors in near if (order := _order(errors)) is not None],
        "contractions": [float(c) for errors in near for c in errors[1:] / errors[:-1]],
        "promised": _promise(sketch, size, int(first["columns"]), delta),
        "curve": _curve([traces[cell] for cell in rows["cell"] if cell in traces]),
    }


def _curve(traces: Sequence[pd.DataFrame]) -> Record | None:
    """Return median and quartiles of the suboptimality over runs, and their passes; a run that ended keeps its last.

    The line ends where fewer than half of the runs are still going.
    """
    usable = [trace for trace in traces if np.isfinite(trace["gap"].iloc[0])]
    if not usable:
        return None
    end = float(np.median([trace["step"].iloc[-1] for trace in usable]))
    steps = np.unique(np.concatenate([trace["step"].to_numpy() for trace in usable]))
    steps = steps[steps <= end]
    gaps, passes, seconds = (
        np.stack([_along(steps, trace, name) for trace in usable]) for name in ("gap", "passes", "seconds")
    )
    low, median, high = np.quantile(gaps, [0.25, 0.5, 0.75], axis=0).tolist()
    spent = {"passes": np.median(passes, axis=0).tolist(), "seconds": np.median(seconds, axis=0).tolist()}
    return {"step": steps.tolist(), **spent, "low": low, "median": median, "high": high}


def _along(steps: NDArray[Any], trace: pd.DataFrame, name: str) -> Floats:
    """Return a column of one run at the given steps: its latest stored value."""
    at = np.searchsorted(trace["step"].to_numpy(), steps, side="right") - 1
    values: Floats = trace[name].to_numpy(float)
    return np.where(np.isfinite(values), values, np.inf)[at]


# --- near the optimum -----------------------------------------------------------------------------


def _near(trace: pd.DataFrame, floor: float) -> Floats:
    """Return the distances at consecutive undamped steps near the optimum, down to the rounding."""
    if "error" not in trace or not np.isfinite(trace["error"].to_numpy(float)[:1]).all():
        return np.empty(0)
    steps, errors = trace["step"].to_numpy(), trace["error"].to_numpy(float)
    late = (errors <= LATE * errors[0]) & (errors > floor * errors[0]) & np.isfinite(errors)
    late &= trace["damping"].to_numpy(float) == 0
    if not late.any():
        return np.empty(0)
    first = int(np.argmax(late))
    stop = first + 1
    while stop < len(steps) and steps[stop] == steps[stop - 1] + 1 and late[stop]:
        stop += 1
    return errors[first:stop]


def _order(distances: Floats) -> float | None:
    """Return log(e_2 / e_1) / log(e_1 / e_0) of the last three distances (F.9)."""
    if len(distances) < 3:
        return None
    first, second, third = np.log(distances[-3:])
    return float((third - second) / (second - first)) if third < second < first else None


def _promise(sketch: str, size: int | None, d: int, delta: float) -> float | None:
    """Return the contraction eps / (1 - eps) of (F.10) at the optimum, for the distortion of (F.4), (F.6)."""
    if size is None or sketch not in SKETCHES:
        return None
    eps = SKETCHES[sketch].distortion(size, d, delta)
    return eps / (1 - eps) if eps is not None and eps < 0.5 else None


# --- tables and verdicts --------------------------------------------------------------------------


Pairs = Sequence[tuple[Record, Record]]
"""The values of a group and one of its methods."""


def _outcomes(pairs: Pairs, grouped: Sequence[str]) -> Record:
    """Return the table of what became of each method on each group."""
    rows = []
    for values, method in pairs:
        others = {name: count for name, count in method["statuses"].items() if name != "converged"}
        converged = method["statuses"].get("converged", 0) / method["cells"]
        spreads = [_spread(method[name]) for name in ("steps", "passes", "softmax_residual", "x_error")]
        words = ", ".join(f"{count} {name}" for name, count in others.items())
        rows.append([*values.values(), method["label"], method["cells"], f"{100 * converged:.3g} %", *spreads, words])
    columns = [*grouped, "method", "cells", "converged", "steps", "passes", "softmax residual", "x error"]
    note = "Medians and quartiles; steps and passes over the matrix of converged cells, residuals and errors of all."
    return {"title": "Outcomes", "note": note, "columns": [*columns, "other outcomes"], "rows": rows}


def _speeds(pairs: Pairs, grouped: Sequence[str]) -> Iterator[Record]:
    """Yield the table of orders and contractions, where they were measured."""
    rows = []
    for values, method in pairs:
        orders, factors = method["orders"] if method["exact"] else [], method["contractions"]
        if orders or factors:
            spreads = [_spread(quartiles(found)) for found in (orders, factors)]
            worst = max(factors, default=None)
            rows.append([*values.values(), method["label"], *spreads, worst, method["promised"], len(factors)])
    if rows:
        columns = [*grouped, "method", "order", "contraction", "worst", "promised", "steps near the optimum"]
        note = (
            "Order of convergence and contraction of one step in the norm of the Hessian, where the distance to the "
            "planted x has fallen to a tenth. Promised: eps/(1-eps) of (F.10), eps by (F.4) or (F.6) at delta."
        )
        yield {"title": "Near the optimum", "note": note, "columns": columns, "rows": rows}


def _spread(found: Record) -> str:
    return with_interval(found["median"], found["low"], found["high"])


def _verdicts(pairs: Pairs, delta: float, confidence: float) -> Iterator[Record]:
    """Yield per loss, activation and method: are exact steps quadratic, do sketched ones contract as promised."""
    pooled: dict[str, list[Record]] = {}
    for values, method in pairs:
        pooled.setdefault(f"{values['loss']}, {values['activation']}: {method['label']}", []).append(method)
    for where, methods in pooled.items():
        first = methods[0]
        facts = {"group": where, "criterion": first["solver"] if first["sketch"] == "none" else first["sketch"]}
        orders = [order for method in methods if method["exact"] for order in method["orders"]]
        if orders:
            yield _quadratic(orders) | facts
        promised = [method for method in methods if method["promised"] is not None and method["contractions"]]
        if promised:
            yield _contracts(promised, delta, confidence) | facts


def _quadratic(orders: Sequence[float]) -> Record:
    found = quartiles(orders)
    low, high = found["low"], found["high"]
    reason = f"half of the runs have an order in [{low:.2f}, {high:.2f}] in their last three steps above rounding."
    numbers = found | {"value": found["median"]}
    return verdict("quadratic", "", 2.0, numbers, (above(low, high, ORDER), reason), replicates=len(orders))


def _contracts(methods: Sequence[Record], delta: float, confidence: float) -> Record:
    shares = [factor / method["promised"] for method in methods for factor in method["contractions"]]
    good, level = sum(share <= 1 for share in shares), 1 - delta
    low, high = exact_interval(good, len(shares), confidence)
    worst = f"the worst by {max(shares):.3g} times that"
    reason = f"{good} of {len(shares)} steps near the optimum contract by eps/(1-eps) or better, {worst}."
    numbers = {"value": good / len(shares), "low": low, "high": high}
    return verdict("contraction", "", level, numbers, (above(low, high, level), reason))
