"""Models on a GPU, or in Numba's simulator: the numbers of the oracle and of the CPU."""

from __future__ import annotations

import copy
import os
import pickle
import threading

import naive
import numpy as np
import pytest
from cuda_standin import installed
from support import naive_layers, naive_weights, run_python

import fastnn
from fastnn import cuda
from fastnn.cuda import block, gradient
from fastnn.cuda import net as n
from fastnn.cuda import runtime as cuda_runtime
from fastnn.cuda import step as s
from fastnn.cuda._numba import MOST_SHARED, SIMULATED
from fastnn.cuda.runtime import CudaRuntime
from fastnn.cuda.tile import THREADS
from fastnn.kernels import layout
from fastnn.network import Network

pytestmark = pytest.mark.skipif(bool(cuda.missing()), reason=cuda.missing())

CLASSES = ("cross_entropy", "binary_cross_entropy")


def data(rng, rows, inputs, outputs, loss):
    x = rng.normal(size=(rows, inputs))
    if loss == "cross_entropy":
        return x, rng.integers(0, outputs, rows)
    if loss == "binary_cross_entropy":
        return x, rng.integers(0, 2, (rows, outputs)).astype(float)
    return x, rng.normal(size=(rows, outputs))


def one_hot(t, loss, outputs):
    return np.eye(outputs)[t] if loss == "cross_entropy" else t


NETWORKS = {
    "dense": [
        fastnn.Dense(6, "relu"), fastnn.Dropout(0.3), fastnn.Dense(5, "elu"), fastnn.Dropout(0.5),
        fastnn.Dense(4, "gelu"), fastnn.Dense(3),
    ],
    "pieces": [
        fastnn.Rescale(0.5, 0.1), fastnn.Dropout(0.1), fastnn.Activation("leaky_relu"),
        fastnn.Dense(7, use_bias=False), fastnn.Activation("softplus"), fastnn.Activation("tanh"), fastnn.Dense(3),
    ],
    "wide": [
        fastnn.Dense(24, "relu"), fastnn.Dropout(0.3), fastnn.Dense(13, "tanh"), fastnn.Dense(12, "silu"),
        fastnn.Dense(8, "tanh"), fastnn.Dense(3),
    ],
}  # fmt: skip
OPTIMIZERS = {
    "sgd": (fastnn.SGD(0.1, momentum=0.9, nesterov=True), {"name": "sgd", "momentum": 0.9, "nesterov": True}),
    "adagrad": (fastnn.AdaGrad(0.1, clip_value=0.5), {"name": "adagrad", "eps": 1e-10, "clip_value": 0.5}),
    "rmsprop": (fastnn.RMSprop(0.02), {"name": "rmsprop", "alpha": 0.99, "eps": 1e-8}),
    "adam": (fastnn.Adam(0.05, clip_norm=0.3), {"name": "adam", "b1": 0.9, "b2": 0.999, "eps": 1e-8, "clip_norm": 0.3}),
}


@pytest.fixture(params=["block", "few", "fused", "staged", "cublas"])
def route(request, monkeypatch):
    """Each of the ways, whatever the size: in one block, few rows, tiles of rows, stages, a library's products."""
    from fastnn.cuda import _cublas, launches

    if request.param == "cublas":
        if SIMULATED:
            installed(monkeypatch)
        elif _cublas.loaded() is None:
            pytest.skip("cuBLAS is not installed")
        monkeypatch.setattr(launches, "WORTH_FLOPS", 0)
    monkeypatch.setattr(cuda_runtime, "most_shared", lambda: MOST_SHARED if request.param == "block" else 0)
    monkeypatch.setattr(s, "SHARED_BYTES", 39 * 1024 if request.param == "few" else 0)
    monkeypatch.setattr(s, "WIDEST_FUSED", 0 if request.param == "staged" else 128)
    return request.param


