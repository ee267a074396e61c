"""Cells in actors of a real Ray on loopback: the rows are those of one process, whatever is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import expreg
from expreg import checks
from expreg.backends import actors, cluster
from expreg.backends.queue import Queue
from expreg.core.engine.backend import Job
from expreg.errors import InputError
from expreg.results import load_config
from expreg.types import FAILED, Cost, Experiment

SMALL = {
    "experiment": "in_context",
    "name": "small",
    "problem": {"n": 8, "d": 2},
    "sweep": {"product": {"replicate": {"count": 3}}},
    "execution": {"engine": "ray"},
}
SWEEP = {
    "experiment": "threshold",
    "name": "killed",
    "data": {"kind": "sphere", "n": 4, "d": 3},
    "training": {"max_steps": 150_000, "tolerance": 0},
    "sweep": {"product": {"m": [8, 16, 32, 64], "replicate": {"count": 50}}},
    "execution": {"workers": 2, "slice_seconds": 0.05},
}
DRIVER = """
import json, sys
from expreg import api
from expreg.core.engine import execute
execute.COMMIT_SECONDS = (0.0, 0.0)
api.run(json.load(open(sys.argv[1])), {"execution.engine": "ray"}, sys.argv[2], progress=True, draw=False)
"""
PATIENCE = 120  # for what takes ten seconds on an idle machine


@pytest.fixture(scope="module")
def started():
    """One cluster for the tests of this process, as a script may have one before it calls expreg."""
    with cluster.connected({}) as ray:
        yield ray


def numbers(frame):
    return frame.drop(columns=["seconds", "attempt"], errors="ignore").sort_values("cell").reset_index(drop=True)


def of_session(leader):
    """Return the processes of a session that have not ended, as pid: name."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session, *_ = (place / "stat").read_text().rpartition(")")[2].split()
            if int(session) == leader and state != "Z":
                found[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has just ended
            continue
    return found


def wait_for(condition):
    until = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < until:
        time.sleep(0.1)
    assert condition()


def job_of(config, **change):
    """Return the job of a config with another experiment or another way to stop, and its cells."""
    sweep = checks.sweep(load_config(config))
    given = {"stop": lambda: False, "experiment": sweep.experiment, **change}
    return Job(execution=sweep.config.execution, store=None, expected={}, **given), sweep.cells


# --- what is killed -------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds processes in /proc")
def test_a_worker_and_the_driver_are_killed_and_every_cell_has_one_row(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SWEEP))
    run = tmp_path / "run"
    words = [sys.executable, "-c", DRIVER, tmp_path / "config.json", run]

    def rows():
        return len(expreg.load(run).cells) if list(run.glob("parts/*.parquet")) else 0

    with (tmp_path / "errors").open("w") as errors:
        driver = subprocess.Popen(words, stderr=errors, start_new_session=True)
    try:
        wait_for(lambda: list(run.glob("parts/*.parquet")))  # at once: few seconds are left
        workers = [pid for pid, name in of_session(driver.pid).items() if "ray::Actor" in name]
        os.kill(workers[0], signal.SIGKILL)
        before = rows()
        wait_for(lambda: rows() > before + 5)
        assert driver.poll() is None
    finally:
        driver.kill()
        driver.wait()
    assert 0 < rows() < 200
    again = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    lines = (tmp_path / "errors").read_text().splitlines() + again.communicate()[1].splitlines()
    assert again.returncode == 0
    assert not of_session(again.pid)
    wait_for(lambda: not of_session(driver.pid))  # a worker that was just starting takes some seconds to notice
    assert all("cells done" in line for line in lines), lines  # and nothing of Ray
    found, here = expreg.load(run), expreg.run(SWEEP, out=tmp_path / "here", draw=False)
    assert len(found.cells) == found.cells["cell"].nunique() == 200
    assert numbers(found.cells).equals(numbers(here.cells))
    key = ["cell", "step"]
    theirs, ours = (one.curves.sort_values(key).reset_index(drop=True) for one in (found, here))
    assert theirs.equals(ours)


