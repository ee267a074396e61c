"""The schema: defaults, what is accepted, and every refusal that concerns one value or two."""

import copy
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from config_samples import SMALL, changed, load, refused, sweepable

from expreg.api import json_schema
from expreg.core import config as configs
from expreg.errors import InputError
from expreg.kinds import EXPERIMENTS
from expreg.types import Column

WARM = {"name": "warmup_cosine_decay", "warmup_steps": 9, "decay_steps": 9}

# --- what is accepted --------------------------------------------------------------------------------


def test_defaults_are_the_protocol() -> None:
    config = load(SMALL).model_dump()  # those of training stand in test_plan
    assert config["network"] == {"m": "m", "activation": "exp", "init": "coupled", "scale": 1.0}
    assert config["analysis"] == {"delta": 0.1, "confidence": 0.95, "resamples": 1000, "half_width": 0.1, "until": None}
    assert config["training"]["tolerance"] == 0.05


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("training.step_size", {"rule": "fixed", "value": 1e-3}),
        ("training.step_size.schedule", {"name": "cosine_decay", "decay_steps": 100}),
        ("training.step_size.schedule", {"name": "exponential_decay", "transition_steps": 9, "decay_rate": 0.5}),
        ("training.optimizer", {"name": "adamw", "b1": 0.8, "weight_decay": 0}),
        ("training.optimizer", {"name": "nesterov", "momentum": "1 - 1/n"}),
        ("training.max_steps", {"flow_time": "n/8"}),
        ("training.max_steps", 1e4),
        ("data", {"kind": "digits", "classes": [1, 7], "labels": {"kind": "sign"}}),
        ("data", {"kind": "equiangular", "coherence": -0.1}),
        ("data.labels", {"kind": "teacher", "m": 8}),
        ("network.init", "iid"),
        ("measure", []),
        ("precision", "f64"),
        ("execution.lanes", 7),
        ("name", "a.b-c_1"),
        ("description", "any text: ${env:HOME} {{ x }} \u202e"),
        ("sweep.product.training.step_size.factor", [0.5, 1, 3]),
        ("sweep.product.precision", ["f32", "f64"]),
        ("sweep.product.seed", [1, 2]),
        ("sweep.product.network.activation", ["exp", "cosh"]),
        ("sweep.product.training.max_steps", [10, 100]),
        ("sweep.product.data.kind", ["sphere", "orthonormal"]),
    ],
)
def test_accepted(path: str, value: Any) -> None:
    load(changed(path, value))


def test_every_optimizer_and_schedule_of_the_schema_is_one_of_the_training_loop() -> None:
    steps = pytest.importorskip("expreg.kinds.network.steps")
    names = {path: set(rules[0].names()) for path, rules in sweepable("threshold").items() if path.endswith("name")}
    assert names["training.optimizer.name"] == set(steps.OPTIMIZERS)
    assert names["training.step_size.schedule.name"] == set(steps.SCHEDULES)


def test_a_tolerance_of_0_needs_a_number_of_steps() -> None:
    assert load(changed("training", {"tolerance": 0, "max_steps": 9})).training.tolerance == 0.0
    assert refused(changed("training", {"tolerance": 0})) == [("E-RANGE", "training.max_steps")]
    assert refused(changed("training", {"tolerance": 1e-12, "max_steps": 9})) == [("E-RANGE", "training.tolerance")]


@pytest.mark.parametrize(
    ("value", "code"), [(0, "E-RANGE"), (-1, "E-RANGE"), ("soon", "E-TYPE"), (float("inf"), "E-RANGE")]
)
def test_a_timeout_is_null_or_a_number_of_seconds(value: Any, code: str) -> None:
    assert load(SMALL).execution.cell_timeout is None
    assert load(changed("execution.cell_timeout", 2)).execution.cell_timeout == 2.0
    assert refused(changed("execution.cell_timeout", value)) == [(code, "execution.cell_timeout")]


