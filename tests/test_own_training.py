"""Training of one's own: the same numbers as a plain loop, resumed, ended early, from Python and from YAML."""

import json
import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from flax import nnx

import expreg
from expreg.core.engine.devices import idle_cores, numerics
from expreg.core.engine.packing import packed
from expreg.core.engine.programs import slice_of_lanes
from expreg.core.page import words
from expreg.core.store.table import read_events
from expreg.errors import InputError, StorageError
from expreg.kinds import EXPERIMENTS
from expreg.kinds import own as own_kind
from expreg.kinds.own import page, program, trace

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(20, 5)).astype(np.float32), RNG.normal(size=(20,)).astype(np.float32)
STEPS = 40


@pytest.fixture(autouse=True)
def registered():
    """Forget the trainings of a test."""
    before = dict(EXPERIMENTS)
    yield
    EXPERIMENTS.clear()
    EXPERIMENTS.update(before)


def init(key, *, width=4):
    one, two = jax.random.split(key)
    params = {"W": jax.random.normal(one, (5, width)), "a": jax.random.normal(two, (width,)) / width}
    return params, optax.adam(0.0).init(params)


def loss(params):
    return ((jnp.tanh(X @ params["W"]) @ params["a"] - Y) ** 2).mean()


def step(state, *, lr=0.01):
    params, moments = state
    value, gradient = jax.value_and_grad(loss)(params)
    updates, moments = optax.adam(lr).update(gradient, moments)
    return (optax.apply_updates(params, updates), moments), {"loss": value}


def ending(state, *, lr):
    """Take the same step, until the loss is small."""
    state, found = step(state, lr=lr)
    return state, {**found, "done": found["loss"] < 0.7}


MLP = expreg.Training("mlp", init, step, steps=STEPS)


def sweep(training, axes, place, **options):
    return expreg.sweep(training, axes, out=place, draw=False, **options)


def looped(training, lr, replicate, seed=0, **options):
    """Return the metrics of every step of one run: a Python loop of jitted steps, with the types JAX has by default."""
    with jax.enable_x64(False):
        state = jax.jit(lambda key: training.init(key, **options))(jax.random.fold_in(jax.random.key(seed), replicate))
        advance = jax.jit(lambda state, lr: training.step(state, lr=lr))
        found = []
        for _ in range(STEPS):
            state, metrics = advance(state, np.float32(lr))
            found.append(float(metrics["loss"]))
    return np.array(found)


def compilations(place):
    return json.loads((place / "manifest.json").read_text())["compilations"]


def test_the_metrics_are_those_of_a_plain_loop(tmp_path):
    """Up to rounding: a longer program orders sums differently, and 40 steps multiply that less than 100 times."""
    run = sweep(MLP, {"lr": [0.003, 0.03], "width": [4, 8], "seed": 3}, tmp_path / "run")
    assert len(run.cells) == 12
    for cell in run.cells.itertuples():
        expected = looped(MLP, cell.lr, cell.replicate, width=cell.width)
        curve = run.curves[run.curves["cell"] == cell.cell]
        assert curve["loss"].to_numpy() == pytest.approx(expected[curve["step"].to_numpy() - 1], rel=1e-5)
        assert cell.loss == curve["loss"].iloc[-1] == pytest.approx(expected[-1], rel=1e-5)
        assert (cell.status, cell.steps) == ("max_steps", STEPS)
    assert set(run.curves.dropna(axis=1, how="all")) == {"cell", "step", "loss"}
    # a program for each width, whatever else is swept
    assert len(compilations(tmp_path / "run")) == 2
    assert not np.isclose(*run.cells.query("lr == 0.03 and width == 4 and replicate < 2")["loss"])


def test_the_arrays_behind_a_cell_are_those_of_init(tmp_path):
    run = sweep(MLP, {"lr": [0.01], "width": 3, "seed": 2}, tmp_path / "run")
    cell = run.cells.query("replicate == 1")["cell"].item()
    with jax.enable_x64(False):
        params, _ = init(jax.random.fold_in(jax.random.key(0), 1), width=3)
    assert np.array_equal(run.inputs(cell)["[0]['W']"], params["W"])


