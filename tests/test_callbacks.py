"""Callbacks: when they are called, what they may do, early stopping and checkpoints."""

from __future__ import annotations

import copy
import math
import pickle
import tracemalloc

import numpy as np
import pytest
from support import through, training_state, weight_bytes

import fastnn
from fastnn import Callback, Checkpoint, Dense, EarlyStopping, History, LambdaCallback, Sequential
from fastnn.schedules import Schedule

pytestmark = pytest.mark.usefixtures("one_thread")

NAN = math.nan


def data():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(24, 5)).astype(np.float32)
    return x, x[:, :3].argmax(axis=1)


def build(**settings):
    return Sequential([Dense(4, "tanh"), Dense(3)], "cross_entropy", fastnn.Adam(0.01), **{"seed": 1, **settings})


def fit(model, epochs, callbacks):
    x, y = data()
    return model.fit(x, y, epochs=epochs, batch_size=7, validation_split=0.25, callbacks=callbacks)


def test_methods_of_keras_that_are_never_called_are_said():
    class Batches(Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise AssertionError

    x, y = data()
    with pytest.warns(
        UserWarning, match=r"^callbacks\[1\]: got Batches with on_train_batch_end, which fit never"
    ) as caught:
        build().fit(x, y, epochs=1, callbacks=[LambdaCallback(print), Batches()])
    assert [warning.filename for warning in caught] == [__file__]


class Script(Callback):
    """Puts its own values into the logs, for the callbacks behind it, and keeps the weights of every epoch."""

    def __init__(self, values, name="val_loss"):
        self.values, self.name, self.weights = values, name, {}

    def on_epoch_end(self, epoch, logs):
        logs[self.name] = self.values[epoch]
        self.weights[epoch] = weight_bytes(self.model)


class Diary(Callback):
    def __init__(self):
        self.entries = []

    def on_train_begin(self):
        self.entries.append("train begins")

    def on_epoch_begin(self, epoch):
        self.entries.append(f"epoch {epoch} begins")

    def on_epoch_end(self, epoch, logs):
        self.entries.append(f"epoch {epoch} ends")
        self.logs = dict(logs)

    def on_train_end(self):
        self.entries.append("train ends")


# ------------------------------------------------------------------------------ callbacks of one's own


def test_when_callbacks_are_called():
    model, diary = build(), Diary()
    fit(model, 2, [diary])
    fit(model, 1, [diary])
    assert diary.entries == [
        "train begins", "epoch 0 begins", "epoch 0 ends", "epoch 1 begins", "epoch 1 ends", "train ends",
        "train begins", "epoch 2 begins", "epoch 2 ends", "train ends",
    ]  # fmt: skip
    assert diary.model is model
    assert set(diary.logs) == {
        "loss", "accuracy", "val_loss", "val_accuracy", "lr", "seconds", "samples_per_second",
    }  # fmt: skip
    assert diary.logs["val_loss"] == model.history.history["val_loss"][-1]


def test_callbacks_come_in_any_iterable_or_alone():
    for callbacks in (lambda d: [d], lambda d: (d,), lambda d: iter([d]), lambda d: d):
        diary = Diary()
        fit(build(), 1, callbacks(diary))
        assert len(diary.entries) == 4


def test_no_callbacks_may_be_none_as_in_keras():
    model = build()
    fit(model, 1, None)
    assert model.epoch == 1


def test_the_model_is_up_to_date_when_an_epoch_ends():
    seen = []

    class Look(Callback):
        def on_epoch_end(self, epoch, logs):
            x, y = data()
            held = x[-6:], y[-6:]
            seen.append((self.model.evaluate(*held)["loss"] == logs["val_loss"], self.model.step, self.model.epoch))

    fit(build(), 2, [Look()])
    assert seen == [(True, 3, 1), (True, 6, 2)]


def test_what_a_callback_adds_goes_into_the_history():
    model = build()
    fit(model, 3, [LambdaCallback(lambda epoch, logs: logs.update(norm=epoch + 0.5))])
    assert model.history.history["norm"] == [0.5, 1.5, 2.5]
    fit(model, 1, [])
    assert math.isnan(model.history.history["norm"][-1])


@pytest.mark.parametrize("kind", [np.array, np.float32, str], ids=lambda kind: kind.__name__)
def test_what_is_watched_is_a_plain_number(kind, tmp_path):
    """Or a model that remembers it could not be saved, or not loaded."""
    stopping = EarlyStopping("score")
    best = Checkpoint(tmp_path / "m.safetensors", save_best_only=True, monitor="score", mode="max")
    fit(build(), 1, [LambdaCallback(lambda epoch, logs: logs.update(score=kind("0.5"))), stopping, best])
    assert type(stopping.best) is float
    fit(fastnn.load(tmp_path / "m.safetensors"), 1, [Script([0, 0.25], "score"), stopping])


def test_what_is_watched_and_no_number_is_named():
    with pytest.raises(TypeError, match=r"logs\['score'\]: got 'high' from a callback, expected a number"):
        fit(build(), 1, [Script(["high"], "score"), EarlyStopping("score")])


def test_copies_made_by_a_callback_have_the_states_of_now():
    copies = []

    class Copy(Callback):
        def on_epoch_end(self, epoch, logs):
            copies[:] = copy.deepcopy(self.model), pickle.loads(pickle.dumps(self.model)), self.model.clone()

    model = build()
    fit(model, 2, [EarlyStopping("loss"), Copy()])
    states = [training_state(each)["callbacks"] for each in copies]
    assert states == [training_state(model)["callbacks"]] * 3
    assert "'seen': 2" in states[0]["EarlyStopping"]


def test_what_is_no_number_in_the_logs_is_named():
    model = build()
    with pytest.raises(TypeError, match=r"^logs\['note'\]: got 'hi' from a callback, expected a number"):
        fit(model, 3, [LambdaCallback(lambda epoch, logs: logs.update(note="hi", norm=0.5))])
    assert (model.epoch, model.history.epoch, model.history.history["norm"]) == (1, [0], [0.5])
    assert "note" not in model.history.history


def test_a_callback_may_change_the_weights():
    model = build()
    fit(model, 1, [LambdaCallback(lambda epoch, logs: model.set_weights([w * 0 for w in model.get_weights()]))])
    assert all((w == 0).all() for w in model.get_weights())


def test_stop_training_ends_after_the_epoch_and_for_this_fit_only():
    class Stop(Callback):
        def on_epoch_end(self, epoch, logs):
            self.model.stop_training = epoch == 1

    model, diary = build(), Diary()
    fit(model, 5, [Stop(), diary])
    assert model.epoch == 2
    assert diary.entries[-2:] == ["epoch 1 ends", "train ends"]
    assert len(model.history.epoch) == 2
    fit(model, 3, [])
    assert model.epoch == 5


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_a_callback_ends_training_and_leaves_a_good_model(error):
    class Fail(Callback):
        def on_epoch_begin(self, epoch):
            if epoch == 2:
                raise error("enough")

    model, whole, diary = build(), build(), Diary()
    with pytest.raises(error, match="enough"):
        fit(model, 5, [diary, Fail()])
    assert diary.entries[-1] == "train ends"
    assert (model.epoch, model.history.epoch) == (2, [0, 1])
    fit(model, 3, [])
    fit(whole, 5, [])
    assert training_state(model) == training_state(whole)


def test_an_interrupt_between_two_steps_leaves_a_good_model():
    """Ctrl-C arrives when the compiled call is over: the steps that were taken count, the epoch does not."""
    model = build()
    fit(model, 1, [])

    def interrupted(train, *arguments):
        train(*arguments)
        raise KeyboardInterrupt

    back = through(model.runtime, interrupted)
    before = weight_bytes(model)
    with pytest.raises(KeyboardInterrupt):
        fit(model, 1, [])
    back()
    assert weight_bytes(model) != before
    assert model.epoch == 1
    assert model.step == 4
    fit(model, 1, [])
    assert (model.step, model.history.epoch) == (7, [0, 1])


# -------------------------------------------------------------------------------------- early stopping

# What is monitored, its values, settings, and then: epochs run, best epoch.
STOPPING = {
    "two epochs without improvement": ("val_loss", [5, 4, 3, 4, 4, 1], {"patience": 2}, 5, 2),
    "an improvement in between": ("val_loss", [5, 6, 4, 5, 3, 4, 4], {"patience": 2}, 7, 4),
    "no patience": ("val_loss", [3, 2, 2, 1], {"patience": 0}, 3, 1),
    "patience of one is the same": ("val_loss", [3, 2, 2, 1], {"patience": 1}, 3, 1),
    "equal is no improvement": ("val_loss", [3, 3, 3, 1], {"patience": 2}, 3, 0),
    "changes that are too small": ("val_loss", [3, 2.75, 2.25, 2.0, 1.9, 0], {"patience": 2, "min_delta": 0.5}, 5, 2),
    "just the smallest change": ("val_loss", [3, 2.5, 2.5, 1], {"patience": 2, "min_delta": 0.5}, 3, 0),
    "more is better by name": ("val_accuracy", [0.1, 0.3, 0.2, 0.2, 0.9], {"patience": 2}, 4, 1),
    "more is better by mode": ("score", [0.1, 0.3, 0.2, 0.2, 0.9], {"patience": 2, "mode": "max"}, 4, 1),
    "less is better by mode": ("val_accuracy", [0.3, 0.1, 0.2, 0.2, 0.0], {"patience": 2, "mode": "min"}, 4, 1),
    "never": ("val_loss", [5, 4, 3, 2, 1], {"patience": 1}, 5, 4),
    "too late to stop": ("val_loss", [1, 2, 3], {"patience": 5}, 3, 0),
    "NaN is no improvement": ("val_loss", [3, NAN, NAN, 1], {"patience": 2}, 3, 0),
    "NaN at first": ("val_loss", [NAN, 3, 2, 4, 4], {"patience": 2}, 5, 2),
}


@pytest.mark.parametrize("case", STOPPING)
@pytest.mark.parametrize("restore", [True, False])
def test_early_stopping(case, restore):
    name, values, settings, epochs, best = STOPPING[case]
    model, script = build(), Script(values, name)
    stopping = EarlyStopping(name, restore_best_weights=restore, **settings)
    fit(model, len(values), [script, stopping])
    assert model.epoch == epochs
    assert stopping.best_epoch == best
    assert stopping.best == values[best]
    assert len(set(script.weights.values())) == epochs, "every epoch has weights of its own"
    assert weight_bytes(model) == script.weights[best if restore else epochs - 1]


def test_early_stopping_watches_the_training_loss_where_there_is_no_validation():
    x, y = data()
    model, stopping = build(), EarlyStopping(patience=3)
    model.fit(x, y, epochs=4, callbacks=[stopping])
    assert stopping.best == min(model.history.history["loss"])


def test_early_stopping_of_an_unknown_number():
    with pytest.raises(ValueError, match=r"monitor: got 'val_los', expected .*'loss'.*Did you mean 'val_loss'"):
        fit(build(), 2, [EarlyStopping("val_los")])


class Adds(Callback):
    def on_epoch_end(self, epoch, logs):
        logs["own"] = 1.0 / (epoch + 1)


@pytest.mark.parametrize(
    ("watcher", "got"),
    [
        (lambda path: EarlyStopping("val_acuracy"), "val_acuracy"),
        (lambda path: EarlyStopping("val_r2"), "val_r2"),
        (lambda path: EarlyStopping("own"), "own"),
        (lambda path: Checkpoint(path, save_best_only=True, monitor="acc"), "acc"),
        (lambda path: [EarlyStopping("own"), Adds()], "own"),
        (lambda path: fastnn.ReduceOnPlateau(0.1, monitor="valloss"), "valloss"),
        (lambda path: fastnn.Warmup(fastnn.ReduceOnPlateau(0.1, monitor="own"), 5), "own"),
    ],
)
def test_what_no_epoch_will_have_is_refused_before_the_first(watcher, got, tmp_path):
    made = watcher(tmp_path / "c")
    rate = isinstance(made, Schedule)
    model = Sequential([Dense(3), Dense(2)], "cross_entropy", fastnn.SGD(made if rate else 0.1), seed=0)
    callbacks = [] if rate else made if isinstance(made, list) else [made]
    x, _ = data()
    labels = np.arange(len(x)) % 2
    with pytest.raises(
        ValueError, match=f"monitor: got '{got}', expected one of 'loss', 'accuracy', 'val_loss', 'val_"
    ):
        model.fit(x, labels, epochs=2, validation_data=(x, labels), callbacks=callbacks)
    assert model.step == model.epoch == 0
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("adds", [Adds(), LambdaCallback(lambda epoch, logs: logs.update(own=1.0 / (epoch + 1)))])
def test_what_a_callback_adds_can_be_watched(adds, tmp_path):
    stopping = EarlyStopping("own", patience=1)
    best = Checkpoint(tmp_path / "best.safetensors", save_best_only=True, monitor="own")
    fit(build(), 3, [best, adds, stopping])  # the one that runs last may stand before what it watches
    assert stopping.best == pytest.approx(1 / 3)
    fit(build(), 1, [Checkpoint(tmp_path / "all", monitor="nothing")])  # it saves every epoch, whatever that has


def test_what_needs_validation_says_so():
    x, y = data()
    for model, labels, name in (
        (build(), y, "val_accuracy"),
        (Sequential([Dense(1)], "squared_error"), x[:, 0], "val_r2"),
    ):
        with pytest.raises(ValueError, match=f"monitor: got '{name}' without validation, expected validation_data="):
            model.fit(x, labels, epochs=1, callbacks=[EarlyStopping(name)])


@pytest.mark.parametrize(
    ("callback", "advice"),
    [(EarlyStopping, r"object: EarlyStopping\(\.\.\.\)$"), (print, r"object: fastnn.LambdaCallback"), (5, "object$")],
)
def test_what_is_no_callback(callback, advice):
    with pytest.raises(TypeError, match=rf"callbacks\[0\]: got .*, expected a fastnn.callbacks.Callback {advice}"):
        fit(build(), 1, [callback])


def test_a_value_has_r2_and_no_accuracy():
    x, _ = data()
    stopping = EarlyStopping("val_r2", patience=9)
    model = Sequential([Dense(1)], "squared_error", seed=0)
    model.fit(x, x[:, 0], epochs=1, validation_data=(x, x[:, 0]), callbacks=[stopping])
    assert stopping.best_epoch == 0
    with pytest.raises(ValueError, match="monitor: got 'accuracy', expected one of 'loss', 'lr'"):
        model.fit(x, x[:, 0], epochs=1, callbacks=[EarlyStopping("accuracy")])
    assert model.epoch == 1


def test_a_second_fit_goes_on_waiting():
    model, stopping = build(), EarlyStopping(patience=3)
    values = [3, 2, 4, 4, 4, 1]
    script = Script(values)
    fit(model, 3, [script, stopping])
    assert (stopping.waited, stopping.stopped) == (1, False)
    fit(model, 3, [script, stopping])
    assert (stopping.waited, stopping.stopped, stopping.best_epoch) == (3, True, 1)
    assert model.epoch == 5
    assert weight_bytes(model) == script.weights[1]


def test_a_new_one_knows_nothing_of_an_earlier_fit(tmp_path):
    """The data may be others. What it left is for the same object, and for who goes on from a file."""
    model, script = build(), Script([1, 2, 9, 8, 9, 7])
    fit(model, 2, [script, EarlyStopping(patience=9)])
    model.save(tmp_path / "m")
    new = EarlyStopping(patience=9)
    fit(model, 3, [script, new])
    assert (new.best, new.best_epoch, new.waited) == (8, 3, 1)
    assert weight_bytes(model) == script.weights[3]
    loaded, new = fastnn.load(tmp_path / "m"), EarlyStopping(patience=9)
    fit(loaded, 3, [Script([1, 2, 9, 8, 9]), new])
    assert (new.best, new.best_epoch, new.waited) == (1, 0, 4)


@pytest.mark.parametrize("new", [True, False])
def test_a_clone_goes_the_way_of_its_model(new):
    """Where a new one begins anew, and where the same one goes on."""
    first = EarlyStopping(patience=9)
    model = build()
    fit(model, 2, [Script([0.0, 0.0]), first])
    twin = model.clone()
    watching = [EarlyStopping(patience=9) if new else first for _ in range(2)]
    for each, stopping in zip((model, twin), watching, strict=True):
        fit(each, 2, [Script([0.0, 0.0, 3.0, 2.0]), stopping])
        assert (stopping.best, stopping.best_epoch) == ((2.0, 3) if new else (0.0, 0))
    assert training_state(twin) == training_state(model)


def test_a_stopped_one_begins_anew():
    model, stopping = build(), EarlyStopping(patience=1)
    fit(model, 5, [Script([1, 2, 9, 9, 9]), stopping])
    assert model.epoch == 2
    script = Script([0, 0, 8, 7, 6, 6, 6])
    fit(model, 5, [script, stopping])
    assert model.epoch == 6
    assert (stopping.best, stopping.best_epoch) == (6, 4)
    assert weight_bytes(model) == script.weights[4]


def test_a_callback_object_may_serve_several_models():
    """As in cross-validation: what it saw of one model must not reach the next."""
    stopping = EarlyStopping(patience=5)
    fit(build(), 3, [Script([0.1, 0.2, 0.3]), stopping])
    assert not stopping.stopped
    model, script = build(seed=2), Script([5, 4, 3])
    fit(model, 3, [script, stopping])
    assert (stopping.best, stopping.best_epoch) == (3, 2)
    assert weight_bytes(model) == script.weights[2]


def test_two_early_stoppings_keep_apart(tmp_path):
    """One for the loss, one for the accuracy, over an interruption."""

    def pair():
        return [EarlyStopping("val_loss", patience=9), EarlyStopping("val_accuracy", patience=9)]

    model, first = build(), pair()
    fit(model, 2, [Script([3, 2]), Script([0.5, 0.4], "val_accuracy"), *first])
    model.save(tmp_path / "m")
    loaded, second = fastnn.load(tmp_path / "m"), pair()
    fit(loaded, 1, [Script([0, 0, 4]), Script([0, 0, 0.3], "val_accuracy"), *second])
    assert [(s.best, s.best_epoch, s.waited) for s in second] == [(2, 1, 1), (0.5, 0, 2)]


def test_early_stopping_begins_anew_where_another_number_is_watched(tmp_path):
    model = build()
    fit(model, 2, [Script([0.1, 0.2], "val_accuracy"), EarlyStopping("val_accuracy", patience=9)])
    model.save(tmp_path / "m")  # of whose states any object goes on with its own
    model, second = fastnn.load(tmp_path / "m"), EarlyStopping("loss", patience=9)
    history = fit(model, 3, [second])
    assert second.best == min(history.history["loss"][2:])
    assert second.best_epoch >= 2


def test_early_stopping_begins_anew_after_epochs_that_it_has_not_seen():
    model = build()
    stopping, script = EarlyStopping(patience=9), Script([0, 0, 0, 4, 3])
    fit(model, 2, [Script([0.1, 0.2]), stopping])
    fit(model, 1, [])
    fit(model, 2, [script, stopping])
    assert (stopping.best, stopping.best_epoch) == (3, 4)
    assert weight_bytes(model) == script.weights[4]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_nan_is_no_improvement(mode, tmp_path):
    model, script = build(), Script([NAN] * 9, "mine")
    stopping = EarlyStopping("mine", patience=3, mode=mode)
    fit(model, 9, [script, stopping, Checkpoint(tmp_path / "best", save_best_only=True, monitor="mine", mode=mode)])
    assert (stopping.best_epoch, model.epoch) == (-1, 3)
    assert weight_bytes(model) == script.weights[2], "there are no best weights to go back to"
    assert [stop["restored"] for stop in model.history.stops] == [False]
    assert list((tmp_path / "best").iterdir()) == []
    model, script = build(), Script([NAN, 2, NAN, 1, NAN, NAN, NAN], "mine")
    fit(model, 7, [script, EarlyStopping("mine", patience=3, mode=mode)])
    assert weight_bytes(model) == script.weights[3 if mode == "min" else 1]


@pytest.mark.parametrize("watched", ["loss", "val_loss"])
def test_what_diverged_is_nobodys_best(watched):
    """The first epoch's loss is finite, its weights are not good for a second one."""
    x, y = data()

    def train(callbacks):
        model = Sequential([Dense(4, "relu"), Dense(3)], "cross_entropy", fastnn.SGD(1e20), seed=1, input_size=5)
        before = weight_bytes(model)
        with pytest.raises(fastnn.TrainingDiverged):
            model.fit(x, y, epochs=5, batch_size=24, validation_data=(x, y), callbacks=callbacks)
        return weight_bytes(model) == before, model.epoch

    assert train([EarlyStopping(watched)]) == train([LambdaCallback(lambda epoch, logs: None)]) == (True, 0)


class Failing(Callback):
    def __init__(self, when):
        self.when = when

    def on_train_begin(self):
        if self.when == "begin":
            raise RuntimeError("not today")

    def on_train_end(self):
        if self.when == "end":
            raise RuntimeError("not today")


@pytest.mark.parametrize("when", ["begin", "end"])
def test_a_callback_that_fails_at_an_end_fails_alone(when):
    model, script, before, after = build(), Script([1, 2, 3]), EarlyStopping(patience=9), Diary()
    with pytest.raises(RuntimeError, match="not today"):
        fit(model, 3, [script, before, Failing(when), after])
    assert model.callback_states._at_work == ()
    if when == "end":
        assert weight_bytes(model) == script.weights[0], "early stopping went back to the best weights"
        assert after.entries[-1] == "train ends"
    else:
        assert after.entries == [], "what did not begin does not end"
    later = EarlyStopping(patience=9)
    fit(model, 1, [Script([0.5, 0, 0, 0.5]), later])
    assert later.best == 0.5


def test_a_fit_within_a_fit_leaves_the_outer_callbacks_at_work():
    class Nested(Callback):
        def on_epoch_end(self, epoch, logs):
            if epoch == 0:
                x, y = data()
                self.model.fit(x, y, epochs=1, verbose=False)

    model, stopping = build(), EarlyStopping("loss", patience=9)
    fit(model, 2, [Nested(), stopping])
    assert "EarlyStopping" in model.callback_states.kept


@pytest.mark.parametrize("when", ["on_epoch_begin", "on_epoch_end"])
def test_epochs_of_a_fit_within_a_fit_count_for_the_outer_one(when, tmp_path):
    """Each has a number of its own, in order, and what ends the inner one does not end the outer one."""

    class Nested(Callback):
        def train(self, epoch):
            if epoch == 1:
                x, y = data()
                self.model.fit(x, y, epochs=2, callbacks=[EarlyStopping("loss", patience=1, min_delta=9.0)])

    def nested(self, epoch, *logs):
        self.train(epoch)

    setattr(Nested, when, nested)
    model = build()
    fit(model, 6, [Nested(), LambdaCallback(lambda epoch, logs: logs.update(told=epoch)), Checkpoint(tmp_path)])
    assert (model.epoch, model.history.epoch) == (6, list(range(6)))
    inner = [epoch for epoch, number in enumerate(model.history.history["told"]) if math.isnan(number)]
    assert inner == ([2, 3] if when == "on_epoch_end" else [1, 2])
    assert fastnn.load(fastnn.latest_checkpoint(tmp_path)).initial_epoch == 0


def test_a_best_checkpoint_of_another_file_or_number_is_a_best_of_its_own(tmp_path):
    def best(name, monitor="val_loss"):
        return Checkpoint(tmp_path / f"{name}.safetensors", save_best_only=True, monitor=monitor)

    model = build()
    fit(model, 1, [Script([0.1]), best("a")])
    fit(model, 1, [Script([0, 5]), best("a")])
    fit(model, 1, [Script([0, 0, 5]), best("b")])
    assert [fastnn.load(tmp_path / f"{name}.safetensors").epoch for name in "ab"] == [1, 3]
    fit(model, 1, [Script([0, 0, 0, 0.5], "val_accuracy"), best("b", "val_accuracy")])
    assert fastnn.load(tmp_path / "b.safetensors").epoch == 4
    used = best("c")
    fit(build(seed=2), 1, [Script([0.1]), used])
    fit(model, 1, [Script([0, 0, 0, 0, 5]), used])  # whose checkpoints watched "val_accuracy"
    assert (used.best, fastnn.load(tmp_path / "c.safetensors").epoch) == (5, 5)


# ----------------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_of_every_epoch(tmp_path):
    model, script = build(), Script([3, 2, 1, 0])
    fit(model, 4, [script, Checkpoint(tmp_path / "m{epoch}")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m1", "m2", "m3", "m4"]
    for epoch in range(4):
        loaded = fastnn.load(tmp_path / f"m{epoch + 1}")
        assert weight_bytes(loaded) == script.weights[epoch]
        assert (loaded.epoch, loaded.step) == (epoch + 1, 3 * (epoch + 1))


def test_a_name_without_suffix_is_a_folder_unless_it_is_a_file(tmp_path):
    model = build()
    for name in ("runs/first", "m"):
        fit(model, 1, [Checkpoint(tmp_path / name, every=len(model.history.epoch) + 1)])
        model.save(tmp_path / "m") if name != "m" else None
    assert (tmp_path / "runs" / "first" / "epoch-000001.safetensors").is_file()
    assert fastnn.load(tmp_path / "m").epoch == 2


def test_a_checkpoint_of_every_other_epoch(tmp_path):
    model = build()
    fit(model, 3, [Checkpoint(tmp_path / "m{epoch}", every=2)])
    fit(model, 2, [Checkpoint(tmp_path / "m{epoch}", every=2)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m2", "m4"]


@pytest.mark.parametrize(
    ("name", "mode", "values", "best"),
    [
        ("val_loss", "auto", [3, 1, 2, NAN], 1),
        ("val_accuracy", "auto", [0.1, 0.5, 0.3, NAN], 1),
        ("score", "max", [1, 2, 2, 0], 1),
        ("val_loss", "auto", [NAN, NAN, 7, 8], 2),
    ],
)
def test_a_checkpoint_of_the_best_epoch(name, mode, values, best, tmp_path):
    model, script = build(), Script(values, name)
    fit(model, 4, [script, Checkpoint(tmp_path / "m.safetensors", save_best_only=True, monitor=name, mode=mode)])
    assert weight_bytes(fastnn.load(tmp_path / "m.safetensors")) == script.weights[best]
    assert fastnn.load(tmp_path / "m.safetensors").epoch == best + 1


def test_a_resumed_checkpoint_remembers_the_best(tmp_path):
    """Or the first epoch after an interruption would overwrite the best model with a worse one."""
    script = Script([3, 1])
    fit(build(), 2, [script, Checkpoint(tmp_path / "m.safetensors", save_best_only=True)])
    resumed = fastnn.load(tmp_path / "m.safetensors")
    fit(resumed, 2, [Script([0, 0, 2, 2]), Checkpoint(tmp_path / "m.safetensors", save_best_only=True)])
    assert fastnn.load(tmp_path / "m.safetensors").epoch == 2
    assert weight_bytes(fastnn.load(tmp_path / "m.safetensors")) == script.weights[1]


def best_of(path):
    """Return the epochs of what stands there, and the value it was saved for."""
    found = fastnn.load(path)
    return found.epoch, found.history.history["val_loss"][-1]


def test_a_best_checkpoint_of_another_training_is_written_over(tmp_path):
    """As in Keras, whether the other one was better or not, and whatever the model that trains has seen before."""
    path, other = tmp_path / "m.safetensors", tmp_path / "other.safetensors"

    def best(path):
        return Checkpoint(path, save_best_only=True)

    for values in ([0.1], [0.5, 0.4], [0.7]):  # the same script, run three times
        fit(build(), len(values), [Script(values), best(path)])
        assert best_of(path) == (len(values), values[-1])
    fit(build(seed=2), 1, [Script([0.1]), best(other)])
    fit(fastnn.load(other), 2, [Script([0, 0.9, 0.8]), best(path)])
    assert best_of(path) == (3, 0.8), "the best of this training, not that of the other file before"


@pytest.mark.parametrize("loads", ["the best", "the newest"])
def test_a_training_that_goes_on_knows_what_it_saved_whatever_callbacks_there_are(loads, tmp_path):
    path, run = tmp_path / "m.safetensors", tmp_path / "run"

    def best():
        return Checkpoint(path, save_best_only=True)

    fit(build(), 3, [Script([0.3, 0.2, 0.4]), Checkpoint(run), best(), Checkpoint(tmp_path / "b", save_best_only=True)])
    model = fastnn.load(path if loads == "the best" else fastnn.latest_checkpoint(run))
    epoch = model.epoch
    fit(model, 2, [Script([0] * epoch + [0.25, 0.21]), best()])
    assert best_of(path) == (2, 0.2)
    fit(model, 2, [Script([0] * (epoch + 2) + [0.15, 0.25]), Checkpoint(run), Checkpoint(run), best()])
    assert best_of(path) == (epoch + 3, 0.15)


def test_a_best_checkpoint_may_stand_in_the_place_of_any_file(tmp_path):
    path = tmp_path / "m.safetensors"
    for content in (b"", b"no model", b"\2\0\0\0\0\0\0\0{}"):
        path.write_bytes(content)
        fit(build(), 1, [Script([0.5]), Checkpoint(path, save_best_only=True)])
        assert best_of(path) == (1, 0.5)


def test_a_checkpoint_is_a_whole_model(tmp_path):
    model, whole = build(), build()
    fit(model, 3, [Checkpoint(tmp_path / "m{epoch}")])
    loaded = fastnn.load(tmp_path / "m2")
    fit(loaded, 2, [])
    fit(whole, 4, [])
    for name in ("weights", "optimizer", "step", "epoch"):
        assert training_state(loaded)[name] == training_state(whole)[name], name


def test_a_checkpoint_has_no_other_field_than_the_epoch(tmp_path):
    with pytest.raises(ValueError, match=r"^path: got \{val_loss:\.2f\} in 'e\{epoch:02d\}-\{val_loss.*', expected"):
        Checkpoint(tmp_path / "e{epoch:02d}-{val_loss:.2f}")
    fit(build(), 1, [Checkpoint(tmp_path / "{x}" / "e{epoch:02d}{}")])
    assert (tmp_path / "{x}" / "e01{}").is_file()


# --------------------------------------------------------------------------------------------- history


def test_history_fills_gaps_with_nan():
    history = History()
    history.append(0, {"loss": 2.0})
    history.append(1, {"loss": 1.0, "val_loss": 3.0})
    history.append(2, {"val_loss": 4.0})
    assert history.epoch == [0, 1, 2]
    assert repr(history.history) == "{'loss': [2.0, 1.0, nan], 'val_loss': [nan, 3.0, 4.0]}"
    assert repr(history) == "<History: 3 epochs; val_loss 4>"  # of a `fit` without validation no "val_loss nan"
    again = History.from_dict(history.to_dict())
    assert repr(again.to_dict()) == repr(history.to_dict())
    assert repr(History()) == "<History: 0 epochs; >"


def test_history_makes_nothing_of_its_own_length_for_an_epoch():
    """It made a column of NaN for every number of every epoch, so that 10^5 epochs took minutes."""
    history = History()
    history.history, history.epoch = {"loss": [1.0] * 100_000}, list(range(100_000))
    history.append(100_000, {"loss": 1.0})  # the lists make room for some more
    tracemalloc.start()
    try:
        history.append(100_001, {"loss": 1.0})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_going_back_to_an_epoch_takes_back_what_came_from_it_on():
    history = History()
    for epoch in range(5):
        history.append(epoch, {"loss": 5.0 - epoch})
        history.add_stop(epoch, 0, "loss", True)
    history.history["loss"].pop()  # as another thread may find it, that saves the model
    assert [history.to_dict()["epoch"], *map(len, history.to_dict()["history"].values())] == [[0, 1, 2, 3], 4]
    history.truncate(3)
    assert (history.epoch, history.history) == ([0, 1, 2], {"loss": [5.0, 4.0, 3.0]})
    assert [stop["epoch"] for stop in history.stops] == [0, 1, 2]


def test_history_is_of_plain_numbers():
    model = build()
    fit(model, 1, [LambdaCallback(lambda epoch, logs: logs.update(extra=np.float32(0.5)))])
    assert all(type(value) is float for column in model.history.history.values() for value in column)
    assert model.history.history["extra"] == [0.5]


def test_a_callback_that_cannot_take_its_state_changes_no_other_s(tmp_path):
    class Moody(Callback):
        def state(self):
            return {"mood": 1}

        def restore(self, state):
            raise RuntimeError("not today")

    model = build()
    stopping = EarlyStopping(patience=9)
    fit(model, 3, [Script([3, 1, 2]), stopping, Moody()])
    with pytest.raises(RuntimeError, match="not today"):
        fit(model, 1, [Moody(), EarlyStopping(patience=9)])
    model.save(tmp_path / "m")
    assert fastnn.load(tmp_path / "m").callback_states.kept["EarlyStopping"]["best_epoch"] == 1


def test_going_back_takes_back_what_a_callback_saw_first():
    class Counter(Callback):
        def __init__(self):
            self.reset()

        def reset(self):
            self.seen = 0

        def on_epoch_end(self, epoch, logs):
            self.seen += 1
            self.model.parameters_vector()[:] = np.nan

        def state(self):
            return {"seen": self.seen} if self.seen else {}

        def restore(self, state):
            self.seen = state["seen"]

    model, counter = build(), Counter()
    with pytest.raises(fastnn.TrainingDiverged):
        fit(model, 3, [counter])
    assert (model.epoch, counter.seen) == (0, 0)
