"""The shift of the target against its bounds, and steps of a query against new tokens: tables and verdicts.

An instance is one move of one problem: every point of a cell's curve, or the cell itself where the curve is over
tokens. Ratios are measured / bound, so a bound holds where they are at most one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from expreg.core.stats.describe import CONSISTENT, CONTRADICTS, UNRESOLVED, Record, quantiles, split, varying, verdict
from expreg.core.stats.summary import Asked
from expreg.core.stats.thresholds import median_interval

BOUNDS = {
    "tight": ("shift", "bound_tight", "(G.6), sinh (G.11)"),
    "rows": ("shift", "bound_rows", "(G.7), (G.8)"),
    "softmax": ("shift_softmax", "bound_softmax", "(G.9)"),
    "radius": ("shift", "bound_radius", "(G.10)"),
}
"""Name of a bound: what it bounds, its column, its formula."""
ROUNDING = {"f32": 1e-3, "f64": 1e-9}
"""Relative excess over a bound that rounding explains."""
SMALL = 1e-2
"""Moves with max |dz| up to this are small: there the shift is proportional to the move."""
SLOPE = 0.02
"""How far from 1 the slope of small moves may be."""
EXACT = {
    "G.3": ("identity_error", {"f32": 1e-5, "f64": 1e-12}),
    "G.5": ("equivalence_error", {"f32": 1e-3, "f64": 1e-9}),
}
MOVED = {"gd": "x by gradient descent", "newton": "x by Newton", "data": "A by a normal matrix"}
MOST_LEVELS = 40
CLOSE = ("cosine_gd", "cosine_newton", "size_gd", "size_newton")
GROUPED = ("problem", "moved", "activation", "loss", "precision")
QUANTILES = (0.05, 0.5, 0.95)
SPREAD = ("median", "low", "high")
NOTE = (
    "A ratio is measured / bound: a bound holds where it is at most 1, and is loose where it is far below. The radius "
    "form knows nothing but n, b and a norm R; the others know the logits or the rows."
)


def summarise(cells: pd.DataFrame, curves: pd.DataFrame, asked: Asked) -> Record:
    """Return counts, groups with their ratios and slopes, tables, verdicts and note of a run of `in_context`.

    `cells`, `curves`: as the store gives them. Intervals of slopes assume nothing about their distribution. Cells that
    collapsed or left the range of numbers are counted and left out.
    """
    usable = cells[cells["status"] == "converged"] if "status" in cells else cells
    if usable.empty:
        return {"groups": [], "tables": [], "verdicts": [], "note": NOTE}
    points = instances(usable, curves)
    parts = sorted(split(usable, GROUPED), key=lambda found: list(MOVED).index(found[0]["moved"]))
    names = list(dict.fromkeys(("moved", "activation", *varying(usable, GROUPED))))
    groups = [
        _group(
            key,
            ", ".join(str(MOVED.get(key[name], key[name])) for name in names),
            part,
            points[points["cell"].isin(part["cell"])],
            curves,
            asked.confidence,
        )
        for key, part in parts
    ]
    statuses = cells["status"].value_counts().sort_index().to_dict()
    return {
        "counts": {"cells": len(cells), "by_status": statuses, "instances": len(points)},
        "groups": groups,
        "tables": _tables(groups),
        "verdicts": [verdict for group in groups for verdict in _verdicts(group)],
        "note": NOTE,
    }


def instances(cells: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Return one row per moved problem, with the columns of its cell."""
    fixed = [c for c in (*GROUPED, "n", "d", "norm", "layer", "head") if c in cells]
    fixed += [c for c in map(str, cells.columns) if c.startswith("problem.")]
    numbers = ["move", "shift", "shift_first_order", "shift_softmax", "largest_change"]
    numbers += [column for _, column, _ in BOUNDS.values()]
    known = [c for c in numbers if c in curves]
    along = curves.dropna(subset=["shift"]) if "shift" in curves else curves.iloc[:0]
    points = cells[["cell", *fixed]].merge(along[["cell", *known]], on="cell")
    alone = cells[~cells["cell"].isin(points["cell"])]
    parts = [points, alone[["cell", *fixed, *(c for c in numbers if c in alone)]]]
    found = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    return found[found["move"] > 0].reset_index(drop=True)


def ratios(points: pd.DataFrame, bound: str) -> np.ndarray:
    """Return measured / bound of every instance that has this bound; 0 where the bound overflows to infinity."""
    measured, column, _ = BOUNDS[bound]
    shift = points[measured].to_numpy(float)
    limit = points[column].to_numpy(float)
    known = ~np.isnan(limit)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(shift[known] == 0, 0.0, shift[known] / limit[known])


