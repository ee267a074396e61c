"""Say how far a run is: cells done, their rate, the time left; a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from expreg.errors import printable

LINE_SECONDS = 10.0
"""Time between two plain lines at first; later they come less often, so that no log is flooded."""
LINE_SHARE = 0.05
"""Share of the time so far that passes between two later lines."""


class Reporter:
    """Show the progress of a run; time left is by cost, since the widest cells take most of it.

    Args:
        costs: expected cost of each open cell.
        done: cells finished by earlier runs. label: what these cells are, in front of every line.
        programs: how many have to be compiled. devices: how many run cells at the same time.
        silent: write nothing. stream: where to write, standard error by default, as long as somebody reads it.

    """

    def __init__(
        self,
        costs: Mapping[str, float],
        done: int,
        *,
        programs: int = 0,
        devices: int = 1,
        label: str = "",
        silent: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        self._costs = costs
        self._left = sum(costs.values())
        self._before, self._of = done, len(costs) + done
        self._programs, self._devices = programs, devices
        self._compiled: list[float] = []
        self._spent = self._device_seconds = 0.0
        self._statuses: Counter[str] = Counter()
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
            label.rstrip(": ") or "cells", total=self._of, completed=done, rest=self._rest()
        )

    def __enter__(self) -> Self:
        self._bar.start()
        if self._plain and (self._programs or not self._label):
            self._say(self._line())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._bar.stop()
        self._say(self._line(over=True))

    def add(self, rows: Iterable[Mapping[str, Any]], compiled: Iterable[float] = ()) -> None:
        """Count rows of finished cells; `compiled` are the seconds that each program so far took to compile."""
        self._compiled = list(compiled)
        for row in rows:
            cost = self._costs.get(row["cell"], 0.0)
            self._statuses[row["status"]] += 1
            self._left -= cost
            self._spent += cost
            self._device_seconds += row.get("seconds") or 0.0
        with suppress(OSError):
            self._bar.update(self._task, completed=self._before + self._statuses.total(), rest=self._rest())
        now = time.monotonic()
        if now - self._last_line >= max(LINE_SECONDS, LINE_SHARE * (now - self._began)):
            self._last_line = now
            if self._plain and self._left > 0:
                self._say(self._line())

    def seconds_left(self) -> float:
        """Return the time that the open cells and programs will take at the pace so far; nan before there is one.

        Finished cells tell what a unit of cost takes, and so what the others need, of which the unfinished ones in
        the lanes have had a part. When they have had more than that, they are expected to need as much again.
        Compiling keeps the cores of a CPU from running cells, so it counts too.
        """
        if self._spent <= 0:
            return float("nan")
        first = self._compiled[0] if self._compiled else 0.0  # before that no cell could run
        given = (time.monotonic() - self._began - first) * self._devices
        unfinished = max(given - self._device_seconds, 0.0) if self._left > 0 else 0.0
        needed = self._left * self._device_seconds / self._spent
        waiting = max(self._programs - len(self._compiled), 0)
        compiling = waiting * sum(self._compiled) / max(len(self._compiled), 1)
        return (max(needed - unfinished, unfinished) + compiling) / self._devices

    def _rest(self) -> str:
        cells, elapsed = self._statuses.total(), time.monotonic() - self._began
        if cells:
            rate = cells / max(elapsed, 1e-3)
            pace = f"{rate:.3g}" if rate < 100 else f"{rate:.0f}"
            return f"{pace} cells/s, {duration(self.seconds_left())} left"
        waiting = self._programs - len(self._compiled)
        return f"compiling {counted(waiting, 'program')}" if waiting > 0 else "running"

    def _line(self, *, over: bool = False) -> str:
        cells, done = self._statuses.total(), self._before + self._statuses.total()
        statuses = ", ".join(f"{count} {status}" for status, count in self._statuses.most_common())
        elapsed = duration(time.monotonic() - self._began)
        head = f"{self._label}{done}/{self._of} cells done" + (f" ({statuses})" if statuses else "")
        if done == self._of:
            return f"{head}; in {elapsed}"
        if over:
            return f"{head}; stopped after {elapsed}"
        return f"{head}; {self._rest()}" + (f", {elapsed} so far" if cells else "")

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


def counted(count: int, word: str) -> str:
    """Return `1 program`, `2 programs`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def duration(seconds: float) -> str:
    """Return a time span in words of at most two units; `?` if it is not known."""
    if seconds != seconds or seconds == float("inf"):
        return "?"
    if seconds < 100:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
