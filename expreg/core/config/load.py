"""Load a config: gather it, check it, and say everything that is wrong with it at once."""

import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

import yaml
from pydantic_core import PydanticCustomError

from expreg.core.config import expression, grid
from expreg.core.config.expression import ExpressionError, parse
from expreg.core.config.fields import Number, Rule, did_you_mean, fault, got
from expreg.core.config.model import EXPERIMENTS, Config, Fault, Path, Source
from expreg.core.config.reader import ScalarError, scalar, show_path
from expreg.core.config.source import Overrides, find, gather
from expreg.core.config.template import ALWAYS_NAMED, Model, names_used, numeric_axes, target, template, with_axes
from expreg.core.config.walk import model_of, size_defaults, sweepable, validate
from expreg.errors import InputError, Problem

REPLICATE = Number(integer=True, least=0, most=2**31 - 1, expression=False)
FREE = Number(expression=False)
_COLUMNS = """
cell status status_detail experiment name device steps seconds expreg_version jax_version attempt activation init
scale data labels eta eta_scaled lambda_cts lambda_max_cts lambda_0 lambda_max_0 label_norm residual_initial
residual_final frobenius_error spectral_error max_movement lambda_min_path max_steps tolerance optimizer step_rule
curve_step curve_residual curve_linearised curve_passes step residual linearised passes
E0 E1 E1s E1m E2 E3 E4 E5 Ecert
sketch sketch_size start distance density condition coherence noise weight layer head token loss_rescaled error_final
x_error curve_loss curve_error curve_damping
loss solver rows columns nnz loss_value gradient_norm softmax_residual projective_loss alpha max_logit
move shift shift_first_order bound_tight bound_rows bound_softmax bound_radius
"""
COLUMNS = frozenset(_COLUMNS.split())
"""Columns of the results that an axis must not hide (design.md 2.4)."""

_Report = Callable[[Path, str, str], None]


def load(
    source: str | os.PathLike[str] | Mapping[str, Any],
    overrides: Overrides = (),
    *,
    roots: Sequence[FilePath] = (),
) -> Config:
    """Load a config from a file or a dict, put overrides over it and check it.

    `overrides` are texts like `training.tolerance=1e-4` or a mapping from such paths to values; files that the
    config names may lie beside it, in the working directory, or under `roots`.
    Raises `InputError` with every independent problem.
    """
    document = gather(source, overrides, roots)
    config, sound, first = _validate(document.value)
    second: list[Fault] = []
    third: list[Fault] = []
    tree = _grid(document.value, config, lambda *parts: second.append(Fault(*parts)))
    if config is not None and (tree is not None or config.sweep is None):
        third += _check_names(sound, tree, complete=not (first or second or document.faulty))
        third += _check_rules(config, sound, tree)
    where = Source(document.value, document.keys, document.values, tree)
    faults = _independent(first, document.faulty)
    faults += _independent(second, document.faulty | {f.path for f in first})
    faults += _independent(third, document.faulty | {f.path for f in first} | _set_by(model_of(sound), tree, second))
    problems = _in_order(document.problems + [problem(where, f) for f in faults])
    if problems or config is None:
        raise InputError(problems)
    return config.with_source(where)


