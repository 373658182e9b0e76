"""Many training steps in one launch: a persistent kernel that works through a network's stages, batch after batch.

The network is data, as on the CPU (`kernels/epoch.py`, whose names for modes, columns and reports are used here): other
layer sizes, depths and batch sizes compile nothing. A step has four phases, and each cuts its work into tasks by sizes
alone; block b of the grid takes tasks b, b + blocks, ..., so results are the same bits for any number of blocks.

1. Rows: gather, forward through all stages, loss, and the gradients of all stages' sums. Where no layer is wide
   (`fused`), a task is a tile of rows that one block carries through the whole network and back with barriers of the
   block alone: a network may be deep without waiting for the rest of the card. Else each stage is a phase of its own,
   and its tiles are the tasks.
2. Gradients: tiles of dW = in^T delta of all layers at once, with their column sums as db. A large batch is cut into
   chunks of rows that are added in order.
3. The global norm, where it is clipped.
4. Update: blocks of parameters, with their penalties.

Between phases all blocks meet (`reduction.grid_barrier`): a phase reads what other blocks wrote in the one before it.
Within the rows phase a block reads only rows that it wrote itself (fused), or there is a barrier after every stage. The
update writes parameters that the next step's rows phase reads, and reads gradients that the next gradient phase writes:
a barrier ends the step. A step whose loss is not finite ends the launch; every block sums the same numbers in the same
order, so all leave together.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numba
import numpy as np

from fastnn.cuda._formulas import like
from fastnn.cuda._numba import cuda, device_function, named_kernel
from fastnn.cuda.activation import activate_one, slope_one, softmax_row
from fastnn.cuda.dropout import drop
from fastnn.cuda.loss import loss_rows
from fastnn.cuda.reduction import block_total, grid_barrier, sum_of
from fastnn.cuda.tile import FLAT, LARGE, SQUARE, THREADS, Tile, make_product
from fastnn.cuda.update import penalty_block, squared_norm_block, update_block
from fastnn.kernels import epoch
from fastnn.kernels.epoch import (
    ACTIVATION,
    BATCH,
    BIAS,
    CLIP_NORM,
    DELTA,
    DENSE,
    DROPOUT,
    DX,
    FIRST_ROW,
    FIRST_STEP,
    FORWARD,
    GRADIENT,
    HUBER_DELTA,
    IN,
    KEEP,
    KEEP_A,
    KEEP_Z,
    KIND,
    LAYER,
    LOSS,
    LOSS_SCALE,
    MODE,
    N_IN,
    N_OUT,
    N_ROWS,
    N_STEPS,
    OUT,
    OUTPUT,
    PER_WEIGHT,
    REPORT_CORRECT,
    REPORT_LOSS,
    REPORT_NORM,
    REPORT_PENALTY,
    REPORT_ROWS,
    REPORT_WEIGHT,
    SEED,
    SIGMOID_FOLDED,
    SOFTMAX,
    SOFTMAX_FOLDED,
    SOURCE,
    STATE_0,
    STATE_1,
    STATE_2,
    THRESHOLD,
    TRAIN,
    WANT_DX,
    WANT_OUT,
    WEIGHT,
    X_OFFSET,
)  # fmt: skip
from fastnn.kernels.formulas import IDENTITY, RELU, SIGMOID
from fastnn.kernels.loss import EXTERNAL
from fastnn.kernels.update import CLIP_VALUE, CORRECTION1, CORRECTION2, FIRST, LR, N_HYPER

# Numbers of a launch, behind those of `kernels/epoch.py`: offsets, sizes, and the code of the optimizer,
(
    PARTIAL, N_PARAMS,  # in the workspace: chunks of gradients; parameters
    ROW_SUMS, TILE_SUMS, BLOCK_SUMS, NORM_SUMS,  # in `sums`
    LABELLED, WEIGHTED, TARGETS, BYTES, RESCALED, ORDERED,  # which arrays there are; TARGETS: columns
    PENALISED, N_BLOCKS, OPTIMIZER,
) = range(epoch.FLOATS, epoch.FLOATS + 15)  # fmt: skip
N_NUMBERS = OPTIMIZER + 1

CHUNK_ROWS, MOST_CHUNKS = 1024, 256
"""Rows whose gradient is summed in one chain, and chunks at most."""


class Net(NamedTuple):
    """All that a launch works on; e is the float type."""

    numbers: Any  # int64 (N_NUMBERS,)
    stages: Any  # int64 (stages, N_STAGE)
    floats: Any  # float64 (epoch.N_FLOATS,)
    scales: Any  # float64 (stages,)
    hyper: Any  # float64 (N_HYPER,)
    blocks: Any  # int64 (U, 2)
    block_floats: Any  # float64 (U, 4)
    params: Any  # e
    grads: Any  # e
    state: Any  # e
    work: Any  # e
    sums: Any  # float64: see ROW_SUMS
    x: Any  # e (rows * inputs,)
    x_bytes: Any  # uint8 (rows * inputs,)
    rescale: Any  # e (2 * inputs,)
    labels: Any  # int64 (rows,)
    targets: Any  # e (rows * outputs,)
    weights: Any  # float64 (rows,)
    order: Any  # int64 (rows,)
    rates: Any  # float64 (steps, 3): the learning rate, and Adam's two corrections
    report: Any  # float64 (steps, N_REPORT)
    result: Any  # e, flat
    arrivals: Any  # int32 (2,): counts at barriers; in `launches.py` whether to stop, and steps done
    shared: Any  # e: the block's own memory, for tiles
    lanes: Any  # float64 (THREADS,): the block's, for sums


class Shape(NamedTuple):
    """Which kernel fits a network and its batch."""

    fused: bool
    tile: Tile
    gradient_tile: Tile


def shape_for(widths: list[int], rows: int) -> Shape:
    """Return the kernel for stages of these widths (the last for outputs) and batches of `rows`: sizes alone decide."""
    if max(widths) <= WIDEST_FUSED:
        return Shape(True, FLAT if rows < MANY_ROWS else SQUARE, SQUARE)
    widest = max(widths)
    large = rows >= MANY_ROWS and widest >= LARGE.columns * 8
    return Shape(False, LARGE if large else SQUARE, LARGE if widest >= LARGE.columns * 16 else SQUARE)


WIDEST_FUSED, MANY_ROWS = 128, 4096
"""Units up to which a block of threads carries rows through the whole network; rows from which tiles are square."""


@device_function
def source_row(net, b):
    """Return which row of the data is number `b` in the order of the epoch."""
    return net.order[b] if net.numbers[ORDERED] != 0 else b


@device_function
def gather(net, row0, first, last):
    """Copy rows first..last of the batch that begins at `row0` into the workspace, scaled where asked."""
    n = net.stages[0, N_IN]
    at, bytes_, rescaled = net.numbers[X_OFFSET], net.numbers[BYTES] != 0, net.numbers[RESCALED] != 0
    for i in range(first * n + cuda.threadIdx.x, last * n, THREADS):
        b, j = i // n, i % n
        source = source_row(net, row0 + b) * n + j
        value = like(net.x_bytes[source], net.params[0]) if bytes_ else net.x[source]
        net.work[at + i] = value * net.rescale[j] + net.rescale[n + j] if rescaled else value


@device_function
def dropped(net, s, step, at, value):
    """Return `value` times the dropout mask of stage `s` at a logical index."""
    return drop(
        value, at, net.stages[s, THRESHOLD], like(net.scales[s], value), step, net.stages[s, LAYER], net.numbers[SEED]
    )


@device_function
def finish_forward(net, s, step, at, z):
    """Store activation and dropout of the sum `z` at index `at` of a stage, and what its derivative reads."""
    keep, source = net.stages[s, KEEP], net.stages[s, SOURCE]
    if keep == KEEP_Z:
        net.work[source + at] = z
    a = activate_one(net.stages[s, ACTIVATION], z)
    if keep == KEEP_A:
        net.work[source + at] = a
    if net.numbers[DROPOUT] != 0 and net.stages[s, THRESHOLD] > 0:
        a = dropped(net, s, step, at, a)
    net.work[net.stages[s, OUT] + at] = a


@device_function
def finish_backward(net, s, step, at, d):
    """Return the gradient of a stage's sum at index `at` for that of its output: mask, then slope."""
    code = net.stages[s, ACTIVATION]
    if net.numbers[DROPOUT] != 0 and net.stages[s, THRESHOLD] > 0:
        # A dropped unit of ReLU puts out 0, and so is the slope there.
        d = d * like(net.scales[s], d) if code == RELU else dropped(net, s, step, at, d)
    if code != IDENTITY:
        d = d * slope_one(code, net.work[net.stages[s, SOURCE] + at])
    return d


