"""Save figures as svg, pdf and png; half of them in a second process, since saving takes most of the time of a page."""

import io
import os
import pickle
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from expreg.core.page.style import Figure, style
from expreg.errors import printable
from expreg.types import cores

# No dates anywhere: the same rows give the same bytes.
_FORMATS: dict[str, dict[str, Any]] = {
    "svg": {"metadata": {"Date": None}},
    "pdf": {"metadata": {"CreationDate": None}},
    "png": {"dpi": 160},
}
FEW = 4
"""Figures below which starting a process takes longer than it saves."""
Saved = tuple[dict[str, bytes], str]
"""The files of a figure by their suffix; or none, and the reason."""


def saved(figures: Sequence[Figure]) -> list[Saved]:
    """Return the files of each figure, the same bytes for the same figures; one that fails has a reason instead."""
    if cores() < 2 or len(figures) < FEW:
        return [_attempt(figure) for figure in figures]
    others = figures[1::2]
    with _elsewhere(others) as answer:
        here = [_attempt(figure) for figure in figures[::2]]
        there = answer() or [_attempt(figure) for figure in others]
    found = [*here, *there]
    found[::2], found[1::2] = here, there
    return found


@contextmanager
def _elsewhere(figures: Sequence[Figure]) -> Iterator[Callable[[], list[Saved]]]:
    """Save figures in another process; yield what waits for their files, which are none if that fails."""
    with ExitStack() as stack:
        process = None
        with suppress(Exception):  # what a figure of users holds may not be for another process; no room on the disk
            given, found = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
            pickle.dump(figures, given)
            given.seek(0)
            paths = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            command = [sys.executable, "-P", "-m", __name__]  # -P: what lies in this directory is not imported
            process = subprocess.Popen(command, stdin=given, stdout=found, stderr=subprocess.DEVNULL, env=paths)

        def answer() -> list[Saved]:
            with suppress(Exception):
                if process and process.wait() == 0:
                    found.seek(0)
                    return list(pickle.load(found))
            return []

        try:
            yield answer
        finally:
            if process:
                process.kill()
                process.wait()


def _attempt(figure: Figure) -> Saved:
    try:
        return render(figure), figure.problem
    except Exception as error:  # a figure must never fail the report
        return {}, reason(error)


def render(figure: Figure) -> dict[str, bytes]:
    """Return the figure as svg, pdf and png, the same bytes for the same input; raises as matplotlib does."""
    if figure.figure is None:
        return {}
    files = {}
    with style(), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; that is no reason to warn or stop.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        # Placing everything once and keeping it halves the time and puts all formats in step.
        if layout := figure.figure.get_layout_engine():
            layout.execute(figure.figure)
            figure.figure.set_layout_engine(None)
        for suffix, options in _FORMATS.items():
            target = io.BytesIO()
            figure.figure.savefig(target, format=suffix, **options)
            files[suffix] = target.getvalue()
    return files


def reason(error: Exception) -> str:
    """Return what went wrong in one printable line."""
    return printable(f"{type(error).__name__}: {' '.join(str(error).split())}")[:300]


if __name__ == "__main__":
    answer, sys.stdout = sys.stdout, sys.stderr  # whatever prints would spoil it
    pickle.dump([_attempt(figure) for figure in pickle.load(sys.stdin.buffer)], answer.buffer)
