"""Move the parameter or the context of one regression problem and measure the shift of its target (section G).

One cell is one problem. It is over at once: `init` computes everything, and no step follows. Every size of the
move is one instance, all of them vmapped; where the context grows, every token is one, one after the other.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expreg import ntk, residual, shift
from expreg.activation import ACTIVATIONS
from expreg.bounds import projection_norm
from expreg.data.heads import chosen
from expreg.kinds.in_context.growth import compare
from expreg.types import PRECISIONS, Array, Cost, Program, Row, Settings, Status, at_once

MOVES = ("gd", "newton", "data")
DAMPING = {"float32": 1e-5, "float64": 1e-9}
"""Of Newton's matrix, as a share of its mean eigenvalue: it is singular where n < d."""
MOVE_FLOPS, TOKEN_FLOPS = 200, 250
"""What the elementwise work of one size of a move, and of one token, costs per row of A."""


class Signature(NamedTuple):
    """What is static in a cell."""

    kind: str
    n: int
    d: int
    tokens: int
    sizes: int
    activation: str
    loss: str
    dtype: str


class Inputs(NamedTuple):
    """The inputs of one lane; `keys` (n + tokens, d) and `query` (d,) are empty where they are drawn."""

    key: Array  # (2,) uint32
    keys: Array
    query: Array
    radius: Array
    noise: Array
    move: Array  # index into MOVES
    smallest: Array
    largest: Array


class Task(NamedTuple):
    """A problem: A (n, d), b (n,), x (d,); the keys `grown` (n + tokens, d) by further rows, whose norm is `norm`.

    `dA` (n, d) of spectral norm 1 is the direction in which the keys move.
    """

    A: Array
    b: Array
    x: Array
    grown: Array
    norm: Array
    dA: Array


def signature(settings: Settings) -> Signature:
    """Return what is static in a cell."""
    problem = settings["problem"]
    dtype = np.dtype(PRECISIONS[settings["precision"]]).name
    return Signature(**{name: problem[name] for name in Signature._fields[:-1]}, dtype=dtype)


def program(static: Signature) -> Program:
    """Return the program that measures one problem."""
    return at_once(partial(measure, static))


def prepare(settings: Settings) -> Inputs:
    """Return the inputs of one cell's lane, NumPy arrays in the cell's precision."""
    static, problem, real = signature(settings), settings["problem"], PRECISIONS[settings["precision"]]
    keys, query = np.zeros((0, static.d)), np.zeros(0)
    if static.kind != "gaussian":
        head = chosen(problem)
        keys, query = head.keys[: static.n + static.tokens], head.queries[problem["token"]]
    seed = np.random.SeedSequence([settings["seed"], settings["replicate"], static.n, static.d])
    return Inputs(
        key=seed.generate_state(2, np.uint32),
        keys=keys.astype(real),
        query=query.astype(real),
        radius=real(problem.get("radius", 1.0)),
        noise=real(problem["noise"]),
        move=np.int32(MOVES.index(problem["move"])),
        smallest=real(problem["smallest"] * problem["largest"]),
        largest=real(problem["largest"]),
    )


def make_task(static: Signature, given: Inputs) -> Task:
    """Return the problem of a cell: drawn with ||A|| = ||x|| = radius, or the first keys and a query of a head.

    b is the distribution u / alpha at another x of the same norm (of exp for an odd phi, whose alpha may vanish), or
    that of the head itself, times exp(noise) and normalised (G.12).
    """
    n, d, rows = static.n, static.d, static.n + static.tokens
    # one draw for all: each compiles to a program of its own size
    draws = jax.random.normal(jax.random.wrap_key_data(given.key), (2 * d + n + (rows + n) * d,), static.dtype)
    x, planted, noise, direction, grown = jnp.split(draws, np.cumsum([d, d, n, n * d]))
    direction = direction.reshape(n, d)
    if static.kind != "gaussian":
        grown, x, planted = given.keys, given.query, given.query
        norm, unit = _norms(grown, direction)
    else:
        scale, unit = _norms(grown := grown.reshape(rows, d), direction)
        norm, grown = given.radius, grown * (given.radius / scale)
        x, planted = (given.radius * (value / jnp.linalg.norm(value)) for value in (x, planted))
    odd = ACTIVATIONS[static.activation].parity == "odd"
    f = residual.softmax(grown[:n] @ planted, "exp" if odd else static.activation)
    b = f * jnp.exp(given.noise * noise)
    return Task(grown[:n], b / b.sum(), x, grown, norm, direction / unit)


