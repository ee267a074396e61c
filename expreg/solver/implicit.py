"""The derivative of a minimiser x in A, b and weights by the implicit function theorem, and `solve` under a trace.

Where grad L(x; A, b, w) = 0 and its Hessian H is regular, dx = -H^{-1} d(grad L) with x fixed on the right. H is the
exact one (E.4)-(E.13): the Gauss-Newton matrix would be wrong wherever the residual is not zero.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve

from expreg import residual
from expreg.errors import InputError
from expreg.errors import Problem as Wrong
from expreg.solver import newton, validate
from expreg.solver.compiled import REPORTED, of_make, program
from expreg.solver.method import TRACED, column_norms
from expreg.solver.solution import Solution, traced
from expreg.solver.state import Objective, Problem, State, first_state, ridge
from expreg.sparse import Sparse, from_any, matvec, rmatvec
from expreg.types import Array, Status


def solve(
    alone: Callable[..., Any], A: Any, b: Any, weights: Any, x0: Any, *, starts: int, tol: float, **options: Any
) -> Solution:
    """Return the solution of arrays of which some are traced, its numbers differentiable in A, b and weights.

    `alone` finds it where there are numbers behind the tracers, as under grad; a compiled program does under jit and
    vmap: `status` is then a number of `Status`, `message` None.
    """
    if np.ndim(A) == 3 or np.ndim(b) == 2:
        one = lambda A, b: solve(alone, A, b, weights, x0, starts=starts, tol=tol, **options)  # noqa: E731
        return jax.vmap(one)(A, b) if np.ndim(A) == 3 else jax.vmap(partial(one, A), 1)(b)
    loss, activation, names = options["loss"], options["activation"], ("solver", "sketch", "key")
    validate.settings(loss, activation, *(options[name] for name in names), starts=starts)
    A0, b0, w0, start = (jax.lax.stop_gradient(each) if traced(each) else each for each in (A, b, weights, x0))
    unknown = traced(A0, b0, w0, start)
    if unknown and starts > 1:  # before anything is traced: an error within it breaks what JAX keeps of other calls
        raise InputError(Wrong("E-RANGE", f"got {starts} under jit or vmap, expected 1; vmap over x0", key="starts"))
    A, b, w = _arrays(A, b, weights)
    if unknown:
        found, why = _program(tol, options, *jax.lax.stop_gradient((A, b, w)), start), ""
        isolated: Any = found.status == jnp.asarray(int(Status.converged))
    else:
        found = alone(A0, b0, weights=w0, x0=start, starts=starts, tol=tol, **options)
        why = "" if found.status == "converged" else f"the status is {found.status}"
        isolated = jnp.asarray(not why)
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
    A = jax.tree.map(jnp.asarray, from_any(A)) if hasattr(A, "ndim") else jnp.asarray(A)
    real = A.dtype if jnp.issubdtype(A.dtype, jnp.floating) else jnp.zeros(0).dtype
    A = A if A.dtype == real else A.astype(real)
    b, w = (None if each is None else jnp.asarray(each, real) for each in (b, weights))
    w = None if w is None else jnp.broadcast_to(w, A.shape[:1]) if w.ndim == 0 else w
    for key, each in (("b", b), ("weights", w)):
        if each is not None and each.shape != A.shape[:1]:
            raise InputError(Wrong("E-SHAPE", f"got shape {each.shape} for an A of shape {A.shape}", key=key))
    return A, b, w


def _program(tol: float, options: dict[str, Any], A: Any, b: Array, w: Any, x0: Any) -> Solution:
    """Return the solution by the compiled program."""
    key = jax.random.key(options["key"] or 0) if isinstance(options["key"], int | None) else options["key"]
    x0, least = None if x0 is None else jnp.asarray(x0, b.dtype), validate.tolerance(tol, b.dtype)
    end = program(**of_make(options, A))(A, b, w, x0, key, jnp.asarray(least, b.dtype))
    sizes = {name: getattr(end, name) for name in ("x", "status", "gradient_norm", "decrement")}
    later: Any = dict.fromkeys(("message", "loss", *REPORTED))  # they depend on x, and are differentiable with it
    return Solution(**sizes, **later, steps=end.step, history=[])


# --- the derivative -------------------------------------------------------------------------------


@partial(jax.jit, static_argnums=0)
def _at(kind: Objective, A: Any, b: Array, w: Array | None, x: Array, isolated: Array) -> tuple[State, Array, Array]:
    """Return the state at x, the Cholesky factor of its Hessian, of unit columns, and whether that is regular."""
    least = jax.lax.stop_gradient(residual.least_scale(b, w, kind.loss))
    state = first_state(kind, Problem(A, b, w, jnp.zeros_like(b[0]), column_norms(A), None, least), x, None)
    inverse, (n, d) = 1 / state.problem.norms, A.shape
    factor = jnp.linalg.cholesky(inverse[:, None] * newton.hessian(kind, state) * inverse)
    unit = jnp.maximum(2 * state.point.size / n, jnp.sum(factor**2) / d)  # of the terms that cancel, and of the rest
    pivot, eps = jnp.min(jnp.diagonal(factor)) ** 2, jnp.finfo(b.dtype).eps
    good = isolated & (pivot > max(newton.SINGULAR, 4 * d) * eps * unit)
    return state, jnp.where(good, factor, jnp.nan), good


@partial(jax.jit, static_argnums=0)
def _moved(kind: Objective, state: State, factor: Array, dA: Any, db: Any, dw: Any) -> Array:
    """Return dx = -H^{-1} d(grad L), linear in (dA, db, dw); dA is None for a sparse A, which is a constant."""
    (A, b, w, _, norms, _, least), z, at = state.problem, state.point.z, state.point.at
    heavy, (diagonal, Q, S) = ridge(kind, state.problem, at), residual.scaled_curvature(at, kind.loss)

    def slope(b: Array) -> Array:  # z is fixed, so that phi is not differentiated: the curvature has its derivatives
        again = residual.terms(z, b, kind.loss, kind.activation, least)
        return again.v * again.c

    change = jax.jvp(slope, (b,), (db,))[1]
    if w is not None:
        change = change + 2 * jnp.exp(-at.log_scale) * w * z * dw
    if dA is not None:
        dz = dA @ state.x
        change = change + (diagonal + heavy) * dz + Q @ (S @ (dz @ Q))
    total = rmatvec(A, change) if dA is None else rmatvec(A, change) + (at.v * at.c + heavy * z) @ dA
    return -cho_solve((factor, True), total / norms) / norms


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def minimiser(kind: Objective, why: str, A: Any, b: Array, w: Array | None, x: Array, isolated: Array) -> Array:
    """Return x, the minimiser for A, b and w, with its derivative: nan if it is not `isolated` or H is singular.

    Outside of jit and vmap a warning says so, with the reason `why` if one is known.
    """
    del kind, why, A, b, w, isolated
    return x


@minimiser.defjvp
def _(kind: Objective, why: str, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    A, b, w, _, isolated = primals
    x = minimiser(kind, why, *primals)
    state, factor, good = _at(kind, A, b, w, x, isolated)
    if not traced(good) and not good:
        reason = why or "its Hessian is singular to rounding, so that x is no isolated minimum"
        warnings.warn(f"the derivative of x is nan: {reason}", UserWarning, stacklevel=2)
    return x, _moved(kind, state, factor, None if isinstance(A, Sparse) else tangents[0], *tangents[1:3])
