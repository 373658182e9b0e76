"""What a launch works on, and what it does to one number or one row: the parts that every way of training shares.

The network is data, as on the CPU (`kernels/layout.py`, whose names for modes, columns and reports are used here):
other layer sizes, depths and batch sizes compile nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastnn.cuda._formulas import like
from fastnn.cuda._numba import cuda, device_function
from fastnn.cuda.activation import activate_four, activate_one, in_fours, slope_four, slope_one, softmax_row
from fastnn.cuda.dropout import drop
from fastnn.cuda.loss import loss_rows
from fastnn.cuda.reduction import block_total, sum_of
from fastnn.cuda.tile import THREADS
from fastnn.cuda.vector import load, load4, store, store4
from fastnn.kernels import layout
from fastnn.kernels.formulas import IDENTITY, RELU, SIGMOID
from fastnn.kernels.layout import (  # fmt: skip
    ACTIVATION,
    BATCH,
    BIAS,
    DELTA,
    DENSE,
    DROPOUT,
    DX,
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
    MODE,
    N_IN,
    N_OUT,
    OUT,
    OUTPUT,
    SEED,
    SIGMOID_FOLDED,
    SOFTMAX,
    SOFTMAX_FOLDED,
    SOURCE,
    THRESHOLD,
    TRAIN,
    WANT_DX,
    WEIGHT,
    X_OFFSET,
)
from fastnn.kernels.loss import EXTERNAL

# Numbers of a launch, behind those of `kernels/layout.py`: offsets, sizes, and the code of the optimizer,
(
    PARTIAL, N_PARAMS,  # in the workspace: chunks of gradients; parameters
    ROW_SUMS, TILE_SUMS, BLOCK_SUMS, NORM_SUMS, COLUMN_SUMS_AT,  # in `sums`
    LABELLED, WEIGHTED, TARGETS, BYTES, RESCALED, ORDERED,  # which arrays there are; TARGETS: columns
    PENALISED, N_BLOCKS, N_TILES, N_STAGES, OPTIMIZER,
    SECOND_AREA, WANTED_AREA,  # in shared memory: see `rows.py`, and `block.py`, where the latter is in the workspace
    STATE_AREA,  # in shared memory: see `block.py`
) = range(layout.FLOATS, layout.FLOATS + 21)  # fmt: skip
N_NUMBERS = STATE_AREA + 1

# Columns of `stages`, behind those of `kernels/layout.py`, as powers of two: the threads that share the columns of a
# layer's product and the parts that its sums are split in (`rows.py`), or the threads that share its outputs and its
# inputs (`block.py`).
COLUMN_BITS, SPLIT_BITS = range(layout.N_STAGE, layout.N_STAGE + 2)
N_STAGE = SPLIT_BITS + 1


class Net(NamedTuple):
    """All that a launch works on; e is the float type."""

    numbers: Any  # int64 (N_NUMBERS,)
    stages: Any  # int64 (stages, N_STAGE)
    floats: Any  # float64 (layout.N_FLOATS,)
    scales: Any  # float64 (stages,)
    hyper: Any  # float64 (N_HYPER,)
    tiles: Any  # int64 (N_TILES, 3): stage, first row and first column of each tile of a gradient
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
    arrivals: Any  # int32 (2,): counts at barriers, and whether to stop; in `launches.py` that, and steps done
    shared: Any  # e: the block's own memory, for tiles
    lanes: Any  # float64: the block's, for sums
    own_labels: Any  # int64: the block's, for the labels of a few rows
    met: Any  # int64 (1,): the block's: by how much its barriers have counted


@device_function
def source_row(net, b):
    """Return which row of the data is number `b` in the order of the epoch."""
    return net.order[b] if net.numbers[ORDERED] != 0 else b


@device_function
def input_at(net, row, j):
    """Return the input `j` of a row of the data, scaled where asked.

    It is 0 where gradients are summed and the row weighs nothing: 0 times infinity would be NaN there.
    """
    n = net.stages[0, N_IN]
    at = row * n + j
    value = like(net.x_bytes[at], net.params[0]) if net.numbers[BYTES] != 0 else net.x[at]
    if net.numbers[RESCALED] != 0:
        value = value * net.rescale[j] + net.rescale[n + j]
    learning = net.numbers[MODE] == TRAIN or net.numbers[MODE] == GRADIENT
    if learning and net.numbers[WEIGHTED] != 0 and net.weights[row] == 0.0:
        value = like(0.0, value)
    return value


@device_function
def next_place(b, j, down, right, n):
    """Return row and column of the element that lies some rows and columns behind another, in rows of n."""
    b, j = b + down, j + right
    return (b + 1, j - n) if j >= n else (b, j)


@device_function
def gather(net, row0, first, last):
    """Copy rows first..last of the batch that begins at `row0` into the workspace, scaled where asked.

    A thread has four elements on their way at a time.
    """
    n, at, t, end = net.stages[0, N_IN], net.numbers[X_OFFSET], cuda.threadIdx.x, last - 1
    b0, j0, down, right = first + t // n, t % n, THREADS // n, THREADS % n
    while b0 < last:
        b1, j1 = next_place(b0, j0, down, right, n)
        b2, j2 = next_place(b1, j1, down, right, n)
        b3, j3 = next_place(b2, j2, down, right, n)
        x0 = input_at(net, source_row(net, row0 + b0), j0)
        x1 = input_at(net, source_row(net, row0 + min(b1, end)), j1)
        x2 = input_at(net, source_row(net, row0 + min(b2, end)), j2)
        x3 = input_at(net, source_row(net, row0 + min(b3, end)), j3)
        store(net.work, at + b0 * n + j0, x0)
        if b1 < last:
            store(net.work, at + b1 * n + j1, x1)
        if b2 < last:
            store(net.work, at + b2 * n + j2, x2)
        if b3 < last:
            store(net.work, at + b3 * n + j3, x3)
        b0, j0 = next_place(b3, j3, down, right, n)


class Stage(NamedTuple):
    """A row of the table of stages, in registers: what is written to memory makes nobody read it once more."""

    number: Any
    dense: Any
    inputs: Any
    units: Any
    weight: Any
    bias: Any
    activation: Any
    keep: Any
    into: Any
    out: Any
    source: Any
    delta: Any
    threshold: Any  # of the dropout; 0 where there is none
    layer: Any
    column_bits: Any
    split_bits: Any


@device_function
def stage_of(net, s):
    """Return stage number `s`."""
    table = net.stages
    threshold = table[s, THRESHOLD] if net.numbers[DROPOUT] != 0 else 0
    return Stage(
        s, table[s, KIND] == DENSE, table[s, N_IN], table[s, N_OUT], table[s, WEIGHT], table[s, BIAS],
        table[s, ACTIVATION], table[s, KEEP], table[s, IN], table[s, OUT], table[s, SOURCE], table[s, DELTA], threshold,
        table[s, LAYER], table[s, COLUMN_BITS], table[s, SPLIT_BITS],
    )  # fmt: skip


@device_function
def dropped(net, stage, step, at, value):
    """Return `value` times the dropout mask of a stage at a logical index."""
    scale = like(net.scales[stage.number], value)
    return drop(value, at, stage.threshold, scale, step, stage.layer, net.numbers[SEED])


@device_function
def finish_forward(net, stage, step, at, z):
    """Store and return activation and dropout of the sum `z` at index `at` of a stage; store what its slope reads."""
    a = activate_one(stage.activation, z)
    if stage.keep == KEEP_Z:
        store(net.work, stage.source + at, z)
    if stage.keep == KEEP_A:
        store(net.work, stage.source + at, a)
    if stage.threshold > 0:
        a = dropped(net, stage, step, at, a)
    store(net.work, stage.out + at, a)
    return a


@device_function
def finish_backward(net, stage, step, at, d):
    """Return the gradient of a stage's sum at index `at` for that of its output: mask, then slope."""
    return finish_backward_from(net, stage, step, at, d, slope_source(net, stage, at))


