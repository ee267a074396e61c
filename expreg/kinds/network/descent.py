"""Gradient descent on the exponential network as a program for one lane: the increment form, in two spaces.

Weight space trains Delta = W - W(0), Gram space the coefficients C of Delta = X^T C. Both move the
pre-activations by dl = A theta, with A = X and theta = Delta, or A = K = X X^T and theta = C, and the
gradient with respect to theta is P(D o (kappa r a^T)) with P = X^T or the identity. Gram space is the same
trajectory for every optimizer that is linear in the gradients, for 2 n^2 m flops a step in place of 4 n d m.

Each pair of a coupled initialisation is stored once (the branches +-s), and only increments are summed
(A.10): the float32 error floor is 1e-6 where that of the plain sum is 1e-3 (H.3).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from expreg.activation import ACTIVATIONS
from expreg.kinds.network import initial, native
from expreg.kinds.network.events import EVENTS, NEVER, Event, Look
from expreg.ntk import norm
from expreg.types import Program, Status


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


class Signature(NamedTuple):
    """Everything static: one compiled program each."""

    form: str  # gram | weight
    n: int
    d: int
    neurons: int  # columns drawn, a bucket: pairs under coupled initialisation
    branches: int  # 2 coupled, 1 iid
    activation: str
    dtype: str
    optimizer: str
    hyperparameters: tuple[str, ...]  # their values are traced
    schedule: tuple[str, tuple[tuple[str, float], ...]] | None
    events: tuple[str, ...]  # those that are judged along the path
    reach: bool  # whether the radii of the proof and the certificate are measured at the start
    measure_every: int
    curve_points: int
    curve_spacing: str  # logarithmic | regular


class Inputs(NamedTuple):
    """What one run starts from; arrays of the shapes that the signature fixes."""

    X: Any  # (n, d)
    y: Any  # (n,)
    key: Any  # (2,) uint32, of the neuron stream
    m: Any  # the width; neurons beyond it are masked
    scale: Any  # kappa
    step_factor: Any  # eta_scaled = step_factor / max(curvature_floor, use_curvature lambda_max(H(0)))
    curvature_floor: Any
    use_curvature: Any
    flow_time: Any  # 0: max_steps alone is the budget
    max_steps: Any
    tolerance: Any  # absolute, on ||r||
    divergence: Any  # a residual this many times max(||r(0)||, ||y||) counts as diverged
    lambda_cts: Any
    gram_norm: Any  # ||X||^2, spectral
    hyperparameters: tuple[Any, ...]  # in the order of the signature's names


class State(NamedTuple):
    """A run in a lane: what stays fixed from step 0 on, and what moves."""

    linear: jax.Array  # A, (n, k)
    gram: jax.Array  # K, (n, n)
    start: jax.Array | None  # W(0) in weight space, (d, 1, p), 0 where masked: what weight decay acts on
    base: tuple[jax.Array, ...]  # of the activation, (n, p)
    signs: jax.Array  # (branches, p), 0 where masked
    initial_residual: jax.Array
    inputs: Inputs
    eta: jax.Array
    eta_scaled: jax.Array
    budget: jax.Array
    initial: dict[str, jax.Array]  # spectrum and errors of H(0), radii, certificate
    radii: jax.Array | None  # (p,) R_r of (C.22)
    theta: jax.Array  # (k, branches, p)
    change: jax.Array | None  # phi(z_t) - phi(z_0), (n, branches, p), where `native` takes the steps
    optimizer: Any
    step: jax.Array
    status: jax.Array
    residual_norm: jax.Array
    movement: jax.Array
    refined_movement: jax.Array | None  # max over t and r of ||w_r(t) - w_r(0)|| / R_r
    carries: dict[str, jax.Array]  # of the events
    first_violation: dict[str, jax.Array]
    curve_step: jax.Array  # (P,) int32 increasing
    curve: jax.Array
    curve_length: jax.Array


def _budget(inputs: Inputs, eta_scaled: jax.Array, initial_norm: jax.Array) -> jax.Array:
    """Return the step budget: flow_time 2 / (eta_scaled lambda) log(||r(0)|| / eps), at most max_steps."""
    ratio = jnp.maximum(initial_norm.astype(jnp.float64) / inputs.tolerance, 1.0)
    speed = eta_scaled.astype(jnp.float64) * jnp.maximum(inputs.lambda_cts, 0)
    wanted = jnp.maximum(jnp.ceil(inputs.flow_time * 2 / speed * jnp.log(ratio)), 1)
    limited = (inputs.flow_time > 0) & (wanted < inputs.max_steps)  # False where it is infinite or not a number
    return jnp.where(limited, wanted, inputs.max_steps).astype(inputs.max_steps.dtype)


def _curve_steps(points: int, spacing: str, budget: jax.Array) -> jax.Array:
    """Return the steps at which ||r_t|| is kept, from 0 to the budget or beyond: evenly spaced, or geometrically.

    Where a geometric sequence would repeat a step it takes the next: 0, 1, 2, 3, ... at first. It is convex, so
    that it grows by at least 1 wherever it is above that line.
    """
    place = jnp.arange(points, dtype=jnp.int32)
    if spacing == "regular":
        return place * -(-budget // (points - 1))
    growth = jnp.log(budget.astype(jnp.float64)) / max(points - 2, 1)
    wanted = jnp.round(jnp.exp(growth * (place - 1))).astype(jnp.int32).at[0].set(0)
    return jnp.maximum(wanted, place)


def _transformation(signature: Signature, eta: jax.Array, values: tuple[Any, ...]) -> optax.GradientTransformation:
    """Return the optax transformation with traced hyper-parameters."""
    hyperparameters = dict(zip(signature.hyperparameters, values, strict=True))
    if signature.schedule is None:
        return OPTIMIZERS[signature.optimizer].make(eta, **hyperparameters)
    name, parameters = signature.schedule
    factor = SCHEDULES[name](**dict(parameters))

    def step_size(count: jax.Array) -> jax.Array:
        return eta * factor(count.astype(eta.dtype))  # quotients of integers are float32 in every precision

    return OPTIMIZERS[signature.optimizer].make(step_size, **hyperparameters)


def _init(signature: Signature, fused: bool, inputs: Inputs) -> State:
    X, dtype, phi = inputs.X, jnp.dtype(signature.dtype), ACTIVATIONS[signature.activation]
    drawn = initial.draw(signature, inputs)
    known, radii = initial.measure(signature, inputs, drawn)
    found = {name: value if value.dtype == bool else value.astype(dtype) for name, value in known.items()}
    used = jnp.where(inputs.use_curvature > 0, found["lambda_max_0"], 0)  # 0 times a nan would be one
    curvature = jnp.maximum(inputs.curvature_floor, used)
    # a curvature out of range would make a step of 0: a run that never ends
    eta_scaled = jnp.where(jnp.isfinite(curvature), inputs.step_factor / curvature, jnp.nan).astype(dtype)
    eta = eta_scaled / (inputs.scale**2 * inputs.m.astype(dtype))
    budget = _budget(inputs, eta_scaled, norm(drawn.residual))
    gram, in_weights = X @ X.T, signature.form == "weight"
    linear = X if in_weights else gram
    theta = jnp.zeros((linear.shape[1], *drawn.signs.shape), dtype)
    state = State(
        linear=linear,
        gram=gram,
        start=jnp.where(drawn.live, drawn.weights, 0).astype(dtype)[:, None, :] if in_weights else None,
        base=(phi.value(drawn.z0),) if fused else phi.base(drawn.z0),
        signs=drawn.signs,
        initial_residual=drawn.residual,
        inputs=inputs,
        eta=eta,
        eta_scaled=eta_scaled,
        budget=budget,
        initial=found,
        radii=None if radii is None else radii.astype(dtype),
        theta=theta,
        change=jnp.zeros((len(X), *drawn.signs.shape), dtype) if fused else None,
        optimizer=_transformation(signature, eta, inputs.hyperparameters).init(theta),
        step=jnp.int32(0),
        status=jnp.int32(Status.running),
        residual_norm=norm(drawn.residual),
        movement=jnp.zeros((), dtype),
        refined_movement=None if radii is None else jnp.zeros((), dtype),
        carries={name: jnp.asarray(EVENTS[name].nothing, dtype) for name in signature.events},
        first_violation={name: jnp.int32(NEVER) for name in signature.events},
        curve_step=_curve_steps(signature.curve_points, signature.curve_spacing, budget),
        curve=jnp.full(signature.curve_points, jnp.nan, dtype),
        curve_length=jnp.int32(0),
    )
    return _judge_now(state, found["lambda_0"])


def _look(state: State, lambda_min: jax.Array | None = None) -> Look:
    return Look(
        step=state.step,
        residual=state.residual_norm,
        previous=jnp.where(state.step > 0, state.residual_norm, jnp.inf),
        initial_residual=state.initial_residual,
        initial_norm=norm(state.initial_residual),
        eta_scaled=state.eta_scaled,
        inputs=state.inputs,
        initial=state.initial,
        movement=state.movement,
        lambda_min=lambda_min,
    )


def _shown(event: Event, look: Look, step: jax.Array, size: jax.Array, before: jax.Array) -> tuple[Any, Any]:
    return event.update(look._replace(step=step, residual=size, previous=before))  # type: ignore[misc]


def _judge(when: str, state: State, look: Look, steps: jax.Array, sizes: jax.Array, seen: jax.Array) -> State:
    """Show the events of this time the looks at some steps: what they keep, and the step of a first violation.

    `steps`, `sizes` = ||r_t|| and `seen`, whether the run came that far, have one entry for each look.
    """
    carries, first = dict(state.carries), dict(state.first_violation)
    before = jnp.append(look.previous, sizes[:-1])
    for name in state.first_violation:
        event = EVENTS[name]
        if event.when == when and event.update is not None:
            values, violated = jax.vmap(partial(_shown, event, look))(steps, sizes, before)
            known = jnp.where(seen, values, event.nothing).astype(sizes.dtype)
            known = jnp.append(known, carries[name])
            carries[name] = known.min() if event.fold == "minimum" else known.max()
            violated &= seen
            now = jnp.where(violated.any(), steps[jnp.argmax(violated)], NEVER)
            first[name] = jnp.where(first[name] == NEVER, now, first[name]).astype(jnp.int32)
    return state._replace(carries=carries, first_violation=first)


def _evaluate(signature: Signature, state: State, theta: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the residual r, the pre-activation increments dl and the derivatives D, all from theta."""
    dl = jnp.einsum("ik,kbp->ibp", state.linear, theta)
    base = tuple(b[:, None, :] for b in state.base)
    change, derivative = ACTIVATIONS[signature.activation].increment(base, dl)
    output = jnp.einsum("ibp,bp->i", change, state.signs)
    return state.initial_residual + state.inputs.scale * output, dl, derivative


