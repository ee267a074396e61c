"""The smallest experiment: a run takes `length` steps and ends with their sum."""

from dataclasses import replace
from functools import partial

import jax.numpy as jnp
import numpy as np

from expreg.core.engine import lanes
from expreg.types import Cost, Experiment, Program


def subtract(s):
    return {"left": s["left"] - 1, "total": s["total"] + s["left"]}


def countdown(*, flops=lambda settings: 1.0, size=8.0, advance=subtract):
    """Return the experiment, with a program for each `program` of its settings; a lane of it takes `size` bytes."""
    program = Program(
        init=lambda inputs: {"left": inputs["length"], "total": jnp.float32(0)},
        advance=advance,
        running=lambda s: s["left"] > 0,
        record=lambda s: {"total": s["total"], "left": s["left"]},
    )
    return Experiment(
        name="countdown",
        signature=lambda settings: settings.get("program", 0),
        build=lambda _: program,
        prepare=lambda settings: {"length": np.int32(settings["length"])},
        row=lambda _, record: {"status": "converged", "total": float(record["total"])},
        cost=lambda settings: Cost(1.0, flops(settings), size),
    )


def cells_of(lengths, **more):
    return [(f"c{i}", {"length": length, **more}) for i, length in enumerate(lengths)]


def slices(monkeypatch, execute):
    """Let programs that are compiled from now on run their slices by `execute(program, *arguments)`."""
    original = lanes.compile_program

    def compile_program(*arguments):
        found = original(*arguments)
        return replace(found, execute=partial(execute, found))

    monkeypatch.setattr(lanes, "compile_program", compile_program)
