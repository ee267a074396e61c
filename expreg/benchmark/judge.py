"""Who is done: one number per iterate, computed in float64 from A, b and x alone, by no code of any solver."""

from typing import Any

import numpy as np

REQUIRED = 1e-8  # the accuracy at which a solver is done


class Judge:
    """Say how close to stationary an x is; keeps what does not depend on x."""

    def __init__(self, A: Any, b: np.ndarray, loss: str, activation: str) -> None:
        self.A, self.b, self.loss, self.activation = A, b, loss, activation
        self.magnitudes = abs(A) if hasattr(A, "nnz") else None  # of a sparse A only

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
        if self.activation == "exp":
            shift = z.max()
            u = v = np.exp(z - shift)
        else:
            shift = np.abs(z).max()
            up, down = np.exp(z - shift) / 2, np.exp(-z - shift) / 2
            u, v = (up + down, up - down) if self.activation == "cosh" else (up - down, up + down)
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
        pieces = (slice(first, first + step) for first in range(0, len(weights), step))
        return sum(weights[piece] @ np.abs(self.A[piece]) for piece in pieces)
