"""Read a strict subset of YAML 1.2 and remember where everything stands.

Text, numbers, true/false, null, lists and mappings; no aliases, anchors, merge keys, tags or second documents.
The rules are checked on the stream of events, so nothing that could grow or run is ever built (reliability.md 2F).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

import yaml

from expreg.errors import Problem

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_DIGITS = 40

TYPE_NAMES = {
    type(None): "null",
    bool: "bool",
    int: "integer",
    float: "number",
    str: "text",
    list: "list",
    dict: "mapping",
}

Path = tuple[str | int, ...]

# libyaml is five times faster; both parsers give the same events.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
# What one YAML version or another reads as a number in base 8, 16, 2 or 60, or with digit groups.
_AMBIGUOUS = re.compile(
    r"[-+]?(0[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?|0[xX][0-9a-fA-F_]+|0[oObB][0-9_]+"
    r"|\.?[0-9][0-9_.]*_[0-9_.]*([eE][-+]?[0-9]+)?|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)"
)
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULLS = {"", "~", "null", "Null", "NULL"}
_MAYBE_BOOLEAN = {form for word in ("yes", "no", "on", "off") for form in (word, word.title(), word.upper())}


class Mark(NamedTuple):
    """A place in an input: lines and columns count from 1, and are absent for what did not come from a file."""

    file: str | None = None
    line: int | None = None
    column: int | None = None


class Marks(NamedTuple):
    """Where an entry stands: its key and its value; the same for an item of a list."""

    key: Mark
    value: Mark


class ScalarError(ValueError):
    """A plain scalar that two readers would read differently."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


@dataclass
class Document:
    """A value, the marks of its entries by path, and every problem met on the way.

    `faulty` holds the paths whose value is a stand-in: later checks have nothing to say about them.
    """

    value: Any = None
    marks: dict[Path, Marks] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    faulty: set[Path] = field(default_factory=set)

    def fault(self, code: str, message: str, mark: Mark, path: Path = ()) -> None:
        """Add a problem with the value at `path`, which is a stand-in from now on."""
        self.problems.append(Problem(code, message, *mark, key=show_path(path) or None))
        self.faulty.add(path)


def place(marks: Mapping[Path, Marks], path: Path) -> Mark:
    """Return the mark of the value at the longest known beginning of `path`."""
    known = (marks[path[:end]].value for end in range(len(path), -1, -1) if path[:end] in marks)
    return next(known, Mark())


def show_path(path: Path) -> str:
    """Return a path as people write it: `sweep.product.m[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def scalar(text: str) -> bool | int | float | str | None:
    """Return the value of a plain scalar by the rules of YAML 1.2; raise `ScalarError` if it is ambiguous."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text in _MAYBE_BOOLEAN:
        raise ScalarError("E-BOOL", f"ambiguous value '{text}'; use true or false, or quote it")
    if text[0] not in "+-.0123456789":
        return text
    if _INTEGER.fullmatch(text) or _FLOAT.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise ScalarError("E-NUM", f"number of {len(text)} characters; at most {MAX_DIGITS} are read")
        return int(text) if _INTEGER.fullmatch(text) else float(text)
    if _SPECIAL.fullmatch(text):
        return float(text.replace(".", "").lower())
    if len(text) <= 2 * MAX_DIGITS and _AMBIGUOUS.fullmatch(text):  # the pattern is quadratic in the length
        raise ScalarError("E-NUM", f"ambiguous number '{text[:MAX_DIGITS]}'; write plain decimal digits")
    return text


def read(source: bytes | str, *, file: str | None = None) -> Document:
    """Read one document; every problem found is in `problems`, and `value` is None where reading had to stop.

    A byte order mark is ignored. Codes: E-SIZE, E-UTF8, E-YAML, E-ALIAS, E-TAG, E-DUP, E-NUM, E-BOOL, E-DEPTH, E-TYPE.
    """
    reader = _Reader(file)
    try:
        reader.document.value = reader.read(source)
    except _Fatal:
        pass
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
        reader.document.fault("E-YAML", str(reason), reader.mark(mark) if mark else Mark(file))
    return reader.document


class _Fatal(Exception):
    """Reading cannot go on behind this problem."""


