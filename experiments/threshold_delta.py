"""Does the (1 - delta)-quantile of the width grow like log(n/delta)? Prints and draws the quantiles over delta.

    python experiments/threshold_delta.py [key=value ...]

Overrides make it smaller (or larger): sweep.product.n=4,8 sweep.product.replicate.count=100
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

import expreg

mpl.use("Agg")
import matplotlib.pyplot as plt

CONFIG = Path(__file__).parents[1] / "configs" / "threshold_delta.yaml"
DELTAS = (0.5, 0.3, 0.2, 0.1, 0.05, 0.02)
LEAST = 2
"""Replicates times delta below which a quantile is not drawn: it would be one of the last few order statistics."""


def smallest(cells, event: str):
    """Return for each n and replicate the narrowest width from which on the event holds, infinite beyond the grid."""
    ordered = cells.sort_values("m", ascending=False)
    kept = ordered.groupby(["n", "replicate"])[event].cumprod()  # from the widest on
    found = ordered["m"].where(kept.astype(bool)).groupby([ordered["n"], ordered["replicate"]]).min()
    return {n: of.to_numpy() for n, of in found.fillna(np.inf).groupby(level="n")}


def quantiles(widths, deltas):
    """Return rows (log n, log(1/delta), m*) with m* the (1 - delta)-quantile of the widths of each n."""
    rows = [
        (np.log(n), -np.log(delta), np.quantile(of, 1 - delta, method="higher"))
        for delta in deltas
        for n, of in widths.items()
    ]
    return np.array(rows).reshape(-1, 3)


def fit(rows):
    """Return (a, b) of m* = c + a log n + b log(1/delta), and R^2 of that and of m* = c + a log(n/delta)."""
    known = rows[np.isfinite(rows[:, 2])]
    one, m = np.ones(len(known)), known[:, 2]
    free, tied = np.column_stack([one, known[:, :2]]), np.column_stack([one, known[:, :2].sum(axis=1)])
    (_, a, b), *_ = np.linalg.lstsq(free, m)
    left = np.array([np.sum((m - of @ np.linalg.lstsq(of, m)[0]) ** 2) for of in (free, tied)])
    return np.array([a, b]), 1 - left / np.sum((m - m.mean()) ** 2)


def coefficients(cells, event: str, resamples: int = 400):
    """Return a and b with 95 % percentile intervals over replicates, and R^2; None with too few."""
    widths = smallest(cells, event)
    deltas = [delta for delta in DELTAS if cells["replicate"].nunique() * delta >= LEAST]
    if np.isfinite(quantiles(widths, deltas)[:, 2]).sum() < 3:
        return None
    at, r2 = fit(quantiles(widths, deltas))
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(resamples):
        drawn = {n: rng.choice(of, len(of)) for n, of in widths.items()}
        draws.append(fit(quantiles(drawn, deltas))[0])
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    numbers = [{"value": float(v), "low": float(x), "high": float(y)} for v, x, y in zip(at, low, high, strict=True)]
    return {"n": numbers[0], "delta": numbers[1], "r2": float(r2[0]), "r2_tied": float(r2[1])}


def main(overrides: Sequence[str] = ()) -> Path:
    """Run the config, print for each event the coefficients of log n and log(1/delta), return the figure's path."""
    changed = "runs/threshold_delta-changed" if overrides else None
    run = expreg.run(CONFIG, overrides, out=changed, fresh=bool(overrides))
    cells, events = run.cells, [name for name in ("E5", "E3") if name in run.cells]
    deltas = [delta for delta in DELTAS if cells["replicate"].nunique() * delta >= LEAST]
    figure, axes = plt.subplots(1, len(events), figsize=(4 * len(events), 4), squeeze=False)
    print("m* = c + a log n + b log(1/delta), least squares; R^2, and that of m* = c + a log(n/delta)")
    for axis, event in zip(axes[0], events, strict=True):
        found = coefficients(cells, event)
        if found is None:
            print(f"  {event:4s} none: too few widths inside the grid, or too few replicates")
            continue
        a, b = ("{value:.2f} [{low:.2f}, {high:.2f}]".format(**found[key]) for key in ("n", "delta"))
        print(f"  {event:4s} a = {a}, b = {b}; {found['r2']:.2f}, {found['r2_tied']:.2f}")
        rows = quantiles(smallest(cells, event), deltas)
        for log_n in np.unique(rows[:, 0]):
            _, log_delta, m = rows[rows[:, 0] == log_n].T
            axis.plot(np.exp(log_n + log_delta), m, marker="o", markersize=3, label=f"n = {np.exp(log_n):.0f}")
        axis.set(xscale="log", title=event, xlabel="n / delta")
        axis.legend(fontsize="small")
    axes[0][0].set_ylabel("width m*(n, delta)")
    figure.tight_layout()
    figure.savefig(run.directory / "quantiles.png", dpi=150)
    return run.directory / "quantiles.png"


if __name__ == "__main__":
    print(main(sys.argv[1:]))