def test_a_cell_that_ends_every_worker_is_given_up_and_the_others_are_not(started, capfd):
    """It kills the process that prepares it, and never this one: nothing here prepares cells."""
    job, cells = job_of(SMALL | {"execution": {"engine": "ray", "workers": 1}})
    prepare = job.experiment.prepare

    def deadly(settings):
        if settings["replicate"] == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return prepare(settings)

    job = job._replace(experiment=replace(job.experiment, prepare=deadly))
    with actors.backend(job) as runner:
        rows = {row["replicate"]: row for found in runner.run(cells) for row in found}
        assert set(rows) == set(range(3))
        assert [number for number, row in rows.items() if row["status"] in FAILED] == [2]
        assert rows[2]["status_detail"].startswith("3 workers ended while they ran this cell alone")
        assert len(runner.compilations) == 1  # although each new worker compiles it
        assert capfd.readouterr() == ("", "")  # Ray would print each death


def test_a_cell_goes_on_from_its_checkpoint_when_its_worker_is_killed(started, tmp_path):
    taken, run = tmp_path / "taken", tmp_path / "run"

    def steps():
        """Return the steps that each worker has taken, in the order of the workers."""
        found = {}
        for process, step in map(str.split, taken.read_text().splitlines()):
            found.setdefault(int(process), []).append(int(step))
        return found

    def note(step):
        time.sleep(0.001)
        with taken.open("a") as file:
            file.write(f"{os.getpid()} {step}\n")

    def step(state):
        jax.debug.callback(note, state)
        return state + 1, {"taken": state + 1}

    def kill():
        wait_for(lambda: list(run.glob("checkpoints/*/0*")))
        os.kill(*steps(), signal.SIGKILL)

    training = expreg.Training("long", lambda key: jnp.int32(0), step, steps=3000)
    often = {"execution.checkpoint_seconds": 0.1, "execution.slice_seconds": 0.1}
    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    found = expreg.sweep(training, {}, run, overrides=often | {"execution.engine": "ray"}, draw=False)
    killer.join()
    assert found.cells["steps"].tolist() == [3000]
    first, second = steps().values()
    assert 0 < second[0] <= first[-1] + 1
    assert sorted({*first, *second}) == list(range(3000))
    assert not list(run.glob("checkpoints/*"))


def test_asked_to_stop_it_brings_what_is_finished_and_leaves_no_worker(started):
    seen = []
    job, cells = job_of(SWEEP | {"execution": {"engine": "ray", "workers": 1}}, stop=lambda: bool(seen))
    with actors.backend(job) as runner:
        for rows in runner.run(cells):
            seen += rows
        assert runner.occupied[0] <= runner.occupied[1] > 0
        assert runner.devices == 1
        assert sum(row["seconds"] for row in seen) <= runner.spent.device
        [worker] = runner._hired
        pid = started.get(worker.actor.__ray_call__.options(num_returns=1).remote(lambda _: os.getpid()))
    assert 0 < len(seen) < 200
    wait_for(lambda: not Path(f"/proc/{pid}").exists())


# --- what is run ----------------------------------------------------------------------------------


def test_a_training_of_a_script_runs_in_workers_by_value(started, of_a_script, tmp_path):
    training = of_a_script("elsewhere")
    axes = {"rate": [0.1, 0.2, 0.5], "seed": 4}
    options = {"execution.engine": "ray", "execution.workers": 1}
    there = expreg.sweep(training, axes, tmp_path / "there", overrides=options, draw=False)
    here = expreg.sweep(training, axes, tmp_path / "here", draw=False)
    assert len(there.cells) == 12
    assert numbers(there.cells).equals(numbers(here.cells))


def test_what_keeps_a_worker_from_starting_is_said_here(started):
    job, cells = job_of(SMALL | {"execution": {"engine": "ray", "device": "gpu", "options": {"num_gpus": 0}}})
    with actors.backend(job) as runner, pytest.raises(InputError, match=r"E-DEVICE.*JAX sees cpu"):
        list(runner.run(cells))


def test_a_cluster_without_room_is_refused(started):
    job, _ = job_of(SMALL | {"execution": {"engine": "ray", "options": {"resources": {"lathe": 1}}}})
    with pytest.raises(InputError, match=r"E-ENGINE.*no room for a worker.*lathe"), actors.backend(job):
        pass


# --- what is refused ------------------------------------------------------------------------------


