"""From settings to the inputs of a run and from its record to a row."""

import itertools
from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pandas as pd
import pytest

from expreg import api, ntk, theory
from expreg.core import config as plan
from expreg.kinds import EXPERIMENTS
from expreg.kinds.network import descent, kernel, native, start, training
from expreg.kinds.network.events import EVENTS, at_start
from expreg.types import Status

THRESHOLD = EXPERIMENTS["threshold"]


def resolved(**change):
    """Return the settings of the one cell of a config, as a sweep hands them over; `change` by dotted path."""
    given = {"experiment": "threshold", "name": "test", "data": {"n": 4, "d": 5}, "network": {"m": 32}}
    config = api.load_config(given, {key.replace("__", "."): value for key, value in change.items()})
    [(settings, _)] = plan.cells(config)
    return settings


@cache
def compiled(signature):
    program = THRESHOLD.build(signature)
    return jax.jit(lambda i: program.record(jax.lax.while_loop(program.running, program.advance, program.init(i))))


def row_of(settings, **signature):
    """Return the row of one cell, alone; `signature` replaces what would be static in it."""
    run = compiled(training.signature(settings)._replace(**signature))
    return training.row(settings, jax.tree.map(np.asarray, run(training.prepare(settings))))


def record_of(settings, **change):
    """Return what a run of n points could leave, with some values put in."""
    n, points = settings["data"]["n"], settings["training"]["curve"]["points"]
    record = {
        "steps": 3, "status": Status.converged, "eta": 0.01, "eta_scaled": 0.1, "max_steps": 50,
        "lambda_0": 6.0, "lambda_max_0": 10.0, "frobenius_error": 0.5, "spectral_error": 0.4,
        "initial_residual": np.ones(n), "residual_final": 0.01, "max_movement": 0.1, "lambda_min_path": 5.0,
        "curve_step": np.arange(points), "curve_residual": np.ones(points), "curve_length": 4,
        "E2_step": -1, "E3_step": -1, "E4_step": -1, "rate_margin": 0.5, "radius": 0.2, "largest": 2.0,
        "certified": False, "certificate_margin": 0.3,
        "eta_certified": 0.0, "refined_movement": np.nan, "movement_linearised": 0.09,
    } | change  # fmt: skip
    return {name: np.asarray(value) for name, value in record.items()}


# --- draws


def test_points_labels_and_neurons_are_drawn_independently():
    """(A.14): no draw is another one in disguise; a shared seed once made the first neurons parallel to the data."""
    settings = resolved()
    draws = [THRESHOLD.inputs(settings | {"replicate": replicate}) for replicate in range(60)]
    inner = np.array([arrays["X"] @ arrays["W"][:, :16] for arrays in draws])
    y, a = (np.array([arrays[name][:16] for arrays in draws]) for name in "ya")
    first = np.array([arrays["X"][0] for arrays in draws])
    # <w_r, x_i> is N(0, 1) for independent draws, and each coordinate keeps its own neuron
    assert abs(inner.mean()) < 4 / np.sqrt(inner.size)
    assert abs(inner.var() - 1) < 4 * np.sqrt(2 / inner.size) * np.sqrt(4)
    assert abs(np.diagonal(inner, axis1=1, axis2=2)).max() < 5
    bound = 5 / np.sqrt(60)
    for one in (y, inner[:, 0, :4], first):
        for other in (a, inner[:, 1, 4:8]):
            correlation = np.corrcoef(one.T, other.T)[: one.shape[1], one.shape[1] :]
            assert np.abs(correlation).max() < bound


def test_no_two_draws_of_any_cells_share_a_key():
    cells = list(itertools.product((0, 1, 2**32 - 1), (np.arange(3),), (4, 5), (4, 5)))
    keys = np.concatenate([start._keys(*cell).reshape(-1, 2) for cell in cells])
    assert len(np.unique(keys, axis=0)) == len(keys) == 3 * 3 * len(cells)


