"""The diagnosis of vanishing and exploding gradients: its numbers, its words, and that training does not feel it."""

from __future__ import annotations

import contextlib
import math

import naive
import numpy as np
import pytest
from support import history_of, training_state

import fastnn
from fastnn import SGD, Activation, Dense, Dropout, Initializer, Rescale, Sequential
from fastnn.diagnostics import DEAD, EXPLODING, SATURATED, STEP, VANISHING, GradientFlow

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits():
    x, y, _, _ = fastnn.load_digits()
    return x[:400], y[:400]


def deep(activation, depth=8, units=32, start="auto", optimizer=None, **settings):
    hidden = [Dense(units, activation, kernel_initializer=start) for _ in range(depth)]
    return Sequential([Rescale(1 / 16), *hidden, Dense(10)], "cross_entropy", optimizer, **settings)


def watch(model, data, epochs=1, **settings):
    """Fit under a GradientFlow and return it; divergence is part of the game."""
    flow = GradientFlow(**settings)
    with contextlib.suppress(fastnn.TrainingDiverged):
        model.fit(*data, epochs=epochs, callbacks=[flow])
    return flow


def regression(rows=60, inputs=5, outputs=2):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(rows, inputs))
    return x, np.tanh(x[:, :outputs]) + 0.1


# ------------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu"])
def test_numbers_match_a_plain_computation(activation, dtype):
    x, y = regression()
    layers = [Rescale(0.5, 0.1), Dense(7, activation), Dropout(0.4), Dense(6, "sigmoid"), Dense(2)]
    model = Sequential(layers, "squared_error", SGD(0.1), dtype=dtype, seed=3, l2=0.3)
    flow = watch(model, (x, y), epochs=2)
    assert flow.epoch == [0, 1, 2]
    assert {len(rows) for rows in flow.history.values()} == {3}
    assert flow.layers == [f"layer 1 (Dense, 7 {activation})", "layer 3 (Dense, 6 sigmoid)", "layer 4 (Dense, 2)"]
    now = {name: rows[-1] for name, rows in flow.history.items()}

    w0, b0, w1, b1, w2, b2 = (w.astype(np.float64) for w in model.get_weights())
    scaled = 0.5 * x.astype(dtype).astype(np.float64) + 0.1
    z0 = scaled @ w0 + b0
    a0 = naive_activation(z0, activation)
    z1 = a0 @ w1 + b1
    a1 = naive_activation(z1, "sigmoid")
    out = a1 @ w2 + b2
    d2 = 2 * (out - y) / out.size
    d1 = (d2 @ w2.T) * a1 * (1 - a1)
    d0 = (d1 @ w1.T) * naive_slope(z0, a0, activation)
    gradients = [scaled.T @ d0, a0.T @ d1, a1.T @ d2]

    close = {"rtol": 2e-4 if dtype == np.float32 else 1e-9}
    norms = [np.sqrt((g**2).sum()) for g in gradients]
    sizes = [np.sqrt((w**2).sum()) for w in (w0, w1, w2)]
    np.testing.assert_allclose(now["gradient_norm"], norms, **close)
    np.testing.assert_allclose(now["gradient_rms"], [np.sqrt((g**2).mean()) for g in gradients], **close)
    np.testing.assert_allclose(now["weight_norm"], sizes, **close)
    np.testing.assert_allclose(now["ratio"], np.divide(norms, sizes), **close)
    np.testing.assert_allclose(now["step"], 0.1 * np.divide(norms, sizes), **close)
    np.testing.assert_allclose(now["mean"], [a.mean() for a in (a0, a1, out)], **close)
    np.testing.assert_allclose(now["std"], [a.std() for a in (a0, a1, out)], **close)
    np.testing.assert_allclose(now["spread"], [np.sqrt(a.var(axis=0).mean()) for a in (a0, a1, out)], **close)
    flat = np.empty(4)
    for layer, (a, z, name) in enumerate([(a0, z0, activation), (a1, z1, "sigmoid"), (out, out, "identity")]):
        naive.activation_statistics(flat, a, z, name)
        np.testing.assert_allclose([now["saturated"][layer], now["dead"][layer]], flat[2:], atol=1e-12)


