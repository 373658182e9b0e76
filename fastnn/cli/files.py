"""Rows from files: tables, arrays, images, numbers as text. What a file is, its first bytes say."""

from __future__ import annotations

import gzip
import sys
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastnn.batches import BatchedTable, table_bytes
from fastnn.datasets import load_idx, load_idx_dir
from fastnn.preparation import Classes, Numeric, Preparation, unseen_text, without_words
from fastnn.tables import Categories, Column, Table, TableFile, is_missing, read_table, table_file

Array = npt.NDArray[Any]

EXAMPLES = 10
"""So many categories without an input are named."""

STREAM_FROM = 1024
"""Tables of so many MB or more are read in batches, where the user says nothing."""

_KINDS = {"folder": "a folder", "idx": "IDX", "npz": ".npz", "npy": ".npy"}


class Rows(NamedTuple):
    """Rows with what is known of them: the inputs as a table or an array, the targets as columns of their own."""

    x: Table | Array
    y: Table


def kind_of(path: str) -> str:
    """Return "folder", "idx", "npz", "npy" or "table" (CSV, Parquet, and text of any kind).

    Raises
    ------
    ValueError
        For a pipe, or - for one, whose rows are gone once they are read; for a zip archive that is no .npz.
    """
    place = Path(path)
    if (path == "-" and not place.exists()) or place.is_fifo() or place.is_char_device() or place.is_socket():
        raise ValueError("got a pipe, expected a file, which is read more than once")
    if place.is_dir():
        return "folder"
    with open(path, "rb") as file:
        start = file.read(6)
    if start.startswith(b"\x1f\x8b"):
        try:
            with gzip.open(path) as unpacked:
                start = unpacked.read(2)
        except (OSError, EOFError):
            return "idx"  # whose reader says what is wrong with the file
    if start.startswith(b"\0\0"):
        return "idx"
    if start.startswith(b"PK"):
        _check_npz(path)
        return "npz"
    return "npy" if start == b"\x93NUMPY" else "table"


