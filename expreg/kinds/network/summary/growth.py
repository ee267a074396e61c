"""Verdicts about exponents: the one guard between a fitted exponent and "it grows at most like this power".

The width of the theorem is lambda^-2 n^(2+o(1)) log(n/delta) (C.14); its abstract leaves lambda out. So the claim about
n is judged by the growth of m lambda^2, which is that of m where lambda does not change with n. A verdict is given only
where another one was possible: the grid of widths limits the exponents that it can show.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from expreg.core.stats.describe import CONSISTENT, CONTRADICTS, UNRESOLVED, Record
from expreg.core.stats.power import standard_errors

CLAIMED = 2.0
"""The exponent of n, and of 1/lambda, in the width of the theorem (C.14)."""
CONSTANT = 0.02
"""lambda counts as constant where it grows or falls with a smaller power of n."""
MARGIN = 2.0
"""An exponent contradicts a claim if an interval this many times as wide lies above it: a claim that is just true is
then contradicted in three of 100,000 runs, not in one of forty."""
POWER = 0.8
"""Probability with which the exponent `detectable` would be seen to contradict the claim."""
WORDS = {"raw": "the raw exponent", "corrected": "the exponent after the log factor"}


def judge(
    exponent: Record, kind: str, claimed: float, spectrum: Sequence[Record], confidence: float
) -> tuple[tuple[str, str], Record]:
    """Return verdict and reason on "m lambda^2 grows at most like n^claimed", and the facts behind them.

    `exponent`: a fit of m* as `exponents.fit` returns it, of which `kind` is judged, "raw" or "corrected".
    `spectrum`: lambda by n. The verdict is `consistent` if the interval ends at or below the claim, `contradicts` if an
    interval MARGIN times as wide begins above it, and `cannot decide` otherwise, or if no exponent that fits
    into the grid would have contradicted the claim. `judged` of the facts is the exponent that is compared: that of
    m lambda^2, or of m.
    """
    facts: Record = dict.fromkeys(("lambda_exponent", "scaled", "largest", "detectable")) | {"judged": exponent[kind]}
    if not exponent["usable"]:
        return (UNRESOLVED, f"no usable exponent: {exponent['why_not']}."), facts
    found = lambda_slope(spectrum, exponent["used"])
    if found is None:
        return (UNRESOLVED, "lambda is not known or not positive, so the exponent may be that of lambda(n)."), facts
    slope, half = found[0], standard_errors(confidence) * found[1]
    plain = exponent[kind]
    scaled = _scaled(plain, slope, half)
    constant = abs(slope) + half < CONSTANT
    # where lambda falls, m lambda^2 grows more slowly than m: what is shown for m holds for both
    alone = constant or (slope + half < 0 and plain["high"] <= claimed)
    chosen, other = (plain, scaled) if alone else (scaled, plain)
    needed = detectable(chosen, claimed, confidence)
    facts = {"lambda_exponent": slope, "scaled": scaled, "largest": chosen["largest"], "detectable": needed}
    facts["judged"] = chosen
    where = f"over n = {exponent['used'][0]}..{exponent['used'][-1]} {WORDS[kind]}"
    if constant:
        return outcome(chosen, claimed, needed, where), facts
    words, reason = outcome(chosen, claimed, needed, f"{where} of {'m' if alone else 'm lambda^2'}")
    beside = f"lambda {'falls' if slope < 0 else 'grows'} like n^{slope:.2f}, and {'m lambda^2' if alone else 'm'} has"
    return (words, f"{reason} Here {beside} [{other['low']:.2f}, {other['high']:.2f}]."), facts


def _scaled(plain: Record, slope: float, half: float) -> Record:
    """Return the exponent of m lambda^2 from that of m and lambda's `slope`, known to within `half`.

    Errors add in squares, as if they were independent. Those of one replicate are not: where its lambda is small it
    needs more neurons, and the two errors partly cancel, so the interval is at least as wide as it should be.
    """
    value = plain["value"] + 2.0 * slope
    low, high = (math.hypot(plain[end] - plain["value"], 2.0 * half) for end in ("low", "high"))
    return {"value": value, "low": value - low, "high": value + high, "largest": plain["largest"] + 2.0 * slope}


def outcome(found: Record, claimed: float, needed: float, where: str) -> tuple[str, str]:
    """Return verdict and reason on "the exponent is at most `claimed`"; one of `needed` would have contradicted it."""
    if found["value"] - MARGIN * (found["value"] - found["low"]) > claimed:
        return CONTRADICTS, f"{where} is at least {found['low']:.2f}, above {claimed:g}."
    if found["high"] > claimed:
        return UNRESOLVED, f"{where} lies in [{found['low']:.2f}, {found['high']:.2f}]: not separated from {claimed:g}."
    ends = f"{where} is at most {found['high']:.2f}"
    if found["largest"] < needed:
        limit = f"this grid shows at most {found['largest']:.2f} and needs {needed:.2f} to contradict {claimed:g}"
        return UNRESOLVED, f"{ends}, but {limit}: add wider networks, more n or more replicates."
    return CONSISTENT, f"{ends}, not above {claimed:g}; {needed:.2f} would have contradicted it."


def beside_bound(outcome: tuple[str, str], found: Record, bound: float) -> tuple[str, str]:
    """Return the outcome; one that contradicts says whether the bound's own exponent, with its o(1), allows it."""
    words, reason = outcome
    if words == CONTRADICTS:
        above = found["low"] > bound
        beside = "the measured one lies above that, too" if above else "its o(1) allows the measured one"
        reason += f" The bound's own exponent here is {bound:.2f}: {beside}."
    return words, reason


def detectable(found: Record, claimed: float, confidence: float) -> float:
    """Return the exponent that would be seen to contradict the claim with probability POWER."""
    half = found["value"] - found["low"]
    error = half / standard_errors(confidence)
    return claimed + MARGIN * half + float(special.ndtri(POWER)) * error


def lambda_slope(spectrum: Sequence[Record], used: Sequence[int]) -> tuple[float, float] | None:
    """Return the exponent of n in the median lambda over the n `used`, and its standard error.

    None where a lambda is unknown or not positive. The error is that of medians over replicates (`lambda_error`).
    """
    records = [record for record in spectrum if record["n"] in used]
    values = [record["lambda_cts"] for record in records]
    if len(values) < 2 or any(value is None or not value > 0 for value in values):
        return None
    log_n = np.log([record["n"] for record in records])
    errors = [record.get("lambda_error", 0.0) for record in records]
    weights = (log_n - log_n.mean()) / np.sum((log_n - log_n.mean()) ** 2)
    return float(weights @ np.log(values)), float(np.linalg.norm(weights * errors))
