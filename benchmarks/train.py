"""asv: seconds an epoch of the training workloads, with the loss they reach, and the latency of a prediction."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import numpy as np

import fastnn  # noqa: F401  imported once, by the server from which asv forks each measurement
from benchmarks import cases

THREADS = ("1", "all")


def _n_threads(threads: str) -> int | None:
    return 1 if threads == "1" else None


class Training:
    """Every sample is a fresh network that trains from the same weights, so no sample differs from the next."""

    params: ClassVar[list[list[Any]]] = [list(cases.WORKLOADS), list(THREADS)]
    param_names: ClassVar[list[str]] = ["workload", "threads"]
    timeout = 600.0
    number = 1
    repeat = (2, 8, 8.0)
    warmup_time = 0.0

    def __init__(self) -> None:
        self._warm: tuple[str, ...] = ()
        self._epochs = 1

    def setup(self, name: str, threads: str) -> None:
        workload = cases.WORKLOADS[name]
        x, y = cases.training_data(name)
        if self._warm != (name, threads):  # compiles, or loads from the cache; touches all memory once
            rows = min(workload.rows, 4 * workload.batch)
            cases.fit(cases.fastnn_model(workload, 1, _n_threads(threads)), workload, x[:rows], y[:rows], 1)
            self._warm = (name, threads)
        self._model = cases.fastnn_model(workload, 0, _n_threads(threads))
        self._epochs = workload.epochs

    def timer(self) -> float:
        return time.perf_counter() / self._epochs

    def time_epoch(self, name: str, threads: str) -> None:
        cases.fit(self._model, cases.WORKLOADS[name], *cases.training_data(name), self._epochs)

    def track_loss(self, name: str, threads: str) -> float:
        """Loss on the training rows after the timed epochs: shows what is fast and wrong."""
        self.time_epoch(name, threads)
        workload = cases.WORKLOADS[name]
        x, y = cases.training_data(name)
        return cases.judge(workload, self._model.get_weights(), x[:10_000], y[:10_000])["loss"]

    def track_speed(self, name: str, threads: str) -> float:
        """GFLOP/s, counted as 6 x rows x weights an epoch."""
        start = time.perf_counter()
        self.time_epoch(name, threads)
        seconds = time.perf_counter() - start
        return cases.WORKLOADS[name].nominal_flops * self._epochs / seconds / 1e9

    track_loss.unit = "loss"  # type: ignore[attr-defined]
    track_speed.unit = "GFLOP/s"  # type: ignore[attr-defined]


class Prediction:
    """`model.predict` from Python, called again and again."""

    params: ClassVar[list[list[Any]]] = [["tiny", "mnist"], [1, 4096], list(THREADS)]
    param_names: ClassVar[list[str]] = ["workload", "rows", "threads"]
    timeout = 300.0

    def __init__(self) -> None:
        self._ready: tuple[Any, ...] = ()
        self._calls = 1

    def setup(self, name: str, rows: int, threads: str) -> None:
        if self._ready == (name, rows, threads):
            return
        workload = cases.WORKLOADS[name]
        self._model = cases.fastnn_model(workload, 0, _n_threads(threads))
        self._x = np.random.default_rng(0).standard_normal((rows, workload.sizes[0]), np.float32)
        self._model.predict(self._x)
        self._calls = 100 if rows == 1 else 1
        self._ready = (name, rows, threads)

    def timer(self) -> float:
        return time.perf_counter() / self._calls

    def time_predict(self, name: str, rows: int, threads: str) -> None:
        for _ in range(self._calls):
            self._model.predict(self._x)
