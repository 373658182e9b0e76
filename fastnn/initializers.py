"""Values that weights start from, chosen so that signals and gradients neither vanish nor explode with depth.

A weight matrix has shape (inputs, units): fan_in is its number of rows, fan_out its number of columns. Biases
start at 0. All draws are made in float64 and then rounded to the wanted dtype, so that a float32 network
starts from the float64 network's weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastnn._errors import check_field, check_number, shown, unknown_name

__all__ = ["NAMES", "Initializer", "as_initializer", "default_for", "initialize"]

Matrix = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, int, int], Matrix]


def _uniform(variance: Callable[[int, int], float]) -> Draw:
    """Draw uniformly with mean 0 and this variance: between ±sqrt(3 * variance)."""

    def draw(rng: np.random.Generator, fan_in: int, fan_out: int) -> Matrix:
        limit = math.sqrt(3.0 * variance(fan_in, fan_out))
        return rng.uniform(-limit, limit, (fan_in, fan_out))

    return draw


def _normal(variance: Callable[[int, int], float]) -> Draw:
    """Draw from the normal distribution, not truncated, with mean 0 and this variance."""

    def draw(rng: np.random.Generator, fan_in: int, fan_out: int) -> Matrix:
        return rng.normal(0.0, math.sqrt(variance(fan_in, fan_out)), (fan_in, fan_out))

    return draw


def _orthogonal(rng: np.random.Generator, fan_in: int, fan_out: int) -> Matrix:
    """Draw a matrix with orthonormal columns (rows, if it is wider than tall), all such equally likely.

    A product of Householder reflections along normal vectors of growing length, applied to the identity from
    the last to the first (Stewart, "The efficient generation of random orthogonal matrices", 1980). It takes
    no LAPACK, whose bits depend on the number of BLAS threads; 1.5 s for 1024 x 1024 is the price.
    """
    rows, columns = max(fan_in, fan_out), min(fan_in, fan_out)
    q = np.eye(columns, rows)  # transposed: the vectors of length `rows` are contiguous
    scratch = np.empty_like(q)
    for k in reversed(range(columns)):
        v = rng.standard_normal(rows - k)
        sign = math.copysign(1.0, v[0])
        v[0] += sign * math.sqrt((v * v).sum())  # away from 0: no cancellation
        block = q[k:, k:]
        shares = np.einsum("ij,j->i", block, v) * (2.0 / (v * v).sum())
        block -= np.multiply.outer(shares, v, out=scratch[k:, k:])
        block[0] *= -sign  # the first vector is now the direction that was drawn
    return q.T if fan_in >= fan_out else q


_DRAWS: dict[str, Draw] = {
    "glorot_uniform": _uniform(lambda fan_in, fan_out: 2.0 / (fan_in + fan_out)),
    "glorot_normal": _normal(lambda fan_in, fan_out: 2.0 / (fan_in + fan_out)),
    "he_uniform": _uniform(lambda fan_in, fan_out: 2.0 / fan_in),
    "he_normal": _normal(lambda fan_in, fan_out: 2.0 / fan_in),
    "lecun_uniform": _uniform(lambda fan_in, fan_out: 1.0 / fan_in),
    "lecun_normal": _normal(lambda fan_in, fan_out: 1.0 / fan_in),
    "orthogonal": _orthogonal,
    "zeros": lambda rng, fan_in, fan_out: np.zeros((fan_in, fan_out)),
    "normal": _normal(lambda fan_in, fan_out: 0.01**2),
    "uniform": _uniform(lambda fan_in, fan_out: 0.05**2 / 3.0),
}

NAMES: tuple[str, ...] = tuple(_DRAWS)
"""The names that `initialize` knows."""

_DEFAULTS = {
    "relu": "he_uniform",
    "leaky_relu": "he_uniform",
    "elu": "he_uniform",
    "gelu": "he_uniform",
    "silu": "he_uniform",
    "softplus": "he_uniform",
    "sigmoid": "glorot_uniform",
    "tanh": "glorot_uniform",
    "identity": "glorot_uniform",
    "softmax": "glorot_uniform",
}


@dataclass(frozen=True)
class Initializer:
    """A way to draw a weight matrix, by name, and a factor for all its values.

    ===================================  ==========================  =====================================
    name                                 variance                    source
    ===================================  ==========================  =====================================
    "glorot_uniform", "glorot_normal"    2 / (fan_in + fan_out)      Glorot and Bengio 2010, eq. 12 and 16
    "he_uniform", "he_normal"            2 / fan_in                  He and others 2015, eq. 10
    "lecun_uniform", "lecun_normal"      1 / fan_in                  LeCun and others 1998, section 4.6
    "orthogonal"                         1 / max(fan_in, fan_out)    Saxe and others 2014
    "zeros"                              0
    "normal"                             0.01^2
    "uniform"                            0.05^2 / 3, within ±0.05
    ===================================  ==========================  =====================================

    Uniform ones lie within ±sqrt(3 * variance). Normal ones are not truncated (Keras truncates them at two
    standard deviations). "orthogonal" has orthonormal columns, or rows where it is wider than tall.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    gain : float
        What the values are multiplied by, > 0; the variance changes by gain^2.
    """

    name: str
    gain: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name not in _DRAWS:
            raise unknown_name("initializer", self.name, NAMES)
        check_field(self, "gain", low=0, low_open=True)


def default_for(activation: str) -> str:
    """Return the name of the initializer that "auto" stands for in a layer with this activation.

    Glorot's variance keeps signals and gradients level where the slope at 0 is 1 (tanh, identity) and is what
    is usual for sigmoid and softmax. ReLU passes half of either, E[f(z)^2] = E[f'(z)^2] = 1/2 for a standard
    normal z, which He's factor 2 makes up for exactly. The others that are flat on one side lie close enough
    for the same factor: E[f^2] and E[f'^2] are 0.50 and 0.50 for leaky ReLU, 0.64 and 0.67 for ELU, 0.43 and
    0.46 for GELU, 0.36 and 0.38 for SiLU. Softplus (0.92 and 0.29) is a compromise: its signals grow a
    little, its gradients shrink less than with Glorot's variance.

    Parameters
    ----------
    activation : str
        The name of an activation, or "softmax".
    """
    if not isinstance(activation, str) or activation not in _DEFAULTS:
        raise unknown_name("activation", activation, _DEFAULTS)
    return _DEFAULTS[activation]


def as_initializer(value: str | Initializer, activation: str | None = None) -> Initializer:
    """Return the initializer that a layer's `kernel_initializer` stands for.

    Parameters
    ----------
    value : str or Initializer
        A name means gain 1; "auto" means `default_for` the activation.
    activation : str or None
        The layer's activation, where "auto" is allowed.
    """
    if isinstance(value, Initializer):
        return value
    if isinstance(value, str) and value == "auto" and activation is not None:
        return Initializer(default_for(activation))
    if not isinstance(value, str) or value not in _DRAWS:
        if activation is None:
            raise unknown_name("initializer", value, NAMES)
        raise unknown_name("kernel_initializer", value, ("auto", *NAMES))
    return Initializer(value)


def initialize(
    initializer: str | Initializer,
    shape: tuple[int, int],
    *,
    rng: np.random.Generator,
    dtype: npt.DTypeLike = np.float32,
) -> npt.NDArray[np.floating]:
    """Draw a weight matrix.

    Parameters
    ----------
    initializer : str or Initializer
        See `Initializer` for the names and formulas.
    shape : (int, int)
        (inputs, units), both >= 1.
    rng : numpy.random.Generator
        The source of the numbers; it advances.
    dtype : dtype
        float32 or float64.

    Returns
    -------
    ndarray, shape (inputs, units)
        In C order. The same seed gives the same bits for any number of threads.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as said above.
    """
    chosen = as_initializer(initializer)
    try:
        inputs, units = shape
    except (TypeError, ValueError):
        raise ValueError(f"shape: got {shown(shape)}, expected (inputs, units)") from None
    fan_in = check_number("inputs", inputs, low=1, integer=True)
    fan_out = check_number("units", units, low=1, integer=True)
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng: got {shown(rng)} ({type(rng).__name__}), expected a numpy.random.Generator")
    kind = np.dtype(dtype)
    if kind not in (np.float32, np.float64):
        raise ValueError(f"dtype: got {kind}, expected float32 or float64")
    values = _DRAWS[chosen.name](rng, fan_in, fan_out)
    values *= chosen.gain
    return np.ascontiguousarray(values, dtype=kind)
