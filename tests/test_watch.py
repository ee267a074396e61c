"""`expreg status --watch`: what another process sees of a run, when it ends, and what a killed run leaves."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from expreg.core.engine.pace import Load, Pace
from expreg.core.engine.progress import Reporter
from expreg.core.page import watch
from expreg.core.store import live
from expreg.core.store.store import Store

PLAN = {"hash": "0" * 32, "identity": {"experiment": "threshold"}, "cells": 40, "ids": [], "axes": []}
Call = Callable[..., tuple[int, str, str]]


def half() -> live.Progress:
    """What the process of a run says when it has run half of its cells."""
    with Reporter(Pace({str(k): Load(1.0, 1.0) for k in range(40)}), 40, silent=True) as reporter:
        reporter.add([{"cell": str(k), "status": "converged"} for k in range(20)], occupied=(3, 8))
    return reporter.progress()._replace(seconds=10.0, seconds_left=9.6)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """A run in progress: this process owns it."""
    with Store.open(tmp_path / "run", PLAN, "") as store:
        store.write(live.NAME, live.text(half()))
        yield store.directory


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock by which looks at the run are a second apart."""
    now = [0.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(watch.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def test_both_processes_print_the_same_line(run: Path) -> None:
    said = io.StringIO()
    reporter = Reporter(Pace({}), 0, stream=said)
    reporter.progress = half  # type: ignore[method-assign]
    reporter._say(live.line(reporter.progress()))
    assert said.getvalue().strip() == live.line(live.read(run) or half()._replace(done=0))
    assert said.getvalue() == "20/40 cells done (20 converged); 2 cells/s, 10 s left, 10 s so far\n"


def test_status_of_a_run_in_progress_has_its_rate_and_time_left(run: Path, command: Call) -> None:
    code, out, _ = command("status", str(run))
    assert (code, out.splitlines()[0]) == (0, f"{run}: 0 of 40 cells done, running now")
    assert [line.split()[-2:] for line in out.splitlines()[1:4]] == [["2", "cells/s"], ["10", "s"], ["8", "busy"]]
    assert json.loads(command("status", str(run), "--json")[1])["progress"] == half()._asdict()


def test_queued_tasks_are_counted_where_a_run_says_how_far_it_is() -> None:
    said = io.StringIO()
    with Reporter(Pace({}), 40, label="round 2: ", stream=said) as reporter:
        reporter.add([{"cell": "1", "status": "converged"}], occupied=(0, 0, 6, 8))
        assert live.line(reporter.progress()).startswith("round 2: 6 of 8 tasks queued: 1/40 cells done (1 converged);")
        reporter.add([], occupied=(0, 0, 0, 8))
    assert live.line(reporter.progress()).startswith("round 2: 1/40 cells done (1 converged);")


@pytest.mark.parametrize(("running", "state"), [(True, "running now"), (False, "run by jobs")])
def test_queued_tasks_are_counted_in_the_state_of_a_run(running: bool, state: str) -> None:
    facts = {"running": running, "planned": 40, "done": 0, "search": None, "last_event": None, "by_status": {}}
    facts |= {"progress": None, "damaged": [], "jobs": {"7": {"pending": 5, "running": 1}, "8": {"pending": 1}}}
    assert watch.lines(Path("run"), facts)[0] == f"run: 0 of 40 cells done, {state}, 6 of 7 tasks queued"
    facts["jobs"] = {"7": {"running": 6}}
    assert watch.lines(Path("run"), facts)[0] == f"run: 0 of 40 cells done, {state}"


def test_what_a_killed_run_left_is_no_progress(run: Path, command: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expreg.core.store.table.is_locked", lambda _: False)
    for words in ([], ["--watch"]):
        code, out, _ = command("status", str(run), *words)
        assert (code, "not running" in out, "cells/s" in out) == (0, True, False)


@pytest.mark.parametrize("content", ["", "{", "7", "[]", '{"done": 1}', '{"done": "x", "of": 3, "statuses": 4}'])
def test_progress_that_cannot_be_read_costs_nothing(run: Path, command: Call, content: str) -> None:
    (run / live.NAME).write_text(content)
    code, out, _ = command("status", str(run))
    assert (code, "running now" in out) == (0, True)


def test_without_a_terminal_there_is_a_line_every_ten_seconds_until_the_run_ends(
    run: Path, clock: list[float], command: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def owned(_: Path) -> bool:
        progress = half()._replace(done=20 + int(clock[0]) // 20, seconds=10.0 + clock[0])
        (run / live.NAME).write_text(live.text(progress))
        if clock[0] > 45:
            (run / live.NAME).unlink()
        return clock[0] < 60

    monkeypatch.setattr(watch, "is_locked", owned)
    code, out, errors = command("status", str(run), "--watch")
    lines = out.splitlines()
    assert (code, errors) == (0, "")
    assert [line.split("/")[0] for line in lines[:5]] == ["20", "20", "21", "21", "22"]
    assert lines[5] == "beginning"  # no cells run: nothing says that it is over
    assert lines[6].startswith(f"{run}: 0 of 40 cells done")


def test_interrupting_it_is_no_failure(run: Path, command: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch.time, "sleep", interrupted)
    code, out, errors = command("status", str(run), "--watch")
    assert (code, out, errors) == (0, "20/40 cells done (20 converged); 2 cells/s, 10 s left, 10 s so far\n", "")


def test_a_terminal_shows_all_of_it_in_place(run: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(watch._frame(run))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0].endswith("run: 20 of 40 cells done")
    assert "━" in lines[1]
    assert [line.split()[0] for line in lines[2:6]] == ["converged", "rate", "time", "lanes"]
    assert lines[-1].split()[1] == "opened"


def test_watch_and_json_exclude_each_other(run: Path, command: Call) -> None:
    code, _, errors = command("status", str(run), "--watch", "--json")
    assert (code, errors.count("\n")) == (2, 1)
    assert "E-USAGE" in errors
