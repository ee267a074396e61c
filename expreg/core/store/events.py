"""events.jsonl: what happened when, a JSON document with a checksum per line; derived, never needed."""

import errno
import json
import math
import os
import zlib
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from expreg.core.store.disk import read_bytes, storage

EVENTS = "events.jsonl"


def append_event(directory: Path, kind: str, **fields: Any) -> None:
    """Append one line, with the wall-clock time (information only) and a checksum."""
    known = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "kind": kind, **fields}
    plain = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in known.items()}
    body = json.dumps(plain, allow_nan=False, default=str).encode()[:-1]
    line = b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body))
    path = directory / EVENTS
    with storage(path, len(line)):
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o644)
        try:
            _end_line(descriptor)
            if os.write(descriptor, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)


def _end_line(descriptor: int) -> None:
    """Cut off a last line of which a kill or a full disk has left only a part: every line is a JSON document."""
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        os.ftruncate(descriptor, os.pread(descriptor, size, 0).rfind(b"\n") + 1)


def read_events(directory: Path | str) -> list[dict[str, Any]]:
    """Return the events of a run in order; lines that a kill or a full disk cut short are left out."""
    path = Path(directory) / EVENTS
    with storage(path):
        try:
            lines = read_bytes(path).split(b"\n")
        except FileNotFoundError:
            return []
    found = []
    for line in lines:
        body, mark, check = line.rpartition(b',"crc":"')
        if mark and check == b'%08x"}' % zlib.crc32(body):
            with suppress(ValueError, RecursionError):
                found.append({"kind": "?", "time": "?", **json.loads(body + b"}")})
    return found
