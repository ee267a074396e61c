"""The experiment `regression`: its problems, its rows against independent numbers, and runs from file to report."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import logarithmic, softplus
from scipy import io, sparse

import expreg
from expreg import api, residual
from expreg.activation import ACTIVATIONS
from expreg.core import config as plan
from expreg.core.engine.lanes import Engine
from expreg.core.store.columns import NAMES
from expreg.data import problems
from expreg.errors import InputError
from expreg.kinds import EXPERIMENTS
from expreg.kinds.regression import program as regression

OPTIONS = {
    "kind": "gaussian", "n": 60, "d": 5, "density": 1.0, "condition": 1.0, "coherence": 0.0, "scale": 1.0, "noise": 0.0,
    "loss": "softmax", "activation": "exp", "weight": 0.0, "start": "near", "distance": 0.2,
}  # fmt: skip
CONFIG = {
    "experiment": "regression",
    "name": "small",
    "precision": "f64",
    "problem": {"n": 24, "d": 3, "start": "near", "distance": 0.3},
    "solver": {"name": "newton"},
}


def drawn(replicate=0, **change):
    return problems.make({**OPTIONS, **change}, 0, replicate)


# --- problems -------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", residual.activations())
@pytest.mark.parametrize("loss", residual.LOSSES)
def test_the_planted_x_has_no_residual(loss, activation):
    found = drawn(loss=loss, activation=activation)
    z = found.A @ found.planted
    u = {"exp": np.exp, "cosh": np.cosh, "sinh": np.sinh}[activation](z)
    np.testing.assert_allclose(found.b, u if loss == "exponential" else u / u.sum(), rtol=1e-12)


def test_density_condition_and_coherence_are_what_they_say():
    thin = drawn(d=20, density=0.3).A
    assert ((thin != 0).sum(axis=1) == 6).all()
    assert 0.1 < (thin != 0).mean(axis=0).min() <= (thin != 0).mean(axis=0).max() < 0.55
    steep = drawn(n=4000, condition=100.0).A
    assert np.linalg.cond(steep) == pytest.approx(100, rel=0.1)
    Q, _ = np.linalg.qr(drawn(coherence=0.4).A)
    leverage = np.sort((Q**2).sum(axis=1))
    np.testing.assert_allclose(leverage[-2:], 1, rtol=1e-12)  # two of five columns, one row each
    assert leverage[-3] < 0.5


def test_starts_lie_where_they_should():
    near, random, zero = drawn(), drawn(start="random"), drawn(start="zero")
    z = near.A @ near.planted
    assert np.std(z) == pytest.approx(1, rel=0.2)
    assert np.linalg.norm(near.A @ near.x0 - z) == pytest.approx(0.2 * np.linalg.norm(z))
    assert np.sqrt(np.mean((random.A @ random.x0) ** 2)) == pytest.approx(0.2)
    assert not zero.x0.any()


def test_what_is_changed_changes_nothing_else():
    plain, noisy = drawn(), drawn(noise=0.1)
    assert (plain.A == noisy.A).all()
    assert noisy.planted is None  # not a minimiser any more
    assert noisy.b.sum() == pytest.approx(1)
    assert np.std(np.log(noisy.b / plain.b)) == pytest.approx(0.1, rel=0.3)
    assert not np.allclose(plain.A, drawn(replicate=1).A)


# --- one cell -------------------------------------------------------------------------------------


def settings_of(**change):
    config = api.load_config({**CONFIG, **change})
    return {plan.cell_id(settings): settings for settings, _ in plan.cells(config)}


def run_alone(settings, lanes=2):
    engine = Engine(EXPERIMENTS["regression"], lanes=lanes)
    return {row["cell"]: row for rows in engine.run(settings.items()) for row in rows}


def test_a_row_says_what_the_definitions_say():
    cells = settings_of(
        problem={**CONFIG["problem"], "loss": "rescaled"}, sweep={"product": {"solver.max_steps": [2, 50]}}
    )
    assert len({regression.signature(settings) for settings in cells.values()}) == 1  # the budget is no program
    for settings, row in zip(cells.values(), run_alone(cells).values(), strict=True):
        arrays = regression.inputs(settings)
        A, b = arrays["A"], arrays["b"]
        planted = problems.make(settings["problem"], 0, 0).planted

        def loss(x, A=A, b=b):
            u = jnp.exp(A @ x)
            return jnp.sum((u - jnp.sum(u) * b) ** 2) / 2

        with jax.enable_x64(True):
            assert row["curve_loss"][0] == pytest.approx(float(loss(arrays["x0"])), rel=1e-12)
            H = np.asarray(jax.hessian(loss)(planted))
        e = arrays["x0"] - planted
        scale = row["curve_error"][0] / np.sqrt(e @ H @ e)
        assert scale == pytest.approx(float(np.exp(-np.max(A @ planted))), rel=1e-9)  # one factor for all steps
        check_columns(row)
        short = settings["solver"]["max_steps"] == 2
        assert row["status"] == ("max_steps" if short else "converged")
        assert row["steps"] == (2 if short else row["curve_step"][-1])
        assert (np.diff(row["curve_passes"]) > 0).all()
        assert (np.diff(row["curve_step"]) == 1).all()
        if not short:
            assert row["x_error"] < 1e-8
            assert row["softmax_residual"] < 1e-8
            assert row["alpha"] == pytest.approx(np.exp(A @ planted).sum(), rel=1e-6)
            assert row["nnz"] == A.size


def test_a_cell_does_not_depend_on_its_lane():
    cells = settings_of(sweep={"product": {"replicate": {"count": 5}}})
    [first, *_] = cells
    together, alone = run_alone(cells, lanes=4)[first], run_alone({first: cells[first]})[first]
    for name in alone.keys() - {"seconds"}:
        np.testing.assert_array_equal(alone[name], together[name], err_msg=name)


def test_records_of_the_users_own_run_in_lanes(monkeypatch):
    monkeypatch.setitem(residual.LOSSES, "logarithmic", logarithmic())
    monkeypatch.setitem(ACTIVATIONS, "softplus", softplus())
    [(cell, settings)] = settings_of().items()
    for loss, activation in (("logarithmic", "cosh"), ("softmax", "softplus")):  # without a low-rank part, and with one
        problem = {**settings["problem"], "loss": loss, "activation": activation}
        [row] = run_alone({cell: {**settings, "problem": problem}}).values()
        assert row["status"] == "converged"
        assert row["x_error"] < 1e-6 or loss == "softmax"  # cosh: up to sign


def test_a_row_of_an_attention_head_has_the_declared_columns():
    [row] = run_alone(settings_of(problem={"kind": "attention"}, solver={"max_steps": 1})).values()
    check_columns(row)


def check_columns(row):
    experiment = EXPERIMENTS["regression"]
    base = {*NAMES, *(name for name in row if name.startswith("problem."))}
    declared = [column.name for column in experiment.columns()]
    assert {name for name in row if not name.startswith("curve_")} - base == set(declared)
    assert {name for name in row if name.startswith("curve_")} == {f"curve_{c.name}" for c in experiment.curves()}
    assert len(declared) == len(set(declared))
    for column in experiment.columns():
        fits = {"string": str, "int64": int, "float64": float}[column.type]
        assert row[column.name] is None or isinstance(row[column.name], fits), column.name


def test_cosh_is_solved_up_to_sign():
    """From the far side Newton reaches -x, which is as good (E.39)."""
    record = {"x": np.array([-1.0, 2.0]), "last_error": np.array(0.0)}
    assert regression._errors(np.array([1.0, -2.0]), (1, -1), record)["x_error"] == 0
    assert regression._errors(np.array([1.0, -2.0]), (1,), record)["x_error"] == pytest.approx(2)


# --- from a config to a report --------------------------------------------------------------------


def test_files_are_solved_and_refused_when_they_change(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "report", expreg.load)  # the page adds nothing to the rows
    found = drawn(n=24, d=3)
    np.savez("mine.npz", A=found.A, b=found.b)
    config = {**CONFIG, "problem": {"kind": "file", "path": "mine.npz"}}
    run = expreg.run(config, out="run")
    [row] = run.cells.to_dict("records")
    assert (row["status"], row["rows"], row["columns"]) == ("converged", 24, 3)
    np.testing.assert_array_equal(run.inputs(row["cell"])["b"], found.b)
    found.A[3, 1] = np.nan
    np.savez("mine.npz", A=found.A, b=found.b)
    with pytest.raises(InputError, match=r"A\[3,1\]: got nan"):
        api.plan(config)


@pytest.mark.usefixtures("quickly_compiled")
def test_a_sparse_file_gives_the_rows_of_a_dense_one(tmp_path, monkeypatch):
    """Empty columns are left out; nothing else depends on the format. Two files of one shape are two programs."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    A = sparse.random_array((90, 7), density=0.4, rng=rng, data_sampler=rng.normal).toarray()
    found = problems.target(rng, A @ rng.normal(size=7), loss="softmax", activation="exp", noise=0.3)
    np.save("b.npy", found)
    wide = np.insert(A, 2, 0, axis=1)
    sparse.save_npz("wide.npz", sparse.coo_array(wide))
    io.mmwrite("half.mtx", sparse.coo_array(np.where(rng.random(A.shape) < 0.5, A, 0)))
    np.save("A.npy", A)
    given = {"kind": "file", "target_path": "b.npy", "start": "zero"}
    with pytest.warns(UserWarning, match=r"1 of 8 columns is empty and left out: x\[2\] is 0"):
        cells = settings_of(
            problem={**given, "path": "A.npy"}, sweep={"product": {"problem.path": ["A.npy", "wide.npz", "half.mtx"]}}
        )
    assert len({regression.signature(settings) for settings in cells.values()}) == 3
    dense, sparse_ = run_alone(dict(list(cells.items())[:2])).values()
    assert (sparse_["rows"], sparse_["columns"], sparse_["nnz"]) == (90, 7, np.count_nonzero(A))
    best = expreg.solve(A, found, loss="softmax")
    for row in (dense, sparse_):
        assert row["status"] == "converged"
        assert row["loss_value"] == pytest.approx(best.loss, rel=1e-9)
        assert row["softmax_residual"] == pytest.approx(best.softmax_residual, rel=1e-9)
    np.testing.assert_allclose(sparse_["curve_loss"], dense["curve_loss"], rtol=1e-9)
    check_columns(sparse_)


