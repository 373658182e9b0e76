"""Bad input: a clear error that names the argument, what came and what was expected, before anything has changed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support import training_state

import fastnn
from fastnn import Activation, Callback, Dense, Dropout, Rescale, Sequential
from fastnn.tables import read_table, table_file

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS, INPUTS, CLASSES, VALUES = 12, 4, 3, 2
rng = np.random.default_rng(2)
X = rng.normal(size=(ROWS, INPUTS))
LABELS = rng.integers(0, CLASSES, size=ROWS)
T = rng.normal(size=(ROWS, VALUES))
CHANCES = rng.uniform(size=(ROWS, VALUES))
NAN, INF = math.nan, math.inf


class Sparse:
    """As much of a scipy.sparse matrix as can be seen from outside."""

    nnz, shape = 3, (ROWS, INPUTS)

    def toarray(self):
        return X


class Inner(Callback):
    pass


def with_value(array, place, value):
    result = np.array(array, dtype=np.result_type(array, type(value)))
    result[place] = value
    return result


def model_for(kind):
    """A trained model for labels, values or chances."""
    loss, units, y = {
        "labels": ("cross_entropy", CLASSES, LABELS),
        "values": ("squared_error", VALUES, T),
        "chances": ("binary_cross_entropy", VALUES, CHANCES),
    }[kind]
    model = Sequential([Dense(4, "tanh"), Dense(units)], loss, fastnn.SGD(0.1, momentum=0.5), seed=1)
    model.fit(X, y, epochs=1)
    return model


# ------------------------------------------------------------------- calls of a model that has been trained

ROW_3 = (3, 1)
SAMPLES = {
    # What stands for x in every method that takes it: (value, error, words of the message).
    "other width": (X[:, :3], ValueError, "x: got 3 inputs (12, 3) expected 4"),
    "one sample flat": (X[0], ValueError, "x: got shape (4,) expected (rows, 4) x[None, :]"),
    "one dimension": (X.reshape(-1), ValueError, "x: got shape (48,) expected (rows, 4)"),
    "a number": (3.5, ValueError, "x: got shape () expected (rows, 4)"),
    "images of another size": (np.ones((ROWS, 2, 3)), ValueError, "x: got 6 inputs (12, 2, 3) expected 4"),
    "bytes of another width": (np.ones((ROWS, 5), np.uint8), ValueError, "x: got 5 inputs expected 4"),
    "no rows": (X[:0], ValueError, "x: got shape (0, 4) expected at least one row"),
    "an empty list": ([], ValueError, "x: got shape (0,)"),
    "no columns": (X[:, :0], ValueError, "x: got shape (12, 0)"),
    "NaN": (with_value(X, ROW_3, NAN), ValueError, "x: got nan in row 3, column 1 expected finite check_finite"),
    "infinity": (with_value(X, ROW_3, -INF), ValueError, "x: got -inf in row 3, column 1 expected finite"),
    "too large for float32": (with_value(X, ROW_3, 1e300), ValueError, "x: got inf in row 3 float32"),
    "strings": (X.astype(str), TypeError, "x: got strings expected numbers"),
    "byte strings": (X.astype("S"), TypeError, "x: got byte strings expected numbers"),
    "a string": ("data.csv", TypeError, "x: got strings expected numbers"),
    "objects": (X.astype(object), TypeError, "x: got objects dtype object expected numbers"),
    "complex numbers": (X.astype(complex), TypeError, "x: got complex numbers expected numbers"),
    "dates": (X.astype("M8[s]"), TypeError, "x: got dates expected numbers"),
    "time spans": (X.astype("m8[s]"), TypeError, "x: got time spans expected numbers"),
    "records": (np.zeros(ROWS, "f4,f4,f4,f4"), TypeError, "x: got dtype expected numbers"),
    "rows of other lengths": ([[1.0], [1.0, 2.0]], TypeError, "x: got list makes no array expected numbers"),
    "None": (None, TypeError, "x: got None expected numbers of shape (rows, 4)"),
    "a sparse matrix": (Sparse(), TypeError, "x: got a sparse matrix x.toarray()"),
    "a mapping": ({"a": X}, TypeError, "x: got objects expected numbers"),
    "a set": ({1.0, 2.0}, TypeError, "x: got objects expected numbers"),
}
Y = {
    # (kind of model, value, error, words)
    "too few": ("labels", LABELS[:-1], ValueError, "y: got shape (11,) for 12 samples expected 12 rows"),
    "too many": ("values", np.ones((13, VALUES)), ValueError, "y: got shape (13, 2) for 12 samples expected 12 rows"),
    "a number": ("labels", 1, ValueError, "y: got shape () expected 12 rows"),
    "None": ("labels", None, TypeError, "y: got None expected class labels 0 to 2"),
    "strings": ("labels", LABELS.astype(str), TypeError, "y: got strings expected class labels 0 to 2"),
    "objects": ("values", T.astype(object), TypeError, "y: got objects expected numbers of shape (12, 2)"),
    "complex": ("values", T.astype(complex), TypeError, "y: got complex numbers"),
    "a label too large": ("labels", with_value(LABELS, 5, 3), ValueError, "y: got label 3 in row 5 expected 0 to 2"),
    "a negative label": ("labels", with_value(LABELS, 5, -1), ValueError, "y: got label -1 in row 5 expected 0 to 2"),
    "labels from 1": ("labels", LABELS + 1, ValueError, "y: got label 3 expected 0 to 2 3 units"),
    "half a label": ("labels", with_value(LABELS, 5, 0.5), ValueError, "y: got 0.5 expected whole class labels 0 to 2"),
    "a label of NaN": ("labels", with_value(LABELS, 5, NAN), ValueError, "y: got nan expected whole class labels"),
    "an infinite label": ("labels", with_value(LABELS, 5, INF), ValueError, "y: got inf expected whole class labels"),
    "labels in two columns": ("labels", np.ones((ROWS, 2)), ValueError, "y: got shape (12, 2) expected (12, 3) labels"),
    "one-hot of more classes": ("labels", np.eye(4)[LABELS], ValueError, "y: got shape (12, 4) expected (12, 3)"),
    "negative class probabilities": ("labels", -np.eye(3)[LABELS], ValueError, "y: got a negative probability -1"),
    "class probabilities of NaN": ("labels", with_value(np.eye(3)[LABELS], ROW_3, NAN), ValueError, "y: got nan row 3"),
    "three dimensions": ("values", T[:, :, None], ValueError, "y: got shape (12, 2, 1) expected (12, 2)"),
    "flat values of two outputs": ("values", T[:, 0], ValueError, "y: got shape (12,) expected (12, 2)"),
    "a column for two outputs": ("values", T[:, :1], ValueError, "y: got shape (12, 1) expected (12, 2)"),
    "NaN": ("values", with_value(T, ROW_3, NAN), ValueError, "y: got nan in row 3, column 1 expected finite"),
    "infinity": ("values", with_value(T, ROW_3, INF), ValueError, "y: got inf in row 3"),
    "too large for float32": ("values", with_value(T, ROW_3, 1e300), ValueError, "y: got inf in row 3 float32"),
    "a chance above 1": ("chances", with_value(CHANCES, ROW_3, 1.5), ValueError, "y: got 1.5 between 0 and 1"),
    "a chance below 0": ("chances", with_value(CHANCES, ROW_3, -0.5), ValueError, "y: got -0.5 between 0 and 1"),
    "labels of -1 and 1": ("chances", np.sign(T), ValueError, "y: got -1.0 expected between 0 and 1"),
    "strings for chances": ("chances", [["a", "b"]] * ROWS, TypeError, "y: got strings"),
}
WEIGHTS = {
    "too few": (np.ones(11), ValueError, "sample_weight: got shape (11,) expected (12,)"),
    "a column": (np.ones((ROWS, 1)), ValueError, "sample_weight: got shape (12, 1) expected (12,)"),
    "a number": (2.0, ValueError, "sample_weight: got shape () expected (12,)"),
    "negative": (
        with_value(np.ones(ROWS), 3, -1.0),
        ValueError,
        "sample_weight: got -1.0 expected finite weights >= 0; an advantage of either sign goes into the gradient",
    ),
    "NaN": (with_value(np.ones(ROWS), 3, NAN), ValueError, "sample_weight: got nan expected finite weights >= 0"),
    "infinite": (with_value(np.ones(ROWS), 3, INF), ValueError, "sample_weight: got inf expected finite"),
    "strings": (["1"] * ROWS, TypeError, "sample_weight: got strings expected 12 weights"),
    "objects": (np.ones(ROWS, object), TypeError, "sample_weight: got objects"),
}
CLASS_WEIGHTS = {
    "an unknown word": ("balance", ValueError, "class_weight: got 'balance' expected 'balanced' mapping sequence"),
    "a negative class": ({-1: 2.0}, ValueError, "class_weight: got class -1"),
    "a class that the network lacks": ({3: 2.0}, ValueError, "class_weight: got class 3 expected 0 2"),
    "a class by name": ({"cat": 2.0}, ValueError, "class_weight: got class 'cat' expected"),
    "half a class": ({0.5: 2.0}, ValueError, "class_weight: got class 0.5 expected"),
    "a class of True": ({True: 2.0}, ValueError, "class_weight: got class True expected"),
    "a negative weight": ({1: -2.0}, ValueError, "class_weight: got -2.0 expected finite weights >= 0"),
    "a weight of NaN": ({1: NAN}, ValueError, "class_weight: got nan expected finite weights >= 0"),
    "a word for a weight": ({1: "heavy"}, TypeError, "class_weight: got strings"),
    "None for a weight": ({1: None}, TypeError, "class_weight: got objects"),
    "too few": ([1.0, 2.0], ValueError, "class_weight: got shape (2,) expected 3 classes"),
    "too many": ([1.0, 2.0, 3.0, 4.0], ValueError, "class_weight: got shape (4,) expected 3 classes"),
    "negative in a list": ([1.0, 2.0, -3.0], ValueError, "class_weight: got -3.0 expected finite weights >= 0"),
    "two dimensions": (np.ones((3, 3)), ValueError, "class_weight: got shape (3, 3) expected 3 classes"),
    "a number": (2.0, ValueError, "class_weight: got shape () expected 3 classes"),
}
CALLS = {
    # (kind of model, call, error, words)
    "epochs negative": ("labels", lambda m: m.fit(X, LABELS, epochs=-1), ValueError, "epochs: got -1 integer >= 0"),
    "epochs 1.5": ("labels", lambda m: m.fit(X, LABELS, epochs=1.5), TypeError, "epochs: got 1.5 float integer >= 0"),
    "epochs a word": ("labels", lambda m: m.fit(X, LABELS, epochs="5"), TypeError, "epochs: got '5' str integer >= 0"),
    "epochs True": ("labels", lambda m: m.fit(X, LABELS, epochs=True), TypeError, "epochs: got True bool integer"),
    "batch 0": ("labels", lambda m: m.fit(X, LABELS, batch_size=0), ValueError, "batch_size: got 0 integer >= 1"),
    "batch None": ("labels", lambda m: m.fit(X, LABELS, batch_size=None), TypeError, "batch_size: got None integer"),
    "batch 2.0": ("labels", lambda m: m.fit(X, LABELS, batch_size=2.0), TypeError, "batch_size: got 2.0 integer"),
    "split 1": (
        "labels",
        lambda m: m.fit(X, LABELS, validation_split=1.0),
        ValueError,
        "validation_split: got 1.0 [0, 1)",
    ),
    "split negative": (
        "labels",
        lambda m: m.fit(X, LABELS, validation_split=-0.1),
        ValueError,
        "validation_split: got -0.1 [0, 1)",
    ),
    "split of no row": (
        "labels",
        lambda m: m.fit(X, LABELS, validation_split=0.01),
        ValueError,
        "validation_split: got 0.01 of 12 rows expected at least one",
    ),
    "validation of one array": (
        "labels",
        lambda m: m.fit(X, LABELS, validation_data=X),
        ValueError,
        "validation_data: got [[ expected (x, y) (x, y, sample_weight)",
    ),
    "validation of one": (
        "labels",
        lambda m: m.fit(X, LABELS, validation_data=(X,)),
        ValueError,
        "validation_data: got ( expected (x, y)",
    ),
    "validation of another width": (
        "labels",
        lambda m: m.fit(X, LABELS, validation_data=(X[:, :2], LABELS)),
        ValueError,
        "validation_x: got 2 inputs expected 4",
    ),
    "validation of another length": (
        "labels",
        lambda m: m.fit(X, LABELS, validation_data=(X, LABELS[:-2])),
        ValueError,
        "validation_y: got shape (10,) for 12 samples",
    ),
    "validation of other labels": (
        "labels",
        lambda m: m.fit(X, LABELS, validation_data=(X, LABELS + 1)),
        ValueError,
        "validation_y: got label 3 expected 0 to 2",
    ),
    "validation of NaN": (
        "labels",
        lambda m: m.fit(X, LABELS, validation_data=(with_value(X, ROW_3, NAN), LABELS)),
        ValueError,
        "validation_x: got nan in row 3",
    ),
    "validation of other weights": (
        "labels",
        lambda m: m.fit(X, LABELS, validation_data=(X, LABELS, np.ones(3))),
        ValueError,
        "validation_sample_weight: got shape (3,) expected (12,)",
    ),
    "a word for a callback": (
        "labels",
        lambda m: m.fit(X, LABELS, callbacks=["stop"]),
        TypeError,
        "callbacks[0]: got 'stop' Callback",
    ),
    "a class for a callback": (
        "labels",
        lambda m: m.fit(X, LABELS, callbacks=[Inner]),
        TypeError,
        "callbacks[0]: got Inner Callback",
    ),
    "a function for a callback": (
        "labels",
        lambda m: m.fit(X, LABELS, callbacks=[print]),
        TypeError,
        "callbacks[0]: got print Callback",
    ),
    "a function without a list for callbacks": (
        "labels",
        lambda m: m.fit(X, LABELS, callbacks=print),
        TypeError,
        "callbacks[0]: got print Callback LambdaCallback(function)",
    ),
    "a schedule for a callback": (
        "labels",
        lambda m: m.fit(X, LABELS, callbacks=[fastnn.ReduceOnPlateau(1e-3)]),
        TypeError,
        "callbacks[0]: got ReduceOnPlateau Callback rate of an optimizer: Adam(schedule)",
    ),
    "a number for callbacks": ("labels", lambda m: m.fit(X, LABELS, callbacks=5), TypeError, "callbacks: got 5"),
    "verbose loud": ("labels", lambda m: m.fit(X, LABELS, verbose="loud"), ValueError, "verbose: got 'loud' 'auto'"),
    "an argument of Keras": ("labels", lambda m: m.fit(X, LABELS, steps_per_epoch=3), TypeError, "steps_per_epoch"),
    "class weights of values": (
        "values",
        lambda m: m.fit(X, T, class_weight={1: 2.0}),
        ValueError,
        "class_weight: squared_error",
    ),
    "another width built": ("labels", lambda m: m.build(5), ValueError, "input_size: got 5 expected 4"),
    "width 0": ("labels", lambda m: m.build(0), ValueError, "input_size: got 0 integer >= 1"),
    "chances of values": (
        "values",
        lambda m: m.predict_proba(X),
        ValueError,
        "predict_proba: 'squared_error' cross entropy predict",
    ),
    "classes of values": ("values", lambda m: m.predict_class(X), ValueError, "'squared_error' cross entropy"),
    "dy of another width": (
        "labels",
        lambda m: m.backward(X, np.ones((ROWS, 2))),
        ValueError,
        "dy: got shape (12, 2) expected (12, 3)",
    ),
    "dy of other rows": (
        "labels",
        lambda m: m.backward(X, np.ones((3, 3))),
        ValueError,
        "dy: got shape (3, 3) for 12 samples",
    ),
    "dy of labels": ("labels", lambda m: m.backward(X, LABELS), ValueError, "dy: got shape (12,) expected (12, 3)"),
    "dy of NaN": ("labels", lambda m: m.backward(X, np.full((ROWS, 3), NAN)), ValueError, "dy: got nan in row 0"),
    "dy of strings": ("labels", lambda m: m.backward(X, [["a"] * 3] * ROWS), TypeError, "dy: got strings"),
    "too few weights": (
        "labels",
        lambda m: m.set_weights(m.get_weights()[:3]),
        ValueError,
        "weights: got 3 arrays expected 4",
    ),
    "too many weights": (
        "labels",
        lambda m: m.set_weights([*m.get_weights(), 1]),
        ValueError,
        "weights: got 5 arrays expected 4",
    ),
    "no list of weights": ("labels", lambda m: m.set_weights(5), TypeError, "weights: got 5"),
    "None for weights": ("labels", lambda m: m.set_weights(None), TypeError, "weights: got None"),
    "a weight transposed": (
        "labels",
        lambda m: m.set_weights([*m.get_weights()[:2], m.get_weights()[2].T, m.get_weights()[3]]),
        ValueError,
        "weights[2]: got shape (3, 4) expected shape (4, 3)",
    ),
    "a weight that broadcasts": (
        "labels",
        lambda m: m.set_weights([*m.get_weights()[:3], 0.0]),
        ValueError,
        "weights[3]: got shape () expected shape (3,)",
    ),
    "weights of NaN": (
        "labels",
        lambda m: m.set_weights([*m.get_weights()[:3], [NAN, 0, 0]]),
        ValueError,
        "weights[3]: got NaN expected finite",
    ),
    "weights too large for float32": (
        "labels",
        lambda m: m.set_weights([*m.get_weights()[:3], [1e300, 0, 0]]),
        ValueError,
        "weights[3]: got infinity expected finite",
    ),
    "weights of strings": (
        "labels",
        lambda m: m.set_weights([*m.get_weights()[:3], ["a", "b", "c"]]),
        ValueError,
        "weights[3]: got expected numbers of shape (3,)",
    ),
    "weights of other lengths": (
        "labels",
        lambda m: m.set_weights([[[1.0], [1.0, 2.0]], *m.get_weights()[1:]]),
        (TypeError, ValueError),
        "weights[0]: got expected numbers of shape (4, 4)",
    ),
    "too few gradients": (
        "labels",
        lambda m: m.apply_gradients(m.get_weights()[:3]),
        ValueError,
        "gradients: got 3 arrays expected 4",
    ),
    "what `gradients` returns, whole": (
        "labels",
        lambda m: m.apply_gradients(m.gradients(X, LABELS)),
        ValueError,
        "gradients: got 2 arrays expected 4",
    ),
    "gradients of NaN": (
        "labels",
        lambda m: m.apply_gradients([*m.get_weights()[:3], [NAN, 0, 0]]),
        ValueError,
        "gradients[3]: got NaN expected finite",
    ),
    "a gradient transposed": (
        "labels",
        lambda m: m.apply_gradients([*m.get_weights()[:2], m.get_weights()[2].T, m.get_weights()[3]]),
        ValueError,
        "gradients[2]: got shape (3, 4) expected shape (4, 3)",
    ),
    "save to a number": ("labels", lambda m: m.save(5), TypeError, "path: got 5 (int) expected a path"),
    "save to None": ("labels", lambda m: m.save(None), TypeError, "path: got None expected a path"),
    "save to a null character": ("labels", lambda m: m.save("a\0b"), ValueError, "path: got null character"),
    "ONNX to a number": ("labels", lambda m: m.to_onnx(5), TypeError, "path: got 5 (int) expected a path"),
    "resume nowhere": ("labels", lambda m: m.fit(X, LABELS, resume=""), ValueError, "resume: got '' expected a path"),
    "resume a null character": (
        "labels",
        lambda m: m.fit(X, LABELS, resume="a\0b"),
        ValueError,
        "resume: got null character",
    ),
    "save to nothing": ("labels", lambda m: m.save(""), ValueError, "path: got '' expected a path"),
    "save to the current folder": ("labels", lambda m: m.save("."), IsADirectoryError, "directory"),
    "save to the root": ("labels", lambda m: m.save("/"), IsADirectoryError, "directory '/'"),
    "save to no folder": ("labels", lambda m: m.save("no/such/folder"), FileNotFoundError, ""),
    "shuffle a word": (
        "labels",
        lambda m: m.fit(X, LABELS, shuffle="no"),
        TypeError,
        "shuffle: got 'no' True or False",
    ),
    "training a word": ("labels", lambda m: m.gradients(X, LABELS, training="x"), TypeError, "training: got 'x' True"),
    "dropout a word": ("labels", lambda m: m.predict(X, training="x"), TypeError, "training: got 'x' True"),
    "outputs in training of a stream": (
        "labels",
        lambda m: m.predict(fastnn.stream(X), training=True),
        TypeError,
        "x: got a Stream training=True expected rows in memory",
    ),
    "clone a word": ("labels", lambda m: m.clone(weights="x"), TypeError, "weights: got 'x' True or False"),
    "no callback": (
        "labels",
        lambda m: m.fit(X, LABELS, callbacks=[None]),
        TypeError,
        "callbacks[0]: got None Callback",
    ),
    "outputs of words": ("labels", lambda m: m.layer_outputs("x"), TypeError, "x: got strings"),
    "outputs of another width": (
        "labels",
        lambda m: m.layer_outputs(X[:, :2]),
        ValueError,
        "x: got 2 inputs expected 4",
    ),
    "a view of gigabytes": (
        "labels",
        lambda m: m.predict(np.broadcast_to(np.float32(1), (2, 10**9))),
        ValueError,
        "x: got 1000000000 inputs expected 4",
    ),
}
# Every method that takes samples, targets or weights refuses the same ones.
METHODS = {
    "fit": lambda m, x, y, **more: m.fit(x, y, epochs=1, **more),
    "evaluate": lambda m, x, y, **more: m.evaluate(x, y, **more),
    "train_on_batch": lambda m, x, y, **more: m.train_on_batch(x, y, **more),
    "gradients": lambda m, x, y, **more: m.gradients(x, y, **more),
}
X_ONLY = {
    "predict": lambda m, x: m.predict(x),
    "predict_proba": lambda m, x: m.predict_proba(x),
    "predict_class": lambda m, x: m.predict_class(x),
    "predict in training": lambda m, x: m.predict(x, training=True),
    "backward": lambda m, x: m.backward(x, np.ones((ROWS, CLASSES))),
}
RIGHT = {"labels": LABELS, "values": T, "chances": CHANCES}


def table():
    """Every row: (kind of model, call, error, words)."""
    for name, (value, error, words) in SAMPLES.items():
        for method, call in METHODS.items():
            yield f"{method}: x {name}", ("labels", lambda m, c=call, v=value: c(m, v, LABELS), error, words)
        for method, call in X_ONLY.items():
            yield f"{method}: x {name}", ("labels", lambda m, c=call, v=value: c(m, v), error, words)
    for name, (kind, value, error, words) in Y.items():
        for method, call in METHODS.items():
            yield f"{method}: y {name}", (kind, lambda m, c=call, v=value: c(m, X, v), error, words)
    for name, (value, error, words) in WEIGHTS.items():
        for method, call in METHODS.items():
            bad = {"sample_weight": value}
            yield f"{method}: weight {name}", ("labels", lambda m, c=call, b=bad: c(m, X, LABELS, **b), error, words)
    for name, (value, error, words) in CLASS_WEIGHTS.items():
        for method in ("fit", "train_on_batch"):
            call, bad = METHODS[method], {"class_weight": value}
            yield (
                f"{method}: class weight {name}",
                ("labels", lambda m, c=call, b=bad: c(m, X, LABELS, **b), error, words),
            )
    yield from CALLS.items()


TABLE = dict(table())


def check_words(message, words):
    for word in words.split():
        assert word in message, f"{word!r} is missing in {message!r}"
    assert "\n" not in message


@pytest.fixture(scope="module")
def models():
    return {kind: model_for(kind) for kind in RIGHT}


@pytest.mark.parametrize("case", TABLE)
def test_a_bad_call_says_so_and_changes_nothing(case, models):
    kind, call, error, words = TABLE[case]
    model = models[kind].clone()
    before = training_state(model)
    with pytest.raises(error) as caught:
        call(model)
    check_words(str(caught.value), words)
    assert training_state(model) == before


@pytest.mark.parametrize("kind", RIGHT)
def test_the_good_call_beside_the_bad_ones(kind, models):
    """What the table's calls have in common is right: every one of its errors is from what it changed."""
    model = models[kind].clone()
    before = training_state(model)
    for call in METHODS.values():
        call(model, X, RIGHT[kind], sample_weight=np.ones(ROWS))
    assert training_state(model) != before
    if kind == "labels":
        for call in X_ONLY.values():
            call(model, X)
        for weights in ("balanced", {1: 2.0}, [1, 2, 3]):
            model.fit(X, LABELS, epochs=1, class_weight=weights)


