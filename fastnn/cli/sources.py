"""What `fastnn train` learns from: rows to train on, to choose the best epoch by and to test on, prepared."""

from __future__ import annotations

import argparse
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnn.cli.files import Rows, without_target
from fastnn.cli.shared import CommandError, reading
from fastnn.layers import Rescale
from fastnn.preparation import (
    MAX_CATEGORIES,
    Categorical,
    Classes,
    Numeric,
    Preparation,
    Values,
    about_column,
    mean_and_spread,
    numbers_of,
    word_among_numbers,
)
from fastnn.streams import Stream
from fastnn.tables import Categories, Column, Table

Array = npt.NDArray[Any]
Pair = tuple[Array, Array]

FEW = 20
"""A target of whole numbers is taken for classes where it has no more different ones than this."""

TEST_SHARE = 0.2

_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Task:
    """Rows and what is wanted of them, as the network takes them; None where there are none."""

    name: str
    train: Pair | Stream
    validation: Pair | Stream | None
    test: Pair | Stream | None
    rescale: Rescale | None
    preparation: Preparation
    notes: tuple[str, ...]


def rows_in(part: Pair | Stream) -> int:
    """Return the number of rows."""
    return part.rows if isinstance(part, Stream) else len(part[0])


def first_row(part: Pair | Stream) -> Array:
    """Return the inputs of the first row, shape (1, inputs)."""
    return np.asarray(next(part.blocks[0].read(True, False)).x[:1] if isinstance(part, Stream) else part[0][:1])


def listed(names: Sequence[str]) -> str:
    """Return the names for a message, the first ones of many."""
    return ", ".join(map(repr, names[:12])) + ", ..." * (len(names) > 12)


def note_strays(options: argparse.Namespace, name: str, words: Collection[str], point: str, notes: list[str]) -> None:
    """Note that a few words among numbers make a column one of words, unless it was asked for as one."""
    if name not in options.categorical and (word := word_among_numbers(words, point)) is not None:
        notes.append(f"{name!r} is taken as words, since it holds {word!r} among numbers")


