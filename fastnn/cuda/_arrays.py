"""Device arrays: what kernels are handed, from whatever carries `__cuda_array_interface__`, and the checks of it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastnn.cuda._numba import SIMULATED, driver, missing
from fastnn.kernels._check import FLOATS, check_dtype, check_same_dtype, check_shape


def as_device(name: str, array: Any) -> Any:
    """Return Numba's view of a device array, CuPy's or PyTorch's too, without a copy.

    Raises
    ------
    RuntimeError
        If there is no device.
    TypeError
        For anything else.
    """
    if missing():
        raise RuntimeError(missing())
    if SIMULATED:
        if type(array).__name__ == "FakeCUDAArray":
            return array
    elif _is_numbas(array):
        return array
    elif driver.is_cuda_array(array):
        return driver.as_cuda_array(array)
    raise TypeError(
        f"{name}: got {type(array).__name__}, expected an array on the device (numba.cuda.to_device makes it)"
    )


def _is_numbas(array: Any) -> bool:
    """Return whether an array is one of Numba's own on the device, which takes no new view of it.

    Its managed and mapped ones are NumPy's besides, and have neither that class's methods nor views for the device.
    """
    return bool(getattr(array, "__cuda_ndarray__", False)) and not isinstance(array, np.ndarray)


def address(array: Any) -> int:
    """Return where an array begins."""
    return int(array._ary.ctypes.data if SIMULATED else array.device_ctypes_pointer.value or 0)


def _extent(array: Any) -> tuple[int, int]:
    """Return the addresses between which an array lies."""
    start = address(array)
    return start, start + array.size * array.dtype.itemsize


def is_contiguous(array: Any) -> bool:
    """Return whether an array is in C order without gaps."""
    return bool(array.flags.c_contiguous) if SIMULATED else bool(array.is_c_contiguous())


def _is_read_only(array: Any) -> bool:
    if SIMULATED:
        return not array.flags.writeable
    return not _is_numbas(array) and bool(array.__cuda_array_interface__["data"][1])


def check_array(
    name: str, array: Any, dtypes: tuple[Any, ...] = FLOATS, shape: Any = None, writable: bool = False
) -> Any:
    """Return Numba's view of a device array of one of `dtypes` and of `shape` (None: any length), or raise.

    Raises
    ------
    TypeError, ValueError
        As the CPU kernels' checks do.
    """
    view = as_device(name, array)
    check_dtype(name, view.dtype, dtypes)
    if shape is not None:
        check_shape(name, view.shape, shape)
    if not is_contiguous(view):
        raise ValueError(f"{name}: got an array that is not C-contiguous, expected one")
    if writable and _is_read_only(array):
        raise ValueError(f"{name}: got a read-only array, expected a writable one, since the kernel writes into it")
    return view


def check_arrays(
    outputs: dict[str, Any], inputs: dict[str, Any], shapes: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return Numba's views of float arrays that belong together:

    One dtype, the shapes given, and outputs that overlap nothing.

    Raises
    ------
    TypeError, ValueError
        As the CPU kernels' checks do.
    """
    shapes = shapes or {}
    given = {**outputs, **inputs}
    arrays = {name: check_array(name, a, FLOATS, shapes.get(name), name in outputs) for name, a in given.items()}
    check_same_dtype(arrays)
    check_overlap({name: arrays[name] for name in outputs}, arrays)
    return arrays


def check_overlap(outputs: dict[str, Any], arrays: dict[str, Any]) -> None:
    """Raise where an output shares memory with another array."""
    seen, extents = [], {name: _extent(array) for name, array in arrays.items()}
    for name in outputs:
        seen.append(name)
        start, stop = extents[name]
        for other_name, (low, high) in extents.items():
            if other_name not in seen and low < stop and start < high:
                raise ValueError(f"{name}: shares memory with {other_name}, expected arrays that do not overlap")


def flat(array: Any) -> Any:
    """Return a contiguous device array as a vector, without a copy."""
    return array if array.ndim == 1 else array.reshape(array.size)


def view_as(array: Any, dtype: Any, shape: tuple[int, ...]) -> Any:
    """Return a contiguous device array as one of another type and shape, without a copy."""
    if SIMULATED:
        return type(array)(array._ary.view(dtype).reshape(shape))
    return array.view(dtype).reshape(*shape)


def empty(shape: int | tuple[int, ...], dtype: Any) -> Any:
    """Return a device array that holds anything; one element at least, since a device has no array of none."""
    with _room_for(math.prod(np.atleast_1d(shape)) * np.dtype(dtype).itemsize):
        return driver.device_array(shape if np.prod(shape) else _one(shape), dtype)


def _one(shape: int | tuple[int, ...]) -> int | tuple[int, ...]:
    return 1 if isinstance(shape, int) else (1,) * len(shape)


def to_device(array: np.ndarray) -> Any:
    """Return a copy of a NumPy array on the device."""
    with _room_for(array.nbytes):
        return driver.to_device(np.ascontiguousarray(array))


@contextlib.contextmanager
def _room_for(wanted: float) -> Iterator[None]:
    """Say what did not fit where the device has no memory left.

    Raises
    ------
    MemoryError
        If it has not.
    """
    try:
        yield
    except Exception as error:  # the bundled target, numba-cuda and cuda-python each have their own
        if "OUT_OF_MEMORY" not in str(error).upper():
            raise
        free, total = driver.current_context().get_memory_info()
        raise MemoryError(
            f"device: {wanted / 1e9:.2f} GB do not fit on the GPU, which has {free / 1e9:.2f} of {total / 1e9:.2f} GB "
            "free; a smaller batch_size takes less, and data as a stream (fastnn.stream) go there piece by piece"
        ) from error
