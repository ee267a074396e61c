"""The regression losses as functions of the logits z = A x: values, derivatives and what is always reported.

Every function takes NumPy or JAX arrays and answers in the same library. With u = phi(z), v = phi'(z),
alpha = <u, 1>, P = I - b 1^T and Gam = P^T P, the losses are (E.2), (E.44)

    exponential  1/2 ||u - b||^2             softmax     1/2 ||u / alpha - b||^2
    rescaled     1/2 ||u - alpha b||^2       projective  1/2 ||P u||^2 / ||u||^2

Nothing n x n is ever formed: the curvature is a diagonal plus rank at most 4. Everything is computed from
u e^{-s} and v e^{-s} (E.30)-(E.32), so only the common factor e^{2s} of the exponential and the rescaled loss
can overflow. `terms` keeps it apart as `log_scale`; `loss_value`, `gradient` and `curvature` multiply it in
and are infinite where the true value exceeds the range of the dtype (|z| > 355 in float64, (E.34)).
"""

from typing import Any, NamedTuple

import numpy as np

Array = Any  # a numpy.ndarray, a jax.Array or a tracer

ACTIVATIONS = ("exp", "cosh", "sinh")
LOSSES = ("exponential", "softmax", "rescaled", "projective")


class Terms(NamedTuple):
    """The quantities that value, gradient and curvature are made of; loss = e^{log_scale} 1/2 ||r||^2.

    - `log_scale`: 2 s for the exponential and the rescaled loss, 0 otherwise.
    - `u`, `v` (n,): activation and derivative, divided by e^s, alpha or ||u||: what the loss asks for.
    - `r` (n,): the residual; `c` (n,): the gradient with respect to u, so that the z-gradient is v c.
    - `b` (n,): the target as given.
    """

    log_scale: Array
    u: Array
    v: Array
    r: Array
    c: Array
    b: Array


class Curvature(NamedTuple):
    """The symmetric matrix diag(diagonal) + Q S Q^T in z: diagonal (n,), Q (n, k), S (k, k), k <= 4 (E.4)."""

    diagonal: Array
    Q: Array
    S: Array


class Jacobian(NamedTuple):
    """The matrix diag(v) - L (Q M)^T with L (n, r), M (k, r) and the Q (n, k) of the curvature, r <= 2 (F.11)."""

    v: Array
    L: Array
    M: Array


def stable(z: Array, activation: str) -> tuple[Array, Array, Array]:
    """Return (u, v, s): phi(z) = e^s u and phi'(z) = e^s v with |u|, |v| <= 1 (E.30)-(E.32).

    z has shape (n,); s is max z for exp, max |z| for cosh and sinh.
    """
    xp = z.__array_namespace__()
    if activation == "exp":
        s = xp.max(z)
        u = xp.exp(z - s)
        return u, u, s
    size = xp.abs(z)
    s = xp.max(size)
    half = xp.exp(size - s) / 2
    cosh = half * (1 + xp.exp(-2 * size))
    sinh = xp.sign(z) * half * -xp.expm1(-2 * size)
    return (cosh, sinh, s) if activation == "cosh" else (sinh, cosh, s)


def softmax(z: Array, activation: str = "exp") -> Array:
    """Return f = u / <u, 1>, shape (n,); never overflows. For sinh it is not finite where <u, 1> = 0."""
    u, _, _ = stable(z, activation)
    return u / z.__array_namespace__().sum(u)


def terms(z: Array, b: Array, loss: str, activation: str) -> Terms:
    """Return what value, gradient and curvature at z share (E.5)-(E.13), (E.44); z and b have shape (n,)."""
    return _TERMS[loss](z, b, *stable(z, activation))


def _exponential(z: Array, b: Array, u: Array, v: Array, s: Array) -> Terms:
    xp = z.__array_namespace__()
    top = xp.maximum(s, xp.zeros_like(s))  # e^{-s} b may overflow where s < 0
    shrink = xp.exp(s - top)
    u, v = shrink * u, shrink * v
    r = u - xp.exp(-top) * b
    return Terms(2 * top, u, v, r, r, b)


