"""Other processes run cells with the experiment, the modules and the settings that this one has."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import expreg
from expreg import backends, checks, registry
from expreg.backends import worker
from expreg.core.engine.backend import Job, Local
from expreg.core.store.store import Store
from expreg.errors import InputError
from expreg.kinds import own
from expreg.results import load_config
from expreg.types import cores

pytestmark = pytest.mark.clusters

CONFIGS = {
    "threshold": ({"sweep": {"product": {"m": [4, 8]}}, "data": {"kind": "sphere", "n": 3, "d": 3}}),
    "regression": (
        {"problem": {"kind": "gaussian", "n": 12, "d": 3}, "sweep": {"product": {"replicate": {"count": 2}}}}
    ),
    "in_context": ({"problem": {"n": 8, "d": 2}, "sweep": {"product": {"replicate": {"count": 2}}}}),
}
PROGRAM = """
import pickle, sys
from expreg.backends.worker import Worker
task, cells = pickle.load(open(sys.argv[1], "rb"))
rows = [row for rows in Worker(task).run(cells) for row in rows]
pickle.dump(rows, open(sys.argv[2], "wb"))
"""


def job_of(config):
    sweep = checks.sweep(load_config(config))
    return Job(sweep.experiment, sweep.config.execution, None, lambda: False, {}), sweep.cells


def elsewhere(job, cells, folder: Path):
    """Run cells in a new process."""
    (folder / "given").write_bytes(pickle.dumps((worker.task(job), cells)))
    subprocess.run([sys.executable, "-c", PROGRAM, folder / "given", folder / "rows"], check=True, cwd=folder)
    return pickle.loads((folder / "rows").read_bytes())


def numbers(rows):
    return {row["cell"]: {key: value for key, value in row.items() if key != "seconds"} for row in rows}


@pytest.mark.parametrize("kind", CONFIGS)
def test_another_process_gives_the_same_rows(kind, tmp_path):
    job, cells = job_of({"experiment": kind, "name": "t", **CONFIGS[kind]})
    here = [row for rows in Local(job).run(cells) for row in rows]
    there = elsewhere(job, cells, tmp_path)
    assert len(there) == 2
    assert repr(numbers(there)) == repr(numbers(here))


def test_a_training_of_a_script_runs_elsewhere_by_value(of_a_script, tmp_path):
    """Its functions cannot be imported there: they go along with the job."""
    training = of_a_script("by_value")
    expreg.register(training)
    try:
        job, cells = job_of({"experiment": "by_value", "name": "t", "sweep": {"product": {"rate": [0.1, 0.5]}}})
        job = job._replace(experiment=own.experiment(training))
    finally:
        registry._modules.pop(__name__)
    here = [row for rows in Local(job).run(cells) for row in rows]
    assert repr(numbers(elsewhere(job, cells, tmp_path))) == repr(numbers(here))
    assert {row["status"] for row in here} == {"max_steps"}


def test_records_of_the_script_itself_are_refused(monkeypatch):
    job, _ = job_of({"experiment": "in_context", "name": "t", **CONFIGS["in_context"]})
    monkeypatch.setitem(registry._modules, "__main__", registry.Module("__main__", "script.py", None))
    with pytest.raises(InputError, match=r"script\.py.*move them to a module"):
        worker.task(job)


def test_a_worker_keeps_checkpoints_where_it_sees_the_directory_of_the_run(tmp_path):
    job, _ = job_of({"experiment": "in_context", "name": "t", **CONFIGS["in_context"]})
    plan = {"hash": "3f2a" * 8, "identity": {}, "axes": [], "cells": 2}
    with Store.open(tmp_path / "run", plan, "") as store:
        task = worker.task(job._replace(store=store))
    kept = worker.Worker(task)._engine.checkpoints
    assert kept is not None
    assert kept.directory == tmp_path / "run" / "checkpoints"
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    (tmp_path / "run").mkdir()
    assert worker.Worker(task)._engine.checkpoints is None


def test_an_engine_that_is_not_installed_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr(backends, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"ray needs ray.*pip install 'expreg\[ray\]'"):
        expreg.run({"experiment": "in_context", "name": "t", **CONFIGS["in_context"], "execution": {"engine": "ray"}})


def test_cores_are_those_that_a_cluster_gives(monkeypatch):
    for name in ("SLURM_CPUS_PER_TASK", "EXPREG_CORES"):
        monkeypatch.setenv(name, "1")
        assert cores() == 1
        monkeypatch.setenv(name, "100000")
        assert cores() == len(os.sched_getaffinity(0))
        monkeypatch.delenv(name)
