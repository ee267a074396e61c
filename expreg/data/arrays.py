"""Read .npy and .npz files: header first, sizes checked before memory is taken, and never a pickle.

Readers name no file in their problems: `files.open_local` adds it.
"""

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

Options = Mapping[str, Any]
Arrays = tuple[Any, np.ndarray | None]
"""A matrix (n, d) and the vector (n,) that came with it, if any."""


def refusal(code: str, message: str, *, key: str | None = None, file: str | None = None) -> InputError:
    """Return the error that reports one problem of a file."""
    return InputError(Problem(code, message, file=file, key=key))


def read_npy(source: IO[bytes], _: Options) -> Arrays:
    """Return the single array of an .npy file as X (n, d), float64, and no labels."""
    size = source.seek(0, 2)
    source.seek(0)
    return _array(source, size, "X"), None


def read_npz(source: IO[bytes], _: Options) -> Arrays:
    """Return the arrays `X` and, when the file has it, `y` of an .npz file, float64."""
    arrays = read_named(source, ("X",), optional=("y",))
    return arrays["X"], arrays.get("y")


def read_named(source: IO[bytes], names: Sequence[str], *, optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Return the named arrays of an .npz file, float64; those that are `optional` where the file has them."""
    arrays = {}
    with _archive(source) as archive:
        present = archive.namelist()
        for name in (*names, *(name for name in optional if f"{name}.npy" in present)):
            with _member(archive, name) as (stream, size):
                arrays[name] = _array(stream, size, name)
    return arrays


def names_npz(source: IO[bytes]) -> list[str]:
    """Return the names of the arrays in an .npz file."""
    with _archive(source) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_text(source: IO[bytes], name: str) -> str:
    """Return the one short text that an .npz file has under this name."""
    with _archive(source) as archive, _member(archive, name) as (stream, size), suppress(ValueError):
        if size < _TEXT:
            value = npy.read_array(io.BytesIO(stream.read()), allow_pickle=False)
            if value.dtype.kind in "SU" and value.ndim == 0:
                return str(value.astype(str).item())
    raise refusal("E-DATA", f"{name} is not a short text")


@contextmanager
def _archive(source: IO[bytes]) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(source) as archive:
            yield archive
    except _ZIP_ERRORS as error:
        raise refusal("E-DATA", f"not a readable .npz file: {error}") from error


@contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[IO[bytes], int]]:
    if f"{name}.npy" not in archive.namelist():
        present = ", ".join(sorted(archive.namelist())[:8]) or "nothing"
        raise refusal("E-DATA", f"no array {name}; the file holds {present}")
    info = archive.getinfo(f"{name}.npy")
    ratio = info.file_size / max(info.compress_size, 1)
    if info.file_size > _SMALL and ratio > MAX_RATIO:
        rule = f"expected an expansion of at most {MAX_RATIO}"
        raise refusal("E-SIZE", f"{name} unpacks to {ratio:.0f} times its size, {rule}")
    with archive.open(info) as stream:
        yield stream, info.file_size


def _header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return (shape, Fortran order, dtype) of an .npy stream after refusing what cannot be read."""
    # version 3 of the format exists for field names only, which are not read anyway
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        shape, fortran, dtype = readers[npy.read_magic(stream)](stream)
    except (ValueError, KeyError, SyntaxError, TokenError) as error:  # what numpy's header parser lets through
        raise refusal("E-DATA", f"{name} is not a readable .npy array: {error}") from error
    if dtype.hasobject:
        raise refusal("E-DATA", "object arrays are not read", key=name)
    if dtype.kind not in "biuf":
        raise refusal("E-DTYPE", f"got {dtype}, expected real", key=name)
    if min(shape, default=0) < 0 or math.prod(shape) * max(dtype.itemsize, 8) > MAX_BYTES:
        rule = f"expected at most {MAX_BYTES >> 20} MiB"
        raise refusal("E-SIZE", f"the header declares shape {shape} of {dtype}, {rule}")
    return shape, fortran, dtype


def _array(stream: IO[bytes], size: int, name: str) -> np.ndarray:
    """Return the array of an .npy stream as native float64, or refuse it when a value would change."""
    shape, fortran, dtype = _header(stream, name)
    declared, present = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if declared != present:
        raise refusal("E-DATA", f"the header of {name} declares {declared} bytes, the file holds {present}")
    array = np.frombuffer(stream.read(declared), dtype=dtype).reshape(shape, order="F" if fortran else "C")
    converted = np.ascontiguousarray(array, dtype=np.float64)
    if dtype.kind in "iu" and dtype.itemsize == 8:
        changed = (array > 2**53) | (array < -(2**53))
    else:
        changed = (converted.astype(dtype) != array) & (array == array)
    if changed.any():
        where = tuple(map(int, np.argwhere(changed)[0]))
        key = f"{name}[{','.join(map(str, where))}]"
        raise refusal("E-DTYPE", f"got {array[where]} of {dtype}, expected a value that float64 holds exactly", key=key)
    return converted
