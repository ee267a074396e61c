"""The numbers of a summary in words: formats, claims, warnings, the verdicts for a terminal."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from expreg.core.page.style import criteria_of, finite, records
from expreg.errors import printable
from expreg.types import FAILED

TABLE_WIDTH = 100
_GROUP_WIDTH = 36
_MOST_GROUPS = 4
# Columns that must have one value per run: rows from different machines or versions are not one experiment.
_SET_UP = ("precision", "device", "expreg_version", "jax_version")

# Beyond this factor over n, lambda shapes the exponents: the verdicts draw the same line.
LAMBDA_FACTOR = 3.0

# claim -> what is claimed, and what the measured number is. Unknown claims speak for themselves.
CLAIMS = {
    "quadratic": ("Exact Newton steps converge quadratically near the optimum", "order of convergence"),
    "contraction": (
        "A step with a sketched Hessian shrinks the distance by eps/(1-eps), with probability at least {}",
        "share of steps near the optimum",
    ),
    "width": ("The width needed grows at most like n^{} log(n/delta)", "exponent of n after the log factor"),
    "probability": ("Gradient descent converges with probability at least {}", "share at the widest m"),
    "linear rate": (
        "Converged runs keep the rate of the proof at every step, with probability at least {}",
        "share at the widest m",
    ),
    "kernel": (
        "The smallest eigenvalue stays at least lambda/2, with probability at least {}",
        "share at the widest m",
    ),
    "concentration": (
        "The width for ||H(0) - H_cts||_F <= lambda/4 grows more slowly than n^{}, at fixed delta",
        "exponent of n, no log factor taken out",
    ),
    "rate of convergence": (
        "The residual falls at least as fast as the theory says",
        "speed over the theory's",
    ),
    "shift bound": ("The shift of the target stays below its bound", "shift / bound, 5 to 95 %"),
    "proportional": ("The shift is proportional to a small move", "slope of log shift in log move"),
    "shift identity": ("A move is the old problem with a shifted target", "largest relative error"),
    "steps to tolerance": ("Steps to tolerance are those of infinite width", "measured over predicted steps"),
}


def number(value: object, digits: int = 3) -> str:
    """Return a number in at most about `digits` digits, a whole one in full; a dash where there is none."""
    known = finite(value)
    if known is None:
        return "–"
    size = abs(known)
    if size < 1e7 and (size >= 10**digits or known == round(known)):
        return f"{known:.0f}"
    return f"{known:.{digits}f}" if 1e-3 <= size < 1 else f"{known:.{digits}g}"


def interval(low: object, high: object, digits: int = 3) -> str:
    """Return `[low, high]`, a side without limit as a dash; empty where both sides have none."""
    if finite(low) is None and finite(high) is None:
        return ""
    return f"[{number(low, digits)}, {number(high, digits)}]"


def share(value: object) -> str:
    """Return a share in per cent, or a dash where there is none."""
    known = finite(value)
    return "–" if known is None else f"{100 * known:.3g} %"


def claim_words(verdict: Mapping[str, Any]) -> tuple[str, str]:
    """Return what a verdict's claim says, and what its measured number is."""
    claimed = finite(verdict.get("claimed"))
    said, measured = CLAIMS.get(str(verdict.get("claim", "")), (str(verdict.get("claim", "")), "measured"))
    return (said.replace("{}", f"{claimed:g}" if claimed is not None else "–"), measured)


