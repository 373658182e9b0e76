"""`fastnn train`: data, a network, its training, what came of it."""

from __future__ import annotations

import argparse
import contextlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastnn._version import __version__
from fastnn.callbacks import Callback, EarlyStopping
from fastnn.cli.files import kind_of
from fastnn.cli.options import add_command
from fastnn.cli.scores import brief, measure
from fastnn.cli.shared import (
    FAILED,
    INTERRUPTED,
    CommandError,
    blame,
    check_folder,
    check_outputs,
    check_place,
    complain,
    print_json,
    reading,
    say,
    writing,
)
from fastnn.cli.sources import Pair, Task, first_row, rows_in
from fastnn.cli.tasks import make_task
from fastnn.cli.train_options import (
    DRAWN_BY,
    DROPOUT,
    add_options,
    device_of,
    epochs_for,
    loss_of,
    optimizer_of,
    plot_place,
)
from fastnn.diagnostics import GradientFlow
from fastnn.layers import Dense, Dropout, Layer
from fastnn.model import Sequential
from fastnn.optimizers import Optimizer
from fastnn.preparation import Values
from fastnn.streams import Stream
from fastnn.training import TrainingDiverged

EXAMPLES = """\
what FILE can be:
  CSV (.gz too), Parquet   --target COLUMN; the first line of a CSV file names the columns
  .npz                     arrays x and y, or the one that --target names
  IDX (.gz too)            images, with --target LABELS; or a folder with MNIST's four files
Numbers are standardised; words, truth values and dictionaries have an input for each category; a missing number
counts as the mean and has an input that says so. The model keeps all this: evaluate and predict take raw files.

Several columns are given as A,B,... or, but for --target, by the option again for each. A name with a comma in it
stands alone, or in quotes as in CSV: --ignore 'city, town', or --ignore '"city, town",street'.

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
    add_options(parser)


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
    plot = plot_place(options)
    check_outputs({"--output": Path(options.output), "--plot": plot}, _inputs(options))
    options.device, options.matmul_precision = device_of(options)
    optimizer_of(options, epochs=1)
    if options.temp is not None:
        check_folder("--temp", Path(options.temp))
    with contextlib.ExitStack() as cleanup:
        task = make_task(options, cleanup)
        batch_size = options.batch_size or (32 if rows_in(task.train) < 10_000 else 128)
        epochs = options.epochs or epochs_for(rows_in(task.train), batch_size)
        model = _network(options, task, optimizer_of(options, epochs))
        if not (options.quiet or options.json):
            _introduce(options, task, model)
        outcome = _fit(options, task, model, epochs, batch_size)
        return _finish(options, model, task, outcome, plot)


def _inputs(options: argparse.Namespace) -> list[str]:
    """Return the files that are read."""
    files = [path for path in (options.data, options.test) if isinstance(path, str)]
    if options.data is not None and options.target is not None:
        with reading(options.data):
            if kind_of(options.data) == "idx":  # whose labels are a file
                files.append(options.target)
    return files


def _introduce(options: argparse.Namespace, task: Task, model: Sequential) -> None:
    chosen = f", {rows_in(task.validation):,} to choose the best epoch by" if task.validation else ""
    tested = f", {rows_in(task.test):,} to test on" if task.test else ""
    say(f"{task.name}: {rows_in(task.train):,} rows to train on{chosen}{tested}")
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
            model.predict(first_row(task.train))  # compiles what must be compiled, so that the first epoch need not
            model.fit(
                *_arguments(task.train),
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
    result = measure(model, *_arguments(task.test)) if task.test else {}
    with writing(options.output):
        model.save(options.output)
    columns = model.history.history
    seconds = sum(columns.get("seconds", []))
    rate = rows_in(task.train) * len(model.history.epoch) / seconds if seconds else math.nan
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
    drawn, undrawn, unwritten = None, "", None
    try:
        drawn, undrawn = _draw(model, plot, task)
    except CommandError as error:  # the result is told before
        unwritten = error
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
    if code == FAILED:
        return complain(f"{ending}; the best model so far is in {options.output}", code)
    if unwritten is not None:
        raise unwritten
    return code


def _arguments(part: Pair | Stream) -> tuple[Any, ...]:
    """Return what `fit` and `evaluate` take for rows."""
    return (part,) if isinstance(part, Stream) else part


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
    from fastnn.plotting.style import finish

    try:
        with writing(str(plot)):
            finish(plot_history(model.history, title=task.name), plot, DRAWN_BY)
    except ImportError as error:
        return None, f"no picture, since {error}"
    return plot, ""


def _network(options: argparse.Namespace, task: Task, optimizer: Optimizer) -> Sequential:
    target = task.preparation.target
    dropout = DROPOUT[target.kind] if options.dropout is None else options.dropout
    stack: list[Layer] = [] if task.rescale is None else [task.rescale]
    for width in options.layers:
        stack.append(Dense(width, options.activation))
        if dropout:
            stack.append(Dropout(dropout))
    outputs = len(target.names) if isinstance(target, Values) else len(target.classes)
    model = Sequential(
        [*stack, Dense(outputs)],
        loss_of(options.loss, target.kind),
        optimizer,
        seed=options.seed,
        dtype=options.dtype,
        input_size=first_row(task.train).shape[1],
        n_threads=options.threads,
        device=options.device,
        matmul_precision=options.matmul_precision,
        l1=options.l1,
        l2=options.l2,
        l1_mode=options.l1_mode,
    )
    model.preparation = task.preparation
    return model
