"""Threads that help whoever calls a single kernel from Python, and that nobody ever waits for.

A fork by OpenMP ends when the last thread has come and gone, and a sleeping thread may be woken on the CPU of the one
that waits for it, which costs 4 to 10 ms. Here the calling thread opens a job of tasks, as in `_team.py`, and does them
itself; helpers that are awake claim some. It waits only for tasks that a helper has begun, so one that is late, asleep
or gone (in a forked process) costs nothing but its help. A helper looks at what a job is about only after it has
claimed a task of it, and a job ends when its claimed tasks are done: a helper never sees arrays that are gone.

One job runs at a time. A second Python thread that calls a kernel meanwhile does its work alone: the same bits.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import config as _numba_config
from numba import get_num_threads, typeof

from fastnn.kernels._context import SLOTS, integers_at
from fastnn.kernels._jit import block, call_by_address, entry, inlined
from fastnn.kernels._team import (
    CLAIMS,
    DONE,
    LINE,
    beside_leader,
    claim,
    fetch_add,
    load,
    locate_leader,
    publish,
    step_aside,
    store,
    team_words,
    wait,
    which_cpu,
)

_config: Any = _numba_config

PATIENCE = 3000
"""How often a helper looks for the next job before it goes to sleep: about 1 ms."""

_NUMBER, _STOP, _FUNCTION = 0, LINE, 2 * LINE
_CONTEXT, _MEMBERS = _FUNCTION + 1, _FUNCTION + 1 + SLOTS
_ASLEEP = 3 * LINE

KINDS = "i[:] e[:] i i"
"""Arguments of a job's function: the context, an array of the float type, the task, the seat of the thread."""

_call = call_by_address(KINDS)

LIKE = np.empty(0)
"""Stands for the array of the float type: a call is the same for all, the function looks at nothing but its type."""


@inlined
def put(context, position, array):
    """Write a C-contiguous array into a context, as a vector (see `_context.py`)."""
    context[position], context[position + 1], context[position + 2] = array.ctypes.data, array.size, 1


@block
def _do_tasks(team, job, like, seat):
    """Do tasks of the open job until none is left."""
    seats = (team.size - CLAIMS) // LINE
    task = claim(team, seat, seats)
    while task >= 0:
        _call(job[_FUNCTION], integers_at(job, _CONTEXT), like, task, seat)
        fetch_add(team, DONE, 1)
        if seat == 0:
            locate_leader(team)
        task = claim(team, seat, seats)


@block
def lead(team, job, members, like, function, context, n_tasks):
    """Do `n_tasks` tasks of the function at an address, with `members` - 1 helpers at most."""
    if members == 1:
        for task in range(n_tasks):
            _call(function, context, like, task, 0)
        return
    begin(team, job, members, function, context, n_tasks)
    finish(team, job, like, n_tasks)


@inlined
def begin(team, job, members, function, context, n_tasks):
    """Open a job of `n_tasks` tasks for `members` - 1 helpers."""
    job[_FUNCTION], job[_MEMBERS] = function, members
    put(job, _CONTEXT, context)
    publish(team, 0, 0, n_tasks, members)
    fetch_add(job, _NUMBER, 1)


@inlined
def finish(team, job, like, n_tasks):
    """Do what is left of the job and wait for what helpers have begun."""
    _do_tasks(team, job, like, 0)
    turn = 0
    while load(team, DONE) < n_tasks:
        wait(team, turn)
        turn += 1


@entry
def attend(team, job, like, seat, last):
    """Help with jobs until none has come for a while; return the number of the last.

    On the leader's CPU a helper would only take its time away: it goes to another one.
    """
    turn = 0
    while turn < PATIENCE and load(job, _STOP) == 0:
        number = load(job, _NUMBER)
        if beside_leader(team):
            step_aside(team)
        elif number == last or seat >= job[_MEMBERS]:
            wait(team, turn)
        else:
            last = number
            _do_tasks(team, job, like, seat)
            turn = 0
        turn += 1
    store(job, _ASLEEP + seat * LINE, 1)
    return last


