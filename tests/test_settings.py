"""Settings that change while a model lives, what copies carry, and weights of rows and classes in `fit`."""

from __future__ import annotations

import copy
import json
import math
import pickle
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
from support import training_state, weight_bytes

import fastnn
from fastnn import Callback, Dense, Dropout, Sequential, _habits, schedules

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS, INPUTS, CLASSES = 40, 5, 3


def build(optimizer, **settings):
    return Sequential([Dense(8, "tanh"), Dense(CLASSES)], "cross_entropy", optimizer, **{"seed": 4, **settings})


@pytest.fixture
def data():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(ROWS, INPUTS)).astype(np.float32)
    return x, x[:, :CLASSES].argmax(axis=1)


def fit(model, data, epochs=1, **options):
    return model.fit(*data, epochs=epochs, batch_size=9, verbose=False, **options)


# ------------------------------------------------------- numbers that a float type cannot hold


def one_number(name, value, dtype):
    """Build a model with one such number, of a layer, a loss or an optimizer."""
    gain = value if name == "gain" else 1.0
    penalty = {name: value} if name in ("l1", "l2") else {}
    layer = Dense(2, kernel_initializer=fastnn.Initializer("he_uniform", gain), **penalty)
    loss = fastnn.Huber(value) if name == "delta" else "squared_error"
    optimizer = fastnn.Adam(**{name: value}) if name in ("lr", "eps", "clip_norm", "clip_value") else None
    return Sequential([layer], loss, optimizer, dtype=dtype)


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in ("delta", "lr", "clip_norm", "clip_value", "gain") for value in (1e-50, 1e-40)]
    + [(name, 1e39) for name in ("lr", "eps", "l1", "l2", "gain")],
)
def test_a_number_that_float32_cannot_hold_is_refused_where_the_model_is_built(name, value):
    """Most would have been 0 or infinite and let nothing be learned, without a word."""
    with pytest.raises(
        ValueError, match=f"^{name}: got {re.escape(repr(value))}, expected a number in the range of fl"
    ):
        one_number(name, value, "float32")
    one_number(name, value, "float64")


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, 1e-50) for name in ("eps", "l1", "l2")] + [(name, 1e39) for name in ("delta", "clip_norm", "clip_value")],
)
def test_a_number_that_means_none_may_be_beyond_float32(name, value):
    one_number(name, value, "float32")


def test_an_optimizer_that_is_set_later_is_refused_by_its_number_too():
    model = build(fastnn.Adam())
    with pytest.raises(ValueError, match=r"^clip_value: got 1e-50, expected a number in the range of float32"):
        model.optimizer = fastnn.Adam(clip_value=1e-50)
    assert model.optimizer == fastnn.Adam()


# ------------------------------------------------------------------------------ another optimizer


def test_another_optimizer_goes_on_with_the_state(data, tmp_path):
    """As a model that was built with it does, put where the first one stood."""
    model = build(fastnn.Adam(0.01))
    fit(model, data, 2)
    new = fastnn.Adam(0.05, betas=(0.8, 0.9), clip_norm=0.01)
    twin = build(new, input_size=INPUTS)
    twin.runtime.params[:], twin.runtime.state[:] = model.runtime.params, model.runtime.state
    twin.step, twin.epoch = model.step, model.epoch
    model.predict(data[0][:1])
    model.optimizer = new
    fit(model, data, 2)
    fit(twin, data, 2)
    assert weight_bytes(model) == weight_bytes(twin)
    np.testing.assert_array_equal(model.predict(data[0][:1]), twin.predict(data[0][:1]))
    model.save(tmp_path / "m")
    assert training_state(fastnn.load(tmp_path / "m")) == training_state(model) == training_state(model.clone())


