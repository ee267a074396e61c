"""What a reader sees, from the rows alone: success curves, thresholds, exponents, rates, verdicts."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from expreg import theory
from expreg.core.stats import exponents, success, thresholds
from expreg.core.stats.describe import Floats, Record, median, quantiles
from expreg.core.stats.summary import Asked
from expreg.kinds.network.summary import chain, concentration, groups, margins, models, rates, verdicts

ESTIMATORS = {
    "threshold": "`quantile`: order statistic over replicates of the narrowest width from which on all "
    "widths succeed (D.2, D.3)",
    "exponent": "`interpolated`: where the monotone success curve of all replicates reaches 1 - delta, its "
    "logit linear in log m between widths (D.15); least squares over n; percentile bootstrap over "
    "replicates, each resample moved within its grid cell",
    "models": "`censored`: maximum likelihood of the thresholds of replicates, known up to a grid cell or open (D.9, "
    f"D.11); percentile bootstrap over replicates, at most {models.RESAMPLES} samples. The lognormal law has one "
    "spread for all n: where it changes with n, as under the theory's law, its exponent is that of the centre of the "
    "thresholds, not of their 1 - delta quantile",
}
NOTE = "Each criterion has a threshold of its own; none of them is the threshold of the network."


def summarise(cells: pd.DataFrame, curves: pd.DataFrame, asked: Asked) -> Record:
    """Return settings, note, chain, groups and verdicts of a run of networks.

    `cells`: one row per cell, as the store gives them; `curves`: cell, step, residual, linearised. The same rows give
    the same summary, in any order. Where lambda is not known, as for an activation without theory, there is no
    verdict on width, rate or kernel.
    """
    prepared = groups.prepare(cells)
    fitted = rates.per_cell(prepared, curves)
    described = [_group(group, fitted, asked) for group in groups.split(prepared, asked.axes)]
    judged = [verdict for _, found in described for verdict in found]
    links = chain.table([group for group, _ in described], judged)
    settings = {name: getattr(asked, name) for name in ("delta", "confidence", "resamples", "seed")}
    return {
        "settings": settings | {"estimators": ESTIMATORS},
        "note": NOTE,
        "chain": links,
        "chain_summary": chain.sentences(links, [group for group, _ in described]),
        "groups": [group for group, _ in described],
        "verdicts": judged,
    }


def _group(group: groups.Group, fitted: pd.DataFrame, asked: Asked) -> tuple[Record, list[Record]]:
    """Return the record of one group and its verdicts."""
    rows = group.rows
    points = list(groups.at_each_n(rows))
    spectrum = [_spectrum(n, rows.iloc[at]) for n, at in points]
    bounds = [_bound(record["n"], record["lambda_cts"], asked.delta) for record in spectrum]
    samples = {n: _resamples(n, rows.iloc[at], asked) for n, at in points}
    criteria = [
        _criterion(criterion, rows, outcome, samples, asked) | {"bound_exponent": bounds}
        for criterion in groups.criteria()
        if (outcome := groups.judge(rows, criterion)) is not None
    ]
    interval = partial(thresholds.median_interval, confidence=asked.confidence)
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
    return record, [verdict | {"group": group.label} for verdict in _verdicts(record, rows, bounds, asked)]


def _spectrum(n: int, rows: pd.DataFrame) -> Record:
    """Return median and quartiles of lambda over replicates, whose data is the same at every width."""
    first = rows.dropna(subset="lambda_cts").drop_duplicates("_replicate")
    low, middle, high = quantiles(first["lambda_cts"], [0.25, 0.5, 0.75])
    return {
        "n": n,
        "lambda_cts": middle,
        "lambda_low": low,
        "lambda_high": high,
        "lambda_max_cts": median(first["lambda_max_cts"]),
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


def _resamples(n: int, rows: pd.DataFrame, asked: Asked) -> exponents.Resamples:
    # One stream per n: different n are independent, and adding an n leaves the others as they were.
    rng = np.random.default_rng([asked.seed, n])
    return exponents.resample(rows["_replicate"].nunique(), asked.resamples, rng)


def _criterion(
    criterion: groups.Criterion,
    rows: pd.DataFrame,
    outcome: Floats,
    samples: Mapping[int, exponents.Resamples],
    asked: Asked,
) -> Record:
    """Return success curves, thresholds and exponent of one criterion."""
    delta, confidence = asked.delta, asked.confidence
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
    needed = thresholds.replicates_needed(delta, confidence)
    record = {
        "criterion": criterion.name,
        "title": criterion.title,
        "claim_exponent": criterion.claim,
        "success": curve,
        "thresholds": table,
        "exponent": exponents.fit(located, delta, confidence, needed),
    }
    if criterion.limit is None:
        at_n = {threshold["n"]: threshold["interpolated"] for threshold in table}
        record["margins"] = [
            found
            for n, at in groups.at_each_n(rows)
            for found in margins.describe(n, rows.iloc[at], criterion.name, at_n[n])
        ]
    return record | {"models": {"censored": models.describe(tables, samples, delta, confidence, needed)}}


def _verdicts(record: Record, rows: pd.DataFrame, bounds: list[Record], asked: Asked) -> list[Record]:
    """Return the verdicts of a group: the width per criterion, then shares at the widest m, rate and steps."""
    known = any(at["lambda_cts"] is not None for at in record["spectrum"])
    judged: list[Record | None] = [
        verdicts.width(criterion, record["spectrum"])
        for criterion in record["criteria"]
        if known and criterion["claim_exponent"] is not None
    ]
    judged += [
        _share(criterion, rows, bounds, asked)
        for criterion in reversed(groups.criteria())
        if criterion.share and (known or criterion.share == "probability")
    ]
    if known:
        speeds = _widest(record["rates"], lambda found: found["speed"]["value"] is not None)
        steps = _widest(record["rates"], lambda found: found["steps"]["value"] is not None)
        judged += [verdicts.rate(speeds, bounds), verdicts.steps(steps)]
    expected = record["concentration"]["expected_exponent"]
    judged += [verdicts.concentration(c, expected) for c in record["criteria"] if c["criterion"] == "E1"]
    return [verdict for verdict in judged if verdict is not None]


def _share(criterion: groups.Criterion, rows: pd.DataFrame, bounds: list[Record], asked: Asked) -> Record | None:
    """Return the verdict on the share of successes at the widest m, None where the criterion was not measured.

    The linear rate is judged among converged cells: the others keep to no rate.
    """
    outcome = groups.judge(rows, criterion)
    if outcome is None:
        return None
    if criterion.share == "linear rate":
        outcome[(rows["status"] != "converged").to_numpy()] = np.nan
    curve = [
        record
        for n, at in groups.at_each_n(rows)
        for record in success.describe(n, *groups.outcomes(rows, outcome, at), asked.confidence)
    ]
    widest = _widest(curve, lambda found: found["trials"] > 0)
    return verdicts.share(criterion.share, criterion.name, widest, 1.0 - asked.delta, bounds)


def _widest(records: Sequence[Record], known: Callable[[Record], bool]) -> list[Record]:
    """Return for each n the record of the widest m that something is known at, else that of the widest."""
    best: dict[int, Record] = {}
    for record in sorted(records, key=lambda found: (known(found), found["m"])):
        best[record["n"]] = record
    return [best[n] for n in sorted(best)]
