"""What the device can do at best, measured with device events beside what is compared with it.

- `fma_peak`: independent chains of fused multiply-adds on registers, by every thread that fits.
- `copy_rate`: a plain copy of a vector far larger than the caches, bytes read and written.
- `barrier_time`: all blocks of a persistent kernel meet, which they do three times a step or more.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from fastnn.cuda._launch import processors
from fastnn.cuda._numba import SIMULATED, cuda, driver, kernel
from fastnn.cuda.reduction import grid_barrier
from fastnn.cuda.vector import load4, store4

THREADS, STEPS, COPIED, MEETINGS = (4, 8, 64, 2) if SIMULATED else (256, 1024, 1 << 28, 2000)


@kernel
def _chains(out, x, y, steps):
    a, b, c, d = y, x + y, x + x + y, y + y
    e, f, g, h = y + x + y, x - y, y - x, x + x + x
    for _ in range(steps):  # four times each: counting a loop's turns takes instructions, too
        a, b, c, d = a * x + y, b * x + y, c * x + y, d * x + y
        e, f, g, h = e * x + y, f * x + y, g * x + y, h * x + y
        a, b, c, d = a * x + y, b * x + y, c * x + y, d * x + y
        e, f, g, h = e * x + y, f * x + y, g * x + y, h * x + y
        a, b, c, d = a * x + y, b * x + y, c * x + y, d * x + y
        e, f, g, h = e * x + y, f * x + y, g * x + y, h * x + y
        a, b, c, d = a * x + y, b * x + y, c * x + y, d * x + y
        e, f, g, h = e * x + y, f * x + y, g * x + y, h * x + y
    out[cuda.grid(1)] = a + b + c + d + e + f + g + h


@kernel
def _copy(target, source):
    i, step = 4 * cuda.grid(1), 4 * cuda.gridsize(1)
    while i + 3 * step < target.size:  # four loads are on their way before the first store waits for one
        a, b = load4(source, i), load4(source, i + step)
        c, d = load4(source, i + 2 * step), load4(source, i + 3 * step)
        store4(target, i, a)
        store4(target, i + step, b)
        store4(target, i + 2 * step, c)
        store4(target, i + 3 * step, d)
        i += 4 * step
    while i < target.size:
        store4(target, i, load4(source, i))
        i += step


@kernel
def _meet(arrivals, count):
    met = cuda.shared.array(1, numba.int64)
    if cuda.threadIdx.x == 0:
        met[0] = 0
    for _ in range(count):
        grid_barrier(arrivals, met)


def seconds(call: Callable[[], Any], repeats: int = 7, inner: int = 1) -> float:
    """Return the shortest time of `inner` launches, by device events."""
    call()
    best = float("inf")
    for _ in range(repeats):
        start, stop = driver.event(), driver.event()
        start.record()
        for _ in range(inner):
            call()
        stop.record()
        stop.synchronize()
        best = min(best, driver.event_elapsed_time(start, stop) / 1e3 if not SIMULATED else 1.0)
    return best / inner


@functools.cache
def fma_peak(dtype: str = "float32") -> float:
    """Return operations a second of multiply-adds on registers, two each."""
    blocks, one = 16 * processors(), np.dtype(dtype).type
    out = driver.device_array(blocks * THREADS, dtype)
    time = seconds(lambda: _chains[blocks, THREADS](out, one(0.999), one(0.001), STEPS))
    return 64.0 * STEPS * blocks * THREADS / time


@functools.cache
def copy_rate() -> float:
    """Return bytes a second of a plain copy, read and written."""
    source, target = (driver.device_array(COPIED, np.float32) for _ in range(2))
    time = seconds(lambda: _copy[16 * processors(), THREADS](target, source))
    return 8.0 * COPIED / time


@functools.cache
def barrier_time() -> float:
    """Return seconds of a barrier of as many blocks as the device has multiprocessors."""
    arrivals = driver.to_device(np.zeros(1, np.int32))

    def meet() -> None:
        arrivals.copy_to_device(np.zeros(1, np.int32))
        _meet[processors(), THREADS](arrivals, MEETINGS)

    return seconds(meet) / MEETINGS
