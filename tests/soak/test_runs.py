"""A run under signals, kills and changed bytes, in processes of its own, as a user starts it."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings

import pandas as pd
import pytest

import expreg
from expreg.core.engine.interrupt import SIGNALS
from expreg.errors import InputError, StorageError

SWEEP = {
    "experiment": "threshold",
    "name": "sweep",
    "data": {"kind": "sphere", "d": 4},
    "training": {"max_steps": 400, "tolerance": 1e-3, "curve": {"points": 4}},
    "measure": ["E3", "E5"],
    "sweep": {"product": {"n": [2, 3, 4], "m": [8, 16, 32, 64], "replicate": {"count": 1}}},
}
CIRCUMSTANCES = ["seconds", "attempt", "device", "expreg_version", "jax_version"]
# a second run of the same directory must not wait for figures; only what is stored is compared here
STATISTICS = "import sys, expreg; expreg.run(sys.argv[1], sys.argv[3:], out=sys.argv[2], draw=False)"
# notes every cell that enters a lane, in a file beside the run
NOTED = """\
import sys
import expreg
from expreg.core.engine.lanes import Engine
refill = Engine._refill
def noted(self, views, queue, program):
    fresh = refill(self, views, queue, program)
    with open(sys.argv[2] + ".begun", "a") as file:
        file.writelines(f"{queue.occupied[lane][0]}\\n" for lane in fresh.nonzero()[0])
    return fresh
