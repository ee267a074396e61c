"""Compare where one step of the query moves attention with where one more token moves it, head by head.

    python experiments/in_context_attention.py [key=value ...]

Overrides make it smaller: sweep.product.problem.token=40,200
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

import expreg

mpl.use("Agg")
import matplotlib.pyplot as plt

CONFIG = Path(__file__).parents[1] / "configs" / "in_context_attention.yaml"
STEPS = {"cosine_gd": "gradient descent", "cosine_newton": "Newton"}


def main(overrides: Sequence[str] = ()) -> Path:
    """Run the config, print the median cosines of each head, return the path of the figure."""
    out = "runs/in_context_attention-changed" if overrides else None
    run = expreg.run(CONFIG, overrides, out=out, fresh=bool(overrides))
    grown = run.cells.dropna(subset=["cosine_gd"])
    heads = grown.groupby(["layer", "head"])[list(STEPS)].median()
    print("cosine between the moves of attention by a token and by a step of the query, medians")
    for (layer, head), found in heads.iterrows():
        shown = "  ".join(f"{name} {found[column]:.2f}" for column, name in STEPS.items())
        print(f"  layer {int(layer)}, head {int(head):2d}:  {shown}")
    figure, axis = plt.subplots(figsize=(6, 3.5))
    heads.rename(columns=STEPS).set_axis([f"{int(a)}/{int(b)}" for a, b in heads.index]).plot.bar(ax=axis)
    axis.set(xlabel="layer / head", ylabel="cosine, median", ylim=(0, 1))
    figure.tight_layout()
    figure.savefig(run.directory / "closeness.png", dpi=150)
    return run.directory / "closeness.png"


if __name__ == "__main__":
    print(main(sys.argv[1:]))
