"""The jobs of Slurm that run cells of a run directory: which there are, how far they are, how to end them."""

import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from expreg.core.config.fields import Fault
from expreg.core.engine import manifest
from expreg.core.store import disk, table
from expreg.errors import InputError, Problem
from expreg.output import counted

FOLDER = "jobs"
"""Where a run directory keeps a file for each array, the logs of its tasks, and the files of submitit."""
_SQUEUE = ("squeue", "--me", "--array", "--noheader", "--format=%i %T")


class Array(NamedTuple):
    """Tasks that were submitted together, each with its cells, as RUN/jobs/<id>.json has them until `cancel`."""

    cluster: str
    tasks: Mapping[str, list[str]]

    @property
    def id(self) -> str:
        """The id of the job; of local tasks, which have one each, the first."""
        return next(iter(self.tasks)).partition("_")[0]

    def path(self, directory: Path) -> Path:
        """Return the file that has it."""
        return directory / FOLDER / f"{self.id}.json"


def keep(directory: Path, array: Array) -> None:
    """Write the file of an array."""
    disk.replace(array.path(directory), f"{json.dumps(array._asdict(), indent=1)}\n".encode())


def arrays(directory: Path) -> list[Array]:
    """Return the arrays that were submitted for a run directory; files that are none are left out."""
    found = []
    for path in sorted((directory / FOLDER).glob("*.json")):
        with suppress(OSError, ValueError, TypeError, AttributeError, StopIteration):
            array = Array(**disk.read_json(path))
            found += [array] if array.path(directory) == path else []
    return found


def states(found: Iterable[Array]) -> dict[str, str]:
    """Return the state of each task that has not ended: pending, running, completing, ... in the words of squeue.

    Raises InputError if Slurm does not answer; where it is not installed none of its tasks runs.
    """
    cluster = {task: array.cluster for array in found for task in array.tasks}
    known = {task: "running" for task in cluster if cluster[task] == "local" and _is_submitit(task)}
    if "slurm" in cluster.values() and shutil.which("squeue"):
        answer = subprocess.run(_SQUEUE, capture_output=True, text=True, check=False)
        if answer.returncode:
            raise refusal(answer.stderr)
        listed = (line.lower().split() for line in answer.stdout.splitlines())
        known |= {task: state for task, state in listed if cluster.get(task) == "slurm"}
    return known


def _is_submitit(process: str) -> bool:
    """Return whether a process of this host is one of submitit, and has not ended."""
    if sys.platform == "linux":  # where ps is not always installed
        with suppress(OSError):
            return b"submitit" in Path(f"/proc/{process}/cmdline").read_bytes()
        return False
    listed = subprocess.run(("ps", "-p", process, "-o", "args="), capture_output=True, check=False)
    return b"submitit" in listed.stdout


def refusal(answer: str) -> InputError:
    """Return the error for what a command of Slurm has answered, as one line."""
    lines = (re.sub(r"^\w+: (error|fatal): ", "", line) for line in answer.strip().splitlines())
    return InputError(Problem("E-SLURM", "; ".join(lines), file="slurm"))


def named(tasks: Iterable[str]) -> str:
    """Return the jobs of some tasks in words: `job 123`, `jobs 123, 124`."""
    ids = sorted({task.partition("_")[0] for task in tasks}, key=int)
    return f"job{'s' if len(ids) > 1 else ''} {', '.join(ids)}"


def counts(directory: Path) -> dict[str, dict[str, int]]:
    """Return how many tasks are pending, running, ended, ..., of each job that has not ended."""
    found = arrays(directory)
    try:
        known = states(found)
    except InputError:
        return {array.id: {"unknown": len(array.tasks)} for array in found}
    living = [array for array in found if array.tasks.keys() & known.keys()]
    return {array.id: dict(Counter(known.get(task, "ended") for task in array.tasks)) for array in living}


def refuse(directory: Path) -> None:
    """Raise StorageError while jobs run cells of a directory, which another execution would run again."""
    if known := states(arrays(directory)):
        remedy = f"`--on slurm` waits for them, `expreg cancel {shlex.quote(str(directory))}` ends them"
        raise disk.failure("E-LOCK", directory, f"its cells are run by {named(known)}; {remedy}")


def wrong(execution: Any) -> Fault | None:
    """Return why no job can be submitted with the block `execution` of a config, None if one can."""
    cluster = execution.options.get("cluster", "slurm")
    if cluster not in ("slurm", "local"):
        message = f"got {cluster!r}, expected slurm or local"
        return Fault(("execution", "options", "cluster"), "E-ENUM", message)
    if cluster == "slurm" and not shutil.which("sbatch"):
        message = "slurm needs the command sbatch, which is not here; run it where jobs are submitted"
        return Fault(("execution", "engine"), "E-SLURM", message)
    return None


def cancel(directory: Path) -> str:
    """End the jobs that run cells of a run, or ask its process on this host to stop; return what was done.

    Raises InputError if nothing runs there.
    """
    table.plan_of(directory)
    found = arrays(directory)
    known = states(found)
    for array in (array for array in found if array.tasks.keys() & known.keys()):
        array.path(directory).unlink()  # first: who waits for it sees that it was cancelled
        if array.cluster == "slurm":
            import submitit

            submitit.SlurmJob(directory / FOLDER, array.id).cancel(check=False)
        for task in array.tasks.keys() & known.keys() if array.cluster == "local" else ():
            os.kill(int(task), signal.SIGINT)
    return f"cancelled {counted(len(known), 'task')} of {named(known)}" if known else _stop_owner(directory)


def _stop_owner(directory: Path) -> str:
    owner = manifest.read(directory)
    if not disk.is_locked(directory) or owner.get("ending") != "running":
        raise InputError(Problem("E-RUN", "nothing runs there", file=str(directory)))
    if owner["host"] != platform.node():
        message = f"process {owner['process']} on {owner['host']} runs it: cancel it there"
        raise InputError(Problem("E-RUN", message, file=str(directory)))
    os.kill(owner["process"], signal.SIGTERM)
    return f"sent SIGTERM to process {owner['process']}, which stores what is finished and ends"
