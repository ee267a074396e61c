"""A step of training and a new context as what both are: the old regression problem with a shifted target (section G).

Task: keys A (n, d), parameter x (d,), logits z = A x, target b (n,) with <b, 1> = 1; u = phi(z), v = phi'(z),
alpha = <u, 1>, f = u / alpha, P = I - b 1^T. A move changes the logits by dz: dz = A dx when the parameter moves, dz =
dA x when the keys do (G.1). Either way the moved problem has the residual of the old one with target b + db, where

    softmax regression    db = f(z) - f(z + dz)                      (G.2)
    rescaled regression   db = P (u(z) - u(z + dz)) / alpha(z)       (G.3), the only such vector

Functions take NumPy or JAX arrays and answer in the same library; they are pure, so `jit` and `vmap` compose. `measure`
is the checked entrance for one move. Source: section 2.5 of the second paper (arXiv:2305.00660) states such bounds with
constants exp(O(R^2 + log n)); the bounds here are derived independently.
"""

from typing import NamedTuple

import numpy as np

from expreg import residual
from expreg.activation import ACTIVATIONS
from expreg.bounds import projection_norm
from expreg.errors import InputError, Problem, refuse
from expreg.types import Array

SMALLEST_ALPHA = 1e-3
"""sinh is refused where |<u, 1>| is less than this share of <|u|, 1>: the shift divides by alpha (G.11)."""
LARGEST_LOGIT = {"f32": 88.72, "f64": 709.78}
"""The largest z whose exponential is finite, by precision (E.34)."""
SUM_TOLERANCE = 1e-6
"""How far the sum of a target may be from one."""


class Bounds(NamedTuple):
    """Upper bounds of ||db||: `tight`, `rows` and `radius` of the rescaled shift, `softmax` of that of softmax."""

    tight: Array
    rows: Array
    softmax: Array
    radius: Array


class Shift(NamedTuple):
    """One measured move: norms of move and shifts, the bounds, and db itself (n,) for the rescaled problem (G.3)."""

    move: float
    shift: float
    shift_first_order: float
    shift_softmax: float
    bound_tight: float
    bound_rows: float
    bound_softmax: float
    bound_radius: float
    target_shift: Array


def relative_change(z: Array, dz: Array, activation: str = "exp") -> Array:
    """Return (u(z + dz) - u(z)) / alpha(z), shape (n,), without cancellation for small dz.

    phi'' = phi gives u(z + dz) - u(z) = 2 sinh(dz / 2) phi'(z + dz / 2) for exp, cosh and sinh alike.
    """
    xp = z.__array_namespace__()
    u, _, s = residual.stable(z, activation)
    _, v, s_middle = residual.stable(z + dz / 2, activation)
    return 2 * xp.sinh(dz / 2) * v * (xp.exp(s_middle - s) / xp.sum(u))


def rescaled(z: Array, dz: Array, b: Array, activation: str = "exp") -> Array:
    """Return db (n,) with u(z + dz) - alpha(z + dz) b = u(z) - alpha(z) (b + db) (G.3)."""
    change = relative_change(z, dz, activation)
    return b * z.__array_namespace__().sum(change) - change


def softmax(z: Array, dz: Array, activation: str = "exp") -> Array:
    """Return db = f(z) - f(z + dz), shape (n,) (G.2), without cancellation for small dz."""
    xp = z.__array_namespace__()
    change = relative_change(z, dz, activation)
    total = xp.sum(change)
    return (residual.softmax(z, activation) * total - change) / (1 + total)


def first_order(z: Array, dz: Array, b: Array, activation: str = "exp") -> Array:
    """Return the shift to first order in dz, -P diag(v) dz / alpha, shape (n,) (G.4); b = f(z): that of softmax."""
    xp = z.__array_namespace__()
    u, v, _ = residual.stable(z, activation)
    change = v * dz / xp.sum(u)
    return b * xp.sum(change) - change


def equivalent_data_move(x: Array, dz: Array) -> Array:
    """Return the dA (n, d) of least Frobenius norm with dA x = dz: the data move that is the weight move (G.5).

    With dz = A dx the shifts of x + dx and of A + dA are equal; ||dA||_F = ||dz|| / ||x||.
    """
    return dz[:, None] * (x / (x @ x))[None, :]


def alpha_share(z: Array, activation: str = "exp") -> Array:
    """Return |<u, 1>| / <|u|, 1> in [0, 1]: 1 for exp and cosh, near 0 where the sum of sinh cancels."""
    xp = z.__array_namespace__()
    u, _, _ = residual.stable(z, activation)
    size = xp.sum(xp.abs(u))
    return xp.abs(xp.sum(u)) / xp.where(size > 0, size, xp.ones_like(size))


