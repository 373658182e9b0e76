"""`fastnn bench`: how fast this machine trains."""

from __future__ import annotations

import argparse
import math
import platform
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastnn._version import __version__
from fastnn.cli.options import add_command, add_json, integer, number, one_of
from fastnn.cli.shared import columns_of, print_json
from fastnn.layers import Dense
from fastnn.model import Sequential


@dataclass(frozen=True)
class Workload:
    """Random rows for a network of these sizes; the last one is the number of classes."""

    name: str
    rows: int
    sizes: tuple[int, ...]
    batch: int
    activation: str

    @property
    def flops(self) -> int:
        """Multiplications and additions of the matrix products of one epoch.

        Forward, to the weights, and to each layer's input but the first's.
        """
        products = [a * b for a, b in zip(self.sizes[:-1], self.sizes[1:], strict=True)]
        return self.rows * (6 * sum(products) - 2 * products[0])


WORKLOADS = (
    Workload("tiny", 20_000, (8, 32, 32, 2), 32, "tanh"),
    Workload("mnist", 12_000, (784, 128, 64, 10), 128, "relu"),
    Workload("tabular", 20_000, (54, 256, 256, 7), 512, "relu"),
    Workload("deep", 20_000, (*[64] * 18, 10), 64, "relu"),
    Workload("wide", 4_096, (784, 1024, 1024, 10), 256, "relu"),
)
"""Networks of the project's own benchmarks, some with fewer rows, all for classes."""


def add(commands: Any) -> None:
    """Declare the command."""
    summary = "measure how fast this machine trains a few usual networks"
    more = "; compiling is not counted, and another program that uses the CPU spoils the figures"
    parser = add_command(commands, "bench", run, summary, more)
    positive = number(0, low_open=True)
    parser.add_argument("--seconds", metavar="X", type=positive, default=1.0, help="time for each (default 1)")
    parser.add_argument("--threads", metavar="N", type=integer(1), help="threads at most (default: one a core)")
    types = one_of(("float32", "float64"))
    parser.add_argument("--dtype", metavar="TYPE", type=types, default="float32", help="float32 (default) or float64")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Measure, and print a line a workload."""
    rows = [["network", "layers", "batch", "us/step", "samples/s", "GFLOP/s"]]
    results = []
    for workload in WORKLOADS:
        result = measure(workload, options.seconds, options.threads, options.dtype)
        results.append(result)
        shape = "-".join(map(str, workload.sizes)) if len(workload.sizes) < 6 else f"{len(workload.sizes) - 1}x64-10"
        rows.append([
            workload.name, shape, str(workload.batch), f"{result['us_per_step']:,.1f}",
            f"{result['samples_per_second']:,.0f}", f"{result['gflops']:.1f}",
        ])  # fmt: skip
    if options.json:
        print_json({"fastnn": __version__, "machine": platform.machine(), "dtype": options.dtype, "workloads": results})
        return 0
    for line in columns_of(rows):
        print(line)
    return 0


def measure(workload: Workload, seconds: float, threads: int | None, dtype: str) -> dict[str, Any]:
    """Train for some seconds and return the speed of the fastest epoch.

    The fastest, since what slows an epoch down comes from outside.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((workload.rows, workload.sizes[0])).astype(dtype)
    y = rng.integers(0, workload.sizes[-1], workload.rows)
    hidden = [Dense(width, workload.activation) for width in workload.sizes[1:-1]]
    model = Sequential([*hidden, Dense(workload.sizes[-1])], "cross_entropy", "adam", dtype=dtype, n_threads=threads)
    model.fit(x[: 2 * workload.batch], y[: 2 * workload.batch], batch_size=workload.batch, epochs=1, verbose=False)
    end = time.perf_counter() + seconds
    while True:
        model.fit(x, y, batch_size=workload.batch, epochs=1, verbose=False)
        if time.perf_counter() > end:
            break
    best = min(model.history.history["seconds"][1:])
    return {
        "name": workload.name,
        "sizes": workload.sizes,
        "rows": workload.rows,
        "batch": workload.batch,
        "us_per_step": 1e6 * best / math.ceil(workload.rows / workload.batch),
        "samples_per_second": workload.rows / best,
        "gflops": workload.flops / best / 1e9,
    }
