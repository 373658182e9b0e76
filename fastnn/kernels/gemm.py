"""The matrix product: packing, register tile, cache blocks; one product for X W, dY W^T and X^T dY.

Blocking and names as in BLIS (Van Zee and van de Geijn, ACM TOMS 41:14, 2015): MR x NR is the register tile,
KC the depth of a panel that stays in the first cache, MC and NC the rows and columns of a block. Matrices are
addresses with two strides, so a transpose costs nothing but the way a panel is packed. Where
rows of A or panels of B can be read in place at full speed they are not packed at all.

Every element of C is one chain of multiply-adds in the order of the inner index: no block, tile or thread
count changes a bit.
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads

from fastnn.kernels._blocks import LINE_ELEMENTS, first_line, make_stack
from fastnn.kernels._check import check_arrays
from fastnn.kernels._context import SLOTS, floats_at
from fastnn.kernels._errors import check_flag
from fastnn.kernels._jit import Task, block, entry, inlined, like_writable
from fastnn.kernels._pool import KINDS, lead, pool, put
from fastnn.kernels._simd import (
    TILE_ROWS,
    VECTORS,
    advance,
    copy_vector,
    first_cache_ways,
    item_bytes,
    lanes,
    make_micro_kernel,
    make_row_kernel,
    masked_loads,
    pointer,
    target,
    tile_columns,
    transpose,
    vector_lanes,
)
from fastnn.kernels.elementary import like

MR = TILE_ROWS
WIDE = target().vector_bytes == 64
# Measured: small products gain nothing. On Zen 3, float32, against 256, 144 and NC = 256, products of 1024 columns
# gain 3 to 9%; on Zen 4 squares from 1000 to 2048 3 to 8% by KC_WIDE and MC = 196 instead of 320 and 84. In float64 512
# is too deep for the second cache: 256 x 1024 x 1024 takes a quarter longer.
KC, KC_WIDE = 320, 512
"""Depth of a panel, and of one that is KC_COLUMNS wide."""

KC_COLUMNS = 32
MC = MR * max(1, (196 if WIDE else 96) // MR)
MC_IN_PLACE = MR * max(1, (392 if WIDE else 192) // MR)
"""Rows of a block of A that is read in place. A panel of B that only one block needs stays in the first cache."""

NC = 1024
FAR, AGAIN, LONG = (2560, 512, 2048) if WIDE else (0, 96, 384)
ALIKE_ROWS = MR if first_cache_ways() <= 8 else MC_IN_PLACE + 1
"""Where packing pays: rows of B so many bytes apart, a transposed A read by so many columns, rows of A so long, or so
many of them whole pages apart.

Rows of A that begin whole pages apart all fall into the same few places of the first cache: they are packed or copied
earlier. With 8 such places (Zen 4) a tile of 14 rows throws out its own: 256 x 1024 x 1024 in place takes 1.3 times as
long as with a copy; with 12 (Emerald Rapids) few rows do as well in place.

With AVX-512 (Emerald Rapids) packing what could be read in place costs up to a third of a product of 128 rows: a tile
of 14 x 32 reads 41 bytes for 100 multiply-adds, which the second cache delivers.
"""
TURNED = 15
"""Columns of C up to which a product with a transposed A is made as the transposed one. On Zen 4, GFLOP/s of a core,
before and after: X^T dY of 10,000 x 16 x 4 20, 91; of 512 x 256 x 7 48, 77; with 16 columns 108, 101."""

MASKED_LOADS = masked_loads()
MAX_TASKS = 32
"""Blocks one product is cut into at most: each has its own packing scratch."""

FORK_FLOPS = 10_000_000
"""Work of one block of a single product that is worth a helper (`_pool.py`): about 100 us a core.