def naive_activation(z, activation):
    a = np.empty_like(z)
    naive.activation_forward(a, z, activation)
    return a


def naive_slope(z, a, activation):
    slope = np.empty_like(z)
    naive.activation_backward(slope, np.ones_like(z), z, a, activation)
    return slope


@pytest.mark.parametrize(
    "clipping",
    [{}, {"clip_norm": 0.01}, {"clip_norm": 1e9}, {"clip_value": 0.02}, {"clip_value": 0.02, "clip_norm": 0.03}],
    ids=str,
)
def test_a_step_is_the_one_that_sgd_takes(clipping):
    """Where most of the gradient that is clipped is the biases'."""
    x, y = regression()
    y = y + 20.0
    layers = [Dense(4, "tanh"), Activation("tanh"), Dense(2)]
    model = Sequential(layers, "squared_error", SGD(0.1, **clipping), dtype="float64", input_size=5)
    before = model.get_weights()[::2]
    flow = GradientFlow()
    model.fit(x, y, epochs=1, batch_size=len(x), callbacks=[flow])
    taken = zip(model.get_weights()[::2], before, strict=True)
    first, none, last = flow.history["step"][0]
    np.testing.assert_allclose(
        [first, last], [np.linalg.norm(w - w0) / np.linalg.norm(w0) for w, w0 in taken], rtol=1e-9
    )
    assert math.isnan(none)


def test_a_step_from_weights_of_0_has_no_size():
    """As in a last layer that starts with zeros."""
    layers = [Dense(3, "tanh"), Dense(2, kernel_initializer="zeros")]
    flow = watch(Sequential(layers, "squared_error", SGD(0.1)), regression())
    assert np.isfinite(flow.history["step"]).tolist() == [[True, False], [True, True]]
    assert flow.history["ratio"][0][1] == math.inf


def test_a_step_is_known_for_sgd_alone():
    flow = watch(Sequential([Dense(2)], "squared_error", "adam"), regression())
    assert np.isnan(flow.history["step"]).all()


def test_an_activation_of_its_own_has_no_gradient():
    layers = [Dense(4, "relu"), Dropout(0.5), Activation("tanh"), Dense(2)]
    flow = watch(Sequential(layers, "squared_error"), regression())
    assert flow.layers[1] == "layer 2 (Activation, 4 tanh)"
    table = {name: np.array(rows)[:, 1] for name, rows in flow.history.items()}
    for name in ("gradient_norm", "gradient_rms", "weight_norm", "ratio"):
        assert np.isnan(table[name]).all(), name
    assert (table["std"] > 0).all()
    assert flow.problems() == {}


# ----------------------------------------------------------------------------------- when, and on which rows


def test_a_network_without_layers_to_measure_is_healthy():
    x, _ = regression()
    flow = watch(Sequential([Dropout(0.5)], "squared_error"), (x, x), verbose=True)
    assert (flow.epoch, flow.layers, flow.diagnosis()) == ([0, 1], [], [])
    assert flow.summary().startswith("after epoch 1")


def test_training_does_not_feel_it(dtype):
    """The same bits with and without: weights, optimizer state, history, also of the next fit."""
    x, y, _, _ = fastnn.load_digits()

    def train(callbacks):
        layers = [Rescale(1 / 16), Dense(30, "relu"), Dropout(0.3), Dense(20, "gelu"), Dropout(0.1), Dense(10)]
        optimizer = fastnn.Adam(fastnn.Warmup(0.01, steps=20), clip_norm=0.5)
        model = Sequential(layers, "cross_entropy", optimizer, dtype=dtype, seed=5, l1=1e-4, l2=1e-4)
        for epochs in (2, 1):
            model.fit(x, y, epochs=epochs, batch_size=32, validation_split=0.1, callbacks=callbacks)
        return training_state(model), history_of(model)

    assert train([]) == train([GradientFlow(rows=700)])


