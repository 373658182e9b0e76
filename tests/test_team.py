"""The team of threads: every task is done once, whoever comes, late or never."""

import os
import time

import numba
import numpy as np
import pytest
from numba import prange

from fastnn.kernels import _team
from fastnn.kernels._team import DONE, FINISHED, OPERATION, SEATS, STAGE

OPERATIONS = 3000


@numba.njit(nogil=True)
def work(team, counts, seats, seat, members):
    done = 0
    task = _team.claim(team, seat, members)
    while task >= 0:
        counts[team[OPERATION], task] += 1
        seats[seat] += 1 + 0 * team[STAGE]
        _team.fetch_add(team, DONE, 1)
        done += 1
        task = _team.claim(team, seat, members)
    return done


@numba.njit(nogil=True)
def lead(team, counts, seats, sizes, members, sums):
    for operation in range(sizes.size):
        _team.publish(team, operation, 0, sizes[operation], members)
        work(team, counts, seats, 0, members)
        turn = 0
        while _team.load(team, DONE) < sizes[operation]:
            _team.wait(team, turn)
            turn += 1
        sums[operation] = counts[operation].sum()  # what the others wrote is seen by now
    _team.store(team, FINISHED, 1)


@numba.njit(nogil=True, parallel=True)
def run(team, counts, seats, sizes, members, sums, comers):
    for _ in prange(comers):
        seat = _team.fetch_add(team, SEATS, 1)
        if seat == 0:
            lead(team, counts, seats, sizes, members, sums)
        else:
            turn = 0
            while _team.load(team, FINISHED) == 0:
                turn = 0 if work(team, counts, seats, seat, members) > 0 else turn + 1
                _team.rest(team, turn)


@pytest.mark.parametrize(("members", "comers"), [(1, 1), (2, 2), (3, 1), (7, 7), (64, 7)])
def test_every_task_is_done_once(members, comers):
    sizes = np.random.default_rng(members).integers(1, 40, OPERATIONS)
    counts, seats = np.zeros((OPERATIONS, 40), np.int64), np.zeros(members, np.int64)
    team, sums = _team.team_words(members), np.zeros(OPERATIONS, np.int64)
    before = numba.get_num_threads()
    numba.set_num_threads(min(comers, numba.config.NUMBA_NUM_THREADS))
    try:
        run(team, counts, seats, sizes, members, sums, comers)
    finally:
        numba.set_num_threads(before)
    expected = np.arange(40) < sizes[:, None]
    assert (counts == expected).all()
    assert (sums == sizes).all(), "the leader went on before a task was done"
    assert seats.sum() == sizes.sum()


def test_shares_are_the_seats_own_and_cover_all():
    team = _team.team_words(3)
    start = numba.njit(lambda team, n: _team.publish(team, 0, 0, n, 3))
    take = numba.njit(lambda team, seat: _team.claim(team, seat, 3))
    start(team, 9)
    assert [take(team, 1) for _ in range(4)] == [3, 4, 5, 6], "its own share first, then the next seat's"
    assert [take(team, 2) for _ in range(3)] == [7, 8, 0]
    assert [take(team, 0) for _ in range(4)] == [1, 2, -1, -1]
    start(team, 2)
    assert sorted(take(team, 2) for _ in range(3)) == [-1, 0, 1]


def test_a_thread_that_cannot_leave_the_leaders_cpu_sleeps():
    """Where the system says on which CPU a thread is; on another CPU it never does."""
    team = _team.team_words(1)
    if team[_team.WHICH_CPU] == 0:
        pytest.skip("the system does not tell")

    @numba.cfunc("int32(int32)")
    def here(_):
        return 5

    @numba.cfunc("int32(int32)")
    def nap(microseconds):
        return microseconds

    team[_team.WHICH_CPU] = here.address
    team[_team.GET_AFFINITY] = 0  # as where the system has no such function
    rest = numba.njit(lambda team, turn: _team.rest(team, turn))
    lead_here = numba.njit(lambda team: _team.locate_leader(team))
    lead_here(team)
    assert team[_team.LEADER_CPU] == 5

    team[_team.SLEEP] = nap.address
    rest(team, 0)
    team[_team.LEADER_CPU] = 4
    team[_team.SLEEP] = 0  # a call of it would end the process
    rest(team, 0)
    rest(team, _team.SPINS + 1)


def test_a_thread_leaves_the_leaders_cpu():
    """It is moved at once, and may use all CPUs it might before."""
    team = _team.team_words(1)
    if team[_team.WHICH_CPU] == 0 or team[_team.SET_AFFINITY] == 0:
        pytest.skip("the system does not tell")
    rest = numba.njit(lambda team, turn: _team.rest(team, turn))
    lead_here = numba.njit(lambda team: _team.locate_leader(team))
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("one CPU only")
    for _ in range(20):
        lead_here(team)
        rest(team, 0)
        assert _team.which_cpu() != team[_team.LEADER_CPU]
        assert os.sched_getaffinity(0) == allowed


def test_a_thread_with_one_cpu_stays_and_sleeps():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("the system does not tell")
    team = _team.team_words(1)
    rest = numba.njit(lambda team, turn: _team.rest(team, turn))
    lead_here = numba.njit(lambda team: _team.locate_leader(team))
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {_team.which_cpu()})
        lead_here(team)
        before = time.perf_counter()
        rest(team, 0)
        assert time.perf_counter() - before >= _team.NAP * 1e-6
        assert os.sched_getaffinity(0) == {team[_team.LEADER_CPU]}
    finally:
        os.sched_setaffinity(0, allowed)
