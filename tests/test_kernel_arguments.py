"""Arguments of the kernels that are no arrays: whatever is none of what is expected is refused, and nothing written."""

from __future__ import annotations

import inspect
import sys

import numpy as np
import pytest

import fastnn
from fastnn import kernels

if sys.platform != "linux":
    pytest.skip("the examples come from guarded.py, which needs Linux", allow_module_level=True)

import guarded

ANYTHING = {
    "a word": "x",
    "bytes": b"1",
    "a list": [1.0],
    "an object": object(),
    "a complex number": 1j,
    "an array": np.ones(3),
    "a masked array": np.ma.masked_array(np.ones(3)),
    "0-d": np.array(0.5),
    "NaN": np.nan,
    "-infinity": -np.inf,
    "beyond any float": 10**400,
    "below any float": -(10**400),
}
FLAGS = {"transpose_a", "transpose_b", "nesterov", "centered", "eps_inside_sqrt", "eps_hat"}
NUMBERS = {**ANYTHING, "None": None, "True": True}
OTHERS = (
    # what only some arguments refuse
    (FLAGS, {"None": None, "1": 1, "infinity": np.inf}),
    (
        {"lr", "eps", "l1", "l2", "truncate", "weight_decay", "amount"},
        {"infinity": np.inf, "infinity in float32": np.float32("inf"), "negative": -0.1},
    ),
    ({"clip_value", "limit", "delta"}, {"negative": -0.1}),
    ({"momentum", "alpha", "b1", "b2", "rate"}, {"negative": -0.1, "1": 1.0, "infinity": np.inf}),
    ({"seed", "step", "layer", "stream", "epoch"}, {"negative": -1, "half": 0.5, "2**70": 2**70}),
    ({"grad_scale"}, {"infinity": np.inf}),
)
OPTIONAL_ARRAYS = {"w", "b", "velocity", "mean", "dx", "db", "z", "a"}


def cases():
    for name, make in guarded.KERNELS.items():
        outputs, inputs, _ = make(guarded.Draw(3), "float32")
        for argument in inspect.signature(getattr(kernels, name)).parameters:
            if argument not in outputs and argument not in inputs:
                yield name, argument


@pytest.mark.parametrize(("name", "argument"), list(cases()))
def test_what_is_no_such_argument_is_refused(name, argument):
    kernel = getattr(kernels, name)
    outputs, inputs, others = guarded.KERNELS[name](guarded.Draw(3), "float32")
    bad = dict(ANYTHING if argument in FLAGS | OPTIONAL_ARRAYS else NUMBERS)
    for names, values in OTHERS:
        bad |= values if argument in names else {}
    for what, value in bad.items():
        written = {key: array.copy() for key, array in outputs.items()}
        with pytest.raises((TypeError, ValueError)) as caught:
            kernel(**{**written, **inputs, **others, argument: value})
        message = str(caught.value)
        assert message.startswith(f"{argument}: "), f"{what}: {message}"
        assert "expected" in message
        for key, array in outputs.items():
            np.testing.assert_array_equal(written[key], array, err_msg=f"{what} for {argument}: {key} was written")
    kernel(**{key: array.copy() for key, array in outputs.items()}, **inputs, **others)  # all else is right


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.longdouble])
def test_numbers_of_numpy_are_numbers(kind):
    param, other = np.ones(3), np.ones(3)
    kernels.sgd_update(param, None, np.ones(3), kind(0.5), clip_value=kind(0.25))
    kernels.sgd_update(other, None, np.ones(3), 0.5, clip_value=0.25)
    np.testing.assert_array_equal(param, other)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, bool])
def test_labels_of_another_type_are_told_theirs(dtype):
    with pytest.raises(TypeError, match=r"^t: got dtype \w+, expected int64"):
        kernels.cross_entropy(np.empty((3, 2)), np.zeros((3, 2)), np.array([0, 1, 1], dtype))


@pytest.mark.parametrize(
    ("kernel", "argument", "of_a_model"),
    [
        ("sgd_update", "momentum", lambda value: fastnn.SGD(0.1, momentum=value)),
        ("sgd_update", "nesterov", lambda value: fastnn.SGD(0.1, momentum=0.9, nesterov=value)),
        ("rmsprop_update", "alpha", lambda value: fastnn.RMSprop(alpha=value)),
        ("adam_update", "eps", lambda value: fastnn.Adam(eps=value)),
        ("adamw_update", "weight_decay", lambda value: fastnn.AdamW(weight_decay=value)),
        ("huber", "delta", lambda value: fastnn.Huber(delta=value)),
    ],
)
@pytest.mark.parametrize("value", ["x", None, -0.5, 1j, np.nan, -np.inf, 10**400, [0.5]])
def test_a_mistake_has_the_sentence_that_models_have_for_it(kernel, argument, of_a_model, value):
    with pytest.raises((TypeError, ValueError)) as expected:
        of_a_model(value)
    outputs, inputs, others = guarded.KERNELS[kernel](guarded.Draw(3), "float32")
    with pytest.raises((TypeError, ValueError)) as caught:
        getattr(kernels, kernel)(**{**outputs, **inputs, **others, argument: value})
    assert (type(caught.value), str(caught.value)) == (type(expected.value), str(expected.value))


def test_a_name_that_is_nearly_one_is_told():
    with pytest.raises(ValueError, match=r"^activation: got 'ReLU', expected one of .*\. Did you mean 'relu'\?$"):
        kernels.activation_forward(np.empty(3), np.zeros(3), "ReLU")
