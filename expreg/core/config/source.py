"""Gather one config from a file or a dict, the files it extends, and overrides; remember where each value stands."""

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from expreg.core.config.fields import Fault
from expreg.core.config.grid import GENERATORS, KEYWORDS, axes
from expreg.core.config.reader import MAX_BYTES, MAX_DEPTH, MAX_DIGITS, Document, Mark, read, show_path
from expreg.core.config.reader import Path as KeyPath
from expreg.errors import InputError, Problem

MAX_EXTENDS = 8
COMMAND_LINE = "command line"
MAPPING = "overrides"

Overrides = Sequence[str] | Mapping[str, Any]


def gather(source: str | os.PathLike[str] | Mapping[str, Any], overrides: Overrides) -> Document:
    """Return the merged mapping with the marks of its values; raise `InputError` where nothing can be read."""
    if isinstance(source, Mapping):
        merged = _extended(plain(source, Mark()), Path.cwd(), ())
    else:
        merged = _from_file(Path(source), str(source), ())
    for path, change in _changes(overrides, merged):
        _set(merged, path, change)
    return merged


def make_absolute(document: Document, names: Iterable[str]) -> None:
    """Put full paths in place of those at these dotted names, fields and axes: relative to the file that has them."""
    names = set(names)
    found: list[KeyPath] = [tuple(name.split(".")) for name in names]
    pending: list[tuple[KeyPath, Any]] = [(("sweep",), document.value.get("sweep"))]
    while pending:
        path, node = pending.pop()
        if isinstance(node, str) and names.intersection(map(str, path)):
            found.append(path)
        elif isinstance(node, (dict, list)):
            pending += [
                ((*path, key), child) for key, child in (node.items() if isinstance(node, dict) else enumerate(node))
            ]
    for path in found:
        text = document.value
        for part in path:
            text = _child(text, part)
        if isinstance(text, str) and not _remote(text):
            file = find(document.values, path).file
            directory = Path.cwd() if file in (None, COMMAND_LINE, MAPPING) else Path(str(file)).parent
            _replace(document.value, path, os.path.realpath(directory / text))


def _remote(text: str) -> bool:
    return "://" in text or text.startswith("file:") or "\0" in text


def plain(value: Any, mark: Mark) -> Document:
    """Return a Python value as a document of plain types; arrays, tuples and NumPy scalars are converted."""
    document = Document()
    document.value = _plain(value, (), mark, document)
    return document


def find(marks: Mapping[KeyPath, Mark], path: KeyPath) -> Mark:
    """Return the mark of the longest known beginning of `path`."""
    return next((marks[path[:end]] for end in range(len(path), -1, -1) if path[:end] in marks), Mark())


def problem(source: Any, found: Fault, targets: Mapping[str, KeyPath | None] | None = None) -> Problem:
    """Return a fault as a problem with its place: that of the value, of the axis that sets it, or of the mapping.

    `targets` are the paths that axes set.
    """
    path, code, message = found
    mark = source.keys.get(path) if code == "E-UNKNOWN" else source.values.get(path)
    if mark is None and source.grid is not None and targets:
        paths = [axis.path for axis in axes(source.grid) if targets.get(axis.name) == path]
        mark = find(source.values, paths[0]) if paths else None
    mark = mark or find(source.values, path[:-1] if code == "E-MISSING" else path)
    return Problem(code, message, mark.file, mark.line, mark.column, key=show_path(path) or None)