def _check_npz(path: str) -> None:
    """Refuse a zip archive without arrays; one that is damaged its reader refuses."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return
    if names and not any(name.endswith(".npy") for name in names):
        what = "a spreadsheet" if any(name.startswith("xl/") for name in names) else "a zip archive"
        raise ValueError(f"got {what}, expected CSV (plain or .gz), Parquet or .npz")


def target_table(name: str, values: Array) -> Table:
    """Return an array of targets as a table: one column, or one for each column of the array."""
    if values.ndim not in (1, 2):
        raise ValueError(f"got {name!r} of shape {values.shape}, expected a target for each row")
    if values.ndim == 2 and values.shape[1] > 1:
        return Table({f"{name}[{i}]": _column(name, values[:, i]) for i in range(values.shape[1])}, len(values))
    return Table({name: _column(name, values.reshape(-1))}, len(values))


def _column(name: str, values: Array) -> Column:
    if values.dtype.kind in "biuf":
        return values.astype(np.float64)
    if values.dtype.kind in "US":
        names, codes = np.unique(values.astype(str), return_inverse=True)
        return Categories(codes.astype(np.int64), tuple(map(str, names)))
    raise ValueError(f"got {name!r} of dtype {values.dtype}, expected numbers or words")


def read_pair(path: str, target: str | None, part: int = 0) -> Rows:
    """Read arrays of inputs and targets.

    Parameters
    ----------
    path : str
        A folder of IDX files, an IDX file or an .npz file.
    target : str or None
        The array of the targets in an .npz file (None: y), or the IDX file of the labels.
    part : int
        0 for the training files of a folder, 1 for the others.
    """
    kind = kind_of(path)
    if kind == "folder":
        arrays = load_idx_dir(path)
        return Rows(_finite(arrays[2 * part]), target_table("label", arrays[2 * part + 1]))
    if kind == "idx":
        if target is None:
            raise ValueError("got images alone, expected the IDX file of their labels as --target")
        x, y = load_idx(path), target_table("label", load_idx(target))
    else:
        x, y = _read_npz_pair(path, target or "y")
    if x.ndim == 0 or len(x) != len(y):
        raise ValueError(f"got inputs of shape {x.shape} and {len(y)} targets, expected a target for each row")
    if x.dtype.kind not in "biuf":
        raise ValueError(f"got inputs of dtype {x.dtype}, expected numbers")
    if not x.size:
        raise ValueError(f"got inputs of shape {x.shape}, expected numbers in rows")
    return Rows(_finite(x.reshape(len(x), -1)), y)


def _finite(x: Array) -> Array:
    if not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0]
        raise ValueError(f"got {x[row, column]} in row {row}, column {column} of the inputs, expected finite numbers")
    return x


def _read_npz_pair(path: str, target: str) -> tuple[Array, Table]:
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
        names = list(arrays)
        if target not in names:
            raise ValueError(f"got arrays {', '.join(names) or 'none'}, expected the targets in one named {target}")
        others = [name for name in names if name != target]
        if "x" not in others and len(others) != 1:
            raise ValueError(f"got arrays {', '.join(names)}, expected the inputs in one named x")
        x: Array = arrays["x" if "x" in others else others[0]]
        return x, target_table(target, arrays[target])


def with_target(table: Table, targets: Sequence[str]) -> Table:
    """Return the rows that have a target."""
    without = np.zeros(len(table), bool)
    for target in targets:
        without |= is_missing(table.column(target))
    return table[~without] if without.any() else table


def without_target(rows: int, targets: Sequence[str]) -> str:
    """Say that rows have no target."""
    return f"{rows:,} rows without {' or '.join(map(repr, targets))} are left out"


def is_large(path: str, stream_from: int | None) -> bool:
    """Whether a file is a table of so many MB or more, as far as can be told without reading it."""
    least = STREAM_FROM if stream_from is None else stream_from
    return kind_of(path) == "table" and table_bytes(path) >= least << 20


def read_columns(path: str, columns: Sequence[str], words: Sequence[str], point: str) -> Table:
    """Read those columns of a table that are there, some as categories whatever their cells hold.

    `point` is how numbers were written in training, for a file that does not say.
    """
    file, wanted = columns_there(path, columns, point)
    return read_table(file, wanted, [name for name in words if name in wanted])


def columns_there(path: str, columns: Sequence[str], point: str) -> tuple[TableFile, list[str]]:
    """Return a table's file, and those of the columns that it has."""
    if (kind := kind_of(path)) != "table":
        raise ValueError(f"got {_KINDS[kind]}, expected a table, CSV or Parquet, as the model was trained on one")
    file = table_file(path, point)
    there = set(file.names)
    return file, [name for name in columns if name in there]


def words_of(preparation: Preparation) -> list[str]:
    """Return the columns that were categories in training, the target among them where its classes are words."""
    words = [column.name for column in preparation.columns if column.kind == "categorical"]
    target = preparation.target
    if isinstance(target, Classes) and isinstance(target.classes[0], str):
        words.append(target.name)
    return words


def read_samples(
    path: str, preparation: Preparation | None, inputs: int, dtype: npt.DTypeLike
) -> tuple[Array, dict[str, Any]]:
    """Read what a model predicts from: a table where it was trained on one, else an array of numbers.

    Returns
    -------
    ndarray, shape (rows, inputs)
        The samples.
    dict
        What `unseen_of` says.
    """
    if preparation is not None and preparation.columns:
        names = [column.name for column in preparation.columns]
        table = read_columns(path, names, words_of(preparation), preparation.point)
        if not len(table):
            raise ValueError("got no rows, expected some")
        return preparation.transform(table, dtype, warn=False), unseen_of(preparation, table)
    rows = _read_array(path)
    if rows.ndim == 1 and inputs == 1:  # samples of one input, as `read_pair` takes them
        rows = rows.reshape(-1, 1)
    elif rows.ndim and rows.size == inputs and len(rows) == rows.size:  # one sample, without an axis for rows
        rows = rows.reshape(1, -1)
    return rows, {}


