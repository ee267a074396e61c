"""A run directory loses nothing and shows nothing half-written, whatever fails at whatever point."""

import errno
import fcntl
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import permutations
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from expreg.core.store import store as module
from expreg.core.store.disk import fault, is_locked
from expreg.core.store.export import export, query
from expreg.core.store.part import Parts, decode, encode, part_name, scan
from expreg.core.store.store import Store, identity_hash
from expreg.core.store.table import read, read_events, status
from expreg.errors import StorageError
from expreg.types import Column

IDENTITY = {"training": {"tolerance": 0.05, "factor": 1.0}, "measure": ["E0", "E5"]}
PLAN = {"hash": "3f2a" * 8, "identity": IDENTITY, "axes": [], "cells": 4}
OTHER = {**PLAN, "hash": "9bc1" * 8, "identity": {**IDENTITY, "training": {"tolerance": 0.1, "factor": 1.0}}}
CONFIG = "experiment: threshold\n"
# Every call by which the store reaches the disk; the k-th one of a scenario dies or fails.
CALLS = ("open", "write", "fsync", "unlink", "replace", "rename", "mkdir", "close")
HOOKS = ("commit.before_write", "commit.before_fsync", "commit.before_link", "commit.after_link")


def row(k: int, **more: Any) -> dict[str, Any]:
    numbers = {"steps": k, "residual_final": k / 7, "curve_step": [0, k], "curve_residual": [1.0, k / 7]}
    return {"cell": f"{k:016x}", "status": "converged", "experiment": "threshold", **numbers, **more}


def cells(*numbers: int) -> list[str]:
    return [row(k)["cell"] for k in numbers]


