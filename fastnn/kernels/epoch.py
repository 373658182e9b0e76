"""Many steps in one compiled call: gather, forward, loss, backward, update; nothing is allocated in the loop.

The network is data: `stages` (one row of integers a stage, columns named below) says what to compute, so that other
layer sizes, depths and batch sizes compile nothing. Each operation of a step is cut into tasks by its sizes alone, and
the tasks run one after the other or over threads: the same bits either way. All activations, gradients of activations
and packing buffers live in one flat workspace; a stage's rows and columns are found by offsets into it.

Everything a call works on is in one vector of integers, `c` (see `_context.py`), at the positions named below; the
parameters come beside it and give the float type.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection

import numba
import numpy as np
from numba import types

from fastnn.kernels import activation, dropout, formulas, gemm, loss, update
from fastnn.kernels._blocks import add, copy, copy_past_caches, fill, make_stack
from fastnn.kernels._compile import announce, compile_tasks
from fastnn.kernels._context import (
    SLOTS,
    byte_rows_at,
    bytes_at,
    double_rows_at,
    doubles_at,
    float_rows_at,
    floats_at,
    integer_rows_at,
    integers_at,
)
from fastnn.kernels._jit import Task, block, entry, inlined
from fastnn.kernels._pool import KINDS, LIKE, begin, compile_attend, finish, pool
from fastnn.kernels._simd import finish_writes, flush_subnormals, pointer, prefetch, restore_floats, tile_columns
from fastnn.kernels._team import (
    DONE,
    FINISHED,
    OPERATION,
    SEATS,
    STAGE,
    claim,
    fetch_add,
    load,
    now,
    publish,
    rest,
    store,
    wait,
)
from fastnn.kernels.activation import call_activate, call_multiply_slope, call_softmax
from fastnn.kernels.dense import column_sums
from fastnn.kernels.dropout import GROUP, call_multiply_mask
from fastnn.kernels.elementary import like
from fastnn.kernels.gemm import MR, TASK_FLOPS, call_gemm, split, task_grid
from fastnn.kernels.loss import call_loss_rows
from fastnn.kernels.update import call_update, penalty_block, soft_threshold_block, squared_norm_block

# Columns of `stages`. A stage computes out = dropout(f(in W + b)), or out = dropout(f(in)) where it has no weights.
(
    KIND,  # DENSE or ELEMENTWISE
    N_IN,  # columns of its input
    N_OUT,  # columns of its output
    ACTIVATION,  # a code of formulas.py
    WEIGHT,  # offset of W (N_IN x N_OUT) in the parameters
    BIAS,  # offset of b in the parameters, or -1
    IN,  # offset of the input in the workspace
    OUT,  # offset of the output
    SOURCE,  # offset of what the derivative reads: OUT, or an array of its own (see KEEP)
    KEEP,  # KEEP_NONE, KEEP_Z (GELU, SiLU) or KEEP_A (the undropped output, where dropout hides it)
    LAYER,  # number of the dropout layer, for its random numbers
    THRESHOLD,  # dropout rate * 2^32, 0 for none
    DELTA,  # offset of the gradient of its sums; the same as of the stage behind it where that has no weights
) = range(13)
N_STAGE = 13

DENSE, ELEMENTWISE = range(2)
KEEP_NONE, KEEP_Z, KEEP_A = range(3)

# What a call does.
TRAIN, GRADIENT, FORWARD, EVALUATE = range(4)

# Numbers in the context: what is asked for,
(
    MODE, FIRST_STEP, N_STEPS, FIRST_ROW, N_ROWS, BATCH, LOSS, SEED, THREADS, DROPOUT, OUTPUT,
    WANT_DX, WANT_OUT,
    X_OFFSET, T_OFFSET, DX, SCRATCH,  # offsets in the workspace; DX: gradient of the input
    SCRATCH_EACH, GRADIENT_BLOCK,  # a thread's scratch: its size, and where in it the gradient of some weights may lie
    STATE_0, STATE_1, STATE_2,  # offsets in the optimizer's state, -1 for a vector that is not kept
    MEMBERS,  # threads of the team
    ROW_TASKS,  # parts of a batch that go through all stages at once, unless chunks do; 0: one stage after the other
    CHUNK_FROM, PARTS,  # rows from which gradients are summed by chunks of rows; place of these in the workspace, or -1
    RUN_MEMBER, RUN_TASK, GEMM, ACTIVATE, SLOPE, MASK, LOSS_ROWS, UPDATE, SOFTMAX_ROWS,  # addresses of blocks
    STEP, ROW, ROWS,  # the batch at hand; set by `execute`
    PAST_CACHES, TRIED, USUAL_TIME, PAST_TIME,  # which way updated weights take, and trials of it; see `_choose_way`
) = range(42)  # fmt: skip

# and arrays, three integers each; e is the float type of the model.
(
    FLOATS,  # float64 (N_FLOATS,)
    STAGES,  # int64 (stages, N_STAGE)
    SCALES,  # float64 (stages,): 1 / (1 - dropout rate)
    BLOCKS,  # int64 (U, 2): [start, stop) of each block of parameters
    BLOCK_FLOATS,  # float64 (U, 4): its l1, l2, weight decay and truncating l1
    BLOCK_TASKS,  # int64 (tasks + 1,): the first block of each task, and U
    GRADS,  # e, like the parameters
    STATE,  # e: up to three vectors like the parameters
    WORK,  # e: the workspace
    PARTIAL,  # float64 (tasks, 2): sums of the tasks, added up in order
    X,  # e (rows, inputs), or (0, 0) where the samples are bytes
    X_BYTES,  # uint8 (rows, inputs) or (0, 0)
    RESCALE,  # e (2, inputs): scale and offset of each input; or (0, 0)
    LABELS,  # int64 (rows,) or (0,)
    TARGETS,  # e (rows, outputs) or (0, 0)
    WEIGHTS,  # float64 (rows,), or (0,) where all are 1
    ORDER,  # int64 (rows,), or (0,) for the rows as they stand
    HYPER,  # float64 (N_HYPER,): of the optimizer
    BATCH_LABELS,  # int64 (batch,): of the batch at hand
    BATCH_WEIGHTS,  # float64 (batch,)
    RATES,  # float64 (steps,): learning rate of each step
    REPORT,  # float64 (steps, N_REPORT), out; zeros before; REPORT_ROWS stays 0 for steps not done
    RESULT,  # e, out: (rows, outputs) where WANT_OUT, (rows, inputs) where WANT_DX
    PARAMS,  # e: all parameters, for a call that is not handed them
    TEAM,  # int64: what the threads tell each other (see `_team.py`), zeros before
    WEIGHT_TASKS,  # int64 (tasks, N_WEIGHT_TASK): blocks of weights, columns named below
) = range(PAST_TIME + 1, PAST_TIME + 1 + 26 * SLOTS, SLOTS)
N_CONTEXT = WEIGHT_TASKS + SLOTS

# Columns of `weight_tasks`: whose gradient, and update where it need not wait for all other gradients, is one task.
(
    STAGE_OF,
    ROW_0, ROW_1, COLUMN_0, COLUMN_1,  # the block of the stage's W; where ROW_0 is 0 with those columns of its bias
    WEIGHT_BLOCK, BIAS_BLOCK,  # rows of `block_floats` for the two
) = range(7)  # fmt: skip
N_WEIGHT_TASK = 7

(
    HUBER_DELTA,
    CLIP_NORM,
    TOTAL_WEIGHT,  # of the batch at hand; set by `execute`
    GRADIENT_SCALE,  # by the global norm; set by `execute`
    LOSS_SCALE,  # what the loss's gradient is multiplied by; the reported loss is not
    PER_WEIGHT,  # 1 where penalties are divided by the batch's weight, as in scikit-learn; else 0
    PENALTY_SCALE,  # what penalties are multiplied by at this step; set by `execute`
) = range(7)
N_FLOATS = 7

# What is done to the outputs of the last stage.
LOGITS, SOFTMAX_FOLDED, SIGMOID_FOLDED, SOFTMAX = range(4)

# Columns of the report, one row a step (or a block of rows, in evaluation).
REPORT_LOSS, REPORT_WEIGHT, REPORT_CORRECT, REPORT_PENALTY, REPORT_NORM, REPORT_ROWS = range(6)
N_REPORT = 6

# Operations that are cut into tasks. OP_ROWS is OP_GATHER .. OP_BACKWARD for some of the rows.
OP_ROWS, OP_GATHER, OP_FORWARD, OP_LOSS, OP_BACKWARD, OP_WEIGHTS, OP_CHUNKS, OP_PENALTY, OP_NORM, OP_UPDATE = range(10)

ROWS_AHEAD, BYTES_AHEAD = 8, 16384
"""How long before its turn a row in random order is asked for, since it comes from far away: as many rows, or bytes
where those are more rows."""

ROW_CHUNK = 4096
"""Elements of one task of element-wise work on rows: about 2 us, several times what a claim costs."""

_RELU, _SIGMOID, _EXTERNAL = formulas.RELU, formulas.SIGMOID, loss.EXTERNAL
_LR, _BETA1, _BETA2, _FIRST, _CLIP = update.LR, update.BETA1, update.BETA2, update.FIRST, update.CLIP_VALUE
_CORRECTION1, _CORRECTION2 = update.CORRECTION1, update.CORRECTION2


# How an operation is cut into tasks.


ASIDE = 1024
"""Weights updated aside at a time where they go past the caches: they and what belongs to them fit the first one."""

_LONG = np.int64(1 << 62)
FIRST_TRIAL, TRIAL, TRIAL_EVERY = 4, 4, 256
"""Steps before the first trial of the two ways for weights, steps of each way, and steps from one trial to the next."""

MAX_ROW_TASKS = 16

LOSS_BLOCK_ROWS, MAX_LOSS_BLOCKS = 16, 64
"""The loss of a batch is added up by blocks of some rows, 64 at most: parts of a batch are whole blocks."""


@block
def _row_tasks(rows, n):
    """Element-wise work on rows x n elements: blocks of rows."""
    return min(MAX_ROW_TASKS, rows, max(1, rows * n // ROW_CHUNK))


def row_tasks(rows: int, n: int) -> int:
    """Return how many tasks element-wise work on rows x n elements is cut into."""
    tasks: int = _row_tasks.py_func(rows, n)
    return tasks


@inlined
def loss_blocks(rows):
    """Return into how many blocks of rows the sum of the losses is cut, whoever makes them: each has its own sum.

    1, 2, or a multiple of 4, so that a few threads get as many each.
    """
    blocks = min(MAX_LOSS_BLOCKS, rows // LOSS_BLOCK_ROWS)
    return blocks - blocks % 4 if blocks >= 4 else max(1, min(2, blocks))


@inlined
def loss_block(rows, index):
    """Return (first row, last row + 1) of a block of the loss."""
    return split(rows, loss_blocks(rows), index, 2)


@block
def _rows_of_task(rows, tasks, t):
    """Return (first row, last row + 1, first block, last block + 1) of one of some tasks: whole blocks of the loss."""
    first, last = split(loss_blocks(rows), tasks, t, 1)
    return loss_block(rows, first)[0], loss_block(rows, last - 1)[1], first, last


CHUNK_ROWS, MOST_CHUNKS = 64, 8
"""Rows at least whose gradient is a sum of its own where weights are few beside what rows leave in the workspace, and
chunks of a batch at most.

