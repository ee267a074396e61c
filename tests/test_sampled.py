"""A search that samples: the trials of optuna's own loop, in batches, resumed, pruned, and refused in one line."""

import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optuna
import pytest
import yaml

import expreg
from expreg import api
from expreg.core.config.space import Distribution, Space
from expreg.errors import InputError
from expreg.kinds import own
from expreg.kinds.own import program
from expreg.types import _resolved

optuna.logging.set_verbosity(optuna.logging.WARNING)
STEPS = 12
SPACE = {"x": {"uniform": [-2, 3]}, "rate": {"log_uniform": [0.01, 10]}, "kind": ["abs", "square"]}


def init(key, *, x: float):
    return jnp.float32(x)


def step(position, *, rate: float, kind: str):
    """Approach the result in steps, which is known in closed form: `result`."""
    distance = jnp.abs(position - 1) if kind == "abs" else (position - 1) ** 2
    return position, {"loss": distance + (jnp.log(rate) + 1) ** 2}


def result(x, rate, kind):
    return float(np.float32(abs(x - 1) if kind == "abs" else (x - 1) ** 2) + np.float32((math.log(rate) + 1) ** 2))


TOY = expreg.Training("toy", init, step, steps=STEPS)


def sweep(place, search, space=SPACE, training=TOY, **options):
    return expreg.sweep(training, space, out=place, search=search, **{"draw": False, **options})


def by_trial(run):
    return run.cells.sort_values(["trial", "replicate"]).reset_index(drop=True)


def own_loop(trials, batch, sampler):
    """Return the settings that optuna proposes in a plain loop, which evaluates the closed form."""
    study = optuna.create_study(sampler=sampler)
    log = optuna.distributions.FloatDistribution(0.01, 10, log=True)
    space = {
        "x": optuna.distributions.FloatDistribution(-2, 3),
        "rate": log,
        "kind": optuna.distributions.CategoricalDistribution(["abs", "square"]),
    }
    while (left := trials - len(study.trials)) > 0:
        asked = [study.ask(space) for _ in range(min(batch, left))]
        for trial in asked:
            study.tell(trial, result(**trial.params))
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize(
    ("sampler", "made"),
    [
        ("tpe", lambda: optuna.samplers.TPESampler(seed=7, constant_liar=True)),
        ("random", lambda: optuna.samplers.RandomSampler(seed=7)),
    ],
)
def test_the_trials_are_those_of_a_plain_loop_of_optuna(tmp_path, sampler, made):
    run = sweep(tmp_path / "run", {"trials": 40, "batch": 8, "sampler": sampler}, seed=7)
    expected = own_loop(40, 8, made())
    found = by_trial(run)
    assert found["trial"].tolist() == list(range(40))
    assert [dict(row) for row in found[["x", "rate", "kind"]].to_dict("records")] == expected
    assert found["loss"].to_numpy() == pytest.approx([result(**params) for params in expected], rel=1e-5)


def test_a_search_finds_more_than_chance(tmp_path):
    """The median over five seeds of TPE's best of 60, and of the best of 60 at random; seeds make it repeatable."""
    best = {
        name: np.median(
            [
                sweep(tmp_path / f"{name}{seed}", {"trials": 60, "batch": 10, "sampler": name}, seed=seed)
                .cells["loss"]
                .min()
                for seed in range(5)
            ]
        )
        for name in ("tpe", "random")
    }
    assert best["tpe"] < best["random"]


