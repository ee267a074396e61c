"""What can go wrong, as values: each class has one exit code, each problem one line (reliability.md section 5)."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

MAX_LISTED = 20
MAX_WIDTH = 400


def printable(text: str) -> str:
    """Return `text` with control, bidirectional and other non-printable characters shown as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the input, and where it stands.

    `code` is the short class of the mistake (`E-RANGE`), `message` says what was given and what is required.
    """

    code: str
    message: str
    file: str | None = None
    line: int | None = None
    column: int | None = None
    key: str | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        parts = [f"error[{self.code}]", f"{place}:" if place else "", f"{self.key}:" if self.key else "", self.message]
        text = printable(" ".join(part for part in parts if part))
        return text if len(text) <= MAX_WIDTH else text[: MAX_WIDTH - 1] + "…"


class ExpregError(Exception):
    """The base of everything that expreg reports to a person in one line."""

    exit_code = 1


class InputError(ExpregError):
    """Bad input: nothing was started and nothing was written."""

    exit_code = 2

    def __init__(self, problems: list[Problem] | Problem) -> None:
        self.problems = tuple(problems) if isinstance(problems, list) else (problems,)
        super().__init__(list(self.problems))  # what pickle hands to the copy in another process

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return one line per problem, at most twenty, then how many more there are."""
        shown = [str(problem) for problem in self.problems[:MAX_LISTED]]
        hidden = len(self.problems) - len(shown)
        return [*shown, f"{hidden} more"] if hidden else shown


def refuse(problems: list[Problem]) -> None:
    """Raise InputError with these problems if there are any."""
    if problems:
        raise InputError(problems)


def optional(module: str, extra: str) -> Any:
    """Return a module that comes with an extra; raise InputError with the command that installs it."""
    try:
        return import_module(module)
    except ImportError:
        message = f"needs {module.partition('.')[0]}, which is not installed: pip install 'expreg[{extra}]'"
        raise InputError(Problem("E-IMPORT", message, key=extra)) from None


class StorageError(ExpregError):
    """The run directory cannot be used: another plan, another process, a full or failing disk."""

    exit_code = 4


class Interrupted(ExpregError):
    """The person or the machine asked to stop; the same command resumes."""

    exit_code = 75
