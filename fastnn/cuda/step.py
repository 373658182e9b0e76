"""Many training steps in one launch: a persistent kernel that works through a network's stages, batch after batch.

The network is data (`net.py`): other layer sizes, depths and batch sizes compile nothing. A step has four phases, and
each cuts its work into tasks by sizes alone; block b of the grid takes tasks b, b + blocks, ..., so results are the
same bits for any number of blocks.

1. Rows: gather, forward through all stages, loss, and the gradients of all stages' sums. A task is some rows that a
   block carries through the whole network and back with barriers of the block alone, so that a network may be deep
   without waiting for the rest of the card: four rows (`rows.py`), or in large batches of narrow layers a tile of them.
   Where layers are wide, each stage is a phase of its own, and its tiles are the tasks.
2. Gradients: tiles of dW = in^T delta of all layers at once (`gradient.py`).
3. The global norm, where it is clipped.
4. Update: blocks of parameters, with their penalties.

Between phases all blocks meet (`reduction.grid_barrier`): a phase reads what other blocks wrote in the one before it.
Within the rows phase a block reads only rows that it wrote itself, or there is a barrier after every stage. The update
writes parameters that the next step's rows phase reads, and reads gradients that the next gradient phase writes: a
barrier ends the step.

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
from fastnn.cuda._formulas import like
from fastnn.cuda._numba import cuda, device_function, named_kernel
from fastnn.cuda.gradient import add_chunks, chunks_of, make_gradients
from fastnn.cuda.net import (
    BLOCK_SUMS,
    N_BLOCKS,
    N_NUMBERS,
    N_STAGE,
    N_STAGES,
    NORM_SUMS,
    OPTIMIZER,
    PENALISED,
    TILE_SUMS,
    Net,
    finish_backward,
    finish_forward,
    gather,
    loss_of_rows,
    stage_of,
    total_weight,
    write_result,
)
from fastnn.cuda.reduction import block_total, grid_barrier, sum_of
from fastnn.cuda.rows import LARGEST, MOST_STAGES, ROWS, few_rows
from fastnn.cuda.tile import FLAT, LARGE, SQUARE, THREADS, Tile, make_product
from fastnn.cuda.update import penalty_block, squared_norm_block, update_block
from fastnn.cuda.vector import load4, store4
from fastnn.kernels.epoch import (
    BATCH,
    CLIP_NORM,
    DX,
    FIRST_ROW,
    FIRST_STEP,
    FORWARD,
    GRADIENT,
    IN,
    LOSS_SCALE,
    MODE,
    N_FLOATS,
    N_IN,
    N_OUT,
    N_ROWS,
    N_STEPS,
    PER_WEIGHT,
    REPORT_CORRECT,
    REPORT_LOSS,
    REPORT_NORM,
    REPORT_PENALTY,
    REPORT_ROWS,
    REPORT_WEIGHT,
    STATE_0,
    STATE_1,
    STATE_2,
    TRAIN,
    WANT_DX,
    WANT_OUT,
    WEIGHT,
)  # fmt: skip
from fastnn.kernels.update import CLIP_VALUE, CORRECTION1, CORRECTION2, FIRST, LR, N_HYPER

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
        return Shape(FUSED, FLAT if n_rows < MANY_ROWS else SQUARE)
    return Shape(STAGED, LARGE if n_rows >= MANY_ROWS and widest >= LARGE.columns * 8 else SQUARE)


def shared_room(shape: Shape, inputs: int, widths: list[int], dtype: np.dtype[Any]) -> int:
    """Return the numbers of shared memory that a kernel takes for what `shape_for` chose it for."""
    own = few.areas(inputs, max(widths), widths[-1])[2] if shape.way == FEW else shape.tile.shared
    return max(own, gradient.room(dtype))


@device_function
def penalty_scale(net, total):
    """Return what penalties are multiplied by at this step."""
    if net.floats[PER_WEIGHT] == 0.0:
        return 1.0
    return 1.0 / total if total > 0.0 else 0.0


@device_function
def norm_of_blocks(net, share):
    """Write the squared norm of each block of the total gradient to the sums of norms."""
    for u in range(cuda.blockIdx.x, net.numbers[N_BLOCKS], cuda.gridDim.x):
        low, high = net.blocks[u, 0] + cuda.threadIdx.x, net.blocks[u, 1]
        total = 0.0
        if low < high:
            total = squared_norm_block(
                net.grads[low:high:THREADS], net.params[low:high:THREADS], share * net.block_floats[u, 0],
                share * net.block_floats[u, 1], net.hyper[CLIP_VALUE],
            )  # fmt: skip
        total = block_total(total, net.lanes)
        if cuda.threadIdx.x == 0:
            net.sums[net.numbers[NORM_SUMS] + u] = total


@device_function
def fetch_four(own, values, first, high):
    """Copy four numbers into a thread's own array, 0 where there are fewer."""
    if first + 4 <= high:
        own[0], own[1], own[2], own[3] = load4(values, first)
    else:
        for x in range(4):
            own[x] = values[first + x] if first + x < high else like(0.0, values[first])


