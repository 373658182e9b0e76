"""Layers become a network as data: a table of stages, offsets into one flat parameter vector, one workspace.

A stage is a dense layer with the activation and dropout behind it, or an activation or dropout of its own.
Compiled code reads the table (`kernels/layout.py`), so another architecture compiles nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn._errors import check_range
from fastnn.activations import SOFTMAX
from fastnn.initializers import as_initializer
from fastnn.kernels import formulas, layout, partition
from fastnn.kernels._chunks import CHUNK
from fastnn.kernels.dropout import GROUP, threshold_of
from fastnn.kernels.gemm import MR, TASK_FLOPS, product_scratch, product_tasks, split
from fastnn.layers import Activation, Dense, Dropout, Layer, Rescale, activation_of
from fastnn.losses import Loss

ALIGN = 16
"""Segments begin at multiples of this many elements: a cache line of float32."""

L1_MODES = ("gradient", "truncate")
"""How L1 works: as a part of the gradient, or as a soft threshold after each step."""

_MOST_PARAMETERS = 1 << 44
"""More than any address space holds: a slip of the pen, not a network."""

ROWS_FLOPS = 1_000_000
"""Work on some rows, from layer to layer and back, that is worth a thread: some 10 us."""

LEAST_ROWS, MOST_WEIGHT_BYTES = 24, 4 << 20
"""A batch's rows are shared out among the threads, each of which reads all weights, where there are as many rows each
and no more weights than that. Measured with weights of 7 MB (`wide`): neither better nor worse than stage by stage."""

GRADIENT_ELEMENTS, GRADIENT_ROWS = 65536, 256
"""The gradient of so many weights, some 256 KB, is still in the second cache when they are updated; but of fewer rows
of W it is no block of its own, since each block packs the gradients of the sums anew."""

LEAST_PIECE, PIECE_BYTES = 128, 1 << 19
"""Rows of a chunk that are carried through all stages at once: as many as leave so many bytes, which stay in the second
cache of a core, but so many at least."""

WORTH_CHUNKS = 4
"""A batch's gradients are summed by chunks of its rows where it leaves so many numbers in the workspace for a weight.