def test_the_data_of_a_replicate_do_not_depend_on_who_asks_first():
    settings = resolved()
    first = start.problem(settings | {"replicate": 70})
    for cached in (start._kept, start._drawn):
        cached.cache_clear()
    start.problem(settings | {"replicate": 65})
    again = start.problem(settings | {"replicate": 70})
    assert again is not first
    np.testing.assert_array_equal(again.X, first.X)


@pytest.mark.parametrize("n", [5, 40])  # of 40 few spectra are computed together
@pytest.mark.parametrize("activation", ["exp", "relu"])
def test_replicates_computed_together_are_what_each_is_alone(n, activation):
    for replicate in (0, 9, 10, 255, 256):
        found = start.problem(resolved(data__n=n, network__activation=activation) | {"replicate": replicate})
        values, vectors = found.modes
        H = ntk.infinite(found.X, activation=activation)
        np.testing.assert_allclose(vectors * values @ vectors.T, H, atol=1e-12 * values[-1])
        np.testing.assert_allclose(values, np.linalg.eigvalsh(H), rtol=1e-10)
        error = ntk.expected_squared_error(found.X, 1, init="iid", activation=activation)
        alone = (np.linalg.norm(found.X, 2) ** 2, np.linalg.norm(found.X, axis=1).max(), error)
        assert (found.gram_norm, found.length, found.error) == pytest.approx(alone, rel=1e-12)


def test_a_replicate_whose_points_are_not_finite_leaves_the_others_as_they_are(monkeypatch):
    settings, drawn = resolved(data__n=6), start._drawn
    before = start.problem(settings | {"replicate": 1})

    def broken(*group):
        (X, *rest), *others = drawn(*group)
        return [(np.nan * X, *rest), *others]

    monkeypatch.setattr(start, "_drawn", broken)
    start._kept.cache_clear()
    after = start.problem(settings | {"replicate": 1})
    assert after is not before
    np.testing.assert_array_equal(after.modes.values, before.modes.values)
    with pytest.raises(np.linalg.LinAlgError):
        start.problem(settings)
    start._kept.cache_clear()


@pytest.mark.parametrize(
    ("n", "replicates", "kept"), [(8, 8192, True), (8, 8193, False), (256, 240, True), (256, 260, False)]
)
def test_problems_are_kept_for_all_lanes_as_far_as_their_memory_allows(n, replicates, kept, monkeypatch):
    computed, settings = [], resolved(data__n=n)
    monkeypatch.setattr(start, "_problems", lambda *key: computed.append(key) or list(key[-1]))
    start._kept.cache_clear()
    for _ in range(2):
        found = [start.problem(settings | {"replicate": one}) for one in range(replicates)]
    start._kept.cache_clear()
    assert found == list(range(replicates))
    assert (len(computed) == len(set(computed))) == kept


def test_replicates_seeds_and_sizes_have_draws_of_their_own_and_widths_share_them():
    base = resolved()
    others = [base | {"replicate": 1}, base | {"seed": 1}, base | {"replicate": 1, "seed": 1}]
    others += [resolved(data__n=5), resolved(data__d=6)]
    keys = [tuple(start.problem(settings).key) for settings in (base, *others)]
    assert len(set(keys)) == len(keys)
    wide = start.problem(resolved(network__m=256))
    assert wide is start.problem(base)
    assert tuple(start.problem(resolved(data__kind="orthonormal")).key) == keys[0]  # regimes are paired
    narrow, wider = (THRESHOLD.inputs(resolved(network__m=m)) for m in (32, 64))
    np.testing.assert_array_equal(narrow["W"][:, :16], wider["W"][:, :16])
    np.testing.assert_array_equal(narrow["X"], wider["X"])


