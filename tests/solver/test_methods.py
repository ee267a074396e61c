"""The methods as pure functions: quadratic and linear convergence, lanes, both backends, statuses as values."""

from functools import lru_cache, partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import planted

from expreg import basin, residual, sketch, solver
from expreg.solver import host, newton
from expreg.solver.state import Objective, first_state
from expreg.sparse import from_dense, passes
from expreg.types import Status

pytestmark = pytest.mark.usefixtures("quickly_compiled")
PAIRS = [(loss, activation) for loss in residual.LOSSES for activation in residual.activations()]


@lru_cache(maxsize=32)
def compiled(**options):
    """One program per set of options and shapes: from a start to the end of the run."""
    method = solver.make(**options)

    def whole(A, b, x0, weights, key, tol):
        state = method.init(A, b, x0, weights, jax.random.key(key), tol)
        return jax.lax.while_loop(method.running, method.step, state)

    return jax.jit(whole)


def run(options, A, b, x0, tol=1e-10, weights=None):
    weights = jnp.zeros_like(jnp.asarray(b)) if weights is None else weights
    return compiled(**options)(A, b, x0, weights, 0, tol)


def status(state):
    return Status(int(state.status)).name


@pytest.mark.parametrize(("loss", "activation"), PAIRS)
def test_newton_converges_quadratically_near_a_planted_optimum(loss, activation):
    """(E.41): from ||e|| to a multiple of ||e||^2, twice, and the same steps on both backends."""
    A, b, x = planted(60, loss=loss, activation=activation)
    x0 = x + 0.01 * np.random.default_rng(1).normal(size=x.size)
    kind = Objective(loss, activation, True, host.HOST)
    norms = np.linalg.norm(A, axis=0)
    problem = solver.Problem(passes.rows(A), b, np.zeros_like(b), np.asarray(1e-13), norms, None)
    state, errors = first_state(kind, problem, x0, np.asarray(0.0)), [np.linalg.norm(x0 - x)]
    exact = partial(newton.by_matrix, newton.hessian)
    with host.calm():
        for _ in range(3):
            state = newton.step(kind, exact, 50, state)
            errors.append(np.linalg.norm(state.x - x))
    constant = errors[1] / errors[0] ** 2
    assert constant < 100
    for before, after in pairwise(errors[1:]):
        assert after < max(3 * constant, 1) * before**2 + 1e-13
    assert errors[3] < 1e-5 * errors[0]


@pytest.mark.parametrize("name", ["newton", "gauss_newton", "pcg", "gd"])
def test_every_method_finds_the_same_minimum(name):
    A, b, x = planted(noise=0.1)
    tol = 1e-8 if name == "gd" else 1e-10  # a search by values sees no decrease below the square of rounding
    end = run({"loss": "softmax", "solver": name}, jnp.asarray(A), b, x + 0.1, tol=tol)
    assert status(end) == "converged"
    assert end.relative <= tol
    gradient = jax.grad(lambda x: residual.loss_value(A @ x, b, "softmax", "exp"))(end.x)
    assert np.linalg.norm(gradient) == pytest.approx(float(end.gradient_norm), abs=1e-15)
    assert end.loss == pytest.approx(float(residual.loss_value(A @ np.asarray(end.x), b, "softmax", "exp")), rel=1e-10)
    exact = run({"loss": "softmax", "solver": "newton"}, jnp.asarray(A), b, x + 0.1)
    assert np.allclose(end.x, exact.x, atol=1e-7)
    assert end.passes > 2 * end.step


def energy(H, e):
    return np.sqrt(e @ H @ e)


def test_approximate_newton_contracts_as_promised():
    """(F.10) with the measured distortion of each step and the Lipschitz constant of the Hessian on the way."""
    A, b, x = planted(n=200, loss="rescaled")
    H = basin.hessian(A, b, x, 0.0)
    x0 = x + 1e-3 * np.random.default_rng(2).normal(size=x.size)
    method = solver.make(loss="rescaled", solver="gauss_newton", sketch="leverage", sketch_size=200)
    states = [jax.jit(method.init)(A, b, x0, None, jax.random.key(0), 1e-12)]
    step = jax.jit(method.step)
    while method.running(states[-1]):
        states.append(step(states[-1]))
    assert status(states[-1]) == "converged"
    errors = [np.sqrt((state.x - x) @ H @ (state.x - x)) for state in states]
    rates = [after / before for before, after in pairwise(errors) if before > 1e-8 * errors[0]]
    eps = measured_distortion(A, b, x, H)
    mu = np.linalg.eigvalsh(H)[0]
    theta = lipschitz(A, b, x, x0) * errors[0] / np.sqrt(mu) / mu
    assert theta < 0.2
    bound = np.sqrt((1 + theta) / (1 - theta)) * (eps + theta / (2 * (1 - theta))) / (1 - eps)
    assert max(rates) <= bound
    assert max(rates) > 0.01  # it is not the exact method


def lipschitz(A, b, x, x0):
    """max ||H(x') - H(x)|| / ||x' - x|| over points as far from x as x0 in random directions."""
    rng, radius, at = np.random.default_rng(3), np.linalg.norm(x0 - x), basin.hessian(A, b, x, 0.0)
    steps = [radius * e / np.linalg.norm(e) for e in rng.normal(size=(50, x.size))]
    return max(np.linalg.norm(basin.hessian(A, b, x + e, 0.0) - at, 2) for e in steps) / radius


