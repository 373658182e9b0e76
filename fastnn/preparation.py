"""From a table's columns to a network's inputs and targets, and back from its outputs: learned from the training rows.

A column of numbers, or of dates as days, becomes one input, (value - mean) / spread, and where training rows lack a
value a second one, 1 where it is missing: a missing number counts as the mean. A column of categories becomes one
input for each category of the training rows, 1 for the row's own; missing is a category of its own where training rows
lack a value. A category that was not seen in training, or missing where it never was, is 0 in all of them. Truth
values and whole numbers are one category each however they are written: true, True, TRUE; 1, 1.0, +1.

Class labels become 0, 1, ... in the order of their names; values are standardised as columns are.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fastnn._errors import check_flag, check_number, shown, unknown_name
from fastnn.tables import EXACT, POINTS, Categories, Column, Table, as_categories, as_table, is_missing, with_point

Array = npt.NDArray[Any]

MAX_CATEGORIES = 100
"""The most frequent categories of a column have an input each; further ones count as not seen."""

PIECE_NUMBERS = 1 << 20
"""So many inputs are prepared at a time, all columns of some rows: they stay in the caches."""

Writer = Callable[[Array, slice], None]
"""Writes the inputs of the rows of a slice, shape (rows, inputs)."""


@dataclass(frozen=True)
class Numeric:
    """A column of numbers.

    Parameters
    ----------
    name : str
    mean, spread : float
        Mean and standard deviation of the training rows; the spread is 1 where they are all equal.
    indicator : bool
        Whether a second input says that the value is missing.
    dates : bool
        Whether the numbers are days of dates, or shares of a day.
    """

    kind: ClassVar[str] = "numeric"
    name: str
    mean: float
    spread: float
    indicator: bool
    dates: bool = False

    @classmethod
    def fit(cls, name: str, column: npt.NDArray[np.float64], dates: bool = False) -> Numeric:
        """Return the preparation of a column with at least one value."""
        there = column[~np.isnan(column)]
        mean, spread = mean_and_spread(there)
        return cls(name, mean, spread, len(there) < len(column), dates)

    @property
    def what(self) -> str:
        """What its cells are, for messages."""
        return "dates" if self.dates else "numbers"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of its inputs."""
        return (self.name, f"{self.name} is missing")[: 1 + self.indicator]

    def writer(self, table: Table, dtype: np.dtype[Any]) -> Writer:
        """Return what writes the inputs of some of the rows, all of which are checked now."""
        column = without_words(self.name, table, f"{self.what}, as in training", self.dates)
        ends = np.array([of.reduce(column, initial=self.mean) for of in (np.fmin, np.fmax)])
        if not np.isfinite(self._scaled(ends, dtype)).all():
            row = table.earliest(~np.isfinite(self._scaled(column, dtype)))
            raise ValueError(
                f"column {self.name!r}: got {column[row]} in row {table.number(row)}, expected {self.what} that "
                f"{dtype} holds as (value - {self.mean:.6g}) / {self.spread:.6g}"
            )

        def write(out: Array, rows: slice) -> None:
            out[:, 0] = self._scaled(column[rows], dtype)
            if self.indicator:
                out[:, 1] = np.isnan(column[rows])

        return write

    def _scaled(self, values: npt.NDArray[np.float64], dtype: np.dtype[Any]) -> Array:
        with np.errstate(over="ignore"):
            scaled = (values - self.mean) / self.spread
            return np.where(np.isnan(scaled), 0.0, scaled).astype(dtype)


