"""`fastnn evaluate`: how well a model does on rows whose answers are known."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn.batches import BatchedTable
from fastnn.cli.files import (
    is_large,
    kind_of,
    open_batches,
    read_columns,
    read_pair,
    unseen_of,
    warn_unseen,
    with_target,
    without_target,
    words_of,
)
from fastnn.cli.options import add_command, add_json, add_model, add_stream_from
from fastnn.cli.scores import brief, by_class, measure, tables, target_of
from fastnn.cli.shared import CommandError, load_model, print_json, reading
from fastnn.model import Sequential
from fastnn.preparation import PIECE_NUMBERS, Classes, Preparation
from fastnn.streams import Block, Piece, Stream

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
    add_stream_from(parser.add_argument)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Measure, and print."""
    model = load_model(options.model)
    with reading(options.data):
        rows, unseen, left_out = _read(model, options)
        result = measure(model, *rows)
        target = target_of(model)
        if isinstance(target, Classes):
            result |= by_class(model, target.classes, *rows)
    if options.json:
        print_json({**result, "unseen": unseen, "left_out": left_out})
        return 0
    warn_unseen(unseen, result["rows"])
    if left_out:
        print(without_target(left_out, target.names))
    print(f"{result['rows']:,} rows: {brief(result)}")
    for line in ("", *tables(result)):
        print(line.rstrip())
    return 0


def _read(model: Sequential, options: argparse.Namespace) -> tuple[tuple[Any, ...], dict[str, Any], int]:
    """Return inputs and targets as the network takes them, or a stream of both, and what is to be said of them.

    That is the categories without an input, and how many rows have no target and are left out.
    """
    preparation = model.preparation or Preparation((), target_of(model))
    target = preparation.target
    if preparation.columns:
        if options.target is not None:
            raise CommandError(f"--target: the model was trained on {', '.join(target.names)}, expected none")
        names = [*(column.name for column in preparation.columns), *target.names]
        if is_large(options.data, options.stream_from):
            table, found = open_batches(options.data, preparation, names, target.names)
            _check_rows(found.rows, found.every)
            return (_stream(table, found.rows, preparation, model.dtype),), found.columns, found.every - found.rows
        every = read_columns(options.data, names, words_of(preparation), preparation.point)
        preparation.transform(every[np.arange(0)])  # says which columns are lacking
        whole = with_target(every, target.names)
        _check_rows(len(whole), len(every))
        x, y = preparation.transform(whole, model.dtype, warn=False), target.encode(whole)
        return (x, y), unseen_of(preparation, whole), len(every) - len(whole)
    if options.stream_from is not None:
        raise CommandError("--stream-from: says nothing to a model of arrays, expected it with one of a table")
    kind = kind_of(options.data)
    if kind in ("table", "npy"):
        raise ValueError("got no targets, expected .npz or IDX, as the model was trained on arrays")
    name = options.target or (target.names[0].partition("[")[0] if kind == "npz" else None)
    rows = read_pair(options.data, name, part=1)
    columns = dict(zip(target.names, rows.y.columns.values(), strict=False))
    if len(columns) != len(rows.y.columns):
        raise ValueError(f"got {len(rows.y.columns)} targets a row, expected {len(target.names)}")
    _check_rows(len(rows.y), len(rows.y))
    return (np.asarray(rows.x), target.encode(type(rows.y)(columns, len(rows.y)))), {}, 0


def _check_rows(rows: int, every: int) -> None:
    if not rows:
        raise ValueError(f"got no rows{' with a target' * bool(every)}, expected some")


def _stream(table: BatchedTable, rows: int, preparation: Preparation, dtype: npt.DTypeLike) -> Stream:
    """Return a stream that prepares the rows of a table each time it is read."""
    inputs = len(preparation.inputs)

    def read(with_x: bool, with_y: bool) -> Iterator[Piece]:
        for batch in table.batches():
            there = with_target(batch, preparation.target.names)
            y = preparation.target.encode(there) if with_y else None
            for rows, x in preparation.pieces(there, dtype):
                yield Piece(there.first + rows.start, x if with_x else None, None if y is None else y[rows], None)

    return Stream([Block(0, rows, read)], inputs, max(1, PIECE_NUMBERS // inputs), True)
