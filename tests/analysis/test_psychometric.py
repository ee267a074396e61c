"""Generalised linear models of success: other optimizers, closed cases, symmetry, separation, the delta method."""

import itertools
import math

import numpy as np
import pytest
from scipy import optimize, special, stats

from expreg.core.stats import laws, psychometric
from expreg.core.stats.psychometric import LOGIT, PROBIT, Link

NS, MS = np.array([8.0, 16.0, 32.0, 64.0]), 2.0 ** np.arange(2, 10)
TRUE = np.array([-4.0, 2.5, -3.0])
TRIALS = 30.0
MEAN = {"logit": special.expit, "probit": stats.norm.cdf}
LINKS = {"logit": LOGIT, "probit": PROBIT}


def grid(delta: float | None = None) -> np.ndarray:
    n, m = np.meshgrid(NS, MS)
    return psychometric.design(n.ravel(), m.ravel(), delta)


def drawn(rng: np.random.Generator, batch: int = 1, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    columns = grid()
    trials = np.full((batch, len(columns)), TRIALS)
    return columns, rng.binomial(int(TRIALS), special.expit(columns @ TRUE * scale), trials.shape).astype(float), trials


def loss(b: np.ndarray, columns: np.ndarray, hits: np.ndarray, misses: np.ndarray, link: str) -> float:
    z = columns @ b
    log_up, log_down = np.log(np.maximum(MEAN[link]([z, -z]), 1e-300))
    return -float(hits @ log_up + misses @ log_down)


@pytest.mark.parametrize("link", ["logit", "probit"])
def test_the_fit_agrees_with_a_general_optimizer_on_the_same_likelihood(link: str) -> None:
    columns, hits, trials = drawn(np.random.default_rng(0))
    found = psychometric.fit(columns, hits, trials, LINKS[link])
    args = (columns, hits[0], trials[0] - hits[0], link)
    best = optimize.minimize(loss, np.zeros(3), args=args, method="BFGS", options={"gtol": 1e-7})
    np.testing.assert_allclose(found.coefficients[0], best.x, atol=2e-5)
    assert found.log_likelihood[0] == pytest.approx(-best.fun)
    assert not found.penalised[0]


def test_as_many_cells_as_coefficients_are_fitted_exactly() -> None:
    columns = psychometric.design(np.array([8.0, 8.0, 16.0]), np.array([16.0, 64.0, 64.0]))
    hits, trials = np.array([[3.0, 8.0, 6.0]]), np.array([[10.0, 10.0, 12.0]])
    for link in (LOGIT, PROBIT):
        z = columns @ psychometric.fit(columns, hits, trials, link).coefficients[0]
        np.testing.assert_allclose(z, link.inverse(hits[0] / trials[0]), atol=1e-6)  # type: ignore[arg-type]


def test_the_covariance_is_the_inverse_of_the_curvature() -> None:
    columns, hits, trials = drawn(np.random.default_rng(1))
    found = psychometric.fit(columns, hits, trials)
    b, moves = found.coefficients[0], 1e-3 * np.eye(3)
    args = (columns, hits[0], trials[0] - hits[0], "logit")
    curvature = [
        [sum(s * t * loss(b + s * x + t * y, *args) for s in (1, -1) for t in (1, -1)) / 4e-6 for y in moves]
        for x in moves
    ]
    np.testing.assert_allclose(found.covariance[0], np.linalg.inv(curvature), rtol=1e-3)


@pytest.mark.parametrize("link", [LOGIT, PROBIT])
@pytest.mark.parametrize("scale", [1.0, 60.0])  # 60: separated, so Firth's penalty obeys the symmetry as well
def test_exchanging_success_and_failure_changes_the_signs_and_not_the_exponent(link: Link, scale: float) -> None:
    columns, hits, trials = drawn(np.random.default_rng(2), scale=scale)
    one, other = psychometric.fit(columns, hits, trials, link), psychometric.fit(columns, trials - hits, trials, link)
    assert one.penalised[0] == other.penalised[0] == (scale > 1)
    np.testing.assert_allclose(one.coefficients, -other.coefficients, rtol=1e-5)
    alphas = [psychometric.exponent(found.coefficients, found.covariance)[0] for found in (one, other)]
    np.testing.assert_allclose(alphas[0], alphas[1], rtol=1e-5)


@pytest.mark.parametrize(("hits", "trials"), [(0.0, 10.0), (10.0, 10.0)])
def test_firth_adds_half_a_success_and_half_a_failure_where_there_is_one_cell(hits: float, trials: float) -> None:
    found = psychometric.fit(np.ones((1, 1)), np.array([[hits]]), np.array([[trials]]))
    assert found.separated[0]
    assert found.coefficients[0, 0] == pytest.approx(math.log((hits + 0.5) / (trials - hits + 0.5)), abs=1e-6)


@pytest.mark.parametrize("link", ["logit", "probit"])
def test_firth_maximises_the_likelihood_times_the_root_of_the_information(link: str) -> None:
    columns = grid()
    hits = np.where(columns @ TRUE > 0, TRIALS, 0.0)[None]
    found = psychometric.fit(columns, hits, np.full_like(hits, TRIALS), LINKS[link])
    assert found.separated[0]
    assert found.penalised[0]
    law = {"logit": stats.logistic, "probit": stats.norm}[link]

    def penalised(b: np.ndarray) -> float:
        z = columns @ b
        weight = TRIALS * np.exp(2 * law.logpdf(z) - law.logcdf(z) - law.logcdf(-z))
        return (
            loss(b, columns, hits[0], TRIALS - hits[0], link) - np.linalg.slogdet(columns.T * weight @ columns)[1] / 2
        )

    start = found.coefficients[0]
    best = optimize.minimize(penalised, 0.9 * start, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10})
    np.testing.assert_allclose(start, best.x, rtol=2e-3)
    assert penalised(start) <= best.fun + 1e-7
    assert found.log_likelihood[0] == pytest.approx(-loss(start, columns, hits[0], TRIALS - hits[0], link))


