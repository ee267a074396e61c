"""Move the parameter or the context of one regression problem and measure the shift of its target (section G).

One cell is one problem. It is over at once: `init` computes everything, and no step follows. Every size of the
move is one instance, all of them vmapped; where the context grows, every token is one, one after the other.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expreg import context, data, ntk, residual, shift
from expreg.experiment.training import PRECISIONS
from expreg.types import Array, Cost, Experiment, Program, Row, Settings, Status

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
    """A problem: A (n + tokens, d), of whose rows the first n are the context; b (n,), x (d,); dA (n, d) of norm 1."""

    A: Array
    b: Array
    x: Array
    dA: Array


class Instance(NamedTuple):
    """One moved problem: the numbers that a row, or a point of a curve, is made of."""

    move: Array
    shift: Array
    shift_first_order: Array
    shift_softmax: Array
    bound_tight: Array
    bound_rows: Array
    bound_softmax: Array
    bound_radius: Array
    largest_change: Array  # max |dz|


class Closeness(NamedTuple):
    """How close moves of the attention distribution by a step of the query are to that by the new tokens.

    One step per token (gd, newton) and one step for each token so far (path_gd, path_newton), each as the cosine
    of the two moves and the ratio of their norms; `update` is the norm of the move by the token.
    """

    update: Array
    cosine_gd: Array
    cosine_newton: Array
    size_gd: Array
    size_newton: Array
    path_update: Array
    path_cosine_gd: Array
    path_cosine_newton: Array
    path_size_gd: Array
    path_size_newton: Array


def signature(settings: Settings) -> Signature:
    """Return what is static in a cell."""
    problem = settings["problem"]
    dtype = np.dtype(PRECISIONS[settings["precision"]]).name
    names = ("kind", "n", "d", "tokens", "sizes", "activation", "loss")
    return Signature(*(problem[name] for name in names), dtype)


def program(static: Signature) -> Program:
    """Return the program that measures one problem; it is done when it has begun."""
    return Program(
        init=partial(measure, static),
        advance=lambda state: state,
        running=lambda _: jnp.zeros((), bool),
        record=lambda state: state,
    )


def prepare(settings: Settings) -> Inputs:
    """Return the inputs of one cell's lane, NumPy arrays in the cell's precision."""
    static, problem = signature(settings), settings["problem"]
    real = PRECISIONS[settings["precision"]]
    keys, query = np.zeros((0, static.d)), np.zeros(0)
    if static.kind == "attention":
        head = data.attention(problem["layer"], problem["head"])
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

    b is the distribution u / alpha at another x of the same norm (of exp for sinh, whose alpha may vanish), or that
    of the head itself, times exp(noise) and normalised (G.12).
    """
    n, d, rows, real = static.n, static.d, static.n + static.tokens, jnp.dtype(static.dtype)
    draws = jax.random.split(jax.random.wrap_key_data(given.key), 5)
    direction = jax.random.normal(draws[0], (n, d), real)
    noise = given.noise * jax.random.normal(draws[1], (n,), real)
    if static.kind == "attention":
        A, x = given.keys, given.query
        (norm,) = _norms(direction)
        planted = x
    else:
        A = jax.random.normal(draws[2], (rows, d), real)
        scale, norm = _norms(A, direction)
        A = A * (given.radius / scale)
        x, planted = (given.radius * _unit(jax.random.normal(key, (d,), real)) for key in draws[3:])
    f = residual.softmax(A[:n] @ planted, "cosh" if static.activation == "cosh" else "exp")
    b = f * jnp.exp(noise)
    return Task(A, b / b.sum(), x, direction / norm)


def measure(static: Signature, given: Inputs) -> dict[str, Array]:
    """Return everything that the row of a cell is made from."""
    task = make_task(static, given)
    A, z = task.A[: static.n], task.A[: static.n] @ task.x
    (norm,) = _norms(task.A)
    unit = jax.lax.switch(given.move, [partial(rule, static, task, A, z, norm) for rule in _UNITS])
    factors = jnp.geomspace(given.smallest, given.largest, static.sizes, dtype=z.dtype)
    instance = partial(_instance, static, task, A, z, norm, given.move == MOVES.index("data"), unit)
    if static.tokens:
        last = instance(given.largest)
        curves = _growth(static, task, norm)._asdict()
    else:
        moves = jax.vmap(instance)(factors)
        curves = {**moves._asdict(), "factor": factors}
        last = jax.tree.map(lambda values: values[-1], moves)
    return {
        **{f"curve_{name}": values for name, values in curves.items()},
        **last._asdict(),
        **residual.summary(z, task.b, static.activation),
        **_identities(static, task, A, z, unit.dz * given.largest),
        "norm": norm,
        "alpha_share": shift.alpha_share(z, static.activation),
    }


class _Unit(NamedTuple):
    """A move of size 1: dz = A dx or dA x, the bound of max |dz| by rows, and its norm."""

    dz: Array
    row_move: Array
    move: Array


def _weight_unit(A: Array, dx: Array) -> _Unit:
    move = _norm(dx)
    return _Unit(A @ dx, jnp.sqrt((A * A).sum(axis=1).max()) * move, move)


def _gd_unit(static: Signature, task: Task, A: Array, z: Array, norm: Array) -> _Unit:
    """Step 1 / (Lipschitz constant of the gradient), by (E.45); the common factor e^{2s} cancels."""
    at = residual.terms(z, task.b, static.loss, static.activation)
    return _weight_unit(A, -(at.v * at.c) @ A / (_curvature(static, task, z) * norm * norm))


