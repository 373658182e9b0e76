"""What users hand in: frames, sparse matrices, tensors and the like train as the array of their numbers does."""

from __future__ import annotations

import tracemalloc
import warnings

import numpy as np
import pytest
from support import training_state

import fastnn
from fastnn import Dense, Sequential
from fastnn.sparse import SparseData

pytestmark = pytest.mark.usefixtures("one_thread")

rng = np.random.default_rng(3)
X = rng.normal(size=(40, 3))
COUNTS = rng.integers(-5, 6, size=40)
LABELS = rng.integers(0, 3, size=40)
NAMES = ["age", "height", "weight"]


def trained(x, y=LABELS, **more):
    model = Sequential([Dense(5, "tanh"), Dense(3)], "cross_entropy", seed=4)
    model.fit(x, y, epochs=2, batch_size=7, **more)
    return training_state(model), model


def pandas_frame(columns):
    return pytest.importorskip("pandas").DataFrame(columns)


def polars_frame(columns):
    return pytest.importorskip("polars").DataFrame(columns)


def arrow_table(columns):
    return pytest.importorskip("pyarrow").table(columns)


def arrow_batch(columns):
    return pytest.importorskip("pyarrow").record_batch(columns)


FRAMES = [pandas_frame, polars_frame, arrow_table, arrow_batch]


def message_of(call, error=(TypeError, ValueError)):
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------ frames


@pytest.mark.parametrize("frame", FRAMES)
def test_a_frame_trains_as_its_numbers_do(frame):
    x = frame(dict(zip(NAMES, X.T, strict=True)))
    want, model = trained(X)
    assert trained(x)[0] == want
    np.testing.assert_array_equal(model.predict(x), model.predict(X))
    assert model.evaluate(x, LABELS) == model.evaluate(X, LABELS)


@pytest.mark.parametrize("frame", FRAMES)
def test_labels_and_weights_as_columns_and_frames(frame):
    weights = rng.uniform(size=40)
    want = trained(X, sample_weight=weights)[0]
    table = frame({"y": LABELS, "w": weights})
    assert trained(X, table["y"], sample_weight=table["w"])[0] == want
    assert trained(X, frame({"y": LABELS}), sample_weight=weights)[0] == want


@pytest.mark.parametrize("frame", FRAMES)
def test_columns_of_several_types(frame):
    """Integers, floats and booleans together; the numbers are what counts, whatever NumPy's common type is."""
    columns = {"a": COUNTS.astype(np.int8), "b": X[:, 0], "c": LABELS > 1, "d": COUNTS.astype(np.float32)}
    want = trained(np.column_stack(list(columns.values())))[0]
    assert trained(frame(columns))[0] == want


@pytest.mark.parametrize("frame", FRAMES)
def test_bytes_stay_bytes(frame):
    pixels = rng.integers(0, 256, size=(40, 3)).astype(np.uint8)
    samples, bytes_ = fastnn.arrays.as_samples(
        "x", frame(dict(zip(NAMES, pixels.T, strict=True))), None, np.dtype("float32"), True
    )
    assert samples.size == 0
    np.testing.assert_array_equal(bytes_, pixels)
    assert bytes_.dtype == np.uint8
    assert bytes_.flags.c_contiguous


@pytest.mark.parametrize("frame", FRAMES)
def test_text_is_refused_by_its_column(frame):
    x = frame({"age": X[:, 0], "city": np.array(["Rome", "Oslo"] * 20)})
    message = message_of(lambda: trained(x), TypeError)
    for words in (
        "x: got column 'city' of String",
        "expected numbers of shape (rows, inputs)",
        "encode",
        "leave it out",
    ):
        assert words in message
    labels = frame({"y": np.array(["yes", "no"] * 20)})
    what = "a column" if frame in (arrow_table, arrow_batch) else "column 'y'"  # Arrow's bare columns have no name
    message = message_of(lambda: trained(X, labels["y"]), TypeError)
    assert (
        f"y: got {what} of String, expected class labels 0 to 2; numpy.unique(y, return_inverse=True) gives" in message
    )


