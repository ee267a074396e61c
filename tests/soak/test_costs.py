"""What safety costs, and what one cell costs the others: commits, opening a run, cells that overflow, little memory."""

import json
import subprocess
import sys
import time

import numpy as np
import pandas as pd

import expreg
from expreg.core.store.store import Store

PLAN = {"hash": "0" * 16, "identity": {}, "axes": [], "cells": 0}
NETWORKS = {
    "experiment": "convergence",
    "name": "networks",
    "data": {"kind": "sphere", "d": 4},
    "training": {"max_steps": 300},
    "measure": ["E5"],
}
OPEN = """
import json, re, sys, time
from expreg.core.store import table
from expreg.core.store.store import Store
table.read(sys.argv[2])  # libraries are loaded
began = time.perf_counter()
with Store.open(sys.argv[1], json.loads(sys.argv[3]), "") as store:
    assert len(store.finished) == int(sys.argv[4])
seconds = time.perf_counter() - began
# ru_maxrss would be that of the process that started this one, where that is larger
largest = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())
print(json.dumps([seconds, int(largest[1]) / 1024]))
"""
LITTLE = """
import json, resource, sys
import jax
import expreg
jax.devices()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[3]) * 2**20,) * 2)
found = expreg.run(sys.argv[1], out=sys.argv[2], draw=False)
sys.exit(3 if found.failed else 0)
"""


def rows(numbers):
    """Return rows with a curve, as a run leaves them."""
    curve = {"curve_step": np.arange(40), "curve_residual": np.linspace(1, 0, 40)}
    return [{"cell": f"{k:016x}", "status": "converged", "seed": 0, "replicate": k, **curve} for k in numbers]


def test_a_commit_takes_milliseconds(tmp_path, soak):
    commits, seconds = soak.times(3, 500), []
    with Store.open(tmp_path, PLAN, "") as store:
        for k in range(commits):
            part = rows(range(64 * k, 64 * (k + 1)))
            began = time.perf_counter()
            store.commit(part)
            seconds.append(1000 * (time.perf_counter() - began))
    assert len(expreg.load(tmp_path).cells) == 64 * commits
    half, most, nearly_all = (round(float(np.quantile(seconds, share)), 2) for share in (0.5, 0.95, 0.99))
    title = "Commits of 64 cells with curves; a run commits at most once a second, and in 1 % of its time from then on"
    soak.figure("R5", title, commits=commits, median_ms=half, share_95_ms=most, share_99_ms=nearly_all)


def test_a_run_of_many_parts_is_opened_in_time(tmp_path, soak):
    figures, few = {}, tmp_path / "few"
    with Store.open(few, PLAN, "") as store:
        store.commit(rows([0]))
    for parts in soak.times((20,), (1000, 10_000)):
        place = tmp_path / str(parts)
        with Store.open(place, PLAN, "") as store:
            for k in range(parts):
                store.commit(rows([k]))
        words = [sys.executable, "-c", OPEN, place, few, json.dumps(PLAN), str(parts)]
        found = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=True)
        seconds, megabytes = json.loads(found.stdout)
        figures |= {f"seconds_for_{parts}": round(seconds, 2), f"MB_for_{parts}": round(megabytes)}
    soak.figure("R6", "A run of many parts is opened, as every resume does: each part is read and checked", **figures)


def test_cells_that_overflow_change_no_bit_of_the_others(tmp_path, soak):
    def run(name, scales):
        axes = {"n": [4], "m": [16], "network.scale": scales, "replicate": {"count": soak.times(8, 400)}}
        config = {**NETWORKS, "training": {**NETWORKS["training"], "step_size": {"rule": "fixed", "value": 0.01}}}
        return expreg.run({**config, "sweep": {"product": axes}}, out=tmp_path / name, draw=False)

    alone, among = run("alone", [1.0]), run("among", [1.0, 1e8, 30.0])
    circumstances = ["seconds", "device", "attempt", "expreg_version", "jax_version"]
    sound = among.cells[among.cells["network.scale"] == 1.0].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        *(one.drop(columns=circumstances, errors="ignore") for one in (alone.cells, sound)), check_exact=True
    )
    others = among.cells[among.cells["network.scale"] != 1.0]
    assert set(others["status"]) <= {"nonfinite", "diverged"}
    assert (others["status"] == "nonfinite").any()
    late = int(others.loc[others["network.scale"] == 1e8, "steps"].max())
    title = "Networks that overflow in the lanes beside others; steps: the most that one takes that overflows at once"
    numbers = {"sound": len(sound), "changed": 0, "overflowed": len(others), "steps": late}
    soak.figure("R9", title, **numbers)


def test_little_memory_costs_lanes_before_it_costs_cells(tmp_path, soak):
    """Every cell has a row, and only wide ones are `oom`. With still less, XLA aborts the process at its own start."""
    training = {"max_steps": 20, "optimizer": {"name": "adam"}, "step_size": {"rule": "fixed", "value": 0.001}}
    axes = {"n": [64], "m": [1024, 65536], "replicate": {"count": (count := soak.times(4, 20))}}
    asked = {**NETWORKS, "training": training, "execution": {"lanes": 16}, "sweep": {"product": axes}}
    path, figures = tmp_path / "wide.yaml", {}
    path.write_text(json.dumps(asked))
    for room in soak.times((2000,), (4000, 2000, 1000)):
        place = tmp_path / str(room)
        words = [sys.executable, "-c", LITTLE, path, place, str(room)]
        found = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
        assert found.returncode in (0, 3), found.stderr
        cells = expreg.load(place).cells
        assert len(cells) == 2 * count
        assert set(cells["status"]) <= {"max_steps", "converged", "oom"}
        assert not (cells["status"][cells["m"] == 1024] == "oom").any()
        assert found.returncode == (3 if (cells["status"] == "oom").any() else 0)
        figures[f"oom_at_{room}_MB"] = int((cells["status"] == "oom").sum())
    soak.figure("R10", "40 cells of two widths where little more memory is left than JAX takes at its start", **figures)