def unseen_of(preparation: Preparation, table: Table) -> dict[str, Any]:
    """Return the columns with categories that have no input: the rows that hold one, and some of them."""
    return {
        name: {"rows": rows, "categories": list(names[:EXAMPLES])}
        for name, (rows, names) in preparation.unseen(table).items()
    }


class Unseen:
    """What `unseen_of` says of all batches, and how many rows there are.

    Parameters
    ----------
    preparation : Preparation
    targets : sequence of str
        Rows without one of these are left out.
    """

    def __init__(self, preparation: Preparation, targets: Sequence[str] = ()) -> None:
        self.preparation, self.targets = preparation, targets
        self.every = self.rows = 0
        self.columns: dict[str, Any] = {}

    def add(self, table: Table) -> None:
        """Take in a batch."""
        if not self.every:
            self.preparation.transform(table[np.arange(1)], warn=False)  # says which columns are lacking
        self.every += len(table)
        table = with_target(table, self.targets)
        for part in self.preparation.columns:
            if isinstance(part, Numeric):
                without_words(part.name, table, f"{part.what}, as in training", part.dates)
        self.rows += len(table)
        for name, (rows, names) in self.preparation.unseen(table).items():
            found = self.columns.setdefault(name, {"rows": 0, "categories": []})
            found["rows"] += rows
            new = [word for word in names if word not in found["categories"]]
            found["categories"] += new[: EXAMPLES - len(found["categories"])]


def write_npy_header(file: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Write what stands in a .npy file before the numbers."""
    described = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(file, {"descr": described, "fortran_order": False, "shape": shape})


def open_batches(
    path: str, preparation: Preparation, columns: Sequence[str], targets: Sequence[str] = ()
) -> tuple[BatchedTable, Unseen]:
    """Return those of the columns that a table has, to be read in batches, and what is to be said of them."""
    file, wanted = columns_there(path, columns, preparation.point)
    table = BatchedTable(file, wanted, [name for name in words_of(preparation) if name in wanted])
    return table, table.visit(lambda: Unseen(preparation, targets))


def warn_unseen(unseen: dict[str, Any], rows: int) -> None:
    """Say on stderr, a line a column, which categories have no input."""
    for name, found in unseen.items():
        print(f"fastnn: {unseen_text(name, found['rows'], rows, found['categories'])}", file=sys.stderr)


def _read_array(path: str) -> Array:
    kind = kind_of(path)
    if kind == "idx":
        return load_idx(path)
    if kind == "npz":
        return _read_npz(path)
    if kind == "npy":
        rows: Array = np.load(path, allow_pickle=False)
        return rows
    return _read_text(path)


def _read_npz(path: str) -> Array:
    """Return the only array of an .npz file, or the one named x."""
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
        names = list(arrays)
        if "x" not in names and len(names) != 1:
            raise ValueError(f"got arrays {', '.join(names) or 'none'}, expected one, or one named x")
        rows: Array = arrays["x" if "x" in names else names[0]]
    return rows


def _read_text(path: str) -> Array:
    """Read numbers split by commas, semicolons or blanks; a first line that holds no number is a header."""
    with open(path, encoding="utf-8-sig") as file:
        first = file.readline()
        delimiter = "," if "," in first else ";" if ";" in first else None
        header = not any(_is_number(cell) for cell in first.split(delimiter))
        if not header:
            file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "input contained no data"
            try:
                rows = np.loadtxt(file, delimiter=delimiter, ndmin=2, comments=None)
            except UnicodeDecodeError:
                raise
            except ValueError as error:
                raise ValueError(f"{str(error).partition(';')[0].rstrip('.')}, expected rows of numbers") from None
    if not rows.size:
        raise ValueError("got no numbers, expected rows of them")
    return rows


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
