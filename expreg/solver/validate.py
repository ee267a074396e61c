"""Bad input, found on the host before anything is computed; what is legal but hopeless becomes a warning."""

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from expreg.activation import ACTIVATIONS, Activation
from expreg.errors import InputError, Problem, refuse
from expreg.residual import LOSSES, activations, stable
from expreg.solver.records import SKETCHES, names, with_sketch
from expreg.solver.units import Units, equilibrated, of_targets
from expreg.sparse import Sparse, from_any, to_csr, to_scipy
from expreg.sparse.convert import finite, real
from expreg.sparse.passes import column_norms
from expreg.types import Array

DEFAULT_TOL = 1e-10
MOST = 0.9  # the share of ||b||^2 in entries that no x fits from which there is a warning
REACHABLE = 32  # the smallest tolerance of a precision, in units of its rounding


class Checked(NamedTuple):
    """A as a dense or a scipy csr array (n, d), b (n,), w (n,) or None, x0 (d,) or None, tol, column norms (d,).

    All in `units` in which they are of order one; `activation` is that of logits in these units.
    """

    A: Any
    b: Array
    weights: Array | None
    x0: Array | None
    tol: float
    norms: Array
    activation: str | Activation = "exp"
    units: Units = Units()


def check(
    A: Any,
    b: Any,
    *,
    loss: str,
    activation: str,
    solver: str,
    sketch: str | None,
    weights: Any,
    x0: Any,
    tol: float,
    key: Any = None,
    max_steps: Any = None,
    sketch_size: Any = None,
    starts: Any = 1,
) -> Checked:
    """Return the arrays that the solvers work on; raise InputError with all that is wrong, one line each."""
    settings(loss, activation, solver, sketch, key, max_steps=max_steps, sketch_size=sketch_size, starts=starts)
    matrix = _matrix(A)
    (n, d), dtype = matrix.shape, matrix.dtype
    with np.errstate(all="ignore"):
        norms = column_norms(matrix)
    if not np.isfinite(norms).all() and isinstance(matrix, np.ndarray):
        finite(matrix, "A")  # one pass more, only where it has something to name
    matrix, norms, columns = equilibrated(matrix, norms)
    target = _vector(b, "b", n, dtype)
    w = (
        None
        if weights is None
        else _vector(np.full(n, weights) if np.ndim(weights) == 0 else weights, "weights", n, dtype)
    )
    if w is not None and (w < 0).any():
        at, entry = np.argmin(w), "" if np.ndim(weights) == 0 else f"[{np.argmin(w)}]"
        raise InputError(Problem("E-RANGE", f"got {w[at]:g}, expected a finite number >= 0", key=f"weights{entry}"))
    start = None if x0 is None else _vector(x0, "x0", d, dtype)
    least = tolerance(tol, dtype)
    refuse([*_too_many(sketch_size, n), *_zero_columns(norms, n), *_stationary(start, loss, activation)])
    _warn(matrix, target, norms, loss, activation)
    target, heavy, phi, scale = of_targets(target, w if w is not None and w.any() else None, loss, activation)
    scale = scale._replace(columns=columns)
    return Checked(matrix, target, heavy, None if start is None else scale.inner(start), least, norms, phi, scale)


def settings(loss: str, activation: str, solver: str, sketch: str | None, key: Any, **counts: Any) -> None:
    """Raise InputError with what is wrong with anything but the arrays."""
    refuse(_names(loss=loss, activation=activation, solver=solver, sketch=sketch))
    refuse([*_counts(**counts), *_random(key)])


def dimensions(array: Any) -> int:
    """Return how many dimensions an array has, 0 for what is none."""
    try:
        return np.ndim(array)
    except ValueError:  # rows of different lengths
        return 0