# ------------------------------------------------------------------------ a model without weights stays so

UNBUILT = [case for case in TABLE if case.startswith("fit: ") and "width" not in case and "another size" not in case]


@pytest.mark.parametrize("case", UNBUILT)
def test_a_bad_first_fit_builds_nothing(case):
    kind, call, error, _ = TABLE[case]
    loss = {"labels": "cross_entropy", "values": "squared_error", "chances": "binary_cross_entropy"}[kind]
    units = CLASSES if kind == "labels" else VALUES
    model = Sequential([Dense(4), Dense(units)], loss, seed=1)
    with pytest.raises(error):
        call(model)
    with pytest.raises(ValueError, match="no weights yet"):
        model.get_weights()
    model.fit(X[:, :2], RIGHT[kind], epochs=1)  # and takes another width then
    assert model.step == 1


def test_calls_that_need_weights_say_so():
    model = Sequential([Dense(3)], "cross_entropy")
    calls = [
        lambda: model.predict(X),
        lambda: model.evaluate(X, LABELS),
        lambda: model.backward(X, np.ones((ROWS, 3))),
        model.get_weights,
        lambda: model.set_weights([]),
        lambda: model.save("nowhere"),
        model.penalty,
    ]
    for call in calls:
        with pytest.raises(ValueError, match="model: has no weights yet, expected a call of fit, build or input_size="):
            call()


