"""Constants of a good start against Hessians by autodiff at random points: their size, change and convexity."""

import math

import jax
import numpy as np
import pytest
from scipy.special import lambertw

from expreg import basin, residual

RADIUS = 1.2
PAIRS = [(loss, phi) for loss in ("rescaled", "exponential") for phi in residual.activations()]
PAIRS += [("softmax", "exp"), ("softmax", "cosh")]


def task(seed, n=9, d=3, radius=RADIUS):
    """Return A with ||A|| = radius, b >= 0 with sum 1, and two points of norm radius at most, near or far."""
    rng = np.random.default_rng(seed)
    A, b = rng.normal(size=(n, d)), rng.dirichlet(np.full(n, rng.uniform(0.05, 2)))
    x, y = (e * radius / np.linalg.norm(e) for e in rng.normal(size=(2, d)))
    near = x + rng.choice([1e-3, 1.0]) * (y - x)
    return A * radius / np.linalg.norm(A, 2), b, x, near


def by_autodiff(loss, activation):
    def value(x, A, b):
        return residual.loss_value(A @ x, b, loss, activation)

    return jax.jit(jax.hessian(value))


@pytest.mark.parametrize(("loss", "activation"), PAIRS)
def test_the_hessian_is_that_of_autodiff_and_changes_no_faster_than_its_constants_say(loss, activation):
    oracle, ratios = by_autodiff(loss, activation), []
    for seed in range(150):
        A, b, x, y = task(seed)
        H = [np.asarray(oracle(at, A, b)) for at in (x, y)]
        np.testing.assert_allclose(basin.hessian(A, b, x, 0.0, loss, activation), H[0], rtol=1e-9, atol=1e-11)
        known = [basin.hessian_lipschitz(A, b, RADIUS, loss, activation)]
        known += [residual.LOSSES[loss].by_norms(b, RADIUS)[1]] if loss == "rescaled" else []
        change = np.linalg.norm(H[1] - H[0], 2) / np.linalg.norm(y - x)
        ratios.append([change / M for M in known])
    assert np.max(ratios) <= 1
    if loss != "softmax":  # (E.27) and (E.28) do not claim to be tight
        assert np.max(ratios, axis=0)[0] > 0.05


@pytest.mark.parametrize("activation", residual.activations())
def test_the_bound_of_the_curvature_holds_and_closeness_weights_are_close(activation):
    """With W^2 at least 11 ||B||, the matrix B + W^2 lies within 10 % of W^2."""
    for seed in range(100):
        A, b, x, _ = task(seed)
        diagonal, Q, S = residual.curvature(A @ x, b, "rescaled", activation)
        B = np.diag(diagonal) + Q @ S @ Q.T
        assert np.linalg.norm(B, 2) <= residual.LOSSES["rescaled"].by_norms(b, RADIUS)[0]
        square = basin.closeness_weight(A, b, RADIUS) ** 2
        off = np.linalg.eigvalsh(B) / square + 1  # the eigenvalues of (B + W^2) / W^2
        assert off.min() >= 1 / 1.1
        assert off.max() <= 1 / 0.9
    with pytest.raises(ValueError, match="has no closeness weight"):
        basin.closeness_weight(A, b, RADIUS, "softmax")
    for rule in basin.RULES.values():
        with pytest.raises(ValueError, match="2 rows and 3 columns"):
            rule(np.ones((2, 3)), np.full(2, 0.5), RADIUS, "rescaled")


@pytest.mark.parametrize(("loss", "activation"), PAIRS)
def test_convex_weights_give_their_modulus_on_the_whole_ball(loss, activation):
    least = []
    for seed in range(100):
        A, b, x, y = task(seed)
        w = basin.convex_weights(A, b, RADIUS, loss, activation, modulus=0.3)
        at_points = (basin.hessian(A, b, at, w, loss, activation) for at in (x, y, 0 * x))
        least += [np.linalg.eigvalsh(H)[0] for H in at_points]
    assert min(least) >= 0.3 * (1 - 1e-9)
    A, b, x, _ = task(0)
    assert np.linalg.eigvalsh(basin.hessian(A, b, x, 0.0, loss, activation))[0] < min(least)


def test_the_radius_of_a_quadratic_start():
    """In one dimension, L = x^2/2 + c x^3/6 has H = 1 + c x: l = 1, M = c, and Newton from 0.1 / c contracts by 0.4."""
    c, x = 3.0, basin.start_radius(1.0, lambda _: 3.0)
    assert x == pytest.approx(0.1 / c)
    assert abs(x - (x + c * x * x / 2) / (1 + c * x)) <= 0.4 * x
    assert basin.start_radius(-1.0, lambda _: 3.0) == 0


def test_the_radius_solves_its_equation_where_the_constant_grows():
    """r e^r = 0.1 has the solution W(0.1)."""
    assert basin.start_radius(1.0, math.exp) == pytest.approx(lambertw(0.1).real, rel=1e-8)
    assert basin.start_radius(1e4, math.exp) == pytest.approx(lambertw(1e3).real, rel=1e-8)


def test_what_is_not_known_is_none():
    A, b, *_ = task(0)
    assert basin.hessian_lipschitz(A, b, 1.0, "projective", "exp") is None
    assert basin.hessian_lipschitz(A, b, 1.0, "softmax", "sinh") is None


def test_the_constant_of_the_rescaled_loss_is_nearly_reached_in_a_corner_of_its_box():
    """(E.26): with all logits at rho and b at one row, B changes by more than half of L_z."""
    rho, h, n = 1.5, 1e-6, 9
    ratios = []
    for b in (np.eye(n)[0], np.full(n, 1 / n), np.random.default_rng(0).dirichlet(np.full(n, 0.3))):
        curvatures = [residual.curvature(np.full(n, at), b, "rescaled", "exp") for at in (rho, rho - h)]
        upper, lower = (np.diag(diagonal) + Q @ S @ Q.T for diagonal, Q, S in curvatures)
        L = residual.LOSSES["rescaled"].lipschitz(b, residual.ACTIVATIONS["exp"], rho)
        ratios.append(np.linalg.norm(upper - lower, 2) / h / L)
    assert 0.5 < max(ratios) <= 1
