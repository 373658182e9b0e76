"""Learning rates as functions of the step and the epoch.

A schedule holds its own base rate, so it stands wherever a rate may stand: ``Adam(Cosine(1e-3, steps=20))``.
Steps and epochs are counted from 0 over the whole life of a model, across calls of `fit`.

The survey halves the rate after every iteration for AdaGrad, RMSprop and Adam alike; that is
``StepDecay(lr, factor=0.5, every=1)``. The papers of these methods keep the rate constant (Adam's proof alone
lets it fall with 1/sqrt(t)), and so do the optimizers here unless they are given a schedule.

Every rate is computed by itself from one scalar formula. How many are asked for at a time, which may depend
on the clock, therefore never changes their bits.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn._errors import check_field, check_number, shown, unknown_name

__all__ = [
    "Constant",
    "Cosine",
    "Exponential",
    "InverseTime",
    "ReduceOnPlateau",
    "Schedule",
    "StepDecay",
    "Warmup",
    "as_schedule",
    "from_config",
    "improves",
    "metric_to_watch",
    "resolve_mode",
    "worst",
]

Rates = npt.NDArray[np.float64]


class Schedule(ABC):
    """The learning rate as a function of the step and the epoch.

    A schedule of one's own inherits from this class and gives `rates`; as a dataclass it shows its numbers. It trains
    as any other, and a checkpoint is resumed from by a model that has it; `fastnn.load` wants it, in the optimizer.
    """

    @abstractmethod
    def rates(self, step: int, epoch: int, n_steps: int) -> Rates:
        """Return the rates of consecutive optimizer steps within one epoch.

        Parameters
        ----------
        step : int
            The first step, counted from 0 over all epochs.
        epoch : int
            The epoch that all these steps belong to, counted from 0.
        n_steps : int
            How many rates are wanted.

        Returns
        -------
        ndarray of float64, shape (n_steps,)
            Each depends on its own step and the epoch alone, never on where the call began or how many it
            asked for.
        """

    def rate(self, step: int, epoch: int) -> float:
        """Return the rate of one step, counted as in `rates`."""
        return float(self.checked_rates(step, epoch, 1)[0])

    def checked_rates(self, step: int, epoch: int, n_steps: int) -> Rates:
        """Return a copy of what `rates` gives, fit for compiled code, which looks at nothing.

        Raises
        ------
        ValueError
            If it is not `n_steps` numbers, none of them negative.
        """
        given = self.rates(step, epoch, n_steps)
        try:
            rates = np.array(given, np.float64)
        except (TypeError, ValueError):
            rates = np.empty(0)
        name = f"{type(self).__name__}.rates"
        if rates.shape != (n_steps,):
            raise ValueError(f"{name}: got {shown(given)}, expected an array of {n_steps} rates")
        if rates.min(initial=0.0) < 0:
            raise ValueError(f"{name}: got {rates.min()}, expected rates >= 0")
        return rates

    def epoch_end(self, logs: Mapping[str, float]) -> None:  # noqa: B027, most schedules do not listen
        """Hear what the epoch that just ended gave ("loss", "val_loss", ...)."""

    def watched(self) -> str | None:
        """Return the name of the number that `epoch_end` needs, None for none; `fit` looks for it before it trains."""
        return None

    def state(self) -> dict[str, Any]:
        """Return what training has changed, as JSON can hold it; empty for most schedules."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned; ValueError where it is not of this schedule."""
        if state:
            names = ", ".join(map(str, state))
            raise ValueError(f"state: got {names}, expected none: a {type(self).__name__} has no state")

    def fresh(self) -> Schedule:
        """Return one with the same parameters that no training has changed; one of your own with a state says how."""
        return copy.deepcopy(self)

    def config(self) -> dict[str, Any]:
        """Return name and parameters as JSON can hold them; `from_config` reverses it, but for those of one's own."""
        name = type(self).__name__
        if not is_dataclass(self):
            return {"name": name}
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        plain = (bool, int, float, str, type(None))
        return {"name": name} | {key: each if isinstance(each, plain) else shown(each) for key, each in values.items()}


