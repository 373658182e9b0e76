"""What `fastnn train` learns from where a table is too large for memory.

It is read three times in batches: for the columns' types and the target, for the preparation that the rows to train on
call for, and to write the prepared rows to temporary files, of which `fastnn.stream` reads blocks. The rows are set
apart as those of a table in memory are, which takes 5 bytes of memory for each.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fastnn.batches import BatchedTable
from fastnn.cli.files import Array, columns_there, with_target, write_npy_header
from fastnn.cli.shared import FAILED, CommandError, reading, size_name, writing
from fastnn.cli.sources import (
    Task,
    check_inputs,
    check_values,
    describe,
    fit_classes,
    infer,
    infer_numbers,
    left_out,
    names_rows,
    note_strays,
    parts_of,
)
from fastnn.preparation import (
    Categorical,
    Classes,
    Moments,
    Numeric,
    Preparation,
    Values,
    about_column,
    category_counts,
    numbers_of,
)
from fastnn.streams import Stream, stream
from fastnn.tables import Categories, Column, Table, TableFile, is_missing

MOST_WORDS = 50_000
"""So many different words, or classes, of a column are held in memory."""

TRAIN, APART, HELD = range(3)
PARTS = ("train", "validation", "test")


class Survey:
    """What a table holds: rows with a target, the target's different values, the columns' different words.

    Parameters
    ----------
    targets : sequence of str
    values : bool
        Whether the different values of a target of numbers are asked for, as they may be classes.
    """

    def __init__(self, targets: Sequence[str], values: bool) -> None:
        self.targets = targets
        self.every = self.rows = 0
        self.dates: frozenset[str] = frozenset()
        self.words: dict[str, set[str] | None] = {}
        """Of columns of categories; None for more than are held."""
        self.values: npt.NDArray[np.float64] = np.empty(0)
        """The different values of a target of numbers; only one of them that is not whole, where there is one."""
        self._with_values = values and len(targets) == 1

    def add(self, table: Table) -> None:
        """Take in a batch."""
        self.dates |= table.dates
        self.every += len(table)
        for name, column in table.columns.items():
            if isinstance(column, Categories) and name not in self.targets:
                self._add_words(name, column)
        table = with_target(table, self.targets)
        self.rows += len(table)
        for name in self.targets:
            column = table.columns[name]
            if isinstance(column, Categories):
                self._add_words(name, column)
            elif self._with_values and len(self.values) <= MOST_WORDS:
                values = np.union1d(self.values, column)
                broken = values[values != np.rint(values)]
                self.values = broken[:1] if len(broken) else values[: MOST_WORDS + 1]

    def _add_words(self, name: str, column: Categories) -> None:
        seen = self.words.setdefault(name, set())
        if seen is not None:
            seen.update(category_counts(column))
            if len(seen) > MOST_WORDS:
                self.words[name] = None

    def target(self) -> Column:
        """Return the different values of the target.

        Raises
        ------
        ValueError
            If there are more than are held.
        """
        name = self.targets[0]
        words = self.words.get(name, set())
        if words is None or len(self.values) > MOST_WORDS:
            got = f"column {name!r}: got more than {MOST_WORDS:,} classes"
            raise ValueError(f"{got}, expected fewer in a table that is read in batches")
        return Categories(np.arange(len(words)), tuple(words)) if name in self.words else self.values


def large_task(
    options: argparse.Namespace,
    file: TableFile,
    name: str,
    inputs: Sequence[str],
    targets: Sequence[str],
    notes: list[str],
    cleanup: contextlib.ExitStack,
) -> Task:
    """Return the task of a table as streams of files that `cleanup` removes; `notes` are those made so far."""
    with reading(options.data):
        table = BatchedTable(file, [*inputs, *targets], options.categorical)
        found = table.visit(lambda: Survey(targets, options.task != "values"))
    for target in targets:
        if target in found.dates:
            raise CommandError(f"--target: {target!r} holds dates, expected numbers or words")
    for column in (*inputs, *targets):
        note_strays(options, column, found.words.get(column) or (), file.point, notes)
    inputs = [column for column in inputs if _is_input(options, column, found, notes)]
    left_out(found.every - found.rows, targets, notes)
    test, tested = None, found.rows
    if isinstance(options.test, str):
        test, tested = _test_table(options.test, inputs, targets, list(found.words), file.point, notes)
    if found.rows < 2 or not tested:
        least = min(found.rows, tested)
        raise CommandError(f"{options.data}: got {least} rows with a target, expected two or more, and one to test on")
    with reading(options.data):
        kind, reason = _infer(options, targets, found)
        classes = fit_classes(targets, found.target()) if kind == "classes" else None
        parts = parts_of(options, found.rows, test is None)
        preparation, different = _learn(table, inputs, targets, parts, classes)
        check_inputs(preparation, notes)
    notes.append(describe(preparation, inputs, different))
    counts = [int(np.count_nonzero(parts == part)) for part in range(3)]
    counts[HELD] += tested if test else 0
    with contextlib.ExitStack() as files:
        stored = _Stored(options, preparation, counts, cleanup, files)
        if test:
            with reading(options.test):
                stored.write(test, np.full(tested, HELD, np.uint8))
        with reading(options.data):
            stored.write(table, parts)
    train, apart, held = stored.streams()
    notes.insert(0, f"task: {kind}, {reason}")
    notes.append(f"read in batches, with {size_name(stored.bytes)} of prepared rows in a folder of {stored.parent}")
    return Task(name, train, apart, held, None, preparation, tuple(notes))


def _is_input(options: argparse.Namespace, name: str, found: Survey, notes: list[str]) -> bool:
    """Whether to learn from a column, as in memory; one of more words than are held has to be left out."""
    words = found.words.get(name, set())
    if words is not None:
        return not names_rows(options, name, len(words), found.every, notes)
    if name in options.columns or name in options.categorical:
        option = "columns" if name in options.columns else "categorical"
        got = f"--{option}: {name!r} has more than {MOST_WORDS:,} different words"
        raise CommandError(f"{got}, expected fewer in a table that is read in batches")
    notes.append(f"{name!r} is left out: more than {MOST_WORDS:,} different words")
    return False


def _infer(options: argparse.Namespace, targets: Sequence[str], found: Survey) -> tuple[str, str]:
    """Return "classes" or "values", and why, as `infer` does."""
    if options.task is None and len(targets) == 1 and targets[0] not in found.words:
        return infer_numbers(targets[0], found.values, found.rows, most=MOST_WORDS)
    return infer(Table({name: Categories(np.empty(0, np.int64), ()) for name in targets}, found.rows), options.task)


def _test_table(
    path: str, inputs: Sequence[str], targets: Sequence[str], words: Sequence[str], point: str, notes: list[str]
) -> tuple[BatchedTable, int]:
    """Return the rows of a file to test on, and how many have a target."""
    with reading(path):
        file, there = columns_there(path, [*inputs, *targets], point)
        for name in targets:
            if name not in there:
                raise ValueError(f"got no column {name!r}, expected the target, too")
        table = BatchedTable(file, there, [name for name in words if name in there])
        found = table.visit(lambda: Survey(targets, False))
    left_out(found.every - found.rows, targets, notes)
    return table, found.rows


def _batches(
    table: BatchedTable, targets: Sequence[str], parts: npt.NDArray[np.uint8]
) -> Iterator[tuple[Table, npt.NDArray[np.uint8]]]:
    """Yield the rows with a target, and of which part each is."""
    done = 0
    for batch in table.batches():
        rows = with_target(batch, targets)
        yield rows, parts[done : done + len(rows)]
        done += len(rows)
    if done != len(parts):
        raise ValueError(f"got {done:,} rows after {len(parts):,}, expected a file that stays as it is")


def _learn(
    table: BatchedTable,
    inputs: Sequence[str],
    targets: Sequence[str],
    parts: npt.NDArray[np.uint8],
    classes: Classes | None,
) -> tuple[Preparation, dict[str, int]]:
    """Return the preparation that the rows to train on call for, and how many different words columns hold there."""
    moments = {name: Moments() for name in (*inputs, *targets)}
    counts: dict[str, dict[str, int]] = {}
    missing = dict.fromkeys(inputs, 0)
    dates: frozenset[str] = frozenset()
    for batch, part in _batches(table, targets, parts):
        learn = batch[part[: len(batch)] == TRAIN]
        dates |= learn.dates
        for name in inputs:
            column = learn.columns[name]
            lacking = is_missing(column)
            missing[name] += int(np.count_nonzero(lacking))
            if isinstance(column, Categories):
                known = counts.setdefault(name, {})
                for category, rows in category_counts(column).items():
                    known[category] = known.get(category, 0) + rows
            else:
                moments[name].add(column[~lacking])
        if classes is None:
            for name, values in zip(targets, numbers_of(targets, learn).T, strict=True):
                moments[name].add(values)
    target: Classes | Values
    if classes is None:
        check_values(targets, [(moments[name].smallest, moments[name].largest) for name in targets])
        means, spreads = zip(*(_measured(name, moments) for name in targets), strict=True)
        target = Values(tuple(targets), means, spreads)
    else:
        target = classes
    columns: list[Numeric | Categorical] = []
    for name in inputs:
        if counts.get(name):
            columns.append(Categorical.of_counts(name, counts[name], missing[name] > 0))
        elif moments[name].count:
            columns.append(Numeric(name, *_measured(name, moments), missing[name] > 0, name in dates))
    return Preparation(tuple(columns), target, table.point), {name: len(known) for name, known in counts.items()}


def _measured(name: str, moments: Mapping[str, Moments]) -> tuple[float, float]:
    with about_column(name):
        return moments[name].mean_and_spread()


class _Stored:
    """Prepared rows in temporary files, those of each part in two: samples, as bytes where all are 0 or 1, and targets.

    Parameters
    ----------
    options : Namespace
    preparation : Preparation
    counts : sequence of int
        The rows of each part.
    cleanup, files : ExitStack
        What removes the folder, and what closes the files.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        preparation: Preparation,
        counts: Sequence[int],
        cleanup: contextlib.ExitStack,
        files: contextlib.ExitStack,
    ) -> None:
        self.preparation, self.counts = preparation, counts
        bytes_ = all(isinstance(column, Categorical) for column in preparation.columns)
        self.dtype = np.dtype(np.uint8 if bytes_ else options.dtype)
        target = preparation.target
        shape = (len(target.names),) if isinstance(target, Values) else ()
        width = len(preparation.inputs)
        self.bytes = sum(counts) * (width * self.dtype.itemsize + 8 * (shape[0] if shape else 1))
        self.parent = Path(options.temp or Path(options.output).parent)
        free = shutil.disk_usage(self.parent).free
        if free < self.bytes:
            got = f"--temp: got {self.parent} with {size_name(free)} free"
            raise CommandError(f"{got}, expected {size_name(self.bytes)} for the prepared rows", FAILED)
        with writing(str(self.parent)):
            folder = tempfile.TemporaryDirectory(prefix=".fastnn-", dir=self.parent, ignore_cleanup_errors=True)
        self.folder = Path(cleanup.enter_context(folder))
        y_dtype = np.dtype(np.float64 if shape else np.int64)
        with self._disk():
            self._files = [
                (
                    files.enter_context(_NpyFile(self.folder / f"{name}-x.npy", self.dtype, (rows, width))),
                    files.enter_context(_NpyFile(self.folder / f"{name}-y.npy", y_dtype, (rows, *shape))),
                )
                for name, rows in zip(PARTS, counts, strict=True)
            ]

    def write(self, table: BatchedTable, parts: npt.NDArray[np.uint8]) -> None:
        """Prepare the rows of a table that have a target, and write each to the files of its part."""
        for batch, part in _batches(table, self.preparation.target.names, parts):
            y = self.preparation.target.encode(batch)
            for rows, x in self.preparation.pieces(batch, self.dtype):
                of = part[rows]
                with self._disk():
                    for number, (samples, targets) in enumerate(self._files):
                        samples.add(x[of == number])
                        targets.add(y[rows][of == number])

    def streams(self) -> tuple[Stream, Stream | None, Stream | None]:
        """Return what reads each part; there are always rows to train on."""
        train, apart, held = ((samples.path, targets.path) for samples, targets in self._files)
        return (
            stream(*train),
            stream(*apart) if self.counts[APART] else None,
            stream(*held) if self.counts[HELD] else None,
        )

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        """Say of a full disk how much it was to take."""
        try:
            yield
        except OSError as error:
            need = f"the prepared rows take {size_name(self.bytes)}; --temp names another folder"
            raise CommandError(
                f"{self.parent}: cannot be written: {error.strerror or error} ({need})", FAILED
            ) from None


class _NpyFile:
    """A .npy file of a known shape that is written some rows at a time."""

    def __init__(self, path: Path, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> None:
        self.path, self._file = path, io.FileIO(path, "x")
        self._dtype = dtype
        write_npy_header(self._file, dtype, shape)

    def __enter__(self) -> _NpyFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, rows: Array) -> None:
        """Write rows."""
        left = memoryview(np.ascontiguousarray(rows, self._dtype).reshape(-1).view(np.uint8).data)
        while left:
            left = left[self._file.write(left) :]
