"""Model files: round trips, what others can read in them, and everything that is not a whole model."""

from __future__ import annotations

import json
import os
import pickle
import stat
import struct
import threading
from dataclasses import dataclass

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from support import training_state, weight_bytes

import fastnn
from fastnn import Activation, Dense, Dropout, Initializer, ModelFileError, Rescale, Sequential, saving
from fastnn.schedules import Schedule

pytestmark = pytest.mark.usefixtures("one_thread")

INPUTS, CLASSES = 5, 3


def data():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(24, INPUTS)).astype(np.float32)
    return x, x[:, :CLASSES].argmax(axis=1)


def trained(optimizer="adam", layers=None, callbacks=(), epochs=2, **settings):
    layers = [Dense(4, "tanh"), Dropout(0.2), Dense(CLASSES)] if layers is None else layers
    model = Sequential(layers, "cross_entropy", optimizer, **{"seed": 1, **settings})
    x, y = data()
    model.fit(x, y, epochs=epochs, batch_size=7, validation_split=0.25, callbacks=callbacks)
    return model


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a good file, with the state of a callback and of a schedule in it."""
    rule = fastnn.SGD(fastnn.ReduceOnPlateau(0.1, patience=0), momentum=0.9)
    path = tmp_path_factory.mktemp("whole") / "m.safetensors"
    trained(rule, callbacks=[fastnn.EarlyStopping()]).save(path)
    return path.read_bytes()


# --------------------------------------------------------------------------------------- round trips

MODELS = {
    "adam": {},
    "sgd": {"optimizer": "sgd"},
    "momentum": {"optimizer": fastnn.SGD(0.01, momentum=0.5, nesterov=True, clip_norm=1.0, clip_value=0.5)},
    "adagrad": {"optimizer": fastnn.AdaGrad(0.02, eps=1e-5, eps_inside_sqrt=True)},
    "rmsprop": {"optimizer": fastnn.RMSprop(0.02, alpha=0.9, momentum=0.5, centered=True)},
    "amsgrad": {"optimizer": fastnn.Adam(0.02, betas=(0.8, 0.9), amsgrad=True)},
    "adamw": {"optimizer": fastnn.AdamW(0.02, weight_decay=0.1)},
    "step decay": {"optimizer": fastnn.SGD(fastnn.StepDecay(0.1, 0.7, every=2, unit="step"))},
    "exponential": {"optimizer": fastnn.SGD(fastnn.Exponential(0.1, 0.9))},
    "inverse time": {"optimizer": fastnn.SGD(fastnn.InverseTime(0.1, 0.5))},
    "cosine": {"optimizer": fastnn.SGD(fastnn.Cosine(0.1, steps=7, final=0.01))},
    "plateau": {"optimizer": fastnn.SGD(fastnn.Warmup(fastnn.ReduceOnPlateau(0.1, patience=0, min_delta=9), steps=3))},
    "float64": {"dtype": "float64"},
    "penalties": {"l1": 0.01, "l2": 0.02, "l1_mode": "truncate", "check_finite": False, "n_threads": 1},
    "largest seed": {"seed": 2**64 - 1},
    "layers": {
        "layers": [
            Rescale([1.0, 2.0, 0.5, 0.1, 3.0], -0.25),
            Dense(4, "gelu", use_bias=False, l1=0.01, kernel_initializer="orthogonal"),
            Dropout(0.125),
            Activation("softplus"),
            Dense(CLASSES, "softmax", l2=0.5, kernel_initializer=Initializer("he_normal", 0.5)),
        ]
    },
}


@pytest.mark.parametrize("case", MODELS)
def test_round_trip(case, path):
    model = trained(**MODELS[case])
    model.save(path)
    loaded = fastnn.load(path)
    assert training_state(loaded) == training_state(model)
    assert repr(loaded) == repr(model)
    for name in ("layers", "loss", "optimizer", "seed", "dtype", "l1", "l2", "l1_mode", "check_finite", "n_threads"):
        assert getattr(loaded, name) == getattr(model, name), name
    x, y = data()
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))
    for one in (loaded, model):
        one.fit(x, y, epochs=2, batch_size=7, validation_split=0.25)
    assert training_state(loaded) == training_state(model)


@pytest.mark.parametrize("loss", [fastnn.Huber(0.3), fastnn.AbsoluteError(), fastnn.BinaryCrossEntropy()])
def test_losses_round_trip(loss, path):
    x, _ = data()
    model = Sequential([Dense(2)], loss)
    model.fit(x, x[:, :2] > 0, epochs=1)
    model.save(path)
    assert fastnn.load(path).loss == loss == eval(repr(loss), vars(fastnn))
    assert fastnn.load(path).evaluate(x, x[:, :2] > 0) == model.evaluate(x, x[:, :2] > 0)


def test_the_same_model_makes_the_same_file(path, tmp_path):
    model = trained()
    model.save(path)
    model.save(str(tmp_path / "other"))
    assert path.read_bytes() == (tmp_path / "other").read_bytes()
    fastnn.load(path).save(path)
    assert path.read_bytes() == (tmp_path / "other").read_bytes()


def test_a_model_that_was_only_built_round_trips(path):
    model = Sequential([Dense(4), Dense(2)], "squared_error", input_size=3, seed=4)
    model.save(path)
    assert training_state(fastnn.load(path)) == training_state(model)


def test_weights_that_a_file_has_are_not_drawn_before(path, tmp_path, monkeypatch):
    """Orthogonal ones of 3,000 x 3,000 take half a minute."""
    model = trained()
    model.save(path)
    again = Sequential(model.layers, model.loss, model.optimizer, seed=1)
    monkeypatch.setattr(fastnn.model, "draw_weights", lambda *_: pytest.fail("drawn in vain"))
    assert weight_bytes(fastnn.load(path)) == weight_bytes(model)
    again.fit(*data(), epochs=2, batch_size=7, resume=path)
    assert weight_bytes(again) == weight_bytes(model)


def test_numbers_that_are_not_finite_round_trip(path):
    model = trained(epochs=1)
    x, y = data()
    model.fit(x, y, epochs=1)  # val_loss has a gap
    model.history.history["loss"][0] = float("inf")
    model.save(path)
    assert training_state(fastnn.load(path)) == training_state(model)


def test_a_model_without_weights_is_not_saved(path):
    with pytest.raises(ValueError, match="no weights yet"):
        Sequential([Dense(2)], "squared_error").save(path)
    assert os.listdir(path.parent) == []


# ------------------------------------------------------------------------------------ what others read


def test_the_tensors_have_readable_names(path):
    model = trained(fastnn.Adam())
    model.save(path)
    tensors = safetensors.numpy.load_file(path)
    assert {"dense_0.weight", "dense_0.bias", "dense_1.weight", "dense_1.bias"} <= set(tensors)
    assert {"optimizer.m", "optimizer.v"} <= set(tensors)
    names = ["dense_0.weight", "dense_0.bias", "dense_1.weight", "dense_1.bias"]
    for name, weight in zip(names, model.get_weights(), strict=True):
        np.testing.assert_array_equal(tensors[name], weight)
    with safetensors.safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["fastnn"])
    assert header["format"] == 1
    assert header["step"] == model.step > 0
    assert [layer["kind"] for layer in header["config"]["layers"]] == ["Dense", "Dropout", "Dense"]


@pytest.mark.torch
def test_torch_reads_the_tensors(path, torch):
    import safetensors.torch

    model = trained()
    model.save(path)
    tensors = safetensors.torch.load_file(path)
    x, _ = data()
    w0, b0, w1, b1 = (tensors[f"dense_{i}.{part}"] for i in (0, 1) for part in ("weight", "bias"))
    out = torch.tanh(torch.tensor(x) @ w0 + b0) @ w1 + b1
    np.testing.assert_allclose(out.numpy(), model.predict(x), rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------------- what is not a model


class Payload:
    """Pickled, it makes a directory when it is loaded."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


