"""Solve regression problems: `regression`."""

from expreg.kinds.regression.columns import columns, curves
from expreg.types import Experiment, Settings, later

PROBE: Settings = {
    "experiment": "regression",
    "seed": 0,
    "replicate": 0,
    "precision": "f32",
    "problem": {
        "kind": "gaussian",
        "n": 512,
        "d": 16,
        "density": 1.0,
        "condition": 1.0,
        "coherence": 0.0,
        "scale": 1.0,
        "noise": 1.0,
        "loss": "softmax",
        "activation": "exp",
        "weight": 0.0,
        "start": "random",
        "distance": 0.1,
    },
    "solver": {
        "name": "newton",
        "sketch": "none",
        "sketch_size": "auto",
        "max_steps": 200,
        "tolerance": 1e-30,
        "curve": {"points": 2, "spacing": "logarithmic"},
    },
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
    check=later("expreg.kinds.regression.files:check"),
    probe=PROBE,
)