def test_decimals_are_refused_by_their_column():
    pyarrow = pytest.importorskip("pyarrow")
    x = arrow_table({"age": X[:, 0], "price": pyarrow.array(COUNTS).cast(pyarrow.decimal128(38, 2))})
    message = message_of(lambda: trained(x), TypeError)
    assert "x: got column 'price' of Decimal" in message
    assert "turn it into numbers" in message


@pytest.mark.parametrize("frame", FRAMES)
def test_a_missing_value_is_refused_by_row_and_column(frame):
    x = frame({"age": X[:, 0].tolist(), "visits": [*COUNTS[:-1].tolist(), None]})
    message = message_of(lambda: trained(x), ValueError)
    assert "x: got nan in row 39, column 1 ('visits'), expected finite numbers" in message
    y = frame({"y": [*LABELS[:-1].tolist(), None]})
    assert "y: got nan, expected whole class labels 0 to 2" in message_of(lambda: trained(X, y), ValueError)


def test_nullable_columns_of_pandas():
    pandas = pytest.importorskip("pandas")
    x = pandas.DataFrame({"a": pandas.array(COUNTS, "Int32"), "b": pandas.array(LABELS > 0, "boolean")})
    assert trained(x)[0] == trained(np.column_stack([COUNTS, LABELS > 0]))[0]
    x.loc[5, "b"] = pandas.NA
    assert "x: got nan in row 5, column 1 ('b')" in message_of(lambda: trained(x))


def test_truth_values_that_come_as_objects(monkeypatch):
    """Those of pandas before 2.2, from its nullable columns."""
    pandas = pytest.importorskip("pandas")
    narwhals = pytest.importorskip("narwhals")
    to_numpy = narwhals.Series.to_numpy
    monkeypatch.setattr(narwhals.Series, "to_numpy", lambda column: to_numpy(column).astype(object))
    assert trained(pandas.DataFrame({"a": LABELS > 0}))[0] == trained((LABELS > 0)[:, None])[0]


def test_categories_dates_and_objects_are_refused_by_their_column():
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    for column, word in (
        (pandas.Categorical(["u", "v"] * 20), "Categorical"),
        (pandas.Categorical([1, 2] * 20), "Categorical"),  # its numbers are names
        (pandas.to_datetime(["2020-01-01"] * 40), "Datetime"),
        ([1, "a"] * 20, "Object"),
    ):
        x = pandas.DataFrame({"a": X[:, 0], "b": column})
        assert f"x: got column 'b' of {word}" in message_of(lambda x=x: trained(x), TypeError)
        message = message_of(lambda column=column: trained(X, pandas.Series(column)), TypeError)
        assert ("numpy.unique(y, return_inverse=True)" in message) == (word != "Datetime"), message
    net = [Dense(3)]
    for inputs, hints in ((None, (True, True)), (40, (True, False)), (1, (False, True)), (3, (False, False))):
        model = Sequential(net, "cross_entropy", input_size=inputs)
        message = message_of(lambda model=model: model.fit(X[:, 0], LABELS))
        assert ("x[None, :]" in message, "x[:, None]" in message) == hints
    x = polars.DataFrame({"a": [[1.0, 2.0]] * 40})
    assert "x: got column 'a' of List" in message_of(lambda: trained(x), TypeError)
    assert "x: got a lazy frame" in message_of(lambda: trained(x.lazy()), TypeError)
    assert "x.collect()" in message_of(lambda: trained(x.lazy()), TypeError)


def test_a_frame_of_another_width():
    _, model = trained(X)
    x = pandas_frame({"a": X[:, 0], "b": X[:, 1]})
    assert message_of(lambda: model.predict(x)) == "x: got 2 inputs a row (shape (40, 2)), expected 3"
    assert "x: got shape (40,), expected (rows, 3)" in message_of(lambda: model.predict(x["a"]))
    assert "x: got shape (0, 2), expected at least one row" in message_of(lambda: model.predict(x[:0]))


