"""One bad cell is one row: whatever one cell does, the others keep every bit and the next run tries it again."""

from signal import SIGTERM, raise_signal

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from expreg.core.config.model import Execution
from expreg.core.engine import lanes as engine_module
from expreg.core.engine.execute import execute
from expreg.core.engine.lanes import Engine
from expreg.core.engine.search import Work, grid
from expreg.core.store import table
from expreg.core.store.store import Store
from expreg.data.files import read_file
from expreg.errors import Interrupted
from expreg.types import Column, Cost, Experiment, Program

COLUMNS = [Column("total", "float64", "sum"), Column("count", "int64", "steps"), Column("note", "string", "a text")]
ON_THE_DEVICE, TOO_LONG = 100, 101


def inputs(settings):
    return {"length": np.int32(settings["length"])}


def row(settings, record):
    return {
        "status": "converged", "total": float(record["total"]), "count": settings["length"],
        "curve_step": np.arange(2), "curve_residual": np.arange(2.0),
    }  # fmt: skip


def changed_file(place):
    """Read a file that has changed since it was planned."""
    np.save(place / "points.npy", np.eye(3))
    read_file({"path": str(place / "points.npy"), "sha256": "0" * 64})


def raise_(error):
    raise error


# what one cell does instead of returning its inputs
PREPARE = {
    1: (lambda _: np.linalg.cholesky(-np.eye(2)), "LinAlgError: Matrix is not positive definite"),
    3: (lambda _: np.linalg.svd(np.full((2, 2), np.nan)), "LinAlgError: SVD did not converge"),
    4: (lambda _: 1e200**2, "OverflowError"),
    5: (lambda place: read_file({"path": str(place / "gone.npy"), "sha256": "0"}), "InputError: error[E-PATH]"),
    8: (changed_file, "InputError: error[E-DATA]"),
    11: (lambda _: raise_(MemoryError("Unable to allocate")), "MemoryError: Unable to allocate"),
    12: (lambda _: raise_(RuntimeError("of the\n user")), "RuntimeError: of the"),
}
# what one cell has in its row besides, or instead; a function is called
ROW = {
    14: ({"count": 10**30}, "OverflowError"),
    15: ({"note": "\ud800"}, "UnicodeEncodeError"),
    16: ({"curve_residual": np.zeros((2, 2))}, "Arrow"),
    17: ({"status": ["x"]}, "ValueError: status is ['x']"),
    19: ({"curve_step": 3}, "TypeError"),
    20: ({3: 4}, "Error"),
    21: (None, "TypeError"),
    22: (lambda: raise_(MemoryError("no row")), "MemoryError: no row"),
}
DEVICE = {25: (ON_THE_DEVICE, "ValueError: no luck on the device"), 26: (TOO_LONG, "execution.cell_timeout is 0.5 s")}
FAULTS = {length: detail for faults in (PREPARE, ROW, DEVICE) for length, (_, detail) in faults.items()}
OOM, TIMEOUT = (11, 22), (26,)


def refuse(length):
    if length == ON_THE_DEVICE:
        raise ValueError("no luck on the device")
    return np.float32(0)


def build(_):
    """Return a program that takes `length` steps and ends with their sum."""
    return Program(
        init=lambda given: {
            "left": jnp.where(given["length"] == TOO_LONG, 2 * 10**9, given["length"]),
            "total": jax.pure_callback(refuse, jax.ShapeDtypeStruct((), np.float32), given["length"]),
        },
        advance=lambda s: {"left": s["left"] - 1, "total": s["total"] + s["left"]},
        running=lambda s: s["left"] > 0,
        record=lambda s: {"total": s["total"]},
    )


def countdown(prepare=inputs, row=row):
    return Experiment(
        name="countdown", columns=lambda: COLUMNS, signature=lambda _: 0, build=build, prepare=prepare, row=row,
        cost=lambda _: Cost(1.0, 1.0, 8.0),
    )  # fmt: skip


def faulty(place):
    """Return the countdown in which each cell of `FAULTS` fails in its own way."""

    def prepare(settings):
        length = settings["length"]
        if length in PREPARE:
            PREPARE[length][0](place)
        return {"length": np.int32(DEVICE.get(length, [length])[0])}

    def other(settings, record):
        change = ROW.get(settings["length"], [{}])[0]
        if change is None:
            return None
        return row(settings, record) | (change() if callable(change) else change)

    return countdown(prepare, other)


