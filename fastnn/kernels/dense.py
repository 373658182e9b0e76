"""The dense layer: forward product with bias and activation, and the three products of its backward pass."""

from __future__ import annotations

import numpy as np
from numba import get_num_threads

from fastnn.kernels import formulas as f
from fastnn.kernels._blocks import LINE_ELEMENTS, copy, first_line
from fastnn.kernels._check import check_arrays, check_code
from fastnn.kernels._context import SLOTS, floats_at
from fastnn.kernels._jit import Task, block, entry, like_writable
from fastnn.kernels._pool import KINDS, lead, pool, put
from fastnn.kernels._simd import SUM_VECTORS, make_sum_kernel, pointer, tile_columns, vector_lanes
from fastnn.kernels.activation import ACTIVATE, activation_forward, call_activate
from fastnn.kernels.gemm import GEMM, MR, call_gemm, product_plan, split

_sums, _sums_part = make_sum_kernel(SUM_VECTORS, False), make_sum_kernel(1, True)


@block
def column_sums(out, out0, d, d0, n, rows, first, last, goes_on):
    """Write out[out0 + j] = sum_b d[b, j] for first <= j < last of `n` columns, or add that to it where it `goes_on`.

    Rows are added in the order of `make_sum_kernel`.
    """
    lanes = vector_lanes(out)
    if first == 0 and last == n and n < lanes and n & (n - 1) == 0:  # a vector is several whole rows
        full = rows * n // lanes
        _sums_part(pointer(out, out0), pointer(d, d0), lanes, full, goes_on, lanes, rows * n - full * lanes, n)
        return
    j = first
    while j < last:
        to, at = pointer(out, out0 + j), pointer(d, d0 + j)
        if j + SUM_VECTORS * lanes <= last:
            _sums(to, at, n, rows, goes_on)
            j += SUM_VECTORS * lanes
        else:
            width = min(lanes, last - j)
            _sums_part(to, at, n, rows, goes_on, width, 0, width)
            j += width


# The contexts of the two jobs: numbers, then arrays. `_X_*` of the backward pass is of the product toward dx.
_GEMM, _ACTIVATE, _CODE, _ROWS, _K, _N, _EACH, _ROW_BLOCKS, _COLUMN_BLOCKS, _X_ROW_BLOCKS, _X_COLUMN_BLOCKS = range(11)
_X, _W, _SCRATCH, _A, _Z, _B, _DX, _DW, _DB, _DZ = range(11, 11 + 10 * SLOTS, SLOTS)
_N_CONTEXT = 11 + 10 * SLOTS


