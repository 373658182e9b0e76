"""One revision's process: it does what it is told on standard input, a JSON object a line, and answers in kind.

It is run by the Python of an environment that has the revision installed. `benchmarks` comes from the tree that
the gate itself runs from, so that both revisions are measured by the same program.

``{"do": "open", "name": NAME}`` prepares a sample and answers {"seconds": of one call}; ``{"do": "sample", "calls": N,
"bursts": B, "warm": W}`` answers {"seconds": of one call, in the fastest of B bursts of N calls after W untimed ones}.
The answer to what fails is {"error": ...}, to what the revision does not have {"missing": ...}.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

LONG_SECONDS = 5e-3
"""A call that takes longer is a burst by itself, and needs no warming."""

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _seconds(call: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


class _Worker:
    def __init__(self, threads: str, cpu: int) -> None:
        self._threads = threads
        self._all_cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        self._cpus = {cpu} if cpu >= 0 else self._all_cpus
        self._call: Callable[[], Any] = lambda: None

    def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        from benchmarks.gate import samples

        try:
            return {"seconds": self._open(order["name"]) if order["do"] == "open" else self._sample(**order)}
        except samples.Missing as error:
            return {"missing": str(error)}
        except Exception as error:  # whatever a revision does wrong is the gate's to report
            return {"error": f"{type(error).__name__}: {error}"}

    def _open(self, name: str) -> float:
        from benchmarks.gate import samples

        self._call = lambda: None  # gives the memory of the sample before back
        self._stay_on(self._all_cpus)  # both processes prepare at once
        self._call = samples.prepare(name, self._threads)
        self._call()  # compiles, or loads from the cache
        self._stay_on(self._cpus)
        seconds = _seconds(self._call, 1)
        return seconds if seconds > LONG_SECONDS else min(seconds, *(_seconds(self._call, 1) for _ in range(2)))

    @staticmethod
    def _stay_on(cpus: set[int]) -> None:
        if cpus:
            os.sched_setaffinity(0, cpus)

    def _sample(self, do: str, calls: int, bursts: int, warm: int) -> float:
        if warm:
            _seconds(self._call, warm)
        return min(_seconds(self._call, calls) for _ in range(bursts))


def main() -> None:
    """Serve until standard input ends. Arguments: the number of threads (1 or all) and, for one, the CPU to stay on."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what anybody prints goes to standard error
    threads, cpu = sys.argv[1], int(sys.argv[2])
    # Last, so that the installed fastnn is found before the one beside `benchmarks`.
    sys.path[0:1] = []
    sys.path.append(str(ROOT))
    import numba

    import fastnn

    if threads == "1":
        numba.set_num_threads(1)
    versions = {name: importlib.metadata.version(name) for name in ("numba", "llvmlite", "numpy")}
    print(json.dumps({"fastnn": fastnn.__file__, "versions": versions}), file=answers)
    worker = _Worker(threads, cpu)
    for line in sys.stdin:
        print(json.dumps(worker.answer(json.loads(line))), file=answers)


if __name__ == "__main__":
    main()
