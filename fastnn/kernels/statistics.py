"""What a layer's activations look like: numbers behind the diagnosis of vanishing and exploding gradients."""

from __future__ import annotations

import math

import numpy as np

from fastnn.kernels import formulas as f
from fastnn.kernels._blocks import copy, fill, make_stack
from fastnn.kernels._check import check_array, check_arrays, check_code
from fastnn.kernels._chunks import COUNTS, NUMBERS, SUMS, A, B, share
from fastnn.kernels._context import doubles_at, floats_at, integers_at
from fastnn.kernels._jit import Task, block
from fastnn.kernels._pool import KINDS
from fastnn.kernels.activation import MULTIPLY_SLOPE, call_multiply_slope
from fastnn.kernels.elementary import like

FLAT_SLOPE = 0.01
"""A unit is saturated where the slope of its activation is below this share of the largest slope it can have."""

_ROWS = 1024
"""Rows of a unit that are looked at together."""

_values_scratch, _slopes_scratch = make_stack(_ROWS), make_stack(_ROWS)


@block
def _unit_task(p, element, task, seat):
    """Write (sum, sum of squares, saturated rows) of one unit over all rows, of values less an origin."""
    counts, sums, origin = integers_at(p, COUNTS), doubles_at(p, SUMS), doubles_at(p, NUMBERS)[0]
    slope, code, units = counts[0], counts[1], counts[2]
    a, source = floats_at(p, A, element)[task::units], floats_at(p, B, element)[task::units]
    limit = like(FLAT_SLOPE * (0.25 if code == f.SIGMOID else 1.0), a[0])
    total, square, flat = 0.0, 0.0, 0
    for low in range(0, a.size, _ROWS):
        rows = min(_ROWS, a.size - low)
        values, slopes = _values_scratch(a)[:rows], _slopes_scratch(a)[:rows]
        fill(slopes, 1.0)
        copy(values, source[low : low + rows])
        call_multiply_slope(slope, code, slopes, values)
        for row in range(rows):
            value = np.float64(a[low + row]) - origin
            total += value
            square += value * value
            flat += abs(slopes[row]) < limit
    sums[3 * task], sums[3 * task + 1], sums[3 * task + 2] = total, square, flat


_UNIT = Task(_unit_task, KINDS)


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
    rows, units = a.shape
    sums = np.empty(3 * units)
    counts = (MULTIPLY_SLOPE.address(a.dtype), code, units)
    origin = origin_of(a[0, 0])
    share(_UNIT, (a, z if code in f.NEEDS_Z else a), n_tasks=units, numbers=(origin,), counts=counts, sums=sums)
    stats[:] = summary_of(sums.reshape(units, 3), rows, origin)


def origin_of(first: float) -> float:
    """Return what is taken from all values before they are squared, lest a large mean swallow their spread."""
    return float(first) if math.isfinite(first) else 0.0


def summary_of(sums: np.ndarray, rows: int, origin: float) -> np.ndarray:
    """Return what `activation_statistics` writes, from what is known of each unit: see `_unit_task`."""
    size = rows * len(sums)
    with np.errstate(all="ignore"):  # the spread of what is not finite is NaN
        mean = sums[:, 0].sum() / size
        spread = np.sqrt(np.maximum(0.0, sums[:, 1].sum() / size - mean * mean))
    return np.array([origin + mean, spread, sums[:, 2].sum() / size, (sums[:, 2] == rows).mean()])
