"""Tasks of Slurm run cells: submitit submits them as an array, they publish parts, the owner takes these in."""

import io
import shlex
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, redirect_stderr, suppress
from pathlib import Path
from typing import Any

from expreg.backends import jobs
from expreg.backends.worker import Task, Worker, task
from expreg.core.engine.backend import Job, Runner, with_axes
from expreg.core.engine.execute import commit_rows, workload
from expreg.core.engine.pace import Spent
from expreg.core.engine.search import Cells
from expreg.core.store import disk
from expreg.core.store.part import Parts, scan
from expreg.core.store.store import CHECKPOINTS
from expreg.errors import InputError, Interrupted
from expreg.output import counted
from expreg.types import FAILED, Experiment, Row

AUTO = 8
"""Tasks at the most where `execution.workers` is auto."""
MINUTES = 60
"""Time limit of a task where the options have no `time`."""
RETRIES = 3
"""How often the cells that a task left open when it ended are submitted again."""
PUBLISH = 0.05, 1.0, 60.0
"""Finished cells of a task wait for this share of its time so far, at least and at most these seconds."""
LOOK = 0.02, 1.0, 15.0
"""The same for the time between two looks of the owner at squeue and parts."""
_OF_SUBMITIT = ("setup", "teardown", "srun_args", "array_parallelism", "signal_delay_s")
"""Options that are not of sbatch, but of submitit."""


def _limited(elapsed: float, share: float, least: float, most: float) -> float:
    return min(max(share * elapsed, least), most)


