"""The kinds of experiment: what a cell computes and what its row means, one list."""

from collections.abc import Mapping

from expreg.experiment import concentration, in_context, regression, training
from expreg.types import Experiment

EXPERIMENTS: Mapping[str, Experiment] = {
    **{name: training.experiment(name) for name in ("threshold", "convergence")},
    "concentration": concentration.EXPERIMENT,
    "regression": regression.EXPERIMENT,
    "in_context": in_context.EXPERIMENT,
}
