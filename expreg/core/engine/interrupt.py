"""Stop when the person or the machine asks: the first signal between two slices, the second at once."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXIT_CODE = 75

_SHOW_CURSOR = "\033[?25h"

Handler = Callable[[int, FrameType | None], object]


@contextmanager
def handled(handler: Handler) -> Iterator[None]:
    """Let `handler` answer SIGINT, SIGTERM and SIGHUP, but none that the caller's shell ignores (nohup)."""
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
def graceful() -> Iterator[Callable[[], bool]]:
    """Take the first signal as a request, which the yielded function tells; end the process at the second."""
    asked: list[int] = []

    def ask(number: int, _: FrameType | None) -> None:
        if asked:
            end_at_once("stopped at once; what was stored is safe")(number, None)
        asked.append(number)
        _say("stopping after this slice; the next signal ends at once\n")

    with handled(ask):
        yield lambda: bool(asked)


def _say(text: str) -> None:
    # not print(): the signal may have come in the middle of one
    try:
        os.write(2, text.encode())
    except OSError:
        return