Whoever sums rows that another core has written fetches them, and to write them again the next time takes each line away
from the one that read it. A thread that sums its own rows leaves but the sums to be added up.
"""


@inlined
def gradient_chunks(from_rows, rows):
    """Return in how many chunks of rows a batch's gradients are summed and then added in order: 1, 2, 4 or 8.

    `from_rows` are the rows from which two pay, twice as many those from which four do.
    """
    chunks = 1
    while 2 * chunks <= MOST_CHUNKS and rows >= max(chunks * from_rows, 2 * chunks * CHUNK_ROWS):
        chunks *= 2
    return chunks


@inlined
def _by_chunks(c):
    """Return whether who carries a chunk of rows sums its gradients, too: where each thread has as many chunks."""
    chunks = gradient_chunks(c[CHUNK_FROM], c[ROWS])
    return c[PARTS] >= 0 and chunks > 1 and chunks % c[MEMBERS] == 0 and (c[MODE] == TRAIN or c[MODE] == GRADIENT)


@inlined
def _parts_of_rows(c):
    """Return in how many parts the rows of the batch at hand go through all stages."""
    return gradient_chunks(c[CHUNK_FROM], c[ROWS]) if _by_chunks(c) else min(c[ROW_TASKS], loss_blocks(c[ROWS]))


@block
def _forward_tasks(stage, rows, threads):
    if stage[KIND] != DENSE:
        return _row_tasks(rows, stage[N_OUT])
    row_blocks, column_blocks = task_grid(rows, stage[N_OUT], stage[N_IN], threads, TASK_FLOPS)
    return row_blocks * column_blocks


@block
def _backward_tasks(stage, rows, threads):
    if stage[KIND] != DENSE:
        return _row_tasks(rows, stage[N_IN])
    row_blocks, column_blocks = task_grid(rows, stage[N_IN], stage[N_OUT], threads, TASK_FLOPS)
    return row_blocks * column_blocks


# One task of each operation.


@inlined
def _prefetch_row(rows, i):
    """Ask for row i of a matrix, where that has columns."""
    if rows.shape[1] > 0:
        row = rows[i]
        for j in range(0, row.size, 64 // row.itemsize):
            prefetch(pointer(row, j))
        prefetch(pointer(row, row.size - 1))


@inlined
def _take(row, x, x_bytes):
    """Write numbers of the data set to the workspace."""
    if x_bytes.size:
        for j in range(row.size):
            row[j] = like(x_bytes[j], row[j])
    else:
        copy(row, x)


@inlined
def _rescale(row, rescale):
    """Multiply a row by the first of two rows and add the second, where there are any."""
    if rescale.size:
        scale, offset = rescale[0], rescale[1]
        for j in range(row.size):
            row[j] = row[j] * scale[j] + offset[j]


@inlined
def _leave_out(c, row, weight):
    """Make a row that weighs nothing one of zeros where gradients are summed: 0 times infinity would be NaN there."""
    if weight == 0.0 and (c[MODE] == TRAIN or c[MODE] == GRADIENT):
        fill(row, like(0.0, row[0]))


@block
def _gather(c, params, first, last):
    """Copy rows of the batch into the workspace in the given order, scaled where asked, with what belongs to them."""
    work = floats_at(c, WORK, params)
    x, x_bytes = float_rows_at(c, X, params), byte_rows_at(c, X_BYTES)
    rescale, targets = float_rows_at(c, RESCALE, params), float_rows_at(c, TARGETS, params)
    labels, weights, order = integers_at(c, LABELS), doubles_at(c, WEIGHTS), integers_at(c, ORDER)
    batch_labels, batch_weights = integers_at(c, BATCH_LABELS), doubles_at(c, BATCH_WEIGHTS)
    n, n_targets = max(x.shape[1], x_bytes.shape[1]), targets.shape[1]
    row_bytes = x.shape[1] * x.itemsize + x_bytes.shape[1]
    ahead = min(last - first, max(ROWS_AHEAD, BYTES_AHEAD // row_bytes))
    for b in range(first, last):
        source = order[c[ROW] + b]
        later = c[ROW] + b + ahead
        if b + ahead >= last:  # these rows of the next batch
            later += c[ROWS] - (last - first)
        if later < order.size:
            _prefetch_row(x, order[later])
            _prefetch_row(x_bytes, order[later])
            _prefetch_row(targets, order[later])
            if labels.size:
                prefetch(pointer(labels, order[later]))
        row = work[c[X_OFFSET] + b * n : c[X_OFFSET] + (b + 1) * n]
        _take(row, x[source], x_bytes[source])
        _rescale(row, rescale)
        if labels.size:
            batch_labels[b] = labels[source]
        if weights.size:
            batch_weights[b] = weights[source]
            _leave_out(c, row, weights[source])
        if n_targets:
            copy(work[c[T_OFFSET] + b * n_targets : c[T_OFFSET] + (b + 1) * n_targets], targets[source])


@block
def _copy_batch(c, params, first, last):
    """`_gather` without an order: the rows lie one behind the other."""
    work, rescale = floats_at(c, WORK, params), float_rows_at(c, RESCALE, params)
    labels, weights = integers_at(c, LABELS), doubles_at(c, WEIGHTS)
    source, n, n_targets = c[ROW] + first, max(c[X + 2], c[X_BYTES + 2]), c[TARGETS + 2]
    rows = work[c[X_OFFSET] + first * n : c[X_OFFSET] + last * n]
    _take(rows, floats_at(c, X, params)[source * n :], bytes_at(c, X_BYTES)[source * n :])
    for b in range(last - first if rescale.size else 0):
        _rescale(rows[b * n : (b + 1) * n], rescale)
    if labels.size:
        copy(integers_at(c, BATCH_LABELS)[first:last], labels[source:])
    if weights.size:
        copy(doubles_at(c, BATCH_WEIGHTS)[first:last], weights[source:])
        for b in range(last - first):
            _leave_out(c, rows[b * n : (b + 1) * n], weights[source + b])
    if n_targets:
        targets = floats_at(c, TARGETS, params)[source * n_targets :]
        copy(work[c[T_OFFSET] + first * n_targets : c[T_OFFSET] + last * n_targets], targets)


@inlined
def _fetch(c, params, first, last):
    """Copy rows [first, last) of the batch into the workspace."""
    if integers_at(c, ORDER).size:
        _gather(c, params, first, last)
    else:
        _copy_batch(c, params, first, last)


@block
def _drop(c, stage, scale, y, index, mask):
    """Multiply the 1-D block `y`, which begins at logical index `index`, by the stage's dropout mask."""
    call_multiply_mask(c[MASK], y, index, mask, stage[THRESHOLD], like(scale, y[0]), c[STEP], stage[LAYER], c[SEED])


