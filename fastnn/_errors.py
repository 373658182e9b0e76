"""The messages of bad arguments, an unknown name and a number that is none or out of range; and of missing packages.

Every message has one form: the argument, what came, what was expected.
"""

from __future__ import annotations

import difflib
import importlib
import math
import numbers
import os
import reprlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, overload

import numpy as np

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60


def shown(value: object) -> str:
    """Return a value as it stands in a message: its repr on one line, shortened where it is long.

    NumPy scalars are shown as plain numbers.
    """
    if isinstance(value, np.generic):
        value = value.item()
    return " ".join(_short.repr(value).split())


def unknown_name(
    kind: str, got: object, known: Iterable[str], elsewhere: Mapping[str, str] = MappingProxyType({})
) -> ValueError:
    """Build the error for a name that is not known, with the nearest one that is.

    Parameters
    ----------
    kind : str
        The argument, such as "activation".
    got : object
        What came in its place.
    known : iterable of str
        The names that would have been right, in the order they are to be listed.
    elsewhere : mapping
        What other libraries call them, in small letters without anything between, and their names here.

    Returns
    -------
    ValueError
        For the caller to raise:
        ``activation: got 'rleu', expected one of 'relu', 'tanh'. Did you mean 'relu'?``
    """
    names = list(known)
    message = f"{kind}: got {shown(got)}, expected one of {', '.join(map(repr, names))}"
    if isinstance(got, str):
        plain = {_plain(name): name for name in names}
        near = difflib.get_close_matches(_plain(got), plain, n=1)
        meant = elsewhere.get(_plain(got)) or (plain[near[0]] if near else None)
        if meant:
            message += f". Did you mean {meant!r}?"
    return ValueError(message)


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


def _plain(name: str) -> str:
    """Leave only what matters when names are compared: no case, no separators."""
    return "".join(c for c in name.lower() if c.isalnum())


@overload
def check_number(
    name: str,
    value: object,
    *,
    low: float | None = ...,
    high: float | None = ...,
    low_open: bool = ...,
    high_open: bool = ...,
    integer: Literal[False] = ...,
) -> float: ...


@overload
def check_number(
    name: str,
    value: object,
    *,
    low: float | None = ...,
    high: float | None = ...,
    low_open: bool = ...,
    high_open: bool = ...,
    integer: Literal[True],
) -> int: ...


def check_number(
    name: str,
    value: object,
    *,
    low: float | None = None,
    high: float | None = None,
    low_open: bool = False,
    high_open: bool = False,
    integer: bool = False,
) -> float | int:
    """Return `value` as a plain number, or say why it cannot be one.

    Parameters
    ----------
    name : str
        The argument, such as "lr".
    value : object
        What came. Python and NumPy numbers are taken; bools, strings and arrays are not.
    low, high : float or None
        The range. An infinite number passes only where it is itself a closed bound.
    low_open, high_open : bool
        Whether the bound itself is out of range.
    integer : bool
        Whether only integers are taken (10.0 is none).

    Returns
    -------
    float or int
        An int where `integer` is set, else a float.

    Raises
    ------
    TypeError
        If `value` is not a number, or not an integer where one is needed.
    ValueError
        If it is NaN or out of range: ``lr: got -1.0, expected a number > 0``.
    """
    kind = numbers.Integral if integer else numbers.Real
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, kind):
        expected = _expected(low, high, low_open, high_open, integer)
        raise TypeError(f"{name}: got {shown(value)} ({type(value).__name__}), expected {expected}")
    real: Any = value
    try:
        number = int(real) if integer else float(real)
    except OverflowError:  # an integer beyond float's range
        number = math.inf if real > 0 else -math.inf
    above = low is None or (number > low if low_open else number >= low)
    below = high is None or (number < high if high_open else number <= high)
    finite = abs(number) < math.inf or number in (low, high)  # NaN is not
    if not (above and below and finite):
        expected = _expected(low, high, low_open, high_open, integer, finite=above and below)
        raise ValueError(f"{name}: got {shown(value)}, expected {expected}")
    return number


def check_flag(name: str, value: object) -> bool:
    """Return `value` as a bool, or say that it is none.

    Raises
    ------
    TypeError
        ``nesterov: got 'no' (str), expected True or False``
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: got {shown(value)} ({type(value).__name__}), expected True or False")
    return bool(value)


def check_path(name: str, value: object) -> str:
    """Return a path as a string, or say that it is none.

    Raises
    ------
    TypeError, ValueError
        ``path: got 5 (int), expected a path``, and for a path with a null character.
    """
    if not isinstance(value, (str, bytes, os.PathLike)):
        raise TypeError(f"{name}: got {shown(value)} ({type(value).__name__}), expected a path")
    path = os.fsdecode(value)
    if "\0" in path:
        raise ValueError(f"{name}: got {shown(path)}, expected a path without a null character")
    return path


def _expected(
    low: float | None,
    high: float | None,
    low_open: bool,
    high_open: bool,
    integer: bool,
    finite: bool = False,
) -> str:
    """Say what was expected: "a number > 0", "an integer >= 1", "a number in [0, 1)"."""
    kind = "an integer" if integer else "a finite number" if finite else "a number"
    if low is not None and high is not None:
        return f"{kind} in {'(' if low_open else '['}{_bound(low)}, {_bound(high)}{')' if high_open else ']'}"
    if low is not None:
        return f"{kind} {'>' if low_open else '>='} {_bound(low)}"
    if high is not None:
        return f"{kind} {'<' if high_open else '<='} {_bound(high)}"
    return kind


def _bound(value: float) -> str:
    """Write a bound: an integer in full, another number as short as it can be."""
    return str(value) if isinstance(value, int) else f"{value:.15g}"
