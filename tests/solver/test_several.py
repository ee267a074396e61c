"""Several problems in one call, the best of several starts, and how solutions are shown and stored."""

import pickle

import jax
import numpy as np
import pytest
from oracles import planted

import expreg
from expreg.data import attention, attention_row
from expreg.errors import InputError
from expreg.solver import compiled

pytestmark = pytest.mark.usefixtures("quickly_compiled")
FIELDS = ("x", "loss", "alpha", "softmax_residual", "projective_loss", "max_logit")


def agree(found, alone):
    assert found.status.tolist() == [each.status for each in alone]
    for name in FIELDS:
        assert np.allclose(getattr(found, name), [getattr(each, name) for each in alone], rtol=1e-6, atol=1e-9), name


@pytest.fixture
def counted(monkeypatch):
    """Count the problems that the solver of one problem is asked for."""
    certain, asked = compiled._certain, []

    def seen(checked, end):
        found = certain(checked, end)
        asked.append(found is None)
        return found

    monkeypatch.setattr(compiled, "_certain", seen)
    return asked


def test_several_targets_of_one_matrix_are_those_alone(counted):
    keys, queries, _ = attention(2, 8)
    rng = np.random.default_rng(0)
    rows = [attention_row(keys, query) * np.exp(0.1 * rng.normal(size=len(keys))) for query in queries[::46]]
    rows = np.stack([row / row.sum() for row in rows])
    found = expreg.solve(keys, rows.T, "softmax", tol=1e-13)
    agree(found, [expreg.solve(keys, row, "softmax", tol=1e-13) for row in rows])
    assert counted == [False] * len(rows)  # all of them by the program
    assert found.x.shape == (len(rows), keys.shape[1])
    assert found.steps.dtype.kind == "i"
    assert repr(found).startswith(f"Solution({len(rows)} converged, loss ")


@pytest.mark.parametrize(("loss", "activation"), [("rescaled", "sinh"), ("exponential", "cosh")])
def test_a_batch_of_problems(loss, activation, counted):
    problems = [planted(30, 3, loss, activation, noise=0.02, seed=seed)[:2] for seed in (1, 2, 3)]
    A, b = (np.stack(each) for each in zip(*problems, strict=True))
    found = expreg.solve(A, b, loss, activation, weights=1e-3)
    alone = [expreg.solve(*each, loss, activation, weights=1e-3) for each in problems]
    sign = np.sign(np.sum(found.x * [each.x for each in alone], axis=1)) if activation == "cosh" else np.ones(3)
    agree(found._replace(x=sign[:, None] * found.x), alone)
    assert not any(counted)


def test_a_problem_without_a_minimum_does_not_disturb_the_others(counted):
    A, b, _ = planted(30, 3, noise=0.1)
    hot = np.where(np.arange(30) == np.argmax(A[:, 0]), 1.0, 0.0)
    found = expreg.solve(A, np.stack([b, hot], 1), "softmax")
    assert found.status.tolist() == ["converged", "unbounded"]
    assert "try weights > 0" in found.message[1]
    assert counted == [False, True]
    assert np.allclose(found.x[0], expreg.solve(A, b, "softmax").x, atol=1e-9)


def test_warnings_are_given_once():
    A, b, _ = planted(30, 3, noise=0.1)
    A = np.column_stack([A[:, :2], A[:, 0] - A[:, 1]])
    with pytest.warns(UserWarning, match="x is not unique") as caught:
        found = expreg.solve(A, np.stack([b, b[::-1]], 1), "softmax")
    assert len(caught) == 1
    assert all("in 1 of 3 directions" in message for message in found.message)


# --- several starts -------------------------------------------------------------------------------


def peaked(seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(12, 3)), rng.dirichlet(np.full(12, 0.3))


def test_the_best_of_several_starts_is_no_worse_and_sometimes_better():
    better = 0
    for seed in range(16):
        A, b = peaked(seed)
        one, best = (expreg.solve(A, b, "softmax", starts=starts, key=1) for starts in (1, 8))
        assert best.status == "converged" or one.status != "converged"
        assert one.status != "converged" or best.loss <= one.loss * (1 + 1e-9)
        better += best.loss < 0.99 * one.loss
        again = expreg.solve(A, b, "softmax", starts=8, key=1)
        assert np.array_equal(best.x, again.x)
        assert best.history[-1]["loss"] == best.loss
        assert [row["step"] for row in best.history] == list(range(best.steps + 1))
    assert better >= 1


def test_the_message_counts_the_minima_that_starts_found():
    """Losses of two local minima, found by starts of this test; minima at x and -x of cosh have one loss."""
    A, b = peaked(0)
    rng = np.random.default_rng(1)
    ends = [expreg.solve(A, b, "softmax", x0=8 * rng.normal(size=3) / np.linalg.norm(A, axis=0)) for _ in range(30)]
    assert len({round(end.loss, 8) for end in ends if end.status == "converged"}) == 2
    assert expreg.solve(A, b, "softmax", starts=8).message.endswith("; the best of 2 minima that 8 starts found")
    assert "starts" not in expreg.solve(A, b, "softmax").message
    one = np.cosh(A @ [1.0, -0.5, 0.3])
    assert "the only minimum that 4 starts found" in expreg.solve(A, one, "exponential", "cosh", starts=4).message


def test_several_starts_of_several_problems_and_under_transformations():
    A, b = peaked(0)
    alone = expreg.solve(A, b, "softmax", starts=4)
    assert np.array_equal(expreg.solve(A, b[:, None], "softmax", starts=4).x[0], alone.x)
    slope = jax.grad(lambda b: expreg.solve(A, b, "softmax", starts=4).loss)(jax.numpy.asarray(b))
    assert np.isfinite(slope).all()
    with pytest.raises(InputError, match="starts: got 4 under jit or vmap, expected 1; vmap over x0"):
        jax.jit(lambda b: expreg.solve(A, b, "softmax", starts=4).x)(b)


# --- shown and stored -----------------------------------------------------------------------------


def test_solutions_are_shown_in_a_line_and_a_table_and_pickled():
    A, b, _ = planted(noise=0.1)
    found = expreg.solve(A, b, "softmax")
    assert repr(found) == f"Solution(converged after {found.steps} steps, loss {found.loss:.6g}, x of shape (4,))"
    html = found._repr_html_()
    for shown in ("converged after", f"{found.softmax_residual:.6g}", "relative gradient norm"):
        assert shown in html
    again = pickle.loads(pickle.dumps(found))
    assert again.history == found.history
    assert np.array_equal(again.x, found.x)
    assert again._replace(x=0, history=0) == found._replace(x=0, history=0)


def test_certificates_are_shown_and_pickled():
    X, y = np.eye(3), np.array([0.1, -0.1, 0.1])
    W, a = np.tile(np.random.default_rng(1).normal(size=(3, 512)), 2), np.repeat([1.0, -1.0], 512)
    certificate = expreg.certify(X, y, W, a)
    again = pickle.loads(pickle.dumps(certificate))
    assert again.summary() == certificate.summary()
    assert len(repr(certificate)) < 200
    assert repr(certificate).startswith(f"Certificate({'holds' if certificate.holds else 'does not hold'}, eta ")
    assert all(name in certificate._repr_html_() for name in ("eta", "lambda_0", certificate.reasons[0][:20]))
