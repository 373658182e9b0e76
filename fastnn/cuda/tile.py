"""A tile of a matrix product by one block of threads, through shared memory: the heart of every dense layer here.

Each thread owns PER_M x PER_N sums in registers. While a slice of A and B of `depth` columns is multiplied out of
shared memory, the next one is on its way from global memory in registers. Each sum is one chain over k in order, as on
the CPU, so results depend on shapes alone. Volkov and Demmel, "Benchmarking GPUs to tune dense linear algebra", SC'08.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numba
import numpy as np

from fastnn.cuda._numba import SIMULATED, cuda, device_function


class Tile(NamedTuple):
    """How a block of threads cuts a product: threads by rows and columns, sums of each, and columns of a slice."""

    threads_m: int
    threads_n: int
    per_m: int
    per_n: int
    depth: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.threads_m * self.threads_n

    @property
    def rows(self) -> int:
        """Rows of a tile."""
        return self.threads_m * self.per_m

    @property
    def columns(self) -> int:
        """Columns of a tile."""
        return self.threads_n * self.per_n

    @property
    def shared(self) -> int:
        """Elements of shared memory that a product takes."""
        return self.depth * (self.rows + 1 + self.columns)


if SIMULATED:  # a thread of the simulator is a thread of Python
    FLAT, SQUARE, LARGE = Tile(1, 4, 3, 1, 4), Tile(2, 2, 2, 2, 4), Tile(2, 2, 2, 3, 3)
else:
    FLAT, SQUARE, LARGE = Tile(4, 64, 4, 2, 16), Tile(16, 16, 4, 4, 16), Tile(16, 16, 8, 8, 8)
"""FLAT for few rows, SQUARE for most products, LARGE where there are enough tiles of 128 x 128 for every processor."""

THREADS = FLAT.threads
"""Of every block, in every kernel."""


@functools.cache
def make_product(dtype: np.dtype[Any], tile: Tile, with_sums: bool = False) -> Any:
    """Return the device function that adds one tile of A B to a thread's sums.

    It takes (acc, column_sums, shared, a, a0, a_row, a_col, b, b0, b_row, b_col, m, n, k): element (i, k) of A is
    a[a0 + i a_row + k a_col], (k, j) of B b[b0 + k b_row + j b_col], `m` and `n` what is left of C from the tile's
    corner. The thread's element (r, s) is row ti + r threads_m and column tj + s threads_n of the tile. With
    `with_sums` the columns of B are added up as well. Barriers inside: all threads of the block must call it.
    """
    element = numba.from_dtype(dtype)
    threads, threads_m, threads_n = tile.threads, tile.threads_m, tile.threads_n
    rows, columns, depth, per_m, per_n = tile.rows, tile.columns, tile.depth, tile.per_m, tile.per_n
    per_a, per_b = -(-rows * depth // threads), -(-columns * depth // threads)
    pitch, b_start = rows + 1, depth * (rows + 1)
    zero = dtype.type(0)

    @device_function
    def fetch(ahead_a, ahead_b, a, a0, a_row, a_col, b, b0, b_row, b_col, m, n, k, k0):
        """Load this thread's part of the next slices; neighbouring threads take neighbouring elements."""
        t = cuda.threadIdx.x
        for x in range(per_a):
            at = t + x * threads
            i, kk = (at // depth, at % depth) if a_col == 1 else (at % rows, at // rows)
            inside = i < m and k0 + kk < k and i < rows and kk < depth
            ahead_a[x] = a[a0 + i * a_row + (k0 + kk) * a_col] if inside else zero
        for x in range(per_b):
            at = t + x * threads
            j, kk = (at % columns, at // columns) if b_col == 1 else (at // depth, at % depth)
            inside = j < n and k0 + kk < k and j < columns and kk < depth
            ahead_b[x] = b[b0 + (k0 + kk) * b_row + j * b_col] if inside else zero

    @device_function
    def put(shared, ahead_a, ahead_b, a_col, b_col):
        """Store what `fetch` loaded."""
        t = cuda.threadIdx.x
        for x in range(per_a):
            at = t + x * threads
            i, kk = (at // depth, at % depth) if a_col == 1 else (at % rows, at // rows)
            if i < rows and kk < depth:
                shared[kk * pitch + i] = ahead_a[x]
        for x in range(per_b):
            at = t + x * threads
            j, kk = (at % columns, at // columns) if b_col == 1 else (at // depth, at % depth)
            if j < columns and kk < depth:
                shared[b_start + kk * columns + j] = ahead_b[x]

    @device_function
    def product(acc, column_sums, shared, a, a0, a_row, a_col, b, b0, b_row, b_col, m, n, k):
        ahead_a, ahead_b = cuda.local.array(per_a, element), cuda.local.array(per_b, element)
        ti, tj = cuda.threadIdx.x // threads_n, cuda.threadIdx.x % threads_n
        fetch(ahead_a, ahead_b, a, a0, a_row, a_col, b, b0, b_row, b_col, m, n, k, 0)
        for k0 in range(0, k, depth):
            put(shared, ahead_a, ahead_b, a_col, b_col)
            cuda.syncthreads()  # the slices are there
            if k0 + depth < k:
                fetch(ahead_a, ahead_b, a, a0, a_row, a_col, b, b0, b_row, b_col, m, n, k, k0 + depth)
            for kk in range(depth):
                for r in range(per_m):
                    left = shared[kk * pitch + ti + r * threads_m]
                    for s in range(per_n):
                        acc[r * per_n + s] += left * shared[b_start + kk * columns + tj + s * threads_n]
                if with_sums:
                    for s in range(per_n):
                        column_sums[s] += shared[b_start + kk * columns + tj + s * threads_n]
            cuda.syncthreads()  # nobody reads them any more

    return product


def tiles(size: int, of: int) -> int:
    """Return how many tiles of a length cover a size."""
    return -(-size // of)
