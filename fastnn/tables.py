"""Tables with named columns, from CSV and Parquet files, data frames and dictionaries of columns.

A column is numbers (float64, NaN where a value is missing) or categories. Dates and times are numbers of days since
1970-01-01 (UTC where they have a zone), times of the day and durations shares of a day, or days. pyarrow reads files
and data frames; without it, a CSV file of numbers is read all the same.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import itertools
import os
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import numpy as np
import numpy.typing as npt

from fastnn._errors import check_path, shown, unknown_name

if TYPE_CHECKING:
    import pyarrow

_NO_TEXT = "got bytes that are no text, expected CSV in UTF-8, or Parquet"

NEEDS_PYARROW = 'pyarrow is not installed: pip install "fastnn[table]" brings it'

MISSING = (
    "", "?", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A",
    "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip
"""Cells of a CSV file that stand for a missing value: those of pandas, and the ? of the UCI repository."""

_ABSENT = frozenset(MISSING)

_NULLS = (
    *(" " * before + cell + " " * after for cell in MISSING[1:] for before in range(4) for after in range(2)),
    *(" " * blanks for blanks in range(17)),
)
"""The cells of `MISSING`, also with a few blanks around them, which PyArrow strips of numbers alone.

A few, since each column takes time and memory to look for them all.
"""

_MANY_COLUMNS = 500
"""A file of so many is looked through for blanks, without which the cells of `MISSING` are all there can be."""

EXACT = 2**53
"""Whole numbers of this size and beyond are not all float64 numbers."""


class Categories(NamedTuple):
    """A column of categories: row i holds `names[codes[i]]`; the code -1 is a missing value."""

    codes: npt.NDArray[np.int64]
    names: tuple[str, ...]


Column = npt.NDArray[np.float64] | Categories


@dataclass(frozen=True)
class Table:
    """Named columns of one length.

    Parameters
    ----------
    columns : mapping from name to Column
    rows : int
    dates : set of str
        Which columns of numbers are days.
    first : int
        The number of the first row, for messages, where these are some rows of a file.
    numbers : ndarray of int, optional
        The number of each row, where they do not follow one another.
    point : {".", ",", ".,"}
        How numbers among words are written, see `POINTS`.
    """

    columns: Mapping[str, Column]
    rows: int
    dates: frozenset[str] = frozenset()
    first: int = 0
    numbers: npt.NDArray[np.int64] | None = None
    point: str = "."

    def __len__(self) -> int:
        return self.rows

    def column(self, name: str) -> Column:
        """Return a column.

        Raises
        ------
        ValueError
            If there is none of this name.
        """
        if name not in self.columns:
            raise ValueError(f"got no column {name!r}, expected it among {', '.join(map(repr, self.columns))}")
        return self.columns[name]

    def number(self, row: int) -> int:
        """Return the number of a row in its file, for messages."""
        return self.first + row if self.numbers is None else int(self.numbers[row])

    def earliest(self, chosen: npt.NDArray[np.bool_]) -> int:
        """Return which of the rows where a mask is true stands first in the file."""
        rows = np.flatnonzero(chosen)
        return int(rows[0] if self.numbers is None else rows[self.numbers[rows].argmin()])

    def __getitem__(self, rows: npt.NDArray[Any]) -> Table:
        """Return the rows of these indices, or where this mask is true."""
        taken = {
            name: Categories(column.codes[rows], column.names) if isinstance(column, Categories) else column[rows]
            for name, column in self.columns.items()
        }
        numbers = self.numbers[rows] if self.numbers is not None else self.first + np.arange(len(self))[rows]
        return replace(self, columns=taken, rows=len(numbers), numbers=numbers)

    def only(self, names: Sequence[str]) -> Table:
        """Return these columns."""
        kept = {name: self.columns[name] for name in names}
        return replace(self, columns=kept, dates=self.dates.intersection(names))


def is_missing(column: Column) -> npt.NDArray[np.bool_]:
    """Return where a column has no value."""
    return column.codes < 0 if isinstance(column, Categories) else np.isnan(column)


def as_categories(column: Column) -> Categories:
    """Return a column of numbers as categories, whole numbers without a point; one of categories as it is."""
    if isinstance(column, Categories):
        return column
    there = ~np.isnan(column)
    values, places = np.unique(column[there], return_inverse=True)
    codes = np.full(len(column), -1, np.int64)
    codes[there] = places
    return Categories(codes, tuple(number_name(value) for value in values))


def is_index(name: str) -> bool:
    """Whether pandas wrote a column of this name for the rows' index, which says nothing about them."""
    return name.startswith("__index_level_")


