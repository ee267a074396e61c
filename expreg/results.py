"""What a run left: rows, curves, summary, page, and the arrays and networks behind a cell."""

import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expreg import registry
from expreg.core import config as configs
from expreg.core.config import grid
from expreg.core.config.search import trial
from expreg.core.config.space import Space
from expreg.core.store import table
from expreg.core.store.disk import replace
from expreg.core.store.store import leaves
from expreg.errors import InputError, Problem, optional
from expreg.kinds import EXPERIMENTS, own
from expreg.outputs import Summary
from expreg.types import BASE, FAILED, TRIAL, Experiment, Settings

if TYPE_CHECKING:
    import pandas as pd
    import polars
    import xarray

    _Rows = tuple[pd.DataFrame, pd.DataFrame, list[str]]

Overrides = Sequence[str] | Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """What a run left in its directory; everything is read when it is first asked for, and then kept."""

    directory: Path

    @cached_property
    def cells(self) -> "pd.DataFrame":
        """One row per finished cell of the plan, a pandas DataFrame."""
        return self._read[0]

    @cached_property
    def _read(self) -> "_Rows":
        return self._warned(table.read(self.directory, curves=False))

    def _warned(self, rows: Any) -> Any:
        for line in rows[-1]:
            warnings.warn(table.left_out(self.directory, line), stacklevel=2)
        return rows

    @cached_property
    def curves(self) -> "pd.DataFrame":
        """One row per cell and recorded step, a pandas DataFrame: cell, step, residual, linearised."""
        # of the same cells, even if more have finished since these were read
        return table.read(self.directory, self.cells["cell"].tolist())[1]

    def polars(self, *, curves: bool = False) -> "polars.DataFrame":
        """Return the cells, or the curves, as a polars DataFrame, read as they are now.

        Raises InputError where polars is not installed.
        """
        frames = optional("polars", "frames")
        found = self._warned(table.gather(self.directory, curves=curves))[0]
        return frames.from_arrow(table.curves_of(found) if curves else table.cells_of(found))

    def xarray(self) -> "xarray.Dataset":
        """Return the cells as an xarray Dataset: a dimension per axis of the sweep, a variable per column of numbers.

        Numbers and truth values are float64, nan where a cell is missing or has none. Trials of a sampler are one
        dimension, `trial`, with their settings as coordinates. Curves are left out: their steps differ between cells.
        Raises InputError where xarray is not installed, and where the axes do not identify a cell.
        """
        from expreg.core.store import views

        known = [axis for axis in self._axes if axis in self.cells]
        space = [axis for axis in known if axis in self._plan.get("trials", {}).get("space", ())]
        axes = [*([TRIAL] if space else []), *(axis for axis in known if axis not in space)]
        meanings = {column.name: column.meaning for column in (*BASE, *self.experiment.columns())}
        return views.dataset(self.cells, axes, space, meanings)

    @cached_property
    def summary(self) -> Summary:
        """Thresholds, exponents, intervals and verdicts, computed from the rows."""
        from expreg.core.stats.summary import summarise

        config = self._config
        asked = {name: getattr(config.analysis, name) for name in ("delta", "confidence", "resamples")}
        asked["axes"] = self._axes
        asked |= {name: self._plan.get(name) for name in ("search", "trials")}
        found: Any = summarise(self.experiment, *self._whole, name=config.name, **asked)
        found["description"] = config.description
        found["counts"] |= table.coverage(self.directory, self.cells["status"], self._read[2])
        return found

    @property
    def _whole(self) -> "tuple[pd.DataFrame, pd.DataFrame]":
        """Cells and curves without pruned trials: only runs of the whole length are comparable."""
        if "whole" not in self._plan:
            return self.cells, self.curves
        cells = self.cells[self.cells["cell"].isin(self._plan["whole"])]
        return cells, self.curves[self.curves["cell"].isin(cells["cell"])]

    @property
    def _axes(self) -> list[str]:
        return list(grid.names(self._config.source.grid)) if self._config.source.grid else []

    @property
    def swept(self) -> list[str]:
        """The axes that have more than one value, without replicates and seeds."""
        from expreg.core.stats.settings import swept

        return swept(self.cells, self._axes)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that all cells share, by dotted path."""
        return leaves(self._plan.get("identity", {}))

    @property
    def experiment(self) -> Experiment:
        """The record of the experiment that was run."""
        return self._experiments[self._config.experiment]

    @property
    def verdicts(self) -> str:
        """The answer, the table and the verdicts, as plain text of at most 100 columns."""
        from expreg.core.page.words import verdict_text

        return verdict_text(self.experiment, self.summary)

    @property
    def failed(self) -> int:
        """How many cells failed: their statuses are no measurements, and the same command tries them again."""
        return int(self.cells["status"].isin(FAILED).sum())

    def inputs(self, cell: str) -> dict[str, Any]:
        """Return the very arrays that a cell started from: X (n, d), y (n,), W (d, m), a (m,).

        Raises InputError if the plan has no such cell, or if its data file is gone or has changed.
        """
        settings, experiment = self._ready(cell)
        return dict(experiment.inputs(settings))

    def trained(self, cell: str) -> Any:
        """Return what a cell has trained: an `expreg.network.ExponentialNetwork` (a flax module), or your own state.

        The cell is trained once more, on this machine; a warning says so if it does not end, bit for bit, as its row.
        Raises InputError as `inputs` does, if the experiment trains nothing, and if the cell has no row or failed.
        """
        settings, experiment = self._ready(cell)
        rows = self.cells[self.cells["cell"] == cell]
        if experiment.trained is None:
            message = "its functions are not known here" if experiment.remembered else "it trains nothing"
            raise InputError(Problem("E-CELL", f"{experiment.name}: {message}", file=str(self.directory)))
        if rows.empty or rows["status"].isin(FAILED).any():
            raise InputError(Problem("E-CELL", f"cell {cell} has not been trained", file=str(self.directory)))
        found, stored = experiment.trained(settings), float(rows[experiment.final].iloc[0])
        if found.final != stored and not math.isnan(stored):
            warnings.warn(f"{experiment.final} is {found.final!r}, in the row it is {stored!r}", stacklevel=2)
        return found.value

    def _ready(self, cell: str) -> tuple[Settings, Experiment]:
        """Return the settings of a cell and the record that runs it; its modules are imported, JAX has started."""
        settings = self._settings(cell)
        registry.load_needed(self._plan.get("modules", ()))
        start()
        return settings, EXPERIMENTS.get(self.experiment.name, self.experiment)

    def _settings(self, cell: str) -> Settings:
        config = self._config
        if isinstance(config.source.search, Space) and (self.cells["cell"] == cell).any():
            row = self.cells[self.cells["cell"] == cell].dropna(axis=1).to_dict("records")[0]
            listed = [axis.name for axis in grid.axes(config.source.grid) if axis.form == grid.SPACE]
            config = trial(config, {name: row[name] for name in listed if name in row})  # of a grid's row not all
        for name, settings, _ in configs.named(config):
            if name == cell:
                return settings
        raise InputError(Problem("E-CELL", f"the plan has no cell {cell!r}", file=str(self.directory)))

    @cached_property
    def _config(self) -> Any:
        return configs.load(self.directory / "config.yaml", experiments=self._experiments)

    @cached_property
    def _experiments(self) -> Mapping[str, Experiment]:
        if remembered := self._plan.get("remembered"):  # then no code is needed
            return EXPERIMENTS | {remembered["name"]: own.described(own.Description(**remembered))}
        registry.load_needed(self._plan.get("modules", ()))
        return EXPERIMENTS

    @cached_property
    def _plan(self) -> Mapping[str, Any]:
        return table.plan_of(self.directory) or {}


def load(directory: str | os.PathLike[str]) -> Run:
    """Return the run in a directory; raise InputError if there is none."""
    table.plan_of(directory)
    return Run(Path(directory))


def report(directory: str | os.PathLike[str], *, interactive: bool = False) -> Run:
    """Make summary, figures and report.html of a run again from the rows that are there; return the run.

    `interactive` adds explore.html: every cell and its curve, to filter, sort and search in a browser. A run that
    has the file gets it again with every report.
    """
    from expreg.core.engine import manifest
    from expreg.core.page.page import write

    found = load(directory)
    path = found.directory
    rows = found._warned(table.read(path))
    vars(found).update(_read=rows, curves=rows[1])  # both in one pass over the parts
    replace(path / "summary.json", json.dumps(found.summary, indent=1, allow_nan=False).encode())
    config_text = (path / "config.yaml").read_text("utf-8")
    if interactive or (path / "explore.html").exists():  # before the report, which links to it
        from expreg.core.page import explore

        explore.write(path, found.experiment, found.cells, found.curves, found.summary, found._axes)
    write(path, found.experiment, *found._whole, found.summary, manifest.read(path), config_text)
    return found


def load_config(source: str | os.PathLike[str] | Mapping[str, Any], overrides: Overrides = ()) -> Any:
    """Return the checked config of a file or a dict with overrides; raise InputError with all problems."""
    registry.load_plugins()
    return configs.load(source, overrides, experiments=EXPERIMENTS)


def start(device: str = "auto", *, several: bool = False) -> None:
    """Start JAX on a kind of device, in `several` processes if they are there; raise InputError where it cannot."""
    from expreg.core.engine import devices, trouble

    devices.configure(device)
    if several:
        from expreg.core.engine import processes

        processes.connect()
    trouble.started()
