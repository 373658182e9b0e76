"""Steps with gradients of one's own: as in training with the same gradients, and as PyTorch's optimizers take them."""

from __future__ import annotations

import numpy as np
import pytest
from support import training_state, weight_bytes

import fastnn
from fastnn import Dense, Dropout, Sequential

torch = pytest.importorskip("torch")

OPTIMIZERS = {
    "sgd": lambda **more: fastnn.SGD(0.05, **more),
    "momentum": lambda **more: fastnn.SGD(0.05, momentum=0.9, **more),
    "nesterov": lambda **more: fastnn.SGD(0.05, momentum=0.9, nesterov=True, **more),
    "adagrad": lambda **more: fastnn.AdaGrad(0.05, **more),
    "rmsprop": lambda **more: fastnn.RMSprop(0.01, **more),
    "adam": lambda **more: fastnn.Adam(0.01, **more),
    "amsgrad": lambda **more: fastnn.Adam(0.01, amsgrad=True, **more),
    "adamw": lambda **more: fastnn.AdamW(0.01, weight_decay=0.1, **more),
}

SETTINGS = {
    "plain": ({}, {}),
    "penalties": ({}, {"l1": 0.01, "l2": 0.02}),
    "threshold": ({}, {"l1": 0.05, "l1_mode": "truncate"}),
    "global norm": ({"clip_norm": 0.05}, {"l2": 0.02}),
    "values": ({"clip_value": 0.01}, {}),
}


def network(optimizer, dtype="float64", **settings):
    layers = [Dense(7, "tanh"), Dropout(0.3), Dense(5, "relu", use_bias=False), Dense(3)]
    return Sequential(layers, "cross_entropy", optimizer, seed=3, dtype=dtype, input_size=4, **settings)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients_applied_are_a_step_of_training(name, settings, rng):
    of_optimizer, of_model = SETTINGS[settings]
    model = network(OPTIMIZERS[name](**of_optimizer), **of_model)
    x, y = rng.normal(size=(11, 4)), rng.integers(0, 3, 11)
    for _ in range(4):
        other = model.clone()
        other.train_on_batch(x, y)
        before = model.get_weights()
        model.apply_gradients(model.gradients(x, y, training=True)[1])
        assert model.step == other.step
        for new, want, old in zip(model.get_weights(), other.get_weights(), before, strict=True):
            np.testing.assert_allclose(new, want, rtol=1e-11, atol=1e-13)
            assert (new != old).any()


AS_TORCH = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", AS_TORCH)
def test_steps_are_those_of_pytorch(name, dtype, rng):
    """With gradients that belong to no data; PyTorch decays biases, too, so those are left out."""
    model = network(OPTIMIZERS[name](), dtype)
    theirs = [torch.nn.Parameter(torch.from_numpy(weight)) for weight in model.get_weights()]
    optimizer = AS_TORCH[name](theirs)
    for _ in range(6):
        gradients = [rng.normal(size=tuple(weight.shape)).astype(dtype) for weight in theirs]
        for weight, gradient in zip(theirs, gradients, strict=True):
            weight.grad = torch.from_numpy(gradient)
        optimizer.step()
        model.apply_gradients(gradients)
    for own, weight in zip(model.get_weights(), theirs, strict=True):
        if own.ndim == 2 or name != "adamw":
            close = {"rtol": 1e-10, "atol": 1e-12} if dtype == "float64" else {"rtol": 2e-5, "atol": 2e-6}
            np.testing.assert_allclose(own, weight.detach().numpy(), **close)


def test_the_penalties_are_not_added(rng):
    """They are in what `gradients` returns."""
    plain, penalised = (network(fastnn.SGD(1.0), **more) for more in ({}, {"l1": 0.5, "l2": 0.5}))
    gradients = [rng.normal(size=weight.shape) for weight in plain.get_weights()]
    for model in (plain, penalised):
        model.apply_gradients(gradients)
    assert weight_bytes(plain) == weight_bytes(penalised)


def test_rates_are_those_of_the_schedule(rng):
    model = network(fastnn.SGD(fastnn.StepDecay(1.0, factor=0.5, every=1, unit="step")))
    ones = [np.ones_like(weight) for weight in model.get_weights()]
    before = model.get_weights()
    for _ in range(3):
        model.apply_gradients(ones)
    for new, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_allclose(old - new, 1.75, rtol=1e-12)
    assert (model.step, model.epoch) == (3, 0)


def test_the_same_bits_for_any_number_of_threads(rng):
    models = [
        Sequential(
            [Dense(300, "relu"), Dense(200)], "squared_error", fastnn.Adam(clip_norm=1.0), seed=1, input_size=400,
            n_threads=threads,
        )
        for threads in (1, None)
    ]  # fmt: skip
    gradients = [rng.normal(size=weight.shape) for weight in models[0].get_weights()]
    for model in models:
        for _ in range(3):
            model.apply_gradients(gradients)
    assert training_state(models[0]) == training_state(models[1])


def test_gradients_as_one_vector(rng):
    one, other, third = (network("adam") for _ in range(3))
    gradients = [rng.normal(size=weight.shape) for weight in one.get_weights()]
    one.apply_gradients(gradients)
    other.apply_gradients(np.concatenate([gradient.reshape(-1) for gradient in gradients]))
    like_parameters = np.zeros_like(third.parameters_vector())
    assert like_parameters.size > sum(gradient.size for gradient in gradients)  # there are gaps between them
    for part, gradient in zip(third.network.views(like_parameters), gradients, strict=True):
        part[:] = gradient
    third.apply_gradients(like_parameters)
    assert weight_bytes(one) == weight_bytes(other) == weight_bytes(third)


def test_a_way_back_with_the_next_step_s_dropout(rng):
    """The absolute error of outputs far above their targets has one slope, whatever the mask."""
    layers = [Dense(7, "tanh"), Dropout(0.3), Dense(5, "relu"), Dense(3)]
    model = Sequential(layers, "absolute_error", "sgd", seed=3, dtype="float64", input_size=4)
    x, far = rng.normal(size=(11, 4)), np.full((11, 3), -1e3)
    ways = []
    for training in (False, True, True):
        want = model.gradients(x, far, training=training)[1]
        got = model.backward(x, np.full((11, 3), 1 / 33), training=training)[1]
        for one, other in zip(got, want, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-15)
        ways.append(got[0])
        model.step += training
    assert not np.allclose(ways[0], ways[1])
    assert not np.allclose(ways[1], ways[2])


def test_gradients_are_left_as_they_are_and_may_be_of_any_kind(rng):
    one, other = network("adam", "float32"), network("adam", "float32")
    gradients = [rng.normal(size=weight.shape) for weight in one.get_weights()]
    copies = [gradient.copy() for gradient in gradients]
    one.apply_gradients(gradients)
    assert all((gradient == copy).all() for gradient, copy in zip(gradients, copies, strict=True))
    tensors = [torch.from_numpy(gradient).requires_grad_() for gradient in gradients]
    other.apply_gradients([tensors[0], gradients[1].tolist(), np.asfortranarray(gradients[2]), *tensors[3:]])
    assert weight_bytes(one) == weight_bytes(other)
