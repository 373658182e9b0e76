"""The messages for unknown names and wrong numbers."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

import fastnn
from fastnn._errors import check_number, shown, unknown_name

NAMES = ("relu", "leaky_relu", "tanh")


def test_unknown_name_lists_what_is_known_and_the_nearest():
    error = unknown_name("activation", "rleu", NAMES)
    assert type(error) is ValueError
    assert str(error) == ("activation: got 'rleu', expected one of 'relu', 'leaky_relu', 'tanh'. Did you mean 'relu'?")


@pytest.mark.parametrize(
    ("got", "near"),
    [
        ("ReLU", "relu"),
        ("LeakyReLU", "leaky_relu"),
        ("leaky-relu", "leaky_relu"),
        ("r - e - l - u", "relu"),
        ("tahn", "tanh"),
    ],
)
def test_unknown_name_looks_past_case_and_separators(got, near):
    assert str(unknown_name("activation", got, NAMES)).endswith(f"Did you mean '{near}'?")


@pytest.mark.parametrize("got", ["softsign2000", "", 3, None, ["relu"]])
def test_unknown_name_suggests_nothing_where_nothing_is_near(got):
    message = str(unknown_name("activation", got, iter(NAMES)))
    assert message == f"activation: got {got!r}, expected one of 'relu', 'leaky_relu', 'tanh'"


@pytest.mark.parametrize(
    ("value", "limits"),
    [
        (0.5, {}),
        (1, {}),
        (-2.5, {"high": -2.5}),
        (0, {"low": 0}),
        (1e-300, {"low": 0, "low_open": True}),
        (0.999, {"low": 0, "high": 1, "high_open": True}),
        (math.inf, {"low": 0, "high": math.inf}),
        (np.float32(0.25), {"low": 0}),
        (np.int16(7), {}),
        (Fraction(1, 4), {}),
    ],
)
def test_check_number_returns_a_float(value, limits):
    got = check_number("x", value, **limits)
    assert type(got) is float
    assert got == value


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), 10**400])
def test_check_number_returns_an_int(value):
    got = check_number("n", value, low=1, integer=True)
    assert type(got) is int
    assert got == value


@pytest.mark.parametrize(
    ("value", "limits", "message"),
    [
        (-1.0, {"low": 0, "low_open": True}, "lr: got -1.0, expected a number > 0"),
        (0, {"low": 0, "low_open": True}, "lr: got 0, expected a number > 0"),
        (-1e-9, {"low": 0}, "lr: got -1e-09, expected a number >= 0"),
        (1, {"low": 0, "high": 1, "high_open": True}, "lr: got 1, expected a number in [0, 1)"),
        (0, {"low": 0, "high": 1, "low_open": True}, "lr: got 0, expected a number in (0, 1]"),
        (2, {"high": 1.5}, "lr: got 2, expected a number <= 1.5"),
        (2, {"high": 2, "high_open": True}, "lr: got 2, expected a number < 2"),
        (0, {"low": 1, "integer": True}, "lr: got 0, expected an integer >= 1"),
        (math.nan, {"low": 0}, "lr: got nan, expected a number >= 0"),
        (math.nan, {}, "lr: got nan, expected a finite number"),
        (np.float64("nan"), {}, "lr: got nan, expected a finite number"),
        (math.inf, {"low": 0}, "lr: got inf, expected a finite number >= 0"),
        (-math.inf, {}, "lr: got -inf, expected a finite number"),
        (np.float64(-0.5), {"low": 0}, "lr: got -0.5, expected a number >= 0"),
    ],
)
def test_check_number_refuses_values(value, limits, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the whole message is compared
        check_number("lr", value, **limits)
    assert str(caught.value) == message


def test_check_number_refuses_integers_beyond_float():
    with pytest.raises(ValueError, match=r"lr: got 1000.*000, expected a finite number > 0"):
        check_number("lr", 10**400, low=0, low_open=True)
    with pytest.raises(ValueError, match=r"lr: got -1000.*000, expected a number > 0"):
        check_number("lr", -(10**400), low=0, low_open=True)


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize(
    "value", ["0.1", None, True, np.True_, 1j, [0.1], np.array(1.0), np.array([1]), Decimal("0.5"), b"1"]
)
def test_check_number_refuses_what_is_no_number(value, integer):
    with pytest.raises(TypeError, match=rf"lr: got .* \({type(value).__name__}\), expected an? (number|integer) > 0"):
        check_number("lr", value, low=0, low_open=True, integer=integer)


@pytest.mark.parametrize("value", [10.0, np.float32(3), Fraction(3)])
def test_check_number_takes_no_float_for_an_integer(value):
    with pytest.raises(TypeError, match=r"epochs: got .*, expected an integer >= 0"):
        check_number("epochs", value, low=0, integer=True)


@pytest.mark.parametrize("value", ["x" * 10_000, list(range(10_000)), np.zeros((200, 200)), {"a": "b" * 10_000}])
def test_shown_is_one_short_line(value):
    text = shown(value)
    assert 0 < len(text) < 100
    assert "\n" not in text


def test_shown_gives_numpy_scalars_as_numbers():
    assert shown(np.float64(0.5)) == "0.5"
    assert shown(np.int8(3)) == "3"


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        (lambda: fastnn.Sequential([fastnn.Dense(1)], "mse"), "squared_error"),
        (lambda: fastnn.Sequential([fastnn.Dense(1)], "mean_absolute_error"), "absolute_error"),
        (lambda: fastnn.Sequential([fastnn.Dense(2)], "sparse_categorical_crossentropy"), "cross_entropy"),
        (lambda: fastnn.Sequential([fastnn.Dense(1)], "BCEWithLogitsLoss"), "binary_cross_entropy"),
        (lambda: fastnn.Sequential([fastnn.Dense(1)], "squred_error"), "squared_error"),
        (lambda: fastnn.Dense(1, "logistic"), "sigmoid"),
        (lambda: fastnn.Dense(1, "swish"), "silu"),
        (lambda: fastnn.Dense(1, "linear"), "identity"),
    ],
)
def test_names_of_other_libraries_are_told(call, meant):
    with pytest.raises(ValueError, match=rf"Did you mean '{meant}'\?$"):
        call()
