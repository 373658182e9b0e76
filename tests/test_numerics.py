"""Numbers at the edges: the largest logits, columns that say nothing, one class, one row, ten million rows."""

import math

import numpy as np
import pytest

import fastnn
from fastnn import Dense, Rescale, Sequential, kernels

pytestmark = pytest.mark.usefixtures("one_thread")

rng = np.random.default_rng(4)
X = rng.normal(size=(60, 5))
LABELS = (X[:, 0] > 0).astype(int)


def trained(x, y, loss="cross_entropy", units=2, **settings):
    model = Sequential([Dense(8, "tanh"), Dense(units)], loss, fastnn.Adam(0.01), seed=0, **settings)
    model.fit(x, y, epochs=3, batch_size=16, verbose=False)
    return model


def all_finite(model, x):
    return np.isfinite(model.predict(x)).all() and all(np.isfinite(w).all() for w in model.get_weights())


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_logits_of_ten_thousand(loss, dtype):
    """The loss of a wrong answer is the difference of the logits; its gradient is at most 1; the right one costs 0."""
    model = Sequential([Dense(2, use_bias=False)], loss, fastnn.SGD(1e-6), input_size=2, dtype=dtype)
    model.set_weights([np.eye(2)])
    x = np.array([[1e4, -1e4], [-1e4, 1e4]])
    right, wrong = ([0, 1], [1, 0]) if loss == "cross_entropy" else (np.eye(2), 1 - np.eye(2))
    assert model.evaluate(x, right)["loss"] == 0.0
    assert model.evaluate(x, wrong)["loss"] == pytest.approx(2e4 if loss == "cross_entropy" else 1e4)
    np.testing.assert_allclose(model.predict_proba(x), np.eye(2), atol=1e-30)
    _, gradients = model.gradients(x, wrong)
    assert np.isfinite(gradients[0]).all()
    assert np.abs(gradients[0]).max() <= 1e4
    model.fit(x, wrong, epochs=1)
    assert all_finite(model, x)


@pytest.mark.parametrize("value", [0.0, 7.0, -1e30])
def test_constant_columns_and_constant_data(value):
    x = X.copy()
    x[:, 2] = value
    assert all_finite(trained(x, LABELS, check_finite=True), x) or value == -1e30
    x[:] = min(value, 7.0) if value >= 0 else 0.0
    model = trained(x, LABELS)
    assert all_finite(model, x)
    assert len(np.unique(model.predict(x), axis=0)) == 1, "rows that are the same get the same answer"


def test_constant_columns_are_standardised_to_zero():
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = np.column_stack([X, np.full(len(X), 3.0), np.zeros(len(X))])
    classifier = make_pipeline(StandardScaler(), fastnn.MLPClassifier(8, max_iter=3, random_state=0))
    with np.errstate(all="raise"):
        proba = _quietly(classifier.fit, x, LABELS).predict_proba(x)
    assert np.isfinite(proba).all()


def _quietly(call, *arguments):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # three epochs are not enough, says scikit-learn's class
        return call(*arguments)


def test_one_class_only():
    model = trained(X, np.zeros(60, int))
    model.fit(X, np.zeros(60, int), epochs=40, batch_size=16, verbose=False)
    assert model.evaluate(X, np.zeros(60, int))["accuracy"] == 1.0
    assert (model.predict_class(X) == 0).all()
    model = Sequential([Dense(1)], "cross_entropy", seed=0)  # nothing to decide: loss 0, no gradient
    history = model.fit(X, np.zeros(60, int), epochs=2, verbose=False).history
    assert history["loss"] == [0.0, 0.0]


@pytest.mark.parametrize("batch", [1, 32])
def test_one_row(batch, dtype):
    model = Sequential([Dense(4, "relu"), Dense(2)], "cross_entropy", seed=0, dtype=dtype)
    model.fit(X[:1], LABELS[:1], epochs=5, batch_size=batch, verbose=False)
    assert model.step == 5
    assert model.predict(X[:1]).shape == (1, 2)
    assert all_finite(model, X)


