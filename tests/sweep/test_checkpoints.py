"""A cell that was interrupted goes on from its checkpoint, to the same row in every bit, or begins again."""

import gc
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expreg import api, checks
from expreg.core.engine import checkpoints, programs
from expreg.core.engine import lanes as engine_module
from expreg.core.engine.checkpoints import Checkpoints
from expreg.core.engine.lanes import Engine
from expreg.core.store.store import Store
from expreg.errors import StorageError
from expreg.kinds.network import native
from expreg.types import Experiment, Program

pytestmark = pytest.mark.clusters

LENGTH, WIDTH = 800, 1500


class Killed(BaseException):
    """The end of a process, as far as its files are concerned."""


def walk(taken=None, factor=1.0):
    """Return an experiment whose sums depend on every step in order; steps that are executed are put into `taken`."""

    def advance(state):
        if taken is not None:
            jax.debug.callback(lambda step: taken.append(int(step)), state["step"])
        value = factor * state["value"] * 0.99 + state["noise"] * jnp.sin(state["step"] + state["value"])
        return {**state, "step": state["step"] + 1, "value": value}

    program = Program(
        init=lambda start: {**start, "step": jnp.int32(0), "value": start["noise"]},
        advance=advance,
        running=lambda state: state["step"] < state["length"],
        record=lambda state: {"steps": state["step"], "value": state["value"]},
    )
    return Experiment(
        name="walk",
        signature=lambda settings: 0,
        build=lambda _: program,
        prepare=lambda s: {
            "length": np.int32(s["length"]),
            "noise": np.random.default_rng(s["seed"]).normal(size=WIDTH).astype(np.float32),
        },
        row=lambda _, found: {
            "status": "converged",
            "steps": int(found["steps"]),
            "value": found["value"].tobytes(),
        },
    )


def cells_of(lengths):
    return [(f"c{k}", {"length": length, "seed": k}) for k, length in enumerate(lengths)]


def rows_of(experiment, cells, place=None, interval=np.inf, **more):
    """Run cells; return their rows by cell. An interval of 0 saves one after each slice."""
    kept = place and Checkpoints(place, interval)
    engine = Engine(experiment, slice_seconds=0.05, checkpoints=kept, **more)
    found = {row["cell"]: row for rows in engine.run(cells) for row in rows}
    jax.effects_barrier()
    return found


def same(one, other):
    """Return the columns in which two rows differ in any bit."""
    assert one.keys() == other.keys()
    return [
        key for key in one if key != "seconds" and np.asarray(one[key]).tobytes() != np.asarray(other[key]).tobytes()
    ]


@pytest.fixture(autouse=True)
def never_pause(monkeypatch):
    monkeypatch.setattr(checkpoints, "SHARE", 1e9)


@pytest.fixture
def killed(monkeypatch):
    """Return a function that runs cells, and ends them at once when the k-th checkpoint has its name."""

    def run(experiment, cells, place, at, **more):
        passes = count(1)

        def fault(hook):
            if hook == "checkpoint.after_rename" and next(passes) == at:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints.disk, "fault", fault)
            with pytest.raises(Killed):
                rows_of(experiment, cells, place, 0.0, **more)
        jax.effects_barrier()

    return run


@pytest.fixture
def begun(monkeypatch):
    """Collect whether any lane of a slice is fresh, slice by slice."""
    found = []

    def compile_program(*arguments):
        program = original(*arguments)

        def execute(state, fresh, *more):
            found.append(bool(fresh.any()))
            return program.execute(state, fresh, *more)

        return replace(program, execute=execute)

    original = engine_module.compile_program
    monkeypatch.setattr(engine_module, "compile_program", compile_program)
    return found


