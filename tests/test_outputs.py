"""What `--json` prints is what `expreg schema` documents: every command, on runs in every state."""

import itertools
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import jax.numpy as jnp
import numpy as np
import pytest
import typer
from jsonschema import Draft202012Validator, ValidationError
from starts import start

import expreg
from expreg import api, cli, outputs
from expreg.benchmark import SUITES, columns, suite, sweep
from expreg.core.store import live
from expreg.kinds import EXPERIMENTS
from expreg.solver import Solution

SPHERE = {"data": {"kind": "sphere"}, "analysis": {"resamples": 20}}
SHORT = {**SPHERE, "training": {"max_steps": 60, "curve": {"points": 8}}, "measure": ["E0", "E2", "E4", "E5", "Ecert"]}
POINTS = {"n": [4, 6], "d": [6]}
GRID = {**POINTS, "m": [8, 32], "replicate": {"count": 3}}
BISECTION = {"axis": "m", "criterion": ["E5"], "from": 8, "to": 64, "points": 4}
DISTANCES = {"problem.accuracy": [1e-5, 1e-9], "problem.distance": [0.01, 0.1], "replicate": {"count": 3}}
NARROW = {"until": 0.5, "delta": 0.5, "confidence": 0.5, "resamples": 20}
MOVES = {"n": [12], "d": [3], "problem.radius": [0.7], "problem.move": ["gd", "data"], "replicate": {"count": 2}}
SAMPLED = {"optuna": {"trials": 4, "batch": 2}, "space": {"rate": {"uniform": [0.1, 0.9]}}}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "threshold": ("threshold", {**SHORT, "sweep": {"product": GRID}}),
    "overflowing": ("convergence", {**SHORT, "sweep": {"product": {"training.step_size.factor": [1, 90], **GRID}}}),
    "bisection": (
        "threshold",
        {**SHORT, "sweep": {"product": {**POINTS, "replicate": {"count": 3}}, "search": BISECTION}},
    ),
    "until": ("threshold", {**SHORT, "analysis": NARROW, "sweep": {"product": {**GRID, "n": [3, 4, 5]}}}),
    "start": ("concentration", {**SPHERE, "sweep": {"product": GRID}}),
    "fits": ("capacity", {**SPHERE, "sweep": {"product": {**GRID, "d": [4], "m": [2, 4, 6]}}}),
    "solved": ("regression", {"problem": {"n": 24, "d": 3}, "sweep": {"product": {"replicate": {"count": 3}}}}),
    "bounded": (
        "regression",
        {
            "precision": "f64",
            "solver": {"name": "gauss_newton", "sketch": "leverage"},
            "problem": {"kind": "bounded", "n": 96, "d": 3},
            "sweep": {"product": DISTANCES},
        },
    ),
    "moves": ("in_context", {"precision": "f64", "problem": {"sizes": 9}, "sweep": {"product": MOVES}}),
    "own": ("toy", {"sweep": {"product": {"rate": [0.1, 0.2], "replicate": {"count": 2}}}}),
    "broken": ("toy", {"sweep": {"product": {"rate": [0.1, 3.0]}}}),
    "sampled": ("toy", {"sweep": {"search": SAMPLED}}),
}


def begin(key: Any) -> Any:
    return jnp.float32(1)


def descend(x: Any, *, rate: float) -> Any:
    return x - rate * x, {"loss": x**2, "overflow": jnp.exp(100 * x)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, quickly_compiled: None) -> Iterator[Path]:
    """A directory with every config, and a run of each, one of them with failed cells."""
    found = tmp_path_factory.mktemp("outputs")
    toy = expreg.Training("toy", begin, descend, steps=6)
    expreg.register(toy)
    prepare = EXPERIMENTS["toy"].prepare
    object.__setattr__(EXPERIMENTS["toy"], "prepare", lambda of: prepare(of) if of["parameters"]["rate"] < 1 else 1 / 0)
    for name, (experiment, config) in CONFIGS.items():
        (found / f"{name}.yaml").write_text(json.dumps({"experiment": experiment, "name": name, **config}))
        expreg.run(found / f"{name}.yaml", out=found / name, draw=False)
    yield found
    del EXPERIMENTS["toy"]


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr("expreg.core.page.page.write", lambda *_: None)