def test_results_are_resumed_by_content(tmp_path):
    place = tmp_path / "run"
    first = sweep(MLP, {"lr": [0.01, 0.02], "seed": 2}, place)
    again = sweep(MLP, {"lr": [0.02, 0.01], "seed": 2}, place)
    assert again.cells.equals(first.cells)
    assert len(list((place / "parts").iterdir())) == 1
    more = sweep(MLP, {"lr": [0.01, 0.02], "seed": 3}, place)
    assert len(more.cells) == 6
    assert json.loads((place / "manifest.json").read_text())["cells"] == 2
    old = more.cells[more.cells["replicate"] < 2].reset_index(drop=True)
    assert old["loss"].equals(first.cells["loss"])


def test_changed_functions_are_warned_of(tmp_path):
    sweep(MLP, {"lr": [0.01]}, tmp_path / "run")
    other = expreg.Training("mlp", init, lambda state, *, lr=0.01: step(state, lr=2 * lr), steps=STEPS)
    with pytest.warns(UserWarning, match="the functions of mlp have changed since the run"):
        again = sweep(other, {"lr": [0.01]}, tmp_path / "run")
    assert len(again.cells) == 1


def test_the_length_of_a_run_is_part_of_what_a_cell_is(tmp_path):
    first = sweep(MLP, {}, tmp_path / "run")
    longer = expreg.Training("mlp", init, step, steps=STEPS + 1)
    with pytest.raises(StorageError, match="training.steps 40 -> 41"):
        sweep(longer, {}, tmp_path / "run")
    assert sweep(longer, {}, tmp_path / "other").cells["cell"][0] != first.cells["cell"][0]


def decay(state, *, rate=0.5, bad=-1):
    x = state["x"] * rate
    x = jnp.where(state["t"] == bad, jnp.nan, x)
    return {"x": x, "t": state["t"] + 1}, {"x": x, "done": x < 1e-2}


DECAY = expreg.Training("decay", lambda key: {"x": 1.0, "t": 0}, decay, steps=50, points=50, spacing="regular")


def test_a_run_ends_where_it_is_done_or_not_finite_and_disturbs_no_other(tmp_path):
    run = sweep(DECAY, {"rate": [0.5, 0.9, 0.99], "bad": [-1, 3]}, tmp_path / "run", overrides={"execution.lanes": 4})
    found = run.cells.set_index(["rate", "bad"])[["status", "steps"]].apply(tuple, axis=1).to_dict()
    # the first k with rate^k < 0.01
    done = {rate: int(np.ceil(np.log(1e-2) / np.log(rate))) for rate in (0.5, 0.9)}
    assert {rate: found[rate, -1] for rate in done} == {rate: ("converged", k) for rate, k in done.items()}
    assert found[0.99, -1] == ("max_steps", 50)
    assert {found[rate, 3] for rate in (0.5, 0.9, 0.99)} == {("nonfinite", 4)}
    alone = sweep(DECAY, {"rate": [0.5, 0.9, 0.99]}, tmp_path / "alone")
    whole = run.cells[run.cells["bad"] == -1].sort_values("cell").reset_index(drop=True)
    assert whole["x"].equals(alone.cells["x"])  # bit for bit
    assert whole["cell"].equals(alone.cells["cell"])
    assert len(compilations(tmp_path / "run")) == 1  # a whole number is an input too
    [lost] = run.cells.query("rate == 0.5 and bad == 3")["cell"]
    curve = run.curves[run.curves["cell"] == lost]
    assert curve["x"].to_numpy(float, na_value=np.nan) == pytest.approx([0.5, 0.25, 0.125, np.nan], nan_ok=True)


def test_record_is_called_at_the_points_of_the_curve_and_where_a_run_ends(tmp_path):
    calls = []

    def record(state):
        jax.debug.callback(lambda t: calls.append(int(t)), state["t"])
        return {"square": state["x"] ** 2, "done": state["t"] >= 17}

    training = expreg.Training(
        "few", DECAY.init, lambda s: decay(s, rate=0.9)[0], record, steps=30, points=4, spacing="regular"
    )
    run = sweep(training, {}, tmp_path / "run")
    assert run.curves["step"].tolist() == [8, 15, 23]
    assert run.curves["square"].to_numpy() == pytest.approx(0.81 ** np.array([8, 15, 23]), rel=1e-5)
    assert run.cells[["status", "steps"]].to_numpy().tolist() == [["converged", 23]]
    assert sorted(set(calls)) == [8, 15, 23]