def _group(
    key: Record, label: str, cells: pd.DataFrame, points: pd.DataFrame, curves: pd.DataFrame, confidence: float
) -> Record:
    tolerance = ROUNDING[str(key.get("precision", "f64"))]
    ratio_tables = [{"over": "all", "value": None, **found} for found in _ratios(points, tolerance)]
    for over, levels in _levels(points).items():
        if 1 < levels.nunique() <= MOST_LEVELS:
            ratio_tables += [
                {"over": over, "value": value, **found}
                for value, part in points.groupby(levels)
                for found in _ratios(part, tolerance)
            ]
    return {
        "group": key,
        "label": label,
        "cells": len(cells),
        "ratios": ratio_tables,
        "slope": _slope(points, confidence),
        "first_order": _first_order(points),
        "errors": {label: _largest(cells, column) for label, (column, _) in EXACT.items()},
        "closeness": _closeness(cells, curves),
    }


def _levels(points: pd.DataFrame) -> dict[str, "pd.Series"]:
    """Return the regimes by which ratios are split: R, n, d where they are chosen, heads where those are."""
    found = {name: points[name] for name in ("n", "d")}
    if "problem.radius" in points:
        return {"R": points["problem.radius"], **found}
    if "head" in points and points["head"].notna().any():
        heads = points[["layer", "head"]].fillna(-1).astype(int).astype(str)
        return {"head": heads["layer"] + "/" + heads["head"], **found}
    return found


def _ratios(points: pd.DataFrame, tolerance: float) -> list[Record]:
    """Return count, violations and quantiles of measured / bound, a record per bound that the instances have."""
    found = []
    for bound in BOUNDS:
        values = ratios(points, bound)
        if len(values):
            low, middle, high = np.quantile(values, QUANTILES)
            found.append(
                {
                    "bound": bound,
                    "instances": len(values),
                    "violations": int((values > 1 + tolerance).sum()),
                    "median": middle,
                    "low": low,
                    "high": high,
                    "largest": values.max(),
                }
            )
    return found


def _slope(points: pd.DataFrame, confidence: float) -> Record:
    """Return the slope of log ||db|| in log ||move|| over the small moves of each cell: median and its interval."""
    small = points[(points["largest_change"] <= SMALL) & (points["shift"] > 0)]
    x, y = np.log(small["move"]), np.log(small["shift"])
    centred = pd.DataFrame({"cell": small["cell"], "x": x, "y": y})
    means = centred.groupby("cell")[["x", "y"]].transform("mean")
    dx, dy = x - means["x"], y - means["y"]
    sums = pd.DataFrame({"cell": small["cell"], "xx": dx * dx, "xy": dx * dy}).groupby("cell").sum()
    slopes = np.sort((sums["xy"] / sums["xx"])[sums["xx"] > 0.1].to_numpy())
    if not len(slopes):
        return {"value": None, "low": None, "high": None, "least": None, "largest": None, "cells": 0}
    low, high = median_interval(slopes, confidence)
    return {
        "value": float(np.median(slopes)),
        "low": low,
        "high": high,
        "least": slopes[0],
        "largest": slopes[-1],
        "cells": len(slopes),
    }


def _first_order(points: pd.DataFrame) -> Record:
    """Return the relative distance of the first-order shift (G.4) from the exact one: median, by size of the move."""
    shown = points[points["shift"] > 0]
    wrong = (shown["shift_first_order"] / shown["shift"] - 1).abs()
    small = shown["largest_change"] <= SMALL
    return {"small": quantiles(wrong[small], [0.5])[0], "large": quantiles(wrong[~small], [0.5])[0]}


def _largest(cells: pd.DataFrame, column: str) -> float | None:
    known = cells[column].dropna() if column in cells else cells.iloc[:, 0][:0]
    return float(known.max()) if len(known) else None


# --- steps of the query against new tokens --------------------------------------------------------


def _closeness(cells: pd.DataFrame, curves: pd.DataFrame) -> list[Record]:
    """Return quartiles of the closeness by head, or by each swept setting, and after the last token."""
    cells = cells.dropna(subset=["cosine_gd"]) if "cosine_gd" in cells else cells.iloc[:0]
    if cells.empty:
        return []
    own = curves[curves["cell"].isin(cells["cell"])]
    last = own.loc[own.groupby("cell")["step"].idxmax()]
    paths = [f"path_{name}" for name in CLOSE]
    joined = cells.drop(columns=[c for c in paths if c in cells]).merge(last[["cell", *paths]], on="cell")
    records = []
    for over, columns in _regimes(cells).items():
        for key, part in joined.groupby(columns):
            values = key if isinstance(key, tuple) else (key,)
            records.append(
                {"over": over, **dict(zip(columns, values, strict=True)), "cells": len(part)}
                | {name: list(part[name].quantile([0.25, 0.5, 0.75])) for name in (*CLOSE, *paths)}
            )
    return records


def _regimes(cells: pd.DataFrame) -> dict[str, list[str]]:
    if "head" in cells and cells["head"].notna().any():
        return {"head": ["layer", "head"]}
    swept = {"n": "n", "d": "d", "R": "problem.radius", "size": "problem.largest"}
    return {name: [column] for name, column in swept.items() if column in cells and cells[column].nunique() > 1}


# --- what a reader sees ---------------------------------------------------------------------------