def measured_distortion(A, b, x, H):
    """The largest distortion of 30 independent samples by leverage scores of the same size at the optimum."""
    at = residual.terms(A @ x, b, "rescaled", "exp")
    J = sketch.of_residual(jnp.asarray(A), at.v, jnp.asarray(b))

    def one(key):
        scores = sketch.leverage_of(J)
        B = sketch.sample(key, J, scores / scores.sum(), 200)
        return sketch.distortion(jnp.asarray(H), np.exp(at.log_scale) * B.T @ B)

    return float(max(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(9), 30))))


def test_many_right_hand_sides_at_once_equal_a_loop():
    A, b, x = planted(noise=0.1)
    rng = np.random.default_rng(0)
    B = b * (1 + 0.2 * rng.normal(size=(3, b.size)))
    B = B / B.sum(axis=1, keepdims=True)
    options = {"loss": "softmax", "solver": "pcg"}
    lanes = jax.jit(jax.vmap(compiled(**options), in_axes=(None, 0, None, None, None, None)))
    together = lanes(A, B, x + 0.1, np.zeros_like(b), 0, 1e-10)
    assert set(np.asarray(together.status)) == {int(Status.converged)}
    assert len(set(np.asarray(together.step))) > 1  # lanes end at different steps
    for lane, target in enumerate(B):
        single = run(options, jnp.asarray(A), target, x + 0.1)
        assert int(together.step[lane]) == int(single.step)
        assert np.allclose(together.x[lane], single.x, atol=1e-9)


def test_a_sparse_matrix_is_solved_as_its_dense_form():
    A, b, x = planted(noise=0.1)
    A = np.where(np.abs(A) > 0.7, A, 0)
    forms = jax.tree.map(jnp.asarray, from_dense(A)), jnp.asarray(A)
    sparse, plain = (run({"loss": "softmax", "solver": "pcg"}, form, b, x + 0.1) for form in forms)
    assert status(sparse) == status(plain) == "converged"
    assert np.allclose(sparse.x, plain.x, atol=1e-8)


def test_the_regulariser_enters_value_gradient_and_curvature():
    A, b, x = planted()
    w = np.linspace(0.5, 2, b.size)

    def total(x):
        return residual.loss_value(A @ x, b, "softmax", "exp") + jnp.sum((w * (A @ x)) ** 2) / 2

    end = run({"loss": "softmax", "solver": "newton"}, jnp.asarray(A), b, x, weights=jnp.asarray(w))
    assert status(end) == "converged"
    assert np.linalg.norm(jax.grad(total)(end.x)) < 1e-8 * np.linalg.norm(jax.grad(total)(x))
    assert end.loss == pytest.approx(float(total(end.x)), rel=1e-12)
    assert end.loss < total(x)
    assert end.step < 8


def test_float32_stays_float32():
    A, b, x = (np.asarray(part, np.float32) for part in planted(noise=0.1))
    end = run({"loss": "softmax", "solver": "newton"}, A, b, x + np.float32(0.1), tol=1e-5)
    assert status(end) == "converged"
    assert end.x.dtype == end.loss.dtype == jnp.float32


def test_a_fixed_step_size_may_diverge_and_a_step_limit_may_end_the_run():
    A, b, x = planted(loss="rescaled", noise=0.1)
    wild = run({"loss": "rescaled", "solver": "gd", "step_size": 0.1}, jnp.asarray(A), b, x + 0.1)
    assert status(wild) in ("diverged", "nonfinite")
    short = run({"loss": "rescaled", "solver": "gd", "step_size": 1e-9, "max_steps": 3}, jnp.asarray(A), b, x + 0.1)
    assert (status(short), int(short.step)) == ("max_steps", 3)


def test_an_idle_lane_does_not_run():
    A, b, x = planted()
    state = run({"loss": "softmax", "solver": "newton"}, jnp.asarray(A), b, x + 0.1)
    idle = jax.tree.map(lambda leaf: jnp.zeros_like(leaf), state._replace(problem=state.problem._replace(key=None)))
    assert not solver.make(loss="softmax", solver="newton").running(idle)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="expected one of"):
        solver.make(solver="simplex")
    with pytest.raises(ValueError, match="expected one of"):
        solver.make(sketch="srht")


@pytest.mark.parametrize(("n", "d", "name"), [(5000, 96, "newton"), (4656, 97, "newton"), (4657, 97, "pcg")])
def test_auto_is_one_rule_for_sweeps_and_for_solve(n, d, name):
    assert solver.chosen("auto", n, d).name == name
    shapes = [jax.ShapeDtypeStruct(shape, float) for shape in ((n, d), (n,), (d,))]
    text = []
    for given in ("auto", name):
        method = solver.make(loss="softmax", solver=given)
        state = jax.eval_shape(lambda *at, m=method: m.init(*at, None, jax.random.key(0)), *shapes)
        text.append(str(jax.make_jaxpr(method.step)(state)))
    assert text[0] == text[1]


def test_a_sparse_matrix_is_no_reason_for_gram_matrices():
    assert solver.chosen("auto", 10**6, 32, dense=False).name == "pcg"
    assert solver.chosen("auto", 10**6, 32).name == "newton"
    assert solver.chosen("auto", 10**4, 5000).name == "pcg"
