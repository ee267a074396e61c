"""The setting of the theorem: ||A|| = ||x|| = R, a start at a distance from the minimiser, l and M (E.20)-(E.29)."""

import json
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from expreg import basin, residual
from expreg.data import problems
from expreg.residual import LOSSES
from expreg.solver import solve
from expreg.types import Array, Row, Settings

POLISHED = 3  # Newton steps after a solver has converged: the minimiser to rounding
POINTS = 16  # of the ball ||x|| <= R at which the Hessian is looked at
OWN = ("distance", "accuracy", "draw")
"""Keys of a cell that change neither its matrix nor its minimiser."""


class Minimum(NamedTuple):
    """A, b, the weights (n,) of the regulariser, the minimiser x*, float64, and their columns."""

    A: Array
    b: Array
    weights: Array
    x: Array
    columns: Row


def minimum(settings: Settings) -> Minimum:
    """Return the problem of a cell with its minimiser; cells with other starts and draws share it."""
    given = {name: value for name, value in settings["problem"].items() if name not in OWN}
    return _minimum(json.dumps(given, sort_keys=True), settings["seed"], settings["replicate"])


def problem(settings: Settings) -> problems.Problem:
    """Return the problem of a cell: its start lies in a random direction from the minimiser, which is its `planted`."""
    (A, b, weights, x, _), rng = minimum(settings), problems.stream(settings["seed"], settings["replicate"], 3)
    step = rng.standard_normal(len(x))
    return problems.Problem(A, b, x + settings["problem"]["distance"] * step / np.linalg.norm(step), x, weights)


@lru_cache(maxsize=256)
def _minimum(text: str, seed: int, replicate: int) -> Minimum:
    given = json.loads(text)
    A, b, planted, *_ = problems.make(given, seed, replicate)
    kind, w = (given["loss"], given["activation"]), given["weight"]
    w = basin.RULES[w](A, b, given["radius"], *kind) if w in basin.RULES else w
    weights = np.broadcast_to(w, b.shape).astype(float)
    x = solve(A, b, loss=kind[0], activation=kind[1], solver="newton", weights=weights, x0=planted).x
    for _ in range(POLISHED):
        z = A @ x
        slope = residual.gradient(z, b, *kind) + weights**2 * z
        x = x - np.linalg.solve(basin.hessian(A, b, x, weights, *kind), A.T @ slope)
    size = {"weight_largest": float(weights.max()), "shrinkage": float(np.linalg.norm(x) / np.linalg.norm(planted))}
    points = problems.stream(seed, replicate, 5).standard_normal((POINTS, len(x)))
    points *= given["radius"] / np.linalg.norm(points, axis=1, keepdims=True)
    return Minimum(A, b, weights, x, size | _constants(A, b, weights, x, points, given["radius"], *kind))


def _constants(
    A: Array, b: Array, weights: Array, x: Array, points: Array, radius: float, loss: str, activation: str
) -> Row:
    """Return l and M as the Hessians at x* and at points of the ball have them, their bounds, and the good start."""
    middle, *others = (basin.hessian(A, b, at, weights, loss, activation) for at in (x, *points))
    changes = [np.linalg.norm(H - middle, 2) / np.linalg.norm(at - x) for H, at in zip(others, points, strict=True)]
    smallest, by_norms = float(np.linalg.eigvalsh(middle)[0]), LOSSES[loss].by_norms
    size = float(np.linalg.norm(x))

    def lipschitz(reach: float) -> Any:
        return basin.hessian_lipschitz(A, b, reach, loss, activation)

    M = lipschitz(radius)
    return {
        "hessian_smallest": smallest,
        "hessian_least": min(float(np.linalg.eigvalsh(H)[0]) for H in (middle, *others)),
        "hessian_change": float(max(changes)),
        "hessian_lipschitz": M,
        "start_radius": None if M is None else basin.start_radius(smallest, lambda r: lipschitz(size + r)),
        "start_radius_norms": basin.start_radius(smallest, lambda _: by_norms(b, radius)[1]) if by_norms else None,
    }