# --------------------------------------------------------------------------------- layers, losses, settings

CONSTRUCTORS = {
    "units 0": (lambda: Dense(0), ValueError, "units: got 0 integer >= 1"),
    "units negative": (lambda: Dense(-3), ValueError, "units: got -3 integer >= 1"),
    "units 2.5": (lambda: Dense(2.5), TypeError, "units: got 2.5 integer >= 1"),
    "units a word": (lambda: Dense("10"), TypeError, "units: got '10' str integer >= 1"),
    "units True": (lambda: Dense(True), TypeError, "units: got True bool integer"),
    "units a tuple": (lambda: Dense((4, 5)), TypeError, "units: got (4, 5) tuple integer"),
    "activation rleu": (lambda: Dense(3, "rleu"), ValueError, "activation: got 'rleu' expected 'relu' mean 'relu'?"),
    "activation a function": (
        lambda: Dense(3, math.tanh),
        (TypeError, ValueError),
        "activation: got tanh expected 'tanh'",
    ),
    "activation layer unknown": (lambda: Activation("sofmax"), ValueError, "activation: got 'sofmax' mean 'softmax'?"),
    "initializer an array": (
        lambda: Dense(3, kernel_initializer=np.zeros((2, 3))),
        ValueError,
        "kernel_initializer: got array expected one of 'auto'",
    ),
    "initializer unknown": (
        lambda: Dense(3, kernel_initializer="he_norm"),
        ValueError,
        "kernel_initializer: got 'he_norm' 'auto' mean 'he_normal'?",
    ),
    "layer l1 negative": (lambda: Dense(3, l1=-0.1), ValueError, "l1: got -0.1 number >= 0"),
    "layer l2 NaN": (lambda: Dense(3, l2=NAN), ValueError, "l2: got nan number >= 0"),
    "layer l2 a word": (lambda: Dense(3, l2="small"), TypeError, "l2: got 'small' number >= 0"),
    "an unknown initializer": (
        lambda: fastnn.Initializer("he_norm"),
        ValueError,
        "initializer: got 'he_norm' mean 'he_normal'?",
    ),
    "rate 1": (lambda: Dropout(1.0), ValueError, "rate: got 1.0 [0, 1)"),
    "rate negative": (lambda: Dropout(-0.1), ValueError, "rate: got -0.1 [0, 1)"),
    "rate in percent": (lambda: Dropout(20), ValueError, "rate: got 20 [0, 1)"),
    "rate NaN": (lambda: Dropout(NAN), ValueError, "rate: got nan [0, 1)"),
    "rate a word": (lambda: Dropout("0.2"), TypeError, "rate: got '0.2' number"),
    "scale a word": (lambda: Rescale("1/255"), ValueError, "scale: got '1/255' number"),
    "scale NaN": (lambda: Rescale(NAN), ValueError, "scale: got nan finite number"),
    "scale of two dimensions": (lambda: Rescale(np.ones((2, 2))), ValueError, "scale: got number"),
    "scale empty": (lambda: Rescale([]), ValueError, "scale: got [] number"),
    "offset None": (lambda: Rescale(1.0, None), (TypeError, ValueError), "offset: got None number"),
    "no layers": (lambda: Sequential([], "huber"), ValueError, "layers: got an empty list expected at least one layer"),
    "one layer": (lambda: Sequential(Dense(3), "huber"), TypeError, "layers: got Dense expected a list of layers"),
    "layers a word": (lambda: Sequential("dense", "huber"), TypeError, "layers: got str expected a list of layers"),
    "layers None": (lambda: Sequential(None, "huber"), TypeError, "layers: got NoneType expected a list of layers"),
    "a number for a layer": (
        lambda: Sequential([Dense(3), 10], "huber"),
        TypeError,
        "layers[1]: got 10 int such as Dense(10)",
    ),
    "a class for a layer": (lambda: Sequential([Dense], "huber"), TypeError, "layers[0]: got Dense such as Dense(10)"),
    "Rescale behind": (
        lambda: Sequential([Dense(3), Rescale(2.0)], "huber"),
        ValueError,
        "layers: got Rescale layer 1 expected first",
    ),
    "softmax inside": (
        lambda: Sequential([Dense(3, "softmax"), Dense(3)], "cross_entropy"),
        ValueError,
        "layers: got softmax layer 0 expected last",
    ),
    "sigmoid under cross entropy": (
        lambda: Sequential([Dense(3, "sigmoid")], "cross_entropy"),
        ValueError,
        "layers: got 'sigmoid' 'cross_entropy' expected 'softmax' logits",
    ),
    "softmax under binary": (
        lambda: Sequential([Dense(3, "softmax")], "binary_cross_entropy"),
        ValueError,
        "layers: got 'softmax' 'binary_cross_entropy' expected 'sigmoid' logits",
    ),
    "loss unknown": (lambda: Sequential([Dense(3)], "mse"), ValueError, "loss: got 'mse' expected 'squared_error'"),
    "loss misspelt": (
        lambda: Sequential([Dense(3)], "crossentropy"),
        ValueError,
        "loss: got 'crossentropy' mean 'cross_entropy'?",
    ),
    "loss None": (lambda: Sequential([Dense(3)], None), ValueError, "loss: got None expected 'squared_error'"),
    "loss a class": (lambda: Sequential([Dense(3)], fastnn.Huber), (TypeError, ValueError), "loss: got Huber"),
    "loss a function": (
        lambda: Sequential([Dense(3)], math.hypot),
        TypeError,
        "loss: got hypot expected 'squared_error' backward and apply_gradients",
    ),
    "optimizer a schedule": (
        lambda: Sequential([Dense(3)], "huber", fastnn.Cosine(1e-3, 5)),
        TypeError,
        "optimizer: got Cosine expected an optimizer with this schedule: Adam(schedule)",
    ),
    "optimizer unknown": (
        lambda: Sequential([Dense(3)], "huber", "adamm"),
        ValueError,
        "optimizer: got 'adamm' expected 'sgd' mean 'adam'?",
    ),
    "optimizer a number": (lambda: Sequential([Dense(3)], "huber", 0.1), ValueError, "optimizer: got 0.1 'sgd'"),
    "optimizer a class": (
        lambda: Sequential([Dense(3)], "huber", fastnn.Adam),
        (TypeError, ValueError),
        "optimizer: got Adam",
    ),
    "seed negative": (lambda: Sequential([Dense(3)], "huber", seed=-1), ValueError, "seed: got -1 integer [0,"),
    "seed too large": (
        lambda: Sequential([Dense(3)], "huber", seed=2**64),
        ValueError,
        "seed: got 18446744073709551616 integer",
    ),
    "seed 1.5": (lambda: Sequential([Dense(3)], "huber", seed=1.5), TypeError, "seed: got 1.5 integer"),
    "seed None": (lambda: Sequential([Dense(3)], "huber", seed=None), TypeError, "seed: got None integer"),
    "dtype float16": (
        lambda: Sequential([Dense(3)], "huber", dtype="float16"),
        ValueError,
        "dtype: got 'float16' 'float32' 'float64'",
    ),
    "dtype int": (
        lambda: Sequential([Dense(3)], "huber", dtype=int),
        ValueError,
        "dtype: got 'int64' 'float32' 'float64'",
    ),
    "dtype a word": (
        lambda: Sequential([Dense(3)], "huber", dtype="single!"),
        ValueError,
        "dtype: got 'single!' 'float32'",
    ),
    "no threads": (lambda: Sequential([Dense(3)], "huber", n_threads=0), ValueError, "n_threads: got 0 integer >= 1"),
    "threads a word": (
        lambda: Sequential([Dense(3)], "huber", n_threads="all"),
        TypeError,
        "n_threads: got 'all' integer",
    ),
    "l1 negative": (lambda: Sequential([Dense(3)], "huber", l1=-1.0), ValueError, "l1: got -1.0 number >= 0"),
    "l2 infinite": (lambda: Sequential([Dense(3)], "huber", l2=INF), ValueError, "l2: got inf finite number >= 0"),
    "l1_mode unknown": (
        lambda: Sequential([Dense(3)], "huber", l1_mode="truncated"),
        ValueError,
        "l1_mode: got 'truncated' 'gradient' mean 'truncate'?",
    ),
    "input_size 0": (
        lambda: Sequential([Dense(3)], "huber", input_size=0),
        ValueError,
        "input_size: got 0 integer >= 1",
    ),
    "input_size a shape": (
        lambda: Sequential([Dense(3)], "huber", input_size=(28, 28)),
        TypeError,
        "input_size: got (28, 28) integer",
    ),
    "another scale than inputs": (
        lambda: Sequential([Rescale([1.0, 2.0]), Dense(3)], "huber", input_size=3),
        ValueError,
        "scale: got 2 numbers expected 3 inputs",
    ),
    "lr negative": (lambda: fastnn.SGD(-0.1), ValueError, "lr: got -0.1 number > 0"),
    "lr 0": (lambda: fastnn.Adam(0.0), ValueError, "lr: got 0.0 number > 0"),
    "lr NaN": (lambda: fastnn.AdaGrad(NAN), ValueError, "lr: got nan number > 0"),
    "lr infinite": (lambda: fastnn.SGD(INF), ValueError, "lr: got inf finite number > 0"),
    "lr a word": (lambda: fastnn.RMSprop("fast"), TypeError, "lr: got 'fast' str number > 0"),
    "lr None": (lambda: fastnn.SGD(None), TypeError, "lr: got None number > 0"),
    "lr a class": (lambda: fastnn.SGD(fastnn.Cosine), TypeError, "lr: got the class Cosine expected an instance"),
    "momentum 1": (lambda: fastnn.SGD(0.1, momentum=1.0), ValueError, "momentum: got 1.0 [0, 1)"),
    "momentum of RMSprop": (lambda: fastnn.RMSprop(0.1, momentum=-0.1), ValueError, "momentum: got -0.1 [0, 1)"),
    "Nesterov alone": (lambda: fastnn.SGD(0.1, nesterov=True), ValueError, "nesterov: got True momentum > 0"),
    "alpha 1": (lambda: fastnn.RMSprop(alpha=1.0), ValueError, "alpha: got 1.0 [0, 1)"),
    "one beta": (lambda: fastnn.Adam(betas=0.9), ValueError, "betas: got 0.9 two numbers"),
    "three betas": (lambda: fastnn.Adam(betas=(0.9, 0.9, 0.9)), ValueError, "betas: got (0.9, 0.9, 0.9) two numbers"),
    "beta 1": (lambda: fastnn.AdamW(betas=(0.9, 1.0)), ValueError, "betas: got 1.0 [0, 1)"),
    "eps negative": (lambda: fastnn.Adam(eps=-1e-8), ValueError, "eps: got -1e-08 number >= 0"),
    "eps of AdamW negative": (lambda: fastnn.AdamW(eps=-1e-8), ValueError, "eps: got -1e-08 number >= 0"),
    "decay negative": (lambda: fastnn.AdamW(weight_decay=-0.1), ValueError, "weight_decay: got -0.1 number >= 0"),
    "clip_norm 0": (lambda: fastnn.SGD(0.1, clip_norm=0.0), ValueError, "clip_norm: got 0.0 number > 0"),
    "clip_value negative": (lambda: fastnn.Adam(clip_value=-1.0), ValueError, "clip_value: got -1.0 number > 0"),
    "clip_value a word": (lambda: fastnn.Adam(clip_value="x"), TypeError, "clip_value: got 'x' number > 0"),
    "delta 0": (lambda: fastnn.Huber(0.0), ValueError, "delta: got 0.0 number > 0"),
    "patience negative": (lambda: fastnn.EarlyStopping(patience=-1), ValueError, "patience: got -1 integer >= 0"),
    "patience 1.5": (lambda: fastnn.EarlyStopping(patience=1.5), TypeError, "patience: got 1.5 integer >= 0"),
    "min_delta negative": (lambda: fastnn.EarlyStopping(min_delta=-1), ValueError, "min_delta: got -1 number >= 0"),
    "mode unknown": (
        lambda: fastnn.EarlyStopping(mode="minimum"),
        ValueError,
        "mode: got 'minimum' 'auto', 'min', 'max'",
    ),
    "monitor a number": (lambda: fastnn.EarlyStopping(5), TypeError, "monitor: got 5 name"),
    "no function": (lambda: fastnn.LambdaCallback(None), TypeError, "on_epoch_end: got None function (epoch, logs)"),
    "no flag": (lambda: fastnn.EarlyStopping(restore_best_weights=None), TypeError, "restore_best_weights: None True"),
    "best of a number": (lambda: fastnn.Checkpoint("m", save_best_only=2), TypeError, "save_best_only: got 2 True"),
    "every 0": (lambda: fastnn.Checkpoint("m", every=0), ValueError, "every: got 0 integer >= 1"),
}


