"""Bad input, found on the host before anything is computed; what is legal but hopeless becomes a warning."""

import warnings
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from expreg.activation import ACTIVATIONS
from expreg.errors import InputError, Problem
from expreg.residual import LOSSES, activations
from expreg.solver.host import column_norms
from expreg.solver.records import SKETCHES, names, with_sketch
from expreg.types import Array

DEFAULT_TOL = 1e-10
REACHABLE = 32
"""The smallest tolerance of a precision, in units of its rounding."""


class Checked(NamedTuple):
    """A as a dense array or a scipy csr array (n, d), b (n,), w (n,), x0 (d,) or None, tol, column norms (d,)."""

    A: Any
    b: Array
    weights: Array
    x0: Array | None
    tol: float
    norms: Array


def check(
    A: Any, b: Any, *, loss: str, activation: str, solver: str, sketch: str | None, weights: Any, x0: Any, tol: float
) -> Checked:
    """Return the arrays that the solvers work on; raise InputError with all that is wrong, one line each."""
    _refuse(_names(loss=loss, activation=activation, solver=solver, sketch=sketch))
    matrix = _matrix(A)
    dtype = matrix.dtype
    target = _vector(b, "b", matrix.shape[0], dtype)
    w = np.full(matrix.shape[0], weights or 0.0, dtype) if np.ndim(weights) == 0 else weights
    w = _vector(w, "weights", matrix.shape[0], dtype)
    start = None if x0 is None else _vector(x0, "x0", matrix.shape[1], dtype)
    norms = column_norms(matrix)
    tolerance = _tolerance(tol, dtype)
    _refuse([*_empty(norms, matrix.shape), *_start(start, loss, activation)])
    _warn(matrix, target, norms, loss, activation)
    return Checked(matrix, target, w, start, tolerance, norms)


def _names(**given: str | None) -> list[Problem]:
    known = {"loss": LOSSES, "activation": activations(), "solver": names(), "sketch": (None, *SKETCHES)}
    problems = [
        Problem("E-ENUM", f"got {given[key]!r}, expected one of {', '.join(map(str, choices))}", key=key)
        for key, choices in known.items()
        if given[key] not in choices
    ]
    if given["sketch"] is not None and given["solver"] not in with_sketch() and given["solver"] in names():
        problems.append(Problem("E-ENUM", f"solver {given['solver']} uses no sketch, expected None", key="sketch"))
    return problems


def _refuse(problems: list[Problem]) -> None:
    if problems:
        raise InputError(problems)


def _matrix(A: Any) -> Any:
    """Return A as a C-contiguous float array or a csr array of finite numbers; raise InputError."""
    if sparse.issparse(A):
        return _csr(A)
    if not isinstance(A, np.ndarray) and hasattr(A, "data") and hasattr(A, "ndim") and not hasattr(A, "__array__"):
        from expreg.sparse import from_any, to_scipy

        return to_scipy(from_any(A))  # our own Sparse, or a BCOO
    return np.ascontiguousarray(_real(A, "A", 2))


def _csr(A: Any) -> Any:
    try:
        found = sparse.csr_array(A)
        indices, starts = found.indices, found.indptr
        sound = starts[0] == 0 and starts[-1] == len(indices) == len(found.data) and bool((np.diff(starts) >= 0).all())
        sound = sound and (not len(indices) or (indices.min() >= 0 and indices.max() < found.shape[1]))
        sound = sound and found.data.dtype.kind in "biuf" and bool(np.isfinite(found.data).all())
    except ValueError:
        sound = False
    if not sound:
        from expreg.sparse import from_any, to_scipy

        return to_scipy(from_any(A))  # says which entry is wrong
    _refuse(_size(found.shape, "A"))
    return found if found.dtype in (np.float32, np.float64) else found.astype(np.float64)


