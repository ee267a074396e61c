"""Measure how loose each bound is of the shift that a step of training, or a new context, makes of the target.

    python experiments/in_context.py [key=value ...]

Overrides make it smaller: sweep.product.n=16,64 sweep.product.d=4 sweep.product.replicate.count=3
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

import expreg

mpl.use("Agg")
import matplotlib.pyplot as plt

CONFIG = Path(__file__).parents[1] / "configs" / "in_context.yaml"
BOUNDS = {"bound_tight": "tight (G.6)", "bound_rows": "rows (G.7, G.8)", "bound_radius": "R form (G.10)"}


def main(overrides: Sequence[str] = ()) -> Path:
    """Run the config, print the ratios by R, return the path of the figure."""
    run = expreg.run(CONFIG, overrides, out="runs/in_context-changed" if overrides else None, fresh=bool(overrides))
    points = run.curves.merge(run.cells[["cell", "problem.radius"]], on="cell")
    figure, axis = plt.subplots(figsize=(5, 4))
    print(f"measured / bound, median over {len(points)} moved problems")
    for bound, name in BOUNDS.items():
        ratio = (points["shift"] / points[bound]).groupby(points["problem.radius"]).median()
        print(f"  {name:16s}", "  ".join(f"R = {radius:g}: {value:.4f}" for radius, value in ratio.items()))
        axis.plot(ratio.index, ratio, marker="o", label=name)
    worst = max((points["shift"] / points[bound]).max() for bound in BOUNDS)
    print(f"the largest ratio of all is {worst:.3f}; above 1 a bound would be wrong")
    axis.set(yscale="log", xlabel="norm R of A and x", ylabel="measured / bound, median")
    axis.axhline(1, color="black", linewidth=0.8)
    axis.legend()
    figure.tight_layout()
    figure.savefig(run.directory / "looseness.png", dpi=150)
    return run.directory / "looseness.png"


if __name__ == "__main__":
    print(main(sys.argv[1:]))
