"""Many steps in one compiled call: gather, forward, loss, backward, update, with nothing allocated in the loop.

The network is data: `stages` (one row of integers a stage, columns named below) says what to compute, so that
other layer sizes, depths and batch sizes compile nothing. Each operation of a step is cut into tasks by its
sizes alone, and the tasks run one after the other or over threads: the same bits either way. All activations,
gradients of activations and packing buffers live in one flat workspace, `work`; a stage's rows and columns
are found by offsets into it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import prange

from fastnn.kernels import formulas as f
from fastnn.kernels import loss as losses
from fastnn.kernels._blocks import copy
from fastnn.kernels._jit import Task, block, entry, entry_parallel
from fastnn.kernels._simd import tile_columns
from fastnn.kernels.activation import ACTIVATE as ACTIVATE_TASK
from fastnn.kernels.activation import CHUNK, call_activate, call_multiply_slope, softmax_row
from fastnn.kernels.activation import MULTIPLY_SLOPE as SLOPE_TASK
from fastnn.kernels.dense import column_sums
from fastnn.kernels.dropout import GROUP, call_multiply_mask
from fastnn.kernels.dropout import MULTIPLY_MASK as MASK_TASK
from fastnn.kernels.elementary import like
from fastnn.kernels.gemm import GEMM as GEMM_TASK
from fastnn.kernels.gemm import MR, call_gemm, split, task_grid
from fastnn.kernels.loss import LOSS_ROWS as LOSS_TASK
from fastnn.kernels.loss import call_loss_rows
from fastnn.kernels.update import (
    BETA1,
    BETA2,
    CLIP_VALUE,
    CORRECTION1,
    CORRECTION2,
    FIRST,
    LR,
    call_update,
    penalty_block,
    squared_norm_block,
)
from fastnn.kernels.update import UPDATE as UPDATE_TASK

# Columns of `stages`. A stage computes out = dropout(f(in W + b)), or out = dropout(f(in)) where it has no
# weights.
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
) = range(12)
N_STAGE = 12

DENSE, ELEMENTWISE = range(2)
KEEP_NONE, KEEP_Z, KEEP_A = range(3)

# What a call does.
TRAIN, GRADIENT, FORWARD, EVALUATE = range(4)

# Positions in the integers and in the floats of one call.
(
    MODE, FIRST_STEP, N_STEPS, FIRST_ROW, N_ROWS, BATCH, LOSS, SEED, OPTIMIZER, PARALLEL, DROPOUT,
    OUTPUT, X_OFFSET, DELTA_0, DELTA_1, SCRATCH, SCRATCH_EACH, WANT_DX, WANT_OUT, STATE_0, STATE_1, STATE_2,
    RUN_TASK, GEMM, ACTIVATE, SLOPE, MASK, LOSS_ROWS, UPDATE,  # addresses of the compiled blocks
) = range(29)  # fmt: skip
N_INTEGERS = 29
HUBER_DELTA, CLIP_NORM = range(2)
N_FLOATS = 2

# What is done to the outputs of the last stage.
LOGITS, SOFTMAX_FOLDED, SIGMOID_FOLDED, SOFTMAX = range(4)

# Columns of `report`, one row a step (or a block of rows, in evaluation).
REPORT_LOSS, REPORT_WEIGHT, REPORT_CORRECT, REPORT_PENALTY, REPORT_NORM, REPORT_ROWS = range(6)
N_REPORT = 6

# Operations that are cut into tasks.
OP_GATHER, OP_FORWARD, OP_LOSS, OP_BACKWARD, OP_PENALTY, OP_NORM, OP_UPDATE = range(7)

PARALLEL_ELEMENTS = 4 * CHUNK
"""Element-wise work below this many elements stays on one thread: about 10 us, ten times a fork."""


@block
def _drop(y, index, mask, stage, scale, step, integers):
    """Multiply the 1-D block `y`, which begins at logical index `index`, by the stage's dropout mask."""
    call_multiply_mask(
        integers[MASK],
        y,
        index,
        mask,
        stage[THRESHOLD],
        like(scale, y[0]),
        step,
        stage[LAYER],
        integers[SEED],
    )


