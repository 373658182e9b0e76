"""The optimizers: their hyper-parameters and formulas; the update itself is one fused kernel (`kernels/update.py`).

Forms and defaults are PyTorch's. The survey puts epsilon inside the root of AdaGrad and RMSprop
(`eps_inside_sqrt=True`) and halves the learning rate after every iteration (``StepDecay(lr, 0.5, every=1)``);
its text also has slips: roots of gradients instead of their squares in AdaGrad's sum, g^2 / (2 eta) in RMSprop, and b1
beside beta1 for one constant.
"""

from __future__ import annotations

import functools
import math
from dataclasses import FrozenInstanceError, dataclass, field, fields
from typing import Any, ClassVar, NoReturn

import numpy as np
import numpy.typing as npt

from fastnn import schedules
from fastnn._errors import check_field, check_flag, check_number, check_range, shown, unknown_name
from fastnn.kernels import update
from fastnn.schedules import Schedule, as_schedule


@dataclass(frozen=True)
class Optimizer:
    """An optimizer.

    Every one takes `lr` and, by keyword, `clip_norm` and `clip_value`, as `SGD` says.
    """

    clip_norm: float | None = field(default=None, kw_only=True)
    clip_value: float | None = field(default=None, kw_only=True)
    lr: float | Schedule = 0.01
    name: ClassVar[str]
    code: ClassVar[int]

    def __post_init__(self) -> None:
        if not isinstance(self.lr, Schedule):
            object.__setattr__(self, "lr", self.schedule.rate(0, 0))  # an `lr` that is none is refused
        for name in ("clip_norm", "clip_value"):
            if getattr(self, name) is not None:
                check_field(self, name, low=0.0, low_open=True)
        for item in fields(self):
            if isinstance(item.default, bool):
                object.__setattr__(self, item.name, check_flag(item.name, getattr(self, item.name)))
        self._check()

    def _check(self) -> None:
        """Check the parameters of one kind."""

    def check_range(self, dtype: np.dtype[Any]) -> None:
        """Refuse numbers with which nothing would be learned in a float type: those that it cannot hold.

        Raises
        ------
        ValueError
            With the parameter's name.
        """
        if not isinstance(self.lr, Schedule):
            check_range("lr", self.lr, dtype)
        for name in ("clip_norm", "clip_value"):
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name), dtype, may_overflow=True)
        check_range("eps", getattr(self, "eps", 0.0), dtype, may_vanish=True)

    @functools.cached_property
    def schedule(self) -> Schedule:
        """The schedule that `lr` is, or one that stays at this number."""
        return as_schedule(self.lr)

    @property
    def slots(self) -> tuple[str | None, str | None, str | None]:
        """Names of the state vectors in the kernel's three places; None for one that is not kept."""
        return (None, None, None)

    @property
    def weight_decay_rate(self) -> float:
        """Decoupled weight decay; 0 for most."""
        return 0.0

    def hyper(self) -> npt.NDArray[np.float64]:
        """Return the kernel's vector of hyper-parameters (those that change with the step are set there)."""
        return update.hyper_vector(
            lr=0.0, clip_value=math.inf if self.clip_value is None else self.clip_value, **self._numbers()
        )

    def _numbers(self) -> dict[str, Any]:
        return {}

    def config(self) -> dict[str, Any]:
        """Return name and parameters as plain data (JSON)."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values["lr"] = self.lr.config() if isinstance(self.lr, Schedule) else self.lr
        return {"name": type(self).__name__} | {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent: u = momentum u + g; w -= lr u (Nesterov: w -= lr (g + momentum u)).

    Parameters
    ----------
    lr : float or Schedule
        The learning rate, > 0, or what it is at each step (`fastnn.schedules`).
    momentum : float
        0 <= momentum < 1.
    nesterov : bool
        Look ahead along the velocity; needs a momentum.
    clip_norm : float or None
        Euclidean norm, > 0, that the whole gradient, penalties included, is scaled down to. None: it is left alone.
    clip_value : float or None
        Each number of the gradient is clipped to +- this first.
    """

    momentum: float = 0.0
    nesterov: bool = False
    name: ClassVar[str] = "sgd"
    code: ClassVar[int] = update.SGD

    def _check(self) -> None:
        check_field(self, "momentum", low=0.0, high=1.0, high_open=True)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: got True with momentum 0, expected a momentum > 0 beside it")

    @property
    def slots(self) -> tuple[str | None, str | None, str | None]:
        return ("velocity" if self.momentum else None, None, None)

    def _numbers(self) -> dict[str, Any]:
        return {"b1": self.momentum, "nesterov": self.nesterov}


