"""Does the width that suffices grow like n^2? It depends on the criterion: up to three, on every kind of points.

    python experiments/threshold.py [CONFIG] [key=value ...]

CONFIG is configs/threshold.yaml by default; certificate, labels, scale and digits are drawn the same way.
Overrides make it smaller (or larger): sweep.product.n=4,8,16 sweep.product.replicate.count=20
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

import expreg

mpl.use("Agg")
import matplotlib.pyplot as plt

CONFIG = Path(__file__).parents[1] / "configs" / "threshold.yaml"
SHOWN = ("E5", "movement", "Ecert")


def main(overrides: Sequence[str] = (), config: Path = CONFIG) -> Path:
    """Run the config, print both exponents of each group and criterion, return the path of the figure."""
    changed = f"runs/{config.stem}-changed" if overrides else None
    run = expreg.run(config, overrides, out=changed, fresh=bool(overrides))
    groups = run.summary["groups"]
    figure, axes = plt.subplots(1, len(groups), figsize=(4 * len(groups), 4), sharey=True, squeeze=False)
    print("exponent of n in the width m*(n), without and with the factor log(n/delta)")
    for axis, group in zip(axes[0], groups, strict=True):
        for criterion in (found for found in group["criteria"] if found["criterion"] in SHOWN):
            exponent, name = criterion["exponent"], criterion["criterion"]
            raw, corrected = (
                "{value:.2f} [{low:.2f}, {high:.2f}]".format(**exponent[kind]) if exponent["usable"] else "none"
                for kind in ("raw", "corrected")
            )
            print(f"  {group['label']:30s} {name:9s} {raw:20s} {corrected}")
            known = [record for record in criterion["thresholds"] if record["interpolated"]]
            n, m = [record["n"] for record in known], [record["interpolated"] for record in known]
            axis.plot(n, m, marker="o", label=f"{name}: {raw}")
        axis.set(xscale="log", yscale="log", title=group["label"], xlabel="number of points n")
        axis.legend(fontsize="small")
    axes[0][0].set_ylabel("width that suffices, m*(n)")
    figure.tight_layout()
    figure.savefig(run.directory / "exponents.png", dpi=150)
    return run.directory / "exponents.png"


if __name__ == "__main__":
    configs = [Path(word) for word in sys.argv[1:] if "=" not in word]
    print(main([word for word in sys.argv[1:] if "=" in word], *configs))
