"""`converged` means a minimum: saturated starts, minima at infinity, vanishing curvature, what messages advise."""

import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minima import Case, draw, judge, solved, survey
from oracles import planted

import expreg
import expreg.api
from expreg.errors import InputError
from expreg.solver import host, newton, words
from expreg.solver.state import Objective


def test_what_converges_is_a_minimum(soak):
    count = soak.times(60, 2000)
    ends, wrong, lost = survey(count, seed=11)
    assert not wrong
    assert not lost
    assert ends["converged"] > 0.6 * count
    title = "Random regression problems in random units; minima are judged with other code in extended precision"
    soak.figure("minima", title, problems=count, **ends, no_minimum=0)


@pytest.mark.parametrize(
    ("seed", "i"),
    [(11, 845), (102, 798), (103, 1660), (101, 603), (103, 474), (102, 356), (102, 1043), (103, 1900)],
)
def test_what_passed_for_a_minimum_is_one_or_is_not_called_so(seed, i):
    """Plateaus that a damped step reached, saddles near 0, small losses in float32 that a step in float64 lowers."""
    case = draw(np.random.default_rng([seed, i]))
    found = solved(case)
    assert found.x.dtype == case.A.dtype
    assert found.status in ("converged", "max_steps", "flat", "unbounded", "trivial")
    assert found.status != "converged" or judge(case, found.x) is None


@pytest.mark.parametrize(("loss", "activation"), [("softmax", "exp"), ("projective", "sinh"), ("exponential", "cosh")])
def test_a_budget_that_is_spent_is_no_plateau(loss, activation):
    """After one step from afar the loss is lower towards 0, and a gradient that large is no sign of saturation."""
    rng = np.random.default_rng(0)
    for _ in range(8):
        A = rng.normal(size=(30, 4))
        b = np.exp(A @ rng.normal(size=4))
        start = 3 * rng.normal(size=4)
        found = expreg.solve(A, b / b.sum(), loss=loss, activation=activation, x0=start, max_steps=1)
        assert found.status in ("max_steps", "unbounded")
        assert found.history[-1]["relative"] > 1e-3


def test_a_damped_matrix_has_no_pivot():
    """Its own pivots are those of the damping, by which a plateau would pass for curved."""
    kind, d = Objective("softmax", "exp", True, host.HOST), 3
    for H, curved in ((np.eye(d), True), (np.diag([1.0, 1.0, 0.0]), False), (np.diag([1.0, 1.0, -1e-9]), False)):
        found = newton.damped(kind, H, np.ones(d), np.zeros(()))
        assert found.pivot > 0.5 if curved else found.pivot < 1e-12


def test_an_exact_fit_is_known_by_its_start():
    """The matrix of a start says whether x is unique, so that no Hessian is made at an exact fit."""
    A, b, _ = planted(60, 3, "softmax")
    assert expreg.solve(A, b, "softmax").steps == 0
    with pytest.warns(UserWarning, match="x is not unique"):
        found = expreg.solve(np.column_stack([A, A[:, 0] - A[:, 1]]), b, "softmax")
    assert (found.status, found.steps) == ("converged", 0)
    assert "in 1 of 4 directions" in found.message


def test_the_judge_sees_what_is_no_minimum():
    case = next(c for c in (draw(np.random.default_rng([11, i])) for i in range(99)) if c.A.dtype == float)
    x = solved(case).x
    assert judge(case, x) is None
    assert judge(case, x + 0.01 / np.linalg.norm(case.A, axis=0)) is not None


def test_a_minimum_at_infinity_has_a_status_of_its_own():
    A, b, _ = planted(30, 3, noise=0.1)
    b = np.where(np.arange(30) == np.argmax(A[:, 0]), 1.0, 0.0)
    for tol in (1e-6, 1e-10):
        found = expreg.solve(A, b, "softmax", tol=tol)
        assert found.status == "unbounded"
        assert "x depends on the tolerance only; try weights > 0" in found.message
    weighted = expreg.solve(A, b, "softmax", weights=0.01)
    assert weighted.status == "converged"


@pytest.mark.parametrize("solver", ["auto", "gauss_newton", "pcg"])
def test_a_saturated_start_is_left(solver):
    A, b, _ = planted(60, 3, "softmax", noise=0.1)
    best, found = (expreg.solve(A, b, "softmax", solver=solver, x0=x0) for x0 in (None, np.array([500.0, -300, 200])))
    assert found.status == "converged"
    assert np.allclose(found.x, best.x, atol=1e-7)


