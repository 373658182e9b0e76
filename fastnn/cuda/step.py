"""Many training steps in one launch: a persistent kernel that works through a network's stages, batch after batch.

The network is data (`net.py`): other layer sizes, depths and batch sizes compile nothing. A step has four phases, and
each cuts its work into tasks by sizes alone; block b of the grid takes tasks b, b + blocks, ..., so results are the
same bits for any number of blocks.

1. Rows: gather, forward through all stages, loss, and the gradients of all stages' sums. A task is some rows that a
   block carries through the whole network and back with barriers of the block alone, so that a network may be deep
   without waiting for the rest of the card: four rows (`rows.py`), or in large batches of narrow layers a tile of them.
   Where layers are wide, each stage is a phase of its own, and its tiles are the tasks.
2. Gradients: tiles of dW = in^T delta of all layers at once (`gradient.py`). Who has the whole sum of a tile does the
   optimizer's step on its weights, too.
3. The global norm, where it is clipped.
4. Update: blocks of parameters, with their penalties, where phase 2 could not do it.

Between phases all blocks meet (`reduction.grid_barrier`): a phase reads what other blocks wrote in the one before it.
Within the rows phase a block reads only rows that it wrote itself, or there is a barrier after every stage. The update
writes parameters that the next step's rows phase reads, and reads gradients that the next gradient phase writes: a
barrier ends the step. Penalties are added up by the last block behind it, and written again two barriers later.

A step whose loss is not finite ends the launch. A block that finds such a loss among its rows says so before the
barrier, and all read it behind that, before the next one: the next that is found comes two barriers later. The last
block, which has the least to do then, adds up the loss for the report, before the next rows phase writes new ones.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numba
import numpy as np

from fastnn.cuda import gradient
from fastnn.cuda import rows as few
from fastnn.cuda._numba import cuda, device_function, named_kernel
from fastnn.cuda.gradient import add_chunks, chunks_of, make_gradients
from fastnn.cuda.net import (
    N_NUMBERS,
    N_STAGE,
    N_STAGES,
    TILE_SUMS,
    Net,
    finish_backward,
    finish_backward_four,
    finish_forward,
    finish_forward_four,
    gather,
    goes_in_fours,
    loss_of_rows,
    stage_of,
    total_weight,
    write_result,
)
from fastnn.cuda.reduction import grid_barrier, sum_of
from fastnn.cuda.rows import LARGEST, MOST_STAGES, ROWS, few_rows
from fastnn.cuda.tile import LARGE, SQUARE, TALL, THREADS, Tile, make_place, make_product
from fastnn.cuda.vector import add_four, load, load4, store, store4
from fastnn.cuda.weights import add_penalties, clip_scale, norm_of_blocks, penalty_scale, rates_of, update_parameters
from fastnn.kernels.layout import (  # fmt: skip
    BATCH,
    CLIP_NORM,
    DX,
    FIRST_ROW,
    FIRST_STEP,
    FORWARD,
    GRADIENT,
    LOSS_SCALE,
    MODE,
    N_FLOATS,
    N_IN,
    N_OUT,
    N_ROWS,
    N_STEPS,
    REPORT_CORRECT,
    REPORT_LOSS,
    REPORT_ROWS,
    REPORT_WEIGHT,
    TRAIN,
    WANT_DX,
    WANT_OUT,
)
from fastnn.kernels.update import N_HYPER

FEW, FUSED, STAGED = "few rows", "tiles of rows", "stage by stage"
"""Ways of the rows phase."""

SHARED_BYTES = 39 * 1024
"""Shared memory that a block may ask for on every device (48 KB), less what the kernels have besides."""

SUMS = max(THREADS, 3 * ROWS)
"""Numbers in float64 that a block has beside them: one a thread, or what the loss of each of a few rows takes."""

WIDEST_FUSED, MANY_ROWS = 128, 4096
"""Units up to which a block of threads carries tiles of rows through the whole network, from so many rows on."""


class Shape(NamedTuple):
    """Which kernel fits a network and its batch."""

    way: str
    tile: Tile

    @property
    def rows(self) -> int:
        """Rows of a task."""
        return few.ROWS if self.way == FEW else self.tile.rows


def shape_for(inputs: int, widths: list[int], n_rows: int, dtype: np.dtype[Any]) -> Shape:
    """Return the kernel for stages of these widths (the last for outputs) and batches of `n_rows`: by sizes alone."""
    widest = max(widths)
    fits = few.areas(inputs, widest, widths[-1])[2] * dtype.itemsize <= SHARED_BYTES
    if n_rows < MANY_ROWS and widest <= few.WIDEST and len(widths) <= few.MOST_STAGES and fits:
        return Shape(FEW, SQUARE)
    if widest <= WIDEST_FUSED:
        return Shape(FUSED, SQUARE if n_rows < MANY_ROWS or dtype.itemsize > 4 else TALL)
    return Shape(STAGED, LARGE if n_rows >= MANY_ROWS and widest >= LARGE.columns * 8 else SQUARE)


def shared_room(shape: Shape, inputs: int, widths: list[int], dtype: np.dtype[Any]) -> int:
    """Return the numbers of shared memory that a kernel takes for what `shape_for` chose it for."""
    own = few.areas(inputs, max(widths), widths[-1])[2] if shape.way == FEW else shape.tile.shared
    return max(own, gradient.room(dtype))


@device_function
def stop_if_infinite(net, loss):
    """Tell all blocks where a part of the loss is not finite."""
    if cuda.threadIdx.x == 0 and not abs(loss) < LARGEST:
        net.arrivals[1] = 1


@device_function
def report_loss(net, i, tiles, total):
    """Add up the loss into the report: the last block alone."""
    if cuda.blockIdx.x == cuda.gridDim.x - 1:
        at = net.numbers[TILE_SUMS]
        loss, correct = sum_of(net.sums, at, tiles, 2, net.lanes), sum_of(net.sums, at + 1, tiles, 2, net.lanes)
        if cuda.threadIdx.x == 0:
            net.report[i, REPORT_LOSS], net.report[i, REPORT_CORRECT] = loss, correct
            net.report[i, REPORT_WEIGHT] = total


@functools.cache
def make_steps(dtype: np.dtype[Any], shape: Shape) -> Any:
    """Return the device function that works through the steps of a `Net`, with the products of one shape."""
    element, tile, way = numba.from_dtype(dtype), shape.tile, shape.way
    product, place, gradients = make_product(dtype, tile), make_place(tile), make_gradients(dtype)
    in_fours, fused, rows_each, columns_each = way == FEW, way == FUSED, tile.rows, tile.columns
    n_sums, loss_rows_each = tile.sums, shape.rows

    @device_function
    def forward_tile(net, s, step, rows, i0, j0):
        """One tile of a stage's outputs."""
        stage, work = stage_of(net, s), net.work
        k, n, bias, dense = stage.inputs, stage.units, stage.bias, stage.dense
        acc, unused = cuda.local.array(n_sums, element), cuda.local.array(1, element)
        if dense:
            product(
                acc, unused, net.shared, work, stage.into + i0 * k, k, 1, net.params, stage.weight + j0, n, 1,
                rows - i0, n - j0, k, True,
            )  # fmt: skip
        if dense and goes_in_fours(stage):
            for x in range(0, n_sums, 4):
                i, j = place(x)
                i, j = i + i0, j + j0
                if i < rows and j < n:
                    z = (acc[x], acc[x + 1], acc[x + 2], acc[x + 3])
                    if bias >= 0:
                        z = add_four(z, load4(net.params, bias + j))
                    finish_forward_four(net, stage, i * n + j, z)
            return
        for x in range(min(n_sums, rows * n_sums)):  # a bound that the compiler cannot unroll
            i, j = place(x)
            i, j = i + i0, j + j0
            if i < rows and j < n:
                z = acc[x] if dense else load(work, stage.into + i * n + j)
                if dense and bias >= 0:
                    z += load(net.params, bias + j)
                finish_forward(net, stage, step, i * n + j, z)

    @device_function
    def delta_tile(net, s, step, rows, i0, j0):
        """One tile of the gradient of stage s's input, carried through the stage before (for s = 0: as it is)."""
        stage, before, work = stage_of(net, s), stage_of(net, max(s - 1, 0)), net.work
        k, n, delta, dense = stage.inputs, stage.units, stage.delta, stage.dense
        acc, unused = cuda.local.array(n_sums, element), cuda.local.array(1, element)
        if dense:
            product(
                acc, unused, net.shared, work, delta + i0 * n, n, 1, net.params, stage.weight + j0 * n, 1, n, rows - i0,
                k - j0, n, True,
            )  # fmt: skip
        to = before.delta if s > 0 else net.numbers[DX]
        if dense and s > 0 and goes_in_fours(before):
            for x in range(0, n_sums, 4):
                i, j = place(x)
                i, j = i + i0, j + j0
                if i < rows and j < k:
                    d = (acc[x], acc[x + 1], acc[x + 2], acc[x + 3])
                    store4(work, to + i * k + j, finish_backward_four(net, before, i * k + j, d))
            return
        for x in range(min(n_sums, rows * n_sums)):
            i, j = place(x)
            i, j = i + i0, j + j0
            if i < rows and j < k:
                at = i * k + j
                d = acc[x] if dense else load(work, delta + at)
                store(work, to + at, finish_backward(net, before, step, at, d) if s > 0 else d)

    @device_function
    def fused_rows(net, step, row0, rows, factor, learning):
        """Carry tiles of rows through the whole network and back, each by one block; see phase 1 above."""
        n_stages = net.numbers[N_STAGES]
        last_stage = 0 if net.numbers[WANT_DX] != 0 else 1
        for task in range(cuda.blockIdx.x, (rows + rows_each - 1) // rows_each, cuda.gridDim.x):
            i0 = task * rows_each
            i1 = min(rows, i0 + rows_each)
            gather(net, row0, i0, i1)
            cuda.syncthreads()  # the first stage reads what other threads gathered; so behind each stage
            for s in range(n_stages):
                for j0 in range(0, net.stages[s, N_OUT], columns_each):
                    forward_tile(net, s, step, i1, i0, j0)
                cuda.syncthreads()
            if net.numbers[MODE] != FORWARD:
                stop_if_infinite(net, loss_of_rows(net, task, i0, i1, row0, step, factor))
                cuda.syncthreads()
            if learning:
                for s in range(n_stages - 1, last_stage - 1, -1):
                    for j0 in range(0, net.stages[s, N_IN], columns_each):
                        delta_tile(net, s, step, i1, i0, j0)
                    cuda.syncthreads()

    @device_function
    def staged_rows(net, step, row0, rows, factor, learning):
        """Do the rows phase stage by stage, each in tiles over all blocks."""
        n_stages = net.numbers[N_STAGES]
        down = (rows + rows_each - 1) // rows_each
        last_stage = 0 if net.numbers[WANT_DX] != 0 else 1
        for task in range(cuda.blockIdx.x, down, cuda.gridDim.x):
            gather(net, row0, task * rows_each, min(rows, (task + 1) * rows_each))
        grid_barrier(net.arrivals, net.met)
        for s in range(n_stages):
            across = (net.stages[s, N_OUT] + columns_each - 1) // columns_each
            for task in range(cuda.blockIdx.x, down * across, cuda.gridDim.x):
                forward_tile(net, s, step, rows, task // across * rows_each, task % across * columns_each)
            grid_barrier(net.arrivals, net.met)
        if net.numbers[MODE] != FORWARD:
            for task in range(cuda.blockIdx.x, down, cuda.gridDim.x):
                first, last = task * rows_each, min(rows, (task + 1) * rows_each)
                stop_if_infinite(net, loss_of_rows(net, task, first, last, row0, step, factor))
            grid_barrier(net.arrivals, net.met)
        if learning:
            for s in range(n_stages - 1, last_stage - 1, -1):
                across = (net.stages[s, N_IN] + columns_each - 1) // columns_each
                for task in range(cuda.blockIdx.x, down * across, cuda.gridDim.x):
                    delta_tile(net, s, step, rows, task // across * rows_each, task % across * columns_each)
                if s > last_stage:
                    grid_barrier(net.arrivals, net.met)

    @device_function
    def steps(net):
        """Run the steps that the numbers ask for; training stops at one whose loss is not finite."""
        mode = net.numbers[MODE]
        learning = mode == TRAIN or mode == GRADIENT
        leads = cuda.blockIdx.x == 0 and cuda.threadIdx.x == 0
        for i in range(net.numbers[N_STEPS]):
            step, row0 = net.numbers[FIRST_STEP] + i, net.numbers[FIRST_ROW] + i * net.numbers[BATCH]
            rows = min(net.numbers[BATCH], net.numbers[FIRST_ROW] + net.numbers[N_ROWS] - row0)
            rates, total = rates_of(net, i), total_weight(net, row0, rows)
            factor = net.floats[LOSS_SCALE] / total if total > 0.0 else 0.0
            if in_fours:
                for task in range(cuda.blockIdx.x, (rows + ROWS - 1) // ROWS, cuda.gridDim.x):
                    few_rows(net, task, step, row0, rows, factor, learning)
            elif fused:
                fused_rows(net, step, row0, rows, factor, learning)
            else:
                staged_rows(net, step, row0, rows, factor, learning)
            grid_barrier(net.arrivals, net.met)
            if mode != FORWARD:
                report_loss(net, i, (rows + loss_rows_each - 1) // loss_rows_each, total)
                if mode == TRAIN and net.arrivals[1] != 0:
                    return
            if learning:
                chunks, clips, share = chunks_of(rows), net.floats[CLIP_NORM] < math.inf, penalty_scale(net, total)
                at_once = mode == TRAIN and chunks == 1 and not clips
                gradients(net, rows, chunks, at_once, rates, step, share)
                grid_barrier(net.arrivals, net.met)
                if chunks > 1:
                    add_chunks(net, chunks)
                    grid_barrier(net.arrivals, net.met)
                if mode == TRAIN and not at_once:
                    if clips:
                        norm_of_blocks(net, share)
                        grid_barrier(net.arrivals, net.met)
                    update_parameters(net, rates, step, share, clip_scale(net, i))
                    grid_barrier(net.arrivals, net.met)
                add_penalties(net, i, at_once)
            if net.numbers[WANT_OUT] != 0 or net.numbers[WANT_DX] != 0:
                write_result(net, i, rows)
            if leads:
                net.report[i, REPORT_ROWS] = rows
            if not learning or net.numbers[WANT_DX] != 0:  # the next step overwrites outputs and sums
                grid_barrier(net.arrivals, net.met)

    return steps


@device_function
def copy_vector(to, source):
    """Copy a vector by all threads of a block."""
    for i in range(cuda.threadIdx.x, source.size, THREADS):
        to[i] = source[i]


@device_function
def copy_table(to, source):
    """Copy a table by all threads of a block, a row each."""
    for i in range(cuda.threadIdx.x, source.shape[0], THREADS):
        for j in range(source.shape[1]):
            to[i, j] = source[i, j]


@functools.cache
def make_kernel(dtype: np.dtype[Any], shape: Shape) -> Any:
    """Return the kernel: parameters, state and workspace in the card's memory and its second cache."""
    steps, element, in_fours = make_steps(dtype, shape), numba.from_dtype(dtype), shape.way == FEW

    @named_kernel(f"grid {dtype} {shape}")
    def run(
        numbers, stages, floats, scales, hyper, tiles, blocks, block_floats, params, grads, state, work, sums, x,
        x_bytes, rescale, labels, targets, weights, order, rates, report, result, arrivals,
    ):  # fmt: skip
        shared = cuda.shared.array(0, element)
        lanes = cuda.shared.array(SUMS, numba.float64)
        own_labels = cuda.shared.array(ROWS, numba.int64)
        met = cuda.shared.array(1, numba.int64)
        if cuda.threadIdx.x == 0:
            met[0] = 0
        if in_fours:  # what every stage looks up is at hand
            own_numbers = cuda.shared.array(N_NUMBERS, numba.int64)
            own_stages = cuda.shared.array((MOST_STAGES, N_STAGE), numba.int64)
            own_floats = cuda.shared.array(N_FLOATS, numba.float64)
            own_hyper = cuda.shared.array(N_HYPER, numba.float64)
            copy_table(own_stages, stages)
            copy_vector(own_numbers, numbers)
            copy_vector(own_floats, floats)
            copy_vector(own_hyper, hyper)
            cuda.syncthreads()
            numbers, stages, floats, hyper = own_numbers, own_stages, own_floats, own_hyper
        net = Net(
            numbers, stages, floats, scales, hyper, tiles, blocks, block_floats, params, grads, state, work, sums, x,
            x_bytes, rescale, labels, targets, weights, order, rates, report, result, arrivals, shared, lanes,
            own_labels, met,
        )  # fmt: skip
        steps(net)

    return run
