"""Gradient descent on the exponential network as a program for one lane: the increment form, in two spaces.

Weight space trains Delta = W - W(0), Gram space the coefficients C of Delta = X^T C. Both move the
pre-activations by dl = A theta, with A = X and theta = Delta, or A = K = X X^T and theta = C, and the
gradient with respect to theta is P(D o (kappa r a^T)) with P = X^T or the identity. Gram space is the same
trajectory for every optimizer that is linear in the gradients, for 2 n^2 m flops a step in place of 4 n d m.

Each pair of a coupled initialisation is stored once (the branches +-s), and only increments are summed
(A.10): the float32 error floor is 1e-6 where that of the plain sum is 1e-3 (H.3).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from expreg.activation import ACTIVATIONS
from expreg.kinds.network import initial, kernel, native, steps
from expreg.kinds.network.events import EVENTS, NEVER, Event, Look
from expreg.ntk import norm
from expreg.types import Program, Status


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


def _init(signature: Signature, by: str, inputs: Inputs) -> State:
    X, dtype, phi = inputs.X, jnp.dtype(signature.dtype), ACTIVATIONS[signature.activation]
    compiled = by == "compiled"
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
        base=(phi.value(drawn.z0),) if compiled else phi.base(drawn.z0),
        signs=drawn.signs,
        initial_residual=drawn.residual,
        inputs=inputs,
        eta=eta,
        eta_scaled=eta_scaled,
        budget=budget,
        initial=found,
        radii=None if radii is None else radii.astype(dtype),
        theta=theta,
        change=jnp.zeros((len(X), *drawn.signs.shape), dtype) if compiled else None,
        optimizer=steps.transformation(signature, eta, inputs.hyperparameters).init(theta),
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


def _measure(state: State, moved: jax.Array, lambda_min: jax.Array | None) -> State:
    """Keep the largest movement, alone and in radii; judge the events that are measured."""
    state = state._replace(movement=jnp.maximum(state.movement, moved[0]))
    if state.refined_movement is not None:
        state = state._replace(refined_movement=jnp.maximum(state.refined_movement, moved[1]))
    return _judge_now(state, lambda_min)


def _judge_now(state: State, lambda_min: jax.Array | None) -> State:
    """Judge the events that are measured now and then."""
    look = _look(state, lambda_min)
    return _judge("measure", state, look, look.step[None], look.residual[None], jnp.ones(1, bool))


def _running(state: State) -> jax.Array:
    # a lane of zeros has no budget, so it is idle although its status reads 0
    return (state.status == Status.running) & (state.budget > 0)


def _advance(signature: Signature, by: str, state: State) -> State:
    """Take up to `measure_every` steps, then measure: movement and kernel are known at multiples of it."""
    spectrum, limit = any("kernel" in EVENTS[name].needs for name in signature.events), steps.limit(state)
    if by == "compiled":
        theta, change, sizes, ended, moved = native.steps(signature, state, limit, spectrum)
        moving = steps.Moving(theta, change, state.optimizer, ended[0], ended[1])
        lambda_min = moved[2] if spectrum else None
    else:
        if by == "kernel":
            theta, derivative, sizes, ended, moved = kernel.steps(signature, state, limit)
            moving = steps.Moving(theta, None, state.optimizer, ended[0], ended[1])
        else:
            moving, sizes = steps.take(signature, by == "early", state, limit)
            derivative, moved = steps.measured(signature, state, moving.theta)
        lambda_min = steps.lowest(state, derivative) if spectrum else None
    looks = moving.step - state.step + (moving.status != Status.running)
    place = jnp.arange(signature.measure_every, dtype=jnp.int32)
    state = _judge("step", state, _look(state), state.step + place, sizes, place < looks)
    at = state.curve_step - state.step
    curve = jnp.where((at >= 0) & (at < looks), sizes[jnp.clip(at, 0, place[-1])], state.curve)
    state = state._replace(
        **moving._asdict(),
        residual_norm=sizes[jnp.maximum(looks - 1, 0)],
        curve=curve,
        curve_length=jnp.sum(state.curve_step < state.step + looks, dtype=jnp.int32),
    )
    return _measure(state, moved, lambda_min)


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


EXPONENTIAL_FLOPS = 40
"""What the elementwise work of a step (one expm1, a dozen products) costs beside the matrix product."""
GROUP, SMALL = 8, 2e5
"""Lanes that a core vmaps where XLA takes the steps, and the flops of a step below which it does: measured on one core
with adam, 8 lanes of 4e4, 1e5 and 2e5 flops are 1.65, 1.28 and 1.14 times as fast as one after the other; on two cores
that share a cache those of 3e5 are slower."""


def flops(signature: Signature) -> float:
    """Return the floating-point operations of a step of one lane (A.11), padding included."""
    inner = signature.n if signature.form == "gram" else 2 * signature.d
    return signature.n * signature.neurons * signature.branches * (2.0 * inner + EXPONENTIAL_FLOPS)


NEURONS = ("start", "base", "signs", "radii", "theta", "change", "optimizer")
"""The fields of a state whose arrays have the neurons along their last axis."""


def program(signature: Signature, *, by: str | None = None) -> Program:
    """Build the program of one signature, unbatched: one run of gradient descent in one lane (A.5, A.10).

    `by` selects who takes the steps: "compiled" (`steps.cc`), "kernel" (`steps.cu`), "early" (XLA, in a loop that exits
    when the run ends), "fixed" (XLA, in a loop of fixed length) or "xla", the one of these two that suits platform and
    size. The default suits the signature too.
    """
    if by is None:
        by = "compiled" if native.covers(signature) else "kernel" if kernel.covers(signature) else "xla"
    group = GROUP if by == "xla" and flops(signature) < SMALL else 1
    if by == "xla":
        by = "early" if group == 1 and jax.default_backend() == "cpu" else "fixed"
    return Program(
        init=partial(_init, signature, by),
        advance=partial(_advance, signature, by),
        running=_running,
        record=_record,
        group=group,
        split=dict.fromkeys(NEURONS, -1),
    )
