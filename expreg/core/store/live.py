"""How far a run is while it goes on: numbers that its process leaves for others, and the words that both print."""

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from expreg.core.store.disk import read_json
from expreg.output import counted, duration

NAME = "progress.json"


class Progress(NamedTuple):
    """How far a run is, as numbers that JSON can hold; `seconds_left` is None before it is known.

    `statuses`, `seconds` and the rate are those of this execution, `done` and `of` count earlier ones too; of a
    search all are those of a round, which `label` names. `busy` of `lanes` hold a cell.
    """

    done: int
    of: int
    statuses: dict[str, int]
    seconds: float
    seconds_left: float | None = None
    programs: int = 0
    busy: int = 0
    lanes: int = 0
    label: str = ""

    @property
    def rate(self) -> float:
        """Return the cells that finish in a second."""
        return sum(self.statuses.values()) / max(self.seconds, 1e-3)


def text(progress: Progress) -> str:
    """Return the content of progress.json."""
    return json.dumps(progress._asdict(), allow_nan=False) + "\n"


def read(directory: Path) -> Progress | None:
    """Return what the process of a run last left; None if it left nothing that can be read."""
    try:
        found = Progress(**read_json(directory / NAME))
        line(found)
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return found


def rest(progress: Progress) -> str:
    """Return the rate and the time left in words; what is being waited for before there is a rate."""
    if progress.statuses:
        return f"{_pace(progress.rate)} cells/s, {_left(progress)} left"
    return f"compiling {counted(progress.programs, 'program')}" if progress.programs > 0 else "running"


def line(progress: Progress, *, over: bool = False) -> str:
    """Return the line of a log: cells done, by status, rate and time left; once it is `over`, the time it took."""
    p = progress
    statuses = ", ".join(f"{count} {status}" for status, count in Counter(p.statuses).most_common())
    head = f"{p.label}{p.done}/{p.of} cells done" + (f" ({statuses})" if statuses else "")
    if p.done == p.of or over:
        return f"{head}; {'in' if p.done == p.of else 'stopped after'} {duration(p.seconds)}"
    return f"{head}; {rest(p)}" + (f", {duration(p.seconds)} so far" if p.statuses else "")


def facts(progress: Progress) -> dict[str, str]:
    """Return the same as names and values, for a table."""
    found = {"rate": f"{_pace(progress.rate)} cells/s" if progress.statuses else rest(progress)}
    if progress.seconds_left is not None:
        found["time left"] = _left(progress)
    return found | {"lanes": f"{progress.busy} of {progress.lanes} busy"} if progress.lanes else found


def _left(progress: Progress) -> str:
    return "?" if progress.seconds_left is None else duration(float(round(progress.seconds_left)))


def _pace(rate: float) -> str:
    return f"{rate:.3g}" if rate < 100 else f"{rate:.0f}"
