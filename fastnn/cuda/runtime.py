"""A network's arrays on the device, and the launches that work on them: `fastnn.runtime.Runtime` for CUDA."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn.arrays import Data
from fastnn.cuda import _launch, block, gradient, launches
from fastnn.cuda import net as n
from fastnn.cuda import rows as few
from fastnn.cuda import step as s
from fastnn.cuda._arrays import empty, flat, to_device, view_as
from fastnn.cuda._launch import launch, processors
from fastnn.cuda._numba import ask_for_shared, driver, missing, most_shared
from fastnn.cuda.statistics import is_finite
from fastnn.cuda.tile import tiles
from fastnn.kernels import layout
from fastnn.kernels.dropout import signed
from fastnn.kernels.loss import EXTERNAL
from fastnn.kernels.update import BETA1, BETA2
from fastnn.network import Network, _aligned
from fastnn.optimizers import Optimizer
from fastnn.runtime import Report, Runtime
from fastnn.sparse import Rows

Array = npt.NDArray[Any]

STEPS_A_LAUNCH = 4096
"""Steps of one launch: barriers are counted in 32 bits, and Ctrl-C is served between two launches."""

UPDATE_CHUNK = 1024
"""Parameters of one task of the update: four a thread."""

_NO_ORDER = np.empty(0, np.int64)

VECTORS = ("params", "grads", "state")
WRITTEN = {layout.TRAIN: set(VECTORS), layout.GRADIENT: {"grads"}}
"""What a launch of a mode writes; other modes write none of these."""


@dataclass(frozen=True)
class DevicePlan:
    """Where a workspace for batches of up to `rows` rows keeps what, and which kernel works on it."""

    rows: int
    table: npt.NDArray[np.int64]
    tiles: npt.NDArray[np.int64]
    numbers: dict[int, int]
    work_size: int
    sums_size: int
    shape: s.Shape | None  # None: all of a training step is done by one block
    tasks: int
    shared: int  # bytes of a block's memory that the launch asks for
    by_library: bool = False


def make_block_plan(network: Network, rows: int, slots: int) -> DevicePlan | None:
    """Lay out what one block needs to train the whole network with; None where it has no room, or many are faster.

    `slots` are the numbers that the optimizer keeps of each parameter.
    """
    sizes = [(stage.inputs, stage.units, stage.dense is not None) for stage in network.stages]
    by_one = block.microseconds(rows, sizes, network.n_params, network.dtype.itemsize)
    if len(sizes) > block.MOST_STAGES or by_one > block.by_many(len(sizes)):
        return None
    if launches.is_worth(6.0 * rows * network.n_params, staged=False):
        return None
    table, place = _place_stages(network, rows, block.split)
    work_size = _aligned(place + rows * network.units)
    area = 2 * network.params_size + work_size
    total = area + slots * network.params_size
    shared = block.room(rows, total, network.dtype.itemsize)
    if shared + block.TABLES > most_shared():
        return None
    numbers = {
        n.N_PARAMS: network.params_size, n.N_STAGES: len(table), n.WANTED_AREA: place, n.STATE_AREA: area,
    }  # fmt: skip
    return DevicePlan(rows, table, np.zeros((1, 5), np.int64), numbers, 1, 1, None, 1, shared)


def make_plan(
    network: Network, rows: int, blocks: npt.NDArray[np.int64], with_dx: bool, learning: bool = True
) -> DevicePlan:
    """Lay out a workspace; `blocks` are those of parameters, `learning` says whether there are gradients."""
    table, place = _place_stages(network, rows, few.split)
    widths = [stage.units for stage in network.stages]
    shape = s.shape_for(network.inputs, widths, rows, network.dtype)
    second, wanted, _ = few.areas(network.inputs, max(widths), widths[-1])
    numbers = {
        layout.X_OFFSET: 0, layout.DX: place, n.N_PARAMS: network.params_size, n.N_STAGES: len(table),
        n.SECOND_AREA: second, n.WANTED_AREA: wanted,
    }  # fmt: skip
    place += _aligned(rows * network.inputs) if with_dx else 0
    by_library = launches.is_worth(6.0 * rows * network.n_params, shape.way == s.STAGED)
    own_gradient = learning and not by_library
    chunks = min(gradient.MOST_CHUNKS, tiles(rows, gradient.CHUNK_ROWS)) if own_gradient else 1
    numbers[n.PARTIAL] = place
    place += chunks * network.params_size if chunks > 1 else 0
    row_tasks = tiles(rows, shape.rows)
    gradient_tiles = _tiles_of(network, table, blocks)
    sizes = {
        n.ROW_SUMS: 2 * rows,
        n.TILE_SUMS: 2 * max(row_tasks, tiles(rows, launches.ROWS_EACH)),
        n.BLOCK_SUMS: max(len(blocks), len(gradient_tiles)),
        n.NORM_SUMS: len(blocks),
        n.COLUMN_SUMS_AT: max(widths) * tiles(rows, launches.COLUMN_ROWS),
    }
    at = 0
    for name, size in sizes.items():
        numbers[name] = at
        at += size
    numbers[n.N_TILES] = len(gradient_tiles) if network.segments else 0
    across = max(tiles(width, shape.tile.columns) for width in widths) if shape.way == s.STAGED else 1
    tasks = max(row_tasks * across, len(gradient_tiles) * chunks, len(blocks) if chunks > 1 else 0)
    shared = s.shared_room(shape, network.inputs, widths, network.dtype) * network.dtype.itemsize
    return DevicePlan(rows, table, gradient_tiles, numbers, place, at, shape, tasks, shared, by_library)


def _tiles_of(network: Network, table: npt.NDArray[Any], blocks: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the table of tiles that a gradient has."""
    number = {int(start): u for u, (start, _) in enumerate(blocks)}
    dense = [(stage.inputs, stage.units if stage.dense is not None else 0) for stage in network.stages]
    owners = [(number.get(int(row[layout.WEIGHT]), 0), number.get(int(row[layout.BIAS]), 0)) for row in table]
    return np.array(gradient.tiles_of(dense, owners) or [(0, 0, 0, 0, 0)], np.int64)


