"""Cells that have finished in other runs are copied bit for bit, with where they came from; a run stops in time."""

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import pandas as pd
import pytest

import expreg
from expreg import api
from expreg.core.engine import backend, interrupt, lanes, reuse
from expreg.core.engine.lanes import Engine
from expreg.core.page import words
from expreg.core.store.part import decode, encode, part_name, scan
from expreg.core.store.store import Store
from expreg.core.store.table import read_events
from expreg.errors import InputError, Interrupted
from expreg.types import Column, Experiment

TINY: dict[str, Any] = {
    "experiment": "threshold",
    "name": "tiny",
    "data": {"kind": "sphere", "n": 4, "d": 4},
    "training": {"max_steps": 60, "tolerance": 0.05, "curve": {"points": 8}},
    "measure": ["E0", "E5"],
    "sweep": {"product": {"m": [8, 32, 128], "replicate": {"count": 2}}},
}
STEPS = {"max_steps": 60, "tolerance": 0.0, "measure_every": 1}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty directory, and leave out the figures, which take most of the time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("expreg.core.page.page.write", lambda *arguments: None)
    return tmp_path


def run(name: str, overrides: Any = (), **options: Any) -> api.Run:
    return expreg.run(TINY, overrides, out=f"runs/{name}", draw=False, **options)


def reused(name: str) -> list[tuple[str, int]]:
    return [(event["run"], event["cells"]) for event in read_events(f"runs/{name}") if event["kind"] == "reused"]


def begun(name: str) -> list[int]:
    """Return how many cells each execution had to run."""
    return [event["open"] for event in read_events(f"runs/{name}") if event["kind"] == "start"]


# --- what is taken ----------------------------------------------------------------------------------


