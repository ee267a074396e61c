"""The Python interface: run a config, sweep your own training function, plan, certify."""

import math
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

from expreg import backends, checks, outputs, registry, searching
from expreg.backends import jobs
from expreg.core import config as configs
from expreg.core.store import table
from expreg.core.store.store import Store
from expreg.errors import InputError, Problem
from expreg.kinds import EXPERIMENTS, own
from expreg.kinds.own import Training
from expreg.output import complain, counted
from expreg.outputs import Plan, Status
from expreg.results import Overrides, Run, load, load_config, report
from expreg.types import FAILED, Row, cores

Reuse = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

__all__ = [
    "Run",
    "certificate_of_file",
    "certificates",
    "doctor",
    "json_schema",
    "load",
    "load_config",
    "plan",
    "report",
    "run",
    "status",
    "stream",
    "sweep",
]


def run(
    config: str | os.PathLike[str] | Mapping[str, Any],
    overrides: Overrides = (),
    out: str | os.PathLike[str] | None = None,
    *,
    fresh: bool = False,
    reuse: Reuse = (),
    time_limit: float | None = None,
    progress: bool = False,
    draw: bool = True,
) -> Run:
    """Run a config, or what is left of it, and return its results.

    Args:
        config: path of a YAML file, or the same as a dict.
        overrides: texts like `training.tolerance=1e-4`, or a mapping from such paths to values.
        out: run directory, `runs/<name>` by default. An earlier run of the same plan there is resumed.
        fresh: set an earlier run aside and start again.
        reuse: other run directories, as paths or patterns like `runs/*`; cells that have finished there are copied, and
            do not run again.
        time_limit: seconds after which the run stops as if by a signal.
        progress: show it on standard error.
        draw: make statistics, figures and the page at the end; `report` does so later.

    Raises:
        InputError: the config is wrong, or a pattern matches no run; nothing was written. StorageError: the directory
        cannot be used. Interrupted: stopped by a signal or the time limit; the same call resumes.

    """
    from expreg.core.engine.interrupt import graceful

    if time_limit is not None and not time_limit > 0:
        raise InputError(Problem("E-RANGE", f"got {time_limit!r}, expected seconds > 0", key="time_limit"))
    options: dict[str, Any] = {"fresh": fresh, "reuse": reuse, "progress": progress}
    options["asked"] = partial(graceful, time.monotonic() + (math.inf if time_limit is None else time_limit))
    with _opened(config, overrides, out, **options) as (directory, first, rows):
        for _ in rows:
            pass
        if not (draw and first):
            return Run(directory)
        if progress:
            complain("drawing the report")
        return report(directory)


def stream(
    config: str | os.PathLike[str] | Mapping[str, Any],
    overrides: Overrides = (),
    out: str | os.PathLike[str] | None = None,
    *,
    fresh: bool = False,
) -> Iterator[dict[str, Any]]:
    """Run a config as `run` does, and yield the row of each cell that finishes, a dict, once it is stored.

    Cells that finished in an earlier run are neither run again nor yielded; `load` returns them. Closing the iterator
    interrupts the run, which the next call resumes. No report is made. Raises as `run` does, at the first row.
    """
    with _opened(config, overrides, out, fresh=fresh, asked=_never, progress=False) as (*_, rows):
        for some in rows:
            yield from some


@contextmanager
def _never() -> Iterator[Callable[[], bool]]:
    """Leave signals to the caller."""
    yield lambda: False


