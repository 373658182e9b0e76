"""How kernels are launched: block size, number of blocks, and one persistent kernel at a time."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

from fastnn.cuda._numba import SIMULATED, driver
from fastnn.cuda.tile import THREADS

lock = threading.RLock()
"""Held while kernels are launched and while a persistent one runs: two of those, each with half of its blocks on the
card, would wait for each other for ever. (The simulator can run one kernel at a time only.)"""


def _renew() -> None:
    """A forked process has none of its parent's threads, one of which may hold the lock."""
    global lock
    lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def processors() -> int:
    """Return how many multiprocessors the current device has; the simulator runs one block at a time."""
    return 1 if SIMULATED else int(driver.get_current_device().MULTIPROCESSOR_COUNT)


def grid_of(elements: int) -> int:
    """Return how many blocks element-wise work is worth: some for each multiprocessor at most."""
    return max(1, min(8 * processors(), -(-elements // THREADS)))


def launch(kernel: Any, blocks: int, *arguments: Any, shared: int = 0, stream: Any = 0) -> None:
    """Launch a kernel of `blocks` blocks on a stream (0: the default one); `shared` is in bytes."""
    with lock, _short_turns():
        kernel[blocks, THREADS, stream, shared](*arguments)


@contextlib.contextmanager
def _short_turns() -> Iterator[None]:
    """In the simulator, let Python change threads often: its main thread polls the others without a pause."""
    if not SIMULATED:
        yield
        return
    before = sys.getswitchinterval()
    sys.setswitchinterval(2e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
