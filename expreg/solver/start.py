"""Where to start on the host: linear least squares for the logits that the targets ask for.

Where u(Ax) = c b could hold exactly, A x = phi^{-1}(c b): a linear problem, solved with one Gram matrix. For exp
and a loss that ignores the scale c drops out as a mean; for sinh c is tried on a grid, for cosh the signs of the
logits are found by alternating projections. Derived; for exp it is what generalised linear models start from.
"""

from collections.abc import Iterator

import numpy as np

from expreg.solver import host
from expreg.solver.state import Objective, Problem, scaled_value
from expreg.types import Array

SCALES = (0.1, 1.0, 10.0, 100.0, 1e4)
"""Candidates of c times max |b| for sinh."""
ALTERNATIONS = 30
SMALL = 100_000
"""Entries of A up to which every candidate is tried."""
GOOD = 0.1
"""A candidate fits if its loss is at most this share of what it would be without cancellation."""


def candidates(kind: Objective, problem: Problem) -> Iterator[Array]:
    """Yield starting points x (d,), best guess first; never x = 0 for cosh and sinh, where it is stationary."""
    b, free = problem.b, kind.loss != "exponential"
    if kind.activation == "exp":
        yield from _logarithms(problem, free)
    elif kind.activation == "sinh":
        top = np.abs(b).max()
        scales = [c / top for c in SCALES] if free and top > 0 else [1.0]
        yield from _fits(problem, np.stack([np.arcsinh(c * b) for c in scales], axis=1))
    else:
        least = np.quantile(b, 0.02)
        yield _signs(problem, np.arccosh(np.maximum(b / least if free and least > 0 else b, 1.0)))


def _logarithms(problem: Problem, free: bool) -> Iterator[Array]:
    """Yield fits of log b: without weights, exact and best conditioned without noise, and with b^2, right for noise."""
    b, (n, d) = problem.b, problem.A.shape
    positive = b > 0
    if positive.sum() > d:
        z = np.log(np.where(positive, b, 1.0))
        for power in (0, 2) if n * d <= SMALL else (2, 0):
            yield _fit(problem, z, np.where(positive, b, 0) ** power, free)
    yield np.zeros(d, dtype=b.dtype)


def best(kind: Objective, problem: Problem) -> Array:
    """Return the candidate with the smallest loss; for the rescaled loss, which favours collapse, the best fit.

    Of a large problem the first that fits at all is taken.
    """
    judge = kind._replace(loss="softmax" if kind.loss == "rescaled" else kind.loss)
    found, least = None, np.inf
    small = problem.A.shape[0] * problem.A.shape[1] <= SMALL
    for x in candidates(kind, problem):
        _, value, size = scaled_value(judge, problem, host.matvec(problem.A, x), np.zeros((), x.dtype))
        value = value + np.finfo(x.dtype).eps * 1e-4 * size  # among exact fits the first
        if found is None or (np.isfinite(value) and value < least):
            found, least = x, value if np.isfinite(value) else np.inf
        if not small and value < GOOD * size:
            break
    assert found is not None
    return found


def _fit(problem: Problem, z: Array, weights: Array, centred: bool) -> Array:
    """Return x that minimises sum_i weights_i (a_i x - z_i - c)^2, over c too if `centred`."""
    weights = weights / weights.max()
    H = host.gram(problem.A, weights)
    total, mass = host.rmatvec(problem.A, weights), weights.sum()
    right = host.rmatvec(problem.A, weights * z)
    if centred:
        H = H - np.outer(total, total) / mass
        right = right - total * (weights @ z) / mass
    return _least_squares(problem, H, right)


def _fits(problem: Problem, Z: Array) -> list[Array]:
    H = host.gram(problem.A, np.ones_like(problem.b))
    right = host.rmatvec(problem.A, Z)
    return [_least_squares(problem, H, column) for column in right.T]


def _least_squares(problem: Problem, H: Array, right: Array) -> Array:
    inverse = 1 / problem.norms
    scaled = inverse[:, None] * H * inverse
    least = np.finfo(H.dtype).eps * H.shape[0]
    factor, good = host.factor(scaled + least * np.trace(scaled) * np.eye(H.shape[0], dtype=H.dtype) / H.shape[0])
    return inverse * host.backsolve(factor, inverse * right) if good else np.zeros_like(right)


def _signs(problem: Problem, wanted: Array) -> Array:
    """Return x with |A x| close to `wanted`, by alternating projections from the leading generalised eigenvector."""
    from scipy import linalg

    inverse = 1 / problem.norms
    plain, weighted = (
        inverse[:, None] * host.gram(problem.A, weights) * inverse for weights in (np.ones_like(wanted), wanted**2)
    )
    least = np.finfo(plain.dtype).eps * np.trace(plain)
    plain = plain + least * np.eye(plain.shape[0], dtype=plain.dtype)
    x = inverse * linalg.eigh(weighted, plain)[1][:, -1]
    factor, _ = host.factor(plain)
    for _ in range(ALTERNATIONS):
        signed = np.where(host.matvec(problem.A, x) < 0, -wanted, wanted)
        x = inverse * host.backsolve(factor, inverse * host.rmatvec(problem.A, signed))
    return x
