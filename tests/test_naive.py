"""The oracle's whole network, checked by central differences and by hand: nothing of fastnn takes part."""

from __future__ import annotations

import math

import naive
import numpy as np
import pytest

ALL_ACTIVATIONS = [*naive.ACTIVATIONS, "softmax"]


def make_network(rng, activation="tanh"):
    return [
        {"kind": "rescale", "scale": 0.5, "offset": 0.1},
        {
            "kind": "dense",
            "w": rng.normal(size=(3, 5)),
            "b": rng.normal(size=5),
            "activation": activation,
            "l1": 0.01,
        },
        {"kind": "dropout", "rate": 0.4},
        {"kind": "dense", "w": rng.normal(size=(5, 4)), "b": None, "l2": 0.02},
        {"kind": "activation", "activation": "silu"},
        {"kind": "dense", "w": rng.normal(size=(4, 2)), "b": rng.normal(size=2)},
    ]


@pytest.mark.parametrize("activation", ALL_ACTIVATIONS)
@pytest.mark.parametrize("loss", naive.LOSSES)
def test_gradients_match_central_differences(activation, loss, rng):
    layers, x = make_network(rng, activation), rng.normal(size=(4, 3))
    t = rng.integers(0, 2, size=4) if loss == "cross_entropy" else rng.uniform(size=(4, 2))
    w = rng.uniform(0.5, 2.0, size=4)

    def value():
        return naive.network_loss(layers, x, t, loss, w, True, seed=3, step=2)[0]

    first, dx, gradients = naive.network_gradients(layers, x, t, loss, w, True, seed=3, step=2)
    assert first == value()
    pairs = [(x, dx)]
    for layer, gradient in zip(layers, gradients, strict=True):
        assert (gradient is None) == (layer["kind"] != "dense")
        if gradient is not None:
            pairs += [(layer["w"], gradient[0])] + ([] if layer["b"] is None else [(layer["b"], gradient[1])])
    h = 1e-6
    for array, gradient in pairs:
        for index in np.ndindex(array.shape):
            kept = array[index]
            array[index] = kept + h
            above = value()
            array[index] = kept - h
            below = value()
            array[index] = kept
            assert gradient[index] == pytest.approx((above - below) / (2 * h), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize(("loss", "activation"), sorted(naive.FOLDED))
def test_folded_last_activation(loss, activation, rng):
    """A last softmax or sigmoid under its own loss counts once, as a layer of its own or of a dense layer."""
    w, x = rng.normal(size=(3, 2)), rng.normal(size=(5, 3))
    t = rng.integers(0, 2, size=(5, 2)).astype(float)
    plain = [{"kind": "dense", "w": w, "b": None}]
    want = naive.network_loss(plain, x, t, loss)[0]
    within = [{"kind": "dense", "w": w, "b": None, "activation": activation}]
    behind = [*plain, {"kind": "activation", "activation": activation}]
    assert naive.network_loss(within, x, t, loss)[0] == want
    assert naive.network_loss(behind, x, t, loss)[0] == want
    assert naive.network_loss(within, x, t, "squared_error")[0] != naive.network_loss(plain, x, t, "squared_error")[0]


def test_two_three_two_sigmoid_network_by_hand():
    """delta = (a - y) a (1 - a), dL/dW = input x delta: the chain rule written out for one sample."""
    w1, w2 = np.array([[0.1, -0.2, 0.3], [0.4, 0.5, -0.6]]), np.array([[0.7, -0.8], [0.9, 0.1], [-0.2, 0.3]])
    x, t = np.array([[1.0, 0.5]]), np.array([[0.0, 1.0]])
    layers = [
        {"kind": "dense", "w": w1, "b": np.zeros(3), "activation": "sigmoid"},
        {"kind": "dense", "w": w2, "b": np.zeros(2), "activation": "sigmoid"},
    ]
    _, _, gradients = naive.network_gradients(layers, x, t, "squared_error")
    hidden = [
        1 / (1 + math.exp(-(0.1 + 0.2))),
        1 / (1 + math.exp(-(-0.2 + 0.25))),
        1 / (1 + math.exp(-(0.3 - 0.3))),
    ]
    out = [1 / (1 + math.exp(-sum(h * w for h, w in zip(hidden, w2[:, j], strict=True)))) for j in range(2)]
    # The mean over two outputs without 1/2 makes dL/da = a - y.
    delta2 = [(out[j] - t[0, j]) * out[j] * (1 - out[j]) for j in range(2)]
    delta1 = [sum(w2[i, j] * delta2[j] for j in range(2)) * hidden[i] * (1 - hidden[i]) for i in range(3)]
    np.testing.assert_allclose(gradients[1][0], np.outer(hidden, delta2), rtol=1e-12)
    np.testing.assert_allclose(gradients[1][1], delta2, rtol=1e-12)
    np.testing.assert_allclose(gradients[0][0], np.outer(x[0], delta1), rtol=1e-12)
    np.testing.assert_allclose(gradients[0][1], delta1, rtol=1e-12)


def test_dropout_only_in_training(rng):
    layers, x = make_network(rng), rng.normal(size=(6, 3))
    plain = naive.network_forward(layers, x)
    trained = naive.network_forward(layers, x, True, seed=1, step=0)
    assert "mask" not in plain[2]
    assert set(np.unique(trained[2]["mask"]).tolist()) == {0.0, 1 / 0.6}
    mask = np.empty((6, 5))
    naive.dropout_mask(mask, 0.4, 1, 0, 2)
    np.testing.assert_array_equal(trained[2]["mask"], mask)


def test_penalty_counts_weights_only(rng):
    layers = make_network(rng)
    want = 0.01 * np.abs(layers[1]["w"]).sum() + 0.01 * (layers[3]["w"] ** 2).sum()
    assert naive.network_penalty(layers) == pytest.approx(want)


OPTIMIZERS = [
    {"name": "sgd", "lr": 0.1},
    {"name": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": True, "clip_norm": 0.5},
    {"name": "adagrad", "lr": 0.1},
    {"name": "rmsprop", "lr": 0.01, "momentum": 0.5, "centered": True},
    {"name": "adam", "lr": lambda step, epoch: 0.02 * 0.9**epoch, "clip_value": 0.5},
    {"name": "adam", "lr": 0.02, "amsgrad": True},
    {"name": "adamw", "lr": 0.02, "weight_decay": 0.01},
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer["name"])
def test_training_learns_and_can_be_interrupted(optimizer):
    """Two epochs and two more from the states left are four epochs, and the loss falls."""
    x = np.random.default_rng(1).normal(size=(23, 3))
    t = np.stack([x[:, 0] - x[:, 1], np.tanh(x[:, 2])], axis=1)
    runs = []
    for parts in ([4], [2, 2]):
        layers, states, history = make_network(np.random.default_rng(2)), [], []
        for part in parts:
            done = len(history)
            history += naive.network_train(
                layers, x, t, "squared_error", optimizer, part, 8, seed=5,
                first_step=3 * done, first_epoch=done, states=states,
            )  # fmt: skip
        runs.append((history, layers))
    assert runs[0][0] == runs[1][0]
    assert runs[0][0][-1] < runs[0][0][0]
    for one, other in zip(runs[0][1], runs[1][1], strict=True):
        if one["kind"] == "dense":
            np.testing.assert_array_equal(one["w"], other["w"])


def test_one_step_of_training_by_hand(rng):
    """Full batch, SGD, both penalties, clipped by norm: w - lr s (dw + l1 sign w + l2 w), b without."""
    w, b = rng.normal(size=(3, 2)), rng.normal(size=2)
    x, t = rng.normal(size=(6, 3)), rng.normal(size=(6, 2))
    e = x @ w + b - t
    dw, db = x.T @ e / 6 + 0.1 * np.sign(w) + 0.2 * w, e.sum(axis=0) / 6
    norm = math.sqrt((dw**2).sum() + (db**2).sum())
    layers = [{"kind": "dense", "w": w.copy(), "b": b.copy(), "l1": 0.1, "l2": 0.2}]
    optimizer = {"name": "sgd", "lr": 0.5, "clip_norm": norm / 3}
    history = naive.network_train(layers, x, t, "squared_error", optimizer, 1, 6)
    assert history == [pytest.approx((e**2).mean() + 0.1 * np.abs(w).sum() + 0.1 * (w**2).sum())]
    np.testing.assert_allclose(layers[0]["w"], w - 0.5 * dw / 3, rtol=1e-12)
    np.testing.assert_allclose(layers[0]["b"], b - 0.5 * db / 3, rtol=1e-12)
