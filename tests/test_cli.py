"""The command line: what each command prints, its exit codes, and what happens when a signal or a kill comes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import pandas as pd
import pyarrow.parquet as pq
import pytest

import expreg
from expreg import api
from expreg.core.engine import lanes as engine
from expreg.core.store.part import decode, encode, part_name, scan
from expreg.core.store.table import read_events

TINY: dict[str, Any] = {
    "experiment": "threshold",
    "name": "tiny",
    "data": {"kind": "sphere", "n": 4, "d": 4},
    "training": {"max_steps": 60, "curve": {"points": 8}},
    "measure": ["E0", "E5"],
    "sweep": {"product": {"m": [8, 32], "replicate": {"count": 2}}},
}
# Half of the cells end at once, the others go on long enough to be interrupted; both precisions.
LONG = {
    **TINY,
    "name": "long",
    "training": {"max_steps": 1500, "tolerance": 1e-4, "curve": {"points": 8}, "measure_every": 1},
    "sweep": {
        "product": {
            "precision": ["f32", "f64"],
            "m": [8],
            "training.step_size.factor": [1.0, 1e-5],
            "replicate": {"count": 6},
        }
    },
}
COMMANDS = [
    *(
        "init",
        "run",
        "plan",
        "certify",
        "status",
        "cancel",
        "report",
        "query",
        "export",
        "push",
        "compare",
        "solve",
        "bench",
    ),
    *("doctor", "schema"),
]
CIRCUMSTANCES = ["seconds", "attempt", "device", "expreg_version", "jax_version"]

Call = Callable[..., tuple[int, str, str]]
Process = subprocess.Popen[str]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a directory that holds nothing but tiny.yaml (JSON is YAML)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(json.dumps(TINY))
    return tmp_path


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, command: Call) -> Call:
    """Run the command line as `command` does, without figures."""
    monkeypatch.setattr("expreg.core.page.page.write", lambda *arguments: None)
    return command


WITHOUT_REPORT = """
import sys, types
report = types.ModuleType("expreg.core.page.page")
report.write = lambda *arguments: None
sys.modules["expreg.core.page.page"] = report
words = types.ModuleType("expreg.core.page.words")
words.verdict_text = lambda *arguments: "verdicts"
sys.modules["expreg.core.page.words"] = words
from expreg.cli import main
main()
"""


def start(*words: str, report: bool = True, environment: dict[str, str] | None = None, **more: Any) -> Process:
    """Start the real command, perhaps without the figures, which take most of its time."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    code = ["-m", "expreg"] if report else ["-c", WITHOUT_REPORT]
    return subprocess.Popen([sys.executable, *code, *words], text=True, env=os.environ | (environment or {}), **streams)


def finish(process: Process) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@contextmanager
def unread() -> Iterator[int]:
    """Open a stream whose reader has gone, as that of `expreg ... | head` when it has enough."""
    receive, send = os.pipe()
    os.close(receive)
    yield send
    os.close(send)


