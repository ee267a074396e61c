"""The likelihood in the summary: what it adds, when it is refused and why."""

import math
from typing import Any

import numpy as np
import pytest

from expreg.core.stats import exponents
from expreg.core.stats.summary import Asked
from expreg.kinds.network.summary import groups
from expreg.kinds.network.summary.summary import likelihoods

NS = (4, 8, 16, 32)


def tables(replicates: int, step: float = 2**0.5, ns: tuple[int, ...] = NS) -> dict[int, groups.Outcomes]:
    """Return outcomes under the theory's law with exponent 1, widths around the threshold."""
    result = {}
    for n in ns:
        star = 6 * n * (math.log(n) + np.random.default_rng(n).exponential(size=replicates))
        widths = 6 * n * math.log(n) * np.exp(np.arange(-1.5, 3.0, math.log(step)))
        result[n] = groups.Outcomes(widths, (widths >= star[:, None]).astype(float))
    return result


def described(found: dict[int, groups.Outcomes]) -> dict[str, Any]:
    draws = {n: exponents.resample(len(table.success), 60, np.random.default_rng(n)) for n, table in found.items()}
    return likelihoods(found, draws, Asked())


def test_the_likelihood_is_usable_and_agrees_with_the_law() -> None:
    found = described(tables(80))
    assert found["usable"]
    assert found["best"]["law"] == "theory"
    assert found["theory"]["corrected"]["value"] == pytest.approx(1.0, abs=0.1)


def test_fewer_replicates_than_the_quantile_needs_are_refused_with_the_number() -> None:
    record = described(tables(35))
    assert not record["usable"]
    assert "needs 36 (D.4)" in record["why_not"]
    assert "best" in record  # the numbers are there to look at


@pytest.mark.parametrize(
    ("ns", "words"), [((8,), "1 value of n"), ((8, 16), "2 values of n"), ((4, 5, 6), "factor 1.5")]
)
def test_too_short_a_range_of_n_is_refused(ns: tuple[int, ...], words: str) -> None:
    assert words in described(tables(40, ns=ns))["why_not"]


def test_an_n_that_is_always_or_never_successful_still_counts_as_censored() -> None:
    found = tables(40)
    found[64] = groups.Outcomes(np.array([8.0, 16.0]), np.zeros((40, 2)))
    found[2] = groups.Outcomes(np.array([800.0, 1600.0]), np.ones((40, 2)))
    record = described(found)
    assert (record["replicates"], record["censored_above"], record["censored_below"]) == (240, 40, 40)
    assert record["usable"]
    assert record["theory"]["corrected"]["value"] == pytest.approx(1.0, abs=0.15)


def test_a_spread_that_the_grid_does_not_resolve_is_refused() -> None:
    step = np.tile([0.0, 1.0, 1.0], (40, 1))
    assert "finer" in described({n: groups.Outcomes(n * np.array([4.0, 8.0, 16.0]), step) for n in NS})["why_not"]


def test_widths_that_follow_a_power_of_n_are_refused_in_words() -> None:
    column = np.tile([[0.0], [1.0]], (20, 1))
    found = described({n: groups.Outcomes(np.array([2.0 * n**2]), column) for n in NS})
    assert "independently" in found["why_not"]
