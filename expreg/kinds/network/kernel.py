"""Steps of gradient descent and extreme eigenvalues by CUDA kernels of our own, `steps.cu` and `extremes.cu`.

XLA launches eight kernels for each step and moves the states through memory, which for all but the largest networks
takes far longer than the arithmetic. Here one launch takes `measure_every` steps of all lanes. The kernels are compiled
for the shape of a program by NVRTC, which comes with JAX for CUDA, and handed to XLA as PTX. They are tried once in
each process: where they do not compile, or a result is off, XLA does the same. `EXPREG_NATIVE=off` asks for that.
"""

import ctypes
import hashlib
import os
import re
import threading
from collections.abc import Sequence
from ctypes.util import find_library
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expreg.activation import ACTIVATIONS
from expreg.core.engine.devices import cache_directory, kept_in, numerics
from expreg.types import Array, Status

CALL = "__gpu$xla.gpu.ptx"
ACTIVATION = {"exp": 0, "cosh": 1, "sinh": 2}
WARPS, GROUPS = 16, 4
"""Most warps of a block and groups of a warp: fewer warps of more groups were slower."""
SPARE = 64
"""Registers of a thread that its arrays leave free."""
POINTS = 64
"""Most points: theta of one column has to fit in the registers of a thread."""
MEMORY = {"8.0": 163, "8.7": 163, "9.0": 227, "10.0": 227, "10.3": 227}
"""KiB of shared memory that a block may use, by compute capability; where it is not known, 99."""
MATRICES = 128
"""Rows at most of the matrices whose eigenvalues a warp finds."""
_lock = threading.RLock()
AGREEMENT, AGREEMENT_64 = 1e-5, 1e-13
"""Relative error in the trial, of steps and of eigenvalues: float32 leaves 1e-7, one product of tensor cores 2e-4."""


