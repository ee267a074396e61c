"""Linear rates of convergence fitted to curves, and steps to tolerance against the linearised prediction."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from expreg import theory
from expreg.core.stats.describe import Floats, Record, median, quantiles, split

Interval = Callable[[Floats], tuple[float | None, float | None]]

# Fewer points do not show whether a line fits.
LEAST_POINTS = 4


def per_cell(cells: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Return the measured, linearised and theory rate per step, and predicted steps, one line per cell.

    A rate is the factor by which ||r_t|| shrinks per step, exp of the least-squares slope of log ||r_t|| on
    t over the tail of the curve. The tail starts after the residual was last above the geometric mean of
    its first and its last value, so that early oscillation (the catapult of B.30) and the fast modes stay
    out, and has at least LEAST_POINTS points. A curve carries no noise, so least squares on the tail needs
    no further robustness. The linearised prediction (B.21) is fitted over the same steps. `cells` as
    groups.prepare returns them.
    """
    # (1 - m eta kappa^2 lambda/2)^(1/2), unknown for other optimizers and eta_s lambda >= 2
    m, eta, smallest, scale = (cells[name] for name in ("m", "eta", "lambda_cts", "scale"))
    applies = (m * eta * scale**2 * smallest < 2.0) & (cells["optimizer"] == "sgd")
    theoretical = np.sqrt(theory.rate(m, eta, smallest, scale).where(applies))
    points = _points(cells, curves)
    tail = _tail(points)
    found = {name: _rates(tail, name) for name in ("measured", "linearised")}
    found |= {"predicted_steps": _steps_to(points, cells["tolerance"]), "theory": theoretical}
    return pd.DataFrame(found, index=cells.index)


def _points(cells: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Return the usable points of all curves, residuals as logarithms, with place and size in the curve of a cell."""
    numbers = curves.reindex(columns=["step", "residual", "linearised"])

    def column(name: str) -> Floats:
        return pd.to_numeric(numbers[name], errors="coerce").to_numpy(np.float64, na_value=np.nan)

    at = pd.Index(cells["cell"]).get_indexer(curves.get("cell", []))
    step, residual = column("step"), column("residual")
    usable = np.flatnonzero((at >= 0) & np.isfinite(step) & np.isfinite(residual) & (residual > 0.0))
    order = usable[np.lexsort((step[usable], at[usable]))]
    points = pd.DataFrame({"at": at[order], "step": step[order], "measured": np.log(residual[order])})
    with np.errstate(invalid="ignore", divide="ignore"):
        points["linearised"] = np.log(column("linearised")[order])
    first = np.flatnonzero(np.diff(points["at"], prepend=-1))
    size = np.diff(first, append=len(points))
    return points.assign(place=np.arange(len(points)) - np.repeat(first, size), size=np.repeat(size, size))


def _tail(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points of every curve behind the last that lies above the middle of its ends."""
    measured = points.groupby("at")["measured"]
    above = points["measured"] > (measured.transform("first") + measured.transform("last")) / 2
    last = points["place"].where(above, -1).groupby(points["at"]).transform("max")
    kept = points["place"] >= np.minimum(last + 1, points["size"] - LEAST_POINTS)
    return points.loc[kept, ["at", "step", "measured", "linearised"]]


def _rates(tail: pd.DataFrame, name: str) -> pd.Series:
    """Return exp of the least-squares slope per curve; nan with too few points."""
    known = tail.loc[np.isfinite(tail[name]), ["at", "step", name]]
    t, y = (known[of] - known.groupby("at")[of].transform("mean") for of in ("step", name))
    sums = pd.DataFrame({"ty": t * y, "tt": t**2, "count": 1.0}).groupby(known["at"]).sum()
    return (sums["ty"] / sums["tt"]).where(sums["count"] >= LEAST_POINTS).apply(np.exp)


def _steps_to(points: pd.DataFrame, tolerance: pd.Series) -> pd.Series:
    """Return the step at which each curve falls to its tolerance (B.26), log-linear between its points.

    A curve that ends above the tolerance is continued at the slope of its last two points.
    """
    goal = np.log(tolerance.where(tolerance > 0))
    below = points["linearised"] <= goal.loc[points["at"]].to_numpy()
    reached = points["place"].where(below).groupby(points["at"]).transform("min")
    right = reached.fillna(points["size"] - 1)
    low = points[points["place"] == right].set_index("at")
    high = points[points["place"] == (right - 1).clip(lower=0)].set_index("at")
    fall = high["linearised"] - low["linearised"]
    steps = high["step"] + (high["linearised"] - goal) / fall * (low["step"] - high["step"])
    return np.ceil(steps - 1e-9).where((fall > 0) & np.isfinite(steps))


def describe(rows: pd.DataFrame, table: pd.DataFrame, interval: Interval) -> list[Record]:
    """Return one record per (n, m): medians and quartiles over replicates of the rates, and of the steps.

    `rows` are the cells of one group, `table` has their lines of `per_cell`. `speed` is log(measured)/log(theory),
    above 1 where the residual falls faster than (C.17) asks, with the interval of the median; `steps` is measured over
    predicted steps to tolerance, converged cells only.
    """
    table = table.loc[rows.index]
    with np.errstate(invalid="ignore", divide="ignore"):
        speed = np.log(table["measured"]) / np.log(table["theory"])
    steps = (rows["steps"] / table["predicted_steps"]).where(rows["status"] == "converged")
    records = []
    for at, of in split(table.assign(n=rows["n"], m=rows["m"], speed=speed, steps=steps), ["n", "m"]):
        low, middle, high = quantiles(of["measured"], [0.25, 0.5, 0.75])
        record: Record = {name: int(value) for name, value in at.items()}
        record |= {"measured": middle, "low": low, "high": high}
        record |= {name: median(of[name]) for name in ("theory", "linearised")}
        record |= {"cells": int(np.isfinite(of["measured"]).sum())}
        records.append(record | {name: _with_interval(of[name].to_numpy(), interval) for name in ("speed", "steps")})
    return records


def _with_interval(values: Floats, interval: Interval) -> Record:
    known = np.sort(values[np.isfinite(values)])
    low, high = interval(known) if len(known) else (None, None)
    return {"value": median(known), "low": low, "high": high, "cells": len(known)}
