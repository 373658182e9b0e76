"""Many steps in one compiled call: gather, forward, loss, backward, update; nothing is allocated in the loop.

Each operation of a step is cut into tasks by its sizes alone (`partition.py`), and the tasks run one after the other
or over threads: the same bits either way. What a call works on, and where it finds it, is in `layout.py`. All
activations, gradients of activations and packing buffers live in one flat workspace; a stage's rows and columns are
found by offsets into it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection

import numba
import numpy as np
from numba import types

from fastnn.kernels import activation, dropout, formulas, gemm, loss, update
from fastnn.kernels._blocks import copy
from fastnn.kernels._compile import announce, compile_tasks
from fastnn.kernels._context import double_rows_at, doubles_at, float_rows_at, floats_at, integer_rows_at, integers_at
from fastnn.kernels._gather import fetch
from fastnn.kernels._jit import Task, block, entry, inlined
from fastnn.kernels._pool import KINDS, LIKE, begin, compile_attend, finish, pool
from fastnn.kernels._shares import blocks_of_part, by_pace, note_pace, share_out
from fastnn.kernels._simd import finish_writes, flush_subnormals, restore_floats
from fastnn.kernels._stages import backward_block, forward_block, loss_of_block, stage_task
from fastnn.kernels._team import (
    DONE,
    FINISHED,
    OPERATION,
    SEATS,
    STAGE,
    claim,
    fetch_add,
    load,
    now,
    publish,
    rest,
    store,
    wait,
)
from fastnn.kernels._weights import gradient_block, parameter_task, updates_at_once, weight_task
from fastnn.kernels.activation import call_activate, call_softmax
from fastnn.kernels.gemm import split
from fastnn.kernels.layout import (
    ACTIVATE,
    APPLY,
    BATCH,
    BIAS,
    BLOCK_FLOATS,
    BLOCK_TASKS,
    CLIP_NORM,
    DENSE,
    DX,
    EVALUATE,
    FIRST_ROW,
    FIRST_STEP,
    FLOATS,
    FORWARD,
    GRADIENT,
    GRADIENT_SCALE,
    HYPER,
    KIND,
    MEMBERS,
    MODE,
    N_IN,
    N_OUT,
    N_ROWS,
    N_STEPS,
    OP_BACKWARD,
    OP_CHUNKS,
    OP_FORWARD,
    OP_GATHER,
    OP_LOSS,
    OP_NORM,
    OP_PENALTY,
    OP_ROWS,
    OP_UPDATE,
    OP_WEIGHTS,
    ORDER,
    OUT,
    OUTPUT,
    PARAMS,
    PARTIAL,
    PARTS,
    PAST_CACHES,
    PAST_TIME,
    PENALTY_SCALE,
    PER_WEIGHT,
    PIECE_ROWS,
    RATES,
    REPORT,
    REPORT_CORRECT,
    REPORT_LOSS,
    REPORT_NORM,
    REPORT_PENALTY,
    REPORT_ROWS,
    REPORT_WEIGHT,
    RESULT,
    ROW,
    ROW_TASKS,
    ROWS,
    ROWS_STAY,
    RUN_MEMBER,
    RUN_TASK,
    SIGMOID_FOLDED,
    SOFTMAX,
    SOFTMAX_FOLDED,
    SOFTMAX_ROWS,
    STAGES,
    STEP,
    TEAM,
    THREADS,
    TOTAL_WEIGHT,
    TRAIN,
    TRIED,
    USUAL_TIME,
    WANT_DX,
    WANT_OUT,
    WEIGHT,
    WEIGHT_TASKS,
    WEIGHTS,
    WORK,
    X,
)
from fastnn.kernels.partition import (
    blocks_of_piece,
    by_chunks,
    loss_blocks,
    parts_of_rows,
    pieces_of_chunk,
    row_tasks,
    rows_of_blocks,
    rows_of_chunk,
    stage_tasks,
)

_SIGMOID = formulas.SIGMOID
_LR, _BETA1, _BETA2, _FIRST = update.LR, update.BETA1, update.BETA2, update.FIRST
_CORRECTION1, _CORRECTION2 = update.CORRECTION1, update.CORRECTION2
_LONG = np.int64(1 << 62)
FIRST_TRIAL, TRIAL, TRIAL_EVERY = 4, 4, 256
"""Steps before the first trial of the two ways for weights, steps of each way, and steps from one trial to the next."""


@block
def _rows_task(c, params, t, seat):
    """Carry part `t` of the batch's rows through all stages, to the loss, and back.

    A part that is a chunk with a gradient of its own goes by pieces. Where nobody wants what rows leave behind, all
    pieces of a thread lie in the same place of the workspace, one after the other: it stays in the cache.
    """
    team, rows = integers_at(c, TEAM), c[ROWS]
    first, last = blocks_of_part(c, team, t)
    pieces, place = 1, -1
    if by_chunks(c):
        chunks = parts_of_rows(c)
        pieces, each = pieces_of_chunk(c[PIECE_ROWS], rows, chunks), chunks // c[MEMBERS]
        if c[ROWS_STAY] == 0 and pieces * each > 1:
            place = rows_of_chunk(rows, chunks, seat * each)[0]
    began = now(team)
    for piece in range(pieces):
        from_block, to_block = blocks_of_piece(first, last, pieces, piece)
        i0, i1 = rows_of_blocks(rows, from_block, to_block)
        base = i0 - place if place >= 0 else 0
        _carry(c, params, from_block, to_block, base, seat)
        if by_chunks(c):
            _chunk_gradients(c, params, t, i0 - base, i1 - base, base, piece > 0, seat)
    if by_pace(c):
        i0, i1 = rows_of_blocks(rows, first, last)
        note_pace(team, seat, i1 - i0, now(team) - began)


@block
def _carry(c, params, first, last, base, seat):
    """Carry the rows of blocks [first, last) of the loss through all stages, to the loss, and back.

    The first row of the workspace is row `base` of the batch.
    """
    stages = integer_rows_at(c, STAGES)
    i0, i1 = rows_of_blocks(c[ROWS], first, last)
    i0, i1 = i0 - base, i1 - base
    fetch(c, params, i0, i1, base)
    for s in range(stages.shape[0]):
        forward_block(c, params, s, i0, i1, 0, stages[s, N_OUT], base, seat)
    if c[MODE] == FORWARD:
        return
    for index in range(first, last):
        loss_of_block(c, params, index, base, seat)
    if c[MODE] == EVALUATE:
        return
    for s in range(stages.shape[0] - 1, -1 if c[WANT_DX] != 0 else 0, -1):
        backward_block(c, params, s, i0, i1, 0, stages[s, N_IN], base, seat)


@block
def _chunk_gradients(c, params, t, b0, b1, base, goes_on, seat):
    """Sum the gradients of rows [b0, b1) of the workspace, which are of chunk `t`, or go on with its sums."""
    stages, work = integer_rows_at(c, STAGES), floats_at(c, WORK, params)
    into = c[PARTS] + t * params.size
    for s in range(stages.shape[0]):
        if stages[s, KIND] == DENSE:
            k, n, bias = stages[s, N_IN], stages[s, N_OUT], stages[s, BIAS]
            gradient_block(
                c, params, s, 0, k, 0, n, b0, b1, base, work, into + stages[s, WEIGHT], n,
                into + bias if bias >= 0 else -1, goes_on, False, seat,
            )  # fmt: skip


@block
def run_task(c, params, op, t, s, seat):
    """Do task `t` of operation `op` (on stage `s`) for the batch at hand, with the scratch of one seat of the team."""
    if op == OP_ROWS:
        _rows_task(c, params, t, seat)
    elif op == OP_GATHER:
        first, last = split(c[ROWS], row_tasks(c[ROWS], integer_rows_at(c, STAGES)[0, N_IN]), t, 1)
        fetch(c, params, first, last, 0)
    elif op == OP_FORWARD or op == OP_BACKWARD:
        stage_task(c, params, op, t, s, seat)
    elif op == OP_LOSS:
        loss_of_block(c, params, t, 0, seat)
    elif op == OP_WEIGHTS:
        weight_task(c, params, t, seat)
    else:
        parameter_task(c, params, t, op)
    if c[PAST_CACHES] != 0:
        finish_writes()


TASK = Task(run_task, "i[:] e[:] i i i i")
_call_task = TASK.call


# A step: its operations in order.


@block
def _work(c, params, team, seat):
    """Do tasks of the open operation until none is left; return how many."""
    count = 0
    task = claim(team, seat, c[MEMBERS])
    while task >= 0:
        _call_task(c[RUN_TASK], c, params, team[OPERATION], task, team[STAGE], seat)
        fetch_add(team, DONE, 1)
        count += 1
        task = claim(team, seat, c[MEMBERS])
    return count


@block
def _run(c, params, op, n_tasks, s):
    """Run the tasks of one operation, by the team where there are several of both."""
    if n_tasks == 1 or c[MEMBERS] == 1:
        for t in range(n_tasks):
            _call_task(c[RUN_TASK], c, params, op, t, s, 0)
        return
    team = integers_at(c, TEAM)
    publish(team, op, s, n_tasks, c[MEMBERS])
    _work(c, params, team, 0)
    turn = 0
    while load(team, DONE) < n_tasks:
        wait(team, turn)
        turn += 1


@block
def _sum_partial(c, n):
    """Add up what the tasks left, in their order."""
    partial = double_rows_at(c, PARTIAL)
    first, second = 0.0, 0.0
    for t in range(n):
        first += partial[t, 0]
        second += partial[t, 1]
    return first, second


@block
def _total_weight(c):
    """Return the sum of the weights of the batch."""
    weights, order = doubles_at(c, WEIGHTS), integers_at(c, ORDER)
    if weights.size == 0:
        return float(c[ROWS])
    total = 0.0
    for b in range(c[ROWS]):
        total += weights[order[c[ROW] + b] if order.size else c[ROW] + b]
    return total


@block
def _carry_rows(c, params, learning):
    """Gather the batch, carry it through all stages to the loss, and the gradient back."""
    stages = integer_rows_at(c, STAGES)
    if c[ROW_TASKS] > 0:
        if by_pace(c):
            share_out(integers_at(c, TEAM), loss_blocks(c[ROWS]), c[MEMBERS])
        _run(c, params, OP_ROWS, parts_of_rows(c), 0)
        return
    _run(c, params, OP_GATHER, row_tasks(c[ROWS], stages[0, N_IN]), 0)
    for s in range(stages.shape[0]):
        _run(c, params, OP_FORWARD, stage_tasks(stages[s], c[ROWS], False, c[THREADS]), s)
    if c[MODE] != FORWARD:
        _run(c, params, OP_LOSS, loss_blocks(c[ROWS]), 0)
    if learning:
        for s in range(stages.shape[0] - 1, -1 if c[WANT_DX] != 0 else 0, -1):
            _run(c, params, OP_BACKWARD, stage_tasks(stages[s], c[ROWS], True, c[THREADS]), s)


@block
def _learn(c, params, rate, report):
    """Gradients of all weights, unless they are there; and, but for GRADIENT, penalty, global norm, optimizer step."""
    numbers, floats, hyper = double_rows_at(c, BLOCK_FLOATS), doubles_at(c, FLOATS), doubles_at(c, HYPER)
    n_tasks, weight_tasks = integers_at(c, BLOCK_TASKS).size - 1, integer_rows_at(c, WEIGHT_TASKS).shape[0]
    how, tasks = (OP_CHUNKS, n_tasks) if by_chunks(c) else (OP_WEIGHTS, weight_tasks)
    if c[MODE] == GRADIENT:
        _run(c, params, how, tasks, 0)
        return
    floats[PENALTY_SCALE] = 1.0
    if floats[PER_WEIGHT] != 0.0:
        floats[PENALTY_SCALE] = 1.0 / floats[TOTAL_WEIGHT] if floats[TOTAL_WEIGHT] > 0.0 else 0.0
    penalised = False
    for u in range(numbers.shape[0]):
        penalised = penalised or numbers[u, 0] > 0.0 or numbers[u, 1] > 0.0 or numbers[u, 3] > 0.0
    if penalised:
        _run(c, params, OP_PENALTY, n_tasks, 0)
        report[REPORT_PENALTY] = _sum_partial(c, n_tasks)[0]
    floats[GRADIENT_SCALE] = 1.0
    hyper[_LR] = rate
    hyper[_CORRECTION1] = 1.0 - hyper[_BETA1] ** (c[STEP] + 1)
    hyper[_CORRECTION2] = math.sqrt(1.0 - hyper[_BETA2] ** (c[STEP] + 1))
    hyper[_FIRST] = 1.0 if c[STEP] == 0 else 0.0
    if c[MODE] == TRAIN:
        _run(c, params, how, tasks, 0)
    if updates_at_once(c):
        return
    _run(c, params, OP_NORM, n_tasks, 0)
    norm = math.sqrt(_sum_partial(c, n_tasks)[0])
    report[REPORT_NORM] = norm
    if norm > floats[CLIP_NORM]:
        floats[GRADIENT_SCALE] = floats[CLIP_NORM] / norm
    _run(c, params, OP_UPDATE, n_tasks, 0)


@block
def _write_result(c, params, i):
    """Copy the outputs (as probabilities where softmax or sigmoid is folded), or the gradient of the inputs."""
    result, work, stages = float_rows_at(c, RESULT, params), floats_at(c, WORK, params), integer_rows_at(c, STAGES)
    last = stages[stages.shape[0] - 1]
    n = stages[0, N_IN] if c[WANT_DX] != 0 else last[N_OUT]
    base = c[DX] if c[WANT_DX] != 0 else last[OUT]
    for b in range(c[ROWS]):
        row = result[i * c[BATCH] + b]
        copy(row, work[base + b * n : base + (b + 1) * n])
        if c[WANT_DX] != 0:
            continue
        if c[OUTPUT] == SOFTMAX_FOLDED or (c[OUTPUT] == SOFTMAX and c[MODE] == FORWARD):
            call_softmax(c[SOFTMAX_ROWS], row, n)
        elif c[OUTPUT] == SIGMOID_FOLDED:
            call_activate(c[ACTIVATE], _SIGMOID, row)


@inlined
def _choose_way(c):
    """Before a step, say which way updated weights take: into this core's caches as usual, or past them to memory.

    All threads read all weights, and each updates a part. To write a line that another core has read, this one has to
    take it away first, which costs a round trip: between chiplets of a Zen 4 38 ns a line with a dozen under way, 9 ns
    within one. Past the caches it is 2.5 ns, but then all threads read the line from memory: with 1.4 MB of weights
    13% slower within a chiplet, 17% faster between two. So both are tried, TRIAL steps of each of which the first does
    not count, and again after TRIAL_EVERY steps, since threads wander. The numbers are the same in either way.
    """
    tried = c[TRIED] - FIRST_TRIAL
    if tried == 0:
        c[PAST_CACHES], c[USUAL_TIME], c[PAST_TIME] = 0, _LONG, _LONG
    elif tried == TRIAL:
        c[PAST_CACHES] = 1
    elif tried == 2 * TRIAL:
        c[PAST_CACHES] = 1 if c[PAST_TIME] < c[USUAL_TIME] else 0


@inlined
def _count_step(c, nanoseconds):
    """After a step of a whole batch, count it; where ways are tried, the fastest step of each is what it takes."""
    tried = c[TRIED] - FIRST_TRIAL
    if 0 <= tried < 2 * TRIAL and tried % TRIAL != 0:
        way = USUAL_TIME + c[PAST_CACHES]
        c[way] = min(c[way], nanoseconds)
    c[TRIED] = c[TRIED] + 1 if tried < TRIAL_EVERY else FIRST_TRIAL


@block
def _run_steps(c, params):
    """Run c[N_STEPS] steps over consecutive batches of c[N_ROWS] rows, then of as many more, or of the same again.

    Those of another pass are the next ones in ORDER, or where there is none the same ones. Training stops at a step
    whose loss is not finite.
    """
    report, rates = double_rows_at(c, REPORT), doubles_at(c, RATES)
    of_rows = c[MODE] != APPLY
    learning = c[MODE] == TRAIN or c[MODE] == GRADIENT
    begin, row = c[FIRST_ROW], 0
    several = c[MODE] == TRAIN and c[MEMBERS] > 1
    for i in range(c[N_STEPS]):
        if row >= c[N_ROWS]:
            row = 0
            if integers_at(c, ORDER).size:
                begin += c[N_ROWS]
        c[STEP] = c[FIRST_STEP] + i
        c[ROW] = begin + row
        c[ROWS] = min(c[BATCH], c[N_ROWS] - row)
        row += c[BATCH]
        counts = several and i > 0 and c[ROWS] == c[BATCH]  # in the first step of a call helpers are still coming
        began = 0
        if counts:
            _choose_way(c)
            began = now(integers_at(c, TEAM))
        total = doubles_at(c, FLOATS)[TOTAL_WEIGHT] = _total_weight(c)
        if of_rows:
            _carry_rows(c, params, learning)
        if of_rows and c[MODE] != FORWARD:
            report[i, REPORT_LOSS], report[i, REPORT_CORRECT] = _sum_partial(c, loss_blocks(c[ROWS]))
            report[i, REPORT_WEIGHT] = total
        if learning or not of_rows:
            if c[MODE] == TRAIN and not math.isfinite(report[i, REPORT_LOSS]):
                return
            _learn(c, params, rates[i] if rates.size else 0.0, report[i])
        if counts:
            _count_step(c, now(integers_at(c, TEAM)) - began)
        if c[WANT_OUT] != 0 or c[WANT_DX] != 0:
            _write_result(c, params, i)
        report[i, REPORT_ROWS] = c[ROWS]


LEADS = -1


@block
def member(c, of_type, task, _):
    """Be one of the team: the leader (task `LEADS`) runs the steps, the others do tasks of its operations till then.

    For a helper (see `_pool.py`) that is one task of a job; its seat is the next one free in this team.
    """
    params, team = floats_at(c, PARAMS, of_type), integers_at(c, TEAM)
    floats_before = flush_subnormals()
    if task == LEADS:
        _run_steps(c, params)
        store(team, FINISHED, 1)
    else:
        seat = fetch_add(team, SEATS, 1)
        turn = 0
        while load(team, FINISHED) == 0:
            rest(team, turn)
            turn = 0 if _work(c, params, team, seat) > 0 else turn + 1
    restore_floats(floats_before)


MEMBER = Task(member, KINDS)
_call_member = MEMBER.call


@entry
def _execute_alone(c, params):
    _call_member(c[RUN_MEMBER], c, params, LEADS, 0)


@entry
def _execute_together(team, job, members, of_any_type, c):
    words = integers_at(c, TEAM)
    words[SEATS] = 1
    store(words, FINISHED, 0)
    begin(team, job, members, c[RUN_MEMBER], c, members - 1)
    _call_member(c[RUN_MEMBER], c, of_any_type, LEADS, 0)
    finish(team, job, of_any_type, members - 1)


@entry
def forward_rows(c, x, out):
    """Write the outputs for the few rows of x, on this thread, and return True; False where x is not finite.

    Parameters
    ----------
    c : array of int64 (N_CONTEXT,), in and out
        A context of mode FORWARD with one member and one step, kept from call to call: only rows change in it.
    x : array (rows, inputs), in
    out : array (rows, outputs), out
        Made by Python: to return one costs 0.3 us more.
    """
    total = x.dtype.type(0)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            total += x[i, j] * x.dtype.type(0)  # 0 where x is finite, else NaN
    if total != 0:
        return False
    c[N_ROWS] = x.shape[0]
    c[X], c[X + 1] = x.ctypes.data, x.shape[0]
    c[RESULT], c[RESULT + 1] = out.ctypes.data, x.shape[0]
    _call_member(c[RUN_MEMBER], c, floats_at(c, PARAMS, x), LEADS, 0)
    return True


@functools.cache
def compile_entries(dtype: np.dtype) -> None:
    """Compile or load what `execute` calls for floats of `dtype`; a network of another size compiles nothing."""
    words, element = types.Array(types.int64, 1, "C"), numba.from_dtype(dtype)
    _execute_alone.compile((words, types.Array(element, 1, "C")))
    _execute_together.compile((words, words, types.int64, numba.typeof(LIKE), words))
    compile_attend()


@functools.cache
def compile_forward_rows(dtype: np.dtype) -> None:
    """Compile or load `forward_rows` for floats of `dtype`."""
    rows = types.Array(numba.from_dtype(dtype), 2, "C")
    forward_rows.compile((types.Array(types.int64, 1, "C"), rows, rows))


def execute(c: np.ndarray, params: np.ndarray) -> None:
    """Run what a context asks for, on c[MEMBERS] threads at most: those that come in time.

    Parameters
    ----------
    c : array of int64 (N_CONTEXT,), in and out
        What to do and on what, as named in `layout.py`.
    params : array (P,), in and out
        All parameters of the network.
    """
    compile_entries(params.dtype)
    wanted = int(c[MEMBERS])
    if wanted == 1:
        _execute_alone(c, params)
        return
    with pool().helping(wanted) as (_, team, job, members, of_any_type):
        if members == 1:
            _execute_alone(c, params)
        else:
            _execute_together(team, job, members, of_any_type, c)


TASKS = {
    MEMBER: 2.6, TASK: 4.8, gemm.GEMM: 3.1, activation.ACTIVATE: 0.6, activation.MULTIPLY_SLOPE: 0.5,
    dropout.MULTIPLY_MASK: 0.3, loss.CLASS_LOSS: 1.5, loss.VALUE_LOSS: 0.8, activation.SOFTMAX: 0.3,
    **dict.fromkeys(update.UPDATES.values(), 0.4),
}  # fmt: skip
"""Every task that a context may have the address of -> seconds that it takes to compile on a core of a Zen 4."""

ENTRY_SECONDS = 1.0
"""How long all entries take, and what else this process has to compile and load at its first call."""


@functools.cache
def addresses(dtype: np.dtype, output: int, loss_code: int | None, optimizer: int | None) -> tuple[int, ...]:
    """Return what stands at RUN_MEMBER .. SOFTMAX_ROWS: where the compiled blocks of one float type lie.

    What this kind of output has no use for, or a loss or an optimizer of None, is not compiled: its address is 0.
    """
    softmax = activation.SOFTMAX if output in (SOFTMAX, SOFTMAX_FOLDED) else None
    loss_rows = None if loss_code is None else loss.loss_task(loss_code)
    rule = None if optimizer is None else update.UPDATES[optimizer]
    wanted = (
        MEMBER, TASK, gemm.GEMM, activation.ACTIVATE, activation.MULTIPLY_SLOPE, dropout.MULTIPLY_MASK, loss_rows, rule,
        softmax,
    )  # fmt: skip
    compile_all(dtype, [task for task in wanted if task is not None], announce)
    return tuple(0 if task is None else task.address(dtype) for task in wanted)


def compile_all(dtype: np.dtype, tasks: Collection[Task], say: Callable[[float], None]) -> None:
    """Compile or load some of TASKS for one float type, on several processes where much is missing."""
    compile_tasks(__name__, TASKS, tasks, dtype, lambda: compile_entries(dtype), ENTRY_SECONDS, say)
    for task in tasks:  # what another process could not do, and what it did
        task.address(dtype)
