"""The optimizer's step on a network's parameters, with their penalties and the clipping of the global norm.

A thread does four neighbours in registers: all that it reads is on its way before it works out the first.
"""

from __future__ import annotations

import math

import numba

from fastnn.cuda._formulas import like
from fastnn.cuda._numba import cuda, device_function
from fastnn.cuda.net import BLOCK_SUMS, N_BLOCKS, N_TILES, NORM_SUMS, OPTIMIZER, PENALISED
from fastnn.cuda.reduction import block_total, sum_of
from fastnn.cuda.tile import THREADS
from fastnn.cuda.update import penalty_block, squared_norm_block, update_block
from fastnn.cuda.vector import load4, store4
from fastnn.kernels.epoch import (
    CLIP_NORM,
    MODE,
    PER_WEIGHT,
    REPORT_NORM,
    REPORT_PENALTY,
    STATE_0,
    STATE_1,
    STATE_2,
    TRAIN,
)
from fastnn.kernels.update import CLIP_VALUE, CORRECTION1, CORRECTION2, FIRST, LR, N_HYPER


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
def clip_scale(net, i):
    """Return what the gradient is multiplied by, from the sums of norms where the global norm is clipped."""
    if not net.floats[CLIP_NORM] < math.inf:
        return 1.0
    norm = math.sqrt(sum_of(net.sums, net.numbers[NORM_SUMS], net.numbers[N_BLOCKS], 1, net.lanes))
    if cuda.blockIdx.x == 0 and cuda.threadIdx.x == 0:
        net.report[i, REPORT_NORM] = norm
    return net.floats[CLIP_NORM] / norm if norm > net.floats[CLIP_NORM] else 1.0


@device_function
def step_numbers(net, i, step, hyper):
    """Write the optimizer's numbers for the step number `step`, the launch's i-th, into a thread's own array."""
    for x in range(N_HYPER):
        hyper[x] = net.hyper[x]
    hyper[LR], hyper[CORRECTION1], hyper[CORRECTION2] = net.rates[i, 0], net.rates[i, 1], net.rates[i, 2]
    hyper[FIRST] = 1.0 if step == 0 else 0.0


@device_function
def fetch_four(own, values, first, high):
    """Copy four numbers into a thread's own array, 0 where there are fewer."""
    if first & 3 == 0 and first + 4 <= high:
        own[0], own[1], own[2], own[3] = load4(values, first)
    else:
        for x in range(4):
            own[x] = values[first + x] if first + x < high else like(0.0, values[first])


@device_function
def put_four(values, own, first, high):
    """Copy them back."""
    if first & 3 == 0 and first + 4 <= high:
        store4(values, first, (own[0], own[1], own[2], own[3]))
    else:
        for x in range(4):
            if first + x < high:
                values[first + x] = own[x]


@device_function
def update_four(net, hyper, u, share, scale, d, first, high):
    """Do the step on parameters first..first + 4, less from `high` on, whose gradient is d; returns their penalty.

    `u` is the block of parameters whose penalties and decay are theirs.
    """
    s0, s1, s2 = net.numbers[STATE_0], net.numbers[STATE_1], net.numbers[STATE_2]
    w = cuda.local.array(4, net.params.dtype)
    own0 = cuda.local.array(4, net.params.dtype)
    own1 = cuda.local.array(4, net.params.dtype)
    own2 = cuda.local.array(4, net.params.dtype)
    fetch_four(w, net.params, first, high)
    if s0 >= 0:
        fetch_four(own0, net.state, s0 + first, s0 + high)
    if s1 >= 0:
        fetch_four(own1, net.state, s1 + first, s1 + high)
    if s2 >= 0:
        fetch_four(own2, net.state, s2 + first, s2 + high)
    l1, l2, truncate = share * net.block_floats[u, 0], share * net.block_floats[u, 1], share * net.block_floats[u, 3]
    penalty = penalty_block(w, l1 + truncate, l2) if net.numbers[PENALISED] != 0 else 0.0
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
    return penalty


@device_function
def put_penalty(net, place, penalty):
    """Add up the penalty that each thread has, into the sums of blocks."""
    if net.numbers[PENALISED] != 0:
        total = block_total(penalty, net.lanes)
        if cuda.threadIdx.x == 0:
            net.sums[net.numbers[BLOCK_SUMS] + place] = total


@device_function
def update_parameters(net, i, step, share, scale):
    """Do the step number `step`, the launch's i-th, on all parameters from their gradient in the card's memory."""
    hyper, d = cuda.local.array(N_HYPER, numba.float64), cuda.local.array(4, net.params.dtype)
    step_numbers(net, i, step, hyper)
    for u in range(cuda.blockIdx.x, net.numbers[N_BLOCKS], cuda.gridDim.x):
        first, high, penalty = net.blocks[u, 0] + 4 * cuda.threadIdx.x, net.blocks[u, 1], 0.0
        while first < high:
            fetch_four(d, net.grads, first, high)
            penalty += update_four(net, hyper, u, share, scale, d, first, high)
            first += 4 * THREADS
        put_penalty(net, u, penalty)


@device_function
def add_penalties(net, i, by_tiles):
    """Add up the penalties that the update left, of tiles or of blocks of parameters, into the report: one block."""
    if net.numbers[PENALISED] != 0 and net.numbers[MODE] == TRAIN and cuda.blockIdx.x == cuda.gridDim.x - 1:
        count = net.numbers[N_TILES] if by_tiles else net.numbers[N_BLOCKS]
        penalty = sum_of(net.sums, net.numbers[BLOCK_SUMS], count, 1, net.lanes)
        if cuda.threadIdx.x == 0:
            net.report[i, REPORT_PENALTY] = penalty
