"""How each operation of a step is cut into tasks: by sizes alone, so that any number of threads gives the same bits."""

from __future__ import annotations

from fastnn.kernels._jit import block, inlined
from fastnn.kernels.gemm import TASK_FLOPS, split, task_grid
from fastnn.kernels.layout import (
    CHUNK_FROM,
    DENSE,
    GRADIENT,
    KIND,
    MEMBERS,
    MODE,
    N_IN,
    N_OUT,
    PARTS,
    ROW_TASKS,
    ROWS,
    TRAIN,
)

ROW_CHUNK, MAX_ROW_TASKS = 4096, 16
"""Elements of a task of element-wise work on rows, about 2 us, several times what a claim costs; and tasks at most."""

LOSS_BLOCK_ROWS, MANY_BLOCKS, MOST_BLOCK_ROWS = 16, 64, 128
"""The loss of a batch is added up by blocks of some rows, 64 of them, or more where each would have more than 128 rows:
parts of a batch are whole blocks."""

FINE_FROM, FINE_BELOW = 48, 128
"""Rows of a batch whose blocks have half as many rows each, for threads of other speeds to get other parts."""


@block
def row_tasks(rows, n):
    """Return in how many blocks of rows element-wise work on rows x n elements is done."""
    return min(MAX_ROW_TASKS, rows, max(1, rows * n // ROW_CHUNK))


@inlined
def most_loss_blocks(rows):
    """Return how many blocks of rows the sum of the losses is cut into at most, of so many rows or fewer."""
    return max(MANY_BLOCKS, rows // MOST_BLOCK_ROWS)


@inlined
def loss_blocks(rows):
    """Return into how many blocks of rows the sum of the losses is cut, whoever makes them: each has its own sum.

    1, 2, or a multiple of 4, so that a few threads get as many each.
    """
    each = LOSS_BLOCK_ROWS // 2 if FINE_FROM <= rows < FINE_BELOW else LOSS_BLOCK_ROWS
    blocks = min(most_loss_blocks(rows), rows // each)
    return blocks - blocks % 4 if blocks >= 4 else max(1, min(2, blocks))


@inlined
def loss_block(rows, index):
    """Return (first row, last row + 1) of a block of the loss."""
    return split(rows, loss_blocks(rows), index, 2)


@inlined
def rows_of_blocks(rows, first, last):
    """Return (first row, last row + 1) of the blocks [first, last) of the loss."""
    return loss_block(rows, first)[0], loss_block(rows, last - 1)[1]


@inlined
def blocks_of_chunk(rows, chunks, t):
    """Return (first block, last block + 1) of the loss of one of some equal chunks of a batch."""
    return split(loss_blocks(rows), chunks, t, 1)


@inlined
def rows_of_chunk(rows, chunks, t):
    """Return (first row, last row + 1) of one of some equal chunks of a batch: whole blocks of the loss."""
    first, last = blocks_of_chunk(rows, chunks, t)
    return rows_of_blocks(rows, first, last)


CHUNK_ROWS, MOST_CHUNKS = 64, 8
"""Rows at least whose gradient is a sum of its own where weights are few beside what rows leave in the workspace, and
chunks of a batch at most.

Whoever sums rows that another core has written fetches them, and to write them again the next time takes each line away
from the one that read it. A thread that sums its own rows leaves but the sums to be added up.
"""


@inlined
def gradient_chunks(from_rows, rows):
    """Return in how many chunks of rows a batch's gradients are summed and then added in order: 1, 2, 4 or 8.

    `from_rows` are the rows from which two pay, twice as many those from which four do.
    """
    chunks = 1
    while 2 * chunks <= MOST_CHUNKS and rows >= max(chunks * from_rows, 2 * chunks * CHUNK_ROWS):
        chunks *= 2
    return chunks


@inlined
def pieces_of_chunk(piece_rows, rows, chunks):
    """Return in how many pieces of about `piece_rows` rows a chunk is carried through all stages."""
    return max(1, min(rows // (chunks * piece_rows), loss_blocks(rows) // chunks)) if chunks > 1 else 1


@inlined
def blocks_of_piece(first, last, pieces, piece):
    """Return (first block, last block + 1) of one of some pieces of the blocks [first, last) of the loss."""
    before, behind = split(last - first, pieces, piece, 1)
    return first + before, first + behind


@inlined
def by_chunks(c):
    """Return whether who carries a chunk of rows sums its gradients, too: where each thread has as many chunks."""
    chunks = gradient_chunks(c[CHUNK_FROM], c[ROWS])
    return c[PARTS] >= 0 and chunks > 1 and chunks % c[MEMBERS] == 0 and (c[MODE] == TRAIN or c[MODE] == GRADIENT)


@inlined
def parts_of_rows(c):
    """Return in how many parts the rows of the batch at hand go through all stages."""
    return gradient_chunks(c[CHUNK_FROM], c[ROWS]) if by_chunks(c) else min(c[ROW_TASKS], loss_blocks(c[ROWS]))


@block
def stage_tasks(stage, rows, back, threads):
    """Return in how many blocks a stage's outputs are computed or, going back, the gradient of its inputs."""
    columns, inner = (stage[N_IN], stage[N_OUT]) if back else (stage[N_OUT], stage[N_IN])
    if stage[KIND] != DENSE:
        return row_tasks(rows, columns)
    row_blocks, column_blocks = task_grid(rows, columns, inner, threads, TASK_FLOPS)
    return row_blocks * column_blocks
