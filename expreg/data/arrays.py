"""Read .npy and .npz files: header first, sizes checked before memory is taken, and never a pickle.

Readers name no file in their problems: `files.open_local` adds it.
"""

import io
import math
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from lzma import LZMAError
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from expreg.errors import InputError, Problem

MAX_BYTES = 2**30  # of one array, once in memory
EXACT = 2**53  # up to here float64 holds every integer
INEXACT = "expected a value that float64 holds exactly: integers up to 2^53"
_TEXT = 1000  # bytes of an .npy that holds one word
_MOST_DIMENSIONS = 32
# RuntimeError stands for encrypted members and for unknown compressions, ValueError for names that are no text
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, LZMAError, struct.error),
    *(RuntimeError, ValueError, OverflowError, EOFError, OSError),
)
# what numpy's parser of headers lets through
_HEADER_ERRORS = (ValueError, KeyError, TypeError, OverflowError, SyntaxError, TokenError, RecursionError, MemoryError)

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
    return arrays["X"], vector(arrays["y"]) if "y" in arrays else None


def vector(array: np.ndarray) -> np.ndarray:
    """Return one row or one column as a vector, and any other array unchanged."""
    return array.ravel() if array.ndim == 2 and 1 in array.shape else array


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
    with _archive(source) as archive, _member(archive, name) as (stream, size), suppress(*_HEADER_ERRORS):
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
    with archive.open(info) as stream:
        yield stream, info.file_size


def _header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return (shape, Fortran order, dtype) of an .npy stream after refusing what cannot be read."""
    # version 3 of the format exists for field names only, which are not read anyway
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        with warnings.catch_warnings(action="ignore"):  # about headers of Python 2
            shape, fortran, dtype = readers[npy.read_magic(stream)](stream)
    except _HEADER_ERRORS as error:
        raise refusal("E-DATA", f"{name} is not a readable .npy array: {error}") from error
    if dtype.hasobject:
        raise refusal("E-DATA", "object arrays are not read", key=name)
    if dtype.kind not in "biuf":
        raise refusal("E-DTYPE", f"got {dtype}, expected real", key=name)
    # an empty array may declare any number of rows
    if min(shape, default=0) < 0 or math.prod(max(size, 1) for size in shape) * max(dtype.itemsize, 8) > MAX_BYTES:
        rule = f"expected at most {MAX_BYTES >> 20} MiB"
        raise refusal("E-SIZE", f"the header declares shape {shape} of {dtype}, {rule}")
    if len(shape) > _MOST_DIMENSIONS:
        raise refusal("E-SHAPE", f"got {len(shape)} dimensions, expected 1 or 2", key=name)
    return shape, fortran, dtype


def _array(stream: IO[bytes], size: int, name: str) -> np.ndarray:
    """Return the array of an .npy stream as native float64, or refuse it when a value would change."""
    shape, fortran, dtype = _header(stream, name)
    declared, present = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if declared != present:
        raise refusal("E-DATA", f"the header of {name} declares {declared} bytes, the file holds {present}")
    array = np.frombuffer(stream.read(declared), dtype=dtype).reshape(shape, order="F" if fortran else "C")
    return exact(array, lambda place: f"{name}[{','.join(map(str, place))}]")


def exact(array: np.ndarray, key: Callable[[tuple[int, ...]], str]) -> np.ndarray:
    """Return a real array as native float64; refuse a value that would change, `key(place)` its name."""
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(array, dtype=np.float64)
    if array.dtype.itemsize < 8 or array.dtype.str[1:] == "f8":
        return converted
    if array.dtype.kind in "iu":
        changed = (array > EXACT) | (array < -EXACT)
    else:
        changed = (converted.astype(array.dtype) != array) & (array == array)
    if changed.any():
        place = tuple(map(int, np.argwhere(changed)[0]))
        raise refusal("E-DTYPE", f"got {array[place]} of {array.dtype}, {INEXACT}", key=key(place))
    return converted
