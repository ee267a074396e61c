"""Cells in actors of Ray: each keeps its programs, and what one had when it died goes to another."""

import os
import time
import warnings
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax

from expreg.backends.cluster import connected, refusal
from expreg.backends.queue import Batch, Queue
from expreg.backends.worker import REPORT_SECONDS, Report, Task, Worker, task
from expreg.core.engine.backend import Job, with_axes
from expreg.core.engine.failures import MAX_DETAIL, detail
from expreg.core.engine.pace import Spent
from expreg.core.engine.search import Cells
from expreg.errors import InputError
from expreg.types import Row

ATTEMPTS = 3
"""So many workers may end while one cell runs in them alone, or in a row before they are ready."""
BATCH_SECONDS = 10.0
"""What a batch should take."""
ROOM_SECONDS = 5.0
"""Time between two looks at how many workers a cluster has room for."""


class Actor:
    """The process of a worker."""

    def __init__(self, cores: int) -> None:
        os.environ["EXPREG_CORES"] = str(cores)  # JAX has not started yet

    def start(self, task: Task) -> tuple[int, int | None]:
        """Start JAX; return how many devices there are, and how many cells run in the time of one, as in `Queue`."""
        self._worker = Worker(task)
        devices = self._worker.devices
        return devices, devices if jax.default_backend() == "cpu" else None

    def run(self, batch: Batch) -> Iterator[Report]:
        """Run a batch."""
        yield from self._worker.reports(batch.cells, batch.lanes)


@dataclass
class _Hired:
    """An actor and what is next to come from it: that it is ready, or reports of its batch, which keeps open cells."""

    actor: Any
    news: Any
    ready: tuple[int, int | None] | None = None
    batch: Batch | None = None
    began: float = 0.0
    size: int = 0
    sizes: dict[Hashable, int] = field(default_factory=dict)  # of its next batch, by program that it keeps
    occupied: tuple[int, int] = (0, 0)


@contextmanager
def backend(job: Job) -> Iterator["Actors"]:
    """Run cells in actors; raise InputError where no cluster answers, or has no room for them."""
    with connected(options := dict(job.execution.options)) as ray:
        runner = Actors(job, ray, options)
        try:
            yield runner
        finally:
            runner.close()


