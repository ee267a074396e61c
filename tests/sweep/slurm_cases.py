"""Cells in tasks of Slurm: each has one row, whatever kills or stops a task, the owner or the job.

Tasks are processes of submitit on this host, and of a cluster of Slurm on loopback where that is installed.
"""

import fcntl
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import cloudpickle
import cluster
import pandas as pd
import pytest

from expreg import api, checks
from expreg.backends import jobs, tasks
from expreg.core.engine import manifest
from expreg.core.engine.backend import Job, Local
from expreg.core.store import table
from expreg.core.store.part import Parts, scan
from expreg.core.store.store import CHECKPOINTS
from expreg.errors import InputError, StorageError
from expreg.results import load_config
from expreg.types import Cost

ROWS = '''
"""An experiment whose tasks wait after five rows, as long as there is a file `hold`."""
import os, time
import submitit
from dataclasses import replace
from pathlib import Path
import expreg
from expreg.kinds import EXPERIMENTS

known = EXPERIMENTS["in_context"]
task = submitit.JobEnvironment().job_id if "SUBMITIT_EXECUTOR" in os.environ else ""
folder = Path(__file__).parent
seen = []
if task:
    (folder / f"process-{task}").write_text(str(os.getpid()))

def row(settings, record):
    time.sleep(0.3 if task else 0)
    seen.append(task)
    while len(seen) > 5 and (folder / "hold").exists():
        time.sleep(0.05)
    return known.row(settings, record)

expreg.register(replace(known, name="slow", row=row))
'''
CONFIG = """
experiment: slow
name: slow
problem: {n: 8, d: 2}
sweep: {product: {replicate: {count: 50}}}
execution: {lanes: 1}
"""
LONG = '''
"""A training whose tasks note each step, and whose values show a single wrong bit some steps later."""
import os, time
import submitit
from pathlib import Path
import expreg
import jax, jax.numpy as jnp

task = submitit.JobEnvironment().job_id if "SUBMITIT_EXECUTOR" in os.environ else ""
folder = Path(__file__).parent
if task:
    (folder / f"process-{task}").write_text(str(os.getpid()))

def note(step):
    if task:
        time.sleep(0.001)
        with (folder / "taken").open("a") as file:
            file.write(f"{os.getpid()} {step}\\n")

def step(state):
    taken, x = state
    jax.debug.callback(note, taken)
    x = 3.9 * x * (1 - x)
    return (taken + 1, x), {"x": x}

expreg.register(expreg.Training("long", lambda key: (jnp.int32(0), jnp.float32(0.3)), step, steps=3000))
'''
LONG_CONFIG = """
experiment: long
name: long
training: {curve: {points: 100}}
execution: {checkpoint_seconds: 0.1, slice_seconds: 0.1}
"""
OWNER = """
import sys
from unittest import mock
from expreg import cli
sys.argv[0] = "expreg"
with mock.patch("expreg.core.page.page.write"):
    cli.main()
"""
FEW = "sweep.product.replicate.count=14"
DEADLINE = 300.0


