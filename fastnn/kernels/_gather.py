"""The first operation of a step: rows of the data set, in the order of the epoch, into the workspace."""

from __future__ import annotations

from fastnn.kernels._blocks import copy, fill
from fastnn.kernels._context import byte_rows_at, bytes_at, doubles_at, float_rows_at, floats_at, integers_at
from fastnn.kernels._jit import block, inlined
from fastnn.kernels._simd import pointer, prefetch, prefetch_to_second
from fastnn.kernels.elementary import like
from fastnn.kernels.layout import (
    BATCH_LABELS,
    BATCH_WEIGHTS,
    GRADIENT,
    LABELS,
    MODE,
    ORDER,
    RESCALE,
    ROW,
    ROWS,
    T_OFFSET,
    TARGETS,
    TRAIN,
    WEIGHTS,
    WORK,
    X_BYTES,
    X_OFFSET,
    X,
)

ROWS_AHEAD = 16
"""How many rows before its turn a row in random order is asked for, since it comes from far away."""

LONG_ROW = 192
"""Bytes of a row from which it is asked for into the second cache only.

The first one has a dozen or two of lines under way. On two cores of a Zen 4, copied from memory in random order, GB/s
where nothing is asked for, into the first cache, into the second: rows of 32 bytes 2.2, 3.2, 1.9; of 64 bytes 3.1, 5.1,
2.7; of 216 bytes 4.6, 7.2, 7.7; of 400 bytes 7.4, 9.6, 14.5; of 3,136 bytes 10.9, 10.9, 17.
"""


@inlined
def _prefetch_row(rows, i):
    """Ask for row i of a matrix, where that has columns."""
    if rows.shape[1] == 0:
        return
    row = rows[i]
    line, end = 64 // row.itemsize, row.size - 1
    if row.size * row.itemsize < LONG_ROW:
        for j in range(0, row.size, line):
            prefetch(pointer(row, j))
        prefetch(pointer(row, end))
    else:
        for j in range(0, row.size, line):
            prefetch_to_second(pointer(row, j))
        prefetch_to_second(pointer(row, end))


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
def _gather(c, params, first, last, base):
    """Copy rows of the batch into the workspace in the given order, scaled where asked, with what belongs to them."""
    work = floats_at(c, WORK, params)
    x, x_bytes = float_rows_at(c, X, params), byte_rows_at(c, X_BYTES)
    rescale, targets = float_rows_at(c, RESCALE, params), float_rows_at(c, TARGETS, params)
    labels, weights, order = integers_at(c, LABELS), doubles_at(c, WEIGHTS), integers_at(c, ORDER)
    batch_labels, batch_weights = integers_at(c, BATCH_LABELS), doubles_at(c, BATCH_WEIGHTS)
    n, n_targets = max(x.shape[1], x_bytes.shape[1]), targets.shape[1]
    ahead = min(last - first, ROWS_AHEAD)
    for b in range(first, last):
        source = order[c[ROW] + base + b]
        later = c[ROW] + base + b + ahead
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
def _copy_batch(c, params, first, last, base):
    """`_gather` without an order: the rows lie one behind the other."""
    work, rescale = floats_at(c, WORK, params), float_rows_at(c, RESCALE, params)
    labels, weights = integers_at(c, LABELS), doubles_at(c, WEIGHTS)
    source, n, n_targets = c[ROW] + base + first, max(c[X + 2], c[X_BYTES + 2]), c[TARGETS + 2]
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
def fetch(c, params, first, last, base):
    """Copy rows of the batch to rows [first, last) of the workspace, whose row 0 is for row `base` of the batch."""
    if integers_at(c, ORDER).size:
        _gather(c, params, first, last, base)
    else:
        _copy_batch(c, params, first, last, base)