@block
def _finish_forward(c, work, stage, scale, i0, i1, j0, j1, mask):
    """Activation and dropout on rows i0..i1, columns j0..j1 of a stage, just after its sums were stored."""
    n = stage[N_OUT]
    keep, out, source = stage[KEEP], stage[OUT], stage[SOURCE]
    if j0 == 0 and j1 == n:  # whole rows lie one behind the other
        j0, j1, i0, i1 = i0 * n, i1 * n, 0, 1
    for i in range(i0, i1):
        a = work[out + i * n + j0 : out + i * n + j1]
        if keep == KEEP_Z:
            copy(a, work[source + i * n + j0 : source + i * n + j1])
        if keep == KEEP_A:
            kept = work[source + i * n + j0 : source + i * n + j1]
            call_activate(c[ACTIVATE], stage[ACTIVATION], kept)
            copy(a, kept)
        elif stage[ACTIVATION] != formulas.IDENTITY:
            call_activate(c[ACTIVATE], stage[ACTIVATION], a)
        if c[DROPOUT] != 0 and stage[THRESHOLD] > 0:
            _drop(c, stage, scale, a, i * n + j0, mask)


@block
def _finish_backward(c, work, stage, scale, i0, i1, j0, j1, mask):
    """Turn the gradient with respect to a stage's output into that of its sums: mask, then slope."""
    n = stage[N_OUT]
    source, delta = stage[SOURCE], stage[DELTA]
    if j0 == 0 and j1 == n:
        j0, j1, i0, i1 = i0 * n, i1 * n, 0, 1
    for i in range(i0, i1):
        d = work[delta + i * n + j0 : delta + i * n + j1]
        if c[DROPOUT] != 0 and stage[THRESHOLD] > 0:
            if stage[ACTIVATION] == _RELU:  # a dropped unit's output is 0, and so is the slope there
                factor = like(scale, d[0])
                for j in range(d.size):
                    d[j] *= factor
            else:
                _drop(c, stage, scale, d, i * n + j0, mask)
        if stage[ACTIVATION] != formulas.IDENTITY:
            call_multiply_slope(c[SLOPE], stage[ACTIVATION], d, work[source + i * n + j0 : source + i * n + j1])


