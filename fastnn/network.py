"""Layers become a network as data: a table of stages, offsets into one flat parameter vector, one workspace.

A stage is a dense layer with the activation and dropout behind it, or an activation or dropout of its own.
Compiled code reads the table (`kernels/epoch.py`), so another architecture compiles nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn.activations import SOFTMAX
from fastnn.kernels import epoch as e
from fastnn.kernels import formulas
from fastnn.kernels.activation import CHUNK
from fastnn.kernels.dropout import GROUP, threshold_of
from fastnn.kernels.gemm import product_scratch, product_tasks
from fastnn.layers import Activation, Dense, Dropout, Layer, Rescale
from fastnn.losses import Loss

ALIGN = 16
"""Segments begin at multiples of this many elements: a cache line of float32."""

_MOST_PARAMETERS = 1 << 44
"""More than any address space holds: a slip of the pen, not a network."""

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
    """One stage:

    The dense layer (None for an element-wise stage) with its activation and dropout, and which layers they
    were.
    """

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
    def keep(self) -> int:
        """What is kept besides the output for the backward pass (see `kernels/epoch.py`)."""
        code = formulas.CODES[self.activation]
        if code in formulas.NEEDS_Z:
            return e.KEEP_Z
        read_from_output = (formulas.ELU, formulas.SIGMOID, formulas.TANH, formulas.SOFTPLUS)
        return e.KEEP_A if self.dropout > 0 and code in read_from_output else e.KEEP_NONE


@dataclass(frozen=True)
class Plan:
    """Stages with workspace offsets for batches of up to `rows`, the workspace's size, and how many threads share it:

    `members` of the `threads` there are, since one without a task would only wait.
    """

    rows: int
    stages: npt.NDArray[np.int64]
    offsets: dict[int, int]
    work_size: int
    threads: int
    members: int


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
        self.output = e.LOGITS
        body = list(enumerate(layers))
        if body and isinstance(body[0][1], Rescale):
            self.rescale = body.pop(0)[1].table(inputs, dtype)  # type: ignore[attr-defined]
        self.stages = self._build_stages(body, loss)
        self.units = self.stages[-1].units
        self.segments = self._place(l1, l2)
        self.n_params = sum(segment.size for segment in self.segments)
        self.params_size = _aligned(max((segment.stop for segment in self.segments), default=1))
        if self.params_size > _MOST_PARAMETERS:
            raise ValueError(f"layers: got {self.n_params:,} parameters, expected at most {_MOST_PARAMETERS:,}")
        self._plans: dict[tuple[int, int], Plan] = {}
        self.scales = np.array([1.0 / (1.0 - stage.dropout) for stage in self.stages])

    def _build_stages(self, body: list[tuple[int, Layer]], loss: Loss) -> list[Stage]:
        body, self.output = _fold_output(body, loss)
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
            segments.append(Segment(f"dense_{number}.weight", place, (stage.inputs, stage.units), own_l1, own_l2))
            place = _aligned(segments[-1].stop)
            if dense.use_bias:
                segments.append(Segment(f"dense_{number}.bias", place, (stage.units,)))
                place = _aligned(segments[-1].stop)
        return segments

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

    def plan(self, rows: int, threads: int) -> Plan:
        """Lay out a workspace for batches of up to `rows` rows on up to `threads` threads; the last plans are kept."""
        plan = self._plans.get((rows, threads))
        if plan is None:
            if len(self._plans) == 16:
                self._plans.clear()
            plan = self._plans[rows, threads] = self._make_plan(rows, threads)
        return plan

    def _make_plan(self, rows: int, threads: int) -> Plan:
        table = np.zeros((len(self.stages), e.N_STAGE), np.int64)
        weights = iter(self.segments)
        place = _aligned(rows * self.inputs)
        before, widest, each = 0, self.inputs, 0
        members = max(e.row_tasks(rows, self.inputs), e.row_tasks(rows, 8 * self.units), -(-self.params_size // CHUNK))
        for row, stage in zip(table, self.stages, strict=True):
            widest = max(widest, stage.units)
            row[e.KIND] = e.DENSE if stage.dense is not None else e.ELEMENTWISE
            row[[e.N_IN, e.N_OUT, e.ACTIVATION]] = stage.inputs, stage.units, formulas.CODES[stage.activation]
            row[[e.IN, e.OUT, e.SOURCE, e.KEEP]] = before, place, place, stage.keep
            before = place
            place += _aligned(rows * stage.units)
            if stage.keep != e.KEEP_NONE:
                row[e.SOURCE] = place
                place += _aligned(rows * stage.units)
            row[e.LAYER] = stage.dropout_layer
            row[e.THRESHOLD] = threshold_of(stage.dropout)
            row[e.BIAS] = -1
            if stage.dense is not None:
                row[e.WEIGHT] = next(weights).start
                if stage.dense.use_bias:
                    row[e.BIAS] = next(weights).start
                shapes = _products(rows, stage.inputs, stage.units)
                each = max(each, *(product_scratch(*shape, self.dtype) for shape in shapes))
                members = max(members, *(product_tasks(*shape, threads) for shape in shapes))
                if before and e.backward_shared.py_func(rows, stage.inputs, stage.units):
                    members = max(members, sum(product_tasks(*shape, threads) for shape in shapes[1:]))
            else:
                members = max(members, e.row_tasks(rows, stage.units))
        offsets = {e.X_OFFSET: 0, e.T_OFFSET: place}
        place += _aligned(rows * self.units)
        offsets |= {e.DELTA_0: place, e.DELTA_1: place + _aligned(rows * widest)}
        offsets[e.SCRATCH] = offsets[e.DELTA_1] + _aligned(rows * widest)
        offsets[e.SCRATCH_EACH] = _aligned(GROUP + each)
        members = min(members, threads)
        return Plan(rows, table, offsets, offsets[e.SCRATCH] + members * offsets[e.SCRATCH_EACH], threads, members)


def _products(rows: int, inputs: int, units: int) -> tuple[tuple[int, int, int], ...]:
    """Return the shapes (M, N, K) of X W, X^T dZ and dZ W^T."""
    return (rows, units, inputs), (inputs, units, rows), (rows, inputs, units)


def _fold_output(body: list[tuple[int, Layer]], loss: Loss) -> tuple[list[tuple[int, Layer]], int]:
    """Take a softmax or sigmoid off the end where the loss or the output step works it out."""
    body = list(body)
    for position, (number, layer) in enumerate(body):
        name = layer.activation if isinstance(layer, Dense) else layer.name if isinstance(layer, Activation) else None
        if isinstance(layer, Rescale):
            raise ValueError(f"layers: got Rescale as layer {number}, expected it as the first layer only")
        if name == SOFTMAX and position != len(body) - 1:
            raise ValueError(f"layers: got softmax in layer {number}, expected it in the last layer only")
    if not body:
        return body, e.LOGITS
    number, last = body[-1]
    name = last.activation if isinstance(last, Dense) else last.name if isinstance(last, Activation) else None
    folded = name is not None and name == loss.folds
    if loss.folds is not None and not folded and name in ("softmax", "sigmoid"):
        raise ValueError(
            f"layers: got {name!r} as the last activation under {loss.name!r}, expected {loss.folds!r} or none, "
            "since this loss "
            "takes logits"
        )
    if not folded and name != SOFTMAX:
        return body, e.LOGITS
    linear: Layer = replace(last, activation="identity") if isinstance(last, Dense) else Activation("identity")
    body[-1] = (number, linear)
    output = {"softmax": e.SOFTMAX_FOLDED, "sigmoid": e.SIGMOID_FOLDED}[str(name)] if folded else e.SOFTMAX
    return body, output
