"""Small runs of the training program, alone in their lane, and the slow loop from the same start."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from oracles import gradient_descent, sphere

from expreg import network
from expreg.kinds.network import descent
from expreg.types import Status

N, D, M, STEPS, EVERY = 5, 7, 12, 200, 16
ETA_SCALED = 0.015
DECAY = {"weight_decay": 0.5}
PARAMETERS = {
    "sgd": {},
    "momentum": {"momentum": 0.8},
    "nesterov": {"momentum": 0.8},
    "adam": {"b1": 0.9, "b2": 0.99, "eps": 1e-8},
    "adamw": {"b1": 0.9, "b2": 0.99, "eps": 1e-8, **DECAY},
    "adagrad": {"eps": 1e-7},
    "lion": {"b1": 0.9, "b2": 0.99, **DECAY},
    "rmsprop": {"decay": 0.9, "eps": 1.0},  # a small one makes the last steps chaotic
}
# name: (parameters, the same factor of the step size written out)
SCHEDULES = {
    "constant": ({}, lambda t: 1.0),
    "linear": (
        {"end_value": 0.2, "transition_steps": 100, "transition_begin": 10},
        lambda t: np.interp(t, [10, 110], [1.0, 0.2]),
    ),
    "polynomial": (
        {"end_value": 0.1, "power": 2.0, "transition_steps": 100},
        lambda t: 0.1 + 0.9 * (1 - min(t, 100) / 100) ** 2,
    ),
    "exponential_decay": (
        {"transition_steps": 50, "decay_rate": 0.5, "staircase": True},
        lambda t: 0.5 ** (t // 50),
    ),
    "cosine_decay": (
        {"decay_steps": 150, "alpha": 0.1},
        lambda t: 0.1 + 0.9 * (1 + np.cos(np.pi * min(t / 150, 1.0))) / 2,
    ),
    "warmup_cosine_decay": (
        {"warmup_steps": 20, "decay_steps": 120, "end_value": 0.25},
        lambda t: t / 20 if t < 20 else 0.25 + 0.75 * (1 + np.cos(np.pi * min((t - 20) / 100, 1.0))) / 2,
    ),
}


def make(
    form="gram", activation="exp", init="coupled", dtype=np.float64, *, n=N, d=D, m=M, bucket=None, optimizer="sgd",
    schedule=None, every=EVERY, path=False, reach=False, more=(),
    points=STEPS + 1, spacing="regular", X=None, y=None, **change,
):  # fmt: skip
    """Return (signature, inputs) of a small run that never ends before its budget unless it is told to."""
    rng = np.random.default_rng(3)
    X = sphere(rng, n, d) if X is None else X
    y = rng.choice([-1.0, 1.0], len(X)) if y is None else y
    branches = 2 if init == "coupled" else 1
    parameters = PARAMETERS[optimizer]
    signature = descent.Signature(
        form=form, n=len(X), d=X.shape[1], neurons=(bucket or m) // branches, branches=branches,
        activation=activation, dtype=np.dtype(dtype).name, optimizer=optimizer, hyperparameters=tuple(parameters),
        schedule=schedule and (schedule, tuple(SCHEDULES[schedule][0].items())),
        events=(*("E2",) * reach, *("E3",) * path, "E4", *more), reach=reach,
        measure_every=every, curve_points=points, curve_spacing=spacing,
    )  # fmt: skip
    real = dict(
        scale=1.0, step_factor=ETA_SCALED * 5, curvature_floor=5.0, use_curvature=0.0, flow_time=0.0,
        tolerance=-1.0, divergence=1e6, lambda_cts=1.0,
        gram_norm=float(np.linalg.norm(X, 2) ** 2),
    )  # fmt: skip
    numbers = {key: dtype(change.pop(key, value)) for key, value in real.items()}
    inputs = descent.Inputs(
        X=X.astype(dtype), y=y.astype(dtype), key=np.asarray(jax.random.key_data(jax.random.key(11))),
        m=np.int32(m), max_steps=np.int32(change.pop("max_steps", STEPS)), **numbers,
        hyperparameters=tuple(dtype(value) for value in parameters.values()),
    )  # fmt: skip
    assert not change
    return signature, inputs


@cache
def compiled(signature):
    program = descent.program(signature)
    # the start is left to single operations, which tests share: compiling it whole takes longer than the loop
    return program.init, jax.jit(lambda s: program.record(jax.lax.while_loop(program.running, program.advance, s)))


def run(signature, inputs):
    """Run the program of one lane to its end; return its record as NumPy arrays."""
    init, rest = compiled(signature)
    return {name: np.asarray(value) for name, value in rest(init(jax.tree.map(jnp.asarray, inputs))).items()}


def start_of(signature, inputs):
    """Return W(0), a, X, y as float64, and eta."""
    W, a = network.initialise(
        jax.random.wrap_key_data(inputs.key),
        int(inputs.m),
        signature.d,
        init="coupled" if signature.branches == 2 else "iid",
    )
    eta = float(inputs.step_factor) / float(inputs.curvature_floor) / (float(inputs.scale) ** 2 * int(inputs.m))
    return (*(np.asarray(v, float) for v in (W, a, inputs.X, inputs.y)), eta)


def oracle(signature, inputs, **more):
    """Return ||r_t|| and W(t), t = 0..budget, of the slow loop."""
    W, a, X, y, eta = start_of(signature, inputs)
    more = {"steps": int(inputs.max_steps), **more}
    return gradient_descent(W, a, X, y, eta=eta, activation=signature.activation, scale=float(inputs.scale), **more)


def status_of(record):
    return Status(int(record["status"]))


def measured(path, every=EVERY):
    """Return the steps of a path at which the program measures: multiples of `every`, and the last."""
    return sorted({*range(0, len(path), every), len(path) - 1})


ENDINGS = [
    {"max_steps": 50},
    {"max_steps": 7},
    {"tolerance": 0.3},
    {"step_factor": 8.0, "divergence": 4.0},
    {"max_steps": 0},
]


def finished(by, lanes, signature, inputs):
    program = descent.program(signature, by=by)

    def run(one):
        return program.record(jax.lax.while_loop(program.running, program.advance, program.init(one)))

    return jax.jit(lambda all: jax.lax.map(run, all, batch_size=lanes))(inputs)


def alone_and_together(by, *given, **more):
    """Return the records of runs that end differently: each by XLA in a loop of its own, and vmapped."""
    labels = np.random.default_rng(5).choice([-1.0, 1.0], (len(ENDINGS), more.get("n", N)))
    made = [make(*given, y=y, **more, **change) for y, change in zip(labels, ENDINGS, strict=True)]
    signature = made[0][0]
    inputs = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(inputs for _, inputs in made))
    alone, together = (finished(by, n, signature, inputs) for by, n in (("early", 1), (by, len(ENDINGS))))
    assert len({Status(int(status)) for status in alone["status"]}) > 1
    assert len(set(np.asarray(alone["steps"]).tolist())) > 2
    return alone, together
