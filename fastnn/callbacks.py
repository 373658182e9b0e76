"""What can be done between epochs: stop early, keep checkpoints, or anything of one's own.

A callback is told when training begins and ends and when each epoch ends. One that sets ``model.stop_training
= True`` ends training after the epoch.
"""

from __future__ import annotations

import errno
import math
import os
import re
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastnn._errors import check_flag, check_number, check_path, needed, shown
from fastnn.schedules import Schedule, improves, metric_to_watch, resolve_mode, worst

if TYPE_CHECKING:
    from fastnn.arrays import Data
    from fastnn.model import Sequential

_EPOCH = re.compile(r"\{epoch(?::(0?[0-9]+)d?)?\}")

_NEVER_CALLED = [f"on_{kind}batch_{end}" for kind in ("", "train_", "test_", "predict_") for end in ("begin", "end")]
"""Keras' methods of callbacks that there are none of here."""


def _best(state: Mapping[str, Any], mode: str) -> float:
    """Return the best value of a state; early versions wrote NaN where there was none."""
    best = float(state["best"])
    return worst(mode) if math.isnan(best) else best


class Callback:
    """Base of all callbacks; override what you need.

    From before `on_train_begin` on, ``self.model`` is the model that trains, and ``self.data`` what it trains on; of a
    stream that does not fit into memory, rows from blocks spread evenly over it. (Samples that came as an array on a
    GPU are there; ``self.data.on_host()`` has copies.) ``self.model.resumed`` says whether this `fit` goes on from a
    checkpoint. Epochs of a `fit` that a callback calls on its own model count for the one that it is at work in.
    """

    model: Sequential
    data: Data
    runs_last = False
    """Whether this one is told of an epoch after the others, with the epoch in the model's history."""

    begins_anew = False
    """Whether the state that one object left in a model is not for another one, unless training resumes from a file."""

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles have neither the model nor its data."""
        return {name: value for name, value in self.__dict__.items() if name not in ("model", "data")}

    def on_train_begin(self) -> None:
        """Before the first epoch of a `fit`."""

    def on_epoch_begin(self, epoch: int) -> None:
        """Before an epoch; `epoch` counts from 0 over all calls of `fit`."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """After an epoch; `logs` holds its numbers ("loss", "val_loss", ...): what is added goes into the history."""

    def on_train_end(self) -> None:
        """After the last epoch, also where training was interrupted."""

    def watched(self) -> str | None:
        """Return the name of the number that this callback needs, None for none; `fit` looks for it first."""
        return None

    def state(self) -> dict[str, Any]:
        """Return what must be saved with the model for training to go on: plain numbers and arrays."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave, for a model that was trained before."""

    def reset(self) -> None:
        """Forget what was seen of another model; called where the model has no state for this callback."""


def as_callbacks(callbacks: Iterable[Callback] | None) -> tuple[Callback, ...]:
    """Return what `fit` was given as callbacks, which also may be one, or None."""
    if isinstance(callbacks, (Callback, Schedule)) or callable(callbacks):
        callbacks = (callbacks,)
    if callbacks is not None and not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks: got {callbacks!r}, expected a list of fastnn.callbacks.Callback objects")
    callbacks = tuple(callbacks or ())
    for number, callback in enumerate(callbacks):
        if not isinstance(callback, Callback):
            advice = ""
            if isinstance(callback, type) and issubclass(callback, Callback):
                advice = f": {callback.__name__}(...)"
            elif isinstance(callback, Schedule):
                advice = "; a schedule is the rate of an optimizer: Adam(schedule)"
            elif callable(callback):
                advice = ": fastnn.LambdaCallback(function) makes one"
            raise TypeError(
                f"callbacks[{number}]: got {callback!r}, expected a fastnn.callbacks.Callback object{advice}"
            )
        unheard = [name for name in _NEVER_CALLED if callable(getattr(callback, name, None))]
        if unheard:
            warnings.warn(
                f"callbacks[{number}]: got {type(callback).__name__} with {', '.join(unheard)}, which fit never calls, "
                "since a compiled call takes many steps; train_on_batch makes loops of one's own",
                stacklevel=3,
            )
    return callbacks


class LambdaCallback(Callback):
    """Call a function after each epoch.

    Parameters
    ----------
    on_epoch_end : callable (epoch, logs) -> None
        As `Callback.on_epoch_end`.

    Raises
    ------
    TypeError
        If it cannot be called.
    """

    def __init__(self, on_epoch_end: Callable[[int, dict[str, float]], None]) -> None:
        if not callable(on_epoch_end):
            raise TypeError(
                f"on_epoch_end: got {shown(on_epoch_end)} ({type(on_epoch_end).__name__}), expected a function of "
                "(epoch, logs)"
            )
        self._function = on_epoch_end

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        self._function(epoch, logs)