@dataclass(frozen=True)
class Categorical:
    """A column of categories.

    Parameters
    ----------
    name : str
    categories : tuple of str
        Those with an input of their own.
    indicator : bool
        Whether a last input says that the value is missing.
    """

    kind: ClassVar[str] = "categorical"
    name: str
    categories: tuple[str, ...]
    indicator: bool

    @classmethod
    def fit(cls, name: str, column: Categories, most: int = MAX_CATEGORIES) -> Categorical:
        """Return the preparation of a column with at least one value."""
        return cls.of_counts(name, category_counts(column), bool((column.codes < 0).any()), most)

    @classmethod
    def of_counts(cls, name: str, counts: Mapping[str, int], missing: bool, most: int = MAX_CATEGORIES) -> Categorical:
        """Return the preparation of a column whose categories occur so often, and that may lack a value."""
        counts = merged(counts)
        by_count = sorted(counts, key=lambda category: (-counts[category], category))
        return cls(name, tuple(sorted(by_count[:most])), missing)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of its inputs."""
        missing = (f"{self.name} is missing",) if self.indicator else ()
        return (*(f"{self.name} = {category}" for category in self.categories), *missing)

    def unseen(self, column: Column) -> tuple[int, tuple[str, ...]]:
        """Return how many rows hold a category without an input, and which categories these are."""
        codes, names = as_categories(column)
        counts = np.bincount(codes[codes >= 0], minlength=len(names))
        new = np.flatnonzero((counts > 0) & (codes_of(names, self.categories)[:-1] < 0))
        return int(counts[new].sum()), tuple(names[code] for code in new)

    def writer(self, table: Table, dtype: np.dtype[Any]) -> Writer:
        """Return what writes the inputs of some of the rows."""
        codes, names = as_categories(table.columns[self.name])
        places = codes_of(names, self.categories)
        if self.indicator:
            places[-1] = len(self.categories)

        def write(out: Array, rows: slice) -> None:
            place = places[codes[rows]]
            out[:] = 0.0
            out[np.flatnonzero(place >= 0), place[place >= 0]] = 1.0

        return write


def codes_of(names: Sequence[str], known: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the place of each name among those known, -1 for others and, at the end, for code -1.

    A name that is not known stands for one that is written otherwise, such as True for true.
    """
    place = {name: number for number, name in enumerate(known)}
    written = {spelling(name): number for number, name in reversed([*enumerate(known)])}
    found = ((place[name] if name in place else written.get(spelling(name), -1)) for name in names)
    return np.array([*found, -1], np.int64)


_WHOLE = re.compile(r"([+-]?)(0|[1-9][0-9]*)(?:\.0*)?")
"""A whole number; with zeros in front, which codes such as 00501 have, it is a word."""


def spelling(name: str) -> str:
    """Return how a truth value (true, True, TRUE) or a whole number (1, 1.0, +1) is written; another word as it is."""
    if name[:1] not in "tTfF+-0123456789":
        return name
    if (lower := name.lower()) in ("true", "false"):
        return lower if name in (lower, lower.title(), lower.upper()) else name
    if whole := _WHOLE.fullmatch(name):
        return "-" * (whole[1] == "-" and whole[2] != "0") + whole[2]
    return name


def merged(counts: Mapping[str, int]) -> dict[str, int]:
    """Return how many rows hold each category, one that is written in several ways counted once."""
    forms: dict[str, list[str]] = {}
    for name in counts:
        forms.setdefault(spelling(name), []).append(name)
    return {form if len(names) > 1 else names[0]: sum(counts[name] for name in names) for form, names in forms.items()}


def category_counts(column: Categories) -> dict[str, int]:
    """Return how many rows hold each category that occurs."""
    counts = np.bincount(column.codes[column.codes >= 0], minlength=len(column.names))
    return {column.names[code]: int(counts[code]) for code in np.flatnonzero(counts)}


