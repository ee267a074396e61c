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
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import jax
import numpy as np
import scipy
from jax.sharding import Mesh

from expreg import __version__
from expreg.core.engine.devices import describe, mesh, processor
from expreg.core.engine.processes import agreed, follows, of_first, visible
from expreg.core.engine.programs import Compiled, bytes_of, of_lane
from expreg.core.store import disk
from expreg.core.store.part import digest
from expreg.errors import StorageError, printable
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
    """The checkpoints of one run in `directory`: of each cell that is in a lane for `interval` seconds, and again.

    Where `devices` belong to several processes, all of these save and restore together, in the directory of the first.
    """

    directory: Path
    interval: float
    devices: Mesh = field(default_factory=mesh)
    _pause_until: float = 0.0
    _warned: set[str] = field(default_factory=set)

    def save(
        self, program: Compiled, state: Tree, occupied: Lanes, seconds: Array, unsaved: Array, ending: bool = False
    ) -> None:
        """Save the cells with an interval of `unsaved` seconds, a tenth of it if `ending`, as far as there is time.

        Lane by lane, `seconds` are those of its cell, and `unsaved` those since it began or was saved last.
        """
        began = time.monotonic()
        least = self.interval * (ENDING if ending else 1.0)
        due = [lane for lane in occupied if unsaved[lane] >= least]
        for lane in sorted(due, key=lambda lane: -unsaved[lane]):
            now = time.monotonic()
            if agreed(now > began + GRACE_SECONDS if ending else now < self._pause_until, self.devices):
                return
            self._save(occupied[lane][0], program, state, lane, float(seconds[lane]))
            unsaved[lane] = 0

    def _save(self, cell: str, program: Compiled, state: Tree, lane: int, seconds: float) -> None:
        scratch = self.directory / cell / f".{uuid4().hex}.tmp"
        began = time.monotonic()
        try:
            label = json.dumps({"seconds": seconds, "made_by": _made_by(program)}, indent=1)
            began = time.monotonic()  # the program was lowered, which is done once
            begun = of_first(partial(_begun, scratch, label, bytes_of(program.alone)), self.devices)
            target = visible(begun, self.devices) / STATE
            _with_orbax(lambda orbax: orbax.save(target, of_lane(state, lane)))
            of_first(partial(_publish, scratch), self.devices)
        except self._spared as error:  # a checkpoint that cannot be saved costs nothing but itself
            self._warn("a checkpoint could not be saved", cell, error)
        shutil.rmtree(scratch, ignore_errors=True)
        now = time.monotonic()
        self._pause_until = now + (now - began) / SHARE

    def restore(self, program: Compiled, cell: str) -> tuple[Tree, float] | None:
        """Return the state of a cell and the seconds that it has run, None without a checkpoint that fits `program`."""
        for path in of_first(partial(_found, f"{self.directory}/{cell}"), self.devices):
            try:
                seconds = of_first(partial(_checked, path, program), self.devices)
                return _restored(visible(path, self.devices), program), seconds
            except self._spared as error:  # whatever it is, the cell can begin again
                self._warn("a checkpoint is ignored", cell, error)
        return None

    @property
    def _spared(self) -> type[Exception]:
        """The failures without which a run goes on: of several processes those that all know."""
        return StorageError if self.devices.is_multi_process else Exception

    def _warn(self, what: str, cell: str, error: Exception) -> None:
        if what not in self._warned and not (self.devices.is_multi_process and follows()):  # once for all cells
            self._warned.add(what)
            reason = str(error).partition("\n")[0].partition(" [")[0]  # tensorstore adds a page about itself
            warnings.warn(f"{what} (cell {cell}): {printable(': '.join(reason.split(': ')[-2:]))}", stacklevel=2)


def _begun(scratch: Path, label: str, size: float) -> Path:
    """Return a folder for a checkpoint of so many bytes; raise OSError if the disk has no room for two."""
    disk.refuse_link(scratch.parent)
    disk.make_directory(scratch)
    if shutil.disk_usage(scratch).free < 2 * size + SPARE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    disk.replace(scratch / LABEL, label.encode())
    return scratch


def _publish(scratch: Path) -> None:
    """Give a checkpoint its name, and remove its predecessors."""
    folder = scratch.parent
    earlier = _found(folder)
    number = int(earlier[0].name[:8]) + 1 if earlier else 1
    os.rename(scratch, folder / f"{number:08d}-{_checksum(scratch)}")
    disk.sync(folder)
    disk.fault("checkpoint.after_rename")
    for path in earlier:
        shutil.rmtree(path, ignore_errors=True)


def _found(folder: Path | str) -> list[Path]:
    """Return the checkpoints in a folder, the last first."""
    if not os.path.exists(folder):  # mostly; to make a path of it would take longer
        return []
    return sorted(Path(folder).glob("[0-9]*"), reverse=True)


def _checked(path: Path, program: Compiled) -> float:
    """Return the seconds of one checkpoint; raise ValueError if it is damaged or does not fit."""
    disk.refuse_link(path.parent)
    if _checksum(path) != path.name[9:]:
        raise ValueError("it is damaged; the cell begins again")
    label = disk.read_json(path / LABEL)
    for name, now in _made_by(program).items():
        if (before := label["made_by"].get(name)) != now:
            raise ValueError(f"{name} was {before}, is {now}; the cell begins again")
    return float(label["seconds"])


def _restored(path: Path, program: Compiled) -> Tree:
    """Return the state of one checkpoint; raise ValueError if it has other types."""
    state = _with_orbax(lambda orbax: orbax.restore(path / STATE, program.alone))
    if any(a.dtype != b.dtype for a, b in zip(*map(jax.tree.leaves, (state, program.alone)), strict=True)):
        raise ValueError("orbax has changed its types; the cell begins again")
    return state


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
