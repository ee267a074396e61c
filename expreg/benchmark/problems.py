"""The twelve regression problems of the benchmark, drawn from fixed seeds."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from expreg.data import problems
from expreg.data.heads import attention, attention_row


class Case(NamedTuple):
    """One problem: A (n, d), dense or csr; targets b (n,), which peers solve one after the other; a start (d,)."""

    name: str
    loss: str
    activation: str
    A: Any
    targets: list[np.ndarray]
    x0: np.ndarray


NOISE = 0.1  # relative, on the targets: the residual at the solution is not zero
QUICK = 100  # by how much `quick` divides the rows


def _dense(name: str, n: int, d: int, loss: str, quick: bool, *, activation: str = "exp", **shape: float) -> Case:
    rows = max(n // QUICK, 8 * d) if quick else n
    rng = np.random.default_rng([n, d, len(name)])
    A, scales = problems.matrix(rng, rows, d, **shape)
    x = problems.direction(rng, A, scales, 1.0)
    b = problems.target(rng, A @ x, loss=loss, activation=activation, noise=NOISE)
    return Case(name, loss, activation, A, [b], np.zeros(d))


def _sparse(name: str, n: int, d: int, loss: str, quick: bool, *, each: int = 10) -> Case:
    rows, columns = (n // QUICK, d // 10) if quick else (n, d)
    A = random_rows(np.random.default_rng([n, d, len(name)]), rows, columns, each)
    rng = np.random.default_rng(len(name))
    x = rng.standard_normal(columns) / np.sqrt(each)
    b = problems.target(rng, A @ x, loss=loss, activation="exp", noise=NOISE)
    return Case(name, loss, "exp", A, [b], np.zeros(columns))


def random_rows(rng: np.random.Generator, n: int, d: int, each: int) -> Any:
    """Return a csr matrix (n, d) with `each` standard normal entries per row, fewer where two places are equal."""
    columns = np.sort(rng.integers(0, d, (n, each), dtype=np.int32), axis=1)
    starts = np.arange(0, n * each + 1, each)
    A = sparse.csr_array((rng.standard_normal(n * each), columns.ravel(), starts), shape=(n, d))
    A.sum_duplicates()
    return A


def _attention(name: str, layer: int, head: int, count: int, quick: bool) -> Case:
    keys, queries, _ = attention(layer, head)
    step = len(queries) // (2 if quick else count)
    rng = np.random.default_rng([layer, head])
    exact = [attention_row(keys, query) for query in queries[step // 2 :: step]]
    noisy = [row * np.exp(NOISE * rng.standard_normal(len(row))) for row in exact]
    return Case(name, "softmax", "exp", keys, [row / row.sum() for row in noisy], np.zeros(keys.shape[1]))


CASES: dict[str, Callable[[bool], Case]] = {
    name: partial(make, name, *arguments, **shape)
    for name, make, arguments, shape in (
        ("dense 1e4 x 32, softmax", _dense, (10**4, 32, "softmax"), {}),
        ("dense 1e4 x 256, exponential", _dense, (10**4, 256, "exponential"), {}),
        ("dense 1e5 x 64, rescaled", _dense, (10**5, 64, "rescaled"), {}),
        ("dense 1e5 x 128, exponential sinh", _dense, (10**5, 128, "exponential"), {"activation": "sinh"}),
        ("dense 1e5 x 256, softmax", _dense, (10**5, 256, "softmax"), {}),
        ("dense 1e6 x 32, softmax", _dense, (10**6, 32, "softmax"), {}),
        ("dense 1e6 x 64, exponential", _dense, (10**6, 64, "exponential"), {}),
        ("sparse 1e6 x 1e3, softmax", _sparse, (10**6, 10**3, "softmax"), {}),
        ("sparse 1e6 x 1e3, exponential", _sparse, (10**6, 10**3, "exponential"), {}),
        ("condition 1e6, 1e5 x 64, softmax", _dense, (10**5, 64, "softmax"), {"condition": 1e6}),
        ("coherent rows, 1e5 x 64, exponential", _dense, (10**5, 64, "exponential"), {"coherence": 0.25}),
        ("attention, 24 rows of a head", _attention, (2, 8, 24), {}),
    )
}
"""Each makes its problem; the argument asks for a small one of the same kind."""
