"""`fastnn predict`: the answers for new rows, in the words and units of the target."""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn.cli.files import is_large, open_batches, read_samples, warn_unseen, write_npy_header
from fastnn.cli.options import add_command, add_json, add_model, add_stream_from
from fastnn.cli.scores import target_of
from fastnn.cli.shared import (
    CommandError,
    check_outputs,
    check_place,
    check_pyarrow,
    load_model,
    print_json,
    reading,
    writing,
)
from fastnn.model import Sequential
from fastnn.preparation import Values
from fastnn.saving import replacing

Array = npt.NDArray[Any]

EXAMPLES = """\
examples:
  fastnn predict fastnn-model.safetensors rows.csv
  fastnn predict fastnn-model.safetensors t10k-images-idx3-ubyte.gz --output classes.npy
  fastnn predict fastnn-model.safetensors rows.parquet --proba --output probabilities.parquet
  fastnn predict fastnn-model.safetensors rows.npy --proba | head
  fastnn predict fastnn-model.safetensors rows.csv --json     (columns, predictions, categories without an input)
"""


_OTHER_FORMATS = (".bz2", ".feather", ".gz", ".json", ".npz", ".xls", ".xlsx", ".xz", ".zip")
"""Endings of names under which nobody looks for plain text."""


def add(commands: Any) -> None:
    """Declare the command."""
    summary = "predict the class of each row, or its values, with a trained network"
    more = "; a line a row, below a header where the model was trained on a table"
    parser = add_command(commands, "predict", run, summary, more, EXAMPLES)
    add_model(parser)
    text = "the rows: a table, CSV or Parquet, with the columns that the model was trained on; for a model of arrays "
    text += "IDX (plain or .gz), .npy, .npz (its one array, or the one named x), or numbers as text"
    parser.add_argument("data", metavar="FILE", help=text)
    parser.add_argument("--proba", action="store_true", help="print the probability of every class instead")
    text = "write to a file instead: .npy, .parquet, or text under another name, such as .csv"
    parser.add_argument("--output", metavar="FILE", help=text)
    add_stream_from(parser.add_argument)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Predict, and print or write the answers."""
    ending = "" if options.output is None else Path(options.output).suffix.lower()
    if ending in _OTHER_FORMATS:
        raise CommandError(f"--output: got {options.output}, expected a name that ends in .npy, .parquet or .csv")
    if options.output is not None:
        check_place("--output", Path(options.output))
        check_outputs({"--output": Path(options.output)}, [options.model, options.data])
    if ending == ".parquet":
        check_pyarrow("--output")
    model = load_model(options.model)
    if options.proba and not model.counts_correct:
        raise CommandError(f"--proba: the model's loss is {model.loss.name}, which has no probabilities")
    if options.stream_from is not None and not _is_of_table(model):
        raise CommandError("--stream-from: says nothing to a model of arrays, expected it with one of a table")
    with reading(options.data):
        large = _is_of_table(model) and is_large(options.data, options.stream_from)
    if large and options.json and options.output is None:
        raise CommandError("--json: the answers to a table that is read in batches are not held, expected --output")
    results, rows, unseen = (_in_batches if large else _at_once)(model, options)
    first = next(results)
    names = columns_of_answers(model, first, options.proba)
    forms = number_forms(model, options.proba, len(names))
    facts = {"rows": rows, "columns": names, "unseen": unseen}
    if options.json and options.output is None:
        predictions = _rounded(first, forms)
        print_json({**facts, "predictions": (predictions.ravel() if len(names) == 1 else predictions).tolist()})
        return 0
    if not options.json:
        warn_unseen(unseen, rows)
    results = itertools.chain([first], results)
    header = names if _is_of_table(model) else None
    if options.output is None:
        _write_text(sys.stdout, results, header, forms)
        return 0
    path = Path(options.output)
    with writing(options.output), replacing(path) as file:
        if ending == ".npy":
            write_npy_header(file, first.dtype, (rows, *first.shape[1:]))
            for result in results:
                file.write(result.tobytes())
        elif ending == ".parquet":
            _write_parquet(file, results, names)
        else:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="")
            _write_text(text, results, header, forms)
            text.detach()  # which flushes it; the file stays open
    if options.json:
        print_json({**facts, "file": options.output, "bytes": path.stat().st_size})
    return 0


def _is_of_table(model: Sequential) -> bool:
    return model.preparation is not None and bool(model.preparation.columns)


def _at_once(model: Sequential, options: argparse.Namespace) -> tuple[Iterator[Array], int, dict[str, Any]]:
    """Return all answers in one piece, how many there are, and the categories without an input."""
    with reading(options.data):
        rows, unseen = read_samples(options.data, model.preparation, model.network.inputs, model.dtype)
        return iter([answers(model, rows, options.proba)]), len(rows), unseen


def _in_batches(model: Sequential, options: argparse.Namespace) -> tuple[Iterator[Array], int, dict[str, Any]]:
    """Do what `_at_once` does with a table too large for memory; its answers are never held together either."""
    preparation = model.preparation
    assert preparation is not None
    with reading(options.data):
        table, found = open_batches(options.data, preparation, [column.name for column in preparation.columns])
        if not found.rows:
            raise ValueError("got no rows, expected some")

    def parts() -> Iterator[Array]:
        with reading(options.data):
            for batch in table.batches():
                for _, x in preparation.pieces(batch, model.dtype):
                    yield answers(model, x, options.proba)

    return parts(), found.rows, found.columns


def answers(model: Sequential, rows: Array, proba: bool) -> Array:
    """Return probabilities, the classes' names, or values in their own units."""
    if proba:
        return model.predict_proba(rows)
    if not model.counts_correct:
        outputs = model.predict(rows)
        return outputs if model.preparation is None else model.preparation.target.decode(outputs)
    classes: Array = model.predict_class(rows)
    return classes if model.preparation is None else model.preparation.target.decode(classes)


