"""Tables read in batches: the same cells as all at once, whatever their last cell is."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from fastnn import batches
from fastnn.batches import BatchedTable, table_bytes
from fastnn.preparation import Categorical, Moments, category_counts, mean_and_spread
from fastnn.tables import Categories, is_missing, read_table

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

ROWS = 60_000
"""Each takes some 30 bytes: PyArrow reads a MB at a time, and a type that changes in the last row changes late."""


class Joined:
    """A visitor that keeps all: every column's values as Python objects."""

    def __init__(self):
        self.cells, self.rows, self.batches, self.dates = {}, 0, 0, frozenset()

    def add(self, table):
        assert table.first == self.rows
        for name, column in table.columns.items():
            self.cells.setdefault(name, []).extend(values(column))
        self.rows, self.batches, self.dates = self.rows + len(table), self.batches + 1, self.dates | table.dates


def values(column):
    """Return a column's cells, None for those that are missing."""
    cells = np.array([*column.names, None])[column.codes] if isinstance(column, Categories) else column
    return np.where(is_missing(column), None, cells).tolist()


def check(path, columns=None, words=()):
    """Compare both ways of reading; returns how many batches there were."""
    whole, joined = read_table(path, columns, words), BatchedTable(path, columns, words).visit(Joined)
    assert joined.rows == len(whole)
    assert list(joined.cells) == list(whole.columns)
    for name in whole.columns:
        assert joined.cells[name] == values(whole.columns[name]), name
    assert joined.dates == whole.dates
    return joined.batches


LAST = {
    "3": "int", "3.5": "float", "99999999999999999999": "wide", "x": "word", "": "none", "NA": "none", " 7 ": "blanks",
}  # fmt: skip


@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize("start", ["12", "", "1.25", "w"])
def test_the_last_cell_decides_about_a_column(tmp_path, start, last):
    lines = [f"{i},{start},abcdefghijklmnopqrst" for i in range(ROWS)]
    (tmp_path / "t.csv").write_text("\n".join(["i,late,w", *lines, f"1,{last},b"]) + "\n")
    assert check(tmp_path / "t.csv") > 1
    check(tmp_path / "t.csv", ["w", "late"])
    check(tmp_path / "t.csv", ["late", "i"], ["i"])


@pytest.mark.parametrize(
    ("start", "last"),
    [
        ("2024-05-06", "2024-05-06 10:00:00"),
        ("2024-05-06", "2024-05-06 10:00:00.25"),
        ("2024-05-06 10:00:00", "2024-05-06T10:00:00Z"),
        ("2024-05-06T10:00:00Z", "2024-05-06T10:00:00.5+02:00"),
        ("2024-05-06", "5"),
        ("10:00:00", "2024-05-06"),
        ("", "10:00:00"),
        ("", "2024-05-06T10:00:00Z"),
    ],
)
def test_the_last_date_decides_about_a_column(tmp_path, start, last):
    lines = [f"{i},{start},abcdefghijklmnopqrst" for i in range(ROWS)]
    (tmp_path / "t.csv").write_text("\n".join(["i,late,w", *lines, f"1,{last},b"]) + "\n")
    assert check(tmp_path / "t.csv") > 1


def test_several_columns_change_late(tmp_path):
    lines = [f"{i};1;2;;abcdefghijklmnopqrst" for i in range(ROWS)]
    lines[-3:-3] = ["1;1;2.5;;a", "1;zz;2;;b", "1;1;2;2024-05-06;c", '1;1;"x\ny";"?";" c "']
    with gzip.open(tmp_path / "t.csv.gz", "wt") as file:
        file.write("\n".join(["i;a;b;c;w", *lines]) + "\n")
    assert check(tmp_path / "t.csv.gz") > 1