class Place(NamedTuple):
    """A directory with the experiment, its config, and where tasks run."""

    folder: Path
    kind: str
    environment: dict[str, str]

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def owner(self, *words: str, engine: str = "slurm", workers: int = 5, name: str = "slow") -> "Process":
        """Start `expreg run` in a process of its own.

        What it says goes to a file, for tasks on this host have its output too.
        """
        where = [f"execution.options.cluster={self.kind}", "--on", engine, f"execution.workers={workers}"]
        run = ["run", f"{name}.yaml", "--import", f"{name}.py", "--out", "run", *where, *words]
        command = [sys.executable, "-c", OWNER, *run]
        said = self.folder / f"said-{time.monotonic_ns()}"
        with said.open("w") as file:
            output: Any = {"stdout": file, "stderr": file}
            return Process(subprocess.Popen(command, cwd=self.folder, env=self.environment, **output), said)

    def arrays(self) -> list[dict[str, list[str]]]:
        """Return the cells by task of each array, in the order in which they were submitted."""
        files = sorted((self.run / "jobs").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return [json.loads(path.read_text())["tasks"] for path in files]

    def starts(self, task: str) -> int:
        return (self.run / "jobs" / f"{task}_0_log.out").read_text().count("Starting with")

    def slurm(self, *words: str) -> str:
        """Return what a command of Slurm says."""
        done = subprocess.run(words, env=self.environment, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def stop(self, task: str) -> None:
        """Send a task what it gets before its time is over."""
        if self.kind == "slurm":
            self.slurm("scancel", "--signal=USR2", task)
        else:
            os.kill(self.process(task), signal.SIGUSR2)

    def start_again(self, task: str) -> None:
        """Start a task that was requeued; Slurm would wait for two minutes."""
        if self.kind == "slurm":
            until(lambda: self.slurm("squeue", "--noheader", f"--jobs={task}", "--format=%T") == "PENDING")
            time.sleep(3)  # at once, the node would refuse it for a credential of the same second
            self.slurm("scontrol", "update", f"job={task}", "StartTime=now")

    def lives(self, task: str) -> bool:
        with suppress(OSError):
            return str(self.folder).encode() in Path(f"/proc/{self.process(task)}/cmdline").read_bytes()
        return False

    def process(self, task: str) -> int:
        return int((self.folder / f"process-{task}").read_text())

    def published(self) -> Counter[str]:
        return Counter(cell for part in scan(self.run, None) for cell, *_ in part.rows)


class Process(NamedTuple):
    """A command that runs, and the file with all that it has said."""

    running: "subprocess.Popen[bytes]"
    said: Path

    def ended(self) -> tuple[int, str]:
        code = self.running.wait(DEADLINE)
        return code, self.said.read_text()


def until(true: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if cluster.MISSING:
        pytest.skip(f"{', '.join(cluster.MISSING)} of Slurm and munge not installed")
    with cluster.slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


def place_for(kind: str, folder: Path, environment: dict[str, str]) -> Iterator[Place]:
    (folder / "slow.py").write_text(ROWS)
    (folder / "slow.yaml").write_text(CONFIG)
    place = Place(folder, kind, environment)
    yield place
    for task in (path.name.partition("process-")[2] for path in folder.glob("process-*")):  # of a test that has failed
        if place.lives(task):
            os.kill(place.process(task), signal.SIGKILL)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The rows of all cells from one process of this host."""
    place = next(place_for("local", tmp_path_factory.mktemp("here"), dict(os.environ)))
    assert place.owner(engine="local").ended()[0] == 0
    return table.read(place.run)[0]


@pytest.fixture(params=["local", "slurm"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A place of each kind; commands of Slurm find their cluster in this process too."""
    real = request.param == "slurm"
    environment = request.getfixturevalue("slurm") if real else dict(os.environ)
    for name in ("PATH", "SLURM_CONF"):
        if name in environment:
            monkeypatch.setenv(name, environment[name])
    yield from place_for(request.param, tmp_path, environment)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Place]:
    yield from place_for("local", tmp_path, dict(os.environ))


def test_tasks_that_are_killed_or_stopped_leave_each_cell_once(place: Place, here: pd.DataFrame) -> None:
    (place.folder / "hold").touch()
    owner = place.owner()
    [tasks] = until(place.arrays)
    assert [len(cells) for cells in tasks.values()] == [10] * 5
    killed, stopped, *others = tasks
    until(lambda: all(place.published().keys() & cells for cells in tasks.values()))
    os.kill(place.process(killed), signal.SIGKILL)
    place.stop(stopped)
    (place.folder / "hold").unlink()
    place.start_again(stopped)
    code, said = owner.ended()
    assert code == 0, said
    assert Counter(place.published().values()) == {1: 50}
    first, second = place.arrays()
    again = {cell for cells in second.values() for cell in cells}
    assert set() < again < {*first[killed]}
    assert {task: place.starts(task) for task in first} == {killed: 1, stopped: 2, **dict.fromkeys(others, 1)}
    found = table.read(place.run)[0]
    pd.testing.assert_frame_equal(found.drop(columns="seconds"), here.drop(columns="seconds"), check_exact=True)


def test_a_task_that_is_stopped_within_a_cell_goes_on_from_its_checkpoint(place: Place) -> None:
    (place.folder / "long.py").write_text(LONG)
    (place.folder / "long.yaml").write_text(LONG_CONFIG)
    assert place.owner("--out", "whole", engine="local", name="long").ended()[0] == 0
    owner = place.owner(name="long")
    until(lambda: [*place.run.glob("checkpoints/*/0*")])
    [[task]] = place.arrays()
    place.stop(task)
    place.start_again(task)
    code, said = owner.ended()
    assert code == 0, said
    assert place.starts(task) == 2
    steps: dict[str, list[int]] = {}
    for process, step in map(str.split, (place.folder / "taken").read_text().splitlines()):
        steps.setdefault(process, []).append(int(step))
    assert sorted(step for taken in steps.values() for step in taken) == [*range(3000)]
    before, after = steps.values()
    assert 0 < after[0] == len(before)
    found, whole = api.load(place.run), api.load(place.folder / "whole")
    assert found.cells["steps"].tolist() == [3000]
    assert len(found.curves) == 100
    pd.testing.assert_frame_equal(found.curves, whole.curves, check_exact=True)
    assert not list(place.run.glob("checkpoints/*"))


def begun(place: Place) -> tuple[Process, dict[str, list[str]]]:
    """Start a run in two tasks that have published some cells and wait; return its owner, and the cells by task."""
    (place.folder / "hold").touch()
    owner = place.owner(FEW, workers=2)
    [tasks] = until(place.arrays)
    until(lambda: all(place.published().keys() & cells for cells in tasks.values()))
    return owner, tasks


def test_jobs_outlive_their_owner_and_the_next_one_waits_for_them(place: Place, command: Any) -> None:
    owner, tasks = begun(place)
    owner.running.send_signal(signal.SIGINT)
    code, said = owner.ended()
    assert code == 75
    assert f"goes on in {jobs.named(tasks)}, which `expreg cancel run` ends" in said
    job = next(iter(tasks)).partition("_")[0]
    code, out, _ = command("status", str(place.run))
    assert (code, "run by jobs" in out) == (0, True)
    assert json.loads(command("status", str(place.run), "--json")[1])["jobs"] == {job: {"running": 2}}
    there: dict[str, Any] = {"overrides": {"execution.options.cluster": place.kind}}
    for options in ({"overrides": {"execution.engine": "local"}}, there | {"fresh": True}):
        with pytest.raises(StorageError, match=f"run by {jobs.named(tasks)}; .*expreg cancel"):
            run(out=place.run, **options)
    second = place.owner(FEW, workers=2)
    until(lambda: "waiting for job" in second.said.read_text())
    (place.folder / "hold").unlink()
    assert second.ended()[0] == 0
    assert Counter(place.published().values()) == {1: 14}
    assert place.arrays() == [tasks]
    assert command("cancel", str(place.run))[0] == 2


def test_a_cancelled_job_does_not_come_back(place: Place, command: Any) -> None:
    owner, tasks = begun(place)
    code, said, _ = command("cancel", str(place.run))
    assert (code, said) == (0, f"cancelled 2 tasks of {jobs.named(tasks)}\n")
    (place.folder / "hold").unlink()
    code, said = owner.ended()
    assert code == 75
    assert f"cancelled: {jobs.named(tasks)}" in said
    until(lambda: not any(place.lives(task) for task in tasks))
    if place.kind == "slurm":
        until(lambda: place.slurm("squeue", "--noheader") == "")
    assert {place.starts(task) for task in tasks} == {1}
    assert place.arrays() == []
    assert max(place.published().values()) == 1


def test_a_local_run_is_cancelled_by_a_signal(local: Place, command: Any) -> None:
    (local.folder / "hold").touch()
    owner = local.owner(engine="local")
    until(lambda: (local.run / "progress.json").exists())
    said = f"sent SIGTERM to process {owner.running.pid}, which stores what is finished and ends\n"
    assert command("cancel", str(local.run))[:2] == (0, said)
    (local.folder / "hold").unlink()
    assert owner.ended()[0] == 75
    code, _, said = command("cancel", str(local.run))
    assert (code, said.count("\n")) == (2, 1)
    assert "nothing runs there" in said
    manifest = local.run / "manifest.json"
    with open(local.run / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        manifest.write_text(json.dumps({"ending": "running", "host": "elsewhere", "process": os.getpid()}))
        code, _, said = command("cancel", str(local.run))
    assert (code, "on elsewhere runs it" in said) == (2, True)


# --- what sbatch and options say ------------------------------------------------------------------


def test_a_refusal_of_the_real_sbatch_is_one_line(slurm: dict[str, str], tmp_path: Path) -> None:
    place = next(place_for("slurm", tmp_path, slurm))
    code, said = place.owner("execution.options.partition=nope").ended()
    assert code == 2
    [line] = [line for line in said.splitlines() if "error" in line]
    assert "invalid partition specified: nope" in line


def programs(folder: Path, **scripts: str) -> str:
    """Return a PATH with these programs, and no other of Slurm."""
    folder.mkdir()
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return str(folder)


SMALL: dict[str, Any] = {
    "experiment": "in_context",
    "name": "small",
    "problem": {"n": 8, "d": 2},
    "sweep": {"product": {"replicate": {"count": 6}}},
    "execution": {"engine": "slurm", "workers": 2},
}


def run(**options: Any) -> Any:
    return api.run(SMALL, **{"out": "run", "draw": False, **options})


def with_options(**given: Any) -> Any:
    return run(overrides={f"execution.options.{name}": value for name, value in given.items()})


def test_what_is_missing_is_named_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", programs(tmp_path / "bin"))
    with pytest.raises(InputError, match=r"execution\.engine.*sbatch"):
        with_options()
    with pytest.raises(InputError, match=r"execution\.options\.cluster: got 'elsewhere', expected slurm or local"):
        with_options(cluster="elsewhere")
    assert not (tmp_path / "run").exists()


def test_options_reach_sbatch_and_its_refusal_the_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    refuse = 'cp "$1" given; echo "sbatch: error: invalid partition" >&2; echo "sbatch: error: refused" >&2; exit 1'
    path = programs(tmp_path / "bin", srun="", squeue="", sbatch=refuse)
    monkeypatch.setenv("PATH", f"{path}:/bin:/usr/bin")
    with pytest.raises(InputError, match="invalid partition; refused") as caught:
        with_options(
            **{"partition": "nope", "cpus-per-task": 4, "gres": "gpu:1", "time": "1-00:00", "setup": ["module load x"]}
        )
    assert len(caught.value.lines()) == 1
    assert "partition" not in capsys.readouterr().err  # it is said once
    given = (tmp_path / "given").read_text().splitlines()
    for option in ("partition=nope", "cpus-per-task=4", "gres=gpu:1", "time=1-00:00", "requeue", "array=0-1%2"):
        assert f"#SBATCH --{option}" in given
    assert "module load x" in given
    [srun] = [line for line in given if line.startswith("srun")]
    assert "--cpus-per-task=4" in srun
    assert manifest.read(tmp_path / "run")["ending"] == "interrupted"


# --- what the owner does with tasks that end ------------------------------------------------------


class Cluster:
    """A cluster of which each task ends at once, when it has published the rows that `publish` lets through."""

    def __init__(self, folder: Path, rows: dict[str, Any], publish: Callable[[str], bool]) -> None:
        self.folder, self.rows, self.publish = folder / "run" / "jobs", rows, publish
        self.submitted: list[list[set[str]]] = []

    def name(self) -> str:
        return "slurm"

    def submit_array(self, shares: list[tasks.Share]) -> list[Any]:
        self.submitted.append([{*share._cells} for share in shares])
        for share in shares:
            share._parts.commit(self.rows[cell] for cell in share._cells if self.publish(cell))
        return [SimpleNamespace(job_id=f"{len(self.submitted)}_{task}") for task in range(len(shares))]


@pytest.fixture
def rows() -> dict[str, Any]:
    sweep = checks.sweep(load_config(SMALL))
    job = Job(sweep.experiment, sweep.config.execution, None, lambda: False, {})
    return {row["cell"]: row for rows in Local(job).run(sweep.cells) for row in rows}


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Callable[[Cluster], None]:
    """A cluster that does not answer the first question, and then knows no task."""
    answers = iter([jobs.refusal("error: no answer")])

    def states(_: Any) -> dict[str, str]:
        for error in answers:
            raise error
        return {}

    def use(cluster: Cluster) -> None:
        monkeypatch.setattr(tasks, "_executor", lambda *_: cluster)
        monkeypatch.setattr(tasks, "LOOK", (0.0, 0.0, 0.0))
        monkeypatch.setenv("PATH", f"{programs(cluster.folder.parents[1] / 'bin', sbatch='')}:/bin:/usr/bin")
        monkeypatch.setattr(tasks.Tasks, "_earlier", lambda *_: {})
        monkeypatch.setattr(jobs, "states", states)

    return use


def test_a_cell_whose_tasks_always_end_without_its_row_is_an_error(tmp_path, monkeypatch, rows, silent) -> None:
    monkeypatch.chdir(tmp_path)
    bad = sorted(rows)[2]
    cluster = Cluster(tmp_path, rows, lambda cell: cell != bad)
    silent(cluster)
    found = run()
    assert set().union(*cluster.submitted[0]) == {*rows}
    assert [sum(map(len, shares)) for shares in cluster.submitted] == [6, 1, 1, 1]
    assert all(shares == [{bad}] for shares in cluster.submitted[1:])
    table = found.cells.set_index("cell")
    assert {*table.index} == {*rows}
    assert (table["status"] == "error").sum() == 1
    assert str(tmp_path / "run" / "jobs" / "4_0_0_log.err") in table.loc[bad, "status_detail"]
    assert set(table["attempt"]) == {1}


def test_the_owner_counts_the_tasks_that_are_queued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = object.__new__(tasks.Tasks)
    owner._directory, owner._tasks = tmp_path, dict.fromkeys(("5_0", "5_1", "5_2"), ())
    (tmp_path / jobs.FOLDER).mkdir()
    jobs.keep(tmp_path, jobs.Array("slurm", {task: [] for task in owner._tasks}))
    monkeypatch.setattr(jobs, "states", lambda _: {"5_0": "running", "5_1": "pending"})
    assert owner.occupied[2:] == (0, 0)
    assert (owner._ended(), owner.occupied) == ({"5_2": ()}, (0, 0, 1, 2))


# --- what a task does with signals, and which cells it gets ----------------------------------------


@pytest.mark.parametrize(
    ("number", "finished", "saved", "state", "requeued"),
    [
        (signal.SIGUSR1, 1, False, "running", True),
        (signal.SIGUSR2, 1, False, "running", True),
        (signal.SIGUSR2, 0, False, "running", False),  # its time is too short for a single cell
        (signal.SIGUSR2, 0, True, "running", True),
        (signal.SIGTERM, 0, False, "signaling", True),  # another job needs its place
        (signal.SIGTERM, 1, False, "completing", False),  # cancelled
        (signal.SIGTERM, 3, False, "running", False),
        (None, 3, False, "running", False),
    ],
)
def test_a_task_that_is_stopped_goes_on_later(tmp_path, monkeypatch, number, finished, saved, state, requeued) -> None:
    class Worker:
        def __init__(self, _: Any, stop: Callable[[], bool]) -> None:
            self.stop = stop

        def run(self, cells: Any) -> Iterator[list[dict[str, Any]]]:
            yield [{"cell": cell, "status": "converged"} for cell in list(cells)[:finished]]
            if number:
                assert not self.stop()
                os.kill(os.getpid(), number)
                assert self.stop()

    again: list[Any] = []
    handlers = [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]
    before = [signal.signal(one, lambda *_: again.append(share.checkpoint())) for one in handlers]
    monkeypatch.setattr(tasks, "Worker", Worker)
    monkeypatch.setattr(jobs, "states", lambda found: {"1_0": state} if "1_0" in found[0].tasks else {})
    monkeypatch.setattr(
        "submitit.JobEnvironment", lambda: SimpleNamespace(cluster="slurm", job_id="1_0", USR_SIG="USR2")
    )
    parts = Parts(tmp_path, "0" * 16)
    (tmp_path / "parts").mkdir()
    if saved:
        (tmp_path / CHECKPOINTS / "b").mkdir(parents=True)
    share = tasks.Share(None, parts, dict.fromkeys("abc", ({}, {})), {"a": 1})
    try:
        share()
    finally:
        for one, handler in zip(handlers, before, strict=True):
            signal.signal(one, handler)
    assert len(again) == requeued
    rows = {cell: attempt for part in scan(tmp_path, None) for cell, _, attempt in part.rows}
    assert rows == dict(list({"a": 2, "b": 1, "c": 1}.items())[:finished])
    if again:
        left = pickle.loads(cloudpickle.dumps(again[0])).function
        assert set(left._cells) == set("abc") - set(rows)


def test_a_task_that_starts_again_without_notice_leaves_out_what_it_has_published(tmp_path, monkeypatch) -> None:
    """Slurm requeues by itself the tasks of a node that fails."""
    (tmp_path / "parts").mkdir()
    parts = Parts(tmp_path, "0" * 16)
    parts.commit([{"cell": "a", "status": "converged"}, {"cell": "b", "status": "error", "attempt": 2}])
    parts.commit([{"cell": "c", "status": "error", "attempt": 1}])
    asked: list[set[str]] = []
    monkeypatch.setattr(tasks, "Worker", lambda *_: SimpleNamespace(run=lambda cells: asked.append({*cells}) or ()))
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}
    tasks.Share(None, parts, dict.fromkeys("abcd", ({}, {})), dict.fromkeys("bc", 1))()
    for one, handler in before.items():
        signal.signal(one, handler)
    assert asked == [{"c", "d"}]  # b failed in this execution, c in an earlier one


def test_shares_have_equal_work_and_few_programs() -> None:
    def settings(m: int) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"m": m}, {}

    cells = {f"{m}-{k}": settings(m) for k in range(40) for m in (1, 2, 3, 4)}
    experiment = SimpleNamespace(signature=lambda of: of["m"], cost=lambda of: Cost(1.0, 1e6 * of["m"], 1.0))
    for count in (1, 3, 7, 16):
        shares = tasks.split(experiment, cells, count)
        assert len(shares) == count
        assert Counter(cell for share in shares for cell in share) == dict.fromkeys(cells, 1)
        work = [sum(of["m"] for of, _ in share.values()) for share in shares]
        assert max(work) - min(work) <= 2 * 4
        assert sum(len({of["m"] for of, _ in share.values()}) for share in shares) <= 4 + count - 1
    assert len(tasks.split(experiment, dict(list(cells.items())[:3]), 16)) == 3

    def fails(_: Any) -> Any:
        raise ValueError

    broken = SimpleNamespace(signature=fails, cost=fails)
    assert sorted(len(share) for share in tasks.split(broken, cells, 4)) == [40] * 4
