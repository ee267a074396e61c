"""All figures of a run, drawn so that none can fail the report."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from expreg.core.page import trials
from expreg.core.page.rendering import reason
from expreg.core.page.style import Figure, style
from expreg.types import Experiment


def figures(
    experiment: Experiment, cells: pd.DataFrame, curves: pd.DataFrame, summary: Mapping[str, Any]
) -> list[Figure]:
    """Draw every figure that the data allow; one that fails is returned without drawing, with its reason."""
    drawn: list[Figure] = []
    sampled = (summary.get("best") or {}).get("trials")
    for name, build in ({"trials": trials.figures} | dict(experiment.figures)).items():
        if name == ("settings" if sampled else "trials"):  # lines over settings need a grid
            continue
        try:
            with style():
                drawn += build(cells, curves, summary)
        except Exception as error:  # whatever is wrong with one figure, the others and the tables stand
            drawn.append(Figure(name, name, "", None, reason(error)))
    return drawn
