"""A growing context against steps of the query: closed forms, autodiff, and what one step can and cannot do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PHI

from expreg import context

ACTIVATIONS = ("exp", "cosh")


def task(seed, n=9, d=4):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), rng.standard_normal(d)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_absent_tokens_have_no_part_in_the_attention(activation):
    A, x = task(1)
    present = np.arange(9) < 6
    at = context.attention(A @ x, present, activation)
    u = PHI[activation][0](A[:6] @ x)
    np.testing.assert_allclose(at.f, [*(u / u.sum()), 0, 0, 0], rtol=1e-13)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_new_token_moves_attention_towards_itself(activation):
    A, x = task(2)
    before, after = (context.attention(A @ x, np.arange(9) < count, activation).f for count in (6, 7))
    p = after[6]
    np.testing.assert_allclose(after - before, p * (np.eye(9)[6] - before), atol=1e-15)
    # the same direction as the residual of the target "attend to the new token only"
    assert context.cosine(after - before, np.eye(9)[6] - after) == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_descent_step_is_the_gradient_of_softmax_regression(activation):
    A, x = task(3)
    present = np.arange(9) < 7
    with jax.enable_x64(True):
        f = context.attention(jnp.asarray(A @ x), present, activation).f
        wanted = 0.1 * (np.eye(9)[6] - f)

        def loss(query):
            gap = context.attention(jnp.asarray(A) @ query, present, activation).f - (f + wanted)
            return (gap @ gap) / 2

        slope = jax.grad(loss)(jnp.asarray(x))
        at = context.attention(jnp.asarray(A @ x), present, activation)
        dx = context.descent_step(jnp.asarray(A), at, wanted, 2.0, activation)
    np.testing.assert_allclose(dx, -slope / ({"exp": 5 / 4, "cosh": 9 / 4}[activation] * 4), rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_newton_step_is_least_squares_with_the_derivative_of_attention(activation):
    A, x = task(4)
    present = np.arange(9) < 7
    wanted = np.random.default_rng(5).standard_normal(9) * 1e-3
    with jax.enable_x64(True):
        JA = jax.jacobian(lambda q: context.attention(jnp.asarray(A) @ q, present, activation).f)(jnp.asarray(x))
    at = context.attention(A @ x, present, activation)
    expected = np.linalg.lstsq(np.asarray(JA), wanted, rcond=None)[0]
    np.testing.assert_allclose(context.newton_step(A, at, wanted, 1e-14), expected, rtol=1e-6)


def test_a_query_of_enough_dimensions_makes_the_move_of_a_token_and_one_of_few_does_not():
    for d, share in ((12, 1.0), (2, 0.9)):
        A, x = task(6, n=8, d=d)
        everyone = np.arange(8) < 8
        before, at = context.attention(A @ x, np.arange(8) < 7), context.attention(A @ x, everyone)
        wanted = 1e-4 * (at.f - before.f)
        moved = context.attention(A @ (x + context.newton_step(A, at, wanted, 1e-12)), everyone).f - at.f
        cosine = context.cosine(moved, wanted)
        assert cosine == pytest.approx(1, abs=1e-3) if share == 1 else cosine < share


def test_attention_on_one_token_only_gives_a_step_that_is_finite():
    A = 1000.0 * np.eye(3)
    at = context.attention(A @ np.array([1.0, 0, 0]), np.ones(3, bool))
    assert np.isfinite(context.newton_step(A, at, np.array([-1.0, 1.0, 0.0]), 1e-9)).all()


def test_the_angle_with_nothing_is_right():
    assert context.cosine(np.zeros(3), np.ones(3)) == 0
