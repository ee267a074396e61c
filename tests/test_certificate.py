"""The certificate: its formulas against loops, its symmetries, its behaviour under jit, what it says and refuses."""

import json
import math
import re
from functools import partial

import jax
import numpy as np
import pytest
from oracles import PHI, empirical_ntk, gradient_descent, movements
from scipy.special import lambertw
from starts import start

from expreg.certificate import Certificate, Spectra, certify, lambert_w, measure
from expreg.errors import InputError

NAMES = ["exp", "cosh", "sinh"]
ENVELOPE = {"exp": np.exp, "cosh": np.cosh, "sinh": np.cosh}
ROOTS = 1 - math.sqrt(2 / 3)


def measured(X, y, W, a, *, activation="exp", scale=1.0, **options):
    """Return what `measure` finds in the user's arrays."""
    Z = X @ W
    return measure(X, Z, scale * PHI[activation][0](Z) @ a - y, activation=activation, scale=scale, **options)


# --- the formulas


def slow_start(X, y, W, a, activation):
    """Return D, Y, the eigenvalues of H(0) and ||X||, written out entry by entry."""
    (n, _), m = X.shape, W.shape[1]
    phi, envelope = PHI[activation][0], ENVELOPE[activation]
    D = [[envelope(X[i] @ W[:, r]) for r in range(m)] for i in range(n)]
    Y = math.sqrt(sum((sum(a[r] * phi(X[i] @ W[:, r]) for r in range(m)) - y[i]) ** 2 for i in range(n)))
    return D, Y, np.linalg.eigvalsh(empirical_ntk(W, X, activation)), np.linalg.svd(X)[1][0]


def slow_basic(D, Y, values, s_x):
    """Return (holds, the bounds on eta, R) of (C.20), (C.21)."""
    n, m, lam = len(D), len(D[0]), 4 / 3 * values[0]
    h_bar = max(sum(D[i][r] ** 2 for r in range(m)) / m for i in range(n))
    R = math.log(1 + (math.sqrt(3) / 2 - math.sqrt(1 / 2)) * math.sqrt(lam) / (s_x * math.sqrt(h_bar)))
    M = math.exp(R) * max(map(max, D))
    limits = (1 / (m * M**2 * s_x**2), lam / (8 * M**3 * s_x**2 * math.sqrt(n) * Y), 1 / (s_x * M * Y))
    return 8 / 3 * s_x * M * Y / (m * lam) <= R, limits, R


def slow_refined(D, Y, values, s_x):
    """Return (holds, the bounds on eta, R_r) of (C.22)-(C.25)."""
    n, m, lam = len(D), len(D[0]), 4 / 3 * values[0]
    peak = [max(D[i][r] for i in range(n)) for r in range(m)]
    k0 = 8 / 3 * s_x * Y / (m * lam)
    if max(k0 * p for p in peak) > 1 / math.e:
        return False, None, None
    R = [-float(lambertw(-k0 * p).real) for p in peak]
    drop = s_x * math.sqrt(max(sum((D[i][r] * (math.exp(R[r]) - 1)) ** 2 for r in range(m)) / m for i in range(n)))
    largest = (math.sqrt(values[-1]) + ROOTS * math.sqrt(values[0])) ** 2
    S3 = sum(math.sqrt(sum(D[i][r] ** 2 for i in range(n))) * peak[r] ** 2 * math.exp(3 * R[r]) for r in range(m))
    step = 1 / (s_x * Y * max(peak[r] * math.exp(R[r]) for r in range(m)))
    return drop <= ROOTS * math.sqrt(values[0]), (1 / (m * largest), m * lam / (8 * s_x**2 * Y * S3), step), np.array(R)


@pytest.mark.parametrize("init", ["coupled", "iid"])
@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize(("refined", "slow"), [(False, slow_basic), (True, slow_refined)])
def test_formulas_agree_with_loops(activation, init, refined, slow):
    seen = []
    for seed in range(28):
        X, y, W, a = start(seed, 2 + seed % 3, 3, 40, init=init)
        y = PHI[activation][0](X @ W) @ a - y * 10.0 ** (seed % 7 / 2 - 2.5)
        D, Y, values, s_x = slow_start(X, y, W, a, activation)
        holds, limits, R = slow(D, Y, values, s_x)
        found = certify(X, y, W, a, activation=activation, refined=refined)
        assert found.holds == holds
        seen.append(holds)
        if limits is not None:
            np.testing.assert_allclose(list(found.eta_limits.values()), limits, rtol=1e-7)
        if holds:
            assert found.eta == min(found.eta_limits.values())
            np.testing.assert_allclose(found.radius, R, rtol=1e-7)
            np.testing.assert_allclose(found.decrease, 40 * found.eta * 4 / 3 * values[0] / 2, rtol=1e-7)
    assert 3 < sum(seen) < 26