def test_lanes_that_are_vmapped_as_on_accelerators_give_the_same():
    def noisy(state, *, lr=0.1):
        key, draw = jax.random.split(state["key"])
        x = state["x"] - lr * (state["x"] + jax.random.normal(draw, (3,)))
        return {"x": x, "key": key}, {"loss": (x**2).sum(), "done": x[0] > 1}

    training = expreg.Training("noisy", lambda key: {"x": jnp.zeros(3), "key": key}, noisy, steps=30, points=5)
    names = {"experiment": "noisy", "seed": 0, "precision": "f32", "parameters": {"lr": 0.3}}
    length = {"steps": 30, "curve": {"points": 5, "spacing": "logarithmic"}}
    cells = [{**names, "replicate": replicate, "training": length} for replicate in range(6)]
    with numerics():
        static = program.signature(training, cells[0])
        inputs = jax.tree.map(lambda *leaves: np.stack(leaves), *[program.prepare(training, cell) for cell in cells])
        lane, given, kept = packed(program.build(training, static), program.prepare(training, cells[0]))
        fed = given.pack(jax.tree.map(jnp.asarray, inputs))
        idle = jax.tree.map(
            lambda leaf: jnp.zeros((6, *leaf.shape), leaf.dtype),
            jax.eval_shape(lane.init, given.pack(program.prepare(training, cells[0]))),
        )
        given = idle, np.ones(6, bool), fed, np.int32(99)
        of = [jax.jit(partial(slice_of_lanes, lane, batch, batch))(*given) for batch in (None, 6)]
        (_, going, alone), (_, _, together) = of
    alone, together = kept.unpack(jax.device_get(alone)), kept.unpack(jax.device_get(together))
    assert not going.any()
    assert len(set(alone["steps"].tolist())) > 1
    for name, values in alone.items():
        assert together[name] == pytest.approx(values, rel=1e-5), name


def test_small_steps_are_taken_by_groups_in_which_no_lane_depends_on_the_others(tmp_path):
    """Runs of different lengths, whatever shares their group, on one core or two, whole or resumed: equal bits."""
    training = expreg.Training("ends", init, ending, steps=STEPS)
    axes = {"lr": [0.003, 0.03, 0.1], "seed": 8}
    run = sweep(training, axes, tmp_path / "run")
    assert run.cells["steps"].nunique() > 3
    for place, options in {"one": {"execution.devices": 1}, "few": {"execution.lanes": 3}}.items():
        other = sweep(training, axes, tmp_path / place, overrides=options)
        pd.testing.assert_frame_equal(other.cells.drop(columns="seconds"), run.cells.drop(columns="seconds"))
        [of] = compilations(tmp_path / place)
        assert of["lanes"] % program.GROUP == 0
    sweep(training, {**axes, "lr": [0.03]}, tmp_path / "halves")
    again = sweep(training, axes, tmp_path / "halves")
    pd.testing.assert_frame_equal(again.cells.drop(columns="seconds"), run.cells.drop(columns="seconds"))


def test_large_steps_branches_and_callbacks_are_taken_one_by_one():
    def group(step, size=3):
        training = expreg.Training("one", lambda key: jax.random.normal(key, (size, size)), step, steps=2)
        return program._of_a_step(training, program.Signature("one", (), (), "f32", 2))[2]

    def branching(x):
        return jax.jit(lambda x: jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x))(x), {"loss": x.sum()}

    def calling(x):
        jax.debug.callback(print, x[0, 0])
        return x, {"loss": x.sum()}

    assert group(lambda x: (x @ x, {"loss": x.sum()})) == program.GROUP
    assert group(lambda x: (x @ x, {"loss": x.sum()}), size=100) == 1
    assert group(branching) == group(calling) == 1


@pytest.mark.parametrize("spacing", ["regular", "logarithmic"])
@pytest.mark.parametrize(("steps", "points"), [(1, 2), (7, 48), (48, 48), (10**6, 48), (100, 3)])
def test_kept_steps_increase_up_to_the_last(steps, points, spacing):
    found = program.kept(steps, points, spacing)
    assert found[0] >= 1
    assert found[-1] == steps
    assert (np.diff(found[found < steps]) > 0).all()
    assert len(found) == points