A helper that looks for work takes a block within a microsecond; to wake one costs the caller some 5 us, and where all
cores are busy and none comes, the cut alone costs 5 to 10%: with blocks of 1 MFLOP up to 25% (128 x 256 x 64).
"""

TASK_FLOPS = 200_000
"""Work of one block that is worth handing to a thread that waits for it (`_team.py`): about 2 us."""

_row_full, _row_8, _row_4, _row_2, _row_1 = (make_micro_kernel(rows, VECTORS, True) for rows in (MR, 8, 4, 2, 1))
_row_ahead = make_micro_kernel(MR, VECTORS, True, ahead=True)
_wide_2, _wide_1 = make_micro_kernel(2, 2 * VECTORS, True), make_micro_kernel(1, 4 * VECTORS, True)
_turned = make_stack(TURNED * VECTORS * target().vector_bytes // 4)
_transposed_2, _transposed_1 = make_row_kernel(2), make_row_kernel(1)
_part_full, _part_4, _part_1 = (make_micro_kernel(rows, VECTORS, True, narrow=True) for rows in (MR, 4, 1))
_half_twice, _half_full, _half_4, _half_1 = (
    make_micro_kernel(rows, 1, True, narrow=True) for rows in (2 * MR, MR, 4, 1)
)
_quarter_twice = make_micro_kernel(2 * MR, 1, True, narrow=True, half=True)
_col_part_full, _col_part_4, _col_part_1 = (make_micro_kernel(rows, VECTORS, False, narrow=True) for rows in (MR, 4, 1))
_col_half_full, _col_half_4, _col_half_1 = (make_micro_kernel(rows, 1, False, narrow=True) for rows in (MR, 4, 1))
_col_full = make_micro_kernel(MR, VECTORS, False, soon=True)
_col_8, _col_4, _col_2, _col_1 = (make_micro_kernel(rows, VECTORS, False) for rows in (8, 4, 2, 1))


@inlined
def _most_depth(nr):
    """Return how deep a panel of tile width `nr` may be."""
    return KC_WIDE if nr == KC_COLUMNS else KC


@block
def _pack_b(packed, b, b_rs, b_cs, depth, columns, nr):
    """Copy `columns` <= nr columns of B into a panel [depth][nr]; what stands behind them is anything."""
    lanes = vector_lanes(packed)
    if b_cs == 1 and columns == nr:
        for k in range(depth):
            copy_vector(advance(packed, k * nr), advance(b, k * b_rs))
            copy_vector(advance(packed, k * nr + lanes), advance(b, k * b_rs + lanes))
    elif b_rs == 1 and depth >= lanes:
        for k in range(0, depth, lanes):
            at = min(k, depth - lanes)  # the last square begins within the one before
            for j in range(0, columns, lanes):
                transpose(advance(packed, at * nr + j), nr, advance(b, at + j * b_cs), b_cs, columns - j)
    else:
        for k in range(depth):
            for j in range(columns):
                packed[k * nr + j] = b[k * b_rs + j * b_cs]


@block
def _pack_a(packed, a, a_rs, a_cs, rows, depth):
    """Copy `rows` rows of A into panels [rows/MR][depth][MR]; missing rows of the last panel stay as they are.

    Vectors that do not fill MR rows are written first and whole: what they overwrite is written after them.
    """
    lanes = vector_lanes(packed)
    whole = MR // lanes
    tail = MR - whole * lanes
    for i0 in range(0, rows, MR):
        panel, first = advance(packed, i0 * depth), advance(a, i0 * a_rs)
        height = min(MR, rows - i0)
        k0 = 0
        if a_rs == 1 and i0 + (whole + 1) * lanes <= rows:
            for k in range(depth):
                if tail > 0:
                    copy_vector(advance(panel, k * MR + whole * lanes), advance(first, k * a_cs + whole * lanes))
                for v in range(whole):
                    copy_vector(advance(panel, k * MR + v * lanes), advance(first, k * a_cs + v * lanes))
            k0 = depth
        elif a_cs == 1 and height == MR:
            for k in range(0, depth - lanes + 1, lanes):
                if tail > 0:
                    at = advance(first, whole * lanes * a_rs + k)
                    transpose(advance(panel, k * MR + whole * lanes), MR, at, a_rs, tail)
                for v in range(whole):
                    at = advance(first, v * lanes * a_rs + k)
                    transpose(advance(panel, k * MR + v * lanes), MR, at, a_rs, lanes)
            k0 = depth // lanes * lanes
        for k in range(k0, depth):
            for i in range(height):
                panel[k * MR + i] = first[i * a_rs + k * a_cs]


@block
def _copy_rows(packed, a, a_rs, rows, depth):
    """Copy `rows` rows of A, numbers that lie in one piece, to lie one behind the other."""
    lanes = vector_lanes(packed)
    for i in range(rows):
        to, source = advance(packed, i * depth), advance(a, i * a_rs)
        for k in range(0, depth - lanes + 1, lanes):
            copy_vector(advance(to, k), advance(source, k))
        for k in range(depth // lanes * lanes, depth):
            to[k] = source[k]


@block
def _rows_in_place(c, ldc, init, init_stride, has_init, a, a_stride, b, ldb, rows, depth, ahead, next_b, next_stride,
                   within):  # fmt: skip
    """Run the register tile down `rows` rows of one panel, A read row by row, unpacked.

    Where `ahead`, the first tile asks for the panel at `next_b`.
    """
    i = 0
    if ahead and rows >= MR:
        _row_ahead(c, ldc, init, init_stride, has_init, a, a_stride, b, ldb, depth, next_b, next_stride, within)
        i = MR
    while i + MR <= rows:
        _row_full(advance(c, i * ldc), ldc, advance(init, i * init_stride), init_stride, has_init,
                  advance(a, i * a_stride), a_stride, b, ldb, depth)  # fmt: skip
        i += MR
    if MR > 8 and i + 8 <= rows:
        _row_8(advance(c, i * ldc), ldc, advance(init, i * init_stride), init_stride, has_init,
               advance(a, i * a_stride), a_stride, b, ldb, depth)  # fmt: skip
        i += 8
    if i + 4 <= rows:
        _row_4(advance(c, i * ldc), ldc, advance(init, i * init_stride), init_stride, has_init,
               advance(a, i * a_stride), a_stride, b, ldb, depth)  # fmt: skip
        i += 4
    if i + 2 <= rows:
        _row_2(advance(c, i * ldc), ldc, advance(init, i * init_stride), init_stride, has_init,
               advance(a, i * a_stride), a_stride, b, ldb, depth)  # fmt: skip
        i += 2
    if i < rows:
        _row_1(advance(c, i * ldc), ldc, advance(init, i * init_stride), init_stride, has_init,
               advance(a, i * a_stride), a_stride, b, ldb, depth)  # fmt: skip


@block
def _rows_by_column(c, ldc, init, init_stride, has_init, a, panel, a_stride, b, ldb, rows, depth, soon, ld_soon):
    """`_rows_in_place` with A read column by column: packed (panel = depth * MR, stride MR) or in place (panel = MR).

    Whole tiles ask for those of `soon`.
    """
    i = 0
    while i + MR <= rows:
        _col_full(advance(c, i * ldc), ldc, advance(init, i * init_stride), init_stride, has_init,
                  a, a_stride, b, ldb, depth, advance(soon, i * ld_soon), ld_soon)  # fmt: skip
        a = advance(a, panel)
        i += MR
    if MR > 8 and i + 8 <= rows:
        _col_8(advance(c, i * ldc), ldc, advance(init, i * init_stride), init_stride, has_init,
               a, a_stride, b, ldb, depth)  # fmt: skip
        a = advance(a, 8)
        i += 8
    if i + 4 <= rows:
        _col_4(advance(c, i * ldc), ldc, advance(init, i * init_stride), init_stride, has_init,
               a, a_stride, b, ldb, depth)  # fmt: skip
        a = advance(a, 4)
        i += 4
    if i + 2 <= rows:
        _col_2(advance(c, i * ldc), ldc, advance(init, i * init_stride), init_stride, has_init,
               a, a_stride, b, ldb, depth)  # fmt: skip
        a = advance(a, 2)
        i += 2
    if i < rows:
        _col_1(advance(c, i * ldc), ldc, advance(init, i * init_stride), init_stride, has_init,
               a, a_stride, b, ldb, depth)  # fmt: skip


@block
def _half_in_place(c, ldc, init, init_stride, has_init, a, a_stride, b, ldb, rows, depth, columns):
    """Run a tile of `columns` that fit one vector down the rows, A read row by row.

    Twice MR rows at a time: the sums of MR rows alone are too few chains to keep the CPU busy.
    """
    i = 0
    while i < rows:
        out, start, at = advance(c, i * ldc), advance(init, i * init_stride), advance(a, i * a_stride)
        if i + 2 * MR <= rows and WIDE and 2 * columns <= vector_lanes(c):
            _quarter_twice(out, ldc, start, init_stride, has_init, at, a_stride, b, ldb, depth, columns)
            i += 2 * MR
        elif i + 2 * MR <= rows:
            _half_twice(out, ldc, start, init_stride, has_init, at, a_stride, b, ldb, depth, columns)
            i += 2 * MR
        elif i + MR <= rows:
            _half_full(out, ldc, start, init_stride, has_init, at, a_stride, b, ldb, depth, columns)
            i += MR
        elif i + 4 <= rows:
            _half_4(out, ldc, start, init_stride, has_init, at, a_stride, b, ldb, depth, columns)
            i += 4
        else:
            _half_1(out, ldc, start, init_stride, has_init, at, a_stride, b, ldb, depth, columns)
            i += 1


@block
def _part_in_place(c, ldc, init, init_stride, has_init, a, a_stride, b, ldb, rows, depth, columns):
    """Run a tile of `columns` that fill a vector and a part of the next down the rows, A read row by row."""
    i = 0
    while i < rows:
        out, start, at = advance(c, i * ldc), advance(init, i * init_stride), advance(a, i * a_stride)
        if i + MR <= rows:
            _part_full(out, ldc, start, init_stride, has_init, at, a_stride, b, ldb, depth, columns)
            i += MR
        elif i + 4 <= rows:
            _part_4(out, ldc, start, init_stride, has_init, at, a_stride, b, ldb, depth, columns)
            i += 4
        else:
            _part_1(out, ldc, start, init_stride, has_init, at, a_stride, b, ldb, depth, columns)
            i += 1


@block
def _half_by_column(c, ldc, init, init_stride, has_init, a, panel, a_stride, b, ldb, rows, depth, columns):
    """`_half_in_place` with A read column by column, as in `_rows_by_column`."""
    i = 0
    while i < rows:
        out, start = advance(c, i * ldc), advance(init, i * init_stride)
        if i + MR <= rows:
            _col_half_full(out, ldc, start, init_stride, has_init, a, a_stride, b, ldb, depth, columns)
            a = advance(a, panel)
            i += MR
        elif i + 4 <= rows:
            _col_half_4(out, ldc, start, init_stride, has_init, a, a_stride, b, ldb, depth, columns)
            a = advance(a, 4)
            i += 4
        else:
            _col_half_1(out, ldc, start, init_stride, has_init, a, a_stride, b, ldb, depth, columns)
            a = advance(a, 1)
            i += 1


@block
def _part_by_column(c, ldc, init, init_stride, has_init, a, panel, a_stride, b, ldb, rows, depth, columns):
    """`_part_in_place` with A read column by column, as in `_rows_by_column`."""
    i = 0
    while i < rows:
        out, start = advance(c, i * ldc), advance(init, i * init_stride)
        if i + MR <= rows:
            _col_part_full(out, ldc, start, init_stride, has_init, a, a_stride, b, ldb, depth, columns)
            a = advance(a, panel)
            i += MR
        elif i + 4 <= rows:
            _col_part_4(out, ldc, start, init_stride, has_init, a, a_stride, b, ldb, depth, columns)
            a = advance(a, 4)
            i += 4
        else:
            _col_part_1(out, ldc, start, init_stride, has_init, a, a_stride, b, ldb, depth, columns)
            a = advance(a, 1)
            i += 1


@block
def _few_rows(c, ldc, a, a_rs, b, b_rs, m, columns, k, bias, bias_stride):
    """Write m < 4 rows and whole panels of columns, B read in place.

    A tile of one row has too few sums to keep the CPU busy: these are two or four panels wide.
    """
    nr, has_bias = tile_columns(c), bias_stride >= 0
    i = 0
    while i < m:
        height = min(2, m - i)
        wide = 2 * nr if height == 2 else 4 * nr
        at = advance(a, i * a_rs)
        j = 0
        while j < columns:
            out, init, panel = advance(c, i * ldc + j), advance(bias, i * bias_stride + j), advance(b, j)
            if j + wide > columns:
                if height == 2:
                    _row_2(out, ldc, init, bias_stride, has_bias, at, a_rs, panel, b_rs, k)
                else:
                    _row_1(out, ldc, init, bias_stride, has_bias, at, a_rs, panel, b_rs, k)
                j += nr
            elif height == 2:
                _wide_2(out, ldc, init, bias_stride, has_bias, at, a_rs, panel, b_rs, k)
                j += wide
            else:
                _wide_1(out, ldc, init, bias_stride, has_bias, at, a_rs, panel, b_rs, k)
                j += wide
        i += height


@block
def _few_rows_transposed(c, ldc, a, a_rs, b, b_cs, m, columns, k, start):
    """Write m < 4 rows of `columns` columns, whole vectors of them, sums beginning with `start`; B lies transposed.

    To pack B for so few rows takes three times as long as to transpose it in registers. Rows of B are read two vectors'
    lanes at a time, or one where they are 4 KB apart, since the first cache keeps 8 such lines: 1 x 1024 x 1024 takes
    250 us with 16 rows at a time and 170 with 8.
    """
    lanes = vector_lanes(c)
    wide = 2 * lanes
    alike = b_cs * item_bytes(c) % 4096 == 0
    for i in range(m):
        at, j = advance(a, i * a_rs), 0
        while j < columns:
            out, rows = advance(c, i * ldc + j), advance(b, j * b_cs)
            if alike or j + wide > columns:
                _transposed_1(out, at, rows, b_cs, k, start)
                j += lanes
            else:
                _transposed_2(out, at, rows, b_cs, k, start)
                j += wide


@block
def _one_column(c, a, a_rs, a_cs, b, rows, k, bias, bias_stride):
    """Write whole vectors of the first rows of one column that lies in one piece: a row of the transposed product.

    Returns how many. To the tiles of other products a column is a vector of which one lane counts.
    """
    if a_cs == 1 and bias_stride <= 0:
        rows = rows // vector_lanes(c) * vector_lanes(c)
        start = bias[0] if bias_stride == 0 else like(0.0, c[0])
        _few_rows_transposed(c, 0, b, 0, a, a_rs, 1, rows, k, start)
        return rows
    if a_rs == 1 and bias_stride != 0:
        rows = rows // tile_columns(c) * tile_columns(c)
        _few_rows(c, 0, b, 0, a, a_cs, 1, rows, k, bias, bias_stride)
        return rows
    return 0


@block
def _few_columns(c, ldc, a, a_cs, b, b_rs, rows, n, k, goes_on):
    """Write whole vectors of the first rows of n <= TURNED columns, A transposed: as rows of the transposed product.

    Returns how many. Along the rows of C vectors count in full, along its columns n lanes of each.
    """
    nr, lanes, turned = tile_columns(c), vector_lanes(c), _turned(c)
    rows = rows // lanes * lanes
    out = pointer(turned, 0)
    for i in range(0, rows, nr):
        width = min(nr, rows - i)
        for r in range(width if goes_on else 0):
            for j in range(n):
                turned[j * nr + r] = c[(i + r) * ldc + j]
        for k0 in range(0, k, _most_depth(nr)):
            left, right, depth = advance(b, k0 * b_rs), advance(a, i + k0 * a_cs), min(_most_depth(nr), k - k0)
            has_init = goes_on or k0 > 0
            if width == nr:
                _rows_by_column(out, nr, out, nr, has_init, left, MR, b_rs, right, a_cs, n, depth, out, 0)
            else:
                _half_by_column(out, nr, out, nr, has_init, left, MR, b_rs, right, a_cs, n, depth, lanes)
        for r in range(width):
            for j in range(n):
                c[(i + r) * ldc + j] = turned[j * nr + r]
    return rows


@inlined
def _rows_in_turn(rows):
    """Return `within` of a tile for the largest power of two of some rows: behind them it goes on along the rows."""
    turn = 1
    while 2 * turn <= rows:
        turn *= 2
    return turn - 1


@block
def gemm_block(c, ldc, a, a_rs, a_cs, b, b_rs, b_cs, m, n, k, bias, bias_stride, scratch, soon, ld_soon):
    """Write the m x n block C = A B (+ bias row) of a product with inner size k; serial.

    Parameters
    ----------
    c, a, b, bias, scratch : addresses of numbers of one float type: arrays would be counted and cost more than the
    smallest products
    ldc : elements from one row of C to the next
    a_rs, a_cs, b_rs, b_cs : row and column strides of A and B, in elements; one of each pair is 1
    bias, bias_stride : what the sums start from: n numbers for every row (stride 0), or those of C itself, to go on
    with (stride `ldc`); a stride of -1 stands for 0.0
    scratch : `product_scratch` elements
    soon, ld_soon : address and row stride of what comes next. Where rows of A lie in one piece, the B of the next
    product, which has n rows, and is asked for from its first panel on along with the last one here, where that is a
    whole one; a stride of 0 stands for none. Else an m x n block that is written next: with each tile of C that place
    of it is asked for. A stride of 0 stands for C itself, whose next tile is asked for
    """
    nr = tile_columns(c)
    depth_max = -(-k // (-(-k // _most_depth(nr))))  # the same depth for all but the last panel
    packed_a = advance(scratch, depth_max * (-(-min(n, NC) // nr) * nr))
    pack_b = b_cs != 1 or (m >= 96 and depth_max * min(n, NC) >= 8192 and b_rs * item_bytes(c) >= FAR)
    far = a_cs == 1 and n >= 192 and (k >= LONG or (m >= ALIKE_ROWS and WIDE and a_rs * item_bytes(c) % 4096 == 0))
    copy_a = far and WIDE and m <= MC_IN_PLACE and m >= MR
    pack_a = (a_rs == 1 and n >= AGAIN and a_cs >= 256) or (a_rs != 1 and a_cs != 1) or (far and not copy_a)
    by_row = not pack_a and a_cs == 1
    if not by_row and (a_cs == 1 or ld_soon == 0):
        soon, ld_soon = advance(c, MR * ldc), ldc
    block_rows = MC if pack_a else MC_IN_PLACE
    begin = 0
    if n == 1 and ldc == 1 and b_rs == 1:
        done = _one_column(c, a, a_rs, a_cs, b, m, k, bias, bias_stride)
        c, a, m, bias = advance(c, done), advance(a, done * a_rs), m - done, advance(bias, done * bias_stride)
    elif 1 < n <= TURNED and a_rs == 1 and a_cs > 1 and b_cs == 1 and k >= 8 * n and bias_stride != 0:
        done = _few_columns(c, ldc, a, a_cs, b, b_rs, m, n, k, bias_stride > 0)
        c, a, m, bias = advance(c, done * ldc), advance(a, done), m - done, advance(bias, done * bias_stride)
    if m < 4 and a_cs == 1 and b_cs == 1:
        begin = n // nr * nr
        _few_rows(c, ldc, a, a_rs, b, b_rs, m, begin, k, bias, bias_stride)
    elif m < 4 and a_cs == 1 and b_rs == 1 and bias_stride < 0:
        begin = n * VECTORS // nr * nr // VECTORS
        _few_rows_transposed(c, ldc, a, a_rs, b, b_cs, m, begin, k, like(0.0, c[0]))
    for j0 in range(begin, n, NC):
        nc = min(NC, n - j0)
        for k0 in range(0, k, depth_max):
            kc = min(depth_max, k - k0)
            for i0 in range(0, m, block_rows):
                mc = min(block_rows, m - i0)
                a_at, panel, a_stride, row_stride = advance(a, i0 * a_rs + k0 * a_cs), MR, a_cs, a_rs
                if copy_a:
                    _copy_rows(packed_a, a_at, a_rs, mc, kc)
                    a_at, row_stride = packed_a, kc
                if pack_a:
                    _pack_a(packed_a, a_at, a_rs, a_cs, mc, kc)
                    a_at, panel, a_stride = packed_a, kc * MR, MR
                for j in range(0, nc, nr):
                    columns = min(nr, nc - j)
                    out, b_at, b_stride = advance(c, i0 * ldc + j0 + j), advance(b, k0 * b_rs + (j0 + j) * b_cs), b_rs
                    next_b = advance(b_at, nr * b_cs)
                    next_stride, within = (b_rs, -1) if b_cs == 1 else (b_cs, nr - 1)
                    if pack_b or (columns < nr and not MASKED_LOADS):
                        packed_b = advance(scratch, j * kc if m > block_rows else 0)
                        if i0 == 0:
                            _pack_b(packed_b, b_at, b_rs, b_cs, kc, columns, nr)
                        b_at, b_stride = packed_b, nr
                    if i0 > 0 and pack_b:
                        next_b, next_stride, within = advance(scratch, (j + nr) * kc), nr, -1
                    init, init_stride, has_init = out, ldc, k0 > 0
                    if bias_stride >= 0 and k0 == 0:
                        init, init_stride, has_init = advance(bias, i0 * bias_stride + j0 + j), bias_stride, True
                    asks = j + nr < nc
                    if by_row and not asks and ld_soon != 0 and k0 + kc == k:
                        asks, next_b, next_stride, within = True, soon, ld_soon, _rows_in_turn(n)
                    if columns < nr and by_row:
                        if VECTORS * columns <= nr:
                            _half_in_place(out, ldc, init, init_stride, has_init, a_at, row_stride, b_at, b_stride,
                                           mc, kc, columns)  # fmt: skip
                        else:
                            _part_in_place(out, ldc, init, init_stride, has_init, a_at, row_stride, b_at, b_stride,
                                           mc, kc, columns)  # fmt: skip
                    elif columns < nr:
                        if VECTORS * columns <= nr:
                            _half_by_column(out, ldc, init, init_stride, has_init, a_at, panel, a_stride,
                                            b_at, b_stride, mc, kc, columns)  # fmt: skip
                        else:
                            _part_by_column(out, ldc, init, init_stride, has_init, a_at, panel, a_stride,
                                            b_at, b_stride, mc, kc, columns)  # fmt: skip
                    elif by_row:
                        _rows_in_place(out, ldc, init, init_stride, has_init, a_at, row_stride, b_at, b_stride,
                                       mc, kc, asks, next_b, next_stride, within)  # fmt: skip
                    else:
                        _rows_by_column(out, ldc, init, init_stride, has_init, a_at, panel, a_stride,
                                        b_at, b_stride, mc, kc,
                                        advance(soon, i0 * ld_soon + j0 + j), ld_soon)  # fmt: skip


GEMM = Task(gemm_block, "p i p i i p i i i i i p i p p i")
call_gemm = GEMM.call


@inlined
def task_grid(m, n, k, threads, task_flops):
    """Return (row blocks, column blocks) an m x n x k product is cut into for some threads, `task_flops` each at least.

    Each element of C is one chain whatever the cut, so the threads do not show in the result. Blocks are as square as
    they can be: a task packs rows of A and columns of B that others pack too.
    """
    flops = 2 * m * n * k
    wanted = min(MAX_TASKS, threads, max(1, flops // task_flops))
    if wanted == 1:
        return 1, 1
    if wanted <= MAX_TASKS // 2 and flops >= 16 * wanted * task_flops:
        wanted *= 2  # a slow thread then costs less
    best_rows, best_columns = 1, 1
    best = np.inf
    while best == np.inf and wanted > 1:
        for columns in range(1, wanted + 1):
            rows = wanted // columns
            cost = rows / m + columns / n
            if rows * columns == wanted and cost < best and rows * MR <= m and (columns == 1 or columns * 32 <= n):
                best, best_rows, best_columns = cost, rows, columns
        wanted -= 1
    return best_rows, best_columns


@inlined
def split(total, parts, index, multiple):
    """Return (start, stop) of part `index` of `total`, cut at multiples of `multiple`."""
    if parts == 1:
        return 0, total
    units = (total + multiple - 1) // multiple
    start = units * index // parts * multiple
    stop = units * (index + 1) // parts * multiple
    return min(start, total), min(stop, total)


(
    _GEMM, _M, _N, _K, _A_RS, _A_CS, _B_RS, _B_CS, _ROW_BLOCKS, _COLUMN_BLOCKS, _EACH,
    _C, _A, _B, _SCRATCH,
) = (*range(12), *range(11 + SLOTS, 11 + 4 * SLOTS, SLOTS))  # fmt: skip
_N_CONTEXT = 11 + 4 * SLOTS


@block
def matmul_task(p, like, task, seat):
    """Do one block of the product that the context `p` describes."""
    c, a, b = floats_at(p, _C, like), floats_at(p, _A, like), floats_at(p, _B, like)
    scratch = floats_at(p, _SCRATCH, like)
    n = p[_N]
    i0, i1 = split(p[_M], p[_ROW_BLOCKS], task % p[_ROW_BLOCKS], MR)
    j0, j1 = split(n, p[_COLUMN_BLOCKS], task // p[_ROW_BLOCKS], tile_columns(like))
    if i1 > i0 and j1 > j0:
        out = pointer(c, i0 * n + j0)
        call_gemm(
            p[_GEMM], out, n, pointer(a, i0 * p[_A_RS]), p[_A_RS], p[_A_CS], pointer(b, j0 * p[_B_CS]), p[_B_RS],
            p[_B_CS], i1 - i0, j1 - j0, p[_K], out, -1, pointer(scratch, seat * p[_EACH]), out, 0,
        )  # fmt: skip


MATMUL = Task(matmul_task, KINDS)


@entry
def _matmul(team, job, members, like, function, p, gemm, c, a, b, m, n, k, transpose_a, transpose_b,
            scratch, each, row_blocks, column_blocks):  # fmt: skip
    p[_GEMM], p[_M], p[_N], p[_K], p[_EACH] = gemm, m, n, k, each
    p[_A_RS], p[_A_CS] = (1, m) if transpose_a else (k, 1)
    p[_B_RS], p[_B_CS] = (1, k) if transpose_b else (n, 1)
    p[_ROW_BLOCKS], p[_COLUMN_BLOCKS] = row_blocks, column_blocks
    put(p, _C, c)
    put(p, _A, a)
    put(p, _B, b)
    put(p, _SCRATCH, scratch[first_line(scratch) :])
    lead(team, job, members, like, function, p, row_blocks * column_blocks)


def matmul(c: np.ndarray, a: np.ndarray, b: np.ndarray, transpose_a: bool = False, transpose_b: bool = False) -> None:
    """Write C = op(A) op(B), op the transpose or nothing.

    Parameters
    ----------
    c : array (M, N), out
        Overwritten; float32 or float64.
    a : array (M, K), or (K, M) with `transpose_a`, in
    b : array (K, N), or (N, K) with `transpose_b`, in
    transpose_a, transpose_b : bool

    Raises
    ------
    TypeError, ValueError
        Another dtype, shape, order, a read-only output, overlapping arrays; nothing is written.

    Notes
    -----
    Each element is summed in the order of k with fused multiply-adds (where the CPU has them), in the dtype
    of the arrays: the error is at most K rounding steps.
    """
    check_flag("transpose_a", transpose_a)
    check_flag("transpose_b", transpose_b)
    if not getattr(c, "ndim", 0) == getattr(a, "ndim", 0) == 2:
        check_arrays({"c": c}, {"a": a, "b": b}, {"c": (None, None), "a": (None, None), "b": (None, None)})
    m, n = c.shape
    k = a.shape[0] if transpose_a else a.shape[1]
    want_a, want_b = ((k, m) if transpose_a else (m, k)), ((n, k) if transpose_b else (k, n))
    check_arrays({"c": c}, {"a": a, "b": b}, {"a": want_a, "b": want_b})
    if c.size == 0 or k == 0:
        c[:] = 0.0
        return
    row_blocks, column_blocks, each = product_plan(m, n, k, c.dtype, get_num_threads())
    with pool().helping(row_blocks * column_blocks) as (seats, *team):
        _matmul(
            *team, MATMUL.address(c.dtype), np.empty(_N_CONTEXT, np.int64), GEMM.address(c.dtype),
            c, like_writable(a), like_writable(b), m, n, k, bool(transpose_a), bool(transpose_b),
            np.empty(seats * each + LINE_ELEMENTS, c.dtype), each, row_blocks, column_blocks,
        )  # fmt: skip


def product_plan(m: int, n: int, k: int, dtype: np.dtype, threads: int) -> tuple[int, int, int]:
    """Return (row blocks, column blocks, scratch elements of each) of an m x n x k product for some threads."""
    return (*task_grid.py_func(m, n, k, threads, FORK_FLOPS), product_scratch(m, n, k, dtype))


def product_scratch(m: int, n: int, k: int, dtype: np.dtype) -> int:
    """Return how many elements of scratch a thread needs for an m x n x k product, whatever block of it."""
    nr = VECTORS * lanes(8 * dtype.itemsize)
    columns = -(-min(n, NC) // nr) * nr
    rows = -(-min(m, MC_IN_PLACE if WIDE else MC) // MR) * MR
    size: int = min(k, _most_depth.py_func(nr)) * (columns + rows) + MR
    return -(-size // LINE_ELEMENTS) * LINE_ELEMENTS


def product_tasks(m: int, n: int, k: int, threads: int) -> int:
    """Return how many tasks of a team an m x n x k product is cut into."""
    rows, columns = task_grid.py_func(m, n, k, threads, TASK_FLOPS)
    return int(rows * columns)