def test_measures_every_k_epochs_and_goes_on():
    x, y = regression()
    model = Sequential([Dense(3, "tanh"), Dense(2)], "squared_error")
    flow = GradientFlow(every=2)
    model.fit(x, y, epochs=5, callbacks=[flow])
    assert flow.epoch == [0, 2, 4]
    model.fit(x, y, epochs=1, callbacks=[flow])
    assert flow.epoch == [0, 2, 4, 5, 6], "the fit that goes on begins with a measurement of its own"
    model.fit(x, y, epochs=0, callbacks=[flow])
    assert flow.epoch == [0, 2, 4, 5, 6], "nothing is measured twice"
    assert {len(rows) for rows in flow.history.values()} == {5}
    other = Sequential([Dense(2)], "squared_error")
    other.fit(x, y, epochs=1, callbacks=[flow])
    assert (flow.epoch, len(flow.layers)) == ([0], 1), "another model, a new record"


def test_probe_is_spread_over_the_rows_that_count():
    """Gradients of the probe are those of the rows it should hold: every 3rd of those with a weight."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(40, 1))
    weights = np.zeros(40)
    weights[5:26] = rng.uniform(0.5, 2.0, size=21)
    model = Sequential([Dense(1)], "squared_error", dtype="float64", input_size=3)
    flow = GradientFlow(rows=8)
    start = model.get_weights()
    model.fit(x, y, epochs=0, sample_weight=weights, callbacks=[flow])
    rows = np.linspace(5, 25, 8).astype(int)
    expected = x[rows].T @ (2 * weights[rows, None] * (x[rows] @ start[0] - y[rows])) / weights[rows].sum()
    np.testing.assert_allclose(flow.history["gradient_norm"][0], [np.linalg.norm(expected)], rtol=1e-9)
    model.fit(x, y, epochs=1, sample_weight=np.zeros(40), callbacks=[flow])
    assert flow.history["gradient_norm"][-1] == [0.0]
    assert flow.diagnosis() == []


def test_callbacks_are_given_the_training_data():
    x, y = regression()

    class Look(fastnn.Callback):
        def on_train_begin(self):
            self.seen = self.data.x.copy(), self.data.targets.copy()

    look = Look()
    Sequential([Dense(2)], "squared_error").fit(x, y, epochs=1, validation_split=0.5, callbacks=[look])
    np.testing.assert_array_equal(look.seen[0], x[:30].astype(np.float32))
    np.testing.assert_array_equal(look.seen[1], y[:30].astype(np.float32))


def test_a_loss_that_is_not_finite_behind_outputs_that_are():
    """Squares of such targets are too large for float32, and the gradient is not."""
    x, y = regression()
    model, flow = Sequential([Dense(3, "tanh"), Dense(2)], "squared_error", SGD(0.1)), GradientFlow()
    with pytest.raises(fastnn.TrainingDiverged, match="in the loss itself"):
        model.fit(x, y * 1e25, epochs=1, callbacks=[flow])
    assert np.isfinite(flow.history["gradient_norm"]).all()
    assert flow.problems() == {"not finite": []}
    assert flow.diagnosis() == ["NaN or infinity in the loss; scale inputs and targets or start from smaller weights."]


@pytest.mark.parametrize("name", ["x", "y"])
def test_rows_that_are_not_finite_are_named_and_no_layer(name):
    data = dict(zip("xy", regression(), strict=True))
    data[name][7, 1] = np.nan
    model = Sequential([Dense(3, "tanh"), Dense(2)], "squared_error", check_finite=False)
    assert watch(model, data.values()).diagnosis() == [
        f"NaN or infinity in {name}; take out the rows that have it, or fill them in."
    ]


def test_the_layer_whose_gradient_alone_is_not_finite_is_named():
    """The slope of |e| is 1, and 1e22 times 1e22 times that is beyond float32; outputs of tiny samples are not."""
    x, y = regression()
    model = Sequential([Dense(3), Dense(3), Dense(2)], "absolute_error", input_size=5)
    factors = [1, 1, 1e22, 1, 1e22, 1]
    model.set_weights([weight * factor for weight, factor in zip(model.get_weights(), factors, strict=True)])
    assert watch(model, (x * 1e-35, y), epochs=0).diagnosis() == [
        "NaN or infinity in the gradient of layer 0 (Dense, 3); scale the inputs or start from smaller weights."
    ]


def test_one_row_is_enough():
    """It has no spread, which is no ailment."""
    x, y = regression(rows=1)
    assert watch(Sequential([Dense(3, "tanh"), Dense(2)], "squared_error"), (x, y)).diagnosis(0) == []


# ---------------------------------------------------------------------------------------------- the words


@pytest.mark.parametrize("activation", ["relu", "tanh", "leaky_relu", "elu", "gelu", "silu", "softplus"])
def test_healthy_networks_are_called_healthy(activation, digits):
    flow = watch(deep(activation, depth=3), digits, epochs=5)
    assert flow.problems(0) == {}
    assert flow.problems() == {}
    assert flow.diagnosis() == []


def test_one_sigmoid_layer_is_healthy(digits):
    flow = watch(deep("sigmoid", depth=1), digits, epochs=5)
    assert flow.diagnosis() == []


def test_deep_sigmoid_vanishes(digits):
    flow = watch(deep("sigmoid"), digits)
    problems = flow.problems()
    rms = np.array(flow.history["gradient_rms"][-1])
    assert problems["vanishing"] == np.flatnonzero(rms < VANISHING * rms[-1]).tolist()
    assert problems["vanishing"][:3] == [0, 1, 2]
    sentence = flow.diagnosis()[0]
    assert sentence.startswith(
        f"The gradient vanishes in layers 1 to {problems['vanishing'][-1] + 1}: in layer 1 it is "
    )
    assert f"{rms[0] / rms[-1]:.2g} times the last layer's" in sentence
    assert "ReLU in place of sigmoid" in sentence
    assert "The signal vanishes on its way to layer" in flow.diagnosis()[1]


def test_small_weights_let_no_signal_through(digits):
    flow = watch(deep("relu", start="normal"), digits, epochs=0)
    spread = np.array(flow.history["spread"][0])
    assert flow.problems()["silent"] == np.flatnonzero(spread[:-1] < VANISHING * 0.27).tolist()
    assert "vanishing" not in flow.problems(), "all layers have equally little: the forward pass shows it"
    (sentence,) = (s for s in flow.diagnosis() if "signal" in s)
    assert "start from larger weights" in sentence


def test_large_weights_explode(digits):
    start = Initializer("he_uniform", 3.0)
    flow = watch(deep("relu", start=start, optimizer=SGD(0.05)), digits)
    step = np.array(flow.history["step"][0])
    assert set(np.flatnonzero(step > STEP)) <= set(flow.problems(0)["exploding"])
    (sentence,) = (s for s in flow.diagnosis(0) if s.startswith("The gradient explodes in "))
    assert f"one step changes the weights by {step.max():.2g} times their size" in sentence
    assert "clip_norm" in sentence
    adam = watch(deep("relu", start=Initializer("he_uniform", 4.0)), digits, epochs=0)
    spread = np.array(adam.history["spread"][0])
    assert adam.problems()["exploding"] == np.flatnonzero(spread[:-1] > EXPLODING).tolist() != []
    assert "The signal explodes in " in adam.diagnosis()[0]
    assert adam.diagnosis()[0].endswith("in the inputs; start from smaller weights."), "no rate has moved them yet"


def test_the_last_layer_is_not_blamed_where_gradients_vanish_before_it(digits):
    """Every layer gets its gradient through the last one's slope; what weakens it are small weights."""
    x, y = digits
    hidden = [Dense(32, "relu") for _ in range(6)]
    model = Sequential([Rescale(1 / 16), *hidden, Dense(1, "sigmoid")], "squared_error", input_size=64)
    model.set_weights([0.05 * a if a.ndim == 2 and a.shape[1] > 1 else a + 0.5 for a in model.get_weights()])
    flow = watch(model, (x, y > 4), epochs=0)
    assert flow.diagnosis()[0].startswith("The gradient vanishes in layers 1 to ")
    assert flow.diagnosis()[0].endswith("; use larger starting weights ('he_uniform') or fewer layers.")