def assert_same_training(model, x, y, loss, numbers, epochs=2, batch=5, weights=None, rtol=1e-9):
    layers = naive_layers(model)
    history = model.fit(x, y, epochs=epochs, batch_size=batch, sample_weight=weights, verbose=False)
    t = one_hot(y, loss, model.network.units)
    optimizer = {"lr": model.optimizer.lr, **numbers}
    want = naive.network_train(
        layers,
        x,
        t,
        loss,
        optimizer,
        epochs=epochs,
        batch_size=batch,
        seed=model.seed,
        w=weights,
        l1_mode=model.l1_mode,
    )
    assert history.history["loss"] == pytest.approx(want, rel=max(rtol, 1e-6))
    for got, wanted in zip(model.get_weights(), naive_weights(layers), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("network", NETWORKS)
def test_training_is_the_oracles(network, route, rng):
    x, y = data(rng, 9, 4, 3, "cross_entropy")
    model = fastnn.Sequential(
        NETWORKS[network], "cross_entropy", OPTIMIZERS["adam"][0], seed=3, dtype="float64", device="cuda", l2=0.01,
        input_size=4,
    )  # fmt: skip
    assert_same_training(model, x, y, "cross_entropy", OPTIMIZERS["adam"][1])


@pytest.mark.parametrize("mode", ["gradient", "truncate"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_and_penalties(name, mode, rng):
    x, y = data(rng, 11, 3, 2, "squared_error")
    optimizer, numbers = OPTIMIZERS[name]
    model = fastnn.Sequential(
        [fastnn.Dense(4, "tanh"), fastnn.Dense(2)], "squared_error", optimizer, seed=1, dtype="float64", device="cuda",
        l1=0.01, l2=0.02, l1_mode=mode, input_size=3,
    )  # fmt: skip
    assert_same_training(model, x, y, "squared_error", numbers)


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "huber", "cross_entropy", "binary_cross_entropy"])
def test_losses_and_weights(loss, rng):
    x, y = data(rng, 9, 3, 4, loss)
    last = {"cross_entropy": "softmax", "binary_cross_entropy": "sigmoid"}.get(loss)
    model = fastnn.Sequential(
        [fastnn.Dense(5, "relu"), fastnn.Dense(4, last)], loss, fastnn.SGD(0.1), seed=2, dtype="float64", device="cuda",
        input_size=3,
    )  # fmt: skip
    assert_same_training(model, x, y, loss, {"name": "sgd"}, weights=rng.random(9), batch=4)


def test_float32_is_near_the_oracle(route, rng):
    x, y = data(rng, 9, 4, 3, "cross_entropy")
    model = fastnn.Sequential(
        NETWORKS["dense"], "cross_entropy", fastnn.Adam(0.01), seed=3, device="cuda", input_size=4
    )
    numbers = {"name": "adam", "b1": 0.9, "b2": 0.999, "eps": 1e-8}
    assert_same_training(model, x, y, "cross_entropy", numbers, rtol=2e-4)


@pytest.mark.parametrize("shuffled", [True, False])
def test_several_epochs_in_one_call(shuffled, rng, monkeypatch):
    monkeypatch.setattr("fastnn.cuda.runtime.STEPS_A_LAUNCH", 2)
    x, y = data(rng, 11, 3, 2, "squared_error")
    orders = np.array([rng.permutation(11) for _ in range(3)]) if shuffled else np.empty((3, 0), np.int64)
    models = [
        fastnn.Sequential([fastnn.Dense(2, "tanh")], "squared_error", seed=4, device="cuda", input_size=3)
        for _ in range(2)
    ]
    reports = np.zeros((2, 9, 6))
    for model, report, calls in zip(models, reports, (1, 3), strict=True):
        train = model.runtime.training_calls(model._intake.batch(x, y, None), 4)
        for part in np.split(np.arange(3), calls):
            steps = slice(3 * part[0], 3 * part[-1] + 3)
            train(orders[part].reshape(-1), 0, 11, steps.start, np.full(9, 0.01)[steps], report[steps])
    np.testing.assert_array_equal(reports[0], reports[1])
    assert (reports[0, :, 5] == [4, 4, 3] * 3).all()
    for one, three in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_array_equal(one, three)


def test_a_batch_in_chunks_of_rows(route, rng, monkeypatch):
    if not SIMULATED:
        pytest.skip("compiled kernels have their chunk size built in")
    monkeypatch.setattr(gradient, "CHUNK_ROWS", 3)
    x, y = data(rng, 11, 3, 2, "squared_error")
    model = fastnn.Sequential(
        [fastnn.Dense(4, "tanh"), fastnn.Dense(2)], "squared_error", fastnn.SGD(0.1), dtype="float64", device="cuda",
        input_size=3,
    )  # fmt: skip
    assert_same_training(model, x, y, "squared_error", {"name": "sgd"}, batch=11)


def pair(layers, loss, **settings):
    """The same model on the CPU and on the device."""
    return tuple(fastnn.Sequential(layers, loss, device=device, **settings) for device in ("cpu", "cuda"))


def test_bytes_rescaled_streams_and_validation(rng):
    x, y = rng.integers(0, 255, (14, 6), np.uint8), rng.integers(0, 3, 14)
    layers = [fastnn.Rescale(1 / 255), fastnn.Dense(5, "relu"), fastnn.Dropout(0.2), fastnn.Dense(3)]
    here, there = pair(layers, "cross_entropy", seed=4)
    for model in (here, there):
        model.fit(x, y, epochs=2, batch_size=4, validation_data=(x[:5], y[:5]), verbose=False)
        model.fit(fastnn.stream(x, y, buffer_rows=8), epochs=1, batch_size=4, verbose=False)
    for name in ("loss", "val_loss", "val_accuracy", "accuracy"):
        assert there.history.history[name] == pytest.approx(here.history.history[name], rel=2e-5, nan_ok=True)
    for got, want in zip(there.get_weights(), here.get_weights(), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_row_of_weight_0_may_be_beyond_all_numbers(shuffle, route, rng):
    """The bits are those of a row of zeros there."""
    x, y = data(rng, 9, 4, 3, "cross_entropy")
    weights = np.array([1, 0, 2, 1, 1, 0.5, 0, 1, 1])
    bits = set()
    for bad in (0.0, 3e38, np.nan):
        x[weights == 0] = bad
        model = fastnn.Sequential(
            [fastnn.Dense(6, "relu"), fastnn.Dense(3)], "cross_entropy", "sgd", device="cuda", check_finite=False
        )
        model.fit(x, y, epochs=2, batch_size=4, sample_weight=weights, shuffle=shuffle, verbose=False)
        bits.add(b"".join(weight.tobytes() for weight in model.get_weights()))
    assert len(bits) == 1


@pytest.mark.parametrize("last", [None, "softmax"])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_all_that_a_model_does(last, loss, rng):
    layers = [fastnn.Dense(5, "gelu"), fastnn.Activation("tanh"), fastnn.Dropout(0.5), fastnn.Dense(3, last)]
    here, there = pair(layers, loss, seed=4, input_size=4, dtype="float64", l2=0.1)
    x, y = data(rng, 7, 4, 3, loss)
    close = {"rtol": 1e-10, "atol": 1e-12}
    np.testing.assert_allclose(there.predict(x), here.predict(x), **close)
    np.testing.assert_allclose(there.predict(x, training=True), here.predict(x, training=True), **close)
    assert there.evaluate(x, y) == pytest.approx(here.evaluate(x, y), rel=1e-10)
    if loss == "cross_entropy":
        np.testing.assert_allclose(there.predict_proba(x), here.predict_proba(x), **close)
        np.testing.assert_array_equal(there.predict_class(x), here.predict_class(x))
    dy = rng.normal(size=(7, 3))
    for got, want in (
        (there.gradients(x, y), here.gradients(x, y)),
        (there.backward(x, dy), here.backward(x, dy)),
    ):
        np.testing.assert_allclose(got[0], want[0], **close)
        for one, other in zip(got[1], want[1], strict=True):
            np.testing.assert_allclose(one, other, **close)
    for name, value in here.layer_outputs(x).items():
        np.testing.assert_allclose(there.layer_outputs(x)[name], value, **close)
    assert there.train_on_batch(x, y) == pytest.approx(here.train_on_batch(x, y), rel=1e-10)
    gradients = [rng.normal(size=weight.shape) for weight in here.get_weights()]
    for model in (here, there):
        model.apply_gradients(gradients)
    assert there.train_on_batch(x, y) == pytest.approx(here.train_on_batch(x, y), rel=1e-9)
    there.set_weights([2 * weight for weight in there.get_weights()])  # what the host writes reaches the device
    here.set_weights([2 * weight for weight in here.get_weights()])
    assert there.train_on_batch(x, y) == pytest.approx(here.train_on_batch(x, y), rel=1e-9)


def test_save_load_clone_pickle_go_on_with_the_same_bits(rng, tmp_path):
    x, y = data(rng, 9, 4, 3, "cross_entropy")
    model = fastnn.Sequential(NETWORKS["dense"], "cross_entropy", "adam", seed=1, device="cuda")
    model.fit(x, y, epochs=1, batch_size=4, verbose=False)
    model.save(tmp_path / "m.safetensors")
    others = [
        fastnn.load(tmp_path / "m.safetensors", device="cuda"), model.clone(), copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
    ]  # fmt: skip
    assert fastnn.load(tmp_path / "m.safetensors").device == "cpu"
    model.fit(x, y, epochs=1, batch_size=4, verbose=False)
    for other in others:
        assert other.device == "cuda"
        other.fit(x, y, epochs=1, batch_size=4, verbose=False)
        assert [w.tobytes() for w in other.get_weights()] == [w.tobytes() for w in model.get_weights()]


def test_divergence_keeps_the_last_good_weights(rng):
    x, y = data(rng, 8, 3, 2, "squared_error")
    model = fastnn.Sequential(
        [fastnn.Dense(4), fastnn.Dense(2)], "squared_error", fastnn.SGD(0.01), device="cuda", check_finite=False
    )
    model.fit(x, y, epochs=1, verbose=False)
    before = model.get_weights()
    x[5] = np.inf
    with pytest.raises(fastnn.TrainingDiverged, match="loss: became NaN or infinite in step 2"):
        model.fit(x, y, epochs=1, batch_size=8, verbose=False)
    for got, want in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(got, want)


def test_gradient_flow_and_early_stopping(rng):
    x, y = data(rng, 12, 4, 3, "cross_entropy")
    here, there = pair([fastnn.Dense(5, "tanh"), fastnn.Dense(3)], "cross_entropy", seed=2)
    flows = [fastnn.GradientFlow(rows=6) for _ in range(2)]
    for model, flow in zip((here, there), flows, strict=True):
        stop = fastnn.EarlyStopping(patience=1)
        model.fit(x, y, epochs=3, batch_size=4, validation_data=(x, y), callbacks=[flow, stop], verbose=False)
    for name, rows in flows[0].history.items():
        np.testing.assert_allclose(flows[1].history[name], rows, rtol=2e-3, atol=1e-4)


def test_estimators(rng):
    pytest.importorskip("sklearn")
    x, y = rng.normal(size=(20, 3)), rng.integers(0, 3, 20)
    options = {"hidden_layer_sizes": (4,), "max_iter": 3, "batch_size": 8, "random_state": 0, "dropout": 0.2}
    with pytest.warns(UserWarning, match="max_iter"):  # three epochs are too few
        here, there = (fastnn.MLPClassifier(**options, device=device).fit(x, y) for device in ("cpu", "cuda"))
    for got, want in zip(there.coefs_ + there.intercepts_, here.coefs_ + here.intercepts_, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(there.predict_proba(x), here.predict_proba(x), rtol=1e-9)
    assert there.loss_curve_ == pytest.approx(here.loss_curve_)


def test_without_a_device_a_sentence_says_what_is_missing():
    script = """
import fastnn
layers = [fastnn.Dense(2)]
assert fastnn.Sequential(layers, "huber", device="auto").device in ("cpu", "cuda")
if fastnn.cuda.missing():
    try:
        fastnn.Sequential(layers, "huber", device="cuda")
    except RuntimeError as error:
        print(error)
else:
    print("device: got 'cuda', but pip install 'fastnn[cuda]' NUMBA_ENABLE_CUDASIM")
"""
    text = run_python(script, NUMBA_ENABLE_CUDASIM="0")
    for part in ("device: got 'cuda', but", "pip install 'fastnn[cuda]'", "NUMBA_ENABLE_CUDASIM"):
        assert part in text
    assert text.strip().count("\n") == 0


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="device: got 'gpu'"):
        fastnn.Sequential([fastnn.Dense(2)], "huber", device="gpu")


@pytest.mark.parametrize("tied", [False, True])
def test_losses_and_right_answers_are_counted_as_on_the_cpu(tied, route, rng):
    """Weights of rows, some of them 0, count in the loss; of equal logits the first is the answer."""
    x, y = data(rng, 11, 4, 3, "cross_entropy")
    weights = rng.uniform(0.5, 2.0, 11)
    weights[[2, 7]] = 0.0
    histories = []
    for model in pair([fastnn.Dense(5, "tanh"), fastnn.Dense(3)], "cross_entropy", input_size=4, dtype="float64"):
        if tied:
            model.set_weights([np.zeros_like(array) for array in model.get_weights()])
        histories.append(model.fit(x, y, epochs=1, batch_size=4, sample_weight=weights, verbose=False).history)
    for name in ("loss", "accuracy"):
        assert histories[1][name] == pytest.approx(histories[0][name], rel=1e-12)


@pytest.mark.parametrize("way", ["block", "few", "tiles", "cublas"])
def test_bits_do_not_depend_on_how_many_steps_a_call_takes(way, rng, monkeypatch):
    """A last, shorter batch in a call of its own is small enough for another way: that must not be chosen by it."""
    from fastnn.cuda import launches

    if way == "cublas":
        if not SIMULATED:
            pytest.skip("the size from which products are handed over is another on a card")
        installed(monkeypatch)
        monkeypatch.setattr(launches, "WORTH_FLOPS", 6.0 * 5 * 31)
    monkeypatch.setattr(cuda_runtime, "most_shared", lambda: MOST_SHARED if way == "block" else 0)
    monkeypatch.setattr(s, "MANY_ROWS", 4 if way == "tiles" else 4096)
    x, y = data(rng, 7, 4, 3, "cross_entropy")
    weights = []
    for first in (1, 100):
        monkeypatch.setattr(CudaRuntime, "first_steps", lambda self, batch, first=first: first)
        layers = [fastnn.Dense(4, "tanh"), fastnn.Dense(2, "tanh", use_bias=False), fastnn.Dense(1)]
        model = fastnn.Sequential(layers, "squared_error", fastnn.Adam(0.1), device="cuda", seed=1, input_size=4)
        model.fit(x, y[:, None].astype(float), epochs=1, batch_size=5, verbose=False)
        weights.append(b"".join(array.tobytes() for array in model.get_weights()))
    assert weights[0] == weights[1]


def plan(units, rows=32, layers=2, inputs=8, dtype="float32", slots=2):
    """What one block needs for such a network, and the network."""
    body = [fastnn.Dense(units, "tanh") for _ in range(layers)]
    network = Network([*body, fastnn.Dense(1)], inputs, fastnn.SquaredError(), np.dtype(dtype))
    return cuda_runtime.make_block_plan(network, rows, slots), network


def of_memory(monkeypatch, kilobytes):
    monkeypatch.setattr(cuda_runtime, "most_shared", lambda: 1024 * kilobytes)


@pytest.mark.parametrize("kilobytes", [48, 99, 227])
def test_one_block_takes_what_fits_its_memory(kilobytes, monkeypatch):
    of_memory(monkeypatch, kilobytes)
    found, network = plan(32)  # the workload `tiny`
    assert found.shape is None
    end = max(int(row[layout.DELTA]) + 32 * int(row[layout.N_OUT]) for row in found.table)
    at = [found.numbers[name] for name in (n.WANTED_AREA, n.STATE_AREA)]
    assert end <= at[0]
    assert at[0] + 32 <= at[1] - 2 * network.params_size
    assert at[1] % 16 == network.params_size % 16 == 0
    lanes, weights, labels = max(THREADS, 2 * 32), 32, 32
    assert found.shared == 4 * (at[1] + 2 * network.params_size) + 8 * (lanes + weights + labels)
    taken = [plan(32, slots=3), plan(48), plan(64), plan(8, rows=128)]
    taken += [plan(units, dtype="float64") for units in (32, 40)]
    assert [bool(found) for found, _ in taken] == [kilobytes > each for each in (48, 48, 99, 0, 48, 99)]
    assert all(found.shared + block.TABLES <= 1024 * kilobytes for found, _ in taken if found)


def test_one_block_takes_no_more_stages_than_its_table_has_rows():
    assert [bool(plan(1, layers=block.MOST_STAGES - 1 + more)[0]) for more in (0, 1)] == [True, False]


def test_one_block_takes_what_many_would_not_do_faster(monkeypatch):
    """By the estimates, whatever memory there is; a step by many blocks of a card took 20 us at least."""
    of_memory(monkeypatch, 1 << 20)
    sizes = [(8, 64, True), (64, 64, True), (64, 1, True)]
    times = [block.microseconds(rows, sizes, 4801, 4) for rows in (1, 32, 64, 128, 256)]
    assert times == sorted(times)
    assert times[1] < 20 < times[3]
    square, none = (64, 64, True), (64, 64, False)  # a layer has a product forward, one for its weights, one back
    first, second, without = (block.microseconds(1024, each, 0, 4) for each in ([square], [square] * 2, [none]))
    assert second - first > 1.7 * (first - without) > 1.7 * 2 * 1024 * 64 * 64 / 128 / 1755  # 128 is a card's limit
    assert block.microseconds(32, sizes, 4801, 8) > times[1]
    assert block.microseconds(32, [(7, 64, True), *sizes[1:]], 4737, 4) > times[1]  # 7 is no multiple of 4
    taken = [plan(64), plan(64, rows=128), plan(256), plan(32, inputs=500), plan(32, inputs=30), plan(4, rows=200)]
    assert [bool(found) for found, _ in taken] == [True, False, False, False, True, True]


@pytest.mark.parametrize("kilobytes", [48, 227])
def test_a_network_of_more_than_48_kilobytes(kilobytes, rng, monkeypatch):
    """In one block where there is room for it; else by many, with the same numbers."""
    of_memory(monkeypatch, kilobytes)
    asked = []
    monkeypatch.setattr(cuda_runtime, "ask_for_shared", lambda kernel, arguments, size: asked.append(size))
    x, y = data(rng, 7, 12, 2, "cross_entropy")
    model = fastnn.Sequential(
        [fastnn.Dense(48, "relu"), fastnn.Dropout(0.3), fastnn.Dense(24, "gelu"), fastnn.Dense(2, use_bias=False)],
        "cross_entropy", OPTIMIZERS["adam"][0], seed=3, dtype="float64", device="cuda", input_size=12,
    )  # fmt: skip
    assert model.network.segments[-1].stop == model.network.params_size  # no room between its state and the lanes
    assert_same_training(model, x, y, "cross_entropy", OPTIMIZERS["adam"][1], batch=4, weights=rng.random(7))
    assert bool(asked) == (kilobytes > 48)
    assert all(48 * 1024 < size + block.TABLES <= 227 * 1024 for size in asked)


def test_many_rows_in_one_block(rng, monkeypatch):
    """Losses, labels and weights of more rows than a block has threads on a card, with a shorter last batch."""
    asked = []
    monkeypatch.setattr(cuda_runtime, "ask_for_shared", lambda kernel, arguments, size: asked.append(size))
    x, y = data(rng, 400, 2, 3, "cross_entropy")
    model = fastnn.Sequential(
        [fastnn.Dense(3)], "cross_entropy", fastnn.SGD(0.1), dtype="float64", device="cuda", input_size=2
    )
    assert_same_training(model, x, y, "cross_entropy", {"name": "sgd"}, epochs=1, batch=300, weights=rng.random(400))
    assert asked


def test_a_row_of_weight_0_counts_nothing_whatever_its_loss(route, rng):
    """Its logits are infinite: the largest less itself is NaN."""
    x, y = data(rng, 7, 4, 3, "cross_entropy")
    x[2] = 1e38
    weights = np.ones(7)
    weights[2] = 0.0
    losses = []
    for model in pair([fastnn.Dense(3)], "cross_entropy", input_size=4, dtype="float32"):
        model.set_weights([np.full((4, 3), 10.0), np.arange(3.0)])
        with np.errstate(over="ignore"):  # the library's stand-in multiplies by NumPy
            losses.append(model.evaluate(x, y, sample_weight=weights)["loss"])
    assert np.isfinite(losses).all()
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def small(device="cuda", **settings):
    layers = [fastnn.Dense(4, "relu"), fastnn.Dense(3)]
    return fastnn.Sequential(layers, "cross_entropy", fastnn.Adam(0.01), device=device, input_size=4, **settings)


@pytest.fixture
def travels(monkeypatch):
    """What goes to the device, one (name, direction) a copy: arrays of parameters, gradients and optimizer state."""
    seen, get, send = [], CudaRuntime._get, CudaRuntime._to_device

    class Watched:
        """A device array that tells of copies."""

        def __init__(self, there, name):
            self.there, self.name = there, name

        def copy_to_device(self, array):
            if isinstance(array, np.ndarray):
                seen.append((self.name, "up"))
            self.there.copy_to_device(array)

        def copy_to_host(self, *array):
            seen.append((self.name, "down"))
            return self.there.copy_to_host(*array)

    def watched(method):
        def call(runtime, *names):
            real = runtime._on_device
            runtime._on_device = {name: Watched(there, name) for name, there in real.items()}
            try:
                return method(runtime, *names)
            finally:
                now = runtime._on_device
                runtime._on_device = {name: getattr(there, "there", there) for name, there in now.items()}
                seen.extend((name, "up") for name in now if name not in real)

        return call

    monkeypatch.setattr(CudaRuntime, "_get", watched(get))
    monkeypatch.setattr(CudaRuntime, "_to_device", watched(send))
    return seen


def test_only_what_was_written_travels(travels, rng):
    x, y = data(rng, 8, 4, 3, "cross_entropy")
    model = small()
    model.predict(x)
    assert travels == [("params", "up")]  # what a prediction does not read is not even there
    travels.clear()
    counts = []
    for epochs in (1, 4):
        travels.clear()
        model.fit(x, y, epochs=epochs, validation_data=(x, y), callbacks=[fastnn.Callback()], verbose=False)
        counts.append([travels.count((name, way)) for name in cuda_runtime.VECTORS for way in ("up", "down")])
    assert counts[0][:5] == [0, 1, 1, 0, counts[0][4]]  # parameters are there, and come back at the end
    assert counts[1] == [0, 1, 0, 0, 0, 0]  # no more for more epochs
    weights = model.get_weights()
    travels.clear()
    for _ in range(2):
        model.predict(x)
        model.evaluate(x, y)
    model.gradients(x, y)
    assert set(travels) <= {("grads", "down")}
    travels.clear()
    model.set_weights([2 * weight for weight in weights])
    model.predict(x)
    model.predict(x)
    assert travels == [("params", "up")]


def test_what_a_held_vector_shows_and_takes(rng):
    x, y = data(rng, 8, 4, 3, "cross_entropy")
    model = small()
    held = model.parameters_vector()
    before = held.copy()
    model.fit(x, y, epochs=1, verbose=False)
    shown = held.copy()
    assert (shown != before).any()
    np.testing.assert_array_equal(shown[: 4 * 4], model.get_weights()[0].reshape(-1))
    model.fit(x, y, epochs=1, verbose=False)
    held[:] = 0.0
    assert not model.predict(x).any()


def test_a_thread_that_reads_weights_undoes_no_step(rng, monkeypatch):
    """A copy to the host that takes longer than the steps meanwhile."""
    if not SIMULATED:
        pytest.skip("a copy is made to wait by the simulator's array")
    from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

    x, y = data(rng, 8, 4, 3, "cross_entropy")
    order, reports = np.empty(0, np.int64), np.zeros((2, 1, 6))
    weights = []
    for reads in (False, True):
        model = small(dtype="float64")
        train = model.runtime.training_calls(model._intake.batch(x, y, None), 8)
        train(order, 0, 8, 0, np.full(1, 0.1), reports[0])
        copied, stepped, copy_to_host = threading.Event(), threading.Event(), FakeCUDAArray.copy_to_host

        def slow(self, *to, copied=copied, stepped=stepped, copy_to_host=copy_to_host):
            array = copy_to_host(self, *to)
            if threading.current_thread() is not threading.main_thread() and not copied.is_set():
                copied.set()
                stepped.wait(0.5)
            return array

        with monkeypatch.context() as patch:
            patch.setattr(FakeCUDAArray, "copy_to_host", slow)
            reader = threading.Thread(target=model.get_weights)
            if reads:
                reader.start()
                assert copied.wait(30)
            train(order, 0, 8, 1, np.full(1, 0.1), reports[1])
            stepped.set()
            if reads:
                reader.join()
        train(order, 0, 8, 2, np.full(1, 0.1), reports[1])
        weights.append(model.get_weights())
    for got, want in zip(*weights, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("looks", ["layer_outputs", "GradientFlow"])
def test_a_thread_that_predicts_changes_nothing_that_another_looks_at(looks, rng, monkeypatch):
    """A prediction begins between a gradient and the look at what it left in the workspace."""
    x, y = data(rng, 8, 4, 3, "cross_entropy")
    model, predicts, activations = small(), [], CudaRuntime.activations

    def look():
        if looks == "layer_outputs":
            return model.layer_outputs(x)
        flow = fastnn.GradientFlow()
        model.fit(x, y, epochs=0, callbacks=[flow])
        return {name: flow.history[name] for name in ("mean", "std", "spread")}

    def interrupted(self, *which):
        thread = threading.Thread(target=model.predict, args=(-x[:5],))
        thread.start()
        thread.join(0.2)
        predicts.append(thread)
        return activations(self, *which)

    want = look()
    monkeypatch.setattr(CudaRuntime, "activations", interrupted)
    got = look()
    for thread in predicts:
        thread.join()
    for name, values in want.items():
        np.testing.assert_array_equal(got[name], values)


def test_a_thread_that_predicts_when_a_fit_ends(rng, monkeypatch):
    """The data are let go of while another set is on its way to the device."""
    x = data(rng, 8, 4, 3, "cross_entropy")[0]
    model, make, begun, ended = small(), cuda_runtime.DeviceData.__init__, threading.Event(), threading.Event()

    def slow(self, given):
        begun.set()
        ended.wait(0.2)
        make(self, given)

    want, outputs = model.predict(x), []
    monkeypatch.setattr(cuda_runtime.DeviceData, "__init__", slow)
    model.runtime.keep_data(True)
    thread = threading.Thread(target=lambda: outputs.append(model.predict(x)))
    thread.start()
    assert begun.wait(30)
    model.runtime.keep_data(False)
    ended.set()
    thread.join()
    np.testing.assert_array_equal(outputs, [want])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_process_that_was_forked_during_a_launch_waits_for_none():
    script = """
import os, signal, threading
import fastnn
from fastnn.cuda import _launch
model = fastnn.Sequential([fastnn.Dense(2)], "huber", device="cuda", input_size=3)
held, over = threading.Event(), threading.Event()
def launch():
    with _launch.lock:
        held.set()
        over.wait()
thread = threading.Thread(target=launch)
thread.start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(len(model.get_weights()))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
over.set()
thread.join()
"""
    assert run_python(script).strip() == "2"


def test_an_interrupt_counts_the_steps_that_were_done(rng, monkeypatch):
    """It is raised when the host has waited for the launch."""
    x, y = data(rng, 32, 4, 3, "cross_entropy")
    launch, launched = CudaRuntime._launch, []

    def interrupted(self, *arguments):
        launch(self, *arguments)
        launched.append(1)
        if len(launched) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(CudaRuntime, "first_steps", lambda self, batch: 1)
    monkeypatch.setattr(fastnn.training, "CALL_SECONDS", 0.0)
    monkeypatch.setattr(CudaRuntime, "_launch", interrupted)
    models = [small(dtype="float64") for _ in range(2)]
    with pytest.raises(KeyboardInterrupt):
        models[0].fit(x, y, epochs=1, batch_size=4, shuffle=False, verbose=False)
    assert models[0].step == 3
    monkeypatch.setattr(CudaRuntime, "_launch", launch)
    models[1].fit(x[:12], y[:12], epochs=1, batch_size=4, shuffle=False, verbose=False)
    for got, want in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.fixture
def uploads(monkeypatch):
    """The rows of each set of samples that goes to the device."""
    seen, make = [], cuda_runtime.DeviceData.__init__

    def counted(self, data):
        seen.append(data.rows)
        make(self, data)

    monkeypatch.setattr(cuda_runtime.DeviceData, "__init__", counted)
    return seen


def test_training_data_stay_whatever_callbacks_look_at(uploads, rng):
    x, y = data(rng, 9, 4, 3, "cross_entropy")

    class Looks(fastnn.Callback):
        def on_epoch_end(self, epoch, logs):
            for rows in (2, 3, 4):
                self.model.predict(x[:rows])

    model = small()
    model.fit(x, y, epochs=3, batch_size=4, callbacks=[Looks()], verbose=False)
    assert uploads == [9] + 3 * [2, 3, 4]


def test_lbfgs_takes_its_data_to_the_device_once(uploads, rng, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(CudaRuntime, "blocks_of_rows", lambda self, rows: min(rows, 8))
    x, y = rng.normal(size=(20, 3)), rng.integers(0, 3, 20)
    options = {"hidden_layer_sizes": (3,), "solver": "lbfgs", "max_iter": 2, "random_state": 0}
    with pytest.warns(UserWarning, match="lbfgs"):
        here, there = (fastnn.MLPClassifier(**options, device=device).fit(x, y) for device in ("cpu", "cuda"))
    assert uploads == [20]
    for got, want in zip(there.coefs_, here.coefs_, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-9)


def test_room_for_gradients_of_chunks_only_where_they_are_made(rng, monkeypatch):
    if not SIMULATED:
        pytest.skip("compiled kernels have their chunk size built in")
    monkeypatch.setattr(gradient, "CHUNK_ROWS", 3)
    monkeypatch.setattr(cuda_runtime, "most_shared", lambda: 0)
    x, y = data(rng, 12, 4, 3, "cross_entropy")
    model, other = small(), small()
    model.predict(x)
    before, taken, empty = model.runtime._device_work, [], cuda_runtime.empty

    def make(size, dtype):
        if size > before.size:
            taken.append(model.runtime._device_work)
        return empty(size, dtype)

    monkeypatch.setattr(cuda_runtime, "empty", make)
    model.fit(x, y, epochs=1, batch_size=12, verbose=False)
    assert model.runtime._device_work.size - before.size == 4 * model.network.params_size
    assert taken == [None]  # the old one is given back before more is asked for
    installed(monkeypatch)
    other.fit(x, y, epochs=1, batch_size=12, verbose=False)
    assert other.runtime._device_work.size == before.size


def test_a_pickle_without_a_device_says_what_is_missing(tmp_path, rng):
    x, _ = data(rng, 5, 4, 3, "cross_entropy")
    path = tmp_path / "model.pickle"
    path.write_bytes(pickle.dumps((small(), x)))
    script = """
import pathlib, pickle, sys
from fastnn import cuda
try:
    model, x = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())
    model.predict(x)
except Exception as error:
    print(error)
if not cuda.missing():
    print("device: got 'cuda', but pip install 'fastnn[cuda]'; a file that Sequential.save writes loads anywhere")
"""
    text = run_python(script, path, NUMBA_ENABLE_CUDASIM="0").strip()
    assert text.startswith("device: got 'cuda', but ")
    assert "pip install 'fastnn[cuda]'" in text
    assert text.endswith("; a file that Sequential.save writes loads anywhere")
    assert text.count("\n") == 0


def on_device(array):
    """A copy on the device; in the simulator what it has for one."""
    from fastnn.cuda._numba import driver

    return driver.to_device(np.ascontiguousarray(array))


def assert_same(got, want):
    """Of what models return: numbers, arrays, and dicts, lists and tuples of them."""
    if isinstance(want, dict):
        got, want = list(got.values()), list(want.values())
    if isinstance(want, (list, tuple)):
        assert len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            assert_same(one, other)
    else:
        assert isinstance(got, type(want))
        np.testing.assert_array_equal(got, want)


def all_of(model, x, y, weights, put):
    """What a model makes of data that `put` puts somewhere."""
    xs, ys, ws = put(x), put(y), put(weights)
    dy = put(np.cos(np.arange(len(x) * 3.0)).reshape(-1, 3))
    made = [
        model.fit(xs, ys, epochs=2, batch_size=4, sample_weight=ws, validation_data=(xs, ys, ws)).history["val_loss"],
        model.fit(xs, ys, epochs=1, batch_size=4, validation_split=0.3).history["loss"],
        model.evaluate(xs, ys, sample_weight=ws), model.predict(xs), model.layer_outputs(xs, rows=4),
        model.layer_outputs(xs),
        model.train_on_batch(xs, ys, sample_weight=ws), model.gradients(xs, ys), model.backward(xs, dy),
    ]  # fmt: skip
    model.apply_gradients([put(gradient) for gradient in model.backward(xs, dy)[1]])
    model.set_weights([put(1.5 * weight) for weight in model.get_weights()])
    return [*made, model.get_weights()]


@pytest.mark.parametrize("kind", ["float32", "uint8", "float64", "int32", "3 axes", "columns", "transposed"])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_arrays_on_the_device_have_the_bits_of_those_on_the_host(loss, kind, rng):
    x, y = data(rng, 10, 4, 3, loss)
    x = (50 + 20 * x).astype(kind if kind in ("uint8", "float64", "int32") else "float32")
    views = {
        "3 axes": lambda there: there.reshape(10, 2, 2),
        "columns": lambda there: there[:, 1:],
        "transposed": lambda there: there.T,
    }

    def put(array):
        there = on_device(array.T if array is x and kind == "transposed" else array)
        return views[kind](there) if array is x and kind in views else there

    def stay(array):
        return array[:, 1:] if array is x and kind == "columns" else array

    weights, made = rng.uniform(0.1, 2, 10), []
    for where in (put, stay):
        layers = [fastnn.Rescale(0.01), fastnn.Dense(5, "tanh"), fastnn.Dropout(0.2), fastnn.Dense(3)]
        made.append(all_of(fastnn.Sequential(layers, loss, "sgd", device="cuda"), x, y, weights, where))
    assert_same(*made)


def test_class_weights_and_callbacks_of_arrays_on_the_device(rng):
    x, y = data(rng, 12, 4, 3, "cross_entropy")
    outcomes = []
    for put in (on_device, np.asarray):
        model, flow, own = small(), fastnn.GradientFlow(rows=5), []
        look = fastnn.LambdaCallback(lambda epoch, logs, model=model, own=own: own.append(model.predict(x[:3])))
        settings = {"class_weight": "balanced", "callbacks": [flow, look], "validation_split": 0.25}
        model.fit(put(x.astype("float32")), put(y), epochs=3, batch_size=4, **settings)
        outcomes.append([flow.history, own, model.get_weights()])
    assert_same(*outcomes)


def test_samples_on_the_device_are_read_where_they_lie(rng, monkeypatch):
    if not SIMULATED:
        pytest.skip("the simulator's arrays show their memory")
    x, y = data(rng, 8, 4, 3, "cross_entropy")
    seen, make = [], cuda_runtime.DeviceData.__init__

    def watched(self, given):
        make(self, given)
        seen.append([self.x, self.x_bytes][self.bytes])

    monkeypatch.setattr(cuda_runtime.DeviceData, "__init__", watched)
    for there in (on_device(x.astype("float32")), on_device(x.astype("uint8"))):
        model = small()
        model.fit(there, y, epochs=1, batch_size=4, validation_split=0.5)
        model.predict(there)
        model.train_on_batch(there, on_device(y))
        assert len(seen) == 4
        assert all(np.shares_memory(array._ary, there._ary) for array in seen)
        seen.clear()


def test_memory_mapped_samples_beside_labels_on_the_device(rng, tmp_path):
    x, y = data(rng, 8, 4, 3, "cross_entropy")
    np.save(tmp_path / "x.npy", x)
    outcomes = []
    for put in (on_device, np.asarray):
        model = small()
        model.fit(np.load(tmp_path / "x.npy", mmap_mode="r"), put(y), sample_weight=put(np.arange(8.0)), epochs=2)
        outcomes.append(model.get_weights())
    assert_same(*outcomes)


@pytest.mark.parametrize("call", ["fit", "evaluate", "train_on_batch", "gradients"])
def test_what_is_wrong_on_the_device_is_named_as_on_the_host(call, rng):
    x, y = data(rng, 8, 4, 3, "cross_entropy")
    x = x.astype("float32")
    bad = x.copy()
    bad[5, 2] = np.nan
    wrong = [
        (bad, y, None), (bad[:, :3], y, None), (x[:, :3], y, None), (x[0], y, None), (x[:0], y[:0], None),
        (x, y + 1, None), (x, y[:7], None), (x, y + 0.5, None), (x, y, -np.ones(8)), (x.astype(complex), y, None),
    ]  # fmt: skip
    for given in wrong:
        said = []
        for put in (on_device, np.asarray):
            model = small()
            *pair, weights = (None if array is None else put(array) for array in given)
            with pytest.raises((TypeError, ValueError)) as caught:
                getattr(model, call)(*pair, sample_weight=weights)
            said.append((caught.type, str(caught.value)))
        assert said[0] == said[1]
    unchecked = small(check_finite=False)
    assert np.isnan(unchecked.predict(on_device(bad))).any(axis=1).tolist() == [False] * 5 + [True] + 2 * [False]


def test_what_makes_no_array_of_this_gpu_is_refused():
    class Elsewhere:
        """A tensor on another GPU."""

        __cuda_array_interface__ = None
        number = 1

        def __dlpack_device__(self):
            return 2, self.number

    model, elsewhere = small(), Elsewhere()
    with pytest.raises(TypeError, match=r"^x: got Elsewhere that makes no array of this GPU \(it is on GPU 1, and the"):
        model.predict(elsewhere)
    with pytest.raises(TypeError, match=r"^y: got Elsewhere that makes no array of this GPU"):
        model.evaluate(np.zeros((2, 4)), elsewhere)
    with pytest.raises(TypeError, match=r"^x: got Elsewhere on another device, .* a Sequential with device='cuda'$"):
        small("cpu").predict(elsewhere)
    elsewhere.number = 0  # which Numba cannot make an array of
    with pytest.raises(TypeError, match=r"^x: got Elsewhere that makes no array of this GPU"):
        model.predict(elsewhere)


def test_a_tensor_on_a_gpu_that_requires_grad_is_refused():
    class Tensor:
        """PyTorch's answers."""

        requires_grad = True

        @property
        def __cuda_array_interface__(self):
            raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad.")

        def __dlpack_device__(self):
            return 2, 0

    for device in ("cpu", "cuda"):
        with pytest.raises(TypeError, match=r"^x: got a tensor that requires grad, .* x.detach\(\) is without it$"):
            small(device).predict(Tensor())
