"""The layers of a network: frozen descriptions that hold no arrays. `network.py` turns them into tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn._errors import check_field, check_flag, check_number, shown, unknown_name
from fastnn.activations import check_activation
from fastnn.initializers import Initializer, as_initializer
from fastnn.kernels.dropout import MOST_DROPPED


@dataclass(frozen=True)
class Layer:
    """A layer's description."""

    def config(self) -> dict[str, Any]:
        """Return kind and parameters as plain data (JSON)."""
        values = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}
        return {"kind": type(self).__name__, **values}


def _plain(value: Any) -> Any:
    if isinstance(value, Initializer):
        return {"name": value.name, "gain": value.gain}
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Dense(Layer):
    """A dense layer: a = f(x W + b), W of shape (inputs, units).

    Parameters
    ----------
    units : int
        Width of the output, >= 1.
    activation : str or None
        See `fastnn.activations`; None is the identity.
    use_bias : bool
        Whether there is a b.
    kernel_initializer : str or Initializer
        How W starts; "auto" follows the activation (He for the ReLU family, Glorot for the others). b starts
        at 0.
    l1, l2 : float or None
        Penalty on W: l1 sum|W| + l2/2 sum W^2. None takes the model's.

    Raises
    ------
    TypeError, ValueError
        For a width below 1, an unknown name, a negative penalty.
    """

    units: int
    activation: str | None = None
    use_bias: bool = True
    kernel_initializer: str | Initializer = "auto"
    l1: float | None = None
    l2: float | None = None

    def __post_init__(self) -> None:
        check_field(self, "units", low=1, integer=True)
        object.__setattr__(self, "activation", check_activation(self.activation))
        object.__setattr__(self, "use_bias", check_flag("use_bias", self.use_bias))
        as_initializer(self.kernel_initializer, str(self.activation))
        for name in ("l1", "l2"):
            if getattr(self, name) is not None:
                check_field(self, name, low=0.0)


def check_dropout_rate(name: str, value: Any) -> float:
    """Return a share of units to drop as a number, or raise with the argument's name."""
    rate = check_number(name, value, low=0.0, high=1.0, high_open=True)
    if rate > MOST_DROPPED:
        raise ValueError(f"{name}: got {rate!r}, expected at most 1 - 2^-31")
    return rate


@dataclass(frozen=True)
class Dropout(Layer):
    """Inverted dropout: in training each unit is 0 with probability `rate`, the others are scaled by 1 / (1 - rate).

    At prediction all units work and nothing is scaled.

    Parameters
    ----------
    rate : float
        The share that is dropped, 0 <= rate <= 1 - 2^-31.
    """

    rate: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", check_dropout_rate("rate", self.rate))


@dataclass(frozen=True)
class Activation(Layer):
    """An activation of its own: a = f(x).

    Parameters
    ----------
    name : str
        See `fastnn.activations`.
    """

    name: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", check_activation(self.name))


def activation_of(layer: Layer) -> str | None:
    """Return the name of a layer's activation; None for a kind of layer that has none."""
    if isinstance(layer, Dense):
        return layer.activation
    return layer.name if isinstance(layer, Activation) else None


@dataclass(frozen=True)
class Rescale(Layer):
    """Scale the inputs: x scale + offset; the first layer only.

    It is applied while a batch is gathered, and saved with the model.

    ``Rescale(1 / 255)`` takes images of bytes to 0 .. 1; ``Rescale(1 / std, -mean / std)`` standardises columns. Where
    numbers are large beside how far they lie apart, such as seconds since 1970, that is lost to float32 before they
    come here: take ``x - mean`` of them, or ``dtype="float64"``.

    Parameters
    ----------
    scale, offset : float or sequence of float
        One number, or one for each input.
    """

    scale: float | tuple[float, ...]
    offset: float | tuple[float, ...]

    def __init__(self, scale: npt.ArrayLike, offset: npt.ArrayLike = 0.0) -> None:
        object.__setattr__(self, "scale", _numbers("scale", scale))
        object.__setattr__(self, "offset", _numbers("offset", offset))

    @property
    def per_input(self) -> bool:
        """Whether there is a number for each input, which fits one width only."""
        return isinstance(self.scale, tuple) or isinstance(self.offset, tuple)

    def table(self, inputs: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Return scale and offset of every input, shape (2, inputs).

        Raises
        ------
        ValueError
            If a sequence has another length than there are inputs.
        """
        result = np.empty((2, inputs), dtype)
        for row, (name, value) in enumerate((("scale", self.scale), ("offset", self.offset))):
            if isinstance(value, tuple) and len(value) != inputs:
                raise ValueError(
                    f"{name}: got {len(value)} numbers, expected one, or one for each of the {inputs} inputs"
                )
            with np.errstate(over="ignore"):
                result[row] = value
            lost = name == "scale" and ((result[row] == 0) != (np.array(value) == 0)).any()  # rounded to 0
            if lost or not np.isfinite(result[row]).all():
                raise ValueError(f"{name}: got {shown(value)}, expected numbers in the range of {dtype}")
        return result


def _numbers(name: str, value: npt.ArrayLike) -> float | tuple[float, ...]:
    array = np.asarray(value)
    if array.dtype.kind not in "iuf" or array.ndim > 1 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"{name}: got {shown(value)}, expected a finite number or one for each input")
    return float(array) if array.ndim == 0 else tuple(float(number) for number in array)


def check_layers(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return the layers of a model, or raise where they are none."""
    if isinstance(layers, Layer) or not isinstance(layers, (list, tuple)):
        raise TypeError(f"layers: got {type(layers).__name__}, expected a list of layers such as [Dense(10)]")
    if not layers:
        raise ValueError("layers: got an empty list, expected at least one layer")
    for number, layer in enumerate(layers):
        if not isinstance(layer, Layer) or type(layer) is Layer:
            raise TypeError(
                f"layers[{number}]: got {layer!r} ({type(layer).__name__}), expected a layer such as Dense(10)"
            )
    return tuple(layers)


KINDS: dict[str, type[Layer]] = {kind.__name__: kind for kind in (Dense, Dropout, Activation, Rescale)}


def from_config(config: dict[str, Any]) -> Layer:
    """Return the layer that `Layer.config` described."""
    parameters = dict(config)
    kind = parameters.pop("kind", None)
    if kind not in KINDS:
        raise unknown_name("layer kind", kind, KINDS)
    initializer = parameters.get("kernel_initializer")
    if isinstance(initializer, dict):
        parameters["kernel_initializer"] = Initializer(**initializer)
    return KINDS[kind](**parameters)