class EarlyStopping(Callback):
    """Stop where a number has not improved for `patience` epochs, and go back to the best weights.

    The state (best value, epochs waited, best weights) is saved with the model: the first `fit` after loading, or one
    that resumes, goes on with it, and so does the same object in another `fit` of the same model. A new one begins
    anew; so does any where it had stopped training, or where epochs were trained without it. A `fit` that is resumed
    where it stopped has nothing left to train. NaN is no improvement on anything.

    Parameters
    ----------
    monitor : str
        "val_loss" (the training loss where there is no validation), "val_accuracy", "loss", ... What no epoch will
        have `fit` refuses before it trains, unless a callback of one's own, which comes before, may add it.
    patience : int
        Epochs without improvement that are waited for, >= 0.
    min_delta : float
        By how much more than this a value must beat the best so far to be an improvement, >= 0, in its own unit.
    mode : {"auto", "min", "max"}
        Whether less or more is better; "auto" takes more for accuracy, R2, AUC, F1, precision and recall, and for what
        ends in "score", else less.
    restore_best_weights : bool
        Whether the model ends with the weights of its best epoch.
    """

    begins_anew = True

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
        self.restore_best_weights = check_flag("restore_best_weights", restore_best_weights)
        self.reset()

    def reset(self) -> None:
        self.best = worst(self.mode)
        self.best_epoch = -1
        self.seen = 0
        self.waited = 0
        self.stopped = False
        self._best_params: npt.NDArray[Any] | None = None

    def on_train_begin(self) -> None:
        if self.stopped and self.model.resumed:
            self.model.stop_training = True
        elif self.stopped:
            self.reset()

    def watched(self) -> str:
        return self.monitor

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        value = metric_to_watch(logs, self.monitor)
        self.seen = epoch + 1
        if improves(value, self.best, self.mode, self.min_delta):
            self.best, self.best_epoch, self.waited = value, epoch, 0
            if self.restore_best_weights:
                self._best_params = self.model.parameters_vector().copy()
        else:
            self.waited += 1
            if self.waited >= self.patience:
                self.stopped = True
                self.model.stop_training = True
                restored = self._best_params is not None
                self.model.history.add_stop(epoch, self.best_epoch, self.monitor, restored)

    def on_train_end(self) -> None:
        if self.restore_best_weights and self._best_params is not None:
            self.model.parameters_vector()[:] = self._best_params

    def state(self) -> dict[str, Any]:
        best: dict[str, Any] = {} if self._best_params is None else {"best_params": self._best_params}
        numbers = {
            "monitor": self.monitor,
            "mode": self.mode,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "seen": self.seen,
            "waited": self.waited,
            "stopped": self.stopped,
        }
        return numbers | best

    def restore(self, state: Mapping[str, Any]) -> None:
        # Files of early versions do not say what was watched, and till when.
        watched = (state.get("monitor", self.monitor), state.get("mode", self.mode))
        self.seen = int(state.get("seen", self.model.epoch))
        if watched != (self.monitor, self.mode) or self.seen != self.model.epoch:
            self.reset()
            return
        self.best, self.best_epoch = _best(state, self.mode), int(state["best_epoch"])
        self.waited, self.stopped = int(state["waited"]), bool(state["stopped"])
        best = state.get("best_params")
        self._best_params = None if best is None else np.array(best, self.model.dtype)


