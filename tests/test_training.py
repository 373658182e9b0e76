"""`fastnn/training.py`: several epochs in one compiled call are the same as one by one."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from support import training_state

import fastnn
from fastnn import training
from fastnn.progress import ProgressBar
from fastnn.runtime import Runtime

ROWS, INPUTS = 70, 5


def arrays():
    rng = np.random.default_rng(3)
    return rng.standard_normal((ROWS, INPUTS)).astype(np.float32), rng.integers(0, 3, ROWS)


def model_of(lr=1e-2, **options):
    layers = [fastnn.Dense(7, "tanh"), fastnn.Dropout(0.2), fastnn.Dense(3)]
    return fastnn.Sequential(layers, "cross_entropy", fastnn.Adam(lr), seed=5, input_size=INPUTS, **options)


def count_calls(monkeypatch):
    """Return a list that grows by the number of steps of each compiled training call."""
    counts = []
    made = Runtime.training_calls

    def counting(runtime, data, batch):
        train = made(runtime, data, batch)

        def counted(order, first, rows, step, rates, report):
            counts.append(len(report))
            train(order, first, rows, step, rates, report)

        return counted

    monkeypatch.setattr(Runtime, "training_calls", counting)
    monkeypatch.setattr(training, "CALL_SECONDS", 1e9)  # the clock is not to decide
    return counts


def one_by_one(model, *data, **options):
    """Fit with a callback, to which every epoch is told when it is over."""
    return model.fit(*data, callbacks=[fastnn.LambdaCallback(lambda epoch, logs: None)], **options)


def same(a, b):
    for name in ("weights", "optimizer", "step", "epoch", "schedule", "history"):
        assert training_state(a)[name] == training_state(b)[name], name


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch", [ROWS, 35, 16, 1])
def test_epochs_in_one_call_are_those_one_by_one(batch, shuffle, monkeypatch):
    options = {"epochs": 40, "batch_size": batch, "shuffle": shuffle, "verbose": False}
    lr = fastnn.Warmup(fastnn.Exponential(1e-2, 0.9, unit="step"), 5) if batch == 35 else fastnn.StepDecay(1e-2, 0.7, 3)
    alone = model_of(lr)
    one_by_one(alone, *arrays(), **options)
    counts = count_calls(monkeypatch)
    together = model_of(lr)
    together.fit(*arrays(), **options)
    same(together, alone)
    steps = -(-ROWS // batch)
    assert sum(counts) == 40 * steps
    assert (max(counts) > steps) == (batch != 35)  # a schedule around another may be told of every epoch


def test_further_calls_go_on(monkeypatch):
    alone, together = model_of(), model_of()
    for epochs in (7, 1, 12):
        one_by_one(alone, *arrays(), epochs=epochs, batch_size=32, verbose=False)
    counts = count_calls(monkeypatch)
    for epochs in (7, 1, 12):
        together.fit(*arrays(), epochs=epochs, batch_size=32, verbose=False)
    same(together, alone)
    assert max(counts) > 3


def test_what_a_call_takes_is_limited(monkeypatch):
    monkeypatch.setattr(training, "ROWS_A_CALL", 5 * ROWS + 1)
    counts = count_calls(monkeypatch)
    model_of().fit(*arrays(), epochs=60, batch_size=ROWS, verbose=False)
    assert max(counts) == 5


def test_whoever_listens_hears_of_every_epoch(monkeypatch):
    counts = count_calls(monkeypatch)
    x, y = arrays()
    model_of().fit(x, y, epochs=20, batch_size=ROWS, verbose=False, validation_split=0.3)
    plateau = fastnn.ReduceOnPlateau(1e-2, monitor="loss", patience=1)
    model_of(plateau).fit(x, y, epochs=20, batch_size=ROWS, verbose=False)
    one_by_one(model_of(), x, y, epochs=20, batch_size=ROWS, verbose=False)
    assert max(counts) == 1


def test_seconds_of_epochs_in_one_call_are_shares_of_it(monkeypatch):
    counts = count_calls(monkeypatch)
    start = time.perf_counter()
    history = model_of().fit(*arrays(), epochs=340, batch_size=ROWS, verbose=False).history
    assert 0 < sum(history["seconds"]) <= time.perf_counter() - start
    assert history["samples_per_second"] == [ROWS / seconds for seconds in history["seconds"]]
    assert max(counts) > 200


def test_a_line_for_every_epoch(capsys):
    model_of().fit(*arrays(), epochs=30, batch_size=ROWS, verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"epoch {number}" for number in range(1, 31)]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("verbose", [False, 0, "auto", True])
def test_a_terminal_shows_a_bar_of_what_takes_long_and_is_clear_in_the_end(verbose, each, monkeypatch):
    model, callbacks = model_of(), [fastnn.LambdaCallback(lambda epoch, logs: None)] if each else []
    model.fit(*arrays(), epochs=0, batch_size=ROWS)  # what compiles its kernels may say so
    for delay, drawn in ((1e9, False), (0.0, verbose not in (False, 0))):

        class Bar(ProgressBar):
            def __init__(self, *arguments, delay=delay):
                super().__init__(*arguments)
                self.delay = delay

        monkeypatch.setattr(training, "ProgressBar", Bar)
        terminal, lines = Terminal(), io.StringIO()
        monkeypatch.setattr("sys.stderr", terminal)
        monkeypatch.setattr("sys.stdout", lines)
        model.fit(*arrays(), epochs=3, batch_size=ROWS, verbose=verbose, callbacks=callbacks)
        shown = terminal.getvalue()
        assert shown.rpartition("\r")[0].rpartition("\r")[2].strip() == shown.rpartition("\r")[2] == ""
        assert (f"epoch {model.epoch - 1}: " in shown and "/210 [" in shown and "loss 1." in shown) == drawn
        assert drawn or not shown.strip()
        assert lines.getvalue().count("epoch") == (3 if verbose is True else 0)


@pytest.mark.parametrize("at", [0, 1, 17, 38])
def test_divergence_is_found_in_its_epoch(at, monkeypatch):
    """The rate explodes in one epoch; the weights of the last good one stay, as where epochs are single calls."""

    class Exploding(fastnn.schedules.Constant):
        def rates(self, step, epoch, n_steps):
            return np.full(n_steps, np.inf if epoch == at else self.lr)

    options = {"epochs": 40, "batch_size": 32, "verbose": False}
    models, said = [], []
    for fit in (one_by_one, lambda model, *data, **options: model.fit(*data, **options)):
        counts = count_calls(monkeypatch)
        model = model_of(Exploding(1e-2))
        with pytest.raises(fastnn.TrainingDiverged) as raised:
            fit(model, *arrays(), **options)
        models.append(model)
        said.append(str(raised.value))
    same(models[1], models[0])
    assert said[0] == said[1]
    assert max(counts, default=0) > 3 or at < 2


def test_an_interrupt_counts_the_epochs_that_were_done(monkeypatch):
    alone = model_of()
    one_by_one(alone, *arrays(), epochs=30, batch_size=32, verbose=False)
    count_calls(monkeypatch)
    made = Runtime.training_calls

    def interrupted(runtime, data, batch):
        train = made(runtime, data, batch)

        def after(order, first, rows, step, rates, report):
            train(order, first, rows, step, rates, report)
            if len(report) > 3:
                raise KeyboardInterrupt

        return after

    model = model_of()
    with monkeypatch.context() as patch:
        patch.setattr(Runtime, "training_calls", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.fit(*arrays(), epochs=30, batch_size=32, verbose=False)
    assert 3 < len(model.history.epoch) == model.epoch < 30
    assert model.step == 3 * model.epoch
    model.fit(*arrays(), epochs=30 - model.epoch, batch_size=32, verbose=False)
    same(model, alone)


def test_a_fit_at_rate_0_is_warned_of(recwarn):
    """Behind a cosine's end, as of a model that the command line trained, `fit` changed nothing and said nothing."""
    model, steps = model_of(fastnn.Cosine(0.1, steps=6, unit="step")), 3
    model.fit(*arrays(), epochs=6 // steps, verbose=False)
    model.fit(*arrays(), epochs=0, verbose=False)
    assert not recwarn.list
    before = model.get_weights()[0]
    with pytest.warns(UserWarning, match=r"^lr: got 0 .* from epoch 3 on, by Cosine\(.*expected a rate > 0") as told:
        model.fit(*arrays(), epochs=2, verbose=False)
    assert told[0].filename == __file__
    np.testing.assert_array_equal(model.get_weights()[0], before)
    model.optimizer = fastnn.Adam(0.1)
    model.fit(*arrays(), epochs=1, verbose=False)
    assert not recwarn.list
