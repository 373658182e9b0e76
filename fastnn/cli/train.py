"""`fastnn train`: data, a network, its training, what came of it."""

from __future__ import annotations

import argparse
import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastnn._version import __version__
from fastnn.activations import NAMES as ACTIVATIONS
from fastnn.activations import SOFTMAX
from fastnn.callbacks import Callback, EarlyStopping
from fastnn.cli.options import add_command, add_json, columns, integer, layers, number, one_of, share_or_file
from fastnn.cli.scores import brief, measure
from fastnn.cli.shared import (
    FAILED,
    INTERRUPTED,
    MODEL_FILE,
    CommandError,
    blame,
    check_place,
    complain,
    print_json,
    say,
    writing,
)
from fastnn.cli.sources import TEST_SHARE, Task, make_task
from fastnn.diagnostics import GradientFlow
from fastnn.layers import Dense, Dropout, Layer
from fastnn.model import Sequential
from fastnn.optimizers import OPTIMIZERS, Optimizer
from fastnn.preparation import Values
from fastnn.schedules import (
    Constant,
    Cosine,
    Exponential,
    InverseTime,
    ReduceOnPlateau,
    Schedule,
    StepDecay,
    Warmup,
)
from fastnn.training import TrainingDiverged

PLOT_FILE = "fastnn-curve.png"

SCHEDULES = ("constant", "step", "exponential", "inverse_time", "cosine", "plateau")

_DECAYS = {"step": (0.5, 5), "exponential": (0.9, 1), "inverse_time": (0.5, 1), "plateau": (0.3, 3)}
"""What --decay and --decay-every are by themselves, for each schedule that has them."""

_HIDDEN_ACTIVATIONS = tuple(name for name in ACTIVATIONS if name != SOFTMAX)

_RATES = {"sgd": 0.1, "adagrad": 0.01, "rmsprop": 0.001, "adam": 0.002, "adamw": 0.002}
"""Learning rates that suit scaled inputs and these batch sizes."""

_VALUE_LOSSES = ("squared_error", "absolute_error", "huber")

_STEPS, _EPOCHS = 1200, (10, 500)
"""By themselves, epochs are as many as make these steps, within these limits."""

_DROPOUT = {"classes": 0.25, "values": 0.0}
"""Dropout changes the spread of what a unit gets, which values suffer from and classes hardly."""

EXAMPLES = """\
what FILE can be:
  CSV (.gz too), Parquet   --target COLUMN; the first line of a CSV file names the columns
  .npz                     arrays x and y, or the one that --target names
  IDX (.gz too)            images, with --target LABELS; or a folder with MNIST's four files
Numbers are standardised; words, truth values and dictionaries have an input for each category; a missing number
counts as the mean and has an input that says so. The model keeps all this: evaluate and predict take raw files.

--decay and --decay-every, by schedule:
  step           the rate times 0.5 every 5 epochs
  exponential    the rate times 0.9 from epoch to epoch, smoothly
  inverse_time   the rate over 1 + 0.5 x epochs
  plateau        the rate times 0.3 where 3 epochs brought no better validation loss

examples:
  fastnn train
  fastnn train people.csv --target income --ignore id,name
  fastnn train houses.parquet --target price --loss huber --test later-houses.parquet
  fastnn train mnist/ --epochs 20 --patience 3
  fastnn train --optimizer sgd --lr 0.5 --schedule step --warmup 100
  fastnn train --l1 3e-4 --l1-mode truncate
  fastnn train --layers 32,32,32,32,32,32,32,32 --activation sigmoid    (its gradient vanishes)
"""


def add(commands: Any) -> None:
    """Declare the command."""
    summary = "train a network on a table, on arrays or images, or on the digits inside the package"
    parser = add_command(commands, "train", run, summary, epilog=EXAMPLES)
    parser.add_argument("data", metavar="FILE", nargs="?", help="see below (default: the digits)")
    _add_data(parser.add_argument_group("data").add_argument)
    _add_network(parser.add_argument_group("network").add_argument)
    _add_training(parser.add_argument_group("training").add_argument)
    _add_output(parser.add_argument_group("output"))


def _add_data(add: Any) -> None:
    add("--target", metavar="COLUMN", help="what to learn; several columns of values with commas between them")
    text = "classes or values (default: classes for words and few whole numbers)"
    add("--task", metavar="KIND", type=one_of(("classes", "values")), help=text)
    add("--columns", metavar="A,B,...", type=columns, default=(), help="learn from these alone (default: all others)")
    add("--ignore", metavar="A,B,...", type=columns, default=(), help="columns to leave out")
    text = "columns of numbers that stand for categories"
    add("--categorical", metavar="A,B,...", type=columns, default=(), help=text)
    text = "share of the training rows set apart to choose the best epoch by (default 0.1)"
    add("--validation", metavar="SHARE", type=number(0, 1, high_open=True), default=0.1, help=text)
    text = f"share of the rows, or a file of rows, to test the model on in the end (default {TEST_SHARE})"
    add("--test", metavar="SHARE|FILE", type=share_or_file, help=text)