def _plain(value: Any, path: KeyPath, mark: Mark, document: Document) -> Any:
    document.values[path] = document.keys[path] = mark
    if len(path) > MAX_DEPTH:
        raise InputError(Problem("E-DEPTH", f"nested deeper than {MAX_DEPTH} levels", *mark))
    if isinstance(value, Mapping):
        return {_text(key): _plain(item, (*path, key), mark, document) for key, item in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [_plain(item, (*path, index), mark, document) for index, item in enumerate(value)]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral) and abs(int(value)) < 10**MAX_DIGITS:
        return int(value)
    if isinstance(value, Real) and not isinstance(value, Integral):
        return float(value)
    if isinstance(value, (str, os.PathLike)):
        return _text(os.fspath(value))
    if hasattr(value, "tolist"):  # an array or a NumPy scalar
        return _plain(value.tolist(), path, mark, document)
    kind = (
        f"an integer of more than {MAX_DIGITS} digits" if isinstance(value, Integral) else f"a {type(value).__name__}"
    )
    _fault(
        document,
        path,
        "E-TYPE",
        f"got {kind}, expected text, a number, true, false, null, a list or a mapping",
    )
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
    document = read(_bytes(path, label), file=label)
    if document.value is None and document.problems:
        raise InputError(document.problems)
    return _extended(document, path.parent, (*chain, real))


