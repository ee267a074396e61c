"""The one way to standard output and standard error: escaped, in any encoding, on a full or closed stream."""

import codecs
import io
import json
import math
import os
import select
import sys
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal
from html import escape
from typing import Any

from expreg.errors import Problem, StorageError, printable

_SIGNS = {"–": "-", "−": "-", "≤": "<=", "≥": ">=", "×": "x", "…": "...", "λ": "lambda", "±": "+-", "‖": "||"}


def say(*lines: str) -> None:
    """Print lines to standard output; if its reader has gone (`| head`) the command still does its work."""
    print(*map(printable, lines), sep="\n", flush=True)


def complain(*lines: str) -> None:
    """Print lines to standard error, if somebody reads it."""
    with suppress(OSError):
        print(*map(printable, lines), sep="\n", file=sys.stderr, flush=True)


def document(value: Any, indent: int | None = 1) -> str:
    """Return a JSON document of what is `plain`."""
    return json.dumps(plain(value), indent=indent, separators=None if indent else (",", ":"), allow_nan=False)


def plain(value: Any) -> Any:
    """Return a value as JSON has it: null for nan, infinities and missing values, text for what is no JSON."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if str(value) in ("<NA>", "NaT") else str(value)  # as pandas writes what is missing


def counted(count: int, word: str) -> str:
    """Return `1 program`, `2 programs`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def table(rows: Mapping[str, Any]) -> str:
    """Return an HTML table of names and values, as notebooks show it."""
    shown = (f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in rows.items())
    return f"<table>{''.join(shown)}</table>"


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


class _Stream(io.FileIO):
    """A descriptor that takes everything once its reader has gone, and fails once, by StorageError, on a full disk."""

    lost = False

    def write(self, data: Any) -> int:
        """Return the number of bytes that are written, or lost."""
        try:
            while not self.lost:
                if (count := super().write(data)) is not None:
                    return count
                select.select([], [self], [])  # a parent has made the pipe non-blocking
        except BrokenPipeError:
            self.lost = True
        except OSError as error:
            self.lost = True
            message = str(error.strerror or error)
            raise StorageError(str(Problem("E-DISK", message, file="standard output"))) from None
        return len(data)


def guard() -> None:
    """Make standard output of this process safe to print to, whatever it is."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed by the caller: the next file to be opened must not get its number
            os.open(os.devnull, os.O_RDWR)
    given = sys.__stdout__
    if given is not None and sys.stdout is given:
        codecs.register_error("expreg", _in_ascii)
        raw = _Stream(given.fileno(), "wb", closefd=False)
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(raw), given.encoding, errors="expreg")


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for the signs that an encoding lacks."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(_SIGNS.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking), error.end
