"""Gradients of whole models: central differences in float64, the oracle's network, and the survey's network by hand."""

from __future__ import annotations

import math

import naive
import numpy as np
import pytest
from support import naive_layers

import fastnn
from fastnn import Activation, Dense, Dropout, Rescale, Sequential

pytestmark = pytest.mark.usefixtures("one_thread")

H = 1e-6
ROWS, INPUTS, OUTPUTS = 5, 3, 2


def network(layers, loss="squared_error", inputs=INPUTS, **settings):
    """A float64 model on one thread, its biases off their 0."""
    settings = {"dtype": "float64", "n_threads": 1, "seed": 3, "optimizer": "sgd", **settings}
    model = Sequential(layers, loss, input_size=inputs, **settings)
    rng = np.random.default_rng(17)
    model.set_weights([w + 0.3 * rng.normal(size=w.shape) for w in model.get_weights()])
    return model


def softmax(z):
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def targets(loss, rng, rows=ROWS, outputs=OUTPUTS):
    if loss == "cross_entropy":
        return rng.integers(0, outputs, size=rows)
    return rng.uniform(size=(rows, outputs))


def check_differences(value, arrays, gradients):
    """Every element of every array: (value above - value below) / 2h is the gradient."""
    assert len(arrays) == len(gradients)
    largest = 0.0
    for array, gradient in zip(arrays, gradients, strict=True):
        assert array.shape == gradient.shape
        for index in np.ndindex(array.shape):
            kept = array[index]
            array[index] = kept + H
            above = value()
            array[index] = kept - H
            below = value()
            array[index] = kept
            slope = (above - below) / (2 * H)
            assert gradient[index] == pytest.approx(slope, rel=1e-6, abs=1e-8)
            largest = max(largest, abs(slope))
    assert largest > 1e-3, "nothing to compare"


def check_model(model, x, y, **arguments):
    """`gradients` of a model against differences of its own loss, and that loss against the oracle's."""
    loss, gradients = model.gradients(x, y, **arguments)
    layers = naive_layers(model)
    weights = arguments.get("sample_weight")
    training = arguments.get("training", False)
    data, _, _ = naive.network_loss(layers, x, y, model.loss.name, weights, training, model.seed, model.step)
    assert loss == pytest.approx(data + naive.network_penalty(layers), rel=1e-12)
    views = model.network.views(model.parameters_vector())
    check_differences(lambda: model.gradients(x, y, **arguments)[0], views, gradients)


# -------------------------------------------------------------------------------------- whole networks


@pytest.mark.parametrize("activation", naive.ACTIVATIONS)
@pytest.mark.parametrize("loss", naive.LOSSES)
def test_every_activation_under_every_loss(activation, loss, rng):
    """Inside dense layers, with dropout behind (where its backward pass needs the undropped value) and without."""
    model = network(
        [
            Rescale(0.5, 0.1),
            Dense(5, activation),
            Dropout(0.4),
            Dense(4, activation, use_bias=False),
            Dense(OUTPUTS),
        ],
        loss,
        l1=0.01,
        l2=0.02,
    )
    x, y, w = rng.normal(size=(ROWS, INPUTS)), targets(loss, rng), rng.uniform(0.5, 2.0, size=ROWS)
    check_model(model, x, y, sample_weight=w, training=True)


@pytest.mark.parametrize("activation", naive.ACTIVATIONS)
def test_activation_layers_of_their_own(activation, rng):
    """First, behind a dense layer's own activation, behind dropout, doubled, and last."""
    model = network(
        [
            Activation(activation),
            Dropout(0.3),
            Dropout(0.2),
            Dense(4, "tanh"),
            Activation(activation),
            Dense(3),
            Dropout(0.3),
            Activation(activation),
            Activation("tanh"),
            Dense(OUTPUTS),
            Activation(activation),
        ]
    )
    x = rng.normal(size=(ROWS, INPUTS)) + 0.1
    check_model(model, x, targets("squared_error", rng), training=True)


LAST = [
    ("softmax", "cross_entropy"),
    ("softmax", "squared_error"),
    ("softmax", "absolute_error"),
    ("sigmoid", "binary_cross_entropy"),
    ("sigmoid", "squared_error"),
    ("relu", "cross_entropy"),
    ("tanh", "binary_cross_entropy"),
]


