"""What a layer's activations look like, on the device: a block of threads a unit."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from fastnn.cuda._arrays import check_array, check_arrays, check_overlap, empty, flat, to_device
from fastnn.cuda._formulas import like
from fastnn.cuda._launch import grid_of, launch
from fastnn.cuda._numba import cuda, kernel
from fastnn.cuda.activation import slope_one
from fastnn.cuda.reduction import block_total
from fastnn.cuda.tile import THREADS
from fastnn.kernels import formulas
from fastnn.kernels._check import check_code
from fastnn.kernels.statistics import FLAT_SLOPE, origin_of, summary_of


@kernel
def _activation_statistics(sums, a, source, rows, units, code, limit, origin):
    """Write (sum, sum of squares, saturated rows) of unit j, of values less the origin, to sums[3 j : 3 j + 3]."""
    lanes = cuda.shared.array(THREADS, numba.float64)
    j = cuda.blockIdx.x
    total, square, flat_rows = 0.0, 0.0, 0.0
    for b in range(cuda.threadIdx.x, rows, THREADS):
        value = np.float64(a[b * units + j]) - origin
        total += value
        square += value * value
        slope = slope_one(code, source[b * units + j])
        if abs(slope) < like(limit, slope):
            flat_rows += 1.0
    total, square, flat_rows = block_total(total, lanes), block_total(square, lanes), block_total(flat_rows, lanes)
    if cuda.threadIdx.x == 0:
        sums[3 * j], sums[3 * j + 1], sums[3 * j + 2] = total, square, flat_rows


@kernel
def _find_infinite(found, x):
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        if x[i] - x[i] != 0:
            found[0] = 1


def is_finite(x: Any) -> bool:
    """Return whether no element of a vector on the device is NaN or infinite."""
    found = to_device(np.zeros(1, np.int32))
    launch(_find_infinite, grid_of(x.size), found, x)
    return not found.copy_to_host()[0]


def activation_statistics(stats: Any, a: Any, z: Any, activation: str) -> None:
    """Write mean, standard deviation and shares of saturated values and dead units of a layer's output.

    `fastnn.kernels.activation_statistics` on device arrays.
    """
    out = check_array("stats", stats, (np.dtype(np.float64),), (4,), writable=True)
    code = check_code("activation", activation, formulas.CODES)
    arrays = check_arrays({}, {"a": a, "z": z}, {"a": (None, None), "z": getattr(a, "shape", None)})
    check_overlap({"stats": out}, {"stats": out, **arrays})
    rows, units = arrays["a"].shape
    if rows * units == 0:
        raise ValueError(f"a: got shape {(rows, units)}, expected at least one row and one unit")
    source = arrays["z" if code in formulas.NEEDS_Z else "a"]
    sums = empty(3 * units, np.float64)
    limit = FLAT_SLOPE * (0.25 if code == formulas.SIGMOID else 1.0)
    values = flat(arrays["a"])
    origin = origin_of(values[:1].copy_to_host()[0])
    launch(_activation_statistics, units, sums, values, flat(source), rows, units, code, limit, origin)
    out.copy_to_device(to_device(summary_of(sums.copy_to_host().reshape(units, 3), rows, origin)))
