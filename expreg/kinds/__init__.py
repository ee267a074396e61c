"""The kinds of experiment that expreg brings: one folder each, one list."""

from expreg.kinds import in_context, network, regression

EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        network.THRESHOLD,
        network.CONVERGENCE,
        network.CONCENTRATION,
        network.CAPACITY,
        regression.REGRESSION,
        in_context.IN_CONTEXT,
    )
}
