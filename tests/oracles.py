"""Slow float64 loops written from math.md, independent of the package: what everything else is compared to."""

import numpy as np

from expreg import activation, residual

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


def gradient_descent(
    W, a, X, y, *, eta, steps, activation="exp", scale=1.0, momentum=0.0, nesterov=False, factor=lambda t: 1.0
):
    """Return ||r_t|| (steps + 1,) and W(t) (steps + 1, d, m) of gradient descent, one neuron at a time (A.4).

    The step of time t is eta factor(t). Heavy ball: v <- momentum v + g, W <- W - eta v; Nesterov's form
    moves by momentum v + g instead.
    """
    phi, derivative = PHI[activation]
    W = np.array(W, float)
    velocity = np.zeros_like(W)
    norms, path = [], []
    for t in range(steps + 1):
        output = np.zeros(len(y))
        for r in range(W.shape[1]):
            output += scale * a[r] * phi(X @ W[:, r])
        residual = output - y
        norms.append(np.sqrt(np.sum(residual**2)))
        path.append(W.copy())
        for r in range(W.shape[1]):
            g = scale * a[r] * X.T @ (derivative(X @ W[:, r]) * residual)
            velocity[:, r] = momentum * velocity[:, r] + g
            W[:, r] -= eta * factor(t) * (momentum * velocity[:, r] + g if nesterov else velocity[:, r])
    return np.array(norms), np.array(path)


def movements(path):
    """Return max_r ||w_r(t) - w_r(0)|| of each W(t) of a path, (steps + 1,)."""
    return np.array([max(np.linalg.norm(w - w0) for w, w0 in zip(W.T, path[0].T, strict=True)) for W in path])


def empirical_ntk(W, X, activation="exp"):
    """Return H(W) as a sum over neurons (B.1)."""
    n, m = len(X), W.shape[1]
    H = np.zeros((n, n))
    for r in range(m):
        d = PHI[activation][1](X @ W[:, r])
        H += np.outer(d, d) / m
    return (X @ X.T) * H


def infinite_ntk(X, activation="exp", order=80):
    """Return H^cts by Gauss-Hermite quadrature over the plane of each pair of points, n small (B.3)-(B.6).

    With x_i = |x_i| e_1 and x_j in the plane of e_1, e_2 only <w, e_1> and <w, e_2> matter. Not for relu,
    whose derivative jumps.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    u, v = np.meshgrid(nodes, nodes, indexing="ij")
    mass = np.outer(weights, weights) / (2 * np.pi)
    derivative = PHI[activation][1]
    H = np.zeros((len(X), len(X)))
    for i, x in enumerate(X):
        for j, z in enumerate(X):
            along = x @ z / np.linalg.norm(x)
            across = np.sqrt(max(z @ z - along**2, 0.0))
            H[i, j] = x @ z * np.sum(mass * derivative(np.linalg.norm(x) * u) * derivative(along * u + across * v))
    return H


def logarithmic():
    """Return a loss of a user's own: 1/2 ||log u - log b||^2, for phi > 0."""

    def terms(z, b, u, v, s):
        xp = z.__array_namespace__()
        r = xp.log(u) + s - xp.log(b)
        return residual.Terms(0 * s, xp.log(u) + s, v / u, r, r, b)

    def curvature(at, exact):
        xp = at.u.__array_namespace__()
        diagonal = at.v**2 + (1 - at.v**2) * at.r if exact else at.v**2  # (log phi)'' = 1 - (phi' / phi)^2
        return residual.Curvature(diagonal, at.u[:, None][:, :0], xp.zeros((0, 0), dtype=at.u.dtype))

    def jacobian(at):
        xp = at.u.__array_namespace__()
        return residual.Jacobian(at.v, at.u[:, None][:, :0], xp.zeros((0, 0), dtype=at.u.dtype))

    return residual.Loss("logarithmic", terms, curvature, jacobian, relative=False, rows_power=1)


def softplus():
    """Return an activation of a user's own: log(1 + e^z), which cannot overflow."""

    def value(z):
        xp = z.__array_namespace__()
        return xp.maximum(z, 0 * z) + xp.log1p(xp.exp(-xp.abs(z)))

    def slope(z):
        return 1 / (1 + z.__array_namespace__().exp(-z))

    return activation.Activation(
        "softplus",
        value,
        slope,
        stable=lambda z: (value(z), slope(z), 0 * z[0]),
        second=lambda z, s: slope(z) * (1 - slope(z)),
        inverse=lambda y: y.__array_namespace__().log(y.__array_namespace__().expm1(y)),
    )


def planted(n=80, d=4, loss="softmax", activation="exp", *, noise=0.0, seed=0, size=1.0):
    """Return A (n, d), b (n,) and x (d,) of a regression problem with a relative residual `noise` at x."""
    rng = np.random.default_rng(seed)
    A, x = rng.normal(size=(n, d)), size * rng.normal(size=d) / np.sqrt(d)
    u, _, s = residual.stable(A @ x, activation)
    u = u * (1 + noise * rng.normal(size=n))
    return A, (np.exp(s) * u if loss == "exponential" else u / u.sum()), x
