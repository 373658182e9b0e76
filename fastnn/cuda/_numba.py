"""The one place that imports Numba's CUDA: the target bundled with Numba, or NVIDIA's numba-cuda, which replaces it.

The simulator (``NUMBA_ENABLE_CUDASIM=1``) runs the same kernels in Python, one Python thread a CUDA thread, and a
cooperative grid as one block. There a device function is the Python function itself, and `cuda`, as code inside kernels
uses it, stands for the module of the kernel that is running: the simulator's own way of swapping it in the globals of
each device function mixes up threads where these lie in several files.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import os
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core import config as _numba_config

from fastnn.cuda._cache import kept

config: Any = _numba_config

_import_error = ""
try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the bundled target has a successor
        from numba import cuda as _driver
except ImportError as error:  # numba-cuda beside a Numba it does not fit
    _driver = None  # type: ignore[assignment]
    _import_error = str(error)

driver: Any = _driver
"""What the host uses: arrays, events, the device's properties."""

SIMULATED = bool(config.ENABLE_CUDASIM)
"""Whether kernels run in Numba's CUDA simulator."""

INSTALL = "pip install 'fastnn[cuda]' brings Numba's CUDA target and compiler; an NVIDIA driver comes from the system"
DROPPED = "row_stack"
"""What NumPy 2.5 no longer has, and numba-cuda 0.30.4 asks for when it compiles or loads its first kernel."""

DRIVER_FILE = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
"""The CUDA driver's library, for what Numba has no function for."""

PLAIN_SHARED, MOST_SHARED = 48 * 1024, 227 * 1024
"""Bytes of shared memory that a block has on any device; and that it may have on compute capability 9.0, and in the
simulator, where its kernel asks for them."""

MAX_DYNAMIC_SHARED_SIZE_BYTES = 8
"""CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: what a kernel asks for."""

LEAST_CAPABILITY = (7, 0)
"""Compute capability from which a card has what blocks meet by (`reduction.grid_barrier`)."""

SIMULATOR = "NUMBA_ENABLE_CUDASIM=1 in the environment runs the kernels in Numba's simulator, slowly, for tests"


def _load_target() -> None:
    """Load what compiles and loads kernels, with the name lent to NumPy meanwhile.

    Otherwise the first kernel would load it, be it compiled or read from disk.
    """
    setattr(np, DROPPED, np.vstack)
    try:
        with contextlib.suppress(ImportError):  # `missing` says what an incomplete installation lacks
            importlib.import_module("numba.cuda.cudaimpl")
    finally:
        delattr(np, DROPPED)


if driver is not None and not SIMULATED and not hasattr(np, DROPPED):
    _load_target()

cuda: Any = driver
if SIMULATED:
    from numba.cuda.simulator.kernel import _get_kernel_context
    from numba.np.numpy_support import as_dtype

    _allocating = threading.Lock()

    class _Shared:
        """Shared memory of a simulated block: an array for each line that asks; one thread at a time makes a new one.

        The simulator's own tells arrays by the line as well, but by the one that asks here.
        """

        def array(self, shape: Any, dtype: Any) -> Any:
            with _allocating:
                shared = _get_kernel_context().shared
                if shape == 0:
                    return shared.array(0, dtype)
                asking = sys._getframe(1)
                known, place = vars(shared).setdefault("_by_line", {}), (asking.f_code, asking.f_lineno)
                if place not in known:
                    known[place] = np.empty(shape, as_dtype(dtype))
                return known[place]

    class _Running:
        """What `cuda` is inside a simulated kernel."""

        shared = _Shared()

        def __getattr__(self, name: str) -> Any:
            return getattr(_get_kernel_context(), name)

    cuda = _Running()


@functools.cache
def missing() -> str:
    """Return in one sentence what is missing for `device="cuda"`, or "" where nothing is."""
    if SIMULATED:
        return ""
    if driver is None:
        return f"Numba's CUDA target cannot be imported ({_import_error}); {INSTALL}"
    reason = ""
    try:
        if not driver.is_available():
            reason = str(driver.cuda_error() or "no CUDA device was found")
        elif driver.get_current_device().compute_capability < LEAST_CAPABILITY:
            have, want = driver.get_current_device().compute_capability, LEAST_CAPABILITY
            return (
                f"this device has compute capability {have[0]}.{have[1]}, and kernels take {want[0]}.{want[1]} or more"
            )
    except Exception as error:  # whatever an incomplete installation leads to
        reason = str(error)
    if reason:
        return f"no CUDA device can be used ({' '.join(reason.split())}); {INSTALL}; {SIMULATOR}"
    try:
        _smallest()
    except Exception as error:
        return f"CUDA kernels cannot be compiled ({' '.join(str(error).split())}); {INSTALL}"
    return ""


