"""From a table's columns to a network's inputs and targets, and back from its outputs: learned from the training rows.

A column of numbers, or of dates as days, becomes one input, (value - mean) / spread, and where training rows lack a
value a second one, 1 where it is missing: a missing number counts as the mean. A column of categories becomes one
input for each category of the training rows, 1 for the row's own; missing is a category of its own where training rows
lack a value. A category that was not seen in training, or missing where it never was, is 0 in all of them.

Class labels become 0, 1, ... in the order of their names; values are standardised as columns are.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fastnn._errors import shown, unknown_name
from fastnn.tables import Categories, Column, Table, as_categories, as_table, is_missing

Array = npt.NDArray[Any]

MAX_CATEGORIES = 100
"""The most frequent categories of a column have an input each; further ones count as not seen."""


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

    def write(self, out: Array, column: Column) -> None:
        """Write the inputs of every row, shape (rows, len(self.inputs))."""
        if isinstance(column, Categories):
            if (column.codes >= 0).any():
                word = column.names[column.codes[column.codes >= 0][0]]
                raise ValueError(f"column {self.name!r}: got {word!r}, expected {self.what}, as in training")
            column = np.full(len(column.codes), np.nan)
        scaled = (column - self.mean) / self.spread
        out[:, 0] = np.where(np.isnan(scaled), 0.0, scaled)
        if self.indicator:
            out[:, 1] = np.isnan(column)


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
        new = [code for code in np.flatnonzero(counts) if names[code] not in self.categories]
        return int(counts[new].sum()), tuple(names[code] for code in new)

    def write(self, out: Array, column: Column) -> None:
        """Write the inputs of every row, shape (rows, len(self.inputs))."""
        codes, names = as_categories(column)
        places = codes_of(names, self.categories)
        if self.indicator:
            places[-1] = len(self.categories)
        place = places[codes]
        out[:] = 0.0
        out[np.flatnonzero(place >= 0), place[place >= 0]] = 1.0


def codes_of(names: Sequence[str], known: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the place of each name among those known, -1 for others and, at the end, for code -1."""
    place = {name: number for number, name in enumerate(known)}
    return np.array([*(place.get(name, -1) for name in names), -1], np.int64)


def category_counts(column: Categories) -> dict[str, int]:
    """Return how many rows hold each category that occurs."""
    counts = np.bincount(column.codes[column.codes >= 0], minlength=len(column.names))
    return {column.names[code]: int(counts[code]) for code in np.flatnonzero(counts)}