@pytest.mark.parametrize(("value", "code"), [(0, "E-RANGE"), ("often", "E-TYPE"), (float("inf"), "E-RANGE")])
def test_checkpoints_come_after_seconds_or_never_and_name_no_cell(value: Any, code: str) -> None:
    assert load(SMALL).execution.checkpoint_seconds == 300.0
    never = load(changed("execution.checkpoint_seconds", None))
    assert never.execution.checkpoint_seconds is None
    assert configs.plan(never) == configs.plan(load(SMALL))
    assert list(configs.cells(never)) == list(configs.cells(load(SMALL)))
    assert refused(changed("execution.checkpoint_seconds", value)) == [(code, "execution.checkpoint_seconds")]


@pytest.mark.parametrize("name", ["mine", "trail", "curve_trail", "status", "device", "name"])
def test_an_axis_named_like_a_column_is_refused(name: str) -> None:
    columns = {"columns": lambda: [Column("mine", "float64", "")], "curves": lambda: [Column("trail", "float64", "")]}
    experiments = {"threshold": replace(EXPERIMENTS["threshold"], **columns)}
    with pytest.raises(InputError) as caught:
        configs.load(
            {**changed(f"sweep.product.{name}", [1, 2]), "network": {"scale": f"{name} / 2"}}, experiments=experiments
        )
    assert [(found.code, found.key) for found in caught.value.problems] == [("E-AXIS", f"sweep.product.{name}")]


def test_python_values_are_accepted() -> None:
    numpy = pytest.importorskip("numpy")
    config = changed("sweep.product.n", numpy.array([8, 16]))
    config["sweep"]["product"]["m"] = (8, numpy.int64(16))
    tree = load(config).source.grid
    assert tree is not None
    assert [type(value) for value in tree.members[0].members[0].values] == [int, int]  # type: ignore[union-attr]


def test_the_caller_is_not_changed() -> None:
    config = copy.deepcopy(SMALL)
    load(config, {"training.tolerance": 0.1})
    assert config == SMALL


# --- the fuzz list -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        ("analysis.delta", 0, "E-RANGE"),
        ("analysis.delta", 1, "E-RANGE"),
        ("training.tolerance", "NaN", "E-RANGE"),
        ("training.tolerance", float("inf"), "E-RANGE"),
        ("training.tolerance", "many words", "E-EXPR"),
        ("training.tolerance", None, "E-TYPE"),
        ("training.tolerance", [0.1], "E-TYPE"),
        ("training.max_steps", 0, "E-RANGE"),
        ("training.max_steps", 2.5, "E-TYPE"),
        ("training.max_steps.flow_tim", 2.5, "E-UNKNOWN"),
        ("training.step_size.rule", "fixd", "E-ENUM"),
        ("training.step_size.rule", "fixed", "E-MISSING"),
        ("training.step_size.value", 0.1, "E-RANGE"),
        ("training.step_size", {"rule": "fixed", "value": 1, "factor": 2}, "E-RANGE"),
        ("training.step_size.schedule", {"name": "linear"}, "E-MISSING"),
        ("training.step_size.schedule", {"name": "linea"}, "E-ENUM"),
        ("training.step_size.schedule", WARM, "E-RANGE"),
        ("training.optimizer", {"name": "adam", "momentum": 0.9}, "E-UNKNOWN"),
        ("training.optimizer", {"name": "adam", "b1": 1}, "E-RANGE"),
        ("training.optimizer", "adam", "E-TYPE"),
        ("training.relative", 1, "E-TYPE"),
        ("network.scale", 1e39, "E-RANGE"),
        ("network", [], "E-TYPE"),
        ("data.kind", "sphre", "E-ENUM"),
        ("data.labels.kind", "given", "E-ENUM"),
        ("data", {"kind": "equiangular", "coherence": 1}, "E-RANGE"),
        ("data", {"kind": "near_duplicate", "angle": 4}, "E-RANGE"),
        ("data", {"kind": "digits", "classes": [3, 3]}, "E-DUP"),
        ("data", {"kind": "digits", "classes": [3, 10]}, "E-RANGE"),
        ("data", {"kind": "digits", "d": 64}, "E-UNKNOWN"),
        ("data", {"kind": "file"}, "E-MISSING"),
        ("data.d", "d", "E-MISSING"),
        ("measure", ["E0", "E0"], "E-DUP"),
        ("measure", ["E9"], "E-ENUM"),
        ("measure", "E0", "E-TYPE"),
        ("seed", 1.5, "E-TYPE"),
        ("name", 12, "E-TYPE"),
        ("_target_", "os.system", "E-UNKNOWN"),
        ("execution.lanes", "many", "E-TYPE"),
        ("execution.max_cells", 0, "E-RANGE"),
        ("sweep.product.eta", [1], "E-AXIS"),
        ("sweep.product.training.step_size.facto", [1], "E-AXIS"),
        ("sweep.product.analysis.delta", [0.1], "E-AXIS"),
        ("sweep.product.data", ["x"], "E-AXIS"),
        ("sweep.product.2n", [1], "E-AXIS"),
        ("sweep.product.d", [[8]], "E-TYPE"),
        ("sweep.product.training.step_size.factor", ["1/n"], "E-TYPE"),
        ("sweep.product.network.activation", ["exp", "tanh"], "E-ENUM"),
        ("sweep.product.replicate", [-1], "E-RANGE"),
        ("sweep.product.n", {"linear": [0, 8, 3]}, "E-RANGE"),
        ("sweep.product.n", {"count": 10**15}, "E-GRID"),
        ("sweep.zip", {"data.d": [8, 9], "seed": [1, 2, 3]}, "E-GRID"),
        ("sweep.when", "m", "E-EXPR"),
    ],
)
def test_refused(path: str, value: Any, code: str) -> None:
    assert [found for found, _ in refused(changed(path, value))] == [code]


