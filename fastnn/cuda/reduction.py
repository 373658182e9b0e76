"""Sums by a block of threads, and a barrier for all blocks of a persistent kernel."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn.cuda._numba import SIMULATED, cuda, device_function, intrinsic, types_of_numba
from fastnn.cuda.tile import THREADS

HALF = THREADS // 2


def _arrive(typingctx, counts):
    """Count in at counts[0]; who sees the count sees what this thread wrote, or met the writer of, before."""

    def generate(context, builder, signature, arguments):
        from llvmlite import ir

        at = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        kind = ir.FunctionType(ir.VoidType(), [at.type])
        builder.asm(kind, "red.release.gpu.add.s32 [$0], 1;", "l,~{memory}", [at], side_effect=True)
        return context.get_dummy_value()

    return types_of_numba().void(counts), generate


def _count(typingctx, counts):
    """Return counts[0]; what is read behind it is as new as the count."""

    def generate(context, builder, signature, arguments):
        from llvmlite import ir

        at = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        kind = ir.FunctionType(ir.IntType(32), [at.type])
        return builder.asm(kind, "ld.acquire.gpu.s32 $0, [$1];", "=r,l,~{memory}", [at], side_effect=True)

    return types_of_numba().int32(counts), generate


if not SIMULATED:
    arrive, count = intrinsic(_arrive), intrinsic(_count)

else:

    def arrive(counts: Any) -> None:
        """Count in: the simulator runs a grid block by block, so nobody waits."""

    def count(counts: Any) -> Any:
        """Return the count: all are there."""
        return np.iinfo(np.int32).max


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

    Every block counts itself in at arrivals[0] (int32, 0 at the launch), and waits for the count to reach as many times
    the number of blocks as it has met the others, which it counts at met[0] (int64, shared, 0 at the launch): a block
    can be one barrier ahead of another, never two. Counting in releases what the whole block wrote, whose threads met
    in `syncthreads` before; the read of the count that ends the wait acquires what was released to it, for all threads
    that meet the reader in `syncthreads` behind it (PTX ISA, "Memory Consistency Model"). All blocks must be on the
    card at once: no more are launched than it has multiprocessors, and one such kernel at a time (`_launch.lock`).
    """
    cuda.syncthreads()
    if cuda.gridDim.x > 1:
        if cuda.threadIdx.x == 0:
            target = met[0] + cuda.gridDim.x
            met[0] = target
            arrive(arrivals)
            while count(arrivals) < target:
                pass
        cuda.syncthreads()
