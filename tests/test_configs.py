"""Every config and every script of the repository, shrunk by one function, from its file to its report."""

import math
import re
import runpy
from pathlib import Path

import pytest
import yaml
from shrink import shrunk

import expreg
from expreg import report
from expreg.config import load, plan
from expreg.experiment import EXPERIMENTS

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SCRIPTS = sorted((ROOT / "experiments").glob("*.py"))


def name(path):
    return path.stem


def test_there_are_configs_and_each_has_a_script():
    assert {"quickstart", "threshold", "convergence"} <= set(map(name, CONFIGS))
    assert set(map(name, SCRIPTS)) == set(map(name, CONFIGS))


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_a_config_says_what_it_is_for(path):
    header = path.read_text().split("\n\n", 1)[0]
    assert re.match(r"# .+\?\n#\n", header)  # the question that it answers
    for part in ("command", "time", "claim", "expected"):
        assert re.search(rf"^#   {part}  ", header, re.MULTILINE), part
    assert f"expreg run configs/{path.name}" in header


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_a_config_in_full_is_a_plan_of_a_few_programs(path):
    config = load.load(path)
    cells = [settings for settings, _ in plan.cells(config)]
    assert config.name == path.stem
    assert 100 < len(cells) < 50_000
    assert len({EXPERIMENTS[config.experiment].signature(settings) for settings in cells}) <= 40


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_a_config_runs_to_its_report(path, tmp_path):
    run = expreg.run(path, shrunk(path), out=tmp_path / "run")
    regimes = len(yaml.safe_load(path.read_text())["sweep"].get("concat", [None]))
    assert set(run.cells["n"]) == set(yaml.safe_load(path.read_text())["sweep"]["product"]["n"][:2])
    assert set(run.cells["replicate"]) == {0, 1, 2}
    assert len(run.summary["groups"]) == regimes
    assert len(run.cells) <= regimes * 2 * 3 * 3
    statuses = run.cells["status"].value_counts()
    assert set(statuses.index) <= {"converged", "max_steps", "diverged"}
    assert statuses["converged"] > 0.3 * len(run.cells)
    widest = run.cells[run.cells["m"] == run.cells["m"].max()]
    assert widest["E5"].mean() >= 0.5
    assert (run.cells["residual_final"] <= run.cells["tolerance"]).eq(run.cells["E5"].astype(bool)).all()
    assert run.cells[["lambda_cts", "max_movement"]].apply(lambda column: column.map(math.isfinite)).all(axis=None)
    table = report.verdict_table(run.summary)
    assert "consistent" in table or "not resolvable" in table
    assert "contradicts" not in table
    page = (run.directory / "report.html").read_text()
    assert page.count("<img") + page.count("<svg") >= 3
    assert {"convergence.png", "thresholds.svg", "lambda.pdf"} <= {
        p.name for p in (run.directory / "figures").iterdir()
    }


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_a_script_prints_its_result_and_writes_its_figure(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("expreg.report.write", lambda *arguments: None)  # drawn by the test above
    figure = runpy.run_path(str(path))["main"](shrunk(ROOT / "configs" / f"{path.stem}.yaml"))
    assert figure.is_relative_to("runs")
    assert figure.read_bytes()[:4] == b"\x89PNG"
    told = capsys.readouterr().out
    assert len(told.splitlines()) >= 2
    assert re.search(r"\d\.\d\d|none", told)
