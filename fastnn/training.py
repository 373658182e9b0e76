"""Epochs, batches, history, and when callbacks are called."""

from __future__ import annotations

import contextlib
import math
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastnn.callbacks import Callback, Checkpoint, LambdaCallback
from fastnn.feeds import Feed, InMemory, Order
from fastnn.kernels import layout, shuffle_indices
from fastnn.progress import ProgressBar
from fastnn.schedules import Schedule, metric_to_watch
from fastnn.sparse import Rows, SparseData

if TYPE_CHECKING:
    from fastnn.model import Sequential

CALL_SECONDS = 0.05
"""How long one compiled call shall take: Ctrl-C and the progress bar are served between two."""

ROWS_A_CALL = 1 << 20
"""How many rows one compiled call of several epochs takes at most: their orders are in memory."""

REPORT_STEPS = 8192
"""How many steps are kept one by one: an epoch may have millions."""

_NO_ORDER: Order = np.empty(0, np.int64)

TrainingCalls = Callable[[Order, int, int, int, npt.NDArray[np.float64], npt.NDArray[np.float64]], None]
"""Steps on the same data: of an order, from a place in it, so many rows, from a step, at rates, into a report."""


class Snapshot(NamedTuple):
    """What training can go back to: weights and optimizer state, counters, the states of schedule and callbacks."""

    arrays: tuple[Any, Any]
    step: int
    epoch: int
    schedule: dict[str, Any]
    callbacks: list[dict[str, Any]]


class TrainingDiverged(ArithmeticError):
    """The loss became NaN or infinite; the model is back at its last good epoch."""


