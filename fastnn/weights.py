"""The weights of a network: their first values, their penalty, and arrays of the user's that shall replace them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn._errors import shown
from fastnn.initializers import as_initializer, initialize
from fastnn.intake import Intake
from fastnn.kernels.update import penalty
from fastnn.network import Network

Array = npt.NDArray[Any]


def draw_weights(network: Network, params: Array, seed: int) -> None:
    """Write the first values of all weights into the flat vector `params`, a function of the seed; biases are 0."""
    rng = np.random.default_rng(seed)
    weights = iter(network.views(params))
    for stage in network.stages:
        if stage.dense is not None:
            way = as_initializer(stage.dense.kernel_initializer, str(stage.dense.activation))
            next(weights)[:] = initialize(way, (stage.inputs, stage.units), rng=rng, dtype=network.dtype)
            if stage.dense.use_bias:
                next(weights)[:] = 0.0


def penalty_of(network: Network, params: Array) -> float:
    """Return l1 sum|W| + l2/2 sum W^2 over all weights in a flat vector."""
    views = network.views(params)
    return sum(penalty(view, s.l1, s.l2) for s, view in zip(network.segments, views, strict=True) if s.l1 or s.l2)


def add_penalty_gradients(network: Network, params: Array, grads: Sequence[Array], with_l1: bool) -> None:
    """Add the penalties' gradients to those of the loss, [dW0, db0, ...]."""
    for segment, weight, grad in zip(network.segments, network.views(params), grads, strict=True):
        grad += segment.l2 * weight
        if with_l1:
            grad += segment.l1 * np.sign(weight)


def like_weights(intake: Intake, argument: str, arrays: Any) -> list[Array]:
    """Return arrays of the weights' shapes and dtype from a list of them, or from all numbers in one array.

    Raises
    ------
    TypeError, ValueError
        For another number of arrays, another shape, or NaN or infinity.
    """
    network = intake.network
    own = [segment.shape for segment in network.segments]
    arrays = intake.on_host(argument, arrays)
    if isinstance(arrays, np.ndarray) and arrays.shape == (network.params_size,):
        arrays = network.views(arrays)
    elif isinstance(arrays, np.ndarray) and arrays.shape == (network.n_params,):
        ends = np.cumsum([segment.size for segment in network.segments])
        arrays = [part.reshape(shape) for part, shape in zip(np.split(arrays, ends[:-1]), own, strict=True)]
    if not isinstance(arrays, Sequence):
        raise TypeError(
            f"{argument}: got {shown(arrays)} ({type(arrays).__name__}), expected a list of {len(own)} arrays, or "
            f"one of {network.n_params} numbers, or one like parameters_vector()"
        )
    if len(arrays) != len(own):
        raise ValueError(f"{argument}: got {len(arrays)} arrays, expected {len(own)}")
    with np.errstate(over="ignore"):  # what leaves the range of the dtype is infinite then
        return [
            _like(intake, f"{argument}[{number}]", array, shape)
            for number, (array, shape) in enumerate(zip(arrays, own, strict=True))
        ]


def _like(intake: Intake, name: str, given: Any, shape: tuple[int, ...]) -> Array:
    """Return a copy of one array, of a shape and dtype."""
    try:
        array = np.asarray(intake.on_host(name, given.detach() if hasattr(given, "detach") else given))
    except ValueError:
        raise ValueError(f"{name}: got rows of several lengths, expected numbers of shape {shape}") from None
    if array.dtype.kind not in "biuf" or array.shape != shape:
        raise ValueError(f"{name}: got {array.dtype} of shape {array.shape}, expected numbers of shape {shape}")
    array = array.astype(intake.network.dtype)
    if intake.check_finite and not math.isfinite(np.vdot(array, array)) and not np.isfinite(array).all():
        what = "NaN" if np.isnan(array).any() else "infinity"
        raise ValueError(f"{name}: got {what}, expected finite numbers in the range of {array.dtype}")
    return array