def network(precision, optimizer):
    """Return an experiment and four cells of two widths that measure events along 1500 steps."""
    adam = optimizer == "adam"
    training = {
        "optimizer": {"name": optimizer}, "tolerance": 0, "max_steps": 1500, "measure_every": 8,
        "step_size": {"rule": "fixed", "value": 1e-3} if adam else {"rule": "spectral", "factor": 0.5},
    }  # fmt: skip
    config = {
        "experiment": "threshold", "name": "long", "precision": precision, "data": {"kind": "sphere", "d": "n"},
        "sweep": {"product": {"n": [6], "m": [8, 40], "replicate": {"count": 2}}}, "training": training,
        "measure": ["E0", "E1", "E3", "E4", "E5"],
    }  # fmt: skip
    sweep = checks.sweep(api.load_config(config))
    return sweep.experiment, [(cell, settings) for cell, (settings, _) in sweep.cells.items()]


@pytest.mark.parametrize(
    ("precision", "optimizer", "compiled"),
    [
        *(("f32", "sgd", True), ("f64", "sgd", True), ("f32", "sgd", False), ("f64", "sgd", False)),
        *(("f32", "adam", True), ("f64", "adam", False)),
    ],
)
def test_networks_with_events_go_on_bit_for_bit(
    precision, optimizer, compiled, tmp_path, killed, begun, monkeypatch, quickly_compiled
):
    if not compiled:
        monkeypatch.setattr(native, "missing", lambda: "off")
    elif native.missing():
        pytest.skip(native.missing())
    experiment, cells = network(precision, optimizer)
    reference = rows_of(experiment, cells)
    killed(experiment, cells, tmp_path, 5)
    saved = {cell: os.listdir(tmp_path / cell) for cell, _ in cells}
    assert sorted(map(len, saved.values())) == [1, 1, 1, 2]  # killed before the first of one cell was removed
    programs.forget()
    begun.clear()
    rows = rows_of(experiment, cells, tmp_path)
    assert begun
    assert not any(begun)
    assert {row["steps"] for row in rows.values()} == {1500}
    assert {cell: same(reference[cell], rows[cell]) for cell, _ in cells} == {cell: [] for cell, _ in cells}


@pytest.mark.parametrize("lanes", [1, 2, 8])
def test_every_step_is_executed_once(lanes, tmp_path, killed):
    """Whether the cell goes on in a first lane, in one that another has left beside a third, or in its old one."""
    taken, lengths = [], [LENGTH, LENGTH + 7, 40, 3]
    experiment, cells = walk(taken), cells_of(lengths)
    reference = rows_of(experiment, cells, devices=1)
    assert len(taken) == sum(lengths)
    taken.clear()
    killed(experiment, cells[:1], tmp_path, 4, lanes=lanes, devices=1)
    before = len(taken)
    assert 0 < before < LENGTH
    rows = rows_of(experiment, [cells[k] for k in (2, 1, 0, 3)], tmp_path, lanes=lanes, devices=1)
    assert len(taken) == sum(lengths)
    assert {cell: same(reference[cell], rows[cell]) for cell in reference} == {cell: [] for cell in reference}


def of_another_signature(monkeypatch, path):
    return walk(factor=0.5)


def of_another_version(monkeypatch, path):
    monkeypatch.setattr(checkpoints, "__version__", "9.9")


def of_another_machine(monkeypatch, path):
    monkeypatch.setattr(checkpoints, "processor", lambda: "another")


def of_another_jax(monkeypatch, path):
    facts = checkpoints.describe() | {"jax": "9.9"}
    monkeypatch.setattr(checkpoints, "describe", lambda: facts)


def of_other_types(monkeypatch, path):
    real = checkpoints._with_orbax
    monkeypatch.setattr(checkpoints, "_with_orbax", lambda use: jax.tree.map(lambda x: x.astype("float16"), real(use)))


