"""The public call: solutions, degeneracies by name, bad input, large logits, the default start and rule."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse as jax_sparse
from oracles import logarithmic, planted, softplus
from scipy import sparse

import expreg
from expreg import residual, solver
from expreg.activation import ACTIVATIONS
from expreg.errors import InputError
from expreg.solver import host, start, validate
from expreg.solver.state import Objective

PAIRS = [(loss, activation) for loss in residual.LOSSES for activation in residual.activations()]


def gradient(solution, A, b, loss, activation):
    return A.T @ residual.gradient(A @ solution.x, b, loss, activation)


def up_to_sign(a, b, activation):
    return min(np.abs(a - b).max(), np.inf if activation == "exp" else np.abs(a + b).max())


@pytest.mark.parametrize(("loss", "activation"), PAIRS)
def test_a_planted_solution_is_recovered_from_a_cold_start(loss, activation):
    A, b, x = planted(loss=loss, activation=activation)
    found = expreg.solve(A, b, loss, activation)
    assert found.status == "converged", found.message
    assert up_to_sign(found.x, x, activation) < 1e-8
    assert found.softmax_residual < 1e-8 or loss == "exponential"
    told = residual.summary(A @ found.x, b, activation)
    for name in ("alpha", "softmax_residual", "projective_loss", "max_logit"):
        assert getattr(found, name) == pytest.approx(told[name], rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("loss", "activation"), PAIRS)
def test_with_noise_the_gradient_vanishes_and_what_is_told_is_true(loss, activation):
    A, b, x = planted(loss=loss, activation=activation, noise=0.05, seed=1)
    found = expreg.solve(A, b, loss, activation)
    assert found.status == "converged", found.message
    start = A.T @ residual.gradient(A @ (0.5 * x), b, loss, activation)
    assert np.linalg.norm(gradient(found, A, b, loss, activation)) < 1e-7 * np.linalg.norm(start)
    assert found.loss == pytest.approx(residual.loss_value(A @ found.x, b, loss, activation), rel=1e-9)
    assert [row["step"] for row in found.history] == list(range(found.steps + 1))
    assert found.history[-1]["relative"] <= 1e-10
    assert all(np.diff([row["seconds"] for row in found.history]) > 0)
    assert all(np.diff([row["passes"] for row in found.history]) > 0)


@pytest.mark.parametrize("name", ["newton", "gauss_newton", "pcg"])
def test_every_solver_of_the_host_finds_the_same_minimum_also_as_a_users_record(name, monkeypatch):
    monkeypatch.setitem(solver.SOLVERS, "mine", solver.SOLVERS[name]._replace(name="mine"))
    A, b, x = planted(n=300, noise=0.1)
    best = expreg.solve(A, b, "softmax", x0=x)
    found, mine = (expreg.solve(A, b, "softmax", solver=given, x0=x + 0.3) for given in (name, "mine"))
    assert found.status == "converged"
    assert np.allclose(found.x, best.x, atol=1e-8)
    assert (mine.status, mine.steps) == (found.status, found.steps)


@pytest.mark.parametrize("options", [{"solver": "mine"}, {"solver": "newton", "sketch": "countsketch"}], ids=str)
def test_compiled_solvers_are_reached_by_name(options, quickly_compiled, monkeypatch):
    monkeypatch.setitem(solver.SOLVERS, "mine", solver.SOLVERS["lbfgs"]._replace(name="mine"))
    A, b, _ = planted(noise=0.1)
    best, found = expreg.solve(A, b, "softmax"), expreg.solve(A, b, "softmax", key=jax.random.key(3), **options)
    assert found.status == "converged"
    assert np.allclose(found.x, best.x, atol=1e-7)
    assert found.history[-1]["step"] == found.steps > best.steps  # exact Newton takes fewer


def test_every_kind_of_matrix_gives_the_same_solution():
    A, b, _ = planted(n=200, noise=0.1)
    A = np.where(np.abs(A) > 0.5, A, 0)
    best = expreg.solve(A, b, "softmax").x
    forms = (sparse.csr_matrix(A), sparse.coo_array(A), sparse.csc_array(A), jax_sparse.BCOO.fromdense(jnp.asarray(A)))
    for form in (*forms, expreg.sparse.from_dense(A), jnp.asarray(A), np.asfortranarray(A)):
        assert np.allclose(expreg.solve(form, b, "softmax").x, best, atol=1e-9)
    assert np.allclose(expreg.solve(sparse.csr_array(A), b, "softmax", solver="pcg").x, best, atol=1e-8)


def test_condition_number_one_million():
    rng = np.random.default_rng(0)
    Q, _ = np.linalg.qr(rng.normal(size=(16, 16)))
    A = rng.normal(size=(1000, 16)) * np.geomspace(1, 1e-6, 16) @ Q
    u = np.exp(A @ np.linalg.solve(A.T @ A + 1e-14 * np.eye(16), A.T @ rng.normal(size=1000)))
    b = u * (1 + 0.1 * rng.normal(size=1000)) / u.sum()
    b = b / b.sum()
    for loss in ("softmax", "rescaled"):
        found = expreg.solve(A, b, loss)
        assert found.status == "converged", found.message
        before = A.T @ residual.gradient(np.zeros(1000), b, loss, "exp")
        assert np.linalg.norm(gradient(found, A, b, loss, "exp")) < 1e-8 * np.linalg.norm(before)


@pytest.mark.parametrize(("loss", "activation"), [("softmax", "exp"), ("projective", "sinh"), ("rescaled", "exp")])
def test_logits_of_several_hundred(loss, activation):
    A, b, x = planted(60, 3, loss, activation, size=250.0)
    assert np.abs(A @ x).max() > 300
    found = expreg.solve(A, b, loss, activation, x0=1.001 * x)
    assert found.status == "converged", found.message
    assert found.softmax_residual < 1e-8
    assert np.isfinite(found.x).all()


@pytest.mark.parametrize("name", ["newton", "pcg"])
def test_units_of_columns_and_of_the_target_do_not_matter(name):
    """The tolerance is relative to what cancels: the same steps for A S and S^-1 x."""
    A, b, x = planted(n=300, noise=0.1)
    scale = np.array([1e-6, 1.0, 1e3, 1e7])
    plain = expreg.solve(A, b, "softmax", solver=name, x0=x + 0.2)
    scaled = expreg.solve(A * scale, b, "softmax", solver=name, x0=(x + 0.2) / scale)
    assert plain.steps == scaled.steps
    assert np.allclose(plain.x, scaled.x * scale, rtol=1e-6)


def test_float32_is_solved_in_float32():
    A, b, _ = planted(noise=0.1)
    found = expreg.solve(A.astype(np.float32), b, "softmax")
    assert found.status == "converged"
    assert found.x.dtype == np.float32
    assert np.allclose(found.x, expreg.solve(A, b, "softmax").x, atol=1e-4)


# --- the default rule -----------------------------------------------------------------------------


def test_a_large_problem_starts_from_a_subset_of_its_rows_and_uses_conjugate_gradients():
    A, b, x = planted(n=20_000, d=128, noise=0.1)
    found = expreg.solve(A, b, "softmax")
    assert found.status == "converged"
    assert solver.chosen("auto", *A.shape).name == "pcg"
    before = A.T @ residual.gradient(0 * b, b, "softmax", "exp")
    assert np.linalg.norm(gradient(found, A, b, "softmax", "exp")) < 1e-8 * np.linalg.norm(before)
    cold = expreg.solve(A, b, "softmax", x0=0 * x)
    assert found.history[0]["loss"] < 0.1 * cold.history[0]["loss"]
    assert found.history[-1]["passes"] < cold.history[-1]["passes"]


def test_coherent_rows_fall_back_to_the_gram_matrix():
    rng = np.random.default_rng(0)
    A, x = rng.normal(size=(6000, 100)), rng.normal(size=100) / 10
    A[:50], A[50:, :50] = 0, 0
    A[np.arange(50), np.arange(50)] = 1  # half of the columns hang on one row each
    u = np.exp(A @ x) * (1 + 0.1 * rng.normal(size=6000))
    for loss, b in (("softmax", u / u.sum()), ("exponential", u)):
        found = expreg.solve(A, b, loss)
        assert found.status == "converged", found.message
        at = residual.terms(A @ found.x, b, loss, "exp")
        uncancelled = np.abs(A).T @ (np.abs(at.v) * (np.abs(at.u) + np.abs(at.u - at.r)))
        assert np.max(np.abs(A.T @ (at.v * at.c)) / uncancelled) < 1e-8  # also in columns that hang on one row


def test_the_start_is_exact_where_the_fit_is_exact():
    for loss, activation in (("softmax", "exp"), ("exponential", "sinh")):
        A, b, x = planted(loss=loss, activation=activation)
        problem = start.problem_of(validate.Checked(A, b, 0 * b, None, 1e-10, np.linalg.norm(A, axis=0)), loss)
        kind = Objective(loss, activation, True, host.HOST)
        assert np.allclose(start.best(kind, problem).x, x, atol=1e-9)


def test_continuation_ends_at_the_wanted_weights():
    A, b, x = planted(loss="softmax")
    safe = residual.safe_weights(b, "softmax", "exp", mu=0.1)
    stages = solver.continuation(A, b, 1e-4, safe=safe, loss="softmax")
    assert [stage.status for _, stage in stages] == ["converged"] * len(stages)
    sizes = [size for size, _ in stages]
    assert sizes[0] == safe.max()
    assert sizes[-1] == 1e-4
    assert sizes[1] == pytest.approx(sizes[0] / 4)
    errors = [np.linalg.norm(stage.x - x) for _, stage in stages]
    assert errors[0] > 0.5 * np.linalg.norm(x)  # safe weights are a ridge to A x = 0 (E.43)
    assert errors[-1] < 1e-3
    assert errors == sorted(errors, reverse=True)
    with pytest.raises(ValueError, match="expected more than 1"):
        solver.continuation(A, b, 0.0, safe=safe, factor=1.0)


def test_records_of_the_users_own_are_solved(monkeypatch):
    monkeypatch.setitem(residual.LOSSES, "logarithmic", logarithmic())
    monkeypatch.setitem(ACTIVATIONS, "softplus", softplus())
    A, _, x = planted()
    z = A @ x
    found = expreg.solve(A, np.cosh(z), "logarithmic", "cosh", x0=x + 0.1)
    assert found.status == "converged", found.message
    assert np.allclose(found.x, x, atol=1e-8)
    b = np.logaddexp(0, z)
    for loss, target in (("exponential", b), ("softmax", b / b.sum())):
        found = expreg.solve(A, target, loss, "softplus")
        assert found.status == "converged", found.message
        assert found.softmax_residual < 1e-8 or loss == "exponential"
    with pytest.raises(InputError, match="expected one of exp, cosh, sinh, softplus"):
        expreg.solve(A, b, "softmax", "relu")


# --- degeneracies ---------------------------------------------------------------------------------


def test_collapse_is_named():
    """Ap > 0 for some p, and b that no x fits: the loss tends to 0 along -p (E.37)."""
    rng = np.random.default_rng(0)
    A = np.abs(rng.normal(size=(30, 2)))
    b = rng.uniform(size=30)
    assert solver.collapse(A).possible
    found = expreg.solve(A, b / b.sum(), x0=np.array([-3.0, -3.0]))
    assert found.status == "collapsed"
    assert "(E.37)" in found.message
    assert found.alpha < 1e-6 * 30
    assert found.softmax_residual > 0.01
    fit = expreg.solve(A, b / b.sum(), "softmax", x0=np.array([-3.0, -3.0]))
    assert fit.status == "converged"


def test_the_linear_programme_agrees_with_the_definition():
    rng = np.random.default_rng(1)
    A = rng.normal(size=(40, 3))
    for matrix in (A, sparse.csr_array(A)):
        told = solver.collapse(matrix)
        assert not told.possible
        assert abs(told.margin) < 1e-9
    told = solver.collapse(A + 5)
    assert told.possible
    assert ((A + 5) @ told.direction).min() == pytest.approx(told.margin)
    assert np.abs(told.direction).max() <= 1 + 1e-12
    share = np.mean([solver.collapse(rng.normal(size=(6, 3))).possible for _ in range(60)])
    assert abs(share - 0.5) < 0.25  # (E.40) at n = 2 d


@pytest.mark.parametrize(
    ("given", "options", "status", "words"),
    [
        ({"loss": "rescaled", "activation": "sinh", "noise": 1.0}, {"x0": np.full(4, 1e-3)}, "trivial", "(E.38)"),
        ({"noise": 0.1}, {"x0": np.full(4, 1.0), "max_steps": 1}, "max_steps", "try more steps"),
        ({}, {"x0": np.full(4, 1e308)}, "nonfinite", "smaller logits"),
    ],
)
def test_other_ends_are_named(given, options, status, words):
    A, b, _ = planted(**given)
    found = expreg.solve(A, b, given.get("loss", "softmax"), given.get("activation", "exp"), **options)
    assert found.status == status
    assert words in found.message
    assert found.max_logit < 1e-8 or status != "trivial"
    assert found.steps == 1 or status != "max_steps"


# --- bad input ------------------------------------------------------------------------------------

A0, B0, _ = planted(n=10, d=3)


def changed(array, index, value):
    array = array.copy()
    array[index] = value
    return array


BAD = [
    ({"loss": "logistic"}, "loss: got 'logistic', expected one of exponential"),
    ({"activation": "tanh"}, "activation: got 'tanh', expected one of exp, cosh, sinh"),
    ({"solver": "adam"}, "solver: got 'adam'"),
    ({"sketch": "srht"}, "sketch: got 'srht'"),
    ({"solver": "gd", "sketch": "uniform"}, "solver gd uses no sketch"),
    ({"A": A0[0]}, r"A: got shape \(3,\), expected \(n, d\)"),
    ({"A": A0[:0]}, r"A: got shape \(0, 3\), expected at least 1"),
    ({"A": A0.astype(object)}, "A: got an array of object, expected real numbers"),
    ({"A": A0 + 1j}, "A: got an array of complex128"),
    ({"b": B0[:9]}, "b: got 9 values for an A of 10 rows, expected 10"),
    ({"b": B0[:, None, None]}, "b: got shape"),
    ({"b": B0[:, None], "A": np.stack([A0, A0])}, r"b: got shape \(10, 1\) for an A of shape \(2, 10, 3\), expected"),
    ({"b": np.stack([B0, B0 * np.nan], 1)}, r"b\[0,1\]: got nan, expected finite \(10 such values\)"),
    ({"weights": -1}, "weights: got -1, expected a finite number >= 0"),
    ({"weights": changed(B0, 4, -0.5)}, r"weights\[4\]: got -0.5, expected"),
    ({"starts": 0}, "starts: got 0, expected a whole number of at least 1"),
    ({"A": changed(A0, (7, 2), np.nan)}, r"A\[7,2\]: got nan, expected finite \(1 such value\)"),
    ({"b": changed(B0, slice(3, 5), np.inf)}, r"b\[3\]: got inf, expected finite \(2 such values\)"),
    ({"A": changed(A0, (slice(None), 1), 0)}, r"A\[:,1\]: all 10 entries are 0: x\[1\] is not determined"),
    ({"x0": np.zeros(2)}, "x0: got 2 values for an A of 3 columns, expected 3"),
    ({"weights": np.full(4, 0.1)}, "weights: got 4 values for an A of 10 rows"),
    ({"x0": np.zeros(3), "activation": "cosh"}, r"x0: got 0 with cosh.*\(E.39\)"),
    ({"x0": np.zeros(3), "activation": "sinh"}, r"x0: got 0 with sinh.*\(E.38\)"),
    ({"tol": -1.0}, "tol: got -1.0, expected a positive number"),
    ({"tol": 1e-7, "A": A0.astype(np.float32)}, r"tol: got 1e-07, expected at least 3.8e-06.*\(F.14\)"),
]


@pytest.mark.parametrize(("given", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_bad_input_is_refused_in_words(given, message):
    with pytest.raises(InputError, match=message):
        expreg.solve(**{"A": A0, "b": B0, **given})


def test_broken_sparse_input_is_refused():
    A = sparse.csr_array(A0)
    A.indices[4] = 17
    with pytest.raises(InputError, match="column index 17"):
        expreg.solve(A, B0)
    A = sparse.csr_array(A0)
    A.data[5] = np.nan
    with pytest.raises(InputError, match=r"A\[1,2\]: got nan"):
        expreg.solve(A, B0)


def test_what_is_legal_but_hopeless_is_a_warning():
    with pytest.warns(UserWarning, match=r"b sums to 2: no x fits it exactly unless the sum is 1 \(E.17\)"):
        expreg.solve(A0, 2 * B0)
    A = np.column_stack([A0, np.full(10, 3.0)])
    with pytest.warns(UserWarning, match=r"column 3 of A is an intercept.*\(E.36\)"):
        expreg.solve(A, B0, "rescaled")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expreg.solve(A, B0, "softmax")
        expreg.solve(A0, 2 * B0, "exponential")


@pytest.mark.parametrize("activation", ["exp", "cosh"])
def test_negative_targets_that_are_most_of_the_loss_are_a_warning(activation):
    """Not some of either sign, which noise around 0 has, and not for sinh, which has both signs."""
    A, b, _ = planted(30, 3, "exponential")
    with pytest.warns(UserWarning, match=f"28 of 30 entries of b are negative, as {activation} never is") as caught:
        found = expreg.solve(A, np.where(np.arange(30) < 2, 0.01, -b), "exponential", activation)
    share = float(str(caught[0].message).split("at least ")[1].split("%")[0]) / 100
    assert 0.9 < share <= 1
    assert found.loss >= share * (b[2:] @ b[2:]) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expreg.solve(A, -b, "exponential", "sinh")
        expreg.solve(A, np.random.default_rng(0).normal(size=30), "exponential", activation)
        expreg.solve(A, 0 * b, "exponential", activation)
