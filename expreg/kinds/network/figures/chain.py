"""The chain of the proof as one table: for a terminal of 100 columns, and as records for the page."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from expreg.core.page.style import finite, records
from expreg.core.page.words import TABLE_WIDTH, claim_table, number
from expreg.errors import printable

CAUTION = (
    'No single cell of this table is "the" threshold: every criterion has one of its own, and each belongs to its data,'
    " labels, scale and step size."
)
HEADINGS = {
    "initial concentration": "Initial concentration",
    "certificate": "Certificate",
    "lazy movement": "Lazy movement",
    "kernel": "Kernel stays positive definite",
    "linear rate": "Linear rate",
    "convergence": "Convergence",
}
_COLUMNS = ("regime", "raw exponent", "after log factor", "runs", "cens.", "factor", "verdict")
_SHORT = {"not resolvable at these n": "open"}
_MARKS = {"equal": "", "at least": "≥", "at most": "≤"}
_INDENT = 2


def exponent(row: Mapping[str, Any], kind: str) -> str:
    """Return a measured exponent with its interval, a dash where it should not be read as one."""
    found = row.get(kind) or {}
    value, low, high = (finite(found.get(key)) for key in ("value", "low", "high"))
    if not row.get("usable") or value is None:
        return "–"
    return f"{value:.2f}" + ("" if low is None or high is None else f" [{low:.2f}, {high:.2f}]")


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


def links(summary: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return (heading, rows) of every link of the chain that was measured, in the order of the proof."""
    rows = records(summary, "chain")
    return [(HEADINGS.get(str(link), str(link)), list(found)) for link, found in groupby(rows, lambda r: r.get("link"))]


def verdict_table(summary: Mapping[str, Any]) -> str:
    """Return the chain and the other verdicts as plain text of at most 100 columns."""
    parts = [part for part in (text(summary), claim_table(summary)) if part]
    if not parts:
        return "No verdicts: nothing was measured that a claim speaks of."
    return "\n\n".join("\n".join(part) for part in parts)


def text(summary: Mapping[str, Any]) -> list[str]:
    """Return the table as lines of at most 100 columns; none where no link was measured."""
    rows = records(summary, "chain")
    if not rows:
        return []
    cells = [_cells(row) for row in rows]
    widths = [max(len(line[i]) for line in (_COLUMNS, *cells)) for i in range(len(_COLUMNS))]
    widths[0] = min(widths[0], TABLE_WIDTH - _INDENT - sum(widths[1:]) - 2 * (len(widths) - 1))
    lines = ["The chain of the proof: which step is loose, and where", _line(_COLUMNS, widths)]
    for _, pairs in groupby(zip(rows, cells, strict=True), lambda pair: pair[0].get("criterion")):
        lines += _criterion_lines(list(pairs), widths)
    ends = [*(summary.get("chain_summary") or []), _legend(), CAUTION]
    return [*lines, *(part for sentence in ends for part in _wrapped(sentence))]


def _criterion_lines(pairs: Sequence[tuple[dict[str, Any], list[str]]], widths: list[int]) -> Iterator[str]:
    first = pairs[0][0]
    ends = [finite(row.get(key)) for row, _ in pairs for key in ("bound_low", "bound_high")]
    local = [end for end in ends if end is not None]
    range_of = {"bound_low": min(local, default=None), "bound_high": max(local, default=None)}
    claim = f"claimed {number(first.get('claimed'))}, the bound's own {bound(range_of)}"
    regimes = f"; {first['regimes']}" if first.get("regimes") else ""
    yield from _wrapped(f"{first.get('criterion')}: {first.get('title')} ({claim}{regimes})")
    for row, cells in pairs:
        yield _line(cells, widths)
        if row.get("verdict") != "consistent":
            yield from _wrapped(str(row.get("reason") or ""), _INDENT + 4)


def _cells(row: Mapping[str, Any]) -> list[str]:
    verdict = str(row.get("verdict"))
    return [
        printable(str(row.get("group")).replace(" = ", "=")),
        exponent(row, "raw").replace(", ", ","),
        exponent(row, "corrected").replace(", ", ","),
        number(row.get("replicates")),
        percent(row.get("censored_share")),
        factor(row),
        printable(_SHORT.get(verdict, verdict))[:14],
    ]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    kept = [cell if len(cell) <= width else cell[: width - 1] + "…" for cell, width in zip(cells, widths, strict=True)]
    return (" " * _INDENT + "  ".join(cell.ljust(width) for cell, width in zip(kept, widths, strict=True))).rstrip()


def _wrapped(sentence: str, indent: int = 0) -> list[str]:
    pad = " " * indent
    return textwrap.wrap(printable(sentence), TABLE_WIDTH, initial_indent=pad, subsequent_indent=pad)


def _legend() -> str:
    return (
        "Factor: the bound's width (C.14, constants ours) over the measured one at the largest n. Open: not"
        " resolvable at these n."
    )