def test_a_subclass_of_a_frame_is_one():
    pandas = pytest.importorskip("pandas")

    class Mine(pandas.DataFrame):
        pass

    assert trained(Mine(X, columns=NAMES))[0] == trained(X)[0]
    message = message_of(lambda: trained(Mine({"age": X[:, 0], "city": ["Rome", "Oslo"] * 20})), TypeError)
    assert "x: got column 'city' of String" in message


# ---------------------------------------------------------------------------------------- other containers


class Own:
    """An array by protocol alone."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


class Capsule:
    """DLPack alone, as some libraries' arrays have it."""

    def __init__(self, array, device=1):
        self.array, self.kind = array, device

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.kind, 0


@pytest.mark.parametrize("wrap", [Own, Capsule, np.ma.MaskedArray, np.ndarray.tolist])
def test_protocols(wrap):
    assert trained(wrap(X), wrap(LABELS))[0] == trained(X)[0]


def test_another_device_is_refused():
    message = message_of(lambda: trained(Capsule(X, device=2)), TypeError)
    assert "x: got Capsule on another device, expected numbers of shape (rows, inputs) in the CPU's memory" in message


def test_a_protocol_that_fails_says_why():
    class Broken:
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("the file is gone")

    assert "x: got Broken that makes no array (the file is gone), expected" in message_of(lambda: trained(Broken()))


def test_masked_values_are_refused_where_they_are():
    x = np.ma.MaskedArray(X, mask=np.arange(120).reshape(40, 3) == 14)
    assert "x: got a masked value in row 4, column 2, expected numbers" in message_of(lambda: trained(x), TypeError)
    y = np.ma.MaskedArray(LABELS, mask=[*[False] * 39, True])
    assert "y: got a masked value in row 39, expected class labels" in message_of(lambda: trained(X, y), TypeError)


def test_objects_and_strings_say_where_and_what_to_do():
    x = X.astype(object)
    assert "astype(float)" in message_of(lambda: trained(x), TypeError)
    x[7, 1] = "red"
    assert "with 'red' in row 7, column 1)" in message_of(lambda: trained(x), TypeError)
    assert "np.unique(y, return_inverse=True)" in message_of(lambda: trained(X, ["a", "b"] * 20), TypeError)


@pytest.mark.torch
def test_torch_tensors():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch")
    x = torch.from_numpy(X)
    assert trained(x, torch.from_numpy(LABELS))[0] == trained(X)[0]
    for bad, words in (
        (x.clone().requires_grad_(), "x: got a tensor that requires grad, expected numbers x.detach()"),
        (x.to("meta"), "x: got Tensor on meta, expected the CPU's memory x.cpu()"),
        (x.to(torch.bfloat16), "x: got Tensor makes no array BFloat16 expected numbers"),
        (x.to_sparse(), "x: got expected numbers"),
    ):
        message = message_of(lambda bad=bad: trained(bad), TypeError)
        for word in words.split():
            assert word in message


# --------------------------------------------------------------------------------------------------- sparse

KINDS = ["csr_array", "csc_matrix", "coo_array", "lil_matrix"]


