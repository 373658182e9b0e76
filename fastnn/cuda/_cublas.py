"""cuBLASLt by its C interface: the one place that loads it and calls it.

It is the part of cuBLAS whose products end in an epilogue: bias and ReLU, or the gradient of a bias. It is called
directly, since CuPy, whose wheels do not bring the library either, refuses to call cuBLAS while a CUDA graph is
recorded (`graph.py`). Prototypes, constants and the meaning of compute types and epilogues: the cuBLAS documentation,
chapter "Using the cuBLASLt API". A row-major matrix is its transpose to cuBLAS, so C = A B is asked for as
C^T = B^T A^T; a bias, which cuBLAS adds to each column of C^T, is then one of each row of C.

What is asked for often is planned once: a plan is the descriptors of one kind of product, with the algorithm that the
library chose for it. An epilogue is tried when it is planned, since a card may know none for these types, some leave
parts of small matrices without their bias, and a ReLU made of a maximum turns NaN into 0: where one fails, the caller's
kernels do its work.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
from ctypes import POINTER, c_float, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any, NamedTuple

import numpy as np

from fastnn.cuda._arrays import address, empty, to_device
from fastnn.cuda._numba import SIMULATED, driver

FILES = ("cublasLt64_13.dll", "cublasLt64_12.dll") if os.name == "nt" else ("libcublasLt.so.13", "libcublasLt.so.12")
INSTALL = "pip install 'fastnn[cuda]' brings it for CUDA 12, 'fastnn[cuda13]' for CUDA 13"

WORKSPACE = 32 << 20
"""Bytes that cuBLAS may use beside the arrays: what NVIDIA advises for compute capability 9.0. Of our own, so that it
allocates nothing while a graph is recorded, and so that its results do not depend on what else runs."""

TENSOR_CORES_FROM = (8, 0)
"""Compute capability from which a card multiplies in tf32 and bf16."""

# cudaDataType_t, cublasOperation_t, cublasStatus_t, cublasComputeType_t
R_32F, R_64F = 0, 1
OP_N, OP_T = 0, 1
NOT_SUPPORTED = 15
COMPUTE_64F = 70
COMPUTE_32F: dict[str, int] = {"float32": 68, "tf32": 77, "bf16": 75}
"""How float32 factors may be rounded before they are multiplied, each product added up in float32."""

# cublasLtMatmulDescAttributes_t, cublasLtMatmulPreferenceAttributes_t
TRANSA, TRANSB, EPILOGUE, VECTOR = 3, 4, 7, 8
MAX_WORKSPACE, ALIGNMENTS = 1, (5, 6, 7, 8)

# cublasLtEpilogue_t
PLAIN = 1
ADD_BIAS = 4
"""A vector is added to each row of C."""
RELU_BIAS = 6
"""... and then what is negative becomes 0."""
COLUMN_SUMS = 256
"""The sums of B's columns go to the vector (BGRADA: to cuBLAS the first factor is B)."""

EPILOGUES = {"bias": ADD_BIAS, "bias and ReLU": RELU_BIAS, "sums of columns": COLUMN_SUMS}

ALIGNED = 256
"""Bytes at whose multiples arrays begin that CUDA allocates: CUDA C++ Programming Guide, "Device Memory Accesses"."""

SUMS_WITHIN = 2.0**-6
"""How far sums of columns may be off when they are tried, as a share of the sums of magnitudes: rounding is nearer."""


