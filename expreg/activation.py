"""The activations phi: the function, its change under a small step, its infinite-width moments, side by side.

Every function here takes NumPy or JAX arrays and answers in the same library (array API namespace),
elementwise and broadcasting, so one formula serves the float64 host and the device. Notation of
sections A and B: `z` are pre-activations, `K_ij = <x_i, x_j>`, `q_i = ||x_i||^2`.
"""

from collections.abc import Callable
from math import pi
from typing import Any, NamedTuple

Array = Any  # a numpy.ndarray, a jax.Array or a tracer; naming jax here would import it


class Activation(NamedTuple):
    """One activation phi; its entry in `ACTIVATIONS` is all the package knows of it.

    - `value(z)`, `derivative(z)`: phi(z) and phi'(z).
    - `base(z0)`: a tuple of arrays like z0 that stay fixed during training.
    - `increment(base, dl)`: (phi(z0 + dl) - phi(z0), phi'(z0 + dl)) without cancellation for small dl (A.10).
    - `expectation(K, q_i, q_j)`: E phi'(z_i) phi'(z_j), z Gaussian with covariance [[q_i, K], [K, q_j]];
      K times it is the infinite-width Gram matrix (B.3)-(B.6).
    - `variance(K, q_i, q_j)`: variance over one neuron of K phi'(z_i) phi'(z_j) (B.7)-(B.10).

    What regression asks (section E); it takes every activation with `stable`:

    - `stable(z)`: (u, v, s) with phi(z) = e^s u, phi'(z) = e^s v and |u|, |v| <= 1 for z (n,); s = 0 will do where
      phi cannot overflow.
    - `second(z, s)`: e^{-s} phi''(z); None where phi'' = phi.
    - `inverse(y)`: z with phi(z) = y >= 0, or for odd phi any y; guesses a start, None where there is none.
    - `parity`: "even", "odd" or None.
    - `multiplicative`: whether phi(z + t) = phi(z) e^t.
    - `softmax_curvature`: a bound of the norm of the z-Hessian of the softmax loss (E.45), None where none is known.
    """

    name: str
    value: Callable[[Array], Array]
    derivative: Callable[[Array], Array]
    base: Callable[[Array], tuple[Array, ...]]
    increment: Callable[[tuple[Array, ...], Array], tuple[Array, Array]]
    expectation: Callable[[Array, Array, Array], Array]
    variance: Callable[[Array, Array, Array], Array]
    stable: Callable[[Array], tuple[Array, Array, Array]] | None = None
    second: Callable[[Array, Array], Array] | None = None
    inverse: Callable[[Array], Array] | None = None
    parity: str | None = None
    multiplicative: bool = False
    softmax_curvature: float | None = None


def _exp(z: Array) -> Array:
    return z.__array_namespace__().exp(z)


def _cosh(z: Array) -> Array:
    return z.__array_namespace__().cosh(z)


def _sinh(z: Array) -> Array:
    return z.__array_namespace__().sinh(z)


def _expm1(z: Array) -> Array:
    return z.__array_namespace__().expm1(z)


# --- exp


def _exp_base(z0: Array) -> tuple[Array, ...]:
    return (_exp(z0),)


def _exp_increment(base: tuple[Array, ...], dl: Array) -> tuple[Array, Array]:
    (e,) = base
    change = e * _expm1(dl)
    return change, e + change


def _exp_stable(z: Array) -> tuple[Array, Array, Array]:
    """Return (e^{z - s}, e^{z - s}, s) with s = max z (E.30)."""
    xp = z.__array_namespace__()
    s = xp.max(z)
    u = xp.exp(z - s)
    return u, u, s


def _log(y: Array) -> Array:
    return y.__array_namespace__().log(y)


def _exp_expectation(K: Array, q_i: Array, q_j: Array) -> Array:
    return _exp((q_i + q_j) / 2 + K)


def _exp_variance(K: Array, q_i: Array, q_j: Array) -> Array:
    s2 = q_i + q_j + 2 * K  # ||x_i + x_j||^2
    return K**2 * _exp(s2) * _expm1(s2)


# --- cosh and sinh


def _hyperbolic_step(dl: Array) -> tuple[Array, Array]:
    """Return (cosh(dl) - 1, sinh(dl)) from one expm1.

    With h = expm1(|dl|) and g = h / (1 + h) = 1 - e^{-|dl|}: cosh - 1 = h g / 2 and |sinh| = (h + g) / 2.
    The absolute value keeps 1 + h away from 0; spelled with `where`, its derivative at 0 is 1 by construction
    and not by a convention of the library.
    """
    xp = dl.__array_namespace__()
    negative = dl < 0
    h = xp.expm1(xp.where(negative, -dl, dl))
    g = h / (1 + h)
    size = (h + g) / 2
    return h * g / 2, xp.where(negative, -size, size)


def _hyperbolic_base(z0: Array) -> tuple[Array, ...]:
    return _cosh(z0), _sinh(z0)