FUNCTIONS = {
    "load None": (lambda: fastnn.load(None), TypeError, "path: got None expected a path"),
    "load a number": (lambda: fastnn.load(5.5), TypeError, "path: got 5.5 (float) expected a path"),
    "load a descriptor": (lambda: fastnn.load(0), TypeError, "path: got 0 (int) expected a path"),
    "load a list": (lambda: fastnn.load(["m"]), TypeError, "path: got ['m'] (list) expected a path"),
    "load a null character": (lambda: fastnn.load("a\0b"), ValueError, "path: got null character"),
    "load with another precision": (
        lambda: fastnn.load("m", matmul_precision="fp8"),
        ValueError,
        "matmul_precision: got 'fp8' 'bf16'",
    ),
    "load on a tape": (lambda: fastnn.load("m", device="tape"), ValueError, "device: got 'tape' 'cpu'"),
    "latest_checkpoint nowhere": (lambda: fastnn.latest_checkpoint(""), ValueError, "folder: got '' expected a path"),
    "latest_checkpoint None": (lambda: fastnn.latest_checkpoint(None), TypeError, "folder: got None expected a path"),
    "a picture to a number": (
        lambda: fastnn.plotting.plot_history({"loss": [1.0]}, 5),
        TypeError,
        "path: got 5 (int) expected a path",
    ),
    "read_table None": (lambda: read_table(None), TypeError, "path: got None expected a path"),
    "table_file None": (lambda: table_file(None), TypeError, "path: got None expected a path"),
    "load nothing": (lambda: fastnn.load(""), ValueError, "path: got '' expected a path"),
    "warmup of a number": (lambda: fastnn.warmup(5), TypeError, "dtypes: got int expected 'float32'"),
    "warmup of None": (lambda: fastnn.warmup(None), TypeError, "dtypes: got NoneType expected 'float32'"),
    "warmup of float16": (lambda: fastnn.warmup("float16"), ValueError, "dtypes: got 'float16' 'float32'"),
    "warmup of numbers": (lambda: fastnn.warmup([32]), ValueError, "dtypes: got 32 'float32'"),
    "load_idx None": (lambda: fastnn.load_idx(None), TypeError, "path: got None expected a path"),
    "load_idx a number": (lambda: fastnn.load_idx(5.0), TypeError, "path: got 5.0 (float) expected a path"),
    "load_idx_dir None": (lambda: fastnn.load_idx_dir(None), TypeError, "directory: got None expected a path"),
    "load_idx_dir nowhere": (
        lambda: fastnn.load_idx_dir("nowhere"),
        FileNotFoundError,
        "directory: got nowhere folder",
    ),
    "load_idx_dir a file": (lambda: fastnn.load_idx_dir(__file__), FileNotFoundError, "directory: is no folder"),
    "stream None": (lambda: fastnn.stream(None), TypeError, "data: got NoneType expected paths"),
    "stream a number": (lambda: fastnn.stream(5), TypeError, "data: got int expected paths"),
    "stream a mapping": (lambda: fastnn.stream({"a": 1}), TypeError, "data: got dict expected paths"),
    "stream numbers": (lambda: fastnn.stream([1, 2]), TypeError, "data: got list expected paths"),
    "stream an empty list": (lambda: fastnn.stream([]), ValueError, "data: got an empty list"),
    "stream of no file": (lambda: fastnn.stream("nowhere"), FileNotFoundError, "nowhere"),
    "stream 0-d": (lambda: fastnn.stream(np.array(1.0)), ValueError, "data: got float64 of shape ()"),
    "stream 1-d": (lambda: fastnn.stream(X[0]), ValueError, "data: got float64 of shape (4,) expected (rows, inputs)"),
    "stream of no rows": (lambda: fastnn.stream(X[:0]), ValueError, "data: got float64 of shape (0, 4)"),
    "stream objects": (lambda: fastnn.stream(X.astype(object)), ValueError, "data: got object expected numbers"),
    "stream complex": (lambda: fastnn.stream(X.astype(complex)), ValueError, "data: got complex128 expected numbers"),
    "stream target": (lambda: fastnn.stream(X, LABELS[:3]), ValueError, "target: got shape (3,) expected 12 rows"),
    "stream target 0-d": (lambda: fastnn.stream(X, np.array(1)), ValueError, "target: got shape () expected 12 rows"),
    "stream weight": (
        lambda: fastnn.stream(X, LABELS, sample_weight=np.ones(3)),
        ValueError,
        "sample_weight: got shape (3,) expected 12 rows",
    ),
    "stream features": (lambda: fastnn.stream(X, features=["a"]), ValueError, "features: got names for an array"),
    "stream block_rows 0": (lambda: fastnn.stream(X, block_rows=0), ValueError, "block_rows: got 0 integer >= 1"),
    "stream block_rows 1.5": (lambda: fastnn.stream(X, block_rows=1.5), TypeError, "block_rows: got 1.5 integer"),
    "stream buffer_rows": (lambda: fastnn.stream(X, buffer_rows="x"), TypeError, "buffer_rows: got 'x' integer >= 1"),
    "stream a block of more than a buffer": (
        lambda: fastnn.stream(X, block_rows=9, buffer_rows=3),
        ValueError,
        "block_rows: got 9 at most 3",
    ),
    "from_torch None": (lambda: fastnn.from_torch(None), (TypeError, ImportError), ""),
    "from_sklearn None": (lambda: fastnn.from_sklearn(None), (TypeError, ImportError), ""),
    "gain 0": (lambda: fastnn.Initializer("he_normal", 0.0), ValueError, "gain: got 0.0 number > 0"),
    "gain a word": (lambda: fastnn.Initializer("he_normal", "x"), TypeError, "gain: got 'x' number > 0"),
    "gain NaN": (lambda: fastnn.Initializer("he_normal", NAN), ValueError, "gain: got nan"),
    "initializer None": (lambda: fastnn.Initializer(None), ValueError, "initializer: got None 'he_normal'"),
    "initializer a list": (lambda: fastnn.Initializer([1]), ValueError, "initializer: got [1] 'he_normal'"),
    "flow rows 1": (lambda: fastnn.GradientFlow(rows=1), ValueError, "rows: got 1 integer >= 2"),
    "flow rows a word": (lambda: fastnn.GradientFlow(rows="x"), TypeError, "rows: got 'x' integer"),
    "flow every 0": (lambda: fastnn.GradientFlow(every=0), ValueError, "every: got 0 integer >= 1"),
    "flow verbose": (lambda: fastnn.GradientFlow(verbose="x"), TypeError, "verbose: got 'x' True or False"),
    "flow without fit": (lambda: fastnn.GradientFlow().diagnosis(), ValueError, "has measured nothing yet"),
    "flow summary without fit": (lambda: fastnn.GradientFlow().summary(), ValueError, "has measured nothing yet"),
    "checkpoint without a name": (lambda: fastnn.Checkpoint(b""), ValueError, "path: got '' expected a path"),
    "checkpoint nowhere": (lambda: fastnn.Checkpoint(None), TypeError, "path: got None (NoneType) expected a path"),
    "tensorboard frequency": (
        lambda: fastnn.TensorBoard("x", histogram_freq=-1),
        ValueError,
        "histogram_freq: got -1 integer >= 0",
    ),
    "constant 0": (lambda: fastnn.Constant(0), ValueError, "lr: got 0 number > 0"),
    "constant a word": (lambda: fastnn.Constant("x"), TypeError, "lr: got 'x' number > 0"),
    "step decay every 0": (lambda: fastnn.StepDecay(0.1, 0.5, every=0), ValueError, "every: got 0 integer >= 1"),
    "step decay unit": (lambda: fastnn.StepDecay(0.1, 0.5, every=1, unit="batch"), ValueError, "unit: got 'batch'"),
    "exponential": (lambda: fastnn.Exponential(0.1, -1), ValueError, "decay: got -1 number > 0"),
    "exponential of NaN": (lambda: fastnn.Exponential(NAN, 0.9), ValueError, "lr: got nan number > 0"),
    "inverse time": (lambda: fastnn.InverseTime(0.1, -1), ValueError, "decay: got -1 number > 0"),
    "cosine steps": (lambda: fastnn.Cosine(0.1, steps=0), ValueError, "steps: got 0 integer >= 1"),
    "cosine final": (lambda: fastnn.Cosine(0.1, steps=3, final=-1), ValueError, "final: got -1 number >= 0"),
    "plateau lr": (lambda: fastnn.ReduceOnPlateau(-0.1), ValueError, "lr: got -0.1 number > 0"),
    "plateau patience": (lambda: fastnn.ReduceOnPlateau(0.1, patience=-1), ValueError, "patience: got -1 integer >= 0"),
    "plateau factor": (lambda: fastnn.ReduceOnPlateau(0.1, factor=1.0), ValueError, "factor: got 1.0 (0, 1)"),
    "plateau mode": (lambda: fastnn.ReduceOnPlateau(0.1, mode="x"), ValueError, "mode: got 'x' 'min'"),
    "plateau monitor": (lambda: fastnn.ReduceOnPlateau(0.1, monitor=5), TypeError, "monitor: got 5 name"),
    "warm-up steps": (lambda: fastnn.Warmup(0.1, steps=0), ValueError, "steps: got 0 integer >= 1"),
    "warm-up of a word": (lambda: fastnn.Warmup("x", steps=3), TypeError, "lr: got 'x' number > 0"),
    "two warm-ups": (lambda: fastnn.Warmup(fastnn.Warmup(0.1, steps=1), steps=1), ValueError, "schedule: got Warmup"),
    "delta a word": (lambda: fastnn.Huber("x"), TypeError, "delta: got 'x' number > 0"),
    "delta NaN": (lambda: fastnn.Huber(NAN), ValueError, "delta: got nan number > 0"),
    "delta None": (lambda: fastnn.Huber(None), TypeError, "delta: got None number > 0"),
    "use_bias a word": (lambda: Dense(3, use_bias="no"), TypeError, "use_bias: got 'no' True or False"),
    "use_bias None": (lambda: Dense(3, use_bias=None), TypeError, "use_bias: got None True or False"),
    "rate True": (lambda: Dropout(True), TypeError, "rate: got True number"),
    "rate None": (lambda: Dropout(None), TypeError, "rate: got None number"),
    "scale None": (lambda: Rescale(None), ValueError, "scale: got None number"),
    "scale an object": (lambda: Rescale(object()), ValueError, "scale: got object number"),
    "offset infinite": (lambda: Rescale(1.0, INF), ValueError, "offset: got inf number"),
    "activation 5": (lambda: Activation(5), ValueError, "activation: got 5 'relu'"),
    "a huge layer": (
        lambda: Sequential([Dense(10**18)], "huber", input_size=10**6),
        ValueError,
        "layers: got parameters expected at most",
    ),
    "a layer of no size": (
        lambda: Sequential([Dense(10**30)], "huber", input_size=3),
        ValueError,
        "layers: got parameters expected at most",
    ),
    "nesterov a word": (
        lambda: fastnn.SGD(0.1, momentum=0.9, nesterov="yes"),
        TypeError,
        "nesterov: got 'yes' True or False",
    ),
    "centered None": (lambda: fastnn.RMSprop(centered=None), TypeError, "centered: got None True or False"),
    "centered NaN": (lambda: fastnn.RMSprop(centered=NAN), TypeError, "centered: got nan True or False"),
    "amsgrad 1.0": (lambda: fastnn.Adam(amsgrad=1.0), TypeError, "amsgrad: got 1.0 True or False"),
    "eps_inside_sqrt": (
        lambda: fastnn.AdaGrad(eps_inside_sqrt="x"),
        TypeError,
        "eps_inside_sqrt: got 'x' True or False",
    ),
    "clip_norm NaN": (lambda: fastnn.SGD(0.1, clip_norm=NAN), ValueError, "clip_norm: got nan number > 0"),
    "lr beyond any float": (lambda: fastnn.SGD(10**400), ValueError, "lr: got finite number > 0"),
    "betas None": (lambda: fastnn.Adam(betas=None), ValueError, "betas: got None two numbers"),
    "betas words": (lambda: fastnn.Adam(betas=("a", "b")), TypeError, "betas: got 'a' [0, 1)"),
    "device a tape": (lambda: Sequential([Dense(3)], "huber", device="tape"), ValueError, "device: got 'tape' 'cpu'"),
    "device 5": (lambda: Sequential([Dense(3)], "huber", device=5), ValueError, "device: got 5 'cpu'"),
    "matmul_precision high": (
        lambda: Sequential([Dense(3)], "huber", matmul_precision="high"),
        ValueError,
        "matmul_precision: got 'high' 'tf32'",
    ),
    "matmul_precision a list": (
        lambda: Sequential([Dense(3)], "huber", matmul_precision=["tf32"]),
        ValueError,
        "matmul_precision: got ['tf32']",
    ),
    "matmul_precision on the CPU": (
        lambda: Sequential([Dense(3)], "huber", matmul_precision="tf32"),
        ValueError,
        "matmul_precision: got 'tf32' device='cpu' 'float32'",
    ),
    "check_finite": (
        lambda: Sequential([Dense(3)], "huber", check_finite="yes"),
        TypeError,
        "check_finite: got 'yes' True or False",
    ),
    "threads 2.0": (lambda: Sequential([Dense(3)], "huber", n_threads=2.0), TypeError, "n_threads: got 2.0 integer"),
    "model l1 a word": (lambda: Sequential([Dense(3)], "huber", l1="x"), TypeError, "l1: got 'x' number >= 0"),
    "dtype an object": (lambda: Sequential([Dense(3)], "huber", dtype=object()), ValueError, "dtype: got 'float32'"),
    "no such kernel": (lambda: fastnn.MLPCLassifier, AttributeError, "no attribute 'MLPCLassifier'"),
}
CONSTRUCTORS |= FUNCTIONS


