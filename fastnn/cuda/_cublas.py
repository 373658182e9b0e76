"""cuBLAS by its C interface: the one place that loads it and calls it.

It is called directly, since CuPy, whose wheels do not bring the library either, refuses every call of it while a CUDA
graph is recorded (`graph.py`). Prototypes, constants and the meaning of compute types: the cuBLAS documentation,
sections 2.3 and 2.8. A row-major matrix is its transpose to cuBLAS, so C = A B is asked for as C^T = B^T A^T.
"""

from __future__ import annotations

import ctypes
import functools
import os
from ctypes import POINTER, c_float, c_int, c_size_t, c_void_p
from typing import Any, NamedTuple

import numpy as np

from fastnn.cuda._arrays import address, empty
from fastnn.cuda._numba import SIMULATED, driver

FILES = ("cublas64_13.dll", "cublas64_12.dll") if os.name == "nt" else ("libcublas.so.13", "libcublas.so.12")
INSTALL = "pip install 'fastnn[cuda]' brings it for CUDA 12, 'fastnn[cuda13]' for CUDA 13"

WORKSPACE = 32 << 20
"""Bytes that cuBLAS may use beside the arrays: what NVIDIA advises for compute capability 9.0. Of our own, so that it
allocates nothing while a graph is recorded, and so that its results do not depend on what else runs."""

TENSOR_CORES_FROM = (8, 0)
"""Compute capability from which a card multiplies in tf32 and bf16."""

# cudaDataType_t, cublasOperation_t, cublasComputeType_t, cublasGemmAlgo_t
R_32F, R_64F = 0, 1
OP_N, OP_T = 0, 1
COMPUTE_64F = 70
COMPUTE_32F: dict[str, int] = {"float32": 68, "tf32": 77, "bf16": 75}
"""How float32 factors may be rounded before they are multiplied, each product added up in float32."""
GEMM_DEFAULT = -1

_INTEGERS = [c_int] * 5
PROTOTYPES: dict[str, list[Any]] = {
    "cublasCreate_v2": [POINTER(c_void_p)],
    "cublasSetStream_v2": [c_void_p, c_void_p],
    "cublasSetWorkspace_v2": [c_void_p, c_void_p, c_size_t],
    "cublasGetVersion_v2": [c_void_p, POINTER(c_int)],
    # handle, op(A), op(B), m, n, k, alpha, (A, type, ld), (B, type, ld), beta, (C, type, ld), compute type, algorithm
    "cublasGemmEx": [
        c_void_p, *_INTEGERS, c_void_p, c_void_p, c_int, c_int, c_void_p, c_int, c_int, c_void_p, c_void_p, c_int,
        c_int, c_int, c_int,
    ],
}  # fmt: skip
"""Arguments of the functions used; each returns a cublasStatus_t, 0 for success."""


class Matrix(NamedTuple):
    """A row-major matrix within a device vector."""

    array: Any
    offset: int
    rows: int
    columns: int
    transposed: bool = False  # whether its transpose is meant


class Cublas:
    """cuBLAS on one device: a handle and the memory that it works in.

    Parameters
    ----------
    functions : object
        The loaded library: what has the functions of `PROTOTYPES` as attributes.

    Raises
    ------
    AttributeError
        If one of them is missing.
    RuntimeError
        If the library refuses this device, its driver most often being older than the library.
    """

    def __init__(self, functions: Any) -> None:
        self._functions = {name: getattr(functions, name) for name in PROTOTYPES}
        for name, function in self._functions.items():
            function.argtypes, function.restype = PROTOTYPES[name], c_int
        self._handle = c_void_p()
        self._call("cublasCreate_v2", ctypes.byref(self._handle))
        self._workspace = empty(WORKSPACE, np.uint8)
        self._ones = {np.dtype(np.float32): c_float(1.0), np.dtype(np.float64): ctypes.c_double(1.0)}
        self._zeros = {dtype: type(one)(0.0) for dtype, one in self._ones.items()}

    def _call(self, name: str, *arguments: Any) -> None:
        status = self._functions[name](*arguments)
        if status:
            raise RuntimeError(f"{name}: got status {status} from cuBLAS, expected 0")

    @property
    def version(self) -> int:
        """The library's version: 10000 major + 100 minor + patch."""
        version = c_int()
        self._call("cublasGetVersion_v2", self._handle, ctypes.byref(version))
        return version.value

    def use(self, stream: int) -> None:
        """Do the products to come on a stream, given by its address; 0 is the default stream."""
        self._call("cublasSetStream_v2", self._handle, stream)  # it takes the workspace away again
        self._call("cublasSetWorkspace_v2", self._handle, address(self._workspace), WORKSPACE)

    def product(self, c: Matrix, a: Matrix, b: Matrix, precision: str = "float32") -> None:
        """Write C = A B, of vectors of one float type; see `COMPUTE_32F` for `precision`."""
        dtype = np.dtype(c.array.dtype)
        kind, compute = (R_64F, COMPUTE_64F) if dtype.itemsize == 8 else (R_32F, COMPUTE_32F[precision])
        k = a.rows if a.transposed else a.columns
        first, second, to = (address(x.array) + x.offset * dtype.itemsize for x in (b, a, c))
        self._call(
            "cublasGemmEx", self._handle, OP_T if b.transposed else OP_N, OP_T if a.transposed else OP_N,
            c.columns, c.rows, k, ctypes.addressof(self._ones[dtype]), first, kind, b.columns, second, kind, a.columns,
            ctypes.addressof(self._zeros[dtype]), to, kind, c.columns, compute, GEMM_DEFAULT,
        )  # fmt: skip


def _load() -> Any:
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        return ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)
    except Exception:  # not installed, or too old to know the library, or it found none
        pass
    errors = []
    for name in FILES:
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            errors.append(str(error))
    raise OSError("; ".join(errors))


@functools.cache
def _open(device: int) -> Cublas | str:
    """Return the library on a device, or why it is not there."""
    if SIMULATED:
        return "Numba's simulator has no cuBLAS"
    try:
        return Cublas(_load())
    except Exception as error:  # whatever an incomplete installation leads to
        return f"cuBLAS cannot be used ({' '.join(str(error).split())}); {INSTALL}"


def current() -> int:
    """Return the number of the current device."""
    return 0 if SIMULATED else int(driver.get_current_device().id)


def loaded() -> Cublas | None:
    """Return cuBLAS on the current device, or None where it cannot be used."""
    found = _open(current())
    return None if isinstance(found, str) else found


def capability() -> tuple[int, int]:
    """Return the compute capability of the current device."""
    return TENSOR_CORES_FROM if SIMULATED else tuple(driver.get_current_device().compute_capability)


def missing(precision: str = "float32") -> str:
    """Return in one sentence why products of a precision cannot be had from cuBLAS; "" where they can."""
    found = _open(current())
    if isinstance(found, str):
        return found
    if precision != "float32" and capability() < TENSOR_CORES_FROM:
        have, want = (".".join(map(str, pair)) for pair in (capability(), TENSOR_CORES_FROM))
        return f"this device has compute capability {have}, and {precision} takes {want} or more"
    return ""