def run(place, experiment, *, lanes=4, timeout=0.5):
    """Run or resume 29 cells; return their rows by cell, and their curves."""
    cells = {
        f"c{i}": ({"experiment": "countdown", "seed": 0, "replicate": i, "precision": "f32", "length": i}, {"i": i})
        for i in range(1, 30)
    }
    plan = {"hash": "x", "identity": {"experiment": "countdown"}, "cells": len(cells), "ids": list(cells), "axes": []}
    portions = {"lanes": lanes, "slice_seconds": 1e-2, "cell_timeout": timeout, "checkpoint_seconds": None}
    execution = Execution(**portions)
    with Store.open(place, plan, "", columns=experiment.columns()) as store:
        list(execute(store, experiment, Work(cells, grid(cells)), execution, progress=False))
        counts = len(store.finished), len(store.failed)
    found, curves, damaged = table.read(place)
    assert damaged == []
    assert sum(counts) == len(cells) == len(found)  # planned = finished + failed, and nothing is left
    return found.set_index("cell"), curves


def same(one, other, *, but=()):
    """Assert that two runs have equal rows and curves, in every bit, but for the circumstances and some cells."""
    (rows, curves), (others, their) = one, other
    columns = rows.columns.drop(["seconds", "attempt"])
    left = rows.drop(list(but))[columns], curves[~curves["cell"].isin(but)].reset_index(drop=True)
    right = others.drop(list(but))[columns], their[~their["cell"].isin(but)].reset_index(drop=True)
    for mine, yours in zip(left, right, strict=True):
        pd.testing.assert_frame_equal(mine, yours, check_exact=True, check_dtype=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("cells")


@pytest.fixture(scope="module")
def clean(place):
    return run(place / "clean", countdown())


@pytest.fixture(scope="module")
def broken(place):
    return run(place / "broken", faulty(place))


@pytest.mark.parametrize("length", FAULTS)
def test_a_bad_cell_is_a_row_with_its_reason(length, broken):
    bad = broken[0].loc[f"c{length}"]
    assert bad["status"] == ("oom" if length in OOM else "timeout" if length in TIMEOUT else "error")
    assert FAULTS[length] in bad["status_detail"]


def test_the_others_keep_every_bit(broken, clean):
    assert set(clean[0]["status"]) == {"converged"}
    same(broken, clean, but=[f"c{length}" for length in FAULTS])


def test_the_next_run_tries_the_bad_cells_again_and_no_other(broken, clean, place):
    again = run(place / "broken", countdown(), timeout=None)
    same(again, clean)
    assert again[0]["attempt"].to_dict() == {f"c{i}": 2 if i in FAULTS else 1 for i in range(1, 30)}


def test_a_row_is_that_of_its_cell_whatever_it_says(clean, place):
    same(run(place / "names", countdown(row=lambda *given: row(*given) | {"cell": "c1"})), clean)


@pytest.mark.parametrize("call", [1, 4, 9])
def test_memory_that_runs_out_while_a_lane_is_filled_loses_no_cell(call, monkeypatch):
    """The inputs of that cell were prepared ahead, and have left the queue of those that wait."""
    calls, original = [], engine_module._put

    def put(*arguments):
        calls.append(0)
        if len(calls) == call:
            raise MemoryError
        original(*arguments)

    monkeypatch.setattr(engine_module, "_put", put)
    cells = [(f"c{i}", {"length": i}) for i in range(1, 30)]
    rows = [row for found in Engine(countdown(), lanes=4, devices=1).run(cells) for row in found]
    assert sorted(row["cell"] for row in rows) == sorted(cell for cell, _ in cells)
    assert {row["status"] for row in rows} == {"converged"}


def test_a_cell_that_the_engine_loses_is_a_row_and_the_run_does_not_say_that_it_finished_without_it(monkeypatch):
    monkeypatch.setattr(engine_module.Engine, "_drain", lambda *_: iter([[{"cell": "c2", "status": "converged"}]]))
    cells = [(f"c{i}", {"length": i}) for i in (1, 2, 3)]
    rows = {row["cell"]: row for found in Engine(countdown(), lanes=2).run(cells) for row in found}
    assert {cell: row["status"] for cell, row in rows.items()} == {"c1": "error", "c2": "converged", "c3": "error"}
    assert "lost" in rows["c1"]["status_detail"]


def test_cells_that_are_left_make_a_run_interrupted(monkeypatch, tmp_path):
    """Planned = finished + failed + left; a run with cells left is not `finished`."""
    monkeypatch.setattr(Engine, "run", lambda self, cells: stopped(self, list(cells)))
    with pytest.raises(Interrupted, match="1 of 29 cells done"):
        run(tmp_path / "run", countdown())


def stopped(engine, cells):
    """Yield one row and ask to stop, as a signal does."""
    yield [{"cell": cells[0][0], "status": "converged"}]
    raise_signal(SIGTERM)
    assert engine.stop()