@pytest.mark.parametrize(("activation", "loss"), LAST)
@pytest.mark.parametrize("apart", [False, True], ids=["in the dense layer", "as a layer"])
def test_last_activations(activation, loss, apart, rng):
    """Folded into the loss or not."""
    last = [Dense(3), Activation(activation)] if apart else [Dense(3, activation)]
    model = network([Dense(4, "tanh"), Dropout(0.3), *last], loss)
    x, y = rng.normal(size=(ROWS, INPUTS)), targets(loss, rng, outputs=3)
    check_model(model, x, y, training=True)


@pytest.mark.parametrize("kind", ["one-hot", "soft", "of other sums than 1"])
def test_cross_entropy_of_rows(kind, rng):
    model = network([Dense(4, "tanh"), Dense(3)], "cross_entropy")
    x = rng.normal(size=(ROWS, INPUTS))
    rows = np.eye(3)[rng.integers(0, 3, size=ROWS)] if kind == "one-hot" else rng.uniform(size=(ROWS, 3))
    if kind == "soft":
        rows /= rows.sum(axis=1, keepdims=True)
    check_model(model, x, rows)


def test_huber_with_its_own_delta(rng):
    model = network([Dense(4, "tanh"), Dense(OUTPUTS)], fastnn.Huber(0.3))
    x, y = rng.normal(size=(6, INPUTS)), np.linspace(-2, 2, 12).reshape(6, 2)
    error = np.abs(model.predict(x) - y)
    assert (error < 0.3).any()
    assert (error > 0.3).any()
    loss, gradients = model.gradients(x, y)
    terms = np.where(error <= 0.3, error**2 / 2, 0.3 * (error - 0.15))
    assert loss == pytest.approx(terms.mean(), rel=1e-12)
    views = model.network.views(model.parameters_vector())
    check_differences(lambda: model.gradients(x, y)[0], views, gradients)


def test_rescale_by_column(rng):
    model = network([Rescale([0.5, -2.0, 0.1], [0.0, 1.0, -1.0]), Dense(4, "tanh"), Dense(OUTPUTS)])
    check_model(model, rng.normal(size=(ROWS, INPUTS)), targets("squared_error", rng))


# ------------------------------------------------------------------------------------------- penalties


@pytest.mark.parametrize("l1", [0.0, 0.3])
@pytest.mark.parametrize("l2", [0.0, 0.7])
def test_penalties_are_of_weights_only(l1, l2, rng):
    layers = [Dense(4, "tanh"), Dense(OUTPUTS)]
    x, y = rng.normal(size=(ROWS, INPUTS)), targets("squared_error", rng)
    plain, punished = network(layers), network(layers, l1=l1, l2=l2)
    loss, gradients = plain.gradients(x, y)
    total, punished_gradients = punished.gradients(x, y)
    kernels = plain.get_weights()[::2]
    penalty = sum(l1 * np.abs(w).sum() + l2 / 2 * (w**2).sum() for w in kernels)
    assert total - loss == pytest.approx(penalty, rel=1e-12)
    assert punished.penalty() == pytest.approx(penalty, rel=1e-12)
    for number, (gradient, w) in enumerate(zip(gradients, plain.get_weights(), strict=True)):
        extra = l1 * np.sign(w) + l2 * w if number % 2 == 0 else 0.0
        np.testing.assert_allclose(punished_gradients[number], gradient + extra, rtol=1e-12, atol=1e-14)


def test_a_layer_s_own_penalty_comes_before_the_model_s(rng):
    model = network([Dense(4, "tanh"), Dense(4, "tanh", l1=0.0, l2=0.5), Dense(OUTPUTS, l1=0.2)], l1=0.03, l2=0.07)
    a, b, c = model.get_weights()[::2]
    want = 0.03 * np.abs(a).sum() + 0.035 * (a**2).sum() + 0.25 * (b**2).sum() + 0.2 * np.abs(c).sum()
    assert model.penalty() == pytest.approx(want + 0.035 * (c**2).sum(), rel=1e-12)
    check_model(model, rng.normal(size=(ROWS, INPUTS)), targets("squared_error", rng))


