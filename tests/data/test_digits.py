"""The bundled digits: real images, two classes, no image twice."""

import jax
import numpy as np
import pytest

from expreg.data.digits import digits
from expreg.data.validate import validate
from expreg.errors import InputError

KEY = jax.random.key(0)


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("n", [1, 2, 9, 64])
def test_a_subset_is_balanced_normalised_and_free_of_duplicates(n, centre):
    X, y = digits(KEY, n, classes=(3, 8), centre=centre)
    assert X.shape == (n, 64)
    assert np.sum(y == 1) == (n + 1) // 2
    assert np.sum(y == -1) == n // 2
    assert validate(X, y, activation="cosh") == []


def test_the_points_are_images_of_their_class_up_to_their_norm():
    from sklearn.datasets import load_digits

    images, owners = load_digits(return_X_y=True)
    images = images / np.linalg.norm(images, axis=1, keepdims=True)
    X, y = digits(KEY, 40, classes=(4, 7))
    nearest = np.argmax(X @ images.T, axis=1)
    np.testing.assert_allclose(np.sum(X * images[nearest], axis=1), 1, rtol=1e-14)
    np.testing.assert_array_equal(owners[nearest], np.where(y == 1, 4, 7))


def test_centring_removes_the_common_image():
    plain, centred = (digits(KEY, 128, centre=centre)[0] for centre in (False, True))
    assert np.linalg.norm(plain.mean(axis=0)) > 0.8
    assert np.linalg.norm(centred.mean(axis=0)) < 0.2


def test_all_images_of_a_class_can_be_chosen_and_not_one_more():
    X, _ = digits(KEY, 2 * 174, classes=(8, 3))
    assert len(np.unique(X, axis=0)) == 2 * 174
    with pytest.raises(InputError, match=r"data.n: got 350, expected at most 348: class 8 has 174 images"):
        digits(KEY, 350, classes=(8, 3))


def test_the_key_decides_the_subset_and_its_order():
    first, second, again = (digits(key, 16)[0] for key in (KEY, jax.random.key(1), KEY))
    np.testing.assert_array_equal(first, again)
    assert np.linalg.norm(first - second) > 1
    labels = np.array([digits(jax.random.key(seed), 16)[1] for seed in range(200)])
    assert np.max(np.abs(labels.mean(axis=0))) < 5 / np.sqrt(200)  # classes stand in random order