def number_name(value: float) -> str:
    """Return a number as text, a whole one without a point."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def as_table(data: Any, words: Collection[str] = ()) -> Table:
    """Return a table for a `Table`, or whatever pyarrow takes: data frames, tables, dictionaries of columns.

    Parameters
    ----------
    data : Table, pandas, polars or pyarrow table, or mapping from name to values
    words : collection of str
        Columns that are categories: whole numbers and dates of theirs are read as text, however large.

    Raises
    ------
    ImportError
        If pyarrow is needed and not installed.
    TypeError, ValueError
        If it is no table, or has a column of neither numbers nor dates nor categories, such as lists.
    """
    if isinstance(data, Table):
        return data
    if importlib.util.find_spec("pyarrow") is None:
        raise ImportError(NEEDS_PYARROW)
    import pyarrow

    try:
        return table_of_arrow(pyarrow.table(data), words)
    except pyarrow.ArrowException as error:
        raise ValueError(f"data: cannot be read as a table: {error}") from None


class TableFile(NamedTuple):
    """A file with a table in it: the columns' names, in its order, and how a CSV file is laid out, None for Parquet."""

    path: Path
    names: tuple[str, ...]
    layout: CsvLayout | None

    @property
    def point(self) -> str:
        """How its numbers are written, see `POINTS`."""
        return "." if self.layout is None else self.layout.point

    def wanted(self, columns: Sequence[str] | None) -> list[str]:
        """Return the columns to read, all for None; refuse one that it has not."""
        there = set(self.names)
        for name in columns or ():
            if name not in there:
                raise unknown_name("column", name, self.names)
        return list(self.names if columns is None else columns)


TablePath = str | os.PathLike[str] | TableFile


def table_file(path: TablePath, point: str = ".") -> TableFile:
    """Return what a file's beginning says; `point`, one of `POINTS`, holds where it does not say. See `read_table`."""
    if isinstance(path, TableFile):
        return path
    place = Path(check_path("path", path))
    if not is_parquet(place):
        layout = CsvLayout.of(place, point)
        return TableFile(place, layout.names, layout)
    import pyarrow.parquet

    with arrow_errors(), pyarrow.parquet.ParquetFile(place) as file:
        return TableFile(place, _named_once(file.schema_arrow.names), None)


def read_table(path: TablePath, columns: Sequence[str] | None = None, words: Collection[str] = ()) -> Table:
    """Read a CSV file (plain or .gz) or a Parquet file.

    The first line of a CSV file names the columns; commas, semicolons, tabs and bars are known as separators.
    Where that is no comma, numbers may have decimal commas (1,23) if no number of the first 100,000 cells has a point
    but between thousands (1.234,5). Numbers may have commas between thousands (1,234.5) if one of these cells shows it:
    1,234.5; where none has a decimal comma, also 1,234,567 or, in quotes where commas separate, 1,234. A column whose
    cells are all numbers is one of numbers, one whose cells are all dates (2026-11-23), dates with times
    (2026-11-23 13:40:56) or times (13:40:56) is one of days, any other one of categories; see `MISSING` for cells
    without a value.

    Parameters
    ----------
    path : str, path-like or TableFile
    columns : sequence of str, optional
        Those to read; None reads all.
    words : collection of str
        Columns that are categories, even where all their cells are numbers.

    Raises
    ------
    ImportError
        If pyarrow is needed and not installed.
    ValueError
        If the file is damaged, lacks a column, or has one of neither numbers nor dates nor categories.
    OSError
        If it cannot be opened.
    """
    source = table_file(path)
    wanted = source.wanted(columns)
    if source.layout is None:
        import pyarrow.parquet

        with arrow_errors(), pyarrow.parquet.ParquetFile(source.path) as file:
            table = table_of_arrow(file.read(columns=wanted).select(wanted), words)
    elif importlib.util.find_spec("pyarrow") is None:
        table = _read_numbers(source.path, source.layout, wanted)
    else:
        import pyarrow.csv

        types = {name: pyarrow.string() for name in words}
        with csv_errors(source.path, source.layout):
            cells = pyarrow.csv.read_csv(unpacked(source.path), *csv_options(source.layout, wanted, types))
        if source.point != ".":
            cells = ungrouped(cells, [name for name in wanted if name not in words], source.point)[0]
        table = table_of_arrow(cells)
    typed = {name: as_categories(table.columns[name]) if name in words else table.columns[name] for name in wanted}
    return replace(table, columns=typed, point=source.point)


