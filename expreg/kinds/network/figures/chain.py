"""The chain of the proof as one table of the page, and what else page and terminal show of a run of networks."""

import sys
from collections.abc import Iterator, Mapping
from importlib.resources import files
from itertools import groupby
from typing import Any

from markupsafe import Markup

from expreg.core.page.style import finite, records, some
from expreg.core.page.words import Parts, extent, number
from expreg.kinds.network.figures import answer, searched
from expreg.kinds.network.figures.look import criteria_of
from expreg.kinds.network.figures.tables import tables
from expreg.kinds.network.figures.thresholds import exponent_words, figure_of

CAUTION = (
    'No single cell of this table is "the" threshold: every criterion has one of its own, and each belongs to its data,'
    " labels, scale and step size."
)
HEADINGS = {"kernel": "Kernel stays positive definite"}
UNEQUAL = 1.5  # a ratio of lambda from which equal flow times are unequal budgets
MOST_LOOSE = 6
"""Thresholds that the grid does not bracket and that are named."""
STEEP = 0.25
"""A power of n in lambda that a reader is warned of."""
_MARKS = {"equal": "", "at least": "≥", "at most": "≤"}


def page(summary: Mapping[str, Any]) -> Parts:
    """Return answer, tables, chain and warnings of a run."""
    return Parts(
        tables=tables(summary),
        verdicts=records(summary, "verdicts"),
        answer=answer.sentences(summary),
        first=answer.table(summary),
        block=lambda environment, drawn: block(summary, environment, drawn),
        grid=grid(summary),
        warnings=warnings(summary),
    )


def block(summary: Mapping[str, Any], environment: Any, drawn: set[str]) -> Markup:
    """Return the chain as HTML, empty where no link was measured; `drawn`: the figures that it may refer to."""
    rows = records(summary, "chain")
    if not rows:
        return Markup("")
    links = [
        (HEADINGS.get(str(link), str(link).capitalize()), list(found))
        for link, found in groupby(rows, lambda row: row.get("link"))
    ]
    source = files("expreg.kinds.network.figures").joinpath("chain.html.jinja").read_text("utf-8")
    own = sys.modules[__name__]
    shown = environment.from_string(source)
    return Markup(shown.render(summary=summary, links=links, chain=own, places=figure_of(summary), drawn=drawn))


def exponent(row: Mapping[str, Any], kind: str) -> str:
    """Return a measured exponent with its interval, a dash where it should not be read as one."""
    return exponent_words(row, kind, "–")


def gap(row: Mapping[str, Any]) -> str:
    """Return by how much the measured exponent lies below the claimed one."""
    value = finite(row.get("exponent_gap"))
    return "–" if value is None else f"{value:.2f}"


def factor(row: Mapping[str, Any]) -> str:
    """Return how many times the bound's width exceeds the measured one, as a power of ten."""
    value = finite(row.get("factor_log10"))
    return "–" if value is None else f"{_MARKS.get(str(row.get('factor_is')), '')}10^{value:.0f}"


def percent(value: object) -> str:
    """Return a share in whole per cent."""
    known = finite(value)
    return "–" if known is None else "<1 %" if 0 < known < 0.01 else f"{100 * known:.0f} %"


def bound(row: Mapping[str, Any]) -> str:
    """Return the range of the bound's own exponent over the n of the run (C.15)."""
    low, high = finite(row.get("bound_low")), finite(row.get("bound_high"))
    if low is None or high is None:
        return "–"
    return f"{low:.1f}" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f} to {high:.1f}"


# --- what limits the numbers


def warnings(summary: Mapping[str, Any]) -> list[str]:
    """Return one line each: thresholds beyond the grid, and a lambda that is unknown, vanishes or changes with n."""
    groups = records(summary, "groups")
    sought = groups if answer.widths_vary(groups) else []  # with one width there is no threshold
    rows = [(c, row) for group in sought for c in criteria_of(group) for row in records(c, "thresholds")]
    censored = sum(finite(row.get("quantile")) is None for _, row in rows)
    loose = [f"{c.get('criterion')} at n = {row['n']}" for c, row in rows if row.get("bracketed") is False]
    which = list(dict.fromkeys(loose))
    named = ", ".join([*which[:MOST_LOOSE], *["..."] * (len(which) > MOST_LOOSE)])
    lines = {
        f"{censored} of {len(rows)} thresholds lie beyond the grid of widths or lack replicates.": censored,
        f"The grid of widths does not bracket {len(loose)} of {len(rows)} thresholds: {named}.": len(loose),
    }
    found = [line for line, count in lines.items() if count]
    if left := summary.get("groups_left"):
        found.append(f"Of {len(groups) + left} groups the first {len(groups)} have thresholds and verdicts.")
    shared: dict[str, list[str]] = {}
    for group in sought:
        for line in _spectrum(group):
            shared.setdefault(line, []).append(str(group.get("label", "")))
    found += [f"{some(labels)}: {line}" for line, labels in shared.items()]
    return [*found, *searched.sentences(summary)]


def _spectrum(group: Mapping[str, Any]) -> Iterator[str]:
    spectrum = records(group, "spectrum")
    values = {row["n"]: low for row in spectrum if (low := finite(row.get("lambda_cts"))) is not None}
    largest = {row["n"]: finite(row.get("lambda_max_cts")) for row in spectrum}
    zero = [n for n, low in values.items() if (high := largest[n]) is not None and low <= 1e-12 * high]
    if spectrum and not values:
        yield "lambda is not known (no theory of this activation): no verdict on width, rate or kernel."
    elif zero:
        yield (
            f"lambda is 0 up to rounding at n = {', '.join(map(str, zero))}: the data hold equal points,"
            " or points too close to tell apart. The theorem says nothing there."
        )
    elif (exponent := finite(group.get("lambda_exponent"))) is not None and abs(exponent) >= STEEP:
        yield (
            f"lambda changes from {number(values[min(values)])} at n = {min(values)} to"
            f" {number(values[max(values)])} at n = {max(values)}, like n^{exponent:.2f}; exponents of n in m include"
            " that, verdicts are about m lambda^2 where it matters."
        )
    timed = any("flow time" in str(criterion.get("title")) for criterion in criteria_of(group))
    known = [low for low in values.values() if low > 0]
    if timed and known and max(known) > UNEQUAL * min(known):
        yield (
            "A budget in flow time is a number of steps proportional to 1/lambda (C.17), and lambda is"
            f" {number(min(known))} to {number(max(known))} here: where it is small, networks have more time, and in"
            " equal time they would have to be wider."
        )


def grid(summary: Mapping[str, Any]) -> str:
    """Return over which n and m a run goes and how often, to end the sentence on what was run."""
    groups = records(summary, "groups")
    rows = [row for group in groups for criterion in criteria_of(group) for row in records(criterion, "success")]
    rows = rows or [row for group in groups for row in records(group, "rates")]
    if not rows:
        return ""
    trials = {int(row["trials"]) for row in rows if finite(row.get("trials"))}
    n, m = ({row[name] for row in rows} for name in ("n", "m"))
    each = "for each n, their widths chosen by a search" if searched.search_of(summary) else "each"
    return f", for n = {extent(n)} and m = {extent(m)}" + (f", {extent(trials)} replicates {each}" if trials else "")
