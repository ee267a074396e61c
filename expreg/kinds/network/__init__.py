"""Train exponential networks, or look at them at their start: `threshold`, `convergence`, `concentration`."""

from dataclasses import replace

from expreg.types import Experiment, Settings, later

SPECTRUM_BYTES = 4 * 8
"""Bytes per n^2 that the host needs: Gram matrix, H^cts, its eigenvectors and their workspace, in float64."""
LEAST_BYTES = 3 * 4
"""Bytes per n m that every lane needs: pre-activations, activations and derivatives, in float32."""


def size(settings: Settings) -> str:
    """Return the size of a cell in words."""
    return f"cell m={settings['network']['m']} n={settings['data']['n']}"


def least_bytes(settings: Settings) -> list[tuple[str, float, str]]:
    """Return what the spectrum on the host and the activations of a lane take at least."""
    n, m = settings["data"]["n"], settings["network"]["m"]
    return [(f"cell n={n}", SPECTRUM_BYTES * n**2, "host"), (size(settings), LEAST_BYTES * n * m, "device")]


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

THRESHOLD = Experiment(
    name="threshold",
    schema=later("expreg.kinds.network.schema:training"),
    columns=tuple,
    signature=later("expreg.kinds.network.training:signature"),
    build=later("expreg.kinds.network.descent:program"),
    prepare=later("expreg.kinds.network.training:prepare"),
    row=later("expreg.kinds.network.training:row"),
    inputs=later("expreg.kinds.network.start:inputs"),
    cost=later("expreg.kinds.network.training:cost"),
    size=size,
    check=later("expreg.kinds.network.files:check"),
    too_few=later("expreg.kinds.network.outlook:too_few"),
    outlook=later("expreg.kinds.network.outlook:outlook"),
    certify=later("expreg.kinds.network.start:certify"),
    least_bytes=least_bytes,
    probe=PROBE,
)
CONVERGENCE = replace(THRESHOLD, name="convergence")
CONCENTRATION = Experiment(
    name="concentration",
    schema=later("expreg.kinds.network.schema:concentration"),
    columns=tuple,
    signature=later("expreg.kinds.network.concentration:signature"),
    build=later("expreg.kinds.network.concentration:program"),
    prepare=later("expreg.kinds.network.concentration:prepare"),
    row=later("expreg.kinds.network.concentration:row"),
    inputs=later("expreg.kinds.network.start:inputs"),
    cost=later("expreg.kinds.network.concentration:cost"),
    size=size,
    check=later("expreg.kinds.network.files:check"),
    too_few=later("expreg.kinds.network.outlook:too_few"),
    outlook=later("expreg.kinds.network.outlook:outlook"),
    certify=later("expreg.kinds.network.start:certify"),
    least_bytes=least_bytes,
    probe=PROBE,
)