@contextmanager
def _opened(
    config: Any, overrides: Overrides, out: Any, *, fresh: bool, asked: Any, progress: bool, reuse: Reuse = ()
) -> Iterator[tuple[Path, bool, Iterator[list[Row]]]]:
    """Open the directory of a run; the value is its path and an iterator that runs the cells and yields their rows.

    Between them whether this is the process that writes there: of several only the first does.
    """
    checked = load_config(config, overrides)
    sweep = checks.run(checked)
    directory = Path(out) if out is not None else Path("runs") / checked.name
    from expreg.core.engine import devices, processes
    from expreg.core.engine.execute import execute
    from expreg.core.engine.reuse import runs, take

    if reuse and sweep.space is not None:
        message = "expected a grid or a bisection: which settings optuna chooses is known when it runs"
        raise InputError(Problem("E-USAGE", message, key="--reuse"))
    sources = runs(reuse, directory)
    backend, mesh = backends.find(checked), devices.mesh(*checks.where(checked))
    work = searching.work(sweep)
    # only the first of several has stored the rows by which all of them choose cells
    shared = work._replace(source=lambda read: work.source(lambda: processes.of_first(read, mesh)))
    first = not (mesh.is_multi_process and processes.follows())
    progress &= first
    if fresh or checked.execution.engine != "slurm":
        jobs.refuse(directory)
    if not fresh:
        checks.warn_of_change(directory, sweep.plan)
    if progress:
        settings = [settings for settings, _ in sweep.cells.values()]
        for line in sweep.experiment.warnings(settings, checked.analysis.model_dump()):
            complain(f"warning: {line}")
    about = sweep.plan, configs.config_text(checked), fresh, sweep.experiment.columns()
    place = nullcontext(directory) if first else tempfile.TemporaryDirectory(prefix="expreg-")
    with processes.ending_together(mesh), place as own, Store.open(own, *about) as store:
        _warn_of_parts(store)
        try:
            taken = take(store, sweep.experiment, sweep.plan, sweep.cells, sources) if sources else None
            if progress and taken:
                complain(taken)
            store.finished.update(processes.of_first(lambda: store.finished, mesh))
            together = partial(processes.together, asked, mesh)
            options: dict[str, Any] = {"backend": backend, "asked": together, "progress": progress}
            with closing(execute(store, sweep.experiment, shared, checked.execution, **options)) as rows:
                yield directory, first, rows
        finally:
            _warn_of_parts(store)


def _warn_of_parts(store: Store) -> None:
    """Warn of damaged parts, and of cells with two results, that have been found since the last warning."""
    for line in store.damaged:
        warnings.warn(f"{store.directory}: {line}; moved to quarantine/, its cells run again", stacklevel=5)
    if store.conflicts:
        twice = f"{counted(len(store.conflicts), 'cell')} came twice with different numbers"
        kept = "the row that was published first counts, and events.jsonl has both"
        warnings.warn(f"{store.directory}: {twice}; {kept}", stacklevel=5)
    store.damaged.clear()
    store.conflicts.clear()


