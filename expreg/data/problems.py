"""Regression problems drawn on the host: a matrix A, a target b = u(A x) of a planted x, and a start.

Everything is NumPy in float64 and a function of the generator alone; A is dense, zeros included, but for a sparse
file, where it is a scipy.sparse.csr_array. Imports no JAX.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from expreg import residual
from expreg.data import heads
from expreg.data.arrays import Options
from expreg.data.files import check_unchanged, sha256
from expreg.data.matrices import read_problem, without_empty

STREAM = 0x5EED
"""Keeps the random numbers of these problems apart from others of the same seed."""


class Problem(NamedTuple):
    """A regression problem, float64: A (n, d), b (n,), the start (d,), and the planted x (d,) if it is a minimiser.

    `weights` (n,) are those of the regulariser where they are not one number of the config.
    """

    A: Any
    b: np.ndarray
    x0: np.ndarray
    planted: np.ndarray | None
    weights: np.ndarray | None = None


def key(seed: int, replicate: int) -> np.ndarray:
    """Return the data of the key that sketches draw from, (2,) uint32."""
    return stream(seed, replicate, 4).integers(0, 2**32, 2, dtype=np.uint32)


def stream(*parts: int) -> np.random.Generator:
    """Return the generator of one part of a problem: a seed, a replicate, the number of the part, sizes."""
    return np.random.default_rng([STREAM, *parts])


def _drawn(options: Options, seed: int, replicate: int) -> Problem:
    """Return a problem with a drawn matrix; matrix, planted x, noise and start have random numbers of their own."""
    n, d = options["n"], options["d"]
    shape, planting, noising, starting = (stream(seed, replicate, part, n, d) for part in range(4))
    A, scales = matrix(shape, n, d, **{name: options[name] for name in ("density", "condition", "coherence")})
    x = direction(planting, A, scales, options["scale"])
    b = target(noising, A @ x, **{name: options[name] for name in ("loss", "activation", "noise")})
    exact = options["noise"] == 0.0 and options["weight"] == 0.0
    return Problem(A, b, _start(options, starting, A, scales, x), x if exact else None)


def _bounded(options: Options, seed: int, replicate: int) -> Problem:
    """Return a problem with ||A|| = ||x|| = radius that starts at its planted x."""
    n, d, radius = options["n"], options["d"], options["radius"]
    shape, planting, noising = (stream(seed, replicate, part, n, d) for part in range(3))
    A, x = shape.standard_normal((n, d)), planting.standard_normal(d)
    A, x = (radius * array / np.linalg.norm(array, 2) for array in (A, x))
    b = target(noising, A @ x, **{name: options[name] for name in ("loss", "activation", "noise")})
    return Problem(A, b, x, x)


def _attention(options: Options, seed: int, replicate: int) -> Problem:
    """Return the problem of one attention row: the keys of a head, and the row of one of its queries."""
    head = heads.chosen(options)
    A, x = head.keys, head.queries[options["token"]]
    rng = stream(seed, replicate, 3)
    b = target(rng, A @ x, loss=options["loss"], activation=options["activation"])
    scales = np.linalg.norm(A, axis=0) / np.sqrt(len(A))
    return Problem(A, b, _start(options, rng, A, scales, x), x if options["weight"] == 0.0 else None)


def given(options: Options) -> tuple[Any, np.ndarray]:
    """Return A, dense or a scipy.sparse.csr_array without empty columns, and b of the user's own files; read-only.

    Raises InputError, also if the files have changed since they were planned. The last few problems stay in memory.
    """
    return _given(*_content(options))


def entries(options: Options) -> int | None:
    """Return how many entries of A a sparse file stores; None for every other problem."""
    return _entries(*_content(options)) if options["kind"] == "file" else None


def _content(options: Options) -> tuple[tuple[str, ...], str]:
    paths = tuple(options[key] for key in ("path", "target_path") if options.get(key) is not None)
    return paths, options.get("sha256") or "+".join(map(sha256, paths))


@lru_cache(maxsize=1024)  # asked of every cell, also where the files do not all stay in memory
def _entries(paths: tuple[str, ...], digests: str) -> int | None:
    A, _ = _given(paths, digests)
    return None if isinstance(A, np.ndarray) else A.nnz


@lru_cache(maxsize=4)
def _given(paths: tuple[str, ...], digests: str) -> tuple[Any, np.ndarray]:
    for path, planned in zip(paths, digests.split("+"), strict=True):
        check_unchanged(sha256(path), planned, file=path)
    A, b = read_problem(*paths)
    A, _ = without_empty(A, paths[0])
    for array in (A if isinstance(A, np.ndarray) else A.data, b):
        array.setflags(write=False)
    return A, b


def _own(options: Options, seed: int, replicate: int) -> Problem:
    """Return the problem of the user's own files; raise InputError if they have changed since they were planned."""
    A, b = given(options)
    norms = np.linalg.norm(A, axis=0) if isinstance(A, np.ndarray) else np.sqrt(A.multiply(A).sum(axis=0))
    scales = norms / np.sqrt(len(b))
    return Problem(A, b, _start(options, stream(seed, replicate, 3), A, scales, np.zeros(A.shape[1])), None)


