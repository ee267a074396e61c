"""How long 4 settings x 64 seeds of two small trainings take: Python loops, jit(vmap) of all runs, and expreg.sweep.

    EXPREG_CACHE=off python benchmarks/own_training.py

Each way has a process of its own, with the flags of JAX that it has by default, and begins with nothing compiled.
Prints wall-clock and processor time with their ratios to expreg's, and relative differences of the last loss. Times
include compilation, and for expreg the rows on disk. Processor time is what counts on a machine that has other work.
"""

import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from processes import answer, measured
from sklearn.datasets import load_digits

import expreg

X, y = load_digits(return_X_y=True)
X = np.asarray(X / 16, np.float32)
SEEDS, STEPS, BATCH = 64, (1000, 3000), 32


def cross_entropy(logits, labels):
    """Return the mean loss of logits."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


# --- a plain network with optax


def init(key, *, width=32):
    """Return the parameters, the moments of Adam, and a key."""
    k1, k2, key = jax.random.split(key, 3)
    params = jax.random.normal(k1, (64, width)) / 8, jax.random.normal(k2, (width, 10)) / width**0.5
    return params, optax.adam(0.0).init(params), key


def step(state, *, lr):
    """Return the state after a step of Adam on a batch."""
    params, moments, key = state
    key, draw = jax.random.split(key)
    rows = jax.random.randint(draw, (BATCH,), 0, len(y))
    features, labels = jnp.asarray(X)[rows], jnp.asarray(y)[rows]
    loss, gradient = jax.value_and_grad(lambda p: cross_entropy(jnp.tanh(features @ p[0]) @ p[1], labels))(params)
    updates, moments = optax.adam(lr).update(gradient, moments)
    return (optax.apply_updates(params, updates), moments, key), {"loss": loss}


# --- a classifier with flax.nnx


def nnx_init(key):
    """Return a module as graph and parameters, momentum, and a key."""
    rngs = nnx.Rngs(key)
    model = nnx.Sequential(nnx.Linear(64, 32, rngs=rngs), nnx.relu, nnx.Linear(32, 10, rngs=rngs))
    graph, params = nnx.split(model)
    return graph, params, optax.sgd(0.0, momentum=0.9).init(params), rngs.batches()


def nnx_step(state, *, lr):
    """Return the state after a step with momentum on a batch."""
    graph, params, moments, key = state
    key, draw = jax.random.split(key)
    rows = jax.random.randint(draw, (BATCH,), 0, len(y))
    features, labels = jnp.asarray(X)[rows], jnp.asarray(y)[rows]
    loss, gradient = jax.value_and_grad(lambda p: cross_entropy(nnx.merge(graph, p)(features), labels))(params)
    updates, moments = optax.sgd(lr, momentum=0.9).update(gradient, moments)
    return (graph, optax.apply_updates(params, updates), moments, key), {"loss": loss}


TRAININGS = {
    f"{name} {steps}": (expreg.Training(name, *functions, steps=steps), rates)
    for steps in STEPS
    for name, functions, rates in (
        ("mlp", (init, step), [1e-3, 3e-3, 1e-2, 3e-2]),
        ("classifier", (nnx_init, nnx_step), [3e-3, 1e-2, 3e-2, 1e-1]),
    )
}


def loop(training, rates):
    """Run a Python loop over steps that are compiled once."""
    start, advance = jax.jit(training.init), jax.jit(lambda state, lr: training.step(state, lr=lr))
    for lr in rates:
        for replicate in range(SEEDS):
            state = start(jax.random.fold_in(jax.random.key(0), replicate))
            for _ in range(training.steps):
                state, metrics = advance(state, lr)
            yield float(metrics["loss"])


def scan(training, rates):
    """Run a Python loop over whole runs that are compiled once."""

    @jax.jit
    def run(key, lr):
        advance = lambda state, _: training.step(state, lr=lr)  # noqa: E731
        return jax.lax.scan(advance, training.init(key), length=training.steps)[1]["loss"][-1]

    for lr in rates:
        for replicate in range(SEEDS):
            yield float(run(jax.random.fold_in(jax.random.key(0), replicate), lr))


def vmapped(training, rates):
    """Run all at once: jit(vmap) of whole runs."""

    def run(replicate, lr):
        advance = lambda state, _: training.step(state, lr=lr)  # noqa: E731
        begin = training.init(jax.random.fold_in(jax.random.key(0), replicate))
        return jax.lax.scan(advance, begin, length=training.steps)[1]["loss"][-1]

    lr, replicate = np.repeat(np.float32(rates), SEEDS), np.tile(np.arange(SEEDS), len(rates))
    yield from np.asarray(jax.jit(jax.vmap(run))(replicate, lr)).tolist()


def sweep(training, rates):
    """Run the same by expreg."""
    with tempfile.TemporaryDirectory() as place:
        run = expreg.sweep(training, {"lr": rates, "seed": SEEDS}, out=f"{place}/run", draw=False)
        yield from run.cells.sort_values(["lr", "replicate"])["loss"]


WAYS = {way.__name__: way for way in (loop, scan, vmapped, sweep)}


def main(names):
    """Print seconds, ratios and differences of the losses."""
    for name in names or TRAININGS:
        found = dict(measured(__file__, name, WAYS))
        own = np.array(found["sweep"][2])
        for way, (seconds, processor, losses) in found.items():
            off = np.abs(np.array(losses) - own) / np.abs(own)
            print(
                f"{name} {way}: {seconds:.1f} s, {seconds / found['sweep'][0]:.1f} x; processor {processor:.1f} s,"
                f" {processor / found['sweep'][1]:.1f} x; loss differs by {off.mean():.0e}, at most {off.max():.0e}",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[2:]:
        answer(lambda: list(WAYS[sys.argv[2]](*TRAININGS[sys.argv[1]])))
    else:
        main(sys.argv[1:])
