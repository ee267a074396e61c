"""Read the user's own data from a local file; imports no JAX."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import IO, TypeVar

import numpy as np

from expreg.data import arrays, tables
from expreg.data.arrays import Arrays, Options, refusal
from expreg.errors import InputError

MAX_FILE_BYTES = 2**30
T = TypeVar("T")


FORMATS: dict[str, Callable[[IO[bytes], Options], Arrays]] = {
    ".npy": arrays.read_npy,
    ".npz": arrays.read_npz,
    ".csv": tables.read_csv,
    ".parquet": tables.read_parquet,
}
"""By suffix, how to read the open file with the options of `read_file`."""


def data_shape(path: str | Path, options: Options | None = None) -> tuple[int, int]:
    """Return (n, d) of the data in a file; `options` are those of `read_file`. Raises InputError."""
    n, d = read_file({**(options or {}), "path": path})[0].shape
    return n, d


def sha256(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 of the bytes of a local file; raises InputError if it cannot be read."""
    with open_local(str(path)) as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def check_unchanged(found: str, planned: str, *, key: str | None = None, file: str | None = None) -> None:
    """Raise InputError if a file has another SHA-256 than when it was planned."""
    if found != planned:
        message = f"the file has changed: sha256 is {found[:12]}..., the plan has {planned[:12]}..."
        raise refusal("E-DATA", message, key=key, file=file)


def read_file(options: Options) -> tuple[np.ndarray, np.ndarray | None]:
    """Return X (n, d) and, where the file has labels, y (n,), read-only float64.

    Options: `path`; `sha256`, refused if the bytes have changed since; `features`, `target`, `header` for tables;
    `normalise`, to divide the rows by their norms. The last few files are kept in memory.
    """
    features = options.get("features")
    return _read_file(
        str(options["path"]),
        options.get("sha256") or sha256(options["path"]),
        None if features is None else tuple(features),
        options.get("target"),
        bool(options.get("normalise", False)),
        bool(options.get("header", True)),
    )


@lru_cache(maxsize=4)
def _read_file(
    file: str, digest: str, features: tuple[str, ...] | None, target: str | None, normalise: bool, header: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    with open_local(file) as source:
        check_unchanged(hashlib.file_digest(source, "sha256").hexdigest(), digest, key="data.sha256")
        source.seek(0)
        X, y = by_suffix(file, FORMATS, key="data.path")(
            source, {"features": features, "target": target, "header": header}
        )
        if X.ndim != 2 or 0 in X.shape:
            message = f"got shape {X.shape}, expected (points, dimensions), both at least 1"
            raise refusal("E-SHAPE", message, key="X")
    if normalise:
        with np.errstate(invalid="ignore"):  # what is not finite `validate` names, and zero rows
            X = np.ldexp(X, -np.frexp(np.abs(X).max(axis=1, keepdims=True))[1])  # so that no square overflows
            norms = np.linalg.norm(X, axis=1, keepdims=True)
            X = X / np.where(norms > 0, norms, 1)
    for array in (X, y):
        if array is not None:
            array.setflags(write=False)
    return X, y


def read_arrays(path: str | Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the named arrays of an .npz file, float64; raises InputError if one is missing or not real."""
    with open_local(str(path)) as source:
        return arrays.read_named(source, names)


def by_suffix(path: str | Path, known: Mapping[str, T], *, key: str | None = None) -> T:
    """Return what is known by the suffix of a path; raise InputError for another suffix."""
    suffix = Path(path).suffix.lower()
    if suffix not in known:
        message = f"got a {suffix or 'nameless'} file, expected one of {' '.join(known)}"
        raise refusal("E-ENUM", message, file=str(path), key=key)
    return known[suffix]


@contextmanager
def open_local(file: str) -> Iterator[BufferedReader]:
    """Open a regular local file of bounded size, whose name is added to the problems that its readers raise.

    Addresses, devices and pipes are refused, not waited for.
    """
    if "://" in file or file.lower().startswith("file:") or "\0" in file:
        raise refusal("E-PATH", f"{file!r} must be a local file, given by its path", key="data.path")
    try:
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        message = f"{file!r} cannot be opened: {error.strerror or error}"
        raise refusal("E-PATH", message, key="data.path") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise refusal("E-PATH", f"{file!r} is not a regular file", key="data.path")
    with open(descriptor, "rb") as source:
        if status.st_size > MAX_FILE_BYTES:
            rule = f"expected at most {MAX_FILE_BYTES >> 20} MiB"
            raise refusal("E-SIZE", f"{status.st_size >> 20} MiB, {rule}", file=file, key="data.path")
        with naming(file):
            yield source


@contextmanager
def naming(file: str) -> Iterator[None]:
    """Add the name of a file to the problems that are raised inside."""
    try:
        yield
    except InputError as error:
        raise InputError([replace(problem, file=problem.file or file) for problem in error.problems]) from error
