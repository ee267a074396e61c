"""How far is H(0) from its limit, against the mean of theory? Prints and draws medians, and the widths that suffice.

    python experiments/concentration.py [key=value ...]

Overrides make it smaller (or larger): sweep.product.n=4,8 sweep.product.replicate.count=20
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

import expreg

mpl.use("Agg")
import matplotlib.pyplot as plt

CONFIG = Path(__file__).parents[1] / "configs" / "concentration.yaml"
EVENTS = {"E1": "Frobenius norm", "E1s": "spectral norm", "E1m": "smallest eigenvalue"}


def main(overrides: Sequence[str] = ()) -> Path:
    """Run the config, print the exponents of the widths of each regime, return the path of the figure."""
    changed = "runs/concentration-changed" if overrides else None
    run = expreg.run(CONFIG, overrides, out=changed, fresh=bool(overrides))
    cells, groups = run.cells, run.summary["groups"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    share = (cells["frobenius_error"] / cells["frobenius_expected"]).groupby([cells["n"], cells["m"]])
    for n, middle in share.median().groupby(level="n"):
        low, high = (share.quantile(q).xs(n, level="n") for q in (0.05, 0.95))
        (line,) = left.plot(low.index, middle.to_numpy(), marker="o", markersize=3, label=f"n = {n}")
        left.fill_between(low.index, low, high, color=line.get_color(), alpha=0.12)
    left.axhline(1, color="grey", linestyle=":")
    left.set(
        xscale="log", xlabel="width m", ylabel="error / root mean square of (B.12)", title="all regimes, 5 to 95 %"
    )
    print("exponent of n in the median width, without the log factor (the proof: 2; the diagonal alone: 1)")
    for group in groups:
        for criterion in group["criteria"]:
            raw = criterion["exponent"]["raw"]
            shown = "{value:.2f} [{low:.2f}, {high:.2f}]".format(**raw) if criterion["exponent"]["usable"] else "none"
            print(f"  {group['label']:38s} {EVENTS.get(criterion['criterion'], ''):20s} {shown}")
            known = [record for record in criterion["thresholds"] if record["interpolated"]]
            if criterion["criterion"] == "E1" and known:
                widths = [record["interpolated"] for record in known]
                right.plot([record["n"] for record in known], widths, marker="o", label=f"{group['label']}: {shown}")
    right.set(xlabel="number of points n", ylabel="median width for the Frobenius norm")
    left.legend(fontsize="small")
    if right.lines:
        right.set(xscale="log", yscale="log")
        right.legend(fontsize="x-small")
    figure.savefig(run.directory / "errors.png", dpi=150)
    return run.directory / "errors.png"


if __name__ == "__main__":
    print(main(sys.argv[1:]))
