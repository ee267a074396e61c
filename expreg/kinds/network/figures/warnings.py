"""What limits the numbers of a run of networks, in words."""

from collections.abc import Iterator, Mapping
from typing import Any

from expreg.core.page.style import finite, records
from expreg.core.page.words import extent, number
from expreg.kinds.network.figures.look import criteria_of
from expreg.kinds.network.summary.verdicts import LAMBDA_FACTOR


def warnings(summary: Mapping[str, Any]) -> list[str]:
    """Return one line each: thresholds beyond the grid, and a lambda that is unknown, vanishes or changes with n."""
    groups = records(summary, "groups")
    rows = [row for group in groups for criterion in criteria_of(group) for row in records(criterion, "thresholds")]
    censored = sum(finite(row.get("quantile")) is None for row in rows)
    loose = sum(row.get("bracketed") is False for row in rows)
    lines = []
    if censored:
        lines.append(f"{censored} of {len(rows)} thresholds lie beyond the grid of widths or lack replicates.")
    if loose:
        lines.append(f"The grid of widths does not bracket {loose} of {len(rows)} thresholds.")
    return lines + [line for group in groups for line in _spectrum(group)]


def _spectrum(group: Mapping[str, Any]) -> Iterator[str]:
    spectrum, label = records(group, "spectrum"), group.get("label", "")
    values = {row["n"]: low for row in spectrum if (low := finite(row.get("lambda_cts"))) is not None}
    zero = [row["n"] for row in spectrum if _vanishes(row)]
    if spectrum and not values:
        yield f"{label}: lambda is not known (no theory of this activation): no verdict on width, rate or kernel."
    elif zero:
        yield (
            f"{label}: lambda is 0 up to rounding at n = {', '.join(map(str, zero))}: the data hold equal points,"
            " or points too close to tell apart. The theorem says nothing there."
        )
    elif values and max(values.values()) > LAMBDA_FACTOR * min(values.values()):
        exponent = finite(group.get("lambda_exponent"))
        law = "" if exponent is None else f", like n^{exponent:.2f}"
        yield (
            f"{label}: lambda changes from {number(values[min(values)])} at n = {min(values)} to"
            f" {number(values[max(values)])} at n = {max(values)}{law}; exponents of n mix lambda(n) in."
        )


def _vanishes(row: Mapping[str, Any]) -> bool:
    smallest, largest = finite(row.get("lambda_cts")), finite(row.get("lambda_max_cts"))
    return smallest is not None and largest is not None and smallest <= 1e-12 * largest


def grid(summary: Mapping[str, Any]) -> str:
    """Return over which n and m a run goes and how often, to end the sentence on what was run."""
    groups = records(summary, "groups")
    rows = [row for group in groups for criterion in criteria_of(group) for row in records(criterion, "success")]
    rows = rows or [row for group in groups for row in records(group, "rates")]
    if not rows:
        return ""
    trials = {int(row["trials"]) for row in rows if finite(row.get("trials"))}
    n, m = ({row[name] for row in rows} for name in ("n", "m"))
    return f", for n = {extent(n)} and m = {extent(m)}" + (f", {extent(trials)} replicates each" if trials else "")
