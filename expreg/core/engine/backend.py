"""Who runs the cells of an execution: a backend takes cells and yields complete rows, here or in other processes."""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax

from expreg import __version__
from expreg.core.engine import devices
from expreg.core.engine.checkpoints import Checkpoints
from expreg.core.engine.failures import error_row
from expreg.core.engine.lanes import Engine
from expreg.core.engine.pace import Spent
from expreg.core.engine.search import Cells
from expreg.core.store.columns import check_row, types_of
from expreg.core.store.store import CHECKPOINTS, Store
from expreg.types import Experiment, Row


class Job(NamedTuple):
    """What is to be run: an experiment, the block `execution` of its config, and the run directory.

    `stop()`: whether the person has asked to stop; `expected`: cells such as one round may run, for which lanes are
    chosen; `say(line)` shows a line to the person. `store` is None in a process that does not own the run directory;
    that is `directory`, if it can write there.
    """

    experiment: Experiment
    execution: Any
    store: Store | None
    stop: Callable[[], bool]
    expected: Cells
    say: Callable[[str], None] = lambda _: None
    directory: Path | None = None


class Runner(Protocol):
    """A backend at work.

    `run` yields the complete rows of cells as they finish, until all are finished or `stop()` is true; `stores`: they
    are in the run directory by then. `devices`: how many run cells now, of all processes together. What was spent on
    them, compiled and occupied is as in `Engine`.
    """

    stores: bool
    devices: int

    @property
    def spent(self) -> Spent:
        """What all devices together have spent so far."""

    @property
    def compilations(self) -> Sequence[tuple[Hashable, int, float]]:
        """Signature, lanes and seconds of each program."""

    @property
    def occupied(self) -> tuple[int, ...]:
        """How many cells run now, and how many could; behind them, of tasks, how many are queued, and all of them."""

    def run(self, cells: Cells) -> Iterator[list[Row]]:
        """Yield rows."""


CIRCUMSTANCES = ("device", "expreg_version", "jax_version")
"""Columns that belong to the process which ran the cell."""
Backend = Callable[[Job], AbstractContextManager[Runner]]


class Local:
    """Runs cells on the devices of this process; programs are kept from one call of `run` to the next."""

    stores = False

    def __init__(self, job: Job) -> None:
        self._experiment = job.experiment
        self._engine = _engine(job)
        self.devices = self._engine.mesh.size

    @property
    def spent(self) -> Spent:
        """That of the engine."""
        return self._engine.spent

    @property
    def compilations(self) -> Sequence[tuple[Hashable, int, float]]:
        """Those of the engine."""
        return self._engine.compilations

    @property
    def occupied(self) -> tuple[int, int]:
        """Lanes."""
        return self._engine.occupied

    def run(self, cells: Cells) -> Iterator[list[Row]]:
        """Yield the rows of newly finished cells after every slice."""
        complete = _completed(self._experiment, cells)
        for rows in self._engine.run((cell, settings) for cell, (settings, _) in cells.items()):
            yield [complete(row) for row in rows]


def local(job: Job) -> AbstractContextManager[Runner]:
    """Run cells in this process."""
    return nullcontext(Local(job))


def _engine(job: Job) -> Engine:
    execution = job.execution
    count = None if execution.devices == "auto" else execution.devices
    size = devices.mesh(count).size
    # every device has the same number of lanes, or all have one
    given = execution.lanes != "auto" and execution.shard == devices.AXIS
    lanes = max(execution.lanes // size, 1) * size if given else None
    directory = job.store.directory if job.store else job.directory
    every, used = execution.checkpoint_seconds or math.inf, devices.mesh(count, execution.shard)
    expected: Counter[Hashable] = Counter()
    for settings, _ in job.expected.values():
        with suppress(Exception):  # reported in its row
            expected[job.experiment.signature(settings)] += 1
    return Engine(
        job.experiment,
        lanes=lanes,
        devices=count,
        shard=execution.shard,
        slice_seconds=execution.slice_seconds,
        cell_timeout=execution.cell_timeout,
        stop=job.stop,
        expected=expected,
        checkpoints=Checkpoints(directory.absolute() / CHECKPOINTS, every, used) if directory else None,
    )


def _completed(experiment: Experiment, cells: Cells) -> Callable[[Row], Row]:
    """Return the function that adds to a row what every experiment has, and the axes; a column is never replaced."""
    here = (devices.describe()["device_kind"], __version__, jax.__version__)
    circumstances = dict(zip(CIRCUMSTANCES, here, strict=True))
    types = types_of(experiment.columns())

    def complete(row: Row) -> Row:
        try:
            check_row(row, types)
        except Exception as error:
            row = error_row(row["cell"], error)
        return with_axes({**row, **circumstances}, *cells[row["cell"]])

    return complete


def with_axes(row: Row, settings: Mapping[str, Any], axes: Mapping[str, Any]) -> Row:
    """Return a row with what its cell is, by its settings and the axes."""
    own = {name: settings[name] for name in ("experiment", "seed", "replicate", "precision")}
    return {**axes, "status_detail": "", "steps": None, **row, **own}