@block
def _forward_block(c, params, s, i0, i1, j0, j1, seat):
    """Outputs of a stage: rows [i0, i1), columns [j0, j1), which are all of them for one without weights."""
    if i1 <= i0 or j1 <= j0:
        return
    work, stage, scale = floats_at(c, WORK, params), integer_rows_at(c, STAGES)[s], doubles_at(c, SCALES)[s]
    k, n = stage[N_IN], stage[N_OUT]
    scratch = c[SCRATCH] + seat * c[SCRATCH_EACH]
    sums = stage[SOURCE] if stage[KEEP] != KEEP_NONE else stage[OUT]
    if stage[KIND] == DENSE:
        out, w, bias = pointer(work, sums + i0 * n + j0), stage[WEIGHT] + j0, stage[BIAS] + j0
        call_gemm(
            c[GEMM], out, n, pointer(work, stage[IN] + i0 * k), k, 1, pointer(params, w), n, 1, i1 - i0, j1 - j0, k,
            pointer(params, bias), stage[BIAS] >= 0, pointer(work, scratch + GROUP), out, 0,
        )  # fmt: skip
    else:
        copy(work[sums + i0 * n : sums + i1 * n], work[stage[IN] + i0 * n : stage[IN] + i1 * n])
    _finish_forward(c, work, stage, scale, i0, i1, j0, j1, work[scratch : scratch + GROUP])


@block
def _loss_block(c, params, t, seat):
    """Loss of a block of rows into partial[t], and the gradient of the last stage's sums where there is learning."""
    work, stages = floats_at(c, WORK, params), integer_rows_at(c, STAGES)
    labels, weights, targets = integers_at(c, LABELS), doubles_at(c, WEIGHTS), float_rows_at(c, TARGETS, params)
    floats, result = doubles_at(c, FLOATS), double_rows_at(c, PARTIAL)[t]
    end = stages.shape[0] - 1
    stage = stages[end]
    n, output = stage[N_OUT], c[OUTPUT]
    i0, i1 = loss_block(c[ROWS], t)
    y = work[stage[OUT] + i0 * n : stage[OUT] + i1 * n]
    d = work[stage[DELTA] + i0 * n : stage[DELTA] + i1 * n]
    target = work[c[T_OFFSET] + i0 * n : c[T_OFFSET] + (i1 if targets.size else i0) * n]
    external = c[LOSS] == _EXTERNAL
    if output == SOFTMAX or (output == SOFTMAX_FOLDED and external):
        call_softmax(c[SOFTMAX_ROWS], y, n)
    if external:
        copy(d, target)
        result[0], result[1] = 0.0, 0.0
        if output == SIGMOID_FOLDED:
            call_activate(c[ACTIVATE], _SIGMOID, y)
            call_multiply_slope(c[SLOPE], _SIGMOID, d, y)
    else:
        total = floats[TOTAL_WEIGHT]
        label = integers_at(c, BATCH_LABELS)[i0 : (i1 if labels.size else i0)]
        weight = doubles_at(c, BATCH_WEIGHTS)[i0 : (i1 if weights.size else i0)]
        factor = floats[LOSS_SCALE] / total if total > 0.0 else 0.0
        call_loss_rows(
            c[LOSS_ROWS], result, c[LOSS], floats[HUBER_DELTA], d, y, label, target, weight, i1 - i0, n, factor
        )
    if c[MODE] != TRAIN and c[MODE] != GRADIENT:
        return
    if output == SOFTMAX or (output == SOFTMAX_FOLDED and external):
        for b in range(i1 - i0):
            _softmax_slope(d[b * n : (b + 1) * n], y[b * n : (b + 1) * n])
    scratch = c[SCRATCH] + seat * c[SCRATCH_EACH]
    mask = work[scratch : scratch + GROUP]
    _finish_backward(c, work, stage, doubles_at(c, SCALES)[end], i0, i1, 0, n, mask)


@block
def _softmax_slope(d, p):
    """Turn the gradient of softmax outputs p into that of the logits: d_j = p_j (d_j - sum_k d_k p_k)."""
    inner = like(0.0, p[0])
    for j in range(p.size):
        inner += d[j] * p[j]
    for j in range(p.size):
        d[j] = p[j] * (d[j] - inner)


@block
def _backward_block(c, params, s, i0, i1, j0, j1, seat):
    """Carry rows [i0, i1) of the gradient from a stage's sums to those of the stage before, or to the input.

    Of a dense stage columns [j0, j1) of dX = dZ W^T; where there are no weights all, which stay in their place.
    """
    if i1 <= i0 or j1 <= j0:
        return
    work, stages = floats_at(c, WORK, params), integer_rows_at(c, STAGES)
    stage = stages[s]
    k, n = stage[N_IN], stage[N_OUT]
    scratch = c[SCRATCH] + seat * c[SCRATCH_EACH]
    if stage[KIND] == DENSE:
        out = pointer(work, (stages[s - 1, DELTA] if s > 0 else c[DX]) + i0 * k + j0)
        call_gemm(
            c[GEMM], out, k, pointer(work, stage[DELTA] + i0 * n), n, 1, pointer(params, stage[WEIGHT] + j0 * n), 1, n,
            i1 - i0, j1 - j0, n, out, False, pointer(work, scratch + GROUP), out, 0,
        )  # fmt: skip
    if s > 0:
        mask = work[scratch : scratch + GROUP]
        _finish_backward(c, work, stages[s - 1], doubles_at(c, SCALES)[s - 1], i0, i1, j0, j1, mask)