def is_parquet(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as Parquet does, for which PyArrow must be there."""
    with open(path, "rb") as file:
        found = file.read(4) == b"PAR1"
    if found and importlib.util.find_spec("pyarrow") is None:
        raise ImportError(NEEDS_PYARROW)
    return found


@contextmanager
def arrow_errors() -> Iterator[None]:
    """Turn pyarrow's errors about what a file holds into one sentence."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        message = " ".join(str(error).split()).rstrip(".")
        if "invalid UTF8" in message:
            message = _NO_TEXT
        elif message.startswith("Could not skip initial"):
            message = "got no row below the columns' names, expected some"
        raise ValueError(message) from None


@contextmanager
def csv_errors(path: Path, layout: CsvLayout) -> Iterator[None]:
    """Do as `arrow_errors`, and name the line of a row that PyArrow finds too short or too long."""
    import pyarrow

    with arrow_errors():
        try:
            yield
        except pyarrow.ArrowInvalid as error:
            if " columns, got " in str(error) and (found := _uneven(path, layout)):
                raise ValueError(found) from None
            raise


def _uneven(path: Path, layout: CsvLayout) -> str:
    """Say which row of a CSV file has more or fewer cells than there are columns; nothing where none has."""
    # Of other errors PyArrow knows more; of bytes that are no text it says nothing where it has found such a row.
    with _open_text(path, errors="replace") as file, suppress(csv.Error, *_DAMAGED):
        first = sum(1 for _ in zip(range(layout.lines), file, strict=False))
        rows = csv.reader(file, delimiter=layout.delimiter)
        start = first + 1
        for row in rows:
            if row and len(row) != len(layout.names):
                got = f"got {len(row)} cells in line {start}, {shown(layout.delimiter.join(row))}"
                return f"{got}, expected {len(layout.names)}, one for each column"
            start = first + rows.line_num + 1
    return ""


def _named_once(names: Sequence[str]) -> tuple[str, ...]:
    counts = Counter(names)
    if twice := [name for name in names if counts[name] > 1]:
        which = f"named {twice[0]!r}" if twice[0] else "without a name"
        raise ValueError(f"got more than one column {which}, expected a name for each")
    return tuple(names)


class CsvLayout(NamedTuple):
    """The columns' names of a CSV file, what stands between its cells, the lines of the names, one of `POINTS`.

    `blanks` is False where no cell has one.
    """

    names: tuple[str, ...]
    delimiter: str
    lines: int
    point: str = "."
    blanks: bool = True

    @classmethod
    def of(cls, path: Path, point: str) -> CsvLayout:
        try:
            with _text_errors(), _open_text(path) as file:
                delimiter, before = _delimiter(file)
                file.seek(0)
                for _ in range(before):
                    file.readline()
                reader = csv.reader(file, delimiter=delimiter)
                header = next((row for row in reader if row), [])
                lines = before + reader.line_num
                point = _point(reader, delimiter, point)
        except csv.Error as error:
            raise ValueError(
                f"got a first line that is no CSV ({error}), expected one with the columns' names"
            ) from None
        if not header:
            raise ValueError("got no line, expected one with the columns' names")
        blanks = len(header) < _MANY_COLUMNS or _has_blanks(path, lines)
        return cls(_named_once([name.strip() for name in header]), delimiter, lines, point, blanks)


def _has_blanks(path: Path, lines: int) -> bool:
    """Whether a CSV file has a blank below the lines of the names."""
    with _open_text(path, errors="replace") as file, suppress(*_DAMAGED):  # of which the reader says more
        for _ in range(lines):
            file.readline()
        return any(" " in text for text in iter(lambda: file.read(1 << 20), ""))
    return True


POINTS = (".", ",", ".,")
"""How the numbers of a CSV file are written: 1.5; with decimal commas, 1,5 and 1.234,5; with thousands, 1,234.5."""

_MARKS = {",": (",", "."), ".,": (".", ",")}
"""What stands in front of decimals, and what between thousands."""

_CELLS_FOR_POINT = 100_000
"""So many cells at most are looked at for decimal commas and commas between thousands."""

_EXPONENT = r"(?:[eE][+-]?\d+)?"


def _groups(mark: str) -> str:
    """Return the pattern of thousands with marks between them."""
    return rf"[1-9]\d{{0,2}}(?:{re.escape(mark)}\d{{3}})+"


def _written(decimal: str, mark: str) -> str:
    """Return the pattern of a number that may have marks between its thousands."""
    point = re.escape(decimal)
    return rf"[+-]?(?:(?:{_groups(mark)}|\d+)(?:{point}\d*)?|{point}\d+){_EXPONENT}"


_WRITTEN = {point: _written(*marks) for point, marks in _MARKS.items()}


def _point(rows: Iterable[list[str]], delimiter: str, known: str) -> str:
    """Return which of `POINTS` the cells say; `known` is what holds where they do not.

    A number with three digits behind its only mark (1,234; 1.234) says neither, since the mark may be one of thousands.
    Where commas separate the cells, 1,234 is taken for thousands, unless another cell has a decimal comma.
    """
    thousands = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}").fullmatch
    several = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3}){2,}").fullmatch
    with_both = re.compile(rf"[+-]?{_groups(',')}\.\d+").fullmatch
    says_comma = re.compile(rf"[+-]?(?:{_groups('.')}|\d*),\d+{_EXPONENT}").fullmatch
    says_point = re.compile(rf"[+-]?(?![1-9]\d{{0,2}}\.\d{{3}}$)\d*\.\d+{_EXPONENT}").fullmatch
    comma = point = grouped = False
    with suppress(csv.Error, UnicodeDecodeError):  # of which PyArrow knows the column
        for cell in map(str.strip, itertools.islice(itertools.chain.from_iterable(rows), _CELLS_FOR_POINT)):
            if "," not in cell:
                point = point or says_point(cell) is not None
            elif with_both(cell):
                return ".,"
            elif thousands(cell):
                grouped = grouped or delimiter == ","
            elif several(cell):
                grouped = True
            else:
                comma = comma or says_comma(cell) is not None
    said = grouped and not comma and known == "."
    if said or (known == ".," and (delimiter == "," or not comma)):
        return ".,"
    if point or delimiter == ",":
        return "."
    return "," if comma else known


