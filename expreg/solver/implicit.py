"""The derivative of a minimiser x in A, b and weights by the implicit function theorem, and `solve` under a trace.

Where grad L(x; A, b, w) = 0 and its Hessian H is regular, dx = -H^{-1} d(grad L) with x fixed on the right. H is the
exact one (E.4)-(E.13): the Gauss-Newton matrix would be wrong wherever the residual is not zero.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve

from expreg import residual
from expreg.errors import InputError
from expreg.errors import Problem as Wrong
from expreg.solver import newton, validate
from expreg.solver.compiled import REPORTED, program
from expreg.solver.method import TRACED, column_norms
from expreg.solver.records import MAX_STEPS
from expreg.solver.solution import Solution, traced
from expreg.solver.state import Objective, Problem, first_state, ridge
from expreg.sparse import Sparse, from_any, matvec, rmatvec
from expreg.types import Array, Status

SINGULAR = 300  # units of rounding below which a pivot of the Hessian, of unit columns, is taken for 0


def solve(
    alone: Callable[..., Solution], A: Any, b: Any, weights: Any, x0: Any, *, starts: int, tol: float, **options: Any
) -> Solution:
    """Return the solution of arrays of which some are traced, its numbers differentiable in A, b and weights.

    `alone` finds it where there are numbers behind the tracers, as under grad; a compiled program does under jit and
    vmap: `status` is then a number of `Status`, `message` None.
    """
    if np.ndim(b) == 2 or np.ndim(A) == 3:
        axes = (0, 0) if np.ndim(A) == 3 else (None, 1)
        one = partial(solve, alone, weights=weights, x0=x0, starts=starts, tol=tol, **options)
        return jax.vmap(lambda A, b: one(A, b), axes)(A, b)
    loss, activation = options["loss"], options["activation"]
    numbers = [jax.lax.stop_gradient(each) if traced(each) else each for each in (A, b, weights, x0)]
    validate.settings(loss, activation, options["solver"], options["sketch"], options["key"], starts=starts)
    A, b, w = _arrays(A, b, weights)
    if traced(numbers):
        found = _program(starts, tol, options, jax.lax.stop_gradient((A, b, w)), numbers[3])
        isolated, why = found.status == int(Status.converged), ""
    else:
        A0, b0, w0, start = numbers
        found = alone(A0, b0, weights=w0, x0=start, starts=starts, tol=tol, **options)
        isolated = jnp.asarray(found.status == "converged")
        why = "" if isolated else f"the status is {found.status}"
    with jax.default_matmul_precision("highest"):
        kind = Objective(loss, activation, True, TRACED)
        x = minimiser(kind, why, A, b, w, jnp.asarray(found.x, b.dtype), isolated)
        return found._replace(x=x, **_reported(loss, activation, A, b, w, x))


@partial(jax.jit, static_argnums=(0, 1))
def _reported(loss: str, activation: str, A: Any, b: Array, w: Array | None, x: Array) -> dict[str, Array]:
    z = matvec(A, x)
    extra = 0 if w is None else jnp.sum((w * z) ** 2) / 2
    found = residual.summary(z, b, activation)
    value = residual.loss_value(z, b, loss, activation) + extra
    return {"loss": value, **{name: found[name] for name in REPORTED}}


def _arrays(A: Any, b: Any, weights: Any) -> tuple[Any, Array, Array | None]:
    """Return A (n, d), b (n,) and w (n,) as arrays of JAX of one type; raise InputError for other shapes."""
    A = jax.tree.map(jnp.asarray, from_any(A))
    real = A.dtype if jnp.issubdtype(A.dtype, jnp.floating) else jnp.zeros(0).dtype
    A = A if A.dtype == real else A.astype(real)
    b, w = (None if each is None else jnp.asarray(each, real) for each in (b, weights))
    w = None if w is None else jnp.broadcast_to(w, A.shape[:1]) if w.ndim == 0 else w
    for key, each in (("b", b), ("weights", w)):
        if each is not None and each.shape != A.shape[:1]:
            raise InputError(Wrong("E-SHAPE", f"got shape {each.shape} for an A of shape {A.shape}", key=key))
    return A, b, w


def _program(starts: int, tol: float, options: dict[str, Any], arrays: Any, x0: Any) -> Solution:
    """Return the solution by the compiled program."""
    (A, b, w), key = arrays, options["key"]
    given = {name: options[name] for name in ("loss", "activation", "solver", "sketch", "sketch_size")}
    solved = program(starts, **given, max_steps=options["max_steps"] or MAX_STEPS)
    key = jax.random.key(key or 0) if key is None or isinstance(key, int) else key
    x0 = None if x0 is None else jnp.asarray(x0, b.dtype)
    end = solved(A, b, w, x0, key, jnp.asarray(validate.tolerance(tol, b.dtype), b.dtype))
    sizes = {name: getattr(end, name) for name in ("x", "status", "gradient_norm", "decrement")}
    later: Any = dict.fromkeys(("message", "loss", *REPORTED))  # they depend on x, and are differentiable with it
    return Solution(**sizes, **later, steps=end.step, history=[])


# --- the derivative -------------------------------------------------------------------------------


class _At(NamedTuple):
    """What the derivative at x is made of, all divided by e^{log_scale}: curvature in z, Cholesky factor in x."""

    z: Array
    slope: Array
    curve: residual.Curvature
    square: Array  # e^{-log_scale}
    least: Array | None
    inverse: Array  # 1 / ||a_j||
    factor: Array
    good: Array


@partial(jax.jit, static_argnums=0)
def _at(kind: Objective, A: Any, b: Array, w: Array | None, x: Array, isolated: Array) -> _At:
    least = jax.lax.stop_gradient(residual.least_scale(b, w, kind.loss))
    problem = Problem(A, b, w, jnp.zeros_like(b[0]), column_norms(A), None, least)
    state = first_state(kind, problem, x, None)
    point, (n, d) = state.point, A.shape
    at, heavy, inverse = point.at, ridge(kind, problem, point.at), 1 / problem.norms
    factor = jnp.linalg.cholesky(inverse[:, None] * newton.hessian(kind, state) * inverse)
    eps, unit = jnp.finfo(b.dtype).eps, 2 * point.size / n
    pivot = jnp.min(jnp.diagonal(factor)) ** 2
    good = isolated & (pivot > max(SINGULAR, 4 * d) * eps * jnp.maximum(unit, jnp.sum(factor**2) / d))
    curve = residual.scaled_curvature(at, kind.loss)
    curve = curve._replace(diagonal=curve.diagonal + heavy)
    slope, square = at.v * at.c + heavy * point.z, jnp.exp(-at.log_scale)
    return _At(point.z, slope, curve, square, least, inverse, jnp.where(good, factor, jnp.nan), good)


@partial(jax.jit, static_argnums=0)
def _moved(
    kind: Objective, found: _At, A: Any, b: Array, w: Array | None, x: Array, dA: Any, db: Any, dw: Any
) -> Array:
    """Return dx, linear in (dA, db, dw); dA is None for an A that is not differentiated."""

    def slope(b: Array) -> Array:  # with z fixed, so that phi is not differentiated here: `curve` has it
        at = residual.terms(found.z, b, kind.loss, kind.activation, found.least)
        return at.v * at.c

    change = jax.jvp(slope, (b,), (db,))[1]
    if w is not None:
        change = change + 2 * found.square * w * found.z * dw
    total = jnp.zeros_like(x)
    if dA is not None:
        dz, (diagonal, Q, S) = dA @ x, found.curve
        change = change + diagonal * dz + Q @ (S @ (dz @ Q))
        total = found.slope @ dA
    total = total + rmatvec(A, change)
    return -found.inverse * cho_solve((found.factor, True), found.inverse * total)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def minimiser(kind: Objective, why: str, A: Any, b: Array, w: Array | None, x: Array, isolated: Array) -> Array:
    """Return x, a minimiser for these A, b and w, with its derivative; nan for one that is not `isolated`.

    Nor is it where the Hessian is singular. Warns of that if anything but tracers says so, with the reason `why`.
    """
    del kind, why, A, b, w, isolated
    return x


@minimiser.defjvp
def _(kind: Objective, why: str, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    A, b, w, x, isolated = primals
    x = minimiser(kind, why, *primals)
    found = _at(kind, A, b, w, x, isolated)
    if not isinstance(found.good, jax.core.Tracer) and not found.good:
        reason = why or "its Hessian is singular to rounding, so that x is no isolated minimum"
        warnings.warn(f"the derivative of x is nan: {reason}", UserWarning, stacklevel=2)
    dA, db, dw = tangents[:3]
    return x, _moved(kind, found, A, b, w, x, None if isinstance(A, Sparse) else dA, db, dw)