def measure(static: Signature, given: Inputs) -> dict[str, Array]:
    """Return everything that the row of a cell is made from."""
    task = make_task(static, given)
    z = task.A @ task.x
    unit = jax.lax.switch(given.move, [partial(rule, static, task, z) for rule in _UNITS])
    instance = partial(_instance, static, task, z, given.move == MOVES.index("data"), unit)
    if static.tokens:
        last = instance(given.largest)
        grow = partial(compare, tokens=static.tokens, damping=DAMPING[static.dtype], activation=static.activation)
        curves = grow(task.grown, task.x, norm=task.norm, factor=given.largest)
    else:
        factors = jnp.geomspace(given.smallest, given.largest, static.sizes, dtype=z.dtype)
        moves = jax.vmap(instance)(factors)
        curves, last = moves, {name: values[-1] for name, values in moves.items()}
    return {
        "steps": jnp.int32(1),
        **{f"curve_{name}": values for name, values in curves.items()},
        **last,
        **residual.summary(z, task.b, static.activation),
        **_identities(static, task, z, unit.dz * given.largest),
        "norm": task.norm,
        "alpha_share": shift.alpha_share(z, static.activation),
    }


class _Unit(NamedTuple):
    """A move of size 1: dz = A dx or dA x, the bound of max |dz| by rows, and its norm."""

    dz: Array
    row_move: Array
    move: Array


def _weight_unit(task: Task, dx: Array) -> _Unit:
    move = jnp.linalg.norm(dx)
    return _Unit(task.A @ dx, jnp.sqrt((task.A**2).sum(axis=1).max()) * move, move)


def _gd_unit(static: Signature, task: Task, z: Array) -> _Unit:
    """Take the step 1 / (Lipschitz constant of the gradient), by (E.45); the common factor e^{2s} cancels."""
    at = residual.terms(z, task.b, static.loss, static.activation)
    return _weight_unit(task, -(at.v * at.c) @ task.A / (_curvature(static, task, z) * task.norm**2))


def _curvature(static: Signature, task: Task, z: Array) -> Array:
    """Return the bound of the norm of the z-Hessian on the box |z_i| <= max |z|, over e^{2s} if rescaled (E.45)."""
    if residual.LOSSES[static.loss].bounded:
        return jnp.asarray(ACTIVATIONS[static.activation].softmax_curvature, z.dtype)
    b = task.b
    _, _, s = residual.stable(z, static.activation)
    square = projection_norm(b) ** 2
    rows = 1 + static.n * jnp.abs(b).max() + jnp.abs(b).sum() + static.n * (b @ b)  # at least ||Gam||_inf
    return jnp.exp(2 * (jnp.abs(z).max() - s)) * (square + rows)


def _newton_unit(static: Signature, task: Task, z: Array) -> _Unit:
    """Take the full Gauss-Newton step (E.5)-(E.13), damped where its matrix is singular; free of e^{2s}."""
    at = residual.terms(z, task.b, static.loss, static.activation)
    low = residual.jacobian(at, static.loss).L
    J = at.v[:, None] * task.A - low * (at.v @ task.A)[None, :]
    gram = J.T @ J
    mu = DAMPING[static.dtype] * jnp.trace(gram) / static.d
    return _weight_unit(task, -jnp.linalg.solve(gram + mu * jnp.eye(static.d, dtype=J.dtype), at.r @ J))


def _data_unit(static: Signature, task: Task, z: Array) -> _Unit:
    """Move A by a normal matrix with its spectral norm; x stays."""
    del static, z
    row = jnp.sqrt((task.dA**2).sum(axis=1).max())
    return _Unit(task.norm * (task.dA @ task.x), task.norm * row * jnp.linalg.norm(task.x), task.norm)


_UNITS = (_gd_unit, _newton_unit, _data_unit)


def _instance(
    static: Signature, task: Task, z: Array, keys_move: Array, unit: _Unit, factor: Array
) -> dict[str, Array]:
    """Return shift and bounds of the move of one size (G.2)-(G.11), `columns.INSTANCE`."""
    dz, move, kind = factor * unit.dz, factor * unit.move, static.activation
    size, norm = jnp.linalg.norm(task.x), task.norm
    radius = jnp.where(keys_move, jnp.maximum(norm + move, size), jnp.maximum(norm, size + move))
    limit = shift.bounds(z, dz, task.b, row_move=factor * unit.row_move, move=move, radius=radius, activation=kind)
    return {
        "move": move,
        "shift": jnp.linalg.norm(shift.rescaled(z, dz, task.b, kind)),
        "shift_first_order": jnp.linalg.norm(shift.first_order(z, dz, task.b, kind)),
        "shift_softmax": jnp.linalg.norm(shift.softmax(z, dz, kind)),
        **{f"bound_{name}": value for name, value in limit._asdict().items()},
        "largest_change": jnp.abs(dz).max(),
    }