Engine._refill = noted
expreg.run(sys.argv[1], sys.argv[3:], out=sys.argv[2], draw=False)
"""


def config(place, replicates, **training):
    """Write a sweep of 12 cells a replicate."""
    sweep = {"product": SWEEP["sweep"]["product"] | {"replicate": {"count": replicates}}}
    path = place / "sweep.yaml"
    path.write_text(json.dumps({**SWEEP, "sweep": sweep, "training": SWEEP["training"] | training}))
    return path


def start(*words):
    return subprocess.Popen(
        [sys.executable, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(*words):
    process = start(*words)
    error = process.communicate()[1]
    assert process.returncode == 0, error


def rows(run):
    """Return the names of the stored parts: what has been acknowledged."""
    return {path.name for path in (run / "parts").glob("*.parquet")}


def test_a_sweep_ends_as_if_it_had_never_been_killed(tmp_path, soak):
    path = config(tmp_path, soak.times(10, 834))
    kills, random_moment = soak.times(1, 25), random.Random(7)
    finish("-c", STATISTICS, path, tmp_path / "whole")
    whole = expreg.load(tmp_path / "whole")
    place, killed, slowly = tmp_path / "killed", 0, "execution.slice_seconds=0.01"
    while killed < kills:
        process = start("-c", NOTED, path, place, slowly, "execution.lanes=4")
        known = rows(place)
        while process.poll() is None and not rows(place) - known:
            time.sleep(0.02)
        time.sleep(random_moment.uniform(0, 0.3))
        assert process.poll() is None, process.communicate()[1]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += 1
        assert known <= rows(place)
    finish("-c", NOTED, path, place)
    rest = expreg.load(place)
    for one, other in ((whole.cells, rest.cells), (whole.curves, rest.curves)):
        one, other = (frame.drop(columns=CIRCUMSTANCES, errors="ignore") for frame in (one, other))
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert (rest.cells["attempt"] == 1).all()  # no finished cell ran again
    again = sum(len(pd.read_parquet(part, columns=["cell"])) for part in (place / "parts").iterdir())
    assert again == len(whole.cells)
    title = "A sweep that is killed again and again, beside one that is not"
    soak.figure("R17", title, cells=len(whole.cells), kills=kills, lost=0, different=0, repeated=0)
    begun = (tmp_path / "killed.begun").read_text().split()
    assert set(begun) == set(whole.cells["cell"])
    repeated = len(begun) - len(whole.cells)
    assert repeated < len(whole.cells)  # less than a second start would cost
    share = round(100 * repeated / len(begun), 2)
    title = "The same sweep: cells that had begun, or were finished and not yet stored, and begin again"
    soak.figure("R4", title, kills=kills, begun_again=repeated, per_kill=round(repeated / kills, 1), percent=share)


def test_a_signal_at_any_moment_ends_in_75_or_in_a_finished_run(tmp_path, soak):
    path = config(tmp_path, 40, max_steps=1_000_000, tolerance=0.0)
    random_moment, waited, sent = random.Random(11), [], 0
    for k in range(soak.times(2, 50)):
        words = ["run", path, "--out", tmp_path / "run"] if k % 5 else ["report", tmp_path / "run"]
        process = start("-m", "expreg", *words)
        time.sleep(random_moment.uniform(0.05, 8.0 if k % 5 else 3.0))
        if process.poll() is None:
            process.send_signal(random_moment.choice(SIGNALS))
            sent += 1
        began = time.monotonic()
        error = process.communicate(timeout=60)[1]
        # `report` of a run that never began is bad input, and a short one may have ended before the signal
        assert process.returncode in ((75,) if k % 5 else (0, 2, 75)), (process.returncode, error)
        assert "Traceback" not in error
        if process.returncode == 75:
            waited.append(time.monotonic() - began)
    assert max(waited) < 20
    middle, largest = (round(value, 2) for value in (sorted(waited)[len(waited) // 2], max(waited)))
    title = (
        "SIGINT, SIGTERM, SIGHUP or SIGUSR1 at a random moment of `run` or `report`, import and compilation included"
    )
    soak.figure("R11", title, signals=sent, exit_75=len(waited), median_s=middle, largest_s=largest)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    place = tmp_path_factory.mktemp("finished")
    return expreg.run(config(place, 3), out=place / "run")


def test_a_changed_byte_anywhere_in_a_run_costs_no_other_row(tmp_path, finished, command, soak):
    files = sorted(path for path in finished.directory.rglob("*") if path.is_file() and path.name != ".lock")
    stored = finished.cells.drop(columns=CIRCUMSTANCES).set_index("cell")
    chosen, codes, seen = random.Random(3), [], 0
    for k in range(soak.times(24, 300)):
        place = tmp_path / str(k)
        shutil.copytree(finished.directory, place)
        victim = place / chosen.choice(files).relative_to(finished.directory)
        data = bytearray(victim.read_bytes())
        if not data:
            continue
        data[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
        victim.write_bytes(data)
        for words in (("status",), ("query",), *((("report",),) if k % 12 == 0 else ())):
            query = ("SELECT cell, residual_final FROM cells",) if words == ("query",) else ()
            with warnings.catch_warnings():
                warnings.simplefilter("default")  # of what is left out; the suite makes errors of warnings
                code, _, error = command(*words, str(place), *query)
            assert code in (0, 2, 4), (victim, words, error)
            assert len(error.splitlines()) <= 3
            assert os.path.exists(victim)
            codes.append(code)
        seen += _unchanged(place, stored)
        shutil.rmtree(place)
    title = "A bit changed anywhere in a run's files, then `status`, `query` and, for every twelfth, `report`"
    refused = sum(code != 0 for code in codes)
    soak.figure("R14-files", title, commands=len(codes), refused=refused, tracebacks=0, rows_changed=0, runs_read=seen)


def _unchanged(place, stored):
    """Check that the rows that are still read are those that were stored; return whether any are."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is left out
            left = expreg.load(place).cells.drop(columns=CIRCUMSTANCES).set_index("cell")
    except (InputError, StorageError):
        return 0
    if left.empty:  # all rows were in the part that is damaged
        return 0
    assert set(left.index) <= set(stored.index)
    pd.testing.assert_frame_equal(left, stored.loc[left.index], check_exact=True, check_dtype=False)
    return 1
