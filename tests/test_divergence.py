"""A loss that becomes NaN or infinite: training stops, says where and what helps, and keeps the last good weights."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from support import training_state, weight_bytes

import fastnn
from fastnn import Activation, Callback, Dense, Dropout, Sequential, TrainingDiverged

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS, INPUTS, BATCH = 40, 5, 10


def data():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(ROWS, INPUTS)).astype(np.float32)
    return x, np.stack([x[:, 0], 2 * x[:, 1]], axis=1)


def build(lr=0.01, layers=None, **settings):
    layers = [Dense(6, "relu"), Dropout(0.1), Dense(2)] if layers is None else layers
    return Sequential(layers, "squared_error", fastnn.SGD(lr, momentum=0.5), **{"seed": 1, **settings})


@dataclasses.dataclass(frozen=True)
class Jump(fastnn.schedules.Schedule):
    """A rate that becomes too large at a step, and that counts the epochs."""

    at: int
    lr: float = 0.01
    too_large: float = 1e30
    epochs: list[int] = dataclasses.field(default_factory=lambda: [0], init=False, compare=False)

    def epoch_end(self, logs):
        self.epochs[0] += 1

    def state(self):
        return {"epochs": self.epochs[0]}

    def restore(self, state):
        self.epochs[0] = state["epochs"]

    def rates(self, step, epoch, n_steps):
        return np.array([self.too_large if step + i >= self.at else self.lr for i in range(n_steps)])


class Keep(Callback):
    def __init__(self):
        self.states, self.ended = {}, 0

    def on_epoch_end(self, epoch, logs):
        self.states[epoch] = (weight_bytes(self.model), self.model.runtime.state.tobytes(), self.model.step)

    def on_train_end(self):
        self.ended += 1


def now(model):
    return weight_bytes(model), model.runtime.state.tobytes(), model.step


def test_the_last_good_epoch_is_kept():
    x, y = data()
    model, keep = build(Jump(at=9)), Keep()
    with pytest.raises(TrainingDiverged):
        model.fit(x, y, epochs=5, batch_size=BATCH, callbacks=[keep])
    assert sorted(keep.states) == [0, 1]
    assert now(model) == keep.states[1]
    assert (model.epoch, model.step, model.history.epoch) == (2, 8, [0, 1])
    assert model.optimizer.lr.state() == {"epochs": 2}
    assert keep.ended == 1
    assert np.isfinite(model.predict(x)).all()


def test_a_first_epoch_that_diverges_leaves_the_weights_of_the_start():
    x, y = data()
    model = build(1e30, input_size=INPUTS)
    before = training_state(model)
    with pytest.raises(TrainingDiverged):
        model.fit(x, y, epochs=3, batch_size=BATCH)
    assert training_state(model) == before


def test_the_message_says_step_layer_and_advice():
    x, y = data()
    with pytest.raises(TrainingDiverged) as caught:
        build(Jump(at=9)).fit(x, y, epochs=5, batch_size=BATCH)
    message = str(caught.value)
    assert re.search(r"loss: became NaN or infinite in step \d+ \(epoch 3, batch [234]\)", message), message
    assert re.search(r"dense_\d\.|layer \d", message), message
    for advice in ("last good epoch", "learning rate", "Warmup", "clip_norm"):
        assert advice in message


@pytest.mark.parametrize("name", ["x", "y"])
@pytest.mark.parametrize("weighs", [1.0, 0.0])
def test_rows_that_are_not_finite_are_named_as_what_to_mend(name, weighs):
    """But not those that weigh nothing, which have no part."""
    given, weights = dict(zip("xy", data(), strict=True)), np.ones(ROWS)
    given[name][23, 1], weights[23] = np.nan, weighs
    model = build(1e30 if weighs == 0.0 else 0.01, check_finite=False)
    with pytest.raises(TrainingDiverged) as caught:
        model.fit(**given, epochs=2, batch_size=BATCH, sample_weight=weights)
    spoilt = f"There are NaN or infinity in {name}, of which check_finite=True names the first"
    assert str(caught.value).endswith(spoilt if weighs else "clip_norm usually helps")
    if weighs:
        with pytest.raises(FloatingPointError, match=f"^loss: is NaN or infinite, from those in {name}; no step was "):
            model.train_on_batch(**given)


@pytest.mark.parametrize("large", ["x", "y", "the weights"])
def test_what_is_too_large_before_any_step_is_no_learning_rate(large):
    x, y = data()
    model = build(input_size=INPUTS)
    if large == "the weights":
        model.set_weights([weight * np.float32(1e30) for weight in model.get_weights()])
    given = {"x": x, "y": y, large: {"x": x, "y": y}.get(large, x) * np.float32(1e30)}
    with pytest.raises(TrainingDiverged) as caught:
        model.fit(given["x"], given["y"], epochs=2, batch_size=BATCH)
    message = str(caught.value)
    assert re.search(rf"this fit's first step, .*e\+(29|30) in {large}[,:]", message), message
    assert message.count("e+") == 1, "the others are small"
    assert "smaller learning rate" not in message


def test_weights_that_were_not_finite_before_are_said_to_be():
    x, y = data()
    model = build(input_size=INPUTS)
    model.parameters_vector()[0] = np.nan
    with pytest.raises(TrainingDiverged, match=r"in dense_0\.weight\. .* had it before any step: set_weights gives"):
        model.fit(x, y, epochs=1, batch_size=BATCH)


def test_an_error_that_handlers_of_arithmetic_catch():
    assert issubclass(TrainingDiverged, ArithmeticError)


@pytest.mark.parametrize("row", [0, 3, 9])
def test_a_bad_row_is_found_in_its_batch(row):
    """Row 20 + `row` is in the third batch; whichever row of the batch it is, the first layer shows it."""
    x, y = data()
    x[20 + row, 2] = np.nan
    model = build(check_finite=False, layers=[Dense(6, "tanh"), Activation("gelu"), Dense(2)], input_size=INPUTS)
    before = training_state(model)
    with pytest.raises(TrainingDiverged, match=r"epoch 1, batch 3\), first in the output of layer 0 \(Dense\)"):
        model.fit(x, y, epochs=2, batch_size=BATCH, shuffle=False)
    assert training_state(model) == before


def test_an_infinite_input_shows_in_the_weights():
    """tanh takes infinity: the loss is finite, the gradient 0 x inf is not."""
    x, y = data()
    x[23, 2] = np.inf
    model = build(check_finite=False, layers=[Dense(6, "tanh"), Dense(2)], input_size=INPUTS)
    before = training_state(model)
    with pytest.raises(TrainingDiverged, match=r"with NaN or infinity in dense_0\.weight"):
        model.fit(x, y, epochs=2, batch_size=BATCH, shuffle=False)
    assert training_state(model) == before


def test_a_bad_target_is_in_the_loss_itself():
    x, y = data()
    y[14, 1] = np.nan
    with pytest.raises(TrainingDiverged, match=r"batch 2\), in the loss itself, with finite outputs"):
        build(check_finite=False).fit(x, y, epochs=1, batch_size=BATCH, shuffle=False)


def test_the_layer_that_overflows_is_named():
    x, y = data()
    layers = [Dense(4), Dropout(0.1), Dense(4), Dense(4), Dense(2)]
    model = build(layers=layers, input_size=INPUTS)
    weights = model.get_weights()
    weights[0] = weights[0] * 1e20
    weights[4] = weights[4] * 1e30  # the third layer: 1e20 * 1e30 is beyond float32
    model.set_weights(weights)
    with pytest.raises(TrainingDiverged, match=r"first in the output of layer 3 \(Dense\)"):
        model.fit(x, y, epochs=1, batch_size=BATCH)


def test_the_layer_that_overflows_is_named_after_a_callback_looked_at_more_rows():
    """Which needs a larger workspace; the numbers that broke would be in the older one."""
    x, y = data()
    model = build(layers=[Dense(4), Dense(4), Dense(2)], input_size=INPUTS)

    def spoil(epoch, logs):
        weights = model.get_weights()
        model.layer_outputs(np.concatenate([x] * 5))
        model.set_weights([weights[0], weights[1], weights[2] * 1e25, *weights[3:4], weights[4] * 1e25, weights[5]])

    with pytest.raises(TrainingDiverged, match=r"first in the output of layer 2 \(Dense\)"):
        model.fit(x, y, epochs=2, batch_size=BATCH, callbacks=[fastnn.LambdaCallback(spoil)])


def test_weights_that_are_not_finite_any_more_are_named():
    """A finite loss, a step too large: the next batch meets the weights it left."""
    x, y = data()
    model = build(3e38, input_size=INPUTS)
    with pytest.raises(TrainingDiverged, match=r"in dense_\d\.(weight|bias)"):
        model.fit(1000 * x, y, epochs=1, batch_size=BATCH)


@pytest.mark.parametrize("batch", [ROWS, BATCH])
def test_weights_spoilt_by_the_last_step_of_an_epoch_are_not_the_good_ones(batch):
    """The epoch's own losses are all finite: only the next epoch sees what its last step has done."""
    x, y = data()
    steps = ROWS // batch
    model, keep = build(Jump(at=3 * steps - 1), input_size=INPUTS), Keep()
    with pytest.raises(TrainingDiverged):
        model.fit(x, y, epochs=6, batch_size=batch, callbacks=[keep])
    assert np.isfinite(model.evaluate(x, y)["loss"])
    assert sorted(keep.states) == [0, 1, 2], "the epoch that spoilt them came to its end"
    assert now(model) == keep.states[1]
    assert (model.epoch, model.history.epoch) == (2, [0, 1])
    assert model.optimizer.lr.state() == {"epochs": 2}


