"""A search side by side with the whole grid: the same rows and thresholds for a part of the work, however it is run."""

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import expreg
from expreg import api
from expreg.core.bisection import verified
from expreg.core.store.store import Store
from expreg.core.store.table import read_events
from expreg.errors import StorageError
from expreg.kinds import EXPERIMENTS

CIRCUMSTANCES = ["seconds", "attempt"]
CRITERIA = ["E5", "E4", "movement"]
BASE: dict[str, Any] = {
    "experiment": "threshold",
    "name": "searched",
    "data": {"kind": "orthonormal"},
    "measure": ["E0", "E4", "E5"],
    "analysis": {"delta": 0.5, "resamples": 200},
}
OUTER = {"n": [4, 8, 16], "replicate": {"count": 30}}
SEARCH = {"axis": "m", "criterion": CRITERIA, "from": 2, "to": 8192}
GRID = {"sweep": {"product": {**OUTER, "m": {"geometric": [2, 8192, 25]}}}}
SMALL = {"sweep": {"search": {**SEARCH, "to": 512}, "product": {"n": [4, 8], "replicate": {"count": 6}}}}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Work in an empty directory, and leave out the figures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("expreg.core.page.page.write", lambda *arguments: None)
    return tmp_path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A search, and the whole grid of its candidates."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("expreg.core.page.page.write", lambda *arguments: None)
        searched = expreg.run(BASE | {"sweep": {"search": SEARCH, "product": OUTER}}, out=folder / "search")
        return searched, expreg.run(BASE | GRID, out=folder / "grid")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A search that was not interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("expreg.core.page.page.write", lambda *arguments: None)
        return expreg.run(BASE | SMALL, out=tmp_path_factory.mktemp("runs") / "small")


def same_rows(one, other, but=()):
    drop = [*CIRCUMSTANCES, *but]
    pd.testing.assert_frame_equal(one.drop(columns=drop), other.drop(columns=drop), check_exact=True)


def criteria(run):
    return {c["criterion"]: c for c in run.summary["groups"][0]["criteria"]}


# --- the same answer -------------------------------------------------------------------------------


def test_a_search_takes_a_quarter_of_the_neuron_steps_at_the_most(runs):
    searched, grid = (run.cells for run in runs)
    work = [(cells["steps"] * cells["m"]).sum() for cells in (searched, grid)]
    assert work[0] <= work[1] / 4
    assert len(searched) < len(grid) / 2


