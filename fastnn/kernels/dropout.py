"""Inverted dropout: units are dropped with probability `rate` and the others scaled by 1 / (1 - rate).

The mask is a function of (seed, step, layer, index), index = row * units + column, and is computed where it
is needed, in the forward and again in the backward pass: it is never stored. Source: Srivastava, Hinton,
Krizhevsky, Sutskever and Salakhutdinov, JMLR 15, 2014 (there the weights are scaled at prediction instead).
"""

from __future__ import annotations

import numpy as np
from numba import uint32, uint64

from fastnn.kernels._blocks import copy, fill, make_stack
from fastnn.kernels._check import check_array, check_arrays
from fastnn.kernels._chunks import CHUNK, COUNTS, A, B, C, chunk_at, share
from fastnn.kernels._context import floats_at, integers_at
from fastnn.kernels._errors import check_number
from fastnn.kernels._jit import Task, block
from fastnn.kernels._pool import KINDS
from fastnn.kernels.random import check_key, philox

GROUP = 64
"""Indices that share one run of 16 counters: index e takes word (e / 16) % 4 of counter 16 (e / 64) + e % 16, so that
the 16 counters of a group fill whole vectors."""

_HIGH = np.uint64(32)

_mask_scratch = make_stack(GROUP)


@block
def _mask_group(mask, group, threshold, scale, step, layer, seed):
    """Write the mask of the indices 64 group .. 64 group + 63: 0 or `scale`."""
    k0, k1 = uint32(seed), uint32(seed >> _HIGH)
    first = uint64(group) * uint64(16)
    zero = scale - scale
    for i in range(16):
        counter = first + uint64(i)
        w0, w1, w2, w3 = philox(uint32(counter), uint32(counter >> _HIGH), uint32(step), uint32(layer), k0, k1)
        mask[i] = scale if w0 >= threshold else zero
        mask[16 + i] = scale if w1 >= threshold else zero
        mask[32 + i] = scale if w2 >= threshold else zero
        mask[48 + i] = scale if w3 >= threshold else zero


@block
def multiply_mask(y, first_index, mask, threshold, scale, step, layer, seed):
    """Multiply the 1-D block `y`, whose first element has index `first_index`, by its mask.

    `mask` is scratch of 64 elements; `threshold` is rate * 2^32; `seed` has the bits of a uint64; `scale` is
    1 / (1 - rate) in the dtype of y.
    """
    threshold, seed = uint32(threshold), uint64(seed)
    stop = first_index + y.size
    group = first_index // GROUP
    while group * GROUP < stop:
        _mask_group(mask, group, threshold, scale, step, layer, seed)
        low = max(first_index, group * GROUP)
        high = min(stop, group * GROUP + GROUP)
        piece = y[low - first_index : high - first_index]
        factors = mask[low - group * GROUP : high - group * GROUP]
        for i in range(piece.size):
            # A dropped unit is 0 even where its value is infinite or NaN would come of 0 * inf.
            piece[i] = piece[i] * factors[i] if factors[i] != 0 else factors[i]
        group += 1


MULTIPLY_MASK = Task(multiply_mask, "e[:] i e[:] i e i i i")
call_multiply_mask = MULTIPLY_MASK.call


@block
def _dropout_task(p, element, task, seat):
    y, x = chunk_at(p, A, element, task), chunk_at(p, B, element, task)
    scale, counts = floats_at(p, C, element)[0], integers_at(p, COUNTS)
    if x.size == 0:
        fill(y, 1.0)
    else:
        copy(y, x)
    call_multiply_mask(counts[0], y, task * CHUNK, _mask_scratch(y), counts[1], scale, counts[2], counts[3], counts[4])


_DROPOUT = Task(_dropout_task, KINDS)


MOST_DROPPED = 1.0 - 2.0**-31
"""The largest rate: one nearer to 1 would round to all words, of which there is none beyond."""


def threshold_of(rate: float) -> int:
    """Return rate * 2^32, rounded: a unit is kept where its random word is at least that."""
    return round(rate * 2.0**32)


def signed(seed: int) -> int:
    """Return a 64-bit seed as the int64 with the same bits, which is how compiled code takes it."""
    seed = int(seed)
    return seed - 2**64 if seed >= 2**63 else seed


def _run(y: np.ndarray, x: np.ndarray, rate: float, seed: int, step: int, layer: int) -> None:
    check_number("rate", rate, low=0, high=MOST_DROPPED)
    check_key(seed, step, layer, ("step", "layer"))
    scale = np.full(1, 1.0 / (1.0 - rate), y.dtype)
    counts = (MULTIPLY_MASK.address(y.dtype), threshold_of(rate), step, layer, signed(seed))
    share(_DROPOUT, (y, x, scale), counts=counts)


def dropout_forward(y: np.ndarray, x: np.ndarray, rate: float, seed: int, step: int, layer: int) -> None:
    """Write y = x * mask, mask = 0 with probability `rate`, else 1 / (1 - rate).

    Parameters
    ----------
    y : array, out
        Any shape, float32 or float64; overwritten.
    x : array, in
        Shape and dtype of `y`.
    rate : float
        The share that is dropped, 0 <= rate <= 1 - 2^-31.
    seed : int
        0 to 2^64 - 1.
    step, layer : int
        0 to 2^32 - 1; other numbers give an independent mask.

    Raises
    ------
    TypeError, ValueError
        Another dtype, shape, order, a read-only output, overlapping arrays, a number out of range.
    """
    check_arrays({"y": y}, {"x": x}, {"x": np.shape(y)})
    _run(y, x, rate, seed, step, layer)


def dropout_backward(dx: np.ndarray, dy: np.ndarray, rate: float, seed: int, step: int, layer: int) -> None:
    """Write dx = dy * mask, with the mask that `dropout_forward` used for the same (seed, step, layer).

    Parameters
    ----------
    dx : array, out
        Gradient with respect to x; overwritten.
    dy : array, in
        Gradient with respect to y; shape and dtype of `dx`.
    rate, seed, step, layer
        As in `dropout_forward`.
    """
    check_arrays({"dx": dx}, {"dy": dy}, {"dy": np.shape(dx)})
    _run(dx, dy, rate, seed, step, layer)


def dropout_mask(mask: np.ndarray, rate: float, seed: int, step: int, layer: int) -> None:
    """Write the mask itself: 0 or 1 / (1 - rate).

    Parameters
    ----------
    mask : array, out
        Any shape; index = position in C order.
    rate, seed, step, layer
        As in `dropout_forward`.
    """
    check_array("mask", mask, writable=True)
    _run(mask, np.empty(0, mask.dtype), rate, seed, step, layer)
