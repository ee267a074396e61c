"""Planted truths: verdicts on exponents are right or undecided, and never on the wrong side."""

import math
from functools import partial

import numpy as np
import pytest

from expreg.core.stats import exponents, success
from expreg.kinds.network.summary import growth

DELTA, NS, REPLICATES, REPETITIONS = 0.5, (4, 8, 16, 32), 40, 400
LOCATE = partial(success.threshold, level=1.0 - DELTA)


def planted(
    rng: np.random.Generator, alpha: float, lam: dict[int, float], widest: float, *, monotone: bool = True
) -> list[exponents.Point]:
    """Return points of m* = 8 lambda^-2 n^alpha (log n + Exp(1)) (C.14, D.8) on one grid for all n, up to `widest`."""
    points = []
    widths = np.unique(2 * np.round(np.geomspace(1, widest / 2, 22)))
    for n in NS:
        star = 8 * n**alpha / lam[n] ** 2 * (math.log(n) + rng.exponential(size=REPLICATES))
        table = (widths >= star[:, None]).astype(float)
        if not monotone:
            table = np.where(rng.random(table.shape) < 0.03, 1.0 - table, table)
        found = exponents.point(n, widths, table, exponents.resample(REPLICATES, 100, rng), LOCATE)
        points += [found] if found is not None else []
    return points


LAMBDAS = {
    "constant": dict.fromkeys(NS, 1.0),
    "falls": {n: (n / 4) ** -1.2 for n in NS},
    "grows": {n: (n / 4) ** 0.15 for n in NS},
}
# The widest width shows the whole range of thresholds, or cuts the largest n off.
GRIDS = {"wide": 2.0**24, "narrow": 2.0**13}


def verdicts(
    alpha: float, lam: str, widest: float, *, monotone: bool = True, repetitions: int = REPETITIONS
) -> list[str]:
    found = []
    values = LAMBDAS[lam]
    spectrum = [{"n": n, "lambda_cts": values[n]} for n in NS]
    for k in range(repetitions):
        rng = np.random.default_rng([int(10 * alpha), len(lam), k])
        fit = exponents.fit(planted(rng, alpha, values, widest, monotone=monotone), DELTA, 0.95, 6)
        found.append(growth.judge(fit, "corrected", 2.0, spectrum, 0.95)[0][0])
    return found


@pytest.mark.parametrize("monotone", [True, False])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("lam", LAMBDAS)
@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
def test_a_width_that_grows_at_most_like_the_claim_is_never_said_to_contradict_it(
    alpha: float, lam: str, grid: str, monotone: bool
) -> None:
    found = verdicts(alpha, lam, GRIDS[grid], monotone=monotone)
    right = found.count("consistent") + found.count("cannot decide")
    assert right >= 0.95 * REPETITIONS
    assert found.count("contradicts") == 0


@pytest.mark.parametrize("lam", LAMBDAS)
def test_a_grid_that_is_wide_enough_decides(lam: str) -> None:
    for alpha, expected in ((0.0, "consistent"), (1.0, "consistent"), (3.0, "contradicts")):
        found = verdicts(alpha, lam, GRIDS["wide"], repetitions=100)
        assert found.count(expected) >= 95
