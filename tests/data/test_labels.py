"""Random signs and teacher networks."""

import jax
import numpy as np
import pytest

from expreg.data import generators, labels

KEY = jax.random.key(5)
X = jax.jit(generators.sphere, static_argnums=(1, 2))(jax.random.key(1), 12, 3)
teacher = jax.jit(labels.teacher, static_argnums=2)


def test_signs_are_fair_and_independent_of_their_place():
    y = np.asarray(jax.vmap(lambda key: labels.sign(key, 6))(jax.random.split(KEY, 4000)))
    assert set(np.unique(y)) == {-1.0, 1.0}
    assert y.dtype == np.float64
    assert np.max(np.abs(y.mean(axis=0))) < 5 / np.sqrt(4000)
    assert np.max(np.abs(y.T @ y / 4000 - np.eye(6))) < 5 / np.sqrt(4000)


@pytest.mark.parametrize("m", [1, 4, 5])
def test_teacher_labels_have_largest_size_one(m):
    y = np.asarray(teacher(KEY, X, m, 1.0))
    assert y.shape == (12,)
    assert y.dtype == np.float64
    np.testing.assert_allclose(np.max(np.abs(y)), 1, rtol=1e-14)


def test_teacher_is_a_narrow_exponential_network():
    """With one neuron log y is linear in x, and the slope is `scale` long."""
    for scale in (0.5, 2.0):
        slope, *_ = np.linalg.lstsq(np.c_[X, np.ones(12)], np.log(teacher(KEY, X, 1, scale)), rcond=None)
        np.testing.assert_allclose(np.linalg.norm(slope[:3]), scale, rtol=1e-10)


def test_teacher_of_even_width_has_no_constant_part():
    """The exponents vanish with `scale`, and so would everything but a constant part."""
    even, odd = (np.asarray(teacher(KEY, X, m, 1e-3)) for m in (4, 5))
    assert even.std() > 0.3
    assert odd.std() < 1e-2