def _rescaled(z: Array, b: Array, u: Array, v: Array, s: Array) -> Terms:
    r = u - z.__array_namespace__().sum(u) * b
    return Terms(2 * s, u, v, r, r - b @ r, b)


def _softmax(z: Array, b: Array, u: Array, v: Array, s: Array) -> Terms:
    alpha = z.__array_namespace__().sum(u)
    f = u / alpha
    r = f - b
    return Terms(0 * s, f, f if v is u else v / alpha, r, r - f @ r, b)


def _projective(z: Array, b: Array, u: Array, v: Array, s: Array) -> Terms:
    xp = z.__array_namespace__()
    size = xp.sqrt(u @ u)
    q = u / size
    r = q - xp.sum(q) * b
    return Terms(0 * s, q, v / size, r, r - b @ r - (r @ r) * q, b)


_TERMS = {
    "exponential": _exponential,
    "rescaled": _rescaled,
    "softmax": _softmax,
    "projective": _projective,
}


def scaled_curvature(at: Terms, loss: str, *, exact: bool = True) -> Curvature:
    """Return e^{-log_scale} times the z-Hessian, or with `exact=False` the Gauss-Newton matrix (E.5)-(E.13), (E.44).

    The Gauss-Newton matrix is (dr/dz)^T (dr/dz): never indefinite, and the Hessian where the residual is zero.
    """
    xp = at.u.__array_namespace__()
    u, v, c = at.u, at.v, at.c
    diagonal = v * v + u * c if exact else v * v
    if loss == "exponential":
        return Curvature(diagonal, u[:, None][:, :0], xp.zeros((0, 0), dtype=u.dtype))
    if loss == "softmax":
        second = v * (u + c) if exact else v * u
        return Curvature(diagonal, xp.stack([v, second]).T, _corner(u @ u, xp))
    corner = _corner(at.b @ at.b, xp)
    if loss == "rescaled":
        return Curvature(diagonal, xp.stack([v, v * at.b]).T, corner)
    twice = at.r @ at.r  # 2 L
    if exact:
        diagonal = diagonal - twice * (v * v)
    zero = xp.zeros_like(corner)
    own = -2 * _corner(0 * twice, xp, 1) if exact else -_corner(twice, xp, 1)
    S = xp.concatenate([xp.concatenate([corner, zero], axis=1), xp.concatenate([zero, own], axis=1)])
    return Curvature(diagonal, xp.stack([v, v * at.b, v * u, v * c]).T, S)


def jacobian(at: Terms, loss: str) -> Jacobian:
    """Return dr/dz as diagonal minus low rank; its product with A needs A^T Q of the Gauss-Newton matrix only.

    Rows of (dr/dz) A are v_i a_i - L_i (Q M)^T A: row sampling and sketches of it cost what they cost for A (F.11).
    """
    xp = at.u.__array_namespace__()
    if loss == "exponential":
        return Jacobian(at.v, at.u[:, None][:, :0], xp.zeros((0, 0), dtype=at.u.dtype))
    first = xp.asarray([[1.0], [0.0]], dtype=at.u.dtype)
    if loss != "projective":
        return Jacobian(at.v, (at.b if loss == "rescaled" else at.u)[:, None], first)
    one, total = xp.ones_like(at.u[0]), xp.sum(at.u)
    zero = 0 * one
    mix = xp.stack([xp.stack([one, zero]), xp.stack([zero, zero]), xp.stack([-total, one]), xp.stack([zero, zero])])
    return Jacobian(at.v, xp.stack([at.b, at.u], axis=1), mix)


def _corner(first: Array, xp: Any, other: int = -1) -> Array:
    """Return [[first, other], [other, 0]]."""
    off = xp.zeros_like(first) + other
    return xp.stack([xp.stack([first, off]), xp.stack([off, xp.zeros_like(first)])])


def _factor(at: Terms) -> Array:
    with np.errstate(over="ignore"):
        return at.u.__array_namespace__().exp(at.log_scale)