@block
def _rows_task(c, params, t, seat):
    """Carry some rows of the batch through all stages, to the loss, and back."""
    stages = integer_rows_at(c, STAGES)
    i0, i1, first, last = _rows_of_task(c[ROWS], _parts_of_rows(c), t)
    _fetch(c, params, i0, i1)
    for s in range(stages.shape[0]):
        _forward_block(c, params, s, i0, i1, 0, stages[s, N_OUT], seat)
    if c[MODE] == FORWARD:
        return
    for index in range(first, last):
        _loss_block(c, params, index, seat)
    if c[MODE] == EVALUATE:
        return
    for s in range(stages.shape[0] - 1, -1 if c[WANT_DX] != 0 else 0, -1):
        _backward_block(c, params, s, i0, i1, 0, stages[s, N_IN], seat)
    if _by_chunks(c):
        work, into = floats_at(c, WORK, params), c[PARTS] + t * params.size
        for s in range(stages.shape[0]):
            if stages[s, KIND] == DENSE:
                k, n, bias = stages[s, N_IN], stages[s, N_OUT], stages[s, BIAS]
                _gradient(
                    c, params, s, 0, k, 0, n, i0, i1, work, into + stages[s, WEIGHT], n,
                    into + bias if bias >= 0 else -1, False, seat,
                )  # fmt: skip