def test_a_gradient_that_grows_towards_the_first_layer_explodes():
    """Small weights at the end: what comes back is multiplied, layer by layer, where what goes forth is bounded."""
    rng = np.random.default_rng(0)
    layers = [Dense(20, "tanh"), Dense(20, "tanh"), Dense(1)]
    model = Sequential(layers, "squared_error", "adam", dtype="float64", input_size=4)
    w0, b0, w1, b1, w2, b2 = model.get_weights()
    model.set_weights([w0 * 1e-5, b0, w1, b1, w2 * 1e5, b2])
    flow = GradientFlow()
    model.fit(rng.normal(size=(50, 4)), rng.normal(size=(50, 1)), epochs=0, callbacks=[flow])
    rms = np.array(flow.history["gradient_rms"][0])
    assert flow.problems()["exploding"] == np.flatnonzero(rms > EXPLODING * rms[-1]).tolist()
    assert f"it is {rms[:2].max() / rms[-1]:.2g} times the last layer's" in " ".join(flow.diagnosis())


def test_unscaled_inputs_saturate(digits):
    model = Sequential([Dense(64, "tanh"), Dense(10)], "cross_entropy")
    flow = watch(model, digits)
    assert flow.problems() == {"saturated": [0]}
    assert flow.diagnosis(0)[0].endswith("scale the inputs, start from smaller weights or use ReLU.")
    share = flow.history["saturated"][-1][0]
    assert share > SATURATED
    assert flow.diagnosis()[0].startswith(f"Saturated: layer 0 (Dense, 64 tanh); {share:.0%} of the values lie where")