class Actors:
    """Runs cells in as many actors as there is room for, `execution.workers` at most."""

    stores = False

    def __init__(self, job: Job, ray: Any, options: dict[str, Any]) -> None:
        options = {"num_cpus": 1, "num_gpus": int(job.execution.device == "gpu"), **options}
        try:
            self._actor = ray.remote(Actor).options(max_restarts=0, **options)
        except (TypeError, ValueError) as error:
            raise refusal(detail(error)) from None
        needs = {"CPU": options["num_cpus"], "GPU": options["num_gpus"], **options.get("resources", {})}
        self._needs = {name: need for name, need in needs.items() if need}
        self._job, self._ray, self._task = job, ray, ray.put(task(job))
        self._hired: list[_Hired] = []
        self._failed, self._deaths = 0, Counter[str]()
        self.spent = Spent()
        self.compilations: list[tuple[Hashable, int, float]] = []
        self._look()

    @property
    def devices(self) -> int:
        """Those of the workers that are ready; before, one for each that there should be."""
        return sum(one.ready[0] for one in self._hired if one.ready) or self._most

    @property
    def occupied(self) -> tuple[int, int]:
        """Lanes of all workers."""
        return sum(one.occupied[0] for one in self._busy()), sum(one.occupied[1] for one in self._hired)

    def run(self, cells: Cells) -> Iterator[list[Row]]:
        """Yield rows as the workers report them."""
        queue = Queue(self._job.experiment, cells, self._job.expected, min(self._most, len(cells)))
        while (busy := self._busy()) or queue:
            if self._job.stop():
                time.sleep(REPORT_SECONDS)  # what is finished by now is reported
                for _ in busy:
                    yield self._heard(queue, 0.0)
                return
            self._hire(len(busy) + len(queue))
            self._hand_out(queue)
            yield self._heard(queue, REPORT_SECONDS)

    def close(self) -> None:
        """End all workers."""
        for one in self._hired:
            self._ray.kill(one.actor)

    def _busy(self) -> list[_Hired]:
        return [one for one in self._hired if one.batch]

    def _look(self) -> None:
        """Find out how many workers there should be; a cluster that grows on demand must see that one is wanted."""
        there, workers, self._looked = self._ray.cluster_resources(), self._job.execution.workers, time.monotonic()
        room = int(min((there.get(name, 0) // need for name, need in self._needs.items()), default=1))
        self._most = max(room, 1) if workers == "auto" else workers
        if not room and not self._hired:
            message = f"the cluster has no room for a worker of {self._needs}"
            if workers == "auto":
                raise refusal(f"{message}; where it grows on demand, give execution.workers")
            warnings.warn(f"{message}; cells wait for one", stacklevel=2)

    def _hire(self, useful: int) -> None:
        if time.monotonic() - self._looked > ROOM_SECONDS:
            self._look()
        while len(self._hired) < min(self._most, useful):
            actor = self._actor.remote(max(1, int(self._needs.get("CPU", 1))))
            self._hired.append(_Hired(actor, actor.start.remote(self._task)))

    def _hand_out(self, queue: Queue) -> None:
        for one in self._hired:
            if one.ready and not one.batch and queue:
                running = [other.batch.signature for other in self._hired if other.batch]
                one.batch = queue.take(one.sizes, running, one.ready[1])
                one.began, one.size = time.monotonic(), len(one.batch.cells)
                one.news = one.actor.run.options(num_returns="streaming").remote(one.batch)

    def _heard(self, queue: Queue, timeout: float) -> list[Row]:
        """Return the rows of the next report, if one comes in time."""
        waiting = {one.news: one for one in self._hired if one.batch or not one.ready}
        found, _ = self._ray.wait(list(waiting), timeout=timeout)
        return [row for news in found for row in self._take(waiting[news], queue)]

    def _take(self, one: _Hired, queue: Queue) -> list[Row]:
        try:
            if not one.batch:
                one.ready, self._failed = self._ray.get(one.news), 0
                return []
            report: Report = self._ray.get(next(one.news))
        except StopIteration:
            assert one.batch
            wanted = one.size * BATCH_SECONDS / max(time.monotonic() - one.began, 1e-3)
            one.sizes[one.batch.signature] = max(1, min(int(wanted), 2 * one.size))  # the first one compiles, too
            one.batch = None
            return []
        except self._ray.exceptions.RayError as error:
            return self._lost(one, error, queue)
        known = {signature for signature, *_ in self.compilations}
        self.compilations += [program for program in report.compilations if program[0] not in known]
        ready = sum(other.ready is not None for other in self._hired)
        self.spent = Spent(self.spent.device + report.spent.device, self.spent.waiting + report.spent.waiting / ready)
        one.occupied = report.occupied
        return [row for row in report.rows if one.batch.cells.pop(row["cell"], None)]

    def _lost(self, one: _Hired, error: Exception, queue: Queue) -> list[Row]:
        """Let the cells of a worker that has ended run again; return the row of one that has ended too many."""
        self._hired.remove(one)
        self._ray.kill(one.actor)
        if not one.batch:
            self._failed += 1
            cause = getattr(error, "cause", None)
            if cause or self._failed == ATTEMPTS:
                raise cause if isinstance(cause, InputError) else refusal(f"no worker can start: {detail(error)}")
        elif len(one.batch.cells) == 1:
            [(cell, known)] = one.batch.cells.items()
            self._deaths[cell] += 1
            if self._deaths[cell] == ATTEMPTS:
                text = f"{ATTEMPTS} workers ended while they ran this cell alone, the last by {detail(error)}"
                return [with_axes({"cell": cell, "status": "error", "status_detail": text[:MAX_DETAIL]}, *known)]
        if one.batch and one.batch.cells:
            queue.give_back(one.batch)
        return []
