"""Read a strict subset of YAML 1.2 and remember where everything stands.

Text, numbers, true/false, null, lists and mappings; no aliases, anchors, merge keys, tags or second documents.
The rules are checked on the stream of events, so nothing that could grow or run is ever built (reliability.md 2F).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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


class ScalarError(ValueError):
    """A plain scalar that two readers would read differently."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


@dataclass
class Document:
    """A value, the marks of its keys and values by path, and every problem met on the way.

    `faulty` holds the paths whose value is a stand-in: later checks have nothing to say about them.
    """

    value: Any = None
    keys: dict[Path, Mark] = field(default_factory=dict)
    values: dict[Path, Mark] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    faulty: set[Path] = field(default_factory=set)


class _Fatal(Exception):
    """Reading cannot go on behind this problem."""


@dataclass
class _Reading:
    """The events still to come and the document they are read into."""

    events: Iterator[Any]
    document: Document
    file: str | None

    def mark(self, mark: Any) -> Mark:
        return Mark(self.file, mark.line + 1, mark.column + 1)

    def fault(self, code: str, message: str, mark: Mark, path: Path = ()) -> None:
        self.document.problems.append(Problem(code, message, *mark, key=show_path(path) or None))
        self.document.faulty.add(path)


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
    document = Document()
    reading = _Reading(iter(()), document, file)
    try:
        text = _decode(source, reading)
        _refuse_tabs(text, reading)
        reading.events = yaml.parse(text, Loader=_LOADER)
        document.value = _document(reading)
    except _Fatal:
        document.value = None
    except yaml.YAMLError as error:
        document.value = None
        reading.fault("E-YAML", *_explain(error, reading))
    return document


def _decode(source: bytes | str, reading: _Reading) -> str:
    try:
        data = source if isinstance(source, bytes) else source.encode("utf-8")
        if len(data) > MAX_BYTES:
            return _stop(reading, "E-SIZE", f"config is larger than {MAX_BYTES // 1024} KiB")
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        return _stop(reading, "E-UTF8", f"byte 0x{byte:02x} at offset {error.start} is not UTF-8")
    except UnicodeEncodeError as error:
        return _stop(reading, "E-UTF8", f"character {error.object[error.start]!a} is not UTF-8")


def _stop(reading: _Reading, code: str, message: str, mark: Mark | None = None) -> Any:
    reading.fault(code, message, mark or Mark(reading.file))
    raise _Fatal


def _refuse_tabs(text: str, reading: _Reading) -> None:
    found = re.search(r"^ *\t", text, re.MULTILINE)
    if found:
        line = text.count("\n", 0, found.start()) + 1
        _stop(reading, "E-YAML", "tab used for indentation", Mark(reading.file, line, len(found.group())))


def _explain(error: yaml.YAMLError, reading: _Reading) -> tuple[str, Mark]:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
    return str(reason), reading.mark(mark) if mark else Mark(reading.file)


def _document(reading: _Reading) -> Any:
    next(reading.events)  # the start of the stream
    event = next(reading.events)
    if isinstance(event, yaml.StreamEndEvent):
        return _stop(reading, "E-EMPTY", "config is empty; expected a mapping")
    if event.version or event.tags:
        reading.fault("E-YAML", "a % directive is not allowed", reading.mark(event.start_mark))
    value = _node(next(reading.events), (), 0, reading)
    next(reading.events)  # the end of the document
    event = next(reading.events)
    if isinstance(event, yaml.DocumentStartEvent):
        return _stop(reading, "E-YAML", "second document; expected one", reading.mark(event.start_mark))
    return value


def _node(event: Any, path: Path, depth: int, reading: _Reading) -> Any:
    mark = reading.mark(event.start_mark)
    reading.document.values.setdefault(path, mark)
    if isinstance(event, yaml.AliasEvent):
        reading.fault("E-ALIAS", f"YAML alias *{event.anchor} is not allowed; write the value out", mark, path)
        return None
    if event.anchor is not None:
        reading.fault("E-ALIAS", f"YAML anchor &{event.anchor} is not allowed; write the value out", mark, path)
    if event.tag is not None:
        reading.fault("E-TAG", f"YAML tag {event.tag} is not allowed", mark, path)
    if isinstance(event, yaml.ScalarEvent):
        return _plain(event, mark, path, reading) if event.implicit[0] else event.value
    if depth == MAX_DEPTH:
        return _stop(reading, "E-DEPTH", f"nested deeper than {MAX_DEPTH} levels", mark)
    if isinstance(event, yaml.SequenceStartEvent):
        return list(_items(path, depth, reading))
    return _mapping(path, depth, reading)


def _plain(event: Any, mark: Mark, path: Path, reading: _Reading) -> Any:
    try:
        return scalar(event.value)
    except ScalarError as error:
        reading.fault(error.code, error.message, mark, path)
        return None


def _items(path: Path, depth: int, reading: _Reading) -> Iterator[Any]:
    index = 0
    while not isinstance(event := next(reading.events), yaml.SequenceEndEvent):
        yield _node(event, (*path, index), depth + 1, reading)
        index += 1


def _mapping(path: Path, depth: int, reading: _Reading) -> dict[str, Any]:
    result: dict[str, Any] = {}
    while not isinstance(event := next(reading.events), yaml.MappingEndEvent):
        name = _key(event, path, depth, reading)
        here = (*path, name)
        first = reading.document.keys.setdefault(here, reading.mark(event.start_mark))
        if name in result:
            message = f"duplicate key; first given at line {first.line}"
            reading.fault("E-DUP", message, reading.mark(event.start_mark), here)
        value = _node(next(reading.events), here, depth + 1, reading)
        result.setdefault(name, value)
    return result


def _key(event: Any, path: Path, depth: int, reading: _Reading) -> str:
    mark = reading.mark(event.start_mark)
    if not isinstance(event, yaml.ScalarEvent):
        value = _node(event, (*path, "?"), depth + 1, reading)
        reading.fault("E-TYPE", f"a key is a {TYPE_NAMES[type(value)]}; expected text", mark, (*path, "?"))
        return "?"
    if event.anchor is not None or event.tag is not None:
        code, what = ("E-TAG", f"tag {event.tag}") if event.tag else ("E-ALIAS", f"anchor &{event.anchor}")
        reading.fault(code, f"YAML {what} is not allowed", mark, (*path, event.value))
    elif event.implicit[0]:
        _check_plain_key(event.value, mark, path, reading)
    return str(event.value)


def _check_plain_key(text: str, mark: Mark, path: Path, reading: _Reading) -> None:
    if text == "<<":
        reading.fault("E-ALIAS", "YAML merge key << is not allowed; write the values out", mark, (*path, text))
        return
    try:
        value = scalar(text)
    except ScalarError as error:
        reading.fault(error.code, error.message, mark, (*path, text))
        return
    if not isinstance(value, str):
        message = f"key '{text}' is not text ({TYPE_NAMES[type(value)]}); quote it"
        reading.fault("E-TYPE", message, mark, (*path, text))
