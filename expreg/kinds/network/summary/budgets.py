"""Time as an axis: which networks converge within a shorter budget than the one they were given.

One run of gradient descent answers for every budget up to its own: it converged within T steps if it stopped by then.
Time is flow time, in units of 2 log(||r_0|| / eps) / (eta_s lambda) steps: at 2 it is the time of (C.17), in which a
run at the rate of E4 gets to its tolerance.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from expreg.kinds.network.summary import groups
from expreg.types import FAILED

TIMES = (0.5, 1.0, 2.0, 4.0, 10.0, 20.0, 40.0, 100.0)


def steps_of(rows: pd.DataFrame) -> pd.Series:
    """Return the steps of one unit of flow time per row; nan where undefined."""
    eta_scaled = rows["eta"] * rows["m"] * rows["scale"] ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.log(rows["residual_initial"] / rows["tolerance"])
        found = 2.0 / (eta_scaled * rows["lambda_cts"]) * ratio
    return found.where(np.isfinite(found) & (found > 0.0))


def longest(rows: pd.DataFrame) -> float | None:
    """Return the flow time that nearly every run was given, None where budgets are not in flow time or too mixed.

    The lower 1 % of runs may have met the limit of steps (`at_most`), or lose a step to rounding.
    """
    given = (rows["max_steps"] / steps_of(rows)).dropna()
    return float(given.quantile(0.01)) if len(given) else None


def within(rows: pd.DataFrame, time: float) -> pd.Series:
    """Return per row whether training reached its tolerance within a flow time: 1, 0, or nan where that is unknown."""
    budget = np.ceil(time * steps_of(rows))
    converged = rows["status"] == "converged"
    known = budget.notna() & ~rows["status"].isin(FAILED) & (converged | (rows["max_steps"] >= budget))
    return (converged & (rows["steps"] <= budget)).astype(float).where(known)


def outcomes(rows: pd.DataFrame) -> Iterator[tuple[float, pd.Series]]:
    """Yield (flow time, success per row) for every one of TIMES that the runs were given.

    Nothing where another algorithm than gradient descent was run: its steps are not measured in flow time.
    """
    most = longest(rows)
    if most is None or not rows["E5"].notna().any() or not groups.plain(rows).all():
        return
    for time in TIMES:
        if time <= most * (1.0 + 1e-3):
            yield time, within(rows, time)


def words(rows: pd.DataFrame) -> str:
    """Return the budget of the runs in words, empty where there is none; convergence is measured within it."""
    steps = rows["max_steps"].dropna().unique()
    if len(steps) == 1:
        return f"within {steps[0]:.0f} steps"
    most = longest(rows)
    return "" if most is None else f"within flow time {most:.2g}"
