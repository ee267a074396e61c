"""The smallest width of a fit: steps against autodiff, fits against SciPy, thresholds against the reference."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import sphere
from scipy import optimize

import expreg
from expreg import api, network
from expreg.core import config as plan
from expreg.errors import InputError
from expreg.kinds import EXPERIMENTS
from expreg.kinds.network import capacity
from expreg.types import Status

CAPACITY = EXPERIMENTS["capacity"]
BASE = {"experiment": "capacity", "name": "test", "data": {"kind": "sphere", "d": 4}}


def settings_of(**change):
    """Return the settings of the one cell of a config; `change` by dotted path, with __ for the dots."""
    given = BASE | {"data": {"kind": "sphere", "n": 8, "d": 4}, "network": {"m": 4}}
    config = api.load_config(given, {key.replace("__", "."): value for key, value in change.items()})
    [(settings, _)] = plan.cells(config)
    return settings


@cache
def compiled(signature):
    program = capacity.program(signature)
    return jax.jit(lambda i: program.record(jax.lax.while_loop(program.running, program.advance, program.init(i))))


def row_of(settings):
    """Return the row of one cell, alone."""
    with jax.enable_x64(True):
        record = compiled(capacity.signature(settings))(capacity.prepare(settings))
        return capacity.row(settings, jax.tree.map(np.asarray, record))


# --- one step


@pytest.mark.parametrize("activation", ["exp", "cosh", "sinh", "relu"])
@pytest.mark.parametrize(("init", "n", "m"), [("coupled", 9, 4), ("iid", 5, 7)])
@pytest.mark.parametrize("solver", ["gauss_newton", "gd"])
def test_a_step_is_that_of_the_jacobian(activation, init, n, m, solver):
    """The damped least-squares problem of autodiff's Jacobian, with more and with fewer weights than points."""
    change = {"data__n": n, "network__m": m, "network__init": init, "network__activation": activation}
    settings = settings_of(**change, network__scale=0.7, solver__name=solver)
    arrays = CAPACITY.inputs(settings)
    X, y, W, a = (arrays[name] for name in ("X", "y", "W", "a"))
    static = capacity.signature(settings)
    with jax.enable_x64(True):
        state = capacity.program(static).init(jax.tree.map(jnp.asarray, capacity.prepare(settings)))
        rng = np.random.default_rng(0)
        live = np.flatnonzero(np.asarray(state.signs))
        shift = 0.1 * rng.standard_normal((4, m))  # away from the start, where pairs are equal
        theta = np.zeros(state.theta.shape)
        theta[:, live] = shift
        weights = W + shift
        outputs = lambda w: network.forward(w, a, X, activation=activation, scale=0.7)  # noqa: E731
        J = np.asarray(jax.jacobian(outputs)(jnp.asarray(weights))).reshape(n, -1)
        residual = np.asarray(outputs(jnp.asarray(weights))) - y
        here = capacity.moved(static, state._replace(residual=jnp.zeros(n), theta=jnp.asarray(theta)))
        np.testing.assert_allclose(here.residual, residual, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(capacity.gram(here), J @ J.T, rtol=1e-9, atol=1e-10)
        moved = capacity.moved(static, here._replace(damping=jnp.asarray(0.3)))
    step = np.asarray(moved.theta)[:, live] - shift
    if solver == "gd":
        wanted = -J.T @ residual / 0.3
    else:
        stacked = np.vstack([J, np.sqrt(0.3) * np.eye(J.shape[1])])
        wanted = np.linalg.lstsq(stacked, -np.concatenate([residual, np.zeros(J.shape[1])]), rcond=None)[0]
    np.testing.assert_allclose(step.ravel(), wanted, rtol=1e-8, atol=1e-10)
    dead = np.flatnonzero(np.asarray(state.signs) == 0)
    assert dead.size
    assert not np.asarray(moved.theta)[:, dead].any()


def test_rounding_that_spoils_the_factor_only_refuses_the_move():
    """An indefinite matrix has no Cholesky factor: nothing but the damping and the step count changes."""
    static = capacity.signature(settings_of())
    with jax.enable_x64(True):
        state = capacity.program(static).init(jax.tree.map(jnp.asarray, capacity.prepare(settings_of())))
        spoiled = state._replace(damping=-state.damping)
        after = capacity._try(static, spoiled)
    assert after.step == 1
    assert after.status == Status.running
    assert after.damping == 2 * spoiled.damping
    np.testing.assert_array_equal(after.theta, state.theta)
    np.testing.assert_array_equal(after.residual, state.residual)


# --- how a run ends


@pytest.mark.parametrize("solver", ["gauss_newton", "gd"])
def test_a_run_stalls_at_the_first_look_without_enough_progress(solver):
    """Two weights per point are too few: with another budget the same run shows ||r|| at every look."""
    patience, progress = 20, 0.05
    own = {"solver__name": solver, "solver__patience": patience, "solver__progress": progress}
    settings = settings_of(data__n=16, network__m=2, **own)
    row = row_of(settings)
    assert row["status"] == "stalled"
    assert not row["fit"]
    assert row["steps"] % patience == 0
    assert f"less than 5 % in {patience} steps" in row["status_detail"]
    looks = range(patience, row["steps"], patience)
    sizes = [row["residual_initial"]]
    for step in looks:
        earlier = row_of(settings | {"solver": settings["solver"] | {"max_steps": step}})
        assert earlier["status"] == "max_steps"
        sizes.append(earlier["residual_final"])
    sizes.append(row["residual_final"])
    falls = 1 - np.array(sizes[1:]) / np.array(sizes[:-1])
    assert (falls[:-1] > progress).all()
    assert 0 <= falls[-1] <= progress


def test_a_fit_is_one_at_the_tolerance_and_no_run_diverges():
    rows = [row_of(settings_of(data__n=8, network__m=m, solver__tolerance=tol)) for m in (2, 4) for tol in (1e-3, 1e-9)]
    for row in rows:
        assert row["fit"] == (row["residual_final"] <= row["tolerance"]) == (row["status"] == "converged")
        assert row["residual_final"] <= row["residual_initial"]
    assert rows[-1]["fit"]
    relative = row_of(settings_of(network__m=4, solver__relative=True))
    assert relative["tolerance"] == pytest.approx(1e-3 * np.sqrt(8))


def test_a_start_that_is_fitted_or_out_of_range_ends_at_once(tmp_path):
    X = sphere(np.random.default_rng(0), 4, 3)
    np.savez(tmp_path / "zero.npz", X=X, y=np.zeros(4))
    given = {"kind": "file", "path": str(tmp_path / "zero.npz")}
    config = api.load_config(BASE | {"data": given, "network": {"m": 4}})
    [(settings, _)] = plan.cells(config)
    row = row_of(settings)  # coupled neurons: F = 0 = y
    assert (row["status"], row["steps"]) == ("converged", 0)
    far = settings_of(network__scale=1e200)
    assert row_of(far)["status"] == "nonfinite"


# --- which widths fit


@pytest.mark.parametrize(("m", "fitted"), [(2, False), (6, True)])
def test_scipy_fits_the_same_networks(m, fitted):
    """Trust region by SciPy, Jacobian by autodiff, from the same starts."""
    for replicate in range(3):
        settings = settings_of(data__n=16, network__m=m) | {"replicate": replicate}
        X, y, W, a = CAPACITY.inputs(settings).values()

        def residual(w, X=X, y=y, a=a):
            return np.exp(X @ w.reshape(4, -1)) @ a - y

        def jacobian(w, X=X, a=a):
            return (X[:, :, None] * (np.exp(X @ w.reshape(4, -1)) * a)[:, None, :]).reshape(len(X), -1)

        start = W.ravel() + 1e-3 * np.random.default_rng(replicate).standard_normal(W.size)
        found = optimize.least_squares(residual, start, jacobian, max_nfev=500, ftol=1e-12, xtol=1e-12, gtol=1e-12)
        assert (np.sqrt(2 * found.cost) <= 1e-3) == row_of(settings)["fit"] == fitted


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small version of configs/capacity.yaml."""
    sweep = {
        "concat": [
            {"product": {"n": [16, 32], "replicate": {"count": 30}}},
            {
                "product": {
                    "solver.name": ["gauss_newton", "gd"],
                    "solver.tolerance": [0.05],
                    "n": [8],
                    "replicate": {"count": 20},
                }
            },
        ],
        "product": {"m": {"range": [2, 12, 2]}},
        "when": "m <= n / 4 + 4 and m >= n / 4 - 4",
    }
    change = {"sweep": sweep, "analysis": {"resamples": 200, "delta": 0.5}}
    return expreg.run(BASE, change, out=tmp_path_factory.mktemp("run") / "run")


def group_of(run, **key):
    [found] = [g for g in run.summary["groups"] if all(g["group"].get(k) == v for k, v in key.items())]
    return found


def test_half_of_the_fits_succeed_where_the_reference_has_it(run):
    """Referee's figures, made independently, d = 4: 4.9 neurons at n = 16 and 8.9 at n = 32; m d / n = 1.21, 1.11."""
    for row, reference in zip(group_of(run, **{"solver.tolerance": None})["capacity"], (4.9, 8.9), strict=True):
        assert row["m_low"] <= reference <= row["m_high"]
        assert row["m"] == pytest.approx(reference, rel=0.1)
        assert row["trained"] == pytest.approx(row["m"] * 4 / row["n"])
        assert row["parameters"] == pytest.approx(row["m"] * 6 / row["n"])
    cells = run.cells
    assert not cells[cells["m"] * (cells["d"] + 2) < cells["n"]]["fit"].any()
    assert cells[cells["m"] * cells["d"] >= 2 * cells["n"]]["fit"].all()


def test_gauss_newton_and_gradient_descent_agree(run):
    """At n = 8 gradient descent gets there: the same share of fits at every width, up to what 20 replicates resolve."""
    cells = run.cells[run.cells["n"] == 8]
    shares = cells.groupby(["solver", "m"])["fit"].mean().unstack("solver")
    assert len(shares) == 3
    spread = np.sqrt(2 * 0.25 / 20)
    assert (abs(shares["gauss_newton"] - shares["gd"]) < 2.6 * spread).all()
    assert (shares.loc[4:] == 1).all(axis=None)
    steps = cells[cells["m"] == 4].groupby("solver")["steps"].median()
    assert steps["gd"] > 20 * steps["gauss_newton"]


def test_the_page_shows_widths_beside_the_counts(run):
    page = (run.directory / "report.html").read_text()
    assert {"capacity.svg", "success.svg"} <= {f.name for f in (run.directory / "figures").iterdir()}
    assert "m* d / n" in page
    assert "No network with fewer than n parameters" in page
    assert "chain of the proof" not in page
    assert "consistent" in run.verdicts


# --- data that no network fits


def refusal(data, change=()):
    with pytest.raises(InputError) as told:
        api.plan(BASE | {"data": data, "sweep": {"product": {"m": [4]}}}, dict(change))
    [line] = told.value.lines()
    return line


def test_equal_points_with_different_labels_are_refused(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    X = sphere(np.random.default_rng(0), 5, 3)
    X[3] = X[1]
    y = np.array([1.0, 1.0, -1.0, -0.5, 1.0])
    np.savez("twice.npz", X=X, y=y)
    given = {"kind": "file", "path": "twice.npz", "allow_duplicates": True}
    line = refusal(given)
    assert "twice.npz: data: X[3] equals X[1], but their labels are -0.5 and 1" in line
    assert f"below {1.5 / np.sqrt(2):.3g}" in line
    text = "experiment: capacity\nname: twice\ndata: {kind: file, path: twice.npz, allow_duplicates: true}\n"
    (tmp_path / "twice.yaml").write_text(text + "network: {m: 4}\n")
    code, _, errors = command("run", "twice.yaml")
    assert code == 2
    assert "X[3] equals X[1]" in errors
    assert not (tmp_path / "runs").exists()
    np.savez("twice.npz", X=X, y=np.where(np.arange(5) == 3, y[1], y))
    assert api.plan(BASE | {"data": given, "sweep": {"product": {"m": [4]}}})["cells"] == 1


@pytest.mark.parametrize(("activation", "sign"), [("cosh", 1.0), ("sinh", -1.0)])
def test_opposite_points_count_where_the_activation_has_a_parity(activation, sign, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X = sphere(np.random.default_rng(0), 4, 3)
    X[2] = -X[0]
    given = {"kind": "file", "path": "opposite.npz", "allow_duplicates": True}
    np.savez("opposite.npz", X=X, y=np.array([1.0, 1.0, -sign, 1.0]))
    assert "X[2] equals -X[0]" in refusal(given, {"network.activation": activation})
    np.savez("opposite.npz", X=X, y=np.array([1.0, 1.0, sign, 1.0]))
    for name in (activation, "exp"):
        config = BASE | {"data": given, "sweep": {"product": {"m": [4]}}}
        assert api.plan(config, {"network.activation": name})["cells"] == 1


def test_drawn_points_that_coincide_are_refused_for_the_replicates_that_have_them():
    line = refusal({"kind": "sphere", "n": 3, "d": 1, "allow_duplicates": True})
    assert "replicate 0" in line
