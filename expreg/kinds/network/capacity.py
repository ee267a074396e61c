"""Fit the data with no regard to time, by damped Gauss-Newton in function space or by gradient descent.

The Jacobian J (n, d m) of the outputs has J J^T = kappa^2 m H(W) (B.2), so that a damped Gauss-Newton step (Levenberg
and Marquardt) needs one n x n system whatever the width is: the weights move by -J^T s, (J J^T + mu I) s = r. Gradient
descent with step size 1 / mu has s = r / mu. Both keep a move only if ||r|| falls, and adapt mu to that: no run
diverges, and no step size has to be chosen.

A run ends as `converged` when ||r|| <= tolerance. It is `stalled` when a look at ||r||, which it takes every `patience`
tried moves, finds it lowered by less than the share `progress` since the look before (the first: since the start).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expreg.activation import ACTIVATIONS, lookup
from expreg.errors import Problem
from expreg.kinds.network import check, initial, start
from expreg.kinds.network.events import Facts
from expreg.ntk import norm
from expreg.types import PRECISIONS, Array, Cost, Program, Row, Settings, Status

SLICE = 16
"""Moves tried between two looks of the engine."""
SMALLEST_ELEMENTS = 512
"""Least number of elements n x m of a program: narrower networks share one."""
EQUAL = 1e-12
"""Points and labels that differ by no more are equal up to rounding."""


class Direction(NamedTuple):
    """One solver: s of the move -J^T s, and the factors of mu after a move that is kept and one that is not."""

    s: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # of J J^T (n, n), r (n,) and mu
    kept: float
    refused: float
    factors: bool  # whether a step factorises J J^T + mu I
    steps: float  # of a typical run near capacity


def _gauss_newton(gram: jax.Array, residual: jax.Array, damping: jax.Array) -> jax.Array:
    """Solve (J J^T + mu I) s = r; nan where rounding makes the matrix indefinite: the move is refused, and mu grows."""
    factor = jnp.linalg.cholesky(gram + damping * jnp.eye(len(residual), dtype=gram.dtype))
    half = jax.scipy.linalg.solve_triangular(factor, residual, lower=True)
    return jax.scipy.linalg.solve_triangular(factor, half, lower=True, trans="T")


DIRECTIONS: Mapping[str, Direction] = {
    "gauss_newton": Direction(_gauss_newton, 1 / 3, 2.0, True, 500.0),
    "gd": Direction(lambda _, residual, damping: residual / damping, 1 / 1.1, 2.0, False, 30_000.0),
}
"""By the name in the config."""


class Signature(NamedTuple):
    """Everything static: one compiled program each."""

    n: int
    d: int
    neurons: int  # columns drawn, a bucket: pairs under coupled initialisation
    branches: int  # 2 coupled, 1 iid
    activation: str
    dtype: str
    reach: bool  # False: no certificate
    solver: str


class Inputs(NamedTuple):
    """What one fit starts from; arrays of the shapes that the signature fixes."""

    X: Any  # (n, d)
    y: Any  # (n,)
    key: Any  # (2,) uint32, of the neuron stream
    m: Any  # the width; neurons beyond it are masked
    scale: Any  # kappa
    lambda_cts: Any
    gram_norm: Any
    tolerance: Any  # on ||r||
    patience: Any
    progress: Any
    max_steps: Any


class State(NamedTuple):
    """A fit in a lane; q = branches x neurons columns."""

    inputs: Inputs
    base: tuple[jax.Array, ...]  # of the activation, (n, q)
    signs: jax.Array  # (q,), 0 where masked
    initial_residual: jax.Array
    theta: jax.Array  # W - W(0), (d, q)
    derivative: jax.Array  # phi'(X W), (n, q)
    residual: jax.Array  # (n,)
    damping: jax.Array  # mu
    mark: jax.Array  # ||r|| at the last look
    step: jax.Array
    status: jax.Array


# --- the program


def gram(state: State) -> jax.Array:
    """Return J J^T = kappa^2 (X X^T) o (D D^T) over the neurons that are not masked (B.2), (n, n)."""
    X, D = state.inputs.X, state.inputs.scale * state.derivative * state.signs
    return (X @ X.T) * (D @ D.T)


def moved(static: Signature, state: State) -> State:
    """Return the state after the move -J^T s, kept or not; column r of it: -kappa a_r X^T (D_r o s) (A.4)."""
    X, scale = state.inputs.X, state.inputs.scale
    s = DIRECTIONS[static.solver].s(gram(state), state.residual, state.damping)
    theta = state.theta - scale * X.T @ (state.derivative * state.signs * s[:, None])
    change, derivative = ACTIVATIONS[static.activation].increment(state.base, X @ theta)  # increments: (A.10)
    residual = state.initial_residual + scale * (change @ state.signs)
    return state._replace(theta=theta, derivative=derivative, residual=residual)


def _try(static: Signature, state: State) -> State:
    """Try one move, keep it if ||r|| falls, and see whether the run ends."""
    inputs, direction, tried = state.inputs, DIRECTIONS[static.solver], moved(static, state)
    before, after = norm(state.residual), norm(tried.residual)
    kept = after < before  # False where it is not finite
    size, step = jnp.where(kept, after, before), state.step + 1
    look = step % inputs.patience == 0
    ends = [
        (size <= inputs.tolerance, Status.converged),
        (look & ~(size < (1 - inputs.progress) * state.mark), Status.stalled),
        (step >= inputs.max_steps, Status.max_steps),
    ]
    conditions, values = zip(*ends, strict=True)
    keep = partial(jax.tree.map, partial(jnp.where, kept))
    return state._replace(
        **{name: keep(getattr(tried, name), getattr(state, name)) for name in ("theta", "derivative", "residual")},
        damping=state.damping * jnp.where(kept, direction.kept, direction.refused).astype(size.dtype),
        mark=jnp.where(look, size, state.mark),
        step=step,
        status=jnp.select(conditions, [jnp.int32(value) for value in values], jnp.int32(Status.running)),
    )


def _init(static: Signature, inputs: Inputs) -> State:
    drawn, phi = initial.draw(static, inputs), ACTIVATIONS[static.activation]
    z0 = jnp.tile(drawn.z0, (1, static.branches))
    state = State(
        inputs=inputs,
        base=phi.base(z0),
        signs=drawn.signs.ravel(),
        initial_residual=drawn.residual,
        theta=jnp.zeros((static.d, z0.shape[1]), z0.dtype),
        derivative=phi.derivative(z0),
        residual=drawn.residual,
        damping=jnp.ones((), z0.dtype),
        mark=norm(drawn.residual),
        step=jnp.int32(0),
        status=jnp.int32(0),
    )
    largest = jnp.trace(gram(state))  # at least ||J||^2: a step of gradient descent is stable
    usable = jnp.isfinite(state.mark) & jnp.isfinite(largest)
    met = state.mark <= inputs.tolerance
    status = jnp.select([~usable, met], [jnp.int32(Status.nonfinite), jnp.int32(Status.converged)], jnp.int32(0))
    return state._replace(damping=largest, status=status)


def _running(state: State) -> jax.Array:
    # a lane of zeros has no budget, so it is idle although its status reads 0
    return (state.status == Status.running) & (state.inputs.max_steps > 0)


def _advance(static: Signature, state: State) -> State:
    """Try up to SLICE moves."""

    def goes_on(at: tuple[jax.Array, State]) -> jax.Array:
        return (at[0] < SLICE) & _running(at[1])

    return jax.lax.while_loop(goes_on, lambda at: (at[0] + 1, _try(static, at[1])), (jnp.int32(0), state))[1]


def _record(state: State) -> dict[str, jax.Array]:
    sizes = {"residual_initial": norm(state.initial_residual), "residual_final": norm(state.residual)}
    return {"steps": state.step, "status": state.status, **sizes}


def program(static: Signature) -> Program:
    """Build the program of one signature, unbatched: one fit, from one start, in one lane.

    Nothing is decomposed at the start: a second LAPACK routine beside the Cholesky factor could block it.
    """
    return Program(partial(_init, static), partial(_advance, static), _running, _record)


# --- from settings to inputs, from the record to a row


def signature(settings: Settings) -> Signature:
    """Return what is static in a cell; programs are at most twice as wide as their networks, unless they are tiny."""
    found = Signature(**start.shape(settings, ()), solver=settings["solver"]["name"])
    width = start.bucket(settings["network"]["m"], max(2, SMALLEST_ELEMENTS // found.n), coarse=0)
    return found._replace(neurons=width // found.branches)


def _tolerance(settings: Settings, found: start.Problem) -> float:
    solver = settings["solver"]
    return float(solver["tolerance"] * (found.label_norm if solver["relative"] else 1.0))


def prepare(settings: Settings) -> Inputs:
    """Return the inputs of one cell's lane, NumPy arrays in the cell's precision."""
    found, solver, real = start.problem(settings), settings["solver"], PRECISIONS[settings["precision"]]
    return Inputs(
        **start.arrays(settings, found),
        tolerance=real(_tolerance(settings, found)),
        patience=np.int32(solver["patience"]),
        progress=real(solver["progress"]),
        max_steps=np.int32(solver["max_steps"]),
    )


def row(settings: Settings, record: dict[str, Array]) -> Row:
    """Return the columns of a finished cell."""
    found, status = start.problem(settings), Status(int(record["status"]))
    return {
        "status": status.name,
        "status_detail": _detail(status, settings["solver"], record),
        "steps": int(record["steps"]),
        **start.row(Facts(settings, found, record)),
        "solver": settings["solver"]["name"],
        "tolerance": _tolerance(settings, found),
        "residual_initial": float(record["residual_initial"]),
        "residual_final": float(record["residual_final"]),
        "fit": status == Status.converged,
    }


def _detail(status: Status, solver: Mapping[str, Any], record: dict[str, Array]) -> str:
    left = f"||r|| = {float(record['residual_final']):.3g}"
    match status:
        case Status.stalled:
            return f"{left}; it fell by less than {100 * solver['progress']:g} % in {solver['patience']} steps"
        case Status.max_steps:
            return f"{left} after max_steps, and falling: raise solver.max_steps"
        case Status.nonfinite:
            return "the start is not finite; the points are too long for this precision"
        case _:
            return ""


def cost(settings: Settings) -> Cost:
    """Return the steps of a typical run, its flops per step and the bytes of a lane."""
    static, solver = signature(settings), settings["solver"]
    n, columns = static.n, static.neurons * static.branches
    direction = DIRECTIONS[solver["name"]]
    flops = n * columns * (4.0 * static.d + 40) + direction.factors * (2.0 * n**2 * columns + n**3 / 3)
    numbers = 6 * n * columns + 2 * static.d * columns + 3 * n**2
    return Cost(min(direction.steps, solver["max_steps"]), flops, np.dtype(static.dtype).itemsize * numbers)


# --- what can be fitted by no network


def problems(cells: Sequence[Settings]) -> list[Problem]:
    """Return what is wrong with the cells' data, and the points on which no network of any width has r = 0."""
    found = check.check(cells)
    if found:
        return found
    asked = {
        (repr(cell["data"]), cell["network"]["activation"], cell["seed"], cell["replicate"]): cell
        for cell in cells
        if cell["data"]["allow_duplicates"]  # otherwise equal points are refused
    }
    return [problem for cell in asked.values() for problem in _contradiction(cell)]


