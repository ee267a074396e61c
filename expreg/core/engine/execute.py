"""Run the open cells of a plan: programs into lanes, rows into the store, progress to the person."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any

import jax

from expreg import __version__
from expreg.core.engine import devices, manifest
from expreg.core.engine.checkpoints import Checkpoints
from expreg.core.engine.estimate import kind_of
from expreg.core.engine.failures import error_row
from expreg.core.engine.interrupt import graceful
from expreg.core.engine.lanes import Engine, compilers
from expreg.core.engine.pace import Load, Pace, load
from expreg.core.engine.progress import Reporter
from expreg.core.engine.search import Cells, Work
from expreg.core.store import live, table
from expreg.core.store.columns import check_row, types_of
from expreg.core.store.store import CHECKPOINTS, Store
from expreg.errors import Interrupted
from expreg.output import complain, counted
from expreg.types import FAILED, Experiment, Row, Settings

if TYPE_CHECKING:
    import pandas as pd

COMMIT_SECONDS = (1.0, 10.0)
"""Finished cells wait at least and at most this long until they are on disk together; at first the shorter."""
COMMIT_SHARE = 0.01
"""Share of the time so far between two commits: what a kill can cost, and a run of hours leaves few files."""
SHOW_SECONDS = 2.0
"""Time between two estimates of the time left while no cell is committed."""


def execute(
    store: Store,
    experiment: Experiment,
    work: Work,
    execution: Any,
    *,
    asked: Callable[[], AbstractContextManager[Callable[[], bool]]] = graceful,
    progress: bool,
) -> Generator[list[Row], None, None]:
    """Run the cells that the source wants and that are not finished yet; yield their rows once they are committed.

    Whoever closes the iterator interrupts the run. The source is asked again after each round, until it wants no cell
    that this execution has not tried. `execution` is that of the config; `asked()` is the context in which a function
    says whether to stop. Raises Interrupted when it did, StorageError when the disk fails; what was finished by then
    is stored.
    """
    store.remove(live.NAME)  # of an execution that was killed
    tried: set[str] = set()
    cells = work.cells

    def stored() -> "pd.DataFrame":
        only = {*store.finished, *store.failed} if work.plan else None
        found = table.read(store.directory, only, curves=False)[0]
        return found if work.plan else found[~found["status"].isin(FAILED) | found["cell"].isin(tried)]

    def wanted() -> dict[str, Settings]:
        found = work.source(stored)
        if work.plan:
            store.extend(work.plan())
        return {cell: cells[cell][0] for cell in found if cell not in store.finished and cell not in tried}

    waiting = wanted()
    done = sum(cell in store.finished for cell in cells)
    if not waiting:
        store.event("finished", cells=0)
        if progress:
            complain(f"{counted(done, 'cell')}, all finished before")
        return
    whole = work.expected is None  # a grid, which one round runs
    record = manifest.begun(store.directory, len(waiting), experiment.remembered.get("source"))
    store.write(manifest.NAME, manifest.text(record))
    store.event("start", cells=len(cells), open=len(waiting))
    began, rounds = time.monotonic(), 0
    with asked() as stop:
        engine = _engine(experiment, execution, stop)
        engine.expected = _expected(experiment, work.expected or {})
        engine.checkpoints = Checkpoints(store.directory / CHECKPOINTS, execution.checkpoint_seconds or float("inf"))

        def end(how: str) -> None:
            store.remove(live.NAME)
            facts = {"seconds": round(time.monotonic() - began, 3), "compilations": _compilations(engine)}
            store.write(manifest.NAME, manifest.text(manifest.ended(record, how, cells=len(tried), **facts)))
            store.event(how, cells=len(tried), seconds=facts["seconds"])

        try:
            while waiting and not stop():
                rounds += 1
                label = "" if whole else f"round {rounds}: "
                with _reporter(engine, waiting, done if whole else 0, label, progress) as reporter:
                    for rows in _collect(engine, waiting, store, _completed(experiment, cells), reporter):
                        tried.update(row["cell"] for row in rows)
                        yield rows
                waiting = {cell: waiting[cell] for cell in waiting if cell not in tried} or wanted()
        except (GeneratorExit, KeyboardInterrupt):
            end("interrupted")
            raise
        ending = "interrupted" if waiting or stop() else "finished"  # finished: every cell that was wanted has a row
    end(ending)
    done = sum(cell in store.finished for cell in cells)
    of = f"{len(cells)} cells" if whole else f"at most {work.most} cells"
    if ending == "interrupted":
        raise Interrupted(f"interrupted, {done} of {of} done; resume with the same command")
    if progress and not whole:
        complain(f"search finished after {counted(rounds, 'round')}: {done} of {of} were needed")


def _expected(experiment: Experiment, cells: Cells) -> Counter[Any]:
    """Return how many cells of each program there are, so that its lanes are as many in every round."""
    found: Counter[Any] = Counter()
    for settings, _ in cells.values():
        with suppress(Exception):  # reported in its row
            found[experiment.signature(settings)] += 1
    return found


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


def _reporter(engine: Engine, waiting: Mapping[str, Settings], done: int, label: str, progress: bool) -> Reporter:
    loads, programs = _work(engine.experiment, waiting)
    programs -= {signature for signature, *_ in engine.compilations}
    size = devices.mesh(engine.devices).size
    pace = Pace(loads, programs=len(programs), devices=size, compilers=compilers())
    return Reporter(pace, len(waiting), done, label=label, silent=not progress)


def _work(experiment: Experiment, waiting: Mapping[str, Settings]) -> tuple[dict[str, Load], set[Hashable]]:
    """Return the load of each cell, and the programs of all."""
    loads = dict.fromkeys(waiting, Load())
    known: dict[Hashable, Load] = {}
    programs: set[Hashable] = set()
    for cell, settings in waiting.items():
        key = kind_of(settings)
        with suppress(Exception):  # reported in its row
            if key not in known:
                programs.add(experiment.signature(settings))
                known[key] = load(experiment.cost(settings))
            loads[cell] = known[key]
    return loads, programs


def _collect(
    engine: Engine,
    waiting: Mapping[str, Settings],
    store: Store,
    completed: Callable[[Row], Row],
    reporter: Reporter,
) -> Iterator[list[Row]]:
    """Commit rows in time, and yield them; what is finished is stored however the engine ends, then shown."""
    pending: list[Row] = []
    before, earlier = len(engine.compilations), engine.spent
    began = last = shown = time.monotonic()

    def commit() -> list[Row]:
        rows = pending.copy()
        pending.clear()  # first: what cannot be stored is not tried again
        rows = _stored(store, rows, completed)
        show(rows)
        return rows

    def show(rows: Collection[Row]) -> None:
        compiled = [seconds for _, _, seconds in engine.compilations[before:]]
        reporter.add(rows, engine.spent.since(earlier), compiled, engine.occupied)
        store.write(live.NAME, live.text(reporter.progress()))

    store.write(live.NAME, live.text(reporter.progress()))
    try:
        for rows in engine.run(waiting.items()):
            pending.extend(map(completed, rows))
            now = time.monotonic()
            if now - last >= min(max(COMMIT_SHARE * (now - began), COMMIT_SECONDS[0]), COMMIT_SECONDS[1]):
                yield commit()
                last = shown = now
            elif now - shown >= SHOW_SECONDS:
                show(())
                shown = now
    finally:
        rest = commit()
    yield rest


def _stored(store: Store, rows: list[Row], completed: Callable[[Row], Row]) -> list[Row]:
    """Commit rows and return them; a value that no file can hold, such as 10^30 as an integer, is its cell's error."""
    try:
        store.commit(rows)
    except (TypeError, ValueError, OverflowError, NotImplementedError) as error:  # what Arrow raises of values
        if len(rows) > 1:
            return [row for one in rows for row in _stored(store, [one], completed)]
        rows = [completed(error_row(rows[0]["cell"], error))]
        store.commit(rows)
    return rows


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
        except Exception as error:
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