def sweep(
    training: Training,
    axes: Mapping[str, Any],
    out: str | os.PathLike[str] | None = None,
    *,
    search: Mapping[str, Any] | None = None,
    seed: int = 0,
    precision: Literal["f32", "f64"] = "f32",
    overrides: Overrides = (),
    fresh: bool = False,
    reuse: Reuse = (),
    time_limit: float | None = None,
    progress: bool | None = None,
    draw: bool = True,
) -> Run:
    """Train your own functions over a grid of their parameters, many runs side by side, and return the results.

    Args:
        training: your functions, as a `Training`.
        axes: a value or a list of values for each parameter, or whatever `sweep.product` of a config takes; `seed` is
            the number of replicates, each with its own key, or a list of seeds.
        out: run directory, `runs/<name of the training>` by default. An earlier run there is resumed: cells whose
            settings are in it do not run again.
        search: let optuna choose the settings, in batches: the keys of `sweep.search.optuna` of a config, such as
            `{"trials": 500, "batch": 64}`, and `prune`. Then `axes` are distributions, `{"log_uniform": [1e-4, 1]}`,
            or lists of values.
        seed: all randomness follows from it and the replicate.
        precision: `f64` gives JAX 64-bit default types inside the functions.
        overrides: values of other keys of the config, such as `{"training.steps": 100, "execution.lanes": 16}`.
        fresh: set an earlier run aside and start again.
        reuse: other runs of these functions, as in `run`.
        time_limit: seconds after which the run stops.
        progress: show it on standard error; by default if that is a terminal.
        draw: make statistics, figures and the page at the end.

    Raises:
        InputError: the training or an axis is wrong; nothing was written. StorageError and Interrupted as `run` does.

    """
    from expreg.core.engine import devices

    if lost := devices.idle_cores():
        warnings.warn(lost, stacklevel=2)
    product = {axis: value if isinstance(value, Iterable) else [value] for axis, value in axes.items()}
    product = {axis: [value] if isinstance(value, str) else value for axis, value in product.items()}
    if isinstance(axes.get("seed"), Integral):
        product |= {"replicate": {"count": int(axes["seed"])}}
        del product["seed"]
    registry.enter(own.experiment(training, own.examples(product)))
    config = {"experiment": training.name, "name": training.name, "seed": seed, "precision": precision}
    swept: dict[str, Any] = {"product": product}
    if search is not None:
        repeated = {name: product.pop(name) for name in ("replicate", "seed") if name in product}
        more = {"prune": search["prune"]} if "prune" in search else {}
        asked = {name: value for name, value in search.items() if name != "prune"}
        swept = {"search": {"optuna": asked, "space": product, **more}} | ({"product": repeated} if repeated else {})
    config |= {"sweep": swept} if axes else {}
    progress = sys.stderr.isatty() if progress is None else progress
    options: dict[str, Any] = {"fresh": fresh, "reuse": reuse, "time_limit": time_limit}
    found = run(config, overrides, out, progress=progress, draw=draw, **options)
    if found.failed:
        first = found.cells.loc[found.cells["status"].isin(FAILED), "status_detail"].iloc[0]
        lost = f"{found.failed} of {len(found.cells)} cells failed, the first with {first!r}"
        warnings.warn(f"{lost}; the same call tries them again", stacklevel=2)
    if progress and draw:
        complain(f"report: {found.directory / 'report.html'}")
    return found


def plan(config: str | os.PathLike[str] | Mapping[str, Any], overrides: Overrides = (), *, cells: bool = False) -> Plan:
    """Return what a config would run, without writing anything: counts, programs, memory, flops, time.

    The expected time comes from the speed of one small program on this machine. `cells` adds the list of cells. A
    search runs `search.expected` of its cells, from the first number, if on each line of cells all criteria begin to
    hold at one place, to the second, if each does at a place of its own; programs, flops and time are those of the
    second. Those of a search by a sampler are of settings drawn at random; it has no list of cells.
    Raises InputError as `run` does.
    """
    checked = load_config(config, overrides)
    sweep = checks.run(checked, planned=True)
    from expreg.core.engine.estimate import estimate

    settings = [settings for settings, _ in sweep.cells.values()]
    rows = [axes for _, axes in sweep.cells.values()]
    searched, most = searching.outlook(sweep)
    found: Any = {
        "name": checked.name,
        "experiment": checked.experiment,
        "hash": sweep.plan["hash"],
        "cells": sweep.plan["cells"],
        "axes": {axis: list(dict.fromkeys(row[axis] for row in rows if axis in row)) for axis in sweep.axes},
        **searched,
        **estimate(sweep.experiment, [settings for settings, _ in most.values()], *checks.where(checked)),
        **sweep.experiment.outlook(settings, checked.analysis.model_dump()),
    }
    if cells and sweep.space is None:
        found["list"] = [{"cell": cell, "axes": dict(axes)} for cell, (_, axes) in sweep.cells.items()]
    return found