def seed_of(key: Any) -> int:
    """Return the integer of a key, 0 by default."""
    if key is None or isinstance(key, int | np.integer):
        return int(key or 0)
    import jax

    plain = isinstance(getattr(key, "dtype", None), np.dtype)  # else a typed key
    return int(np.asarray(key if plain else jax.random.key_data(key)).ravel()[-1])


def _names(**given: str | None) -> list[Problem]:
    known = {"loss": LOSSES, "activation": activations(), "solver": names(), "sketch": (None, *SKETCHES)}
    problems = [
        Problem("E-ENUM", f"got {given[key]!r}, expected one of {', '.join(map(str, choices))}", key=key)
        for key, choices in known.items()
        if given[key] not in list(choices)
    ]
    if given["sketch"] is not None and given["solver"] not in with_sketch() and given["solver"] in names():
        problems.append(Problem("E-ENUM", f"solver {given['solver']} uses no sketch, expected None", key="sketch"))
    return problems


def _counts(**given: Any) -> Iterator[Problem]:
    for key, value in given.items():
        if value is not None and (not _whole(value) or value < 1):
            yield Problem("E-RANGE", f"got {value!r}, expected a whole number of at least 1", key=key)


def _whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _random(key: Any) -> Iterator[Problem]:
    kind = getattr(key, "dtype", None)
    known = kind == np.uint32 or "key" in str(kind)  # raw and typed keys of JAX
    if not (key is None or known or (_whole(key) and 0 <= key < 2**32)):
        yield Problem("E-RANGE", f"got {key!r}, expected an integer from 0 to 2^32 - 1 or a JAX key", key="key")


def _too_many(size: Any, n: int) -> Iterator[Problem]:
    if size is not None and size > n:
        yield Problem("E-RANGE", f"got {size} for an A of {n} rows, expected at most {n}", key="sketch_size")


def _matrix(A: Any) -> Any:
    """Return A as a C-contiguous float array or a csr array of finite numbers; raise InputError."""
    found = _sound_csr(A) if sparse.issparse(A) else None
    if found is None:
        stored = sparse.issparse(A) or isinstance(A, Sparse) or type(A).__name__ == "BCOO"
        # of an unsound one this names the wrong entry
        found = to_scipy(from_any(A)) if stored else np.ascontiguousarray(_shaped(A, "A", 2))
    if 0 in found.shape:
        raise InputError(Problem("E-SHAPE", f"got shape {found.shape}, expected at least 1 each", key="A"))
    return found


def _sound_csr(A: Any) -> Any:
    found = to_csr(A)
    if found.data.dtype.kind not in "biuf" or not np.isfinite(found.data).all():
        return None
    return found if found.dtype in (np.float32, np.float64) else found.astype(np.float64)


def _shaped(array: Any, key: str, ndim: int) -> Array:
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise InputError(Problem("E-DATA", "got masked entries, expected a number in each; fill or drop them", key=key))
    try:
        found = real(np.asarray(array), key)
    except ValueError as error:  # rows of different lengths
        raise InputError(Problem("E-SHAPE", f"got no array: {error}", key=key)) from None
    if found.ndim != ndim:
        expected = "(n, d)" if ndim == 2 else "one dimension"
        raise InputError(Problem("E-SHAPE", f"got shape {found.shape}, expected {expected}", key=key))
    return found


def _vector(array: Any, key: str, length: int, dtype: Any) -> Array:
    found = _shaped(array, key, 1)
    finite(found, key)
    if len(found) != length:
        what = "columns" if key == "x0" else "rows"
        message = f"got {len(found)} values for an A of {length} {what}, expected {length}"
        raise InputError(Problem("E-SHAPE", message, key=key))
    if found.dtype == dtype:
        return found.copy()
    with np.errstate(over="ignore", under="ignore"):
        cast = found.astype(dtype)
    if not np.isfinite(cast).all() or (key == "b" and found.any() and not cast.any()):
        message = (
            f"got {np.abs(found).max():g}, out of the range of {np.dtype(dtype)}, the type of A; give A in float64"
        )
        raise InputError(Problem("E-RANGE", message, key=key))
    return cast


