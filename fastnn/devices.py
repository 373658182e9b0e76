"""Where a model runs: on the CPU, or on a GPU where `fastnn.cuda` finds one."""

from __future__ import annotations

from typing import Any

from fastnn._errors import unknown_name
from fastnn.runtime import Runtime

DEVICES = ("cpu", "cuda", "auto")


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


def runtime_on(device: str) -> type[Runtime]:
    """Return what runs networks on a device that `check_device` gave."""
    if device == "cpu":
        return Runtime
    from fastnn.cuda.runtime import CudaRuntime

    return CudaRuntime
