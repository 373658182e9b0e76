"""The sentences about bad arguments that are no arrays: numbers out of range, flags, names that are not known.

Every message has one form: the argument, what came, what was expected.
"""

from __future__ import annotations

import difflib
import math
import numbers
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
    number: Any = value
    if type(value) is not (int if integer else float):
        kind = numbers.Integral if integer else numbers.Real
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, kind):
            expected = _expected(low, high, low_open, high_open, integer)
            raise TypeError(f"{name}: got {shown(value)} ({type(value).__name__}), expected {expected}")
        number = _plain_number(value, integer)
    above = low is None or (number > low if low_open else number >= low)
    below = high is None or (number < high if high_open else number <= high)
    if above and below and (number - number == 0 or value in (low, high)):  # infinity and NaN leave NaN
        return number
    expected = _expected(low, high, low_open, high_open, integer, finite=above and below)
    raise ValueError(f"{name}: got {shown(value)}, expected {expected}")


def _plain_number(value: Any, integer: bool) -> float | int:
    """Return a real number as an int or a float, infinite where it is an integer beyond any float."""
    try:
        return int(value) if integer else float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


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
    if high == math.inf:
        high = None
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
