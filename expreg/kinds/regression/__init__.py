"""Solve regression problems: `regression`."""

from functools import partial

from expreg.kinds.regression.columns import columns, curves
from expreg.types import Experiment, Settings, later

_MATRIX = {"n": 512, "d": 16, "density": 1.0, "condition": 1.0, "coherence": 0.0}
_TARGET = {"scale": 1.0, "noise": 1.0, "loss": "softmax", "activation": "exp", "weight": 0.0}
_SKETCH = {"sketch": "none", "sketch_size": "auto"}
_LIMITS = {"max_steps": 200, "tolerance": 1e-30, "curve": {"points": 2, "spacing": "logarithmic"}}
PROBE: Settings = {
    "experiment": "regression",
    "seed": 0,
    "replicate": 0,
    "precision": "f32",
    "problem": {"kind": "gaussian", **_MATRIX, **_TARGET, "start": "random", "distance": 0.1},
    "solver": {"name": "newton", **_SKETCH, **_LIMITS},
    "measure": [],
}
"""A run that cannot converge, by which the speed of this machine is measured."""

REGRESSION = Experiment(
    name="regression",
    schema=later("expreg.kinds.regression.schema:regression"),
    columns=columns,
    curves=curves,
    signature=later("expreg.kinds.regression.program:signature"),
    build=later("expreg.kinds.regression.program:program"),
    prepare=later("expreg.kinds.regression.program:prepare"),
    row=later("expreg.kinds.regression.program:row"),
    inputs=later("expreg.kinds.regression.program:inputs"),
    cost=later("expreg.kinds.regression.program:cost"),
    size=lambda settings: f"cell n={settings['problem']['n']} d={settings['problem']['d']}",
    check=later("expreg.kinds.regression.program:check"),
    probe=PROBE,
    summarise=later("expreg.kinds.regression.summary:summarise"),
    figures={
        name: partial(later("expreg.kinds.regression.figures:draw"), name)
        for name in ("suboptimality", "passes", "seconds")
    },
    claims={
        "quadratic": ("Exact Newton steps converge quadratically near the optimum", "order of convergence"),
        "contraction": (
            "A step with a sketched Hessian shrinks the distance by eps/(1-eps), with probability at least {}",
            "share of steps near the optimum",
        ),
    },
)
