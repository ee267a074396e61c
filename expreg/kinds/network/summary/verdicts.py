"""Verdicts: what the measured numbers say about each claim, with the numbers that decide it.

A verdict is about one claim, one group and one criterion. The criteria have different thresholds, and none
of them is "the" threshold, so nothing here combines criteria. The theorem speaks of widths that are out of
reach (10^19 and more, (C.14)): below them a miss contradicts nothing, and the verdict is then "not
resolvable at these n".
"""

import math
from collections.abc import Sequence

from expreg.core.stats.describe import CONSISTENT, CONTRADICTS, UNRESOLVED, Record, verdict

# Beyond this factor between its largest and its smallest value over n, lambda(n) shapes the fitted exponent.
LAMBDA_FACTOR = 3.0
# Measured and predicted steps to tolerance agree if their ratio lies within this factor.
STEPS_FACTOR = 1.1


def width(criterion: Record, spectrum: Sequence[Record]) -> Record:
    """Judge "the width grows at most like n^claimed log(n/delta)" by the exponent after the log factor.

    `consistent` if the interval ends at or below the claim; `contradicts` if it begins above both the claim
    and the bound's own local exponent (C.15) at every n of the fit; `not resolvable` otherwise, or if there
    is no usable exponent, or if lambda varies so much that the exponent mixes lambda(n) in.
    """
    exponent, thresholds = criterion["exponent"], criterion["thresholds"]
    words, reason = _width_verdict(criterion, spectrum)
    missing = sum(record["missing"] for record in criterion["success"])
    fitted = [record for record in thresholds if record["n"] in exponent["used"]]
    replicates = sum(record["replicates"] for record in thresholds)
    censored = sum(record["censored_below"] + record["censored_above"] for record in thresholds)
    return verdict(
        "width",
        criterion["criterion"],
        criterion["claim_exponent"],
        exponent["corrected"],
        (words, reason + (f" {missing} cells without a result are left out." if missing else "")),
        replicates=min((record["replicates"] for record in fitted or thresholds), default=0),
        censored_share=censored / replicates if replicates else None,
    )


def _width_verdict(criterion: Record, spectrum: Sequence[Record]) -> tuple[str, str]:
    exponent, claimed = criterion["exponent"], criterion["claim_exponent"]
    used = exponent["used"]
    if not exponent["usable"]:
        return UNRESOLVED, f"no usable exponent: {exponent['why_not']}."
    factor = lambda_factor(spectrum, used)
    if factor is None:
        return UNRESOLVED, "lambda was not recorded, so the exponent may mix lambda(n) in."
    if factor > LAMBDA_FACTOR:
        return UNRESOLVED, f"lambda varies by a factor {factor:.3g} over n: the exponent mixes lambda(n) in."
    low, high = exponent["corrected"]["low"], exponent["corrected"]["high"]
    bound = max(record["alpha_eff"] for record in criterion["bound_exponent"] if record["n"] in used)
    found = f"over n = {used[0]}..{used[-1]} the exponent after the log factor"
    limits = f"{claimed:g} and the bound's own {bound:.2f} here"
    if high <= claimed:
        return CONSISTENT, f"{found} is at most {high:.2f}, not above {claimed:g} (the bound's own: {bound:.2f})."
    if low > max(claimed, bound):
        return CONTRADICTS, f"{found} is at least {low:.2f}, above both {limits}."
    return UNRESOLVED, f"{found} lies in [{low:.2f}, {high:.2f}], neither below {claimed:g} nor above {limits}."


def concentration(criterion: Record, expected: float | None) -> Record | None:
    """Judge "the width that E1 needs grows more slowly than the n^2 of the proof", by the raw exponent at fixed delta.

    `consistent` if the whole interval lies below the claimed exponent, `contradicts` if above it. The reason says
    whether the interval holds `expected`, the exponent by the expected error alone (B.11, B.12, C.2); None if that
    is unknown.
    """
    if expected is None:
        return None
    exponent, claimed = criterion["exponent"], criterion["claim_exponent"]
    replicates = min((record["replicates"] for record in criterion["thresholds"]), default=0)
    outcome = _growth(exponent, claimed, expected)
    return verdict("concentration", criterion["criterion"], claimed, exponent["raw"], outcome, replicates=replicates)