@pytest.mark.parametrize("when", ["on_epoch_begin", "on_epoch_end"])
def test_an_optimizer_that_a_callback_sets_holds_from_the_next_steps_on(when, data):
    class Lower(Callback):
        pass

    def sgd(rate):
        return fastnn.SGD(rate, clip_norm=rate)

    def lower(self, epoch, logs=None):
        self.model.optimizer = sgd(0.1 / (epoch + 1))

    setattr(Lower, when, lower)
    model, twin = build(sgd(0.5)), build(sgd(0.5))
    fit(model, data, 3, callbacks=[Lower()])
    rates = [0.1, 0.05, 0.1 / 3] if when == "on_epoch_begin" else [0.5, 0.1, 0.05]
    assert model.history.history["lr"] == pytest.approx(rates)
    for rate in rates:
        twin.optimizer = sgd(rate)
        fit(twin, data)
    assert weight_bytes(model) == weight_bytes(twin)


@pytest.mark.parametrize("other", [fastnn.SGD(0.1), fastnn.Adam(0.1, amsgrad=True), "rmsprop"])
def test_an_optimizer_with_another_state_is_refused(other, data):
    model = build(fastnn.Adam(0.01), input_size=INPUTS)
    with pytest.raises(ValueError, match=r"^optimizer: got .*, expected another Adam with the same state"):
        model.optimizer = other
    assert model.optimizer == fastnn.Adam(0.01)
    early = build(fastnn.Adam(0.01))
    early.optimizer = other
    fit(early, data)


@pytest.mark.parametrize(
    "name", ["layers", "loss", "seed", "dtype", "device", "matmul_precision", "l1", "l2", "l1_mode"]
)
def test_what_the_weights_rest_on_stays(name, data):
    model = build(fastnn.SGD(0.1), input_size=INPUTS)
    with pytest.raises(AttributeError, match=rf"^{name}: got .*expected no change"):
        setattr(model, name, getattr(model, name))


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("compile", "takes loss and optimizer"),
        ("state_dict", "to_torch_state_dict"),
        ("score", "evaluate"),
        ("lr", "replace"),
    ],
)
def test_names_that_others_have_for_it_are_answered(name, advice):
    """They are still no attributes."""
    model = build(fastnn.SGD(0.1))
    with pytest.raises(AttributeError, match=rf"^'Sequential' object has no attribute '{name}'; .*{advice}"):
        getattr(model, name)
    assert not hasattr(model, name)


@pytest.mark.parametrize("name", _habits.SETTINGS)
def test_settings_that_others_have_are_refused(name):
    with pytest.raises(AttributeError, match=rf"^{name}: got 5 for a Sequential, .*{re.escape(_habits.ADVICE[name])}"):
        setattr(build(fastnn.SGD(0.1)), name, 5)


def test_other_names_are_the_users_own():
    model = build(fastnn.SGD(0.1))
    with pytest.raises(AttributeError, match=r"^'Sequential' object has no attribute 'note'$"):
        _ = model.note
    model.note = "mine"
    assert copy.copy(model).note == pickle.loads(pickle.dumps(model)).note == "mine"


def test_what_advice_names_is_there():
    """Every word of it that is followed by no other sense than a name of the model's."""
    model = build(fastnn.SGD(0.1), input_size=INPUTS)
    for advice in _habits.ADVICE.values():
        for word in re.findall(r"\b(?:get_weights|set_weights|\w+_on_batch|predict\w*|layer_outputs|to_\w+)\b", advice):
            assert hasattr(model, word), word


def test_threads_may_change(data):
    model = build(fastnn.SGD(0.1), input_size=INPUTS)
    model.n_threads = 2
    assert model.runtime.n_threads == model.n_threads == 2
    with pytest.raises(ValueError, match=r"^n_threads: got 0"):
        model.n_threads = 0