def _identities(static: Signature, task: Task, z: Array, dz: Array) -> dict[str, Array]:
    """Return how well the identity (G.3) and the equivalence (G.5) hold at the largest move, relative errors."""
    kind, b = static.activation, task.b
    db = shift.rescaled(z, dz, b, kind)
    u, _, s = residual.stable(z, kind)
    after, _, s_after = residual.stable(z + dz, kind)
    after = after * jnp.exp(s_after - s)
    wrong = (after - after.sum() * b) - (u - u.sum() * (b + db))
    dA = shift.equivalent_data_move(task.x, dz)
    other = shift.rescaled(z, dA @ task.x, b, kind)
    return {
        "identity_error": jnp.linalg.norm(wrong) / jnp.linalg.norm(jnp.concatenate([u, after])),
        "equivalence_error": jnp.linalg.norm(other - db) / jnp.maximum(jnp.linalg.norm(db), jnp.finfo(z.dtype).tiny),
    }


def _norms(*matrices: Array) -> Array:
    """Return the spectral norms, from one call for all of them: see `ntk.extreme_eigenvalues`."""
    _, largest = ntk.extreme_eigenvalues(jnp.stack([M.T @ M for M in matrices]))
    return jnp.sqrt(largest)


def inputs(settings: Settings) -> dict[str, Array]:
    """Return the arrays that the cell starts from: A (n, d), b (n,), x0 (d,), tokens (tokens, d)."""
    static = signature(settings)
    task = make_task(static, jax.tree.map(jnp.asarray, prepare(settings)))
    return jax.device_get({"A": task.A, "b": task.b, "x0": task.x, "tokens": task.grown[static.n :]})


def row(settings: Settings, record: dict[str, Array]) -> Row:
    """Return the columns of a finished cell: the largest move, the identities, the closeness; and the curve."""
    static, problem = signature(settings), settings["problem"]
    numbers = {name: float(value) for name, value in record.items() if not name.startswith(("curve_", "steps"))}
    curves = {name: value.astype(np.float64) for name, value in record.items() if name.startswith("curve_")}
    status, detail = _status(static, numbers)
    close = {name.removeprefix("curve_"): _middle(value) for name, value in curves.items()} if static.tokens else {}
    return {
        "status": status,
        "status_detail": detail,
        "problem": static.kind,
        "moved": problem["move"],
        **{name: getattr(static, name) for name in ("activation", "loss", "n", "d")},
        **{name: problem[name] for name in ("layer", "head", "token") if name in problem},
        **{f"{name}_median" if name == "update" else name: value for name, value in close.items()},
        **{name: None if np.isnan(value) else value for name, value in numbers.items()},
        "curve_step": np.arange(1, (static.tokens or static.sizes) + 1),
        **curves,
    }


def _middle(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None


def _status(static: Signature, numbers: dict[str, float]) -> tuple[str, str]:
    """Return status and detail; a bound that overflows is no failure, a shift that is not finite is."""
    share = numbers["alpha_share"]
    if ACTIVATIONS[static.activation].parity == "odd" and share < shift.SMALLEST_ALPHA:
        return "collapsed", f"alpha = <u, 1> is {share:.2g} of <|u|, 1>: the shift divides by it"
    if not np.isfinite([numbers["shift"], numbers["shift_softmax"]]).all():
        return Status.nonfinite.name, f"max |dz| = {numbers['largest_change']:.3g}: the moved exponentials overflow"
    return Status.converged.name, ""


def cost(settings: Settings) -> Cost:
    """Return one step with the flops of drawing, products and elementwise work, and the bytes of a lane."""
    static = signature(settings)
    rows, size = static.n + static.tokens, np.dtype(static.dtype).itemsize
    moves = static.tokens * (4 * static.d**2 + 10 * static.d + TOKEN_FLOPS) if static.tokens else 0
    flops = rows * (6 * static.d**2 + 100 * static.d + moves + MOVE_FLOPS * (1 if static.tokens else static.sizes))
    return Cost(1.0, float(flops), float(size * (3 * rows * static.d + 8 * static.n * max(static.sizes, 1))))