def cut(monkeypatch, path):
    largest = max((file for file in path.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)


def lacking_a_file(monkeypatch, path):
    (path / checkpoints.LABEL).unlink()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (of_another_signature, "program was"),
        (of_another_version, "expreg was .* is 9.9"),
        (of_another_jax, "jax was .* is 9.9"),
        (of_another_machine, "machine was"),
        (of_other_types, "types"),
        (cut, "damaged"),
        (lacking_a_file, "damaged"),
    ],
)
def test_what_does_not_fit_is_ignored_and_the_cell_begins_again(change, words, tmp_path, killed, begun, monkeypatch):
    cells = cells_of([LENGTH] * 3)
    killed(walk(), cells, tmp_path, 3)
    for cell, _ in cells:
        [name] = os.listdir(tmp_path / cell)
        experiment = change(monkeypatch, tmp_path / cell / name) or walk()
    begun.clear()
    with pytest.warns(UserWarning, match=f"a checkpoint is ignored .*{words}") as warned:
        rows = rows_of(experiment, cells, tmp_path)
    assert len(warned) == 1  # for three cells
    assert begun[0]
    reference = rows_of(experiment, cells)
    assert all(same(reference[cell], rows[cell]) == [] for cell in reference)


def lane(**leaves):
    """Return a program with this state in its only lane, as far as checkpoints know programs, and the state."""
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    alone = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one) for name, leaf in leaves.items()}
    state = {name: jax.device_put(leaf[None], one) for name, leaf in leaves.items()}
    return SimpleNamespace(alone=alone, identity=lambda: "same"), state


def test_a_bit_that_changes_in_any_file_is_noticed(tmp_path):
    kept, (program, state) = Checkpoints(tmp_path, 1.0), lane(float32=np.arange(2000, dtype=np.float32))
    kept._save("c0", program, state, 0, 1.5)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) > 5
    rng = np.random.default_rng(0)
    for path in files:
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        kept._warned.clear()
        with pytest.warns(UserWarning, match="damaged"):
            assert kept.restore(program, "c0") is None
        path.write_bytes(whole)
    found, seconds = kept.restore(program, "c0")
    assert np.asarray(found["float32"]).tobytes() == np.asarray(state["float32"]).tobytes()
    assert seconds == 1.5


def test_a_later_checkpoint_that_is_damaged_leaves_the_earlier_one(tmp_path, killed):
    taken, cells = [], cells_of([LENGTH])
    killed(walk(taken), cells, tmp_path, 4)
    first, last = sorted(os.listdir(tmp_path / "c0"))
    (tmp_path / "c0" / last / checkpoints.LABEL).write_text("{}")
    before = len(taken)
    with pytest.warns(UserWarning, match="damaged"):
        rows_of(walk(taken), cells, tmp_path)
    assert LENGTH < len(taken) < LENGTH + before
    assert int(first[:8]) + 1 == int(last[:8]) == 4


def a_disk_that_fills(monkeypatch, saves):
    """Let every write beyond a kilobyte fail, as the kernel fails it."""
    limit, real = resource.getrlimit(resource.RLIMIT_FSIZE), checkpoints._with_orbax

    def full(use):
        saves.append(0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limit[1]))
        try:
            return real(use)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    monkeypatch.setattr(checkpoints, "_with_orbax", full)


def a_disk_that_is_full(monkeypatch, saves):
    def usage(path):
        saves.append(0)
        return SimpleNamespace(free=checkpoints.SPARE_BYTES + 2 * 4 * WIDTH)

    monkeypatch.setattr(checkpoints.shutil, "disk_usage", usage)


def a_program_that_cannot_be_lowered(monkeypatch, saves):
    def fail(program):
        saves.append(0)
        raise MemoryError("no memory")

    monkeypatch.setattr(checkpoints, "_made_by", fail)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of the threads of tensorstore
