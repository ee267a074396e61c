"""Thresholds by models, beside the order statistics: what the summary adds to each criterion and to the run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from expreg.core.stats import censored, covariates, exponents, laws, psychometric
from expreg.kinds.network.summary import groups

Floats = NDArray[np.float64]
Record = dict[str, Any]
Tables = Mapping[int, groups.Outcomes]

# Two maximisations per law, link and sample: fewer bootstrap samples than for the order statistics.
RESAMPLES = 200

# Groups are regressed together on the properties of their data if they agree in how they train.
_SAME = ("activation", "init", "scale", "optimizer", "step_rule", "precision", "tolerance")
_SAME_AXES = ("network.", "training.")
_QUANTITIES = {"log lambda": "lambda_cts", "log ||X||^2": "gram_norm", "log ||y||": "label_norm"}


def describe(
    tables: Tables, resamples: Mapping[int, exponents.Resamples], delta: float, confidence: float, needed: int
) -> Record:
    """Return the records `psychometric` (D.5-D.8) and `censored` (D.9-D.11) of one criterion.

    `tables`: outcomes at each n. Both records say `usable` and `why_not`; where an exponent is not defined at
    all, they say nothing else.
    """
    inside = [n for n, table in tables.items() if _bracketed(table)]
    if len(inside) < 2:
        why_not = exponents.obstacle(inside, 0, needed, confidence, delta)
        return {name: {"usable": False, "why_not": why_not} for name in ("psychometric", "censored")}
    fewest = min(int((~np.isnan(tables[n].success)).any(axis=1).sum()) for n in inside)
    obstacle = exponents.obstacle(inside, fewest, needed, confidence, delta)
    samples = [laws.Sample(n, *table, resamples[n].counts[:RESAMPLES]) for n, table in tables.items()]
    try:
        by_cells = psychometric.describe(samples, delta, confidence)
        by_replicates = censored.describe(samples, delta, confidence)
    except ValueError as problem:
        return {name: {"usable": False, "why_not": str(problem)} for name in ("psychometric", "censored")}
    return {
        "psychometric": _judged(by_cells, obstacle or _psychometric_obstacle(by_cells)),
        "censored": _judged(by_replicates, obstacle or _censored_obstacle(by_replicates)),
    }


def _bracketed(table: groups.Outcomes) -> bool:
    low, high = censored.bracket(*table)
    return bool((low > 0.0).any() and np.isfinite(high).any())


def _judged(record: Record, why_not: str | None) -> Record:
    return record | {"usable": why_not is None, "why_not": why_not}


def _psychometric_obstacle(record: Record) -> str | None:
    if record["separated"]:
        return (
            "a line separates all successes from all failures, so the likelihood has no maximum: the numbers are"
            " those of Firth's penalty and of the grid"
        )
    if not record["logit"]["corrected"]["steepness"] > 0.0:
        return "success does not become more likely with m"
    return None


def _censored_obstacle(record: Record) -> str | None:
    if record["unresolved_spread"]:
        return "thresholds spread over less than a cell of the grid: use a finer one"
    return None


def regressions(found: Sequence[groups.Group], delta: float, confidence: float) -> list[Record]:
    """Return for each criterion the dependence of m* on the properties of the data (D.16).

    Groups that agree in network and training are pooled; `groups` names them.
    """
    return [
        {"criterion": criterion.name, "groups": [group.label for group in pool]}
        | _regression([group.rows for group in pool], criterion, delta, confidence)
        for pool in _pools(found)
        for criterion in groups.CRITERIA
        if any(groups.judge(group.rows, criterion) is not None for group in pool)
    ]


def _pools(found: Sequence[groups.Group]) -> list[list[groups.Group]]:
    pools: dict[tuple[str, ...], list[groups.Group]] = {}
    for group in found:
        fixed = {name: group.rows[name].iloc[0] for name in _SAME if name in group.rows}
        swept = {name: value for name, value in group.key.items() if name.startswith(_SAME_AXES)}
        pools.setdefault(tuple(f"{name}={value}" for name, value in (fixed | swept).items()), []).append(group)
    return list(pools.values())


def _regression(parts: Sequence[pd.DataFrame], criterion: groups.Criterion, delta: float, confidence: float) -> Record:
    table = pd.concat([row for rows in parts for row in _thresholds(rows, criterion)], ignore_index=True)
    n = table["n"].to_numpy(dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = {"log n": np.log(n)} | {
            name: np.log(table[column].to_numpy()) for name, column in _QUANTITIES.items()
        }
    return covariates.fit(
        columns,
        table["low"].to_numpy(),
        table["high"].to_numpy(),
        offset=np.log(np.log(n / delta)),
        cluster=np.asarray(table.groupby(["n", "replicate"]).ngroup(), dtype=np.int64),
        confidence=confidence,
    )


def _thresholds(rows: pd.DataFrame, criterion: groups.Criterion) -> Iterator[pd.DataFrame]:
    """Yield for each n the replicates of a group: interval of their threshold and properties of their data."""
    outcome = groups.judge(rows, criterion)
    if outcome is None:
        return
    columns = list(_QUANTITIES.values())
    for n, at in groups.at_each_n(rows):
        widths, success = groups.outcomes(rows, outcome, at)
        low, high = censored.bracket(widths, success)
        own = rows.iloc[at].groupby("_replicate")[columns].first()
        table = own.assign(n=n, low=low, high=high).rename_axis("replicate").reset_index()
        yield table[(low > 0.0) | np.isfinite(high)]
