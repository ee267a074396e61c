"""What a sweep will take: programs, memory and time, from the cells and the speed of one small program."""

import math
import time
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import jax

from expreg.core.config.parts import kind_of
from expreg.core.engine.devices import AXIS, compiled_for, describe, host_memory, memory, mesh, numerics
from expreg.core.engine.programs import lanes_that_fit
from expreg.errors import Problem
from expreg.types import Experiment, Settings

COMPILE_SECONDS = 1.5
"""What compiling one program takes on one core (measured: 1.1-1.7 s on an idle core)."""


def measured_speed(experiment: Experiment) -> float | None:
    """Return the flops per second that one lane reaches in the probe run, None without one."""
    probe = experiment.probe
    if probe is None:
        return None
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


def too_large(
    experiment: Experiment, cells: Iterable[Settings], devices: int | None = None, shard: str = AXIS
) -> list[tuple[Problem, bool]]:
    """Return one problem for each size of cell that does not fit into memory, even with one lane per device.

    Beside each whether more devices help: where a cell can be spread over them.
    """
    room, host, used = _room(devices), float(host_memory()), 1 if shard == AXIS else mesh(devices, shard).size
    have = {"host": (host, ""), "device": (used * room, " per device" if shard == AXIS else f" on {used} devices")}
    examples = list(_examples(experiment, cells).values())
    # bounds come first: to compute the cost of a cell may take much of what it needs
    needs = [need for one in examples for need in experiment.least_bytes(one)]
    if all(needed <= have[place][0] for _, needed, place in needs):
        for one in examples:
            with suppress(Exception):  # reported in its row
                needs.append((experiment.size(one), experiment.cost(one).bytes, "device"))
    found = {}
    for cell, needed, place in needs:
        if needed > have[place][0]:
            over = experiment.spread.over if experiment.spread and place == "device" else ""
            line = f"{cell}: needs {_gib(needed)}, have {_gib(have[place][0])}{have[place][1]}"
            remedy = f"; execution.shard: {over} spreads it over at least {math.ceil(needed / room)} such devices"
            found[Problem("E-MEM", line + remedy * bool(over))] = bool(over)
    return list(found.items())


def _room(devices: int | None) -> float:
    """Return the bytes of memory of one device; cores share that of their machine."""
    used = mesh(devices)
    device = used.devices.flat[0]
    return memory(device) / (compiled_for(used).size if device.platform == "cpu" else 1)


def _gib(size: float) -> str:
    return f"{size / 2**30:.3g} GiB"


def _examples(experiment: Experiment, cells: Iterable[Settings]) -> Mapping[Hashable, Settings]:
    """Return one cell of each program."""
    examples: dict[Hashable, Settings] = {}
    for settings in {kind_of(one): one for one in cells}.values():
        with suppress(Exception):  # reported in its row
            examples.setdefault(experiment.signature(settings), settings)
    return examples


def estimate(
    experiment: Experiment, cells: Sequence[Settings], devices: int | None = None, shard: str = AXIS
) -> dict[str, Any]:
    """Return programs, bytes, flops and seconds that these cells are expected to take on this machine.

    `devices_needed`: how many such devices have the memory for the largest cell, spread over them if it can be.
    """
    programs = len(_examples(experiment, cells))
    flops = largest = spread = 0.0
    kinds, count = {kind_of(one): one for one in cells}, Counter(map(kind_of, cells))
    for kind, settings in kinds.items():
        with suppress(Exception):
            cost = experiment.cost(settings)
            flops, largest = flops + count[kind] * cost.flops, max(largest, cost.bytes)
            if experiment.spread is not None:
                spread = max(spread, experiment.spread.cost(settings).bytes)
    found, speed = mesh(devices, shard), measured_speed(experiment)
    compiling = programs * COMPILE_SECONDS / found.size
    return {
        "programs": programs,
        "bytes_per_lane": largest,
        "lanes": lanes_that_fit(largest, found, len(cells)),
        "devices_needed": max(math.ceil(spread / _room(devices)), 1),
        "flops": flops,
        "compile_seconds": compiling,
        "seconds": None if speed is None else compiling + flops / speed / found.size,
        "devices": found.size,
        "device_kind": describe()["device_kind"],
    }