def test_separation_is_what_a_search_over_directions_finds() -> None:
    rng = np.random.default_rng(3)
    answers = []
    angles = np.linspace(0, 2 * np.pi, 721)  # the points have integer coordinates: their normals are among few angles
    for _ in range(200):
        points = rng.integers(-2, 3, size=(6, 2)).astype(float)
        if np.linalg.matrix_rank(points) < 2:
            continue
        hits, misses = rng.integers(0, 2, size=(2, 6)).astype(float)
        normals = np.concatenate([np.column_stack([np.cos(angles), np.sin(angles)]), points @ [[0, -1], [1, 0]]])
        along = np.concatenate([normals, -normals]) @ points.T
        holds = ((along > -1e-9) | (hits == 0)) & ((along < 1e-9) | (misses == 0))
        expected = bool((holds.all(axis=1) & (np.linalg.norm(np.concatenate([normals, -normals]), axis=1) > 0)).any())
        assert psychometric.separated(points, hits[None], misses[None])[0] == expected
        answers.append(expected)
    assert 0.1 < np.mean(answers) < 0.9


def test_one_overlapping_replicate_ends_the_separation() -> None:
    columns = grid()
    hits = np.where(columns @ TRUE > 0, TRIALS, 0.0)
    overlapping = hits.copy()
    overlapping[[np.argmin(columns @ TRUE), np.argmax(columns @ TRUE)]] = [1.0, TRIALS - 1.0]
    both = np.stack([overlapping, hits])
    np.testing.assert_array_equal(psychometric.separated(columns, both, TRIALS - both), [False, True])
    # If the data are not separated, only the bootstrap samples that are get the penalty; otherwise all do.
    trials = np.full_like(both, TRIALS)
    np.testing.assert_array_equal(psychometric.fit(columns, both, trials).penalised, [False, True])
    np.testing.assert_array_equal(psychometric.fit(columns, both[::-1], trials).penalised, [True, True])


