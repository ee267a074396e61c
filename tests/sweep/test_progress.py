"""Progress: quick to begin, sensible about the time left, silent where nobody looks, and never in the way."""

import io
import os
import re
from collections.abc import Mapping
from typing import Any

import pytest

from expreg import output
from expreg.core.engine import progress
from expreg.core.engine.pace import Load, Pace
from expreg.core.engine.progress import Reporter


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


def reporter(loads: Mapping[str, Load], done: int = 0, *, programs: int = 0, **options: Any) -> Reporter:
    return Reporter(Pace(loads, programs=programs), len(loads), done, **options)


def equal(count: int) -> dict[str, Load]:
    return {str(k): Load(1.0, 1.0) for k in range(count)}


def rows(*cells: int, seconds: float = 0.0, status: str = "converged") -> list[dict[str, Any]]:
    return [{"cell": str(k), "status": status, "seconds": seconds} for k in cells]


def test_plain_lines_begin_at_once_come_seldom_and_end_with_the_time(clock: Clock) -> None:
    stream = io.StringIO()
    with reporter(equal(1000), 24, programs=10, stream=stream) as shown:
        assert stream.getvalue() == "24/1024 cells done; compiling 10 programs\n"
        for k in range(1000):
            clock.now += 0.1
            shown.add(rows(k, status="diverged" if k == 7 else "converged"), compiled=[0.0] * 10)
    lines = stream.getvalue().splitlines()
    assert 5 <= len(lines) <= 12
    assert re.fullmatch(
        r"12\d/1024 cells done \(\d+ converged, 1 diverged\); 10 cells/s, (89|90) s left, 10 s so far", lines[1]
    )
    assert re.fullmatch(r"1024/1024 cells done \(999 converged, 1 diverged\); in (100 s|2 min)", lines[-1])


def test_lines_come_less_often_the_longer_it_takes(clock: Clock) -> None:
    stream = io.StringIO()
    with reporter(equal(36_000), stream=stream) as shown:
        for k in range(36_000):  # ten hours
            clock.now += 1.0
            shown.add(rows(k))
    assert len(stream.getvalue().splitlines()) < 150


def test_an_interrupted_run_says_how_long_it_had(clock: Clock) -> None:
    stream = io.StringIO()
    with reporter(equal(4), programs=1, stream=stream) as shown:
        clock.now += 7.0
        shown.add(rows(0))
    assert stream.getvalue().splitlines()[-1] == "1/4 cells done (1 converged); stopped after 7 s"


def test_rows_without_seconds_and_cells_without_cost_do_no_harm(clock: Clock) -> None:
    stream = io.StringIO()
    with reporter({"a": Load()}, stream=stream) as shown:
        shown.add([{"cell": "a", "status": "oom"}, {"cell": "unknown", "status": "oom", "seconds": None}])
    assert "2 oom" in stream.getvalue()


def test_a_terminal_gets_a_bar_and_one_line_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    with reporter(equal(3), programs=1, stream=stream) as shown:
        shown.add(rows(0, 1, 2))
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
    with reporter(equal(3), programs=1, stream=stream) as shown:
        shown.add(rows(0, 1, 2))
    assert "\x1b[3" not in stream.getvalue()
    assert "3/3 cells done (3 converged); in " in stream.getvalue()
    if value == "dumb":
        assert "\x1b" not in stream.getvalue()
        assert stream.getvalue().startswith("0/3 cells done; compiling 1 program\n")


def test_silence_and_a_missing_stream(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with reporter(equal(1), silent=True) as shown:
        shown.add(rows(0))
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr", None)  # as after 2>&-
    with reporter(equal(1)) as shown:
        shown.add(rows(0))
    output.complain("nobody hears this")


def test_a_broken_pipe_silences_it(monkeypatch: pytest.MonkeyPatch) -> None:
    receive, send = os.pipe()
    os.close(receive)
    stream = open(send, "w", buffering=1)  # noqa: SIM115
    with reporter(equal(2), stream=stream) as shown:
        shown.add(rows(0))
        shown.add(rows(1))
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
    assert output.duration(seconds) == text
