"""Networks from others and to others: the same numbers on both sides, and clear words where that cannot be."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
from support import run_python

import fastnn
from fastnn import Activation, Dense, Dropout, Rescale, Sequential
from fastnn.activations import NAMES

pytestmark = pytest.mark.usefixtures("one_thread")

INPUTS = 6
SCALES, OFFSETS = [0.5, -2.0, 1.0, 0.1, 3.0, 1.5], [0.0, 1.0, -0.5, 2.0, 0.25, -3.0]

# Every layer kind, every activation within the network, every output.
NETWORKS = {
    **{name: [Dense(7, name), Dense(3)] for name in NAMES if name != "softmax"},
    **{f"{name} of its own": [Dense(4), Dropout(0.5), Activation(name), Dense(3)] for name in ("gelu", "elu", "tanh")},
    "softmax": [Dense(7, "relu"), Dense(3, "softmax")],
    "softmax of its own": [Dense(3), Activation("softmax")],
    "sigmoid output": [Dense(7, "relu"), Dense(1, "sigmoid")],
    "dropout": [Dropout(0.3), Dense(5, "relu"), Dropout(0.5), Dense(2), Dropout(0.1)],
    "no bias": [Dense(5, "silu", use_bias=False), Dense(2, use_bias=False)],
    "one rescale for all": [Rescale(1 / 255), Dense(4, "relu"), Dense(2)],
    "a rescale for each": [Rescale(SCALES, OFFSETS), Dense(4, "relu"), Dense(2)],
    "a rescale without bias": [Rescale(0.5, -0.25), Dropout(0.2), Dense(4, use_bias=False)],
    "deep": [Dense(11, "leaky_relu")] * 9 + [Dense(2)],
}
LOSSES = {"softmax": "cross_entropy", "softmax of its own": "cross_entropy", "sigmoid output": "binary_cross_entropy"}


def model_of(name, dtype):
    """A built network with weights and biases that all matter."""
    loss = LOSSES.get(name, "squared_error")
    model = Sequential(NETWORKS[name], loss, input_size=INPUTS, dtype=dtype, seed=3)
    rng = np.random.default_rng(4)
    model.set_weights([rng.normal(size=weight.shape) * 0.7 for weight in model.get_weights()])
    return model


def samples(dtype, rows=50):
    """Rows on both sides of 0, some far from it."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(rows, INPUTS))
    x[::5] *= 8.0
    return x.astype(dtype)


def close(got, want, dtype, tolerance=1e-5):
    """Relative to the largest output; 1e-12 where all is computed in float64."""
    assert got.dtype == want.dtype == dtype
    assert got.shape == want.shape
    assert np.abs(want).max() > 1e-3, "or zeros would pass"
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(1.0, np.abs(want).max()))


# ----------------------------------------------------------------------------------------------- PyTorch


@pytest.mark.torch
@pytest.mark.parametrize("name", NETWORKS)
def test_to_torch_gives_the_same_outputs(torch, name, dtype):
    model = model_of(name, dtype)
    x = samples(dtype)
    module = model.to_torch()
    exact = 1e-8 if name == "softplus" else 1e-12  # PyTorch's is z from 20 on, e^-20 off
    with torch.no_grad():
        close(module(torch.tensor(x)).numpy(), model.predict(x), dtype, 1e-5 if dtype == np.float32 else exact)
    assert not module.training


@pytest.mark.torch
def test_the_state_dict_loads_into_the_network_written_by_hand(torch):
    nn = torch.nn
    layers = [Dense(7, "relu"), Dropout(0.2), Dense(5, "tanh", use_bias=False), Dense(3)]
    model = Sequential(layers, "cross_entropy", input_size=INPUTS)
    by_hand = nn.Sequential(
        nn.Linear(INPUTS, 7), nn.ReLU(), nn.Dropout(0.2), nn.Linear(7, 5, bias=False), nn.Tanh(), nn.Linear(5, 3)
    )
    state = model.to_torch_state_dict()
    assert list(state) == ["0.weight", "0.bias", "3.weight", "5.weight", "5.bias"]
    assert tuple(state["0.weight"].shape) == (7, INPUTS)
    by_hand.load_state_dict(state)
    assert str(model.to_torch()) == str(by_hand), "each module is there, with its numbers"
    x = samples("float32")
    with torch.no_grad():
        close(by_hand.eval()(torch.tensor(x)).numpy(), model.predict(x), np.float32)