def sparse_of(kind, array):
    return getattr(pytest.importorskip("scipy.sparse"), kind)(array)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sparse_matrix_trains_as_its_dense_one_does(kind):
    dense = X * (rng.uniform(size=X.shape) < 0.3)
    x = sparse_of(kind, dense)
    want, model = trained(dense)
    assert trained(x)[0] == want
    np.testing.assert_array_equal(model.predict(x), model.predict(dense))
    assert model.evaluate(x, LABELS) == model.evaluate(dense, LABELS)
    assert model.gradients(x, LABELS)[0] == model.gradients(dense, LABELS)[0]
    one_hot = np.eye(3)[LABELS]
    few = np.where(np.arange(X.size).reshape(X.shape) % 11 == 0, X, 0.0)
    for samples in (dense, few):
        assert trained(sparse_of(kind, samples), sparse_of(kind, one_hot))[0] == trained(samples, one_hot)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_matrix_with_few_numbers_stays_sparse_and_has_the_same_bits(kind, monkeypatch):
    few = np.random.default_rng(5)
    dense = few.normal(size=(90, 60)).astype(np.float32) * (few.uniform(size=(90, 60)) < 0.05)
    labels, weights = few.integers(0, 3, 90), few.uniform(size=90)
    x = sparse_of(kind, dense)

    def everything(x):
        layers = [Dense(20, "relu"), fastnn.Dropout(0.3), Dense(3)]
        model = Sequential(layers, "cross_entropy", fastnn.SGD(0.1), dtype="float32")
        flow = fastnn.GradientFlow(verbose=False)
        options = {"batch_size": 16, "epochs": 3, "verbose": False, "class_weight": "balanced"}
        model.fit(x, labels, sample_weight=weights, validation_split=0.25, callbacks=[flow], **options)
        model.fit(x, labels, validation_data=(x, labels, weights), **options)
        model.fit(x, np.eye(3)[labels], **options)
        numbers = {name: each for name, each in model.history.history.items() if "second" not in name}
        scores = model.evaluate(x, labels, sample_weight=weights)
        outputs = model.predict(x), model.predict_class(x)
        return model.parameters_vector().copy(), *outputs, numbers, scores, flow.history

    want = everything(dense)
    monkeypatch.setattr(type(x), "toarray", None)  # none of it is made dense
    for got, wanted in zip(everything(x), want, strict=True):
        np.testing.assert_equal(got, wanted)


def few_numbers(rows, inputs, seed):
    draw = np.random.default_rng(seed)
    return draw.normal(size=(rows, inputs)).astype(np.float32) * (draw.uniform(size=(rows, inputs)) < 0.05)


def steps_on(batches, **settings):
    """Return what loops of one's own get of batches, one after the other, and what the model has learned."""
    layers = [Dense(30, "tanh"), fastnn.Dropout(0.3), Dense(3)]
    model = Sequential(layers, "cross_entropy", fastnn.Adam(0.01), l2=0.01, **settings)
    got = []
    for number, (x, labels) in enumerate(batches):
        weights = np.random.default_rng(number).integers(0, 3, len(labels))
        got.append(model.train_on_batch(x, labels, sample_weight=weights, class_weight="balanced"))
        loss, gradients = model.gradients(x, labels, sample_weight=weights, training=True)
        dx, own = model.backward(x, np.eye(3)[labels], training=True)
        model.apply_gradients(own)
        outputs = model.layer_outputs(x), model.layer_outputs(x, rows=5)
        got.append((loss, gradients, dx, own, *(list(each.values()) for each in outputs)))
    return got, model.get_weights()


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["csr_array", "csc_matrix"])
def test_batches_with_few_numbers_stay_sparse_and_give_the_same_bits(kind, dtype, n_threads, monkeypatch):
    """Of growing, shrinking and equal sizes, and with dense ones between: what is kept from call to call serves none
    but its own kind.
    """
    sizes = [(16, True), (200, True), (200, False), (200, True), (7, False), (300, True), (40, True), (400, False)]
    dense = [(few_numbers(rows, 700, rows + at), np.arange(rows) % 3) for at, (rows, _) in enumerate(sizes)]
    mixed = [(sparse_of(kind, x) if few else x, labels) for (x, labels), (_, few) in zip(dense, sizes, strict=True)]
    settings = {"dtype": dtype, "n_threads": n_threads}
    want = steps_on(dense, **settings)
    monkeypatch.setattr(type(mixed[0][0]), "toarray", None)  # none of it is made dense
    np.testing.assert_equal(steps_on(mixed, **settings), want)


def test_a_batch_with_few_numbers_takes_memory_for_these_alone():
    """Dense it would be 800 MB; so would the workspace's room for samples and their gradient be, each."""
    scipy_sparse = pytest.importorskip("scipy.sparse")
    columns = np.random.default_rng(0).integers(0, 200_000, 10_000)
    x = scipy_sparse.csr_array((np.ones(10_000), columns, np.arange(0, 10_001, 10)), shape=(1000, 200_000))
    y = np.arange(1000.0)
    model = Sequential([Dense(4, "tanh"), Dense(1)], "squared_error", fastnn.SGD(1e-6), n_threads=1)
    model.train_on_batch(x[:2], y[:2])
    calls = {
        "train_on_batch": lambda: model.train_on_batch(x, y),
        "gradients": lambda: model.gradients(x, y),
        "backward": lambda: model.backward(x[:20], y[:20]),
        "layer_outputs": lambda: model.layer_outputs(x),
        "fit": lambda: model.fit(x, y, epochs=1, batch_size=1000, verbose=False),
        "evaluate": lambda: model.evaluate(x, y),
        "predict": lambda: model.predict(x),
    }
    for name, call in calls.items():
        tracemalloc.start()
        call()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 100e6, f"{name} took {most / 1e6:.0f} MB"