@pytest.mark.parametrize("after", [3, 14, 40])
def test_a_search_that_was_interrupted_ends_as_one_that_was_not(tmp_path, monkeypatch, after):
    """In the first batch, in a later one, and where trials run on to greater lengths."""
    search = {"trials": 30, "batch": 9, "prune": {"axis": "training.steps", "from": 2, "to": 18}}
    whole = sweep(tmp_path / "whole", search)
    monkeypatch.setattr("expreg.core.engine.execute.COMMIT_SECONDS", (0.0, 0.0))
    slices = {"execution.lanes": 2, "execution.slice_seconds": 0.001}
    config = {**plain(tmp_path / "whole"), "execution": {"lanes": 2, "slice_seconds": 0.001}}
    stream = expreg.stream(config, out=tmp_path / "part")
    for _ in range(after):
        next(stream)
    stream.close()
    assert len(expreg.load(tmp_path / "part").cells) < len(whole.cells)
    resumed = sweep(tmp_path / "part", search, overrides=slices)
    columns = ["cell", "trial", "x", "rate", "kind", "loss", "steps"]
    assert by_trial(resumed)[columns].equals(by_trial(whole)[columns])
    parts = list((tmp_path / "part" / "parts").iterdir())
    assert sweep(tmp_path / "part", search).cells.equals(resumed.cells)
    assert list((tmp_path / "part" / "parts").iterdir()) == parts  # nothing was left to do
    more = by_trial(sweep(tmp_path / "part", {**search, "trials": 36}))
    assert more[more["trial"] < 27][columns].equals(by_trial(whole).query("trial < 27")[columns].reset_index(drop=True))
    assert more["trial"].max() == 35


def plain(directory):
    """Return the config of a run."""
    return yaml.safe_load((directory / "config.yaml").read_text())


def test_the_arrays_behind_a_trial_are_its_own(tmp_path):
    search = {"trials": 9, "batch": 9, "prune": {"axis": "training.steps", "from": 2, "to": 18}}
    run = sweep(tmp_path / "run", search, SPACE | {"seed": 2})
    for row in run.cells.itertuples():
        [position] = run.inputs(row.cell).values()
        assert position == np.float32(row.x)
    with pytest.raises(InputError, match="has no cell 'none'"):
        run.inputs("none")


def test_trials_that_break_a_rule_fail_and_the_others_go_on(tmp_path):
    """One trial at a time, so that a whole batch may have no cell."""
    config = {
        "experiment": "convergence",
        "name": "x",
        "data": {"kind": "orthonormal", "n": 4},
        "training": {"max_steps": 5},
        "sweep": {
            "search": {
                "optuna": {"trials": 12, "batch": 1, "sampler": "random"},
                "space": {"m": {"integers": [2, 20]}},
            },
            "product": {"replicate": {"count": 2}},
            "when": "m >= 10",
        },
    }
    run = expreg.run(config, out=tmp_path / "run", draw=False)
    assert run.cells["m"].min() >= 10
    tried = run.cells["trial"].unique()
    assert 0 < len(tried) < 12
    assert max(tried) > len(tried) - 1  # a trial before it had no cell
    config["sweep"]["when"] = "m >= 30"
    with pytest.raises(InputError, match="no cell is left"):
        expreg.run(config, out=tmp_path / "none", draw=False)
    assert not (tmp_path / "none").exists()


@pytest.fixture
def replaced(monkeypatch):
    """Replace the function that makes rows, which experiments remember."""

    def replace(row):
        monkeypatch.setattr("expreg.kinds.own.program.row", row)
        forget()

    def forget():
        own.experiment.cache_clear()
        _resolved.cache_clear()

    yield replace
    forget()


def test_failed_cells_are_no_results_and_run_again_at_the_end(tmp_path, replaced):
    """The sampler learns the same in a resumed run, where they succeed."""
    search = {"trials": 24, "batch": 6}
    failing = [True]

    def fragile(description, settings, record, row=program.row):
        if failing[0] and settings["parameters"]["x"] > 1:
            raise ValueError("too far right")
        return row(description, settings, record)

    replaced(fragile)
    with pytest.warns(UserWarning, match="of 24 cells failed, the first with 'ValueError: too far right'"):
        first = sweep(tmp_path / "run", search)
    failed = set(first.cells.query("status == 'error'")["trial"])
    assert failed == set(first.cells.query("x > 1")["trial"]) != set()
    failing[0] = False
    again = sweep(tmp_path / "run", search)
    columns = ["cell", "trial", "x", "rate", "kind"]
    assert by_trial(again)[columns].equals(by_trial(first)[columns])
    assert set(again.cells.query("attempt == 2")["trial"]) == failed
    assert again.failed == 0


