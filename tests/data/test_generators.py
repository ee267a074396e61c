"""Geometry of the random points: exact where it is prescribed, uniform where it is random."""

import jax
import numpy as np
import pytest

from expreg import ntk
from expreg.data import generators

KEY = jax.random.key(3)
CASES = {
    "sphere": lambda key: generators.sphere(key, 6, 4),
    "orthonormal": lambda key: generators.orthonormal(key, 6, 9),
    "orthonormal square": lambda key: generators.orthonormal(key, 6, 6),
    "equiangular": lambda key: generators.equiangular(key, 6, 0.4),
    "equiangular negative": lambda key: generators.equiangular(key, 6, -0.2),
    "near_duplicate": lambda key: generators.near_duplicate(key, 6, 4, 0.05),
    "near_duplicate plane": lambda key: generators.near_duplicate(key, 6, 2, 0.05),
}
JITTED = {name: jax.jit(draw) for name, draw in CASES.items()}
near_duplicate = jax.jit(generators.near_duplicate, static_argnums=(1, 2))
equiangular = jax.jit(generators.equiangular, static_argnums=1)


@pytest.mark.parametrize("name", CASES)
def test_every_generator_gives_unit_rows_in_float64_that_depend_on_the_key_alone(name):
    X, again, other = (np.asarray(JITTED[name](key)) for key in (KEY, KEY, jax.random.key(4)))
    assert X.dtype == np.float64
    assert X.shape[0] == 6
    np.testing.assert_allclose(np.linalg.norm(X, axis=1), 1, rtol=1e-14)
    np.testing.assert_array_equal(X, again)
    assert np.max(np.abs(X - other)) > 0.1


def test_orthonormal_rows_are_orthonormal_and_give_the_flat_spectrum():
    X = np.asarray(JITTED["orthonormal"](KEY))
    np.testing.assert_allclose(X @ X.T, np.eye(6), atol=1e-14)
    np.testing.assert_allclose(ntk.spectrum(ntk.infinite(X)), np.exp(2), rtol=1e-13)


@pytest.mark.parametrize("coherence", [-0.2, 0.0, 0.4, 0.999])
def test_equiangular_inner_products_are_all_the_same(coherence):
    X = np.asarray(equiangular(KEY, 6, coherence))
    expected = np.full((6, 6), coherence)
    np.fill_diagonal(expected, 1)
    np.testing.assert_allclose(X @ X.T, expected, atol=1e-14)
    if coherence >= 0:
        smallest = np.exp(2) - coherence * np.exp(1 + coherence)
        np.testing.assert_allclose(ntk.spectrum(ntk.infinite(X))[0], smallest, rtol=1e-10)


@pytest.mark.parametrize("angle", [1e-6, 0.01, 1.0, np.pi])
def test_near_duplicates_are_pairs_at_the_angle(angle):
    X = np.asarray(near_duplicate(KEY, 4, 8, angle))
    chords = np.linalg.norm(X[0::2] - X[1::2], axis=1)
    np.testing.assert_allclose(chords, 2 * np.sin(angle / 2), rtol=1e-9)


def test_near_duplicates_make_the_smallest_eigenvalue_fall_with_the_square_of_the_angle():
    angles = np.array([0.02, 0.04, 0.08])
    smallest = [ntk.spectrum(ntk.infinite(np.asarray(near_duplicate(KEY, 4, 8, a))))[0] for a in angles]
    slopes = np.diff(np.log(smallest)) / np.diff(np.log(angles))
    np.testing.assert_allclose(slopes, 2, atol=0.05)


@pytest.mark.parametrize("name", ["sphere", "orthonormal", "equiangular", "near_duplicate"])
def test_points_are_isotropic(name):
    """Moments of a uniform direction: mean 0, covariance I / d; five standard errors are allowed.

    A QR factor without the sign correction fails: its first entries have one sign only.
    """
    repeats = 3000
    X = np.asarray(jax.jit(jax.vmap(CASES[name]))(jax.random.split(KEY, repeats)))[:, 0, :]
    d = X.shape[1]
    assert np.max(np.abs(X.mean(axis=0))) < 5 / np.sqrt(repeats * d)
    covariance = X.T @ X / repeats
    assert np.max(np.abs(covariance - np.eye(d) / d)) < 5 * np.sqrt(2 / repeats) / d
