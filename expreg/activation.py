"""The activations phi: the function, its change under a small step, its infinite-width moments, side by side.

Every function here takes NumPy or JAX arrays and answers in the same library (array API namespace),
elementwise and broadcasting, so one formula serves the float64 host and the device. Notation of
sections A and B: `z` are pre-activations, `K_ij = <x_i, x_j>`, `q_i = ||x_i||^2`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import pi
from typing import Any

import numpy as np

Array = Any  # a numpy.ndarray, a jax.Array or a tracer; naming jax here would import it


def _itself(z0: Array) -> tuple[Array, ...]:
    return (z0,)


def _difference(
    value: Callable[[Array], Array], derivative: Callable[[Array], Array], base: tuple[Array, ...], dl: Array
) -> tuple[Array, Array]:
    (z0,) = base
    return value(z0 + dl) - value(z0), derivative(z0 + dl)


@dataclass(frozen=True)
class Activation:
    """One activation phi; its entry in `ACTIVATIONS` is all the package knows of it.

    Required:

    - `name`, `value(z)`, `derivative(z)`: phi(z) and phi'(z).

    What training asks:

    - `base(z0)`: a tuple of arrays like z0 that stay fixed during training, (z0,) by default.
    - `increment(base, dl)`: (phi(z0 + dl) - phi(z0), phi'(z0 + dl)) without cancellation for small dl (A.10). The
      default subtracts two values, so in float32 changes below 1e-7 |phi(z0)| are lost.

    What the theory of networks asks; None where it is unknown, and then nothing that needs it is measured:

    - `expectation(K, q_i, q_j)`: E phi'(z_i) phi'(z_j), z Gaussian with covariance [[q_i, K], [K, q_j]];
      K times it is the infinite-width Gram matrix (B.3)-(B.6).
    - `variance(K, q_i, q_j)`: variance over one neuron of K phi'(z_i) phi'(z_j) (B.7)-(B.10).
    - `powers`: first and stride of the powers of K in H^cts = e sum_k K^(k) / (k - 1)! on the unit sphere (B.15).

    What regression asks (section E); it takes every activation with `stable`:

    - `stable(z)`: (u, v, s) with phi(z) = e^s u, phi'(z) = e^s v and |u|, |v| <= 1 for z of any shape, s a scalar;
      s = 0 will do where phi cannot overflow.
    - `second(z, s)`: e^{-s} phi''(z); None where phi'' = phi.
    - `inverse(y)`: z with phi(z) = y >= 0, or for odd phi any y; guesses a start, None where there is none.
    - `parity`: "even", "odd" or None.
    - `multiplicative`: whether phi(z + t) = phi(z) e^t.
    - `softmax_curvature`: a bound of the norm of the z-Hessian of the softmax loss (E.45), None where none is known.
    """

    name: str
    value: Callable[[Array], Array]
    derivative: Callable[[Array], Array]
    base: Callable[[Array], tuple[Array, ...]] = _itself
    increment: Callable[[tuple[Array, ...], Array], tuple[Array, Array]] = None  # type: ignore[assignment]
    expectation: Callable[[Array, Array, Array], Array] | None = None
    variance: Callable[[Array, Array, Array], Array] | None = None
    powers: tuple[int, int] | None = None
    stable: Callable[[Array], tuple[Array, Array, Array]] | None = None
    second: Callable[[Array, Array], Array] | None = None
    inverse: Callable[[Array], Array] | None = None
    parity: str | None = None
    multiplicative: bool = False
    softmax_curvature: float | None = None

    def __post_init__(self) -> None:
        if self.increment is None:
            object.__setattr__(self, "increment", partial(_difference, self.value, self.derivative))

    @property
    def exponential(self) -> bool:
        """Return whether phi'' = phi: then |phi| and |phi'| grow by at most e^R within R (C.8), as certificates need.

        The larger of the two is a sum of positive exponentials, an envelope of phi' and phi''.
        """
        return self.stable is not None and self.second is None


def _elementwise(name: str) -> Callable[[Array], Array]:
    """Return the function of that name from the library of its argument."""
    return lambda z: getattr(z.__array_namespace__(), name)(z)


_exp, _expm1, _log, _cosh, _sinh, _asinh = map(_elementwise, ("exp", "expm1", "log", "cosh", "sinh", "asinh"))


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


def _cosh_expectation(K: Array, q_i: Array, q_j: Array) -> Array:
    return _exp((q_i + q_j) / 2) * _sinh(K)


def _sinh_expectation(K: Array, q_i: Array, q_j: Array) -> Array:
    return _exp((q_i + q_j) / 2) * _cosh(K)


# (B.8) and (B.9) regrouped into sums of terms >= 0: as written there they lose all digits at small norms.


def _hyperbolic_variance(K: Array, q: Array, own: Array) -> Array:
    return K**2 * _exp(q) * (own + _sinh(K) ** 2 * (2 * _exp(q) * _cosh(K) ** 2 - 1))


def _cosh_variance(K: Array, q_i: Array, q_j: Array) -> Array:
    return _hyperbolic_variance(K, q_i + q_j, _sinh(q_i) * _sinh(q_j))


def _sinh_variance(K: Array, q_i: Array, q_j: Array) -> Array:
    own = _sinh((q_i + q_j) / 2) ** 2 + _sinh((q_i - q_j) / 2) ** 2  # cosh(q_i) cosh(q_j) - 1
    return _hyperbolic_variance(K, q_i + q_j, own)


# --- relu, the reference


def _relu(z: Array) -> Array:
    return z.__array_namespace__().where(z > 0, z, 0 * z)


def _step(z: Array) -> Array:
    return (z > 0).astype(z.dtype)


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


_LIST = (
    Activation(
        *("exp", _exp, _exp, _exp_base, _exp_increment, _exp_expectation, _exp_variance),
        powers=(1, 1),
        stable=_exp_stable,
        inverse=_log,
        multiplicative=True,
        softmax_curvature=5 / 4,
    ),
    Activation(
        *("cosh", _cosh, _sinh, _hyperbolic_base, _cosh_increment, _cosh_expectation, _cosh_variance),
        powers=(2, 2),
        stable=_hyperbolic_stable,
        inverse=_acosh,
        parity="even",
        softmax_curvature=9 / 4,
    ),
    Activation(
        *("sinh", _sinh, _cosh, _hyperbolic_base, _sinh_increment, _sinh_expectation, _sinh_variance),
        powers=(1, 2),
        stable=_sinh_stable,
        inverse=_asinh,
        parity="odd",
    ),
    Activation("relu", _relu, _step, _itself, _relu_increment, _relu_expectation, _relu_variance),
)
ACTIVATIONS: dict[str, Activation] = {activation.name: activation for activation in _LIST}
"""Every activation by name; `expreg.register` adds to it."""


def lookup(name: str | Activation) -> Activation:
    """Return the activation called `name`, a record itself; raises ValueError that lists the names there are."""
    if isinstance(name, Activation):
        return name
    try:
        return ACTIVATIONS[name]
    except KeyError:
        raise ValueError(f"activation: got {name!r}, expected one of {', '.join(ACTIVATIONS)}") from None


def in_units(phi: Activation, unit: float) -> Activation:
    """Return the activation phi(unit z) / unit: that of logits counted in units of `unit`.

    Of an odd phi it is of the size of z, however small the unit.
    """
    stable, inverse, second = phi.stable, phi.inverse, phi.second
    assert stable is not None

    def scaled(z: Array) -> tuple[Array, Array, Array]:
        xp, (u, v, s) = z.__array_namespace__(), stable(unit * z)
        u = u / unit
        top = xp.maximum(xp.max(xp.abs(u)), xp.max(xp.abs(v)))
        return u / top, v / top, s + xp.log(top)

    def bend(z: Array, s: Array) -> Array:
        if second is not None:
            return unit * second(unit * z, s)
        u, _, own = stable(unit * z)
        return unit * _exp(own - s) * u

    return replace(
        phi, stable=scaled, second=bend, inverse=None if inverse is None else lambda y: inverse(unit * y) / unit
    )


def padded(phi: Activation, n: int) -> Activation:
    """Return the activation that is 0 beyond the first n logits, of rows that only fill up a matrix."""
    stable, second = phi.stable, phi.second
    assert stable is not None

    def only(values: Array) -> Array:
        xp = values.__array_namespace__()
        return xp.where(xp.arange(values.shape[0]) < n, values, 0)

    def masked(z: Array) -> tuple[Array, Array, Array]:
        xp = z.__array_namespace__()
        # a logit of 0 may be the largest, which e^s follows
        u, v, s = stable(xp.where(xp.arange(z.shape[0]) < n, z, -xp.inf) if phi.multiplicative else z)
        first = only(u)
        return first, first if v is u else only(v), s

    return replace(phi, stable=masked, second=None if second is None else lambda z, s: only(second(z, s)))


# --- what is checked once, when an activation is registered

_POINTS = np.array([[-1.3, -0.6, -0.2], [0.3, 0.7, 1.1]])
_STEP = 1e-3  # of the slopes: 1e-4 is what float32 leaves of them
_CLOSE = 1e-3


def check(activation: Activation) -> list[str]:
    """Return what is wrong with an activation, one line each: shapes, finite values, functions that contradict."""
    lines = []
    for what, (found_of, expected_of, name) in _probes(activation).items():
        try:
            found = np.asarray(found_of())
            expected = found if expected_of is None else np.asarray(expected_of())
        except Exception as error:
            lines.append(f"{what} raised {type(error).__name__}: {error}")
            continue
        if found.shape != _POINTS.shape:
            lines.append(f"{what} has shape {found.shape}, expected that of its arguments, {_POINTS.shape}")
        elif not np.isfinite(found).all():
            lines.append(f"{what} is not finite at z = {_POINTS[~np.isfinite(found)][0]:g}")
        elif (
            expected.shape == found.shape and (off := np.abs(found - expected) > _CLOSE * (1 + np.abs(expected))).any()
        ):
            pair = f"{found[off][0]:.6g} at z = {_POINTS[off][0]:g}, expected {expected[off][0]:.6g}"
            lines.append(f"{what} is {pair}, {name}")
    return [f"activation {activation.name!r}: {line}" for line in lines]


def _probes(phi: Activation) -> dict[str, tuple[Callable[[], Array], Callable[[], Array] | None, str]]:
    """Return what is asked of an activation: how to find it, what it must agree with, and what that is called."""
    z, dl, q = _POINTS, np.full_like(_POINTS, 0.1), np.ones_like(_POINTS)
    stable: Any = phi.stable
    second: Any = phi.second

    def slope(function: Callable[[Array], Array]) -> Array:
        return (function(z + _STEP) - function(z - _STEP)) / (2 * _STEP)

    def moved(i: int) -> Array:
        return phi.increment(phi.base(z), dl)[i]

    def scaled(i: int) -> Array:
        return stable(z)[i] * np.exp(stable(z)[2])

    value, derivative = partial(phi.value, z), partial(phi.derivative, z)
    found: dict[str, Any] = {
        "value(z)": (value, None, ""),
        "derivative(z)": (derivative, lambda: slope(phi.value), "the slope of value"),
        "increment[0]": (lambda: moved(0), lambda: phi.value(z + dl) - phi.value(z), "value(z + dl) - value(z)"),
        "increment[1]": (lambda: moved(1), lambda: phi.derivative(z + dl), "derivative(z + dl)"),
    }
    moments = {"expectation": phi.expectation, "variance": phi.variance}
    found |= {name: (partial(moment, z / 2, q, q), None, "") for name, moment in moments.items() if moment is not None}
    if stable is not None:
        found["e^s u of stable(z)"] = (partial(scaled, 0), value, "value(z)")
        found["e^s v of stable(z)"] = (partial(scaled, 1), derivative, "derivative(z)")
        bend = partial(slope, phi.derivative)
        if second is None:
            found["phi''"] = (bend, value, "phi: give `second` where phi'' is not phi")
        else:
            found["second(z, 0)"] = (lambda: second(z, np.zeros(())), bend, "the slope of derivative")
    return found
