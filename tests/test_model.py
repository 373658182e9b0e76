"""The model's public surface: what goes in, what comes out, and what stays the same whatever form the data has."""

from __future__ import annotations

import copy
import inspect
import math
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np
import pytest
from support import history_of, training_state, weight_bytes

import fastnn
from fastnn import Activation, Dense, Dropout, Rescale, Sequential
from fastnn.kernels import epoch as kernels_epoch
from fastnn.schedules import Schedule
from fastnn.scores import R2

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS, INPUTS, CLASSES = 37, 6, 3


def classifier(**settings):
    layers = [Dense(8, "relu"), Dropout(0.2), Dense(CLASSES)]
    settings = {"layers": layers, "seed": 5, "optimizer": fastnn.Adam(0.01), **settings}
    return Sequential(loss="cross_entropy", **settings)


def regressor(outputs=2, **settings):
    settings = {"seed": 5, "optimizer": fastnn.Adam(0.01), **settings}
    return Sequential([Dense(8, "tanh"), Dense(outputs)], "squared_error", **settings)


@pytest.fixture
def x(rng):
    return rng.normal(size=(ROWS, INPUTS)).astype(np.float32)


@pytest.fixture
def y(x):
    return x[:, :CLASSES].argmax(axis=1)


def softmax(z):
    terms = np.exp(z.astype(np.float64) - z.max(axis=1, keepdims=True))
    return terms / terms.sum(axis=1, keepdims=True)


# ---------------------------------------------------------------------------------- the public surface


def test_every_public_name_is_there():
    for name in fastnn.__all__:
        assert hasattr(fastnn, name)
    assert set(fastnn.__all__) >= {"Sequential", "Dense", "Dropout", "Activation", "Rescale", "load", "load_digits"}


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("fit", "x y epochs batch_size validation_data callbacks sample_weight class_weight shuffle verbose"),
        ("evaluate", "x y sample_weight"),
        ("predict", "x"),
        ("predict_proba", "x"),
        ("predict_class", "x"),
        ("train_on_batch", "x y sample_weight class_weight"),
        ("gradients", "x y sample_weight"),
        ("backward", "x dy"),
        ("get_weights", ""),
        ("set_weights", "weights"),
        ("clone", ""),
        ("save", "path"),
        ("summary", ""),
    ],
)
def test_methods_take_the_names_that_users_guess(method, names):
    parameters = list(inspect.signature(getattr(Sequential, method)).parameters)[1:]
    assert [name for name in names.split() if name not in parameters] == []
    assert getattr(Sequential, method).__doc__


def test_a_network_learns_the_digits():
    x, y, x_test, y_test = fastnn.load_digits()
    layers = [Rescale(1 / 16), Dense(32, "relu"), Dense(10)]
    model = Sequential(layers, loss="cross_entropy", optimizer=fastnn.Adam(3e-3), seed=0)
    history = model.fit(x, y, epochs=20, batch_size=32, validation_data=(x_test, y_test), verbose=False)
    assert history.history["val_accuracy"][-1] > 0.95
    assert history.history["loss"][-1] < 0.2 < history.history["loss"][0]
    assert model.evaluate(x_test, y_test)["accuracy"] == history.history["val_accuracy"][-1]
    assert (model.predict_class(x_test) == y_test).mean() == model.evaluate(x_test, y_test)["accuracy"]


def test_a_network_learns_a_curve():
    x = np.linspace(-3, 3, 200)[:, None]
    model = Sequential([Dense(32, "tanh"), Dense(1)], loss="squared_error", optimizer=fastnn.Adam(0.01), seed=0)
    model.fit(x, np.sin(x[:, 0]), epochs=200, batch_size=50, verbose=False)
    result = model.evaluate(x, np.sin(x))
    assert set(result) == {"loss", "r2"}
    assert result["r2"] > 0.99
    assert model.predict(x).shape == (200, 1)


def test_a_loss_and_an_optimizer_by_name_or_object(x, y):
    bits = set()
    for optimizer in ("adam", "Adam", fastnn.Adam(), None):
        for loss in ("cross_entropy", fastnn.CrossEntropy()):
            model = Sequential([Dense(4), Dense(CLASSES)], loss, optimizer, seed=1)
            model.fit(x, y, epochs=2)
            bits.add(weight_bytes(model))
    assert len(bits) == 1


def test_weights_start_by_the_activation_s_default_and_biases_at_zero():
    for activation, limit in (("relu", math.sqrt(6 / 400)), ("tanh", math.sqrt(6 / 500))):
        model = Sequential([Dense(100, activation)], "squared_error", input_size=400)
        w, b = model.get_weights()
        assert w.dtype == np.float32
        assert limit * 0.99 < np.abs(w).max() <= limit * (1 + 1e-6)
        assert (b == 0).all()
    zeros = Sequential([Dense(100, kernel_initializer="zeros")], "squared_error", input_size=400)
    assert (zeros.get_weights()[0] == 0).all()


def test_the_input_size_is_taken_from_the_first_data(x, y):
    model = classifier()
    assert "unknown" in model.summary()
    model.fit(x, y, epochs=0)
    assert model.get_weights()[0].shape == (INPUTS, 8)
    assert weight_bytes(model) == weight_bytes(classifier(input_size=INPUTS))
    assert weight_bytes(model) == weight_bytes(classifier().build(INPUTS))


def test_epochs_of_zero_change_nothing(x, y):
    model = classifier(input_size=INPUTS)
    before = training_state(model)
    history = model.fit(x, y, epochs=0)
    assert history.epoch == []
    assert training_state(model) == before


# ---------------------------------------------------------------------------------------- going on


def test_a_second_fit_goes_on(x, y):
    whole, parts = classifier(), classifier()
    whole.fit(x, y, epochs=5, batch_size=10)
    for epochs in (2, 3):
        history = parts.fit(x, y, epochs=epochs, batch_size=10)
    assert training_state(whole) == training_state(parts)
    assert history is parts.history
    assert history.epoch == [0, 1, 2, 3, 4]
    assert (parts.step, parts.epoch) == (20, 5)
    fresh = classifier()
    fresh.fit(x, y, epochs=3, batch_size=10)
    assert weight_bytes(fresh) != weight_bytes(parts)


def test_train_on_batch_is_a_fit_of_one_batch(x, y):
    one, other = classifier(), classifier()
    for step in range(3):
        # A batch of its own; the fit of one epoch takes the rows in order.
        logs = one.train_on_batch(x, y)
        history = other.fit(x, y, epochs=1, batch_size=ROWS, shuffle=False)
        assert logs["loss"] == history.history["loss"][-1]
        assert logs["accuracy"] == history.history["accuracy"][-1]
        assert weight_bytes(one) == weight_bytes(other)
        assert (one.step, one.epoch, other.epoch) == (step + 1, 0, step + 1)


