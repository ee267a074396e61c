"""Find what is wrong with a data set before anything is computed from it."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from expreg.activation import lookup
from expreg.errors import Problem

NORM_TOLERANCE = 1e-6
MIN_DISTANCE = 1e-3  # closer points make lambda_min(H) of the order of 1e-6: all that is measured is that
_BLOCK = 512  # rows compared at a time, so that the distances never need n^2 memory


def validate(
    X: np.ndarray,
    y: np.ndarray,
    *,
    activation: str,
    allow_duplicates: bool = False,
    name: str | None = None,
) -> list[Problem]:
    """Return the problems of the data set X (n, d), y (n,); none when it can be used.

    Shapes come first, then finite values, then zero rows, unit norms and points nearer than 1e-3 to each
    other (for even and odd activations also to each other's negative), where lambda_min(H^cts) is zero or nearly so
    (B.20). `name` is the file the arrays came from.
    """
    problems = list(_shape_problems(X, y))
    if not problems:
        problems = [*_finite_problems("X", X), *_finite_problems("y", y)]
    if not problems:
        problems = list(_norm_problems(X))
        if not allow_duplicates:
            problems += _duplicate_problems(X, both_signs=lookup(activation).parity is not None)
    return [replace(problem, file=name) for problem in problems]


def _shape_problems(X: np.ndarray, y: np.ndarray) -> Iterator[Problem]:
    if X.ndim != 2 or 0 in X.shape:
        yield Problem("E-SHAPE", f"got shape {X.shape}, expected (points, dimensions), both at least 1", key="X")
    elif y.shape != X.shape[:1]:
        rule = f"expected {X.shape[:1]} to match X {X.shape}"
        yield Problem("E-SHAPE", f"got shape {y.shape}, {rule}", key="y")


def _finite_problems(name: str, array: np.ndarray) -> Iterator[Problem]:
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        place = tuple(int(index) for index in bad[0])
        count = f" ({len(bad)} such values)" if len(bad) > 1 else ""
        key = f"{name}[{','.join(map(str, place))}]"
        yield Problem("E-DATA", f"got {array[place]}, expected finite{count}", key=key)


def _norm_problems(X: np.ndarray) -> Iterator[Problem]:
    with np.errstate(over="ignore"):  # an infinite norm is not 1 either
        norms = np.linalg.norm(X, axis=1)
    for i in np.flatnonzero(norms == 0):
        yield Problem("E-DATA", "zero row: lambda_min(H) is 0; remove it", key=f"X[{i}]")
    wrong = np.flatnonzero((np.abs(norms - 1) > NORM_TOLERANCE) & (norms > 0))
    if len(wrong):
        count = f" ({len(wrong)} such rows)" if len(wrong) > 1 else ""
        rule = f"expected 1 +- {NORM_TOLERANCE:g}{count}; set data.normalise: true"
        yield Problem("E-DATA", f"norm {norms[wrong[0]]:.6g}, {rule}", key=f"X[{wrong[0]}]")


def _duplicate_problems(X: np.ndarray, *, both_signs: bool) -> Iterator[Problem]:
    """Yield one problem for each point with an earlier one within MIN_DISTANCE of it, or of its negative.

    Zero rows are left out: they have a problem of their own.
    """
    q = np.einsum("ij,ij->i", X, X)
    for start in range(0, len(X), _BLOCK):
        stop = min(start + _BLOCK, len(X))
        products = X[start:stop] @ X[:stop].T
        sums = q[start:stop, None] + q[None, :stop]
        squared = sums - 2 * (np.abs(products) if both_signs else products)
        earlier = np.arange(stop)[None, :] < np.arange(start, stop)[:, None]
        near = (squared < MIN_DISTANCE**2) & earlier & (q[start:stop, None] > 0)
        for row in np.flatnonzero(near.any(axis=1)):
            i, j = start + row, near[row].argmax()
            opposite = both_signs and products[row, j] < 0
            distance = np.linalg.norm(X[i] + X[j] if opposite else X[i] - X[j])
            other = f"-X[{j}]" if opposite else f"X[{j}]"
            what, size = (f"is {distance:.2g} away from", "nearly 0") if distance else ("equals", "0")
            rule = f"lambda_min(H) is {size} (needs distance >= {MIN_DISTANCE:g})"
            remedy = "set data.allow_duplicates: true to study it"
            yield Problem("E-DATA", f"X[{i}] {what} {other}: {rule}; {remedy}")
