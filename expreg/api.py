"""The Python interface: run a config, load what a run left, look at it."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expreg import __version__
from expreg.config import load as loading
from expreg.config import plan as planning
from expreg.errors import InputError, Interrupted, Problem, StorageError
from expreg.types import FAILED, Row, Settings

if TYPE_CHECKING:
    import pandas as pd

Overrides = Sequence[str] | Mapping[str, Any]
Cells = Mapping[str, tuple[Settings, Mapping[str, Any]]]
"""Settings and axis values of each cell, by id."""
EXPERIMENTS = ("threshold", "convergence")
COMMIT_SECONDS = 1.0
"""Finished cells wait this long at most before they are on disk."""


@dataclass(frozen=True)
class Run:
    """What a run left in its directory; everything is read when it is first asked for."""

    directory: Path

    @cached_property
    def cells(self) -> "pd.DataFrame":
        """One row per finished cell of the plan (contract 2.4)."""
        return self._tables[0]

    @cached_property
    def curves(self) -> "pd.DataFrame":
        """Long table: cell, step, residual, linearised."""
        return self._tables[1]

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Thresholds, exponents, intervals and verdicts, computed from the rows."""
        from expreg.analysis import summarise

        config, cells = self._config, self.cells
        return summarise(
            cells,
            self.curves,
            name=config.name,
            experiment=config.experiment,
            axes=planning.plan(config, data_shape=_data_shape)["axes"],
            delta=config.analysis.delta,
            confidence=config.analysis.confidence,
            resamples=config.analysis.resamples,
        )

    def inputs(self, cell: str) -> dict[str, Any]:
        """Return the very arrays that a cell started from: X (n, d), y (n,), W (d, m), a (m,).

        Raises InputError if the plan has no such cell.
        """
        from expreg.experiment import EXPERIMENTS as KINDS

        for settings, _ in planning.cells(self._config, data_shape=_data_shape):
            if planning.cell_id(settings) == cell:
                return dict(KINDS[self._config.experiment].inputs(settings))
        raise InputError(Problem("E-CELL", f"no cell {cell!r} in {self.directory}", key="cell"))

    @cached_property
    def _config(self) -> Any:
        # the copy in the run directory names the user's data file by its full path
        return loading.load(self.directory / "config.yaml", experiments=EXPERIMENTS, roots=[Path("/")])

    @cached_property
    def _tables(self) -> tuple["pd.DataFrame", "pd.DataFrame"]:
        from expreg.sweep import table

        wanted = {planning.cell_id(settings) for settings, _ in planning.cells(self._config, data_shape=_data_shape)}
        cells, curves, _ = table.read(self.directory, wanted)
        return cells, curves


def _data_shape(path: Any, options: Any) -> tuple[int, int]:
    from expreg import data

    return data.data_shape(path, options)


def load_config(source: str | os.PathLike[str] | Mapping[str, Any], overrides: Overrides = ()) -> Any:
    """Return the checked config of a file or a dict with overrides; raise InputError with all problems."""
    return loading.load(source, overrides, experiments=EXPERIMENTS)


def load(directory: str | os.PathLike[str]) -> Run:
    """Return the run in a directory; raise InputError if there is none."""
    path = Path(directory)
    if not (path / "config.yaml").is_file():
        raise InputError(Problem("E-RUN", f"{str(path)!r} holds no run: there is no config.yaml in it"))
    return Run(path)


