"""The loops that people write today for the gradient descent of `expreg run`, each timed in a process of its own.

    python -m expreg.benchmark.loops PEER FILE

FILE (npz) has X (cells, n, d), y (cells, n), W (cells, d, m), a (cells, m), float32, eta (cells,) and steps (cells,).
Prints a JSON object: seconds and processor seconds of one run after a warm one, and ||r|| of each cell at its end.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

Arrays = dict[str, Any]


def vmap(given: Arrays) -> Callable[[], Any]:
    """Return the ten-line idiom: autodiff under jit, scan and vmap; where lengths differ, a while loop."""
    import jax
    import jax.numpy as jnp

    X, y, W, a, eta, steps = (jnp.asarray(given[name]) for name in ("X", "y", "W", "a", "eta", "steps"))
    equal, most = len(set(given["steps"].tolist())) == 1, int(given["steps"].max())

    def residual(W: Any, X: Any, y: Any, a: Any) -> Any:
        return jnp.exp(X @ W) @ a - y

    def train(X: Any, y: Any, W: Any, a: Any, eta: Any, length: Any) -> Any:
        gradient = jax.grad(lambda W: 0.5 * jnp.sum(residual(W, X, y, a) ** 2))
        if equal:
            W = jax.lax.scan(lambda W, _: (W - eta * gradient(W), None), W, length=most)[0]
        else:
            body = lambda c: (c[0] + 1, c[1] - eta * gradient(c[1]))  # noqa: E731
            W = jax.lax.while_loop(lambda c: c[0] < length, body, (0, W))[1]
        return jnp.linalg.norm(residual(W, X, y, a))

    run = jax.jit(jax.vmap(train))

    def once() -> Any:
        with jax.default_matmul_precision("highest"):  # on accelerators the default has ten bits
            return np.asarray(run(X, y, W, a, eta, steps))

    return once


def numpy(given: Arrays) -> Callable[[], Any]:
    """Return a plain NumPy loop over the cells, with the gradient written out and one BLAS thread."""

    def run() -> list[float]:
        found = []
        for X, y, W, a, eta, steps in zip(*(given[k] for k in ("X", "y", "W", "a", "eta", "steps")), strict=True):
            W = W.copy()
            for _ in range(steps):
                E = np.exp(X @ W)
                W -= X.T @ ((eta * (E @ a - y))[:, None] * (E * a))
            found.append(float(np.linalg.norm(np.exp(X @ W) @ a - y)))
        return found

    return run


def torch(given: Arrays, compiled: bool = False) -> Callable[[], Any]:
    """Return PyTorch's autograd, one cell after the other; on the GPU if there is one."""
    import torch as library

    device = "cuda" if library.cuda.is_available() else "cpu"
    arrays = [library.from_numpy(np.ascontiguousarray(given[name])).to(device) for name in ("X", "y", "W", "a")]

    def loss(W: Any, X: Any, y: Any, a: Any) -> Any:
        return 0.5 * ((library.exp(X @ W) @ a - y) ** 2).sum()

    value = library.compile(loss) if compiled else loss

    def run() -> list[float]:
        found = []
        for X, y, W, a, eta, steps in zip(*arrays, given["eta"].tolist(), given["steps"].tolist(), strict=True):
            weights = W.clone().requires_grad_()
            optimizer = library.optim.SGD([weights], lr=eta)
            for _ in range(steps):
                optimizer.zero_grad()
                value(weights, X, y, a).backward()
                optimizer.step()
            found.append(float((2 * loss(weights, X, y, a)).sqrt()))
        return found

    return run


def torch_compile(given: Arrays) -> Callable[[], Any]:
    """Return the same loop with `torch.compile` on the loss."""
    return torch(given, compiled=True)


PEERS: dict[str, Callable[[Arrays], Callable[[], Any]]] = {
    "vmap": vmap,
    "numpy": numpy,
    "torch": torch,
    "torch.compile": torch_compile,
}
SLOW = ("numpy", "torch", "torch.compile")
"""Peers that take one cell after the other: one cell says how long all would take."""
WARM = 20  # steps of theirs before anything is timed


def main(peer: str, path: str) -> None:
    """Time one peer and print what it found."""
    with np.load(path) as stored:
        given = dict(stored)
    with threadpool_limits(1 if peer == "numpy" else None, user_api="blas"):
        run = PEERS[peer](given)
        (PEERS[peer](given | {"steps": np.minimum(given["steps"], WARM)}) if peer in SLOW else run)()
        began, worked = time.perf_counter(), time.process_time()
        residuals = run()
        seconds, processor = time.perf_counter() - began, time.process_time() - worked
    print(json.dumps({"seconds": seconds, "processor": processor, "residuals": [float(r) for r in residuals]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
