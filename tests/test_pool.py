"""Helpers of single kernels: every task is done once and nobody is waited for, whoever comes, late or never."""

import os
import sys
import threading
import time

import numba
import numpy as np
import pytest
from support import run_python

from fastnn.kernels import _pool, _team, gemm, matmul
from fastnn.kernels._jit import Task, block

THREADS = numba.config.NUMBA_NUM_THREADS


@pytest.fixture
def small_tasks(threads, monkeypatch):
    """All threads, and products cut into tasks of next to nothing."""
    monkeypatch.setattr(gemm, "FORK_FLOPS", 1000)
    threads(THREADS)


@pytest.fixture
def fresh_pool(monkeypatch, small_tasks):
    pool = _pool.Pool()
    monkeypatch.setattr(_pool, "_pool", pool)
    yield pool
    pool.stop()


def product(rng, size=50):
    """Return (c, a, b, what c must become), numbers whose product is exact."""
    a, b = (rng.integers(-8, 9, size=(size, size)).astype(np.float32) for _ in range(2))
    return np.full((size, size), np.nan, np.float32), a, b, a @ b


def test_jobs_one_after_the_other_never_mix(fresh_pool, rng):
    """Helpers come while one job ends and the next one begins, with arrays of its own."""
    products = [product(rng, size) for size in rng.integers(20, 90, 50)]
    for _ in range(40):
        for c, a, b, _ in products:
            c[:] = np.nan
            matmul(c, a, b)
        for c, _, _, want in products:
            np.testing.assert_array_equal(c, want)


@block
def who_came(seats, like, task, seat):
    """Write down the seat that does a task, after a while; helpers take a hundred times as long."""
    state = task
    for _ in range(200_000 if seat > 0 else 2000):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
    seats[task] = state % 3 * 1000 + seat  # or the loop would be optimised away


@numba.njit(nogil=True)
def run(team, job, members, like, function, context, n_tasks):
    _pool.lead(team, job, members, like, function, context, n_tasks)


def jobs_with_help(pool, wanted):
    """Return in how many jobs helpers did tasks: as many as wanted, or fewer after 20 seconds."""
    function = Task(who_came, _pool.KINDS).address(np.dtype(float))
    came = np.zeros(1000, np.int64)
    end = time.monotonic() + 20
    helped = 0
    while time.monotonic() < end and helped < wanted:
        came[:] = -1
        with pool.helping(came.size) as (_, *team):
            run(*team, function, came, came.size)
        assert (came >= 0).all(), "the leader left before a task was done"
        helped += (came % 1000).max() > 0
    return helped


def wait_for_sleep(pool):
    end = time.monotonic() + 20
    while not all(pool.job[_pool._ASLEEP + seat * _pool.LINE] for seat in range(1, THREADS)):
        assert time.monotonic() < end, "a helper never goes to sleep"
        time.sleep(0.001)


def test_helpers_do_tasks_and_the_leader_waits_for_them(fresh_pool):
    """They do, where the system gives them a CPU within some seconds."""
    assert jobs_with_help(fresh_pool, 20), "no helper ever did a task"


def interrupt_at_line(pool, number):
    """Ask for help, and raise KeyboardInterrupt where the pool is at its line `number`; False if it has fewer."""
    seen = set()  # a line once: where a `with` ends, which no signal can come between, is the line of its beginning

    def trace(frame, event, _):
        if frame.f_code.co_filename != _pool.__file__ or frame.f_code.co_name == "_help":
            return None
        if event == "line" and frame.f_lineno not in seen:
            seen.add(frame.f_lineno)
            if len(seen) == number:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with pool.helping(THREADS):
            pass
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("asleep", [False, True], ids=["to be started", "asleep"])
def test_an_interrupt_costs_no_helper_and_doubles_none(asleep, fresh_pool, monkeypatch):
    number = 1
    while True:
        if asleep:
            assert jobs_with_help(fresh_pool, 1)
            wait_for_sleep(fresh_pool)
        else:
            fresh_pool.stop()
            fresh_pool = _pool.Pool()
            monkeypatch.setattr(_pool, "_pool", fresh_pool)
        if not interrupt_at_line(fresh_pool, number):
            break
        assert not fresh_pool._free.locked()
        assert len(fresh_pool._helpers) < THREADS
        assert jobs_with_help(fresh_pool, 1), f"nobody helps after an interrupt at line {number} of the pool's"
        number += 1
    assert number > 3
    fresh_pool.stop()