def _add_network(add: Any) -> None:
    penalty = number(0)
    text = "units of the hidden layers, 0 for none (default 256,128)"
    add("--layers", metavar="N,N,...", type=layers, default=(256, 128), help=text)
    text = f"{', '.join(_HIDDEN_ACTIVATIONS)} (default relu)"
    add("--activation", metavar="NAME", type=one_of(_HIDDEN_ACTIVATIONS), default="relu", help=text)
    text = "share of the hidden units dropped in each step of training (default {classes} for classes, {values:g} for "
    text = (text + "values)").format(**_DROPOUT)
    add("--dropout", metavar="SHARE", type=number(0, 1, high_open=True), help=text)
    text = f"for values: {', '.join(_VALUE_LOSSES)} (default squared_error); classes have cross_entropy"
    add("--loss", metavar="NAME", type=one_of(("cross_entropy", *_VALUE_LOSSES)), help=text)
    add("--l1", metavar="X", type=penalty, default=0.0, help="add X sum|W| to the loss")
    add("--l2", metavar="X", type=penalty, default=0.0, help="add X/2 sum W^2 to the loss")
    text = "gradient (default), or truncate, which gives weights that are exactly 0"
    add("--l1-mode", metavar="MODE", type=one_of(("gradient", "truncate")), default="gradient", help=text)


def _add_training(add: Any) -> None:
    positive, one, zero = number(0, low_open=True), integer(1), integer(0)
    text = f"{', '.join(OPTIMIZERS)} (default adam)"
    add("--optimizer", metavar="NAME", type=one_of(tuple(OPTIMIZERS)), default="adam", help=text)
    text = f"learning rate (default {', '.join(f'{rate:g} for {name}' for name, rate in _RATES.items())})"
    add("--lr", metavar="X", type=positive, help=text)
    text = f"{', '.join(SCHEDULES)} (default cosine, which ends at 0)"
    add("--schedule", metavar="NAME", type=one_of(SCHEDULES), default="cosine", help=text)
    add("--decay", metavar="X", type=positive, help="how far the rate falls at a time, see below")
    add("--decay-every", metavar="N", type=one, help="epochs from one time to the next, see below")
    add("--warmup", metavar="N", type=zero, default=0, help="steps over which the rate rises from 0")
    text = "passes over the data (default: as many as make {:,} steps, from {} to {})".format(_STEPS, *_EPOCHS)
    add("--epochs", metavar="N", type=one, help=text)
    add("--batch-size", metavar="N", type=one, help="rows a step (default 32; 128 from 10,000 rows on)")
    add("--patience", metavar="N", type=zero, help="stop after N epochs without a better validation loss")
    text = "the same seed gives the same bits (default 0)"
    add("--seed", metavar="N", type=integer(0, 2**64 - 1), default=0, help=text)
    add("--threads", metavar="N", type=one, help="threads at most (default: one a core)")
    add("--dtype", metavar="NAME", type=one_of(("float32", "float64")), default="float32", help="float32 or float64")


def _add_output(group: Any) -> None:
    group.add_argument("--output", metavar="FILE", default=MODEL_FILE, help=f"the model (default {MODEL_FILE})")
    plot, talk = group.add_mutually_exclusive_group(), group.add_mutually_exclusive_group()
    text = f"the learning curves, .png, .svg or .pdf (default {PLOT_FILE}, or beside --output)"
    plot.add_argument("--plot", metavar="FILE", help=text)
    plot.add_argument("--no-plot", action="store_true", help="draw nothing")
    talk.add_argument("--quiet", action="store_true", help="print errors only")
    add_json(talk)


@dataclass(frozen=True)
class _Outcome:
    """How training ended: the exit code, why it ended where it did not run its course, what the callbacks saw."""

    code: int
    ending: str
    best: EarlyStopping
    flow: GradientFlow


