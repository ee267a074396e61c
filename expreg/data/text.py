"""Lines and numbers of text files; what is wrong with them is reported with its lines, all at once."""

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import IO, TypeVar

from expreg.data.arrays import EXACT, INEXACT, refusal
from expreg.errors import MAX_LISTED, InputError, Problem, refuse

_SHOWN = 40  # characters of a text that an error quotes
_DIGITS = len(str(EXACT))
T = TypeVar("T")


def lines(source: IO[bytes]) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text with their numbers; a byte-order mark is no part of it."""
    # comments may be in any encoding
    yield from enumerate(io.StringIO(source.read().decode("utf-8-sig", errors="replace"), newline=None), 1)


def each(rows: Iterable[tuple[int, T]], take: Callable[[int, T], None]) -> None:
    """Call `take(line, row)` for all rows; raise InputError with everything that it refused."""
    problems: list[Problem] = []
    for line, row in rows:
        try:
            take(line, row)
        except InputError as error:
            # of a million bad lines the first are listed and the others counted
            found = replace(error.problems[0], line=line) if len(problems) < MAX_LISTED else problems[-1]
            problems.append(found)
    refuse(problems)


def number(text: str, key: str | None = None) -> float:
    """Return the number in `text`; float() alone would take `1_0` and the digits of any script, and round integers."""
    try:
        value = float(text)
    except ValueError:
        value = None
    if value is None or "_" in text or not text.isascii():
        raise refusal("E-DATA", f"got {quoted(text)}, expected a number", key=key)
    digits = text.strip().lstrip("+-0") if abs(value) >= EXACT else ""
    if digits.isdigit() and (len(digits) > _DIGITS or int(digits) > EXACT):
        raise refusal("E-DTYPE", f"got {text.strip()[:_SHOWN]}, {INEXACT}", key=key)
    return value


def quoted(text: str) -> str:
    """Return the beginning of a text in quotation marks."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
