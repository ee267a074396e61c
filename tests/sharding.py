"""Runs whose cells are shared by several devices or processes, and what their programs send."""

import json
import math
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import expreg

BEGIN = """
import json, sys
from pathlib import Path
from expreg.core.engine import devices, programs
devices.cores = lambda: {cores}  # JAX then makes as many CPU devices, and one
from expreg import api
given = json.loads(sys.argv[1])

def run(overrides, out):
    api.run(given, overrides, out, draw=False)

def write_programs(*fields):
    for number, (_, program) in enumerate(programs._programs.values()):
        name = "-".join(str(getattr(program.signature, field)) for field in fields)
        Path(f"{name}-{number}.hlo").write_text(program.execute.as_text())
"""


def start(folder, cores, code, *given, **environment):
    """Return a process on so many devices that begins with the first of `given` as its config."""
    command = [sys.executable, "-c", BEGIN.replace("{cores}", str(cores)) + code, *map(json.dumps, given)]
    places = {"PYTHONPATH": str(Path(expreg.__file__).parents[1]), **environment}
    return subprocess.Popen(
        command, cwd=folder, env=os.environ | places, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ended(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output


def both(place, code, *given):
    """Run two processes of two devices each to their ends, in two folders, which are returned.

    The first is found as Slurm describes it, the second by the variables of its environment.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    slurm = {"JOB_ID": "1", "STEP_NODELIST": "localhost", "NTASKS": "2", "PROCID": "0", "LOCALID": "0"}
    here = {f"SLURM_{name}": value for name, value in slurm.items()} | {"JAX_COORDINATOR_PORT": port}
    there = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
    folders = [place / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    pair = [start(folder, 2, code, *given, **each) for folder, each in zip(folders, (here, there), strict=True)]
    for process in pair:
        ended(process)
    return folders


# --- what devices send ----------------------------------------------------------------------------

COLLECTIVE = r"= (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-\w+|ragged-all-to-all)(?:-start)?\("
SIZES = {"f32": 4, "f64": 8, "s32": 4, "s64": 8, "pred": 1}


def computations(text):
    """Return by name the collectives of each computation as (operation, bytes), the loops in it, and what it calls."""
    found, name = {}, ""
    for line in text.splitlines():
        if re.match(r"(ENTRY )?%?[\w.-]+ \(", line):
            name = re.match(r"(?:ENTRY )?%?([\w.-]+)", line)[1]
            found[name] = ([], [], [])
        elif name:
            collectives, loops, calls = found[name]
            if sent := re.search(COLLECTIVE, line):
                shapes = re.findall(r"(\w+)\[([\d,]*)\]", sent[1])
                size = sum(SIZES[kind] * math.prod(int(k) for k in dims.split(",") if k) for kind, dims in shapes)
                collectives.append((sent[2], size))
            loops += re.findall(r" while\(.*body=%?([\w.-]+)", line)
            several = re.findall(r"(?:branch_computations|called_computations)=\{([^}]*)\}", line)
            calls += [one.strip(" %") for names in several for one in names.split(",")]
            calls += re.findall(r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.-]+)", line)
    return found


def loops(text):
    """Return the collectives of (outer, inner) loops: those of a slice, of the steps in it."""
    found = computations(text)

    def inside(name):
        collectives, bodies, calls = found[name]
        parts = [inside(call) for call in calls]
        return collectives + [one for own, _ in parts for one in own], bodies + [one for _, own in parts for one in own]

    bodies = {body: inside(body) for _, loops, _ in found.values() for body in loops}
    return [(own, bodies[inner][0]) for own, below in bodies.values() for inner in below if own and bodies[inner][0]]


def collectives(text):
    """Return all collectives of a program as (operation, bytes)."""
    return [one for own, _, _ in computations(text).values() for one in own]