def child(call: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a function of this file in a process of its own (it may fork: no threads run there)."""
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parents[1])])
    code = f"import sys, test_store; test_store.{call}(*sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip


def run_child(call: str, *arguments: object) -> str:
    process = child(call, *arguments)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out


def snapshot(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def stray(directory: Path) -> list[Path]:
    return list(directory.rglob("*.tmp"))


@contextmanager
def every_call(act: Callable[[str, int, tuple[Any, ...]], None]) -> Iterator[None]:
    """Let `act(name, count, arguments)` run before each of CALLS."""
    count = 0

    def wrapped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            act(name, count, arguments)
            return real(*arguments, **options)

        return call

    with ExitStack() as stack:
        for name in CALLS:
            stack.enter_context(mock.patch.object(os, name, wrapped(name, getattr(os, name))))
        yield


# --- death ----------------------------------------------------------------------------------------


def scenario(directory: Path, acknowledge: Callable[[str], object]) -> None:
    """Run or resume two cells, of which the second fails at its first attempt."""
    with Store.open(directory, PLAN, CONFIG) as store:
        store.write("manifest.json", "{}")
        for k, status in ((0, "converged"), (1, "oom"), (1, "converged")):
            known = store.attempts if status == "oom" else store.finished
            if row(k)["cell"] not in known:
                store.commit([row(k, status=status)])
                acknowledge(f"{k}")


def die_everywhere(directory: str) -> None:
    """Fork a process per call of the scenario and kill it there; then check and finish what it left."""
    encode([], "")  # libraries are loaded here once, not in every fork
    points = 0
    while True:
        points += 1
        place = Path(directory) / str(points)
        if os.fork() == 0:
            die_at(points, place)
        ending = os.wait()[1]
        if ending == 0:
            break
        assert ending == signal.SIGKILL
        check_after_death(place)
    sys.stdout.write(str(points))


def die_at(point: int, place: Path) -> None:
    acknowledged = os.open(f"{place}.acks", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    real = os.write

    def act(name: str, count: int, arguments: tuple[Any, ...]) -> None:
        if count == point:
            if name == "write":  # half of it arrives
                real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    with every_call(act):
        scenario(place, lambda text: real(acknowledged, text.encode()))
    os._exit(0)


def check_after_death(place: Path) -> None:
    acknowledged = {int(k) for k in Path(f"{place}.acks").read_text()}
    assert not [part.reason for part in scan(place, None) if part.reason]
    with Store.open(place, PLAN, CONFIG) as store:
        known = store.finished | store.failed
        assert {row(k)["cell"] for k in acknowledged} <= known.keys()
        assert not store.damaged
        assert not stray(place)
    scenario(place, str)
    table, _, _ = read(place)
    assert list(table["cell"]) == cells(0, 1)
    assert list(table["status"]) == ["converged"] * 2
    assert list(table["residual_final"]) == [0, 1 / 7]


def test_death_at_every_call_loses_no_acknowledged_cell(tmp_path: Path, soak: Any) -> None:
    points = int(run_child("die_everywhere", tmp_path))
    assert points > 60  # the calls were indeed seen
    soak.figure(
        "R1", "A process that is killed at each call by which it reaches the disk", points=points - 1, violating=0
    )


def commit_for_ever(directory: str) -> None:
    with Store.open(directory, PLAN, CONFIG) as store:
        for k in range(len(store.finished), 10**6):
            store.commit([row(k)])
            os.write(1, f"{k}\n".encode())


def kill_at_random(directory: str, times: str) -> None:
    encode([], "")
    total = 0
    for seed in range(int(times)):
        receive, send = os.pipe()
        process = os.fork()
        if process == 0:
            os.dup2(send, 1)
            commit_for_ever(directory)
        os.close(send)
        with os.fdopen(receive) as pipe:
            first = pipe.readline()
            time.sleep(random.Random(seed).uniform(0, 0.02))
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            acknowledged = {row(int(line))["cell"] for line in [first, *pipe] if line.endswith("\n")}
        with Store.open(directory, PLAN, CONFIG) as store:
            assert acknowledged <= store.finished.keys()
            assert not store.damaged
            assert set(store.attempts.values()) <= {1}, "a finished cell was run again"
        total += len(acknowledged)
    sys.stdout.write(str(total))


def test_random_kills_lose_nothing_and_repeat_nothing_finished(tmp_path: Path, soak: Any) -> None:
    kills = soak.times(8, 300)
    acknowledged = int(run_child("kill_at_random", tmp_path / "run", kills))
    soak.figure(
        "R2",
        "A process that commits, killed at random moments",
        kills=kills,
        acknowledged=acknowledged,
        lost=0,
        unreadable=0,
    )
    table, _, _ = read(tmp_path / "run")
    assert list(table["cell"]) == cells(*range(len(table)))
    assert len(table) >= 8


@pytest.mark.parametrize("hook", HOOKS)
def test_fault_hook_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hook: str) -> None:
    with Store.open(tmp_path, PLAN, CONFIG) as store:
        monkeypatch.setenv("EXPREG_FAULT", f"{hook}:oserror")
        store.commit([row(0)])  # not in testing mode: no effect
        monkeypatch.setenv("EXPREG_TESTING", "1")
        monkeypatch.setitem(fault.__globals__, "_passes", Counter())
        with pytest.raises(StorageError, match="E-DISK.*No space left.* bytes free, [0-9]+ needed"):
            store.commit([row(1)])
        monkeypatch.setenv("EXPREG_FAULT", f"{hook}:raise@2")
        with pytest.raises(RuntimeError, match=hook):
            store.commit([row(2)])
        assert not stray(tmp_path)
        store.commit([row(1), row(2)])
    assert list(read(tmp_path)[0]["cell"]) == cells(0, 1, 2)


# --- failing disks --------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EMFILE, errno.EROFS, None])
def test_error_at_every_call_of_a_commit(tmp_path: Path, soak: Any, code: int | None) -> None:
    injected: list[str] = []

    def failing_at(point: int) -> Callable[[str, int, tuple[Any, ...]], None]:
        failed_fsync: list[Any] = []

        def act(name: str, count: int, arguments: tuple[Any, ...]) -> None:
            if name == "close" and arguments[0] in failed_fsync:
                failed_fsync.clear()
            assert not (name == "fsync" and arguments[0] in failed_fsync), "fsync was retried"
            if count == point and name != "close":
                injected.append(name)
                if name == "fsync":
                    failed_fsync.append(arguments[0])
                raise OSError(code, os.strerror(code)) if code else OSError("short write")

        return act

    with Store.open(tmp_path, PLAN, CONFIG) as store:
        for k in range(1, 25):
            with suppress(StorageError), every_call(failing_at(k)):
                store.commit([row(k)])
            store.commit([row(k)])  # the same process goes on once the disk does
            assert store.finished.keys() == set(cells(*range(1, k + 1)))
    table, _, damaged = read(tmp_path)
    assert list(table["cell"]) == cells(*range(1, 25))
    assert not damaged
    assert set(injected) == {"open", "write", "fsync", "rename", "unlink"}
    name = errno.errorcode[code] if code else "short write"
    soak.figure(f"R15-{name[:5]}", f"{name} at each call of a commit", injected=len(injected), intact=len(injected))


def test_what_is_published_was_synced_before_and_its_name_after(tmp_path: Path) -> None:
    calls: list[str] = []
    with Store.open(tmp_path, PLAN, CONFIG) as store, every_call(lambda name, *_: calls.append(name)):
        store.commit([row(0)])
    until_event = calls[: calls.index("unlink") + 5]
    assert until_event == ["open", "write", "fsync", "rename", "unlink", "close", "open", "fsync", "close"]


def fill_the_disk(directory: str) -> None:
    with Store.open(directory, PLAN, CONFIG) as store:
        store.commit([row(0)])
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
        random.seed(1)
        noise = [random.random() for _ in range(10_000)]
        large = row(1, curve_step=list(range(10_000)), curve_residual=noise)
        with pytest.raises(StorageError, match="E-DISK.*File too large; [0-9]+ bytes free, [0-9]+ needed"):
            store.commit([large])
        assert not stray(Path(directory))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        store.commit([large])


def test_full_disk_is_one_line_and_the_rest_stays_readable(tmp_path: Path) -> None:
    run_child("fill_the_disk", tmp_path)
    table, curves, _ = read(tmp_path)
    assert list(table["cell"]) == cells(0, 1)
    assert len(curves) == 10_002


def open_with_few_files(directory: str) -> None:
    read(directory)  # libraries are loaded
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
    with Store.open(directory, PLAN, CONFIG) as store:
        assert len(store.finished) == len(read(directory)[0]) == 40


def test_many_parts_need_few_open_files(tmp_path: Path) -> None:
    with Store.open(tmp_path, PLAN, CONFIG) as store:
        for k in range(40):
            store.commit([row(k)])
    run_child("open_with_few_files", tmp_path)


# --- damage ---------------------------------------------------------------------------------------


def flipped(data: bytes, byte: int, bit: int) -> bytes:
    return data[:byte] + bytes([data[byte] ^ 1 << bit]) + data[byte + 1 :]


def test_every_truncation_and_bit_flip_of_a_part_is_detected(tmp_path: Path, soak: Any) -> None:
    data = encode([{"cell": "00", "status": "converged", "attempt": 1}], "identity")
    path = tmp_path / "parts" / part_name(data)
    path.parent.mkdir()
    flips = random.Random(0).sample(range(8 * len(data)), soak.times(400, 8 * len(data)))
    damaged = [data[:length] for length in range(len(data))] + [flipped(data, *divmod(flip, 8)) for flip in flips]
    for content in (data, *damaged):
        path.write_bytes(content)
        (found,) = scan(tmp_path, None)
        assert bool(found.reason) == (content != data)
    soak.figure(
        "R14",
        "A part cut at every length and with every bit changed",
        truncations=len(data),
        flips=len(flips),
        undetected=0,
    )


def test_damaged_part_goes_to_quarantine_and_only_its_cells_run_again(tmp_path: Path) -> None:
    with Store.open(tmp_path, PLAN, CONFIG) as store:
        names = [store.commit([row(2 * k), row(2 * k + 1)]) for k in range(3)]
    path = tmp_path / "parts" / str(names[1])
    broken = path.read_bytes()[:-7]
    path.write_bytes(broken)
    foreign = path.with_name("data.parquet")
    foreign.write_bytes(broken)
    assert set(read(tmp_path)[0]["cell"]) == set(cells(0, 1, 4, 5))
    with Store.open(tmp_path, PLAN, CONFIG) as store:
        assert set(store.finished) == set(cells(0, 1, 4, 5))
        assert sorted(store.damaged) == sorted(
            f"{name}: its content does not match its name" for name in (names[1], "data.parquet")
        )
        store.commit([row(2), row(3)])
    assert (tmp_path / "quarantine" / f"{names[1]}.1").read_bytes() == broken
    assert [e["file"] for e in read_events(tmp_path) if e["kind"] == "quarantined"] == store.damaged
    assert list(read(tmp_path)[0]["cell"]) == cells(*range(6))


def test_valid_file_that_is_no_part_or_of_another_plan_is_set_aside(tmp_path: Path) -> None:
    with Store.open(tmp_path, PLAN, CONFIG) as store:
        store.commit([row(0)])
    for data in (b"not parquet", encode([{**row(1), "attempt": 1}], identity_hash(OTHER))):
        (tmp_path / "parts" / part_name(data)).write_bytes(data)
    assert len(read(tmp_path)[2]) == 2
    with Store.open(tmp_path, PLAN, CONFIG) as store:
        assert set(store.finished) == set(cells(0))
        assert sorted(line.split(": ")[1][:12] for line in store.damaged) == ["belongs to a", "is not a par"]


def test_every_truncation_and_bit_flip_of_the_plan_is_detected(tmp_path: Path) -> None:
    with Store.open(tmp_path, PLAN, CONFIG):
        pass
    path = tmp_path / "plan.json"
    data = path.read_bytes()
    for content in [data[:i] for i in range(len(data))] + [flipped(data, i, i % 8) for i in range(len(data))]:
        path.write_bytes(content)
        with suppress(ValueError):
            assert module.read_plan(tmp_path) == PLAN  # a flip may be harmless (white space), never misread


def test_damaged_plan_is_restored_for_its_own_parts_and_for_no_other(tmp_path: Path) -> None:
    with Store.open(tmp_path, PLAN, CONFIG) as store:
        store.commit([row(0)])
    good = (tmp_path / "plan.json").read_bytes()
    (tmp_path / "plan.json").write_bytes(good[:-9])
    before = snapshot(tmp_path)
    with pytest.raises(StorageError, match="E-PLAN"):
        Store.open(tmp_path, OTHER, CONFIG)
    assert snapshot(tmp_path) == before
    with Store.open(tmp_path, PLAN, CONFIG) as store:
        assert set(store.finished) == set(cells(0))
    assert (tmp_path / "plan.json").read_bytes() == good
    assert (tmp_path / "quarantine" / "plan.json.1").read_bytes() == good[:-9]


def test_truncated_events_keep_every_complete_line_and_take_new_ones(tmp_path: Path) -> None:
    with Store.open(tmp_path, PLAN, CONFIG) as store:
        for k in range(3):
            store.event("note", number=k, value=float("nan"))
        path = tmp_path / "events.jsonl"
        data, total = path.read_bytes(), len(read_events(tmp_path))
        for length in range(len(data) + 1):
            path.write_bytes(data[:length])
            complete = data[: length + 1].count(b'"}\n')  # a line is complete with its closing brace
            store.event("after")
            kinds = [event["kind"] for event in read_events(tmp_path)]
            assert kinds[-1] == "after"
            assert len(kinds) - 1 in (complete, data[:length].count(b'"}\n'))
            assert [json.loads(line)["kind"] for line in path.read_bytes().splitlines()] == kinds  # JSON Lines
    assert total == 4


def test_files_of_a_newer_format_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(tmp_path, PLAN, CONFIG) as store:
        store.commit([row(0)])
    monkeypatch.setitem(scan.__globals__, "FORMAT", 0)
    with pytest.raises(StorageError, match="E-VERSION.*format 1"):
        Store.open(tmp_path, PLAN, CONFIG)


# --- one owner, one plan, one place ---------------------------------------------------------------


def hold(directory: str) -> None:
    with Store.open(directory, PLAN, CONFIG):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.read()


def test_second_process_is_refused_until_the_first_dies(tmp_path: Path) -> None:
    process = child("hold", tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert is_locked(tmp_path)
    before = snapshot(tmp_path)
    for fresh in (False, True):
        with pytest.raises(StorageError, match="E-LOCK") as caught:
            Store.open(tmp_path, PLAN, CONFIG, fresh=fresh)
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(StorageError, match="E-PLAN"):
        Store.open(tmp_path, OTHER, CONFIG)
    assert snapshot(tmp_path) == before
    process.kill()
    process.communicate()
    assert not is_locked(tmp_path)
    start = time.monotonic()
    Store.open(tmp_path, PLAN, CONFIG).close()
    assert time.monotonic() - start < 2


def test_other_plan_is_refused_with_the_first_difference_and_changes_nothing(tmp_path: Path) -> None:
    with Store.open(tmp_path, PLAN, CONFIG) as store:
        store.commit([row(0)])
    before = snapshot(tmp_path)
    with pytest.raises(StorageError) as caught:
        Store.open(tmp_path, OTHER, CONFIG)
    assert caught.value.exit_code == 4
    for text in ("E-PLAN", "3f2a3f2a", "9bc19bc1", "training.tolerance 0.05 -> 0.1"):
        assert text in str(caught.value)
    assert snapshot(tmp_path) == before


def test_a_larger_sweep_of_the_same_plan_resumes(tmp_path: Path) -> None:
    with Store.open(tmp_path, PLAN, CONFIG) as store:
        store.commit([row(0)])
    # Key order and 1 against 1.0 are spelling, not another plan.
    same = {"measure": ["E0", "E5"], "training": {"factor": 1, "tolerance": 0.05}}
    larger = {**PLAN, "hash": "77" * 16, "identity": same, "axes": [{"n": [8, 16]}], "cells": 8}
    with Store.open(tmp_path, larger, CONFIG + "# wider\n") as store:
        assert set(store.finished) == set(cells(0))
    assert json.loads((tmp_path / "plan.json").read_text())["cells"] == 8
    assert (tmp_path / "config.yaml").read_text().endswith("# wider\n")


def test_fresh_sets_the_old_run_aside(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for plan in (PLAN, OTHER, PLAN):
        with Store.open(run, plan, CONFIG, fresh=True) as store:
            assert not store.finished
            store.commit([row(0)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.1", "run.2"]
    assert all(len(read(path)[0]) == 1 for path in tmp_path.iterdir())


def test_lock_of_a_directory_that_was_set_aside_meanwhile_does_not_count(tmp_path: Path) -> None:
    run, real = tmp_path / "run", fcntl.flock
    Store.open(run, PLAN, CONFIG).close()

    def late(descriptor: int, operation: int) -> None:
        if not (tmp_path / "run.1").exists():  # another process starts afresh just before we get the lock
            run.rename(tmp_path / "run.1")
            run.mkdir()
            (run / ".lock").touch()
        real(descriptor, operation)

    with mock.patch("fcntl.flock", late), pytest.raises(StorageError, match="E-LOCK"):
        Store.open(run, PLAN, CONFIG)
    assert [path.name for path in run.iterdir()] == [".lock"]


def test_symlinks_files_and_foreign_directories_are_refused(tmp_path: Path) -> None:
    real, link, file, mine = (tmp_path / name for name in ("real", "link", "file", "mine"))
    real.mkdir()
    link.symlink_to(real)
    file.write_text("text")
    mine.mkdir()
    (mine / "config.yaml").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "parts").symlink_to(real)
    before = snapshot(tmp_path)
    package = Path(module.__file__).parents[1] / "out"
    for place in (link, file, mine, tmp_path / "run", package):
        for fresh in (False, True):
            with pytest.raises(StorageError, match="E-OUT"):
                Store.open(place, PLAN, CONFIG, fresh=fresh)
    with pytest.raises(StorageError, match="E-DISK"):
        Store.open(file / "below", PLAN, CONFIG)
    assert snapshot(tmp_path) == before
    assert not package.exists()


def test_part_name_taken_by_a_symlink_is_refused_and_its_target_untouched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time_ns", lambda: 7)
    canary = tmp_path / "canary"
    canary.write_text("alive")
    with Store.open(tmp_path / "run", PLAN, CONFIG) as store:
        name = part_name(encode([{**row(0), "attempt": 1}], identity_hash(PLAN), published=7))
        (tmp_path / "run" / "parts" / name).symlink_to(canary)
        with pytest.raises(StorageError, match="E-OUT"):
            store.commit([row(0)])
    assert canary.read_text() == "alive"
    with Store.open(tmp_path / "run", PLAN, CONFIG) as store:
        assert store.damaged == [f"{name}: is not a regular file"]
        assert store.commit([row(0)]) == name


def test_write_keeps_to_names_of_files_in_the_run(tmp_path: Path) -> None:
    with Store.open(tmp_path, PLAN, CONFIG) as store:
        assert store.write("summary.json", "{}").read_text() == "{}"
        for name in ("../x", "a/b", ".lock", "parts", "events.jsonl", "plan.json", ""):
            with pytest.raises(ValueError, match="is not the name"):
                store.write(name, "")


# --- cells ----------------------------------------------------------------------------------------


def conflicts(directory: Path) -> list[tuple[Any, ...]]:
    fields = ("cell", "column", "kept", "other")
    return [tuple(event[name] for name in fields) for event in read_events(directory) if event["kind"] == "conflict"]


def test_a_finished_cell_that_comes_again_with_other_numbers_is_noted_and_not_stored(tmp_path: Path) -> None:
    columns = [Column(name, "float64", "") for name in ("lambda_0", "residual_final")] + [Column("E5", "bool", "")]
    known = row(1, lambda_0=float("nan"), E5=None, device="cpu", seconds=1.0)
    cell = known["cell"]
    others = [
        ("residual_final", np.float64(0.5), "residual_final", 1 / 7, 0.5),
        ("lambda_0", None, "lambda_0", "nan", None),
        ("E5", False, "E5", None, False),
        ("status", "diverged", "status", "converged", "diverged"),
        ("curve_residual", np.array([1.0, 2.0]), "curve_residual[1]", 1 / 7, 2.0),
    ]
    with Store.open(tmp_path, PLAN, CONFIG, columns=columns) as store:
        store.commit([known])
        # the same numbers run elsewhere, and in a sweep with another axis
        assert store.commit([{**known, "device": "gpu", "seconds": 2.0}, {**known, "rho": 0.5}]) is None
        assert not store.conflicts
        for column, value, *_ in others:
            assert store.commit([{**known, column: value}]) is None
        assert conflicts(tmp_path) == [(cell, *noted) for _, _, *noted in others]
        store.commit([row(8), row(8, steps=9)])  # in one part too
        assert store.conflicts == {cell, row(8)["cell"]}
        assert conflicts(tmp_path)[len(others) :] == [(row(8)["cell"], "steps", 8, 9)]
    table, curves, _ = read(tmp_path)
    assert table["residual_final"].tolist() == [1 / 7, 8 / 7]
    assert curves["residual"].tolist() == [1.0, 1 / 7, 1.0, 8 / 7]
    Store.open(tmp_path, PLAN, CONFIG).close()
    assert len(conflicts(tmp_path)) == len(others) + 1


def published_by_hand(directory: Path, time: int | None, **numbers: Any) -> str:
    """Put a part with cell 0 into a run, published at `time`; without it, as an earlier version did."""
    import pyarrow.parquet as pq

    data = encode([{**row(0), "attempt": 1, **numbers}], identity_hash(PLAN), published=time or 0)
    if time is None:
        file = pq.ParquetFile(io.BytesIO(data))
        label = json.loads(file.metadata.metadata[b"expreg"])
        del label["published"]
        return forge(directory, file.read().replace_schema_metadata(), label)
    (directory / "parts" / part_name(data)).write_bytes(data)
    return part_name(data)


def what_readers_find(directory: Path) -> list[Any]:
    """Return the number of steps of cell 0 that each reader finds, and its status."""
    exported = export(directory, directory.parent / "out.csv").read_text().splitlines()
    column = exported[0].split(",").index("steps")
    steps = [read(directory)[0]["steps"].tolist(), query(directory, "SELECT steps FROM cells")[1]]
    states = [list(status(directory)["by_status"]), read(directory)[0]["status"].tolist()]
    return [*steps, [int(line.split(",")[column]) for line in exported[1:]], *states]


@pytest.mark.parametrize("times", [*permutations([10, 20, 30]), (10, 10, 10), (None, 5, 7), (9, None, None)])
def test_all_readers_keep_the_first_publication_also_in_a_copy(tmp_path: Path, times: tuple[int | None, ...]) -> None:
    run, states = tmp_path / "run", ["converged", "diverged", "max_steps"]
    Store.open(run, PLAN, CONFIG).close()
    parts = {}
    for k, time_ in enumerate(times):
        parts[published_by_hand(run, time_, steps=k, status=states[k])] = (time_ or 0, k)
    first = min(parts, key=lambda name: (parts[name][0], name))
    steps = parts[first][1]
    expected = [[steps], [(steps,)], [steps], [states[steps]], [states[steps]]]
    copied = shutil.copytree(run, tmp_path / "copied", copy_function=shutil.copyfile)
    for name in sorted(parts, key=lambda name: parts[name]):
        os.utime(copied / "parts" / name, (1e9, 1e9 - parts[name][0]))
    for place in (run, copied):
        assert what_readers_find(place) == expected
        with Store.open(place, PLAN, CONFIG) as store:
            assert store.finished == {row(0)["cell"]: states[steps]}
            assert store.conflicts == {row(0)["cell"]}
        assert sorted((kept, other) for _, _, kept, other in conflicts(place)) == sorted(
            (states[steps], state) for state in states if state != states[steps]
        )
        with Store.open(place, PLAN, CONFIG) as store:
            assert not store.conflicts  # they are noted once
        assert what_readers_find(place) == expected
        assert len(conflicts(place)) == 2


def test_the_same_numbers_twice_are_no_conflict(tmp_path: Path) -> None:
    with Store.open(tmp_path, PLAN, CONFIG) as store:
        store.commit([row(0, seconds=1.0)])
        published_by_hand(tmp_path, 5, seconds=2.0, attempt=2)
        assert store.refresh() == [(row(0)["cell"], "converged", 2)]
        assert not store.conflicts
    assert not conflicts(tmp_path)
    assert read(tmp_path)[0]["seconds"].tolist() == [2.0]  # which was published before


def test_failed_cells_are_superseded_and_finished_ones_are_not(tmp_path: Path) -> None:
    with Store.open(tmp_path, PLAN, CONFIG) as store:
        for status in ("timeout", "oom"):
            store.commit([row(0, status=status, residual_final=None)])
        assert store.failed == {row(0)["cell"]: "oom"}
        assert store.attempts == {row(0)["cell"]: 2}
        assert read(tmp_path)[0]["status"].tolist() == ["oom"]
    with Store.open(tmp_path, PLAN, CONFIG) as store:
        assert store.failed == {row(0)["cell"]: "oom"}
        assert not store.finished
        store.commit([row(0)])
        assert store.commit([row(0, status="error")]) is None
    with Store.open(tmp_path, PLAN, CONFIG) as store:
        assert (store.finished, store.failed) == ({row(0)["cell"]: "converged"}, {})
        assert store.attempts == {row(0)["cell"]: 3}


def test_part_is_typed_in_one_row_group_and_named_by_its_bytes(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    special = {"eta": float("nan"), "lambda_0": None, "lambda_cts": float("inf"), "E5": True, "E5_step": None}
    columns = [Column(name, "int64" if "_" in name else "bool", "") for name in ("E5", "E5_step")]
    with Store.open(tmp_path, PLAN, CONFIG, columns=columns) as store:
        name = store.commit([row(0, **special, rho=1, mode="a"), row(1, rho=0.5, E5=None)])
    path = tmp_path / "parts" / str(name)
    assert path.name == part_name(path.read_bytes())
    assert pq.ParquetFile(path).num_row_groups == 1
    table = pq.read_table(path)
    kinds = {field.name: str(field.type) for field in table.schema}
    expected = {"eta": "double", "E5": "bool", "E5_step": "int64", "rho": "double", "mode": "string"}
    assert expected.items() <= kinds.items()
    assert kinds["curve_step"] == "list<element: int64>"
    stored = table.to_pylist()[0]
    assert (stored["lambda_0"], stored["lambda_cts"], stored["E5_step"]) == (None, float("inf"), None)
    assert stored["eta"] != stored["eta"]  # NaN was stored as NaN, not as null
    with Store.open(tmp_path, PLAN, CONFIG) as store, pytest.raises(ValueError, match="unequal length"):
        store.commit([row(5, curve_residual=[1.0])])


def test_importing_the_store_is_light() -> None:
    code = "import sys, expreg.core.store.store; print({'jax', 'matplotlib', 'pyarrow', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# --- what others leave, forge or lack ---------------------------------------------------------------


def test_a_plan_that_is_gone_is_made_again_for_its_own_parts_and_for_no_other(tmp_path: Path) -> None:
    with Store.open(tmp_path, PLAN, CONFIG) as store:
        store.commit([row(0)])
    good = (tmp_path / "plan.json").read_bytes()
    (tmp_path / "plan.json").unlink()
    assert read(tmp_path)[0]["cell"].tolist() == cells(0)
    before = snapshot(tmp_path)
    with pytest.raises(StorageError, match="E-PLAN.*plan.json is gone and its parts belong to another plan"):
        Store.open(tmp_path, OTHER, CONFIG)
    assert snapshot(tmp_path) == before
    with Store.open(tmp_path, PLAN, CONFIG) as store:
        assert set(store.finished) == set(cells(0))
    assert (tmp_path / "plan.json").read_bytes() == good


def forge(directory: Path, table: Any, label: Any) -> str:
    """Put a part with a right name and any content into a run."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"expreg": label if isinstance(label, str) else json.dumps(label)})
    data = bytes(sink.getvalue())
    (directory / "parts" / part_name(data)).write_bytes(data)
    return part_name(data)


def test_forged_parts_are_set_aside_by_name_or_named(tmp_path: Path) -> None:
    with Store.open(tmp_path, PLAN, CONFIG) as store:
        (good,) = [store.commit([row(0)])]
    table = decode((tmp_path / "parts" / str(good)).read_bytes())
    label = {"format": 1, "identity": identity_hash(PLAN), "axes": [], "rows": [[row(1)["cell"], "converged", 1]]}
    wrong = [
        *({**label, "format": value} for value in ({"a": 1}, "x", [[1, 2]], None)),
        *(
            {**label, "rows": value}
            for value in (7, {"a": 1}, "x", [[1, 2]], [[row(1)["cell"], "converged", 1.5]], None)
        ),
        *({**label, "axes": value} for value in (7, [[1, 2]], None)),
        *({name: value for name, value in label.items() if name != key} for key in ("format", "identity", "rows")),
        *({**label, "published": value} for value in ("x", 1.5, None, [1])),
        {**label, "rows": label["rows"] * 2},
        "[" * 100_000,
        [label],
    ]
    newer = forge(tmp_path, table, {**label, "format": 7})
    with pytest.raises(StorageError, match=f"{newer}.*has format 7"):
        Store.open(tmp_path, PLAN, CONFIG)
    (tmp_path / "parts" / newer).unlink()
    forged = {forge(tmp_path, table, one) for one in wrong}
    forged.add(forge(tmp_path, table.drop(["cell"]), label))
    forged.add(forge(tmp_path, table.set_column(table.column_names.index("status"), "status", [[3]]), label))
    with Store.open(tmp_path, PLAN, CONFIG) as store:
        assert set(store.finished) == set(cells(0))
        assert {line.split(":")[0] for line in store.damaged} == forged


LACKING = [errno.EOPNOTSUPP, errno.EPERM, errno.ENOLCK, errno.ENOSYS]


def lacking(code: int) -> Callable[..., None]:
    def call(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    return call


@pytest.mark.parametrize("call", ["fcntl.flock", "os.rename"])
@pytest.mark.parametrize("code", LACKING)
def test_a_file_system_without_locks_or_names_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(call, lacking(code))
        name = call.partition(".")[2]
        with pytest.raises(StorageError, match=f"its file system has no {name} .*another file system") as caught:
            Store.open(tmp_path / "run", PLAN, CONFIG)
        assert caught.value.exit_code == 4
    assert not stray(tmp_path)
    assert not any((tmp_path / "run").rglob("*.*[!k]"))  # no file but the lock
    Store.open(tmp_path / "run", PLAN, CONFIG).close()


@pytest.mark.parametrize("code", LACKING)
def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr("os.link", lacking(code))
    scenario(tmp_path, str)
    damaged = (tmp_path / "plan.json").read_bytes()[:-9]
    (tmp_path / "plan.json").write_bytes(damaged)
    check = Store.open(tmp_path, PLAN, CONFIG)
    assert (tmp_path / "quarantine" / "plan.json.1").read_bytes() == damaged
    assert set(check.finished) == set(cells(0, 1))
    check.close()


@pytest.mark.parametrize("code", LACKING)
def test_a_run_that_was_copied_to_a_file_system_without_locks_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    scenario(tmp_path, str)
    monkeypatch.setattr("fcntl.flock", lacking(code))
    assert status(tmp_path).items() >= {"done": 2, "running": False}.items()
    monkeypatch.setattr("fcntl.flock", lacking(errno.EIO))
    with pytest.raises(StorageError, match="E-DISK"):
        status(tmp_path)


def test_a_lock_that_cannot_be_closed_is_a_failing_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(tmp_path, PLAN, CONFIG)
    store.commit([row(0)])
    real = os.close

    def failing(descriptor: int) -> None:
        real(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("os.close", failing)
        with pytest.raises(StorageError, match="E-DISK.*Input/output error"):
            store.close()
    store.close()
    assert not is_locked(tmp_path)
    assert read(tmp_path)[0]["cell"].tolist() == cells(0)


def test_temporary_files_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    from expreg.core.store import disk

    with disk.temporary(tmp_path / "x", b"x", "write") as living:
        mine = f".expreg.{disk._HOST}.{os.getpid()}."
        assert living.name.startswith(mine)
        dead = subprocess.Popen(["true"])
        dead.wait()
        left = [f".expreg.{'0' * 32}.tmp", mine.replace(f"{os.getpid()}", f"{dead.pid}") + f"{'1' * 32}.tmp"]
        left.append(f".expreg.elsewhere.1.{'2' * 32}.tmp")
        kept = [living.name, f".expreg.elsewhere.1.{'3' * 32}.tmp", f".expreg.{disk._HOST}.1.{'4' * 32}.tmp", "x.tmp"]
        for name in {*left, *kept}:
            (tmp_path / name).touch()
        day = 24 * 3600
        os.utime(tmp_path / left[2], (time.time() - day - 60,) * 2)
        os.utime(tmp_path / kept[1], (time.time() - day + 60,) * 2)
        disk.remove_temporaries(tmp_path)
        assert {path.name for path in stray(tmp_path)} == set(kept)
    assert not living.exists()


# --- several writers --------------------------------------------------------------------------------


def part_writer(directory: str, number: str, count: str) -> None:
    """Publish `count` cells in parts of a few, those that 3 divides with numbers of its own, an ulp apart."""
    chosen = random.Random(int(number))
    with Store.open(f"{directory}.own", PLAN, CONFIG):  # all is imported
        pass
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    rest = list(range(int(count)))
    chosen.shuffle(rest)
    while rest:
        own = [rest.pop() for _ in range(min(len(rest), chosen.randint(1, 7)))]
        Parts(Path(directory), identity_hash(PLAN)).commit(
            row(k, residual_final=np.nextafter(k / 7, int(number) if k % 3 == 0 else k / 7)) for k in own
        )
        time.sleep(chosen.uniform(0, 0.02))


def test_two_writers_and_an_owner_leave_each_cell_once(tmp_path: Path, soak: Any) -> None:
    run, count = tmp_path / "run", soak.times(60, 600)
    every, apart = cells(*range(count)), cells(*range(0, count, 3))
    with Store.open(run, PLAN, CONFIG) as store:
        writers = [child("part_writer", run, number, count) for number in (-1, 9999)]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            print(file=writer.stdin, flush=True)
        seen: list[tuple[str, str, int]] = []
        while any(writer.poll() is None for writer in writers):
            seen += store.refresh()
            assert not read(run)[2]
            time.sleep(0.03)
        assert [(*writer.communicate(), writer.returncode) for writer in writers] == [("", "", 0)] * 2
        seen += store.refresh()
        assert store.refresh() == []
        assert Counter(cell for cell, *_ in seen) == dict.fromkeys(every, 2)  # each part was read once
        assert set(store.finished) == set(every)
        assert store.conflicts == set(apart)
        assert store.commit([row(1)]) is None
    assert sorted(cell for cell, *_ in conflicts(run)) == apart
    first: dict[str, tuple[int, str, float]] = {}
    for part in scan(run, None):
        for one in decode(part.file).to_pylist():  # type: ignore[arg-type]
            found = (part.published, part.name, one["residual_final"])
            first[one["cell"]] = min(found, first.get(one["cell"], found))
    table = read(run)[0]
    assert table["cell"].tolist() == every
    assert table["residual_final"].tolist() == [first[cell][2] for cell in table["cell"]]
    assert {*table["residual_final"]} > {k / 7 for k in range(count) if k % 3}
    with Store.open(run, PLAN, CONFIG) as store:
        assert not store.conflicts
    assert len(conflicts(run)) == len(apart)
    title = "Two processes that publish the same cells beside the owner of the run, every third one an ulp apart"
    soak.figure("R7", title, cells=count, published=len(seen), rows=len(table), noted=len(apart), unreadable=0)


def kill_writers(directory: str) -> None:
    """Kill a writer of parts at each point of its second commit, beside an owner."""
    encode([], "")
    os.environ["EXPREG_TESTING"] = "1"
    with Store.open(directory, PLAN, CONFIG) as store:
        for k, hook in enumerate(HOOKS):
            if os.fork() == 0:
                os.environ["EXPREG_FAULT"] = f"{hook}:kill@2"
                fault.__globals__["_passes"].clear()
                for cell in (2 * k, 2 * k + 1):
                    Parts(Path(directory), identity_hash(PLAN)).commit([row(cell)])
                os._exit(1)
            assert os.wait()[1] == signal.SIGKILL
            published = [2 * k, 2 * k + 1] if hook == "commit.after_link" else [2 * k]
            assert sorted(cell for cell, *_ in store.refresh()) == cells(*published)
            assert not read(directory)[2]
        assert len(stray(Path(directory))) == 2  # of those that were killed while they wrote
        assert not store.damaged
    Store.open(directory, PLAN, CONFIG).close()
    assert not stray(Path(directory))


def test_a_writer_that_is_killed_in_a_commit_leaves_nothing_unreadable(tmp_path: Path) -> None:
    run_child("kill_writers", tmp_path)
    assert read(tmp_path)[0]["cell"].tolist() == cells(0, 2, 4, 6, 7)


def test_a_damaged_part_of_another_writer_is_set_aside_and_its_cells_are_open(tmp_path: Path) -> None:
    with Store.open(tmp_path, PLAN, CONFIG) as store:
        part = Parts(tmp_path, identity_hash(PLAN)).commit([row(0), row(1, status="oom", attempt=3)])
        assert part is not None
        (tmp_path / "parts" / part.name).write_bytes(b"")
        assert store.refresh() == []
        assert store.damaged == [f"{part.name}: its content does not match its name"]
        Parts(tmp_path, identity_hash(PLAN)).commit([row(0), row(1, status="oom", attempt=3)])
        assert store.refresh() == [(row(0)["cell"], "converged", 1), (row(1)["cell"], "oom", 3)]
        assert (store.finished, store.failed) == ({row(0)["cell"]: "converged"}, {row(1)["cell"]: "oom"})
        store.commit([row(1)])
        assert store.attempts[row(1)["cell"]] == 4
        assert not store.failed
    assert Parts(tmp_path, identity_hash(PLAN)).commit([]) is None
