"""A team of threads that comes together once for many small operations and is handed tasks through memory.

A fork and a join of all threads for every operation costs more than most operations of a small network, and
milliseconds where a core is busy with something else. Here one thread leads: it walks through the program and, for an
operation of several tasks, gives each seat of the team a share of them in one word. Whoever is there claims task
after task by adding one to such a word, those of its own seat first. A thread that comes late, never comes, or is
sent away by the system between two tasks holds nobody up: the others do what is left, and the leader waits only for
tasks that are at work.

The word of a seat holds both the end of its share (upper half) and the next task (lower half), so that a claim can
never mix two operations: while a claimed task is not done, its operation is not over.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from fastnn.kernels._blocks import make_stack
from fastnn.kernels._jit import block, inlined

LINE = 16
"""Words between two words that different threads write: two cache lines, since CPUs fetch lines in pairs."""

DONE, SEATS, FINISHED, OPERATION, CLAIMS = (i * LINE for i in range(5))
STAGE, LEADER_CPU, YIELD, SLEEP, WHICH_CPU, GET_AFFINITY, SET_AFFINITY, CLOCK = range(OPERATION + 1, OPERATION + 9)

SPINS = 300
"""How often a thread that waits looks again before it lets others have the core: some 5 us."""

NAP = 50
"""Microseconds of a sleep."""

_CPU_WORDS = 16
"""Words of a set of CPUs: 1024 bits, as in the C library's cpu_set_t."""

_cpu_set = make_stack(_CPU_WORDS, types.int64)
_timespec = make_stack(2, types.int64)

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_MONOTONIC = int(getattr(time, "CLOCK_MONOTONIC", 1))
_LOW = np.int64(0xFFFFFFFF)
_HALF = np.int64(32)


