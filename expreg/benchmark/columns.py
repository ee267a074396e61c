"""Processor seconds of a sampled Newton step against the number of columns, non-zeros fixed: its d^omega part.

The theorem of Rescaled Hyperbolic Functions Regression (arXiv:2305.00660) has nnz(A) + d^omega up to logarithms. Here a
CountSketch of A takes nnz(A), and its Gram matrix and Cholesky factor take d^3: omega = 3 in dense linear algebra.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve

from expreg import solver
from expreg.benchmark.problems import NOISE, random_rows
from expreg.core.page import terminal
from expreg.data import problems
from expreg.sparse import from_scipy

NONZEROS, SIZES = 1_000_000, (32, 64, 128, 256, 512, 1024)
QUICK_NONZEROS, QUICK_SIZES = 20_000, (8, 16, 32)
EACH, REPEATS, LAST = 10, 5, 3
PARTS = ("step", "dense")


def run(
    *, quick: bool = False, sizes: Sequence[int] | None = None, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Return the processor seconds of a step and of its dense part for every number of columns, and log-log slopes.

    A is sparse with 10 entries per row; softmax regression in float64, `gauss_newton` with a CountSketch of 40 d rows.
    Dense: the Gram matrix of such a sketch, its Cholesky factor and one solve, alone. Medians of 5 repeats after one
    that is not counted. Slopes are those of lines through the last 3 sizes: median, least and largest of the repeats.
    """
    nnz: int = QUICK_NONZEROS if quick else NONZEROS
    rows: list[dict[str, Any]] = []
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        for d in sizes or (QUICK_SIZES if quick else SIZES):
            seconds = {name: _times(*make(nnz, d)) for name, make in zip(PARTS, (_step, _dense), strict=True)}
            medians = {name: statistics.median(found) for name, found in seconds.items()}
            rows.append({"columns": d, **medians, "repeats": seconds})
            say(f"{d:6d} columns " + ", ".join(f"{name} {1e3 * rows[-1][name]:.2f} ms" for name in PARTS))
    found: dict[str, Any] = {"nnz": nnz, "entries_per_row": EACH, "rows": rows}
    return found | {"slopes": {name: _slope(rows[-LAST:], name) for name in PARTS}}


def _times(function: Callable[..., Any], *arguments: Any) -> list[float]:
    compiled = jax.jit(function)
    jax.block_until_ready(compiled(*arguments))

    def once() -> float:
        begin = time.process_time()
        jax.block_until_ready(compiled(*arguments))
        return time.process_time() - begin

    return [once() for _ in range(REPEATS)]


def _step(nnz: int, d: int) -> tuple[Callable[..., Any], Any]:
    """Return the step and the state that it is taken from."""
    rng = np.random.default_rng(d)
    A = random_rows(rng, nnz // EACH, d, EACH)
    b = problems.target(
        rng, A @ rng.standard_normal(d) / math.sqrt(EACH), loss="softmax", activation="exp", noise=NOISE
    )
    method = solver.make(loss="softmax", solver="gauss_newton", sketch="countsketch")
    stored = jax.tree.map(jnp.asarray, from_scipy(A))
    return method.step, method.init(stored, b, np.zeros(d), None, jax.random.key(0), 1e-10)


def _dense(nnz: int, d: int) -> tuple[Callable[..., Any], Any, Any]:
    """Return the dense algebra of a step, a sketched matrix and a right side."""
    rng, size = np.random.default_rng(d), solver.SKETCHES["countsketch"].rows(nnz // EACH, d, None)

    def solved(B: Any, g: Any) -> Any:
        return cho_solve((jnp.linalg.cholesky(B.T @ B), True), g)

    return solved, jnp.asarray(rng.standard_normal((size, d))), jnp.asarray(rng.standard_normal(d))


def _slope(rows: Sequence[dict[str, Any]], name: str) -> dict[str, float]:
    logs = [math.log(row["columns"]) for row in rows]
    slopes = [np.polyfit(logs, np.log([row["repeats"][name][i] for row in rows]), 1)[0] for i in range(REPEATS)]
    return {"median": float(np.median(slopes)), "low": float(min(slopes)), "high": float(max(slopes))}


def text(document: dict[str, Any]) -> str:
    """Return the table that people read."""
    rows = [
        [row["columns"], *(f"{1e3 * row[name]:.2f}" for name in PARTS), f"{row['dense'] / row['step']:.2f}"]
        for row in document["rows"]
    ]
    shown = terminal.lines(["columns", "ms per step", "dense part", "share"], rows, right=True, indent=0)
    found = ", ".join(
        f"{name} {{median:.2f}} [{{low:.2f}}, {{high:.2f}}]".format(**document["slopes"][name]) for name in PARTS
    )
    return "\n".join([*shown, "", f"slope of log seconds on log columns, last {LAST} sizes: {found}"])
