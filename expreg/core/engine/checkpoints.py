"""Checkpoints of long cells: the state of a lane on disk, used again only where that changes no bit of a row.

RUN/checkpoints/<cell>/<number>-<sha256>/   `state` as orbax writes it, and label.json; named by the content of its
                                            files, published by a rename, after which its predecessor is removed
"""

import errno
import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import jax
import numpy as np
import scipy

from expreg import __version__
from expreg.core.engine.devices import describe, processor
from expreg.core.engine.programs import Compiled, of_lane
from expreg.core.store import disk
from expreg.core.store.part import digest
from expreg.errors import printable
from expreg.types import Array, Settings, Tree

Lanes = Mapping[int, tuple[str, Settings]]
"""The cells in lanes, by lane."""

STATE, LABEL = "state", "label.json"
SHARE = 0.01
"""Share of the time that saving may take: a save of t seconds is followed by t / SHARE seconds without one."""
ENDING = 0.1
"""Share of the interval after which an interrupted run saves a cell before it ends."""
GRACE_SECONDS = 10.0
"""An interrupted run begins no save after this time; schedulers mostly kill after 30 s."""
SPARE_BYTES = 2**24
"""Free bytes that a checkpoint leaves on a disk, beside as many as it takes itself: for the rows of the run."""


@dataclass
class Checkpoints:
    """The checkpoints of one run in `directory`: of each cell that is in a lane for `interval` seconds, and again."""

    directory: Path
    interval: float
    _pause_until: float = 0.0
    _warned: set[str] = field(default_factory=set)

    def save(
        self, program: Compiled, state: Tree, occupied: Lanes, seconds: Array, since: Array, ending: bool = False
    ) -> None:
        """Save the cells that have waited for the interval, a tenth of it if `ending`, as far as there is time.

        Lane by lane, `seconds` are those of its cell, and `since` is when that began or was saved last.
        """
        began = time.monotonic()
        least = self.interval * (ENDING if ending else 1.0)
        due = [int(lane) for lane in np.flatnonzero(began - since >= least) if lane in occupied]
        for lane in sorted(due, key=lambda lane: since[lane]):
            now = time.monotonic()
            if now > began + GRACE_SECONDS if ending else now < self._pause_until:
                return
            self._save(occupied[lane][0], program, state, lane, float(seconds[lane]))
            since[lane] = time.monotonic()

    def _save(self, cell: str, program: Compiled, state: Tree, lane: int, seconds: float) -> None:
        folder = self.directory / cell
        scratch = folder / f".{uuid4().hex}.tmp"
        began = time.monotonic()
        try:
            label = json.dumps({"seconds": seconds, "made_by": _made_by(program)}, indent=1)
            began = time.monotonic()  # the program was lowered, which is done once
            own = of_lane(state, lane)
            disk.refuse_link(folder)
            disk.make_directory(scratch)
            if shutil.disk_usage(scratch).free < 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(own)) + SPARE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            disk.replace(scratch / LABEL, label.encode())
            _with_orbax(lambda orbax: orbax.save((scratch / STATE).absolute(), own))
            earlier = _found(folder)
            number = int(earlier[0].name[:8]) + 1 if earlier else 1
            os.rename(scratch, folder / f"{number:08d}-{_checksum(scratch)}")
            disk.sync(folder)
            disk.fault("checkpoint.after_rename")
            for path in earlier:
                shutil.rmtree(path, ignore_errors=True)
        except Exception as error:  # a checkpoint that cannot be saved costs nothing but itself
            shutil.rmtree(scratch, ignore_errors=True)
            self._warn("a checkpoint could not be saved", cell, error)
        now = time.monotonic()
        self._pause_until = now + (now - began) / SHARE

    def restore(self, program: Compiled, cell: str) -> tuple[Tree, float] | None:
        """Return the state of a cell and the seconds that it has run, None without a checkpoint that fits `program`."""
        for path in _found(self.directory / cell):
            try:
                disk.refuse_link(path.parent)
                return _restored(path, program)
            except Exception as error:  # whatever it is, the cell can begin again
                self._warn("a checkpoint is ignored", cell, error)
        return None

    def _warn(self, what: str, cell: str, error: Exception) -> None:
        if what not in self._warned:  # once for all cells
            self._warned.add(what)
            reason = str(error).partition("\n")[0].partition(" [")[0]  # tensorstore adds a page about itself
            warnings.warn(f"{what} (cell {cell}): {printable(': '.join(reason.split(': ')[-2:]))}", stacklevel=2)


def _found(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the last first."""
    return sorted(folder.glob("[0-9]*"), reverse=True) if folder.exists() else []


def _restored(path: Path, program: Compiled) -> tuple[Tree, float]:
    """Return the state and the seconds of one checkpoint; raise ValueError if it is damaged or does not fit."""
    if _checksum(path) != path.name[9:]:
        raise ValueError("it is damaged; the cell begins again")
    label = disk.read_json(path / LABEL)
    for name, now in _made_by(program).items():
        if (before := label["made_by"].get(name)) != now:
            raise ValueError(f"{name} was {before}, is {now}; the cell begins again")
    state = _with_orbax(lambda orbax: orbax.restore((path / STATE).absolute(), program.alone))
    if any(a.dtype != b.dtype for a, b in zip(*map(jax.tree.leaves, (state, program.alone)), strict=True)):
        raise ValueError("orbax has changed its types; the cell begins again")
    return state, label["seconds"]


def _made_by(program: Compiled) -> dict[str, Any]:
    """Return all that the bits of a state follow from; lanes, slices and the number of devices are not among it."""
    facts = {name: fact for name, fact in describe().items() if name not in ("devices", "compile_cache")}
    versions = {"expreg": __version__, "numpy": np.__version__, "scipy": scipy.__version__}
    machine = processor() if facts["backend"] == "cpu" else jax.local_devices()[0].client.platform_version
    return {**versions, **facts, "machine": digest(machine), "program": program.identity()}


def _checksum(folder: Path) -> str:
    """Return the sha256 of all files below a folder, and of their names."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if not path.is_dir()):
        content = disk.read_bytes(path)
        found.update(f"{path.relative_to(folder)} {len(content)}\n".encode())
        found.update(content)
    return found.hexdigest()


def _with_orbax(use: Callable[[Any], Any]) -> Any:
    """Return what `use` makes of a checkpointer, all of it written.

    It has a thread of its own: where an event loop runs, as in notebooks, orbax would work in another thread than its
    caller, in which JAX has no 64-bit types.
    """
    from orbax.checkpoint import StandardCheckpointer  # takes a second

    def called() -> Any:
        with jax.enable_x64(True), StandardCheckpointer() as checkpointer:
            return use(checkpointer)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(called).result()