def bounds(
    z: Array, dz: Array, b: Array, *, row_move: Array, move: Array, radius: Array, activation: str = "exp"
) -> Bounds:
    """Return the bounds of the shift that dz makes, scalars; inf where one overflows, nan where there is none.

    `row_move` bounds max |dz| by rows: ||A||_{2,inf} ||dx|| (G.7) or ||dA||_{2,inf} ||x|| (G.8). `move` is ||dx||
    or the spectral norm of dA (any larger norm will do); `radius` is an R that bounds ||A|| and ||x|| before and
    after the move. With e = expm1 and w = f (exp, cosh) or cosh(z) / |alpha| (sinh):

    - tight (G.6), (G.11): ||P|| min{ ||w|| e(max |dz|), max(w) ||e(dz)|| }, with |dz| for cosh and sinh
    - rows (G.7), (G.8): ||P|| ||w|| e(row_move)
    - softmax (G.9): ||dz|| / 2, of the softmax shift; sinh has none
    - radius (G.10): (1 + sqrt(n) ||b||) R e^{2 R^2} / n times `move`; cosh has e^{R^2} there because alpha >= n,
      sinh e^{R^2} / |alpha| in place of e^{2 R^2} / n: it knows no lower bound of alpha
    """
    xp, parity = z.__array_namespace__(), ACTIVATIONS[activation].parity
    u, v, s = residual.stable(z, activation)
    total, n, square = xp.abs(xp.sum(u)), z.shape[0], radius * radius
    w = (v if parity == "odd" else u) / total
    P = projection_norm(b)
    growth = xp.expm1(xp.abs(dz) if parity else dz)
    size = _norm(w)
    tight = P * xp.minimum(size * xp.expm1(xp.max(xp.abs(dz))), xp.max(w) * _norm(growth))
    half = _norm(dz) / 2
    over_alpha = xp.exp(square - s) / total if parity == "odd" else xp.exp(square if parity else 2 * square) / n
    return Bounds(
        tight=tight,
        rows=P * size * xp.expm1(row_move),
        softmax=half * xp.nan if parity == "odd" else half,
        radius=(1 + n**0.5 * _norm(b)) * radius * over_alpha * move,
    )


def activations() -> list[str]:
    """Return the names of the activations that the bounds are proven for: phi'' = phi, multiplicative, even or odd."""
    known = (ACTIVATIONS[name] for name in residual.activations())
    return [phi.name for phi in known if phi.second is None and (phi.multiplicative or phi.parity)]


def measure(A: Array, b: Array, x: Array, *, dx: Array = None, dA: Array = None, activation: str = "exp") -> Shift:
    """Measure one move of the parameter (`dx`, (d,)) or of the keys (`dA`, (n, d)) with all of its bounds, in float64.

    Raises InputError: not exactly one move, shapes that do not fit, fewer than two rows, values that are not finite, a
    target that does not sum to one, logits whose exponential overflows, alpha near zero (sinh).
    """
    A, b, x = (np.asarray(array, np.float64) for array in (A, b, x))
    if (dx is None) == (dA is None):
        raise InputError(Problem("E-MISSING", "got both or neither, expected exactly one of dx and dA", key="dx, dA"))
    step = np.asarray(dx if dA is None else dA, np.float64)
    found = problems(A, b, x, activation=activation)
    expected = x.shape if dA is None else A.shape
    if not found and step.shape != expected:
        name = "dx" if dA is None else "dA"
        found = [Problem("E-SHAPE", f"got {step.shape}, expected {expected}", key=name)]
    refuse(found)
    z = A @ x
    dz = A @ step if dA is None else step @ x
    if reason := logits_problem(z + dz, "after the move"):
        raise InputError(reason)
    norm_A, norm_x, move = np.linalg.norm(A, 2), _norm(x), float(np.linalg.norm(step, None if dA is None else 2))
    after = max(norm_A, norm_x + move) if dA is None else max(norm_A + move, norm_x)
    rows = _norm(A.T, axis=0).max() * move if dA is None else _norm(step.T, axis=0).max() * norm_x
    with np.errstate(over="ignore"):
        limit = bounds(z, dz, b, row_move=rows, move=move, radius=after, activation=activation)
    db = rescaled(z, dz, b, activation)
    return Shift(
        move=move,
        shift=float(_norm(db)),
        shift_first_order=float(_norm(first_order(z, dz, b, activation))),
        shift_softmax=float(_norm(softmax(z, dz, activation))),
        **{f"bound_{name}": float(value) for name, value in limit._asdict().items()},
        target_shift=db,
    )


def problems(A: Array, b: Array, x: Array, *, activation: str = "exp") -> list[Problem]:
    """Return what is wrong with a task, A (n, d), b (n,), x (d,), as NumPy arrays; an empty list if nothing is."""
    if activation not in (known := activations()):
        return [Problem("E-ENUM", f"got {activation!r}, expected one of {', '.join(known)}", key="activation")]
    if A.ndim != 2 or b.shape != A.shape[:1] or x.shape != A.shape[1:]:
        shapes = f"got A {A.shape}, b {b.shape}, x {x.shape}, expected (n, d), (n,), (d,)"
        return [Problem("E-SHAPE", shapes, key="A, b, x")]
    if len(A) < 2:
        return [Problem("E-RANGE", f"got a context of n = {len(A)} rows, expected 2 or more", key="A")]
    for name, array in (("A", A), ("b", b), ("x", x)):
        if not np.isfinite(array).all():
            return [Problem("E-FINITE", "has values that are not finite", key=name)]
    found = []
    if abs((total := float(b.sum())) - 1) > SUM_TOLERANCE:
        found.append(Problem("E-RANGE", f"sums to {total:.9g}, expected a target that sums to 1", key="b"))
    z = A @ x
    if reason := logits_problem(z, "at the start"):
        return [*found, reason]
    share = float(alpha_share(z, activation))
    if share < SMALLEST_ALPHA:
        message = f"is {share:.2g} of <|u|, 1> in size, expected {SMALLEST_ALPHA:g} or more: {activation} cancels"
        found.append(Problem("E-RANGE", message, key="alpha = <u, 1>"))
    return found


def logits_problem(z: Array, where: str) -> Problem | None:
    """Return the problem of logits whose exponential overflows float64, None if it does not (E.34)."""
    largest, limit = float(np.abs(z).max()), LARGEST_LOGIT["f64"]
    if largest <= limit:
        return None
    message = f"is {largest:.4g} {where}, expected at most {limit:g}: its exponential overflows f64"
    return Problem("E-RANGE", message, key="max |A x|")


def _norm(values: Array, axis: int | None = None) -> Array:
    xp = values.__array_namespace__()
    return xp.linalg.vector_norm(values, axis=axis)
