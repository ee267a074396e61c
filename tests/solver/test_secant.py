"""A kept and corrected matrix: the BFGS formula, the same minimum as Newton's with fewer matrices, and a way out."""

import itertools
from functools import partial

import numpy as np
import pytest
from oracles import planted

import expreg
from expreg import solver
from expreg.solver import host, newton, secant
from expreg.solver.state import Objective, first_state, run
from expreg.sparse import passes

RNG = np.random.default_rng(0)
PAIRS = [("softmax", "exp"), ("rescaled", "exp"), ("exponential", "sinh"), ("projective", "cosh")]


def bfgs(H, s, y):
    """The update of the matrix itself, as textbooks have it."""
    return H + np.outer(y, y) / (s @ y) - np.outer(H @ s, H @ s) / (s @ H @ s)


def test_two_loops_invert_the_updated_matrix():
    M = RNG.normal(size=(6, 6))
    H, target = M @ M.T + np.eye(6), np.diag(np.arange(1.0, 7))
    pairs = [(s, target @ s) for s in RNG.normal(size=(3, 6))]
    expected = H
    for s, y in pairs:
        expected = bfgs(expected, s, y)
    r = RNG.normal(size=6)
    bad = (RNG.normal(size=6), np.zeros(6))  # no curvature along it: left out
    found = secant.two_loops(lambda r: np.linalg.solve(H, r), [pairs[0], bad, *pairs[1:]], r)
    np.testing.assert_allclose(found, np.linalg.solve(expected, r), rtol=1e-9)
    s, y = pairs[-1]
    np.testing.assert_allclose(secant.two_loops(lambda r: np.linalg.solve(H, r), pairs, y), s, rtol=1e-9)


def ended(directions, A, b, x0, loss="softmax", tol=1e-11):
    """The states of a run on the host with these directions."""
    kind, states = Objective(loss, "exp", True, host.HOST), []
    problem = solver.Problem(passes.rows(A), b, None, np.asarray(tol), np.linalg.norm(A, axis=0), None)
    with host.calm():
        run(partial(newton.step, kind, directions, 200), first_state(kind, problem, x0, np.asarray(0.0)), states.append)
    return states


def counting(matrix, made):
    def counted(kind, state):
        made.append(int(state.step))
        return matrix(kind, state)

    return counted


def never():
    raise AssertionError("the kept matrix was enough")


@pytest.mark.parametrize("loss", ["softmax", "rescaled"])
def test_one_matrix_leads_to_the_minimum_of_newton(loss):
    """Corrections count: with them fewer steps than with the plain old matrix, whose rate stays linear."""
    A, b, x = planted(n=2000, d=8, loss=loss, noise=0.3)
    made, x0 = [], x + 0.05
    exact = ended(partial(newton.by_matrix, newton.hessian), A, b, x0, loss)[-1]
    states = ended(secant.corrected([secant.Candidate(counting(newton.hessian, made))], never), A, b, x0, loss)
    assert made == [0]
    assert solver.state.Status(int(states[-1].status)).name == "converged"
    np.testing.assert_allclose(states[-1].x, exact.x, atol=1e-9)
    old = []

    def plain(kind, state):
        old.extend([] if old else [newton.factored(newton.hessian, kind, state)])
        return newton.along(kind, state, old[0])

    if loss == "softmax":  # where nothing is scaled by the point
        assert len(states) < len(ended(plain, A, b, x0, loss))


def test_a_better_matrix_is_made_when_it_pays_and_not_when_it_costs_more():
    A, b, x = planted(n=2000, d=8, noise=0.3)

    def poor(kind, state):
        return 1.5 * newton.hessian(kind, state)  # a third of the error is left: a slow but steady start

    for cost, expected in ((0.0, 1), (1e6, 0)):
        made = []
        candidates = [secant.Candidate(poor), secant.Candidate(counting(newton.hessian, made), cost)]
        states = ended(secant.corrected(candidates, never), A, b, x + 0.005)
        assert int(states[-1].status) == 1
        assert len(made) == expected


