"""Hardware that is not there, or that JAX does not see: one line with its remedy, on machines that are made up."""

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from expreg import api
from expreg.core.engine import devices, trouble
from expreg.core.engine.trouble import Machine, troubles
from expreg.errors import InputError

SMALL: dict[str, Any] = {"experiment": "threshold", "name": "small", "sweep": {"product": {"n": [4], "m": [16]}}}
CARD = Machine(cards=("NVIDIA H100",), driver=580)
CUDA13, CUDA12 = ("jax_cuda13_plugin",), ("jax_cuda12_plugin",)
Call = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    "fine",
    [
        Machine(),
        CARD._replace(backend="gpu", plugins=CUDA13),
        CARD._replace(backend="gpu", plugins=CUDA13, environment={"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9"}),
        Machine(tpu=True, backend="tpu"),
        Machine(backend="gpu", cores=1),
        Machine(backend="tpu", compiler="XLA takes the steps on a TPU"),
        Machine(compiler="EXPREG_NATIVE is off", environment={"EXPREG_NATIVE": "off"}),
        Machine(environment={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}),  # of GPUs, on a machine without
    ],
)
def test_where_nothing_is_wrong_nothing_is_listed(fine: Machine) -> None:
    assert troubles(fine) == []


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (CARD, ["NVIDIA H100", "JAX runs on the CPU", "install expreg[cuda13]"]),
        (CARD._replace(driver=550), ["install expreg[cuda12]"]),
        (CARD._replace(driver=None), ["install expreg[cuda13]"]),
        (
            CARD._replace(driver=550, plugins=CUDA13),
            ["driver 550 is too old", "580 or newer", "or install expreg[cuda12]"],
        ),
        (CARD._replace(driver=470, plugins=CUDA12), ["driver 470 is too old", "525 or newer"]),
        (CARD._replace(plugins=CUDA13), ["the plugin of JAX finds none"]),
        (CARD._replace(environment={"JAX_PLATFORMS": "cpu"}), ["JAX_PLATFORMS=cpu hides it", "unset JAX_PLATFORMS"]),
        (CARD._replace(plugins=CUDA13, environment={"CUDA_VISIBLE_DEVICES": ""}), ["unset CUDA_VISIBLE_DEVICES"]),
        (Machine(smi="Failed to initialize NVML"), ["nvidia-smi fails: Failed to initialize NVML", "driver"]),
        (Machine(tpu=True), ["a TPU", "install expreg[tpu]"]),
        (Machine(cache="compiled programs cannot be kept in /x"), ["/x"]),
        (Machine(cores=1), ["only 1 core", "taskset"]),
        (Machine(compiler="no C++ compiler was found"), ["no C++ compiler was found", "install g++"]),
        (Machine(backend="gpu", compiler="its result is off by 1e-02"), ["slower", "off by 1e-02"]),
    ],
)
def test_each_trouble_is_one_line_with_its_remedy(found: Machine, words: list[str]) -> None:
    (line,) = troubles(found)
    assert [word for word in words if word not in line] == []


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [("PREALLOCATE", "false", "unset it"), ("ALLOCATOR", "platform", "slow"), ("MEM_FRACTION", ".1", "0.75")],
)
def test_variables_about_gpu_memory_that_cost_lanes_are_named(name: str, value: str, word: str) -> None:
    (line,) = troubles(Machine(backend="gpu", environment={f"XLA_PYTHON_CLIENT_{name}": value}))
    assert line.startswith(f"XLA_PYTHON_CLIENT_{name}={value}: ")
    assert word in line


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ({"stdout": "NVIDIA H100 80GB HBM3, 550.54.14\n" * 2}, (("NVIDIA H100 80GB HBM3",) * 2, 550, "")),
        (
            {"stdout": "Failed to initialize NVML: Driver mismatch\n", "returncode": 18},
            ((), None, "Failed to initialize NVML: Driver mismatch"),
        ),
        ({"stdout": "", "returncode": 9}, ((), None, "exit code 9")),
    ],
)
def test_nvidia_smi_is_read(monkeypatch: pytest.MonkeyPatch, answer: Mapping[str, Any], found: tuple[Any, ...]) -> None:
    monkeypatch.setattr(trouble.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    known = SimpleNamespace(**{"stderr": "", "returncode": 0, **answer})
    monkeypatch.setattr(trouble.subprocess, "run", lambda *_, **__: known)
    assert trouble._nvidia() == found


def test_an_nvidia_smi_that_hangs_is_a_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(words: list[str], **_: Any) -> None:
        raise subprocess.TimeoutExpired(words, 20)

    monkeypatch.setattr(trouble.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(trouble.subprocess, "run", hang)
    assert "TimeoutExpired" in troubles(Machine(smi=trouble._nvidia()[2]))[0]


def test_a_cache_that_cannot_be_written_is_a_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EXPREG_CACHE", str(tmp_path / "file" / "cache"))
    assert "set EXPREG_CACHE=<directory>" in trouble._cache()
    monkeypatch.setenv("EXPREG_CACHE", str(tmp_path / "new"))
    assert trouble._cache() == ""


# --- what a config asks for -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "platforms", "words"),
    [
        (AssertionError(), "cuda", "got cuda, but JAX cannot use it; install expreg[cuda12] or expreg[cuda13]"),
        (
            RuntimeError("Unable to initialize backend 'tpu': INTERNAL: no libtpu.so (set JAX_PLATFORMS='' to ...)"),
            "tpu,cpu",
            "got tpu,cpu, but JAX cannot use it (no libtpu.so); install expreg[tpu]",
        ),
        (RuntimeError("Unable to initialize backend 'moon'"), "moon", "got moon, expected cpu, cuda or tpu"),
    ],
)
def test_a_missing_backend_is_one_line(
    monkeypatch: pytest.MonkeyPatch, command: Call, tmp_path: Path, error: Exception, platforms: str, words: str
) -> None:
    def fail() -> str:
        raise error

    monkeypatch.setattr(jax, "default_backend", fail)
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    (tmp_path / "small.yaml").write_text(str(SMALL))
    for words_of in (["run", "--out", str(tmp_path / "run")], ["plan"]):
        code, out, errors = command(words_of[0], str(tmp_path / "small.yaml"), *words_of[1:])
        assert (code, out, errors.count("\n")) == (2, "", 1)
        assert errors.startswith(f"error[E-DEVICE] JAX_PLATFORMS: {words}")
    assert not (tmp_path / "run").exists()
    code, out, _ = command("doctor")
    assert code == 0
    assert words in out.partition("\ntrouble\n")[2]


def test_a_device_that_is_not_there_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    with pytest.raises(InputError, match=r"E-DEVICE.*execution.device: got gpu, but JAX sees cpu.*expreg\[cuda12\]"):
        api.plan(SMALL, {"execution.device": "gpu"})
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with pytest.raises(InputError, match="unset JAX_PLATFORMS=cpu"):
        api.plan(SMALL, {"execution.device": "tpu"})
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(InputError, match="got cpu, but JAX has already started on gpu"):
        api.plan(SMALL, {"execution.device": "cpu"})


def test_more_devices_than_there_are_are_refused() -> None:
    there = len(devices.workers())
    with pytest.raises(InputError, match=rf"execution.devices: got {there + 1}, but JAX sees {there} x cpu"):
        api.plan(SMALL, {"execution.devices": there + 1})
    api.plan(SMALL, {"execution.devices": there})


def test_where_cells_run_is_no_part_of_what_they_are() -> None:
    asked = [{}, {"execution.device": "cpu"}, {"execution.devices": 1, "execution.lanes": 1}]
    found = [api.plan(SMALL, one, cells=True) for one in asked]
    assert found[0]["list"] == found[1]["list"] == found[2]["list"]
    assert len({one["hash"] for one in found}) == 1


def test_cpus_can_be_chosen_before_jax_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(jax._src.xla_bridge, "backends_are_initialized", lambda: False)
    monkeypatch.setattr(jax.config, "update", seen.__setitem__)
    monkeypatch.setenv("XLA_FLAGS", "")
    devices.configure()
    assert "jax_platforms" not in seen
    devices.configure("cpu")
    assert seen["jax_platforms"] == "cpu"
