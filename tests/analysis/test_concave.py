"""Maxima of concave functions that are known, with and without kinks, alone and in a batch."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import optimize

from expreg.core.stats import concave

Triple = tuple[np.ndarray, np.ndarray, np.ndarray]


def test_a_quadratic_is_maximised_at_the_solution_of_its_linear_system() -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(5, 3, 3))
    matrix, linear = root @ root.swapaxes(1, 2) + np.eye(3), rng.normal(size=(5, 3))

    def local(x: np.ndarray, lanes: np.ndarray) -> Triple:
        pull = np.einsum("bpq,bq->bp", matrix[lanes], x)
        value = np.einsum("bp,bp->b", linear[lanes] - pull / 2, x)
        return value, linear[lanes] - pull, matrix[lanes]

    found, value = concave.newton(local, np.zeros((5, 3)))
    exact = np.linalg.solve(matrix, linear[..., None])[..., 0]
    np.testing.assert_allclose(found, exact, rtol=1e-6)
    np.testing.assert_allclose(value, np.einsum("bp,bp->b", linear, exact) / 2)


def test_steps_that_overshoot_are_halved() -> None:
    # From 3 a full Newton step on -log cosh leads to -98 and from there out of the floats.
    def local(x: np.ndarray, lanes: np.ndarray) -> Triple:
        return -np.log(np.cosh(x[:, 0])), -np.tanh(x), (1 - np.tanh(x) ** 2)[..., None]

    found, value = concave.newton(local, np.array([[3.0], [-2.0], [0.0]]))
    assert np.abs(found).max() < 1e-5
    assert np.abs(value).max() < 1e-10


def kinked(centre: np.ndarray, weight: np.ndarray) -> Callable[[np.ndarray], Triple]:
    def oracle(x: np.ndarray) -> Triple:
        gap = x - centre
        return -(weight * np.abs(gap)).sum(axis=1), -weight * np.sign(gap), np.full(len(x), -1.0)

    return oracle


def test_cutting_planes_find_a_maximum_at_a_kink() -> None:
    rng = np.random.default_rng(1)
    centre, weight = rng.uniform(-3, 3, size=(20, 2)), rng.uniform(0.5, 20, size=(20, 2))
    found, value = concave.ellipsoid(kinked(centre, weight), np.zeros((20, 2)), 6.0)
    assert value.min() > -1e-6
    np.testing.assert_allclose(found, centre, atol=3e-6)


def test_cutting_planes_keep_inside_the_domain_and_agree_with_linear_programming() -> None:
    rng = np.random.default_rng(2)
    rows, limits = rng.normal(size=(9, 2)), rng.uniform(0.2, 1.0, size=9)
    target = np.array([0.3, -1.0])
    exact = optimize.linprog(-target, A_ub=rows, b_ub=limits, bounds=(-5, 5))
    assert (np.abs(exact.x) < 4).all()

    def oracle(x: np.ndarray) -> Triple:
        excess = x @ rows.T - limits
        worst = excess.argmax(axis=1)
        deficit = excess[np.arange(len(x)), worst]
        inside = deficit < 0
        value = np.where(inside, x @ target, -np.inf)
        return value, np.where(inside[:, None], target, -rows[worst]), deficit

    for start in (np.zeros((1, 2)), np.array([[3.0, 3.0]])):  # inside, outside
        _, value = concave.ellipsoid(oracle, start, 8.0)
        assert value[0] == pytest.approx(-exact.fun, abs=1e-5)
        assert value[0] <= -exact.fun


def test_the_members_of_a_batch_do_not_see_each_other() -> None:
    centre, weight = np.array([[1.0, -2.0], [0.0, 0.0]]), np.array([[1.0, 9.0], [3.0, 0.1]])
    together, _ = concave.ellipsoid(kinked(centre, weight), np.zeros((2, 2)), 6.0)
    for k in range(2):
        alone, _ = concave.ellipsoid(kinked(centre[k : k + 1], weight[k : k + 1]), np.zeros((1, 2)), 6.0)
        np.testing.assert_allclose(together[k], alone[0], atol=3e-5)
