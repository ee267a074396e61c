"""When rows are committed: soon, in few files, and whatever way the engine ends. Whole runs are in test_api.py."""

import json
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from expreg.core.engine import execute
from expreg.core.engine.execute import COMMIT_SECONDS, _collect, workload
from expreg.core.engine.lanes import Engine
from expreg.core.engine.pace import Spent
from expreg.core.store import live
from expreg.types import Cost, Experiment, Program


class Script:
    """An engine, a store, a reporter and a clock in one: slices of a quarter second, a cell in every `k`-th."""

    def __init__(self, slices: int, k: int, failure: BaseException | None = None) -> None:
        self.slices, self.k, self.failure = slices, k, failure
        self.now = 50.0
        self.compilations = [("program of an earlier round", 2, 3.0)]
        self.commits: list[tuple[float, list[float]]] = []
        self.shown: list[Any] = []
        self.spent, self.occupied = Spent(5.0, 1.0), (1, 2)
        self.left_for_others: list[float] = []
        self.stores, self.devices = False, 2

    def monotonic(self) -> float:
        return self.now

    def run(self, cells: Any) -> Any:
        self.compilations.append(("program", 2, 1.5))
        self.spent = Spent(7.0, 1.5)
        for index in range(self.slices):
            self.now += 0.25
            yield [{"cell": str(index), "at": self.now}] if index % self.k == 0 else []
        if self.failure:
            raise self.failure

    def commit(self, rows: list[dict[str, Any]]) -> None:
        self.commits += [(self.now, [row["at"] for row in rows])] if rows else []

    def write(self, name: str, content: str) -> None:
        assert (name, json.loads(content)["done"]) == ("progress.json", len(self.shown))
        self.left_for_others.append(self.now)

    def progress(self) -> live.Progress:
        return live.Progress(len(self.shown), self.slices, {}, self.now)

    def add(
        self, rows: list[dict[str, Any]], spent: Spent, compiled: list[float], lanes: tuple[int, int], devices: int
    ) -> None:
        assert (spent, compiled, lanes, devices) == (Spent(2.0, 0.5), [1.5], (1, 2), 2)
        self.shown += [row["cell"] for row in rows]
        assert len(self.shown) == sum(len(times) for _, times in self.commits)  # shown once it is stored


def collect(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "time", SimpleNamespace(monotonic=script.monotonic, sleep=time.sleep))
    for rows in _collect(script, {}, script, script):  # type: ignore[arg-type]
        assert [row["at"] for row in rows] == (script.commits[-1][1] if rows else [])  # stored before they are seen


def test_rows_are_stored_within_a_second_at_first_and_ten_later(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(4 * 3600 * 10, 1)
    collect(script, monkeypatch)
    waits = [(now - 50, now - min(times)) for now, times in script.commits]
    assert all(wait <= 1.25 for since, wait in waits if since < 100)
    assert all(wait <= COMMIT_SECONDS[1] + 0.25 for _, wait in waits)
    assert len(script.commits) < 4000  # ten hours
    assert len(script.shown) == script.slices


def test_a_row_does_not_wait_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(400, 200)
    collect(script, monkeypatch)
    assert [now - times[0] <= 1.25 for now, times in script.commits] == [True, True]


def test_who_watches_sees_the_state_of_two_seconds_ago_although_no_cell_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(4 * 100, 4 * 50)
    collect(script, monkeypatch)
    seen = script.left_for_others
    assert seen[0] == 50.0  # before the first program is compiled
    assert max(np.diff(seen)) <= 2.25
    assert seen[-1] == script.now


def test_costs_are_computed_once_for_cells_that_differ_by_replicate_and_seed() -> None:
    asked: list[Any] = []
    experiment = Experiment(
        name="countdown",
        signature=lambda settings: settings["network"]["m"],
        build=lambda signature: None,  # type: ignore[arg-type, return-value]
        prepare=lambda settings: None,
        row=lambda settings, record: {},
        inputs=lambda settings: {},
        cost=lambda settings: (asked.append(settings), Cost(2.0, settings["network"]["m"], 8.0))[1],
    )
    networks = [{"m": 4}, {"m": 16}, {"m": "no number"}]
    cells = {
        f"{k}{replicate}": {"network": network, "replicate": replicate, "seed": replicate}
        for k, network in enumerate(networks)
        for replicate in range(50)
    }
    loads, programs = workload(experiment, cells)
    assert len(asked) == 2 + 50  # one that fails is reported in its row
    assert programs == {4, 16, "no number"}
    assert [loads[cell].device for cell in ("00", "049", "10", "20")] == [8.0, 8.0, 32.0, 0.0]


def test_the_engine_comes_back_after_every_slice() -> None:
    """So that rows are stored and progress is shown in time, although no cell ends for long."""
    program = Program(
        init=lambda inputs: inputs,
        advance=lambda left: left - 1,
        running=lambda left: left > 0,
        record=lambda left: {"left": left},
    )
    experiment = Experiment(
        name="countdown",
        signature=lambda settings: 0,
        build=lambda signature: program,
        prepare=lambda settings: np.int32(settings["length"]),
        row=lambda settings, record: {"status": "converged"},
        inputs=lambda settings: {},
        cost=lambda settings: Cost(1.0, 1.0, 8.0),
    )
    cells = [("short", {"length": 1}), ("long", {"length": 10})]
    batches = list(Engine(experiment, lanes=2, slice_seconds=1e-9).run(cells))
    assert [[row["cell"] for row in rows] for rows in batches] == [["short"], *[[]] * 8, ["long"]]


@pytest.mark.parametrize("failure", [RuntimeError("a bug"), KeyboardInterrupt()])
def test_what_is_finished_is_stored_however_the_engine_ends(
    monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    script = Script(3, 1, failure)
    with pytest.raises(type(failure)):
        collect(script, monkeypatch)
    assert script.shown == ["0", "1", "2"]


def test_what_cannot_be_stored_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    script, tried = Script(100, 1), []

    def full(rows: list[Any]) -> None:
        tried.append(len(rows))
        if rows:
            raise OSError

    monkeypatch.setattr(script, "commit", full)
    with pytest.raises(OSError):  # noqa: PT011
        collect(script, monkeypatch)
    assert [count for count in tried if count] == [4]
