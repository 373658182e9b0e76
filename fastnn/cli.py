"""`fastnn train`, `predict`, `info` and `warmup`: the whole route from the shell.

An error is one sentence on stderr. Exit codes: 0; 1 where training or writing failed; 2 for bad arguments and files;
130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import math
import os
import sys
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from fastnn._errors import check_number, unknown_name
from fastnn._version import __version__
from fastnn.activations import NAMES as ACTIVATIONS
from fastnn.activations import SOFTMAX
from fastnn.callbacks import Callback, EarlyStopping
from fastnn.datasets import load_digits, load_idx, load_idx_dir
from fastnn.diagnostics import GradientFlow
from fastnn.kernels._warmup import warmup
from fastnn.layers import Dense, Dropout, Layer, Rescale
from fastnn.model import Sequential, load
from fastnn.optimizers import OPTIMIZERS, Optimizer
from fastnn.saving import ModelFileError, write_atomically
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

__all__ = ["main"]

Array = npt.NDArray[Any]

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

MODEL_FILE, PLOT_FILE = "fastnn-model.safetensors", "fastnn-curve.png"

SCHEDULES = ("constant", "step", "exponential", "inverse_time", "cosine", "plateau")

_DECAYS = {"step": (0.5, 5), "exponential": (0.9, 1), "inverse_time": (0.5, 1), "plateau": (0.3, 3)}
"""What --decay and --decay-every are by themselves, for each schedule that has them."""

_HIDDEN_ACTIVATIONS = tuple(name for name in ACTIVATIONS if name != SOFTMAX)


_RATES = {"sgd": 0.1, "adagrad": 0.01, "rmsprop": 0.001, "adam": 0.002, "adamw": 0.002}
"""Learning rates that suit scaled images and these batch sizes."""

_EPOCHS, _BATCH_SIZE = (30, 10), (32, 128)
"""Of the digits inside the package, and of a folder of files, which has more rows."""


class CommandError(Exception):
    """What stops a command: the sentence to print, and the exit code."""

    def __init__(self, message: str, code: int = BAD_INPUT) -> None:
        super().__init__(message)
        self.code = code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; None takes those of the process.

    Returns
    -------
    int
        0, 1, 2 or 130; the module says which is which.
    """
    try:
        parser = _parser()
        options = parser.parse_args(arguments)
        if options.run is None:
            parser.error("got no command, expected train, predict, info or warmup")
        code: int = options.run(options)
        sys.stdout.flush()
    except SystemExit as stop:  # --help, --version, and what argparse refuses
        return stop.code if isinstance(stop.code, int) else 0
    except CommandError as error:
        return _complain(str(error), error.code)
    except MemoryError as error:
        return _complain(f"out of memory: {error}", FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except BrokenPipeError:  # who read our output, such as `head`, has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code


def _complain(message: str, code: int) -> int:
    print(f"fastnn: {' '.join(message.split())}", file=sys.stderr)
    return code


@contextmanager
def _blame(what: str) -> Iterator[None]:
    """Turn an error about a value or file into a sentence that begins with the option or file it came from."""
    try:
        yield
    except (OSError, TypeError, ValueError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise CommandError(f"{error.filename or what}: {error.strerror}") from None
        # The library names its own argument first: "x: got 3 inputs, expected 64".
        message = str(error).partition(" (check_finite=")[0]
        name, colon, rest = message.partition(": ")
        raise CommandError(f"{what}: {rest if colon and name.isidentifier() else message}") from None


# What can be said on the command line.

_EXAMPLES = """\
examples:
  fastnn train                                     train on the handwritten digits inside the package
  fastnn info fastnn-model.safetensors             what is in the file that it wrote
  fastnn predict fastnn-model.safetensors x.npy    the classes of new rows

fastnn train --help and fastnn predict --help have more.
"""

_TRAIN_EXAMPLES = """\
--decay and --decay-every, by schedule:
  step           the rate times 0.5 every 5 epochs
  exponential    the rate times 0.9 from epoch to epoch, smoothly
  inverse_time   the rate over 1 + 0.5 x epochs
  plateau        the rate times 0.3 where 3 epochs brought no better validation loss

examples:
  fastnn train
  fastnn train --data mnist --epochs 20 --patience 3
  fastnn train --optimizer sgd --lr 0.5 --schedule step --warmup 100
  fastnn train --l1 3e-4 --l1-mode truncate
  fastnn train --layers 32,32,32,32,32,32,32,32 --activation sigmoid    (its gradient vanishes)
"""

_PREDICT_EXAMPLES = """\
examples:
  fastnn predict fastnn-model.safetensors rows.csv
  fastnn predict fastnn-model.safetensors t10k-images-idx3-ubyte.gz --output classes.npy
  fastnn predict fastnn-model.safetensors rows.npy --proba | head
"""


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line, without the usage in front of it."""

    def __init__(self, **options: Any) -> None:
        options["formatter_class"] = argparse.RawDescriptionHelpFormatter
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        message = " ".join(message.removeprefix("argument ").split())
        self.exit(BAD_INPUT, f"{self.prog}: {message} ({self.prog} --help says more)\n")


def _parser() -> argparse.ArgumentParser:
    description = "Dense neural networks, trained fast on the CPU."
    parser = _Parser(prog="fastnn", description=description, epilog=_EXAMPLES)
    parser.add_argument("--version", action="version", version=f"fastnn {__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_train(commands)
    _add_predict(commands)
    _add_info(commands)
    _add_warmup(commands)
    return parser


def _add_train(commands: Any) -> None:
    summary = "train a network on the digits inside the package, or on files in MNIST's format"
    parser = commands.add_parser("train", help=summary, description=f"{_sentence(summary)}.", epilog=_TRAIN_EXAMPLES)
    parser.set_defaults(run=_train)
    share, positive, penalty = _number(0, 1, high_open=True), _number(0, low_open=True), _number(0)
    one, zero = _integer(1), _integer(0)

    add = parser.add_argument_group("data").add_argument
    add("--data", metavar="DIR", help="folder with MNIST's four IDX files, plain or .gz (default: the digits)")
    text = "share of the training rows set apart to choose the best epoch by (default 0.1)"
    add("--validation", metavar="SHARE", type=share, default=0.1, help=text)

    add = parser.add_argument_group("network").add_argument
    text = "units of the hidden layers, 0 for none (default 256,128)"
    add("--layers", metavar="N,N,...", type=_layers, default=(256, 128), help=text)
    text = f"{', '.join(_HIDDEN_ACTIVATIONS)} (default relu)"
    add("--activation", metavar="NAME", type=_one_of(_HIDDEN_ACTIVATIONS), default="relu", help=text)
    text = "share of the hidden units dropped in each step of training (default 0.25)"
    add("--dropout", metavar="SHARE", type=share, default=0.25, help=text)
    add("--l1", metavar="X", type=penalty, default=0.0, help="add X sum|W| to the loss")
    add("--l2", metavar="X", type=penalty, default=0.0, help="add X/2 sum W^2 to the loss")
    text = "gradient (default), or truncate, which gives weights that are exactly 0"
    add("--l1-mode", metavar="MODE", type=_one_of(("gradient", "truncate")), default="gradient", help=text)

    add = parser.add_argument_group("training").add_argument
    text = f"{', '.join(OPTIMIZERS)} (default adam)"
    add("--optimizer", metavar="NAME", type=_one_of(tuple(OPTIMIZERS)), default="adam", help=text)
    text = f"learning rate (default {', '.join(f'{rate:g} for {name}' for name, rate in _RATES.items())})"
    add("--lr", metavar="X", type=positive, help=text)
    text = f"{', '.join(SCHEDULES)} (default cosine, which ends at 0)"
    add("--schedule", metavar="NAME", type=_one_of(SCHEDULES), default="cosine", help=text)
    add("--decay", metavar="X", type=positive, help="how far the rate falls at a time, see below")
    add("--decay-every", metavar="N", type=one, help="epochs from one time to the next, see below")
    add("--warmup", metavar="N", type=zero, default=0, help="steps over which the rate rises from 0")
    add("--epochs", metavar="N", type=one, help="passes over the data (default {}; with --data {})".format(*_EPOCHS))
    add("--batch-size", metavar="N", type=one, help="rows a step (default {}; with --data {})".format(*_BATCH_SIZE))
    add("--patience", metavar="N", type=zero, help="stop after N epochs without a better validation loss")
    text = "the same seed gives the same bits (default 0)"
    add("--seed", metavar="N", type=_integer(0, 2**64 - 1), default=0, help=text)
    add("--threads", metavar="N", type=one, help="threads at most (default: one a core)")
    add("--dtype", metavar="NAME", type=_one_of(("float32", "float64")), default="float32", help="float32 or float64")

    group = parser.add_argument_group("output")
    group.add_argument("--output", metavar="FILE", default=MODEL_FILE, help=f"the model (default {MODEL_FILE})")
    plot, talk = group.add_mutually_exclusive_group(), group.add_mutually_exclusive_group()
    text = f"the learning curves, .png, .svg or .pdf (default {PLOT_FILE}, or beside --output)"
    plot.add_argument("--plot", metavar="FILE", help=text)
    plot.add_argument("--no-plot", action="store_true", help="draw nothing")
    talk.add_argument("--quiet", action="store_true", help="print errors only")
    talk.add_argument("--json", action="store_true", help="print the result as one JSON object, and nothing else")


def _add_predict(commands: Any) -> None:
    summary = "predict the class of each row, or its values, with a trained network"
    parser = commands.add_parser(
        "predict", help=summary, description=f"{_sentence(summary)}; a line a row.", epilog=_PREDICT_EXAMPLES
    )
    parser.set_defaults(run=_predict)
    parser.add_argument("model", metavar="MODEL", help="file that fastnn train or model.save wrote")
    text = (
        "the rows: IDX (plain or .gz), .npy, .npz (its one array, or the one named x), or numbers as text, as in .csv"
    )
    parser.add_argument("data", metavar="DATA", help=text)
    parser.add_argument("--proba", action="store_true", help="print the probability of every class instead")
    parser.add_argument("--output", metavar="FILE", help="write to a file instead: .npy, or text under any other name")


def _add_info(commands: Any) -> None:
    summary = "say what is in a model's file"
    parser = commands.add_parser(
        "info", help=summary, description="Print a model's layers, settings, counters and last epoch."
    )
    parser.set_defaults(run=_info)
    parser.add_argument("model", metavar="MODEL", help="file that fastnn train or model.save wrote")


def _add_warmup(commands: Any) -> None:
    summary = "compile every kernel for this CPU ahead of the first use"
    parser = commands.add_parser(
        "warmup", help=summary, description=f"{_sentence(summary)}, for images and CI; NUMBA_CACHE_DIR says where to."
    )
    parser.set_defaults(run=_warmup)
    parser.add_argument(
        "--dtype", choices=("float32", "float64"), action="append", metavar="TYPE",
        help="float32 or float64; may be given twice (default: both)",
    )  # fmt: skip


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _number(
    low: float, high: float | None = None, *, low_open: bool = False, high_open: bool = False
) -> Callable[[str], float]:
    """Return a converter from text to a number within limits."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        with _refusal(text):
            return check_number("", value, low=low, high=high, low_open=low_open, high_open=high_open)

    return convert


def _integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """Return a converter from text to an integer within limits."""

    def convert(text: str) -> int:
        try:
            value: object = int(text)
        except ValueError:
            value = text
        with _refusal(text):
            return check_number("", value, low=low, high=high, integer=True)

    return convert


@contextmanager
def _refusal(text: str) -> Iterator[None]:
    """Turn `check_number`'s error into one that argparse prints, about the text as it was typed."""
    try:
        yield
    except (TypeError, ValueError) as error:
        expected = str(error).rpartition("expected ")[2]
        raise argparse.ArgumentTypeError(f"got {text!r}, expected {expected}") from None


def _one_of(names: tuple[str, ...]) -> Callable[[str], str]:
    """Return a converter that takes these names, in any case, with - for _."""

    def convert(text: str) -> str:
        name = text.lower().replace("-", "_")
        if name not in names:
            raise argparse.ArgumentTypeError(str(unknown_name("", text, names)).removeprefix(": "))
        return name

    return convert


def _layers(text: str) -> tuple[int, ...]:
    """Return (256, 128) for "256,128", and () for "0"."""
    try:
        units = tuple(int(part) for part in text.split(","))
    except ValueError:
        units = ()
    if units == (0,):
        return ()
    if not units or min(units) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected units such as 256,128, or 0 for no hidden layer")
    return units


# fastnn train


@dataclass(frozen=True)
class _Task:
    """What is learned: rows and labels to train on, to choose the best epoch by (or None) and to test on."""

    name: str
    train: tuple[Array, Array]
    validation: tuple[Array, Array] | None
    test: tuple[Array, Array]
    rescale: Rescale
    classes: int


class _EpochLines(Callback):
    """Print a line an epoch."""

    def __init__(self, epochs: int) -> None:
        self.width, self.epochs = len(str(epochs)), epochs

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        numbers = [f"loss {logs['loss']:.4f}  accuracy {logs['accuracy']:7.2%}"]
        if "val_loss" in logs:
            numbers.append(f"val_loss {logs['val_loss']:.4f}  val_accuracy {logs['val_accuracy']:7.2%}")
        numbers.append(f"{logs['samples_per_second']:>9,.0f} samples/s")
        _print(f"epoch {epoch + 1:>{self.width}}/{self.epochs}  " + "  ".join(numbers))


def _print(text: str) -> None:
    """Print without tearing a progress bar."""
    tqdm.write(text, file=sys.stdout)


def _train(options: argparse.Namespace) -> int:
    own_data = options.data is not None
    epochs = options.epochs or _EPOCHS[own_data]
    talk = not (options.quiet or options.json)

    # Everything that can be wrong with the arguments shows before the first step.
    _check_place("--output", Path(options.output))
    plot = _plot_place(options)
    optimizer = _optimizer(options, epochs)
    task = _task(options)
    model = _network(options, task, optimizer)
    if talk:
        shape = "-".join(map(str, (task.train[0].shape[1], *options.layers, task.classes)))
        chosen = f", {len(task.validation[0]):,} to choose the best epoch by" if task.validation else ""
        _print(f"{task.name}: {len(task.train[0]):,} rows to train on{chosen}, {len(task.test[0]):,} to test on")
        _print(f"{shape} {options.activation}, {model.network.n_params:,} parameters, {options.optimizer}")

    best = EarlyStopping(patience=epochs if options.patience is None else options.patience)
    flow = GradientFlow()
    callbacks = [best, flow, *([_EpochLines(epochs)] if talk else [])]
    code, ending = 0, ""
    try:
        with _blame("--data" if options.data else "digits"):
            model.predict(task.train[0][:1])  # compiles what must be compiled, so that the first epoch need not
            model.fit(
                *task.train,
                epochs=epochs,
                batch_size=options.batch_size or _BATCH_SIZE[own_data],
                validation_data=task.validation,
                callbacks=callbacks,
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
    return _finish(options, model, task, best, flow, plot, code, ending)


def _finish(
    options: argparse.Namespace,
    model: Sequential,
    task: _Task,
    best: EarlyStopping,
    flow: GradientFlow,
    plot: Path | None,
    code: int,
    ending: str,
) -> int:
    """Test and write the best model, draw its curves, and tell the result."""
    result = model.evaluate(*task.test)
    with _writing(options.output):
        model.save(options.output)
    columns = model.history.history
    seconds = sum(columns.get("seconds", []))
    rate = len(task.train[0]) * len(model.history.epoch) / seconds if seconds else math.nan
    problems = flow.diagnosis() if flow.epoch else []
    talk = not (options.quiet or options.json)
    if talk:
        if code == INTERRUPTED or (code == 0 and ending):
            _print(f"{ending}.")
        for sentence in problems:
            _print(sentence)
        _print(f"test accuracy {result['accuracy']:.2%}, loss {result['loss']:.4f}, {_whose(model, best, task)}")
        if seconds:
            _print(f"{rate:,.0f} samples/s, {seconds:.1f} s of training")
        _print(f"wrote {options.output}")
    drawn, undrawn = _draw(model, plot, task)
    if talk and (drawn or undrawn):
        _print(f"wrote {drawn}" if drawn else undrawn)
    if options.json:
        facts = {
            "test_accuracy": result["accuracy"],
            "test_loss": result["loss"],
            "epochs": model.epoch,
            "best_epoch": best.best_epoch + 1 or None,
            "samples_per_second": rate,
            "seconds": seconds,
            "parameters": model.network.n_params,
            "model": options.output,
            "plot": None if drawn is None else str(drawn),
            "diagnosis": problems,
            "ending": ending or None,
            "fastnn": __version__,
        }
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in facts.items()}
        print(json.dumps(finite, indent=2))
    return _complain(f"{ending}; the best model so far is in {options.output}", code) if code == FAILED else code


def _watched(task: _Task) -> str:
    return "validation loss" if task.validation else "loss"


def _whose(model: Sequential, best: EarlyStopping, task: _Task) -> str:
    """Say which epoch the weights are of."""
    if best.best_epoch < 0:
        return f"after {model.step:,} steps, before the end of the first epoch"
    return f"from epoch {best.best_epoch + 1} of {model.epoch}, the best by its {_watched(task)}"


def _draw(model: Sequential, plot: Path | None, task: _Task) -> tuple[Path | None, str]:
    """Draw the learning curves; returns where, or why not."""
    if plot is None or not model.history.epoch:
        return None, ""
    from fastnn.plotting import plot_history

    try:
        with _writing(str(plot)):
            plot_history(model.history, plot, title=task.name)
    except ImportError as error:
        return None, f"no picture, since {error}"
    return plot, ""


@contextmanager
def _writing(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CommandError(f"{path}: cannot be written: {error.strerror or error}", FAILED) from None


def _check_place(option: str, path: Path) -> None:
    """Refuse a file that could not be written in the end."""
    if path.is_dir():
        raise CommandError(f"{option}: got {path}, a folder, expected the name of a file")
    if not path.parent.is_dir():
        raise CommandError(f"{option}: got {path}, but there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise CommandError(f"{option}: got {path}, but the folder {path.parent} cannot be written to")


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
    _check_place("--plot", path)
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
    with _blame("--decay"):
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


def _task(options: argparse.Namespace) -> _Task:
    """Read the data and set rows apart for validation, chosen by the seed."""
    if options.data is None:
        name, rows = "digits", load_digits()
    else:
        with _blame("--data"):
            name, rows = Path(options.data).resolve().name or "data", load_idx_dir(options.data)
    x, y, x_test, y_test = rows
    for part, labels in (("train", y), ("t10k", y_test)):
        if not len(labels) or labels.min() < 0:
            what = "no rows" if not len(labels) else f"the label {labels.min()}"
            raise CommandError(f"--data: got {what} in the {part} files, expected rows with labels 0, 1, ...")
    if x.dtype == np.uint8:
        rescale = Rescale(1 / 16 if options.data is None else 1 / 255)
    else:
        with _blame("--data"):
            spread = x.std(axis=0, dtype=np.float64)
            scale = 1.0 / np.where(spread > 0, spread, 1.0)
            rescale = Rescale(scale, -x.mean(axis=0, dtype=np.float64) * scale)
    order = np.random.default_rng(options.seed).permutation(len(x))
    held = min(max(1, round(len(x) * options.validation)), len(x) - 1) if options.validation else 0
    train, apart = order[held:], order[:held]
    return _Task(
        name,
        (x[train], y[train]),
        (x[apart], y[apart]) if held else None,
        (x_test, y_test),
        rescale,
        int(max(y.max(), y_test.max())) + 1,
    )


def _network(options: argparse.Namespace, task: _Task, optimizer: Optimizer) -> Sequential:
    layers: list[Layer] = [task.rescale]
    for width in options.layers:
        layers.append(Dense(width, options.activation))
        if options.dropout:
            layers.append(Dropout(options.dropout))
    return Sequential(
        [*layers, Dense(task.classes)],
        "cross_entropy",
        optimizer,
        seed=options.seed,
        dtype=options.dtype,
        input_size=task.train[0].shape[1],
        n_threads=options.threads,
        l1=options.l1,
        l2=options.l2,
        l1_mode=options.l1_mode,
    )


# fastnn predict and fastnn info


def _load(path: str) -> Sequential:
    with _blame(path):
        try:
            return load(path)
        except ModelFileError as error:
            raise ValueError(str(error).removeprefix(f"{path}: ")) from None


def _predict(options: argparse.Namespace) -> int:
    if options.output is not None:
        _check_place("--output", Path(options.output))
    model = _load(options.model)
    if options.proba and not model.counts_correct:
        raise CommandError(f"--proba: the model's loss is {model.loss.name}, which has no probabilities")
    with _blame(options.data):
        rows = _read_rows(options.data)
        if rows.size == model.network.inputs and len(rows) == rows.size:  # one sample, without an axis for rows
            rows = rows.reshape(1, -1)
        if options.proba:
            result: Array = model.predict_proba(rows)
        elif model.counts_correct:
            result = model.predict_class(rows)
        else:
            result = model.predict(rows)
    if options.output is None:
        _write_text(sys.stdout, result)
        return 0
    content = io.BytesIO()
    if Path(options.output).suffix.lower() == ".npy":
        np.save(content, result)
    else:
        text = io.StringIO()
        _write_text(text, result)
        content.write(text.getvalue().encode())
    with _writing(options.output):
        write_atomically(Path(options.output), content.getvalue())
    return 0


def _read_rows(path: str) -> Array:
    """Read numbers from a file; what it is is seen from its first bytes."""
    with open(path, "rb") as file:
        start = file.read(6)
    if start.startswith((b"\x1f\x8b", b"\0\0")):
        return load_idx(path)
    try:
        if start.startswith(b"PK"):
            return _read_npz(path)
        if start == b"\x93NUMPY":
            rows: Array = np.load(path, allow_pickle=False)
            return rows
        return _read_text(path)
    except UnicodeDecodeError:
        raise ValueError("got bytes of no known kind, expected IDX, .npy, .npz, or numbers as text") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(f"got a damaged file ({error}), expected a whole one") from None


def _read_npz(path: str) -> Array:
    """Return the only array of an .npz file, or the one named x."""
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
        names = list(arrays)
        if "x" not in names and len(names) != 1:
            raise ValueError(f"got arrays {', '.join(names) or 'none'}, expected one, or one named x")
        rows: Array = arrays["x" if "x" in names else names[0]]
    return rows


def _read_text(path: str) -> Array:
    """Read numbers split by commas, semicolons or blanks; a first line that holds no number is a header."""
    with open(path, encoding="utf-8-sig") as file:
        first = file.readline()
        delimiter = "," if "," in first else ";" if ";" in first else None
        header = not any(_is_number(cell) for cell in first.split(delimiter))
        if not header:
            file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "input contained no data"
            try:
                rows = np.loadtxt(file, delimiter=delimiter, ndmin=2, comments=None)
            except ValueError as error:
                raise ValueError(f"{str(error).partition(';')[0].rstrip('.')}, expected rows of numbers") from None
    if not rows.size:
        raise ValueError("got no numbers, expected rows of them")
    return rows


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _write_text(file: Any, result: Array) -> None:
    """Write a line a row; floats with all the digits that their type has."""
    form = "%d" if result.dtype.kind == "i" else "%.9g" if result.dtype == np.float32 else "%.17g"
    np.savetxt(file, result, fmt=form, delimiter=",")


def _warmup(options: argparse.Namespace) -> int:
    names = options.dtype or ["float32", "float64"]
    start = time.perf_counter()
    print("compiling every kernel for this CPU, some half a minute for each type", file=sys.stderr)
    warmup(names)
    print(f"compiled for {' and '.join(names)} in {time.perf_counter() - start:.1f} s")
    return 0


def _info(options: argparse.Namespace) -> int:
    model = _load(options.model)
    last = {name: column[-1] for name, column in model.history.history.items() if column}
    hidden = ("seconds", "samples_per_second")
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in last.items() if name not in hidden)
    print(model.summary())
    print()
    print(f"loss        {model.loss.name}")
    print(f"optimizer   {_settings(model.optimizer)}")
    print(f"numbers     {model.dtype.name}, seed {model.seed}")
    print(f"trained     {model.epoch:,} epochs, {model.step:,} steps")
    if model.history.epoch:
        print(f"last epoch  {model.history.epoch[-1] + 1}: {numbers}")
    return 0


def _settings(optimizer: Optimizer) -> str:
    """Return an optimizer's name with its rate and what differs from its defaults."""
    plain = type(optimizer)()
    values = {field.name: getattr(optimizer, field.name) for field in fields(optimizer)}
    shown = [f"{k}={v!r}" for k, v in values.items() if k == "lr" or v != getattr(plain, k)]
    return f"{type(optimizer).__name__}({', '.join(shown)})"
