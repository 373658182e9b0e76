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

from fastnn.cuda._formulas import like
from fastnn.cuda._numba import SIMULATED, cuda, device_function
from fastnn.cuda.net import (
    COLUMN_BITS,
    FIRST_AREA,
    SPLIT_BITS,
    TILE_SUMS,
    finish_backward,
    finish_forward,
    input_at,
    output_loss,
    source_row,
)
from fastnn.cuda.tile import THREADS
from fastnn.cuda.vector import add_products, load, load4, sixteen, store16
from fastnn.kernels.epoch import (
    BIAS,
    DELTA,
    DENSE,
    DX,
    FORWARD,
    KIND,
    MODE,
    N_IN,
    N_OUT,
    OUT,
    WANT_DX,
    WEIGHT,
    X_OFFSET,
)  # fmt: skip

ROWS = 4
"""Rows of a task."""

WIDEST = 512
"""Units of a layer up to which a block reads all of its weights for four rows."""

LANES = 2 if SIMULATED else 16
GROUPS = THREADS // LANES
"""Threads that share a row of the weights on the way back, and rows that a block has in hand, times four."""

PITCH = 16 * GROUPS + 4
"""Between the parts of two lanes: 4 more than they have, or all lanes' would lie in the same banks."""

LARGEST = 1e300
"""From which a loss is taken for infinite: the sum of several such might be."""

PARTS = 16 * THREADS + 4 * LANES
"""Numbers of shared memory for parts of sums; behind them lie two areas for what layers hand on."""


def areas(inputs: int, widest: int) -> tuple[int, int]:
    """Return the numbers of the two areas, where no layer has more than `widest` units; the first has the inputs."""
    slots = 5 * _fours(widest)
    return max(4 * inputs, slots), slots


def room(inputs: int, widest: int) -> int:
    """Return the numbers of shared memory that a task takes."""
    return PARTS + sum(areas(inputs, widest))


