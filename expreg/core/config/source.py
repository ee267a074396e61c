"""Gather one config from a file or a dict, the files it extends, and overrides; remember where each value stands."""

import json
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from expreg.core.config.fields import Fault, Target
from expreg.core.config.grid import DISTRIBUTIONS, GENERATORS, KEYWORDS, SEARCH, SPACE, Block, axes
from expreg.core.config.reader import MAX_BYTES, MAX_DEPTH, MAX_DIGITS, Document, Mark, Marks, place, read, show_path
from expreg.core.config.reader import Path as KeyPath
from expreg.errors import InputError, Problem

MAX_EXTENDS = 8
COMMAND_LINE = "command line"
MAPPING = "overrides"

Overrides = Sequence[str] | Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """What a config was made from: the merged mapping, the marks of its entries, the grid, and what its axes set.

    `search`: the search of the sweep, a `search.Search` or a `space.Space`, None without one; `swept_only`: required
    keys that only the sweep has.
    """

    given: Mapping[str, Any]
    marks: Mapping[KeyPath, Marks]
    grid: Block | None
    targets: Mapping[str, Target]
    search: Any = None
    swept_only: frozenset[KeyPath] = frozenset()


def problem(source: Source, found: Fault) -> Problem:
    """Return a fault as a problem with its place: that of the value, of the axis that sets it, or of the mapping."""
    path, code, message = found
    where = path[:-1] if code == "E-MISSING" else path
    if path in source.marks:
        mark = source.marks[path].key if code == "E-UNKNOWN" else source.marks[path].value
    else:
        setters = [axis.path for axis in axes(source.grid) if source.targets[axis.name].path == path]
        mark = place(source.marks, setters[0] if setters else where)
    return Problem(code, message, *mark, key=show_path(path) or None)


def gather(source: str | os.PathLike[str] | Mapping[str, Any], overrides: Overrides) -> Document:
    """Return the merged mapping with the marks of its values; raise `InputError` where nothing can be read."""
    if isinstance(source, Mapping):
        merged = _extended(_plain(source, Mark()), Path.cwd(), ())
    else:
        merged = _from_file(Path(source), str(source), ())
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            _override(merged, str(key), _plain(value, Mark(MAPPING)))
        return merged
    if isinstance(overrides, str | bytes):
        message = f"got the text {overrides!r}, expected a list of texts key=value or a mapping"
        merged.problems.append(Problem("E-OVERRIDE", message, key=MAPPING))
        return merged
    for text in overrides:
        key, _, value = (part.strip() for part in text.partition("="))
        if not key.isprintable():
            merged.problems.append(Problem("E-UNKNOWN", "no key has such characters", COMMAND_LINE, key=key))
        elif key and value:
            _override(merged, key, _read_value(value))
        else:
            merged.problems.append(Problem("E-OVERRIDE", "expected key=value", COMMAND_LINE, key=text))
    return merged


def make_absolute(document: Document, names: Iterable[str]) -> None:
    """Put full paths in place of those at these dotted names, fields and axes: relative to the file that has them."""
    names = set(names)
    for path, (_, mark) in document.marks.items():
        name = ".".join(part for part in path if isinstance(part, str) and part not in ("sweep", SPACE, *KEYWORDS))
        text = at(document.value, path) if name in names else None
        if isinstance(text, str) and not _remote(text):
            directory = Path.cwd() if mark.file in (None, COMMAND_LINE, MAPPING) else Path(str(mark.file)).parent
            _replace(document.value, path, os.path.realpath(directory / text))


def _remote(text: str) -> bool:
    return "://" in text or text.startswith("file:") or "\0" in text


def _plain(value: Any, mark: Mark) -> Document:
    """Return a Python value as a document of plain types; arrays, tuples and NumPy scalars are converted."""
    document = Document()
    document.value = _converted(value, (), mark, document)
    return document