class Trainer:
    """One call of `Sequential.fit`.

    Parameters
    ----------
    model : Sequential
        Built for the data.
    feed, validation : Feed
        What is trained on, and what is looked at after each epoch (None: nothing).
    batch : int
        Rows a step.
    shuffle : bool
        Whether each epoch takes the rows in an order of its own.
    callbacks : sequence of Callback
    verbose : bool or "auto"
        A line an epoch; "auto": only a progress bar, and only on a terminal.
    """

    def __init__(
        self,
        model: Sequential,
        feed: Feed,
        validation: Feed | None,
        batch: int,
        shuffle: bool,
        callbacks: Sequence[Callback],
        verbose: bool | int | str,
    ) -> None:
        self.model, self.feed, self.validation = model, feed, validation
        self.batch = min(batch, feed.rows)
        # A batch of all rows sums the same, whatever their order.
        self.shuffle = shuffle and self.batch < feed.rows
        self.callbacks, self.verbose = callbacks, verbose
        self._optimizer, self.schedule = model.optimizer, model.optimizer.schedule
        self._steps_an_epoch = -(-feed.rows // self.batch)
        self._steps_a_call = model.runtime.first_steps(self.batch)
        self._one_by_one = False
        self._first_step = model.step
        self._calls: tuple[Rows, TrainingCalls] | None = None

    def run(self, last: int) -> None:
        """Train until `last` epochs are done, counted over all calls of `fit`, or until a callback says stop."""
        self._check_watched()
        self._check_rate(last)
        model = self.model
        model.stop_training = False
        sample = self.feed.sample() if self.callbacks else None
        with contextlib.ExitStack() as ends:
            for callback in self.callbacks:
                assert sample is not None
                callback.model, callback.data = model, sample
            states = model.callback_states
            ends.callback(states.detach, states.attach(self.callbacks))
            self._good = self._snapshot()
            begun: list[Callback] = []
            ends.callback(self._end, begun)
            for callback in self.callbacks:
                begun.append(callback)
                callback.on_train_begin()
            model.runtime.compile()
            if self.shuffle:
                shuffle_indices(np.empty(1, np.int64), 0, 0)  # compiled, too, before the first epoch is timed
            self._begin()
            silent = not self.verbose or not sys.stderr.isatty()
            with ProgressBar(max(0, last - model.epoch) * self.feed.rows, silent) as bar:
                try:
                    self._epochs(last, bar)
                except TrainingDiverged:
                    for callback in self.callbacks:
                        if isinstance(callback, Checkpoint):
                            callback.take_back()
                    raise

    def _epochs(self, last: int, bar: ProgressBar) -> None:
        """Train until `last` epochs are done, or until a callback says stop."""
        model = self.model
        while model.epoch < last and not model.stop_training:
            bar.set_description(f"epoch {model.epoch + 1}")
            epochs = self._epochs_a_call(last)
            if epochs > 1:
                self._several(epochs, bar)
            else:
                self._epoch(bar)

    def _end(self, begun: list[Callback]) -> None:
        """Let go of the data, and tell each callback that began, whatever another one raises."""
        self.model.history.settle()
        self.model.runtime.keep_data(False)
        with contextlib.ExitStack() as ends:
            for callback in reversed(begun):
                ends.callback(callback.on_train_end)

    def _begin(self) -> None:
        """Make ready for epochs with the model's optimizer as it is now."""
        model = self.model
        self._optimizer, self.schedule = model.optimizer, model.optimizer.schedule
        self._good = self._good._replace(schedule=self.schedule.state())
        self._calls = None
        model.runtime.keep_data(True)
        if isinstance(self.feed, InMemory):
            self._training_calls(self.feed.data)  # a GPU takes its copy before the first epoch is timed

    def _check_watched(self) -> None:
        """Refuse what watches a number that no epoch will have.

        Raises
        ------
        ValueError
            ``monitor: got 'val_los', expected one of 'loss', ...``.
        """
        score = "accuracy" if self.model.counts_correct else "r2"
        names = ["loss", "accuracy"] if self.model.counts_correct else ["loss"]
        if self.validation is not None:
            names += ["val_loss", f"val_{score}"]
        epoch = dict.fromkeys([*names, "lr", "seconds", "samples_per_second"], 0.0)

        def look_for(name: str | None) -> None:
            if name == f"val_{score}" and self.validation is None:
                raise ValueError(
                    f"monitor: got {name!r} without validation, expected validation_data= or validation_split= with it"
                )
            if name is not None:
                metric_to_watch(epoch, name)

        look_for(self.schedule.watched())
        for callback in sorted(self.callbacks, key=lambda callback: callback.runs_last):
            look_for(callback.watched())
            if _may_add(callback):
                break

    def _check_rate(self, last: int) -> None:
        """Warn where the schedule has come to 0, so that nothing would be learned."""
        model = self.model
        n_steps = (last - model.epoch) * self._steps_an_epoch
        ends = (model.step, model.epoch), (model.step + n_steps - 1, last - 1)
        if n_steps > 0 and not any(self.schedule.rate(step, epoch) for step, epoch in ends):
            warnings.warn(
                f"lr: got 0 for all of this fit, from epoch {model.epoch + 1} on, by {self.schedule}, "
                "expected a rate > 0; model.optimizer = dataclasses.replace(model.optimizer, lr=...) gives another",
                stacklevel=4,  # who called `fit`
            )

    def _epochs_a_call(self, last: int) -> int:
        """Return how many epochs the next call may take: more than one where nobody wants to hear of each."""
        if self.callbacks or self.validation is not None or type(self.schedule).epoch_end is not Schedule.epoch_end:
            return 1
        if self._one_by_one or not isinstance(self.feed, InMemory):
            return 1
        return min(last - self.model.epoch, self._steps_a_call // self._steps_an_epoch, ROWS_A_CALL // self.feed.rows)

    def _several(self, epochs: int, bar: ProgressBar) -> None:
        """Train some epochs in one call; where the loss breaks, from their beginning once more, one by one."""
        model, feed, started, each = self.model, self.feed, self._snapshot(), self._steps_an_epoch
        assert isinstance(feed, InMemory)
        numbers = range(model.epoch, model.epoch + epochs)
        order = feed.orders(model.seed, numbers) if self.shuffle else _NO_ORDER
        firsts = range(model.step, model.step + epochs * each, each)
        rates = [self.schedule.checked_rates(step, epoch, each) for step, epoch in zip(firsts, numbers, strict=True)]
        report = np.zeros((epochs, each, layout.N_REPORT))
        calls, start = self._training_calls(feed.data), time.perf_counter()
        try:
            calls(order, 0, feed.rows, model.step, np.concatenate(rates), report.reshape(-1, layout.N_REPORT))
        finally:  # an interrupt is served as soon as the call is over: all of its epochs are done
            seconds = (time.perf_counter() - start) / epochs
            if report[-1, -1, layout.REPORT_ROWS] and model.runtime.is_finite():
                for epoch, steps in zip(numbers, report, strict=True):
                    model.step += each
                    self._count(epoch, step_logs(steps, model.counts_correct), seconds, bar)
            else:
                self._go_back(started)
                self._one_by_one = True
        self._steps_a_call = next_steps(self._steps_a_call, epochs * each, epochs * seconds)
        bar.update(epochs * feed.rows)

    def _epoch(self, bar: ProgressBar) -> None:
        model, epoch = self.model, self.model.epoch
        for callback in self.callbacks:
            callback.on_epoch_begin(epoch)
        epoch = model.epoch  # a callback may have trained, too
        if model.optimizer is not self._optimizer:
            self._begin()
        start = time.perf_counter()
        logs = self._steps(bar)
        seconds = time.perf_counter() - start
        if self.validation is not None:
            logs |= {f"val_{name}": value for name, value in model.evaluate_feed(self.validation).items()}
        self._count(epoch, logs, seconds, bar)

    def _count(self, epoch: int, logs: dict[str, float], seconds: float, bar: ProgressBar) -> None:
        """Tell everyone that an epoch is over."""
        model = self.model
        logs["lr"] = self.schedule.rate(model.step, epoch)
        logs |= {"seconds": seconds, "samples_per_second": self.feed.rows / seconds}
        self.schedule.epoch_end(logs)
        model.epoch = epoch + 1
        place = len(model.history.epoch)
        for callback in self.callbacks:
            if not callback.runs_last:
                callback.on_epoch_end(epoch, logs)
        model.history.append(epoch, logs)
        model.history.move_last_to(place)
        # A checkpoint that training goes on from has the states of all others after the epoch, a best one's too.
        for callback in sorted(self.callbacks, key=lambda c: isinstance(c, Checkpoint) and not c.save_best_only):
            if callback.runs_last:
                callback.on_epoch_end(epoch, logs)
        bar.set_postfix_str(_brief(logs), refresh=False)
        if self.verbose not in ("auto", 0):
            ProgressBar.write(
                f"epoch {epoch + 1}: {_brief(logs)}, {self.feed.rows / seconds:,.0f} samples/s",
                file=sys.stdout,
            )

    def _steps(self, bar: ProgressBar) -> dict[str, float]:
        """Take all steps of one epoch, buffer by buffer."""
        model, started = self.model, self._snapshot()
        report = EpochReport(self._steps_an_epoch)
        done = 0
        with contextlib.closing(self._buffers(started)) as buffers:
            for data, order in buffers:
                done = self._steps_on(data, order, done, report, started, bar)
        if not model.runtime.is_finite():
            self._diverged(done - 1, data)
        return report.logs(model.counts_correct)

    def _buffers(self, started: Snapshot) -> Generator[tuple[Rows, Order], None, None]:
        """Yield the epoch's buffers; where one cannot be read, go back to where the epoch started."""
        key = (self.model.seed, self.model.epoch) if self.shuffle else None
        try:
            yield from self.feed.buffers(self.batch, key)
        except (TypeError, ValueError, OSError):
            self._go_back(started)
            raise

    def _steps_on(
        self, data: Rows, order: Order, done: int, report: EpochReport, started: Snapshot, bar: ProgressBar
    ) -> int:
        """Take the steps of one buffer, some milliseconds of them a call; returns the steps of the epoch so far."""
        model, batch = self.model, self.batch
        at = 0
        while at < data.rows:
            part = report.next(min(self._steps_a_call, -(-(data.rows - at) // batch)))
            rows = min(data.rows - at, len(part) * batch)
            rates = self.schedule.checked_rates(model.step, model.epoch, len(part))
            before = time.perf_counter()
            try:
                self._training_calls(data)(order, at, rows, model.step, rates, part)
            finally:  # an interrupt is served as soon as the call is over: count what it did
                taken = int((part[:, layout.REPORT_ROWS] > 0).sum())
                model.step += taken
            if done + taken > 0:  # the loss was finite with the weights that the epoch began with
                self._good = started
            if taken < len(part):
                self._diverged(done + taken, data)
            self._steps_a_call = next_steps(self._steps_a_call, taken, time.perf_counter() - before)
            bar.update(rows)
            at, done = at + rows, done + taken
        return done

    def _training_calls(self, data: Rows) -> TrainingCalls:
        """Return what takes steps on `data`; where all of it is in memory, put together once for all epochs."""
        if self._calls is None or self._calls[0] is not data:
            self._calls = data, self.model.runtime.training_calls(data, self.batch)
        return self._calls[1]

    def _snapshot(self) -> Snapshot:
        runtime, model = self.model.runtime, self.model
        states = [callback.state() for callback in self.callbacks]
        return Snapshot(runtime.snapshot(), model.step, model.epoch, self.schedule.state(), states)

    def _go_back(self, to: Snapshot) -> None:
        model = self.model
        model.step, model.epoch = to.step, to.epoch
        model.runtime.restore(to.arrays)
        self.schedule.restore(to.schedule)
        for callback, state in zip(self.callbacks, to.callbacks, strict=True):
            if state:
                callback.restore(state)
            else:
                callback.reset()
        model.history.truncate(model.epoch)

    def _diverged(self, step: int, data: Rows) -> None:
        """Go back to the last good epoch and say where the numbers broke, and what helps."""
        model = self.model
        where = model.first_bad_layer(min(self.batch, self.feed.rows - step * self.batch))
        helps = self._what_helps(data)
        at, epoch = model.step, model.epoch
        self._go_back(self._good)
        raise TrainingDiverged(
            f"loss: became NaN or infinite in step {at + 1} (epoch {epoch + 1}, batch {step + 1}), {where}. "
            f"The weights of the last good epoch are kept. {helps}"
        )

    def _what_helps(self, data: Rows) -> str:
        """Return what to do about a loss that is not finite, in a step on some of this data."""
        model, data = self.model, data.on_host()
        if spoilt := None if model.check_finite else data.spoilt():
            return f"There are NaN or infinity in {spoilt}, of which check_finite=True names the first"
        if model.step > self._first_step:
            return "A smaller learning rate, a Warmup in front of it, or clip_norm usually helps"
        if not model.runtime.is_finite():
            return "The weights had it before any step: set_weights gives the model others"
        samples = data.values if isinstance(data, SparseData) else data.x if len(data.x) else data.x_bytes
        arrays = {"x": samples, "y": data.targets, "the weights": model.parameters_vector()}
        sizes = [f"{_largest(array):.2g} in {name}" for name, array in arrays.items() if array.size]
        return (
            "It is this fit's first step, before any learning rate had a part. The largest numbers are "
            f"{', '.join(sizes)}: smaller ones help"
        )


def _largest(array: npt.NDArray[Any]) -> float:
    """Return the largest size of the finite numbers, which rows without weight may have others among."""
    return float(np.max(np.abs(array), initial=0, where=np.isfinite(array)))


def next_steps(before: int, taken: int, seconds: float) -> int:
    """Return how many steps make CALL_SECONDS, by how long those taken took; at most four times as many as before."""
    return max(1, int(min(taken * CALL_SECONDS / max(seconds, 1e-9), 4 * before)))


class EpochReport:
    """What the steps of an epoch reported, added up after every REPORT_STEPS of them: the same sums for any calls."""

    def __init__(self, steps: int) -> None:
        self._steps = np.zeros((min(steps, REPORT_STEPS), layout.N_REPORT))
        self._used = 0
        self._sums = np.zeros(5)

    def next(self, steps: int) -> npt.NDArray[np.float64]:
        """Return zeros for the report of at least one and at most so many steps to come."""
        if self._used == len(self._steps):
            self._sums = self._sums + _sums(self._steps)
            self._steps[:] = 0.0
            self._used = 0
        part = self._steps[self._used : self._used + steps]
        self._used += len(part)
        return part

    def logs(self, counts_correct: bool) -> dict[str, float]:
        """Return loss (weighted mean over rows, penalty included) and accuracy of all steps."""
        return _logs((self._sums + _sums(self._steps[: self._used])).tolist(), counts_correct)


def _may_add(callback: Callback) -> bool:
    """Whether a callback has code of its user's that sees the numbers of an epoch."""
    module = callback.on_epoch_end.__module__
    return isinstance(callback, LambdaCallback) or module.partition(".")[0] != "fastnn"


def step_logs(report: npt.NDArray[np.float64], counts_correct: bool) -> dict[str, float]:
    """Return loss and accuracy of a few steps from their report."""
    if len(report) > 1:
        return _logs(_sums(report).tolist(), counts_correct)
    loss, weight, correct, penalty, _, rows = report[0].tolist()  # a call of `train_on_batch` counts microseconds
    return _logs((loss, correct, weight, penalty * rows, rows), counts_correct)


def _sums(report: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return loss, correct, weight, penalty times rows, and rows of the steps in a report."""
    rows = report[:, layout.REPORT_ROWS]
    sums = report[:, [layout.REPORT_LOSS, layout.REPORT_CORRECT, layout.REPORT_WEIGHT]].sum(axis=0)
    return np.array([*sums, (report[:, layout.REPORT_PENALTY] * rows).sum(), rows.sum()])


def _logs(sums: Iterable[float], counts_correct: bool) -> dict[str, float]:
    loss, correct, weight, penalty, rows = sums
    logs = {"loss": (loss / weight if weight > 0 else math.nan) + penalty / rows}
    if counts_correct:
        logs["accuracy"] = correct / weight if weight > 0 else math.nan
    return logs


def _brief(logs: dict[str, float]) -> str:
    shown = ("loss", "accuracy", "val_loss", "val_accuracy", "val_r2")
    return ", ".join(f"{name} {logs[name]:.4f}" for name in shown if name in logs)