@block
def _stage_task(c, params, op, t, s, seat):
    """Do one block of a stage's outputs, or of the gradient that goes back through it."""
    stage, nr = integer_rows_at(c, STAGES)[s], tile_columns(params)
    rows, k, n = c[ROWS], stage[N_IN], stage[N_OUT]
    columns, inner = (n, k) if op == OP_FORWARD else (k, n)
    if stage[KIND] == DENSE:
        row_blocks, column_blocks = task_grid(rows, columns, inner, c[THREADS], TASK_FLOPS)
        i0, i1 = split(rows, row_blocks, t // column_blocks, MR)
        j0, j1 = split(columns, column_blocks, t % column_blocks, nr)
    else:
        i0, i1 = split(rows, _row_tasks(rows, columns), t, 1)
        j0, j1 = 0, columns
    if op == OP_FORWARD:
        _forward_block(c, params, s, i0, i1, j0, j1, seat)
    else:
        _backward_block(c, params, s, i0, i1, j0, j1, seat)


@inlined
def _updates_at_once(c):
    """Return whether a weight is updated as soon as its gradient is there: not where the norm of all is clipped."""
    return c[MODE] == TRAIN and doubles_at(c, FLOATS)[CLIP_NORM] == np.inf


@block
def _gradient(c, params, s, i0, i1, j0, j1, b0, b1, out, d, ld, d_bias, asks, seat):
    """Write rows [i0, i1), columns [j0, j1) of dW of a stage over rows [b0, b1) of the batch to `out` from `d` on.

    `ld` numbers lie between the beginnings of two rows. The sums of dZ, for the bias, go to `d_bias` on, unless that is
    -1. Where it `asks`, it asks for the weights in passing, which are about to be updated, unless they go past the
    caches: other threads have read them, and to write such a line takes a round trip between the cores.
    """
    work, stage = floats_at(c, WORK, params), integer_rows_at(c, STAGES)[s]
    k, n, scratch = stage[N_IN], stage[N_OUT], c[SCRATCH] + seat * c[SCRATCH_EACH] + GROUP
    soon, ld_soon = pointer(params, stage[WEIGHT] + i0 * n + j0), n if asks and c[PAST_CACHES] == 0 else 0
    to, delta = pointer(out, d), stage[DELTA] + b0 * n
    call_gemm(
        c[GEMM], to, ld, pointer(work, stage[IN] + b0 * k + i0), 1, k, pointer(work, delta + j0), n, 1,
        i1 - i0, j1 - j0, b1 - b0, to, False, pointer(work, scratch), soon, ld_soon,
    )  # fmt: skip
    if d_bias >= 0:
        column_sums(c[GEMM], out, d_bias - j0, work, delta, n, b1 - b0, j0, j1, work, scratch)


@block
def _weight_task(c, params, t, seat):
    """One block of dW = in^T dZ and the part of db above it; and their update, while they are in the cache."""
    work, task = floats_at(c, WORK, params), integer_rows_at(c, WEIGHT_TASKS)[t]
    number, i0, i1, j0, j1 = task[STAGE_OF], task[ROW_0], task[ROW_1], task[COLUMN_0], task[COLUMN_1]
    stage = integer_rows_at(c, STAGES)[number]
    rows, n, width = c[ROWS], stage[N_OUT], j1 - j0
    room = c[SCRATCH] + seat * c[SCRATCH_EACH] + c[GRADIENT_BLOCK]
    weight, bias = stage[WEIGHT] + i0 * n + j0, stage[BIAS] + j0 if i0 == 0 and stage[BIAS] >= 0 else -1
    grads, d, d_bias, ld = floats_at(c, GRADS, params), weight, bias, n
    if _updates_at_once(c):
        grads, d, ld = work, room, width
        d_bias = d + (i1 - i0) * width if bias >= 0 else -1
    chunks = gradient_chunks(c[CHUNK_FROM], rows)
    b0, b1, _, _ = _rows_of_task(rows, chunks, 0)
    _gradient(c, params, number, i0, i1, j0, j1, b0, b1, grads, d, ld, d_bias, True, seat)
    more = room + (c[SCRATCH_EACH] - c[GRADIENT_BLOCK]) // 2
    more_bias = more + (i1 - i0) * width if bias >= 0 else -1
    for chunk in range(1, chunks):
        b0, b1, _, _ = _rows_of_task(rows, chunks, chunk)
        _gradient(c, params, number, i0, i1, j0, j1, b0, b1, work, more, width, more_bias, False, seat)
        for i in range(i1 - i0):
            add(grads[d + i * ld : d + i * ld + width], work[more + i * width : more + (i + 1) * width])
        if bias >= 0:
            add(grads[d_bias : d_bias + width], work[more_bias : more_bias + width])
    if not _updates_at_once(c):
        return
    if width == n:  # whole rows lie one behind the other
        _update_range(c, params, weight, (i1 - i0) * n, grads, d, task[WEIGHT_BLOCK])
    else:
        for i in range(i1 - i0):
            _update_range(c, params, weight + i * n, width, grads, d + i * width, task[WEIGHT_BLOCK])
    if bias >= 0:
        _update_range(c, params, bias, width, grads, d_bias, task[BIAS_BLOCK])


_aside = make_stack(ASIDE)


@block
def _update_range(c, params, start, size, grads, d, u):
    """Update `size` parameters from `start`, whose gradients lie from `d` on, with the numbers of block `u`."""
    if c[PAST_CACHES] == 0:
        _update(c, params[start : start + size], params, start, grads, d, u)
        return
    aside = _aside(params)
    for at in range(0, size, ASIDE):
        w = params[start + at : start + min(size, at + ASIDE)]
        copy(aside[: w.size], w)
        _update(c, aside[: w.size], params, start + at, grads, d + at, u)
        copy_past_caches(w, aside)


@block
def _update(c, w, params, start, grads, d, u):
    """Update `w`, the parameters from `start` on or a copy of them."""
    hyper, numbers, floats = doubles_at(c, HYPER), double_rows_at(c, BLOCK_FLOATS)[u], doubles_at(c, FLOATS)
    state, s0, s1, s2 = floats_at(c, STATE, params), c[STATE_0], c[STATE_1], c[STATE_2]
    share, stop = floats[PENALTY_SCALE], start + w.size
    call_update(
        c[UPDATE],
        w,
        state[s0 + start : s0 + stop] if s0 >= 0 else state[0:0],
        state[s1 + start : s1 + stop] if s1 >= 0 else state[0:0],
        state[s2 + start : s2 + stop] if s2 >= 0 else state[0:0],
        grads[d : d + w.size], hyper, share * numbers[0], share * numbers[1], numbers[2], floats[GRADIENT_SCALE],
    )  # fmt: skip
    if numbers[3] > 0.0:
        soft_threshold_block(w, share * numbers[3] * hyper[_LR])


@block
def _add_chunks(c, params, grads, low, high):
    """Write the gradients of parameters [low, high): the sums of all chunks of rows, added in order."""
    work, total = floats_at(c, WORK, params), grads[low:high]
    copy(total, work[c[PARTS] + low : c[PARTS] + high])
    for chunk in range(1, gradient_chunks(c[CHUNK_FROM], c[ROWS])):
        at = c[PARTS] + chunk * params.size
        add(total, work[at + low : at + high])


@block
def _parameter_task(c, params, t, op):
    """Penalty and squared gradient norm, into partial[t], sum of chunks or update of some blocks of parameters."""
    blocks, numbers, partial = integer_rows_at(c, BLOCKS), double_rows_at(c, BLOCK_FLOATS), double_rows_at(c, PARTIAL)
    tasks, grads, hyper = integers_at(c, BLOCK_TASKS), floats_at(c, GRADS, params), doubles_at(c, HYPER)
    share = doubles_at(c, FLOATS)[PENALTY_SCALE]
    total = 0.0
    for u in range(tasks[t], tasks[t + 1]):
        low, high = blocks[u, 0], blocks[u, 1]
        l1, l2, truncate = share * numbers[u, 0], share * numbers[u, 1], share * numbers[u, 3]
        if op == OP_UPDATE:
            _update_range(c, params, low, high - low, grads, low, u)
        elif op == OP_CHUNKS:
            _add_chunks(c, params, grads, low, high)
            if _updates_at_once(c):
                _update_range(c, params, low, high - low, grads, low, u)
        elif op == OP_NORM:
            total += squared_norm_block(grads[low:high], params[low:high], l1, l2, hyper[_CLIP])
        elif l1 > 0.0 or l2 > 0.0 or truncate > 0.0:
            total += penalty_block(params[low:high], l1 + truncate, l2)
    partial[t, 0], partial[t, 1] = total, 0.0


@block
def run_task(c, params, op, t, s, seat):
    """Do task `t` of operation `op` (on stage `s`) for the batch at hand, with the scratch of one seat of the team."""
    if op == OP_ROWS:
        _rows_task(c, params, t, seat)
    elif op == OP_GATHER:
        first, last = split(c[ROWS], _row_tasks(c[ROWS], integer_rows_at(c, STAGES)[0, N_IN]), t, 1)
        _fetch(c, params, first, last)
    elif op == OP_FORWARD or op == OP_BACKWARD:
        _stage_task(c, params, op, t, s, seat)
    elif op == OP_LOSS:
        _loss_block(c, params, t, seat)
    elif op == OP_WEIGHTS:
        _weight_task(c, params, t, seat)
    else:
        _parameter_task(c, params, t, op)
    if c[PAST_CACHES] != 0:
        finish_writes()


TASK = Task(run_task, "i[:] e[:] i i i i")
_call_task = TASK.call


# A step: its operations in order.


@block
def _work(c, params, team, seat):
    """Do tasks of the open operation until none is left; return how many."""
    count = 0
    task = claim(team, seat, c[MEMBERS])
    while task >= 0:
        _call_task(c[RUN_TASK], c, params, team[OPERATION], task, team[STAGE], seat)
        fetch_add(team, DONE, 1)
        count += 1
        task = claim(team, seat, c[MEMBERS])
    return count


@block
def _run(c, params, op, n_tasks, s):
    """Run the tasks of one operation, by the team where there are several of both."""
    if n_tasks == 1 or c[MEMBERS] == 1:
        for t in range(n_tasks):
            _call_task(c[RUN_TASK], c, params, op, t, s, 0)
        return
    team = integers_at(c, TEAM)
    publish(team, op, s, n_tasks, c[MEMBERS])
    _work(c, params, team, 0)
    turn = 0
    while load(team, DONE) < n_tasks:
        wait(team, turn)
        turn += 1


@block
def _sum_partial(c, n):
    """Add up what the tasks left, in their order."""
    partial = double_rows_at(c, PARTIAL)
    first, second = 0.0, 0.0
    for t in range(n):
        first += partial[t, 0]
        second += partial[t, 1]
    return first, second


@block
def _total_weight(c):
    """Return the sum of the weights of the batch."""
    weights, order = doubles_at(c, WEIGHTS), integers_at(c, ORDER)
    if weights.size == 0:
        return float(c[ROWS])
    total = 0.0
    for b in range(c[ROWS]):
        total += weights[order[c[ROW] + b] if order.size else c[ROW] + b]
    return total


@block
def _carry_rows(c, params, learning):
    """Gather the batch, carry it through all stages to the loss, and the gradient back."""
    stages = integer_rows_at(c, STAGES)
    if c[ROW_TASKS] > 0:
        _run(c, params, OP_ROWS, _parts_of_rows(c), 0)
        return
    _run(c, params, OP_GATHER, _row_tasks(c[ROWS], stages[0, N_IN]), 0)
    for s in range(stages.shape[0]):
        _run(c, params, OP_FORWARD, _forward_tasks(stages[s], c[ROWS], c[THREADS]), s)
    if c[MODE] != FORWARD:
        _run(c, params, OP_LOSS, loss_blocks(c[ROWS]), 0)
    if learning:
        for s in range(stages.shape[0] - 1, -1 if c[WANT_DX] != 0 else 0, -1):
            _run(c, params, OP_BACKWARD, _backward_tasks(stages[s], c[ROWS], c[THREADS]), s)


@block
def _learn(c, params, rate, report):
    """Gradients of all weights and, in training, penalty, global norm and optimizer step."""
    numbers, floats, hyper = double_rows_at(c, BLOCK_FLOATS), doubles_at(c, FLOATS), doubles_at(c, HYPER)
    n_tasks, weight_tasks = integers_at(c, BLOCK_TASKS).size - 1, integer_rows_at(c, WEIGHT_TASKS).shape[0]
    how, tasks = (OP_CHUNKS, n_tasks) if _by_chunks(c) else (OP_WEIGHTS, weight_tasks)
    if c[MODE] == GRADIENT:
        _run(c, params, how, tasks, 0)
        return
    floats[PENALTY_SCALE] = 1.0
    if floats[PER_WEIGHT] != 0.0:
        floats[PENALTY_SCALE] = 1.0 / floats[TOTAL_WEIGHT] if floats[TOTAL_WEIGHT] > 0.0 else 0.0
    penalised = False
    for u in range(numbers.shape[0]):
        penalised = penalised or numbers[u, 0] > 0.0 or numbers[u, 1] > 0.0 or numbers[u, 3] > 0.0
    if penalised:
        _run(c, params, OP_PENALTY, n_tasks, 0)
        report[REPORT_PENALTY] = _sum_partial(c, n_tasks)[0]
    floats[GRADIENT_SCALE] = 1.0
    hyper[_LR] = rate
    hyper[_CORRECTION1] = 1.0 - hyper[_BETA1] ** (c[STEP] + 1)
    hyper[_CORRECTION2] = math.sqrt(1.0 - hyper[_BETA2] ** (c[STEP] + 1))
    hyper[_FIRST] = 1.0 if c[STEP] == 0 else 0.0
    _run(c, params, how, tasks, 0)
    if _updates_at_once(c):
        return
    _run(c, params, OP_NORM, n_tasks, 0)
    norm = math.sqrt(_sum_partial(c, n_tasks)[0])
    report[REPORT_NORM] = norm
    if norm > floats[CLIP_NORM]:
        floats[GRADIENT_SCALE] = floats[CLIP_NORM] / norm
    _run(c, params, OP_UPDATE, n_tasks, 0)


@block
def _write_result(c, params, i):
    """Copy the outputs (as probabilities where softmax or sigmoid is folded), or the gradient of the inputs."""
    result, work, stages = float_rows_at(c, RESULT, params), floats_at(c, WORK, params), integer_rows_at(c, STAGES)
    last = stages[stages.shape[0] - 1]
    n = stages[0, N_IN] if c[WANT_DX] != 0 else last[N_OUT]
    base = c[DX] if c[WANT_DX] != 0 else last[OUT]
    for b in range(c[ROWS]):
        row = result[i * c[BATCH] + b]
        copy(row, work[base + b * n : base + (b + 1) * n])
        if c[WANT_DX] != 0:
            continue
        if c[OUTPUT] == SOFTMAX_FOLDED or (c[OUTPUT] == SOFTMAX and c[MODE] == FORWARD):
            call_softmax(c[SOFTMAX_ROWS], row, n)
        elif c[OUTPUT] == SIGMOID_FOLDED:
            call_activate(c[ACTIVATE], _SIGMOID, row)


@inlined
def _choose_way(c):
    """Before a step, say which way updated weights take: into this core's caches as usual, or past them to memory.

    All threads read all weights, and each updates a part. To write a line that another core has read, this one has to
    take it away first, which costs a round trip: between chiplets of a Zen 4 38 ns a line with a dozen under way, 9 ns
    within one. Past the caches it is 2.5 ns, but then all threads read the line from memory: with 1.4 MB of weights
    13% slower within a chiplet, 17% faster between two. So both are tried, TRIAL steps of each of which the first does
    not count, and again after TRIAL_EVERY steps, since threads wander. The numbers are the same in either way.
    """
    tried = c[TRIED] - FIRST_TRIAL
    if tried == 0:
        c[PAST_CACHES], c[USUAL_TIME], c[PAST_TIME] = 0, _LONG, _LONG
    elif tried == TRIAL:
        c[PAST_CACHES] = 1
    elif tried == 2 * TRIAL:
        c[PAST_CACHES] = 1 if c[PAST_TIME] < c[USUAL_TIME] else 0


@inlined
def _count_step(c, nanoseconds):
    """After a step of a whole batch, count it; where ways are tried, the fastest step of each is what it takes."""
    tried = c[TRIED] - FIRST_TRIAL
    if 0 <= tried < 2 * TRIAL and tried % TRIAL != 0:
        way = USUAL_TIME + c[PAST_CACHES]
        c[way] = min(c[way], nanoseconds)
    c[TRIED] = c[TRIED] + 1 if tried < TRIAL_EVERY else FIRST_TRIAL


@block
def _run_steps(c, params):
    """Run c[N_STEPS] steps over consecutive batches of c[N_ROWS] rows, then of as many more, or of the same again.

    Those of another pass are the next ones in ORDER, or where there is none the same ones. Training stops at a step
    whose loss is not finite.
    """
    report, rates = double_rows_at(c, REPORT), doubles_at(c, RATES)
    learning = c[MODE] == TRAIN or c[MODE] == GRADIENT
    begin, row = c[FIRST_ROW], 0
    several = c[MODE] == TRAIN and c[MEMBERS] > 1
    for i in range(c[N_STEPS]):
        if row >= c[N_ROWS]:
            row = 0
            if integers_at(c, ORDER).size:
                begin += c[N_ROWS]
        c[STEP] = c[FIRST_STEP] + i
        c[ROW] = begin + row
        c[ROWS] = min(c[BATCH], c[N_ROWS] - row)
        row += c[BATCH]
        counts = several and i > 0 and c[ROWS] == c[BATCH]  # in the first step of a call helpers are still coming
        began = 0
        if counts:
            _choose_way(c)
            began = now(integers_at(c, TEAM))
        total = doubles_at(c, FLOATS)[TOTAL_WEIGHT] = _total_weight(c)
        _carry_rows(c, params, learning)
        if c[MODE] != FORWARD:
            report[i, REPORT_LOSS], report[i, REPORT_CORRECT] = _sum_partial(c, loss_blocks(c[ROWS]))
            report[i, REPORT_WEIGHT] = total
        if learning:
            if c[MODE] == TRAIN and not math.isfinite(report[i, REPORT_LOSS]):
                return
            _learn(c, params, rates[i] if rates.size else 0.0, report[i])
        if counts:
            _count_step(c, now(integers_at(c, TEAM)) - began)
        if c[WANT_OUT] != 0 or c[WANT_DX] != 0:
            _write_result(c, params, i)
        report[i, REPORT_ROWS] = c[ROWS]


LEADS = -1


@block
def member(c, of_type, task, _):
    """Be one of the team: the leader (task `LEADS`) runs the steps, the others do tasks of its operations till then.

    For a helper (see `_pool.py`) that is one task of a job; its seat is the next one free in this team.
    """
    params, team = floats_at(c, PARAMS, of_type), integers_at(c, TEAM)
    floats_before = flush_subnormals()
    if task == LEADS:
        _run_steps(c, params)
        store(team, FINISHED, 1)
    else:
        seat = fetch_add(team, SEATS, 1)
        turn = 0
        while load(team, FINISHED) == 0:
            rest(team, turn)
            turn = 0 if _work(c, params, team, seat) > 0 else turn + 1
    restore_floats(floats_before)


MEMBER = Task(member, KINDS)
_call_member = MEMBER.call


@entry
def _execute_alone(c, params):
    _call_member(c[RUN_MEMBER], c, params, LEADS, 0)


@entry
def _execute_together(team, job, members, of_any_type, c):
    words = integers_at(c, TEAM)
    words[SEATS] = 1
    store(words, FINISHED, 0)
    begin(team, job, members, c[RUN_MEMBER], c, members - 1)
    _call_member(c[RUN_MEMBER], c, of_any_type, LEADS, 0)
    finish(team, job, of_any_type, members - 1)


@entry
def forward_rows(c, x, out):
    """Write the outputs for the few rows of x, on this thread, and return True; False where x is not finite.

    Parameters
    ----------
    c : array of int64 (N_CONTEXT,), in and out
        A context of mode FORWARD with one member and one step, kept from call to call: only rows change in it.
    x : array (rows, inputs), in
    out : array (rows, outputs), out
        Made by Python: to return one costs 0.3 us more.
    """
    total = x.dtype.type(0)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            total += x[i, j] * x.dtype.type(0)  # 0 where x is finite, else NaN
    if total != 0:
        return False
    c[N_ROWS] = x.shape[0]
    c[X], c[X + 1] = x.ctypes.data, x.shape[0]
    c[RESULT], c[RESULT + 1] = out.ctypes.data, x.shape[0]
    _call_member(c[RUN_MEMBER], c, floats_at(c, PARAMS, x), LEADS, 0)
    return True


ENTRIES = (_execute_alone, _execute_together)


@functools.cache
def compile_entries(dtype: np.dtype) -> None:
    """Compile or load what `execute` calls for floats of `dtype`; a network of another size compiles nothing."""
    words, element = types.Array(types.int64, 1, "C"), numba.from_dtype(dtype)
    _execute_alone.compile((words, types.Array(element, 1, "C")))
    _execute_together.compile((words, words, types.int64, numba.typeof(LIKE), words))
    compile_attend()


@functools.cache
def compile_forward_rows(dtype: np.dtype) -> None:
    """Compile or load `forward_rows` for floats of `dtype`."""
    rows = types.Array(numba.from_dtype(dtype), 2, "C")
    forward_rows.compile((types.Array(types.int64, 1, "C"), rows, rows))


def execute(c: np.ndarray, params: np.ndarray) -> None:
    """Run what a context asks for, on c[MEMBERS] threads at most: those that come in time.

    Parameters
    ----------
    c : array of int64 (N_CONTEXT,), in and out
        What to do and on what, as named at the top of this file.
    params : array (P,), in and out
        All parameters of the network.
    """
    compile_entries(params.dtype)
    wanted = int(c[MEMBERS])
    if wanted == 1:
        _execute_alone(c, params)
        return
    with pool().helping(wanted) as (_, team, job, members, of_any_type):
        if members == 1:
            _execute_alone(c, params)
        else:
            _execute_together(team, job, members, of_any_type, c)


TASKS = {
    MEMBER: 4.0, TASK: 4.5, gemm.GEMM: 4.5, activation.ACTIVATE: 1.0, activation.MULTIPLY_SLOPE: 1.0,
    dropout.MULTIPLY_MASK: 0.5, loss.CLASS_LOSS: 2.5, loss.VALUE_LOSS: 1.5, activation.SOFTMAX: 1.0,
    **dict.fromkeys(update.UPDATES.values(), 0.6),
}  # fmt: skip
"""Every task that a context may have the address of -> seconds that it takes to compile on a core of a Zen 3."""

ENTRY_SECONDS = 2.0
"""How long all entries take, and what else this process has to compile and load at its first call."""


@functools.cache
def addresses(dtype: np.dtype, output: int, loss_code: int | None, optimizer: int | None) -> tuple[int, ...]:
    """Return what stands at RUN_MEMBER .. SOFTMAX_ROWS: where the compiled blocks of one float type lie.

    What this kind of output has no use for, or a loss or an optimizer of None, is not compiled: its address is 0.
    """
    softmax = activation.SOFTMAX if output in (SOFTMAX, SOFTMAX_FOLDED) else None
    loss_rows = None if loss_code is None else loss.loss_task(loss_code)
    rule = None if optimizer is None else update.UPDATES[optimizer]
    wanted = (
        MEMBER, TASK, gemm.GEMM, activation.ACTIVATE, activation.MULTIPLY_SLOPE, dropout.MULTIPLY_MASK, loss_rows, rule,
        softmax,
    )  # fmt: skip
    compile_all(dtype, [task for task in wanted if task is not None], announce)
    return tuple(0 if task is None else task.address(dtype) for task in wanted)


def compile_all(dtype: np.dtype, tasks: Collection[Task], say: Callable[[float], None]) -> None:
    """Compile or load some of TASKS for one float type, on several processes where much is missing."""
    compile_tasks(__name__, TASKS, tasks, dtype, lambda: compile_entries(dtype), ENTRY_SECONDS, say)
    for task in tasks:  # what another process could not do, and what it did
        task.address(dtype)
