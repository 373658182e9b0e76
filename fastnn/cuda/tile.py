"""A tile of a matrix product by one block of threads, through shared memory, for products of many rows.

The block's threads stand in a square, and each has 4 x 4 sums in every quarter, half or whole of the tile that the
block is cut in. While a slice of A and B of `depth` inner elements is multiplied out of shared memory, the next one is
on its way from global memory in registers. Each sum is one chain over k in order, as on the CPU, so results depend on
shapes alone. Volkov and Demmel, "Benchmarking GPUs to tune dense linear algebra", SC'08.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numba
import numpy as np

from fastnn.cuda._numba import SIMULATED, cuda, device_function
from fastnn.cuda.vector import add_four, add_products, load4, sixteen, store4

ACROSS = 2 if SIMULATED else 16  # a thread of the simulator is a thread of Python
THREADS = ACROSS * ACROSS
"""Of every block, in every kernel: they stand in a square, so many in a row."""

PART = 4 * ACROSS
"""Rows, and columns, of a part of a tile, in which each thread has 4 x 4 sums."""


class Tile(NamedTuple):
    """How many parts a tile has down and across, and how many inner elements a slice."""

    down: int
    across: int
    depth: int

    @property
    def rows(self) -> int:
        """Rows of a tile."""
        return PART * self.down

    @property
    def columns(self) -> int:
        """Columns of a tile."""
        return PART * self.across

    @property
    def sums(self) -> int:
        """Sums that a thread has."""
        return 16 * self.down * self.across

    @property
    def shared(self) -> int:
        """Elements of shared memory that a product takes."""
        return self.depth * (self.rows + self.columns + 8)


DEPTH = 4 if SIMULATED else 16
SQUARE, TALL, LARGE = Tile(1, 1, DEPTH), Tile(2, 1, DEPTH), Tile(2, 2, DEPTH)
"""SQUARE for most products, TALL for many rows of narrow layers, LARGE where its tiles keep every processor busy."""


@functools.cache
def make_place(tile: Tile) -> Any:
    """Return the device function that says which row and column of a tile a thread's sum number x has."""
    across = tile.across

    @device_function
    def place(x):
        t, part = cuda.threadIdx.x, x // 16
        i, j = part // across * PART + t // ACROSS * 4, part % across * PART + t % ACROSS * 4
        return i + x % 16 // 4, j + x % 4

    return place