def test_an_output_layer_may_saturate_where_it_is_right(digits):
    """A good classifier's outputs lie at the ends; outputs stuck there explain nothing."""
    x, y = digits
    targets = (y == 3).astype(float)
    model = Sequential([Rescale(1 / 16), Dense(32, "tanh"), Dense(1, "sigmoid")], "squared_error", "adam")
    model.fit(x, targets, epochs=60)
    *others, weight, bias = model.get_weights()
    model.set_weights([*others, 4 * weight, 4 * bias])
    good = GradientFlow()
    model.fit(x, targets, epochs=0, callbacks=[good])
    assert good.history["saturated"][-1][-1] > SATURATED
    assert good.diagnosis() == []
    model.set_weights([*others, weight, bias + 40.0])
    stuck = GradientFlow()
    model.fit(x, targets, epochs=0, callbacks=[stuck])
    assert stuck.problems()["saturated"] == [1]


def test_dead_units(digits):
    model = deep("relu", depth=2, units=10)
    model.build(64)
    w0, b0, w1, b1, *last = model.get_weights()
    some = b0.copy()
    some[: math.ceil(DEAD * 10)] = -100.0
    model.set_weights([w0, some, w1, b1, *last])
    flow = watch(model, digits, epochs=0)
    assert flow.problems() == {"dead": [0]}
    share = flow.history["dead"][0][0]
    assert DEAD <= share < 1.0
    assert flow.diagnosis()[0].startswith(
        f"Dead: layer 1 (Dense, 10 relu); {share:.0%} of the units have no slope for any of"
    )
    model.set_weights([w0, b0 - 100.0, w1, b1, *last])
    flow = watch(model, digits, epochs=0)
    assert flow.problems() == {"dead": [0, 1]}, "and not silent besides"
    assert "all of the units" in flow.diagnosis()[-1]
    assert flow.diagnosis()[-1].endswith("; start from other weights and biases or use 'leaky_relu'.")
    trained = watch(model, digits)
    assert trained.diagnosis()[-1].endswith(
        "; lower the learning rate, put a Warmup in front of it or use 'leaky_relu'."
    )

    zeros = watch(deep("relu", depth=2, start="zeros"), digits)
    for record in (0, -1):
        assert zeros.diagnosis(record)[-1].endswith(
            "; its weights are all 0: start from others, such as kernel_initializer='he_uniform'."
        )


