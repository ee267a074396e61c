"""Where the cells of a sweep come from: all of its grid, bisection along an axis, or trials of a sampler."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from expreg.core import config as configs
from expreg.core.config import grid
from expreg.core.config.search import trial
from expreg.core.config.space import Space
from expreg.types import TRIAL, Experiment, Settings

if TYPE_CHECKING:
    from expreg.core.engine.search import Line

Cells = dict[str, tuple[Settings, Mapping[str, Any]]]


class Sweep(NamedTuple):
    """A config whose cells and data have been checked: the plan, settings and axis values of each cell by id.

    Where a sampler chooses the settings, the cells are such as it may choose.
    """

    config: Any
    plan: dict[str, Any]
    cells: Cells
    experiment: Experiment

    @property
    def axes(self) -> list[str]:
        """The names of what is swept, without what only a plan of values at random would show."""
        return [axis for axis in self.plan["axes"] if self.space is None or axis not in self.space.space]

    @property
    def space(self) -> Space | None:
        """The search, where a sampler chooses the settings."""
        found = self.config.source.search
        return found if isinstance(found, Space) else None


def described(config: Any, experiment: Experiment, cells: Cells) -> dict[str, Any]:
    """Return what a plan keeps of its cells and of its search: `search` of a bisection, `trials` of a sampler."""
    search = config.source.search
    if search is None:
        return {"ids": list(cells)}
    if not isinstance(search, Space):
        return {"ids": list(cells), "search": {name: getattr(search, name) for name in ("axis", "criterion", "verify")}}
    from expreg.core.engine.trials import metric

    whole = {search.prune.axis: search.prune.to} if search.prune else {}
    most = search.runs * grid.size(config.source.grid) // search.optuna.trials
    described = search.optuna.model_dump() | {"metric": metric(search, experiment)._asdict(), "whole": whole}
    return {"ids": [], "cells": most, "trials": described}


def rounds(sweep: Sweep) -> dict[str, Any]:
    """Return what `execute` needs to know of the cells: `cells`, `source`, and of a search what a round may run."""
    from expreg.core.engine import search, trials

    if sweep.space is not None:
        found: Cells = {}
        numbers: dict[str, int] = {}
        one = partial(_one, sweep.config)
        by = trials.metric(sweep.space, sweep.experiment)
        source = trials.trials(sweep.space, by, sweep.config.seed, found, numbers, one)
        plan = lambda: {"ids": list(numbers), TRIAL: list(numbers.values())}  # noqa: E731
        share = sweep.space.optuna.batch / sweep.space.optuna.trials
        batch = dict(list(sweep.cells.items())[: max(1, round(share * len(sweep.cells)))])
        return {"cells": found, "source": source, "expected": batch, "most": sweep.plan["cells"], "plan": plan}
    if (asked := sweep.plan.get("search")) is None:
        return {"cells": sweep.cells, "source": search.grid(sweep.cells)}
    source = search.search(_lines(sweep), asked["criterion"], asked["verify"], sweep.experiment.success)
    return {"cells": sweep.cells, "source": source, "expected": sweep.cells, "most": len(sweep.cells)}


def _one(config: Any, values: Mapping[str, Any]) -> Cells:
    return {name: (settings, axes) for name, settings, axes in configs.named(trial(config, values))}


def outlook(sweep: Sweep) -> tuple[dict[str, Any], Cells]:
    """Return what a plan says of its search, and the cells by which it estimates time: the most that are expected.

    Of a bisection its lines, and how many cells are `expected`, few and many.
    """
    from expreg.core.engine.search import expected

    if sweep.space is not None:
        return {"trials": sweep.plan["trials"]}, sweep.cells
    if (asked := sweep.plan.get("search")) is None:
        return {}, sweep.cells
    along = _lines(sweep)
    few, many = (expected(along, criteria, asked["verify"]) for criteria in (1, len(asked["criterion"])))
    found = asked | {"lines": len(along), "expected": [len(few), len(many)]}
    return {"search": found}, {cell: sweep.cells[cell] for cell in many}


def _lines(sweep: Sweep) -> "list[Line]":
    from expreg.core.engine.search import lines

    return lines({cell: axes for cell, (_, axes) in sweep.cells.items()}, sweep.plan["search"]["axis"])
