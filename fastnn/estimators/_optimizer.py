"""The solvers: which update they do, at what learning rate, and what they carry from step to step."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn._errors import check_field
from fastnn.optimizers import SGD, AdaGrad, Adam, AdamW, Optimizer, RMSprop
from fastnn.schedules import Schedule

STOCHASTIC = ("sgd", "adam", "adagrad", "rmsprop", "adamw")

SMALLEST_RATE = 1e-6
"""Where the adaptive learning rate ends."""


@dataclass(frozen=True)
class _Momentum(SGD):
    """Stochastic gradient descent that takes a momentum of 1 too, as scikit-learn does."""

    def _check(self) -> None:
        check_field(self, "momentum", low=0.0, high=1.0)


@dataclass(frozen=True)
class _AdamHat(Adam):
    """Adam in scikit-learn's form: epsilon is added before the second moment is corrected."""

    def _numbers(self) -> dict[str, Any]:
        return {**super()._numbers(), "eps_hat": True}


def rule_of(estimator: Any) -> Optimizer:
    """Return the update that an estimator's parameters ask for."""
    clip = {"clip_norm": estimator.clip_norm, "clip_value": estimator.clip_value}
    betas = (estimator.beta_1, estimator.beta_2)
    if estimator.solver == "sgd":
        nesterov = bool(estimator.nesterovs_momentum and estimator.momentum > 0)
        return _Momentum(momentum=estimator.momentum, nesterov=nesterov, **clip)
    if estimator.solver == "adam":
        return _AdamHat(betas=betas, eps=estimator.epsilon, **clip)
    if estimator.solver == "adamw":
        return AdamW(betas=betas, eps=estimator.epsilon, weight_decay=estimator.weight_decay, **clip)
    if estimator.solver == "rmsprop":
        return RMSprop(alpha=estimator.rho, eps=estimator.epsilon, **clip)
    return AdaGrad(eps=estimator.epsilon, **clip)


class Steps:
    """An optimizer at work: its state, its counters and its learning rate. It is pickled with the estimator.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
        Its parameters are read once.
    size : int
        Length of the flat vector of parameters.
    dtype : numpy dtype
        Of the parameters.
    seed : int
        Of the dropout masks.

    Attributes
    ----------
    learning_rate : float
        The rate now.
    step, epoch : int
        How many are done.
    state : array (slots * size,)
        The optimizer's vectors, such as velocity or moments.
    """

    def __init__(self, estimator: Any, size: int, dtype: np.dtype[Any], seed: int) -> None:
        self.rule, self.seed = rule_of(estimator), seed
        slots = sum(name is not None for name in self.rule.slots)
        self.state: npt.NDArray[Any] = np.zeros(slots * size, dtype)
        self.step = self.epoch = 0
        self.schedule = (
            copy.deepcopy(estimator.learning_rate) if isinstance(estimator.learning_rate, Schedule) else None
        )
        named = estimator.solver == "sgd" and self.schedule is None
        self.change = str(estimator.learning_rate) if named else "constant"
        self.initial, self.power_t = float(estimator.learning_rate_init), estimator.power_t
        self.learning_rate = self.initial if self.schedule is None else self.schedule.rate(0, 0)

    def own_state(self, dtype: np.dtype[Any]) -> None:
        """Make the state writable memory of this object, of the parameters' type: it may come from a mapped file."""
        self.state = np.asarray(np.require(self.state, dtype, ["C", "A", "W"]))

    @property
    def watched(self) -> str | None:
        """What a schedule looks at after each epoch."""
        return None if self.schedule is None else self.schedule.watched()

    @property
    def alike(self) -> bool:
        """Whether the rate stays as it is from epoch to epoch, until `give_up` changes it."""
        return self.schedule is None and self.change != "invscaling"

    def rates(self, n: int) -> npt.NDArray[np.float64]:
        """Return the learning rates of the next n steps."""
        if self.schedule is not None:
            return self.schedule.checked_rates(self.step, self.epoch, n)
        return np.full(n, self.learning_rate)

    def end_epoch(self, rows_seen: int, logs: dict[str, float]) -> None:
        """Set the rate of the next epoch: after `rows_seen` rows in all, or as a schedule says."""
        self.epoch += 1
        if self.schedule is not None:
            self.schedule.epoch_end(logs)
            self.learning_rate = self.schedule.rate(self.step, self.epoch)
        elif self.change == "invscaling":
            self._set(self.initial / (rows_seen + 1) ** self.power_t)

    def give_up(self) -> str | None:
        """Divide an adaptive rate by 5 and return None, or say why training ends."""
        if self.change != "adaptive":
            return "Stopping."
        if self.learning_rate <= SMALLEST_RATE:
            return "Learning rate too small. Stopping."
        self._set(self.learning_rate / 5.0)
        return None

    def _set(self, rate: float) -> None:
        """Change the rate. scikit-learn's velocity holds the rate as a factor, the kernel's does not."""
        self.state *= self.learning_rate / rate
        self.learning_rate = rate
