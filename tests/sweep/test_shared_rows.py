"""One regression problem over many devices: the solution of one device, sums of d and d^2 numbers, never n."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from sharding import both, collectives, ended, loops, start

from expreg import api, checks
from expreg.commands import plan_lines
from expreg.core.engine import estimate
from expreg.errors import InputError
from expreg.kinds import EXPERIMENTS

pytestmark = pytest.mark.clusters

D = 8
KEYS = (
    *("problem.density", "problem.loss", "problem.activation", "n", "precision"),
    *("solver.name", "solver.max_steps", "solver.tolerance"),
)
TOLERANCE = {"f32": 4e-6, "f64": 1e-14}
CLOSE = {"f32": 1e-6, "f64": 1e-12}
"""Of x, in units of its norm."""


def cells():
    """Yield a cell for each kind of matrix, loss and activation, with and without padding, and for other solvers."""
    for i, one in enumerate(product((1.0, 0.4), ("softmax", "rescaled"), ("exp", "cosh", "sinh"))):
        # where sinh nearly cancels in <u, 1>, the tolerance of float32 says little about x
        single = (i // 3 + i // 6) % 2 and one[2] != "sinh"
        yield *one, (960, 1000)[(i + i // 6) % 2], "f32" if single else "f64", "newton", 200
    yield 0.4, "softmax", "exp", 1000, "f64", "pcg", 200
    yield 1.0, "rescaled", "cosh", 1000, "f64", "lbfgs", 200
    yield 1.0, "softmax", "exp", 1000, "f64", "gd", 20


CONFIG = {
    "experiment": "regression",
    "name": "shared",
    "problem": {"d": D, "noise": 0.1, "start": "near", "distance": 0.3},
    "execution": {"shard": "rows"},
    "sweep": {
        "concat": [
            {key: [value] for key, value in zip(KEYS, (*one, TOLERANCE[one[4]]), strict=True)} for one in cells()
        ]
    },
}
ONE = {"sweep": None, **dict(zip(KEYS, (*list(cells())[1], TOLERANCE["f64"]), strict=True))}
"""The second of these cells."""
ONE["problem.n"] = ONE.pop("n")

READY = """
from scipy.sparse import csr_array
from expreg.kinds.regression import program
row, inputs = program.row, program.inputs
program.row = lambda settings, record: row(settings, record) | {"status_detail": json.dumps(record["x"].tolist())}

def with_sparse(settings):
    given = inputs(settings)
    return given | ({"A": csr_array(given["A"])} if settings["problem"]["density"] < 1 else {})

program.inputs = with_sparse
"""
EIGHT = f"""{READY}
run({{}}, "whole")
write_programs("solver", "dtype")
programs.forget()
import jax
jax.config.update("jax_disable_most_optimizations", True)
run({{"execution.shard": "cells"}}, "alone")
program.padded = lambda phi, n: phi
run(json.loads(sys.argv[2]), "unmasked")
"""
BOTH = f"""{READY}
run(json.loads(sys.argv[2]), "whole")
"""


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """Return a folder with what 8 devices left: runs by rows, by cells and by rows without a mask, and programs."""
    folder = tmp_path_factory.mktemp("eight")
    ended(start(folder, 8, EIGHT, CONFIG, ONE))
    return folder


def solved(directory):
    """Return the rows of a run by cell, and its solutions."""
    rows = api.load(directory).cells.set_index("cell").sort_index()
    return rows, {cell: np.array(json.loads(text)) for cell, text in rows["status_detail"].items()}


def distance(x, expected):
    return np.linalg.norm(x - expected) / np.linalg.norm(expected)


def test_the_solution_is_that_of_one_device(eight):
    (rows, ours), (alone, theirs) = solved(eight / "whole"), solved(eight / "alone")
    assert len(rows) == 15
    assert rows["status"].equals(alone["status"])
    assert set(rows["status"][rows["solver"] != "gd"]) == {"converged"}
    for cell, x in theirs.items():
        assert distance(ours[cell], x) <= CLOSE[rows["precision"][cell]], rows.loc[cell]


def test_the_stopping_rule_counts_no_padding(eight):
    ours, theirs = (api.load(eight / name).curves.groupby("cell")["residual"].first() for name in ("whole", "alone"))
    assert len(ours) == 15
    np.testing.assert_allclose(ours.sort_index(), theirs.sort_index(), rtol=1e-5)


def test_padding_that_is_not_masked_would_be_seen(eight):
    ((cell, found),) = solved(eight / "unmasked")[1].items()
    assert not distance(found, solved(eight / "alone")[1][cell]) < 1e-3


def test_two_processes_find_what_one_finds(eight, tmp_path):
    folders = both(tmp_path, BOTH, CONFIG, ONE)
    assert not list(folders[1].iterdir())
    ((cell, found),) = solved(folders[0] / "whole")[1].items()
    assert distance(found, solved(eight / "alone")[1][cell]) <= CLOSE["f64"]


# --- what devices send ----------------------------------------------------------------------------


def sent(eight, solver):
    """Yield the numbers that are sent in each all-reduce of a step, and of a loop in it."""
    for path in eight.glob(f"{solver}-*.hlo"):
        size = {"float32": 4, "float64": 8}[path.name.split("-")[1]]
        for pair in loops(path.read_text()):
            yield tuple([sent / size for _, sent in each] for each in pair)


def test_a_step_sends_a_matrix_and_a_gradient_and_an_iteration_of_conjugate_gradients_d_numbers(eight):
    """Newton's matrix has rank two more than a Gram matrix, and its steps sum and compare single numbers."""
    newton = list(sent(eight, "newton"))
    assert len(newton) == 12
    for step, trial in newton:
        assert len(step) in (7, 8)
        assert D**2 + 3 * D + 18 <= sum(step) <= D**2 + 3 * D + 23
        assert trial == [1, 1, 3]
    (step, iteration), (_, trial) = sent(eight, "pcg")
    assert len(step) == 8
    assert sum(step) == D**2 + 4 * D + 19
    assert (iteration, trial) == ([D], [1, 1, 3])


