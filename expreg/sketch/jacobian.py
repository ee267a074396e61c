"""The matrix whose Gram matrix is a Gauss-Newton Hessian, as rows that cost no more than those of A.

H = J^T J + A^T diag(w^2) A with J = diag(v) A - b c^T, c = A^T v (F.11): row i of J is v_i a_i - b_i c, so rows,
products and sketches of J cost what they cost for A, and sampling rows approximates the whole Hessian with its
low-rank part (F.12), not only its diagonal part.
"""

from typing import NamedTuple

import jax.numpy as jnp

from expreg.sketch.oblivious import Apply, sampled
from expreg.sparse import Matrix, rmatvec, take_rows
from expreg.types import Array


class Jacobian(NamedTuple):
    """J = diag(v) A - b c^T and a ridge of its own per row: v, b, w (n,), c (d,).

    `b` and `w` are None where there is no low-rank part or no regulariser.
    """

    A: Matrix
    v: Array
    b: Array | None = None
    c: Array | None = None
    w: Array | None = None


def of_weights(A: Matrix, weights: Array) -> Jacobian:
    """Return the matrix whose Gram matrix is A^T diag(weights) A, for weights (n,) >= 0."""
    return Jacobian(A, jnp.sqrt(jnp.asarray(weights)))


def of_residual(A: Matrix, v: Array, b: Array | None = None, w: Array | None = None) -> Jacobian:
    """Return the Jacobian of u - <u,1> b where u' = v (F.11), (n, d), with the regulariser 1/2 ||diag(w) A x||^2.

    For the softmax residual give v/alpha and f = u/alpha for b. Without b it is diag(v) A, of the exponential loss.
    """
    v, b, w = (None if part is None else jnp.asarray(part) for part in (v, b, w))
    return Jacobian(A, v, b, None if b is None else rmatvec(A, v), w)


def rows(J: Jacobian, index: Array) -> Array:
    """Return the rows `index` (s,) of J, dense (s, d), and below them those of diag(w) A, (2 s, d), if there is w."""
    plain = take_rows(J.A, index)
    found = plain * J.v[index][:, None]
    if J.b is not None and J.c is not None:
        found = found - J.b[index][:, None] * J.c
    return found if J.w is None else jnp.concatenate([found, plain * J.w[index][:, None]])


def sample(key: Array, J: Jacobian, probabilities: Array, size: int) -> Array:
    """Draw `size` rows of J with replacement, row i with probability p_i, each divided by sqrt(size p_i).

    The Gram matrix of the result, (size, d), or (2 size, d) with a regulariser, is an unbiased estimate of H (F.5),
    (F.12). `probabilities` (n,) sum to 1; rows of probability 0 are never drawn.
    """
    return sketch(sampled(key, probabilities, size), J)


def sketch(apply: Apply, J: Jacobian) -> Array:
    """Return S J, (size, d), at the cost of S A (F.11); with a regulariser S diag(w) A below it.

    The two halves share one S; their Gram matrices add.
    """
    found = apply(J.A, J.v)
    if J.b is not None and J.c is not None:
        found = found - apply(J.b[:, None]) * J.c
    return found if J.w is None else jnp.concatenate([found, apply(J.A, J.w)])