def test_a_search_in_which_everything_fails_ends(tmp_path, replaced):
    def broken(*_):
        raise ValueError("never")

    replaced(broken)
    with pytest.warns(UserWarning, match="8 of 8 cells failed"):
        run = sweep(tmp_path / "run", {"trials": 8, "batch": 3}, draw=True)
    assert (len(run.cells), run.failed) == (8, 8)


def test_the_best_setting_is_the_best_trial(tmp_path):
    """Over what is swept beside the space, and also where the space has axes that figures of networks are about."""
    config = {
        "experiment": "convergence",
        "name": "x",
        "data": {"kind": "orthonormal"},
        "training": {"max_steps": 20, "tolerance": 0, "step_size": {"rule": "fixed"}},
        "sweep": {
            "search": {
                "optuna": {"trials": 10, "batch": 5},
                "space": {"m": [8, 32], "training.step_size.value": {"log_uniform": [0.0001, 0.01]}},
            },
            "product": {"n": [4, 8], "replicate": {"count": 2}},
        },
    }
    run = expreg.run(config, out=tmp_path / "run", draw=False)
    results = run.cells.fillna({"residual_final": np.inf}).groupby("trial")["residual_final"].median()
    best = run.summary["best"]
    assert (best["count"], best["rows"][0]["runs"]) == (10, 4)
    assert best["rows"][0]["trial"] == results.idxmin()
    assert best["rows"][0]["final"] == results.min()
    assert best["axes"] == ["trial", "m", "training.step_size.value"]


def test_results_are_medians_over_replicates_and_what_has_none_is_worst(tmp_path):
    def noisy(position, *, rate: float, kind: str):
        position, metrics = step(position, rate=rate, kind=kind)
        return position, {"loss": jnp.where(position > 1.5, jnp.nan, metrics["loss"])}

    def begun(key, *, x: float):
        return jnp.float32(x) + jax.random.normal(key) / 10

    training = expreg.Training("noisy", begun, noisy, steps=STEPS)
    run = sweep(tmp_path / "run", {"trials": 20, "batch": 5}, SPACE | {"seed": 3}, training)
    assert len(run.cells) == 60
    best = run.summary["best"]
    losses = run.cells.assign(loss=run.cells["loss"].fillna(np.inf)).groupby("trial")["loss"].median()
    assert np.isinf(losses).any()
    assert best["rows"][0]["final"] == losses.min()
    assert best["rows"][0]["trial"] == losses.idxmin()
    assert f"The best of 20 trials is number {losses.idxmin()} (" in run.verdicts


def test_pruning_stops_the_worst_of_a_batch(tmp_path):
    """With lengths 2, 6 and 18 and a factor of 3, of 9 trials 3 run for 6 steps and 1 for 18."""
    search = {"trials": 18, "batch": 9, "prune": {"axis": "training.steps", "from": 2, "to": 18}}
    run = sweep(tmp_path / "run", search)
    cells = run.cells
    counts = cells.groupby("training.steps")["cell"].count()
    assert counts.to_dict() == {2: 18, 6: 6, 18: 2}
    assert (cells["steps"] == cells["training.steps"]).all()
    for batch in (cells[cells["trial"] < 9], cells[cells["trial"] >= 9]):
        shortest, longer = batch[batch["training.steps"] == 2], batch[batch["training.steps"] == 6]
        assert set(longer["trial"]) == set(shortest.nsmallest(3, "loss")["trial"])
    # the best are compared at the whole length only
    assert run.summary["best"]["count"] == 2
    assert "The best of 18 trials, 2 of which ran in full, is number " in run.verdicts
    plan = api.plan(tmp_path / "run" / "config.yaml")
    assert plan["cells"] == len(cells) == json.loads((tmp_path / "run" / "plan.json").read_text())["cells"]