def refused(path, *words):
    """Loading must say that this is no model, name the file, and tell what was expected."""
    with pytest.raises(ModelFileError) as caught:
        fastnn.load(path)
    message = str(caught.value)
    assert str(path) in message
    for word in words:
        assert word in message, message
    assert "\n" not in message
    return message


def test_a_pickle_is_refused_and_not_run(path, tmp_path):
    mark = tmp_path / "ran"
    payload = pickle.dumps(Payload(mark))
    path.write_bytes(payload)
    refused(path, "expected a file written by model.save")
    assert not mark.exists()
    pickle.loads(payload)  # or the test would show nothing
    assert mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"not a model",
        b"\0" * 8,
        b"\xff" * 100,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 10**12) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"null",
        struct.pack("<Q", 60_000) + b"[" * 60_000,
        b"PK\x03\x04" + b"\0" * 60,
        b"\x93NUMPY\x01\x00" + b"\0" * 60,
        b"\x89HDF\r\n\x1a\n" + b"\0" * 60,
    ],
)
def test_other_files_are_refused(content, path):
    path.write_bytes(content)
    refused(path, "expected a file written by model.save")


def test_a_safetensors_file_of_someone_else_is_refused(path):
    safetensors.numpy.save_file({"dense_0.weight": np.ones((2, 2))}, path)
    refused(path, "no fastnn model")
    safetensors.numpy.save_file({"dense_0.weight": np.ones((2, 2))}, path, {"format": "pt"})
    refused(path, "no fastnn model")


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        fastnn.load(tmp_path / "missing")
    with pytest.raises(OSError, match="directory"):
        fastnn.load(tmp_path)