@pytest.mark.parametrize("function", [lambert_w, jax.jit(lambert_w)], ids=["plain", "jitted"])
def test_lambert_w_is_that_of_scipy(function):
    x = -np.concatenate([(1 - np.logspace(-12, -0.01, 500)) / math.e, np.logspace(-300, math.log10(0.3), 500)])
    expected = lambertw(x).real
    # near -1/e the argument's own rounding moves w by its square root
    error = np.abs(np.asarray(function(x)) / expected - 1)
    assert np.all(error <= 1e-15 / np.maximum(1 + expected, 1e-8) + 4e-15)
    w = np.asarray(function(x.astype(np.float32)))
    assert w.dtype == np.float32
    # relative to what remains of x after rounding to float32
    far = (expected > -0.9) & (x < -1e-37)
    np.testing.assert_allclose(w[far], lambertw(x.astype(np.float32).astype(float)).real[far], rtol=3e-6)
    np.testing.assert_allclose(np.asarray(function(np.array([0.0, -1.0]))), [0.0, -1.0], atol=1e-8)


# --- the inequalities it stands on


@pytest.mark.parametrize("activation", NAMES)
def test_derivatives_change_by_at_most_the_envelope_within_a_radius(activation):
    """(C.8), and the Taylor remainder that the second bound on the step size is made from (C.18)."""
    rng = np.random.default_rng(0)
    z, h = rng.uniform(-6, 6, 4000), rng.uniform(-1, 1, 4000)
    phi, derivative = PHI[activation]
    envelope = ENVELOPE[activation]
    R, slack = np.abs(h), 1e-12 * envelope(6.0)
    assert np.all(np.abs(derivative(z + h) - derivative(z)) <= envelope(z) * np.expm1(R) + slack)
    assert np.all(envelope(z + h) <= envelope(z) * np.exp(R) + slack)
    assert np.all(np.abs(phi(z + h) - phi(z) - derivative(z) * h) <= envelope(z) * h**2 + slack)


@pytest.mark.parametrize("refined", [True, False])
@pytest.mark.parametrize("activation", NAMES)
def test_the_kernel_survives_any_movement_within_the_radii(activation, refined):
    """(C.9), neuron by neuron: sqrt(lambda_min) falls by at most (1 - sqrt(2/3)) sqrt(lambda_0) / margin."""
    rng, used = np.random.default_rng(1), []
    for seed in range(15):
        X, y, W, a = start(seed, 3, 3, 40)
        options = {"activation": activation, "refined": refined}
        y *= 0.99 * measured(X, y, W, a, **options).movement_margin  # to the edge of the first condition
        y *= 0.99 * min(measured(X, y, W, a, **options).kernel_margin, 1.0)  # and of the second
        found = measured(X, y, W, a, **options)
        assert found.holds
        margin = found.kernel_margin if refined else 1.0
        lowest = np.sqrt(found.lambda_0)
        for direction in (rng.normal(size=W.shape), *(np.repeat(-x[:, None], 40, axis=1) for x in X)):
            moved = W + found.radius * direction / np.linalg.norm(direction, axis=0)
            after = np.sqrt(np.linalg.eigvalsh(empirical_ntk(moved, X, activation))[0])
            assert abs(after - lowest) <= ROOTS * lowest / margin * (1 + 1e-9)
            used.append(abs(after - lowest) / (ROOTS * lowest / margin))
    assert max(used) > 0.1  # of the allowance: the bound is not empty


# --- theorems about the certificate itself


def test_refined_certificate_holds_wherever_the_basic_one_does_with_no_smaller_step():
    """R_r <= R, so S3 <= m sqrt(n) M^3 and the curvature is below M^2 ||X||^2: each of (C.25) is above its (C.21)."""
    both = 0
    for seed in range(120):
        activation = NAMES[seed % 3]
        X, y, W, a = start(seed, 2 + seed % 4, 4, 48, init=("coupled", "iid")[seed % 2])
        y = PHI[activation][0](X @ W) @ a - y * 10.0 ** (seed % 5 / 2 - 2.5)
        basic = certify(X, y, W, a, activation=activation, refined=False)
        refined = certify(X, y, W, a, activation=activation)
        assert refined.holds >= basic.holds
        if basic.holds:
            both += 1
            assert all(refined.eta_limits[name] >= basic.eta_limits[name] * (1 - 1e-12) for name in basic.eta_limits)
            assert np.max(refined.radius) <= basic.radius
    assert both > 20