def test_train_on_batch_takes_weights_and_follows_the_schedule(x, y):
    w = np.linspace(0, 2, ROWS)
    one = classifier(optimizer=fastnn.SGD(fastnn.StepDecay(0.1, unit="step")))
    other = classifier(optimizer=fastnn.SGD(fastnn.StepDecay(0.1, unit="step")))
    for _ in range(3):
        one.train_on_batch(x, y, sample_weight=w, class_weight=[1.0, 2.0, 0.5])
        other.fit(x, y, epochs=1, batch_size=ROWS, shuffle=False, sample_weight=w, class_weight=[1, 2, 0.5])
    assert weight_bytes(one) == weight_bytes(other)
    plain = classifier(optimizer=fastnn.SGD(fastnn.StepDecay(0.1, unit="step")))
    plain.train_on_batch(x, y)
    assert weight_bytes(plain) != weight_bytes(classifier(input_size=INPUTS))


def test_batches_of_any_kind_in_turns_are_steps_like_any_other(x, y):
    """What is kept from one call to the next says nothing of its rows: each is as in a copy that keeps nothing."""
    as_rows = np.eye(CLASSES, dtype=np.float32)[y] * 0.7 + 0.1
    model = classifier()
    half, weights = np.round(x * 10).astype(np.uint8), np.linspace(0.5, 2, ROWS)
    calls = [
        lambda m: m.train_on_batch(x[:20], y[:20]),
        lambda m: m.train_on_batch(x[20:27], as_rows[20:27]),
        lambda m: m.train_on_batch(half[:20], y[:20]),
        lambda m: m.gradients(x[:5], y[:5], training=True)[0],
        lambda m: m.train_on_batch(x, y, sample_weight=weights),
        lambda m: m.train_on_batch(x[:20], y[:20]),
        lambda m: m.apply_gradients([0.1 * weight for weight in m.get_weights()]),
        lambda m: m.backward(x[:9], np.ones((9, CLASSES)))[0].tobytes(),
        lambda m: m.gradients(x[:9], y[:9])[0],
        lambda m: m.fit(x, y, epochs=1, batch_size=16).history["loss"][-1],
        lambda m: setattr(m, "n_threads", 3 - (m.n_threads or 1)),
        lambda m: setattr(m, "optimizer", fastnn.Adam(0.01, (0.5, 0.9))),
        lambda m: m.train_on_batch(x[:20], as_rows[:20]),
    ]
    for number, call in enumerate([*calls, *reversed(calls), *calls]):
        other = copy.deepcopy(model)
        assert (call(model), number) == (call(other), number)
        assert training_state(model) == training_state(other), number


def test_a_batch_is_let_go_of_when_its_step_is_done(x, y):
    model = classifier()
    for work in (model.train_on_batch, model.gradients):
        batch, labels = x.copy(), y.astype(np.int64)
        seen = weakref.ref(batch), weakref.ref(labels)
        work(batch, labels)
        del batch, labels
        assert [each() for each in seen] == [None, None]


def test_the_short_last_batch_is_trained(x, y):
    model = classifier()
    model.fit(x, y, epochs=3, batch_size=10)
    assert model.step == 3 * 4
    # Only the last three rows can teach this model anything: the others weigh nothing.
    weights = np.zeros(ROWS)
    weights[-7:] = 1.0
    taught = regressor(1, optimizer="sgd", input_size=INPUTS)
    before = taught.get_weights()
    taught.fit(x, np.ones(ROWS), epochs=1, batch_size=10, shuffle=False, sample_weight=weights)
    assert all((a != b).any() for a, b in zip(taught.get_weights(), before, strict=True))
    alone = regressor(1, optimizer="sgd", input_size=INPUTS)
    alone.train_on_batch(x[-7:], np.ones(7))
    for one, other in zip(taught.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)


def test_a_batch_larger_than_the_data_is_all_of_it(x, y):
    large, exact = classifier(), classifier()
    large.fit(x, y, epochs=3, batch_size=10**9)
    exact.fit(x, y, epochs=3, batch_size=ROWS)
    assert large.step == 3
    assert training_state(large) == training_state(exact)


def test_without_shuffling_the_rows_come_in_order(x, y):
    model, by_hand, shuffled = classifier(), classifier(), classifier()
    model.fit(x, y, epochs=1, batch_size=10, shuffle=False)
    for start in range(0, ROWS, 10):
        by_hand.train_on_batch(x[start : start + 10], y[start : start + 10])
    shuffled.fit(x, y, epochs=1, batch_size=10)
    assert weight_bytes(model) == weight_bytes(by_hand)
    assert weight_bytes(model) != weight_bytes(shuffled)


def test_the_data_are_left_as_they_are(x, y):
    copies = x.copy(), y.copy()
    w = np.ones(ROWS)
    model = classifier(check_finite=True)
    model.fit(x, y, epochs=2, sample_weight=w, class_weight={1: 3.0}, validation_split=0.2)
    model.evaluate(x, y)
    model.predict(x)
    model.backward(x, np.ones((ROWS, CLASSES)))
    assert x.tobytes() == copies[0].tobytes()
    assert y.tobytes() == copies[1].tobytes()
    assert (w == 1).all()


# ------------------------------------------------------------------------------------- predictions


