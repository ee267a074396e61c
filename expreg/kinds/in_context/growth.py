"""A context that grows token by token against steps of the query: the curves of `in_context` over tokens."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from expreg import context
from expreg.types import Array

HALVINGS = 7
"""The shortest step of Newton is this many halvings of the full one."""


class Closeness(NamedTuple):
    """How close the moves of the attention distribution by steps of the query are to that by the new tokens.

    Of one token and one step, or of all tokens so far and a step for each (`path_`): the norm of the move by the
    tokens, the cosine between it and that by gd or newton, and the ratio of their norms.
    """

    update: Array
    cosine_gd: Array
    cosine_newton: Array
    size_gd: Array
    size_newton: Array


def compare(
    keys: Array,
    x: Array,
    *,
    tokens: int,
    norm: Array,
    factor: Array,
    damping: float,
    activation: str,
) -> dict[str, Array]:
    """Return the moves by one more token each, up to all of them, against steps of the query; curves (tokens,).

    The last `tokens` rows of `keys` (n, d), of spectral norm `norm`, arrive one after the other. A step is asked to
    repeat the move that its token made: its target is the distribution plus that move. `factor` multiplies the safe
    step of gd, `damping` is that of Newton's matrix.
    """
    A, kind = keys, activation
    n = len(keys) - tokens
    z, places = A @ x, jnp.arange(len(keys))
    start = context.attention(z, places < n, kind).f

    def gd(query: Array, asked: Array, present: Array) -> Array:
        at = context.attention(A @ query, present, kind)
        return query + factor * context.descent_step(A, at, asked, norm, kind)

    def newton(query: Array, asked: Array, present: Array) -> Array:
        at = context.attention(A @ query, present, kind)
        dx = context.newton_step(A, at, asked, damping)
        return _line_search(query, dx, lambda x: context.attention(A @ x, present, kind).f - at.f - asked)

    def grow(path: tuple[Array, Array], count: Array) -> tuple[tuple[Array, Array], dict[str, Array]]:
        present = places < n + count
        before, after = (context.attention(z, places < n + k, kind).f for k in (count - 1, count))
        update = after - before
        once = gd(x, update, present), newton(x, update, present)
        path = gd(path[0], update, present), newton(path[1], update, present)
        single = _close(A, once, present, kind, after, update)._asdict()
        whole = _close(A, path, present, kind, after, after - start)._asdict()
        return path, single | {f"path_{name}": value for name, value in whole.items()}

    _, curves = jax.lax.scan(grow, (x, x), jnp.arange(1, tokens + 1))
    return dict(curves)


def _line_search(x: Array, dx: Array, residual_at: Callable[[Array], Array]) -> Array:
    """Return x + t dx for the t of 1, 1/2, ..., 1/128 and 0 with the least residual: full steps may diverge (F.13)."""
    lengths = jnp.append(2.0 ** -jnp.arange(HALVINGS + 1, dtype=x.dtype), 0)
    queries = x + jnp.where(jnp.isfinite(dx), dx, 0) * lengths[:, None]
    errors = jax.vmap(lambda query: (residual_at(query) ** 2).sum())(queries)
    return queries[jnp.argmin(jnp.where(jnp.isfinite(errors), errors, jnp.inf))]


def _close(A: Array, queries: Sequence[Array], present: Array, kind: str, reference: Array, asked: Array) -> Closeness:
    """Compare the moves that the queries of gd and newton make with the move `asked`."""
    gd, newton = (context.attention(A @ query, present, kind).f - reference for query in queries)
    size = jnp.linalg.norm(asked)
    known = jnp.maximum(size, jnp.finfo(asked.dtype).tiny)
    angles = context.cosine(gd, asked), context.cosine(newton, asked)
    return Closeness(size, *angles, jnp.linalg.norm(gd) / known, jnp.linalg.norm(newton) / known)
