"""Time `expreg run`, end to end with its rows stored, side by side with the loops that people write today.

Everyone trains the same networks from the same weights with the same step size in float32, in one run of the
benchmark, one after the other; residuals must agree before a time counts. Times are of wall clock per cell and step.
"""

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expreg import api
from expreg.benchmark import loops
from expreg.core.config import cells
from expreg.core.engine import devices
from expreg.core.page import terminal
from expreg.kinds import EXPERIMENTS
from expreg.types import cores

AGREEMENT = 1e-4
"""Of our ||r|| at the end with a float64 loop, relative to ||y||: what is further off has no time."""
PLAIN = 0.1
"""The same for peers: their sums of whole exponentials lose three digits in float32 (H.3), more at large m."""
FACTOR = 0.02
"""Of the largest stable step: no run converges or diverges."""
PEER_SECONDS = 600
ACCELERATED = 8
"""Times as many cells on an accelerator, where a step takes as long for a hundred cells as for one."""


class Size(NamedTuple):
    """One line of the table: cells of n points in d dimensions and m neurons; mean steps; whether lengths differ."""

    n: int
    m: int
    d: int
    cells: int
    steps: int
    straggler: bool = False

    @property
    def name(self) -> str:
        """Return the words that name the line."""
        shape = f"{self.n} x {self.m}" + (f", d = {self.d}" if self.d != self.n else "")
        return f"{shape}, lengths differ" if self.straggler else shape

    def lengths(self) -> list[int]:
        """Return the steps of each cell; geometric where lengths differ, as in sweeps."""
        if not self.straggler:
            return [self.steps] * self.cells
        drawn = np.sort(np.random.default_rng(0).geometric(1 / self.steps, self.cells))
        return [int(length) for length in np.maximum.accumulate(drawn - np.arange(self.cells)) + np.arange(self.cells)]


SIZES = (
    Size(8, 64, 8, 256, 10_000),
    Size(8, 1024, 8, 128, 2000),
    Size(16, 256, 16, 128, 5000),
    Size(16, 1024, 16, 64, 2000),
    Size(32, 1024, 32, 32, 2000),
    Size(32, 1024, 8, 32, 2000),
    Size(64, 4096, 64, 8, 500),
    Size(64, 65536, 64, 2, 100),
    Size(16, 1024, 16, 256, 500, straggler=True),
    Size(8, 64, 8, 2000, 100),
)
QUICK = (Size(8, 64, 8, 16, 100), Size(16, 256, 16, 8, 60, straggler=True))