def test_truncating_l1_is_in_the_loss_and_not_in_the_gradient(rng):
    layers, x, y = [Dense(OUTPUTS)], rng.normal(size=(ROWS, INPUTS)), targets("squared_error", rng)
    plain, truncating = network(layers), network(layers, l1=0.3, l1_mode="truncate")
    loss, gradients = plain.gradients(x, y)
    total, same = truncating.gradients(x, y)
    assert total == pytest.approx(loss + 0.3 * np.abs(plain.get_weights()[0]).sum(), rel=1e-12)
    for one, other in zip(gradients, same, strict=True):
        np.testing.assert_array_equal(one, other)


# --------------------------------------------------------------------------- weights of rows, kinks, sizes


def test_rows_of_no_weight_give_nothing(rng):
    model = network([Dense(4, "tanh"), Dense(OUTPUTS)])
    x, y = rng.normal(size=(ROWS, INPUTS)), targets("squared_error", rng)
    loss, gradients = model.gradients(x, y, sample_weight=np.zeros(ROWS))
    assert np.isnan(loss)
    assert all((gradient == 0).all() for gradient in gradients)
    some = np.array([0.0, 2.0, 0.0, 0.5, 0.0])
    loss, gradients = model.gradients(x, y, sample_weight=some)
    kept_loss, kept = model.gradients(x[some > 0], y[some > 0], sample_weight=some[some > 0])
    assert loss == pytest.approx(kept_loss, rel=1e-12)
    for one, other in zip(gradients, kept, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-15)
    assert np.abs(gradients[0]).max() > 1e-3