@pytest.mark.parametrize(("precision", "real", "whole"), [("f32", "float32", "int32"), ("f64", "float64", "int64")])
def test_the_functions_see_the_default_types_of_jax(precision, real, whole, tmp_path):
    seen = {}

    def begin(key, *, scale=1.0, k=2):
        found = {"x": jax.random.normal(key, (3,)) * scale, "n": jnp.arange(3) * k, "p": 1.5, "key": key}
        seen.update(init=[jnp.asarray(leaf).dtype for leaf in (found["x"], found["n"], scale, k)])
        return found

    def move(state, *, scale=1.0):
        seen["step"] = [state["x"].dtype, jnp.zeros(2).dtype, jnp.asarray(state["p"] * 2).dtype]
        key, draw = jax.random.split(state["key"])
        return {**state, "x": state["x"] + jax.random.normal(draw, (3,)), "key": key}

    def look(state):
        seen["record"] = [jnp.linspace(0, 1, 3).dtype]
        return {"sum": state["x"].sum(), "whole": state["n"].sum(), "big": state["x"][0] > 0}

    run = sweep(expreg.Training("types", begin, move, look, steps=3), {"seed": 2}, tmp_path / "r", precision=precision)
    assert list(map(str, seen["init"])) == [real, whole, real, whole]
    assert {*map(str, seen["step"]), *map(str, seen["record"])} == {real}
    assert run.cells["whole"].tolist() == [6, 6]
    assert run.cells.dtypes[["sum", "whole", "big"]].astype(str).tolist() == ["float64", "int64", "boolean"]
    with jax.enable_x64(precision == "f64"):
        state = begin(jax.random.fold_in(jax.random.key(0), 1))
        for _ in range(3):
            state = move(state)
    assert run.cells.query("replicate == 1")["sum"].item() == pytest.approx(float(state["x"].sum()), rel=1e-6)


def classifier(key, *, width=8, activation="relu"):
    rngs = nnx.Rngs(key)
    layers = nnx.Linear(5, width, rngs=rngs), getattr(nnx, activation), nnx.Dropout(0.2, rngs=rngs)
    return nnx.split(nnx.Sequential(*layers, nnx.Linear(width, 1, rngs=rngs)))


def classify(state, *, lr=0.1):
    model = nnx.merge(*state)
    value, gradient = nnx.value_and_grad(lambda model: ((model(X)[:, 0] - Y) ** 2).mean())(model)
    nnx.update(model, jax.tree.map(lambda p, g: p - lr * g, nnx.state(model, nnx.Param), gradient))
    return nnx.split(model), {"loss": value}


def test_a_module_of_flax_is_split_into_the_state(tmp_path):
    training = expreg.Training("nnx", classifier, classify, steps=STEPS)
    run = sweep(training, {"activation": ["relu", "tanh"], "seed": 2}, tmp_path / "run")
    for cell in run.cells.itertuples():
        expected = looped(training, 0.1, cell.replicate, activation=cell.activation)
        assert cell.loss == pytest.approx(expected[-1], rel=1e-4)
    assert run.cells["activation"].tolist().count("tanh") == 2


def test_static_parameters_are_those_that_cannot_be_traced():
    def begin(key, *, width, depth=2, rate=0.1, flag=True, label="a", count=3, **_):
        for _ in range(depth):
            key = jax.random.fold_in(key, count)
        return jax.random.normal(key, (width,)) * rate

    training = expreg.Training("s", begin, lambda x, *, lr: (x * lr, {"sum": x.sum()}), steps=2)
    values = {"width": 3, "depth": 2, "rate": 0.1, "flag": True, "label": "a", "count": 3, "lr": 0.5}
    assert set(trace.static(training, values, "f32")) == {"width", "depth", "flag", "label"}
    declared = expreg.Training("s", begin, training.step, steps=2, static=["rate"])
    assert set(trace.static(declared, values, "f32")) == {"width", "depth", "flag", "label", "rate"}


