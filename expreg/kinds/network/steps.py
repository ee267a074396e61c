"""Steps of gradient descent by XLA, for one lane: any optimizer, any activation, on any platform.

`native` takes the same steps in compiled code of our own where it can.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from expreg.activation import ACTIVATIONS
from expreg.kinds.network import initial
from expreg.ntk import norm
from expreg.types import Status


class Optimizer(NamedTuple):
    """An optax transformation by name; `linear` says whether it is linear in the gradients (Gram space)."""

    make: Callable[..., optax.GradientTransformation]
    linear: bool


OPTIMIZERS: Mapping[str, Optimizer] = {
    "sgd": Optimizer(optax.sgd, linear=True),
    "momentum": Optimizer(optax.sgd, linear=True),
    "nesterov": Optimizer(partial(optax.sgd, nesterov=True), linear=True),
    "adam": Optimizer(optax.adam, linear=False),
    "adamw": Optimizer(optax.adamw, linear=False),
    "adagrad": Optimizer(optax.adagrad, linear=False),
    "lion": Optimizer(optax.lion, linear=False),
    "rmsprop": Optimizer(optax.rmsprop, linear=False),
}

SCHEDULES: Mapping[str, Callable[..., optax.Schedule]] = {
    "constant": lambda: optax.constant_schedule(1.0),
    "cosine_decay": partial(optax.cosine_decay_schedule, 1.0),
    "exponential_decay": partial(optax.exponential_decay, 1.0),
    "linear": partial(optax.linear_schedule, 1.0),
    "polynomial": partial(optax.polynomial_schedule, 1.0),
    "warmup_cosine_decay": partial(optax.warmup_cosine_decay_schedule, 0.0, 1.0),
}
"""Optax schedules of the factor that multiplies the step size; it starts at 1 (warm-up: at 0)."""


class Moving(NamedTuple):
    """What changes from step to step."""

    theta: jax.Array
    change: jax.Array | None
    optimizer: Any
    step: jax.Array
    status: jax.Array


def transformation(signature: Any, eta: jax.Array, values: tuple[Any, ...]) -> optax.GradientTransformation:
    """Return the optax transformation with traced hyper-parameters."""
    hyperparameters = dict(zip(signature.hyperparameters, values, strict=True))
    if signature.schedule is None:
        return OPTIMIZERS[signature.optimizer].make(eta, **hyperparameters)
    name, parameters = signature.schedule
    factor = SCHEDULES[name](**dict(parameters))

    def step_size(count: jax.Array) -> jax.Array:
        return eta * factor(count.astype(eta.dtype))  # quotients of integers are float32 in every precision

    return OPTIMIZERS[signature.optimizer].make(step_size, **hyperparameters)


def limit(state: Any) -> jax.Array:
    """Return the residual beyond which a run counts as diverged."""
    return state.inputs.divergence * jnp.maximum(norm(state.initial_residual), norm(state.inputs.y))


def outcome(step: jax.Array, size: jax.Array, *, budget: Any, tolerance: Any, limit: Any) -> jax.Array:
    """Return the status after looking at ||r_t||, which decides how a run ends; `steps.cc` follows the same rules."""
    status = jnp.where(step >= budget, jnp.int32(Status.max_steps), jnp.int32(Status.running))
    status = jnp.where(size > limit, jnp.int32(Status.diverged), status)
    status = jnp.where((size <= tolerance) & (tolerance > 0), jnp.int32(Status.converged), status)  # 0: whole budget
    return jnp.where(jnp.isfinite(size), status, jnp.int32(Status.nonfinite))


def _evaluate(signature: Any, state: Any, theta: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the residual r, the pre-activation increments dl and the derivatives phi'(z_t), all from theta."""
    # fused with the product, what follows would make GPUs write `base` once more for every branch
    dl = jax.lax.optimization_barrier(jnp.einsum("ik,kbp->ibp", state.linear, theta))
    base = tuple(b[:, None, :] for b in state.base)
    change, derivative = ACTIVATIONS[signature.activation].increment(base, dl)
    output = jnp.einsum("ibp,bp->i", change, state.signs)
    return state.initial_residual + state.inputs.scale * output, dl, derivative