@pytest.mark.parametrize("case", CONSTRUCTORS)
def test_a_bad_argument_of_a_constructor(case):
    make, error, words = CONSTRUCTORS[case]
    with pytest.raises(error) as caught:
        make()
    check_words(str(caught.value), words)


def test_a_scale_of_another_length_is_found_before_anything_is_built():
    model = Sequential([Rescale([1.0, 2.0]), Dense(CLASSES)], "cross_entropy")
    with pytest.raises(ValueError, match="scale: got 2 numbers, expected one, or one for each of the 4 inputs"):
        model.fit(X, LABELS)
    model.fit(X[:, :2], LABELS, epochs=1)
    assert model.step == 1


# --------------------------------------------------------------------------------- what is switched off


def test_check_finite_off_lets_them_through():
    model = Sequential([Dense(CLASSES)], "cross_entropy", check_finite=False, input_size=INPUTS)
    out = model.predict(with_value(X, ROW_3, NAN))
    assert np.isnan(out[3]).all()
    assert np.isfinite(np.delete(out, 3, axis=0)).all()
    with pytest.raises(ValueError, match="whole class labels"):  # a label is an index: never unchecked
        model.fit(X, with_value(LABELS, 5, NAN))


def test_integers_at_the_ends_of_their_types():
    for dtype in (np.int64, np.uint64, np.int8):
        extreme = np.full((2, INPUTS), np.iinfo(dtype).max, dtype)
        model = Sequential([Dense(1)], "squared_error", input_size=INPUTS)
        want = extreme.astype(np.float32).astype(np.float64) @ model.get_weights()[0].astype(np.float64)
        np.testing.assert_allclose(model.predict(extreme), want, rtol=1e-4)
    model, labels = Sequential([Dense(3)], "cross_entropy"), np.full(ROWS, 2**64 - 1, np.uint64)
    with pytest.raises(ValueError, match="y: got label 18446744073709551615 in row 0, expected 0 to 2"):
        model.fit(X, labels)


@pytest.mark.parametrize("last", [None, "softmax"])
@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, 1)])
@pytest.mark.parametrize("dtype", [int, float, bool])
def test_one_unit_under_cross_entropy_knows_one_class(last, shape, dtype):
    """Its softmax is 1 whatever it learns: with the labels of two classes its loss would be 0, its accuracy 1."""
    message = r"^y: got label 1 in row 1, expected 0 alone for the one unit .*: two classes take 2, or 'binary_cross_"
    with pytest.raises(ValueError, match=message):
        Sequential([Dense(1, last)], "cross_entropy").fit(X, (np.arange(ROWS) % 2).astype(dtype).reshape(shape))
