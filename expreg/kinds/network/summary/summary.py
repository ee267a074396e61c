"""What a reader sees, from the rows alone: success curves, thresholds, exponents, rates, verdicts."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from expreg import theory
from expreg.core.stats import exponents, success, thresholds
from expreg.kinds.in_context import summary as in_context
from expreg.kinds.network.summary import chain, concentration, groups, margins, rates, verdicts
from expreg.kinds.network.summary import models as modelling
from expreg.kinds.regression import summary as regression

Floats = NDArray[np.float64]
Record = dict[str, Any]

ESTIMATORS = {
    "threshold": "`quantile`: order statistic over replicates of the narrowest width from which on all "
    "widths succeed (D.2, D.3)",
    "exponent": "`interpolated`: where the monotone success curve of all replicates reaches 1 - delta, its "
    "logit linear in log m between widths (D.15); least squares over n; percentile bootstrap over "
    "replicates, each resample moved within its grid cell",
    "models": "`psychometric`: generalised linear models of success, cells taken for independent (D.5-D.8); "
    "`censored`: maximum likelihood of the thresholds of replicates, known up to a grid cell or open (D.9, D.11); "
    f"percentile bootstrap over replicates, at most {modelling.RESAMPLES} samples; AIC compares within each. Logit, "
    "probit and lognormal have one spread for all n: where it changes with n, as under the theory's law, their "
    "exponent is that of the centre of the thresholds, not of their 1 - delta quantile",
    "covariates": "interval-censored lognormal regression of the thresholds after the log factor, sandwich errors "
    "over replicates (D.16); the radius of `movement` is itself proportional to lambda / n",
}
# Experiments with an analysis of their own: (cells, curves, axes, delta, confidence) -> groups, tables, verdicts, note.
OWN: Mapping[str, Callable[..., Record]] = {
    "regression": regression.summarise,
    "in_context": in_context.summarise,
}
NOTE = "Each criterion has a threshold of its own; none of them is the threshold of the network."


def summarise(
    cells: pd.DataFrame,
    curves: pd.DataFrame,
    *,
    name: str,
    experiment: str,
    axes: Sequence[str],
    delta: float = 0.1,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    models: bool = True,
) -> Record:
    """Return the summary of a run as a JSON-able dict; what cannot be told is null, never nan or infinite.

    `cells`: one row per cell, as the store gives them; `curves`: cell, step, residual, linearised. `axes`:
    names of the swept columns. `delta` is the allowed failure probability, `confidence` the level of all
    intervals, `resamples` the number of bootstrap samples, `seed` their seed: the same rows give the same
    summary, in any order. `models` adds to each criterion the exponents by generalised linear models and by
    interval-censored likelihood, and to the run its `covariates`; the summary takes about twice as long. Raises
    ValueError if delta or confidence is outside (0, 1) or there are no resamples.
    """
    if not (0.0 < delta < 1.0 and 0.0 < confidence < 1.0 and resamples >= 1):
        raise ValueError(f"delta {delta}, confidence {confidence}: in (0, 1); resamples {resamples}: at least 1")
    settings = {"delta": delta, "confidence": confidence, "resamples": resamples, "seed": seed, "models": models}
    common = {"name": name, "experiment": experiment, "counts": _counts(cells)}
    if experiment in OWN:
        told = OWN[experiment](cells, curves, axes, delta=delta, confidence=confidence)
        own: Record = _plain({**common, "settings": {"delta": delta, "confidence": confidence}, **told})
        return own
    prepared = groups.prepare(cells)
    fitted = rates.per_cell(prepared, curves)
    split = groups.split(prepared, axes)
    described = [_group(group, fitted, settings) for group in split]
    judged = [verdict for _, found in described for verdict in found]
    links = chain.table([group for group, _ in described], judged)
    result = {
        **common,
        "settings": settings | {"estimators": ESTIMATORS},
        "note": NOTE,
        "chain": links,
        "chain_summary": chain.sentences(links, [group for group, _ in described]),
        "groups": [group for group, _ in described],
        "covariates": modelling.regressions(split, delta, confidence) if models else [],
        "verdicts": judged,
    }
    plain: Record = _plain(result)
    return plain


def _counts(cells: pd.DataFrame) -> Record:
    statuses = cells["status"] if "status" in cells else pd.Series(dtype=str)
    return {"cells": len(cells), "by_status": statuses.value_counts().sort_index().to_dict()}


def _group(group: groups.Group, fitted: pd.DataFrame, settings: Record) -> tuple[Record, list[Record]]:
    """Return the record of one group and its verdicts."""
    rows = group.rows
    points = list(groups.at_each_n(rows))
    spectrum = [_spectrum(n, rows.iloc[at]) for n, at in points]
    bounds = [_bound(record["n"], record["lambda_cts"], settings["delta"]) for record in spectrum]
    samples = {n: _resamples(n, rows.iloc[at], settings) for n, at in points}
    criteria = [
        _criterion(criterion, rows, outcome, samples, settings) | {"bound_exponent": bounds}
        for criterion in groups.CRITERIA
        if (outcome := groups.judge(rows, criterion)) is not None
    ]
    interval = partial(_median_interval, confidence=settings["confidence"])
    decay = [r for n, at in points for r in rates.describe(n, rows.iloc[at], fitted.loc[rows.index[at]], interval)]
    record = {
        "group": group.key,
        "label": group.label,
        "spectrum": spectrum,
        "criteria": criteria,
        "rates": decay,
        "lambda_exponent": _lambda_exponent(spectrum),
        "concentration": {
            "ratios": [record for n, at in points for record in concentration.describe(n, rows.iloc[at])],
            "expected_exponent": concentration.expected_exponent(rows),
        },
    }
    judged = _verdicts(record, rows, bounds, settings)
    return record, [{"claim": v["claim"], "group": group.label} | v for v in judged]


def _spectrum(n: int, rows: pd.DataFrame) -> Record:
    """Return median and quartiles of lambda over replicates, whose data is the same at every width."""
    first = rows.dropna(subset="lambda_cts").drop_duplicates("_replicate")
    smallest, largest = first["lambda_cts"].to_numpy(), first["lambda_max_cts"].dropna().to_numpy()
    low, middle, high = np.quantile(smallest, [0.25, 0.5, 0.75]) if len(smallest) else [None] * 3
    return {
        "n": n,
        "lambda_cts": middle,
        "lambda_low": low,
        "lambda_high": high,
        "lambda_max_cts": np.median(largest) if len(largest) else None,
    }


def _lambda_exponent(spectrum: list[Record]) -> float | None:
    """Return the exponent of n in the median lambda, None where it is unknown or not positive."""
    values = [(record["n"], record["lambda_cts"]) for record in spectrum if record["lambda_cts"] is not None]
    if any(not value > 0 for _, value in values):
        return None
    return concentration.slope(np.array([n for n, _ in values], float), np.log([value for _, value in values]))


def _bound(n: int, smallest: float | None, delta: float) -> Record:
    """Return width (C.14) and local exponent (C.15) of the bound at the median lambda, our constants."""
    if smallest is None or not smallest > 0:
        return {"n": n, "alpha_eff": None, "width": None}
    alpha, width = theory.local_exponent(n, delta, smallest), theory.width(n, delta, smallest)
    return {"n": n, "alpha_eff": float(alpha), "width": float(width)}


def _resamples(n: int, rows: pd.DataFrame, settings: Record) -> exponents.Resamples:
    # One stream per n: different n are independent, and adding an n leaves the others as they were.
    rng = np.random.default_rng([settings["seed"], n])
    return exponents.resample(rows["_replicate"].nunique(), settings["resamples"], rng)


def _criterion(
    criterion: groups.Criterion,
    rows: pd.DataFrame,
    outcome: Floats,
    samples: Mapping[int, exponents.Resamples],
    settings: Record,
) -> Record:
    """Return success curves, thresholds and exponent of one criterion."""
    delta, confidence = settings["delta"], settings["confidence"]
    curve: list[Record] = []
    table: list[Record] = []
    located = []
    tables: dict[int, groups.Outcomes] = {}
    for n, at in groups.at_each_n(rows):
        widths, outcomes = tables[n] = groups.outcomes(rows, outcome, at)
        point = exponents.point(n, widths, outcomes, samples[n], partial(success.threshold, level=1.0 - delta))
        located += [point] if point is not None else []
        records = success.describe(n, widths, outcomes, confidence)
        curve += records
        threshold = thresholds.describe(n, widths, outcomes, delta, confidence)
        distance = {"non_isotonic": success.non_isotonic(records)}
        table.append(threshold | distance | exponents.interpolated(point, confidence))
    needed = thresholds.replicates_needed(1.0 - delta, confidence)
    record = {
        "criterion": criterion.name,
        "title": criterion.title,
        "claim_exponent": criterion.claim_exponent,
        "success": curve,
        "thresholds": table,
        "exponent": exponents.fit(located, delta, confidence, needed),
    }
    if criterion.name in groups.EVENTS:
        at_n = {threshold["n"]: threshold["interpolated"] for threshold in table}
        record["margins"] = [
            found
            for n, at in groups.at_each_n(rows)
            for found in margins.describe(n, rows.iloc[at], criterion.name, at_n[n])
        ]
    if settings["models"]:
        record["models"] = modelling.describe(tables, samples, delta, confidence, needed)
    return record


def _median_interval(values: Floats, confidence: float) -> tuple[float | None, float | None]:
    """Return the distribution-free interval of the median of sorted values, null if too few (D.3)."""
    ranks = thresholds.quantile_ranks(len(values), 0.5, confidence)
    low = float(values[ranks.low - 1]) if ranks.low >= 1 else None
    return low, float(values[ranks.high - 1]) if ranks.high <= len(values) else None


def _verdicts(record: Record, rows: pd.DataFrame, bounds: list[Record], settings: Record) -> list[Record]:
    """Return the verdicts of a group: the width per criterion, then probability, rate, kernel and steps."""
    level = 1.0 - settings["delta"]
    judged: list[Record | None] = [
        verdicts.width(criterion, record["spectrum"])
        for criterion in record["criteria"]
        if criterion["claim_exponent"] is not None
    ]
    curves = {criterion["criterion"]: criterion["success"] for criterion in record["criteria"]}
    if "E4" in curves:
        curves["E4"] = _among_converged(rows, settings)
    for claim, event in (("probability", "E5"), ("linear rate", "E4"), ("kernel", "E3")):
        if event in curves:
            widest = _widest(curves[event], lambda found: found["trials"] > 0)
            judged.append(verdicts.share(claim, event, widest, level, bounds))
    speeds = _widest(record["rates"], lambda found: found["speed"]["value"] is not None)
    steps = _widest(record["rates"], lambda found: found["steps"]["value"] is not None)
    judged += [verdicts.rate(speeds, bounds), verdicts.steps(steps)]
    expected = record["concentration"]["expected_exponent"]
    judged += [verdicts.concentration(c, expected) for c in record["criteria"] if c["criterion"] == "E1"]
    return [verdict for verdict in judged if verdict is not None]


def _among_converged(rows: pd.DataFrame, settings: Record) -> list[Record]:
    """Return the success curve of E4 among converged cells."""
    [event] = [criterion for criterion in groups.CRITERIA if criterion.name == "E4"]
    outcome = groups.judge(rows, event)
    if outcome is None:
        return []
    outcome[(rows["status"] != "converged").to_numpy()] = np.nan
    return [
        record
        for n, at in groups.at_each_n(rows)
        for record in success.describe(n, *groups.outcomes(rows, outcome, at), settings["confidence"])
    ]


def _widest(records: Sequence[Record], known: Callable[[Record], bool]) -> list[Record]:
    """Return for each n the record of the widest m that something is known at, else that of the widest."""
    best: dict[int, Record] = {}
    for record in sorted(records, key=lambda found: (known(found), found["m"])):
        best[record["n"]] = record
    return [best[n] for n in sorted(best)]


def _plain(value: Any) -> Any:
    """Return `value` as JSON can hold it: Python numbers and text, null for nan, infinity and missing."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else _text(value)


def _text(value: object) -> str | None:
    return None if pd.isna(value) else str(value)  # type: ignore[call-overload]