def loss_value(z: Array, b: Array, loss: str = "rescaled", activation: str = "exp") -> Array:
    """Return the loss (E.2), (E.44), a scalar; infinite where it exceeds the range of the dtype."""
    at = terms(z, b, loss, activation)
    return _factor(at) * (at.r @ at.r) / 2


def gradient(z: Array, b: Array, loss: str = "rescaled", activation: str = "exp") -> Array:
    """Return the gradient with respect to z, shape (n,); A^T times it is the one with respect to x (E.4)."""
    at = terms(z, b, loss, activation)
    return _factor(at) * (at.v * at.c)


def curvature(z: Array, b: Array, loss: str = "rescaled", activation: str = "exp", *, exact: bool = True) -> Curvature:
    """Return the z-Hessian, or with `exact=False` the Gauss-Newton matrix, as diagonal plus low rank (E.4)-(E.13)."""
    at = terms(z, b, loss, activation)
    found = scaled_curvature(at, loss, exact=exact)
    factor = _factor(at)
    return Curvature(factor * found.diagonal, found.Q, factor * found.S)


def summary(z: Array, b: Array, activation: str = "exp") -> dict[str, Array]:
    """Return what is reported whatever was minimised, as scalars (the reporting rule, section E).

    `loss_rescaled` is L_resc, `alpha` <u, 1>, `softmax_residual` ||u / alpha - b||, `projective_loss` (E.44),
    `max_logit` max |z|. `loss_rescaled` and `alpha` are infinite where they exceed the range of the dtype.
    """
    xp = z.__array_namespace__()
    u, v, s = stable(z, activation)
    rescaled = _rescaled(z, b, u, v, s)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        total = xp.sum(u)
        f = u / total - b
        projective = _projective(z, b, u, v, s)
        return {
            "loss_rescaled": _factor(rescaled) * (rescaled.r @ rescaled.r) / 2,
            "alpha": xp.exp(s) * total,
            "softmax_residual": xp.sqrt(f @ f),
            "projective_loss": (projective.r @ projective.r) / 2,
            "max_logit": xp.max(xp.abs(z)),
        }


def safe_weights(
    b: Array, loss: str = "rescaled", activation: str = "exp", *, mu: float = 0.0, rho: float | None = None
) -> Array:
    """Return w (n,) such that loss plus 1/2 ||diag(w) A x||^2 has a z-Hessian of at least mu I (E.20)-(E.24).

    The rescaled loss has such weights only on a box max |z| <= rho, which must then be given (E.22).
    Raises ValueError without `rho` there, and for the pairs that have no such formula: the projective loss
    and softmax with sinh.
    """
    xp = b.__array_namespace__()
    zero = xp.zeros_like(b)
    if loss == "exponential":
        return xp.sqrt(xp.maximum(zero, mu + _exponential_bound(b, activation, xp)))
    if loss == "softmax" and activation != "sinh":
        spread = xp.max(b) - xp.min(b)
        return xp.sqrt(zero + mu + ((1 + spread) / 2 if activation == "exp" else 1 + spread))
    if loss == "rescaled" and rho is not None:
        return xp.sqrt(mu + _rescaled_bound(b, activation, rho, xp))
    what = "needs rho, a bound on max |z| (E.22)" if loss == "rescaled" else "has no safe weights"
    raise ValueError(f"loss {loss!r} with activation {activation!r} {what}")


def _exponential_bound(b: Array, activation: str, xp: Any) -> Array:
    if activation == "exp":
        return xp.maximum(b, xp.zeros_like(b)) ** 2 / 8
    return xp.where(b <= 4, b - 1, 1 + b * b / 8) if activation == "cosh" else b * b / 8 - 1


def _rescaled_bound(b: Array, activation: str, rho: float, xp: Any) -> Array:
    n = b.shape[0]
    positive = xp.maximum(b, xp.zeros_like(b))
    U = float({"exp": np.exp, "cosh": np.cosh, "sinh": np.sinh}[activation](rho))
    if activation == "sinh":
        K = U * (n * (xp.abs(b) + b @ b) + xp.sum(xp.abs(b)))
    else:
        K = U * (n * positive + xp.sum(positive))
    return xp.where(K <= 2 * U, K * K / 4, U * (K - U))
