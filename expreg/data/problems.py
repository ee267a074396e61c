"""Regression problems drawn on the host: a matrix A, a target b = u(A x) of a planted x, and a start.

Everything is NumPy in float64 and a function of the generator alone; A is dense, or a list of its entries.
Imports no JAX.
"""

from typing import Any, NamedTuple

import numpy as np

from expreg import residual

CHUNK = 1 << 22
"""Random numbers drawn at a time where the places of entries are chosen."""


class Entries(NamedTuple):
    """A matrix by rows with the same number of entries in each: values and ascending columns, both (n, k)."""

    values: np.ndarray
    columns: np.ndarray
    d: int

    def product(self, x: np.ndarray) -> np.ndarray:
        """Return A x, shape (n,)."""
        return np.asarray((self.values * x[self.columns]).sum(axis=1))


def matrix(
    rng: np.random.Generator, n: int, d: int, *, density: float = 1.0, condition: float = 1.0, coherence: float = 0.0
) -> tuple[Entries, np.ndarray]:
    """Return a normal matrix (n, d) by its entries, and the scales of its columns, (d,).

    A row has round(density d) entries, at least one, in places that are equally likely. The scales fall
    geometrically from 1 to 1 / condition. Of the first round(coherence d) columns, column j is zero but in
    row j, whose leverage is then 1 (F.2): uniform sampling misses it.
    """
    k = max(1, round(density * d))
    columns = _places(rng, n, d, k)
    values = rng.standard_normal((n, k))
    lone = min(round(coherence * d), n)
    if lone:
        values[columns < lone] = 0.0
        rows = np.arange(lone)
        at = np.where((columns[:lone] == rows[:, None]).any(1), (columns[:lone] == rows[:, None]).argmax(1), 0)
        columns[rows, at], values[rows, at] = rows, 1.0 + np.abs(rng.standard_normal(lone))
        order = columns[:lone].argsort(axis=1, kind="stable")
        columns[:lone] = np.take_along_axis(columns[:lone], order, 1)
        values[:lone] = np.take_along_axis(values[:lone], order, 1)
    scales = condition ** (-np.arange(d) / max(d - 1, 1))
    return Entries(values * scales[columns], columns, d), scales


def _places(rng: np.random.Generator, n: int, d: int, k: int) -> np.ndarray:
    """Return k different columns for each of n rows, ascending."""
    if k == d:
        return np.tile(np.arange(d), (n, 1))
    step = max(CHUNK // d, 1)
    parts = [
        np.sort(np.argpartition(rng.random((min(step, n - first), d)), k - 1, axis=1)[:, :k], axis=1)
        for first in range(0, n, step)
    ]
    return np.concatenate(parts)


def dense(A: Entries) -> np.ndarray:
    """Return the matrix as an array (n, d)."""
    found = np.zeros((len(A.values), A.d))
    np.put_along_axis(found, A.columns, A.values, axis=1)
    return found


def direction(rng: np.random.Generator, A: Any, scales: np.ndarray, size: float) -> np.ndarray:
    """Return a normal x (d,), larger where the columns of A are smaller, with root mean square `size` of A x."""
    x = rng.standard_normal(len(scales)) / scales
    z = A.product(x)
    return np.asarray(x * (size / np.sqrt(z @ z / len(z))))


def target(rng: np.random.Generator, z: np.ndarray, *, loss: str, activation: str, noise: float = 0.0) -> np.ndarray:
    """Return b (n,) whose residual at the logits z is zero but for the noise (E.41).

    b = phi(z) for the exponential loss, phi(z) / <phi(z), 1> otherwise. The noise multiplies the entries by
    lognormal factors of that relative size, and b sums to 1 again where a zero residual needs it (E.17).
    """
    u, _, s = residual.stable(z, activation)
    noisy = u * np.exp(noise * rng.standard_normal(len(z)))
    return np.asarray(noisy * np.exp(s) if loss == "exponential" else noisy / noisy.sum())
