"""Gradients of weights: tiles of dW = in^T delta over all rows of a batch, with the column sums of delta as db.

A block of threads has a tile of `SIDE` x `SIDE` weights. Rows of both factors are brought into shared memory a hundred
at a time; `TEAMS` teams of threads share the rows, and in a team each thread has 4 x 8 sums. The teams' sums are added
in order. A large batch is cut into chunks of rows, whose gradients are added in order, too.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastnn.cuda._formulas import like
from fastnn.cuda._numba import SIMULATED, cuda, device_function
from fastnn.cuda.net import N_PARAMS, N_TILES, PARTIAL
from fastnn.cuda.tile import THREADS
from fastnn.cuda.vector import add_products, load4, sixteen, store4, store16
from fastnn.kernels.epoch import BIAS, DELTA, IN, N_IN, N_OUT, WEIGHT

DOWN, ACROSS = (2, 1) if SIMULATED else (8, 4)
TEAM = DOWN * ACROSS
TEAMS = THREADS // TEAM
"""Threads of a team by inputs, four each, and by outputs, eight each; and teams of a block."""

SIDE, HALF = 4 * DOWN, 4 * ACROSS
"""Inputs, and outputs, of a tile; and outputs of one half of it: a thread has four in each."""

CHUNK_ROWS, MOST_CHUNKS = 1024, 256
"""Rows whose gradient is summed in one chain, and chunks at most."""


def rows_in_hand(dtype: np.dtype[Any]) -> int:
    """Return how many rows are in shared memory at a time: 32 KB."""
    return 4 if SIMULATED else 512 // dtype.itemsize


def room(dtype: np.dtype[Any]) -> int:
    """Return the numbers of shared memory that a tile takes: for rows, then for the teams' sums of one half."""
    return max(2 * rows_in_hand(dtype) * SIDE, TEAMS * SIDE * HALF)


