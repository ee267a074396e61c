"""Reserves of the mathematics: what rounding takes from an eigenvalue, what convexity takes from a box, a row bound."""

import numpy as np
import pytest
from oracles import sphere

from expreg import residual, shift
from expreg.certificate import Spectra, measure


@pytest.mark.parametrize("margin", [1.5, 10.0])
def test_an_eigenvalue_that_rounding_may_have_made_counts_for_what_is_left_of_it(margin):
    """lambda = 4/3 (lambda_min(H(0)) - error), error (64 + n) eps lambda_max: read off the guaranteed decrease."""
    rng, scale, n, k = np.random.default_rng(0), 0.5, 3, 512
    X = sphere(rng, n, n)
    Z, largest = X @ rng.normal(size=(n, k)), 10.0
    error = (64 + n) * np.finfo(float).eps * largest
    spectra = Spectra(*map(np.float64, (margin * error, largest, np.linalg.norm(X, 2) ** 2)))
    found = measure(X, Z, np.full(n, 1e-32), scale=scale, spectra=spectra)
    assert found.holds
    lam = 2 * found.decrease / (k * found.eta * scale**2)
    assert lam == pytest.approx(4 / 3 * (margin - 1) * error, rel=1e-6, abs=0)


@pytest.mark.parametrize("rho", [0.5, 2.0])
def test_weights_on_a_box_make_up_for_the_worst_of_it(rho):
    """(E.22): w^2 = max over 0 <= u <= U of K u - u^2, whether the top lies inside the box or at its end."""
    b = np.array([0.7, 0.2, 0.1, 0.0])
    U = np.exp(rho)
    K = U * (len(b) * b + b.sum())
    u = np.linspace(0, U, 100_001)[:, None]
    assert (K <= 2 * U).any()
    assert (K > 2 * U).any()
    np.testing.assert_allclose(residual.safe_weights(b, rho=rho) ** 2, (K * u - u**2).max(axis=0), rtol=1e-8)


def test_the_row_bound_of_a_data_move_is_that_of_the_row_that_moves_most():
    """(G.8): ||P|| ||w|| expm1(||dA||_{2,inf} ||x||)."""
    rng = np.random.default_rng(1)
    A, x, b = rng.normal(size=(5, 3)), rng.normal(size=3), rng.dirichlet(np.ones(5))
    dA = 0.01 * np.arange(1, 6)[:, None] * rng.normal(size=(5, 3))
    u = np.exp(A @ x)
    P = np.eye(5) - np.outer(b, np.ones(5))
    growth = np.expm1(np.linalg.norm(dA, axis=1).max() * np.linalg.norm(x))
    expected = np.linalg.norm(P, 2) * np.linalg.norm(u / u.sum()) * growth
    assert shift.measure(A, b, x, dA=dA).bound_rows == pytest.approx(expected, rel=1e-12)
