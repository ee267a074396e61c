"""The one writer of a run directory: immutable Parquet parts, published whole or not at all.

parts/<sha256 of the bytes>.parquet   the truth: rows and curves of cells that finished together
checkpoints/<cell>/                   states of cells that are not finished; derived, gone once the row is stored
plan.json  config.yaml  ...           replaced atomically
events.jsonl                          what happened when; derived, never needed
quarantine/                           damaged files, kept for a person to look at
.lock                                 flock of the owner; the kernel frees it however the process ends
"""

import errno
import json
import math
import os
import re
import shutil
import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from expreg.core.store import disk
from expreg.core.store.columns import check_curves
from expreg.core.store.disk import failure, holds, make_directory, read_bytes, read_json, replace, storage
from expreg.core.store.part import PARTS, decode, digest, encode, expect_same_numbers, publish, scan
from expreg.types import FAILED, TRIAL, Column

QUARANTINE, PLAN, CONFIG, EVENTS, FIGURES = "quarantine", "plan.json", "config.yaml", "events.jsonl", "figures"
CHECKPOINTS = "checkpoints"
_OURS = (CONFIG, "manifest.json", "summary.json", "report.html", "explore.html", FIGURES)


class Store:
    """The run directory of one plan, owned by this process until it is closed.

    `finished` maps cell to status for cells that need no further execution, `failed` for cells whose latest
    attempt ended `oom`, `timeout` or `error`; `attempts` counts the executions of both; `damaged` has one
    line for each file that was moved to quarantine/ when the directory was opened.
    """

    def __init__(self, directory: Path, plan: Mapping[str, Any], columns: Sequence[Column], lock: int) -> None:
        self.directory = directory
        self.finished: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.attempts: dict[str, int] = {}
        self.damaged: list[str] = []
        self._columns = columns
        self._plan = plan
        self._identity = identity_hash(plan)
        self._part_of: dict[str, str] = {}
        self._lock = lock

    @classmethod
    def open(
        cls,
        directory: Path | str,
        plan: Mapping[str, Any],
        config_text: str,
        fresh: bool = False,
        columns: Sequence[Column] = (),
    ) -> Self:
        """Take the run directory for `plan`, make it whole, and say what is already done.

        `plan` has `hash` (text) and `identity` (the config without its sweep); only the latter must
        equal that of an earlier run here. `fresh` first renames an existing run to <directory>.1, .2, ...
        `columns` are those of the experiment; other columns of its rows take the types of their values.

        Raises StorageError, before anything is written, for another plan, another process, a symlink, a file,
        or a directory of something else; and for a disk that cannot be written.
        """
        directory = Path(directory)
        with storage(directory):
            _refuse_place(directory)
            if fresh and os.path.lexists(directory / PLAN):
                lock = disk.take_lock(directory)  # no process works in it
                try:
                    os.rename(directory, disk.free_name(directory))
                finally:
                    os.close(lock)
            _check_plan(directory, plan)
            make_directory(directory)
            lock = disk.take_lock(directory)
            try:
                _check_plan(directory, plan)  # again: it may have changed before the lock was ours
                store = cls(directory, plan, columns, lock)
                store._prepare(plan, config_text)
            except BaseException:
                os.close(lock)
                raise
        return store

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the directory up; closing twice does nothing."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            with storage(self.directory):
                os.close(lock)

    def commit(self, rows: Iterable[Mapping[str, Any]]) -> str | None:
        """Publish rows as one immutable part and return its name; None if all of them were stored already.

        When this returns the rows outlive the process. A row without `attempt` gets the next number.

        Raises StorageError if a finished cell comes again with other numbers, or if the disk fails.
        """
        fresh: dict[str, dict[str, Any]] = {}
        for given in rows:
            row = {**given, "attempt": given.get("attempt") or self.attempts.get(given["cell"], 0) + 1}
            check_curves(row)
            if self._adds(row, fresh.get(row["cell"])):
                fresh[row["cell"]] = row
        if not fresh:
            return None
        data = encode(list(fresh.values()), self._identity, self._columns)
        name = publish(self.directory / PARTS, data)
        for cell, row in fresh.items():
            self._remember(cell, row["status"], row["attempt"], name)
            shutil.rmtree(self.directory / CHECKPOINTS / cell, ignore_errors=True)
        self.event("commit", part=name, cells=len(fresh))
        return name

    def event(self, kind: str, **fields: Any) -> None:
        """Append one line to events.jsonl, with the wall-clock time (information only) and a checksum."""
        known = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "kind": kind, **fields}
        plain = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in known.items()}
        body = json.dumps(plain, allow_nan=False, default=str).encode()[:-1]
        line = b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body))
        path = self.directory / EVENTS
        with storage(path, len(line)):
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o644)
            try:
                _end_line(descriptor)
                if os.write(descriptor, line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(descriptor)

    def extend(self, known: Mapping[str, Any]) -> None:
        """Let the plan know further cells, which a search has found."""
        self._write_plan({**self._plan, **known})

    def write(self, name: str, content: str | bytes) -> Path:
        """Replace one file of the run directory; a reader sees the old content or the new, never a mix."""
        reserved = (PARTS, QUARANTINE, CHECKPOINTS, EVENTS, PLAN)  # the plan has a checksum
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) or name in reserved:
            raise ValueError(f"{name!r} is not the name of a file that a run keeps")
        path = self.directory / name
        replace(path, content.encode() if isinstance(content, str) else content)
        return path

    def remove(self, name: str) -> None:
        """Remove a file that `write` has written, if it is there."""
        path = self.directory / name
        with storage(path):
            path.unlink(missing_ok=True)

    def _prepare(self, plan: Mapping[str, Any], config_text: str) -> None:
        parts = self.directory / PARTS
        make_directory(parts)
        disk.probe(parts)
        for folder in (self.directory, parts, self.directory / FIGURES):
            disk.remove_temporaries(folder)
        for part in scan(self.directory, self._identity):
            if part.reason:
                os.rename(parts / part.name, self._shelf(part.name, part.reason))
            else:
                for row in part.rows:
                    self._remember(*row, part.name)
        for folder in (self.directory / CHECKPOINTS).glob("*"):
            for left in [folder] if folder.name in self.finished else folder.glob(".*"):
                shutil.rmtree(left, ignore_errors=True)
        self._write_plan(plan if "ids" in plan else {**plan, **self._known()})
        if not holds(self.directory / CONFIG, config_text.encode()):
            self.write(CONFIG, config_text)
        for line in self.damaged:
            self.event("quarantined", file=line)
        self.event("opened", plan=plan["hash"], finished=len(self.finished), failed=len(self.failed))

    def _known(self) -> dict[str, Any]:
        """Return what the plan of an earlier search here knows of its cells, until this one knows more."""
        try:
            before = read_plan(self.directory) or {}
        except ValueError:
            before = {}
        return {key: before[key] for key in ("ids", TRIAL, "whole")} if TRIAL in before else {}

    def _write_plan(self, plan: Mapping[str, Any]) -> None:
        text = json.dumps({**plan, "checksum": digest(canonical(plan))}, indent=1, sort_keys=True, allow_nan=False)
        path = self.directory / PLAN
        if not holds(path, text.encode()):
            try:
                read_plan(self.directory)
            except ValueError as error:
                os.link(path, self._shelf(PLAN, str(error)), follow_symlinks=False)
            replace(path, text.encode())
        self._plan = plan

    def _shelf(self, name: str, reason: str) -> Path:
        """Return a free name in quarantine/ for a damaged file, and note why it goes there."""
        folder = self.directory / QUARANTINE
        make_directory(folder)
        self.damaged.append(f"{name}: {reason}")
        return disk.free_name(folder / name)

    def _remember(self, cell: str, status: str, attempt: int, part: str) -> None:
        latest = attempt >= self.attempts.get(cell, 0)
        self.attempts[cell] = max(attempt, self.attempts.get(cell, 0))
        if status in FAILED:
            if latest and cell not in self.finished:
                self.failed[cell] = status
            return
        if cell in self.finished:
            earlier = self._part_of[cell]
            where = f"{self.directory / PARTS / part} and {earlier}"
            expect_same_numbers(self._row(cell, earlier), self._row(cell, part), where=where)
        self.failed.pop(cell, None)
        self.finished[cell], self._part_of[cell] = status, part

    def _adds(self, row: dict[str, Any], pending: dict[str, Any] | None) -> bool:
        """Say whether `row` tells something new about its cell; a finished row outranks every failed one."""
        cell = row["cell"]
        is_pending = pending is not None and pending["status"] not in FAILED
        if not is_pending and cell not in self.finished:
            return True
        if row["status"] not in FAILED:
            known = pending if pending is not None and is_pending else self._row(cell, self._part_of[cell])
            expect_same_numbers(known, row, self._columns)
        return False

    def _row(self, cell: str, part: str) -> dict[str, Any]:
        path = self.directory / PARTS / part
        with storage(path):
            rows = decode(read_bytes(path)).to_pylist()
        # A part may hold a cell once only: commit() merges what it is given.
        return next(row for row in rows if row["cell"] == cell)


