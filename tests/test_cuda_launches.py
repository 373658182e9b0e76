"""Products by cuBLASLt, their epilogues and precision, and steps as CUDA graphs: with stand-ins for what a card has."""

from __future__ import annotations

import ctypes
import inspect
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from cuda_standin import installed

import fastnn
from fastnn import cuda, training
from fastnn.cuda import _cublas, _numba, graph, launches
from fastnn.cuda._cublas import Matrix
from fastnn.cuda._numba import SIMULATED, driver
from fastnn.cuda.runtime import CudaRuntime
from fastnn.runtime import Runtime

pytestmark = pytest.mark.skipif(not SIMULATED, reason=cuda.missing() or "stand-ins work on the simulator's arrays")


@pytest.fixture
def standin(monkeypatch):
    return installed(monkeypatch)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (7, 4, 1), (1, 6, 2)])
def test_products_of_parts_of_vectors(standin, shape, transposed, dtype, rng):
    m, k, n = shape
    a, b = rng.normal(size=(k, m) if transposed[0] else (m, k)), rng.normal(size=(n, k) if transposed[1] else (k, n))
    vector = np.full(100, 7.5, dtype)
    vector[3 : 3 + m * k], vector[40 : 40 + k * n], vector[70 : 70 + m * n] = a.ravel(), b.ravel(), np.nan
    there = driver.to_device(vector)
    _cublas.loaded().use(0)
    _cublas.loaded().product(
        Matrix(there, 70, m, n), Matrix(there, 3, *a.shape, transposed[0]), Matrix(there, 40, *b.shape, transposed[1])
    )
    want = vector.copy()
    left, right = (x.astype(dtype).T if t else x.astype(dtype) for x, t in zip((a, b), transposed, strict=True))
    want[70 : 70 + m * n] = (left @ right).ravel()
    np.testing.assert_allclose(there.copy_to_host(), want, rtol=1e-6 if dtype == "float32" else 1e-14)
    assert standin.kinds == [dtype]


@pytest.mark.parametrize("name", ["cublasLtMatmul", "cublasLtMatmulAlgoGetHeuristic", "cublasLtMatrixLayoutCreate"])
def test_a_library_that_refuses_is_named(standin, name):
    standin.statuses[name] = 14
    there = driver.to_device(np.ones(9, np.float32))
    with pytest.raises(RuntimeError, match=f"{name}: got status 14 from cuBLAS, expected 0"):
        _cublas.loaded().product(Matrix(there, 0, 1, 1), Matrix(there, 1, 1, 1), Matrix(there, 2, 1, 1))
    assert _cublas.loaded().version == 130200


def test_a_library_without_an_algorithm_is_named(standin):
    standin.none_for.add(_cublas.PLAIN)
    there = driver.to_device(np.ones(9, np.float32))
    with pytest.raises(RuntimeError, match=r"got no algorithm for 1 x 1 numbers of float32 \(tf32\), expected one"):
        _cublas.loaded().product(Matrix(there, 0, 1, 1), Matrix(there, 1, 1, 1), Matrix(there, 2, 1, 1), "tf32")


EPILOGUES = {"bias": _cublas.ADD_BIAS, "relu": _cublas.RELU_BIAS, "sums": _cublas.COLUMN_SUMS}


def with_epilogue(name, dtype="float32", transposed=False, rows=5):
    """Do a product with an epilogue; return whether it was done, C, the vector, and both as NumPy has them."""
    rng = np.random.default_rng(5)
    a, b, v = (rng.normal(size=s).astype(dtype) for s in ((rows, 3), (3, 4), (1, 4)))
    there = [
        driver.to_device(x.ravel()) for x in (a.T.copy() if transposed else a, b, v, np.full((rows, 4), np.nan, dtype))
    ]
    shapes = [(3, rows, True) if transposed else (rows, 3), (3, 4), (1, 4), (rows, 4)]
    first, second, vector, into = (Matrix(x, 0, *shape) for x, shape in zip(there, shapes, strict=True))
    _cublas.loaded().use(0)
    done = _cublas.loaded().product(into, first, second, epilogue=EPILOGUES[name], vector=vector)
    want, sums = a @ b, v
    if done:
        want, sums = (want, b.sum(axis=0)[None]) if name == "sums" else (want + v, v)
        want = np.maximum(want, 0) if name == "relu" else want
    close = (np.allclose(x.to_host(), y, rtol=1e-6, atol=1e-6) for x, y in ((into, want), (vector, sums)))
    return done, *close


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("name", EPILOGUES)
def test_epilogues(standin, name, transposed):
    for times in (2, 3):  # the first time it is tried before
        assert with_epilogue(name, transposed=transposed) == (True, True, True)
        assert standin.epilogues == [EPILOGUES[name]] * times
    assert with_epilogue(name, "float64", transposed) == (False, True, True)  # the library knows none
    assert standin.epilogues == [EPILOGUES[name]] * 3 + [_cublas.PLAIN]


