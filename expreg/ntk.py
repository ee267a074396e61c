"""Gram matrices of the tangent features, their spectra, and the training curves they predict.

Section B. Points X are (n, d) with rows x_i, weights W are (d, m) with columns w_r, H is (n, n).
Every function of arrays takes NumPy or JAX arrays and answers in the same library; under JAX it can be
jitted, vmapped and differentiated. Step sizes are the scaled ones, eta_scaled = eta m scale^2 (A.7), so that
the residual decays as (I - eta_scaled H)^t whatever the output scale. The module itself imports no JAX.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from expreg.activation import lookup
from expreg.types import Array

# Neurons drawn per neuron counted: a coupled pair shares one draw (B.12).
DRAWS_PER_NEURON = {"iid": 1, "coupled": 2}


def _array(x: Any) -> Array:
    return x if hasattr(x, "__array_namespace__") else np.asarray(x, dtype=float)


def _known(activation: str, what: str) -> Any:
    """Return what the theory knows of an activation; raises ValueError where that is nothing."""
    found = getattr(lookup(activation), what)
    if found is None:
        raise ValueError(f"activation: got {activation!r}, whose infinite-width kernel is not known (no `{what}`)")
    return found


def norm(v: Array) -> Array:
    """Return the Euclidean norm of a vector; scaled, so that no square overflows or vanishes."""
    xp = v.__array_namespace__()
    largest = xp.max(abs(v))
    unit = xp.where((largest > 0) & xp.isfinite(largest), largest, xp.ones_like(largest))
    return unit * xp.sqrt(xp.sum((v / unit) ** 2))


# --- matrices


def infinite(X: Array, *, activation: str = "exp") -> Array:
    """Return the infinite-width Gram matrix H^cts, (..., n, d) -> (..., n, n) (B.3)-(B.6).

    H^cts_ij = <x_i, x_j> E phi'(<w, x_i>) phi'(<w, x_j>), w ~ N(0, I). For exp: K_ij exp(||x_i + x_j||^2 /
    2).
    """
    K, q_i, q_j = _products(X)
    return K * _known(activation, "expectation")(K, q_i, q_j)


def empirical(W: Array, X: Array, *, activation: str = "exp") -> Array:
    """Return the Gram matrix H(W) = (X X^T) o (D D^T) / m with D = phi'(X W), (n, n) (B.1).

    The Jacobian J of the outputs with respect to W satisfies J J^T = scale^2 m H(W) (B.2).
    """
    X, W = _array(X), _array(W)
    D = lookup(activation).derivative(X @ W)
    return (X @ X.T) * (D @ D.T) / W.shape[-1]


def expected_squared_error(X: Array, m: int, *, init: str = "coupled", activation: str = "exp") -> Array:
    """Return E ||H(W(0)) - H^cts||_F^2 at width m, (..., n, d) -> (...): (B.11) for `iid`, (B.12) for `coupled`.

    For exp and unit points the distribution is so heavy-tailed (B.14) that a typical error lies far below.
    """
    return DRAWS_PER_NEURON[init] * _known(activation, "variance")(*_products(X)).sum(axis=(-2, -1)) / m


def _products(X: Array) -> tuple[Array, Array, Array]:
    """Return (K, q_i, q_j) as activations take them: K = X X^T, its diagonal as a column and as a row."""
    X = _array(X)
    K = X @ X.mT
    q = K.__array_namespace__().linalg.diagonal(K)
    return K, q[..., :, None], q[..., None, :]


# --- spectra


def spectrum(H: Array) -> Array:
    """Return the eigenvalues of the symmetric H in ascending order, (n,)."""
    H = _array(H)
    return H.__array_namespace__().linalg.eigvalsh(H)


def extreme_eigenvalues(stack: Array) -> tuple[Array, Array]:
    """Return (smallest, largest) eigenvalue of each symmetric matrix of `stack`, (..., n, n) -> (...).

    Hand all matrices of a program to one call. Under JAX they are decomposed one after the other: two batched
    decompositions in one program can block each other for ever on a CPU with few cores.
    """
    stack = _array(stack)
    if isinstance(stack, np.ndarray):
        values = np.linalg.eigvalsh(stack)
    else:
        import jax  # only here: the host path must stay free of it

        values = jax.lax.map(jax.numpy.linalg.eigvalsh, stack.reshape(-1, *stack.shape[-2:]))
        values = values.reshape(*stack.shape[:-1])
    return values[..., 0], values[..., -1]


def gershgorin(H: Array) -> Array:
    """Return min_i (H_ii - sum_{j != i} |H_ij|), a lower bound on every eigenvalue (B.16)."""
    H = _array(H)
    diagonal = H.diagonal()
    return (diagonal + abs(diagonal) - abs(H).sum(axis=1)).min()


def coherence_bound(n: int, coherence: float, *, activation: str = "exp") -> float:
    """Return a lower bound on lambda_min(H^cts) of n unit points with |<x_i, x_j>| <= coherence (B.17).

    e sum_k max(0, 1 - (n - 1) coherence^k) / (k - 1)!, k even for cosh and odd for sinh.
    """
    return sum(weight * max(0.0, 1 - (n - 1) * coherence**k) for k, weight in _power_weights(activation))


def power_bound(X: Array, *, activation: str = "exp") -> float:
    """Return the lower bound e sum_k lambda_min(K^(k)) / (k - 1)! on lambda_min(H^cts), unit points (B.18).

    K^(k) is the k-th elementwise power of K = X X^T; for cosh only even k enter, for sinh only odd k. On the
    host.
    """
    X = np.asarray(X, dtype=np.float64)
    K = X @ X.T
    return sum(weight * float(np.linalg.eigvalsh(K**k)[0]) for k, weight in _power_weights(activation))


def _power_weights(activation: str) -> list[tuple[int, float]]:
    """Return (k, e / (k - 1)!) of (B.15) down to rounding."""
    first, stride = _known(activation, "powers")
    return [(k, math.e / math.factorial(k - 1)) for k in range(first, 22, stride)]  # e / 21! is 5e-20


def sphere_limits(gamma: float) -> tuple[float, float]:
    """Return the limits of (lambda_min, lambda_max) of H^cts for random unit points, exp (B.19).

    With n / d -> gamma: e (e - 1 + (1 - sqrt gamma)_+^2) and e (e - 1 + (1 + sqrt gamma)^2). Checked to 10 %
    at moderate n.
    """
    root = math.sqrt(gamma)
    return math.e * (math.e - 1 + max(0.0, 1 - root) ** 2), math.e * (math.e - 1 + (1 + root) ** 2)


# --- linearised training


class Modes(NamedTuple):
    """The eigenvalues (n,) and eigenvectors (n, n) of a Gram matrix; stands for it where that saves work."""

    values: Array
    vectors: Array


def modes(H: Array) -> Modes:
    """Return the eigen-decomposition of a symmetric H (..., n, n), eigenvalues ascending."""
    H = _array(H)
    return Modes(*H.__array_namespace__().linalg.eigh(H))


def predict(H: Array | Modes, residual_0: Array, eta_scaled: Any, steps: Any) -> Array:
    """Return ||r_t|| of the linearised training at each t of `steps`, (k,) -> (k,) (B.21).

    r_t = (I - eta_scaled H)^t r_0. With H^cts this is the infinite-width curve, with H(0) the lazy one
    (B.22).
    """
    factors, weights = _factors(H, residual_0, eta_scaled)
    xp = factors.__array_namespace__()
    return xp.sqrt(_squared_norm(factors, weights, xp.asarray(steps)))


def predict_residual(H: Array | Modes, residual_0: Array, eta_scaled: Any, step: Any) -> Array:
    """Return the linearised residual r_t = (I - eta_scaled H)^t r_0 at one step t, (n,) (B.21)."""
    residual_0 = _array(residual_0)
    xp = residual_0.__array_namespace__()
    values, U = H if isinstance(H, Modes) else modes(H)
    factor = 1 - eta_scaled * values
    flips = (factor < 0) & (step % 2 == 1)
    power = abs(factor) ** step
    return U @ (xp.where(flips, -power, power) * (U.T @ residual_0))


def steps_to_tolerance(H: Array | Modes, residual_0: Array, eta_scaled: Any, eps: Any) -> Array:
    """Return the smallest t with ||r_t|| <= eps in linearised training, a float; inf if there is none (B.26).

    Exact for eta_scaled < 2 / lambda_max, where ||r_t|| falls. An unstable step answers inf, also when the
    residual dips below eps before it grows. Found digit by digit in base 32, up to 2^50 steps, by a loop that
    depends on no data under JAX, so that it can be jitted and vmapped; NumPy skips the digits that are 0.
    """
    factors, weights = _factors(H, residual_0, eta_scaled)
    xp = factors.__array_namespace__()
    digits = xp.arange(1, 32, dtype=factors.dtype)
    before = xp.zeros((), dtype=factors.dtype)  # the largest t found so far with ||r_t|| > eps
    places = 10
    if xp is np and np.isfinite(most := _most_steps(factors, weights, eps)):
        places = min(places, int(math.log(most + 2, 32)) + 1)
    for place in range(places - 1, -1, -1):
        candidates = before + 32.0**place * digits
        too_large = _squared_norm(factors, weights, candidates) > eps**2
        before = before + 32.0**place * too_large.sum().astype(factors.dtype)
    at_start = xp.sqrt(weights.sum()) <= eps
    reached = _squared_norm(factors, weights, (before + 1)[None])[0] <= eps**2
    needed = xp.where(reached, before + 1, math.inf)
    return xp.where(at_start, 0 * before, needed)


def steps_bound(H: Array | Modes, residual_0: Array, eta_scaled: Any, eps: Any) -> Array:
    """Return an upper bound on `steps_to_tolerance`, inf if unstable (B.27).

    ceil(log(||r_0|| / eps) / -log(max_k |1 - eta_scaled l_k|)).
    """
    return _most_steps(*_factors(H, residual_0, eta_scaled), eps)


def _most_steps(factors: Array, weights: Array, eps: Any) -> Array:
    xp = factors.__array_namespace__()
    slowest = factors.max()
    stable = slowest < 1
    with np.errstate(divide="ignore", invalid="ignore"):  # nothing decays, or everything does at once
        needed = xp.log(xp.sqrt(weights.sum()) / eps)
        steps = xp.ceil(needed / -xp.log(xp.where(stable, slowest, 0.5 + 0 * slowest)))
        return xp.where(needed <= 0, 0 * steps, xp.where(stable, steps, math.inf))


def converges(H: Array | Modes, residual_0: Array, eta_scaled: Any, eps: Any, steps: Any) -> Array:
    """Return whether ||r_T|| <= eps after T = `steps` of linearised training, the surrogate of E5 (B.30)."""
    return predict(H, residual_0, eta_scaled, steps) <= eps


def largest_step(H: Array) -> Array:
    """Return 2 / lambda_max(H): gradient descent is linearly stable iff eta_scaled is below it (B.28)."""
    return 2 / spectrum(H)[-1]


def fastest_step(H: Array) -> tuple[Array, Array]:
    """Return the eta_scaled with the smallest worst factor, 2 / (l_min + l_max), and that factor (B.29).

    The factor is (c - 1) / (c + 1) per step, c = l_max / l_min.
    """
    values = spectrum(H)
    low, high = values[0], values[-1]
    return 2 / (low + high), (high - low) / (high + low)


def lazy_movement(W: Array, a: Array, X: Array, change: Array, *, activation: str = "exp", scale: float = 1.0) -> Array:
    """Return the weight movement W_t - W_0 that linearised training predicts, (d, m) (B.24).

    Column r: -(a_r / (scale m)) X^T (D_r(0) o H(0)^{-1} change), `change` = r_0 - r_t, (n,). For the end of
    training from a zero output, change = -y.
    """
    X, W, a, change = _array(X), _array(W), _array(a), _array(change)
    H = empirical(W, X, activation=activation)
    solved = H.__array_namespace__().linalg.solve(H, change)
    D = lookup(activation).derivative(X @ W)
    return -(X.T @ (D * solved[:, None])) * a[None, :] / (scale * W.shape[-1])


def lazy_movement_norm(H: Array, change: Array, m: Any, *, scale: float = 1.0) -> Array:
    """Return ||W_t - W_0||_F of linearised training from H = H(0) and `change` = r_0 - r_t (B.25)."""
    H, change = _array(H), _array(change)
    xp = H.__array_namespace__()
    return xp.sqrt(change @ xp.linalg.solve(H, change) / (scale**2 * m))


def _factors(H: Array | Modes, residual_0: Array, eta_scaled: Any) -> tuple[Array, Array]:
    """Return |1 - eta_scaled l_k| and c_k^2 of (B.21); the factor is 0 where c_k is, to avoid 0 * inf."""
    residual_0 = _array(residual_0)
    values, U = H if isinstance(H, Modes) else modes(H)
    weights = (U.T @ residual_0) ** 2
    factors = abs(1 - eta_scaled * values)
    return factors * (weights > 0), weights


def _squared_norm(factors: Array, weights: Array, steps: Array) -> Array:
    exponents = 2 * steps.astype(factors.dtype)
    with np.errstate(over="ignore"):  # an unstable mode overflows to inf, which is its limit
        return (factors ** exponents[..., None]) @ weights