@pytest.mark.torch
def test_to_torch_copies_and_draws_nothing(torch):
    model = model_of("relu", "float32")
    before = torch.random.get_rng_state()
    module = model.to_torch()
    assert torch.equal(before, torch.random.get_rng_state())
    weights = [weight.copy() for weight in model.get_weights()]
    with torch.no_grad():
        for parameter in module.parameters():
            assert parameter.requires_grad
            parameter.zero_()
    for got, want in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.torch
def test_a_rescale_without_a_dense_has_no_module(torch):
    model = Sequential([Rescale(2.0), Activation("tanh"), Dense(1)], "squared_error", input_size=2)
    with pytest.raises(ValueError, match="layers: got a Rescale with no Dense behind it"):
        model.to_torch()
    with pytest.raises(ValueError, match="layers: got a Rescale with no Dense behind it"):
        Sequential([Rescale(2.0)], "squared_error", input_size=2).to_torch()


@pytest.mark.torch
@pytest.mark.parametrize("name", [name for name in NETWORKS if "rescale" not in name])
def test_there_and_back(torch, name, dtype):
    model = model_of(name, dtype)
    again = fastnn.from_torch(model.to_torch(), seed=9)
    assert (again.loss, again.dtype, again.seed) == (model.loss, model.dtype, 9)
    for got, want in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(got, want)
    x = samples(dtype)
    np.testing.assert_array_equal(again.predict(x), model.predict(x))


@pytest.mark.torch
def test_from_torch_reads_the_usual_networks(torch):
    nn = torch.nn
    net = nn.Sequential(
        nn.Flatten(),
        nn.Sequential(nn.Linear(8, 6), nn.Identity(), nn.GELU()),
        nn.Dropout(0.25),
        nn.Linear(6, 4),
        nn.Softmax(dim=1),
    )
    model = fastnn.from_torch(net, optimizer="sgd", l2=0.1)
    assert model.layers == (Dense(6, "gelu"), Dropout(0.25), Dense(4, "softmax"))
    assert (model.loss.name, model.optimizer, model.l2) == ("cross_entropy", fastnn.SGD(), 0.1)
    x = np.random.default_rng(0).normal(size=(9, 2, 4)).astype(np.float32)
    with torch.no_grad():
        close(model.predict(x), net.eval()(torch.tensor(x)).numpy(), np.float32)
    model.fit(x, np.arange(9) % 4, epochs=1)
    logits = fastnn.from_torch(nn.Linear(3, 2), loss="cross_entropy")
    assert logits.predict_proba(np.ones((1, 3), np.float32)).sum() == pytest.approx(1)
    half = nn.Linear(3, 2).to(torch.bfloat16)
    np.testing.assert_array_equal(fastnn.from_torch(half).get_weights()[0], half.weight.detach().float().numpy().T)


