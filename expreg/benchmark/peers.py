"""The solvers that people use today, each stopped as soon as the judge is content.

All but one use the same compiled derivatives; `numpy l-bfgs-b` is what one writes in ten lines of NumPy.

Every peer gets the objective divided by its value at the start, so that no default of its own (a damping, a radius)
meets a loss of 1e-12; its own stopping rules are switched off, and the judge looks at every iterate instead.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expreg import residual, sparse

LARGEST = 4 * 2**30  # bytes that a dense Jacobian and the three arrays like it that a factorisation needs may take
MAX_STEPS = 100_000

Watch = Callable[[np.ndarray], None]
"""Look at an iterate; raises when it is accurate enough or the time is up."""


@partial(jax.tree_util.register_dataclass, data_fields=("A", "b", "scale"), meta_fields=("loss", "activation"))
@dataclass(frozen=True)
class Objective:
    """One problem as compiled functions of x (d,), its residual multiplied by `scale`."""

    A: Any
    b: Any
    scale: Any
    loss: str
    activation: str

    def _parts(self, x: Any) -> tuple[Any, Any, Any, Any]:
        """Return the residual r (n,) and v, L, R of its z-Jacobian diag(v) - L R^T."""
        at = residual.terms(sparse.matvec(self.A, x), self.b, self.loss, self.activation)
        v, L, M = residual.jacobian(at, self.loss)
        scale = self.scale * jnp.exp(at.log_scale / 2)
        return scale * at.r, scale * v, scale * L, residual.scaled_curvature(at, self.loss, exact=False).Q @ M

    @jax.jit
    def residual(self, x: Any) -> Any:
        """Return r (n,)."""
        return self._parts(x)[0]

    @jax.jit
    def jacobian(self, x: Any) -> Any:
        """Return J (n, d), dense."""
        _, v, L, R = self._parts(x)
        low = (jnp.outer(left, sparse.rmatvec(self.A, right)) for left, right in zip(L.T, R.T, strict=True))
        return sparse.to_dense(sparse.scale_rows(self.A, v)) - sum(low)

    @jax.jit
    def forward(self, x: Any, p: Any) -> Any:
        """Return J p."""
        _, v, L, R = self._parts(x)
        t = sparse.matvec(self.A, p)
        return v * t - L @ (R.T @ t)

    @jax.jit
    def backward(self, x: Any, y: Any) -> Any:
        """Return J^T y."""
        _, v, L, R = self._parts(x)
        return sparse.rmatvec(self.A, v * y - R @ (L.T @ y))

    @jax.jit
    def value(self, x: Any) -> tuple[Any, Any]:
        """Return the loss and its gradient (d,)."""
        given = sparse.matvec(self.A, x), self.b, self.loss, self.activation
        gradient = sparse.rmatvec(self.A, residual.gradient(*given))
        return self.scale**2 * residual.loss_value(*given), self.scale**2 * gradient

    @jax.jit
    def curvature(self, x: Any, p: Any) -> Any:
        """Return the Hessian times p."""
        found = residual.curvature(sparse.matvec(self.A, x), self.b, self.loss, self.activation)
        t = sparse.matvec(self.A, p)
        return self.scale**2 * sparse.rmatvec(self.A, found.diagonal * t + found.Q @ (found.S @ (found.Q.T @ t)))


def objective(A: Any, b: np.ndarray, loss: str, activation: str, x0: np.ndarray) -> Objective:
    """Return one problem, its loss 1/2 at x0; A is a device array or a Sparse of device arrays."""
    plain = Objective(A, jnp.asarray(b), jnp.asarray(1.0), loss, activation)
    return replace(plain, scale=1 / jnp.linalg.norm(plain.residual(x0)))


def _trust_region(steps: str, problem: Objective, x0: np.ndarray, watch: Watch) -> None:
    """SciPy least_squares, trust region reflective, by singular values of J (exact) or LSMR on products with it."""
    optimize, linalg = _scipy("optimize"), _scipy("sparse.linalg")

    def jacobian(x: np.ndarray) -> Any:  # asked for at every accepted point
        watch(x)
        if steps == "exact":
            return np.asarray(problem.jacobian(x))
        at = np.array(x)
        return linalg.LinearOperator(
            problem.A.shape,
            matvec=lambda p: np.asarray(problem.forward(at, np.ravel(p))),
            rmatvec=lambda y: np.asarray(problem.backward(at, np.ravel(y))),
            dtype=np.float64,
        )

    limits = {"ftol": None, "gtol": None, "xtol": 3e-16, "max_nfev": MAX_STEPS}
    optimize.least_squares(lambda x: np.asarray(problem.residual(x)), x0, jacobian, tr_solver=steps, **limits)


def _minimise(method: str, options: dict[str, Any], problem: Objective, x0: np.ndarray, watch: Watch) -> None:
    """SciPy minimize; trust-ncg takes Newton steps by truncated conjugate gradients on Hessian products."""

    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        loss, gradient = problem.value(x)
        return float(loss), np.asarray(gradient)

    _scipy("optimize").minimize(
        value,
        x0,
        jac=True,
        method=method,
        hessp=(lambda x, p: np.asarray(problem.curvature(x, p))) if method == "trust-ncg" else None,
        callback=lambda x: watch(np.array(x)),
        options={"maxiter": MAX_STEPS, **options},
    )


def _lean(problem: Objective, x0: np.ndarray, watch: Watch) -> None:
    """SciPy's L-BFGS-B on plain NumPy: one pass forth and one back per evaluation, nothing compiled, no callback."""
    A = sparse.to_scipy(problem.A) if isinstance(problem.A, sparse.Sparse) else np.asarray(problem.A)
    b, scale = np.asarray(problem.b), float(problem.scale)

    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        loss, g = plain(A @ x, b, problem.loss, problem.activation)
        return scale**2 * loss, scale**2 * (A.T @ g)

    options: Any = {"maxiter": MAX_STEPS, **_LBFGS}
    _scipy("optimize").minimize(value, x0, jac=True, method="L-BFGS-B", callback=watch, options=options)


