"""One network in several processes: they save, go on, search and fail together."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from expreg import api
from expreg.core.engine import checkpoints, devices, execute, processes, programs
from expreg.core.engine import lanes as engine_module
from expreg.core.store.events import read_events

STEPS = 128
CONFIG = {
    "experiment": "threshold",
    "name": "several",
    "data": {"kind": "sphere", "n": 6, "d": 6},
    "training": {
        "max_steps": STEPS,
        "tolerance": 1e-5,
        "step_size": {"factor": 0.1},
        "measure_every": 16,
        "curve": {"points": STEPS + 1, "spacing": "regular"},
    },
    "measure": ["E4", "E5"],
    "execution": {"shard": "neurons", "slice_seconds": 0.02},
}
KINDS = {"f32": {"network.m": 1008}, "f64": {"precision": "f64", "data.d": 2, "network.m": 1002, "network.init": "iid"}}
"""The first trains in Gram space, the second in weight space."""
CLOSE = {"f32": 1e-6, "f64": 1e-14}
"""Of the residual at any step, in units of its start."""
KILL = "checkpoint.after_rename:kill@3"
SEARCHES = {
    "bisection": {
        "training.max_steps": 20,
        "sweep.search": {"axis": "m", "criterion": ["E5"], "from": 8, "to": 64, "points": 4},
        "sweep.product": {"replicate": {"count": 2}},
    },
    "optuna": {
        "training.max_steps": 20,
        "sweep.search": {
            "optuna": {"trials": 4, "batch": 2},
            "space": {"training.step_size.factor": {"uniform": [0.1, 0.9]}},
        },
        "sweep.product": {"m": [8]},
    },
    "until": {
        "data": {"kind": "sphere", "d": "2*n"},
        "training.max_steps": {"flow_time": 0.7},
        "training.tolerance": 0.1,
        "training.step_size": {"rule": "spectral", "factor": 1.0},
        "measure": ["E5"],
        "analysis": {"until": 0.55, "delta": 0.5, "confidence": 0.6, "resamples": 50},
        "sweep.product": {"n": [3, 6, 12], "m": [8, 32, 256], "replicate": {"count": 16}},
    },
}


# --- what runs in the processes -------------------------------------------------------------------

NUMBER = int(os.environ.get(processes.NUMBER, "0"))
FIRST = NUMBER == 0


def live(cores, *runs):
    """Run what is given, one after the other, in a process with so many cores."""
    devices.cores = lambda: int(cores)
    jax.config.update("jax_disable_most_optimizations", True)
    checkpoints.SHARE = 1e9  # of the time, for saving: all of it
    for text in runs:
        run(**json.loads(text))
        programs.forget()


def run(out, overrides, fault="", of=0, hidden=False, full=False):
    """Run cells; write the steps before and after each slice, and the warnings.

    The `fault` is that of one process, and each row is stored at once. Only the first process sees the run directory if
    it is `hidden`, and it has no room if it is `full`.
    """
    os.environ["EXPREG_FAULT"] = fault if of == NUMBER else ""
    see = processes.visible
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as warned:
        if fault:
            patch.setattr(execute, "COMMIT_SECONDS", (0.0, 0.0))
            patch.setattr(processes, "GRACE_SECONDS", 0.5)
        patch.setattr(engine_module, "compile_program", counting(Path(f"{out}.steps")))
        if hidden and not FIRST:
            patch.setattr(checkpoints, "visible", lambda path, mesh: see(path / "elsewhere", mesh))
        if full and FIRST:
            patch.setattr(checkpoints.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
        api.run(CONFIG, overrides, out, draw=False)
    if FIRST:
        Path(f"{out}.warned").write_text("\n".join(str(one.message) for one in warned))


def counting(path, real=engine_module.compile_program):
    """Return a compiler of programs whose slices append a line to a file."""

    def compiled(*arguments):
        program = real(*arguments)

        def execute(state, fresh, *more):
            before = 0 if fresh.any() else int(state["step"][0])
            state, *rest = program.execute(state, fresh, *more)
            if FIRST:
                with path.open("a") as file:
                    file.write(f"{before} {int(state['step'][0])}\n")
            return state, *rest

        return replace(program, execute=execute)

    return compiled


# --- the processes --------------------------------------------------------------------------------


@contextmanager
def started(folder, cores, *runs, **environment):
    """Start a process that runs in a folder, and end it with the context."""
    here = Path(__file__).parent
    words = [sys.executable, "-c", "import sys, process_cases; process_cases.live(*sys.argv[1:])", str(cores)]
    places = {"PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])]), "EXPREG_TESTING": "1"}
    folder.mkdir(exist_ok=True)
    with subprocess.Popen(
        [*words, *map(json.dumps, runs)], cwd=folder, env=os.environ | places | environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def ended(process, code=0):
    """Wait for the end of a process, and return what it has said."""
    output, _ = process.communicate(timeout=200)
    assert process.returncode == code, output
    return output


def alone(folder, cores, *runs, code=0):
    """Run in one process."""
    with started(folder, cores, *runs) as process:
        ended(process, code)


def pair(folder, *runs, codes=(0, 0)):
    """Run in two processes with a device each, of which the second has another working directory; kill both if one.

    Return what each has said.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = {processes.ADDRESS: f"localhost:{port}", processes.COUNT: "2"}
    elsewhere = folder.with_name("elsewhere")
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(started(place, 1, *runs, **both, **{processes.NUMBER: number}))
            for place, number in ((folder, "0"), (elsewhere, "1"))
        )
        said = [ended(first, codes[0])]
        if codes[0] == -signal.SIGKILL:
            second.kill()
        said.append(ended(second, codes[1]))
    assert not list(elsewhere.iterdir())
    return said