@pytest.mark.parametrize(("trials", "batch", "runs"), [(18, 9, 26), (10, 9, 16), (4, 64, 7), (1, 1, 3)])
def test_the_number_of_runs_is_known_before(trials, batch, runs):
    """Of each batch all, a third and a ninth of it run, rounded up."""
    space = Space.model_validate(
        {
            "optuna": {"trials": trials, "batch": batch},
            "space": {"x": {"uniform": [0, 1]}},
            "prune": {"axis": "a", "from": 2, "to": 18},
        }
    )
    assert space.lengths == [2, 6, 18]
    assert space.runs == runs


def test_a_grid_and_a_search_share_their_cells(tmp_path):
    choices = {"x": [0, 1], "rate": [0.1, 1], "kind": ["abs", "square"]}
    grid = expreg.sweep(TOY, choices, out=tmp_path / "run", draw=False)
    search = sweep(tmp_path / "run", {"trials": 30, "batch": 10}, choices)
    assert set(search.cells["cell"]) <= set(grid.cells["cell"])
    assert len(list((tmp_path / "run" / "parts").iterdir())) == 1  # nothing ran again
    assert search.cells["trial"].is_unique
    again = expreg.sweep(TOY, choices, out=tmp_path / "run", draw=False)
    assert "trial" not in again.cells