def mean_and_spread(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Return mean and standard deviation, 1 for the latter where all values are equal.

    Raises
    ------
    ValueError
        If one is infinite, or so large that the standard deviation is no float64.
    """
    if not np.isfinite(values).all():
        raise ValueError(f"got {values[~np.isfinite(values)][0]}, expected finite numbers")
    moments = Moments()
    moments.add(values.astype(np.float64))
    return moments.mean_and_spread()


@dataclass
class Moments:
    """Mean and standard deviation of values that come some at a time.

    Sums of squared deviations from the means so far are merged (Chan, Golub and LeVeque 1979), so that nothing cancels
    where the mean is large; means are those of differences to the first value, which keep more digits.
    """

    count: int = 0
    origin: float = 0.0
    offset: float = 0.0
    squares: float = 0.0
    smallest: float = math.inf
    largest: float = -math.inf

    def add(self, values: npt.NDArray[np.float64]) -> None:
        """Take values in."""
        if not len(values):
            return
        if not self.count:
            self.origin = float(values[0])
        self.smallest = min(self.smallest, float(values.min()))
        self.largest = max(self.largest, float(values.max()))
        with np.errstate(over="ignore", invalid="ignore"):
            shifted = values - self.origin
            mean = np.float64(shifted.mean())
            total, difference = self.count + len(values), mean - self.offset
            between = difference**2 * self.count * len(values) / total
            self.squares += float(((shifted - mean) ** 2).sum() + between)
        self.offset += float(difference) * len(values) / total
        self.count = total

    def mean_and_spread(self) -> tuple[float, float]:
        """Return what the function of this name returns for all values at once."""
        deviation = math.sqrt(self.squares / self.count)
        if not math.isfinite(deviation):
            raise ValueError("got numbers too large for their standard deviation, expected some below 1e150")
        if self.smallest == self.largest:
            return self.smallest, 1.0
        # The squares of tiny differences are 0.
        return self.origin + self.offset, deviation or self.largest - self.smallest


@dataclass(frozen=True)
class Classes:
    """A target of classes.

    Parameters
    ----------
    name : str
        The column.
    classes : tuple of str or int
        Their names, in the order of the network's outputs.
    """

    kind: ClassVar[str] = "classes"
    name: str
    classes: tuple[str | int, ...]

    @classmethod
    def fit(cls, name: str, column: Column) -> Classes:
        """Return the classes of a column, sorted: words, or whole numbers."""
        if isinstance(column, Categories):
            return cls(name, tuple(sorted(merged(category_counts(column)))))
        numbers = np.unique(column[~np.isnan(column)])
        if (wrong := numbers[~(np.isfinite(numbers) & (numbers == np.rint(numbers)))]).size:
            raise ValueError(f"column {name!r}: got {wrong[0]}, expected words or whole numbers as classes")
        if (large := numbers[np.abs(numbers) >= EXACT]).size:  # what float64 rounds may be two classes
            raise ValueError(
                f"column {name!r}: got {int(large[0])}, expected words, or whole numbers below 2**53, as classes"
            )
        return cls(name, tuple(int(number) for number in numbers))

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that it takes."""
        return (self.name,)

    def encode(self, table: Table) -> npt.NDArray[np.int64]:
        """Return the labels 0, 1, ... of every row.

        Raises
        ------
        ValueError
            For a class that is not known, or a missing one.
        """
        codes, names = as_categories(table.column(self.name))
        labels = codes_of(names, [str(name) for name in self.classes])[codes]
        if (labels < 0).any():
            row = table.earliest(labels < 0)
            got = shown(names[codes[row]]) if codes[row] >= 0 else "no value"
            known = ", ".join(str(name) for name in self.classes[:10]) + ", ..." * (len(self.classes) > 10)
            raise ValueError(
                f"column {self.name!r}: got {got} in row {table.number(row)}, expected one of the classes {known}"
            )
        return labels

    def decode(self, labels: npt.NDArray[np.int64]) -> Array:
        """Return the classes' names for labels."""
        return np.array(self.classes)[labels]


@dataclass(frozen=True)
class Values:
    """A target of values, one column or more, standardised for the network.

    Parameters
    ----------
    names : tuple of str
        The columns.
    means, spreads : tuple of float
        Mean and standard deviation of the training rows.
    """

    kind: ClassVar[str] = "values"
    names: tuple[str, ...]
    means: tuple[float, ...]
    spreads: tuple[float, ...]

    @classmethod
    def fit(cls, names: Sequence[str], table: Table) -> Values:
        """Return the means and spreads of columns of numbers."""
        measured = []
        for name, column in zip(names, numbers_of(names, table).T, strict=True):
            with about_column(name):
                measured.append(mean_and_spread(column))
        means, spreads = zip(*measured, strict=True)
        return cls(tuple(names), means, spreads)

    def encode(self, table: Table) -> npt.NDArray[np.float64]:
        """Return the standardised values of every row, shape (rows, columns)."""
        with np.errstate(over="ignore"):
            return (numbers_of(self.names, table) - self.means) / self.spreads

    def decode(self, outputs: Array) -> npt.NDArray[np.float64]:
        """Return a network's outputs in the units of the columns, whose digits float32 may not hold."""
        result: npt.NDArray[np.float64] = outputs.astype(np.float64) * self.spreads + self.means
        return result


def numbers_of(names: Sequence[str], table: Table) -> npt.NDArray[np.float64]:
    """Return columns of numbers without gaps, side by side."""
    columns = [without_words(name, table, "numbers") for name in names]
    for name, column in zip(names, columns, strict=True):
        if not np.isfinite(column).all():
            row = table.earliest(~np.isfinite(column))
            got = "no value" if np.isnan(column[row]) else shown(column[row])
            raise ValueError(f"column {name!r}: got {got} in row {table.number(row)}, expected finite numbers")
    return np.column_stack(columns)


def without_words(name: str, table: Table, expected: str, dates: bool = False) -> npt.NDArray[np.float64]:
    """Return a column's numbers, NaN for missing ones; words that are dates become days where such are expected.

    One word makes a whole file's column one of words, so that its numbers come as words in the batches before that.

    Raises
    ------
    ValueError
        For the first cell that is no number; no date, where such are expected.
    """
    column = table.column(name)
    if not isinstance(column, Categories):
        return column
    value = _days if dates else lambda word: _number(with_point(word, table.point))
    values = np.array([*map(value, column.names), np.nan])[column.codes]
    wrong = np.isnan(values) & (column.codes >= 0)
    if wrong.any():
        row = table.earliest(wrong)
        got = f"{shown(column.names[column.codes[row]])} in row {table.number(row)}"
        raise ValueError(f"column {name!r}: got {got}, expected {expected}")
    return values


def _number(word: str) -> float:
    """Return the finite number that a word is, NaN for none."""
    try:
        value = math.nan if "_" in word else float(word)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def word_among_numbers(words: Collection[str], point: str) -> str | None:
    """Return the first word, in the order of text, of those that are no numbers, None where these are many or none."""
    strays: list[str] = []
    for word in words:
        if math.isnan(_number(with_point(word, point))):
            strays.append(word)
            if 10 * len(strays) > len(words):
                return None
    return min(strays, default=None)


_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)

