"""Element-wise kernels that Python calls: one task a chunk of their arrays, and helpers that share the tasks.

A kernel says what a task does with what a context holds (`_context.py`), in a function of the kinds of `_pool.KINDS`;
`share` writes the context and has the tasks done. What leads the tasks is compiled once for all kernels, and the tasks
once each, so that the bits are the same for any number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import types

from fastnn.kernels._blocks import make_stack
from fastnn.kernels._context import SLOTS, make_pieces
from fastnn.kernels._jit import Task, entry, like_writable
from fastnn.kernels._pool import lead, pool, put

CHUNK = 8192
"""Elements of one task of an element-wise kernel: 32 KB of float32, about 4 us."""

HELPED_CHUNKS = 3
"""Chunks that are worth a helper: 12 us and more."""

# The context, in vectors: up to five of the float type, numbers, sums to be written, integers; weights and labels of
# rows for losses.
A, B, C, D, E, NUMBERS, SUMS, COUNTS, WEIGHTS, LABELS = range(0, 10 * SLOTS, SLOTS)
_context_words = make_stack(10 * SLOTS, types.int64)

_NO_DOUBLES, _NO_INTEGERS = np.empty(0), np.empty(0, np.int64)


chunk_at = make_pieces(CHUNK)
"""Called as ``chunk_at(p, position, element, task)``: what a task works on of a float vector of a context."""


@entry
def _lead(team, job, members, like, function, n_tasks, a, b, c, d, e, numbers, sums, counts, weights, labels):
    p = _context_words(counts)
    put(p, A, a)
    put(p, B, b)
    put(p, C, c)
    put(p, D, d)
    put(p, E, e)
    put(p, NUMBERS, numbers)
    put(p, SUMS, sums)
    put(p, COUNTS, counts)
    put(p, WEIGHTS, weights)
    put(p, LABELS, labels)
    lead(team, job, members, like, function, p, n_tasks)


def share(
    task: Task,
    arrays: Sequence[np.ndarray],
    *,
    n_tasks: int | None = None,
    numbers: Sequence[float] = (),
    counts: Sequence[int] = (),
    sums: np.ndarray = _NO_DOUBLES,
    weights: np.ndarray = _NO_DOUBLES,
    labels: np.ndarray = _NO_INTEGERS,
) -> None:
    """Do the tasks of an element-wise kernel, with helpers where there is work for them.

    Parameters
    ----------
    task : Task
        What is done for one chunk: a function of context, array of the float type, chunk, seat.
    arrays : 1 to 5 arrays
        C-contiguous, of one float type; at A .. E of the context, as vectors.
    n_tasks : int, optional
        By default the chunks of the first array.
    numbers, counts : sequence
        Floats and integers at NUMBERS and COUNTS.
    sums, weights, labels : array
        C-contiguous arrays of float64, float64 and int64.
    """
    first = arrays[0]
    chunks = -(-first.size // CHUNK)
    vectors = [like_writable(array.reshape(-1)) for array in arrays]
    vectors += [vectors[0][:0]] * (5 - len(vectors))
    with pool().helping(chunks // HELPED_CHUNKS) as (_, *team):
        _lead(
            *team, task.address(first.dtype), chunks if n_tasks is None else n_tasks, *vectors,
            np.array(numbers, np.float64) if numbers else _NO_DOUBLES, sums,
            np.array(counts, np.int64) if counts else _NO_INTEGERS, weights, like_writable(labels),
        )  # fmt: skip
