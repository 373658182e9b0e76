"""asv: a suite for each kernel module, over its cases in `cases.py`.

``asv run --bench kernels`` runs them; ``asv run --bench 'kernels.Gemm'`` one of them.
"""

from __future__ import annotations

import statistics
import time
from typing import Any, ClassVar

import numba

import fastnn.kernels  # noqa: F401  imported once, by the server from which asv forks each measurement
from benchmarks import cases, limits

THREADS = ("1", "all")
SAMPLE_SECONDS = 2e-3


class _Prepared:
    """A case, made ready once; the parameters are case, dtype and threads.

    asv times one call after each `setup`. A kernel may take less than the clock can tell, so `setup`, which does
    its work only once, fits a number of calls into a sample, and the sample is timed by a clock that runs as many
    times slower: what asv sees is seconds a call.
    """

    module: ClassVar[str]
    param_names: ClassVar[list[str]] = ["case", "dtype", "threads"]
    timeout = 300.0

    def __init__(self) -> None:
        self._ready: tuple[str, ...] = ()
        self._calls = 1

    def setup(self, name: str, dtype: str, threads: str) -> None:
        if self._ready == (name, dtype, threads):
            return
        numba.set_num_threads(1 if threads == "1" else numba.config.NUMBA_NUM_THREADS)
        case = cases.find(name)
        self._call, _ = cases.bind(case, "fastnn", dtype)
        self._call()  # compiles, or loads from the cache
        seconds = min(self._seconds(1) for _ in range(3))
        self._calls = max(1, int(SAMPLE_SECONDS / seconds))
        self._amount, _ = case.work(dtype)
        self._ready = (name, dtype, threads)

    def timer(self) -> float:
        return time.perf_counter() / self._calls

    def _seconds(self, calls: int) -> float:
        call = self._call
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - start) / calls


class _Suite(_Prepared):
    """One kernel module: seconds a call."""

    def time_call(self, name: str, dtype: str, threads: str) -> None:
        call = self._call
        for _ in range(self._calls):
            call()


class _Rate(_Suite):
    """A suite of kernels that the arithmetic or the memory limits: also tracked as GFLOP/s or GB/s."""

    def track_rate(self, name: str, dtype: str, threads: str) -> float:
        return self._amount / statistics.median(self._seconds(self._calls) for _ in range(15))


class _ShareOfPeak(_Rate):
    """A suite that multiply-adds limit: also tracked as the share of what registers alone allow, here and now."""

    def track_share(self, name: str, dtype: str, threads: str) -> float:
        peak = limits.fma_peak(dtype, 1 if threads == "1" else numba.config.NUMBA_NUM_THREADS)
        return 100.0 * self.track_rate(name, dtype, threads) / peak

    track_share.unit = "% of peak"  # type: ignore[attr-defined]


def _names(module: str, kind: tuple[str, ...] = cases.FLOATS) -> list[str]:
    return [case.name for case in cases.group(module) if case.dtypes == kind]


def _params(module: str) -> list[list[Any]]:
    return [_names(module), list(cases.FLOATS), list(THREADS)]


class Gemm(_ShareOfPeak):
    params = _params("gemm")
    unit = "GFLOP/s"


class Dense(_ShareOfPeak):
    params = _params("dense")
    unit = "GFLOP/s"


class Activation(_Suite):
    params = _params("activation")


class Statistics(_Rate):
    params = _params("statistics")
    unit = "GB/s"


class Dropout(_Rate):
    params = _params("dropout")
    unit = "GB/s"


class Loss(_Suite):
    params = _params("loss")


class Update(_Rate):
    params = _params("update")
    unit = "GB/s"


class Optimizer(_Prepared):
    """Optimizer steps beside a plain loop that reads and writes as many vectors of that length, here and now."""

    params: ClassVar[list[list[Any]]] = [
        [name for name in _names("update") if cases.optimizer_of(name)], list(cases.FLOATS), list(THREADS)
    ]  # fmt: skip

    def track_share(self, name: str, dtype: str, threads: str) -> float:
        optimizer, size = cases.optimizer_of(name), int(name.rsplit(" ", 1)[1])
        plain = limits.plain_update(cases.streams(optimizer), size, dtype)
        plain()
        best = {"own": float("inf"), "plain": float("inf")}
        for _ in range(15):
            start = time.perf_counter()
            for _ in range(self._calls):
                plain()
            best["plain"] = min(best["plain"], (time.perf_counter() - start) / self._calls)
            best["own"] = min(best["own"], self._seconds(self._calls))
        return 100.0 * best["plain"] / best["own"]

    track_share.unit = "% of plain read-modify-write"  # type: ignore[attr-defined]


class Philox(_Suite):
    """Random words; the two kernels of `random.py` are serial, so threads make no difference."""

    params: ClassVar[list[list[Any]]] = [_names("random", ("uint32",)), ["uint32"], ["1"]]


class Shuffle(_Suite):
    params: ClassVar[list[list[Any]]] = [_names("random", ("int64",)), ["int64"], ["1"]]
