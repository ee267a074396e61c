"""Read .npy and .npz files: header first, sizes checked before memory is taken, and never a pickle."""

import io
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from lzma import LZMAError
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from expreg.errors import InputError, Problem

MAX_BYTES = 2**30  # of one array, once in memory
MAX_RATIO = 400  # of expansion in an .npz; deflate reaches 1030, data that anyone measured does not
_TEXT = 1000  # bytes of an .npy that holds one word
_SMALL = 2**24  # bytes below which the expansion does not matter
# RuntimeError stands for encrypted members and for unknown compressions
_ZIP_ERRORS = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, LZMAError, RuntimeError, EOFError, OSError)


def read_npy(source: IO[bytes], options: Mapping[str, Any], file: str) -> tuple[np.ndarray, None]:
    """Return the single array of an .npy file as X (n, d), float64, and no labels."""
    del options
    size = source.seek(0, 2)
    source.seek(0)
    return _exact(_read(source, size, "X", file), "X", file), None


def read_npz(source: IO[bytes], options: Mapping[str, Any], file: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the arrays `X` and, when the file has it, `y` of an .npz file, float64."""
    del options
    arrays = read_named(source, ("X",), file, optional=("y",))
    return arrays["X"], arrays.get("y")


def read_named(
    source: IO[bytes], names: Sequence[str], file: str, *, optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Return the named arrays of an .npz file, float64; those that are `optional` where the file has them."""
    arrays = {}
    with _archive(source, file) as archive:
        held = archive.namelist()
        for name in (*names, *(name for name in optional if f"{name}.npy" in held)):
            with _member(archive, name, file) as (stream, size):
                arrays[name] = _exact(_read(stream, size, name, file), name, file)
    return arrays


def names_npz(source: IO[bytes], file: str) -> list[str]:
    """Return the names of the arrays in an .npz file."""
    with _archive(source, file) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_text(source: IO[bytes], name: str, file: str) -> str:
    """Return the one short text that an .npz file holds under this name."""
    with _archive(source, file) as archive, _member(archive, name, file) as (stream, size), suppress(ValueError):
        if size < _TEXT:
            value = npy.read_array(io.BytesIO(stream.read()), allow_pickle=False)
            if value.dtype.kind in "SU" and value.ndim == 0:
                return str(value.astype(str).item())
    raise InputError(Problem("E-DATA", f"{name} is not a short text", file=file))


def shape_npy(source: IO[bytes], options: Mapping[str, Any], file: str) -> tuple[int, ...]:
    """Return the shape that the header of an .npy file declares."""
    del options
    return _header(source, "X", file)[0]


def shape_npz(source: IO[bytes], options: Mapping[str, Any], file: str) -> tuple[int, ...]:
    """Return the shape that the header of `X` in an .npz file declares."""
    del options
    with _archive(source, file) as archive, _member(archive, "X", file) as (stream, _):
        return _header(stream, "X", file)[0]


@contextmanager
def _archive(source: IO[bytes], file: str) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(source) as archive:
            yield archive
    except _ZIP_ERRORS as error:
        raise InputError(Problem("E-DATA", f"not a readable .npz file: {error}", file=file)) from error


@contextmanager
def _member(archive: zipfile.ZipFile, name: str, file: str) -> Iterator[tuple[IO[bytes], int]]:
    if f"{name}.npy" not in archive.namelist():
        held = ", ".join(sorted(archive.namelist())[:8]) or "nothing"
        raise InputError(Problem("E-DATA", f"no array {name}; the file holds {held}", file=file))
    info = archive.getinfo(f"{name}.npy")
    ratio = info.file_size / max(info.compress_size, 1)
    if info.file_size > _SMALL and ratio > MAX_RATIO:
        rule = f"expected an expansion of at most {MAX_RATIO}"
        raise InputError(Problem("E-SIZE", f"{name} unpacks to {ratio:.0f} times its size, {rule}", file=file))
    with archive.open(info) as stream:
        yield stream, info.file_size


def _header(stream: IO[bytes], name: str, file: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return (shape, Fortran order, dtype) of an .npy stream after refusing what cannot be read."""
    # version 3 of the format exists for field names only, which are not read anyway
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        shape, fortran, dtype = readers[npy.read_magic(stream)](stream)
    except (ValueError, KeyError, SyntaxError, TokenError) as error:  # what numpy's header parser lets through
        raise InputError(Problem("E-DATA", f"{name} is not a readable .npy array: {error}", file=file)) from error
    if dtype.hasobject:
        raise InputError(Problem("E-DATA", "object arrays are not read", file=file, key=name))
    if dtype.kind not in "biuf":
        raise InputError(Problem("E-DTYPE", f"got {dtype}, expected real", file=file, key=name))
    if min(shape, default=0) < 0 or math.prod(shape) * max(dtype.itemsize, 8) > MAX_BYTES:
        rule = f"expected at most {MAX_BYTES >> 20} MiB"
        raise InputError(Problem("E-SIZE", f"the header declares shape {shape} of {dtype}, {rule}", file=file))
    return shape, fortran, dtype


def _read(stream: IO[bytes], size: int, name: str, file: str) -> np.ndarray:
    shape, fortran, dtype = _header(stream, name, file)
    declared, held = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if declared != held:
        message = f"the header of {name} declares {declared} bytes, the file holds {held}"
        raise InputError(Problem("E-DATA", message, file=file))
    flat = np.frombuffer(stream.read(declared), dtype=dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


def _exact(array: np.ndarray, name: str, file: str) -> np.ndarray:
    """Return `array` as native float64, or refuse it when a value would change."""
    converted = np.ascontiguousarray(array, dtype=np.float64)
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        changed = (array > 2**53) | (array < -(2**53))
    else:
        changed = (converted.astype(array.dtype) != array) & (array == array)
    if changed.any():
        where = tuple(int(index) for index in np.argwhere(changed)[0])
        key = f"{name}[{','.join(map(str, where))}]"
        message = f"got {array[where]} of {array.dtype}, expected a value that float64 holds exactly"
        raise InputError(Problem("E-DTYPE", message, file=file, key=key))
    return converted
