"""Points on the unit sphere with a prescribed geometry, and labels for them: pure functions of a key, unbatched.

Points are X, (n, d) with unit rows, labels y, (n,), |y_i| <= 1, in the default floating type (float64 when x64 is on).
All but `digits` can be compiled; n, d and m are static, angles, coherences and scales may be traced, so that sweeping
them compiles nothing.
"""

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def sphere(key: Array, n: int, d: int) -> Array:
    """Draw n independent uniform points on the unit sphere of R^d."""
    return _unit_rows(jax.random.normal(key, (n, d)))


def orthonormal(key: Array, n: int, d: int) -> Array:
    """Draw n <= d orthonormal rows, uniform (Haar): H^cts = e^2 I for exp (B.13)."""
    return _haar(key, d, n).T


def equiangular(key: Array, n: int, coherence: Array | float) -> Array:
    """Draw n unit points of R^n whose inner products all equal `coherence`, in a random orientation.

    The rows of K^{1/2} Q with K = (1 - c) I + c 1 1^T and Q orthogonal; -1 / (n - 1) <= c < 1. For exp,
    lambda_min(H^cts) = e^2 - c e^{1+c} for c >= 0 and does not depend on n.
    """
    own = jnp.sqrt(1 - coherence)
    shared = (jnp.sqrt(jnp.maximum(1 + (n - 1) * coherence, 0)) - own) / n  # the rest of the symmetric root
    return (own * jnp.eye(n) + shared) @ _haar(key, n, n)


def near_duplicate(key: Array, n: int, d: int, angle: Array | float) -> Array:
    """Draw n / 2 pairs of points, rows 2k and 2k + 1, each pair `angle` radians apart; n even, d >= 2.

    The middles of the pairs are independent and uniform. A small angle makes lambda_min(H^cts) small: it is
    of the order of angle^2.
    """
    key_middle, key_offset = jax.random.split(key)
    middle = sphere(key_middle, n // 2, d)
    offset = jax.random.normal(key_offset, (n // 2, d))
    offset = _unit_rows(offset - jnp.sum(offset * middle, axis=1, keepdims=True) * middle)
    centre, half = jnp.cos(angle / 2) * middle, jnp.sin(angle / 2) * offset
    return jnp.stack([centre + half, centre - half], axis=1).reshape(n, d)


def _unit_rows(X: Array) -> Array:
    return X / jnp.linalg.norm(X, axis=1, keepdims=True)


def _haar(key: Array, d: int, k: int) -> Array:
    """Draw k orthonormal columns of R^d; the signs of diag(R) make the QR factor of a Gaussian uniform."""
    Q, R = jnp.linalg.qr(jax.random.normal(key, (d, k)))
    return Q * jnp.where(jnp.diagonal(R) < 0, -1.0, 1.0)


def digits(
    key: Array, n: int, *, classes: Sequence[int] = (3, 8), centre: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Choose n different images of two classes of the 8 x 8 digits of scikit-learn; return unit rows X and labels y.

    y is +1 for the first class and -1 for the second. Half of each class (the first has one more when n is
    odd), every subset equally likely, in random order. `centre` subtracts the mean image of all images of
    the two classes before the rows are normalised: raw images are non-negative and so strongly correlated
    that lambda_max grows with n. Runs on the host.
    """
    images, owners = _images()
    # one shape whatever n is, so that one program draws all subsets
    ranks, order = np.asarray(jax.random.uniform(key, (2, len(images))))
    chosen = []
    for label, wanted in zip(classes, ((n + 1) // 2, n // 2), strict=True):
        members = np.flatnonzero(owners == label)
        chosen.append(members[np.argsort(ranks[members], kind="stable")[:wanted]])
    rows = np.concatenate(chosen)[np.argsort(order[:n], kind="stable")]
    X = images[rows]
    if centre:
        X = X - images[np.isin(owners, classes)].mean(axis=0)
    return X / np.linalg.norm(X, axis=1, keepdims=True), np.where(owners[rows] == classes[0], 1.0, -1.0)


def chosen(key: Array, n: int, rows: int) -> np.ndarray:
    """Choose n different ones of some rows, every subset equally likely, in random order. Runs on the host."""
    return np.argsort(np.asarray(jax.random.uniform(key, (rows,))), kind="stable")[:n]


@lru_cache(maxsize=1)
def _images() -> tuple[np.ndarray, np.ndarray]:
    """Return the images of scikit-learn, (1797, 64), and their digits, from its file: importing it takes seconds."""
    package = find_spec("sklearn")
    assert package is not None, "scikit-learn is a dependency"
    table = np.loadtxt(Path(str(package.origin)).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return table[:, :-1], table[:, -1].astype(int)


def sign(key: Array, n: int) -> Array:
    """Draw n independent labels, -1 or +1 with equal probability, (n,)."""
    return jax.random.rademacher(key, (n,), dtype=float)


def teacher(key: Array, X: Array, m: int, scale: Array | float) -> Array:
    """Return the outputs of a random exponential network at the points X, scaled to max_i |y_i| = 1, (n,).

    y_i = F(x_i) / max_j |F(x_j)|, F(x) = sum_r (-1)^r exp(scale <u_r, x>), u_r uniform on the unit sphere,
    r = 1..m. The signs alternate so that for even m the constant part cancels and the labels do depend on
    x.
    """
    U = jax.random.normal(key, (X.shape[1], m), dtype=X.dtype)
    signs = jnp.where(jnp.arange(m) % 2 == 0, 1.0, -1.0)
    outputs = jnp.exp(scale * (X @ (U / jnp.linalg.norm(U, axis=0)))) @ signs.astype(X.dtype)
    return outputs / jnp.max(jnp.abs(outputs))