def test_its_rows_are_those_of_the_grid_bit_for_bit(runs):
    searched, grid = runs
    same_rows(grid.cells[grid.cells["cell"].isin(searched.cells["cell"])].reset_index(drop=True), searched.cells)
    curves = grid.curves[grid.curves["cell"].isin(searched.cells["cell"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(curves, searched.curves, check_exact=True)


@pytest.mark.parametrize("name", CRITERIA)
def test_thresholds_are_those_of_the_grid_within_their_intervals(runs, name):
    one, other = (criteria(run)[name] for run in runs)
    assert [row["n"] for row in one["thresholds"]] == OUTER["n"]
    for mine, theirs in zip(one["thresholds"], other["thresholds"], strict=True):
        assert mine.keys() == theirs.keys()
        assert theirs["interpolated_low"] <= mine["interpolated"] <= theirs["interpolated_high"]
        assert mine["interpolated_low"] <= theirs["interpolated"] <= mine["interpolated_high"]
        assert theirs["low"] <= mine["quantile"] <= theirs["high"]
        assert (mine["replicates"], mine["incomplete"], mine["narrowest"], mine["widest"]) == (30, 0, 2, 8192)
        if name == "movement":  # which is monotone, but for one replicate in a hundred
            assert mine["interpolated"] == pytest.approx(theirs["interpolated"], rel=0.05)
    low, high = (other["exponent"]["raw"][end] for end in ("low", "high"))
    assert low <= one["exponent"]["raw"]["value"] <= high


def test_success_curves_say_how_many_replicates_were_run(runs):
    searched, grid = runs
    counts = searched.cells.groupby(["n", "m"]).size()
    for name in CRITERIA:
        for row in criteria(searched)[name]["success"]:
            assert row["run"] == counts.get((row["n"], row["m"]))
            assert (row["trials"], row["missing"]) == (30, 0)
        assert all(row["run"] == row["trials"] == 30 for row in criteria(grid)[name]["success"])


def test_whole_lines_measure_what_the_search_assumes(runs):
    searched, grid = runs
    chosen = grid.cells["replicate"].isin(np.flatnonzero(verified(np.arange(30), 0.1)))
    for name in ("E4", "E5"):
        broken = []
        for _, line in grid.cells[chosen].sort_values("m").groupby(["n", "replicate"]):
            outcome = line[name].astype(int).to_numpy()
            broken.append(bool((np.diff(outcome) < 0).any()))
        found = criteria(searched)[name]["verification"]
        assert found["replicates"] == len(broken) == 9
        assert found["non_monotone"] == np.mean(broken)
        assert 0 < found["wrong"] < 0.1
    assert "verification" not in criteria(grid)["E5"]
    assert any(c["verification"]["non_monotone"] for c in criteria(searched).values())


def test_rates_and_shares_are_those_of_whole_lines_and_other_criteria_have_none(runs):
    searched, grid = runs
    assert set(criteria(searched)) == set(CRITERIA)
    assert set(criteria(grid)) > set(CRITERIA)
    assert {row["cells"] for row in searched.summary["groups"][0]["rates"]} <= {0, 1, 2, 3}
    [share] = [v for v in searched.summary["verdicts"] if v["claim"] == "probability"]
    assert share["replicates"] == 3
    assert searched.summary["settings"]["search"] == {"axis": "m", "criterion": CRITERIA, "verify": 0.1}
    assert "search" not in grid.summary["settings"]


def test_without_whole_lines_thresholds_stand_and_nothing_tests_them(small):
    overrides = {"sweep.search.verify": 0}
    run = expreg.run(BASE | SMALL, overrides, out="run")
    assert len(run.cells) < len(small.cells)
    for name, criterion in criteria(run).items():
        assert criterion["verification"]["replicates"] == 0
        assert all(row["non_monotone"] is None for row in criterion["thresholds"])
        for mine, theirs in zip(criterion["thresholds"], criteria(small)[name]["thresholds"], strict=True):
            assert (mine["replicates"], mine["incomplete"]) == (6, 0)
            assert mine["interpolated"] == pytest.approx(theirs["interpolated"], rel=0.5)
    assert run.summary["groups"][0]["rates"] == []
    assert "nothing tests that success is monotone" in run.verdicts


# --- however it is run -----------------------------------------------------------------------------


def test_a_search_in_pieces_is_the_search_in_one(small, monkeypatch):
    """Stop after every commit, with a commit after every slice."""
    monkeypatch.setattr("expreg.core.engine.execute.COMMIT_SECONDS", (0.0, 0.0))
    original, pieces = Store.commit, []

    def commit(self, rows):
        found = original(self, rows)
        if found and len(pieces) < 6:
            pieces.append(found)
            raise StorageError("stopped")
        return found

    monkeypatch.setattr(Store, "commit", commit)
    for _ in range(7):
        try:
            run = expreg.run(BASE | SMALL, {"execution.lanes": 2}, out="run")
        except StorageError:
            continue
    assert len(pieces) == 6
    same_rows(run.cells, small.cells)
    assert (run.cells["attempt"] == 1).all()


def test_what_is_finished_is_not_searched_again(small, place, monkeypatch):
    expreg.run(BASE | SMALL, out="run")
    events = read_events("run")
    monkeypatch.setattr("expreg.core.engine.lanes.compile_program", None)  # nothing may run
    expreg.run(BASE | SMALL, out="run")
    assert [e["kind"] for e in read_events("run")[len(events) :]] == ["opened", "finished"]
    manifest = json.loads((place / "run" / "manifest.json").read_text())
    assert (manifest["cells"], manifest["ending"]) == (len(small.cells), "finished")
    assert len(events) > 3


def test_rows_of_a_grid_serve_a_search_and_the_other_way_round(small, place):
    whole = {"sweep": {"product": {**SMALL["sweep"]["product"], "m": {"geometric": [2, 512, 17]}}}}
    expreg.run(BASE | SMALL, out="run")
    grid = expreg.run(BASE | whole, out="run")
    assert grid.cells["attempt"].eq(1).all()
    assert len(grid.cells) == api.status("run")["planned"] == 2 * 6 * 16
    again = expreg.run(BASE | SMALL, out="run")
    assert len(again.cells) == len(grid.cells)  # all are rows of its plan, and none ran


def test_cells_that_fail_do_not_stall_the_search_and_are_tried_again(small, monkeypatch):
    def failing(settings):
        if settings["network"]["m"] == 32 and settings["replicate"] in (1, 2, 3):
            raise ValueError("as if a library had failed")
        return EXPERIMENTS["convergence"].prepare(settings)

    with monkeypatch.context() as patch:
        patch.setitem(EXPERIMENTS, "threshold", replace(EXPERIMENTS["threshold"], prepare=failing))
        broken = expreg.run(BASE | SMALL, out="run")
    assert broken.failed == (broken.cells["status"] == "error").sum() > 0
    assert set(broken.cells["m"][broken.cells["status"] == "error"]) == {32}
    for criterion in criteria(broken).values():  # the neighbours bracket the threshold, if more widely
        for row in criterion["thresholds"]:
            assert row["replicates"] + row["incomplete"] == 6
            assert row["incomplete"] <= 3
    run = expreg.run(BASE | SMALL, out="run")
    assert run.failed == 0
    both = run.cells[run.cells["cell"].isin(small.cells["cell"])].reset_index(drop=True)
    same_rows(both, small.cells)


# --- what a person reads ---------------------------------------------------------------------------


def test_progress_speaks_of_rounds_and_of_at_most(place, command):
    (place / "x.json").write_text(json.dumps(BASE | SMALL))
    code, out, errors = command("plan", "x.json")
    assert code == 0
    first, second = out.splitlines()[:2]
    few, many = map(int, re.match(r"searched: at most 192 cells, (\d+) to (\d+) of them expected, in", first).groups())
    assert second == "  search: where E5, E4, movement begin to hold along m; 0.1 of the replicates run all of it"
    found = json.loads(command("plan", "x.json", "--json")[1])
    assert found["cells"] == 192
    assert found["search"]["expected"] == [few, many]
    code, out, errors = command("run", "x.json", "--out", "run")
    assert code == 0
    lines = errors.splitlines()
    assert lines[0].startswith("round 1: 0/")
    rounds = len({line.partition(":")[0] for line in lines if line.startswith("round")})
    ran = len(expreg.load("run").cells)
    assert few <= ran <= many
    assert f"search finished after {rounds} rounds: {ran} of at most 192 cells were needed" in lines
    broken = [c["verification"]["non_monotone"] for c in criteria(expreg.load("run")).values()]
    assert ("are not monotone" in out) == any(broken)
    over = f"run: {ran} of at most 192 cells done, search finished"
    assert command("status", "run")[1].startswith(over)
    assert f"{ran} cells, all finished before" in command("run", "x.json", "--out", "run")[2]
    assert command("status", "run")[1].startswith(over)  # also after a run that had nothing to do
