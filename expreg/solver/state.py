"""What a solver holds between two steps, and the objective that all of them share.

The objective is loss(A x) + 1/2 ||diag(w) A x||^2 (E.3). All of it is kept divided by e^{log_scale} of the
loss (E.33), so that logits of several hundred neither overflow nor vanish.
"""

from collections.abc import Callable, Iterable, Sequence
from math import log
from typing import Any, NamedTuple

from expreg import residual
from expreg.activation import Activation, lookup
from expreg.residual import LOSSES, Terms
from expreg.types import Array, Status, Tree

COLLAPSED = (
    1e-6  # a rescaled problem has collapsed where alpha < 1e-6 n though the softmax residual is not small (E.37)
)
SLIGHT = 1e-3  # of an even phi, the logits below which a relative gradient is not relative to phi' any more
DIVERGED = 1e10  # a run has diverged where its objective is this many times that of its start


class Backend(NamedTuple):
    """The operations by which one step function serves NumPy on the host and traced JAX.

    - `xp`: the array namespace.
    - `matvec(A, x)`: A x; `rmatvec(A, Y)`: A^T Y for Y of shape (n,) or (n, k).
    - `gram(A, w)`: A^T diag(w) A for weights of any sign.
    - `product(A, D, p)`: (A^T (D o A p), A p), in one pass over A where that is possible.
    - `factor(H)`: (Cholesky factor, whether H is positive definite); `backsolve(L, r)`: (L L^T)^{-1} r.
    - `while_loop(condition, body, state)`: as jax.lax.while_loop.
    - `each(function, values)`: an iterable of function(value), one after the other: batched factorisations of one
      program that do not depend on each other may block each other on a CPU.
    """

    xp: Any
    matvec: Callable[[Any, Array], Array]
    rmatvec: Callable[[Any, Array], Array]
    gram: Callable[[Any, Array], Array]
    product: Callable[[Any, Array, Array], tuple[Array, Array]]
    factor: Callable[[Array], tuple[Array, Array]]
    backsolve: Callable[[Array, Array], Array]
    while_loop: Callable[[Callable, Callable, Tree], Tree]
    each: Callable[[Callable, Sequence[float]], Iterable[Tree]]


class Problem(NamedTuple):
    """What stays fixed: A (n, d), b (n,), weights w (n,) or None, the tolerance, column norms (d,), a random key.

    `least` is that of `residual.least_scale`, None where it is not known yet.
    """

    A: Any
    b: Array
    weights: Array | None
    tol: Array
    norms: Array
    key: Any
    least: Array | None = None


class Point(NamedTuple):
    """Everything known at one x; `objective` and `gradient` are divided by e^{at.log_scale}.

    - `z` (n,): A x. `at`: the terms of the loss.
    - `gradient` (d,): A^T (v o c + e^{-log_scale} w^2 o z) (E.4).
    - `size`: what `objective` would be without cancellation between u and its target.
    - `relative`: the largest |gradient_j| / (||a_j|| n^-1/2 sum_i |v_i| (|u_i| + |u_i - r_i|)), which tol is compared
      with: the denominator is the sum that makes the gradient, without cancellation, for entries of one size.
    """

    x: Array
    z: Array
    at: Terms
    objective: Array
    size: Array
    gradient: Array
    relative: Array


class State(NamedTuple):
    """Where a solver is; `loss` and `gradient_norm` are those of the objective itself, unscaled.

    `decrement` is 1/2 g^T H^{-1} g, how much the quadratic model expected to gain at the last step (F.14),
    `damping` the multiple of the identity added to a scaled H (F.13), `pivot` the smallest pivot of that matrix
    relative to its diagonal, 0 where it was damped, `moved` how far the last step moved a logit at the most, `passes`
    how often A was read, `memory` whatever else the method carries.
    """

    problem: Problem
    point: Point
    x: Array
    loss: Array
    gradient_norm: Array
    relative: Array
    decrement: Array
    damping: Array
    pivot: Array
    moved: Array
    step: Array
    status: Array
    passes: Array
    start: Array
    memory: Tree


class Method(NamedTuple):
    """One solver: `init(A, b, x0, weights, key, tol)` -> State, `step(state)` -> State, `running(state)` -> bool.

    Pure and unbatched: vmap over b, x0, weights or data at will. A is a dense array or a `sparse.Sparse`.
    """

    init: Callable[..., State]
    step: Callable[[State], State]
    running: Callable[[State], Array]


class Steps(NamedTuple):
    """A solver for one objective: `step(state)`, and `ready(state)` of the first state."""

    step: Callable[[State], State]
    ready: Callable[[State], State] = lambda state: state


class Objective(NamedTuple):
    """The functions of one (loss, activation) pair on one backend."""

    loss: str
    activation: str | Activation
    exact: bool
    ops: Backend


def running(state: State) -> Array:
    """Return whether the state goes on; False for a state of zeros, which is what an idle lane holds."""
    return (state.status == int(Status.running)) & (state.passes > 0)


def run(step: Callable[[State], State], state: State, seen: Callable[[State], None] = lambda _: None) -> State:
    """Return the state at which the steps end, of the host or compiled; `seen` looks at every state."""
    seen(state)
    while bool(running(state)):
        state = step(state)
        seen(state)
    return state