def test_rows_are_taken_bit_for_bit_with_where_they_came_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From runs with other axes: of one value of m, and along an axis of tolerances that has ours among them."""
    with monkeypatch.context() as patch:
        patch.setattr(backend, "__version__", "0.0.7")
        one = run("one", {"sweep.product.m": [8]})
    two = run("two", {"sweep.product.m": [32, 128], "sweep.product.training.tolerance": [0.01, 0.05]})
    with monkeypatch.context() as patch:
        patch.setattr(lanes, "compile_program", None)  # nothing can run
        capsys.readouterr()
        found = run("all", reuse="runs/*", progress=True)
    assert capsys.readouterr().err.splitlines()[0] == "6 of 6 cells taken from runs/one, runs/two"
    sources = pd.concat([one.cells, two.cells[two.cells["training.tolerance"] == 0.05]])
    expected = sources.sort_values("cell", ignore_index=True)[found.cells.columns]
    pd.testing.assert_frame_equal(found.cells, expected, check_exact=True)
    assert found.cells.groupby("m")["expreg_version"].first()[8] == "0.0.7"
    curves = pd.concat([one.curves, two.curves[two.curves["cell"].isin(found.cells["cell"])]])
    pd.testing.assert_frame_equal(
        found.curves, curves.sort_values("cell", kind="stable", ignore_index=True), check_exact=True
    )
    assert reused("all") == [("runs/one", 2), ("runs/two", 4)]
    manifest = json.loads(Path("runs/all/manifest.json").read_text())
    assert [(one["run"], one["cells"], one["ending"]) for one in manifest["reused"]] == [
        ("runs/one", 2, "finished"),
        ("runs/two", 4, "finished"),
    ]
    parts = sorted(Path("runs/all/parts").iterdir())
    again = run("all", reuse=["runs/*"], progress=True)
    assert "taken" not in capsys.readouterr().err
    pd.testing.assert_frame_equal(again.cells, found.cells)
    assert sorted(Path("runs/all/parts").iterdir()) == parts


def test_only_what_is_missing_runs_and_the_manifest_keeps_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    run("one", {"sweep.product.m": [8]})
    whole = run("whole")
    found = run("some", reuse=[Path("runs/one")])
    pd.testing.assert_frame_equal(found.cells.drop(columns="seconds"), whole.cells.drop(columns="seconds"))
    assert begun("some") == [4]
    manifest = json.loads(Path("runs/some/manifest.json").read_text())
    assert (manifest["cells"], manifest["earlier"][0]["reused"][0]["cells"]) == (4, 2)
    assert not [line for line in words.warnings(found.cells, {}, (), manifest) if "set-ups" in line]
    manifest["earlier"][0]["reused"][0]["xla_flags"] = "others"
    assert [line for line in words.warnings(found.cells, {}, (), manifest) if "set-ups, xla_flags" in line]


def test_other_settings_failed_cells_and_other_experiments_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    run("other", {"training.step_size.factor": 0.5})
    expreg.run({**TINY, "experiment": "convergence"}, out="runs/convergence", draw=False)
    for part in Path("runs/convergence/parts").iterdir():  # nobody is warned of what is of no use anyway
        part.write_bytes(b"")
    with monkeypatch.context() as patch:
        failing = lambda self, cells: iter([[{"cell": cell, "status": "error"} for cell, _ in cells]])  # noqa: E731
        patch.setattr(Engine, "run", failing)
        assert run("failed").failed == 6
    found = run("run", reuse="runs/*")
    assert begun("run") == [6]
    assert reused("run") == []
    assert set(found.cells["attempt"]) == {1}


def test_the_first_run_counts_and_the_run_itself_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate("ab"):
        with monkeypatch.context() as patch:
            patch.setattr(backend, "__version__", f"0.0.{number}")
            run(name)
    for given, version in ((["runs/b", "runs/a"], "0.0.1"), ("runs/*", "0.0.0")):
        found = run("c", reuse=given, fresh=True)
        assert set(found.cells["expreg_version"]) == {version}
    shutil.rmtree("runs/a")
    shutil.rmtree("runs/b")
    for name in Path("runs").glob("c.*"):
        shutil.rmtree(name)
    run("c", reuse="runs/*")  # the same command resumes, though only the run itself is left
    assert reuse.runs(["runs/c", "runs/../runs/c"], Path("runs/c").resolve()) == []


@pytest.mark.parametrize("pattern", ["absent", "run*/*", "tiny.yaml", "empty", "[", ""])
def test_a_pattern_without_a_run_is_refused_before_anything_is_written(pattern: str, place: Path, command: Any) -> None:
    (place / "tiny.yaml").write_text(json.dumps(TINY))
    (place / "empty").mkdir()
    before = sorted(place.rglob("*"))
    code, out, err = command("run", "tiny.yaml", "--reuse", pattern)
    assert (code, out) == (2, "")
    assert err == f"error[E-RUN] --reuse: {pattern!r} matches no run directory\n"
    assert sorted(place.rglob("*")) == before


@pytest.mark.filterwarnings("always::UserWarning")
def test_of_a_damaged_run_the_rest_is_taken_and_the_damage_is_named(place: Path, command: Any) -> None:
    (place / "tiny.yaml").write_text(json.dumps(TINY))
    run("one", {"sweep.product.m": [8]})
    [damaged] = Path("runs/one/parts").iterdir()
    run("one", {"sweep.product.m": [8, 32]})
    damaged.write_bytes(damaged.read_bytes()[:-1])
    Path("runs/one/plan.json").write_text("{")
    newer = Path(shutil.copytree("runs/one", "runs/newer"))
    (newer / "parts" / damaged.name).unlink()
    [part] = newer.glob("parts/*")
    data = part.read_bytes().replace(b'"format": 1', b'"format": 9')
    part.unlink()
    (part.parent / part_name(data)).write_bytes(data)
    code, _, err = command("run", "tiny.yaml", "--out", "runs/all", "--reuse", "runs/n*", "--reuse", "runs/o*")
    assert code == 0
    warned = [line for line in err.splitlines() if line.startswith("warning")]
    assert len(warned) == 2
    assert "runs/newer: no row is taken: " in warned[0]
    assert f"runs/one: {damaged.name}: its content does not match its name; its rows are not taken" in warned[1]
    assert "2 of 6 cells taken from runs/one" in err
    assert damaged.exists()  # other runs are only read
    assert begun("all") == [4]


def test_rows_that_do_not_fit_the_columns_run_again() -> None:
    run("one", {"sweep.product.m": [8]})
    for part in list(scan(Path("runs/one"), None)):
        rows = [{**row, "residual_final": "small"} for row in decode(part.file).to_pylist()]  # type: ignore[arg-type]
        data = encode(rows, part.owner)
        (Path("runs/one/parts") / part_name(data)).write_bytes(data)  # published before the other
    run("fits", {"sweep.product.m": [8], "sweep.product.replicate.count": 1})
    found = run("two", {"sweep.product.m": [8]}, reuse=["runs/one", "runs/fits"])
    assert reused("two") == [("runs/fits", 1)]
    assert begun("two") == [1]
    assert found.cells["residual_final"].dtype == float


def test_a_bisection_takes_the_cells_of_a_grid_and_optuna_is_refused(command: Any, place: Path) -> None:
    run("grid")
    search = {"axis": "m", "from": 8, "to": 128, "points": 3, "criterion": "E5"}
    config = {**TINY, "sweep": {"product": {"replicate": {"count": 2}}, "search": search}}
    found = expreg.run(config, out="runs/search", reuse="runs/grid", draw=False)
    assert reused("search") == [("runs/grid", 6)]
    assert begun("search") == []
    assert len(found.cells) == 6
    sampled = {"search": {"optuna": {"trials": 4, "metric": "residual_final"}, "space": {"m": [8, 32]}}}
    with pytest.raises(InputError, match="E-USAGE.*--reuse.*optuna"):
        expreg.run({**TINY, "sweep": sampled}, out="runs/sampled", reuse="runs/grid")
    assert not Path("runs/sampled").exists()


# --- whose functions --------------------------------------------------------------------------------


def training(factor: float) -> expreg.Training:
    def step(x: Any, *, lr: float) -> Any:
        return x - lr * factor * x, {"loss": (x**2).sum()}

    return expreg.Training("mine", lambda key: jnp.ones(3), step, steps=4)


def sweep(name: str, factor: float, rates: list[float], **options: Any) -> api.Run:
    return expreg.sweep(training(factor), {"lr": rates}, out=f"runs/{name}", draw=False, **options)


def test_rows_of_other_functions_are_not_taken() -> None:
    sweep("one", 1.0, [0.1, 0.2])
    sweep("two", 1.0, [0.2, 0.3], reuse="runs/one")
    assert reused("two") == [("runs/one", 1)]
    with pytest.warns(UserWarning, match="runs/two: comes from other versions of your functions"):
        other = sweep("three", 2.0, [0.2, 0.3], reuse="runs/two")
    assert reused("three") == []
    with pytest.warns(UserWarning, match="have changed"):
        sweep("two", 2.0, [0.4])  # from now on the run has rows of both
    with pytest.warns(UserWarning, match="runs/two: comes from other"):
        sweep("four", 2.0, [0.2, 0.4], reuse="runs/two")
    same = sweep("five", 2.0, [0.2, 0.3, 0.4], reuse=["runs/three", "runs/four"])
    assert reused("five") == [("runs/three", 2), ("runs/four", 1)]
    losses = same.cells.set_index("lr")["loss"]
    assert losses[[0.2, 0.3]].to_dict() == other.cells.set_index("lr")["loss"].to_dict()
    Path("runs/three/manifest.json").unlink()
    with pytest.warns(UserWarning, match="or from unknown ones"):
        sweep("six", 2.0, [0.3], reuse="runs/three")
    assert reused("six") == []


@pytest.mark.parametrize(
    ("ours", "theirs", "taken"),
    [
        (None, None, 1),
        (None, "a", 1),
        ("a", "a", 1),
        ("a", "b", 0),
        ("a", None, 0),
        ("", "", 0),  # a notebook, whose code nobody knows
    ],
)
@pytest.mark.filterwarnings("ignore:.*other versions of your functions")
def test_rows_of_other_modules_are_not_taken(place: Path, ours: str | None, theirs: str | None, taken: int) -> None:
    def plan(checksum: str | None) -> dict[str, Any]:
        modules = [] if checksum is None else [{"name": "mine.py", "path": None, "sha256": checksum or None}]
        return {"hash": "0", "identity": {"experiment": "mine"}, "cells": 1, "ids": ["00"], "modules": modules}

    nothing: Any = None
    experiment = Experiment(
        name="mine", signature=nothing, build=nothing, prepare=nothing, row=nothing,
        columns=lambda: [Column("loss", "float64", "")],
    )  # fmt: skip
    settings = {"experiment": "mine", "seed": 0, "replicate": 0, "precision": "f32"}
    with Store.open(place / "theirs", plan(theirs), "") as store:
        store.commit([{"cell": "00", "status": "converged", "loss": 1.0, **settings}])
    with Store.open(place / "ours", plan(ours), "") as store:
        found = reuse.take(store, experiment, plan(ours), {"00": (settings, {})}, [place / "theirs"])
        assert found == f"{taken} of 1 cells taken from {place / 'theirs' if taken else 'other runs'}"
        assert len(store.finished) == taken


# --- the time limit ---------------------------------------------------------------------------------


def test_a_run_stops_at_its_limit_after_the_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that counts slices."""
    slices: list[int] = []
    harvest = Engine._harvest
    monkeypatch.setattr(Engine, "_harvest", lambda *arguments: (slices.append(1), harvest(*arguments))[1])
    for module in (api, interrupt):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: float(len(slices))))
    slowly = {"execution.slice_seconds": 1e-9, "execution.lanes": 2, "training": TINY["training"] | STEPS}
    for limit in (3, 5.0):
        before = len(slices)
        with pytest.raises(Interrupted, match="resume with the same command"):
            run("run", slowly, time_limit=limit)
        assert len(slices) - before == limit
    with pytest.raises(InputError, match="E-RANGE.*time_limit: got 0"):
        run("run", slowly, time_limit=0)
    assert len(run("run", slowly, time_limit=1e9).cells) == 6