def with_point(word: str, point: str) -> str:
    """Return a number as `float` takes it; any other word as it is."""
    if point == "." or not re.fullmatch(_WRITTEN[point], word):
        return word
    decimal, mark = _MARKS[point]
    return word.replace(mark, "").replace(decimal, ".")


def ungrouped(table: pyarrow.Table, names: Collection[str], point: str) -> tuple[pyarrow.Table, list[str]]:
    """Return a table with numbers for words that are all numbers so written, and which columns are no such.

    PyArrow itself knows no marks between thousands.
    """
    import pyarrow
    from pyarrow import compute

    others = []
    places = {name: place for place, name in enumerate(table.column_names)}
    for name in names:
        place = places[name]
        if not pyarrow.types.is_string(table.column(place).type):
            continue
        text = compute.utf8_trim_whitespace(table.column(place))
        if compute.all(compute.match_substring_regex(text, f"^(?:{_WRITTEN[point]})$"), min_count=0).as_py():
            decimal, mark = _MARKS[point]
            plain = compute.replace_substring(compute.replace_substring(text, mark, ""), decimal, ".")
            table = table.set_column(place, name, compute.replace_substring_regex(plain, r"^\+", "").cast("float64"))
        else:
            others.append(name)
    return table, others


def _delimiter(file: TextIO) -> tuple[str, int]:
    """Return what stands between the cells, and how many lines come before that with the names.

    A line such as "sep=;", which Excel takes, says it. Else it is what occurs most often in the first line that is
    not blank; of several, one that splits the second as well.
    """
    before, first = 0, file.readline()
    while first and not first.strip():
        before, first = before + 1, file.readline()
    if said := re.fullmatch(r'"?sep=(.)"?', first.strip("\r\n"), re.IGNORECASE):
        return said[1], before + 1
    first = _unquoted(first, file)
    second = file.readline()
    while second and not second.strip():
        second = file.readline()
    second = _unquoted(second, file)
    return max(",;\t|", key=lambda delimiter: (first.count(delimiter), delimiter in second)), before


