"""The messages of bad arguments, those of the kernels' own checks and of paths; and of missing packages.

Every message has one form: the argument, what came, what was expected.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np

from fastnn.kernels._errors import check_flag, check_number, shown, unknown_name

__all__ = ["check_field", "check_flag", "check_number", "check_path", "check_range", "needed", "shown", "unknown_name"]


def needed(name: str, purpose: str, command: str) -> Any:
    """Import a module of a package that fastnn does not bring, or say how to get it.

    Raises
    ------
    ImportError
        ``onnx is not installed (...), expected it for ONNX files: pip install "fastnn[onnx]"``
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise ImportError(f"{package} is not installed ({error}), expected it for {purpose}: {command}") from None


def check_field(owner: object, name: str, **limits: Any) -> None:
    """Replace a number of a dataclass, which may be frozen, by the plain one that it is; see `check_number`.

    Raises
    ------
    TypeError, ValueError
        As `check_number`.
    """
    object.__setattr__(owner, name, check_number(name, getattr(owner, name), **limits))


def check_range(
    name: str, value: float, dtype: np.dtype[Any], *, may_vanish: bool = False, may_overflow: bool = False
) -> None:
    """Say that a float type cannot hold a number: it becomes 0 there, or but a few bits of it are left, or infinite.

    Raises
    ------
    ValueError
        ``delta: got 1e-50, expected a number in the range of float32``, unless that may happen.
    """
    least, most = float(np.finfo(dtype).tiny), float(np.finfo(dtype).max)
    vanishes, overflows = 0 < abs(value) < least, abs(value) > most
    if (vanishes and not may_vanish) or (overflows and not may_overflow):
        raise ValueError(f"{name}: got {shown(value)}, expected a number in the range of {dtype}")


def check_path(name: str, value: object) -> str:
    """Return a path as a string, or say that it is none.

    Raises
    ------
    TypeError, ValueError
        ``path: got 5 (int), expected a path``, and for a path that is empty or has a null character.
    """
    if not isinstance(value, (str, bytes, os.PathLike)):
        raise TypeError(f"{name}: got {shown(value)} ({type(value).__name__}), expected a path")
    path = os.fsdecode(value)
    if not path:  # which pathlib takes for the current folder
        raise ValueError(f"{name}: got {shown(path)}, expected a path; '.' is the current folder")
    if "\0" in path:
        raise ValueError(f"{name}: got {shown(path)}, expected a path without a null character")
    return path