def names_rows(options: argparse.Namespace, name: str, different: int, rows: int, notes: list[str]) -> bool:
    """Whether a column names the rows: words, most of them different; notes that it is left out."""
    if name in options.columns or name in options.categorical or different <= max(MAX_CATEGORIES, rows // 2):
        return False
    notes.append(f"{name!r} is left out: {different:,} different words (--categorical {name} takes it in)")
    return True


def count_different(column: Column) -> int:
    """Return how many categories of a column occur; 0 for numbers."""
    return int(np.count_nonzero(np.bincount(column.codes + 1)[1:])) if isinstance(column, Categories) else 0


def left_out(rows: int, targets: Sequence[str], notes: list[str]) -> None:
    """Note how many rows have no target."""
    if rows:
        notes.append(without_target(rows, targets))


def assemble(
    options: argparse.Namespace, name: str, rows: Rows, test: Rows | None, byte_scale: float, notes: list[str]
) -> Task:
    """Infer the task, set rows apart, fit the preparation, and apply it to all parts."""
    where = options.data or "digits"
    if len(rows.y) < 2 or (test is not None and not len(test.y)):
        least = min(len(rows.y), len(rows.y if test is None else test.y))
        raise CommandError(f"{where}: got {least} rows with a target, expected two or more, and one to test on")
    kind, reason = infer(rows.y, options.task)
    train, apart, held = _split(options, len(rows.y), test is None)
    if test is None and len(held):
        test = Rows(rows.x[held], rows.y[held])
    learn = Rows(rows.x[train], rows.y[train])
    with reading(where):
        target = _fit_target(kind, rows.y, learn.y)
        if isinstance(learn.x, Table):
            rescale, preparation = None, Preparation.fit(learn.x, tuple(learn.x.columns), target)
            check_inputs(preparation, notes)
            different = {name: count_different(column) for name, column in learn.x.columns.items()}
            notes.append(describe(preparation, list(different), different))
        else:
            rescale, preparation = _rescale(learn.x, byte_scale, options.dtype), Preparation((), target)
        parts = [_apply(part, preparation, options.dtype) for part in (learn, Rows(rows.x[apart], rows.y[apart]))]
    tested = None
    if test is not None:
        with reading(options.test if isinstance(options.test, str) else where):
            tested = _apply(test, preparation, options.dtype)
    if options.data is not None and not Path(options.data).is_dir():
        notes.insert(0, f"task: {kind}, {reason}")
    return Task(name, parts[0], parts[1] if len(apart) else None, tested, rescale, preparation, tuple(notes))


def infer(target: Table, asked: str | None) -> tuple[str, str]:
    """Return "classes" or "values" for a target, and why."""
    if asked is not None:
        return asked, "as asked for"
    names = list(target.columns)
    if len(names) > 1:
        return "values", f"since there are {len(names)} columns to learn"
    column, name = target.columns[names[0]], names[0]
    if isinstance(column, Categories):
        return "classes", f"since {name!r} holds words"
    return infer_numbers(name, np.unique(column), len(column))


def infer_numbers(name: str, different: Array, rows: int, most: float = math.inf) -> tuple[str, str]:
    """Return "classes" or "values" for a target of numbers, and why; no more than `most` different ones are counted."""
    if (different != np.rint(different)).any():
        return "values", f"since {name!r} holds numbers that are not all whole (--task classes overrules)"
    shown = f"{len(different):,}" if len(different) <= most else f"more than {most:,}"
    count = f"since {name!r} holds {shown} different whole numbers"
    if len(different) <= min(FEW, rows // 2):
        return "classes", f"{count} (--task values overrules)"
    return "values", f"{count} (--task classes overrules)"


def _split(options: argparse.Namespace, rows: int, tests: bool) -> tuple[Array, Array, Array]:
    """Return the rows to train on, to choose the best epoch by and to test on, at random by the seed."""
    order = np.random.default_rng(options.seed).permutation(rows)
    held, apart = _counts(options, rows, tests)
    return order[held + apart :], order[held : held + apart], order[:held]


def parts_of(options: argparse.Namespace, rows: int, tests: bool) -> npt.NDArray[np.uint8]:
    """Return for each row what `_split` has it for: 0 to train on, 1 to choose the best epoch by, 2 to test on."""
    # The same order as that of `permutation`, in half the memory.
    order = np.arange(rows, dtype=np.uint32 if rows < 2**32 else np.int64)
    np.random.default_rng(options.seed).shuffle(order)
    held, apart = _counts(options, rows, tests)
    parts = np.zeros(rows, np.uint8)
    for first in range(0, held + apart, _AT_ONCE):
        last = min(first + _AT_ONCE, held + apart)
        parts[order[first:last]] = np.where(np.arange(first, last) < held, 2, 1)
    return parts


def _counts(options: argparse.Namespace, rows: int, tests: bool) -> tuple[int, int]:
    """Return how many rows to test on, and to choose the best epoch by."""
    share = (TEST_SHARE if options.test is None else options.test) if tests else 0.0
    held = _count(rows, share)
    return held, _count(rows - held, options.validation)


def _count(rows: int, share: float) -> int:
    return min(max(1, round(rows * share)), rows - 1) if share else 0


def _fit_target(kind: str, every: Table, train: Table) -> Classes | Values:
    """Return the target's preparation: the classes of all rows, or the mean and spread of those to train on."""
    names = tuple(every.columns)
    if kind == "values":
        check_values(names, [(column.min(), column.max()) for column in numbers_of(names, every).T])
        return Values.fit(names, train)
    return fit_classes(names, every.columns[names[0]])


def check_values(names: Sequence[str], ranges: Sequence[tuple[float, float]]) -> None:
    """Refuse targets of values, given the smallest and the largest of each, none of which varies."""
    if all(low == high for low, high in ranges):
        raise ValueError(f"column {names[0]!r}: got one value alone, {ranges[0][0]:g}, expected two or more")


def fit_classes(names: Sequence[str], column: Column) -> Classes:
    """Return the classes of a column, which is the first of the target's."""
    if len(names) > 1:
        raise ValueError(f"got {len(names)} columns as classes, expected one, or --task values")
    target = Classes.fit(names[0], column)
    if len(target.classes) < 2:
        raise ValueError(f"column {names[0]!r}: got one class alone, {target.classes[0]}, expected two or more")
    return target


def check_inputs(preparation: Preparation, notes: Sequence[str]) -> None:
    """Refuse columns that leave nothing to learn from."""
    if not preparation.columns:
        why = "".join(f" ({note})" for note in notes if "is left out" in note or "is taken as words" in note)
        raise ValueError(f"got no column with a value to learn from{why}, expected one at least")


def describe(preparation: Preparation, names: Sequence[str], different: Mapping[str, int]) -> str:
    """Say what the columns of these names become, and which are left out or cut, by how many categories they hold."""
    columns = preparation.columns
    categorical = [column for column in columns if isinstance(column, Categorical)]
    dates = sum(isinstance(column, Numeric) and column.dates for column in columns)
    text = f"columns: {len(columns) - len(categorical) - dates} numeric, {len(categorical)} categorical"
    text += f", {dates} of dates" * bool(dates)
    text += f", {len(preparation.inputs):,} inputs"
    kept = {column.name for column in columns}
    if empty := [name for name in names if name not in kept]:
        text += f"; empty and left out: {listed(empty)}"
    full = [part.name for part in categorical if len(part.categories) == MAX_CATEGORIES]  # fewer may be merged ones
    if cut := [name for name in full if different[name] > MAX_CATEGORIES]:
        text += f"; of {listed(cut)} the {MAX_CATEGORIES} most frequent categories (--ignore leaves a column out)"
    return text


def _rescale(x: Array, byte_scale: float, dtype: str) -> Rescale:
    """Return what brings bytes to 0 .. 1, and columns of other numbers to mean 0 and spread 1.

    What the network's type rounds away of a column that lies far from 0 for its spread is not blown up.
    """
    if x.dtype == np.uint8:
        return Rescale(byte_scale)
    measured = []
    for number, column in enumerate(x.T):
        with about_column(number):
            measured.append(mean_and_spread(column))
    mean, spread = np.array(measured).T
    spread = np.maximum(spread, np.finfo(dtype).eps * np.abs(mean))
    return Rescale(1.0 / spread, -mean / spread)


def _apply(rows: Rows, preparation: Preparation, dtype: str) -> Pair:
    x = preparation.transform(rows.x, dtype, warn=False) if isinstance(rows.x, Table) else rows.x
    return x, preparation.target.encode(rows.y)