def _nothing(x: Any) -> None:
    """Stand for any kernel: can one be compiled?"""


@functools.cache
def _smallest() -> Any:
    return driver.jit("void(float32[:])")(_nothing)


def pointer(of: Any) -> int:
    """Return the address that C knows one of Numba's streams or kernels by; 0 for the default stream.

    It is an integer, a `ctypes` pointer, or an object of NVIDIA's bindings, by Numba's version and its settings.
    """
    handle = getattr(of, "handle", of)
    return int(getattr(handle, "value", handle) or 0)


@functools.cache
def _library() -> Any:
    return ctypes.CDLL(DRIVER_FILE)


def _ask(kernel: Any, size: int) -> bool:
    """Ask for `size` bytes of dynamic shared memory for the overloads of a kernel; returns whether all may have them.

    Numba loads an overload as a function of a module or, by NVIDIA's bindings, as a kernel of a library: the driver has
    a call for each. CUDA driver API, "Execution Control" and "Library Management".
    """
    device, statuses = int(driver.get_current_device().id), []
    for overload in kernel.overloads.values():
        function = overload._codelibrary.get_cufunc()
        there = ctypes.c_void_p(pointer(function))
        if type(function.handle).__name__ == "CUkernel":
            status = _library().cuKernelSetAttribute(MAX_DYNAMIC_SHARED_SIZE_BYTES, int(size), there, device)
        else:
            status = _library().cuFuncSetAttribute(there, MAX_DYNAMIC_SHARED_SIZE_BYTES, int(size))
        statuses.append(status)
    return bool(statuses) and not any(statuses)


@functools.cache
def _most_shared(device: int) -> int:
    try:
        most = int(driver.get_current_device().MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
        return most if most > PLAIN_SHARED and _ask(_smallest(), most) else PLAIN_SHARED
    except Exception:  # whatever a driver, or another Numba, lacks for it: what needs no asking is there
        return PLAIN_SHARED


def most_shared() -> int:
    """Return the bytes of shared memory that a block of the current device may have, where its kernel asks for them.

    One kernel has asked for them: where it may not have them, they are those of any device.
    """
    return MOST_SHARED if SIMULATED else _most_shared(int(driver.get_current_device().id))


def ask_for_shared(kernel: Any, arguments: tuple[Any, ...], size: int) -> None:
    """Ask for `size` bytes of dynamic shared memory, without which a launch has no more than `PLAIN_SHARED` in all.

    The kernel is compiled where it has not been; all its launches have arrays of the same types. Where it may not have
    them, the launch says so.
    """
    if SIMULATED:
        return
    if not kernel.overloads:
        kernel.compile(tuple(kernel.typeof_pyval(argument) for argument in arguments))
    _ask(kernel, size)


def device_function(function: Callable[..., Any]) -> Any:
    """Compile a function that kernels call; in the simulator it is called as it is."""
    return function if SIMULATED else driver.jit(device=True)(function)


def kernel(function: Callable[..., Any], variant: str = "") -> Any:
    """Compile a function that Python launches; lazily, for each float type, and kept on disk.

    `variant` names what the function encloses: two that differ there have different names.
    """
    if SIMULATED:
        return driver.jit(_quiet(function))
    from numba.cuda.dispatcher import CUDACache

    return kept(driver.jit(function), CUDACache, variant)


def named_kernel(variant: str) -> Callable[[Callable[..., Any]], Any]:
    """Return the decorator `kernel` for functions that enclose what `variant` names."""
    return functools.partial(kernel, variant=variant)


def types_of_numba() -> Any:
    """Return the module of the types that CUDA kernels are compiled for: numba-cuda has its own."""
    from numba import types
    from numba.cuda import types as of_cuda

    return of_cuda if hasattr(of_cuda, "UniTuple") else types


def _quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let NumPy's numbers become infinite and NaN as a device's do, without a warning."""

    @functools.wraps(function)
    def run(*arguments: Any) -> None:
        with np.errstate(all="ignore"):
            function(*arguments)

    return run


def intrinsic(define: Callable[..., Any]) -> Any:
    """Compile what emits LLVM IR, for the CUDA target."""
    from numba.cuda.extending import intrinsic as cuda_intrinsic

    return cuda_intrinsic(define)
