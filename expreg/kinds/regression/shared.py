"""One problem over many devices: each has its share of the rows of A, and of everything with a number for each row."""

import numpy as np

from expreg import sparse
from expreg.kinds.regression import program
from expreg.solver import SKETCHES
from expreg.types import Array, Cost, Settings

PARTS = 240
"""Divided by up to 6 devices, and by 8, 10, 12, 15, 16, 20, 24, 30, 40, 48, 60, 80 and 120."""


def signature(settings: Settings) -> program.Signature:
    """Return what is static in a cell; from 2^24 rows on as many more parts as there are rows."""
    found = program.signature(settings)
    return found._replace(parts=PARTS << max(0, found.n.bit_length() - 24))


def prepare(settings: Settings) -> program.Inputs:
    """Return the inputs of one cell, NumPy arrays with rows of zeros below the last one."""
    given, parts = program.prepare(settings), signature(settings).parts
    A = sparse.share(given.A, parts)

    def longer(array: Array) -> Array:
        return np.pad(array, [(0, -len(array) % parts), *[(0, 0)] * (array.ndim - 1)])

    metric = given.metric._replace(diagonal=longer(given.metric.diagonal), Q=longer(given.metric.Q))
    return given._replace(A=A, b=longer(given.b), weights=longer(given.weights), metric=metric)


def cost(settings: Settings) -> Cost:
    """Return steps, flops per step, and the bytes of all devices together, which keep the inputs beside the state."""
    found = program.cost(settings)
    return found._replace(bytes=2 * found.bytes)


def whole(settings: Settings) -> str:
    """Return the sketch of a cell if its probabilities come from all rows."""
    name = settings["solver"]["sketch"]
    return f"solver.sketch {name}" if name != "none" and SKETCHES[name].make is None else ""