def by_claim(summary: Mapping[str, Any]) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Return (claim, meaning of the measured number, verdicts), claims in their first order.

    Verdicts that the chain of the proof already shows are left out.
    """
    shown = {(row.get("criterion"), row.get("group")) for row in records(summary, "chain")}
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for verdict in records(summary, "verdicts"):
        if verdict.get("claim") == "width" and (verdict.get("criterion"), verdict.get("group")) in shown:
            continue
        found.setdefault(claim_words(verdict), []).append(verdict)
    return [(*words, verdicts) for words, verdicts in found.items()]


def claim_table(summary: Mapping[str, Any]) -> list[str]:
    """Return the verdicts beside the chain as lines of at most 100 columns, reasons wrapped under their rows."""
    lines = [line for claim in by_claim(summary) for line in ["", *_claim_lines(*claim)]]
    return lines[1:]


def _claim_lines(claim: str, measured: str, verdicts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a heading, then for each verdict one aligned row and its reason."""
    rows = [
        [
            _cell(verdict.get("criterion"), 12),
            _cell(verdict.get("group"), _GROUP_WIDTH),
            f"{number(verdict.get('measured'))} {interval(verdict.get('low'), verdict.get('high'))}".strip(),
            _cell(verdict.get("verdict"), 26),
        ]
        for verdict in verdicts
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    yield from textwrap.wrap(printable(f"{claim} (measured: {measured})"), TABLE_WIDTH)
    for row, verdict in zip(rows, verdicts, strict=True):
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        indent = " " * (4 + widths[0])
        reason = f"{verdict.get('reason') or ''} {replicates_words(verdict)}"
        yield from textwrap.wrap(
            printable(reason.strip()), TABLE_WIDTH, initial_indent=indent, subsequent_indent=indent
        )


def _cell(value: object, width: int) -> str:
    text = printable("–" if value is None else str(value))
    return text if len(text) <= width else text[: width - 1] + "…"


def replicates_words(verdict: Mapping[str, Any]) -> str:
    """Return how many replicates a verdict rests on and how many of them are censored."""
    count, censored = finite(verdict.get("replicates")), finite(verdict.get("censored_share"))
    parts = [] if count is None else [f"{count:.0f} replicates"]
    parts += [] if censored is None else [f"{share(censored)} censored"]
    return f"({', '.join(parts)})" if parts else ""


def asked(summary: Mapping[str, Any]) -> str:
    """Return one sentence or two: what was run, over which grid, how often."""
    groups = records(summary, "groups")
    rows = [row for group in groups for criterion in criteria_of(group) for row in records(criterion, "success")]
    rows = rows or [row for group in groups for row in records(group, "rates")]
    cells = (summary.get("counts") or {}).get("cells", 0)
    text = f"{cells} cell{'s' if cells != 1 else ''} of the experiment {summary.get('experiment', '')}"
    if groups:
        text += f" on {_listed([str(group.get('label', '')) for group in groups])}"
    if rows:
        n, m = ({row["n"] for row in rows}, {row["m"] for row in rows})
        text += f", for {_range('n', n)} and {_range('m', m)}"
    trials = {int(row["trials"]) for row in rows if finite(row.get("trials"))}
    return text + (f", {_extent(trials)} replicates each." if trials else ".")


def _listed(names: list[str]) -> str:
    hidden = len(names) - _MOST_GROUPS
    return "; ".join(names[:_MOST_GROUPS]) + (f"; and {hidden} more" if hidden > 0 else "")


def _range(name: str, values: set[Any]) -> str:
    return f"{name} = {_extent(values)}"


def _extent(values: set[Any]) -> str:
    low, high = min(values), max(values)
    return number(low) if low == high else f"{number(low)} to {number(high)}"


def tally(summary: Mapping[str, Any]) -> str:
    """Return how many verdicts there are of each kind, in one sentence."""
    verdicts = [str(verdict.get("verdict")) for verdict in records(summary, "verdicts")]
    told = [f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts)]
    return f"Of {len(verdicts)} verdicts: {', '.join(told)}." if verdicts else ""


def warnings(cells: pd.DataFrame, summary: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know before believing a number: failures, censoring, mixed set-ups."""
    statuses = (summary.get("counts") or {}).get("by_status") or {}
    failed = {status: statuses[status] for status in FAILED if statuses.get(status)}
    lines = []
    if failed:
        told = ", ".join(f"{status} {count}" for status, count in failed.items())
        lines.append(f"{sum(failed.values())} cells failed ({told}); they count neither as success nor as failure.")
    criteria = [criterion for group in records(summary, "groups") for criterion in criteria_of(group)]
    rows = [row for criterion in criteria for row in records(criterion, "thresholds")]
    censored = sum(finite(row.get("quantile")) is None for row in rows)
    loose = sum(row.get("bracketed") is False for row in rows)
    if censored:
        lines.append(f"{censored} of {len(rows)} thresholds lie beyond the grid of widths or lack replicates.")
    if loose:
        lines.append(f"The grid of widths does not bracket {loose} of {len(rows)} thresholds.")
    return lines + _spectra(summary) + _mixed(cells, summary)


def _spectra(summary: Mapping[str, Any]) -> list[str]:
    """Return one line per group whose lambda vanishes, or changes so much with n that exponents mix it in."""
    lines = []
    for group in records(summary, "groups"):
        spectrum, label = records(group, "spectrum"), group.get("label", "")
        values = {row["n"]: low for row in spectrum if (low := finite(row.get("lambda_cts"))) is not None}
        zero = [row["n"] for row in spectrum if _vanishes(row)]
        if zero:
            lines.append(
                f"{label}: lambda is 0 up to rounding at n = {', '.join(map(str, zero))}: the data hold equal points,"
                " or points too close to tell apart. The theorem says nothing there."
            )
        elif values and max(values.values()) > LAMBDA_FACTOR * min(values.values()):
            exponent = finite(group.get("lambda_exponent"))
            law = "" if exponent is None else f", like n^{exponent:.2f}"
            lines.append(
                f"{label}: lambda changes from {number(values[min(values)])} at n = {min(values)} to"
                f" {number(values[max(values)])} at n = {max(values)}{law}; exponents of n mix lambda(n) in."
            )
    return lines


def _vanishes(row: Mapping[str, Any]) -> bool:
    smallest, largest = finite(row.get("lambda_cts")), finite(row.get("lambda_max_cts"))
    return smallest is not None and largest is not None and smallest <= 1e-12 * largest


def _mixed(cells: pd.DataFrame, summary: Mapping[str, Any]) -> list[str]:
    """Return one line per column of the set-up that varies without being swept."""
    swept = {name for group in records(summary, "groups") for name in group.get("group") or {}}
    lines = []
    for column in _SET_UP:
        if column in cells.columns and column not in swept:
            values = sorted({str(value) for value in cells[column].dropna().unique()})
            if len(values) > 1:
                lines.append(f"The rows come from different set-ups, {column}: {', '.join(values)}.")
    return lines