def test_two_threads_never_share_a_seat(fresh_pool, monkeypatch):
    """Where Ctrl-C comes while `Thread.start` waits, the thread is on its way and nobody knows."""
    ident, helpers = threading.Thread.ident, []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "ident", property(lambda thread: None))
        for _ in range(3):
            with fresh_pool.helping(2):
                helpers += fresh_pool._helpers
    assert threading.Thread.ident is ident
    assert len(helpers) == 3
    for helper in helpers[1:]:
        helper.join(20)
        assert not helper.is_alive()
    assert helpers[0].is_alive()


def test_helpers_that_never_come_hold_nobody_up(fresh_pool, rng, monkeypatch):
    monkeypatch.setattr(fresh_pool, "_wake", lambda members: None)
    c, a, b, want = product(rng)
    matmul(c, a, b)
    np.testing.assert_array_equal(c, want)


def test_a_helper_beyond_those_wanted_does_nothing(fresh_pool):
    """Called by hand, with nobody else there: what `numba.set_num_threads` says holds for helpers that are awake."""

    @numba.njit
    def begin(team, job, members, function, context):
        _pool.begin(team, job, members, function, context, context.size)

    function, came = Task(who_came, _pool.KINDS).address(np.dtype(float)), np.full(3, -1)
    team, job = fresh_pool.team, fresh_pool.job
    team[_team.WHICH_CPU] = 0  # or it would sleep, being on the leader's CPU
    begin(team, job, 1, function, came)
    assert (_pool.attend(team, job, _pool.LIKE, 1, 0), came.tolist()) == (0, [-1] * 3)
    begin(team, job, 2, function, came)
    assert (_pool.attend(team, job, _pool.LIKE, 1, 0), (came % 1000).tolist()) == (2, [1] * 3)


def test_helpers_sleep_and_are_woken(fresh_pool, rng):
    c, a, b, want = product(rng)
    for _ in range(3):
        c[:] = np.nan
        matmul(c, a, b)
        np.testing.assert_array_equal(c, want)
        wait_for_sleep(fresh_pool)
    fresh_pool.stop()
    for helper in fresh_pool._helpers:
        helper.join(20)
        assert not helper.is_alive()
    with fresh_pool.helping(THREADS) as (_, _, _, members, _):
        assert members == 1


def test_two_python_threads_at_once(fresh_pool, rng):
    products = [product(rng, 64) for _ in range(4)]
    wrong = []

    def work(c, a, b, want):
        for _ in range(300):
            c[:] = np.nan
            matmul(c, a, b)
            if not np.array_equal(c, want):
                wrong.append(c)

    workers = [threading.Thread(target=work, args=one) for one in products]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_a_job_that_fails_lets_the_next_one_in(fresh_pool):
    with pytest.raises(ZeroDivisionError), fresh_pool.helping(THREADS):
        raise ZeroDivisionError
    with fresh_pool.helping(THREADS) as (_, _, _, members, _):
        assert members == THREADS


FORK = """
import os, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from fastnn.kernels import _pool, gemm, matmul
gemm.FORK_FLOPS = 1000
a = np.arange(3600.0).reshape(60, 60) % 7
c = np.zeros((60, 60))
matmul(c, a, a)
child = os.fork()
c[:] = 0
for _ in range(100):
    matmul(c, a, a)
if child == 0:
    helpers = _pool.pool()._helpers
    os._exit(0 if (c == a @ a).all() and helpers and all(helper.is_alive() for helper in helpers) else 1)
print(os.waitpid(child, 0)[1], (c == a @ a).all())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_has_helpers_of_its_own():
    assert run_python(FORK, NUMBA_NUM_THREADS="3").split() == ["0", "True"]


AT_EXIT = """
import atexit

@atexit.register
def at_last():
    "What is registered first is called last."
    helper = _pool.pool()._helpers[0]
    helper.join(20)
    print(helper.is_alive())
"""


def test_a_process_ends_while_helpers_look_for_work():
    script = FORK[: FORK.index("child")] + "print(matmul(c, a, a))"
    for _ in range(5):
        assert run_python(AT_EXIT + script, NUMBA_NUM_THREADS="5").split() == ["None", "False"]
