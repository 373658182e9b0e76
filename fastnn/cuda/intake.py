"""The gate for what users have on the device already: CuPy's arrays, PyTorch's CUDA tensors, Numba's device arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn import arrays
from fastnn.cuda._arrays import address, as_device, flat, is_contiguous
from fastnn.cuda._cublas import current
from fastnn.cuda._numba import driver
from fastnn.cuda.statistics import is_finite

Array = npt.NDArray[Any]

_DLPACK_CUDA = (2, 13)
"""DLPack's numbers for a GPU's memory, its own and managed."""


def as_samples(
    name: str, value: Any, inputs: int | None, dtype: np.dtype[Any], check_finite: bool
) -> tuple[Array, Array]:
    """Return `fastnn.arrays.as_samples` of an array on the device, which stays there where kernels can read it.

    They read numbers of `dtype`, and bytes, in C order. Others make the way by the host.

    Raises
    ------
    TypeError, ValueError
        As `fastnn.arrays.as_samples` does.
    """
    view = _view(name, value)
    kept = view.dtype in (dtype, np.uint8) and view.ndim > 1 and view.size and is_contiguous(view)
    if not kept or address(view) % view.dtype.itemsize:
        return arrays.as_samples(name, host_copy(name, value), inputs, dtype, check_finite)
    rows, width = arrays.row_shape(name, view.shape, inputs)
    if view.dtype == np.uint8:
        return np.empty((0, 0), dtype), view.reshape(rows, width)
    if check_finite and not is_finite(flat(view)):
        arrays.as_samples(name, host_copy(name, value), inputs, dtype, check_finite)  # it says where
    return view.reshape(rows, width), np.empty((0, 0), np.uint8)


def host_copy(name: str, value: Any) -> Array:
    """Return a copy on the host of an array on the device.

    Raises
    ------
    TypeError
        For what makes no array there, such as bfloat16, an array with gaps, or one of another device.
    """
    view = _view(name, value)
    try:
        return np.asarray(view.copy_to_host())
    except Exception as error:  # as Numba has no copy of negative strides
        raise _refused(name, value, error) from None


def _view(name: str, value: Any) -> Any:
    """Return Numba's view of an array, for the default stream, when what any stream was to write into it is written."""
    try:
        _check_device(value)
        view = as_device(name, value).bind()
        driver.synchronize()
    except Exception as error:  # Numba and the driver each have their own
        raise _refused(name, value, error) from None
    return view


def _check_device(value: Any) -> None:
    """Raise a ValueError where an array says that it is on another GPU: to read it there may end the process."""
    if hasattr(value, "__dlpack_device__"):
        kind, number = map(int, value.__dlpack_device__())
        if kind in _DLPACK_CUDA and number != current():
            raise ValueError(f"it is on GPU {number}, and the current one is {current()}")


def _refused(name: str, value: Any, error: Exception) -> TypeError:
    return TypeError(
        f"{name}: got {type(value).__name__} that makes no array of this GPU ({' '.join(str(error).split())}), "
        "expected numbers there, or on the host"
    )
