"""What the gate measures: every kernel's cases, a short training of each workload, predictions.

All of it comes from `cases.py`. A sample has to be short, so that both revisions' samples fall into the same
fraction of a second: a workload trains on as many of its rows as make `TRAINING_FLOPS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from benchmarks import cases

TRAINING_FLOPS = 1e9
"""Operations of one training sample, about 10 ms on one core; at least one step, at most one epoch."""

PREDICTED = (("tiny", 1), ("mnist", 1), ("mnist", 4096))


class Missing(Exception):
    """The installed fastnn does not have this."""


def names(dtypes: Iterable[str] = ("float32",)) -> list[str]:
    """Return the names of all samples whose element type is one of `dtypes`; random words and indices always."""
    wanted = set(dtypes)
    kernels = [
        f"{case.name} {dtype}"
        for case in cases.CASES
        for dtype in case.dtypes
        if dtype in wanted or case.dtypes != cases.FLOATS
    ]
    if "float32" not in wanted:  # the models of the workloads
        return kernels
    return [
        *kernels,
        *(f"train {name}" for name in cases.WORKLOADS),
        *(f"predict {name} {rows}" for name, rows in PREDICTED),
    ]


def prepare(name: str, threads: str) -> Callable[[], Any]:
    """Return the call that a sample repeats; no call differs from the next."""
    first, _, rest = name.partition(" ")
    n_threads = 1 if threads == "1" else None
    if first == "train":
        return _training(rest, n_threads)
    if first == "predict":
        return _prediction(*rest.split(), n_threads)
    return _kernel(*name.rsplit(" ", 1))


def _kernel(name: str, dtype: str) -> Callable[[], Any]:
    import fastnn.kernels

    case = cases.find(name)
    if not hasattr(fastnn.kernels, case.kernel):
        raise Missing(f"no kernel {case.kernel}")
    return cases.bind(case, "fastnn", dtype)[0]


def _training(name: str, n_threads: int | None) -> Callable[[], Any]:
    workload = cases.WORKLOADS[name]
    step = 6 * workload.batch * workload.weights
    rows = min(workload.rows, workload.batch * max(1, round(TRAINING_FLOPS / step)))
    x, y = cases.training_data(name, rows)
    model = cases.fastnn_model(workload, 0, n_threads)
    return lambda: cases.fit(model, workload, x, y, 1)


def _prediction(name: str, rows: str, n_threads: int | None) -> Callable[[], Any]:
    workload = cases.WORKLOADS[name]
    model = cases.fastnn_model(workload, 0, n_threads)
    x = np.random.default_rng(0).standard_normal((int(rows), workload.sizes[0]), np.float32)
    return lambda: model.predict(x)
