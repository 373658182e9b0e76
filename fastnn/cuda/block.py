"""Many training steps of a small network by one block of threads, which has all of it in its own memory.

Weights, their gradients and the optimizer's state, what the layers leave for the way back, and what is wanted of a
batch lie in shared memory from the first step of a launch to the last. The card's memory is asked for samples alone,
and threads meet only within the block, some three times a layer: a step does not wait for the rest of the card.

Where a layer's inputs and units are multiples of four, a thread has 4 x 4 sums of a product, and reads four neighbours
at a time; else it has one sum. How threads are shared among rows and columns is in the table of stages, as powers of
two: nothing is divided here. Every sum is one chain, by sizes alone.

A block may have more than the 48 KB that it gets unasked: 227 on compute capability 9.0, 99 on 8.9. All that grows with
the network or the batch lies in what is asked for. But it is one multiprocessor: `microseconds` estimates what a step
takes by it and by many, and a network goes where that is less.

Between two barriers nobody reads what another writes:

1. the batch is gathered; 2. each stage forward; 3. the loss of each row, and the gradient of its outputs; 4. each stage
back, while the first thread adds up the loss; 5. all gradients of weights, which read what 2 to 4 have left; 6. the
norm, where it is clipped; 7. the optimizer's step. A loss that is not finite is known behind 5, and nothing is changed
then.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np

from fastnn.cuda._formulas import like
from fastnn.cuda._numba import cuda, device_function, named_kernel
from fastnn.cuda.net import (
    BYTES,
    LABELLED,
    N_BLOCKS,
    N_NUMBERS,
    N_STAGE,
    N_STAGES,
    PENALISED,
    RESCALED,
    STATE_AREA,
    TARGETS,
    WANTED_AREA,
    WEIGHTED,
    Net,
    finish_backward,
    finish_backward_four,
    finish_forward,
    finish_forward_four,
    goes_in_fours,
    input_at,
    output_loss,
    source_row,
    stage_of,
    total_weight,
)
from fastnn.cuda.reduction import block_total
from fastnn.cuda.rows import LARGEST, bits
from fastnn.cuda.step import copy_table, copy_vector
from fastnn.cuda.tile import THREADS
from fastnn.cuda.update import fetch_four, squared_norm_block
from fastnn.cuda.vector import add_four, add_products, load, load4, sixteen, store, store16
from fastnn.cuda.weights import penalty_scale, rates_of, step_four, step_numbers
from fastnn.kernels.layout import (  # fmt: skip
    BATCH,
    CLIP_NORM,
    FIRST_ROW,
    FIRST_STEP,
    LOSS_SCALE,
    N_FLOATS,
    N_ROWS,
    N_STEPS,
    REPORT_CORRECT,
    REPORT_LOSS,
    REPORT_NORM,
    REPORT_PENALTY,
    REPORT_ROWS,
    REPORT_WEIGHT,
    STATE_0,
)
from fastnn.kernels.update import CLIP_VALUE, N_HYPER

MOST_STAGES = 32
"""Stages that a block has room for."""

TABLES = -(-8 * (1 + N_NUMBERS + MOST_STAGES * N_STAGE + N_FLOATS + N_HYPER) // 16) * 16
"""Bytes of shared memory for what is of one size in every network; what is asked for begins behind them."""

BITS = bits(THREADS)

AT_ONCE = 256
"""Threads of a block on a card: estimates are the same in the simulator."""

FOURS, SINGLY, HALF = 190, 19, 0.65
"""Cycles of a block for 4 x 4 x 4 multiply-adds a thread, and for one where a thread has one sum; the share of them
where half of the threads have none.

