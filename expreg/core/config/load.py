"""Load a config: gather it, check it as it is written, and say everything that is wrong with it at once."""

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml
from pydantic_core import PydanticCustomError

from expreg.core.config import expression, grid, search
from expreg.core.config.cells import Resolver, put
from expreg.core.config.fields import Choice, Fault, FilePath, Rule, carried, did_you_mean, is_number
from expreg.core.config.model import Config, Execution, check, leaves, target
from expreg.core.config.reader import Path, ScalarError, scalar, show_path
from expreg.core.config.source import Overrides, Source, at, gather, make_absolute, problem
from expreg.core.config.space import Space
from expreg.errors import InputError, Problem
from expreg.types import BASE, Experiment

MAX_LISTED = 4
"""Values of a list that a message repeats."""
MAX_HINTS = 200
"""Axes of a grid that are compared with all names of the config; more are not listed."""


def load(
    source: str | os.PathLike[str] | Mapping[str, Any],
    overrides: Overrides = (),
    *,
    experiments: Mapping[str, Experiment],
) -> Config:
    """Load a config from a file or a dict, put overrides over it and check it as it is written.

    `overrides` are texts like `training.tolerance=1e-4` or a mapping from such paths to values; rules between values
    are checked here where no axis changes them, and in every cell by `plan`.
    Raises `InputError` with every independent problem.
    """
    document = gather(source, overrides)
    experiment, first = _experiment(document.value, experiments)
    model, known = experiment.schema(), leaves(experiment.schema())
    make_absolute(document, [name for name, rules in known.items() if any(isinstance(r, FilePath) for r in rules)])
    given = {**document.value, "experiment": experiment.name}
    foreign = {block for other in experiments.values() for block in other.schema().blocks} - model.model_fields.keys()
    strange = [key for key in given if key in foreign]
    given = {key: value for key, value in given.items() if key not in foreign}

    tree: grid.Block | None = None
    searched = None
    second: list[Fault] = []
    if given.get("sweep") is not None:
        constants = {name: value for name, path in model.sizes.items() if is_number(value := at(given, path))}
        searched, wrong = search.read(given["sweep"])
        first += wrong

        def whole(axis: str) -> int | None:
            path, _, integer = target(model, known, axis)
            return 2 if path == grid.EVEN else integer

        searched = searched.even(whole) if isinstance(searched, Space) else searched
        candidates = None if searched is None else lambda path: search.node(searched, path, whole)
        tree, second = grid.read(given["sweep"], whole, constants, candidates)
    targets = {name: target(model, known, name) for name in grid.names(tree)}
    used = set[str]()
    context = {"known": {*targets, *model.sizes, "replicate"}, "used": used}
    config, wrong = check(model, given, context)
    lacking = {found.path for found in wrong if found.code == "E-MISSING"}
    first_values = {
        targets[axis.name].path: axis.values[0]
        for axis in grid.axes(tree)
        if axis.form in ("list", grid.SPACE) or (axis.form == "generator" and axis.size <= MAX_HINTS)
    }
    if swept_only := lacking & first_values.keys():  # a key that an axis sets in every cell need not be given too
        for path in swept_only:
            given = put(given, path, first_values[path])
        config, wrong = check(model, given, context)
    if guessed := any(found.path == ("experiment",) and found.code == "E-ENUM" for found in first):
        wrong = [found for found in wrong if found.code not in ("E-UNKNOWN", "E-MISSING")]  # its keys are not known
    made = Source(document.value, document.marks, tree, targets, searched, frozenset(swept_only))
    first += [_meant_as_sweep(found, given, known, model.sizes) for found in wrong]
    first += [Fault((key,), "E-UNKNOWN", f"{experiment.name} has no {key}; remove this key") for key in strange]
    if searched is not None and config is not None:
        first += search.faults(searched, experiment, config, targets)
    if tree is not None and not guessed:
        second += _grid(made, experiment, config, known, {found.path for found in first})
    faults = _independent(first, document.faulty)
    if config is not None:
        config = config.with_source(made)
        if not (faults or second or document.faulty):
            second = [*_idle(made, used, [*model.sizes, *known]), *_sizes_and_rules(config)]
    faults += _independent(second, document.faulty | {found.path for found in first})
    if config is None or faults or document.problems:
        raise InputError(_in_order(document.problems + [problem(made, found) for found in faults]))
    return config