def _curvature(static: Signature, task: Task, z: Array) -> Array:
    """Return the bound of the norm of the z-Hessian on the box |z_i| <= max |z|, over e^{2s} if rescaled (E.45)."""
    if static.loss == "softmax":
        return jnp.asarray(context.CURVATURE[static.activation], z.dtype)
    b = task.b
    _, _, s = residual.stable(z, static.activation)
    square = shift.projection_norm(b) ** 2
    rows = 1 + static.n * jnp.abs(b).max() + jnp.abs(b).sum() + static.n * (b @ b)  # at least ||Gam||_inf
    return jnp.exp(2 * (jnp.abs(z).max() - s)) * (square + rows)


def _newton_unit(static: Signature, task: Task, A: Array, z: Array, norm: Array) -> _Unit:
    """The full Gauss-Newton step (E.5)-(E.13), damped where its matrix is singular; free of e^{2s}."""
    del norm
    at = residual.terms(z, task.b, static.loss, static.activation)
    other = task.b if static.loss == "rescaled" else at.u
    J = at.v[:, None] * A - other[:, None] * (at.v @ A)[None, :]
    gram = J.T @ J
    mu = DAMPING[static.dtype] * jnp.trace(gram) / static.d
    return _weight_unit(A, -jnp.linalg.solve(gram + mu * jnp.eye(static.d, dtype=A.dtype), at.r @ J))


def _data_unit(static: Signature, task: Task, A: Array, z: Array, norm: Array) -> _Unit:
    """A normal dA with the spectral norm of A; x stays."""
    del static, A, z
    row = jnp.sqrt((task.dA * task.dA).sum(axis=1).max())
    return _Unit(norm * (task.dA @ task.x), norm * row * _norm(task.x), norm)


_UNITS = (_gd_unit, _newton_unit, _data_unit)


def _instance(
    static: Signature, task: Task, A: Array, z: Array, norm: Array, keys_move: Array, unit: _Unit, factor: Array
) -> Instance:
    """Return shift and bounds of the move of one size (G.2)-(G.11)."""
    dz, move, kind = factor * unit.dz, factor * unit.move, static.activation
    size = _norm(task.x)
    radius = jnp.where(keys_move, jnp.maximum(norm + move, size), jnp.maximum(norm, size + move))
    limit = shift.bounds(
        z, dz, task.b, row_move=factor * unit.row_move, move=move, radius=radius, activation=kind
    )
    exact = shift.rescaled(z, dz, task.b, kind), shift.first_order(z, dz, task.b, kind), shift.softmax(z, dz, kind)
    return Instance(move, *map(_norm, exact), *limit, jnp.abs(dz).max())


def _identities(static: Signature, task: Task, A: Array, z: Array, dz: Array) -> dict[str, Array]:
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
        "identity_error": _norm(wrong) / _norm(jnp.concatenate([u, after])),
        "equivalence_error": _norm(other - db) / jnp.maximum(_norm(db), jnp.finfo(z.dtype).tiny),
    }


class _Path(NamedTuple):
    """The queries after one step for each token so far."""

    gd: Array
    newton: Array


def _growth(static: Signature, task: Task, norm: Array) -> Closeness:
    """Return the moves by one more token each, up to all of them, against steps of the query; curves (tokens,)."""
    A, x, kind = task.A, task.x, static.activation
    z, places = A @ x, jnp.arange(len(task.A))
    start = context.attention(z, places < static.n, kind).f

    def step(query: Array, wanted: Array, present: Array) -> tuple[Array, Array]:
        at = context.attention(A @ query, present, kind)
        return (
            context.descent_step(A, at, wanted(at.f), norm, kind),
            context.newton_step(A, at, wanted(at.f), DAMPING[static.dtype]),
        )

    def grow(path: _Path, count: Array) -> tuple[_Path, Closeness]:
        present = places < static.n + count
        before, after = (context.attention(z, places < static.n + k, kind).f for k in (count - 1, count))
        update, total = after - before, after - start
        gd, newton = step(x, lambda f: update + 0 * f, present)
        path = _Path(
            path.gd + step(path.gd, lambda f: after + total - f, present)[0],
            path.newton + step(path.newton, lambda f: after + total - f, present)[1],
        )
        single = [_compare(A, q, present, kind, after, update) for q in (x + gd, x + newton)]
        whole = [_compare(A, q, present, kind, after, total) for q in path]
        return path, Closeness(_norm(update), *zip_flat(single), _norm(total), *zip_flat(whole))

    _, found = jax.lax.scan(grow, _Path(x, x), jnp.arange(1, static.tokens + 1))
    return found


def zip_flat(pairs: list[tuple[Array, Array]]) -> list[Array]:
    """Return (cosine, size) of gd and newton as cosine, cosine, size, size."""
    return [*(cosine for cosine, _ in pairs), *(size for _, size in pairs)]


def _compare(
    A: Array, query: Array, present: Array, kind: str, reference: Array, wanted: Array
) -> tuple[Array, Array]:
    made = context.attention(A @ query, present, kind).f - reference
    return context.cosine(made, wanted), _norm(made) / jnp.maximum(_norm(wanted), jnp.finfo(wanted.dtype).tiny)


def _norms(*matrices: Array) -> Array:
    """Return the spectral norms, from one call for all of them: see `ntk.extreme_eigenvalues`."""
    _, largest = ntk.extreme_eigenvalues(jnp.stack([M.T @ M for M in matrices]))
    return jnp.sqrt(largest)


def _norm(values: Array) -> Array:
    return jnp.sqrt((values * values).sum())


def _unit(values: Array) -> Array:
    return values / _norm(values)