def _converted(value: Any, path: KeyPath, mark: Mark, document: Document) -> Any:
    document.marks[path] = Marks(mark, mark)
    if len(path) > MAX_DEPTH:
        raise InputError(Problem("E-DEPTH", f"nested deeper than {MAX_DEPTH} levels", *mark))
    if hasattr(value, "tolist"):  # an array or a NumPy scalar
        value = value.tolist()
    match value:
        case Mapping():
            return {_text(key): _converted(item, (*path, key), mark, document) for key, item in value.items()}
        case list() | tuple() | range():
            return [_converted(item, (*path, index), mark, document) for index, item in enumerate(value)]
        case None | bool():
            return value
        case Integral() if abs(int(value)) < 10**MAX_DIGITS:
            return int(value)
        case Integral():
            kind = f"an integer of more than {MAX_DIGITS} digits"
        case Real():
            return float(value)
        case str() | os.PathLike():
            return _text(os.fspath(value))
        case _:
            kind = f"a {type(value).__name__}"
    message = f"got {kind}, expected text, a number, true, false, null, a list or a mapping"
    document.fault("E-TYPE", message, mark, path)
    return None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(Problem("E-TYPE", f"a key is a {type(value).__name__}; expected text"))
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(Problem("E-UTF8", f"{value[:60]!a} is not UTF-8")) from None
    return value


# --- files ----------------------------------------------------------------------------------------


def _from_file(path: Path, label: str, chain: tuple[Path, ...]) -> Document:
    real = path.resolve()
    if real in chain:
        names = " -> ".join(link.name for link in (*chain, real))
        raise InputError(Problem("E-EXTENDS", f"extends goes in a circle: {names}", label))
    if len(chain) == MAX_EXTENDS:
        raise InputError(Problem("E-EXTENDS", f"more than {MAX_EXTENDS} files extend each other", label))
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(Problem("E-FILE", "not a regular file", label))
        with open(path, "rb") as stream:
            document = read(stream.read(MAX_BYTES + 1), file=label)
    except FileNotFoundError:
        raise InputError(Problem("E-FILE", "no such file", label)) from None
    except (OSError, ValueError) as error:
        raise InputError(Problem("E-FILE", f"cannot be read: {error}", label)) from None
    if document.value is None and document.problems:
        raise InputError(document.problems)
    return _extended(document, path.parent, (*chain, real))


def _extended(document: Document, directory: Path, chain: tuple[Path, ...]) -> Document:
    """Put `document` over the file it extends."""
    if not isinstance(document.value, dict):
        kind = {list: "a sequence"}.get(type(document.value), "a scalar")
        document.fault("E-TYPE", f"top level is {kind}; expected a mapping", place(document.marks, ()))
        raise InputError(document.problems)
    text = document.value.get("extends")
    if not isinstance(text, str):  # null is allowed, other types are reported with all other keys
        return document
    del document.value["extends"]
    try:
        real = (directory / text).resolve()
        inside = any(real.is_relative_to(root.resolve()) for root in (directory, Path.cwd()))
    except (OSError, RuntimeError, ValueError):  # a circle of links, NUL in the text
        inside = False
    if _remote(text) or not inside:
        message = (
            f"got '{text[:100]}', must be a local file under the directory of this config or the working directory"
        )
        document.fault("E-PATH", message, place(document.marks, ("extends",)), ("extends",))
        raise InputError(document.problems)
    base = _from_file(real, os.path.relpath(real), chain)
    return Document(
        value=_merged(base.value, document.value),
        marks=base.marks | document.marks,
        problems=base.problems + document.problems,
        faulty=base.faulty | document.faulty,
    )


def _merged(base: Any, top: Any) -> Any:
    """Put `top` over `base`: mappings are merged, everything else is replaced."""
    if not (isinstance(base, dict) and isinstance(top, dict)):
        return top
    return base | {key: _merged(base.get(key), value) for key, value in top.items()}


# --- overrides ------------------------------------------------------------------------------------


_GROUP = re.compile(r"""'[^']*('|$)|"[^"]*("|$)|[(\[{].*[)\]}]""", re.DOTALL)
"""What commas do not part: text in quotes, anything in brackets."""


