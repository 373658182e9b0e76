"""Compile on several processes what a machine needs that never ran fastnn; the code goes through the disk cache.

Numba compiles on one thread at a time, and the tasks of a step take half a minute of one core.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from fastnn.kernels._jit import Task

PROCESSES = 4
"""Processes at most that compile: the longest task takes about a quarter of the time of all."""

START_SECONDS = 1.0
"""How long another process takes until it compiles."""

PROCESS_BYTES = 300 << 20
"""Memory that a process takes while it compiles."""

LIMITS = pathlib.Path("/sys/fs/cgroup")
"""Where a container sees its control group (version 2)."""


def shares(seconds: Mapping[int, float], own: float, n_processes: int) -> list[list[int]]:
    """Deal out tasks to processes, the longest first, each to the one that would then be done soonest.

    Parameters
    ----------
    seconds : mapping
        A task's number -> how long it takes to compile.
    own : float
        How long the first process, this one, has other things to do.
    n_processes : int
        How many there are.
    """
    dealt: list[list[int]] = [[] for _ in range(n_processes)]
    busy = [own, *[START_SECONDS] * (n_processes - 1)]
    for task in sorted(seconds, key=lambda one: -seconds[one]):
        least = busy.index(min(busy))
        dealt[least].append(task)
        busy[least] += seconds[task]
    return dealt


def cores() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes() -> int:
    """Return how many processes may compile at once: by the cores, and by the memory that a container has left.

    What files take there does not count, since the system gives it back.
    """
    try:
        most = int((LIMITS / "memory.max").read_text())
        taken = int(dict(line.split() for line in (LIMITS / "memory.stat").read_text().splitlines())["anon"])
    except (OSError, ValueError, KeyError):  # no container, or one whose limit is "max"
        return min(PROCESSES, cores())
    return min(PROCESSES, cores(), 1 + max(0, most - taken) // PROCESS_BYTES)


@contextlib.contextmanager
def running_beside(statements: Iterable[str]) -> Iterator[None]:
    """Meanwhile let other processes run a statement each, which compiles into the disk cache; wait for them at the end.

    Where a process cannot be had, or Python is inside another program, nothing is run: what is missing in the cache is
    compiled when it is needed.
    """
    interpreter = sys.executable or ""
    if getattr(sys, "frozen", False) or not pathlib.Path(interpreter).name.lower().startswith(("python", "pypy")):
        yield
        return
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    optimize = ["-O"] * sys.flags.optimize  # code without assertions has a place of its own in the cache
    children: list[subprocess.Popen[bytes]] = []
    try:
        for statement in statements:
            program = f"import sys; sys.path[:] = {sys.path!r}; {statement}"
            with contextlib.suppress(OSError, ValueError):
                children.append(subprocess.Popen([interpreter, *optimize, "-c", program], **quiet))
        yield
        for child in children:
            child.wait()
    finally:
        for child in children:
            child.kill()
            child.wait()


def announce(seconds: float) -> None:
    """Say on stderr what takes so long, where it does."""
    if seconds > 1.0:
        with contextlib.suppress(AttributeError, OSError, ValueError):  # no stderr, or one that is closed
            sys.stderr.write(
                f"fastnn: compiling kernels for this CPU, once, some {seconds:.0f} seconds; they are kept on disk\n"
            )


def compile_tasks(
    module: str,
    seconds: Mapping[Task, float],
    tasks: Collection[Task],
    dtype: Any,
    also: Callable[[], None],
    also_seconds: float,
    say: Callable[[float], None],
) -> None:
    """Compile what is missing of some tasks for one float type, on several processes where it is much.

    Parameters
    ----------
    module : str
        Where other processes find the tasks, as the keys of its `TASKS`.
    seconds : mapping
        All tasks there -> about how long each takes to compile.
    tasks : collection
        Those wanted.
    dtype : NumPy dtype
    also, also_seconds : callable, float
        What else this process compiles, and about how long that takes where the first of `tasks` is missing.
    say : callable
        Told before how long it will take, in seconds.
    """
    missing = {i: seconds[task] for i, task in enumerate(seconds) if task in tasks and task.must_be_compiled(dtype)}
    if not missing:
        return
    everything = list(seconds)
    if not next(iter(tasks)).must_be_compiled(dtype):
        also_seconds = 0.0
    own, *others = shares(missing, also_seconds, processes())
    say(max(also_seconds + sum(missing[i] for i in own), *(sum(missing[i] for i in each) for each in others), 0.0))
    with running_beside(
        f"import numpy; from {module} import TASKS; "
        f"[list(TASKS)[i].address(numpy.dtype({dtype.name!r})) for i in {numbers}]"
        for numbers in others
        if numbers
    ):
        for i in own:
            everything[i].address(dtype)
        also()