@device_function
def slope_source(net, stage, at):
    """Return what the slope at index `at` of a stage is worked out from."""
    return load(net.work, stage.source + at) if stage.activation != IDENTITY else like(0.0, net.params[0])


@device_function
def finish_backward_from(net, stage, step, at, d, source):
    """`finish_backward` where `slope_source` has been asked before."""
    if stage.threshold > 0:
        # A dropped unit of ReLU puts out 0, and so is the slope there.
        d = d * like(net.scales[stage.number], d) if stage.activation == RELU else dropped(net, stage, step, at, d)
    return d * slope_one(stage.activation, source) if stage.activation != IDENTITY else d


@device_function
def goes_in_fours(stage):
    """Return whether `finish_forward_four` and `finish_backward_four` do what a stage does to its sums."""
    return stage.units & 3 == 0 and stage.threshold == 0 and in_fours(stage.activation)


@device_function
def finish_forward_four(net, stage, at, z):
    """`finish_forward` of four neighbours, where the stage `goes_in_fours`."""
    a = activate_four(stage.activation, z)
    if stage.keep == KEEP_Z:
        store4(net.work, stage.source + at, z)
    if stage.keep == KEEP_A:
        store4(net.work, stage.source + at, a)
    store4(net.work, stage.out + at, a)


