"""The numbers of a summary in words: formats, claims, warnings, the verdicts for a terminal."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from expreg.core.page import terminal
from expreg.core.page.style import finite, records
from expreg.core.store.table import coverage_text
from expreg.errors import printable
from expreg.types import FAILED, Experiment

_MOST_GROUPS = 4
# Columns, and facts of the manifest, that must have one value per run: rows of different ones are not one experiment.
_SET_UP = ("precision", "device", "expreg_version", "jax_version")
_FACTS = ("xla_flags", "compiled_steps")

STATUSES = {
    "converged": "reached the tolerance",
    "max_steps": "did not reach it within the budget",
    "diverged": "the residual exploded",
    "nonfinite": "left the range of numbers",
    "collapsed": "collapsed",
    "trivial": "went to the trivial solution",
    "stalled": "made no more progress",
    "oom": "failed: out of memory",
    "timeout": "failed: out of time",
    "error": "failed",
}
"""What a status means where the experiment does not say otherwise (`Experiment.statuses`)."""


class Parts(NamedTuple):
    """What an experiment adds to its page and to the terminal, beside verdicts and figures.

    - `tables`: title, note, columns, rows, and if wanted `group` (a heading above), `folded` ("closed" or "open"),
      `digits`, `prose` (columns of sentences). A cell is a number, a text, None, or (value, low, high).
    - `block(environment, drawn)`: HTML above the verdicts, by the jinja2 environment of the page; `drawn` are the names
      of the figures that the page has. `text()`: the same as lines for a terminal.
    - `verdicts`: those that the block does not show.
    - `grid`: over which grid the cells lie, to end the sentence on what was run; `warnings`: what limits the numbers.
    """

    tables: Sequence[Mapping[str, Any]]
    verdicts: Sequence[Mapping[str, Any]]
    block: Callable[[Any, set[str]], str] = lambda *_: ""
    text: Callable[[], list[str]] = list
    grid: str = ""
    warnings: Sequence[str] = ()


def parts(experiment: Experiment, summary: Mapping[str, Any]) -> Parts:
    """Return what the experiment adds to the page: what its `page` says, else the tables of the summary."""
    return experiment.page(summary) or Parts(records(summary, "tables"), records(summary, "verdicts"))


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


def extent(values: set[Any]) -> str:
    """Return the range of some numbers in words."""
    low, high = min(values), max(values)
    return number(low) if low == high else f"{number(low)} to {number(high)}"


def by_claim(
    verdicts: Sequence[Mapping[str, Any]], claims: Mapping[str, tuple[str, str]]
) -> list[tuple[str, str, list[Mapping[str, Any]]]]:
    """Return (claim, meaning of the measured number, verdicts), claims in their first order.

    `claims`: those of the experiment; a claim that it has no words for is shown as it is.
    """
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for verdict in verdicts:
        name, claimed = str(verdict.get("claim", "")), finite(verdict.get("claimed"))
        words, measured = claims.get(name, (name, "measured"))
        words = words.replace("{}", f"{claimed:g}" if claimed is not None else "–")
        found.setdefault((words, measured), []).append(verdict)
    return [(*words, of) for words, of in found.items()]


def verdict_text(experiment: Experiment, summary: Mapping[str, Any]) -> str:
    """Return what a run says of its claims as plain text of at most 100 columns."""
    own = parts(experiment, summary)
    found = [own.text(), *(list(_claim_lines(*claim)) for claim in by_claim(own.verdicts, experiment.claims))]
    text = "\n\n".join("\n".join(map(printable, lines)) for lines in found if lines)
    return text or "No verdicts: no claim applies to what was measured."


def _claim_lines(claim: str, measured: str, verdicts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a heading, then for each verdict one aligned row and its reason."""
    rows = [
        [
            verdict.get("group") or "",
            verdict.get("criterion"),
            f"{number(verdict.get('measured'))} {interval(verdict.get('low'), verdict.get('high'))}".strip(),
            verdict.get("verdict"),
        ]
        for verdict in verdicts
    ]
    yield from terminal.wrapped(f"{claim} (measured: {measured})")
    for line, verdict in zip(terminal.lines([""] * 4, rows), verdicts, strict=True):
        yield line
        yield from terminal.wrapped(f"{verdict.get('reason') or ''} {replicates_words(verdict)}".strip(), 6)


def replicates_words(verdict: Mapping[str, Any]) -> str:
    """Return how many replicates a verdict rests on and how many of them are censored."""
    count, censored = finite(verdict.get("replicates")), finite(verdict.get("censored_share"))
    found = [] if count is None else [f"{count:.0f} replicate{'s' if count != 1 else ''}"]
    found += [] if censored is None else [f"{share(censored)} censored"]
    return f"({', '.join(found)})" if found else ""


def asked(summary: Mapping[str, Any], grid: str = "") -> str:
    """Return one sentence: what was run, on what, over which `grid`."""
    counts = summary.get("counts") or {}
    cells = counts.get("cells", 0)
    text = f" of the experiment {summary.get('experiment', '')}"
    if names := [str(group.get("label", "")) for group in records(summary, "groups")]:
        hidden = len(names) - _MOST_GROUPS
        text += f" on {'; '.join(names[:_MOST_GROUPS])}" + (f"; and {hidden} more" if hidden > 0 else "")
    if "planned" in counts:
        return f"{coverage_text(counts, f'{text}{grid};')}."
    return f"{cells} cell{'s' if cells != 1 else ''}{text}{grid}."


def tally(summary: Mapping[str, Any]) -> str:
    """Return how many verdicts there are of each kind, in one sentence."""
    verdicts = [str(verdict.get("verdict")) for verdict in records(summary, "verdicts")]
    counts = [f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts)]
    return f"Of {len(verdicts)} verdicts: {', '.join(counts)}." if verdicts else ""


def warnings(
    cells: pd.DataFrame, summary: Mapping[str, Any], own: Sequence[str] = (), manifest: Mapping[str, Any] | None = None
) -> list[str]:
    """Return what a reader must know before believing a number: failures, the experiment's `own`, mixed set-ups."""
    counts = summary.get("counts") or {}
    statuses = counts.get("by_status") or {}
    failed = {status: statuses[status] for status in FAILED if statuses.get(status)}
    lines = []
    if counts.get("damaged"):
        lines.append(
            f"{coverage_text(counts)}: what was in damaged parts is missing here; the same command runs it again."
        )
    if failed:
        which = ", ".join(f"{status} {count}" for status, count in failed.items())
        lines.append(f"{sum(failed.values())} cells failed ({which}); they count neither as success nor as failure.")
    lines += own
    swept = {name for group in records(summary, "groups") for name in group.get("group") or {}}
    found = {name: set(cells[name].dropna().astype(str)) for name in _SET_UP if name in cells and name not in swept}
    executions = [manifest or {}, *(manifest or {}).get("earlier", [])]
    found |= {name: {str(one[name]) for one in executions if name in one} for name in _FACTS}
    for name, values in found.items():
        if len(values) > 1:
            shown = ", ".join(value or "none" for value in sorted(values))
            lines.append(f"The rows come from different set-ups, {name}: {shown}.")
    return lines
