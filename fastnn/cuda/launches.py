"""Large networks: products by cuBLASLt, where it is installed; a launch for each other operation of a step.

Bias with ReLU or nothing behind it, and the gradient of a bias, are the epilogue of a product where cuBLASLt has one.

A step is the one of `step.py`, from the same device functions; only the products are another's. Launches cost tens of
microseconds each, and a step has some five a layer, so this is for networks whose products take longer. Nothing is read
back between steps: a loss that is not finite sets a flag on the device, and the launches behind it do nothing.

The number of the step is counted on the device, and all else that differs from step to step follows from it there. So
the launches of two steps of whole batches are the same, and can be recorded as one CUDA graph (`graph.py`):

1. The first step of its kind is done launch by launch. It compiles and loads every kernel, and lets cuBLASLt choose
   its own and try its epilogues, since none of that can be done while a stream is recorded.
2. The step is recorded, which does nothing yet.
3. The second step of its kind is done in both ways from the same weights, and the bits are compared: a graph that does
   anything else is not used in this process (`how` says so). Where the loss was not finite, nothing is known yet.
4. The other whole batches, in later calls all of them, are launches of the graph. The last, shorter batch is done
   launch by launch.

All of it is told to one stream, which does things in order; that is every barrier that there is between two launches.
A graph lives no longer than the call that recorded it, and the arrays of that call live until the device is done.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy.typing as npt

from fastnn.cuda import _cublas, graph
from fastnn.cuda._cublas import ADD_BIAS, COLUMN_SUMS, PLAIN, RELU_BIAS, Matrix
from fastnn.cuda._formulas import like
from fastnn.cuda._launch import grid_of, launch
from fastnn.cuda._numba import SIMULATED, cuda, device_function, driver, named_kernel, pointer
from fastnn.cuda.net import (
    COLUMN_SUMS_AT,
    N_BLOCKS,
    OPTIMIZER,
    TILE_SUMS,
    Net,
    finish_backward_from,
    finish_forward,
    gather,
    loss_of_rows,
    slope_source,
    stage_of,
    total_weight,
    write_result,
)
from fastnn.cuda.reduction import sum_of
from fastnn.cuda.tile import THREADS, tiles
from fastnn.cuda.vector import load, store
from fastnn.cuda.weights import add_penalties, clip_scale, norm_of_blocks, penalty_scale, rates_of, update_parameters
from fastnn.kernels import layout
from fastnn.kernels.formulas import IDENTITY, RELU
from fastnn.kernels.layout import (  # fmt: skip
    BATCH,
    BIAS,
    DELTA,
    DX,
    FIRST_ROW,
    FIRST_STEP,
    KEEP_NONE,
    LOSS_SCALE,
    MODE,
    N_IN,
    N_OUT,
    N_ROWS,
    REPORT_CORRECT,
    REPORT_LOSS,
    REPORT_ROWS,
    REPORT_WEIGHT,
    TRAIN,
)

WORTH_FLOPS, STAGED_SHARE = 2e10, 1 / 64
"""Operations of a step from which its products are worth handing over: some 400 us at 50 TFLOP/s. By a share of that
where fastnn's own kernel would do the step stage by stage: on an H200 1.1 ms for 3e9 operations, by cuBLASLt 0.3 ms."""

ROWS_EACH = THREADS
"""Rows of one task of the loss: one a thread."""


LEAST_REPLAYS = 4
"""Steps of whole batches in one call from which a step is recorded as a graph: recording costs about one of them."""

_proven: dict[Any, str] = {}
"""Steps that were done in both ways -> what was wrong with the graph, "" where nothing was."""

_last: list[str] = ["a launch each"]


LANES = 2 if SIMULATED else 8
COLUMNS, COLUMN_ROWS = THREADS // LANES, 4 if SIMULATED else 1024
"""Threads that add up one column of a gradient; columns of a block, where neighbouring threads read neighbouring ones;
and rows of a chunk that a block adds up."""


