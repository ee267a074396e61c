"""The Python interface: the same rows however a run came about, nothing twice, nothing written for bad input."""

import json
import math
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest

import expreg
from expreg import api, checks
from expreg.core.engine import estimate, manifest, programs
from expreg.core.engine import lanes as engine
from expreg.core.store.store import Store
from expreg.core.store.table import read_events
from expreg.errors import InputError, StorageError

TINY: dict[str, Any] = {
    "experiment": "threshold",
    "name": "tiny",
    "data": {"kind": "sphere", "d": "n"},
    "training": {"max_steps": 60, "tolerance": 0.05, "curve": {"points": 8}},
    "measure": ["E0", "E5"],
    "sweep": {"product": {"m": [8, 32], "n": [4], "replicate": {"count": 3}}},
}
BOTH = {"sweep.product.precision": ["f32", "f64"]}
# How a cell was run, not what came out.
CIRCUMSTANCES = ["seconds", "attempt", "device", "expreg_version", "jax_version"]


def same_rows(one: api.Run, other: api.Run) -> None:
    """Assert that two runs hold the same cells and curves, bit for bit."""
    pd.testing.assert_frame_equal(
        one.cells.drop(columns=CIRCUMSTANCES), other.cells.drop(columns=CIRCUMSTANCES), check_exact=True
    )
    pd.testing.assert_frame_equal(one.curves, other.curves, check_exact=True)


