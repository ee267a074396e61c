"""CUDA kernels of `expreg.kinds.network.kernel` on a CPU, by the emulator in cuda.h."""

import atexit
import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import jax
import numpy as np

from expreg.kinds.network import kernel

HERE = Path(__file__).parent
SCRATCH = Path(tempfile.mkdtemp(prefix="expreg-emulated-"))
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)
COMPILER = shutil.which("g++") or shutil.which("clang++")


@cache
def library(name, constants, edit=("", "")):
    """Compile a kernel for these constants, after an `edit` of its source (old, new)."""
    source = Path(kernel.__file__).with_name(f"{name}.cu").read_text()
    assert edit[0] in source
    text = "\n".join(
        [
            '#include "cuda.h"',
            *(f"#define {key} {value}" for key, value in constants),
            source.replace(*edit),
            'extern "C" void run(void** given, int count, int ranks, int threads, long bytes) {',
            f"  emulator::launch(count, ranks, threads, bytes, [=] {{ emulator::call(expreg_{name}, given); }});",
            "}",
        ]
    )
    place = SCRATCH / f"{name}-{len(list(SCRATCH.iterdir()))}.cc"
    place.write_text(text)
    flags = ("-std=c++20", "-O1", "-shared", "-fPIC", "-Wno-unknown-pragmas", f"-I{HERE}")
    subprocess.run([COMPILER, *flags, str(place), "-o", str(place.with_suffix(".so"))], check=True)
    return ctypes.CDLL(str(place.with_suffix(".so")))


def install(monkeypatch, capability="9.0", edit=("", "")):
    """Let kernels run on this CPU as they would on a GPU of that compute capability."""

    def launch(name, constants, grid, results):
        ranks = constants.get("RANKS", 1)
        run = library(name, tuple(constants.items()), edit if name == "steps" else ("", "")).run

        def call(*arrays):
            given = [np.ascontiguousarray(array) for array in arrays]
            made = [np.full(result.shape, 7, result.dtype) for result in results]
            pointers = (ctypes.c_void_p * (len(given) + len(made)))(*(array.ctypes.data for array in given + made))
            run(pointers, grid[0] // ranks, ranks, grid[1], ctypes.c_long(grid[2]))
            return made

        return lambda *operands: jax.pure_callback(call, list(results), *operands, vmap_method="sequential")

    monkeypatch.setattr(kernel, "_launch", launch)
    monkeypatch.setattr(kernel, "_capability", lambda: capability)
