"""Inverted dropout on the device: the CPU's masks, from the same counters."""

from __future__ import annotations

from typing import Any

from fastnn.cuda._arrays import check_array, check_arrays, flat
from fastnn.cuda._formulas import on_device, uint32, uint64
from fastnn.cuda._launch import grid_of, launch
from fastnn.cuda._numba import cuda, device_function, kernel
from fastnn.kernels import random
from fastnn.kernels._errors import check_number
from fastnn.kernels.dropout import signed, threshold_of
from fastnn.kernels.random import check_key

philox = on_device(random.philox)


@device_function
def drop(value, index, threshold, scale, step, layer, seed):
    """Return `value` times the mask at a logical index: 0 or `scale` (see `kernels/dropout.py` for the counters)."""
    counter = uint64(index // 64 * 16 + index % 16)
    word = index // 16 % 4
    key = uint64(seed)
    w0, w1, w2, w3 = philox(
        uint32(counter), uint32(counter >> uint64(32)), uint32(step), uint32(layer), uint32(key),
        uint32(key >> uint64(32)),
    )  # fmt: skip
    drawn = w0 if word == 0 else w1 if word == 1 else w2 if word == 2 else w3
    return value * scale if drawn >= uint32(threshold) else scale - scale


@kernel
def _dropout(y, x, threshold, scale, step, layer, seed):
    for i in range(cuda.grid(1), y.size, cuda.gridsize(1)):
        y[i] = drop(x[i], i, threshold, scale, step, layer, seed)


@kernel
def _mask(mask, threshold, scale, step, layer, seed):
    for i in range(cuda.grid(1), mask.size, cuda.gridsize(1)):
        mask[i] = drop(scale / scale, i, threshold, scale, step, layer, seed)


def _numbers(dtype: Any, rate: float, seed: int, step: int, layer: int) -> tuple[Any, ...]:
    check_number("rate", rate, low=0, high=1.0 - 2.0**-31)
    check_key(seed, step, layer, ("step", "layer"))
    return threshold_of(rate), dtype.type(1.0 / (1.0 - rate)), step, layer, signed(seed)


def dropout_forward(y: Any, x: Any, rate: float, seed: int, step: int, layer: int) -> None:
    """Write y = x * mask: `fastnn.kernels.dropout_forward` on device arrays, with the same masks."""
    arrays = check_arrays({"y": y}, {"x": x}, {"x": getattr(y, "shape", None)})
    numbers = _numbers(arrays["y"].dtype, rate, seed, step, layer)
    launch(_dropout, grid_of(arrays["y"].size), flat(arrays["y"]), flat(arrays["x"]), *numbers)


def dropout_backward(dx: Any, dy: Any, rate: float, seed: int, step: int, layer: int) -> None:
    """Write dx = dy * mask: `fastnn.kernels.dropout_backward` on device arrays."""
    arrays = check_arrays({"dx": dx}, {"dy": dy}, {"dy": getattr(dx, "shape", None)})
    numbers = _numbers(arrays["dx"].dtype, rate, seed, step, layer)
    launch(_dropout, grid_of(arrays["dx"].size), flat(arrays["dx"]), flat(arrays["dy"]), *numbers)


def dropout_mask(mask: Any, rate: float, seed: int, step: int, layer: int) -> None:
    """Write the mask itself: `fastnn.kernels.dropout_mask` on a device array."""
    view = check_array("mask", mask, writable=True)
    launch(_mask, grid_of(view.size), flat(view), *_numbers(view.dtype, rate, seed, step, layer))
