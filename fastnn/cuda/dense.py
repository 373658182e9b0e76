"""Dense layers on the device: tiled products with bias and activation in the epilogue, and their backward pass."""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np

from fastnn.cuda._arrays import address, check_array, check_arrays, flat
from fastnn.cuda._launch import launch
from fastnn.cuda._numba import cuda, named_kernel
from fastnn.cuda.activation import activate_one
from fastnn.cuda.tile import ACROSS, LARGE, PART, SQUARE, Tile, make_place, make_product, tiles
from fastnn.cuda.vector import store4
from fastnn.kernels import formulas
from fastnn.kernels._check import check_code
from fastnn.kernels._errors import check_flag

LARGE_TILES = 64
"""Tiles of LARGE from which a product is cut into these: fewer would leave most of a card without work."""


def tile_for(m: int, n: int) -> Tile:
    """Return how a product with m x n outputs is cut: a function of the shape alone."""
    return LARGE if tiles(m, LARGE.rows) * tiles(n, LARGE.columns) >= LARGE_TILES else SQUARE


@functools.cache
def make_matmul(dtype: np.dtype[Any], tile: Tile) -> Any:
    """Return the kernel of C = A B with strides, bias, activation and column sums of B, one tile a block."""
    product, product_and_sums = make_product(dtype, tile), make_product(dtype, tile, with_sums=True)
    element, place, n_sums, n_columns = numba.from_dtype(dtype), make_place(tile), tile.sums, 4 * tile.across
    rows, columns, shared_size = tile.rows, tile.columns, tile.shared

    @named_kernel(f"{dtype} {tile}")
    def matmul(c, activated, code, sums, want_sums, a, a_row, a_col, b, b_row, b_col, bias, biased, m, n, k, aligned):
        shared = cuda.shared.array(shared_size, element)
        acc, column_sums = cuda.local.array(n_sums, element), cuda.local.array(n_columns, element)
        across = (n + columns - 1) // columns
        i0, j0 = cuda.blockIdx.x // across * rows, cuda.blockIdx.x % across * columns
        if want_sums and i0 == 0:
            product_and_sums(
                acc, column_sums, shared, a, i0 * a_row, a_row, a_col, b, j0 * b_col, b_row, b_col, m - i0, n - j0, k,
                aligned,
            )  # fmt: skip
        else:
            product(
                acc, column_sums, shared, a, i0 * a_row, a_row, a_col, b, j0 * b_col, b_row, b_col, m - i0, n - j0, k,
                aligned,
            )  # fmt: skip
        for x in range(0, min(n_sums, m * n_sums), 4):  # a bound that the compiler cannot unroll
            i, j = place(x)
            i, j = i + i0, j + j0
            if i < m and code < 0 and not biased and aligned and n & 3 == 0:
                if j < n:
                    store4(c, i * n + j, (acc[x], acc[x + 1], acc[x + 2], acc[x + 3]))
            elif i < m:
                for s in range(min(4, n - j)):
                    z = acc[x + s] + bias[j + s] if biased else acc[x + s]
                    c[i * n + j + s] = z
                    if code >= 0:
                        activated[i * n + j + s] = activate_one(code, z)
        if want_sums and i0 == 0 and cuda.threadIdx.x < ACROSS:
            for x in range(n_columns):
                j = j0 + x // 4 * PART + 4 * cuda.threadIdx.x + x % 4
                if j < n:
                    sums[j] = column_sums[x]

    return matmul


def _shape_of(name: str, array: Any) -> tuple[int, int]:
    """Return rows and columns of a float array on the device, or raise where it is none of two axes."""
    rows, columns = check_array(name, array, shape=(None, None)).shape
    return rows, columns


def _product(c: Any, a: Any, b: Any, m: int, n: int, k: int, strides: tuple[int, ...], **extra: Any) -> None:
    """Launch C = A B; `strides` are those of A by row and column and of B by row and column."""
    nothing = c  # for what is not there
    bias, activated, sums = extra.get("bias"), extra.get("activated"), extra.get("sums")
    tile = tile_for(m, n)
    launch(
        make_matmul(np.dtype(c.dtype), tile),
        tiles(m, tile.rows) * tiles(n, tile.columns),
        c, nothing if activated is None else activated, extra.get("code", -1), nothing if sums is None else sums,
        sums is not None, a, *strides[:2], b, *strides[2:], nothing if bias is None else bias, bias is not None,
        m, n, k, all(address(x) % 16 == 0 for x in (a, b, c)),
    )  # fmt: skip


def matmul(c: Any, a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> None:
    """Write C = A B: `fastnn.kernels.matmul` on device arrays."""
    check_flag("transpose_a", transpose_a)
    check_flag("transpose_b", transpose_b)
    (m, n), of_a = _shape_of("c", c), _shape_of("a", a)
    k = of_a[0] if transpose_a else of_a[1]
    shapes = {"a": (k, m) if transpose_a else (m, k), "b": (n, k) if transpose_b else (k, n)}
    arrays = check_arrays({"c": c}, {"a": a, "b": b}, shapes)
    if m * n == 0:
        return
    strides = ((1, m) if transpose_a else (k, 1)) + ((1, k) if transpose_b else (n, 1))
    _product(flat(arrays["c"]), flat(arrays["a"]), flat(arrays["b"]), m, n, k, strides)


def dense_forward(a: Any, z: Any, x: Any, w: Any, b: Any, activation: str = "identity") -> None:
    """Write z = x w + b and a = f(z): `fastnn.kernels.dense_forward` on device arrays."""
    code = check_code("activation", activation, formulas.CODES)
    (rows, n), (_, k) = _shape_of("z", z), _shape_of("x", x)
    inputs = {"x": x, "w": w} if b is None else {"x": x, "w": w, "b": b}
    shapes = {"a": (rows, n), "z": (rows, n), "x": (rows, k), "w": (k, n), "b": (n,)}
    arrays = check_arrays({"a": a, "z": z}, inputs, shapes)
    if rows * n:
        _product(
            flat(arrays["z"]), flat(arrays["x"]), flat(arrays["w"]), rows, n, k, (k, 1, n, 1),
            bias=arrays.get("b"), activated=flat(arrays["a"]), code=code,
        )  # fmt: skip


def dense_backward(dx: Any, dw: Any, db: Any, dz: Any, x: Any, w: Any) -> None:
    """Write dw = x^T dz, db = sum_b dz_b and dx = dz w^T: `fastnn.kernels.dense_backward` on device arrays."""
    (rows, n), (_, k) = _shape_of("dz", dz), _shape_of("x", x)
    outputs = {"dw": dw} | ({} if dx is None else {"dx": dx}) | ({} if db is None else {"db": db})
    shapes = {"dz": (rows, n), "x": (rows, k), "w": (k, n), "dx": (rows, k), "dw": (k, n), "db": (n,)}
    arrays = check_arrays(outputs, {"dz": dz, "x": x, "w": w}, shapes)
    flats = {name: flat(array) for name, array in arrays.items()}
    if k * n:
        _product(flats["dw"], flats["x"], flats["dz"], k, n, rows, (1, k, n, 1), sums=flats.get("db"))
    if dx is not None and rows * k:
        _product(flats["dx"], flats["dz"], flats["w"], rows, k, n, (n, 1, 1, n))