@dataclass(frozen=True)
class AdaGrad(Optimizer):
    """AdaGrad (Duchi, Hazan and Singer 2011): G += g^2; w -= lr g / (sqrt(G) + eps).

    Parameters
    ----------
    lr, clip_norm, clip_value
        As in `SGD`.
    eps : float
        >= 0.
    eps_inside_sqrt : bool
        The survey's form: sqrt(G + eps).
    """

    lr: float | Schedule = 0.01
    eps: float = 1e-10
    eps_inside_sqrt: bool = False
    name: ClassVar[str] = "adagrad"
    code: ClassVar[int] = update.ADAGRAD

    def _check(self) -> None:
        check_field(self, "eps", low=0.0)

    @property
    def slots(self) -> tuple[str | None, str | None, str | None]:
        return ("sum_of_squares", None, None)

    def _numbers(self) -> dict[str, Any]:
        return {"eps": self.eps, "eps_inside_sqrt": self.eps_inside_sqrt}


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton 2012): v = alpha v + (1 - alpha) g^2; w -= lr g / (sqrt(v) + eps).

    Parameters
    ----------
    lr, clip_norm, clip_value
        As in `SGD`.
    alpha : float
        Decay of the average, 0 <= alpha < 1.
    eps : float
        >= 0.
    momentum : float
        u = momentum u + g / (sqrt(v) + eps); w -= lr u.
    centered : bool
        Divide by the standard deviation: v - mean^2 for v (Graves 2013).
    eps_inside_sqrt : bool
        The survey's form: sqrt(v + eps).
    """

    lr: float | Schedule = 0.01
    alpha: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0
    centered: bool = False
    eps_inside_sqrt: bool = False
    name: ClassVar[str] = "rmsprop"
    code: ClassVar[int] = update.RMSPROP

    def _check(self) -> None:
        check_field(self, "alpha", low=0.0, high=1.0, high_open=True)
        check_field(self, "eps", low=0.0)
        check_field(self, "momentum", low=0.0, high=1.0, high_open=True)

    @property
    def slots(self) -> tuple[str | None, str | None, str | None]:
        return ("mean_square", "velocity" if self.momentum else None, "mean" if self.centered else None)

    def _numbers(self) -> dict[str, Any]:
        return {
            "b1": self.momentum,
            "b2": self.alpha,
            "eps": self.eps,
            "eps_inside_sqrt": self.eps_inside_sqrt,
            "centered": self.centered,
        }


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015): m, v decaying averages of g, g^2; w -= lr m_hat / (sqrt(v_hat) + eps).

    Parameters
    ----------
    lr, clip_norm, clip_value
        As in `SGD`.
    betas : (float, float)
        Decay of the two averages, 0 <= beta < 1.
    eps : float
        >= 0.
    amsgrad : bool
        Divide by the largest v so far (Reddi, Kale and Kumar 2018).
    """

    lr: float | Schedule = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    amsgrad: bool = False
    name: ClassVar[str] = "adam"
    code: ClassVar[int] = update.ADAM

    def __post_init__(self) -> None:
        betas = self.betas
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise ValueError(f"betas: got {betas!r}, expected two numbers in [0, 1)")
        object.__setattr__(
            self, "betas", tuple(check_number("betas", b, low=0.0, high=1.0, high_open=True) for b in betas)
        )
        super().__post_init__()

    def _check(self) -> None:
        check_field(self, "eps", low=0.0)

    @property
    def slots(self) -> tuple[str | None, str | None, str | None]:
        return ("m", "v", "v_max" if self.amsgrad else None)

    def _numbers(self) -> dict[str, Any]:
        return {"b1": self.betas[0], "b2": self.betas[1], "eps": self.eps}


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): w *= 1 - lr weight_decay before each step.

    The decay is for weights, not for biases (PyTorch's default decays both).

    Parameters
    ----------
    lr, betas, eps, amsgrad, clip_norm, clip_value
        As in `Adam`.
    weight_decay : float
        >= 0.
    """

    weight_decay: float = 0.01
    name: ClassVar[str] = "adamw"

    def _check(self) -> None:
        super()._check()
        check_field(self, "weight_decay", low=0.0)

    @property
    def weight_decay_rate(self) -> float:
        return self.weight_decay


OPTIMIZERS: dict[str, type[Optimizer]] = {kind.name: kind for kind in (SGD, AdaGrad, RMSprop, Adam, AdamW)}


def _stay(optimizer: Optimizer, name: str, value: Any) -> NoReturn:
    """Refuse to set an attribute, as in Keras a rate is set."""
    field_ = name if name in {item.name for item in fields(optimizer)} else "lr"
    raise FrozenInstanceError(
        f"{name}: got {shown(value)} for an optimizer that is made, expected no change; "
        f"model.optimizer = dataclasses.replace(model.optimizer, {field_}=...) gives the model another one"
    )


for _kind in OPTIMIZERS.values():
    _kind.__setattr__ = _stay  # type: ignore[method-assign, assignment]


def as_optimizer(value: str | Optimizer) -> Optimizer:
    """Return an optimizer for an optimizer or its name.

    Raises
    ------
    TypeError, ValueError
        For a schedule, and for an unknown name, with the nearest known one.
    """
    if isinstance(value, Optimizer) and type(value) is not Optimizer:
        return value
    if isinstance(value, Schedule):
        raise TypeError(f"optimizer: got {shown(value)}, expected an optimizer with this schedule: Adam(schedule)")
    if not isinstance(value, str) or value.lower() not in OPTIMIZERS:
        raise unknown_name("optimizer", value, OPTIMIZERS)
    return OPTIMIZERS[value.lower()]()


def from_config(config: dict[str, Any]) -> Optimizer:
    """Return the optimizer that `Optimizer.config` described."""
    parameters = dict(config)
    name = parameters.pop("name", None)
    if not isinstance(name, str) or name.lower() not in OPTIMIZERS:
        raise unknown_name("optimizer", name, OPTIMIZERS)
    if isinstance(parameters.get("lr"), dict):
        parameters["lr"] = schedules.from_config(parameters["lr"])
    return OPTIMIZERS[name.lower()](**parameters)
