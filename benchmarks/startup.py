"""asv: how long a user waits before anything is learned, and how much memory training takes.

``timeraw_`` benchmarks run in a fresh interpreter each time: importing fastnn, the first `fit` of a process whose
kernels are on the disk, and the first `fit` on a machine that never ran fastnn.
"""

from __future__ import annotations

from typing import Any, ClassVar

import fastnn  # noqa: F401  imported once, by the server from which asv forks each measurement
from benchmarks import cases

_FIT = """
model = fastnn.Sequential([fastnn.Dense(32, activation="tanh"), fastnn.Dense(1)], loss="squared_error")
model.fit(np.ones((64, 8), np.float32), np.ones((64, 1), np.float32), epochs=1, batch_size=32, verbose=False)
"""

_IMPORTS = """
import numpy as np
import fastnn
"""

_EMPTY_CACHE = """
import atexit, os, shutil, tempfile
folder = tempfile.mkdtemp()
atexit.register(shutil.rmtree, folder, ignore_errors=True)
os.environ["NUMBA_CACHE_DIR"] = folder  # Numba reads it when it is first imported
"""


class _FreshProcess:
    """A sample is a process, so there is nothing to repeat in it or to warm up."""

    number = 1
    rounds = 1
    warmup_time = 0.0
    timeout = 600.0


class Import(_FreshProcess):
    """Seconds that `import fastnn` takes after `import numba`."""

    repeat = 9

    def timeraw_fastnn(self) -> tuple[str, str]:
        return "import fastnn", "import numba"


class WarmStart(_FreshProcess):
    """Seconds of the first `fit` of a process, kernels on the disk (the first of all samples puts them there)."""

    repeat = 7

    def timeraw_first_fit(self) -> tuple[str, str]:
        return _FIT, _IMPORTS


class ColdStart(_FreshProcess):
    """Seconds of the first `fit` with an empty cache."""

    repeat = 3

    def timeraw_first_fit(self) -> tuple[str, str]:
        return _FIT, _EMPTY_CACHE + _IMPORTS


class Memory:
    """Bytes a process holds at most that makes a workload's data and trains an epoch on it."""

    params: ClassVar[list[str]] = list(cases.WORKLOADS)
    param_names: ClassVar[list[str]] = ["workload"]
    timeout = 600.0

    def peakmem_epoch(self, name: str) -> Any:
        workload = cases.WORKLOADS[name]
        x, y = cases.training_data(name)
        return cases.fit(cases.fastnn_model(workload), workload, x, y, 1)