def how() -> str:
    """Return how steps were last done in a call of enough of them: "a CUDA graph", or "a launch each", and why."""
    return _last[0]


def is_worth(flops: float, staged: bool) -> bool:
    """Return whether a step of so many operations runs here; `staged`: else it would run stage by stage."""
    return flops >= WORTH_FLOPS * (STAGED_SHARE if staged else 1.0) and _cublas.loaded() is not None


def _net(body: Any) -> Any:
    """Return a kernel of the arrays of a launch and a stage that runs `body(net, i, stage, step, row0, rows)`.

    How many steps were done is counted at stopped[1]; from it follow the step's number, its first row and its rows.
    """

    @named_kernel(body.__name__ if SIMULATED else body.py_func.__name__)
    def run(
        numbers, stages, floats, scales, hyper, tiles, blocks, block_floats, params, grads, state, work, sums, x,
        x_bytes, rescale, labels, targets, weights, order, rates, report, result, stopped, stage,
    ):  # fmt: skip
        lanes = cuda.shared.array(THREADS, numba.float64)
        if stopped[0] == 0:
            net = Net(
                numbers, stages, floats, scales, hyper, tiles, blocks, block_floats, params, grads, state, work, sums,
                x, x_bytes, rescale, labels, targets, weights, order, rates, report, result, stopped, params, lanes,
                labels, labels,
            )  # fmt: skip
            i = int(stopped[1])
            step, row0 = numbers[FIRST_STEP] + i, numbers[FIRST_ROW] + i * numbers[BATCH]
            rows = min(numbers[BATCH], numbers[FIRST_ROW] + numbers[N_ROWS] - row0)
            body(net, i, stage, step, row0, rows)

    return run


