"""The training program against a slow float64 loop: both forms, all activations, both initialisations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import empirical_ntk, gradient_descent, movements
from runs import PARAMETERS, SCHEDULES, STEPS, M, make, measured, oracle, run, start_of, status_of

from expreg import network
from expreg.activation import ACTIVATIONS
from expreg.kinds.network import descent, initial, steps
from expreg.types import Status


@pytest.mark.parametrize("init", ["coupled", "iid"])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("form", ["gram", "weight"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
def test_descent_follows_the_slow_float64_loop(form, activation, init, dtype, tolerance):
    signature, inputs = make(form, activation, init, dtype)
    record = run(signature, inputs)
    norms, path = oracle(signature, inputs)
    assert (record["steps"], status_of(record)) == (STEPS, Status.max_steps)
    assert norms[-1] < 0.9 * norms[0]  # the run moves, so that agreement means something
    np.testing.assert_allclose(record["curve_residual"], norms, rtol=0, atol=tolerance * norms[0])
    np.testing.assert_allclose(record["residual_final"], norms[-1], rtol=0, atol=tolerance * norms[0])
    moved = movements(path[measured(path)]).max()
    assert moved > 0.01
    np.testing.assert_allclose(record["max_movement"], moved, rtol=10 * tolerance)
    spectrum = np.linalg.eigvalsh(empirical_ntk(path[0], np.asarray(inputs.X, float), activation))
    found = [record["lambda_0"], record["lambda_max_0"]]
    np.testing.assert_allclose(found, spectrum[[0, -1]], rtol=0, atol=tolerance * spectrum[-1])


@pytest.mark.parametrize("form", ["gram", "weight"])
@pytest.mark.parametrize("optimizer", ["momentum", "nesterov"])
def test_momentum_is_the_same_trajectory_in_both_spaces(form, optimizer):
    signature, inputs = make(form, optimizer=optimizer)
    norms, path = oracle(signature, inputs, momentum=0.8, nesterov=optimizer == "nesterov")
    record = run(signature, inputs)
    np.testing.assert_allclose(record["curve_residual"], norms, rtol=0, atol=1e-10 * norms[0])
    np.testing.assert_allclose(record["max_movement"], movements(path[measured(path)]).max(), rtol=1e-9)
    plain, _ = oracle(signature, inputs)
    assert np.abs(plain - norms).max() > 0.01 * norms[0]  # the oracle can tell momentum from none


@pytest.mark.parametrize("optimizer", sorted(steps.OPTIMIZERS))
def test_weight_space_is_a_plain_optax_loop_on_the_weights(optimizer):
    """Also under weight decay, which pulls W to 0 and not to W(0)."""
    signature, inputs = make("weight", optimizer=optimizer, bucket=2 * M)
    W, a, X, y, eta = start_of(signature, inputs)
    if not steps.OPTIMIZERS[optimizer].linear:
        eta = 1e-3  # these normalise the gradient
        inputs = inputs._replace(step_factor=eta * M * inputs.curvature_floor)
    transformation = steps.OPTIMIZERS[optimizer].make(eta, **PARAMETERS[optimizer])

    @jax.jit
    def step(W, state):
        updates, state = transformation.update(network.gradient(W, a, X, y), state, W)
        return optax.apply_updates(W, updates), state

    V, state, norms, path = jnp.asarray(W), transformation.init(jnp.asarray(W)), [], []
    for _ in range(STEPS + 1):
        norms.append(np.linalg.norm(network.forward(V, a, X) - y))
        path.append(np.asarray(V))
        V, state = step(V, state)
    record = run(signature, inputs)
    assert abs(norms[-1] - norms[0]) > 0.01 * norms[0]
    np.testing.assert_allclose(record["curve_residual"], norms, rtol=0, atol=1e-10 * norms[0])
    path = np.stack(path)
    np.testing.assert_allclose(record["max_movement"], movements(path[measured(path)]).max(), rtol=1e-9)


def test_weight_decay_alone_shrinks_the_neurons_of_the_network_and_no_masked_one():
    quiet = {"y": np.zeros(5), "max_steps": 50, "divergence": np.inf}
    signature, inputs = make("weight", optimizer="adamw", bucket=64 * M, **quiet)
    W, _, _, _, eta = start_of(signature, inputs)
    shrunk = 1 - (1 - eta * PARAMETERS["adamw"]["weight_decay"]) ** 50
    expected = shrunk * np.linalg.norm(W, axis=0).max()
    # adam makes steps of what rounding leaves of a gradient of 0
    np.testing.assert_allclose(run(signature, inputs)["max_movement"], expected, rtol=0.01)


def test_the_catalogues_are_walked_to_the_end():
    assert set(PARAMETERS) == set(steps.OPTIMIZERS)
    assert set(SCHEDULES) == set(steps.SCHEDULES)


@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [*((name, "polynomial") for name in steps.OPTIMIZERS), *(("sgd", name) for name in (None, *steps.SCHEDULES))],
)
def test_float32_stays_float32_for_every_optimizer_and_schedule(optimizer, schedule):
    forms = ["gram", "weight"] if steps.OPTIMIZERS[optimizer].linear else ["weight"]
    for form in forms:
        signature, inputs = make(form, dtype=np.float32, optimizer=optimizer, schedule=schedule)
        program = descent.program(signature)
        state = jax.eval_shape(program.init, inputs)
        after = jax.eval_shape(program.advance, state)  # a loop refuses a state that changes its types
        assert after.theta.dtype == jnp.float32
        assert jax.tree.map(lambda s: s.dtype, after) == jax.tree.map(lambda s: s.dtype, state)


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_a_schedule_multiplies_the_step_size(schedule):
    signature, inputs = make(schedule=schedule)
    norms, _ = oracle(signature, inputs, factor=SCHEDULES[schedule][1])
    np.testing.assert_allclose(run(signature, inputs)["curve_residual"], norms, rtol=0, atol=1e-10 * norms[0])
    plain, _ = oracle(signature, inputs)
    assert schedule == "constant" or np.abs(plain - norms).max() > 1e-3 * norms[0]


@pytest.mark.parametrize("init", ["coupled", "iid"])
def test_the_output_scale_enters_as_in_the_slow_loop(init):
    signature, inputs = make(init=init, scale=0.3)
    norms, path = oracle(signature, inputs)
    record = run(signature, inputs)
    np.testing.assert_allclose(record["curve_residual"], norms, rtol=0, atol=1e-10 * norms[0])
    np.testing.assert_allclose(record["max_movement"], movements(path[measured(path)]).max(), rtol=1e-9)


def test_scaled_labels_and_output_scale_give_the_same_weights():
    """(A.6): (kappa, y, eta) and (c kappa, c y, eta / c^2) are one trajectory."""
    signature, inputs = make()
    one, other = run(signature, inputs), run(signature, inputs._replace(scale=0.01, y=0.01 * inputs.y))
    np.testing.assert_allclose(other["curve_residual"], 0.01 * one["curve_residual"], rtol=1e-9)
    np.testing.assert_allclose(other["max_movement"], one["max_movement"], rtol=1e-9)
    np.testing.assert_allclose(other["eta"], one["eta"] / 0.01**2, rtol=1e-12)
    lazier = run(signature, inputs._replace(scale=3.0))  # kappa alone is another problem
    assert lazier["max_movement"] < 0.5 * one["max_movement"]


@pytest.mark.parametrize("init", ["coupled", "iid"])
@pytest.mark.parametrize("form", ["gram", "weight"])
def test_masked_neurons_make_exactly_the_narrower_network(form, init):
    narrow = run(*make(form, init=init, path=True))
    wide = run(*make(form, init=init, path=True, bucket=5 * M))
    for name in narrow:
        np.testing.assert_allclose(wide[name], narrow[name], rtol=1e-11, atol=1e-12, err_msg=name)


def test_the_order_of_the_neurons_is_of_no_consequence(monkeypatch):
    signature, inputs = make(path=True)
    one, draw = run(signature, inputs), initial.neurons
    order = np.random.default_rng(0).permutation(M // 2)
    monkeypatch.setattr(initial, "neurons", lambda *a: (draw(*a)[0][:, order], draw(*a)[1][order]))
    other = run(signature, inputs)
    for name in one:
        np.testing.assert_allclose(other[name], one[name], rtol=1e-10, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("form", ["gram", "weight"])
@pytest.mark.parametrize(("n", "d", "m", "init"), [(1, 1, 2, "coupled"), (1, 3, 1, "iid"), (2, 1, 2, "coupled")])
def test_the_smallest_problems(form, n, d, m, init):
    X = np.array([[1.0], [-0.5]])[:n] if d == 1 else None
    signature, inputs = make(form, n=n, d=d, m=m, init=init, X=X, y=np.ones(n), path=True)
    norms, path = oracle(signature, inputs)
    record = run(signature, inputs)
    np.testing.assert_allclose(record["curve_residual"], norms, rtol=0, atol=1e-10 * norms[0])
    smallest = [np.linalg.eigvalsh(empirical_ntk(path[t], inputs.X))[0] for t in measured(path)]
    np.testing.assert_allclose(record["lambda_min_path"], min(smallest), rtol=1e-9, atol=1e-12)


def test_float32_reaches_residuals_that_the_plain_sum_cannot():
    """(H.3): at m = 2^12 the sum of m exponentials is off by 1e-4 in float32, its increments by 1e-6."""
    m, tolerance = 2**12, 5e-6
    signature, inputs = make(dtype=np.float32, m=m, step_factor=1.0, curvature_floor=15.0, tolerance=tolerance,
                             max_steps=2000)  # fmt: skip
    record = run(signature, inputs)
    assert status_of(record) is Status.converged
    W, a, X, y, eta = start_of(signature, inputs)
    norms, path = gradient_descent(W, a, X, y, eta=eta, steps=int(record["steps"]))
    assert norms[-1] < 2 * tolerance  # the network itself, in float64, is where the increments say it is
    naive = network.forward(*(jnp.asarray(v, jnp.float32) for v in (path[-1], a, X))) - inputs.y
    assert np.linalg.norm(naive) > 5 * tolerance


def test_the_start_is_the_same_compiled_and_not():
    signature, inputs = make(path=True)
    inputs = jax.tree.map(jnp.asarray, inputs)
    init = descent.program(signature).init
    plain, whole = init(inputs), jax.jit(init)(inputs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13), plain, whole)
