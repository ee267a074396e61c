"""What is known of the z-Hessian of a loss in advance: how negative it is, how fast it changes, how large it is.

The records of `expreg.residual` name these functions; `b` (n,) is the target, NumPy or JAX; `rho` bounds max |z|. With
U = phi(rho), V = phi'(rho), None stands where nothing is known.
"""

from typing import Any

import numpy as np

from expreg.activation import Activation
from expreg.types import Array


def exponential_floor(b: Array, activation: Activation, rho: Any) -> Array | None:
    """Return the bound of (E.20), (E.21)."""
    del rho
    xp = b.__array_namespace__()
    if activation.multiplicative:
        return xp.maximum(b, xp.zeros_like(b)) ** 2 / 8
    known = {"even": xp.where(b <= 4, b - 1, 1 + b * b / 8), "odd": b * b / 8 - 1}
    return known.get(activation.parity or "")


def softmax_floor(b: Array, activation: Activation, rho: Any) -> Array | None:
    """Return the bound of (E.23), (E.24)."""
    del rho
    xp = b.__array_namespace__()
    whole = xp.zeros_like(b) + (1 + xp.max(b) - xp.min(b))
    return whole / 2 if activation.multiplicative else whole if activation.parity == "even" else None


def rescaled_floor(b: Array, activation: Activation, rho: Any) -> Array | None:
    """Return the bound of (E.22)."""
    xp, n = b.__array_namespace__(), b.shape[0]
    odd, U = activation.parity == "odd", float(activation.value(np.float64(rho)))
    if not (activation.parity or activation.multiplicative):
        return None
    size = xp.abs(b) if odd else xp.maximum(b, xp.zeros_like(b))
    K = U * (n * (size + b @ b if odd else size) + xp.sum(size))
    return xp.where(K <= 2 * U, K * K / 4, U * (K - U))


# --- how fast it changes: ||B(z) - B(z')|| <= L_z max |z - z'| --------------------------------------


def exponential_lipschitz(b: Array, activation: Activation, rho: float) -> Array | None:
    """Return L_z = V (4 U + max |b|), a bound of the third derivative of each term (E.25)."""
    U, V = _largest(activation, rho)
    return V * (4 * U + abs(b).max())


def rescaled_lipschitz(b: Array, activation: Activation, rho: float) -> Array | None:
    """Return L_z = 2 U V (||Gam|| + ||Gam||_inf) (E.26), with the row sums of |Gam| bounded by those of its terms."""
    U, V = _largest(activation, rho)
    rows = 1 + len(b) * abs(b).max() + abs(b).sum() + len(b) * (b @ b)
    return 2 * U * V * (projection_norm(b) ** 2 + rows)


def softmax_lipschitz(b: Array, activation: Activation, rho: float) -> float | None:
    """Return L_z = 6 for exp (E.27), 20 for cosh (E.28), for b >= 0 that sums to 1; whatever rho is."""
    del b, rho
    return 6.0 if activation.multiplicative else 20.0 if activation.parity == "even" else None


def _largest(activation: Activation, rho: float) -> tuple[float, float]:
    return float(activation.value(np.float64(rho))), float(activation.derivative(np.float64(rho)))


def rescaled_norms(b: Array, radius: float) -> tuple[float, float]:
    """Return bounds of ||B|| and of M from ||A||, ||x|| <= R = `radius` alone, where b >= 0 sums to at most 1.

    p^2 e^{2 R^2} (1 + sqrt(n)) and R^3 e^{2 R^2} p^2 (3 + sqrt(n)), p = 1 + sqrt(n) ||b||, for exp, cosh and sinh. The
    form exp(O(R^2 + log n)) is that of Rescaled Hyperbolic Functions Regression (arXiv:2305.00660); derived.
    """
    root = len(b) ** 0.5
    common = np.exp(2 * radius**2) * (1 + root * np.sqrt(b @ b)) ** 2
    return float(common * (1 + root)), float(common * radius**3 * (3 + root))


def projection_norm(b: Array) -> Array:
    """Return the spectral norm of P = I - b 1^T, a scalar; sqrt(n) ||b|| where b sums to one (E.42)."""
    xp = b.__array_namespace__()
    rest = 1 - xp.sum(b)
    t = 2 * rest + b.shape[0] * (b @ b)
    return xp.sqrt((t + xp.sqrt(xp.maximum(t * t - 4 * rest * rest, 0 * t))) / 2)