def _place_stages(
    network: Network, rows: int, split: Callable[[int, int], tuple[int, int]]
) -> tuple[npt.NDArray[np.int64], int]:
    """Return the table of stages, with the places of what they leave in the workspace, and where that ends.

    `split` says how threads are shared, from a stage's inputs and units.
    """
    host = network.plan(rows, 1).stages
    table = np.zeros((len(host), n.N_STAGE), np.int64)
    table[:, : layout.N_STAGE] = host
    before, place = 0, _aligned(rows * network.inputs)
    for row, stage in zip(table, network.stages, strict=True):
        row[layout.IN], row[layout.OUT], row[layout.SOURCE] = before, place, place
        before = place
        place += _aligned(rows * stage.units)
        if stage.keep != layout.KEEP_NONE:
            row[layout.SOURCE] = place
            place += _aligned(rows * stage.units)
        row[layout.DELTA] = place
        place += _aligned(rows * stage.units)
        row[[n.COLUMN_BITS, n.SPLIT_BITS]] = split(stage.inputs, stage.units)
    return table, place


class DeviceData:
    """Samples, with what is wanted of them, on the device."""

    def __init__(self, data: Data) -> None:
        self.rows, self.bytes = data.rows, bool(data.x_bytes.size)
        self.columns = data.targets.shape[1] if data.targets.size else 0
        self.labelled, self.weighted = bool(data.labels.size), bool(data.weights.size)
        self.x, self.x_bytes, self.labels, self.targets, self.weights = (_upload(array) for array in data)