def checked(name: str, found: Any) -> Any:
    """Return a document; fail where its schema, without keys of an experiment of one's own, does not allow it."""
    schema = outputs.schema(name)
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema | {"additionalProperties": False} if "properties" in schema else schema).validate(found)
    return found


@pytest.fixture
def document(command: Any) -> Any:
    """Run a command with --json; return its document, checked, from strict JSON."""

    def called(name: str, *words: str, code: int = 0) -> Any:
        ended, out, errors = command(name, *words, "--json")
        assert ended == code, errors
        return checked(name, json.loads(out, parse_constant=pytest.fail))

    return called


def test_each_command_with_json_has_a_schema() -> None:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    with_json = {name for name, of in commands.items() if any("--json" in option.opts for option in of.params)}
    assert with_json == set(outputs.OUTPUTS)


@pytest.mark.parametrize("name", CONFIGS)
def test_plans_runs_and_reports_are_as_documented(name: str, document: Any) -> None:
    planned = document("plan", f"{name}.yaml")
    assert "list" not in planned
    assert ("list" in document("plan", f"{name}.yaml", "--cells")) == (name != "sampled")
    failed = name == "broken"
    summary = document("run", f"{name}.yaml", "--out", name, code=3 if failed else 0)
    assert summary == document("report", name) == json.loads(Path(name, "summary.json").read_text())
    assert summary["counts"]["cells"] == len(expreg.load(name).cells)
    assert ("error" in summary["counts"]["by_status"]) == failed
    state = document("status", name)
    assert (state["failed"], state["running"], state["progress"]) == (int(failed), False, None)


def test_the_states_are_those_that_the_configs_are_for() -> None:
    found = {name: expreg.load(name).summary for name in CONFIGS}
    verdicts = [verdict for summary in found.values() for verdict in summary.get("verdicts", [])]
    assert {"width", "probability", "bound"} <= {verdict["claim"].split()[-1] for verdict in verdicts}
    assert None in [verdict["measured"] for verdict in verdicts]
    assert "nonfinite" in found["overflowing"]["counts"]["by_status"]
    assert found["bisection"]["counts"]["search"]
    assert found["sampled"]["best"]["trials"] == 4
    assert found["own"]["best"]["rows"]


def test_a_key_that_is_not_documented_is_refused(document: Any) -> None:
    for name, found in {"plan": document("plan", "own.yaml"), "status": document("status", "own")}.items():
        for key in found:
            with pytest.raises(ValidationError):
                checked(name, {other: value for other, value in found.items() if other != key} | {"unknown": 1})
    summary = document("report", "threshold")
    for changed in ({"counts": summary["counts"] | {"x": 1}}, {"verdicts": [summary["verdicts"][0] | {"x": 1}]}):
        with pytest.raises(ValidationError, match="'x' was unexpected"):
            checked("report", summary | changed)


def test_a_run_without_rows_and_one_with_a_damaged_plan(document: Any, command: Any, place: Path) -> None:
    command("run", "own.yaml", "--out", "empty")
    [part] = Path("empty/parts").iterdir()
    part.unlink()
    assert document("report", "empty")["counts"]["cells"] == document("status", "empty")["done"] == 0
    assert document("query", "empty", "SELECT * FROM cells") == []
    command("run", "own.yaml", "--out", "damaged")
    Path("damaged/plan.json").write_text("{")
    assert document("status", "damaged")["planned"] is None