class EpochLines(Callback):
    """Print a line an epoch up to the 50th, then every tenth up to the 500th, and so on, and the last one."""

    def __init__(self, epochs: int) -> None:
        self.width, self.epochs = len(str(epochs)), epochs
        self._unsaid = ""

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        self._unsaid = self._line(epoch, logs)
        if (epoch + 1) % 10 ** max(0, math.ceil(math.log10((epoch + 1) / 50))) == 0:
            self.on_train_end()

    def on_train_end(self) -> None:
        if self._unsaid:
            say(self._unsaid)
        self._unsaid = ""

    def _line(self, epoch: int, logs: dict[str, float]) -> str:
        numbers = [f"loss {logs['loss']:.4f}"]
        if "accuracy" in logs:
            numbers.append(f"accuracy {logs['accuracy']:7.2%}")
        if "val_loss" in logs:
            numbers.append(f"val_loss {logs['val_loss']:.4f}")
        if "val_accuracy" in logs:
            numbers.append(f"val_accuracy {logs['val_accuracy']:7.2%}")
        if "val_r2" in logs:
            numbers.append(f"val_r2 {logs['val_r2']:7.4f}")
        numbers.append(f"{logs['samples_per_second']:>9,.0f} samples/s")
        return f"epoch {epoch + 1:>{self.width}}/{self.epochs}  " + "  ".join(numbers)


def run(options: argparse.Namespace) -> int:
    """Train, and leave a model behind."""
    # Everything that can be wrong with the arguments shows before the first step.
    check_place("--output", Path(options.output))
    plot = _plot_place(options)
    _optimizer(options, epochs=1)
    task = make_task(options)
    batch_size = options.batch_size or (32 if len(task.train[0]) < 10_000 else 128)
    epochs = options.epochs or _epochs(len(task.train[0]), batch_size)
    model = _network(options, task, _optimizer(options, epochs))
    if not (options.quiet or options.json):
        _introduce(options, task, model)
    outcome = _fit(options, task, model, epochs, batch_size)
    return _finish(options, model, task, outcome, plot)


def _epochs(rows: int, batch_size: int) -> int:
    low, high = _EPOCHS
    return min(max(low, math.ceil(_STEPS / math.ceil(rows / batch_size))), high)


def _introduce(options: argparse.Namespace, task: Task, model: Sequential) -> None:
    chosen = f", {len(task.validation[0]):,} to choose the best epoch by" if task.validation else ""
    tested = f", {len(task.test[0]):,} to test on" if task.test else ""
    say(f"{task.name}: {len(task.train[0]):,} rows to train on{chosen}{tested}")
    for note in task.notes:
        say(note)
    shape = "-".join(map(str, (model.network.inputs, *options.layers, model.network.units)))
    say(f"{shape} {options.activation}, {model.network.n_params:,} parameters, {options.optimizer}")


def _fit(options: argparse.Namespace, task: Task, model: Sequential, epochs: int, batch_size: int) -> _Outcome:
    best = EarlyStopping(patience=epochs if options.patience is None else options.patience)
    flow = GradientFlow()
    lines = [] if options.quiet or options.json else [EpochLines(epochs)]
    code, ending = 0, ""
    try:
        with blame(options.data or "digits"):
            model.predict(task.train[0][:1])  # compiles what must be compiled, so that the first epoch need not
            model.fit(
                *task.train,
                epochs=epochs,
                batch_size=batch_size,
                validation_data=task.validation,
                callbacks=[best, flow, *lines],
                verbose=False if options.quiet else "auto",
            )
    except KeyboardInterrupt:
        code, ending = INTERRUPTED, f"interrupted in epoch {model.epoch + 1}"
    except TrainingDiverged as error:
        code, ending = FAILED, str(error).rstrip(".")
    if code and not (model.step if code == INTERRUPTED else model.epoch):
        raise CommandError(f"{ending}; nothing was learned and nothing written", code)
    if code == 0 and model.epoch < epochs:
        ending = f"stopped, as {options.patience} epochs brought no better {_watched(task)}"
    return _Outcome(code, ending, best, flow)


def _finish(options: argparse.Namespace, model: Sequential, task: Task, outcome: _Outcome, plot: Path | None) -> int:
    """Test and write the best model, draw its curves, and tell the result."""
    result = measure(model, *task.test) if task.test else {}
    with writing(options.output):
        model.save(options.output)
    columns = model.history.history
    seconds = sum(columns.get("seconds", []))
    rate = len(task.train[0]) * len(model.history.epoch) / seconds if seconds else math.nan
    problems = outcome.flow.diagnosis() if outcome.flow.epoch else []
    code, ending, best = outcome.code, outcome.ending, outcome.best
    talk = not (options.quiet or options.json)
    if talk:
        if code == INTERRUPTED or (code == 0 and ending):
            say(f"{ending}.")
        for sentence in problems:
            say(sentence)
        say(f"{f'test {brief(result)}' if result else 'not tested'}, {_whose(model, best, task)}")
        if seconds:
            say(f"{rate:,.0f} samples/s, {seconds:.1f} s of training")
        say(f"wrote {options.output}")
    drawn, undrawn = _draw(model, plot, task)
    if talk and (drawn or undrawn):
        say(f"wrote {drawn}" if drawn else undrawn)
    if options.json:
        facts = {
            "task": task.preparation.target.kind,
            **{f"test_{name}": value for name, value in result.items()},
            "epochs": model.epoch,
            "best_epoch": best.best_epoch + 1 or None,
            "samples_per_second": rate,
            "seconds": seconds,
            "parameters": model.network.n_params,
            "model": options.output,
            "plot": None if drawn is None else str(drawn),
            "notes": task.notes,
            "diagnosis": problems,
            "ending": ending or None,
            "fastnn": __version__,
        }
        print_json(facts)
    return complain(f"{ending}; the best model so far is in {options.output}", code) if code == FAILED else code


