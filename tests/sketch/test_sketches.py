"""Sketches are linear, right on average, and within the distortion that their formulas promise."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binomtest

from expreg import sketch, sparse
from expreg.errors import InputError
from expreg.solver import SKETCHES

pytestmark = pytest.mark.usefixtures("quickly_compiled")
N, D, K = 100, 3, 48


def matrix(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(N, D)) * (rng.random((N, D)) < 0.6)


@cache
def explicit(name: str) -> np.ndarray:
    """S itself, (K, N): what the sketch of seed 1 does to the unit vectors."""
    return np.asarray(jax.jit(lambda key: sketch.OBLIVIOUS[name](key, N, K)(jnp.eye(N)))(jax.random.key(1)))


@pytest.mark.parametrize("name", sketch.OBLIVIOUS)
def test_the_same_key_is_the_same_matrix_whatever_it_is_applied_to(name):
    key, A, w = jax.random.key(1), matrix(), np.random.default_rng(1).normal(size=N)
    S = explicit(name)
    apply = jax.jit(lambda A, w: sketch.OBLIVIOUS[name](key, N, K)(A, w))
    np.testing.assert_allclose(apply(jnp.asarray(A), w), S @ (w[:, None] * A), rtol=1e-12, atol=1e-13)
    if name == "srht":
        with pytest.raises(InputError, match="expected countsketch"):
            apply(sparse.from_dense(A), None)
    else:
        stored = jax.tree.map(jnp.asarray, sparse.from_dense(A))
        np.testing.assert_allclose(apply(stored, w), S @ (w[:, None] * A), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", sketch.OBLIVIOUS)
def test_sketches_are_right_on_average(name):
    A, draws = jnp.asarray(matrix()), 500
    keys = jax.random.split(jax.random.key(2), draws)
    grams = jax.jit(jax.vmap(lambda key: (SA := sketch.OBLIVIOUS[name](key, N, K)(A)).T @ SA))(keys)
    error = np.abs(grams.mean(axis=0) - A.T @ A)
    assert (error <= 5 * grams.std(axis=0) / np.sqrt(draws) + 1e-12).all()


@pytest.mark.parametrize(("name", "entries"), [("countsketch", 1), ("osnap", 4)])
def test_columns_have_as_many_entries_as_they_should(name, entries):
    S = explicit(name)
    np.testing.assert_array_equal(np.count_nonzero(S, axis=0), np.full(N, entries))
    np.testing.assert_allclose(np.linalg.norm(S, axis=0), 1, rtol=1e-14)


def test_the_hadamard_sketch_of_all_rows_is_orthogonal():
    S = np.asarray(jax.jit(sketch.srht(jax.random.key(4), N, 128))(jnp.eye(N)))
    np.testing.assert_allclose(S.T @ S, np.eye(N), atol=1e-13)
    np.testing.assert_allclose(np.abs(S), 128**-0.5, rtol=1e-13)  # every entry mixes every row


def test_blocks_of_a_countsketch_add_up(monkeypatch):
    key, A = jax.random.key(1), jnp.asarray(matrix())
    whole = explicit("countsketch") @ A
    monkeypatch.setattr("expreg.sketch.oblivious._STEP", 32)
    in_blocks = jax.jit(sketch.countsketch(key, N, K))(A)
    np.testing.assert_allclose(in_blocks, whole, rtol=1e-13, atol=1e-14)


def distortions(name: str, A: np.ndarray, size: int, draws: int = 100) -> np.ndarray:
    H, stored = jnp.asarray(A.T @ A), jnp.asarray(A)

    def one(key):
        SA = sketch.OBLIVIOUS[name](key, len(A), size)(stored)
        return sketch.distortion(H, SA.T @ SA)

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(6), draws)))


@pytest.mark.parametrize("d", [8, 32])
def test_the_gram_matrix_of_a_gaussian_sketch_is_as_near_as_its_record_promises(d):
    """(F.4): 2 e + e^2 with probability 1 - delta; e alone bounds singular values, and fails as a bound of this.

    For orthonormal columns S Q is a Gaussian matrix itself, so that n does not matter. 99.9 % intervals of the share.
    """
    size, delta, draws = 2048, 0.1, 400
    B = np.random.default_rng(d).normal(size=(draws, size, d)) / np.sqrt(size)
    off = np.abs(np.linalg.svd(B, compute_uv=False)[:, [0, -1]] ** 2 - 1).max(axis=1)
    for one, expected in zip(B[:5], off[:5], strict=True):
        assert float(sketch.distortion(jnp.eye(d), one.T @ one)) == pytest.approx(expected, rel=1e-9)
    promised = SKETCHES["gaussian"].distortion(size, d, delta)
    assert binomtest(int((off <= promised).sum()), draws).proportion_ci(0.999).low >= 1 - delta
    e = (np.sqrt(d) + np.sqrt(2 * np.log(2 / delta))) / np.sqrt(size)
    assert binomtest(int((off <= e).sum()), draws).proportion_ci(0.999).high < 1 - delta
    assert (
        distortions("gaussian", matrix(), 400) <= SKETCHES["gaussian"].distortion(400, D, delta)
    ).mean() >= 1 - delta


def test_the_distortion_of_countsketch_is_that_of_its_formula():
    """(F.4), also where one row holds a whole direction, on which uniform sampling fails."""
    e, delta = 0.5, 0.1
    A = matrix()
    A[:, 0] = 0
    A[17, 0] = 1
    size = int(np.ceil((D**2 + D) / (delta * e**2)))
    assert (distortions("countsketch", A, size) <= e).mean() >= 1 - delta
    assert (distortions("uniform", A, K) <= e).mean() < 0.5


def test_distortion_is_the_largest_relative_error_of_a_quadratic_form():
    rng = np.random.default_rng(7)
    H, E = (M @ M.T + 0.1 * np.eye(D) for M in rng.normal(size=(2, D, D)))
    found = float(sketch.distortion(jnp.asarray(H), jnp.asarray(E)))
    x = rng.normal(size=(D, 200_000))
    ratios = np.abs(np.sum(x * (E @ x), axis=0) / np.sum(x * (H @ x), axis=0) - 1)
    assert ratios.max() <= found * (1 + 1e-12)
    assert ratios.max() >= 0.98 * found
