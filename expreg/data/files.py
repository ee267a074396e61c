"""Read the user's own data from a local file, or just its shape; imports no JAX."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from expreg.data import arrays, tables
from expreg.errors import InputError, Problem

MAX_FILE_BYTES = 2**30


class Format(NamedTuple):
    """How to read one kind of file; both functions take the open file, the options, the name for messages."""

    read: Callable[[IO[bytes], Mapping[str, Any], str], tuple[np.ndarray, np.ndarray | None]]
    shape: Callable[[IO[bytes], Mapping[str, Any], str], tuple[int, ...]]


FORMATS = {
    ".npy": Format(arrays.read_npy, arrays.shape_npy),
    ".npz": Format(arrays.read_npz, arrays.shape_npz),
    ".csv": Format(tables.read_csv, tables.shape_csv),
    ".parquet": Format(tables.read_parquet, tables.shape_parquet),
}


def data_shape(path: str | Path, options: Mapping[str, Any] | None = None) -> tuple[int, int]:
    """Return (n, d) of the data in a file from its header, or for .csv from its lines, without loading it.

    `options` are those of `read_file`. Raises InputError.
    """
    file = str(path)
    with open_local(file) as source:
        return _points(_format(file).shape(source, options or {}, file), file)


def sha256(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 of the bytes of a local file; raises InputError if it cannot be read."""
    with open_local(str(path)) as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def read_file(options: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """Return X (n, d) and, where the file has labels, y (n,), read-only float64.

    Options: `path`; `sha256`, refused if the bytes have changed since; `features` and `target` for tables;
    `normalise`, to divide the rows by their norms. The last few files are kept in memory.
    """
    features = options.get("features")
    return _read_file(
        str(options["path"]),
        options.get("sha256") or sha256(options["path"]),
        None if features is None else tuple(features),
        options.get("target"),
        bool(options.get("normalise", False)),
    )


@lru_cache(maxsize=4)
def _read_file(
    file: str, digest: str, features: tuple[str, ...] | None, target: str | None, normalise: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    with open_local(file) as source:
        found = hashlib.file_digest(source, "sha256").hexdigest()
        if found != digest:
            message = f"the file has changed: sha256 is {found[:12]}..., the plan has {digest[:12]}..."
            raise InputError(Problem("E-DATA", message, file=file, key="data.sha256"))
        source.seek(0)
        X, y = _format(file).read(source, {"features": features, "target": target}, file)
    _points(X.shape, file)
    if normalise:
        norms = np.linalg.norm(X, axis=1, keepdims=True)
        X = X / np.where(norms > 0, norms, 1)  # a zero row is left for `validate` to name
    for array in (X, y):
        if array is not None:
            array.setflags(write=False)
    return X, y


def read_arrays(path: str | Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the named arrays of an .npz file, float64; raises InputError if one is missing or not real."""
    file = str(path)
    with open_local(file) as source:
        return arrays.read_named(source, names, file)


def _points(shape: tuple[int, ...], file: str) -> tuple[int, int]:
    if len(shape) != 2 or 0 in shape:
        message = f"got shape {shape}, expected (points, dimensions), both at least 1"
        raise InputError(Problem("E-SHAPE", message, file=file, key="X"))
    return shape[0], shape[1]


def _format(file: str) -> Format:
    suffix = Path(file).suffix.lower()
    if suffix not in FORMATS:
        message = f"got a {suffix or 'nameless'} file, expected one of {' '.join(FORMATS)}"
        raise InputError(Problem("E-ENUM", message, file=file, key="data.path"))
    return FORMATS[suffix]


@contextmanager
def open_local(file: str) -> Iterator[BufferedReader]:
    """Open a regular local file of bounded size; addresses, devices and pipes are refused, not waited for."""
    if "://" in file or file.lower().startswith("file:") or "\0" in file:
        raise _refused(file, "must be a local file, given by its path")
    try:
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise _refused(file, f"cannot be opened: {error.strerror or error}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise _refused(file, "is not a regular file")
    with open(descriptor, "rb") as source:
        if status.st_size > MAX_FILE_BYTES:
            rule = f"expected at most {MAX_FILE_BYTES >> 20} MiB"
            raise InputError(Problem("E-SIZE", f"{status.st_size >> 20} MiB, {rule}", file=file, key="data.path"))
        yield source


def _refused(file: str, reason: str) -> InputError:
    return InputError(Problem("E-PATH", f"{file!r} {reason}", key="data.path"))