def test_parquet(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "BATCH_ROWS", 70)
    rng = np.random.default_rng(0)
    there = rng.random(1000) > 0.1
    table = pa.table({
        "n": pa.array(rng.normal(size=1000), mask=~there),
        "zip": pa.array(rng.integers(0, 9, 1000), mask=~there),
        "w": pa.array(rng.choice(["a", "b ", "NA"], 1000)).dictionary_encode(),
        "t": pa.array(rng.random(1000) > 0.5),
        "day": pa.array(rng.integers(0, 9999, 1000).astype("int32"), pa.date32()),
    })  # fmt: skip
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=300)
    assert check(tmp_path / "t.parquet") > 14
    check(tmp_path / "t.parquet", ["day", "w", "zip"], ["zip", "day"])


@pytest.mark.parametrize("text", ["a,b\n", "a,b\n1,2\n", "\n\na,b\n\n1,x\n"])
def test_tables_of_few_rows(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    whole, joined = read_table(tmp_path / "t.csv"), BatchedTable(tmp_path / "t.csv").visit(Joined)
    assert joined.rows == len(whole)
    assert joined.cells == ({name: values(whole.columns[name]) for name in "ab"} if len(whole) else {})


def test_errors_are_those_of_a_whole_table_with_the_row_in_the_file(tmp_path):
    lines = [f"{i},1,abcdefghijklmnopqrst" for i in range(ROWS)]
    for last, message in (("1,inf,c", f"column 'b': got inf in row {ROWS}, expected finite numbers"),):
        (tmp_path / "t.csv").write_text("\n".join(["a,b,c", *lines, last]) + "\n")
        for read in (read_table, lambda path: BatchedTable(path).visit(Joined)):
            with pytest.raises(ValueError, match=message):
                read(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("\n".join(["a,b,c", *lines, "1,2"]) + "\n")
    with pytest.raises(ValueError, match="got 2 cells in line 60002, '1,2', expected 3"):
        BatchedTable(tmp_path / "t.csv").visit(Joined)
    with pytest.raises(ValueError, match="column: got 'd', expected"):
        BatchedTable(tmp_path / "t.csv", ["d"])
    (tmp_path / "t.csv").write_bytes(b"a\n" + b"w\n" * ROWS + b"\xff\n")
    with pytest.raises(ValueError, match=r"^got bytes that are no text, expected CSV in UTF-8"):
        BatchedTable(tmp_path / "t.csv", words=["a"]).visit(Joined)


def test_without_pyarrow(tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text("a\n1\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pyarrow is not installed"):
        BatchedTable(tmp_path / "t.csv")


def test_bytes_of_a_table(tmp_path):
    (tmp_path / "t.csv").write_text("a\n" + "1\n" * 999)
    assert table_bytes(tmp_path / "t.csv") == 2000
    with gzip.open(tmp_path / "t.csv.gz", "wt") as file:
        file.write("a\n" + "1\n" * 999)
    assert table_bytes(tmp_path / "t.csv.gz") == 4 * (tmp_path / "t.csv.gz").stat().st_size
    parquet.write_table(pa.table({"a": np.zeros(9999), "b": np.zeros(9999)}), tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < 9999
    assert table_bytes(tmp_path / "t.parquet") == 2 * 8 * 9999


@pytest.mark.parametrize(("mean", "spread"), [(0, 1), (1e9, 1), (-1e6, 1e-3), (3, 0)])
def test_moments_are_those_of_all_values(mean, spread):
    rng = np.random.default_rng(0)
    every = mean + spread * rng.normal(size=10_000)
    moments = Moments()
    for part in np.split(every, [1, 1, 8, 5000, 9999]):
        moments.add(part)
    assert moments.mean_and_spread() == pytest.approx(mean_and_spread(every), rel=1e-12, abs=1e-15)
    assert moments.count == 10_000


def test_categories_of_counts():
    codes = np.array([0, 2, 2, -1, 1, 3, 3, 0])
    column = Categories(codes, ("d", "c", "b", "a", "unused"))
    counts = category_counts(column)
    assert counts == {"d": 2, "c": 1, "b": 2, "a": 2}
    assert Categorical.of_counts("x", counts, True, 3) == Categorical("x", ("a", "b", "d"), True)
    assert Categorical.fit("x", column, 3) == Categorical("x", ("a", "b", "d"), True)