def test_bases_are_no_settings():
    for argument, make in (
        ("loss", lambda: Sequential([Dense(1)], fastnn.losses.Loss())),
        ("optimizer", lambda: Sequential([Dense(1)], "huber", fastnn.optimizers.Optimizer(0.1))),
        (r"layers\[0\]", lambda: Sequential([fastnn.layers.Layer()], "huber")),
        ("rate", lambda: Dropout(1 - 2**-33)),
        ("scale", lambda: Sequential([fastnn.Rescale(1e300), Dense(1)], "huber", input_size=2)),
    ):
        with pytest.raises((TypeError, ValueError), match=rf"^{argument}: got "):
            make()


# ------------------------------------------------------------------------------ rates of one's own


@dataclass
class Table(schedules.Schedule):
    table: object

    def rates(self, step, epoch, n_steps):
        return self.table[step : step + n_steps]


def test_rates_of_ones_own_are_checked_and_left_alone(data):
    table = np.linspace(0.1, 0.2, 30)
    before = table.copy()
    models = [build(fastnn.SGD(kind)) for kind in (Table(table), Table(list(table)), Table(table.astype(np.float32)))]
    for model in models:
        fit(model, data, 2)
    assert weight_bytes(models[0]) == weight_bytes(models[1])
    np.testing.assert_allclose(models[2].get_weights()[0], models[0].get_weights()[0], rtol=1e-5)
    fit(build(fastnn.SGD(schedules.Warmup(Table(table), 20))), data, 2)
    np.testing.assert_array_equal(table, before)


def test_a_clone_has_the_schedule_of_ones_own(data):
    model = build(fastnn.SGD(Table(np.linspace(0.1, 0.2, 30))))
    fit(model, data)
    clone = model.clone()
    assert clone.optimizer.lr is not model.optimizer.lr
    fit(clone, data)
    assert weight_bytes(clone) != weight_bytes(model)
    fit(model, data)
    assert weight_bytes(clone) == weight_bytes(model)


@pytest.mark.parametrize("table", [np.full(7, 0.1), np.full((30, 2), 0.1), np.full(30, -0.1), ["a"] * 30])
def test_bad_rates_never_reach_compiled_code(table, data):
    model = build(fastnn.SGD(Table(table)))
    with pytest.raises(ValueError, match=r"^Table\.rates: got .*expected"):
        fit(model, data, 3)


# ------------------------------------------------------------------------------ copies


def test_copies_carry_no_training_data_and_no_callbacks(data):
    x, _ = data

    class Pickler(Callback):
        def on_epoch_end(self, epoch, logs):
            logs["bytes"] = len(pickle.dumps(self.model))
            copied = copy.deepcopy(self.model)
            assert weight_bytes(copied) == weight_bytes(self.model)

    early = fastnn.EarlyStopping("loss")
    model = build(fastnn.SGD(0.1))
    fit(model, data, 2, callbacks=[fastnn.LambdaCallback(lambda epoch, logs: None), Pickler(), early])
    for kept in (pickle.dumps(model), pickle.dumps(early)):
        assert x[3].tobytes() not in kept
    restored = pickle.loads(pickle.dumps(model))
    fit(restored, data)
    fit(model, data)
    assert weight_bytes(restored) == weight_bytes(model)


@pytest.mark.parametrize(
    "make",
    [
        lambda number: fastnn.SGD(number, momentum=number),
        lambda number: fastnn.AdaGrad(eps=number, clip_norm=number),
        lambda number: fastnn.RMSprop(alpha=number, eps=number, clip_value=number),
        lambda number: fastnn.AdamW(betas=(number, number), eps=number, weight_decay=number),
        lambda number: Dense(2, l1=number, l2=number),
    ],
)
def test_numbers_of_numpy_become_plain_ones(make):
    made = make(np.float32(0.25))
    assert repr(made) == repr(make(0.25))
    assert json.loads(json.dumps(made.config())) == make(0.25).config()


