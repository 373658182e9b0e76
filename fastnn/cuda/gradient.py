"""Gradients of weights: tiles of dW = in^T delta over all rows of a batch, with the column sums of delta as db.

A block of threads has a tile of `SIDE` x `SIDE` weights. Rows of both factors are brought into shared memory a hundred
at a time; `TEAMS` teams of threads share the rows, and in a team each thread has 4 x 8 sums. The teams' sums are added
in order, and where they are the whole gradient, the optimizer's step follows at once. A large batch is cut into chunks
of rows, whose gradients are added in order, too.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np

from fastnn.cuda._formulas import like
from fastnn.cuda._numba import SIMULATED, cuda, device_function
from fastnn.cuda.net import N_PARAMS, N_TILES, PARTIAL, stage_of
from fastnn.cuda.tile import THREADS
from fastnn.cuda.update import put_four
from fastnn.cuda.vector import add16, add_four, add_products, load4, sixteen, store4, store16
from fastnn.cuda.weights import put_penalty, step_four, step_numbers
from fastnn.kernels.update import N_HYPER

DOWN, ACROSS = (2, 1) if SIMULATED else (8, 4)
TEAM = DOWN * ACROSS
TEAMS = THREADS // TEAM
"""Threads of a team by inputs, four each, and by outputs, eight each; and teams of a block."""

SIDE, HALF = 4 * DOWN, 4 * ACROSS
"""Inputs, and outputs, of a tile; and outputs of one half of it: a thread has four in each."""

QUADS, PITCH = SIDE // 4, SIDE + 4
"""Fours of a row of a tile; and what lies between two rows of sums: 4 more, or all threads' would lie in one bank."""

CHUNK_ROWS, MOST_CHUNKS = 1024, 256
"""Rows whose gradient is summed in one chain, and chunks at most."""


def rows_in_hand(dtype: np.dtype[Any]) -> int:
    """Return how many rows are in shared memory at a time: 32 KB."""
    return 4 if SIMULATED else 512 // dtype.itemsize


def room(dtype: np.dtype[Any]) -> int:
    """Return the numbers of shared memory that a tile takes: for rows, then for the teams' sums."""
    return max(2 * rows_in_hand(dtype) * SIDE, summed_teams(dtype) * SIDE * (PITCH + 1))


def summed_teams(dtype: np.dtype[Any]) -> int:
    """Return how many teams' sums fit in shared memory at a time: all, or half of them."""
    return TEAMS if dtype.itemsize == 4 else TEAMS // 2


def tiles_of(stages: list[tuple[int, int]], blocks: list[tuple[int, int]]) -> list[tuple[int, int, int, int, int]]:
    """Return stage, first input, first output, and blocks of parameters of the weights and biases, of all tiles.

    A stage is its inputs and units, 0 without weights; `blocks` has the first of its weights' and of its biases'.
    """
    return [
        (s, i0, j0, *blocks[s])
        for s, (inputs, units) in enumerate(stages)
        for i0 in range(0, inputs, SIDE)
        for j0 in range(0, units, SIDE)
    ]


