"""Quantiles, groups of rows and verdicts: the parts that the summaries of all kinds are made from."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Record = dict[str, Any]

CONSISTENT, CONTRADICTS, UNRESOLVED = "consistent", "contradicts", "cannot decide"
OUTSIDE = "does not apply"
"""The verdict of a theorem on what lies outside its assumptions."""


def quantiles(values: Any, levels: Sequence[float]) -> list[float | None]:
    """Return the quantiles of the finite values; None where there are none."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return np.quantile(known, levels).tolist() if len(known) else [None] * len(levels)


def median(values: Any) -> float | None:
    """Return the median of the finite values, None if there are none."""
    return quantiles(values, [0.5])[0]


def quartiles(values: Any) -> Record:
    """Return `low`, `median` and `high`: the quartiles of the finite values."""
    return dict(zip(("low", "median", "high"), quantiles(values, [0.25, 0.5, 0.75]), strict=True))


def varying(rows: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Return those of the columns that hold more than one value; a missing one counts."""
    return [name for name in names if name in rows and rows[name].nunique(dropna=False) > 1]


def split(rows: pd.DataFrame, names: Sequence[str]) -> Iterator[tuple[Record, pd.DataFrame]]:
    """Yield (values by name, rows) for each combination of values, in order; a missing value counts."""
    present = [name for name in names if name in rows]
    if not present or rows.empty:
        return
    for key, part in rows.groupby(present, sort=True, dropna=False):
        yield dict(zip(present, key if isinstance(key, tuple) else (key,), strict=True)), part


def spread(values: Iterable[Any], count: int) -> list[Any]:
    """Return at most `count` of the distinct sorted values, first and last among them, evenly by rank."""
    ranked = sorted(set(values))
    if len(ranked) <= count:
        return ranked
    return [ranked[i] for i in np.linspace(0, len(ranked) - 1, count).round().astype(int)]


def shown(value: object) -> str:
    """Return a setting as labels show it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def with_interval(value: float | None, low: float | None, high: float | None, form: str = ".3g") -> str:
    """Return a number with its interval in brackets, alone where an end is unknown; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:{form}}" if low is None or high is None else f"{value:{form}} [{low:{form}}, {high:{form}}]"


def above(low: float, high: float, level: float) -> str:
    """Return the verdict on "at least `level`" from an interval."""
    return CONSISTENT if low >= level else CONTRADICTS if high < level else UNRESOLVED


def verdict(
    claim: str,
    criterion: str,
    claimed: float | None,
    numbers: Mapping[str, Any],
    outcome: tuple[str, str],
    **facts: Any,
) -> Record:
    """Return a verdict as the summary keeps it.

    `numbers`: `value`, `low` and `high` of what was measured; `outcome`: the verdict and its reason in words;
    `facts`: group, replicates, censored_share, as far as they are known.
    """
    words, reason = outcome
    return {
        "claim": claim,
        "group": None,
        "criterion": criterion,
        "claimed": claimed,
        "measured": numbers["value"],
        "low": numbers["low"],
        "high": numbers["high"],
        "replicates": None,
        "censored_share": None,
        "verdict": words,
        "reason": reason,
    } | facts
