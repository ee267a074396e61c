"""What happens above the largest stable step? Prints and draws the share of runs that converge, by step and width.

    python experiments/step_size.py [key=value ...]

Overrides make it smaller (or larger): sweep.product.n=8 sweep.product.replicate.count=10
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

import expreg

mpl.use("Agg")
import matplotlib.pyplot as plt

CONFIG = Path(__file__).parents[1] / "configs" / "step_size.yaml"
FACTOR = "training.step_size.factor"


def main(overrides: Sequence[str] = ()) -> Path:
    """Run the config, print shares of converged runs and of catapults, return the path of the figure."""
    run = expreg.run(CONFIG, overrides, out="runs/step_size-changed" if overrides else None, fresh=bool(overrides))
    cells = run.cells
    cells["E5 without E4"] = cells["E5"].astype(bool) & ~cells["E4"].astype(bool)
    factors = sorted(cells[FACTOR].unique())
    figure, axes = plt.subplots(1, len(factors), figsize=(4 * len(factors), 3.5), sharey=True, squeeze=False)
    print("share of runs that converge, and that converge without keeping the rate of the proof (E5 but not E4)")
    for axis, factor in zip(axes[0], factors, strict=True):
        rows = cells[cells[FACTOR] == factor]
        found = rows.groupby("m")[["E5", "E5 without E4"]].mean()
        for m, (share, thrown) in found.iloc[:: max(len(found) // 3, 1)].iterrows():
            print(f"  {factor / 2:.1f} of the limit, m = {m:5d}: {share:.2f}, {thrown:.2f}")
        for name, look in (("E5", "-"), ("E5 without E4", ":")):
            for colour, (n, own) in enumerate(rows.groupby("n")):
                share = own.groupby("m")[name].mean()
                axis.plot(share.index, share, look, color=f"C{colour}", label=f"{name}, n = {n}")
        axis.set(xscale="log", title=f"{factor / 2:g} of the stability limit", xlabel="width m")
    axes[0][0].set_ylabel("share of runs")
    axes[0][-1].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(run.directory / "steps.png", dpi=150)
    return run.directory / "steps.png"


if __name__ == "__main__":
    print(main(sys.argv[1:]))
