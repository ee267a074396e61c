"""Files that are whole or absent: write, publish, lock, and say in one line when a disk does not do it."""

import errno
import fcntl
import os
import re
import shutil
import signal
import stat
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from expreg.errors import Problem, StorageError

LOCK = ".lock"
_TEMPORARY = re.compile(r"\.[A-Za-z0-9._-]+\.[0-9a-f]{32}\.tmp")


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


def holds(path: Path, data: bytes) -> bool:
    """Return whether a file exists and has exactly these bytes."""
    try:
        return read_bytes(path) == data
    except OSError:
        return False


def write_temporary(target: Path, data: bytes, stage: str) -> Path:
    """Write and fsync a new file beside `target`.

    After any error the file is abandoned: the kernel reports a failed write-back once and then calls the
    pages clean, so a second fsync of the same descriptor would succeed without the data being on disk.
    """
    path = target.with_name(f".{target.name}.{uuid4().hex}.tmp")
    fault(f"{stage}.before_write")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            fault(f"{stage}.before_fsync")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise
    return path


def replace(path: Path, data: bytes) -> None:
    """Write a file so that its name always has the old content or the new; StorageError if the disk fails."""
    with storage(path, len(data)):
        temporary = write_temporary(path, data, "write")
        try:
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        sync(path.parent)


def sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
    """Remove the temporary files of earlier processes."""
    # We hold the lock and are the only writer: whatever bears such a name was left by a process that died.
    for name in os.listdir(folder):
        if _TEMPORARY.fullmatch(name):
            os.unlink(folder / name)


def probe(folder: Path) -> None:
    """Do once all that a commit does: a disk that cannot should say so before anything is computed."""
    temporary = write_temporary(folder / "probe", b"expreg", "probe")
    os.link(temporary, folder / f".probe.{uuid4().hex}.tmp")
    sync(folder)
    remove_temporaries(folder)


def take_lock(directory: Path) -> int:
    """Return the descriptor of the directory's lock, taken; raise StorageError if another process holds it."""
    path = directory / LOCK
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        for _ in range(10):
            # `status` tries the lock for an instant; only an owner still has it after 0.2 s.
            with suppress(BlockingIOError):
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
    """Return whether a process owns the run directory now."""
    path = directory / LOCK
    with storage(path), suppress(FileNotFoundError):
        lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
    return False