@device_function
def softmax_slope(d, p):
    """Turn the gradient of softmax outputs p into that of the logits: d_j = p_j (d_j - sum_k d_k p_k)."""
    inner = like(0.0, p[0])
    for j in range(p.size):
        inner += d[j] * p[j]
    for j in range(p.size):
        d[j] = p[j] * (d[j] - inner)


@device_function
def loss_row(net, b, row0, step, factor):
    """Loss of row `b` of the batch into the sums of rows, and the gradient of the last stage's sums."""
    end = net.stages.shape[0] - 1
    n, output = net.stages[end, N_OUT], net.numbers[OUTPUT]
    out, delta, at = net.stages[end, OUT] + b * n, net.stages[end, DELTA] + b * n, net.numbers[ROW_SUMS] + 2 * b
    y, d, result = net.work[out : out + n], net.work[delta : delta + n], net.sums[at : at + 2]
    source, width = source_row(net, row0 + b), net.numbers[TARGETS]
    target = net.targets[source * width : source * width + width]
    external = net.numbers[LOSS] == EXTERNAL
    if output == SOFTMAX or (output == SOFTMAX_FOLDED and external):
        softmax_row(y)
    if external:
        result[0], result[1] = 0.0, 0.0
        for j in range(n):
            d[j] = target[j]
            if output == SIGMOID_FOLDED:
                y[j] = activate_one(SIGMOID, y[j])
                d[j] = d[j] * slope_one(SIGMOID, y[j])
    else:
        label = net.labels[source : source + net.numbers[LABELLED]]
        weight = net.weights[source : source + net.numbers[WEIGHTED]]
        loss_rows(result, net.numbers[LOSS], net.floats[HUBER_DELTA], d, y, label, target, weight, 1, n, factor)
    if net.numbers[MODE] == TRAIN or net.numbers[MODE] == GRADIENT:
        if output == SOFTMAX or (output == SOFTMAX_FOLDED and external):
            softmax_slope(d, y)
        for j in range(n):
            d[j] = finish_backward(net, end, step, b * n + j, d[j])


