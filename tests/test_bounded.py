"""Runs from a known distance to the minimiser: the problem, its minimiser, where a run ends, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expreg import api, residual
from expreg.core import config as plan
from expreg.core.engine.lanes import Engine
from expreg.errors import InputError
from expreg.kinds import EXPERIMENTS
from expreg.kinds.regression import bounded, program

CONFIG = {
    "experiment": "regression",
    "name": "small",
    "precision": "f64",
    "problem": {"kind": "bounded", "loss": "rescaled", "n": 60, "d": 3, "radius": 1.5, "distance": 0.5},
    "solver": {"name": "newton", "max_steps": 40},
}


def settings_of(*, solver=None, sweep=None, precision="f64", **problem):
    given = {**CONFIG, "problem": CONFIG["problem"] | problem, "solver": CONFIG["solver"] | (solver or {})}
    config = api.load_config({**given, "precision": precision, "sweep": {"product": sweep} if sweep else None})
    return [settings for settings, _ in plan.cells(config)]


def rows_of(cells):
    rows = [row for rows in Engine(EXPERIMENTS["regression"]).run(enumerate(cells)) for row in rows]
    return sorted(rows, key=lambda row: row["cell"])


def objective(settings):
    A, b, weights, *_ = bounded.minimum(settings)
    loss, activation = settings["problem"]["loss"], settings["problem"]["activation"]
    return lambda x: residual.loss_value(A @ x, b, loss, activation) + jnp.sum((weights * (A @ x)) ** 2) / 2


@pytest.mark.parametrize("weight", [0.1, "convex", "closeness"])
def test_the_minimiser_is_one_by_autodiff_and_the_start_is_where_it_should_be(weight):
    [settings] = settings_of(weight=weight, noise=0.2)
    found, problem = bounded.minimum(settings), bounded.problem(settings)
    gradient, H = jax.grad(objective(settings)), jax.hessian(objective(settings))
    assert np.linalg.norm(gradient(found.x)) <= 1e-12 * np.linalg.norm(gradient(problem.x0))
    assert np.linalg.eigvalsh(H(found.x))[0] == pytest.approx(found.columns["hessian_smallest"], rel=1e-6)
    assert np.linalg.norm(problem.x0 - found.x) == pytest.approx(0.5, rel=1e-12)
    assert np.linalg.norm(found.A, 2) == pytest.approx(1.5, rel=1e-12)
    assert found.columns["weight_largest"] == pytest.approx(found.weights.max())


def test_newton_steps_are_those_of_a_loop_by_autodiff_and_end_at_the_accuracy():
    cells = settings_of(accuracy=1e-9, sweep={"problem.accuracy": [1e-3, 1e-9]})
    gradient, H = (jax.jit(make(objective(cells[0]))) for make in (jax.grad, jax.hessian))
    x, goal, path = bounded.problem(cells[0]).x0, bounded.minimum(cells[0]).x, []
    for _ in range(9):
        path.append(float(np.linalg.norm(x - goal)))
        x = x - np.linalg.solve(H(x), gradient(x))
    for settings, row in zip(cells, rows_of(cells), strict=True):
        eps, steps = settings["problem"]["accuracy"], row["steps"]
        assert row["status"] == "converged"
        assert steps == np.argmax(np.array(path) <= eps)
        np.testing.assert_allclose(row["curve_distance"][:steps], path[:steps], rtol=1e-6)
        assert row["curve_distance"][-1] <= eps < row["curve_distance"][-2]
        assert (row["accuracy"], row["distance"], row["radius"], row["weight"]) == (eps, 0.5, 1.5, 0.1)


def test_draws_share_the_problem_and_the_start_but_not_the_sample():
    sketch = {"sketch": "leverage", "sketch_size": 40}
    cells = settings_of(solver=sketch, sweep={"problem.draw": [0, 1], "replicate": {"count": 2}})
    rows = rows_of(cells)
    paths = [row["curve_distance"][:2] for row in rows]
    np.testing.assert_allclose([start for start, _ in paths], 0.5, rtol=1e-9)
    assert len({after for _, after in paths}) == 4
    assert [row["draw"] for row in rows] == [settings["problem"]["draw"] for settings in cells]
    starts = {(settings["replicate"], tuple(bounded.problem(settings).x0)) for settings in cells}
    assert len(starts) == 2
    keys = [tuple(program.prepare(settings).key) for settings in cells]
    assert len(set(keys)) == 4


@pytest.mark.parametrize("activation", residual.activations())
@pytest.mark.parametrize("loss", residual.LOSSES)
def test_every_pair_has_a_minimiser_a_run_and_a_row(loss, activation):
    """With weights, cosh has the minimiser 0, where a relative error and M = 0 say nothing."""
    [settings] = settings_of(loss=loss, activation=activation, accuracy=1e-6)
    [row] = rows_of([settings])
    assert row["status"] in ("converged", "max_steps", "trivial")
    assert np.linalg.norm(bounded.problem(settings).x0 - bounded.minimum(settings).x) == pytest.approx(0.5)
    if row["status"] == "converged":
        assert row["curve_distance"][-1] <= 1e-6


def test_too_few_steps_and_a_weight_by_a_rule_are_said():
    [row] = rows_of(settings_of(solver={"max_steps": 1}, weight="convex", accuracy=1e-12))
    assert (row["status"], row["weight"], row["weight_rule"]) == ("max_steps", None, "convex")


@pytest.mark.parametrize(
    ("problem", "key", "message"),
    [
        ({"accuracy": 0.5}, "problem.accuracy", "less than the distance"),
        ({"accuracy": 1e-16}, "problem.accuracy", r"expected at least 1\.1e-14"),
        ({"precision": "f32"}, "problem.accuracy", r"expected at least 5\.7e-06 in f32"),
        ({"radius": 20}, "problem.radius", r"e\^\(2 R\^2\) overflows float64, expected at most 18"),
        ({"weight": "closeness", "loss": "softmax"}, "problem.weight", "has no closeness weight; use a number"),
        ({"weight": "convex", "loss": "projective"}, "problem.weight", "has no safe weights; use a number"),
        ({"start": "zero"}, "problem.start", "expected near"),
        ({"weight": "clossness"}, "problem.weight", r"did you mean closeness\?"),
        ({"n": 2, "d": 3}, "problem.n", "2 rows for d = 3 columns: the minimiser is not unique"),
    ],
)
def test_what_is_wrong_is_named(problem, key, message):
    with pytest.raises(InputError, match=message) as caught:
        settings_of(**problem)
    assert [found.key for found in caught.value.problems] == [key]