def test_a_matrix_that_fails_hands_over_and_one_that_is_damped_at_once():
    A, b, x = planted(n=2000, d=8, noise=0.3)
    exact = partial(newton.by_matrix, newton.hessian)
    _, first, *_, best = (state.x for state in ended(exact, A, b, x + 0.05))
    wrongs = {
        "far too large": lambda kind, state: 1e3 * newton.hessian(kind, state),
        "indefinite": lambda kind, state: -newton.hessian(kind, state),
    }
    for name, matrix in wrongs.items():
        handed = []

        def otherwise(handed=handed):
            handed.append(True)
            return exact

        states = ended(secant.corrected([secant.Candidate(matrix)], otherwise), A, b, x + 0.05)
        assert handed == [True]
        assert len(states) < 10
        assert np.array_equal(states[1].x, first) == (name == "indefinite")
        np.testing.assert_allclose(states[-1].x, best, atol=1e-9)


@pytest.mark.parametrize(("loss", "activation"), PAIRS)
@pytest.mark.parametrize(("n", "d"), [(14_000, 8), (7000, 100)])
def test_auto_finds_the_minimum_of_newton(loss, activation, n, d):
    """Both sides of the rule, large enough that a matrix is kept."""
    A, b, x = planted(n=n, d=d, loss=loss, activation=activation, noise=0.05)
    assert A.size > host.SMALL
    x0 = x + 0.01 * RNG.normal(size=d) / np.sqrt(d)
    found, exact = (expreg.solve(A, b, loss, activation, name, x0=x0) for name in ("auto", "newton"))
    assert found.status == exact.status == "converged"
    np.testing.assert_allclose(found.x, exact.x, atol=1e-8)
    assert found.loss == pytest.approx(exact.loss, rel=1e-12)


def test_the_gram_matrix_of_float32_is_right_to_single_precision_in_any_units():
    """Of weights and of columns, together and apart."""
    plain = RNG.normal(size=(3000, 5))
    weights = (RNG.random(3000), RNG.normal(size=3000), 1e-60 * RNG.random(3000), np.zeros(3000))
    units = [np.ones(5), np.full(5, 1e30), np.full(5, 1e-30), np.array([1e-25, 1.0, 1e25, 1e-10, 1e40])]
    units += [
        np.geomspace(2e-8, 1e4, 5),
        np.geomspace(1e-7, 2e4, 5),
    ]  # norms just within the range that `FAR` gives, and just beyond
    for w, unit in itertools.product(weights, units):
        A = plain * unit
        exact = A.T @ (w[:, None] * A)
        size = np.abs(A).T @ (np.abs(w)[:, None] * np.abs(A))
        norms = np.linalg.norm(A, axis=0)
        for found, rounding in (
            (passes.gram(passes.rows(A), w), 1e-14),
            (passes.gram_in_single(passes.rows(A), w, norms), 1e-6),
        ):
            assert found.dtype == np.float64
            assert (np.abs(found - exact) <= rounding * size).all()


@pytest.mark.parametrize("unit", [1e25, 1e-25, "mixed"])
@pytest.mark.parametrize(("solver", "n", "d"), [("auto", 20_000, 8), ("auto", 8000, 100), ("pcg", 20_000, 8)])
def test_large_problems_do_not_depend_on_the_units_of_columns(solver, n, d, unit):
    """Where matrices are of float32, whose numbers end at 1e38."""
    A, b, _ = planted(n=n, d=d, loss="softmax", noise=0.05)
    scale = np.resize([1.0, 1e25, 1e-25], d) if unit == "mixed" else np.full(d, unit)
    found, plain = (expreg.solve(A * s, b, "softmax", solver=solver) for s in (scale, np.ones(d)))
    assert found.status == plain.status == "converged"
    np.testing.assert_allclose(found.x * scale, plain.x, atol=1e-6)
