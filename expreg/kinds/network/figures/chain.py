"""The chain of the proof as one table, on the page and on a terminal, and what else they show of a run of networks."""

import sys
from collections.abc import Iterator, Mapping
from importlib.resources import files
from itertools import groupby
from typing import Any

from markupsafe import Markup

from expreg.core.page import terminal
from expreg.core.page.style import finite, records
from expreg.core.page.words import Parts, extent, number
from expreg.core.stats.describe import OUTSIDE
from expreg.kinds.network.figures import searched
from expreg.kinds.network.figures.look import criteria_of
from expreg.kinds.network.figures.tables import tables
from expreg.kinds.network.figures.thresholds import exponent_words, figure_of, level_of, share_words

CAUTION = (
    'No single cell of this table is "the" threshold: every criterion has one of its own, and each belongs to its data,'
    " labels, scale and step size."
)
LEGEND = "Factor: the bound's width (C.14, constants ours) over the measured one at the largest n."
HEADINGS = {"kernel": "Kernel stays positive definite"}
_COLUMNS = ("regime", "raw exponent", "after log factor", "runs", "cens.", "factor", "verdict")
STEEP = 0.25
"""A power of n in lambda that a reader is warned of."""
_MARKS = {"equal": "", "at least": "≥", "at most": "≤"}


def page(summary: Mapping[str, Any]) -> Parts:
    """Return tables, chain and warnings of a run; width verdicts that the chain shows are not shown again."""
    chained = {(row.get("criterion"), row.get("group")) for row in records(summary, "chain")}
    return Parts(
        tables=tables(summary),
        verdicts=[
            verdict
            for verdict in records(summary, "verdicts")
            if verdict.get("claim") != "width" or (verdict.get("criterion"), verdict.get("group")) not in chained
        ],
        block=lambda environment, drawn: block(summary, environment, drawn),
        text=lambda: text(summary),
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


def answers(summary: Mapping[str, Any]) -> list[str]:
    """Return for each of the first groups from which width on networks converge, in one sentence."""
    level = level_of(summary)
    applies = {
        row.get("group"): row.get("verdict") != OUTSIDE
        for row in records(summary, "chain")
        if row.get("criterion") == "E5"
    }
    found = []
    for group in records(summary, "groups")[:MOST_ANSWERS]:
        for criterion in (c for c in criteria_of(group) if c.get("criterion") == "E5"):
            rows = records(criterion, "thresholds")
            n, m = ", ".join(number(row["n"]) for row in rows), ", ".join(map(_width, rows))
            within = str(criterion.get("title", "")).partition(" converges")[2]
            claim = "; the theorem allows n^2" if applies.get(group.get("label")) else ""
            share = f"{share_words(level)} of the networks converge{within}"
            found.append(f"{group.get('label')}: {share} from m = {m} at n = {n}{claim}.")
    return found


MOST_ANSWERS = 4


def _width(row: Mapping[str, Any]) -> str:
    """Return a threshold in whole neurons, or that it lies beyond the grid."""
    value = finite(row.get("interpolated"))
    if value is not None:
        return f"{value:.0f}"
    ends = {"below": f"{number(row.get('narrowest'))} or less", "above": f"more than {number(row.get('widest'))}"}
    return ends.get(str(row.get("beyond")), "–")


def text(summary: Mapping[str, Any]) -> list[str]:
    """Return the answers and the chain as lines for a terminal; none where no link was measured."""
    rows = records(summary, "chain")
    if not rows:
        return []
    heading, *lines = terminal.lines(_COLUMNS, [_cells(row) for row in rows])
    found = [line for answer in answers(summary) for line in terminal.wrapped(answer)]
    found += [""] * bool(found) + ["The chain of the proof: which step is loose, and where", heading]
    for _, pairs in groupby(zip(rows, lines, strict=True), lambda pair: pair[0].get("criterion")):
        found += _criterion_lines(list(pairs))
    ends = [*(summary.get("chain_summary") or []), *searched.sentences(summary), LEGEND, CAUTION]
    return [*found, *(line for sentence in ends for line in terminal.wrapped(sentence))]


def _criterion_lines(pairs: list[tuple[dict[str, Any], str]]) -> Iterator[str]:
    first = pairs[0][0]
    ends = [finite(row.get(key)) for row, _ in pairs for key in ("bound_low", "bound_high")]
    local = [end for end in ends if end is not None]
    range_of = {"bound_low": min(local, default=None), "bound_high": max(local, default=None)}
    claim = f"claimed {number(first.get('claimed'))}, the bound's own {bound(range_of)}"
    regimes = f"; {first['regimes']}" if first.get("regimes") else ""
    yield from terminal.wrapped(f"{first.get('criterion')}: {first.get('title')} ({claim}{regimes})")
    for row, line in pairs:
        yield line
        if row.get("verdict") != "consistent":
            yield from terminal.wrapped(str(row.get("reason") or ""), 6)


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [
        str(row.get("group")).replace(" = ", "="),
        exponent(row, "raw").replace(", ", ","),
        exponent(row, "corrected").replace(", ", ","),
        number(row.get("replicates")),
        percent(row.get("censored_share")),
        factor(row),
        str(row.get("verdict")),
    ]


# --- what limits the numbers


def warnings(summary: Mapping[str, Any]) -> list[str]:
    """Return one line each: thresholds beyond the grid, and a lambda that is unknown, vanishes or changes with n."""
    groups = records(summary, "groups")
    rows = [row for group in groups for criterion in criteria_of(group) for row in records(criterion, "thresholds")]
    censored = sum(finite(row.get("quantile")) is None for row in rows)
    loose = sum(row.get("bracketed") is False for row in rows)
    lines = {
        f"{censored} of {len(rows)} thresholds lie beyond the grid of widths or lack replicates.": censored,
        f"The grid of widths does not bracket {loose} of {len(rows)} thresholds.": loose,
    }
    found = [line for line, count in lines.items() if count] + [line for group in groups for line in _spectrum(group)]
    return [*found, *searched.sentences(summary)]


def _spectrum(group: Mapping[str, Any]) -> Iterator[str]:
    spectrum, label = records(group, "spectrum"), group.get("label", "")
    values = {row["n"]: low for row in spectrum if (low := finite(row.get("lambda_cts"))) is not None}
    largest = {row["n"]: finite(row.get("lambda_max_cts")) for row in spectrum}
    zero = [n for n, low in values.items() if (high := largest[n]) is not None and low <= 1e-12 * high]
    if spectrum and not values:
        yield f"{label}: lambda is not known (no theory of this activation): no verdict on width, rate or kernel."
    elif zero:
        yield (
            f"{label}: lambda is 0 up to rounding at n = {', '.join(map(str, zero))}: the data hold equal points,"
            " or points too close to tell apart. The theorem says nothing there."
        )
    elif (exponent := finite(group.get("lambda_exponent"))) is not None and abs(exponent) >= STEEP:
        yield (
            f"{label}: lambda changes from {number(values[min(values)])} at n = {min(values)} to"
            f" {number(values[max(values)])} at n = {max(values)}, like n^{exponent:.2f}; exponents of n mix lambda(n)"
            " in, and verdicts are about m lambda^2."
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
