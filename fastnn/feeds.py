"""What training takes its rows from: arrays at once, or a stream buffer by buffer, in an order of each epoch's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn.arrays import Data
from fastnn.kernels import philox_fill, shuffle_indices
from fastnn.sparse import Rows, SparseData
from fastnn.streams import Piece, Stream

Order = npt.NDArray[np.int64]
Key = tuple[int, int]
"""Seed and epoch, of which an order of rows is a function."""

Gate = Callable[[Piece], Data]
Change = Callable[[Any], Any]
"""Makes of data other data of the same kind."""

_IN_ORDER: Order = np.empty(0, np.int64)
_BUFFER_STREAM = 0x42554646
"""The fourth counter word of the key of buffer 0 ("BUFF"); neither layers nor shuffles come near it."""

_PROBED_BLOCKS, _PROBED_ROWS = 16, 256
_PATIENCE_SECONDS = 0.5


class InMemory:
    """Rows that are all there: one buffer.

    Parameters
    ----------
    data : Data or SparseData
    """

    def __init__(self, data: Rows) -> None:
        self.data, self.rows = data, data.rows

    def buffers(self, multiple: int, key: Key | None = None) -> Iterator[tuple[Rows, Order]]:
        """Yield all rows, and the order to take them in; see `Streamed.buffers`."""
        yield self.data, _shuffled(self.rows, key)

    def orders(self, seed: int, epochs: range) -> Order:
        """Return the orders of several epochs, one behind the other."""
        orders = np.empty((len(epochs), self.rows), np.int64)
        for order, epoch in zip(orders, epochs, strict=True):
            shuffle_indices(order, seed, epoch)
        return orders.reshape(-1)

    def sample(self) -> Data:
        """Return the rows, of sparse ones some that are spread evenly over them."""
        if isinstance(self.data, SparseData):
            return self.data.dense(np.linspace(0, self.rows - 1, min(self.rows, _PROBED_ROWS)).astype(np.int64))
        return self.data

    def changed(self, change: Change) -> InMemory:
        """Return a feed of the same rows, changed."""
        return InMemory(change(self.data))

    def split(self, share: float) -> tuple[InMemory, InMemory]:
        """Return the first rows, and a share of them from the end."""
        cut = _cut(self.rows, share)
        return InMemory(self.data.part(0, cut)), InMemory(self.data.part(cut, self.rows))


class Streamed:
    """The rows of a stream; two buffers of them at most are in memory.

    Parameters
    ----------
    stream : Stream
    gate : callable
        Turns a piece of the stream into data.

    Raises
    ------
    TypeError, ValueError
        Where the first rows do not pass the gate.
    """

    def __init__(self, stream: Stream, gate: Gate) -> None:
        self.stream, self.gate, self.rows = stream, gate, stream.rows
        self._first = gate(next(stream.blocks[0].read(True, True)))
        if stream.take is not None:  # it is in memory: what is wrong is found before anything is trained
            for _ in self._in_order(None):
                pass

    def buffers(self, multiple: int, key: Key | None = None) -> Iterator[tuple[Data, Order]]:
        """Yield buffers of rows, and the order to take the rows of each in.

        Parameters
        ----------
        multiple : int
            Each buffer but the last has a multiple of so many rows: those of a batch.
        key : (int, int) or None
            Seed and epoch, of which the order is a function; None: as they stand.

        Yields
        ------
        (Data, order)
            To be used before the next is asked for: while one is used, the next is read by a thread.
        """
        capacity = min(max(multiple, self.stream.buffer_rows // multiple * multiple), self.rows)
        source = _Cutter(self._at_random(key) if key and self.stream.take else self._in_order(key))
        rooms = [_room(self._first, capacity) for _ in range(2 if capacity < self.rows else 1)]
        reader = ThreadPoolExecutor(1, "fastnn-read")
        ahead = reader.submit(source.fill, rooms[0])
        try:
            number = 0
            while (data := ahead.result()).rows:
                number += 1
                ahead = reader.submit(source.fill, rooms[number % len(rooms)])
                yield data, _IN_ORDER if self.stream.take else _shuffled(data.rows, _buffer_key(key, number))
        finally:  # Ctrl-C does not wait for a slow source: the thread ends with the piece that it reads
            source.stopped = True
            wait([ahead], _PATIENCE_SECONDS)
            reader.shutdown(wait=ahead.done(), cancel_futures=True)

    def sample(self) -> Data:
        """Return some rows of blocks that are spread evenly over the stream."""
        blocks = self.stream.blocks
        chosen = np.unique(np.linspace(0, len(blocks) - 1, _PROBED_BLOCKS).astype(np.int64))
        pieces = [self.gate(next(blocks[number].read(True, True))) for number in chosen]
        taken = [piece.part(0, _PROBED_ROWS) for piece in pieces]
        return Data._make(np.concatenate(parts) for parts in zip(*taken, strict=True))

    def changed(self, change: Change) -> Streamed:
        """Return a feed of the same rows, each piece changed behind the gate."""
        return Streamed(self.stream, lambda piece: change(self.gate(piece)))

    def split(self, share: float) -> tuple[Feed, Feed]:
        """Return the first rows, and a share of them from the end."""
        first, second = self.stream.split(_cut(self.rows, share))
        return feed_of(first, self.gate), feed_of(second, self.gate)

    def _in_order(self, key: Key | None) -> Iterator[Data]:
        """Yield what passes the gate block by block, the blocks shuffled with a key."""
        blocks = self.stream.blocks
        order = _shuffled(len(blocks), key) if key else range(len(blocks))
        for number in order:
            for piece in blocks[number].read(True, True):
                yield self.gate(piece)

    def _at_random(self, key: Key) -> Iterator[Data]:
        """Yield all rows in a random order, some at a time."""
        order = _shuffled(self.rows, key)
        step = max(1, self.stream.buffer_rows // 4)
        for first in range(0, self.rows, step):
            assert self.stream.take is not None
            yield self.gate(self.stream.take(order[first : first + step]))


Feed = InMemory | Streamed


def feed_of(stream: Stream, gate: Gate) -> Feed:
    """Return a feed of a stream; where all its rows fit into one buffer they are read once and kept."""
    feed = Streamed(stream, gate)
    if stream.rows > stream.buffer_rows:
        return feed
    return InMemory(next(iter(feed.buffers(stream.rows)))[0])


class _Cutter:
    """Fills rooms with data that comes in pieces of any size; what is left of a piece goes into the next room."""

    def __init__(self, pieces: Iterator[Data]) -> None:
        self._pieces = pieces
        self._left: Data | None = None
        self.stopped = False

    def fill(self, room: Data) -> Data:
        """Write the next rows into a room and return those that there were."""
        filled, space = 0, room.rows
        while filled < space and not self.stopped:
            piece = self._left or next(self._pieces, None)
            if piece is None:
                break
            rows = min(piece.rows, space - filled)
            _write(room, filled, piece, rows)
            self._left = piece.part(rows, piece.rows) if rows < piece.rows else None
            filled += rows
        return room.part(0, filled) if filled else Data._make(array[:0] for array in room)


def _write(room: Data, at: int, piece: Data, rows: int) -> None:
    """Copy the first rows of a piece to where they belong in a room."""
    for name in Data._fields:
        whole, part = getattr(room, name), getattr(piece, name)
        if bool(len(whole)) != bool(len(part)):
            raise ValueError(
                f"{name.removesuffix('_bytes')}: got rows of another kind than the first of the stream, expected all "
                "alike: bytes where a value is missing are bytes no more"
            )
        whole[at : at + rows] = part[:rows]


def _room(like: Data, rows: int) -> Data:
    """Return room for so many rows of the same kind."""
    return Data._make(np.empty((rows, *array.shape[1:]), array.dtype) if len(array) else array for array in like)


def _shuffled(rows: int, key: Key | None) -> Order:
    """Return an order of rows, a function of (rows, key) alone; without a key, that they stay as they are."""
    if key is None:
        return _IN_ORDER
    order = np.empty(rows, np.int64)
    shuffle_indices(order, *key)
    return order


def _buffer_key(key: Key | None, number: int) -> Key | None:
    """Return the key of one buffer of an epoch."""
    if key is None:
        return None
    seed, epoch = key
    words = np.empty(2, np.uint32)
    philox_fill(words, seed, epoch, _BUFFER_STREAM + number)
    return int(words[0]) | int(words[1]) << 32, epoch


def _cut(rows: int, share: float) -> int:
    held = int(rows * share)
    if held == 0:
        raise ValueError(f"validation_split: got {share} of {rows} rows, which is no row, expected at least one")
    return rows - held
