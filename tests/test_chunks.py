"""Element-wise kernels called from Python: helpers come where there is work for them, and every chunk is done once."""

import time

import numba
import numpy as np
import pytest

from fastnn import kernels
from fastnn.kernels import _chunks, _pool
from fastnn.kernels._blocks import copy_past_caches
from fastnn.kernels._context import doubles_at
from fastnn.kernels._jit import Task, block

THREADS = numba.config.NUMBA_NUM_THREADS


@pytest.fixture
def wanted(monkeypatch, threads):
    """Every number of threads that a kernel wanted beside its caller's."""
    threads(THREADS)
    found = []

    def note(self, members):
        found.append(members)
        return self._alone

    monkeypatch.setattr(_pool.Pool, "_helped", note)
    return found


def calls(size):
    """Every element-wise kernel on arrays of some size, a multiple of 8."""
    a, b, c, d = (np.full((size // 8, 8), value, np.float32) for value in (0.0, 0.5, 0.25, 0.125))
    return {
        "activation_forward": lambda: kernels.activation_forward(a, b, "tanh"),
        "activation_backward": lambda: kernels.activation_backward(a, b, c, d, "tanh"),
        "softmax_forward": lambda: kernels.softmax_forward(a, b),
        "dropout_forward": lambda: kernels.dropout_forward(a, b, 0.5, 0, 0, 0),
        "squared_error": lambda: kernels.squared_error(a, b, c),
        "activation_statistics": lambda: kernels.activation_statistics(np.zeros(4), b, c, "tanh"),
        "penalty": lambda: kernels.penalty(b, 0.1, 0.1),
        "global_norm": lambda: kernels.global_norm(b),
        "clip_by_value": lambda: kernels.clip_by_value(a, 1.0),
        "soft_threshold": lambda: kernels.soft_threshold(a, 0.1),
        "adam_update": lambda: kernels.adam_update(a, b.copy(), c.copy(), d, 0.1, 0.9, 0.99, 1e-8, 1),
    }


@pytest.mark.parametrize("name", calls(8))
def test_helpers_are_wanted_where_there_is_work(name, wanted):
    for helped in (0, 1, 2, 5):
        wanted.clear()
        calls(helped * _chunks.HELPED_CHUNKS * _chunks.CHUNK + 8)[name]()
        members = min(helped, THREADS)
        assert wanted == ([members] if members > 1 else [])


@block
def who_came(p, element, task, seat):
    """Count how often a task is done, and write down who did it; helpers take a hundred times as long."""
    state, sums = task, doubles_at(p, _chunks.SUMS)
    for _ in range(200_000 if seat > 0 else 2000):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
    sums[2 * task] += 1.0
    sums[2 * task + 1] = seat + 0.25 * (state % 2)  # or the loop would be optimised away


def test_helpers_share_the_tasks(threads):
    """They do, where the system gives them a CPU within some seconds; no task is left out or done twice."""
    threads(THREADS)
    task, like = Task(who_came, _pool.KINDS), np.empty(10 * _chunks.HELPED_CHUNKS * _chunks.CHUNK, np.float32)
    sums, helped, end = np.empty((1000, 2)), 0, time.monotonic() + 20
    while time.monotonic() < end and helped < 20:
        sums[:] = 0.0
        _chunks.share(task, (like,), n_tasks=len(sums), sums=sums.reshape(-1))
        np.testing.assert_array_equal(sums[:, 0], 1.0)
        helped += sums[:, 1].max() >= 1.0
    assert helped > 0, "no helper ever did a task"


@numba.njit
def past_caches(target, source, start, count):
    copy_past_caches(target[start : start + count], source)


def test_copies_past_the_caches_are_copies(dtype, guard):
    """From every place within a line, of every length up to some lines; no neighbour is written."""
    source = guard.input(np.arange(1, 101), dtype)
    for start in range(20):
        for count in range(81):
            target = guard.output(120, dtype)
            past_caches(target, source, start, count)
            guard.check()
            assert np.array_equal(target[start : start + count], source[:count]), (start, count)
            assert np.isnan(target[:start]).all(), (start, count)
            assert np.isnan(target[start + count :]).all(), (start, count)
