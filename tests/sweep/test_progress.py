"""Progress: quick to begin, sensible about the time left, silent where nobody looks, and never in the way."""

import io
import os
import re
from typing import Any

import pytest

from expreg import output
from expreg.core.engine import progress
from expreg.core.engine.progress import Reporter, duration


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def costs(count: int, cost: float = 1.0) -> dict[str, float]:
    return {str(k): cost for k in range(count)}


def rows(*cells: int, seconds: float = 0.0, status: str = "converged") -> list[dict[str, Any]]:
    return [{"cell": str(k), "status": status, "seconds": seconds} for k in cells]


def test_plain_lines_begin_at_once_come_seldom_and_end_with_the_time(clock: Clock) -> None:
    stream = io.StringIO()
    with Reporter(costs(1000), 24, programs=10, stream=stream) as reporter:
        assert stream.getvalue() == "24/1024 cells done; compiling 10 programs\n"
        for k in range(1000):
            clock.now += 0.1
            reporter.add(rows(k, seconds=0.1, status="diverged" if k == 7 else "converged"), [0.0] * 10)
    lines = stream.getvalue().splitlines()
    assert 5 <= len(lines) <= 12
    assert re.fullmatch(
        r"12\d/1024 cells done \(\d+ converged, 1 diverged\); 10 cells/s, (89|90) s left, 10 s so far", lines[1]
    )
    assert re.fullmatch(r"1024/1024 cells done \(999 converged, 1 diverged\); in (100 s|2 min)", lines[-1])


def test_lines_come_less_often_the_longer_it_takes(clock: Clock) -> None:
    stream = io.StringIO()
    with Reporter(costs(36_000), 0, stream=stream) as reporter:
        for k in range(36_000):  # ten hours
            clock.now += 1.0
            reporter.add(rows(k, seconds=1.0))
    assert len(stream.getvalue().splitlines()) < 150


def test_an_interrupted_run_says_how_long_it_had(clock: Clock) -> None:
    stream = io.StringIO()
    with Reporter(costs(4), 0, programs=1, stream=stream) as reporter:
        clock.now += 7.0
        reporter.add(rows(0))
    assert stream.getvalue().splitlines()[-1] == "1/4 cells done (1 converged); stopped after 7 s"


def test_time_left_is_by_cost_and_by_the_time_on_the_devices(clock: Clock) -> None:
    sizes = {"small": 1.0, "large": 98.0, "other": 1.0}
    reporter = Reporter(sizes, 0, programs=1, devices=1, stream=io.StringIO())
    assert reporter.seconds_left() != reporter.seconds_left()  # not known yet
    clock.now += 3.0 + 1.0  # three seconds of them compiling
    reporter.add([{"cell": "small", "status": "converged", "seconds": 1.0}], [3.0])
    assert reporter.seconds_left() == pytest.approx(99.0)


def test_compiling_before_the_first_cell_does_not_spoil_the_estimate(clock: Clock) -> None:
    """A hundred cells of one second each, two at a time, in four programs that take two seconds each to compile."""
    reporter = Reporter(costs(100), 0, programs=4, devices=2, stream=io.StringIO())
    clock.now += 2.0 + 1.0
    reporter.add(rows(0, 1, seconds=1.0), [2.0, 2.0])
    assert reporter.seconds_left() == pytest.approx(49 + 2, rel=0.05)


def test_cells_in_the_lanes_have_had_a_part_of_what_they_need(clock: Clock) -> None:
    """Ten equal cells take turns: when the first ends, the others are about to."""
    reporter = Reporter(costs(10), 0, devices=1, stream=io.StringIO())
    clock.now += 9.5
    reporter.add(rows(0, seconds=1.0))
    assert 0 < reporter.seconds_left() < 10
    assert Reporter(costs(10), 0, stream=io.StringIO()).seconds_left() != 0
    # stragglers that have taken longer than their cost says are given as long again
    clock.now += 90.5
    assert reporter.seconds_left() == pytest.approx(99.0)


def test_rows_without_seconds_and_cells_without_cost_do_no_harm(clock: Clock) -> None:
    stream = io.StringIO()
    with Reporter({"a": 0.0}, 0, stream=stream) as reporter:
        reporter.add([{"cell": "a", "status": "oom"}, {"cell": "unknown", "status": "oom", "seconds": None}])
    assert "2 oom" in stream.getvalue()


def test_a_terminal_gets_a_bar_and_one_line_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    with Reporter(costs(3), 0, programs=1, stream=stream) as reporter:
        reporter.add(rows(0, 1, 2))
    assert "━" in stream.getvalue()
    assert stream.getvalue().rstrip().splitlines()[-1].endswith("3/3 cells done (3 converged); in 0 s") or (
        "3/3 cells done (3 converged); in " in stream.getvalue()
    )
    assert "\x1b[?25h" in stream.getvalue()  # the cursor is shown again


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("NO_COLOR", "1")])
def test_simple_terminals_get_no_colours(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    stream = Terminal()
    with Reporter(costs(3), 0, programs=1, stream=stream) as reporter:
        reporter.add(rows(0, 1, 2))
    assert "\x1b[3" not in stream.getvalue()
    assert "3/3 cells done (3 converged); in " in stream.getvalue()
    if value == "dumb":
        assert "\x1b" not in stream.getvalue()
        assert stream.getvalue().startswith("0/3 cells done; compiling 1 program\n")


def test_silence_and_a_missing_stream(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(costs(1), 0, silent=True) as reporter:
        reporter.add(rows(0))
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr", None)  # as after 2>&-
    with Reporter(costs(1), 0) as reporter:
        reporter.add(rows(0))
    output.complain("nobody hears this")


def test_a_broken_pipe_silences_it(monkeypatch: pytest.MonkeyPatch) -> None:
    receive, send = os.pipe()
    os.close(receive)
    stream = open(send, "w", buffering=1)  # noqa: SIM115
    with Reporter(costs(2), 0, stream=stream) as reporter:
        reporter.add(rows(0))
        reporter.add(rows(1))
    with pytest.raises(BrokenPipeError):
        stream.close()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (0.0123, "0.0123 s"),
        (9.99, "9.99 s"),
        (61.4, "61 s"),
        (125, "2 min"),
        (3600 * 5 + 120, "5 h 2 min"),
        (86400 * 3, "3 d 0 h"),
        (float("nan"), "?"),
        (float("inf"), "?"),
    ],
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text