def test_the_same_command_ends_a_run_with_a_limit(place: Path, command: Any) -> None:
    (place / "tiny.yaml").write_text(json.dumps(TINY))
    words = ["run", "tiny.yaml", "--out", "runs/run", "--time-limit", "0.4s"]
    slowly = ["execution.slice_seconds=1e-9", "execution.lanes=2", "training.tolerance=0", "training.measure_every=1"]
    slowly += ["sweep.product.replicate.count=30"]
    codes: list[int] = []
    while not codes or (codes[-1] == 75 and len(codes) < 200):
        began = time.monotonic()
        code, out, err = command(*words, *slowly)
        codes.append(code)
        if code == 75:
            assert out == ""
            assert err.splitlines()[-2].endswith("of 90 cells done; resume with the same command:")
            assert err.splitlines()[-1].split()[1:] == [*words, *slowly]
            assert not Path("runs/run/summary.json").exists()
        assert time.monotonic() - began < 60
    assert codes[-1] == 0
    assert len(codes) > 1
    found = expreg.load("runs/run")
    assert found.cells["attempt"].tolist() == [1] * 90
    endings = [event["kind"] for event in read_events("runs/run") if event["kind"] in ("interrupted", "finished")]
    assert endings == ["interrupted"] * (len(codes) - 1) + ["finished"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("1d", 86400), ("1.5h", 5400), ("1:30:00", 5400), ("100:00:01", 360001)],
)
def test_times_are_read(text: str, value: float) -> None:
    assert interrupt.seconds(text, "--time-limit") == value


@pytest.mark.parametrize(
    "text", ["", "90", "2x", "-1s", "0s", "0:00:00", "1:30", "1:60:00", "1e3s", "nan", "s", "1..5h", "٣s"]
)
def test_other_times_are_refused(text: str, place: Path, command: Any) -> None:
    code, out, err = command("run", "absent.yaml", f"--time-limit={text}")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("error[E-RANGE] --time-limit: got '")
    assert not list(place.iterdir())
