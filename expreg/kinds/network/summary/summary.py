"""What a reader sees, from the rows alone: success curves, thresholds, exponents, rates, verdicts."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from expreg import theory
from expreg.core.bisection import verified
from expreg.core.stats import censored, exponents, laws, searched, success, thresholds
from expreg.core.stats.describe import Record, median, quantiles, split
from expreg.core.stats.summary import Asked
from expreg.kinds.network.summary import budgets, capacity, chain, groups, joint, rates, spreads, verdicts

Points = Sequence[tuple[int, pd.DataFrame]]  # every n of a group, ascending, with its rows

MEDIAN_ERROR = math.sqrt(math.pi / 2) / 1.349
"""Standard error of the median of R normal numbers, over their interquartile range and the root of R."""
RESAMPLES = 200
"""Two maximisations per law and sample: fewer bootstrap samples than for the order statistics."""
ESTIMATORS = {
    "threshold": "`quantile`: order statistic over replicates of the narrowest width from which on all "
    "widths succeed (D.2, D.3)",
    "exponent": "`interpolated`: where the monotone success curve of all replicates reaches 1 - delta, its "
    "logit linear in log m between widths (D.15); least squares over n; percentile bootstrap over "
    "replicates, each resample moved within its grid cell",
    "models": "`censored`: maximum likelihood of the thresholds of replicates, known up to a grid cell or open (D.9, "
    f"D.11); percentile bootstrap over replicates, at most {RESAMPLES} samples. The lognormal law has one "
    "spread for all n: where it changes with n, as under the theory's law, its exponent is that of the centre of the "
    "thresholds, not of their 1 - delta quantile",
}
MOST_GROUPS = 300
"""Groups that are described, ten seconds of work; of more, outcomes are compared setting by setting."""
NOTE = "Each criterion has a threshold of its own; none of them is the threshold of the network."
SEARCHED = (
    "A search chose the widths of each replicate. At widths that it did not run, thresholds and success curves take a"
    " replicate for no success below its bracket and for success above; rates, margins and shares at the widest m are"
    " those of the replicates that ran every width."
)


def summarise(cells: pd.DataFrame, curves: pd.DataFrame, asked: Asked) -> Record:
    """Return settings, note, chain, groups and verdicts of a run of networks.

    `cells`: one row per cell, as the store gives them; `curves`: cell, step, residual, linearised. The same rows give
    the same summary, in any order. Where lambda is not known, as for an activation without theory, there is no
    verdict on width, rate or kernel.
    """
    prepared = groups.prepare(cells)
    fitted = rates.per_cell(prepared, curves)
    everything = groups.split(prepared, asked.axes)
    parts = everything[:MOST_GROUPS]
    described = [_group(part, fitted, asked) for part in parts]
    found = [group for group, *_ in described]
    judged = [verdict | {"group": group["label"]} for group, own, _ in described for verdict in own]
    keys, thresholds = [group["group"] for group in found], [located for *_, located in described]
    together = joint.describe(keys, thresholds, asked.delta, asked.confidence)
    claims = {criterion.name: criterion.claim for criterion in groups.criteria()}
    for found_together in joint.verdicts(together, claims, asked.confidence):
        pooled = pd.concat([part.rows for part in parts if joint.pool(part.key) == found_together["group"]])
        judged.append(verdicts.within(found_together, verdicts.outside(pooled)))
    links = chain.table(found, judged)
    settings = {name: getattr(asked, name) for name in ("delta", "confidence", "resamples", "seed")}
    settings |= {} if asked.search is None else {"search": dict(asked.search)}
    return {
        "settings": settings | {"estimators": ESTIMATORS},
        "note": NOTE if asked.search is None else f"{NOTE} {SEARCHED}",
        "chain": links,
        "chain_summary": chain.sentences(links, found),
        "groups": found,
        "groups_left": len(everything) - len(parts),
        "joint": together,
        "verdicts": judged,
    }


def _group(group: groups.Group, fitted: pd.DataFrame, asked: Asked) -> tuple[Record, list[Record], joint.Thresholds]:
    """Return the record of one group, its verdicts, and its thresholds by criterion."""
    rows = group.rows
    points = _by_n(rows)
    spectrum = [_spectrum(n, part) for n, part in points]
    bounds = [_bound(record["n"], record["lambda_cts"], asked.delta) for record in spectrum]
    # One stream per n: different n are independent, and adding an n leaves the others as they were.
    samples = {
        n: exponents.resample(part["_replicate"].nunique(), asked.resamples, np.random.default_rng([asked.seed, n]))
        for n, part in points
    }
    wanted = [c for c in groups.criteria() if asked.search is None or c.name in asked.search["criterion"]]
    judged = {_with_budget(criterion, rows): groups.judge(rows, criterion) for criterion in wanted}
    more = (groups.MOVEMENT_FIXED, groups.FIT) if asked.search is None else ()
    fixed = [(criterion, groups.judge(rows, criterion)) for criterion in more]
    whole = rows if asked.search is None else rows[verified(rows["replicate"], asked.search["verify"])]
    described = {
        criterion: _criterion(criterion, points, _by_n(whole), outcome, samples, asked)
        for criterion, outcome in [*judged.items(), *fixed]
        if outcome is not None
    }
    lambdas = {at["n"]: at["lambda_cts"] for at in spectrum}
    located = {c.name: [joint.Located(p, lambdas[p.n]) for p in own] for c, (_, own) in described.items()}
    interval = partial(thresholds.median_interval, confidence=asked.confidence)
    record = {
        "group": group.key,
        "label": group.label,
        "spectrum": spectrum,
        "criteria": [
            own | {"bound_exponent": bounds}
            for criterion, (own, _) in described.items()
            if criterion is not groups.MOVEMENT_FIXED
        ],
        "budgets": _budgets(rows, points, samples, asked) if asked.search is None else [],
        "rates": rates.describe(whole, fitted, interval),
        "lambda_exponent": _lambda_exponent(spectrum),
        "concentration": {"ratios": spreads.ratios(whole), "expected_exponent": spreads.expected_exponent(rows)},
    }
    record |= capacity.describe(record, _by_n(whole))
    return record, _verdicts(record, rows, _by_n(whole), judged, bounds, asked), located


def half_width(cells: pd.DataFrame, asked: Asked) -> float:
    """Return half the width of the interval of the exponent, after the log factor; of all groups the widest.

    It is that of convergence (E5), or of what is measured where nothing is trained; infinite where a group has none.
    """
    curves = pd.DataFrame(columns=["cell", "step", "residual", "linearised"])
    found = [math.inf] if cells.empty else []
    for group in summarise(cells, curves, asked)["groups"]:
        fits: dict[str, Record] = {criterion["criterion"]: criterion["exponent"] for criterion in group["criteria"]}
        fit = fits.get("E5", next(iter(fits.values())))
        found.append((fit["corrected"]["high"] - fit["corrected"]["low"]) / 2 if fit["usable"] else math.inf)
    return max(found)


def _by_n(rows: pd.DataFrame) -> Points:
    return [(int(at["n"]), part) for at, part in split(rows, ["n"])]


def _with_budget(criterion: groups.Criterion, rows: pd.DataFrame) -> groups.Criterion:
    """Return the criterion; convergence names the budget within which it is measured."""
    words = budgets.words(rows) if criterion.name == "E5" else ""
    return criterion._replace(title=f"{criterion.title} {words}") if words else criterion


def _spectrum(n: int, rows: pd.DataFrame) -> Record:
    """Return median and quartiles of lambda over replicates, whose data is the same at every width.

    `lambda_error` is the standard error of the logarithm of the median.
    """
    first = rows.dropna(subset="lambda_cts").drop_duplicates("_replicate")
    low, middle, high = quantiles(first["lambda_cts"], [0.25, 0.5, 0.75])
    record = {"n": n, "lambda_cts": middle, "lambda_low": low, "lambda_high": high}
    record["lambda_error"] = 0.0
    if low is not None and high is not None and low > 0:
        record["lambda_error"] = MEDIAN_ERROR * math.log(high / low) / math.sqrt(len(first))
    return record | {"lambda_max_cts": median(first["lambda_max_cts"])}


def _lambda_exponent(spectrum: list[Record]) -> float | None:
    """Return the exponent of n in the median lambda, None where it is unknown or not positive."""
    known = [record for record in spectrum if record["lambda_cts"] is not None]
    if any(not record["lambda_cts"] > 0 for record in known):
        return None
    return spreads.slope([record["n"] for record in known], np.log([record["lambda_cts"] for record in known]))


def _bound(n: int, smallest: float | None, delta: float) -> Record:
    """Return width (C.14) and local exponent (C.15) of the bound at the median lambda, our constants."""
    if smallest is None or not smallest > 0:
        return {"n": n, "alpha_eff": None, "width": None}
    alpha, width = theory.local_exponent(n, delta, smallest), theory.width(n, delta, smallest)
    return {"n": n, "alpha_eff": float(alpha), "width": float(width)}


def _criterion(
    criterion: groups.Criterion,
    points: Points,
    whole: Points,
    outcome: pd.Series,
    samples: Mapping[int, exponents.Resamples],
    asked: Asked,
) -> tuple[Record, list[exponents.Point]]:
    """Return success curves, thresholds, exponent, margins and likelihoods of one criterion, and its thresholds.

    `whole`: the rows of replicates that run every width. A record of a success curve has `run`, the replicates that
    were run there; after a search `trials` counts more.
    """
    run = {n: groups.outcomes(rows, outcome) for n, rows in points}
    tables = run
    if asked.search is not None:
        tables = {n: table._replace(success=searched.fill(table.success)) for n, table in run.items()}
    found: Record = {"criterion": criterion.name, "title": criterion.title, "claim_exponent": criterion.claim}
    located, own = _located(tables, samples, asked)
    counts = [int(count) for table in run.values() for count in success.tally(table.success)[1]]
    found |= own | {"success": [at | {"run": count} for at, count in zip(own["success"], counts, strict=True)]}
    if criterion.holds is None:
        at = {table["n"]: table["interpolated"] for table in found["thresholds"]}
        found["margins"] = [line for n, rows in whole for line in spreads.margins(n, rows, criterion.name, at[n])]
    if asked.search is not None:
        found |= _verified(found["thresholds"], {n: groups.outcomes(rows, outcome) for n, rows in whole}, asked)
    return found | {"models": {"censored": likelihoods(tables, samples, asked)}}, located


def _verified(located: Sequence[Record], whole: Mapping[int, groups.Outcomes], asked: Asked) -> Record:
    """Return what replicates that ran every width say about a search, and thresholds with the share at their n."""
    at = {n: searched.verification([table], asked.confidence)["non_monotone"] for n, table in whole.items()}
    return {
        "thresholds": [threshold | {"non_monotone": at.get(threshold["n"])} for threshold in located],
        "verification": searched.verification(whole.values(), asked.confidence),
    }


def _located(
    tables: Mapping[int, groups.Outcomes], samples: Mapping[int, exponents.Resamples], asked: Asked
) -> tuple[list[exponents.Point], Record]:
    """Return the thresholds, and the record of success curves, thresholds and their exponent, from the outcomes."""
    delta, confidence = asked.delta, asked.confidence
    located, curve, table = [], [], []
    for n, outcomes in tables.items():
        point = exponents.point(n, *outcomes, samples[n], partial(success.threshold, level=1.0 - delta))
        located += [point] if point is not None else []
        records = success.describe(n, *outcomes, confidence)
        threshold = thresholds.describe(n, *outcomes, delta, confidence) | exponents.interpolated(point, confidence)
        curve += records
        table.append(threshold | {"non_isotonic": success.non_isotonic(records)})
    needed = thresholds.replicates_needed(delta, confidence)
    fitted = exponents.fit(located, delta, confidence, needed)
    return located, {"success": curve, "thresholds": table, "exponent": fitted}


def _budgets(
    rows: pd.DataFrame, points: Points, samples: Mapping[int, exponents.Resamples], asked: Asked
) -> list[Record]:
    """Return thresholds and exponent of convergence within each flow time that the runs were given."""
    found = []
    for time, outcome in budgets.outcomes(rows):
        tables = {n: groups.outcomes(part, outcome) for n, part in points}
        found.append({"flow_time": time, "criterion": f"time {time:g}"} | _located(tables, samples, asked)[1])
    return found


def likelihoods(
    tables: Mapping[int, groups.Outcomes], resamples: Mapping[int, exponents.Resamples], asked: Asked
) -> Record:
    """Return the interval-censored likelihoods of one criterion under two laws (D.9-D.11), from outcomes at each n.

    The record says `usable` and `why_not`; where an exponent is not defined at all, it says nothing else.
    """
    delta, confidence = asked.delta, asked.confidence
    replicates = {}
    for n, table in tables.items():
        low, high = censored.bracket(*table)
        if (low > 0.0).any() and np.isfinite(high).any():
            replicates[n] = int((~np.isnan(table.success)).any(axis=1).sum())
    needed, fewest = thresholds.replicates_needed(delta, confidence), min(replicates.values(), default=0)
    obstacle = exponents.obstacle(list(replicates), fewest, needed, confidence, delta)
    if len(replicates) < 2:
        return {"usable": False, "why_not": obstacle}
    samples = [laws.Sample(n, *table, resamples[n].counts[:RESAMPLES]) for n, table in tables.items()]
    try:
        found = censored.describe(samples, delta, confidence)
    except ValueError as problem:
        return {"usable": False, "why_not": str(problem)}
    if obstacle is None and found["unresolved_spread"]:
        obstacle = "thresholds spread over less than a cell of the grid: use a finer one"
    return found | {"usable": obstacle is None, "why_not": obstacle}


def _verdicts(
    record: Record,
    rows: pd.DataFrame,
    points: Points,
    outcomes: Mapping[groups.Criterion, pd.Series | None],
    bounds: list[Record],
    asked: Asked,
) -> list[Record]:
    """Return the verdicts of a group: the width per criterion, then shares at the widest m, rate and steps.

    `points`: the rows that shares are judged by.
    """
    known = any(at["lambda_cts"] is not None for at in record["spectrum"])
    grows = len(points) > 1 and rows["m"].nunique() > 1  # one n, or one m, says nothing about growth
    judged: list[Record | None] = [
        verdicts.width(criterion, record["spectrum"], asked.confidence)
        for criterion in record["criteria"]
        if known and grows and criterion["claim_exponent"] is not None
    ]
    judged += [
        _share(criterion, points, outcome, bounds, asked)
        for criterion, outcome in reversed(list(outcomes.items()))
        if outcome is not None and criterion.share and (known or criterion.share == "probability")
    ]
    if known:
        speeds = _widest(record["rates"], lambda found: found["speed"]["value"] is not None)
        steps = _widest(record["rates"], lambda found: found["steps"]["value"] is not None)
        judged += [verdicts.rate(speeds, bounds), verdicts.steps(steps)]
    judged += capacity.verdicts(record)
    errors = record["concentration"]["expected_exponent"], record["spectrum"], asked.confidence
    judged += [verdicts.concentration(c, *errors) for c in record["criteria"] if grows and c["criterion"] == "E1"]
    assumptions = verdicts.outside(rows)
    judged.append(verdicts.certificate(rows, asked.confidence))
    return [verdicts.within(found, assumptions) for found in judged if found is not None]


def _share(
    criterion: groups.Criterion, points: Points, outcome: pd.Series, bounds: list[Record], asked: Asked
) -> Record:
    """Return the verdict on the share of successes at the widest m.

    The linear rate is judged among converged cells: the others keep to no rate.
    """
    curve = []
    for n, rows in points:
        judged = outcome[rows.index]
        if criterion.share == "linear rate":
            judged = judged.where(rows["status"] == "converged")
        curve += success.describe(n, *groups.outcomes(rows, judged), asked.confidence)
    widest = _widest(curve, lambda found: found["trials"] > 0)
    return verdicts.share(criterion.share, criterion.name, widest, 1.0 - asked.delta, bounds)


def _widest(records: Sequence[Record], known: Callable[[Record], bool]) -> list[Record]:
    """Return for each n the record of the widest m that something is known at, else that of the widest."""
    best = {record["n"]: record for record in sorted(records, key=lambda found: (known(found), found["m"]))}
    return [best[n] for n in sorted(best)]