@block
def _finish_forward(work, stage, scale, i0, i1, j0, j1, dropping, step, integers, mask):
    """Activation and dropout on rows i0..i1, columns j0..j1 of a stage, just after its sums were stored."""
    n = stage[N_OUT]
    code, keep, out, source = stage[ACTIVATION], stage[KEEP], stage[OUT], stage[SOURCE]
    if j0 == 0 and j1 == n:  # whole rows lie one behind the other
        j1 = (i1 - i0) * n
        i1 = i0 + 1
    for i in range(i0, i1):
        a = work[out + i * n + j0 : out + i * n + j1]
        if keep == KEEP_Z:
            copy(a, work[source + i * n + j0 : source + i * n + j1])
            call_activate(integers[ACTIVATE], code, a)
        elif keep == KEEP_A:
            kept = work[source + i * n + j0 : source + i * n + j1]
            call_activate(integers[ACTIVATE], code, kept)
            copy(a, kept)
        else:
            call_activate(integers[ACTIVATE], code, a)
        if dropping:
            _drop(a, i * n + j0, mask, stage, scale, step, integers)


@block
def _finish_backward(work, delta, stage, scale, i0, i1, j0, j1, dropping, step, integers, mask):
    """Turn the gradient with respect to a stage's output into that of its sums: mask, then slope."""
    n = stage[N_OUT]
    code, source = stage[ACTIVATION], stage[SOURCE]
    if j0 == 0 and j1 == n:
        j1 = (i1 - i0) * n
        i1 = i0 + 1
    for i in range(i0, i1):
        d = work[delta + i * n + j0 : delta + i * n + j1]
        if dropping:
            _drop(d, i * n + j0, mask, stage, scale, step, integers)
        call_multiply_slope(integers[SLOPE], code, d, work[source + i * n + j0 : source + i * n + j1])


@block
def _gather(work, integers, row, first, last, x, x_bytes, rescale, order):
    """Copy rows first..last of the batch that begins at `row` into the workspace, scaled where asked."""
    n = max(x.shape[1], x_bytes.shape[1])
    base = integers[X_OFFSET]
    for b in range(first, last):
        source = order[row + b] if order.size else row + b
        target = work[base + b * n : base + (b + 1) * n]
        if x_bytes.size:
            bytes_row = x_bytes[source]
            for j in range(n):
                target[j] = like(bytes_row[j], target[j])
        else:
            copy(target, x[source])
        if rescale.size:
            scale, offset = rescale[0], rescale[1]
            for j in range(n):
                target[j] = target[j] * scale[j] + offset[j]


