"""Rows with their targets. Sparse rows stay so where they are sparse enough for it to pay; others become dense.

Few of these become so at once, and many a block at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fastnn.arrays import Data, checked_sparse, contiguous
from fastnn.sparse import Rows, SparseData, has_few_numbers, places_and_numbers

Array = npt.NDArray[Any]

BLOCK_ELEMENTS = 1 << 22
"""Elements of one dense block of sparse rows: 32 MB in float64, so that a large matrix is never dense as a whole."""

_NO_BYTES = np.empty((0, 0), np.uint8)


class Samples:
    """What is trained or evaluated on.

    Parameters
    ----------
    x : array (rows, inputs) or sparse matrix of that shape
        Converted to C order and `dtype` where it is not so already.
    dtype : numpy dtype
        Of the network.
    labels : array of int64 (rows,), optional
        Classes, for the softmax.
    targets : array (rows, outputs), optional
        Values or 0 and 1.
    weights : array (rows,), optional
        Weights of the rows; None: all are 1.
    stay_sparse : bool
        Whether the network takes sparse rows. The numbers that it makes of them are those of dense ones, bit for bit.
    """

    def __init__(
        self,
        x: Any,
        dtype: np.dtype[Any],
        labels: Array | None = None,
        targets: Array | None = None,
        weights: Array | None = None,
        stay_sparse: bool = False,
    ) -> None:
        self.rows, self.inputs = x.shape
        self.dtype = dtype
        self._data: Rows
        self._sparse = None
        wanted = (
            np.empty(0, np.int64) if labels is None else contiguous(labels, np.int64),
            np.empty((0, 0), dtype) if targets is None else contiguous(targets, dtype),
            np.empty(0) if weights is None else contiguous(weights, np.float64),
        )
        if stay_sparse and has_few_numbers(x):
            starts, columns, values = places_and_numbers("X", x)
            self._data = SparseData(starts, columns, _in_range(values, dtype), *wanted, self.inputs)
            return
        if sparse.issparse(x):
            x = checked_sparse("X", x)
        if sparse.issparse(x) and self.rows <= self._rows_a_block:
            x = x.toarray()
        self._sparse = sparse.csr_matrix(x) if sparse.issparse(x) else None
        dense = np.empty((0, 0), dtype) if self._sparse is not None else _in_range(x, dtype)
        self._data = Data(dense, _NO_BYTES, *wanted)

    @property
    def weight(self) -> float:
        """Sum of the weights."""
        return float(self._data.weights.sum()) if len(self._data.weights) else float(self.rows)

    @property
    def rows_at_a_time(self) -> int:
        """How many rows `part` should be asked for at most."""
        return self.rows if self._sparse is None else self._rows_a_block

    @property
    def _rows_a_block(self) -> int:
        return max(1, BLOCK_ELEMENTS // self.inputs)

    def part(self, order: Array, first: int, last: int) -> tuple[Rows, Array, int]:
        """Return (data, order, first) by which a compiled call finds the rows order[first:last].

        `order` is empty for the rows as they stand.
        """
        if self._sparse is None:
            return self._data, order, first
        assert isinstance(self._data, Data)
        rows: Any = order[first:last] if len(order) else slice(first, last)
        block = {name: array[rows] for name, array in self._data._asdict().items() if len(array)}
        dense = _in_range(self._sparse[rows].toarray(), self.dtype)
        return self._data._replace(**block, x=dense), np.empty(0, np.int64), 0

    def blocks(self, rows: int) -> Iterator[tuple[Rows, int, int, int]]:
        """Yield (data, first in the data, first of all, number) for all rows in order, at most `rows` at a time."""
        at_a_time = min(rows, self.rows_at_a_time)
        for first in range(0, self.rows, at_a_time):
            last = min(self.rows, first + at_a_time)
            data, _, start = self.part(np.empty(0, np.int64), first, last)
            yield data, start, first, last - first


def _in_range(x: Array, dtype: np.dtype[Any]) -> Array:
    """Return finite samples in the network's dtype, or raise where they are too large for it."""
    samples = contiguous(x, dtype)
    if x.dtype.kind == "f" and x.dtype.itemsize > dtype.itemsize and not np.isfinite(samples).all():
        wrong = x[~np.isfinite(samples)][0]
        raise ValueError(
            f"X: got {wrong}, expected numbers in the range of {dtype}, in which this estimator was fitted; fitted on "
            "float64 it works in that"
        )
    return samples