def make(options: Options, seed: int, replicate: int) -> Problem:
    """Return the problem that the block `problem` of a config describes, a function of it and of the two numbers."""
    kinds = {"gaussian": _drawn, "bounded": _bounded, "attention": _attention, "heads": _attention, "file": _own}
    return kinds[options["kind"]](options, seed, replicate)


def _start(options: Options, rng: np.random.Generator, A: np.ndarray, scales: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return x0: 0, a small normal x, or one at a relative distance from the planted x."""
    if options["start"] == "zero":
        return np.zeros(len(scales))
    if options["start"] == "random":
        return direction(rng, A, scales, options["distance"])
    z = A @ x
    return np.asarray(x + direction(rng, A, scales, options["distance"] * float(np.sqrt(z @ z / len(z)))))


def matrix(
    rng: np.random.Generator, n: int, d: int, *, density: float = 1.0, condition: float = 1.0, coherence: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return a normal matrix (n, d) and the scales of its columns, (d,).

    A row has round(density d) entries that are not 0, at least one, in places that are equally likely. The
    scales fall geometrically from 1 to 1 / condition. Of the first round(coherence d) columns, column j is zero
    but in row j, whose leverage is then 1 (F.2): uniform sampling misses it.
    """
    A = rng.standard_normal((n, d))
    k = max(1, round(density * d))
    if k < d:
        order = rng.random((n, d)).argsort(axis=1)
        np.put_along_axis(A, order[:, k:], 0.0, axis=1)
    lone = min(round(coherence * d), n)
    A[:, :lone] = 0.0
    A[np.arange(lone), np.arange(lone)] = 1.0 + np.abs(rng.standard_normal(lone))
    scales = condition ** (-np.arange(d) / max(d - 1, 1))
    return A * scales, scales


def direction(rng: np.random.Generator, A: np.ndarray, scales: np.ndarray, size: float) -> np.ndarray:
    """Return a normal x (d,), larger where the columns of A are smaller, with root mean square `size` of A x."""
    x = rng.standard_normal(len(scales)) / scales
    z = A @ x
    return np.asarray(x * (size / np.sqrt(z @ z / len(z))))


def target(rng: np.random.Generator, z: np.ndarray, *, loss: str, activation: str, noise: float = 0.0) -> np.ndarray:
    """Return b (n,) whose residual at the logits z is zero but for the noise (E.41).

    b = phi(z) for the exponential loss, phi(z) / <phi(z), 1> otherwise. The noise multiplies the entries by
    lognormal factors of that relative size, and b sums to 1 again where a zero residual needs it (E.17).
    """
    u, _, s = residual.stable(z, activation)
    noisy = u * np.exp(noise * rng.standard_normal(len(z)))
    return np.asarray(noisy / noisy.sum() if residual.LOSSES[loss].relative else noisy * np.exp(s))