def test_the_slope_of_relu_at_zero_is_zero():
    """The survey: delta passes where z > 0 and is 0 elsewhere."""
    model = network([Dense(3, "relu", use_bias=False), Dense(1, use_bias=False)], inputs=1)
    model.set_weights([[[1.0, 0.0, -1.0]], [[1.0], [1.0], [1.0]]])
    _, (first, second) = model.gradients([[2.0]], [[0.0]])
    np.testing.assert_array_equal(first, [[8.0, 0.0, 0.0]])  # dy = 2 (2 - 0), x = 2
    np.testing.assert_array_equal(second, [[8.0], [0.0], [0.0]])


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_products_of_many_tasks(loss, rng):
    """Widths one past a tile and enough work for every operation to be cut up, against the oracle's network."""
    model = network(
        [Dense(257, "sigmoid"), Dropout(0.3), Dense(129, "gelu"), Dropout(0.1), Dense(65)],
        loss,
        inputs=67,
        n_threads=None,
    )
    x, y = rng.normal(size=(131, 67)), targets(loss, rng, rows=131, outputs=65)
    got, gradients = model.gradients(x, y, training=True)
    want, _, parts = naive.network_gradients(naive_layers(model), x, y, loss, None, True, model.seed, model.step)
    assert got == pytest.approx(want, rel=1e-12)
    flat = [part for pair in parts if pair is not None for part in pair]
    for gradient, expected in zip(gradients, flat, strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_dropout_is_off_unless_asked_for(rng):
    layers, x, y = [Dense(8, "tanh"), Dropout(0.5), Dense(OUTPUTS)], rng.normal(size=(ROWS, INPUTS)), None
    y = targets("squared_error", rng)
    with_dropout, without = network(layers), network([layers[0], layers[2]])
    assert with_dropout.gradients(x, y)[0] == without.gradients(x, y)[0]
    assert with_dropout.gradients(x, y, training=True)[0] != without.gradients(x, y)[0]


def test_training_follows_the_gradient(rng):
    """One step of SGD with rate 1 is minus the gradient, with the step's own dropout mask."""
    model = network([Dense(8, "gelu"), Dropout(0.5), Dense(OUTPUTS)], optimizer=fastnn.SGD(1.0), l1=0.01, l2=0.02)
    x, y = rng.normal(size=(1, INPUTS)), targets("squared_error", rng, rows=1)
    masks = set()
    for _ in range(3):
        before = model.get_weights()
        loss, gradients = model.gradients(x, y, training=True)
        masks.add(tuple(gradients[1] == 0.0))  # a bias has no penalty: 0 where its unit is dropped
        assert model.train_on_batch(x, y)["loss"] == pytest.approx(loss, rel=1e-12)
        for new, old, gradient in zip(model.get_weights(), before, gradients, strict=True):
            np.testing.assert_allclose(new, old - gradient, rtol=1e-12, atol=1e-14)
            assert (new != old).any()
    assert len(masks) > 1, "every step draws its own mask"


# ------------------------------------------------------------------------------------------- backward

ENDS = [
    ("identity", "squared_error"),
    ("tanh", "squared_error"),
    ("softmax", "squared_error"),
    ("softmax", "cross_entropy"),
    ("identity", "cross_entropy"),
    ("sigmoid", "binary_cross_entropy"),
    ("sigmoid", "huber"),
    ("gelu", "absolute_error"),
]


@pytest.mark.parametrize(("activation", "loss"), ENDS)
@pytest.mark.parametrize(
    "front",
    [
        [],
        [Rescale(0.5, 0.1)],
        [Rescale([0.5, -2.0, 0.1], [0.0, 1.0, -1.0]), Activation("silu")],
        [Dropout(0.5), Activation("tanh")],
    ],
    ids=["dense first", "rescaled", "rescaled by column, activation first", "dropout first"],
)
def test_backward(activation, loss, front, rng):
    """dx and dW of sum(dy * predict(x)), for what `predict` returns: probabilities where it returns those."""
    model = network([*front, Dense(4, "tanh"), Dropout(0.5), Dense(3, activation)], loss, l1=0.1, l2=0.1)
    x, dy = rng.normal(size=(ROWS, INPUTS)), rng.normal(size=(ROWS, 3))
    dx, gradients = model.backward(x, dy)
    views = model.network.views(model.parameters_vector())
    check_differences(lambda: float((model.predict(x) * dy).sum()), [x, *views], [dx, *gradients])


@pytest.mark.parametrize(
    ("activation", "loss", "end"),
    [*((activation, loss, []) for activation, loss in ENDS), ("gelu", "huber", [Dropout(0.5)])],
)
def test_outputs_and_backward_have_one_mask_in_training(activation, loss, end, rng):
    """`predict` as the oracle's network with the next step's mask, and its differences as `backward` says."""
    model = network([Dropout(0.2), Dense(8, "tanh"), Dropout(0.5), Dense(3, activation), *end], loss, l1=0.1)
    x, dy = rng.normal(size=(ROWS, INPUTS)), rng.normal(size=(ROWS, 3))
    model.step = 5
    outputs = model.predict(x, training=True)
    records = naive.network_forward(naive_layers(model), x, training=True, seed=model.seed, step=model.step)
    np.testing.assert_allclose(outputs, records[-1]["a"], rtol=1e-12)
    dx, gradients = model.backward(x, dy, training=True)
    views = model.network.views(model.parameters_vector())
    check_differences(lambda: float((model.predict(x, training=True) * dy).sum()), [x, *views], [dx, *gradients])
    if model.loss.folds:
        logits = np.log(outputs) if activation == "softmax" else outputs
        shares = model.predict_proba(x, training=True)
        np.testing.assert_allclose(shares, outputs if activation == "sigmoid" else softmax(logits), rtol=1e-12)
    model.step = 6
    assert (model.predict(x, training=True) != outputs).any(), "every step draws its own mask"
    np.testing.assert_array_equal(model.predict(x, training=False), model.predict(x))


def test_outputs_in_training_leave_the_workspace_of_training_alone(rng):
    """Another thread may be in `fit` with the model."""
    model = network([Dense(8, "tanh"), Dropout(0.5), Dense(OUTPUTS)])
    x = rng.normal(size=(ROWS, INPUTS))
    model.gradients(x, targets("squared_error", rng))
    there, _ = model.runtime.activations(0, ROWS)  # a view of it
    before = there.copy()
    model.predict(-x, training=True)
    np.testing.assert_array_equal(there, before)


def test_repeated_rows_spread_as_dropout_says(rng):
    """One unit at most: w x / (1 - p) or 0, whose mean is w x and whose variance (w x)^2 p / (1 - p)."""
    model = network([Dropout(0.2), Dense(1, use_bias=False)], inputs=1)
    (value,) = model.predict([[2.0]])[0]
    draws = model.predict(np.full((20_000, 1), 2.0), training=True)
    assert len(np.unique(draws)) == 2
    assert draws.mean() == pytest.approx(value, rel=0.02)
    assert draws.var() == pytest.approx(value**2 * 0.2 / 0.8, rel=0.05)


def test_backward_of_one_output_takes_a_flat_gradient(rng):
    model = network([Dense(4, "tanh"), Dense(1)])
    x, dy = rng.normal(size=(ROWS, INPUTS)), rng.normal(size=ROWS)
    flat, column = model.backward(x, dy), model.backward(x, dy[:, None])
    np.testing.assert_array_equal(flat[0], column[0])
    assert np.abs(flat[0]).max() > 1e-3
    for one, other in zip(flat[1], column[1], strict=True):
        np.testing.assert_array_equal(one, other)


def test_backward_agrees_with_gradients(rng):
    """A squared error of one's own: dy = 2 (y - t) / n."""
    model = network([Dense(4, "silu"), Dense(OUTPUTS, "sigmoid")])
    x, t = rng.normal(size=(ROWS, INPUTS)), targets("squared_error", rng)
    _, want = model.gradients(x, t)
    _, got = model.backward(x, 2 * (model.predict(x) - t) / t.size)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-15)
        assert np.abs(one).max() > 1e-4


