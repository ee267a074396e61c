"""A context that grows by one token, against a step of the query: two ways to move an attention distribution.

Keys A (n, d), query x (d,), logits z = A x, attention f = u / alpha over the tokens that are present; absent ones have
u = v = 0. A new token moves the distribution by f_after - f_before = p (e - f_before), e the unit vector of the token
and p its share: towards attending the token only, which is the descent direction of softmax regression with any target
on that line. So the query can be asked to make the same move: one step of softmax regression (E.2) whose target is the
distribution plus the move. To first order such a step makes moves in the range of J A, J = df/dz, and no others.

Every function is pure and unbatched; NumPy or JAX arrays, `jit` and `vmap` compose. Derived; in the second paper
(arXiv:2305.00660) and its companions a context is a change of the matrix A.
"""

from typing import NamedTuple

from expreg import residual
from expreg.activation import ACTIVATIONS
from expreg.types import Array


class Attention(NamedTuple):
    """Attention at one query: f (n,) and its slope w = v / alpha (n,), so that df = w dz - f <w, dz>."""

    f: Array
    w: Array


def attention(z: Array, present: Array, activation: str = "exp") -> Attention:
    """Return the attention over the tokens that are `present`, (n,) booleans of which the first is True."""
    xp = z.__array_namespace__()
    u, v, _ = residual.stable(xp.where(present, z, z[0]), activation)
    u, v = (xp.where(present, part, xp.zeros_like(part)) for part in (u, v))
    alpha = xp.sum(u)
    return Attention(u / alpha, v / alpha)


def descent_step(A: Array, at: Attention, wanted: Array, norm: Array, activation: str = "exp") -> Array:
    """Return dx (d,) of one step of gradient descent that is asked to move f by `wanted` (n,) (E.7).

    The step size is 1 / (curvature ||A||^2) with the bound of (E.45); `norm` is ||A|| or more. Raises ValueError for
    an activation without such a bound.
    """
    bound = ACTIVATIONS[activation].softmax_curvature
    if bound is None:
        raise ValueError(f"activation: got {activation!r}, whose softmax loss has no bounded curvature (E.45)")
    change = wanted - at.f @ wanted
    return (at.w * change) @ A / (bound * norm * norm)


def newton_step(A: Array, at: Attention, wanted: Array, damping: float) -> Array:
    """Return dx (d,) of one full Gauss-Newton step that is asked to move f by `wanted` (n,) (E.5)-(E.13).

    It minimises ||J A dx - wanted||^2 + mu ||dx||^2 with mu = `damping` times the mean eigenvalue of (J A)^T J A.
    """
    xp = A.__array_namespace__()
    d = A.shape[1]
    JA = at.w[:, None] * A - at.f[:, None] * (at.w @ A)[None, :]
    gram = JA.T @ JA
    mu = damping * xp.linalg.trace(gram) / d + xp.finfo(A.dtype).tiny  # one-hot attention has no slope at all
    return xp.linalg.solve(gram + mu * xp.eye(d, dtype=A.dtype), (wanted @ JA)[:, None])[:, 0]


def cosine(one: Array, other: Array) -> Array:
    """Return the cosine of the angle between two vectors; 0 where one of them is 0."""
    xp = one.__array_namespace__()
    size = xp.sqrt((one @ one) * (other @ other))
    return (one @ other) / xp.where(size > 0, size, xp.ones_like(size))
