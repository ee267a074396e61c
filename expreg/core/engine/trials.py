"""The source of cells that samples: optuna proposes settings in batches, and learns what their cells left.

All that it knows follows from the rows. A run that is resumed asks for the same trials again, in the same order, so
that the store of the run is all that is kept.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from expreg.core.config.space import Space
from expreg.core.engine.search import Cells
from expreg.errors import InputError
from expreg.types import FAILED, TRIAL, Experiment

if TYPE_CHECKING:
    import pandas as pd


class Metric(NamedTuple):
    """What trials are compared by: a column, and whether more of it is better."""

    name: str
    largest: bool

    def of(self, rows: "pd.DataFrame") -> float | None:
        """Return the median over the cells of a trial, in which a cell without a number counts as the worst.

        None where every cell has failed. One that failed and succeeded later counts as failed: a search that is
        resumed must learn what it learned before.
        """
        first = rows[~rows["status"].isin(FAILED) & (rows["attempt"] == 1)]
        if first.empty:
            return None
        worst = -math.inf if self.largest else math.inf
        if self.name not in first:  # no cell of the run has one
            return worst
        return float(first[self.name].astype("float64").fillna(worst).median())


def metric(search: Space, experiment: Experiment) -> Metric:
    """Return what the trials of a search are compared by."""
    name, direction = search.optuna.metric or experiment.final, search.optuna.direction
    return Metric(
        name, experiment.largest and name == experiment.final if direction is None else direction == "maximize"
    )


class Trials:
    """The source of the trials of a search; `cells_of(values)` are the cells of one trial.

    `cells` are those of all trials so far. The settings of a trial may break a rule of the config: then it has failed.
    """

    def __init__(self, search: Space, by: Metric, seed: int, cells_of: Callable[[Mapping[str, Any]], Cells]) -> None:
        self.cells: Cells = {}
        self._search, self._by, self._cells_of = search, by, cells_of
        self._study, self._space = _study(search, by, seed), _distributions(search)
        self._axis: str = search.prune.axis if search.prune else ""
        self._lengths = search.lengths or [0]
        self._numbers: dict[str, int] = {}  # of the first trial of a cell
        self._whole: dict[str, None] = {}  # cells that run the whole length
        self._batch: dict[Any, list[str]] = {}  # trials that run on, with their cells
        self._rung = self._asked = 0

    def plan(self) -> dict[str, Any]:
        """Return what the plan keeps about the cells: their order, and the numbers of their trials."""
        return {"ids": list(self._numbers), TRIAL: list(self._numbers.values()), "whole": list(self._whole)}

    def __call__(self, read: "Callable[[], pd.DataFrame]") -> Sequence[str]:
        """Return the cells of the next trials; once there are no more, those that have failed.

        Raises InputError where no trial at all has a cell that the config allows.
        """
        rows = read().set_index("cell", drop=False)
        while self._batch or self._asked < self._search.optuna.trials:
            if not self._batch:
                self._ask()
            if missing := [cell for own in self._batch.values() for cell in own if cell not in rows.index]:
                return missing
            self._tell({trial: self._by.of(rows.loc[own]) for trial, own in self._batch.items()})
        return [cell for cell in self._numbers if rows["status"][cell] in FAILED]

    def _ask(self) -> None:
        count = min(self._search.optuna.batch, self._search.optuna.trials - self._asked)
        self._asked += count
        self._rung = 0
        self._name(self._study.ask(self._space) for _ in range(count))

    def _name(self, trials: Iterable[Any]) -> None:
        """Let these trials run, those that have cells."""
        self._batch, refusal = {}, None
        for trial in list(trials):  # all are proposed before one fails
            try:
                self._batch[trial] = self._cells(trial)
            except InputError as error:
                refusal = error
                self._study.tell(trial, state=_state("FAIL"))
        if refusal is not None and not self.cells and self._asked == self._search.optuna.trials:
            raise refusal

    def _cells(self, trial: Any) -> list[str]:
        values = {name: self._search.space[name].inside(value) for name, value in trial.params.items()}
        found = self._cells_of(values | ({self._axis: self._lengths[self._rung]} if self._axis else {}))
        self.cells.update(found)
        for cell in found:
            self._numbers.setdefault(cell, trial.number)
            if self._rung == len(self._lengths) - 1:
                self._whole[cell] = None
        return list(found)

    def _tell(self, values: Mapping[Any, float | None]) -> None:
        """Tell the sampler the results of a batch, and let the best trials run on."""
        known = {trial: value for trial, value in values.items() if value is not None}
        for trial in [trial for trial in values if trial not in known]:
            self._study.tell(trial, state=_state("FAIL"))
        self._batch = {}
        if self._rung == len(self._lengths) - 1:
            for trial, value in known.items():
                self._study.tell(trial, value)
            return
        for trial, value in known.items():
            trial.report(value, self._lengths[self._rung])
        ranked = sorted(known, key=lambda trial: -known[trial] if self._by.largest else known[trial])
        best = ranked[: math.ceil(len(ranked) / self._search.prune.factor)] if self._search.prune else ranked
        for trial in ranked[len(best) :]:
            self._study.tell(trial, state=_state("PRUNED"))
        self._rung += 1
        self._name(sorted(best, key=lambda trial: trial.number))


def _state(name: str) -> Any:
    from optuna.trial import TrialState

    return TrialState[name]


def _study(search: Space, by: Metric, seed: int) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = {
            # trials of a batch that run count as bad, so that the others look elsewhere
            "tpe": lambda: optuna.samplers.TPESampler(seed=seed, constant_liar=True),
            "random": lambda: optuna.samplers.RandomSampler(seed=seed),
            "qmc": lambda: optuna.samplers.QMCSampler(seed=seed),
        }[search.optuna.sampler]()
        return optuna.create_study(sampler=sampler, direction="maximize" if by.largest else "minimize")


def _distributions(search: Space) -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, Any] = {}
    for name, of in search.space.items():
        if of.choices:
            found[name] = CategoricalDistribution(of.choices)
        elif of.step:
            found[name] = IntDistribution(of.low, of.high, log=of.log, step=1 if of.log else of.step)
        else:
            found[name] = FloatDistribution(of.low, of.high, log=of.log)
    return found
