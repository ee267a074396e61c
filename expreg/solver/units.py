"""Units in which columns, targets and weights are of order one: powers of two, so that no digit changes.

A problem whose numbers have squares well within the range of their type is left as it is.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from expreg.activation import Activation, in_units, lookup
from expreg.errors import InputError, Problem
from expreg.residual import LOSSES
from expreg.sparse.passes import column_norms
from expreg.types import Array


class Units(NamedTuple):
    """Exponents of two by which a solved problem differs from the given one: A = 2^columns A', z = 2^logits z'.

    The loss is 2^value times that of the solved problem, the gradient with respect to z 2^slope times its own.
    """

    columns: Array | int = 0
    logits: int = 0
    value: int = 0
    slope: int = 0

    @property
    def plain(self) -> bool:
        """Return whether the solved problem is the given one."""
        return isinstance(self.columns, int) and self == (0, 0, 0, 0)

    @property
    def heavy(self) -> bool:
        """Return whether weights leave nothing but 0 of x."""
        return self.logits < 0 and not self.value

    def inner(self, x: Array) -> Array:
        """Return x of the solved problem for an x of the given one."""
        return shifted(x, self.columns - self.logits)

    def outer(self, x: Array) -> Array:
        """Return x of the given problem for an x of the solved one."""
        return shifted(x, self.logits - self.columns)

    def loss(self, value: float) -> float:
        """Return a loss of the given problem."""
        return float(np.ldexp(float(value), self.value))

    def gradient_norm(self, gradient: Array, log_scale: float) -> float:
        """Return the 2-norm of the gradient of the given problem, infinite where it leaves the range of float64."""
        large = np.log2(np.abs(gradient.astype(np.float64))) + self.columns + self.slope + log_scale / np.log(2)
        top = large.max()
        return float(np.exp2(top) * np.linalg.norm(np.exp2(large - top))) if np.isfinite(top) else float(np.exp2(top))


def shifted(array: Array, exponent: Array | int) -> Array:
    """Return 2^exponent times an array, in its type; exact, but where that leaves its range."""
    if isinstance(exponent, int) and exponent == 0:
        return array
    return np.ldexp(array, exponent).astype(array.dtype)


def ordinary(dtype: Any) -> float:
    """Return how far from 1 numbers may be that are taken as they are."""
    return 2.0 ** (np.finfo(dtype).maxexp // 8)


def equilibrated(A: Any, norms: Array) -> tuple[Any, Array, Array | int]:
    """Return A with columns of order one, their norms, and the exponents; columns of zeros keep the norm 0."""
    wide = ordinary(A.dtype)
    if ((norms >= 1 / wide) & (norms <= wide)).all():
        return A, norms, 0
    stored = sparse.issparse(A)
    top = abs(A).max(axis=0)
    columns = np.frexp(top.toarray() if stored else top)[1]
    if stored:
        A = type(A)((shifted(A.data, -columns[A.indices]), A.indices, A.indptr), shape=A.shape)
    else:
        A = shifted(A, -columns)
    return A, column_norms(A), columns


def of_targets(
    b: Array, weights: Array | None, loss: str, activation: str
) -> tuple[Array, Array | None, str | Activation, Units]:
    """Return targets, weights and activation in units in which their squares are within range, and these units."""
    record, phi, info = LOSSES[loss], lookup(activation), np.finfo(b.dtype)
    exponent, wide = int(np.frexp(np.abs(b).max())[1]), info.maxexp // 8
    if not record.relative and phi.parity == "odd" and b.any() and exponent < -wide:
        exponent = max(exponent, 8 - info.maxexp)
        units = Units(logits=exponent, value=2 * exponent, slope=exponent)
        return shifted(b, -exponent), weights, in_units(phi, 2.0**exponent), units
    if record.relative and exponent > info.nmant + 4:  # beside b no digit of u counts, however large b is
        exponent = (exponent - info.nmant - 4) // 2 * 2
        power = 1 if record.bounded else 2
        lighter = None if weights is None else shifted(weights, -power * exponent // 2)
        return shifted(b, -exponent), lighter, activation, Units(value=2 * exponent, slope=power * exponent)
    most = info.maxexp // 5
    if weights is None or record.grows or int(np.frexp(np.abs(weights).max())[1]) <= most:
        return b, weights, activation, Units()
    # logits of order w^-2, of which the loss has no curvature
    exponent = int(np.frexp(np.abs(weights).max())[1]) - most
    lighter = shifted(weights, -exponent)
    if np.abs(lighter).min() < 2.0 ** (info.nmant / 2 + 2):
        message = (
            f"got {np.abs(weights).max():g} beside {np.abs(weights).min():g}: such a ratio leaves no digit; expected"
        )
        raise InputError(Problem("E-RANGE", f"{message} weights of one size, or at most 2^{most}", key="weights"))
    return b, lighter, activation, Units(logits=-2 * exponent)
