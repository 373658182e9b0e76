"""Data sets that need not fit into memory: where their rows are, and how to read some of them.

A stream is a list of blocks. A block is a stretch of rows that is cheap to read from its beginning: a MB of an array,
or a row group of a Parquet file. What the blocks hold passes the gate only when it is read (see `feeds.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastnn._errors import check_number, unknown_name
from fastnn.arrays import as_numbers, checked_sparse, is_sparse
from fastnn.files import JoinedRows, MappedRows, is_packed, mark_rows, member_names, open_rows
from fastnn.parquet import ParquetGroups, parquet_files
from fastnn.tables import is_parquet

BUFFER_BYTES = 32 << 20
"""Size of the samples that are shuffled among each other, as float32 or bytes, where the user says nothing."""

BLOCKS_A_BUFFER = 32
"""So many blocks from all over the data meet in a buffer; a block is then 1 MB, which disks read at full speed."""

MOST_MARKS = 256
"""Rows of packed data at which reading can begin, at most: each takes some 50 KB of memory."""

Path = str | os.PathLike[str]


class Piece(NamedTuple):
    """Consecutive rows as they were stored; None for what is not there, or was not asked for."""

    first: int
    x: Any
    y: Any
    weight: Any


class Block(NamedTuple):
    """A stretch of rows; ``read(with_x, with_y)`` yields them in pieces of a bounded size."""

    first: int
    rows: int
    read: Callable[[bool, bool], Iterator[Piece]]


class Stream:
    """Rows for `Sequential.fit`, `evaluate` and `predict` that are read block by block; made by `fastnn.stream`.

    Attributes
    ----------
    rows : int
        Number of samples.
    inputs : int
        Width of a sample.
    buffer_rows : int
        Rows that are held in memory, and shuffled among each other; at most two such buffers are.
    has_target : bool
        Whether there is something to train on.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        inputs: int,
        buffer_rows: int,
        has_target: bool,
        take: Callable[[Any], Piece] | None = None,
        between: Callable[[int, int], Stream] | None = None,
    ) -> None:
        self.blocks = [block for block in blocks if block.rows]
        self.rows = sum(block.rows for block in self.blocks)
        self.inputs, self.buffer_rows, self.has_target = inputs, buffer_rows, has_target
        self.take = take
        """Reads any rows by their numbers, where that is cheap."""
        self._between = between

    def targets(self) -> Iterator[Piece]:
        """Yield targets and weights alone."""
        for block in self.blocks:
            yield from block.read(False, True)

    def without_target(self) -> Stream:
        """Return a stream of the samples alone, for predictions."""

        def samples_of(block: Block) -> Block:
            return Block(block.first, block.rows, lambda with_x, _: block.read(with_x, False))

        blocks = [samples_of(block) for block in self.blocks]
        return Stream(blocks, self.inputs, self.buffer_rows, False)

    def split(self, cut: int) -> tuple[Stream, Stream]:
        """Return the rows before and from number `cut` on as two streams.

        Raises
        ------
        ValueError
            For Parquet.
        """
        if self._between is None:
            raise ValueError(
                "validation_split: a stream of Parquet is not split, expected validation_data=fastnn.stream(...)"
            )
        return self._between(0, cut), self._between(cut, self.rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise TypeError("fit, evaluate and predict alone read a stream")

    def __repr__(self) -> str:
        return (
            f"<Stream: {self.rows:,} rows of {self.inputs:,} inputs in {len(self.blocks):,} blocks, "
            f"{'with' if self.has_target else 'without'} target, {self.buffer_rows:,} rows a buffer>"
        )


def stream(
    data: Any,
    target: Any = None,
    *,
    sample_weight: Any = None,
    features: Any = None,
    block_rows: int | None = None,
    buffer_rows: int | None = None,
) -> Stream:
    """Return rows that `fit`, `evaluate` and `predict` read from files block by block, in place of `x` and `y`.

    At most two buffers of `buffer_rows` rows are in memory, one to train on and one that is being read. In every
    epoch the blocks come in another order, and the rows of a buffer are shuffled, both a function of (seed, epoch)
    alone; batches go on across blocks, so that an epoch has one short batch at most. With ``shuffle=False``, and
    wherever all rows fit into one buffer, training gives the same bits as on arrays.

    Parameters
    ----------
    data : path, list of paths, or array
        Parquet files or a folder of them (needs PyArrow: ``pip install "fastnn[table]"``), .npz files, .npy or IDX
        files, the latter two plain or packed with gzip; or anything with ``shape`` and ``dtype`` that reads rows when
        sliced, such as `numpy.memmap` or an HDF5 dataset, or a scipy.sparse matrix, of which a buffer at a time is made
        dense. Packed arrays (`numpy.savez_compressed`, gzip) are unpacked once when the stream is made, and checked.
    target : optional
        What `fit` wants as `y`; `predict` needs none. Parquet: the name of a column, or a list of names. .npz: the name
        of an array. .npy and IDX: a path, or as many as of `data`. Arrays: an array.
    sample_weight : optional
        The weight of each row, given as `target` is; one column.
    features : optional
        Parquet: the columns to take for samples; by default all others. .npz: the name of the array of samples; by
        default the only other one.
    block_rows : int, optional
        Rows that are read together; by default 1/32 of a buffer. A Parquet file is cut into its row groups instead,
        which are read from their beginning by so many rows at a time: row groups smaller than a buffer shuffle
        better. PyArrow holds a page of each column besides, packed and unpacked: as a rule, 2 MB a column at most.
        Packed arrays are cut into 256 blocks at most, of a multiple of `block_rows`, which are read so many rows at a
        time: reading begins at blocks alone, and each takes some 50 KB of memory, 13 MB at most for each array.
    buffer_rows : int, optional
        Rows that are held, and shuffled among each other; by default 32 MB of float32 or bytes. More shuffle better.

    Returns
    -------
    Stream
        To be used any number of times.

    Raises
    ------
    ImportError
        For Parquet without PyArrow.
    TypeError, ValueError
        For what cannot be read in blocks, a column that is not there, or parts that do not fit each other. Values are
        checked when they are read: a bad one ends training in its epoch, with the weights from before that epoch.
    OSError
        For files that cannot be read.

    Examples
    --------
    >>> import fastnn, numpy as np
    >>> np.savez("train.npz", rooms=np.ones((1000, 4), np.float32), price=np.arange(1000.0))
    >>> train = fastnn.stream("train.npz", target="price")
    >>> model = fastnn.Sequential([fastnn.Dense(8, "relu"), fastnn.Dense(1)], loss="huber")
    >>> model.fit(train, epochs=3, batch_size=256).epoch
    [0, 1, 2]
    """
    paths = _paths(data)
    if paths and is_parquet(paths[0]):
        return _parquet_stream(paths, target, sample_weight, features, block_rows, buffer_rows)
    if paths and _is_npz(paths[0]):
        there = member_names(paths[0])
        target_name = None if target is None else _member("target", target, there)
        weight_name = None if sample_weight is None else _member("sample_weight", sample_weight, there)
        x_name = _features_member(there, features, {target_name, weight_name})
        data, target, sample_weight = (
            None if name is None else JoinedRows([open_rows(path, name) for path in paths])
            for name in (x_name, target_name, weight_name)
        )
    else:
        if features is not None:
            raise ValueError("features: got names for an array, expected them with a Parquet or .npz file")
        data, target, sample_weight = _opened(data), _opened(target), _opened(sample_weight)
    return array_stream(data, target, sample_weight, ("data", "target", "sample_weight"), block_rows, buffer_rows)


def reads_rows(x: Any) -> bool:
    """Whether `fit` shall take samples block by block rather than make one array of them."""
    return is_sparse(x) or (isinstance(x, np.memmap) and x.ndim > 1 and x.size > 0 and x.dtype.kind in "biuf")


def array_stream(
    x: Any,
    y: Any,
    weight: Any,
    names: tuple[str, str, str] = ("x", "y", "sample_weight"),
    block_rows: int | None = None,
    buffer_rows: int | None = None,
) -> Stream:
    """Return a stream of what reads rows when sliced; `names` are those of the first three in messages."""
    sparse = is_sparse(x)
    if not (sparse or (hasattr(x, "shape") and hasattr(x, "dtype") and hasattr(x, "__getitem__"))):
        raise TypeError(f"{names[0]}: got {type(x).__name__}, expected paths, or an array whose slices read rows")
    if len(x.shape) < 2 or not np.prod(x.shape) or np.dtype(x.dtype).kind not in "biuf":
        raise ValueError(f"{names[0]}: got {x.dtype} of shape {tuple(x.shape)}, expected numbers of (rows, inputs)")
    x = _DenseRows(checked_sparse(names[0], x)) if sparse else x
    rows, inputs = int(x.shape[0]), int(np.prod(x.shape[1:]))
    x = MappedRows(x) if MappedRows.suits(x) else x
    y, weight = (_beside(name, value, rows) for name, value in zip(names[1:], (y, weight), strict=True))
    if sparse:  # of which any rows are taken, while those of files are read in slices
        y, weight = (value[:] if isinstance(value, JoinedRows) else value for value in (y, weight))
    block, buffer = _sizes(inputs * (1 if np.dtype(x.dtype) == np.uint8 else 4), block_rows, buffer_rows)

    packed = [value for value in (x, y, weight) if is_packed(value)]
    stride = block * (-(-rows // (block * MOST_MARKS)) if packed else 1)
    for value in packed:
        mark_rows(value, range(0, rows, stride))
    return _Sliced(x, y, weight, inputs, block, stride, buffer, sparse).between(0, rows)


@dataclass(frozen=True)
class _Sliced:
    """What reads rows when sliced, and in which stretches; where `any_rows`, any others are as cheap.

    A stream has hold of this and this of no stream, so that files and arrays are gone with the stream.
    """

    x: Any
    y: Any
    weight: Any
    inputs: int
    block: int
    stride: int
    buffer: int
    any_rows: bool

    def between(self, start: int, stop: int) -> Stream:
        """Return some rows as a stream."""
        blocks = [self._block(first, min(first + self.stride, stop)) for first in range(start, stop, self.stride)]
        take = (lambda chosen: self._piece(chosen + start, start)) if self.any_rows else None
        return Stream(blocks, self.inputs, self.buffer, self.y is not None, take, self.between)

    def _block(self, first: int, last: int) -> Block:
        def read(with_x: bool, with_y: bool) -> Iterator[Piece]:
            for at in range(first, last, self.block):
                yield self._piece(slice(at, min(at + self.block, last)), at, with_x, with_y)

        return Block(first, last - first, read)

    def _piece(self, chosen: Any, first: int, with_x: bool = True, with_y: bool = True) -> Piece:
        part = [value[chosen] if wanted and value is not None else None for value, wanted in (
            (self.x, with_x), (self.y, with_y), (self.weight, with_y),
        )]  # fmt: skip
        return Piece(first, *part)


def _parquet_stream(
    paths: list[str], target: Any, weight: Any, features: Any, block_rows: int | None, buffer_rows: int | None
) -> Stream:
    for argument, value in (("target", target), ("features", features)):
        several = isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)
        if not (value is None or several or (isinstance(value, str) and argument == "target")):
            raise TypeError(f"{argument}: got {type(value).__name__}, expected names of columns")
    if features is not None and not features:
        raise ValueError("features: got no name, expected at least one column")
    groups = ParquetGroups(paths, features, target, None if weight is None else _name("sample_weight", weight))
    inputs = len(groups.columns.features)
    rows = sum(rows for _, _, rows in groups.groups)
    if not rows or not inputs:
        raise ValueError(f"data: got {rows} rows of {inputs} inputs in {paths[0]}, expected at least one of each")
    block, buffer = _sizes(inputs * (1 if groups.bytes_ else 4), block_rows, buffer_rows)
    blocks, first = [], 0

    def block_of(file: int, group: int, first: int, rows: int) -> Block:
        def read(with_x: bool, with_y: bool) -> Iterator[Piece]:
            at = first
            for x, y, weight in groups.read(file, group, block, with_x, with_y):
                yield Piece(at, x, y, weight)
                at += len(x if with_x else y)

        return Block(first, rows, read)

    for file, group, rows in groups.groups:
        blocks.append(block_of(file, group, first, rows))
        first += rows
    return Stream(blocks, inputs, buffer, target is not None)


class _DenseRows:
    """A sparse matrix whose slices are dense."""

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix.tocsr()
        self.shape, self.dtype = matrix.shape, matrix.dtype

    def __getitem__(self, rows: Any) -> Any:
        return self.matrix[rows].toarray()


def _sizes(row_bytes: int, block_rows: int | None, buffer_rows: int | None) -> tuple[int, int]:
    """Return the rows of a block and of a buffer."""
    block = None if block_rows is None else check_number("block_rows", block_rows, low=1, integer=True)
    if buffer_rows is None:
        buffer = max(1, BUFFER_BYTES // row_bytes, block or 1)
    else:
        buffer = check_number("buffer_rows", buffer_rows, low=1, integer=True)
    if block is not None and block > buffer:
        raise ValueError(f"block_rows: got {block}, expected at most the {buffer} rows of a buffer")
    return block or max(1, buffer // BLOCKS_A_BUFFER), buffer


def _beside(name: str, value: Any, rows: int) -> Any:
    """Return targets or weights that can be sliced beside so many samples."""
    if value is None:
        return None
    if not isinstance(value, (np.ndarray, JoinedRows)):
        value = as_numbers(name, value, f"numbers of {rows} rows")
    if not value.shape or value.shape[0] != rows:
        raise ValueError(f"{name}: got shape {value.shape} for {rows} samples, expected {rows} rows")
    return MappedRows(value) if MappedRows.suits(value) else value


def _paths(data: Any) -> list[str]:
    """Return the files that are named; none where it is no name."""
    given = [data] if isinstance(data, (str, os.PathLike)) else data
    if not isinstance(given, (list, tuple)) or not all(isinstance(path, (str, os.PathLike)) for path in given):
        return []
    if not given:
        raise ValueError("data: got an empty list, expected at least one path")
    return [file for path in given for file in parquet_files(os.fspath(path))]


def _opened(value: Any) -> Any:
    """Return the rows of files where paths came, else the same."""
    paths = _paths(value)
    return JoinedRows([open_rows(path) for path in paths]) if paths else value


def _is_npz(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"PK"


def _name(argument: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{argument}: got {type(value).__name__}, expected a name in the file")
    return value


def _member(argument: str, value: Any, there: list[str]) -> str:
    """Return the name of an array that an .npz file has."""
    name = _name(argument, value)
    if name not in there:
        raise unknown_name(argument, name, there)
    return name


def _features_member(there: list[str], features: Any, others: set[str | None]) -> str:
    """Return which array of an .npz file has the samples."""
    if features is not None:
        return _member("features", features, there)
    left = [name for name in there if name not in others]
    if len(left) != 1:
        raise ValueError(f"features: got nothing to choose among {', '.join(left) or 'no array'}, expected a name")
    return left[0]
