"""A matrix whose rows devices share: each multiplies its own, and sums over all rows are added up.

It names no device: along an axis `rows` of the mesh in context all have equal parts; without one there is one device.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from expreg.sparse import matrix
from expreg.sparse.convert import from_scipy
from expreg.sparse.matrix import Matrix, Sparse, to_scipy
from expreg.types import Array, Tree

AXIS = "rows"


@partial(jax.tree_util.register_dataclass, data_fields=("rows",), meta_fields=("shape",))
@dataclass(frozen=True)
class Shared:
    """A matrix (n, d) with rows of zeros below it, so that many numbers of devices divide all N >= n rows.

    `rows`: a dense array (N, d), or a Sparse whose arrays have a leading axis over blocks of equally many rows. Vectors
    that belong to its rows have N entries. Make one with `share`.
    """

    rows: Any
    shape: tuple[int, int]


def share(A: Matrix, parts: int) -> Shared:
    """Return a matrix of the host, dense or Sparse, for any number of devices that divides `parts`."""
    (n, d), size = A.shape, -(-A.shape[0] // parts)
    if not isinstance(A, Sparse):
        return Shared(np.pad(A, ((0, size * parts - n), (0, 0))), A.shape)
    whole = to_scipy(A)
    whole.resize(size * parts, d)
    blocks = [from_scipy(whole[first : first + size]) for first in range(0, size * parts, size)]

    def alike(name: str) -> list[Any]:
        pieces = [getattr(block, name) for block in blocks]
        return [replace(one, aligned=all(each.aligned for each in pieces)) for one in pieces]

    longest = max(block.longest for block in blocks)
    pieces = zip(blocks, alike("by_row"), alike("by_column"), strict=True)
    blocks = [replace(block, longest=longest, by_row=ours, by_column=theirs) for block, ours, theirs in pieces]
    return Shared(jax.tree.map(_stacked, *blocks), A.shape)


def _stacked(*leaves: np.ndarray) -> np.ndarray:
    """Return arrays of different sizes as one: entries padded with 0, indices, which are sorted, with the last."""
    shape = np.max([leaf.shape for leaf in leaves], axis=0)

    def padded(leaf: np.ndarray) -> np.ndarray:
        last = leaf[-1] if leaf.ndim == 1 and leaf.size and leaf.dtype.kind == "i" else 0
        return np.pad(leaf, [(0, more) for more in shape - leaf.shape], constant_values=last)

    return np.stack([padded(leaf) for leaf in leaves])


def by_share(
    function: Callable[..., Array], A: Shared, vectors: Tree = (), others: Tree = (), *, total: bool = True
) -> Array:
    """Return what `function(rows, *vectors, *others)` makes of each share: added up, or else one after the other.

    `vectors` (N, ...) belong to the rows, all have the `others`. The only traffic is the sum, one all-reduce.
    """

    def of_device(rows: Matrix, vectors: Tree, others: Tree) -> Array:
        if isinstance(rows, Sparse):
            count = rows.starts.shape[0]
            vectors = jax.tree.map(lambda y: y.reshape(count, -1, *y.shape[1:]), vectors)
            found = _blockwise(lambda one: function(*one, *others), (rows, *vectors), total=total)
        else:
            found = function(rows, *vectors, *others)
        return jax.lax.psum(found, AXIS) if total and several else found

    several = AXIS in jax.sharding.get_abstract_mesh().axis_names
    if not several:
        return of_device(A.rows, vectors, others)
    own, whole = PartitionSpec(AXIS), PartitionSpec()
    out = whole if total else own
    shared = jax.shard_map(of_device, in_specs=(own, own, whole), out_specs=out, check_vma=False)
    return shared(A.rows, vectors, others)


def _blockwise(function: Callable[[Tree], Array], blocks: Tree, *, total: bool) -> Array:
    if not total:
        return jax.lax.map(function, blocks).reshape(-1)
    like = jax.eval_shape(lambda: function(jax.tree.map(lambda leaf: leaf[0], blocks)))
    start = jnp.zeros(like.shape, like.dtype)
    return jax.lax.scan(lambda so_far, one: (so_far + function(one), None), start, blocks)[0]


def matvec(A: Matrix | Shared, x: Array) -> Array:
    """Return A x, (n,), for a vector x (d,); 2 nnz flops."""
    return by_share(matrix.matvec, A, (), (x,), total=False) if isinstance(A, Shared) else matrix.matvec(A, x)


def rmatvec(A: Matrix | Shared, y: Array) -> Array:
    """Return A^T y for y of shape (n,) or (n, k); 2 nnz flops per column."""
    return by_share(matrix.rmatvec, A, (y,)) if isinstance(A, Shared) else matrix.rmatvec(A, y)


def gram(A: Matrix | Shared, weights: Array) -> Array:
    """Return A^T diag(weights) A, (d, d), for weights (n,) of any sign."""
    return by_share(matrix.gram, A, (weights,)) if isinstance(A, Shared) else matrix.gram(A, weights)
