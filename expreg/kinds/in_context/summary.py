"""The shift of the target against its bounds, and steps of a query against new tokens: tables and verdicts.

An instance is one move of one problem: every point of a cell's curve, or the cell itself where the curve is over
tokens. Ratios are measured / bound, so a bound holds where they are at most one.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from expreg.core.stats.describe import CONSISTENT, CONTRADICTS, UNRESOLVED, Record, median, split, varying, verdict
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
CLOSE = {"cosine_gd": "cos gd", "cosine_newton": "cos Newton", "size_gd": "size gd", "size_newton": "size Newton"}
CLOSE |= {f"path_{name}": f"all: {title}" for name, title in CLOSE.items()}
"""How close steps and tokens come: column, and its title in a table."""
GROUPED = ("problem", "moved", "activation", "loss", "precision")
SPREAD = {"low": 0.05, "median": 0.5, "high": 0.95}
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
    groups = []
    for key, part in parts:
        label = ", ".join(str(MOVED.get(key[name], key[name])) for name in names)
        own = points[points["cell"].isin(part["cell"])]
        group = {"group": key, "label": label, "cells": len(part), "ratios": _ratios(key, own)}
        group |= {"slope": _slope(own, asked.confidence), "first_order": _first_order(own)}
        errors = {label: _largest(part, column) for label, (column, _) in EXACT.items()}
        groups.append(group | {"errors": errors, "closeness": _closeness(part, curves)})
    statuses = cells["status"].value_counts().sort_index().to_dict()
    return {
        "counts": {"cells": len(cells), "by_status": statuses, "instances": len(points)},
        "answer": {"sentences": _sentences(groups)},
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
    alone = cells[~cells["cell"].isin(points["cell"].unique())]
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


def _ratios(key: Record, points: pd.DataFrame) -> list[Record]:
    """Return count, violations and quantiles of measured / bound, for each bound, of all instances and by regime."""
    tolerance = ROUNDING[str(key.get("precision", "f64"))]
    parts = [("all", None, points)]
    for over, levels in _levels(points).items():
        if 1 < levels.nunique() <= MOST_LEVELS:
            parts += [(over, value, part) for value, part in points.groupby(levels)]
    found = []
    for over, value, part in parts:
        for bound in BOUNDS:
            values = ratios(part, bound)
            if len(values):
                counts = {"instances": len(values), "violations": int((values > 1 + tolerance).sum())}
                spread = dict(zip(SPREAD, np.quantile(values, list(SPREAD.values())), strict=True))
                found.append(
                    {"over": over, "value": value, "bound": bound, **counts, **spread, "largest": values.max()}
                )
    return found


def _levels(points: pd.DataFrame) -> dict[str, "pd.Series"]:
    """Return the regimes by which ratios are split: R, n, d where they are chosen, heads where those are."""
    found = {name: points[name] for name in ("n", "d")}
    if "problem.radius" in points:
        return {"R": points["problem.radius"], **found}
    if "head" in points and points["head"].notna().any():
        heads = points[["layer", "head"]].fillna(-1).astype(int).astype(str)
        return {"head": heads["layer"] + "/" + heads["head"], **found}
    return found


def _slope(points: pd.DataFrame, confidence: float) -> Record:
    """Return the slope of log ||db|| in log ||move|| over the small moves of each cell: median and its interval."""
    small = points[(points["largest_change"] <= SMALL) & (points["shift"] > 0)]
    logs = small[["move", "shift"]].apply(np.log)
    centred = logs - logs.groupby(small["cell"]).transform("mean")
    sums = centred.mul(centred["move"], axis=0).groupby(small["cell"]).sum()
    slopes = np.sort((sums["shift"] / sums["move"])[sums["move"] > 0.1].to_numpy())
    if not len(slopes):
        return {"value": None, "low": None, "high": None, "least": None, "largest": None, "cells": 0}
    low, high = median_interval(slopes, confidence)
    ends = {"least": slopes[0], "largest": slopes[-1], "cells": len(slopes)}
    return {"value": float(np.median(slopes)), "low": low, "high": high, **ends}


def _first_order(points: pd.DataFrame) -> Record:
    """Return the relative distance of the first-order shift (G.4) from the exact one: median, by size of the move."""
    shown = points[points["shift"] > 0]
    wrong = (shown["shift_first_order"] / shown["shift"] - 1).abs()
    small = shown["largest_change"] <= SMALL
    return {"small": median(wrong[small]), "large": median(wrong[~small])}


def _largest(cells: pd.DataFrame, column: str) -> float | None:
    known = cells.get(column, pd.Series(dtype=float)).dropna()
    return float(known.max()) if len(known) else None


# --- steps of the query against new tokens --------------------------------------------------------


def _closeness(cells: pd.DataFrame, curves: pd.DataFrame) -> list[Record]:
    """Return quartiles of the closeness by head, or by each swept setting, and after the last token."""
    cells = cells.dropna(subset=["cosine_gd"]) if "cosine_gd" in cells else cells.iloc[:0]
    if cells.empty:
        return []
    own = curves[curves["cell"].isin(cells["cell"])]
    last = own.loc[own.groupby("cell")["step"].idxmax()]
    paths = [name for name in CLOSE if name.startswith("path_")]
    joined = cells.drop(columns=[c for c in paths if c in cells]).merge(last[["cell", *paths]], on="cell")
    if "head" in cells and cells["head"].notna().any():
        regimes = {"head": ["layer", "head"]}
    else:
        swept = {"n": "n", "d": "d", "R": "problem.radius", "size": "problem.largest"}
        regimes = {name: [column] for name, column in swept.items() if varying(cells, [column])}
    return [
        {"over": over, **key, "cells": len(part)}
        | {name: list(part[name].quantile([0.25, 0.5, 0.75])) for name in CLOSE}
        for over, columns in regimes.items()
        for key, part in split(joined, columns)
    ]


# --- what a reader sees ---------------------------------------------------------------------------


def _sentences(groups: Sequence[Record]) -> list[str]:
    """Return how often a bound is violated, and which is the tightest, in one sentence."""
    found = [ratio for group in groups for ratio in group["ratios"] if ratio["over"] == "all"]
    if not found:
        return []
    count, violations = (sum(ratio[name] for ratio in found) for name in ("instances", "violations"))
    tight = max(found, key=lambda ratio: ratio["median"])
    held = (
        f"No bound is violated in {count} comparisons" if not violations else f"{violations} of {count} violate a bound"
    )
    return [f"{held}; the tightest is {_bound(tight['bound'])}, measured / bound {tight['median']:.2f} (median)."]


def _tables(groups: Sequence[Record]) -> list[Record]:
    numbers = ("instances", "violations", "median", "low", "high", "largest")
    rows = [
        [group["label"], _bound(r["bound"]), *(r[name] for name in numbers)]
        for group in groups
        for r in group["ratios"]
        if r["over"] == "all"
    ]
    note = "Quantiles of ||db|| / bound over all instances; a violation is more than rounding."
    columns = ["moved", "bound", "instances", "violations", "median", "5 %", "95 %", "largest"]
    whole = {"title": "Measured / bound", "note": note, "columns": columns, "rows": rows}
    by_regime = [table for over in ("R", "head", "n", "d") for table in _by(over, groups)]
    return [whole, *by_regime, *_closeness_tables(groups)]


def _by(over: str, groups: Sequence[Record]) -> list[Record]:
    """Return the table of quantiles per regime, one column per bound; none where there is one regime only."""
    rows = []
    for group in groups:
        known = [r for r in group["ratios"] if r["over"] == over]
        for value in dict.fromkeys(r["value"] for r in known):
            by_bound = {r["bound"]: r for r in known if r["value"] == value}
            count = max(r["instances"] for r in by_bound.values())
            words = {bound: "{median:.2g} [{low:.2g}, {high:.2g}]".format(**r) for bound, r in by_bound.items()}
            rows.append([group["label"], value, count, *map(words.get, BOUNDS)])
    if not rows:
        return []
    columns = ["moved", over, "instances", *map(_bound, BOUNDS)]
    note = "Median and, in brackets, 5 % and 95 % quantile."
    return [{"title": f"Measured / bound by {over}", "note": note, "columns": columns, "rows": rows}]


def _closeness_tables(groups: Sequence[Record]) -> list[Record]:
    note = (
        "Medians. One token against one step of the query: cosine of the two moves of the attention distribution, "
        "and the norm of the step's over that of the token's; all: all tokens against one step for each."
    )
    found: dict[str, Record] = {}
    for label, r in [(group["label"], r) for group in groups for r in group["closeness"]]:
        keys = {name: r[name] for name in r if name not in ("over", "cells", *CLOSE)}
        title = f"Steps and tokens by {r['over']}"
        names = list(keys) if r["over"] == "head" else [r["over"]]
        columns = ["moved", *names, "cells", *CLOSE.values()]
        table = found.setdefault(title, {"title": title, "note": note, "columns": columns, "rows": []})
        values = map(int, keys.values()) if r["over"] == "head" else keys.values()
        table["rows"].append([label, *values, r["cells"], *(r[name][1] for name in CLOSE)])
    return list(found.values())


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
    words, digits = (CONTRADICTS, 6) if record["violations"] else (CONSISTENT, 3)
    count = f"{record['violations']} of {record['instances']} instances"
    return words, f"{count} violate it; the largest ratio is {record['largest']:.{digits}g}."


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