def _unquoted(line: str, file: TextIO) -> str:
    """Return a line without what stands in quotes, which may take further lines; as it is where a quote has no end."""
    whole, left = line, _LONGEST_NAMES
    while whole.count('"') % 2 and left and (more := file.readline()):
        whole, left = whole + more, left - 1
    return line if whole.count('"') % 2 else re.sub(r'"[^"]*"', "", whole)


_LONGEST_NAMES = 100
"""A name or cell in quotes that takes more lines than this is taken for a quote without an end."""


def is_packed(path: Path) -> bool:
    """Whether a file begins as gzip does, whatever its name ends in."""
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def unpacked(path: Path) -> Any:
    """Return a file for PyArrow, which goes by the name's ending where nobody says whether it is packed.

    PyArrow closes it when its threads are done with it: who closed it before would have them read from whatever file
    is given the same number next.
    """
    import pyarrow

    return pyarrow.input_stream(str(path), compression="gzip" if is_packed(path) else None)


_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)
"""What a damaged gzip file leads to."""


@contextmanager
def _text_errors() -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError:
        raise ValueError(_NO_TEXT) from None
    except _DAMAGED as error:
        raise ValueError(f"got a damaged gzip file ({error}), expected a whole one") from None


def _open_text(path: Path, errors: str = "strict") -> TextIO:
    if is_packed(path):
        return gzip.open(path, "rt", encoding="utf-8-sig", errors=errors, newline="")
    return open(path, encoding="utf-8-sig", errors=errors, newline="")


