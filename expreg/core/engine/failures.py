"""What an exception costs: the row of one cell, and never the others."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from expreg.errors import Interrupted, StorageError, printable
from expreg.types import Row

MAX_DETAIL = 200
"""Characters of a `status_detail`."""


def error_row(cell: str, error: BaseException) -> Row:
    """Return the row of a cell whose own functions, or whose program, raised; `oom` is lack of memory."""
    if out_of_memory(error):
        return {
            "cell": cell,
            "status": "oom",
            "status_detail": f"out of memory even alone: {detail(error)}"[:MAX_DETAIL],
        }
    return {"cell": cell, "status": "error", "status_detail": detail(error)}


def detail(error: BaseException) -> str:
    """Return an exception as one printable line: its first, or of a traceback that it quotes the last."""
    lines = str(error).strip().splitlines() or [""]
    line = lines[-1 if "Traceback" in lines[0] or "ray::" in lines[0] else 0]
    text = printable(f"{type(error).__name__}: {line}" if line else type(error).__name__)
    return text if len(text) <= MAX_DETAIL else text[: MAX_DETAIL - 1] + "…"


@contextmanager
def only_this_cell(cell: str, rows: list[Row], *, alone: bool = False) -> Iterator[None]:
    """Turn what a cell's own functions raise into its row, so that the other cells go on.

    Lack of memory is raised unless the cell is `alone`: others may hold it.
    """
    try:
        yield
    except (StorageError, Interrupted):
        raise
    except Exception as error:
        if out_of_memory(error) and not alone:
            raise
        rows.append(error_row(cell, error))


class NoExample(Exception):
    """No cell of a program can be prepared; `rows` say why."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows


def out_of_memory(failure: BaseException) -> bool:
    """Return whether host or device lacked memory."""
    if isinstance(failure, jax.errors.JaxRuntimeError):  # XLA for CPUs calls it INTERNAL
        return "RESOURCE_EXHAUSTED" in str(failure) or "out of memory" in str(failure).lower()
    return isinstance(failure, MemoryError) or (isinstance(failure, OSError) and failure.errno == errno.ENOMEM)
