"""The solvers that people use today, on the same compiled derivatives, each stopped as soon as the judge is content.

Every peer gets the objective divided by its value at the start, so that no default of its own (a damping, a radius)
meets a loss of 1e-12; its own stopping rules are switched off, and the judge looks at every iterate instead.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expreg import residual, sparse

LARGEST = 4 * 2**30
"""Bytes that a dense Jacobian and the three arrays like it that a factorisation needs may take."""
MAX_STEPS = 100_000


class Objective(NamedTuple):
    """One problem as functions of x (d,), compiled; all scaled so that the value at the start is 1/2.

    `residual(x)` (n,); `jacobian(x)` (n, d); `forward(x, p)` = J p and `backward(x, y)` = J^T y; `value(x)` = (loss,
    gradient (d,)); `curvature(x, p)` = Hessian times p. `kind`: (loss, activation); `arguments`: the arrays.
    """

    residual: Callable[[Any], Any]
    jacobian: Callable[[Any], Any]
    forward: Callable[[Any, Any], Any]
    backward: Callable[[Any, Any], Any]
    value: Callable[[Any], Any]
    curvature: Callable[[Any, Any], Any]
    kind: tuple[str, str]
    arguments: Any
    shape: tuple[int, int]


Watch = Callable[[np.ndarray], None]
"""Look at an iterate; raises when it is accurate enough or the time is up."""


_compiled = partial(jax.jit, static_argnums=(0, 1))


def _outer(loss: str, activation: str, z: Any, b: Any) -> tuple[Any, Any, Any, Any]:
    """Return the residual r (n,) and v, L, R of its z-Jacobian diag(v) - L R^T."""
    at = residual.terms(z, b, loss, activation)
    v, L, M = residual.jacobian(at, loss)
    factor = jnp.exp(at.log_scale / 2)
    return factor * at.r, factor * v, factor * L, residual.scaled_curvature(at, loss, exact=False).Q @ M


@_compiled
def _residual(loss: str, activation: str, arguments: Any, x: Any) -> Any:
    A, b, scale = arguments
    return scale * _outer(loss, activation, sparse.matvec(A, x), b)[0]


@_compiled
def _jacobian(loss: str, activation: str, arguments: Any, x: Any) -> Any:
    A, b, scale = arguments
    _, v, L, R = _outer(loss, activation, sparse.matvec(A, x), b)
    rows = sparse.to_dense(sparse.scale_rows(A, v))
    return scale * (rows - sum(jnp.outer(left, sparse.rmatvec(A, right)) for left, right in zip(L.T, R.T, strict=True)))


@_compiled
def _forward(loss: str, activation: str, arguments: Any, x: Any, p: Any) -> Any:
    A, b, scale = arguments
    _, v, L, R = _outer(loss, activation, sparse.matvec(A, x), b)
    t = sparse.matvec(A, p)
    return scale * (v * t - L @ (R.T @ t))


@_compiled
def _backward(loss: str, activation: str, arguments: Any, x: Any, y: Any) -> Any:
    A, b, scale = arguments
    _, v, L, R = _outer(loss, activation, sparse.matvec(A, x), b)
    return scale * sparse.rmatvec(A, v * y - R @ (L.T @ y))


@_compiled
def _value(loss: str, activation: str, arguments: Any, x: Any) -> tuple[Any, Any]:
    A, b, scale = arguments
    z = sparse.matvec(A, x)
    gradient = sparse.rmatvec(A, residual.gradient(z, b, loss, activation))
    return scale**2 * residual.loss_value(z, b, loss, activation), scale**2 * gradient


@_compiled
def _curvature(loss: str, activation: str, arguments: Any, x: Any, p: Any) -> Any:
    A, b, scale = arguments
    found = residual.curvature(sparse.matvec(A, x), b, loss, activation)
    t = sparse.matvec(A, p)
    return scale**2 * sparse.rmatvec(A, found.diagonal * t + found.Q @ (found.S @ (found.Q.T @ t)))


def objective(A: Any, b: np.ndarray, loss: str, activation: str, x0: np.ndarray) -> Objective:
    """Return the functions of one problem; A is a device array or a Sparse of device arrays."""
    kind = (loss, activation)
    start = np.linalg.norm(np.asarray(_residual(*kind, (A, jnp.asarray(b), jnp.asarray(1.0)), jnp.asarray(x0))))
    arguments = (A, jnp.asarray(b), jnp.asarray(1 / start))
    bound = [partial(f, *kind, arguments) for f in (_residual, _jacobian, _forward, _backward, _value, _curvature)]
    return Objective(bound[0], bound[1], bound[2], bound[3], bound[4], bound[5], kind, arguments, A.shape)


# --- SciPy ------------------------------------------------------------------------------------------


def trust_region_exact(problem: Objective, x0: np.ndarray, watch: Watch) -> None:
    """SciPy least_squares, trust region reflective, exact steps by a singular value decomposition of J."""
    _trf(problem, x0, watch, lambda x: np.asarray(problem.jacobian(x)), "exact")


def trust_region_lsmr(problem: Objective, x0: np.ndarray, watch: Watch) -> None:
    """SciPy least_squares, trust region reflective, steps by LSMR on products with J."""
    linalg: Any = import_module("scipy.sparse.linalg")

    def jacobian(x: np.ndarray) -> Any:
        at = np.array(x)
        return linalg.LinearOperator(
            problem.shape,
            matvec=lambda p: np.asarray(problem.forward(at, np.ravel(p))),
            rmatvec=lambda y: np.asarray(problem.backward(at, np.ravel(y))),
            dtype=np.float64,
        )

    _trf(problem, x0, watch, jacobian, "lsmr")


def _trf(problem: Objective, x0: np.ndarray, watch: Watch, jacobian: Callable, solver: str) -> None:
    optimize: Any = import_module("scipy.optimize")  # its stubs know neither a loop over methods nor operators

    def watched(x: np.ndarray) -> Any:  # the Jacobian is asked for at every accepted point
        watch(x)
        return jacobian(x)

    limits = {"ftol": None, "gtol": None, "xtol": 3e-16, "max_nfev": MAX_STEPS}
    optimize.least_squares(lambda x: np.asarray(problem.residual(x)), x0, watched, tr_solver=solver, **limits)


def _minimise(method: str, options: dict[str, Any], problem: Objective, x0: np.ndarray, watch: Watch) -> None:
    """SciPy minimize; trust-ncg takes Newton steps by truncated conjugate gradients on Hessian products."""
    optimize: Any = import_module("scipy.optimize")

    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        loss, gradient = problem.value(x)
        return float(loss), np.asarray(gradient)

    def curvature(x: np.ndarray, p: np.ndarray) -> np.ndarray:
        return np.asarray(problem.curvature(x, p))

    more: dict[str, Any] = {"hessp": curvature} if method == "trust-ncg" else {}
    options = {"maxiter": MAX_STEPS, **options}
    optimize.minimize(
        value, x0, jac=True, method=method, callback=lambda x: watch(np.array(x)), options=options, **more
    )


# --- optimistix -------------------------------------------------------------------------------------


def _step_by_step(name: str, problem: Objective, x0: np.ndarray, watch: Watch) -> None:
    """Run an optimistix solver as its documentation does interactively, one compiled step at a time."""
    x: Any = jnp.asarray(x0)
    start, step = _step_of(name, *problem.kind, problem.shape, x, problem.arguments)
    state = start
    for _ in range(MAX_STEPS):
        x, state, _ = step(x, problem.arguments, state)
        watch(np.asarray(x))


_steps: dict[tuple, tuple[Any, Callable]] = {}
"""First states and compiled steps; only those of the current problem, so that its arrays can be freed."""


def _step_of(name: str, loss: str, activation: str, shape: tuple[int, int], x: Any, arguments: Any) -> Any:
    """Return the first state and the step; kept, because optimistix compares what it compiled by identity."""
    import equinox
    import optimistix

    key = (name, loss, activation, shape)
    if key in _steps:
        return _steps[key]
    for other in [other for other in _steps if other[1:] != key[1:]]:
        del _steps[other]
    solver = getattr(optimistix, name)(rtol=1e-15, atol=1e-15)
    tags: frozenset[object] = frozenset()

    def function(x: Any, arguments: Any) -> tuple[Any, None]:
        r = _residual(loss, activation, arguments, x)
        return (0.5 * r @ r if name == "BFGS" else r), None

    shapes = jax.eval_shape(lambda: function(x, arguments)[0])
    first = solver.init(function, x, arguments, {}, shapes, None, tags)
    step = equinox.filter_jit(lambda x, arguments, state: solver.step(function, x, arguments, {}, state, tags))
    _steps[key] = first, step
    return first, step


class Peer(NamedTuple):
    """A solver by name: how to run it, whether it needs a dense n x d Jacobian, the package it comes from."""

    run: Callable[[Objective, np.ndarray, Watch], None]
    dense: bool
    package: str


_LBFGS = partial(_minimise, "L-BFGS-B", {"ftol": 0, "gtol": 0, "maxfun": MAX_STEPS})
PEERS: dict[str, Peer] = {
    "scipy trf": Peer(trust_region_exact, dense=True, package="scipy"),
    "scipy lsmr": Peer(trust_region_lsmr, dense=False, package="scipy"),
    "scipy l-bfgs-b": Peer(_LBFGS, dense=False, package="scipy"),
    "scipy trust-ncg": Peer(partial(_minimise, "trust-ncg", {"gtol": 0}), dense=False, package="scipy"),
    "optimistix lm": Peer(partial(_step_by_step, "LevenbergMarquardt"), dense=True, package="optimistix"),
    "optimistix gn": Peer(partial(_step_by_step, "GaussNewton"), dense=True, package="optimistix"),
    "optimistix bfgs": Peer(partial(_step_by_step, "BFGS"), dense=False, package="optimistix"),
}


def missing(peer: Peer, shape: tuple[int, int]) -> str | None:
    """Return why a peer cannot take part, or None."""
    if find_spec(peer.package) is None:
        return f"{peer.package} is not installed; it is in the extra `bench`"
    needed = 4 * 8 * shape[0] * shape[1]
    if peer.dense and needed > LARGEST:
        return f"its dense Jacobian and three arrays like it take {needed / 2**30:.1f} GiB, the limit is 4"
    return None