@device_function
def put_four(values, own, first, high):
    """Copy them back."""
    if first + 4 <= high:
        store4(values, first, (own[0], own[1], own[2], own[3]))
    else:
        for x in range(4):
            if first + x < high:
                values[first + x] = own[x]


@device_function
def update_parameters(net, i, step, share, scale):
    """Do the optimizer's step number `step`, the launch's i-th; the penalty of each block goes to the sums of blocks.

    A thread has four neighbours in registers: all that it reads is on its way before it works out the first.
    """
    element = net.params.dtype
    s0, s1, s2 = net.numbers[STATE_0], net.numbers[STATE_1], net.numbers[STATE_2]
    w, d = cuda.local.array(4, element), cuda.local.array(4, element)
    own0, own1, own2 = cuda.local.array(4, element), cuda.local.array(4, element), cuda.local.array(4, element)
    hyper = cuda.local.array(N_HYPER, numba.float64)
    for x in range(N_HYPER):
        hyper[x] = net.hyper[x]
    hyper[LR], hyper[CORRECTION1], hyper[CORRECTION2] = net.rates[i, 0], net.rates[i, 1], net.rates[i, 2]
    hyper[FIRST] = 1.0 if step == 0 else 0.0
    for u in range(cuda.blockIdx.x, net.numbers[N_BLOCKS], cuda.gridDim.x):
        high, total = net.blocks[u, 1], 0.0
        l1, l2, truncate = (
            share * net.block_floats[u, 0],
            share * net.block_floats[u, 1],
            share * net.block_floats[u, 3],
        )
        for first in range(net.blocks[u, 0] + 4 * cuda.threadIdx.x, high, 4 * THREADS):
            fetch_four(w, net.params, first, high)
            fetch_four(d, net.grads, first, high)
            if s0 >= 0:
                fetch_four(own0, net.state, s0 + first, s0 + high)
            if s1 >= 0:
                fetch_four(own1, net.state, s1 + first, s1 + high)
            if s2 >= 0:
                fetch_four(own2, net.state, s2 + first, s2 + high)
            if net.numbers[PENALISED] != 0:
                total += penalty_block(w, l1 + truncate, l2)
            update_block(
                net.numbers[OPTIMIZER], w, own0[: 4 if s0 >= 0 else 0], own1[: 4 if s1 >= 0 else 0],
                own2[: 4 if s2 >= 0 else 0], d, hyper, l1, l2, net.block_floats[u, 2], scale, truncate * hyper[LR],
            )  # fmt: skip
            put_four(net.params, w, first, high)
            if s0 >= 0:
                put_four(net.state, own0, s0 + first, s0 + high)
            if s1 >= 0:
                put_four(net.state, own1, s1 + first, s1 + high)
            if s2 >= 0:
                put_four(net.state, own2, s2 + first, s2 + high)
        if net.numbers[PENALISED] != 0:
            total = block_total(total, net.lanes)
            if cuda.threadIdx.x == 0:
                net.sums[net.numbers[BLOCK_SUMS] + u] = total


