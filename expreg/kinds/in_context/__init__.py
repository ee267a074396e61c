"""Move the parameter or the context of a regression problem: `in_context`."""

from expreg.kinds.in_context.columns import columns, curves
from expreg.types import Experiment, Settings, later

_DRAWN = {"n": 1024, "d": 16, "radius": 1.0, "noise": 0.1, "activation": "exp", "loss": "rescaled"}
_MOVE = {"move": "gd", "largest": 1.0, "smallest": 1e-3, "sizes": 16, "tokens": 0}
PROBE: Settings = {
    "experiment": "in_context",
    "seed": 0,
    "replicate": 0,
    "precision": "f64",
    "problem": {"kind": "gaussian", **_DRAWN, **_MOVE},
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
    summarise=later("expreg.kinds.in_context.summary:summarise"),
    figures={
        "shift": later("expreg.kinds.in_context.figures:shift"),
        "ratios": later("expreg.kinds.in_context.figures:ratios"),
        "heads": later("expreg.kinds.in_context.figures:heads"),
        "paths": later("expreg.kinds.in_context.figures:paths"),
    },
    claims={
        "shift bound": ("The shift of the target stays below its bound", "shift / bound, 5 to 95 %"),
        "proportional": ("The shift is proportional to a small move", "slope of log shift in log move"),
        "shift identity": ("A move is the old problem with a shifted target", "largest relative error"),
    },
    statuses={"converged": "measured", "collapsed": "refused: the sum of sinh cancels"},
)