def test_weights_spoilt_by_the_very_last_step_are_found_too():
    """No further epoch would see them: a fit never ends quietly with weights that are NaN or infinite."""
    x, y = data()
    model = build(Jump(at=3, too_large=np.inf), input_size=INPUTS)
    with pytest.raises(TrainingDiverged):
        model.fit(x, y, epochs=1, batch_size=BATCH)
    assert np.isfinite(model.evaluate(x, y)["loss"])


def test_the_model_trains_on_after_a_divergence():
    x, y = data()
    model, whole = build(), build()
    model.fit(x, y, epochs=2, batch_size=BATCH)
    bad = x.copy()
    bad[5] = 1e30
    with pytest.raises(TrainingDiverged):
        model.fit(bad, y, epochs=1, batch_size=BATCH)
    model.fit(x, y, epochs=2, batch_size=BATCH)
    whole.fit(x, y, epochs=4, batch_size=BATCH)
    assert training_state(model) == training_state(whole)


def test_early_stopping_keeps_its_best_weights_through_a_divergence():
    x, y = data()
    stopping = fastnn.EarlyStopping("score", patience=9, mode="max")
    keep = Keep()

    class Score(Callback):
        def on_epoch_end(self, epoch, logs):
            logs["score"] = [1.0, 3.0, 2.0][epoch]

    model = build(Jump(at=13))
    with pytest.raises(TrainingDiverged):
        model.fit(x, y, epochs=9, batch_size=BATCH, callbacks=[Score(), keep, stopping])
    assert sorted(keep.states) == [0, 1, 2]
    assert weight_bytes(model) == keep.states[1][0]