def _growth(exponent: Record, claimed: float, expected: float) -> tuple[str, str]:
    if not exponent["usable"]:
        return UNRESOLVED, f"no usable exponent: {exponent['why_not']}."
    used, low, high = exponent["used"], exponent["raw"]["low"], exponent["raw"]["high"]
    found = f"over n = {used[0]}..{used[-1]} the raw exponent lies in [{low:.2f}, {high:.2f}]"
    beside = f"the expected error alone gives {expected:.2f} (B.11, B.12), which lies "
    if low <= expected <= high:
        beside += "inside"
    else:
        beside += "outside: quantiles of heavy-tailed errors need not grow like their mean (B.14)"
    if high < claimed:
        return CONSISTENT, f"{found}, below the {claimed:g} of the proof; {beside}."
    if low > claimed:
        return CONTRADICTS, f"{found}, above the {claimed:g} of the proof; {beside}."
    return UNRESOLVED, f"{found}, which holds the {claimed:g} of the proof; {beside}."


def lambda_factor(spectrum: Sequence[Record], used: Sequence[int]) -> float | None:
    """Return the largest over the smallest median lambda among the n `used`; None if one is not recorded."""
    values = [record["lambda_cts"] for record in spectrum if record["n"] in used]
    if not values or any(value is None for value in values):
        return None
    return max(values) / min(values) if min(values) > 0 else float("inf")


def share(claim: str, criterion: str, widest: Sequence[Record], level: float, bounds: Sequence[Record]) -> Record:
    """Judge "succeeds with probability at least `level`" at the widest m of every n, by exact intervals.

    `widest`: one record of a success curve per n. `consistent` if every interval begins at or above the
    level. `contradicts` if one ends below it at a width that the theorem calls sufficient (C.14). The numbers
    are those of the n whose interval begins lowest.
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
    refuted = [record for record in known if record["high"] < level and _sufficient(record, bounds)]
    if refuted:
        return CONTRADICTS, f"{_where(refuted[0])} is below {level:g}, and the theorem calls that m sufficient."
    found = f"{_where(worst)}, interval [{worst['low']:.3f}, {worst['high']:.3f}],"
    if worst["low"] >= level:
        return CONSISTENT, f"{found} is at or above {level:g}, and no n is lower."
    if worst["high"] < level:
        return UNRESOLVED, f"{found} is below {level:g}, but the theorem asks for wider networks than these."
    return UNRESOLVED, f"{found} does not separate the share from {level:g}."


def _where(record: Record) -> str:
    return f"{record['successes']} of {record['trials']} at n = {record['n']}, m = {record['m']}"


def rate(rates: Sequence[Record], bounds: Sequence[Record]) -> Record | None:
    """Judge "||r_t|| falls at least as fast as (1 - m eta kappa^2 lambda/2)^(1/2) per step" at the widest m.

    Measured is the median of log(fitted rate)/log(theory rate) over replicates, at the n where it is least;
    None if no curve could be fitted. `contradicts` only at a width that the theorem calls sufficient.
    """
    known = [record for record in rates if record["speed"]["value"] is not None]
    if not known:
        return None
    worst = min(known, key=lambda record: float(record["speed"]["value"]))
    speed = worst["speed"]
    where = f"at n = {worst['n']}, m = {worst['m']}"
    found = f"{where} the residual falls {speed['value']:.3g} times as fast as asked"
    if any(_limits(record["speed"])[1] < 1.0 and _sufficient(record, bounds) for record in known):
        outcome = CONTRADICTS, f"{found}, and the theorem calls some such m sufficient."
    elif all(_limits(record["speed"])[0] >= 1.0 for record in known):
        outcome = CONSISTENT, f"{found}, the least of all n (median of {speed['cells']} replicates)."
    elif speed["low"] is None:
        outcome = UNRESOLVED, f"{found}, but {speed['cells']} replicates give no interval."
    else:
        outcome = UNRESOLVED, f"{found}: not shown to be 1 or more, at widths below the theorem's."
    return verdict("rate of convergence", "rate", 1.0, speed, outcome, replicates=speed["cells"])


def steps(rates: Sequence[Record]) -> Record | None:
    """Compare steps to tolerance with the infinite-width prediction (B.26) at the widest m, None if unknown.

    An asymptotic statement cannot be contradicted at finite width: the verdict is `consistent` if every
    interval of the median ratio lies within STEPS_FACTOR of 1, else `not resolvable`.
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
