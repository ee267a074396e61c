"""Steps of gradient descent by one kernel for each lane on a GPU, whose registers keep what moves.

XLA launches eight kernels for each step and moves the states through memory; for small networks both take far longer
than the arithmetic. Here one launch takes `measure_every` steps of all lanes. The kernel is written in Pallas and
compiled by Triton. It is tried once on each machine: where it does not compile, or its result is off, XLA takes the
steps. `EXPREG_NATIVE=off` asks for that.
"""

import os
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from expreg.activation import ACTIVATIONS
from expreg.core.engine.devices import numerics
from expreg.kinds.network import steps as xla
from expreg.types import Array, Status

ROWS = 16
"""Points of one product of matrices: Triton has none with fewer."""
LARGEST = 16_384
"""Points times columns at which the registers of a multiprocessor keep a state, and hardly any of it spills."""
PER_WARP = 1024
"""Points times columns for each warp, of at most eight."""
AGREEMENT = 1e-5
"""Relative error in the trial: float32 leaves 1e-7, products with ten bits 2e-4."""


def covers(signature: Any) -> bool:
    """Return whether the kernel takes the steps of these programs: plain descent, float32, Gram space, small."""
    plain = signature.optimizer == "sgd" and signature.schedule is None
    small = np.prod(_shape(signature.n, signature.branches * signature.neurons)) <= LARGEST
    known = ACTIVATIONS[signature.activation].exponential and signature.dtype == "float32"
    return bool(plain and small and known and signature.form == "gram" and not missing())


def _shape(n: int, columns: int) -> tuple[int, int]:
    """Return the points and columns of the kernel: a multiple of ROWS, and a power of two."""
    return -(-n // ROWS) * ROWS, max(ROWS, 1 << (columns - 1).bit_length())


def steps(signature: Any, state: Any, limit: jax.Array, *, interpret: bool = False) -> tuple[xla.Moving, jax.Array]:
    """Take up to `measure_every` steps, stopping when ||r_t|| exceeds `limit`; return what moved, and ||r_t||.

    With `interpret` XLA does what the kernel would do, on any device.
    """
    inputs = state.inputs
    numbers = jnp.stack([state.eta, inputs.scale, inputs.tolerance, limit])
    counts = jnp.stack([state.step, state.budget, state.status]).astype(jnp.int32)
    base = tuple(jnp.concatenate([part] * signature.branches, axis=1) for part in state.base)
    flat = state.theta.reshape(signature.n, -1)
    given = (state.linear, state.signs.reshape(-1), state.initial_residual, numbers, counts, flat, *base)
    theta, ended, sizes = _launch(given, signature.activation, signature.measure_every, interpret)
    moved = theta[: signature.n, : flat.shape[1]].reshape(state.theta.shape)
    return xla.Moving(moved, None, state.optimizer, ended[0], ended[1]), sizes


def _launch(given: tuple[jax.Array, ...], activation: str, count: int, interpret: bool) -> tuple[jax.Array, ...]:
    """Pad the arrays with zeros, which add nothing to r, and run the kernel for one lane."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    gram, signs, residual, numbers, counts, *wide = given
    n, columns = _shape(*wide[0].shape)

    def padded(array: jax.Array, *shape: int) -> jax.Array:
        return jnp.pad(array, [(0, size - own) for own, size in zip(array.shape, shape, strict=True)])

    operands = (
        padded(gram, n, n),
        padded(signs, columns),
        padded(residual, n),
        numbers,
        counts,
        *(padded(array, n, columns) for array in wide),
    )
    shapes = [((n, columns), jnp.float32), ((2,), jnp.int32), ((count,), jnp.float32)]
    call = pl.pallas_call(
        partial(_kernel, activation, count),
        out_shape=[jax.ShapeDtypeStruct(*shape) for shape in shapes],
        interpret=interpret,
        name="expreg_steps",
        compiler_params=triton.CompilerParams(num_warps=min(max(n * columns // PER_WARP, 1), 8), num_stages=1),
    )
    return tuple(call(*operands))


def _kernel(activation: str, count: int, *refs: Any) -> None:
    """Take all steps of one lane, its points in blocks of ROWS."""
    from jax.experimental import pallas as pl

    gram, signs, start, numbers, counts, theta, *bases, out, ended, sizes = refs
    eta, scale, tolerance, limit = (numbers[i] for i in range(4))
    blocks = [pl.ds(first, ROWS) for first in range(0, theta.shape[0], ROWS)]
    ends = partial(xla.outcome, budget=counts[1], tolerance=tolerance, limit=limit)
    increment, columns = ACTIVATIONS[activation].increment, signs[...]

    def evaluate(block: Any, moved: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        products = (jnp.dot(gram[block, at], part, precision="highest") for at, part in zip(blocks, moved, strict=True))
        change, derivative = increment(tuple(base[block, :] for base in bases), sum(products))
        return start[block] + scale * jnp.sum(change * columns, axis=1), derivative

    def step(place: jax.Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
        moved, now, _ = carry
        residuals, derivatives = zip(*(evaluate(block, moved) for block in blocks), strict=True)
        # float64 has room for every square of a float32
        size = jnp.sqrt(sum(jnp.sum(r.astype(jnp.float64) ** 2) for r in residuals)).astype(jnp.float32)
        sizes[place] = size
        status = ends(now, size)
        goes_on = status == Status.running
        moved = tuple(
            jnp.where(goes_on, part - eta * (derivative * (scale * r)[:, None] * columns), part)
            for part, derivative, r in zip(moved, derivatives, residuals, strict=True)
        )
        return moved, now + goes_on.astype(jnp.int32), status

    begin = (tuple(theta[block, :] for block in blocks), counts[0], counts[2])
    moved, now, status = jax.lax.fori_loop(0, count, step, begin)
    for block, part in zip(blocks, moved, strict=True):
        out[block, :] = part
    ended[0], ended[1] = now, status


# --- whether it can be used -----------------------------------------------------------------------


@cache
def missing() -> str:
    """Try the kernel on a small problem unless that has been done; return why it cannot be used, empty if it can."""
    if os.environ.get("EXPREG_NATIVE") == "off":
        return "EXPREG_NATIVE is off"
    if jax.default_backend() != "gpu":
        return f"it is for GPUs, and this is a {jax.default_backend().upper()}"
    try:
        with numerics():
            found, expected = (_trial(interpret) for interpret in (False, True))
    except Exception as error:  # of Triton, of the driver: whatever it is, XLA takes the steps
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    errors = [abs(f - e).max() / abs(e).max() for f, e in zip(found, expected, strict=True)]
    return "" if max(errors) <= AGREEMENT else f"its result is off by {max(errors):.0e} on this GPU"


def _trial(interpret: bool) -> tuple[Array, Array]:
    """Return theta and ||r_t|| after eight steps of a fixed problem of 20 points in two blocks, and 40 columns."""
    rng = np.random.default_rng(0)
    X, base, signs = rng.standard_normal((20, 20)) / 4, rng.uniform(0.5, 1.5, (20, 40)), np.repeat([0.1, -0.1], 20)
    numbers, theta = np.array([0.3, 1.0, 0.0, 1e6]), rng.standard_normal((20, 40)) / 8
    real = (np.float32(array) for array in (X @ X.T, signs, rng.standard_normal(20), numbers))
    given = (*real, np.array([0, 8, 0], np.int32), np.float32(theta), np.float32(base))
    found = jax.jit(partial(_launch, activation="exp", count=8, interpret=interpret))(tuple(map(jnp.asarray, given)))
    return np.asarray(found[0], float), np.asarray(found[2], float)
