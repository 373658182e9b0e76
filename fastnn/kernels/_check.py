"""The checks in front of every public kernel: what the compiled code behind it takes for granted."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn.kernels._errors import unknown_name

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def check_array(
    name: str, array: Any, *, dtypes: tuple[Any, ...] = FLOATS, shape: Any = None, writable: bool = False
) -> None:
    """Raise unless `array` is a C-contiguous ndarray of one of `dtypes` and of `shape` (None: any length)."""
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name}: got {type(array).__name__}, expected a NumPy array")
    check_dtype(name, array.dtype, dtypes)
    if shape is not None:
        check_shape(name, array.shape, shape)
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{name}: got an array that is not C-contiguous, expected one (numpy.ascontiguousarray makes it)"
        )
    if not array.flags.aligned:
        raise ValueError(f"{name}: got an unaligned array, expected an aligned one")
    if writable and not array.flags.writeable:
        raise ValueError(f"{name}: got a read-only array, expected a writable one, since the kernel writes into it")


def check_dtype(name: str, dtype: Any, dtypes: tuple[Any, ...]) -> None:
    """Raise a TypeError where an array's dtype is none of `dtypes`."""
    if dtype not in dtypes:
        expected = " or ".join(str(np.dtype(each)) for each in dtypes)
        raise TypeError(f"{name}: got dtype {dtype}, expected {expected}")


def check_same_dtype(arrays: dict[str, Any]) -> None:
    """Raise a TypeError where an array's dtype is not the first one's."""
    first = next(iter(arrays))
    for name, array in arrays.items():
        if array.dtype != arrays[first].dtype:
            raise TypeError(f"{name}: got dtype {array.dtype}, expected {arrays[first].dtype} like {first}")


def check_shape(name: str, have: Any, shape: tuple[int | None, ...]) -> None:
    """Raise a ValueError where an array's shape is not the one wanted (None: any length)."""
    have = tuple(have)
    if len(have) != len(shape) or any(want not in (None, got) for want, got in zip(shape, have, strict=True)):
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"{name}: got shape {have}, expected ({wanted}{',' if len(shape) == 1 else ''})")


def _is_sound(array: Any, dtype: Any, shape: Any, writable: bool) -> bool:
    """Return whether `check_array` would pass; False also where it has not been looked at closely."""
    if type(array) is not np.ndarray or array.dtype != dtype:
        return False
    if shape is not None and array.shape != shape:
        return False
    flags = array.flags
    return bool(flags.carray if writable else flags.c_contiguous and flags.aligned)


def check_arrays(outputs: dict[str, Any], inputs: dict[str, Any], shapes: dict[str, Any] | None = None) -> None:
    """Check float arrays that belong together: one dtype, the shapes given, and outputs that overlap nothing else."""
    shapes = shapes or {}
    arrays = {**outputs, **inputs}
    dtype = getattr(next(iter(arrays.values())), "dtype", None)
    # One pass where all is well, 1 us an array less: a product of 128 x 256 x 64 takes 40 us.
    sound = dtype in FLOATS and all(
        _is_sound(array, dtype, shapes.get(name), name in outputs) for name, array in arrays.items()
    )
    if not sound:
        for name, array in arrays.items():
            check_array(name, array, shape=shapes.get(name), writable=name in outputs)
        check_same_dtype(arrays)
    seen = []
    for name, output in outputs.items():
        seen.append(name)
        for other_name, other in arrays.items():
            if other_name not in seen and np.may_share_memory(output, other):
                raise ValueError(f"{name}: shares memory with {other_name}, expected arrays that do not overlap")


def check_code(name: str, value: Any, codes: dict[str, int]) -> int:
    """Return the code of the name `value`, or raise with the names there are."""
    if not isinstance(value, str) or value not in codes:
        raise unknown_name(name, value, codes)
    return codes[value]
