"""The accelerator set-up: precision, local devices, the compile cache. One place, used before any program."""

import hashlib
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jaxlib.version
import numpy as np
from jax._src.compilation_cache_interface import CacheInterface
from jax.sharding import Mesh
from threadpoolctl import ThreadpoolController

from expreg.core.store.disk import remove_temporaries, replace
from expreg.errors import StorageError
from expreg.types import cores

AXIS = "cells"
"""The axis of a mesh over which each device has cells of its own; any other is what devices share of one cell."""
_DIGEST = hashlib.sha256().digest_size


def cache_directory() -> Path | None:
    """Return the compile cache of this jaxlib (it holds native code: never share it between versions).

    None where EXPREG_CACHE is `off`, and where there is no home and nothing else says where it should lie.
    """
    given, shared = os.environ.get("EXPREG_CACHE"), os.environ.get("XDG_CACHE_HOME", "")
    if given == "off":
        return None
    if not given:
        given = f"{shared if os.path.isabs(shared) else '~/.cache'}/expreg"
    base = os.path.expanduser(given)
    # a user without an entry in passwd, as in `docker --user`, may have no home
    if base.startswith("~") or (given.startswith("~") and os.environ.get("HOME", "/") in ("", "/")):
        return None
    return Path(base) / f"jax-{jax.__version__}-{jaxlib.version.__version__}"


class Cache(CacheInterface):
    """Compiled code by key, each entry with its checksum; one that is damaged is made again and replaced.

    A directory that cannot be read or written only costs time, and one line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writes = True
        with suppress(OSError):
            remove_temporaries(path)

    def get(self, key: str) -> bytes | None:
        """Return the content of an entry, None if there is none that is whole."""
        with suppress(OSError):
            data = self.place(key).read_bytes()
            if hashlib.sha256(data[:-_DIGEST]).digest() == data[-_DIGEST:]:
                return data[:-_DIGEST]
        return None

    def put(self, key: str, value: bytes) -> None:
        """Keep an entry, in place of an earlier one."""
        if not self._writes:
            return
        try:
            self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace(self.place(key), value + hashlib.sha256(value).digest())
        except (OSError, StorageError) as error:
            self._writes = False
            reason = getattr(error.__cause__ or error, "strerror", None) or error
            warnings.warn(f"programs are not kept in {self._path}: {reason}; EXPREG_CACHE moves it", stacklevel=2)

    def place(self, key: str) -> Path:
        """Return where the entry of a key lies."""
        return self._path / f"{key}-cache"


kept_in = cache(Cache)
"""The one cache of a directory, which says only once that it cannot be used."""


def configure(device: str = "auto") -> None:
    """Give every CPU core a device of its own and switch the compile cache on, if JAX has not started yet.

    With `device` "cpu" it starts on CPUs alone.

    XLA gains nothing from a second thread on these products, and one core per lane doubles the throughput;
    a single-threaded product also sums in one fixed order.
    """
    if jax._src.xla_bridge.backends_are_initialized():
        return
    if device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    jax.config.update("jax_num_cpu_devices", cores() + 1)  # the last draws data: see `host`
    if directory := cache_directory():
        # that of JAX keeps a damaged entry for ever, and warns of every one that it cannot read or write
        jax._src.compilation_cache.get_file_cache = lambda path: (kept_in(Path(path)), path)
        jax.config.update("jax_compilation_cache_dir", str(directory))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def idle_cores() -> str:
    """Return that cores stay idle because JAX started before `configure`, and the remedy, or nothing."""
    if (
        not jax._src.xla_bridge.backends_are_initialized()
        or len(workers()) >= cores()
        or jax.default_backend() != "cpu"
    ):
        return ""
    remedy = f'keep data in NumPy until then, or begin with jax.config.update("jax_num_cpu_devices", {cores()})'
    return f"JAX has started before expreg, so that only {len(workers())} of {cores()} cores will train: {remedy}"


@contextmanager
def numerics() -> Iterator[None]:
    """Fix what the numbers depend on: 64-bit types on, full-precision products, one BLAS thread."""
    one_thread = _libraries().limit(limits=1, user_api="blas")
    with jax.enable_x64(True), jax.default_matmul_precision("highest"), one_thread:
        yield


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()  # looking for them takes a millisecond


@cache
def host() -> jax.Device | None:
    """Return the CPU device that draws data, which no cell occupies; None where JAX_PLATFORMS excludes CPUs."""
    try:
        return jax.local_devices(backend="cpu")[-1]
    except RuntimeError:
        return None


def workers() -> list[jax.Device]:
    """Return the local devices that run cells."""
    devices = jax.local_devices()
    return devices[: cores()] if devices[0].platform == "cpu" else devices


def mesh(count: int | None = None, shard: str = AXIS) -> Mesh:
    """Return the first `count` of the devices that run cells (all by default) as a mesh over cells.

    Or over `shard`, what devices share of one cell: then there are as many of every process.
    """
    used = workers()[:count]
    if shard != AXIS:
        used = [one for process in range(jax.process_count()) for one in jax.local_devices(process)[: len(used)]]
    return Mesh(np.array(used), (shard,))


def compiled_for(used: Mesh) -> Mesh:
    """Return the mesh that programs are compiled for: on CPUs at least two devices, of which one may have no work.

    XLA optimises a program for one device differently, which would change the last bits of its numbers.
    """
    first, local = used.devices.flat[0], jax.local_devices()
    return Mesh(np.array(local[:2]), (AXIS,)) if first.platform == "cpu" and used.size == 1 < len(local) else used


def memory(device: jax.Device) -> int:
    """Return the bytes of memory of a device; for a CPU, what this machine or container has."""
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit") or host_memory()


def host_memory() -> int:
    """Return the bytes of memory of this machine, or of the container if that allows less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # not Linux, or `max`: no limit
            physical = min(physical, int(Path(path).read_text()))
    return physical


def processor() -> str:
    """Return what the CPUs of this machine can do: code that is compiled for one may not suit another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return platform.processor()


def describe() -> dict[str, Any]:
    """Return the facts of this set-up that a row or a bug report needs."""
    devices = workers()
    return {
        "backend": jax.default_backend(),
        "device_kind": devices[0].device_kind,
        "devices": len(devices),
        "jax": jax.__version__,
        "jaxlib": jaxlib.version.__version__,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "compiled_steps": os.environ.get("EXPREG_NATIVE", "auto"),
        "matmul_precision": "highest",
        "prng": f"{jax.config.values['jax_default_prng_impl']}, partitionable",
        "compile_cache": jax.config.values["jax_compilation_cache_dir"],
    }
