"""A run that never was: cells, curves and summary made from the law m* = C n^alpha (log n + Exp(1)) (D.8)."""

import math
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from expreg.core.stats.summary import summarise
from expreg.kinds import EXPERIMENTS

DELTA = 0.1
EXPERIMENT = EXPERIMENTS["threshold"]
NOT_HERE = ("budget", "settings")  # of long budgets, and of grids of other settings
DRAWN = [name for name in EXPERIMENT.figures if name not in NOT_HERE]
WIDTHS = tuple(sorted({2 * round(4 * 2 ** (k / 2)) for k in range(19)}))
LAWS = {  # (C, alpha) per criterion
    "sphere": {"E5": (9.0, 0.15), "E3": (14.0, 0.35), "movement": (6.0, 1.1)},
    "equiangular": {"E5": (12.0, 0.25), "E3": (16.0, 0.5), "movement": (5.0, 1.6)},
}
GROUPS = {"sphere": None, "equiangular": 0.5}  # data kind and its coherence
# What a user may put into any text of a config.
HOSTILE = ("<img src=x onerror=alert(1)>", "</script><b>", r"$\undefined{x}$ \$", "\x1b[31mred", "a\u202eb")


def _lambdas(kind: str, n: int) -> tuple[float, float]:
    if kind == "sphere":
        return 3.4 + 0.9 * (1 - 4 / n), math.e * (math.e - 1 + 4)
    return math.e**2 - 0.5 * math.e**1.5, math.e**2 + (n - 1) * 0.5 * math.e**1.5


FIXED = {"experiment": "threshold", "seed": 0, "precision": "f32", "activation": "exp", "tolerance": 0.05, "scale": 1.0}
FIXED |= {"optimizer": "sgd", "device": "cpu", "seconds": 0.01, "expreg_version": "0.1.0", "jax_version": "0.10.2"}


def _rows(kind: str, n: tuple[int, ...], m: tuple[int, ...], replicates: int, rng: np.random.Generator) -> list[dict]:
    rows = []
    noise = rng.exponential(size=(len(n), replicates))
    spread = 1 + 0.05 * rng.normal(size=(len(n), replicates))
    for (i, k), width, replicate in product(enumerate(n), m, range(replicates)):
        holds = {
            name: bool(c * k**alpha * (math.log(k) + noise[i, replicate]) <= width)
            for name, (c, alpha) in LAWS[kind].items()
        }
        low, top = (value * spread[i, replicate] for value in _lambdas(kind, k))
        eta_scaled = 1 / (top * (1 + 4 * abs(rng.normal()) / math.sqrt(width)))
        rows.append(
            FIXED
            | {"cell": f"{kind[:2]}{k:04x}{width:06x}{replicate:04x}", "n": k, "d": k, "m": width}
            | {"replicate": replicate, "data": kind, "rho": GROUPS[kind], "E5": holds["E5"], "E3": holds["E3"]}
            | {"lambda_cts": low, "lambda_max_cts": top, "eta_scaled": eta_scaled, "eta": eta_scaled / width}
            | {"status": "converged" if holds["E5"] else "max_steps", "residual_initial": math.sqrt(k)}
            | {"max_movement": (1 if holds["movement"] else 3) * low / (4 * math.e**2 * k)}
        )
    return rows


def _curve(row: dict[str, Any], rng: np.random.Generator, points: int = 24) -> pd.DataFrame:
    """Return the curve of a cell with three modes; one that fails stalls at a fifth of its start."""
    eta, low, top = row["eta_scaled"], row["lambda_cts"], row["lambda_max_cts"]
    rates = np.array([eta * low, eta * math.sqrt(low * top), eta * top * 0.99])
    weights = np.array([0.45, 0.35, 0.2]) * row["residual_initial"] ** 2
    budget = int(4 / rates[0] * math.log(row["residual_initial"] / 0.05))
    steps = np.unique(np.concatenate([[0], np.geomspace(1, budget, points).round()])).astype(int)
    linear = np.sqrt(((1 - rates) ** (2 * steps[:, None]) * weights).sum(1))
    noisy = linear ** (1 + 0.8 * rng.normal() / math.sqrt(row["m"]))
    stall = 0.0 if row["status"] == "converged" else 0.2 * row["residual_initial"]
    residual = np.maximum(noisy * row["residual_initial"] / noisy[0], stall)
    ended = np.flatnonzero(residual <= 0.05)
    stop = int(ended[0]) + 1 if len(ended) else len(steps)
    return pd.DataFrame(
        {"cell": row["cell"], "step": steps[:stop], "residual": residual[:stop], "linearised": linear[:stop]}
    )


def run(
    *,
    n: tuple[int, ...] = (8, 16, 32, 64),
    m: tuple[int, ...] = WIDTHS,
    replicates: int = 40,
    seed: int = 0,
    resamples: int = 60,
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Return cells, curves and summary of a made-up threshold run of two groups and three criteria."""
    rng = np.random.default_rng(seed)
    rows = [row for kind in GROUPS for row in _rows(kind, n, m, replicates, rng)]
    cells = pd.DataFrame(rows)
    kept = {m[0], m[len(m) // 2], m[-1]}
    curves = pd.concat([_curve(row, rng) for row in rows if row["m"] in kept], ignore_index=True)
    asked = {"axes": ["data", "n", "m", "rho"], "delta": DELTA, "resamples": resamples}
    return cells, curves, summarise(EXPERIMENT, cells, curves, name="synthetic", **asked)


@cache
def small() -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Return a run with exponents that are usable, made once; copy what you change."""
    return run(n=(8, 16, 32), m=WIDTHS[::3], resamples=20)