@pytest.mark.parametrize("init", ["coupled", "iid"])
def test_a_run_starts_from_the_arrays_that_it_shows(init):
    settings = resolved(network__init=init, training__max_steps=1, precision="f64")
    arrays = THRESHOLD.inputs(settings)
    row = row_of(settings)
    spectrum = np.linalg.eigvalsh(ntk.empirical(arrays["W"], arrays["X"]))
    assert row["lambda_0"] == pytest.approx(spectrum[0], rel=1e-9)
    residual = np.exp(arrays["X"] @ arrays["W"]) @ arrays["a"] - arrays["y"]
    assert row["residual_initial"] == pytest.approx(np.linalg.norm(residual), rel=1e-9)
    assert arrays["W"].shape == (5, 32)
    assert {a.dtype for a in arrays.values()} == {np.dtype("float64")}


@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_small_steps_of_xla_are_taken_by_groups_in_which_no_cell_depends_on_the_others(precision, tmp_path):
    """Runs of different lengths, whatever shares their group, on one core or two: equal bits."""
    config = {
        "experiment": "threshold",
        "name": "groups",
        "precision": precision,
        "data": {"n": 4, "d": 4},
        "network": {"m": 16},
        "training": {"optimizer": {"name": "adam"}, "step_size": {"rule": "fixed", "value": 0.02}, "tolerance": 0.1},
        "sweep": {"product": {"training.max_steps": [30, 3000], "replicate": {"count": 9}}},
    }
    whole = api.run(config, out=tmp_path / "whole", draw=False).cells
    assert whole["steps"].nunique() > 5
    assert whole["status"].nunique() > 1
    few = {"sweep.product.replicate.count": 3}
    for name, change in {"one": {"execution.devices": 1}, "lanes": {"execution.lanes": 3}, "few": few}.items():
        found = api.run(config, overrides=change, out=tmp_path / name, draw=False).cells
        expected = whole[whole["cell"].isin(found["cell"])].reset_index(drop=True)
        pd.testing.assert_frame_equal(found.drop(columns="seconds"), expected.drop(columns="seconds"), check_exact=True)


# --- programs and inputs


@pytest.mark.parametrize(
    ("n", "d", "optimizer", "form"),
    [(4, 5, "sgd", "gram"), (4, 2, "momentum", "gram"), (5, 2, "sgd", "weight"), (4, 5, "adam", "weight")],
)
def test_gram_space_is_used_where_it_is_exact_and_cheaper(n, d, optimizer, form):
    signature = training.signature(resolved(data__n=n, data__d=d, training__optimizer__name=optimizer))
    assert signature.form == form


def test_where_a_kernel_takes_the_steps_they_are_in_gram_space(monkeypatch):
    """It knows no other form, and is faster than XLA although that takes fewer flops in weight space."""
    monkeypatch.setattr(native, "covers", lambda _: False)
    monkeypatch.setattr(kernel, "_capability", lambda: "9.0")
    for missing, n, optimizer, form in (
        ("", 32, "sgd", "gram"),
        ("", 32, "adam", "weight"),
        ("", 32, "momentum", "weight"),
        ("", 80, "sgd", "weight"),
        ("no GPU", 32, "sgd", "weight"),
    ):
        monkeypatch.setattr(kernel, "missing", lambda missing=missing: missing)
        signature = training.signature(resolved(data__n=n, data__d=8, training__optimizer__name=optimizer))
        assert signature.form == form


