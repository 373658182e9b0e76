"""Arrays inside gzip files and compressed .npz files, read a slice at a time without unpacking the rest.

Deflate is unpacked from its beginning. When a stream is made its arrays are unpacked once, in small pieces that are
thrown away, and the state of unpacking is kept at some rows (32 KB and a little each): from there on reading begins.
"""

from __future__ import annotations

import math
import os
import threading
import zlib
from collections.abc import Iterable
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]

RAW, GZIP = -zlib.MAX_WBITS, 16 + zlib.MAX_WBITS
"""What is around the packed bytes: nothing, in a zip archive, or gzip's header and checksum."""

_READ = 1 << 14
"""Packed bytes that are read at a time; what is left of them is kept with a state."""

_UNPACK = 1 << 18


class Version:
    """A file as it is now, known by its size and when it was written last.

    Where its values are, and the marks within what is packed, are of this version: in another they would read garbage.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._stamp = self._now()

    def _now(self) -> tuple[int, int]:
        found = os.stat(self._path)
        return found.st_size, found.st_mtime_ns

    def check(self) -> None:
        """Raise ValueError where the file is another one now."""
        if self._now() != self._stamp:
            raise self.error()

    def error(self) -> ValueError:
        """Return what `check` raises."""
        return ValueError(f"path: got {self._path}, which has changed since it was opened")


class Packed(NamedTuple):
    """Where packed bytes are: of a file those from `start` to `stop`, and what must come out (None: gzip knows)."""

    path: str
    start: int
    stop: int
    wrapper: int
    checksum: int | None


class PackedRows:
    """The rows of an array in a packed file; a slice of it reads those rows.

    Parameters
    ----------
    packed : Packed
    offset : int
        The byte, of those unpacked, at which the values begin, in C order.
    dtype : numpy dtype
        Of the values as they are stored.
    shape : tuple of int
    """

    def __init__(self, packed: Packed, offset: int, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> None:
        self.packed, self.offset, self.dtype, self.shape = packed, offset, dtype, shape
        self._version = Version(packed.path)
        self._row_bytes = math.prod(shape[1:]) * dtype.itemsize
        self._marks: dict[int, _Cursor] = {}
        self._last: tuple[int, _Cursor] | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.shape[0]

    def mark(self, rows: Iterable[int]) -> None:
        """Unpack everything once, check it, and note how to begin at these rows, which ascend.

        Raises
        ------
        ValueError
            If the file is damaged, or holds less or more than its header says.
        """
        cursor, checksum = _Cursor(self.packed), 0
        needed = self.offset + self._row_bytes * len(self)
        with open(self.packed.path, "rb") as file:
            for row in (*rows, None):
                until = needed if row is None else self.offset + row * self._row_bytes
                while cursor.unpacked < until:
                    piece = cursor.read(file, until - cursor.unpacked)
                    if not piece:
                        says = f"expected {needed} bytes for the shape {self.shape}"
                        raise ValueError(f"path: got {self.packed.path}, which is cut short; {says}")
                    checksum = zlib.crc32(piece, checksum)
                if row is not None:
                    self._marks[row] = cursor.copy()
            if cursor.read(file, 1):
                raise ValueError(f"path: got {self.packed.path}, which holds more than the shape {self.shape} says")
        if self.packed.checksum not in (None, checksum):
            raise ValueError(f"path: got {self.packed.path}, whose checksum is wrong, expected a whole file")

    def __getitem__(self, rows: slice) -> Array:
        first, last, _ = rows.indices(len(self))
        last = max(first, last)
        with self._lock:
            (at, cursor), self._last = self._last or (-1, None), None
        if cursor is None or at != first:
            at = max((row for row in self._marks if row <= first), default=0)
            cursor = self._marks[at].copy() if at in self._marks else _Cursor(self.packed)
        result = np.empty((last - first, *self.shape[1:]), self.dtype)
        self._version.check()
        with open(self.packed.path, "rb") as file:
            try:
                self._fill(cursor, file, self.offset + first * self._row_bytes, None)
                self._fill(cursor, file, self.offset + last * self._row_bytes, result)
            except (EOFError, zlib.error):
                raise self._version.error() from None
        with self._lock:
            self._last = last, cursor
        return result

    @staticmethod
    def _fill(cursor: _Cursor, file: BinaryIO, until: int, out: Array | None) -> None:
        """Unpack up to a byte, into an array or away."""
        at, room = 0, None if out is None else out.reshape(-1).view(np.uint8)
        while cursor.unpacked < until:
            piece = cursor.read(file, until - cursor.unpacked)
            if not piece:
                raise EOFError
            if room is not None:
                room[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
            at += len(piece)


class _Cursor:
    """A place in packed bytes: the state of unpacking, the byte to read next, and how many came out."""

    def __init__(self, packed: Packed) -> None:
        self._packed = packed
        self._state = zlib.decompressobj(packed.wrapper)
        self._next, self.unpacked = packed.start, 0

    def copy(self) -> _Cursor:
        other = _Cursor.__new__(_Cursor)
        other._packed, other._next, other.unpacked = self._packed, self._next, self.unpacked
        other._state = self._state.copy()
        return other

    def read(self, file: BinaryIO, most: int) -> bytes:
        """Return some of the bytes that come next, none at the end.

        Raises
        ------
        EOFError
            If the file ends too early.
        zlib.error
            If it is damaged.
        """
        while True:
            if self._state.eof:
                left = self._state.unused_data
                if self._packed.wrapper == RAW:
                    return b""
                while not (left := left.lstrip(b"\0")):  # gzip files may end in zeros, and follow each other
                    if not (left := self._load(file)):
                        return b""
                self._state = zlib.decompressobj(self._packed.wrapper)
            else:
                left = self._state.unconsumed_tail or self._load(file)
            piece = self._state.decompress(left, min(most, _UNPACK))
            if piece:
                self.unpacked += len(piece)
                return piece
            if not left and not self._state.eof:
                raise EOFError("the file ends before its data do")

    def _load(self, file: BinaryIO) -> bytes:
        file.seek(self._next)
        part = file.read(min(_READ, self._packed.stop - self._next))
        self._next += len(part)
        return part


def whole_file(path: str) -> Packed:
    """Return what is packed in a gzip file."""
    return Packed(path, 0, os.path.getsize(path), GZIP, None)
