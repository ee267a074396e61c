"""Move the parameter or the context of a regression problem: `in_context`."""

from functools import partial
from pkgutil import resolve_name

from expreg.kinds.in_context.columns import columns, curves
from expreg.types import Experiment, Settings, all_later, later

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
    schema=partial(resolve_name, "expreg.kinds.in_context.schema:InContextConfig"),
    columns=columns,
    curves=curves,
    build=later("expreg.kinds.in_context.program:program"),
    **all_later("expreg.kinds.in_context.program", "signature", "prepare", "row", "inputs", "cost"),
    size=lambda settings: f"cell n={settings['problem']['n']} d={settings['problem']['d']}",
    probe=PROBE,
    summarise=later("expreg.kinds.in_context.summary:summarise"),
    figures=all_later("expreg.kinds.in_context.figures", "shift", "ratios", "heads", "paths"),
    claims={
        "shift bound": ("The shift of the target stays below its bound", "shift / bound, 5 to 95 %"),
        "proportional": ("The shift is proportional to a small move", "slope of log shift in log move"),
        "shift identity": ("A move is the old problem with a shifted target", "largest relative error"),
    },
    statuses={"converged": "measured", "collapsed": "refused: the sum of sinh cancels"},
)
