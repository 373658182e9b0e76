"""Where a model runs: on the CPU, or on a GPU where `fastnn.cuda` finds one; and how exactly it multiplies there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastnn._errors import unknown_name
from fastnn.runtime import Runtime

DEVICES = ("cpu", "cuda", "auto")
PRECISIONS = ("float32", "tf32", "bf16")


class Place(NamedTuple):
    """Where a model runs and how it multiplies: what belongs to the machine, and is not saved with a model."""

    device: str = "cpu"
    matmul_precision: str = "float32"


HERE = Place()


class PlaceError(ValueError):
    """A place that a model cannot run at, such as tensor cores for float64."""


def check_device(device: Any) -> str:
    """Return "cpu" or "cuda" for what a user asks for; "auto" is "cuda" where a GPU can be used.

    Raises
    ------
    ValueError
        For an unknown name.
    RuntimeError
        If "cuda" is asked for, and something is missing: the message says what, and how to get it.
    """
    if device not in DEVICES:
        raise unknown_name("device", device, DEVICES)
    if device == "cpu":
        return "cpu"
    from fastnn.cuda import missing

    reason = missing()
    if device == "auto":
        return "cpu" if reason else "cuda"
    if reason:
        raise RuntimeError(f"device: got 'cuda', but {reason}")
    return "cuda"


def check_place(device: Any, matmul_precision: Any = "float32") -> Place:
    """Return the place for what a user asks for; with device "auto", what is not there is done without.

    Raises
    ------
    ValueError
        For an unknown name, or a precision that the CPU does not have.
    RuntimeError
        If something is missing: the message says what, and how to get it.
    """
    if matmul_precision not in PRECISIONS:
        raise unknown_name("matmul_precision", matmul_precision, PRECISIONS)
    checked = check_device(device)
    if matmul_precision == "float32":
        return Place(checked)
    if device == "cpu":
        raise PlaceError(
            f"matmul_precision: got {matmul_precision!r} with device='cpu', expected 'float32', "
            "since only an NVIDIA GPU multiplies otherwise"
        )
    if checked == "cpu":
        return HERE
    from fastnn.cuda._cublas import missing

    reason = missing(matmul_precision)
    if reason and device == "cuda":
        raise RuntimeError(f"matmul_precision: got {matmul_precision!r}, but {reason}")
    return Place(checked, "float32" if reason else matmul_precision)


def check_precision(matmul_precision: str, dtype: np.dtype[Any]) -> None:
    """Refuse a precision that a float type does not have.

    Raises
    ------
    ValueError
        If it is no float32 that would be rounded.
    """
    if matmul_precision != "float32" and dtype != np.float32:
        raise PlaceError(
            f"matmul_precision: got {matmul_precision!r} with dtype {dtype}, expected 'float32', or dtype float32"
        )


def runtime_on(place: Place) -> Callable[..., Runtime]:
    """Return what runs networks at a place that `check_place` gave; it is called as `Runtime` is."""
    if place.device == "cpu":
        return Runtime
    from fastnn.cuda.runtime import CudaRuntime

    return functools.partial(CudaRuntime, matmul_precision=place.matmul_precision)
