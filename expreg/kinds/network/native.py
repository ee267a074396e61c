"""Steps of gradient descent and extreme eigenvalues by compiled code of our own, `steps.cc`, where a compiler is there.

The library is built once for this machine, at the first program that can use it, and kept in the compile cache.
Without a compiler, on accelerators and for all that it does not cover XLA does the same: slower, and equal up to
rounding. `EXPREG_NATIVE=off` asks for that.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from expreg.activation import ACTIVATIONS
from expreg.core.engine.devices import cache_directory, kept_in, processor

SOURCE = Path(__file__).with_name("steps.cc")
TARGETS = ("expreg_steps", "expreg_extremes")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-shared", "-fPIC")
BUILD_SECONDS = 120
_lock = threading.Lock()


def covers(signature: Any) -> bool:
    """Return whether the steps of these programs are ours: plain gradient descent on exp, on a CPU."""
    plain = signature.optimizer == "sgd" and signature.schedule is None
    exponential = ACTIVATIONS[signature.activation].multiplicative
    return plain and exponential and not missing()


def extremes(matrices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the extreme eigenvalues of symmetric float64 matrices, (..., n, n) -> (...), without eigenvectors."""
    result = jax.ShapeDtypeStruct(matrices.shape[:-2], matrices.dtype)
    low, high = jax.ffi.ffi_call(TARGETS[1], (result, result), vmap_method="broadcast_all")(matrices)
    return low, high


def steps(signature: Any, state: Any, limit: jax.Array, kernel: bool) -> tuple[jax.Array, ...]:
    """Take up to `measure_every` steps, stopping when ||r_t|| exceeds `limit`.

    Returns theta and the change of phi, ||r_t|| at the steps, (step, status), and the largest movement of a neuron,
    alone and in units of its radius, with lambda_min(H(t)) if the `kernel` is asked for, (3,).
    """
    inputs, dtype = state.inputs, state.theta.dtype
    numbers = jnp.stack([state.eta, inputs.scale, inputs.tolerance, limit]).astype(dtype)
    live = inputs.m // signature.branches
    counts = jnp.stack([state.step, state.budget, live, signature.form == "weight"]).astype(jnp.int32)
    results = (
        jax.ShapeDtypeStruct(state.theta.shape, dtype),
        jax.ShapeDtypeStruct(state.change.shape, dtype),
        jax.ShapeDtypeStruct((signature.measure_every,), dtype),
        jax.ShapeDtypeStruct((2,), jnp.int32),
        jax.ShapeDtypeStruct((3,), dtype),
    )
    call = jax.ffi.ffi_call(TARGETS[0], results, input_output_aliases={6: 0, 7: 1}, vmap_method="sequential")
    radii = jnp.zeros(0, dtype) if state.radii is None else state.radii
    operands = (state.linear, state.base[0], state.signs, state.initial_residual, numbers, counts)
    gram = state.gram if kernel else jnp.zeros((0, 0), dtype)
    return tuple(call(*operands, state.theta, state.change, radii, gram))


def missing() -> str:
    """Build and load the library unless that has been done; return why it cannot be used, empty if it can."""
    with _lock:  # programs are compiled by several threads
        return _prepared()


@cache
def _prepared() -> str:
    if os.environ.get("EXPREG_NATIVE") == "off":
        return "EXPREG_NATIVE is off"
    if jax.default_backend() != "cpu":
        return f"XLA takes the steps on a {jax.default_backend().upper()}"
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return "no C++ compiler (g++ or clang++) was found"
    try:
        with tempfile.TemporaryDirectory() as scratch:  # a library that is loaded may lose its file
            library = ctypes.cdll.LoadLibrary(str(_built(compiler, Path(scratch))))
        for target in TARGETS:
            jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, target)), platform="cpu")
    except subprocess.CalledProcessError as error:
        return f"{compiler} failed: {(error.stderr.strip().splitlines() or ['no message'])[0]}"
    except (OSError, subprocess.TimeoutExpired, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _built(compiler: str, scratch: Path) -> Path:
    """Return the library for this source, compiler and processor: that of the cache, or one that goes there."""
    command = [compiler, *FLAGS, f"-I{jax.ffi.include_dir()}", str(SOURCE)]
    facts = (SOURCE.read_text(), str(command), processor(), jax.__version__)
    key = f"steps-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}.so"
    directory = cache_directory()
    kept = kept_in(directory) if directory else None
    if kept and kept.get(key):
        return kept.place(key)  # what follows a library, its checksum, the loader ignores
    made = scratch / key
    subprocess.run([*command, "-o", str(made)], check=True, capture_output=True, text=True, timeout=BUILD_SECONDS)
    if kept:
        kept.put(key, made.read_bytes())
    return kept.place(key) if kept and kept.get(key) else made
