"""Replicates are added until an interval is narrow: how many, from the rows alone, and where that cannot be asked."""

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

import expreg
from expreg import api
from expreg.core.engine.search import until
from expreg.errors import InputError

CONFIG = {
    "experiment": "threshold",
    "name": "u",
    "data": {"kind": "sphere", "d": "n"},
    "training": {
        "step_size": {"rule": "spectral", "factor": 1.0},
        "max_steps": {"flow_time": 2.0},
        "tolerance": 0.1,
    },
    "measure": ["E5"],
    "sweep": {
        "product": {"n": [3, 4, 6, 12], "m": {"geometric": [8, 96, 6]}, "replicate": {"count": 200}},
    },
    "analysis": {"until": 0.27, "resamples": 200},
}


def rounds(goal, of, *, count=1000, first=36):
    """Return how many replicates there are after each round, where `of(count)` is the half-width they give."""
    replicates = {f"{replicate}-{m}": replicate for replicate in range(count) for m in range(2)}
    source = until(replicates, first, goal, lambda rows: of(len(rows) / 2))
    rows, found = pd.DataFrame({"cell": pd.Series(dtype=str)}), []
    while (asked := {*source(lambda rows=rows: rows)}) - {*rows["cell"]}:
        rows = pd.DataFrame({"cell": sorted(asked | {*rows["cell"]})})
        found.append(len(rows) / 2)
    return found


@pytest.mark.parametrize("scale", [0.3, 0.7, 2.0, 2.9])
def test_replicates_are_as_many_as_the_interval_needs(scale):
    """A half-width of scale / sqrt(S) needs (scale / goal)^2; at most a tenth more run."""
    needed = max(math.ceil((scale / 0.1) ** 2), 36)
    found = rounds(0.1, lambda count: scale / math.sqrt(count))
    assert needed <= found[-1] <= 1.1 * needed + 1
    assert all(later <= 2 * earlier for earlier, later in pairwise(found))


def test_an_interval_that_stays_wide_takes_all_replicates():
    assert rounds(0.1, lambda _: math.inf)[-1] == rounds(0.1, lambda _: 0.1001)[-1] == 1000
    assert rounds(0.1, lambda _: math.inf, count=20) == [20]


@pytest.fixture(scope="module")
def narrowed(tmp_path_factory):
    return expreg.run(CONFIG, out=tmp_path_factory.mktemp("until") / "run", draw=False)


def test_a_run_ends_where_the_interval_is_narrow(narrowed):
    cells = narrowed.cells
    count = cells["replicate"].max() + 1
    assert 36 < count < 200
    assert len(cells) == 4 * cells["m"].nunique() * count  # whole rounds
    [criterion] = [one for one in narrowed.summary["groups"][0]["criteria"] if one["criterion"] == "E5"]
    fit = criterion["exponent"]["corrected"]
    assert (fit["high"] - fit["low"]) / 2 <= 0.27
    before = cells[cells["replicate"] < 36]
    assert narrowed.experiment.half_width(before, asked()) > 0.27
    assert api.status(narrowed.directory)["planned"] == 4 * cells["m"].nunique() * 200


def asked():
    from expreg.core.stats.summary import Asked

    return Asked(("n", "m", "replicate"), resamples=200)


def test_an_interrupted_run_asks_for_the_same(narrowed, tmp_path):
    rows = expreg.stream(CONFIG, out=tmp_path / "run")
    for _ in range(400):
        next(rows)
    rows.close()
    resumed = expreg.run(CONFIG, out=tmp_path / "run", draw=False)
    same = narrowed.cells["cell"].tolist()
    assert sorted(resumed.cells["cell"]) == sorted(same)
    assert np.array_equal(resumed.cells.set_index("cell").loc[same, "steps"], narrowed.cells["steps"])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"sweep": {"product": {"n": [3, 12], "m": [8, 16]}}}, r"analysis.until: expected replicates in the sweep"),
        (
            {
                "sweep": {
                    "product": {"n": [3, 12], "replicate": {"count": 40}},
                    "search": {"axis": "m", "criterion": "E5", "from": 4, "to": 64},
                }
            },
            r"analysis.until: got a search too",
        ),
    ],
)
def test_what_cannot_be_narrowed_is_refused(change, expected):
    with pytest.raises(InputError, match=expected):
        api.plan({**CONFIG, **change})


def test_an_experiment_without_an_exponent_is_refused():
    config = {"experiment": "in_context", "name": "c", "problem": {"n": 8, "d": 2}, "analysis": {"until": 0.1}}
    with pytest.raises(InputError, match=r"analysis.until: in_context has no exponent of n"):
        api.plan({**config, "sweep": {"product": {"replicate": {"count": 40}}}})
