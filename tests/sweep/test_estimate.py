"""What a sweep will take: counts that are exact, and times that follow the cells and the machine."""

from typing import Any

import pytest

from expreg.core.engine import estimate as module
from expreg.core.engine.devices import host_memory
from expreg.core.engine.estimate import estimate, measured_speed
from expreg.types import Cost, Experiment


def experiment(flops: float = 1e6) -> Experiment:
    """Return an experiment of which nothing but its estimates may be used."""

    def unused(*arguments: Any) -> Any:
        raise AssertionError

    return Experiment(
        name="fake",
        signature=lambda settings: settings["m"] // 100,
        build=unused,
        prepare=unused,
        row=unused,
        inputs=unused,
        cost=lambda settings: Cost(10.0, flops / 10, 1000.0 * settings["m"]),
    )


@pytest.fixture(autouse=True)
def speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measured_speed", lambda experiment: 1e6)


def test_programs_memory_and_work_are_those_of_the_cells() -> None:
    told = estimate(experiment(), [{"m": m} for m in (10, 20, 150, 160, 170)])
    assert (told["programs"], told["bytes_per_lane"], told["flops"]) == (2, 170_000.0, 5e6)
    assert told["lanes"] % told["devices"] == 0


@pytest.mark.parametrize("devices", [1, 2])
def test_time_is_compiling_and_running_shared_by_the_devices(devices: int) -> None:
    cells = [{"m": m} for m in (10, 20, 150)]
    told = estimate(experiment(1e9), cells, devices)
    assert told["devices"] == devices
    assert told["compile_seconds"] == pytest.approx(2 * module.COMPILE_SECONDS / devices)
    assert told["seconds"] - told["compile_seconds"] == pytest.approx(3 * 1e9 / 1e6 / devices)


def test_the_speed_of_this_machine_is_one() -> None:
    from expreg.kinds import EXPERIMENTS

    assert 1e7 < measured_speed(EXPERIMENTS["threshold"]) < 1e14


def test_memory_is_that_of_the_machine_or_less() -> None:
    import os

    assert 2**28 < host_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