@pytest.mark.parametrize("solver", ["newton", "gauss_newton", "pcg", "auto"])
def test_curvature_of_0_is_damped(solver):
    """At x = 0 and b = 2 the Hessian 2 u^2 - b u of the exponential loss is 0, and the gradient is not."""
    for d in (1, 3):
        found = expreg.solve(np.eye(d), np.full(d, 2.0), "exponential", solver=solver, x0=np.zeros(d))
        assert found.status == "converged"
        assert np.allclose(found.x, np.log(2), atol=1e-9)


def test_the_minimum_of_cosh_at_0_is_found():
    A, _, _ = planted(50, 3)
    b = np.full(50, 1 / 50)
    found = expreg.solve(A, b, "softmax", "cosh", x0=np.full(3, 0.1))
    assert found.status == "converged"
    assert np.abs(found.x).max() < 1e-6


@pytest.mark.parametrize("solver", ["newton", "pcg"])
@pytest.mark.parametrize("n", [60, 20_000])
def test_x_that_is_not_unique_is_said(n, solver):
    """Also where the solver has seen matrices in float32 only, in which rounding looks like curvature."""
    A, b, _ = planted(n, 3, "softmax", noise=0.1)
    with pytest.warns(UserWarning, match="x is not unique: A x stays the same in 1 of 4 directions; one of them was"):
        found = expreg.solve(np.column_stack([A, A[:, 0] - A[:, 1]]), b, "softmax", solver=solver)
    assert found.status == "converged"
    assert "x is not unique: A x stays the same in 1 of 4 directions" in found.message
    assert "not unique" not in expreg.solve(A, b, "softmax").message


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.integers(0, 999),
    st.integers(20, 300),
    st.integers(2, 12),
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from(["newton", "pcg"]),
)
def test_the_directions_in_which_x_is_not_unique_are_those_that_the_rank_lacks(seed, n, d, more, single, solver):
    """Columns of any condition that their type holds, and combinations of them, which its rounding leaves dependent."""
    rng, dtype = np.random.default_rng(seed), np.float32 if single else np.float64
    A = conditioned(rng, n, 10.0 ** rng.uniform(-2.5 if single else -10.0, 0, d))
    A = np.column_stack([A, *(A[:, :2] @ rng.integers(1, 4, 2) for _ in range(more))]).astype(dtype)
    b = np.exp(np.clip(A @ rng.normal(size=d + more), -3, 3) + 0.1 * rng.normal(size=n))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = expreg.solve(A, (b / b.sum()).astype(dtype), "softmax", solver=solver)
    lacking = d + more - np.linalg.matrix_rank(A / np.linalg.norm(A, axis=0))
    said = re.search(r"the same in (\d+) of", found.message)
    assert (int(said[1]) if said else 0) == lacking


@pytest.mark.parametrize("condition", [1e3, 2e7, 1e9, 1e12])
def test_a_column_that_is_nearly_dependent_hides_no_lower_loss(condition):
    """Along it x is large and the gradient within the tolerance: the loss was up to seventy times that of the fit."""
    rng = np.random.default_rng(0)
    A = conditioned(rng, 60, np.array([1.0, 1.0, 1.0, 1 / condition]))
    best = np.linalg.svd(A, full_matrices=False)[0] * np.sqrt(60)  # the same logits by columns of condition 1
    b = np.exp(best @ [0.3, -0.5, 0.4, 0.5] + 0.1 * rng.normal(size=60))
    found, least = expreg.solve(A, b, "exponential"), expreg.solve(best, b, "exponential").loss
    assert "not unique" not in found.message
    assert found.status == "converged" or condition > 1e8
    assert found.status != "converged" or found.loss < 1.001 * least


@pytest.mark.parametrize("solver", ["newton", "pcg"])
@pytest.mark.parametrize("loss", ["softmax", "projective"])
def test_sinh_near_0_hides_no_lower_loss(loss, solver):
    """Where sinh is linear the loss hardly depends on the size of x, and its curvature is all in other directions."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        A = rng.normal(size=(16, rng.integers(1, 7)))
        b = np.sinh(A @ rng.normal(size=A.shape[1]) / 2) + 0.3 * rng.normal(size=16)
        x0 = 1e-6 * rng.normal(size=A.shape[1])
        found = expreg.solve(A, b / b.sum(), loss, "sinh", solver, x0=x0)
        case = Case(A, b / b.sum(), loss, "sinh", solver, 0.0, x0)
        assert found.status != "converged" or judge(case, found.x) is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_alpha_that_is_rounding_makes_no_minimum(dtype):
    """<sinh(A x), 1> is 0 whatever x is, since A has every row with both signs."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        half, b = rng.normal(size=(10, 1)).astype(dtype), rng.normal(size=20).astype(dtype)
        found = expreg.solve(np.vstack([half, -half]), b / b.sum(), "softmax", "sinh", "pcg")
        assert found.status != "converged"


