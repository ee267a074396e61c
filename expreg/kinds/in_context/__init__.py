"""Move the parameter or the context of a regression problem: `in_context`."""

from expreg.kinds.in_context.columns import columns, curves
from expreg.types import Experiment, Settings, later

PROBE: Settings = {
    "experiment": "in_context",
    "seed": 0,
    "replicate": 0,
    "precision": "f64",
    "problem": {
        "kind": "gaussian",
        "n": 1024,
        "d": 16,
        "radius": 1.0,
        "noise": 0.1,
        "activation": "exp",
        "loss": "rescaled",
        "move": "gd",
        "largest": 1.0,
        "smallest": 1e-3,
        "sizes": 16,
        "tokens": 0,
    },
}
"""The cell by which `plan` measures the speed of this machine."""

IN_CONTEXT = Experiment(
    name="in_context",
    schema=later("expreg.kinds.in_context.schema:in_context"),
    columns=columns,
    curves=curves,
    signature=later("expreg.kinds.in_context.program:signature"),
    build=later("expreg.kinds.in_context.program:program"),
    prepare=later("expreg.kinds.in_context.program:prepare"),
    row=later("expreg.kinds.in_context.program:row"),
    inputs=later("expreg.kinds.in_context.program:inputs"),
    cost=later("expreg.kinds.in_context.program:cost"),
    size=lambda settings: f"cell n={settings['problem']['n']} d={settings['problem']['d']}",
    probe=PROBE,
)