class Pool:
    """The helpers of one process, started when they are first wanted."""

    def __init__(self) -> None:
        seats = _config.NUMBA_NUM_THREADS
        self.team = team_words(seats)
        self.job = np.zeros(_ASLEEP + seats * LINE, np.int64)
        self._alone = contextlib.nullcontext((1, self.team, self.job, 1, LIKE))
        self._free = threading.Lock()
        self._helpers: list[threading.Thread] = []
        self._allowed: set[int] = set()
        self._bells, self._chairs = ([threading.Lock() for _ in range(seats)] for _ in range(2))
        for bell in self._bells:
            bell.acquire()

    def helping(self, n_tasks: int) -> contextlib.AbstractContextManager[tuple[Any, ...]]:
        """Wake who may help with a job of some tasks, for as long as it takes.

        Gives the number of seats (of which each needs scratch of its own) and what `lead` is called with first:
        team, job, threads that may take part, and what stands for an array of the float type.
        """
        members = min(get_num_threads(), n_tasks) if n_tasks > 1 else 1
        return self._alone if members == 1 else self._helped(members)

    @contextlib.contextmanager
    def _helped(self, members: int) -> Iterator[tuple[Any, ...]]:
        if self.job[_STOP] or self._free.locked():
            with self._alone as alone:
                yield alone
            return
        with self._free:  # the one way to take a lock that Ctrl-C cannot come between
            with contextlib.suppress(RuntimeError):  # no more threads to be had: the work is done without
                self._wake(members)
            yield len(self._bells), self.team, self.job, members, LIKE

    def _wake(self, members: int) -> None:
        """Ring for helpers that sleep and start those that are missing; Ctrl-C may come between any two lines."""
        asleep = [seat for seat in range(1, members) if self.job[_ASLEEP + seat * LINE] and self._bells[seat].locked()]
        others = self._other_cpus() if asleep else set()
        for seat in asleep:
            thread = self._helpers[seat - 1].native_id
            if others and thread:
                with contextlib.suppress(OSError):  # then the system decides
                    os.sched_setaffinity(thread, others)
            self._bells[seat].release()
        for seat in range(1, members):
            if seat > len(self._helpers) or self._helpers[seat - 1].ident is None:
                self._start(seat)

    def _other_cpus(self) -> set[int]:
        """Return the CPUs that helpers are to be woken on: not this one, where they might wait for milliseconds."""
        if which_cpu is None:
            return set()
        self._allowed = os.sched_getaffinity(0)
        return self._allowed - {which_cpu()}

    def _start(self, seat: int) -> None:
        compile_attend()
        helper = threading.Thread(target=self._help, args=(seat,), name=f"fastnn helper {seat}", daemon=True)
        self._helpers[seat - 1 : seat] = [helper]
        helper.start()

    def _help(self, seat: int) -> None:
        if not self._chairs[seat].acquire(blocking=False):
            return  # another sits there, whose start was interrupted: two would write into one scratch
        last = 0
        while not self.job[_STOP]:
            last = attend(self.team, self.job, LIKE, seat, last)
            if not self.job[_STOP]:
                self._bells[seat].acquire()
                self.job[_ASLEEP + seat * LINE] = 0
                if self._allowed:
                    with contextlib.suppress(OSError):
                        os.sched_setaffinity(0, self._allowed)

    def stop(self) -> None:
        """Send all helpers home: no thread may be in compiled code when Python takes it away."""
        self.job[_STOP] = 1
        for bell in self._bells:
            if bell.locked():
                bell.release()
        for helper in self._helpers:
            if helper.is_alive():
                helper.join(1.0)


def compile_attend() -> None:
    """Compile or load what helpers run, before there are any."""
    attend.compile(tuple(map(typeof, (_pool.team, _pool.job, LIKE, 0, 0))))


_pool = Pool()


def pool() -> Pool:
    """Return the helpers of this process."""
    return _pool


def _renew() -> None:
    """A forked process has none of its parent's threads."""
    global _pool
    _pool = Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
atexit.register(lambda: _pool.stop())