def ridge(kind: Objective, problem: Problem, at: Terms) -> Any:
    """Return e^{-log_scale} w^2 (n,), what the regulariser adds to the curvature; 0 without weights."""
    return 0 if problem.weights is None else (kind.ops.xp.exp(-at.log_scale / 2) * problem.weights) ** 2


def scaled_value(kind: Objective, problem: Problem, z: Array, log_scale: Array) -> tuple[Terms, Array]:
    """Return the terms at z and the objective divided by e^{log_scale}."""
    at = residual.terms(z, problem.b, kind.loss, kind.activation, problem.least)
    factor = kind.ops.xp.exp(at.log_scale - log_scale)
    value = factor * (at.r @ at.r) / 2
    if problem.weights is None:
        return at, value
    wz = kind.ops.xp.exp(-log_scale / 2) * problem.weights * z
    return at, value + (wz @ wz) / 2


def evaluate(kind: Objective, problem: Problem, x: Array, z: Array, at: Terms | None = None) -> Point:
    """Return everything known at x, given z = A x and the terms there if they are known; reads A once.

    Sums are products of vectors, which make no temporary arrays: for few columns these cost more than A does.
    """
    xp = kind.ops.xp
    at = residual.terms(z, problem.b, kind.loss, kind.activation, problem.least) if at is None else at
    slope, target = at.v * at.c, at.u - at.r
    size, v = (at.u @ at.u + target @ target) / 2, xp.abs(at.v)
    total = v @ (v if at.u is at.v else xp.abs(at.u)) + v @ xp.abs(target)
    if lookup(kind.activation).parity == "even":  # phi' vanishes with z, and the gradient with it
        total = xp.maximum(total, SLIGHT * (at.u @ at.u + xp.abs(at.u) @ xp.abs(target)))
    value = (at.r @ at.r) / 2
    if problem.weights is not None:
        outer = ridge(kind, problem, at) * z
        extra = (outer @ z) / 2
        slope, total, value, size = slope + outer, total + xp.sum(xp.abs(outer)), value + extra, size + extra
    gradient = kind.ops.rmatvec(problem.A, slope)
    scale = problem.norms * (total / problem.A.shape[0] ** 0.5)
    relative = xp.max(xp.abs(gradient) / xp.where(scale > 0, scale, xp.ones_like(scale)))
    return Point(x, z, at, value, size, gradient, relative)


def first_state(kind: Objective, problem: Problem, x0: Array, memory: Tree) -> State:
    """Return the state at x0."""
    xp = kind.ops.xp
    point = evaluate(kind, problem, x0, kind.ops.matvec(problem.A, x0))
    zero = xp.zeros_like(point.objective)
    count = xp.asarray(0)
    start = point.at.log_scale + xp.log(point.objective)
    status, none = xp.asarray(int(Status.running)), zero + xp.inf
    numbers = (zero, zero, zero, none, zero, none, none)
    state = State(problem, point, x0, *numbers, count, status, count + 2, start, memory)
    return judged(kind, state, max_steps=1)


def judged(kind: Objective, state: State, max_steps: int) -> State:
    """Return the state with its reported numbers and its status read off its point."""
    xp, point = kind.ops.xp, state.point
    factor = xp.exp(point.at.log_scale)
    return state._replace(
        x=point.x,
        loss=factor * point.objective,
        gradient_norm=factor * xp.sqrt(point.gradient @ point.gradient),
        relative=point.relative,
        status=_status(kind, state, max_steps),
    )


def _status(kind: Objective, state: State, max_steps: int) -> Array:
    xp, point, at = kind.ops.xp, state.point, state.point.at
    finite = xp.isfinite(point.objective) & xp.isfinite(point.relative) & xp.all(xp.isfinite(point.x))
    loss, parity = LOSSES[kind.loss], lookup(kind.activation).parity
    found = [
        (state.step >= max_steps, Status.max_steps),
        (at.log_scale + xp.log(point.objective) > state.start + log(DIVERGED), Status.diverged),
        (point.relative <= state.problem.tol, Status.converged),
    ]
    if loss.stand_in is not None and not parity:
        found.append((_collapsed(kind, at, state.problem.A.shape[0]), Status.collapsed))
    found.append((~finite, Status.nonfinite))
    if loss.relative and parity == "odd":
        # where sinh is linear to rounding, so that a loss without a scale does not determine that of x (E.38)
        eps = xp.finfo(point.z.dtype).eps
        found.append((xp.max(xp.abs(point.z)) < eps**0.5, Status.trivial))
        found.append((xp.max(xp.abs(at.u)) * eps > 1 / 32, Status.nonfinite))  # of u / alpha: alpha is rounding
    status = xp.asarray(int(Status.running))
    for holds, name in found:
        status = xp.where(holds, int(name), status)
    return status


def _collapsed(kind: Objective, at: Terms, n: int) -> Array:
    """Return whether u vanishes without a fit, for a loss that allows it and a phi that can be as small as it likes."""
    xp = kind.ops.xp
    alpha = xp.sum(at.u)
    small = at.log_scale / 2 + xp.log(alpha) < log(COLLAPSED * n)
    return small & (at.r @ at.r > (COLLAPSED * alpha) ** 2 * (at.b @ at.b))