class _Falling(Schedule):
    """A rate that starts at `lr` and is a function of one counter, the epoch or the step as `unit` says."""

    lr: float
    unit: str

    @abstractmethod
    def at(self, t: int) -> float:
        """Return the rate after `t` epochs or steps."""

    def rates(self, step: int, epoch: int, n_steps: int) -> Rates:
        """Return the rates of consecutive steps within one epoch; see `Schedule.rates`."""
        if self.unit == "step":
            return np.fromiter(map(self.at, range(step, step + n_steps)), np.float64, count=n_steps)
        return np.full(n_steps, self.at(epoch))

    def _check_lr_and_unit(self) -> None:
        check_field(self, "lr", low=0, low_open=True)
        if self.unit not in ("epoch", "step"):
            raise unknown_name("unit", self.unit, ("epoch", "step"))


@dataclass(frozen=True)
class Constant(Schedule):
    """One rate for all steps.

    Parameters
    ----------
    lr : float
        The rate, > 0.
    """

    lr: float

    def __post_init__(self) -> None:
        check_field(self, "lr", low=0, low_open=True)

    def rates(self, step: int, epoch: int, n_steps: int) -> Rates:
        """Return lr for every step."""
        return np.full(n_steps, self.lr)


@dataclass(frozen=True)
class StepDecay(_Falling):
    """Multiply the rate by `factor` after every `every` units: lr * factor^floor(t / every).

    The survey's "halved after every iteration" is ``StepDecay(lr, factor=0.5, every=1)``, with unit "epoch"
    or "step" for either reading of "iteration". Same as PyTorch's StepLR.

    Parameters
    ----------
    lr : float
        The rate at t = 0, > 0.
    factor : float
        What the rate is multiplied by, > 0.
    every : int
        Units between two changes, >= 1.
    unit : {"epoch", "step"}
        What t counts.
    """

    lr: float
    factor: float = 0.5
    every: int = 1
    unit: str = "epoch"

    def __post_init__(self) -> None:
        self._check_lr_and_unit()
        check_field(self, "factor", low=0, low_open=True)
        check_field(self, "every", low=1, integer=True)

    def at(self, t: int) -> float:
        """Return lr * factor^floor(t / every)."""
        return self.lr * _power(self.factor, t // self.every)


@dataclass(frozen=True)
class Exponential(_Falling):
    """Let the rate fall smoothly: lr * decay^(t / every).

    With `every` 1 the same as PyTorch's ExponentialLR; in general Keras' ExponentialDecay.

    Parameters
    ----------
    lr : float
        The rate at t = 0, > 0.
    decay : float
        What the rate is multiplied by over `every` units, > 0.
    every : int
        Units over which it is multiplied by `decay`, >= 1.
    unit : {"epoch", "step"}
        What t counts.
    """

    lr: float
    decay: float = 0.96
    every: int = 1
    unit: str = "epoch"

    def __post_init__(self) -> None:
        self._check_lr_and_unit()
        check_field(self, "decay", low=0, low_open=True)
        check_field(self, "every", low=1, integer=True)

    def at(self, t: int) -> float:
        """Return lr * decay^(t / every)."""
        return self.lr * _power(self.decay, t / self.every)


@dataclass(frozen=True)
class InverseTime(_Falling):
    """Let the rate fall with 1/t: lr / (1 + decay * t / every).

    The sum of all rates diverges and that of their squares converges, which is what Robbins and Monro ("A
    stochastic approximation method", 1951) ask for. Same as Keras' InverseTimeDecay.

    Parameters
    ----------
    lr : float
        The rate at t = 0, > 0.
    decay : float
        How fast it falls: after every / decay units half of it is left. > 0.
    every : int
        Units that `decay` refers to, >= 1.
    unit : {"epoch", "step"}
        What t counts.
    """

    lr: float
    decay: float
    every: int = 1
    unit: str = "epoch"

    def __post_init__(self) -> None:
        self._check_lr_and_unit()
        check_field(self, "decay", low=0, low_open=True)
        check_field(self, "every", low=1, integer=True)

    def at(self, t: int) -> float:
        """Return lr / (1 + decay * t / every)."""
        return self.lr / (1.0 + self.decay * t / self.every)


@dataclass(frozen=True)
class Cosine(_Falling):
    """Let the rate fall along half a cosine, and stay at `final` afterwards.

    final + (lr - final) * (1 + cos(pi * t / steps)) / 2 for t < steps, then final. The formula of PyTorch's
    CosineAnnealingLR (Loshchilov and Hutter, "SGDR", 2017, equation 5, without restarts), which rises again
    after `steps` where this one does not: with `final` 0 a later `fit` changes nothing, and warns.

    Parameters
    ----------
    lr : float
        The rate at t = 0, > 0.
    steps : int
        Units until `final` is reached, >= 1: epochs, or steps if `unit` says so.
    final : float
        The last rate, >= 0.
    unit : {"epoch", "step"}
        What t counts.
    """

    lr: float
    steps: int
    final: float = 0.0
    unit: str = "epoch"

    def __post_init__(self) -> None:
        self._check_lr_and_unit()
        check_field(self, "steps", low=1, integer=True)
        check_field(self, "final", low=0)

    def at(self, t: int) -> float:
        """Return final + (lr - final) * (1 + cos(pi * t / steps)) / 2, from t = steps on final."""
        if t >= self.steps:
            return self.final
        return self.final + (self.lr - self.final) * (1.0 + math.cos(math.pi * t / self.steps)) / 2.0


@dataclass
class ReduceOnPlateau(Schedule):
    """Multiply the rate by `factor` once a metric has stopped improving.

    After more than `patience` epochs in a row without an improvement the rate becomes
    max(factor * rate, min_lr). Then `cooldown` epochs pass that do not count, and the waiting starts again.
    An epoch whose metric is NaN counts as one without improvement. Same as PyTorch's ReduceLROnPlateau with
    threshold_mode="abs" and eps=0; Keras reduces one epoch earlier (after `patience` epochs).

    Parameters
    ----------
    lr : float
        The rate to start with, > 0.
    factor : float
        What it is multiplied by, in (0, 1).
    patience : int
        Epochs without improvement that are put up with, >= 0.
    min_delta : float
        By how much more than this a value must beat the best so far to be an improvement, >= 0, in its own unit.
    cooldown : int
        Epochs after a reduction that do not count, >= 0.
    min_lr : float
        The rate never falls below, in [0, lr].
    monitor : str
        The metric. Where there is no validation, "val_loss" means "loss".
    mode : {"auto", "min", "max"}
        Whether smaller or larger is better; "auto" goes by the name, as in `EarlyStopping`.
    """

    lr: float
    factor: float = 0.1
    patience: int = 10
    min_delta: float = 1e-4
    cooldown: int = 0
    min_lr: float = 0.0
    monitor: str = "val_loss"
    mode: str = "auto"
    _now: float = field(init=False, repr=False, compare=False)
    _best: float | None = field(init=False, repr=False, compare=False, default=None)
    _bad_epochs: int = field(init=False, repr=False, compare=False, default=0)
    _cooling: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        check_field(self, "lr", low=0, low_open=True)
        check_field(self, "factor", low=0, high=1, low_open=True, high_open=True)
        check_field(self, "patience", low=0, integer=True)
        check_field(self, "min_delta", low=0)
        check_field(self, "cooldown", low=0, integer=True)
        check_field(self, "min_lr", low=0, high=self.lr)
        resolve_mode(self.monitor, self.mode)
        self._now = self.lr

    def rates(self, step: int, epoch: int, n_steps: int) -> Rates:
        """Return the rate as it is now, for every step."""
        return np.full(n_steps, self._now)

    def epoch_end(self, logs: Mapping[str, float]) -> None:
        """Compare the metric with the best so far and reduce the rate where it is time to."""
        if self._improved(metric_to_watch(logs, self.monitor)):
            self._bad_epochs = 0
        else:
            self._bad_epochs += 1
        if self._cooling > 0:
            self._cooling -= 1
            self._bad_epochs = 0
        if self._bad_epochs > self.patience:
            self._now = max(self.factor * self._now, self.min_lr)
            self._cooling = self.cooldown
            self._bad_epochs = 0

    def _improved(self, value: float) -> bool:
        """Remember `value` if it is the best so far by more than `min_delta`."""
        mode = resolve_mode(self.monitor, self.mode)
        better = improves(value, worst(mode) if self._best is None else self._best, mode, self.min_delta)
        if better:
            self._best = value
        return better

    def watched(self) -> str:
        """Return `monitor`."""
        return self.monitor

    def fresh(self) -> Schedule:
        """Return one with the same parameters that has heard of no epoch."""
        return replace(self)

    def state(self) -> dict[str, Any]:
        """Return the rate, the best value (None before the first) and the two counters."""
        return {
            "now": self._now,
            "best": self._best,
            "bad_epochs": self._bad_epochs,
            "cooling": self._cooling,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned; the state is unchanged where this raises."""
        if set(state) != {"now", "best", "bad_epochs", "cooling"}:
            names = ", ".join(map(str, state)) or "nothing"
            raise ValueError(f"state: got {names}, expected now, best, bad_epochs, cooling")
        now = check_number("state['now']", state["now"], low=0, high=self.lr)
        best = (
            None
            if state["best"] is None
            else check_number("state['best']", state["best"], low=-math.inf, high=math.inf)
        )
        bad_epochs = check_number("state['bad_epochs']", state["bad_epochs"], low=0, integer=True)
        cooling = check_number("state['cooling']", state["cooling"], low=0, integer=True)
        self._now, self._best, self._bad_epochs, self._cooling = now, best, bad_epochs, cooling


@dataclass(frozen=True)
class Warmup(Schedule):
    """Start any schedule slowly: its rate times (step + 1) / steps, in full from step `steps` - 1 on.

    The counters of the schedule behind run from the first step, as if there were no warm-up. A small rate at
    first is one of the survey's remedies against exploding gradients; the linear form is that of Goyal and
    others, "Accurate, Large Minibatch SGD" (2017), section 2.2.

    Parameters
    ----------
    schedule : Schedule or float
        What is warmed up to; a number means a constant rate.
    steps : int
        Optimizer steps (not epochs) until the full rate, >= 1.
    """

    schedule: Schedule
    steps: int

    def __init__(self, schedule: Schedule | float, steps: int) -> None:
        object.__setattr__(self, "schedule", as_schedule(schedule))
        object.__setattr__(self, "steps", steps)
        if isinstance(self.schedule, Warmup):
            raise ValueError(f"schedule: got {shown(self.schedule)}, expected a schedule without a warm-up")
        check_field(self, "steps", low=1, integer=True)

    def rates(self, step: int, epoch: int, n_steps: int) -> Rates:
        """Return the rates of the schedule behind, scaled; see `Schedule.rates`."""
        rates = self.schedule.checked_rates(step, epoch, n_steps)
        if step < self.steps:
            rates = rates * np.minimum(np.arange(step + 1, step + n_steps + 1) / self.steps, 1.0)
        return rates

    def epoch_end(self, logs: Mapping[str, float]) -> None:
        """Pass on to the schedule behind."""
        self.schedule.epoch_end(logs)

    def watched(self) -> str | None:
        """Return what the schedule behind watches."""
        return self.schedule.watched()

    def fresh(self) -> Schedule:
        """Return the same warm-up in front of a fresh schedule."""
        return replace(self, schedule=self.schedule.fresh())

    def state(self) -> dict[str, Any]:
        """Return the state of the schedule behind; a warm-up has none."""
        return self.schedule.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Pass on to the schedule behind."""
        self.schedule.restore(state)

    def config(self) -> dict[str, Any]:
        """Return name, steps and the schedule behind, as JSON can hold them."""
        return {"name": "Warmup", "schedule": self.schedule.config(), "steps": self.steps}


_SCHEDULES: dict[str, type[Schedule]] = {
    c.__name__: c for c in (Constant, StepDecay, Exponential, InverseTime, Cosine, ReduceOnPlateau, Warmup)
}


class UnknownScheduleError(ValueError):
    """A description names a schedule that is none of fastnn's: `name`."""

    def __init__(self, name: str) -> None:
        super().__init__(str(unknown_name("schedule", name, _SCHEDULES)))
        self.name = name


def is_own(schedule: Schedule) -> bool:
    """Return whether a schedule, or the one behind a warm-up, is of its user's own kind, which no file can hold."""
    behind = schedule.schedule if isinstance(schedule, Warmup) else schedule
    return type(behind) is not _SCHEDULES.get(type(behind).__name__)


def as_schedule(lr: float | Schedule) -> Schedule:
    """Return a schedule as it is, and a number as a constant rate.

    Raises
    ------
    TypeError
        If `lr` is neither.
    ValueError
        If it is a number but no rate.
    """
    if isinstance(lr, Schedule):
        return lr
    if isinstance(lr, type) and issubclass(lr, Schedule):
        raise TypeError(f"lr: got the class {lr.__name__}, expected an instance: {lr.__name__}(0.01, ...)")
    return Constant(lr)


def from_config(config: Mapping[str, Any]) -> Schedule:
    """Build the schedule that `Schedule.config` described, in the state of a new one.

    Parameters
    ----------
    config : mapping
        May come from a file: everything in it is checked.

    Raises
    ------
    TypeError, ValueError
        If it does not describe a schedule; the message says what is wrong with it.
    """
    if not isinstance(config, Mapping):
        raise TypeError(f"schedule: got {shown(config)}, expected a mapping with a name and parameters")
    name = config.get("name")
    if not isinstance(name, str):
        raise unknown_name("schedule", name, _SCHEDULES)
    if name not in _SCHEDULES:
        raise UnknownScheduleError(name)
    kind = _SCHEDULES[name]
    parameters = {key: value for key, value in config.items() if key != "name"}
    known = [f.name for f in fields(kind) if f.init]  # type: ignore[arg-type]
    if set(parameters) != set(known):
        got = ", ".join(map(str, parameters)) or "no parameters"
        raise ValueError(f"{name}: got {got}, expected {', '.join(known)}")
    if kind is Warmup:
        behind = parameters["schedule"]
        if isinstance(behind, Mapping) and behind.get("name") == "Warmup":  # also bounds the depth
            raise ValueError("schedule: got a Warmup behind a Warmup, expected a schedule without a warm-up")
        parameters["schedule"] = from_config(behind)
    return kind(**parameters)


_LARGER_IS_BETTER = {"accuracy", "acc", "auc", "f1", "precision", "r2", "recall"}
"""Words in the names of metrics, those of fastnn and those that callbacks add."""


def resolve_mode(monitor: str, mode: str) -> str:
    """Return "min" or "max": whether smaller or larger values of a metric are better.

    Parameters
    ----------
    monitor : str
        The metric, such as "val_loss".
    mode : {"auto", "min", "max"}
        "auto" takes "max" for accuracy, R2, AUC, F1, precision and recall, such as "val_roc_auc" or "f1_macro", and for
        what ends in "score", else "min".
    """
    if not isinstance(monitor, str):
        raise TypeError(f"monitor: got {shown(monitor)} ({type(monitor).__name__}), expected a metric's name")
    if mode not in ("auto", "min", "max"):
        raise unknown_name("mode", mode, ("auto", "min", "max"))
    if mode == "auto":
        words = set(monitor.lower().split("_"))
        larger = words & _LARGER_IS_BETTER and not words & {"loss", "error"}
        return "max" if larger or monitor.endswith("score") else "min"
    return mode


def worst(mode: str) -> float:
    """Return what every number improves on, in a mode of `resolve_mode`."""
    return -math.inf if mode == "max" else math.inf


def improves(value: float, best: float, mode: str, min_delta: float = 0.0) -> bool:
    """Whether a value is better than the best so far, by more than `min_delta`; NaN is not."""
    return value > best + min_delta if mode == "max" else value < best - min_delta


def metric_to_watch(logs: Mapping[str, float], monitor: str) -> float:
    """Return the metric of an epoch that `monitor` names; "val_loss" is "loss" where there is no validation.

    Raises
    ------
    ValueError
        If the epoch has no such metric; the message lists those it has.
    TypeError
        If it is no number.
    """
    name = metric_name(logs, monitor)
    try:
        return float(logs[name])
    except (TypeError, ValueError):
        raise TypeError(f"logs[{name!r}]: got {shown(logs[name])} from a callback, expected a number") from None


def metric_name(there: Collection[str], monitor: str) -> str:
    """Return which of the metrics that there are `monitor` names; see `metric_to_watch`."""
    if monitor in there:
        return monitor
    if monitor == "val_loss" and "loss" in there:
        return "loss"
    raise unknown_name("monitor", monitor, there)


def _power(base: float, exponent: float) -> float:
    """Return base^exponent, infinite (a loss that is NaN then says so) where Python would raise."""
    try:
        return base**exponent
    except OverflowError:
        return math.inf