@device_function
def finish_backward_four(net, stage, at, d):
    """`finish_backward` of four neighbours, where the stage `goes_in_fours`."""
    if stage.activation == IDENTITY:
        return d
    return slope_four(stage.activation, d, load4(net.work, stage.source + at))


@device_function
def softmax_slope(d, p):
    """Turn the gradient of softmax outputs p into that of the logits: d_j = p_j (d_j - sum_k d_k p_k)."""
    inner = like(0.0, p[0])
    for j in range(p.size):
        inner += d[j] * p[j]
    for j in range(p.size):
        d[j] = p[j] * (d[j] - inner)


@device_function
def output_loss(net, result, d, y, label, target, weight, factor):
    """Loss of a row whose outputs are y, and into d the gradient of the last stage's outputs."""
    output, external = net.numbers[OUTPUT], net.numbers[LOSS] == EXTERNAL
    if output == SOFTMAX or (output == SOFTMAX_FOLDED and external):
        softmax_row(y)
    if external:
        result[0], result[1] = 0.0, 0.0
        for j in range(y.size):
            d[j] = target[j]
            if output == SIGMOID_FOLDED:
                y[j] = activate_one(SIGMOID, y[j])
                d[j] = d[j] * slope_one(SIGMOID, y[j])
    else:
        loss_rows(result, net.numbers[LOSS], net.floats[HUBER_DELTA], d, y, label, target, weight, 1, y.size, factor)
    if output == SOFTMAX or (output == SOFTMAX_FOLDED and external):
        softmax_slope(d, y)


@device_function
def loss_row(net, stage, b, row0, step, factor):
    """Loss of row `b` of the batch into the sums of rows, and the gradient of the last stage's sums."""
    n, width, source = stage.units, net.numbers[TARGETS], source_row(net, row0 + b)
    out, delta, at = stage.out + b * n, stage.delta + b * n, net.numbers[ROW_SUMS] + 2 * b
    d = net.work[delta : delta + n]
    output_loss(
        net, net.sums[at : at + 2], d, net.work[out : out + n], net.labels[source : source + net.numbers[LABELLED]],
        net.targets[source * width : source * width + width], net.weights[source : source + net.numbers[WEIGHTED]],
        factor,
    )  # fmt: skip
    if net.numbers[MODE] == TRAIN or net.numbers[MODE] == GRADIENT:
        for j in range(n):
            d[j] = finish_backward(net, stage, step, b * n + j, d[j])


@device_function
def loss_of_rows(net, tile, first, last, row0, step, factor):
    """Return the loss of rows first..last of the batch; the sums of tiles get it, and how many are right, at `tile`."""
    stage = stage_of(net, net.numbers[N_STAGES] - 1)
    for b in range(first + cuda.threadIdx.x, last, THREADS):
        loss_row(net, stage, b, row0, step, factor)
    cuda.syncthreads()  # the rows' losses are there
    at = net.numbers[ROW_SUMS] + 2 * first
    loss = sum_of(net.sums, at, last - first, 2, net.lanes)
    correct = sum_of(net.sums, at + 1, last - first, 2, net.lanes)
    if cuda.threadIdx.x == 0:
        at = net.numbers[TILE_SUMS] + 2 * tile
        net.sums[at], net.sums[at + 1] = loss, correct
    return loss


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
def write_result(net, i, rows):
    """Copy the outputs (as probabilities where softmax or sigmoid is folded), or the gradient of the inputs."""
    end = net.numbers[N_STAGES] - 1
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