def config_text(config: Config) -> str:
    """Return the merged config as YAML that `load` reads back to the same plan."""
    return yaml.dump(config.source.given, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _experiment(given: Mapping[str, Any], experiments: Mapping[str, Experiment]) -> tuple[Experiment, list[Fault]]:
    """Return the experiment of a config, and what is wrong with its name; then the one that knows most of the keys."""
    likely = max(experiments.values(), key=lambda one: len(given.keys() & one.schema().model_fields.keys()))
    if "experiment" not in given:
        return likely, [Fault(("experiment",), "E-MISSING", "required key missing")]
    try:
        return experiments[Choice(options=tuple(experiments)).check(given["experiment"])], []
    except PydanticCustomError as error:
        found = carried(error)
        own = "; one of your own needs --import FILE" if isinstance(given["experiment"], str) else ""
        return likely, [found._replace(message=found.message + own).below(("experiment",))]


def _meant_as_sweep(
    found: Fault, given: Mapping[str, Any], known: Mapping[str, tuple[Rule, ...]], sizes: Mapping[str, Path]
) -> Fault:
    """Return a fault with how to sweep the value, where a list stands in place of one of its items."""
    values, path = at(given, found.path), show_path(found.path)
    if found.code != "E-TYPE" or not isinstance(values, list) or not values:
        return found
    for axis in (path, f"{path}.kind", f"{path}.name", f"{path}.rule"):
        if any(rule.axis(values[0]) is None for rule in known.get(axis, ())):
            name = next((name for name, of in sizes.items() if show_path(of) == axis), axis)
            listed = ", ".join([*map(str, values[:MAX_LISTED]), *["..."][: len(values) - MAX_LISTED]])
            hint = f"to run one after the other: sweep: {{product: {{{name}: [{listed}]}}}}"
            return found._replace(message=f"{found.message}; {hint}")
    return found


def _in_order(problems: list[Problem]) -> list[Problem]:
    files = {name: i for i, name in enumerate(dict.fromkeys(p.file for p in problems))}
    return sorted(dict.fromkeys(problems), key=lambda p: (files[p.file], p.line or 0, p.column or 0))


def _independent(faults: list[Fault], faulty: set[Path]) -> list[Fault]:
    """Leave out the faults of values that stand in for something already reported."""
    return [f for f in faults if not any(f.path[:end] in faulty for end in range(len(f.path) + 1))]


# --- the grid -------------------------------------------------------------------------------------


def _grid(
    source: Source, experiment: Experiment, config: Config | None, known: Iterable[str], wrong: set[Path]
) -> Iterator[Fault]:
    """Yield what is wrong with a grid and its axes; one that is too large is refused before its values are made.

    `known` are the names of values that axes may set, `wrong` the paths at which something is wrong already.
    """
    assert source.grid is not None
    count, limit = grid.size(source.grid), (config.execution if config else Execution()).max_cells
    if count > limit:
        shown = count if count < 10**30 else "more than 10^30"
        if config is not None:
            yield Fault(("sweep",), "E-GRID", f"{shown} cells, limit {limit} (execution.max_cells)")
        return
    yield from grid.uneven_zips(source.grid)
    model = experiment.schema()
    for number, axis in enumerate(grid.axes(source.grid)):
        path, rules, _ = source.targets[axis.name]
        if axis.form == "broken":
            continue
        if wrong_name := _name(axis.name, path, experiment, known if number < MAX_HINTS else ()):
            yield Fault(axis.path, "E-AXIS", wrong_name)
        else:
            yield from _values(axis, rules)
        if axis.name in model.sizes and path and path not in wrong:
            dotted = show_path(path)
            if dotted in source.targets or at(source.given, path) not in (None, axis.name):
                yield Fault(axis.path, "E-AXIS", f"{axis.name} is swept, and {dotted} is given; remove one of them")


def _name(name: str, path: Path | None, experiment: Experiment, known: Iterable[str]) -> str | None:
    """Return why an axis cannot have this name: it means nothing, or hides a key of the config or a column."""
    if not (expression.is_name(name) and (path or "." not in name)):
        return f"the config has no value '{name[:60]}' to sweep{did_you_mean(name, known)}"
    curves = [column.name for column in experiment.curves()]
    columns = {"step", *curves, *(f"curve_{curve}" for curve in curves)}
    columns |= {column.name for column in (*BASE, *experiment.columns())} | experiment.schema().model_fields.keys()
    if path is None and name != "replicate" and name in columns:
        return f"'{name}' is a key or a column of this experiment; choose another name for the axis"
    return None


def _values(axis: grid.Axis, rules: tuple[Rule, ...]) -> Iterator[Fault]:
    """Yield the values that no rule takes, in the words of the first rule."""
    # The values of a generator or a search lie between its ends, and the rules are intervals.
    listed = axis.form == "list"
    shown = axis.values if listed or axis.form == grid.SPACE else (axis.values[0], axis.values[-1])
    for index, value in enumerate(shown if listed else dict.fromkeys(shown)):
        refusals = [found for rule in rules if (found := rule.axis(value))]
        if len(refusals) == len(rules):
            end = (*axis.path[:-1], ("from", "to")[index]) if axis.form == grid.SEARCH else axis.path
            yield refusals[0]._replace(path=(*axis.path, index) if listed else end)
            if axis.form == grid.SPACE:  # its ends come first
                return


def _idle(source: Source, used: set[str], known: Iterable[str]) -> Iterator[Fault]:
    """Yield axes that set nothing, neither a field nor a name that an expression uses; `known` are those that do."""
    for axis in grid.axes(source.grid):
        if source.targets[axis.name].path is None and axis.name not in {*used, "replicate"}:
            meant = did_you_mean(axis.name, known)
            yield Fault(axis.path, "E-AXIS", f"axis {axis.name} sets nothing: no expression names it{meant}")


def _sizes_and_rules(config: Config) -> list[Fault]:
    """Return sizes that nothing sets, and what rules say about blocks that no axis changes."""
    resolver = Resolver(config, files=False)
    row = {axis.name: axis.values[0] for axis in grid.axes(config.source.grid)}
    for block in config.blocks:
        resolver.block(block, row)
    sizes = set(config.sizes.values())
    return [
        Fault(path, code, next(iter(cases.values())))
        for (path, code), cases in resolver.cases.items()
        if "" in cases or (code == "E-MISSING" and path in sizes)
    ]


# --- writing --------------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    """Quote every text that the strict reader would not read as the same text."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    try:
        same = scalar(text) == text and text.isprintable()
    except ScalarError:
        same = False
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if same else '"')


_Dumper.add_representer(str, _represent_text)
