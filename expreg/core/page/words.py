"""The numbers of a summary in words: formats, claims, warnings, the verdicts for a terminal."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import pandas as pd

from expreg.core.page import terminal
from expreg.core.page.style import finite, records
from expreg.core.stats.describe import CONSISTENT, CONTRADICTS, OUTSIDE, UNRESOLVED
from expreg.core.store.table import coverage_text
from expreg.errors import printable
from expreg.types import FAILED, Experiment

_MOST_GROUPS = 4
_MOST_VERDICTS = 6
_MOST_REASONS = 4
_ENDS = {CONTRADICTS: ("contradicts its claim", "contradict their claims"), UNRESOLVED: ("cannot decide",) * 2}
# Columns, and facts of the manifest, that must have one value per run: rows of different ones are not one experiment.
_SET_UP = ("precision", "device", "expreg_version", "jax_version")
_FACTS = ("xla_flags", "compiled_steps", "functions")

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

    - `answer`: sentences that say what was found; `first`: a table of the numbers behind them. Both come first, on the
      page and on the terminal.
    - `tables`: title, note, columns, rows, and if wanted `group` (a heading above), `folded` ("closed" or "open"),
      `digits`, `prose` (columns of sentences). A cell is a number, a text, None, or (value, low, high).
    - `block(environment, drawn)`: HTML below the verdicts, by the jinja2 environment of the page; `drawn` are the names
      of the figures that the page has.
    - `grid`: over which grid the cells lie, to end the sentence on what was run; `warnings`: what limits the numbers.
    """

    tables: Sequence[Mapping[str, Any]]
    verdicts: Sequence[Mapping[str, Any]]
    answer: Sequence[str] = ()
    first: Mapping[str, Any] = MappingProxyType({"rows": ()})
    block: Callable[[Any, set[str]], str] = lambda *_: ""
    grid: str = ""
    warnings: Sequence[str] = ()


def parts(experiment: Experiment, summary: Mapping[str, Any]) -> Parts:
    """Return what the experiment adds to the page: what its `page` says, else answer and tables of the summary."""
    if own := experiment.page(summary):
        found: Parts = own
        return found
    answer = summary.get("answer") or {}
    first = answer.get("table") or {"rows": ()}
    return Parts(records(summary, "tables"), records(summary, "verdicts"), answer.get("sentences") or (), first)


def number(value: object, digits: int = 3) -> str:
    """Return a number in at most about `digits` digits, a whole one in full; a dash where there is none."""
    known = finite(value)
    if known is None:
        return "–"
    size = abs(known)
    if size < 1e7 and (size >= 10**digits or known == round(known)):
        return f"{known:.0f}"
    return f"{known:.{digits}f}" if 0.1 <= size < 1 else f"{known:.{digits}g}"


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
    """Return what a run found as plain text of at most 100 columns: answer, table, verdicts, limits."""
    own = parts(experiment, summary)
    blocks = [
        [line for sentence in own.answer for line in terminal.wrapped(sentence)],
        list(_table_lines(own.first)),
        list(_verdict_lines(own.verdicts, experiment.claims)),
        [line for limit in own.warnings for line in terminal.wrapped(f"Note: {limit}")],
    ]
    return "\n\n".join("\n".join(map(printable, lines)) for lines in blocks if lines)