@pytest.mark.parametrize("name", ["lr", "learning_rate"])
def test_a_rate_that_is_set_on_an_optimizer_says_how_it_is_set_on_a_model(name):
    for rule in (fastnn.SGD(0.1), fastnn.AdaGrad(), fastnn.RMSprop(), fastnn.Adam(), fastnn.AdamW()):
        model = build(rule)
        with pytest.raises(
            AttributeError, match=rf"^{name}: got 0.5 .* dataclasses.replace\(model.optimizer, lr=...\)"
        ):
            setattr(model.optimizer, name, 0.5)
        assert model.optimizer == rule == copy.deepcopy(rule) == pickle.loads(pickle.dumps(rule))
        model.optimizer = replace(model.optimizer, lr=0.5)
        assert model.optimizer.lr == 0.5


# ------------------------------------------------------------------------------ weights


@pytest.mark.parametrize("class_weight", [{0: 1.0, 1: 10.0, 2: 1.0}, "balanced"])
def test_classes_weigh_in_training_alone(class_weight, data):
    x, y = data
    whole, split = build(fastnn.SGD(0.1)), build(fastnn.SGD(0.1))
    options = {"epochs": 2, "batch_size": 9, "class_weight": class_weight}
    whole.fit(x[:30], y[:30], validation_data=(x[30:], y[30:]), **options)
    split.fit(x, y, validation_split=0.25, **options)
    for name in ("loss", "val_loss", "accuracy"):
        assert split.history.history[name] == whole.history.history[name]


def test_advantages_are_spoken_of_with_rows_not_with_classes(data):
    for weights, advised in (({"sample_weight": np.full(ROWS, -1.0)}, True), ({"class_weight": {0: -1.0}}, False)):
        with pytest.raises(ValueError, match=r"got -1.0, expected finite weights >= 0") as caught:
            fit(build("sgd"), data, **weights)
        assert ("an advantage" in str(caught.value)) == advised


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_row_of_weight_0_has_no_part_even_where_it_is_beyond_all_numbers(shuffle, data):
    """Its outputs are infinite, and 0 times infinity is NaN."""
    x, y = data
    weights = np.ones(ROWS)
    weights[[2, 11]] = 0.0
    models = []
    for bad in (0.0, 3e38, np.nan):
        x = x.copy()
        x[[2, 11]] = bad
        models.append(
            Sequential([Dense(8, "relu"), Dense(CLASSES)], "cross_entropy", "sgd", seed=1, check_finite=False)
        )
        fit(models[-1], (x, y), 3, sample_weight=weights, shuffle=shuffle)
        _, gradients = models[-1].gradients(x, y, sample_weight=weights)
        assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert len(set(map(weight_bytes, models))) == 1


def test_the_loss_of_an_epoch_is_the_mean_by_weight(data):
    x, y = data
    weights = np.zeros(ROWS)
    weights[:9] = [1, 2, 0, 4, 5, 0, 7, 8, 9]  # all other batches weigh nothing
    model = build(fastnn.SGD(1e-30), dtype="float64", l2=0.1)
    fit(model, data, sample_weight=weights, shuffle=False)
    want = model.evaluate(x, y, sample_weight=weights)
    for name, value in want.items():
        assert model.history.history[name] == pytest.approx([value])


def test_rows_that_weigh_nothing_are_no_best_loss(data):
    model, stopping = build(fastnn.SGD(0.1)), fastnn.EarlyStopping(patience=2)
    weights = np.ones(ROWS)
    weights[30:] = 0.0
    fit(model, data, 5, validation_split=0.25, sample_weight=weights, callbacks=[stopping])
    assert math.isnan(model.history.history["val_loss"][0])
    assert (stopping.best_epoch, stopping.stopped, model.epoch) == (-1, True, 2)


def test_weights_of_tensors_that_train(data):
    torch = pytest.importorskip("torch")
    model = build(fastnn.SGD(0.1), input_size=INPUTS)
    wanted = [torch.full(weight.shape, 0.5, requires_grad=True) for weight in model.get_weights()]
    model.set_weights(wanted)
    assert all((weight == 0.5).all() for weight in model.get_weights())