def test_units_that_are_alike(digits):
    """From weights of 0 each layer's units take the same steps, and stay one unit whatever is learned."""
    zeros = [Dense(24, "sigmoid", kernel_initializer="zeros"), Dense(10, kernel_initializer="zeros")]
    model = Sequential([Rescale(1 / 16), *zeros], "cross_entropy", fastnn.Adam(0.01))
    flow = watch(model, digits, epochs=5)
    w = model.get_weights()[0]
    assert np.abs(w).max() > 0.01
    np.testing.assert_allclose(w, np.repeat(w[:, :1], 24, axis=1), rtol=1e-3, atol=1e-5)
    assert flow.problems(0) == {"vanishing": [0], "silent": [0]}, "where the outputs are no sample's, that says it"
    assert flow.problems() == {"alike": [0]}
    assert flow.diagnosis() == [
        "Alike: layer 1 (Dense, 24 sigmoid); all units there have the same outputs, so that together they do what one "
        "unit can; start from random weights."
    ]
    model.set_weights([w * np.linspace(1, 1.01, 24), *model.get_weights()[1:]])
    assert watch(model, digits, epochs=0).problems() == {}
    narrow = watch(Sequential([Dense(1, "tanh"), Dense(10)], "cross_entropy"), (digits[0] / 16, digits[1]), epochs=0)
    assert "alike" not in narrow.problems()


def test_nan_is_named(digits):
    model = deep("relu", depth=3)
    model.build(64)
    model.network.views(model.parameters_vector())[2][0, 0] = np.nan
    flow = watch(model, digits)
    assert flow.epoch == [0], "training stopped before the end of the first epoch"
    assert flow.problems()["not finite"][-1] == 3
    assert flow.diagnosis() == [
        "NaN or infinity in the output of layer 2 (Dense, 32 relu); scale the inputs or start from smaller weights."
    ], "the first: all behind it have it too, and all gradients"


def test_layers_apart_are_listed():
    flow = GradientFlow()
    flow.layers = [f"layer {number} (Dense, 3 relu)" for number in (1, 2, 4, 5, 7, 9)]
    assert flow._where([0, 1, 2, 4]) == "layers 1 to 4, 7"
    assert flow._where([0, 2, 5]) == "layers 1, 4, 9"
    assert flow._where([3]) == "layer 5 (Dense, 3 relu)"


def test_says_nothing_unless_asked(digits, capsys):
    watch(deep("sigmoid"), digits)
    assert capsys.readouterr() == ("", "")
    flow = watch(deep("sigmoid"), digits, verbose=True)
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"epoch {n}: {sentence}" for n in (0, 1) for sentence in flow.diagnosis(n)]
    assert len(printed) >= 4


def test_summary_is_a_table(digits):
    flow = watch(deep("relu", depth=2), digits, epochs=3)
    title, *lines = flow.summary().splitlines()
    assert title.split() == ["after", "epoch", "3", "|dW|", "|W|", "|dW|/|W|", "mean", "std", "saturated", "dead"]
    assert [line.split("  ")[0] for line in lines] == flow.layers
    assert f"{flow.history['gradient_norm'][-1][1]:.2e}" in lines[1]
    assert "after epoch 0" in flow.summary(0)
    assert repr(flow) == "<GradientFlow: 4 measurements of 3 layers>"
    with_activation = watch(
        Sequential([Dense(3), Dropout(0.5), Activation("relu")], "squared_error"), regression(outputs=3)
    )
    assert " - " in with_activation.summary().splitlines()[2]
    assert "nan" not in with_activation.summary()
    wild = watch(deep("relu", start=Initializer("he_uniform", 1e4)), digits, epochs=0)
    for name, line in zip(wild.layers, wild.summary().splitlines()[1:], strict=True):
        assert len(line.removeprefix(name).split()) == 7, "large numbers stay apart"


def test_bad_use_is_refused():
    with pytest.raises(ValueError, match="rows: got 1, expected an integer >= 2"):
        GradientFlow(rows=1)
    with pytest.raises(ValueError, match="every: got 0, expected an integer >= 1"):
        GradientFlow(every=0)
    for method in ("diagnosis", "problems", "summary"):
        with pytest.raises(ValueError, match="has measured nothing yet"):
            getattr(GradientFlow(), method)()
    flow = watch(Sequential([Dense(2)], "squared_error"), regression())
    with pytest.raises(IndexError):
        flow.diagnosis(2)
