"""The regression losses as functions of the logits z = A x: values, derivatives and what is always reported.

Every function takes NumPy or JAX arrays and answers in the same library. With u = phi(z), v = phi'(z),
alpha = <u, 1>, P = I - b 1^T and Gam = P^T P, the losses are (E.2), (E.44)

    exponential  1/2 ||u - b||^2             softmax     1/2 ||u / alpha - b||^2
    rescaled     1/2 ||u - alpha b||^2       projective  1/2 ||P u||^2 / ||u||^2

and `LOSSES` is their list: one record each, which says all that the package asks of a loss. Nothing n x n is ever
formed: the curvature is a diagonal plus rank at most 4. Everything is computed from u e^{-s} and v e^{-s}
(E.30)-(E.32), so only the common factor e^{2s} of the exponential and the rescaled loss can overflow. `terms` keeps
it apart as `log_scale`; `loss_value`, `gradient` and `curvature` multiply it in and are infinite where the true
value exceeds the range of the dtype (|z| > 355 in float64, (E.34)).
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from expreg import bounds
from expreg.activation import ACTIVATIONS, Activation, lookup
from expreg.types import Array

ORDINARY = 11.0  # numbers within e^-11 and e^11 are not rescaled: their squares are far from the ends of any range


class Terms(NamedTuple):
    """The quantities that value, gradient and curvature are made of; loss = e^{log_scale} 1/2 ||r||^2.

    - `log_scale`: 2 s for the exponential and the rescaled loss, 0 otherwise.
    - `u`, `v` (n,): activation and derivative, divided by e^s, alpha or ||u||: what the loss asks for.
    - `r` (n,): the residual, u minus its target; `c` (n,): the gradient with respect to u; the z-gradient is v c.
    - `b` (n,): the target as given. `w` (n,): phi'' divided as u is; None where phi'' = phi.
    """

    log_scale: Array
    u: Array
    v: Array
    r: Array
    c: Array
    b: Array
    w: Array | None = None


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


class Loss(NamedTuple):
    """One loss; its entry in `LOSSES` is all the package knows of it.

    - `terms(z, b, u, v, s)`: the `Terms` for phi(z) = e^s u, phi'(z) = e^s v.
    - `curvature(at, exact)`: e^{-log_scale} times the z-Hessian, or with `exact` False the Gauss-Newton matrix.
    - `jacobian(at)`: dr/dz as a `Jacobian`.
    - `relative`: whether b is compared with multiples of u, so that the scale of u is free and <b, 1> should be 1.
    - `rows_power`: the power of n by which the loss grows when the rows are repeated.
    - `stand_in`: for a loss that vanishes without a fit, the name of the one by which starts are compared.
    - `grows`: whether it grows like e^{2z}; then `log_scale` is 2 s, and the s that `terms` gets may be larger than
      that of `stable`.
    - `bounded`: whether its z-curvature is bounded, so that it never overflows.
    - `floor(b, activation, rho)`: what -lambda_min of its z-Hessian is at most, (n,), None where nothing is known;
      `boxed`: whether that holds on a box max |z| <= rho only.
    - `lipschitz(b, activation, rho)`: L_z with ||B(z) - B(z')|| <= L_z max |z - z'| for its z-Hessian B on the box
      max |z| <= rho, None where nothing is known (E.25)-(E.28).
    - `by_norms(b, radius)`: bounds of ||B|| and of the Lipschitz constant in x by ||A||, ||x|| <= radius alone.
    """

    name: str
    terms: Callable[[Array, Array, Array, Array, Array], Terms]
    curvature: Callable[[Terms, bool], Curvature]
    jacobian: Callable[[Terms], Jacobian]
    relative: bool = True
    rows_power: int = 0
    stand_in: str | None = None
    grows: bool = False
    bounded: bool = False
    floor: Callable[[Array, Activation, Any], Array | None] = lambda *_: None
    boxed: bool = False
    lipschitz: Callable[[Array, Activation, float], Array | None] = lambda *_: None
    by_norms: Callable[[Array, float], tuple[float, float]] | None = None


def activations() -> list[str]:
    """Return the names of the activations that a regression may have: those with `stable`."""
    return [name for name, activation in ACTIVATIONS.items() if activation.stable is not None]


def stable(z: Array, activation: str | Activation) -> tuple[Array, Array, Array]:
    """Return (u, v, s): phi(z) = e^s u and phi'(z) = e^s v with |u|, |v| <= 1 (E.30)-(E.32).

    z has shape (n,); s is max z for exp, max |z| for cosh and sinh. Raises ValueError for one without such a form.
    """
    form = lookup(activation).stable
    if form is None:
        raise ValueError(f"activation: got {activation!r}, expected one of {', '.join(activations())}")
    return form(z)


def softmax(z: Array, activation: str = "exp") -> Array:
    """Return f = u / <u, 1>, shape (n,); never overflows. For sinh it is not finite where <u, 1> = 0."""
    u, _, _ = stable(z, activation)
    return u / z.__array_namespace__().sum(u)


def terms(z: Array, b: Array, loss: str, activation: str | Activation, least: Array | None = None) -> Terms:
    """Return what value, gradient and curvature at z share (E.5)-(E.13), (E.44); z and b have shape (n,).

    `least` is that of `least_scale`, if it is known already.
    """
    u, v, s = stable(z, activation)
    least = least_scale(b, None, loss) if least is None else least
    if least is not None and LOSSES[loss].grows:
        xp = z.__array_namespace__()
        top = xp.maximum(s, least)
        shrink = xp.exp(s - top)
        scaled = shrink * u
        u, v, s = scaled, scaled if v is u else shrink * v, top
    at = LOSSES[loss].terms(z, b, u, v, s)
    second = lookup(activation).second
    return at if second is None else at._replace(w=second(z, s) * ((at.u @ u + at.v @ v) / (u @ u + v @ v)))


def least_scale(b: Array, weights: Array | None, loss: str) -> Array | None:
    """Return the least s by which phi is divided, so that neither b^2 nor the regulariser leaves the range of numbers.

    It is the logarithm of the largest |b|, for the exponential loss, or of the largest weight less a margin. For
    targets of ordinary size it is 0; None for a loss that needs no such thing.
    """
    record = LOSSES[loss]
    if not record.grows or (record.relative and weights is None):
        return None
    xp, info = b.__array_namespace__(), np.finfo(b.dtype)
    bound = float(np.log(info.max)) - 4
    with np.errstate(divide="ignore"):
        heavy = None if weights is None else xp.log(xp.max(xp.abs(weights))) - ORDINARY
        if record.relative:
            return heavy
        size = xp.clip(xp.log(xp.max(xp.abs(b))), -bound, bound)
    least = xp.where(xp.abs(size) > ORDINARY, size, 0 * size)
    return least if heavy is None else xp.maximum(least, heavy)


def scaled_curvature(at: Terms, loss: str, *, exact: bool = True) -> Curvature:
    """Return e^{-log_scale} times the z-Hessian, or with `exact=False` the Gauss-Newton matrix (E.5)-(E.13), (E.44).

    The Gauss-Newton matrix is (dr/dz)^T (dr/dz): never indefinite, and the Hessian where the residual is zero.
    """
    return LOSSES[loss].curvature(at, exact)


def jacobian(at: Terms, loss: str) -> Jacobian:
    """Return dr/dz as diagonal minus low rank; its product with A needs A^T Q of the Gauss-Newton matrix only.

    Rows of (dr/dz) A are v_i a_i - L_i (Q M)^T A: row sampling and sketches of it cost what they cost for A (F.11).
    """
    return LOSSES[loss].jacobian(at)


def _exponential(z: Array, b: Array, u: Array, v: Array, s: Array) -> Terms:
    r = u - z.__array_namespace__().exp(-s) * b
    return Terms(2 * s, u, v, r, r, b)


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


def _diagonal(at: Terms, exact: bool) -> Array:
    return at.v * at.v + (at.u if at.w is None else at.w) * at.c if exact else at.v * at.v


def _corner(first: Array, other: int = -1) -> Array:
    """Return [[first, other], [other, 0]]."""
    xp = first.__array_namespace__()
    zero = xp.zeros_like(first)
    return xp.reshape(xp.stack([first, zero + other, zero + other, zero]), (2, 2))


def _no_columns(at: Terms) -> tuple[Array, Array]:
    xp = at.u.__array_namespace__()
    return at.u[:, None][:, :0], xp.zeros((0, 0), dtype=at.u.dtype)


def _columns(*columns: Array) -> Array:
    return columns[0].__array_namespace__().stack(columns).T


def _rank_two(at: Terms, exact: bool, second: Array, corner: Array) -> Curvature:
    return Curvature(_diagonal(at, exact), _columns(at.v, second), _corner(corner))


def _projective_curvature(at: Terms, exact: bool) -> Curvature:
    xp, diagonal, v = at.u.__array_namespace__(), _diagonal(at, exact), at.v
    corner, twice = _corner(at.b @ at.b), at.r @ at.r  # 2 L
    if exact:
        diagonal = diagonal - twice * (v * v)
    zero = xp.zeros_like(corner)
    own = -2 * _corner(0 * twice, 1) if exact else -_corner(twice, 1)
    S = xp.concatenate([xp.concatenate([corner, zero], axis=1), xp.concatenate([zero, own], axis=1)])
    return Curvature(diagonal, _columns(v, v * at.b, v * at.u, v * at.c), S)


def _rank_one(at: Terms, L: Array) -> Jacobian:
    xp = at.u.__array_namespace__()
    return Jacobian(at.v, L[:, None], xp.asarray([[1.0], [0.0]], dtype=at.u.dtype))


def _projective_jacobian(at: Terms) -> Jacobian:
    xp = at.u.__array_namespace__()
    zero, one = xp.zeros_like(at.u[0]), xp.ones_like(at.u[0])
    M = xp.stack([xp.stack([one, zero, -xp.sum(at.u), zero]), xp.stack([zero, zero, one, zero])]).T
    return Jacobian(at.v, _columns(at.b, at.u), M)


EXPONENTIAL = Loss(
    "exponential",
    _exponential,
    lambda at, exact: Curvature(_diagonal(at, exact), *_no_columns(at)),
    lambda at: Jacobian(at.v, *_no_columns(at)),
    relative=False,
    rows_power=1,
    grows=True,
    floor=bounds.exponential_floor,
    lipschitz=bounds.exponential_lipschitz,
)
SOFTMAX = Loss(
    "softmax",
    _softmax,
    lambda at, exact: _rank_two(at, exact, at.v * (at.u + at.c if exact else at.u), at.u @ at.u),
    lambda at: _rank_one(at, at.u),
    rows_power=-1,
    bounded=True,
    floor=bounds.softmax_floor,
    lipschitz=bounds.softmax_lipschitz,
)
RESCALED = Loss(
    "rescaled",
    _rescaled,
    lambda at, exact: _rank_two(at, exact, at.v * at.b, at.b @ at.b),
    lambda at: _rank_one(at, at.b),
    rows_power=1,
    stand_in="projective",
    grows=True,
    floor=bounds.rescaled_floor,
    lipschitz=bounds.rescaled_lipschitz,
    by_norms=bounds.rescaled_norms,
    boxed=True,
)
PROJECTIVE = Loss("projective", _projective, _projective_curvature, _projective_jacobian)

LOSSES: dict[str, Loss] = {loss.name: loss for loss in (EXPONENTIAL, SOFTMAX, RESCALED, PROJECTIVE)}


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
    diagonal, Q, S = scaled_curvature(at, loss, exact=exact)
    return Curvature(_factor(at) * diagonal, Q, _factor(at) * S)


def summary(z: Array, b: Array, activation: str | Activation = "exp") -> dict[str, Array]:
    """Return what is reported whatever was minimised, as scalars (the reporting rule, section E).

    `loss_rescaled` is L_resc, `alpha` <u, 1>, `softmax_residual` ||u / alpha - b||, `projective_loss` (E.44),
    `max_logit` max |z|. `loss_rescaled` and `alpha` are infinite where they exceed the range of the dtype.
    """
    xp = z.__array_namespace__()
    u, _, s = stable(z, activation)
    total = xp.sum(u)
    r = u - total * b
    left = r @ r
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return {
            "loss_rescaled": xp.exp(2 * s) * left / 2,
            "alpha": xp.exp(s) * total,
            "softmax_residual": xp.sqrt(left) / xp.abs(total),  # (E.16)
            "projective_loss": left / (u @ u) / 2,
            "max_logit": xp.maximum(xp.max(z), -xp.min(z)),
        }


def safe_weights(
    b: Array, loss: str = "rescaled", activation: str = "exp", *, mu: float = 0.0, rho: float | None = None
) -> Array:
    """Return w (n,) such that loss plus 1/2 ||diag(w) A x||^2 has a z-Hessian of at least mu I (E.20)-(E.24).

    The rescaled loss has such weights only on a box max |z| <= rho, which must then be given (E.22).
    Raises ValueError without `rho` there, and for the pairs that have no such formula: the projective loss
    and softmax with sinh.
    """
    xp, chosen, phi = b.__array_namespace__(), LOSSES[loss], ACTIVATIONS[activation]
    missing = chosen.boxed and rho is None
    floor = None if missing or phi.second is not None else chosen.floor(b, phi, rho)
    if floor is None:
        what = "needs rho, a bound on max |z| (E.22)" if missing else "has no safe weights"
        raise ValueError(f"loss {loss!r} with activation {activation!r} {what}")
    return xp.sqrt(xp.maximum(xp.zeros_like(b), mu + floor))


def check(loss: Loss) -> Iterator[str]:
    """Yield what is wrong with a loss at a tiny probe: its gradient, its Jacobian, the shapes of its curvature."""
    rng = np.random.default_rng(0)
    z, b, start = rng.normal(size=5), rng.uniform(0.1, 0.3, 5), f"loss {loss.name!r}:"

    def value(z: Array) -> float:
        at = loss.terms(z, b, *stable(z, "exp"))
        return float(np.exp(at.log_scale) * (at.r @ at.r) / 2)

    at = loss.terms(z, b, *stable(z, "exp"))
    gradient = np.exp(at.log_scale) * (at.v * at.c)
    slopes = [(value(z + step) - value(z - step)) / 2e-6 for step in 1e-6 * np.eye(5)]
    if np.shape(gradient) != (5,) or not np.allclose(gradient, slopes, rtol=1e-4, atol=1e-4 * np.abs(slopes).max()):
        yield f"{start} v c of its terms is not the gradient of e^log_scale ||r||^2 / 2 with respect to z"
    diagonal, Q, S = loss.curvature(at, False)
    k = np.shape(Q)[-1]
    if (np.shape(diagonal), np.shape(Q), np.shape(S)) != ((5,), (5, k), (k, k)):
        yield f"{start} expected a curvature of shapes (n,), (n, k), (k, k)"
        return
    v, L, M = loss.jacobian(at)
    J = np.diag(v) - L @ (Q @ M).T
    if not np.allclose(J.T @ J, np.diag(diagonal) + Q @ S @ Q.T, rtol=1e-6, atol=1e-9):
        yield f"{start} its Gauss-Newton matrix is not J^T J of its Jacobian"