def same(one: Certificate, other: Certificate, *, eta=1.0, radius=1.0, rtol=1e-9):
    assert one.holds == other.holds
    np.testing.assert_allclose(one.eta, eta * other.eta, rtol=rtol)
    np.testing.assert_allclose(one.radius, radius * other.radius, rtol=rtol)
    np.testing.assert_allclose(one.decrease, other.decrease, rtol=rtol)
    for name, margin in one.margins.items():
        np.testing.assert_allclose(margin, other.margins[name], rtol=rtol)


@pytest.mark.parametrize("refined", [True, False])
@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize("size", [0.01, 3.0])
def test_scale_and_point_norms_are_changes_of_variables(activation, refined, size):
    """(A.6): (kappa, y, eta) trains as (1, y / kappa, kappa^2 eta); (X, W, eta) as (X / q, q W, q^2 eta)."""
    X, y, W, a = start(4, size=size, init="iid")
    y += PHI[activation][0](X @ W) @ a
    plain = certify(X, y, W, a, activation=activation, refined=refined)
    assert plain.holds == (size == 0.01)
    kappa, q = -0.3, 2.5
    options = {"activation": activation, "refined": refined}
    same(certify(X, kappa * y, W, a, scale=kappa, **options), plain, eta=kappa**-2)
    same(certify(q * X, y, W / q, a, **options), plain, eta=q**-2, radius=1 / q)
    eta = plain.eta or 1e-5
    _, path = gradient_descent(W, a, X, y, eta=eta, steps=10, activation=activation)
    assert movements(path)[-1] > 1e-6
    arguments = {"steps": 10, "activation": activation}
    _, scaled = gradient_descent(W, a, X, kappa * y, eta=eta / kappa**2, scale=kappa, **arguments)
    np.testing.assert_allclose(scaled, path, rtol=1e-9, atol=1e-12)
    _, long = gradient_descent(W / q, a, q * X, y, eta=eta / q**2, **arguments)
    np.testing.assert_allclose(q * long, path, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("refined", [True, False])
@pytest.mark.parametrize("activation", NAMES)
def test_large_preactivations_only_change_the_units(activation, refined):
    """Moving all weights along v with X v = 1 multiplies all derivatives by e^c: (y, eta) -> (e^c y, e^-2c eta).

    e^3z, which S3 is made of, is then far out of range (H.1).
    """
    X, y, W, a = start(6, size=0.01)
    W = W + np.linalg.solve(X, np.ones(3))[:, None] * 30  # from here on cosh and sinh are e^z / 2
    y *= np.exp(30)
    near = certify(X, y, W, a, activation=activation, refined=refined)
    assert near.holds
    shift = np.linalg.solve(X, np.full(3, 270.0))[:, None]
    far = certify(X, y * np.exp(270.0), W + shift, a, activation=activation, refined=refined)
    same(far, near, eta=np.exp(-540.0), rtol=1e-6)


def test_neurons_can_be_reordered_and_points_too():
    X, y, W, a = start(8, n=4, size=0.05)
    order, points = np.random.default_rng(0).permutation(64), np.array([2, 0, 3, 1])
    plain, moved = certify(X, y, W, a), certify(X[points], y[points], W[:, order], a[order])
    same(moved, Certificate(**vars(plain) | {"radius": plain.radius[order]}))


# --- under jit, in float32, with padding


@pytest.mark.parametrize(("activation", "refined"), [("exp", True), ("cosh", False)])
def test_one_program_for_stored_pairs_padding_and_known_spectra(activation, refined):
    """A coupled pair stored once counts twice, padding counts nothing, and the eigenvalues may come from outside."""
    starts = [start(seed, size=0.05) for seed in range(4)]
    X, y, W, a = starts[3]
    starts[3] = X, y * np.exp(-9), W - np.linalg.solve(X, np.full((3, 1), 9.0)), a  # all pre-activations below 0
    found = [measure(X, X @ W, -y, activation=activation, refined=refined) for X, y, W, _ in starts]
    X, y, W, _ = (np.stack(arrays) for arrays in zip(*starts, strict=True))
    Z = np.concatenate([X @ W[..., :32], np.full((4, 3, 8), np.nan), np.full((4, 3, 8), 900.0)], axis=2)
    count = np.repeat([2, 0], [32, 16])
    lowest, largest = (np.array([getattr(f, name) for f in found]) for name in ("lambda_0", "lambda_max_0"))
    spectra = Spectra(lowest, largest, np.linalg.norm(X, 2, axis=(1, 2)) ** 2)
    one = partial(measure, activation=activation, refined=refined)
    inside = jax.vmap(lambda X, Z, y: one(X, Z, -y, count))
    outside = jax.vmap(lambda X, Z, y, spectra: one(X, Z, -y, count, spectra=spectra))
    for batch in jax.jit(lambda: (inside(X, Z, y), outside(X, Z, y, spectra)))():
        for name, values in batch._asdict().items():
            expected = np.stack([getattr(f, name)[:32] if np.ndim(getattr(f, name)) and name == "radius"
                                 else getattr(f, name) for f in found])  # fmt: skip
            got = values[:, :32] if name == "radius" and refined else values
            np.testing.assert_allclose(got, expected, rtol=1e-9, err_msg=name)
        assert batch.holds.any()
        assert np.all(batch.radius[..., 32:] == 0) or not (refined and batch.holds.all())


@pytest.mark.parametrize(("dtype", "slack"), [(np.float32, 1e-3), (np.float64, 1e-9)])
def test_conditions_must_hold_with_the_slack_to_spare(dtype, slack):
    """(C.27); and every number keeps the precision of the arrays."""
    X, y, W, _ = start(3)
    Z, X, y = (array.astype(dtype) for array in (X @ W, X, y))
    for refined, condition in ((False, "movement_margin"), (True, "kernel_margin")):
        low, high = 0.0, 1.0  # towards the largest residual that is certified
        for _ in range(50):
            size = (low + high) / 2
            low, high = (size, high) if measure(X, Z, dtype(size) * y, refined=refined).holds else (low, size)
        found = measure(X, Z, dtype(low) * y, refined=refined)
        np.testing.assert_allclose(getattr(found, condition), 1 + slack, rtol=1000 * np.finfo(dtype).eps)
        assert found.eta == found.eta_limits.min()
        assert all(value.dtype in (dtype, bool) for value in found)
    assert all(value.dtype in (dtype, bool) for value in jax.jit(measure)(X, Z, y))


@pytest.mark.parametrize("refined", [True, False])
def test_what_float32_certifies_holds(refined):
    certified = 0
    for seed in range(90):
        X, y, W, _ = start(seed, 2 + seed % 5, 4, 64)
        y *= 10.0 ** (seed % 9 / 4 - 2)
        single = [array.astype(np.float32) for array in (X, X @ W, -y)]
        found, exact = measure(*single, refined=refined), measure(X, X @ W, -y, refined=refined)
        assert found.eta.dtype == np.float32
        assert found.holds <= exact.holds
        if found.holds:
            certified += 1
            assert found.eta <= exact.eta
            assert found.eta >= 0.98 * exact.eta or found.lambda_0 < 1e-3 * found.lambda_max_0
    assert certified > 20


# --- what is said, and what is refused


def test_nothing_to_learn_holds_trivially_whatever_the_spectrum():
    X, _, W, a = start(0)
    shuffled = np.random.default_rng(1).permutation(64)  # the pairs must cancel in any order
    for points in (X, X[[0, 0, 1]]):
        found = certify(points, np.zeros(3), W[:, shuffled], a[shuffled])
        assert found.holds
        assert found.residual == 0
        assert found.steps(1e-300) == 0
        assert np.all(found.radius == 0)
        assert "residual is 0" in found.reasons[0]


def test_tiny_and_huge_residuals_are_not_rounded_to_nothing():
    """Their squares are out of range."""
    X, y, W, a = start(0)
    tiny, huge = certify(X, 1e-200 * y, W, a), certify(X, 1e200 * y, W, a)
    np.testing.assert_allclose([tiny.residual, huge.residual], np.sqrt(3) * np.array([1e-200, 1e200]))
    assert tiny.holds
    assert 0 < tiny.radius.max() < 1e-200
    assert not huge.holds
    assert not certify(X[[0, 0, 1]], 1e-200 * y, W, a).holds


@pytest.mark.parametrize("refined", [True, False])
def test_singular_kernels_are_named(refined):
    X, y, W, a = start(0, n=4, size=1e-14)
    repeated, opposite = X[[0, 1, 2, 1]], np.concatenate([X[:3], -X[:1]])
    cases = [
        (repeated, W, "exp", r"X\[3\] equals X\[1\]"),
        (opposite, W, "sinh", r"X\[3\] equals -X\[0\]"),
        (X * [[1], [1], [0], [1]], W, "exp", r"X\[2\] is 0"),
        (X, np.tile(W[:, :1], 64), "cosh", "rank is at most 3 .* for 4 points"),
    ]
    for points, weights, activation, message in cases:
        found = certify(points, y, weights, a, activation=activation, refined=refined)
        assert not found.holds
        assert (found.eta, found.rate, found.steps(1e-20)) == (0, 1, math.inf)
        assert re.search(message, found.reasons[0])
    assert certify(opposite, y, W, a, refined=refined).lambda_0 > 1e-3  # opposite points are fine for exp


@pytest.mark.parametrize(("seed", "size", "refined", "name", "margin"), [
    (0, 30.0, True, "C.22", "movement"), (0, 0.5, True, "C.23", "kernel"), (0, 1.0, False, "C.20", "movement"),
])  # fmt: skip
def test_reasons_name_the_condition_and_the_factor_it_fails_by(seed, size, refined, name, margin):
    X, y, W, a = start(seed, size=size)
    found = certify(X, y, W, a, refined=refined)
    assert not found.holds
    assert found.reasons[0].startswith(f"({name})")
    factor = float(re.search(r"by a factor ([\d.e+]+)", found.reasons[0])[1])
    np.testing.assert_allclose(factor, 1 / found.margins[margin], rtol=1e-3)
    # the conditions fail by the size of the residual alone: divided by the factor, it passes
    smaller = certify(X, y / factor * 0.99, W, a, refined=refined)
    assert smaller.margins[margin] > 1
    assert certify(X, y / factor * 1.2, W, a, refined=refined).margins["movement"] < smaller.margins["movement"]


def test_reasons_of_a_certificate_name_a_step_size_that_is_certified():
    found = certify(*start(0, size=0.01))
    largest = float(re.search(r"up to ([\d.e-]+) is certified", found.reasons[0])[1])
    assert 0.999 * found.eta < largest <= found.eta
    assert "curvature" in found.reasons[2]


def test_summary_is_plain_json():
    for size, refined in ((0.01, True), (0.01, False), (30.0, True)):
        told = certify(*start(0, size=size), refined=refined).summary()
        assert json.loads(json.dumps(told, allow_nan=False)) == told
        assert told["holds"] == (told["radius"] is not None)


@pytest.mark.parametrize(("change", "message"), [
    ({"activation": "relu"}, "E-ENUM.*'relu', expected one of exp, cosh, sinh"),
    ({"scale": 0.0}, "E-RANGE.*scale.*not 0"),
    ({"y": np.ones(2)}, r"E-SHAPE.*y.*\(2,\), expected \(3,\)"),
    ({"a": np.ones(5)}, r"E-SHAPE.*a.*\(5,\), expected \(64,\)"),
    ({"W": np.ones((2, 64))}, r"E-SHAPE.*W.*\(2, 64\), expected \(3, 64\)"),
    ({"X": np.ones(3)}, "E-SHAPE"),
    ({"X": np.full((3, 3), np.nan)}, "E-DATA.*X.*9 values"),
    ({"a": np.full(64, 0.5)}, r"E-DATA.*a.*0.5.*\+1 or -1"),
    ({"W": np.full((3, 64), 1e4)}, "E-DATA.*overflows"),
])  # fmt: skip
def test_what_cannot_be_certified_is_refused(change, message):
    arguments = dict(zip("XyWa", start(0), strict=True))
    arguments["X"] = np.abs(arguments["X"])
    with pytest.raises(InputError, match=message):
        certify(**arguments | change)


def test_device_side_refuses_relu_and_steps_refuse_nonsense():
    X, y, W, a = start(0, size=0.01)
    with pytest.raises(ValueError, match="relu.*covers exp, cosh, sinh"):
        measure(X, X @ W, y, activation="relu")
    for eps, eta in ((0.0, None), (0.1, 0.0), (0.1, -1.0), (math.nan, None)):
        with pytest.raises(ValueError, match="expected"):
            certify(X, y, W, a).steps(eps, eta)
