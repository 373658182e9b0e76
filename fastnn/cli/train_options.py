"""The options of `fastnn train`, and what they stand for: the optimizer with its schedule, the loss, the epochs."""

from __future__ import annotations

import argparse
import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np

from fastnn import devices
from fastnn.activations import ELEMENTWISE
from fastnn.cli.options import add_json, add_stream_from, integer, layers, number, one_of, share_or_file
from fastnn.cli.shared import MODEL_FILE, CommandError, blame, check_place
from fastnn.cli.sources import TEST_SHARE
from fastnn.devices import DEVICES, PRECISIONS
from fastnn.network import L1_MODES
from fastnn.optimizers import OPTIMIZERS, Optimizer
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

PLOT_FILE = "fastnn-curve.png"

DRAWN_BY = "fastnn train"
"""What a picture that this command drew says of itself."""

SCHEDULES = ("constant", "step", "exponential", "inverse_time", "cosine", "plateau")

_DECAYS = {"step": (0.5, 5), "exponential": (0.9, 1), "inverse_time": (0.5, 1), "plateau": (0.3, 3)}
"""What --decay and --decay-every are by themselves, for each schedule that has them."""

_RATES = {"sgd": 0.1, "adagrad": 0.01, "rmsprop": 0.001, "adam": 0.002, "adamw": 0.002}
"""Learning rates that suit scaled inputs and these batch sizes."""

_VALUE_LOSSES = ("squared_error", "absolute_error", "huber")

_STEPS, _EPOCHS = 1200, (10, 500)
"""By themselves, epochs are as many as make these steps, within these limits."""

DROPOUT = {"classes": 0.25, "values": 0.0}
"""Dropout changes the spread of what a unit gets, which values suffer from and classes hardly."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare them all, in groups."""
    _add_data(parser.add_argument_group("data").add_argument)
    _add_network(parser.add_argument_group("network").add_argument)
    _add_training(parser.add_argument_group("training").add_argument)
    _add_output(parser.add_argument_group("output"))


def _add_data(add: Any) -> None:
    add("--target", metavar="COLUMN", help="what to learn; several columns of values as A,B,...")
    text = "classes or values (default: classes for words and few whole numbers)"
    add("--task", metavar="KIND", type=one_of(("classes", "values")), help=text)
    text = "learn from these alone (default: all others); see below for names with commas"
    add("--columns", metavar="A,B,...", action="append", default=[], help=text)
    add("--ignore", metavar="A,B,...", action="append", default=[], help="columns to leave out")
    text = "columns of numbers that stand for categories"
    add("--categorical", metavar="A,B,...", action="append", default=[], help=text)
    text = "share of the training rows set apart to choose the best epoch by (default 0.1)"
    add("--validation", metavar="SHARE", type=number(0, 1, high_open=True), default=0.1, help=text)
    text = f"share of the rows, or a file of rows, to test the model on in the end (default {TEST_SHARE})"
    add("--test", metavar="SHARE|FILE", type=share_or_file, help=text)
    add_stream_from(add)
    text = "folder for the prepared rows of tables read in batches, which are removed in the end (default: --output's)"
    add("--temp", metavar="FOLDER", help=text)


def _add_network(add: Any) -> None:
    penalty = number(0)
    text = "units of the hidden layers, 0 for none (default 256,128)"
    add("--layers", metavar="N,N,...", type=layers, default=(256, 128), help=text)
    text = f"{', '.join(ELEMENTWISE)} (default relu)"
    add("--activation", metavar="NAME", type=one_of(ELEMENTWISE), default="relu", help=text)
    text = "share of the hidden units dropped in each step of training (default {classes} for classes, {values:g} for "
    text = (text + "values)").format(**DROPOUT)
    add("--dropout", metavar="SHARE", type=number(0, 1, high_open=True), help=text)
    text = f"for values: {', '.join(_VALUE_LOSSES)} (default squared_error); classes have cross_entropy"
    add("--loss", metavar="NAME", type=one_of(("cross_entropy", *_VALUE_LOSSES)), help=text)
    add("--l1", metavar="X", type=penalty, default=0.0, help="add X sum|W| to the loss")
    add("--l2", metavar="X", type=penalty, default=0.0, help="add X/2 sum W^2 to the loss")
    text = "gradient (default), or truncate, which gives weights that are exactly 0"
    add("--l1-mode", metavar="MODE", type=one_of(L1_MODES), default="gradient", help=text)