By machine code for compute capability 9.0: 64 multiply-adds are 89 to 101 instructions, and each of four schedulers has
two warps, so 190 cycles and 86 multiply-adds a cycle of 128; one warp a scheduler waits 30 more for its loads. One sum
takes 5 to 9 instructions, of which two are loads that a multiprocessor does one of in a cycle.
"""

AN_OUTPUT, A_PARAMETER = 0.75, 0.4
"""Cycles for activation and slope of an output, and for the update of a parameter, at 100 and 50 instructions."""

A_STEP, A_PHASE, A_ROW, AN_ANSWER, A_WAIT = 3000, 400, 40, 100, 600
"""Cycles of a step besides, and between two of its barriers; of the first thread, which adds up the losses of rows; of
a thread for each output of a row's loss; for a number from the card's memory that a thread waits for."""

CYCLES_A_MICROSECOND = 1755

MANY_BLOCKS = 12.0, 2.4
"""Microseconds of a step by many blocks, and for each of its stages: on an H200 `tiny` with 3 takes 20, `deep` with 18
takes 55. Larger ones take more, but they have no room in a block."""


def by_many(stages: int) -> float:
    """Return the microseconds that a step is estimated to take many blocks."""
    return MANY_BLOCKS[0] + MANY_BLOCKS[1] * stages


def microseconds(rows: int, stages: Sequence[tuple[int, int, bool]], parameters: int, itemsize: int) -> float:
    """Return the microseconds that a step is estimated to take one block: by sizes alone, whatever the card.

    `stages` are inputs, units and whether it is a dense layer. Multiply-adds and activations of float64 take twice as
    long, as they do on cards made for them.
    """
    products, outputs, weights = 0.0, 0, 0.0
    for s, (inputs, units, dense) in enumerate(stages):
        outputs += units
        if dense:
            each, cost = (4, FOURS) if by_fours(inputs, units) else (1, SINGLY)
            down, across = -(-rows // each), -(-units // each)
            products += cost * -(-inputs // each) * _rounds(down, across)
            if s > 0:
                products += cost * -(-units // each) * _rounds(down, -(-inputs // each))
            weights += cost * -(-rows // each) * (inputs // each) * (1 << bits(across)) / AT_ONCE
    beside = A_STEP + A_PHASE * 2 * len(stages) + A_ROW * rows + AN_ANSWER * stages[-1][1] * -(-rows // AT_ONCE)
    beside += A_WAIT * 2 * math.ceil(_rounds(-(-rows // 4), stages[0][0]))  # which four rows, and what is in them
    work = products + weights + AN_OUTPUT * rows * outputs + A_PARAMETER * parameters
    return (beside + work * itemsize / 4) / CYCLES_A_MICROSECOND


def _rounds(down: int, across: int) -> float:
    """Return how often all threads, shared among `across` columns by powers of two, go down to do so many tasks."""
    width = min(AT_ONCE, 1 << bits(across))
    rounds = -(-down // (AT_ONCE // width)) * -(-across // width)
    return HALF if rounds == 1 and down * width <= AT_ONCE // 2 else float(rounds)


def room(rows: int, numbers: int, itemsize: int) -> int:
    """Return the bytes that a block asks for: numbers of the network, and lanes, weights and labels of the rows.

    There is a lane for each thread's sum, and two for each row's loss.
    """
    return numbers * itemsize + 8 * (max(THREADS, 2 * rows) + 2 * rows)


def by_fours(inputs: int, units: int) -> bool:
    """Return whether a thread has 4 x 4 sums of a layer's products."""
    return inputs % 4 == 0 and units % 4 == 0