def test_a_step_of_a_first_order_method_sends_a_gradient(eight):
    ((step, trial),) = sent(eight, "lbfgs")
    assert (len(step), sum(step)) == (4, D + 19)
    assert trial == [1, 2, 3, 1, D] * 2  # the two phases of the search, of which a trial is in one
    ((step, trial),) = sent(eight, "gd")
    assert (len(step), sum(step)) == (4, D + 14)
    assert trial == [1, 2, 1]


def test_nothing_of_n_numbers_is_ever_sent(eight):
    programs = [path.read_text() for path in eight.glob("*.hlo")]
    assert len(programs) == 15
    for text in programs:
        found = collectives(text)
        assert {operation for operation, _ in found} == {"all-reduce"}
        assert max(sent for _, sent in found) < 8 * (D**2 + 5 * D)


# --- what is refused ------------------------------------------------------------------------------


def test_what_cannot_be_split_by_rows_is_refused(monkeypatch):
    rows = ["execution.shard=rows"]
    with pytest.raises(InputError, match="got rows, expected cells or neurons for threshold; rows are for regression"):
        api.plan("configs/threshold.yaml", rows)
    match = r"command line: execution\.shard: got rows, expected cells for solver\.sketch leverage"
    with pytest.raises(InputError, match=match) as caught:
        api.plan("configs/newton.yaml", [*rows, "solver.sketch=leverage"])
    assert caught.value.exit_code == 2
    regression = EXPERIMENTS["regression"]
    odd = replace(regression, spread=regression.spread._replace(parts=lambda _: 241))
    monkeypatch.setitem(EXPERIMENTS, "regression", odd)
    with pytest.raises(InputError, match=r"execution\.devices: got 2, expected a divisor of 241 .* such as 1"):
        api.plan("configs/regression.yaml", [*rows, "execution.devices=2"])


def test_a_problem_too_large_for_a_device_is_planned_for_several_and_refused_by_a_run(monkeypatch, tmp_path):
    large = ONE | {"problem.n": 2**21, "execution.shard": "cells"}
    [settings] = [one for one, _ in checks.sweep(api.load_config(CONFIG, large)).cells.values()]
    room = EXPERIMENTS["regression"].cost(settings).bytes / 1.5
    monkeypatch.setattr(estimate, "memory", lambda device: 2 * room)  # of two cores
    monkeypatch.setattr(estimate, "measured_speed", lambda experiment: 1e9)
    found = api.plan(CONFIG, large)
    assert found["devices_needed"] == 3  # they keep the inputs too
    assert "execution.shard: rows spreads it over 3 such devices" in "\n".join(plan_lines(found, []))
    with pytest.raises(InputError, match=r"E-MEM.* n=2097152 d=8.*; execution\.shard: rows .* at least 2 such"):
        api.run(CONFIG, large, tmp_path / "run")
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"E-MEM.* on 2 devices"):
        checks.sweep(api.load_config(CONFIG, large | {"execution.shard": "rows"}))