def _limit(state: State) -> jax.Array:
    """Return the residual beyond which a run counts as diverged."""
    return state.inputs.divergence * jnp.maximum(norm(state.initial_residual), norm(state.inputs.y))


def _outcome(state: State, limit: jax.Array, step: jax.Array, size: jax.Array) -> jax.Array:
    """Return the status after looking at ||r_t||, which decides how a run ends; `steps.cc` follows the same rules."""
    tolerance = state.inputs.tolerance
    ends = [
        (~jnp.isfinite(size), Status.nonfinite),
        ((size <= tolerance) & (tolerance > 0), Status.converged),  # 0: the whole budget
        (size > limit, Status.diverged),
        (step >= state.budget, Status.max_steps),
    ]
    conditions, values = zip(*ends, strict=True)
    return jnp.select(conditions, [jnp.int32(v) for v in values], jnp.int32(Status.running))


class Moving(NamedTuple):
    """What changes from step to step."""

    theta: jax.Array
    change: jax.Array | None
    optimizer: Any
    sizes: jax.Array  # (measure_every,) ||r_t|| at the steps that were looked at
    step: jax.Array
    status: jax.Array


def _steps(signature: Signature, state: State) -> Moving:
    """Take up to `measure_every` steps: look at ||r_t||, and if the run goes on, apply the optimizer."""
    limit, optimizer = _limit(state), _transformation(signature, state.eta, state.inputs.hyperparameters)

    def step(moving: Moving) -> Moving:
        residual, _, derivative = _evaluate(signature, state, moving.theta)
        size = norm(residual)
        status = _outcome(state, limit, moving.step, size)
        goes_on = status == Status.running
        gradient = derivative * (state.inputs.scale * residual)[:, None, None] * state.signs
        if signature.form == "weight":
            gradient = jnp.einsum("ik,ibp->kbp", state.linear, gradient)
        weights = None if state.start is None else state.start + moving.theta
        updates, moved = optimizer.update(gradient, moving.optimizer, weights)
        keep = partial(jax.tree.map, lambda new, old: jnp.where(goes_on, new, old))  # a bad update never lands
        return Moving(
            theta=keep(moving.theta + updates, moving.theta),
            change=None,
            optimizer=keep(moved, moving.optimizer),
            sizes=moving.sizes.at[moving.step - state.step].set(size),
            step=moving.step + goes_on.astype(jnp.int32),
            status=status,
        )

    nothing = jnp.full(signature.measure_every, jnp.nan, state.theta.dtype)
    return jax.lax.while_loop(
        lambda moving: (moving.step - state.step < signature.measure_every) & (moving.status == Status.running),
        step,
        Moving(state.theta, None, state.optimizer, nothing, state.step, state.status),
    )


