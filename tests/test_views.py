"""The rows of a run in polars and xarray: the same values, a place for each cell, and nan where there is none."""

import sys
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

import expreg
from expreg.core.store import views
from expreg.errors import InputError
from expreg.results import Run

CONFIG: dict[str, Any] = {
    "experiment": "threshold",
    "name": "small",
    "data": {"n": 4, "d": 4},
    "training": {"max_steps": 40, "curve": {"points": 6}},
    "measure": ["E0", "E5"],
}
GRID = {"m": [8, 32, 128], "training.step_size.factor": [0.5, 1.0], "replicate": {"count": 2}}
BLOCKS = [{"data.kind": ["orthonormal"]}, {"data.kind": ["equiangular"], "data.coherence": [0.3, 0.5]}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, quickly_compiled: None) -> Run:
    return expreg.run({**CONFIG, "sweep": {"product": GRID}}, out=tmp_path_factory.mktemp("runs") / "run", draw=False)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory, quickly_compiled: None) -> Run:
    swept = {"concat": BLOCKS, "product": {"m": [8, 32]}}
    return expreg.run({**CONFIG, "sweep": swept}, out=tmp_path_factory.mktemp("runs") / "blocks", draw=False)


def test_polars_has_the_rows_with_their_types(run: Run) -> None:
    cells, curves = run.polars(), run.polars(curves=True)
    assert cells["cell"].to_list() == run.cells["cell"].tolist()
    for name in ("residual_final", "m", "E5", "status", "E5_step"):
        assert cells[name].to_list() == [None if pd.isna(value) else value for value in run.cells[name]], name
    kinds = (cells.schema[name] for name in ("status", "m", "seconds", "E5", "E5_step", "training.step_size.factor"))
    assert list(kinds) == [pl.String, pl.Int64, pl.Float64, pl.Boolean, pl.Int64, pl.Float64]
    assert curves.columns == list(run.curves)
    assert curves["residual"].to_list() == run.curves["residual"].tolist()


def test_each_cell_of_a_grid_has_its_place(run: Run) -> None:
    grid = run.xarray()
    assert dict(grid.sizes) == {"m": 3, "training.step_size.factor": 2, "replicate": 2}
    for cell in run.cells.itertuples():
        row = run.cells.loc[cell.Index]
        at = grid.sel({axis: row[axis] for axis in grid.sizes})
        for name in ("residual_final", "steps", "eta", "lambda_0", "E5"):
            assert at[name].item() == float(row[name]), name
    assert {of.dtype for of in grid.data_vars.values()} == {np.dtype(float)}
    assert "step size" in grid["eta"].attrs["long_name"]
    assert not {"cell", "status", "m"} & set(grid.data_vars)


def test_what_a_concat_leaves_out_is_missing_and_what_a_block_lacks_has_an_empty_label(
    blocks: Run,
) -> None:
    grid = blocks.xarray()
    assert dict(grid.sizes) == {"data.kind": 2, "data.coherence": 3, "m": 2}
    known = np.isfinite(grid["seconds"]).all("m")
    assert known.sel({"data.kind": "equiangular"}).to_numpy().tolist() == [True, True, False]
    assert known.sel({"data.kind": "orthonormal"}).to_numpy().tolist() == [False, False, True]
    assert np.isnan(grid["data.coherence"].to_numpy()[2])
    texts = views.dataset(pd.DataFrame({"solver": ["a", None], "loss": [1.0, 2.0]}), ["solver"], [], {})
    assert texts["loss"].sel(solver="").item() == 2.0


def test_cells_that_were_not_run_are_missing(run: Run) -> None:
    left = views.dataset(run.cells[1:], list(GRID), [], {})
    assert int(np.isnan(left["seconds"]).sum()) == 1
    nothing = views.dataset(run.cells[:0], list(GRID), [], {})
    assert set(nothing.sizes.values()) == {0}
    alone = views.dataset(run.cells[:1], [], [], {})
    assert not views.dataset(run.cells[:0], [], [], {})["steps"].notnull().any()
    assert (alone["steps"].dims, alone["steps"].item()) == ((), run.cells["steps"].iloc[0])


def test_a_trial_is_one_place_with_its_settings(tmp_path: Any) -> None:
    training = expreg.Training("toy", lambda key: 1.0, lambda x, *, rate: (x * rate, {"loss": x}), steps=9)
    space = {"rate": {"uniform": [0.1, 0.9]}, "seed": 2}
    prune = {"axis": "training.steps", "from": 1, "to": 9}
    for name, more in {"whole": {}, "pruned": {"prune": prune}}.items():
        run = expreg.sweep(training, space, tmp_path / name, search={"trials": 4, "batch": 4, **more}, draw=False)
        grid = run.xarray()
        lengths = {"training.steps": 3} if more else {}
        assert dict(grid.sizes) == {"trial": 4, **lengths, "replicate": 2}
        assert grid["rate"].dims == ("trial",)
        for row in run.cells.to_dict("records"):
            at = grid.sel({axis: row[axis] for axis in grid.sizes})
            assert (at["loss"].item(), at["rate"].item()) == (row["loss"], row["rate"])
        assert int(np.isfinite(grid["loss"]).sum()) == len(run.cells)


def test_axes_that_identify_no_cell_and_grids_without_end_are_refused(run: Run) -> None:
    with pytest.raises(InputError, match=r"E-AXES.*the axes m, replicate do not identify a cell"):
        views.dataset(run.cells, ["m", "replicate"], [], {})
    with pytest.raises(InputError, match="E-AXES"):
        views.dataset(run.cells, [], [], {})
    rows = pd.DataFrame({name: np.arange(300.0) for name in "abcd"})
    with pytest.raises(InputError, match=r"span 27000000 entries for 300 cells, limit 10000000"):
        views.dataset(rows, list("abc"), [], {})


@pytest.mark.parametrize("name", ["polars", "xarray"])
def test_a_library_that_is_not_there_is_one_line_with_the_command(
    run: Run, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf"needs {name}, which is not installed: pip install 'expreg\[frames\]'"):
        getattr(run, name)()