@pytest.mark.parametrize(("name", "why"), [("movement", "leave it out"), ("movement_refined", "with E2 or Ecert")])
def test_a_criterion_that_is_no_event_is_refused_with_what_to_write(name: str, why: str) -> None:
    with pytest.raises(InputError, match=rf"measure\[0\]: got '{name}' \(.*{why}\), expected E0"):
        load(changed("measure", [name]))


@pytest.mark.parametrize(
    ("block", "value", "key"),
    [
        ("network", {"m": 7}, "network.m"),
        ("data", {"kind": "orthonormal", "n": 8, "d": 4}, "data.d"),
        ("data", {"kind": "equiangular", "n": 8, "d": 4}, "data.d"),
        ("data", {"kind": "equiangular", "n": 8, "coherence": -0.2}, "data.coherence"),
        ("data", {"kind": "near_duplicate", "n": 7}, "data.n"),
        ("data", {"kind": "near_duplicate", "n": 8, "d": 1}, "data.d"),
        ("data", {"kind": "digits", "n": 358}, "data.n"),
    ],
)
def test_rules_between_fixed_values_are_checked_at_loading(block: str, value: dict[str, Any], key: str) -> None:
    fixed = {"experiment": "threshold", "name": "x", "data": {"n": 8}, "network": {"m": 8}}
    assert refused({**fixed, block: value}) == [("E-RANGE", key)]


@pytest.mark.parametrize(
    "name",
    [
        *("/etc/passwd", "..", ".", "", "-rf", ".hidden", "con", "nul.txt", "COM1", "x" * 300, "a\nb", "a\0b"),
        *("a\u202eb", "run%2e%2e%2f", "~root", "$(id)", "a b", "ä"),
    ],
)
def test_names_that_could_harm_are_refused(name: str) -> None:
    assert refused(changed("name", name)) == [("E-NAME", "name")]


# --- schema and imports ---------------------------------------------------------------------------


def test_json_schema_describes_every_field() -> None:
    schema = json_schema()
    assert schema["properties"]["experiment"]["enum"] == list(EXPERIMENTS)
    assert schema["anyOf"] == [{"required": ["experiment", "name"]}, {"required": ["extends"]}]
    assert schema["additionalProperties"] is False
    blocks = [schema, *schema["$defs"].values()]
    for block in blocks:
        for name, entry in block.get("properties", {}).items():
            assert "description" in entry or "const" in entry, (block["title"], name)


def test_reading_configs_imports_no_heavy_library() -> None:
    code = (
        "import sys, expreg.core.config; heavy = {'jax', 'pandas', 'matplotlib', 'scipy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
