"""CUDA graphs by the driver's C interface: what a stream is told is recorded once, and then launched as one.

A launch of a kernel costs Python tens of microseconds, that of a graph of many kernels a few. What is recorded keeps
the addresses and numbers that it was recorded with: whatever changes from one launch to the next, kernels must read
from the device's memory, and all arrays must live as long as the graph. CUDA driver API, "Stream Management" and
"Graph Management".
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from ctypes import POINTER, c_int, c_ulonglong, c_void_p
from typing import Any

from fastnn.cuda._numba import DRIVER_FILE, SIMULATED, driver

PROTOTYPES: dict[str, list[Any]] = {
    "cuStreamBeginCapture_v2": [c_void_p, c_int],
    "cuStreamEndCapture": [c_void_p, POINTER(c_void_p)],
    "cuGraphInstantiateWithFlags": [POINTER(c_void_p), c_void_p, c_ulonglong],
    "cuGraphLaunch": [c_void_p, c_void_p],
    "cuGraphExecDestroy": [c_void_p],
    "cuGraphDestroy": [c_void_p],
}
"""Arguments of the functions used; each returns a CUresult, 0 for success."""

THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: only this thread may do nothing that cannot be recorded."""


@functools.cache
def functions() -> Any:
    """Return the driver's functions, with their prototypes.

    Raises
    ------
    OSError, AttributeError
        If there is no driver, or it is older than CUDA 11.4.
    """
    library = ctypes.CDLL(DRIVER_FILE)
    return prepared(library)


def prepared(library: Any) -> Any:
    """Return a library after its functions were given their prototypes."""
    for name, arguments in PROTOTYPES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, c_int
    return library


def _call(name: str, *arguments: Any) -> None:
    status = getattr(functions(), name)(*arguments)
    if status:
        raise RuntimeError(f"{name}: got status {status} from the CUDA driver, expected 0")


@functools.cache
def _stream_of(device: int) -> Any:
    return driver.stream()


def stream() -> Any:
    """Return a stream of the current device to record on, which the default stream cannot be; the same at each call."""
    return 0 if SIMULATED else _stream_of(int(driver.get_current_device().id))


class Graph:
    """What was recorded on a stream, ready to be launched there.

    Parameters
    ----------
    on : int
        The stream's address.
    work : callable
        Tells the stream what is to be recorded; none of it is done yet.

    Raises
    ------
    RuntimeError, OSError, AttributeError
        If it cannot be recorded; the stream is as it was before. So it is after whatever `work` raises.
    """

    def __init__(self, on: int, work: Callable[[], None]) -> None:
        self._stream, self._graph, self._executable = on, c_void_p(), c_void_p()
        with driver.defer_cleanup():  # nothing that Numba has to free is freed meanwhile
            _call("cuStreamBeginCapture_v2", on, THREAD_LOCAL)
            try:
                work()
            except BaseException:
                functions().cuStreamEndCapture(on, ctypes.byref(self._graph))
                self.close()
                raise
            try:
                _call("cuStreamEndCapture", on, ctypes.byref(self._graph))
                _call("cuGraphInstantiateWithFlags", ctypes.byref(self._executable), self._graph, 0)
            except RuntimeError:
                self.close()
                raise

    def launch(self) -> None:
        """Let the stream do what was recorded, once more."""
        _call("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Free the graph; the device must be done with it."""
        if self._executable:
            functions().cuGraphExecDestroy(self._executable)
        if self._graph:
            functions().cuGraphDestroy(self._graph)
        self._graph, self._executable = c_void_p(), c_void_p()