def listing(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


# --- help and usage --------------------------------------------------------------------------------


def light(calls: list[list[str]]) -> tuple[list[int], set[str], float]:
    """Run commands in one fresh process; return exit codes, the heavy libraries it loaded, its CPU seconds."""
    code = f"""
import sys, time, contextlib, io
from expreg.cli import main
codes = []
for words in {calls!r}:
    sys.argv = ["expreg", *words]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            main()
    except SystemExit as end:
        codes.append(int(end.code or 0))
heavy = {{"jax", "jaxlib", "pandas", "matplotlib", "scipy", "scipy.stats", "pyarrow", "duckdb", "sklearn"}}
print([codes, sorted(heavy & set(sys.modules)), time.process_time()])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    codes, heavy, seconds = json.loads(done.stdout.replace("'", '"'))
    return codes, set(heavy), seconds


def test_help_and_refusals_load_nothing_heavy_and_take_no_time(place: Path) -> None:
    sizes = {"m": {"range": [2, 2000001, 2]}, "seed": {"range": [0, 999999, 1]}}
    (place / "big.yaml").write_text(json.dumps({**TINY, "sweep": {"product": sizes}}))
    (place / "bad.yaml").write_text("name: x\nexperiment: none\n")
    helps = [["--help"], ["-h"], ["--version"], *([command, "--help"] for command in COMMANDS)]
    refusals = [["plan", "big.yaml"], ["run", "big.yaml"], ["run", "bad.yaml"], ["run", "absent.yaml"], ["run"]]
    codes, heavy, seconds = light([*helps, *refusals])
    assert codes == [0] * len(helps) + [2] * len(refusals)
    assert not heavy
    assert seconds < 2  # start-up and all of them together
    assert listing(place) == ["bad.yaml", "big.yaml", "tiny.yaml"]


def test_a_report_loads_only_what_it_draws_and_counts_with() -> None:
    expreg.run("tiny.yaml", out="run", draw=False)
    codes, heavy, _ = light([["report", "run"]])
    assert codes == [0]
    assert heavy == {"matplotlib", "pandas", "pyarrow", "scipy"}


def test_help_says_what_there_is(call: Call) -> None:
    code, out, err = call("--help")
    assert (code, err) == (0, "")
    listed = out.split("Commands:")[1].splitlines()[1:]
    assert [line.split()[0] for line in listed] == COMMANDS
    assert not [line for line in listed if line.endswith("...")]
    assert max(map(len, out.splitlines())) <= 80
    assert re.search(r"--out .*Run directory.  \[default: runs/<name>\]", call("run", "--help")[1])
    assert call("--version")[1] == f"expreg {expreg.__version__}\n"
    assert call()[0] == 2
    assert call()[1] == out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["frobnicate"], "No such command 'frobnicate'."),
        (["stats"], "No such command 'stats'. Did you mean 'status'?"),
        (["run"], "Missing argument 'CONFIG'."),
        (["run", "--zzz", "tiny.yaml"], "No such option: --zzz"),
        (["run", "tiny.yaml", "--out"], "Option '--out' requires an argument."),
        (["query", "runs/tiny"], "Missing argument 'SQL'."),
        (["schema", "--json"], "No such option: --json"),
        (["compare", "runs/tiny"], "Invalid value: one run; give two or more"),
    ],
)
def test_a_wrong_command_line_is_one_line(call: Call, place: Path, words: list[str], line: str) -> None:
    assert call(*words) == (2, "", f"error[E-USAGE] command line: {line}\n")
    assert listing(place) == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["run", "absent.yaml"], r"error\[E-FILE\] absent\.yaml: no such file"),
        (["plan", "."], r"error\[E-FILE\] \.: not a regular file"),
        (["run", "tiny.yaml", "foo"], r"error\[E-OVERRIDE\] command line: foo: expected key=value"),
        (["run", "tiny.yaml", "training.tolerence=3"], r"error\[E-UNKNOWN\] command line: .*did you mean tolerance\?"),
        (["plan", "tiny.yaml", "sweep.product.m=8,x"], r"error\[E-TYPE\] command line: sweep\.product\.m\[1\]: .*"),
        (["plan", "tiny.yaml", "data.n=65536"], r"error\[E-MEM\] cell n=65536: needs 128 GiB, have 23 GiB"),
        (["status", "absent"], r"error\[E-RUN\] absent: is not a run: it has no plan\.json"),
        (["report", "tiny.yaml"], r"error\[E-RUN\] tiny\.yaml: is not a run: .*"),
        (["query", ".", "select 1"], r"error\[E-RUN\] \.: is not a run: .*"),
        (["export", ".", "x.csv"], r"error\[E-RUN\] \.: is not a run: .*"),
        (
            ["export", ".", "x.xlsx"],
            r"error\[E-SUFFIX\] x\.xlsx: got '\.xlsx', expected one of \.csv, \.parquet, \.npz",
        ),
        (["compare", ".", "absent"], r"error\[E-RUN\] \.: is not a run: .*"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    call: Call, place: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], line: str
) -> None:
    monkeypatch.setattr("expreg.core.engine.estimate.host_memory", lambda: 23 * 2**30)
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert re.fullmatch(line + "\n", err)
    assert listing(place) == ["tiny.yaml"]


def test_all_errors_of_a_config_are_listed_with_their_lines(call: Call, place: Path) -> None:
    (place / "bad.yaml").write_text("experiment: none\nname: a/b\nseed: -1\ndata: {n: 4}\nnetwork: {m: 8}\n")
    code, out, err = call("run", "bad.yaml")
    assert (code, out) == (2, "")
    assert [line.split(" ")[:2] for line in err.splitlines()] == [
        ["error[E-ENUM]", "bad.yaml:1:13:"],
        ["error[E-NAME]", "bad.yaml:2:7:"],
        ["error[E-RANGE]", "bad.yaml:3:7:"],
    ]


# --- what commands print ---------------------------------------------------------------------------


def test_a_run_from_plan_to_export(call: Call, place: Path) -> None:
    """Every command once on one small run."""
    found = json.loads(call("plan", "tiny.yaml", "--json")[1])
    assert (found["cells"], found["programs"]) == (4, 1)
    listed = call("plan", "--cells", "tiny.yaml", "sweep.product.m=8")[1]
    assert listed.startswith("tiny: 2 cells in 1 program\n  m: 8  (1)\n  replicate: 0, 1  (2)\n")
    assert re.search(r"\n[0-9a-f]{16}  m=8 replicate=1\n$", listed)
    assert listing(place) == ["tiny.yaml"]

    code, out, err = call("run", "tiny.yaml", "--out", "run")
    assert code == 0
    assert out.endswith("\n4 of 4 planned cells, 0 damaged parts\nreport: run/report.html\n")
    assert err.startswith("0/4 cells done; compiling 1 program\n")
    assert re.search(r"\n4/4 cells done \(.*\); in .* s\ndrawing the report\n$", err)
    assert call("run", "tiny.yaml", "--out", "run")[2] == "4 cells, all finished before\ndrawing the report\n"
    assert call("report", "run")[1] == out
    assert not (place / "run" / "explore.html").exists()
    assert call("report", "run", "--interactive")[:2] == (0, f"{out}cells: run/explore.html\n")
    page = (place / "run" / "explore.html").read_bytes()
    (place / "run" / "explore.html").write_text("of fewer cells")
    assert call("report", "run")[1] == out
    assert (place / "run" / "explore.html").read_bytes() == page

    summary = json.loads((place / "run" / "summary.json").read_text())
    assert json.loads(call("run", "tiny.yaml", "--out", "run", "--json")[1]) == summary
    assert json.loads(call("report", "run", "--json")[1]) == summary
    found = json.loads(call("compare", "run", "run", "--json")[1])
    assert (found["runs"], found["settings"], found["findings"]["cells"]) == (["run", "run"], {}, [4, 4])
    assert call("status", "run")[1].startswith("run: 4 of 4 cells done, not running\n")
    assert not (place / "run" / "progress.json").exists()
    assert call("status", "run", "--watch") == call("status", "run")
    state = json.loads(call("status", "run", "--json")[1])
    assert state.items() >= {"planned": 4, "done": 4, "failed": 0, "damaged": [], "running": False}.items()

    sql = "select m, count(*) as k, sum(E0::int) as e from cells group by all order by all"
    assert [line.split() for line in call("query", "run", sql)[1].splitlines()] == [
        ["m", "k", "e"],
        ["8", "2", "2"],
        ["32", "2", "2"],
    ]
    assert json.loads(call("query", "run", sql, "--json")[1])[0] == {"m": 8, "k": 2, "e": 2.0}
    assert len(call("query", "run", "select range from range(500)")[1].splitlines()) == 501
    assert call("query", "run", "selec")[0] == 2

    for suffix in ("csv", "parquet", "npz"):
        assert call("export", "run", f"rows.{suffix}") == (
            0,
            f"rows.{suffix}\n",
            "4 of 4 planned cells, 0 damaged parts\n",
        )
    cells = expreg.load("run").cells
    assert pd.read_csv("rows.csv")["cell"].tolist() == cells["cell"].tolist()
    assert pq.read_table("rows.parquet")["residual_final"].to_pylist() == cells["residual_final"].tolist()

    call("run", "tiny.yaml", "--out", "other", "training.tolerance=0.1", "sweep.product.m=8")
    compared = call("compare", "run", "other")[1]
    assert re.search(r"^training\.tolerance +0\.05 +0\.1$", compared, re.MULTILINE)
    assert re.search(r"^cells +4 +2$", compared, re.MULTILINE)


@pytest.mark.filterwarnings("always::UserWarning")
def test_a_damaged_part_is_named_wherever_there_are_numbers(call: Call, place: Path) -> None:
    call("run", "tiny.yaml", "--out", "run", "sweep.product.m=8")
    [part] = (place / "run/parts").iterdir()
    call("run", "tiny.yaml", "--out", "run")
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    line = f"run/parts: {part.name}: its content does not match its name; its cells are left out"
    counted = "2 of 4 planned cells, 1 damaged part"
    _, out, err = call("query", "run", "select count(*) as k from cells", "--json")
    assert json.loads(out) == [{"k": 2}]
    assert err.startswith(line)
    assert err.endswith(f"\n{counted}\n")
    assert call("export", "run", "rows.csv")[2].endswith(f"\n{counted}\n")
    _, out, err = call("report", "run")
    assert err.startswith(f"warning: {line}")
    assert out.endswith(f"\n{counted}\nreport: run/report.html\n")
    assert (
        json.loads((place / "run/summary.json").read_text())["counts"].items() >= {"planned": 4, "damaged": 1}.items()
    )
    assert re.search(r"^damaged parts +1 +1$", call("compare", "run", "run")[1], re.MULTILINE)
    code, out, err = call("run", "tiny.yaml", "--out", "run")
    assert re.match(f"warning: run: {part.name}: .*; moved to quarantine/, its cells run again\n", err)
    assert (code, out.splitlines()[-2]) == (0, "4 of 4 planned cells, 0 damaged parts")


@pytest.mark.filterwarnings("always::UserWarning")
def test_cells_that_came_twice_with_other_numbers_end_no_run_and_are_named_once(call: Call, place: Path) -> None:
    call("run", "tiny.yaml", "--out", "run", "sweep.product.m=8")
    [part] = scan(place / "run", None)
    rows = [{**row, "residual_final": 7.0} for row in decode(part.file).to_pylist()]
    for published in (1, part.published + 1):  # before it, and after it
        data = encode(rows, part.owner, published=published)
        (place / "run/parts" / part_name(data)).write_bytes(data)
    code, _, err = call("run", "tiny.yaml", "--out", "run")
    assert code == 0
    assert [line for line in err.splitlines() if "warning" in line] == [
        "warning: run: 2 cells came twice with different numbers; the row that was published first counts, and "
        "events.jsonl has both"
    ]
    query = ("query", "run", "SELECT count(*) AS k FROM cells WHERE residual_final = 7", "--json")
    assert json.loads(call(*query)[1]) == [{"k": 2}]
    assert [(e["column"], e["kept"]) for e in read_events("run") if e["kind"] == "conflict"] == [
        ("residual_final", 7.0)
    ] * 2
    code, _, err = call("run", "tiny.yaml", "--out", "run")
    assert (code, "warning" in err) == (0, False)


def test_doctor_and_schema_print_one_json_document(call: Call) -> None:
    code, out, err = call("doctor", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["jax"] == jax.__version__
    assert re.search(r"^flops_per_second +\d", call("doctor")[1], re.MULTILINE)
    assert json.loads(call("schema")[1])["title"] == "expreg config"


def test_options_may_stand_anywhere(call: Call) -> None:
    for words in (
        ["plan", "--json", "tiny.yaml", "sweep.product.m=8"],
        ["plan", "tiny.yaml", "--json", "sweep.product.m=8"],
        ["plan", "tiny.yaml", "sweep.product.m=[8]", "--json"],
    ):
        assert json.loads(call(*words)[1])["cells"] == 2


def test_shells_complete_commands() -> None:
    environment = {"_EXPREG_COMPLETE": "complete_bash", "COMP_WORDS": "expreg re", "COMP_CWORD": "1"}
    command = Path(sys.executable).with_name("expreg")
    done = subprocess.run([command], env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["report"]


def test_a_reader_that_goes_away_is_no_failure() -> None:
    with unread() as stream:
        assert finish(start("schema", stdout=stream)) == (0, None, "")


# --- failures --------------------------------------------------------------------------------------


def test_failed_cells_are_exit_code_3(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> Any:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "compile_program", full)
        code, out, err = call("run", "tiny.yaml")
    assert code == 3
    assert out.endswith("report: runs/tiny/report.html\n")
    assert err.endswith("4 cells failed; the same command tries them again\n")
    assert call("run", "tiny.yaml")[0] == 0


def test_another_plan_is_exit_code_4_until_fresh(call: Call, place: Path) -> None:
    assert call("run", "tiny.yaml")[0] == 0
    before = {name: (place / name).read_bytes() for name in listing(place) if (place / name).is_file()}
    code, out, err = call("run", "tiny.yaml", "seed=1")
    assert (code, out) == (4, "")
    assert re.fullmatch(r"error\[E-PLAN\] runs/tiny: .*first difference: seed 0 -> 1; .*--out, or --fresh\n", err)
    assert {name: (place / name).read_bytes() for name in listing(place) if (place / name).is_file()} == before
    assert call("run", "tiny.yaml", "seed=1", "--fresh")[0] == 0
    assert sorted(path.name for path in (place / "runs").iterdir()) == ["tiny", "tiny.1"]


def test_a_bug_is_exit_code_1_with_its_traceback_and_the_run_resumes(
    call: Call, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr("tempfile.tempdir", None)
    with monkeypatch.context() as patch:
        patch.setattr("expreg.core.store.disk._passes", {"commit.after_link": 0})
        patch.setenv("EXPREG_TESTING", "1")
        patch.setenv("EXPREG_FAULT", "commit.after_link:raise")
        code, out, err = call("run", "tiny.yaml", "--out", "run")
    assert (code, out) == (1, "")
    last = err.splitlines()[-1]
    assert last.startswith(f"error[E-BUG] RuntimeError: 'fault at commit.after_link'; please report {place}")
    assert "Traceback" in Path(last.split("please report ")[1]).read_text()
    assert call("run", "tiny.yaml", "--out", "run")[0] == 0
    assert expreg.load("run").cells["attempt"].tolist() == [1] * 4


# --- signals and kills -----------------------------------------------------------------------------


def stored_rows(run: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in (run / "parts").glob("*.parquet"))


def test_interrupted_and_killed_runs_end_as_the_uninterrupted_one(place: Path) -> None:
    (place / "long.yaml").write_text(json.dumps(LONG))
    words = ["run", "long.yaml", "--out", "run"]
    slowly = ["execution.slice_seconds=1e-6", "execution.lanes=2"]  # a step at a time
    with unread() as stream:  # nobody reads the progress
        code, out, _ = finish(start("run", "long.yaml", "--out", "whole", report=False, stderr=stream))
    assert (code, out) == (0, "verdicts\n\n24 of 24 planned cells, 0 damaged parts\nreport: whole/report.html\n")

    process = start(*words, *slowly)
    while not stored_rows(place / "run") and process.poll() is None:
        time.sleep(0.02)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert (code, time.monotonic() - began < 20) == (75, True), err
    lines = r"interrupted, (\d+) of 24 cells done; resume with the same command:\n  expreg (.*)\n$"
    found = re.search(lines, err)
    assert found
    assert found[2].split() == [*words, *slowly]
    state = api.status("run")
    assert 0 < int(found[1]) == state["done"] == stored_rows(place / "run") < 24
    assert not state["running"]

    kill = {"EXPREG_TESTING": "1", "EXPREG_FAULT": "commit.after_link:kill"}
    assert finish(start(*words, *slowly, environment=kill))[0] == -signal.SIGKILL
    assert state["done"] < stored_rows(place / "run") < 24

    code, out, err = finish(start(*words))
    assert code == 0, err
    assert out.endswith("\nreport: run/report.html\n")
    assert (place / "run" / "report.html").stat().st_size > 10_000
    one, other = expreg.load("whole"), expreg.load("run")
    same = {"check_exact": True}
    pd.testing.assert_frame_equal(
        one.cells.drop(columns=CIRCUMSTANCES), other.cells.drop(columns=CIRCUMSTANCES), **same
    )
    pd.testing.assert_frame_equal(one.curves, other.curves, **same)
    assert stored_rows(place / "run") == 24  # one for each cell: nothing that was finished ran again
    assert (other.cells["attempt"] == 1).all()
    endings = [event["kind"] for event in read_events("run") if event["kind"] in ("interrupted", "finished")]
    assert endings == ["interrupted", "finished"]
    manifest = json.loads((place / "run" / "manifest.json").read_text())
    assert [manifest["ending"], *(earlier["ending"] for earlier in manifest["earlier"])] == [
        "finished",
        "killed",
        "interrupted",
    ]


def test_the_second_signal_ends_at_once_and_the_first_one_wherever_nothing_runs(place: Path) -> None:
    (place / "long.yaml").write_text(json.dumps(LONG))
    words = ["run", "long.yaml", "--out", "run", "training.max_steps=1000000", "execution.slice_seconds=100", "--fresh"]
    process = start(*words)
    while not (place / "run" / "manifest.json").exists() and process.poll() is None:  # cells are about to run
        time.sleep(0.02)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("0/24 cells done")
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    began = time.monotonic()
    code, _, err = finish(process)
    assert (code, time.monotonic() - began < 3) == (75, True)
    assert err.splitlines()[0].startswith("stopping after this slice")
    for number, delay in ((signal.SIGTERM, 0.7), (signal.SIGHUP, 1.0)):
        process = start(*words)
        time.sleep(delay)  # it still imports, and may not know yet which command it is
        process.send_signal(number)
        code, _, err = finish(process)
        assert code == 75
        hint = "resume with the same command:\n  expreg run long.yaml --out run training.max"
        assert hint in err or err == f"{number.name}: interrupted\n"
        assert "--fresh" not in err
