"""Files that are whole or absent: write, publish, lock, and say in one line when a disk does not do it."""

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import stat
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from expreg.errors import InputError, Problem, StorageError

LOCK = ".lock"
_HOST = re.sub(r"[^A-Za-z0-9-]", "-", os.uname().nodename)[:64]
_TEMPORARY = re.compile(r"\.expreg\.(?:([A-Za-z0-9-]*)\.([0-9]{1,7})\.)?[0-9a-f]{32}\.tmp")
_DAY = 86400.0
_LACKING = {errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EPERM, errno.EINVAL}
"""What a file system answers to a call that it does not know."""


def failure(code: str, path: Path, message: str) -> StorageError:
    """Return the error for one line that names the path."""
    return StorageError(str(Problem(code, message, file=str(path))))


@contextmanager
def storage(path: Path, needed: int = 0) -> Iterator[None]:
    """Turn any OSError, with or without errno, into a StorageError with path, free and needed bytes."""
    try:
        yield
    except OSError as error:
        room = f"{_free_bytes(path)} bytes free" + (f", {needed} needed" if needed else "")
        message = f"{error.strerror or error}; {room}; what was committed is safe, the same command continues"
        raise failure("E-DISK", path, message) from error


@contextmanager
def required(call: str, path: Path) -> Iterator[None]:
    """Say which call a file system lacks; what a run promises rests on it."""
    try:
        yield
    except OSError as error:
        if error.errno not in _LACKING:
            raise
        lacking = f"its file system has no {call} ({error.strerror}), which a run needs"
        message = f"{lacking}; give a directory on another file system, such as a local one"
        raise failure("E-DISK", path, message) from error


def _free_bytes(path: Path) -> int | str:
    for place in (path, *path.absolute().parents):
        with suppress(OSError):
            return shutil.disk_usage(place).free
    return "unknown"


_passes: Counter[str] = Counter()


def fault(hook: str) -> None:
    """Fail at the k-th pass if EXPREG_FAULT is `hook:kind@k` (kill, raise, oserror) and EXPREG_TESTING=1."""
    wanted, _, action = os.environ.get("EXPREG_FAULT", "").partition(":")
    if wanted != hook or os.environ.get("EXPREG_TESTING") != "1":
        return
    kind, _, at = action.partition("@")
    _passes[hook] += 1
    if _passes[hook] == int(at or 1):
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "oserror":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise RuntimeError(f"fault at {hook}")


