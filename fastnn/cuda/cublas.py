"""Large networks: products by cuBLAS through CuPy, where it is installed; a launch for each other operation of a step.

A step is the one of `step.py`, from the same device functions; only the products are another's. Launches cost tens of
microseconds each, and a step has some five a layer, so this is for networks whose products take longer. Nothing is read
back between steps: a loss that is not finite sets a flag on the device, and the launches behind it do nothing.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from fastnn.cuda import step as s
from fastnn.cuda._launch import grid_of, launch
from fastnn.cuda._numba import SIMULATED, cuda, device_function, kernel
from fastnn.cuda.reduction import sum_of
from fastnn.cuda.step import (
    DELTA,
    N_BLOCKS,
    TILE_SUMS,
    Net,
    add_penalties,
    clip_scale,
    finish_backward,
    finish_forward,
    gather,
    loss_of_rows,
    norm_of_blocks,
    penalty_scale,
    total_weight,
    write_result,
)  # fmt: skip
from fastnn.cuda.tile import THREADS
from fastnn.kernels import epoch as e
from fastnn.kernels.epoch import (
    BIAS,
    DENSE,
    IN,
    KEEP,
    KEEP_NONE,
    KIND,
    LOSS_SCALE,
    MODE,
    N_IN,
    N_OUT,
    OUT,
    REPORT_CORRECT,
    REPORT_LOSS,
    REPORT_ROWS,
    REPORT_WEIGHT,
    SOURCE,
    TRAIN,
)  # fmt: skip

WORTH_FLOPS = 2e10
"""Operations of a step from which its products are worth handing over: some 400 us at 50 TFLOP/s."""

ROWS_EACH = 64
"""Rows of one task of the loss."""


@functools.cache
def library() -> Any:
    """Return CuPy, or None where it is not installed or cannot be used here."""
    if SIMULATED:
        return None
    try:
        import cupy
    except Exception:  # a build for another CUDA raises what it likes
        return None
    return cupy


def is_worth(flops: float) -> bool:
    """Return whether a step of so many operations runs here."""
    return flops >= WORTH_FLOPS and library() is not None


def product(c: Any, a: Any, b: Any) -> None:
    """Write C = A B; each is (device vector, offset, rows, columns, whether it is transposed)."""
    module = library()

    def view(array: Any, offset: int, rows: int, columns: int, transposed: bool) -> Any:
        matrix = module.asarray(array)[offset : offset + rows * columns].reshape(rows, columns)
        return matrix.T if transposed else matrix

    module.matmul(view(*a), view(*b), out=view(*c))


def _net(body: Any) -> Any:
    """Return a kernel of the arrays of a launch and four integers that runs `body(net, i, s, step, row0, rows)`."""

    @kernel
    def run(
        numbers, stages, floats, scales, hyper, blocks, block_floats, params, grads, state, work, sums, x, x_bytes,
        rescale, labels, targets, weights, order, rates, report, result, stopped, i, stage, step, row0, rows,
    ):  # fmt: skip
        lanes = cuda.shared.array(THREADS, numba.float64)
        if stopped[0] == 0:
            net = Net(
                numbers, stages, floats, scales, hyper, blocks, block_floats, params, grads, state, work, sums, x,
                x_bytes, rescale, labels, targets, weights, order, rates, report, result, stopped, params, lanes,
            )  # fmt: skip
            body(net, i, stage, step, row0, rows)

    return run


@device_function
def _gather(net, i, stage, step, row0, rows):
    for task in range(cuda.blockIdx.x, (rows + ROWS_EACH - 1) // ROWS_EACH, cuda.gridDim.x):
        gather(net, row0, task * ROWS_EACH, min(rows, (task + 1) * ROWS_EACH))


@device_function
def _finish_forward(net, i, stage, step, row0, rows):
    n, bias, dense = net.stages[stage, N_OUT], net.stages[stage, BIAS], net.stages[stage, KIND] == DENSE
    sums = net.stages[stage, OUT] if net.stages[stage, KEEP] == KEEP_NONE else net.stages[stage, SOURCE]
    for at in range(cuda.grid(1), rows * n, cuda.gridsize(1)):
        z = net.work[sums + at] if dense else net.work[net.stages[stage, IN] + at]
        finish_forward(net, stage, step, at, z + net.params[bias + at % n] if bias >= 0 else z)


@device_function
def _loss(net, i, stage, step, row0, rows):
    total = total_weight(net, row0, rows)
    factor = net.floats[LOSS_SCALE] / total if total > 0.0 else 0.0
    for task in range(cuda.blockIdx.x, (rows + ROWS_EACH - 1) // ROWS_EACH, cuda.gridDim.x):
        loss_of_rows(net, task, task * ROWS_EACH, min(rows, (task + 1) * ROWS_EACH), row0, step, factor)


@device_function
def _report_loss(net, i, stage, step, row0, rows):
    """Add up the loss, and stop where it is not finite: one block."""
    total = total_weight(net, row0, rows)
    at, tiles_ = net.numbers[TILE_SUMS], (rows + ROWS_EACH - 1) // ROWS_EACH
    loss, correct = sum_of(net.sums, at, tiles_, 2, net.lanes), sum_of(net.sums, at + 1, tiles_, 2, net.lanes)
    if cuda.threadIdx.x == 0:
        net.report[i, REPORT_LOSS], net.report[i, REPORT_CORRECT], net.report[i, REPORT_WEIGHT] = loss, correct, total
        if net.numbers[MODE] == TRAIN and loss - loss != 0.0:
            net.arrivals[0] = 1


@device_function
def _finish_backward(net, i, stage, step, row0, rows):
    """Carry what the product toward the input of `stage` wrote through the stage before."""
    k, dense = net.stages[stage, N_IN], net.stages[stage, KIND] == DENSE
    to = net.stages[stage - 1, DELTA] if stage > 0 else net.numbers[s.DX]
    source = to if dense else net.stages[stage, DELTA]
    for at in range(cuda.grid(1), rows * k, cuda.gridsize(1)):
        d = net.work[source + at]
        net.work[to + at] = finish_backward(net, stage - 1, step, at, d) if stage > 0 else d


@device_function
def _bias_gradient(net, i, stage, step, row0, rows):
    n, delta = net.stages[stage, N_OUT], net.stages[stage, DELTA]
    for j in range(cuda.grid(1), n, cuda.gridsize(1)):
        total = net.work[delta + j]
        for b in range(1, rows):
            total += net.work[delta + b * n + j]
        net.grads[net.stages[stage, BIAS] + j] = total


@device_function
def _norm(net, i, stage, step, row0, rows):
    norm_of_blocks(net, penalty_scale(net, total_weight(net, row0, rows)))


@device_function
def _update(net, i, stage, step, row0, rows):
    share = penalty_scale(net, total_weight(net, row0, rows))
    scale = clip_scale(net, i)
    s.step_parameters(net, i, step, share, scale)


@device_function
def _end(net, i, stage, step, row0, rows):
    """Add up what the update left, and count the step: one block."""
    add_penalties(net, i)
    if cuda.threadIdx.x == 0:
        net.report[i, REPORT_ROWS] = rows


@device_function
def _result(net, i, stage, step, row0, rows):
    write_result(net, i, rows)


gather_rows, finish_forward_of, loss_of, report_loss = (
    _net(f) for f in (_gather, _finish_forward, _loss, _report_loss)
)
finish_backward_of, bias_gradient, norm_of = (_net(f) for f in (_finish_backward, _bias_gradient, _norm))
update_of, end_of, result_of = (_net(f) for f in (_update, _end, _result))


def run_steps(
    arguments: tuple[Any, ...], table: npt.NDArray[np.int64], numbers: npt.NDArray[np.int64], clips: bool
) -> None:
    """Do the steps that `numbers` asks for, each operation a launch.

    Parameters
    ----------
    arguments : tuple
        The arrays of `step.make_kernel`'s kernel; the last is 0 and becomes 1 where a loss is not finite.
    table : array (stages, N_STAGE + 1)
        The stages, on the host.
    numbers : array (N_NUMBERS,)
        Of the launch, on the host.
    clips : bool
        Whether the global norm is clipped.
    """
    params, grads, work = arguments[7:9] + arguments[10:11]
    mode, learning = numbers[e.MODE], numbers[e.MODE] in (e.TRAIN, e.GRADIENT)
    ends = len(table) - 1
    for i in range(int(numbers[e.N_STEPS])):
        step, row0 = int(numbers[e.FIRST_STEP]) + i, int(numbers[e.FIRST_ROW]) + i * int(numbers[e.BATCH])
        rows = min(int(numbers[e.BATCH]), int(numbers[e.FIRST_ROW] + numbers[e.N_ROWS]) - row0)

        def do(operation: Any, blocks: int, stage: int = 0, i: int = i, at: Any = (step, row0, rows)) -> None:
            launch(operation, blocks, *arguments, i, stage, *at)

        row_blocks = -(-rows // ROWS_EACH)
        do(gather_rows, row_blocks)
        for stage, row in enumerate(table):
            k, n = int(row[e.N_IN]), int(row[e.N_OUT])
            if row[e.KIND] == e.DENSE:
                sums = int(row[e.OUT] if row[e.KEEP] == e.KEEP_NONE else row[e.SOURCE])
                weight = (params, int(row[e.WEIGHT]), k, n, False)
                product((work, sums, rows, n, False), (work, int(row[e.IN]), rows, k, False), weight)
            do(finish_forward_of, grid_of(rows * n), stage)
        if mode != e.FORWARD:
            do(loss_of, row_blocks)
            do(report_loss, 1)
        if learning:
            last = 0 if numbers[e.WANT_DX] else 1
            for stage in range(ends, -1, -1):
                row = table[stage]
                k, n, delta = (
                    int(row[e.N_IN]),
                    int(row[e.N_OUT]),
                    (work, int(row[s.DELTA]), rows, int(row[e.N_OUT]), False),
                )
                dense = row[e.KIND] == e.DENSE
                if dense:
                    product((grads, int(row[e.WEIGHT]), k, n, False), (work, int(row[e.IN]), rows, k, True), delta)
                    if row[e.BIAS] >= 0:
                        do(bias_gradient, grid_of(n), stage)
                if stage >= last:
                    to = int(table[stage - 1, s.DELTA] if stage else numbers[s.DX])
                    if dense:
                        product((work, to, rows, k, False), delta, (params, int(row[e.WEIGHT]), k, n, True))
                    do(finish_backward_of, grid_of(rows * k), stage)
        if mode == e.TRAIN:
            if clips:
                do(norm_of, int(numbers[N_BLOCKS]))
            do(update_of, int(numbers[N_BLOCKS]))
        if numbers[e.WANT_OUT] or numbers[e.WANT_DX]:
            do(result_of, grid_of(rows))
        do(end_of, 1)