def certificates(
    config: str | os.PathLike[str] | Mapping[str, Any],
    overrides: Overrides = (),
    *,
    eps: float = 0.05,
    refined: bool = True,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Return the certificate of every cell of a config before any training (C.20)-(C.26), one dict each.

    Beside the summary of the certificate: `cell`, `axes`, and `steps` after which ||F - y|| <= eps is sure, null
    where nothing is. In float64 on the host, a cell at a time, with `progress` on standard error: `experiment:
    concentration` with `measure: [Ecert]` does the same for thousands of cells on the device. Raises InputError as
    `run` does, and for experiments without a network.
    """
    from expreg.core.engine.execute import workload
    from expreg.core.engine.pace import Pace
    from expreg.core.engine.progress import Reporter

    checked = load_config(config, overrides)
    experiment = checks.started(checked.experiment)
    certify = experiment.certify
    if certify is None:
        message = f"got {checked.experiment}, which trains no network; a certificate is about one"
        raise InputError(Problem("E-ENUM", message, key="experiment"))
    sweep = checks.sweep(checked)
    if sweep.space is not None:
        message = "expected a grid: which settings a search tries is known when it runs"
        raise InputError(Problem("E-USAGE", message, key="sweep.search"))
    found = []
    loads, _ = workload(experiment, {cell: settings for cell, (settings, _) in sweep.cells.items()})
    with Reporter(Pace(loads), len(loads), silent=not progress or len(loads) == 1) as reporter:
        for cell, (settings, axes) in sweep.cells.items():
            one = certify(settings, experiment.inputs(settings), refined)
            found.append({"cell": cell, "axes": dict(axes), **_with_steps(one, eps)})
            reporter.add([{"cell": cell, "status": "certified" if one.holds else "not certified"}])
    return found


def certificate_of_file(
    path: str | os.PathLike[str],
    *,
    activation: str = "exp",
    scale: float = 1.0,
    eps: float = 0.05,
    refined: bool = True,
) -> dict[str, Any]:
    """Return the certificate of the arrays X (n, d), y (n,), W (d, m), a (m,) of an .npz file, as `certificates` does.

    Raises InputError if an array is missing or does not fit the others.
    """
    from expreg import data
    from expreg.certificate import certify

    registry.load_plugins()
    arrays = data.read_arrays(os.fspath(path), ("X", "y", "W", "a"))
    return _with_steps(certify(**arrays, activation=activation, scale=scale, refined=refined), eps)


def _with_steps(found: Any, eps: float) -> dict[str, Any]:
    steps = found.steps(eps) if found.holds else math.inf
    return {**found.summary(), "eps": eps, "steps": int(steps) if math.isfinite(steps) else None}


def status(directory: str | os.PathLike[str]) -> Status:
    """Return how far a run is, without reading the numbers of any row."""
    found: Any = {**table.status(Path(directory)), "jobs": jobs.counts(Path(directory))}
    return found


def doctor() -> dict[str, Any]:
    """Return versions, devices, precision and cache, the speed of one small program, and `trouble`: a list of lines.

    Where JAX does not start, only what can be known without it.
    """
    from expreg.core.engine import devices, manifest, trouble

    devices.configure()
    found = trouble.machine()
    facts: dict[str, Any] = {"cores": cores(), "memory_bytes": devices.host_memory()}
    if not found.backend:
        return {**manifest.code(), **facts, "trouble": trouble.troubles(found)}
    from expreg.core.engine.estimate import measured_speed
    from expreg.kinds.network import kernel, native

    missing = kernel.missing() if found.backend == "gpu" else native.missing()
    facts |= {"compiled_steps": f"no: {missing}" if missing else "yes"}
    facts |= {"flops_per_second": measured_speed(next(iter(EXPERIMENTS.values())))}
    return {**manifest.setup(), **facts, "trouble": trouble.troubles(found._replace(compiler=missing))}


def json_schema(output: str | None = None) -> dict[str, Any]:
    """Return the JSON Schema of a config, for editors, or of what the command `output` prints with `--json`.

    Raises InputError where there is no such output.
    """
    registry.load_plugins()
    return configs.json_schema(EXPERIMENTS) if output is None else outputs.schema(output)