class Share:
    """The cells of one task: submitit calls it, and again with what is left after each stop."""

    def __init__(self, task: Task, parts: Parts, cells: Cells, attempts: Mapping[str, int]) -> None:
        self._task, self._parts, self._cells = task, parts, dict(cells)
        self._attempts = {cell: attempts.get(cell, 0) + 1 for cell in cells}

    def __call__(self) -> None:
        """Run the cells that have no row yet, until a signal comes; then let submitit requeue the task.

        It is not requeued where it was cancelled, nor where the time limit was too short for a cell or a checkpoint.
        """
        asked: list[int] = []
        signals = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
        before: dict[int, Any] = {one: signal.signal(one, lambda number, _: asked.append(number)) for one in signals}
        for part in scan(self._parts.directory, self._parts.identity):
            for cell, status, attempt in part.rows:
                if cell in self._cells and (status not in FAILED or attempt >= self._attempts[cell]):
                    del self._cells[cell]
        given = len(self._cells)
        if given:
            self._run(Worker(self._task, lambda: bool(asked)))
        if self._cells and asked and (asked[0] == signal.SIGTERM or len(self._cells) < given or self._saved):
            import submitit

            here = submitit.JobEnvironment()
            # a job that was cancelled is completing; requeued, it would come back
            if jobs.states([jobs.Array(here.cluster, {here.job_id: []})]).get(here.job_id) in ("running", "signaling"):
                before[getattr(signal, f"SIG{here.USR_SIG}")](asked[0], None)

    @property
    def _saved(self) -> bool:
        """Whether a cell would go on from a checkpoint."""
        return any((self._parts.directory / CHECKPOINTS / cell).exists() for cell in self._cells)

    def checkpoint(self) -> Any:
        """Return what submitit keeps for the next start of the task."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)

    def _run(self, worker: Worker) -> None:
        rows: list[Row] = []
        cells = self._cells.copy()
        began = last = time.monotonic()
        for found in worker.run(cells):
            rows += [{**row, "attempt": self._attempts[row["cell"]]} for row in found]
            if time.monotonic() - last >= _limited(last - began, *PUBLISH):
                self._publish(rows, cells)
                last = time.monotonic()
        self._publish(rows, cells)

    def _publish(self, rows: list[Row], cells: Cells) -> None:
        for row in commit_rows(self._parts, rows, cells) if rows else ():
            del self._cells[row["cell"]]
        rows.clear()


class Tasks:
    """The array as its owner sees it: rows are those of the parts that tasks have published.

    Neither the accounting of Slurm nor the results of submitit are asked: a task that squeue does not list has ended.
    """

    stores = True
    compilations = ()  # made in the tasks
    occupied = (0, 0, 0, 0)

    def __init__(self, job: Job) -> None:
        assert job.store is not None
        self._job, self._store, self._task = job, job.store, task(job)
        self._directory = job.store.directory.absolute()
        self._workers = AUTO if job.execution.workers == "auto" else job.execution.workers
        options = {name.replace("-", "_"): value for name, value in job.execution.options.items()}
        cores = options.get("cpus_per_task")
        self.devices = self._workers * (cores if isinstance(cores, int) else 1)
        self._executor = _executor(options, self._directory, self._workers)
        self._tasks: dict[str, Iterable[str]] = {}
        self.spent = Spent()

    def run(self, cells: Cells) -> Iterator[list[Row]]:
        """Submit the cells that no earlier job runs, and yield rows as tasks publish them.

        Raises Interrupted where the person asks to stop, here or by `expreg cancel`; InputError where sbatch refuses.
        """
        left, lost = dict(cells), Counter[str]()
        self._tasks = self._earlier(left)
        running = set().union(*self._tasks.values())
        self._submit({cell: left[cell] for cell in left if cell not in running}, self._workers)
        began = look = time.monotonic()
        while left:
            if self._job.stop():
                raise Interrupted(self._interrupted())
            if time.monotonic() >= look:
                ended = self._ended()  # before the parts: what a task has published is there when it has ended
                rows = self._store.rows([cell for cell, *_ in self._store.refresh() if left.pop(cell, None)])
                # until the first cell has finished, tasks were queued
                waited = time.monotonic() - began if 0 < len(rows) == len(cells) - len(left) else 0.0
                seconds = sum(row["seconds"] or 0.0 for row in rows)
                self.spent = Spent(self.spent.device + seconds, self.spent.waiting + waited)
                yield rows
                yield self._given_back(ended, left, lost)
                look = time.monotonic() + _limited(time.monotonic() - began, *LOOK)
            time.sleep(0.1)
            yield []

    def _earlier(self, left: Cells) -> dict[str, Iterable[str]]:
        """Return the cells that jobs of an earlier execution run, by task."""
        found = jobs.arrays(self._directory)
        known = jobs.states(found)
        tasks = {task: left.keys() & array.tasks[task] for array in found for task in array.tasks if task in known}
        running: dict[str, Iterable[str]] = {task: cells for task, cells in tasks.items() if cells}
        if running:
            cells = counted(len(set().union(*running.values())), "cell")
            self._job.say(f"waiting for {jobs.named(running)} of an earlier execution, with {cells}")
        return running

    def _submit(self, cells: Cells, most: int) -> None:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        if not cells:
            return
        shares = split(self._job.experiment, cells, most)
        parts, attempts = self._store.parts._replace(directory=self._directory), self._store.attempts
        disk.make_directory(self._executor.folder)
        try:
            with redirect_stderr(io.StringIO()):  # submitit prints what sbatch says
                submitted = self._executor.submit_array([Share(self._task, parts, share, attempts) for share in shares])
        except (FailedJobError, FailedSubmissionError) as error:
            raise jobs.refusal(str(error)) from None
        tasks = {job.job_id: list(share) for job, share in zip(submitted, shares, strict=True)}
        jobs.keep(self._directory, jobs.Array(self._executor.name(), tasks))
        self._tasks |= tasks
        self._store.event("submitted", jobs=jobs.named(tasks), tasks=len(tasks), cells=len(cells))
        self._job.say(f"{counted(len(cells), 'cell')} in {counted(len(tasks), 'task')} of {jobs.named(tasks)}")

    def _ended(self) -> dict[str, Iterable[str]]:
        """Return the cells of the tasks that have ended, which are no longer waited for."""
        found = jobs.arrays(self._directory)
        try:
            known = jobs.states(found)
        except InputError:  # Slurm does not answer now; it will later
            return {}
        ended = {task: self._tasks.pop(task) for task in [*self._tasks] if task not in known}
        queued = sum(known[task] == "pending" for task in self._tasks)
        self.occupied = (0, 0, queued, len(self._tasks))
        if cancelled := ended.keys() - {task for array in found for task in array.tasks}:
            raise Interrupted(f"cancelled: {jobs.named(cancelled)}; the same command submits the rest")
        return ended

    def _given_back(self, ended: Mapping[str, Iterable[str]], left: dict[str, Any], lost: Counter[str]) -> list[Row]:
        """Submit again what tasks left open when they ended; after so many times return its rows, which are errors."""
        log = {
            cell: self._executor.folder / f"{task}_0_log.err" for task in ended for cell in ended[task] if cell in left
        }
        lost.update(log.keys())
        why = "its task ended without its row, {} times; log: {}".format
        rows = [
            with_axes({"cell": cell, "status": "error", "status_detail": why(lost[cell], log[cell])}, *left.pop(cell))
            for cell in log
            if lost[cell] > RETRIES
        ]
        self._store.commit(rows)
        # as many tasks as were lost; if that was no accident many, so that what ends one of them ends few cells
        most = len({*log.values()}) if max(lost.values(), default=1) == 1 else self._workers
        self._submit({cell: left[cell] for cell in log if cell in left}, most)
        return rows

    def _interrupted(self) -> str:
        going = f"what is left goes on in {jobs.named(self._tasks)}"
        cancel = f"`expreg cancel {shlex.quote(str(self._store.directory))}` ends"
        return f"interrupted; {going}, which {cancel}; collect it with the same command"


def backend(job: Job) -> AbstractContextManager[Runner]:
    """Run cells in tasks of Slurm, which go on when this process ends."""
    return nullcontext(Tasks(job))


def split(experiment: Experiment, cells: Cells, count: int) -> list[Cells]:
    """Return the cells in at most `count` shares of about equal expected work, those of one program side by side."""
    loads, _ = workload(experiment, {cell: settings for cell, (settings, _) in cells.items()})
    program, total = dict.fromkeys(cells, ""), defaultdict[str, float](float)
    for cell, (settings, _) in cells.items():
        with suppress(Exception):  # reported in its row
            program[cell] = repr(experiment.signature(settings))
        total[program[cell]] += 1.0 + loads[cell].device
    shares = defaultdict[int, dict[str, Any]](dict)
    before, whole = 0.0, sum(total.values())
    for cell in sorted(cells, key=lambda cell: (-total[program[cell]], program[cell])):
        size = 1.0 + loads[cell].device
        shares[min(int(count * (before + size / 2) / whole), count - 1)][cell] = cells[cell]
        before += size
    return list(shares.values())


def _executor(options: dict[str, Any], directory: Path, workers: int) -> Any:
    """Return the executor of submitit for options of sbatch, with _ for - in their names."""
    import submitit

    own = {name: options.pop(name) for name in _OF_SUBMITIT if name in options}
    minutes = options["time"] if isinstance(options.get("time"), int | float) else MINUTES
    most = 10**6  # restarts: a task goes on as long as its cells finish
    if options.pop("cluster", "slurm") == "local":
        local = submitit.LocalExecutor(directory / jobs.FOLDER, max_num_timeout=most)
        local.update_parameters(timeout_min=minutes, **own)
        return local
    # srun does not take the cores from sbatch
    own["srun_args"] = [f"--cpus-per-task={options.get('cpus_per_task', 1)}", *own.get("srun_args", [])]
    own = {"array_parallelism": workers, "job_name": f"expreg-{directory.name}", "time": minutes, **own}
    slurm = submitit.SlurmExecutor(directory / jobs.FOLDER, max_num_timeout=most)
    slurm.update_parameters(**own, additional_parameters={"requeue": True, **options})
    return slurm