def _fours(size: int) -> int:
    return -(-size // 4) * 4


def split(inputs: int, units: int) -> tuple[int, int]:
    """Return how a layer's product is shared, as powers of two: threads by columns, and parts of the inputs."""
    columns = units // 4 if units % 4 == 0 else units
    column_bits = min(_bits(columns), _bits(THREADS))
    most = _bits(THREADS) - column_bits
    return column_bits, min(most, max(0, _bits(-(-inputs // 2))))


def _bits(size: int) -> int:
    """Return the smallest power of two that is no less, by its exponent."""
    return max(0, (size - 1).bit_length())


@device_function
def slot(j):
    """Return where the gradient of column j lies in its area: room for one more behind each four spreads the banks."""
    return 4 * (j + (j >> 2))


@device_function
def gather_rows(net, row0, i0, i1, to):
    """Copy rows i0..i1 of the batch that begins at `row0` into shared memory and the workspace."""
    n, at = net.stages[0, N_IN], net.numbers[X_OFFSET]
    for r in range(ROWS):
        inside = i0 + r < i1
        source = source_row(net, row0 + min(i0 + r, i1 - 1)) * n
        for j in range(cuda.threadIdx.x, n, THREADS):
            value = input_at(net, source, j)
            net.shared[to + 4 * j + r] = value
            if inside:
                net.work[at + (i0 + r) * n + j] = value


@device_function
def sums_of_four(net, x, w, n, k, part, parts):
    """Return the sums of 4 rows by 4 columns over every so-many-th input; x and w are where row and weights begin."""
    sums = sixteen(like(0.0, net.params[0]))
    x, w, across, down = x + 4 * part, w + part * n, 4 * parts, parts * n
    while part + 7 * parts < k:
        w0, w1 = load4(net.params, w), load4(net.params, w + down)
        w2, w3 = load4(net.params, w + 2 * down), load4(net.params, w + 3 * down)
        w4, w5 = load4(net.params, w + 4 * down), load4(net.params, w + 5 * down)
        w6, w7 = load4(net.params, w + 6 * down), load4(net.params, w + 7 * down)
        sums = add_products(sums, load4(net.shared, x), w0)
        sums = add_products(sums, load4(net.shared, x + across), w1)
        sums = add_products(sums, load4(net.shared, x + 2 * across), w2)
        sums = add_products(sums, load4(net.shared, x + 3 * across), w3)
        sums = add_products(sums, load4(net.shared, x + 4 * across), w4)
        sums = add_products(sums, load4(net.shared, x + 5 * across), w5)
        sums = add_products(sums, load4(net.shared, x + 6 * across), w6)
        sums = add_products(sums, load4(net.shared, x + 7 * across), w7)
        part, x, w = part + 8 * parts, x + 8 * across, w + 8 * down
    while part + 3 * parts < k:
        w0, w1 = load4(net.params, w), load4(net.params, w + down)
        w2, w3 = load4(net.params, w + 2 * down), load4(net.params, w + 3 * down)
        sums = add_products(sums, load4(net.shared, x), w0)
        sums = add_products(sums, load4(net.shared, x + across), w1)
        sums = add_products(sums, load4(net.shared, x + 2 * across), w2)
        sums = add_products(sums, load4(net.shared, x + 3 * across), w3)
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
def dense_forward_rows(net, s, step, i0, i1, from_, to, last):
    """Outputs of a dense stage for rows i0..i1, from one area to the other; row by row where it is the last."""
    k, n, bias, weight = net.stages[s, N_IN], net.stages[s, N_OUT], net.stages[s, BIAS], net.stages[s, WEIGHT]
    bits, parts, t, shared = net.stages[s, COLUMN_BITS], 1 << net.stages[s, SPLIT_BITS], cuda.threadIdx.x, net.shared
    lane, part, by_four = t & ((1 << bits) - 1), t >> bits, n & 3 == 0
    column_bits = bits + 2 if by_four else bits
    columns = 1 << column_bits
    for j0 in range(0, n, columns):
        if part < parts:
            if by_four:
                if j0 + 4 * lane < n:
                    sums = sums_of_four(net, from_, weight + j0 + 4 * lane, n, k, part, parts)
                    store16(shared, 4 * (part << column_bits) + 4 * lane, columns, sums)
            elif j0 + lane < n:
                column = sums_of_one(net, from_, weight + j0 + lane, n, k, part, parts)
                at = 4 * (part << column_bits) + lane
                shared[at], shared[at + columns] = column[0], column[1]
                shared[at + 2 * columns], shared[at + 3 * columns] = column[2], column[3]
        cuda.syncthreads()  # the parts are there
        for e in range(t, 4 << column_bits, THREADS):
            r, j = e >> column_bits, j0 + (e & (columns - 1))
            if j < n:
                z = shared[e]
                for p in range(1, parts):
                    z += shared[4 * (p << column_bits) + e]
                if i0 + r < i1:
                    if bias >= 0:
                        z += net.params[bias + j]
                    z = finish_forward(net, s, step, (i0 + r) * n + j, z)
                shared[to + (r * n + j if last else 4 * j + r)] = z
        cuda.syncthreads()  # the next stage reads the outputs, and parts are written again


@device_function
def elementwise_forward_rows(net, s, step, i0, i1, from_, to, last):
    """Outputs of a stage without weights."""
    n = net.stages[s, N_OUT]
    for e in range(cuda.threadIdx.x, 4 * n, THREADS):
        r, j = e & 3, e >> 2
        z = net.shared[from_ + e]
        if i0 + r < i1:
            z = finish_forward(net, s, step, (i0 + r) * n + j, z)
        net.shared[to + (r * n + j if last else e)] = z
    cuda.syncthreads()


@device_function
def loss_of_four(net, task, i0, i1, row0, factor, y, d):
    """Loss of rows i0..i1, a thread a row, and the gradient of their outputs; both lie row by row in shared memory."""
    t, n = cuda.threadIdx.x, net.stages[net.stages.shape[0] - 1, N_OUT]
    if i0 + t < i1 and t < ROWS:
        low, high = t * n, (t + 1) * n
        output_loss(
            net, net.lanes[2 * t : 2 * t + 2], net.shared[d + low : d + high], net.shared[y + low : y + high], i0 + t,
            row0, factor,
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
def keep_outputs(net, i0, i1, y):
    """Write the last outputs, which the loss may have made probabilities, to the workspace."""
    end = net.stages.shape[0] - 1
    n, out = net.stages[end, N_OUT], net.stages[end, OUT]
    for e in range(cuda.threadIdx.x, (i1 - i0) * n, THREADS):
        net.work[out + i0 * n + e] = net.shared[y + e]


@device_function
def begin_backward(net, step, i0, i1, from_, to):
    """Carry the gradient of the last outputs, which lies row by row, through their stage and into slots."""
    end = net.stages.shape[0] - 1
    n, delta = net.stages[end, N_OUT], net.stages[end, DELTA]
    for r in range(ROWS):
        for j in range(cuda.threadIdx.x, n, THREADS):
            at, gradient = (i0 + r) * n + j, like(0.0, net.params[0])
            if i0 + r < i1:
                gradient = finish_backward(net, end, step, at, net.shared[from_ + r * n + j])
                net.work[delta + at] = gradient
            net.shared[to + slot(j) + r] = gradient
    cuda.syncthreads()  # the next stage reads them


@device_function
def sums_along(net, s, from_, k0, lane, group):
    """Return the sums of 4 inputs by 4 rows over every so-many-th output of a dense stage."""
    k, n, weight = net.stages[s, N_IN], net.stages[s, N_OUT], net.stages[s, WEIGHT]
    sums, end = sixteen(like(0.0, net.params[0])), k - 1
    i = k0 + group
    w0, w1 = weight + min(i, end) * n, weight + min(i + GROUPS, end) * n
    w2, w3 = weight + min(i + 2 * GROUPS, end) * n, weight + min(i + 3 * GROUPS, end) * n
    if n & 3 == 0:
        for j in range(4 * lane, n, 4 * LANES):
            a, b = load4(net.params, w0 + j), load4(net.params, w1 + j)
            c, d = load4(net.params, w2 + j), load4(net.params, w3 + j)
            at = from_ + 5 * j
            sums = add_products(sums, (a[0], b[0], c[0], d[0]), load4(net.shared, at))
            sums = add_products(sums, (a[1], b[1], c[1], d[1]), load4(net.shared, at + 4))
            sums = add_products(sums, (a[2], b[2], c[2], d[2]), load4(net.shared, at + 8))
            sums = add_products(sums, (a[3], b[3], c[3], d[3]), load4(net.shared, at + 12))
    else:
        for j in range(lane, n, LANES):
            e, f = load(net.params, w0 + j), load(net.params, w1 + j)
            g, h = load(net.params, w2 + j), load(net.params, w3 + j)
            sums = add_products(sums, (e, f, g, h), load4(net.shared, from_ + slot(j)))
    return sums


@device_function
def put_backward(net, s, step, i0, i1, r, j, to, value):
    """Carry the gradient of input j of stage s, row r, through the stage before, and store it."""
    n = net.stages[s, N_IN]
    at, place = (i0 + r) * n + j, net.stages[s - 1, DELTA] if s > 0 else net.numbers[DX]
    if i0 + r < i1:
        if s > 0:
            value = finish_backward(net, s - 1, step, at, value)
        net.work[place + at] = value
    if s > 0:
        net.shared[to + slot(j) + r] = value


@device_function
def dense_backward_rows(net, s, step, i0, i1, from_, to):
    """Gradient of the inputs of a dense stage for rows i0..i1, from one area to the other."""
    k, t, shared = net.stages[s, N_IN], cuda.threadIdx.x, net.shared
    lane, group = t % LANES, t // LANES
    for k0 in range(0, k, 4 * GROUPS):
        store16(shared, lane * PITCH + 4 * group, 4 * GROUPS, sums_along(net, s, from_, k0, lane, group))
        cuda.syncthreads()  # the parts are there
        for e in range(t, 16 * GROUPS, THREADS):
            if k0 + (e >> 2) < k:
                total = shared[e]
                for p in range(1, LANES):
                    total += shared[p * PITCH + e]
                put_backward(net, s, step, i0, i1, e & 3, k0 + (e >> 2), to, total)
        cuda.syncthreads()  # the next stage reads the gradients, and parts are written again


@device_function
def elementwise_backward_rows(net, s, step, i0, i1, from_, to):
    """Gradient of the inputs of a stage without weights."""
    for e in range(cuda.threadIdx.x, 4 * net.stages[s, N_IN], THREADS):
        put_backward(net, s, step, i0, i1, e & 3, e >> 2, to, net.shared[from_ + slot(e >> 2) + (e & 3)])
    cuda.syncthreads()


@device_function
def few_rows(net, task, step, row0, rows, factor, learning):
    """Carry rows 4 task .. 4 task + 4 of the batch through the network and, where it learns, back."""
    n_stages, i0 = net.stages.shape[0], task * ROWS
    i1, here, there = min(rows, i0 + ROWS), PARTS, PARTS + net.numbers[FIRST_AREA]
    gather_rows(net, row0, i0, i1, here)
    cuda.syncthreads()  # the first stage reads what other threads gathered
    for s in range(n_stages):
        if net.stages[s, KIND] == DENSE:
            dense_forward_rows(net, s, step, i0, i1, here, there, s == n_stages - 1)
        else:
            elementwise_forward_rows(net, s, step, i0, i1, here, there, s == n_stages - 1)
        here, there = there, here
    if net.numbers[MODE] != FORWARD:
        loss_of_four(net, task, i0, i1, row0, factor, here, there)
        keep_outputs(net, i0, i1, here)
        cuda.syncthreads()  # gradients are written over the outputs, and the next task's inputs
    if learning:
        begin_backward(net, step, i0, i1, there, here)
        for s in range(n_stages - 1, -1 if net.numbers[WANT_DX] != 0 else 0, -1):
            if net.stages[s, KIND] == DENSE:
                dense_backward_rows(net, s, step, i0, i1, here, there)
            else:
                elementwise_backward_rows(net, s, step, i0, i1, here, there)
            here, there = there, here
