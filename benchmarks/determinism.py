"""Which circumstances leave every bit of a row: the table of docs/running.md.

Runs small sweeps of three experiments once as they are and once per circumstance, each in a process of its own, and
counts the rows in which any bit differs. About 40 compilations: ten minutes on two idle cores.

    python benchmarks/determinism.py [FOLDER]
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EVENTS = ["E0", "E1", "E1s", "E1m", "E2", "E3", "E4", "E5"]
NETWORK = {"experiment": "threshold", "data": {"kind": "sphere"}, "measure": EVENTS}
SWEEPS: dict[str, tuple[dict[str, Any], dict[str, Sequence[Any]]]] = {
    "threshold": (NETWORK, {"n": [6], "m": [8, 96]}),
    "in_context": ({"experiment": "in_context"}, {"n": [64], "d": [4], "problem.move": ["gd", "newton", "data"]}),
    "regression": (
        {"experiment": "regression", "problem": {"kind": "gaussian", "noise": 0.1, "condition": 3.0}},
        {"n": [60], "d": [5], "solver.name": ["newton", "pcg"]},
    ),
}
PRECISIONS = {"f32": list(SWEEPS), "f64": ["threshold"]}
CELLS = 36
# name: (settings of `execution`, environment, processor cores or None for all)
CIRCUMSTANCES: dict[str, tuple[dict[str, Any], dict[str, str], int | None]] = {
    "run again": ({}, {}, None),
    "1 core": ({}, {}, 1),
    "`execution.devices: 1`": ({"devices": 1}, {}, None),
    "one lane per device": ({"lanes": 2}, {}, None),
    "resumed after half of the replicates": ({"resumed": True}, {}, None),
    "cells in another order": ({"reversed": True}, {}, None),
    "slices of a millisecond": ({"slice_seconds": 1e-3}, {}, None),
    "4 threads of BLAS and OpenMP": ({}, {"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4"}, None),
    "4 devices": ({}, {}, 4),
    "`EXPREG_NATIVE=off`": ({}, {"EXPREG_NATIVE": "off"}, None),
    "`XLA_FLAGS=--xla_cpu_multi_thread_eigen=true`": ({}, {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=true"}, None),
}


def run(folder: Path, asked: dict[str, Any]) -> None:
    """Run all sweeps in this process."""
    cores = asked.pop("cores")
    if cores:  # more than there are share them
        os.sched_getaffinity = lambda _: set(range(cores))  # type: ignore[assignment]
    import expreg

    halves, backwards = asked.pop("resumed", False), asked.pop("reversed", False)
    for precision, names in PRECISIONS.items():
        for name in names:
            config, axes = SWEEPS[name]
            values = 1
            for axis in axes.values():
                values *= len(axis)
            if backwards:
                axes = {axis: values[::-1] for axis, values in reversed(axes.items())}
            for count in (CELLS // values // 2, CELLS // values) if halves else (CELLS // values,):
                sweep = {"product": axes | {"replicate": {"count": count}}}
                whole = {**config, "name": "bits", "precision": precision, "sweep": sweep, "execution": asked}
                expreg.run(whole, out=folder / f"{name} {precision}", draw=False)


def differing(one: Path, other: Path) -> tuple[int, int, float]:
    """Return in how many rows or curves any bit differs, of how many, and the largest relative difference."""
    import numpy as np
    import pandas as pd

    from expreg.core.store import table

    cells: set[str] = set()
    largest = 0.0
    first, second = table.read(one), table.read(other)
    for mine, yours in zip(first[:2], second[:2], strict=True):
        keys = [key for key in ("cell", "step") if key in mine and (key == "cell" or mine is first[1])]
        left, right = (frame.set_index(keys).sort_index() for frame in (mine, yours))
        assert left.index.equals(right.index)
        for name in left.columns.difference(["seconds", "attempt", "device"]):
            a, b = left[name], right[name]
            wrong = ~((a == b) | (a.isna() & b.isna())).fillna(False).to_numpy(bool)
            cells |= set(left.index.get_level_values("cell")[wrong])
            if wrong.any() and pd.api.types.is_numeric_dtype(a):
                size = np.maximum(a.abs(), b.abs())[wrong].to_numpy(float)
                largest = max(largest, float(np.nanmax((a - b).abs()[wrong].to_numpy(float) / size)))
    return len(cells), len(first[0]), largest


def main(folder: Path) -> None:
    """Print one row of the table per circumstance, as soon as it is known."""
    names = [f"{name} {precision}" for precision, known in PRECISIONS.items() for name in known]
    print(f"| | {' | '.join(names)} |\n|---|{'---|' * len(names)}", flush=True)
    places = []
    for title, (settings, environment, cores) in {"": ({}, {}, None), **CIRCUMSTANCES}.items():
        place = folder / str(len(places))
        places.append(place)
        asked = json.dumps({**settings, "cores": cores})
        # a program from the compile cache would not be one that these cores and flags compile to
        apart = cores or any(name.startswith(("XLA", "EXPREG")) for name in environment)
        cache = {"EXPREG_CACHE": str(folder / (f"cache-{len(places)}" if apart else "cache"))}
        pinned = ["taskset", "-c", "0"] if cores == 1 else []
        words = [*pinned, sys.executable, __file__, "--run", str(place), asked]
        subprocess.run(words, env=os.environ | cache | environment, check=True, stderr=subprocess.DEVNULL)
        if title:
            found = [differing(places[0] / name, place / name) for name in names]
            shown = [f"{wrong} of {cells}" + (f", {size:.0e}" if wrong else "") for wrong, cells, size in found]
            print(f"| {title} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run(Path(sys.argv[2]), json.loads(sys.argv[3]))
    else:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