def _moved(signature: Signature, state: State, theta: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the largest ||w_r - w_r(0)||, alone and in units of the neuron's radius, (2,), and phi'(z_t)."""
    _, dl, derivative = _evaluate(signature, state, theta)
    inner = theta * dl if signature.form == "gram" else theta**2
    moved = jnp.sqrt(jnp.sum(inner, axis=0))
    moved = jnp.where(jnp.isnan(moved), jnp.inf, jnp.where(state.signs == 0, 0, moved))  # out of range: infinite
    share = jnp.zeros_like(moved) if state.radii is None else jnp.where(state.signs == 0, 0, moved / state.radii)
    return jnp.stack([jnp.max(moved, initial=0.0), jnp.max(share, initial=0.0)]), derivative


def _measure(signature: Signature, state: State, moved: jax.Array, derivative: jax.Array) -> State:
    """Keep the largest movement and, if an event asks, find lambda_min(H(t)); judge the events that are measured."""
    state = state._replace(movement=jnp.maximum(state.movement, moved[0]))
    if state.refined_movement is not None:
        state = state._replace(refined_movement=jnp.maximum(state.refined_movement, moved[1]))
    lambda_min = None
    if any("kernel" in EVENTS[name].needs for name in signature.events):
        live = (jnp.abs(state.signs) * derivative).reshape(signature.n, -1)
        low, _ = initial.extremes((state.gram * (live @ live.T) / state.inputs.m.astype(live.dtype))[None])
        lambda_min = low[0]
    return _judge_now(state, lambda_min)


def _judge_now(state: State, lambda_min: jax.Array | None) -> State:
    """Judge the events that are measured now and then."""
    look = _look(state, lambda_min)
    return _judge("measure", state, look, look.step[None], look.residual[None], jnp.ones(1, bool))


def _running(state: State) -> jax.Array:
    # a lane of zeros has no budget, so it is idle although its status reads 0
    return (state.status == Status.running) & (state.budget > 0)


def _advance(signature: Signature, state: State) -> State:
    """Take up to `measure_every` steps, then measure: movement and kernel are known at multiples of it."""
    if state.change is None:
        moving = _steps(signature, state)
        moved, derivative = _moved(signature, state, moving.theta)
    else:
        found, moved = native.steps(signature, state, _limit(state))
        moving = Moving(**found)
        derivative = state.base[0][:, None, :] + found["change"]
    looks = moving.step - state.step + (moving.status != Status.running)
    place = jnp.arange(signature.measure_every, dtype=jnp.int32)
    state = _judge("step", state, _look(state), state.step + place, moving.sizes, place < looks)
    at = state.curve_step - state.step
    curve = jnp.where((at >= 0) & (at < looks), moving.sizes[jnp.clip(at, 0, place[-1])], state.curve)
    state = state._replace(
        **{name: value for name, value in moving._asdict().items() if name != "sizes"},
        residual_norm=moving.sizes[jnp.maximum(looks - 1, 0)],
        curve=curve,
        curve_length=jnp.sum(state.curve_step < state.step + looks, dtype=jnp.int32),
    )
    return _measure(signature, state, moved, derivative)


def _record(state: State) -> dict[str, jax.Array]:
    refined = {} if state.refined_movement is None else {"refined_movement": state.refined_movement}
    return {
        **refined,
        **state.initial,
        "steps": state.step,
        "status": state.status,
        "eta": state.eta,
        "eta_scaled": state.eta_scaled,
        "max_steps": state.budget,
        "initial_residual": state.initial_residual,
        "residual_final": state.residual_norm,
        "max_movement": state.movement,
        **{EVENTS[name].keeps or f"{name}_carry": carry for name, carry in state.carries.items()},
        "curve_step": state.curve_step,
        "curve_residual": state.curve,
        "curve_length": state.curve_length,
        **{f"{event}_step": step for event, step in state.first_violation.items()},
    }


def program(signature: Signature, *, fused: bool = True) -> Program:
    """Build the program of one signature, unbatched: one run of gradient descent in one lane (A.5, A.10).

    `fused` leaves the steps to compiled code of our own wherever that covers them (`native.covers`).
    """
    return Program(
        init=partial(_init, signature, fused and native.covers(signature)),
        advance=partial(_advance, signature),
        running=_running,
        record=_record,
    )
