"""How fast do training curves approach those of infinite width? Prints and draws their error over the width.

    python experiments/convergence.py [key=value ...]

Overrides make it smaller (or larger): sweep.product.n=8 sweep.product.replicate.count=10
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

import expreg

mpl.use("Agg")
import matplotlib.pyplot as plt

CONFIG = Path(__file__).parents[1] / "configs" / "convergence.yaml"


def main(overrides: Sequence[str] = ()) -> Path:
    """Run the config, print the slope of the error in m for each n, return the path of the figure."""
    run = expreg.run(CONFIG, overrides, out="runs/convergence-changed" if overrides else None, fresh=bool(overrides))
    curves = run.curves.merge(run.cells[["cell", "n", "m", "residual_initial"]], on="cell")
    curves["error"] = (curves["residual"] - curves["linearised"]).abs() / curves["residual_initial"]
    largest = curves.groupby(["n", "m", "cell"])["error"].max()  # over the steps of a cell
    median = largest.groupby(["n", "m"]).median().unstack("n")
    slopes = {n: np.polyfit(np.log(median.index), np.log(median[n]), 1)[0] for n in median}
    print("error of a curve against (I - eta H^cts)^t r_0, slope in m (theory: -0.5)")
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for n, slope in slopes.items():
        print(f"  n = {n:3d}: {slope:.2f}")
        axis.plot(median.index, median[n], marker="o", label=f"n = {n}: slope {slope:.2f}")
    guide = median.iloc[0].mean() * np.sqrt(median.index[0] / median.index)
    axis.plot(median.index, guide, color="grey", linestyle=":", label="slope -0.5")
    axis.set(xscale="log", yscale="log", xlabel="width m", ylabel="largest error of the curve, relative to its start")
    axis.legend()
    figure.savefig(run.directory / "error.png", dpi=150)
    return run.directory / "error.png"


if __name__ == "__main__":
    print(main(sys.argv[1:]))