def test_gradients_of_an_infinite_loss_are_not_those_of_an_earlier_call(rng):
    """The squares are beyond the largest number, the slopes are not."""
    model = network([Dense(OUTPUTS)])
    x, y = rng.normal(size=(ROWS, INPUTS)), targets("squared_error", rng)
    model.gradients(x, y)
    w = np.full((INPUTS, OUTPUTS), 1e200)
    model.set_weights([w, np.zeros(OUTPUTS)])
    loss, (dw, db) = model.gradients(x, y)
    assert loss == math.inf
    delta = 2 * (x @ w - y) / y.size
    np.testing.assert_allclose(dw, x.T @ delta, rtol=1e-12, atol=1e186)
    np.testing.assert_allclose(db, delta.sum(axis=0), rtol=1e-12, atol=1e186)


# ------------------------------------------------------------------------------ the survey's network


def test_the_survey_s_2_3_2_network_by_hand():
    """delta = (a - y) a (1 - a); dL/dW = input x delta; dL/db = delta; one layer back, delta W^T a (1 - a).

    The survey halves the squared error and sums it over outputs: with two outputs that is the mean of (a - y)^2.
    """
    w1, b1 = np.array([[0.1, -0.2, 0.3], [0.4, 0.5, -0.6]]), np.array([0.05, -0.1, 0.15])
    w2, b2 = np.array([[0.7, -0.8], [0.9, 0.1], [-0.2, 0.3]]), np.array([0.2, -0.25])
    x, y = np.array([1.0, 0.5]), np.array([0.0, 1.0])

    def sigmoid(z):
        return 1.0 / (1.0 + math.exp(-z))

    hidden = [sigmoid(x[0] * w1[0, j] + x[1] * w1[1, j] + b1[j]) for j in range(3)]
    out = [sigmoid(sum(hidden[j] * w2[j, k] for j in range(3)) + b2[k]) for k in range(2)]
    loss = sum((a - t) ** 2 for a, t in zip(out, y, strict=True)) / 2
    delta2 = [(a - t) * a * (1 - a) for a, t in zip(out, y, strict=True)]
    delta1 = [sum(delta2[k] * w2[j, k] for k in range(2)) * hidden[j] * (1 - hidden[j]) for j in range(3)]

    model = network([Dense(3, "sigmoid"), Dense(2, "sigmoid")], inputs=2, optimizer=fastnn.SGD(0.5))
    model.set_weights([w1, b1, w2, b2])
    np.testing.assert_allclose(model.predict([x]), [out], rtol=1e-14)
    got, (dw1, db1, dw2, db2) = model.gradients([x], [y])
    assert got == pytest.approx(loss, rel=1e-14)
    np.testing.assert_allclose(dw1, np.outer(x, delta1), rtol=1e-13)
    np.testing.assert_allclose(db1, delta1, rtol=1e-13)
    np.testing.assert_allclose(dw2, np.outer(hidden, delta2), rtol=1e-13)
    np.testing.assert_allclose(db2, delta2, rtol=1e-13)
    model.fit([x], [y], epochs=1)
    for new, old, gradient in zip(model.get_weights(), (w1, b1, w2, b2), (dw1, db1, dw2, db2), strict=True):
        np.testing.assert_allclose(new, old - 0.5 * gradient, rtol=1e-13)
