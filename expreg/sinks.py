"""Copies of a run for experiment trackers: the median curves of its settings, its counts, and what more they take."""

import io
import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from expreg.core.stats.describe import shown
from expreg.core.stats.settings import short
from expreg.core.store.disk import free_name
from expreg.errors import InputError, Problem, optional
from expreg.output import complain
from expreg.results import Run, load

MOST = 100
"""Settings whose curves are copied: the first ones, in the order of their values."""


class Curve(NamedTuple):
    """The median over the runs of a setting that reach a step, at the steps that are kept."""

    setting: str
    steps: list[int]
    values: dict[str, list[float]]


class Copy(NamedTuple):
    """What a tracker gets of a run."""

    name: str
    settings: dict[str, Any]
    numbers: dict[str, float]
    curves: list[Curve]
    cells: pd.DataFrame
    files: list[Path]


def push(directory: str | os.PathLike[str], sink: str) -> str:
    """Copy a run to a tracker, and return where it is.

    Args:
        directory: of the run.
        sink: `tensorboard:DIR`, `wandb`, `trackio` or `mlflow`; the last three with `:PROJECT`, by default expreg, and
            as their own environment variables say (`WANDB_MODE=offline`, `MLFLOW_TRACKING_URI`).

    Raises:
        InputError: there is no run, or no such tracker, or it is not installed.

    """
    name, _, place = sink.partition(":")
    if name not in SINKS:
        raise InputError(
            Problem("E-ENUM", f"got {sink!r}, expected tensorboard:DIR, wandb, trackio or mlflow", key="TO")
        )
    needs, write = SINKS[name]
    tracker = optional(needs, name)
    copy = copied(load(directory))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # trackers have much to say about themselves
        return write(tracker, copy, place)


def copied(run: Run) -> Copy:
    """Return what a tracker gets of a run: curves of the best settings where these are known, else of the first."""
    best = run.summary.get("best") or {}
    axes = [axis for axis in (best.get("axes") if best.get("trials") else None) or run.swept if axis in run.cells]
    curves = list(_curves(run, axes, best.get("rows", []) if best.get("trials") else []))
    if (count := run.cells.groupby(axes, dropna=False).ngroups if axes else 1) > len(curves):
        complain(f"curves of {len(curves)} of {count} settings are copied")
    numbers = {f"cells/{status}": float(count) for status, count in Counter(run.cells["status"]).items()}
    files = [path for name in ("report.html", "summary.json", "config.yaml") if (path := run.directory / name).exists()]
    swept = {axis.rpartition(".")[2] for axis in run.swept}
    shared = {name: value for name, value in run.settings.items() if name.rpartition(".")[2] not in swept}
    return Copy(run.directory.resolve().name, shared, numbers, curves, run.cells, files)


def _curves(run: Run, axes: list[str], best: list[dict[str, Any]]) -> Iterator[Curve]:
    kinds = [str(name) for name in run.curves if name not in ("cell", "step") and run.curves[name].notna().any()]
    names = short(axes)
    rows = run.curves.merge(run.cells[["cell", *axes]], on="cell")
    if best:
        rows = rows.merge(pd.DataFrame(best)[axes], on=axes)
    grouped = rows.groupby(axes, sort=True, dropna=False) if axes else [((), rows)]
    for values, own in islice(grouped, MOST):
        setting = ", ".join(f"{names[axis]}={shown(value)}" for axis, value in zip(axes, values, strict=True)) or "all"
        middle = own.groupby("step")[kinds].median().astype(float)
        yield Curve(setting, [int(step) for step in middle.index], {kind: middle[kind].tolist() for kind in kinds})


def _points(curve: Curve) -> Iterator[tuple[str, int, float]]:
    for kind, values in curve.values.items():
        yield from ((kind, step, value) for step, value in zip(curve.steps, values, strict=True) if value == value)


def _tensorboard(tracker: Any, copy: Copy, place: str) -> str:
    """Write event files: each setting is a run of TensorBoard in the folder of the sweep."""
    if not place:
        raise InputError(Problem("E-USAGE", "expected tensorboard:DIR", key="TO"))
    folder = Path(place) / copy.name
    folder = free_name(folder) if folder.exists() else folder  # a second writer would double every point
    for curve in copy.curves:
        writer = tracker.Writer(str(folder / curve.setting.replace("/", "_")[:200]))
        for kind, step, value in _points(curve):
            writer.add_scalar(kind, value, step)
        writer.close()
    return f"{folder}; look at it with: tensorboard --logdir {place}"


def _wandb(tracker: Any, copy: Copy, place: str) -> str:
    """Log to Weights & Biases: one run, with the rows as a table and an artifact."""
    logging.getLogger("wandb").setLevel(logging.ERROR)
    options = {"project": place or "expreg", "name": copy.name, "config": copy.settings}
    settings = tracker.Settings(silent=True, console="off")
    with tracker.init(**options, settings=settings) as run:
        run.define_metric("*", step_metric="step")
        for step, values in _by_step(copy):
            run.log({"step": step, **values})
        run.summary.update(copy.numbers)
        run.log({"cells": tracker.Table(dataframe=copy.cells.astype(object).where(copy.cells.notna(), None))})
        kept = tracker.Artifact(f"run-{run.id}", type="expreg-run")
        for path in copy.files:
            kept.add_file(str(path))
        run.log_artifact(kept)
        return f"to send it: wandb sync {Path(run.dir).parent}" if run.offline else f"{run.url}"


def _trackio(tracker: Any, copy: Copy, place: str) -> str:
    """Log to trackio: one run, with the rows as a table."""
    project = place or "expreg"
    with redirect_stdout(io.StringIO()):
        tracker.init(project=project, name=copy.name, config=copy.settings, auto_log_gpu=False, auto_log_cpu=False)
        for step, values in _by_step(copy):
            tracker.log(values, step=step)
        tracker.log({**copy.numbers, "rows": tracker.Table(dataframe=copy.cells)})
        tracker.finish()
    return f"trackio show --project {project}"


def _mlflow(tracker: Any, copy: Copy, place: str) -> str:
    """Log to MLflow: one run, with report, summary and config as artifacts."""
    name = partial(re.sub, r"[^\w\-./ ]", "_")  # what MLflow takes
    tracker.set_experiment(place or "expreg")
    with tracker.start_run(run_name=copy.name) as run:
        tracker.log_params({name(key): value for key, value in copy.settings.items()})
        tracker.log_metrics({name(key): value for key, value in copy.numbers.items()})
        for curve in copy.curves:
            for kind, step, value in _points(curve):
                tracker.log_metric(name(f"{kind}/{curve.setting}"), value, step=step)
        for path in copy.files:
            tracker.log_artifact(str(path))
        return str(run.info.run_id)


def _by_step(copy: Copy) -> list[tuple[int, dict[str, float]]]:
    """Return the values of all settings by step, in order: trackers take steps that increase."""
    found: dict[int, dict[str, float]] = {}
    for curve in copy.curves:
        for kind, step, value in _points(curve):
            found.setdefault(step, {})[f"{kind}/{curve.setting}"] = value
    return sorted(found.items())


SINKS: Mapping[str, tuple[str, Callable[[Any, Copy, str], str]]] = {
    "tensorboard": ("tensorboard.summary", _tensorboard),
    "wandb": ("wandb", _wandb),
    "trackio": ("trackio", _trackio),
    "mlflow": ("mlflow", _mlflow),
}