def load_or_refuse(path):
    """Return the model, or None where it is refused; any other exception is an error."""
    try:
        return fastnn.load(path)
    except ModelFileError:
        return None


def rewrite(content, path, change):
    """Write a file that is whole but says something else: `change` gets the header and the tensors."""
    path.write_bytes(content)
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping
    header = json.loads(metadata["fastnn"])
    changed = change(header, tensors)
    metadata["fastnn"] = changed if isinstance(changed, str) else json.dumps(header)
    if "sha256" in metadata:
        metadata["sha256"] = fastnn.saving.checksum(metadata["fastnn"], tensors)
    safetensors.numpy.save_file(tensors, path, metadata)


def test_rewriting_alone_changes_nothing(whole, path):
    """Or the tests below would show nothing."""
    rewrite(whole, path, lambda header, tensors: None)
    assert fastnn.load(path).step > 0


def put(*keys):
    """Return a change that sets header[key]...[key] to the last argument, or deletes it where that is `...`."""
    *places, last, value = keys

    def change(header, tensors):
        for place in places:
            header = header[place]
        if value is ...:
            del header[last]
        else:
            header[last] = value

    return change


def tensor(name, value):
    def change(header, tensors):
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value

    return change


LAYERS = ("config", "layers")
DAMAGED = {
    "no format": put("format", ...),
    "a word for the format": put("format", "1"),
    "no configuration": put("config", ...),
    "a list for the configuration": put("config", []),
    "no layers": put(*LAYERS, []),
    "a mapping of layers": put(*LAYERS, {"kind": "Dense"}),
    "an unknown layer": put(*LAYERS, 0, "kind", "Conv2D"),
    "a layer without kind": put(*LAYERS, 0, "kind", ...),
    "a layer of an unknown argument": put(*LAYERS, 0, "code", "import os"),
    "a layer of no units": put(*LAYERS, 0, "units", 0),
    "a layer of half a unit": put(*LAYERS, 0, "units", 4.5),
    "other units": put(*LAYERS, 0, "units", 5),
    "an unknown activation": put(*LAYERS, 0, "activation", "os.system"),
    "an unknown initializer": put(*LAYERS, 0, "kernel_initializer", "pickle"),
    "an initializer of unknown arguments": put(*LAYERS, 0, "kernel_initializer", {"nome": "zeros"}),
    "a dropout of everything": put(*LAYERS, 1, "rate", 1.0),
    "an unknown loss": put("config", "loss", {"name": "hinge"}),
    "no loss": put("config", "loss", ...),
    "an unknown optimizer": put("config", "optimizer", {"name": "Adam2"}),
    "an optimizer of other state": put("config", "optimizer", {"name": "Adam", "lr": 0.1}),
    "an unknown schedule": put("config", "optimizer", "lr", {"name": "Sawtooth"}),
    "an unknown dtype": put("config", "dtype", "float16"),
    "another dtype": put("config", "dtype", "float64"),
    "no input size": put("config", "input_size", None),
    "another input size": put("config", "input_size", 6),
    "an unknown setting": put("config", "device", "tape"),
    "a negative seed": put("config", "seed", -1),
    "a negative step": put("step", -1),
    "a step that is no integer": put("step", 1.5),
    "no step": put("step", ...),
    "no epoch": put("epoch", ...),
    "a word for the epoch": put("epoch", "3"),
    "no history": put("history", ...),
    "a history of words": put("history", "history", {"loss": ["low"]}),
    "a list for the history": put("history", []),
    "history columns of other lengths": put("history", "history", "loss", [1.0] * 9),
    "a stop without its epoch": put("history", "stops", [{"best_epoch": 0, "monitor": "loss", "restored": True}]),
    "a number for the stops": put("history", "stops", 3),
    "no state of the schedule": put("schedule", {}),
    "an unknown state of the schedule": put("schedule", {"now": 1}),
    "no callbacks": put("callbacks", ...),
    "a number for a callback": put("callbacks", "EarlyStopping", 5),
    "a list of callbacks": put("callbacks", [1]),
    "a weight missing": tensor("dense_0.weight", None),
    "a bias missing": tensor("dense_1.bias", None),
    "a state missing": tensor("optimizer.velocity", None),
    "a weight of another shape": tensor("dense_0.weight", np.ones((4, 5), np.float32)),
    "a weight of one dimension": tensor("dense_0.weight", np.ones(20, np.float32)),
    "a weight of another type": tensor("dense_0.weight", np.ones((5, 4))),
    "an empty weight": tensor("dense_0.weight", np.ones((0, 4), np.float32)),
    "a strange tensor": tensor("stranger", np.ones(2, np.float32)),
    "a strange tensor with dots": tensor("a.b.c", np.ones(2, np.float32)),
    "a state of another size": tensor("optimizer.velocity", np.ones(3, np.float32)),
    "a callback's tensor of another size": tensor("callback.EarlyStopping.best_params", np.ones(3, np.float32)),
    "a tensor of an unknown callback": tensor("callback.Nobody.best", np.ones(3, np.float32)),
    "a list for everything": lambda header, tensors: "[]",
    "no JSON": lambda header, tensors: "{",
    "nested JSON": lambda header, tensors: "[" * 100_000,
    "a number of many digits": lambda header, tensors: '{"format": ' + "9" * 10_000 + "}",
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_files_are_refused(damage, whole, path):
    rewrite(whole, path, DAMAGED[damage])
    refused(path)


def test_a_newer_format_is_refused(whole, path):
    rewrite(whole, path, put("format", 2))
    refused(path, "format 2", "newer fastnn", "reads up to 1")
    # Before anything else in it is looked at, which may well be different.
    rewrite(whole, path, lambda header, tensors: '{"format": 3}')
    refused(path, "format 3", "newer")


def test_a_file_that_speaks_of_a_huge_network_is_refused_without_making_one(whole, path, monkeypatch):
    class Watched(fastnn.model.Runtime):
        def __init__(self, network, *arguments):
            if network.params_size > len(whole):
                pytest.fail(f"made room for {network.params_size:,} parameters of a file of {len(whole):,} bytes")
            super().__init__(network, *arguments)

    rewrite(whole, path, lambda header, tensors: None)
    monkeypatch.setattr(fastnn.model, "Runtime", Watched)
    fastnn.load(path)
    rewrite(whole, path, put(*LAYERS, 0, "units", 20_000))
    refused(path)
    rewrite(whole, path, put(*LAYERS, 0, "units", 10**15))
    refused(path)


@pytest.mark.parametrize("kind", ["BF16", "F16", "F8_E4M3", "F8_E5M2", "BOOL", "I8", "U64", "F4", "X9"])
def test_other_types_of_tensors_are_refused(kind, whole, path):
    length = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + length])
    bits = {"BF16": 16, "F16": 16, "U64": 64, "F4": 4}.get(kind, 8)
    entry = header["dense_0.weight"]
    start, stop = entry["data_offsets"]
    entry["dtype"], entry["shape"] = kind, [(stop - start) * 8 // bits]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])
    refused(path)


def test_a_file_that_is_cut_short_is_refused(whole, path):
    lengths = {*range(0, 64), *range(64, len(whole), 41), *range(len(whole) - 64, len(whole))}
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        refused(path, "expected a file written by model.save")
    path.write_bytes(whole + b"\0")
    refused(path)


def flipped(whole, first, last, count):
    rng = np.random.default_rng(7)
    for position in sorted({*range(first, min(first + 40, last)), *rng.integers(first, last, size=count).tolist()}):
        bit = int(rng.integers(8))
        yield position, whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :]