def test_a_number_that_is_static_without_need_is_named_once_with_its_line_and_its_programs(tmp_path):
    def branching(x, *, rate=0.1, power=2.0, width=4, count=2):
        x = x * rate if rate > 0.2 else x / (1 + rate)
        x = x + jnp.ones(width).sum() * float(np.sqrt(power))
        return x + 1 if count > 2 else x, {"loss": x}

    line = branching.__code__.co_firstlineno
    training = expreg.Training("branching", lambda key: 1.0, branching, steps=2)
    axes = {"rate": [0.1, 0.3, 0.5], "power": 4.0, "width": [2, 4], "count": [1, 5]}
    with pytest.warns(UserWarning, match="compiles a program of its own") as caught:
        run = sweep(training, axes, tmp_path / "run")
    words = sorted(str(warning.message).split("; ")[0] for warning in caught)
    place = f"compiles a program of its own: see {os.path.basename(__file__)}"
    assert words == [
        f"branching: each value of count (2 here) {place}:{line + 3}, in branching",
        f"branching: each value of rate (3 here) {place}:{line + 1}, in branching",
    ]
    assert len(compilations(tmp_path / "run")) == len(run.cells) == 12
    declared = expreg.Training("branching", lambda key: 1.0, branching, steps=2, static=["rate", "count"])
    sweep(declared, axes, tmp_path / "declared")  # warnings are errors


def test_a_cell_that_is_too_large_is_named_by_its_parameters(tmp_path):
    begin = lambda key, *, width: jnp.zeros(width)  # noqa: E731
    training = expreg.Training("wide", begin, lambda x, *, rate=0.5: (x * rate, {"loss": x.sum()}), steps=2)
    with pytest.raises(InputError, match=r"E-MEM\] cell width=274877906944 rate=0\.5: needs"):
        sweep(training, {"width": [4, 2**38]}, tmp_path / "run")


def test_seeds_are_replicates_or_seeds(tmp_path):
    run = sweep(MLP, {"seed": [5, 6]}, tmp_path / "run")
    assert run.cells[["seed", "replicate"]].sort_values("seed").to_numpy().tolist() == [[5, 0], [6, 0]]
    assert run.cells.query("seed == 6")["loss"].item() == pytest.approx(looped(MLP, 0.01, 0, seed=6)[-1], rel=1e-5)


def test_yaml_gives_the_rows_that_python_gives_and_results_need_no_code(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("expreg.core.page.page.write", lambda *_: None)
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "mine.yaml").write_text(YAML)
    assert command("--import", "mine.py", "run", "mine.yaml", "--out", "yaml")[0] == 0
    axes = {"rate": [0.5, 0.9], "power": 2, "seed": 2}
    python = sweep(sys.modules.pop("mine").TRAINING, axes, "python")
    one, other = (expreg.load(place).cells.drop(columns="seconds") for place in ("yaml", "python"))
    assert one.equals(other[one.columns])
    assert EXPERIMENTS.pop("mine").remembered
    assert expreg.load("python").summary["best"]["rows"][0]["rate"] == 0.5
    (tmp_path / "mine.py").unlink()
    monkeypatch.setattr("expreg.registry._modules", {})
    with pytest.raises(InputError, match="this run needs the records of this module"):
        python.inputs(other["cell"][0])


MODULE = """
import jax, expreg

def init(key, *, power: int):
    return jax.random.uniform(key) ** power

def step(x, *, rate: float = 0.5):
    return x * rate, {"x": x}

TRAINING = expreg.Training("mine", init, step, steps=30)
expreg.register(TRAINING)
"""
YAML = """
experiment: mine
name: mine
sweep: {product: {rate: [0.5, 0.9], power: [2], replicate: {count: 2}}}
"""


# --- what is wrong


def one(x, *, lr=0.1):
    return x * lr, {"loss": x.sum()}


def begin(key, *, width=3):
    return jax.random.normal(key, (width,))


