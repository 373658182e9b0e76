"""Pairs of processes, one of each revision, that take turns."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import queue
import random
import statistics
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gate.trees import Installed
from benchmarks.gate.worker import LONG_SECONDS

WORKER = pathlib.Path(__file__).with_name("worker.py")

BURST_SECONDS = 5e-4
"""Short enough that most bursts fall between two interruptions; the fastest of some counts."""

ANSWER_SECONDS = 600.0
"""What takes longer hangs: the first call of a revision compiles."""


class Failed(Exception):
    """A process ended, hung or reported an error; the message says which and why."""


class Side:
    """One process with one revision."""

    def __init__(self, installed: Installed, threads: str, cpu: int) -> None:
        self.label = installed.label
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(installed.cache)}
        for name in ("PYTHONPATH", "PYTHONHOME", "ASV_ENV_DIR"):
            environment.pop(name, None)
        self._process = subprocess.Popen(
            [installed.python, str(WORKER), threads, str(cpu)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self._answers: queue.Queue[str] = queue.Queue()
        self._complaints: list[str] = []
        for target in (self._listen, self._complain):
            threading.Thread(target=target, daemon=True).start()
        self.versions: dict[str, str] = {}
        self._environment = installed.environment

    def greet(self) -> None:
        """Wait until the process has imported its fastnn."""
        hello = self.hear()
        if not pathlib.Path(hello["fastnn"]).is_relative_to(self._environment):
            raise Failed(f"{self.label}: got fastnn from {hello['fastnn']}, expected it in {self._environment}")
        self.versions = hello["versions"]

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def _complain(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._complaints = [*self._complaints[-4:], line.rstrip()]

    def hear(self) -> dict[str, Any]:
        """Return the next answer.

        Raises
        ------
        Failed
            The process ended or hangs.
        """
        try:
            line = self._answers.get(timeout=ANSWER_SECONDS)
        except queue.Empty:
            raise Failed(f"{self.label}: no answer in {ANSWER_SECONDS:g} s") from None
        if not line:
            code = self._process.wait()
            raise Failed(f"{self.label}: the process ended with {code}: {' | '.join(self._complaints)}")
        return json.loads(line)

    def tell(self, **order: Any) -> None:
        """Send an order."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then the answer says so
            print(json.dumps(order), file=self._process.stdin, flush=True)

    def ask(self, **order: Any) -> dict[str, Any]:
        """Send an order and return the answer."""
        self.tell(**order)
        return self.hear()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


@dataclass
class Found:
    """What some pairs measured of one sample."""

    differences: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """Of BASE, one a pair."""

    errors: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def rounds_of(seconds: float) -> tuple[int, dict[str, int]]:
    """Return how many rounds a pair takes of calls that last so long, and what a sample is."""
    if seconds > LONG_SECONDS:
        return 7, {"calls": 1, "bursts": 1 if seconds > 4 * LONG_SECONDS else 2, "warm": 0}
    calls = max(1, round(BURST_SECONDS / seconds))
    return 11, {"calls": calls, "bursts": 4, "warm": calls}


def measure(base: Side, head: Side, name: str, found: Found) -> None:
    """Add one pair's measurement of a sample to what is found.

    Raises
    ------
    Failed
        A process is gone.
    """
    for side in (base, head):
        side.tell(do="open", name=name)
    opened = [side.hear() for side in (base, head)]
    lacking = False
    for side, answer in zip((base, head), opened, strict=True):
        if "missing" in answer:
            found.missing.append(f"{side.label}: {answer['missing']}")
            lacking = True
        elif "error" in answer:
            found.errors.append(f"{side.label}: {answer['error']}")
            lacking = True
    if lacking:
        return
    rounds, sample = rounds_of(min(answer["seconds"] for answer in opened))
    logs, seconds = [], []
    for number in range(rounds):
        times = {}
        for side in (base, head) if number % 2 == 0 else (head, base):
            answer = side.ask(do="sample", **sample)
            if "error" in answer:
                found.errors.append(f"{side.label}: {answer['error']}")
                return
            times[side] = answer["seconds"]
        logs.append(math.log(times[head] / times[base]))
        seconds.append(times[base])
    found.differences.append(statistics.median(logs))
    found.seconds.append(statistics.median(seconds))


@contextlib.contextmanager
def _started(base: Installed, head: Installed, threads: str, number: int) -> Iterator[tuple[Side, Side]]:
    """Start both processes, on one CPU where one thread is measured, the first and the CPU changing with `number`."""
    cpu = -1
    if threads == "1" and hasattr(os, "sched_getaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
        cpu = cpus[number // 2 % len(cpus)]
    sides: dict[str, Side] = {}
    try:
        for installed in (base, head) if number % 2 == 0 else (head, base):
            sides[installed.side] = Side(installed, threads, cpu)
        for side in sides.values():  # both import at once
            side.greet()
        yield sides[base.side], sides[head.side]
    finally:
        for side in sides.values():
            side.close()


def collect(
    base: Installed,
    head: Installed,
    names: Iterable[str],
    pairs: int,
    threads: str,
    first: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Found]:
    """Measure samples in so many fresh pairs of processes, in another order in each.

    A sample whose process ends is noted as an error, and the rest goes on in new processes.
    """
    found = {name: Found() for name in names}
    for number in range(first, first + pairs):
        order = [name for name, one in found.items() if not one.errors and not one.missing]
        random.Random(number).shuffle(order)
        while order:
            with _started(base, head, threads, number) as (one, other):
                while order:
                    name = order.pop()
                    say(f"pair {number + 1 - first} of {pairs}: {name}")
                    try:
                        measure(one, other, name, found[name])
                    except Failed as error:
                        found[name].errors.append(str(error))
                        break
    return found


def versions(base: Installed, head: Installed) -> tuple[dict[str, str], dict[str, str]]:
    """Return the versions of the libraries below both revisions.

    Raises
    ------
    Failed
        A revision cannot be imported.
    """
    with _started(base, head, "1", 0) as (one, other):
        return one.versions, other.versions