@device_function
def loss_of_rows(net, tile, first, last, row0, step, factor):
    """Loss of rows first..last of the batch, and its sums at place `tile` of the sums of tiles."""
    for b in range(first + cuda.threadIdx.x, last, THREADS):
        loss_row(net, b, row0, step, factor)
    cuda.syncthreads()  # the rows' losses are there
    at = net.numbers[ROW_SUMS] + 2 * first
    loss = sum_of(net.sums, at, last - first, 2, net.lanes)
    correct = sum_of(net.sums, at + 1, last - first, 2, net.lanes)
    if cuda.threadIdx.x == 0:
        at = net.numbers[TILE_SUMS] + 2 * tile
        net.sums[at], net.sums[at + 1] = loss, correct


@device_function
def chunks_of(rows):
    """Return how many chunks of rows a batch's gradient is summed in."""
    return min(MOST_CHUNKS, (rows + CHUNK_ROWS - 1) // CHUNK_ROWS)


@device_function
def total_weight(net, row0, rows):
    """Return the sum of the batch's weights, or its rows where all are 1."""
    if net.numbers[WEIGHTED] == 0:
        return float(rows)
    total = 0.0
    for b in range(cuda.threadIdx.x, rows, THREADS):
        total += net.weights[source_row(net, row0 + b)]
    return block_total(total, net.lanes)


@device_function
def put_gradient(net, chunk, chunks, at, value):
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
def update_parameters(net, hyper, share, scale):
    """Penalty of each block of parameters, into the sums of blocks, and its optimizer step."""
    s0, s1, s2 = net.numbers[STATE_0], net.numbers[STATE_1], net.numbers[STATE_2]
    penalised = net.numbers[PENALISED] != 0
    for u in range(cuda.blockIdx.x, net.numbers[N_BLOCKS], cuda.gridDim.x):
        low, high = net.blocks[u, 0] + cuda.threadIdx.x, net.blocks[u, 1]
        l1, l2 = share * net.block_floats[u, 0], share * net.block_floats[u, 1]
        truncate = share * net.block_floats[u, 3]
        if penalised:
            total = penalty_block(net.params[low:high:THREADS], l1 + truncate, l2) if low < high else 0.0
            total = block_total(total, net.lanes)
            if cuda.threadIdx.x == 0:
                net.sums[net.numbers[BLOCK_SUMS] + u] = total
        if low < high:
            update_block(
                net.numbers[OPTIMIZER], net.params[low:high:THREADS],
                net.state[s0 + low : (s0 + high if s0 >= 0 else s0 + low) : THREADS],
                net.state[s1 + low : (s1 + high if s1 >= 0 else s1 + low) : THREADS],
                net.state[s2 + low : (s2 + high if s2 >= 0 else s2 + low) : THREADS],
                net.grads[low:high:THREADS], hyper, l1, l2, net.block_floats[u, 2], scale, truncate * hyper[LR],
            )  # fmt: skip


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
def step_parameters(net, i, step, share, scale):
    """Do the optimizer's step number `step`, the launch's i-th."""
    hyper = cuda.local.array(N_HYPER, numba.float64)
    for x in range(N_HYPER):
        hyper[x] = net.hyper[x]
    hyper[LR], hyper[CORRECTION1], hyper[CORRECTION2] = net.rates[i, 0], net.rates[i, 1], net.rates[i, 2]
    hyper[FIRST] = 1.0 if step == 0 else 0.0
    update_parameters(net, hyper, share, scale)


@device_function
def add_penalties(net, i):
    """Add up the penalties that the update left, into the report."""
    if net.numbers[PENALISED] != 0 and net.numbers[MODE] == TRAIN:
        penalty = sum_of(net.sums, net.numbers[BLOCK_SUMS], net.numbers[N_BLOCKS], 1, net.lanes)
        if cuda.blockIdx.x == 0 and cuda.threadIdx.x == 0:
            net.report[i, REPORT_PENALTY] = penalty


@device_function
def write_result(net, i, rows):
    """Copy the outputs (as probabilities where softmax or sigmoid is folded), or the gradient of the inputs."""
    end = net.stages.shape[0] - 1
    gradient, output = net.numbers[WANT_DX] != 0, net.numbers[OUTPUT]
    n = net.stages[0, N_IN] if gradient else net.stages[end, N_OUT]
    base = net.numbers[DX] if gradient else net.stages[end, OUT]
    softmax = not gradient and (output == SOFTMAX_FOLDED or (output == SOFTMAX and net.numbers[MODE] == FORWARD))
    sigmoid = not gradient and output == SIGMOID_FOLDED
    for b in range(cuda.grid(1), rows, cuda.gridsize(1)):
        to = (i * net.numbers[BATCH] + b) * n
        for j in range(n):
            value = net.work[base + b * n + j]
            net.result[to + j] = activate_one(SIGMOID, value) if sigmoid else value
        if softmax:
            softmax_row(net.result[to : to + n])


@functools.cache
def make_steps(dtype: np.dtype[Any], shape: Shape) -> Any:
    """Return the device function that works through the steps of a `Net`, with the products of one shape."""
    element, zero, tile, grad = numba.from_dtype(dtype), dtype.type(0), shape.tile, shape.gradient_tile
    product, product_and_sums = make_product(dtype, tile), make_product(dtype, grad, with_sums=True)
    fused, rows_each, columns_each = shape.fused, tile.rows, tile.columns
    per_m, per_n, threads_m, threads_n = tile.per_m, tile.per_n, tile.threads_m, tile.threads_n
    g_m, g_n, g_threads_m, g_threads_n = grad.per_m, grad.per_n, grad.threads_m, grad.threads_n
    g_rows, g_columns, n_sums, g_sums = grad.rows, grad.columns, per_m * per_n, g_m * g_n

    @device_function
    def forward_tile(net, s, step, rows, i0, j0):
        """One tile of a stage's outputs."""
        k, n, work, bias = net.stages[s, N_IN], net.stages[s, N_OUT], net.work, net.stages[s, BIAS]
        dense = net.stages[s, KIND] == DENSE
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
                finish_forward(net, s, step, i * n + j, z)

    @device_function
    def delta_tile(net, s, step, rows, i0, j0):
        """One tile of the gradient of stage s's input, carried through the stage before (for s = 0: as it is)."""
        k, n, work, delta = net.stages[s, N_IN], net.stages[s, N_OUT], net.work, net.stages[s, DELTA]
        dense = net.stages[s, KIND] == DENSE
        acc, unused = cuda.local.array(n_sums, element), cuda.local.array(1, element)
        for x in range(n_sums):
            acc[x] = zero
        if dense:
            product(
                acc, unused, net.shared, work, delta + i0 * n, n, 1, net.params, net.stages[s, WEIGHT] + j0 * n, 1, n,
                rows - i0, k - j0, n,
            )  # fmt: skip
        to = net.stages[s - 1, DELTA] if s > 0 else net.numbers[DX]
        ti, tj = cuda.threadIdx.x // threads_n, cuda.threadIdx.x % threads_n
        for x in range(min(n_sums, rows * n_sums)):
            i, j = i0 + ti + x // per_n * threads_m, j0 + tj + x % per_n * threads_n
            if i < rows and j < k:
                at = i * k + j
                d = acc[x] if dense else work[delta + at]
                work[to + at] = finish_backward(net, s - 1, step, at, d) if s > 0 else d

    @device_function
    def gradient_tile(net, s, rows, chunk, chunks, i0, j0):
        """One tile of dW = in^T delta, with db, over one chunk of rows."""
        k, n, bias = net.stages[s, N_IN], net.stages[s, N_OUT], net.stages[s, BIAS]
        each = (rows + chunks - 1) // chunks
        first = chunk * each
        acc, column_sums = cuda.local.array(g_sums, element), cuda.local.array(g_n, element)
        for x in range(g_sums):
            acc[x] = zero
        for x in range(g_n):
            column_sums[x] = zero
        product_and_sums(
            acc, column_sums, net.shared, net.work, net.stages[s, IN] + first * k + i0, 1, k, net.work,
            net.stages[s, DELTA] + first * n + j0, n, 1, k - i0, n - j0, max(0, min(each, rows - first)),
        )  # fmt: skip
        ti, tj = cuda.threadIdx.x // g_threads_n, cuda.threadIdx.x % g_threads_n
        for r in range(g_m):
            for c in range(g_n):
                i, j = i0 + ti + r * g_threads_m, j0 + tj + c * g_threads_n
                if i < k and j < n:
                    put_gradient(net, chunk, chunks, net.stages[s, WEIGHT] + i * n + j, acc[r * g_n + c])
        if bias >= 0 and i0 == 0 and ti == 0:
            for c in range(g_n):
                if j0 + tj + c * g_threads_n < n:
                    put_gradient(net, chunk, chunks, bias + j0 + tj + c * g_threads_n, column_sums[c])

    @device_function
    def fused_rows(net, step, row0, rows, factor, learning):
        """Carry tiles of rows through the whole network and back, each by one block; see phase 1 above."""
        n_stages = net.stages.shape[0]
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
                loss_of_rows(net, task, i0, i1, row0, step, factor)
                cuda.syncthreads()
            if learning:
                for s in range(n_stages - 1, last_stage - 1, -1):
                    for j0 in range(0, net.stages[s, N_IN], columns_each):
                        delta_tile(net, s, step, i1, i0, j0)
                    cuda.syncthreads()

    @device_function
    def staged_rows(net, step, row0, rows, factor, learning):
        """Do the rows phase stage by stage, each in tiles over all blocks."""
        n_stages = net.stages.shape[0]
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
                loss_of_rows(net, task, task * rows_each, min(rows, (task + 1) * rows_each), row0, step, factor)
            grid_barrier(net.arrivals)
        if learning:
            for s in range(n_stages - 1, last_stage - 1, -1):
                across = (net.stages[s, N_IN] + columns_each - 1) // columns_each
                for task in range(cuda.blockIdx.x, down * across, cuda.gridDim.x):
                    delta_tile(net, s, step, rows, task // across * rows_each, task % across * columns_each)
                if s > last_stage:
                    grid_barrier(net.arrivals)

    @device_function
    def gradients(net, rows):
        """Write the gradient of all parameters: the tiles of all stages, dealt out one after the other."""
        chunks, first, blocks = chunks_of(rows), 0, cuda.gridDim.x
        for s in range(net.stages.shape[0]):
            if net.stages[s, KIND] == DENSE:
                across = (net.stages[s, N_OUT] + g_columns - 1) // g_columns
                tiles_ = (net.stages[s, N_IN] + g_rows - 1) // g_rows * across
                for task in range((cuda.blockIdx.x + blocks - first % blocks) % blocks, tiles_ * chunks, blocks):
                    at = task % tiles_
                    i0, j0 = at // across * g_rows, at % across * g_columns
                    gradient_tile(net, s, rows, task // tiles_, chunks, i0, j0)
                first += tiles_ * chunks
        grid_barrier(net.arrivals)
        if chunks > 1:
            add_chunks(net, chunks)
            grid_barrier(net.arrivals)

    @device_function
    def update(net, i, step, total):
        """Penalty, global norm and optimizer step."""
        share = penalty_scale(net, total)
        if net.floats[CLIP_NORM] < math.inf:
            norm_of_blocks(net, share)
            grid_barrier(net.arrivals)
        step_parameters(net, i, step, share, clip_scale(net, i))
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
            if fused:
                fused_rows(net, step, row0, rows, factor, learning)
            else:
                staged_rows(net, step, row0, rows, factor, learning)
            grid_barrier(net.arrivals)
            if mode != FORWARD:
                at, tiles_ = net.numbers[TILE_SUMS], (rows + rows_each - 1) // rows_each
                loss = sum_of(net.sums, at, tiles_, 2, net.lanes)
                correct = sum_of(net.sums, at + 1, tiles_, 2, net.lanes)
                if leads:
                    net.report[i, REPORT_LOSS], net.report[i, REPORT_CORRECT] = loss, correct
                    net.report[i, REPORT_WEIGHT] = total
                if mode == TRAIN and not math.isfinite(loss):
                    return
            if learning:
                gradients(net, rows)
                if mode == TRAIN:
                    update(net, i, step, total)
            if net.numbers[WANT_OUT] != 0 or net.numbers[WANT_DX] != 0:
                write_result(net, i, rows)
            if leads:
                net.report[i, REPORT_ROWS] = rows
            if not learning or net.numbers[WANT_DX] != 0:  # the next step overwrites outputs and sums
                grid_barrier(net.arrivals)

    return steps


@functools.cache
def make_kernel(dtype: np.dtype[Any], shape: Shape) -> Any:
    """Return the kernel over a whole grid: parameters, state and workspace in the card's memory and its L2 cache."""
    steps, element = make_steps(dtype, shape), numba.from_dtype(dtype)

    @named_kernel(f"grid {dtype} {shape}")
    def run(
        numbers, stages, floats, scales, hyper, blocks, block_floats, params, grads, state, work, sums, x, x_bytes,
        rescale, labels, targets, weights, order, rates, report, result, arrivals,
    ):  # fmt: skip
        shared, lanes = cuda.shared.array(0, element), cuda.shared.array(THREADS, numba.float64)
        net = Net(
            numbers, stages, floats, scales, hyper, blocks, block_floats, params, grads, state, work, sums, x, x_bytes,
            rescale, labels, targets, weights, order, rates, report, result, arrivals, shared, lanes,
        )  # fmt: skip
        steps(net)

    return run


@functools.cache
def make_kernel_alone(dtype: np.dtype[Any], shape: Shape) -> Any:
    """Return the kernel for one block: parameters, gradients, state and workspace in its shared memory."""
    steps, element, tile_size = make_steps(dtype, shape), numba.from_dtype(dtype), tile_room(shape)

    @named_kernel(f"alone {dtype} {shape}")
    def run(
        numbers, stages, floats, scales, hyper, blocks, block_floats, params, grads, state, work, sums, x, x_bytes,
        rescale, labels, targets, weights, order, rates, report, result, arrivals,
    ):  # fmt: skip
        shared, lanes = cuda.shared.array(0, element), cuda.shared.array(THREADS, numba.float64)
        n, n_state = params.size, state.size
        w0, g0, s0 = tile_size, tile_size + n, tile_size + 2 * n
        a0 = s0 + n_state
        for p in range(cuda.threadIdx.x, n, THREADS):
            shared[w0 + p] = params[p]
        for p in range(cuda.threadIdx.x, n_state, THREADS):
            shared[s0 + p] = state[p]
        cuda.syncthreads()
        net = Net(
            numbers, stages, floats, scales, hyper, blocks, block_floats, shared[w0:g0], shared[g0:s0], shared[s0:a0],
            shared[a0 : a0 + work.size], sums, x, x_bytes, rescale, labels, targets, weights, order, rates, report,
            result, arrivals, shared, lanes,
        )  # fmt: skip
        steps(net)
        cuda.syncthreads()
        for p in range(cuda.threadIdx.x, n, THREADS):
            params[p] = shared[w0 + p]
            grads[p] = shared[g0 + p]
        for p in range(cuda.threadIdx.x, n_state, THREADS):
            state[p] = shared[s0 + p]
        for p in range(cuda.threadIdx.x, work.size, THREADS):
            work[p] = shared[a0 + p]

    return run


def tile_room(shape: Shape) -> int:
    """Return the elements of shared memory that the tiles of a kernel take."""
    return max(shape.tile.shared, shape.gradient_tile.shared)