@pytest.mark.parametrize("full", [a_disk_that_fills, a_disk_that_is_full, a_program_that_cannot_be_lowered])
def test_what_fails_while_saving_costs_the_checkpoint_and_one_warning(full, tmp_path, monkeypatch):
    saves, cells = [], cells_of([LENGTH, 50, LENGTH])
    reference = rows_of(walk(), cells)
    full(monkeypatch, saves)
    with pytest.warns(
        UserWarning, match="could not be saved .*(No space left on device|File too large|no memory)$"
    ) as warned:
        rows = rows_of(walk(), cells, tmp_path, 0.0)
    assert len(warned) == 1
    assert len(saves) > 1
    assert all(same(reference[cell], rows[cell]) == [] for cell in reference)
    assert {path.name[0] for path in tmp_path.glob("*/*")} <= ({"."} if full is a_disk_that_fills else set())
    gc.collect()  # asyncio logs what orbax has left undone


def endless(place, interval, lanes=2):
    """Stop a run of endless cells after about 0.4 s; return how many checkpoints each has."""
    engine = Engine(walk(), lanes=lanes, devices=1, slice_seconds=0.05, checkpoints=Checkpoints(place, interval))
    engine.stop = lambda: engine.spent.device > 0.4
    assert [row for rows in engine.run(cells_of([2**31 - 1] * lanes)) for row in rows] == []
    return [len(list((place / f"c{k}").glob("*"))) for k in range(lanes)]


def test_an_interrupted_run_saves_what_a_tenth_of_the_interval_would_lose(tmp_path, monkeypatch):
    assert endless(tmp_path / "a", 2.0) == [1, 1]
    assert endless(tmp_path / "b", 1000.0) == endless(tmp_path / "c", np.inf) == [0, 0]
    monkeypatch.setattr(checkpoints, "GRACE_SECONDS", 0.0)
    assert endless(tmp_path / "d", 2.0) == [0, 0]


@pytest.mark.parametrize(("cost", "lanes"), [(0.01, 4), (3.0, 4), (0.05, 64)])
def test_saving_takes_a_hundredth_of_the_time_and_an_interval_is_what_is_lost(cost, lanes, tmp_path, monkeypatch):
    now, interval, saved = [0.0], 60.0, {}

    def slow(use):
        now[0] += cost

    monkeypatch.setattr(checkpoints, "SHARE", 0.01)
    monkeypatch.setattr(checkpoints, "_with_orbax", slow)
    monkeypatch.setattr(checkpoints.disk, "replace", lambda path, data: path.write_bytes(data))
    monkeypatch.setattr(checkpoints.disk, "sync", lambda folder: None)
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: now[0]))
    kept, (program, state) = Checkpoints(tmp_path, interval), lane(x=np.ones(3))
    occupied, unsaved = {k: (f"c{k}", {}) for k in range(lanes)}, np.zeros(lanes + 2)
    while now[0] < 1800:
        now[0] += 0.25
        unsaved += 0.25
        before = unsaved.copy()
        kept.save(program, state, occupied, np.zeros(lanes + 2), unsaved)
        for k in np.flatnonzero(unsaved != before):
            saved.setdefault(int(k), []).append(before[k])
    assert set(saved) == set(range(lanes))  # and of no idle lane
    spent = now[0] - unsaved[-1]
    assert spent <= 0.0101 * now[0] + cost
    waits = [wait for each in saved.values() for wait in each]
    assert min(waits) >= interval
    if cost * lanes <= 0.01 * interval:
        assert max(waits) <= interval + lanes * (0.25 + cost / 0.01)


# --- the directory ----------------------------------------------------------------------------------

PLAN = {"hash": "3f2a" * 8, "identity": {"experiment": "walk"}, "axes": [], "cells": 2}


def put(directory, cell, name="00000001-aa"):
    (directory / "checkpoints" / cell / name).mkdir(parents=True)
    (directory / "checkpoints" / cell / name / "label.json").write_text("{}")


def kept_in(directory):
    return sorted(str(path.relative_to(directory / "checkpoints")) for path in (directory / "checkpoints").glob("*/*"))


