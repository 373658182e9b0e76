"""Four numbers at a time: one load or store of 16 bytes (32 in float64), and products of four numbers by four.

An index here is never negative, and nothing looks at it: Numba's own indexing counts from the end where it is, which
takes more instructions than the load. In the simulator numbers are read and written one by one.
"""

from __future__ import annotations

from typing import Any

from fastnn.cuda._numba import SIMULATED, device_function, intrinsic, types_of_numba

FOUR = 4


def _address(context: Any, builder: Any, signature: Any, arguments: Any) -> tuple[Any, Any]:
    """Return a pointer to the element of an array, the first two arguments, and a vector of four of it."""
    from llvmlite import ir

    data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
    at = builder.gep(data, [arguments[1]], inbounds=True)
    return at, ir.VectorType(data.type.pointee, FOUR)


def _place(number: int) -> Any:
    from llvmlite import ir

    return ir.Constant(ir.IntType(32), number)


def _load(typingctx, array, index):
    def generate(context, builder, signature, arguments):
        return builder.load(_address(context, builder, signature, arguments)[0])

    return array.dtype(array, types_of_numba().int64), generate


def _store(typingctx, array, index, value):
    def generate(context, builder, signature, arguments):
        builder.store(arguments[2], _address(context, builder, signature, arguments)[0])
        return context.get_dummy_value()

    types = types_of_numba()
    return types.void(array, types.int64, array.dtype), generate


def _load4(typingctx, array, index):
    def generate(context, builder, signature, arguments):
        at, vector = _address(context, builder, signature, arguments)
        loaded = builder.load(builder.bitcast(at, vector.as_pointer()))
        loaded.align = 16
        parts = [builder.extract_element(loaded, _place(i)) for i in range(FOUR)]
        return context.make_tuple(builder, signature.return_type, parts)

    types = types_of_numba()
    return types.UniTuple(array.dtype, FOUR)(array, types.int64), generate


def _store4(typingctx, array, index, values):
    def generate(context, builder, signature, arguments):
        from llvmlite import ir

        at, vector = _address(context, builder, signature, arguments)
        whole = ir.Constant(vector, ir.Undefined)
        for i in range(FOUR):
            whole = builder.insert_element(whole, builder.extract_value(arguments[2], i), _place(i))
        builder.store(whole, builder.bitcast(at, vector.as_pointer())).align = 16
        return context.get_dummy_value()

    types = types_of_numba()
    return types.void(array, types.int64, types.UniTuple(array.dtype, FOUR)), generate


if SIMULATED:

    def load(array: Any, index: Any) -> Any:
        """Return the element at an index."""
        return array[index]

    def store(array: Any, index: Any, value: Any) -> None:
        """Write the element at an index."""
        array[index] = value

    def load4(array: Any, index: Any) -> Any:
        """Return the four elements from an index that is a multiple of 4."""
        assert index % FOUR == 0, index
        return tuple(array[index + i] for i in range(FOUR))

    def store4(array: Any, index: Any, values: Any) -> None:
        """Write four elements from an index that is a multiple of 4."""
        assert index % FOUR == 0, index
        for i in range(FOUR):
            array[index + i] = values[i]

else:
    load, store = intrinsic(_load), intrinsic(_store)
    load4, store4 = intrinsic(_load4), intrinsic(_store4)


@device_function
def sixteen(zero):
    """Return the sums of four numbers by four: nothing yet."""
    return (zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero)


@device_function
def add_products(sums, x, y):
    """Return the sums (4 x 4, row by row) and the products of each number of x by each of y."""
    return (
        sums[0] + x[0] * y[0], sums[1] + x[0] * y[1], sums[2] + x[0] * y[2], sums[3] + x[0] * y[3],
        sums[4] + x[1] * y[0], sums[5] + x[1] * y[1], sums[6] + x[1] * y[2], sums[7] + x[1] * y[3],
        sums[8] + x[2] * y[0], sums[9] + x[2] * y[1], sums[10] + x[2] * y[2], sums[11] + x[2] * y[3],
        sums[12] + x[3] * y[0], sums[13] + x[3] * y[1], sums[14] + x[3] * y[2], sums[15] + x[3] * y[3],
    )  # fmt: skip


@device_function
def store16(array, at, pitch, sums):
    """Write the four rows of 4 x 4 sums `pitch` apart."""
    store4(array, at, (sums[0], sums[1], sums[2], sums[3]))
    store4(array, at + pitch, (sums[4], sums[5], sums[6], sums[7]))
    store4(array, at + 2 * pitch, (sums[8], sums[9], sums[10], sums[11]))
    store4(array, at + 3 * pitch, (sums[12], sums[13], sums[14], sums[15]))


@device_function
def add_four(sums, x):
    """Return the sums of two times four numbers."""
    return (sums[0] + x[0], sums[1] + x[1], sums[2] + x[2], sums[3] + x[3])


@device_function
def add16(sums, array, at, pitch):
    """Return 4 x 4 sums and what `store16` wrote."""
    a, b = load4(array, at), load4(array, at + pitch)
    c, d = load4(array, at + 2 * pitch), load4(array, at + 3 * pitch)
    return (
        sums[0] + a[0], sums[1] + a[1], sums[2] + a[2], sums[3] + a[3],
        sums[4] + b[0], sums[5] + b[1], sums[6] + b[2], sums[7] + b[3],
        sums[8] + c[0], sums[9] + c[1], sums[10] + c[2], sums[11] + c[3],
        sums[12] + d[0], sums[13] + d[1], sums[14] + d[2], sums[15] + d[3],
    )  # fmt: skip
