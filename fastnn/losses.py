"""The losses by name, and what each takes as targets.

All are means over outputs (cross entropy: the sum over classes), then means over samples weighted by sample
and class weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fastnn._errors import check_number, shown, unknown_name
from fastnn.kernels.loss import CODES


@dataclass(frozen=True)
class Loss:
    """A loss: its name, its kernel's code, and whether targets are class labels, probabilities or values."""

    name: ClassVar[str]
    takes: ClassVar[str]  # "values", "labels" (integers or rows of probabilities) or "probabilities" (0 to 1 each)
    folds: ClassVar[str | None] = None  # the last activation that this loss works out itself, from logits

    @property
    def code(self) -> int:
        """The kernel's code."""
        return CODES[self.name]

    @property
    def delta(self) -> float:
        """Huber's delta; of no account elsewhere."""
        return 1.0

    def config(self) -> dict[str, Any]:
        """Return name and parameters as plain data."""
        return {"name": self.name}


@dataclass(frozen=True)
class SquaredError(Loss):
    """(y - t)^2. (The survey halves it; gradients and learning rates then differ by the factor 2.)"""

    name: ClassVar[str] = "squared_error"
    takes: ClassVar[str] = "values"


@dataclass(frozen=True)
class AbsoluteError(Loss):
    """|y - t|."""

    name: ClassVar[str] = "absolute_error"
    takes: ClassVar[str] = "values"


@dataclass(frozen=True)
class Huber(Loss):
    """e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2), e = y - t.

    Parameters
    ----------
    delta : float
        Where the parabola turns into a line, > 0.
    """

    delta_: float
    name: ClassVar[str] = "huber"
    takes: ClassVar[str] = "values"

    def __init__(self, delta: float = 1.0) -> None:
        object.__setattr__(self, "delta_", check_number("delta", delta, low=0.0, low_open=True))

    def __repr__(self) -> str:
        return f"Huber(delta={self.delta_!r})"

    @property
    def delta(self) -> float:
        """Where the parabola turns into a line."""
        return self.delta_

    def config(self) -> dict[str, Any]:
        """Return name and parameters as plain data."""
        return {"name": self.name, "delta": self.delta_}


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """-sum_j t_j log softmax(z)_j, from logits; integer labels, one-hot rows or soft rows.

    A softmax at the network's end is part of the loss: with it `predict` gives probabilities, without it logits.
    """

    name: ClassVar[str] = "cross_entropy"
    takes: ClassVar[str] = "labels"
    folds: ClassVar[str | None] = "softmax"


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """-t log s - (1 - t) log(1 - s), s = sigmoid(z), from logits; targets between 0 and 1.

    A sigmoid at the network's end is part of the loss: with it `predict` gives probabilities, without it logits.
    """

    name: ClassVar[str] = "binary_cross_entropy"
    takes: ClassVar[str] = "probabilities"
    folds: ClassVar[str | None] = "sigmoid"


LOSSES: dict[str, type[Loss]] = {
    loss.name: loss for loss in (SquaredError, CrossEntropy, BinaryCrossEntropy, AbsoluteError, Huber)
}


_ELSEWHERE = {
    **dict.fromkeys(("mse", "mseloss", "meansquarederror", "l2"), "squared_error"),
    **dict.fromkeys(("mae", "l1loss", "l1", "meanabsoluteerror"), "absolute_error"),
    **dict.fromkeys(
        ("categoricalcrossentropy", "sparsecategoricalcrossentropy", "logloss", "nllloss"), "cross_entropy"
    ),
    **dict.fromkeys(("binarycrossentropy", "bce", "bceloss", "bcewithlogitsloss"), "binary_cross_entropy"),
    **dict.fromkeys(("huberloss", "smoothl1", "smoothl1loss"), "huber"),
}
"""The names that Keras, PyTorch and scikit-learn have for them, for messages."""


def as_loss(value: str | Loss) -> Loss:
    """Return a loss for a loss or its name.

    Raises
    ------
    TypeError, ValueError
        For a function, and for an unknown name, with the nearest known one.
    """
    if isinstance(value, Loss) and type(value) is not Loss:
        return value
    if callable(value) and not isinstance(value, type):
        raise TypeError(
            f"loss: got {shown(value)}, expected one of {', '.join(map(repr, LOSSES))}; a loss of one's own is trained "
            "by backward and apply_gradients"
        )
    if not isinstance(value, str) or value not in LOSSES:
        raise unknown_name("loss", value, LOSSES, _ELSEWHERE)
    return LOSSES[value]()


def from_config(config: dict[str, Any]) -> Loss:
    """Return the loss that `Loss.config` described."""
    parameters = dict(config)
    name = parameters.pop("name", None)
    if name not in LOSSES:
        raise unknown_name("loss", name, LOSSES)
    return LOSSES[name](**parameters)
