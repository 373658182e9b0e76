"""Arrays in files, read a slice at a time: .npy, .npz and IDX, also packed with gzip (see `packed.py`).

Nothing is mapped into memory, so that what a file takes there is the slice that was asked for.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import mmap
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn.datasets import read_idx_header
from fastnn.packed import RAW, Packed, PackedRows, Version, whole_file

Array = npt.NDArray[Any]
Path = str | os.PathLike[str]
Layout = tuple[int, np.dtype[Any], tuple[int, ...]]
"""The byte at which an array's values begin, their type, and the shape."""


class FileRows:
    """The rows of an array in a file; a slice of it reads those rows.

    Parameters
    ----------
    path : str
        The file.
    offset : int
        The byte at which the values begin, in C order.
    dtype : numpy dtype
        Of the values as they are stored.
    shape : tuple of int
    """

    def __init__(self, path: str, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.path, self.offset, self.dtype, self.shape = path, offset, dtype, shape
        self._per_row = math.prod(shape[1:])
        self._version = Version(path)
        needed = offset + self._per_row * shape[0] * dtype.itemsize
        if os.path.getsize(path) < needed:
            raise ValueError(f"path: got {path}, which is cut short, expected {needed} bytes for the shape {shape}")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Array:
        first, last, _ = rows.indices(len(self))
        count = max(0, last - first) * self._per_row
        start = self.offset + first * self._per_row * self.dtype.itemsize
        self._version.check()
        values = np.fromfile(self.path, self.dtype, count, offset=start)
        if len(values) < count:
            raise self._version.error()
        return values.reshape(-1, *self.shape[1:])


class MappedRows:
    """A read-only memory map whose pages are given back to the system as soon as they were read.

    They stay in its cache of files, but are no longer a part of the process.
    """

    def __init__(self, array: Array) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self._map: Any = array._mmap  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, rows: slice) -> Array:
        part = np.array(self.array[rows])
        self._map.madvise(mmap.MADV_DONTNEED)
        return part

    @staticmethod
    def suits(value: object) -> bool:
        """Whether a value is such a map, on a system that takes pages back."""
        read_only = isinstance(value, np.memmap) and value.mode == "r"
        return read_only and hasattr(mmap, "MADV_DONTNEED") and getattr(value, "_mmap", None) is not None


class JoinedRows:
    """Arrays one behind the other, as one."""

    def __init__(self, parts: Sequence[Any]) -> None:
        kinds = {(part.dtype, part.shape[1:]) for part in parts}
        if len(kinds) > 1:
            shown = ", ".join(sorted(f"{dtype} {shape}" for dtype, shape in kinds))
            raise ValueError(f"data: got files with rows of {shown}, expected one type and shape in all of them")
        self.parts = parts
        self.dtype = parts[0].dtype
        self.shape = (sum(len(part) for part in parts), *parts[0].shape[1:])

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: slice) -> Array:
        first, last, _ = rows.indices(len(self))
        taken: list[Array] = []
        start = 0
        for part in self.parts:
            low, high = max(first - start, 0), min(last - start, len(part))
            if low < high:
                taken.append(part[low:high])
            start += len(part)
        if len(taken) == 1:
            return taken[0]
        return np.concatenate(taken) if taken else self.parts[0][:0]


def is_packed(value: object) -> bool:
    """Whether a value, or a part of it, must be unpacked to be read."""
    return isinstance(value, PackedRows) or (isinstance(value, JoinedRows) and any(map(is_packed, value.parts)))


def mark_rows(value: Any, rows: Sequence[int]) -> None:
    """Unpack what is packed once, check it, and note how to begin at these rows, which ascend."""
    if isinstance(value, JoinedRows):
        start = 0
        for part in value.parts:
            mark_rows(part, [row - start for row in rows if start <= row < start + len(part)])
            start += len(part)
    elif isinstance(value, PackedRows):
        with errors_with_path(value.packed.path):
            value.mark(rows)


@contextlib.contextmanager
def errors_with_path(where: str) -> Iterator[None]:
    """Turn whatever a damaged file makes zipfile, NumPy or PyArrow raise into one ValueError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (
        ValueError, OSError, RuntimeError, EOFError, SyntaxError, OverflowError, TypeError, KeyError, MemoryError,
        struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        message = " ".join(str(error).split())
        if where in message:
            raise
        raise ValueError(f"path: got {where}, which is damaged ({message}), expected a whole file") from None


def open_rows(path: Path, member: str | None = None) -> FileRows | PackedRows:
    """Return the rows of the array in a file; what it is is seen from its first bytes.

    Parameters
    ----------
    path : path
        .npy, .npz or IDX; .npy and IDX also packed with gzip.
    member : str or None
        The array of an .npz file.

    Raises
    ------
    ValueError
        For another kind of file, or one that is damaged.
    """
    where = os.fspath(path)
    with errors_with_path(where):
        with open(where, "rb") as file:
            start = file.read(2)
            file.seek(0)
            if start == b"PK":
                return _npz_rows(where, member)
            if start != b"\x1f\x8b":
                return FileRows(where, *_layout(file, where))
        with gzip.open(where) as unpacked:
            return PackedRows(whole_file(where), *_layout(unpacked, where))


def _layout(file: Any, where: str) -> Layout:
    """Read the header of .npy or IDX, where the file begins."""
    start = file.read(6)
    file.seek(0)
    if start == b"\x93NUMPY":
        return _npy_layout(file, where)
    if start.startswith(b"\0\0"):
        shape, kind = read_idx_header(file, where)
        return file.tell(), kind, shape
    raise ValueError(f"path: got {where}, expected a Parquet, .npy, .npz or IDX file")


def member_names(path: Path) -> list[str]:
    """Return the names of the arrays in an .npz file."""
    with errors_with_path(os.fspath(path)), zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _npy_layout(file: Any, where: str) -> Layout:
    """Read the header of an .npy array, which begins at the file's position."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"path: got {where} of .npy version {version}, expected 1.0 or 2.0")
    shape, fortran, dtype = read(file)
    if fortran and len(shape) > 1:
        raise ValueError(f"path: got {where} in Fortran order, expected C order: np.ascontiguousarray makes it")
    if dtype.hasobject or not shape or min(shape) < 0 or dtype.itemsize == 0:
        raise ValueError(f"path: got {where} with {dtype} of shape {shape}, expected rows of numbers")
    return file.tell(), dtype, shape


def _npz_rows(where: str, member: str | None) -> FileRows | PackedRows:
    """Find an array inside a zip archive."""
    with zipfile.ZipFile(where) as archive:
        try:
            info = archive.getinfo(f"{member}.npy")
        except KeyError:
            names = ", ".join(member_names(where))
            raise ValueError(f"path: got {where} without the array {member!r}, expected one of {names}") from None
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(
                f"path: got {where}, packed by method {info.compress_type} of zip, expected 0 or 8 (deflate)"
            )
        if info.flag_bits & 1:
            raise ValueError(f"path: got {where}, which is encrypted, expected plain or packed arrays")
        with archive.open(info) as unpacked:
            layout = _npy_layout(unpacked, where)
    with open(where, "rb") as file:
        file.seek(info.header_offset + 26)  # of the local header: the lengths of name and extra field
        name, extra = struct.unpack("<HH", file.read(4))
        start = info.header_offset + 30 + name + extra
    if info.compress_type == zipfile.ZIP_STORED:
        return FileRows(where, start + layout[0], *layout[1:])
    return PackedRows(Packed(where, start, start + info.compress_size, RAW, info.CRC), *layout)
