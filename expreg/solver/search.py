"""How far to go: a backtracking line search on z + t dz, which never reads A (F.13)."""

from typing import NamedTuple

from expreg.solver.state import Objective, Point, Problem, scaled_value
from expreg.types import Array

SUFFICIENT = 1e-4
"""The share of the slope by which the loss must fall (F.13)."""
LARGEST = 10.0
"""The largest change of a logit in one step: exp changes by e^10."""
HALVINGS = 40


class Found(NamedTuple):
    """The step length; `accepted` is False where no length lowers the objective."""

    length: Array
    accepted: Array


class _Trial(NamedTuple):
    length: Array
    accepted: Array
    count: Array


def armijo(kind: Objective, problem: Problem, point: Point, dz: Array, slope: Array) -> Found:
    """Return the first t of 1, 1/2, 1/4, ... with objective(t) <= objective(0) + 1e-4 t slope (F.13).

    Starts below 1 where a logit would move by more than `LARGEST`. Near the minimum the change drowns in
    rounding: a rise of a few units in the last place of the terms that cancel is allowed.
    """
    xp = kind.ops.xp
    room = 8 * xp.finfo(dz.dtype).eps * point.size

    def enough(t: Array) -> Array:
        _, value, _ = scaled_value(kind, problem, point.z + t * dz, point.at.log_scale)
        return value <= point.objective + SUFFICIENT * t * slope + room

    def halve(trial: _Trial) -> _Trial:
        t = trial.length / 2
        return _Trial(t, enough(t), trial.count + 1)

    furthest = xp.max(xp.abs(dz))
    first = xp.where(furthest > LARGEST, LARGEST / furthest, xp.ones_like(furthest))
    end = kind.ops.while_loop(
        lambda trial: ~trial.accepted & (trial.count < HALVINGS),
        halve,
        _Trial(first, enough(first), xp.asarray(0)),
    )
    return Found(end.length, end.accepted & (slope < 0))