def run(*, quick: bool, only: str | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Return one document with the times of everyone at every size; `say` gets each line as it is known."""
    devices.configure()
    sizes = [size for size in (QUICK if quick else SIZES) if only is None or only in size.name]
    peers = ["vmap", "numpy", *(("torch",) if find_spec("torch") else ())]
    if devices.describe()["backend"] != "cpu":
        sizes = [size._replace(cells=ACCELERATED * size.cells) for size in sizes]
        peers = [name for name in ("vmap", "torch", "torch.compile") if name == "vmap" or "torch" in peers]
    rates, lines = machine(), []
    for size in sizes:
        lines.append(_line(size, peers, rates))
        say(text({"machine": rates, "lines": lines[-1:]}))
    setup = {name: value for name, value in devices.describe().items() if name != "compile_cache"}  # a path of the user
    return {"machine": rates | setup, "lines": lines}


def config(size: Size, lengths: Sequence[int]) -> dict[str, Any]:
    """Return the config of the cells of one size: as many steps as `lengths` says, nobody converges."""
    replicates = {"replicate": {"count": len(lengths)}}
    differ = {"zip": {"replicate": list(range(len(lengths))), "training.max_steps": list(lengths)}}
    return {
        "experiment": "threshold",
        "name": "benchmark",
        "data": {"kind": "sphere", "n": size.n, "d": size.d},
        "network": {"m": size.m},
        "training": {"step_size": {"factor": FACTOR}, "tolerance": 0, "max_steps": lengths[0]},
        "sweep": differ if size.straggler else {"product": replicates},
    }


def _line(size: Size, peers: Sequence[str], rates: Mapping[str, float]) -> dict[str, Any]:
    lengths = size.lengths()
    with tempfile.TemporaryDirectory(prefix="expreg-bench-") as scratch:
        given = Path(scratch) / "given.npz"
        own = [_own(size, lengths, Path(scratch) / name) for name in ("warm", "first", "second")][1:]
        rows = own[0]["rows"]
        _write(given, size, rows)
        expected = _reference(given)
        seconds = {name: _peer(name, given) for name in peers}
    found = {
        "expreg": {"seconds": min(o["seconds"] for o in own), "residual": rows["residual_final"].iloc[0]},
        **seconds,
    }
    length = float(rows["label_norm"].iloc[0])
    errors = {name: abs(f["residual"] - expected) / length for name, f in found.items() if "residual" in f}
    limits = {name: AGREEMENT if name == "expreg" else PLAIN for name in errors}
    scale = 1e6 / sum(lengths)
    times = {name: found[name]["seconds"] * scale for name in errors if errors[name] <= limits[name]}
    notes = {name: f["note"] for name, f in found.items() if "note" in f}
    notes |= {n: f"||r|| is off by {errors[n]:.1e} ||y||, expected {limits[n]:.0e}" for n in errors if n not in times}
    base = times.get("expreg", math.nan)
    return {
        **size._asdict(),
        "size": size.name,
        "microseconds": times,
        "processor": min(o["processor"] for o in own) * scale,
        "ratios": {name: value / base for name, value in times.items() if name != "expreg"},
        "errors": errors,
        "notes": notes,
        "of_bound": _bound(size, rates) / base if devices.describe()["backend"] == "cpu" else None,
    }


def _reference(given: Path) -> float:
    """Return ||r|| of the first cell after its steps, in float64."""
    with np.load(given) as stored:
        first = {name: value[:1] for name, value in stored.items()}
    exact = {name: value.astype(np.float64) for name, value in first.items() if name != "steps"}
    return float(loops.numpy({**exact, "steps": first["steps"]})()[0])


def _own(size: Size, lengths: Sequence[int], directory: Path) -> dict[str, Any]:
    began, worked = time.perf_counter(), time.process_time()
    done = api.run(config(size, lengths), out=directory, draw=False)
    seconds, processor = time.perf_counter() - began, time.process_time() - worked
    return {"seconds": seconds, "processor": processor, "rows": done.cells.sort_values("replicate")}


def _write(path: Path, size: Size, rows: Any) -> None:
    """Write what the peers start from: the very arrays of the cells."""
    checked = api.load_config(config(size, rows["steps"].tolist()))
    settings = sorted((cell for cell, _ in cells(checked)), key=lambda cell: cell["replicate"])
    arrays = [EXPERIMENTS["threshold"].inputs(cell) for cell in settings]
    stacked = {name: np.stack([own[name] for own in arrays]).astype(np.float32) for name in ("X", "y", "W", "a")}
    eta, steps = rows["eta"].to_numpy(np.float32), rows["steps"].to_numpy(np.int64)
    np.savez(path, allow_pickle=False, **stacked, eta=eta, steps=steps)


def _peer(name: str, given: Path) -> dict[str, Any]:
    """Time a peer in a process of its own: it has the flags of its library, and not ours."""
    share = 1.0
    if name in loops.SLOW:  # one cell is enough
        with np.load(given) as stored:
            first = {key: value[:1] for key, value in stored.items()}
            share = stored["steps"].sum() / stored["steps"][0]
        np.savez(given.with_name("few.npz"), allow_pickle=False, **first)
        given = given.with_name("few.npz")
    command = [sys.executable, "-m", "expreg.benchmark.loops", name, str(given)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PEER_SECONDS)
    except subprocess.TimeoutExpired:
        return {"note": f"took more than {PEER_SECONDS} s"}
    except subprocess.CalledProcessError as error:
        return {"note": (error.stderr.strip().splitlines() or ["failed"])[-1][:200]}
    found = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": found["seconds"] * share, "residual": found["residuals"][0]}


# --- what the machine could do


def machine() -> dict[str, float]:
    """Return rates of this machine, all cores: float32 products as XLA has them, exponentials and copies as NumPy."""
    rng = np.random.default_rng(0)
    A, x = rng.standard_normal((1024, 1024), np.float32), rng.standard_normal(1 << 22, np.float32)
    out, product = np.empty_like(x), jax.jit(jnp.matmul)
    with devices.numerics():
        A = jax.device_put(A)
        flops = 2 * 1024**3 / _best(lambda: product(A, A).block_until_ready())
    return {
        "product_flops": flops,
        "exponentials": cores() * len(x) / _best(lambda: np.exp(x, out=out)),
        "copied_bytes": 8 * len(x) / _best(lambda: np.copyto(out, x)),
    }


def _best(call: Callable[[], Any]) -> float:
    def once() -> float:
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    return min(once() for _ in range(7))


ELEMENT_FLOPS = 24
"""Of a step beside its product, per point and neuron: a polynomial of degree seven and three updates."""


def _bound(size: Size, rates: Mapping[str, float]) -> float:
    """Return the microseconds that the arithmetic of a cell-step takes at the machine's rate of products."""
    inner = 2 * min(size.n, 2 * size.d)
    return 1e6 * size.n * size.m * (inner + ELEMENT_FLOPS) / rates["product_flops"]


# --- words


def summary(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield of each peer the geometric mean of its ratios, the smallest, and how far its answers are off."""
    for name in dict.fromkeys(name for line in document["lines"] for name in line["ratios"]):
        ratios = [line["ratios"][name] for line in document["lines"] if name in line["ratios"]]
        mean, off = math.exp(statistics.fmean(map(math.log, ratios))), _worst(document, name)
        yield (
            f"{name} takes {mean:.3g} times as long in the geometric mean, {min(ratios):.3g} times at the least; "
            f"its ||r|| is off by up to {off:.0e} ||y||"
        )
    yield f"expreg's ||r|| is off by up to {_worst(document, 'expreg'):.0e} ||y||"


def _worst(document: Mapping[str, Any], name: str) -> float:
    return max(line["errors"].get(name, 0.0) for line in document["lines"])


def text(document: Mapping[str, Any]) -> str:
    """Return the table that people read: microseconds per cell-step, and how many times as long each peer takes."""
    peers = list(dict.fromkeys(name for line in document["lines"] for name in line["errors"] if name != "expreg"))
    rows = [
        [
            line["size"],
            *(f"{line['cells']}", f"{line['steps']}", _time(line, "expreg")),
            *(_time(line, name) for name in peers),
            "-" if line["of_bound"] is None else f"{line['of_bound']:.2f}",
        ]
        for line in document["lines"]
    ]
    notes = [f"{line['size']}: {name}: {note}" for line in document["lines"] for name, note in line["notes"].items()]
    head = ["n x m", "cells", "steps", "expreg", *peers, "of bound"]
    return "\n".join([*terminal.lines(head, rows, right=True, indent=0), "", *summary(document), *notes])


def _time(line: Mapping[str, Any], name: str) -> str:
    value, ratio = line["microseconds"].get(name), line["ratios"].get(name)
    return "-" if value is None else f"{value:.3g}" + (f" ({ratio:.2g}x)" if ratio else "")