def gathered_rows(inputs: int) -> int:
    """Return the rows that one block gathers: some numbers a thread."""
    return max(1, 4 * THREADS // inputs)


@device_function
def _gather(net, i, stage, step, row0, rows):
    each = max(1, 4 * THREADS // net.stages[0, N_IN])
    for task in range(cuda.blockIdx.x, (rows + each - 1) // each, cuda.gridDim.x):
        gather(net, row0, task * each, min(rows, (task + 1) * each))


@device_function
def _finish_forward(net, i, stage, step, row0, rows):
    own = stage_of(net, stage)
    sums = own.into if not own.dense else own.out if own.keep == KEEP_NONE else own.source
    at, apart, n, end = cuda.grid(1), cuda.gridsize(1), own.units, rows * own.units
    j, right = at % n, apart % n
    while at < end:
        last = end - 1  # a thread has four elements on their way; those behind the end are the last one, and not kept
        z0, z1 = load(net.work, sums + at), load(net.work, sums + min(at + apart, last))
        z2, z3 = load(net.work, sums + min(at + 2 * apart, last)), load(net.work, sums + min(at + 3 * apart, last))
        j = finish_one(net, own, step, at, j, right, z0)
        if at + apart < end:
            j = finish_one(net, own, step, at + apart, j, right, z1)
        if at + 2 * apart < end:
            j = finish_one(net, own, step, at + 2 * apart, j, right, z2)
        if at + 3 * apart < end:
            j = finish_one(net, own, step, at + 3 * apart, j, right, z3)
        at += 4 * apart


@device_function
def finish_one(net, own, step, at, j, right, z):
    """Finish the element `at` of a stage, which is in column j; returns the column of what lies `right` behind it."""
    finish_forward(net, own, step, at, z + load(net.params, own.bias + j) if own.bias >= 0 else z)
    return j + right - own.units if j + right >= own.units else j + right


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
    own, before = stage_of(net, stage), stage_of(net, max(stage - 1, 0))
    to = before.delta if stage > 0 else net.numbers[DX]
    source = to if own.dense else own.delta
    at, apart, end = cuda.grid(1), cuda.gridsize(1), rows * own.inputs
    while at < end:
        last = end - 1  # as in `_finish_forward`
        at1, at2, at3 = min(at + apart, last), min(at + 2 * apart, last), min(at + 3 * apart, last)
        d0, d1 = load(net.work, source + at), load(net.work, source + at1)
        d2, d3 = load(net.work, source + at2), load(net.work, source + at3)
        if stage > 0:
            s0, s1 = slope_source(net, before, at), slope_source(net, before, at1)
            s2, s3 = slope_source(net, before, at2), slope_source(net, before, at3)
            d0 = finish_backward_from(net, before, step, at, d0, s0)
            d1 = finish_backward_from(net, before, step, at1, d1, s1)
            d2 = finish_backward_from(net, before, step, at2, d2, s2)
            d3 = finish_backward_from(net, before, step, at3, d3, s3)
        store(net.work, to + at, d0)
        if at + apart < end:
            store(net.work, to + at1, d1)
        if at + 2 * apart < end:
            store(net.work, to + at2, d2)
        if at + 3 * apart < end:
            store(net.work, to + at3, d3)
        at += 4 * apart


@device_function
def _column_sums(net, i, stage, step, row0, rows):
    """Add up the columns of delta over chunks of rows: LANES threads a column, whose sums are added in order."""
    n, delta, chunks = net.stages[stage, N_OUT], net.stages[stage, DELTA], (rows + COLUMN_ROWS - 1) // COLUMN_ROWS
    column, lane = cuda.threadIdx.x % COLUMNS, cuda.threadIdx.x // COLUMNS
    for task in range(cuda.blockIdx.x, (n + COLUMNS - 1) // COLUMNS * chunks, cuda.gridDim.x):
        chunk, j, total = task % chunks, task // chunks * COLUMNS + column, like(0.0, net.params[0])
        if j < n:
            for b in range(chunk * COLUMN_ROWS + lane, min(rows, (chunk + 1) * COLUMN_ROWS), LANES):
                total += net.work[delta + b * n + j]
        net.lanes[cuda.threadIdx.x] = total
        cuda.syncthreads()  # the lanes' sums are there
        if lane == 0 and j < n:
            whole = 0.0
            for x in range(LANES):
                whole += net.lanes[x * COLUMNS + column]
            net.sums[net.numbers[COLUMN_SUMS_AT] + chunk * n + j] = whole
        cuda.syncthreads()  # nobody reads them any more


@device_function
def _bias_gradient(net, i, stage, step, row0, rows):
    """Add up the chunks' sums in order, into the gradient of the biases."""
    n, at, chunks = net.stages[stage, N_OUT], net.numbers[COLUMN_SUMS_AT], (rows + COLUMN_ROWS - 1) // COLUMN_ROWS
    for j in range(cuda.grid(1), n, cuda.gridsize(1)):
        total = 0.0
        for chunk in range(chunks):
            total += net.sums[at + chunk * n + j]
        net.grads[net.stages[stage, BIAS] + j] = like(total, net.params[0])


@device_function
def _norm(net, i, stage, step, row0, rows):
    norm_of_blocks(net, penalty_scale(net, total_weight(net, row0, rows)))


@device_function
def _update(net, i, stage, step, row0, rows):
    share = penalty_scale(net, total_weight(net, row0, rows))
    scale = clip_scale(net, i)
    update_parameters(net, rates_of(net, i), step, share, scale)


@device_function
def _end(net, i, stage, step, row0, rows):
    """Add up what the update left, and count the step: one block."""
    add_penalties(net, i, False)
    cuda.syncthreads()  # every thread knows the step's number
    if cuda.threadIdx.x == 0:
        net.report[i, REPORT_ROWS] = rows
        net.arrivals[1] = i + 1


@device_function
def _result(net, i, stage, step, row0, rows):
    write_result(net, i, rows)


gather_rows, finish_forward_of, loss_of, report_loss = (
    _net(f) for f in (_gather, _finish_forward, _loss, _report_loss)
)
finish_backward_of, column_sums, bias_gradient = (_net(f) for f in (_finish_backward, _column_sums, _bias_gradient))
norm_of = _net(_norm)
update_of, end_of, result_of = (_net(f) for f in (_update, _end, _result))


def _array(arguments: tuple[Any, ...], name: str) -> Any:
    """Return one of the arrays of a launch by its name in `Net`."""
    return arguments[Net._fields.index(name)]


def run_steps(
    arguments: tuple[Any, ...], table: npt.NDArray[Any], numbers: npt.NDArray[Any], clips: bool, precision: str
) -> None:
    """Do the steps that `numbers` asks for, each operation a launch or a node of a graph; waits for them.

    Parameters
    ----------
    arguments : tuple
        The arrays of `step.make_kernel`'s kernel; the last is 0, 0 and becomes 1 where a loss is not finite, and the
        number of steps that were done.
    table : array (stages, N_STAGE)
        The stages, on the host.
    numbers : array (N_NUMBERS,)
        Of the launch, on the host.
    clips : bool
        Whether the global norm is clipped.
    precision : str
        Of the products: a key of `_cublas.COMPUTE_32F`.
    """
    stream = graph.stream()
    driver.synchronize()  # what the default stream was told is done
    cublas: Any = _cublas.loaded()
    cublas.use(pointer(stream))
    batch, taken = int(numbers[layout.BATCH]), int(numbers[layout.N_ROWS])

    def step(rows: int) -> None:
        _step(arguments, table, numbers, clips, rows, stream, functools.partial(cublas.product, precision=precision))

    done, whole, graphs = 0, taken // batch, list[graph.Graph]()
    try:
        if numbers[layout.MODE] == layout.TRAIN and whole > LEAST_REPLAYS:
            key = (
                table.tobytes(), batch, clips, precision, int(numbers[OPTIMIZER]), _array(arguments, "params").dtype,
                _cublas.current(),
            )  # fmt: skip
            if key not in _proven:
                step(batch)
                if _stopped(arguments):
                    return
                done = 1
            if not _proven.get(key):
                try:
                    graphs.append(graph.Graph(pointer(stream), lambda: step(batch)))
                    if key not in _proven:
                        wrong = _prove(arguments, lambda: step(batch), graphs[0].launch)
                        if _stopped(arguments):
                            return
                        _proven[key], done = wrong, 2
                except Exception as error:  # an old driver, or whatever cannot be recorded; what is wrong stays wrong
                    _proven[key] = " ".join(str(error).split())
            if _proven[key]:
                _last[0] = f"a launch each, since a CUDA graph could not be used: {_proven[key]}"
            else:
                _last[0] = "a CUDA graph"
                for _ in range(whole - done):
                    graphs[0].launch()
                done = whole
        for i in range(done, int(numbers[layout.N_STEPS])):
            step(min(batch, taken - i * batch))
    finally:
        try:
            driver.synchronize()
        finally:  # an interrupt is raised when the device is done
            for each in graphs:
                each.close()


def _stopped(arguments: tuple[Any, ...]) -> bool:
    """Wait, and return whether a loss was not finite: launches behind it do nothing, and so they prove nothing."""
    driver.synchronize()
    return bool(_array(arguments, "arrivals").copy_to_host()[0])


def _prove(arguments: tuple[Any, ...], plain: Callable[[], None], replayed: Callable[[], None]) -> str:
    """Do one step in both ways from the same weights; return "" where both give the same bits, else what does not.

    What the step did launch by launch is what remains.
    """
    arrays = {name: _array(arguments, name) for name in ("params", "grads", "state", "report", "arrivals")}
    outcomes = []
    before = {name: array.copy_to_host() for name, array in arrays.items()}
    for way in (replayed, plain):
        for name, array in arrays.items():
            array.copy_to_device(before[name])
        driver.synchronize()
        way()
        driver.synchronize()
        outcomes.append({name: array.copy_to_host().tobytes() for name, array in arrays.items()})
    off = [name for name in arrays if outcomes[0][name] != outcomes[1][name]]
    return f"its {', '.join(off)} are not those of the same launches one by one" if off else ""


def _epilogue(row: npt.NDArray[Any], numbers: npt.NDArray[Any]) -> int:
    """Return how much of a dense stage, beside its product, the product's epilogue can do: all of it, or nothing."""
    dropped = numbers[layout.DROPOUT] and row[layout.THRESHOLD] > 0
    if row[layout.BIAS] < 0 or dropped or row[layout.KEEP] != layout.KEEP_NONE:
        return PLAIN
    return {IDENTITY: ADD_BIAS, RELU: RELU_BIAS}.get(int(row[layout.ACTIVATION]), PLAIN)


def _step(
    arguments: tuple[Any, ...],
    table: npt.NDArray[Any],
    numbers: npt.NDArray[Any],
    clips: bool,
    rows: int,
    stream: Any,
    product: Callable[..., bool],
) -> None:
    """Tell the stream one step on `rows` rows: launches and products that are the same for every such step."""
    params, grads, work = (_array(arguments, name) for name in ("params", "grads", "work"))
    mode, learning = numbers[layout.MODE], numbers[layout.MODE] in (layout.TRAIN, layout.GRADIENT)

    def do(operation: Any, blocks: int, stage: int = 0) -> None:
        launch(operation, blocks, *arguments, stage, stream=stream)

    inputs, row_blocks = int(table[0, layout.N_IN]), tiles(rows, ROWS_EACH)
    do(gather_rows, min(grid_of(rows * inputs), tiles(rows, gathered_rows(inputs))))
    for stage, row in enumerate(table):
        k, n = int(row[layout.N_IN]), int(row[layout.N_OUT])
        if row[layout.KIND] == layout.DENSE:
            sums = int(row[layout.OUT] if row[layout.KEEP] == layout.KEEP_NONE else row[layout.SOURCE])
            out, x = Matrix(work, sums, rows, n), Matrix(work, int(row[layout.IN]), rows, k)
            weight, epilogue = Matrix(params, int(row[layout.WEIGHT]), k, n), _epilogue(row, numbers)
            bias = Matrix(params, int(row[layout.BIAS]), 1, n) if epilogue != PLAIN else None
            if product(out, x, weight, epilogue=epilogue, vector=bias) and epilogue != PLAIN:
                continue
        do(finish_forward_of, grid_of(rows * n), stage)
    if mode != layout.FORWARD:
        do(loss_of, row_blocks)
        do(report_loss, 1)
    if learning:
        last = 0 if numbers[layout.WANT_DX] else 1
        for stage in range(len(table) - 1, -1, -1):
            row = table[stage]
            k, n, dense = int(row[layout.N_IN]), int(row[layout.N_OUT]), row[layout.KIND] == layout.DENSE
            delta = Matrix(work, int(row[layout.DELTA]), rows, n)
            if dense:
                factors = Matrix(work, int(row[layout.IN]), rows, k, transposed=True), delta
                into, bias = Matrix(grads, int(row[layout.WEIGHT]), k, n), Matrix(grads, int(row[layout.BIAS]), 1, n)
                if row[layout.BIAS] < 0:
                    product(into, *factors)
                elif not product(into, *factors, epilogue=COLUMN_SUMS, vector=bias):
                    do(column_sums, min(grid_of(rows * n), tiles(n, COLUMNS) * tiles(rows, COLUMN_ROWS)), stage)
                    do(bias_gradient, grid_of(n), stage)
            if stage >= last:
                to = int(table[stage - 1, layout.DELTA] if stage else numbers[layout.DX])
                if dense:
                    weight = Matrix(params, int(row[layout.WEIGHT]), k, n, transposed=True)
                    product(Matrix(work, to, rows, k), delta, weight)
                do(finish_backward_of, grid_of(rows * k), stage)
    if mode == layout.TRAIN:
        if clips:
            do(norm_of, int(numbers[N_BLOCKS]))
        do(update_of, int(numbers[N_BLOCKS]))
    if numbers[layout.WANT_OUT] or numbers[layout.WANT_DX]:
        do(result_of, grid_of(rows))
    do(end_of, 1)
