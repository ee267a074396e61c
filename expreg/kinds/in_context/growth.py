"""A context that grows token by token against steps of the query: the curves of `in_context` over tokens."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from expreg import context
from expreg.types import Array

HALVINGS = 7
"""The shortest step of Newton is this many halvings of the full one."""

Queries = tuple[Array, Array]
"""The query after steps of gd, and after steps of Newton."""


def compare(
    keys: Array, x: Array, *, tokens: int, norm: Array, factor: Array, damping: float, activation: str
) -> dict[str, Array]:
    """Return the moves by one more token each, up to all of them, against steps of the query; curves (tokens,).

    The last `tokens` rows of `keys` (n, d), of spectral norm `norm`, arrive one after the other. A step is asked to
    repeat the move that its token made: its target is the distribution plus that move. `factor` multiplies the safe
    step of gd, `damping` is that of Newton's matrix. The curves are those of one token and one step, and as `path_`
    those of all tokens so far and a step for each.
    """
    n, z, places = len(keys) - tokens, keys @ x, jnp.arange(len(keys))
    start = context.attention(z, places < n, activation).f

    def at(query: Array, present: Array) -> context.Attention:
        return context.attention(keys @ query, present, activation)

    def step(queries: Queries, asked: Array, present: Array) -> Queries:
        gd, newton = queries
        gd = gd + factor * context.descent_step(keys, at(gd, present), asked, norm, activation)
        now = at(newton, present)
        dx = context.newton_step(keys, now, asked, damping)
        return gd, _line_search(newton, dx, lambda x: at(x, present).f - now.f - asked)

    def grow(path: Queries, count: Array) -> tuple[Queries, dict[str, Array]]:
        present = places < n + count
        before, after = (context.attention(z, places < n + k, activation).f for k in (count - 1, count))
        update = after - before
        once, path = step((x, x), update, present), step(path, update, present)
        single, whole = (
            _close([at(query, present).f - after for query in queries], asked)
            for queries, asked in ((once, update), (path, after - start))
        )
        return path, single | {f"path_{name}": value for name, value in whole.items()}

    _, curves = jax.lax.scan(grow, (x, x), jnp.arange(1, tokens + 1))
    return dict(curves)


def _line_search(x: Array, dx: Array, residual_at: Callable[[Array], Array]) -> Array:
    """Return x + t dx for the t of 1, 1/2, ..., 1/128 and 0 with the least residual: full steps may diverge (F.13)."""
    lengths = jnp.append(2.0 ** -jnp.arange(HALVINGS + 1, dtype=x.dtype), 0)
    queries = x + jnp.where(jnp.isfinite(dx), dx, 0) * lengths[:, None]
    errors = jax.vmap(lambda query: (residual_at(query) ** 2).sum())(queries)
    return queries[jnp.argmin(jnp.where(jnp.isfinite(errors), errors, jnp.inf))]


def _close(moves: list[Array], asked: Array) -> dict[str, Array]:
    """Compare the moves of the distribution by gd and by Newton with the move `asked`; see `columns.CLOSENESS`."""
    size = jnp.linalg.norm(asked)
    known = jnp.maximum(size, jnp.finfo(asked.dtype).tiny)
    found = {"update": size}
    for name, move in zip(("gd", "newton"), moves, strict=True):
        found |= {f"cosine_{name}": context.cosine(move, asked), f"size_{name}": jnp.linalg.norm(move) / known}
    return found
