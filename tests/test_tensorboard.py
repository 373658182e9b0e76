"""Event files: what TensorBoard will find in them."""

from __future__ import annotations

import math
import struct
import sys

import numpy as np
import pytest

import fastnn
from fastnn import Dense, LambdaCallback, Sequential, TensorBoard

pytestmark = [pytest.mark.tensorboard, pytest.mark.usefixtures("one_thread")]

ROWS = np.random.default_rng(2).normal(size=(40, 3))


@pytest.fixture
def tensorboard():
    """The package that writes the files; the test is skipped where it is not installed."""
    return pytest.importorskip("tensorboardX")


def events(folder):
    """{tag: {step: value}} of all event files of a run; a histogram's value is its message."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            for value in event.summary.value:
                what = value.simple_value if value.HasField("simple_value") else value.histo
                found.setdefault(value.tag, {})[event.step] = what
    return found


def train(model, callbacks, epochs=3, **settings):
    return model.fit(ROWS, np.arange(40) % 2, epochs=epochs, callbacks=callbacks, **settings)


def test_numbers_of_every_epoch(tensorboard, tmp_path):
    model = Sequential([Dense(4, "relu"), Dense(2)], "cross_entropy")
    extra = LambdaCallback(lambda epoch, logs: logs.update(extra=epoch + 0.5))
    board = TensorBoard(tmp_path / "run")
    columns = train(model, [board, extra], validation_split=0.25).history
    training, validation = events(tmp_path / "run" / "train"), events(tmp_path / "run" / "validation")
    assert set(training) == {"loss", "accuracy", "lr", "seconds", "samples_per_second", "extra"}
    assert set(validation) == {"loss", "accuracy"}
    for found, prefix in ((training, ""), (validation, "val_")):
        for tag, values in found.items():
            assert list(values) == [1, 2, 3], tag
            assert list(values.values()) == pytest.approx(columns[prefix + tag], rel=1e-6), tag


def test_a_later_fit_goes_on(tensorboard, tmp_path):
    model = Sequential([Dense(2)], "cross_entropy")
    board = TensorBoard(str(tmp_path))
    train(model, [board], epochs=2)
    train(model, [board], epochs=1)
    train(model, [TensorBoard(tmp_path)], epochs=1)
    assert sorted(events(tmp_path / "train")["loss"]) == [1, 2, 3, 4]
    assert not (tmp_path / "validation").exists(), "nothing was to be written there"


def test_histograms_of_weights(tensorboard, tmp_path):
    model = Sequential([Dense(4, "relu"), Dense(2)], "cross_entropy")
    train(model, [TensorBoard(tmp_path, histogram_freq=2)], epochs=4)
    found = events(tmp_path / "train")
    for name, weight in zip(
        ["dense_0.weight", "dense_0.bias", "dense_1.weight", "dense_1.bias"], model.get_weights(), strict=True
    ):
        assert list(found[name]) == [2, 4]
        last = found[name][4]
        assert last.num == weight.size
        assert (last.min, last.max) == pytest.approx((weight.min(), weight.max()))
        assert sum(last.bucket) == weight.size


def test_an_interrupted_training_has_written_its_epochs(tensorboard, tmp_path):
    def stop(epoch, logs):
        if epoch == 2:
            raise KeyboardInterrupt

    board = TensorBoard(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(Sequential([Dense(2)], "cross_entropy"), [board, LambdaCallback(stop)], epochs=9)
    assert sorted(events(tmp_path / "train")["loss"]) == [1, 2]


def test_training_is_the_same_with_it(tensorboard, tmp_path):
    models = [Sequential([Dense(4, "relu"), Dense(2)], "cross_entropy", seed=5) for _ in range(2)]
    for model, callbacks in zip(models, ([], [TensorBoard(tmp_path, 1)]), strict=True):
        train(model, callbacks)
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(one, other)
    assert math.isfinite(models[0].history.history["loss"][-1])


def test_bad_arguments_are_refused(tensorboard):
    with pytest.raises(ValueError, match="histogram_freq: got -1, expected an integer >= 0"):
        TensorBoard(histogram_freq=-1)


def test_without_tensorboardx_it_says_what_to_install(monkeypatch):
    for name in {"tensorboardX", *(name for name in sys.modules if name.split(".")[0] == "tensorboardX")}:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r'tensorboardX is not installed .*: pip install "fastnn\[tensorboard\]"'):
        fastnn.TensorBoard()