@block
def _dense_forward_task(work, params, stage, scale, rows, t, dropping, step, integers):
    k, n = stage[N_IN], stage[N_OUT]
    nr = tile_columns(work)
    row_blocks, column_blocks = task_grid(rows, n, k)
    i0, i1 = split(rows, row_blocks, t % row_blocks, MR)
    j0, j1 = split(n, column_blocks, t // row_blocks, nr)
    if i1 <= i0 or j1 <= j0:
        return
    scratch = integers[SCRATCH] + t * integers[SCRATCH_EACH]
    sums = stage[SOURCE] if stage[KEEP] != KEEP_NONE else stage[OUT]
    call_gemm(
        integers[GEMM],
        work, sums + i0 * n + j0, n, work, stage[IN] + i0 * k, k, 1, params, stage[WEIGHT] + j0, n, 1,
        i1 - i0, j1 - j0, k, params, stage[BIAS] + j0, stage[BIAS] >= 0, work, scratch + GROUP,
    )  # fmt: skip
    _finish_forward(work, stage, scale, i0, i1, j0, j1, dropping, step, integers, work[scratch : scratch + GROUP])


@block
def _elementwise_forward_task(work, stage, scale, rows, t, dropping, step, integers):
    n = stage[N_OUT]
    i0, i1 = split(rows, _row_tasks(rows, n), t, 1)
    sums = stage[SOURCE] if stage[KEEP] != KEEP_NONE else stage[OUT]
    copy(work[sums + i0 * n : sums + i1 * n], work[stage[IN] + i0 * n : stage[IN] + i1 * n])
    scratch = integers[SCRATCH] + t * integers[SCRATCH_EACH]
    _finish_forward(work, stage, scale, i0, i1, 0, n, dropping, step, integers, work[scratch : scratch + GROUP])


@block
def _row_tasks(rows, n):
    """Return how many blocks of rows an element-wise operation on rows x n elements is cut into."""
    return min(16, rows, max(1, rows * n // CHUNK)) if rows * n >= PARALLEL_ELEMENTS else 1


@block
def _loss_task(c, stage, row, rows, t, total):
    """Loss of a block of rows:

    Partial[t] = [weighted loss, weighted correct], gradient into the first delta buffer.
    """
    work, integers = c.work, c.integers
    n, kind, output = stage[N_OUT], integers[LOSS], integers[OUTPUT]
    i0, i1 = split(rows, _row_tasks(rows, 8 * n), t, 1)
    factor = 1.0 / total if total > 0.0 else 0.0
    result = c.partial[t]
    loss, correct = 0.0, 0.0
    for i in range(i0, i1):
        source = c.order[row + i] if c.order.size else row + i
        y = work[stage[OUT] + i * n : stage[OUT] + (i + 1) * n]
        d = work[integers[DELTA_0] + i * n : integers[DELTA_0] + (i + 1) * n]
        if kind == losses.EXTERNAL:
            copy(d, c.targets[source])
            if output == SIGMOID_FOLDED:
                call_activate(integers[ACTIVATE], f.SIGMOID, y)
                call_multiply_slope(integers[SLOPE], f.SIGMOID, d, y)
            elif output != LOGITS:
                softmax_row(y)
                _softmax_slope(d, y)
            continue
        if output == SOFTMAX:
            softmax_row(y)
        label = c.labels[source : source + 1] if c.labels.size else c.labels
        target = c.targets[source] if c.targets.size else y
        weight = c.weights[source : source + 1] if c.weights.size else c.weights
        call_loss_rows(
            integers[LOSS_ROWS],
            result,
            kind,
            c.floats[HUBER_DELTA],
            d,
            y,
            label,
            target,
            weight,
            1,
            n,
            factor,
        )
        loss += result[0]
        correct += result[1]
        if output == SOFTMAX:
            _softmax_slope(d, y)
    result[0], result[1] = loss, correct


@block
def _softmax_slope(d, p):
    """Turn the gradient of softmax outputs p into that of the logits: d_j = p_j (d_j - sum_k d_k p_k)."""
    inner = like(0.0, p[0])
    for j in range(p.size):
        inner += d[j] * p[j]
    for j in range(p.size):
        d[j] = p[j] * (d[j] - inner)


@block
def _backward_tasks(stage, rows, want_dx):
    """Return (tasks for dW, tasks for dX) of a dense stage."""
    w_rows, w_columns = task_grid(stage[N_IN], stage[N_OUT], rows)
    x_rows, x_columns = task_grid(rows, stage[N_IN], stage[N_OUT])
    return w_rows * w_columns, (x_rows * x_columns if want_dx else 0)


@block
def _backward_task(work, params, grads, stages, scales, s, rows, t, delta, delta_in, dropping, step, integers):
    """One block of dW = in^T dZ (with db), or of dX = dZ W^T carried through the stage before."""
    stage = stages[s]
    k, n = stage[N_IN], stage[N_OUT]
    nr = tile_columns(work)
    w_rows, w_columns = task_grid(k, n, rows)
    scratch = integers[SCRATCH] + t * integers[SCRATCH_EACH]
    if t < w_rows * w_columns:
        i0, i1 = split(k, w_rows, t % w_rows, MR)
        j0, j1 = split(n, w_columns, t // w_rows, nr)
        if i1 > i0 and j1 > j0:
            call_gemm(
        integers[GEMM],
                grads, stage[WEIGHT] + i0 * n + j0, n, work, stage[IN] + i0, 1, k, work, delta + j0, n, 1,
                i1 - i0, j1 - j0, rows, params, 0, False, work, scratch + GROUP,
            )  # fmt: skip
        if t % w_rows == 0 and stage[BIAS] >= 0:
            column_sums(grads[stage[BIAS] : stage[BIAS] + n], work, delta, n, rows, j0, j1)
        return
    t -= w_rows * w_columns
    x_rows, x_columns = task_grid(rows, k, n)
    i0, i1 = split(rows, x_rows, t % x_rows, MR)
    j0, j1 = split(k, x_columns, t // x_rows, nr)
    if i1 <= i0 or j1 <= j0:
        return
    call_gemm(
        integers[GEMM],
        work, delta_in + i0 * k + j0, k, work, delta + i0 * n, n, 1, params, stage[WEIGHT] + j0 * n, 1, n,
        i1 - i0, j1 - j0, n, params, 0, False, work, scratch + GROUP,
    )  # fmt: skip
    if s > 0:
        before = stages[s - 1]
        mask = work[scratch : scratch + GROUP]
        drop = dropping and before[THRESHOLD] > 0
        _finish_backward(work, delta_in, before, scales[s - 1], i0, i1, j0, j1, drop, step, integers, mask)


class Call(NamedTuple):
    """Everything a call of `execute` works on; e is the model's float type.

    integers, floats : int64 (N_INTEGERS,), float64 (N_FLOATS,)
        What to do, on which rows, with which seed; positions are named above.
    stages, scales : int64 (S, N_STAGE), float64 (S,)
        The network, and each stage's 1 / (1 - dropout rate).
    blocks, block_floats : int64 (U, 2), float64 (U, 4)
        [start, stop) of each block of parameters, and its l1, l2, weight decay and truncating l1.
    params, grads, state, work : flat, e
        `state` holds up to three vectors like params, at integers[STATE_0..2] (-1: not kept).
    partial : float64 (tasks or U, 2)
        Sums of the tasks, added up in order.
    x, x_bytes : e or uint8 (rows, inputs)
        The samples; the one that is not used is (0, 0).
    rescale : e (2, inputs) or (0, 0)
        Scale and offset of each input.
    labels, targets, weights : int64 (rows,), e (rows, outputs), float64 (rows,)
        What is wanted, one of the first two empty; weights empty where all are 1.
    order : int64 (rows,) or (0,)
        The order of the rows; empty: as they stand.
    hyper : float64 (N_HYPER,)
        Of the optimizer; `execute` sets the entries that change from step to step.
    """

    integers: Any
    floats: Any
    stages: Any
    scales: Any
    blocks: Any
    block_floats: Any
    params: Any
    grads: Any
    state: Any
    work: Any
    partial: Any
    x: Any
    x_bytes: Any
    rescale: Any
    labels: Any
    targets: Any
    weights: Any
    order: Any
    hyper: Any


class Batch(NamedTuple):
    """One batch:

    Its step number, first row and rows; the sum of its weights; the gradient buffers; the clipping factor.
    """

    step: int
    row: int
    rows: int
    total: float
    delta: int
    delta_in: int
    scale: float


@block
def run_task(c, op, t, s, step, row, rows, total, delta, delta_in, scale):
    """Do task `t` of operation `op` on stage `s` of the batch that the other arguments describe (see `Batch`)."""
    integers, stages, scales, work = c.integers, c.stages, c.scales, c.work
    training = integers[DROPOUT] != 0
    if op == OP_GATHER:
        first, last = split(rows, _row_tasks(rows, max(c.x.shape[1], c.x_bytes.shape[1])), t, 1)
        _gather(work, integers, row, first, last, c.x, c.x_bytes, c.rescale, c.order)
    elif op == OP_FORWARD:
        dropping = training and stages[s, THRESHOLD] > 0
        if stages[s, KIND] == DENSE:
            _dense_forward_task(work, c.params, stages[s], scales[s], rows, t, dropping, step, integers)
        else:
            _elementwise_forward_task(work, stages[s], scales[s], rows, t, dropping, step, integers)
    elif op == OP_LOSS:
        end = stages.shape[0] - 1
        _loss_task(c, stages[end], row, rows, t, total)
        if integers[MODE] == TRAIN or integers[MODE] == GRADIENT:
            i0, i1 = split(rows, _row_tasks(rows, 8 * stages[end, N_OUT]), t, 1)
            _finish_backward_rows(
                work, integers[DELTA_0], stages[end], scales[end], i0, i1, t, training, step, integers
            )
    elif op == OP_BACKWARD:
        if stages[s, KIND] == DENSE:
            _backward_task(
                work, c.params, c.grads, stages, scales, s, rows, t, delta, delta_in, training, step, integers
            )
        elif s > 0:
            i0, i1 = split(rows, _row_tasks(rows, stages[s, N_IN]), t, 1)
            _finish_backward_rows(work, delta, stages[s - 1], scales[s - 1], i0, i1, t, training, step, integers)
    else:
        _parameter_task(c, op, t, scale)


@block
def _finish_backward_rows(work, delta, stage, scale, i0, i1, t, training, step, integers):
    """`_finish_backward` on whole rows."""
    scratch = integers[SCRATCH] + t * integers[SCRATCH_EACH]
    dropping = training and stage[THRESHOLD] > 0
    mask = work[scratch : scratch + GROUP]
    _finish_backward(work, delta, stage, scale, i0, i1, 0, stage[N_OUT], dropping, step, integers, mask)


@block
def _parameter_task(c, op, t, scale):
    """Penalty, squared gradient norm or update of one block of parameters."""
    low, high = c.blocks[t, 0], c.blocks[t, 1]
    w, d, hyper = c.params[low:high], c.grads[low:high], c.hyper
    l1, l2, decay, truncate = (
        c.block_floats[t, 0],
        c.block_floats[t, 1],
        c.block_floats[t, 2],
        c.block_floats[t, 3],
    )
    if op == OP_PENALTY:
        c.partial[t, 0] = 0.0
        if l1 > 0.0 or l2 > 0.0 or truncate > 0.0:
            c.partial[t, 0] = penalty_block(w, l1 + truncate, l2)
    elif op == OP_NORM:
        c.partial[t, 0] = squared_norm_block(d, w, l1, l2, hyper[CLIP_VALUE])
    else:
        s0, s1, s2 = c.integers[STATE_0], c.integers[STATE_1], c.integers[STATE_2]
        none = c.state[0:0]
        call_update(
            c.integers[UPDATE],
            c.integers[OPTIMIZER],
            w,
            c.state[s0 + low : s0 + high] if s0 >= 0 else none,
            c.state[s1 + low : s1 + high] if s1 >= 0 else none,
            c.state[s2 + low : s2 + high] if s2 >= 0 else none,
            d, hyper, l1, l2, decay, scale, truncate * hyper[LR],
        )  # fmt: skip


TASK = Task(
    run_task,
    "i i i i i i d i i d",
    record=Call,
    fields="i[:] d[:] i[:,:] d[:] i[:,:] d[:,:] e[:] e[:] e[:] e[:] d[:,:] e[:,:] u[:,:] e[:,:] "
    "i[:] e[:,:] d[:] i[:] d[:]",
)
_call_task = TASK.call


@entry_parallel
def _fork(
    n_tasks, op, s, step, row, rows, total, delta, delta_in, scale, integers, floats, stages, scales, blocks,
    block_floats, params, grads, state, work, partial, x, x_bytes, rescale, labels, targets, weights, order, hyper,
):  # fmt: skip
    """Run the tasks of one operation over the threads.

    (A parallel loop takes no tuples, so `Call` is taken apart here.)
    """
    for t in prange(n_tasks):
        call = Call(
            integers, floats, stages, scales, blocks, block_floats, params, grads, state, work, partial,
            x, x_bytes, rescale, labels, targets, weights, order, hyper,
        )  # fmt: skip
        _call_task(integers[RUN_TASK], call, op, t, s, step, row, rows, total, delta, delta_in, scale)


@block
def _run(c, n_tasks, op, s, b):
    """Run the tasks of one operation on batch `b`, over threads where that is allowed and there is more than one."""
    if n_tasks > 1 and c.integers[PARALLEL] != 0:
        _fork(
            n_tasks, op, s, b.step, b.row, b.rows, b.total, b.delta, b.delta_in, b.scale, c.integers, c.floats,
            c.stages, c.scales, c.blocks, c.block_floats, c.params, c.grads, c.state, c.work, c.partial, c.x, c.x_bytes,
            c.rescale, c.labels, c.targets, c.weights, c.order, c.hyper,
        )  # fmt: skip
    else:
        _run_serial(c, n_tasks, op, s, b)


@block
def _run_serial(c, n_tasks, op, s, b):
    for t in range(n_tasks):
        _call_task(c.integers[RUN_TASK], c, op, t, s, b.step, b.row, b.rows, b.total, b.delta, b.delta_in, b.scale)


@block
def _run_blocks(c, op, b):
    """Run an operation over the blocks of parameters; few parameters stay on one thread."""
    if c.params.size < PARALLEL_ELEMENTS:
        _run_serial(c, c.blocks.shape[0], op, 0, b)
    else:
        _run(c, c.blocks.shape[0], op, 0, b)


@block
def _forward(c, b):
    """Gather the batch and carry it through all stages."""
    _run(c, _row_tasks(b.rows, c.stages[0, N_IN]), OP_GATHER, 0, b)
    for s in range(c.stages.shape[0]):
        stage = c.stages[s]
        n_tasks = _row_tasks(b.rows, stage[N_OUT])
        if stage[KIND] == DENSE:
            row_blocks, column_blocks = task_grid(b.rows, stage[N_OUT], stage[N_IN])
            n_tasks = row_blocks * column_blocks
        _run(c, n_tasks, OP_FORWARD, s, b)


@block
def _loss(c, b, report):
    """Loss of the batch, into the step's `report`, and its gradient with respect to the last sums."""
    n_tasks = _row_tasks(b.rows, 8 * c.stages[c.stages.shape[0] - 1, N_OUT])
    _run(c, n_tasks, OP_LOSS, 0, b)
    loss, correct = 0.0, 0.0
    for t in range(n_tasks):
        loss += c.partial[t, 0]
        correct += c.partial[t, 1]
    report[REPORT_LOSS], report[REPORT_CORRECT], report[REPORT_WEIGHT] = loss, correct, b.total


@block
def _backward(c, b):
    """Carry the gradient through all stages, last to first; returns where the gradient of the input lies."""
    delta, delta_in = b.delta, b.delta_in
    for s in range(c.stages.shape[0] - 1, -1, -1):
        stage = c.stages[s]
        b = Batch(b.step, b.row, b.rows, b.total, delta, delta_in, b.scale)
        if stage[KIND] == DENSE:
            w_tasks, x_tasks = _backward_tasks(stage, b.rows, s > 0 or c.integers[WANT_DX] != 0)
            _run(c, w_tasks + x_tasks, OP_BACKWARD, s, b)
            delta, delta_in = delta_in, delta
        else:
            _run(c, _row_tasks(b.rows, stage[N_IN]), OP_BACKWARD, s, b)
    return delta


@block
def _sum_blocks(c):
    total = 0.0
    for u in range(c.blocks.shape[0]):
        total += c.partial[u, 0]
    return total


@block
def _update(c, b, rate, penalised, report):
    """Penalty, global norm and optimizer step."""
    hyper = c.hyper
    if penalised:
        _run_blocks(c, OP_PENALTY, b)
        report[REPORT_PENALTY] = _sum_blocks(c)
    if c.floats[CLIP_NORM] < np.inf:
        _run_blocks(c, OP_NORM, b)
        norm = math.sqrt(_sum_blocks(c))
        report[REPORT_NORM] = norm
        if norm > c.floats[CLIP_NORM]:
            b = Batch(b.step, b.row, b.rows, b.total, b.delta, b.delta_in, c.floats[CLIP_NORM] / norm)
    hyper[LR] = rate
    hyper[CORRECTION1] = 1.0 - hyper[BETA1] ** (b.step + 1)
    hyper[CORRECTION2] = math.sqrt(1.0 - hyper[BETA2] ** (b.step + 1))
    hyper[FIRST] = 1.0 if b.step == 0 else 0.0
    _run_blocks(c, OP_UPDATE, b)


@block
def _batch_weight(c, row, rows):
    """Return the sum of the weights of a batch, in order."""
    if c.weights.size == 0:
        return float(rows)
    total = 0.0
    for b in range(rows):
        total += c.weights[c.order[row + b] if c.order.size else row + b]
    return total


def addresses(dtype: np.dtype) -> list[int]:
    """Return what stands at integers[RUN_TASK ..]: where the compiled blocks of one float type lie."""
    return [
        task.address(dtype) for task in (TASK, GEMM_TASK, ACTIVATE_TASK, SLOPE_TASK, MASK_TASK, LOSS_TASK, UPDATE_TASK)
    ]


@entry
def execute(c, rates, report, out):
    """Run `c.integers[N_STEPS]` steps over consecutive batches of rows; stop at one whose loss is not finite.

    Parameters
    ----------
    c : Call
        What to do and on what.
    rates : array of float64 (steps,)
        Learning rate of each step.
    report : array of float64 (steps, N_REPORT), out
        What each step gave; zeros before. REPORT_ROWS stays 0 for steps not done.
    out : array (rows, outputs) or (rows, inputs), out
        The outputs where integers[WANT_OUT], or the gradient of the input where integers[WANT_DX].
    """
    integers = c.integers
    mode, batch, first_row = integers[MODE], integers[BATCH], integers[FIRST_ROW]
    last = c.stages[c.stages.shape[0] - 1]
    penalised = False
    for u in range(c.blocks.shape[0]):
        floats = c.block_floats[u]
        penalised = penalised or floats[0] > 0.0 or floats[1] > 0.0 or floats[3] > 0.0
    for i in range(integers[N_STEPS]):
        row = first_row + i * batch
        rows = min(batch, first_row + integers[N_ROWS] - row)
        total = _batch_weight(c, row, rows)
        b = Batch(integers[FIRST_STEP] + i, row, rows, total, integers[DELTA_0], integers[DELTA_1], 1.0)
        _forward(c, b)
        if mode != FORWARD:
            _loss(c, b, report[i])
        if integers[WANT_OUT] != 0:
            _write_outputs(out, c.work, integers, last[OUT], integers[OUTPUT], row - first_row, rows, last[N_OUT], mode)
        if mode == TRAIN or mode == GRADIENT:
            if not math.isfinite(report[i, REPORT_LOSS]):
                return
            input_gradient = _backward(c, b)
            if mode == TRAIN:
                _update(c, b, rates[i], penalised, report[i])
            elif integers[WANT_DX] != 0:
                n_in = c.stages[0, N_IN]
                for j in range(rows):
                    copy(out[j], c.work[input_gradient + j * n_in : input_gradient + (j + 1) * n_in])
        report[i, REPORT_ROWS] = rows


@block
def _write_outputs(out, work, integers, base, output, first, rows, n, mode):
    """Copy the last stage's rows to `out`, as probabilities where the network ends in softmax or sigmoid."""
    for b in range(rows):
        row = out[first + b]
        copy(row, work[base + b * n : base + (b + 1) * n])
        if output == SOFTMAX_FOLDED or (output == SOFTMAX and mode == FORWARD):
            softmax_row(row)
        elif output == SIGMOID_FOLDED:
            call_activate(integers[ACTIVATE], f.SIGMOID, row)