def test_an_address_at_which_nothing_answers_is_refused_in_one_line(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    Path("small.json").write_text(json.dumps(SMALL))
    began = time.monotonic()
    code, _, errors = command("run", "small.json", "execution.options.address=127.0.0.1:1", "--out", "run")
    assert code == 2
    assert time.monotonic() - began < 20
    assert len(errors.splitlines()) == 1
    assert errors.startswith("error[E-ENGINE]")
    assert "127.0.0.1:1:" in errors


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_what_is_no_cluster_is_refused(answer, monkeypatch):
    """Ray would try for two minutes, and then end this process."""
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 0.5)

    def serve():
        with server.accept()[0] as connection:
            connection.sendall(answer)
            connection.recv(100)
            time.sleep(1)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(InputError, match=address), cluster.connected({"address": address}):
            pass
        thread.join()


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "nowhere", 7])
def test_an_address_of_another_form_is_refused(address):
    with pytest.raises(InputError, match=rf"{address}.*expected host:port"), cluster.connected({"address": address}):
        pass


def test_an_unknown_option_is_named_with_the_nearest_one(tmp_path):
    config = SMALL | {"execution": {"engine": "ray", "options": {"num_cpu": 2, "partition": "gpu"}}}
    with pytest.raises(InputError) as refused:
        expreg.run(config, out=tmp_path / "run")
    first, second = refused.value.lines()
    assert "execution.options.num_cpu: unknown option; did you mean num_cpus?" in first
    assert "address, runtime_env, num_cpus" in second
    assert not (tmp_path / "run").exists()


# --- what a worker gets next ----------------------------------------------------------------------


def queue_of(counts, workers, expected=()):
    """Return a queue of `counts[m]` cells of each width m, whose cost is m."""
    experiment = Experiment(
        name="none",
        signature=lambda settings: settings["m"],
        build=lambda signature: None,
        prepare=lambda settings: None,
        row=lambda settings, record: {},
        cost=lambda settings: Cost(1.0, settings["m"], 1.0),
    )
    cells, more = (
        {f"{m}-{i}": ({"m": m}, {}) for m, count in dict(of).items() for i in range(count)} for of in (counts, expected)
    )
    return Queue(experiment, cells, more, workers)


def test_batches_go_where_their_program_is():
    queue = queue_of({1: 40, 2: 40, 3: 40}, workers=2)
    assert queue.take({}, [], 1).signature == 3  # the costliest first
    assert queue.take({}, [3], 1).signature == 2  # not that of another worker
    assert queue.take({2: 4}, [3], 1).signature == 2
    assert queue.take({}, [3, 2, 1], 1).signature == 3
    assert queue.take({1: 4}, [3, 1], 1).signature == 1


def test_batches_get_smaller_so_that_all_end_together_and_no_cell_is_lost():
    queue, sizes, seen = queue_of({1: 1000}, workers=4), [], []
    while queue:
        share = len(queue) / 4
        batch = queue.take({1: 100}, [1], 1)
        assert batch.lanes == 250
        assert len(batch.cells) <= max(1, (share + 1) / 2)
        sizes.append(len(batch.cells))
        seen += batch.cells
    assert sizes[0] == 100
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-4:] == [1, 1, 1, 1]
    assert len(sizes) < 60
    assert len(seen) == len(set(seen)) == 1000


def test_an_accelerator_gets_as_many_cells_as_lanes():
    queue = queue_of({1: 1000}, workers=2)
    assert [len(queue.take({}, [], None).cells) for _ in range(2)] == [500, 250]
    assert queue_of({1: 100}, workers=2, expected={1: 4000}).take({}, [], None).lanes == 2000


def test_cells_of_a_dead_worker_come_first_and_in_pieces():
    queue = queue_of({1: 100}, workers=1)
    batch = queue.take({1: 80}, [], 1)
    queue.give_back(batch)
    pieces = [queue.take({1: 80}, [], 1) for _ in range(8)]
    assert {cell for piece in pieces for cell in piece.cells} == set(batch.cells)
    assert max(len(piece.cells) for piece in pieces) < len(batch.cells) / 4
    assert all(piece.lanes == batch.lanes for piece in pieces)  # the program is the same
