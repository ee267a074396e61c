"""What a sweep will take: programs, memory and time, from the cells and the speed of one small program."""

import time
from collections.abc import Hashable, Sequence
from typing import Any

import jax

from expreg.sweep.devices import describe, mesh, numerics
from expreg.sweep.engine import lanes_that_fit
from expreg.types import Experiment, Settings

COMPILE_SECONDS = 1.5
"""What compiling one program takes on one core (measured: 1.1-1.7 s on an idle core)."""
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


def measured_speed(experiment: Experiment) -> float:
    """Return the flops per second that one lane reaches in the probe run."""
    with numerics():
        program = experiment.build(experiment.signature(PROBE))

        def whole(inputs: Any) -> Any:
            state = jax.lax.while_loop(program.running, program.advance, program.init(inputs))
            return program.record(state)["steps"]

        inputs = jax.device_put(experiment.prepare(PROBE), mesh(1).devices.flat[0])
        compiled = jax.jit(whole).lower(inputs).compile()
        steps = int(compiled(inputs))  # once to warm up
        began = time.perf_counter()
        compiled(inputs).block_until_ready()
        return steps * experiment.cost(PROBE).flops_per_step / (time.perf_counter() - began)


def estimate(experiment: Experiment, cells: Sequence[Settings]) -> dict[str, Any]:
    """Return programs, bytes, flops and seconds that these cells are expected to take on this machine."""
    examples: dict[Hashable, Settings] = {}
    for settings in cells:
        examples.setdefault(experiment.signature(settings), settings)
    costs = [experiment.cost(settings) for settings in cells]
    flops, largest = sum(cost.flops for cost in costs), max(cost.bytes for cost in costs)
    devices, facts = mesh(), describe()
    compiling = len(examples) * COMPILE_SECONDS / devices.size
    return {
        "programs": len(examples),
        "bytes_per_lane": largest,
        "lanes": lanes_that_fit(largest, devices, len(cells)),
        "flops": flops,
        "compile_seconds": compiling,
        "seconds": compiling + flops / measured_speed(experiment) / devices.size,
        "devices": devices.size,
        "device_kind": facts["device_kind"],
    }
