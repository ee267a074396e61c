"""The owner of a run directory: immutable Parquet parts, published whole or not at all, and the plan.

parts/<sha256 of the bytes>.parquet   the truth: rows and curves of cells that finished together; others may publish too
checkpoints/<cell>/                   states of cells that are not finished; derived, gone once the row is stored
plan.json  config.yaml  ...           replaced atomically
events.jsonl                          what happened when; derived, never needed
quarantine/                           damaged files, kept for a person to look at
.lock                                 flock of the owner; the kernel frees it however the process ends
"""

import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from expreg.core.store import disk
from expreg.core.store.disk import failure, holds, make_directory, read_bytes, read_json, replace, storage
from expreg.core.store.events import EVENTS, append_event, read_events
from expreg.core.store.part import PARTS, Part, Parts, Rank, decode, difference, digest, scan, table_of
from expreg.types import BASE, FAILED, TRIAL, Column

QUARANTINE, PLAN, CONFIG, FIGURES = "quarantine", "plan.json", "config.yaml", "figures"
CHECKPOINTS = "checkpoints"
_OURS = (CONFIG, "manifest.json", "summary.json", "report.html", "explore.html", FIGURES)


class Store:
    """The run directory of one plan, owned by this process until it is closed.

    `finished` maps cell to status for cells that need no further execution, `failed` for cells whose latest
    attempt ended `oom`, `timeout` or `error`; `attempts` counts the executions of both; `damaged` has one
    line for each file that was moved to quarantine/, `conflicts` the cells of which a second finished row with other
    numbers has come: the row that was published first counts, and events.jsonl has both values.
    """

    def __init__(self, directory: Path, plan: Mapping[str, Any], columns: Sequence[Column], lock: int) -> None:
        self.directory = directory
        self.finished: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.attempts: dict[str, int] = {}
        self.damaged: list[str] = []
        self.conflicts: set[str] = set()
        self._plan = plan
        self.parts = Parts(directory, identity_hash(plan), columns)
        self._known: set[str] = set()
        self._best: dict[str, Rank] = {}
        self._again: list[tuple[str, str]] = []
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

        When this returns the rows outlive the process. A row without `attempt` gets the next number. Raises
        StorageError if the disk fails.
        """
        fresh: dict[str, dict[str, Any]] = {}
        again: list[dict[str, Any]] = []
        for given in rows:
            cell = given["cell"]
            row = {**given, "attempt": given.get("attempt") or self.attempts.get(cell, 0) + 1}
            if cell not in self.finished and (cell not in fresh or fresh[cell]["status"] in FAILED):
                fresh[cell] = row
            elif row["status"] not in FAILED:
                again.append(row)
        part = self.parts.commit(fresh.values())
        if part:
            self._take(part)
            self._forget(fresh)
            self.event("commit", part=part.name, cells=len(fresh))
        for row in table_of(again, self.parts.columns).to_pylist() if again else ():
            cell = row["cell"]
            self._compare(self._rows(self._best[cell][-1], [cell])[cell], row)
        return part and part.name

    def refresh(self) -> list[tuple[str, str, int]]:
        """Take in the parts that others have published since; return their rows as (cell, status, attempt).

        Only parts with new names are read. Damaged ones go to quarantine.
        """
        rows = []
        for part in scan(self.directory, self.parts.identity, self._known):
            if part.reason:
                os.rename(self.directory / PARTS / part.name, self._shelf(part.name, part.reason))
            else:
                self._take(part)
                rows += part.rows
        self._forget(cell for cell, status, _ in rows if status not in FAILED)
        self._compare_again()
        return rows

    def rows(self, cells: Iterable[str]) -> list[dict[str, Any]]:
        """Return the rows of these cells that count."""
        of: dict[str, list[str]] = {}
        for cell in cells:
            of.setdefault(self._best[cell][-1], []).append(cell)
        return [row for part, some in of.items() for row in self._rows(part, some).values()]

    def event(self, kind: str, **fields: Any) -> None:
        """Append one line to events.jsonl."""
        append_event(self.directory, kind, **fields)

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
        self.refresh()
        for left in (self.directory / CHECKPOINTS).glob("*/.*"):
            shutil.rmtree(left, ignore_errors=True)
        self._write_plan(plan if "ids" in plan else {**plan, **self._planned()})
        if not holds(self.directory / CONFIG, config_text.encode()):
            self.write(CONFIG, config_text)
        self.event("opened", plan=plan["hash"], finished=len(self.finished), failed=len(self.failed))

    def _planned(self) -> dict[str, Any]:
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
                replace(self._shelf(PLAN, str(error)), read_bytes(path))
            replace(path, text.encode())
        self._plan = plan

    def _shelf(self, name: str, reason: str) -> Path:
        """Return a free name in quarantine/ for a damaged file, and note why it goes there."""
        folder = self.directory / QUARANTINE
        make_directory(folder)
        self.damaged.append(f"{name}: {reason}")
        self.event("quarantined", file=self.damaged[-1])
        return disk.free_name(folder / name)

    def _take(self, part: Part) -> None:
        """Remember the rows of a part."""
        self._known.add(part.name)
        for cell, status, attempt in part.rows:
            rank, best = part.rank(status, attempt), self._best.get(cell)
            if best and not (best[0] or rank[0]):  # both have finished
                self._again.append((cell, max(rank, best)[-1]))
            if best is None or rank < best:
                self._best[cell] = rank
                self.failed.pop(cell, None)
                (self.failed if status in FAILED else self.finished)[cell] = status
            self.attempts[cell] = max(attempt, self.attempts.get(cell, 0))

    def _forget(self, cells: Iterable[str]) -> None:
        """Remove the checkpoints of cells that have a row."""
        folder = self.directory / CHECKPOINTS
        for cell in cells if folder.exists() else ():
            shutil.rmtree(folder / cell, ignore_errors=True)

    def _compare_again(self) -> None:
        """Compare rows of cells that had finished before with those that count, unless an event names them already."""
        events = read_events(self.directory) if self._again else ()
        noted = {(event.get("cell"), event.get("part")) for event in events if event["kind"] == "conflict"}
        pairs: dict[tuple[str, str], list[str]] = {}
        for cell, part in self._again:
            if (cell, part) not in noted:
                pairs.setdefault((self._best[cell][-1], part), []).append(cell)
        self._again.clear()
        for (first, part), cells in pairs.items():
            kept, others = self._rows(first, cells), self._rows(part, cells)
            for cell in cells:
                self._compare(kept[cell], others[cell], part)

    def _compare(self, kept: Mapping[str, Any], other: Mapping[str, Any], part: str | None = None) -> None:
        """Note where a finished row, of `part` if it was published, differs from the row of its cell that counts."""
        if found := difference(kept, other, (*BASE, *self.parts.columns)):
            self.conflicts.add(kept["cell"])
            column, value, another = found
            self.event("conflict", cell=kept["cell"], column=column, kept=value, other=another, part=part)

    def _rows(self, part: str, cells: Collection[str]) -> dict[str, dict[str, Any]]:
        import pyarrow as pa
        import pyarrow.compute as pc

        path = self.directory / PARTS / part
        with storage(path):
            table = decode(read_bytes(path))
        rows = table.filter(pc.is_in(table["cell"], pa.array(cells, pa.string())))
        return {row["cell"]: row for row in rows.to_pylist()}


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
