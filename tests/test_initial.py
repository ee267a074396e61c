"""What a run knows of its start, and what it makes of it on the way: radii, certificate, lazy movement, margins."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import empirical_ntk, infinite_ntk, sphere
from runs import EVERY, make, measured, oracle, run, start_of
from starts import start

from expreg import certify, ntk, theory
from expreg.kinds.network import events, initial
from expreg.network import neurons

NAMES = ("exp", "cosh", "sinh")


def measure(X, y, W, a, activation="exp", scale=1.0, lambda_cts=1.0, copies=1):
    """Return what `initial` finds of plain arrays; every column stands for `copies` neurons."""
    with jax.enable_x64(True):
        X, Z, count = jnp.asarray(X), jnp.asarray(X @ W), jnp.full(W.shape[1], copies)
        residual = jnp.asarray(scale * (getattr(np, activation)(X @ W) @ a) - y)
        found = initial.kernel(X, Z, count, activation)
        constants = {"scale": jnp.asarray(scale), "lambda_cts": lambda_cts, "gram_norm": np.linalg.norm(X, 2) ** 2}
        return found, initial.reach(X, Z, count, residual, found, activation=activation, **constants)


@pytest.mark.parametrize("activation", NAMES)
def test_the_kernel_at_the_start_is_that_of_the_definition(activation):
    X, y, W, a = start(0, n=4, m=32)
    found, _ = measure(X, y, W, a, activation)
    H = empirical_ntk(W, X, activation)
    error = H - infinite_ntk(X, activation)
    np.testing.assert_allclose(found.matrix, H, rtol=1e-12)
    np.testing.assert_allclose([found.lambda_0, found.lambda_max_0], np.linalg.eigvalsh(H)[[0, -1]], rtol=1e-10)
    np.testing.assert_allclose(found.frobenius_error, np.linalg.norm(error), rtol=1e-9)
    np.testing.assert_allclose(found.spectral_error, np.linalg.norm(error, 2), rtol=1e-9)


@pytest.mark.parametrize("activation", NAMES)
def test_within_the_radius_the_smallest_eigenvalue_keeps_half_of_lambda(activation):
    """(C.9), attacked by moving every neuron straight towards smaller derivatives."""
    X, y, W, a = start(1, n=3, m=256)
    H = empirical_ntk(W, X, activation)
    lam = 4 / 3 * np.linalg.eigvalsh(H)[0]  # the largest lambda for which E1m holds
    _, reach = measure(X, y, W, a, activation, lambda_cts=lam)
    D = np.exp(X @ W) if activation == "exp" else np.cosh(X @ W)
    expected = theory.radius(lam, np.linalg.norm(X, 2), (D**2).mean(axis=1).max())
    np.testing.assert_allclose(reach.radius, expected, rtol=1e-12)
    pull = -X.sum(axis=0) if activation == "exp" else None
    direction = np.tile(pull[:, None], W.shape[1]) if pull is not None else -X.T @ np.sign(X @ W)
    moved = W + float(reach.radius) * direction / np.linalg.norm(direction, axis=0)
    left = np.linalg.eigvalsh(empirical_ntk(moved, X, activation))[0]
    assert lam / 2 <= left < np.linalg.eigvalsh(H)[0]


def test_radii_shrink_with_the_length_of_the_points():
    """X / q and q W are the same network, and its neurons move q times as far."""
    X, y, W, a = start(2, m=512)
    found = [measure(q * X, y, W / q, a, lambda_cts=q**2)[1] for q in (1.0, 3.0)]
    np.testing.assert_allclose(found[1].radius, found[0].radius / 3, rtol=1e-12)
    np.testing.assert_allclose(found[1].radii, found[0].radii / 3, rtol=1e-9)
    np.testing.assert_allclose(found[1].movement_linearised, found[0].movement_linearised / 3, rtol=1e-8)


@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_the_certificate_of_a_run_is_that_of_certify(activation, scale):
    holds = set()
    for seed, m, size in ((3, 16, 1.0), (4, 256, 1.0), (5, 2048, 0.003)):
        X, y, W, a = start(seed, m=m, size=size)
        _, reach = measure(X, y, W[:, : m // 2], a[: m // 2] * 0, activation, scale, copies=2)
        expected = certify(X, y, W, a, activation=activation, scale=scale)
        holds.add(expected.holds)
        assert bool(reach.certified) == expected.holds
        np.testing.assert_allclose(reach.eta_certified, expected.eta, rtol=1e-9)
        np.testing.assert_allclose(reach.certificate_margin, min(expected.margins.values()), rtol=1e-9)
        if expected.holds:
            np.testing.assert_allclose(np.tile(reach.radii, 2), expected.radius, rtol=1e-9)
    assert holds == {True, False}


@pytest.mark.parametrize("activation", NAMES)
def test_the_lazy_movement_is_that_of_the_solved_system(activation):
    X, y, W, a = start(6, m=64)
    _, reach = measure(X, y, W, a, activation, scale=0.5)
    residual = 0.5 * (getattr(np, activation)(X @ W) @ a) - y
    expected = ntk.lazy_movement(W, a, X, residual, activation=activation, scale=0.5)
    np.testing.assert_allclose(reach.movement_linearised, np.linalg.norm(expected, axis=0).max(), rtol=1e-8)


def test_a_singular_kernel_has_no_lazy_movement():
    X, y, W, a = start(7)
    X[1] = X[0]
    assert math.isnan(measure(X, y, W, a)[1].movement_linearised)


@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize("form", ["gram", "weight"])
def test_movement_is_compared_with_the_radii_of_every_neuron(form, activation):
    """First violation of (C.9) and the largest share of (C.22) against the slow loop, padding included."""
    X = sphere(np.random.default_rng(8), 3, 3)
    change = {"X": X, "m": 256, "bucket": 512, "reach": True, "lambda_cts": 1e-4, "y": np.array([0.5, -0.5, 0.5])}
    signature, inputs = make(form, activation, **change)
    record = run(signature, inputs)
    W, a, _, y, _ = start_of(signature, inputs)
    certificate = certify(X, y, W, a, activation=activation)
    assert bool(record["certified"]) == certificate.holds
    _, path = oracle(signature, inputs)
    moved = np.linalg.norm(path - path[0], axis=1)  # (steps, m)
    looked = measured(path)
    radius = float(record["radius"])
    beyond = [t for t in looked if moved[t].max() > radius * (1 + 1e-9)]
    assert int(record["E2_step"]) == (beyond[0] if beyond else events.NEVER)
    assert beyond, "the radius of this test is small"
    assert beyond[0] % EVERY == 0
    if certificate.holds:
        share = (moved[looked] / certificate.radius).max()
        np.testing.assert_allclose(record["refined_movement"], share, rtol=1e-8)
    else:
        assert math.isnan(record["refined_movement"])


def test_the_margin_of_the_rate_is_the_smallest_over_the_steps():
    signature, inputs = make(lambda_cts=0.5)
    norms, _ = oracle(signature, inputs)
    record = run(signature, inputs)
    steps = np.arange(1, len(norms))
    bound = (1 - float(record["eta_scaled"]) * 0.5 / 2) ** (steps / 2) * norms[0]
    np.testing.assert_allclose(np.exp(record["rate_margin"] / 2), (bound / norms[1:]).min(), rtol=1e-9)


@pytest.mark.parametrize("m", [2, 32, 34, 256])
def test_a_network_has_the_same_neurons_in_a_program_of_wider_ones(m):
    signature, inputs = make(dtype=np.float32, m=m, bucket=256)
    assert signature.neurons in initial.SHARED
    weights, signs = neurons(jax.random.wrap_key_data(inputs.key), m // 2, signature.d)
    found = initial.draw(signature, jax.tree.map(jnp.asarray, inputs))
    np.testing.assert_array_equal(found.weights[:, : m // 2], weights)
    np.testing.assert_array_equal(found.signs[0], np.append(signs, np.zeros(128 - m // 2)))
    assert found.live.sum() == m // 2
