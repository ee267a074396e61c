"""Say how far a run is: cells done, their rate, the time left; a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections import Counter
from collections.abc import Iterable
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

LINE_SECONDS = 10.0
"""Time between two plain lines."""


class Reporter:
    """Show the progress of a run; time left is by cost, since the widest cells take most of it.

    Args:
        costs: expected cost of each open cell. done: cells finished by earlier runs. stream: where to write.

    """

    def __init__(self, costs: dict[str, float], done: int, *, stream: TextIO | None = None) -> None:
        self._costs = costs
        self._total_cost = sum(costs.values())
        self._spent = 0.0
        self._cells = 0
        self._of = len(costs) + done
        self._before = done
        self._statuses: Counter[str] = Counter()
        self._began = self._last_line = time.monotonic()
        self._console = Console(file=stream or sys.stderr)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rest]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("cells", total=self._of, completed=done, rest="compiling")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._cells:
            self._console.print(f"{self._line()}", highlight=False)

    def add(self, finished: Iterable[tuple[str, str]]) -> None:
        """Count finished cells, (cell, status) each."""
        for cell, status in finished:
            self._cells += 1
            self._statuses[status] += 1
            self._spent += self._costs.get(cell, 0.0)
        self._bar.update(self._task, completed=self._before + self._cells, rest=self._rest())
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            self._console.print(self._line(), highlight=False)

    def _rest(self) -> str:
        elapsed = time.monotonic() - self._began
        rate = self._cells / elapsed if elapsed > 0 else 0.0
        left = elapsed * (self._total_cost - self._spent) / self._spent if self._spent > 0 else float("nan")
        return f"{rate:.1f} cells/s, {duration(left)} left" if self._cells else "compiling"

    def _line(self) -> str:
        statuses = ", ".join(f"{count} {status}" for status, count in self._statuses.most_common())
        done = self._before + self._cells
        tail = self._rest() if done < self._of else f"{duration(time.monotonic() - self._began)}"
        return f"{done}/{self._of} cells ({statuses}); {tail}"


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
