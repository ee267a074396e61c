"""Sketches S (k, n) with E[S^T S] = I, applied and never stored; all but `sampled` do not look at the matrix.

Each is a factory `(key, rows, size) -> apply`, and `apply(A, weights)` returns S diag(weights) A, a dense (size, d)
array, for a dense or a Sparse A with n = `rows` rows; `weights` (n,) may be left out. The same key gives the same S
whatever A is. Pure functions: jit, vmap over keys.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg

from expreg.errors import InputError, Problem
from expreg.sparse import Matrix, Sparse, block, fold_blocks, rmatvec, take_rows
from expreg.types import Array

_BATCH = 16  # rows of a Gaussian sketch drawn together: enough for a matrix product instead of 16 vector products
_RADIX = 32  # of the Hadamard transform: a product with a matrix of this size per pass
_STEP = 4096  # rows of a dense matrix added to a CountSketch at a time


Apply = Callable[..., Array]
"""`apply(A, weights=None)` -> S diag(weights) A, (size, d)."""
Sketch = Callable[[Array, int, int], Apply]


def gaussian(key: Array, rows: int, size: int) -> Apply:
    """Make a Gaussian sketch, entries N(0, 1/size) (F.4); nnz(A) size flops and n size random numbers.

    On d columns the singular values are within 1 +- e, e = (sqrt(d) + sqrt(2 log(2/delta))) / sqrt(size), with
    probability 1 - delta, so the `distortion` of the Gram matrix is at most 2 e + e^2. For a distortion eps,
    size >= (sqrt(d) + sqrt(2 log(2/delta)))^2 / (sqrt(1 + eps) - 1)^2. Random numbers cost more than the product: the
    reference for the others.
    """

    def apply(A: Matrix, weights: Array | None = None) -> Array:
        dtype = np.dtype(A.dtype)

        def row(i: Array) -> Array:
            line = jax.random.normal(jax.random.fold_in(key, i), (rows,), dtype)
            return rmatvec(A, line if weights is None else line * weights)

        return jax.lax.map(row, jnp.arange(size), batch_size=min(_BATCH, size)) / np.sqrt(size)

    return apply


def osnap(key: Array, rows: int, size: int, *, nonzeros: int = 4) -> Apply:
    """Make an OSNAP sketch: `nonzeros` entries +-1/sqrt(nonzeros) in each column of S, one per block of its rows.

    Cost nnz(A) nonzeros. `size` must be at least `nonzeros`; the rows beyond a multiple of it stay empty. With one
    non-zero it is a CountSketch. Nelson and Nguyen (2013); here the blocks have equal size.
    """
    height = size // nonzeros
    place, sign = jax.random.split(key)
    buckets = jax.random.randint(place, (nonzeros, rows), 0, height) + height * jnp.arange(nonzeros)[:, None]
    signs = jax.random.rademacher(sign, (nonzeros, rows), jnp.int8)

    def apply(A: Matrix, weights: Array | None = None) -> Array:
        factors = signs.astype(np.dtype(A.dtype)) / np.sqrt(nonzeros)
        factors = factors if weights is None else factors * weights
        total = jnp.zeros((size, A.shape[1]), factors.dtype)
        for bucket, factor in zip(buckets, factors, strict=True):
            total = _add_rows(total, A, bucket, factor)
        return total

    return apply


def countsketch(key: Array, rows: int, size: int) -> Apply:
    """Make a CountSketch: one +-1 in each column of S (F.4); nnz(A) flops, the cheapest of all.

    The Gram matrix has a `distortion` of at most eps with probability 1 - delta for size >= (d^2 + d) / (delta eps^2);
    8 d to 40 d do in practice.
    """
    return osnap(key, rows, size, nonzeros=1)


def srht(key: Array, rows: int, size: int) -> Apply:
    """Make a subsampled randomised Hadamard transform (F.4): random signs, Hadamard, `size` rows of it.

    For dense A only: n d log2(n) flops. n is padded with zeros to a power of two, N; rows are drawn without
    replacement and scaled by sqrt(N/size). Raises InputError when applied to a sparse matrix.
    """
    padded = 1 << max(rows - 1, 1).bit_length()
    flip, choose = jax.random.split(key)
    signs = jax.random.rademacher(flip, (rows,), jnp.int8)
    kept = jax.random.permutation(choose, padded)[:size]

    def apply(A: Matrix, weights: Array | None = None) -> Array:
        if isinstance(A, Sparse):
            message = "the Hadamard transform of a sparse matrix is dense; expected countsketch, osnap or gaussian"
            raise InputError(Problem("E-ENUM", message, key="sketch"))
        factors = signs.astype(A.dtype) if weights is None else signs * weights
        mixed = _hadamard(jnp.pad(A * factors[:, None], ((0, padded - rows), (0, 0))))
        return mixed[kept] / np.sqrt(size)

    return apply


def uniform(key: Array, rows: int, size: int) -> Apply:
    """Sample `size` rows uniformly with replacement, scaled by sqrt(n/size).

    Needs size >= 3 mu d / eps^2 log(2 d / delta), mu = n/d times the largest leverage score: it fails on coherent
    rows, and is here to be compared with.
    """
    return _chosen(jax.random.randint(key, (size,), 0, rows), np.sqrt(rows / size))


def draw(uniforms: Array, probabilities: Array) -> tuple[Array, Array]:
    """Return rows (s,) drawn with replacement, row i with probability p_i, and their scales 1 / sqrt(s p_i) (F.5).

    The one row sampler, of NumPy as of JAX: `uniforms` (s,) in [0, 1), `probabilities` (n,) with sum 1. Rows of
    probability 0 are never drawn.
    """
    xp = probabilities.__array_namespace__()
    upper = xp.cumsum(probabilities)
    # scaled by the sum as it was rounded: a draw beyond it would be a row of probability 0
    index = xp.searchsorted(upper, uniforms * upper[-1], side="right")
    index = xp.minimum(index, probabilities.shape[0] - 1)
    return index, 1 / xp.sqrt(uniforms.shape[0] * probabilities[index])


def sampled(key: Array, probabilities: Array, size: int) -> Apply:
    """Make the sketch of `size` rows that are drawn by `draw`; it knows the matrix through its probabilities only."""
    index, scale = draw(jax.random.uniform(key, (size,), probabilities.dtype), probabilities)
    return _chosen(index, scale[:, None])


def _chosen(index: Array, scale: Any) -> Apply:
    def apply(A: Matrix, weights: Array | None = None) -> Array:
        found = take_rows(A, index) * scale
        return found if weights is None else found * weights[index][:, None]

    return apply


OBLIVIOUS: dict[str, Sketch] = {make.__name__: make for make in (countsketch, osnap, gaussian, srht, uniform)}


def _add_rows(total: Array, A: Matrix, bucket: Array, factor: Array) -> Array:
    """Return total with factor[i] A[i] added to row bucket[i], for every row i."""
    if isinstance(A, Sparse):
        return total.at[bucket[A.rows], A.columns].add(factor[A.rows] * A.data)
    size = min(A.shape[0], _STEP)  # in blocks: no second array as large as A

    def add(total: Array, first: Array, fresh: Array) -> Array:
        factors = jnp.where(fresh, block(factor, first, size), 0)
        return total.at[block(bucket, first, size)].add(block(A, first, size) * factors[:, None])

    return fold_blocks(A.shape[0], size, add, total)


def _hadamard(array: Array) -> Array:
    """Return the Hadamard transform of the columns, without scaling; the number of rows is a power of two."""
    n, d = array.shape
    before, left = 1, n
    while left > 1:
        radix = min(_RADIX, left)
        left //= radix
        factor = jnp.asarray(linalg.hadamard(radix), array.dtype)
        array = jnp.einsum("ij,pjq->piq", factor, array.reshape(before, radix, left * d))
        before *= radix
    return array.reshape(n, d)