def _watched(task: Task) -> str:
    return "validation loss" if task.validation else "loss"


def _whose(model: Sequential, best: EarlyStopping, task: Task) -> str:
    """Say which epoch the weights are of."""
    if best.best_epoch < 0:
        return f"after {model.step:,} steps, before the end of the first epoch"
    return f"from epoch {best.best_epoch + 1} of {model.epoch}, the best by its {_watched(task)}"


def _draw(model: Sequential, plot: Path | None, task: Task) -> tuple[Path | None, str]:
    """Draw the learning curves; returns where, or why not."""
    if plot is None or not model.history.epoch:
        return None, ""
    from fastnn.plotting import plot_history

    try:
        with writing(str(plot)):
            plot_history(model.history, plot, title=task.name)
    except ImportError as error:
        return None, f"no picture, since {error}"
    return plot, ""


def _plot_place(options: argparse.Namespace) -> Path | None:
    """Return where the picture goes, None for nowhere."""
    if options.no_plot:
        return None
    if options.plot is None:
        return Path(PLOT_FILE) if options.output == MODEL_FILE else Path(options.output).with_suffix(".png")
    from fastnn.plotting import FORMATS

    path = Path(options.plot)
    if path.suffix.lower() not in FORMATS:
        raise CommandError(f"--plot: got {path}, expected a name that ends in {', '.join(FORMATS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise CommandError('--plot: matplotlib is not installed: pip install "fastnn[plot]" brings it')
    check_place("--plot", path)
    return path


def _optimizer(options: argparse.Namespace, epochs: int) -> Optimizer:
    kind = OPTIMIZERS[options.optimizer]
    lr = options.lr or _RATES[options.optimizer]
    name = options.schedule
    if name not in _DECAYS and (options.decay or options.decay_every):
        which = "--decay" if options.decay else "--decay-every"
        raise CommandError(f"{which}: says nothing to --schedule {name}, expected it with {', '.join(_DECAYS)}")
    decay, every = _DECAYS.get(name, (1.0, 1))
    decay, every = options.decay or decay, options.decay_every or every
    schedule: Schedule
    with blame("--decay"):
        if name == "step":
            schedule = StepDecay(lr, decay, every)
        elif name == "exponential":
            schedule = Exponential(lr, decay, every)
        elif name == "inverse_time":
            schedule = InverseTime(lr, decay, every)
        elif name == "plateau":
            schedule = ReduceOnPlateau(lr, decay, every)
        else:
            schedule = Cosine(lr, epochs) if name == "cosine" else Constant(lr)
    return kind(lr=Warmup(schedule, options.warmup) if options.warmup else schedule)


def _network(options: argparse.Namespace, task: Task, optimizer: Optimizer) -> Sequential:
    target = task.preparation.target
    dropout = _DROPOUT[target.kind] if options.dropout is None else options.dropout
    stack: list[Layer] = [] if task.rescale is None else [task.rescale]
    for width in options.layers:
        stack.append(Dense(width, options.activation))
        if dropout:
            stack.append(Dropout(dropout))
    outputs = len(target.names) if isinstance(target, Values) else len(target.classes)
    model = Sequential(
        [*stack, Dense(outputs)],
        _loss(options.loss, target.kind),
        optimizer,
        seed=options.seed,
        dtype=options.dtype,
        input_size=task.train[0].shape[1],
        n_threads=options.threads,
        l1=options.l1,
        l2=options.l2,
        l1_mode=options.l1_mode,
    )
    model.preparation = task.preparation
    return model


def _loss(asked: str | None, kind: str) -> str:
    known = _VALUE_LOSSES if kind == "values" else ("cross_entropy",)
    if asked is not None and asked not in known:
        raise CommandError(f"--loss: got {asked} for {kind}, expected {' or '.join(known)} (--task overrules)")
    return asked or known[0]
