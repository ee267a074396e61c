"""Run the open cells of a plan: programs into lanes, rows into the store, progress to the person."""

import time
from collections.abc import Callable, Collection, Generator, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any

from expreg.core.config.parts import kind_of
from expreg.core.engine import manifest
from expreg.core.engine.backend import CIRCUMSTANCES, Backend, Job, Runner, local, with_axes
from expreg.core.engine.failures import error_row
from expreg.core.engine.interrupt import graceful
from expreg.core.engine.lanes import compilers
from expreg.core.engine.pace import Load, Pace, load
from expreg.core.engine.progress import Reporter
from expreg.core.engine.search import Cells, Work
from expreg.core.store import live, table
from expreg.core.store.part import Parts
from expreg.core.store.store import Store
from expreg.errors import InputError, Interrupted
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
    backend: Backend = local,
    asked: Callable[[], AbstractContextManager[Callable[[], bool]]] = graceful,
    progress: bool,
) -> Generator[list[Row], None, None]:
    """Run the cells that the source wants and that are not finished yet; yield their rows once they are committed.

    Whoever closes the iterator interrupts the run. The source is asked again after each round, until it wants no cell
    that this execution has not tried. `execution` is that of the config, `backend` runs the cells; `asked()` is the
    context in which a function
    says whether to stop. Raises Interrupted when it did, StorageError when the disk fails; what was finished by then
    is stored.
    """
    say: Callable[[str], None] = complain if progress else lambda _: None
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
        say(f"{counted(done, 'cell')}, all finished before")
        return
    whole = work.expected is None  # a grid, which one round runs
    began, rounds = time.monotonic(), 0
    with asked() as stop, backend(Job(experiment, execution, store, stop, work.expected or {}, say)) as runner:
        record = manifest.begun(store.directory, len(waiting), experiment.remembered.get("source"))
        store.write(manifest.NAME, manifest.text(record))
        store.event("start", cells=len(cells), open=len(waiting))

        def end(how: str) -> None:
            store.remove(live.NAME)
            facts = {"seconds": round(time.monotonic() - began, 3), "compilations": _compilations(runner)}
            store.write(manifest.NAME, manifest.text(manifest.ended(record, how, cells=len(tried), **facts)))
            store.event(how, cells=len(tried), seconds=facts["seconds"])

        try:
            while waiting and not stop():
                rounds += 1
                label = "" if whole else f"round {rounds}: "
                with _reporter(runner, experiment, waiting, done if whole else 0, label, progress) as reporter:
                    for rows in _collect(runner, {cell: cells[cell] for cell in waiting}, store, reporter):
                        tried.update(row["cell"] for row in rows)
                        yield rows
                waiting = {cell: waiting[cell] for cell in waiting if cell not in tried} or wanted()
        except (GeneratorExit, KeyboardInterrupt, Interrupted, InputError):
            end("interrupted")
            raise
        ending = "interrupted" if waiting or stop() else "finished"  # finished: every cell that was wanted has a row
    end(ending)
    done = sum(cell in store.finished for cell in cells)
    of = f"{len(cells)} cells" if whole else f"at most {work.most} cells"
    if ending == "interrupted":
        raise Interrupted(f"interrupted, {done} of {of} done; resume with the same command")
    if not whole:
        say(f"search finished after {counted(rounds, 'round')}: {done} of {of} were needed")


def _reporter(
    runner: Runner, experiment: Experiment, waiting: Mapping[str, Settings], done: int, label: str, progress: bool
) -> Reporter:
    loads, programs = workload(experiment, waiting)
    programs -= {signature for signature, *_ in runner.compilations}
    pace = Pace(loads, programs=0 if runner.stores else len(programs), devices=runner.devices, compilers=compilers())
    return Reporter(pace, len(waiting), done, label=label, silent=not progress)


def workload(experiment: Experiment, waiting: Mapping[str, Settings]) -> tuple[dict[str, Load], set[Hashable]]:
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


def _collect(runner: Runner, waiting: Cells, store: Store, reporter: Reporter) -> Iterator[list[Row]]:
    """Commit rows in time, and yield them; what is finished is stored however the backend ends, then shown."""
    pending: list[Row] = []
    before, earlier = len(runner.compilations), runner.spent
    began = last = shown = time.monotonic()

    def commit() -> list[Row]:
        rows = pending.copy()
        pending.clear()  # first: what cannot be stored is not tried again
        rows = rows if runner.stores else commit_rows(store, rows, waiting)
        show(rows)
        return rows

    def show(rows: Collection[Row]) -> None:
        compiled = [seconds for _, _, seconds in runner.compilations[before:]]
        reporter.add(rows, runner.spent.since(earlier), compiled, runner.occupied, runner.devices)
        store.write(live.NAME, live.text(reporter.progress()))

    store.write(live.NAME, live.text(reporter.progress()))
    try:
        for rows in runner.run(waiting):
            pending.extend(rows)
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


def commit_rows(store: Store | Parts, rows: list[Row], cells: Cells) -> list[Row]:
    """Commit rows and return them; a value that no file can hold, such as 10^30 as an integer, is its cell's error."""
    try:
        store.commit(rows)
    except (TypeError, ValueError, OverflowError, NotImplementedError) as error:  # what Arrow raises of values
        if len(rows) > 1:
            return [row for one in rows for row in commit_rows(store, [one], cells)]
        kept = {name: rows[0][name] for name in CIRCUMSTANCES}
        rows = [with_axes({**error_row(rows[0]["cell"], error), **kept}, *cells[rows[0]["cell"]])]
        store.commit(rows)
    return rows


def _compilations(runner: Runner) -> list[dict[str, Any]]:
    return [
        {"program": str(signature), "lanes": lanes, "seconds": round(seconds, 3)}
        for signature, lanes, seconds in runner.compilations
    ]