def mean_and_spread(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Return mean and standard deviation, 1 for the latter where all values are equal.

    Raises
    ------
    ValueError
        If one is infinite.
    """
    if not np.isfinite(values).all():
        raise ValueError(f"got {values[~np.isfinite(values)][0]}, expected finite numbers")
    mean = float(values.mean(dtype=np.float64))
    return mean, _spread(mean, float(values.std(dtype=np.float64)))


def _spread(mean: float, deviation: float) -> float:
    """Return a standard deviation, or 1 for that of equal values, which rounding alone spreads a little."""
    return deviation if deviation > 1e-12 * abs(mean) else 1.0


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

    def add(self, values: npt.NDArray[np.float64]) -> None:
        """Take values in."""
        if not len(values):
            return
        if not self.count:
            self.origin = float(values[0])
        shifted = values - self.origin
        mean = float(shifted.mean())
        total, difference = self.count + len(values), mean - self.offset
        self.squares += float(((shifted - mean) ** 2).sum()) + difference**2 * self.count * len(values) / total
        self.offset += difference * len(values) / total
        self.count = total

    @property
    def variance(self) -> float:
        """The mean squared deviation."""
        return self.squares / self.count

    def mean_and_spread(self) -> tuple[float, float]:
        """Return what the function of this name returns for all values at once."""
        mean = self.origin + self.offset
        return mean, _spread(mean, math.sqrt(self.variance))


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
            seen = np.unique(column.codes[column.codes >= 0])
            return cls(name, tuple(sorted(column.names[code] for code in seen)))
        numbers = np.unique(column[~np.isnan(column)])
        if (wrong := numbers[~(np.isfinite(numbers) & (numbers == np.rint(numbers)))]).size:
            raise ValueError(f"column {name!r}: got {wrong[0]}, expected words or whole numbers as classes")
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
            row = int((labels < 0).argmax())
            got = shown(names[codes[row]]) if codes[row] >= 0 else "no value"
            known = ", ".join(str(name) for name in self.classes[:10]) + ", ..." * (len(self.classes) > 10)
            raise ValueError(
                f"column {self.name!r}: got {got} in row {table.first + row}, expected one of the classes {known}"
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
        measured = [mean_and_spread(column) for column in numbers_of(names, table).T]
        means, spreads = zip(*measured, strict=True)
        return cls(tuple(names), means, spreads)

    def encode(self, table: Table) -> npt.NDArray[np.float64]:
        """Return the standardised values of every row, shape (rows, columns)."""
        return (numbers_of(self.names, table) - self.means) / self.spreads

    def decode(self, outputs: Array) -> Array:
        """Return a network's outputs in the units of the columns."""
        result = outputs.astype(np.float64) * self.spreads + self.means
        return result.astype(outputs.dtype)


def numbers_of(names: Sequence[str], table: Table) -> npt.NDArray[np.float64]:
    """Return columns of numbers without gaps, side by side."""
    columns = [table.column(name) for name in names]
    for name, column in zip(names, columns, strict=True):
        if isinstance(column, Categories):
            raise ValueError(f"column {name!r}: got words, expected numbers")
        if not np.isfinite(column).all():
            row = int((~np.isfinite(column)).argmax())
            got = "no value" if np.isnan(column[row]) else shown(column[row])
            raise ValueError(f"column {name!r}: got {got} in row {table.first + row}, expected finite numbers")
    return np.column_stack([column for column in columns if not isinstance(column, Categories)])


@dataclass(frozen=True)
class Preparation:
    """What turns the rows of a table into samples, and a network's outputs into answers; saved with the model.

    Parameters
    ----------
    columns : tuple of Numeric or Categorical
        In the order of the inputs; empty where the model takes arrays as they are.
    target : Classes or Values

    Examples
    --------
    >>> from fastnn.preparation import Classes, Preparation
    >>> table = {"age": [31.0, 52.0, None], "city": ["Oslo", "Rome", "Oslo"], "buys": ["no", "yes", "no"]}
    >>> preparation = Preparation.fit(table, ["age", "city"], Classes("buys", ("no", "yes")))
    >>> preparation.inputs
    ('age', 'age is missing', 'city = Oslo', 'city = Rome')
    >>> preparation.transform({"age": [31.0], "city": ["Paris"]})
    array([[-1.,  0.,  0.,  0.]], dtype=float32)
    """

    columns: tuple[Numeric | Categorical, ...]
    target: Classes | Values

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
            try:
                if isinstance(column, Categories):
                    fitted.append(Categorical.fit(name, column))
                else:
                    fitted.append(Numeric.fit(name, column, name in table.dates))
            except ValueError as error:
                raise ValueError(f"column {name!r}: {error}") from None
        return cls(tuple(fitted), target)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the network's inputs."""
        return tuple(name for column in self.columns for name in column.inputs)

    def transform(self, data: Any, dtype: npt.DTypeLike = np.float32) -> Array:
        """Return the samples of a table's rows, shape (rows, inputs).

        Parameters
        ----------
        data : Table, data frame or mapping from name to values
            Columns are found by name; further ones are ignored.
        dtype : float type

        Raises
        ------
        ValueError
            If a column is missing or is not of the kind that it was in training.
        """
        table = as_table(data)
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
        out = np.empty((len(table), len(self.inputs)), dtype)
        start = 0
        for column in self.columns:
            end = start + len(column.inputs)
            column.write(out[:, start:end], table.columns[column.name])
            start = end
        return out

    def unseen(self, data: Any) -> dict[str, tuple[int, tuple[str, ...]]]:
        """Return the columns with categories that have no input: how many rows hold one, and which they are.

        Parameters
        ----------
        data : Table, data frame or mapping from name to values
            With all columns of the preparation.
        """
        table = as_table(data)
        found = {
            column.name: column.unseen(table.column(column.name))
            for column in self.columns
            if isinstance(column, Categorical)
        }
        return {name: (rows, names) for name, (rows, names) in found.items() if rows}

    def config(self) -> dict[str, Any]:
        """Return it as plain data."""
        parts = [{"kind": part.kind, **asdict(part)} for part in (*self.columns, self.target)]
        return {"columns": parts[:-1], "target": parts[-1]}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Preparation:
        """Return the preparation that `config` described."""
        columns = tuple(_part(part, (Numeric, Categorical)) for part in config["columns"])
        return cls(columns, _part(config["target"], (Classes, Values)))


def _part(config: Mapping[str, Any], kinds: tuple[Any, ...]) -> Any:
    arguments = {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}
    kind = arguments.pop("kind", None)
    for known in kinds:
        if known.kind == kind:
            return known(**arguments)
    raise unknown_name("kind", kind, [known.kind for known in kinds])
