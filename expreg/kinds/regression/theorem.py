"""What runs from a known distance to the minimiser say of the theorem: steps, success, good starts, what is solved.

Rescaled Hyperbolic Functions Regression (arXiv:2305.00660): from M ||x0 - x*|| <= 0.1 l, log(||x0 - x*|| / eps)
approximate Newton steps reach ||x - x*|| <= eps with probability at least 1 - delta. Runs of `problem.kind: bounded`.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from expreg.core.stats.describe import (
    CONSISTENT,
    CONTRADICTS,
    Record,
    above,
    median,
    quartiles,
    shown,
    split,
    varying,
    verdict,
    with_interval,
)
from expreg.core.stats.success import exact_interval
from expreg.core.stats.summary import Asked
from expreg.core.stats.thresholds import median_interval

PROBLEM = ("loss", "activation", "rows", "columns", "noise", "radius", "weight", "weight_rule")
REPEATS = ["seed", "replicate", "draw"]
METHOD = ("solver", "sketch", "sketch_size", "precision")
SHORT = {"rows": "n", "columns": "d", "radius": "R", "weight": "w", "weight_rule": "w"}
CONSTANTS = {
    "weight_largest": "largest w",
    "shrinkage": "|x*| / |x planted|",
    "hessian_smallest": "l",
    "hessian_least": "least eigenvalue",
    "hessian_lipschitz": "M",
    "hessian_change": "M measured",
    "start_radius_norms": "radius by R and n",
    "start_radius": "0.1 l / M",
}
"""Columns of the table of good starts and their titles."""
FITTED = ("intercept", "slope", "bend")
SPREAD = ("median", "low", "high")
SHRINKS = 0.4
"""What a step from a good start shrinks the distance to x* by, at most (reconstructed)."""
BEND = 1.0
"""Steps by which a curved line may rise from a straight one: they are counted in whole numbers."""
MOST = 4
"""Groups that have a sentence and rows in the first table."""
TRIVIAL = 0.01
"""A solution of this share of the planted one is that of the regulariser."""


def summarise(cells: pd.DataFrame, curves: pd.DataFrame, asked: Asked) -> Record:
    """Return groups, tables and verdicts of runs from a known distance; nothing where there are none."""
    if cells.empty:
        return {"groups": [], "tables": [], "verdicts": [], "answer": None}
    rows = cells.sort_values("accuracy").assign(
        log=np.log(cells["distance"] / cells["accuracy"]), worst=cells["cell"].map(_worst(curves)),
        good=cells["distance"] <= cells["start_radius"].astype(float),
    )  # fmt: skip
    rows["shrinks"] = rows["worst"] <= SHRINKS
    rows["within"] = (rows["status"] == "converged") & (rows["steps"] <= np.ceil(rows["log"]))
    named = varying(rows, [*PROBLEM[1:], *METHOD])
    groups: list[Record] = []
    verdicts: list[Record] = []
    for values, part in split(rows, [*PROBLEM, *METHOD]):
        settings = (f"{SHORT.get(name, name)} = {shown(values[name])}" for name in named if not pd.isna(values[name]))
        group = _group(", ".join([values["loss"], *settings]), part, asked)
        groups.append(group)
        verdicts += _verdicts(group, part, asked)
    return {"groups": groups, "tables": list(_tables(groups)), "verdicts": verdicts, "answer": _answer(groups, asked)}


def _worst(curves: pd.DataFrame) -> "pd.Series[float]":
    """Return by cell the largest ||x_{t+1} - x*|| / ||x_t - x*|| of consecutive steps."""
    along = curves.sort_values(["cell", "step"])
    ahead = along.groupby("cell")[["step", "distance"]].shift(-1)
    ratio = (ahead["distance"] / along["distance"]).where(ahead["step"] == along["step"] + 1)
    return ratio.groupby(along["cell"]).max()


def _group(label: str, rows: pd.DataFrame, asked: Asked) -> Record:
    """Return what one problem and method have: constants, the line of the steps, and shares by distance."""
    constants = {name: median(rows[name]) for name in CONSTANTS}
    points = [
        {**values, "log": float(part["log"].iloc[0]), **quartiles(part["steps"]), "within": part["within"].mean()}
        for values, part in split(rows, ["distance", "accuracy"])
    ]
    distances = [
        {**values, "runs": len(part), "converged": (part["status"] == "converged").mean()}
        | {name: median(part[name]) for name in ("steps", "worst")}
        | {"shrinks": part["shrinks"].mean()}
        for values, part in split(rows, ["distance"])
    ]
    reached = 0.0  # from there and from everywhere nearer the steps shrink as the theorem says
    for at in distances:
        if at["shrinks"] < 1 - asked.delta:
            break
        reached = at["distance"]
    found = {"label": label, "runs": len(rows), **constants, "points": points, "distances": distances}
    return found | {"reached": reached, "fit": fit(rows, asked.confidence), "worst": quartiles(rows["worst"])}


def fit(rows: pd.DataFrame, confidence: float) -> Record | None:
    """Fit steps = a + b log(||x0 - x*|| / eps) to each replicate that always converged; None unless both were swept.

    Returns `intercept`, `slope` and `bend`, each (value, low, high): medians over the replicates with intervals that
    assume nothing about their distribution. The bend is the height in steps, at the middle of the range, of the chord
    over a parabola that is fitted instead: positive where steps grow faster than a line.
    """
    found = []
    for _, part in split(rows, ["seed", "replicate"]):
        swept = min(part["distance"].nunique(), part["accuracy"].nunique(), part["log"].nunique() - 1) > 1
        if swept and (part["status"] == "converged").all():
            log, steps = part["log"].to_numpy(float), part["steps"].to_numpy(float)
            slope, intercept = np.polyfit(log, steps, 1)
            found.append((intercept, slope, np.polyfit(log, steps, 2)[0] * np.ptp(log) ** 2 / 4))
    if not found:
        return None
    spread = (np.sort(values) for values in np.array(found).T)
    lines = {
        name: (float(np.median(values)), *median_interval(values, confidence))
        for name, values in zip(FITTED, spread, strict=True)
    }
    return {**lines, "replicates": len(found)}


# --- verdicts -------------------------------------------------------------------------------------


def _verdicts(group: Record, rows: pd.DataFrame, asked: Asked) -> Iterator[Record]:
    first, level = rows.iloc[0], 1 - asked.delta
    facts = {"group": group["label"], "criterion": first["solver"] if first["sketch"] == "none" else first["sketch"]}
    if group["fit"] is not None:
        yield _growth(group["fit"]) | facts
    good = rows[rows["good"]]
    for claim, column, by in (("steps", "within", ["distance", "accuracy"]), ("start", "shrinks", ["distance"])):
        if parts := [part.drop_duplicates(REPEATS)[column] for _, part in split(good, by)]:
            # each interval at a level at which those of all cases hold together (Bonferroni)
            confidence = 1 - (1 - asked.confidence) / len(parts)
            worst = _decisive(parts, level, confidence)
            words = (
                f"runs do, in the worst of {len(parts)} cases of {' and '.join(by)}" if len(parts) > 1 else "runs do"
            )
            yield _share(claim, worst, level, confidence, words) | facts
    each = rows.drop_duplicates(["seed", "replicate"])
    facts = facts | {"criterion": "the problem"}
    if each["hessian_lipschitz"].notna().all():
        kept = each["hessian_change"] <= each["hessian_lipschitz"]
        yield _share("lipschitz", kept, 1.0, asked.confidence, "problems satisfy the bound") | facts
    rule = first.get("weight_rule")
    if isinstance(rule, str):
        kept = each["hessian_least"] >= 1
        yield _share("convex", kept, 1.0, asked.confidence, "problems have such a Hessian") | facts
    if rule == "closeness":
        small = each["shrinkage"] <= TRIVIAL
        words = f"problems have one, the median |x*| is {median(each['shrinkage']):.2g} |x planted|"
        yield _share("trivial", small, level, asked.confidence, words) | facts


def _growth(line: Record) -> Record:
    value, low, high = line["bend"]
    if low is None or high is None:
        low, high = -math.inf, math.inf
    reason = f"A straight line has a slope of {with_interval(*line['slope'])} steps per unit of log(||x0 - x*|| / eps)."
    numbers = {"value": value, "low": low, "high": high}
    outcome = (above(-high, -low, -BEND), reason)
    return verdict("growth", "", BEND, numbers, outcome, replicates=line["replicates"])


def _share(claim: str, kept: "pd.Series[bool]", level: float, confidence: float, words: str) -> Record:
    """Return the verdict on a share of at least `level`, exact interval; of 1: on whether there is any exception.

    Runs on one problem share its chance of success. For the mean chance over these very problems the interval is then
    too wide rather than too narrow (Hoeffding 1956); it says nothing about other problems.
    """
    good, count = int(kept.sum()), len(kept)
    low, high = exact_interval(good, count, confidence)
    outcome = above(low, high, level) if level < 1 else CONSISTENT if good == count else CONTRADICTS
    numbers = {"value": good / count, "low": low, "high": high}
    return verdict(claim, "", level, numbers, (outcome, f"{good} of {count} {words}."))


def _decisive(parts: "Sequence[pd.Series[bool]]", level: float, confidence: float) -> "pd.Series[bool]":
    """Return the part that decides if all shares are at least `level`: one below it, or the one that begins lowest."""
    intervals = (exact_interval(int(part.sum()), len(part), confidence) for part in parts)
    lows, highs = zip(*intervals, strict=True)
    ends = highs if min(highs) < level else lows
    return parts[ends.index(min(ends))]


# --- tables ---------------------------------------------------------------------------------------


def _answer(groups: Sequence[Record], asked: Asked) -> Record:
    """Return what comes first: a sentence for each of the first groups, and their steps by distance and accuracy."""
    several = len(groups) > 1
    sentences = [_sentence(group, several, asked.delta) for group in groups[:MOST]]
    sentences += [f"{len(groups) - MOST} more groups are in the tables."] if len(groups) > MOST else []
    accuracies = sorted({at["accuracy"] for group in groups[:MOST] for at in group["points"]}, reverse=True)
    rows: list[list[Any]] = []
    for group in groups[:MOST]:
        rows += [[group["label"], *[""] * (len(accuracies) + 1)]] if several else []
        steps = {(at["distance"], at["accuracy"]): at["median"] for at in group["points"]}
        for at in group["distances"]:
            known = [steps.get((at["distance"], accuracy)) for accuracy in accuracies]
            rows.append([f"{at['distance']:g}", *known, f"{100 * at['converged']:.3g} %"])
    note = "Median steps from a start at ||x0 - x*|| to each eps, and the share of the runs that converge."
    columns = ["||x0 - x*||", *(f"eps = {accuracy:g}" for accuracy in accuracies), "converged"]
    return {"sentences": sentences, "table": {"title": "", "note": note, "columns": columns, "rows": rows}}


def _sentence(group: Record, several: bool, delta: float) -> str:
    done = round(sum(at["converged"] * at["runs"] for at in group["distances"]))
    found = f"{group['label'] + ': ' if several else ''}{done} of {group['runs']} runs converge"
    if group["fit"] is not None:
        slope = with_interval(*group["fit"]["slope"])
        found += f", in {slope} steps per unit of log(||x0 - x*|| / eps), of which the theorem allows 1"
    proved = group["start_radius"]
    if proved is None or not group["reached"]:
        return f"{found}."
    share = f"in {100 * (1 - delta):.3g} % of the runs"
    start = (
        f"From starts up to ||x0 - x*|| = {group['reached']:.3g} every step shrinks the distance to {SHRINKS} of it or"
    )
    return f"{found}. {start} less {share}; the proof covers starts up to {proved:.2g}."


def _tables(groups: Sequence[Record]) -> Iterator[Record]:
    """Yield the table of lines, that of constants and that of distances."""
    first = "problem and method"
    lines = [
        [
            group["label"],
            group["runs"],
            *(group["fit"][name] for name in FITTED),
            tuple(map(group["worst"].get, SPREAD)),
        ]
        for group in groups
        if group["fit"] is not None
    ]
    if lines:
        note = (
            "steps = a + b log(||x0 - x*|| / eps), medians over replicates with intervals. Bend: steps by which a "
            "parabola lies below its chord. Contraction: the largest ||x_{t+1} - x*|| / ||x_t - x*|| of a run."
        )
        columns = [first, "runs", "a", "b", "bend", "contraction"]
        yield {"title": "Steps to an accuracy", "note": note, "columns": columns, "rows": lines}
    note = (
        "Medians. l: smallest eigenvalue of the Hessian at x*; least eigenvalue and M measured: at points of the ball. "
        "Measured: the largest swept distance up to which all but a share delta of the runs shrink the distance by "
        f"{SHRINKS} or better in every step."
    )
    columns, names = [first, *CONSTANTS.values(), "measured"], (*CONSTANTS, "reached")
    rows: list[list[Any]] = [[group["label"], *(group[name] for name in names)] for group in groups]
    yield {"title": "Good starts", "note": note, "columns": columns, "rows": rows}
    columns = [first, "distance", "runs", "converged", "steps", "contraction", f"at most {SHRINKS}"]
    rows = [[group["label"], *at.values()] for group in groups for at in group["distances"]]
    note = "Shares of runs; steps and the largest contraction of a run are medians."
    yield {"title": "By distance of the start", "note": note, "columns": columns, "rows": rows}
