"""Compare the solvers of softmax regression, by steps and by passes over the matrix.

    python experiments/regression.py [key=value ...]

Overrides make it smaller (or larger): sweep.product.replicate.count=3
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

import expreg

mpl.use("Agg")
import matplotlib.pyplot as plt

CONFIG = Path(__file__).parents[1] / "configs" / "regression.yaml"


def main(overrides: Sequence[str] = ()) -> Path:
    """Run the config, print what became of each method, return the path of the figure of the hardest group."""
    run = expreg.run(CONFIG, overrides, out="runs/regression-changed" if overrides else None, fresh=bool(overrides))
    groups = run.summary["groups"]
    print("share of runs that converged, and the median of their passes over A")
    for group in groups:
        for method in group["methods"]:
            share, passes = method["statuses"].get("converged", 0) / method["cells"], method["passes"]["median"]
            shown = f"{passes:.2f}" if passes is not None else "none"
            print(f"  {group['label']:60s} {method['label']:14s} {share:6.2f} {shown:>8s}")
    shown = max(
        groups, key=lambda group: (len(group["methods"]), group["group"]["columns"], group["group"].get("condition", 0))
    )
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True)
    for axis, key in zip(axes, ("step", "passes"), strict=True):
        for method in (found for found in shown["methods"] if found["curve"]):
            axis.plot(method["curve"][key], method["curve"]["median"], marker=".", label=method["label"])
        axis.set(xscale="symlog", yscale="log", xlabel=key, ylim=(1e-18, 10))
    axes[0].set_ylabel("suboptimality")
    axes[0].legend(fontsize="small")
    figure.suptitle(shown["label"])
    figure.tight_layout()
    figure.savefig(run.directory / "suboptimality.png", dpi=150)
    return run.directory / "suboptimality.png"


if __name__ == "__main__":
    print(main(sys.argv[1:]))
