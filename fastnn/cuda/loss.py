"""Losses on the device: value and gradient, by the CPU's loops over rows, a thread a row."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from fastnn.cuda._arrays import as_device, check_array, check_arrays, check_overlap, empty, flat, to_device
from fastnn.cuda._formulas import on_device
from fastnn.cuda._launch import grid_of, launch
from fastnn.cuda._numba import cuda, kernel
from fastnn.cuda.reduction import sum_of
from fastnn.cuda.tile import THREADS
from fastnn.kernels import loss as on_cpu
from fastnn.kernels._errors import check_number
from fastnn.kernels.loss import (
    ABSOLUTE_ERROR,
    BINARY_CROSS_ENTROPY,
    CROSS_ENTROPY,
    HUBER,
    POISSON,
    SQUARED_ERROR,
)

loss_rows = on_device(on_cpu.loss_rows_singly)


@kernel
def _loss(sums, code, delta, d, y, labels, t, weights, n, labelled, weighted, factor):
    """Write loss and count of right answers of row b to sums[2 b], sums[2 b + 1], and its gradient."""
    for b in range(cuda.grid(1), y.size // n, cuda.gridsize(1)):
        low, high = b * n, (b + 1) * n
        loss_rows(
            sums[2 * b : 2 * b + 2], code, delta, d[low:high], y[low:high], labels[b : b + labelled],
            t[low : (low if labelled else high)], weights[b : b + weighted], 1, n, factor,
        )  # fmt: skip


@kernel
def _total(total, values, count, stride):
    """Write the sum of values[stride i] to total[0]: one block."""
    lanes = cuda.shared.array(THREADS, numba.float64)
    result = sum_of(values, 0, count, stride, lanes)
    if cuda.threadIdx.x == 0:
        total[0] = result


@kernel
def _extremes(range_, values):
    """Write the smallest and the largest value to range_ (2,): one thread a part, by atomic operations."""
    for i in range(cuda.grid(1), values.size, cuda.gridsize(1)):
        cuda.atomic.min(range_, 0, values[i])
        cuda.atomic.max(range_, 1, values[i])


def total_of(values: Any, count: int, stride: int = 1) -> float:
    """Return the sum of a vector of float64 on the device."""
    total = empty(1, np.float64)
    launch(_total, 1, total, values, count, stride)
    return float(total.copy_to_host()[0])


def _check_labels(name: str, labels: Any, classes: int) -> None:
    low, high = _range_of(labels)
    if low < 0 or high >= classes:
        raise ValueError(f"{name}: got labels from {low} to {high}, expected 0 to {classes - 1}")


def _check_counts(name: str, values: Any) -> None:
    if _range_of(values)[0] < 0:
        host = values.copy_to_host()
        raise ValueError(f"{name}: got {host[host < 0].flat[0]}, expected numbers >= 0")


def _range_of(values: Any) -> tuple[Any, Any]:
    """Return the smallest and the largest of labels or floats on the device, NaN aside."""
    whole = values.dtype.kind == "i"
    ends = (np.iinfo(values.dtype).max, np.iinfo(values.dtype).min) if whole else (math.inf, -math.inf)
    range_ = to_device(np.array(ends, values.dtype))
    launch(_extremes, grid_of(values.size), range_, flat(values))
    low, high = range_.copy_to_host()
    return low, high


def _run(code: int, d: Any, y: Any, t: Any, w: Any, names: str, delta: float = 1.0) -> float:
    prediction, target = names.split()
    gradient = "d" + prediction
    shape = getattr(d, "shape", None)
    labelled = code == CROSS_ENTROPY and as_device(target, t).dtype.kind in "biu"
    inputs = {prediction: y} if labelled else {prediction: y, target: t}
    arrays = check_arrays({gradient: d}, inputs, {gradient: (None, None), prediction: shape, target: shape})
    rows, n = arrays[prediction].shape
    if labelled:
        arrays[target] = check_array(target, t, (np.dtype(np.int64),), (rows,))
        if rows:
            _check_labels(target, arrays[target], n)
    if w is not None:
        arrays["w"] = check_array("w", w, shape=(rows,))
    check_overlap({gradient: arrays[gradient]}, arrays)
    if rows * n == 0:
        return 0.0
    if code == POISSON:
        _check_counts(target, arrays[target])
    weights, total = empty(1, np.float64), float(rows)
    if w is not None:
        host = arrays["w"].copy_to_host().astype(np.float64)
        if not (np.isfinite(host).all() and (host >= 0).all()):
            raise ValueError("w: got a negative or non-finite weight, expected finite weights >= 0")
        weights, total = to_device(host), float(host.sum())
    sums = empty(2 * rows, np.float64)
    labels = arrays[target] if labelled else empty(1, np.int64)
    targets = empty(1, arrays[prediction].dtype) if labelled else flat(arrays[target])
    launch(
        _loss, grid_of(rows), sums, code, float(delta), flat(arrays[gradient]), flat(arrays[prediction]), labels,
        targets, weights, n, int(labelled), int(w is not None), 1.0 / total if total > 0.0 else 0.0,
    )  # fmt: skip
    return total_of(sums, rows, 2) / total if total > 0.0 else 0.0


def squared_error(dy: Any, y: Any, t: Any, w: Any = None) -> float:
    """Return the mean squared error and write its gradient: `fastnn.kernels.squared_error` on device arrays."""
    return _run(SQUARED_ERROR, dy, y, t, w, "y t")


def absolute_error(dy: Any, y: Any, t: Any, w: Any = None) -> float:
    """Return the mean absolute error and write its gradient: `fastnn.kernels.absolute_error` on device arrays."""
    return _run(ABSOLUTE_ERROR, dy, y, t, w, "y t")


def huber(dy: Any, y: Any, t: Any, w: Any = None, delta: float = 1.0) -> float:
    """Return Huber's loss and write its gradient: `fastnn.kernels.huber` on device arrays."""
    check_number("delta", delta, low=0, high=math.inf, low_open=True)
    return _run(HUBER, dy, y, t, w, "y t", delta)


def cross_entropy(dz: Any, z: Any, t: Any, w: Any = None) -> float:
    """Return the softmax cross entropy of logits and write its gradient: `fastnn.kernels.cross_entropy` there."""
    return _run(CROSS_ENTROPY, dz, z, t, w, "z t")


def binary_cross_entropy(dz: Any, z: Any, t: Any, w: Any = None) -> float:
    """Return the binary cross entropy of logits and write its gradient: `fastnn.kernels.binary_cross_entropy` there."""
    return _run(BINARY_CROSS_ENTROPY, dz, z, t, w, "z t")


def poisson(dz: Any, z: Any, t: Any, w: Any = None) -> float:
    """Return half the Poisson deviance of log rates and write its gradient: `fastnn.kernels.poisson` there."""
    return _run(POISSON, dz, z, t, w, "z t")
