"""Stop when the person or the machine asks: the first signal between two slices, the second at once."""

import math
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from expreg.errors import InputError, Problem

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""SIGUSR1 is what `sbatch --signal` usually asks for."""
EXIT_CODE = 75

_SHOW_CURSOR = "\033[?25h"

Handler = Callable[[int, FrameType | None], object]


@contextmanager
def handled(handler: Handler) -> Iterator[None]:
    """Let `handler` answer SIGNALS, but none that the caller's shell ignores (nohup)."""
    before = {}
    try:
        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, handler)
    except ValueError:  # not the main thread: signals are the caller's business
        pass
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def end_at_once(message: str) -> Handler:
    """Return the handler that says `message` and ends the process, for where nothing has to be finished first.

    An exception would be lost wherever Python cannot raise it, such as in a callback of the garbage collector.
    """

    def end(number: int, _: FrameType | None) -> None:
        # a progress bar hides the cursor
        _say(f"{_SHOW_CURSOR if os.isatty(2) else ''}{signal.Signals(number).name}: {message}\n")
        os._exit(EXIT_CODE)

    return end


@contextmanager
def graceful(end: float = math.inf) -> Iterator[Callable[[], bool]]:
    """Take the first signal, or the monotonic time `end`, as a request to stop; end the process at the second signal.

    The function that is yielded says whether to stop.
    """
    asked: list[int] = []

    def ask(number: int, _: FrameType | None) -> None:
        if asked:
            end_at_once("stopped at once; what was stored is safe")(number, None)
        asked.append(number)
        _say("stopping after this slice; the next signal ends at once\n")

    with handled(ask):
        yield lambda: bool(asked) or time.monotonic() >= end


def seconds(text: str, key: str) -> float:
    """Return a time such as 90s, 30m, 2h, 1d or 1:30:00 in seconds; raise InputError for other texts."""
    value = 0.0
    if found := re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd])", text):
        value = float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]
    elif found := re.fullmatch(r"([0-9]{1,9}):([0-5][0-9]):([0-5][0-9])", text):
        value = 3600.0 * int(found[1]) + 60 * int(found[2]) + int(found[3])
    if value == 0:
        raise InputError(Problem("E-RANGE", f"got {text!r}, expected a time such as 90s, 30m, 2h or 1:30:00", key=key))
    return value


def _say(text: str) -> None:
    # not print(): the signal may have come in the middle of one
    try:
        os.write(2, text.encode())
    except OSError:
        return