class Sheet:
    """What a launch is told and what it reports, in one vector: a copy to the device, and one of the report back.

    Attributes
    ----------
    numbers : int64 (N_NUMBERS,)
    floats : float64 (N_FLOATS,)
    arrivals : int32 (2,)
    rates : float64 (steps, 3)
    report : float64 (steps, N_REPORT)
    """

    def __init__(self, steps: int) -> None:
        kinds: dict[str, tuple[tuple[int, ...], type]] = {
            "numbers": ((n.N_NUMBERS,), np.int64), "floats": ((layout.N_FLOATS,), np.float64),
            "arrivals": ((2,), np.int32), "rates": ((steps, 3), np.float64),
            "report": ((steps, layout.N_REPORT), np.float64),
        }  # fmt: skip
        ends = np.cumsum([math.prod(shape) * np.dtype(kind).itemsize // 8 for shape, kind in kinds.values()])
        self._host, self._there = np.zeros(ends[-1], np.int64), empty(int(ends[-1]), np.int64)
        own, self._views = dict[str, Array](), dict[str, Any]()
        for (name, (shape, kind)), start, stop in zip(kinds.items(), [0, *ends[:-1]], ends, strict=True):
            own[name] = self._host[start:stop].view(kind).reshape(shape)
            self._views[name] = view_as(self._there[int(start) : int(stop)], kind, shape)
        self.numbers, self.floats, self.rates, self.report = (
            own[name] for name in ("numbers", "floats", "rates", "report")
        )
        self.floats[:] = 1.0

    def send(self) -> dict[str, Any]:
        """Copy all of it to the device, and return the arrays there."""
        self._there.copy_to_device(self._host)
        return self._views


def _upload(array: Any) -> Any:
    """Return a vector on the device: a view of what is there already."""
    if not isinstance(array, np.ndarray):
        return flat(array)
    return to_device(array.reshape(-1)) if array.size else empty(1, array.dtype)


class CudaRuntime(Runtime):
    """Parameters, gradients, optimizer state and workspace on the device.

    Who asks for `params`, `grads` or `state` gets host arrays, as on the CPU, with what the device has made of them;
    what is written into `params` or `state` goes to the device before the next launch that reads it. While nobody asks,
    they stay on the device.

    Parameters
    ----------
    network, optimizer, truncate, seed, n_threads
        As for `Runtime`.
    matmul_precision : {"float32", "tf32", "bf16"}
        To which cuBLAS may round what it multiplies, in networks large enough for it.

    Raises
    ------
    RuntimeError
        If there is neither a device nor the simulator.
    """

    takes_sparse = False

    def __init__(
        self,
        network: Network,
        optimizer: Optimizer,
        truncate: bool,
        seed: int,
        n_threads: int | None,
        matmul_precision: str = "float32",
    ) -> None:
        _check_there()
        self.matmul_precision = matmul_precision
        self._host: dict[str, Array] = {}
        self._on_device: dict[str, Any] = {}
        self._ahead: set[str] = set()  # what the device has written, and the host has not read yet
        self._known: Array | None = None  # the parameters that are on the device, unless it is ahead with them
        super().__init__(network, optimizer, truncate, seed, n_threads)
        self._plans_made: dict[tuple[int, int, bool], DevicePlan] = {}
        self._kept: dict[bool, tuple[Data, DeviceData]] | None = None  # what is trained on, and what is not
        self._orders: list[tuple[Array, Any]] = []
        self._parts = _split(self.blocks, self.block_floats, UPDATE_CHUNK)
        self._device_work: Any = None
        self._device_sums: Any = None
        self._last: tuple[DevicePlan, Any] | None = None
        self._sheets: dict[int, Sheet] = {}
        self._constants: dict[str, tuple[Array, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles begin with the host's arrays."""
        for name in VECTORS:
            self._get(name)
        nothing: dict[str, Any] = {
            "_on_device": {},
            "_ahead": set(),
            "_known": None,
            "_kept": None,
            "_orders": [],
            "_device_work": None,
            "_device_sums": None,
            "_sheets": {},
            "_constants": {},
        }
        return {**super().__getstate__(), **nothing, "_last": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        _check_there("; a file that Sequential.save writes loads anywhere")
        super().__setstate__(state)

    def _get(self, name: str) -> Array:
        with _launch.lock:
            host = self._host[name]
            if name in self._ahead:
                if host.size:
                    self._on_device[name].copy_to_host(host)
                self._ahead.discard(name)
                if name == "params":
                    self._known = host.copy()
            return host

    def _set(self, name: str, array: Array) -> None:
        with _launch.lock:
            if name in self._host:
                self._get(name)
            self._host[name] = array
            self._on_device.pop(name, None)

    params = property(lambda self: self._get("params"), lambda self, array: self._set("params", array))
    grads = property(lambda self: self._get("grads"), lambda self, array: self._set("grads", array))
    state = property(lambda self: self._get("state"), lambda self, array: self._set("state", array))

    def _to_device(self, *names: str) -> None:
        """Bring what the host may have written to the device, and what is not there yet."""
        for name in names:
            host = self._host[name]
            if name not in self._on_device:
                self._on_device[name] = to_device(host) if host.size else empty(1, host.dtype)
            elif self._may_be_newer(name):
                self._on_device[name].copy_to_device(host)
            else:
                continue
            if name == "params":
                self._known = host.copy()

    def _may_be_newer(self, name: str) -> bool:
        """Return whether the host may have what the device has not; only parameters are read without being written."""
        host = self._host[name]
        if name in self._ahead or not host.size or name == "grads":  # a launch that reads a gradient has written it
            return False
        return name == "state" or self._known is None or not _same_bits(host, self._known)

    def snapshot(self) -> tuple[Any, Any]:
        """Return copies on the device."""
        with _launch.lock:
            self._to_device("params", "state")
            copies = []
            for name in ("params", "state"):
                there = self._on_device[name]
                copies.append(empty(there.size, there.dtype))
                copies[-1].copy_to_device(there)
        return copies[0], copies[1]

    def restore(self, snapshot: tuple[Any, Any]) -> None:
        with _launch.lock:
            self._to_device("params", "state")
            for name, there in zip(("params", "state"), snapshot, strict=True):
                self._on_device[name].copy_to_device(there)
                self._ahead.add(name)

    def is_finite(self) -> bool:
        with _launch.lock:
            return is_finite(self._on_device["params"]) if "params" in self._ahead else super().is_finite()

    def to_host(self) -> None:
        for name in ("params", "state"):
            self._get(name)

    def first_steps(self, batch: int) -> int:
        """Return what takes some 30 ms on a large card: a call costs as much as 30 small steps."""
        flops = 6.0 * batch * self.network.n_params
        return max(1, int(0.03 / (2e-5 + flops / 8e12)))

    def compile(self) -> None:
        """Do nothing: kernels are compiled for a plan, when it is known."""

    def keep_data(self, keep: bool) -> None:
        with _launch.lock:  # another thread's prediction may be looking for its data
            self._kept, self._orders = ((self._kept or {}) if keep else None), []
        if not keep:  # whoever holds the host's parameters finds there what became of them
            self._get("params")

    def _data(self, data: Data, trains: bool = False) -> DeviceData:
        """Return data on the device, while it trains kept from an earlier call: what is trained on, and one other."""
        if self._kept is None:
            return DeviceData(data)
        for known, there in self._kept.values():
            if known is data:
                return there
        self._kept.pop(trains, None)  # its memory is free before more is taken
        self._kept[trains] = data, DeviceData(data)
        return self._kept[trains][1]

    def _order(self, order: Array) -> Any:
        if not order.size:
            return empty(1, np.int64)
        for known, there in self._orders:
            if known is order:
                return there
        self._orders = [(order, to_device(order))] if self._kept is not None else []
        return self._orders[0][1] if self._orders else to_device(order)

    def training_calls(self, data: Rows, batch: int) -> Callable[[Array, int, int, int, Array, Report], None]:
        assert isinstance(data, Data)
        if self._kept is not None:  # all that is taken to the device once goes there before the first step
            with _launch.lock:
                plan = self._plan_for(batch, layout.TRAIN)
                self._data(data, trains=True)
                self._to_device(*VECTORS)
                self._room(plan)
                self._constants_of(plan)

        def train(order: Array, first: int, rows: int, step: int, rates: Array, report: Report) -> None:
            each = tiles(rows, batch)
            for start in range(0, len(report), each):
                begin = first + (start // each * rows if order.size else 0)
                for part in range(start, start + each, STEPS_A_LAUNCH):
                    steps = min(start + each - part, STEPS_A_LAUNCH)
                    done = (part - start) * batch
                    self._run(
                        layout.TRAIN, data, order, first=begin + done, rows=min(rows - done, steps * batch),
                        batch=batch, step=step + part, dropout=True, rates=rates[part : part + steps],
                        report=report[part : part + steps],
                    )  # fmt: skip
                    if not report[part + steps - 1, layout.REPORT_ROWS]:
                        return

        return train

    def train_once(self, data: Rows, step: int, rates: Array) -> Report:
        report = np.zeros((1, layout.N_REPORT))
        self.training_calls(data, data.rows)(_NO_ORDER, 0, data.rows, step, rates, report)
        return report

    def apply(self, step: int, rates: Array) -> None:
        """Take the step on the CPU, where gradients of one's own come from: parameters and state make the way twice."""
        with _launch.lock:
            self.to_host()
            super().apply(step, rates)

    def gradient_calls(self, data: Rows, most: int) -> Callable[[int, int], Report]:
        assert isinstance(data, Data)
        with _launch.lock:
            there = self._data(data)

        def gradient(first: int, rows: int) -> Report:
            report = np.zeros((1, layout.N_REPORT))
            self._run(layout.GRADIENT, there, _NO_ORDER, first=first, rows=rows, batch=rows, report=report)
            return report

        return gradient

    def gradient(
        self, data: Rows, step: int, dropout: bool, out: Array | None = None, external: bool = False
    ) -> Report:
        assert isinstance(data, Data)
        report = np.zeros((1, layout.N_REPORT))
        self._run(
            layout.GRADIENT, data, _NO_ORDER, rows=data.rows, batch=data.rows, step=step, dropout=dropout,
            report=report, out=out, want_dx=out is not None, external=external,
        )  # fmt: skip
        return report

    def forward(
        self, data: Rows, first: int, rows: int, out: Array, report: Report | None = None, step: int | None = None
    ) -> None:
        assert isinstance(data, Data)
        batch = self.blocks_of_rows(data.rows) if step is None else rows
        if self._kept is None:
            data, first = data.part(first, first + rows), 0
        mode = layout.FORWARD if report is None else layout.EVALUATE
        if report is None:
            report = np.zeros((tiles(rows, batch), layout.N_REPORT))
        with self.alone:  # `activations` reads what a gradient has left in the workspace
            self._run(
                mode, data, _NO_ORDER, first=first, rows=rows, batch=batch, step=step or 0, dropout=step is not None,
                report=report, out=out, want_out=True,
            )  # fmt: skip

    def few_rows_forward(self, x: Any) -> Array | None:
        return None

    def activations(self, stage: int, rows: int) -> tuple[Array, Array]:
        assert self._last is not None
        plan, work = self._last
        row, size = plan.table[stage], rows * plan.table[stage, layout.N_OUT]
        found = (work[row[at] : row[at] + size].copy_to_host().reshape(rows, -1) for at in (layout.OUT, layout.SOURCE))
        return tuple(found)

    @property
    def rows(self) -> int:
        """Rows of the largest batch so far; 0 before the first."""
        return max((rows for rows, _, _ in self._plans_made), default=0)

    def _plan_for(self, rows: int, mode: int, with_dx: bool = False) -> DevicePlan:
        """Return the plan for batches of up to `rows` rows; the last ones are kept."""
        key = (rows, mode, with_dx)
        if key not in self._plans_made:
            if len(self._plans_made) == 8:
                self._plans_made.clear()
            slots = sum(offset >= 0 for offset in self._state_offsets)
            plan = make_block_plan(self.network, rows, slots) if mode == layout.TRAIN else None
            self._plans_made[key] = plan or make_plan(self.network, rows, self._parts[0], with_dx, mode in WRITTEN)
        return self._plans_made[key]

    def _room(self, plan: DevicePlan) -> None:
        """Make the workspace as large as a plan wants it."""
        if self._device_work is None or self._device_work.size < plan.work_size:
            self._device_work = self._last = None  # its memory is free before more is taken
            self._device_work = empty(plan.work_size, self.network.dtype)
        if self._device_sums is None or self._device_sums.size < plan.sums_size:
            self._device_sums = empty(plan.sums_size, np.float64)

    def _run(
        self,
        mode: int,
        data: Data | DeviceData,
        order: Array,
        *,
        rows: int,
        batch: int,
        report: Report,
        first: int = 0,
        step: int = 0,
        dropout: bool = False,
        rates: Array | None = None,
        out: Array | None = None,
        want_dx: bool = False,
        want_out: bool = False,
        external: bool = False,
    ) -> None:
        """Launch what does the steps asked for, and wait for it."""
        written = WRITTEN.get(mode, set())
        with _launch.lock:
            plan = self._plan_for(batch, mode, want_dx)  # a shorter batch sums in the same order
            there = data if isinstance(data, DeviceData) else self._data(data, mode == layout.TRAIN)
            self._to_device(*{"params", *written})
            self._room(plan)
            sheet = self._sheet_for(len(report))
            sheet.numbers[:] = self._numbers(plan, there, order)
            sheet.numbers[[layout.MODE, layout.FIRST_STEP]] = mode, step
            sheet.numbers[[layout.FIRST_ROW, layout.N_ROWS, layout.BATCH]] = first, rows, batch
            sheet.numbers[[layout.N_STEPS, layout.DROPOUT]] = tiles(rows, batch), dropout
            sheet.numbers[[layout.WANT_DX, layout.WANT_OUT]] = want_dx, want_out
            sheet.numbers[layout.LOSS] = EXTERNAL if external else self.network.loss.code
            sheet.floats[[layout.HUBER_DELTA, layout.CLIP_NORM]] = self.network.loss.delta, self._clip_norm
            sheet.floats[[layout.LOSS_SCALE, layout.PER_WEIGHT]] = self.loss_scale, self.penalty_per_weight
            sheet.rates[:] = self._step_numbers(rates, step)
            sheet.report[:] = report
            result = empty(1 if out is None else out.size, self.network.dtype)
            work = self._device_work[: plan.work_size]
            told, known = sheet.send(), self._constants_of(plan)
            arguments = (
                told["numbers"], known["table"], told["floats"], known["scales"], known["hyper"], known["tiles"],
                known["blocks"], known["block floats"],
                *self._vectors(), work, self._device_sums,
                there.x, there.x_bytes, known["rescale"], there.labels, there.targets, there.weights,
                self._order(order), told["rates"], told["report"], result, told["arrivals"],
            )  # fmt: skip
            self._ahead |= written
            try:
                self._launch(plan, arguments, sheet.numbers)
            finally:  # an interrupt is raised when the launch is over: its steps count
                report[:] = told["report"].copy_to_host()
            if out is not None:
                out[:] = result.copy_to_host().reshape(out.shape)
            self._last = (plan, work)

    def _vectors(self) -> list[Any]:
        """Return the device's arrays; parameters in the place of what is not there, since no launch wanted it yet."""
        return [self._on_device.get(name, self._on_device["params"]) for name in VECTORS]

    def _sheet_for(self, steps: int) -> Sheet:
        """Return what a launch of so many steps is told by; the last few are kept."""
        if steps not in self._sheets:
            if len(self._sheets) == 4:
                self._sheets.clear()
            self._sheets[steps] = Sheet(steps)
        return self._sheets[steps]

    def _constants_of(self, plan: DevicePlan) -> dict[str, Any]:
        """Return copies on the device of the arrays that are the same in most launches."""
        network = self.network
        arrays = {
            "table": plan.table, "scales": network.scales, "hyper": self._hyper, "tiles": plan.tiles,
            "blocks": self._parts[0], "block floats": self._parts[1], "rescale": network.rescale.reshape(-1),
        }  # fmt: skip
        for name, array in arrays.items():
            known = self._constants.get(name)
            if known is None or known[0].shape != array.shape or known[0].tobytes() != array.tobytes():
                there = to_device(array) if array.size else empty(1, array.dtype)
                self._constants[name] = (array.copy(), there)
        return {name: there for name, (_, there) in self._constants.items()}

    def _launch(self, plan: DevicePlan, arguments: tuple[Any, ...], numbers: npt.NDArray[np.int64]) -> None:
        if plan.by_library:
            launches.run_steps(arguments, plan.table, numbers, self._clip_norm < math.inf, self.matmul_precision)
            return
        dtype = self.network.dtype
        kernel = s.make_kernel(dtype, plan.shape) if plan.shape else block.make_kernel(dtype)
        if plan.shape is None:
            ask_for_shared(kernel, arguments, plan.shared)
        launch(kernel, min(processors(), plan.tasks), *arguments, shared=plan.shared)
        driver.synchronize()

    def _numbers(self, plan: DevicePlan, there: DeviceData, order: Array) -> npt.NDArray[np.int64]:
        network, numbers = self.network, np.zeros(n.N_NUMBERS, np.int64)
        for position, value in plan.numbers.items():
            numbers[position] = value
        numbers[[layout.SEED, layout.OUTPUT, n.OPTIMIZER]] = signed(self.seed), network.output, self.optimizer.code
        numbers[[layout.STATE_0, layout.STATE_1, layout.STATE_2]] = self._state_offsets
        numbers[[n.LABELLED, n.WEIGHTED, n.TARGETS, n.BYTES]] = (
            there.labelled, there.weighted, there.columns, there.bytes
        )  # fmt: skip
        numbers[[n.RESCALED, n.ORDERED]] = bool(network.rescale.size), bool(order.size)
        numbers[n.PENALISED] = bool((self._parts[1][:, [0, 1, 3]] > 0).any())
        numbers[n.N_BLOCKS] = len(self._parts[0]) if self.network.segments else 0
        return numbers

    def _step_numbers(self, rates: Array | None, step: int) -> npt.NDArray[np.float64]:
        """Return what differs from step to step: rates, and Adam's 1 - b1^t and sqrt(1 - b2^t).

        Each thread of the device would take hundreds of instructions for such a power.
        """
        if rates is None:
            return np.zeros((1, 3))  # nobody reads them
        t = np.arange(step + 1, step + 1 + len(rates))
        first, second = 1.0 - self._hyper[BETA1] ** t, np.sqrt(1.0 - self._hyper[BETA2] ** t)
        return np.stack([rates, first, second], axis=1)


def _check_there(advice: str = "") -> None:
    """Raise a RuntimeError where no kernel can run."""
    if missing():
        raise RuntimeError(f"device: got 'cuda', but {missing()}{advice}")


def _same_bits(a: Array, b: Array) -> bool:
    """Return whether vectors of one float type and size are the same, NaN and the sign of 0 included."""
    kind = f"i{a.dtype.itemsize}"
    return bool(np.array_equal(a.view(kind), b.view(kind)))


def _split(
    blocks: npt.NDArray[np.int64], floats: npt.NDArray[np.float64], most: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Cut blocks of parameters into smaller ones, each with the numbers of the block that it is of."""
    places = [
        (u, low, min(low + most, stop)) for u, (start, stop) in enumerate(blocks) for low in range(start, stop, most)
    ]
    if not places:  # a device has no array of nothing; the numbers of a launch say that there is no block
        return np.zeros((1, 2), np.int64), np.zeros((1, 4))
    table = np.array(places, np.int64)
    return np.ascontiguousarray(table[:, 1:]), np.ascontiguousarray(floats[table[:, 0]])