On two threads of a Zen 4, before and after: 10,000 rows of 4-32-16-4 (1,200 numbers for a weight) 472 and 461 us with
cores near each other, 1,010 and 510 with cores far apart; 512 rows of 54-256-256-7 (7) 1,309, 1,284 and 1,640, 1,530.
"""

Array = npt.NDArray[Any]


def _aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


def aligned_empty(size: int, dtype: np.dtype[Any]) -> Array:
    """Return an uninitialised vector that begins at a cache line."""
    room = np.empty(size + 64 // dtype.itemsize, dtype)
    skip = (-room.ctypes.data % 64) // dtype.itemsize
    return room[skip : skip + size]


@dataclass(frozen=True)
class Segment:
    """One array of parameters: its name, place and shape in the flat vector, and its penalties."""

    name: str
    start: int
    shape: tuple[int, ...]
    l1: float = 0.0
    l2: float = 0.0

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def stop(self) -> int:
        return self.start + self.size

    @property
    def is_weight(self) -> bool:
        return len(self.shape) == 2


@dataclass(frozen=True)
class Stage:
    """A dense layer (None for an element-wise stage) with its activation and dropout, and which layers they were."""

    inputs: int
    units: int
    layer: int
    dense: Dense | None = None
    activation: str = "identity"
    dropout: float = 0.0
    dropout_layer: int = 0

    @property
    def name(self) -> str:
        """What messages and pictures call it: "layer 3 (Dense, 32 relu)"."""
        kind = "Dense" if self.dense is not None else "Activation"
        activation = "" if self.activation == "identity" else f" {self.activation}"
        return f"layer {self.layer} ({kind}, {self.units}{activation})"

    @property
    def computes(self) -> bool:
        """Whether it does more than dropout, so that its outputs are worth a look."""
        return self.dense is not None or self.activation != "identity"

    @property
    def keep(self) -> int:
        """What is kept besides the output for the backward pass (see `kernels/layout.py`)."""
        code = formulas.CODES[self.activation]
        if code in formulas.NEEDS_Z:
            return layout.KEEP_Z
        read_from_output = (formulas.ELU, formulas.SIGMOID, formulas.TANH, formulas.SOFTPLUS)
        return layout.KEEP_A if self.dropout > 0 and code in read_from_output else layout.KEEP_NONE


@dataclass(frozen=True)
class Plan:
    """Stages with workspace offsets for batches of up to `rows`, the workspace's size, and who shares the work.

    `samples` says whether there is room for the samples and the gradient with respect to them. `members` are those of
    the `threads` that have a task: one without would only wait.
    """

    rows: int
    stages: npt.NDArray[np.int64]
    weight_tasks: npt.NDArray[np.int64]
    offsets: dict[int, int]
    work_size: int
    threads: int
    members: int
    samples: bool


class Network:
    """The tables of a network whose input size is known.

    Parameters
    ----------
    layers : sequence of Layer
    inputs : int
        Width of a sample.
    loss : Loss
        Decides what the last softmax or sigmoid means.
    dtype : numpy dtype
    l1, l2 : float
        Penalties of the dense layers that have none of their own.

    Raises
    ------
    ValueError
        For layers that do not make a network, with the layer's number.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        inputs: int,
        loss: Loss,
        dtype: np.dtype[Any],
        l1: float = 0.0,
        l2: float = 0.0,
    ) -> None:
        self.inputs, self.dtype, self.loss = inputs, dtype, loss
        self.rescale = np.empty((0, 0), dtype)
        body = list(enumerate(layers))
        if isinstance(body[0][1], Rescale):
            self.rescale = body.pop(0)[1].table(inputs, dtype)  # type: ignore[attr-defined]
        body, self.output = _fold_output(body, loss)
        check_range("delta", loss.delta, dtype, may_overflow=True)
        self.stages = self._build_stages(body)
        self.units = self.stages[-1].units
        self.segments = self._place(l1, l2)
        self.n_params = sum(segment.size for segment in self.segments)
        self.params_size = _aligned(max((segment.stop for segment in self.segments), default=1))
        if self.params_size > _MOST_PARAMETERS:
            raise ValueError(f"layers: got {self.n_params:,} parameters, expected at most {_MOST_PARAMETERS:,}")
        self._plans: dict[tuple[int, int, bool], Plan] = {}
        self.scales = np.array([1.0 / (1.0 - stage.dropout) for stage in self.stages])

    def _build_stages(self, body: list[tuple[int, Layer]]) -> list[Stage]:
        stages: list[Stage] = []
        width = self.inputs
        for number, layer in body:
            if isinstance(layer, Dense):
                activation = str(layer.activation)
                stages.append(Stage(width, layer.units, number, dense=layer, activation=activation))
                width = layer.units
            elif isinstance(layer, Activation):
                free = stages and stages[-1].activation == "identity" and stages[-1].dropout == 0.0
                base = stages.pop() if free else Stage(width, width, number)
                stages.append(replace(base, activation=layer.name))
            elif isinstance(layer, Dropout):
                if layer.rate == 0.0:
                    continue
                free = stages and stages[-1].dropout == 0.0
                base = stages.pop() if free else Stage(width, width, number)
                stages.append(replace(base, dropout=layer.rate, dropout_layer=number))
        if not stages:
            stages.append(Stage(width, width, 0))
        return stages

    def _place(self, l1: float, l2: float) -> list[Segment]:
        segments: list[Segment] = []
        place = 0
        for number, stage in enumerate(stage for stage in self.stages if stage.dense is not None):
            dense = stage.dense
            assert dense is not None
            own_l1 = l1 if dense.l1 is None else dense.l1
            own_l2 = l2 if dense.l2 is None else dense.l2
            check_range("l1", own_l1, self.dtype, may_vanish=True)
            check_range("l2", own_l2, self.dtype, may_vanish=True)
            check_range("gain", as_initializer(dense.kernel_initializer, str(dense.activation)).gain, self.dtype)
            segments.append(Segment(f"dense_{number}.weight", place, (stage.inputs, stage.units), own_l1, own_l2))
            place = _aligned(segments[-1].stop)
            if dense.use_bias:
                segments.append(Segment(f"dense_{number}.bias", place, (stage.units,)))
                place = _aligned(segments[-1].stop)
        return segments

    @property
    def is_penalised(self) -> bool:
        """Whether some weights have a penalty."""
        return any(segment.l1 or segment.l2 for segment in self.segments)

    def views(self, flat: Array) -> list[Array]:
        """Return the arrays [W0, b0, W1, b1, ...] that lie in a flat vector."""
        return [flat[segment.start : segment.stop].reshape(segment.shape) for segment in self.segments]

    def update_blocks(
        self, weight_decay: float, truncate: bool
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return the update kernel's blocks, their numbers, and the first block of each task and their end.

        A block is [start, stop), and never straddles two segments; its numbers are l1, l2, weight decay and truncating
        l1. A task is blocks of some CHUNK parameters together. All is a function of the shapes alone.
        """
        places: list[tuple[int, int]] = []
        numbers: list[tuple[float, ...]] = []
        tasks: list[int] = []
        begun = -CHUNK
        for segment in self.segments:
            l1, truncated = (0.0, segment.l1) if truncate else (segment.l1, 0.0)
            decay = weight_decay if segment.is_weight else 0.0
            for start in range(segment.start, segment.stop, CHUNK):
                stop = min(start + CHUNK, segment.stop)
                if stop - begun > CHUNK:
                    tasks.append(len(places))
                    begun = start
                places.append((start, stop))
                numbers.append((l1, segment.l2, decay, truncated))
        return (
            np.array(places, np.int64).reshape(-1, 2),
            np.array(numbers, np.float64).reshape(-1, 4),
            np.array([*tasks, len(places)], np.int64),
        )

    def plan(self, rows: int, threads: int, samples: bool = True) -> Plan:
        """Lay out a workspace for batches of up to `rows` rows on up to `threads` threads; the last plans are kept.

        Without `samples` it is for rows that are read where they lie: sparse ones, under a first stage with weights.
        """
        plan = self._plans.get((rows, threads, samples))
        if plan is None:
            if len(self._plans) >= 16:
                self._plans.clear()
            plan = self._plans[rows, threads, samples] = self._make_plan(rows, threads, samples)
        return plan

    def _make_plan(self, rows: int, threads: int, samples: bool) -> Plan:
        table = np.zeros((len(self.stages), layout.N_STAGE), np.int64)
        weights = iter(self.segments)
        room = _aligned(rows * self.inputs) if samples else 0
        place = room
        before, each = 0, 0
        for row, stage in zip(table, self.stages, strict=True):
            row[layout.KIND] = layout.DENSE if stage.dense is not None else layout.ELEMENTWISE
            row[[layout.N_IN, layout.N_OUT]] = stage.inputs, stage.units
            row[layout.ACTIVATION] = formulas.CODES[stage.activation]
            row[[layout.IN, layout.OUT, layout.SOURCE, layout.KEEP]] = before, place, place, stage.keep
            before = place
            place += _aligned(rows * stage.units)
            if stage.keep != layout.KEEP_NONE:
                row[layout.SOURCE] = place
                place += _aligned(rows * stage.units)
            row[layout.LAYER] = stage.dropout_layer
            row[layout.THRESHOLD] = threshold_of(stage.dropout)
            row[layout.BIAS] = -1
            if stage.dense is not None:
                row[layout.WEIGHT] = next(weights).start
                if stage.dense.use_bias:
                    row[layout.BIAS] = next(weights).start
                shapes = _products(rows, stage.inputs, stage.units)
                each = max(each, *(product_scratch(*shape, self.dtype) for shape in shapes))
        offsets = {layout.X_OFFSET: 0, layout.T_OFFSET: place}
        place += _aligned(rows * self.units)
        for number in reversed(range(len(table))):
            if number + 1 < len(table) and table[number + 1, layout.KIND] == layout.ELEMENTWISE:
                table[number, layout.DELTA] = table[number + 1, layout.DELTA]
                continue
            table[number, layout.DELTA] = place
            place += _aligned(rows * int(table[number, layout.N_OUT]))
        offsets[layout.DX] = int(table[0, layout.DELTA]) if table[0, layout.KIND] == layout.ELEMENTWISE else place
        offsets[layout.SCRATCH] = place + room
        members, offsets[layout.ROW_TASKS] = self._share(rows, threads)
        if members > 1 and offsets[layout.ROW_TASKS]:
            for row, following in itertools.pairwise(table):
                if following[layout.KIND] == layout.DENSE:
                    row[[layout.SOON, layout.SOON_COLUMNS]] = following[[layout.WEIGHT, layout.N_OUT]]
        weight_tasks = self._weight_tasks(rows, members)
        _, i0, i1, j0, j1, *_ = weight_tasks.T
        offsets[layout.GRADIENT_BLOCK] = _aligned(GROUP + each)
        offsets[layout.CHUNK_FROM], offsets[layout.PIECE_ROWS] = self._chunks()
        chunks = partition.gradient_chunks.py_func(offsets[layout.CHUNK_FROM], rows)
        block = _aligned(int(np.max((i1 - i0 + 1) * (j1 - j0), initial=0)))
        offsets[layout.SCRATCH_EACH] = offsets[layout.GRADIENT_BLOCK] + (2 if chunks > 1 else 1) * block
        work_size = offsets[layout.SCRATCH] + members * offsets[layout.SCRATCH_EACH]
        offsets[layout.PARTS] = -1
        if chunks > 1 and chunks % members == 0 and offsets[layout.ROW_TASKS]:
            offsets[layout.PARTS] = work_size
            work_size += _aligned(chunks * self.params_size)
        return Plan(rows, table, weight_tasks, offsets, work_size, threads, members, samples)

    def _share(self, rows: int, threads: int) -> tuple[int, int]:
        """Return how many threads are worth their while, and in how many parts a batch goes through all stages.

        Its rows are cut among the threads where each has enough of them to make up for weights that all of them read;
        one stage after the other is cut (0 parts) where it has not, or where the weights are too many.
        """
        weights = sum(stage.inputs * stage.units for stage in self.stages if stage.dense is not None)
        parts = min(threads, max(1, 4 * rows * weights // ROWS_FLOPS))
        if parts == 1:
            return 1, 1
        if rows >= parts * LEAST_ROWS and weights * self.dtype.itemsize <= MOST_WEIGHT_BYTES:
            return parts, parts
        tasks = [1]
        for stage in self.stages:
            if stage.dense is None:
                tasks.append(partition.row_tasks.py_func(rows, stage.units))
            else:
                tasks += [product_tasks(*shape, threads) for shape in _products(rows, stage.inputs, stage.units)]
        members = min(max(tasks), threads)
        return members, 0 if members > 1 else 1

    def _chunks(self) -> tuple[int, int]:
        """Return from how many rows gradients are summed by two chunks of them, and the rows of a piece of a chunk.

        Both are functions of the network alone.
        """
        dense = [(stage.inputs, stage.units) for stage in self.stages if stage.dense is not None]
        weights, numbers = sum(k * n for k, n in dense), max(1, sum(k + n for k, n in dense))
        piece = max(LEAST_PIECE, PIECE_BYTES // (numbers * self.dtype.itemsize))
        if weights * self.dtype.itemsize > MOST_WEIGHT_BYTES:  # stages are cut one by one, each across all rows
            return 1 << 48, piece
        return -(-WORTH_CHUNKS * weights // numbers), piece

    def _weight_tasks(self, rows: int, threads: int) -> npt.NDArray[np.int64]:
        """Cut the gradients of all weights into blocks of some rows of a W, of columns where it has too few rows."""
        dense = [(i, stage.inputs, stage.units, stage.dense) for i, stage in enumerate(self.stages) if stage.dense]
        weights = sum(k * n for _, k, n, _ in dense)
        wanted = min(4 * threads, max(1, 2 * rows * weights // TASK_FLOPS)) if threads > 1 else 1
        tasks, segments, block = [], iter(self.segments), 0
        for number, k, n, layer in dense:
            own = block
            block += -(-next(segments).size // CHUNK)
            of_bias = block
            if layer.use_bias:
                block += -(-next(segments).size // CHUNK)
            parts = max(1, round(wanted * k * n / weights), k * n // max(GRADIENT_ELEMENTS, GRADIENT_ROWS * n))
            down = min(parts, max(1, k // (2 * MR)))
            across = min(-(-parts // down), max(1, n // 64))
            for i in range(down):
                for j in range(across):
                    rows_of, columns_of = split.py_func(k, down, i, MR), split.py_func(n, across, j, 32)
                    tasks.append((number, *rows_of, *columns_of, own, of_bias))
        return np.array(tasks, np.int64).reshape(-1, layout.N_WEIGHT_TASK)


def _products(rows: int, inputs: int, units: int) -> tuple[tuple[int, int, int], ...]:
    """Return the shapes (M, N, K) of X W, X^T dZ and dZ W^T."""
    return (rows, units, inputs), (inputs, units, rows), (rows, inputs, units)


def _fold_output(body: list[tuple[int, Layer]], loss: Loss) -> tuple[list[tuple[int, Layer]], int]:
    """Take a softmax or sigmoid off the end where the loss or the output step works it out."""
    body = list(body)
    for position, (number, layer) in enumerate(body):
        if isinstance(layer, Rescale):
            raise ValueError(f"layers: got Rescale as layer {number}, expected it as the first layer only")
        if activation_of(layer) == SOFTMAX and position != len(body) - 1:
            raise ValueError(f"layers: got softmax in layer {number}, expected it in the last layer only")
    if not body:
        return body, layout.LOGITS
    number, last = body[-1]
    name = activation_of(last)
    folded = name is not None and name == loss.folds
    if loss.folds is not None and not folded and name in ("softmax", "sigmoid"):
        raise ValueError(
            f"layers: got {name!r} as the last activation under {loss.name!r}, expected {loss.folds!r} or none, "
            "since this loss takes logits"
        )
    if not folded and name != SOFTMAX:
        return body, layout.LOGITS
    linear: Layer = replace(last, activation="identity") if isinstance(last, Dense) else Activation("identity")
    body[-1] = (number, linear)
    if not folded:
        return body, layout.SOFTMAX
    return body, layout.SOFTMAX_FOLDED if name == "softmax" else layout.SIGMOID_FOLDED