def _add_training(add: Any) -> None:
    positive, one, zero = number(0, low_open=True), integer(1), integer(0)
    text = f"{', '.join(OPTIMIZERS)} (default adam)"
    add("--optimizer", metavar="NAME", type=one_of(tuple(OPTIMIZERS)), default="adam", help=text)
    text = f"learning rate (default {', '.join(f'{rate:g} for {name}' for name, rate in _RATES.items())})"
    add("--lr", "--learning-rate", metavar="X", type=positive, help=text)
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
    add("--device", metavar="NAME", type=one_of(DEVICES), default="cpu", help="cpu, cuda (an NVIDIA GPU) or auto")
    text = "to what a GPU may round the factors of large products: float32, tf32 or bf16 (default: float32)"
    add("--matmul-precision", metavar="NAME", type=one_of(PRECISIONS), default="float32", help=text)
    add("--dtype", metavar="NAME", type=one_of(("float32", "float64")), default="float32", help="float32 or float64")


def _add_output(group: Any) -> None:
    group.add_argument("--output", metavar="FILE", default=MODEL_FILE, help=f"the model (default {MODEL_FILE})")
    plot, talk = group.add_mutually_exclusive_group(), group.add_mutually_exclusive_group()
    text = f"the learning curves, .png, .svg or .pdf (default {PLOT_FILE}, or beside --output)"
    plot.add_argument("--plot", metavar="FILE", help=text)
    plot.add_argument("--no-plot", action="store_true", help="draw nothing")
    talk.add_argument("--quiet", action="store_true", help="print errors only")
    add_json(talk)


def optimizer_of(options: argparse.Namespace, epochs: int) -> Optimizer:
    """Return the optimizer with its schedule; refuse a decay that the schedule has not."""
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


def loss_of(asked: str | None, kind: str) -> str:
    """Return the loss for classes or values; refuse one for the other kind."""
    known = _VALUE_LOSSES if kind == "values" else ("cross_entropy",)
    if asked is not None and asked not in known:
        raise CommandError(f"--loss: got {asked} for {kind}, expected {' or '.join(known)} (--task overrules)")
    return asked or known[0]


def epochs_for(rows: int, batch_size: int) -> int:
    """Return the number of epochs where none is asked for."""
    low, high = _EPOCHS
    return min(max(low, math.ceil(_STEPS / math.ceil(rows / batch_size))), high)


def plot_place(options: argparse.Namespace) -> Path | None:
    """Return where the picture goes, None for nowhere."""
    if options.no_plot:
        return None
    if options.plot is None:
        return _default_plot(Path(options.output))
    from fastnn.plotting import FORMATS

    path = Path(options.plot)
    if path.suffix.lower() not in FORMATS:
        raise CommandError(f"--plot: got {path}, expected a name that ends in {', '.join(FORMATS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise CommandError('--plot: matplotlib is not installed: pip install "fastnn[plot]" brings it')
    check_place("--plot", path)
    return path


def _default_plot(model: Path) -> Path:
    """Return where the picture goes by itself; refuse one that is there, unless it is our own name.

    One that `fastnn train` drew, beside a model that is written anew, is that model's; any other one is the user's.
    """
    if model == Path(MODEL_FILE):
        return Path(PLOT_FILE)
    path = model.with_suffix(".png")
    drawn = importlib.util.find_spec("matplotlib") is not None
    if drawn and path != model and path.is_file() and not (model.exists() and _is_ours(path)):
        raise CommandError(f"--plot: got none, and there is a file {path} already, expected a name, or --no-plot")
    return path


def _is_ours(path: Path) -> bool:
    from fastnn.plotting.style import is_drawn_by

    with blame("--plot"):
        return is_drawn_by(path, DRAWN_BY)


def device_of(options: argparse.Namespace) -> devices.Place:
    """Return the device to train on, and how it multiplies; refuse what cannot be used."""
    try:
        place = devices.check_place(options.device, options.matmul_precision)
        devices.check_precision(place.matmul_precision, np.dtype(options.dtype))
    except (RuntimeError, devices.PlaceError) as error:
        raise CommandError(f"--{str(error).replace('matmul_precision', 'matmul-precision', 1)}") from None
    return place