def _real(array: Any, key: str, ndim: int) -> Array:
    found = np.asarray(array)
    if found.dtype.kind not in "biuf":
        raise InputError(Problem("E-DTYPE", f"got an array of {found.dtype}, expected real numbers", key=key))
    if found.ndim != ndim:
        expected = "(n, d)" if ndim == 2 else "one dimension"
        raise InputError(Problem("E-SHAPE", f"got shape {found.shape}, expected {expected}", key=key))
    _refuse(_size(found.shape, key))
    found = found if found.dtype in (np.float32, np.float64) else found.astype(np.float64)
    _refuse(_finite(found, key))
    return found


def _size(shape: tuple[int, ...], key: str) -> list[Problem]:
    return [Problem("E-SHAPE", f"got shape {shape}, expected at least 1 each", key=key)] if 0 in shape else []


def _finite(array: Array, key: str) -> list[Problem]:
    good = np.isfinite(array)
    if good.all():
        return []
    at = np.unravel_index(int(np.argmin(good)), array.shape)
    place, count = ",".join(map(str, at)), int((~good).sum())
    message = f"got {array[at]}, expected finite ({count} such value{'s' * (count > 1)})"
    return [Problem("E-DATA", message, key=f"{key}[{place}]")]


def _vector(array: Any, key: str, length: int, dtype: Any) -> Array:
    found = _real(array, key, 1)
    if len(found) != length:
        what = "columns" if key == "x0" else "rows"
        message = f"got {len(found)} values for an A of {length} {what}, expected {length}"
        raise InputError(Problem("E-SHAPE", message, key=key))
    return found.astype(dtype)


def _tolerance(tol: float, dtype: Any) -> float:
    least = REACHABLE * float(np.finfo(dtype).eps)
    if tol == DEFAULT_TOL:
        return max(tol, least)
    if not np.isfinite(tol) or tol <= 0:
        raise InputError(Problem("E-RANGE", f"got {tol}, expected a positive number", key="tol"))
    if tol < least:
        message = f"got {tol:g}, expected at least {least:.1e}: {np.dtype(dtype)} reaches no less (F.14)"
        raise InputError(Problem("E-RANGE", message, key="tol"))
    return tol


def _empty(norms: Array, shape: tuple[int, int]) -> list[Problem]:
    zero = np.flatnonzero(norms == 0)
    if not len(zero):
        return []
    more = f" ({len(zero)} such columns)" if len(zero) > 1 else ""
    message = f"all {shape[0]} entries are 0{more}: x[{zero[0]}] is not determined; leave the column out"
    return [Problem("E-DATA", message, key=f"A[:,{zero[0]}]")]


def _start(x0: Array | None, loss: str, activation: str) -> list[Problem]:
    parity = ACTIVATIONS[activation].parity
    if x0 is None or x0.any() or parity is None or (parity == "odd" and not LOSSES[loss].relative):
        return []
    why = "every loss is stationary there (E.39)" if parity == "even" else "<u, 1> = 0 there (E.38)"
    return [Problem("E-START", f"got 0 with {activation}, expected another start: {why}", key="x0")]


def _warn(A: Any, b: Array, norms: Array, loss: str, activation: str) -> None:
    """Warn of what no solver can help: <b, 1> != 1 (E.17), an intercept with the rescaled loss of exp (E.36)."""
    beta, rounding = float(b.sum(dtype=np.float64)), 1e-4 if b.dtype == np.float32 else 1e-8
    if LOSSES[loss].relative and abs(beta - 1) > rounding:
        _say(f"<b, 1> is {beta:g}: no zero residual unless it is 1 (E.17); divide b by its sum")
    if LOSSES[loss].stand_in and ACTIVATIONS[activation].multiplicative:
        sums = np.asarray(A.sum(axis=0), dtype=np.float64).ravel()
        constant = np.flatnonzero(np.isclose(sums**2, A.shape[0] * norms.astype(np.float64) ** 2, rtol=1e-12, atol=0))
        if len(constant):
            _say(
                f"column {constant[0]} of A is an intercept: the {loss} loss of {activation} has no minimum but exact "
                "fits (E.36); leave it out, or use the softmax or the projective loss"
            )


def _say(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=5)