def test_predict_of_a_classifier(x, y):
    model = classifier()
    model.fit(x, y, epochs=5)
    logits, p = model.predict(x), model.predict_proba(x)
    w1, b1, w2, b2 = model.get_weights()
    np.testing.assert_allclose(logits, np.maximum(x @ w1 + b1, 0) @ w2 + b2, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(p, softmax(logits), rtol=1e-5)
    assert p.dtype == logits.dtype == np.float32
    np.testing.assert_array_equal(model.predict_class(x), logits.argmax(axis=1))
    assert model.predict_class(x).shape == (ROWS,)
    assert model.predict_class(x).dtype == np.int64
    assert len(set(model.predict_class(x))) > 1


@pytest.mark.parametrize("layers", [[Dense(CLASSES, "softmax")], [Dense(CLASSES), Activation("softmax")]])
def test_a_last_softmax_is_folded_into_its_loss(layers, x, y):
    plain = Sequential([Dense(CLASSES)], "cross_entropy", "sgd", seed=1)
    folded = Sequential(layers, "cross_entropy", "sgd", seed=1)
    plain.fit(x, y, epochs=3)
    folded.fit(x, y, epochs=3)
    assert weight_bytes(plain) == weight_bytes(folded)
    assert plain.evaluate(x, y) == folded.evaluate(x, y)
    np.testing.assert_allclose(folded.predict(x), softmax(plain.predict(x)), rtol=1e-5)
    np.testing.assert_array_equal(folded.predict_proba(x), folded.predict(x))
    np.testing.assert_allclose(folded.predict_proba(x), plain.predict_proba(x), rtol=1e-6)


def test_a_last_sigmoid_is_folded_into_its_loss(x):
    t = (x[:, :2] > 0).astype(float)
    plain = Sequential([Dense(2)], "binary_cross_entropy", "sgd", seed=1)
    folded = Sequential([Dense(2, "sigmoid")], "binary_cross_entropy", "sgd", seed=1)
    plain.fit(x, t, epochs=3)
    folded.fit(x, t, epochs=3)
    assert weight_bytes(plain) == weight_bytes(folded)
    np.testing.assert_allclose(folded.predict(x), 1 / (1 + np.exp(-plain.predict(x))), rtol=1e-5)
    np.testing.assert_allclose(plain.predict_proba(x), folded.predict(x), rtol=1e-6)
    np.testing.assert_array_equal(plain.predict_class(x), (plain.predict(x) > 0).astype(int))
    assert plain.predict_class(x).shape == (ROWS, 2)


def test_two_classes_with_one_output(x):
    t = x[:, 0] > 0
    model = Sequential([Dense(1)], "binary_cross_entropy", fastnn.Adam(0.1), seed=1)
    model.fit(x, t, epochs=30)
    assert model.predict_class(x).shape == (ROWS,)
    assert set(model.predict_class(x)) == {0, 1}
    assert (model.predict_class(x) == t).mean() == pytest.approx(model.evaluate(x, t)["accuracy"], rel=1e-12)
    assert model.evaluate(x, t)["accuracy"] > 0.9


def test_a_softmax_under_another_loss_is_the_output(x):
    model = Sequential([Dense(4, "tanh"), Dense(CLASSES, "softmax")], "squared_error", fastnn.Adam(0.01))
    t = np.eye(CLASSES)[x[:, :CLASSES].argmax(axis=1)]
    model.fit(x, t, epochs=3)
    p = model.predict(x)
    np.testing.assert_allclose(p.sum(axis=1), np.ones(ROWS), rtol=1e-5)
    assert model.evaluate(x, t)["loss"] == pytest.approx(((p - t) ** 2).mean(), rel=1e-5)


def test_predictions_do_not_drop(x, y):
    layers = [Dense(8, "relu"), Dropout(0.9), Dense(CLASSES)]
    dropping = Sequential(layers, "cross_entropy", seed=1, input_size=INPUTS)
    plain = Sequential([layers[0], layers[2]], "cross_entropy", seed=1, input_size=INPUTS)
    np.testing.assert_array_equal(dropping.predict(x), plain.predict(x))
    assert dropping.evaluate(x, y) == plain.evaluate(x, y)


def test_a_prediction_of_many_rows_is_that_of_its_parts(rng):
    """More rows than one block and one call of the compiled code take."""
    model = regressor(1, input_size=INPUTS)
    x = rng.normal(size=(1_300_000, INPUTS)).astype(np.float32)
    assert len(x) > 16 * model.runtime.blocks_of_rows(len(x))
    t = rng.normal(size=len(x))
    whole = model.predict(x)
    for rows in (slice(0, 1000), slice(700_000, 701_000), slice(len(x) - 1000, len(x))):
        np.testing.assert_allclose(model.predict(x[rows]), whole[rows], rtol=1e-5, atol=1e-6)
    assert model.evaluate(x, t)["loss"] == pytest.approx(((whole[:, 0] - t) ** 2).mean(), rel=1e-5)


@pytest.mark.parametrize("n_threads", [1, None])
@pytest.mark.parametrize("ending", ["softmax", None])
def test_rows_asked_for_together_get_the_bits_they_get_apart(ending, n_threads, dtype, rng):
    """Softmax of up to 16 classes takes 64 rows at once, and up to 64 rows go by a way of their own."""
    x = rng.normal(size=(131, INPUTS)).astype(dtype)
    for classes in range(1, 21):
        layers = [Dense(7, "tanh"), Dense(classes, ending)]
        model = Sequential(layers, "cross_entropy", dtype=dtype, seed=1, n_threads=n_threads, input_size=INPUTS)
        for predict in (model.predict, model.predict_proba):
            whole = predict(x)
            for rows in (1, 2, 3, 5, 31, 63, 64, 65, 127, 128, 130):
                np.testing.assert_array_equal(predict(x[:rows]), whole[:rows], f"{rows} rows of {classes} classes")
                np.testing.assert_array_equal(predict(x[-rows:]), whole[-rows:], f"{rows} rows of {classes} classes")


# ------------------------------------------------------------------------------------- evaluation


def test_accuracy_and_loss_by_hand(x, y):
    model = classifier(l2=0.1)
    model.fit(x, y, epochs=3)
    result = model.evaluate(x, y)
    p = softmax(model.predict(x))
    penalty = 0.05 * sum((w.astype(np.float64) ** 2).sum() for w in model.get_weights()[::2])
    assert result["loss"] == pytest.approx(-np.log(p[np.arange(ROWS), y]).mean() + penalty, rel=1e-5)
    assert result["accuracy"] == pytest.approx((p.argmax(axis=1) == y).mean())
    w = np.linspace(0, 3, ROWS)
    weighted = model.evaluate(x, y, sample_weight=w)
    assert weighted["accuracy"] == pytest.approx((w * (p.argmax(axis=1) == y)).sum() / w.sum())
    want = (w * -np.log(p[np.arange(ROWS), y])).sum() / w.sum() + penalty
    assert weighted["loss"] == pytest.approx(want, rel=1e-5)
    one_hot = model.evaluate(x, np.eye(CLASSES)[y])
    assert one_hot["accuracy"] == result["accuracy"]
    assert one_hot["loss"] == pytest.approx(result["loss"], rel=1e-6)


def test_r2_by_hand(x):
    t = np.stack([x[:, 0] * 2, x[:, 1] - 5], axis=1).astype(np.float64)
    model = regressor()
    model.fit(x, t, epochs=30)
    out = model.predict(x).astype(np.float64)

    def r2(w):
        mean = (w[:, None] * t).sum(axis=0) / w.sum()
        return (1 - (w[:, None] * (out - t) ** 2).sum(axis=0) / (w[:, None] * (t - mean) ** 2).sum(axis=0)).mean()

    assert model.evaluate(x, t)["r2"] == pytest.approx(r2(np.ones(ROWS)), rel=1e-5)
    w = np.linspace(0, 3, ROWS)
    assert model.evaluate(x, t, sample_weight=w)["r2"] == pytest.approx(r2(w), rel=1e-5)
    assert model.evaluate(x, t)["loss"] == pytest.approx(((out - t) ** 2).mean(), rel=1e-5)


@pytest.mark.parametrize(("loss", "most"), [("cross_entropy", 1), ("squared_error", 2)])
def test_evaluate_holds_the_outputs_of_a_call_alone(loss, most, monkeypatch):
    """Outputs of all rows, and for R2 eight copies in float64, took many times the data's memory."""
    monkeypatch.setattr(fastnn.prediction, "_CALL_FLOPS", 1)
    model = Sequential([Dense(1000)], loss, input_size=1)
    x = np.linspace(-1, 1, 8000, dtype=np.float32)[:, None]
    y = np.zeros(8000, np.int64) if loss == "cross_entropy" else np.repeat(x, 1000, axis=1)
    model.evaluate(x, y)
    tracemalloc.start()
    try:
        whole = model.evaluate(x, y)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most * x.nbytes * 1000
    if loss == "squared_error":
        r2 = R2()
        r2.add(model.predict(x), y, np.empty(0))
        assert whole["r2"] == pytest.approx(r2.value(), rel=1e-12)


def test_r2_where_nothing_varies(x):
    """scikit-learn's r2_score: 1 where a constant is met, else 0."""
    model = Sequential([Dense(1)], "squared_error", input_size=INPUTS)
    model.set_weights([np.zeros((INPUTS, 1)), [4.0]])
    assert model.evaluate(x, np.full(ROWS, 4.0))["r2"] == 1.0
    assert model.evaluate(x, np.full(ROWS, 5.0))["r2"] == 0.0


@pytest.mark.parametrize("rows_a_part", [ROWS, 7])
def test_r2_of_a_constant_that_is_no_binary_fraction(rows_a_part):
    """The mean of many 0.1 is not 0.1 where they are just added up: R2 was -1e33 then."""
    t, weights = np.full((ROWS, 1), 0.1), np.linspace(0.2, 3.0, ROWS)
    for error, want in ((0.5, 0.0), (0.0, 1.0)):
        for w in (weights, np.empty(0)):
            r2 = R2()
            for i in range(0, ROWS, rows_a_part):
                r2.add(t[i : i + rows_a_part] + error, t[i : i + rows_a_part], w[i : i + rows_a_part])
            assert r2.value() == want


@pytest.mark.parametrize("where", ["output", "target"])
def test_r2_of_what_is_no_number(where, x):
    model = Sequential([Dense(1)], "squared_error", input_size=INPUTS, check_finite=False)
    x, t = x.astype(np.float64), np.full(ROWS, 5.0)
    {"output": x[:, 0], "target": t}[where][3] = math.nan
    assert math.isnan(model.evaluate(x, t)["r2"])
    assert math.isnan(model.evaluate(x, t + x[:, 1])["r2"])


def test_weights_of_nothing(x, y):
    result = classifier(input_size=INPUTS, l2=0.5).evaluate(x, y, sample_weight=np.zeros(ROWS))
    assert math.isnan(result["accuracy"])
    assert math.isnan(result["loss"]), "0 would be the best that early stopping ever saw"


# ---------------------------------------------------------------------------- weights of rows and classes


@pytest.mark.parametrize("form", ["sample_weight", "class_weight", "mapping", "both"])
def test_weights_stand_for_repeated_rows(form, x, y):
    """One batch of everything: a row of weight 3 is the row three times over."""
    class_counts, row_counts = np.array([1, 3, 2]), np.arange(ROWS) % 3 + 1
    counts = {"sample_weight": row_counts, "both": row_counts * class_counts[y]}.get(form, class_counts[y])
    arguments = {
        "sample_weight": {"sample_weight": row_counts},
        "class_weight": {"class_weight": class_counts},
        "mapping": {"class_weight": {1: 3, 2: 2}},
        "both": {"sample_weight": row_counts, "class_weight": class_counts},
    }[form]
    settings = {"dtype": "float64", "optimizer": fastnn.SGD(0.5), "input_size": INPUTS, "l2": 0.01}
    layers = [Dense(8, "tanh"), Dense(CLASSES)]
    weighted, repeated, plain = (Sequential(layers, "cross_entropy", **settings) for _ in range(3))
    more_x, more_y = np.repeat(x, counts, axis=0), np.repeat(y, counts)
    for _ in range(5):
        one = weighted.train_on_batch(x, y, **arguments)
        other = repeated.train_on_batch(more_x, more_y)
        plain.train_on_batch(x, y)
        assert one == pytest.approx(other, rel=1e-9)
    for got, want in zip(weighted.get_weights(), repeated.get_weights(), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)
    assert np.abs(plain.get_weights()[0] - weighted.get_weights()[0]).max() > 1e-3
    assert weighted.evaluate(x, y, sample_weight=counts) == pytest.approx(repeated.evaluate(more_x, more_y))


def test_balanced_class_weights_are_scikit_learn_s(x):
    class_weight = pytest.importorskip("sklearn.utils.class_weight")
    y = np.array([0] * 25 + [1] * 9 + [2] * 3)
    table = class_weight.compute_class_weight("balanced", classes=np.arange(3), y=y)
    by_name, by_table = classifier(), classifier()
    by_name.fit(x, y, epochs=2, class_weight="balanced")
    by_table.fit(x, y, epochs=2, class_weight=table)
    assert weight_bytes(by_name) == weight_bytes(by_table)
    assert table.max() > 2 * table.min()


def test_class_weights_are_for_rows_of_one_class(x, y):
    """Several sigmoids: rows that name one output have a class, those of several labels or of none have not."""
    one_of_three, several = np.eye(CLASSES)[y], np.eye(CLASSES)[y]
    several[4], several[9] = 1.0, 0.0
    by_class = Sequential([Dense(CLASSES)], "binary_cross_entropy", "sgd", seed=1)
    by_row = Sequential([Dense(CLASSES)], "binary_cross_entropy", "sgd", seed=1)
    by_class.fit(x, one_of_three, epochs=2, class_weight={1: 3.0})
    by_row.fit(x, one_of_three, epochs=2, sample_weight=np.where(y == 1, 3.0, 1.0))
    assert weight_bytes(by_class) == weight_bytes(by_row)
    for weights in ("balanced", {1: 3.0}, [1.0, 2.0, 3.0]):
        for data in ((x, several), (fastnn.stream(x, several),), (x[9:], several[9:])):
            with pytest.raises(ValueError, match=r"^class_weight: got a row with [03] of 3 targets above 1/2"):
                by_class.fit(*data, epochs=1, class_weight=weights)
        with pytest.raises(ValueError, match=r"^class_weight: .* sample_weight$"):
            by_class.train_on_batch(x, several, class_weight=weights)
    assert weight_bytes(by_class) == weight_bytes(by_row)


def test_class_weights_of_one_hot_rows_and_of_one_output(x, y):
    labels, rows = classifier(), classifier()
    labels.fit(x, y, epochs=2, class_weight={1: 3.0})
    rows.fit(x, np.eye(CLASSES)[y], epochs=2, class_weight={1: 3.0})
    for got, want in zip(rows.get_weights(), labels.get_weights(), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    t = x[:, 0] > 0.5
    by_class = Sequential([Dense(1)], "binary_cross_entropy", "sgd", seed=1)
    by_row = Sequential([Dense(1)], "binary_cross_entropy", "sgd", seed=1)
    by_class.fit(x, t, epochs=2, class_weight={1: 3.0})
    by_row.fit(x, t, epochs=2, sample_weight=np.where(t, 3.0, 1.0))
    assert weight_bytes(by_class) == weight_bytes(by_row)


# ------------------------------------------------------------------------------- forms of the same data


class Subclass(np.ndarray):
    pass


def unaligned(x):
    room = np.zeros(x.nbytes + 1, np.uint8)
    result = room[1:].view(x.dtype).reshape(x.shape)
    result[:] = x
    assert not result.flags.aligned
    return result


FORMS = {
    "lists": lambda x: x.tolist(),
    "a tuple of arrays": tuple,
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16),
    "int64": lambda x: x.astype(np.int64),
    "int8": lambda x: x.astype(np.int8),
    "big-endian": lambda x: x.astype(">f4"),
    "Fortran order": np.asfortranarray,
    "every second row and column": lambda x: np.repeat(np.repeat(x, 2, axis=0), 2, axis=1)[::2, ::2],
    "backwards": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "broadcast": lambda x: np.broadcast_to(x[None], (2, *x.shape))[1],
    "not aligned": unaligned,
    "a subclass": lambda x: x.view(Subclass),
    "bytes": lambda x: x.astype(np.uint8),
    "images": lambda x: x.reshape(len(x), 2, 3),
    "images of bytes": lambda x: x.astype(np.uint8).reshape(len(x), 2, 3),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_samples_does_not_matter(form, rng):
    """Small whole numbers, which every type holds exactly: the same bits, in training and after it."""
    x = rng.integers(0, 100, size=(ROWS, INPUTS)).astype(np.float32)
    y = rng.integers(0, CLASSES, size=ROWS)
    layers = [Rescale(0.01, -0.5), Dense(8, "relu"), Dense(CLASSES)]
    plain, other = (Sequential(layers, "cross_entropy", seed=2) for _ in range(2))
    same = FORMS[form](x)
    plain.fit(x, y, epochs=3, batch_size=10, validation_data=(x, y))
    other.fit(same, y, epochs=3, batch_size=10, validation_data=(same, y))
    assert training_state(plain) == training_state(other)
    np.testing.assert_array_equal(plain.predict(x), other.predict(same))
    assert plain.evaluate(x, y) == other.evaluate(same, y)
    dx, gradients = plain.backward(x, np.ones((ROWS, CLASSES)))
    same_dx, same_gradients = other.backward(same, np.ones((ROWS, CLASSES)))
    np.testing.assert_array_equal(dx, same_dx)
    np.testing.assert_array_equal(gradients[0], same_gradients[0])


def test_a_memory_mapped_file(tmp_path, rng):
    x = rng.integers(0, 100, size=(ROWS, INPUTS)).astype(np.float32)
    y = rng.integers(0, CLASSES, size=ROWS)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    plain, other = classifier(), classifier()
    plain.fit(x, y, epochs=2)
    other.fit(mapped, y, epochs=2)
    assert weight_bytes(plain) == weight_bytes(other)


LABELS = {
    "a list": list,
    "int8": lambda y: y.astype(np.int8),
    "uint64": lambda y: y.astype(np.uint64),
    "whole floats": lambda y: y.astype(np.float32),
    "a column": lambda y: y[:, None],
    "big-endian": lambda y: y.astype(">i4"),
    "strided": lambda y: np.repeat(y, 2)[::2],
    "read-only": lambda y: np.frombuffer(y.tobytes(), y.dtype),
}


@pytest.mark.parametrize("form", LABELS)
def test_the_form_of_labels_does_not_matter(form, x, y):
    plain, other = classifier(), classifier()
    plain.fit(x, y, epochs=2, batch_size=10)
    other.fit(x, LABELS[form](y), epochs=2, batch_size=10)
    assert weight_bytes(plain) == weight_bytes(other)


VALUES = {
    "lists": lambda t: t.tolist(),
    "integers": lambda t: t.astype(int),
    "Fortran order": np.asfortranarray,
    "float64": lambda t: t.astype(np.float64),
    "strided": lambda t: np.repeat(t, 2, axis=1)[:, ::2],
    "read-only": lambda t: np.frombuffer(t.tobytes(), t.dtype).reshape(t.shape),
}


@pytest.mark.parametrize("form", VALUES)
def test_the_form_of_values_does_not_matter(form, x, rng):
    t = rng.integers(-9, 9, size=(ROWS, 2)).astype(np.float32)
    plain, other = regressor(), regressor()
    plain.fit(x, t, epochs=2, batch_size=10)
    other.fit(x, VALUES[form](t), epochs=2, batch_size=10)
    assert weight_bytes(plain) == weight_bytes(other)


@pytest.mark.parametrize("form", ["a list", "float32", "integers", "strided", "read-only"])
def test_the_form_of_row_weights_does_not_matter(form, x, y):
    w = np.arange(ROWS) % 4 + 0.0
    same = {
        "a list": w.tolist(),
        "float32": w.astype(np.float32),
        "integers": w.astype(np.uint8),
        "strided": np.repeat(w, 2)[::2],
        "read-only": np.frombuffer(w.tobytes()),
    }[form]
    plain, other = classifier(), classifier()
    plain.fit(x, y, epochs=2, batch_size=10, sample_weight=w)
    other.fit(x, y, epochs=2, batch_size=10, sample_weight=same)
    assert weight_bytes(plain) == weight_bytes(other)


def test_flat_values_mean_one_output_and_never_broadcast(x):
    t = x[:, 0] * 3
    flat, column = regressor(1), regressor(1)
    flat.fit(x, t, epochs=2)
    column.fit(x, t[:, None], epochs=2)
    assert weight_bytes(flat) == weight_bytes(column)
    assert flat.evaluate(x, t) == column.evaluate(x, t[:, None])


def test_bytes_are_not_scaled_silently(rng):
    x = rng.integers(0, 256, size=(ROWS, INPUTS)).astype(np.uint8)
    model = Sequential([Dense(1, use_bias=False)], "squared_error", input_size=INPUTS)
    model.set_weights([np.ones((INPUTS, 1))])
    np.testing.assert_array_equal(model.predict(x)[:, 0], x.sum(axis=1, dtype=np.float32))


def test_rescale_is_applied_to_what_is_predicted_too(x):
    rescaled = Sequential([Rescale(2.0, 1.0), Dense(2, "tanh")], "squared_error", input_size=INPUTS, seed=1)
    plain = Sequential([Dense(2, "tanh")], "squared_error", input_size=INPUTS, seed=1)
    np.testing.assert_allclose(rescaled.predict(x), plain.predict(x * 2 + 1), rtol=1e-5, atol=1e-6)


def test_data_of_one_row(x, y):
    model = classifier(optimizer=fastnn.SGD(0.1))
    model.fit(x[:1], y[:1], epochs=2)
    assert model.step == 2
    assert model.predict(x[:1]).shape == (1, CLASSES)


def test_a_network_without_weights(x):
    model = Sequential([Rescale(2.0), Activation("tanh")], "squared_error", "sgd")
    model.fit(x, np.tanh(2 * x), epochs=1)
    assert model.get_weights() == []
    assert model.history.history["loss"][0] == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(model.predict(x), np.tanh(2 * x.astype(np.float64)), rtol=1e-5)
    assert "0 parameters" in model.summary()


# -------------------------------------------------------------------------------------- validation


def test_validation_data_are_evaluated_and_not_learnt(x, y, rng):
    held = rng.normal(size=(11, INPUTS)), rng.integers(0, CLASSES, size=11), rng.uniform(size=11)
    model, plain = classifier(l2=0.1), classifier(l2=0.1)
    history = model.fit(x, y, epochs=3, validation_data=held)
    plain.fit(x, y, epochs=3)
    assert weight_bytes(model) == weight_bytes(plain)
    want = model.evaluate(held[0], held[1], sample_weight=held[2])
    assert history.history["val_loss"][-1] == want["loss"]
    assert history.history["val_accuracy"][-1] == want["accuracy"]
    assert len(history.history["val_loss"]) == 3
    assert model.fit(x, y, epochs=1, validation_data=held[:2]).history["val_loss"][-1] != want["loss"]
    assert "val_loss" not in plain.history.history


def test_a_validation_split_keeps_the_last_rows(x, y):
    w = np.linspace(1, 2, ROWS)
    split, by_hand = classifier(), classifier()
    held = int(0.3 * ROWS)
    split.fit(x, y, epochs=3, batch_size=10, validation_split=0.3, sample_weight=w)
    rows = slice(0, ROWS - held)
    by_hand.fit(
        x[rows], y[rows], epochs=3, batch_size=10, sample_weight=w[rows],
        validation_data=(x[-held:], y[-held:], w[-held:]),
    )  # fmt: skip
    assert training_state(split) == training_state(by_hand)
    assert "val_loss" in split.history.history


def test_a_second_fit_without_validation_leaves_gaps(x, y):
    model = classifier()
    model.fit(x, y, epochs=1)
    model.fit(x, y, epochs=1, validation_split=0.5)
    model.fit(x, y, epochs=1)
    column = model.history.history["val_loss"]
    assert [math.isnan(value) for value in column] == [True, False, True]
    assert len(model.history.history["loss"]) == 3


# ------------------------------------------------------------------------------ weights, clones, words


def test_weights_go_out_and_in(x, y):
    model, other = classifier(), classifier(seed=9)
    model.fit(x, y, epochs=2)
    other.build(INPUTS)
    weights = model.get_weights()
    assert [w.shape for w in weights] == [(INPUTS, 8), (8,), (8, CLASSES), (CLASSES,)]
    other.set_weights(weights)
    assert weight_bytes(other) == weight_bytes(model)
    np.testing.assert_array_equal(other.predict(x), model.predict(x))
    for w in weights:
        w[:] = 7  # copies: the models do not notice
    assert weight_bytes(other) == weight_bytes(model)
    other.set_weights([w.tolist() for w in weights])
    assert all((w == 7).all() for w in other.get_weights())


def test_weights_without_biases():
    model = Sequential([Dense(4, use_bias=False), Dense(2)], "squared_error", input_size=3)
    assert [w.shape for w in model.get_weights()] == [(3, 4), (4, 2), (2,)]


def test_a_clone_is_a_model_of_its_own(x, y):
    model = classifier(optimizer=fastnn.Adam(fastnn.ReduceOnPlateau(0.01, patience=0, min_delta=10.0)))
    model.fit(x, y, epochs=3)
    twin = model.clone()
    assert training_state(twin) == training_state(model)
    before = training_state(model)
    twin.fit(x, y, epochs=2)
    assert training_state(model) == before
    model.fit(x, y, epochs=2)
    assert training_state(twin) == training_state(model)


def test_a_clone_without_weights_begins_anew(x, y):
    model, fresh = classifier(), classifier()
    model.fit(x, y, epochs=3)
    twin = model.clone(weights=False)
    assert (twin.step, twin.epoch, twin.history.epoch) == (0, 0, [])
    twin.fit(x, y, epochs=2)
    fresh.fit(x, y, epochs=2)
    assert training_state(twin) == training_state(fresh)


def test_a_clone_without_weights_has_all_settings(x):
    given = {
        "seed": 7, "dtype": np.dtype("float64"), "n_threads": 1, "l1": 0.1, "l2": 0.2, "l1_mode": "truncate",
        "check_finite": False,
    }  # fmt: skip
    model = classifier(optimizer=fastnn.SGD(0.1, momentum=0.5), input_size=INPUTS, **given)
    model.preparation = "what a table's rows go through"
    twin = model.clone(weights=False)
    for name in (*given, "layers", "loss", "optimizer", "device", "matmul_precision", "preparation"):
        assert getattr(twin, name) == getattr(model, name), name
    assert weight_bytes(twin) == weight_bytes(model)


def test_a_tie_is_counted_as_it_is_predicted(x):
    model = Sequential([Dense(1, kernel_initializer="zeros")], "binary_cross_entropy", input_size=INPUTS)
    labels = np.arange(len(x)) % 3 == 0
    assert model.predict_proba(x).tolist() == [[0.5]] * len(x)
    assert model.evaluate(x, labels)["accuracy"] == pytest.approx((model.predict_class(x) == labels).mean())


def test_a_model_without_weights_can_be_cloned(x, y):
    model = classifier()
    twin = model.clone()
    model.fit(x, y, epochs=1)
    twin.fit(x, y, epochs=1)
    assert training_state(twin) == training_state(model)


def test_a_clone_with_another_seed(x, y):
    """It goes on from the same weights with other masks and shuffles, or begins with other weights."""
    model = classifier(layers=[Dense(8, "tanh"), Dropout(0.4), Dense(3)])
    model.fit(x, y, epochs=1)
    twin, same = model.clone(seed=7), model.clone(seed=model.seed)
    assert twin.seed == 7
    assert weight_bytes(twin) == weight_bytes(model)
    dropped = [m.gradients(x, y, training=True)[0] for m in (model, twin, same)]
    assert dropped[0] == dropped[2] != dropped[1]
    for m in (model, twin, same):
        m.fit(x, y, epochs=1)
    assert weight_bytes(model) == weight_bytes(same) != weight_bytes(twin)
    fresh, own = model.clone(weights=False, seed=7), classifier(layers=model.layers, seed=7)
    for m in (fresh, own):
        m.fit(x, y, epochs=2)
    assert training_state(fresh) == training_state(own)


@dataclass
class Halving(Schedule):
    lr: float

    def rates(self, step, epoch, n_steps):
        return np.full(n_steps, self.lr / 2**epoch)


def test_a_clone_without_weights_has_a_fresh_schedule_of_any_kind(x, y):
    plateau = fastnn.ReduceOnPlateau(0.01, patience=0, min_delta=10.0)
    for schedule in (plateau, fastnn.Warmup(plateau, steps=2), Halving(0.01)):
        model, fresh = (classifier(optimizer=fastnn.Adam(schedule)) for _ in range(2))
        model.fit(x, y, epochs=3)
        twin = model.clone(weights=False)
        for m in (twin, fresh):
            m.fit(x, y, epochs=3)
        assert training_state(twin) == training_state(fresh)


def test_the_weights_of_float32_are_those_of_float64_rounded():
    single, double = (classifier(input_size=INPUTS, dtype=dtype).get_weights() for dtype in ("float32", "float64"))
    for rounded, exact in zip(single, double, strict=True):
        np.testing.assert_array_equal(rounded, exact.astype(np.float32))
    assert (single[0] != double[0]).mean() > 0.9


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_each_weight_begins_with_a_cache_line(dtype):
    model = Sequential([Dense(3), Dense(5, use_bias=False), Dense(2)], "huber", input_size=7, dtype=dtype)
    views = model.network.views(model.parameters_vector())
    assert [view.ctypes.data % 64 for view in views] == [0] * 5
    assert model.parameters_vector().sum() == pytest.approx(sum(view.sum() for view in views)), "0 between them"


def test_weights_as_one_vector(x, y):
    model, other = classifier(input_size=x.shape[1]), classifier(input_size=x.shape[1], seed=5)
    other.set_weights(model.parameters_vector().astype(np.float64))
    assert weight_bytes(other) == weight_bytes(model)
    with pytest.raises(TypeError, match=r"^weights: got .*expected a list of \d arrays, or one of \d+ numbers"):
        other.set_weights(model.parameters_vector()[1:])


def test_a_batch_that_weighs_nothing_has_no_mean(x, y):
    model = classifier(input_size=INPUTS, l2=0.1)
    loss, gradients = model.gradients(x, y, sample_weight=np.zeros(ROWS))
    np.testing.assert_allclose(gradients[0], 0.1 * model.get_weights()[0], rtol=1e-6)
    assert math.isnan(loss)
    assert math.isnan(model.train_on_batch(x, y, sample_weight=np.zeros(ROWS))["loss"])


def test_an_optimizer_s_schedule_is_the_model_s_own(x, y):
    """Two models with one optimizer object: the plateau of one does not lower the rate of the other."""
    optimizer = fastnn.SGD(fastnn.ReduceOnPlateau(0.01, factor=0.1, patience=0, min_delta=10.0))
    first, second = classifier(optimizer=optimizer), classifier(optimizer=optimizer)
    first.fit(x, y, epochs=4)
    second.fit(x, y, epochs=1)
    assert first.history.history["lr"] == pytest.approx([0.01, 0.01, 0.001, 0.0001])
    assert second.history.history["lr"] == pytest.approx([0.01])


def test_the_summary_counts():
    layers = [Rescale(1 / 255), Dense(30, "relu", l1=0.5), Dropout(0.2), Dense(10, use_bias=False)]
    model = Sequential(layers, "cross_entropy", input_size=100, l2=0.25)
    text = model.summary()
    for word in ("Rescale", "Dense relu", "Dropout 0.2", "3,030", "300", "3,330 parameters", "l1 0.5", "l2 0.25"):
        assert word in text, word
    assert "workspace" in text
    assert repr(model).startswith("Sequential([Rescale(")
    assert "Adam" in repr(model)


@pytest.mark.parametrize("verbose", [True, 1, 2])
def test_verbose_training_says_a_line_an_epoch(x, y, verbose, capsys):
    model = classifier()
    model.fit(x, y, epochs=2, verbose=verbose, validation_split=0.2)
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("epoch 2: loss ")
    for word in ("accuracy", "val_loss", "samples/s"):
        assert word in lines[1]
    for quiet in (False, "auto"):
        model.fit(x, y, epochs=1, verbose=quiet)
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "samples" not in captured.err


def test_the_history_tells_of_every_epoch(x, y):
    model = classifier(optimizer=fastnn.SGD(fastnn.StepDecay(0.1, 0.5)))
    history = model.fit(x, y, epochs=3)
    assert set(history.history) == {"loss", "accuracy", "lr", "seconds", "samples_per_second"}
    assert history.history["lr"] == [0.1, 0.05, 0.025]
    assert all(len(column) == 3 for column in history.history.values())
    assert all(value > 0 for value in history.history["samples_per_second"])
    assert "3 epochs" in repr(history)
    assert history_of(model) == history_of(model.clone())


# ------------------------------------------------------------------------------------ a few rows, quickly


@pytest.fixture
def quick():
    rng = np.random.default_rng(4)
    layers = [Dense(33, "tanh"), Dropout(0.5), Dense(70, "relu"), Dense(10)]
    model = Sequential(layers, "cross_entropy", seed=1, input_size=21)
    return model, rng.normal(size=(300, 21)).astype(np.float32)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 64])
