"""Train, predict, save and load for as long as asked, and see that nothing grows and nothing slows down.

``python -m tests.soak --minutes 60`` goes through all kinds of work in turns, on all threads, and writes one line a
window: resident memory, open files, threads, rounds, and the least CPU time that one fixed training and one fixed
prediction took in that window, on one thread (what else runs on the machine shows little there). It ends with 1 where
memory, files or threads grew, or those became slower, after the first tenth of the time, in which caches fill. Linux
only: it reads /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import pathlib
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import fastnn

GROWTH = 0.01
"""Memory of the last windows may be this share above that of the first ones, or `GRAIN` bytes."""

GRAIN = 4 << 20

SLOWER = 0.15
"""The machine's own speed moves by this much within an hour."""


class Window(NamedTuple):
    """What was seen in one stretch of time."""

    end: float  # seconds since the beginning
    rounds: int
    resident: int  # bytes
    files: int
    threads: int
    fit: float  # least seconds of CPU time of a call
    predict: float


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def model(seed: int = 0, n_threads: int | None = None) -> fastnn.Sequential:
    """Return a network of the size of its users'."""
    layers = [fastnn.Dense(128, "relu"), fastnn.Dropout(0.2), fastnn.Dense(64, "gelu"), fastnn.Dense(10)]
    return fastnn.Sequential(layers, loss="cross_entropy", optimizer=fastnn.Adam(1e-4), seed=seed, n_threads=n_threads)


class Work:
    """All kinds of work, each on data that stays the same."""

    def __init__(self, folder: pathlib.Path) -> None:
        rng = np.random.default_rng(0)
        self.folder = folder
        self.x = rng.normal(size=(4096, 64)).astype(np.float32)
        self.y = rng.integers(0, 10, 4096)
        self.begin()
        self.row = self.x[:1]
        np.save(folder / "x.npy", self.x)
        np.save(folder / "y.npy", self.y)

    def begin(self) -> None:
        """Take a new model, as the history of one that is trained on grows by half a kilobyte an epoch."""
        self.long = model(n_threads=1)
        self.long.fit(self.x, self.y, epochs=1, verbose=False)

    def fit(self) -> None:
        """Go on training one model: this is timed."""
        self.long.fit(self.x, self.y, batch_size=128, epochs=2, verbose=False)

    def predict(self) -> None:
        """Ask for single rows and for all: this is timed."""
        for _ in range(1000):
            self.long.predict(self.row)
        self.long.predict(self.x)

    def checkpoints(self) -> None:
        """Train a new model with checkpoints, early stopping and validation, resume it, load the newest."""
        run = self.folder / "run"
        for epochs in (2, 4):
            resumed = model(1)
            callbacks = [fastnn.Checkpoint(run, keep=2), fastnn.EarlyStopping(patience=2)]
            resumed.fit(
                self.x, self.y, epochs=epochs, validation_split=0.2, callbacks=callbacks, resume=run, verbose=False
            )
        fastnn.load(fastnn.latest_checkpoint(run))
        for file in run.iterdir():
            file.unlink()

    def stream(self) -> None:
        """Train from files that are read beside the training."""
        source = fastnn.stream(self.folder / "x.npy", self.folder / "y.npy")
        model(2).fit(source, epochs=1, verbose=False)

    def shapes(self) -> None:
        """Build models of other shapes, losses and optimizers, none of which may leave anything behind."""
        for width, optimizer in ((7, fastnn.SGD(0.01, momentum=0.9)), (33, fastnn.RMSprop()), (130, fastnn.AdaGrad())):
            layers = [fastnn.Dense(width, "tanh"), fastnn.Dense(1)]
            narrow = fastnn.Sequential(layers, loss="squared_error", optimizer=optimizer, dtype="float64", seed=width)
            narrow.fit(self.x, self.x[:, :1], batch_size=width, epochs=1, verbose=False)

    def threads(self) -> None:
        """Predict from four Python threads while a fifth trains."""
        own = model(3)
        own.fit(self.x, self.y, epochs=1, verbose=False)
        jobs = [threading.Thread(target=own.predict, args=(self.x,)) for _ in range(4)]
        jobs.append(threading.Thread(target=self.fit))
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()

    def refused(self) -> None:
        """Ask for what cannot be: errors must leave nothing behind either."""
        for x in (self.x[:, :3], self.x * np.nan, "no array"):
            with contextlib.suppress(ValueError, TypeError):
                self.long.predict(x)
        exploding = fastnn.Sequential(
            [fastnn.Dense(8), fastnn.Dense(1)], loss="squared_error", optimizer=fastnn.SGD(1e6), seed=0
        )
        with warnings.catch_warnings(), contextlib.suppress(fastnn.TrainingDiverged):
            warnings.simplefilter("ignore")
            exploding.fit(self.x, self.x[:, :1], epochs=2, verbose=False)


def _least(best: float, call: Callable[[], None]) -> float:
    """Return the CPU time of this thread for a call, or `best` where that was less."""
    began = time.thread_time()
    call()
    return min(best, time.thread_time() - began)


def windows(seconds: float, each: float) -> Iterator[Window]:
    """Work for `seconds`, and give what was seen every `each` of them."""
    with tempfile.TemporaryDirectory() as folder:
        work = Work(pathlib.Path(folder))
        others = (work.checkpoints, work.stream, work.shapes, work.threads, work.refused)
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            work.begin()
            opened, rounds, fit, predict = time.monotonic(), 0, np.inf, np.inf
            while time.monotonic() - opened < each:
                for _ in range(3):
                    fit, predict = _least(fit, work.fit), _least(predict, work.predict)
                for other in others:
                    other()
                rounds += 1
            gc.collect()
            files = len(list(pathlib.Path("/proc/self/fd").iterdir()))
            threads = len(list(pathlib.Path("/proc/self/task").iterdir()))
            yield Window(time.monotonic() - began, rounds, resident(), files, threads, fit, predict)


def complaints(seen: list[Window]) -> list[str]:
    """Compare the windows after the first tenth with the last ones, and return what grew or slowed down."""
    seen = seen[len(seen) // 10 :]
    third = max(1, len(seen) // 3)

    def grew(name: str) -> tuple[float, float]:
        values = [float(getattr(window, name)) for window in seen]
        return statistics.median(values[:third]), statistics.median(values[-third:])

    found = []
    before, after = grew("resident")
    if after - before > max(GROWTH * before, GRAIN):
        found.append(f"memory grew from {before / 2**20:.1f} to {after / 2**20:.1f} MB")
    for name in ("files", "threads"):
        before, after = grew(name)
        if after > before:
            found.append(f"{name} grew from {before:.0f} to {after:.0f}")
    for name in ("fit", "predict"):
        before, after = grew(name)
        if after > (1 + SLOWER) * before:
            found.append(f"the CPU time of {name} went from {1e3 * before:.2f} to {1e3 * after:.2f} ms")
    return found


def main(arguments: Any = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--windows", type=int, default=60, help="how many windows the time is cut into")
    options = parser.parse_args(arguments)
    seen = []
    print("minutes  rounds  memory MB  files  threads  fit ms  predict ms")
    for window in windows(60 * options.minutes, 60 * options.minutes / options.windows):
        seen.append(window)
        print(
            f"{window.end / 60:7.1f} {window.rounds:7d} {window.resident / 2**20:10.1f} {window.files:6d} "
            f"{window.threads:8d} {1e3 * window.fit:7.2f} {1e3 * window.predict:11.2f}",
            flush=True,
        )
    found = complaints(seen)
    print("\n".join(found) or f"nothing grew, nothing slowed down: {sum(w.rounds for w in seen)} rounds")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