@pytest.mark.torch
def test_a_module_that_stands_twice_is_two_layers(torch):
    nn = torch.nn
    linear, relu = nn.Linear(4, 4), nn.ReLU()
    module = nn.Sequential(linear, relu, linear, relu, nn.Linear(4, 2))
    model = fastnn.from_torch(module)
    assert [layer.activation for layer in model.layers] == ["relu", "relu", "identity"]
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    np.testing.assert_allclose(model.predict(x), module(torch.tensor(x)).detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.torch
def test_what_computes_more_than_its_layers_is_refused(torch):
    class Tripled(torch.nn.Sequential):
        def forward(self, x):
            return 3 * super().forward(x)

    linear = torch.nn.Linear(4, 2)
    with pytest.raises(TypeError, match=r"^module 0: got Tripled with a forward of its own, expected torch.nn.Seq"):
        fastnn.from_torch(torch.nn.Sequential(Tripled(linear)))
    for register in (linear.register_forward_hook, linear.register_forward_pre_hook):
        hook = register(lambda *_: None)
        with pytest.raises(ValueError, match=r"^module 0: got Linear with forward hooks, expected none"):
            fastnn.from_torch(torch.nn.Sequential(linear))
        hook.remove()
    assert len(fastnn.from_torch(torch.nn.Sequential(linear)).layers) == 1


@pytest.mark.torch
def test_what_has_no_layer_is_named(torch):
    nn = torch.nn

    class Mine(nn.Linear):
        pass

    class Net(nn.Module):
        pass

    for module, message in (
        (nn.Sequential(nn.Linear(4, 4), nn.Conv1d(1, 1, 1)), r"^module 1: got Conv1d\(1, 1.*one of torch.nn's Dropout"),
        (nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))), r"^module 0\.1: got BatchNorm1d"),
        (nn.Sequential(Mine(2, 2)), r"^module 0: got Mine\("),
        (nn.Sequential(nn.Linear(2, 2), nn.Flatten(0)), r"^module 1: got Flatten"),
        (Net(), r"^module: got Net\(\)"),
        (3, r"^module: got 3 \(int\), expected a torch.nn.Sequential"),
        ({"0.weight": 1}, r"^module: got .* \(dict\), expected a torch.nn.Sequential; net.load_state_dict"),
        (None, r"^module: got None"),
    ):
        with pytest.raises(TypeError, match=message):
            fastnn.from_torch(module)
    for module, message in (
        (nn.ELU(0.5), r"^module 1: got ELU\(alpha=0\.5\) with alpha=0\.5, expected 1\.0, which fastnn's 'elu' has"),
        (nn.LeakyReLU(0.2), r"^module 1: .* with negative_slope=0\.2, expected 0\.01"),
        (nn.GELU("tanh"), r"^module 1: .* with approximate='tanh', expected 'none'"),
        (nn.Softplus(2), r"^module 1: .* with beta=2.*, expected 1\.0"),
        (nn.Softmax(0), r"^module 1: .* with dim=0, expected -1"),
        (nn.Dropout(1.0), r"^module 1: got Dropout of p=1, expected p < 1"),
        (nn.Linear(3, 1), r"^module 1: takes 3 inputs, expected the 2 outputs of the Linear before it"),
    ):
        with pytest.raises(ValueError, match=message):
            fastnn.from_torch(nn.Sequential(nn.Linear(2, 2), module))
    sparse = nn.Linear(2, 2)
    sparse.weight = nn.Parameter(sparse.weight.detach().to_sparse())
    for module, message in (
        (
            nn.Linear(2, 2, dtype=torch.complex64),
            r"^module 0: got a weight of torch.complex64.* floating point numbers",
        ),
        (nn.Linear(2, 2, device="meta"), r"^module 0: got a weight on the meta device, expected"),
        (nn.LazyLinear(2), r"^module 0: got LazyLinear\(.*\) without weights, expected a module that has seen a batch"),
        (sparse, r"^module 0: got a weight of torch.float32, torch.sparse_coo, expected a dense array"),
    ):
        with pytest.raises(ValueError, match=message):
            fastnn.from_torch(nn.Sequential(module))
    with pytest.raises(ValueError, match="module: got no Linear"):
        fastnn.from_torch(nn.Sequential(nn.ReLU()))
    with pytest.raises(ValueError, match="softmax in layer 0, expected it in the last"):
        fastnn.from_torch(nn.Sequential(nn.Linear(2, 2), nn.Softmax(-1), nn.Linear(2, 2)))


# ------------------------------------------------------------------------------------------ scikit-learn