def columns_of_answers(model: Sequential, result: Array, proba: bool) -> list[str]:
    """Return a name for each column of the answers."""
    target = target_of(model)
    width = 1 if result.ndim == 1 else result.shape[1]
    if proba and target.kind == "classes" and len(target.classes) == width:  # type: ignore[union-attr]
        return [str(name) for name in target.classes]  # type: ignore[union-attr]
    return list(target.names) if len(target.names) == width else [f"y[{i}]" for i in range(width)]


def number_forms(model: Sequential, proba: bool, columns: int) -> list[str]:
    """Return for each column of numbers the form that has the digits which the network's type gives them.

    Values have more digits than that where their mean is far above their spread, which is what float32 was scaled to.
    """
    if model.dtype == np.float64:
        return ["%.17g"] * columns
    target = None if model.preparation is None else model.preparation.target
    if proba or not isinstance(target, Values):
        return ["%.9g"] * columns
    more = [math.log10(1 + abs(mean) / spread) for mean, spread in zip(target.means, target.spreads, strict=True)]
    return [f"%.{min(17, 9 + math.ceil(digits))}g" for digits in more]


def _rounded(result: Array, forms: list[str]) -> Array:
    """Return numbers as `_write_text` writes them; words and whole numbers as they are."""
    if result.dtype.kind != "f":
        return result
    rows = result.reshape(len(result), len(forms)).tolist()
    return np.array([[float(form % value) for form, value in zip(forms, row, strict=True)] for row in rows])


def _write_text(file: Any, results: Iterable[Array], header: list[str] | None, forms: list[str]) -> None:
    """Write a line a row."""
    lines = csv.writer(file, lineterminator="\n")
    if header is not None:
        lines.writerow(header)
    for result in results:
        if result.dtype.kind == "U":
            lines.writerows(result.reshape(-1, 1).tolist())
            continue
        np.savetxt(file, result, fmt="%d" if result.dtype.kind == "i" else forms, delimiter=",")


def _write_parquet(file: Any, results: Iterator[Array], names: list[str]) -> None:
    import pyarrow.parquet

    first = _arrow_table(next(results), names)
    with pyarrow.parquet.ParquetWriter(file, first.schema) as writer:
        writer.write_table(first)
        for result in results:
            writer.write_table(_arrow_table(result, names))


def _arrow_table(result: Array, names: list[str]) -> Any:
    import pyarrow

    columns = result.reshape(len(result), -1).T
    return pyarrow.table(dict(zip(names, map(pyarrow.array, columns), strict=True)))
