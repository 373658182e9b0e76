"""The first stage where of its input only what is not zero is there: rows of a CSR matrix, read where they lie.

Each number of the result is the same chain of multiply-adds as in the product of dense rows, but for those with zeros,
which change nothing: the bits are the same. (On CPUs without multiply-adds a few differ by an ulp.)
"""

from __future__ import annotations

from fastnn.kernels._blocks import copy, fill
from fastnn.kernels._context import floats_at, integers_at
from fastnn.kernels._jit import block, inlined
from fastnn.kernels._simd import pointer, prefetch_to_second
from fastnn.kernels.elementary import like
from fastnn.kernels.layout import ORDER, ROW, X_COLUMNS, X_STARTS, X_VALUES

AHEAD = 4
"""How many numbers before its turn the row of W is asked for that one meets: W may be in memory."""


@inlined
def reads_sparse(c, s):
    """Return whether the input of stage `s` is rows of a sparse matrix."""
    return s == 0 and c[X_STARTS + 1] > 0


@inlined
def _row(c, b):
    """Return (first, last + 1) of the numbers of row `b` of the batch."""
    starts, order = integers_at(c, X_STARTS), integers_at(c, ORDER)
    source = order[c[ROW] + b] if order.size else c[ROW] + b
    return starts[source], starts[source + 1]


@inlined
def _add_multiple(to, factor, of):
    """Add factor * of[j] to to[j], rounded once where the CPU has multiply-adds."""
    for j in range(to.size):
        to[j] += factor * of[j]


@block
def sparse_forward(c, params, work, out, n, weight, bias, i0, i1, j0, j1, base):
    """Write x W + b of rows [i0, i1), columns [j0, j1), to `work` from `out` on; a bias of -1 is none.

    Row i is row `base` + i of the batch.
    """
    columns, values = integers_at(c, X_COLUMNS), floats_at(c, X_VALUES, params)
    for b in range(i0, i1):
        first, last = _row(c, base + b)
        sums = work[out + b * n + j0 : out + b * n + j1]
        if bias >= 0:
            copy(sums, params[bias + j0 : bias + j1])
        else:
            fill(sums, like(0.0, sums[0]))
        for q in range(first, last):
            if q + AHEAD < last:
                soon = weight + columns[q + AHEAD] * n
                for j in range(soon + j0, soon + j1, 64 // params.itemsize):
                    prefetch_to_second(pointer(params, j))
            row = weight + columns[q] * n
            _add_multiple(sums, values[q], params[row + j0 : row + j1])


@block
def sparse_gradient(c, work, delta, n, i0, i1, j0, j1, b0, b1, base, out, d, ld, goes_on):
    """Write rows [i0, i1), columns [j0, j1) of x^T dZ over rows [b0, b1) to `out` from `d` on.

    Row b is row `base` + b of the batch. `ld` numbers lie between the beginnings of two rows of `out`. Where it
    `goes_on`, the sums are added to it. dZ is in `work` from `delta` on, row by row.
    """
    columns, values = integers_at(c, X_COLUMNS), floats_at(c, X_VALUES, work)
    for i in range(0 if goes_on else i1 - i0):
        fill(out[d + i * ld : d + i * ld + j1 - j0], like(0.0, work[0]))
    for b in range(b0, b1):
        q, last = _row(c, base + b)
        q = _first_from(columns, q, last, i0)
        dz = work[delta + b * n + j0 : delta + b * n + j1]
        while q < last and columns[q] < i1:
            at = d + (columns[q] - i0) * ld
            _add_multiple(out[at : at + j1 - j0], values[q], dz)
            q += 1


@inlined
def _first_from(columns, low, high, column):
    """Return the first place in [low, high) of a column not below `column`, by bisection, or `high`."""
    while low < high:
        middle = (low + high) // 2
        if columns[middle] < column:
            low = middle + 1
        else:
            high = middle
    return low
