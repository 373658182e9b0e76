"""Data to train on: the digits inside the package, and files in the format of MNIST.

Images are returned as they are stored, one row of bytes each: scale them with a `Rescale` layer or by hand.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from importlib import resources
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn._errors import check_path

__all__ = ["load_digits", "load_idx", "load_idx_dir"]

Array = npt.NDArray[Any]
Split = tuple[Array, Array, Array, Array]

_HELD_OUT = 5
"""Every fifth row of each class of the packaged digits is held out."""

_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""The third byte of an IDX file says what its values are; all are big-endian."""

_MAX_NDIM = 32
_GZIP_RATIO = 1032
"""No byte of deflated data makes more than 1032 bytes (RFC 1951: 258 for 2 bits)."""


def load_digits() -> Split:
    """Return the handwritten digits that come with fastnn, split into training and held-out rows.

    UCI "Optical Recognition of Handwritten Digits", the test set: 1,797 images of 8x8 pixels by 13 writers
    (E. Alpaydin, C. Kaynak, 1998, DOI 10.24432/C50P49, CC BY 4.0). The split is always the same: in the order
    of the source, every fifth row of each digit is held out, so that both parts have all digits in equal
    shares, by the same writers.

    Returns
    -------
    x_train : ndarray of uint8, shape (1442, 64)
        Pixels row by row, 0 (white) to 16.
    y_train : ndarray of int64, shape (1442,)
        Digits 0 to 9.
    x_test, y_test : ndarray
        The 355 held-out rows, alike.
    """
    source = resources.files("fastnn") / "data" / "digits.npz"
    with source.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"].astype(np.int64)
    held_out = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        held_out[np.flatnonzero(labels == digit)[_HELD_OUT - 1 :: _HELD_OUT]] = True
    return images[~held_out], labels[~held_out], images[held_out], labels[held_out]


def load_idx(path: str | os.PathLike[str]) -> Array:
    """Read an array from an IDX file, the format of MNIST, plain or compressed with gzip.

    The format: two zero bytes, a byte for the type of the values, a byte for the number of dimensions, each
    dimension as a big-endian 32-bit number, the values in C order, big-endian
    (http://yann.lecun.com/exdb/mnist).

    Parameters
    ----------
    path : str or path-like
        The file. Whether it is compressed is seen from its first bytes, not from its name.

    Returns
    -------
    ndarray
        Of the type and shape that the file says, in this machine's byte order.

    Raises
    ------
    ValueError
        If the file is not IDX, is cut short, or holds more than its header says. Nothing is allocated on the
        word of a header that the file is too small for.
    OSError
        If it cannot be opened.
    """
    where = check_path("path", path)
    size = os.path.getsize(where)
    with open(where, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            if packed:
                with gzip.GzipFile(fileobj=raw, mode="rb") as unpacked:
                    return _read_idx(unpacked, where, size * _GZIP_RATIO)
            return _read_idx(raw, where, size)
        except EOFError:
            raise ValueError(f"path: got {where}, which is cut short, expected a whole gzip file") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"path: got {where}, a damaged gzip file ({error})") from None


def read_idx_header(file: BufferedIOBase, where: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read the header of an IDX file; returns the shape and the type of the values that follow.

    Raises
    ------
    ValueError
        If it is none, or is cut short.
    """
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_TYPES:
        got = magic.hex(" ") or "none"
        raise ValueError(
            f"path: got {where}, which is not an IDX file: its first bytes are {got}, expected 00 00, "
            f"a type ({', '.join(f'{code:02x}' for code in _IDX_TYPES)}) and the number of dimensions"
        )
    ndim = magic[3]
    if not 1 <= ndim <= _MAX_NDIM:
        raise ValueError(f"path: got {where} with {ndim} dimensions, expected 1 to {_MAX_NDIM}")
    header = file.read(4 * ndim)
    if len(header) < 4 * ndim:
        raise ValueError(f"path: got {where}, which is cut short in its header, expected {ndim} dimensions")
    shape = tuple(int.from_bytes(header[i : i + 4], "big") for i in range(0, 4 * ndim, 4))
    return shape, np.dtype(_IDX_TYPES[magic[2]])


def _read_idx(file: BufferedIOBase, where: str, at_most: int) -> Array:
    """Read an IDX file that cannot hold more than `at_most` bytes."""
    shape, kind = read_idx_header(file, where)
    n_bytes = math.prod(shape) * kind.itemsize
    says = f"expected {n_bytes} bytes of values after the header, for the shape {shape}"
    if n_bytes > at_most:
        raise ValueError(f"path: got {where}, which is cut short: its size allows at most {at_most}; {says}")
    values = bytearray(n_bytes)
    filled = 0
    while filled < n_bytes and (n_read := file.readinto(memoryview(values)[filled:])):
        filled += n_read
    if filled < n_bytes:
        raise ValueError(f"path: got {where}, which is cut short: it has {filled}; {says}")
    if file.read(1):
        raise ValueError(f"path: got {where}, which has more than its header says; {says}")
    return np.ndarray(shape, kind, buffer=values).astype(kind.newbyteorder("="), copy=False)


def load_idx_dir(directory: str | os.PathLike[str]) -> Split:
    """Read the four files of MNIST, or of a data set in its format, from a folder.

    Parameters
    ----------
    directory : str or path-like
        Holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
        t10k-labels-idx1-ubyte, each plain or with .gz (a dot in place of "-idx" is known too).

    Returns
    -------
    x_train : ndarray, shape (n, pixels)
        Of the type in the file, bytes 0 to 255 for MNIST; each image is one row.
    y_train : ndarray of int64, shape (n,)
        Labels.
    x_test, y_test : ndarray
        The test files, alike.

    Raises
    ------
    FileNotFoundError
        If the folder or one of the files is missing; the message says which.
    ValueError
        If a file is not sound (see `load_idx`) or the files do not fit each other.
    """
    folder = Path(check_path("directory", directory))
    if not folder.is_dir():
        raise FileNotFoundError(f"directory: got {folder}, which is no folder, expected one of IDX files")
    x_train, y_train = _read_pair(folder, "train")
    x_test, y_test = _read_pair(folder, "t10k")
    if x_train.shape[1] != x_test.shape[1]:
        raise ValueError(
            f"directory: got train images of {x_train.shape[1]} pixels and t10k images of {x_test.shape[1]} "
            f"in {folder}, expected as many in both"
        )
    return x_train, y_train, x_test, y_test


def _read_pair(folder: Path, part: str) -> tuple[Array, Array]:
    """Read the images and labels of one part, "train" or "t10k"."""
    images = load_idx(_find(folder, f"{part}-images", "idx3-ubyte"))
    labels = load_idx(_find(folder, f"{part}-labels", "idx1-ubyte"))
    if images.ndim < 2 or labels.ndim != 1 or len(images) != len(labels):
        raise ValueError(
            f"directory: got {part} images of shape {images.shape} and labels of shape {labels.shape} in "
            f"{folder}, expected (n, height, width) and (n,)"
        )
    if labels.dtype.kind == "f":
        raise ValueError(f"directory: got {labels.dtype} {part} labels in {folder}, expected integers")
    return images.reshape(len(images), math.prod(images.shape[1:])), labels.astype(np.int64)


def _find(folder: Path, stem: str, ending: str) -> Path:
    """Return the file of this name in any of the usual spellings."""
    names = [f"{stem}{mark}{ending}{packed}" for packed in ("", ".gz") for mark in ("-", ".")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"directory: got {folder} without {names[0]}, expected it, plain or with .gz")