def _contradiction(settings: Settings) -> Iterator[Problem]:
    """Yield the pair of points that keeps ||r|| furthest from 0, if there is one.

    Equal points have equal outputs; so have x and -x if phi is even, and opposite ones if it is odd.
    """
    X, y = (start.problem(settings).X, start.problem(settings).y)
    parity = lookup(settings["network"]["activation"]).parity
    signs = [(1, 1)] if parity is None else [(1, 1), (-1, 1 if parity == "even" else -1)]
    worst = (EQUAL, 0, 0, 1)
    for side, factor in signs:
        for j in range(len(X) - 1):
            same = np.abs(X[j + 1 :] - side * X[j]).max(axis=1) <= EQUAL
            gaps = np.where(same, np.abs(y[j + 1 :] - factor * y[j]), 0.0)
            worst = max(worst, (float(gaps.max()), j + 1 + int(gaps.argmax()), j, side))
    gap, i, j, side = worst
    if gap > EQUAL:
        data = settings["data"]
        least = gap / math.sqrt(2)
        other = f"{'' if side == 1 else '-'}X[{j}]"
        yield Problem(
            "E-DATA",
            f"X[{i}] equals {other}, but their labels are {y[i]:g} and {y[j]:g} (n = {data['n']}, seed"
            f" {settings['seed']}, replicate {settings['replicate']}): no network has ||F - y|| below {least:.3g};"
            " expected labels that a network can fit",
            file=data.get("path"),
            key="data",
        )