class Spoil(Callback):
    """Makes weights too large for another epoch, which are finite, and the best by their score."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs):
        logs["score"] = [1.0, 2.0, 1.0, 3.0][epoch]
        if epoch == self.epoch:
            self.model.parameters_vector()[:] *= np.float32(1e30)


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [({}, [1, 2, 3]), ({"keep": 1}, [3]), ({"keep": 2}, [3]), ({"every": 4}, [3]), ({"every": 5}, [])],
)
def test_no_checkpoint_is_of_weights_that_diverged(settings, epochs, tmp_path):
    x, y = data()
    model = build()
    with pytest.raises(TrainingDiverged):
        model.fit(x, y, epochs=9, batch_size=BATCH, callbacks=[fastnn.Checkpoint(tmp_path, **settings), Spoil(3)])
    assert model.epoch == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"epoch-{epoch:06}.safetensors" for epoch in epochs]
    resumed, whole = build(), build()
    resumed.fit(x, y, epochs=5, batch_size=BATCH, resume=tmp_path)
    whole.fit(x, y, epochs=5, batch_size=BATCH)
    assert now(resumed) == now(whole)


@pytest.mark.parametrize("best", [False, True])
@pytest.mark.parametrize(("at", "files"), [(3, ["m.safetensors"]), (2, ["m.safetensors"]), (0, [])])
def test_a_file_of_weights_that_diverged_is_of_the_last_good_epoch(at, files, best, tmp_path):
    x, y = data()
    model = build()
    saving = fastnn.Checkpoint(tmp_path / "m.safetensors", save_best_only=best, monitor="score")
    with pytest.raises(TrainingDiverged):
        model.fit(x, y, epochs=9, batch_size=BATCH, callbacks=[Spoil(at), saving])
    assert [path.name for path in tmp_path.iterdir()] == files
    assert model.epoch == at
    assert all(now(fastnn.load(tmp_path / name)) == now(model) for name in files)
    still_there = best and at == 2  # the best was the epoch before the one that spoilt the weights
    assert saving.best == (2.0 if still_there else -np.inf), "any later one is better than what was taken back"


def test_a_batch_that_diverges_takes_no_step():
    x, y = data()
    model = build()
    model.train_on_batch(x, y)
    before = training_state(model)
    with pytest.raises(FloatingPointError, match=r"loss: is NaN or infinite, .*; no step was taken"):
        model.train_on_batch(x * 1e30, y)
    assert training_state(model) == before


def test_clipping_and_a_smaller_rate_are_good_advice():
    """The same data and weights: what the message says does help."""
    x, y = data()
    x = 100 * x
    with pytest.raises(TrainingDiverged):
        build(0.1).fit(x, y, epochs=20, batch_size=BATCH)
    for optimizer in (fastnn.SGD(1e-6, momentum=0.5), fastnn.SGD(0.1, momentum=0.5, clip_norm=0.01)):
        model = Sequential([Dense(6, "relu"), Dropout(0.1), Dense(2)], "squared_error", optimizer, seed=1)
        losses = model.fit(x, y, epochs=20, batch_size=BATCH).history["loss"]
        assert losses[-1] < losses[0]
