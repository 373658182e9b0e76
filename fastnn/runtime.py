"""A network's arrays, and the compiled calls that work on them."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba.core import config as _numba_config

from fastnn.arrays import Data
from fastnn.kernels import epoch, layout, partition
from fastnn.kernels._context import Context
from fastnn.kernels._team import team_words
from fastnn.kernels.dropout import signed
from fastnn.kernels.loss import EXTERNAL
from fastnn.network import Network, Plan, aligned_empty
from fastnn.optimizers import Optimizer
from fastnn.sparse import Rows, SparseData

config: Any = _numba_config
Array = npt.NDArray[Any]
Report = npt.NDArray[np.float64]

_NO_ORDER = np.empty(0, np.int64)
_DATA = layout.X, layout.X_BYTES, layout.LABELS, layout.TARGETS, layout.WEIGHTS
_SPARSE_DATA = layout.X_STARTS, layout.X_COLUMNS, layout.X_VALUES, *_DATA[2:]
_OF_ONE_CALL = *_DATA[:2], *_SPARSE_DATA, layout.RESULT
_FEW_ROWS, _FEW_FLOPS = 64, 4_000_000
"""What `few_rows_forward` is made for: up to 100 us of work, which one thread does."""

_PREDICT_ELEMENTS = 1 << 20
"""Workspace of one block of rows in prediction, in elements: a few MB, so that a block stays in the caches."""


class Runtime:
    """Parameters, gradients, optimizer state and workspace of one network, and what can be done with them.

    Parameters
    ----------
    network : Network
    optimizer : Optimizer
    truncate : bool
        Whether L1 is a soft threshold after the step instead of a part of the gradient.
    seed : int
        Key of the dropout masks.
    n_threads : int or None
        None: all that Numba may use.
    """

    takes_sparse = True
    """Whether calls on many rows take `SparseData`, too, where the first stage has weights."""

    def __init__(
        self, network: Network, optimizer: Optimizer, truncate: bool, seed: int, n_threads: int | None
    ) -> None:
        self.network, self.optimizer, self.seed, self.n_threads = network, optimizer, seed, n_threads
        size, dtype = network.params_size, network.dtype
        self.params = aligned_empty(size, dtype)
        self.grads = aligned_empty(size, dtype)
        self.params[:] = 0.0
        self.grads[:] = 0.0
        self.slots = [name for name in optimizer.slots if name is not None]
        self.state = aligned_empty(size * len(self.slots), dtype)
        self.state[:] = 0.0
        self.blocks, self.block_floats, self.block_tasks = network.update_blocks(optimizer.weight_decay_rate, truncate)
        self.loss_scale, self.penalty_per_weight = 1.0, False  # see LOSS_SCALE, PER_WEIGHT in `kernels/layout.py`
        self._hyper = optimizer.hyper()
        self._clip_norm = math.inf if optimizer.clip_norm is None else optimizer.clip_norm
        kept = [name is not None for name in optimizer.slots]
        self._state_offsets = [size * sum(kept[:i]) if kept[i] else -1 for i in range(len(kept))]
        self._plan: Plan | None = None
        self._work = np.empty(0, dtype)
        self._lock = os.getpid(), threading.RLock()
        self._few: Callable[[Runtime, Any], Array | None] | None = None
        self._standing_contexts: dict[tuple[int, int, bool], Context] = {}
        self._single: dict[tuple[int, bool], tuple[Context, Array, Report]] = {}  # see `_once`

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles have no workspace, which holds rows that were trained on, and no addresses."""
        nothing: dict[str, Any] = {
            "_plan": None,
            "_work": np.empty(0, self.network.dtype),
            "_standing_contexts": {},
            "_single": {},
            "_few": None,
            "_lock": None,
        }
        return {**self.__dict__, **nothing}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=(os.getpid(), threading.RLock()))

    @property
    def alone(self) -> contextlib.AbstractContextManager[Any]:
        """A lock for what shares workspace and `grads`; a forked process has one of its own, which nobody holds."""
        if self._lock[0] != os.getpid():
            self._lock = os.getpid(), threading.RLock()
        return self._lock[1]

    def snapshot(self) -> tuple[Any, Any]:
        """Return copies of parameters and optimizer state, for `restore`."""
        return self.params.copy(), self.state.copy()

    def restore(self, snapshot: tuple[Any, Any]) -> None:
        """Go back to what `snapshot` returned."""
        self.params[:], self.state[:] = snapshot

    def is_finite(self) -> bool:
        """Return whether no parameter is NaN or infinite."""
        return bool(np.isfinite(self.params).all())

    def to_host(self) -> None:
        """Bring parameters and state to where their arrays are read and written: they are there."""

    def first_steps(self, batch: int) -> int:
        """Return the steps of the first call of a training run; how long it took says how many the next one takes."""
        return 1

    def compile(self) -> None:
        """Compile or load what training needs: before anything else, since other processes help with it."""
        epoch.addresses(self.network.dtype, self.network.output, self.network.loss.code, self.optimizer.code)

    def keep_data(self, keep: bool) -> None:
        """Say that calls on the same data follow, or no more: here it is read where it lies, a GPU keeps a copy."""

    def slot(self, index: int) -> Array:
        """Return the optimizer's state vector number `index`."""
        size = self.network.params_size
        return self.state[index * size : (index + 1) * size]

    @property
    def threads(self) -> int:
        """Threads that the next call may use."""
        if self.n_threads is not None:  # Numba takes a lock to answer, which forked processes share
            return min(self.n_threads, config.NUMBA_NUM_THREADS)
        available: int = numba.get_num_threads()
        return available

    @property
    def rows(self) -> int:
        """Rows of the largest batch so far; 0 before the first."""
        return 0 if self._plan is None else self._plan.rows

    def training_calls(self, data: Rows, batch: int) -> Callable[[Array, int, int, int, Array, Report], None]:
        """Return what takes a step on each batch of the rows order[first : first + rows]; `report` tells what was done.

        For one set of data and one size of batch; see `_repeated`. A report of more steps than these rows have asks for
        more passes: over the rows that follow in `order`, or over the same again where it is empty.
        """
        c = self._repeated(layout.TRAIN, data, batch)

        def train(order: Array, first: int, rows: int, step: int, rates: Array, report: Report) -> None:
            nonlocal c
            if not c.holds(layout.WORK, self._work):  # a callback asked for more rows: one workspace is enough
                c = self._repeated(layout.TRAIN, data, batch)
            numbers = c.integers
            numbers[layout.FIRST_STEP], numbers[layout.FIRST_ROW] = step, first
            numbers[layout.N_ROWS], numbers[layout.N_STEPS] = rows, len(report)
            c[layout.ORDER], c[layout.RATES], c[layout.REPORT] = order, rates, report
            self._do(c)

        return train

    def train_once(self, data: Rows, step: int, rates: Array) -> Report:
        """Take one step on all rows as one batch and return its report."""
        return self._once(layout.TRAIN, data, step, True, rates=rates)

    def gradient_calls(self, data: Rows, most: int) -> Callable[[int, int], Report]:
        """Return a function that writes into `grads` the gradient of rows [first, first + rows) as one batch.

        Without dropout, at most `most` rows a call. What it returns is the same array every time. See `_repeated`.
        """
        c = self._repeated(layout.GRADIENT, data, most)
        numbers = c.integers
        report = c[layout.REPORT] = np.zeros((1, layout.N_REPORT))
        numbers[layout.N_STEPS], numbers[layout.ROWS_STAY] = 1, 0

        def gradient(first: int, rows: int) -> Report:
            report[:] = 0.0
            numbers[layout.FIRST_ROW], numbers[layout.N_ROWS], numbers[layout.BATCH] = first, rows, rows
            self._do(c)
            return report

        return gradient

    def _repeated(self, mode: int, data: Rows, batch: int) -> Context:
        """Return a context for calls on the same data.

        Putting one together takes some 40 us, as much as an epoch of a small network. It holds on to the data, the
        workspace, and the state as it is now.
        """
        self._ensure_workspace(min(batch, data.rows), not isinstance(data, SparseData))
        training = mode == layout.TRAIN
        return self._context(mode, data, rows=0, batch=batch, dropout=training, report=np.zeros((0, 0)))

    def _do(self, c: Context) -> None:
        """Do what a context says; it is to be kept till then, since it holds the arrays."""
        many = c.integers[layout.MEMBERS] > 1  # to set their number takes 3 us
        with _threads(self.n_threads) if many and self.n_threads is not None else contextlib.nullcontext():
            epoch.execute(c.integers, self.params)

    def gradient(
        self, data: Rows, step: int, dropout: bool, out: Array | None = None, external: bool = False
    ) -> Report:
        """Write the gradient of all rows as one batch into `grads`; with `out`, also that of the input."""
        return self._once(layout.GRADIENT, data, step, dropout, out=out, external=external)

    def apply(self, step: int, rates: Array) -> None:
        """Take one step with the gradients that are in `grads`, as they are: no penalty is added."""
        no_rows = Data.unlabelled(np.zeros((1, self.network.inputs), self.network.dtype), np.empty((0, 0), np.uint8))
        self._once(layout.APPLY, no_rows, step, False, rates=rates)

    def _once(
        self,
        mode: int,
        data: Rows,
        step: int,
        dropout: bool,
        *,
        rates: Array | float = 0.0,
        out: Array | None = None,
        external: bool = False,
    ) -> Report:
        """Work on all rows as one batch and return the report, which is the same array every time.

        The context is kept for the next call of this mode on such rows, which takes a third of the time then.
        """
        sparse = isinstance(data, SparseData)
        self._ensure_workspace(data.rows, out is not None or not (sparse or mode == layout.APPLY))
        kept = self._single.pop((mode, sparse), None)  # another Python thread makes its own
        if kept is None or not (kept[0].holds(layout.WORK, self._work) and self._is_current(kept[0])):
            rate, report = np.empty(1), np.empty((1, layout.N_REPORT))
            kept = self._context(mode, data, rows=1, batch=1, rates=rate, report=report), rate, report
        c, rate, report = kept
        numbers = c.integers
        numbers[layout.FIRST_STEP], numbers[layout.DROPOUT] = step, dropout
        numbers[layout.LOSS] = EXTERNAL if external else self.network.loss.code
        numbers[layout.N_ROWS] = numbers[layout.BATCH] = data.rows
        rate[:] = rates
        report[:] = 0.0
        numbers[layout.WANT_DX] = out is not None
        if out is not None:
            c[layout.RESULT] = out
        self._put_data(c, data)
        self._do(c)
        c.release(*_OF_ONE_CALL)
        self._single[mode, sparse] = kept
        return report

    def blocks_of_rows(self, rows: int) -> int:
        """Return how many rows one block of a prediction has: a function of the network alone."""
        width = self.network.inputs + sum(stage.units for stage in self.network.stages)
        return min(rows, max(16, _PREDICT_ELEMENTS // width))

    def forward(
        self, data: Rows, first: int, rows: int, out: Array, report: Report | None = None, step: int | None = None
    ) -> None:
        """Write the outputs of rows [first, first + rows); with `report`, also the loss of each block of rows.

        With `step`, dropout works, with the masks that these rows have as this step's batch.
        """
        batch = self.blocks_of_rows(data.rows) if step is None else rows
        plan = self.network.plan(min(batch, rows), self.threads, not isinstance(data, SparseData))
        work = aligned_empty(plan.work_size, self.network.dtype)
        mode = layout.FORWARD if report is None else layout.EVALUATE
        if report is None:
            report = np.zeros((-(-rows // batch), layout.N_REPORT))
        c = self._context(
            mode, data, first=first, rows=rows, batch=batch, report=report, out=out, want_out=True, plan=plan,
            work=work, dropout=step is not None,
        )  # fmt: skip
        c.integers[layout.FIRST_STEP] = step or 0
        self._do(c)

    def few_rows_forward(self, x: Any) -> Array | None:
        """Return the outputs for at most _FEW_ROWS finite rows of floats, where microseconds count; None for others.

        Contexts are kept for the next call; each call has one to itself, so that threads do not meet.
        """
        if self._few is None:
            self._few = self._make_few()
        return self._few(self, x)

    def _make_few(self) -> Callable[[Runtime, Any], Array | None]:
        """Return what `few_rows_forward` calls, with all it needs at hand.

        It keeps no reference to this runtime, whose memory would then wait for Python to look for cycles.
        """
        network, forward = self.network, epoch.forward_rows
        dtype, inputs, units, empty = network.dtype, network.inputs, network.units, np.empty
        most = max(1, min(_FEW_ROWS, _FEW_FLOPS // (2 * network.params_size)))
        contexts: list[npt.NDArray[np.int64]] = []
        kept: list[Context] = []

        def few(runtime: Runtime, x: Any) -> Array | None:
            if type(x) is not np.ndarray or x.ndim != 2:
                return None
            rows, columns = x.shape
            if columns != inputs or rows > most or rows == 0:
                return None
            if x.dtype != dtype or not x.flags.carray:
                if x.dtype.kind != "f":
                    return None
                with np.errstate(over="ignore"):
                    x = x.astype(dtype, order="C")
            try:
                c = contexts.pop()
            except IndexError:
                context = runtime._few_context(most)
                kept.append(context)
                c = context.integers
            out = empty((rows, units), dtype)
            finite = forward(c, x, out)
            contexts.append(c)
            return out if finite else None

        return few

    def _few_context(self, rows: int) -> Context:
        network = self.network
        plan = network.plan(rows, 1)
        data = Data.unlabelled(np.empty((rows, network.inputs), network.dtype), np.empty((0, 0), np.uint8))
        context = self._context(
            layout.FORWARD, data, rows=rows, batch=rows, report=np.zeros((1, layout.N_REPORT)),
            out=np.empty((rows, network.units), network.dtype), want_out=True, plan=plan,
            work=aligned_empty(plan.work_size, network.dtype),
        )  # fmt: skip
        epoch.compile_forward_rows(network.dtype)
        return context

    def activations(self, stage: int, rows: int) -> tuple[Array, Array]:
        """Return views of (output, what its derivative reads) of a stage after `gradient` on `rows` rows."""
        assert self._plan is not None
        row = self._plan.stages[stage]
        size = rows * row[layout.N_OUT]
        return tuple(self._work[row[at] : row[at] + size].reshape(rows, -1) for at in (layout.OUT, layout.SOURCE))  # type: ignore[return-value]

    def _ensure_workspace(self, rows: int, samples: bool) -> None:
        """Have a workspace for so many rows, with room for `samples` or, where it is to be larger, without."""
        threads, there = self.threads, self._plan
        if there is None or there.rows < rows or there.threads != threads or samples > there.samples:
            alike = there is not None and there.samples == samples
            plan = self.network.plan(max(rows, self.rows) if alike else rows, threads, samples)
            self._single.clear()  # which hold the older workspace
            self._work, self._plan = aligned_empty(plan.work_size, self.network.dtype), plan

    def _context(
        self,
        mode: int,
        data: Rows,
        *,
        rows: int,
        batch: int,
        report: Report,
        first: int = 0,
        dropout: bool = False,
        rates: Array | None = None,
        out: Array | None = None,
        want_out: bool = False,
        plan: Plan | None = None,
        work: Array | None = None,
    ) -> Context:
        """Put together all that a compiled call works on (see `kernels/layout.py`)."""
        network, optimizer = self.network, self.optimizer
        if plan is None or work is None:
            assert self._plan is not None
            plan, work = self._plan, self._work
        c = self._standing(plan).copy()
        numbers = c.integers
        numbers[[layout.MODE, layout.FIRST_ROW, layout.N_ROWS, layout.BATCH]] = mode, first, rows, batch
        numbers[[layout.N_STEPS, layout.LOSS]] = -(-rows // batch), network.loss.code
        numbers[[layout.DROPOUT, layout.WANT_OUT, layout.ROWS_STAY]] = dropout, want_out, mode != layout.TRAIN
        loss = None if mode == layout.FORWARD else network.loss.code
        rule = optimizer.code if mode in (layout.TRAIN, layout.APPLY) else None
        addresses = epoch.addresses(network.dtype, network.output, loss, rule)
        numbers[layout.RUN_MEMBER : layout.SOFTMAX_ROWS + 1] = addresses
        floats = c[layout.FLOATS] = np.ones(layout.N_FLOATS)
        floats[[layout.HUBER_DELTA, layout.CLIP_NORM]] = network.loss.delta, self._clip_norm
        floats[[layout.LOSS_SCALE, layout.PER_WEIGHT]] = self.loss_scale, self.penalty_per_weight
        c[layout.PARTIAL] = np.zeros((max(partition.most_loss_blocks.py_func(plan.rows), len(self.block_tasks)), 2))
        c[layout.TEAM], c[layout.WORK] = team_words(plan.members), work
        self._put_data(c, data)
        c[layout.ORDER] = _NO_ORDER
        c[layout.BATCH_LABELS], c[layout.BATCH_WEIGHTS] = np.empty(plan.rows, np.int64), np.empty(plan.rows)
        c[layout.HYPER] = self._hyper.copy()
        c[layout.RATES] = np.empty(0) if rates is None else rates
        c[layout.REPORT] = report
        c[layout.RESULT] = np.empty((0, 0), network.dtype) if out is None else out
        if mode == layout.APPLY:
            c[layout.BLOCK_FLOATS] = self.block_floats * [0.0, 0.0, 1.0, 1.0]  # no l1, no l2
        return c

    def _is_current(self, c: Context) -> bool:
        """Return whether a context is of the vectors that there are now: estimators replace them."""
        return c.holds(layout.PARAMS, self.params) and c.holds(layout.STATE, self.state)

    @staticmethod
    def _put_data(c: Context, data: Rows) -> None:
        """Say in a context which rows a call works on."""
        array: Any
        positions, arrays = (_SPARSE_DATA, data[:-1]) if isinstance(data, SparseData) else (_DATA, data)
        for position, array in zip(positions, arrays, strict=True):
            c[position] = array

    def _standing(self, plan: Plan) -> Context:
        """Return what is the same in all contexts for one plan: made once, or again where vectors were replaced."""
        key = plan.rows, plan.threads, plan.samples
        kept = self._standing_contexts.get(key)
        if kept is not None and self._is_current(kept):
            return kept
        network = self.network
        c = Context(layout.N_CONTEXT)
        for position, value in plan.offsets.items():
            c[position] = value
        numbers = c.integers
        numbers[[layout.THREADS, layout.MEMBERS]] = plan.threads, plan.members
        numbers[[layout.SEED, layout.OUTPUT]] = signed(self.seed), network.output
        numbers[[layout.STATE_0, layout.STATE_1, layout.STATE_2]] = self._state_offsets
        c[layout.STAGES], c[layout.SCALES], c[layout.RESCALE] = plan.stages, network.scales, network.rescale
        c[layout.BLOCKS], c[layout.BLOCK_TASKS] = self.blocks, self.block_tasks
        c[layout.BLOCK_FLOATS] = self.block_floats
        c[layout.PARAMS], c[layout.GRADS], c[layout.STATE] = self.params, self.grads, self.state
        c[layout.WEIGHT_TASKS] = plan.weight_tasks
        others = {key: each for key, each in self._standing_contexts.items() if self._is_current(each)}
        self._standing_contexts = {**others, key: c} if len(others) < 16 else {key: c}
        return c


@contextlib.contextmanager
def _threads(n_threads: int) -> Iterator[None]:
    """Set this Python thread's number of Numba threads for a while."""
    before = numba.get_num_threads()
    numba.set_num_threads(min(n_threads, config.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        numba.set_num_threads(before)