@pytest.mark.parametrize("name", EPILOGUES)
def test_an_epilogue_of_which_there_is_none(standin, name):
    standin.none_for.add(EPILOGUES[name])
    assert with_epilogue(name) == (False, True, True)
    assert standin.epilogues == [_cublas.PLAIN]


def forgets_nan(c, vector):
    np.copyto(c, 0, where=np.isnan(c))


def forgets_a_number(c, vector):
    c[-1, -1] = 1.0


def halves_sums(c, vector):
    vector *= 0.5


@pytest.mark.parametrize(("name", "spoil"), [("relu", forgets_nan), ("bias", forgets_a_number), ("sums", halves_sums)])
def test_an_epilogue_that_is_wrong_is_not_used(standin, name, spoil):
    standin.spoil = spoil
    for plain in (1, 2):
        assert with_epilogue(name) == (False, True, True)
        assert standin.epilogues == [EPILOGUES[name]] + [_cublas.PLAIN] * plain  # tried once


def test_an_epilogue_that_fails_is_not_used(standin):
    run, tried = standin._cublasLtMatmul, []
    standin._cublasLtMatmul = lambda *a: tried.append(1) or 13 if not tried else run(*a)
    assert with_epilogue("bias") == (False, True, True)


def test_a_first_step_that_diverges_spoils_no_trial(standin, rng):
    x, y = rng.normal(size=(8, 2)).astype(np.float32), rng.integers(0, 3, 8)
    infinite = np.full_like(x, np.inf)
    model = fastnn.Sequential(
        [fastnn.Dense(4, "relu"), fastnn.Dense(3)], "cross_entropy", device="cuda", check_finite=False
    )
    with pytest.raises(fastnn.TrainingDiverged), np.errstate(all="ignore"):  # the stand-in multiplies by NumPy
        model.fit(infinite, y, epochs=1, batch_size=8, verbose=False)
    relu_network("cuda", x, y)
    assert all(done == asked > 0 for done, asked in _cublas.loaded().epilogues().values())


@pytest.mark.parametrize("name", EPILOGUES)
def test_a_trial_has_numbers_of_its_own(standin, name, monkeypatch):
    """A bias of NaN is not told from factors that are."""
    tried, run = [], _cublas.Cublas._run
    monkeypatch.setattr(
        _cublas.Cublas, "_run", lambda self, plan, c, a, b, v: tried.append((a, b)) or run(self, plan, c, a, b, v)
    )
    poor = driver.to_device(np.full(64, np.nan, np.float32))
    factors = Matrix(poor, 3, 2, 5, True), Matrix(poor, 16, 2, 3)
    vector = Matrix(driver.to_device(np.ones(3, np.float32)), 0, 1, 3)
    into = Matrix(driver.to_device(np.ones(15, np.float32)), 0, 5, 3)
    assert _cublas.loaded().product(into, *factors, epilogue=EPILOGUES[name], vector=vector)
    assert len(tried) == 2
    for own, given in zip(tried[0], factors, strict=True):
        assert (own[2:], own.alignment) == (given[2:], given.alignment)
        assert np.isfinite(own.to_host()).all()


def relu_network(device, x, y, dropout=0.0):
    """Train for 3 steps and evaluate; return the weights and both losses."""
    layers = [fastnn.Dense(4, "relu"), *([fastnn.Dropout(dropout)] if dropout else []), fastnn.Dense(3, use_bias=False)]
    model = fastnn.Sequential(
        [*layers, fastnn.Dense(3)], "cross_entropy", fastnn.SGD(0.1), device=device, seed=2, input_size=2
    )
    history = model.fit(x, y, batch_size=4, epochs=1, verbose=False)
    return [*model.get_weights(), *history.history["loss"], model.evaluate(x, y)["loss"]]


