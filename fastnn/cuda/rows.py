"""Four rows of a batch through a whole network and back, by one block of threads.

A batch of some hundred rows keeps many blocks busy so, and none waits for another between two layers. What one layer
hands to the next stays in shared memory, as four numbers (a column of the four rows) side by side: one load brings what
a weight is multiplied by. Weights come from the second cache, each once a block, in loads of four neighbours.

Forward, threads share the columns of a layer, four each, and split its inputs: each has the sums of 4 rows x 4 columns
over its part of the inputs. Backward, where a sum runs along a row of the weights, `LANES` threads share that row, and
each has the sums of 4 inputs x 4 rows over its part of the outputs. In both the parts meet in shared memory, and are
added in order: sums depend on sizes alone.
"""

from __future__ import annotations

import math

import numpy as np

from fastnn.cuda._formulas import like
from fastnn.cuda._numba import SIMULATED, cuda, device_function
from fastnn.cuda.activation import largest, quotient, softmax_origin, softmax_term
from fastnn.cuda.net import (
    BYTES,
    LABELLED,
    N_STAGES,
    RESCALED,
    SECOND_AREA,
    TARGETS,
    TILE_SUMS,
    WANTED_AREA,
    WEIGHTED,
    finish_backward,
    finish_backward_from,
    finish_forward,
    input_at,
    output_loss,
    slope_source,
    source_row,
    stage_of,
)
from fastnn.cuda.tile import THREADS
from fastnn.cuda.vector import add_products, load, load4, sixteen, store, store4, store16
from fastnn.kernels.elementary import SCALE
from fastnn.kernels.layout import DX, FORWARD, LOSS, MODE, N_IN, OUTPUT, SOFTMAX, WANT_DX, X_OFFSET
from fastnn.kernels.loss import CROSS_ENTROPY, EXTERNAL

ROWS = 4
"""Rows of a task."""

WIDEST, MOST_STAGES = 512, 32
"""Units of a layer up to which a block reads all of its weights for four rows; stages that its table has room for."""

LANES = 2 if SIMULATED else 16
GROUPS = THREADS // LANES
"""Threads that share a row of the weights on the way back, and rows that a block has in hand, times four."""

PITCH = 16 * GROUPS + 4
"""Between the parts of two lanes: 4 more than they have, or all lanes' would lie in the same banks."""

EACH = THREADS // ROWS
"""Threads that share the loss of a row."""

LARGEST = 1e300
"""From which a loss is taken for infinite: the sum of several such might be."""

PARTS = 16 * THREADS + 4 * LANES
"""Numbers of shared memory for parts of sums; behind them lie two areas for what layers hand on."""


def areas(inputs: int, widest: int, outputs: int) -> tuple[int, int, int]:
    """Return where the second area and the targets lie in shared memory, and its size.

    The first area has the inputs to begin with, both have a layer's outputs or gradients later on.
    """
    slots = 5 * _fours(widest)
    second = PARTS + max(4 * inputs, slots)
    return second, second + slots, second + slots + 4 * outputs


