"""Where the cells of a sweep come from: all of its grid, bisection along an axis, or trials of a sampler."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from expreg.core import config as configs
from expreg.core.config import grid
from expreg.core.config.fields import Fault
from expreg.core.config.search import trial
from expreg.core.config.space import Space
from expreg.errors import InputError
from expreg.types import Experiment, Settings

if TYPE_CHECKING:
    from expreg.core.engine.search import Line, Work

Cells = dict[str, tuple[Settings, Mapping[str, Any]]]
_PLACE = ("sweep", "search", "optuna")


class Sweep(NamedTuple):
    """A config whose cells and data have been checked: the plan, settings and axis values of each cell by id.

    Where a sampler chooses the settings, the cells are examples drawn from the search space.
    """

    config: Any
    plan: dict[str, Any]
    cells: Cells
    experiment: Experiment

    @property
    def axes(self) -> list[str]:
        """The names of what is swept, without those of a search space."""
        return [axis for axis in self.plan["axes"] if self.space is None or axis not in self.space.space]

    @property
    def space(self) -> Space | None:
        """The search, where a sampler chooses the settings."""
        found = self.config.source.search
        return found if isinstance(found, Space) else None


def cells(config: Any) -> Cells:
    """Return the cells of a config, or examples of those that a sampler may choose; raise InputError for wrong ones.

    Of examples only if all are wrong: a trial whose settings break a rule fails, and the others go on.
    """
    search = config.source.search
    if not isinstance(search, Space):
        return _named(config)
    found: Cells = {}
    refusal = None
    for values in search.examples():
        try:
            found |= _named(trial(config, values))
        except InputError as error:
            refusal = error
    if refusal is not None and not found:
        raise refusal
    return found


def described(config: Any, experiment: Experiment, ids: list[str]) -> dict[str, Any]:
    """Return what a plan keeps of its cells and of its search: `search` of a bisection, `trials` of a sampler.

    Raises InputError where there would be too many trials, or no optuna.
    """
    search, until = config.source.search, _until(config, experiment)
    if not isinstance(search, Space):
        names = () if search is None else ("axis", "criterion", "verify")
        return {"ids": ids, **until} | ({"search": {name: getattr(search, name) for name in names}} if names else {})
    from expreg.core.engine.trials import metric

    tree = trial(config, next(search.examples())).source.grid
    assert tree is not None
    most = search.runs * grid.size(tree)
    if most > (limit := config.execution.max_cells):
        message = f"{most} cells, limit {limit} (execution.max_cells)"
        raise InputError(configs.problem(config.source, Fault((*_PLACE, "trials"), "E-GRID", message)))
    if find_spec("optuna") is None:
        message = "needs optuna, which is not installed: pip install 'expreg[search]'"
        raise InputError(configs.problem(config.source, Fault(_PLACE, "E-IMPORT", message)))
    goal = metric(search, experiment)._asdict()
    space = {name: str(of) for name, of in search.space.items()}
    return {"cells": most, "trials": {**search.optuna.model_dump(), "metric": goal, "space": space}}


def work(sweep: Sweep) -> "Work":
    """Return what `execute` needs to know of the cells."""
    from expreg.core.engine import search
    from expreg.core.engine.trials import Trials, metric

    if sweep.space is not None:
        by = metric(sweep.space, sweep.experiment)
        trials = Trials(sweep.space, by, sweep.config.seed, lambda values: _named(trial(sweep.config, values)))
        share = sweep.space.optuna.batch / sweep.space.optuna.trials
        batch = dict(list(sweep.cells.items())[: max(1, round(share * len(sweep.cells)))])
        return search.Work(trials.cells, trials, batch, sweep.plan["cells"], trials.plan)
    if "until" in sweep.plan:
        return _narrowing(sweep)
    if (asked := sweep.plan.get("search")) is None:
        return search.Work(sweep.cells, search.grid(sweep.cells))
    source = search.search(_lines(sweep), asked["criterion"], asked["verify"], sweep.experiment.success)
    return search.Work(sweep.cells, source, sweep.cells, len(sweep.cells))


def _until(config: Any, experiment: Experiment) -> dict[str, Any]:
    """Return the half-width until which replicates are added and how many run first, empty where all of them run.

    Raises InputError where there is no exponent, or no replicates to add.
    """
    from expreg.core.stats.thresholds import replicates_needed

    asked, reason = config.analysis, ""
    if asked.until is None:
        return {}
    if experiment.half_width is None:
        reason = f"{experiment.name} has no exponent of n; remove this key"
    elif config.source.search is not None:
        reason = "got a search too, whose replicates are fixed; give either sweep.search or this key"
    elif "replicate" not in grid.names(config.source.grid):
        reason = "expected replicates in the sweep, of which as many run as are needed: replicate: {count: 200}"
    if reason:
        raise InputError(configs.problem(config.source, Fault(("analysis", "until"), "E-RANGE", reason)))
    return {"until": {"half_width": asked.until, "first": replicates_needed(asked.delta, asked.confidence)}}


def _narrowing(sweep: Sweep) -> "Work":
    """Return the work of adding replicates until the interval of the exponent is narrow."""
    from expreg.core.engine import search
    from expreg.core.stats.summary import Asked

    analysis, half_width, until = sweep.config.analysis, sweep.experiment.half_width, sweep.plan["until"]
    assert half_width is not None
    asked = Asked(tuple(sweep.axes), analysis.delta, analysis.confidence, analysis.resamples)
    replicates = {cell: int(settings["replicate"]) for cell, (settings, _) in sweep.cells.items()}
    source = search.until(replicates, until["first"], until["half_width"], lambda rows: half_width(rows, asked))
    first = {cell: sweep.cells[cell] for cell, replicate in replicates.items() if replicate < until["first"]}
    return search.Work(sweep.cells, source, first, len(sweep.cells))


def outlook(sweep: Sweep) -> tuple[dict[str, Any], Cells]:
    """Return what a plan shows about its search, and the cells by which it estimates time: the most that are expected.

    Of a bisection its lines, and how many cells are `expected`, few and many.
    """
    from expreg.core.engine.search import expected

    if sweep.space is not None:
        return {"trials": sweep.plan["trials"]}, sweep.cells
    if (asked := sweep.plan.get("search")) is None:
        return {name: sweep.plan[name] for name in ("until",) if name in sweep.plan}, sweep.cells
    along = _lines(sweep)
    few, many = (expected(along, criteria, asked["verify"]) for criteria in (1, len(asked["criterion"])))
    found = asked | {"lines": len(along), "expected": [len(few), len(many)]}
    return {"search": found}, {cell: sweep.cells[cell] for cell in many}


def _lines(sweep: Sweep) -> "list[Line]":
    from expreg.core.engine.search import lines

    return lines({cell: axes for cell, (_, axes) in sweep.cells.items()}, sweep.plan["search"]["axis"])


def _named(config: Any) -> Cells:
    return {name: (settings, axes) for name, settings, axes in configs.named(config)}