WRONG = {
    "shape": (
        lambda x: (jnp.append(x, 1), {"loss": x.sum()}), {},
        r"step changes shapes or types: state from float32\[3\] to float32\[4\]",
    ),
    "type": (lambda x: (x.astype(int), {"loss": x.sum()}), {}, r"state from float32\[3\] to int32\[3\]"),
    "structure": (
        lambda x: ({"y": x}, {"loss": 1.0}), {},
        r"state from float32\[3\] to absent, \['y'\] from absent to float32\[3\]",
    ),
    "none": (lambda x: x, {}, "there are no metrics"),
    "empty": (lambda x: (x, {}), {}, "there are no metrics"),
    "array": (lambda x: (x, {"loss": x}), {}, r"metric loss is float32\[3\], expected a scalar"),
    "column": (lambda x: (x, {"status": x.sum()}), {}, "metric 'status' needs another name"),
    "parameter": (lambda x: (x, {"width": x.sum()}), {}, "metric 'width' needs another name: a parameter"),
    "done": (lambda x: (x, {"loss": x.sum(), "done": 1.0}), {}, r"metric done is float32\[\], expected a boolean"),
    "raises": (lambda x: 1 / 0, {}, "cannot be traced.*ZeroDivisionError"),
    "axis": (one, {"widht": [1, 2]}, "axis widht sets nothing.*did you mean width"),
    "value": (one, {"lr": ["big"]}, r"sweep.product.lr\[0\]: got 'big' \(text\), expected a finite number"),
    "whole": (one, {"width": [2.5]}, r"sweep.product.width\[0\]: got 2.5 \(number\), expected an integer"),
    "missing": (lambda x, *, rate: (x, {"loss": x.sum()}), {}, "parameters.rate: required key missing"),
    "defaults": (lambda x, *, width=4: (x, {"loss": x.sum()}), {}, "width has the defaults 3 and 4"),
    "reserved": (lambda x, *, steps=4: (x, {"loss": x.sum()}), {}, "parameter 'steps' needs another name"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line_before_anything_is_written(case, tmp_path):
    function, axes, expected = WRONG[case]
    with pytest.raises(InputError, match=expected) as refusal:
        sweep(expreg.Training("bad", begin, function, steps=3), axes, tmp_path / "run")
    assert len(str(refusal.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"name": "threshold"}, "an experiment has this name"),
        ({"name": "a b"}, "expected a name of letters"),
        ({"maximize": "acc"}, "got 'acc' to compare settings by, expected one of loss"),
        ({"static": ["q"]}, "static names 'q'"),
    ],
)
def test_a_training_that_is_wrong_is_refused(options, expected, tmp_path):
    with pytest.raises(InputError, match=expected):
        sweep(expreg.Training(**{"name": "bad", "init": begin, "step": one, "steps": 3, **options}), {}, tmp_path / "r")


# --- the page


def test_the_page_names_the_best_setting_and_draws_it(tmp_path):
    run = expreg.sweep(MLP, {"lr": [0.003, 0.03], "width": [4, 8], "seed": 3}, out=tmp_path / "run")
    medians = run.cells.groupby(["lr", "width"])["loss"].median()
    (lr, width), rows = medians.idxmin(), run.summary["best"]["rows"]
    assert [row["final"] for row in rows] == pytest.approx(sorted(medians))
    assert f"The best of 4 settings is lr = {lr:g}, width = {width}: loss" in run.verdicts
    page = (tmp_path / "run/report.html").read_text()
    assert f"is lr = {lr:g}, width = {width}: loss" in page
    assert "could not be drawn" not in page
    assert {path.name for path in (tmp_path / "run/figures").glob("*.png")} == {"settings.png", "curves.png"}
    assert "erdict" not in run.verdicts
    upward = expreg.Training("up", init, step, steps=STEPS, maximize="loss")
    assert sweep(upward, {"lr": [0.003, 0.03]}, tmp_path / "up").summary["best"]["rows"][0]["lr"] == 0.003


def test_a_run_that_is_not_finite_counts_as_the_worst(tmp_path):
    step = lambda x, *, bad: (x, {"loss": jnp.where((x > 0.0) & (bad > 0), jnp.nan, 1.0 + bad)})  # noqa: E731
    half = expreg.Training("half", jax.random.normal, step, steps=2)
    rows = sweep(half, {"bad": [-0.5, 0.5], "seed": 8}, tmp_path / "run").summary["best"]["rows"]
    assert [row["bad"] for row in rows] == [-0.5, 0.5]
    assert rows[1]["high"] is None


def test_cores_that_stay_idle_are_named(monkeypatch):
    assert not idle_cores()
    monkeypatch.setattr("expreg.core.engine.devices.workers", lambda: jax.local_devices()[:1])
    monkeypatch.setattr("expreg.core.engine.devices.cores", lambda: 8)
    assert "only 1 of 8 cores will train" in idle_cores()