class Checkpoint(Callback):
    """Save the model after every epoch, or after every better one; the file is always a whole model.

    ``model.fit(..., resume=folder)`` goes on from the newest, bit for bit. A file is written beside its place, brought
    to disk and moved there; the older one is removed only then. Where training diverges, what was saved of epochs that
    are taken back is removed; if none before it is left, the model of the last good epoch takes its place.

    Parameters
    ----------
    path : path
        Where to. A folder gets "epoch-000001.safetensors", ...; a name without suffix is one, unless it is a file
        already. In the name of a file "{epoch}" stands for the epoch's number, counted from 1 as in Keras, and
        "{epoch:06}" for six digits of it. Folders are made. Give each training a folder of its own.
    every : int
        Save each so many epochs.
    save_best_only : bool
        Save only where `monitor` improved: on the model that stands there, where this training wrote it, before it was
        loaded or resumed, too. What another training left there, such as an earlier run of the same script, is written
        over by the first epoch, as in Keras.
    monitor, mode
        As in `EarlyStopping`.
    keep : int or None
        How many of the newest checkpoints are kept; None: all. Needs a folder or "{epoch}".
    every_seconds : float
        Save at an epoch's end only where so many seconds have passed since the last time.

    Raises
    ------
    OSError
        From `fit`, with the path, where a checkpoint cannot be written: the older ones are as they were, and the model
        has what it learned.
    """

    runs_last = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        every: int = 1,
        save_best_only: bool = False,
        monitor: str = "val_loss",
        mode: str = "auto",
        keep: int | None = None,
        every_seconds: float = 0.0,
    ) -> None:
        self.path = Path(check_path("path", path))
        bare = not self.path.suffix and not _EPOCH.search(self.path.name) and not self.path.is_file()
        if bare or self.path.is_dir() or os.fsdecode(path).endswith(("/", os.sep)):
            self.path = self.path / "epoch-{epoch:06}.safetensors"
        if other := re.search(r"\{\w+(:[^{}]*)?\}", _EPOCH.sub("", self.path.name)):
            raise ValueError(f"path: got {other[0]} in {self.path.name!r}, expected no other field than {{epoch}}")
        self.every = check_number("every", every, low=1, integer=True)
        self.save_best_only = check_flag("save_best_only", save_best_only)
        self.monitor = monitor
        self.mode = resolve_mode(monitor, mode)
        self.keep = None if keep is None else check_number("keep", keep, low=1, integer=True)
        self.every_seconds = check_number("every_seconds", every_seconds, low=0.0)
        if keep is not None and not _EPOCH.search(self.path.name):
            raise ValueError(f"keep: got {keep} for the file {self.path}, expected a folder, or {{epoch}} in the name")
        parts = [re.escape(part) for part in _EPOCH.sub("\0", self.path.name).split("\0")]
        self._own = "([0-9]+)".join(parts[:2]) + "[0-9]+".join(["", *parts[2:]])
        self.reset()

    def reset(self) -> None:
        self.best = worst(self.mode)

    def on_train_begin(self) -> None:
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise PermissionError(errno.EACCES, "checkpoints cannot be written there", str(folder))
        for path in self._found(r"\.%s\..*\.part"):  # what a process that was killed left, or left unremoved
            path.unlink(missing_ok=True)
        self._remove_old()
        if self.save_best_only:
            self.best = self._best_there()
        later = [path for path in self._saved() if path not in self._saved(self.model.epoch)]
        if later and not self.model.resumed:
            warnings.warn(
                f"path: {later[-1]} is of a later epoch than the model's, {self.model.epoch}, and resume= would "
                "take it; expected a folder for each training",
                stacklevel=2,
            )
        self._saved_at = time.monotonic()
        self._written: tuple[int, Path] | None = None

    def _best_there(self) -> float:
        """Return the best value that the newest file knows, where this training wrote it; else what all improves on.

        What the model remembers may be of another file: it comes by the number of the callback alone.
        """
        own = self.state()  # files of early versions do not say what was watched, and for which name
        known = [
            _best(state, self.mode)
            for kind, state in self.model.states_in((self._saved() or [self.path])[-1]).items()
            if kind.partition("-")[0] == type(self).__name__
            and all(state.get(name, own[name]) == own[name] for name in ("name", "monitor", "mode"))
        ]
        return (max if self.mode == "max" else min)(known, default=worst(self.mode))

    def watched(self) -> str | None:
        return self.monitor if self.save_best_only else None

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        before, now = self.best, time.monotonic()
        if self.save_best_only:
            value = metric_to_watch(logs, self.monitor)
            if not improves(value, self.best, self.mode):
                return
            self.best = value
        elif (epoch + 1) % self.every or now - self._saved_at < self.every_seconds:
            return
        try:
            self._save(epoch + 1)
        except BaseException:
            self.best = before
            raise
        self._saved_at = now
        self._remove_old()

    def take_back(self) -> None:
        """Leave no model of an epoch that the model, which diverged, went back from."""
        good = self.model.epoch
        if self._written is None or self._written[0] <= good:
            return
        bad = self._written[1]
        if good and not self._saved(good):  # an older one was written over, or removed for it
            self.reset()  # this one need not be the best
            self._save(good)
        if self._written != (good, bad):
            bad.unlink(missing_ok=True)

    def _save(self, number: int) -> None:
        name = _EPOCH.sub(lambda found: format(number, found[1] or ""), self.path.name)
        self.model.save(self.path.with_name(name))
        self._written = self.model.epoch, self.path.with_name(name)

    def _remove_old(self) -> None:
        """Remove all but the newest ones up to the model's epoch."""
        for path in self._saved(self.model.epoch)[: -self.keep] if self.keep else []:
            path.unlink(missing_ok=True)

    def _saved(self, epoch: float = math.inf) -> list[Path]:
        """Return the checkpoints of this name up to an epoch, the oldest first."""
        if not _EPOCH.search(self.path.name):
            return []
        numbers = {path: int(match[1]) for path, match in self._found("%s").items()}
        return sorted((path for path in numbers if numbers[path] <= epoch), key=lambda path: numbers[path])

    def _found(self, pattern: str) -> dict[Path, re.Match[str]]:
        """Return the files beside the checkpoints whose names are a pattern, "%s" in it being a name of one's own."""
        whole = re.compile(pattern % self._own)
        names = {path: whole.fullmatch(path.name) for path in self.path.parent.iterdir()}
        return {path: match for path, match in names.items() if match and not path.is_dir()}

    def state(self) -> dict[str, Any]:
        return {"name": self.path.name, "monitor": self.monitor, "mode": self.mode, "best": self.best}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best = _best(state, self.mode)


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
        self.log_dir = Path(check_path("log_dir", log_dir))
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
