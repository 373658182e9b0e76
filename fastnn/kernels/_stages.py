"""Operations on the stages of a network: forward, the loss, backward; each on a block of rows and columns.

Rows are counted as they lie in the workspace. The first one there is row `base` of the batch.
"""

from __future__ import annotations

from fastnn.kernels import formulas, loss
from fastnn.kernels._blocks import copy
from fastnn.kernels._context import double_rows_at, doubles_at, float_rows_at, floats_at, integer_rows_at, integers_at
from fastnn.kernels._jit import block
from fastnn.kernels._simd import pointer, tile_columns
from fastnn.kernels._sparse import reads_sparse, sparse_forward
from fastnn.kernels.activation import call_activate, call_multiply_slope, call_softmax
from fastnn.kernels.dropout import GROUP, call_multiply_mask
from fastnn.kernels.elementary import like
from fastnn.kernels.gemm import MR, TASK_FLOPS, call_gemm, split, task_grid
from fastnn.kernels.layout import (
    ACTIVATE,
    ACTIVATION,
    BATCH_LABELS,
    BATCH_WEIGHTS,
    BIAS,
    DELTA,
    DENSE,
    DROPOUT,
    DX,
    FLOATS,
    GEMM,
    GRADIENT,
    HUBER_DELTA,
    IN,
    KEEP,
    KEEP_A,
    KEEP_NONE,
    KEEP_Z,
    KIND,
    LABELS,
    LAYER,
    LOSS,
    LOSS_ROWS,
    LOSS_SCALE,
    MASK,
    MODE,
    N_IN,
    N_OUT,
    OP_FORWARD,
    OUT,
    OUTPUT,
    PARTIAL,
    ROWS,
    SCALES,
    SCRATCH,
    SCRATCH_EACH,
    SEED,
    SIGMOID_FOLDED,
    SLOPE,
    SOFTMAX,
    SOFTMAX_FOLDED,
    SOFTMAX_ROWS,
    SOON,
    SOON_COLUMNS,
    SOURCE,
    STAGES,
    STEP,
    T_OFFSET,
    TARGETS,
    THREADS,
    THRESHOLD,
    TOTAL_WEIGHT,
    TRAIN,
    WEIGHT,
    WEIGHTS,
    WORK,
)
from fastnn.kernels.loss import call_loss_rows
from fastnn.kernels.partition import loss_block, row_tasks

_RELU, _SIGMOID, _EXTERNAL = formulas.RELU, formulas.SIGMOID, loss.EXTERNAL


@block
def _drop(c, stage, scale, y, index, mask):
    """Multiply the 1-D block `y`, which begins at logical index `index`, by the stage's dropout mask."""
    call_multiply_mask(c[MASK], y, index, mask, stage[THRESHOLD], like(scale, y[0]), c[STEP], stage[LAYER], c[SEED])


@block
def _finish_forward(c, work, stage, scale, i0, i1, j0, j1, base, mask):
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
            _drop(c, stage, scale, a, (base + i) * n + j0, mask)


@block
def _finish_backward(c, work, stage, scale, i0, i1, j0, j1, base, mask):
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
                _drop(c, stage, scale, d, (base + i) * n + j0, mask)
        if stage[ACTIVATION] != formulas.IDENTITY:
            call_multiply_slope(c[SLOPE], stage[ACTIVATION], d, work[source + i * n + j0 : source + i * n + j1])


@block
def forward_block(c, params, s, i0, i1, j0, j1, base, seat):
    """Outputs of a stage: rows [i0, i1), columns [j0, j1), which are all of them for one without weights."""
    if i1 <= i0 or j1 <= j0:
        return
    work, stage, scale = floats_at(c, WORK, params), integer_rows_at(c, STAGES)[s], doubles_at(c, SCALES)[s]
    k, n = stage[N_IN], stage[N_OUT]
    scratch = c[SCRATCH] + seat * c[SCRATCH_EACH]
    sums = stage[SOURCE] if stage[KEEP] != KEEP_NONE else stage[OUT]
    if reads_sparse(c, s):
        sparse_forward(c, params, work, sums, n, stage[WEIGHT], stage[BIAS], i0, i1, j0, j1, base)
    elif stage[KIND] == DENSE:
        out, w, bias = pointer(work, sums + i0 * n + j0), stage[WEIGHT] + j0, stage[BIAS] + j0
        call_gemm(
            c[GEMM], out, n, pointer(work, stage[IN] + i0 * k), k, 1, pointer(params, w), n, 1, i1 - i0, j1 - j0, k,
            pointer(params, bias), 0 if stage[BIAS] >= 0 else -1, pointer(work, scratch + GROUP),
            pointer(params, stage[SOON]), stage[SOON_COLUMNS],
        )  # fmt: skip
    else:
        copy(work[sums + i0 * n : sums + i1 * n], work[stage[IN] + i0 * n : stage[IN] + i1 * n])
    _finish_forward(c, work, stage, scale, i0, i1, j0, j1, base, work[scratch : scratch + GROUP])


@block
def loss_of_block(c, params, t, base, seat):
    """Loss of a block of rows into partial[t], and the gradient of the last stage's sums where there is learning."""
    work, stages = floats_at(c, WORK, params), integer_rows_at(c, STAGES)
    labels, weights, targets = integers_at(c, LABELS), doubles_at(c, WEIGHTS), float_rows_at(c, TARGETS, params)
    floats, result = doubles_at(c, FLOATS), double_rows_at(c, PARTIAL)[t]
    end = stages.shape[0] - 1
    stage = stages[end]
    n, output = stage[N_OUT], c[OUTPUT]
    i0, i1 = loss_block(c[ROWS], t)
    i0, i1 = i0 - base, i1 - base
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
    _finish_backward(c, work, stage, doubles_at(c, SCALES)[end], i0, i1, 0, n, base, mask)


@block
def _softmax_slope(d, p):
    """Turn the gradient of softmax outputs p into that of the logits: d_j = p_j (d_j - sum_k d_k p_k)."""
    inner = like(0.0, p[0])
    for j in range(p.size):
        inner += d[j] * p[j]
    for j in range(p.size):
        d[j] = p[j] * (d[j] - inner)


@block
def backward_block(c, params, s, i0, i1, j0, j1, base, seat):
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
            i1 - i0, j1 - j0, n, out, -1, pointer(work, scratch + GROUP), out, 0,
        )  # fmt: skip
    if s > 0:
        mask = work[scratch : scratch + GROUP]
        _finish_backward(c, work, stages[s - 1], doubles_at(c, SCALES)[s - 1], i0, i1, j0, j1, base, mask)


@block
def stage_task(c, params, op, t, s, seat):
    """Do one block of a stage's outputs, or of the gradient that goes back through it."""
    stage, nr = integer_rows_at(c, STAGES)[s], tile_columns(params)
    rows, k, n = c[ROWS], stage[N_IN], stage[N_OUT]
    columns, inner = (n, k) if op == OP_FORWARD else (k, n)
    if stage[KIND] == DENSE:
        row_blocks, column_blocks = task_grid(rows, columns, inner, c[THREADS], TASK_FLOPS)
        i0, i1 = split(rows, row_blocks, t // column_blocks, MR)
        j0, j1 = split(columns, column_blocks, t % column_blocks, nr)
    else:
        i0, i1 = split(rows, row_tasks(rows, columns), t, 1)
        j0, j1 = 0, columns
    if op == OP_FORWARD:
        forward_block(c, params, s, i0, i1, j0, j1, 0, seat)
    else:
        backward_block(c, params, s, i0, i1, j0, j1, 0, seat)
