"""Check all that a run needs, before anything is written: cells, data, devices, memory, an earlier run."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from expreg import registry, searching
from expreg.core import config as configs
from expreg.core.config.fields import Fault
from expreg.core.store import table
from expreg.core.store.store import PLAN
from expreg.errors import InputError, Problem
from expreg.kinds import EXPERIMENTS
from expreg.results import start
from expreg.searching import Sweep
from expreg.types import Experiment, Settings


def run(config: Any, *, planned: bool = False) -> Sweep:
    """Return the sweep of a config, checked; raise InputError, also where too few replicates have its own `delta`."""
    found = sweep(config, planned=planned)
    if "delta" in (config.source.given.get("analysis") or {}):
        settings = [settings for settings, _ in found.cells.values()]
        wrong = found.experiment.too_few(settings, config.analysis.model_dump())
        _refuse([configs.problem(config.source, Fault(("analysis", "delta"), "E-RANGE", wrong))] if wrong else [])
    return found


def sweep(config: Any, *, planned: bool = False) -> Sweep:
    """Return the sweep of a config, checked; raise InputError with all that is wrong.

    A plan may need more devices than there are.
    """
    cells = searching.cells(config)
    plan = configs.plan(config, len(cells))
    spread, here = config.execution.shard != "cells", config.execution.engine == "local"
    # elsewhere the devices are others, and those of this machine stay free
    experiment = started(config.experiment, config.execution.device if here else "cpu", several=spread and here)
    _refuse(_unavailable(config) if here else [])
    settings = [settings for settings, _ in cells.values()]
    experiment = _spread(config, experiment, settings, here) if spread else experiment
    _refuse(experiment.check(settings))
    from expreg.core.engine.estimate import too_large

    large = too_large(experiment, settings, *where(config)) if here else []
    _refuse([line for line, helps in large if not (planned and helps)])
    plan |= {"modules": modules} if (modules := registry.needed()) else {}
    plan |= {"remembered": dict(experiment.remembered)} if experiment.remembered else {}
    plan |= searching.described(config, experiment, list(cells))
    return Sweep(config, plan, cells, experiment)


def started(name: str, device: str = "auto", *, several: bool = False) -> Experiment:
    """Return the record of an experiment, once JAX has started in this or `several` processes; raise InputError."""
    start(device, several=several)
    return EXPERIMENTS[name]


def where(config: Any) -> tuple[int | None, str]:
    """Return how many devices of this machine a config uses, None for all, and what they share."""
    return _devices(config), config.execution.shard


def warn_of_change(directory: Path, plan: Mapping[str, Any]) -> None:
    """Warn where an earlier run in the directory had other functions: its cells do not run again.

    Raises InputError where its rows lack a metric.
    """
    if "remembered" in plan and (directory / PLAN).exists():
        before = (table.plan_of(directory) or {}).get("remembered") or plan["remembered"]
        lost = [name for name in plan["remembered"]["metrics"] if name not in before["metrics"]]
        if lost:
            message = f"its rows have no {', '.join(lost)}: the functions have changed; give another out, or --fresh"
            raise InputError(Problem("E-TRAINING", message, file=str(directory)))
        (version, _, own), (now, _, ours) = (one["source"].partition(":") for one in (before, plan["remembered"]))
        if version == now and own != ours:  # another JAX writes the same program in another way
            name = plan["remembered"]["name"]
            warnings.warn(
                f"the functions of {name} have changed since the run in {directory}; finished cells stay as they are,"
                " fresh=True (--fresh) runs all again",
                stacklevel=5,
            )


def _unavailable(config: Any) -> list[Problem]:
    """Return what a config asks of devices that are not there."""
    from expreg.core.engine import devices, trouble

    if wrong := trouble.refused(config.execution.device):
        return [configs.problem(config.source, Fault(("execution", "device"), "E-DEVICE", wrong))]
    there, wanted = devices.workers(), _devices(config) or 1
    if wanted <= len(there):
        return []
    message = f"got {wanted}, but JAX sees {len(there)} x {there[0].device_kind} here; expected at most {len(there)}"
    return [configs.problem(config.source, Fault(("execution", "devices"), "E-DEVICE", message))]


def _spread(config: Any, experiment: Experiment, cells: list[Settings], here: bool) -> Experiment:
    """Return the record by which each cell is spread over all devices; raise InputError where that is impossible."""
    from expreg.core.engine import devices

    key, wrong, shard, instead = "shard", "", config.execution.shard, experiment.spread
    mesh = devices.mesh(*(where(config) if here else (1, shard)))
    if instead is None or instead.over != shard:
        able = [name for name, one in EXPERIMENTS.items() if one.spread and one.spread.over == shard]
        others = f" or {instead.over}" if instead else ""
        wrong = f"got {shard}, expected cells{others} for {experiment.name}; {shard} are for {' and '.join(able)}"
    elif whole := next(filter(None, map(instead.whole, cells)), ""):
        wrong = f"got {shard}, expected cells for {whole}"
    elif odd := [size for size in map(instead.parts, map(instead.signature, cells)) if size % mesh.size]:
        most = max(count for count in range(1, mesh.size) if not odd[0] % count)
        key, wrong = "devices", f"got {mesh.size}, expected a divisor of {odd[0]} parts of the {shard} such as {most}"
    if wrong or instead is None:
        raise InputError(configs.problem(config.source, Fault(("execution", key), "E-RANGE", wrong)))
    fields = ("signature", "build", "prepare", "cost")
    return replace(experiment, **{name: getattr(instead, name) for name in fields})


def _refuse(problems: list[Problem]) -> None:
    if problems:
        raise InputError(list(dict.fromkeys(problems)))


def _devices(config: Any) -> int | None:
    return None if config.execution.devices == "auto" else int(config.execution.devices)
