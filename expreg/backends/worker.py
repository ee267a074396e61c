"""The process of a cluster that runs cells: it has the experiment of the one that asked, and keeps its programs."""

import pickle
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle

from expreg import registry
from expreg.core.engine import devices, trouble
from expreg.core.engine.backend import Job, Local
from expreg.core.engine.pace import Spent
from expreg.core.engine.search import Cells
from expreg.core.store.store import PLAN
from expreg.errors import InputError, Problem
from expreg.types import Experiment, Row

_RUNS = ("name", "columns", "curves", "signature", "build", "prepare", "row", "cost")
REPORT_SECONDS = 0.25
"""Time between two reports of a worker."""


class Task(NamedTuple):
    """What another process needs to run cells: the user's modules, where to find them, the experiment as bytes.

    `directory` is that of the run, where checkpoints are, None if there is none.
    """

    experiment: bytes
    execution: Any
    modules: list[dict[str, Any]]
    paths: list[str]
    directory: Path | None


class Report(NamedTuple):
    """What a worker has done since its last report: rows, what it spent, new programs as in `Engine.compilations`.

    `occupied`: how many lanes hold a cell now, and how many there are.
    """

    rows: list[Row]
    spent: Spent
    compilations: Sequence[tuple[Hashable, int, float]]
    occupied: tuple[int, int]


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
    directory = job.store.directory.absolute() if job.store else None
    return Task(cloudpickle.dumps(runs), job.execution, modules, sys.path, directory)


class Worker(Local):
    """Runs cells of a task on the devices of this process; create it before JAX starts.

    Checkpoints are kept in the directory of the run, if it is here too. Raises InputError where a kind of device is
    asked for that is not here.
    """

    def __init__(self, task: Task, stop: Callable[[], bool] = lambda: False) -> None:
        sys.path.extend(path for path in task.paths if path not in sys.path)
        registry.load_needed(task.modules)
        devices.configure(task.execution.device)
        if wrong := trouble.refused(task.execution.device):
            raise InputError(Problem("E-DEVICE", wrong, key="execution.device"))
        experiment = pickle.loads(task.experiment)
        directory = task.directory if task.directory and (task.directory / PLAN).exists() else None
        super().__init__(Job(experiment, task.execution, None, stop, {}, directory=directory))

    def reports(self, cells: Cells, expected: int) -> Iterator[Report]:
        """Run cells of one program, and report every quarter of a second and at the end.

        `expected`: how many cells of that program may come together, for which its lanes are chosen.
        """
        with suppress(Exception):  # reported in its row
            settings, _ = next(iter(cells.values()))
            self._engine.expected = {self._experiment.signature(settings): expected}
        rows: list[Row] = []
        last, spent, programs = time.monotonic(), self.spent, len(self.compilations)
        for finished in chain(self.run(cells), [None]):
            rows += finished or []
            if finished is None or time.monotonic() - last >= REPORT_SECONDS:
                yield Report(rows, self.spent.since(spent), self.compilations[programs:], self.occupied)
                rows, last, spent, programs = [], time.monotonic(), self.spent, len(self.compilations)


def batches(cells: Cells, size: int) -> Iterator[Cells]:
    """Yield the cells in batches of at most `size`, in their order."""
    names = list(cells)
    for start in range(0, len(names), size):
        yield {name: cells[name] for name in names[start : start + size]}
