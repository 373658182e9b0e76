"""The checks in front of every public kernel: what the compiled code behind it takes for granted."""

from __future__ import annotations

from typing import Any

import numpy as np

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def check_array(
    name: str, array: Any, *, dtypes: tuple[Any, ...] = FLOATS, shape: Any = None, writable: bool = False
) -> None:
    """Raise unless `array` is a C-contiguous ndarray of one of `dtypes` and of `shape` (None: any length)."""
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name}: got {type(array).__name__}, expected a NumPy array")
    if array.dtype not in dtypes:
        expected = " or ".join(str(np.dtype(dtype)) for dtype in dtypes)
        raise TypeError(f"{name}: got dtype {array.dtype}, expected {expected}")
    if shape is not None:
        same = len(shape) == array.ndim and all(
            want is None or want == have for want, have in zip(shape, array.shape, strict=True)
        )
        if not same:
            expected = (
                "("
                + ", ".join("any" if want is None else str(want) for want in shape)
                + ("," if len(shape) == 1 else "")
                + ")"
            )
            raise ValueError(f"{name}: got shape {array.shape}, expected {expected}")
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{name}: got an array that is not C-contiguous, expected one (numpy.ascontiguousarray makes it)"
        )
    if not array.flags.aligned:
        raise ValueError(f"{name}: got an unaligned array, expected an aligned one")
    if writable and not array.flags.writeable:
        raise ValueError(f"{name}: got a read-only array, expected a writable one, since the kernel writes into it")


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
    first_name, first = next(iter(arrays.items()))
    dtype = getattr(first, "dtype", None)
    # One pass where all is well, 1 us an array less: a product of 128 x 256 x 64 takes 40 us.
    sound = dtype in FLOATS and all(
        _is_sound(array, dtype, shapes.get(name), name in outputs) for name, array in arrays.items()
    )
    if not sound:
        for name, array in arrays.items():
            check_array(name, array, shape=shapes.get(name), writable=name in outputs)
        for name, array in arrays.items():
            if array.dtype != dtype:
                raise TypeError(f"{name}: got dtype {array.dtype}, expected {dtype} like {first_name}")
    seen = []
    for name, output in outputs.items():
        seen.append(name)
        for other_name, other in arrays.items():
            if other_name not in seen and np.may_share_memory(output, other):
                raise ValueError(f"{name}: shares memory with {other_name}, expected arrays that do not overlap")


def check_scalar(
    name: str,
    value: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    below: float | None = None,
    infinite: bool = False,
) -> None:
    """Raise unless `value` is a real number, not NaN, with low <= value <= high and value < below.

    Infinity passes only where `infinite` says so.
    """
    plain = type(value) is float or type(value) is int
    within = (low is None or value >= low) and (high is None or value <= high) if plain else False
    if within and -_LARGEST <= value <= _LARGEST and (below is None or value < below):
        return
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: got {type(value).__name__}, expected a number")
    if isinstance(value, np.floating):
        value = float(value)  # to compare a float32 would round the bounds
    bounds = [
        text for bound, text in ((low, f">= {low}"), (high, f"<= {high}"), (below, f"< {below}")) if bound is not None
    ]
    out = (
        value != value
        or (low is not None and value < low)
        or (high is not None and value > high)
        or (below is not None and value >= below)
    )
    endless = not -_LARGEST <= value <= _LARGEST
    if out or (endless and not (infinite and isinstance(value, float))):
        kind = "a finite number" if endless and not out else "a number"
        shown = value if not endless or isinstance(value, float) else "an integer beyond any float"
        raise ValueError(f"{name}: got {shown}, expected {kind} {' and '.join(bounds)}".rstrip())


_LARGEST = float(np.finfo(np.float64).max)


def check_flag(name: str, value: Any) -> None:
    """Raise unless `value` is True or False: compiled code may not take for true what Python takes for false."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: got {type(value).__name__}, expected True or False")


def check_code(name: str, value: Any, codes: dict[str, int]) -> int:
    """Return the code of the name `value`, or raise with the names there are."""
    if not isinstance(value, str) or value not in codes:
        known = ", ".join(repr(key) for key in codes)
        raise ValueError(f"{name}: got {value!r}, expected one of {known}")
    return codes[value]
