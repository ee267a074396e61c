"""Pack the small leaves of a tree into one vector per data type.

A program copies every leaf of its state in each slice and every leaf of its inputs at each refill: fifty scalars would
be fifty kernels to compile and to launch. Larger leaves keep their shapes: XLA copies what is reshaped on its way to
a call that works in place. Empty leaves are dropped, because their layout is not fixed in JAX.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expreg.types import Program, Tree

SMALL = 256
"""Leaves with at most this many elements are packed."""


class Packing(NamedTuple):
    """Functions that pack and unpack trees of one structure; both preserve leading batch axes.

    NumPy arrays stay NumPy arrays, without a dispatch of JAX for each; unpacked, they are views.
    """

    pack: Callable[[Tree], dict[str, Any]]
    unpack: Callable[[dict[str, Any]], Tree]


def packing(tree: Tree) -> Packing:
    """Return the packing for trees with the structure, shapes and data types of `tree`."""
    leaves, structure = jax.tree.flatten(tree)
    kinds = [_kind_of_key(leaf.dtype) for leaf in leaves]
    leaves = [
        jax.eval_shape(jax.random.key_data, leaf) if kind else leaf for kind, leaf in zip(kinds, leaves, strict=True)
    ]
    shapes, types = [np.shape(leaf) for leaf in leaves], [leaf.dtype for leaf in leaves]
    del tree, leaves  # what is packed later must not keep an example in memory
    sizes = [int(np.prod(shape)) for shape in shapes]
    names = [f"{types[i]}" if size <= SMALL else f"{i}" for i, size in enumerate(sizes)]
    axes = {name: len(shape) if size > SMALL else 1 for name, size, shape in zip(names, sizes, shapes, strict=True)}

    def pack(tree: Tree) -> dict[str, Any]:
        parts: dict[str, list[Any]] = {}
        for name, kind, shape, leaf in zip(names, kinds, shapes, jax.tree.leaves(tree), strict=True):
            leaf = jax.random.key_data(leaf) if kind else leaf
            flat = leaf.reshape(*leaf.shape[: leaf.ndim - len(shape)], -1)
            parts.setdefault(name, []).append(flat if axes[name] == 1 else leaf)
        host = not any(isinstance(leaf, jax.Array) for part in parts.values() for leaf in part)
        vectors = {name: (np if host else jnp).concatenate(part, axis=-1) for name, part in parts.items()}
        return {name: vector for name, vector in vectors.items() if vector.size}

    def unpack(vectors: dict[str, Any]) -> Tree:
        ahead = next((vector.shape[: vector.ndim - axes[name]] for name, vector in vectors.items()), ())
        found, used = [], dict.fromkeys(names, 0)
        for name, kind, shape, size, dtype in zip(names, kinds, shapes, sizes, types, strict=True):
            first, used[name] = used[name], used[name] + size
            part = vectors.get(name, np.zeros((*ahead, 0), dtype))
            if axes[name] == 1:
                part = part[..., first : used[name]].reshape((*ahead, *shape))
            found.append(jax.random.wrap_key_data(jnp.asarray(part), impl=kind) if kind else part)
        return jax.tree.unflatten(structure, found)

    return Packing(pack, unpack)


def _kind_of_key(dtype: Any) -> str | None:
    """Return the generator of typed keys, of which lanes hold the data; None for other types."""
    if not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return None
    known = ("threefry2x32", "rbg", "unsafe_rbg")
    return next(kind for kind in known if jax.eval_shape(lambda: jax.random.key(0, impl=kind)).dtype == dtype)  # noqa: B023


def _named(tree: Tree) -> Packing:
    """Return the packing that only names the leaves of `tree`, by their paths."""
    paths, structure = jax.tree.flatten_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]

    def unpack(vectors: dict[str, Any]) -> Tree:
        return jax.tree.unflatten(structure, [vectors[name] for name in names])

    return Packing(lambda tree: dict(zip(names, jax.tree.leaves(tree), strict=True)), unpack)


def packed(program: Program, inputs: Tree, *, split: bool = False) -> tuple[Program, Packing, Packing]:
    """Return the program with packed inputs, states and records, and the packings of its inputs and records.

    If a run is to be `split`, inputs and states are mappings of their leaves by path.
    """
    state = jax.eval_shape(program.init, inputs)
    kept = packing(jax.eval_shape(program.record, state))
    given, moving = map(_named if split else packing, (inputs, state))
    narrow = program._replace(
        # without a barrier XLA fuses all that init computes with the packing, which does not always compile for GPUs
        init=lambda start: moving.pack(jax.lax.optimization_barrier(program.init(given.unpack(start)))),
        advance=lambda vectors: moving.pack(program.advance(moving.unpack(vectors))),
        running=lambda vectors: program.running(moving.unpack(vectors)),
        record=lambda vectors: kept.pack(program.record(moving.unpack(vectors))),
    )
    return narrow, given, kept
