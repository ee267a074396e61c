"""What a sweep will take: programs, memory and time, from the cells and the speed of one small program."""

import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import jax

from expreg.core.engine.devices import describe, host_memory, memory, mesh, numerics
from expreg.core.engine.lanes import lanes_that_fit
from expreg.errors import Problem
from expreg.types import Experiment, Settings

COMPILE_SECONDS = 1.5
"""What compiling one program takes on one core (measured: 1.1-1.7 s on an idle core)."""
SPECTRUM_BYTES = 4 * 8
"""Bytes per n^2 that the host needs: Gram matrix, H^cts, its eigenvectors and their workspace, in float64."""
LEAST_BYTES = 3 * 4
"""Bytes per n m that every lane needs: pre-activations, activations and derivatives, in float32."""


def measured_speed(experiment: Experiment) -> float:
    """Return the flops per second that one lane reaches in the probe run."""
    probe = experiment.probe
    assert probe is not None
    with numerics():
        program = experiment.build(experiment.signature(probe))

        def whole(inputs: Any) -> Any:
            state = jax.lax.while_loop(program.running, program.advance, program.init(inputs))
            return program.record(state)["steps"]

        inputs = jax.device_put(experiment.prepare(probe), mesh(1).devices.flat[0])
        compiled = jax.jit(whole).lower(inputs).compile()
        steps = int(compiled(inputs))  # once to warm up
        began = time.perf_counter()
        compiled(inputs).block_until_ready()
        return steps * experiment.cost(probe).flops_per_step / (time.perf_counter() - began)


def too_large(experiment: Experiment, cells: Iterable[Settings], devices: int | None = None) -> list[Problem]:
    """Return one problem for each size of cell that does not fit into memory, even with one lane per device."""
    used = mesh(devices)
    device, host = used.devices.flat[0], float(host_memory())
    room = memory(device) / (used.size if device.platform == "cpu" else 1)  # cores share the memory of their machine
    examples = list(_examples(experiment, cells).values())
    # bounds come first: to compute the cost of a network's cell is to compute the spectrum of its data
    sizes = [(one["network"]["m"], one["data"]["n"]) for one in examples if "network" in one]
    needs = [(f"cell n={n}", SPECTRUM_BYTES * n**2, host, "") for _, n in sizes]
    needs += [(f"cell m={m} n={n}", LEAST_BYTES * n * m, room, " per device") for m, n in sizes]
    if all(needed <= have for _, needed, have, _ in needs):
        needs = [(_name(one), experiment.cost(one).bytes, room, " per device") for one in examples]
    lines = [
        f"{cell}: needs {_gib(needed)}, have {_gib(have)}{unit}" for cell, needed, have, unit in needs if needed > have
    ]
    return [Problem("E-MEM", line) for line in dict.fromkeys(lines)]


def _name(settings: Settings) -> str:
    if "network" in settings:
        return f"cell m={settings['network']['m']} n={settings['data']['n']}"
    return f"cell n={settings['problem']['n']} d={settings['problem']['d']}"


def _gib(size: float) -> str:
    return f"{size / 2**30:.3g} GiB"


def _examples(experiment: Experiment, cells: Iterable[Settings]) -> Mapping[Hashable, Settings]:
    """Return one cell of each program."""
    examples: dict[Hashable, Settings] = {}
    for settings in cells:
        examples.setdefault(experiment.signature(settings), settings)
    return examples


def estimate(experiment: Experiment, cells: Sequence[Settings], devices: int | None = None) -> dict[str, Any]:
    """Return programs, bytes, flops and seconds that these cells are expected to take on this machine."""
    programs = len(_examples(experiment, cells))
    costs = [experiment.cost(settings) for settings in cells]
    flops, largest = sum(cost.flops for cost in costs), max(cost.bytes for cost in costs)
    found = mesh(devices)
    compiling = programs * COMPILE_SECONDS / found.size
    return {
        "programs": programs,
        "bytes_per_lane": largest,
        "lanes": lanes_that_fit(largest, found, len(cells)),
        "flops": flops,
        "compile_seconds": compiling,
        "seconds": compiling + flops / measured_speed(experiment) / found.size,
        "devices": found.size,
        "device_kind": describe()["device_kind"],
    }
