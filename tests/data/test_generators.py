"""Points and labels: geometry exact where it is prescribed, uniform where it is random; no image of a digit twice."""

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from expreg import data, ntk
from expreg.data import generators
from expreg.data.generators import digits
from expreg.errors import InputError

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
teacher = jax.jit(generators.teacher, static_argnums=2)


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
    np.testing.assert_allclose(X @ X.T, coherence + (1 - coherence) * np.eye(6), atol=1e-14)
    if coherence >= 0:
        smallest = np.exp(2) - coherence * np.exp(1 + coherence)
        np.testing.assert_allclose(ntk.spectrum(ntk.infinite(X))[0], smallest, rtol=1e-10)


def test_near_duplicates_are_pairs_at_the_angle_and_its_square_is_the_size_of_the_smallest_eigenvalue():
    for angle in (1e-6, 0.01, 1.0, np.pi):
        X = np.asarray(near_duplicate(KEY, 4, 8, angle))
        chords = np.linalg.norm(X[0::2] - X[1::2], axis=1)
        np.testing.assert_allclose(chords, 2 * np.sin(angle / 2), rtol=1e-9)
    angles = np.array([0.02, 0.04, 0.08])
    smallest = [ntk.spectrum(ntk.infinite(np.asarray(near_duplicate(KEY, 4, 8, a))))[0] for a in angles]
    np.testing.assert_allclose(np.diff(np.log(smallest)) / np.diff(np.log(angles)), 2, atol=0.05)


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


# --- digits


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("n", [1, 2, 9, 64])
def test_a_subset_is_balanced_normalised_and_free_of_duplicates(n, centre):
    X, y = digits(KEY, n, classes=(3, 8), centre=centre)
    assert X.shape == (n, 64)
    assert (np.sum(y == 1), np.sum(y == -1)) == ((n + 1) // 2, n // 2)
    assert data.validate(X, y, activation="cosh") == []


def test_the_points_are_images_of_their_class_up_to_their_norm_and_centring_removes_the_common_one():
    images, owners = load_digits(return_X_y=True)
    images = images / np.linalg.norm(images, axis=1, keepdims=True)
    X, y = digits(KEY, 40, classes=(4, 7))
    nearest = np.argmax(X @ images.T, axis=1)
    np.testing.assert_allclose(np.sum(X * images[nearest], axis=1), 1, rtol=1e-14)
    np.testing.assert_array_equal(owners[nearest], np.where(y == 1, 4, 7))
    plain, centred = (digits(KEY, 128, centre=centre)[0] for centre in (False, True))
    assert np.linalg.norm(plain.mean(axis=0)) > 0.8
    assert np.linalg.norm(centred.mean(axis=0)) < 0.2


@pytest.mark.parametrize(("classes", "most"), [([8, 3], 2 * 174), ([3, 8], 2 * 174 + 1)])
def test_all_images_of_a_class_can_be_chosen_and_not_one_more(classes, most):
    options = {"kind": "digits", "n": most, "classes": classes}
    X, _ = data.make(options, KEY, KEY)
    assert len(np.unique(X, axis=0)) == most
    with pytest.raises(InputError, match=rf"data.n: got {most + 1}, expected at most {most}: the classes have 1"):
        data.make({**options, "n": most + 1}, KEY, KEY)


def test_the_key_decides_the_subset_and_its_order():
    first, second, again = (digits(key, 16)[0] for key in (KEY, jax.random.key(1), KEY))
    np.testing.assert_array_equal(first, again)
    assert np.linalg.norm(first - second) > 1
    labels = np.array([digits(jax.random.key(seed), 16)[1] for seed in range(200)])
    assert np.max(np.abs(labels.mean(axis=0))) < 5 / np.sqrt(200)  # classes stand in random order


# --- labels


def test_signs_are_fair_and_independent_of_their_place():
    y = np.asarray(jax.vmap(lambda key: generators.sign(key, 6))(jax.random.split(KEY, 4000)))
    assert set(np.unique(y)) == {-1.0, 1.0}
    assert y.dtype == np.float64
    assert np.max(np.abs(y.mean(axis=0))) < 5 / np.sqrt(4000)
    assert np.max(np.abs(y.T @ y / 4000 - np.eye(6))) < 5 / np.sqrt(4000)


def test_a_teacher_is_a_narrow_exponential_network_whose_largest_output_is_one():
    """With one neuron log y is linear in x, and the slope is `scale` long.

    The exponents vanish with `scale`, and so would everything but a constant part, which an even width has not.
    """
    X = JITTED["sphere"](KEY)
    for m in (1, 4, 5):
        np.testing.assert_allclose(np.max(np.abs(teacher(KEY, X, m, 1.0))), 1, rtol=1e-14)
    for scale in (0.5, 2.0):
        slope, *_ = np.linalg.lstsq(np.c_[X, np.ones(6)], np.log(teacher(KEY, X, 1, scale)), rcond=None)
        np.testing.assert_allclose(np.linalg.norm(slope[:4]), scale, rtol=1e-10)
    even, odd = (np.asarray(teacher(KEY, X, m, 1e-3)) for m in (4, 5))
    assert even.std() > 0.3
    assert odd.std() < 1e-2


@pytest.mark.parametrize("labels", ["sign", "teacher"])
@pytest.mark.parametrize("kind", ["sphere", "orthonormal", "equiangular", "near_duplicate"])
def test_many_data_sets_at_once_are_those_drawn_alone(kind, labels):
    more = {"equiangular": {"coherence": 0.5}, "near_duplicate": {"angle": 0.1}}.get(kind, {})
    options = {"kind": kind, "n": 4, "d": 4, "labels": {"kind": labels}, **more}
    points, signs = jax.random.split(jax.random.key(1), 5), jax.random.split(jax.random.key(2), 5)
    assert data.together(options)
    many = data.draw(options, points, signs)
    for (X, y), *keys in zip(many, points, signs, strict=True):
        alone = data.make(options, *keys)
        np.testing.assert_allclose(X, alone[0], rtol=0, atol=1e-14)
        np.testing.assert_allclose(y, alone[1], rtol=0, atol=1e-12)
    assert len({X.tobytes() for X, _ in many}) == 5
