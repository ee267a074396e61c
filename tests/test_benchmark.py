"""The judge of the benchmark against complex steps; its peers; a solver that only claims to be done."""

import json
import re
import time
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from scipy import sparse

from expreg import output
from expreg.benchmark import bench, columns, peers, scaling, suite, sweep
from expreg.benchmark.judge import REQUIRED, Judge
from expreg.benchmark.problems import CASES
from expreg.errors import InputError

RNG = np.random.default_rng(0)
A = RNG.normal(size=(20, 3)) * (RNG.random((20, 3)) < 0.8)
B = RNG.random(20)
X = RNG.normal(size=3)
FIRST = "dense 1e4 x 32, softmax"
PHI = {"exp": np.exp, "cosh": np.cosh, "sinh": np.sinh}


def loss(x, A, b, name, activation):
    u = PHI[activation](A @ x)
    residual = {"exponential": u - b, "rescaled": u - u.sum() * b, "softmax": u / u.sum() - b}[name]
    return 0.5 * residual @ residual


def gradient_of(function, x) -> np.ndarray:
    """The derivative by complex steps: exact to rounding, and by no code of ours."""
    steps = 1e-30j * np.eye(len(x))
    return np.array([function(x + step).imag / 1e-30 for step in steps])


@pytest.mark.parametrize("activation", PHI)
@pytest.mark.parametrize("name", ["exponential", "rescaled", "softmax"])
def test_the_judge_divides_the_gradient_by_the_terms_that_cancel_in_it(name, activation):
    gradient = gradient_of(lambda x: loss(x, A, B, name, activation), X)
    z = A @ X
    u, v = {"exp": (np.exp, np.exp), "cosh": (np.cosh, np.sinh), "sinh": (np.sinh, np.cosh)}[activation]
    total = {"exponential": 1.0, "rescaled": 1.0, "softmax": u(z).sum()}[name]
    target = B if name == "exponential" else B * u(z).sum()
    scale = [
        sum(abs(A[i, j] * v(z[i])) * (abs(u(z[i])) + abs(target[i])) for i in range(20)) / total**2 for j in range(3)
    ]
    expected = np.max(np.abs(gradient) / scale)
    for matrix in (A, sparse.csr_array(A)):
        assert Judge(matrix, B, name, activation)(X) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("activation", PHI)
@pytest.mark.parametrize("name", ["exponential", "rescaled", "softmax"])
def test_the_lean_peer_writes_down_the_loss_and_its_gradient(name, activation):
    value, g = peers.plain(A @ X, B, name, activation)
    assert value == pytest.approx(loss(X, A, B, name, activation), rel=1e-12)
    np.testing.assert_allclose(A.T @ g, gradient_of(lambda x: loss(x, A, B, name, activation), X), rtol=1e-9)


def test_the_judge_does_not_depend_on_units_and_knows_a_solution():
    b = np.exp(A @ X) / np.exp(A @ X).sum()
    assert Judge(A, b, "rescaled", "exp")(X) < 1e-14
    units = np.array([1.0, 1e-6, 1e3])
    here, there = Judge(A, B, "softmax", "exp")(X), Judge(A * units, B, "softmax", "exp")(X / units)
    assert there == pytest.approx(here, rel=1e-9)
    assert here > 1e-3
    assert Judge(A, B, "softmax", "exp")(np.array([np.nan, 0, 0])) == np.inf


def test_there_are_twelve_problems_and_each_is_what_its_name_says():
    made = {name: make(True) for name, make in CASES.items()}
    assert len(made) == 12
    for name, case in made.items():
        assert case.name == name
        assert sparse.issparse(case.A) == name.startswith("sparse")
        assert case.loss in name or name.startswith("attention")
        assert all(np.isfinite(b).all() and b.shape == (case.A.shape[0],) for b in case.targets)
    condition = np.linalg.cond(made["condition 1e6, 1e5 x 64, softmax"].A)
    assert 1e5 < condition < 1e7
    Q, _ = np.linalg.qr(made["coherent rows, 1e5 x 64, exponential"].A)
    assert (np.sum(Q**2, axis=1) > 0.999).sum() == 16


def test_peers_reach_the_accuracy_and_a_claim_is_not_enough():
    def claims(A, b, **options):
        return SimpleNamespace(x=np.zeros(A.shape[1]), steps=1, message="converged, I say")

    chosen = ["scipy trf", "scipy lsmr", "numpy l-bfgs-b", "scipy trust-ncg"]
    found = suite.run(claims, [FIRST], quick=True, limit=20, peers=chosen)
    own, *others = found["problems"][0]["outcomes"]
    assert own["seconds"] is None
    assert "converged, I say; accuracy" in own["note"]
    for outcome in others:
        assert outcome["seconds"] > 0, outcome
        assert outcome["accuracy"] <= REQUIRED
    assert (found["first_on"], found["of"], found["geometric_mean"]) == (0, 1, None)