def plain(z: np.ndarray, b: np.ndarray, loss: str, activation: str) -> tuple[float, np.ndarray]:
    """Return a loss and its z-gradient as one writes them down, without care for overflow and by no code of ours."""
    u = {"exp": np.exp, "cosh": np.cosh, "sinh": np.sinh}[activation](z)
    v = {"exp": lambda: u, "cosh": lambda: np.sinh(z), "sinh": lambda: np.cosh(z)}[activation]()
    if loss == "exponential":
        r = u - b
        return r @ r / 2, v * r
    total = u.sum()
    if loss == "rescaled":
        r = u - total * b
        return r @ r / 2, v * (r - b @ r)
    f = u / total
    r = f - b
    return r @ r / 2, v * (r - f @ r) / total


def _scipy(module: str) -> Any:
    return import_module(f"scipy.{module}")  # its stubs know neither a loop over methods nor operators


def _step_by_step(name: str, problem: Objective, x0: np.ndarray, watch: Watch) -> None:
    """Run an optimistix solver as its documentation does interactively, one compiled step at a time."""
    kind = (problem.loss, problem.activation, problem.A.shape)
    if kind not in _compiled:
        _compiled.clear()
    made, x = _compiled.setdefault(kind, {}), jnp.asarray(x0)
    if name not in made:
        made[name] = _first_state_and_step(name, problem, x)
    state, step = made[name]
    for _ in range(MAX_STEPS):
        x, state, _ = step(x, problem, state)
        watch(np.asarray(x))


_compiled: dict[tuple, dict[str, tuple[Any, Callable]]] = {}
"""First states and steps, of the current kind of problem only, so that arrays can be freed.

Kept because optimistix compares what it compiled by identity.
"""


def _first_state_and_step(name: str, problem: Objective, x: Any) -> tuple[Any, Callable]:
    import equinox
    import optimistix

    solver = getattr(optimistix, name)(rtol=1e-15, atol=1e-15)
    tags: frozenset[object] = frozenset()

    def function(x: Any, problem: Objective) -> tuple[Any, None]:
        r = problem.residual(x)
        return (0.5 * r @ r if name == "BFGS" else r), None

    shapes = jax.eval_shape(lambda: function(x, problem)[0])
    first = solver.init(function, x, problem, {}, shapes, None, tags)
    return first, equinox.filter_jit(lambda x, problem, state: solver.step(function, x, problem, {}, state, tags))


class Peer(NamedTuple):
    """A solver by name: how to run it, whether it needs a dense n x d Jacobian, the package it comes from."""

    run: Callable[[Objective, np.ndarray, Watch], None]
    dense: bool
    package: str


_LBFGS = {"ftol": 0, "gtol": 0, "maxfun": MAX_STEPS}
PEERS: dict[str, Peer] = {
    "scipy trf": Peer(partial(_trust_region, "exact"), dense=True, package="scipy"),
    "scipy lsmr": Peer(partial(_trust_region, "lsmr"), dense=False, package="scipy"),
    "scipy l-bfgs-b": Peer(partial(_minimise, "L-BFGS-B", _LBFGS), dense=False, package="scipy"),
    "numpy l-bfgs-b": Peer(_lean, dense=False, package="scipy"),
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