def test_flipped_bits_of_the_header_are_refused(whole, path):
    end = 8 + struct.unpack("<Q", whole[:8])[0]
    taken = []
    for position, content in flipped(whole, 0, end, 500):
        path.write_bytes(content)
        if load_or_refuse(path) is not None:
            taken.append(position)
    assert taken == []


def test_flipped_bits_of_the_tensors_are_refused(whole, path):
    """A weight of another sign is no crash, but no model either."""
    start = 8 + struct.unpack("<Q", whole[:8])[0]
    taken = []
    for position, content in flipped(whole, start, len(whole), 60):
        path.write_bytes(content)
        if load_or_refuse(path) is not None:
            taken.append(position)
    assert taken == []


EDITS = st.tuples(st.integers(0, 10**6), st.integers(0, 40), st.binary(max_size=40))


@given(edits=st.lists(EDITS, min_size=1, max_size=4))
def test_mutated_files_never_do_anything_but_load_or_be_refused(edits, whole, tmp_path):
    """Bytes replaced, inserted and left out, anywhere."""
    content = whole
    for place, length, new in edits:
        place %= len(content) + 1
        content = content[:place] + new + content[place + length :]
    path = tmp_path / "mutated"
    path.write_bytes(content)
    model = load_or_refuse(path)
    if model is not None:
        assert model.predict(np.zeros((2, model.network.inputs))).shape == (2, model.network.units)