def _word(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Return the address of ``args[0][args[1]]``."""
    data = make_array(signature.args[0])(context, builder, args[0]).data
    return builder.gep(data, [args[1]])


def _is_words(array: Any) -> bool:
    return isinstance(array, types.Array) and array.dtype == types.int64 and array.ndim == 1 and array.layout == "C"


@intrinsic
def load(typingctx: Any, words: Any, index: Any) -> Any:
    """Return words[index]; what was written before the matching `store` is seen afterwards."""
    if not _is_words(words):
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_word(context, builder, signature, args), "acquire", 8)

    return types.int64(words, types.int64), generate


@intrinsic
def store(typingctx: Any, words: Any, index: Any, value: Any) -> Any:
    """Write words[index] = value after all that was written before."""
    if not _is_words(words):
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[2], _word(context, builder, signature, args), "release", 8)
        return context.get_dummy_value()

    return types.void(words, types.int64, types.int64), generate


@intrinsic
def fetch_add(typingctx: Any, words: Any, index: Any, value: Any) -> Any:
    """Add `value` to words[index] in one piece and return what stood there before."""
    if not _is_words(words):
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _word(context, builder, signature, args), args[2], "acq_rel")

    return types.int64(words, types.int64, types.int64), generate


@intrinsic
def _pause(typingctx: Any) -> Any:
    """Tell the CPU that this is a waiting loop."""
    machine = platform.machine().lower()

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if machine in ("x86_64", "amd64"):
            _hint(builder, "llvm.x86.sse2.pause")
        elif machine in ("aarch64", "arm64"):
            _hint(builder, "llvm.aarch64.hint", ir.Constant(ir.IntType(32), 1))
        return context.get_dummy_value()

    return types.void(), generate


def _hint(builder: Any, name: str, *arguments: Any) -> None:
    function_type = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), arguments)


def _c_int(builder: Any, address: Any, *arguments: Any) -> Any:
    """Call the C function at `address` that takes these arguments and returns an int."""
    function = ir.FunctionType(_I32, [argument.type for argument in arguments])
    return builder.sext(builder.call(builder.inttoptr(address, function.as_pointer()), arguments), _I64)


@intrinsic
def _call(typingctx: Any, address: Any, argument: Any) -> Any:
    """Call the C function ``int f(int)`` at `address` (one that takes no argument does not look at it)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _c_int(builder, args[0], builder.trunc(args[1], _I32))

    return types.int64(types.int64, types.int64), generate


@intrinsic
def _call_affinity(typingctx: Any, address: Any, cpus: Any) -> Any:
    """Call sched_getaffinity or sched_setaffinity, which lies at `address`, for this thread and a set of CPUs."""
    if not _is_words(cpus):
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = make_array(signature.args[1])(context, builder, args[1]).data
        return _c_int(builder, args[0], ir.Constant(_I32, 0), ir.Constant(_I64, 8 * _CPU_WORDS), data)

    return types.int64(types.int64, cpus), generate


@intrinsic
def _call_clock(typingctx: Any, address: Any, timespec: Any) -> Any:
    """Call clock_gettime, which lies at `address`, for a clock that never goes back: seconds and nanoseconds."""
    if not _is_words(timespec):
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = make_array(signature.args[1])(context, builder, args[1]).data
        return _c_int(builder, args[0], ir.Constant(_I32, _MONOTONIC), data)

    return types.int64(types.int64, timespec), generate


@inlined
def now(team):
    """Return the time in nanoseconds, from any moment on; 0 where there is no clock."""
    timespec = _timespec(team)
    if team[CLOCK] == 0 or _call_clock(team[CLOCK], timespec) != 0:
        return 0
    return timespec[0] * 1_000_000_000 + timespec[1]


def team_words(members: int) -> np.ndarray:
    """Return the words that a team of some members starts with."""
    words = np.zeros(CLAIMS + members * LINE, np.int64)
    words[[YIELD, SLEEP, WHICH_CPU, GET_AFFINITY, SET_AFFINITY, CLOCK]] = _system_functions()
    words[LEADER_CPU] = -1
    return words


@functools.cache
def _system_functions() -> tuple[int, ...]:
    """Return the addresses of functions of the system, 0 for one that it does not have."""
    if sys.platform == "win32":
        return 0, 0, 0, 0, 0, 0
    library = ctypes.CDLL(None)
    names = ("sched_yield", "usleep", "sched_getcpu", "sched_getaffinity", "sched_setaffinity", "clock_gettime")
    found = [getattr(library, name, None) for name in names]
    return tuple(0 if f is None else ctypes.cast(f, ctypes.c_void_p).value or 0 for f in found)


which_cpu: Callable[[], int] | None = getattr(ctypes.CDLL(None), "sched_getcpu", None) if os.name == "posix" else None
"""Tells Python on which CPU it runs, where the system can."""


@inlined
def locate_leader(team):
    """Say on which CPU the leader is."""
    if team[WHICH_CPU] != 0:
        store(team, LEADER_CPU, _call(team[WHICH_CPU], 0))


@inlined
def rest(team, turn):
    """Wait a moment for work, the `turn`-th time in a row, on another CPU than the leader's."""
    if beside_leader(team):
        step_aside(team)
    else:
        wait(team, turn)


@inlined
def beside_leader(team):
    """Return whether this thread is on the leader's CPU, as far as the system tells."""
    return team[WHICH_CPU] != 0 and _call(team[WHICH_CPU], 0) == load(team, LEADER_CPU)


@block
def step_aside(team):
    """Leave the leader's CPU to it: for any other this thread may use, or where there is none, for a nap.

    The system may leave two threads on one CPU for tens of milliseconds while another one idles. To be forbidden this
    CPU moves a thread at once; it is allowed again at once, too.
    """
    allowed, others = _cpu_set(team), _cpu_set(team)
    if team[GET_AFFINITY] != 0 and _call_affinity(team[GET_AFFINITY], allowed) >= 0:
        leader, left = load(team, LEADER_CPU), False
        for i in range(_CPU_WORDS):
            others[i] = allowed[i]
            if i == leader >> 6:
                others[i] &= ~(np.int64(1) << (leader & 63))
            left = left or others[i] != 0
        if left and _call_affinity(team[SET_AFFINITY], others) == 0:
            _call_affinity(team[SET_AFFINITY], allowed)
            return
    _call(team[SLEEP], NAP)


@inlined
def wait(team, turn):
    """Wait a moment for the end of a task at work, the `turn`-th time in a row."""
    if turn < SPINS or team[YIELD] == 0:
        _pause()
    else:
        _call(team[YIELD], 0)


@inlined
def claim(team, seat, members):
    """Return the number of a task that is now this thread's own, or -1 if all are taken.

    A thread looks in its own share of the tasks first: rows that it worked on in one operation are in its cache in the
    next one. What another has not begun it takes over.
    """
    for i in range(members):
        place = CLAIMS + (seat + i) % members * LINE
        word = load(team, place)
        if word & _LOW < word >> _HALF:
            word = fetch_add(team, place, 1)
            if word & _LOW < word >> _HALF:
                return word & _LOW
    return np.int64(-1)


@inlined
def publish(team, operation, stage, n_tasks, members):
    """Open an operation of `n_tasks` tasks for claims; the one before must be over."""
    locate_leader(team)
    team[OPERATION], team[STAGE] = operation, stage
    store(team, DONE, 0)
    for seat in range(members):
        stop = n_tasks * (seat + 1) // members
        store(team, CLAIMS + seat * LINE, stop << _HALF | n_tasks * seat // members)
