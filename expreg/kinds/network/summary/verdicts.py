"""Verdicts: what the measured numbers say about each claim, with the numbers that decide it.

A verdict is about one claim, one group and one criterion. The criteria have different thresholds, and none
of them is "the" threshold, so nothing here combines criteria. Every claim is about what was measured, so that it can
fail: exponents over the n of the run, shares and rates at its widest m. The theorem itself is about widths out
of reach (10^19 and more, (C.14)); a reason that contradicts says what it says there. On runs outside the assumptions of
the theorem the verdict is "does not apply".
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from expreg.core.stats import success
from expreg.core.stats.describe import CONSISTENT, CONTRADICTS, OUTSIDE, UNRESOLVED, Record, verdict
from expreg.kinds.network.summary import groups, growth

# Measured and predicted steps to tolerance agree if their ratio lies within this factor.
STEPS_FACTOR = 1.1
THEOREM = ("width", "lambda", "concentration", "probability", "linear rate", "kernel", "rate of convergence")
"""The claims that are those of the theorem or of a step of its proof."""


def width(criterion: Record, spectrum: Sequence[Record], confidence: float) -> Record:
    """Judge "m lambda^2 grows at most like n^claimed log(n/delta) here" by the exponent after the log factor.

    The rules are those of `growth.judge`. A reason that contradicts says whether the exponent lies above the bound's
    own local exponent (C.15), too: below it the o(1) of the theorem allows what was measured.
    """
    exponent, thresholds = criterion["exponent"], criterion["thresholds"]
    claimed = criterion["claim_exponent"]
    (words, reason), facts = growth.judge(exponent, "corrected", claimed, spectrum, confidence)
    if words == CONTRADICTS:
        bound = max(record["alpha_eff"] for record in criterion["bound_exponent"] if record["n"] in exponent["used"])
        words, reason = growth.beside_bound((words, reason), facts["scaled"], bound)
    missing = sum(record["missing"] for record in criterion["success"])
    fitted = [record for record in thresholds if record["n"] in exponent["used"]]
    replicates = sum(record["replicates"] for record in thresholds)
    censored = sum(record["censored_below"] + record["censored_above"] for record in thresholds)
    return verdict(
        "width",
        criterion["criterion"],
        claimed,
        facts.pop("judged"),
        (words, reason + (f" {missing} cells without a result are left out." if missing else "")),
        replicates=min((record["replicates"] for record in fitted or thresholds), default=0),
        censored_share=censored / replicates if replicates else None,
        **facts,
    )


def concentration(
    criterion: Record, expected: float | None, spectrum: Sequence[Record], confidence: float
) -> Record | None:
    """Judge "the width that E1 needs grows at most like lambda^-2 n^2", by the raw exponent at fixed delta.

    The reason says whether the interval of m alone contains `expected`, the exponent by the expected error alone (B.11,
    B.12, C.2); None if that is unknown.
    """
    if expected is None:
        return None
    exponent, claimed = criterion["exponent"], criterion["claim_exponent"]
    replicates = min((record["replicates"] for record in criterion["thresholds"]), default=0)
    (words, reason), facts = growth.judge(exponent, "raw", claimed, spectrum, confidence)
    if exponent["usable"]:
        inside = exponent["raw"]["low"] <= expected <= exponent["raw"]["high"]
        reason += f" The expected error alone gives {expected:.2f} for m (B.11, B.12), " + (
            "inside the interval."
            if inside
            else "outside the interval: quantiles of heavy-tailed errors need not grow like their mean (B.14)."
        )
    numbers = facts.pop("judged")
    return verdict(
        "concentration", criterion["criterion"], claimed, numbers, (words, reason), replicates=replicates, **facts
    )


def certificate(rows: pd.DataFrame, confidence: float) -> Record | None:
    """Judge "a certified run that takes certified steps keeps every promise of its certificate" (C.26).

    The promises: no neuron leaves its radius (`refined_movement`), E3cert and E4cert, as far as they were measured; one
    broken promise contradicts. The share is one of replicates that keep every promise at all their widths: those are
    nested, so they are no runs of their own. None where no certified run was trained by gradient descent with steps of
    at most `eta_certified`.
    """
    small = rows["eta"] <= rows["eta_certified"] * (1.0 + ROUNDING)
    covered = rows[(rows["Ecert"] == 1.0) & small & groups.plain(rows)]
    names = [name for name in PROMISES if covered[name].notna().any()]
    if not names:
        return None
    broken = pd.DataFrame(
        {name: covered[name] > 1.0 + ROUNDING if name == "refined_movement" else covered[name] == 0.0 for name in names}
    )
    kept = ~broken.any(axis=1).groupby([covered["n"], covered["_replicate"]]).any()
    low, high = success.exact_interval(int(kept.sum()), len(kept), confidence)
    found = ", ".join(f"{PROMISES[name]} {broken[name].sum()}" for name in names)
    lost = int((covered["E3"] == 0.0).sum())
    beside = f" {lost} break E3, about whose lambda a certificate says nothing." if lost else ""
    many = f"{len(kept)} replicate{'s' * (len(kept) > 1)}"
    outcome = (
        CONSISTENT if kept.all() else CONTRADICTS,
        f"of {len(covered)} certified runs ({many}) these break a promise: {found}.{beside}",
    )
    numbers = {"value": float(kept.mean()), "low": low, "high": high}
    return verdict("certificate", "Ecert", 1.0, numbers, outcome, replicates=len(kept))


PROMISES = {"refined_movement": "movement", "E3cert": "eigenvalue", "E4cert": "rate"}


def outside(rows: pd.DataFrame) -> list[str]:
    """Return in which ways networks lie outside what the theorem assumes; empty where they do not.

    It assumes phi = exp, gradient descent with one step size, here of at most 1/(m kappa^2 lambda_max(H(0))), output
    scale 1 and labels of at most 1. `rows` as `groups.prepare` returns them.
    """
    others = sorted({str(name) for name in rows.get("activation", pd.Series(dtype=str)).dropna()} - {"exp"})
    found = [f"activation {', '.join(others)}"] if others else []
    if not rows["eta"].notna().any():  # nothing is trained
        return found
    optimizers = sorted(set(rows["optimizer"]) - {"sgd"})
    found += [f"optimizer {', '.join(optimizers)}"] if optimizers else []
    steps = sorted(set(rows["schedule"].dropna())) if "schedule" in rows else []
    found += [f"a step size that changes ({', '.join(steps)})"] if steps else []
    large = (rows["eta"] * rows["m"] * rows["scale"] ** 2 * rows["lambda_max_0"] > 1.0 + ROUNDING).mean()
    where = "all" if large == 1 else "some"
    found += [f"steps above 1/(m scale^2 lambda_max(H(0))) in {where} cells"] if large else []
    found += ["an output scale other than 1"] if (np.abs(rows["scale"] - 1.0) > ROUNDING).any() else []
    found += ["labels above 1"] if (rows["label_norm"] > np.sqrt(rows["n"]) * (1.0 + ROUNDING)).any() else []
    return found


ROUNDING = 1e-3
"""Relative slack for what float32 rounds."""


def within(judged: Record, assumptions: Sequence[str]) -> Record:
    """Return a verdict, of a claim of the theorem "does not apply" where its assumptions are not met."""
    if not assumptions or judged["claim"] not in THEOREM:
        return judged
    words = {"verdict": OUTSIDE, "reason": f"outside the theorem's assumptions: {'; '.join(assumptions)}."}
    return judged | words | {"outside": list(assumptions)}


def share(claim: str, criterion: str, widest: Sequence[Record], level: float, bounds: Sequence[Record]) -> Record:
    """Judge "networks of the widest m succeed with probability at least `level`" at every n, by exact intervals.

    `widest`: one record of a success curve per n. `consistent` if every interval begins at or above the level,
    `contradicts` if one ends below it. That is about the measured widths: the reason of a contradiction says whether
    the theorem calls such a width sufficient (C.14). The numbers are those of the n whose interval begins lowest.
    """
    known = [record for record in widest if record["trials"]]
    worst = min(known, key=lambda record: float(record["low"]), default=None)
    numbers = {"value": None, "low": None, "high": None}
    if worst is None or len(known) < len(widest):
        missing = [str(record["n"]) for record in widest if not record["trials"]]
        outcome = UNRESOLVED, f"there is no cell to judge at n = {', '.join(missing) or 'any'}."
    else:
        outcome = _share_verdict(known, worst, level, bounds)
        numbers = {"value": worst["rate"], "low": worst["low"], "high": worst["high"]}
    trials = min((record["trials"] for record in known), default=0)
    return verdict(claim, criterion, level, numbers, outcome, replicates=trials)


def _share_verdict(known: Sequence[Record], worst: Record, level: float, bounds: Sequence[Record]) -> tuple[str, str]:
    below = [record for record in known if record["high"] < level]
    if below:
        lowest = min(below, key=lambda record: float(record["low"]))
        named = next((record for record in below if _sufficient(record, bounds)), lowest)
        return CONTRADICTS, f"{_where(named)} is below {level:g}, and {_theorem(named, bounds)}."
    found = f"{_where(worst)}, interval [{worst['low']:.3f}, {worst['high']:.3f}],"
    if worst["low"] >= level:
        return CONSISTENT, f"{found} is at or above {level:g}, and no n is lower."
    return UNRESOLVED, f"{found} does not separate the share from {level:g}."


def _theorem(record: Record, bounds: Sequence[Record]) -> str:
    """Return what the theorem says about the width of a record (C.14)."""
    if _sufficient(record, bounds):
        return "the theorem calls that m sufficient"
    needed = next((bound["width"] for bound in bounds if bound["n"] == record["n"]), None)
    least = f"from m = 10^{math.log10(needed):.0f} on" if needed else "to no width without a lambda"
    return f"the theorem applies {least}"


def _where(record: Record) -> str:
    return f"{record['successes']} of {record['trials']} at n = {record['n']}, m = {record['m']}"


def rate(rates: Sequence[Record], bounds: Sequence[Record]) -> Record | None:
    """Judge "||r_t|| falls at least as fast as (1 - m eta kappa^2 lambda/2)^(1/2) per step" at the widest m.

    Measured is the median of log(fitted rate)/log(theory rate) over replicates, at the n where it is least;
    None if no curve could be fitted. Like that of `share`, the verdict is about the measured widths.
    """
    known = [record for record in rates if record["speed"]["value"] is not None]
    if not known:
        return None
    worst = min(known, key=lambda record: float(record["speed"]["value"]))
    speed = worst["speed"]
    where = f"at n = {worst['n']}, m = {worst['m']}"
    found = f"{where} the residual falls {speed['value']:.3g} times as fast as asked"
    slow = [record for record in known if _limits(record["speed"])[1] < 1.0]
    if slow:
        first = next((record for record in slow if _sufficient(record, bounds)), worst)
        outcome = CONTRADICTS, f"{found}, and {_theorem(first, bounds)}."
    elif all(_limits(record["speed"])[0] >= 1.0 for record in known):
        outcome = CONSISTENT, f"{found}, the least of all n (median of {speed['cells']} replicates)."
    elif speed["low"] is None:
        outcome = UNRESOLVED, f"{found}, but there are too few replicates for an interval ({speed['cells']})."
    else:
        outcome = UNRESOLVED, f"{found}: not separated from 1."
    return verdict("rate of convergence", "rate", 1.0, speed, outcome, replicates=speed["cells"])


def steps(rates: Sequence[Record]) -> Record | None:
    """Compare steps to tolerance with the infinite-width prediction (B.26) at the widest m, None if unknown.

    An asymptotic statement cannot be contradicted at finite width: the verdict is `consistent` if every
    interval of the median ratio lies within STEPS_FACTOR of 1, else `cannot decide`.
    """
    known = [record for record in rates if record["steps"]["value"] is not None]
    if not known:
        return None
    worst = max(known, key=lambda record: max(record["steps"]["value"], 1.0 / record["steps"]["value"]))
    found = worst["steps"]
    where = f"{found['value']:.3f} times the predicted steps at n = {worst['n']}, m = {worst['m']}"
    limits = [_limits(record["steps"]) for record in known]
    close = all(low >= 1.0 / STEPS_FACTOR and high <= STEPS_FACTOR for low, high in limits)
    relation = "agree" if close else "are not shown to agree"
    reason = f"{where}, the furthest of all n from 1; the medians {relation} within {STEPS_FACTOR - 1:.0%}."
    outcome = (CONSISTENT if close else UNRESOLVED, reason)
    return verdict("steps to tolerance", "steps", 1.0, found, outcome, replicates=found["cells"])


def _limits(found: Record) -> tuple[float, float]:
    """Return the ends of an interval; nan, which is neither below nor above anything, where one is unknown."""
    low, high = (math.nan if found[name] is None else found[name] for name in ("low", "high"))
    return low, high


def _sufficient(record: Record, bounds: Sequence[Record]) -> bool:
    """Return whether the theorem calls the width of the record sufficient at its n, with our constants."""
    needed = next((bound["width"] for bound in bounds if bound["n"] == record["n"]), None)
    return needed is not None and record["m"] >= needed