LEAVES = st.none() | st.booleans() | st.floats() | st.text(max_size=5)
NAMES = st.sampled_from(["format", "config", "float", "step", "x"])


@given(text=st.recursive(LEAVES, lambda inner: st.dictionaries(NAMES, inner, max_size=3), max_leaves=5))
def test_any_json_in_the_header_is_refused(text, whole, tmp_path):
    path = tmp_path / "mutated"
    rewrite(whole, path, lambda header, tensors: json.dumps(text))
    refused(path)


@given(
    place=st.integers(0, 10**6),
    value=st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=3),
)
def test_any_value_anywhere_in_the_header_is_taken_or_refused(place, value, whole, tmp_path):
    def change(header, tensors):
        places = []

        def collect(node):
            for key in list(node) if isinstance(node, dict) else range(len(node)):
                places.append((node, key))
                if isinstance(node[key], (dict, list)):
                    collect(node[key])

        collect(header)
        node, key = places[place % len(places)]
        # A network that is not the tensors' takes memory until they are compared: see the test of huge ones.
        node[key] = value % 1000 if isinstance(value, int) and not isinstance(value, bool) else value

    path = tmp_path / "mutated"
    rewrite(whole, path, change)
    x, _ = data()
    model = load_or_refuse(path)
    if model is not None:
        assert model.predict(x).shape == (24, CLASSES)


