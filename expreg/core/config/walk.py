"""What stands at which path of a config, and pydantic's errors in our words."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from expreg.core.config.fields import TAG, Block, Choice, Either, Number, OneOf, Rule, did_you_mean, got
from expreg.core.config.model import EXPERIMENTS, Config, Fault, Path


def model_of(given: Any) -> type[Config]:
    """Return the model of a config: that of its experiment, else the one that knows most of its keys."""
    given = given if isinstance(given, Mapping) else {}
    name = given.get("experiment")
    if isinstance(name, str) and name in EXPERIMENTS:
        return EXPERIMENTS[name]
    return max(EXPERIMENTS.values(), key=lambda model: len(given.keys() & model.model_fields.keys()))


def validate(given: Any) -> tuple[Config | None, list[Fault]]:
    """Check a config; return it, or None and everything that is wrong with its single values."""
    model = model_of(given)
    try:
        return model.model_validate(given), []
    except ValidationError as error:
        return None, [_translate(details, model, given) for details in error.errors(include_url=False)]


def _translate(details: Any, root: type[Config], given: Any) -> Fault:
    kind, location, value = details["type"], details["loc"], details["input"]
    path, model = _follow(location, root)
    context = details.get("ctx") or {}
    if kind.startswith("E-"):
        index = context["index"]
        return Fault(path if index is None else (*path, index), kind, context["message"])
    if kind == "extra_forbidden":
        if len(path) == 1 and any(path[0] in other.blocks for other in EXPERIMENTS.values()):
            return Fault(path, "E-UNKNOWN", f"{given.get('experiment')} has no {path[0]}; remove this key")
        hint = did_you_mean(path[-1], model.model_fields)
        known = "" if hint else f"; known {_branch_name(model)}: {', '.join(model.model_fields)}"
        return Fault(path, "E-UNKNOWN", f"unknown key{hint}{known}")
    if kind == "missing":
        return Fault(path, "E-MISSING", "required key missing")
    if kind == "union_tag_invalid":
        union = next(part for part in _parts(model, str(path[-1])) if isinstance(part, OneOf))
        return _wrong_branch(path, union, value)
    expected = "a list" if kind == "list_type" else "a mapping"
    return Fault(path, "E-TYPE", f"{got(value)}, expected {expected}")


def _branch_name(model: type[Block]) -> str:
    names = [model.model_fields[key].default for key in ("kind", "name") if key in model.model_fields]
    return f"for {names[0]}" if names and isinstance(names[0], str) else "here"


def _wrong_branch(path: Path, union: OneOf, value: Mapping[str, Any]) -> Fault:
    try:
        Choice(tuple(union.choices())).check(value[union.key])
    except PydanticCustomError as error:
        return Fault((*path, union.key), error.type, error.message())
    raise AssertionError("a known name has a branch")


def _follow(location: tuple[str | int, ...], root: type[Block]) -> tuple[Path, type[Block]]:
    """Return the path of an error without the marks of branches, and the model of the mapping in which it stands."""
    path: list[str | int] = []
    model = root
    branches: dict[str, type[Block] | None] = {}
    for part in location:
        if part in branches:
            model, branches = branches[str(part)] or model, {}
            continue
        path.append(part)
        branches = _branches(model, part) if part in model.model_fields else {}
        model = branches.pop("", None) or model
    return tuple(path), model


@cache
def _parts(model: type[Block], key: str) -> tuple[Any, ...]:
    """Return the rules, unions and models that say what may stand under `key`; nothing for lists."""
    field = model.model_fields[key]
    found: list[Any] = list(field.metadata)
    pending: list[Any] = [field.annotation]
    while pending:
        part = pending.pop()
        if get_origin(part) is list:
            continue
        if get_origin(part) is Annotated:
            first, *metadata = get_args(part)
            pending.append(first)
            found += metadata
        else:
            found.append(part)
            pending += get_args(part)
    return tuple(part for part in found if isinstance(part, (Rule, OneOf, Either)) or _is_model(part))


def _is_model(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, Block) and part is not Block


def _branches(model: type[Block], key: str) -> dict[str, type[Block] | None]:
    """Return the models under `key` by the mark that pydantic puts into locations; "" where it puts none."""
    found: dict[str, type[Block] | None] = {}
    for part in _parts(model, key):
        if isinstance(part, OneOf):
            found |= {f"{TAG}{name}": choice for name, choice in part.choices().items()}
        elif isinstance(part, Either):
            found |= {f"{TAG}mapping": part.model, f"{TAG}number": None}
        elif not isinstance(part, Rule):
            found[""] = part
    return found


@cache
def sweepable(model: type[Config]) -> dict[str, tuple[Rule, ...]]:
    """Return the rules of every value that an axis may set, by dotted path; several where kinds differ."""
    found: dict[str, tuple[Rule, ...]] = {}
    for key in ("seed", "precision", *model.blocks):
        for path, rule in _leaves(model, key, key):
            if rule not in found.setdefault(path, ()):
                found[path] += (rule,)
    return found


def _leaves(model: type[Block], key: str, path: str) -> Iterator[tuple[str, Rule]]:
    for part in _parts(model, key):
        if isinstance(part, Rule):
            yield path, part
        elif isinstance(part, Either):
            yield path, part.number
        elif isinstance(part, OneOf):
            yield f"{path}.{part.key}", Choice(tuple(part.choices()))
    for child in _branches(model, key).values():
        for name in child.model_fields if child else ():
            yield from _leaves(child, name, f"{path}.{name}") if child else ()


def expressions(block: Block, path: Path = ()) -> Iterator[tuple[Path, str, Number]]:
    """Walk over the values of a checked block that are still expressions, each with its path and rule."""
    for name in type(block).model_fields:
        value = getattr(block, name)
        if isinstance(value, Block):
            yield from expressions(value, (*path, name))
        elif isinstance(value, str):
            parts = [part.number if isinstance(part, Either) else part for part in _parts(type(block), name)]
            for rule in parts:
                if isinstance(rule, Number) and value not in rule.words:
                    yield (*path, name), value, rule


def size_defaults(model: type[Config], given: Mapping[str, Any]) -> dict[Path, Any]:
    """Return the default of every size that is a field of the chosen kinds; the others follow from the data."""
    found: dict[Path, Any] = {}
    for block, field in model.sizes.values():
        chosen = _chosen(model, block, given.get(block))
        if chosen is not None and field in chosen.model_fields:
            found[block, field] = chosen.model_fields[field].get_default()
    return found


def _chosen(model: type[Block], key: str, given: Any) -> type[Block] | None:
    """Return the model of the mapping under a key of the config, by its kind where there are several."""
    given = given if isinstance(given, Mapping) else {}
    for part in _parts(model, key):
        if isinstance(part, OneOf):
            default = model.model_fields[key].get_default(call_default_factory=True)
            return part.choices().get(given.get(part.key, getattr(default, part.key)))
    return _branches(model, key).get("")
