"""From what users hand in to the rows that a network works on: each piece passes the gate of `arrays.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn._errors import shown
from fastnn.arrays import (
    Data,
    as_samples,
    as_targets,
    as_weights,
    balanced_weights,
    classes_of,
    contiguous,
    is_on_gpu,
    not_finite,
    row_shape,
    weighed_by_class,
)
from fastnn.feeds import Feed, InMemory, Streamed, feed_of
from fastnn.network import Network
from fastnn.sparse import Rows, SparseData, has_few_numbers, places_and_numbers
from fastnn.streams import Stream, array_stream, reads_rows

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Intake:
    """The door of one network.

    Parameters
    ----------
    network : Network
        What the rows are for: its inputs, outputs, loss and dtype.
    check_finite : bool
        Whether NaN and infinity are refused.
    on_gpu : bool
        Whether the network is on a GPU, and so are arrays that may come.
    """

    network: Network
    check_finite: bool
    on_gpu: bool = False

    def feed(self, x: Any, y: Any, sample_weight: Any, prefix: str = "") -> Feed:
        """Return what training and evaluation take their rows from; `prefix` is that of the arguments' names."""
        if not is_read_by_blocks(x) or self._keeps_sparse(x):
            return InMemory(self.batch(x, y, sample_weight, prefix))
        y, sample_weight = self.on_host(f"{prefix}y", y), self.on_host(f"{prefix}sample_weight", sample_weight)
        stream = self._stream(x, y, sample_weight, prefix)
        if not stream.has_target:
            if not isinstance(x, Stream):
                raise TypeError(f"{prefix}y: got None, expected the targets of {stream.rows} samples")
            raise TypeError(f"{prefix}y: got a stream without target, expected fastnn.stream(..., target=...)")
        return feed_of(stream, lambda piece: self._dense(piece.x, piece.y, piece.weight, prefix, piece.first))

    def validation(self, data: Any) -> Feed:
        """Return what `fit` takes as `validation_data`: (x, y) or (x, y, sample_weight), or a stream."""
        parts = (data, None) if isinstance(data, Stream) else data
        if not isinstance(parts, (tuple, list)) or len(parts) not in (2, 3):
            expected = "(x, y) or (x, y, sample_weight), or a stream"
            raise ValueError(f"validation_data: got {shown(data)}, expected {expected}")
        x, y, sample_weight = (*parts, None)[:3]
        return self.feed(x, y, sample_weight, prefix="validation_")

    def samples_feed(self, x: Any) -> Feed:
        """Return the samples alone of what is read block by block."""
        if self._keeps_sparse(x):
            return InMemory(self.samples(x))
        stream = self._stream(x, None, None).without_target()
        return feed_of(stream, lambda piece: Data.unlabelled(*self._samples(piece.x, "", piece.first)))

    def batch(self, x: Any, y: Any, sample_weight: Any, prefix: str = "") -> Rows:
        """Return rows that are all in memory, with their targets and weights."""
        if not self._keeps_sparse(x):
            return self._dense(x, y, sample_weight, prefix, 0)
        samples = self._sparse_samples(x, prefix)
        labels, targets = self._targets(y, samples.rows, prefix, 0)
        weights = self._weights(sample_weight, samples.rows, prefix)
        return samples._replace(labels=labels, targets=targets, weights=weights)

    def samples(self, x: Any) -> Rows:
        """Return rows that are all in memory, without targets."""
        return self._sparse_samples(x, "") if self._keeps_sparse(x) else Data.unlabelled(*self._samples(x, "", 0))

    def on_host(self, name: str, value: Any) -> Any:
        """Return a copy of what lies on a GPU, where the network is there, too; anything else as it is."""
        if self.on_gpu and is_on_gpu(value):
            from fastnn.cuda import intake

            return intake.host_copy(name, value)
        return value

    def weighed(self, feed: Feed, class_weight: Any) -> Feed:
        """Return the rows of a feed with their weights multiplied by class."""
        network = self.network
        if isinstance(feed, Streamed) and isinstance(class_weight, str) and class_weight == "balanced":
            class_weight = self._balanced(feed.stream)
        return feed.changed(lambda data: weighed_by_class(data, class_weight, network.loss, network.units))

    def _dense(self, x: Any, y: Any, sample_weight: Any, prefix: str, first_row: int) -> Data:
        samples, bytes_ = self._samples(x, prefix, first_row)
        rows = max(len(samples), len(bytes_))
        labels, targets = self._targets(y, rows, prefix, first_row)
        return Data(samples, bytes_, labels, targets, self._weights(sample_weight, rows, prefix))

    def _samples(self, x: Any, prefix: str, first_row: int) -> tuple[Array, npt.NDArray[np.uint8]]:
        network, name = self.network, f"{prefix}x"
        return _samples(name, x, network.inputs, network.dtype, self.check_finite, self.on_gpu, first_row)

    def _keeps_sparse(self, x: Any) -> bool:
        """Return whether samples stay sparse: where they have few numbers, and the first stage takes them so."""
        network = self.network
        taken = network.stages[0].dense is not None and not network.rescale.size
        return taken and self.check_finite and not self.on_gpu and has_few_numbers(x)

    def _sparse_samples(self, x: Any, prefix: str) -> SparseData:
        network, name = self.network, f"{prefix}x"
        row_shape(name, x.shape, network.inputs)
        starts, columns, values = places_and_numbers(name, x)
        numbers = contiguous(values, network.dtype)
        if not np.isfinite(numbers).all():
            at = int(np.argmin(np.isfinite(numbers)))
            raise not_finite(name, numbers[at], int(np.searchsorted(starts, at, side="right")) - 1, str(columns[at]))
        return SparseData.unlabelled(starts, columns, numbers, network.inputs)

    def _targets(self, y: Any, rows: int, prefix: str, first_row: int) -> tuple[npt.NDArray[np.int64], Array]:
        network, name = self.network, f"{prefix}y"
        y = self.on_host(name, y)
        return as_targets(name, y, rows, network.loss, network.units, network.dtype, self.check_finite, first_row)

    def _weights(self, sample_weight: Any, rows: int, prefix: str) -> npt.NDArray[np.float64]:
        name = f"{prefix}sample_weight"
        return as_weights(name, self.on_host(name, sample_weight), rows)

    def _balanced(self, stream: Stream) -> Array:
        """Read the targets of a stream and return the balanced weight of each class."""
        counts = np.zeros(max(2, self.network.units), np.int64)
        for piece in stream.targets():
            labels, targets = self._targets(piece.y, len(piece.y), "", piece.first)
            classes, _ = classes_of(labels, targets, self.network.loss, self.network.units)
            counts += np.bincount(classes, minlength=len(counts))
        return balanced_weights(counts)

    def _stream(self, x: Any, y: Any, sample_weight: Any, prefix: str = "") -> Stream:
        """Return a stream of the network's width."""
        stream = _as_stream(x, y, sample_weight, prefix)
        if stream.inputs != self.network.inputs:
            raise ValueError(
                f"{prefix}x: got {stream.inputs} inputs a row (shape {(stream.rows, stream.inputs)}), "
                f"expected {self.network.inputs}"
            )
        return stream