# -------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
def test_a_failed_save_leaves_the_old_file(failing, path, monkeypatch):
    old, new = trained(epochs=1), trained(epochs=3)
    old.save(path)
    before = path.read_bytes()

    def fail(*arguments, **named):
        raise OSError(28, "No space left on device")

    class Full:
        def __init__(self, path, mode):
            self.file = open(path, mode)  # noqa: SIM115, closed by __exit__

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            self.file.close()

        def write(self, content):
            self.file.write(content[: len(content) // 2])
            fail()

    with monkeypatch.context() as patch:
        if failing == "write":
            patch.setattr(fastnn.saving, "open", Full, raising=False)
        else:
            patch.setattr(os, failing, fail)
        with pytest.raises(OSError, match="No space left"):
            new.save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name], "nothing is left lying about"
    assert weight_bytes(fastnn.load(path)) == weight_bytes(old)
    new.save(path)
    assert weight_bytes(fastnn.load(path)) == weight_bytes(new)


def test_a_directory_that_is_not_there(tmp_path):
    model = trained()
    with pytest.raises(FileNotFoundError):
        model.save(tmp_path / "missing" / "m")
    with pytest.raises(OSError, match="directory"):
        model.save(tmp_path)
    assert os.listdir(tmp_path) == []


def test_the_file_has_the_usual_permissions(path):
    trained().save(path)
    other = path.with_name("plain")
    other.write_bytes(b"")
    assert path.stat().st_mode == other.stat().st_mode


def test_a_file_keeps_its_permissions_and_a_link_its_place(path, tmp_path):
    model, link = trained(), tmp_path / "latest.safetensors"
    model.save(path)
    path.chmod(0o600)
    link.symlink_to(path.name)
    new = trained(epochs=3)
    new.save(link)
    assert link.is_symlink()
    assert weight_bytes(fastnn.load(path)) == weight_bytes(new)
    assert path.stat().st_mode & 0o777 == 0o600
    dangling = tmp_path / "next.safetensors"
    dangling.symlink_to("v2.safetensors")
    model.save(dangling)
    assert weight_bytes(fastnn.load(tmp_path / "v2.safetensors")) == weight_bytes(model)


def test_what_is_no_file_is_written_to(path, tmp_path):
    model, pipe, got = trained(), tmp_path / "pipe", []
    model.save(path)
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    model.save(pipe)
    reader.join(10)
    assert got == [path.read_bytes()]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="this system has no links to open files")
def test_a_link_to_a_pipe_without_a_name_is_written_to(path):
    model = trained()
    model.save(path)
    reader, writer = os.pipe()
    with open(reader, "rb") as file:
        got: list[bytes] = []
        thread = threading.Thread(target=lambda: got.append(file.read()), daemon=True)
        thread.start()
        try:
            model.save(f"/proc/self/fd/{writer}")  # as /dev/stdout is one
        finally:
            os.close(writer)
            thread.join(10)
    assert got == [path.read_bytes()]


class Steps(Schedule):
    """A schedule of one's own, which is no dataclass."""

    def rates(self, step, epoch, n_steps):
        return 0.01 / (1 + np.arange(step, step + n_steps))


@dataclass
class Table(Schedule):
    values: np.ndarray

    def rates(self, step, epoch, n_steps):
        return np.full(n_steps, self.values[epoch])


@pytest.mark.parametrize("schedule", [Steps(), Table(np.linspace(0.1, 0.2, 9)), fastnn.Warmup(Steps(), 3)])
def test_a_schedule_of_one_s_own_comes_with_the_optimizer(schedule, path, tmp_path):
    optimizer = fastnn.SGD(schedule, momentum=0.9)
    model, (x, y) = trained(optimizer), data()
    model.save(path)
    with pytest.raises(ModelFileError, match=r"none of fastnn's, '(Steps|Table)', .* load\(path, optimi"):
        fastnn.load(path)
    again = fastnn.load(path, optimizer=optimizer)
    assert training_state(again) == training_state(model)
    for other in (fastnn.Adam(0.1), fastnn.SGD(0.1), "sgd"):
        with pytest.raises(ValueError, match=r"^optimizer: got .*, expected the file's, SGD with "):
            fastnn.load(path, optimizer=other)
    lower = fastnn.load(path, optimizer=fastnn.SGD(1e-3, momentum=0.9))
    assert weight_bytes(lower) == weight_bytes(model)
    assert lower.optimizer.lr == 1e-3
    # And a fit goes on from a checkpoint, since its model has the schedule.
    whole, folder = (Sequential(model.layers, "cross_entropy", optimizer, seed=1) for _ in range(2)), tmp_path / "ck"
    one, other = whole
    one.fit(x, y, epochs=4, batch_size=7)
    other.fit(x, y, epochs=2, batch_size=7, callbacks=[fastnn.Checkpoint(folder)])
    resumed = Sequential(model.layers, "cross_entropy", optimizer, seed=1)
    resumed.fit(x, y, epochs=4, batch_size=7, callbacks=[fastnn.Checkpoint(folder)], resume=folder)
    assert weight_bytes(resumed) == weight_bytes(one)
    assert fastnn.latest_checkpoint(folder, optimizer=optimizer) is not None


