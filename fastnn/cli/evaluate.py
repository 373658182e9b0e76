"""`fastnn evaluate`: how well a model does on rows whose answers are known."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn.cli.files import kind_of, read_columns, read_pair, unseen_of, warn_unseen, words_of
from fastnn.cli.options import add_command, add_json, add_model
from fastnn.cli.scores import brief, by_class, measure, tables, target_of
from fastnn.cli.shared import CommandError, load_model, print_json, reading
from fastnn.model import Sequential
from fastnn.preparation import Classes, Preparation

Array = npt.NDArray[Any]

EXAMPLES = """\
examples:
  fastnn evaluate fastnn-model.safetensors people.csv
  fastnn evaluate fastnn-model.safetensors mnist/          (the t10k files)
  fastnn evaluate fastnn-model.safetensors rows.npz --json
"""


def add(commands: Any) -> None:
    """Declare the command."""
    summary = "measure a model on rows whose answers are known"
    more = ": loss and accuracy with a table of the classes, or loss and R2 with the errors in the target's own units"
    parser = add_command(commands, "evaluate", run, summary, more, EXAMPLES)
    add_model(parser)
    text = "a table, CSV or Parquet, with the columns that the model was trained on and its target; for a model of "
    text += "arrays an .npz file, a folder with MNIST's files, or IDX images"
    parser.add_argument("data", metavar="FILE", help=text)
    text = "the array of the targets in an .npz file (default: the one trained on, or y), or the IDX file of the labels"
    parser.add_argument("--target", metavar="NAME", help=text)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Measure, and print."""
    model = load_model(options.model)
    with reading(options.data):
        x, y, unseen = _read(model, options)
        if not len(x):
            raise ValueError("got no rows, expected some")
        result = measure(model, x, y)
        target = target_of(model)
        if isinstance(target, Classes):
            result |= by_class(target.classes, y, model.predict_class(x))
    if options.json:
        print_json({**result, "unseen": unseen})
        return 0
    warn_unseen(unseen, len(x))
    print(f"{result['rows']:,} rows: {brief(result)}")
    for line in ("", *tables(result)):
        print(line.rstrip())
    return 0


def _read(model: Sequential, options: argparse.Namespace) -> tuple[Array, Array, dict[str, Any]]:
    """Return inputs and targets as the network takes them, and the categories that have no input."""
    preparation = model.preparation or Preparation((), target_of(model))
    target = preparation.target
    if preparation.columns:
        if options.target is not None:
            raise CommandError(f"--target: the model was trained on {', '.join(target.names)}, expected none")
        names = [column.name for column in preparation.columns]
        table = read_columns(options.data, [*names, *target.names], words_of(preparation))
        return preparation.transform(table, model.dtype), target.encode(table), unseen_of(preparation, table)
    kind = kind_of(options.data)
    if kind in ("table", "npy"):
        raise ValueError("got no targets, expected .npz or IDX, as the model was trained on arrays")
    name = options.target or (target.names[0].partition("[")[0] if kind == "npz" else None)
    rows = read_pair(options.data, name, part=1)
    columns = dict(zip(target.names, rows.y.columns.values(), strict=False))
    if len(columns) != len(rows.y.columns):
        raise ValueError(f"got {len(rows.y.columns)} targets a row, expected {len(target.names)}")
    return np.asarray(rows.x), target.encode(type(rows.y)(columns, len(rows.y))), {}
