"""Exponential networks: trained, looked at at their start, or fitted however long it takes."""

from dataclasses import replace
from functools import partial
from operator import attrgetter
from pkgutil import resolve_name

from expreg.kinds.network import check, columns
from expreg.types import Experiment, Settings, Spread, all_later, later

PROBE: Settings = {
    "experiment": "threshold",
    "seed": 0,
    "replicate": 0,
    "precision": "f32",
    "data": {"kind": "orthonormal", "n": 32, "d": 32, "labels": {"kind": "sign"}, "allow_duplicates": False},
    "network": {"m": 512, "activation": "exp", "init": "coupled", "scale": 1.0},
    "training": {
        "optimizer": {"name": "sgd"},
        "step_size": {"rule": "spectral", "factor": 1e-3, "value": None, "schedule": None},
        "max_steps": 2000,
        "tolerance": 1e-9,
        "relative": False,
        "measure_every": 16,
        "divergence": 1e4,
        "curve": {"points": 2, "spacing": "logarithmic"},
    },
    "measure": [],
}
"""A run of two thousand steps that does not converge."""

FIGURES = {
    "thresholds": later("expreg.kinds.network.figures.thresholds:thresholds"),
    "settings": later("expreg.kinds.network.figures.answer:settings_figure"),
    "budget": later("expreg.kinds.network.figures.thresholds:budgets"),
    "phase": later("expreg.kinds.network.figures.phase:phase"),
    "success": later("expreg.kinds.network.figures.phase:success"),
    "convergence": later("expreg.kinds.network.figures.curves:convergence"),
    "rates": later("expreg.kinds.network.figures.curves:rates"),
    "lambda": later("expreg.kinds.network.figures.spectrum:spectrum"),
}
"""In the order of the page; a figure that has nothing to show leaves its place to the next."""
CLAIMS = {
    "width": (
        "Over these n the width needed grows at most like n^{} log(n/delta)",
        "exponent of n in m lambda^2, or in m where that suffices, after the log factor",
    ),
    "lambda": ("The width needed grows at most like lambda^-{} as lambda falls", "exponent of 1/lambda"),
    "probability": ("Networks of the widest m converge with probability at least {}", "share at the widest m"),
    "linear rate": (
        "Networks of the widest m that converge keep the rate of the proof, with probability at least {}",
        "share at the widest m",
    ),
    "kernel": (
        "At the widest m the smallest eigenvalue stays at least lambda/2, with probability at least {}",
        "share at the widest m",
    ),
    "concentration": (
        "Over these n the width for ||H(0) - H_cts||_F <= lambda/4 grows at most like n^{}, at fixed delta",
        "exponent of n in m lambda^2, or in m where that suffices, no log factor taken out",
    ),
    "certificate": (
        "A certified run keeps every promise of its certificate",
        "share of replicates with certified runs",
    ),
    "rate of convergence": (
        "At the widest m the residual falls at least as fast as the theory says",
        "speed over the theory's",
    ),
    "steps to tolerance": ("Steps to tolerance are those of infinite width", "ratio to the predicted steps"),
}

THRESHOLD = Experiment(
    name="threshold",
    schema=partial(resolve_name, "expreg.kinds.network.schema:TrainingConfig"),
    columns=columns.training,
    curves=columns.curves,
    build=later("expreg.kinds.network.descent:program"),
    **all_later("expreg.kinds.network.training", "signature", "prepare", "row", "cost"),
    **all_later("expreg.kinds.network.start", "inputs", "certify"),
    spread=Spread(
        over="neurons",
        parts=attrgetter("neurons"),
        signature=partial(later("expreg.kinds.network.training:signature"), spread=True),
        build=partial(later("expreg.kinds.network.descent:program"), by="xla"),  # compiled steps cannot be split
        prepare=later("expreg.kinds.network.training:prepare"),
        cost=partial(later("expreg.kinds.network.training:cost"), spread=True),
    ),
    size=check.size,
    least_bytes=check.least_bytes,
    check=check.check,
    **all_later("expreg.kinds.network.outlook", "too_few", "warnings", "outlook"),
    **all_later("expreg.kinds.network.search", "searches", "success"),
    trained=later("expreg.kinds.network.trained:trained"),
    probe=PROBE,
    **all_later("expreg.kinds.network.summary.summary", "summarise", "half_width"),
    final="residual_final",
    inner=columns.INNER,
    figures=FIGURES,
    page=later("expreg.kinds.network.figures.chain:page"),
    claims=CLAIMS,
)
CONVERGENCE = replace(THRESHOLD, name="convergence", figures={"convergence": FIGURES["convergence"], **FIGURES})
CONCENTRATION = replace(
    THRESHOLD,
    name="concentration",
    schema=partial(resolve_name, "expreg.kinds.network.schema:ConcentrationConfig"),
    columns=columns.concentration,
    spread=None,
    trained=None,
    final="",
    build=later("expreg.kinds.network.concentration:program"),
    **all_later("expreg.kinds.network.concentration", "signature", "prepare", "row", "cost"),
    figures={
        "concentration": later("expreg.kinds.network.figures.concentration:errors"),
        "concentration-threshold": later("expreg.kinds.network.figures.concentration:widths"),
        **{name: FIGURES[name] for name in ("thresholds", "phase", "success", "lambda")},
    },
    statuses={"converged": "measured; nothing is trained"},
)
CAPACITY = replace(
    THRESHOLD,
    name="capacity",
    schema=partial(resolve_name, "expreg.kinds.network.schema:CapacityConfig"),
    columns=columns.capacity,
    spread=None,
    trained=None,
    final="",
    curves=tuple,
    build=later("expreg.kinds.network.capacity:program"),
    **all_later("expreg.kinds.network.capacity", "signature", "prepare", "row", "cost"),
    check=later("expreg.kinds.network.capacity:problems"),
    outlook=later("expreg.kinds.network.summary.capacity:outlook"),
    warnings=lambda *_: [],  # those are about the exponent that the theorem claims
    searches=lambda _: {},
    half_width=None,
    probe={
        **{name: PROBE[name] for name in ("seed", "replicate", "precision", "data")},
        "experiment": "capacity",
        "network": {"m": 8, "activation": "exp", "init": "coupled", "scale": 1.0},
        "solver": {
            "name": "gauss_newton",
            "tolerance": 1e-12,
            "relative": False,
            "patience": 10**6,
            "progress": 0.01,
            "max_steps": 2000,
        },
        "measure": [],
    },
    figures={
        "capacity": later("expreg.kinds.network.figures.capacity:widths"),
        "success": FIGURES["success"],
    },
    page=later("expreg.kinds.network.figures.capacity:page"),
    claims={
        "parameters needed": (
            "No network with fewer than n parameters fits the data: m (d + 2) >= n",
            "m* (d + 2) / n, the least of all n",
        ),
        "parameters enough": (
            "With {} n trained weights a fit exists, and is found: m* d <= {} n",
            "m* d / n, the largest of all n",
        ),
        "growth": ("The width of a fit grows with n like n / d does", "exponent of n, no log factor taken out"),
    },
)
