"""Load a config: gather it, check it as it is written, and say everything that is wrong with it at once."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic_core import PydanticCustomError

from expreg.core.config import expression, grid
from expreg.core.config.cells import Resolver, is_whole, target
from expreg.core.config.expression import ExpressionError, parse
from expreg.core.config.fields import Choice, Fault, FilePath, Number, Rule, carried, did_you_mean, got
from expreg.core.config.model import Config, Source, check, leaves
from expreg.core.config.reader import Document, Path, ScalarError, scalar, show_path
from expreg.core.config.source import Overrides, gather, make_absolute, problem
from expreg.errors import InputError, Problem
from expreg.types import BASE, Experiment

REPLICATE = Number(integer=True, least=0, most=2**31 - 1, expression=False)
FREE = Number(expression=False)


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
    given = document.value
    experiment, unknown = _experiment(given, experiments)
    loading = _Loading(experiment, document)
    config = loading.config()
    others = {block for other in experiments.values() for block in other.schema().blocks}
    strange = [f for f in loading.first if f.code == "E-UNKNOWN" and len(f.path) == 1 and f.path[0] in others]
    first = [
        Fault(f.path, f.code, f"{experiment.name} has no {f.path[0]}; remove this key") if f in strange else f
        for f in loading.first
    ]
    faults = _independent(unknown + first, document.faulty)
    if config is not None and not (faults or document.faulty or loading.second):
        loading.second += _third(config.with_source(loading.source))
    faults += _independent(loading.second, document.faulty | {f.path for f in loading.first})
    problems = _in_order(document.problems + [problem(loading.source, f, loading.targets) for f in faults])
    if problems or config is None:
        raise InputError(problems)
    return config.with_source(loading.source)


def config_text(config: Config) -> str:
    """Return the merged config as YAML that `load` reads back to the same plan."""
    return yaml.dump(config.source.given, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _experiment(given: Mapping[str, Any], experiments: Mapping[str, Experiment]) -> tuple[Experiment, list[Fault]]:
    """Return the experiment of a config, and what is wrong with its name; then the one that knows most of the keys."""
    name = given.get("experiment")
    likely = max(experiments.values(), key=lambda one: len(given.keys() & one.schema().model_fields.keys()))
    if "experiment" not in given:
        return likely, [Fault(("experiment",), "E-MISSING", "required key missing")]
    try:
        return experiments[Choice(options=tuple(experiments)).check(name)], []
    except PydanticCustomError as error:
        return likely, [Fault(("experiment",), *carried(error)[1:])]


def _in_order(problems: list[Problem]) -> list[Problem]:
    files = {name: i for i, name in enumerate(dict.fromkeys(p.file for p in problems))}
    return sorted(dict.fromkeys(problems), key=lambda p: (files[p.file], p.line or 0, p.column or 0))


def _independent(faults: list[Fault], faulty: set[Path]) -> list[Fault]:
    """Leave out what is said about values that are stand-ins for something already reported."""
    return [f for f in faults if not any(f.path[:end] in faulty for end in range(len(f.path) + 1))]


def _third(config: Config) -> list[Fault]:
    """Return sizes that nothing sets, and what rules say about blocks that no axis changes."""
    resolver = Resolver(config, files=False)
    tree = config.source.grid
    row = {axis.name: axis.values[0] for axis in grid.axes(tree)} if tree else {}
    for block in config.blocks:
        resolver.block(block, row)
    sizes = set(config.sizes.values())
    return [
        Fault(path, code, next(iter(cases.values())))
        for (path, code), cases in resolver.cases.items()
        if "" in cases or (code == "E-MISSING" and path in sizes)
    ]


class _Loading:
    """The config as it is written and its grid; `first` and `second` are what is wrong with the two."""

    def __init__(self, experiment: Experiment, document: Document) -> None:
        self.experiment, self.given, self.faulty = experiment, document.value, document.faulty
        self.model: type[Config] = experiment.schema()
        self.leaves = leaves(self.model)
        files = [name for name, rules in self.leaves.items() if any(isinstance(rule, FilePath) for rule in rules)]
        make_absolute(document, files)
        self.first: list[Fault] = []
        self.second: list[Fault] = []
        constants = {name: _at(self.given, path) for name, path in self.model.sizes.items()}
        self.constants = {name: value for name, value in constants.items() if _is_number(value)}
        self.used: set[str] = set()
        tree = self._parsed()
        self.axes = list(grid.axes(tree)) if tree else []
        self.targets = {axis.name: target(self.model, self.leaves, axis.name) for axis in self.axes}
        self.source = Source(document.value, document.keys, document.values, tree)

    def config(self) -> Config | None:
        """Check the config as it is written, then its grid."""
        known = {*self.targets, *self.model.sizes, "replicate"}
        given = {**self.given, "experiment": self.experiment.name}
        config, self.first = check(self.model, given, {"known": known, "used": self.used})
        if config is not None and self.source.grid is not None and not self._counted(config.execution.max_cells):
            return config
        grid_is_sound = not self.second
        for axis in self.axes:
            if axis.form != "broken":
                self.second += [*self._axis(axis), *self._twice(axis)]
        if config is not None and grid_is_sound and not self.second and not self.faulty:
            self.second += self._idle()
        return config

    def _parsed(self) -> grid.Block | None:
        if self.given.get("sweep") is None:
            return None
        language = grid.Language(
            condition=self._condition,
            integer=self._integer,
            report=lambda *parts: self.second.append(Fault(*parts)),
        )
        return grid.parse(self.given["sweep"], language)

    def _integer(self, axis: str) -> bool | None:
        path = target(self.model, self.leaves, axis)
        return is_whole(self.leaves[show_path(path)]) if path else True if axis == "replicate" else None

    def _condition(self, text: str, names: tuple[str, ...], path: Path) -> grid.Condition | None:
        try:
            condition = parse(text, condition=True)
        except ExpressionError as error:
            self.second.append(Fault(path, "E-EXPR", f"{got(text)}: {error}"))
            return None
        constants, known = self.constants, {*names, *self.constants}
        for name in sorted(condition.names - known):
            hint = did_you_mean(name, known) or f"; known here: {', '.join(sorted(known))}"
            self.second.append(Fault(path, "E-EXPR", f"'{name}' is not swept in this block{hint}"))
        return (lambda row: condition({**constants, **row})) if constants else condition

    def _counted(self, limit: int) -> bool:
        """Refuse a grid that is too large before any of its values is made."""
        tree = self.source.grid
        assert tree is not None
        count = grid.size(tree)
        if count > limit:
            shown = count if count < 10**30 else "more than 10^30"
            self.second.append(Fault(("sweep",), "E-GRID", f"{shown} cells, limit {limit} (execution.max_cells)"))
            self.source = Source(self.source.given, self.source.keys, self.source.values, None)
            return False
        grid.check_zips(tree, lambda *parts: self.second.append(Fault(*parts)))
        return True

    def _axis(self, axis: grid.Axis) -> Iterator[Fault]:
        """Yield what is wrong with the name of an axis, or with its values by the rule of what it sets."""
        path = self.targets[axis.name]
        if not (expression.is_name(axis.name) and (path or "." not in axis.name)):
            hint = did_you_mean(axis.name, self.leaves)
            yield Fault(axis.path, "E-AXIS", f"the config has no value '{axis.name[:60]}' to sweep{hint}")
            return
        if path is None and axis.name != "replicate" and axis.name in self._reserved():
            message = f"'{axis.name}' is a key or a column of this experiment; choose another name for the axis"
            yield Fault(axis.path, "E-AXIS", message)
            return
        rules: tuple[Rule, ...] = (REPLICATE if axis.name == "replicate" else FREE,)
        if path is not None:
            rules = self.leaves[show_path(path)]
        # The values of a generator lie between its ends, and the rules are intervals.
        listed = axis.form == "list"
        for index, value in enumerate(axis.values if listed else dict.fromkeys((axis.values[0], axis.values[-1]))):
            if wrong := _refusal(value, rules):
                yield Fault((*axis.path, index) if listed else axis.path, wrong.code, wrong.message)

    def _reserved(self) -> set[str]:
        """Return the names that an axis must not hide: keys of the config, columns of cells and of curves."""
        columns = {column.name for column in (*BASE, *self.experiment.columns(), *self.experiment.curves())}
        curves = {f"curve_{column.name}" for column in self.experiment.curves()}
        return {"step", *columns, *curves, *self.model.model_fields}

    def _twice(self, axis: grid.Axis) -> Iterator[Fault]:
        """Yield that what a size sweeps is given as well."""
        path = self.targets[axis.name]
        if axis.name in self.model.sizes and path and path not in {found.path for found in self.first}:
            dotted = show_path(path)
            if dotted in self.targets or _at(self.given, path) not in (None, axis.name):
                yield Fault(axis.path, "E-AXIS", f"{axis.name} is swept, and {dotted} is given; remove one of them")

    def _idle(self) -> Iterator[Fault]:
        """Yield axes that set nothing."""
        for axis in self.axes:
            if self.targets[axis.name] is None and axis.name not in {*self.used, "replicate"}:
                yield Fault(axis.path, "E-AXIS", f"axis {axis.name} sets nothing: no expression names it")


def _refusal(value: Any, rules: tuple[Rule, ...]) -> Fault | None:
    """Return why no rule takes the value, in the words of the first rule."""
    refusals = []
    for rule in rules:
        try:
            rule.axis(value)
        except PydanticCustomError as error:
            refusals.append(carried(error))
        else:
            return None
    return refusals[0]


def _at(given: Any, path: Path) -> Any:
    for part in path:
        given = given.get(part) if isinstance(given, dict) else None
    return given


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


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
