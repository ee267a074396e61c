"""Linear rates of convergence fitted to curves, and steps to tolerance against the linearised prediction."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from expreg import theory
from expreg.core.stats.describe import Floats, Record, median, quantiles, split

Ints = NDArray[np.int64]
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
    table = pd.DataFrame(np.nan, range(len(cells)), ["measured", "linearised", "predicted_steps", "theory"])
    # (1 - m eta kappa^2 lambda/2)^(1/2), unknown for other optimizers and eta_s lambda >= 2
    m, eta, smallest, scale = (cells[name] for name in ("m", "eta", "lambda_cts", "scale"))
    applies = (m * eta * scale**2 * smallest < 2.0) & (cells["optimizer"] == "sgd")
    table["theory"] = np.sqrt(theory.rate(m, eta, smallest, scale).where(applies))
    if curves.empty:
        return table
    code, step, residual, linearised = _ordered(cells, curves)
    if not len(code):
        return table
    starts = np.flatnonzero(np.diff(code, prepend=-1))
    owner = code[starts]
    tail = _tail(code, starts, residual)
    table.loc[owner, "measured"] = _slope_rate(starts, step, residual, tail)
    table.loc[owner, "linearised"] = _slope_rate(starts, step, linearised, tail)
    table.loc[owner, "predicted_steps"] = _steps_to(starts, step, linearised, cells["tolerance"].to_numpy()[owner])
    return table


def _ordered(cells: pd.DataFrame, curves: pd.DataFrame) -> tuple[Ints, Floats, Floats, Floats]:
    """Return cell positions, steps and both residuals of the usable curve points, by cell and step."""
    code = pd.Index(cells["cell"]).get_indexer(curves["cell"]).astype(np.int64)
    numbers = curves.reindex(columns=["step", "residual", "linearised"]).apply(pd.to_numeric, errors="coerce")
    step, residual, linearised = numbers.to_numpy(dtype=np.float64, na_value=np.nan).T
    order = np.lexsort((step, code))
    keep = order[(code >= 0)[order] & (np.isfinite(residual) & (residual > 0) & np.isfinite(step))[order]]
    return code[keep], step[keep], residual[keep], linearised[keep]


def _tail(code: Ints, starts: Ints, residual: Floats) -> NDArray[np.bool_]:
    """Mark the points after the residual was last above its half-way value on the log scale."""
    sizes = np.diff(starts, append=len(code))
    ends = starts + sizes
    log_r = np.log(residual)
    half_way = np.repeat((log_r[starts] + log_r[ends - 1]) / 2.0, sizes)
    index = np.arange(len(code))
    above = np.maximum.reduceat(np.where(log_r > half_way, index, -1), starts)
    first = np.minimum(np.maximum(above + 1, starts), np.maximum(ends - LEAST_POINTS, starts))
    return index >= np.repeat(first, sizes)


def _slope_rate(starts: Ints, step: Floats, residual: Floats, tail: NDArray[np.bool_]) -> Floats:
    """Return exp of the least-squares slope per curve over the marked points; nan with too few points."""
    sizes = np.diff(starts, append=len(step))

    def total(values: Floats) -> Floats:
        return np.asarray(np.add.reduceat(np.where(use, values, 0.0), starts))

    with np.errstate(invalid="ignore", divide="ignore"):
        log_r = np.log(residual)
        use = tail & np.isfinite(log_r)
        count = total(np.ones(len(step)))
        t = step - np.repeat(total(step) / count, sizes)
        y = log_r - np.repeat(total(log_r) / count, sizes)
        slope = total(t * y) / total(t**2)
    return np.where(count >= LEAST_POINTS, np.exp(slope), np.nan)


def _steps_to(starts: Ints, step: Floats, residual: Floats, tolerance: Floats) -> Floats:
    """Return the step at which each curve falls to its tolerance (B.26), log-linear between its points.

    A curve that ends above the tolerance is continued at the slope of its last two points.
    """
    sizes = np.diff(starts, append=len(step))
    index = np.arange(len(step))
    below = np.where(residual <= np.repeat(tolerance, sizes), index, len(step))
    reached = np.minimum.reduceat(below, starts)
    right = np.minimum(reached, starts + sizes - 1)
    left = np.maximum(right - 1, starts)
    with np.errstate(invalid="ignore", divide="ignore"):
        fall = np.log(residual[left]) - np.log(residual[right])
        share = (np.log(residual[left]) - np.log(tolerance)) / fall
        steps = step[left] + share * (step[right] - step[left])
    return np.where((fall > 0) & np.isfinite(steps), np.ceil(steps - 1e-9), np.nan)


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
