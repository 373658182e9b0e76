"""The optimizer's step on a network's parameters, with their penalties and the clipping of the global norm."""

from __future__ import annotations

import math

import numba

from fastnn.cuda._numba import cuda, device_function
from fastnn.cuda.net import BLOCK_SUMS, N_BLOCKS, N_TILES, NORM_SUMS, OPTIMIZER, PENALISED
from fastnn.cuda.reduction import block_total, sum_of
from fastnn.cuda.tile import THREADS
from fastnn.cuda.update import fetch_four, squared_norm_block, update_four
from fastnn.kernels.layout import (
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
def rates_of(net, i):
    """Return the learning rate and Adam's two corrections of the launch's i-th step; ask long before they are used."""
    row = i if net.numbers[MODE] == TRAIN else 0
    return net.rates[row, 0], net.rates[row, 1], net.rates[row, 2]


@device_function
def step_numbers(net, rates, step, hyper):
    """Write the optimizer's numbers for the step number `step` into a thread's own array."""
    for x in range(N_HYPER):
        hyper[x] = net.hyper[x]
    hyper[LR], hyper[CORRECTION1], hyper[CORRECTION2] = rates
    hyper[FIRST] = 1.0 if step == 0 else 0.0


@device_function
def step_four(net, hyper, u, share, scale, d, first, high):
    """Do the step on parameters first..first + 4, less from `high` on, whose gradient is d; returns their penalty.

    `u` is the block of parameters whose penalties and decay are theirs.
    """
    l1, l2, truncate = share * net.block_floats[u, 0], share * net.block_floats[u, 1], share * net.block_floats[u, 3]
    numbers, state = net.numbers, net.state
    return update_four(
        numbers[OPTIMIZER], net.params, state, numbers[STATE_0], state, numbers[STATE_1], state, numbers[STATE_2], d,
        hyper, l1, l2, net.block_floats[u, 2], scale, truncate * hyper[LR], first, high, True,
        numbers[PENALISED] != 0, l1 + truncate,
    )  # fmt: skip


@device_function
def put_penalty(net, place, penalty):
    """Add up the penalty that each thread has, into the sums of blocks."""
    if net.numbers[PENALISED] != 0:
        total = block_total(penalty, net.lanes)
        if cuda.threadIdx.x == 0:
            net.sums[net.numbers[BLOCK_SUMS] + place] = total


@device_function
def update_parameters(net, rates, step, share, scale):
    """Do the step number `step` on all parameters from their gradient in the card's memory."""
    hyper, d = cuda.local.array(N_HYPER, numba.float64), cuda.local.array(4, net.params.dtype)
    step_numbers(net, rates, step, hyper)
    for u in range(cuda.blockIdx.x, net.numbers[N_BLOCKS], cuda.gridDim.x):
        first, high, penalty = net.blocks[u, 0] + 4 * cuda.threadIdx.x, net.blocks[u, 1], 0.0
        while first < high:
            fetch_four(d, net.grads, first, high, True)
            penalty += step_four(net, hyper, u, share, scale, d, first, high)
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