def config_text(config: Config) -> str:
    """Return the merged config as YAML that `load` reads back to the same plan."""
    return yaml.dump(config.source.given, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a config, for editors: every key, and by experiment what differs between them."""
    schemas = {model: model.model_json_schema() for model in dict.fromkeys(EXPERIMENTS.values())}
    forms: dict[str, list[Any]] = {}
    for schema in schemas.values():
        for key, form in schema["properties"].items():
            forms.setdefault(key, []).append(form)
    shared = {key for key, found in forms.items() if all(form == found[0] for form in found)}
    properties = {key: found[0] if key in shared else {"description": "by experiment"} for key, found in forms.items()}
    properties["experiment"] = {**properties["experiment"], "enum": list(EXPERIMENTS)}
    cases = []
    for model, schema in schemas.items():
        own = {
            key: schema["properties"].get(key, False)
            for key in forms
            if key not in schema["properties"].keys() & shared
        }
        names = [name for name, other in EXPERIMENTS.items() if other is model]
        cases.append({"if": {"properties": {"experiment": {"enum": names}}}, "then": {"properties": own}})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "expreg config",
        "description": (Config.__doc__ or "").strip(),
        "type": "object",
        "required": ["experiment", "name"],
        "additionalProperties": False,
        "properties": properties,
        "allOf": cases,
        "$defs": {name: definition for schema in schemas.values() for name, definition in schema["$defs"].items()},
    }


def problem(source: Source, found: Fault) -> Problem:
    """Return a fault as a problem with its place: that of the value, of the axis that sets it, or of the mapping."""
    path, code, message = found
    mark = source.keys.get(path) if code == "E-UNKNOWN" else source.values.get(path)
    if mark is None and source.grid is not None:
        model = model_of(source.given)
        paths = [axis.path for axis in grid.axes(source.grid) if target(model, axis.name) == path]
        mark = find(source.values, paths[0]) if paths else None
    mark = mark or find(source.values, path[:-1] if code == "E-MISSING" else path)
    return Problem(code, message, *mark, key=show_path(path) or None)


def _in_order(problems: list[Problem]) -> list[Problem]:
    files = {name: i for i, name in enumerate(dict.fromkeys(p.file for p in problems))}
    return sorted(dict.fromkeys(problems), key=lambda p: (files[p.file], p.line or 0, p.column or 0))


def _set_by(model: Model, tree: grid.Block | None, faults: list[Fault]) -> set[Path]:
    """Return the paths that are set by an axis with a fault, and those axes themselves."""
    wrong = (
        [axis for axis in grid.axes(tree) if any(f.path[: len(axis.path)] == axis.path for f in faults)] if tree else []
    )
    return {axis.path for axis in wrong} | {path for axis in wrong if (path := target(model, axis.name))}


def _independent(faults: list[Fault], faulty: set[Path]) -> list[Fault]:
    """Leave out what is said about values that are stand-ins for something already reported."""
    return [f for f in faults if not any(f.path[:end] in faulty for end in range(len(f.path) + 1))]


# --- single values --------------------------------------------------------------------------------


def _validate(given: Any) -> tuple[Config | None, Any, list[Fault]]:
    """Check single values; what is wrong is left out and the rest checked again, so that later checks can go on."""
    faults: list[Fault] = []
    likely = next(name for name, model in EXPERIMENTS.items() if model is model_of(given))
    for _ in range(4):
        config, found = validate(given)
        faults += [new for new in found if new not in faults]
        if config is not None:
            return config, given, faults
        for bad in found:
            stand_in = {"name": "x", "experiment": likely}.get(show_path(bad.path))
            given = {**given, str(bad.path[0]): stand_in} if stand_in else _without(given, bad.path)
    return None, given, faults


def _without(given: Any, path: Path) -> Any:
    """Return a copy without the value at `path`; of a list that holds it nothing is left."""
    first, *rest = path
    if not isinstance(given, dict) or first not in given:
        return given
    if not rest or isinstance(rest[0], int):
        return {key: value for key, value in given.items() if key != first}
    return {**given, first: _without(given[first], tuple(rest))}


# --- the grid -------------------------------------------------------------------------------------


def _grid(given: Mapping[str, Any], config: Config | None, report: _Report) -> grid.Block | None:
    """Read the sweep; a grid that is too large is refused before any of its values is made."""
    if given.get("sweep") is None:
        return None
    model = model_of(given)
    constants = {name: _constant(given, path) for name, path in model.sizes.items()}
    language = grid.Language(
        condition=_conditions({name: value for name, value in constants.items() if value is not None}, report),
        integer=lambda axis: _whole(model, axis),
        report=report,
    )
    tree = grid.parse(given["sweep"], language)
    limit = config.execution.max_cells if config else 1_000_000
    count = grid.size(tree)
    if count > limit:
        shown = count if count < 10**30 else "more than 10^30"
        report(("sweep",), "E-GRID", f"{shown} cells, limit {limit} (execution.max_cells)")
        return None
    grid.check_zips(tree, report)
    for axis in grid.axes(tree):
        if axis.form != "broken":
            _check_axis(model, axis, report)
    return tree


def _constant(given: Any, path: Path) -> Any:
    value = _given(given, path, ())
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _conditions(
    constants: Mapping[str, Any], report: _Report
) -> Callable[[str, tuple[str, ...], Path], grid.Condition | None]:
    def compile_condition(text: str, names: tuple[str, ...], path: Path) -> grid.Condition | None:
        try:
            condition = parse(text, condition=True)
        except ExpressionError as error:
            report(path, "E-EXPR", f"{got(text)}: {error}")
            return None
        known = {*names, *constants}
        for name in sorted(condition.names - known):
            hint = did_you_mean(name, known) or f"; known here: {', '.join(sorted(known))}"
            report(path, "E-EXPR", f"'{name}' is not swept in this block{hint}")
        return lambda row: condition({**constants, **row}) if constants else condition(row)

    return compile_condition


def _whole(model: Model, axis: str) -> bool | None:
    path = target(model, axis)
    if axis == "replicate" or path is None:
        return True if axis == "replicate" else None
    rules = sweepable(model)[".".join(map(str, path))]
    return any(isinstance(rule, Number) and rule.integer for rule in rules)


def _check_axis(model: Model, axis: grid.Axis, report: _Report) -> None:
    """Check the name of an axis, then its values by the rule of what it sets."""
    if not (expression.is_name(axis.name) and (target(model, axis.name) or "." not in axis.name)):
        hint = did_you_mean(axis.name, sweepable(model))
        report(axis.path, "E-AXIS", f"the config has no value '{axis.name[:60]}' to sweep{hint}")
        return
    path = target(model, axis.name)
    if path is None and (axis.name in COLUMNS or axis.name in model.model_fields):
        report(axis.path, "E-AXIS", f"'{axis.name}' has a meaning of its own; choose another name for the axis")
        return
    rules: tuple[Rule, ...] = (REPLICATE if axis.name == "replicate" else FREE,)
    if path is not None:
        rules = sweepable(model)[".".join(map(str, path))]
    # The values of a generator lie between its ends, and the rules are intervals.
    checked = axis.values if axis.form == "list" else dict.fromkeys((axis.values[0], axis.values[-1]))
    for index, value in enumerate(checked):
        if wrong := _refusal(value, rules):
            report((*axis.path, index) if axis.form == "list" else axis.path, *wrong)


def _refusal(value: Any, rules: tuple[Rule, ...]) -> tuple[str, str] | None:
    """Return why no rule takes the value, in the words of the first rule."""
    refusals = []
    for rule in rules:
        try:
            rule.check(value)
            if isinstance(rule, Number) and isinstance(value, str) and value not in rule.words:
                raise fault("E-TYPE", f"{got(value)}, expected {rule.expected()}; axis values are plain")
        except PydanticCustomError as error:
            refusals.append((error.type, error.message()))
        else:
            return None
    return refusals[0]


# --- names and rules ------------------------------------------------------------------------------


def _check_names(given: Mapping[str, Any], tree: grid.Block | None, *, complete: bool) -> Iterator[Fault]:
    """Yield unknown names in expressions, sizes that nothing sets, and axes that set nothing.

    Of an incomplete config the expression that names an axis may have been left out.
    """
    swept = {axis.name: axis for axis in grid.axes(tree)} if tree else {}
    row = {name: axis.values[0] for name, axis in swept.items()}
    model = model_of(given)
    blocks = with_axes(model, given, row, numeric_axes(tree))
    used = list(names_used(model, blocks))
    known = {*swept, *model.sizes, *ALWAYS_NAMED}
    for path, name in used:
        if name not in known:
            hint = did_you_mean(name, known) or f"; known here: {', '.join(sorted(known))}"
            yield Fault(path, "E-EXPR", f"'{name}' is not a swept name{hint}")
    yield from _check_sizes(model, used, swept, size_defaults(model, blocks))
    names = {name for _, name in used}
    for name, axis in swept.items():
        sets = target(model, name)
        if name in model.sizes and sets and _given(given, sets, swept) not in (None, name):
            yield Fault(axis.path, "E-AXIS", f"{name} is swept, and {show_path(sets)} is given; remove one of them")
        elif sets is None and complete and name not in {*names, *ALWAYS_NAMED}:
            yield Fault(axis.path, "E-AXIS", f"axis {name} sets nothing: no expression names it")


def _given(given: Any, path: Path, swept: Container[str]) -> Any:
    """Return what the config or a dotted axis puts at `path`."""
    if show_path(path) in swept:
        return show_path(path)
    for part in path:
        given = given.get(part) if isinstance(given, dict) else None
    return given


def _check_sizes(
    model: Model, used: list[tuple[Path, str]], swept: Mapping[str, Any], fields: Container[Path]
) -> Iterator[Fault]:
    for name in model.sizes.keys() & {name for _, name in used}:
        pending, seen = [name], set()
        while pending:
            current = pending.pop()
            if current in swept or model.sizes.get(current) not in fields:
                continue
            if current in seen:
                message = f"{name} is neither swept nor given; sweep {name} or set {show_path(model.sizes[name])}"
                yield Fault(model.sizes[name], "E-MISSING", message)
                break
            seen.add(current)
            pending += [inner for path, inner in used if path == model.sizes[current]]


def _check_rules(config: Config, given: Mapping[str, Any], tree: grid.Block | None) -> Iterator[Fault]:
    """Yield what the rules between values say about the values that no axis changes."""
    numeric = numeric_axes(tree)
    swept = {axis.name: axis.values[0] for axis in grid.axes(tree)} if tree else {}
    if "precision" in swept:
        return
    model = type(config)
    blocks = with_axes(model, given, swept, numeric)
    for block, check in model.blocks.items():
        paths = [target(model, name) or ("",) for name in swept.keys() - numeric]
        if any(path[0] == block for path in paths):
            continue
        found = template(model, block, blocks)
        yield from found.faults
        if found.values:
            yield from (Fault(*parts) for parts in check(found.values, config.precision))


# --- writing --------------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    """Quote every text that the strict reader would not read as the same text."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    try:
        same = scalar(text) == text and text.isprintable()
    except ScalarError:
        same = False
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if same else '"')


_Dumper.add_representer(str, _represent_text)
