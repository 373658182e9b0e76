"""Kernels and training on a GPU: an asv suite that skips itself where there is none, and ``python -m benchmarks.cuda``.

Each benchmark has a process of its own (asv.conf.json): a device does not survive a fork. Times are by device events.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, ClassVar
from unittest import mock

import numpy as np

from benchmarks import cases, shell

SHAPES = ("256x784x1024", "256x1024x1024", "4096x4096x4096", "262144x64x64")
SIZES = (100_000, 1_000_000, 25_000_000)
IN_ONE_BLOCK = ("tiny", "small")
TRAINED = (*IN_ONE_BLOCK, "mnist", "tabular", "deep", "wide", "mlp64", "wide4096")


def _device() -> Any:
    """Return Numba's CUDA, or skip: asv takes NotImplementedError in `setup` for that."""
    import fastnn

    if fastnn.cuda.missing():
        raise NotImplementedError(fastnn.cuda.missing())
    from fastnn.cuda._numba import SIMULATED, driver

    if SIMULATED:
        raise NotImplementedError("the simulator says nothing about time")
    return driver


def product_call(shape: str, kind: str) -> tuple[Callable[[], Any], float]:
    """Return a product of a dense layer on the device, and its operations."""
    from fastnn import cuda
    from fastnn.cuda._numba import driver

    rows, k, n = map(int, shape.split("x"))
    x, w, d = (driver.to_device(np.random.default_rng(0).random(s, np.float32)) for s in ((rows, k), (k, n), (rows, n)))
    out = {
        name: driver.device_array(s, np.float32)
        for name, s in {"forward": (rows, n), "dX": (rows, k), "dW": (k, n)}.items()
    }
    calls = {
        "forward": lambda: cuda.matmul(out["forward"], x, w),
        "dX": lambda: cuda.matmul(out["dX"], d, w, transpose_b=True),
        "dW": lambda: cuda.matmul(out["dW"], x, d, transpose_a=True),
    }
    return calls[kind], 2.0 * rows * k * n


def update_call(name: str, size: int) -> tuple[Callable[[], Any], float]:
    """Return an optimizer step on the device, and the bytes that it reads and writes."""
    from fastnn import cuda
    from fastnn.cuda._numba import driver

    def zeros() -> Any:
        return driver.to_device(np.zeros(size, np.float32))

    w, g, m, v = zeros(), driver.to_device(np.full(size, 0.01, np.float32)), zeros(), zeros()
    calls = {
        "adam": (lambda: cuda.adam_update(w, m, v, g, 1e-9, 0.9, 0.999, 1e-8, 1), 7),
        "rmsprop": (lambda: cuda.rmsprop_update(w, v, None, None, g, 1e-9), 5),
        "adagrad": (lambda: cuda.adagrad_update(w, v, g, 1e-9), 5),
    }
    call, touched = calls[name]
    return call, 4.0 * touched * size


class Product:
    """GFLOP/s, and share of what the device's registers can do."""

    params: ClassVar[list[list[Any]]] = [list(SHAPES), ["forward", "dX", "dW"]]
    param_names: ClassVar[list[str]] = ["shape", "kind"]

    def setup(self, shape: str, kind: str) -> None:
        _device()
        self._call, self._operations = product_call(shape, kind)

    def track_rate(self, shape: str, kind: str) -> float:
        from benchmarks.limits_cuda import seconds

        return self._operations / seconds(self._call, inner=10) / 1e9

    def track_share(self, shape: str, kind: str) -> float:
        from benchmarks.limits_cuda import fma_peak

        return 1e9 * self.track_rate(shape, kind) / fma_peak()

    track_rate.unit = "GFLOP/s"  # type: ignore[attr-defined]
    track_share.unit = "of the FMA peak"  # type: ignore[attr-defined]


class Update:
    """GB/s, and share of a plain copy."""

    params: ClassVar[list[list[Any]]] = [["adam", "rmsprop", "adagrad"], list(SIZES)]
    param_names: ClassVar[list[str]] = ["optimizer", "parameters"]

    def setup(self, name: str, size: int) -> None:
        _device()
        self._call, self._bytes = update_call(name, size)

    def track_rate(self, name: str, size: int) -> float:
        from benchmarks.limits_cuda import seconds

        return self._bytes / seconds(self._call, inner=10) / 1e9

    def track_share(self, name: str, size: int) -> float:
        from benchmarks.limits_cuda import copy_rate

        return 1e9 * self.track_rate(name, size) / copy_rate()

    track_rate.unit = "GB/s"  # type: ignore[attr-defined]
    track_share.unit = "of a plain copy"  # type: ignore[attr-defined]


