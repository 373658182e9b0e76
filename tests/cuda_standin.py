"""cuBLAS and the CUDA driver's graphs in NumPy, called through C with the prototypes of their headers.

What is recorded while a stream is captured is not done; a graph does it, with the arguments that it was recorded with.
"""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, c_int, c_size_t, c_ulonglong, c_void_p

import numpy as np

HANDLE, OUT_OF_ORDER, INVALID = 0x5EED, 14, 7
ROUNDING = {68: "float32", 77: "tf32", 75: "bf16", 70: "float64"}


def rounded(x, kind):
    """Return float32 numbers as tensor cores read them; other kinds as they are."""
    bits = np.ascontiguousarray(x).view(np.uint32) if kind in ("tf32", "bf16") else None
    if kind == "tf32":
        return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    if kind == "bf16":
        odd = (bits >> np.uint32(16)) & np.uint32(1)
        return ((bits + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)).view(np.float32)
    return x


def at(address, dtype, leading, columns, rows):
    """Return a column-major matrix in memory."""
    size = leading * columns * dtype.itemsize
    memory = (ctypes.c_char * size).from_address(address)
    return np.frombuffer(memory, dtype).reshape(columns, leading).T[:rows]


class Standin:
    """Both libraries; `installed` puts them in place of the real ones.

    Attributes
    ----------
    kinds : list
        Of every product that was done: to what its factors were rounded.
    replays, alive : int
        Launches of graphs, and graphs that were not destroyed yet.
    statuses : dict
        Function's name -> what it returns in place of doing anything.
    lost : int
        How many of the last recorded nodes each graph forgets.
    """

    def __init__(self):
        self.kinds, self.replays, self.alive, self.statuses, self.lost = [], 0, 0, {}, 0
        self._tape, self._tapes, self._workspace = None, {}, False
        numbers = [c_int] * 5
        for name, prototype in {
            "cublasCreate_v2": (c_void_p,),
            "cublasSetStream_v2": (c_void_p, c_void_p),
            "cublasSetWorkspace_v2": (c_void_p, c_void_p, c_size_t),
            "cublasGetVersion_v2": (c_void_p, c_void_p),
            "cublasGemmEx": (
                c_void_p, *numbers, c_void_p, c_void_p, c_int, c_int, c_void_p, c_int, c_int, c_void_p, c_void_p,
                c_int, c_int, c_int, c_int,
            ),
            "cuStreamBeginCapture_v2": (c_void_p, c_int),
            "cuStreamEndCapture": (c_void_p, c_void_p),
            "cuGraphInstantiateWithFlags": (c_void_p, c_void_p, c_ulonglong),
            "cuGraphLaunch": (c_void_p, c_void_p),
            "cuGraphExecDestroy": (c_void_p,),
            "cuGraphDestroy": (c_void_p,),
        }.items():  # fmt: skip
            setattr(self, name, CFUNCTYPE(c_int, *prototype)(self._answer(name)))

    def _answer(self, name):
        def answer(*arguments):
            if name == "cuStreamEndCapture" and name in self.statuses:
                self._tape = None  # what could not be recorded is over all the same
            return self.statuses[name] if name in self.statuses else getattr(self, f"_{name}")(*arguments) or 0

        return answer

    def tell(self, work):
        """Do something, or record it."""
        if self._tape is None:
            work()
        else:
            self._tape.append(work)

    @property
    def recording(self):
        return self._tape is not None

    @staticmethod
    def _write(address, value):
        c_void_p.from_address(address).value = value

    def _cublasCreate_v2(self, handle):
        self._write(handle, HANDLE)

    def _cublasGetVersion_v2(self, handle, version):
        c_int.from_address(version).value = 130200

    def _cublasSetStream_v2(self, handle, stream):
        self._workspace = False
        return 0 if handle == HANDLE else INVALID

    def _cublasSetWorkspace_v2(self, handle, memory, size):
        self._workspace = bool(memory) and size >= 4 << 20
        return 0 if handle == HANDLE else INVALID

    def _cublasGemmEx(
        self, handle, op_a, op_b, m, n, k, alpha, a, a_type, lda, b, b_type, ldb, beta, c, c_type, ldc, compute, algo
    ):
        """C = alpha op(A) op(B) + beta C, all column-major: m x k, k x n, m x n."""
        if not self._workspace:
            return OUT_OF_ORDER
        kind = ROUNDING.get(compute)
        code = 1 if kind == "float64" else 0
        too_short = lda < (k if op_a else m) or ldb < (n if op_b else k) or ldc < m
        if handle != HANDLE or kind is None or {a_type, b_type, c_type} != {code} or too_short or algo != -1:
            return INVALID
        dtype = np.dtype(np.float64 if code else np.float32)
        number = ctypes.c_double if code else ctypes.c_float
        scale, keep = number.from_address(alpha).value, number.from_address(beta).value

        def multiply():
            left = at(a, dtype, lda, m if op_a else k, k if op_a else m)
            right = at(b, dtype, ldb, k if op_b else n, n if op_b else k)
            into = at(c, dtype, ldc, n, m)
            product = rounded(left.T if op_a else left, kind) @ rounded(right.T if op_b else right, kind)
            into[:] = dtype.type(scale) * product + (dtype.type(keep) * into if keep else 0)
            self.kinds.append(kind)

        self.tell(multiply)
        return 0

    def _cuStreamBeginCapture_v2(self, stream, mode):
        if self._tape is not None or mode != 1:
            return 1
        self._tape = []
        return 0

    def _cuStreamEndCapture(self, stream, graph):
        if self._tape is None:
            return 1
        self._tapes[len(self._tapes) + 1] = self._tape[: len(self._tape) - self.lost]
        self._tape = None
        self._write(graph, len(self._tapes))
        self.alive += 1
        return 0

    def _cuGraphInstantiateWithFlags(self, executable, graph, flags):
        self._write(executable, graph)
        self.alive += 1

    def _cuGraphLaunch(self, executable, stream):
        if self._tape is not None:
            return 1
        for work in self._tapes[executable]:
            work()
        self.replays += 1
        return 0

    def _cuGraphExecDestroy(self, executable):
        self.alive -= 1

    def _cuGraphDestroy(self, graph):
        self.alive -= 1


def installed(monkeypatch):
    """Put a stand-in where the libraries are, and let every size be worth it; returns it."""
    from fastnn.cuda import _cublas, graph, launches

    standin = Standin()
    ours = _cublas.Cublas(standin)
    launch = launches.launch
    monkeypatch.setattr(_cublas, "_open", lambda device: ours)
    monkeypatch.setattr(graph, "functions", lambda: graph.prepared(standin))
    monkeypatch.setattr(launches, "launch", lambda *a, **k: standin.tell(lambda: launch(*a, **k)))
    monkeypatch.setattr(launches, "WORTH_FLOPS", 0)
    monkeypatch.setattr(launches, "_proven", {})
    monkeypatch.setattr(launches, "_last", ["a launch each"])
    return standin
