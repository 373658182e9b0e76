"""Sparse rows: of SciPy's matrices those that have few enough numbers stay as they are, row by row (CSR)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastnn.arrays import Data, checked_sparse, is_sparse

Array = npt.NDArray[Any]

SHARE = 1 / 10
"""Up to which share of numbers that are not zero rows stay sparse.

On two threads of a Zen 4, how many times as long dense rows take at shares of 1/64, 1/16, 1/8, 1/4: 10,000 x 1,000,
100 units, float32 2.9, 1.7, 1.05, 0.7; float64 3.7, 2.3, 1.9, 1.3; 4,000 x 8,000, float32 3.7, 2.3, 1.2, 0.7.
"""


class SparseData(NamedTuple):
    """Samples of which only what is not zero is there, with what is wanted of them.

    Row r has the numbers values[starts[r] : starts[r + 1]], in the columns of the same places, which ascend.
    """

    starts: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    values: Array
    labels: npt.NDArray[np.int64]
    targets: Array
    weights: npt.NDArray[np.float64]
    inputs: int

    @classmethod
    def unlabelled(cls, starts: Array, columns: Array, values: Array, inputs: int) -> SparseData:
        """Return samples of which nothing is wanted but the outputs."""
        return cls(starts, columns, values, np.empty(0, np.int64), np.empty((0, 0), values.dtype), np.empty(0), inputs)

    @property
    def rows(self) -> int:
        """Number of samples."""
        return len(self.starts) - 1

    def on_host(self) -> SparseData:
        """Return the same: it is never on a GPU."""
        return self

    def spoilt(self) -> str | None:
        """Return None: sparse rows are finite, or were refused."""
        return None

    def part(self, first: int, last: int) -> SparseData:
        """Return rows [first, last)."""
        starts = self.starts[first : last + 1]
        numbers = slice(starts[0], starts[-1])
        return SparseData(
            starts - starts[0], self.columns[numbers], self.values[numbers], self.labels[first:last],
            self.targets[first:last], self.weights[first:last], self.inputs,
        )  # fmt: skip

    def dense(self, rows: npt.NDArray[np.int64]) -> Data:
        """Return some rows with their zeros."""
        x = np.zeros((len(rows), self.inputs), self.values.dtype)
        for made, row in zip(x, rows, strict=True):
            numbers = slice(self.starts[row], self.starts[row + 1])
            made[self.columns[numbers]] = self.values[numbers]
        wanted: list[Any] = [each[rows] if len(each) else each for each in (self.labels, self.targets, self.weights)]
        return Data(x, np.empty((0, 0), np.uint8), *wanted)


Rows = Data | SparseData


def has_few_numbers(x: Any) -> bool:
    """Return whether samples are a sparse matrix that shall stay so."""
    if not is_sparse(x) or x.ndim != 2 or x.dtype.kind not in "biuf":
        return False
    return bool(x.shape[0] * x.shape[1] > 0 and x.nnz <= SHARE * x.shape[0] * x.shape[1])


def places_and_numbers(name: str, x: Any) -> tuple[Array, Array, Array]:
    """Return a sparse matrix as (starts, columns, values) of its rows, columns in ascending order, each but once.

    Raises
    ------
    ValueError
        For places outside the matrix.
    """
    rows = checked_sparse(name, x).tocsr()
    if not rows.has_canonical_format:
        rows = rows.copy()  # of the arrays, which may be the user's
        rows.sum_duplicates()
    return np.asarray(rows.indptr, np.int64), np.asarray(rows.indices, np.int64), rows.data