def read_bytes(path: Path) -> bytes:
    """Return the content of a regular file; a symlink, a pipe or a device is an OSError, not a surprise."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read()


def read_json(path: Path) -> Any:
    """Return what a JSON file of ours holds; ValueError where it is none, also where it is nested beyond measure."""
    try:
        return json.loads(read_bytes(path))
    except RecursionError:
        raise ValueError("nested too deep") from None


def check_output(path: Path, key: str | None = None, inputs: Iterable[str | Path] = ()) -> None:
    """Raise InputError, before any work, if a file cannot be written there or if it is one of the inputs."""
    message = None
    try:
        if not path.parent.is_dir():
            message = f"there is no directory {path.parent}"
        elif not os.access(path.parent, os.W_OK | os.X_OK):
            message = f"the directory {path.parent.resolve()} cannot be written"
        elif path.exists() and not path.is_file():
            message = "is a directory or a device, expected a file"
        elif path.exists() and any(os.path.exists(given) and os.path.samefile(path, given) for given in inputs):
            message = "is an input of this command; give another file"
    except (OSError, ValueError) as error:  # a name that is too long, NUL in it
        message = getattr(error, "strerror", None) or str(error)
    if message:
        raise InputError(Problem("E-PATH", message, file=str(path), key=key))


def holds(path: Path, data: bytes) -> bool:
    """Return whether a file exists and has exactly these bytes."""
    try:
        return read_bytes(path) == data
    except OSError:
        return False


@contextmanager
def temporary(target: Path, data: bytes, stage: str) -> Iterator[Path]:
    """Yield a new file beside `target`, written and fsynced; it is gone afterwards unless it got another name.

    After any error it is abandoned: the kernel reports a failed write-back once and then calls the pages clean, so a
    second fsync of the same descriptor would succeed without the data being on disk.
    """
    path = _temporary_name(target)
    fault(f"{stage}.before_write")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        fault(f"{stage}.before_fsync")
        os.fsync(descriptor)
        yield path
    finally:
        with suppress(OSError):
            os.unlink(path)
        os.close(descriptor)


def _temporary_name(target: Path) -> Path:
    """Return a new name beside a file, which says whose it is: others remove what a process that died has left."""
    # the name of the target is no part of it: with more letters it could be too long
    return target.with_name(f".expreg.{_HOST}.{os.getpid()}.{uuid4().hex}.tmp")


def replace(path: Path, data: bytes) -> None:
    """Write a file so that its name always has the old content or the new; StorageError if the disk fails."""
    with storage(path, len(data)):
        with temporary(path, data, "write") as written:
            os.replace(written, path)
        sync(path.parent)


def sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_link(folder: Path) -> None:
    """Raise StorageError if a directory of ours is a symlink, which would lead out of the run, or a file."""
    if folder.is_symlink():
        raise failure("E-OUT", folder, f"is a symlink to {os.readlink(folder)}; give the real path")
    if folder.exists() and not folder.is_dir():
        raise failure("E-OUT", folder, "is a file; a run needs a directory")


def make_directory(folder: Path) -> None:
    """Create a directory and its parents so that they outlive a power cut."""
    if not folder.exists():
        make_directory(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def free_name(path: Path) -> Path:
    """Return <path>.1, .2, ...: the first that does not exist."""
    number = next(k for k in range(1, sys.maxsize) if not os.path.lexists(f"{path}.{k}"))
    return path.with_name(f"{path.name}.{number}")


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files of processes of this host that died, and those of other hosts after a day."""
    for name in os.listdir(folder) if folder.is_dir() else ():
        if found := _TEMPORARY.fullmatch(name):
            with suppress(FileNotFoundError):
                if _is_left(folder / name, *found.groups("")):
                    os.unlink(folder / name)


def _is_left(path: Path, host: str, process: str) -> bool:
    if host != _HOST:  # without any it is of an earlier version
        return not host or time.time() - path.lstat().st_mtime > _DAY
    try:
        os.kill(int(process), 0)
    except OSError as error:  # another user's process may not be asked, but it lives
        return error.errno == errno.ESRCH
    return False


def probe(folder: Path) -> None:
    """Do once all that a commit does: a disk that cannot should say so before anything is computed."""
    with temporary(folder / "probe", b"expreg", "probe") as written, required("rename", folder):
        renamed = _temporary_name(written)
        os.rename(written, renamed)
        os.unlink(renamed)
    with required("fsync of a directory", folder):
        sync(folder)


def take_lock(directory: Path) -> int:
    """Return the descriptor of the directory's lock, taken; raise StorageError if another process holds it."""
    path = directory / LOCK
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        for _ in range(10):
            # `status` tries the lock for an instant; only an owner still has it after 0.2 s.
            with suppress(BlockingIOError), required("flock", directory):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # If another process has set the directory aside while we waited, this is the old run's lock.
                if os.path.samestat(os.fstat(lock), os.stat(path)):
                    return lock
            time.sleep(0.02)
        raise failure("E-LOCK", directory, "is in use by another process; wait for it, or give another --out")
    except BaseException:
        os.close(lock)
        raise


def is_locked(directory: Path) -> bool:
    """Return whether a process owns the run directory now; none can where the file system has no locks."""
    path = directory / LOCK
    with storage(path), suppress(FileNotFoundError):
        lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno not in _LACKING:
                raise
        finally:
            os.close(lock)
    return False
