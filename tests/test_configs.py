"""Every config and every script of the repository, shrunk by one function, from its file to its report."""

import math
import re
import runpy
from pathlib import Path

import pytest
from shrink import shrunk

import expreg
from expreg import api
from expreg.core import config as core
from expreg.kinds import EXPERIMENTS
from expreg.types import Status

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SCRIPTS = sorted((ROOT / "experiments").glob("*.py"))
RUN = [path for path in CONFIGS if not path.stem.endswith("_gpu")]  # those are the same configs with larger grids
TRAINED = [path for path in RUN if api.load_config(path).experiment in ("threshold", "convergence")]
DRAWN = ("threshold", "concentration")
"""Those whose report is drawn here; the figures are tested in tests/report."""


def name(path):
    return path.stem


def test_every_script_has_its_config_and_the_main_ones_a_script():
    assert set(map(name, SCRIPTS)) <= set(map(name, RUN))
    assert {"quickstart", "threshold", "convergence", "concentration", "lazy"} <= set(map(name, SCRIPTS))


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_a_config_says_what_it_is_for(path):
    header = path.read_text().split("\n\n", 1)[0]
    assert re.match(r"# (?:.+\n# )*.+\?\n#\n", header)  # the question that it answers
    for part in ("command", "time", "claim", "expected"):
        assert re.search(rf"^#   {part}  ", header, re.MULTILINE), part
    assert f"expreg run configs/{path.name}" in header


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_a_config_in_full_is_a_plan_of_a_few_programs(path):
    config = api.load_config(path)
    cells = [settings for settings, _ in core.cells(config)]
    assert config.name == path.stem
    assert 100 < len(cells) < 200_000
    assert len({EXPERIMENTS[config.experiment].signature(settings) for settings in cells}) <= 150


def run_of(path, capsys):
    """Return the run of a config: by its script where it has one, which prints its result and writes a figure."""
    script = ROOT / "experiments" / f"{path.stem}.py"
    if script not in SCRIPTS:
        return expreg.run(path, shrunk(path), out="runs/run")
    figure = runpy.run_path(str(script))["main"](shrunk(path))
    assert figure.is_relative_to("runs")
    assert figure.read_bytes()[:4] == b"\x89PNG"
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) >= 2
    assert re.search(r"\d\.\d\d|none", printed)
    return expreg.load(figure.parent)


@pytest.mark.parametrize("path", RUN, ids=name)
def test_a_config_runs_to_its_report(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if path.stem not in DRAWN:  # the figures of a page take longer than the cells
        monkeypatch.setattr("expreg.core.page.page.write", lambda *arguments: None)
    run = run_of(path, capsys)
    cells = run.cells
    plan = api.plan(path, shrunk(path))
    assert 9 <= len(cells) <= plan["cells"]
    assert "search" in plan or len(cells) == plan["cells"]
    assert set(cells["status"]) <= {status.name for status in Status}
    assert (cells["status"] == "converged").mean() > 0.3
    assert len(run.summary["groups"]) >= 1
    table = run.verdicts
    assert "contradicts" not in table
    assert any(verdict in table for verdict in ("consistent", "cannot decide"))
    if path in TRAINED:
        check_training(cells)
    if path.stem in DRAWN:
        page = (run.directory / "report.html").read_text()
        assert page.count("<img") + page.count("<svg") >= 3
        drawn = {file.name for file in (run.directory / "figures").iterdir()}
        assert {"thresholds.svg", "lambda.pdf"} <= drawn


def check_training(cells):
    """What every run of networks must leave, whatever it was for."""
    numbers = cells[["lambda_cts", "max_movement"]][cells["status"] != "diverged"]
    assert numbers.apply(lambda column: column.map(math.isfinite)).all(axis=None)
    assert (cells["residual_final"] <= cells["tolerance"]).eq(cells["E5"].astype(bool)).all()
    if "training.step_size.factor" not in cells:
        assert cells[cells["m"] == cells["m"].max()]["E5"].mean() >= 0.5
    if "Ecert" in cells:  # the certificate's promise, for those that kept its step size
        covered = cells[cells["Ecert"].astype(bool) & (cells["eta"] <= cells["eta_certified"])]
        assert (covered["refined_movement"] <= 1 + 1e-3).all()
        for event in {"E3cert", "E4cert"} & {*cells}:
            assert len(covered) >= 5
            assert covered[event].astype(bool).all()