def run(
    config: str | os.PathLike[str] | Mapping[str, Any],
    overrides: Overrides = (),
    out: str | os.PathLike[str] | None = None,
    *,
    fresh: bool = False,
    progress: bool = False,
) -> Run:
    """Run a config, or what is left of it, and return its results.

    Args:
        config: path of a YAML file, or the same as a dict.
        overrides: texts like `training.tolerance=1e-4`, or a mapping from such paths to values.
        out: run directory, `runs/<name>` by default. An earlier run of the same plan there is resumed.
        fresh: set an earlier run aside and start again.
        progress: show it on standard error.

    Raises:
        InputError: the config is wrong; nothing was written. StorageError: the directory cannot be used.
        Interrupted: stopped by a signal; the same call resumes.

    """
    checked = load_config(config, overrides)
    plan, cells = _planned(checked)
    _check_data(cells)
    directory = Path(out) if out is not None else Path("runs") / checked.name
    from expreg.sweep.store import Store

    with Store.open(directory, plan, loading.config_text(checked), fresh=fresh) as store:
        _compute(store, checked, cells, progress)
        return report(directory)


def plan(
    config: str | os.PathLike[str] | Mapping[str, Any], overrides: Overrides = (), *, cells: bool = False
) -> dict[str, Any]:
    """Return what a config would run, without writing anything: counts, programs, memory, flops, time.

    The expected time comes from the speed of one small program on this machine. `cells` adds the list of cells.
    Raises InputError as `run` does.
    """
    from expreg.sweep import devices

    checked = load_config(config, overrides)
    planned, members = _planned(checked)
    _check_data(members)
    devices.configure()
    from expreg.experiment import EXPERIMENTS as KINDS
    from expreg.sweep.estimate import estimate

    told = {
        "name": checked.name,
        "experiment": checked.experiment,
        "hash": planned["hash"],
        "cells": planned["cells"],
        "axes": {axis: _distinct(axis, members) for axis in planned["axes"]},
        **estimate(KINDS[checked.experiment], [settings for settings, _ in members.values()]),
    }
    if cells:
        told["list"] = [{"cell": cell, "axes": dict(axes)} for cell, (_, axes) in members.items()]
    return told


def _distinct(axis: str, members: Cells) -> list[Any]:
    return list(dict.fromkeys(axes[axis] for _, axes in members.values() if axis in axes))