def test_a_checkpoint_is_removed_when_its_row_is_stored_and_not_before(tmp_path, monkeypatch):
    row = {"cell": "a", "status": "converged", "steps": 1}
    with Store.open(tmp_path / "run", PLAN, "") as store:
        for cell in ("a", "b", "c"):
            put(store.directory, cell)
        monkeypatch.setenv("EXPREG_TESTING", "1")
        monkeypatch.setenv("EXPREG_FAULT", "commit.before_link:oserror")
        with pytest.raises(StorageError):
            store.commit([row])
        assert len(kept_in(store.directory)) == 3
        monkeypatch.delenv("EXPREG_FAULT")
        store.commit([row, {**row, "cell": "c", "status": "timeout"}])
        assert kept_in(store.directory) == ["b/00000001-aa"]


def test_opening_a_run_removes_what_a_kill_has_left_and_fresh_sets_it_aside(tmp_path):
    run = tmp_path / "run"
    with Store.open(run, PLAN, "") as store:
        store.commit([{"cell": "a", "status": "converged"}])
    put(run, "a")  # killed between the two
    put(run, "b")
    put(run, "b", f".{'0' * 32}.tmp")
    Store.open(run, PLAN, "").close()
    assert kept_in(run) == ["b/00000001-aa"]
    Store.open(run, PLAN, "", fresh=True).close()
    assert kept_in(run) == []
    assert kept_in(tmp_path / "run.1") == ["b/00000001-aa"]


def test_symlinks_are_refused(tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(real)
    with pytest.raises(StorageError, match="is a symlink"):
        Store.open(tmp_path / "run", PLAN, "")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "c0").symlink_to(real)
    kept, (program, state) = Checkpoints(tmp_path / "kept", 1.0), lane(x=np.ones(3))
    with pytest.warns(UserWarning, match="is a symlink"):
        kept._save("c0", program, state, 0, 1.0)
    assert list(real.iterdir()) == []


# --- whole processes --------------------------------------------------------------------------------


def child(call, *arguments, **environment):
    """Call a function of this file in a process of its own; return its exit status and what it printed."""
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parents[1])])
    code = f"import sys, test_checkpoints; test_checkpoints.{call}(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        check=False, capture_output=True, text=True, timeout=240,
        env={**os.environ, "PYTHONPATH": paths, "EXPREG_TESTING": "1", **environment},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


LONG = {
    "experiment": "threshold", "name": "long", "data": {"kind": "sphere", "d": "n"},
    "sweep": {"product": {"n": [6], "m": [8, 40], "precision": ["f64"]}},
    "training": {"tolerance": 0, "max_steps": 20_000}, "measure": ["E0", "E1", "E3", "E5"],
}  # fmt: skip


def long_network(place, overrides):
    import expreg

    return expreg.run(LONG, overrides, place, draw=False)


def long_training(place, overrides):
    """Train with noise: the key is a part of the state."""
    import expreg

    def init(key):
        return {"w": jnp.ones(7), "key": key}

    def step(state, rate):
        key, draw = jax.random.split(state["key"])
        w = state["w"] - rate * (state["w"] ** 3 + jax.random.normal(draw, (7,)))
        return {"w": w, "key": key}, {"loss": jnp.sum(w**2)}

    training = expreg.Training("noisy", init, step, steps=20_000)
    return expreg.sweep(training, {"rate": [0.01, 0.02]}, place, precision="f64", overrides=overrides, draw=False)


def live(directory, *runs):
    """Run what is named, one after the other, and print how many cells went on; die in the last at a checkpoint."""
    checkpoints.SHARE = 1e9
    restored, real = [], Checkpoints.restore

    def restore(*arguments):
        found = real(*arguments)
        restored.append(found is not None)
        return found

    Checkpoints.restore = restore
    for name in runs:
        dies, place = name.startswith("kill:"), Path(directory) / name.removeprefix("kill:")
        os.environ["EXPREG_FAULT"] = "checkpoint.after_rename:kill@3" if dies else ""
        globals()[place.name](place, {"execution.checkpoint_seconds": 1e-6 if dies else None})
        sys.stdout.write(f"{sum(restored)}\n")
        sys.stdout.flush()
        restored.clear()


