"""Parquet files, read a row group at a time and of it some rows at a time, with PyArrow."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from fastnn._errors import unknown_name
from fastnn.files import errors_with_path
from fastnn.packed import Version
from fastnn.tables import is_index

_READ_AHEAD = 16 << 20
"""Bytes of all columns together that are read at once, instead of a whole row group."""


class Columns(NamedTuple):
    """The columns of a table that are samples, target and weight."""

    features: list[str]
    target: str | list[str] | None
    weight: str | None


class ParquetGroups:
    """The row groups of some files with the same columns.

    Parameters
    ----------
    paths : sequence of str
    features : sequence of str or None
        None: all but target and weight, and but an index that pandas wrote.
    target, weight : str, list of str or None

    Raises
    ------
    ValueError
        For a column that is not there, or files with different columns.
    """

    def __init__(
        self, paths: Sequence[str], features: Sequence[str] | None, target: str | list[str] | None, weight: str | None
    ) -> None:
        self.paths = paths
        self._versions = [Version(path) for path in paths]
        self.metadata = [_metadata(path) for path in paths]
        schema = self.metadata[0].schema.to_arrow_schema()
        for path, other in zip(paths, self.metadata, strict=True):
            if not other.schema.to_arrow_schema().equals(schema):
                raise ValueError(f"data: got {path} with other columns than {paths[0]}, expected the same in all files")
        every = schema.names  # a list that PyArrow makes each time it is asked
        there = set(every)
        used = {*([target] if isinstance(target, str) else target or []), *([weight] if weight else [])}
        if features is None:
            features = [name for name in every if name not in used and not is_index(name)]
        for argument, names in (
            ("features", features),
            ("target", used - {weight}),
            ("sample_weight", used & {weight}),
        ):
            for name in names:
                if name not in there:
                    raise unknown_name(argument, name, every)
        self.columns = Columns(list(features), target, weight)
        self.bytes_ = all(str(schema.field(name).type) == "uint8" for name in features)
        self.groups = [
            (file, group, metadata.row_group(group).num_rows)
            for file, metadata in enumerate(self.metadata)
            for group in range(metadata.num_row_groups)
        ]

    def read(self, file: int, group: int, rows: int, with_x: bool, with_y: bool) -> Iterator[tuple[Any, Any, Any]]:
        """Yield (samples, target, weight) of at most `rows` rows each, None for what is not there or not wanted."""
        features, target, weight = self.columns
        wanted = [target] if isinstance(target, str) else list(target or [])
        wanted = (features if with_x else []) + ([*wanted, *([weight] if weight else [])] if with_y else [])
        with errors_with_path(self.paths[file]):
            self._versions[file].check()
            for batch in record_batches(self.paths[file], rows, wanted, self.metadata[file], [group]):
                x = batch.select(features) if with_x else None
                y = None
                if with_y and target is not None:
                    y = batch.column(target) if isinstance(target, str) else batch.select(target)
                yield x, y, batch.column(weight) if with_y and weight else None


def record_batches(
    path: str | os.PathLike[str],
    rows: int,
    columns: Sequence[str],
    metadata: Any = None,
    groups: Sequence[int] | None = None,
) -> Iterator[Any]:
    """Yield columns of a file, of some of its row groups where they are named, in PyArrow's batches of so many rows."""
    import pyarrow.parquet

    each = max(1 << 14, _READ_AHEAD // max(1, len(columns)))
    with pyarrow.parquet.ParquetFile(path, metadata=metadata, buffer_size=each, pre_buffer=False) as file:
        yield from file.iter_batches(rows, row_groups=groups, columns=columns, use_threads=False)


def _metadata(path: str) -> Any:
    import pyarrow.parquet

    with errors_with_path(path):
        metadata = pyarrow.parquet.read_metadata(path)
        metadata.schema.to_arrow_schema()
        for group in range(metadata.num_row_groups):
            if metadata.row_group(group).num_rows < 0:
                raise ValueError(f"row group {group} has {metadata.row_group(group).num_rows} rows")
        return metadata


def parquet_files(path: str) -> list[str]:
    """Return the Parquet files of a folder, by name; a file is itself."""
    if not os.path.isdir(path):
        return [path]
    names = sorted(name for name in os.listdir(path) if name.endswith(".parquet"))
    if not names:
        raise FileNotFoundError(f"data: got the folder {path} without a .parquet file, expected some")
    return [os.path.join(path, name) for name in names]
