"""One vector of integers that tells a compiled call all it works on: numbers, and arrays by address and shape.

Handing twenty arrays through Python, into a parallel loop and on to every task costs microseconds each time; a context
is one argument. `Context` is the Python side: it keeps every array alive that it holds the address of. The views below
are the compiled side: they own nothing and count no references, so they cost nothing either. A view as a vector may be
one of a matrix, its rows one behind the other.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

SLOTS = 3
"""An array takes three integers: address, rows, columns (1 for a vector)."""


class Context:
    """A vector of integers and the arrays that it points to.

    Parameters
    ----------
    size : int
        How many integers.
    """

    def __init__(self, size: int) -> None:
        self.integers = np.zeros(size, np.int64)
        self._arrays: dict[int, np.ndarray] = {}

    def copy(self) -> Context:
        """Return one that begins with the same numbers and arrays."""
        other = copy.copy(self)
        other.integers, other._arrays = self.integers.copy(), self._arrays.copy()
        return other

    def release(self, *positions: int) -> None:
        """Let go of arrays: others are to be stored at these positions before the next call."""
        for position in positions:
            self._arrays.pop(position, None)

    def holds(self, position: int, array: np.ndarray) -> bool:
        """Return whether this very array is stored at a position."""
        return self._arrays.get(position) is array

    def __setitem__(self, position: int, value: int | np.ndarray) -> None:
        """Store a number, or a C-contiguous array at `position` .. `position` + 2; an empty one has no address."""
        if not isinstance(value, np.ndarray):
            self.integers[position] = value
            return
        if not value.flags.c_contiguous or value.ndim not in (1, 2):
            raise ValueError(f"array: got {value.ndim} dimensions, not C-contiguous or none of 1 and 2")
        self._arrays[position] = value
        rows, columns = value.shape if value.ndim == 2 else (len(value), 1)
        address = value.ctypes.data if value.size else 0  # which takes a microsecond
        self.integers[position : position + SLOTS] = address, rows, columns


_WORD = ir.IntType(64)


def _read_slots(builder: Any, table: Any, position: Any, pointer: Any) -> tuple[Any, Any, Any]:
    """Return address, rows and columns of the array at a position of a context."""
    address, rows, columns = (
        builder.load(builder.gep(table, [builder.add(position, ir.Constant(_WORD, offset))])) for offset in range(SLOTS)
    )
    return builder.inttoptr(address, pointer), rows, columns


def _generate_view(array_type: Any, piece: int | None = None) -> Any:
    """Return what writes the code for a view of an array, or of one `piece` of a vector, which has so many elements."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        table = make_array(signature.args[0])(context, builder, args[0]).data
        kind = context.get_data_type(array_type.dtype)
        item_size = ir.Constant(_WORD, context.get_abi_sizeof(kind))
        data, rows, columns = _read_slots(builder, table, args[1], kind.as_pointer())
        shape, strides = [rows, columns], [builder.mul(columns, item_size), item_size]
        if array_type.ndim == 1:
            shape, strides = [builder.mul(rows, columns)], [item_size]
        if piece is not None:
            size = ir.Constant(_WORD, piece)
            first = builder.mul(args[3], size)
            rest = builder.sub(shape[0], first)
            data = builder.gep(data, [first])
            shape = [builder.select(builder.icmp_signed("<", rest, size), rest, size)]
            none = ir.Constant(_WORD, 0)  # where the vector is shorter, or there is none
            shape = [builder.select(builder.icmp_signed("<", shape[0], none), none, shape[0])]
        view = make_array(array_type)(context, builder)
        populate_array(view, data=data, shape=shape, strides=strides, itemsize=item_size, meminfo=None)
        return view._getvalue()

    return generate


def _make_view(element: Any, dimensions: int) -> Any:
    """Build an intrinsic (context, position[, like]) -> array view; `element` None takes the dtype of `like`."""
    if element is None:

        @intrinsic
        def view_like(typingctx: Any, context: Any, position: Any, like: Any) -> Any:
            array_type = types.Array(like.dtype, dimensions, "C")
            return array_type(context, types.int64, like), _generate_view(array_type)

        return view_like

    @intrinsic
    def view(typingctx: Any, context: Any, position: Any) -> Any:
        array_type = types.Array(element, dimensions, "C")
        return array_type(context, types.int64), _generate_view(array_type)

    return view


def make_pieces(size: int) -> Any:
    """Build an intrinsic (context, position, like, index) -> view of `size` elements of a vector from index * size on.

    They are fewer, or none, where the vector ends before.
    """

    @intrinsic
    def piece_at(typingctx: Any, context: Any, position: Any, like: Any, index: Any) -> Any:
        array_type = types.Array(like.dtype, 1, "C")
        return array_type(context, types.int64, like, types.int64), _generate_view(array_type, size)

    return piece_at


integers_at = _make_view(types.int64, 1)
integer_rows_at = _make_view(types.int64, 2)
doubles_at = _make_view(types.float64, 1)
double_rows_at = _make_view(types.float64, 2)
byte_rows_at = _make_view(types.uint8, 2)
floats_at = _make_view(None, 1)
bytes_at = _make_view(types.uint8, 1)
float_rows_at = _make_view(None, 2)
