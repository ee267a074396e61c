"""Tables and sentences for a terminal or a pipe: plain text of at most 100 columns."""

import io
import textwrap
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from expreg.errors import printable

WIDTH = 100


def lines(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    right: bool = False,
    indent: int = 2,
    width: int = WIDTH,
) -> list[str]:
    """Return a heading, if any column has a name, and one aligned line per row; the first column gives way."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(columns))
    for i, name in enumerate(columns):
        # the table shrinks only columns that may wrap; the texts themselves never do
        table.add_column(_text(name), no_wrap=i > 0, justify="right" if right else "left")
    for row in rows:
        table.add_row(*map(_text, row))
    console = Console(file=io.StringIO(), width=width - indent, color_system=None, force_jupyter=False)
    with console.capture() as capture:
        console.print(table)
    return [" " * indent + line.rstrip() for line in capture.get().splitlines()]


def _text(value: object) -> Text:
    return Text(printable(str(value)), no_wrap=True, overflow="ellipsis")


def pairs(facts: Mapping[str, object], indent: int = 0) -> list[str]:
    """Return a line per fact, name and value; long values are not cut."""
    return lines(["", ""], list(facts.items()), indent=indent, width=10_000)


def wrapped(sentence: str, indent: int = 0) -> list[str]:
    """Return a sentence as lines."""
    pad = " " * indent
    return textwrap.wrap(printable(sentence), WIDTH, initial_indent=pad, subsequent_indent=pad)