def test_a_few_rows_give_the_bits_of_many(quick, rows):
    model, x = quick
    many = model.predict(x)
    for first in (0, 100, 300 - rows):
        few = x[first : first + rows].copy()
        assert model.predict(few).tobytes() == many[first : first + rows].tobytes()
        assert model.runtime.few_rows_forward(few) is not None, "the short way is taken"
    for other in (np.asfortranarray(x[:rows]), x[:rows].astype(">f4"), x[:rows].tolist(), x[: 2 * rows : 2]):
        assert model.predict(other).shape == (rows, 10)
    assert model.predict(np.asfortranarray(x[:rows])).tobytes() == many[:rows].tobytes()


def test_a_few_rows_see_new_weights_and_own_their_outputs(quick):
    model, x = quick
    row = x[:1].copy()
    before = model.predict(row)
    kept = before.copy()
    model.fit(x, np.arange(300) % 10, epochs=1)
    after = model.predict(row)
    assert (after != kept).any()
    assert (before == kept).all()
    assert model.predict(x)[:1].tobytes() == after.tobytes()
    read_only = row.copy()
    read_only.flags.writeable = False
    assert model.predict(read_only).tobytes() == after.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_few_rows_are_checked(quick, bad):
    model, x = quick
    model.predict(x[:2].copy())
    spoilt = x[:2].copy()
    spoilt[1, 20] = bad
    with pytest.raises(ValueError, match=r"x: got (nan|-?inf) in row 1, column 20"):
        model.predict(spoilt)
    with pytest.raises(ValueError, match="x: got 20"):
        model.predict(x[:2, :20].copy())
    with pytest.raises(ValueError, match="x"):
        model.predict(x[0])
    with pytest.raises(ValueError, match="at least one row"):
        model.predict(np.empty((0, 21), np.float32))


