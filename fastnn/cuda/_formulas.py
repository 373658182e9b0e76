"""The CPU kernels' formulas and loops as device functions: the same source, for CUDA (or its simulator).

`on_device` takes a compiled CPU function, and rebuilds the Python function behind it with names that mean the same on
the device: formulas are rebuilt in turn, and the few primitives that emit LLVM IR (`kernels/elementary.py`) have a form
of their own here, since NVVM knows not all of LLVM's functions.
"""

from __future__ import annotations

import functools
import math
import types as python_types
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numba
import numpy as np
from numba.extending import is_jitted

from fastnn.cuda._numba import SIMULATED, device_function, intrinsic
from fastnn.kernels import elementary


def _names(code: Any) -> set[str]:
    """Return every name that a function reads, of functions inside it as well."""
    inner = (constant for constant in code.co_consts if isinstance(constant, python_types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


@functools.cache
def on_device(dispatcher: Any) -> Any:
    """Return the device function with the source of a CPU formula, loop or block.

    Parameters
    ----------
    dispatcher : compiled function
        Of `fastnn.kernels`, made by `formula`, `inlined` or `block`.
    """
    return device_function(_rebuilt(dispatcher.py_func))


def _rebuilt(function: Callable[..., Any]) -> Callable[..., Any]:
    used = {name: value for name, value in function.__globals__.items() if name in _names(function.__code__)}
    names = {**function.__globals__, **{name: _counterpart(value, function) for name, value in used.items()}}
    twin = python_types.FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    twin.__module__, twin.__qualname__, twin.__doc__ = function.__module__, function.__qualname__, function.__doc__
    return twin


def _counterpart(value: Any, function: Callable[..., Any]) -> Any:
    """Return what stands for a global of a CPU function on the device."""
    if is_jitted(value):
        return on_device(value)
    if isinstance(value, python_types.ModuleType) and value.__name__.startswith("fastnn."):
        return _module(value, function)
    if type(value).__name__ == "_Intrinsic":
        return primitive(value)
    return _SIMULATED_GLOBALS.get(id(value), _plain(value)) if SIMULATED else value


def _module(module: Any, function: Callable[..., Any]) -> Any:
    """Return a module of the same name with the counterparts of what `function` may take from it."""
    twin = python_types.ModuleType(module.__name__)
    for name in _names(function.__code__):
        if hasattr(module, name):
            setattr(twin, name, _counterpart(getattr(module, name), function))
    return twin


# On a device: the CPU's own intrinsics, but for LLVM functions that NVVM lacks.


def _largest(x, y):
    return x if x > y or x != x else y


def _smallest(x, y):
    return x if x < y or x != x else y


def _absolute(x):
    return math.fabs(x)


def _copysign(magnitude, sign):
    return math.copysign(magnitude, sign)


_FOR_NVVM: dict[str, Callable[..., Any]] = {
    "largest": _largest,
    "smallest": _smallest,
    "absolute": _absolute,
    "copysign": _copysign,
}


# In the simulator: the same in NumPy's numbers.


def _like(value, x):
    return type(x)(value)


def _fma(x, y, z):
    if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(z)):
        return x * y + z
    exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
    if not exact:
        return x * y + z  # with the sign that a zero has
    try:
        return type(x)(float(exact))
    except OverflowError:
        return type(x)(math.inf if exact > 0 else -math.inf)


def _by_type(x, single, double):
    return type(x)(single if x.dtype.itemsize == 4 else double)


def _choose(condition, x, y):
    return x if condition else y


def _power_of_two(shifted):
    integer, bits = (np.int32, 23) if shifted.dtype.itemsize == 4 else (np.int64, 52)
    return type(shifted)(np.left_shift(shifted.view(integer), integer(bits)).view(type(shifted)))


def _polynomial(coefficients):
    single, double = coefficients

    def polynomial(x):
        total = 0.0
        for coefficient in reversed(single if x.dtype.itemsize == 4 else double):
            total = total * np.float64(x) + coefficient
        return type(x)(total)

    return polynomial


def _abs(x):
    return abs(x)


_SIMULATED = {
    "like": _like, "fma": _fma, "by_type": _by_type, "choose": _choose, "_power_of_two": _power_of_two,
    "largest": _largest, "smallest": _smallest, "absolute": _abs, "copysign": np.copysign,
}  # fmt: skip


def _word(bits: int) -> Callable[[Any], int]:
    return lambda x: int(x) & (1 << bits) - 1


def _plain(value: Any) -> Any:
    """Integers of fixed width become Python's: they are cut to size by `uint32` and `uint64`, without warnings."""
    return int(value) if isinstance(value, np.integer) else value


uint32: Any = _word(32) if SIMULATED else numba.uint32
uint64: Any = _word(64) if SIMULATED else numba.uint64
_SIMULATED_GLOBALS = {id(numba.uint32): uint32, id(numba.uint64): uint64}


@functools.cache
def primitive(value: Any) -> Any:
    """Return what stands for one of the intrinsics of `kernels/elementary.py` on the device."""
    name = value.__name__
    if SIMULATED:
        coefficients = getattr(value, "coefficients", None)
        return _SIMULATED[name] if coefficients is None else _polynomial(coefficients)
    if name in _FOR_NVVM:
        return device_function(_FOR_NVVM[name])
    return intrinsic(value._defn)


like: Any = primitive(elementary.like)