@pytest.mark.parametrize(("loss", "far"), [("cross_entropy", 1e3), ("squared_error", 1e25)])
def test_rows_of_weight_0_leave_no_trace(loss, far):
    """The bits are those of a gradient in which they count nothing, even where their own loss is beyond all numbers."""
    weights = (np.arange(60) % 3 > 0).astype(float)
    other = X.copy()
    other[weights == 0] = far
    targets = LABELS if loss == "cross_entropy" else np.eye(2)[LABELS]
    model = Sequential([Dense(8, "relu"), Dense(2)], loss, seed=0)
    model.fit(X, targets, epochs=2, verbose=False)
    first, second = (model.gradients(x, targets, sample_weight=weights) for x in (X, other))
    assert first[0] == second[0]
    for one, two in zip(first[1], second[1], strict=True):
        np.testing.assert_array_equal(one, two)
    kept = weights > 0
    value, gradients = model.gradients(X[kept], targets[kept])
    assert value == pytest.approx(first[0], rel=1e-12)
    for one, two in zip(first[1], gradients, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-7)


def test_all_weights_0_change_nothing():
    model = Sequential([Dense(2)], "cross_entropy", "sgd", seed=0, input_size=5)
    before = [w.copy() for w in model.get_weights()]
    history = model.fit(X, LABELS, epochs=1, sample_weight=np.zeros(60), verbose=False).history
    assert np.isnan(history["loss"]).all(), "a mean over nothing"
    for one, two in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, two)


def test_sums_over_ten_million_float32_rows():
    """They are kept in float64: a chain of float32 would be off by several percent here."""
    count = 10_000_000
    y = np.full((count, 1), 0.1, np.float32)
    value = float(np.float32(0.1))
    out = np.empty_like(y)
    assert kernels.squared_error(out, y, np.zeros_like(y)) == pytest.approx(value * value, rel=1e-6)
    assert kernels.global_norm(y) == pytest.approx(value * math.sqrt(count), rel=1e-9)
    assert kernels.penalty(y, 1.0, 0.0) == pytest.approx(value * count, rel=1e-9)
    stats = np.empty(4)
    kernels.activation_statistics(stats, y, y, "identity")
    assert stats[0] == pytest.approx(value, rel=1e-9)
    assert abs(float(np.add.accumulate(y[:, 0])[-1]) / (value * count) - 1) > 0.01, "or this would show nothing"
    model = Sequential([Rescale(1.0)], "squared_error", input_size=1)
    assert model.evaluate(y, np.zeros_like(y))["loss"] == pytest.approx(value * value, rel=1e-6)


@pytest.mark.parametrize("rate", [1e3, 1e30])
def test_a_learning_rate_that_explodes(rate):
    """Training stops, the message names the cause, and the weights of the last good epoch are there."""
    model = Sequential([Dense(8, "relu"), Dense(1)], "squared_error", fastnn.SGD(0.01), seed=0)
    model.fit(X, X[:, 0], epochs=2, verbose=False)
    good = [w.copy() for w in model.get_weights()]
    model.optimizer = fastnn.SGD(rate)
    again = model.clone()
    with pytest.raises(fastnn.TrainingDiverged, match=r"step|epoch") as caught:
        again.fit(X, X[:, 0], epochs=50, verbose=False)
    assert "learning rate" in str(caught.value)
    for one, two in zip(again.get_weights(), good, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_training_keeps_no_numbers_below_the_smallest_normal_one(n_threads):
    """Adam's first moment of a dead unit shrinks by a tenth each step: what it comes to is slow."""
    model = Sequential([Dense(32, "relu"), Dense(256)], "squared_error", fastnn.Adam(1e-3), seed=0, n_threads=n_threads)
    x, y = np.ones((64, 5), np.float32), np.ones((64, 256), np.float32)
    model.fit(x, y, epochs=1, batch_size=64, verbose=False)
    weights = model.get_weights()
    weights[1][:] = -1e6  # no unit of the first layer is ever above 0 again
    model.set_weights(weights)
    model.fit(x, y, epochs=1000, batch_size=64, verbose=False)
    first_moment = model.runtime.slot(0)[: weights[0].size]
    assert (first_moment == 0).all()
    sizes = np.abs(model.runtime.state)
    assert ((sizes == 0) | (sizes >= np.finfo(np.float32).tiny)).all()


def test_the_callers_own_numbers_may_be_as_small_as_before():
    """What training and prediction ask of the CPU ends with the call."""
    model = trained(X, LABELS)
    for x in (X, X[:1].astype(np.float32)):  # a fit came before; many rows; a few
        small = np.full(100, np.finfo(np.float32).tiny, np.float32) * np.float32(0.5)
        assert (small > 0).all()
        assert (small * np.float32(2) == np.finfo(np.float32).tiny).all()
        model.predict(x)
    assert np.float64(5e-324) * 1.0 > 0