def test_a_few_rows_from_many_threads(quick):
    from concurrent.futures import ThreadPoolExecutor

    model, x = quick
    many = model.predict(x)

    def ask(i):
        return model.predict(x[i : i + 1].copy()).tobytes()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, list(range(300)) * 20))
    assert answers == [many[i : i + 1].tobytes() for i in range(300)] * 20


def test_copies_predict_with_their_own_weights(quick):
    import copy
    import pickle

    model, x = quick
    row = x[:1].copy()
    before = model.predict(row)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.clone()]
    model.set_weights([0 * weight for weight in model.get_weights()])
    assert (model.predict(row) == 0).all()
    for other in copies:
        assert other.predict(row).tobytes() == before.tobytes()


@pytest.mark.parametrize("kind", [np.float64, np.float16])
def test_few_rows_of_another_kind_are_predicted_as_their_numbers(kind, x, y):
    model = classifier(input_size=INPUTS)
    rows = x[:5].astype(kind)
    want = model.predict(rows.astype(np.float32))
    for given in (rows, np.asfortranarray(rows), rows[::-1][::-1], np.repeat(rows, 2, axis=0)[::2]):
        assert model.predict(given).tobytes() == want.tobytes()
        assert model.runtime.few_rows_forward(given) is not None, "the short way is taken"
    large = x[:2].astype(np.float64)
    large[1, 2] = 1e300
    with pytest.raises(ValueError, match=r"^x: got inf in row 1, column 2, expected finite numbers"):
        model.predict(large)