def _cosh_increment(base: tuple[Array, ...], dl: Array) -> tuple[Array, Array]:
    c, s = base
    step, sinh_dl = _hyperbolic_step(dl)
    return c * step + s * sinh_dl, s + s * step + c * sinh_dl


def _sinh_increment(base: tuple[Array, ...], dl: Array) -> tuple[Array, Array]:
    c, s = base
    step, sinh_dl = _hyperbolic_step(dl)
    return s * step + c * sinh_dl, c + c * step + s * sinh_dl


def _hyperbolic_stable(z: Array) -> tuple[Array, Array, Array]:
    """Return (e^{-s} cosh z, e^{-s} sinh z, s) with s = max |z| (E.31), (E.32)."""
    xp = z.__array_namespace__()
    size = xp.abs(z)
    s = xp.max(size)
    half = xp.exp(size - s) / 2
    cosh = half * (1 + xp.exp(-2 * size))
    return cosh, xp.sign(z) * half * -xp.expm1(-2 * size), s


def _sinh_stable(z: Array) -> tuple[Array, Array, Array]:
    cosh, sinh, s = _hyperbolic_stable(z)
    return sinh, cosh, s


def _acosh(y: Array) -> Array:
    xp = y.__array_namespace__()
    return xp.acosh(xp.maximum(y, xp.ones_like(y)))


def _asinh(y: Array) -> Array:
    return y.__array_namespace__().asinh(y)


def _cosh_expectation(K: Array, q_i: Array, q_j: Array) -> Array:
    return _exp((q_i + q_j) / 2) * _sinh(K)


def _sinh_expectation(K: Array, q_i: Array, q_j: Array) -> Array:
    return _exp((q_i + q_j) / 2) * _cosh(K)


# (B.8) and (B.9) regrouped into sums of terms >= 0: as written there they lose all digits at small norms.


def _common_variance(K: Array, q: Array) -> Array:
    return _sinh(K) ** 2 * (2 * _exp(q) * _cosh(K) ** 2 - 1)


def _cosh_variance(K: Array, q_i: Array, q_j: Array) -> Array:
    q = q_i + q_j
    return K**2 * _exp(q) * (_sinh(q_i) * _sinh(q_j) + _common_variance(K, q))


def _sinh_variance(K: Array, q_i: Array, q_j: Array) -> Array:
    q = q_i + q_j
    own = _sinh(q / 2) ** 2 + _sinh((q_i - q_j) / 2) ** 2  # cosh(q_i) cosh(q_j) - 1
    return K**2 * _exp(q) * (own + _common_variance(K, q))


# --- relu, the reference


def _relu(z: Array) -> Array:
    return z.__array_namespace__().where(z > 0, z, 0 * z)


def _step(z: Array) -> Array:
    return (z > 0).astype(z.dtype)


def _relu_base(z0: Array) -> tuple[Array, ...]:
    return (z0,)


def _relu_increment(base: tuple[Array, ...], dl: Array) -> tuple[Array, Array]:
    (z0,) = base
    xp = dl.__array_namespace__()
    change = xp.where(z0 > 0, xp.maximum(dl, -z0), _relu(z0 + dl))
    return change, _step(z0 + dl)


def _relu_expectation(K: Array, q_i: Array, q_j: Array) -> Array:
    """Return (pi - theta) / (2 pi); sin(theta) as a product is exact at 0, arccos loses half the digits."""
    xp = K.__array_namespace__()
    s = xp.sqrt(q_i * q_j)
    sine2 = (s - K) * (s + K)
    proper = sine2 > 0  # rounding may leave a tiny negative; the double where keeps the gradient finite there
    sine = xp.where(proper, xp.sqrt(xp.where(proper, sine2, 1 + 0 * sine2)), 0 * sine2)
    return (pi - xp.atan2(sine, K)) / (2 * pi)


def _relu_variance(K: Array, q_i: Array, q_j: Array) -> Array:
    both = _relu_expectation(K, q_i, q_j)
    return K**2 * both * (1 - both)


EXP = Activation(
    "exp", _exp, _exp, _exp_base, _exp_increment, _exp_expectation, _exp_variance,
    stable=_exp_stable, inverse=_log, multiplicative=True, softmax_curvature=5 / 4,
)  # fmt: skip
COSH = Activation(
    "cosh", _cosh, _sinh, _hyperbolic_base, _cosh_increment, _cosh_expectation, _cosh_variance,
    stable=_hyperbolic_stable, inverse=_acosh, parity="even", softmax_curvature=9 / 4,
)  # fmt: skip
SINH = Activation(
    "sinh", _sinh, _cosh, _hyperbolic_base, _sinh_increment, _sinh_expectation, _sinh_variance,
    stable=_sinh_stable, inverse=_asinh, parity="odd",
)  # fmt: skip
RELU = Activation("relu", _relu, _step, _relu_base, _relu_increment, _relu_expectation, _relu_variance)

ACTIVATIONS = {activation.name: activation for activation in (EXP, COSH, SINH, RELU)}


def lookup(name: str) -> Activation:
    """Return the activation called `name`; raises ValueError that lists the names there are."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation: got {name!r}, expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
