"""Tables in files that are read some rows at a time, with PyArrow: the same cells as `read_table` gives, in batches."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fastnn.parquet import record_batches
from fastnn.tables import (
    NEEDS_PYARROW,
    CsvLayout,
    Table,
    TablePath,
    arrow_errors,
    as_categories,
    csv_errors,
    csv_options,
    is_packed,
    is_parquet,
    table_file,
    table_of_arrow,
    ungrouped,
    unpacked,
)

BATCH_CELLS, BATCH_ROWS = 1 << 20, 1 << 16
"""A batch of a Parquet file has so many at most; one of a CSV file has what a MB of text holds."""

_PACKED = 4
"""A packed CSV file is taken for so many times its size, as unpacking alone would tell."""


class Visitor(Protocol):
    """What looks at every batch of a table."""

    def add(self, table: Table) -> None:
        """Take in a batch."""


_CHANGED = "got a file that changed while it was read, expected it to stay as it is"

V = TypeVar("V", bound=Visitor)


class _TypesChanged(ValueError):
    """The cells of a CSV file are of another type than those before them."""


class BatchedTable:
    """The columns of a CSV or Parquet file, in batches; the parameters are those of `read_table`.

    What type a CSV file's column is of, its last cell may decide: `visit` must have read the file before `batches`
    gives what `read_table` would.

    Raises
    ------
    ImportError
        If PyArrow is not installed.
    ValueError, OSError
        As `read_table`; what the cells hold shows when they are read.
    """

    def __init__(self, path: TablePath, columns: Sequence[str] | None = None, words: Collection[str] = ()) -> None:
        if importlib.util.find_spec("pyarrow") is None:
            raise ImportError(NEEDS_PYARROW)
        import pyarrow

        self._file, self.words = table_file(path), frozenset(words)
        self.columns = self._file.wanted(columns)
        self._types: dict[str, Any] = {name: pyarrow.string() for name in self.words}
        self._grouped = set(self.columns) - self.words if self.point != "." else set()
        """Columns that are numbers where PyArrow, which knows no marks between thousands, takes them for words."""

    @property
    def point(self) -> str:
        """How its numbers are written, see `fastnn.tables.POINTS`."""
        return self._file.point

    def visit(self, make: Callable[[], V]) -> V:
        """Show every batch to a visitor and return it; a column found to be of another type begins with a new one."""
        while True:
            visitor = make()
            try:
                for batch in self.batches():
                    visitor.add(batch)
            except _TypesChanged:
                continue
            return visitor

    def batches(self) -> Iterator[Table]:
        """Yield the rows in their order."""
        import pyarrow

        first = 0
        layout = self._file.layout
        for batch in self._parquet() if layout is None else self._csv(layout):
            whole = pyarrow.Table.from_batches([batch]).select(self.columns)
            cells, others = ungrouped(whole, self._grouped, self.point)
            if others:
                self._grouped.difference_update(others)
                raise _TypesChanged(_CHANGED)
            table = table_of_arrow(cells, self.words, first)
            typed = {name: as_categories(c) if name in self.words else c for name, c in table.columns.items()}
            if table.rows:
                yield Table(typed, table.rows, table.dates, first, point=self.point)
            first += table.rows

    def _parquet(self) -> Iterator[Any]:
        rows = max(1, min(BATCH_ROWS, BATCH_CELLS // max(1, len(self.columns))))
        with arrow_errors():
            yield from record_batches(self._file.path, rows, self.columns)

    def _csv(self, layout: CsvLayout) -> Iterator[Any]:
        """Yield batches of the types that are known; of others the first batch decides."""
        import pyarrow.csv

        options = csv_options(layout, self.columns, self._types)
        with csv_errors(self._file.path, layout):
            try:
                with pyarrow.csv.open_csv(unpacked(self._file.path), *options) as reader:
                    self._types = dict(zip(reader.schema.names, reader.schema.types, strict=True))
                    yield from reader
            except pyarrow.ArrowInvalid as error:
                self._loosen(layout.names, str(error))
                raise

    def _loosen(self, names: Sequence[str], message: str) -> None:
        """Take the next type for the column that PyArrow could not convert, in its own order of trying them."""
        import pyarrow as pa

        found = re.match(r"In CSV column #(\d+): CSV conversion error", message)
        name = names[int(found[1])] if found else ""
        kinds = [pa.null(), pa.int64(), pa.date32(), pa.time32("s"), pa.timestamp("s"), pa.timestamp("ns")]
        kinds += [pa.timestamp("s", "UTC"), pa.timestamp("ns", "UTC"), pa.float64(), pa.string()]
        kind = self._types.get(name)
        if kind in kinds[:-1]:
            self._types[name] = kinds[kinds.index(kind) + 1]
            raise _TypesChanged(_CHANGED)


def table_bytes(path: str | os.PathLike[str]) -> int:
    """Return about how much of memory a table takes as it is read, from what is known without reading it."""
    place = Path(path)
    size = place.stat().st_size
    if not is_parquet(place):
        return size * (_PACKED if is_packed(place) else 1)
    import pyarrow.parquet

    with arrow_errors():
        metadata = pyarrow.parquet.read_metadata(place)
    groups = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    return max(size, groups, 8 * metadata.num_rows * metadata.num_columns)
