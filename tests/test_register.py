"""A user's own records: every example of docs/extending.md works from plan to export, and what is wrong is one line."""

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import expreg
from expreg import cli, registry
from expreg.activation import ACTIVATIONS
from expreg.errors import InputError
from expreg.kinds import EXPERIMENTS
from expreg.types import Column, Experiment

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = "".join((DOCS / f"{page}.md").read_text() for page in ("extending", "own_training"))
EXAMPLES = dict(re.findall(r"^```\w+ file=(\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
NAMES = sorted(name.removesuffix(".py") for name in EXAMPLES if name.endswith(".py"))
# runs commands one after the other in one process and prints their exit codes; figures are left out
DRIVER = """
import contextlib, io, json, sys
from unittest import mock
from expreg import cli
with mock.patch("expreg.core.page.page.write"):
    for words in json.loads(sys.argv[1]):
        sys.argv = ["expreg", *words]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.suppress(SystemExit):
            try:
                cli.main()
            except SystemExit as end:
                code = end.code or 0
        print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


def process(place, *commands):
    """Run commands in one fresh process; return (code, output, errors) of each."""
    words = [sys.executable, "-c", DRIVER, json.dumps(commands)]
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, check=True, timeout=240)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_an_example_of_the_documentation_works_from_plan_to_export(name, tmp_path):
    for file in (f"{name}.py", f"{name}.yaml"):
        (tmp_path / file).write_text(EXAMPLES[file])
    config, flag, run = f"{name}.yaml", ("--import", f"{name}.py"), f"runs/{name}"
    first = process(
        tmp_path, ["plan", config, *flag, "--json"], [*flag, "run", config], ["run", config, "--out", run, *flag]
    )
    assert [code for code, _, _ in first] == [0, 0, 0]
    cells = json.loads(first[0][1])["cells"]
    assert f"{cells} cells, all finished before" in first[2][2]
    [module] = json.loads((tmp_path / run / "plan.json").read_text())["modules"]
    assert (module["name"], module["path"]) == (f"{name}.py", str(tmp_path / f"{name}.py"))
    # later, without the flag, in another process
    sql = "SELECT status, count(*) AS n FROM cells GROUP BY ALL"
    later = process(
        tmp_path, ["report", run], ["query", run, sql, "--json"], ["status", run], ["export", run, "rows.parquet"],
        ["compare", run, run],
    )  # fmt: skip
    assert [code for code, _, _ in later] == [0] * 5
    assert sum(row["n"] for row in json.loads(later[1][1]) if row["status"] not in ("error", "oom")) == cells
    assert "warning" not in later[0][2]
    assert (tmp_path / "rows.parquet").stat().st_size > 0


def test_cells_that_raise_are_rows_and_the_next_run_tries_them_again(tmp_path):
    guard = """    if settings["replicate"] == 1 and not __import__("os").path.exists("luck"):
        raise ValueError("no luck")
    rng ="""
    (tmp_path / "walk.py").write_text(EXAMPLES["walk.py"].replace("    rng =", guard))
    (tmp_path / "walk.yaml").write_text(EXAMPLES["walk.yaml"])
    run, sql = ["run", "walk.yaml", "--import", "walk.py"], "SELECT status, status_detail, attempt FROM cells"
    first, rows = process(tmp_path, run, ["query", "runs/walk", sql, "--json"])
    assert first[0] == 3
    assert first[2].endswith("4 cells failed; the same command tries them again\n")
    found = sorted((row["status"], row["status_detail"], row["attempt"]) for row in json.loads(rows[1]))
    assert found == [("converged", "", 1)] * 4 + [("error", "ValueError: no luck", 1)] * 4
    (tmp_path / "luck").touch()
    second, rows = process(tmp_path, run, ["query", "runs/walk", sql, "--json"])
    assert second[0] == 0
    found = sorted((row["status"], row["attempt"]) for row in json.loads(rows[1]))
    assert found == [("converged", 1)] * 4 + [("converged", 2)] * 4


def test_a_run_says_which_module_has_changed_or_is_missing(tmp_path):
    for file in ("walk.py", "walk.yaml"):
        (tmp_path / file).write_text(EXAMPLES[file])
    [[code, _, _]] = process(tmp_path, ["run", "walk.yaml", "--import", "walk.py"])
    assert code == 0
    (tmp_path / "walk.py").write_text(EXAMPLES["walk.py"] + "\n")
    [[code, _, errors]] = process(tmp_path, ["report", "runs/walk"])
    assert (code, errors) == (0, "warning: walk.py has changed since this run was planned\n")
    (tmp_path / "walk.py").unlink()
    done = process(tmp_path, ["report", "runs/walk"], ["status", "runs/walk"], ["query", "runs/walk", "FROM cells"])
    assert [code for code, _, _ in done] == [2, 0, 0]
    assert re.fullmatch(r"error\[E-PLUGIN\] walk.py: this run needs the records of this module.*\n", done[0][2])


REGISTER = "import expreg, dataclasses\nfrom expreg.activation import ACTIVATIONS\nexp = ACTIVATIONS['exp']\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "there is no such file"),
        ("x = (", "SyntaxError"),
        ("\n\nraise ValueError('no\\nluck')", r":3: ValueError: no\\nluck"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("import no_such_module_here", "ModuleNotFoundError"),
        ("import expreg\nexpreg.register(7)", "got int, expected one of Experiment, Activation"),
        (
            REGISTER + "expreg.register(dataclasses.replace(exp, value=abs))",
            "'exp' is registered already, by expreg",
        ),
        (REGISTER + "expreg.register(dataclasses.replace(exp, name='a b'))", "expected a name of letters"),
    ],
)
def test_a_module_that_is_of_no_use_is_one_line(content, expected, tmp_path, monkeypatch, command):
    if content is not None:
        (tmp_path / "bad.py").write_text(content)
    monkeypatch.chdir(tmp_path)
    code, out, errors = command("schema", "--import", "bad.py")
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"error\[E-PLUGIN\] bad.py.*{expected}.*\n", errors)


def test_what_a_failing_module_registered_is_taken_back(tmp_path):
    path = tmp_path / "half.py"
    path.write_text(REGISTER + "expreg.register(dataclasses.replace(exp, name='half'))\n1 / 0")
    with pytest.raises(InputError, match="half.py:5: ZeroDivisionError"):
        registry.load_module(str(path))
    assert "half" not in ACTIVATIONS
    assert "half" not in sys.modules


def test_dotted_names_and_entry_points(monkeypatch):
    for name in ("no.such.module", "no such module", "../x"):
        with pytest.raises(InputError, match="E-PLUGIN"):
            registry.load_module(name)
    broken = metadata.EntryPoint("mine", "no_such_module_of_a_plugin", registry.GROUP)
    monkeypatch.setattr(metadata, "entry_points", lambda group: [broken])
    monkeypatch.setattr(registry, "_imported", set())
    with pytest.raises(InputError, match=r"E-PLUGIN\] no_such_module_of_a_plugin: ModuleNotFoundError"):
        registry.load_plugins()


def test_the_very_same_record_may_come_again():
    before = dict(ACTIVATIONS)
    expreg.register(ACTIVATIONS["exp"], EXPERIMENTS["threshold"])
    assert before == ACTIVATIONS


def none(*_):
    return None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "expected a class derived from"),
        ({"row": 7}, "row is 7, expected a function"),
        ({"columns": lambda: ["n"]}, "got 'n', expected Column"),
        ({"columns": lambda: [Column("n", "float", "")]}, "with a type of string, bool, int64, float64"),
        ({"columns": lambda: [Column("cell", "string", "")]}, "column 'cell' is declared twice, or"),
        ({"columns": lambda: [Column("n", "int64", "")] * 2}, "column 'n' is declared twice"),
        ({"columns": lambda: 1 / 0}, "its probe raised ZeroDivisionError"),
    ],
)
def test_an_experiment_is_tried_once(change, expected):
    parts = dict.fromkeys(("signature", "build", "prepare", "row"), none) | change
    with pytest.raises(InputError, match=re.escape(expected)):
        expreg.register(Experiment(name="mine", **parts))
    assert "mine" not in EXPERIMENTS


def test_imports_stand_before_or_behind_the_command():
    words = ["run", "x.yaml", "--import", "a.py", "n=1", "--import=b.c", "--", "--import"]
    assert cli._imports_first(words) == ["--import", "a.py", "--import=b.c", "run", "x.yaml", "n=1", "--", "--import"]
    assert cli._imports_first(["run", "--import"]) == ["run", "--import"]


def test_a_record_registered_by_a_script_asks_for_a_module_of_its_own():
    with pytest.raises(InputError, match=r"error\[E-PLUGIN\] mine/script.py: .*move them to a module"):
        registry.load_needed([{"name": "__main__", "path": "mine/script.py", "sha256": None}])
