"""Leverage scores against the definition; samples of the promised size keep the promised distance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expreg import sketch, sparse

pytestmark = pytest.mark.usefixtures("quickly_compiled")
N, D = 400, 4
EPS, DELTA = 0.5, 0.1


def even() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(N, D)) * (rng.random((N, D)) < 0.7)


def coherent() -> np.ndarray:
    """One row alone in its direction: its leverage score is 1."""
    A = even()
    A[:, 0] = 0
    A[123] = 0
    A[123, 0] = 3.0
    return A


ROWS = {"even": even, "coherent": coherent}


def parts(seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    b = rng.random(N)
    return rng.normal(size=N), b / b.sum(), 0.1 + rng.random(N)


def projection(M: np.ndarray) -> np.ndarray:
    """The diagonal of M M^+, which is the definition."""
    return np.diag(M @ np.linalg.pinv(M))


@pytest.mark.parametrize(("kind", "place"), [("even", "sparse"), ("coherent", "dense")])
def test_exact_scores_are_the_diagonal_of_the_projection(kind, place, monkeypatch):
    monkeypatch.setattr("expreg.sketch.scores._BLOCK", 2**9)  # several blocks, the last one overlapping
    A, weights = ROWS[kind](), np.random.default_rng(2).random(N)
    stored = sparse.from_dense(A) if place == "sparse" else jnp.asarray(A)
    found = np.asarray(jax.jit(sketch.leverage)(stored, jnp.asarray(weights)))
    np.testing.assert_allclose(found, projection(np.sqrt(weights)[:, None] * A), rtol=1e-9, atol=1e-14)
    assert found.sum() == pytest.approx(D, rel=1e-12)
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-12


def test_scores_of_dependent_and_of_badly_scaled_columns():
    """They sum to the rank, and survive a condition number whose square they would not."""
    A = even()
    A[:, 3] = A[:, 1] - A[:, 2]
    scores = jax.jit(sketch.leverage)
    found = np.asarray(scores(jnp.asarray(A), jnp.ones(N)))
    np.testing.assert_allclose(found, projection(A), rtol=1e-8, atol=1e-13)
    assert found.sum() == pytest.approx(3, rel=1e-12)
    A = even() @ np.diag([1.0, 1e-3, 1e-6, 1e-9])
    np.testing.assert_allclose(scores(jnp.asarray(A), jnp.ones(N)), projection(even()), rtol=1e-5)


@pytest.mark.parametrize(("place", "regularised"), [("sparse", False), ("sparse", True), ("dense", True)])
def test_scores_of_a_jacobian_are_those_of_its_rows(place, regularised):
    """(F.11), and with a regulariser the scores of the pairs of rows."""
    A, (v, b, w) = even(), parts()
    J = np.diag(v) @ A - np.outer(b, v @ A)
    stored = sparse.from_dense(A) if place == "sparse" else jnp.asarray(A)
    found = jax.jit(lambda *given: sketch.leverage_of(sketch.of_residual(*given)))(
        stored, v, b, w if regularised else None
    )
    rows = np.concatenate([J, w[:, None] * A]) if regularised else J
    np.testing.assert_allclose(found, projection(rows).reshape(-1, N).sum(axis=0), rtol=1e-9, atol=1e-14)


def sketched(key, J, **options) -> np.ndarray:
    return np.asarray(jax.jit(lambda key, J: sketch.sketched_leverage(key, J, **options))(key, J))


def test_sketched_scores_stay_within_the_eigenvalues_of_their_sketch():
    """(F.3): tau~ / tau lies between the extreme eigenvalues of R^-T H R^-1, for every row."""
    A, key = coherent(), jax.random.key(3)
    J = sketch.of_weights(jnp.asarray(A), jnp.ones(N))
    used = np.linalg.norm(A, axis=1) > 0
    exact, found = projection(A)[used], sketched(key, J, size=64)[used]
    ratio = found / exact
    S = np.asarray(sketch.sketch(sketch.osnap(jax.random.split(key)[0], N, 64), J))
    B = np.linalg.inv(np.linalg.qr(S, mode="r"))
    lowest, *_, highest = np.linalg.eigvalsh(B.T @ A.T @ A @ B)
    assert lowest * (1 - 1e-9) <= ratio.min()
    assert ratio.max() <= highest * (1 + 1e-9)
    probed = sketched(key, J, size=64, probes=400)[used]
    assert np.abs(probed / found - 1).max() < 6 * np.sqrt(2 / 400)


def test_oversampling_is_one_for_exact_scores_and_small_for_uniform_ones():
    tau = jnp.asarray(projection(coherent()))
    assert float(sketch.oversampling(tau / tau.sum(), tau)) == pytest.approx(1)
    assert float(sketch.oversampling(jnp.full(N, 1 / N), tau)) == pytest.approx(D / N, rel=1e-9)


def within(A: np.ndarray, b, scores, size: int, draws: int = 100) -> float:
    """The share of draws of `size` rows by `scores` whose Gram matrix is within EPS of the exact one."""
    J = sketch.of_residual(jnp.asarray(A), jnp.asarray(parts()[0]), b)
    dense = np.diag(J.v) @ A - (0 if b is None else np.outer(b, J.c))
    H, p = jnp.asarray(dense.T @ dense), jnp.asarray(scores) / np.sum(scores)

    def one(key):
        rows = sketch.sample(key, J, p, size)
        return sketch.distortion(H, rows.T @ rows)

    found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(4), draws))
    return float(np.mean(np.asarray(found) <= EPS))


@pytest.mark.parametrize(("kind", "low_rank"), [("even", False), ("coherent", True)])
def test_samples_of_the_promised_size_keep_the_promise(kind, low_rank):
    """(F.6), and (F.12) for the Hessian with its low-rank part; uniform sampling fails where rows are coherent."""
    A, size = ROWS[kind](), sketch.sample_size(D, EPS, DELTA)
    b = jnp.asarray(parts()[1]) if low_rank else None
    v = parts()[0]
    exact = projection(np.diag(v) @ A - (0 if b is None else np.outer(b, v @ A)))
    assert within(A, b, exact, size) >= 1 - DELTA
    if kind == "coherent":
        assert within(A, b, np.ones(N), size) < 1 - DELTA
    else:
        assert within(A, b, exact, 3 * D) < 1 - DELTA  # a much smaller sample fails as well


def test_the_sampler_is_the_same_on_the_host():
    """In NumPy, as the preconditioner of `expreg.solve` draws: the promise of (F.6), and the rows of JAX."""
    A, size, rng = coherent(), sketch.sample_size(D, EPS, DELTA), np.random.default_rng(8)
    p = projection(A) / D
    grams = []
    for uniforms in rng.random((100, size)):
        index, scale = sketch.draw(uniforms, p)
        rows = A[index] * scale[:, None]
        grams.append(rows.T @ rows)
    found = jax.jit(jax.vmap(sketch.distortion, (None, 0)))(A.T @ A, np.stack(grams))
    assert np.mean(found <= EPS) >= 1 - DELTA
    for one, other in zip(sketch.draw(uniforms, p), sketch.draw(jnp.asarray(uniforms), jnp.asarray(p)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_sketched_scores_are_good_enough_to_sample_by():
    A, v = coherent(), jnp.asarray(parts()[0])
    J = sketch.of_residual(jnp.asarray(A), v)
    tau, approximate = projection(np.diag(v) @ A), sketched(jax.random.key(5), J, floor=0.1)
    beta = float(sketch.oversampling(approximate / approximate.sum(), tau))
    assert beta > 0.3
    assert within(A, None, approximate, sketch.sample_size(D, EPS, DELTA, beta=min(beta, 1.0))) >= 1 - DELTA


def test_samples_and_sketches_with_a_regulariser_are_right_on_average():
    A, (v, b, w) = even(), parts()
    J = sketch.of_residual(jnp.asarray(A), jnp.asarray(v), jnp.asarray(b), jnp.asarray(w))
    dense = np.diag(v) @ A - np.outer(b, v @ A)
    H = dense.T @ dense + A.T @ np.diag(w**2) @ A
    tau = jax.jit(sketch.leverage_of)(J)

    def of(rows):
        return rows.T @ rows

    keys = jax.random.split(jax.random.key(6), 400)
    for one in (
        lambda key: of(sketch.sample(key, J, tau / tau.sum(), 100)),
        lambda key: of(sketch.sketch(sketch.countsketch(key, N, 100), J)),
    ):
        grams = np.asarray(jax.jit(jax.vmap(one))(keys))
        assert (np.abs(grams.mean(axis=0) - H) <= 5 * grams.std(axis=0) / np.sqrt(400)).all()


def test_rows_of_probability_zero_are_never_drawn():
    A = jnp.arange(6.0)[:, None] + 1
    p = jnp.asarray([0, 0.5, 0, 0, 0.5, 0])
    rows = jax.jit(lambda key: sketch.sample(key, sketch.of_weights(A, jnp.ones(6)), p, 1000))(jax.random.key(7))
    assert set(np.round(np.asarray(rows[:, 0]) * np.sqrt(500), 9)) == {2.0, 5.0}


def test_the_sample_size_is_that_of_the_formula():
    assert sketch.sample_size(100, 0.5, 0.1) == int(np.ceil(3 * 100 / 0.25 * np.log(2000)))
    with pytest.raises(ValueError, match="expected 0 < eps < 1"):
        sketch.sample_size(4, 1.5, 0.1)
