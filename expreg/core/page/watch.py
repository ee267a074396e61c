"""What `expreg status` prints of a run directory, once or for as long as the run goes on."""

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.text import Text

from expreg.core.page import terminal
from expreg.core.store import live, table
from expreg.core.store.disk import is_locked
from expreg.errors import printable
from expreg.output import counted, say

LOOK_SECONDS = 1.0
"""Time between two looks at a run."""
LINE_SECONDS = 10.0
"""Time between two lines where there is no terminal."""
EVENTS = 5
"""Events that are shown of a run in progress."""


def lines(run: Path, facts: Mapping[str, Any]) -> list[str]:
    """Return the state of a run as lines, from the facts of `table.status`, and `jobs`: tasks by job and state."""
    planned = "?" if facts["planned"] is None else facts["planned"]
    most = "at most " if facts["search"] else ""
    last = facts["last_event"]
    found = [f"{run}: {facts['done']} of {most}{planned} cells done, {_state(facts, last)}"]
    progress = live.Progress(**facts["progress"]) if facts["progress"] else None
    tasks = {f"job {job}": ", ".join(f"{n} {state}" for state, n in of.items()) for job, of in _jobs(facts).items()}
    found += terminal.pairs({**facts["by_status"], **(live.facts(progress) if progress else {}), **tasks}, indent=2)
    if last:
        found.append(f"  last event: {last['kind']} at {last['time']}")
    return [*found, *(f"  damaged: {line}" for line in facts["damaged"])]


def _state(facts: Mapping[str, Any], last: Mapping[str, Any] | None) -> str:
    over = last and last["kind"] == "finished"
    tasks = sum((Counter(of) for of in _jobs(facts).values()), Counter[str]())
    queue = f", {tasks['pending']} of {counted(tasks.total(), 'task')} queued" if tasks["pending"] else ""
    if facts["running"]:
        return "drawing the report" if over else f"running now{queue}"
    if tasks:
        return f"run by jobs{queue}"
    return "search finished" if facts["search"] and over else "not running"


def _jobs(facts: Mapping[str, Any]) -> Mapping[str, Mapping[str, int]]:
    """Return the tasks of the jobs that run cells, where the facts have them."""
    return facts.get("jobs", {})


def watch(run: Path, status: Callable[[Path], Any] = table.status) -> None:
    """Show how a run goes on until its process ends, then its state; on a terminal in place, elsewhere line by line.

    Ctrl-C ends it. The numbers are those that the process of the run shows itself.
    """
    facts = status(run)
    terminal_like = sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    with _until_interrupted():
        if facts["running"]:
            (_in_place if terminal_like else _line_by_line)(run)
            facts = status(run)
        say(*lines(run, facts))


def _in_place(run: Path) -> None:
    with Live(_frame(run), auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False) as shown:
        while is_locked(run):
            shown.update(_frame(run), refresh=True)
            time.sleep(LOOK_SECONDS)


def _line_by_line(run: Path) -> None:
    before, last = "", -LINE_SECONDS
    while is_locked(run):
        line = _line(run)
        if time.monotonic() - last >= LINE_SECONDS and line != before:
            say(line)
            before, last = line, time.monotonic()
        time.sleep(LOOK_SECONDS)


def _line(run: Path) -> str:
    progress = live.read(run)
    return live.line(progress) if progress else _waiting(table.read_events(run))


def _waiting(events: list[dict[str, Any]]) -> str:
    return "drawing the report" if events and events[-1]["kind"] == "finished" else "beginning"


def _frame(run: Path) -> Group:
    events, progress = table.read_events(run), live.read(run)
    if progress is None:
        return Group(Text(f"{printable(str(run))}: {_waiting(events)}"))
    facts = {**{name: str(count) for name, count in progress.statuses.items()}, **live.facts(progress)}
    head = f"{printable(str(run))}: {progress.label}{progress.done} of {progress.of} cells done"
    return Group(
        Text(head),
        Padding(ProgressBar(total=max(progress.of, 1), completed=progress.done, width=60), (0, 2)),
        *map(Text, terminal.pairs(facts, indent=2)),
        Text("  last events"),
        *(Text(f"    {_event(event)}", style="dim") for event in events[-EVENTS:]),
    )


def _event(event: Mapping[str, Any]) -> str:
    more = " ".join(f"{name}={value}" for name, value in event.items() if name not in ("time", "kind", "part", "plan"))
    return printable(f"{event['time'][11:19]}  {event['kind']}  {more}")


@contextmanager
def _until_interrupted() -> Iterator[None]:
    """Let Ctrl-C end the block, where the command line would end the process with the exit code of a stopped run."""
    before: Callable[..., Any] | int | None = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGINT, before)
