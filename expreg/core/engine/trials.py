"""The source of cells that samples: optuna proposes settings in batches, and learns what their cells left.

All that it knows follows from the rows. A run that is resumed asks for the same trials again, in the same order, so
that the store of the run is all that is kept.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from expreg.core.config.space import Space
from expreg.core.engine.search import Source
from expreg.errors import InputError, Problem
from expreg.types import FAILED, Experiment

if TYPE_CHECKING:
    import pandas as pd

Cells = dict[str, tuple[Any, Mapping[str, Any]]]


class Metric(NamedTuple):
    """What trials are compared by: a column, and whether more of it is better."""

    name: str
    largest: bool

    def of(self, rows: "pd.DataFrame") -> float | None:
        """Return the median over the cells of a trial; a run without a number counts as the worst, a failed one not.

        None where every cell failed.
        """
        worst = -math.inf if self.largest else math.inf
        values = rows.loc[~rows["status"].isin(FAILED), self.name].astype("float64").fillna(worst)
        return float(values.median()) if len(values) else None


def metric(search: Space, experiment: Experiment) -> Metric:
    """Return what the trials of a search are compared by."""
    asked = search.optuna
    name = asked.metric or experiment.final
    largest = (
        experiment.largest and name == experiment.final if asked.direction is None else asked.direction == "maximize"
    )
    return Metric(name, largest)


def trials(
    search: Space,
    by: Metric,
    seed: int,
    cells: Cells,
    numbers: dict[str, int],
    cells_of: Callable[[Mapping[str, Any]], Cells],
) -> Source:
    """Return the source of the trials of a search; `cells_of(values)` are the cells of one trial.

    They go into `cells`, and the numbers of their first trials into `numbers`. It raises InputError where no trial of
    a batch has a cell that the config allows.
    """
    study, space = _study(search, by, seed), _distributions(search)
    axis, lengths = (search.prune.axis, search.lengths) if search.prune else ("", [0])
    going: list[Any] = []  # trials of the batch that run on
    rung = 0

    def named(trial: Any) -> list[str]:
        values = {name: search.space[name].inside(value) for name, value in trial.params.items()}
        found = cells_of(values | ({axis: lengths[rung]} if axis else {}))
        cells.update(found)
        for cell in found:
            numbers.setdefault(cell, trial.number)
        return list(found)

    def source(read: "Callable[[], pd.DataFrame]") -> Sequence[str]:
        nonlocal going, rung
        rows = read().set_index("cell", drop=False)
        while going or len(study.trials) < search.optuna.trials:
            if not going:
                count = min(search.optuna.batch, search.optuna.trials - len(study.trials))
                going, rung = [study.ask(space) for _ in range(count)], 0
            wanted = _possible(study, going, named)
            going = list(wanted)
            open_ = [cell for found in wanted.values() for cell in found if cell not in rows.index]
            if open_:
                return open_
            values = {trial: by.of(rows.loc[found]) for trial, found in wanted.items()}
            going = _settled(study, values, by, lengths[rung:], search.prune.factor if search.prune else 1)
            rung += 1
        return []

    return source


def _possible(study: Any, going: Sequence[Any], named: Callable[[Any], list[str]]) -> dict[Any, list[str]]:
    """Return the cells of trials; those whose settings break a rule of the config have failed."""
    from optuna.trial import TrialState

    found, refusal = {}, None
    for trial in going:
        try:
            found[trial] = named(trial)
        except InputError as error:
            study.tell(trial, state=TrialState.FAIL)
            refusal = error
    if refusal is not None and not found:
        raise refusal
    return found


def _settled(
    study: Any, values: Mapping[Any, float | None], by: Metric, lengths: Sequence[Any], factor: int
) -> list[Any]:
    """Let the sampler know the results of a batch; return the trials that run on, in their order."""
    from optuna.trial import TrialState

    known = {trial: value for trial, value in values.items() if value is not None}
    for trial in values:
        if trial not in known:
            study.tell(trial, state=TrialState.FAIL)
    if len(lengths) == 1:
        for trial, value in known.items():
            study.tell(trial, value)
        return []
    for trial, value in known.items():
        trial.report(value, round(lengths[0]))
    ranked = sorted(known, key=lambda trial: -known[trial] if by.largest else known[trial])
    best = ranked[: math.ceil(len(ranked) / factor)]
    for trial in ranked[len(best) :]:
        study.tell(trial, state=TrialState.PRUNED)
    return sorted(best, key=lambda trial: trial.number)


def _study(search: Space, by: Metric, seed: int) -> Any:
    try:
        import optuna
    except ImportError:
        message = "needs optuna, which is not installed: pip install 'expreg[search]'"
        raise InputError(Problem("E-IMPORT", message, key="sweep.search.optuna")) from None
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
