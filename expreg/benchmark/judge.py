"""Who is done: one number per iterate, computed in float64 from A, b and x alone, by no code of any solver."""

from typing import Any

import numpy as np
from scipy import sparse

REQUIRED = 1e-8
"""The accuracy at which a solver is done."""


def _magnitudes(A: Any) -> Any:
    """Return |A| where A is sparse; None for a dense A, of which no second copy should stand in memory."""
    found: Any = A
    return abs(found) if sparse.issparse(A) else None


class Judge:
    """Say how close to stationary an x is; holds what does not depend on x."""

    def __init__(self, A: Any, b: np.ndarray, loss: str, activation: str) -> None:
        self.A, self.b, self.loss, self.activation = A, b, loss, activation
        self.magnitudes = _magnitudes(A)

    def __call__(self, x: np.ndarray) -> float:
        """Return max_j |g_j| / s_j for the gradient g of the loss at x, (d,).

        g_j = sum_i a_ij v_i c_i (E.5)-(E.13), and its scale s_j = sum_i |a_ij| |v_i| (|u_i| + |t_i|), t the target of
        u (b, <u, 1> b or <u, 1> b): what the sum would be without any cancellation between u and its target or
        between rows. It does not depend on the units of a column, of the loss or of A x, and rounding allows about
        1e-15. Infinite where x is not finite.
        """
        if not np.all(np.isfinite(x)):
            return np.inf
        u, v, target, c = self._parts(self.A @ x)
        scale = self._absolute(np.abs(v) * (np.abs(u) + np.abs(target)))
        return float(np.max(np.abs(self.A.T @ (v * c)) / np.where(scale > 0, scale, 1)))

    def _parts(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return u, v, the target t and the gradient c with respect to u, with a common factor taken out."""
        shift = z.max() if self.activation == "exp" else np.abs(z).max()
        up, down = np.exp(z - shift), np.exp(-z - shift) if self.activation != "exp" else 0.0
        u, v = {"exp": (up, up), "cosh": (up + down, up - down), "sinh": (up - down, up + down)}[self.activation]
        half = 1.0 if self.activation == "exp" else 0.5
        u, v = half * u, half * v
        if self.loss == "exponential":
            target = self.b * np.exp(-shift)
            return u, v, target, u - target
        target = u.sum() * self.b
        r = u - target
        along = self.b if self.loss == "rescaled" else u / u.sum()
        return u, v, target, r - along @ r

    def _absolute(self, weights: np.ndarray) -> np.ndarray:
        """Return |A|^T weights; a dense A in blocks of rows, so that no second copy of it stands in memory."""
        if self.magnitudes is not None:
            return self.magnitudes.T @ weights
        step = max(1, 2**20 // self.A.shape[1])
        total = np.zeros(self.A.shape[1])
        for first in range(0, len(weights), step):
            total += weights[first : first + step] @ np.abs(self.A[first : first + step])
        return total
