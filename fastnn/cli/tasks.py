"""What `fastnn train` is given, and the task made of it: a table, one too large for memory, arrays, the digits."""

from __future__ import annotations

import argparse
import contextlib
import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fastnn._errors import unknown_name
from fastnn.cli.files import Rows, is_large, kind_of, read_columns, read_pair, target_table, with_target
from fastnn.cli.large import large_task
from fastnn.cli.shared import CommandError, reading
from fastnn.cli.sources import Task, assemble, count_different, left_out, listed, names_rows, note_strays
from fastnn.datasets import load_digits
from fastnn.tables import Categories, Table, is_index, read_table, table_file

_WRITTEN = {
    ",": "decimal commas, 1,23 as 1.23 and 1.234 as 1234",
    ".,": "commas between thousands, 1,234 as 1234 (--categorical takes a column as words)",
}
"""What to say of numbers that are not written as 1234.5."""


def make_task(options: argparse.Namespace, cleanup: contextlib.ExitStack) -> Task:
    """Read the data, set rows apart by the seed, and learn the preparation from the rows to train on.

    Tables that are too large for memory are read in batches, into temporary files that `cleanup` removes.
    """
    if options.data is None:
        names = ("target", "task", "columns", "ignore", "categorical", "test", "stream_from", "temp")
        _refuse(options, "the digits", names)
        x, y, x_test, y_test = load_digits()
        held = Rows(x_test, target_table("label", y_test))
        return assemble(options, "digits", Rows(x, target_table("label", y)), held, 1 / 16, [])
    name = Path(options.data).resolve().name or "data"
    with reading(options.data):
        kind = kind_of(options.data)
        if kind == "npy":
            raise ValueError("got one array, expected inputs and targets, as in .npz")
    if kind == "table":
        return _table_task(options, name, cleanup)
    _refuse(options, "arrays", ("columns", "ignore", "categorical", "stream_from", "temp"))
    if kind == "folder":
        if not any(Path(options.data).glob("*ubyte*")):
            raise CommandError(f"{options.data}: got a folder without IDX files, expected them in it, or a file")
        _refuse(options, "a folder of IDX files", ("target", "test"))
    test: Rows | None = None
    with reading(options.data):
        rows = read_pair(options.data, options.target)
        if kind == "folder":
            test = read_pair(options.data, None, part=1)
    if isinstance(options.test, str):
        with reading(options.test):
            test = read_pair(options.test, options.target)
    return assemble(options, name, rows, test, 1 / 255, [])


def _refuse(options: argparse.Namespace, what: str, names: Sequence[str]) -> None:
    for name in names:
        if getattr(options, name) not in (None, []):
            raise CommandError(
                f"--{name.replace('_', '-')}: says nothing to {what}, expected it with a table or other files"
            )


def _table_task(options: argparse.Namespace, name: str, cleanup: contextlib.ExitStack) -> Task:
    """Read the columns that are asked for, and no others."""
    with reading(options.data):
        file = table_file(options.data)
    names = file.names
    if options.target is None:
        raise CommandError(f"--target: got none, expected the column to learn, one of {listed(names)}")
    targets = _named("target", [options.target], names)
    for option in ("columns", "ignore", "categorical"):
        setattr(options, option, _named(option, getattr(options, option), names))
    for column in options.columns:
        if column in targets:
            raise CommandError(f"--columns: got {column!r}, which --target names, expected columns to learn from")
    for column in options.ignore:
        if column in targets or column in options.columns:
            other = "--target" if column in targets else "--columns"
            raise CommandError(f"--ignore: got {column!r}, which {other} names, expected columns to leave out")
    others = {*targets, *options.ignore}
    inputs = [name for name in options.columns or names if name not in others]
    notes: list[str] = []
    if file.point != ".":
        notes.append(f"numbers are read with {_WRITTEN[file.point]}")
    inputs = [column for column in inputs if not _counts_rows(options, column, column == names[0], notes)]
    if not inputs:
        raise CommandError(f"{options.data}: got no column but the target, expected one to learn from")
    if _is_large(options):
        return large_task(options, file, name, inputs, targets, notes, cleanup)
    with reading(options.data):
        table = read_table(file, [*inputs, *targets], options.categorical)
    for target in targets:
        if target in table.dates:
            raise CommandError(f"--target: {target!r} holds dates, expected numbers or words")
    for column, values in table.columns.items():
        if isinstance(values, Categories):
            note_strays(options, column, values.names, table.point, notes)
    counts = {name: count_different(column) for name, column in table.columns.items()}
    inputs = [column for column in inputs if not names_rows(options, column, counts[column], len(table), notes)]
    rows = _with_target(table, inputs, targets, notes)
    test = None
    if isinstance(options.test, str):
        words = [name for name, column in table.columns.items() if isinstance(column, Categories)]
        with reading(options.test):
            held = read_columns(options.test, [*inputs, *targets], words, file.point)
            for target in targets:
                held.column(target)
            test = _with_target(held, [name for name in inputs if name in held.columns], targets, notes)
    return assemble(options, name, rows, test, 1.0, notes)


def _counts_rows(options: argparse.Namespace, name: str, first: bool, notes: list[str]) -> bool:
    """Whether a column is an index that pandas wrote and nobody asked for; notes that it is left out.

    In CSV that is a first column without a name, or one that pandas read and wrote once more.
    """
    wrote = is_index(name) or (first and name in ("", "Unnamed: 0"))
    if not wrote or name in options.columns or name in options.categorical:
        return False
    what = repr(name) if name else "the first column, which has no name,"
    notes.append(f"{what} is left out: the index that pandas wrote (--columns takes it in)")
    return True


def _is_large(options: argparse.Namespace) -> bool:
    """Whether the table to learn from, or the one to test on, is to be read in batches."""
    for path in (options.data, options.test):
        if isinstance(path, str):
            with reading(path):
                if is_large(path, options.stream_from):
                    return True
    return False


def _named(option: str, asked: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that an option names each time it is given: one as it stands, or several as a line of CSV."""
    found: list[str] = []
    for text in asked:
        found += [text] if text in names else _cells(text)
    _check_names(option, found, names)
    return tuple(found)


def _cells(text: str) -> list[str]:
    try:
        cells = next(csv.reader([text], skipinitialspace=True))
    except csv.Error:
        cells = text.split(",")
    return [cell.strip() for cell in cells] or [""]


def _check_names(option: str, asked: Sequence[str], names: Sequence[str]) -> None:
    counts, there = Counter(asked), set(names)
    for name in asked:
        if counts[name] > 1:
            raise CommandError(f"--{option}: got {name!r} more than once, expected each column once")
        if name not in there:
            message = str(unknown_name(f"--{option}", name, names))
            if any(part.replace(".", "", 1).lstrip("-").isdigit() for part in names):
                message += "; are these the first row? The first line of a file names its columns"
            raise CommandError(message)


def _with_target(table: Table, inputs: Sequence[str], targets: Sequence[str], notes: list[str]) -> Rows:
    """Return the rows that have a target, and note how many have none."""
    there = with_target(table, targets)
    left_out(len(table) - len(there), targets, notes)
    return Rows(there.only(inputs), there.only(targets))
