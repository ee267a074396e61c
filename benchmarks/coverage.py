"""Do 95 % intervals of the exponent cover it 95 times in 100? Thresholds are drawn from laws with a known exponent.

    nice python benchmarks/coverage.py [repetitions]        (400 take a few minutes)

Three laws of m* with the same (1 - delta)-quantile C n^alpha log(n / delta): the theory's (D.8), a lognormal and a
log-logistic one. Replicates at five n on a half-octave grid that lies anywhere; every estimator sees the same
outcomes and the same bootstrap samples. A model is right for one of the laws; what it does under the others is
printed too, since that is what a wrong choice costs.
"""

import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from scipy import special

from expreg.core.stats import censored, exponents, laws, success

NS = (4, 8, 16, 32, 64)
DELTA, CONFIDENCE, ALPHA, CONSTANT = 0.1, 0.95, 1.3, 6.0
STEP = math.log(2.0) / 2.0

# Which estimators speak of the exponent of the quantile under which law. The lognormal law has one spread for all n,
# which the theory's law has not: there it finds the exponent of its centre, above 1.3.
RIGHT = {
    "theory": {"quantile", "censored, theory", "censored, law by AIC"},
    "lognormal": {"quantile", "censored, lognormal", "censored, law by AIC"},
    "logistic": {"quantile", "censored, lognormal", "censored, law by AIC"},
}

Draw = Callable[[np.random.Generator, int, int], np.ndarray]


def _theory(rng: np.random.Generator, n: int, size: int) -> np.ndarray:
    return (math.log(n) + rng.exponential(size=size)) / math.log(n / DELTA)


def _lognormal(rng: np.random.Generator, n: int, size: int) -> np.ndarray:
    del n
    return np.exp(0.5 * (rng.standard_normal(size) - special.ndtri(1.0 - DELTA)))


def _logistic(rng: np.random.Generator, n: int, size: int) -> np.ndarray:
    del n
    return np.exp(0.3 * (rng.logistic(size=size) - special.logit(1.0 - DELTA)))


# m* / its (1 - delta)-quantile
LAWS: dict[str, Draw] = {"theory": _theory, "lognormal": _lognormal, "logistic": _logistic}


def outcomes(law: str, replicates: int, resamples: int, rng: np.random.Generator) -> list[laws.Sample]:
    """Return the outcomes at all n; the grid reaches from a twelfth to six times the quantile."""
    samples = []
    for n in NS:
        quantile = CONSTANT * n**ALPHA * math.log(n / DELTA)
        thresholds = quantile * LAWS[law](rng, n, replicates)
        steps = np.arange(math.ceil(math.log(72.0) / STEP)) + rng.random()
        widths = quantile / 12.0 * np.exp(STEP * steps)
        table = (widths >= thresholds[:, None]).astype(float)
        samples.append(laws.Sample(n, widths, table, exponents.resample(replicates, resamples, rng).counts))
    return samples


def by_quantile(samples: list[laws.Sample], rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the estimate of the summary: least squares on thresholds of the pooled success curve."""
    locate = partial(success.threshold, level=1.0 - DELTA)
    points = []
    for sample in samples:
        drawn = exponents.Resamples(sample.counts, rng.uniform(-0.5, 0.5, size=len(sample.counts)))
        point = exponents.point(sample.n, sample.widths, sample.success, drawn, locate)
        points += [point] if point is not None else []
    yield "quantile", exponents.fit(points, DELTA, CONFIDENCE, 1)["corrected"]


def by_likelihood(samples: list[laws.Sample], rng: np.random.Generator) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the interval-censored estimates, and that of the law which AIC prefers."""
    del rng
    found = censored.describe(samples, DELTA, CONFIDENCE)
    for law in ("theory", "lognormal"):
        yield f"censored, {law}", found[law]["corrected"]
    yield "censored, law by AIC", found[found["best"]["law"]]["corrected"]


METHODS = (by_quantile, by_likelihood)


def study(law: str, repetitions: int, *, replicates: int = 64, resamples: int = 400, seed: int = 0) -> dict[str, Any]:
    """Return per estimator an array (repetitions, 3) of value, low and high, and seconds per method."""
    intervals: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    seconds: dict[str, float] = defaultdict(float)
    for repetition in range(repetitions):
        rng = np.random.default_rng([seed, repetition])
        samples = outcomes(law, replicates, resamples, rng)
        for method in METHODS:
            began = time.perf_counter()
            for name, found in method(samples, rng):
                intervals[name].append((found["value"], found["low"], found["high"]))
            seconds[method.__name__] += (time.perf_counter() - began) / repetitions
    return {"intervals": {name: np.array(rows) for name, rows in intervals.items()}, "seconds": dict(seconds)}


def coverage(intervals: np.ndarray) -> float:
    """Return the share of intervals that hold the true exponent."""
    return float(np.mean((intervals[:, 1] <= ALPHA) & (intervals[:, 2] >= ALPHA)))


def main(repetitions: int) -> None:
    """Print the table."""
    print(f"{'law':10} {'estimator':22} {'coverage':>9} {'bias':>8} {'sd':>7} {'half-width / 1.96':>18}")
    for law in LAWS:
        found = study(law, repetitions)
        for name, rows in found["intervals"].items():
            spread = (rows[:, 2] - rows[:, 1]).mean() / 3.92
            note = "" if name in RIGHT[law] else "not its law"
            bias, sd = rows[:, 0].mean() - ALPHA, rows[:, 0].std()
            print(
                f"{law:10} {name:22} {coverage(rows):9.3f} {bias:+8.4f} {sd:7.4f} {spread:18.4f}   {note}", flush=True
            )
        print("    seconds:", *(f"{name} {value:.3f}" for name, value in found["seconds"].items()), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
