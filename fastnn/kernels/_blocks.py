"""Blocks of numbers: copy and fill as plain loops, copies past the caches, where cache lines begin, a few on the stack.

Numba's slice assignment compiles its error messages along, 7 s of them.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

from fastnn.kernels._jit import inlined
from fastnn.kernels._simd import pointer, vector_lanes, write_past_caches


def make_stack(count: int, element: Any = None) -> Any:
    """Build ``stack(like)``: a 1-D array of `count` numbers that lives as long as the call of the function it is in.

    They are of type `element`, or of the dtype of the array `like`. What they are at first is left open.
    """

    @intrinsic
    def stack(typingctx: Any, like: Any) -> Any:
        dtype = like.dtype if element is None else element

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind, word = context.get_data_type(dtype), ir.IntType(64)
            data = cgutils.alloca_once(builder, kind, size=count)
            data.align = 64
            item = ir.Constant(word, context.get_abi_sizeof(kind))
            view = make_array(signature.return_type)(context, builder)
            populate_array(
                view, data=data, shape=[ir.Constant(word, count)], strides=[item], itemsize=item, meminfo=None
            )
            return view._getvalue()

        return types.Array(dtype, 1, "C")(like), generate

    return stack


LINE_ELEMENTS = 16
"""Elements that fill a whole number of cache lines of 64 bytes, in either float type."""


@inlined
def first_line(room):
    """Return which element of a vector begins its first whole cache line."""
    return (-room.ctypes.data % 64) // room.itemsize


@inlined
def copy(target, source):
    """Write target[i] = source[i] for every i of `target`."""
    for i in range(target.size):
        target[i] = source[i]


@inlined
def copy_past_caches(target, source):
    """Copy as `copy` does, whole vectors past all caches; others may be told of them after `finish_writes`."""
    lanes = vector_lanes(target)
    first = min(target.size, -(target.ctypes.data // target.itemsize) % lanes)
    last = first + (target.size - first) // lanes * lanes
    copy(target[:first], source[:first])
    for i in range(first, last, lanes):
        write_past_caches(pointer(target, i), pointer(source, i))
    copy(target[last:], source[last : target.size])


@inlined
def add(target, source):
    """Add source[i] to target[i] for every i of `target`."""
    for i in range(target.size):
        target[i] += source[i]


@inlined
def fill(target, value):
    """Write target[i] = value."""
    for i in range(target.size):
        target[i] = value