def _table_lines(table: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table; columns that do not fit beside the others follow below, behind the first one again."""
    if not table["rows"]:
        return
    columns = list(
        zip(*[table["columns"], *([cell_text(value) for value in row] for row in table["rows"])], strict=True)
    )
    width = [max(map(len, column)) + 2 for column in columns]
    parts: list[list[int]] = [[]]
    for i in range(1, len(columns)):
        if parts[-1] and sum(width[k] for k in [0, *parts[-1], i]) > terminal.WIDTH:
            parts.append([])
        parts[-1].append(i)
    for part in parts:
        head, *rows = zip(*(columns[i] for i in [0, *part]), strict=True)
        yield from terminal.lines(head, rows)
    if table.get("note"):
        yield from terminal.wrapped(table["note"], 2)


def cell_text(value: object) -> str:
    """Return a cell of a table as text: a number with its interval, where it has one."""
    if isinstance(value, tuple | list):
        return f"{number(value[0])} {interval(value[1], value[2])}".strip()
    return value if isinstance(value, str) else number(value)


def threshold(row: Mapping[str, Any]) -> Any:
    """Return a width threshold as a cell: whole neurons with their interval, or that it lies beyond the grid."""
    ends = [finite(row.get(f"interpolated{end}")) for end in ("", "_low", "_high")]
    if ends[0] is not None:
        return tuple(None if end is None else round(end) for end in ends)
    words = {"below": f"{number(row.get('narrowest'))} or less", "above": f"more than {number(row.get('widest'))}"}
    return words.get(str(row.get("beyond")), "–")


def _verdict_lines(verdicts: Sequence[Mapping[str, Any]], claims: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    """Yield the tally, then each claim, one aligned row per verdict, and the reasons of those that are not consistent.

    Verdicts that do not apply are counted in one sentence; of many groups those that contradict come first.
    """
    yield from terminal.wrapped(tally(verdicts) if verdicts or claims else "")
    applied = [verdict for verdict in verdicts if verdict.get("verdict") != OUTSIDE]
    for claim, measured, found in by_claim(applied, claims):
        yield from terminal.wrapped(f"{claim} ({measured})", 2)
        shown = sorted(found, key=lambda verdict: verdict.get("verdict") != CONTRADICTS)[:_MOST_VERDICTS]
        rows = [[v.get("criterion"), v.get("group") or "", _measured(v), v.get("verdict")] for v in shown]
        for line, verdict in zip(terminal.lines([""] * 4, rows, indent=4), shown, strict=True):
            yield line
            if verdict.get("verdict") != CONSISTENT:
                yield from terminal.wrapped(f"{verdict.get('reason') or ''} {replicates_words(verdict)}".strip(), 8)
        if len(found) > len(shown):
            yield f"    and {len(found) - len(shown)} more; the report has them all"
    yield from terminal.wrapped(outside(verdicts), 2)


def outside(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """Return how many verdicts do not apply, and why, in one sentence; empty where all do."""
    left = [verdict for verdict in verdicts if verdict.get("verdict") == OUTSIDE]
    reasons = list(dict.fromkeys(reason for verdict in left for reason in verdict.get("outside") or ()))
    shown = [*reasons[:_MOST_REASONS], *[f"{len(reasons) - _MOST_REASONS} more"] * (len(reasons) > _MOST_REASONS)]
    why = f", outside the theorem's assumptions: {'; '.join(shown)}" if shown else ""
    return f"{len(left)} verdict{'s do' if len(left) > 1 else ' does'} not apply{why}." if left else ""


def _measured(verdict: Mapping[str, Any]) -> str:
    return cell_text([verdict.get("measured"), verdict.get("low"), verdict.get("high")])


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
        text += f" on {'; '.join(names)}" if len(names) <= _MOST_GROUPS else f" in {len(names)} groups"
    if "planned" in counts:
        return f"{coverage_text(counts, f'{text}{grid};')}."
    return f"{cells} cell{'s' if cells != 1 else ''}{text}{grid}."


def tally(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """Return how many verdicts there are of each kind, without those that do not apply, in one sentence."""
    found = Counter(str(verdict.get("verdict")) for verdict in verdicts if verdict.get("verdict") != OUTSIDE)
    if not found:
        return "" if verdicts else "No verdicts: no claim applies to what was measured."
    ends = {verdict: _ENDS.get(verdict, (f"is {verdict}", f"are {verdict}")) for verdict in found}
    if len(found) == 1:
        [(verdict, count)] = found.items()
        if verdict == UNRESOLVED and count > 1:
            return f"None of the {count} verdicts can be decided."
        return f"All {count} verdicts {ends[verdict][1]}." if count > 1 else f"The only verdict {ends[verdict][0]}."
    counts = [f"{count} {ends[verdict][count > 1]}" for verdict, count in found.items()]
    return f"Of {found.total()} verdicts {', '.join(counts)}."


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
    executions += [source for one in executions for source in one.get("reused", ())]
    found |= {name: {str(one[name]) for one in executions if name in one} for name in _FACTS}
    for name, values in found.items():
        if len(values) > 1:
            shown = ", ".join(value or "none" for value in sorted(values))
            lines.append(f"The rows come from different set-ups, {name}: {shown}.")
    return lines
