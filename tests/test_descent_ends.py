"""How a run ends, the budget it had, the events it met on its way, and the curve that it leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import empirical_ntk, infinite_ntk, movements, sphere
from runs import ETA_SCALED, STEPS, D, M, N, make, measured, oracle, run, start_of, status_of

from expreg.activation import ACTIVATIONS
from expreg.kinds.network import descent, events
from expreg.types import Status

# --- how a run ends


def test_a_run_converges_at_the_first_step_below_its_tolerance():
    signature, inputs = make()
    norms, _ = oracle(signature, inputs)
    for step in (1, 15, 16, 17, 63, STEPS):  # inside, at and beside the end of a block; at the last step of all
        between = np.sqrt(norms[step] * norms[step - 1])
        record = run(signature, inputs._replace(tolerance=between))
        assert (status_of(record), record["steps"]) == (Status.converged, step)
        np.testing.assert_allclose(record["residual_final"], norms[step], rtol=1e-9)
        assert record["curve_length"] == step + 1
    too_small = run(signature, inputs._replace(tolerance=norms[STEPS] * 0.999))
    assert (status_of(too_small), too_small["steps"]) == (Status.max_steps, STEPS)


def test_a_run_that_starts_within_its_tolerance_makes_no_step():
    signature, inputs = make(flow_time=2.0)
    record = run(signature, inputs._replace(tolerance=np.linalg.norm(inputs.y)))
    assert (status_of(record), record["steps"]) == (Status.converged, 0)
    assert (record["max_movement"], record["curve_length"]) == (0, 1)
    assert record["E4_step"] == events.NEVER


def test_the_tolerance_counts_before_the_budget_and_the_budget_before_nothing():
    signature, inputs = make(max_steps=1)
    norms, _ = oracle(signature, inputs)
    assert status_of(run(signature, inputs._replace(tolerance=norms[1] * 1.001))) is Status.converged
    assert status_of(run(signature, inputs)) is Status.max_steps


def test_a_growing_residual_ends_a_run_when_it_has_diverged():
    signature, inputs = make(step_factor=1.0, divergence=3.0)
    norms, _ = oracle(signature, inputs, steps=3)
    above = int(np.argmax(norms > 3.0 * norms[0]))
    assert above == 2
    record = run(signature, inputs)
    assert (status_of(record), record["steps"]) == (Status.diverged, above)
    np.testing.assert_allclose(record["residual_final"], norms[above], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", ["gram", "weight"])
def test_a_residual_that_is_not_finite_ends_a_run_at_once(form, dtype):
    signature, inputs = make(form, dtype=dtype, step_factor=1e4, divergence=np.finfo(dtype).max, path=True)
    with np.errstate(over="ignore", invalid="ignore"):
        norms, _ = oracle(signature, inputs, steps=4)
    first = int(np.argmin(np.isfinite(norms.astype(dtype))))
    assert first > 0
    record = run(signature, inputs)
    assert status_of(record) is Status.nonfinite
    assert record["steps"] == first
    assert record["max_movement"] == np.inf or record["max_movement"] > 1
    assert record["E3_step"] == first
    assert record["E4_step"] <= first


@pytest.mark.parametrize("form", ["gram", "weight"])
def test_weights_that_leave_the_range_of_numbers_moved_without_bound(form):
    signature, inputs = make(form, dtype=np.float32, step_factor=1e25, X=60 * sphere(np.random.default_rng(0), N, D))
    record = run(signature, inputs)
    assert (status_of(record), record["steps"]) == (Status.nonfinite, 1)
    assert record["max_movement"] == np.inf


def test_data_that_overflow_at_the_start_are_a_status_and_not_an_error():
    signature, inputs = make(dtype=np.float32, X=200 * sphere(np.random.default_rng(0), N, D))
    record = run(signature, inputs)
    assert (status_of(record), record["steps"]) == (Status.nonfinite, 0)


def test_a_spectrum_that_overflows_does_not_reach_rules_that_do_not_use_it():
    signature, inputs = make(dtype=np.float32, X=60 * sphere(np.random.default_rng(0), N, D))
    record = run(signature, inputs)
    assert not np.isfinite(record["lambda_max_0"])
    assert record["eta_scaled"] == inputs.step_factor / inputs.curvature_floor
    used = run(signature, inputs._replace(use_curvature=np.float32(1)))
    assert not np.isfinite(used["eta_scaled"])
    assert status_of(used) is Status.nonfinite


def test_an_idle_lane_of_zeros_does_not_run():
    signature, inputs = make()
    program = descent.program(signature)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(program.init, inputs))
    assert not program.running(zeros)
    assert program.running(program.init(inputs))


# --- step size and budget


def test_the_step_size_is_the_factor_over_the_larger_curvature():
    signature, inputs = make(step_factor=0.7, scale=0.5)
    top = run(signature, inputs)["lambda_max_0"]
    for floor, use, expected in [(5.0, 0, 5.0), (0.9 * top, 1, top), (1.1 * top, 1, 1.1 * top)]:
        record = run(signature, inputs._replace(curvature_floor=floor, use_curvature=float(use), max_steps=np.int32(1)))
        np.testing.assert_allclose(record["eta_scaled"], 0.7 / expected, rtol=1e-12)
        np.testing.assert_allclose(record["eta"], 0.7 / expected / (0.25 * M), rtol=1e-12)


def budget(**change):
    """Return the budget of a run whose scaled step is ETA_SCALED and whose first residual is sqrt(5)."""
    _, inputs = make(**{"flow_time": 2.0, "tolerance": 0.01, "max_steps": 10**6, **change})
    inputs = jax.tree.map(jnp.asarray, inputs)
    return int(descent._budget(inputs, inputs.step_factor / inputs.curvature_floor, descent.norm(inputs.y)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_budget_is_the_flow_time(dtype):
    """T = ceil(flow_time 2 / (eta_scaled lambda) log(||r_0|| / eps)), at most max_steps (experiments.md 2)."""
    expected = 2.0 * 2 / (ETA_SCALED * 0.8) * np.log(np.sqrt(5) / 0.01)
    assert abs(expected - np.round(expected)) > 0.01
    assert budget(lambda_cts=0.8, dtype=dtype) == np.ceil(expected)
    assert budget(lambda_cts=0.8, dtype=dtype, flow_time=1.0) == np.ceil(expected / 2)
    assert budget(lambda_cts=0.8, dtype=dtype, max_steps=100) == 100
    assert budget(flow_time=0.0, max_steps=77, dtype=dtype) == 77
    assert budget(tolerance=10.0, dtype=dtype) == 1


@pytest.mark.parametrize("eigenvalue", [0.0, -1e-17, 1e-300])
def test_without_a_rate_the_budget_is_its_upper_bound(eigenvalue):
    assert budget(lambda_cts=eigenvalue) == 10**6
    assert budget(lambda_cts=eigenvalue, max_steps=10**9, dtype=np.float32) == 10**9
    assert budget(lambda_cts=1.0, step_factor=0.0) == 10**6
    assert budget(lambda_cts=1.0, step_factor=np.nan) == 10**6


# --- events


@pytest.mark.parametrize("form", ["gram", "weight"])
@pytest.mark.parametrize(("init", "factor"), [("coupled", 1.0), ("iid", 0.075)])
def test_the_path_of_the_smallest_eigenvalue_and_its_first_violation(form, init, factor):
    signature, inputs = make(form, init=init, path=True, n=3, step_factor=factor, every=8)
    _, path = oracle(signature, inputs)
    at = measured(path, 8)
    X = np.asarray(inputs.X, float)
    smallest = np.array([np.linalg.eigvalsh(empirical_ntk(path[t], X))[0] for t in at])
    np.testing.assert_allclose(run(signature, inputs)["lambda_min_path"], smallest.min(), rtol=1e-8)
    falls = np.flatnonzero(np.diff(np.minimum.accumulate(smallest)) < 0) + 1
    assert len(falls)  # it does sink on the way
    for place in {falls[0], falls[-1]}:
        bound = (smallest[place] + np.minimum.accumulate(smallest)[place - 1]) / 2
        record = run(signature, inputs._replace(lambda_cts=2 * bound))
        assert record["E3_step"] == at[place]
    assert run(signature, inputs._replace(lambda_cts=2 * 0.999 * smallest.min()))["E3_step"] == events.NEVER
    assert run(signature, inputs._replace(lambda_cts=2 * 1.001 * smallest[0]))["E3_step"] == 0


@pytest.mark.parametrize(
    ("init", "factor", "lost"), [("coupled", 1.0, True), ("coupled", 0.05, False), ("iid", 0.3, True)]
)
def test_the_promises_of_a_certificate_are_measured_from_the_start_of_the_run_itself(init, factor, lost):
    """(C.26) with lambda = 4/3 lambda_min(H(0)): lambda of H^cts, here 1e-6, plays no part."""
    signature, inputs = make(
        init=init, n=3, reach=True, more=("E3cert", "E4cert"), step_factor=factor, every=8, lambda_cts=1e-6
    )
    norms, path = oracle(signature, inputs)
    at, X = measured(path, 8), np.asarray(inputs.X, float)
    smallest = np.array([np.linalg.eigvalsh(empirical_ntk(path[t], X))[0] for t in at])
    below = smallest < 2 / 3 * smallest[0] * (1 - 1e-9)
    eta_scaled = factor / 5
    rate = 1 - eta_scaled * (4 / 3 * smallest[0]) / 2
    above = norms**2 > rate ** np.arange(len(norms)) * norms[0] ** 2 * (1 + 1e-9)
    record = run(signature, inputs)
    assert record["E3cert_step"] == (at[int(below.argmax())] if below.any() else events.NEVER)
    assert record["E4cert_step"] == (int(above.argmax()) if above.any() else events.NEVER)
    assert (below.any() or above.any()) == lost
    np.testing.assert_allclose(record["lambda_min_certified"], smallest.min(), rtol=1e-8)


def rate_violation(norms, decrease):
    """Return the first t with ||r_t||^2 > (1 - decrease)^t ||r_0||^2, or NEVER."""
    t = np.arange(len(norms))
    lost = norms**2 > np.maximum(1 - decrease, 0.0) ** t * norms[0] ** 2 * (1 + 1e-8)
    return int(np.argmax(lost)) if lost.any() else events.NEVER


def test_the_rate_is_lost_at_the_first_step_above_it():
    signature, inputs = make()
    norms, _ = oracle(signature, inputs)
    seen = set()
    for eigenvalue in (2.0, 14.0, 20.0, 30.0, 60.0, 120.0):
        expected = rate_violation(norms, ETA_SCALED * eigenvalue / 2)
        assert run(signature, inputs._replace(lambda_cts=eigenvalue))["E4_step"] == expected
        seen.add(expected)
    assert events.NEVER in seen
    assert len(seen) >= 4  # late and early violations


def test_the_rate_is_judged_within_the_tolerance_of_the_precision():
    """One point, r_1 = (1 - eta_scaled H) r_0, with a step so short that the tolerance decides."""
    for dtype, slack in ((np.float32, 1e-3), (np.float64, 1e-9)):
        signature, inputs = make(dtype=dtype, n=1, step_factor=5e-4 * slack, max_steps=1, scale=1e-2)
        H = run(signature, inputs)["lambda_0"]
        loss = float(2 * 1e-4 * slack * H)  # the relative fall of r^2 in one step
        for share, violated in ((0.9, False), (1.1, True)):
            # ask for a fall that is `share` of the slack more than what happens
            asked = 2 * (loss + share * slack) / (1e-4 * slack)
            found = run(signature, inputs._replace(lambda_cts=dtype(asked)))
            assert (found["E4_step"] == 1) == violated


@pytest.mark.parametrize("decrease", [1.0, 1.5])
def test_a_step_beyond_the_rate_violates_it_at_the_first_step_and_not_before(decrease):
    signature, inputs = make()
    record = run(signature, inputs._replace(lambda_cts=2 * decrease / ETA_SCALED))
    assert record["E4_step"] == 1
    stopped = run(signature, inputs._replace(lambda_cts=2 * decrease / ETA_SCALED, tolerance=100.0))
    assert stopped["E4_step"] == events.NEVER  # at step 0 the rate asks for nothing


@pytest.mark.parametrize("every", [1, 7])
@pytest.mark.parametrize("form", ["gram", "weight"])
def test_the_movement_is_the_largest_of_all_neurons_and_measured_times(form, every):
    # the step is so large that the weights swing: the largest movement is not the last
    signature, inputs = make(form, step_factor=0.5, every=every, scale=0.3, max_steps=30)
    norms, path = oracle(signature, inputs)
    moved = movements(path)[measured(path, every)]
    assert np.isfinite(norms).all()
    assert every > 1 or moved.max() > moved[-1] * 1.0001
    np.testing.assert_allclose(run(signature, inputs)["max_movement"], moved.max(), rtol=1e-7)


@pytest.mark.parametrize("activation", ["exp", "cosh", "sinh"])
def test_the_errors_at_the_start_are_those_of_quadrature_and_a_sum_over_neurons(activation):
    signature, inputs = make(activation=activation, max_steps=1)
    signs = set()
    for seed in range(6):
        inputs = inputs._replace(key=np.asarray(jax.random.key_data(jax.random.key(seed))))
        W, _, X, _, _ = start_of(signature, inputs)
        error = empirical_ntk(W, X, activation) - infinite_ntk(X, activation)
        record = run(signature, inputs)
        np.testing.assert_allclose(record["frobenius_error"], np.sqrt((error**2).sum()), rtol=1e-9)
        np.testing.assert_allclose(record["spectral_error"], np.linalg.norm(error, 2), rtol=1e-9)
        signs.add(np.sign(np.linalg.eigvalsh(error)[[0, -1]].sum()))
    assert signs == {-1.0, 1.0}  # the largest eigenvalue of the error is of either sign


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_float32_knows_the_errors_at_the_start_to_its_own_precision(activation):
    """Angles between equal points lose half the digits if they are computed in float32."""
    X = sphere(np.random.default_rng(1), 12, 7).astype(np.float32).astype(float)
    single, double = (run(*make(activation=activation, X=X, dtype=t, max_steps=1)) for t in (np.float32, np.float64))
    for name in ("frobenius_error", "spectral_error", "lambda_0", "lambda_max_0"):
        np.testing.assert_allclose(single[name], double[name], rtol=1e-5, atol=1e-6 * double["lambda_max_0"])


def test_float32_follows_the_smallest_eigenvalue_to_the_tolerance_of_its_events():
    """Down to 1e-4 lambda_max, below which E1m and E3 are not reported (H.7): sixteen pairs of close points."""
    rng = np.random.default_rng(1)
    one, turn = sphere(rng, 16, 32), sphere(rng, 16, 32)
    turn = turn - np.sum(one * turn, axis=1, keepdims=True) * one
    X = np.concatenate([one, one + 0.05 * turn]).astype(np.float32).astype(float)
    change = dict(X=X, m=256, path=True, max_steps=64, points=2, step_factor=0.1)
    single, double = (run(*make(dtype=dtype, **change)) for dtype in (np.float32, np.float64))
    share = double["lambda_min_path"] / double["lambda_max_0"]
    assert 1e-5 < share < 1e-4
    slack = events.TOLERANCE["float32"]
    np.testing.assert_allclose(single["lambda_min_path"], double["lambda_min_path"], rtol=slack)
    np.testing.assert_allclose(single["lambda_0"], double["lambda_0"], rtol=slack)


# --- the curve


@settings(max_examples=40, deadline=None)
@given(points=st.sampled_from([3, 9, 48]), budget=st.integers(1, 10**9))
def test_curve_steps_begin_at_0_increase_and_span_the_budget(points, budget):
    for spacing in ("logarithmic", "regular"):
        steps = np.asarray(descent._curve_steps(points, spacing, jnp.int32(budget)))
        assert steps[0] == 0
        assert (np.diff(steps) > 0).all()
        assert steps[-1] >= budget
        assert steps[-1] <= max(budget + points, 1.1 * budget)
    assert len(np.unique(np.diff(steps))) == 1  # regular
    geometric = np.asarray(descent._curve_steps(points, "logarithmic", jnp.int32(budget)))
    ratio = max(budget, 2) ** (1 / max(points - 2, 1))
    late = geometric[(geometric > 2 * points) & (geometric > 10 / (ratio - 1))]
    np.testing.assert_allclose(late[1:] / late[:-1], ratio, rtol=0.2)


@pytest.mark.parametrize("spacing", ["logarithmic", "regular"])
def test_the_curve_holds_the_residuals_of_its_steps(spacing):
    signature, inputs = make(points=9, spacing=spacing)
    norms, _ = oracle(signature, inputs)
    record = run(signature, inputs)
    assert record["curve_length"] == 9
    np.testing.assert_allclose(record["curve_residual"], norms[record["curve_step"]], rtol=1e-9)
    shorter = run(signature, inputs._replace(tolerance=norms[100]))
    length = int(shorter["curve_length"])
    assert length == np.sum(shorter["curve_step"] <= shorter["steps"]) < 9
    assert np.isnan(shorter["curve_residual"][length:]).all()


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.floats(0.01, 1) | st.floats(-1, -0.01) | st.just(0.0), min_size=1, max_size=6),
    exponent=st.integers(-1000, 1000),
)
def test_the_norm_neither_overflows_nor_vanishes(values, exponent):
    v = np.asarray(values) * 2.0**exponent
    exact = np.sqrt(np.sum(v.astype(np.longdouble) ** 2))
    np.testing.assert_allclose(descent.norm(jnp.asarray(v)), float(exact), rtol=1e-12)
    if abs(exponent) < 120:
        np.testing.assert_allclose(descent.norm(jnp.asarray(v, jnp.float32)), exact, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_norm_of_what_is_not_finite_is_not_finite(bad):
    assert not np.isfinite(descent.norm(jnp.array([1.0, bad, 0.0])))
