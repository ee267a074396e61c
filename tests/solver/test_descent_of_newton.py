"""What a Newton step promises: no ascent, the decrement of the dense Hessian, a sketch that sees the regulariser."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import planted

import expreg
from expreg import residual, solver

pytestmark = pytest.mark.usefixtures("quickly_compiled")
PAIRS = [("exponential", "exp"), ("softmax", "cosh"), ("rescaled", "sinh"), ("projective", "exp")]
N, D = 30, 3


def derivatives(A, b, x, loss, activation, w):
    """Return gradient (d,) and Hessian (d, d) of the loss with its regulariser, by automatic differentiation."""

    def objective(x):
        return residual.loss_value(A @ x, b, loss, activation) + jnp.sum((w * (A @ x)) ** 2) / 2

    x = jnp.asarray(x)
    return jax.tree.map(np.asarray, jax.jit(lambda x: (jax.grad(objective)(x), jax.hessian(objective)(x)))(x))


@pytest.mark.parametrize("name", ["newton", "gauss_newton", "pcg"])
@pytest.mark.parametrize(("loss", "activation"), [("softmax", "cosh"), ("projective", "exp")])
def test_no_step_raises_the_loss(loss, activation, name):
    """(F.13): from starts so far away that whole steps often go uphill."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        A, b = rng.normal(size=(12, D)), np.abs(rng.normal(size=12))
        x0 = 2 * rng.normal(size=D)
        history = expreg.solve(A, b / b.sum(), loss, activation, name, x0=x0, max_steps=30).history
        losses = np.array([row["loss"] for row in history])
        assert (np.diff(losses) <= 1e-13 * losses[0]).all(), seed


@pytest.mark.parametrize(("loss", "activation"), PAIRS)
def test_the_decrement_is_half_of_what_the_dense_hessian_gives(loss, activation):
    """(F.14): 1/2 g^T H^{-1} g of the point that the last step left, on the host and compiled."""
    A, b, x = planted(N, D, loss, activation, noise=0.01, seed=2)
    w = np.linspace(0.0, 0.01, N)
    x0 = x * 1.02 + 0.005
    gradient, hessian = derivatives(A, b, x0, loss, activation, w)
    assert np.linalg.eigvalsh(hessian)[0] > 0
    expected = gradient @ np.linalg.solve(hessian, gradient) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # <b, 1> is not 1
        found = expreg.solve(A, b, loss, activation, "newton", weights=w, x0=x0, max_steps=1)
    assert found.decrement == pytest.approx(expected, rel=1e-8)


def one_step(A, b, x0, w, **options):
    method = solver.make(**options)
    return jax.jit(lambda: method.step(method.init(jnp.asarray(A), b, x0, jnp.asarray(w), jax.random.key(0))))()


def test_the_compiled_step_has_the_decrement_and_the_point_of_the_dense_newton_step():
    A, b, x = planted(N, D, "rescaled", noise=0.01, seed=4)
    w, x0 = np.linspace(0.01, 0.02, N), x + 0.01
    gradient, hessian = derivatives(A, b, x0, "rescaled", "exp", w)
    step = np.linalg.solve(hessian, gradient)
    state = one_step(A, b, x0, w, loss="rescaled", solver="newton")
    assert float(state.decrement) == pytest.approx(gradient @ step / 2, rel=1e-8)
    np.testing.assert_allclose(state.x, x0 - step, rtol=1e-8)


@pytest.mark.parametrize("sketch", ["leverage", "countsketch", "gaussian", "uniform"])
def test_a_sketched_step_sees_the_regulariser(sketch):
    """(F.12): where 1/2 ||diag(w) A x||^2 is all of the curvature, H~ = (1 +- eps) H and so is the decrement."""
    A, b, x = planted(N, D, noise=0.01, seed=5)
    w, x0 = np.linspace(5.0, 10.0, N), x + 0.1
    gradient, hessian = derivatives(A, b, x0, "softmax", "exp", w)
    exact = gradient @ np.linalg.solve(hessian, gradient) / 2
    state = one_step(A, b, x0, w, loss="softmax", solver="newton", sketch=sketch, sketch_size=600)
    assert float(state.decrement) == pytest.approx(exact, rel=0.35)
    assert float(state.decrement) != pytest.approx(exact, rel=1e-9)  # it is a sketch


def test_leverage_scores_find_the_few_rows_that_are_regularised():
    """(F.3): the scores are those of v^2 + w^2; three rows of 4000 carry the regulariser and none of the loss."""
    rng = np.random.default_rng(6)
    A = rng.normal(size=(4000, D))
    x = np.array([2.0, 0.0, 0.0])
    rare = np.argsort(A @ x)[:3]
    w = np.zeros(len(A))
    w[rare] = 1e4
    b = np.exp(A @ x)
    x0 = x + 0.01
    gradient, hessian = derivatives(A, b, x0, "exponential", "exp", w)
    state = one_step(A, b, x0, w, loss="exponential", solver="gauss_newton", sketch="leverage", sketch_size=400)
    assert float(state.decrement) == pytest.approx(gradient @ np.linalg.solve(hessian, gradient) / 2, rel=0.5)
