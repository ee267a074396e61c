"""Seconds per step, and per pass over A, against the number of non-zeros at a fixed number of columns."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from expreg.benchmark.problems import NOISE, random_rows
from expreg.core.page import terminal
from expreg.data import problems

SIZES = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 30_000_000)
QUICK_SIZES = (20_000, 60_000)
COLUMNS, EACH, REPEATS = 32, 10, 5


def run(
    solve: Callable[..., Any],
    *,
    quick: bool = False,
    solver: str = "auto",
    sizes: Sequence[int] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Return the seconds per step of softmax regression at every number of non-zeros, and the log-log slope.

    A is sparse with 10 entries per row and 32 columns. Seconds per step are those of all steps, without the start,
    over their number; seconds per pass the same over how often A was read. Medians of 5 solves after one that is not
    counted. Slopes are those of the least-squares line in logarithms.
    """
    rows: list[dict[str, Any]] = []
    for wanted in sizes or (QUICK_SIZES if quick else SIZES):
        rng = np.random.default_rng(wanted // EACH)
        A = random_rows(rng, wanted // EACH, COLUMNS, EACH)
        x = rng.standard_normal(COLUMNS) / math.sqrt(EACH)
        b = problems.target(rng, A @ x, loss="softmax", activation="exp", noise=NOISE)
        _once(solve, A, b, solver)
        measured = [_once(solve, A, b, solver) for _ in range(REPEATS)]
        seconds = statistics.median(run[0] for run in measured)
        steps, passes = measured[-1][1:]
        row = {"nnz": int(A.nnz), "rows": A.shape[0], "steps": steps, "passes": passes}
        rows.append({**row, "seconds_per_step": seconds / steps, "seconds_per_pass": seconds / passes})
        say(f"{A.nnz:10d} non-zeros {1e3 * seconds / steps:10.3f} ms per step, {steps} steps")
    found = {"columns": COLUMNS, "entries_per_row": EACH, "solver": solver, "rows": rows}
    return {**found, "slope": _slope(rows, "seconds_per_step"), "slope_per_pass": _slope(rows, "seconds_per_pass")}


def _slope(rows: list[dict[str, Any]], column: str) -> float:
    return float(np.polyfit([math.log(row["nnz"]) for row in rows], [math.log(row[column]) for row in rows], 1)[0])


def _once(solve: Callable[..., Any], A: Any, b: np.ndarray, solver: str) -> tuple[float, int, int]:
    """Return the seconds of all steps, how many there were, and how often they read A."""
    found = solve(A, b, loss="softmax", activation="exp", solver=solver).history
    first, last = found[0], found[-1]
    return (last["seconds"] - first["seconds"], int(last["step"]), int(last["passes"] - first["passes"]))


def text(document: dict[str, Any]) -> str:
    """Return the table that people read."""
    rows = [
        [
            *(row[name] for name in ("nnz", "rows", "steps", "passes")),
            *(f"{1e3 * row[f'seconds_per_{unit}']:.3f}" for unit in ("step", "pass")),
        ]
        for row in document["rows"]
    ]
    shown = terminal.lines(
        ["non-zeros", "rows", "steps", "passes", "ms per step", "ms per pass"], rows, right=True, indent=0
    )
    slopes = f"{document['slope']:.3f} per step, {document['slope_per_pass']:.3f} per pass"
    return "\n".join([*shown, "", f"slope of log seconds on log non-zeros: {slopes}"])
