"""How wide must an exponential network be to learn handwritten digits? Prints widths, draws success over width.

    python experiments/quickstart.py [key=value ...]

Overrides make it smaller (or larger): sweep.product.n=8,16 sweep.product.replicate.count=5
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

import expreg

mpl.use("Agg")
import matplotlib.pyplot as plt

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"


def main(overrides: Sequence[str] = ()) -> Path:
    """Run the config, print the width that suffices for each n, return the path of the figure."""
    run = expreg.run(CONFIG, overrides, out="runs/quickstart-changed" if overrides else None, fresh=bool(overrides))
    (group,) = run.summary["groups"]
    converges = next(found for found in group["criteria"] if found["criterion"] == "E5")
    share = 1 - run.summary["settings"]["delta"]
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for width, spectrum in zip(converges["thresholds"], group["spectrum"], strict=True):
        n, keys = width["n"], ("interpolated", "interpolated_low", "interpolated_high")
        m, low, high = ("none" if width[key] is None else f"{width[key]:.0f}" for key in keys)
        print(f"n = {n:3d}  lambda = {spectrum['lambda_cts']:.2f}  {share:.0%} converge at m = {m} [{low}, {high}]")
        points = [record for record in converges["success"] if record["n"] == n]
        widths, rates = ([record[key] for record in points] for key in ("m", "rate"))
        bars = [
            [record["rate"] - record["low"] for record in points],
            [record["high"] - record["rate"] for record in points],
        ]
        axis.errorbar(widths, rates, yerr=bars, marker="o", markersize=4, linewidth=1, elinewidth=0.5, label=f"n = {n}")
    axis.axhline(share, color="grey", linestyle=":")
    axis.set(xscale="log", xlim=(None, 200), xlabel="width m", ylabel="share of networks that learn the digits")
    axis.legend()
    figure.savefig(run.directory / "success.png", dpi=150)
    return run.directory / "success.png"


if __name__ == "__main__":
    print(main(sys.argv[1:]))