def _end_line(descriptor: int) -> None:
    """Cut off a last line of which a kill or a full disk has left only a part: every line is a JSON document."""
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        os.ftruncate(descriptor, os.pread(descriptor, size, 0).rfind(b"\n") + 1)


def _refuse_place(directory: Path) -> None:
    """Raise StorageError if the output or a folder in it is a symlink or a file, or is in this package."""
    for path in (directory, *(directory / name for name in (PARTS, QUARANTINE, CHECKPOINTS, FIGURES))):
        disk.refuse_link(path)
    if directory.resolve().is_relative_to(Path(__file__).resolve().parents[1]):
        raise failure("E-OUT", directory, "lies inside the expreg package; give a directory elsewhere")


def _check_plan(directory: Path, plan: Mapping[str, Any]) -> None:
    """Raise StorageError if the directory holds another plan, or files of something that is no run."""
    try:
        stored = read_plan(directory)
        gone = stored is None
    except ValueError:
        stored, gone = None, False
    if stored is None:
        # The parts still know whose they are, and all of a run's parts have one plan.
        owner = next((part.owner for part in scan(directory, None) if not part.reason), None)
        if owner not in (None, identity_hash(plan)):
            state = "gone" if gone else "damaged"
            raise failure("E-PLAN", directory, f"its {PLAN} is {state} and its parts belong to another plan")
        taken = [name for name in _OURS if os.path.lexists(directory / name)]
        if gone and owner is None and (taken or any((directory / PARTS).glob("*.parquet"))):
            raise failure("E-OUT", directory, f"has {taken[0] if taken else PARTS} but no {PLAN}; give a new directory")
        return
    if identity_hash(stored) != identity_hash(plan):
        from expreg.core.config.cells import first_difference  # here, for the store itself needs no reader of configs

        short = f"plan {stored['hash'][:8]} is in the directory, this config gives {plan['hash'][:8]}"
        difference = first_difference(stored["identity"], plan["identity"])
        raise failure("E-PLAN", directory, f"{short}; first difference: {difference}; give another --out, or --fresh")


def read_plan(directory: Path) -> dict[str, Any] | None:
    """Return plan.json, None if there is none; raise ValueError if it is damaged."""
    try:
        plan = read_json(directory / PLAN)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not isinstance(plan, dict) or plan.pop("checksum", None) != digest(canonical(plan)):
        raise ValueError("its content does not match its checksum")
    ours = isinstance(plan.get("identity"), dict) and isinstance(plan.get("ids", []), list)
    if not ours:
        raise ValueError("it is not a plan that expreg wrote")
    return plan


def identity_hash(plan: Mapping[str, Any]) -> str:
    """Return 16 hex digits that two plans share exactly when their parts may lie together."""
    return digest(canonical(plan["identity"]))


def canonical(value: Any) -> str:
    """Return JSON text that depends neither on the order of keys nor on 1 against 1.0."""

    def plain(value: Any) -> Any:
        if isinstance(value, str):  # the ids of all cells
            return value
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings and lists by path: `training.tolerance`, `measure[0]`."""
    if isinstance(value, Mapping) and value:
        steps = [(f"{path}.{key}" if path else str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple) and value:
        steps = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    else:
        return {path: value}
    return {place: leaf for step, item in steps for place, leaf in leaves(item, step).items()}
