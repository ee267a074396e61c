"""Before the first run: `expreg init`, and the keys that a shell completes."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from expreg import api, starting
from expreg.kinds import EXPERIMENTS

ROOT = Path(__file__).resolve().parents[1]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", EXPERIMENTS)
def test_init_writes_the_config_of_every_experiment_under_its_own_name(kind: str, command: Call) -> None:
    code, out, errors = command("init", kind, f"my-{kind}.yaml")
    assert (code, errors) == (0, "")
    assert out.splitlines()[1:] == [f"  expreg plan my-{kind}.yaml", f"  expreg run my-{kind}.yaml"]
    written, shipped = api.load_config(f"my-{kind}.yaml"), api.load_config(ROOT / f"configs/{kind}.yaml")
    assert (written.name, written.experiment) == (f"my-{kind}", kind)
    assert written.source.given | {"name": kind} == shipped.source.given
    text = Path(f"my-{kind}.yaml").read_text()
    assert "configs/" not in text.partition("\nexperiment:")[0].partition("expected")[0]
    assert text.startswith("# ")
    assert "$schema" not in text


def test_init_overwrites_nothing(command: Call, place: Path) -> None:
    assert command("init")[0] == 0
    (place / "threshold.yaml").write_text("mine")
    for words in ([], ["convergence", "threshold.yaml"]):
        code, out, errors = command("init", *words)
        assert (code, out, errors.count("\n")) == (2, "", 1)
        assert errors.startswith("error[E-FILE] threshold.yaml: exists already")
    assert (place / "threshold.yaml").read_text() == "mine"


def test_what_init_cannot_write_is_one_line(command: Call, place: Path) -> None:
    for words, start in {
        ("thresold",): "error[E-ENUM] KIND: got 'thresold', expected ",
        ("threshold", "absent/x.yaml"): "error[E-PATH] absent/x.yaml: FILE: there is no directory",
    }.items():
        code, _, errors = command("init", *words)
        assert (code, errors.count("\n")) == (2, 1)
        assert errors.startswith(start)
    assert "did you mean threshold?" in command("init", "thresold")[2]
    assert list(place.iterdir()) == []


def test_every_config_without_a_base_is_a_template_and_lies_in_the_wheel() -> None:
    shipped = {path.stem: path for path in (ROOT / "configs").glob("*.yaml")}
    alone = {name for name, path in shipped.items() if "\nextends:" not in path.read_text()}
    assert list(starting.templates())[: len(EXPERIMENTS)] == sorted(EXPERIMENTS)
    assert set(starting.templates()) == alone
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"configs": "expreg/configs"}


# --- completion -----------------------------------------------------------------------------------


def test_keys_are_those_of_the_experiment_and_are_accepted() -> None:
    networks, regression = (
        starting.completions(ROOT / f"configs/{name}.yaml", "") for name in ("threshold", "regression")
    )
    assert {"training.tolerance=", "execution.device=", "analysis.delta=", "sweep.product.n=", "measure="} <= set(
        networks
    )
    assert {"problem.loss=", "solver.name=", "sweep.product.solver.name="} <= set(regression)
    assert not any(key.startswith("training.") for key in regression)
    assert starting.completions(ROOT / "configs/threshold.yaml", "training.tol") == ["training.tolerance="]
    api.load_config(ROOT / "configs/threshold.yaml", ["training.tolerance=1e-3", "sweep.product.replicate.count=2"])


def test_values_are_completed_where_they_are_names() -> None:
    assert starting.completions(None, "precision=") == ["precision=f32", "precision=f64"]
    assert starting.completions(None, "execution.device=g") == ["execution.device=gpu"]
    assert starting.completions(None, "training.tolerance=") == []


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"experiment: nothing\n"])
def test_a_file_that_is_no_config_completes_as_a_new_one_does(place: Path, content: bytes | None) -> None:
    if content is not None:
        (place / "x.yaml").write_bytes(content)
    assert starting.completions(place / "x.yaml", "network.") == starting.completions(None, "network.") != []


def test_a_shell_gets_keys_without_jax(place: Path) -> None:
    """The very protocol of a shell, in a process of its own that must not import JAX."""
    code = "import sys; sys.modules['jax'] = None; from expreg.cli import main; sys.argv = ['expreg']; main()"
    words = {"_EXPREG_COMPLETE": "complete_bash", "COMP_WORDS": "expreg run x.yaml training.tol", "COMP_CWORD": "3"}
    found = subprocess.run([sys.executable, "-c", code], env={**os.environ, **words}, capture_output=True, text=True)
    assert (found.stdout.split(), found.stderr) == (["training.tolerance="], "")