@pytest.mark.parametrize(("n", "d"), [(4, 5), (7, 3)])
def test_both_forms_give_the_same_row(n, d):
    settings = resolved(data__n=n, data__d=d, precision="f64", training__tolerance=1e-6)
    gram, weight = row_of(settings), row_of(settings, form="weight")
    for name, value in gram.items():
        if isinstance(value, (float, np.ndarray)):
            np.testing.assert_allclose(weight[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
    assert gram["steps"] == weight["steps"]


@pytest.mark.skipif(bool(native.missing()), reason="there are no compiled steps")
def test_compiled_steps_serve_many_widths_with_one_program():
    """They never step through padding."""
    assert {columns(m) for m in (2, 64, 1000, 1024)} == {512}
    assert {columns(m, n=64) for m in (2, 1024)} == {512}
    assert {columns(m) for m in (1026, 4096)} == {2048}
    assert [columns(m) for m in (16384, 16386, 400_000)] == [8192, 32768, 262_144]
    assert columns(3, network__init="iid") == 1024
    assert [columns(2, n=n) for n in (128, 512, 32768, 65536)] == [512, 128, 2, 2]


def test_programs_of_xla_are_at_most_twice_as_wide_as_their_networks_or_small():
    adam = {"training__optimizer": {"name": "adam"}}
    assert {columns(m, **adam) for m in (2, 64)} == {32}
    assert {columns(m, **adam) for m in (258, 512)} == {256}
    assert columns(2, n=1, **adam) == 256
    assert columns(4, n=32768, **adam) == 2
    assert columns(3, network__init="iid", network__activation="cosh") == 64


def columns(m, n=8, **change):
    return training.signature(resolved(network__m=m, data__n=n, **change)).neurons


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("rule", ["spectral", "spectral_cts", "theory", "fixed"])
def test_step_rules(rule, scale):
    """A.7: eta = eta_scaled / (kappa^2 m); the rules of experiments.md 2."""
    size = {"factor": 0.5} if rule != "fixed" else {"value": 1e-3}
    change = {f"training__step_size__{key}": value for key, value in {"rule": rule, **size}.items()}
    settings = resolved(network__scale=scale, training__max_steps=1, precision="f64", **change)
    found = start.problem(settings)
    row = row_of(settings)
    least, top = found.extremes
    expected = {
        "spectral": 0.5 / (32 * scale**2 * max(top, row["lambda_max_0"])),
        "spectral_cts": 0.5 / (32 * scale**2 * top),
        "theory": 0.5 * theory.step_size(4, 32, training.THEORY_DELTA, least) / scale**2,
        "fixed": 1e-3,
    }[rule]
    assert row["eta"] == pytest.approx(expected, rel=1e-12)
    assert row["eta_scaled"] == pytest.approx(row["eta"] * scale**2 * 32, rel=1e-12)


@pytest.mark.parametrize("relative", [True, False])
def test_a_relative_tolerance_counts_in_labels(relative):
    settings = resolved(training__relative=relative, training__tolerance=0.1, precision="f64")
    row = row_of(settings)
    expected = 0.1 * (2.0 if relative else 1.0)  # four labels +-1
    assert row["tolerance"] == pytest.approx(expected)
    assert row["label_norm"] == pytest.approx(2.0)
    assert row["status"] == "converged"
    assert expected * 0.3 < row["residual_final"] <= expected


@pytest.mark.parametrize("flow_time", [0.5, 2.0])
def test_the_budget_in_flow_time_is_that_of_the_linear_rate(flow_time):
    """(C.17) times the flow time, with lambda of H^cts and the step size of the cell (experiments.md 2)."""
    settings = resolved(training__max_steps={"flow_time": flow_time, "at_most": 1000}, precision="f64")
    row = row_of(settings)
    begin = (row["eta"], row["lambda_cts"], row["residual_initial"], row["tolerance"])
    steps = np.log(begin[2] / begin[3]) * 2 * flow_time / (32 * begin[0] * begin[1])
    assert row["max_steps"] == np.ceil(steps)
    assert theory.iterations(32, *begin) == np.ceil(2 * steps / flow_time)
    assert row["lambda_cts"] == pytest.approx(ntk.spectrum(ntk.infinite(start.problem(settings).X))[0])
    capped = resolved(training__max_steps={"flow_time": flow_time, "at_most": 3}, precision="f64")
    assert row_of(capped)["max_steps"] == 3


# --- rows


@pytest.mark.parametrize(("name", "precision"), [("threshold", "f32"), ("threshold", "f64"), ("concentration", "f32")])
def test_a_row_has_exactly_the_declared_columns_of_the_declared_types(name, precision):
    experiment = EXPERIMENTS[name]
    settings = resolved(experiment=name, precision=precision, data__labels__kind="sign")
    settings |= {"measure": [event for event in EVENTS if name == "threshold" or event in at_start()]}
    program = experiment.build(experiment.signature(settings))
    record = jax.device_get(jax.jit(lambda given: program.record(program.init(given)))(experiment.prepare(settings)))
    record |= {"status": np.int32(Status.max_steps)} if "status" in record else {}
    row = experiment.row(settings, record)
    declared = {column.name: column.type for column in experiment.columns()}
    assert len(declared) == len(experiment.columns())
    found = {key for key in row if not key.startswith("curve_")} - {"status", "status_detail", "steps"}
    assert found == set(declared)
    curves = {f"curve_{column.name}" for column in experiment.curves()}
    assert {key for key in row if key.startswith("curve_")} == curves
    kinds = {"string": str, "bool": bool, "int64": int, "float64": float}
    assert not {key: row[key] for key in found if row[key] is not None and type(row[key]) is not kinds[declared[key]]}
    assert all(column.meaning for column in (*experiment.columns(), *experiment.curves()))


def test_the_curve_ends_where_the_run_ended():
    settings = resolved(training__tolerance=1e-3, training__curve__points=5)
    row = row_of(settings)
    assert row["curve_step"][0] == 0
    assert row["curve_step"][-1] == row["steps"]
    assert row["curve_residual"][-1] == row["residual_final"]
    assert row["curve_residual"][0] == pytest.approx(row["residual_initial"], rel=1e-6)
    kept = training.row(settings, record_of(settings, steps=2, curve_length=3))
    assert list(kept["curve_step"]) == [0, 1, 2]  # nothing is appended where the last step is on the curve


def test_only_what_was_measured_is_in_a_row():
    settings = resolved(measure=["E0", "E4"])
    row = training.row(settings, record_of(settings))
    assert "E5" not in row
    assert row["lambda_min_path"] is None
    assert training.row(resolved(), record_of(settings))["lambda_min_path"] == 5.0


@pytest.mark.parametrize(
    ("optimizer", "schedule"), [("momentum", None), ("adam", None), ("sgd", {"name": "cosine_decay", "decay_steps": 9})]
)
def test_what_the_theory_says_of_gradient_descent_is_not_said_of_other_training(optimizer, schedule):
    settings = resolved(training__optimizer__name=optimizer, training__step_size__schedule=schedule)
    row = training.row(settings, record_of(settings))
    assert row["curve_linearised"] is None
    assert row["steps_linearised"] is None
    assert row["E0"] is row["E4"] is row["E0_step"] is row["E4_step"] is None
    assert None not in (row["E1"], row["E1m"], row["E3"], row["E5"])


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_events_at_the_start_below_at_and_above_their_thresholds(kind):
    settings = resolved(precision=kind)
    lam = start.problem(settings).extremes[0]
    slack = {"f32": 1e-3, "f64": 1e-9}[kind]
    for event, column, threshold, direction in [
        ("E1", "frobenius_error", lam / 4, 1),
        ("E1s", "spectral_error", lam / 4, 1),
        ("E1m", "lambda_0", 3 * lam / 4, -1),
    ]:
        for share, holds in ((0.9, True), (1.0, True), (1 + 0.9 * slack, True), (1 + 1.1 * slack, False), (1.1, False)):
            value = threshold * (1 + direction * (share - 1))
            row = training.row(settings, record_of(settings, **{column: value}))
            assert row[event] == holds, (event, share)
            assert row[f"{event}_step"] == (None if holds else 0)


def test_the_edge_of_stability_is_on_one_side_whatever_the_rounding():
    settings = resolved()
    for top in np.random.default_rng(0).uniform(1, 100, 200).astype(np.float32):
        step = np.float32(2) / top
        for factor, holds in ((1, False), (0.9999, True), (1.0001, False)):
            row = training.row(settings, record_of(settings, eta_scaled=np.float32(factor) * step, lambda_max_0=top))
            assert row["E0"] == holds


def test_first_violations_are_steps_or_nothing():
    settings = resolved()
    row = training.row(settings, record_of(settings, E3_step=32, E4_step=0, status=Status.max_steps, steps=50))
    assert [(row[name], row[f"{name}_step"]) for name in ("E3", "E4", "E5")] == [(False, 32), (False, 0), (False, 50)]
    row = training.row(settings, record_of(settings))
    assert (row["E3"], row["E4"], row["E5"]) == (True, True, True)
    assert row["E3_step"] is row["E4_step"] is row["E5_step"] is None


@pytest.mark.parametrize(("kind", "angle", "known"), [("f32", 1e-3, False), ("f64", 1e-3, True), ("f32", 0.3, True)])
def test_what_rounding_decides_is_not_reported(kind, angle, known):
    """Near duplicates: lambda ~ angle^2. In float32 lambda_min(H) is known to 1e-7 lambda_max only (H.7)."""
    settings = resolved(precision=kind, data__kind="near_duplicate", data__angle=angle)
    row = training.row(settings, record_of(settings))
    for event in ("E1m", "E3"):
        assert (row[event] is not None) == known
        assert (row[f"{event}_step"] is None) or known
    assert None not in (row["E0"], row["E1"], row["E4"], row["E5"])


def test_statuses_come_with_what_to_do():
    settings, words = resolved(), {"converged": "", "diverged": "step 7", "nonfinite": "smaller step_size.factor"}
    for status, expected in {**words, "max_steps": "budget of 7 steps"}.items():
        row = training.row(settings, record_of(settings, status=Status[status], steps=7))
        assert expected in row["status_detail"]
        assert bool(row["status_detail"]) == (status != "converged")


def test_near_singular_data_train_to_the_end_of_the_budget_and_not_to_one_step():
    """lambda < 0 by rounding once made the budget negative, and then 1."""
    change = {"data__kind": "near_duplicate", "data__angle": 1e-9, "data__allow_duplicates": True}
    settings = resolved(training__max_steps={"flow_time": 2.0, "at_most": 77}, **change)
    settings["data"]["labels"] = {"kind": "sign"}
    rows = [row_of({**settings, "replicate": r}) for r in range(8)]
    lams = [row["lambda_cts"] for row in rows]
    assert min(lams) < 1e-12
    assert {row["steps"] for row in rows if row["status"] == "max_steps"} == {77}
    assert all(row["max_steps"] == 77 for row in rows)
    assert all(row["E1m"] is None for row in rows)


def test_the_labels_may_be_tiny():
    """Residuals of 1e-25 square to 0 in float32; such a run must not count as converged at its start."""
    settings = resolved(training__relative=True, training__tolerance=1e-2, training__max_steps=50)
    problem = start.problem(settings)
    tiny = problem._replace(y=problem.y * 1e-25, label_norm=problem.label_norm * 1e-25)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(start, "problem", lambda settings: tiny)
        row = row_of(settings)
    assert row["residual_initial"] == pytest.approx(2e-25, rel=1e-5)
    assert row["steps"] > 3


# --- cost


def test_the_cost_counts_products_and_the_expected_steps():
    narrow, wide = (THRESHOLD.cost(resolved(network__m=m)) for m in (64, 8192))
    signature = training.signature(resolved(network__m=8192))
    elements = 4 * signature.neurons * 2
    assert wide.flops_per_step == elements * (2 * 4 + descent.EXPONENTIAL_FLOPS)
    assert wide.flops_per_step > narrow.flops_per_step
    assert wide.steps == narrow.steps > 1
    state = jax.eval_shape(THRESHOLD.build(signature).init, THRESHOLD.prepare(resolved(network__m=8192)))
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert held < wide.bytes < 4 * held  # what a step needs in between counts too


def test_both_names_are_the_same_computation():
    assert replace(THRESHOLD, name="") == replace(EXPERIMENTS["convergence"], name="")
