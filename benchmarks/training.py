"""Time the engine against what people write today, side by side in one run: microseconds per cell and step.

    python benchmarks/training.py            (or: make bench)

Peers: one jitted, vmapped autodiff program over all cells with optax (`vmap`), and PyTorch's eager autograd, one
cell after the other (`torch`, if it is installed: it is in the extra `bench`). Everyone takes the same number of
gradient steps on the same problems in float32; compilation is not counted. The last table gives every run its
own length, as sweeps do: a vmapped loop waits for the slowest, the engine refills its lanes.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import optax

from expreg.core.engine import devices
from expreg.core.engine.lanes import Engine
from expreg.kinds import EXPERIMENTS
from expreg.network import forward

SIZES = ((16, 256), (16, 1024), (64, 1024), (64, 4096))
CELLS, STEPS, REPEATS = 64, 200, 3
EXPERIMENT = EXPERIMENTS["threshold"]


def settings(n: int, m: int, replicate: int, steps: int) -> dict:
    """Return a cell that takes exactly `steps` steps: its tolerance is out of reach."""
    return {
        "experiment": "threshold",
        "seed": 0,
        "replicate": replicate,
        "precision": "f32",
        "data": {"kind": "sphere", "n": n, "d": n, "labels": {"kind": "sign"}, "allow_duplicates": False},
        "network": {"m": m, "activation": "exp", "init": "coupled", "scale": 1.0},
        "training": {
            "optimizer": {"name": "sgd"},
            "step_size": {"rule": "spectral", "factor": 0.01, "value": None, "schedule": None},
            "max_steps": steps,
            "tolerance": 1e-5,
            "relative": False,
            "measure_every": 16,
            "divergence": 1e4,
            "curve": {"points": 8, "spacing": "logarithmic"},
        },
        "measure": ["E4", "E5"],
    }


def engine_seconds(n: int, m: int, lengths: list[int]) -> float:
    """Return the seconds that the engine takes for one cell per length, compilation apart."""
    cells = [(str(i), settings(n, m, i, length)) for i, length in enumerate(lengths)]
    for _, own in cells:
        EXPERIMENT.prepare(own)  # data generation is everyone's cost, and nobody's here
    engine = Engine(EXPERIMENT)
    began = time.perf_counter()
    rows = [row for rows in engine.run(cells) for row in rows]
    elapsed = time.perf_counter() - began
    assert sorted(row["steps"] for row in rows) == sorted(lengths)
    return elapsed - sum(seconds for _, _, seconds in engine.compilations)


def problems(n: int, m: int) -> list[np.ndarray]:
    """Return X, y, W, a of all cells, stacked."""
    inputs = [EXPERIMENT.inputs(settings(n, m, i, 1)) for i in range(CELLS)]
    return [np.stack([own[name] for own in inputs]) for name in ("X", "y", "W", "a")]


def vmap_seconds(n: int, m: int, lengths: list[int]) -> float:
    """Return the seconds of one vmapped loop of autodiff and optax over all cells."""
    X, y, W, a = (jnp.asarray(part) for part in problems(n, m))
    optimizer = optax.sgd(0.01 / (30 * m))

    def train(X: jax.Array, y: jax.Array, W: jax.Array, a: jax.Array, length: jax.Array) -> jax.Array:
        gradient = jax.grad(lambda W: 0.5 * jnp.sum((forward(W, a, X) - y) ** 2))

        def body(carry: tuple) -> tuple:
            t, W, state = carry
            updates, state = optimizer.update(gradient(W), state)
            return t + 1, optax.apply_updates(W, updates), state

        return jax.lax.while_loop(lambda c: c[0] < length, body, (0, W, optimizer.init(W)))[1]

    run = jax.jit(jax.vmap(train))
    arguments = (X, y, W, a, jnp.asarray(lengths))
    run(*arguments).block_until_ready()
    began = time.perf_counter()
    run(*arguments).block_until_ready()
    return time.perf_counter() - began


def torch_seconds(n: int, m: int, lengths: list[int], *, cells: int = 4) -> float:
    """Return the seconds of PyTorch's eager autograd, from a few cells."""
    import torch

    X, y, W, a = (torch.from_numpy(part) for part in problems(n, m))
    began = time.perf_counter()
    for i in range(cells):
        weights = W[i].clone().requires_grad_()
        optimizer = torch.optim.SGD([weights], lr=0.01 / (30 * m))
        for _ in range(lengths[i]):
            optimizer.zero_grad()
            (0.5 * ((torch.exp(X[i] @ weights) @ a[i] - y[i]) ** 2).sum()).backward()
            optimizer.step()
    return (time.perf_counter() - began) * sum(lengths) / sum(lengths[:cells])


def median(measure: Callable[[], float]) -> float:
    """Return the median of a few measurements."""
    return statistics.median(measure() for _ in range(REPEATS))


def table(title: str, lengths: list[int]) -> None:
    """Print microseconds per cell-step of everyone and the ratios to the engine."""
    peers = {"vmap": vmap_seconds} | ({"torch": torch_seconds} if find_spec("torch") else {})
    print(f"\n{title}\n{'n':>4} {'m':>6} {'engine':>9}" + "".join(f" {name:>9} {'ratio':>6}" for name in peers))
    for n, m in SIZES:
        scale = 1e6 / sum(lengths)
        own = median(partial(engine_seconds, n, m, lengths)) * scale
        line = f"{n:4d} {m:6d} {own:9.1f}"
        for measure in peers.values():
            other = median(partial(measure, n, m, lengths)) * scale
            line += f" {other:9.1f} {other / own:6.2f}"
        print(line, flush=True)


def main() -> None:
    """Print both tables."""
    devices.configure()
    facts = devices.describe()
    print(f"{facts['devices']} x {facts['device_kind']}, jax {facts['jax']}, {CELLS} cells, microseconds per cell-step")
    table(f"equal lengths: {STEPS} steps each", [STEPS] * CELLS)
    rng = np.random.default_rng(0)
    table("unequal lengths: geometric, mean 200", [int(k) + 1 for k in rng.geometric(1 / STEPS, CELLS)])


if __name__ == "__main__":
    main()