def tolerance(tol: Any, dtype: Any) -> float:
    """Return the tolerance of this type of numbers; raise InputError for one that it does not reach."""
    least = REACHABLE * float(np.finfo(dtype).eps)
    if isinstance(tol, bool) or not isinstance(tol, int | float | np.integer | np.floating):
        raise InputError(Problem("E-TYPE", f"got {tol!r}, expected a positive number", key="tol"))
    tol = float(tol)
    if tol == DEFAULT_TOL:
        return max(tol, least)
    if not np.isfinite(tol) or tol <= 0:
        raise InputError(Problem("E-RANGE", f"got {tol}, expected a positive number", key="tol"))
    if tol < least:
        message = f"got {tol:g}, expected at least {least:.1e}: {np.dtype(dtype)} reaches no less (F.14)"
        raise InputError(Problem("E-RANGE", message, key="tol"))
    return tol


def _zero_columns(norms: Array, n: int) -> Iterator[Problem]:
    if not norms.all():
        zero = np.flatnonzero(norms == 0)
        more = f" ({len(zero)} such columns)" if len(zero) > 1 else ""
        message = f"all {n} entries are 0{more}: x[{zero[0]}] is not determined; leave the column out"
        yield Problem("E-DATA", message, key=f"A[:,{zero[0]}]")


def _stationary(x0: Array | None, loss: str, activation: str) -> Iterator[Problem]:
    parity = ACTIVATIONS[activation].parity
    if x0 is not None and not x0.any() and (parity == "even" or (parity == "odd" and LOSSES[loss].relative)):
        why = "every loss is stationary there (E.39)" if parity == "even" else "<u, 1> = 0 there (E.38)"
        yield Problem("E-START", f"got 0 with {activation}, expected another start: {why}", key="x0")


def _out_of_reach(b: Array, activation: str) -> Iterator[str]:
    """Yield a warning where negative targets of an activation that is not are most of the loss, whatever x is."""
    negative = b < 0
    if not negative.any():
        return
    scaled = b.astype(np.float64) / np.abs(b).max()
    least = scaled[negative] @ scaled[negative] / (scaled @ scaled)
    if least >= MOST and (stable(np.linspace(-9.0, 9.0, 99), activation)[0] >= 0).all():
        yield (
            f"{negative.sum()} of {len(b)} entries of b are negative, as {activation} never is: the loss is at least "
            f"{least:.1%} of 1/2 ||b||^2, whatever x is; change the sign of b, or use an activation with both signs"
        )


def _warn(A: Any, b: Array, norms: Array, loss: str, activation: str) -> None:
    """Warn of what no solver can help: signs of b, <b, 1> != 1 (E.17), an intercept with the rescaled loss (E.36)."""
    messages = [] if LOSSES[loss].relative else list(_out_of_reach(b, activation))
    beta, rounding = float(b.sum(dtype=np.float64)), 1e-4 if b.dtype == np.float32 else 1e-8
    if LOSSES[loss].relative and abs(beta - 1) > rounding:
        messages.append(f"b sums to {beta:g}: no x fits it exactly unless the sum is 1 (E.17); divide b by its sum")
    if LOSSES[loss].stand_in and ACTIVATIONS[activation].multiplicative:
        sums = (A.T @ np.ones(A.shape[0], A.dtype)).astype(np.float64)  # a sum over axis 0 takes four times as long
        constant = np.flatnonzero(np.isclose(sums**2, A.shape[0] * norms.astype(np.float64) ** 2, rtol=1e-12, atol=0))
        messages += [
            f"column {column} of A is an intercept: the {loss} loss of {activation} has no minimum but exact fits "
            "(E.36); leave it out, or use the softmax or the projective loss"
            for column in constant[:1]
        ]
    for message in messages:
        warnings.warn(message, UserWarning, stacklevel=5)