def test_delta_method_errors_are_the_spread_over_repetitions() -> None:
    columns, hits, trials = drawn(np.random.default_rng(4), batch=600)
    found = psychometric.fit(columns, hits, trials)
    at = np.log([32.0])
    for value, variance in (
        psychometric.exponent(found.coefficients, found.covariance),
        psychometric.threshold(found.coefficients, found.covariance, at, 0.9),
    ):
        assert np.sqrt(variance).mean() == pytest.approx(value.std(), rel=0.12)
    alpha, _ = psychometric.exponent(found.coefficients, found.covariance)
    assert alpha.mean() == pytest.approx(1.2, abs=4 * alpha.std() / math.sqrt(600) + 0.002)


def test_variances_carry_the_numerical_gradient() -> None:
    rng = np.random.default_rng(5)
    root = rng.normal(size=(3, 3))
    covariance, at = root @ root.T, np.log([20.0])

    def both(b: np.ndarray) -> np.ndarray:
        return np.array(
            [
                psychometric.exponent(b, covariance)[0],
                psychometric.threshold(b, covariance, at, 0.9, PROBIT)[0],
            ]
        )

    gradient = np.array([(both(TRUE + e) - both(TRUE - e)) / 2e-5 for e in 1e-5 * np.eye(3)]).T
    expected = np.diag(gradient @ covariance @ gradient.T)
    found = [
        psychometric.exponent(TRUE, covariance)[1],
        psychometric.threshold(TRUE, covariance, at, 0.9, PROBIT)[1],
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("link", [LOGIT, PROBIT])
def test_success_has_the_asked_probability_at_the_threshold(link: Link) -> None:
    log_m, _ = psychometric.threshold(TRUE, np.eye(3), np.log([32.0]), 0.9, link)
    z = np.array([1.0, float(log_m), math.log(32.0)]) @ TRUE
    assert np.exp(link.log_mean(z)) == pytest.approx(0.9)


def test_scaling_the_widths_by_a_power_of_n_adds_it_to_the_exponent() -> None:
    columns, hits, trials = drawn(np.random.default_rng(6))
    tilted = columns.copy()
    tilted[:, 1] += 0.7 * columns[:, 2] + 1.0
    plain, shifted = (psychometric.fit(x, hits, trials) for x in (columns, tilted))
    alphas = [psychometric.exponent(found.coefficients, found.covariance) for found in (plain, shifted)]
    assert alphas[1][0] - alphas[0][0] == pytest.approx(0.7)
    assert plain.log_likelihood == pytest.approx(shifted.log_likelihood)


def test_the_log_factor_divides_the_widths() -> None:
    n, m = (part.ravel() for part in np.meshgrid(NS, MS))
    np.testing.assert_allclose(psychometric.design(n, m, 0.1), psychometric.design(n, m / np.log(n / 0.1)))


def test_a_covariate_gets_its_coefficient_and_moves_the_threshold() -> None:
    rng = np.random.default_rng(7)
    n, m, extra = (part.ravel() for part in np.meshgrid(NS, MS, [0.0, 1.0, 2.0]))
    columns = psychometric.design(n, m, covariates=[extra])
    b = np.append(TRUE, -1.5)
    trials = np.full((1, len(n)), 4000.0)
    hits = rng.binomial(4000, special.expit(columns @ b))[None].astype(float)
    found = psychometric.fit(columns, hits, trials)
    np.testing.assert_allclose(found.coefficients[0], b, atol=4 * np.sqrt(np.diag(found.covariance[0])).max())
    low, high = (
        psychometric.threshold(found.coefficients, found.covariance, np.array([3.0, x]), 0.9)[0][0] for x in (0.0, 1.0)
    )
    assert high - low == pytest.approx(-found.coefficients[0, 3] / found.coefficients[0, 1])


def test_dependent_columns_are_refused() -> None:
    n = np.array([4.0, 8.0, 16.0, 32.0])
    with pytest.raises(ValueError, match="linearly dependent"):
        psychometric.fit(psychometric.design(n, 3 * n**2), np.ones((1, 4)), np.full((1, 4), 2.0))
    with pytest.raises(ValueError, match="linearly dependent"):
        psychometric.fit(psychometric.design(np.full(4, 4.0), n), np.ones((1, 4)), np.full((1, 4), 2.0))


def sample(rng: np.random.Generator, n: int, law: str, replicates: int, resamples: int = 0) -> laws.Sample:
    noise = {"theory": lambda: np.log(math.log(n) + rng.exponential(size=replicates))}
    noise["logistic"] = lambda: 0.3 * rng.logistic(size=replicates) + math.log(math.log(n / 0.1))
    star = 6 * n**1.3 * np.exp(noise[law]())
    widths = 6 * n**1.3 * 2.0 ** np.arange(-2, 5, 0.5)
    counts = rng.multinomial(replicates, np.full(replicates, 1 / replicates), size=resamples)
    return laws.Sample(n, widths, (widths >= star[:, None]).astype(float), counts.astype(float))


def test_counts_of_the_bootstrap_are_those_of_the_redrawn_table() -> None:
    rng = np.random.default_rng(8)
    plain = sample(rng, 8, "theory", 12, resamples=3)
    table = np.where(rng.random(plain.success.shape) < 0.2, np.nan, plain.success)
    table[:, 4] = np.nan
    cells = psychometric.tally([plain._replace(success=table), plain._replace(n=16)])
    kept = np.delete(np.arange(len(plain.widths)), 4)
    np.testing.assert_array_equal(cells.m[: len(kept)], plain.widths[kept])
    for row, counts in enumerate([np.ones(12), *plain.counts]):
        redrawn = np.repeat(table[:, kept], counts.astype(int), axis=0)
        np.testing.assert_array_equal(cells.successes[row, : len(kept)], np.nansum(redrawn, axis=0))
        np.testing.assert_array_equal(cells.trials[row, : len(kept)], (~np.isnan(redrawn)).sum(axis=0))


@pytest.mark.parametrize(("law", "link"), [("theory", "theory"), ("logistic", "logit")])
def test_aic_finds_the_link_that_made_the_data(law: str, link: str) -> None:
    rng = np.random.default_rng(9)
    found = psychometric.describe([sample(rng, n, law, 400, 50) for n in (4, 8, 16, 32, 64)], 0.1, 0.95)
    assert found["best"]["link"] == link
    estimate = found[link]["corrected"]
    assert estimate["value"] == pytest.approx(1.3, abs=0.05)
    if law == "logistic":
        assert estimate["low"] < 1.3 < estimate["high"]
        for record in found["thresholds"]:
            exact = 6 * record["n"] ** 1.3 * math.log(record["n"] / 0.1) * math.exp(0.3 * special.logit(0.9))
            assert record["low"] < exact < record["high"]


def test_the_theory_link_reads_successes_and_failures_cell_by_cell() -> None:
    samples = [sample(np.random.default_rng([10, n]), n, "theory", 20) for n in (8, 16, 32)]
    found = psychometric.describe(samples, 0.1, 0.95)["theory"]["corrected"]

    def loss(theta: np.ndarray) -> float:
        total = 0.0
        for s in samples:
            fails = np.minimum(1.0, s.n * np.exp(-s.widths / np.exp(theta[0] + theta[1] * math.log(s.n))))
            hits, misses = s.success.sum(axis=0), (1 - s.success).sum(axis=0)
            chances = np.where(hits > 0, np.maximum(1 - fails, 1e-300), 1), np.where(misses > 0, fails, 1)
            total -= float(hits @ np.log(chances[0]) + misses @ np.log(chances[1]))
        return total

    starts = itertools.product((0.5, 2.0), (1.0, 1.5))
    options = {"xatol": 1e-9, "fatol": 1e-10, "maxiter": 4000}
    searches = [optimize.minimize(loss, start, method="Nelder-Mead", options=options) for start in starts]
    best = min(searches, key=lambda search: search.fun)
    assert found["log_likelihood"] == pytest.approx(-best.fun, abs=1e-4)
    assert found["value"] == pytest.approx(best.x[1], abs=5e-3)
