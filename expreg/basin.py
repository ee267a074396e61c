"""How near to a minimiser a start must be: the constants l and M of a good loss and the radius 0.1 l / M.

A loss is (l, M)-good at its minimiser x* if its Hessian is at least l I there and M-Lipschitz; the theorem of Rescaled
Hyperbolic Functions Regression (arXiv:2305.00660) starts where M ||x0 - x*|| <= 0.1 l. The factor 0.1 is reconstructed,
everything else derived. Functions of float64 NumPy arrays: A (n, d), b (n,), x (d,), weights (n,) or a number.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from expreg import residual
from expreg.activation import ACTIVATIONS
from expreg.residual import LOSSES
from expreg.types import Array

SHARE = 0.1
"""Of l / M, what a good start may be away."""
PRECISE = 1e-9
CLOSE = 11.0
"""Times ||B||: from there on W^2 is within 10 % of B + W^2."""


def hessian(A: Array, b: Array, x: Array, weights: Any, loss: str = "rescaled", activation: str = "exp") -> Array:
    """Return the Hessian in x of the loss with its regulariser, A^T (B + W^2) A, shape (d, d) (E.4)."""
    diagonal, Q, S = residual.curvature(A @ x, b, loss, activation)
    low = A.T @ Q
    return A.T @ ((diagonal + np.square(weights))[:, None] * A) + low @ S @ low.T


def hessian_lipschitz(
    A: Array, b: Array, radius: float, loss: str = "rescaled", activation: str = "exp"
) -> float | None:
    """Return M with ||H(x) - H(x')|| <= M ||x - x'|| for all ||x||, ||x'|| <= radius (E.25)-(E.29).

    M = L_z ||A||^2 ||A||_{2,inf}, L_z on the box max |z| <= ||A||_{2,inf} radius, with ||A||_{2,inf} the largest norm
    of a row; None for losses and activations of which nothing is known.
    """
    phi, rows = ACTIVATIONS[activation], np.linalg.norm(A, axis=1).max()
    with np.errstate(over="ignore"):
        L = LOSSES[loss].lipschitz(b, phi, rows * radius) if phi.exponential else None
    return None if L is None else float(L * np.linalg.norm(A, 2) ** 2 * rows)


def start_radius(modulus: float, lipschitz: Callable[[float], float]) -> float:
    """Return the largest r with M r <= 0.1 l, l = `modulus` at x*, M = `lipschitz(r)` where ||x - x*|| <= r.

    Found by bisection to 1e-9 of it, for an M that does not fall with r; 0 where l is not positive.
    """
    low, high = 0.0, 1.0
    while high * lipschitz(high) <= SHARE * modulus:
        low, high = high, 2 * high
    while modulus > 0 and high - low > PRECISE * high:
        middle = (low + high) / 2
        low, high = (middle, high) if middle * lipschitz(middle) <= SHARE * modulus else (low, middle)
    return low


def convex_weights(
    A: Array, b: Array, radius: float, loss: str = "rescaled", activation: str = "exp", *, modulus: float = 1.0
) -> Array:
    """Return weights (n,) with which the Hessian is at least l I, l = `modulus`, for all ||x|| <= radius (E.20)-(E.24).

    `residual.safe_weights` for mu = l / sigma_min(A)^2. Raises ValueError where there are none.
    """
    mu, rho = modulus / _smallest(A) ** 2, float(np.linalg.norm(A, axis=1).max() * radius)
    return residual.safe_weights(b, loss, activation, mu=mu, rho=rho)


def closeness_weight(
    A: Array, b: Array, radius: float, loss: str = "rescaled", activation: str = "exp", *, modulus: float = 1.0
) -> float:
    """Return w with 0.9 (B + W^2) <= W^2 <= 1.1 (B + W^2), so that W^2 alone serves as the middle of the Hessian.

    w^2 = 11 p^2 e^{2 R^2} (1 + sqrt(n)) + l / sigma_min(A)^2 for ||A||, ||x|| <= R = radius, b >= 0 with a sum of at
    most 1. Raises ValueError for a loss without such a bound, or an A with fewer rows than columns.
    """
    if (known := LOSSES[loss].by_norms) is None or not ACTIVATIONS[activation].exponential:
        raise ValueError(f"loss {loss!r} with activation {activation!r} has no closeness weight")
    return float(np.sqrt(CLOSE * known(b, radius)[0] + modulus / _smallest(A) ** 2))


def _smallest(A: Array) -> float:
    """Return sigma_min(A), the least ||A x|| over ||x|| = 1."""
    if A.shape[0] < A.shape[1]:
        raise ValueError(f"A has {A.shape[0]} rows and {A.shape[1]} columns: no weights make the Hessian definite")
    return float(np.linalg.norm(A, -2))


RULES = {"convex": convex_weights, "closeness": closeness_weight}
"""Conditions that weights may be asked to meet, by name."""
