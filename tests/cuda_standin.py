"""cuBLASLt and the CUDA driver's graphs in NumPy, called through C with the prototypes of their headers.

What is recorded while a stream is captured is not done; a graph does it, with the arguments that it was recorded with.
"""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, c_int, c_int64, c_size_t, c_uint64, c_ulonglong, c_void_p

import numpy as np

HANDLE, INVALID, UNSUPPORTED = 0x5EED, 7, 15
ROUNDING = {68: "float32", 77: "tf32", 75: "bf16", 70: "float64"}
ATTRIBUTES = {"Desc": {3: 4, 4: 4, 7: 4, 8: 8}, "Preference": {1: 8, 5: 4, 6: 4, 7: 4, 8: 4}}
"""Attribute -> its bytes: of an operation op(A), op(B), epilogue, vector; of a preference workspace and alignments."""
PLAIN, BIAS, RELU_BIAS, SUMS_OF_A = 1, 4, 6, 256
WORKSPACE = 1 << 20
"""Bytes that each product says it takes."""


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
    kinds, epilogues : list
        Of every product that was done: to what its factors were rounded, and what was done at its end.
    none_for : set
        Epilogues for which there is no algorithm.
    spoil : callable or None
        What happens to a product's result, and its vector, after an epilogue.
    replays, alive : int
        Launches of graphs, and graphs that were not destroyed yet.
    statuses : dict
        Function's name -> what it returns in place of doing anything.
    lost : int
        How many of the last recorded nodes each graph forgets.
    """

    def __init__(self):
        self.kinds, self.epilogues, self.none_for, self.spoil = [], [], set(), None
        self.replays, self.alive, self.statuses, self.lost = 0, 0, {}, 0
        self._tape, self._tapes, self._made = None, {}, []
        set_attribute = (c_void_p, c_int, c_void_p, c_size_t)
        for name, prototype in {
            "cublasLtCreate": (c_void_p,),
            "cublasLtMatmulDescCreate": (c_void_p, c_int, c_int),
            "cublasLtMatmulDescSetAttribute": set_attribute,
            "cublasLtMatrixLayoutCreate": (c_void_p, c_int, c_uint64, c_uint64, c_int64),
            "cublasLtMatmulPreferenceCreate": (c_void_p,),
            "cublasLtMatmulPreferenceSetAttribute": set_attribute,
            "cublasLtMatmulPreferenceDestroy": (c_void_p,),
            "cublasLtMatmulAlgoGetHeuristic": (*[c_void_p] * 7, c_int, c_void_p, c_void_p),
            "cublasLtMatmul": (*[c_void_p] * 14, c_size_t, c_void_p),
            "cuStreamBeginCapture_v2": (c_void_p, c_int),
            "cuStreamEndCapture": (c_void_p, c_void_p),
            "cuGraphInstantiateWithFlags": (c_void_p, c_void_p, c_ulonglong),
            "cuGraphLaunch": (c_void_p, c_void_p),
            "cuGraphExecDestroy": (c_void_p,),
            "cuGraphDestroy": (c_void_p,),
        }.items():  # fmt: skip
            setattr(self, name, CFUNCTYPE(c_int, *prototype)(self._answer(name)))
        self.cublasLtGetVersion = CFUNCTYPE(c_size_t)(lambda: 130200)

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

    def _make(self, address, **what):
        self._made.append(what)
        self._write(address, 0x1000 + len(self._made))

    def _thing(self, pointer):
        return self._made[pointer - 0x1001]

    def _set(self, kind, pointer, attribute, value, size):
        if ATTRIBUTES[kind].get(attribute) != size:
            return INVALID
        self._thing(pointer)[attribute] = int.from_bytes(ctypes.string_at(value, size), "little")
        return 0

    def _cublasLtCreate(self, handle):
        self._write(handle, HANDLE)

    def _cublasLtMatmulDescCreate(self, desc, compute, scale):
        self._make(desc, compute=compute, scale=scale)

    def _cublasLtMatmulDescSetAttribute(self, *arguments):
        return self._set("Desc", *arguments)

    def _cublasLtMatrixLayoutCreate(self, layout, kind, rows, columns, leading):
        self._make(layout, type=kind, rows=rows, columns=columns, leading=leading)
        return 0 if leading >= rows else INVALID

    def _cublasLtMatmulPreferenceCreate(self, preference):
        self._make(preference)

    def _cublasLtMatmulPreferenceSetAttribute(self, *arguments):
        return self._set("Preference", *arguments)

    def _cublasLtMatmulPreferenceDestroy(self, preference):
        self._thing(preference).clear()

    def _cublasLtMatmulAlgoGetHeuristic(self, handle, desc, a, b, c, d, preference, wanted, results, found):
        operation, limits = self._thing(desc), self._thing(preference)
        aligned, powers = (5, 6, 7, 8), {2**i for i in range(2, 9)}
        if handle != HANDLE or wanted < 1 or c != d or any(limits.get(x) not in powers for x in aligned):
            return INVALID
        epilogue = operation.get(7, PLAIN)
        if epilogue != PLAIN and not operation.get(8):
            return INVALID
        if epilogue in self.none_for or (epilogue != PLAIN and operation["scale"] == 1) or limits.get(1, 0) < WORKSPACE:
            c_int.from_address(found).value = 0
            return UNSUPPORTED
        ctypes.memset(results, 0, 96)
        c_uint64.from_address(results).value = desc  # an algorithm is one for an operation
        c_uint64.from_address(results + 64).value = WORKSPACE
        c_int.from_address(found).value = 1
        return 0

    def _cublasLtMatmul(
        self, handle, desc, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d, d_layout, algorithm, memory, size,
        stream,
    ):  # fmt: skip
        """D = alpha op(A) op(B) + beta C with an epilogue, all column-major: m x k, k x n, m x n."""
        operation, first, second, into = (self._thing(x) for x in (desc, a_layout, b_layout, d_layout))
        kind = ROUNDING.get(operation["compute"])
        code, m = 1 if kind == "float64" else 0, into["rows"]
        k = first["rows" if operation.get(3) else "columns"]
        types = {operation["scale"], first["type"], second["type"], into["type"]}
        if handle != HANDLE or kind is None or types != {code} or (c, c_layout) != (d, d_layout):
            return INVALID
        if c_uint64.from_address(algorithm).value != desc or not memory or size < WORKSPACE:
            return INVALID
        if k != second["columns" if operation.get(4) else "rows"]:
            return INVALID
        dtype, epilogue, vector = (
            np.dtype(np.float64 if code else np.float32),
            operation.get(7, PLAIN),
            operation.get(8),
        )
        transposed = operation.get(3), operation.get(4)
        number = ctypes.c_double if code else ctypes.c_float
        scale, keep = number.from_address(alpha).value, number.from_address(beta).value

        def multiply():
            left, right, to = (
                at(address, dtype, layout["leading"], layout["columns"], layout["rows"])
                for address, layout in ((a, first), (b, second), (d, into))
            )
            left, right = (x.T if turned else x for x, turned in zip((left, right), transposed, strict=True))
            product = rounded(left, kind) @ rounded(right, kind)
            to[:] = dtype.type(scale) * product + (dtype.type(keep) * to if keep else 0)
            ends = at(vector, dtype, m, 1, m)[:, 0] if vector and epilogue != PLAIN else None
            if epilogue in (BIAS, RELU_BIAS):
                to += ends[:, None]
            if epilogue == RELU_BIAS:
                np.maximum(to, 0, out=to)
            if epilogue == SUMS_OF_A:
                ends[:] = left.sum(axis=1)
            if self.spoil and epilogue != PLAIN:
                self.spoil(to, ends)
            self.kinds.append(kind)
            self.epilogues.append(epilogue)

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
