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


def widths(cells, event: str, delta: float):
    """Return for each n the (1 - delta)-quantile of the narrowest width from which on the event holds."""
    ordered = cells.sort_values("m", ascending=False)
    held = ordered.groupby(["n", "replicate"])[event].cumprod()  # from the widest on
    smallest = ordered["m"].where(held.astype(bool)).groupby([ordered["n"], ordered["replicate"]]).min()
    # a replicate that fails at the widest m is beyond the grid, and never left out
    return smallest.fillna(np.inf).groupby(level="n").quantile(1 - delta, interpolation="higher")


def main(overrides: Sequence[str] = ()) -> Path:
    """Run the config, print for each event the coefficients of log n and log(1/delta), return the figure's path."""
    changed = "runs/threshold_delta-changed" if overrides else None
    run = expreg.run(CONFIG, overrides, out=changed, fresh=bool(overrides))
    cells, events = run.cells, [name for name in ("E5", "E3") if name in run.cells]
    deltas = [delta for delta in DELTAS if cells["replicate"].nunique() * delta >= LEAST]
    figure, axes = plt.subplots(1, len(events), figsize=(4 * len(events), 4), squeeze=False)
    print("m* = c + a log n + b log(1/delta), least squares; R^2, and that of m* = c + a log(n/delta)")
    for axis, event in zip(axes[0], events, strict=True):
        table = {delta: widths(cells, event, delta) for delta in deltas}
        rows = [(np.log(n), -np.log(delta), m) for delta in deltas for n, m in table[delta].items()]
        points = np.array(rows).reshape(-1, 3)
        points = points[np.isfinite(points[:, 2])]
        if len(points) < 3:
            print(f"  {event:4s} none: too few widths inside the grid, or too few replicates")
            continue
        free = np.column_stack([np.ones(len(points)), points[:, :2]])
        tied = np.column_stack([np.ones(len(points)), points[:, :2].sum(axis=1)])
        (_, a, b), *_ = np.linalg.lstsq(free, points[:, 2])
        left = [np.sum((points[:, 2] - of @ np.linalg.lstsq(of, points[:, 2])[0]) ** 2) for of in (free, tied)]
        share = 1 - np.array(left) / np.sum((points[:, 2] - points[:, 2].mean()) ** 2)
        print(f"  {event:4s} a = {a:.2f}, b = {b:.2f}; {share[0]:.2f}, {share[1]:.2f}")
        for n in sorted(cells["n"].unique()):
            known = [(n / delta, table[delta].get(n)) for delta in deltas]
            axis.plot(*zip(*known, strict=True), marker="o", markersize=3, label=f"n = {n}")
        axis.set(xscale="log", title=event, xlabel="n / delta")
        axis.legend(fontsize="small")
    axes[0][0].set_ylabel("width m*(n, delta)")
    figure.tight_layout()
    figure.savefig(run.directory / "quantiles.png", dpi=150)
    return run.directory / "quantiles.png"


if __name__ == "__main__":
    print(main(sys.argv[1:]))
