"""What the machine can do at best, measured beside what is compared with it.

- `fma_peak`: fused multiply-adds on registers alone: chains of vectors, as many as the register file holds, each
  independent of the others, no memory. Where the CPU has no FMA, a multiplication and an addition.
- `plain_update`: a loop that reads and writes as many vectors as an optimizer does, with next to no arithmetic.

Both are compiled by Numba for this CPU, like fastnn's kernels.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from benchmarks.cases import aligned
from fastnn.kernels import _simd

_STEPS, _BURSTS = 200_000, 40
"""About half a millisecond a burst: short enough to fall between two interruptions. The best burst counts."""


def _chains() -> int:
    """Return how many accumulators fit: two of the 16 (AVX2, SSE) or 32 vector registers hold the factors."""
    return 12 if _simd.target().tile_rows == 6 else 24


@intrinsic
def _multiply_add_chains(typingctx: Any, steps: Any, x: Any, y: Any) -> Any:
    """Run acc_i = acc_i x + y on all chains `steps` times and return a sum of what they hold."""
    if not isinstance(x, types.Float) or x != y or not isinstance(steps, types.Integer):
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        count = _chains()
        vector = _simd._vector_type(signature.args[1])
        multiply_add = _simd._multiply_add(builder, vector)
        one = ir.Constant(args[0].type, 1)
        x, y = (_simd._splat(builder, value, vector) for value in args[1:])
        before = builder.block
        loop = builder.append_basic_block("loop")
        after = builder.append_basic_block("after")
        builder.branch(loop)
        builder.position_at_end(loop)
        left = builder.phi(args[0].type)
        chains = [builder.phi(vector) for _ in range(count)]
        results = [multiply_add(chain, x, y) for chain in chains]
        left_next = builder.sub(left, one)
        left.add_incoming(args[0], before)
        left.add_incoming(left_next, loop)
        for index, (chain, result) in enumerate(zip(chains, results, strict=True)):
            # Chains that begin alike would be merged into one.
            chain.add_incoming(ir.Constant(vector, [1.0 + 0.25 * index] * vector.count), before)
            chain.add_incoming(result, loop)
        builder.cbranch(builder.icmp_signed(">", left_next, ir.Constant(args[0].type, 0)), loop, after)
        builder.position_at_end(after)
        total = results[0]
        for result in results[1:]:
            total = builder.fadd(total, result)
        return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

    return x(types.int64, x, x), generate


@numba.njit(nogil=True)
def _run_chains(steps, x, y):
    return _multiply_add_chains(steps, x, y)


@numba.njit(parallel=True, nogil=True)
def _run_chains_parallel(out, steps, x, y):
    for t in prange(out.size):
        out[t] = _multiply_add_chains(steps, x, y)


def fma_peak(dtype: str, threads: int) -> float:
    """Return GFLOP/s of register-only multiply-adds on `threads` threads: the best of some bursts."""
    kind = np.dtype(dtype)
    # The chains run to y / (1 - x) = 1: no overflow, nothing subnormal.
    x, y = kind.type(0.5), kind.type(0.5)
    out = np.zeros(threads, kind)
    numba.set_num_threads(threads)

    def run(steps: int) -> None:
        if threads == 1:
            _run_chains(steps, x, y)
        else:
            _run_chains_parallel(out, steps, x, y)

    run(1000)
    seconds = np.inf
    for _ in range(_BURSTS):
        start = time.perf_counter()
        run(_STEPS)
        seconds = min(seconds, time.perf_counter() - start)
    return 2.0 * _simd.lanes(8 * kind.itemsize) * _chains() * _STEPS * threads / seconds / 1e9


_CHUNK = 16384


@numba.njit(nogil=True)
def _add(a, g, one, zero):
    for i in range(a.size):
        a[i] = a[i] * one + g[i] * zero


@numba.njit(nogil=True)
def _add_2(a, b, g, one, zero):
    for i in range(a.size):
        t = g[i] * zero
        a[i] = a[i] * one + t
        b[i] = b[i] * one + t


@numba.njit(nogil=True)
def _add_3(a, b, c, g, one, zero):
    for i in range(a.size):
        t = g[i] * zero
        a[i] = a[i] * one + t
        b[i] = b[i] * one + t
        c[i] = c[i] * one + t


@numba.njit(nogil=True)
def _add_4(a, b, c, d, g, one, zero):
    for i in range(a.size):
        t = g[i] * zero
        a[i] = a[i] * one + t
        b[i] = b[i] * one + t
        c[i] = c[i] * one + t
        d[i] = d[i] * one + t


@numba.njit(parallel=True, nogil=True)
def _plain_1(a, g, one, zero):
    for k in prange((a.size + _CHUNK - 1) // _CHUNK):
        part = slice(k * _CHUNK, (k + 1) * _CHUNK)
        _add(a[part], g[part], one, zero)


@numba.njit(parallel=True, nogil=True)
def _plain_2(a, b, g, one, zero):
    for k in prange((a.size + _CHUNK - 1) // _CHUNK):
        part = slice(k * _CHUNK, (k + 1) * _CHUNK)
        _add_2(a[part], b[part], g[part], one, zero)


@numba.njit(parallel=True, nogil=True)
def _plain_3(a, b, c, g, one, zero):
    for k in prange((a.size + _CHUNK - 1) // _CHUNK):
        part = slice(k * _CHUNK, (k + 1) * _CHUNK)
        _add_3(a[part], b[part], c[part], g[part], one, zero)


@numba.njit(parallel=True, nogil=True)
def _plain_4(a, b, c, d, g, one, zero):
    for k in prange((a.size + _CHUNK - 1) // _CHUNK):
        part = slice(k * _CHUNK, (k + 1) * _CHUNK)
        _add_4(a[part], b[part], c[part], d[part], g[part], one, zero)


def plain_update(streams: int, size: int, dtype: str = "float32") -> Callable[[], Any]:
    """Return a call that reads and writes `streams` vectors of `size` and reads one more, as an update does."""
    kind = np.dtype(dtype)
    vectors = [aligned(size, kind) for _ in range(streams + 1)]
    for vector in vectors:
        vector[:] = 1.0
    function = (_plain_1, _plain_2, _plain_3, _plain_4)[streams - 1]
    return functools.partial(function, *vectors, kind.type(1.0), kind.type(0.0))