def conditioned(rng, n, sizes):
    """Return A (n, d) with these singular values, times sqrt(n)."""
    left, right = (np.linalg.qr(rng.normal(size=(k, len(sizes))))[0] for k in (n, len(sizes)))
    return np.sqrt(n) * (left * sizes) @ right.T


@pytest.mark.parametrize("status", words._SENTENCES)
@pytest.mark.parametrize("loss", ["softmax", "rescaled"])
def test_no_message_advises_what_is_done_already(status, loss):
    done = {"solver": "newton", "loss": loss, "dtype": np.float64, "weighted": True}
    for names in (words.IN_A_CALL, words.IN_A_CONFIG):
        text = words.sentence(status, 0.0, names, **done)
        for advice in ("float64", "precision f64", "newton", "> 0", *(["softmax loss"] * (loss == "softmax"))):
            assert advice not in text.partition(";")[2], text
        fresh = words.sentence(status, 0.0, names, solver="pcg", loss="rescaled", dtype=np.float32, weighted=False)
        assert "; try " in fresh


def test_uniform_rows_that_miss_what_matters_reach_no_minimum_and_are_named():
    """The gradient is exact, so that a poor sketch costs steps only; leverage scores find the one row of column 0."""
    rng = np.random.default_rng(0)
    A = rng.normal(size=(5000, 6))
    A[:, 0] = np.where(np.arange(5000) == 17, 1.0, 0.0)
    b = np.exp(A @ rng.normal(size=6) / 2 + 0.1 * rng.normal(size=5000))
    options = {"loss": "exponential", "solver": "newton", "x0": np.zeros(6), "max_steps": 40}
    uniform, leverage = (expreg.solve(A, b, sketch=name, **options) for name in ("uniform", "leverage"))
    assert leverage.status == "converged"
    assert uniform.status == "max_steps"
    assert "try sketch leverage" in uniform.message
    assert uniform.loss > leverage.loss


A0, B0, _ = planted(n=10, d=3)
WRONG = [
    ({"max_steps": 0}, "max_steps: got 0, expected a whole number of at least 1"),
    ({"max_steps": -5}, "max_steps: got -5"),
    ({"max_steps": 2.5}, "max_steps: got 2.5"),
    ({"sketch": "gaussian", "sketch_size": -1}, "sketch_size: got -1"),
    (
        {"sketch": "gaussian", "sketch_size": 10**7},
        "sketch_size: got 10000000 for an A of 10 rows, expected at most 10",
    ),
    ({"key": 1.5}, r"key: got 1.5, expected an integer from 0 to 2\^32 - 1"),
    ({"key": -1}, "key: got -1"),
    ({"key": 10**20}, "key: got 1"),
    ({"tol": "1e-8"}, "tol: got '1e-8', expected a positive number"),
    ({"tol": None}, "tol: got None"),
    ({"loss": []}, r"loss: got \[\], expected one of"),
    ({"A": np.ma.masked_array(A0, A0 > 1)}, "A: got masked entries"),
    ({"b": np.ma.masked_array(B0, B0 > 0.1)}, "b: got masked entries"),
    ({"A": [[1.0, 2.0], [3.0]]}, "A: got no array"),
    ({"weights": "heavy"}, "weights: got an array of"),
]


@pytest.mark.parametrize(("given", "message"), WRONG, ids=[message[:30] for _, message in WRONG])
def test_wrong_arguments_are_refused_in_words(given, message):
    with pytest.raises(InputError, match=message):
        expreg.solve(**{"A": A0, "b": B0, **given})


def test_overrides_as_one_text_are_refused():
    with pytest.raises(InputError, match=r"overrides: got the text 'seed=1', expected a list"):
        expreg.api.plan({"experiment": "threshold", "sweep": {"product": {"n": [4], "m": [8]}}}, "seed=1")