class _Reader:
    """Turns the events of the parser into the value of a document."""

    def __init__(self, file: str | None) -> None:
        self.file = file
        self.document = Document()
        self.events: Iterator[Any] = iter(())

    def mark(self, mark: Any) -> Mark:
        return Mark(self.file, mark.line + 1, mark.column + 1)

    def stop(self, code: str, message: str, mark: Mark | None = None) -> NoReturn:
        self.document.fault(code, message, mark or Mark(self.file))
        raise _Fatal

    def read(self, source: bytes | str) -> Any:
        text = self.decode(source)
        if found := re.search(r"^ *\t", text, re.MULTILINE):
            line = text.count("\n", 0, found.start()) + 1
            self.stop("E-YAML", "tab used for indentation", Mark(self.file, line, len(found.group())))
        self.events = yaml.parse(text, Loader=_LOADER)
        next(self.events)  # the start of the stream
        event: Any = next(self.events)
        if isinstance(event, yaml.StreamEndEvent):
            self.stop("E-EMPTY", "config is empty; expected a mapping")
        if event.version or event.tags:
            self.document.fault("E-YAML", "a % directive is not allowed", self.mark(event.start_mark))
        value = self.node(next(self.events), ())
        next(self.events)  # the end of the document
        event = next(self.events)
        if isinstance(event, yaml.DocumentStartEvent):
            self.stop("E-YAML", "second document; expected one", self.mark(event.start_mark))
        return value

    def decode(self, source: bytes | str) -> str:
        try:
            data = source if isinstance(source, bytes) else source.encode("utf-8")
            if len(data) > MAX_BYTES:
                self.stop("E-SIZE", f"config is larger than {MAX_BYTES // 1024} KiB")
            return data.decode("utf-8").removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            self.stop("E-UTF8", f"byte 0x{byte:02x} at offset {error.start} is not UTF-8")
        except UnicodeEncodeError as error:
            self.stop("E-UTF8", f"character {error.object[error.start]!a} is not UTF-8")

    def node(self, event: Any, path: Path, key: Mark | None = None) -> Any:
        mark, fault = self.mark(event.start_mark), self.document.fault
        self.document.marks.setdefault(path, Marks(key or mark, mark))
        if isinstance(event, yaml.AliasEvent):
            fault("E-ALIAS", f"YAML alias *{event.anchor} is not allowed; write the value out", mark, path)
            return None
        if event.anchor is not None:
            fault("E-ALIAS", f"YAML anchor &{event.anchor} is not allowed; write the value out", mark, path)
        if event.tag is not None:
            fault("E-TAG", f"YAML tag {event.tag} is not allowed", mark, path)
        if isinstance(event, yaml.ScalarEvent):
            try:
                return scalar(event.value) if event.implicit[0] else event.value
            except ScalarError as error:
                fault(error.code, error.message, mark, path)
                return None
        if len(path) == MAX_DEPTH:
            self.stop("E-DEPTH", f"nested deeper than {MAX_DEPTH} levels", mark)
        return self.mapping(path) if isinstance(event, yaml.MappingStartEvent) else self.sequence(path)

    def sequence(self, path: Path) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.node(event, (*path, len(items))))
        return items

    def mapping(self, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            mark, key = self.mark(event.start_mark), self.key(event, path)
            here = (*path, key)
            if key in result:
                first = self.document.marks[here].key.line
                self.document.fault("E-DUP", f"duplicate key; first given at line {first}", mark, here)
            result.setdefault(key, self.node(next(self.events), here, mark))
        return result

    def key(self, event: Any, path: Path) -> str:
        mark, fault = self.mark(event.start_mark), self.document.fault
        if not isinstance(event, yaml.ScalarEvent):
            value = self.node(event, (*path, "?"))
            fault("E-TYPE", f"a key is a {TYPE_NAMES[type(value)]}; expected text", mark, (*path, "?"))
            return "?"
        text: str = event.value
        here = (*path, text)
        if event.tag is not None:
            fault("E-TAG", f"YAML tag {event.tag} is not allowed", mark, here)
        elif event.anchor is not None:
            fault("E-ALIAS", f"YAML anchor &{event.anchor} is not allowed", mark, here)
        elif event.implicit[0] and text == "<<":
            fault("E-ALIAS", "YAML merge key << is not allowed; write the values out", mark, here)
        elif event.implicit[0]:
            try:
                if not isinstance(value := scalar(text), str):
                    fault("E-TYPE", f"key '{text}' is not text ({TYPE_NAMES[type(value)]}); quote it", mark, here)
            except ScalarError as error:
                fault(error.code, error.message, mark, here)
        return text