class Layout(NamedTuple):
    """How the columns of a lane lie in threads: constants of `steps.cu`."""

    threads: int
    groups: int  # of 16 columns, in each warp
    ranks: int  # blocks that share a lane
    slopes: bool  # whether phi' stays in registers
    bases: bool  # and what phi starts from

    def bytes(self, n: int) -> int:
        """Return the shared memory of a block: K, columns, sums over them, and phi' unless it is in registers."""
        blocks, warps = -(-n // 8), self.threads // 32
        floats = 128 * blocks**2 + 64 * self.groups * warps + (3 * warps + 2 * self.ranks) * 8 * blocks
        return 4 * (floats + (0 if self.slopes else 4 * self.groups * blocks * self.threads))


def layout(n: int, columns: int, activation: str) -> Layout | None:
    """Return how a lane of so many columns lies in threads, None where it does not fit."""
    blocks, count = -(-n // 8), -(-columns // 16)
    bases = len(ACTIVATIONS[activation].base(np.zeros(1)))
    few = max(1, min(GROUPS, 8 // blocks))  # groups of a warp that leave most registers free
    # phi' is kept in registers beside theta, in as many blocks as that takes; otherwise in shared memory
    for warps, arrays in ((min(WARPS, -(-count // few)), 2), (WARPS, 1)):
        room = min(255, 2048 // warps) - SPARE
        for ranks in (1, 2, 4, 8) if float(_capability()) >= 9 else (1,):
            groups = -(-count // (warps * ranks))
            size = 4 * groups * blocks  # numbers of theta in each thread
            found = Layout(32 * warps, groups, ranks, arrays == 2, (arrays + bases) * size <= room)
            if groups <= GROUPS and arrays * size <= room and n <= POINTS and found.bytes(n) <= _memory():
                return found
    return None


def covers(signature: Any) -> bool:
    """Return whether the kernel takes the steps of these programs: plain descent, float32, Gram space, if it fits."""
    plain = signature.optimizer == "sgd" and signature.schedule is None
    known = signature.activation in ACTIVATION and signature.dtype == "float32" and signature.form == "gram"
    if not (plain and known) or missing():
        return False
    return layout(signature.n, signature.branches * signature.neurons, signature.activation) is not None


def finds(n: int) -> bool:
    """Return whether a kernel finds the extreme eigenvalues of (n, n) matrices."""
    return not missing() and n <= MATRICES and _bytes(n) <= _memory()


def steps(signature: Any, state: Any, limit: jax.Array, place: Layout | None = None) -> tuple[jax.Array, ...]:
    """Take up to `measure_every` steps, stopping when ||r_t|| exceeds `limit`; in a layout that suits, or `place`.

    Returns theta, phi'(z_t), ||r_t|| at the steps, (step, status), and the largest movement of a neuron, alone and in
    units of its radius, (2,).
    """
    inputs, real = state.inputs, jnp.float32
    numbers = jnp.stack([state.eta, inputs.scale, inputs.tolerance, limit]).astype(real)
    counts = jnp.stack([state.step, state.budget, state.status, inputs.m // signature.branches]).astype(jnp.int32)
    radii = jnp.zeros(signature.neurons, real) if state.radii is None else state.radii
    operands = (state.gram, state.signs, state.initial_residual, numbers, counts, state.theta, radii, *state.base)
    shapes = (state.theta.shape, state.theta.shape, (signature.measure_every,), (2,), (2,))
    types = (real, real, real, jnp.int32, real)
    results = [jax.ShapeDtypeStruct(*result) for result in zip(shapes, types, strict=True)]
    place = place or layout(signature.n, signature.branches * signature.neurons, signature.activation)
    assert place is not None  # or the program is XLA's: see `covers`
    constants = {
        "N": signature.n,
        "P": signature.neurons,
        "BRANCHES": signature.branches,
        "STEPS": signature.measure_every,
        "ACTIVATION": ACTIVATION[signature.activation],
        "RADII": int(state.radii is not None),
        **dict(zip(("T", "GROUPS", "RANKS", "SLOPES", "BASES"), map(int, place), strict=True)),
    }
    grid = (place.ranks, place.threads, place.bytes(signature.n))
    return tuple(_launch("steps", constants, grid, results)(*operands))


def extremes(matrices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the extreme eigenvalues of symmetric float64 matrices, (count, n, n) -> (count,), without eigenvectors."""
    count, n = matrices.shape[:2]
    result = jax.ShapeDtypeStruct((count,), matrices.dtype)
    low, high = _launch("extremes", {"N": n}, (count, 32, _bytes(n)), [result, result])(matrices)
    return low, high


def _bytes(n: int) -> int:
    """Return the shared memory that the eigenvalues of an (n, n) matrix take."""
    return 8 * n * ((n | 1) + 3)


# --- from source to launch


def _launch(name: str, constants: dict[str, int], grid: tuple[int, int, int], results: Sequence[Any]) -> Any:
    """Return the call of a kernel for one lane, which vmap makes one launch for all lanes.

    `grid`: blocks of a lane, threads of a block, bytes of its shared memory.
    """
    ptx = _compiled(name, tuple(constants.items()))
    sizes = dict(zip(("grid_x", "block_x", "shared_mem_bytes"), map(np.int32, grid), strict=True))
    rest = {key: np.int32(1) for key in ("grid_y", "grid_z", "block_y", "block_z")}

    def lanes(count: int, *operands: jax.Array) -> list[jax.Array]:
        shapes = [jax.ShapeDtypeStruct((count, *result.shape), result.dtype) for result in results]
        attributes = sizes | rest | {"grid_x": np.int32(count * grid[0])}
        call = jax.ffi.ffi_call(CALL, shapes)
        return list(call(*operands, name=f"expreg_{name}", kernel_type="ptx", kernel_data=ptx, **attributes))

    @jax.custom_batching.custom_vmap
    def launch(*operands: jax.Array) -> list[jax.Array]:
        return [found[0] for found in lanes(1, *(operand[None] for operand in operands))]

    @launch.def_vmap
    def _(count: int, batched: list[bool], *operands: jax.Array) -> tuple[list[jax.Array], list[bool]]:
        pairs = zip(operands, batched, strict=True)
        wide = (one if own else jnp.broadcast_to(one, (count, *one.shape)) for one, own in pairs)
        return lanes(count, *wide), [True] * len(results)

    return launch


@cache
def _compiled(name: str, constants: tuple[tuple[str, int], ...]) -> str:
    """Return the PTX of a kernel for these constants: that of the cache, or made by NVRTC."""
    # not as options: those would also change NVRTC's own headers
    source = "".join(f"#define {key} {value}\n" for key, value in constants)
    source += Path(__file__).with_name(f"{name}.cu").read_text()
    options = ("-std=c++17", "-default-device", f"-arch=compute_{'90' if float(_capability()) >= 9 else '80'}")
    directory, key = cache_directory(), hashlib.sha256(repr((source, options)).encode()).hexdigest()[:16]
    kept = kept_in(directory) if directory else None
    if kept and (found := kept.get(f"{name}-{key}.ptx")):
        return found.decode()
    ptx = _by_nvrtc(source, options)
    if kept:
        kept.put(f"{name}-{key}.ptx", ptx.encode())
    return ptx


def _by_nvrtc(source: str, options: Sequence[str]) -> str:
    """Compile CUDA to PTX; raise RuntimeError with the first line of the compiler's log."""
    library, program, size = ctypes.CDLL(_nvrtc()), ctypes.c_void_p(), ctypes.c_size_t()
    library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"expreg.cu", 0, None, None)
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    failed = library.nvrtcCompileProgram(program, len(options), given)
    what = "ProgramLog" if failed else "PTX"
    getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{what}")(program, text)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    if failed:
        raise RuntimeError(f"NVRTC: {(text.value.decode().strip().splitlines() or ['no message'])[0]}")
    # drivers refuse newer versions of the language than they know, which differ in nothing that is used here
    pattern = re.compile(r"(?<=^\.version )[\d.]+", re.MULTILINE)
    return pattern.sub(lambda version: min(version[0], "8.3", key=float), text.value.decode(), count=1)


def _nvrtc() -> str:
    """Return the NVRTC of JAX's packages, or the name of that of the system."""
    try:
        import nvidia
    except ImportError:
        places: list[str] = []
    else:
        places = list(nvidia.__path__)
    found = sorted(path for place in places for path in Path(place).glob("*/lib/libnvrtc.so.*"))
    return str(found[-1]) if found else find_library("nvrtc") or "libnvrtc.so"


@cache
def _capability() -> str:
    """Return the compute capability of the GPU, such as 9.0."""
    return str(jax.local_devices()[0].compute_capability)


def _memory() -> int:
    """Return the bytes of shared memory that a block may use."""
    return 1024 * MEMORY.get(_capability(), 99)


# --- whether they can be used


def missing() -> str:
    """Return why the kernels cannot be used, tried once on small problems; empty if they can."""
    with _lock:  # programs are compiled by several threads
        return _missing()


@cache
def _missing() -> str:
    if os.environ.get("EXPREG_NATIVE") == "off":
        return "EXPREG_NATIVE is off"
    if jax.default_backend() != "gpu":
        return f"the kernels need a CUDA GPU, and this is a {jax.default_backend().upper()}"
    try:
        if not re.fullmatch(r"\d+\.\d+", _capability()) or float(_capability()) < 8:
            return f"the kernels need a CUDA GPU of compute capability 8.0, and this GPU has {_capability()}"
        with numerics(), jax.ensure_compile_time_eval():  # the first who asks may be tracing a program
            pairs = _trial()
    except Exception as error:  # of NVRTC, of the driver: whatever it is, XLA takes the steps
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    off = [(abs(found - exact).max() / abs(exact).max(), most) for found, exact, most in pairs]
    wrong = [error for error, most in off if not error <= most]  # not a number is wrong too
    return f"a result is off by {np.max(wrong):.0e} on this GPU" if wrong else ""


def _trial() -> list[tuple[Array, Array, float]]:
    """Return what the kernels find for eight steps of a fixed problem, what a float64 loop finds, and the tolerance.

    20 points, 2 x 24 columns; in the layout that suits them, and where there are clusters in one of two blocks that has
    everything but theta in memory.
    """
    rng, n, p, count = np.random.default_rng(0), 20, 24, 8
    X, base, start = rng.standard_normal((n, n)) / 4, rng.uniform(0.5, 1.5, (n, p)), rng.standard_normal(n)
    K, signs, scale, eta = X @ X.T, np.stack([np.ones(p), -np.ones(p)]), 0.1, 0.3
    real = np.float32
    given = {
        "gram": K.astype(real),
        "signs": signs.astype(real),
        "initial_residual": start.astype(real),
        "base": (base.astype(real),),
        "eta": real(eta),
        "step": np.int32(0),
        "budget": np.int32(count),
        "status": np.int32(Status.running),
        "theta": np.zeros((n, 2, p), real),
        "radii": np.ones(p, real),
    }
    shape = SimpleNamespace(n=n, neurons=p, branches=2, activation="exp", measure_every=count)
    places = (None, *[Layout(32, 2, 2, False, False)] * (float(_capability()) >= 9))

    @jax.jit  # one program: outside of one each operation would be compiled alone
    def everything(given: Any, scale: jax.Array, tolerance: jax.Array, limit: jax.Array, K: jax.Array) -> Any:
        state = SimpleNamespace(**given, inputs=SimpleNamespace(scale=scale, tolerance=tolerance, m=2 * p))
        return [steps(shape, state, limit, place) for place in places], extremes(K[None])

    taken, spectrum = everything(given, real(scale), real(0), real(1e6), K)
    exact = _in_float64(K, base, signs, start, scale, eta, count)
    pairs = [(*pair, AGREEMENT) for found in taken for pair in zip(found, exact, strict=True)]
    pairs.append((np.concatenate(spectrum), np.linalg.eigvalsh(K)[[0, -1]], AGREEMENT_64))
    return [(np.asarray(found, float), expected, most) for found, expected, most in pairs]


def _in_float64(K: Array, base: Array, signs: Array, start: Array, scale: float, eta: float, count: int) -> list[Array]:
    """Return what `steps` does for phi = exp, by a plain loop."""
    theta, sizes = np.zeros((len(K), *signs.shape)), np.zeros(count)
    for step in range(count + 1):
        dl = np.einsum("ik,kbp->ibp", K, theta)
        derivative = base[:, None] * np.exp(dl)
        r = start + scale * np.einsum("ibp,bp->i", derivative - base[:, None], signs)
        if step < count:
            sizes[step] = np.linalg.norm(r)
            theta = theta - eta * scale * derivative * r[:, None, None] * signs
    farthest = np.sqrt((theta * dl).sum(0).max())
    return [theta, derivative, sizes, np.array([count, Status.running]), np.full(2, farthest)]
