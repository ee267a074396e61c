"""Slow float64 loops written from math.md, independent of the package: what everything else is compared to."""

import numpy as np

PHI = {
    "exp": (np.exp, np.exp),
    "cosh": (np.cosh, np.sinh),
    "sinh": (np.sinh, np.cosh),
    "relu": (lambda z: np.maximum(z, 0.0), lambda z: (z > 0).astype(float)),
}


def sphere(rng, n, d):
    """Return n uniform points on the unit sphere, (n, d)."""
    X = rng.standard_normal((n, d))
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def gradient_descent(W, a, X, y, *, eta, steps, activation="exp", scale=1.0, momentum=0.0):
    """Return ||r_t|| and max_r ||w_r(t) - w_r(0)||, t = 0..steps, of gradient descent, one neuron at a time (A.4)."""
    phi, derivative = PHI[activation]
    start, W = np.array(W, float), np.array(W, float)
    velocity = np.zeros_like(W)
    norms, movements = [], []
    for _ in range(steps + 1):
        output = np.zeros(len(y))
        for r in range(W.shape[1]):
            output += scale * a[r] * phi(X @ W[:, r])
        residual = output - y
        norms.append(np.sqrt(np.sum(residual**2)))
        movements.append(np.linalg.norm(W - start, axis=0).max())
        for r in range(W.shape[1]):
            g = scale * a[r] * X.T @ (derivative(X @ W[:, r]) * residual)
            velocity[:, r] = momentum * velocity[:, r] + g
            W[:, r] -= eta * velocity[:, r]
    return np.array(norms), np.array(movements)


def empirical_ntk(W, X, activation="exp"):
    """Return H(W) as a sum over neurons (B.1)."""
    n, m = len(X), W.shape[1]
    H = np.zeros((n, n))
    for r in range(m):
        d = PHI[activation][1](X @ W[:, r])
        H += np.outer(d, d) / m
    return (X @ X.T) * H