@device_function
def clip_scale(net, i):
    """Return what the gradient is multiplied by, from the sums of norms where the global norm is clipped."""
    if not net.floats[CLIP_NORM] < math.inf:
        return 1.0
    norm = math.sqrt(sum_of(net.sums, net.numbers[NORM_SUMS], net.numbers[N_BLOCKS], 1, net.lanes))
    if cuda.blockIdx.x == 0 and cuda.threadIdx.x == 0:
        net.report[i, REPORT_NORM] = norm
    return net.floats[CLIP_NORM] / norm if norm > net.floats[CLIP_NORM] else 1.0


@device_function
def add_penalties(net, i):
    """Add up the penalties that the update left, into the report."""
    if net.numbers[PENALISED] != 0 and net.numbers[MODE] == TRAIN:
        penalty = sum_of(net.sums, net.numbers[BLOCK_SUMS], net.numbers[N_BLOCKS], 1, net.lanes)
        if cuda.blockIdx.x == 0 and cuda.threadIdx.x == 0:
            net.report[i, REPORT_PENALTY] = penalty


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
    element, zero, tile, way = numba.from_dtype(dtype), dtype.type(0), shape.tile, shape.way
    product, gradients = make_product(dtype, tile), make_gradients(dtype)
    in_fours, fused, rows_each, columns_each = way == FEW, way == FUSED, tile.rows, tile.columns
    per_m, per_n, threads_m, threads_n = tile.per_m, tile.per_n, tile.threads_m, tile.threads_n
    n_sums, loss_rows_each = per_m * per_n, shape.rows

    @device_function
    def forward_tile(net, s, step, rows, i0, j0):
        """One tile of a stage's outputs."""
        stage, work = stage_of(net, s), net.work
        k, n, bias, dense = stage.inputs, stage.units, stage.bias, stage.dense
        acc, unused = cuda.local.array(n_sums, element), cuda.local.array(1, element)
        for x in range(n_sums):
            acc[x] = zero
        if dense:
            product(
                acc, unused, net.shared, work, net.stages[s, IN] + i0 * k, k, 1, net.params,
                net.stages[s, WEIGHT] + j0, n, 1, rows - i0, n - j0, k,
            )  # fmt: skip
        ti, tj = cuda.threadIdx.x // threads_n, cuda.threadIdx.x % threads_n
        for x in range(min(n_sums, rows * n_sums)):  # a bound that the compiler cannot unroll
            i, j = i0 + ti + x // per_n * threads_m, j0 + tj + x % per_n * threads_n
            if i < rows and j < n:
                z = acc[x]
                if not dense:
                    z = work[net.stages[s, IN] + i * n + j]
                elif bias >= 0:
                    z += net.params[bias + j]
                finish_forward(net, stage, step, i * n + j, z)

    @device_function
    def delta_tile(net, s, step, rows, i0, j0):
        """One tile of the gradient of stage s's input, carried through the stage before (for s = 0: as it is)."""
        stage, before, work = stage_of(net, s), stage_of(net, max(s - 1, 0)), net.work
        k, n, delta, dense = stage.inputs, stage.units, stage.delta, stage.dense
        acc, unused = cuda.local.array(n_sums, element), cuda.local.array(1, element)
        for x in range(n_sums):
            acc[x] = zero
        if dense:
            product(
                acc, unused, net.shared, work, delta + i0 * n, n, 1, net.params, net.stages[s, WEIGHT] + j0 * n, 1, n,
                rows - i0, k - j0, n,
            )  # fmt: skip
        to = before.delta if s > 0 else net.numbers[DX]
        ti, tj = cuda.threadIdx.x // threads_n, cuda.threadIdx.x % threads_n
        for x in range(min(n_sums, rows * n_sums)):
            i, j = i0 + ti + x // per_n * threads_m, j0 + tj + x % per_n * threads_n
            if i < rows and j < k:
                at = i * k + j
                d = acc[x] if dense else work[delta + at]
                work[to + at] = finish_backward(net, before, step, at, d) if s > 0 else d

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
        grid_barrier(net.arrivals)
        for s in range(n_stages):
            across = (net.stages[s, N_OUT] + columns_each - 1) // columns_each
            for task in range(cuda.blockIdx.x, down * across, cuda.gridDim.x):
                forward_tile(net, s, step, rows, task // across * rows_each, task % across * columns_each)
            grid_barrier(net.arrivals)
        if net.numbers[MODE] != FORWARD:
            for task in range(cuda.blockIdx.x, down, cuda.gridDim.x):
                first, last = task * rows_each, min(rows, (task + 1) * rows_each)
                stop_if_infinite(net, loss_of_rows(net, task, first, last, row0, step, factor))
            grid_barrier(net.arrivals)
        if learning:
            for s in range(n_stages - 1, last_stage - 1, -1):
                across = (net.stages[s, N_IN] + columns_each - 1) // columns_each
                for task in range(cuda.blockIdx.x, down * across, cuda.gridDim.x):
                    delta_tile(net, s, step, rows, task // across * rows_each, task % across * columns_each)
                if s > last_stage:
                    grid_barrier(net.arrivals)

    @device_function
    def update(net, i, step, total):
        """Penalty, global norm and optimizer step."""
        share = penalty_scale(net, total)
        if net.floats[CLIP_NORM] < math.inf:
            norm_of_blocks(net, share)
            grid_barrier(net.arrivals)
        update_parameters(net, i, step, share, clip_scale(net, i))
        grid_barrier(net.arrivals)
        add_penalties(net, i)

    @device_function
    def steps(net):
        """Run the steps that the numbers ask for; training stops at one whose loss is not finite."""
        mode = net.numbers[MODE]
        learning = mode == TRAIN or mode == GRADIENT
        leads = cuda.blockIdx.x == 0 and cuda.threadIdx.x == 0
        for i in range(net.numbers[N_STEPS]):
            step, row0 = net.numbers[FIRST_STEP] + i, net.numbers[FIRST_ROW] + i * net.numbers[BATCH]
            rows = min(net.numbers[BATCH], net.numbers[FIRST_ROW] + net.numbers[N_ROWS] - row0)
            total = total_weight(net, row0, rows)
            factor = net.floats[LOSS_SCALE] / total if total > 0.0 else 0.0
            if in_fours:
                for task in range(cuda.blockIdx.x, (rows + ROWS - 1) // ROWS, cuda.gridDim.x):
                    few_rows(net, task, step, row0, rows, factor, learning)
            elif fused:
                fused_rows(net, step, row0, rows, factor, learning)
            else:
                staged_rows(net, step, row0, rows, factor, learning)
            grid_barrier(net.arrivals)
            if mode != FORWARD:
                report_loss(net, i, (rows + loss_rows_each - 1) // loss_rows_each, total)
                if mode == TRAIN and net.arrivals[1] != 0:
                    return
            if learning:
                chunks = chunks_of(rows)
                gradients(net, rows, chunks)
                grid_barrier(net.arrivals)
                if chunks > 1:
                    add_chunks(net, chunks)
                    grid_barrier(net.arrivals)
                if mode == TRAIN:
                    update(net, i, step, total)
            if net.numbers[WANT_OUT] != 0 or net.numbers[WANT_DX] != 0:
                write_result(net, i, rows)
            if leads:
                net.report[i, REPORT_ROWS] = rows
            if not learning or net.numbers[WANT_DX] != 0:  # the next step overwrites outputs and sums
                grid_barrier(net.arrivals)

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
            own_labels,
        )  # fmt: skip
        steps(net)

    return run
