"""What a search of networks may ask for, and whether a criterion holds in a cell."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from expreg.core.config.model import Config
from expreg.kinds.network.events import EVENTS
from expreg.kinds.network.summary import groups


def searches(config: Config) -> Mapping[str, Sequence[str]]:
    """Return the criteria that cells of a config have an answer to, by axis: m alone, along which networks are nested.

    They are the events that are measured, `movement` where networks are trained, and what the radii of the proof and
    the linearised network say, which are known where an event needs them.
    """
    trained, radii = "training" in config.blocks, any("reach" in EVENTS[name].needs for name in config.measure)
    known = {
        "movement": trained,
        "movement_linearised": radii,
        "movement_frobenius": trained and radii,
        "movement_refined": trained and radii,
    }
    return {"m": [*config.measure, *(name for name, there in known.items() if there)]}


def success(cells: pd.DataFrame, criterion: str) -> Mapping[str, float]:
    """Return by cell whether a criterion holds: 1, 0, or nan where the cell failed or has no answer."""
    rows = groups.prepare(cells)
    [found] = [known for known in groups.criteria() if known.name == criterion]
    outcome = groups.judge(rows, found)
    values = np.full(len(rows), np.nan) if outcome is None else outcome.to_numpy()
    return dict(zip(rows["cell"], values.tolist(), strict=True))