_ISO = re.compile(r"(\d{4}-\d\d-\d\d)?[T ]?(?:\d\d:\d\d.*)?")


def _days(word: str) -> float:
    """Return the days since 1970-01-01 of a date in ISO 8601, with or without a time, the share of a day of a time.

    They are the days that a CSV file's columns of dates become; NaN for any other word.
    """
    if not (parts := _ISO.fullmatch(word)):
        return math.nan
    text = re.sub("Z$", "+00:00", word)
    text = re.sub(r"\.(\d+)", lambda found: f".{found[1]:0<6.6}", text)  # microseconds, which all Pythons read
    with contextlib.suppress(ValueError):
        moment = datetime.datetime.fromisoformat(text if parts[1] else f"1970-01-01T{text}")
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.timezone.utc)
        return (moment - _EPOCH) / datetime.timedelta(days=1)
    return math.nan


@contextlib.contextmanager
def about_column(name: str | int) -> Iterator[None]:
    """Put the column's name, or its number, in front of an error about its values."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"column {name!r}: {error}") from None


def unseen_text(name: str, unseen: int, rows: int, categories: Sequence[str]) -> str:
    """Say how many of a table's rows hold a category without an input, and name some of these."""
    words = ", ".join(map(repr, categories[:3])) + ", ..." * (len(categories) > 3)
    return f"column {name!r}: {unseen:,} of {rows:,} rows hold a category that training gave no input: {words}"


