"""Random numbers as counters: Philox4x32-10, keyed by the seed and addressed by (step, layer, index).

A number is a function of its address alone, so it is the same for any number of threads, in any order and on
the GPU, and needs no state. Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2,
3", SC'11.
"""

from __future__ import annotations

import numpy as np
from numba import types, uint32, uint64

from fastnn.kernels._blocks import make_stack
from fastnn.kernels._check import check_array
from fastnn.kernels._errors import check_number
from fastnn.kernels._jit import entry, formula

SHUFFLE_STREAM = 0x5348554F
"""The fourth counter word of shuffles ("SHUO"), which no layer number reaches."""

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
_HIGH = np.uint64(32)


@formula
def philox(c0, c1, c2, c3, k0, k1):
    """Return four random 32-bit words for a counter of four words and a key of two (all uint32)."""
    for _ in range(10):
        p0 = uint64(c0) * _M0
        p1 = uint64(c2) * _M1
        c0, c1, c2, c3 = (
            uint32(uint32(p1 >> _HIGH) ^ c1 ^ k0),
            uint32(p1),
            uint32(uint32(p0 >> _HIGH) ^ c3 ^ k1),
            uint32(p0),
        )
        k0 = uint32(k0 + _W0)
        k1 = uint32(k1 + _W1)
    return c0, c1, c2, c3


@entry
def _philox_fill(out, seed, step, stream):
    k0, k1 = uint32(seed), uint32(seed >> _HIGH)
    for i in range((out.size + 3) // 4):
        words = philox(uint32(i), uint32(uint64(i) >> _HIGH), uint32(step), uint32(stream), k0, k1)
        for j in range(min(4, out.size - 4 * i)):
            out[4 * i + j] = words[j]


_PARTNERS = 64
"""Random numbers drawn at once: those of single swaps, between loads and stores, would fill no vectors."""

_partners = make_stack(_PARTNERS, types.uint64)


@entry
def _shuffle_indices(order, seed, epoch):
    k0, k1 = uint32(seed), uint32(seed >> _HIGH)
    for i in range(order.size):
        order[i] = i
    partners = _partners(order)
    for last in range(order.size - 1, 0, -_PARTNERS):
        count = min(_PARTNERS, last)
        for at in range(count):
            i = uint64(last - at)
            w0, w1, _, _ = philox(uint32(i), uint32(0), uint32(epoch), uint32(SHUFFLE_STREAM), k0, k1)
            # High 64 bits of (w1:w0) * (i + 1), from 32-bit halves: i + 1 < 2^32 rows.
            n = i + uint64(1)
            partners[at] = (uint64(w1) * n + ((uint64(w0) * n) >> _HIGH)) >> _HIGH
        for at in range(count):
            i, j = last - at, partners[at]
            order[i], order[j] = order[j], order[i]


def philox_fill(out: np.ndarray, seed: int, step: int = 0, stream: int = 0) -> None:
    """Fill `out` with random 32-bit words: word w of counter c is element 4 c + w.

    Parameters
    ----------
    out : array of uint32, out
        One-dimensional.
    seed : int
        0 to 2^64 - 1, the generator's key.
    step, stream : int
        0 to 2^32 - 1, the third and fourth counter words.

    Raises
    ------
    TypeError, ValueError
        Another dtype or shape, or numbers out of range.
    """
    check_array("out", out, dtypes=(np.dtype(np.uint32),), shape=(None,), writable=True)
    check_key(seed, step, stream)
    _philox_fill(out, np.uint64(seed), step, stream)


def shuffle_indices(order: np.ndarray, seed: int, epoch: int) -> None:
    """Write a random permutation of 0 .. n-1, a function of (n, seed, epoch) alone.

    Fisher and Yates' shuffle from the last index down (Durstenfeld 1964); the swap partner of i is the high
    word of r * (i + 1) for a 64-bit r (Lemire 2019, without rejection: the bias is below n / 2^64).

    Parameters
    ----------
    order : array of int64 (n,), out
        n below 2^32.
    seed : int
        0 to 2^64 - 1.
    epoch : int
        0 to 2^32 - 1.

    Raises
    ------
    TypeError, ValueError
        Another dtype or shape, or numbers out of range.
    """
    check_array("order", order, dtypes=(np.dtype(np.int64),), shape=(None,), writable=True)
    check_key(seed, epoch, 0, ("epoch", "stream"))
    if order.size >= 2**32:
        raise ValueError(f"order: got {order.size} rows, expected fewer than 2**32")
    _shuffle_indices(order, np.uint64(seed), epoch)


def check_key(seed: int, step: int, stream: int, names: tuple[str, str] = ("step", "stream")) -> None:
    """Raise unless the three address a random number; `names` is what the caller calls the last two."""
    for name, value, high in (
        ("seed", seed, 2**64 - 1),
        (names[0], step, 2**32 - 1),
        (names[1], stream, 2**32 - 1),
    ):
        check_number(name, value, low=0, high=high, integer=True)
