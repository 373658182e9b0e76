"""What a layer's activations look like:

The numbers behind the diagnosis of vanishing and exploding gradients.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from fastnn.kernels import formulas as f
from fastnn.kernels._blocks import copy, fill
from fastnn.kernels._check import check_array, check_arrays, check_code
from fastnn.kernels._jit import Task, block, entry_parallel, launch
from fastnn.kernels.activation import CHUNK, MULTIPLY_SLOPE, call_multiply_slope
from fastnn.kernels.elementary import like

MEAN, STD, SATURATED, DEAD = range(4)

FLAT_SLOPE = 0.01
"""A unit is saturated where the slope of its activation is below this share of the largest slope it can have."""


@block
def _column_statistics(slope, sums, a, source, code, column, slopes, values):
    """Write (sum, sum of squares, saturated rows) of one unit over all rows."""
    limit = like(FLAT_SLOPE * (0.25 if code == f.SIGMOID else 1.0), a[0, 0])
    fill(slopes, 1.0)
    copy(values, source[:, column])
    call_multiply_slope(slope, code, slopes, values)
    total, square, flat = 0.0, 0.0, 0
    for row in range(a.shape[0]):
        value = np.float64(a[row, column])
        total += value
        square += value * value
        flat += abs(slopes[row]) < limit
    sums[column, 0], sums[column, 1], sums[column, 2] = total, square, flat


COLUMN = Task(_column_statistics, "i d[:,:] e[:,:] e[:,:] i i e[:] e[:]")
_call_column = COLUMN.call


@entry_parallel
def _activation_statistics(task, slope, sums, a, source, code):
    for column in prange(a.shape[1]):
        _call_column(
            task, slope, sums, a, source, code, column, np.empty(a.shape[0], a.dtype), np.empty(a.shape[0], a.dtype)
        )


def activation_statistics(stats: np.ndarray, a: np.ndarray, z: np.ndarray, activation: str) -> None:
    """Write mean, standard deviation, share of saturated values and share of dead units of a layer's output.

    Parameters
    ----------
    stats : array of float64 (4,), out
        [mean of a, standard deviation of a, share of (row, unit) pairs whose slope |f'(z)| is below 1% of the
        largest, share of units saturated in every row]. For ReLU the last is the share of dead units.
    a, z : array (B, N), in
        Output and input of the activation over a batch; GELU and SiLU read z, the others a.
    activation : str
        As in `activation_forward`.

    Raises
    ------
    TypeError, ValueError
        Another dtype, shape or order, an empty batch, an unknown name.
    """
    check_array("stats", stats, dtypes=(np.dtype(np.float64),), shape=(4,), writable=True)
    code = check_code("activation", activation, f.CODES)
    check_arrays({}, {"a": a, "z": z}, {"a": (None, None), "z": np.shape(a)})
    for name, other in (("a", a), ("z", z)):
        if np.may_share_memory(stats, other):
            raise ValueError(f"stats: shares memory with {name}, expected arrays that do not overlap")
    if a.size == 0:
        raise ValueError(f"a: got shape {a.shape}, expected at least one row and one unit")
    sums = np.empty((a.shape[1], 3))
    launch(
        _activation_statistics,
        min(a.shape[1], a.size // CHUNK),
        COLUMN.address(a.dtype),
        MULTIPLY_SLOPE.address(a.dtype),
        sums,
        a,
        z if code in f.NEEDS_Z else a,
        code,
    )
    stats[:] = summary_of(sums, a.shape[0])


def summary_of(sums: np.ndarray, rows: int) -> np.ndarray:
    """Return [MEAN, STD, SATURATED, DEAD] from each unit's sum, sum of squares and saturated rows."""
    size = rows * len(sums)
    mean = sums[:, 0].sum() / size
    spread = np.sqrt(max(0.0, sums[:, 1].sum() / size - mean * mean))
    return np.array([mean, spread, sums[:, 2].sum() / size, (sums[:, 2] == rows).mean()])