def listing(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty directory, and leave out the figures, which take most of the time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("expreg.core.page.page.write", lambda *arguments: None)
    return tmp_path


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[api.Run]:
    """One uninterrupted run in both precisions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("expreg.core.page.page.write", lambda *arguments: None)
        yield expreg.run(TINY, BOTH, out=tmp_path_factory.mktemp("runs") / "reference")


# --- what a run is ---------------------------------------------------------------------------------


def test_a_run_has_a_row_per_cell_its_curves_and_its_summary(reference: api.Run) -> None:
    cells = reference.cells
    assert len(cells) == cells["cell"].nunique() == 12
    assert set(cells["status"]) <= {"converged", "max_steps"}
    assert (cells["attempt"] == 1).all()
    assert not [name for name in cells.columns if name.startswith("curve_")]
    ends = reference.curves.groupby("cell").last()
    np.testing.assert_array_equal(ends["residual"], cells.set_index("cell")["residual_final"])
    np.testing.assert_array_equal(ends["step"], cells.set_index("cell")["steps"])
    assert reference.summary["counts"]["cells"] == 12
    assert reference.failed == 0


def test_inputs_are_what_the_cell_started_from(reference: api.Run) -> None:
    for _, row in reference.cells.iterrows():
        inputs = reference.inputs(row["cell"])
        X, y, W, a = (inputs[name].astype(np.float64) for name in ("X", "y", "W", "a"))
        assert (X.shape, y.shape, W.shape, a.shape) == ((4, 4), (4,), (4, row["m"]), (row["m"],))
        assert inputs["W"].dtype == {"f32": np.float32, "f64": np.float64}[row["precision"]]
        residual = np.linalg.norm(np.exp(X @ W) @ a - y)
        assert residual == pytest.approx(row["residual_initial"], rel=1e-6 if row["precision"] == "f32" else 1e-13)
        gram = (X @ X.T) * (np.exp(X @ W) @ np.exp(X @ W).T) / row["m"]
        lowest = np.linalg.eigvalsh(gram)[0]
        assert lowest == pytest.approx(row["lambda_0"], rel=1e-4 if row["precision"] == "f32" else 1e-10)


def test_inputs_of_an_unknown_cell_are_bad_input(reference: api.Run) -> None:
    with pytest.raises(InputError, match="E-CELL.*'0123'"):
        reference.inputs("0123")


def test_a_file_gives_the_same_run_as_a_dict(reference: api.Run, place: Path) -> None:
    (place / "tiny.yaml").write_text(json.dumps(TINY))  # JSON is YAML
    overrides = ["sweep.product.precision=f32,f64", "sweep.product.replicate.count=3"]
    run = expreg.run("tiny.yaml", overrides)
    assert run.directory == Path("runs/tiny")
    same_rows(run, reference)


def test_load_gives_the_same_run_later_and_needs_a_run(reference: api.Run, place: Path) -> None:
    loaded = expreg.load(reference.directory)
    same_rows(loaded, reference)
    assert loaded.summary == reference.summary
    for absent in ("absent", place):
        with pytest.raises(InputError, match=r"E-RUN.*plan\.json"):
            expreg.load(absent)
    assert not listing(place)


# --- the same rows ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "execution",
    [
        {"execution.lanes": 2, "execution.slice_seconds": 1e-3},
        {"execution.lanes": 3, "execution.devices": 1},
        {"execution.lanes": 1},
    ],
)
def test_lanes_devices_and_slices_change_no_bit(reference: api.Run, execution: dict[str, Any]) -> None:
    same_rows(expreg.run(TINY, {**BOTH, **execution}, out="again"), reference)


def test_what_is_finished_never_runs_again(reference: api.Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expreg.run(TINY, out="run")
    before = listing(place)
    kept = (place / "run" / "manifest.json").read_bytes()
    monkeypatch.setattr(engine, "compile_program", None)  # nothing may be compiled, so nothing can run
    expreg.run(TINY, out="run")
    assert listing(place) == before
    assert (place / "run" / "manifest.json").read_bytes() == kept


def test_adding_values_runs_the_new_cells_only_and_removing_them_hides_rows(reference: api.Run, place: Path) -> None:
    small = expreg.run(TINY, {"sweep.product.m": [8]}, out="run")
    large = expreg.run(TINY, BOTH, out="run")
    same_rows(large, reference)
    assert (large.cells["attempt"] == 1).all()
    opened = [(e["open"], e["cells"]) for e in read_events(place / "run") if e["kind"] == "start"]
    assert opened == [(3, 3), (9, 12)]
    again = expreg.run(TINY, {"sweep.product.m": [8]}, out="run")
    same_rows(again, small)
    assert again.summary["counts"]["cells"] == 3
    assert len(again.curves["cell"].unique()) == 3
    assert api.status("run")["done"] == api.status("run")["planned"] == 3
    assert [e["kind"] for e in read_events(place / "run")].count("start") == 2


def test_a_run_in_pieces_is_the_run_in_one(reference: api.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop after every commit, with a commit after every slice."""
    monkeypatch.setattr("expreg.core.engine.execute.COMMIT_SECONDS", (0.0, 0.0))
    original, pieces = Store.commit, []

    def commit(self: Store, rows: Any) -> str | None:
        found = original(self, rows)
        if found and len(pieces) < 4:
            pieces.append(found)
            raise StorageError("stopped")
        return found

    monkeypatch.setattr(Store, "commit", commit)
    for _ in range(5):
        try:
            run = expreg.run(TINY, {**BOTH, "execution.lanes": 2}, out="run")
        except StorageError:
            continue
    same_rows(run, reference)
    assert len(pieces) == 4
    assert (run.cells["attempt"] == 1).all()


# --- failures --------------------------------------------------------------------------------------


def test_failed_cells_are_told_and_tried_again(reference: api.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:

        def full(*arguments: Any) -> Any:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

        patch.setattr(engine, "compile_program", full)
        programs.forget()
        broken = expreg.run(TINY, BOTH, out="run")
    assert broken.failed == len(broken.cells) == 12
    assert set(broken.cells["status"]) == {"oom"}
    assert broken.cells["status_detail"].str.contains("out of memory").all()
    run = expreg.run(TINY, BOTH, out="run")
    same_rows(run, reference)
    assert set(run.cells["attempt"]) == {2}


def test_one_directory_one_process(place: Path) -> None:
    config = api.load_config(TINY)
    with Store.open(place / "run", checks.sweep(config).plan, "", fresh=False):
        before = listing(place)
        with pytest.raises(StorageError, match="E-LOCK"):
            expreg.run(TINY, out="run")
        assert api.status("run")["running"]
        assert listing(place) == before


class Killed(BaseException):
    """Ends an execution as a kill would, which writes nothing more."""


def test_manifest_tells_of_every_execution(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    original = engine.Engine.run

    def killed(self: engine.Engine, cells: Any) -> Any:
        seen.append(json.loads((place / "run" / "manifest.json").read_text()))
        yield from original(self, cells)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(engine.Engine, "run", killed)
        with pytest.raises(Killed):
            expreg.run(TINY, {"sweep.product.m": [8]}, out="run")
    assert seen[0].items() >= {"ending": "running", "cells": 3, "jax": jax.__version__, "earlier": []}.items()
    expreg.run(TINY, out="run")
    last = json.loads((place / "run" / "manifest.json").read_text())
    assert last.items() >= {"ending": "finished", "cells": 3, "expreg": expreg.__version__}.items()
    assert len(last["compilations"]) == 1
    assert [earlier["ending"] for earlier in last["earlier"]] == ["killed"]
    assert all("earlier" not in earlier for earlier in last["earlier"])


def test_report_of_a_part_of_the_run(place: Path) -> None:
    config = api.load_config(TINY)
    done = expreg.run(TINY, {"sweep.product.m": [8]}, out="small")
    sweep = checks.sweep(config)
    text = (place / "small" / "config.yaml").read_text()
    with Store.open(place / "run", sweep.plan, text.replace("- 8", "- 8\n    - 32")) as store:
        early = api.report("run")
        assert early.summary["counts"]["cells"] == 0
        store.commit(done.cells.drop(columns="attempt").to_dict("records"))
        found = api.report("run")
        cells = done.cells["cell"]
        assert set(found.cells["cell"]) == set(cells)
        late = {**done.cells.to_dict("records")[0], "cell": sorted(set(sweep.cells) - set(cells))[0]}
        found = expreg.load("run")
        assert len(found.cells) == 3
        store.commit([{**late, "curve_step": [0], "curve_residual": [1.0]}])
        assert found.curves.empty  # of the cells that were read, not of later ones
        assert len(expreg.load("run").curves) == 1
    assert found.summary["counts"]["cells"] == 3
    assert json.loads((place / "run" / "summary.json").read_text()) == found.summary
    assert expreg.load("run").summary["counts"]["cells"] == 4


# --- the user's own data ---------------------------------------------------------------------------


def points(n: int = 5, d: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d))
    return X / np.linalg.norm(X, axis=1, keepdims=True), np.where(np.arange(n) % 2, 1.0, -1.0)


OWN = {**TINY, "name": "own", "data": {"kind": "file", "path": "mine.npz"}, "sweep": {"product": {"m": [8, 16]}}}


def test_own_data_are_found_from_anywhere_and_needed_for_their_arrays_only(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = points()
    np.savez(place / "mine.npz", X=X, y=y)
    expreg.run(OWN)
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run = expreg.load("../runs/own")
    cell = run.cells["cell"][0]
    np.testing.assert_array_equal(run.inputs(cell)["X"], X.astype(np.float32))
    np.testing.assert_array_equal(run.inputs(cell)["y"], y)
    np.savez(place / "mine.npz", X=X[::-1], y=y)
    with pytest.raises(InputError, match="E-CELL"):  # other data are other cells
        expreg.load("../runs/own").inputs(cell)
    (place / "mine.npz").unlink()
    with pytest.raises(InputError, match=r"E-FILE.*mine\.npz"):
        expreg.load("../runs/own").inputs(cell)
    later = expreg.load("../runs/own")
    assert later.summary["counts"]["cells"] == len(later.cells) == 2
    assert api.status("../runs/own")["done"] == 2


@pytest.mark.parametrize(
    ("own", "line"),
    [
        ({"path": "twice.npz"}, r"error\[E-DATA\].*twice\.npz: X\[3\] equals X\[1\].*allow_duplicates"),
        ({"path": "long.npz"}, r"error\[E-DATA\].*norm 3, expected 1.*data\.normalise: true"),
        ({"path": "short.npz"}, r"error\[E-SHAPE\].*y: got shape \(4,\), expected \(5,\)"),
        ({"path": "/etc/hostname"}, r"error\[E-ENUM\].*data\.path: got a nameless file, expected one of \.npy"),
        ({"path": "https://example.org/mine.npz"}, r"error\[E-PATH\].*data\.path: got .*, expected a local file"),
        ({"path": "."}, r"error\[E-FILE\].*cannot be read: not a file"),
        ({"path": "mine.csv", "target": "lable"}, r"error\[E-UNKNOWN\].*no column 'lable'; did you mean label\?"),
        ({"path": "mine.csv", "target": "label"}, r"error\[E-DATA\].*mine\.csv:3: got 2 columns, expected 3"),
    ],
)
@pytest.mark.parametrize("call", [expreg.run, api.plan])
def test_files_that_cannot_be_used_are_one_line_and_nothing_is_written(
    place: Path, own: dict[str, Any], line: str, call: Callable[..., Any]
) -> None:
    X, y = points()
    np.savez(place / "twice.npz", X=X[[0, 1, 2, 1, 4]], y=y)
    np.savez(place / "long.npz", X=3 * X, y=y)
    np.savez(place / "short.npz", X=X, y=y[:4])
    (place / "mine.csv").write_text("a,b,label\n1,0,1\n0,1\n")
    before = listing(place)
    with pytest.raises(InputError, match=line) as caught:
        call({**OWN, "data": {"kind": "file", **own}})
    assert len(caught.value.lines()) == 1
    assert listing(place) == before


def test_problems_of_several_files_are_told_at_once(place: Path) -> None:
    X, y = points()
    for name in ("one.npz", "two.npz"):
        np.savez(place / name, X=2 * X if name == "one.npz" else X, y=y[:4] if name == "two.npz" else y)
    with pytest.raises(InputError) as caught:
        expreg.run(OWN, {"sweep.product": {"m": [8, 16], "data.path": ["one.npz", "two.npz"]}})
    assert [line.split(":")[0].split("/")[-1] for line in caught.value.lines()] == ["one.npz", "two.npz"]
    assert listing(place) == ["one.npz", "two.npz"]


# --- memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "line"),
    [
        ({"m": [64, 2**24], "n": [4096]}, r"^error\[E-MEM\] cell m=16777216 n=4096: needs \d+ GiB, have [\d.]+ GiB"),
        ({"m": [2], "n": [4, 65536]}, r"^error\[E-MEM\] cell n=65536: needs \d+ GiB, have [\d.]+ GiB"),
    ],
)
@pytest.mark.parametrize("call", [expreg.run, api.plan])
def test_cells_that_do_not_fit_are_refused_before_anything_is_written(
    place: Path, monkeypatch: pytest.MonkeyPatch, sizes: dict[str, Any], line: str, call: Callable[..., Any]
) -> None:
    monkeypatch.setattr(estimate, "host_memory", lambda: 16 * 2**30)
    monkeypatch.setattr(estimate, "memory", lambda device: 16 * 2**30)
    overrides = {"sweep.product.m": sizes["m"], "sweep.product.n": sizes["n"], "data.d": 8}
    if call is api.plan and max(sizes["m"]) > 2:  # what only lacks devices is planned
        assert call(TINY, overrides)["devices_needed"] > 1
        return
    with pytest.raises(InputError, match=line) as caught:
        call(TINY, overrides)
    assert len(caught.value.lines()) == 1
    assert not listing(place)


def test_memory_is_asked_for_what_a_lane_of_each_device_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    config = api.load_config(TINY)
    sweep = checks.sweep(config)
    settings = [settings for settings, _ in sweep.cells.values()]
    largest = max(sweep.experiment.cost(one).bytes for one in settings)
    for devices, room, fits in ((2, 2.01, True), (2, 1.99, False), (1, 2.01, True), (1, 1.99, False)):
        monkeypatch.setattr(estimate, "memory", lambda device, room=room: room * largest)
        assert (not estimate.too_large(sweep.experiment, settings, devices)) == fits


# --- plan and doctor -------------------------------------------------------------------------------


def test_plan_counts_and_writes_nothing(reference: api.Run, place: Path) -> None:
    told = api.plan(TINY, BOTH, cells=True)
    assert (told["cells"], told["programs"]) == (12, 2)
    assert told["axes"] == {"m": [8, 32], "n": [4], "replicate": [0, 1, 2], "precision": ["f32", "f64"]}
    assert {listed["cell"] for listed in told["list"]} == set(reference.cells["cell"])
    assert told["seconds"] > told["compile_seconds"] > 0
    assert math.isfinite(told["flops"])
    assert "list" not in api.plan(TINY)
    assert not listing(place)
    json.dumps(told)


def test_a_grid_too_large_to_build_is_refused_at_once(place: Path) -> None:
    began = time.process_time()
    with pytest.raises(InputError, match="E-GRID.*1000000000000 cells, limit 1000000"):
        api.plan(
            TINY, {"sweep.product": {"n": [4], "m": {"range": [2, 2000001, 2]}, "seed": {"range": [0, 999999, 1]}}}
        )
    assert time.process_time() - began < 0.5
    assert not listing(place)


def test_doctor_tells_what_numbers_depend_on() -> None:
    told = api.doctor()
    assert told["flops_per_second"] > 1e6
    assert told["memory_bytes"] > 2**28
    assert {"expreg", "jax", "jaxlib", "python", "device_kind", "matmul_precision", "prng", "xla_flags"} <= told.keys()
    json.dumps(told)
    assert told["numpy"] == np.__version__


def test_a_manifest_names_the_commits_of_the_code_and_of_the_working_directory(place: Path) -> None:
    assert manifest.code()["working_directory_commit"] is None
    for words in ("init -q", "-c user.name=a -c user.email=a@b.c commit -q --allow-empty -m one"):
        subprocess.run(["git", *words.split()], check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    assert head.startswith(manifest.code()["working_directory_commit"])
    package = Path(expreg.__file__).resolve().parents[1]
    assert bool(manifest.code()["commit"]) == (package / ".git").exists()


@pytest.mark.parametrize("init", ["coupled", "iid"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_trained_network_is_that_of_the_row(init, optimizer, tmp_path):
    """In Gram space (sgd) and in weight space (adam); adam needs a step size of its own."""
    rule = {"rule": "fixed", "value": 0.01} if optimizer == "adam" else {"rule": "spectral"}
    config = {
        "experiment": "convergence",
        "name": "trained",
        "precision": "f64",
        "data": {"kind": "sphere", "d": 6},
        "network": {"init": init, "scale": 0.5, "activation": "cosh"},
        "training": {"optimizer": {"name": optimizer}, "step_size": rule, "max_steps": 70},
        "measure": ["E5"],
        "sweep": {"product": {"n": [6], "m": [10, 24]}},
    }
    run = expreg.run(config, out=tmp_path, draw=False)
    for row in run.cells.itertuples():
        network, start = run.trained(row.cell), run.inputs(row.cell)  # a warning would be an error
        W, a = (np.asarray(array[...]) for array in (network.W, network.a))
        assert W.dtype == np.float64
        residual = 0.5 * np.cosh(start["X"] @ W) @ a - start["y"]
        assert np.linalg.norm(residual) == pytest.approx(row.residual_final, rel=1e-9)
        moved = np.linalg.norm(W - start["W"], axis=0).max()
        assert moved == pytest.approx(row.max_movement, rel=1e-9) or (optimizer == "adam" and moved < row.max_movement)


def test_what_is_not_trained_has_no_network(tmp_path):
    axes = {"sweep": {"product": {"n": [4], "m": [8]}}}
    run = expreg.run({"experiment": "concentration", "name": "x", **axes}, out=tmp_path, draw=False)
    with pytest.raises(InputError, match="concentration: it trains nothing"):
        run.trained(run.cells["cell"][0])
    with pytest.raises(InputError, match="the plan has no cell"):
        run.trained("0" * 16)
