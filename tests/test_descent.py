"""The training program against a slow float64 loop: both forms, all activations, both initialisations."""

import jax
import numpy as np
import pytest
from oracles import empirical_ntk, gradient_descent, sphere

from expreg import descent, network
from expreg.activation import ACTIVATIONS
from expreg.types import Status

N, D, M, STEPS = 5, 7, 12, 200


def make(form, activation, init, dtype, *, optimizer="sgd", hyperparameters=(), values=(), m=M, bucket=None, **change):
    """Return (signature, inputs) of a small run that never reaches its tolerance."""
    rng = np.random.default_rng(3)
    X = sphere(rng, N, D).astype(dtype)
    y = rng.choice([-1.0, 1.0], N).astype(dtype)
    branches = 2 if init == "coupled" else 1
    signature = descent.Signature(
        form=form, n=N, d=D, neurons=(bucket or m) // branches, branches=branches, activation=activation,
        dtype=np.dtype(dtype).name, optimizer=optimizer, hyperparameters=hyperparameters, schedule=None,
        kernel_path=True, measure_every=16, curve_points=STEPS + 1,
    )  # fmt: skip
    inputs = descent.Inputs(
        X=X, y=y, key=np.asarray(jax.random.key_data(jax.random.key(11))), m=np.int32(m), scale=dtype(1.0),
        step_factor=dtype(0.3), curvature_floor=dtype(5.0), use_curvature=dtype(0.0), flow_time=dtype(0.0),
        max_steps=np.int32(STEPS), tolerance=dtype(1e-30), divergence=dtype(1e6), lambda_cts=dtype(1.0),
        curve_steps=np.arange(STEPS + 1, dtype=np.int32), hyperparameters=tuple(dtype(v) for v in values),
    )  # fmt: skip
    return signature, inputs._replace(**change)


def run(signature, inputs):
    """Run the program of one lane to its end; return (state, record) as NumPy."""
    program = descent.program(signature)

    @jax.jit
    def go(inputs):
        state = program.init(inputs)
        state = jax.lax.while_loop(program.running, program.advance, state)
        return state, program.record(state)

    return jax.tree.map(np.asarray, go(jax.tree.map(np.asarray, inputs)))


def oracle(signature, inputs, momentum=0.0):
    W, a = network.initialise(
        jax.random.wrap_key_data(inputs.key), int(inputs.m), D, init="coupled" if signature.branches == 2 else "iid"
    )
    W, a = np.asarray(W, float), np.asarray(a, float)
    scale = float(inputs.scale)
    eta = float(inputs.step_factor / inputs.curvature_floor) / (scale**2 * int(inputs.m))
    X, y = np.asarray(inputs.X, float), np.asarray(inputs.y, float)
    norms, movements = gradient_descent(
        W, a, X, y, eta=eta, steps=STEPS, activation=signature.activation, scale=scale, momentum=momentum
    )
    return W, X, norms, movements


@pytest.mark.parametrize("init", ["coupled", "iid"])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("form", ["gram", "weight"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
def test_descent_follows_the_slow_float64_loop(form, activation, init, dtype, tolerance):
    signature, inputs = make(form, activation, init, dtype)
    _, record = run(signature, inputs)
    W, X, norms, movements = oracle(signature, inputs)
    assert record["steps"] == STEPS
    assert Status(int(record["status"])) is Status.max_steps
    assert norms[-1] < 0.9 * norms[0]  # the run moves, so that agreement means something
    np.testing.assert_allclose(record["curve"], norms, rtol=0, atol=tolerance * norms[0])
    measured = movements[[*range(0, STEPS, 16), STEPS]].max()  # every 16 steps and at the end
    np.testing.assert_allclose(record["max_movement"], measured, rtol=10 * tolerance)
    start = np.linalg.eigvalsh(empirical_ntk(W, X, activation))
    np.testing.assert_allclose(
        [record["lambda_0"], record["lambda_max_0"]], start[[0, -1]], rtol=0, atol=10 * tolerance
    )