def fitted(kind, y, dtype, **settings):
    networks = pytest.importorskip("sklearn.neural_network")
    x = samples(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 20 iterations are not enough
        mlp = getattr(networks, kind)(hidden_layer_sizes=(9, 5), max_iter=20, random_state=0, **settings).fit(x, y(x))
    return x, mlp


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_from_sklearn_classifier(activation, dtype):
    x, mlp = fitted("MLPClassifier", lambda x: np.array(["a", "b", "c"])[x[:, :3].argmax(axis=1)], dtype,
                    activation=activation)  # fmt: skip
    model = fastnn.from_sklearn(mlp, seed=7)
    assert (model.loss.name, model.dtype, model.seed) == ("cross_entropy", dtype, 7)
    close(model.predict(x), mlp.predict_proba(x), dtype)
    np.testing.assert_array_equal(mlp.classes_[model.predict_class(x)], mlp.predict(x))
    model.fit(x, model.predict_class(x), epochs=1)


def test_from_sklearn_two_classes_and_many_labels():
    x, mlp = fitted("MLPClassifier", lambda x: np.where(x[:, 0] > 0, "yes", "no"), "float64")
    model = fastnn.from_sklearn(mlp)
    assert model.loss.name == "binary_cross_entropy"
    close(model.predict(x), mlp.predict_proba(x)[:, 1:], np.float64)
    np.testing.assert_array_equal(mlp.classes_[model.predict_class(x)], mlp.predict(x))
    x, mlp = fitted("MLPClassifier", lambda x: (x[:, :4] > 0).astype(int), "float64")
    model = fastnn.from_sklearn(mlp)
    close(model.predict(x), mlp.predict_proba(x), np.float64)
    np.testing.assert_array_equal(model.predict_class(x), mlp.predict(x))


@pytest.mark.parametrize("outputs", [1, 2])
def test_from_sklearn_regressor(outputs, dtype):
    x, mlp = fitted("MLPRegressor", lambda x: x[:, 0] if outputs == 1 else x[:, :2], dtype)
    model = fastnn.from_sklearn(mlp, loss="huber")
    assert model.loss == fastnn.Huber()
    close(model.predict(x), mlp.predict(x).reshape(-1, outputs), dtype)


def test_from_fastnn_s_own_estimators(dtype):
    pytest.importorskip("sklearn")
    x = samples(dtype)
    settings = {"hidden_layer_sizes": (9, 5), "max_iter": 5, "random_state": 0, "tol": 0.0, "n_iter_no_change": 9}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classifier = fastnn.MLPClassifier(activation=["gelu", "logistic"], dropout=[0.25, 0.0], **settings)
        classifier.fit(x, np.array(["a", "b", "c"])[x[:, :3].argmax(axis=1)])
        regressor = fastnn.MLPRegressor(loss="huber", **settings).fit(x, x[:, 0])
    model = fastnn.from_sklearn(classifier)
    assert model.layers == (Dense(9, "gelu"), Dropout(0.25), Dense(5, "sigmoid"), Dense(3, "softmax"))
    assert model.loss == fastnn.CrossEntropy()
    close(model.predict(x), classifier.predict_proba(x), dtype)
    np.testing.assert_array_equal(classifier.classes_[model.predict_class(x)], classifier.predict(x))
    model = fastnn.from_sklearn(regressor)
    assert model.loss == fastnn.Huber()
    close(model.predict(x)[:, 0], regressor.predict(x), dtype)


def test_from_sklearn_takes_what_was_fitted_whatever_was_set_since():
    pytest.importorskip("sklearn")
    x = samples("float64")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = {"activation": "tanh", "dropout": [0.25, 0.0], "max_iter": 5, "random_state": 0}
        mlp = fastnn.MLPRegressor("huber", hidden_layer_sizes=(9, 5), **settings)
        mlp.fit(x, np.abs(x[:, 0]))
    mlp.set_params(hidden_layer_sizes=(3,), activation="relu", dropout=0.5, loss="poisson")
    model = fastnn.from_sklearn(mlp)
    assert model.layers == (Dense(9, "tanh"), Dropout(0.25), Dense(5, "tanh"), Dense(1))
    assert model.loss == fastnn.Huber()
    close(model.predict(x)[:, 0], mlp.predict(x), np.float64)


def test_from_sklearn_refuses_others():
    networks = pytest.importorskip("sklearn.neural_network")
    with pytest.raises(TypeError, match="mlp: got str, expected an MLPClassifier or MLPRegressor"):
        fastnn.from_sklearn("mlp")
    with pytest.raises(ValueError, match="mlp: got MLPRegressor without weights, expected one that is fitted"):
        fastnn.from_sklearn(networks.MLPRegressor())
    _, mlp = fitted("MLPRegressor", lambda x: np.abs(x[:, 0]), "float32")
    mlp.out_activation_ = "exp"  # what the loss "poisson" of newer versions has
    with pytest.raises(ValueError, match="mlp: got an output of 'exp', expected one of 'identity', 'logistic'"):
        fastnn.from_sklearn(mlp)


# -------------------------------------------------------------------------------------------------- ONNX


def test_what_an_onnx_file_does_not_hold_is_said_at_once(monkeypatch, tmp_path):
    model = model_of("deep", "float32")
    monkeypatch.setattr(fastnn.export, "MOST_ONNX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"^model: got 0\.00 GB of weights, expected less than 2\^31 bytes"):
        model.to_onnx(tmp_path / "net.onnx")
    assert not [*tmp_path.iterdir()]


@pytest.fixture(scope="session")
def onnx():
    """The onnx package; the test is skipped where it or onnxruntime is not installed."""
    pytest.importorskip("onnxruntime")
    return pytest.importorskip("onnx")


def onnx_outputs(model, x):
    """What onnxruntime computes from a file or from bytes."""
    import onnxruntime

    source = str(model) if not hasattr(model, "SerializeToString") else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    assert [(node.name, node.shape) for node in session.get_inputs()] == [("input", ["rows", x.shape[1]])]
    (output,) = session.get_outputs()
    assert (output.name, output.shape[0]) == ("output", "rows")
    return session.run(["output"], {"input": x})[0]


@pytest.mark.onnx
@pytest.mark.parametrize("name", NETWORKS)
def test_onnxruntime_computes_the_same(onnx, name, dtype, tmp_path):
    model = model_of(name, dtype)
    model.to_onnx(tmp_path / "m.onnx")
    exact = dtype == np.float64 and "gelu" not in name  # its erf is taken in float32
    for rows in (1, 50):
        x = samples(dtype, rows)
        close(onnx_outputs(tmp_path / "m.onnx", x), model.predict(x), dtype, 1e-12 if exact else 1e-5)


@pytest.mark.onnx
@pytest.mark.parametrize("name", [name for name in NAMES if name != "softmax"])
def test_activations_in_onnx_hold_far_from_zero(onnx, name, dtype):
    model = Sequential([Activation(name)], "squared_error", input_size=1, dtype=dtype)
    x = np.array([0.0, 1e-6, 1.0, 20.0, 90.0, 1e3, 1e6])
    x = np.concatenate([-x, x])[:, None].astype(dtype)
    with np.errstate(over="raise"):
        want = model.predict(x)
    np.testing.assert_allclose(onnx_outputs(model.to_onnx(), x), want, rtol=1e-5, atol=1e-6)


@pytest.mark.onnx
def test_an_onnx_file_names_its_weights_and_is_the_same_each_time(onnx, tmp_path):
    model = model_of("a rescale for each", "float32")
    proto = model.to_onnx(tmp_path / "one.onnx")
    model.to_onnx(str(tmp_path / "two.onnx"))
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
    assert onnx.load(tmp_path / "one.onnx") == proto
    arrays = {item.name: onnx.numpy_helper.to_array(item) for item in proto.graph.initializer}
    assert list(arrays) == ["rescale.scale", "rescale.offset"] + [
        f"dense_{i}.{part}" for i in (0, 1) for part in ("weight", "bias")
    ]
    np.testing.assert_array_equal(arrays["dense_1.weight"], model.get_weights()[2])
    assert (proto.producer_name, proto.producer_version) == ("fastnn", fastnn.__version__)


@pytest.mark.onnx
def test_a_network_that_does_nothing_is_a_file_too(onnx):
    model = Sequential([Dropout(0.5)], "squared_error", input_size=INPUTS)
    x = samples("float32")
    np.testing.assert_array_equal(onnx_outputs(model.to_onnx(), x), x)


@pytest.mark.onnx
def test_onnx_needs_weights_and_a_place(onnx, tmp_path):
    with pytest.raises(ValueError, match="no weights yet"):
        Sequential([Dense(1)], "squared_error").to_onnx(tmp_path / "m.onnx")
    with pytest.raises(OSError, match="missing"):
        model_of("relu", "float32").to_onnx(tmp_path / "missing" / "m.onnx")


# --------------------------------------------------------------------------------------- what is missing


@pytest.mark.parametrize(
    ("package", "use", "message"),
    [
        ("torch", lambda model: model.to_torch(), "torch is not installed .* for PyTorch modules: .*pytorch.org"),
        ("torch", lambda model: fastnn.from_torch(None), "torch is not installed .* for PyTorch modules"),
        ("onnx", lambda model: model.to_onnx(), r'onnx is not installed .*: pip install "fastnn\[onnx\]"'),
        (
            "sklearn",
            lambda model: fastnn.from_sklearn(None),
            "sklearn.* is not installed .*: pip install .fastnn.sklearn",
        ),
    ],
)
def test_what_is_not_installed_is_named(package, use, message, monkeypatch):
    for name in {package, *(name for name in sys.modules if name.split(".")[0] == package)}:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=message):
        use(model_of("relu", "float32"))


@pytest.mark.onnx
def test_onnx_is_loaded_for_a_file_only(onnx):
    script = """
import sys
import fastnn
model = fastnn.Sequential([fastnn.Dense(1)], "squared_error", input_size=1)
print("onnx" in sys.modules)
model.to_onnx()
print("onnx" in sys.modules, "torch" in sys.modules)
"""
    assert run_python(script).split() == ["False", "True", "False"]


def test_a_module_whose_forward_was_replaced_is_refused(torch):
    linear = torch.nn.Linear(3, 2)
    linear.forward = lambda x: x[:, :2]
    with pytest.raises(TypeError, match=r"^module 0: got Linear with a forward of its own"):
        fastnn.from_torch(torch.nn.Sequential(linear), loss="squared_error")