def is_read_by_blocks(x: Any) -> bool:
    """Return whether samples are read block by block: a stream, or arrays that are better not in memory as a whole."""
    return isinstance(x, Stream) or reads_rows(x)


def inputs_of(x: Any, dtype: np.dtype[Any], on_gpu: bool) -> int:
    """Return the width of samples, of which nothing else is checked."""
    if is_read_by_blocks(x):
        return _as_stream(x, None, None).inputs
    samples, bytes_ = _samples("x", x, None, dtype, False, on_gpu, 0)
    return max(samples.shape[1], bytes_.shape[1])


def _samples(
    name: str, x: Any, inputs: int | None, dtype: np.dtype[Any], check_finite: bool, on_gpu: bool, first_row: int
) -> tuple[Array, npt.NDArray[np.uint8]]:
    """Return what `as_samples` does; a network on a GPU leaves there what is there and can be read."""
    if on_gpu and is_on_gpu(x):
        from fastnn.cuda import intake

        return intake.as_samples(name, x, inputs, dtype, check_finite)
    return as_samples(name, x, inputs, dtype, check_finite, first_row)


def _as_stream(x: Any, y: Any, sample_weight: Any, prefix: str = "") -> Stream:
    """Return a stream for a stream, or for arrays that are read block by block."""
    if not isinstance(x, Stream):
        return array_stream(x, y, sample_weight, (f"{prefix}x", f"{prefix}y", f"{prefix}sample_weight"))
    for name, argument, value in (("y", "target", y), ("sample_weight", "sample_weight", sample_weight)):
        if value is not None:
            got = f"{prefix}{name}: got {type(value).__name__} beside a stream"
            raise TypeError(f"{got}, expected fastnn.stream(..., {argument}=...)")
    return x