def test_rows_come_one_after_the_other(tmp_path, monkeypatch):
    """Those of a stream are those of a run; whoever leaves it can go on later."""
    expreg.register(MLP)
    monkeypatch.setattr("expreg.core.engine.execute.COMMIT_SECONDS", (0.0, 0.0))  # after every slice
    config = {"experiment": "mlp", "name": "x", "sweep": {"product": {"lr": [0.01, 0.02], "replicate": {"count": 20}}}}
    whole = expreg.run(config, out=tmp_path / "whole", draw=False).cells
    slow = {"execution.lanes": 2, "execution.slice_seconds": 0.01}
    stream = expreg.stream(config, slow, out=tmp_path / "part")
    first = next(stream)
    stream.close()
    assert first["loss"] == whole.set_index("cell")["loss"][first["cell"]]
    ends = [event["kind"] for event in read_events(tmp_path / "part")]
    stored = expreg.load(tmp_path / "part").cells
    assert first["cell"] in set(stored["cell"])
    assert ends[-1] == "interrupted"
    assert len(stored) < 40
    rest = [row["cell"] for row in expreg.stream(config, slow, out=tmp_path / "part")]
    assert sorted([*rest, *stored["cell"]]) == sorted(whole["cell"])


def test_an_axis_with_the_name_of_the_width_of_networks_is_no_width(tmp_path):
    """Generated values of m are even for networks only."""

    def init_one(key, *, m: int):
        return jnp.float32(m)

    training = expreg.Training("one", init_one, lambda state: (state, {"loss": state}), steps=2)
    run = sweep(training, {"m": {"geometric": [3, 81, 4]}}, tmp_path / "run")
    assert sorted(run.cells["m"]) == [3, 9, 27, 81]
    found = sweep(
        training, {"m": {"integers": [3, 9]}}, tmp_path / "search", search={"trials": 30, "sampler": "random"}
    )
    assert {*range(3, 10)} >= set(found.cells["m"]) > {4, 6, 8}


def test_what_functions_call_and_the_data_they_use_are_compared(tmp_path):
    """By the compiled program, at values that the sweep does not change."""
    scale, used = np.float32(2.0), [jnp.tanh]

    def own_step(state, *, lr: float):
        return state - lr * used[0](scale * state), {"loss": (state**2).sum()}

    def own():
        return expreg.Training("own", lambda key, *, width=3: jax.random.normal(key, (width,)), own_step, steps=2)

    place = tmp_path / "run"
    sweep(own(), {"lr": [0.1], "width": [2]}, place)
    sweep(own(), {"lr": [0.3], "width": [4]}, place)
    used[0] = jnp.sin
    with pytest.warns(UserWarning, match="the functions of own have changed"):
        sweep(own(), {"lr": [0.5], "width": [4]}, place)
    scale = np.float32(3.0)
    with pytest.warns(UserWarning, match="the functions of own have changed"):
        run = sweep(own(), {"lr": [0.7], "width": [4]}, place)
    manifest = json.loads((place / "manifest.json").read_text())
    assert len({one["functions"] for one in (manifest, *manifest["earlier"])}) == 3
    assert "The rows come from different set-ups, functions" in (
        " ".join(words.warnings(run.cells, run.summary, (), manifest))
    )


def test_rows_without_a_metric_of_the_training_are_refused(tmp_path):
    sweep(MLP, {"lr": [0.01]}, tmp_path / "run")
    more = expreg.Training("mlp", init, step, lambda state: {"size": state[0]["a"].sum()}, steps=STEPS)
    with pytest.raises(InputError, match="its rows have no size: the functions have changed"):
        sweep(more, {"lr": [0.01, 0.02]}, tmp_path / "run")
    assert len(sweep(more, {"lr": [0.01, 0.02]}, tmp_path / "run", fresh=True).cells) == 2