def _bytes(path: Path, label: str) -> bytes:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(Problem("E-FILE", "not a regular file", label))
        with open(path, "rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InputError(Problem("E-FILE", "no such file", label)) from None
    except (OSError, ValueError) as error:
        raise InputError(Problem("E-FILE", f"cannot be read: {error}", label)) from None


def _extended(document: Document, directory: Path, chain: tuple[Path, ...]) -> Document:
    """Put `document` over the file it extends."""
    if not isinstance(document.value, dict):
        kind = {list: "a sequence"}.get(type(document.value), "a scalar")
        mark = find(document.values, ())
        raise InputError([*document.problems, Problem("E-TYPE", f"top level is {kind}; expected a mapping", *mark)])
    base = document.value.get("extends")
    if not isinstance(base, str):  # null is allowed, other types are reported with all other keys
        return document
    del document.value["extends"]
    if not (real := _local(base, directory)):
        message = (
            f"got '{base[:100]}', must be a local file under the directory of this config or the working directory"
        )
        _fault(document, ("extends",), "E-PATH", message)
        raise InputError(document.problems)
    return _merge(_from_file(real, os.path.relpath(real), chain), document)


def _local(text: str, directory: Path) -> Path | None:
    """Return the path without links if it is local and under this or the working directory."""
    try:
        real = (directory / text).resolve() if not _remote(text) else None
    except (OSError, RuntimeError):  # a circle of links
        return None
    return real if real and any(real.is_relative_to(root.resolve()) for root in (directory, Path.cwd())) else None


def _fault(document: Document, path: KeyPath, code: str, message: str) -> None:
    document.problems.append(Problem(code, message, *find(document.values, path), key=show_path(path)))
    document.faulty.add(path)


# --- merging --------------------------------------------------------------------------------------


def _merge(base: Document, top: Document) -> Document:
    """Put `top` over `base`: mappings are merged, everything else is replaced."""
    return Document(
        value=_merged(base.value, top.value),
        keys={**base.keys, **top.keys},
        values={**base.values, **top.values},
        problems=[*base.problems, *top.problems],
        faulty=base.faulty | top.faulty,
    )


def _merged(base: Any, top: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(top, dict)):
        return top
    both = {key: _merged(base[key], top[key]) for key in base.keys() & top.keys()}
    return {key: both.get(key, value) for key, value in {**base, **top}.items()}


# --- overrides ------------------------------------------------------------------------------------


def _changes(overrides: Overrides, document: Document) -> Iterator[tuple[KeyPath, Document]]:
    """Read overrides as (path, new value); what cannot be read is reported in `document`."""
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            yield _target(str(key), document.value, plain(value, Mark(MAPPING)))
        return
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip() or not value.strip():
            problem = Problem("E-OVERRIDE", "expected key=value", COMMAND_LINE, key=text)
            document.problems.append(problem)
        else:
            yield _target(key.strip(), document.value, _read_value(value.strip()))


def _target(key: str, value: Any, change: Document) -> tuple[KeyPath, Document]:
    """Return the path of an override and what goes there; `m.count=8` sets the axis m to {count: 8}."""
    path = _key_path(key, value)
    axis, dot, generator = str(path[-1]).rpartition(".")
    if path[0] != "sweep" or not dot or generator not in GENERATORS:
        return path, change
    wrapped = Document(value={generator: change.value}, problems=change.problems)
    wrapped.values = {(): find(change.values, ())} | {(generator, *k): mark for k, mark in change.values.items()}
    wrapped.keys = {(generator, *k): mark for k, mark in change.keys.items()}
    wrapped.faulty = {(generator, *k) for k in change.faulty}
    return (*path[:-1], axis), wrapped


def _key_path(key: str, value: Any) -> KeyPath:
    """Split a dotted key; inside the sweep everything behind product or zip names one axis."""
    parts = key.replace("[", ".").replace("]", "").split(".")
    path: list[str | int] = []
    for position, part in enumerate(parts):
        if part.isascii() and part.isdigit() and isinstance(value, list):
            path.append(int(part))
        elif path[:1] == ["sweep"] and part not in KEYWORDS:
            return (*path, ".".join(parts[position:]))
        else:
            path.append(part)
        value = _child(value, path[-1])
    return tuple(path)


def _child(value: Any, part: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(part)
    return value[part] if isinstance(value, list) and isinstance(part, int) and part < len(value) else None


def _read_value(text: str) -> Document:
    """Read the value of an override by the rules of the file; commas outside brackets make a list."""
    parts = _split(text)
    if len(parts) == 1:
        return _at_command_line(read(parts[0], file=COMMAND_LINE))
    items = [_at_command_line(read(part, file=COMMAND_LINE)) for part in parts if part.strip()]
    whole = Document(value=[item.value for item in items], values={(): Mark(COMMAND_LINE)})
    for index, item in enumerate(items):
        whole.values |= {(index, *path): mark for path, mark in item.values.items()}
        whole.problems += item.problems
        whole.faulty |= {(index, *path) for path in item.faulty}
    return whole


def _split(text: str) -> list[str]:
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            depth += (character in "([{") - (character in ")]}")
        if character == "," and not quote and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _at_command_line(document: Document) -> Document:
    mark = Mark(COMMAND_LINE)
    document.values = dict.fromkeys(document.values, mark)
    document.keys = dict.fromkeys(document.keys, mark)
    return document


def _set(document: Document, path: KeyPath, change: Document) -> None:
    """Replace the value at `path`, making mappings on the way."""
    if path == ("extends",):
        problem = Problem("E-OVERRIDE", "extends cannot be overridden", *find(change.values, ()), key="extends")
        document.problems.append(problem)
        return
    for problem in change.problems:
        key = show_path(path) + (f".{problem.key}" if problem.key else "")
        document.problems.append(Problem(problem.code, problem.message, problem.file, key=key))
    if not _replace(document.value, path, change.value):
        mark = find(change.values, ())
        document.problems.append(Problem("E-OVERRIDE", "no such place in the config", *mark, key=show_path(path)))
        return
    repaired = {known for known in document.faulty if known[: len(path)] == path}
    keys = {show_path(known) for known in repaired}
    document.problems = [old for old in document.problems if old.key not in keys or old.file == COMMAND_LINE]
    document.faulty -= repaired
    document.faulty |= {(*path, *inner) for inner in change.faulty}
    document.values |= {(*path, *inner): mark for inner, mark in change.values.items()}
    document.keys |= {(*path, *inner): mark for inner, mark in change.keys.items()}
    document.keys[path] = find(change.values, ())


def _replace(value: Any, path: KeyPath, new: Any) -> bool:
    for part in path[:-1]:
        if isinstance(value, dict) and isinstance(part, str) and value.get(part) is None:
            value[part] = {}
        value = _child(value, part)
    last = path[-1]
    if isinstance(value, dict) and isinstance(last, str):
        value[last] = new
        return True
    if isinstance(value, list) and isinstance(last, int) and last < len(value):
        value[last] = new
        return True
    return False