def test_the_judges_time_and_the_limit_are_kept_apart():
    slow = suite._Watch(lambda x: time.sleep(0.05) or 1.0, 10.0)
    slow(X)
    assert slow.seconds() < 0.04
    short = suite._Watch(lambda x: 1.0, 0.01)
    time.sleep(0.02)
    with pytest.raises(suite._Stop):
        short(X)


def test_the_command_prints_a_table_and_a_document(monkeypatch):
    monkeypatch.setattr(suite, "run", partial(suite.run, peers=()))
    found, text = bench("regression", quick=True, limit=0.2, only=FIRST, say=lambda line: None)
    assert json.loads(output.document(found))["of"] == 1
    assert text.splitlines()[1].startswith(FIRST)
    assert found["problems"][0]["problem"] == f"{FIRST}, here 256 x 32"
    own = found["problems"][0]["outcomes"][0]
    assert own["solver"] == "expreg"
    assert own["accuracy"] <= REQUIRED


def test_unknown_suites_and_problems_are_named():
    with pytest.raises(InputError, match="got 'speed', expected one of regression, scaling"):
        bench("speed", quick=True, limit=None, only=None, say=print)
    with pytest.raises(InputError, match="got 'nothing', expected part of the name"):
        bench("regression", quick=True, limit=None, only="nothing", say=print)


def test_the_slope_is_that_of_the_steps_without_the_start():
    def linear(A, b, **options):
        first, last = {"seconds": 1.0, "step": 0, "passes": 2}, {"seconds": 1.0 + A.nnz * 1e-7, "step": 4, "passes": 12}
        return SimpleNamespace(history=[first, last])

    found = scaling.run(linear, sizes=(10_000, 100_000))
    assert found["slope"] == pytest.approx(1, abs=1e-12)
    assert found["slope_per_pass"] == pytest.approx(1, abs=1e-12)
    for row in found["rows"]:
        assert row["seconds_per_step"] == pytest.approx(row["nnz"] * 1e-7 / 4)
        assert row["seconds_per_pass"] == pytest.approx(row["nnz"] * 1e-8)
    assert "1.000 per step, 1.000 per pass" in scaling.text(found)


def test_the_slopes_of_columns_are_those_of_the_step_and_of_its_dense_part(monkeypatch):
    """The step that is timed is one of the solver: a step of it lowers the gradient, dense algebra solves a system."""
    seen = []

    def timed(function, *arguments):
        seen.append((function, arguments))
        d = arguments[1].shape[0] if len(arguments) == 2 else arguments[0].problem.A.shape[1]
        return [1e-9 * d**3 + 1e-3 * (len(arguments) == 1)] * columns.REPEATS

    monkeypatch.setattr(columns, "_times", timed)
    monkeypatch.setattr(columns, "NONZEROS", 2_000)
    found = columns.run(sizes=(4, 8, 16))
    assert found["slopes"]["dense"] == pytest.approx(dict.fromkeys(("median", "low", "high"), 3))
    assert found["slopes"]["step"]["median"] < 0.1
    assert "dense 3.00 [3.00, 3.00]" in columns.text(found)
    with jax.enable_x64(True):
        (step, (state,)), (solved, (B, g)) = seen[:2]
        assert step(state).relative < state.relative
        np.testing.assert_allclose(solved(B, g), np.linalg.solve(B.T @ B, g), rtol=1e-9)


def test_a_jacobian_that_does_not_fit_and_a_package_that_is_not_there_are_said():
    peer = peers.PEERS["scipy trf"]
    assert "dense Jacobian and three arrays like it take 29.8 GiB" in (peers.missing(peer, (10**6, 1000)) or "")
    assert "not installed" in (peers.missing(peer._replace(package="no_such_package"), (9, 2)) or "")
    assert peers.missing(peer, (1000, 10)) is None


def test_the_sweep_is_timed_against_loops_that_train_the_same_networks(monkeypatch):
    """Answers are compared with a float64 loop; what is off has no time."""
    sizes = (sweep.Size(3, 8, 3, 2, 30), sweep.Size(4, 16, 5, 3, 20, straggler=True))
    monkeypatch.setattr(sweep, "QUICK", sizes)
    said = []
    found = sweep.run(quick=True, only=None, say=said.append)
    assert [line["size"] for line in found["lines"]] == ["3 x 8", "4 x 16, d = 5, lengths differ"]
    for line, size in zip(found["lines"], sizes, strict=True):
        assert line["errors"]["expreg"] < 1e-5
        assert {"expreg", "vmap", "numpy"} <= set(line["microseconds"])
        assert all(value > 0 for value in [*line["microseconds"].values(), *line["ratios"].values(), line["of_bound"]])
        assert sum(size.lengths()) / size.cells == pytest.approx(size.steps, rel=0.9)
    assert len(set(sizes[1].lengths())) == 3
    assert "numpy takes" in sweep.text(found)
    assert len(said) == 2
    monkeypatch.setattr(sweep, "PLAIN", 0.0)
    (line,) = sweep.run(quick=True, only="3 x 8", say=said.append)["lines"]
    assert list(line["microseconds"]) == ["expreg"]
    assert re.search(r"3 x 8: numpy: \|\|r\|\| is off by \d", sweep.text({"lines": [line]}))