def test_another_optimizer_leaves_the_vector_of_parameters_and_predicts_by_it(x, y):
    model = classifier(input_size=INPUTS)
    vector, before = model.parameters_vector(), model.predict(x[:3])
    model.optimizer = fastnn.Adam(0.5)
    assert model.parameters_vector() is vector
    assert model.predict(x[:3]).tobytes() == before.tobytes()
    model.train_on_batch(x, y)
    assert model.predict(x[:3]).tobytes() == model.predict(x)[:3].tobytes() != before.tobytes()


def test_an_interrupted_build_leaves_no_weights(x, y, monkeypatch):
    model = classifier()
    with monkeypatch.context() as broken:
        broken.setattr("fastnn.weights.initialize", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            model.build(INPUTS)
    with pytest.raises(ValueError, match="has no weights yet"):
        model.get_weights()
    assert weight_bytes(model.build(INPUTS)) == weight_bytes(classifier(input_size=INPUTS))


def test_threads_may_ask_one_model_for_gradients(x, y):
    model = classifier(input_size=INPUTS)
    parts = [slice(start, start + 20) for start in range(4)]

    def ask(part):
        loss, gradients = model.gradients(x[part], y[part])
        dx, more = model.backward(x[part], np.ones((20, CLASSES)))
        outputs = model.layer_outputs(x[part])
        return [loss, dx.tobytes(), *(a.tobytes() for a in (*gradients, *more, *outputs.values()))]

    want = [ask(part) for part in parts]
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda i: [ask(parts[(i + k) % 4]) for k in range(25)], range(8)):
            assert all(answer in want for answer in got)


