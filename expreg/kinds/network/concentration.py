"""Measure what needs no training: how H(0) concentrates around H^cts, and whether the start is certified."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expreg import certificate
from expreg.activation import ACTIVATIONS
from expreg.kinds.network import events, initial
from expreg.kinds.network.start import BRANCHES, PRECISIONS, bucket, identity, problem
from expreg.network import neurons
from expreg.types import Array, Cost, Program, Row, Settings, Status

EVENTS = ("E1", "E1s", "E1m", "Ecert")


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
    """Return what is static in a cell."""
    network, n = settings["network"], settings["data"]["n"]
    branches = BRANCHES[network["init"]]
    return Signature(
        n=n,
        d=settings["data"]["d"],
        neurons=bucket(network["m"], n, base=4) // branches,  # a program takes longer to compile than to run
        branches=branches,
        activation=network["activation"],
        dtype=np.dtype(PRECISIONS[settings["precision"]]).name,
        reach="Ecert" in settings["measure"] and network["activation"] in certificate.COVERED,
    )


def prepare(settings: Settings) -> Inputs:
    """Return the inputs of one cell's lane, NumPy arrays in the cell's precision."""
    found, real = problem(settings), PRECISIONS[settings["precision"]]
    return Inputs(
        X=found.X.astype(real),
        y=found.y.astype(real),
        key=found.key,
        m=np.int32(settings["network"]["m"]),
        scale=real(settings["network"]["scale"]),
        lambda_cts=real(found.eigenvalues[0]),
        gram_norm=real(found.gram_norm),
    )


def _measure(static: Signature, start: Inputs) -> dict[str, jax.Array]:
    """Return the scalars of one network at its start: the whole work of a cell."""
    dtype, activation = jnp.dtype(static.dtype), ACTIVATIONS[static.activation]
    weights, signs = neurons(jax.random.wrap_key_data(start.key), static.neurons, static.d)
    live = jnp.arange(static.neurons) < start.m // static.branches
    z0, count = start.X @ weights.astype(dtype), live * static.branches
    found = initial.kernel(start.X, z0, count, static.activation)
    record = {name: value for name, value in found._asdict().items() if name != "matrix"}
    record["steps"] = jnp.int32(1)  # one look at the start is all the work, and what `cost` counts
    if not static.reach:
        return record
    signed = jnp.where(live, signs, 0).astype(dtype) * (2 - static.branches)  # coupled: f(0) = 0
    residual = start.scale * (activation.value(z0) @ signed) - start.y
    constants = {"scale": start.scale, "lambda_cts": start.lambda_cts, "gram_norm": start.gram_norm}
    reach = initial.reach(start.X, z0, count, residual, found, activation=static.activation, **constants)
    return record | {name: value for name, value in reach._asdict().items() if name != "radii"}


def program(static: Signature) -> Program:
    """Build the program of one signature: everything happens as a lane is filled, so it is never running."""
    return Program(
        init=partial(_measure, static),
        advance=lambda state: state,
        running=lambda _: jnp.zeros((), bool),
        record=lambda state: state,
    )


def row(settings: Settings, record: dict[str, Array]) -> Row:
    """Return the columns of a finished cell. It is `converged` where H(0) is finite: there is no training to fail."""
    found = problem(settings)
    finite = bool(np.isfinite(record["lambda_max_0"]))
    margins = events.margins_at_start(record, found)
    first = events.violations_at_start(record, margins, settings["precision"])
    names = ("lambda_0", "lambda_max_0", "frobenius_error", "spectral_error")
    return {
        "status": (Status.converged if finite else Status.nonfinite).name,
        "status_detail": "" if finite else "H(0) is not finite; the points are too long for this precision",
        **identity(settings, found),
        "steps": 0,
        **{name: float(record[name]) for name in names},
        **events.reach(record, found),
        **events.columns(settings, found, margins, first),
        **dict.fromkeys(("curve_step", "curve_residual", "curve_linearised"), np.zeros(0)),
    }


def cost(settings: Settings) -> Cost:
    """Return the flops of H(0) in one step, and the bytes of what it is made from."""
    static = signature(settings)
    elements = static.n * static.neurons
    return Cost(1.0, 2.0 * elements * (static.n + 2 * static.d), 8.0 * (6 * elements + static.d * static.neurons))