def _fours(size: int) -> int:
    return -(-size // 4) * 4


def split(inputs: int, units: int) -> tuple[int, int]:
    """Return how a layer's product is shared, as powers of two: threads by columns, and parts of the inputs."""
    columns = units // 4 if units % 4 == 0 else units
    column_bits = min(bits(columns), bits(THREADS))
    most = bits(THREADS) - column_bits
    return column_bits, min(most, max(0, bits(-(-inputs // 2))))


def bits(size: int) -> int:
    """Return the smallest power of two that is no less, by its exponent."""
    return max(0, (size - 1).bit_length())


@device_function
def slot(j):
    """Return where the gradient of column j lies in its area: room for one more behind each four spreads the banks."""
    return 4 * (j + (j >> 2))


@device_function
def gather_rows(net, row0, i0, i1, to):
    """Copy rows i0..i1 of the batch that begins at `row0` into shared memory and the workspace.

    Behind its end the last one stands for the rest of the four, and nothing of that is kept.
    """
    t, end, n = cuda.threadIdx.x, i1 - 1, net.stages[0, N_IN]
    s0, s1 = source_row(net, row0 + i0), source_row(net, row0 + min(i0 + 1, end))
    s2, s3 = source_row(net, row0 + min(i0 + 2, end)), source_row(net, row0 + min(i0 + 3, end))
    plain = net.numbers[BYTES] == 0 and net.numbers[RESCALED] == 0 and net.numbers[WEIGHTED] == 0
    at, j = net.numbers[X_OFFSET] + i0 * n, t
    while j < n:
        if plain:
            a, b = load(net.x, s0 * n + j), load(net.x, s1 * n + j)
            c, d = load(net.x, s2 * n + j), load(net.x, s3 * n + j)
        else:
            a, b = input_at(net, s0, j), input_at(net, s1, j)
            c, d = input_at(net, s2, j), input_at(net, s3, j)
        store4(net.shared, to + 4 * j, (a, b, c, d))
        store(net.work, at + j, a)
        if i0 + 1 < i1:
            store(net.work, at + n + j, b)
        if i0 + 2 < i1:
            store(net.work, at + 2 * n + j, c)
        if i0 + 3 < i1:
            store(net.work, at + 3 * n + j, d)
        j += THREADS
    fetch_wanted(net, s0, s1, s2, s3)


@device_function
def fetch_wanted(net, s0, s1, s2, s3):
    """Copy what is wanted of four samples into shared memory, long before the loss asks for it."""
    t, width, wanted = cuda.threadIdx.x, net.numbers[TARGETS], net.numbers[WANTED_AREA]
    if t < ROWS:
        own = s0 if t == 0 else s1 if t == 1 else s2 if t == 2 else s3
        if net.numbers[LABELLED] != 0:
            net.own_labels[t] = net.labels[own]
        if net.numbers[WEIGHTED] != 0:
            net.lanes[2 * ROWS + t] = net.weights[own]
    j = t
    while j < width:
        a, b = load(net.targets, s0 * width + j), load(net.targets, s1 * width + j)
        c, d = load(net.targets, s2 * width + j), load(net.targets, s3 * width + j)
        store(net.shared, wanted + j, a)
        store(net.shared, wanted + width + j, b)
        store(net.shared, wanted + 2 * width + j, c)
        store(net.shared, wanted + 3 * width + j, d)
        j += THREADS


@device_function
def four_rows(net, w, down):
    """Return four neighbours in each of four rows of the weights."""
    a, b = load4(net.params, w), load4(net.params, w + down)
    return a, b, load4(net.params, w + 2 * down), load4(net.params, w + 3 * down)


@device_function
def add_four_rows(net, sums, x, across, a, b, c, d):
    """Return the sums and the products of four inputs of four rows by four neighbours of their weights each."""
    sums = add_products(sums, load4(net.shared, x), a)
    sums = add_products(sums, load4(net.shared, x + across), b)
    sums = add_products(sums, load4(net.shared, x + 2 * across), c)
    return add_products(sums, load4(net.shared, x + 3 * across), d)


@device_function
def sums_of_four(net, x, w, n, k, part, parts):
    """Return the sums of 4 rows by 4 columns over every so-many-th input; x and w are where row and weights begin."""
    sums = sixteen(like(0.0, net.params[0]))
    x, w, across, down = x + 4 * part, w + part * n, 4 * parts, parts * n
    while part + 7 * parts < k:  # eight loads are on their way before the first product waits for one
        a, b, c, d = four_rows(net, w, down)
        e, f, g, h = four_rows(net, w + 4 * down, down)
        sums = add_four_rows(net, sums, x, across, a, b, c, d)
        sums = add_four_rows(net, sums, x + 4 * across, across, e, f, g, h)
        part, x, w = part + 8 * parts, x + 8 * across, w + 8 * down
    if part + 3 * parts < k:
        a, b, c, d = four_rows(net, w, down)
        sums = add_four_rows(net, sums, x, across, a, b, c, d)
        part, x, w = part + 4 * parts, x + 4 * across, w + 4 * down
    while part < k:
        sums = add_products(sums, load4(net.shared, x), load4(net.params, w))
        part, x, w = part + parts, x + across, w + down
    return sums


@device_function
def add_column(sums, x, w):
    """Return the sums of 4 rows and the products of x by one weight."""
    return (sums[0] + x[0] * w, sums[1] + x[1] * w, sums[2] + x[2] * w, sums[3] + x[3] * w)


@device_function
def sums_of_one(net, x, w, n, k, part, parts):
    """Return the sums of 4 rows by 1 column, for layers whose columns are no multiple of four."""
    zero = like(0.0, net.params[0])
    sums = (zero, zero, zero, zero)
    x, w, across, down = x + 4 * part, w + part * n, 4 * parts, parts * n
    while part + 3 * parts < k:
        w0, w1 = load(net.params, w), load(net.params, w + down)
        w2, w3 = load(net.params, w + 2 * down), load(net.params, w + 3 * down)
        sums = add_column(sums, load4(net.shared, x), w0)
        sums = add_column(sums, load4(net.shared, x + across), w1)
        sums = add_column(sums, load4(net.shared, x + 2 * across), w2)
        sums = add_column(sums, load4(net.shared, x + 3 * across), w3)
        part, x, w = part + 4 * parts, x + 4 * across, w + 4 * down
    while part < k:
        sums = add_column(sums, load4(net.shared, x), load(net.params, w))
        part, x, w = part + parts, x + across, w + down
    return sums


@device_function
def add_parts(shared, at, apart, parts):
    """Return the sum of a power of two of parts: of pairs and fours, whose loads do not wait for each other."""
    total = load(shared, at)
    if parts > 1:
        total += load(shared, at + apart)
    if parts > 2:
        total += load(shared, at + 2 * apart) + load(shared, at + 3 * apart)
    p = 4
    while p < parts:
        at += 4 * apart
        two = load(shared, at) + load(shared, at + apart)
        total += two + (load(shared, at + 2 * apart) + load(shared, at + 3 * apart))
        p += 4
    return total


@device_function
def dense_forward_rows(net, stage, step, i0, i1, from_, to, last):
    """Outputs of a dense stage for rows i0..i1, from one area to the other; row by row where it is the last."""
    k, n, t, shared = stage.inputs, stage.units, cuda.threadIdx.x, net.shared
    bits, parts = stage.column_bits, 1 << stage.split_bits
    lane, part, by_four = t & ((1 << bits) - 1), t >> bits, n & 3 == 0
    column_bits = bits + 2 if by_four else bits
    columns, j0 = 1 << column_bits, 0
    while j0 < n:
        own_j = j0 + (t & (columns - 1))
        bias = load(net.params, stage.bias + own_j) if stage.bias >= 0 and own_j < n else like(0.0, net.params[0])
        if part < parts:
            if by_four:
                if j0 + 4 * lane < n:
                    sums = sums_of_four(net, from_, stage.weight + j0 + 4 * lane, n, k, part, parts)
                    store16(shared, 4 * (part << column_bits) + 4 * lane, columns, sums)
            elif j0 + lane < n:
                column = sums_of_one(net, from_, stage.weight + j0 + lane, n, k, part, parts)
                at = 4 * (part << column_bits) + lane
                store(shared, at, column[0])
                store(shared, at + columns, column[1])
                store(shared, at + 2 * columns, column[2])
                store(shared, at + 3 * columns, column[3])
        cuda.syncthreads()  # the parts are there
        e = t
        while e < 4 * columns:
            r, j = e >> column_bits, j0 + (e & (columns - 1))
            if j < n:
                z = add_parts(shared, e, 4 * columns, parts)
                if stage.bias >= 0:  # a thread's columns are one, asked for before, or several
                    z += bias if columns <= THREADS else load(net.params, stage.bias + j)
                if i0 + r < i1:
                    z = finish_forward(net, stage, step, (i0 + r) * n + j, z)
                store(shared, to + (r * n + j if last else 4 * j + r), z)
            e += THREADS
        cuda.syncthreads()  # the next stage reads the outputs, and parts are written again
        j0 += columns


@device_function
def elementwise_forward_rows(net, stage, step, i0, i1, from_, to, last):
    """Outputs of a stage without weights."""
    n, e = stage.units, cuda.threadIdx.x
    while e < 4 * n:
        r, j = e & 3, e >> 2
        z = load(net.shared, from_ + e)
        if i0 + r < i1:
            z = finish_forward(net, stage, step, (i0 + r) * n + j, z)
        store(net.shared, to + (r * n + j if last else e), z)
        e += THREADS
    cuda.syncthreads()


@device_function
def class_loss_of_four(net, n, i0, i1, factor, y, d):
    """`cross_entropy_rows` with labels for rows i0..i1, a group of threads a row and a thread an output."""
    t, shared = cuda.threadIdx.x, net.shared
    r, first = t // EACH, t % EACH
    z, p = y + r * n, d + r * n
    top, j = load(shared, z), 1
    while j < n:
        top = largest(top, load(shared, z + j))
        j += 1
    origin, start, power, rest, lowest = softmax_origin(top)
    j = first
    while j < n:
        store(shared, p + j, softmax_term(load(shared, z + j), origin, start, power, rest, lowest))
        j += EACH
    cuda.syncthreads()  # the row's terms are there
    total, j = 0.0, 0
    while j < n:
        total += np.float64(load(shared, p + j))
        j += 1
    cuda.syncthreads()  # nobody reads them any more
    if r < i1 - i0:
        label, weight = net.own_labels[r], net.lanes[2 * ROWS + r] if net.numbers[WEIGHTED] != 0 else 1.0
        scale, divisor = like(factor * weight, top), like(total, top)
        j = first
        while j < n:
            gradient = like(0.0, top)
            if weight != 0.0:
                gradient = quotient(load(shared, p + j), divisor) * scale
                if j == label:
                    gradient -= scale
            store(shared, p + j, gradient)
            j += EACH
        if first == 0:
            net.lanes[2 * r], net.lanes[2 * r + 1] = 0.0, 0.0
            if weight != 0.0:
                right, j = load(shared, z + label) == top, 0
                while j < label:
                    right = right and load(shared, z + j) != top
                    j += 1
                loss = np.float64(top) + math.log(total / SCALE) - np.float64(load(shared, z + label))
                net.lanes[2 * r], net.lanes[2 * r + 1] = weight * loss, weight if right else 0.0


@device_function
def loss_of_four(net, task, n, i0, i1, factor, y, d):
    """Loss of rows i0..i1, a thread a row, and the gradient of their outputs; both lie row by row in shared memory."""
    t, width, wanted = cuda.threadIdx.x, net.numbers[TARGETS], net.numbers[WANTED_AREA]
    if net.numbers[LOSS] == CROSS_ENTROPY and net.numbers[LABELLED] != 0 and net.numbers[OUTPUT] != SOFTMAX:
        class_loss_of_four(net, n, i0, i1, factor, y, d)
    elif t < i1 - i0:
        low, high, target = t * n, (t + 1) * n, wanted + t * width
        output_loss(
            net, net.lanes[2 * t : 2 * t + 2], net.shared[d + low : d + high], net.shared[y + low : y + high],
            net.own_labels[t : t + net.numbers[LABELLED]], net.shared[target : target + width],
            net.lanes[2 * ROWS + t : 2 * ROWS + t + net.numbers[WEIGHTED]], factor,
        )  # fmt: skip
    cuda.syncthreads()  # the rows' losses and gradients are there
    if t == 0:
        loss, correct = net.lanes[0], net.lanes[1]
        for r in range(1, i1 - i0):
            loss += net.lanes[2 * r]
            correct += net.lanes[2 * r + 1]
        at = net.numbers[TILE_SUMS] + 2 * task
        net.sums[at], net.sums[at + 1] = loss, correct
        if not abs(loss) < LARGEST:
            net.arrivals[1] = 1


@device_function
def keep_outputs(net, stage, i0, i1, y):
    """Write the last outputs to the workspace where the loss has made them probabilities."""
    if net.numbers[OUTPUT] == SOFTMAX or net.numbers[LOSS] == EXTERNAL:
        for e in range(cuda.threadIdx.x, (i1 - i0) * stage.units, THREADS):
            net.work[stage.out + i0 * stage.units + e] = net.shared[y + e]
        cuda.syncthreads()  # gradients are written over them


@device_function
def begin_backward(net, stage, step, i0, i1, from_, to):
    """Carry the gradient of the last outputs, which lies row by row, through their stage and into slots."""
    n, j = stage.units, cuda.threadIdx.x
    while j < n:
        for r in range(ROWS):
            gradient = load(net.shared, from_ + r * n + j)
            if i0 + r < i1:
                at = (i0 + r) * n + j
                gradient = finish_backward(net, stage, step, at, gradient)
                store(net.work, stage.delta + at, gradient)
            store(net.shared, to + slot(j) + r, gradient)
        j += THREADS
    cuda.syncthreads()  # the next stage reads them


@device_function
def add_fours(net, sums, a, b, c, d, at):
    """Return the sums and the products of four inputs' weights by the gradients of four outputs, from slot `at` on."""
    sums = add_products(sums, (a[0], b[0], c[0], d[0]), load4(net.shared, at))
    sums = add_products(sums, (a[1], b[1], c[1], d[1]), load4(net.shared, at + 4))
    sums = add_products(sums, (a[2], b[2], c[2], d[2]), load4(net.shared, at + 8))
    return add_products(sums, (a[3], b[3], c[3], d[3]), load4(net.shared, at + 12))


@device_function
def sums_along(net, stage, from_, k0, lane, group):
    """Return the sums of 4 inputs by 4 rows over every so-many-th output of a dense stage."""
    n, sums, end, i = stage.units, sixteen(like(0.0, net.params[0])), stage.inputs - 1, k0 + group
    w0, w1 = stage.weight + min(i, end) * n, stage.weight + min(i + GROUPS, end) * n
    w2, w3 = stage.weight + min(i + 2 * GROUPS, end) * n, stage.weight + min(i + 3 * GROUPS, end) * n
    if n & 3 == 0:
        j, step = 4 * lane, 4 * LANES
        while j + step < n:  # eight loads are on their way at a time
            a, b = load4(net.params, w0 + j), load4(net.params, w1 + j)
            c, d = load4(net.params, w2 + j), load4(net.params, w3 + j)
            e, f = load4(net.params, w0 + j + step), load4(net.params, w1 + j + step)
            g, h = load4(net.params, w2 + j + step), load4(net.params, w3 + j + step)
            sums = add_fours(net, sums, a, b, c, d, from_ + 5 * j)
            sums = add_fours(net, sums, e, f, g, h, from_ + 5 * (j + step))
            j += 2 * step
        if j < n:
            a, b = load4(net.params, w0 + j), load4(net.params, w1 + j)
            c, d = load4(net.params, w2 + j), load4(net.params, w3 + j)
            sums = add_fours(net, sums, a, b, c, d, from_ + 5 * j)
    else:
        j = lane
        while j < n:
            e, f = load(net.params, w0 + j), load(net.params, w1 + j)
            g, h = load(net.params, w2 + j), load(net.params, w3 + j)
            sums = add_products(sums, (e, f, g, h), load4(net.shared, from_ + slot(j)))
            j += LANES
    return sums


@device_function
def put_backward(net, before, step, i0, i1, r, j, n, to, value, source):
    """Carry the gradient of output j of the stage before, row r, through that, and store it; without one, as it is."""
    at = (i0 + r) * n + j
    if before.number < 0:
        if i0 + r < i1:
            store(net.work, net.numbers[DX] + at, value)
    else:
        if i0 + r < i1:
            value = finish_backward_from(net, before, step, at, value, source)
            store(net.work, before.delta + at, value)
        store(net.shared, to + slot(j) + r, value)


@device_function
def dense_backward_rows(net, stage, before, step, i0, i1, from_, to):
    """Gradient of the inputs of a dense stage for rows i0..i1, from one area to the other."""
    k, t, shared, k0 = stage.inputs, cuda.threadIdx.x, net.shared, 0
    lane, group = t % LANES, t // LANES
    while k0 < k:
        own = min(i0 + (t & 3), i1 - 1) * k + min(k0 + (t >> 2), k - 1)
        source = slope_source(net, before, own) if before.number >= 0 else like(0.0, net.params[0])
        store16(shared, lane * PITCH + 4 * group, 4 * GROUPS, sums_along(net, stage, from_, k0, lane, group))
        cuda.syncthreads()  # the parts are there
        e = t
        while e < 16 * GROUPS:
            if k0 + (e >> 2) < k:
                total = load(shared, e)
                for p in range(1, LANES):
                    total += load(shared, p * PITCH + e)
                if e != t and before.number >= 0:  # in the simulator, where a thread has several
                    source = slope_source(net, before, min(i0 + (e & 3), i1 - 1) * k + k0 + (e >> 2))
                put_backward(net, before, step, i0, i1, e & 3, k0 + (e >> 2), k, to, total, source)
            e += THREADS
        cuda.syncthreads()  # the next stage reads the gradients, and parts are written again
        k0 += 4 * GROUPS


@device_function
def elementwise_backward_rows(net, stage, before, step, i0, i1, from_, to):
    """Gradient of the inputs of a stage without weights."""
    e = cuda.threadIdx.x
    while e < 4 * stage.inputs:
        value = load(net.shared, from_ + slot(e >> 2) + (e & 3))
        at = min(i0 + (e & 3), i1 - 1) * stage.inputs + (e >> 2)
        source = slope_source(net, before, at) if before.number >= 0 else value
        put_backward(net, before, step, i0, i1, e & 3, e >> 2, stage.inputs, to, value, source)
        e += THREADS
    cuda.syncthreads()


@device_function
def few_rows(net, task, step, row0, rows, factor, learning):
    """Carry rows 4 task .. 4 task + 4 of the batch through the network and, where it learns, back."""
    end, i0 = net.numbers[N_STAGES] - 1, task * ROWS
    i1, here, there, s = min(rows, i0 + ROWS), PARTS, net.numbers[SECOND_AREA], 0
    gather_rows(net, row0, i0, i1, here)
    cuda.syncthreads()  # the first stage reads what other threads gathered
    stage = stage_of(net, 0)
    while s <= end:
        stage = stage_of(net, s)
        if stage.dense:
            dense_forward_rows(net, stage, step, i0, i1, here, there, s == end)
        else:
            elementwise_forward_rows(net, stage, step, i0, i1, here, there, s == end)
        here, there, s = there, here, s + 1
    if net.numbers[MODE] != FORWARD:
        loss_of_four(net, task, stage.units, i0, i1, factor, here, there)
        keep_outputs(net, stage, i0, i1, here)
    if learning:
        begin_backward(net, stage, step, i0, i1, there, here)
        s, last = end, 0 if net.numbers[WANT_DX] != 0 else 1
        while s >= last:
            before = stage_of(net, s - 1)
            if stage.dense:
                dense_backward_rows(net, stage, before, step, i0, i1, here, there)
            else:
                elementwise_backward_rows(net, stage, before, step, i0, i1, here, there)
            here, there, s, stage = there, here, s - 1, before
    cuda.syncthreads()  # the next task's inputs are written over what this one reads