@pytest.mark.parametrize("first", [fastnn.Dropout(0.3), fastnn.Activation("tanh"), fastnn.Rescale(2.0, 1.0)], ids=repr)
def test_a_matrix_with_few_numbers_is_made_dense_where_the_first_layer_has_no_weights(first):
    dense = np.where(np.arange(X.size).reshape(X.shape) % 11 == 0, X, 0.0)
    x = sparse_of("csr_array", dense)

    def everything(x):
        model = Sequential([first, Dense(3)], "cross_entropy")
        model.fit(x, LABELS, epochs=2, batch_size=16, verbose=False)
        return model.parameters_vector().copy(), model.predict(x), model.evaluate(x, LABELS)

    for got, wanted in zip(everything(x), everything(dense), strict=True):
        np.testing.assert_equal(got, wanted)


def test_parts_of_a_matrix_with_few_numbers_hold_their_own_numbers():
    dense = X * (np.random.default_rng(5).uniform(size=X.shape) < 0.3)
    x = sparse_of("csr_array", dense)
    data = SparseData(x.indptr, x.indices, x.data, LABELS, dense, np.arange(40.0), x.shape[1])
    for first, last in ((0, 7), (7, 30), (30, 40), (12, 12)):
        part = data.part(first, last)
        assert len(part.columns) == len(part.values) == part.starts[-1] == np.count_nonzero(dense[first:last])
        rows = part.dense(np.arange(part.rows))
        for got, whole in ((rows.x, dense), (rows.labels, LABELS), (rows.targets, dense), (rows.weights, data.weights)):
            np.testing.assert_array_equal(got, whole[first:last])


def test_a_matrix_with_few_numbers_is_checked():
    dense = np.zeros((40, 50))
    dense[7, 3] = dense[9, 4] = dense[9, 40] = 1.0
    x, y = sparse_of("csr_array", dense), np.zeros((40, 2))
    model = Sequential([Dense(2)], "squared_error")
    model.fit(x, y, epochs=1, verbose=False)
    narrow = sparse_of("csr_array", dense[:, :49])
    assert "x: got 49 inputs a row (shape (40, 49)), expected 50" in message_of(lambda: model.predict(narrow))
    assert "y: got shape (39, 2) for 40 samples" in message_of(lambda: model.fit(x, y[1:]))
    x.data[1] = np.inf
    assert "x: got inf in row 9, column 4, expected finite" in message_of(lambda: model.predict(x))
    assert "validation_x: got inf" in message_of(lambda: model.fit(dense, y, validation_data=(x, y)))
    x.data[1] = 1e300
    assert "x: got inf in row 9, column 4, expected finite" in message_of(lambda: model.predict(x))
    many = sparse_of("csr_array", np.ones((40, 50)))
    x.data[1], x.indices[2], many.indices[2] = 1.0, 50, 50
    for wrong in (x, many):
        assert "x: got a sparse matrix with wrong places" in message_of(lambda wrong=wrong: model.predict(wrong))
        assert "x: got a sparse matrix with wrong places" in message_of(
            lambda wrong=wrong: model.train_on_batch(wrong, y)
        )


def test_a_sparse_matrix_is_checked_as_a_dense_one_is():
    x = sparse_of("csr_array", X)
    _, model = trained(x)
    assert "x: got 2 inputs a row (shape (40, 2)), expected 3" in message_of(lambda: model.predict(x[:, :2]))
    x.data[5] = np.nan
    assert "x: got nan in row 1, column 2, expected finite" in message_of(lambda: trained(x))