def residuals(path):
    return api.load(path).curves["residual"].to_numpy()


def slices(path):
    """Return the steps before and after each slice of a run."""
    return np.loadtxt(f"{path}.steps", dtype=int, ndmin=2)


# --- checkpoints ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with whole runs, and those that were killed and have gone on in as many processes or others.

    In float64 `killed` began in two processes; `pair` went on in two, `two` and `four` with so many devices of one. In
    float32 `begun` began with four devices of one, and `joined` went on in two.
    """
    folder = tmp_path_factory.mktemp("several") / "here"

    def given(name, kind, seconds=None, devices="auto", **how):
        more = {"execution.checkpoint_seconds": seconds, "execution.devices": devices}
        return {"out": f"{name}-{kind}", "overrides": KINDS[kind] | more | how.pop("more", {}), **how}

    pair(folder, given("killed", "f64", 1e-6, fault=KILL), codes=(-signal.SIGKILL, -signal.SIGKILL))
    for name in ("pair", "two", "four"):
        shutil.copytree(folder / "killed-f64", folder / f"{name}-f64")
    ones = [given("two", "f64", devices=2), given("four", "f64"), given("begun", "f32", 1e-6, fault=KILL)]
    alone(folder, 4, *ones, code=-signal.SIGKILL)
    shutil.copytree(folder / "begun-f32", folder / "joined-f32")
    twos = [given(*run) for run in (("pair", "f64"), ("whole", "f64"), ("joined", "f32"), ("whole", "f32"))]
    short = {"training.max_steps": 40}
    pair(folder, *twos, *(given(name, "f32", 1e-6, more=short, **{name: True}) for name in ("hidden", "full")))
    return folder


@pytest.mark.parametrize(
    ("before", "name", "same"),
    [
        ("killed-f64", "pair-f64", True),
        ("killed-f64", "two-f64", True),
        ("killed-f64", "four-f64", False),
        ("begun-f32", "joined-f32", False),
    ],
)
def test_a_killed_run_goes_on_with_any_number_of_processes_and_devices(before, name, same, folder):
    kind = name[-3:]
    found, whole = (residuals(folder / one) for one in (name, f"whole-{kind}"))
    assert len(found) == len(whole) == STEPS + 1
    assert np.abs(found - whole).max() <= (0 if same else CLOSE[kind] * whole[0])
    assert whole[-1] < 0.9 * whole[0]
    earlier, later = slices(folder / before), slices(folder / name)
    assert earlier[-1, 1] > 0
    taken = np.diff(earlier).sum() + np.diff(later).sum()
    assert (taken, later[-1, 1]) == (STEPS, STEPS)
    assert not list((folder / name).glob("checkpoints/*"))


def test_each_process_writes_its_share(folder):
    [last] = (folder / "killed-f64").glob("checkpoints/*/00000003-*")
    assert all(list(last.glob(f"state/ocdbt.process_{number}/d/*")) for number in (0, 1))


@pytest.mark.parametrize(("name", "reason"), [("hidden", "not all processes see"), ("full", "No space left")])
def test_processes_that_cannot_save_go_on_without(name, reason, folder):
    [warned] = (folder / f"{name}-f32.warned").read_text().splitlines()
    assert warned.startswith("a checkpoint could not be saved")
    assert reason in warned
    assert np.array_equal(residuals(folder / f"{name}-f32"), residuals(folder / "whole-f32")[:41])
    assert not list((folder / f"{name}-f32").glob("checkpoints/*/*"))


# --- searches -------------------------------------------------------------------------------------


def test_a_search_goes_on_by_the_rows_that_the_first_process_has_stored(tmp_path):
    """Of one process, as far as its first round."""
    runs = [{"out": name, "overrides": overrides} for name, overrides in SEARCHES.items()]
    alone(tmp_path / "one", 2, *runs)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for name in SEARCHES:
        first, *later = [event["part"] for event in read_events(tmp_path / "two" / name) if event["kind"] == "commit"]
        assert first
        assert later
        for part in later:
            (tmp_path / "two" / name / "parts" / part).unlink()
    pair(tmp_path / "two", *runs)
    for name in SEARCHES:
        one, two = (api.load(tmp_path / place / name).cells.set_index("cell") for place in ("one", "two"))
        assert one["status"].to_dict() == two["status"].to_dict()
    assert 3 < two["replicate"].nunique() < 16  # of `until`, whose first round has 3


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", [0, 1])
def test_a_process_that_cannot_write_ends_the_other_one(of, tmp_path):
    """At the first of many cells: the other one waits for it in the next, for five minutes if JAX had to end it."""
    many = {"training.max_steps": 20, "network.m": 1008, "sweep.product": {"replicate": {"count": 1000}}}
    failing = {"out": "run", "overrides": many, "fault": "commit.before_write:oserror", "of": of}
    said = pair(tmp_path / "here", failing, codes=(1, 4) if of == 0 else (4, 1))
    lines = [line for line in said[1 - of].splitlines() if "Gloo" not in line]
    assert len(lines) == 1, lines
    [line] = lines
    assert line.startswith(f"process {of} has failed: error[E-DISK]")
    assert "No space left on device" in line
    assert not list((tmp_path / "here" / "run" / "parts").iterdir()) or of == 1