def split(inputs: int, units: int) -> tuple[int, int]:
    """Return how threads are shared among a layer's outputs, and among its inputs: by so many of them, in bits."""
    each = 4 if by_fours(inputs, units) else 1
    return min(BITS, bits(units // each)), min(BITS, bits(inputs // each))


@device_function
def in_tiles(stage):
    """Return what `by_fours` says of a stage."""
    return stage.inputs & 3 == 0 and stage.units & 3 == 0


@device_function
def take_batch(net, own_weights, row0, rows):
    """Copy the rows of the batch that begins at `row0` from the card's memory, and what is wanted of them.

    A thread has numbers of four rows on their way at a time. Every place is written by one thread, once.
    """
    t, stage, width = cuda.threadIdx.x, stage_of(net, 0), net.numbers[TARGETS]
    across = min(BITS, stage.split_bits + (2 if in_tiles(stage) else 0))
    plain = net.numbers[BYTES] == 0 and net.numbers[RESCALED] == 0 and net.numbers[WEIGHTED] == 0
    b0, n, down, end = t >> across, stage.inputs, THREADS >> across, rows - 1
    while b0 < rows:
        b1, b2, b3 = b0 + down, b0 + 2 * down, b0 + 3 * down
        s0, s1 = source_row(net, row0 + b0), source_row(net, row0 + min(b1, end))
        s2, s3 = source_row(net, row0 + min(b2, end)), source_row(net, row0 + min(b3, end))
        j = t & ((1 << across) - 1)
        while j < n:
            if plain:
                x0, x1 = load(net.x, s0 * n + j), load(net.x, s1 * n + j)
                x2, x3 = load(net.x, s2 * n + j), load(net.x, s3 * n + j)
            else:
                x0, x1 = input_at(net, s0, j), input_at(net, s1, j)
                x2, x3 = input_at(net, s2, j), input_at(net, s3, j)
            store(net.work, b0 * n + j, x0)
            if b1 < rows:
                store(net.work, b1 * n + j, x1)
            if b2 < rows:
                store(net.work, b2 * n + j, x2)
            if b3 < rows:
                store(net.work, b3 * n + j, x3)
            j += 1 << across
        b0 += 4 * down
    b = t
    while b < rows:
        source, j = source_row(net, row0 + b), 0
        if net.numbers[LABELLED] != 0:
            net.own_labels[b] = net.labels[source]
        if net.numbers[WEIGHTED] != 0:
            own_weights[b] = net.weights[source]
        while j < width:
            store(net.work, net.numbers[WANTED_AREA] + b * width + j, load(net.targets, source * width + j))
            j += 1
        b += THREADS


@device_function
def put_forward(net, stage, step, b, j, rows, z, fours):
    """Finish and store four neighbours of row b of a stage's outputs."""
    if b < rows:
        at = b * stage.units + j
        if fours:
            finish_forward_four(net, stage, at, z)
        else:
            finish_forward(net, stage, step, at, z[0])
            finish_forward(net, stage, step, at + 1, z[1])
            finish_forward(net, stage, step, at + 2, z[2])
            finish_forward(net, stage, step, at + 3, z[3])


@device_function
def forward_tile(net, stage, step, rows, i, j):
    """Four rows from i on of four outputs from j on."""
    work, params, k, n, end = net.work, net.params, stage.inputs, stage.units, rows - 1
    x0, x1 = stage.into + i * k, stage.into + min(i + 1, end) * k
    x2, x3 = stage.into + min(i + 2, end) * k, stage.into + min(i + 3, end) * k
    sums, w, q = sixteen(like(0.0, params[0])), stage.weight + j, 0
    while q < k:
        a, b, c, d = load4(work, x0 + q), load4(work, x1 + q), load4(work, x2 + q), load4(work, x3 + q)
        sums = add_products(sums, (a[0], b[0], c[0], d[0]), load4(params, w))
        sums = add_products(sums, (a[1], b[1], c[1], d[1]), load4(params, w + n))
        sums = add_products(sums, (a[2], b[2], c[2], d[2]), load4(params, w + 2 * n))
        sums = add_products(sums, (a[3], b[3], c[3], d[3]), load4(params, w + 3 * n))
        w, q = w + 4 * n, q + 4
    zero, fours = like(0.0, params[0]), goes_in_fours(stage)
    bias = load4(params, stage.bias + j) if stage.bias >= 0 else (zero, zero, zero, zero)
    put_forward(net, stage, step, i, j, rows, add_four((sums[0], sums[1], sums[2], sums[3]), bias), fours)
    put_forward(net, stage, step, i + 1, j, rows, add_four((sums[4], sums[5], sums[6], sums[7]), bias), fours)
    put_forward(net, stage, step, i + 2, j, rows, add_four((sums[8], sums[9], sums[10], sums[11]), bias), fours)
    put_forward(net, stage, step, i + 3, j, rows, add_four((sums[12], sums[13], sums[14], sums[15]), bias), fours)


@device_function
def forward_one(net, stage, step, b, j):
    """One output. Neighbouring rows begin at other inputs, or all would ask one bank of the memory at a time."""
    work, params, k, n, start, q = net.work, net.params, stage.inputs, stage.units, b, 0
    if not stage.dense:
        finish_forward(net, stage, step, b * n + j, load(work, stage.into + b * n + j))
        return
    while start >= k:
        start -= k
    x, w = stage.into + b * k, stage.weight + j
    total, q = like(0.0, params[0]), start
    while q < k:
        total += load(work, x + q) * load(params, w + q * n)
        q += 1
    q = 0
    while q < start:
        total += load(work, x + q) * load(params, w + q * n)
        q += 1
    if stage.bias >= 0:
        total += load(params, stage.bias + j)
    finish_forward(net, stage, step, b * n + j, total)


@device_function
def forward(net, stage, step, rows):
    """Outputs of a stage for the whole batch."""
    t, across, each = cuda.threadIdx.x, stage.column_bits, 4 if stage.dense and in_tiles(stage) else 1
    i = each * (t >> across)
    while i < rows:
        j = each * (t & ((1 << across) - 1))
        while j < stage.units:
            if each == 4:
                forward_tile(net, stage, step, rows, i, j)
            else:
                forward_one(net, stage, step, i, j)
            j += each << across
        i += each * (THREADS >> across)


@device_function
def losses(net, own_weights, step, rows, factor):
    """Loss of each row, and how much of it is right, side by side in the block's lanes; gradients of the last sums."""
    stage, width = stage_of(net, net.numbers[N_STAGES] - 1), net.numbers[TARGETS]
    b, n = cuda.threadIdx.x, stage.units
    while b < rows:
        out, delta, target = stage.out + b * n, stage.delta + b * n, net.numbers[WANTED_AREA] + b * width
        d = net.work[delta : delta + n]
        output_loss(
            net, net.lanes[2 * b : 2 * b + 2], d, net.work[out : out + n],
            net.own_labels[b : b + net.numbers[LABELLED]], net.work[target : target + width],
            own_weights[b : b + net.numbers[WEIGHTED]], factor,
        )  # fmt: skip
        for j in range(n):
            d[j] = finish_backward(net, stage, step, b * n + j, d[j])
        b += THREADS


@device_function
def add_losses(net, i, rows, total):
    """Add up the rows' losses for the report, and tell the block where the sum is not finite: the first thread."""
    loss, correct = 0.0, 0.0
    for b in range(rows):
        loss += net.lanes[2 * b]
        correct += net.lanes[2 * b + 1]
    net.report[i, REPORT_LOSS], net.report[i, REPORT_CORRECT], net.report[i, REPORT_WEIGHT] = loss, correct, total
    if not abs(loss) < LARGEST:
        net.met[0] = 1


@device_function
def put_backward(net, before, step, b, j, rows, d, fours):
    """Carry the gradients of four neighbours of row b of a stage's outputs through it, and store them."""
    if b < rows:
        at = b * before.units + j
        if fours:
            d = finish_backward_four(net, before, at, d)
        else:
            d = (
                finish_backward(net, before, step, at, d[0]), finish_backward(net, before, step, at + 1, d[1]),
                finish_backward(net, before, step, at + 2, d[2]), finish_backward(net, before, step, at + 3, d[3]),
            )  # fmt: skip
        store(net.work, before.delta + at, d[0])
        store(net.work, before.delta + at + 1, d[1])
        store(net.work, before.delta + at + 2, d[2])
        store(net.work, before.delta + at + 3, d[3])


@device_function
def delta_tile(net, stage, before, step, rows, i, j):
    """Gradients of four inputs from j on of four rows from i on.

    Neighbouring threads have weights of other inputs, and begin at other outputs, as in `forward_one`.
    """
    work, params, n, end = net.work, net.params, stage.units, rows - 1
    d0, d1 = stage.delta + i * n, stage.delta + min(i + 1, end) * n
    d2, d3 = stage.delta + min(i + 2, end) * n, stage.delta + min(i + 3, end) * n
    sums, w, q, done = sixteen(like(0.0, params[0])), stage.weight + j * n, j, 0
    while q >= n:
        q -= n
    while done < n:
        a, b, c, d = load4(work, d0 + q), load4(work, d1 + q), load4(work, d2 + q), load4(work, d3 + q)
        e, f = load4(params, w + q), load4(params, w + n + q)
        g, h = load4(params, w + 2 * n + q), load4(params, w + 3 * n + q)
        sums = add_products(sums, (a[0], b[0], c[0], d[0]), (e[0], f[0], g[0], h[0]))
        sums = add_products(sums, (a[1], b[1], c[1], d[1]), (e[1], f[1], g[1], h[1]))
        sums = add_products(sums, (a[2], b[2], c[2], d[2]), (e[2], f[2], g[2], h[2]))
        sums = add_products(sums, (a[3], b[3], c[3], d[3]), (e[3], f[3], g[3], h[3]))
        done, q = done + 4, q + 4 if q + 4 < n else 0
    fours = goes_in_fours(before)
    put_backward(net, before, step, i, j, rows, (sums[0], sums[1], sums[2], sums[3]), fours)
    put_backward(net, before, step, i + 1, j, rows, (sums[4], sums[5], sums[6], sums[7]), fours)
    put_backward(net, before, step, i + 2, j, rows, (sums[8], sums[9], sums[10], sums[11]), fours)
    put_backward(net, before, step, i + 3, j, rows, (sums[12], sums[13], sums[14], sums[15]), fours)


@device_function
def delta_one(net, stage, before, step, b, j):
    """Gradient of one input of one row."""
    work, params, n, q = net.work, net.params, stage.units, 0
    if stage.dense:
        total, d, w = like(0.0, params[0]), stage.delta + b * n, stage.weight + j * n
        while q < n:
            total += load(work, d + q) * load(params, w + q)
            q += 1
    else:
        total = load(work, stage.delta + b * n + j)
    at = b * stage.inputs + j
    store(work, before.delta + at, finish_backward(net, before, step, at, total))


@device_function
def backward(net, stage, before, step, rows):
    """Gradients of the sums of the stage before, from those of a stage, for the whole batch."""
    t, across, each = cuda.threadIdx.x, stage.split_bits, 4 if stage.dense and in_tiles(stage) else 1
    i = each * (t >> across)
    while i < rows:
        j = each * (t & ((1 << across) - 1))
        while j < stage.inputs:
            if each == 4:
                delta_tile(net, stage, before, step, rows, i, j)
            else:
                delta_one(net, stage, before, step, i, j)
            j += each << across
        i += each * (THREADS >> across)


@device_function
def weight_tile(net, stage, rows, i, j):
    """Gradients of the weights from four inputs to four outputs."""
    k, n, b, sums = stage.inputs, stage.units, 0, sixteen(like(0.0, net.params[0]))
    x, d = stage.into + i, stage.delta + j
    while b < rows:
        sums = add_products(sums, load4(net.work, x), load4(net.work, d))
        b, x, d = b + 1, x + k, d + n
    store16(net.grads, stage.weight + i * n + j, n, sums)


@device_function
def weight_one(net, stage, rows, i, j):
    """Gradient of one weight."""
    k, n, b, total = stage.inputs, stage.units, 0, like(0.0, net.params[0])
    x, d = stage.into + i, stage.delta + j
    while b < rows:
        total += load(net.work, x) * load(net.work, d)
        b, x, d = b + 1, x + k, d + n
    store(net.grads, stage.weight + i * n + j, total)


@device_function
def bias_one(net, stage, rows, j):
    """Gradient of one bias."""
    b, d, total = 0, stage.delta + j, like(0.0, net.params[0])
    while b < rows:
        total += load(net.work, d)
        b, d = b + 1, d + stage.units
    store(net.grads, stage.bias + j, total)


@device_function
def weight_gradients(net, rows):
    """Gradients of all weights and biases: where one layer's tasks end, the next thread begins with the next one's."""
    t, begun = cuda.threadIdx.x, 0
    for s in range(net.numbers[N_STAGES]):
        stage = stage_of(net, s)
        if stage.dense:
            across, each = stage.column_bits, 4 if in_tiles(stage) else 1
            x = (t - begun) & (THREADS - 1)
            begun += (stage.inputs << across) >> (2 if each == 4 else 0)
            i = each * (x >> across)
            while i < stage.inputs:
                j = each * (x & ((1 << across) - 1))
                while j < stage.units:
                    if each == 4:
                        weight_tile(net, stage, rows, i, j)
                    else:
                        weight_one(net, stage, rows, i, j)
                    j += each << across
                i += each * (THREADS >> across)
            if stage.bias >= 0:
                j = (t - begun) & (THREADS - 1)
                begun += stage.units
                while j < stage.units:
                    bias_one(net, stage, rows, j)
                    j += THREADS


@device_function
def clip_scale(net, i, share):
    """Return what the gradient is multiplied by: less than 1 where its norm is clipped."""
    if not net.floats[CLIP_NORM] < math.inf:
        return 1.0
    total = 0.0
    for u in range(net.numbers[N_BLOCKS]):
        low, high = net.blocks[u, 0] + cuda.threadIdx.x, net.blocks[u, 1]
        if low < high:
            total += squared_norm_block(
                net.grads[low:high:THREADS], net.params[low:high:THREADS], share * net.block_floats[u, 0],
                share * net.block_floats[u, 1], net.hyper[CLIP_VALUE],
            )  # fmt: skip
    norm = math.sqrt(block_total(total, net.lanes))
    if cuda.threadIdx.x == 0:
        net.report[i, REPORT_NORM] = norm
    return net.floats[CLIP_NORM] / norm if norm > net.floats[CLIP_NORM] else 1.0


@device_function
def update(net, i, rates, step, share, scale):
    """Do the optimizer's step on all parameters, four a thread at a time, the next block by the next threads."""
    hyper, d = cuda.local.array(N_HYPER, numba.float64), cuda.local.array(4, net.params.dtype)
    step_numbers(net, rates, step, hyper)
    penalty, begun = 0.0, 0
    for u in range(net.numbers[N_BLOCKS]):
        low, high = net.blocks[u, 0], net.blocks[u, 1]
        first = low + 4 * ((cuda.threadIdx.x - begun) & (THREADS - 1))
        begun += (high - low + 3) >> 2
        while first < high:
            fetch_four(d, net.grads, first, high, True)
            penalty += step_four(net, hyper, u, share, scale, d, first, high)
            first += 4 * THREADS
    if net.numbers[PENALISED] != 0:
        penalty = block_total(penalty, net.lanes)
        if cuda.threadIdx.x == 0:
            net.report[i, REPORT_PENALTY] = penalty


@device_function
def run_steps(net, own_weights):
    """Run the steps that the numbers ask for; it ends at one whose loss is not finite."""
    n_stages, leads = net.numbers[N_STAGES], cuda.threadIdx.x == 0
    for i in range(net.numbers[N_STEPS]):
        step, row0 = net.numbers[FIRST_STEP] + i, net.numbers[FIRST_ROW] + i * net.numbers[BATCH]
        rows = min(net.numbers[BATCH], net.numbers[FIRST_ROW] + net.numbers[N_ROWS] - row0)
        rates, total = rates_of(net, i), total_weight(net, row0, rows)
        factor, share = net.floats[LOSS_SCALE] / total if total > 0.0 else 0.0, penalty_scale(net, total)
        take_batch(net, own_weights, row0, rows)
        cuda.syncthreads()  # the batch is there
        for s in range(n_stages):
            forward(net, stage_of(net, s), step, rows)
            cuda.syncthreads()  # the next stage reads what other threads wrote
        losses(net, own_weights, step, rows, factor)
        cuda.syncthreads()  # all losses and gradients of outputs are there
        if leads:
            add_losses(net, i, rows, total)
        for s in range(n_stages - 1, 0, -1):
            backward(net, stage_of(net, s), stage_of(net, s - 1), step, rows)
            cuda.syncthreads()  # the next stage, and the gradients of weights, read what other threads wrote
        weight_gradients(net, rows)
        cuda.syncthreads()  # all gradients are there, and whether the loss was finite
        if net.met[0] != 0:
            return
        scale = clip_scale(net, i, share)
        update(net, i, rates, step, share, scale)
        cuda.syncthreads()  # the next step reads the new parameters, and writes over what this one has read
        if leads:
            net.report[i, REPORT_ROWS] = rows


@functools.cache
def make_kernel(dtype: np.dtype[Any]) -> Any:
    """Return the kernel that trains a network for which `fits` holds, in one block."""
    element, in_eight = numba.from_dtype(dtype), 8 // dtype.itemsize

    @named_kernel(f"block {dtype}")
    def run(
        numbers, stages, floats, scales, hyper, tiles, blocks, block_floats, params, grads, state, work, sums, x,
        x_bytes, rescale, labels, targets, weights, order, rates, report, result, arrivals,
    ):  # fmt: skip
        shared = cuda.shared.array(0, element)  # what the launch asked for, under three types
        reals = cuda.shared.array(0, numba.float64)
        integers = cuda.shared.array(0, numba.int64)
        stopped = cuda.shared.array(1, numba.int64)
        own_numbers = cuda.shared.array(N_NUMBERS, numba.int64)
        own_stages = cuda.shared.array((MOST_STAGES, N_STAGE), numba.int64)
        own_floats = cuda.shared.array(N_FLOATS, numba.float64)
        own_hyper = cuda.shared.array(N_HYPER, numba.float64)
        size, area, rows = params.size, numbers[STATE_AREA], numbers[BATCH]
        end = area + (state.size if numbers[STATE_0] >= 0 else 0)
        own_params, own_grads, own_work = shared[:size], shared[size : 2 * size], shared[2 * size : area]
        own_state = shared[area:end]
        # All places so far are multiples of 16 numbers, and nothing is read under another type than it was written.
        place, wide = end // in_eight, max(THREADS, 2 * rows)
        lanes = reals[place : place + wide]
        own_weights = reals[place + wide : place + wide + rows]
        own_labels = integers[place + wide + rows : place + wide + 2 * rows]
        if cuda.threadIdx.x == 0:
            stopped[0] = 0
        copy_table(own_stages, stages)
        copy_vector(own_numbers, numbers)
        copy_vector(own_floats, floats)
        copy_vector(own_hyper, hyper)
        copy_vector(own_params, params)
        copy_vector(own_state, state[: own_state.size])
        cuda.syncthreads()  # all is there
        net = Net(
            own_numbers, own_stages, own_floats, scales, own_hyper, tiles, blocks, block_floats, own_params, own_grads,
            own_state, own_work, lanes, x, x_bytes, rescale, labels, targets, weights, order, rates, report, result,
            arrivals, shared, lanes, own_labels, stopped,
        )  # fmt: skip
        run_steps(net, own_weights)
        copy_vector(params, own_params)  # the last thing was a barrier
        copy_vector(state, own_state)

    return run
