"""What can be done between epochs: stop early, keep checkpoints, or anything of one's own.

A callback is told when training begins and ends and when each epoch ends. One that sets ``model.stop_training
= True`` ends training after the epoch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastnn._errors import check_number, needed
from fastnn.schedules import metric_to_watch, resolve_mode

if TYPE_CHECKING:
    from fastnn.arrays import Data
    from fastnn.model import Sequential


class Callback:
    """Base of all callbacks; override what you need.

    From before `on_train_begin` on, ``self.model`` is the model that trains, and ``self.data`` what it trains on; of a
    stream that does not fit into memory, rows from blocks spread evenly over it.
    """

    model: Sequential
    runs_last = False
    """Whether this one is told of an epoch after the others, with the epoch in the model's history."""
    data: Data

    def on_train_begin(self) -> None:
        """Before the first epoch of a `fit`."""

    def on_epoch_begin(self, epoch: int) -> None:
        """Before an epoch; `epoch` counts from 0 over all calls of `fit`."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """After an epoch;

        `logs` holds its numbers ("loss", "val_loss", "accuracy", ...), and what is added goes into the
        history.
        """

    def on_train_end(self) -> None:
        """After the last epoch, also where training was interrupted."""

    def state(self) -> dict[str, Any]:
        """Return what must be saved with the model for training to go on: plain numbers and arrays."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave, for a model that was trained before."""

    def reset(self) -> None:
        """Forget what was seen of another model; called where the model has no state for this callback."""


class LambdaCallback(Callback):
    """Call a function after each epoch.

    Parameters
    ----------
    on_epoch_end : callable (epoch, logs) -> None
    """

    def __init__(self, on_epoch_end: Callable[[int, dict[str, float]], None]) -> None:
        self._function = on_epoch_end

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        self._function(epoch, logs)


