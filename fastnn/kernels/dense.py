"""The dense layer: forward product with bias and activation, and the three products of its backward pass."""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, prange

from fastnn.kernels import formulas as f
from fastnn.kernels._blocks import copy, fill
from fastnn.kernels._check import check_arrays, check_code
from fastnn.kernels._jit import block, entry_parallel, launch
from fastnn.kernels._simd import tile_columns
from fastnn.kernels.activation import ACTIVATE, call_activate
from fastnn.kernels.gemm import GEMM, MR, call_gemm, product_plan, scratch_elements, split


@block
def column_sums(out, d, d0, stride, rows, first, last):
    """Write out[j] = sum_b d[b, j] for first <= j < last, the rows added in order."""
    total = out[first:last]
    fill(total, 0.0)
    for b in range(rows):
        row = d[d0 + b * stride + first : d0 + b * stride + last]
        for j in range(row.size):
            total[j] += row[j]


@entry_parallel
def _dense_forward(gemm, activation, a, z, x, w, b, rows, k, n, code, scratch, row_blocks, column_blocks):
    nr = tile_columns(z)
    each = scratch_elements(rows, n, k, nr)
    for task in prange(row_blocks * column_blocks):
        i0, i1 = split(rows, row_blocks, task % row_blocks, MR)
        j0, j1 = split(n, column_blocks, task // row_blocks, nr)
        if i1 > i0 and j1 > j0:
            call_gemm(gemm, z, i0 * n + j0, n, x, i0 * k, k, 1, w, j0, n, 1, i1 - i0, j1 - j0, k,
                       b, j0, b.size > 0, scratch, task * each)  # fmt: skip
            for i in range(i0, i1):
                row = a[i * n + j0 : i * n + j1]
                copy(row, z[i * n + j0 : i * n + j1])
                call_activate(activation, code, row)


@entry_parallel
def _dense_backward(gemm, dx, dw, db, dz, x, w, rows, k, n, w_scratch, x_scratch, w_rows, w_columns, x_rows, x_columns):
    nr = tile_columns(dz)
    w_tasks, x_tasks = w_rows * w_columns, x_rows * x_columns if dx.size else 0
    w_each, x_each = scratch_elements(k, n, rows, nr), scratch_elements(rows, k, n, nr)
    for task in prange(w_tasks + x_tasks):
        if task < w_tasks:
            i0, i1 = split(k, w_rows, task % w_rows, MR)
            j0, j1 = split(n, w_columns, task // w_rows, nr)
            if i1 > i0 and j1 > j0:
                call_gemm(gemm, dw, i0 * n + j0, n, x, i0, 1, k, dz, j0, n, 1, i1 - i0, j1 - j0, rows,
                           dw, 0, False, w_scratch, task * w_each)  # fmt: skip
            if task % w_rows == 0 and db.size:
                column_sums(db, dz, 0, n, rows, j0, j1)
        else:
            index = task - w_tasks
            i0, i1 = split(rows, x_rows, index % x_rows, MR)
            j0, j1 = split(k, x_columns, index // x_rows, nr)
            if i1 > i0 and j1 > j0:
                call_gemm(gemm, dx, i0 * k + j0, k, dz, i0 * n, n, 1, w, j0 * n, 1, n, i1 - i0, j1 - j0, n,
                           dx, 0, False, x_scratch, index * x_each)  # fmt: skip


def _grid_and_scratch(m: int, n: int, k: int, dtype: np.dtype) -> tuple[int, int, np.ndarray]:
    row_blocks, column_blocks, each = product_plan(m, n, k, dtype, get_num_threads())
    return row_blocks, column_blocks, np.empty(row_blocks * column_blocks * each, dtype)


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
    check_arrays({"z": z}, {"x": x, "w": w}, {"z": (None, None), "x": (None, None), "w": (None, None)})
    (rows, n), k = z.shape, x.shape[1]
    inputs = {"x": x, "w": w} if b is None else {"x": x, "w": w, "b": b}
    check_arrays({"a": a, "z": z}, inputs, {"a": (rows, n), "x": (rows, k), "w": (k, n), "b": (n,)})
    bias = np.empty(0, z.dtype) if b is None else b
    if z.size == 0 or k == 0:
        z[:] = 0.0 if b is None else b
    if z.size:
        row_blocks, column_blocks, scratch = _grid_and_scratch(rows, n, max(1, k), z.dtype)
        launch(
            _dense_forward, row_blocks * column_blocks, GEMM.address(z.dtype), ACTIVATE.address(z.dtype),
            a.reshape(-1), z.reshape(-1), x.reshape(-1), w.reshape(-1), bias, rows, k, n, code, scratch,
            row_blocks, column_blocks,
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
    empty = np.empty(0, dz.dtype)
    w_rows, w_columns, w_scratch = _grid_and_scratch(k, n, rows, dz.dtype)
    x_rows, x_columns, x_scratch = _grid_and_scratch(rows, k, n, dz.dtype)
    launch(
        _dense_backward, w_rows * w_columns + (0 if dx is None else x_rows * x_columns), GEMM.address(dz.dtype),
        empty if dx is None else dx.reshape(-1), dw.reshape(-1), empty if db is None else db,
        dz.reshape(-1), x.reshape(-1), w.reshape(-1), rows, k, n, w_scratch, x_scratch,
        w_rows, w_columns, x_rows, x_columns,
    )  # fmt: skip