def tiles_of(stages: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Return stage, first input and first output of all tiles; a stage is its inputs and units, 0 without weights."""
    return [
        (s, i0, j0)
        for s, (inputs, units) in enumerate(stages)
        for i0 in range(0, inputs, SIDE)
        for j0 in range(0, units, SIDE)
    ]


@device_function
def chunks_of(rows):
    """Return how many chunks of rows a batch's gradient is summed in."""
    return min(MOST_CHUNKS, (rows + CHUNK_ROWS - 1) // CHUNK_ROWS)


@device_function
def put(net, chunk, chunks, at, value):
    """Store the gradient of parameter `at`, or a chunk's part of it."""
    if chunks == 1:
        net.grads[at] = value
    else:
        net.work[net.numbers[PARTIAL] + chunk * net.numbers[N_PARAMS] + at] = value


@device_function
def add_chunks(net, chunks):
    """Add the chunks' gradients in order."""
    n, partial = net.numbers[N_PARAMS], net.numbers[PARTIAL]
    for p in range(cuda.grid(1), n, cuda.gridsize(1)):
        total = net.work[partial + p]
        for chunk in range(1, chunks):
            total += net.work[partial + chunk * n + p]
        net.grads[p] = total


@device_function
def four_of(net, row, j, n):
    """Return four neighbours of a row of the workspace from column j on, 0 behind its end."""
    zero = like(0.0, net.params[0])
    if n & 3 == 0:
        if j < n:
            return load4(net.work, row + j)
        return (zero, zero, zero, zero)
    return (
        net.work[row + j] if j < n else zero, net.work[row + j + 1] if j + 1 < n else zero,
        net.work[row + j + 2] if j + 2 < n else zero, net.work[row + j + 3] if j + 3 < n else zero,
    )  # fmt: skip


@device_function
def add_four(sums, x):
    """Return the sums of two times four numbers."""
    return (sums[0] + x[0], sums[1] + x[1], sums[2] + x[2], sums[3] + x[3])


@functools.cache
def make_gradient_tile(dtype: np.dtype[Any]) -> Any:
    """Return the device function that does one tile over one chunk of rows."""
    in_hand = rows_in_hand(dtype)
    behind, quads = in_hand * SIDE, SIDE // 4
    per_half = SIDE * HALF // 4

    @device_function
    def fetch(net, matrix, n, j0, x):
        """Return number x of the fours that `SIDE` columns from j0 on have, row after row."""
        return four_of(net, matrix + x // quads * n, j0 + x % quads * 4, n)

    @device_function
    def bring(net, a, k, i0, b, n, j0, count):
        """Copy `count` rows of both factors, `SIDE` columns of each, into shared memory."""
        x, total, shared = cuda.threadIdx.x, count * quads, net.shared
        while x + THREADS < total:  # all loads are on their way before the first store waits for one
            y = x + THREADS
            a0, a1 = fetch(net, a, k, i0, x), fetch(net, a, k, i0, y)
            b0, b1 = fetch(net, b, n, j0, x), fetch(net, b, n, j0, y)
            store4(shared, 4 * x, a0)
            store4(shared, 4 * y, a1)
            store4(shared, behind + 4 * x, b0)
            store4(shared, behind + 4 * y, b1)
            x += 2 * THREADS
        if x < total:
            a0, b0 = fetch(net, a, k, i0, x), fetch(net, b, n, j0, x)
            store4(shared, 4 * x, a0)
            store4(shared, behind + 4 * x, b0)

    @device_function
    def put_half(net, s, chunk, chunks, i0, j0, sums):
        """Add up what the teams have of one half of the tile, and store it."""
        t, k, n, weight = cuda.threadIdx.x, net.stages[s, N_IN], net.stages[s, N_OUT], net.stages[s, WEIGHT]
        team, down, across = t // TEAM, t % TEAM % DOWN, t % TEAM // DOWN
        store16(net.shared, (team * SIDE + 4 * down) * HALF + 4 * across, HALF, sums)
        cuda.syncthreads()  # all teams' sums are there
        for x in range(t, per_half, THREADS):
            total = load4(net.shared, 4 * x)
            for other in range(1, TEAMS):
                total = add_four(total, load4(net.shared, 4 * (other * per_half + x)))
            i, j = i0 + x // ACROSS, j0 + x % ACROSS * 4
            if i < k:
                at = weight + i * n + j
                if j < n:
                    put(net, chunk, chunks, at, total[0])
                if j + 1 < n:
                    put(net, chunk, chunks, at + 1, total[1])
                if j + 2 < n:
                    put(net, chunk, chunks, at + 2, total[2])
                if j + 3 < n:
                    put(net, chunk, chunks, at + 3, total[3])
        cuda.syncthreads()  # nobody reads them any more

    @device_function
    def put_bias(net, s, chunk, chunks, j0, low, high):
        """Add up what the teams have of the column sums, and store them."""
        t, n, bias = cuda.threadIdx.x, net.stages[s, N_OUT], net.stages[s, BIAS]
        team, down, across = t // TEAM, t % TEAM % DOWN, t % TEAM // DOWN
        if down == 0:
            store4(net.shared, team * 2 * HALF + 4 * across, low)
            store4(net.shared, team * 2 * HALF + HALF + 4 * across, high)
        cuda.syncthreads()
        for x in range(t, 2 * HALF, THREADS):
            if j0 + x < n:
                total = net.shared[x]
                for other in range(1, TEAMS):
                    total += net.shared[other * 2 * HALF + x]
                put(net, chunk, chunks, bias + j0 + x, total)
        cuda.syncthreads()

    @device_function
    def gradient_tile(net, s, rows, chunk, chunks, i0, j0):
        """Write the gradient of one tile of the weights of stage s, and of its biases with the first inputs."""
        zero, t, k, n = like(0.0, net.params[0]), cuda.threadIdx.x, net.stages[s, N_IN], net.stages[s, N_OUT]
        team, down, across = t // TEAM, t % TEAM % DOWN, t % TEAM // DOWN
        each = (rows + chunks - 1) // chunks
        first, last = chunk * each, min(rows, chunk * each + each)
        biased = net.stages[s, BIAS] >= 0 and i0 == 0
        low, high, bias_low, bias_high = (
            sixteen(zero),
            sixteen(zero),
            (zero, zero, zero, zero),
            (zero, zero, zero, zero),
        )
        for b0 in range(first, last, in_hand):
            count = min(in_hand, last - b0)
            bring(net, net.stages[s, IN] + b0 * k, k, i0, net.stages[s, DELTA] + b0 * n, n, j0, count)
            cuda.syncthreads()  # the rows are there
            b = team
            while b < count:
                x = load4(net.shared, b * SIDE + 4 * down)
                d0 = load4(net.shared, behind + b * SIDE + 4 * across)
                d1 = load4(net.shared, behind + b * SIDE + HALF + 4 * across)
                low, high = add_products(low, x, d0), add_products(high, x, d1)
                if biased:
                    bias_low, bias_high = add_four(bias_low, d0), add_four(bias_high, d1)
                b += TEAMS
            cuda.syncthreads()  # nobody reads them any more
        put_half(net, s, chunk, chunks, i0, j0, low)
        put_half(net, s, chunk, chunks, i0, j0 + HALF, high)
        if biased:
            put_bias(net, s, chunk, chunks, j0, bias_low, bias_high)

    return gradient_tile


@functools.cache
def make_gradients(dtype: np.dtype[Any]) -> Any:
    """Return the device function that does all tiles of all chunks, a block of threads each."""
    gradient_tile = make_gradient_tile(dtype)

    @device_function
    def gradients(net, rows, chunks):
        tiles = net.numbers[N_TILES]
        for task in range(cuda.blockIdx.x, tiles * chunks, cuda.gridDim.x):
            chunk, tile = 0, task
            if chunks > 1:
                chunk, tile = task // tiles, task % tiles
            gradient_tile(net, net.tiles[tile, 0], rows, chunk, chunks, net.tiles[tile, 1], net.tiles[tile, 2])

    return gradients
