"""Solutions do not depend on units, whatever the type can hold: columns, targets and weights by powers of ten."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import planted
from scipy import sparse

import expreg
from expreg import residual
from expreg.activation import ACTIVATIONS, in_units
from expreg.solver.method import column_norms
from expreg.sparse import Shared, from_any, share

PAIRS = [(loss, activation) for loss in residual.LOSSES for activation in residual.activations()]
REACH = {"float32": 30, "float64": 150}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.sampled_from(PAIRS),
    st.sampled_from(sorted(REACH)),
    st.sampled_from(["auto", "gauss_newton", "pcg"]),
    st.lists(st.floats(-1, 1), min_size=3, max_size=3),
)
def test_tol_does_not_change_with_units(pair, dtype, solver, exponents):
    A, b, _ = planted(30, 3, *pair, noise=0.1)
    A, b = A.astype(dtype), b.astype(dtype)
    columns = (10.0 ** (REACH[dtype] * np.array(exponents))).astype(dtype)
    plain, scaled = expreg.solve(A, b, *pair, solver), expreg.solve(A * columns, b, *pair, solver)
    ends = ("trivial", "trivial") if pair == ("rescaled", "sinh") else ("converged", "converged")
    assert (plain.status, scaled.status) == ends
    if ends[0] == "trivial":
        return
    size = np.abs(plain.x).max()
    found = scaled.x.astype(float) * columns.astype(float)
    sign = np.sign(found @ plain.x) if pair[1] == "cosh" else 1
    assert np.abs(sign * found - plain.x).max() < size * (2e-3 if dtype == "float32" else 1e-6)
    assert scaled.loss == pytest.approx(plain.loss, rel=1e-4)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_a_power_of_two_changes_no_digit_of_a_solution(pair):
    A, b, _ = planted(30, 3, *pair, noise=0.1)
    x = np.ones(3)
    far = expreg.solve(A * 2.0**400, b, *pair, x0=x * 2.0**-400)
    nearer = expreg.solve(A * 2.0**-300, b, *pair, x0=x * 2.0**300)
    assert (far.x * 2.0**400 == nearer.x * 2.0**-300).all()
    assert far.gradient_norm * 2.0**-400 == pytest.approx(nearer.gradient_norm * 2.0**300, rel=1e-9)


@pytest.mark.parametrize(("dtype", "factor"), [("float32", 1e-25), ("float64", 1e-170), ("float64", 1e150)])
def test_a_target_in_other_units_moves_the_logits_of_exp_by_a_constant(dtype, factor):
    rng = np.random.default_rng(0)
    A = np.column_stack([rng.normal(size=(40, 3)), np.ones(40)])
    b = np.exp(A[:, :3] @ [0.7, -0.4, 0.2]) * (1 + 0.1 * rng.normal(size=40))
    plain, moved = (expreg.solve(A.astype(dtype), (b * f).astype(dtype), "exponential") for f in (1.0, factor))
    assert moved.status == "converged"
    assert np.allclose(moved.x[:3], plain.x[:3], atol=1e-4 if dtype == "float32" else 1e-7)
    assert moved.x[3] == pytest.approx(plain.x[3] + np.log(factor), rel=1e-5)


@pytest.mark.parametrize(("dtype", "factor"), [("float32", 1e-25), ("float64", 1e-170), ("float64", 1e-300)])
def test_a_tiny_target_of_sinh_is_a_linear_problem(dtype, factor):
    rng = np.random.default_rng(1)
    A, b = rng.normal(size=(40, 3)).astype(dtype), rng.normal(size=40)
    found = expreg.solve(A, (b * factor).astype(dtype), "exponential", "sinh")
    assert found.status == "converged"
    assert np.allclose(found.x / factor, np.linalg.lstsq(A, b)[0], rtol=1e-4 if dtype == "float32" else 1e-8)
    misfit = np.linalg.norm(A @ found.x.astype(float) / factor - b) ** 2 / 2
    assert found.loss / factor / factor == pytest.approx(misfit, rel=1e-5) or factor < 1e-150


def test_an_activation_in_small_units_is_the_activation():
    z = np.array([-2.0, 0.5, 3.0])
    phi = in_units(ACTIVATIONS["sinh"], 2.0**-4)
    u, v, s = phi.stable(z)
    assert np.allclose(np.exp(s) * u, 16 * np.sinh(z / 16))
    assert np.allclose(np.exp(s) * v, np.cosh(z / 16))
    assert np.allclose(np.exp(s) * phi.second(z, s), np.sinh(z / 16) / 16)
    assert np.allclose(phi.inverse(16 * np.sinh(z / 16)), z)


@pytest.mark.parametrize("loss", ["softmax", "exponential", "rescaled", "projective"])
@pytest.mark.parametrize(("dtype", "weight"), [("float32", 1e30), ("float64", 1e200)])
def test_huge_weights_leave_x_at_0(loss, dtype, weight):
    A, b, _ = planted(30, 3, noise=0.1)
    found = expreg.solve(A.astype(dtype), b.astype(dtype), loss, weights=weight)
    rounded = (loss, dtype) == ("exponential", "float32")  # x near 0 is rounding, which no step lowers
    assert found.status == ("max_steps" if rounded else "converged"), found.message
    assert np.abs(found.x).max() < 1e-30


def test_weights_that_leave_the_range_beside_others_are_refused():
    A, b, _ = planted(30, 3)
    with pytest.raises(expreg.errors.InputError, match="weights: got 1e.200 beside 1"):
        expreg.solve(A, b, "softmax", weights=np.where(np.arange(30) < 3, 1e200, 1.0))


def test_x_beyond_the_range_of_its_type_is_said():
    A, b, _ = planted(30, 3)
    found = expreg.solve(np.ldexp(A.astype(np.float32), -140), b.astype(np.float32), "softmax")
    assert found.status == "nonfinite"
    assert "try float64" in found.message
    tiny = expreg.solve(A * 1e-300, b, "softmax")  # no entry is 0
    assert tiny.status == "converged"
    with pytest.raises(expreg.errors.InputError, match="out of the range of float32"):
        expreg.solve(A.astype(np.float32), b * 1e-60, "exponential")


@pytest.mark.parametrize(
    "form", [np.asarray, sparse.csr_array, lambda A: share(A, 4)], ids=["dense", "sparse", "shared"]
)
def test_norms_of_columns_are_those_of_extended_precision_where_their_squares_are_no_numbers(form):
    A = np.random.default_rng(0).normal(size=(50, 4)) * [1e-30, 1.0, 0.0, 1e25]
    A = A.astype(np.float32)
    exact = np.sqrt((A.astype(np.longdouble) ** 2).sum(axis=0))
    given = form(A)
    norms = column_norms(given if isinstance(given, Shared) else from_any(given))
    np.testing.assert_allclose(norms, np.where(exact > 0, exact, 1), rtol=1e-6)


@pytest.mark.parametrize("solver", ["newton", "pcg"])
def test_a_sweep_calls_no_point_converged_because_a_column_is_small(solver, tmp_path):
    problem = {"kind": "gaussian", "n": 100, "d": 4, "condition": 1e20, "noise": 0.0, "loss": "softmax"}
    config = {"experiment": "regression", "name": "small", "precision": "f32", "problem": problem}
    found = expreg.run(config | {"sweep": {"product": {"solver.name": [solver]}}}, out=tmp_path / "run", draw=False)
    [cell] = found.cells.itertuples()
    assert cell.status != "converged" or cell.loss_value < 1e-9  # 1e-5 where the small columns are left out
