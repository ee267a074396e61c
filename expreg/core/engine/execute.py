"""Run the open cells of a plan: programs into lanes, rows into the store, progress to the person."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import jax

from expreg import __version__
from expreg.core.engine import devices, manifest
from expreg.core.engine.interrupt import graceful
from expreg.core.engine.lanes import Engine, error_row
from expreg.core.engine.progress import Reporter, counted, say
from expreg.core.store.columns import check_row, types_of
from expreg.core.store.store import Store
from expreg.errors import Interrupted
from expreg.types import Experiment, Row, Settings

Cells = Mapping[str, tuple[Settings, Mapping[str, Any]]]
"""Settings and axis values of each cell, by id."""
COMMIT_SECONDS = (1.0, 10.0)
"""Finished cells wait at least and at most this long until they are on disk together; at first the shorter."""
COMMIT_SHARE = 0.01
"""Share of the time so far between two commits: what a kill can cost, and a run of hours leaves few files."""


def execute(store: Store, experiment: Experiment, cells: Cells, execution: Any, *, progress: bool) -> None:
    """Run the cells that are not finished yet and commit their rows as they come.

    `execution` is that of the config. Raises Interrupted when a signal asked to stop, StorageError when the
    disk fails; what was finished by then is stored.
    """
    waiting = {cell: settings for cell, (settings, _) in cells.items() if cell not in store.finished}
    if not waiting:
        if progress:
            say(f"{counted(len(cells), 'cell')}, all finished before")
        return
    record = manifest.begun(store.directory, len(waiting))
    store.write(manifest.NAME, manifest.text(record))
    store.event("start", cells=len(cells), open=len(waiting))
    began = time.monotonic()
    with graceful() as stop:
        engine = _engine(experiment, execution, stop)
        with _reporter(experiment, waiting, len(cells) - len(waiting), execution, silent=not progress) as reporter:
            _collect(engine, waiting, store, _completed(experiment, cells), reporter)
        ending = "interrupted" if stop() else "finished"
    facts = {"seconds": round(time.monotonic() - began, 3), "compilations": _compilations(engine)}
    store.write(manifest.NAME, manifest.text(manifest.ended(record, ending, **facts)))
    store.event(ending, cells=len(waiting), seconds=facts["seconds"])
    if ending == "interrupted":
        done = sum(cell in store.finished for cell in cells)
        raise Interrupted(f"interrupted, {done} of {len(cells)} cells done; resume with the same command")


def _engine(experiment: Experiment, execution: Any, stop: Callable[[], bool]) -> Engine:
    count = None if execution.devices == "auto" else execution.devices
    size = devices.mesh(count).size
    # every device has the same number of lanes
    lanes = None if execution.lanes == "auto" else max(execution.lanes // size, 1) * size
    return Engine(
        experiment,
        lanes=lanes,
        devices=count,
        slice_seconds=execution.slice_seconds,
        cell_timeout=execution.cell_timeout,
        stop=stop,
    )


def _reporter(
    experiment: Experiment, waiting: Mapping[str, Settings], done: int, execution: Any, *, silent: bool
) -> Reporter:
    costs = dict.fromkeys(waiting, 0.0)
    programs = set()
    for cell, settings in waiting.items() if not silent else ():
        with suppress(Exception):  # its row will tell
            costs[cell] = experiment.cost(settings).flops
            programs.add(experiment.signature(settings))
    return Reporter(
        costs,
        done,
        programs=len(programs),
        devices=devices.mesh(None if execution.devices == "auto" else execution.devices).size,
        silent=silent,
    )


def _collect(
    engine: Engine,
    waiting: Mapping[str, Settings],
    store: Store,
    completed: Callable[[Row], Row],
    reporter: Reporter,
) -> None:
    """Commit rows in time; what is finished is stored however the engine ends, and shown once it is stored."""
    pending: list[Row] = []
    began = last = time.monotonic()

    def commit() -> None:
        rows = pending.copy()
        pending.clear()  # first: what cannot be stored is not tried again
        store.commit(rows)
        reporter.add(rows, [seconds for _, _, seconds in engine.compilations])

    try:
        for rows in engine.run(waiting.items()):
            pending.extend(map(completed, rows))
            now = time.monotonic()
            if now - last >= min(max(COMMIT_SHARE * (now - began), COMMIT_SECONDS[0]), COMMIT_SECONDS[1]):
                commit()
                last = now
    finally:
        commit()


def _completed(experiment: Experiment, cells: Cells) -> Callable[[Row], Row]:
    """Return the function that adds to a row what every experiment has, and the axes; a column is never replaced."""
    circumstances = {
        "device": devices.describe()["device_kind"],
        "expreg_version": __version__,
        "jax_version": jax.__version__,
    }
    types = types_of(experiment.columns())

    def complete(row: Row) -> Row:
        settings, axes = cells[row["cell"]]
        try:
            check_row(row, types)
        except (TypeError, ValueError) as error:
            row = error_row(row["cell"], error)
        own = {name: settings[name] for name in ("experiment", "seed", "replicate", "precision")}
        known: Row = {"status_detail": "", "steps": None, **row, **own, **circumstances}
        return {**axes, **known}

    return complete


def _compilations(engine: Engine) -> list[dict[str, Any]]:
    return [
        {"program": str(signature), "lanes": lanes, "seconds": round(seconds, 3)}
        for signature, lanes, seconds in engine.compilations
    ]