def test_curves_end_where_half_of_the_runs_have_and_what_rises_has_a_linear_axis(tmp_path, monkeypatch):
    def dying(state, *, lr: float):
        alive = state < 5 + 100 * (lr < 0.15)
        return state + 1, {"loss": jnp.where(alive, 2.0**-state, jnp.nan), "accuracy": 1 - 0.9**state}

    training = expreg.Training("dying", lambda key: jnp.float32(1), dying, steps=20)
    run = sweep(training, {"lr": [0.1, 0.2, 0.3], "seed": 2}, tmp_path / "run")
    drawn = []
    monkeypatch.setattr(page.plot, "paged", lambda *arguments, **_: drawn.append(arguments[-1](arguments[-2])) or [])
    cells = run.cells.assign(lr=0.0)  # one setting, of which a third of the runs go on
    described = json.loads((run.directory / "plan.json").read_text())["remembered"]
    page.curves(own_kind.Description(**described), cells, run.curves, {"best": {"axes": [], "rows": [], "count": 1}})
    loss, accuracy = drawn[0].axes
    x, y = loss.lines[0].get_data()
    assert max(x[np.isfinite(y)]) == 4
    assert (loss.get_yscale(), accuracy.get_yscale()) == ("log", "linear")


@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_the_state_at_the_end_is_that_of_a_plain_loop(tmp_path, precision):
    """A warning would say that it does not end as its row, bit for bit."""
    run = sweep(MLP, {"lr": [0.03], "width": [4, 8], "seed": 2}, tmp_path / "run", precision=precision)
    for cell in run.cells.itertuples():
        params, moments = run.trained(cell.cell)
        with jax.enable_x64(precision == "f64"):
            state = init(jax.random.fold_in(jax.random.key(0), cell.replicate), width=cell.width)
            for _ in range(STEPS):
                state, _ = step(state, lr=0.03)
        assert params["W"] == pytest.approx(np.asarray(state[0]["W"]), rel=1e-4, abs=1e-5)
        assert moments[0].count == STEPS


def test_modules_and_keys_are_part_of_the_state_at_the_end(tmp_path):
    def begin(key, *, width: int = 3):
        graph, params = nnx.split(nnx.Linear(2, width, rngs=nnx.Rngs(key)))
        return graph, params, key

    def advance(state):
        graph, params, key = state
        return (graph, jax.tree.map(lambda leaf: leaf / 2, params), jax.random.split(key)[0]), {"loss": jnp.float32(1)}

    run = sweep(expreg.Training("linear", begin, advance, steps=3), {"seed": 1}, tmp_path / "run")
    graph, params, key = run.trained(run.cells["cell"][0])
    first = nnx.split(nnx.Linear(2, 3, rngs=nnx.Rngs(jax.random.fold_in(jax.random.key(0), 0))))[1]
    assert nnx.merge(graph, params).kernel[...] == pytest.approx(np.asarray(first["kernel"][...]) / 8)
    assert jnp.issubdtype(key.dtype, jax.dtypes.prng_key)


def test_metrics_that_are_no_dict_are_named():
    with pytest.raises(InputError, match=r"step returned \(state, float32\[\]\), expected \(state, {'loss': ...}\)"):
        expreg.register(expreg.Training("bare", lambda key: jnp.ones(3), lambda x: (x, x @ x), steps=2))


def test_an_experiment_that_is_not_registered_is_one_line_with_the_option(tmp_path, command):
    (tmp_path / "x.yaml").write_text(
        "experiment: mine\nname: x\ntraining: {steps: 5}\nsweep: {product: {lr: [1, 2], replicate: {count: 2}}}\n"
    )
    code, out, err = command("run", str(tmp_path / "x.yaml"))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "got 'mine', expected threshold, " in err
    assert "one of your own needs --import FILE" in err


def test_the_checksum_of_functions_is_that_of_another_process():
    """Of functions that have addresses in their program, as relu has, too."""
    code = """
import jax, optax, expreg
from expreg.kinds.own.trace import describe
def step(state, *, lr=0.1):
    params, moments = state
    loss, gradient = jax.value_and_grad(lambda p: jax.nn.relu(p).sum())(params)
    updates, moments = optax.adam(lr).update(gradient, moments)
    return (optax.apply_updates(params, updates), moments), {"loss": loss}
def init(key, *, width=4):
    params = jax.random.normal(key, (width,))
    return params, optax.adam(0.0).init(params)
print(describe(expreg.Training("other", init, step, steps=3), {}).source)
"""
    first, second = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | more)
        for more in ({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2"})
    )
    assert first.stdout == second.stdout
    assert first.stdout.startswith(f"{jax.__version__}:")