class EarlyStopping(Callback):
    """Stop where a number has not improved for `patience` epochs, and go back to the best weights.

    The state (best value, epochs waited, best weights) is the model's: it is saved with the model, and
    another `fit` with an early stopping goes on with it, unless it has already stopped training, in which
    case it begins anew.

    Parameters
    ----------
    monitor : str
        "val_loss" (the training loss where there is no validation), "val_accuracy", "loss", ...
    patience : int
        Epochs without improvement that are waited for, >= 0.
    min_delta : float
        Smallest change that counts as an improvement, >= 0.
    mode : {"auto", "min", "max"}
        Whether less or more is better; "auto" goes by the name.
    restore_best_weights : bool
        Whether the model ends with the weights of its best epoch.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 10,
        min_delta: float = 0.0,
        mode: str = "auto",
        restore_best_weights: bool = True,
    ) -> None:
        self.monitor = monitor
        self.mode = resolve_mode(monitor, mode)
        self.patience = check_number("patience", patience, low=0, integer=True)
        self.min_delta = check_number("min_delta", min_delta, low=0.0)
        self.restore_best_weights = restore_best_weights
        self.reset()

    def reset(self) -> None:
        self.best = math.nan
        self.best_epoch = -1
        self.waited = 0
        self.stopped = False
        self._best_params: npt.NDArray[Any] | None = None

    def on_train_begin(self) -> None:
        if self.stopped:
            self.reset()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        value = metric_to_watch(logs, self.monitor)
        gain = value - self.best if self.mode == "max" else self.best - value
        if math.isnan(self.best) or gain > self.min_delta:
            self.best, self.best_epoch, self.waited = value, epoch, 0
            if self.restore_best_weights:
                self._best_params = self.model.parameters_vector().copy()
        else:
            self.waited += 1
            if self.waited >= self.patience:
                self.stopped = True
                self.model.stop_training = True
                self.model.history.add_stop(epoch, self.best_epoch, self.monitor, self.restore_best_weights)

    def on_train_end(self) -> None:
        if self.restore_best_weights and self._best_params is not None:
            self.model.parameters_vector()[:] = self._best_params

    def state(self) -> dict[str, Any]:
        best: dict[str, Any] = {} if self._best_params is None else {"best_params": self._best_params}
        numbers = {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "waited": self.waited,
            "stopped": self.stopped,
        }
        return numbers | best

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best, self.best_epoch = float(state["best"]), int(state["best_epoch"])
        self.waited, self.stopped = int(state["waited"]), bool(state["stopped"])
        best = state.get("best_params")
        self._best_params = None if best is None else np.array(best, self.model.dtype)


class Checkpoint(Callback):
    """Save the model after every epoch, or after every better one; the file is always a whole model.

    ``fastnn.load(path)`` and another `fit` go on where the file stands, bit for bit.

    Parameters
    ----------
    path : path
        Where to; "{epoch}" in it stands for the epoch's number.
    every : int
        Save each so many epochs.
    save_best_only : bool
        Save only where `monitor` improved.
    monitor, mode
        As in `EarlyStopping`.
    """

    runs_last = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        every: int = 1,
        save_best_only: bool = False,
        monitor: str = "val_loss",
        mode: str = "auto",
    ) -> None:
        self.path = Path(path)
        self.every = check_number("every", every, low=1, integer=True)
        self.save_best_only = save_best_only
        self.monitor = monitor
        self.mode = resolve_mode(monitor, mode)
        self.reset()

    def reset(self) -> None:
        self.best = math.nan

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        if self.save_best_only:
            value = metric_to_watch(logs, self.monitor)
            better = math.isnan(self.best) or (value > self.best if self.mode == "max" else value < self.best)
            if not better:
                return
            self.best = value
        elif (epoch + 1) % self.every:
            return
        self.model.save(str(self.path).replace("{epoch}", str(epoch)))

    def state(self) -> dict[str, Any]:
        return {"best": self.best}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best = float(state["best"])


class TensorBoard(Callback):
    """Write the numbers of every epoch to event files, which ``tensorboard --logdir runs`` shows.

    Training and validation are two runs, "train" and "validation" below the folder, so that TensorBoard draws "loss" of
    both in one picture; what a callback before it added is there too. A later `fit` goes on in the same folder, at
    the model's epoch. It needs tensorboardX: ``pip install "fastnn[tensorboard]"``.

    Parameters
    ----------
    log_dir : path
        The folder; give each training its own.
    histogram_freq : int
        Epochs from one histogram of all weights to the next, >= 0; 0 writes none.

    Raises
    ------
    ImportError
        If tensorboardX is not installed.
    """

    runs_last = True

    def __init__(self, log_dir: str | os.PathLike[str] = "runs", histogram_freq: int = 0) -> None:
        self.log_dir = Path(log_dir)
        self.histogram_freq = check_number("histogram_freq", histogram_freq, low=0, integer=True)
        self._kind = needed("tensorboardX", "TensorBoard", 'pip install "fastnn[tensorboard]"').SummaryWriter
        self._writers: dict[str, Any] = {}

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        for name, value in logs.items():
            validates = name.startswith("val_")
            writer = self._writer("validation" if validates else "train", epoch)
            writer.add_scalar(name.removeprefix("val_"), value, epoch + 1)
        if self.histogram_freq and (epoch + 1) % self.histogram_freq == 0:
            for segment, weight in zip(self.model.network.segments, self.model.get_weights(), strict=True):
                self._writer("train", epoch).add_histogram(segment.name, weight, epoch + 1)

    def _writer(self, run: str, epoch: int) -> Any:
        """Return the writer of a run, whose folder is made when there is something to write.

        The epoch is in the file's name, or two calls of `fit` within a second would write to one file.
        """
        if run not in self._writers:
            self._writers[run] = self._kind(str(self.log_dir / run), filename_suffix=f".{epoch:06}")
        return self._writers[run]

    def on_train_end(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