@pytest.mark.parametrize("saved", [0.1, fastnn.ReduceOnPlateau(0.1, patience=0)])
@pytest.mark.parametrize("other", [0.01, fastnn.ReduceOnPlateau(0.01), fastnn.Warmup(0.01, 5), Steps()])
def test_another_schedule_begins_anew(saved, other, path):
    trained(fastnn.SGD(saved, momentum=0.9)).save(path)
    model = fastnn.load(path, optimizer=fastnn.SGD(other, momentum=0.9))
    assert model.optimizer.schedule.state() == fastnn.SGD(other).schedule.state()
    assert model.runtime.state.tobytes() == fastnn.load(path).runtime.state.tobytes()
    trained(model.optimizer).save(path)


def test_the_same_schedule_goes_on(path):
    optimizer = fastnn.SGD(fastnn.ReduceOnPlateau(0.1, patience=0, min_delta=9.0))
    model = trained(optimizer)
    model.save(path)
    assert model.optimizer.schedule.state() != optimizer.schedule.state()
    assert training_state(fastnn.load(path, optimizer=optimizer)) == training_state(model)


class Stateful(fastnn.Callback):
    def __init__(self, value):
        self.value = self.restored = value

    def state(self):
        return {"value": self.value}

    def restore(self, state):
        self.restored = state["value"]


def test_an_array_of_a_callback_keeps_its_shape(path):
    weights = trained().runtime.params
    values = np.array(3.0), np.zeros((2, 0, 1)), np.arange(6.0).reshape(2, 3).T, weights[:2], weights.astype(float)
    for value in values:
        trained(callbacks=[Stateful(value)]).save(path)
        callback = Stateful(None)
        x, y = data()
        fastnn.load(path).fit(x, y, epochs=1, callbacks=[callback])
        np.testing.assert_array_equal(callback.restored, value, strict=True)


@pytest.mark.parametrize("value", [{1, 2}, [np.zeros(2)], {"a": object()}])
def test_a_state_that_no_file_holds_is_named(value, path):
    model = trained(callbacks=[Stateful(value)])
    with pytest.raises(TypeError, match=r"^Stateful\.state\(\)\['value'\]: got .*, expected numbers, strings, lists"):
        model.save(path)
    assert not path.exists()


def test_a_history_that_another_thread_adds_to_is_saved_up_to_then(path):
    """An epoch's number comes last; what is there before it is neither saved nor undone."""
    model = trained()
    for column in model.history.history.values():
        column.append(0.5)
    model.save(path)
    for other in (fastnn.load(path), model.clone(), pickle.loads(pickle.dumps(model))):
        assert other.history.epoch == [0, 1]
        assert {len(column) for column in other.history.history.values()} == {2}
    model.history.epoch.append(2)
    model.save(path)
    assert fastnn.load(path).history.history["loss"][2] == 0.5


def test_a_model_saved_while_it_is_trained_is_whole(path, monkeypatch):
    """Weights may change at any moment: here just after the SHA-256 was taken."""
    model, before = trained(), trained().get_weights()
    checksum = saving.checksum

    def and_then_another_step(*arguments):
        result = checksum(*arguments)
        model.parameters_vector()[:] += 1.0
        return result

    monkeypatch.setattr(saving, "checksum", and_then_another_step)
    model.save(path)
    monkeypatch.undo()
    for own, want in zip(fastnn.load(path).get_weights(), before, strict=True):
        np.testing.assert_array_equal(own, want)
