"""Operations on weights: gradients, and the optimizer's step while these are in the cache; penalties and the norm."""

from __future__ import annotations

import numpy as np

from fastnn.kernels import update
from fastnn.kernels._blocks import add, copy, copy_past_caches, make_stack
from fastnn.kernels._context import double_rows_at, doubles_at, floats_at, integer_rows_at, integers_at
from fastnn.kernels._jit import block, inlined
from fastnn.kernels._simd import pointer
from fastnn.kernels._sparse import reads_sparse, sparse_gradient
from fastnn.kernels.dense import column_sums
from fastnn.kernels.dropout import GROUP
from fastnn.kernels.gemm import call_gemm
from fastnn.kernels.layout import (
    BIAS,
    BIAS_BLOCK,
    BLOCK_FLOATS,
    BLOCK_TASKS,
    BLOCKS,
    CHUNK_FROM,
    CLIP_NORM,
    COLUMN_0,
    COLUMN_1,
    DELTA,
    FLOATS,
    GEMM,
    GRADIENT_BLOCK,
    GRADIENT_SCALE,
    GRADS,
    HYPER,
    IN,
    MODE,
    N_IN,
    N_OUT,
    OP_CHUNKS,
    OP_NORM,
    OP_UPDATE,
    PARTIAL,
    PARTS,
    PAST_CACHES,
    PENALTY_SCALE,
    PIECE_ROWS,
    ROW_0,
    ROW_1,
    ROWS,
    SCRATCH,
    SCRATCH_EACH,
    STAGE_OF,
    STAGES,
    STATE,
    STATE_0,
    STATE_1,
    STATE_2,
    TRAIN,
    UPDATE,
    WEIGHT,
    WEIGHT_BLOCK,
    WEIGHT_TASKS,
    WORK,
)
from fastnn.kernels.partition import (
    blocks_of_chunk,
    blocks_of_piece,
    gradient_chunks,
    pieces_of_chunk,
    rows_of_blocks,
)
from fastnn.kernels.update import call_update, penalty_block, soft_threshold_block, squared_norm_block

_LR, _CLIP = update.LR, update.CLIP_VALUE

ASIDE = 1024
"""Weights updated aside at a time where they go past the caches: they and what belongs to them fit the first one."""


@inlined
def updates_at_once(c):
    """Return whether a weight is updated as soon as its gradient is there: not where the norm of all is clipped."""
    return c[MODE] == TRAIN and doubles_at(c, FLOATS)[CLIP_NORM] == np.inf


@block
def gradient_block(c, params, s, i0, i1, j0, j1, b0, b1, base, out, d, ld, d_bias, goes_on, asks, seat):
    """Write rows [i0, i1), columns [j0, j1) of dW of a stage over rows [b0, b1) to `out` from `d` on.

    Rows are those of the workspace, of which the first is row `base` of the batch. `ld` numbers lie between the
    beginnings of two rows of dW. The sums of dZ, for the bias, go to `d_bias` on, unless that is -1. Where it
    `goes_on`, all is added to what is there. Where it `asks`, it asks for the weights in passing, which are about to be
    updated, unless they go past the caches: other threads have read them, and to write such a line takes a round trip
    between the cores.
    """
    work, stage = floats_at(c, WORK, params), integer_rows_at(c, STAGES)[s]
    k, n, scratch = stage[N_IN], stage[N_OUT], c[SCRATCH] + seat * c[SCRATCH_EACH] + GROUP
    soon, ld_soon = pointer(params, stage[WEIGHT] + i0 * n + j0), n if asks and c[PAST_CACHES] == 0 else 0
    to, delta = pointer(out, d), stage[DELTA] + b0 * n
    if reads_sparse(c, s):
        sparse_gradient(c, work, stage[DELTA], n, i0, i1, j0, j1, b0, b1, base, out, d, ld, goes_on)
    else:
        call_gemm(
            c[GEMM], to, ld, pointer(work, stage[IN] + b0 * k + i0), 1, k, pointer(work, delta + j0), n, 1,
            i1 - i0, j1 - j0, b1 - b0, to, ld if goes_on else -1, pointer(work, scratch), soon, ld_soon,
        )  # fmt: skip
    if d_bias >= 0:
        column_sums(out, d_bias - j0, work, delta, n, b1 - b0, j0, j1, goes_on)


@block
def weight_task(c, params, t, seat):
    """One block of dW = in^T dZ and the part of db above it; and their update, while they are in the cache."""
    work, task = floats_at(c, WORK, params), integer_rows_at(c, WEIGHT_TASKS)[t]
    number, i0, i1, j0, j1 = task[STAGE_OF], task[ROW_0], task[ROW_1], task[COLUMN_0], task[COLUMN_1]
    stage = integer_rows_at(c, STAGES)[number]
    rows, n, width = c[ROWS], stage[N_OUT], j1 - j0
    room = c[SCRATCH] + seat * c[SCRATCH_EACH] + c[GRADIENT_BLOCK]
    weight, bias = stage[WEIGHT] + i0 * n + j0, stage[BIAS] + j0 if i0 == 0 and stage[BIAS] >= 0 else -1
    grads, d, d_bias, ld = floats_at(c, GRADS, params), weight, bias, n
    if updates_at_once(c):
        grads, d, ld = work, room, width
        d_bias = d + (i1 - i0) * width if bias >= 0 else -1
    chunks = gradient_chunks(c[CHUNK_FROM], rows)
    pieces = pieces_of_chunk(c[PIECE_ROWS], rows, chunks)
    more = room + (c[SCRATCH_EACH] - c[GRADIENT_BLOCK]) // 2
    more_bias = more + (i1 - i0) * width if bias >= 0 else -1
    for chunk in range(chunks):
        first, last = blocks_of_chunk(rows, chunks, chunk)
        out, at, at_bias, across = (grads, d, d_bias, ld) if chunk == 0 else (work, more, more_bias, width)
        for piece in range(pieces):
            b0, b1 = rows_of_blocks(rows, *blocks_of_piece(first, last, pieces, piece))
            gradient_block(
                c, params, number, i0, i1, j0, j1, b0, b1, 0, out, at, across, at_bias, piece > 0, chunk == 0, seat
            )
        if chunk == 0:
            continue
        for i in range(i1 - i0):
            add(grads[d + i * ld : d + i * ld + width], work[more + i * width : more + (i + 1) * width])
        if bias >= 0:
            add(grads[d_bias : d_bias + width], work[more_bias : more_bias + width])
    if not updates_at_once(c):
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
def parameter_task(c, params, t, op):
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
            if updates_at_once(c):
                _update_range(c, params, low, high - low, grads, low, u)
        elif op == OP_NORM:
            total += squared_norm_block(grads[low:high], params[low:high], l1, l2, hyper[_CLIP])
        elif l1 > 0.0 or l2 > 0.0 or truncate > 0.0:
            total += penalty_block(params[low:high], l1 + truncate, l2)
    partial[t, 0], partial[t, 1] = total, 0.0