class Training:
    """Microseconds of a training step, whole epochs timed, and the loss reached."""

    params: ClassVar[list[list[Any]]] = [list(TRAINED)]
    param_names: ClassVar[list[str]] = ["workload"]
    timeout = 300.0

    def setup(self, name: str) -> None:
        _device()
        self._workload = cases.ALL_WORKLOADS[name]
        self._x, self._y = cases.training_data(name)
        self._model = cases.fastnn_model(self._workload, device="cuda")
        cases.fit(self._model, self._workload, self._x, self._y, 1)

    def track_step(self, name: str) -> float:
        start = time.perf_counter()
        cases.fit(self._model, self._workload, self._x, self._y, 2)
        return 1e6 * (time.perf_counter() - start) / (2 * self._workload.steps)

    def track_loss(self, name: str) -> float:
        self._model = cases.fastnn_model(self._workload, device="cuda")
        return float(cases.fit(self._model, self._workload, self._x, self._y, 2).history["loss"][-1])

    track_step.unit = "us"  # type: ignore[attr-defined]
    track_loss.unit = "loss"  # type: ignore[attr-defined]


PARTS = {"forward": "FORWARD", "loss": "EVALUATE", "gradients": "GRADIENT", "update": "TRAIN"}
"""What a step has done by then -> the mode of a launch that ends there."""

TIMED_STEPS = 200


def parts_of_a_step(name: str, by_library: bool = False) -> dict[str, float]:
    """Return the microseconds of a workload's step up to and with each of its parts, whose differences are theirs.

    `by_library` has cuBLASLt do the products, however small they are; else fastnn's own kernels do them. There only
    whole training steps are a graph, so no other part says anything.
    """
    from fastnn.arrays import Data
    from fastnn.cuda import launches
    from fastnn.kernels import layout

    workload = cases.ALL_WORKLOADS[name]
    batch, n_steps = workload.batch, max(1, min(TIMED_STEPS, workload.rows // workload.batch))
    x, y = cases.training_data(name, n_steps * batch)
    labels = y if y.ndim == 1 else np.empty(0, np.int64)
    data = Data(x, np.empty((0, 0), np.uint8), labels, y if y.ndim == 2 else np.empty((0, 0), x.dtype), np.empty(0))
    runtime: Any = cases.fastnn_model(workload, device="cuda").runtime
    runtime.keep_data(True)
    order, rates = np.random.default_rng(0).permutation(len(x)), np.full(n_steps, 1e-4)

    def microseconds(mode: int) -> float:
        report = np.zeros((n_steps, layout.N_REPORT))
        start = time.perf_counter()
        runtime._run(mode, data, order, rows=len(x), batch=batch, report=report, rates=rates)
        return 1e6 * (time.perf_counter() - start) / n_steps

    with mock.patch.object(launches, "WORTH_FLOPS", 0.0 if by_library else float("inf")):
        return {
            part: min(microseconds(getattr(layout, mode)) for _ in range(4))  # the first compiles
            for part, mode in PARTS.items()
            if mode == "TRAIN" or not by_library
        }


def by_many_blocks(name: str) -> tuple[float, float, float]:
    """Return the microseconds of a workload's step by many blocks, and what is estimated: in one block, and by many."""
    from fastnn.cuda import block, runtime

    workload = cases.ALL_WORKLOADS[name]
    stages = [(inputs, units, True) for inputs, units in zip(workload.sizes[:-1], workload.sizes[1:], strict=True)]
    parameters = workload.weights + sum(workload.sizes[1:])
    with mock.patch.object(runtime, "most_shared", return_value=0):
        measured = parts_of_a_step(name)["update"]
    return measured, block.microseconds(workload.batch, stages, parameters, 4), block.by_many(len(stages))


def main() -> None:
    """Print limits, products, updates and the parts of a step of this device."""
    try:
        _device()
    except NotImplementedError as missing:
        sys.exit(f"not measured: {missing}")
    from benchmarks.limits_cuda import barrier_time, copy_rate, fma_peak
    from fastnn.cuda import _cublas

    single, double = fma_peak() / 1e12, fma_peak("float64") / 1e12
    print(f"multiply-adds on registers: {single:.1f} TFLOP/s in float32, {double:.1f} in float64")
    print(f"a plain copy: {copy_rate() / 1e9:.0f} GB/s; a barrier of all blocks: {1e6 * barrier_time():.2f} us")
    for suite in (Product, Update):
        for first in suite.params[0]:
            for second in suite.params[1]:
                bench = suite()
                bench.setup(first, second)
                rate, share = bench.track_rate(first, second), bench.track_share(first, second)
                unit = suite.track_rate.unit
                print(f"{suite.__name__} {first} {second}: {rate:,.0f} {unit}, {100 * share:.0f}%", flush=True)
    for name in TRAINED:
        for by_library in (False, True) if _cublas.loaded() is not None else (False,):
            parts = ", ".join(f"{part} {us:.1f}" for part, us in parts_of_a_step(name, by_library).items())
            how = "cuBLASLt's products" if by_library else "own kernels"
            print(f"A step of {name} in us, {how}, up to: {parts}", flush=True)
    for name in IN_ONE_BLOCK:
        measured, one, many = by_many_blocks(name)
        print(f"A step of {name} in us, by many blocks: {measured:.1f}; estimated: {many:.1f}, in one block {one:.1f}")


if __name__ == "__main__":
    sys.exit(shell.run(main))
