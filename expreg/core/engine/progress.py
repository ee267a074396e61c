"""Say how far a run is: cells done, their rate, the time left; a bar on a terminal, plain lines elsewhere."""

import math
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from expreg.core.engine.pace import Pace, Spent
from expreg.core.store import live
from expreg.errors import printable
from expreg.output import counted

LINE_SECONDS = 10.0
"""Time between two plain lines at first; later they come less often, so that no log is flooded."""
LINE_SHARE = 0.05
"""Share of the time so far that passes between two later lines."""


class Reporter:
    """Show the progress of a run; time left is by cost, since the widest cells take most of it.

    Args:
        pace: what knows the time left.
        cells: how many are open. done: cells finished by earlier runs. label: what these cells are, in front of a line.
        silent: write nothing. stream: where to write, standard error by default, as long as somebody reads it.

    """

    def __init__(
        self,
        pace: Pace,
        cells: int,
        done: int = 0,
        *,
        label: str = "",
        silent: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        self._pace = pace
        self._before, self._of = done, cells + done
        self._statuses: Counter[str] = Counter()
        self._occupied: tuple[int, ...] = (0, 0)
        self._began = self._last_line = time.monotonic()
        self._said = ""
        self._label = label
        target = stream or sys.stderr
        self._console = _Console(file=target, quiet=silent or target is None)
        self._plain = silent or not self._console.is_terminal or self._console.is_dumb_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rest]}"),
            console=self._console,
            transient=True,
            disable=self._plain,
        )
        self._task = self._bar.add_task(
            self._head.rstrip(": ") or "cells", total=self._of, completed=done, rest=live.rest(self.progress())
        )

    def __enter__(self) -> Self:
        self._bar.start()
        if self._plain and (self._pace.programs or not self._label):
            self._say(live.line(self.progress()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._bar.stop()
        self._say(live.line(self.progress(), over=True))

    def add(
        self,
        rows: Collection[Mapping[str, Any]],
        spent: Spent = Spent(),  # noqa: B008
        compiled: Iterable[float] = (),
        occupied: tuple[int, ...] = (0, 0),
        devices: int | None = None,
    ) -> None:
        """Count rows of finished cells.

        `spent` is what the engine has spent since the beginning, `compiled` the seconds of each compilation so far;
        `occupied` how many lanes hold a cell, how many there are, how many tasks are queued and there are; `devices`
        how many run cells now.
        """
        self._statuses.update(row["status"] for row in rows)
        self._occupied = occupied
        now = time.monotonic()
        self._pace.add(rows, now - self._began, spent, compiled, devices)
        with suppress(OSError):
            done = self._before + self._statuses.total()
            head = self._head.rstrip(": ") or "cells"
            self._bar.update(self._task, description=head, completed=done, rest=live.rest(self.progress()))
        if now - self._last_line >= max(LINE_SECONDS, LINE_SHARE * (now - self._began)):
            self._last_line = now
            if self._plain and self._pace.cells_left:
                self._say(live.line(self.progress()))

    def progress(self) -> live.Progress:
        """Return how far the run is, for whoever watches it."""
        left = self._pace.seconds_left()
        return live.Progress(
            done=self._before + self._statuses.total(),
            of=self._of,
            statuses=dict(self._statuses.most_common()),
            seconds=time.monotonic() - self._began,
            seconds_left=left if math.isfinite(left) else None,
            programs=self._pace.programs,
            busy=self._occupied[0],
            lanes=self._occupied[1],
            label=self._head,
        )

    @property
    def _head(self) -> str:
        """What stands in front of a line: the label, and how many tasks are queued."""
        queued, tasks = self._occupied[2:] or (0, 0)
        return self._label + f"{queued} of {counted(tasks, 'task')} queued: " * (queued > 0)

    def _say(self, line: str) -> None:
        if line == self._said:
            return
        self._said = line
        with suppress(OSError):
            self._console.print(printable(line), highlight=False, markup=False, soft_wrap=True)


class _Console(Console):
    """A console that lets a run go on when nobody reads its progress (`2>&1 | head`)."""

    def on_broken_pipe(self) -> None:
        """Say nothing from now on."""
        self.quiet = True
