"""Solve regression problems: `regression`."""

from functools import partial
from operator import attrgetter
from pkgutil import resolve_name

from expreg.kinds.regression.columns import columns, curves
from expreg.types import Experiment, Settings, Spread, all_later, later

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
    schema=partial(resolve_name, "expreg.kinds.regression.schema:RegressionConfig"),
    columns=columns,
    curves=curves,
    build=later("expreg.kinds.regression.program:program"),
    **all_later("expreg.kinds.regression.program", "signature", "prepare", "row", "inputs", "cost", "check"),
    spread=Spread(
        over="rows",
        parts=attrgetter("parts"),
        build=later("expreg.kinds.regression.program:program"),
        **all_later("expreg.kinds.regression.shared", "signature", "prepare", "cost", "whole"),
    ),
    size=lambda settings: f"cell n={settings['problem']['n']} d={settings['problem']['d']}",
    probe=PROBE,
    summarise=later("expreg.kinds.regression.summary:summarise"),
    figures={
        "iterations": later("expreg.kinds.regression.figures:iterations"),
        **{
            name: partial(later("expreg.kinds.regression.figures:draw"), name)
            for name in ("suboptimality", "passes", "seconds")
        },
    },
    claims={
        "growth": (
            "The number of steps grows at most linearly in log(||x0 - x*|| / eps)",
            "steps by which a curve rises from the line",
        ),
        "steps": (
            "From M ||x0 - x*|| <= 0.1 l, log(||x0 - x*|| / eps) steps reach ||x - x*|| <= eps, with probability at "
            "least {}",
            "share of runs",
        ),
        "start": (
            "From M ||x0 - x*|| <= 0.1 l, each step multiplies ||x - x*|| by 0.4 or less, with probability at least {}",
            "share of runs",
        ),
        "lipschitz": ("The Hessian is M-Lipschitz where ||x|| <= R (E.25)-(E.29)", "share of problems"),
        "convex": ("The weights make the Hessian at least I where ||x|| <= R", "share of problems"),
        "trivial": (
            "Closeness weights make the solution trivial: ||x*|| <= 0.01 ||x planted||, for a share of at least {}",
            "share of problems",
        ),
        "quadratic": ("Exact Newton steps converge quadratically near the optimum", "order of convergence"),
        "contraction": (
            "A step with a sketched Hessian shrinks the distance by eps/(1-eps), with probability at least {}",
            "share of steps near the optimum",
        ),
    },
)
