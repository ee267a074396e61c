"""The outcome of every setting of a grid: how many runs of it converge, in how many steps, and what they leave."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from expreg.core.stats.describe import Record
from expreg.types import FAILED, TRIAL, Experiment

_SAME = ("replicate", "seed")
MOST = 20
"""Settings that the summary keeps, best first."""


def short(names: Sequence[str]) -> dict[str, str]:
    """Return the names of axes as people say them: `step_size.value` for `training.step_size.value`, `optimizer`."""
    bare = {name: name.removesuffix(".kind").removesuffix(".name") for name in names}
    cut = {name: text.partition(".")[2] or text for name, text in bare.items()}
    count = Counter(cut.values())
    return {name: cut[name] if count[cut[name]] == 1 else bare[name] for name in names}


def swept(cells: pd.DataFrame, axes: Sequence[str]) -> list[str]:
    """Return the axes that have more than one value among the cells, without those that only repeat a setting."""
    return [axis for axis in axes if axis in cells and axis not in _SAME and cells[axis].nunique(dropna=False) > 1]


def outcomes(cells: pd.DataFrame, axes: Sequence[str], final: str, *, largest: bool = False) -> pd.DataFrame:
    """Return a row per setting: its axes, `runs`, `share` that converged, their median `steps`, the median of `final`.

    `low` and `high` are the 5 % and 95 % quantiles of `final`, in which a run without a number counts as the worst.
    Cells that failed say nothing about their setting and are left out.
    """
    rows = cells[~cells["status"].isin(FAILED)]
    converged = rows["status"] == "converged"
    wanted = rows[list(axes)].assign(
        share=converged.astype(float),
        steps=pd.to_numeric(rows["steps"]).astype(float).where(converged),
        final=pd.to_numeric(rows[final], errors="coerce").astype(float).fillna(-np.inf if largest else np.inf),
    )
    grouped = wanted.groupby(list(axes), sort=True, dropna=False)
    found = grouped.agg(
        runs=("share", "size"), share=("share", "mean"), steps=("steps", "median"), final=("final", "median")
    )
    with np.errstate(invalid="ignore"):  # between infinities
        found["low"], found["high"] = (grouped["final"].quantile(level) for level in (0.05, 0.95))
    return found.reset_index().replace([np.inf, -np.inf], np.nan)


def _p_value(cells: pd.DataFrame, axes: Sequence[str], final: str, places: Sequence[int], worst: float) -> float:
    """Return that of the rank test (Mann-Whitney) on `final` between two settings, by their places in `outcomes`."""
    from scipy.stats import mannwhitneyu  # slow to import

    rows = cells[~cells["status"].isin(FAILED)]
    place = rows.groupby(list(axes), sort=True, dropna=False).ngroup()
    values = pd.to_numeric(rows[final], errors="coerce").astype(float).fillna(worst)
    one, other = (values[place == k].to_numpy() for k in places)
    return 1.0 if set(one) == set(other) and len({*one}) == 1 else float(mannwhitneyu(one, other).pvalue)


def best(
    cells: pd.DataFrame, axes: Sequence[str], experiment: Experiment, trials: Mapping[str, Any] | None = None
) -> Record:
    """Return the best settings, as a summary keeps them: the largest share, then the fewest steps, then the least left.

    Of `trials` (their number, `metric` and `space`) the best by the metric alone. `swept`: all axes that vary; `axes`:
    those that are compared, where there are any all but the experiment's inner ones; `count`: how many settings there
    are, in how many `all` and in how many `none` converge; `p_value`: of the hypothesis that the best and the next
    leave the same; null where other numbers than that decide.
    """
    final, largest = experiment.final, experiment.largest
    names = swept(cells, axes)
    compared = [name for name in names if name not in experiment.inner] or names
    order = {"share": False, "steps": True, "final": not largest}
    if trials:
        final, largest = trials["metric"]["name"], trials["metric"]["largest"]
        compared = [name for name in (TRIAL, *trials["space"]) if name in cells]
        order = {"final": not largest}
    if not compared or not final or final not in cells:
        return {"swept": [], "axes": [], "final": "", "count": 0, "all": 0, "none": 0, "p_value": None, "rows": []}
    found = outcomes(cells, compared, final, largest=largest)
    ranked = found.sort_values(list(order), ascending=list(order.values()), kind="stable")
    several = len(found) > 1 and not trials and not found["share"].any()
    places, worst = list(ranked.index[:2]), -np.inf if largest else np.inf
    return {
        "swept": names,
        "axes": compared,
        "final": final,
        "largest": largest,
        "trials": trials["trials"] if trials else 0,
        "count": len(found),
        "all": int((found["share"] == 1).sum()),
        "none": int((found["share"] == 0).sum()),
        "p_value": _p_value(cells, compared, final, places, worst) if several else None,
        "rows": ranked.head(MOST).to_dict("records"),
    }