def status(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what is done in a run directory: planned, done, by status, damaged, locked."""
    from expreg.sweep import table

    found = load(directory)
    _, members = _planned(found._config)
    return table.status(found.directory, set(members))


def doctor() -> dict[str, Any]:
    """Return devices, versions, precision and cache, and the speed of one small program."""
    from expreg.sweep import devices

    devices.configure()
    from expreg.experiment import EXPERIMENTS as KINDS
    from expreg.sweep.estimate import measured_speed

    speed = measured_speed(KINDS["threshold"])
    return {**manifest(), "cores": devices.cpu_count(), "flops_per_second": f"{speed:.3g}"}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a config, for editors."""
    return loading.json_schema(EXPERIMENTS)


def _planned(config: Any) -> tuple[dict[str, Any], Cells]:
    plan = planning.plan(config, data_shape=_data_shape)
    found = planning.cells(config, data_shape=_data_shape)
    return plan, {planning.cell_id(settings): (settings, axes) for settings, axes in found}


def _check_data(cells: Cells) -> None:
    """Validate the user's own data once per file and activation, before anything is written."""
    from expreg import data

    problems: list[Problem] = []
    asked = {
        (settings["data"]["sha256"], settings["network"]["activation"]): settings["data"]
        for settings, _ in cells.values()
        if settings["data"]["kind"] == "file"
    }
    for (_, activation), options in asked.items():
        problems += data.check_file(options, activation=activation)
    if problems:
        raise InputError(list(dict.fromkeys(problems)))


def _compute(store: Any, config: Any, cells: Cells, progress: bool) -> None:
    """Run the open cells of a plan and commit their rows as they come."""
    from expreg.sweep import devices

    devices.configure()
    from expreg.experiment import EXPERIMENTS as KINDS
    from expreg.sweep.engine import Engine
    from expreg.sweep.progress import Reporter

    experiment = KINDS[config.experiment]
    waiting = {cell: settings for cell, (settings, _) in cells.items() if cell not in store.finished}
    store.event("start", cells=len(cells), open=len(waiting))
    costs = {cell: experiment.cost(settings).flops for cell, settings in waiting.items()}
    began = time.monotonic()
    with interruptible() as stop:
        engine = Engine(
            experiment,
            lanes=config.execution.lanes if config.execution.lanes != "auto" else None,
            devices=config.execution.devices if config.execution.devices != "auto" else None,
            slice_seconds=config.execution.slice_seconds,
            stop=stop,
        )
        reporter = Reporter(costs, len(cells) - len(waiting)) if progress and waiting else None
        with reporter or nullcontext():
            for rows in _committed(engine.run(waiting.items()), store, cells, devices.describe()["device_kind"]):
                if reporter:
                    reporter.add((row["cell"], row["status"]) for row in rows)
        interrupted = stop()
    facts = {"seconds": round(time.monotonic() - began, 3), "cells": len(waiting)}
    compilations = [
        {"program": str(signature), "lanes": lanes, "seconds": round(seconds, 3)}
        for signature, lanes, seconds in engine.compilations
    ]
    store.write("manifest.json", json.dumps(manifest() | facts | {"compilations": compilations}, indent=2))
    store.event("interrupted" if interrupted else "end", **facts)
    if interrupted:
        raise Interrupted(f"interrupted; resume with the same command ({len(store.finished)}/{len(cells)} cells done)")


def _committed(batches: Iterator[list[Row]], store: Any, cells: Cells, device: str) -> Iterator[list[Row]]:
    """Complete the rows, commit them about once a second, and pass them on once they are on disk."""
    pending: list[Row] = []
    last = time.monotonic()
    try:
        for rows in batches:
            pending += [_complete(row, cells[row["cell"]], device) for row in rows]
            if time.monotonic() - last >= COMMIT_SECONDS:
                store.commit(pending)
                yield pending
                pending, last = [], time.monotonic()
    finally:
        if pending:
            store.commit(pending)
    if pending:
        yield pending


def _complete(row: Row, cell: tuple[Settings, Mapping[str, Any]], device: str) -> Row:
    import jax

    settings, axes = cell
    known: Row = {
        "status_detail": "",
        "steps": None,
        **row,
        "experiment": settings["experiment"],
        "seed": settings["seed"],
        "replicate": settings["replicate"],
        "precision": settings["precision"],
        "device": device,
        "expreg_version": __version__,
        "jax_version": jax.__version__,
    }
    return known | {name: value for name, value in axes.items() if name not in known}


def report(directory: str | os.PathLike[str]) -> Run:
    """Make summary, figures and report.html of a run again from its rows; return the run."""
    from expreg.report import write
    from expreg.sweep.disk import replace

    found = load(directory)
    path = Path(directory)
    replace(path / "summary.json", json.dumps(found.summary, indent=1, allow_nan=False).encode())
    facts = path / "manifest.json"
    known = json.loads(facts.read_text()) if facts.is_file() else {}
    write(path, found.cells, found.curves, found.summary, known, (path / "config.yaml").read_text())
    return found


def failed(found: Run) -> int:
    """Return how many cells of a run failed: statuses that are not measurements."""
    return int(found.cells["status"].isin(FAILED).sum()) if len(found.cells) else 0


def manifest() -> dict[str, Any]:
    """Return what this run was made with: versions, devices, flags, code, command."""
    from expreg.sweep.devices import describe

    return {
        "expreg": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **describe(),
        "commit": _commit(),
        "command": " ".join(sys.argv),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    """Return the commit of expreg's own checkout, with a mark if it was changed; None outside one."""
    try:
        told = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout.strip() or None


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a request to stop between slices; the second ends at once."""
    asked: list[int] = []

    def ask(number: int, _: Any) -> None:
        if asked:
            os._exit(75)
        asked.append(number)
        print("stopping after this slice; once more to stop at once", file=sys.stderr)

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are the caller's business
        before = {}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


__all__ = ["Run", "StorageError", "load", "load_config", "manifest", "report", "run"]