def test_a_run_in_progress_has_its_progress(document: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expreg.core.store.table.is_locked", lambda _: True)
    Path("own/progress.json").write_text(live.text(live.Progress(1, 4, {"converged": 1}, 0.5)))
    assert document("status", "own")["progress"]["done"] == 1


def test_numbers_that_json_lacks_are_null(document: Any) -> None:
    sql = "SELECT 'nan'::DOUBLE AS a, -'inf'::DOUBLE AS b, NULL AS c, 0.5 AS d FROM cells LIMIT 1"
    assert document("query", "own", sql) == [{"a": None, "b": None, "c": None, "d": 0.5}]
    [row] = document("query", "own", "SELECT max(overflow) AS overflow, max(status) AS status FROM cells")
    assert row == {"overflow": None, "status": "nonfinite"}


def test_runs_side_by_side(document: Any) -> None:
    found = document("compare", "threshold", "own", "broken")
    assert found["runs"] == ["threshold", "own", "broken"]
    assert {len(values) for values in itertools.chain(found["settings"].values(), found["findings"].values())} == {3}
    assert found["findings"]["status error"] == [None, None, 1]


def test_certificates(document: Any) -> None:
    X, y, W, a = start(0, m=4096)
    np.savez("net.npz", X=X, y=y, W=W, a=a)
    assert document("certify", "--arrays", "net.npz")["holds"]
    np.savez("flat.npz", X=np.ones_like(X), y=y, W=W, a=a)
    flat = document("certify", "--arrays", "flat.npz")
    assert (flat["radius"], flat["steps"]) == (None, None)
    assert [sorted(one["axes"]) for one in document("certify", "start.yaml")] == [["d", "m", "n", "replicate"]] * 12


def test_solutions(document: Any) -> None:
    rng = np.random.default_rng(0)
    A = rng.normal(size=(40, 3))
    np.save("A.npy", A)
    np.save("b.npy", np.exp(A @ [0.1, 0.2, 0.3]))
    found = document("solve", "A.npy", "b.npy", "--loss", "exponential")
    assert set(found) == set(Solution._fields) == set(get_type_hints(Solution))
    assert len(found["x"]) == 3
    np.save("start.npy", [1e3, 0.0, 0.0])
    lost = document("solve", "A.npy", "b.npy", "--loss", "exponential", "--start", "start.npy")
    assert lost["loss"] is None


def test_the_doctor_with_and_without_a_backend(document: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert document("doctor")["jax"]
    monkeypatch.setattr("expreg.core.engine.trouble.machine", partial(_machine, backend="", failure="no backend"))
    assert document("doctor")["trouble"][0] == "JAX_PLATFORMS: no backend"


def _machine(**facts: Any) -> Any:
    from expreg.core.engine.trouble import Machine

    return Machine(**facts)


@pytest.mark.parametrize("name", SUITES)
def test_benchmarks(name: str, document: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "run", partial(suite.run, peers=("numpy l-bfgs-b",)))
    monkeypatch.setattr(sweep, "QUICK", (sweep.Size(3, 8, 3, 2, 30),))
    monkeypatch.setattr(sweep, "_peer", lambda name, given: {"note": "not here"})
    monkeypatch.setattr(columns, "_times", lambda *_: [0.1] * columns.REPEATS)
    only = ["--only", "dense 1e4 x 32, softmax"] if name == "regression" else []
    assert document("bench", name, "--quick", *only, "--limit", "0.5")


def test_a_schema_is_printed_written_and_completed(command: Any) -> None:
    code, out, _ = command("schema", "plan")
    assert (code, json.loads(out)) == (0, outputs.schema("plan"))
    assert json.loads(out) == api.json_schema("plan")
    assert command("schema", "status", "--out", "status.json")[0] == 0
    assert json.loads(Path("status.json").read_text()) == outputs.schema("status")
    code, out, errors = command("schema", "stats")
    assert (code, out) == (2, "")
    assert "did you mean status?" in errors
    assert cli._outputs("re") == ["report"]


def test_every_key_of_a_typed_document_is_described() -> None:
    for name in ("run", "plan", "status"):
        made = outputs.schema(name)
        for of in (made, *made.get("$defs", {}).values()):
            missing = [
                key
                for key, found in of["properties"].items()
                if not {"description", "$ref", "enum", "items"} & set(found)
            ]
            assert not missing, name
