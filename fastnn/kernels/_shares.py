"""Which rows of a batch each thread begins with: the faster it was, the more.

Cores are not alike: a laptop has fast and slow ones, and another program may have half of one. Where each thread
carries some rows through all stages, all would wait for the slowest. So the time that a row took is kept for each seat
of the team, and the next batch is cut in proportion to their speeds. It is cut between blocks of the loss, so that no
number depends on where.
"""

from __future__ import annotations

from fastnn.kernels._jit import block, inlined
from fastnn.kernels._team import CLAIMS, LINE, load, store
from fastnn.kernels.layout import MEMBERS, ROWS
from fastnn.kernels.partition import blocks_of_chunk, by_chunks, parts_of_rows

FIRST, LAST, PACE = 1, 2, LINE // 2
"""Words behind a seat's claims: its first block and the one behind its last, and, on a line of its own, what a row took
it, in 1/256 ns; 0 where it has not carried any."""

OLD, ALL = 3, 4
"""Of a new pace OLD parts of ALL are the old one, and a row that took more than twice as long, since the system had
sent its thread away, counts as twice."""


@inlined
def by_pace(c):
    """Return whether the batch at hand is cut by the speed of threads: not where each part has a sum of its own."""
    return c[MEMBERS] > 1 and not by_chunks(c) and parts_of_rows(c) == c[MEMBERS]


@block
def share_out(team, blocks, members):
    """Say which of the blocks each seat begins with, one at least; alike until all have carried some rows."""
    speeds = 0.0
    known = True
    for seat in range(members):
        pace = load(team, CLAIMS + seat * LINE + PACE)
        known = known and pace > 0
        speeds += 1.0 / max(pace, 1)
    first, speed = 0, 0.0
    for seat in range(members):
        place = CLAIMS + seat * LINE
        last = blocks * (seat + 1) // members
        if known:
            speed += 1.0 / team[place + PACE]
            last = int(blocks * speed / speeds + 0.5)
        last = max(first + 1, min(last, blocks - (members - 1 - seat)))
        team[place + FIRST], team[place + LAST] = first, last
        first = last


@inlined
def blocks_of_part(c, team, t):
    """Return (first block, last block + 1) of part `t` of the batch at hand."""
    if by_pace(c):
        place = CLAIMS + t * LINE
        return team[place + FIRST], team[place + LAST]
    return blocks_of_chunk(c[ROWS], parts_of_rows(c), t)


@inlined
def note_pace(team, seat, rows, nanoseconds):
    """Note how long some rows took the thread on a seat."""
    place = CLAIMS + seat * LINE + PACE
    old, new = team[place], 256 * nanoseconds // rows
    if old > 0:
        new = (OLD * old + (ALL - OLD) * min(new, 2 * old)) // ALL
    store(team, place, new)
