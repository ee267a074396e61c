"""A short run of the coverage study: intervals hold the exponent about as often as they say, where they should."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

REPETITIONS = 40


@pytest.fixture(scope="module")
def study() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "coverage.py")))


@pytest.mark.parametrize("law", ["theory", "lognormal", "logistic"])
def test_intervals_cover_within_binomial_bounds_and_are_as_wide_as_the_estimates_scatter(
    study: SimpleNamespace, law: str
) -> None:
    found = study.study(law, REPETITIONS, resamples=100, seed=5)
    lowest = stats.binom.ppf(1e-3, REPETITIONS, 0.92) / REPETITIONS
    for name in sorted(study.RIGHT[law]):
        rows = found["intervals"][name]
        assert study.coverage(rows) >= lowest, name
        assert (rows[:, 2] - rows[:, 1]).mean() / 3.92 == pytest.approx(rows[:, 0].std(), rel=0.35), name
        assert rows[:, 0].mean() == pytest.approx(study.ALPHA, abs=4 * rows[:, 0].std() / np.sqrt(REPETITIONS)), name


def test_a_model_of_the_centre_is_wrong_about_the_quantile_of_a_skew_law(study: SimpleNamespace) -> None:
    # Under the theory's law log(n / delta) is the factor of the quantile, not that of the mean of log m*.
    rows = study.study("theory", 12, resamples=100, seed=6)["intervals"]["censored, lognormal"]
    assert study.coverage(rows) < 0.5
    assert rows[:, 0].mean() > study.ALPHA + 0.05