def test_rows_of_weight_0_have_no_part_in_r2(x):
    model = regressor(1, input_size=INPUTS, check_finite=False)
    t = np.sin(x[:, 0])
    weights = np.linspace(0, 1, ROWS)
    weights[5:9] = 0.0
    kept = weights > 0
    want = model.evaluate(x[kept], t[kept], sample_weight=weights[kept])
    t[5], t[6] = np.nan, np.inf
    given = x.copy()
    given[7] = np.nan
    assert model.evaluate(given, t, sample_weight=weights)["r2"] == pytest.approx(want["r2"], rel=1e-6)


def test_a_scale_that_the_dtype_rounds_to_zero_is_refused(x):
    layers = [Rescale(1e-60), Dense(1)]
    with pytest.raises(ValueError, match=r"^scale: got 1e-60, expected numbers in the range of float32"):
        Sequential(layers, "squared_error", input_size=INPUTS)
    Sequential(layers, "squared_error", input_size=INPUTS, dtype="float64")
    Sequential([Rescale([0.0] * INPUTS), Dense(1)], "squared_error", input_size=INPUTS)


def test_no_workspace_is_held_that_was_outgrown(x, y):
    model = classifier(input_size=INPUTS, n_threads=1)
    model.gradients(x[:3], y[:3])
    seen = weakref.ref(model.runtime._work)
    model.train_on_batch(x, y)
    assert seen() is None