@device_function
def chunks_of(rows):
    """Return how many chunks of rows a batch's gradient is summed in."""
    return min(MOST_CHUNKS, (rows + CHUNK_ROWS - 1) // CHUNK_ROWS)


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


@functools.cache
def make_gradient_tile(dtype: np.dtype[Any]) -> Any:
    """Return the device function that does one tile over one chunk of rows."""
    in_hand, summed, element = rows_in_hand(dtype), summed_teams(dtype), numba.from_dtype(dtype)
    behind, quads, biases = in_hand * SIDE, SIDE * QUADS, summed * SIDE * PITCH

    @device_function
    def fetch(net, matrix, n, j0, x):
        """Return number x of the fours that `SIDE` columns from j0 on have, row after row."""
        return four_of(net, matrix + x // QUADS * n, j0 + x % QUADS * 4, n)

    @device_function
    def bring(net, a, k, i0, b, n, j0, count):
        """Copy `count` rows of both factors, `SIDE` columns of each, into shared memory."""
        x, total, shared = cuda.threadIdx.x, count * QUADS, net.shared
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
    def sum_of_teams(net, at, apart):
        """Return what the teams have of four neighbours."""
        total = load4(net.shared, at)
        for other in range(1, summed):
            total = add_four(total, load4(net.shared, at + other * apart))
        return total

    @device_function
    def gradient_tile(net, tile, rows, chunk, chunks, at_once, rates, step, share):
        """Write the gradient of a tile of weights, and of the biases with the first inputs, and do the step on both."""
        zero, t, shared, stage = (
            like(0.0, net.params[0]),
            cuda.threadIdx.x,
            net.shared,
            stage_of(net, net.tiles[tile, 0]),
        )
        i0, j0, k, n = net.tiles[tile, 1], net.tiles[tile, 2], stage.inputs, stage.units
        team, down, across = t // TEAM, t % TEAM // ACROSS, t % ACROSS
        first, last = 0, rows
        if chunks > 1:
            each = (rows + chunks - 1) // chunks
            first, last = chunk * each, min(rows, chunk * each + each)
        biased = stage.bias >= 0 and i0 == 0
        low, high, bias_low, bias_high = (
            sixteen(zero),
            sixteen(zero),
            (zero, zero, zero, zero),
            (zero, zero, zero, zero),
        )
        b0 = first
        while b0 < last:
            count = min(in_hand, last - b0)
            bring(net, stage.into + b0 * k, k, i0, stage.delta + b0 * n, n, j0, count)
            cuda.syncthreads()  # the rows are there
            b = team
            while b < count:
                x = load4(shared, b * SIDE + 4 * down)
                d0 = load4(shared, behind + b * SIDE + 4 * across)
                d1 = load4(shared, behind + b * SIDE + HALF + 4 * across)
                low, high = add_products(low, x, d0), add_products(high, x, d1)
                if biased:
                    bias_low, bias_high = add_four(bias_low, d0), add_four(bias_high, d1)
                b += TEAMS
            cuda.syncthreads()  # nobody reads them any more
            b0 += in_hand
        place = (team % summed * SIDE + 4 * down) * PITCH + 4 * across
        if summed < TEAMS:  # the second half of the teams hands its sums to the first
            if team >= summed:
                store16(shared, place, PITCH, low)
                store16(shared, place + HALF, PITCH, high)
                if down == 0:
                    store4(shared, biases + team % summed * SIDE + 4 * across, bias_low)
                    store4(shared, biases + team % summed * SIDE + HALF + 4 * across, bias_high)
            cuda.syncthreads()
            if team < summed:
                low, high = add16(low, shared, place, PITCH), add16(high, shared, place + HALF, PITCH)
                if down == 0:
                    bias_low = add_four(bias_low, load4(shared, biases + team * SIDE + 4 * across))
                    bias_high = add_four(bias_high, load4(shared, biases + team * SIDE + HALF + 4 * across))
            cuda.syncthreads()
        if team < summed:
            store16(shared, place, PITCH, low)
            store16(shared, place + HALF, PITCH, high)
            if down == 0:
                store4(shared, biases + team * SIDE + 4 * across, bias_low)
                store4(shared, biases + team * SIDE + HALF + 4 * across, bias_high)
        cuda.syncthreads()  # all teams' sums are there
        hyper, d, penalty = cuda.local.array(N_HYPER, numba.float64), cuda.local.array(4, element), 0.0
        if at_once:
            step_numbers(net, rates, step, hyper)
        q, end = t, quads + QUADS if biased else quads
        while q < end:
            if q < quads:
                row, j = i0 + q // QUADS, j0 + q % QUADS * 4
                inside, at, u = row < k and j < n, stage.weight + row * n + j, net.tiles[tile, 3]
                total = sum_of_teams(net, q // QUADS * PITCH + q % QUADS * 4, SIDE * PITCH)
            else:
                j = j0 + (q - quads) * 4
                inside, at, u = j < n, stage.bias + j, net.tiles[tile, 4]
                total = sum_of_teams(net, biases + (q - quads) * 4, SIDE)
            if inside:
                d[0], d[1], d[2], d[3] = total
                high_end = at + min(4, n - j)
                if chunks == 1:
                    put_four(net.grads, d, at, high_end, True)
                else:
                    partial = net.numbers[PARTIAL] + chunk * net.numbers[N_PARAMS]
                    put_four(net.work, d, partial + at, partial + high_end, True)
                if at_once:
                    penalty += step_four(net, hyper, u, share, 1.0, d, at, high_end)
            q += THREADS
        cuda.syncthreads()  # nobody reads the sums any more
        if at_once:
            put_penalty(net, tile, penalty)

    return gradient_tile


@functools.cache
def make_gradients(dtype: np.dtype[Any]) -> Any:
    """Return the device function that does all tiles of all chunks, a block of threads each."""
    gradient_tile = make_gradient_tile(dtype)

    @device_function
    def gradients(net, rows, chunks, at_once, rates, step, share):
        tiles, task = net.numbers[N_TILES], cuda.blockIdx.x
        while task < tiles * chunks:
            chunk, tile = 0, task
            if chunks > 1:
                chunk, tile = task // tiles, task % tiles
            gradient_tile(net, tile, rows, chunk, chunks, at_once, rates, step, share)
            task += cuda.gridDim.x

    return gradients