def test_a_network_is_searched_from_a_config(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text("""\
experiment: convergence
name: x
data: {kind: orthonormal, n: 4}
training: {max_steps: 200, tolerance: 0.01, step_size: {rule: fixed}}
sweep:
  search:
    optuna: {trials: 12, batch: 6, metric: steps}
    space:
      m: {log_integers: [3, 40]}
      training.step_size.value: {log_uniform: [0.001, 0.1]}
  product: {replicate: {count: 2}}
""")
    code, out, _ = command("plan", "x.yaml")
    assert code == 0
    assert "12 trials in batches of 6, chosen by optuna's tpe sampler to minimize steps" in out
    code, _, err = command("run", "x.yaml", "sweep.search.optuna.trials=18")
    assert (code, "search finished after 3 rounds: 36 of at most 36 cells were needed" in err) == (0, True)
    run = expreg.load("runs/x")
    assert sorted(run.cells["trial"].unique()) == list(range(18))
    assert (run.cells["m"] % 2 == 0).all()
    assert run.cells["m"].between(4, 40).all()
    page = (tmp_path / "runs/x/report.html").read_text()
    assert "Results in the order of the trials" in page
    assert "Results over each setting" in page
    code, out, _ = command("query", "runs/x", "SELECT max(trial) AS last FROM cells")
    assert out.split()[-1] == "17"
    assert "36 of at most 36 cells done, search finished" in command("status", "runs/x")[1]


TEXT = """\
experiment: convergence
name: x
sweep:
  search:
    optuna: {trials: 5}
    space:
      m: {integers: [4, 40]}
data: {n: 4}
"""


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "trials: 5",
            "trials: 0",
            "[E-RANGE] x.yaml:5:22: sweep.search.optuna.trials: got 0, expected an integer in 1..1000000",
        ),
        (
            "trials: 5",
            "trials: 5, bach: 2",
            "[E-UNKNOWN] x.yaml:5:25: sweep.search.optuna.bach: unknown key; did you mean batch?",
        ),
        (
            "trials: 5",
            "trials: 5, sampler: tpa",
            "[E-ENUM] x.yaml:5:34: sweep.search.optuna.sampler: got 'tpa', expected tpe, random or qmc; did you mean",
        ),
        (
            "trials: 5",
            "trials: 5, metric: stops",
            "[E-ENUM] x.yaml:5:33: sweep.search.optuna.metric: got 'stops', expected a column of numbers; did you",
        ),
        (
            "integers: [4, 40]",
            "integers: [40, 4]",
            "[E-RANGE] x.yaml:7:21: sweep.search.space.m.integers: got [40, 4], expected a < b",
        ),
        (
            "integers: [4, 40]",
            "integer: [4, 40]",
            "[E-TYPE] x.yaml:7:10: sweep.search.space.m: got a mapping, expected a list of values or one of"
            " {uniform: [a, b]}, {log_uniform: [a, b]}, {integers: [a, b]}, {log_integers: [a, b]}; did you mean",
        ),
        (
            "integers: [4, 40]",
            "integers: [-4, 40]",
            "[E-RANGE] x.yaml:7:10: sweep.search.space.m: got -4, expected an integer in 1..1099511627776",
        ),
        (
            "m: {integers",
            "trial: {integers",
            "[E-AXIS] x.yaml:7:14: sweep.search.space.trial: 'trial' is the column with",
        ),
        ("m: {integers: [4, 40]}", "x: {log_uniform: [0, 1]}", "sweep.search.space.x.log_uniform: got 0, expected a"),
        ("m: {integers: [4, 40]}", "network.activation: [exp, cosh, foo]", "network.activation: got 'foo', expected"),
        ("m: {int", "k: [1, 2]\n      m: {int", "[E-AXIS] x.yaml:7:10: sweep.search.space.k: axis k sets nothing"),
        (
            "    space:",
            "    prune: {axis: m, from: 2, to: 8}\n    space:",
            "[E-DUP] x.yaml:6:19: sweep.search.prune.axis: m is in the space already",
        ),
        (
            "    space:",
            "    prune: {axis: training.max_steps, from: 8, to: 8}\n    space:",
            "sweep.search.prune.to: got 8, expected at least factor * from = 3 * 8 = 24",
        ),
    ],
)
def test_what_is_wrong_with_a_search_is_one_line(tmp_path, monkeypatch, old, new, line):
    monkeypatch.chdir(tmp_path)
    assert old in TEXT
    (tmp_path / "x.yaml").write_text(TEXT.replace(old, new))
    with pytest.raises(InputError) as caught:
        api.plan("x.yaml")
    [found] = caught.value.lines()
    assert line in found


def test_optuna_that_is_not_installed_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"needs optuna, which is not installed: pip install 'expreg\[search\]'"):
        sweep(tmp_path / "run", {"trials": 3})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("known", [Distribution(2, 9), Distribution(1e-5, 10, log=True), Distribution(4, 40, step=2)])
def test_draws_lie_in_their_distribution(known):
    drawn = known.draws(500)
    assert drawn[:2] == [known.low, known.high]
    assert min(drawn) == known.low
    assert max(drawn) == known.high
    if known.step:
        assert {value % 2 for value in drawn} == {0}
    middle = math.sqrt(known.low * known.high) if known.log else (known.low + known.high) / 2
    assert np.mean(np.array(drawn) < middle) == pytest.approx(0.5, abs=0.1)  # four standard errors


def test_a_metric_that_no_cell_has_makes_all_trials_equal_and_the_search_ends(tmp_path):
    """A margin is measured only where its event is."""
    config = {
        "experiment": "convergence",
        "name": "x",
        "data": {"kind": "orthonormal", "n": 4},
        "training": {"max_steps": 5},
        "sweep": {"search": {"optuna": {"trials": 6, "batch": 3, "metric": "E3cert_margin"}, "space": {"m": [8, 16]}}},
    }
    run = expreg.run(config, out=tmp_path / "run")
    assert run.cells["trial"].nunique() == len(run.cells) == 2
    assert run.summary["best"]["rows"] == [] or run.summary["best"]["rows"][0]["final"] is None
