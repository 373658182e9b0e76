"""Epochs, batches, history, and when callbacks are called."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from fastnn.arrays import Data
from fastnn.callbacks import Callback
from fastnn.kernels import epoch as e
from fastnn.kernels import shuffle_indices
from fastnn.schedules import as_schedule

if TYPE_CHECKING:
    from fastnn.model import Sequential

CALL_SECONDS = 0.05
"""How long one compiled call shall take: Ctrl-C and the progress bar are served between two."""


class TrainingDiverged(ArithmeticError):
    """The loss became NaN or infinite; the model is back at its last good epoch."""


class Trainer:
    """One call of `Sequential.fit`.

    Parameters
    ----------
    model : Sequential
        Built for the data.
    data, validation : Data
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
        data: Data,
        validation: Data | None,
        batch: int,
        shuffle: bool,
        callbacks: Sequence[Callback],
        verbose: bool | str,
    ) -> None:
        self.model, self.data, self.validation = model, data, validation
        self.batch = min(batch, data.rows)
        self.shuffle, self.callbacks, self.verbose = shuffle, callbacks, verbose
        self.schedule = as_schedule(model.optimizer.lr)
        self.order = np.arange(data.rows) if shuffle else np.empty(0, np.int64)
        self._steps_a_call = 1

    def run(self, epochs: int) -> None:
        """Train for `epochs` epochs, or until a callback says stop."""
        model = self.model
        model.stop_training = False
        self._good = self._snapshot()
        for callback in self.callbacks:
            callback.model, callback.data = model, self.data
        model.attach_callbacks(self.callbacks)
        for callback in self.callbacks:
            callback.on_train_begin()
        try:
            with _progress(epochs * self.data.rows, self.verbose) as bar:
                for done in range(epochs):
                    self._epoch(bar, f"epoch {model.epoch + 1}", epochs - done)
                    if model.stop_training:
                        break
        finally:
            for callback in self.callbacks:
                callback.on_train_end()
            model.detach_callbacks()

    def _epoch(self, bar: tqdm[Any], title: str, epochs_left: int) -> None:
        model, epoch = self.model, self.model.epoch
        for callback in self.callbacks:
            callback.on_epoch_begin(epoch)
        bar.set_description(title)
        start = time.perf_counter()
        logs = self._steps(bar)
        seconds = time.perf_counter() - start
        if self.validation is not None:
            logs |= {f"val_{name}": value for name, value in model.evaluate_data(self.validation).items()}
        logs["lr"] = self.schedule.rate(model.step, epoch)
        logs |= {"seconds": seconds, "samples_per_second": self.data.rows / seconds}
        self.schedule.epoch_end(logs)
        model.epoch = epoch + 1
        for callback in self.callbacks:
            if not callback.runs_last:
                callback.on_epoch_end(epoch, logs)
        model.history.append(epoch, logs)
        for callback in self.callbacks:
            if callback.runs_last:
                callback.on_epoch_end(epoch, logs)
        bar.set_postfix_str(_brief(logs), refresh=False)
        if self.verbose not in ("auto", 0):
            tqdm.write(
                f"epoch {epoch + 1}: {_brief(logs)}, {self.data.rows / seconds:,.0f} samples/s",
                file=sys.stdout,
            )

    def _steps(self, bar: tqdm[Any]) -> dict[str, float]:
        """Take all steps of one epoch, some milliseconds of them a call."""
        model, rows, batch = self.model, self.data.rows, self.batch
        if self.shuffle:
            shuffle_indices(self.order, model.seed, model.epoch)
        started = self._snapshot()
        rates = self.schedule.rates(model.step, model.epoch, -(-rows // batch))
        report = np.zeros((len(rates), e.N_REPORT))
        done = 0
        while done < len(rates):
            stop = min(len(rates), done + self._steps_a_call)
            first, last = done * batch, min(rows, stop * batch)
            part = report[done:stop]
            before = time.perf_counter()
            try:
                model.runtime.train(
                    self.data, self.order, first, last - first, batch, model.step, rates[done:stop], part
                )
            finally:  # an interrupt is served as soon as the call is over: count what it did
                model.step += int((part[:, e.REPORT_ROWS] > 0).sum())
            taken = int((part[:, e.REPORT_ROWS] > 0).sum())
            if done + taken > 0:  # the loss was finite with the weights that the epoch began with
                self._good = started
            if taken < stop - done:
                self._diverged(done + taken)
            self._adapt(stop - done, time.perf_counter() - before)
            bar.update(last - first)
            done = stop
        if not np.isfinite(model.runtime.params).all():
            self._diverged(done - 1)
        return epoch_logs(report, model.counts_correct)

    def _adapt(self, steps: int, seconds: float) -> None:
        wanted = steps * CALL_SECONDS / max(seconds, 1e-9)
        self._steps_a_call = max(1, int(min(wanted, 4 * self._steps_a_call)))

    def _snapshot(self) -> tuple[Any, ...]:
        runtime, model = self.model.runtime, self.model
        return runtime.params.copy(), runtime.state.copy(), model.step, model.epoch, self.schedule.state()

    def _diverged(self, step: int) -> None:
        """Go back to the last good epoch and say where the numbers broke."""
        model = self.model
        where = model.first_bad_layer(min(self.batch, self.data.rows - step * self.batch))
        at, epoch = model.step, model.epoch
        model.runtime.params[:], model.runtime.state[:], model.step, model.epoch, schedule = self._good
        self.schedule.restore(schedule)
        model.history.truncate(model.epoch)
        raise TrainingDiverged(
            f"loss: became NaN or infinite in step {at + 1} (epoch {epoch + 1}, batch {step + 1}), {where}. "
            "The weights of the last good epoch are kept. "
            "A smaller learning rate, a Warmup in front of it, or clip_norm usually helps"
        )


def epoch_logs(report: npt.NDArray[np.float64], counts_correct: bool) -> dict[str, float]:
    """Return loss (mean over rows, penalty included) and accuracy of the steps in a report."""
    rows = report[:, e.REPORT_ROWS]
    weight = report[:, e.REPORT_WEIGHT]
    positive = np.where(weight > 0, weight, 1.0)
    losses = report[:, e.REPORT_LOSS] / positive + report[:, e.REPORT_PENALTY]
    logs = {"loss": float((losses * rows).sum() / rows.sum())}
    if counts_correct:
        total = weight.sum()
        logs["accuracy"] = float(report[:, e.REPORT_CORRECT].sum() / total) if total > 0 else math.nan
    return logs


def _brief(logs: dict[str, float]) -> str:
    shown = ("loss", "accuracy", "val_loss", "val_accuracy", "val_r2")
    return ", ".join(f"{name} {logs[name]:.4f}" for name in shown if name in logs)


@contextlib.contextmanager
def _progress(total: int, verbose: bool | str) -> Iterator[tqdm[Any]]:
    """Show a bar on stderr for what takes longer than a second, on a terminal only."""
    silent = verbose in (0, False) or not sys.stderr.isatty()
    with tqdm(total=total, unit=" samples", unit_scale=True, delay=1.0, disable=silent, leave=False) as bar:
        yield bar