def bits(frame):
    """Return each column of a frame that does not say how a cell was run, exactly."""
    kept = frame.drop(columns=[name for name in ("seconds", "attempt") if name in frame])
    return {name: [value.hex() if isinstance(value, float) else value for value in kept[name]] for name in kept}


def test_a_process_that_is_killed_leaves_its_successor_what_it_had_done(tmp_path):
    code, out, err = child("live", tmp_path, "kill:long_network")
    assert (code, out) == (-signal.SIGKILL, ""), err
    code, out, err = child("live", tmp_path, "long_network", "kill:long_training")
    assert (code, out) == (-signal.SIGKILL, "2\n"), err
    code, out, err = child("live", tmp_path, "long_training", "whole/long_network", "whole/long_training")
    assert (code, out) == (0, "2\n0\n0\n"), err
    for name in ("long_network", "long_training"):
        resumed, whole = (api.load(place / name) for place in (tmp_path, tmp_path / "whole"))
        assert (resumed.cells["steps"] == 20_000).all()
        assert bits(resumed.cells) == bits(whole.cells)
        assert bits(resumed.curves) == bits(whole.curves)
        assert list((tmp_path / name / "checkpoints").iterdir()) == []


def reshard(place):
    """Save a state that 4 devices share, restore it on 8, in a process whose default types have 32 bits."""
    import asyncio

    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    jax.config.update("jax_num_cpu_devices", 8)
    rng = np.random.default_rng(0)
    matrix, vector = rng.normal(size=(16, 64)), rng.normal(size=5)

    def on(size):
        mesh = Mesh(np.array(jax.devices()[:size]), ("neurons",))
        split, everywhere = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((None, "neurons"), ()))
        struct = jax.ShapeDtypeStruct
        alone = {
            "0": struct(matrix.shape, matrix.dtype, sharding=split),
            "1": struct((5,), matrix.dtype, sharding=everywhere),
        }
        return mesh, SimpleNamespace(alone=alone, identity=lambda: "same")

    async def notebook():  # a loop runs
        kept = Checkpoints(Path(place), 1.0)
        with jax.enable_x64(True):
            mesh, program = on(4)
            wide = NamedSharding(mesh, PartitionSpec(None, None, "neurons"))
            state = {"0": jax.device_put(matrix[None], wide), "1": jax.device_put(vector[None], mesh.devices.flat[0])}
            kept._save("c0", program, state, 0, 2.0)
            _, program = on(8)
            found, seconds = kept.restore(program, "c0")
        assert seconds == 2.0
        assert {shard.data.shape for shard in found["0"].addressable_shards} == {(16, 8)}
        assert len(found["1"].addressable_shards) == 8
        for name, leaf in (("0", matrix), ("1", vector)):
            assert np.asarray(found[name]).dtype == np.float64
            assert np.asarray(found[name]).tobytes() == leaf.tobytes()

    asyncio.run(notebook())


def test_a_sharded_state_is_restored_on_another_number_of_devices(tmp_path):
    code, _, err = child("reshard", tmp_path, JAX_PLATFORMS="cpu")
    assert code == 0, err
    assert not list(tmp_path.glob("c0/.*"))


def test_seconds_and_the_timeout_count_from_the_first_start(tmp_path, killed, monkeypatch):
    cells, real = cells_of([2**31 - 1]), Checkpoints._save
    monkeypatch.setattr(Checkpoints, "_save", lambda *arguments: real(*arguments[:-1], arguments[-1] + 1000))
    killed(walk(), cells, tmp_path, 2, devices=1)
    began = time.monotonic()
    rows = rows_of(walk(), cells, tmp_path, devices=1, cell_timeout=1000.5)
    assert rows["c0"]["status"] == "timeout"
    assert 1000.5 <= rows["c0"]["seconds"] < 1000.5 + time.monotonic() - began