@functools.cache
def make_product(dtype: np.dtype[Any], tile: Tile, with_sums: bool = False) -> Any:
    """Return the device function that writes one tile of A B into a thread's sums.

    It takes (acc, column_sums, shared, a, a0, a_row, a_col, b, b0, b_row, b_col, m, n, k, aligned): element (i, k) of A
    is a[a0 + i a_row + k a_col], (k, j) of B b[b0 + k b_row + j b_col], `m` and `n` what is left of C from the tile's
    corner; one stride of each is 1. `aligned` says that both vectors begin at 16 bytes. Which element a sum is of says
    `make_place`. With `with_sums` the columns of B are added up as well, four for each part across. Barriers inside:
    all threads of the block must call it.
    """
    element, zero, depth, rows, columns = numba.from_dtype(dtype), dtype.type(0), tile.depth, tile.rows, tile.columns
    tall, wide = tile.down == 2, tile.across == 2
    a_pitch, b_pitch, b_start = rows + 4, columns + 4, depth * (rows + 4)
    per_a, per_b, quads = rows * depth // 4 // THREADS, columns * depth // 4 // THREADS, depth // 4
    ahead_of_a, ahead_of_b = 4 * per_a, 4 * per_b

    def make_fetch(size, per):
        """Return what loads a thread's fours of a slice of `size` rows of A or columns of B, and what stores them."""
        fours, pitch = size // 4, size + 4

        @device_function
        def fetch(ahead, x, x0, outer, inner, count, k, k0, vectors):
            """Elements (i, kk) are x[x0 + i outer + kk inner]; `count` of the i are there."""
            for each in range(per):
                at = cuda.threadIdx.x + each * THREADS
                along = inner == 1  # fours lie along k
                i, kk = (at // quads, at % quads * 4) if along else (at % fours * 4, at // fours)
                kk += k0
                start = x0 + i * outer + kk * inner
                inside = i < count and kk + 3 < k if along else i + 3 < count and kk < k
                if vectors and inside:
                    ahead[4 * each], ahead[4 * each + 1], ahead[4 * each + 2], ahead[4 * each + 3] = load4(x, start)
                else:
                    for c in range(4):
                        there = i < count and kk + c < k if along else i + c < count and kk < k
                        ahead[4 * each + c] = x[start + c] if there else zero

        @device_function
        def put(shared, first, ahead, inner):
            for each in range(per):
                at = cuda.threadIdx.x + each * THREADS
                if inner == 1:
                    i, kk = at // quads, at % quads * 4
                    for c in range(4):
                        shared[first + (kk + c) * pitch + i] = ahead[4 * each + c]
                else:
                    four = (ahead[4 * each], ahead[4 * each + 1], ahead[4 * each + 2], ahead[4 * each + 3])
                    store4(shared, first + at // fours * pitch + at % fours * 4, four)

        return fetch, put

    fetch_a, put_a = make_fetch(rows, per_a)
    fetch_b, put_b = make_fetch(columns, per_b)

    @device_function
    def product(acc, column_sums, shared, a, a0, a_row, a_col, b, b0, b_row, b_col, m, n, k, aligned):
        ahead_a, ahead_b = cuda.local.array(ahead_of_a, element), cuda.local.array(ahead_of_b, element)
        x_at, y_at = cuda.threadIdx.x // ACROSS * 4, b_start + cuda.threadIdx.x % ACROSS * 4
        a_fours = aligned and (a0 | (a_row if a_col == 1 else a_col)) & 3 == 0
        b_fours = aligned and (b0 | (b_row if b_col == 1 else b_col)) & 3 == 0
        s00, s01, s10, s11 = sixteen(zero), sixteen(zero), sixteen(zero), sixteen(zero)
        left, right, k0 = (zero, zero, zero, zero), (zero, zero, zero, zero), 0
        if k > 0:
            fetch_a(ahead_a, a, a0, a_row, a_col, m, k, 0, a_fours)
            fetch_b(ahead_b, b, b0, b_col, b_row, n, k, 0, b_fours)
        while k0 < k:
            put_a(shared, 0, ahead_a, a_col)
            put_b(shared, b_start, ahead_b, b_row)
            cuda.syncthreads()  # the slices are there
            k0 += depth
            if k0 < k:
                fetch_a(ahead_a, a, a0, a_row, a_col, m, k, k0, a_fours)
                fetch_b(ahead_b, b, b0, b_col, b_row, n, k, k0, b_fours)
            for kk in range(depth):
                x, y = load4(shared, kk * a_pitch + x_at), load4(shared, kk * b_pitch + y_at)
                s00 = add_products(s00, x, y)
                if with_sums:
                    left = add_four(left, y)
                if tall:
                    x1 = load4(shared, kk * a_pitch + x_at + PART)
                    s10 = add_products(s10, x1, y)
                if wide:
                    y1 = load4(shared, kk * b_pitch + y_at + PART)
                    s01 = add_products(s01, x, y1)
                    if with_sums:
                        right = add_four(right, y1)
                    if tall:
                        s11 = add_products(s11, x1, y1)
            cuda.syncthreads()  # nobody reads them any more
        keep(acc, 0, s00)
        if wide:
            keep(acc, 16, s01)
        if tall:
            keep(acc, 32 if wide else 16, s10)
            if wide:
                keep(acc, 48, s11)
        if with_sums:
            for c in range(4):
                column_sums[c] = left[c]
                if wide:
                    column_sums[4 + c] = right[c]

    return product


@device_function
def keep(acc, first, sums):
    """Write 4 x 4 sums into a thread's array."""
    for x in range(16):
        acc[first + x] = sums[x]


def tiles(size: int, of: int) -> int:
    """Return how many tiles of a length cover a size."""
    return -(-size // of)
