"""The golden record: ids of every shipped config, rows and curves of one small run per kind and precision.

`python tests/golden/record.py` makes it anew; do so only where a change of the numbers is intended, and say so.
"""

import hashlib
import json
import platform
import sys
import tempfile
from pathlib import Path
from unittest import mock

import jaxlib
import numpy as np
import pandas as pd

import expreg
from expreg.core.engine import devices
from expreg.kinds.network import native

HERE = Path(__file__).parent
CONFIGS = HERE.parent.parent / "configs"
CIRCUMSTANCES = ("seconds", "device", "expreg_version", "jax_version", "attempt")

PATHS = ("problem.loss", "problem.activation", "solver.name", "solver.sketch")
RUNS = {
    "threshold": {
        "experiment": "threshold",
        "training": {"tolerance": 0.01, "measure_every": 8, "curve": {"points": 12}},
        "sweep": {
            "concat": [
                {"product": {"n": [6], "m": [8, 32, 96], "replicate": {"count": 2}}},
                {"product": {"n": [5], "m": [40], "network.init": ["iid"], "network.activation": ["cosh", "relu"]}},
                {"product": {"n": [6], "m": [40], "training.optimizer.name": ["adam"]}},
                {"product": {"n": [6], "m": [64], "data.kind": ["orthonormal", "equiangular", "near_duplicate"]}},
            ]
        },
    },
    "convergence": {
        "experiment": "convergence",
        "data": {"kind": "digits", "centre": True},
        "training": {"max_steps": 300, "tolerance": 1e-3, "relative": True},
        "sweep": {"product": {"n": [8], "m": [32, 64], "training.step_size.factor": [0.5, 3.0]}},
    },
    "concentration": {
        "experiment": "concentration",
        "sweep": {"product": {"n": [7], "m": [16, 1024], "network.activation": ["exp", "sinh"]}},
    },
    "capacity": {
        "experiment": "capacity",
        "data": {"kind": "sphere", "d": 3},
        "sweep": {
            "concat": [
                {"product": {"n": [9], "m": [2, 4], "solver.name": ["gauss_newton", "gd"]}},
                {"product": {"n": [9], "m": [5], "network.init": ["iid"], "network.activation": ["cosh", "sinh"]}},
            ]
        },
    },
    "regression": {
        "experiment": "regression",
        "problem": {"kind": "gaussian", "noise": 0.1, "condition": 3.0},
        "solver": {"max_steps": 40},
        "sweep": {
            "concat": [
                {"product": {"n": [60], "d": [3], **{path: [value] for path, value in zip(PATHS, row, strict=True)}}}
                for row in (
                    ("exponential", "exp", "gd", "none"),
                    ("softmax", "cosh", "newton", "none"),
                    ("rescaled", "exp", "gauss_newton", "none"),
                    ("projective", "cosh", "lbfgs", "none"),
                    ("softmax", "exp", "pcg", "countsketch"),
                    ("softmax", "exp", "newton", "leverage"),
                )
            ],
        },
    },
    "in_context": {
        "experiment": "in_context",
        "sweep": {
            "concat": [
                {"product": {"n": [16], "d": [3], "problem.move": ["gd", "newton", "data"]}},
                {"product": {"n": [16], "d": [3], "problem.activation": ["sinh"]}},
                {"product": {"problem.kind": ["attention"], "n": [24], "problem.tokens": [6], "problem.token": [5]}},
            ]
        },
    },
}


def machine():
    """Return what bits depend on beside the code: another processor or another compiler may round otherwise."""
    flags = Path("/proc/cpuinfo")
    lines = flags.read_text().splitlines() if flags.exists() else []
    vector = next(
        (sorted(w for w in line.split() if w.startswith(("avx", "fma"))) for line in lines if "flags" in line), []
    )
    devices.configure()
    return {
        "machine": platform.machine(),
        "vector": vector,
        "compiled_steps": not native.missing(),
        "jaxlib": jaxlib.__version__,
        "numpy": np.__version__,
    }


def ids(path):
    """Return the number of cells of a config, a digest of their ids in order, and the first of them."""
    from expreg.api import load_config
    from expreg.core.config import cell_id, cells

    found = [cell_id(settings) for settings, _ in cells(load_config(path))]
    digest = hashlib.sha256("\n".join(found).encode()).hexdigest()
    return {"cells": len(found), "first": found[:3], "sha256": digest}


def run(name, precision):
    """Return the columns of the cells and of the curves of a small run, in order of cells."""
    config = {"name": name, "seed": 3, "precision": precision, **RUNS[name]}
    # the page is drawn from the rows and adds nothing to them
    with tempfile.TemporaryDirectory() as folder, mock.patch("expreg.api.report", expreg.load):
        found = expreg.run(config, out=Path(folder) / "run")
        cells, curves = found.cells.sort_values("cell"), found.curves.sort_values(["cell", "step"])
    kept = cells.drop(columns=[column for column in CIRCUMSTANCES if column in cells])
    return {"cells": columns(kept), "curves": columns(curves)}


def columns(frame):
    """Return a frame as lists of Python values: floats as hexadecimal text, what is missing as null."""
    return {name: [plain(value) for value in frame[name].astype(object)] for name in frame}


def plain(value):
    if value is None or value is pd.NA:
        return None
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    return float(value).hex() if isinstance(value, (float, np.floating)) else str(value)


def show(name, precision):
    """Print the machine and a small run as JSON, for a test that must not depend on what its process did before."""
    print(json.dumps({"made_on": machine(), **run(name, precision)}))


def main():
    if sys.argv[1:2] == ["show"]:
        show(*sys.argv[2:])
        return
    names = sys.argv[1:] or ["ids", *RUNS]
    if "ids" in names:
        found = {path.name: ids(path) for path in sorted(CONFIGS.glob("*.yaml"))}
        (HERE / "ids.json").write_text(json.dumps(found, indent=1) + "\n")
    for name in [name for name in names if name in RUNS]:
        found = {"made_on": machine(), **{precision: run(name, precision) for precision in ("f32", "f64")}}
        lines = json.dumps(found, separators=(",", ":")).replace('],"', '],\n"')
        (HERE / f"{name}.json").write_text(lines + "\n")


if __name__ == "__main__":
    main()