def csv_options(layout: CsvLayout, columns: Sequence[str], types: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Return how PyArrow shall read, parse and convert these columns, some of them of a type that is known."""
    import pyarrow.csv

    read = pyarrow.csv.ReadOptions(column_names=layout.names, skip_rows=layout.lines)
    parse = pyarrow.csv.ParseOptions(delimiter=layout.delimiter, newlines_in_values=True)
    convert = pyarrow.csv.ConvertOptions(
        include_columns=columns,
        decimal_point=layout.point[0],
        null_values=_NULLS if layout.blanks else MISSING,
        strings_can_be_null=True,
        true_values=[],  # "true" and "false" are categories like any other, under the names that the file has
        false_values=[],
        column_types=types,
    )
    return read, parse, convert


def table_of_arrow(table: pyarrow.Table, words: Collection[str] = (), first: int = 0) -> Table:
    """Return what PyArrow read; `first` is the number of the first row, `words` are neither dates nor numbers."""
    _check_types(table)
    columns: dict[str, Column] = {}
    dates = set()
    for name in table.column_names:
        column = table.column(name)
        if name in words and (_is_date(column.type) or _is_whole(column.type)):
            column = column.cast("string")
        elif _is_date(column.type):
            column = _days(column)
            dates.add(name)
        columns[name] = _column(name, column, first)
    return Table(columns, table.num_rows, frozenset(dates), first)


def _check_types(table: pyarrow.Table) -> None:
    """Refuse columns, all at once, that hold neither numbers nor dates nor categories."""
    from pyarrow import types

    known = (
        types.is_null, types.is_integer, types.is_floating, types.is_decimal, types.is_dictionary, types.is_string,
        types.is_large_string, types.is_string_view, types.is_boolean, _is_date,
    )  # fmt: skip
    wrong = [field for field in table.schema if not any(of(field.type) for of in known)]
    if not wrong:
        return
    names = ", ".join(repr(field.name) for field in wrong)
    got = ", ".join(str(field.type) for field in wrong)
    text = " in UTF-8" if any(types.is_binary(field.type) for field in wrong) else ""  # PyArrow's of other text in CSV
    many = len(wrong) > 1
    raise ValueError(
        f"column{'s' * many} {names}: got {got}, expected numbers, dates, words{text} or truth values; "
        f"leave {'them' if many else 'it'} out"
    )


def _is_date(kind: pyarrow.DataType) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_temporal(kind)) and not pyarrow.types.is_interval(kind)


def _is_whole(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind) or (types.is_decimal(kind) and kind.scale == 0))


def _days(column: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    """Return days since 1970-01-01, or days, as float64."""
    import pyarrow
    from pyarrow import compute

    kind = column.type
    if pyarrow.types.is_date32(kind):
        return column.cast("int32").cast("float64")
    per_day = {"s": 86400, "ms": 86400_000, "us": 86400_000_000, "ns": 86400_000_000_000}
    unit = "ms" if pyarrow.types.is_date64(kind) else kind.unit
    whole = column.cast("int32" if pyarrow.types.is_time32(kind) else "int64")
    return compute.divide(whole.cast("float64", safe=False), float(per_day[unit]))


def _column(name: str, column: pyarrow.ChunkedArray, first: int) -> Column:
    """Return numbers, or categories for words, truth values and dictionaries."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _numbers(name, column.cast(pa.float64(), safe=False).to_numpy(), first)
    if not pa.types.is_dictionary(kind):
        if pa.types.is_string_view(kind):  # polars has these, which have no dictionary
            column = column.cast(pa.large_string())
        column = column.dictionary_encode()
    whole = column.unify_dictionaries().combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # of no rows
        return Categories(np.empty(0, np.int64), ())
    codes = whole.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    return _tidy(codes, whole.dictionary.to_pylist())


def _numbers(name: str, values: npt.NDArray[np.float64], first: int = 0) -> npt.NDArray[np.float64]:
    if np.isinf(values).any():
        row = int(np.isinf(values).argmax())
        raise ValueError(f"column {name!r}: got {values[row]} in row {first + row}, expected finite numbers")
    return values


def _tidy(codes: npt.NDArray[np.int64], values: list[Any]) -> Categories:
    """Return categories under names without blanks around them, each name once, missing ones left out."""
    names: dict[str, int] = {}
    places = np.full(len(values) + 1, -1, np.int64)
    for place, value in enumerate(values):
        if value is None or value != value or (name := str(value).strip()) in _ABSENT:
            continue
        places[place] = names.setdefault(name, len(names))
    return Categories(places[codes], tuple(names))


def _read_numbers(path: Path, layout: CsvLayout, columns: list[str]) -> Table:
    """Read a CSV file of numbers without pyarrow."""
    if found := _uneven(path, layout):  # NumPy looks at no other cells than those of the columns asked for
        raise ValueError(found)
    place = {name: number for number, name in enumerate(layout.names)}
    places = [place[name] for name in columns]
    with _text_errors(), _open_text(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "input contained no data"
        try:
            values = np.loadtxt(
                file, delimiter=layout.delimiter, skiprows=layout.lines, usecols=places, ndmin=2, comments=None,
                quotechar='"', converters=lambda cell: _number(cell, layout.point),
                encoding=None,  # before NumPy 2, converters else take bytes
            )  # fmt: skip
        except UnicodeDecodeError:
            raise
        except ValueError as error:
            what = str(error).partition(";")[0].rstrip(".")
            raise ValueError(f"{what}; {NEEDS_PYARROW}, which reads columns of words") from None
    rows = len(values)
    cells = values.T if rows else np.empty((len(columns), 0))
    return Table({name: _numbers(name, column) for name, column in zip(columns, cells, strict=True)}, rows)


def _number(cell: str, point: str) -> float:
    cell = cell.strip()
    return np.nan if cell in MISSING else float(with_point(cell, point))
