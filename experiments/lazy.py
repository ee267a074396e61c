"""How far do neurons move? Prints and draws the movement, its linearised prediction, and the radii of the proof.

    python experiments/lazy.py [key=value ...]

Overrides make it smaller (or larger): sweep.product.n=8 sweep.product.replicate.count=10
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

import expreg

mpl.use("Agg")
import matplotlib.pyplot as plt

CONFIG = Path(__file__).parents[1] / "configs" / "lazy.yaml"
LINES = {
    "max_movement": ("measured", {"marker": "o"}),
    "movement_linearised": ("linearised network (B.24)", {"marker": "x", "linestyle": ":"}),
    "radius": ("radius (C.9)", {"linestyle": "--"}),
    "small": ("lambda / (2 e^2 n)", {"linestyle": "-."}),
    "radius_frobenius": ("radius (C.10)", {"linestyle": "--"}),
}


def main(overrides: Sequence[str] = ()) -> Path:
    """Run the config, print slopes in m and the errors of the prediction, return the path of the figure."""
    run = expreg.run(CONFIG, overrides, out="runs/lazy-changed" if overrides else None, fresh=bool(overrides))
    cells = run.cells.assign(small=run.cells["lambda_cts"] / (2 * math.e**2 * run.cells["n"]))
    kinds = sorted(cells["data"].unique())
    figure, axes = plt.subplots(1, len(kinds), figsize=(4 * len(kinds), 4), sharey=True, squeeze=False)
    print(
        "largest movement of a neuron: slope in m (lazy: -1 or a little less), and over its prediction at the widest m"
    )
    for axis, kind in zip(axes[0], kinds, strict=True):
        for n, rows in cells[cells["data"] == kind].groupby("n"):
            medians = rows.groupby("m")[list(LINES)].median()
            slope = np.polyfit(np.log(medians.index), np.log(medians["max_movement"]), 1)[0]
            over = (rows["max_movement"] / rows["movement_linearised"])[rows["m"] == rows["m"].max()].median()
            print(f"  {kind:12s} n = {n:3d}: {slope:.2f}, {over:.3f}")
        for colour, (name, (label, look)) in enumerate(LINES.items()):
            axis.plot(medians.index, medians[name], color=f"C{colour}", label=label, **look)
        axis.set(xscale="log", yscale="log", title=f"{kind}, n = {n}", xlabel="width m")
    axes[0][0].set_ylabel("distance from the start")
    axes[0][-1].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(run.directory / "movement.png", dpi=150)
    return run.directory / "movement.png"


if __name__ == "__main__":
    print(main(sys.argv[1:]))
