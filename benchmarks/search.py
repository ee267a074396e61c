"""How long a search of 500 trials takes: optuna's own loop around one jitted run, and expreg.sweep in batches of 64.

    EXPREG_CACHE=off python benchmarks/search.py

Three trainings: a small network on digits, one of 8 neurons, and the latter for 20 times as many steps. Each way has a
process of its own and begins with nothing compiled. Prints wall-clock and processor time with their ratios to expreg's,
the seconds that optuna's sampler takes of it, and the best result.
"""

import json
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optuna
from processes import answer, measured
from sklearn.datasets import load_digits

import expreg

X, y = load_digits(return_X_y=True)
X = np.asarray(X / 16, np.float32)
TRIALS, BATCH = 500, 64
SPACE = {"lr": {"log_uniform": [1e-4, 1.0]}, "scale": {"log_uniform": [0.1, 10.0]}, "decay": {"uniform": [0.0, 0.1]}}


def training(name, columns, width, rows, steps):
    """Return a network of some width on some columns of digits, trained by Adam with weight decay on batches."""

    def init(key, *, scale):
        k1, k2, key = jax.random.split(key, 3)
        params = scale * jax.random.normal(k1, (columns, width)) / 8, jax.random.normal(k2, (width, 10)) / width**0.5
        return params, optax.adamw(0.0).init(params), key

    def step(state, *, lr, decay):
        params, moments, key = state
        key, draw = jax.random.split(key)
        at = jax.random.randint(draw, (rows,), 0, len(y))
        features, labels = jnp.asarray(X)[at, 20 : 20 + columns], jnp.asarray(y)[at]

        def loss(p):
            logits = jnp.tanh(features @ p[0]) @ p[1]
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, moments = optax.adamw(lr, weight_decay=decay).update(jax.grad(loss)(params), moments, params)
        return optax.apply_updates(params, updates), moments, key

    def record(state):
        logits = jnp.tanh(jnp.asarray(X)[:, 20 : 20 + columns] @ state[0][0]) @ state[0][1]
        return {"loss": optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(y)).mean()}

    return expreg.Training(name, init, step, record, steps=steps, points=2)


TRAININGS = {
    "digits": training("digits", 40, 32, 32, 1000),
    "tiny": training("tiny", 4, 8, 8, 1000),
    "long": training("long", 4, 8, 8, 20_000),
}


def own(training):
    """Run optuna's loop around one jitted run; return the best loss and the seconds of the sampler."""

    @jax.jit
    def run(lr, scale, decay):
        advance = lambda _, state: training.step(state, lr=lr, decay=decay)  # noqa: E731
        state = training.init(jax.random.fold_in(jax.random.key(0), 0), scale=scale)
        return training.record(jax.lax.fori_loop(0, training.steps, advance, state))["loss"]

    busy = 0.0

    def objective(trial):
        nonlocal busy
        lr, scale = trial.suggest_float("lr", 1e-4, 1.0, log=True), trial.suggest_float("scale", 0.1, 10.0, log=True)
        decay = trial.suggest_float("decay", 0.0, 0.1)
        began = time.perf_counter()
        found = float(run(lr, scale, decay))
        busy += time.perf_counter() - began
        return found

    began = time.perf_counter()
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=TRIALS)
    return study.best_value, time.perf_counter() - began - busy


def sweep(training):
    """Run the same by expreg."""
    with tempfile.TemporaryDirectory() as place:
        search = {"trials": TRIALS, "batch": BATCH}
        run = expreg.sweep(training, SPACE, out=f"{place}/run", search=search, draw=False)
        manifest = json.loads((run.directory / "manifest.json").read_text())
        return float(run.cells["loss"].min()), manifest["seconds"]


WAYS = {way.__name__: way for way in (own, sweep)}


def main(names):
    """Print seconds, ratios and the best loss."""
    for name in names or TRAININGS:
        found = dict(measured(__file__, name, WAYS))
        for way, (seconds, processor, (best, other)) in found.items():
            print(
                f"{name} {way}: {seconds:.1f} s, {seconds / found['sweep'][0]:.1f} x; processor {processor:.1f} s;"
                f" best {best:.4g}; sampler or run {other:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if sys.argv[2:]:
        answer(lambda: WAYS[sys.argv[2]](TRAININGS[sys.argv[1]]))
    else:
        main(sys.argv[1:])