@pytest.mark.parametrize("d", [700, 4500])
@pytest.mark.usefixtures("quickly_compiled")
def test_a_sparse_file_takes_memory_by_its_entries(d, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    n = 30_000
    ones = (np.ones(n), (np.arange(n), np.arange(n) % d))
    sparse.save_npz("A.npz", sparse.csr_array(ones, shape=(n, d)))
    np.save("b.npy", np.full(n, 1 / n))
    files = {"kind": "file", "path": "A.npz", "target_path": "b.npy"}
    [settings] = settings_of(problem=files, solver={}).values()
    inputs = regression.prepare(settings)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(inputs.A)) < 100 * n
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(inputs)) < regression.cost(settings).bytes < 8 * n * d / 5
    program = regression.program(regression.signature(settings))
    state = jax.eval_shape(program.init, inputs)
    for function, argument in ((program.init, inputs), (program.advance, state)):
        memory = jax.jit(function).lower(argument).compile().memory_analysis()
        assert memory.temp_size_in_bytes + memory.output_size_in_bytes < 8 * n * d / 5


def test_a_run_is_resumed_and_reported(tmp_path):
    config = {**CONFIG, "sweep": {"product": {"replicate": {"count": 2}}}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "report", expreg.load)
        cells = expreg.run(config, out=tmp_path / "run").cells
    more = expreg.run(config, {"sweep.product.replicate.count": 4}, out=tmp_path / "run")
    assert (len(cells), len(more.cells)) == (2, 4)
    assert set(cells["cell"]) <= set(more.cells["cell"])
    assert (more.cells["attempt"] == 1).all()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [verdict["claim"] for verdict in summary["verdicts"]] == ["quadratic"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Outcomes" in page
    assert {"suboptimality.png", "passes.svg"} <= {path.name for path in (tmp_path / "run" / "figures").iterdir()}
    planned = api.plan(config)
    assert planned["cells"] == 2
    assert planned["seconds"] > 0
