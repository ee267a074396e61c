"""How long the rest of a run will take: what is left, at the pace of what is finished."""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from expreg.types import Cost


class Spent(NamedTuple):
    """What an engine has spent so far, in seconds: of all devices together in slices; waiting for programs."""

    device: float = 0.0
    waiting: float = 0.0

    def since(self, earlier: "Spent") -> "Spent":
        """Return what was spent after `earlier`."""
        return Spent(self.device - earlier.device, self.waiting - earlier.waiting)


class Load(NamedTuple):
    """What a cell, or many, are expected to take, in units of which only ratios matter: on a device, on the host."""

    device: float = 0.0
    host: float = 0.0

    def plus(self, other: "Load", weight: float = 1.0) -> "Load":
        """Return the sum of this load and `weight` times another."""
        return Load(self.device + weight * other.device, self.host + weight * other.host)


FIXED_BYTES = 2.0**17
"""What every cell takes on the host, in bytes of inputs that are drawn in the same time (measured: 0.3 ms)."""


def load(cost: Cost) -> Load:
    """Return the load of a cell: flops on the device; on the host inputs are drawn, and every cell has a row."""
    return Load(cost.flops, FIXED_BYTES + cost.bytes)


class Pace:
    """Measure how fast a device and the host work off their loads, and extrapolate both.

    The time of a run is that of its slices, in which devices work in parallel, and that between them, in which the
    host makes inputs, rows and files; compiling in the background slows both down.

    Args:
        loads: of each open cell. programs: how many have to be compiled, `compilers` at a time.
        devices: how many run cells at the same time.

    """

    WARM_UP = 0.01, 60.0
    """Share of the load, and seconds, after the earlier of which the pace is trusted: first inputs are slow to make."""

    def __init__(self, loads: Mapping[str, Load], *, programs: int = 0, devices: int = 1, compilers: int = 1) -> None:
        self._loads, self._left = loads, Load(*map(sum, zip(*loads.values(), strict=True)))
        self._open = self._left.device
        self.cells_left = len(loads)
        self._programs, self._compilers, self._devices = programs, compilers, devices
        self._compiled: list[float] = []
        self._now = self._finished = self._in_slices = 0.0
        self._taken = Load()  # seconds, as they were last
        self._done, self._seconds = Load(), Load()  # since the warm-up: what is finished, the seconds it took

    @property
    def programs(self) -> int:
        """Return how many programs are not compiled yet."""
        return max(self._programs - len(self._compiled), 0)

    def add(
        self,
        rows: Collection[Mapping[str, Any]],
        now: float,
        spent: Spent,
        compiled: Iterable[float] = (),
        devices: int | None = None,
    ) -> None:
        """Count the rows of finished cells, `now` seconds after the beginning; `compiled` are seconds by program.

        `devices`: how many there are now, where that has changed.
        """
        self._compiled, self._devices = list(compiled), devices or self._devices
        self.cells_left = max(self.cells_left - len(rows), 0)
        of_cells = sum(row.get("seconds") or 0.0 for row in rows)
        self._finished += of_cells
        self._in_slices += (spent.device - self._taken.device) / self._devices
        host = now - self._in_slices - max(spent.waiting, sum(self._compiled) / self._compilers)
        kept = 1.0 if self._warm else 0.0
        self._done = Load().plus(self._done, kept)
        for row in rows:
            found = self._loads.get(row["cell"], Load())
            self._done, self._left = self._done.plus(found), self._left.plus(found, -1.0)
        self._seconds = Load(of_cells, max(host - self._taken.host, 0.0)).plus(self._seconds, kept)
        self._now, self._taken = now, Load(spent.device, max(host, self._taken.host))

    @property
    def _warm(self) -> bool:
        share, seconds = self.WARM_UP
        return self._now >= seconds or self._left.device <= (1.0 - share) * self._open

    def seconds_left(self) -> float:
        """Return the time that the open cells and programs will take; nan before there is a pace.

        The unfinished cells in the lanes have had a part of what they need. When they have had more than all open
        cells are expected to need, they are expected to need as much again.
        """
        if not self.cells_left:
            return 0.0
        if self._done.device <= 0 or not self._warm:
            return math.nan
        pace = [took / done for took, done in zip(self._seconds, self._done, strict=True)]
        needed = Load(*(max(left, 0.0) * one for left, one in zip(self._left, pace, strict=True)))
        unfinished = max(self._taken.device - self._finished, 0.0)
        on_devices = max(needed.device - unfinished, unfinished) / self._devices
        compiling = self.programs * sum(self._compiled) / max(len(self._compiled), 1) / self._compilers
        return on_devices + needed.host + compiling
