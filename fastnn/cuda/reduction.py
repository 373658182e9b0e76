"""Sums by a block of threads, and a barrier for all blocks of a persistent kernel."""

from __future__ import annotations

from fastnn.cuda._numba import cuda, device_function
from fastnn.cuda.tile import THREADS

HALF = THREADS // 2


@device_function
def block_total(value, lanes):
    """Return the sum of every thread's `value`, added as a tree of fixed shape; `lanes` is float64 (THREADS,), shared.

    Barriers: the first lets all lanes be written before they are read, those in the loop keep one level of the tree
    apart from the next, and the last lets every thread read the sum before the lanes are written again.
    """
    t = cuda.threadIdx.x
    lanes[t] = value
    cuda.syncthreads()
    half = HALF
    while half > 0:
        if t < half:
            lanes[t] += lanes[t + half]
        cuda.syncthreads()
        half //= 2
    total = lanes[0]
    cuda.syncthreads()
    return total


@device_function
def sum_of(values, first, count, stride, lanes):
    """Return the sum of values[first + stride i], i < count, the same bits for any number of blocks."""
    total = 0.0
    for i in range(cuda.threadIdx.x, count, THREADS):
        total += values[first + i * stride]
    return block_total(total, lanes)


@device_function
def grid_barrier(arrivals, met):
    """Wait until every block of the grid is here, and let it see what the others wrote.

    Every block counts itself in at `arrivals[0]` (int32, 0 at the launch), and waits for the count to reach as many
    times the number of blocks as it has met the others, which it counts at `met[0]` (int64, shared, 0 at the
    launch): a block can be one barrier ahead of another, never two. The fence before counting in publishes what the
    whole block wrote (its threads met in `syncthreads` before); the fence behind the wait keeps later reads from seeing
    older values. All blocks must be on the card at once: no more are launched than it has multiprocessors, and one such
    kernel at a time (`_launch.lock`).
    """
    cuda.syncthreads()
    blocks = cuda.gridDim.x
    if blocks > 1:
        if cuda.threadIdx.x == 0:
            cuda.threadfence()
            target = met[0] + blocks
            met[0] = target
            cuda.atomic.add(arrivals, 0, 1)
            while cuda.atomic.add(arrivals, 0, 0) < target:
                pass
            cuda.threadfence()
        cuda.syncthreads()
