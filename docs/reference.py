"""What is made from the package itself, so that it cannot drift: Markdown of the keys and of the notation."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from expreg import types
from expreg.api import json_schema
from expreg.core.config.fields import Block
from expreg.core.config.model import Config, inner
from expreg.kinds import EXPERIMENTS
from expreg.outputs import OUTPUTS, schema

ELSEWHERE = {"sweep": "[The sweep language](configuration.md#the-sweep-language)"}
GREEK = {"kappa": "κ", "phi": "φ", "lambda": "λ", "eta": "η", "eps": "ε", "delta": "δ", "sum_r": "Σ_r"}
GREEK_NAME = re.compile(rf"\b({'|'.join(GREEK)})\b")

Schema = Mapping[str, Any]


def keys() -> str:
    """Return every key of a config with its values, default and meaning: a section per mapping."""
    whole = json_schema()
    sections = ["## Top level\n\n" + _table(_rows(whole, Config, "", whole))]
    pending = [(f"{name}", found) for name, found in whole["properties"].items()]
    pending += [(f"{name}:{case}", found) for name in whole["properties"] for case, found in _cases(name, whole)]
    while pending:
        path, found = pending.pop(0)
        branches, rest = _branches(found, whole), []
        if branches:
            sections.append(_section(path, branches, whole))
            rest = [
                (f"{path}.{name}", inner)
                for branch in branches
                for name, inner in branch["properties"].items()
                if _branches(inner, whole)
            ]
        pending = list(dict(rest).items()) + pending
    return "\n\n".join(sections)


def _cases(key: str, whole: Schema) -> Iterator[tuple[str, Schema]]:
    """Yield (experiments, form) of a key that differs between experiments."""
    for case in whole["allOf"]:
        form = case["then"]["properties"].get(key)
        if form:
            yield " ".join(case["if"]["properties"]["experiment"]["enum"]), form


def columns() -> str:
    """Return the columns that every experiment has, then those of each, and its curves; alike ones share a table."""
    tables = {"Every experiment": types.BASE}
    for name, experiment in EXPERIMENTS.items():
        tables[f"`{name}`"] = tuple(experiment.columns())
        tables[f"Curves of `{name}`"] = tuple(experiment.curves())
    headings: dict[tuple[types.Column, ...], list[str]] = {}
    for heading, found in tables.items():
        headings.setdefault(found, []).append(heading)
    return "\n\n".join(f"## {', '.join(names)}\n\n{_of(found)}" for found, names in headings.items() if found)


def _of(found: tuple[types.Column, ...]) -> str:
    meanings = [_escaped(column.meaning.replace("||", "‖"), "") for column in found]
    rows = [f"| `{column.name}` | {column.type} | {meaning} |" for column, meaning in zip(found, meanings, strict=True)]
    return "\n".join(["| column | type | meaning |", "|---|---|---|", *rows])


def outputs() -> str:
    """Return the keys of what each command prints with `--json`: a section per document, a table per mapping."""
    documents: dict[str, list[str]] = {}
    for name in OUTPUTS:
        made = schema(name)
        text = "\n\n".join(filter(None, map(_document, (made, *made.get("$defs", {}).values()))))
        documents.setdefault(text, []).append(f"`{name}`")
    return "\n\n".join(f"## {', '.join(names)}\n\n{text}" for text, names in documents.items())


def _document(found: Schema) -> str:
    """Return what a mapping is, and its keys; one that another refers to begins with its name."""
    name = "" if "$schema" in found or found.get("title") == "Document" else f"**{found['title']}**: "
    meaning = f"{name}{_prose(found['description'])}." if "description" in found else ""
    properties = found.get("properties", {})
    described = any("description" in of for of in properties.values())
    heads = ["key", "value", *(["meaning"] if described else [])]
    lines = [heads, ["---"] * len(heads)]
    for key, of in properties.items():
        optional = "" if key in found.get("required", ()) else " (optional)"
        lines.append([f"`{key}`{optional}", _kind(of), *([_prose(of.get("description", ""))] if described else [])])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines) if properties else ""
    return "\n\n".join(filter(None, (meaning, table)))


def _kind(found: Schema) -> str:
    """Return in words what stands under a key of a document."""
    if "$ref" in found:
        return f"a {found['$ref'].rpartition('/')[2]}"
    if "anyOf" in found:
        return " or ".join(map(_kind, found["anyOf"]))
    if "enum" in found:
        return ", ".join(f"`{value}`" for value in found["enum"])
    if found.get("type") == "array":
        return f"list of {_kind(found['items'])}" if found["items"] else "list"
    words = {"boolean": "`true`, `false`", "string": "text", "null": "`null`", "object": "mapping"}
    return words.get(str(found.get("type")), str(found.get("type", "any")))


def notation() -> str:
    """Return the notation table of expreg/types.py as Markdown, letters and meanings with Greek letters."""
    lines = [line.replace("||r||", "‖r‖") for line in (types.__doc__ or "").splitlines() if line.startswith("|")]
    rows = [line.split("|") for line in lines]
    for row in rows[2:]:
        row[1], row[3] = (GREEK_NAME.sub(lambda name: GREEK[name[0]], row[k]) for k in (1, 3))
    return "\n".join(_escaped("|".join(row), "") for row in rows)


def _section(path: str, branches: list[Schema], whole: Schema) -> str:
    """Return heading, choices and table of the mapping at `path`, which may have several forms."""
    name, _, case = path.partition(":")
    lines = [f"({_anchor(path)})=\n## `{name}`{f' of {case}' if case else ''}\n"]
    selector = _selector(branches[0])
    if selector:
        what = [f"- `{_name(branch, selector)}`: {_prose(branch['description'])}" for branch in branches]
        lines += [f"`{selector}` is one of", "", *what, ""]
    else:
        lines += [_prose(branches[0]["description"]), ""]
    merged: dict[tuple[str, ...], list[str]] = {}
    for branch in branches:
        for row in _rows(branch, _model(branch), path, whole):
            merged.setdefault(row, []).append(f"`{_name(branch, selector)}`" if selector else "")
    if selector and merged:
        rows = [
            (row[0], "all" if len(names) == len(branches) else ", ".join(names), *row[1:])
            for row, names in merged.items()
        ]
        return "\n".join(lines) + _table(rows, "for")
    return "\n".join(lines) + (_table(list(merged)) if merged else "")


def _anchor(path: str) -> str:
    return "key-" + re.sub(r"[._: ]", "-", path)


def _rows(mapping: Schema, model: type[Block], path: str, whole: Schema) -> Iterator[tuple[str, ...]]:
    """Yield (key, values, default, meaning) of every key of a mapping but the one that selects its form."""
    for key, found in mapping["properties"].items():
        full = f"{path}.{key}" if path else key
        if key == _selector(mapping):
            continue
        required = mapping.get("required", () if path else mapping["anyOf"][0]["required"])
        default = "**required**" if key in required else _default(model, key)
        cases = [] if path else [(f"{full}:{case}", form) for case, form in _cases(key, whole)]
        shown = [
            f"{_values(form, where, whole)} ({where.partition(':')[2].replace(' ', ', ')})" for where, form in cases
        ]
        values = ELSEWHERE.get(full) or "; ".join(shown) or _values(found, full, whole)
        found = cases[0][1] if cases else found
        yield f"`{key}`", values, default, _prose(found.get("description", ""))


def _default(model: type[Block], key: str) -> str:
    owners = [experiment.schema() for experiment in EXPERIMENTS.values()] if model is Config else [model]
    owner = next(one for one in owners if key in one.model_fields)
    value = owner.model_fields[key].get_default(call_default_factory=True)
    if isinstance(value, dict):
        chosen = inner(owner, key, value)
        value = chosen.model_validate(value) if chosen else value
    if isinstance(value, Block):
        selector = next((name for name in ("kind", "name") if name in type(value).model_fields), None)
        changed = value.model_dump(exclude={selector} if selector else set(), exclude_unset=True)
        chosen = {selector: getattr(value, selector)} if selector else {}
        shown = {**chosen, **changed} or value.model_dump()
        simple = len(shown) <= 3 and not any(isinstance(item, dict) for item in shown.values())
        return f"`{{{', '.join(f'{name}: {item}' for name, item in shown.items())}}}`" if simple else "see below"
    return "" if value == "" else f"`{json.dumps(value).strip(chr(34))}`"


def _values(found: Schema, path: str, whole: Schema) -> str:
    """Return in words what may stand under a key."""
    if _branches(found, whole):
        link = f"[mapping](#{_anchor(path)})"
        others = [option for option in found.get("anyOf", ()) if not _branches(option, whole)]
        words = [_values(option, path, whole) for option in others]
        return " or ".join([*dict.fromkeys(words), link])
    if "anyOf" in found:
        return " or ".join(dict.fromkeys(_values(option, path, whole) for option in found["anyOf"]))
    if "enum" in found:
        return ", ".join(f"`{value}`" for value in found["enum"])
    if found.get("type") in ("integer", "number"):
        return _number(found)
    if found.get("type") == "array":
        return "list of " + _values(found["items"], path, whole) if found["items"] else "`[]`"
    if "expression" in found.get("description", ""):
        return "expression"
    return {"boolean": "`true`, `false`", "string": "text", "null": "`null`", "object": "mapping"}[found["type"]]


def _number(found: Schema) -> str:
    kind = {"integer": "integer", "number": "number"}[found["type"]]
    low, high = found.get("minimum"), found.get("maximum")
    above, below = found.get("exclusiveMinimum"), found.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f"{kind} {low:.10g} to {high:.10g}"
    bounds = {"≥": low, ">": above, "≤": high, "<": below}
    return " ".join([kind, " and ".join(f"{sign} {bound:.10g}" for sign, bound in bounds.items() if bound is not None)])


def _branches(found: Schema, whole: Schema) -> list[Schema]:
    """Return the mappings that may stand at a place: none, one, or one per kind."""
    if "$ref" in found:
        name = found["$ref"].rsplit("/", 1)[-1]
        return [whole["$defs"][name]] if name != "Sweep" else []
    if "properties" in found and "title" in found:
        return [found]
    options = [*found.get("allOf", ()), *found.get("anyOf", ())]
    return [branch for option in options for branch in _branches(option, whole)]


def _model(branch: Schema) -> type[Block]:
    return next(block for block in _blocks(Block) if block.__name__ == branch["title"])


def _blocks(base: type[Block]) -> Iterator[type[Block]]:
    for block in base.__subclasses__():
        yield block
        yield from _blocks(block)


def _selector(mapping: Schema) -> str | None:
    return next((key for key in ("kind", "name") if "const" in mapping["properties"].get(key, {})), None)


def _name(branch: Schema, selector: str | None) -> str:
    return str(branch["properties"][selector]["const"]) if selector else ""


def _prose(text: str) -> str:
    """Return a description as Markdown: norms as such, nothing taken for markup."""
    text = _escaped(text.replace("||", "‖").removesuffix("."), "|*")
    return re.sub(r"\(?math\.md \(?([A-H]\.\d+)\)?\)?", r"([\1](mathematics.md))", text)


def _escaped(text: str, more: str) -> str:
    for character in more:
        text = text.replace(character, f"\\{character}")
    return text.replace("<", "&lt;")


def _table(rows: Iterator[tuple[str, ...]] | list[tuple[str, ...]], second: str = "") -> str:
    heads = ["key", *([second] if second else []), "values", "default", "meaning"]
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
