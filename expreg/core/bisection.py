"""Bisection along a line of cells, such as the widths of one replicate, on which success begins once and stays."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Bracket(NamedTuple):
    """Where success begins: after place `low`, which failed (-1: before the line), at `high` or before it.

    `high` succeeded (the length of the line: beyond it); `asked` is the place to look at next, None if there is none.
    """

    low: int
    high: int
    asked: int | None


def bisect(outcomes: Sequence[float | None]) -> Bracket:
    """Return the bracket that bisection finds among 1 (success), 0 (none), nan (no answer) and None (not known yet).

    It depends on the outcomes alone, not on the order in which they became known. A place without an answer is
    left out for its neighbours, so that the bracket may end wider than one step.
    """
    low, high = -1, len(outcomes)
    while True:
        nearest = _answered(outcomes, low, high)
        if nearest is None or outcomes[nearest] is None:
            return Bracket(low, high, nearest)
        low, high = (low, nearest) if outcomes[nearest] else (nearest, high)


def _answered(outcomes: Sequence[float | None], low: int, high: int) -> int | None:
    """Return the place between two others nearest to their middle that has an answer, or may have one; None if none."""
    middle = (low + high) // 2
    for distance in range(high - low):
        for place in (middle - distance, middle + distance):
            if low < place < high and ((outcome := outcomes[place]) is None or not math.isnan(outcome)):
                return place
    return None


def verified(replicates: Any, share: float) -> Any:
    """Return which replicates (numbers from 0) run their whole line: this share of them, spread evenly from 0 on."""
    before, after = (np.ceil(np.round((np.asarray(replicates) + more) * share, 9)) for more in (0, 1))
    return after > before