def take(signature: Any, early: bool, state: Any, limit: jax.Array) -> tuple[Moving, jax.Array]:
    """Take up to `measure_every` steps: look at ||r_t||, and if the run goes on, apply the optimizer.

    With `early` the loop exits when the run ends. Otherwise a finished run is frozen for the remaining iterations:
    on accelerators a loop of fixed length needs no synchronisation with the host.

    A run with ||r_t|| above `limit` has diverged. Returns what changed, and ||r_t|| at the steps that were looked at,
    (measure_every,).
    """
    optimizer = transformation(signature, state.eta, state.inputs.hyperparameters)
    ends = partial(outcome, budget=state.budget, tolerance=state.inputs.tolerance, limit=limit)

    def step(moving: Moving) -> tuple[Moving, jax.Array]:
        residual, _, derivative = _evaluate(signature, state, moving.theta)
        size = norm(residual)
        status = ends(moving.step, size)
        goes_on = status == Status.running
        gradient = derivative * (state.inputs.scale * residual)[:, None, None] * state.signs
        if signature.form == "weight":
            gradient = jnp.einsum("ik,ibp->kbp", state.linear, gradient)
        weights = None if state.start is None else state.start + moving.theta
        updates, moved = optimizer.update(gradient, moving.optimizer, weights)
        keep = partial(jax.tree.map, lambda new, old: jnp.where(goes_on, new, old))  # a bad update never lands
        theta, kept = keep(moving.theta + updates, moving.theta), keep(moved, moving.optimizer)
        return Moving(theta, None, kept, moving.step + goes_on.astype(jnp.int32), status), size

    def counted(carry: tuple[jax.Array, Moving, jax.Array]) -> tuple[jax.Array, Moving, jax.Array]:
        place, moving, sizes = carry
        moving, size = step(moving)
        return place + 1, moving, sizes.at[place].set(size)

    moving = Moving(state.theta, None, state.optimizer, state.step, state.status)
    if early:
        sizes = jnp.full(signature.measure_every, jnp.nan, state.theta.dtype)
        _, moving, sizes = jax.lax.while_loop(
            lambda c: (c[0] < signature.measure_every) & (c[1].status == Status.running),
            counted,
            (jnp.int32(0), moving, sizes),
        )
    else:
        moving, sizes = jax.lax.scan(lambda one, _: step(one), moving, length=signature.measure_every)
    return moving, sizes


def measured(signature: Any, state: Any, theta: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return phi'(z_t) and the largest ||w_r - w_r(0)||, alone and in units of the neuron's radius, (2,)."""
    _, dl, derivative = _evaluate(signature, state, theta)
    inner = theta * dl if signature.form == "gram" else theta**2
    moved = jnp.sqrt(jnp.sum(inner, axis=0))
    moved = jnp.where(jnp.isnan(moved), jnp.inf, jnp.where(state.signs == 0, 0, moved))  # out of range: infinite
    share = jnp.zeros_like(moved) if state.radii is None else jnp.where(state.signs == 0, 0, moved / state.radii)
    # without a certificate there are no radii; devices that share the neurons may lose a nan in a maximum
    known = state.initial.get("certified", True)
    largest = jnp.where(known, jnp.max(share, initial=0.0), jnp.nan)
    return derivative, jnp.stack([jnp.max(moved, initial=0.0), largest])


def lowest(state: Any, derivative: jax.Array) -> jax.Array:
    """Return lambda_min(H(t)) (B.1), for D = phi'(z_t)."""
    live = jnp.abs(state.signs) * derivative
    # not a product of matrices (n, branches p): where neurons are split that shape would gather them all
    product = jnp.einsum("ibp,jbp->ij", live, live)
    low, _ = initial.extremes((state.gram * product / state.inputs.m.astype(live.dtype))[None])
    return low[0]