class Heuristic(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t: an algorithm, and what it takes."""

    _fields_ = (
        ("algorithm", c_uint64 * 8),
        ("workspace", c_size_t),
        ("status", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    )


_POINTERS = POINTER(c_void_p)
_ATTRIBUTE: list[Any] = [c_void_p, c_int, c_void_p, c_size_t]
PROTOTYPES: dict[str, list[Any]] = {
    "cublasLtCreate": [_POINTERS],
    "cublasLtMatmulDescCreate": [_POINTERS, c_int, c_int],  # compute type, type of alpha and beta
    "cublasLtMatmulDescSetAttribute": _ATTRIBUTE,
    "cublasLtMatrixLayoutCreate": [_POINTERS, c_int, c_uint64, c_uint64, c_int64],  # type, rows, columns, ld
    "cublasLtMatmulPreferenceCreate": [_POINTERS],
    "cublasLtMatmulPreferenceSetAttribute": _ATTRIBUTE,
    "cublasLtMatmulPreferenceDestroy": [c_void_p],
    # handle, operation, layouts of A, B, C and D, preference, how many are wanted, results, how many there are
    "cublasLtMatmulAlgoGetHeuristic": [*[c_void_p] * 7, c_int, POINTER(Heuristic), POINTER(c_int)],
    # handle, operation, alpha, (A, layout), (B, layout), beta, (C, layout), (D, layout), algorithm, workspace, stream
    "cublasLtMatmul": [*[c_void_p] * 14, c_size_t, c_void_p],
}
"""Arguments of the functions used; each returns a cublasStatus_t, 0 for success."""


class Matrix(NamedTuple):
    """A row-major matrix within a device vector."""

    array: Any
    offset: int
    rows: int
    columns: int
    transposed: bool = False  # whether its transpose is meant

    @property
    def address(self) -> int:
        """Where it begins."""
        return address(self.array) + self.offset * int(self.array.dtype.itemsize)

    @property
    def alignment(self) -> int:
        """The largest power of two, up to ALIGNED, at whose multiple it begins."""
        return math.gcd(self.offset * int(self.array.dtype.itemsize), ALIGNED)

    def to_host(self) -> Any:
        """Return a copy of what is meant, in float64."""
        part = self.array[self.offset : self.offset + self.rows * self.columns]
        matrix = part.copy_to_host().reshape(self.rows, self.columns).astype(np.float64)
        return matrix.T if self.transposed else matrix


class Plan(NamedTuple):
    """Descriptors of one kind of product, and the algorithm for it; they live as long as the process."""

    operation: c_void_p
    layouts: list[c_void_p]  # of cuBLAS's A, B and C
    heuristic: Heuristic


class Cublas:
    """cuBLASLt on one device: a handle, the memory that it works in, and plans.

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
        self._version = functions.cublasLtGetVersion
        self._version.argtypes, self._version.restype = [], c_size_t
        self._workspace = empty(WORKSPACE, np.uint8)
        self._handle = self._made("cublasLtCreate")
        self._ones = {np.dtype(np.float32): c_float(1.0), np.dtype(np.float64): ctypes.c_double(1.0)}
        self._zeros = {dtype: type(one)(0.0) for dtype, one in self._ones.items()}
        self._stream = 0
        self._plans: dict[Any, Plan | None] = {}

    def _call(self, name: str, *arguments: Any, allowed: tuple[int, ...] = (0,)) -> int:
        status = int(self._functions[name](*arguments))
        if status not in allowed:
            raise RuntimeError(f"{name}: got status {status} from cuBLAS, expected 0")
        return status

    def _made(self, name: str, *arguments: Any) -> c_void_p:
        made = c_void_p()
        self._call(name, ctypes.byref(made), *arguments)
        return made

    @property
    def version(self) -> int:
        """The library's version: 10000 major + 100 minor + patch."""
        return int(self._version())

    def use(self, stream: int) -> None:
        """Do the products to come on a stream, given by its address; 0 is the default stream."""
        self._stream = stream

    def product(
        self, c: Matrix, a: Matrix, b: Matrix, precision: str = "float32", epilogue: int = PLAIN, vector: Any = None
    ) -> bool:
        """Write C = A B, of vectors of one float type, and do the epilogue with `vector`, where there is one for it.

        Parameters
        ----------
        c, a, b : Matrix
        precision : str
            A key of `COMPUTE_32F`.
        epilogue : int
            PLAIN, ADD_BIAS, RELU_BIAS or COLUMN_SUMS.
        vector : Matrix of one row, or None for PLAIN
            The bias, or where the sums go: as many numbers as C has columns.

        Returns
        -------
        bool
            Whether the epilogue was done; if not, C is A B. A kind of product that was done once, with its epilogue
            tried, waits for nothing and can be recorded in a graph.
        """
        key = (
            np.dtype(c.array.dtype), precision, epilogue,
            *((*x[2:], x.alignment) for x in (c, a, b)), vector.alignment if vector else 0,
        )  # fmt: skip
        if key not in self._plans:
            plan = self._planned(c, a, b, precision, epilogue, vector)
            works = plan is not None and (epilogue == PLAIN or self._does(plan, c, a, b, epilogue))
            self._plans[key] = plan if works else None
        plan = self._plans[key]
        if plan is not None:
            self._run(plan, c, a, b, vector)
            return True
        if epilogue == PLAIN:
            kind = f"{c.rows} x {c.columns} numbers of {np.dtype(c.array.dtype)} ({precision})"
            raise RuntimeError(f"cublasLtMatmulAlgoGetHeuristic: got no algorithm for {kind}, expected one")
        self.product(c, a, b, precision)
        return False

    def epilogues(self) -> dict[str, tuple[int, int]]:
        """Return of each epilogue in how many kinds of product it is done, and was asked for."""
        kinds = [(key[2], plan is not None) for key, plan in self._plans.items()]
        return {
            name: (sum(done for which, done in kinds if which == one), sum(which == one for which, _ in kinds))
            for name, one in EPILOGUES.items()
        }

    def _run(self, plan: Plan, c: Matrix, a: Matrix, b: Matrix, vector: Any) -> None:
        if vector is not None:
            self._set("Desc", plan.operation, VECTOR, c_uint64(vector.address))
        dtype = np.dtype(c.array.dtype)
        first, second, to = plan.layouts
        self._call(
            "cublasLtMatmul", self._handle, plan.operation, ctypes.addressof(self._ones[dtype]), b.address, first,
            a.address, second, ctypes.addressof(self._zeros[dtype]), c.address, to, c.address, to,
            ctypes.addressof(plan.heuristic), address(self._workspace), WORKSPACE, self._stream,
        )  # fmt: skip

    def _set(self, of: str, one: c_void_p, attribute: int, value: Any) -> None:
        """Set an attribute of a descriptor ("Desc") or a "Preference"."""
        size = ctypes.sizeof(value)
        self._call(f"cublasLtMatmul{of}SetAttribute", one, attribute, ctypes.addressof(value), size)

    def _planned(self, c: Matrix, a: Matrix, b: Matrix, precision: str, epilogue: int, vector: Any) -> Plan | None:
        """Return a plan, or None where the library has no algorithm."""
        double = np.dtype(c.array.dtype).itemsize == 8
        kind, compute = (R_64F, COMPUTE_64F) if double else (R_32F, COMPUTE_32F[precision])
        operation = self._made("cublasLtMatmulDescCreate", compute, kind)
        self._set("Desc", operation, TRANSA, c_int32(OP_T if b.transposed else OP_N))
        self._set("Desc", operation, TRANSB, c_int32(OP_T if a.transposed else OP_N))
        self._set("Desc", operation, EPILOGUE, c_uint32(epilogue))
        if vector is not None:  # the choice of an algorithm depends on its alignment
            self._set("Desc", operation, VECTOR, c_uint64(vector.address))
        layouts = [self._made("cublasLtMatrixLayoutCreate", kind, x.columns, x.rows, x.columns) for x in (b, a, c)]
        preference = self._made("cublasLtMatmulPreferenceCreate")
        self._set("Preference", preference, MAX_WORKSPACE, c_uint64(WORKSPACE))
        for which, x in zip(ALIGNMENTS, (b, a, c, c), strict=True):
            self._set("Preference", preference, which, c_uint32(x.alignment))
        plan, found = Plan(operation, layouts, Heuristic()), c_int()
        status = self._call(
            "cublasLtMatmulAlgoGetHeuristic", self._handle, operation, *layouts, layouts[2], preference, 1,
            ctypes.byref(plan.heuristic), ctypes.byref(found), allowed=(0, NOT_SUPPORTED),
        )  # fmt: skip
        self._call("cublasLtMatmulPreferenceDestroy", preference)
        return plan if status == 0 and found.value and plan.heuristic.status == 0 else None

    def _does(self, plan: Plan, c: Matrix, a: Matrix, b: Matrix, epilogue: int) -> bool:
        """Try an epilogue: does a bias of NaN reach all of C, also through a ReLU, or are the sums those of B?

        On factors of its own: with NaN in those at hand, C is NaN without a bias, and no sum is what it should be.
        """
        try:
            a, b = _trial_factors(a, b)
            poison = Matrix(to_device(np.full(c.columns, np.nan, c.array.dtype)), 0, 1, c.columns)
            driver.synchronize()
            self._run(plan, c, a, b, poison)
            driver.synchronize()
        except Exception:  # what was planned cannot be done
            return False
        if epilogue != COLUMN_SUMS:
            return bool(np.isnan(c.to_host()).all())
        columns = b.to_host()
        off = np.abs(poison.to_host() - columns.sum(axis=0))
        return bool((off <= SUMS_WITHIN * np.abs(columns).sum(axis=0)).all())


def _trial_factors(a: Matrix, b: Matrix) -> list[Matrix]:
    """Return factors of the same shapes and alignments, in the same memory: 1, 2 and 3 by the columns of B."""
    starts = [x.alignment % ALIGNED // int(x.array.dtype.itemsize) for x in (a, b)]
    size = max(start + x.rows * x.columns for start, x in zip(starts, (a, b), strict=True))
    numbers = to_device(np.resize((1 + np.arange(b.columns) % 3).astype(b.array.dtype), size))
    return [Matrix(numbers, start, *x[2:]) for start, x in zip(starts, (a, b), strict=True)]


def _load() -> Any:
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        return ctypes.CDLL(load_nvidia_dynamic_lib("cublasLt").abs_path)
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