def _read_value(text: str) -> Document:
    """Read the value of an override by the rules of the file; commas outside quotes and brackets make a list.

    There are no comments on a command line: `#`, and what else has a meaning in a file, is part of the text.
    """
    hidden = _GROUP.sub(lambda found: "_" * len(found[0]), text)
    ends = [place for place, sign in enumerate(hidden) if sign == ","]
    items = [_as_yaml(text[a + 1 : b]) for a, b in zip([-1, *ends], [*ends, None], strict=True)]
    document = read(items[0] if len(items) == 1 else f"[{','.join(items)}]", file=COMMAND_LINE)
    if re.search(r"\s#", re.sub(r"""'[^']*'|"[^"]*\"""", "", " ".join(items))):
        message = "put quotes around all of the text that has a #"
        document.problems = [Problem("E-OVERRIDE", message, COMMAND_LINE)]
    mark = Mark(COMMAND_LINE)
    document.marks = dict.fromkeys(document.marks, Marks(mark, mark))
    return document


def _as_yaml(item: str) -> str:
    """Return plain text in quotes where a file would read something else: a comment, a mapping, a folded line."""
    plain, special = item.strip()[:1] not in ("", "'", '"', "[", "{"), re.search(r"(^|\s)#|:(\s|$)|\n", item)
    return json.dumps(item.strip(), ensure_ascii=False) if plain and special else item


def _override(document: Document, key: str, change: Document) -> None:
    """Replace the value at a dotted key, making mappings on the way; `m.count=8` sets the axis m to {count: 8}."""
    path = _key_path(key, document.value)
    value, inside = change.value, path
    axis, dot, generator = str(path[-1]).rpartition(".")
    if path[0] == "sweep" and dot and generator in (*GENERATORS, *DISTRIBUTIONS):
        path, value = (*path[:-1], axis), {generator: value}
        inside = (*path, generator)
    mark = place(change.marks, ())
    if path == ("extends",):
        message = "extends cannot be overridden"
        document.problems.append(Problem("E-OVERRIDE", message, *mark, key="extends"))
        return
    for found in change.problems:
        below = f"{show_path(inside)}.{found.key or ''}".rstrip(".").replace(".[", "[")
        document.problems.append(Problem(found.code, found.message, found.file, key=below))
    if not _replace(document.value, path, value):
        message = "no such place in the config"
        document.problems.append(Problem("E-OVERRIDE", message, *mark, key=show_path(path)))
        return
    repaired = {known for known in document.faulty if known[: len(path)] == path}
    keys = set(map(show_path, repaired))
    document.problems = [old for old in document.problems if old.key not in keys or old.file == COMMAND_LINE]
    document.faulty = document.faulty - repaired | {(*inside, *faulty) for faulty in change.faulty}
    made = [path[:end] for end in range(1, len(path)) if path[:end] not in document.marks]
    document.marks |= {(*inside, *known): marks for known, marks in change.marks.items()}
    document.marks |= dict.fromkeys([*made, path], Marks(mark, mark))


def _key_path(key: str, value: Any) -> KeyPath:
    """Split a dotted key; inside the sweep everything behind product, zip or space names one axis."""
    parts = key.replace("[", ".").replace("]", "").split(".")
    path: list[str | int] = []
    for position, part in enumerate(parts):
        if part.isascii() and part.isdigit() and isinstance(value, list):
            path.append(int(part))
        elif path[:1] == ["sweep"] and part not in KEYWORDS and (SEARCH not in path or path[-1] == SPACE):
            return (*path, ".".join(parts[position:]))
        else:
            path.append(part)
        value = at(value, path[-1:])
    return tuple(path)


def at(value: Any, path: Sequence[str | int]) -> Any:
    """Return the value at a path, None where there is none."""
    for part in path:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            return None
    return value


def _replace(value: Any, path: KeyPath, new: Any) -> bool:
    """Put a new value at a path, making mappings on the way; say whether there is such a place."""
    for part in path[:-1]:
        if isinstance(value, dict) and isinstance(part, str) and value.get(part) is None:
            value[part] = {}
        value = at(value, (part,))
    last: Any = path[-1]
    if not isinstance(value, dict) and not (isinstance(value, list) and isinstance(last, int) and last < len(value)):
        return False
    value[last] = new
    return True
