"""What commonly keeps JAX from the hardware of a machine, as one line with its remedy each."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import jax

from expreg.core.engine import devices
from expreg.errors import InputError, Problem
from expreg.types import cores

DRIVERS = {"jax_cuda12_plugin": 525, "jax_cuda13_plugin": 580}
"""The oldest NVIDIA driver of each plugin: by the installation guide of JAX; by the drivers of CUDA 13.0."""
EXTRAS = {"gpu": "expreg[cuda12] or expreg[cuda13]", "tpu": "expreg[tpu]"}
_KINDS = {"cuda": "gpu", "gpu": "gpu", "rocm": "gpu", "tpu": "tpu"}
_MEMORY = "XLA_PYTHON_CLIENT_"


def started() -> str:
    """Start JAX and return its backend: cpu, gpu or tpu; raise InputError with the remedy where it has none."""
    try:
        return str(jax.default_backend())
    except (RuntimeError, AssertionError) as error:  # a missing plugin is an assertion of JAX without a message
        wanted = os.environ.get("JAX_PLATFORMS") or jax.config.values["jax_platforms"] or ""
        raise InputError(Problem("E-DEVICE", _no_backend(wanted, str(error)), key="JAX_PLATFORMS")) from None


def _no_backend(wanted: str, reason: str) -> str:
    kinds = [_KINDS.get(name) for name in wanted.split(",") if name != "cpu"]
    if kinds[:1] == [None]:
        return f"got {wanted}, expected cpu, cuda or tpu; unset it to run on what there is"
    # of JAX: "Unable to initialize backend 'tpu': INTERNAL: <reason> (set JAX_PLATFORMS='' to ...)"
    known = re.sub(
        r"^Unable to initialize backend '\w+': ([A-Z_]+: )?| \(set JAX_PLATFORMS.*", "", reason.split("\n")[0]
    )
    remedy = f"install {EXTRAS[kinds[0] or 'gpu']}, or unset it to run on what there is"
    return f"got {wanted}, but JAX cannot use it{f' ({known})' if known else ''}; {remedy}"


def refused(device: str) -> str:
    """Return why cells cannot run on `device`, the value of execution.device, or nothing; it starts JAX."""
    backend = started()
    if device in ("auto", backend):
        return ""
    if device == "cpu":
        return f"got cpu, but JAX has already started on {backend} in this process; start another one"
    platforms = os.environ.get("JAX_PLATFORMS")
    remedy = f"unset JAX_PLATFORMS={platforms}" if platforms else f"install {EXTRAS[device]}"
    return f"got {device}, but JAX sees {backend} alone; {remedy}; `expreg doctor` says more"


class Machine(NamedTuple):
    """What decides whether there is trouble; `backend` is empty where JAX does not start, and `failure` says why.

    `cards` are the NVIDIA cards, `driver` is the major version of their driver, `smi` is what nvidia-smi complains of.
    """

    backend: str = "cpu"
    failure: str = ""
    cores: int = 2
    cards: tuple[str, ...] = ()
    driver: int | None = None
    smi: str = ""
    tpu: bool = False
    plugins: tuple[str, ...] = ()
    cache: str = ""
    compiler: str = ""
    environment: Mapping[str, str] = MappingProxyType({})


def machine() -> Machine:
    """Look at this machine; why there are no compiled steps is for the caller to add as `compiler`."""
    backend = failure = ""
    try:
        backend = started()
    except InputError as error:
        failure = error.problems[0].message
    cards, driver, smi = _nvidia()
    return Machine(
        backend=backend,
        failure=failure,
        cores=cores(),
        cards=cards,
        driver=driver,
        smi=smi,
        tpu=any(os.path.exists(path) for path in ("/dev/accel0", "/dev/vfio/0")),
        plugins=tuple(name for name in DRIVERS if find_spec(name)),
        cache=_cache(),
        environment=os.environ,
    )


def _nvidia() -> tuple[tuple[str, ...], int | None, str]:
    """Return the names of the NVIDIA cards, the major version of their driver, and what nvidia-smi complains of."""
    program = shutil.which("nvidia-smi")
    if program is None:
        version = Path("/proc/driver/nvidia/version")
        with suppress(OSError, StopIteration):  # NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb ...
            words = version.read_text().split()
            return (
                ("NVIDIA",),
                next(int(word.split(".")[0]) for word in words if word[:3].isdigit() and "." in word),
                "",
            )
        return ("NVIDIA",) if os.path.exists("/dev/nvidia0") else (), None, ""
    query = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return (), None, f"{type(error).__name__}: {error}"
    rows = [line.rsplit(", ", 1) for line in answer.stdout.splitlines() if ", " in line]
    if answer.returncode or not rows:
        words = (answer.stdout + answer.stderr).strip().splitlines()
        return (), None, words[0].rstrip(".") if words else f"exit code {answer.returncode}"
    major = rows[0][1].split(".")[0]
    return tuple(name for name, _ in rows), int(major) if major.isdigit() else None, ""


def _cache() -> str:
    """Return why compiled programs cannot be kept, or nothing."""
    if os.environ.get("EXPREG_CACHE") == "off":
        return ""
    path = devices.cache_directory()
    if path is None:
        return "there is no home directory to keep compiled programs in; set EXPREG_CACHE=<directory>"
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        return f"compiled programs cannot be kept in {path}: {error.strerror}; set EXPREG_CACHE=<directory>"
    return ""


def troubles(found: Machine) -> list[str]:
    """Return one line for each thing that is wrong or slow, with its remedy."""
    lines = [f"JAX_PLATFORMS: {found.failure}"] if found.failure else []
    lines += [line for line in (*_cards(found), *_memory(found), found.cache) if line]
    if found.backend == "cpu" and found.cores == 1:
        lines.append("only 1 core may be used: look at taskset, the limits of the container, --cpus-per-task of Slurm")
    if found.compiler and found.environment.get("EXPREG_NATIVE") != "off":
        if found.backend == "cpu":
            lines.append(f"steps are not compiled ahead, which is slower: {found.compiler}; install g++ or set CXX")
        elif found.backend == "gpu":
            lines.append(f"XLA takes the steps of small networks, which is slower: {found.compiler}")
    return lines


def _cards(found: Machine) -> list[str]:
    if found.tpu and found.backend == "cpu" and not found.cards:
        return [_hidden(found, "a TPU", EXTRAS["tpu"])]
    if found.smi:
        return [f"nvidia-smi fails: {found.smi}; the driver has to work first (a reboot after an update of it)"]
    if not found.cards or found.backend not in ("cpu", ""):
        return []
    card = f"an NVIDIA card ({found.cards[0]})" if found.cards[0] != "NVIDIA" else "an NVIDIA card"
    old = [name for name in found.plugins if found.driver is not None and found.driver < DRIVERS[name]]
    if found.plugins and len(old) == len(found.plugins):
        least = min(DRIVERS[name] for name in old)
        other = "" if least == min(DRIVERS.values()) or (found.driver or 0) < 525 else ", or install expreg[cuda12]"
        return [f"the NVIDIA driver {found.driver} is too old for JAX: it needs {least} or newer{other}"]
    if found.plugins and "JAX_PLATFORMS" not in found.environment and "CUDA_VISIBLE_DEVICES" not in found.environment:
        return [f"there is {card}, and the plugin of JAX finds none: `python -c 'import jax; jax.devices()'` says why"]
    newest = found.driver is None or found.driver >= DRIVERS["jax_cuda13_plugin"]
    return [_hidden(found, card, f"expreg[cuda{13 if newest else 12}]")]


def _hidden(found: Machine, card: str, extra: str) -> str:
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES"):
        if (given := found.environment.get(name)) is not None and (found.plugins or name == "JAX_PLATFORMS"):
            return f"there is {card}, but {name}={given} hides it from JAX: unset {name}"
    return f"there is {card}, but JAX runs on the CPU: install {extra}"


def _memory(found: Machine) -> list[str]:
    """Return what the variables of JAX about GPU memory do to a sweep, whose lanes fill what JAX may take."""
    if found.backend != "gpu":
        return []
    given = {name: found.environment.get(_MEMORY + name, "") for name in ("PREALLOCATE", "MEM_FRACTION", "ALLOCATOR")}
    lines = []
    if given["PREALLOCATE"].lower() in ("false", "0"):
        lines.append(f"{_MEMORY}PREALLOCATE=false: memory taken piece by piece runs out earlier; unset it")
    if given["ALLOCATOR"] == "platform":
        lines.append(f"{_MEMORY}ALLOCATOR=platform: every buffer is allocated anew, which is slow; unset it")
    with suppress(ValueError):
        if given["MEM_FRACTION"] and not 0.5 <= float(given["MEM_FRACTION"]) <= 0.95:
            lines.append(
                f"{_MEMORY}MEM_FRACTION={given['MEM_FRACTION']}: lanes are as many as that share of the memory holds;"
                " 0.75 is the default"
            )
    return lines