@block
def dense_forward_task(p, like, task, seat):
    """Do one block of a layer's outputs."""
    a, z, b = floats_at(p, _A, like), floats_at(p, _Z, like), floats_at(p, _B, like)
    k, n = p[_K], p[_N]
    i0, i1 = split(p[_ROWS], p[_ROW_BLOCKS], task % p[_ROW_BLOCKS], MR)
    j0, j1 = split(n, p[_COLUMN_BLOCKS], task // p[_ROW_BLOCKS], tile_columns(like))
    if i1 > i0 and j1 > j0:
        out, x, w = pointer(z, i0 * n + j0), floats_at(p, _X, like), floats_at(p, _W, like)
        call_gemm(
            p[_GEMM], out, n, pointer(x, i0 * k), k, 1, pointer(w, j0), n, 1, i1 - i0, j1 - j0, k, pointer(b, j0),
            0 if b.size > 0 else -1, pointer(floats_at(p, _SCRATCH, like), seat * p[_EACH]), out, 0,
        )  # fmt: skip
        for i in range(i0, i1):
            row = a[i * n + j0 : i * n + j1]
            copy(row, z[i * n + j0 : i * n + j1])
            call_activate(p[_ACTIVATE], p[_CODE], row)


@block
def dense_backward_task(p, like, task, seat):
    """Do one block of dw (with db), or of dx."""
    x, w, dz, scratch = (
        floats_at(p, _X, like),
        floats_at(p, _W, like),
        floats_at(p, _DZ, like),
        floats_at(p, _SCRATCH, like),
    )
    rows, k, n = p[_ROWS], p[_K], p[_N]
    nr, w_rows, x_rows = tile_columns(like), p[_ROW_BLOCKS], p[_X_ROW_BLOCKS]
    w_tasks = w_rows * p[_COLUMN_BLOCKS]
    if task < w_tasks:
        i0, i1 = split(k, w_rows, task % w_rows, MR)
        j0, j1 = split(n, p[_COLUMN_BLOCKS], task // w_rows, nr)
        if i1 > i0 and j1 > j0:
            out = pointer(floats_at(p, _DW, like), i0 * n + j0)
            call_gemm(
                p[_GEMM], out, n, pointer(x, i0), 1, k, pointer(dz, j0), n, 1, i1 - i0, j1 - j0, rows, out, -1,
                pointer(scratch, seat * p[_EACH]), out, 0,
            )  # fmt: skip
        db = floats_at(p, _DB, like)
        if task % w_rows == 0 and db.size:
            column_sums(db, 0, dz, 0, n, rows, j0, j1, False)
        return
    task -= w_tasks
    i0, i1 = split(rows, x_rows, task % x_rows, MR)
    j0, j1 = split(k, p[_X_COLUMN_BLOCKS], task // x_rows, nr)
    if i1 > i0 and j1 > j0:
        out = pointer(floats_at(p, _DX, like), i0 * k + j0)
        call_gemm(
            p[_GEMM], out, k, pointer(dz, i0 * n), n, 1, pointer(w, j0 * n), 1, n, i1 - i0, j1 - j0, n, out, -1,
            pointer(scratch, seat * p[_EACH]), out, 0,
        )  # fmt: skip


FORWARD, BACKWARD = Task(dense_forward_task, KINDS), Task(dense_backward_task, KINDS)


@entry
def _dense_forward(team, job, members, like, function, p, a, z, x, w, b, scratch):
    put(p, _A, a)
    put(p, _Z, z)
    put(p, _X, x)
    put(p, _W, w)
    put(p, _B, b)
    put(p, _SCRATCH, scratch[first_line(scratch) :])
    lead(team, job, members, like, function, p, p[_ROW_BLOCKS] * p[_COLUMN_BLOCKS])


@entry
def _dense_backward(team, job, members, like, function, p, dx, dw, db, dz, x, w, scratch):
    put(p, _DX, dx)
    put(p, _DW, dw)
    put(p, _DB, db)
    put(p, _DZ, dz)
    put(p, _X, x)
    put(p, _W, w)
    put(p, _SCRATCH, scratch[first_line(scratch) :])
    x_tasks = p[_X_ROW_BLOCKS] * p[_X_COLUMN_BLOCKS] if dx.size else 0
    lead(team, job, members, like, function, p, p[_ROW_BLOCKS] * p[_COLUMN_BLOCKS] + x_tasks)


def _context(dtype: np.dtype, rows: int, k: int, n: int, code: int = 0) -> np.ndarray:
    p = np.empty(_N_CONTEXT, np.int64)
    p[:_EACH] = GEMM.address(dtype), ACTIVATE.address(dtype), code, rows, k, n
    return p


def dense_forward(
    a: np.ndarray,
    z: np.ndarray,
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None,
    activation: str = "identity",
) -> None:
    """Write z = x w + b and a = f(z).

    Parameters
    ----------
    a : array (B, N), out
        Activations; overwritten.
    z : array (B, N), out
        Pre-activations; overwritten.
    x : array (B, K), in
        One sample a row, float32 or float64. (The survey writes samples as columns: its W x + b is this,
        transposed.)
    w : array (K, N), in
        Weights, inputs by units.
    b : array (N,) or None, in
        Bias.
    activation : str
        As in `activation_forward`.

    Raises
    ------
    TypeError, ValueError
        Another dtype, shape, order, a read-only output, overlapping arrays, an unknown name; nothing is
        written.

    Notes
    -----
    Each z is b plus one chain of K fused multiply-adds in the arrays' dtype: error at most K + 1 rounding
    steps.
    """
    code = check_code("activation", activation, f.CODES)
    if not getattr(z, "ndim", 0) == getattr(x, "ndim", 0) == 2:
        check_arrays({"z": z}, {"x": x, "w": w}, {"z": (None, None), "x": (None, None), "w": (None, None)})
    (rows, n), k = z.shape, x.shape[1]
    inputs = {"x": x, "w": w} if b is None else {"x": x, "w": w, "b": b}
    check_arrays({"a": a, "z": z}, inputs, {"a": (rows, n), "x": (rows, k), "w": (k, n), "b": (n,)})
    bias = np.empty(0, z.dtype) if b is None else b
    if z.size == 0 or k == 0:
        z[:] = 0.0 if b is None else b
        activation_forward(a, z, activation)
        return
    p = _context(z.dtype, rows, k, n, code)
    p[_ROW_BLOCKS], p[_COLUMN_BLOCKS], p[_EACH] = product_plan(rows, n, k, z.dtype, get_num_threads())
    with pool().helping(int(p[_ROW_BLOCKS] * p[_COLUMN_BLOCKS])) as (seats, *team):
        _dense_forward(
            *team, FORWARD.address(z.dtype), p, a, z, like_writable(x), like_writable(w), like_writable(bias),
            np.empty(seats * int(p[_EACH]) + LINE_ELEMENTS, z.dtype),
        )  # fmt: skip


def dense_backward(
    dx: np.ndarray | None, dw: np.ndarray, db: np.ndarray | None, dz: np.ndarray, x: np.ndarray, w: np.ndarray
) -> None:
    """Write dw = x^T dz, db = sum_b dz_b and dx = dz w^T.

    Parameters
    ----------
    dx : array (B, K) or None, out
        Gradient with respect to the input; None where nobody needs it (the first layer).
    dw : array (K, N), out
        Gradient with respect to the weights, summed over the batch.
    db : array (N,) or None, out
        Gradient with respect to the bias.
    dz : array (B, N), in
        Gradient with respect to z = x w + b (`activation_backward` makes it).
    x : array (B, K), in
        Input of the forward pass.
    w : array (K, N), in
        Weights.

    Raises
    ------
    TypeError, ValueError
        As in `dense_forward`.

    Notes
    -----
    Rumelhart, Hinton and Williams, Nature 323, 1986. (Where the survey's back-propagated sum lacks the
    weights, w^T belongs.)
    """
    if not getattr(dz, "ndim", 0) == getattr(x, "ndim", 0) == 2:
        check_arrays({}, {"dz": dz, "x": x, "w": w}, {"dz": (None, None), "x": (None, None), "w": (None, None)})
    (rows, n), k = dz.shape, x.shape[1]
    outputs = {"dw": dw} | ({} if dx is None else {"dx": dx}) | ({} if db is None else {"db": db})
    shapes = {"x": (rows, k), "w": (k, n), "dx": (rows, k), "dw": (k, n), "db": (n,)}
    check_arrays(outputs, {"dz": dz, "x": x, "w": w}, shapes)
    if rows == 0 or k == 0 or n == 0:
        for output in outputs.values():
            output[:] = 0.0
        if db is not None and rows:
            db[:] = dz.sum(axis=0)
        return
    p, threads = _context(dz.dtype, rows, k, n), get_num_threads()
    p[_ROW_BLOCKS], p[_COLUMN_BLOCKS], w_each = product_plan(k, n, rows, dz.dtype, threads)
    p[_X_ROW_BLOCKS], p[_X_COLUMN_BLOCKS], x_each = product_plan(rows, k, n, dz.dtype, threads)
    p[_EACH] = max(w_each, x_each)
    n_tasks = int(p[_ROW_BLOCKS] * p[_COLUMN_BLOCKS] + (0 if dx is None else p[_X_ROW_BLOCKS] * p[_X_COLUMN_BLOCKS]))
    with pool().helping(n_tasks) as (seats, *team):
        _dense_backward(
            *team, BACKWARD.address(dz.dtype), p, np.empty((0, 0), dz.dtype) if dx is None else dx, dw,
            np.empty(0, dz.dtype) if db is None else db, like_writable(dz), like_writable(x), like_writable(w),
            np.empty(seats * int(p[_EACH]) + LINE_ELEMENTS, dz.dtype),
        )  # fmt: skip
