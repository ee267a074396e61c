"""Seconds per step against the number of non-zeros at a fixed number of columns."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from expreg.benchmark.problems import NOISE, random_rows
from expreg.data import problems

SIZES = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 30_000_000)
QUICK_SIZES = (20_000, 60_000)
COLUMNS, EACH, REPEATS = 100, 10, 3


def run(
    solve: Callable[..., Any],
    *,
    quick: bool = False,
    solver: str = "auto",
    sizes: Sequence[int] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Return the seconds per step of softmax regression at every number of non-zeros, and the log-log slope.

    A is sparse with 10 entries per row and 100 columns. Seconds per step are those of a whole solve, start included,
    over its steps: the median of 3 solves after one that compiles. The slope is that of the least-squares line.
    """
    rows = []
    for wanted in sizes or (QUICK_SIZES if quick else SIZES):
        A, b = _problem(wanted // EACH)
        solve(A, b, loss="softmax", activation="exp", solver=solver)
        measured = [_once(solve, A, b, solver) for _ in range(REPEATS)]
        seconds, steps = statistics.median(each for each, _ in measured), measured[-1][1]
        rows.append({"nnz": int(A.nnz), "rows": A.shape[0], "seconds_per_step": seconds, "steps": steps})
        say(f"{A.nnz:10d} non-zeros {1e3 * seconds:10.3f} ms per step, {steps} steps")
    slope = np.polyfit([math.log(row["nnz"]) for row in rows], [math.log(row["seconds_per_step"]) for row in rows], 1)[
        0
    ]
    return {"columns": COLUMNS, "entries_per_row": EACH, "solver": solver, "rows": rows, "slope": float(slope)}


def _problem(n: int) -> tuple[Any, np.ndarray]:
    rng = np.random.default_rng(n)
    A = random_rows(rng, n, COLUMNS, EACH)
    x = rng.standard_normal(COLUMNS) / math.sqrt(EACH)
    return A, problems.target(rng, A @ x, loss="softmax", activation="exp", noise=NOISE)


def _once(solve: Callable[..., Any], A: Any, b: np.ndarray, solver: str) -> tuple[float, int]:
    began = time.perf_counter()
    answer = solve(A, b, loss="softmax", activation="exp", solver=solver)
    steps = max(int(answer.steps), 1)
    return (time.perf_counter() - began) / steps, steps


def text(document: dict[str, Any]) -> str:
    """Return the table that people read."""
    lines = [f"{'non-zeros':>12} {'rows':>10} {'ms per step':>12} {'steps':>6}"]
    for row in document["rows"]:
        milliseconds = 1e3 * row["seconds_per_step"]
        lines.append(f"{row['nnz']:12d} {row['rows']:10d} {milliseconds:12.3f} {row['steps']:6d}")
    return "\n".join([*lines, "", f"slope of log seconds per step on log non-zeros: {document['slope']:.3f}"])
