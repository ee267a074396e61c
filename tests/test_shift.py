"""The shift of the target: its defining identities, its first order, and every bound on thousands of instances."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import PHI
from sklearn.datasets import load_digits

from expreg import shift
from expreg.errors import InputError

ACTIVATIONS = ("exp", "cosh", "sinh")


def task(rng, n=12, d=4, radius=1.5, activation="exp"):
    """Return A, b, x with ||A|| = ||x|| = radius; for sinh one whose alpha does not cancel."""
    while True:
        A, x = rng.standard_normal((n, d)), rng.standard_normal(d)
        A, x = A * radius / np.linalg.norm(A, 2), x * radius / np.linalg.norm(x)
        b = rng.dirichlet(np.ones(n))
        u = PHI[activation][0](A @ x)
        if abs(u.sum()) > 0.05 * abs(u).sum():
            return A, b, x


def real_task():
    """Return digits as keys, one of them as the parameter, and their brightness as the target."""
    images = load_digits().data[:200] / 16
    images = images - images.mean(axis=0)
    weight = load_digits().data[:200].sum(axis=1)
    return images, weight / weight.sum(), images[7] / 3


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", ["random", "real"])
def test_a_move_is_a_shift_of_the_target_and_a_weight_move_the_data_move_of_least_norm(activation, kind):
    rng = np.random.default_rng(1)
    A, b, x = real_task() if kind == "real" else task(rng, activation=activation)
    dx = 0.3 * rng.standard_normal(x.shape) / len(x) ** 0.5
    before, after = PHI[activation][0](A @ x), PHI[activation][0](A @ (x + dx))
    weight = shift.measure(A, b, x, dx=dx, activation=activation)
    moved, old = after - after.sum() * b, before - before.sum() * (b + weight.target_shift)
    assert np.linalg.norm(moved - old) <= 1e-12 * np.linalg.norm(before)
    soft = shift.softmax(A @ x, A @ dx, activation)
    np.testing.assert_allclose(after / after.sum() - b, before / before.sum() - (b + soft), atol=1e-12)
    assert weight.shift_softmax == pytest.approx(np.linalg.norm(soft), rel=1e-12)
    dA = shift.equivalent_data_move(x, A @ dx)
    data = shift.measure(A, b, x, dA=dA, activation=activation)
    np.testing.assert_allclose(weight.target_shift, data.target_shift, rtol=1e-9, atol=1e-9 * weight.shift)
    np.testing.assert_allclose(weight.shift_softmax, data.shift_softmax, rtol=1e-9)
    assert np.linalg.norm(dA) == pytest.approx(np.linalg.norm(A @ dx) / np.linalg.norm(x), rel=1e-12)
    other = dA + np.outer(rng.standard_normal(len(A)), np.linalg.svd(x[None])[2][-1])  # also moves the logits by dz
    np.testing.assert_allclose(other @ x, A @ dx, atol=1e-12)
    assert np.linalg.norm(other) > np.linalg.norm(dA)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_first_order_is_wrong_by_the_square_of_the_move(activation):
    A, b, x = task(np.random.default_rng(3), activation=activation)
    dx = np.random.default_rng(4).standard_normal(4)
    z, sizes = A @ x, np.array([1e-2, 1e-3, 1e-4])
    f = PHI[activation][0](z) / PHI[activation][0](z).sum()
    wrong, wrong_soft = (
        [np.linalg.norm(exact(z, h * (A @ dx)) - shift.first_order(z, h * (A @ dx), target, activation)) for h in sizes]
        for exact, target in (
            (lambda z, dz: shift.rescaled(z, dz, b, activation), b),
            (lambda z, dz: shift.softmax(z, dz, activation), f),
        )
    )
    for errors in (wrong, wrong_soft):
        np.testing.assert_allclose(np.diff(np.log(errors)) / np.diff(np.log(sizes)), 2, atol=0.05)


def test_the_change_keeps_its_digits_where_the_difference_of_exponentials_loses_them():
    z, dz = np.array([3.0, -2.0, 0.5]), 1e-13 * np.array([1.0, -3.0, 2.0])
    for activation in ACTIVATIONS:
        phi, derivative = PHI[activation]
        slope = derivative(z) * dz / phi(z).sum()
        np.testing.assert_allclose(shift.relative_change(z, dz, activation), slope, rtol=1e-12)


def test_logits_beyond_the_range_of_the_exponential_are_fine():
    """u overflows, f and db do not: both are those of logits moved by a constant (E.15)."""
    rng = np.random.default_rng(7)
    z, dz, b = rng.standard_normal(9), 0.1 * rng.standard_normal(9), rng.dirichlet(np.ones(9))
    np.testing.assert_allclose(shift.rescaled(z + 900, dz, b), shift.rescaled(z, dz, b), rtol=1e-11)
    np.testing.assert_allclose(shift.softmax(z + 900, dz), shift.softmax(z, dz), rtol=1e-9)


@pytest.mark.parametrize("total", [1.0, 0.6, 2.5])
def test_the_norm_of_the_projection(total):
    b = np.random.default_rng(8).dirichlet(np.ones(7)) * total
    P = np.eye(7) - np.outer(b, np.ones(7))
    assert shift.projection_norm(b) == pytest.approx(np.linalg.norm(P, 2), rel=1e-12)


# --- the bounds -----------------------------------------------------------------------------------


def instances(rng, count, n=9, d=5):
    """Return A, x, b, dx, dA and the radius and size of the moves of many random tasks."""
    radius, size = rng.uniform(0.3, 2.0, count), 10 ** rng.uniform(-3, 0.5, count)
    A, x, b, dx, dA = (rng.standard_normal((count, *shape)) for shape in ((n, d), (d,), (n,), (d,), (n, d)))
    A *= (radius / np.linalg.norm(A, 2, axis=(1, 2)))[:, None, None]
    x *= (radius / np.linalg.norm(x, axis=1))[:, None]
    dx *= (size / np.linalg.norm(dx, axis=1))[:, None]
    dA *= (size / np.linalg.norm(dA, 2, axis=(1, 2)))[:, None, None]
    b = np.exp(2 * b)
    return A, x, b / b.sum(axis=1, keepdims=True), dx, dA, radius, size


def ratios(activation, A, x, b, dx, dA, radius, size, *, weight):
    """Return measured / bound: tight, rows, softmax, radius; and the share of alpha that does not cancel."""
    dz = A @ dx if weight else dA @ x
    rows = jnp.linalg.norm(A if weight else dA, axis=1).max() * (size if weight else radius)
    phi = {"exp": jnp.exp, "cosh": jnp.cosh, "sinh": jnp.sinh}[activation]
    before, after = phi(A @ x), phi(A @ x + dz)
    exact = jnp.linalg.norm(before - after - b * (before - after).sum()) / jnp.abs(before.sum())
    soft = jnp.linalg.norm(before / before.sum() - after / after.sum())
    limit = shift.bounds(A @ x, dz, b, row_move=rows, move=size, radius=radius + size, activation=activation)
    return jnp.array([exact, exact, soft, exact]) / jnp.stack(limit), shift.alpha_share(A @ x, activation)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_no_bound_is_violated_and_none_is_idle(activation):
    with jax.enable_x64(True):
        drawn = instances(np.random.default_rng(9), 4000)
        both = [jax.jit(jax.vmap(partial(ratios, activation, weight=weight)))(*drawn) for weight in (True, False)]
    found, share = (np.concatenate([np.asarray(one[i]) for one in both]) for i in (0, 1))
    found = found[share > shift.SMALLEST_ALPHA]
    known = [0, 1, 3] if activation == "sinh" else [0, 1, 2, 3]
    assert len(found) > 7900
    assert np.isnan(found[:, 2]).all() == (activation == "sinh")
    assert (found[:, known] <= 1 + 1e-9).all()
    tight, rows, radius = np.median(found[:, [0, 1, 3]], axis=0)
    assert 1 > tight > rows > radius
    assert tight > 0.1


def test_each_bound_is_reached_up_to_a_small_factor():
    """One row moves and b sits on another: the worst case of the tight, the row and the softmax bound."""
    z, b = np.array([0.0, -40.0]), np.array([0.0, 1.0])
    limit = shift.bounds(z, np.array([1e-3, 0.0]), b, row_move=1e-3, move=1.0, radius=1.0)
    db = np.linalg.norm(shift.rescaled(z, np.array([1e-3, 0.0]), b))
    assert db == pytest.approx(limit.tight, rel=1e-9)
    assert db == pytest.approx(limit.rows, rel=1e-9)
    even = np.zeros(2)
    opposite = np.array([1e-4, -1e-4])
    soft = shift.bounds(even, opposite, b, row_move=1.0, move=1.0, radius=1.0).softmax
    assert np.linalg.norm(shift.softmax(even, opposite)) == pytest.approx(soft, rel=1e-6)


def test_a_norm_that_bounds_is_all_that_the_radius_form_knows():
    A, b, x = task(np.random.default_rng(12), radius=1.3)
    dx = 0.01 * x
    found = shift.measure(A, b, x, dx=dx)
    R = np.linalg.norm(x) + np.linalg.norm(dx)
    expected = (1 + np.sqrt(12) * np.linalg.norm(b)) * R / 12 * np.exp(2 * R**2) * np.linalg.norm(dx)
    assert found.bound_radius == pytest.approx(expected, rel=1e-9)


BAD = {
    "n = 1": {"A": np.ones((1, 4)), "b": np.ones(1)},
    "b: sums to 0.5": {"b": np.full(12, 0.5 / 12)},
    "b: sums to 0": {"b": np.zeros(12)},
    "max |A x|: ": {"x": np.full(4, 1e4)},
    "after the move": {"dx": np.full(4, 1e5)},
    "alpha = <u, 1>: ": {"x": np.zeros(4), "activation": "sinh"},
    "sinh cancels": {"A": np.array([[1.0], [-1]]), "b": np.ones(2) / 2, "x": np.ones(1), "activation": "sinh"},
    "activation: got 'tanh'": {"activation": "tanh"},
    "dx, dA: got both or neither": {"dx": None},
    "dA: got (4,), expected (12, 4)": {"dx": None, "dA": np.ones(4)},
    "A, b, x: got A (12, 4), b (11,)": {"b": np.ones(11) / 11},
    "b: has values that are not finite": {"b": np.full(12, np.nan)},
}


@pytest.mark.parametrize("named", BAD)
def test_bad_input_is_refused_by_name(named):
    A, b, x = task(np.random.default_rng(13))
    given = {"A": A, "b": b, "x": x} | BAD[named]
    given.setdefault("dx", 0.1 * np.ones_like(given["x"]))
    with pytest.raises(InputError) as refusal:
        shift.measure(**given)
    assert named in str(refusal.value)
