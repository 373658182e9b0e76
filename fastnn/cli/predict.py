"""`fastnn predict`: the answers for new rows, in the words and units of the target."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn.cli.files import read_samples, warn_unseen
from fastnn.cli.options import add_command, add_json, add_model
from fastnn.cli.scores import target_of
from fastnn.cli.shared import CommandError, check_place, check_pyarrow, load_model, print_json, reading, writing
from fastnn.model import Sequential
from fastnn.saving import write_atomically

Array = npt.NDArray[Any]

EXAMPLES = """\
examples:
  fastnn predict fastnn-model.safetensors rows.csv
  fastnn predict fastnn-model.safetensors t10k-images-idx3-ubyte.gz --output classes.npy
  fastnn predict fastnn-model.safetensors rows.parquet --proba --output probabilities.parquet
  fastnn predict fastnn-model.safetensors rows.npy --proba | head
  fastnn predict fastnn-model.safetensors rows.csv --json     (columns, predictions, categories without an input)
"""


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
    text = "write to a file instead: .npy, .parquet, or text under any other name"
    parser.add_argument("--output", metavar="FILE", help=text)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Predict, and print or write the answers."""
    ending = "" if options.output is None else Path(options.output).suffix.lower()
    if options.output is not None:
        check_place("--output", Path(options.output))
    if ending == ".parquet":
        check_pyarrow("--output")
    model = load_model(options.model)
    if options.proba and not model.counts_correct:
        raise CommandError(f"--proba: the model's loss is {model.loss.name}, which has no probabilities")
    with reading(options.data):
        rows, unseen = read_samples(options.data, model.preparation, model.network.inputs, model.dtype)
        result = answers(model, rows, options.proba)
    names = columns_of_answers(model, result, options.proba)
    header = names if model.preparation is not None and model.preparation.columns else None
    facts = {"rows": len(result), "columns": names, "unseen": unseen}
    if not options.json:
        warn_unseen(unseen, len(result))
    if options.output is None:
        if options.json:
            print_json({**facts, "predictions": (result.ravel() if len(names) == 1 else result).tolist()})
        else:
            _write_text(sys.stdout, result, header)
        return 0
    content = io.BytesIO()
    if ending == ".npy":
        np.save(content, result)
    elif ending == ".parquet":
        _write_parquet(content, result, names)
    else:
        text = io.StringIO()
        _write_text(text, result, header)
        content.write(text.getvalue().encode())
    with writing(options.output):
        write_atomically(Path(options.output), content.getvalue())
    if options.json:
        print_json({**facts, "file": options.output, "bytes": len(content.getvalue())})
    return 0


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


def _write_text(file: Any, result: Array, header: list[str] | None) -> None:
    """Write a line a row; floats with all the digits that their type has."""
    lines = csv.writer(file, lineterminator="\n")
    if header is not None:
        lines.writerow(header)
    if result.dtype.kind == "U":
        lines.writerows(result.reshape(-1, 1).tolist())
        return
    form = "%d" if result.dtype.kind == "i" else "%.9g" if result.dtype == np.float32 else "%.17g"
    np.savetxt(file, result, fmt=form, delimiter=",")


def _write_parquet(file: io.BytesIO, result: Array, names: list[str]) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = result.reshape(len(result), -1).T
    pyarrow.parquet.write_table(pyarrow.table(dict(zip(names, map(pyarrow.array, columns), strict=True))), file)