@dataclass(frozen=True)
class Preparation:
    """What turns the rows of a table into samples, and a network's outputs into answers; saved with the model.

    Parameters
    ----------
    columns : tuple of Numeric or Categorical
        In the order of the inputs; empty where the model takes arrays as they are.
    target : Classes or Values
    point : {".", ",", ".,"}
        How the numbers of the training file were written (1.5; 1.234,5; 1,234.5), for files whose own numbers do not
        say (1.234; 1,234).

    Examples
    --------
    >>> from fastnn.preparation import Classes, Preparation
    >>> table = {"age": [31.0, 52.0, None], "city": ["Oslo", "Rome", "Oslo"], "buys": ["no", "yes", "no"]}
    >>> preparation = Preparation.fit(table, ["age", "city"], Classes("buys", ("no", "yes")))
    >>> preparation.inputs
    ('age', 'age is missing', 'city = Oslo', 'city = Rome')
    >>> preparation.transform({"age": [31.0], "city": ["Rome"]})
    array([[-1.,  0.,  0.,  1.]], dtype=float32)
    """

    columns: tuple[Numeric | Categorical, ...]
    target: Classes | Values
    point: str = "."

    @classmethod
    def fit(cls, data: Any, columns: Collection[str], target: Classes | Values) -> Preparation:
        """Return the preparation that these training rows call for.

        Parameters
        ----------
        data : Table, data frame or mapping from name to values
        columns : collection of str
            Those that are inputs; one without any value is left out.
        target : Classes or Values
        """
        table = as_table(data)
        fitted: list[Numeric | Categorical] = []
        for name in columns:
            column = table.column(name)
            if is_missing(column).all():
                continue
            with about_column(name):
                if isinstance(column, Categories):
                    fitted.append(Categorical.fit(name, column))
                else:
                    fitted.append(Numeric.fit(name, column, name in table.dates))
        return cls(tuple(fitted), target, table.point)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the network's inputs."""
        return tuple(name for column in self.columns for name in column.inputs)

    def check_fit(self, inputs: int, units: int) -> None:
        """Raise ValueError unless this is for a network of so many inputs and outputs."""
        if self.columns and len(self.inputs) != inputs:
            raise ValueError(
                f"preparation: its columns make {len(self.inputs)} inputs, expected the network's {inputs}"
            )
        target = self.target
        outputs = len(target.classes if isinstance(target, Classes) else target.names)
        if outputs != units and not (isinstance(target, Classes) and (outputs, units) == (2, 1)):
            raise ValueError(
                f"preparation: its target has {outputs} {target.kind}, expected the {units} of the network"
            )

    @property
    def _words(self) -> tuple[str, ...]:
        """The columns of categories."""
        return tuple(column.name for column in self.columns if isinstance(column, Categorical))

    def transform(self, data: Any, dtype: npt.DTypeLike = np.float32, *, warn: bool = True) -> Array:
        """Return the samples of a table's rows, shape (rows, inputs).

        Parameters
        ----------
        data : Table, data frame or mapping from name to values
            Columns are found by name; further ones are ignored.
        dtype : float type
        warn : bool
            Whether to warn of categories that have no input.

        Raises
        ------
        ValueError
            If a column is missing or is not of the kind that it was in training.
        """
        table = as_table(data, self._words)
        out = np.empty((len(table), len(self.inputs)), dtype)
        write = self._writer(table, out.dtype)
        for rows in self._slices(table):
            write(out[rows], rows)
        if warn and (unseen := self.unseen(table)):
            found = "; ".join(unseen_text(name, rows, len(table), names) for name, (rows, names) in unseen.items())
            warnings.warn(found, stacklevel=2)
        return out

    def pieces(self, table: Table, dtype: npt.DTypeLike) -> Iterator[tuple[slice, Array]]:
        """Yield what `transform` returns some rows at a time, a bounded number of inputs, and which rows they are."""
        kind = np.dtype(dtype)
        write = self._writer(table, kind)
        for rows in self._slices(table):
            out = np.empty((rows.stop - rows.start, len(self.inputs)), kind)
            write(out, rows)
            yield rows, out

    def _slices(self, table: Table) -> Iterator[slice]:
        step = max(1, PIECE_NUMBERS // max(1, len(self.inputs)))
        return (slice(first, min(first + step, len(table))) for first in range(0, len(table), step))

    def _writer(self, table: Table, dtype: np.dtype[Any]) -> Writer:
        """Return what writes the samples of some rows of a table, whose columns are checked now."""
        lacking = [column.name for column in self.columns if column.name not in table.columns]
        if lacking:
            names = ", ".join(map(repr, lacking[:5])) + ", ..." * (len(lacking) > 5)
            raise ValueError(f"got no column {names}, expected all columns that the model was trained on")
        for part in self.columns:
            cells = table.columns[part.name]
            numbers = isinstance(part, Numeric) and not isinstance(cells, Categories) and not is_missing(cells).all()
            if numbers and part.dates != (part.name in table.dates):  # type: ignore[union-attr]
                got = "dates" if part.name in table.dates else "numbers"
                raise ValueError(f"column {part.name!r}: got {got}, expected {part.what}, as in training")  # type: ignore[union-attr]
        writers, start = [], 0
        for column in self.columns:
            end = start + len(column.inputs)
            writers.append((slice(start, end), column.writer(table, dtype)))
            start = end

        def write(out: Array, rows: slice) -> None:
            for inputs, writer in writers:
                writer(out[:, inputs], rows)

        return write

    def unseen(self, data: Any) -> dict[str, tuple[int, tuple[str, ...]]]:
        """Return the columns with categories that have no input: how many rows hold one, and which they are.

        Parameters
        ----------
        data : Table, data frame or mapping from name to values
            With all columns of the preparation.
        """
        table = as_table(data, self._words)
        found = {
            column.name: column.unseen(table.column(column.name))
            for column in self.columns
            if isinstance(column, Categorical)
        }
        return {name: (rows, names) for name, (rows, names) in found.items() if rows}

    def config(self) -> dict[str, Any]:
        """Return it as plain data."""
        parts = [{"kind": part.kind, **asdict(part)} for part in (*self.columns, self.target)]
        return {"columns": parts[:-1], "target": parts[-1], "point": self.point}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Preparation:
        """Return the preparation that `config` described.

        Raises
        ------
        KeyError, TypeError, ValueError
            For what no preparation described.
        """
        columns = tuple(_part(part, (Numeric, Categorical)) for part in config["columns"])
        point = config.get("point", ".")
        if point not in POINTS:
            raise unknown_name("point", point, POINTS)
        return cls(columns, _part(config["target"], (Classes, Values)), point)


def _part(config: Mapping[str, Any], kinds: tuple[Any, ...]) -> Any:
    arguments = dict(config)
    kind = arguments.pop("kind", None)
    for known in kinds:
        if known.kind == kind:
            part = known(**{name: _CHECKS[name](name, value) for name, value in arguments.items()})
            _check_sizes(part)
            return part
    raise unknown_name("kind", kind, [known.kind for known in kinds])


def _check_sizes(part: Any) -> None:
    """Refuse values without a mean and spread each, and a category or class, or kind of class, that is there twice."""
    if isinstance(part, Values) and not len(part.names) == len(part.means) == len(part.spreads):
        raise ValueError(f"means: got {len(part.means)} and {len(part.spreads)} spreads, expected {len(part.names)}")
    for names in (getattr(part, "categories", ()), getattr(part, "classes", ())):
        if len(set(names)) < len(names) or len(set(map(type, names))) > 1:
            raise ValueError(f"{part.kind}: got {shown(names)}, expected different names, or different numbers")


def _check_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name}: got {shown(value)} ({type(value).__name__}), expected text")
    return value


def _check_spread(name: str, value: Any) -> float:
    return check_number(name, value, low=0.0, low_open=True)


def _check_class(name: str, value: Any) -> str | int:
    return value if isinstance(value, str) else check_number(name, value, integer=True)


def _check_each(check: Callable[[str, Any], Any]) -> Callable[[str, Any], tuple[Any, ...]]:
    """Return what checks a list of one value at least."""

    def check_all(name: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)) or not value:
            raise TypeError(f"{name}: got {shown(value)} ({type(value).__name__}), expected a list of one at least")
        return tuple(check(name, item) for item in value)

    return check_all


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "name": _check_text,
    "mean": check_number,
    "spread": _check_spread,
    "indicator": check_flag,
    "dates": check_flag,
    "categories": _check_each(_check_text),
    "classes": _check_each(_check_class),
    "names": _check_each(_check_text),
    "means": _check_each(check_number),
    "spreads": _check_each(_check_spread),
}
"""What checks each value of a part's plain data."""
