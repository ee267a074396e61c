"""Where to start on the host: the solution on a subset of the rows, or least squares for the wanted logits.

Where u(Ax) = c b could hold exactly, A x = phi^{-1}(c b): a linear problem, solved with one Gram matrix. For exp
and a loss that ignores the scale c drops out as a mean; for sinh c is tried on a grid, for cosh the signs of the
logits are found by alternating projections. Derived; for exp it is what generalised linear models start from.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy import linalg, sparse

from expreg.activation import lookup
from expreg.residual import LOSSES, least_scale
from expreg.solver import newton
from expreg.solver.records import AUTO, MANY_COLUMNS, PER_COLUMN, chosen
from expreg.solver.state import Objective, Problem, first_state, run, scaled_value
from expreg.solver.validate import REACHABLE, Checked
from expreg.sparse import passes
from expreg.types import Array

LEAST_ROWS = 4096
GROWTH = 64  # each subset has this many times the rows of the one before
SAMPLE = 2048  # rows that are looked at to see whether a column hangs on few rows
ROUGH, ROUGH_STEPS = 1e-3, 30  # the tolerance on a subset, whose minimiser is off by more, and the budget
WIDE = 4.0  # the standard deviation of logits at random starts: 1 and 2 missed best minima of peaked targets (measured)
SLIGHT = 0.1  # the size of the logits at a start of which nothing is known
SCALES = (0.1, 1.0, 10.0, 100.0, 1e4)  # candidates of c times max |b| for sinh
ALTERNATIONS = 30
SMALL = 100_000  # entries of A up to which every candidate is tried
GOOD = 0.1  # a candidate fits if its loss is at most this share of what it would be without cancellation


def problem_of(given: Checked, loss: str) -> Problem:
    """Return the problem on the host.

    Where a column hangs on few rows, ||a_j|| n^-1/2 may be far above the size of its entries in the rows that count,
    and the tolerance is a hundred times smaller.
    """
    A, norms, tol = given.A, given.norms, given.tol
    every = A.shape[0] // SAMPLE
    if every >= 2 and (passes.column_norms(A[::every]) * np.sqrt(every) < norms / 4).any():
        tol = max(tol / 100, REACHABLE * float(np.finfo(given.b.dtype).eps))
    least = least_scale(given.b, given.weights, loss)
    return Problem(passes.rows(A), given.b, given.weights, np.asarray(tol, given.b.dtype), norms, None, least)


class Start(NamedTuple):
    """A point, and the smallest pivot of the matrix that it was found by, as `State` has it; infinite without one."""

    x: Array
    pivot: Array | float = np.inf


def first_guess(kind: Objective, problem: Problem, rng: np.random.Generator) -> Start:
    """Return a start: for many rows the solution on a subset, itself found so, else the best linear guess.

    From a start without a fit the rescaled loss of sinh falls to 0: its stand-in is minimised first.
    """
    n, d = problem.A.shape
    loss = LOSSES[kind.loss]
    if loss.stand_in and lookup(kind.activation).parity == "odd":
        kind = kind._replace(loss=loss.stand_in)
        found = first_guess(kind, problem, rng)
        return _roughly(kind, problem._replace(tol=problem.tol + ROUGH), found, rng, found.x)
    size = max(PER_COLUMN * d, n // GROWTH, LEAST_ROWS)
    noise = rng.normal(size=d)
    if 4 * size > n and d <= MANY_COLUMNS:
        return best(kind, problem)
    small = (SLIGHT * spread(noise, problem.norms, n)).astype(problem.b.dtype)
    if d > MANY_COLUMNS:
        return Start(small)
    part = _subset(kind, problem, np.sort(rng.integers(0, n, size)))
    return _roughly(kind, part, first_guess(kind, part, rng), rng, small)


def spread(noise: Array, norms: Array, n: int) -> Array:
    """Return x (..., d) whose logits have standard deviation 1, in the mean over rows, from standard normal numbers."""
    return noise / norms * (n / noise.shape[-1]) ** 0.5


def _roughly(kind: Objective, problem: Problem, start: Start, rng: np.random.Generator, otherwise: Array) -> Start:
    """Return where a few steps lead, or `otherwise` if that is not finite."""
    A = problem.A.whole
    directions = chosen(AUTO, *A.shape, dense=not sparse.issparse(A)).host
    assert directions is not None
    step = partial(newton.step, kind, directions(A, rng), ROUGH_STEPS)
    end = run(step, first_state(kind, problem, start.x, np.zeros_like(start.x[0])))
    pivot = end.pivot if int(end.step) else start.pivot
    return Start(end.x, pivot) if np.isfinite(end.x).all() else Start(otherwise)


def _subset(kind: Objective, problem: Problem, index: Array) -> Problem:
    """Return the problem of these rows, its loss and regulariser in the proportion of the whole."""
    share, loss = len(index) / problem.A.shape[0], LOSSES[kind.loss]
    A = problem.A.whole[index]
    b, weights = problem.b[index], problem.weights
    if weights is not None:
        weights = weights[index] * share ** ((loss.rows_power - 1) / 2)
    if loss.relative:
        total = b.sum()
        b = b * (problem.b.sum() / total if total != 0 else 1 / share)
    norms = passes.column_norms(A)
    tol = np.asarray(max(ROUGH, float(problem.tol)), dtype=b.dtype)
    return Problem(passes.rows(A), b, weights, tol, np.where(norms > 0, norms, 1).astype(b.dtype), None, problem.least)


def best(kind: Objective, problem: Problem) -> Start:
    """Return the candidate with the smallest loss; for one that vanishes without a fit, of its stand-in.

    Of a large problem the first that fits at all is taken.
    """
    judge = kind._replace(loss=LOSSES[kind.loss].stand_in or kind.loss)
    found, least = Start(np.zeros(0)), np.inf
    small = problem.A.shape[0] * problem.A.shape[1] <= SMALL
    for start in candidates(kind, problem):
        x = start.x
        at, value = scaled_value(judge, problem, passes.matvec(problem.A, x), np.zeros((), x.dtype))
        target, factor = at.u - at.r, np.exp(at.log_scale)
        size = value + factor * (at.u @ at.u + target @ target) / 2
        value = value + np.finfo(x.dtype).eps * 1e-4 * size  # among exact fits the first
        if not len(found.x) or value < least:
            found, least = start, value if np.isfinite(value) else np.inf
        if not small and value < GOOD * size:
            break
    return found


def candidates(kind: Objective, problem: Problem) -> Iterator[Start]:
    """Yield starting points, best guess first; never x = 0 for even and odd phi, where it is stationary.

    On the host and traced: what depends on numbers is left out on the host only, and not finite where it is traced.
    """
    b, free, phi, xp = problem.b, LOSSES[kind.loss].relative, lookup(kind.activation), kind.ops.xp
    if phi.multiplicative:
        yield from _logarithms(kind, problem, free)
    elif phi.inverse is None:
        yield Start(SLIGHT / problem.norms)
    elif phi.parity == "even":
        least = xp.quantile(b, 0.02)
        yield _signs(kind, problem, phi.inverse(b / xp.where(least > 0, least, xp.ones_like(least)) if free else b))
    else:
        top = xp.abs(b).max()
        free = free and (xp is not np or top > 0)
        normal = _normal(kind, problem, kind.ops.gram(problem.A, xp.ones_like(b)))

        inverse = phi.inverse

        def fit(c: float) -> Start:
            wanted = inverse(xp.asarray(c / top if free else c, dtype=b.dtype) * b)
            return Start(normal.solve(kind.ops.rmatvec(problem.A, xp.nan_to_num(wanted))), normal.pivot)

        yield from kind.ops.each(fit, SCALES if free else [1.0])


def _logarithms(kind: Objective, problem: Problem, free: bool) -> Iterator[Start]:
    """Yield fits of log b: without weights, exact and best conditioned without noise, and with b^2, right for noise."""
    b, (n, d), xp = problem.b, problem.A.shape, kind.ops.xp
    positive = b > 0
    if xp is not np or positive.sum() >= min(n, d + 1):
        z = xp.log(xp.where(positive, b, 1.0))

        def fit(power: int) -> Start:
            return _fit(kind, problem, z, xp.where(positive, b, 0) ** power, free)

        yield from kind.ops.each(fit, (0, 2) if n * d <= SMALL else (2, 0))
    yield Start(xp.zeros(d, dtype=b.dtype), xp.inf)


def _fit(kind: Objective, problem: Problem, z: Array, weights: Array, centred: bool) -> Start:
    """Return x that minimises sum_i weights_i (a_i x - z_i - c)^2, over c too if `centred`."""
    weights, ops = weights / weights.max(), kind.ops
    exact = ops.xp is not np or problem.A.shape[0] * problem.A.shape[1] <= SMALL
    gram = ops.gram if exact else partial(passes.gram_in_single, norms=problem.norms)
    H, right = gram(problem.A, weights), ops.rmatvec(problem.A, weights * z)
    if centred:
        total, mass = ops.rmatvec(problem.A, weights), weights.sum()
        H = H - ops.xp.outer(total, total) / mass
        right = right - total * (weights @ z) / mass
    normal = _normal(kind, problem, H)
    return Start(normal.solve(right), normal.pivot if exact else newton.roughly(normal).pivot)


def _normal(kind: Objective, problem: Problem, H: Array) -> newton.Factor:
    """Return H factored, damped where it is singular."""
    return newton.damped(kind, H, problem.norms, kind.ops.xp.zeros((), H.dtype))


def _signs(kind: Objective, problem: Problem, wanted: Array) -> Start:
    """Return x with |A x| close to `wanted`, by alternating projections from the leading generalised eigenvector."""
    ops, xp, A = kind.ops, kind.ops.xp, problem.A
    H, weighted = ops.gram(A, xp.ones_like(wanted)), ops.gram(A, wanted**2)
    normal = _normal(kind, problem, H)
    if xp is np:
        scale, least = np.outer(problem.norms, problem.norms), np.finfo(H.dtype).eps * np.eye(len(H), dtype=H.dtype)
        x = linalg.eigh(weighted / scale, H / scale + len(H) * least)[1][:, -1] / problem.norms
    else:  # by powers, which are enough for a start
        x = _repeated(kind, lambda x: normal.solve(weighted @ (x / xp.max(xp.abs(x)))), 1 / problem.norms)

    def projected(x: Array) -> Array:
        return normal.solve(ops.rmatvec(A, xp.where(ops.matvec(A, x) < 0, -wanted, wanted)))

    return Start(_repeated(kind, projected, x), normal.pivot)


def _repeated(kind: Objective, function: Callable[[Array], Array], x: Array) -> Array:
    """Return x after `ALTERNATIONS` times a function."""
    count = kind.ops.xp.asarray(0)
    return kind.ops.while_loop(lambda at: at[0] < ALTERNATIONS, lambda at: (at[0] + 1, function(at[1])), (count, x))[1]