def test_calls_of_many_sizes_keep_a_few_plans(x, y):
    model = classifier(input_size=INPUTS)
    for rows in range(1, 60):
        model.gradients(x[:rows], y[:rows])
        model.evaluate(x[:rows], y[:rows])
    assert 1 < len(model.network._plans) <= 16
    assert 1 < len(model.runtime._standing_contexts) <= 16


def test_no_vector_is_held_that_was_replaced(x, y):
    """Estimators begin every fit with new ones."""
    runtime = classifier(input_size=INPUTS).runtime
    seen = []
    for rows in (3, 5, 9):
        runtime.params = runtime.params.copy()
        runtime._standing(runtime.network.plan(rows, 1))
        seen.append(weakref.ref(runtime.params))
    assert [each() is None for each in seen] == [True, True, False]


def test_the_threads_of_a_model_are_its_own(threads):
    threads(1)
    used = []
    real = kernels_epoch.execute
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            kernels_epoch, "execute", lambda c, params: used.append(numba.get_num_threads()) or real(c, params)
        )
        model = Sequential([Dense(300, "relu"), Dense(10)], "cross_entropy", n_threads=2)
        model.fit(np.ones((1000, 300), np.float32), np.zeros(1000, int), epochs=1, batch_size=1000)
    assert (used, numba.get_num_threads()) == ([2], 1)


def test_one_thread_asked_for_within_a_fit_is_obeyed(threads):
    """The steps that follow in that fit, whose context was made for two, run on as many as Numba is told of."""
    threads(2)
    used = []

    class OneFromNowOn(fastnn.Callback):
        def on_epoch_end(self, epoch, logs):
            self.model.n_threads = 1

    model = Sequential([Dense(300, "relu"), Dense(10)], "cross_entropy", n_threads=2)
    real = kernels_epoch.execute
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            kernels_epoch, "execute", lambda c, params: used.append(numba.get_num_threads()) or real(c, params)
        )
        model.fit(np.ones((2000, 300), np.float32), np.zeros(2000, int), epochs=3, batch_size=1000,
                  callbacks=[OneFromNowOn()])  # fmt: skip
    assert (used[0], used[-1]) == (2, 1)
