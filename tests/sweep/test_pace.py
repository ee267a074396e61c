"""The estimate of the time left, on simulated runs whose end is known: the clock is arithmetic."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from expreg.core.engine.pace import FIXED_BYTES, Load, Pace, Spent, load
from expreg.types import Cost


def rows(cells: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    return [{"cell": str(k), "status": "converged", "seconds": seconds} for k in cells]


def simulated(
    loads: Sequence[Load], on_device: Sequence[float], on_host: Sequence[float], *, batch: int = 50, devices: int = 2
) -> Iterator[tuple[float, float]]:
    """Run cells one batch after the other; yield the time so far and the time left after each."""
    pace = Pace({str(k): one for k, one in enumerate(loads)}, devices=devices)
    now = device = 0.0
    for begin in range(0, len(loads), batch):
        cells = range(begin, min(begin + batch, len(loads)))
        busy = sum(on_device[k] for k in cells)
        device += busy
        now += busy / devices + sum(on_host[k] for k in cells)
        pace.add(rows(cells, busy / len(cells)), now, Spent(device))
        yield now, pace.seconds_left()


def errors(found: Iterator[tuple[float, float]]) -> list[float]:
    """Return how far the predicted total is from the true one, as a share, at 10, 25, 50 and 75 % of the time."""
    known = list(found)
    total = known[-1][0]
    at = [next(pair for pair in known if pair[0] >= share * total) for share in (0.1, 0.25, 0.5, 0.75)]
    return [(now + left) / total - 1.0 for now, left in at]


def test_time_between_slices_is_no_work_that_unfinished_cells_have_had() -> None:
    """Tiny cells, most of whose time is that of the host: it counted as progress once, and 331 s read 43 s."""
    count = 20_000
    found = simulated([Load(1.0, 1.0)] * count, [2e-4] * count, [3e-4] * count)
    assert errors(found) == pytest.approx([0.0] * 4, abs=0.02)


def test_wide_cells_first_say_what_narrow_ones_will_take() -> None:
    """Widths over three decades, the widest first; inputs take the host as long as their bytes ask, plus a constant."""
    widths = np.repeat(np.geomspace(16_384, 4, 13), 100)
    loads = [load(Cost(10.0, 1e3 * m, 100.0 * m)) for m in widths]
    found = simulated(loads, list(2e-5 * widths), list(3e-4 + 3e-4 * 100.0 * widths / FIXED_BYTES))
    assert errors(found) == pytest.approx([0.0] * 4, abs=0.1)


def test_cells_in_the_lanes_have_had_a_part_of_what_they_need() -> None:
    """Ten equal cells take turns: when the first ends, the others are about to."""
    pace = Pace({str(k): Load(1.0, 1.0) for k in range(10)})
    pace.add(rows([0], 1.0), 9.5, Spent(9.5))
    assert pace.seconds_left() == pytest.approx(8.5)  # at most as much again as they have had
    pace.add([], 9.9, Spent(9.9))
    assert pace.seconds_left() == pytest.approx(8.9)
    pace.add(rows([1, 2, 3, 4, 5, 6, 7, 8], 1.0), 10.0, Spent(10.0))
    assert pace.seconds_left() == pytest.approx(1.0)


def test_programs_are_compiled_in_the_background_and_before_the_first_cell() -> None:
    """A hundred cells of a second on two devices, in four programs of two seconds, two of which are ready after two."""
    pace = Pace({str(k): Load(1.0, 1.0) for k in range(100)}, programs=4, devices=2, compilers=2)
    assert pace.programs == 4
    pace.add([], 2.0, Spent(0.0, 2.0), [2.0, 2.0])
    assert (pace.programs, math.isnan(pace.seconds_left())) == (2, True)
    pace.add(rows([0, 1], 1.0), 3.0, Spent(2.0, 2.0), [2.0, 2.0])
    assert pace.seconds_left() == pytest.approx(49 + 2)


def test_devices_that_join_take_their_share() -> None:
    """Cells of a second on one device, then on four: what the first one did takes no time between slices."""
    pace = Pace({str(k): Load(1.0, 1.0) for k in range(200)})
    pace.add(rows(range(40), 1.0), 40.0, Spent(40.0), devices=1)
    assert pace.seconds_left() == pytest.approx(160.0)
    pace.add(rows(range(40, 80), 1.0), 50.0, Spent(80.0), devices=4)
    assert pace.seconds_left() == pytest.approx(120 / 4)


def test_what_happens_before_a_hundredth_of_the_work_says_nothing_about_the_rest() -> None:
    """The first inputs compile what makes inputs: an estimate from two cells of 15,600 once was 43 minutes."""
    pace = Pace({str(k): Load(1.0, 1.0) for k in range(1000)})
    pace.add(rows([0, 1], 0.01), 3.0, Spent(0.02))
    assert math.isnan(pace.seconds_left())
    pace.add(rows(range(2, 102), 0.01), 4.1, Spent(1.02))
    assert pace.seconds_left() == pytest.approx(898 * 0.011)
    pace.add(rows(range(102, 1000), 0.01), 14.0, Spent(10.0))
    assert pace.seconds_left() == 0.0


def test_a_long_run_has_an_estimate_after_a_minute() -> None:
    pace = Pace({str(k): Load(1.0, 1.0) for k in range(10_000)})
    pace.add(rows([0], 59.0), 59.0, Spent(59.0))
    assert math.isnan(pace.seconds_left())
    pace.add(rows([1], 59.0), 118.0, Spent(118.0))
    assert pace.seconds_left() == pytest.approx(9998 * 59.0)


def test_cells_without_a_known_load_do_no_harm() -> None:
    pace = Pace({"a": Load()})
    pace.add([{"cell": "a", "status": "oom"}, {"cell": "unknown", "status": "oom", "seconds": None}], 1.0, Spent())
    assert pace.seconds_left() == 0.0
    assert math.isnan(Pace({"a": Load()}).seconds_left())
