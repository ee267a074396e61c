"""Each experiment has blocks of its own: what they hold, what is refused, and that ids stay what they were."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from config_samples import load, schema, sweepable

from expreg.api import json_schema
from expreg.core.config import cell_id, cells, first_difference, plan
from expreg.data import HEADS, attention
from expreg.errors import InputError
from expreg.kinds import EXPERIMENTS

BASE: dict[str, Any] = {"experiment": "regression", "name": "x", "problem": {"n": 8, "d": 2}}


def settings_of(config: dict[str, Any], overrides: Any = ()) -> list[dict[str, Any]]:
    return [settings for settings, _ in cells(load(config, overrides))]


def refused(change: dict[str, Any], problem: dict[str, Any] | None = None) -> list[tuple[str, str | None]]:
    given = {**BASE, **change}
    given["problem"] = BASE["problem"] | change.get("problem", {}) if problem is None else problem
    with pytest.raises(InputError) as caught:
        list(cells(load(given)))
    assert all(line.isprintable() and len(line) <= 400 for line in caught.value.lines())
    return [(found.code, found.key) for found in caught.value.problems]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_settings_of_a_cell_have_exactly_the_blocks_of_its_experiment(name):
    model = schema(name)
    sizes = {".".join(path): 4 for path in model.sizes.values()}
    [settings] = settings_of({"experiment": name, "name": "x"}, sizes)
    assert settings.keys() == {"experiment", "seed", "replicate", "precision", "measure", *model.blocks}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_blocks_of_other_experiments_are_refused_by_name(name):
    every = {block for one in EXPERIMENTS for block in schema(one).blocks}
    for block in every - set(schema(name).blocks):
        with pytest.raises(InputError) as caught:
            load({"experiment": name, "name": "x", block: {}})
        assert f"{block}: {name} has no {block}; remove this key" in "\n".join(caught.value.lines())


def test_short_names_are_the_sizes_of_the_experiment():
    swept = {"experiment": "regression", "name": "x", "sweep": {"product": {"n": [8, 16], "d": [2, 4]}}}
    found = [(s["problem"]["n"], s["problem"]["d"]) for s in settings_of(swept)]
    assert found == [(8, 2), (8, 4), (16, 2), (16, 4)]
    assert refused({"sweep": {"product": {"m": [4]}}}) == [("E-AXIS", "sweep.product.m")]  # there is no network


def test_numbers_of_problem_and_solver_may_be_expressions_and_follow_the_axes():
    config = {
        **BASE,
        "problem": {"n": "32 * d", "noise": "1 / n"},
        "solver": {"sketch": "leverage", "sketch_size": "4 * d * k"},
        "sweep": {"product": {"d": [2, 4], "k": [1, 3]}},
    }
    found = [(s["problem"]["n"], s["problem"]["noise"], s["solver"]["sketch_size"]) for s in settings_of(config)]
    assert found == [(64, 1 / 64, 8), (64, 1 / 64, 24), (128, 1 / 128, 16), (128, 1 / 128, 48)]


def test_words_are_swept_as_such():
    losses, solvers = ["softmax", "rescaled"], ["newton", "gd"]
    sweep = {"problem.loss": losses, "solver.name": solvers, "solver.tolerance": ["auto"]}
    found = settings_of({**BASE, "sweep": {"product": sweep}})
    assert [(s["problem"]["loss"], s["solver"]["name"]) for s in found] == list(product(losses, solvers))


def test_every_number_of_the_blocks_can_be_swept():
    paths = sweepable("regression")
    wanted = {"n", "d", "density", "condition", "coherence", "scale", "noise", "weight", "distance", "layer", "token"}
    assert {f"problem.{name}" for name in wanted} <= paths.keys()
    assert {"solver.sketch_size", "solver.max_steps", "solver.tolerance", "solver.curve.points"} <= paths.keys()
    assert not any(path.startswith(("data.", "network.", "training.")) for path in paths)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"measure": ["E0"]}, [("E-ENUM", "measure[0]")]),
        ({"problem": {"los": "softmax"}}, [("E-UNKNOWN", "problem.los")]),
        ({"problem": {"activation": "relu"}}, [("E-ENUM", "problem.activation")]),
        ({"problem": {"condition": 0.5}}, [("E-RANGE", "problem.condition")]),
        ({"problem": {"density": 0}}, [("E-RANGE", "problem.density")]),
        ({"problem": {"start": "zero", "activation": "cosh"}}, [("E-RANGE", "problem.start")]),
        ({"problem": {"start": "zero", "activation": "sinh"}}, [("E-RANGE", "problem.start")]),
        ({"problem": {"n": "2 * k"}}, [("E-EXPR", "problem.n")]),
        ({"solver": {"name": "gd", "sketch": "leverage"}}, [("E-RANGE", "solver.sketch")]),
        ({"solver": {"sketch_size": 40}}, [("E-RANGE", "solver.sketch_size")]),
        ({"solver": {"tolerance": 1e-10}}, [("E-RANGE", "solver.tolerance")]),
        ({"sweep": {"product": {"problem.conditon": [2]}}}, [("E-AXIS", "sweep.product.problem.conditon")]),
        ({"sweep": {"product": {"solver.name": ["newtn"]}}}, [("E-ENUM", "sweep.product.solver.name[0]")]),
        ({"sweep": {"product": {"loss_value": [1]}}}, [("E-AXIS", "sweep.product.loss_value")]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_values_are_named(change, where):
    assert refused(change) == where


def test_missing_sizes_and_heads_that_are_not_bundled_are_named():
    assert refused({}, {"n": 8}) == [("E-MISSING", "problem.d")]
    assert refused({}, {"kind": "attention", "layer": 1, "head": 1}) == [("E-ENUM", "problem.head")]
    assert refused({}, {"kind": "file"}) == [("E-MISSING", "problem.path")]
    assert refused({}, {"kind": "file", "path": "absent.npy"}) == [("E-FILE", "problem.path")]


def test_the_sizes_of_attention_are_those_of_the_bundled_heads():
    for layer, head in HEADS:
        [settings] = settings_of({**BASE, "problem": {"kind": "attention", "layer": layer, "head": head}})
        assert attention(layer, head).keys.shape == (settings["problem"]["n"], settings["problem"]["d"])


def test_an_unknown_experiment_is_one_problem():
    wrong = {**BASE, "experiment": "regresion", "solver": {"name": "newton"}}
    with pytest.raises(InputError, match="did you mean regression?") as caught:
        load(wrong)
    assert len(caught.value.problems) == 1


def test_a_problem_of_files_is_named_by_its_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("one", "other"):
        (tmp_path / place).mkdir()
        np.save(tmp_path / place / "A.npy", np.eye(4, 2))
        np.save(tmp_path / place / "b.npy", np.full(4, 0.25))

    def named(place: str) -> tuple[str, dict[str, Any]]:
        files = {"kind": "file", "path": f"{place}/A.npy", "target_path": f"{place}/b.npy"}
        config = load({**BASE, "problem": files})
        [(settings, _)] = cells(config)
        assert (settings["problem"]["n"], settings["problem"]["d"]) == (4, 2)
        return cell_id(settings), plan(config)

    assert named("one") == named("other")
    np.save(tmp_path / "other" / "b.npy", np.array([0.1, 0.2, 0.3, 0.4]))
    assert named("one")[0] != named("other")[0]
    difference = first_difference(named("one")[1]["identity"], named("other")[1]["identity"])
    assert difference is not None
    assert difference.startswith("problem.sha256")


def test_ids_of_regression_are_these():
    """An id is the address of stored rows: a change of it makes every run of a user start again."""
    assert [cell_id(settings) for settings in settings_of(BASE)] == ["47ea193a73db6154"]


def test_the_schema_says_what_each_experiment_has():
    for case in json_schema()["allOf"]:
        names, then = case["if"]["properties"]["experiment"]["enum"], case["then"]["properties"]
        for name in names:
            blocks = schema(name).blocks
            lacking = {block for block in ("data", "network", "training", "problem", "solver") if block not in blocks}
            assert {key for key, form in then.items() if form is False} == lacking
