"""The chain of the proof, link by link: claimed and measured exponents side by side, and how loose the bound is.

One row per criterion and regime, from the records of the summary. Rows are never combined: each criterion has a
threshold of its own, and none of them is "the" threshold.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import combinations

from expreg.core.stats.describe import Record
from expreg.kinds.network.summary.groups import LINKS, criteria


def table(groups: Sequence[Record], verdicts: Sequence[Record]) -> list[Record]:
    """Return one row per link, criterion and group, in the order of the proof; criteria not measured have none.

    `factor_log10` is log10 of the bound's width (C.14, our constants) over the measured one at the largest n with a
    threshold inside the grid; if there is none, `factor_is` says "at least" or "at most" instead of "equal".
    `exponent_gap` is the claimed exponent minus the measured one after the log factor. `regimes` says what differs
    between the groups beyond their intervals, null where there is one group.
    """
    judged = {(v["criterion"], v["group"]): v for v in verdicts if v["claim"] == "width"}
    rows = []
    for link in LINKS:
        for name in (criterion.name for criterion in criteria() if criterion.link == link):
            pairs = [(group, c) for group in groups for c in group["criteria"] if c["criterion"] == name]
            found = [(group, c) for group, c in pairs if (name, group["label"]) in judged]
            shared = {"link": link, "regimes": _regimes([criterion for _, criterion in found])}
            rows += [_row(group["label"], c, judged[name, group["label"]]) | shared for group, c in found]
    return rows


def _row(label: str, criterion: Record, verdict: Record) -> Record:
    exponent = criterion["exponent"]
    claimed, corrected = criterion["claim_exponent"], exponent["corrected"]["value"]
    local = [bound["alpha_eff"] for bound in criterion["bound_exponent"] if bound["alpha_eff"] is not None]
    return {
        "criterion": criterion["criterion"],
        "title": criterion["title"],
        "group": label,
        "claimed": claimed,
        "bound_low": min(local, default=None),
        "bound_high": max(local, default=None),
        **{kind: {key: exponent[kind][key] for key in ("value", "low", "high")} for kind in ("raw", "corrected")},
        "usable": exponent["usable"],
        "exponent_gap": claimed - corrected if exponent["usable"] and corrected is not None else None,
        **_factor(criterion),
        **{key: verdict[key] for key in ("replicates", "censored_share", "verdict", "reason")},
        "figure": "thresholds",
    }


def _factor(criterion: Record) -> Record:
    """Return the bound's width over the measured one as a power of ten, at the largest n inside the grid if any is."""
    asked = {bound["n"]: bound["width"] for bound in criterion["bound_exponent"]}
    found = []
    for threshold in criterion["thresholds"]:
        n, (width, relation) = threshold["n"], _KNOWN[threshold["beyond"]]
        if all(size is not None and math.isfinite(size) for size in (threshold[width], asked.get(n))):
            found.append((relation == "equal", n, threshold[width], relation))
    if not found:
        return {"at_n": None, "width": None, "factor_log10": None, "factor_is": None}
    _, n, width, relation = max(found)
    return {"at_n": n, "width": width, "factor_log10": math.log10(asked[n] / width), "factor_is": relation}


# Of a threshold inside or beyond the grid: the width that is known, and what the factor over it is.
_KNOWN = {None: ("interpolated", "equal"), "above": ("widest", "at most"), "below": ("narrowest", "at least")}


def _regimes(criteria: Sequence[Record]) -> str | None:
    """Say whether exponents or widths of one criterion differ between regimes: if two intervals are disjoint.

    Widths are compared at the largest n that both regimes have.
    """
    if len(criteria) < 2:
        return None
    slopes = [_interval(c["exponent"]["corrected"]) for c in criteria if c["exponent"]["usable"]]
    widths = [{t["n"]: found for t in c["thresholds"] if (found := _interval(t, "interpolated_"))} for c in criteria]
    pairs = {
        "exponents": list(combinations(filter(None, slopes), 2)),
        "widths": [
            (one[max(shared)], other[max(shared)])
            for one, other in combinations(widths, 2)
            if (shared := one.keys() & other.keys())
        ],
    }
    differ = [name for name, of in pairs.items() if any(one[1] < two[0] or two[1] < one[0] for one, two in of)]
    return f"{' and '.join(differ)} differ" if differ else "no difference shown"


def _interval(record: Record, prefix: str = "") -> tuple[float, float] | None:
    low, high = record[f"{prefix}low"], record[f"{prefix}high"]
    known = low is not None and high is not None and math.isfinite(low) and math.isfinite(high)
    return (low, high) if known else None


def sentences(rows: Sequence[Record], groups: Sequence[Record] = ()) -> list[str]:
    """Return where the proof is loosest and tightest, by the exponent and by the width, as far as it is known.

    With `groups` also how well the linearised network predicts the widths for movement.
    """
    return [*_by_exponent(rows), *_by_width(rows), *_surrogate(groups)]


def _surrogate(groups: Sequence[Record]) -> Iterator[str]:
    """Yield the largest deviation of thresholds of the linearised movement from those of the measured one (B.24)."""
    deviations = []
    for group in groups:
        inside = {
            c["criterion"]: {t["n"]: t["interpolated"] for t in c["thresholds"] if t["beyond"] is None}
            for c in group["criteria"]
        }
        one, other = (inside.get(name, {}) for name in ("movement", "movement_linearised"))
        deviations += [abs(math.log(other[n] / one[n])) for n in one.keys() & other.keys() if one[n] and other[n]]
    if deviations:
        worst, count = 100 * math.expm1(max(deviations)), len(deviations)
        yield (
            f"The linearised network (B.24), which is not trained, gives the widths for movement within {worst:.2g} %"
            f" ({count} threshold{'s' if count > 1 else ''} off the success curves)."
        )


def _by_exponent(rows: Sequence[Record]) -> Iterator[str]:
    known = sorted((row for row in rows if row["exponent_gap"] is not None), key=lambda row: row["corrected"]["value"])
    if len(known) > 1:
        low, high = (f"{row['corrected']['value']:.2f} ({_place(row)})" for row in (known[0], known[-1]))
        yield (
            f"After the log factor the exponents of n reach from {low} to {high},"
            f" where {known[0]['claimed']:g} is claimed."
        )


def _by_width(rows: Sequence[Record]) -> Iterator[str]:
    known = sorted((row for row in rows if row["factor_is"] == "equal"), key=lambda row: -row["factor_log10"])
    if len(known) > 1:
        loosest, tightest = known[0], known[-1]
        yield (
            f"The bound asks for 10^{loosest['factor_log10']:.0f} times the measured width at the loosest"
            f" ({_place(loosest)}, n = {loosest['at_n']}) and 10^{tightest['factor_log10']:.0f} times at the tightest"
            f" ({_place(tightest)}, n = {tightest['at_n']}); its constants are ours."
        )


def _place(row: Record) -> str:
    return f"{row['criterion']}, {row['group']}"