@pytest.mark.parametrize("none_for", [(), EPILOGUES.values()])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_network_with_and_without_epilogues(standin, rng, none_for, dropout):
    x, y = rng.normal(size=(12, 2)).astype(np.float32), rng.integers(0, 3, 12)
    standin.none_for.update(none_for)
    for got, want in zip(relu_network("cuda", x, y, dropout), relu_network("cpu", x, y, dropout), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    standin.epilogues.clear()
    relu_network("cuda", x, y, dropout)  # all that can be done is known
    plain, bias, relu, sums = (standin.epilogues.count(each) for each in (_cublas.PLAIN, *EPILOGUES.values()))
    if none_for:
        assert (bias, relu, sums) == (0, 0, 0)
        assert plain == 3 * (3 + 3 + 2) + 3
    else:  # dropout is behind ReLU in training, not in the evaluation; one layer has no bias
        assert (bias, relu, sums) == (3 + 1, 1 if dropout else 3 + 1, 3 * 2)
        assert plain == 3 * (1 + 1 + 2) + 1 + (3 if dropout else 0)


def test_gradients_of_biases_are_added_up_by_chunks_of_rows(standin, rng):
    """Where no epilogue does it: 11 rows, of which a block of the simulator has four."""
    x, y = rng.normal(size=(11, 2)), rng.integers(0, 2, 11)
    standin.none_for.update(EPILOGUES.values())
    weights = []
    for device in ("cpu", "cuda"):
        model = fastnn.Sequential(LAYERS, "cross_entropy", fastnn.SGD(0.5), device=device, dtype="float64", seed=1)
        model.fit(x, y, batch_size=11, epochs=1, verbose=False)
        weights.append(model.get_weights())
    for got, want in zip(*weights, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


def shortened(x, kind):
    """Round to the significant bits that a format has: 11 in tf32, 8 in bf16."""
    bits = {"float32": 24, "tf32": 11, "bf16": 8}[kind]
    fraction, exponent = np.frexp(np.asarray(x, np.float64))
    return np.ldexp(np.rint(fraction * 2.0**bits) / 2.0**bits, exponent)


def oracle_step(x, t, weights, lr, kind):
    """One step of gradient descent of a tanh network on the squared error in float64, factors rounded."""

    def product(a, b):
        return shortened(a, kind) @ shortened(b, kind)

    w0, b0, w1, b1 = (np.asarray(w, np.float64) for w in weights)
    h = np.tanh(product(x, w0) + b0)
    d1 = 2.0 * (product(h, w1) + b1 - t) / t.size
    d0 = product(d1, w1.T) * (1 - h**2)
    gradients = product(x.T, d0), d0.sum(axis=0), product(h.T, d1), d1.sum(axis=0)
    return [w - lr * g for w, g in zip((w0, b0, w1, b1), gradients, strict=True)]


@pytest.mark.parametrize("kind", ["float32", "tf32", "bf16"])
def test_factors_are_rounded_and_weights_are_not(standin, kind, rng):
    x, t = rng.normal(size=(9, 5)).astype(np.float32), rng.normal(size=(9, 3)).astype(np.float32)
    model = fastnn.Sequential(
        [fastnn.Dense(6, "tanh"), fastnn.Dense(3)], "squared_error", fastnn.SGD(0.5), device="cuda", input_size=5,
        matmul_precision=kind,
    )  # fmt: skip
    before = model.get_weights()
    model.fit(x, t, batch_size=9, epochs=1, shuffle=False, verbose=False)
    assert set(standin.kinds) == {kind}
    exact = oracle_step(x, t, before, 0.5, "float32")
    for got, want, full in zip(model.get_weights(), oracle_step(x, t, before, 0.5, kind), exact, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
        if kind != "float32" and want.ndim == 2:
            assert np.abs(full - want).max() > 1e-5  # the tolerance tells the precisions apart
    standin.kinds.clear()
    model.fit(x, t, batch_size=9, epochs=1, shuffle=False, verbose=False)  # whose epilogues were tried before
    assert standin.kinds == [kind] * 5  # two forward, two gradients of weights, one of a hidden layer


LAYERS = [fastnn.Dense(3, "gelu"), fastnn.Dropout(0.3), fastnn.Activation("tanh"), fastnn.Dense(2)]


def trained(x, y, epochs=1, dtype="float32"):
    """Return the bits that training leads to, and its history: batches of 2, the last of 1."""
    optimizer = fastnn.Adam(fastnn.StepDecay(0.05, 0.5, every=2, unit="step"), clip_norm=0.5)
    model = fastnn.Sequential(LAYERS, "cross_entropy", optimizer, seed=4, l2=0.01, device="cuda", dtype=dtype)
    history = model.fit(x, y, batch_size=2, epochs=epochs, sample_weight=np.linspace(0.5, 2, len(x)), verbose=False)
    return b"".join(w.tobytes() for w in model.get_weights()), history.history["loss"]


@pytest.fixture
def samples(rng, monkeypatch):
    monkeypatch.setattr(launches, "LEAST_REPLAYS", 1)
    monkeypatch.setattr(CudaRuntime, "first_steps", Runtime.first_steps)
    monkeypatch.setattr(training, "CALL_SECONDS", 1e9)  # calls of 1, 4 and 1 steps, then of all 6 of an epoch
    return rng.normal(size=(11, 2)), rng.integers(0, 2, 11)


def plainly(monkeypatch, x, y, **settings):
    """What the same launches one by one lead to."""
    with monkeypatch.context() as patch:
        patch.setattr(launches, "LEAST_REPLAYS", 10**9)
        return trained(x, y, **settings)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_graph_gives_the_bits_of_its_launches(standin, samples, monkeypatch, dtype):
    epochs = 2 if dtype == "float32" else 1
    want = plainly(monkeypatch, *samples, epochs=epochs, dtype=dtype)
    assert (standin.replays, launches.how()) == (0, "a launch each")
    assert trained(*samples, epochs=epochs, dtype=dtype) == want
    # The call of 4: one step plainly, one in both ways, two by the graph. Then 5 whole batches in epoch 2.
    assert (standin.replays, standin.alive) == (3 + 5 * (epochs - 1), 0)
    assert launches.how() == "a CUDA graph"
    standin.replays = 0
    assert trained(*samples, epochs=epochs, dtype=dtype) == want
    assert (standin.replays, standin.alive) == (4 + 5 * (epochs - 1), 0)


@pytest.mark.parametrize("lost", [1, 2])
def test_a_graph_that_does_something_else_is_not_used(standin, samples, monkeypatch, lost):
    want = plainly(monkeypatch, *samples)
    standin.lost = lost  # the end of the step; the update, too
    assert trained(*samples) == want
    assert launches.how().startswith("a launch each, since a CUDA graph could not be used: its ")
    assert "are not those of the same launches one by one" in launches.how()
    assert ("params" in launches.how()) == (lost == 2)
    assert (standin.replays, standin.alive) == (1, 0)


@pytest.mark.parametrize(
    "name", ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags", "cuGraphLaunch"]
)
def test_what_cannot_be_recorded_is_launched(standin, samples, monkeypatch, name):
    want = plainly(monkeypatch, *samples)
    standin.statuses[name] = 900
    assert trained(*samples) == want
    assert launches.how() == (
        f"a launch each, since a CUDA graph could not be used: {name}: got status 900 from the CUDA driver, expected 0"
    )
    assert standin.alive == 0


def test_a_product_that_cannot_be_recorded_leaves_the_stream_usable(standin, samples, monkeypatch):
    want = plainly(monkeypatch, *samples)
    gemm = standin._cublasLtMatmul
    monkeypatch.setattr(standin, "_cublasLtMatmul", lambda *a: 15 if standin.recording else gemm(*a))
    assert trained(*samples) == want
    assert launches.how().endswith("cublasLtMatmul: got status 15 from cuBLAS, expected 0")
    assert (standin.recording, standin.alive) == (False, 0)


def test_a_driver_without_graphs_launches(standin, samples, monkeypatch):
    want = plainly(monkeypatch, *samples)
    monkeypatch.setattr(graph, "functions", lambda: graph.prepared(object()))
    assert trained(*samples) == want
    assert "has no attribute 'cuStreamBeginCapture_v2'" in launches.how()


def test_a_graph_stops_where_the_loss_is_not_finite(standin, samples):
    x, y = samples
    model = fastnn.Sequential(LAYERS, "cross_entropy", fastnn.SGD(0.01), device="cuda", check_finite=False)
    model.fit(x, y, batch_size=2, epochs=1, shuffle=False, verbose=False)
    before, replays = model.get_weights(), standin.replays
    x[6] = np.nan  # the fourth of 5 whole batches, the third of a call of 4
    with pytest.raises(fastnn.TrainingDiverged, match="loss: became NaN or infinite in step 10 "):
        model.fit(x, y, batch_size=2, epochs=1, shuffle=False, verbose=False)
    assert standin.replays - replays == 4  # what comes behind the third does nothing
    assert launches.how() == "a CUDA graph"
    for got, want in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("lost", [0, 2])
@pytest.mark.parametrize("row", [0, 2])
def test_steps_of_which_one_diverges_prove_no_graph(standin, samples, monkeypatch, row, lost):
    """The first step is done plainly, the second in both ways: behind an infinite loss both do nothing alike."""
    x, y = samples
    want = plainly(monkeypatch, x, y)
    standin.lost = lost
    monkeypatch.setattr(CudaRuntime, "first_steps", lambda self, batch: 5)
    bad = x.copy()
    bad[row] = np.nan
    optimizer = fastnn.Adam(fastnn.StepDecay(0.05, 0.5, every=2, unit="step"), clip_norm=0.5)
    model = fastnn.Sequential(LAYERS, "cross_entropy", optimizer, seed=4, l2=0.01, device="cuda", check_finite=False)
    with pytest.raises(fastnn.TrainingDiverged, match=f"in step {row // 2 + 1} "):
        model.fit(bad, y, batch_size=2, epochs=1, shuffle=False, verbose=False)
    assert (launches._proven, standin.alive) == ({}, 0)
    assert trained(x, y) == want
    assert ("params" in launches.how()) == (lost == 2)


def test_precision_goes_where_the_model_goes_but_not_into_its_file(standin, rng, tmp_path):
    x, y = rng.normal(size=(9, 4)), rng.integers(0, 3, 9)
    model = fastnn.Sequential([fastnn.Dense(3)], "cross_entropy", device="cuda", matmul_precision="tf32")
    model.fit(x, y, epochs=1, verbose=False)
    model.save(tmp_path / "m.safetensors")
    assert fastnn.load(tmp_path / "m.safetensors").matmul_precision == "float32"
    for other in (
        fastnn.load(tmp_path / "m.safetensors", device="cuda", matmul_precision="tf32"),
        model.clone(),
        model.clone(weights=False),
    ):
        assert (other.device, other.matmul_precision) == ("cuda", "tf32")
        standin.kinds.clear()
        other.fit(x, y, epochs=1, verbose=False)
        assert set(standin.kinds) == {"tf32"}
    config = fastnn.saving.config_of(model)
    with pytest.raises(ValueError, match="config: got a matmul_precision, expected none"):
        fastnn.saving.model_from_config(fastnn.Sequential, {**config, "matmul_precision": "bf16"})


def test_what_cannot_be_multiplied_so_is_refused(standin, tmp_path, monkeypatch):
    def make(**settings):
        return fastnn.Sequential([fastnn.Dense(2)], "huber", input_size=3, **settings)

    with pytest.raises(ValueError, match=r"matmul_precision: got 'tf23', expected one of .*Did you mean 'tf32'\?"):
        make(device="cuda", matmul_precision="tf23")
    with pytest.raises(ValueError, match="matmul_precision: got 'bf16' with device='cpu', expected 'float32'"):
        make(matmul_precision="bf16")
    with pytest.raises(ValueError, match="matmul_precision: got 'tf32' with dtype float64, expected 'float32', or"):
        make(matmul_precision="tf32", device="cuda", dtype="float64")
    make(dtype="float64").save(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"^matmul_precision: got 'tf32' with dtype float64"):
        fastnn.load(tmp_path / "m.safetensors", device="cuda", matmul_precision="tf32")
    assert make(device="auto", matmul_precision="tf32").matmul_precision == "tf32"
    monkeypatch.setattr(_cublas, "TENSOR_CORES_FROM", (8, 0))
    monkeypatch.setattr(_cublas, "capability", lambda: (7, 5))
    with pytest.raises(
        RuntimeError, match=r"got 'tf32', but this device has compute capability 7\.5, and tf32 takes 8"
    ):
        make(device="cuda", matmul_precision="tf32")
    assert make(device="auto", matmul_precision="tf32").matmul_precision == "float32"
    assert make(device="cuda").matmul_precision == "float32"


def test_what_would_run_stage_by_stage_is_handed_over_earlier(standin, monkeypatch):
    monkeypatch.setattr(launches, "WORTH_FLOPS", 2e10)
    assert launches.is_worth(1e9, True)
    assert not launches.is_worth(1e9, False)
    assert launches.is_worth(1e11, False)
    assert not launches.is_worth(1e6, True)


def test_without_the_library_a_sentence_says_so():
    with pytest.raises(RuntimeError, match="matmul_precision: got 'tf32', but Numba's simulator has no cuBLAS"):
        fastnn.Sequential([fastnn.Dense(2)], "huber", device="cuda", matmul_precision="tf32")
    assert _cublas.loaded() is None
    assert not launches.is_worth(1e15, True)


def test_a_library_that_cannot_be_loaded_says_how_to_get_it(monkeypatch):
    _cublas._open.cache_clear()
    monkeypatch.setattr(_cublas, "SIMULATED", False)
    monkeypatch.setattr(_cublas, "FILES", ("no-such-library.so",))
    monkeypatch.setattr(_cublas, "current", lambda: 0)
    monkeypatch.setitem(__import__("sys").modules, "cuda.pathfinder", None)
    try:
        assert _cublas.loaded() is None
        for part in ("cuBLAS cannot be used (", "no-such-library.so", "pip install 'fastnn[cuda]' brings it"):
            assert part in _cublas.missing()
    finally:
        _cublas._open.cache_clear()


def test_estimators_multiply_so_too(standin, rng):
    pytest.importorskip("sklearn")
    x, y = rng.normal(size=(20, 3)).astype(np.float32), rng.integers(0, 3, 20)
    options = {"hidden_layer_sizes": (4,), "max_iter": 2, "batch_size": 8, "random_state": 0, "device": "cuda"}
    with pytest.warns(UserWarning, match="max_iter"):
        fastnn.MLPClassifier(**options, matmul_precision="bf16").fit(x, y)
    assert set(standin.kinds) == {"bf16"}
    with pytest.raises(ValueError, match="matmul_precision: got 'bf16' with dtype float64"):
        fastnn.MLPClassifier(**options, matmul_precision="bf16").fit(x.astype(float), y)


def test_the_check_of_a_device_finds_nothing_and_would_find_something(standin, monkeypatch):
    from fastnn.cuda import check

    monkeypatch.setattr(training, "CALL_SECONDS", 1e9)
    results = list(check.check_library("float32", np.random.default_rng(0)))
    assert len(results) > 25
    assert not any(results)
    assert standin.replays > 0
    assert check.describe_library().startswith(
        "large networks take their products from cuBLASLt 13.2, and a step is a CUDA"
    )
    assert "asked for): bias 33 of 33, bias and ReLU 27 of 27, sums" in check.describe_library()
    monkeypatch.setattr(standin, "spoil", halves_sums)
    _cublas.loaded()._plans.clear()
    assert not any(itertools.islice(check.check_library("float32", np.random.default_rng(0)), 50))
    assert "sums of columns 0 of " in check.describe_library()
    monkeypatch.setattr(_cublas.Cublas, "_does", lambda *a: True)
    _cublas.loaded()._plans.clear()
    assert "are off" in next(filter(None, check.check_library("float32", np.random.default_rng(0))))
    monkeypatch.setattr(standin, "spoil", None)
    monkeypatch.setattr(_cublas, "COMPUTE_32F", {"float32": 75})  # rounds what shall not be rounded
    _cublas.loaded()._plans.clear()
    assert "are off" in next(filter(None, check.check_library("float32", np.random.default_rng(0))))
    monkeypatch.setattr(_cublas, "_open", lambda device: "nothing is there")
    assert not list(check.check_library("float32", np.random.default_rng(0)))
    assert check.describe_library().endswith("nothing is there")


class Bound:
    """A handle of NVIDIA's bindings."""

    def __init__(self, address=5):
        self.address = address

    def __int__(self):
        return self.address


class CUkernel(Bound):
    """One of a library."""


def test_the_address_of_a_stream_in_every_form_that_numba_has():
    for handle, want in ((ctypes.c_void_p(5), 5), (Bound(), 5), (5, 5), (ctypes.c_void_p(), 0)):
        assert _numba.pointer(SimpleNamespace(handle=handle)) == want
    assert _numba.pointer(0) == 0


class Card:
    """A device, with a driver called through C with the prototypes of its header, and kernels as Numba has them.

    Attributes
    ----------
    told : list
        Which call asked, for which function, which attribute, and for what.
    status : int
        What the driver answers.
    """

    def __init__(self, monkeypatch, most=232_448):
        self.told, self.status, self.compiled = [], 0, []
        self.device = SimpleNamespace(id=3, MAX_SHARED_MEMORY_PER_BLOCK_OPTIN=most)
        of_function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
        of_kernel = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
        self.library = SimpleNamespace(
            cuFuncSetAttribute=of_function(lambda f, which, value: self.tell("function", f, which, value)),
            cuKernelSetAttribute=of_kernel(lambda which, value, f, on: self.tell(f"kernel on {on}", f, which, value)),
        )
        monkeypatch.setattr(_numba, "SIMULATED", False)
        monkeypatch.setattr(_numba, "driver", SimpleNamespace(get_current_device=lambda: self.device))
        monkeypatch.setattr(_numba, "_library", lambda: self.library)
        monkeypatch.setattr(_numba, "_most_shared", inspect.unwrap(_numba._most_shared))

    def tell(self, *what):
        self.told.append(what)
        return self.status

    def kernel(self, handle, loaded=True):
        def compile_it(types):
            self.compiled.append(types)
            library = SimpleNamespace(get_cufunc=lambda: SimpleNamespace(handle=handle))
            made.overloads[types] = SimpleNamespace(_codelibrary=library)

        made = SimpleNamespace(overloads={}, compile=compile_it, typeof_pyval=type)
        if loaded:
            compile_it(())
        return made


ADDRESS = 0x7F00_DEAD_BEE0
HANDLES = {
    "ctypes": (ctypes.c_void_p(ADDRESS), "function"),
    "NVIDIA's function": (Bound(ADDRESS), "function"),
    "NVIDIA's kernel": (CUkernel(ADDRESS), "kernel on 3"),
}


@pytest.mark.parametrize("form", HANDLES)
def test_a_kernel_asks_for_shared_memory(form, monkeypatch):
    card, (handle, call) = Card(monkeypatch), HANDLES[form]
    kernel = card.kernel(handle, loaded=False)
    for size in (100_000, 60_000):
        _numba.ask_for_shared(kernel, (1, 2.0), size)
    assert card.compiled == [(int, float)]
    assert card.told == [(call, ADDRESS, 8, 100_000), (call, ADDRESS, 8, 60_000)]


@pytest.mark.parametrize("form", HANDLES)
def test_what_a_block_may_have(form, monkeypatch):
    card = Card(monkeypatch)
    monkeypatch.setattr(_numba, "_smallest", lambda: card.kernel(HANDLES[form][0]))
    assert _numba.most_shared() == 232_448
    assert card.told == [(HANDLES[form][1], ADDRESS, 8, 232_448)]


def test_a_block_has_48_kilobytes_where_it_may_not_ask_for_more(monkeypatch):
    card = Card(monkeypatch)
    monkeypatch.setattr(_numba, "_smallest", lambda: card.kernel(CUkernel(ADDRESS)))
    card.status = 1
    assert _numba.most_shared() == 48 * 1024
    assert len(card.told) == 1
    card.status, card.library = 0, SimpleNamespace()  # an old driver
    assert _numba.most_shared() == 48 * 1024
    card = Card(monkeypatch)
    monkeypatch.setattr(_numba, "_smallest", lambda: SimpleNamespace(overloads={1: "of another Numba"}))
    assert _numba.most_shared() == 48 * 1024
    for most in (None, 0, 48 * 1024):  # a device of which nobody knows, or that has no more
        card = Card(monkeypatch, most)
        monkeypatch.setattr(_numba, "_smallest", lambda card=card: card.kernel(CUkernel(ADDRESS)))
        assert _numba.most_shared() == 48 * 1024
        assert not card.told
