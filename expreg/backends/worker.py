"""The process of a cluster that runs cells: it has the experiment of the one that asked, and keeps its programs."""

import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle

from expreg import registry
from expreg.core.engine import devices
from expreg.core.engine.backend import Job, Local
from expreg.core.engine.search import Cells
from expreg.errors import InputError, Problem
from expreg.types import Experiment

_RUNS = ("name", "columns", "curves", "signature", "build", "prepare", "row", "cost")


class Task(NamedTuple):
    """What another process needs to run cells: the user's modules, where to find them, the experiment as bytes."""

    experiment: bytes
    execution: Any
    modules: list[dict[str, Any]]
    paths: list[str]


def task(job: Job) -> Task:
    """Return what other processes need to run the cells of a job.

    Raises InputError where records were registered by the script itself, which no other process can import.
    """
    modules = registry.needed()
    for module in modules:
        if module["name"] == "__main__":
            message = "registers records that other processes need; move them to a module and import that"
            raise InputError(Problem("E-PLUGIN", message, file=module["path"] or "a notebook"))
    # what reads results, such as a config schema, stays here
    runs = Experiment(**{name: getattr(job.experiment, name) for name in _RUNS})
    return Task(cloudpickle.dumps(runs), job.execution, modules, sys.path)


class Worker(Local):
    """Runs cells of a task on the devices of this process; create it before JAX starts.

    Checkpoints are kept in `directory`, that of the run.
    """

    def __init__(self, task: Task, stop: Callable[[], bool] = lambda: False, directory: Path | None = None) -> None:
        sys.path.extend(path for path in task.paths if path not in sys.path)
        registry.load_needed(task.modules)
        devices.configure(task.execution.device)
        experiment = pickle.loads(task.experiment)
        super().__init__(Job(experiment, task.execution, None, stop, {}, directory=directory))


def batches(cells: Cells, size: int) -> Iterator[Cells]:
    """Yield the cells in batches of at most `size`, in their order."""
    names = list(cells)
    for start in range(0, len(names), size):
        yield {name: cells[name] for name in names[start : start + size]}