def _tables(groups: Sequence[Record]) -> list[Record]:
    rows = [
        [group["label"], _bound(r["bound"]), *(r[name] for name in ("instances", "violations", *SPREAD, "largest"))]
        for group in groups
        for r in group["ratios"]
        if r["over"] == "all"
    ]
    columns = ["moved", "bound", "instances", "violations", "median", "5 %", "95 %", "largest"]
    note = "Quantiles of ||db|| / bound over all instances; a violation is more than rounding."
    found = [{"title": "Measured / bound", "note": note, "columns": columns, "rows": rows}]
    return [
        *found,
        *(table for over in ("R", "head", "n", "d") for table in _by(over, groups)),
        *_closeness_tables(groups),
    ]


def _by(over: str, groups: Sequence[Record]) -> list[Record]:
    """Return the table of quantiles per regime, one column per bound; none where there is one regime only."""
    rows = []
    for group in groups:
        known = [r for r in group["ratios"] if r["over"] == over]
        for value in dict.fromkeys(r["value"] for r in known):
            by_bound = {r["bound"]: r for r in known if r["value"] == value}
            count = max(r["instances"] for r in by_bound.values())
            rows.append([group["label"], value, count, *(_words(by_bound.get(bound)) for bound in BOUNDS)])
    if not rows:
        return []
    columns = ["moved", over, "instances", *map(_bound, BOUNDS)]
    note = "Median and, in brackets, 5 % and 95 % quantile."
    return [{"title": f"Measured / bound by {over}", "note": note, "columns": columns, "rows": rows}]


def _words(record: Record | None) -> str | None:
    return None if record is None else "{median:.2g} [{low:.2g}, {high:.2g}]".format(**record)


def _closeness_tables(groups: Sequence[Record]) -> list[Record]:
    records = [(group, r) for group in groups for r in group["closeness"]]
    found = []
    for over in dict.fromkeys(r["over"] for _, r in records):
        keys = ["layer", "head"] if over == "head" else [over]
        own = [(g, r) for g, r in records if r["over"] == over]
        columns = ["moved", *keys, "cells", "cos gd", "cos Newton", "size gd", "size Newton"]
        columns += ["all: cos gd", "all: cos Newton", "all: size gd", "all: size Newton"]
        names = (*CLOSE, *(f"path_{name}" for name in CLOSE))
        rows = [[g["label"], *_keys(r, over), r["cells"], *(r[name][1] for name in names)] for g, r in own]
        note = (
            "Medians. One token against one step of the query: cosine of the two moves of the attention distribution, "
            "and the norm of the step's over that of the token's; all: all tokens against one step for each."
        )
        found.append({"title": f"Steps and tokens by {over}", "note": note, "columns": columns, "rows": rows})
    return found


def _keys(record: Record, over: str) -> list[Any]:
    known = {"over", "cells", *CLOSE, *(f"path_{name}" for name in CLOSE)}
    values = [value for key, value in record.items() if key not in known]
    return [int(value) for value in values] if over == "head" else values


def _bound(name: str) -> str:
    return f"{name} {BOUNDS[name][2]}"


def _verdicts(group: Record) -> list[Record]:
    precision, where = str(group["group"].get("precision", "f64")), {"group": group["label"]}
    found = [
        verdict("shift bound", r["bound"], 1.0, r | {"value": r["median"]}, _bound_words(r), **where)
        for r in group["ratios"]
        if r["over"] == "all"
    ]
    slope = group["slope"]
    if slope["value"] is not None:
        found.append(verdict("proportional", "slope", 1.0, slope, _slope_words(slope), **where))
    for label, (_, limits) in EXACT.items():
        error, limit = group["errors"][label], limits[precision]
        if error is not None:
            reason = f"the largest relative error of {group['cells']} cells is {error:.2g}; rounding allows {limit:g}."
            words = (CONSISTENT if error <= limit else CONTRADICTS, reason)
            numbers = {"value": error, "low": None, "high": None}
            found.append(verdict("shift identity", label, limit, numbers, words, **where))
    return found


def _bound_words(record: Record) -> tuple[str, str]:
    count = f"{record['violations']} of {record['instances']} instances"
    if record["violations"]:
        return CONTRADICTS, f"{count} violate it; the largest ratio is {record['largest']:.6g}."
    return CONSISTENT, f"{count} violate it; the largest ratio is {record['largest']:.3g}."


def _slope_words(slope: Record) -> tuple[str, str]:
    every = f"all {slope['cells']} cells lie in [{slope['least']:.4f}, {slope['largest']:.4f}]"
    low, high = slope["low"], slope["high"]
    if low is None or high is None:
        return UNRESOLVED, f"too few cells for an interval; {every}."
    inside = low >= 1 - SLOPE and high <= 1 + SLOPE
    outside = high < 1 - SLOPE or low > 1 + SLOPE
    is_one = "is 1" if inside else "is not 1"
    words = CONSISTENT if inside else CONTRADICTS if outside else UNRESOLVED
    return words, f"over moves with max |dz| <= {SMALL:g} the median {is_one} within {SLOPE:g}; {every}."
