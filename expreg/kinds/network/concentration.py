"""Measure what needs no training: how H(0) concentrates around H^cts, and whether the start is certified."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expreg.kinds.network import initial, start
from expreg.kinds.network.events import Facts, judged
from expreg.types import Array, Cost, Program, Row, Settings, Status, at_once


class Signature(NamedTuple):
    """Everything static: one compiled program each."""

    n: int
    d: int
    neurons: int  # columns drawn, a bucket: pairs under coupled initialisation
    branches: int  # 2 coupled, 1 iid
    activation: str
    dtype: str
    reach: bool  # whether the certificate is measured


class Inputs(NamedTuple):
    """What one measurement starts from."""

    X: Any  # (n, d)
    y: Any  # (n,)
    key: Any  # (2,) uint32, of the neuron stream
    m: Any
    scale: Any
    lambda_cts: Any
    gram_norm: Any


def signature(settings: Settings) -> Signature:
    """Return what is static in a cell; few widths, as a program takes longer to compile than to run."""
    return Signature(**start.shape(settings, judged(settings)))


def prepare(settings: Settings) -> Inputs:
    """Return the inputs of one cell's lane, NumPy arrays in the cell's precision."""
    return Inputs(**start.arrays(settings, start.problem(settings)))


def _measure(static: Signature, inputs: Inputs) -> dict[str, jax.Array]:
    """Return the scalars of one network at its start: the whole work of a cell."""
    found, _ = initial.measure(static, inputs, initial.draw(static, inputs))
    return found | {"steps": jnp.int32(1)}  # one look at the start is all the work, and what `cost` counts


def program(static: Signature) -> Program:
    """Build the program of one signature: everything happens as a lane is filled, so it is never running."""
    return at_once(partial(_measure, static))


def row(settings: Settings, record: dict[str, Array]) -> Row:
    """Return the columns of a finished cell. It is `converged` where H(0) is finite: there is no training to fail."""
    finite = bool(np.isfinite(record["lambda_max_0"]))
    return {
        "status": (Status.converged if finite else Status.nonfinite).name,
        "status_detail": "" if finite else "H(0) is not finite; the points are too long for this precision",
        "steps": 0,
        **start.row(Facts(settings, start.problem(settings), record)),
        **dict.fromkeys(("curve_step", "curve_residual", "curve_linearised"), np.zeros(0)),
    }


def cost(settings: Settings) -> Cost:
    """Return the flops of H(0) in one step, and the bytes of what it is made from."""
    static = signature(settings)
    elements = static.n * static.neurons
    return Cost(1.0, 2.0 * elements * (static.n + 2 * static.d), 8.0 * (6 * elements + static.d * static.neurons))
